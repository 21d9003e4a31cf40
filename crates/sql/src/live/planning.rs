//! A live query's plan: the query, and the variants of it that its class needs.

use std::sync::Arc;

use springhead_proto::{CollectionId, ErrorCode, SqlError};
use sqlparser::ast::{self, SetExpr, TableFactor};

use super::conditions::{Reader, Test};
use super::shape::Shape;
use super::{AnchorGroups, LiveClass, LivePlan, Occurrence, Probe, Want, anchors, refused};
use crate::catalog::{Catalog, Table};
use crate::grammar::Marks;
use crate::plan::OutputColumn;
use crate::planner::PlanContext;
use crate::query::{Analyzer, Rules};
use crate::types::PgType;

/// What a query and its variants are planned with.
pub(super) struct Planning<'p> {
    pub catalog: &'p Arc<Catalog>,
    pub sql: &'p str,
    pub types: &'p [Option<PgType>],
    pub context: &'p PlanContext,
    pub marks: Marks,
}

/// An analyzed variant: its text and its outputs.
type Variant<'p> = (Analyzer<'p>, String, Arc<[OutputColumn]>);

impl<'p> Planning<'p> {
    fn run(
        &self,
        query: &ast::Query,
        types: &'p [Option<PgType>],
        want: Want,
    ) -> Result<Variant<'p>, SqlError> {
        let mut analyzer = Analyzer::new(self.catalog, self.sql, self.context, types, usize::MAX);
        analyzer.marks = self.marks.clone();
        analyzer.rules = Rules {
            place: Some("a live query"),
            no_volatile: true,
            ..Rules::default()
        };
        analyzer.live = Some(Box::new(Probe::new(query, want)));
        let analyzed = analyzer.query(query)?;
        let (sql, columns) = analyzed.into_top_level(&mut analyzer)?;
        Ok((analyzer, sql, columns))
    }

    pub(super) fn plan(&self, query: &ast::Query, recompute: bool) -> Result<LivePlan, SqlError> {
        let (mut analyzer, mut text, mut columns) = self.run(query, self.types, Want::Nothing)?;
        check(&analyzer, &text)?;
        analyzer.check_references()?;
        let probe = analyzer.live.take().expect("it was given one");
        let reads = analyzer.reads();
        let shape = Shape::of(query, &probe, &analyzer);
        let parameters = analyzer.finish_parameters()?;
        let (class, because) = shape.class(recompute)?;
        let mut plan = LivePlan {
            catalog_version: self.catalog.version,
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
            anchor_groups: None,
            table: None,
            conditions: Vec::new(),
            order_index: Vec::new(),
            watched: None,
            parameters,
        };
        let mut in_from: Vec<CollectionId> = probe.tables.iter().map(|table| table.1).collect();
        in_from.sort_unstable();
        in_from.dedup();
        if in_from != plan.reads && !matches!(class, LiveClass::Window | LiveClass::Recomputed) {
            plan.class = LiveClass::Evaluated;
            if class != LiveClass::Evaluated {
                plan.because = "what its user may see depends on other tables";
            }
        }
        let visible = columns.len();
        if shape.has_keys() {
            let (_, keyed, all) = self.run(query, self.types, Want::Keys)?;
            plan.key = all[visible..].iter().map(|c| c.pg_type.clone()).collect();
            text = keyed;
            columns = all[..visible].into();
        }
        match plan.class {
            LiveClass::Join | LiveClass::Groups => self.occurrences(query, &probe, &mut plan)?,
            LiveClass::Evaluated if shape.may_be_anchored() => {
                self.anchor(query, &probe, &shape, &mut plan)?;
            }
            LiveClass::Evaluated
                if shape.may_group_by_anchor()
                    && !probe.groups.is_empty()
                    && in_from == plan.reads =>
            {
                self.group_by_anchor(query, &probe, &mut plan)?;
            }
            _ => {}
        }
        let has_conditions = matches!(
            plan.class,
            LiveClass::Rows | LiveClass::Window | LiveClass::Groups
        );
        if has_conditions
            && plan.reads.len() == 1
            && let [(_, collection)] = probe.tables[..]
            && let Some(table) = self.catalog.table(collection)
        {
            look_at_table(&mut plan, query, table, &text);
        }
        plan.sql = text;
        plan.columns = columns;
        Ok(plan)
    }

    /// For joins and groups: the variants by the key of each table.
    fn occurrences(
        &self,
        query: &ast::Query,
        probe: &Probe,
        plan: &mut LivePlan,
    ) -> Result<(), SqlError> {
        let first = plan.parameters.len() + 1;
        for (index, (_, collection)) in probe.tables.iter().enumerate() {
            let want = if plan.class == LiveClass::Join {
                Want::OfKey { index, first }
            } else {
                Want::GroupsOfKey { index, first }
            };
            let (mut analyzer, sql, _) = self.run(query, self.types, want)?;
            let made = analyzer.live.take().and_then(|probe| probe.groups_of_key);
            plan.occurrences.push(Occurrence {
                collection: *collection,
                of_key: made.unwrap_or(sql),
            });
        }
        if plan.class == LiveClass::Groups && !probe.groups.is_empty() {
            let of_group = self.run(query, self.types, Want::OfGroup { first })?.1;
            plan.of_group = Some(of_group);
        }
        Ok(())
    }

    /// Makes an evaluated query one that is kept by the rows of its first table, if it can be.
    fn anchor(
        &self,
        query: &ast::Query,
        probe: &Probe,
        shape: &Shape,
        plan: &mut LivePlan,
    ) -> Result<(), SqlError> {
        let count = plan.parameters.len();
        let (first, subqueries) = (count + 1, shape.subqueries());
        let finders =
            anchors::subquery_finders(query, subqueries, count, self.catalog, self.context);
        let Some(finders) = finders else {
            return Ok(());
        };
        let mut found: Vec<CollectionId> = (probe.tables.iter().map(|table| table.1))
            .chain(finders.iter().map(|finder| finder.collection))
            .collect();
        found.sort_unstable();
        found.dedup();
        if found != plan.reads {
            return Ok(());
        }
        let mut occurrences = Vec::new();
        let mut push = |collection, (mut analyzer, ..): Variant<'_>| {
            let made = analyzer.live.take().and_then(|probe| probe.groups_of_key);
            occurrences.extend(made.map(|of_key| Occurrence { collection, of_key }));
        };
        for (index, (_, collection)) in probe.tables.iter().enumerate() {
            let want = Want::AnchorsOfKey { index, first };
            push(*collection, self.run(query, self.types, want)?);
        }
        for finder in &finders {
            let types: Vec<Option<PgType>> = (plan.parameters.iter())
                .map(|parameter| Some(parameter.pg_type.clone()))
                .chain(finder.key.iter().cloned().map(Some))
                .collect();
            let planning = Planning {
                types: &types,
                marks: self.marks.clone(),
                ..*self
            };
            push(
                finder.collection,
                planning.run(&finder.query, &types, Want::Anchors)?,
            );
        }
        if occurrences.len() != probe.tables.len() + finders.len() {
            return Ok(());
        }
        let of_anchor = Want::OfKey { index: 0, first };
        plan.of_group = Some(self.run(query, self.types, of_anchor)?.1);
        let anchor = probe
            .tables
            .first()
            .and_then(|table| self.catalog.table(table.1));
        plan.group_keys = anchor.map_or(0, |table| table.key.len());
        plan.occurrences = occurrences;
        plan.class = LiveClass::Anchored;
        Ok(())
    }
}

