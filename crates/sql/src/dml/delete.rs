//! DELETE.

use springhead_proto::SqlError;
use sqlparser::ast::{Delete, FromTable, TableFactor};

use crate::catalog::{Event, Privilege};
use crate::plan::{PlanKind, Write, WriteVerb};
use crate::query::Analyzer;
use crate::query::scope::Scope;

use super::returning::{factors, not_of_others};
use super::triggers;
use super::update::{guarded, needed, target_scope, written_table};
use super::views;

/// The plan of a DELETE.
pub(crate) fn plan(analyzer: &mut Analyzer<'_>, delete: &Delete) -> Result<PlanKind, SqlError> {
    if !delete.tables.is_empty()
        || delete.output.is_some()
        || !delete.order_by.is_empty()
        || delete.limit.is_some()
    {
        return Err(SqlError::unsupported("a clause of this DELETE"));
    }
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
    let [from] = from.as_slice() else {
        return Err(SqlError::unsupported("DELETE from several tables"));
    };
    if let TableFactor::Table { name, alias, .. } = &from.relation
        && let Some(view) = views::view_of(analyzer, name, Event::Delete)?
    {
        if delete.using.is_some() || delete.returning.is_some() {
            return Err(SqlError::unsupported(
                "USING or RETURNING with INSTEAD OF triggers",
            ));
        }
        let table = views::as_table(&view);
        return analyzer.in_scope(Scope::default(), |analyzer| {
            let item = views::rows_of(analyzer, name, alias.as_ref())?;
            let scope = analyzer.scope();
            scope.relations.extend(item.relations.iter().cloned());
            scope.columns.extend(item.columns.iter().cloned());
            let condition = match &delete.selection {
                Some(condition) => Some(analyzer.condition(condition, "WHERE")?),
                None => None,
            };
            views::change(analyzer, &table, &item, None, None, condition.as_deref())
        });
    }
    let (table, alias) = written_table(analyzer, &from.relation, !from.joins.is_empty())?;
    let id = analyzer.fresh('r');
    analyzer.writes(&table, Privilege::Delete, &[]);
    let (scope, tracked) = target_scope(analyzer, &table, &alias, &id, "DELETE");
    let condition = analyzer.in_scope(scope, |analyzer| {
        let condition = |analyzer: &mut Analyzer<'_>| match &delete.selection {
            Some(condition) => analyzer.condition(condition, "WHERE").map(Some),
            None => Ok(None),
        };
        let Some(using) = &delete.using else {
            return condition(analyzer);
        };
        // SQLite has no USING: a row goes if there is a combination of the others that wants it.
        let inner = Scope {
            aggregates_refused: Some("DELETE"),
            windows_refused: Some("DELETE"),
            ..Scope::default()
        };
        analyzer.in_scope(inner, |analyzer| {
            let from = analyzer.add_from(using)?.unwrap_or_default();
            let condition = condition(analyzer)?.unwrap_or_else(|| "1".to_owned());
            Ok(Some(format!(
                "EXISTS (SELECT 1 FROM {from} WHERE {condition})"
            )))
        })
    })?;
    let (returning_sql, returning) = super::returning::plan(
        analyzer,
        &table,
        &alias,
        delete.returning.as_deref(),
        &tracked,
    )
    .map_err(|error| not_of_others(error, &factors(delete.using.as_deref().unwrap_or_default())))?;
    analyzer.reads_of_target(&table, &tracked);
    let commands = needed(Privilege::Delete, tracked.any());
    let condition = guarded(analyzer, &table, &id, &commands, condition)?;
    let mut sql = if triggers::has_before(analyzer, &table, Event::Delete, &[]) {
        triggers::delete(analyzer, &table, &id, condition.strip_prefix(" WHERE "))
    } else {
        format!("DELETE FROM {} AS {id}{condition}", table.storage_name())
    };
    sql.push_str(&returning_sql);
    Ok(PlanKind::Write(Write {
        verb: WriteVerb::Delete,
        sql,
        returning,
        table: table.collection(),
        touches_foreign_keys: analyzer.runs_programs || analyzer.catalog.needs_savepoint(&table),
        sequences: analyzer.sequences.iter().copied().collect(),
        updated: Vec::new(),
        upserts: false,
        once: false,
        instead: false,
        before: Vec::new(),
        checks: Vec::new(),
        viewer: None,
    }))
}
