//! Function calls: overloads of the signature table, conditional expressions, aggregates.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{
    self, DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause,
    FunctionArguments, OrderByExpr,
};
use sqlparser::tokenizer::Location;

use crate::functions::{self, CastContext, Class};
use crate::types::PgType;

use super::Analyzer;
use super::expression::name_place;
use super::names;
use super::operators::choose;
use super::typed::{Typed, order_of};

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
    pub(super) fn whole_row(&self, expr: &Expr) -> Option<Typed> {
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

    /// 42883 in PostgreSQL's words; 0A000 for a function that PostgreSQL has.
    pub(crate) fn no_function(&self, name: &str, args: &[Typed], place: Location) -> SqlError {
        if functions::postgresql::is_lacking(name, args.len()) {
            return self.at(SqlError::unsupported(format_args!("{name}() here")), place);
        }
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

/// SQLite's max() and min() answer NULL if one of the values is; PostgreSQL passes over them.
fn greatest(ty: &PgType, texts: &[String], greatest: bool) -> String {
    let compare = if greatest { ">=" } else { "<=" };
    let mut texts = texts.iter();
    let mut best = texts.next().cloned().unwrap_or_else(|| "NULL".to_owned());
    for text in texts {
        let (a, b) = (order_of(ty, &best), order_of(ty, text));
        best =
            format!("(CASE WHEN {text} IS NULL OR {a} {compare} {b} THEN {best} ELSE {text} END)");
    }
    best
}
