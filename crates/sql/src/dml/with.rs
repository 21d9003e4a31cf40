//! Statements made of several parts: `WITH` whose queries change data, and what MERGE becomes.
//!
//! PostgreSQL runs all parts on one snapshot: none sees what another changes but by RETURNING. Here the
//! parts run one after the other, each query's and each RETURNING's rows are kept, and those that refer
//! to them read them back (`sh_step(number)`, [`crate::functions::rowset`]). That means the same as long
//! as no part reads a table that one before it has changed: queries that depend on no change run first,
//! and what is left over is refused.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use springhead_proto::{CollectionId, ErrorCode, SqlError};
use sqlparser::ast::{self, Cte, Query, SetExpr, Statement};

use crate::catalog::{Catalog, ReferentialAction, Timing};
use crate::plan::{Before, OutputColumn, PlanKind, Write, WriteVerb};
use crate::program::Run;
use crate::query::Analyzer;
use crate::query::names::{fold, quote_text};
use crate::query::scope::renamed_columns;
use crate::query::scope::{self, Scope, ScopeColumn};
use crate::types::PgType;

/// One part of a statement, analyzed.
struct Part {
    /// Its place among the parts, by which its rows are kept.
    number: usize,
    /// Its name in SQLite texts.
    id: String,
    /// How its rows are read back.
    definition: String,
    run: Run,
    reads: BTreeSet<CollectionId>,
    changes: BTreeSet<CollectionId>,
    /// The numbers of the parts that it refers to.
    uses: Vec<usize>,
}

/// The parts of a statement but for the last.
#[derive(Default)]
pub(super) struct Parts {
    parts: Vec<Part>,
}

/// Whether a query's WITH changes data.
pub(crate) fn changes(query: &Query) -> bool {
    query.with.as_ref().is_some_and(|with| {
        with.cte_tables
            .iter()
            .any(|cte| statement_of(cte).is_some())
    })
}

/// The statement that a common table expression is, if it changes data.
fn statement_of(cte: &Cte) -> Option<&Statement> {
    match &*cte.query.body {
        SetExpr::Insert(statement)
        | SetExpr::Update(statement)
        | SetExpr::Delete(statement)
        | SetExpr::Merge(statement) => Some(statement),
        _ => None,
    }
}

/// Plans a query whose WITH changes data.
///
/// # Errors
/// What is wrong with a part; 0A000 where running them one by one would mean something else.
pub(crate) fn plan(analyzer: &mut Analyzer<'_>, query: &Query) -> Result<PlanKind, SqlError> {
    let Some(with) = &query.with else {
        return Err(SqlError::new(ErrorCode::Internal, "there is no WITH"));
    };
    if with.recursive {
        return Err(SqlError::unsupported(
            "WITH RECURSIVE beside queries that change data",
        ));
    }
    let (ctes, main) = with_old_sides(query, &with.cte_tables)?;
    analyzer.in_scope(Scope::default(), |analyzer| {
        let mut parts = Parts::default();
        for cte in &ctes {
            let name = fold(&cte.alias.name);
            if analyzer.scope().ctes.iter().any(|other| other.name == name) {
                let error = SqlError::new(
                    ErrorCode::DuplicateAlias,
                    format!("WITH query name \"{name}\" specified more than once"),
                );
                return Err(analyzer.at(error, cte.alias.name.span.start));
            }
            match statement_of(cte) {
                Some(statement) => parts.add_write(analyzer, &name, &cte.alias, statement)?,
                None => parts.add_query(analyzer, &name, &cte.alias, &cte.query)?,
            }
        }
        let outer = std::mem::take(&mut analyzer.reads);
        let kind = match &*main.body {
            SetExpr::Insert(statement)
            | SetExpr::Update(statement)
            | SetExpr::Delete(statement) => write(analyzer, statement)?,
            _ => crate::query::plan_query(analyzer, &main)?,
        };
        let reads = std::mem::replace(&mut analyzer.reads, outer);
        let last = match kind {
            PlanKind::Write(write) => write,
            PlanKind::Query(query) => Write {
                verb: WriteVerb::Select,
                sql: query.sql,
                returning: query.columns,
                table: CollectionId::NONE,
                touches_foreign_keys: true,
                sequences: Vec::new(),
                updated: Vec::new(),
                upserts: false,
                once: false,
                instead: false,
                checks: Vec::new(),
                viewer: None,
                before: Vec::new(),
            },
            _ => return Err(SqlError::unsupported("this statement after WITH")),
        };
        parts.finish(analyzer, last, &reads)
    })
}