impl Planning<'_> {
    /// Makes a grouping over left joins one that is kept by groups, which are found by the rows of the
    /// first table: a row that comes takes others along that were there for want of it.
    fn group_by_anchor(
        &self,
        query: &ast::Query,
        probe: &Probe,
        plan: &mut LivePlan,
    ) -> Result<(), SqlError> {
        let first = plan.parameters.len() + 1;
        let made = |want| {
            let (mut analyzer, ..) = self.run(query, self.types, want)?;
            let made = analyzer.live.take().and_then(|probe| probe.groups_of_key);
            made.ok_or_else(|| SqlError::new(ErrorCode::Internal, "a variant was not made"))
        };
        for (index, (_, collection)) in probe.tables.iter().enumerate() {
            plan.occurrences.push(Occurrence {
                collection: *collection,
                of_key: made(Want::AnchorsOfKey { index, first })?,
            });
        }
        let anchor = probe
            .tables
            .first()
            .and_then(|table| self.catalog.table(table.1));
        plan.anchor_groups = Some(AnchorGroups {
            all: made(Want::AnchorGroups { of: None })?,
            of_anchor: made(Want::AnchorGroups { of: Some(first) })?,
            anchor_keys: anchor.map_or(0, |table| table.key.len()),
        });
        plan.of_group = Some(self.run(query, self.types, Want::OfGroup { first })?.1);
        plan.class = LiveClass::Groups;
        plan.because = "GROUP BY over left joins of plain tables";
        Ok(())
    }
}

