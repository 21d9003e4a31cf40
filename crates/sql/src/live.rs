//! Live queries: how a SELECT can be kept true as its tables change.
//!
//! [`plan_live`] plans the query as any other and looks at what it is made of. What it hands out
//! beside the query are variants of it that compute a part of its result: the rows that one table
//! row takes part in, the groups that it counts in, one group. The engine runs them for what a
//! commit has changed.

mod anchors;
mod conditions;
mod options;
mod planning;
mod shape;

use std::sync::Arc;

use springhead_proto::{CollectionId, ErrorCode, SqlError};
use sqlparser::ast::{self, SetExpr, Statement};

use crate::catalog::Catalog;
use crate::plan::{OutputColumn, Parameter};
use crate::planner::{PlanContext, parse_marked};
use crate::query::Analyzer;
use crate::query::select::Select;
use crate::query::typed::Typed;
use crate::types::PgType;

pub use conditions::{Condition, Operand, Test, literal_prefix};
pub(crate) use options::plan_text;
pub use options::{LiveOptions, LiveStatement, MAX_SQUASH_MS, read_live};

use conditions::is_compared_as_stored;
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
            LiveClass::Window => "ordered window",
            LiveClass::Evaluated => "evaluated",
            LiveClass::Recomputed => "recomputed",
        }
    }
}

/// A live query that can be kept true.
#[derive(Debug)]
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
    /// The collections it reads, ascending.
    pub reads: Vec<CollectionId>,
    /// For joins and groups the tables in FROM; for `Anchored` those of subqueries too.
    pub occurrences: Vec<Occurrence>,
    /// For groups the query for one group, for `Anchored` that for one row of the first table; its key
    /// follows the parameters.
    pub of_group: Option<String>,
    /// How many values that key has; for `Anchored` they are the first of `key`.
    pub group_keys: usize,
    /// For groups over left joins: in which groups the rows of the first table count.
    pub anchor_groups: Option<AnchorGroups>,
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
            LiveClass::Join => "for each changed row, the rows that it takes part in",
            LiveClass::Groups => "for each changed row, the groups that it counts in",
            LiveClass::Anchored => {
                "for each changed row, the rows of its first table that it matters to"
            }
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

    /// Whether its rows are rows of one table, so that their keys are document ids.
    #[must_use]
    pub fn has_document_ids(&self) -> bool {
        matches!(self.class, LiveClass::Rows | LiveClass::Window)
    }
}

/// Queries for the groups that rows of the first table count in: the key of the row, then the group's.
#[derive(Debug)]
pub struct AnchorGroups {
    /// Of all rows.
    pub all: String,
    /// Of one row, whose key follows the parameters.
    pub of_anchor: String,
    /// How many values a row's key has.
    pub anchor_keys: usize,
}

/// One table in FROM.
#[derive(Debug)]
pub struct Occurrence {
    pub collection: CollectionId,
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
    };
    let plan = planning.plan(query, recompute)?;
    if plan.class == LiveClass::Evaluated
        && plan
            .columns
            .iter()
            .all(|c| is_compared_as_stored(&c.pg_type))
        && let Some(grouped) = anchors::distinct_as_groups(query)
        && let Ok(plan) = planning.plan(&grouped, false)
        && plan.class == LiveClass::Groups
    {
        return Ok(LivePlan {
            because: "DISTINCT over plain tables",
            ..plan
        });
    }
    Ok(plan)
}

fn refused(why: &str) -> SqlError {
    SqlError::new(
        ErrorCode::FeatureNotSupported,
        format!("this query cannot be kept true as a live query: {why}"),
    )
}

/// What is asked of the outermost SELECT, and what was found there. The analyzer hands it over at
/// its end ([`Analyzer::probe_live`]).
pub(crate) struct Probe {
    /// The SELECT that is meant, by where it is in memory; only compared, never followed.
    target: usize,
    want: Want,
    /// The plain tables of FROM and their aliases.
    pub(crate) tables: Vec<(String, CollectionId)>,
    /// Whether all of FROM is plain tables.
    pub(crate) all_plain: bool,
    /// Grouped by: type, and the text compared.
    pub(crate) groups: Vec<(PgType, String)>,
    pub(crate) is_aggregate: bool,
    groups_of_key: Option<String>,
}

/// Which variant of the query is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Nothing,
    Keys,
    OfKey {
        index: usize,
        first: usize,
    },
    GroupsOfKey {
        index: usize,
        first: usize,
    },
    OfGroup {
        first: usize,
    },
    /// The keys of the first table's rows that a row of one table is joined to, whatever WHERE says.
    AnchorsOfKey {
        index: usize,
        first: usize,
    },
    /// The keys of the first table's rows that meet WHERE.
    Anchors,
    /// The same, of all or of one, with the groups that they count in.
    AnchorGroups {
        of: Option<usize>,
    },
}

