//! Live queries: how a SELECT can be kept true as its tables change.
//!
//! [`plan_live`] plans the query as any other and looks at what it is made of. What it hands out
//! beside the query are variants of it that compute a part of its result: the rows that one table
//! row takes part in, the groups that it counts in, one group. The engine runs them for what a
//! commit has changed.

mod anchors;
mod conditions;
mod options;
mod order;
mod planning;
mod policies;
mod probe;
mod sets;
mod shape;
mod simple;
mod union;

use std::sync::Arc;

use springhead_proto::{CollectionId, ErrorCode, SqlError};
use sqlparser::ast::Statement;

use crate::catalog::Catalog;
use crate::plan::{OutputColumn, Parameter};
use crate::planner::{PlanContext, parse_marked};
use crate::types::PgType;

pub use conditions::{Condition, Operand, Test, literal_prefix};
pub(crate) use options::plan_text;
pub use options::{LiveOptions, LiveStatement, MAX_SQUASH_MS, read_live};
pub use order::{Bound, Direction, Order};
pub(crate) use probe::Probe;
pub use sets::{FromSides, SetOperation, SetTree, Sides};

use planning::Planning;

/// How a live query's result is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiveClass {
    /// A filter and projection of one table: from the row images of a commit alone.
    Rows,
    /// Inner joins: the rows that changed rows take part in.
    Join,
    /// GROUP BY and aggregates: the groups that changed rows count in.
    Groups,
    /// Outer joins and subqueries: the result's rows of one table's rows that changed rows matter to.
    Anchored,
    /// UNION ALL of such: the rows of each part that changed rows take part in.
    Union,
    /// Set operations and full joins: how often each row is in each of their sides, which are of the
    /// classes above.
    Sides,
    /// One table, in an order or a window of it: evaluated again when a row that counts changed.
    Window,
    /// Evaluated again after each commit that touches one of its tables.
    Evaluated,
    /// As `Evaluated`, for what must be asked for with `WITH (recompute)`.
    Recomputed,
}

impl LiveClass {
    /// Its name in EXPLAIN and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            LiveClass::Rows => "filter/project",
            LiveClass::Join => "join",
            LiveClass::Groups => "groups",
            LiveClass::Anchored => "by rows of one table",
            LiveClass::Union => "union",
            LiveClass::Sides => "by sides",
            LiveClass::Window => "ordered window",
            LiveClass::Evaluated => "evaluated",
            LiveClass::Recomputed => "recomputed",
        }
    }
}

/// A live query that can be kept true.
#[derive(Debug, Clone, PartialEq)]
pub struct LivePlan {
    pub catalog_version: u64,
    pub class: LiveClass,
    /// Why it is of this class, for EXPLAIN.
    pub because: &'static str,
    pub parameters: Vec<Parameter>,
    /// SQLite text of the query; its outputs are `columns`, then the key's.
    pub sql: String,
    pub columns: Arc<[OutputColumn]>,
    /// Whether its rows have a key; else their contents tell them apart.
    pub is_keyed: bool,
    /// The types of the key: of the outputs after `columns`. None for the one row that aggregates
    /// over all rows make.
    pub key: Vec<PgType>,
    /// Whether rows come in an order.
    pub ordered: bool,
    /// How that order is kept, where it is not SQLite's each time: for joins, groups and `Anchored`. What
    /// is computed by parts then has what is ordered by after its key.
    pub order: Option<Order>,
    /// The collections it reads, ascending.
    pub reads: Vec<CollectionId>,
    /// Whether it is made of views or functions too, whose definitions are no collection's.
    pub names_others: bool,
    /// For joins, unions and groups the tables in FROM; for `Anchored` those of subqueries too.
    pub occurrences: Vec<Occurrence>,
    /// For groups the query for one group, for `Anchored` that for one row of the first table; its key
    /// follows the parameters.
    pub of_group: Option<String>,
    /// How many values that key has; for `Anchored` they are the first of `key`.
    pub group_keys: usize,
    /// For groups over left joins: in which groups the rows of the first table count.
    pub anchor_groups: Option<AnchorGroups>,
    /// For `Sides`.
    pub sides: Option<Sides>,
    /// The table, if it is a query over one alone: its rows are all that it depends on.
    pub table: Option<CollectionId>,
    /// For one table: conditions that every row of the result meets, the best to look for first.
    pub conditions: Vec<Condition>,
    /// For `Window`: an index of the table over these columns gives the rows in their order. Column
    /// ids, and whether it is descending.
    pub order_index: Vec<(u32, bool)>,
    /// For one table: the columns that it looks at, ids; `None` for all.
    pub watched: Option<Vec<u32>>,
}

/// What EXPLAIN LIVE is asked of, from `LIVE` on.
pub(crate) fn explained(sql: &str) -> Option<&str> {
    let sql = sql.trim_start();
    let (explain, rest) = sql.split_at_checked(7)?;
    let live = rest.trim_start();
    let is_live = explain.eq_ignore_ascii_case("explain")
        && live.len() < rest.len()
        && live.get(..4)?.eq_ignore_ascii_case("live")
        && live[4..].starts_with(char::is_whitespace);
    is_live.then_some(live)
}

