//! Calls of the catalog's own functions: written out where they are one query in SQL, else left to the
//! engine, which runs their programs.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{
    self, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, SelectItem, SetExpr,
    TableAlias,
};
use sqlparser::tokenizer::Location;

use crate::access::{Object, Use, decide};
use crate::catalog::{Language, Privilege, QualifiedName, Returns, Routine, Volatility};
use crate::functions::{self, CastContext};
use crate::types::PgType;

use super::Analyzer;
use super::expression::name_place;
use super::finder;
use super::from::{FromItem, aliased};
use super::names::{self, fold};
use super::scope::{Frame, Relation, Scope, ScopeColumn};
use super::table_function::{fields, ordinality_of};
use super::typed::Typed;

/// A routine and the arguments of a call, converted.
struct Bound {
    routine: std::sync::Arc<Routine>,
    args: Vec<String>,
}

/// An argument as it is written: its name, if it has one, and its value.
pub(super) type Given = (Option<String>, Typed);

impl Analyzer<'_> {
    /// Whether the catalog has a function of this name that can be meant.
    pub(crate) fn is_routine(&self, name: &ast::ObjectName, procedure: bool) -> bool {
        !self.catalog.routines.is_empty()
            && names::schema_and_name(name).is_ok_and(|(schema, name)| {
                let schema = schema.unwrap_or_else(|| QualifiedName::PUBLIC.to_owned());
                self.catalog
                    .routines_named(&schema, &name)
                    .iter()
                    .any(|routine| routine.procedure == procedure)
            })
    }

    /// A call of a function as a value.
    pub(crate) fn routine_call(&mut self, function: &Function) -> Result<Typed, SqlError> {
        let place = name_place(&function.name);
        let bound = self.bind(&function.name, arguments(function)?, false, place)?;
        match &bound.routine.returns {
            Returns::Trigger => Err(self.at(
                SqlError::new(
                    ErrorCode::FeatureNotSupported,
                    "trigger functions can only be called as triggers",
                ),
                place,
            )),
            Returns::Set(_) | Returns::Table(_) => Err(self.at(
                SqlError::unsupported(format_args!(
                    "the set-returning function {} outside FROM",
                    bound.routine.name.name
                )),
                place,
            )),
            Returns::Void => {
                let call = self.call_text(&bound, place)?;
                Ok(Typed::new(format!("coalesce({call},'')"), PgType::Void).placed(place))
            }
            Returns::Scalar(ty) => {
                let ty = ty.clone();
                if !bound.routine.definer
                    && let Some(inlined) = self.inlined(&bound, &ty, place)?
                {
                    return Ok(inlined.placed(place));
                }
                let call = self.call_text(&bound, place)?;
                Ok(Typed::new(call, ty.of_value()).placed(place))
            }
        }
    }

    /// A function in FROM.
    pub(crate) fn routine_in_from(
        &mut self,
        name: &ast::ObjectName,
        args: &[FunctionArg],
        ordinality: bool,
        alias: Option<&TableAlias>,
    ) -> Result<FromItem, SqlError> {
        let place = name_place(name);
        let bound = self.bind(name, args.to_vec(), false, place)?;
        let shown = bound.routine.name.name.clone();
        let column = |name: &str, ty: &PgType| ScopeColumn {
            name: name.to_owned(),
            sql: String::new(),
            ty: ty.of_value(),
            nullable: true,
            origin: None,
            used: None,
        };
        let (columns, is_scalar) = match &bound.routine.returns {
            Returns::Scalar(ty) | Returns::Set(ty) => {
                // A single column takes the alias's name.
                let name = alias.map_or_else(|| shown.clone(), |alias| fold(&alias.name));
                (vec![column(&name, ty)], true)
            }
            Returns::Void => (vec![column(&shown, &PgType::Void)], true),
            Returns::Table(columns) => (
                columns.iter().map(|(name, ty)| column(name, ty)).collect(),
                false,
            ),
            Returns::Trigger => {
                return Err(SqlError::new(
                    ErrorCode::FeatureNotSupported,
                    "trigger functions can only be called as triggers",
                ));
            }
        };
        let call = self.call_text(&bound, place)?;
        let rows = call.replacen("sh_call(", "sh_call_rows(", 1);
        let id = self.fresh('r');
        let mut columns = fields(columns, &id);
        if ordinality {
            columns.push(ordinality_of(&id));
        }
        let mut item = aliased(
            format!("json_each({rows}) AS {id}"),
            id,
            shown,
            columns,
            alias,
        )?;
        for relation in &mut item.relations {
            relation.is_scalar = is_scalar && !ordinality;
        }
        Ok(item)
    }

    /// CALL: the SQLite text that runs the procedure.
    pub(crate) fn procedure_call(&mut self, function: &Function) -> Result<String, SqlError> {
        let place = name_place(&function.name);
        let args = arguments(function)?;
        if !self.is_routine(&function.name, true) {
            if self.is_routine(&function.name, false) {
                let error = SqlError::new(
                    ErrorCode::WrongObjectType,
                    format!("{} is not a procedure", function.name),
                )
                .with_hint("To call a function, use SELECT.");
                return Err(self.at(error, place));
            }
            let types = self.given(args)?;
            let types: Vec<_> = types
                .iter()
                .map(|(_, value)| value.ty.base_name().into_owned())
                .collect();
            let error = SqlError::new(
                ErrorCode::UndefinedFunction,
                format!("procedure {}({}) does not exist", function.name, types.join(", ")),
            )
            .with_hint("No procedure matches the given name and argument types. You might need to add explicit type casts.");
            return Err(self.at(error, place));
        }
        let bound = self.bind(&function.name, args, true, place)?;
        self.has_effects = true;
        self.runs_programs = true;
        Ok(format!("SELECT {}", self.sh_call(&bound)))
    }

    pub(super) fn given(&mut self, args: Vec<FunctionArg>) -> Result<Vec<Given>, SqlError> {
        args.iter()
            .map(|arg| {
                let (name, value) = match arg {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => (None, value),
                    FunctionArg::Named {
                        name,
                        arg: FunctionArgExpr::Expr(value),
                        ..
                    } => (Some(fold(name)), value),
                    FunctionArg::ExprNamed {
                        name: Expr::Identifier(name),
                        arg: FunctionArgExpr::Expr(value),
                        ..
                    } => (Some(fold(name)), value),
                    other => {
                        return Err(SqlError::unsupported(format_args!("the argument {other}")));
                    }
                };
                Ok((name, self.expression(value)?))
            })
            .collect()
    }

    /// The routine that a call means, and its arguments.
    fn bind(
        &mut self,
        name: &ast::ObjectName,
        args: Vec<FunctionArg>,
        procedure: bool,
        place: Location,
    ) -> Result<Bound, SqlError> {
        let (schema, bare) = names::schema_and_name(name)?;
        let schema = schema.unwrap_or_else(|| QualifiedName::PUBLIC.to_owned());
        let given = self.given(args)?;
        self.names_others = true;
        let catalog = self.catalog;
        let mut best: Vec<(usize, &Routine)> = Vec::new();
        for routine in catalog.routines_named(&schema, &bare) {
            if routine.procedure != procedure {
                continue;
            }
            let Some(score) = score(routine, &given) else {
                continue;
            };
            match best.first().map(|(top, _)| *top) {
                Some(top) if top > score => {}
                Some(top) if top == score => best.push((score, routine)),
                _ => best = vec![(score, routine)],
            }
        }
        let routine = match best.as_slice() {
            [(_, routine)] => self.catalog.routines[&routine.id].clone(),
            [] => {
                let values: Vec<Typed> = given.into_iter().map(|(_, value)| value).collect();
                return Err(self.no_function(&bare, &values, place));
            }
            _ => {
                let types: Vec<_> = given
                    .iter()
                    .map(|(_, value)| value.ty.base_name().into_owned())
                    .collect();
                let error = SqlError::new(
                    ErrorCode::AmbiguousFunction,
                    format!("function {bare}({}) is not unique", types.join(", ")),
                )
                .with_hint("Could not choose a best candidate function. You might need to add explicit type casts.");
                return Err(self.at(error, place));
            }
        };
        let mut args = Vec::with_capacity(routine.arguments.len());
        for (index, argument) in routine.arguments.iter().enumerate() {
            let value = given_for(&given, index, argument.name.as_deref());
            let value = match (value, &argument.default) {
                (Some(value), _) => value.clone(),
                (None, Some(default)) => self.default_argument(default)?,
                (None, None) => Typed::null(),
            };
            args.push(self.coerce(&value, &argument.pg_type, CastContext::Implicit)?);
        }
        self.check_routine(&routine, place)?;
        self.may_execute(&routine)?;
        Ok(Bound { routine, args })
    }

    fn default_argument(&mut self, text: &str) -> Result<Typed, SqlError> {
        let expr = crate::planner::parse_expression(
            text,
            self.context.max_statement_bytes,
            self.context.max_depth,
        )?;
        self.expanding.push(0);
        let scope = Scope {
            closed: true,
            ..Scope::default()
        };
        let value = self.in_scope(scope, |analyzer| analyzer.expression(&expr));
        self.expanding.pop();
        value
    }

    fn check_routine(&self, routine: &Routine, place: Location) -> Result<(), SqlError> {
        let refused = self.rules.immutable_only && routine.volatility != Volatility::Immutable
            || self.rules.no_volatile && routine.volatility == Volatility::Volatile;
        if !refused {
            return Ok(());
        }
        let what = self.rules.place.unwrap_or("this place");
        let error = SqlError::new(
            ErrorCode::InvalidObjectDefinition,
            format!(
                "functions in {what} must be marked IMMUTABLE: {} is not",
                routine.name.name
            ),
        );
        Err(self.at(error, place))
    }

    /// Whose rights count are those of whoever asks, in a view too.
    fn may_execute(&self, routine: &Routine) -> Result<(), SqlError> {
        if self.context.identity.superuser {
            return Ok(());
        }
        let used = Use {
            privilege: Privilege::Execute,
            columns: &[],
        };
        decide(&self.context.identity, Object::Routine(routine), used).map(drop)
    }

    fn sh_call(&self, bound: &Bound) -> String {
        let mut text = format!("sh_call({}", bound.routine.id);
        for arg in &bound.args {
            text.push(',');
            text.push_str(arg);
        }
        text.push(')');
        text
    }

    /// The call for the engine to run.
    fn call_text(&mut self, bound: &Bound, place: Location) -> Result<String, SqlError> {
        if self.rules.no_subqueries {
            // A text in SQLite's schema outlives the catalog that the program is of.
            let what = self.rules.place.unwrap_or("this place");
            return Err(self.at(
                SqlError::unsupported(format_args!(
                    "the function {} in {what}",
                    bound.routine.name.name
                )),
                place,
            ));
        }
        if crate::program::may_write(self.catalog, &bound.routine) {
            // SQLite may compute a column of an inner query twice, or never.
            let queries = self.scopes.len() - self.frame_scopes;
            if queries > 1 {
                return Err(self.at(
                    SqlError::unsupported(format_args!(
                        "the function {}, which changes data, inside a subquery",
                        bound.routine.name.name
                    )),
                    place,
                ));
            }
            self.has_effects = true;
        }
        self.runs_programs = true;
        Ok(self.sh_call(bound))
    }

    /// A function whose body is one query, written out; `None` if it is another.
    fn inlined(
        &mut self,
        bound: &Bound,
        ty: &PgType,
        place: Location,
    ) -> Result<Option<Typed>, SqlError> {
        let routine = &bound.routine;
        if routine.language != Language::Sql || self.inlining.contains(&routine.id) {
            return Ok(None);
        }
        let mut texts = crate::split::statements(&routine.body);
        let (Some(Ok(text)), None) = (texts.next(), texts.next()) else {
            return Ok(None);
        };
        let Ok(ast::Statement::Query(query)) = crate::planner::parse(text, self.context) else {
            return Ok(None);
        };
        if query.with.is_none()
            && matches!(
                *query.body,
                SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_)
            )
        {
            return Ok(None);
        }
        let volatile = |text: &String| ["sh_", "SELECT"].iter().any(|mark| text.contains(mark));
        let simple = bound
            .args
            .iter()
            .all(|arg| arg.len() <= 80 && !volatile(arg));
        let expression = sole_expression(&query);
        if !simple && (expression.is_some() && self.rules.no_subqueries) {
            // Nothing to name the arguments by: as often as it uses them, they are computed.
            if bound
                .args
                .iter()
                .any(|arg| arg.contains("sh_random") || arg.contains("sh_nextval"))
            {
                return Ok(None);
            }
        }
        let by_name = !simple && !self.rules.no_subqueries;
        let id = self.fresh('r');
        let columns: Vec<ScopeColumn> = routine
            .arguments
            .iter()
            .enumerate()
            .map(|(index, argument)| ScopeColumn {
                name: argument.name.clone().unwrap_or_default(),
                sql: if by_name {
                    format!("{id}.a{index}")
                } else {
                    bound.args[index].clone()
                },
                ty: argument.pg_type.of_value(),
                nullable: true,
                origin: None,
                used: None,
            })
            .collect();
        let frame = Frame {
            scope: Scope {
                closed: true,
                is_frame: true,
                columns: columns.clone(),
                relations: vec![Relation {
                    alias: routine.name.name.clone(),
                    schema: None,
                    id: String::new(),
                    columns: columns.clone(),
                    key: Vec::new(),
                    table_oid: None,
                    is_scalar: false,
                }],
                ..Scope::default()
            },
            parameters: columns,
            strict_names: false,
        };
        // Its body is run with the rights of whoever asks.
        let acting = std::mem::replace(&mut self.acting, Arc::clone(&self.context.identity));
        self.inlining.push(routine.id);
        self.expanding.push(0);
        let outer = self.frame.replace(frame.clone());
        let value = self.in_scope(frame.scope, |analyzer| match expression {
            Some(expr) => analyzer.in_scope(Scope::default(), |analyzer| {
                let value = analyzer.expression(expr)?;
                analyzer.coerce(&value, ty, CastContext::Assignment)
            }),
            None => analyzer.first_value(&query, ty),
        });
        self.frame = outer;
        self.acting = acting;
        self.expanding.pop();
        self.inlining.pop();
        let mut sql = value.map_err(|error| self.at(error, place))?;
        if routine.strict && !bound.args.is_empty() {
            let tests: Vec<String> = (0..bound.args.len())
                .map(|index| {
                    let arg = if by_name {
                        format!("{id}.a{index}")
                    } else {
                        bound.args[index].clone()
                    };
                    format!("{arg} IS NOT NULL")
                })
                .collect();
            sql = format!("(CASE WHEN {} THEN {sql} END)", tests.join(" AND "));
        }
        if by_name {
            let list: Vec<String> = bound
                .args
                .iter()
                .enumerate()
                .map(|(index, arg)| format!("{arg} AS a{index}"))
                .collect();
            // The LIMIT keeps SQLite from computing an argument wherever it is used.
            sql = format!(
                "(SELECT {sql} FROM (SELECT {} LIMIT 1) AS {id})",
                list.join(",")
            );
        }
        Ok(Some(Typed::new(sql, ty.of_value())))
    }

    /// The first column of a query's first row, as a type.
    fn first_value(&mut self, query: &ast::Query, ty: &PgType) -> Result<String, SqlError> {
        let mut analyzed = self.subquery(query)?;
        if analyzed.names.len() != 1 {
            return Err(SqlError::new(
                ErrorCode::InvalidFunctionDefinition,
                format!(
                    "return type mismatch in function declared to return {}",
                    ty.base_name()
                ),
            )
            .with_detail("Final statement must return exactly one column."));
        }
        analyzed.convert(self, std::slice::from_ref(ty), CastContext::Assignment)?;
        let name = analyzed.column_name(0);
        let inner = analyzed.into_sql(self)?;
        Ok(format!("(SELECT {name} FROM ({inner}) LIMIT 1)"))
    }
}

