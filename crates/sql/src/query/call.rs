//! Function calls: overloads of the signature table, conditional expressions, aggregates.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{
    self, DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause,
    FunctionArguments, OrderByExpr,
};
use sqlparser::tokenizer::Location;

use crate::functions::{self, CastContext, Class, Emit};
use crate::types::PgType;

use super::Analyzer;
use super::expression::name_place;
use super::names;
use super::operators::choose;
use super::typed::{Node, Typed, key_of};

/// A call's parts, as far as the grammar tells them.
pub(crate) struct Call<'a> {
    pub(crate) name: String,
    pub(crate) place: Location,
    pub(crate) args: Vec<&'a Expr>,
    /// `f(*)`.
    pub(crate) star: bool,
    /// Without parentheses, as CURRENT_DATE.
    pub(crate) bare: bool,
    /// `ARRAY(SELECT …)`.
    pub(crate) subquery: Option<&'a ast::Query>,
    pub(crate) distinct: bool,
    /// `WITHIN GROUP (ORDER BY …)`.
    pub(crate) within_group: &'a [OrderByExpr],
    pub(crate) order_by: &'a [OrderByExpr],
    pub(crate) filter: Option<&'a Expr>,
    pub(crate) over: Option<&'a ast::WindowType>,
}

impl<'a> Call<'a> {
    fn new(function: &'a Function) -> Result<Call<'a>, SqlError> {
        let (schema, mut name) = names::schema_and_name(&function.name)?;
        if schema.as_deref() == Some("auth") {
            name.insert_str(0, "auth.");
        } else if schema
            .as_deref()
            .is_some_and(|schema| !matches!(schema, "pg_catalog" | "public" | "information_schema"))
        {
            return Err(SqlError::new(
                ErrorCode::UndefinedFunction,
                format!("function {} does not exist", function.name),
            ));
        }
        if function.null_treatment.is_some() {
            return Err(SqlError::unsupported("IGNORE NULLS"));
        }
        let mut call = Call {
            name,
            place: name_place(&function.name),
            args: Vec::new(),
            star: false,
            bare: false,
            subquery: None,
            distinct: false,
            within_group: &function.within_group,
            order_by: &[],
            filter: function.filter.as_deref(),
            over: function.over.as_ref(),
        };
        let list = match &function.args {
            FunctionArguments::None => {
                call.bare = true;
                return Ok(call);
            }
            FunctionArguments::Subquery(query) if call.name == "array" => {
                call.subquery = Some(query);
                return Ok(call);
            }
            FunctionArguments::Subquery(_) => {
                return Err(SqlError::unsupported(format_args!(
                    "{} of a bare subquery",
                    call.name
                )));
            }
            FunctionArguments::List(list) => list,
        };
        call.distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
        for clause in &list.clauses {
            match clause {
                FunctionArgumentClause::OrderBy(order_by) => call.order_by = order_by,
                other => {
                    return Err(SqlError::unsupported(format_args!(
                        "{other} in a call of {}",
                        call.name
                    )));
                }
            }
        }
        for arg in &list.args {
            match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => call.args.push(expr),
                FunctionArg::Unnamed(FunctionArgExpr::Wildcard) => call.star = true,
                // count(t.*) counts rows, as far as there is no row of NULLs alone.
                _ => {
                    return Err(SqlError::unsupported(format_args!(
                        "the argument {arg} of {}",
                        call.name
                    )));
                }
            }
        }
        Ok(call)
    }

    fn is_plain(&self) -> bool {
        !self.star
            && !self.distinct
            && self.within_group.is_empty()
            && self.order_by.is_empty()
            && self.filter.is_none()
            && self.over.is_none()
    }
}