impl LivePlan {
    /// How it is kept true, for people.
    #[must_use]
    pub fn describe(&self, catalog: &Catalog) -> Vec<String> {
        let table = |id: &CollectionId| catalog.table(*id);
        let names: Vec<String> = (self.reads.iter().filter_map(table))
            .map(|table| crate::plan::display_name(&table.name))
            .collect();
        let column = |id: u32| {
            let table = self.reads.first().and_then(table);
            (table.and_then(|table| table.column_by_id(id)))
                .map_or_else(|| format!("c{id}"), |(_, column)| column.name.clone())
        };
        let cost = match self.class {
            LiveClass::Rows => "each changed row that is found, before and after",
            LiveClass::Join | LiveClass::Union => {
                "for each changed row, the rows that it takes part in"
            }
            LiveClass::Groups => "for each changed row, the groups that it counts in",
            LiveClass::Anchored => {
                "for each changed row, the rows of its first table that it matters to"
            }
            LiveClass::Sides => "of each side what its class costs",
            LiveClass::Window => "the window, when a watched column of a row changed",
            LiveClass::Evaluated | LiveClass::Recomputed => {
                "the whole query, after each commit that touches its tables"
            }
        };
        let mut lines = vec![
            format!("Live query: {} ({})", self.class.name(), self.because),
            format!("  Reads: {}", names.join(", ")),
        ];
        if self.class == LiveClass::Rows {
            lines.push(format!("  Found by: {}", self.found_by(&column)));
        }
        lines.extend(self.sides.iter().flat_map(Sides::describe));
        if let Some(order) = &self.order {
            lines.push(format!("  Order: {}", order.describe()));
        }
        if !self.order_index.is_empty() {
            let columns: Vec<String> = (self.order_index.iter())
                .map(|(id, is_descending)| {
                    format!(
                        "{}{}",
                        column(*id),
                        if *is_descending { " DESC" } else { "" }
                    )
                })
                .collect();
            lines.push(format!("  Refilled by: an index on {}", columns.join(", ")));
        }
        if let Some(watched) = &self.watched {
            let watched: Vec<String> = watched.iter().map(|id| column(*id)).collect();
            lines.push(format!("  Watches: {}", watched.join(", ")));
        }
        lines.push(format!("  Cost per commit: {cost}"));
        lines.push(format!("  SQLite: {}", self.sql));
        lines
    }

    fn found_by(&self, name: &dyn Fn(u32) -> String) -> String {
        let Some(Condition { column, test }) = self.conditions.first() else {
            return "every changed row".to_owned();
        };
        let column = name(*column);
        match test {
            Test::Equal(operands) => {
                format!("{column} = one of {} values (hash index)", operands.len())
            }
            Test::Range { low, high } => {
                let sides = match (low, high) {
                    (Some(_), Some(_)) => "between two values",
                    (Some(_), None) => "from a value on",
                    _ => "up to a value",
                };
                format!("{column} {sides} (interval index)")
            }
            Test::Prefix(_) => format!("{column} begins with a text (prefix index)"),
        }
    }

    /// Whether it is kept as the other is, by the same queries: all is the same but the catalog's version.
    #[must_use]
    pub fn is_kept_as(&self, other: &LivePlan) -> bool {
        let catalog_version = self.catalog_version;
        *self
            == LivePlan {
                catalog_version,
                ..other.clone()
            }
    }

    /// Whether its rows are rows of one table, so that their keys are document ids.
    #[must_use]
    pub fn has_document_ids(&self) -> bool {
        matches!(self.class, LiveClass::Rows | LiveClass::Window)
    }
}

/// Queries for the groups that rows of the first table count in: the key of the row, then the group's.
#[derive(Debug, Clone, PartialEq)]
pub struct AnchorGroups {
    /// Of all rows.
    pub all: String,
    /// Of one row, whose key follows the parameters.
    pub of_anchor: String,
    /// How many values a row's key has.
    pub anchor_keys: usize,
}

/// One table in FROM.
#[derive(Debug, Clone, PartialEq)]
pub struct Occurrence {
    pub collection: CollectionId,
    /// Of a union: which of its parts it is in.
    pub part: usize,
    /// Conditions that each row of it meets that takes part in anything.
    pub conditions: Vec<Condition>,
    /// The query for the rows that the table row with one key takes part in, or, for groups, the
    /// groups that it counts in. The key's values follow the parameters.
    pub of_key: String,
}

/// Plans a live query. `recompute`: it may be evaluated again as a whole, whatever it is.
///
/// # Errors
/// As for a SELECT; 0A000 with the reason for what cannot be kept true.
pub fn plan_live(
    catalog: &Arc<Catalog>,
    sql: &str,
    param_types: &[Option<PgType>],
    context: &PlanContext,
    recompute: bool,
) -> Result<LivePlan, SqlError> {
    let (statement, marks) = parse_marked(sql, context)?;
    let Statement::Query(query) = &statement else {
        return Err(refused("it is no SELECT"));
    };
    let planning = Planning {
        catalog,
        sql,
        types: param_types,
        context,
        marks,
        puts_order_out: false,
        unrestricted: false,
    };
    let plan = planning.plan(query, recompute)?;
    if plan.class != LiveClass::Evaluated {
        return Ok(plan);
    }
    Ok(planning.otherwise(query, &plan).unwrap_or(plan))
}

fn refused(why: &str) -> SqlError {
    SqlError::new(
        ErrorCode::FeatureNotSupported,
        format!("this query cannot be kept true as a live query: {why}"),
    )
}
