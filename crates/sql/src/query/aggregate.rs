//! Calls of aggregates: DISTINCT, ORDER BY and FILTER inside, and where they may stand.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{self, OrderByExpr};

use crate::functions::{self, CastContext, Class, Emit, ROW_AS_JSON};
use crate::types::PgType;

use super::Analyzer;
use super::call::{Call, direction};
use super::operators::choose;
use super::typed::{Node, Typed, order_of};

impl Analyzer<'_> {
    pub(super) fn aggregate(&mut self, call: &Call<'_>) -> Result<Typed, SqlError> {
        let overloads = functions::signatures(&call.name);
        let is_window = overloads
            .first()
            .is_some_and(|signature| signature.class == Class::Window);
        if is_window && call.over.is_none() {
            let error = SqlError::new(
                ErrorCode::WrongObjectType,
                format!("window function {} requires an OVER clause", call.name),
            );
            return Err(self.at(error, call.place));
        }
        self.enter_aggregate(call)?;
        let result = self.aggregate_inside(call);
        let scope = self.scope();
        if call.over.is_some() {
            scope.in_window = false;
        } else {
            scope.in_aggregate = false;
        }
        result
    }

    fn enter_aggregate(&mut self, call: &Call<'_>) -> Result<(), SqlError> {
        let is_window = call.over.is_some();
        let scope = self.scope();
        let problem = if is_window {
            if let Some(place) = scope.windows_refused {
                Some(format!("window functions are not allowed in {place}"))
            } else if scope.in_window {
                Some("window function calls cannot be nested".to_owned())
            } else if scope.in_aggregate {
                Some("aggregate function calls cannot contain window function calls".to_owned())
            } else {
                None
            }
        } else if let Some(place) = scope.aggregates_refused {
            Some(format!("aggregate functions are not allowed in {place}"))
        } else if scope.in_aggregate {
            Some("aggregate function calls cannot be nested".to_owned())
        } else {
            None
        };
        if is_window {
            scope.has_windows = true;
            scope.in_window = true;
        } else {
            scope.has_aggregates = true;
            scope.in_aggregate = true;
        }
        match problem {
            None => Ok(()),
            Some(message) => {
                if is_window {
                    self.scope().in_window = false;
                } else {
                    self.scope().in_aggregate = false;
                }
                let code = if message.starts_with("window") {
                    ErrorCode::WindowingError
                } else {
                    ErrorCode::GroupingError
                };
                Err(self.at(SqlError::new(code, message), call.place))
            }
        }
    }

    fn aggregate_inside(&mut self, call: &Call<'_>) -> Result<Typed, SqlError> {
        let filter = call
            .filter
            .map(|filter| self.condition(filter, "FILTER"))
            .transpose()?;
        let mut tail = String::new();
        if let Some(filter) = filter {
            tail.push_str(&format!(" FILTER (WHERE {filter})"));
        }
        if let Some(over) = call.over {
            if call.distinct {
                let error = SqlError::unsupported("DISTINCT in a window function");
                return Err(self.at(error, call.place));
            }
            tail.push_str(&self.window(over)?);
        }
        if call.star {
            if call.name != "count" || !call.args.is_empty() {
                return Err(self.no_function(&format!("{}(*)", call.name), &[], call.place));
            }
            return Ok(Typed::new(format!("count(*){tail}"), PgType::Int8).not_null());
        }
        let takes_rows = matches!(call.name.as_str(), "json_agg" | "jsonb_agg");
        let has_rows = takes_rows && call.args.iter().any(|arg| self.whole_row(arg).is_some());
        let mut args = call
            .args
            .iter()
            .map(|arg| match self.whole_row(arg).filter(|_| takes_rows) {
                Some(row) => Ok(row),
                None => self.expression(arg),
            })
            .collect::<Result<Vec<_>, _>>()?;
        if let [term] = call.within_group {
            if term.options.sort.is_some() || term.options.nulls_first.is_some() {
                return Err(self.at(
                    SqlError::unsupported("WITHIN GROUP in descending order"),
                    call.place,
                ));
            }
            args.insert(0, self.expression(&term.expr)?);
        }
        if call.name == "count" {
            return self.count(call, &args, &tail);
        }
        let types: Vec<PgType> = args.iter().map(|arg| arg.ty.clone()).collect();
        let Some(choice) = choose(functions::signatures(&call.name), &types) else {
            return Err(self.no_function(&call.name, &args, call.place));
        };
        let mut texts = self.chosen_args(&choice, &args)?;
        if call.distinct && matches!(call.name.as_str(), "array_agg" | "string_agg" | "jsonb_agg") {
            return self.distinct_list(call, &texts, &tail);
        }
        if call.distinct {
            self.expect_one_call(call, &texts)?;
        }
        let arg_types: Vec<PgType> = texts.iter().map(|(_, ty)| ty.clone()).collect();
        let ty = choice
            .signature
            .result
            .resolve(&arg_types)
            .unwrap_or(PgType::Text);
        // Of an enum's values the least and the greatest are found by their places.
        let by_place = match (&ty, call.name.as_str()) {
            (PgType::Enum(user), "min" | "max") => Some(user.clone()),
            (PgType::Array(_), "min" | "max") => {
                return Err(self.refused_aggregate(call, " of arrays"));
            }
            _ => None,
        };
        if let Some(user) = &by_place {
            texts[0].0 = user.labels().order(&texts[0].0);
        }
        let order_by = self.aggregate_order(call)?;
        let call_text = match choice.signature.emit {
            // Printed as rows are, each on a line of its own.
            _ if has_rows => format!(
                "sh_{}({},{},{ROW_AS_JSON})",
                call.name,
                texts[0].0,
                PgType::Json.oid()
            ),
            Emit::Call(name) => {
                let list: Vec<String> = texts.into_iter().map(|(text, _)| text).collect();
                format!("{name}({})", list.join(","))
            }
            Emit::Template(_) | Emit::System(_) => {
                choice.signature.render(&texts).ok_or_else(|| {
                    SqlError::unsupported(format_args!("the aggregate {}", call.name))
                })?
            }
            Emit::Planner => return Err(self.refused_aggregate(call, "")),
        };
        let sql =
            insert_modifiers(&call_text, call.distinct, &order_by, &tail).ok_or_else(|| {
                SqlError::unsupported(format_args!("the aggregate {} in this form", call.name))
            })?;
        let sql = match by_place {
            Some(user) => user.labels().at(&sql),
            None => sql,
        };
        Ok(Typed::new(sql, ty))
    }

    fn refused_aggregate(&self, call: &Call<'_>, what: &str) -> SqlError {
        let error = SqlError::unsupported(format_args!("the aggregate {}{what}", call.name));
        self.at(error, call.place)
    }

    /// Refuses DISTINCT where SQLite's call has several arguments, or equal values differ in their bytes.
    fn expect_one_call(&self, call: &Call<'_>, texts: &[(String, PgType)]) -> Result<(), SqlError> {
        let error = if texts.len() > 1 {
            SqlError::unsupported(format_args!(
                "DISTINCT in {} with several arguments",
                call.name
            ))
        } else if call.name == "json_agg" {
            SqlError::unsupported("DISTINCT in json_agg")
        } else if texts[0].1.key_function().is_some() {
            let what = texts[0].1.base_name();
            SqlError::unsupported(format_args!("{}(DISTINCT {what})", call.name))
        } else {
            return Ok(());
        };
        Err(self.at(error, call.place))
    }

    /// `array_agg(DISTINCT x)` and `string_agg(DISTINCT x, s)`: SQLite has no DISTINCT for calls with
    /// several arguments, so the values are collected, then sorted and thinned out.
    fn distinct_list(
        &mut self,
        call: &Call<'_>,
        texts: &[(String, PgType)],
        tail: &str,
    ) -> Result<Typed, SqlError> {
        let (value, ty) = &texts[0];
        let refuse = |what: &str| {
            Err(SqlError::unsupported(format_args!(
                "{}(DISTINCT …) {what}",
                call.name
            )))
        };
        if ty.key_function().is_some() || matches!(ty, PgType::Enum(_)) {
            return refuse(&format!("of {}", ty.base_name()));
        }
        let descending = match call.order_by {
            [] => false,
            [term] => {
                let by = self.expression(&term.expr)?;
                if self.coerce(&by, ty, CastContext::Implicit)? != *value
                    || term.options.nulls_first.is_some()
                {
                    let error = SqlError::new(
                        ErrorCode::InvalidColumnReference,
                        "in an aggregate with DISTINCT, ORDER BY expressions must appear in argument list",
                    );
                    return Err(self.at(error, call.place));
                }
                matches!(term.options.sort, Some(ast::OrderBySort::Desc))
            }
            _ => return refuse("with several ORDER BY terms"),
        };
        let (oid, typmod) = (ty.at_run_time().0, ty.at_run_time().1);
        let is_list = call.name != "string_agg";
        let flags = i32::from(descending) + if is_list { 0 } else { 2 };
        let array = format!(
            "sh_array_distinct(sh_array_agg({value},{oid},{typmod}){tail},{oid},{typmod},{flags})"
        );
        if call.name == "jsonb_agg" {
            let (oid, typmod) = ty.clone().array().at_run_time();
            let json = format!("sh_to_jsonb(nullif({array},'[]'),{oid},{typmod})");
            return Ok(Typed::new(json, PgType::Jsonb));
        }
        if is_list {
            return Ok(Typed::new(array, ty.clone().array()));
        }
        let separator = &texts[1].0;
        if !separator.starts_with(['\'', '?']) {
            return refuse("with a separator that is no constant");
        }
        // Without a value other than NULL the answer is NULL, not the empty text.
        Ok(Typed::new(
            format!(
                "sh_array_to_string(nullif({array},'[]'),{separator},NULL,{},{typmod})",
                ty.clone().array().at_run_time().0
            ),
            PgType::Text,
        ))
    }

    fn count(&mut self, call: &Call<'_>, args: &[Typed], tail: &str) -> Result<Typed, SqlError> {
        let [arg] = args else {
            return Err(self.no_function(&call.name, args, call.place));
        };
        let distinct = if call.distinct { "DISTINCT " } else { "" };
        let text = if call.distinct {
            self.key_text(arg)?
        } else {
            self.text(arg)?
        };
        Ok(Typed::new(format!("count({distinct}{text}){tail}"), PgType::Int8).not_null())
    }

    fn aggregate_order(&mut self, call: &Call<'_>) -> Result<String, SqlError> {
        let mut terms = Vec::with_capacity(call.order_by.len());
        for term in call.order_by {
            terms.push(self.order_term(term)?);
        }
        Ok(terms.join(","))
    }

    /// One term of an ORDER BY that names no outputs: within an aggregate or a window.
    pub(crate) fn order_term(&mut self, term: &OrderByExpr) -> Result<String, SqlError> {
        let value = self.expression(&term.expr)?;
        let ty = Self::settled(&value);
        let text = self.text(&value)?;
        let direction = direction(&term.options, value.nullable)?;
        let text = match value.node {
            // SQLite would take a bare number for the place of an output.
            Node::Number(_) | Node::Null | Node::Literal(_) => format!("iif(1,{text},0)"),
            _ => order_of(&ty, &text),
        };
        Ok(format!("{text}{direction}"))
    }
}

