//! A live query's plan: the query, and the variants of it that its class needs.

use std::sync::Arc;

use springhead_proto::{CollectionId, ErrorCode, SqlError};
use sqlparser::ast::{self, SetExpr};

use super::conditions::{Condition, Reader, Test, is_compared_as_stored};
use super::order::{Order, bounds};
use super::policies::policy_finders;
use super::probe::{Probe, Want};
use super::shape::Shape;
use super::{AnchorGroups, LiveClass, LivePlan, Occurrence, anchors, refused, simple};
use crate::access::Identity;
use crate::catalog::{Catalog, Column, Table};
use crate::grammar::Marks;
use crate::plan::{OutputColumn, Parameter};
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
    /// Variants come in no order, and with what they would be ordered by.
    pub puts_order_out: bool,
    /// Variants are planned without policies.
    pub unrestricted: bool,
}

/// Types that are known of parameters now.
pub(super) fn declared(parameters: &[Parameter]) -> Vec<Option<PgType>> {
    let types = parameters.iter().map(|parameter| &parameter.pg_type);
    types.cloned().map(Some).collect()
}

/// An analyzed variant: its text and its outputs.
type Variant<'p> = (Analyzer<'p>, String, Arc<[OutputColumn]>);

impl<'p> Planning<'p> {
    pub(super) fn run(
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
        if self.unrestricted {
            analyzer.acting = Arc::new(Identity::unrestricted(&self.context.identity.role));
        }
        analyzer.live = Some(Box::new(Probe::new(query, want, self.puts_order_out)));
        let analyzed = analyzer.query(query)?;
        let (sql, columns) = analyzed.into_top_level(&mut analyzer)?;
        Ok((analyzer, sql, columns))
    }

    pub(super) fn plan(&self, query: &ast::Query, recompute: bool) -> Result<LivePlan, SqlError> {
        let (mut analyzer, mut text, mut columns) = self.run(query, self.types, Want::Nothing)?;
        check(&analyzer, &text)?;
        analyzer.check_references()?;
        let probe = analyzer.live.take().expect("it was given one");
        let (reads, names_others) = (analyzer.reads(), analyzer.names_others);
        let shape = Shape::of(query, &probe, &analyzer, self.puts_order_out);
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
            order: None,
            reads,
            names_others,
            occurrences: Vec::new(),
            of_group: None,
            group_keys: probe.groups.len(),
            anchor_groups: None,
            sides: None,
            table: None,
            conditions: Vec::new(),
            order_index: Vec::new(),
            watched: None,
            parameters,
        };
        let in_from = collections(&probe);
        if in_from != plan.reads && !matches!(class, LiveClass::Window | LiveClass::Recomputed) {
            plan.class = LiveClass::Evaluated;
            if class != LiveClass::Evaluated {
                plan.because = "what its user may see depends on other tables";
            }
        }
        let visible = columns.len();
        if shape.has_keys() {
            let (mut analyzer, keyed, all) = self.run(query, self.types, Want::Keys)?;
            let directions = (analyzer.live.take()).map_or_else(Vec::new, |probe| probe.directions);
            let key = &all[visible..all.len() - directions.len()];
            plan.key = key.iter().map(|c| c.pg_type.clone()).collect();
            plan.order = self.puts_order_out.then(|| Order::of(&directions));
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
            && let [source] = &probe.tables[..]
            && let Some(table) = self.catalog.table(source.collection)
        {
            look_at_table(&mut plan, query, &probe, table, &text);
        }
        plan.sql = text;
        plan.columns = columns;
        Ok(plan)
    }

    /// A query that would be evaluated as a whole, in a form that means the same and is kept by parts.
    pub(super) fn otherwise(&self, query: &ast::Query, evaluated: &LivePlan) -> Option<LivePlan> {
        let simpler = simple::simplified(query);
        let query = simpler.as_ref().unwrap_or(query);
        let is_better = |plan: &LivePlan| {
            plan.class != LiveClass::Evaluated && plan.columns == evaluated.columns
        };
        let plain = (simpler.is_some()).then(|| self.plan(query, false).ok());
        (plain.flatten().filter(is_better))
            .or_else(|| self.in_order(query))
            .or_else(|| self.as_groups(query, evaluated))
            .or_else(|| self.united(query).filter(is_better))
            .or_else(|| self.set_operation(query))
            .or_else(|| self.full_join(query))
            .filter(is_better)
    }

    /// An ordered query whose rows, in no order, are kept by parts.
    fn in_order(&self, query: &ast::Query) -> Option<LivePlan> {
        query.order_by.as_ref()?;
        let whole = self.plan(query, false).ok()?;
        let (limit, offset) = bounds(query, &whole.parameters)?;
        let types = declared(&whole.parameters);
        let planning = Planning {
            types: &types,
            marks: self.marks.clone(),
            puts_order_out: true,
            ..*self
        };
        let mut unlimited = query.clone();
        (unlimited.limit_clause, unlimited.fetch) = (None, None);
        let mut plan = planning.plan(&unlimited, false).ok()?;
        let is_by_parts = matches!(
            plan.class,
            LiveClass::Join | LiveClass::Groups | LiveClass::Anchored
        );
        if !is_by_parts || plan.key != whole.key {
            return None;
        }
        plan.order = Some(Order {
            all: std::mem::replace(&mut plan.sql, whole.sql),
            limit,
            offset,
            ..plan.order?
        });
        Some(plan)
    }

