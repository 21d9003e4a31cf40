//! UPDATE.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{
    Assignment, AssignmentTarget, Expr, ObjectName, TableFactor, Update, UpdateTableFromKind,
};

use crate::catalog::{Event, Privilege, Table};
use crate::functions::CastContext;
use crate::plan::{PlanKind, Write, WriteVerb};
use crate::query::Analyzer;
use crate::query::expression::table_relation;
use crate::query::names;
use crate::query::reference::{Tracked, harmless_conjuncts, push_down};
use crate::query::scope::Scope;

use super::{
    check_assignable, column_ident, default_text, is_default, stored, target, target_column,
    triggers, views,
};

/// The plan of an UPDATE.
pub(crate) fn plan(analyzer: &mut Analyzer<'_>, update: &Update) -> Result<PlanKind, SqlError> {
    if update.or.is_some()
        || update.output.is_some()
        || !update.order_by.is_empty()
        || update.limit.is_some()
    {
        return Err(SqlError::unsupported("a clause of this UPDATE"));
    }
    if let TableFactor::Table { name, alias, .. } = &update.table.relation
        && let Some(view) = views::view_of(analyzer, name, Event::Update)?
    {
        return of_view(analyzer, update, name, alias.as_ref(), &view);
    }
    let (table, alias) = written_table(
        analyzer,
        &update.table.relation,
        !update.table.joins.is_empty(),
    )?;
    let id = analyzer.fresh('r');
    let (scope, tracked) = target_scope(analyzer, &table, &alias, &id, "UPDATE");
    let any_before = has_before_update(analyzer, &table);
    analyzer.late_checks = any_before;
    let (set, from, condition, updated) = analyzer.in_scope(scope, |analyzer| {
        let from = match &update.from {
            None => None,
            Some(UpdateTableFromKind::AfterSet(from) | UpdateTableFromKind::BeforeSet(from)) => {
                analyzer.add_from(from)?
            }
        };
        let set = assignments(analyzer, &table, &update.assignments)?;
        let condition = match &update.selection {
            Some(condition) => Some(analyzer.condition(condition, "WHERE")?),
            None => None,
        };
        let updated = updated(&table, &set);
        Ok((set, from, condition, updated))
    })?;
    let (returning_sql, returning) = super::returning::plan(
        analyzer,
        &table,
        &alias,
        update.returning.as_deref(),
        &tracked,
    )
    .map_err(|error| super::returning::not_of_others(error, &others(update)))?;
    analyzer.reads_of_target(&table, &tracked);
    let reads = tracked.any();
    let commands = needed(Privilege::Update, reads);
    let guard = guarded(analyzer, &table, &id, &commands, condition)?;
    let mut sql = if triggers::has_before(analyzer, &table, Event::Update, &updated) {
        triggers::update(
            analyzer,
            &table,
            &id,
            &single(set)?,
            from.as_deref(),
            guard.strip_prefix(" WHERE "),
        )
    } else {
        let mut sql = format!(
            "UPDATE {} AS {id} SET {}",
            table.storage_name(),
            set_text(&table, &set)
        );
        if let Some(mut from) = from {
            push_down(&mut from, &guard);
            sql.push_str(&format!(" FROM {from}"));
        }
        sql + &guard
    };
    sql.push_str(&returning_sql);
    let checks = analyzer.row_check(&table, false, &checked(reads))?;
    Ok(PlanKind::Write(Write {
        verb: WriteVerb::Update,
        sql,
        returning,
        table: table.collection(),
        touches_foreign_keys: analyzer.runs_programs || analyzer.catalog.needs_savepoint(&table),
        sequences: analyzer.sequences.iter().copied().collect(),
        updated,
        upserts: false,
        once: false,
        instead: false,
        before: Vec::new(),
        checks: checks.into_iter().collect(),
        viewer: None,
    }))
}

fn of_view(
    analyzer: &mut Analyzer<'_>,
    update: &Update,
    name: &ObjectName,
    alias: Option<&sqlparser::ast::TableAlias>,
    view: &crate::catalog::View,
) -> Result<PlanKind, SqlError> {
    if update.returning.is_some() {
        return Err(SqlError::unsupported("RETURNING with INSTEAD OF triggers"));
    }
    let table = views::as_table(view);
    analyzer.in_scope(Scope::default(), |analyzer| {
        let item = views::rows_of(analyzer, name, alias)?;
        let scope = analyzer.scope();
        scope.relations.extend(item.relations.iter().cloned());
        scope.columns.extend(item.columns.iter().cloned());
        let from = match &update.from {
            None => None,
            Some(UpdateTableFromKind::AfterSet(from) | UpdateTableFromKind::BeforeSet(from)) => {
                analyzer.add_from(from)?
            }
        };
        let set = assignments(analyzer, &table, &update.assignments)?;
        let condition = match &update.selection {
            Some(condition) => Some(analyzer.condition(condition, "WHERE")?),
            None => None,
        };
        views::change(
            analyzer,
            &table,
            &item,
            Some(set),
            from.as_deref(),
            condition.as_deref(),
        )
    })
}

