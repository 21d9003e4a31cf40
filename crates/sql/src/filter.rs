//! The `where=` of a change feed: one condition on a row image.
//!
//! The same parser, types and rewriter as SELECT. `server` plans it once per subscription and
//! schema version; the engine runs it on images, which are bound as parameters, so that no table is
//! touched.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::Expr;

use crate::access::RowRule;
use crate::catalog::{Catalog, Table};
use crate::plan::Filter;
use crate::planner::{PlanContext, parse_expression};
use crate::query::expression::table_scope;
use crate::query::scope::Scope;
use crate::query::{Analyzer, Rules};

/// A longer condition is refused (54000).
pub const MAX_FILTER_BYTES: usize = 8 << 10;

/// A more deeply nested condition is refused (54001).
pub const MAX_FILTER_DEPTH: usize = 50;

/// Plans a condition on the rows of `table`, over their images.
///
/// # Errors
/// 42601, 42703, 42804 and their kin as for a WHERE clause; 0A000 for subqueries, 42P02 for
/// parameters, 42P17 for functions that depend on more than their arguments; 54000 and 54001 past
/// the limits.
pub fn plan_filter(table: &Arc<Table>, where_text: &str) -> Result<Filter, SqlError> {
    let (expr, context) = parsed(where_text)?;
    let catalog = Catalog::bootstrap();
    let mut scope = table_scope(table, None);
    let mut columns = Vec::new();
    // A column is the parameter that its value in the image is bound to.
    for (place, column) in table.visible_columns() {
        let stored = format!("\"{}\"", column.storage_name());
        let relations = scope
            .relations
            .iter_mut()
            .flat_map(|relation| &mut relation.columns);
        for named in scope
            .columns
            .iter_mut()
            .chain(relations)
            .filter(|named| named.sql == stored)
        {
            named.sql = format!("?{}", place + 1);
        }
    }
    let condition = condition(&catalog, where_text, &context, scope, &expr)?;
    for (place, _) in table.visible_columns() {
        if mentions(&condition, place + 1) {
            columns.push(place);
        }
    }
    Ok(Filter {
        sql: format!("SELECT {condition}"),
        table: table.clone(),
        columns,
    })
}

/// Plans the same condition for a query over the table itself: over `"c1"`, …, for snapshots.
///
/// # Errors
/// As [`plan_filter`].
pub fn plan_filter_on_table(table: &Arc<Table>, where_text: &str) -> Result<String, SqlError> {
    let (expr, context) = parsed(where_text)?;
    condition(
        &Catalog::bootstrap(),
        where_text,
        &context,
        table_scope(table, None),
        &expr,
    )
}

/// Row policies on the rows of a table, for a feed.
#[derive(Debug)]
pub struct PolicyFilter {
    /// The condition on a row image.
    pub image: Filter,
    /// The same on the table itself, over the alias [`POLICY_ALIAS`].
    pub stored: String,
    /// It reads tables or calls programs: an image can be judged only where these are.
    pub looks: bool,
}

/// What [`PolicyFilter::stored`] calls the table.
pub const POLICY_ALIAS: &str = "r0";

/// Plans the policies that decide which rows of `table` the context's identity sees, over row images.
///
/// # Errors
/// 0A000 naming the table if a policy needs what a feed does not have: a volatile function, a
/// setting, the system's catalogs; 42501 if it looks at a table that the identity may not read.
pub fn plan_policy(
    catalog: &Arc<Catalog>,
    table: &Arc<Table>,
    rule: &RowRule<'_>,
    context: &PlanContext,
) -> Result<PolicyFilter, SqlError> {
    let mut analyzer = Analyzer::new(catalog, "", context, &[], usize::MAX);
    analyzer.rules = Rules {
        place: Some("a policy on a change feed"),
        no_subqueries: false,
        no_parameters: true,
        immutable_only: false,
        no_volatile: true,
    };
    let refused = |what: &str| {
        SqlError::unsupported(format_args!(
            "a change feed of \"{}\" with its row policies: {what},",
            table.name.name
        ))
        .with_hint("use a policy on the row's columns, other tables, and auth.uid(), auth.role() or auth.claim()")
    };
    let stored =
        analyzer
            .row_condition(table, rule, POLICY_ALIAS)
            .map_err(|error| match error.code {
                ErrorCode::FeatureNotSupported | ErrorCode::InvalidObjectDefinition => {
                    refused(&error.message)
                }
                _ => error,
            })?;
    if stored.contains("sh_setting(lower(") || stored.contains("sh_no_setting(") {
        return Err(refused("current_setting()"));
    }
    if stored.contains("sh_sys") {
        return Err(refused("the system's catalogs"));
    }
    analyzer.check_references()?;
    let mut columns = Vec::new();
    let mut values = Vec::new();
    for (place, column) in table.visible_columns() {
        let name = format!("\"{}\"", column.storage_name());
        if stored.contains(&format!("{POLICY_ALIAS}.{name}")) {
            columns.push(place);
            values.push(format!("?{} AS {name}", place + 1));
        }
    }
    let from = if values.is_empty() {
        String::new()
    } else {
        format!(" FROM (SELECT {}) AS {POLICY_ALIAS}", values.join(","))
    };
    Ok(PolicyFilter {
        image: Filter {
            sql: format!("SELECT {stored}{from}"),
            table: Arc::clone(table),
            columns,
        },
        stored,
        looks: !analyzer.reads.is_empty() || analyzer.runs_programs,
    })
}

fn parsed(where_text: &str) -> Result<(Expr, PlanContext), SqlError> {
    let context = PlanContext {
        max_statement_bytes: MAX_FILTER_BYTES,
        max_depth: MAX_FILTER_DEPTH,
        ..PlanContext::default()
    };
    if where_text.trim().is_empty() {
        return Err(SqlError::new(
            ErrorCode::SyntaxError,
            "the condition is empty",
        ));
    }
    Ok((
        parse_expression(where_text, MAX_FILTER_BYTES, MAX_FILTER_DEPTH)?,
        context,
    ))
}

fn condition(
    catalog: &Catalog,
    where_text: &str,
    context: &PlanContext,
    scope: Scope,
    expr: &Expr,
) -> Result<String, SqlError> {
    let mut analyzer = Analyzer::new(catalog, where_text, context, &[], usize::MAX);
    analyzer.rules = Rules {
        place: Some("a filter"),
        no_subqueries: true,
        no_parameters: true,
        immutable_only: true,
        no_volatile: true,
    };
    let scope = Scope {
        aggregates_refused: Some("a filter"),
        windows_refused: Some("a filter"),
        ..scope
    };
    analyzer.in_scope(scope, |analyzer| analyzer.condition(expr, "WHERE"))
}

/// Whether `?n` occurs in a text, outside of quotes.
fn mentions(sql: &str, number: usize) -> bool {
    let wanted = format!("?{number}");
    let mut quoted = false;
    let bytes = sql.as_bytes();
    for at in 0..bytes.len() {
        match bytes[at] {
            b'\'' => quoted = !quoted,
            b'?' if !quoted
                && sql[at..].starts_with(&wanted)
                && !bytes.get(at + wanted.len()).is_some_and(u8::is_ascii_digit) =>
            {
                return true;
            }
            _ => {}
        }
    }
    false
}