/// INSERT, UPDATE or DELETE as a part.
fn write(analyzer: &mut Analyzer<'_>, statement: &Statement) -> Result<PlanKind, SqlError> {
    match statement {
        Statement::Insert(insert) => super::insert::plan(analyzer, insert),
        Statement::Update(update) => super::update::plan(analyzer, update),
        Statement::Delete(delete) => super::delete::plan(analyzer, delete),
        _ => Err(SqlError::unsupported("this statement in WITH")),
    }
}

impl Parts {
    /// Adds a query.
    pub(super) fn add_query(
        &mut self,
        analyzer: &mut Analyzer<'_>,
        name: &str,
        alias: &ast::TableAlias,
        query: &Query,
    ) -> Result<(), SqlError> {
        let outer = std::mem::take(&mut analyzer.reads);
        let analyzed = analyzer.query(query)?;
        let (sql, columns) = analyzed.into_top_level(analyzer)?;
        let reads = std::mem::replace(&mut analyzer.reads, outer);
        let run = Run::Query(crate::plan::Query::reading(
            sql,
            Arc::clone(&columns),
            reads.iter().copied().collect(),
        ));
        self.add(analyzer, name, alias, &columns, run, reads, BTreeSet::new())
    }

    /// Adds a statement that changes data.
    pub(super) fn add_write(
        &mut self,
        analyzer: &mut Analyzer<'_>,
        name: &str,
        alias: &ast::TableAlias,
        statement: &Statement,
    ) -> Result<(), SqlError> {
        let outer = std::mem::take(&mut analyzer.reads);
        let kind = analyzer.in_scope(Scope::default(), |analyzer| write(analyzer, statement))?;
        let reads = std::mem::replace(&mut analyzer.reads, outer);
        let PlanKind::Write(mut write) = kind else {
            return Err(SqlError::unsupported("this statement in WITH"));
        };
        if write.instead {
            return Err(SqlError::unsupported("INSTEAD OF triggers within WITH"));
        }
        refuse_triggers(analyzer.catalog, &write)?;
        write.viewer = analyzer.context.identity.viewer();
        let changes = changed_by(analyzer.catalog, &write);
        let columns = Arc::clone(&write.returning);
        self.add(
            analyzer,
            name,
            alias,
            &columns,
            Run::Write(write),
            reads,
            changes,
        )
    }

    /// Adds SQLite text of ours.
    pub(super) fn add_text(&mut self, sql: String) {
        let uses = self.used_by(&sql);
        let number = self.parts.len();
        self.parts.push(Part {
            number,
            id: String::new(),
            definition: String::new(),
            run: Run::Query(crate::plan::Query::reading(sql, Arc::from([]), Vec::new())),
            reads: BTreeSet::new(),
            changes: BTreeSet::new(),
            uses,
        });
    }

