//! DELETE.

use springhead_proto::SqlError;
use sqlparser::ast::{Delete, FromTable};

use crate::plan::{PlanKind, Write, WriteVerb};
use crate::query::Analyzer;
use crate::query::scope::Scope;

use super::update::{target_scope, written_table};

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
    let (table, alias) = written_table(analyzer, &from.relation, !from.joins.is_empty())?;
    let id = analyzer.fresh('r');
    let scope = target_scope(&table, &alias, &id, "DELETE");
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
    let (returning_sql, returning) =
        super::returning::plan(analyzer, &table, &alias, delete.returning.as_deref())?;
    let condition = condition.map_or_else(String::new, |condition| format!(" WHERE {condition}"));
    Ok(PlanKind::Write(Write {
        verb: WriteVerb::Delete,
        sql: format!(
            "DELETE FROM {} AS {id}{condition}{returning_sql}",
            table.storage_name()
        ),
        returning,
        table: table.collection(),
        touches_foreign_keys: analyzer.catalog.touches_foreign_keys(&table),
        sequences: analyzer.sequences.iter().copied().collect(),
    }))
}