/// `SELECT expression` alone.
fn sole_expression(query: &ast::Query) -> Option<&Expr> {
    let SetExpr::Select(select) = &*query.body else {
        return None;
    };
    let is_bare = query.with.is_none()
        && query.order_by.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
        && select.from.is_empty()
        && select.selection.is_none()
        && select.having.is_none()
        && select.distinct.is_none()
        && matches!(&select.group_by, ast::GroupByExpr::Expressions(keys, _) if keys.is_empty());
    match select.projection.as_slice() {
        [SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }]
            if is_bare && !finder::has_aggregate(expr) && !finder::has_set(expr) =>
        {
            Some(expr)
        }
        _ => None,
    }
}

pub(super) fn arguments(function: &Function) -> Result<Vec<FunctionArg>, SqlError> {
    let plain = function.over.is_none()
        && function.filter.is_none()
        && function.within_group.is_empty()
        && function.null_treatment.is_none();
    match &function.args {
        FunctionArguments::List(list)
            if plain && list.clauses.is_empty() && list.duplicate_treatment.is_none() =>
        {
            Ok(list.args.clone())
        }
        FunctionArguments::None if plain => Ok(Vec::new()),
        _ => Err(SqlError::new(
            ErrorCode::WrongObjectType,
            format!("{} is not an aggregate function", function.name),
        )),
    }
}