impl Analyzer<'_> {
    /// A call of any kind.
    pub(crate) fn function(&mut self, function: &Function) -> Result<Typed, SqlError> {
        if let Some((_, column)) = self.scope().sets.iter().find(|(set, _)| set == function) {
            return Ok(column.typed().placed(name_place(&function.name)));
        }
        if self.is_routine(&function.name, false) && !is_builtin(&function.name) {
            return self.routine_call(function);
        }
        let call = Call::new(function)?;
        if let Some(query) = call.subquery {
            return self.array_subquery(query);
        }
        if call.is_plain()
            && let Some(value) = self.special_call(&call)?
        {
            return Ok(value.placed(call.place));
        }
        if matches!(call.name.as_str(), "row_to_json" | "to_json" | "to_jsonb")
            && call.is_plain()
            && let [arg] = call.args.as_slice()
            && let Some(row) = self.whole_row(arg)
        {
            let ty = if call.name == "to_jsonb" {
                PgType::Jsonb
            } else {
                PgType::Json
            };
            return Ok(self
                .converted(&row, &ty, CastContext::Explicit)?
                .placed(call.place));
        }
        let overloads = functions::signatures(&call.name);
        let class = overloads.first().map(|signature| signature.class);
        match class {
            Some(Class::Aggregate | Class::Window) => self.aggregate(&call),
            Some(Class::SetReturning) => Err(self.at(
                SqlError::unsupported(format_args!("{} outside FROM", call.name)),
                call.place,
            )),
            _ if call.is_plain() => {
                let args = call
                    .args
                    .iter()
                    .map(|arg| self.expression(arg))
                    .collect::<Result<Vec<_>, _>>()?;
                self.call_named(&call.name, &args, call.place)
            }
            Some(_) => Err(self.at(
                SqlError::new(
                    ErrorCode::WrongObjectType,
                    format!("{} is not an aggregate function", call.name),
                ),
                call.place,
            )),
            None => {
                let args = call
                    .args
                    .iter()
                    .map(|arg| self.expression(arg))
                    .collect::<Result<Vec<_>, _>>()?;
                Err(self.no_function(&call.name, &args, call.place))
            }
        }
    }

    /// A FROM item's name as the argument of a function that makes JSON of rows: its columns as an
    /// object. `None` for every other expression.
    fn whole_row(&self, expr: &Expr) -> Option<Typed> {
        let Expr::Identifier(ident) = expr else {
            return None;
        };
        let name = names::fold(ident);
        let scope = self.scopes.iter().rev().find(|scope| {
            scope.columns.iter().any(|column| column.name == name)
                || scope
                    .relations
                    .iter()
                    .any(|relation| relation.alias == name)
        })?;
        let relation = scope
            .relations
            .iter()
            .find(|relation| relation.alias == name && !relation.is_scalar)?;
        if scope.columns.iter().any(|column| column.name == name) {
            return None;
        }
        let fields: Vec<String> = relation
            .columns
            .iter()
            .map(|column| {
                format!(
                    "{},{},{},{}",
                    names::quote_text(&column.name),
                    column.sql,
                    column.ty.at_run_time().0,
                    column.ty.at_run_time().1
                )
            })
            .collect();
        let row = format!("sh_row_to_json({})", fields.join(","));
        // A row that an outer join did not find is NULL.
        let key = relation.key.first().filter(|key| {
            relation
                .columns
                .iter()
                .any(|column| column.sql == **key && column.nullable)
        });
        Some(Typed::new(
            match key {
                Some(key) => format!("(CASE WHEN {key} IS NOT NULL THEN {row} END)"),
                None => row,
            },
            PgType::Json,
        ))
    }

    /// A call of a scalar function of the table, its arguments analyzed.
    pub(crate) fn call_named(
        &mut self,
        name: &str,
        args: &[Typed],
        place: Location,
    ) -> Result<Typed, SqlError> {
        let types: Vec<PgType> = args.iter().map(|arg| arg.ty.clone()).collect();
        match choose(functions::signatures(name), &types) {
            Some(choice) => self.apply(&choice, args, place),
            None => Err(self.no_function(name, args, place)),
        }
    }

    /// 42883 in PostgreSQL's words.
    pub(crate) fn no_function(&self, name: &str, args: &[Typed], place: Location) -> SqlError {
        let types: Vec<String> = args
            .iter()
            .map(|arg| arg.ty.base_name().into_owned())
            .collect();
        let error = SqlError::new(
            ErrorCode::UndefinedFunction,
            format!("function {name}({}) does not exist", types.join(", ")),
        )
        .with_hint(
            "No function matches the given name and argument types. You might need to add explicit type casts.",
        );
        self.at(error, place)
    }

    /// COALESCE, GREATEST and LEAST: one common type, then SQLite's own or a chain.
    pub(crate) fn coalesce(&mut self, call: &Call<'_>) -> Result<Typed, SqlError> {
        let construct = call.name.to_ascii_uppercase();
        let values = call
            .args
            .iter()
            .map(|arg| self.expression(arg))
            .collect::<Result<Vec<_>, _>>()?;
        if values.is_empty() {
            return Err(self.at(
                SqlError::new(ErrorCode::SyntaxError, "syntax error at or near \")\""),
                call.place,
            ));
        }
        let all: Vec<&Typed> = values.iter().collect();
        let ty = self.common_type_of(&construct, &all)?;
        let mut texts = Vec::with_capacity(values.len());
        for value in &values {
            texts.push(self.coerce(value, &ty, CastContext::Implicit)?);
        }
        let nullable = values.iter().all(|value| value.nullable);
        let sql = match (call.name.as_str(), texts.as_slice()) {
            (_, [only]) => only.clone(),
            ("coalesce", _) => format!("coalesce({})", texts.join(",")),
            (name, _) => greatest(&ty, &texts, name == "greatest"),
        };
        Ok(Typed {
            nullable,
            ..Typed::new(sql, ty)
        })
    }

    /// NULLIF: compared as by =, of the first one's type.
    pub(crate) fn nullif(&mut self, call: &Call<'_>) -> Result<Typed, SqlError> {
        let [left, right] = call.args.as_slice() else {
            return Err(self.at(
                SqlError::new(ErrorCode::SyntaxError, "NULLIF takes two arguments"),
                call.place,
            ));
        };
        let left = self.expression(left)?;
        let right = self.expression(right)?;
        let test = self.compare(&ast::BinaryOperator::Eq, &left, &right)?;
        let test = self.text(&test)?;
        let value = self.text(&left)?;
        Ok(Typed::new(
            format!("(CASE WHEN {test} THEN NULL ELSE {value} END)"),
            Self::settled(&left),
        ))
    }

    fn aggregate(&mut self, call: &Call<'_>) -> Result<Typed, SqlError> {
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
                Err(self.at(SqlError::new(ErrorCode::GroupingError, message), call.place))
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
        if call.distinct && matches!(call.name.as_str(), "array_agg" | "string_agg") {
            return self.distinct_list(call, &texts, &tail);
        }
        if call.distinct && texts.len() > 1 {
            let error = SqlError::unsupported(format_args!(
                "DISTINCT in {} with several arguments",
                call.name
            ));
            return Err(self.at(error, call.place));
        }
        if call.distinct && texts[0].1.key_function().is_some() {
            let what = texts[0].1.base_name().into_owned();
            let error = SqlError::unsupported(format_args!("{}(DISTINCT {what})", call.name));
            return Err(self.at(error, call.place));
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
            _ => None,
        };
        if let Some(user) = &by_place {
            texts[0].0 = user.labels().order(&texts[0].0);
        }
        let order_by = self.aggregate_order(call)?;
        let call_text = match choice.signature.emit {
            Emit::Call(name) => {
                let list: Vec<String> = texts.into_iter().map(|(text, _)| text).collect();
                format!("{name}({})", list.join(","))
            }
            Emit::Template(_) | Emit::System(_) => {
                choice.signature.render(&texts).ok_or_else(|| {
                    SqlError::unsupported(format_args!("the aggregate {}", call.name))
                })?
            }
            Emit::Planner => {
                return Err(self.at(
                    SqlError::unsupported(format_args!("the aggregate {}", call.name)),
                    call.place,
                ));
            }
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
        let is_list = call.name == "array_agg";
        let flags = i32::from(descending) + if is_list { 0 } else { 2 };
        let array = format!(
            "sh_array_distinct(sh_array_agg({value},{oid},{typmod}){tail},{oid},{typmod},{flags})"
        );
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

    /// `ARRAY(SELECT …)`.
    fn array_subquery(&mut self, query: &ast::Query) -> Result<Typed, SqlError> {
        let mut analyzed = self.subquery(query)?;
        analyzed.settle(self)?;
        let [element] = analyzed.types().try_into().map_err(|_| {
            SqlError::new(
                ErrorCode::SyntaxError,
                "subquery must return only one column",
            )
        })?;
        let (id, name) = (self.fresh('r'), analyzed.column_name(0));
        let sql = analyzed.into_sql(self)?;
        Ok(Typed::new(
            format!(
                "(SELECT coalesce(sh_array_agg({id}.{name},{},{}),'[]') FROM ({sql}) AS {id})",
                element.at_run_time().0,
                element.at_run_time().1
            ),
            element.array(),
        )
        .not_null())
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
            _ => key_of(&ty, &text),
        };
        Ok(format!("{text}{direction}"))
    }
}

