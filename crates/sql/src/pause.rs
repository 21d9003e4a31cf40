//! `SELECT pg_sleep(…)` and its kin, each as a statement of its own, since a session waits and no thread
//! may. Called by the planner before anything else looks at the text.
//! Source: PostgreSQL 15, section 9.9.6 "Delaying Execution".

use std::sync::Arc;

use springhead_proto::SqlError;
use sqlparser::ast::Statement;

use crate::advisory::{lone_call, named};
use crate::catalog::Catalog;
use crate::plan::{OutputColumn, Plan, PlanKind};
use crate::planner::{self, PlanContext};
use crate::types::PgType;

/// pg_sleep() and its kin, each a statement of its own.
#[derive(Debug, Clone)]
pub struct Pause {
    /// A query of one row with one column: how long, as a double, in seconds.
    pub seconds: Arc<Plan>,
    /// The one column of the answer.
    pub columns: Arc<[OutputColumn]>,
}

/// The plan of a statement that is one of these calls and nothing else; `None` if it is not.
///
/// # Errors
/// What is wrong with the call's argument.
pub(crate) fn plan(
    catalog: &Arc<Catalog>,
    sql: &str,
    param_types: &[Option<PgType>],
    context: &PlanContext,
) -> Result<Option<Plan>, SqlError> {
    const MARK: &[u8] = b"pg_sleep";
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
    let [argument] = arguments.as_slice() else {
        return Ok(None);
    };
    // The time is a query of its own: it may be computed, and its parameters are typed by the casts.
    let seconds = match name.as_str() {
        "pg_sleep" => format!("({argument})::double precision"),
        "pg_sleep_for" => {
            format!("extract(epoch from ({argument})::interval)::double precision")
        }
        "pg_sleep_until" => format!(
            "extract(epoch from ({argument})::timestamptz - clock_timestamp())::double precision"
        ),
        _ => return Ok(None),
    };
    let seconds = planner::plan(catalog, &format!("SELECT {seconds}"), param_types, context)?;
    let column = OutputColumn::computed(alias.unwrap_or(name), PgType::Void);
    Ok(Some(Plan {
        catalog_version: seconds.catalog_version,
        parameters: seconds.parameters.clone(),
        system: false,
        library: seconds.library.clone(),
        kind: PlanKind::Pause(Pause {
            seconds: Arc::new(seconds),
            columns: Arc::from([column]),
        }),
    }))
}