impl Probe {
    fn new(query: &ast::Query, want: Want) -> Probe {
        let target = match &*query.body {
            SetExpr::Select(select) => std::ptr::from_ref::<ast::Select>(select).addr(),
            _ => 0,
        };
        Probe {
            target,
            want,
            tables: Vec::new(),
            all_plain: false,
            groups: Vec::new(),
            is_aggregate: false,
            groups_of_key: None,
        }
    }

    pub(crate) fn note_group(&mut self, ty: &PgType, compared: &str) {
        self.groups.push((ty.clone(), compared.to_owned()));
    }
}

impl Analyzer<'_> {
    /// At the end of a SELECT's analysis: tells a live query's probe what it is made of, and makes
    /// the variant that it wants.
    pub(crate) fn probe_live(
        &mut self,
        select: &ast::Select,
        result: &mut Select,
        names: &mut Vec<String>,
    ) -> Result<(), SqlError> {
        if self
            .live
            .as_ref()
            .is_none_or(|probe| probe.target != std::ptr::from_ref::<ast::Select>(select).addr())
        {
            // A nested SELECT's groups are its own.
            if let Some(probe) = &mut self.live {
                probe.groups.clear();
            }
            return Ok(());
        }
        let mut probe = self.live.take().expect("looked at above");
        let relations = self.scope().relations.clone();
        for relation in &relations {
            let named = (self.named_tables.iter()).find(|(alias, _)| *alias == relation.id);
            probe.tables.extend(named.cloned());
        }
        probe.all_plain = probe.tables.len() == relations.len()
            && relations.iter().all(|relation| !relation.key.is_empty())
            && self.scope().sets.is_empty();
        probe.is_aggregate =
            self.scope().has_aggregates || !result.group.is_empty() || result.having.is_some();
        let of = |key: &[String], first: usize| {
            let terms: Vec<String> = (key.iter().enumerate())
                .map(|(place, text)| format!("{text} IS ?{}", first + place))
                .collect();
            terms.join(" AND ")
        };
        let compared: Vec<String> = probe.groups.iter().map(|group| group.1.clone()).collect();
        let extra = match probe.want {
            Want::OfKey { index, first } | Want::GroupsOfKey { index, first } => {
                Some(of(&relations[index].key, first))
            }
            Want::OfGroup { first } => Some(of(&compared, first)),
            Want::AnchorsOfKey { index, first } => {
                result.condition = None;
                Some(of(&relations[index].key, first))
            }
            Want::AnchorGroups { of: Some(first) } => Some(of(&relations[0].key, first)),
            Want::Nothing | Want::Keys | Want::Anchors | Want::AnchorGroups { of: None } => None,
        };
        if let Some(extra) = extra {
            result.condition = Some(match result.condition.take() {
                Some(condition) => format!("({condition}) AND {extra}"),
                None => extra,
            });
        }
        if let Want::GroupsOfKey { .. } = probe.want {
            let outputs = if compared.is_empty() {
                "1".to_owned()
            } else {
                compared.join(",")
            };
            probe.groups_of_key = Some(format!(
                "SELECT DISTINCT {outputs} FROM {} WHERE {}",
                result.from.as_deref().unwrap_or_default(),
                result.condition.as_deref().unwrap_or("1")
            ));
        }
        if let Want::AnchorsOfKey { .. } | Want::Anchors | Want::AnchorGroups { .. } = probe.want
            && let Some(anchor) = relations.first()
        {
            let mut outputs = anchor.key.clone();
            if let Want::AnchorGroups { .. } = probe.want {
                outputs.extend(compared.iter().cloned());
            }
            probe.groups_of_key = Some(format!(
                "SELECT DISTINCT {} FROM {} WHERE {}",
                outputs.join(","),
                result.from.as_deref().unwrap_or_default(),
                result.condition.as_deref().unwrap_or("1")
            ));
        }
        if probe.want != Want::Nothing {
            let keys = self.key_outputs(&probe, &relations)?;
            names.extend(keys.iter().map(|_| "key".to_owned()));
            result.items.extend(keys);
        }
        self.live = Some(probe);
        Ok(())
    }

    fn key_outputs(
        &self,
        probe: &Probe,
        relations: &[crate::query::scope::Relation],
    ) -> Result<Vec<Typed>, SqlError> {
        if probe.is_aggregate {
            return Ok((probe.groups.iter())
                .map(|(ty, compared)| {
                    // Of equal values with several forms the form compared is shown.
                    let ty = match ty.key_function() {
                        Some(_) => PgType::Bytea,
                        None => ty.clone(),
                    };
                    Typed::new(compared.clone(), ty)
                })
                .collect());
        }
        let mut keys = Vec::new();
        for (relation, (_, collection)) in relations.iter().zip(&probe.tables) {
            let table = self.catalog.table(*collection).ok_or_else(|| {
                SqlError::new(ErrorCode::UndefinedTable, "a table has gone meanwhile")
            })?;
            for (text, column) in relation.key.iter().zip(table.key_columns()) {
                keys.push(Typed::new(text.clone(), column.pg_type.clone()));
            }
        }
        Ok(keys)
    }
}