/// Whether PostgreSQL has a function of that name itself: it is found first.
fn is_builtin(name: &ast::ObjectName) -> bool {
    match names::schema_and_name(name) {
        Ok((None, name)) => !functions::signatures(&name).is_empty(),
        Ok((Some(schema), _)) => schema == "pg_catalog",
        Err(_) => true,
    }
}

/// ASC, DESC and where NULLs go: PostgreSQL takes them for the greatest values.
pub(crate) fn direction(
    options: &ast::OrderByOptions,
    nullable: bool,
) -> Result<&'static str, SqlError> {
    use ast::OrderBySort;
    let descending = match &options.sort {
        None | Some(OrderBySort::Asc) => false,
        Some(OrderBySort::Desc) => true,
        Some(OrderBySort::Using(operator)) => match operator.to_string().as_str() {
            "<" => false,
            ">" => true,
            other => {
                return Err(SqlError::unsupported(format_args!(
                    "ORDER BY USING {other}"
                )));
            }
        },
    };
    Ok(
        match (
            descending,
            options.nulls_first.unwrap_or(descending),
            nullable,
        ) {
            (false, _, false) => "",
            (true, _, false) => " DESC",
            (false, false, true) => " NULLS LAST",
            (false, true, true) => "",
            (true, true, true) => " DESC NULLS FIRST",
            (true, false, true) => " DESC",
        },
    )
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

/// SQLite's max() and min() answer NULL if one of the values is; PostgreSQL passes over them.
fn greatest(ty: &PgType, texts: &[String], greatest: bool) -> String {
    let compare = if greatest { ">=" } else { "<=" };
    let mut texts = texts.iter();
    let mut best = texts.next().cloned().unwrap_or_else(|| "NULL".to_owned());
    for text in texts {
        let (a, b) = (key_of(ty, &best), key_of(ty, text));
        best =
            format!("(CASE WHEN {text} IS NULL OR {a} {compare} {b} THEN {best} ELSE {text} END)");
    }
    best
}