pub(super) fn given_for<'g>(
    given: &'g [Given],
    index: usize,
    name: Option<&str>,
) -> Option<&'g Typed> {
    match given.get(index) {
        Some((None, value)) => Some(value),
        _ => given
            .iter()
            .find(|(given, _)| given.is_some() && given.as_deref() == name)
            .map(|(_, value)| value),
    }
}

/// How well a routine takes these arguments: the exact ones; `None` if it cannot.
fn score(routine: &Routine, given: &[Given]) -> Option<usize> {
    if given.len() > routine.arguments.len() {
        return None;
    }
    let known = |name: &str| {
        routine
            .arguments
            .iter()
            .any(|argument| argument.name.as_deref() == Some(name))
    };
    if given
        .iter()
        .any(|(name, _)| name.as_deref().is_some_and(|name| !known(name)))
    {
        return None;
    }
    let mut exact = 0;
    for (index, argument) in routine.arguments.iter().enumerate() {
        let Some(value) = given_for(given, index, argument.name.as_deref()) else {
            argument.default.as_ref()?;
            continue;
        };
        if value.is_unknown() {
            continue;
        }
        if value.ty.same_base(&argument.pg_type) {
            exact += 2;
            continue;
        }
        let cast = functions::cast(
            &value.ty.without_modifier(),
            &argument.pg_type.without_modifier(),
        )?;
        if cast.context != CastContext::Implicit {
            return None;
        }
        exact += usize::from(argument.pg_type.is_preferred());
    }
    Some(exact)
}
