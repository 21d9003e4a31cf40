//! Live queries: how a SELECT can be kept true as its tables change.
//!
//! [`plan_live`] plans the query as any other and looks at what it is made of. What it hands out
//! beside the query are variants of it that compute a part of its result: the rows that one table
//! row takes part in, the groups that it counts in, one group. The engine runs them for what a
//! commit has changed.

use std::ops::ControlFlow;
use std::sync::Arc;

use springhead_proto::{CollectionId, ErrorCode, SqlError, Value};
use sqlparser::ast::{self, BinaryOperator, Expr, JoinOperator, SetExpr, Statement, TableFactor};

use crate::catalog::{Catalog, Column};
use crate::plan::{OutputColumn, Parameter};
use crate::planner::{PlanContext, parse_marked};
use crate::query::select::Select;
use crate::query::typed::Typed;
use crate::query::{Analyzer, Rules};
use crate::types::{PgType, input};

/// How a live query's result is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiveClass {
    /// A filter and projection of one table: from the row images of a commit alone.
    Rows,
    /// Inner joins: the rows that changed rows take part in.
    Join,
    /// GROUP BY and aggregates: the groups that changed rows count in.
    Groups,
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
    /// For joins and groups: the tables in FROM.
    pub occurrences: Vec<Occurrence>,
    /// For groups: the query for one group, whose key follows the parameters.
    pub of_group: Option<String>,
    /// How many expressions it groups by.
    pub group_keys: usize,
    /// For `Rows`: conditions that every row of the result meets, column = one of these.
    pub equals: Vec<EqualTo>,
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
            let by = (self.equals.iter()).min_by_key(|equal| equal.operands.len());
            lines.push(match by {
                Some(equal) => format!(
                    "  Found by: {} = one of {} values (hash index)",
                    column(equal.column),
                    equal.operands.len()
                ),
                None => "  Found by: every changed row".to_owned(),
            });
        }
        if let Some(watched) = &self.watched {
            let watched: Vec<String> = watched.iter().map(|id| column(*id)).collect();
            lines.push(format!("  Watches: {}", watched.join(", ")));
        }
        lines.push(format!("  Cost per commit: {cost}"));
        lines.push(format!("  SQLite: {}", self.sql));
        lines
    }

    /// Whether its rows are rows of one table, so that their keys are document ids.
    #[must_use]
    pub fn has_document_ids(&self) -> bool {
        matches!(self.class, LiveClass::Rows | LiveClass::Window)
    }
}

/// One table in FROM.
#[derive(Debug)]
pub struct Occurrence {
    pub collection: CollectionId,
    /// The query for the rows that the table row with one key takes part in, or, for groups, the
    /// groups that it counts in. The key's values follow the parameters.
    pub of_key: String,
}

/// `column = value` or `column IN (…)`, a conjunct of WHERE.
#[derive(Debug, Clone)]
pub struct EqualTo {
    /// The column's id.
    pub column: u32,
    pub operands: Vec<Operand>,
}

/// What a column is compared with, in storage form.
#[derive(Debug, Clone)]
pub enum Operand {
    Value(Value),
    /// Parameter, from 0.
    Parameter(usize),
}