    /// DISTINCT as the groups that it is.
    fn as_groups(&self, query: &ast::Query, evaluated: &LivePlan) -> Option<LivePlan> {
        let mut columns = evaluated.columns.iter();
        if !columns.all(|column| is_compared_as_stored(&column.pg_type)) {
            return None;
        }
        let grouped = anchors::distinct_as_groups(query)?;
        let plan = self.plan(&grouped, false).ok()?;
        let plan = match plan.class {
            LiveClass::Evaluated => self.in_order(&grouped)?,
            _ => plan,
        };
        (plan.class == LiveClass::Groups).then_some(LivePlan {
            because: "DISTINCT over plain tables",
            ..plan
        })
    }

    fn united(&self, query: &ast::Query) -> Option<LivePlan> {
        let mut plan = self.plan(query, false).ok()?;
        self.unite(query, &mut plan).ok()?;
        Some(plan)
    }

    /// For joins and groups: the variants by the key of each table.
    fn occurrences(
        &self,
        query: &ast::Query,
        probe: &Probe,
        plan: &mut LivePlan,
    ) -> Result<(), SqlError> {
        let first = plan.parameters.len() + 1;
        for (index, source) in probe.tables.iter().enumerate() {
            let want = if plan.class == LiveClass::Join {
                Want::OfKey { index, first }
            } else {
                Want::GroupsOfKey { index, first }
            };
            let (mut analyzer, sql, _) = self.run(query, self.types, want)?;
            let made = analyzer.live.take().and_then(|probe| probe.made);
            plan.occurrences.push(Occurrence {
                collection: source.collection,
                part: 0,
                conditions: self.conditions_on(query, probe, index, &plan.parameters),
                of_key: made.unwrap_or(sql),
            });
        }
        if plan.class == LiveClass::Groups && !probe.groups.is_empty() {
            let of_group = self.run(query, self.types, Want::OfGroup { first })?.1;
            plan.of_group = Some(of_group);
        }
        Ok(())
    }

    /// What WHERE says of one table among inner joins.
    fn conditions_on(
        &self,
        query: &ast::Query,
        probe: &Probe,
        index: usize,
        parameters: &[Parameter],
    ) -> Vec<Condition> {
        let (SetExpr::Select(select), Some((alias, names)), Some(table)) = (
            &*query.body,
            probe.names.get(index),
            self.catalog.table(probe.tables[index].collection),
        ) else {
            return Vec::new();
        };
        let Some(condition) = select.selection.as_ref().filter(|_| !names.is_empty()) else {
            return Vec::new();
        };
        let columns = known_as(table, names);
        // Where not all names are known, a name alone may be another's.
        let all_known = probe.names.iter().all(|(_, names)| !names.is_empty());
        let is_its_own = |name: &str| {
            let has = |(_, names): &&(String, Vec<(String, u32)>)| {
                names.iter().any(|(known, _)| known == name)
            };
            all_known && probe.names.iter().filter(has).count() == 1
        };
        let mut reader = Reader::new(&columns, parameters).among(alias, &is_its_own);
        reader.read(condition);
        reader.found
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
        let identity = &self.context.identity;
        let of_policies = policy_finders(query, identity, count, self.catalog, self.context);
        let (Some(mut finders), Some(of_policies)) = (finders, of_policies) else {
            return Ok(());
        };
        finders.extend(of_policies);
        let mut found: Vec<CollectionId> = (probe.tables.iter().map(|source| source.collection))
            .chain(finders.iter().map(|finder| finder.collection))
            .collect();
        found.sort_unstable();
        found.dedup();
        // A policy of a policy's table, or of a view's, is not looked for.
        if found != plan.reads || shape.tables_beside() != finders.len() {
            return Ok(());
        }
        let mut occurrences = Vec::new();
        let mut push = |collection, (mut analyzer, ..): Variant<'_>| {
            let made = analyzer.live.take().and_then(|probe| probe.made);
            occurrences.extend(made.map(|of_key| Occurrence {
                collection,
                part: 0,
                conditions: Vec::new(),
                of_key,
            }));
        };
        for (index, source) in probe.tables.iter().enumerate() {
            let want = Want::AnchorsOfKey { index, first };
            push(source.collection, self.run(query, self.types, want)?);
        }
        for finder in &finders {
            let mut types = declared(&plan.parameters);
            types.extend(finder.key.iter().cloned().map(Some));
            let planning = Planning {
                types: &types,
                marks: self.marks.clone(),
                unrestricted: finder.unrestricted,
                ..*self
            };
            let Ok(variant) = planning.run(&finder.query, &types, Want::Anchors) else {
                return Ok(());
            };
            push(finder.collection, variant);
        }
        if occurrences.len() != probe.tables.len() + finders.len() {
            return Ok(());
        }
        let of_anchor = Want::OfAnchor { first };
        plan.of_group = Some(self.run(query, self.types, of_anchor)?.1);
        plan.group_keys = probe.anchor_keys;
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
            let made = analyzer.live.take().and_then(|probe| probe.made);
            made.ok_or_else(|| SqlError::new(ErrorCode::Internal, "a variant was not made"))
        };
        for (index, source) in probe.tables.iter().enumerate() {
            plan.occurrences.push(Occurrence {
                collection: source.collection,
                part: 0,
                conditions: Vec::new(),
                of_key: made(Want::AnchorsOfKey { index, first })?,
            });
        }
        plan.anchor_groups = Some(AnchorGroups {
            all: made(Want::AnchorGroups { of: None })?,
            of_anchor: made(Want::AnchorGroups { of: Some(first) })?,
            anchor_keys: probe.anchor_keys,
        });
        plan.of_group = Some(self.run(query, self.types, Want::OfGroup { first })?.1);
        plan.class = LiveClass::Groups;
        plan.because = "GROUP BY over left joins of plain tables";
        Ok(())
    }
}