    #[allow(clippy::too_many_arguments, reason = "what a part is made of")]
    fn add(
        &mut self,
        analyzer: &mut Analyzer<'_>,
        name: &str,
        alias: &ast::TableAlias,
        columns: &[OutputColumn],
        run: Run,
        reads: BTreeSet<CollectionId>,
        changes: BTreeSet<CollectionId>,
    ) -> Result<(), SqlError> {
        let number = self.parts.len();
        let id = analyzer.fresh('w');
        let columns: Vec<ScopeColumn> = (1..)
            .zip(columns)
            .map(|(place, column)| ScopeColumn {
                name: column.name.clone(),
                sql: format!("\"o{place}\""),
                ty: match &column.pg_type {
                    PgType::Unknown => PgType::Text,
                    ty => ty.of_value(),
                },
                nullable: true,
                origin: None,
                used: None,
            })
            .collect();
        let columns = renamed_columns(columns, alias, name)?;
        let fields: Vec<String> = (0..columns.len())
            .map(|place| format!("sh_field(r.value,{place})"))
            .collect();
        let names: Vec<String> = columns.iter().map(|column| column.sql.clone()).collect();
        let definition = if columns.is_empty() {
            String::new()
        } else {
            format!(
                "{id}({}) AS (SELECT {} FROM json_each(sh_step({number})) AS r)",
                names.join(","),
                fields.join(",")
            )
        };
        let uses = self.used_by(run.sql());
        analyzer.scope().ctes.push(scope::Cte {
            name: name.to_owned(),
            id: id.clone(),
            columns,
        });
        self.parts.push(Part {
            number,
            id,
            definition,
            run,
            reads,
            changes,
            uses,
        });
        Ok(())
    }

    /// The parts that a text reads.
    fn used_by(&self, sql: &str) -> Vec<usize> {
        self.parts
            .iter()
            .filter(|part| {
                !part.id.is_empty() && sql.contains(&format!("{} AS ", part.id))
                    || sql.contains(&format!("sh_step({})", part.number))
            })
            .map(|part| part.number)
            .collect()
    }

    /// `WITH …` of the parts that a text reads.
    fn prefix(&self, uses: &[usize]) -> String {
        let definitions: Vec<&str> = self
            .parts
            .iter()
            .filter(|part| uses.contains(&part.number) && !part.definition.is_empty())
            .map(|part| part.definition.as_str())
            .collect();
        if definitions.is_empty() {
            String::new()
        } else {
            format!("WITH {} ", definitions.join(","))
        }
    }

    /// The plan of MERGE: the parts alone, of which several may change its one table, but none may
    /// read it again.
    pub(super) fn finish_merge(
        self,
        analyzer: &Analyzer<'_>,
        last: Write,
    ) -> Result<PlanKind, SqlError> {
        let mut changed: BTreeSet<CollectionId> = BTreeSet::new();
        for part in &self.parts {
            refuse_reads(analyzer.catalog, &part.reads, &changed)?;
            changed.extend(&part.changes);
        }
        let order = (0..self.parts.len()).collect();
        Ok(self.assembled(analyzer, order, last))
    }

    /// The plan: the parts in the order of their running, then the last.
    pub(super) fn finish(
        self,
        analyzer: &Analyzer<'_>,
        last: Write,
        reads: &BTreeSet<CollectionId>,
    ) -> Result<PlanKind, SqlError> {
        let catalog = analyzer.catalog;
        let mut depends: Vec<bool> = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let own = matches!(part.run, Run::Write(_));
            depends.push(own || part.uses.iter().any(|&number| depends[number]));
        }
        let mut order: Vec<usize> = (0..self.parts.len()).collect();
        order.sort_by_key(|&number| depends[number]);
        let mut changed: BTreeSet<CollectionId> = BTreeSet::new();
        for &number in &order {
            let part = &self.parts[number];
            refuse_reads(catalog, &part.reads, &changed)?;
            if let Run::Write(write) = &part.run {
                refuse_twice(catalog, write, &part.changes, &changed)?;
            }
            changed.extend(&part.changes);
        }
        refuse_reads(catalog, reads, &changed)?;
        refuse_twice(catalog, &last, &changed_by(catalog, &last), &changed)?;
        Ok(self.assembled(analyzer, order, last))
    }

    fn assembled(
        mut self,
        analyzer: &Analyzer<'_>,
        order: Vec<usize>,
        mut last: Write,
    ) -> PlanKind {
        let last_uses = self.used_by(&last.sql);
        let prefixes: Vec<String> = self
            .parts
            .iter()
            .map(|part| self.prefix(&part.uses))
            .collect();
        last.sql.insert_str(0, &self.prefix(&last_uses));
        let mut runs: Vec<Option<(usize, Run)>> = self
            .parts
            .drain(..)
            .zip(prefixes)
            .map(|(part, prefix)| {
                let mut run = part.run;
                match &mut run {
                    Run::Query(query) => query.sql.insert_str(0, &prefix),
                    Run::Write(write) => write.sql.insert_str(0, &prefix),
                }
                Some((part.number, run))
            })
            .collect();
        last.before = order
            .into_iter()
            .filter_map(|number| runs[number].take())
            .map(|(number, run)| Before { number, run })
            .collect();
        last.touches_foreign_keys = true;
        last.sequences = analyzer.sequences.iter().copied().collect();
        PlanKind::Write(last)
    }
}