/// Takes `LIVE` and `WITH (recompute)` off a statement's text; whether the latter was there.
#[must_use]
pub fn strip_live(sql: &str) -> (&str, bool) {
    let mut text = sql.trim().trim_end_matches(';').trim_end();
    if let Some(head) = text.get(..4)
        && head.eq_ignore_ascii_case("live")
        && text[4..].starts_with(char::is_whitespace)
    {
        text = text[4..].trim_start();
    }
    let Some(inside) = text.strip_suffix(')').map(str::trim_end) else {
        return (text, false);
    };
    let word = "recompute";
    let Some(at) = inside.len().checked_sub(word.len()) else {
        return (text, false);
    };
    let with = inside
        .get(at..)
        .filter(|tail| tail.eq_ignore_ascii_case(word))
        .and_then(|_| inside[..at].trim_end().strip_suffix('('))
        .map(str::trim_end)
        .and_then(|head| {
            let at = head.len().checked_sub(4)?;
            let tail = head.get(at..)?;
            tail.eq_ignore_ascii_case("with").then(|| &head[..at])
        });
    match with {
        Some(query) if query.ends_with(char::is_whitespace) => (query.trim_end(), true),
        _ => (text, false),
    }
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
    let run = |probe: Probe| {
        let mut analyzer = Analyzer::new(catalog, sql, context, param_types, usize::MAX);
        analyzer.marks = marks.clone();
        analyzer.rules = Rules {
            place: Some("a live query"),
            no_volatile: true,
            ..Rules::default()
        };
        analyzer.live = Some(Box::new(probe));
        let analyzed = analyzer.query(query)?;
        let (sql, columns) = analyzed.into_top_level(&mut analyzer)?;
        Ok::<_, SqlError>((analyzer, sql, columns))
    };
    let (mut analyzer, mut text, mut columns) = run(Probe::new(query, Want::Nothing))?;
    check(&analyzer, &text)?;
    analyzer.check_references()?;
    let probe = analyzer.live.take().expect("it was given one");
    let reads = analyzer.reads();
    let shape = Shape::of(query, &probe, &analyzer);
    let parameters = analyzer.finish_parameters()?;
    let (class, because) = shape.class(recompute)?;
    let mut plan = LivePlan {
        catalog_version: catalog.version,
        class,
        because,
        sql: String::new(),
        columns: Arc::clone(&columns),
        is_keyed: shape.has_keys(),
        key: Vec::new(),
        ordered: query.order_by.is_some(),
        reads,
        occurrences: Vec::new(),
        of_group: None,
        group_keys: probe.groups.len(),
        equals: Vec::new(),
        watched: None,
        parameters,
    };
    let visible = columns.len();
    let first = plan.parameters.len() + 1;
    if shape.has_keys() {
        let (_, keyed, all) = run(Probe::new(query, Want::Keys))?;
        plan.key = all[visible..].iter().map(|c| c.pg_type.clone()).collect();
        text = keyed;
        columns = all[..visible].into();
    }
    if matches!(class, LiveClass::Join | LiveClass::Groups) {
        for (index, (_, collection)) in probe.tables.iter().enumerate() {
            let want = if class == LiveClass::Join {
                Want::OfKey { index, first }
            } else {
                Want::GroupsOfKey { index, first }
            };
            let (mut analyzer, sql, _) = run(Probe::new(query, want))?;
            let made = analyzer.live.take().and_then(|probe| probe.groups_of_key);
            plan.occurrences.push(Occurrence {
                collection: *collection,
                of_key: made.unwrap_or(sql),
            });
        }
        if class == LiveClass::Groups && !probe.groups.is_empty() {
            plan.of_group = Some(run(Probe::new(query, Want::OfGroup { first }))?.1);
        }
    }
    if matches!(class, LiveClass::Rows | LiveClass::Window) {
        let table = catalog.table(probe.tables[0].1);
        if let (Some(table), SetExpr::Select(select)) = (table, &*query.body) {
            equal_conjuncts(
                select.selection.as_ref(),
                &table.columns,
                &plan.parameters,
                &mut plan.equals,
            );
            plan.watched = Some(
                (table.columns.iter())
                    .filter(|c| text.contains(&format!("\"{}\"", c.storage_name())))
                    .map(|c| c.id)
                    .collect(),
            );
        }
    }
    plan.sql = text;
    plan.columns = columns;
    Ok(plan)
}

fn refused(why: &str) -> SqlError {
    SqlError::new(
        ErrorCode::FeatureNotSupported,
        format!("this query cannot be kept true as a live query: {why}"),
    )
}

fn check(analyzer: &Analyzer<'_>, sql: &str) -> Result<(), SqlError> {
    if analyzer.locks {
        return Err(refused("it locks rows (FOR UPDATE)"));
    }
    if analyzer.has_effects || !analyzer.sequences.is_empty() {
        return Err(refused("it calls a function for its effect"));
    }
    // Time passes without a commit.
    if sql.contains("sh_now(") || sql.contains("sh_clock") || sql.contains("sh_random") {
        return Err(
            refused("its result changes with time or chance, without any commit")
                .with_hint("pass the time as a parameter"),
        );
    }
    if sql.contains("sh_call") {
        return Err(refused(
            "it calls a function of yours, which may read anything",
        ));
    }
    // What is there for drivers is no collection.
    if sql.contains("sh_sys") {
        return Err(refused("it reads the system catalogs"));
    }
    if analyzer.reads.is_empty() {
        return Err(refused("it reads no table"));
    }
    if analyzer.reads.iter().any(|read| read.is_system()) {
        return Err(refused("it reads a table of the system"));
    }
    Ok(())
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
    OfKey { index: usize, first: usize },
    GroupsOfKey { index: usize, first: usize },
    OfGroup { first: usize },
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
            Want::Nothing | Want::Keys => None,
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

/// What a query is made of, as far as its class depends on it.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one thing that a query has or not"
)]
struct Shape {
    is_select: bool,
    /// Each row of FROM has a key.
    is_keyed: bool,
    all_plain: bool,
    tables: usize,
    inner_only: bool,
    has_subqueries: bool,
    has_windows: bool,
    is_recursive: bool,
    is_distinct: bool,
    is_aggregate: bool,
    is_ordered: bool,
}