/// The collections of FROM, ascending.
fn collections(probe: &Probe) -> Vec<CollectionId> {
    let tables = probe.tables.iter();
    let mut found: Vec<CollectionId> = tables.map(|source| source.collection).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// What is known of a query over one table alone, or over views of it.
fn look_at_table(
    plan: &mut LivePlan,
    query: &ast::Query,
    probe: &Probe,
    table: &Table,
    text: &str,
) {
    let SetExpr::Select(select) = &*query.body else {
        return;
    };
    plan.table = Some(table.collection());
    let columns =
        (probe.names.first()).map_or_else(Vec::new, |(_, columns)| known_as(table, columns));
    if let Some(condition) = &select.selection {
        let mut reader = Reader::new(&columns, &plan.parameters);
        reader.read(condition);
        plan.conditions = reader.found;
    }
    for (names, condition) in &probe.inner_conditions {
        let columns = known_as(table, names);
        let mut reader = Reader::new(&columns, &plan.parameters);
        reader.read(condition);
        plan.conditions.extend(reader.found);
    }
    (plan.conditions).sort_by_key(|condition| std::cmp::Reverse(condition.test.rank()));
    if plan.class == LiveClass::Window {
        plan.order_index = order_index(plan, query, select, &columns).unwrap_or_default();
    }
    plan.watched = Some(
        (table.columns.iter())
            .filter(|c| text.contains(&format!("\"{}\"", c.storage_name())))
            .map(|c| c.id)
            .collect(),
    );
}

/// A table's columns under the names that a query has for them.
fn known_as(table: &Table, names: &[(String, u32)]) -> Vec<Column> {
    let named = names.iter().filter_map(|(name, id)| {
        let (_, column) = table.column_by_id(*id)?;
        Some(Column {
            name: name.clone(),
            ..column.clone()
        })
    });
    named.collect()
}

/// The columns of an index that gives the rows of a window in their order, so that it is refilled
/// without a look at all rows: those that WHERE fixes, then those of ORDER BY.
fn order_index(
    plan: &LivePlan,
    query: &ast::Query,
    select: &ast::Select,
    columns: &[Column],
) -> Option<Vec<(u32, bool)>> {
    let ast::OrderByKind::Expressions(terms) = &query.order_by.as_ref()?.kind else {
        return None;
    };
    let mut found: Vec<(u32, bool)> = (plan.conditions.iter())
        .filter(|condition| matches!(&condition.test, Test::Equal(operands) if operands.len() == 1))
        .map(|condition| (condition.column, false))
        .collect();
    let fixed = found.len();
    for term in terms {
        let ast::Expr::Identifier(ident) = &term.expr else {
            break;
        };
        let name = crate::query::names::fold(ident);
        // An output of that name comes before the column.
        let is_output = (select.projection.iter()).any(
            |item| matches!(item, ast::SelectItem::ExprWithAlias { alias, .. } if crate::query::names::fold(alias) == name),
        );
        let column = (columns.iter()).find(|column| !column.hidden && column.name == name);
        let Some(column) =
            column.filter(|column| !is_output && column.pg_type.key_function().is_none())
        else {
            break;
        };
        let is_descending = matches!(term.options.sort, Some(ast::OrderBySort::Desc));
        found.push((column.id, is_descending));
    }
    (found.len() > fixed).then_some(found)
}

fn check(analyzer: &Analyzer<'_>, sql: &str) -> Result<(), SqlError> {
    if analyzer.locks {
        return Err(refused("it locks rows (FOR UPDATE)"));
    }
    if analyzer.has_effects || analyzer.sets || !analyzer.sequences.is_empty() {
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