fn name_of(catalog: &Catalog, table: CollectionId) -> &str {
    catalog
        .table(table)
        .map_or("?", |table| table.name.name.as_str())
}

/// A part that reads what one before it has changed would see the change.
fn refuse_reads(
    catalog: &Catalog,
    reads: &BTreeSet<CollectionId>,
    changed: &BTreeSet<CollectionId>,
) -> Result<(), SqlError> {
    match reads.intersection(changed).next() {
        None => Ok(()),
        Some(&table) => Err(SqlError::unsupported(format_args!(
            "reading the table \"{}\" in one part of a statement and changing it in another",
            name_of(catalog, table)
        ))),
    }
}

/// Rows of one table may be changed by one part; new ones may be added by others.
fn refuse_twice(
    catalog: &Catalog,
    write: &Write,
    changes: &BTreeSet<CollectionId>,
    changed: &BTreeSet<CollectionId>,
) -> Result<(), SqlError> {
    let only_adds = write.verb == WriteVerb::Insert && !write.upserts;
    match changes.intersection(changed).next() {
        Some(&table) if !only_adds => Err(SqlError::unsupported(format_args!(
            "changing the table \"{}\" in several parts of a statement",
            name_of(catalog, table)
        ))),
        _ => Ok(()),
    }
}

/// The tables that a statement may change: its own, and those that cascades reach.
fn changed_by(catalog: &Catalog, write: &Write) -> BTreeSet<CollectionId> {
    let mut changed = BTreeSet::new();
    if write.table == CollectionId::NONE {
        return changed;
    }
    let mut open = vec![write.table];
    while let Some(table) = open.pop() {
        if !changed.insert(table) || write.verb == WriteVerb::Insert && !write.upserts {
            continue;
        }
        for &child in catalog.children(table) {
            let reaches = catalog.table(child).is_some_and(|child| {
                child.foreign_keys.iter().any(|key| {
                    key.parent == table.0
                        && [key.on_delete, key.on_update].iter().any(|action| {
                            !matches!(
                                action,
                                ReferentialAction::NoAction | ReferentialAction::Restrict
                            )
                        })
                })
            });
            if reaches {
                open.push(child);
            }
        }
    }
    changed
}

/// PostgreSQL fires AFTER triggers of all parts at the end of the statement.
fn refuse_triggers(catalog: &Catalog, write: &Write) -> Result<(), SqlError> {
    for table in changed_by(catalog, write) {
        let found = catalog.triggers_of(table.0).find(|trigger| {
            let writes = catalog
                .routines
                .get(&trigger.function)
                .is_some_and(|routine| crate::program::may_write(catalog, routine));
            !trigger.disabled && (trigger.timing == Timing::After || !trigger.each_row || writes)
        });
        if let Some(trigger) = found {
            return Err(SqlError::unsupported(format_args!(
                "changing the table \"{}\" within WITH while it has the trigger \"{}\"",
                name_of(catalog, table),
                trigger.name.name
            )));
        }
    }
    Ok(())
}