impl Shape {
    fn of(query: &ast::Query, probe: &Probe, analyzer: &Analyzer<'_>) -> Shape {
        let mut finder = Finder::default();
        let _ = ast::Visit::visit(query, &mut finder);
        let select = match &*query.body {
            SetExpr::Select(select) => Some(select),
            _ => None,
        };
        Shape {
            is_select: select.is_some() && query.with.is_none(),
            is_keyed: probe.all_plain,
            all_plain: probe.all_plain && analyzer.named_tables.len() == probe.tables.len(),
            tables: probe.tables.len(),
            inner_only: select.is_some_and(|select| {
                (select.from.iter())
                    .flat_map(|from| &from.joins)
                    .all(|join| {
                        matches!(join.relation, TableFactor::Table { .. })
                            && matches!(
                                join.join_operator,
                                JoinOperator::Join(_)
                                    | JoinOperator::Inner(_)
                                    | JoinOperator::CrossJoin(_)
                            )
                    })
            }),
            has_subqueries: finder.queries > 1,
            has_windows: finder.windows,
            is_recursive: query.with.as_ref().is_some_and(|with| with.recursive),
            is_distinct: select.is_some_and(|select| select.distinct.is_some()),
            is_aggregate: probe.is_aggregate,
            is_ordered: query.order_by.is_some()
                || query.limit_clause.is_some()
                || query.fetch.is_some(),
        }
    }

    fn is_simple(&self) -> bool {
        self.is_select && self.all_plain && !self.has_subqueries && !self.is_distinct
    }

    /// Whether its rows have a key of their own.
    fn has_keys(&self) -> bool {
        let keyed = if self.is_aggregate {
            !self.has_subqueries
        } else {
            self.is_keyed
        };
        self.is_select && !self.is_distinct && keyed
    }

    fn class(&self, recompute: bool) -> Result<(LiveClass, &'static str), SqlError> {
        let hint = "add WITH (recompute) to have it evaluated again after each commit";
        if self.has_windows && !recompute {
            return Err(refused("a window function's value depends on all rows").with_hint(hint));
        }
        if self.is_recursive && !recompute {
            return Err(refused("a recursive query's rows have no key").with_hint(hint));
        }
        if self.has_windows || self.is_recursive {
            return Ok((LiveClass::Recomputed, "asked for with WITH (recompute)"));
        }
        Ok(match () {
            () if !self.is_select => (LiveClass::Evaluated, "WITH or a set operation"),
            () if self.is_distinct => (LiveClass::Evaluated, "DISTINCT"),
            () if self.has_subqueries => (LiveClass::Evaluated, "a subquery"),
            () if !self.is_simple() => (LiveClass::Evaluated, "a view or a subquery in FROM"),
            () if self.is_aggregate && self.inner_only && !self.is_ordered => (
                LiveClass::Groups,
                "GROUP BY or aggregates over plain tables",
            ),
            () if self.is_aggregate => (LiveClass::Evaluated, "ordered groups, or an outer join"),
            () if self.is_ordered && self.tables == 1 => {
                (LiveClass::Window, "ORDER BY or LIMIT over one table")
            }
            () if self.is_ordered => (LiveClass::Evaluated, "ORDER BY or LIMIT over a join"),
            () if self.tables == 1 => (LiveClass::Rows, "a condition on one table"),
            () if self.inner_only => (LiveClass::Join, "inner joins of plain tables"),
            () => (LiveClass::Evaluated, "an outer join"),
        })
    }
}

#[derive(Default)]
struct Finder {
    queries: usize,
    windows: bool,
}

impl ast::Visitor for Finder {
    type Break = ();