/// Puts DISTINCT, ORDER BY and what follows into `name(args)`, which must be one call.
fn insert_modifiers(call: &str, distinct: bool, order_by: &str, tail: &str) -> Option<String> {
    let open = call.find('(')?;
    let is_call = call[..open]
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && closes_at_end(call, open);
    if !is_call {
        // A template around a call: nothing can be put inside.
        return (!distinct && order_by.is_empty() && tail.is_empty()).then(|| call.to_owned());
    }
    let inside = &call[open + 1..call.len() - 1];
    let distinct = if distinct { "DISTINCT " } else { "" };
    let order_by = if order_by.is_empty() {
        String::new()
    } else {
        format!(" ORDER BY {order_by}")
    };
    Some(format!(
        "{}({distinct}{inside}{order_by}){tail}",
        &call[..open]
    ))
}

/// Whether the parenthesis at `open` is closed by the text's last character.
fn closes_at_end(text: &str, open: usize) -> bool {
    let mut depth = 0usize;
    let mut quoted = false;
    for (at, byte) in text.bytes().enumerate().skip(open) {
        match byte {
            b'\'' => quoted = !quoted,
            b'(' if !quoted => depth += 1,
            b')' if !quoted => {
                depth -= 1;
                if depth == 0 {
                    return at + 1 == text.len();
                }
            }
            _ => {}
        }
    }
    false
}