/// The sides of a set operation that look at no change become queries of their own: they then run
/// before the changes, and see the tables as they were.
fn with_old_sides(query: &Query, ctes: &[Cte]) -> Result<(Vec<Cte>, Query), SqlError> {
    let mut ctes: Vec<Cte> = ctes.to_vec();
    let mut main = Query {
        with: None,
        ..query.clone()
    };
    if !matches!(*main.body, SetExpr::SetOperation { .. }) {
        return Ok((ctes, main));
    }
    let (mut new, mut targets) = (Vec::new(), Vec::new());
    for cte in &ctes {
        match statement_of(cte) {
            Some(statement) => {
                new.push(fold(&cte.alias.name));
                targets.extend(target_of(statement));
            }
            None if names_any(&cte.query.body, &new) => new.push(fold(&cte.alias.name)),
            None => {}
        }
    }
    let mut sides = Vec::new();
    take_sides(&mut main.body, &new, &targets, &mut sides)?;
    let Some(pattern) = ctes.first().cloned() else {
        return Ok((ctes, main));
    };
    for (name, body) in sides {
        let mut cte = pattern.clone();
        cte.alias.name = ast::Ident::with_quote('"', name);
        cte.alias.columns.clear();
        cte.query = Box::new(Query {
            body,
            with: None,
            order_by: None,
            limit_clause: None,
            fetch: None,
            locks: Vec::new(),
            ..query.clone()
        });
        ctes.push(cte);
    }
    Ok((ctes, main))
}

fn take_sides(
    body: &mut Box<SetExpr>,
    new: &[String],
    targets: &[String],
    sides: &mut Vec<(String, Box<SetExpr>)>,
) -> Result<(), SqlError> {
    if let SetExpr::SetOperation { left, right, .. } = &mut **body {
        take_sides(left, new, targets, sides)?;
        return take_sides(right, new, targets, sides);
    }
    if names_any(body, new) || !names_any(body, targets) {
        return Ok(());
    }
    let name = format!("?side{}", sides.len());
    let read = crate::planner::parse(
        &format!("SELECT * FROM \"{name}\""),
        &crate::planner::PlanContext::default(),
    )?;
    if let Statement::Query(read) = read {
        let old = std::mem::replace(body, read.body);
        sides.push((name, old));
    }
    Ok(())
}

/// The table that a statement names as its target.
fn target_of(statement: &Statement) -> Option<String> {
    let name = match statement {
        Statement::Insert(insert) => match &insert.table {
            ast::TableObject::TableName(name) => name,
            _ => return None,
        },
        Statement::Update(update) => match &update.table.relation {
            ast::TableFactor::Table { name, .. } => name,
            _ => return None,
        },
        Statement::Delete(delete) => {
            let (ast::FromTable::WithFromKeyword(from) | ast::FromTable::WithoutKeyword(from)) =
                &delete.from;
            match &from.first()?.relation {
                ast::TableFactor::Table { name, .. } => name,
                _ => return None,
            }
        }
        _ => return None,
    };
    name.0.last()?.as_ident().map(fold)
}

/// Whether a query names one of these relations.
fn names_any(body: &SetExpr, names: &[String]) -> bool {
    ast::visit_relations(body, |relation| {
        let is_one = relation
            .0
            .last()
            .and_then(|part| part.as_ident())
            .is_some_and(|ident| names.contains(&fold(ident)));
        if is_one {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })
    .is_break()
}

/// An alias that is a name alone.
pub(super) fn plain_alias(name: &str) -> Result<ast::TableAlias, SqlError> {
    let text = format!("SELECT 1 FROM t AS \"{}\"", name.replace('"', "\"\""));
    let parsed = crate::planner::parse(&text, &crate::planner::PlanContext::default())?;
    let Statement::Query(query) = parsed else {
        return Err(SqlError::new(ErrorCode::Internal, "an alias is no query"));
    };
    let alias = match &*query.body {
        SetExpr::Select(select) => select.from.first().and_then(|from| match &from.relation {
            ast::TableFactor::Table { alias, .. } => alias.clone(),
            _ => None,
        }),
        _ => None,
    };
    alias.ok_or_else(|| {
        SqlError::new(
            ErrorCode::Internal,
            format!("no alias {}", quote_text(name)),
        )
    })
}