fn has_before_update(analyzer: &Analyzer<'_>, table: &Table) -> bool {
    let all: Vec<u32> = table.columns.iter().map(|column| column.id).collect();
    triggers::has_before(analyzer, table, Event::Update, &all)
}

/// What SET gives to one column, or to several from one subquery.
pub(crate) struct Given {
    pub(crate) places: Vec<usize>,
    pub(crate) text: String,
}

/// The ids of the columns that are set.
pub(crate) fn updated(table: &Table, set: &[Given]) -> Vec<u32> {
    set.iter()
        .flat_map(|given| &given.places)
        .map(|&place| table.columns[place].id)
        .collect()
}

/// `"c1"=…,("c2","c3")=(…)`.
pub(crate) fn set_text(table: &Table, set: &[Given]) -> String {
    let texts: Vec<String> = set
        .iter()
        .map(|given| {
            let names: Vec<String> = given
                .places
                .iter()
                .map(|&place| format!("\"{}\"", table.columns[place].storage_name()))
                .collect();
            match names.as_slice() {
                [name] => format!("{name}={}", given.text),
                names => format!("({})={}", names.join(","), given.text),
            }
        })
        .collect();
    if texts.is_empty() {
        // Only generated columns were set to DEFAULT: the rows are rewritten as they are.
        let column = &table.columns[table.key[0]];
        return format!("\"{0}\"=\"{0}\"", column.storage_name());
    }
    texts.join(",")
}

/// The same, for rows that pass triggers: a text for each column.
pub(crate) fn single(set: Vec<Given>) -> Result<Vec<(usize, String)>, SqlError> {
    set.into_iter()
        .map(|given| match given.places.as_slice() {
            [place] => Ok((*place, given.text)),
            _ => Err(triggers::refuse("SET of several columns from a subquery")),
        })
        .collect()
}

/// The table that UPDATE or DELETE names, and the name that its columns are qualified by.
pub(crate) fn written_table(
    analyzer: &Analyzer<'_>,
    factor: &TableFactor,
    has_joins: bool,
) -> Result<(Arc<Table>, String), SqlError> {
    match factor {
        TableFactor::Table {
            name,
            alias,
            args: None,
            ..
        } if !has_joins => {
            let table = target(analyzer, name)?;
            let alias = alias
                .as_ref()
                .map_or_else(|| table.name.name.clone(), |alias| names::fold(&alias.name));
            Ok((table, alias))
        }
        _ => Err(SqlError::unsupported("writing to anything but one table")),
    }
}

/// The items of FROM.
fn others(update: &Update) -> Vec<&TableFactor> {
    match &update.from {
        None => Vec::new(),
        Some(UpdateTableFromKind::AfterSet(from) | UpdateTableFromKind::BeforeSet(from)) => {
            super::returning::factors(from)
        }
    }
}

/// The privileges by which policies choose the rows that may be written, and be read meanwhile.
pub(crate) fn needed(writes: Privilege, reads: bool) -> Vec<Privilege> {
    let mut commands = vec![writes];
    if reads {
        commands.push(Privilege::Select);
    }
    commands
}

/// What is checked of an updated row.
pub(crate) fn checked(reads: bool) -> Vec<(Privilege, bool)> {
    let mut commands = vec![(Privilege::Update, true)];
    if reads {
        commands.push((Privilege::Select, false));
    }
    commands
}

/// ` WHERE …` of a statement that writes rows which policies allow for `commands`. Its own condition
/// is not tried on others, but for comparisons of stored columns with parameters.
pub(crate) fn guarded(
    analyzer: &mut Analyzer<'_>,
    table: &Arc<Table>,
    id: &str,
    commands: &[Privilege],
    condition: Option<String>,
) -> Result<String, SqlError> {
    let mut policies = Vec::with_capacity(commands.len());
    for &command in commands {
        policies.extend(analyzer.visible(table, command, id)?);
    }
    Ok(match (policies.is_empty(), condition) {
        (true, None) => String::new(),
        (true, Some(condition)) => format!(" WHERE {condition}"),
        (false, None) => format!(" WHERE {}", policies.join(" AND ")),
        (false, Some(condition)) => {
            let mut first = harmless_conjuncts(&condition, id);
            first.push(format!(
                "CASE WHEN {} THEN {condition} ELSE 0 END",
                policies.join(" AND ")
            ));
            format!(" WHERE {}", first.join(" AND "))
        }
    })
}

