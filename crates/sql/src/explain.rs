//! EXPLAIN: its options, and the statement that it is of. Called by the planner; what the plan says is
//! found out where it runs.
//! Source: PostgreSQL 15, reference page "EXPLAIN".

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{self, Statement, UtilityOption};

use crate::catalog::Catalog;
use crate::plan::{Parameter, Plan, PlanKind};
use crate::planner;
use crate::query::{Analyzer, names};
use crate::types::PgType;

/// An EXPLAIN.
#[derive(Debug, Clone)]
pub struct Explain {
    pub of: Explained,
    pub options: ExplainOptions,
}

/// The statement of an EXPLAIN.
#[derive(Debug, Clone)]
pub enum Explained {
    Plan(Arc<Plan>),
    /// EXECUTE of the prepared statement of this name.
    Prepared(String),
}

/// How an EXPLAIN was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExplainOptions {
    /// ANALYZE: the statement is run.
    pub runs: bool,
    /// The columns of the result are named.
    pub verbose: bool,
    pub format: ExplainFormat,
}

/// See [`ExplainOptions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExplainFormat {
    Text,
    Json,
}

impl ExplainFormat {
    /// The type of the one column that an EXPLAIN gives.
    #[must_use]
    pub fn pg_type(self) -> PgType {
        match self {
            ExplainFormat::Text => PgType::Text,
            ExplainFormat::Json => PgType::Json,
        }
    }
}

/// Options of PostgreSQL's that change nothing here: there is no cost and no buffer to show.
const WITHOUT_EFFECT: [&str; 6] = ["costs", "settings", "buffers", "wal", "timing", "summary"];

/// The plan of an EXPLAIN.
///
/// # Errors
/// What is wrong with an option or with the statement; 0A000 for a statement that has no plan.
pub(crate) fn plan(
    catalog: &Arc<Catalog>,
    analyzer: Analyzer<'_>,
    options: ExplainOptions,
    statement: &Statement,
) -> Result<(PlanKind, Vec<Parameter>), SqlError> {
    // Refused here, and not after its turn, or a row of EXPLAINs would be a recursion.
    if matches!(statement, Statement::Explain { .. }) {
        return Err(SqlError::unsupported("EXPLAIN of this statement"));
    }
    if let Statement::Execute {
        name: Some(name), ..
    } = statement
    {
        let explain = Explain {
            of: Explained::Prepared(names::parts(name)?.join(".")),
            options,
        };
        return Ok((PlanKind::Explain(explain), Vec::new()));
    }
    let catalog_version = analyzer.catalog.version;
    let context = analyzer.context;
    let (kind, parameters) = planner::dispatch(catalog, analyzer, statement)?;
    if !matches!(kind, PlanKind::Query(_) | PlanKind::Write(_)) {
        return Err(SqlError::unsupported("EXPLAIN of this statement"));
    }
    let inner = Plan {
        catalog_version,
        parameters: parameters.clone(),
        system: planner::asks_system(&kind),
        library: planner::library(catalog, context, &kind),
        kind,
    };
    let explain = Explain {
        of: Explained::Plan(Arc::new(inner)),
        options,
    };
    Ok((PlanKind::Explain(explain), parameters))
}

/// Reads `EXPLAIN [ANALYZE] [VERBOSE]` and `EXPLAIN (option, …)`.
///
/// # Errors
/// 42601 for an option that there is not, 22023 for a value that it cannot have, 0A000 for XML and YAML.
pub(crate) fn options(
    analyze: bool,
    verbose: bool,
    options: Option<&[UtilityOption]>,
) -> Result<ExplainOptions, SqlError> {
    let mut found = ExplainOptions {
        runs: analyze,
        verbose,
        format: ExplainFormat::Text,
    };
    for option in options.unwrap_or_default() {
        let name = option.name.value.to_ascii_lowercase();
        let value = option.arg.as_ref().map(word);
        match name.as_str() {
            "analyze" => found.runs = is_on(&name, value.as_deref())?,
            "verbose" => found.verbose = is_on(&name, value.as_deref())?,
            "format" => found.format = format(value.as_deref())?,
            _ if WITHOUT_EFFECT.contains(&name.as_str()) => {
                is_on(&name, value.as_deref())?;
            }
            _ => {
                return Err(SqlError::new(
                    ErrorCode::SyntaxError,
                    format!("unrecognized EXPLAIN option \"{name}\""),
                ));
            }
        }
    }
    Ok(found)
}

/// A value as it was written, without quotes.
fn word(value: &ast::Expr) -> String {
    match value {
        ast::Expr::Identifier(ident) => ident.value.clone(),
        ast::Expr::Value(value) => match &value.value {
            ast::Value::SingleQuotedString(text) => text.clone(),
            other => other.to_string(),
        },
        other => other.to_string(),
    }
}

fn is_on(option: &str, value: Option<&str>) -> Result<bool, SqlError> {
    match value.map(str::to_ascii_lowercase).as_deref() {
        None | Some("true" | "on" | "1") => Ok(true),
        Some("false" | "off" | "0") => Ok(false),
        Some(_) => Err(SqlError::new(
            ErrorCode::SyntaxError,
            format!("{option} requires a Boolean value"),
        )),
    }
}

fn format(value: Option<&str>) -> Result<ExplainFormat, SqlError> {
    match value.map(str::to_ascii_lowercase).as_deref() {
        Some("text") => Ok(ExplainFormat::Text),
        Some("json") => Ok(ExplainFormat::Json),
        Some(other @ ("xml" | "yaml")) => {
            let format = other.to_ascii_uppercase();
            Err(SqlError::unsupported(format_args!(
                "EXPLAIN (FORMAT {format})"
            )))
        }
        Some(_) => Err(SqlError::new(
            ErrorCode::InvalidParameterValue,
            format!(
                "unrecognized value for EXPLAIN option \"format\": \"{}\"",
                value.unwrap_or_default()
            ),
        )),
        None => Err(SqlError::new(
            ErrorCode::SyntaxError,
            "format requires a parameter",
        )),
    }
}