/// What is known of a query over one table alone.
fn look_at_table(plan: &mut LivePlan, query: &ast::Query, table: &Table, text: &str) {
    let SetExpr::Select(select) = &*query.body else {
        return;
    };
    plan.table = Some(table.collection());
    let is_renamed = select.from.first().is_some_and(|from| {
        matches!(&from.relation, TableFactor::Table { alias: Some(alias), .. } if !alias.columns.is_empty())
    });
    if let Some(condition) = &select.selection
        && !is_renamed
    {
        let mut reader = Reader {
            columns: &table.columns,
            parameters: &plan.parameters,
            found: Vec::new(),
        };
        reader.read(condition);
        plan.conditions = reader.found;
        (plan.conditions).sort_by_key(|condition| std::cmp::Reverse(condition.test.rank()));
    }
    if plan.class == LiveClass::Window && !is_renamed {
        plan.order_index = order_index(plan, query, select, table).unwrap_or_default();
    }
    plan.watched = Some(
        (table.columns.iter())
            .filter(|c| text.contains(&format!("\"{}\"", c.storage_name())))
            .map(|c| c.id)
            .collect(),
    );
}

/// The columns of an index that gives the rows of a window in their order, so that it is refilled
/// without a look at all rows: those that WHERE fixes, then those of ORDER BY.
fn order_index(
    plan: &LivePlan,
    query: &ast::Query,
    select: &ast::Select,
    table: &Table,
) -> Option<Vec<(u32, bool)>> {
    let ast::OrderByKind::Expressions(terms) = &query.order_by.as_ref()?.kind else {
        return None;
    };
    let mut columns: Vec<(u32, bool)> = (plan.conditions.iter())
        .filter(|condition| matches!(&condition.test, Test::Equal(operands) if operands.len() == 1))
        .map(|condition| (condition.column, false))
        .collect();
    let fixed = columns.len();
    for term in terms {
        let ast::Expr::Identifier(ident) = &term.expr else {
            break;
        };
        let name = crate::query::names::fold(ident);
        // An output of that name comes before the column.
        let is_output = (select.projection.iter()).any(
            |item| matches!(item, ast::SelectItem::ExprWithAlias { alias, .. } if crate::query::names::fold(alias) == name),
        );
        let column = (table.columns.iter()).find(|column| !column.hidden && column.name == name);
        let Some(column) =
            column.filter(|column| !is_output && column.pg_type.key_function().is_none())
        else {
            break;
        };
        let is_descending = matches!(term.options.sort, Some(ast::OrderBySort::Desc));
        columns.push((column.id, is_descending));
    }
    (columns.len() > fixed).then_some(columns)
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