    fn pre_visit_query(&mut self, _: &ast::Query) -> ControlFlow<()> {
        self.queries += 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && function.over.is_some()
        {
            self.windows = true;
        }
        ControlFlow::Continue(())
    }
}

/// The conjuncts `column = constant` and `column IN (constants)` of a condition whose comparison
/// is that of storage values.
fn equal_conjuncts(
    condition: Option<&Expr>,
    columns: &[Column],
    parameters: &[Parameter],
    out: &mut Vec<EqualTo>,
) {
    let column_of = |expr: &Expr| {
        let ident = match expr {
            Expr::Identifier(ident) => ident,
            Expr::CompoundIdentifier(parts) => parts.last()?,
            _ => return None,
        };
        let name = crate::query::names::fold(ident);
        columns.iter().find(|column| {
            !column.hidden && column.name == name && is_compared_as_stored(&column.pg_type)
        })
    };
    match condition {
        Some(Expr::Nested(inner)) => equal_conjuncts(Some(inner), columns, parameters, out),
        Some(Expr::BinaryOp {
            left,
            op: BinaryOperator::And,
            right,
        }) => {
            equal_conjuncts(Some(left), columns, parameters, out);
            equal_conjuncts(Some(right), columns, parameters, out);
        }
        Some(Expr::BinaryOp {
            left,
            op: BinaryOperator::Eq,
            right,
        }) => {
            for (column, value) in [(left, right), (right, left)] {
                if let Some(column) = column_of(column)
                    && let Some(operand) = operand(value, column, parameters)
                {
                    out.push(EqualTo {
                        column: column.id,
                        operands: vec![operand],
                    });
                    return;
                }
            }
        }
        Some(Expr::InList {
            expr,
            list,
            negated: false,
        }) => {
            if let Some(column) = column_of(expr) {
                let operands: Option<Vec<_>> = (list.iter())
                    .map(|value| operand(value, column, parameters))
                    .collect();
                out.extend(operands.map(|operands| EqualTo {
                    column: column.id,
                    operands,
                }));
            }
        }
        _ => {}
    }
}

/// Types of which equal values have one storage form.
fn is_compared_as_stored(ty: &PgType) -> bool {
    matches!(
        ty,
        PgType::Int2
            | PgType::Int4
            | PgType::Int8
            | PgType::Text
            | PgType::Varchar(_)
            | PgType::Uuid
            | PgType::Bool
    )
}

fn operand(expr: &Expr, column: &Column, parameters: &[Parameter]) -> Option<Operand> {
    let Expr::Value(value) = expr else {
        return None;
    };
    match &value.value {
        ast::Value::Placeholder(name) => {
            let index = name
                .strip_prefix('$')?
                .parse::<usize>()
                .ok()?
                .checked_sub(1)?;
            let ty = &parameters.get(index)?.pg_type;
            let same = ty.same_base(&column.pg_type)
                || ty.is_integer() && column.pg_type.is_integer()
                || matches!(ty, PgType::Text | PgType::Varchar(_))
                    && matches!(column.pg_type, PgType::Text | PgType::Varchar(_));
            same.then_some(Operand::Parameter(index))
        }
        ast::Value::Number(digits, _) if column.pg_type.is_integer() => digits
            .parse()
            .ok()
            .map(|number| Operand::Value(Value::Integer(number))),
        ast::Value::SingleQuotedString(text) => {
            let ty = match &column.pg_type {
                PgType::Varchar(_) => PgType::Text,
                other => other.clone(),
            };
            input(&ty, text).ok().map(Operand::Value)
        }
        ast::Value::Boolean(truth) if column.pg_type == PgType::Bool => {
            Some(Operand::Value(Value::Integer(i64::from(*truth))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::strip_live;

    #[test]
    fn what_makes_a_select_live_is_taken_off() {
        for (text, query, recompute) in [
            ("SELECT 1", "SELECT 1", false),
            ("live  select 1 ;", "select 1", false),
            (
                "LIVE SELECT a FROM b WITH (recompute);",
                "SELECT a FROM b",
                true,
            ),
            (
                "select a from b with ( RECOMPUTE )",
                "select a from b",
                true,
            ),
            ("select f(recompute)", "select f(recompute)", false),
            ("select width(recompute)", "select width(recompute)", false),
        ] {
            assert_eq!(strip_live(text), (query, recompute), "{text}");
        }
    }
}
