//! UPDATE.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{
    Assignment, AssignmentTarget, Expr, ObjectName, TableFactor, Update, UpdateTableFromKind,
};

use crate::catalog::Table;
use crate::functions::CastContext;
use crate::plan::{PlanKind, Write, WriteVerb};
use crate::query::Analyzer;
use crate::query::expression::table_relation;
use crate::query::names;
use crate::query::scope::Scope;

use super::{
    check_assignable, column_ident, default_text, is_default, stored, target, target_column,
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
    let (table, alias) = written_table(
        analyzer,
        &update.table.relation,
        !update.table.joins.is_empty(),
    )?;
    let id = analyzer.fresh('r');
    let scope = target_scope(&table, &alias, &id, "UPDATE");
    let sql = analyzer.in_scope(scope, |analyzer| {
        let from = match &update.from {
            None => None,
            Some(UpdateTableFromKind::AfterSet(from) | UpdateTableFromKind::BeforeSet(from)) => {
                analyzer.add_from(from)?
            }
        };
        let set = assignments(analyzer, &table, &update.assignments)?;
        let mut sql = format!("UPDATE {} AS {id} SET {set}", table.storage_name());
        if let Some(from) = from {
            sql.push_str(&format!(" FROM {from}"));
        }
        if let Some(condition) = &update.selection {
            sql.push_str(&format!(
                " WHERE {}",
                analyzer.condition(condition, "WHERE")?
            ));
        }
        Ok(sql)
    })?;
    let (returning_sql, returning) =
        super::returning::plan(analyzer, &table, &alias, update.returning.as_deref())?;
    Ok(PlanKind::Write(Write {
        verb: WriteVerb::Update,
        sql: sql + &returning_sql,
        returning,
        table: table.collection(),
        touches_foreign_keys: analyzer.catalog.touches_foreign_keys(&table),
        sequences: analyzer.sequences.iter().copied().collect(),
    }))
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

/// The scope of the table that is written.
pub(crate) fn target_scope(table: &Table, alias: &str, id: &str, verb: &'static str) -> Scope {
    let relation = table_relation(table, alias, Some(id));
    Scope {
        columns: relation.columns.clone(),
        relations: vec![relation],
        aggregates_refused: Some(verb),
        windows_refused: Some(verb),
        ..Scope::default()
    }
}

/// `"c1"=…,"c2"=…` of SET, for UPDATE and ON CONFLICT.
pub(crate) fn assignments(
    analyzer: &mut Analyzer<'_>,
    table: &Arc<Table>,
    assignments: &[Assignment],
) -> Result<String, SqlError> {
    let mut texts = Vec::with_capacity(assignments.len());
    let mut written = Vec::new();
    for assignment in assignments {
        match &assignment.target {
            AssignmentTarget::ColumnName(name) => {
                let place = written_column(analyzer, table, name, &mut written)?;
                if let Some(text) = assigned(analyzer, table, place, &assignment.value)? {
                    texts.push(format!(
                        "\"{}\"={text}",
                        table.columns[place].storage_name()
                    ));
                }
            }
            AssignmentTarget::Tuple(names) => {
                let mut places = Vec::with_capacity(names.len());
                for name in names {
                    places.push(written_column(analyzer, table, name, &mut written)?);
                }
                several(analyzer, table, &places, &assignment.value, &mut texts)?;
            }
        }
    }
    if texts.is_empty() {
        // Only generated columns were set to DEFAULT: the rows are rewritten as they are.
        let column = &table.columns[table.key[0]];
        texts.push(format!("\"{0}\"=\"{0}\"", column.storage_name()));
    }
    Ok(texts.join(","))
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
    texts: &mut Vec<String>,
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
                    texts.push(format!(
                        "\"{}\"={text}",
                        table.columns[place].storage_name()
                    ));
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
            let columns: Vec<String> = places
                .iter()
                .map(|&place| format!("\"{}\"", table.columns[place].storage_name()))
                .collect();
            let sql = analyzed.into_sql(analyzer)?;
            texts.push(format!("({})=({sql})", columns.join(",")));
            Ok(())
        }
        Expr::Nested(inner) if places.len() == 1 => {
            if let Some(text) = assigned(analyzer, table, places[0], inner)? {
                texts.push(format!(
                    "\"{}\"={text}",
                    table.columns[places[0]].storage_name()
                ));
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
                texts.push(format!("\"{}\"={text}", column.storage_name()));
            }
            Ok(())
        }
    }
}