/// The scope of the table that is written, and which of its columns are read.
pub(crate) fn target_scope(
    analyzer: &Analyzer<'_>,
    table: &Table,
    alias: &str,
    id: &str,
    verb: &'static str,
) -> (Scope, Tracked) {
    let mut relation = table_relation(table, alias, Some(id));
    let tracked = analyzer.track(table, &mut relation);
    let scope = Scope {
        columns: relation.columns.clone(),
        relations: vec![relation],
        aggregates_refused: Some(verb),
        windows_refused: Some(verb),
        ..Scope::default()
    };
    (scope, tracked)
}

/// What SET gives, for UPDATE and ON CONFLICT.
pub(crate) fn assignments(
    analyzer: &mut Analyzer<'_>,
    table: &Arc<Table>,
    assignments: &[Assignment],
) -> Result<Vec<Given>, SqlError> {
    let mut set = Vec::with_capacity(assignments.len());
    let mut written = Vec::new();
    for assignment in assignments {
        match &assignment.target {
            AssignmentTarget::ColumnName(name) => {
                let place = written_column(analyzer, table, name, &mut written)?;
                if let Some(text) = assigned(analyzer, table, place, &assignment.value)? {
                    set.push(Given {
                        places: vec![place],
                        text,
                    });
                }
            }
            AssignmentTarget::Tuple(names) => {
                let mut places = Vec::with_capacity(names.len());
                for name in names {
                    places.push(written_column(analyzer, table, name, &mut written)?);
                }
                several(analyzer, table, &places, &assignment.value, &mut set)?;
            }
        }
    }
    analyzer.writes(table, Privilege::Update, &written);
    Ok(set)
}

fn written_column(
    analyzer: &Analyzer<'_>,
    table: &Table,
    name: &ObjectName,
    written: &mut Vec<usize>,
) -> Result<usize, SqlError> {
    let ident = column_ident(analyzer, table, name)?;
    let place = target_column(analyzer, table, ident)?;
    if written.contains(&place) {
        let error = SqlError::new(
            ErrorCode::SyntaxError,
            format!(
                "multiple assignments to same column \"{}\"",
                names::fold(ident)
            ),
        );
        return Err(analyzer.at(error, ident.span.start));
    }
    written.push(place);
    Ok(place)
}

/// What one column is set to; `None` for a generated column's DEFAULT.
fn assigned(
    analyzer: &mut Analyzer<'_>,
    table: &Arc<Table>,
    place: usize,
    value: &Expr,
) -> Result<Option<String>, SqlError> {
    let column = &table.columns[place];
    if is_default(value) {
        if column.generated.is_some() {
            return Ok(None);
        }
        return default_text(analyzer, table, column).map(Some);
    }
    check_assignable(column, false, "update")?;
    let value = analyzer.expression(value)?;
    stored(analyzer, table, column, &value).map(Some)
}

/// `(a, b) = (1, 2)`, `(a, b) = ROW(1, 2)`, `(a, b) = (SELECT …)`.
fn several(
    analyzer: &mut Analyzer<'_>,
    table: &Arc<Table>,
    places: &[usize],
    value: &Expr,
    set: &mut Vec<Given>,
) -> Result<(), SqlError> {
    let count_error = || {
        SqlError::new(
            ErrorCode::SyntaxError,
            "number of columns does not match number of values",
        )
    };
    match value {
        Expr::Tuple(values) => {
            if values.len() != places.len() {
                return Err(count_error());
            }
            for (&place, value) in places.iter().zip(values) {
                if let Some(text) = assigned(analyzer, table, place, value)? {
                    set.push(Given {
                        places: vec![place],
                        text,
                    });
                }
            }
            Ok(())
        }
        Expr::Subquery(query) => {
            let mut analyzed = analyzer.subquery(query)?;
            if analyzed.names.len() != places.len() {
                return Err(count_error());
            }
            let mut targets = Vec::with_capacity(places.len());
            for &place in places {
                check_assignable(&table.columns[place], false, "update")?;
                targets.push(table.columns[place].pg_type.clone());
            }
            analyzed.convert(analyzer, &targets, CastContext::Assignment)?;
            let sql = analyzed.into_sql(analyzer)?;
            set.push(Given {
                places: places.to_vec(),
                text: format!("({sql})"),
            });
            Ok(())
        }
        Expr::Nested(inner) if places.len() == 1 => {
            if let Some(text) = assigned(analyzer, table, places[0], inner)? {
                set.push(Given {
                    places: vec![places[0]],
                    text,
                });
            }
            Ok(())
        }
        other => {
            let value = analyzer.expression(other)?;
            let crate::query::typed::Node::Row(values) = &value.node else {
                return Err(super::refused(
                    analyzer,
                    other,
                    "source for a multiple-column UPDATE item must be a sub-SELECT or ROW() expression",
                ));
            };
            if values.len() != places.len() {
                return Err(count_error());
            }
            for (&place, value) in places.iter().zip(values) {
                let column = &table.columns[place];
                check_assignable(column, false, "update")?;
                let text = stored(analyzer, table, column, value)?;
                set.push(Given {
                    places: vec![place],
                    text,
                });
            }
            Ok(())
        }
    }
}
