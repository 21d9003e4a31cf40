//! Advisory locks: `SELECT pg_advisory_lock(…)` and its kin, each as a statement of its own, since a
//! session waits for a lock and no thread may. Called by the planner before anything else looks at the
//! text; the locks themselves are the engine's.
//! Source: PostgreSQL 15, section 9.27.10 "Advisory Lock Functions".

use std::sync::Arc;

use springhead_proto::SqlError;
use sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Query,
    SelectItem, SetExpr, Statement,
};

use crate::catalog::Catalog;
use crate::plan::{OutputColumn, Plan, PlanKind};
use crate::planner::{self, PlanContext};
use crate::query::names;
use crate::types::PgType;

/// pg_advisory_lock() and its kin, each a statement of its own.
#[derive(Debug, Clone)]
pub struct AdvisoryLock {
    pub action: AdvisoryAction,
    pub shared: bool,
    /// It ends with the transaction, not with the session.
    pub transaction: bool,
    /// A query of one row: a column that says nothing, then the key's one bigint or two integers.
    pub key: Arc<Plan>,
    /// The one column of the answer.
    pub columns: Arc<[OutputColumn]>,
}

/// What is done about an advisory lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdvisoryAction {
    /// Waits for it.
    Lock,
    /// Takes it if that is possible at once.
    Try,
    Unlock,
    UnlockAll,
}

/// The plan of a statement that is one of these calls and nothing else; `None` if it is not.
///
/// # Errors
/// What is wrong with the call's arguments.
pub(crate) fn plan(
    catalog: &Arc<Catalog>,
    sql: &str,
    param_types: &[Option<PgType>],
    context: &PlanContext,
) -> Result<Option<Plan>, SqlError> {
    const MARK: &[u8] = b"advisory";
    let is_mentioned = sql
        .as_bytes()
        .windows(MARK.len())
        .any(|part| part.eq_ignore_ascii_case(MARK));
    if !is_mentioned {
        return Ok(None);
    }
    // What does not parse is told of where everything is parsed.
    let Ok(Statement::Query(query)) = planner::parse(sql, context) else {
        return Ok(None);
    };
    let Some((call, alias)) = lone_call(&query) else {
        return Ok(None);
    };
    let Some((name, arguments)) = named(call) else {
        return Ok(None);
    };
    let Some((action, shared, transaction)) = meaning(&name) else {
        return Ok(None);
    };
    let types: &[&str] = match (action, arguments.len()) {
        (AdvisoryAction::UnlockAll, 0) => &[],
        (AdvisoryAction::UnlockAll, _) => return Ok(None),
        (_, 1) => &["bigint"],
        (_, 2) => &["integer", "integer"],
        _ => return Ok(None),
    };
    // The key is a query of its own: it may be computed, and its parameters are typed by the casts.
    let mut text = "SELECT 0".to_owned();
    for (argument, pg_type) in arguments.iter().zip(types) {
        text.push_str(&format!(", ({argument})::{pg_type}"));
    }
    let key = planner::plan(catalog, &text, param_types, context)?;
    let pg_type = match action {
        AdvisoryAction::Try | AdvisoryAction::Unlock => PgType::Bool,
        AdvisoryAction::Lock | AdvisoryAction::UnlockAll => PgType::Void,
    };
    let column = OutputColumn::computed(alias.unwrap_or(name), pg_type);
    Ok(Some(Plan {
        catalog_version: key.catalog_version,
        parameters: key.parameters.clone(),
        system: false,
        library: key.library.clone(),
        kind: PlanKind::Advisory(AdvisoryLock {
            action,
            shared,
            transaction,
            key: Arc::new(key),
            columns: Arc::from([column]),
        }),
    }))
}

/// What a function of the family does: the action, whether it is about a shared lock, and whether the
/// lock ends with the transaction.
fn meaning(name: &str) -> Option<(AdvisoryAction, bool, bool)> {
    let rest = name.strip_prefix("pg_")?;
    if rest == "advisory_unlock_all" {
        return Some((AdvisoryAction::UnlockAll, false, false));
    }
    let (rest, shared) = match rest.strip_suffix("_shared") {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    let (action, transaction) = match rest {
        "advisory_lock" => (AdvisoryAction::Lock, false),
        "advisory_xact_lock" => (AdvisoryAction::Lock, true),
        "try_advisory_lock" => (AdvisoryAction::Try, false),
        "try_advisory_xact_lock" => (AdvisoryAction::Try, true),
        "advisory_unlock" => (AdvisoryAction::Unlock, false),
        _ => return None,
    };
    Some((action, shared, transaction))
}

/// The call of a `SELECT call [AS alias]` that has nothing else.
pub(crate) fn lone_call(query: &Query) -> Option<(&Function, Option<String>)> {
    let SetExpr::Select(select) = &*query.body else {
        return None;
    };
    let is_bare = query.with.is_none()
        && query.order_by.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
        && query.locks.is_empty()
        && select.distinct.is_none()
        && select.from.is_empty()
        && select.selection.is_none()
        && select.having.is_none()
        && matches!(&select.group_by, GroupByExpr::Expressions(list, _) if list.is_empty());
    if !is_bare {
        return None;
    }
    match select.projection.as_slice() {
        [SelectItem::UnnamedExpr(Expr::Function(call))] => Some((call, None)),
        [
            SelectItem::ExprWithAlias {
                expr: Expr::Function(call),
                alias,
            },
        ] => Some((call, Some(names::fold(alias)))),
        _ => None,
    }
}

/// The function's name and its arguments, if it is called plainly.
pub(crate) fn named(call: &Function) -> Option<(String, Vec<&Expr>)> {
    let name = match call.name.0.as_slice() {
        [name] => names::fold(name.as_ident()?),
        [schema, name] if names::fold(schema.as_ident()?) == "pg_catalog" => {
            names::fold(name.as_ident()?)
        }
        _ => return None,
    };
    let FunctionArguments::List(list) = &call.args else {
        return None;
    };
    let is_plain = list.clauses.is_empty()
        && list.duplicate_treatment.is_none()
        && call.over.is_none()
        && call.filter.is_none();
    let arguments = list.args.iter().map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Some(expression),
        _ => None,
    });
    let arguments = arguments.collect::<Option<Vec<_>>>()?;
    is_plain.then_some((name, arguments))
}
