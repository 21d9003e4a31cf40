//! RETURNING.

use std::sync::Arc;

use springhead_proto::SqlError;
use sqlparser::ast::SelectItem;

use crate::catalog::Table;
use crate::plan::OutputColumn;
use crate::query::Analyzer;
use crate::query::expression::table_relation;
use crate::query::reference::Tracked;
use crate::query::scope::Scope;
use crate::query::select::Select;
use crate::types::PgType;

/// ` RETURNING …` and its columns; both empty without. `alias` is the name that the statement gives
/// the table.
pub(crate) fn plan(
    analyzer: &mut Analyzer<'_>,
    table: &Table,
    alias: &str,
    returning: Option<&[SelectItem]>,
    tracked: &Tracked,
) -> Result<(String, Arc<[OutputColumn]>), SqlError> {
    let Some(items) = returning else {
        return Ok((String::new(), Arc::new([])));
    };
    // In RETURNING, SQLite knows the table's columns by their names alone.
    let mut relation = table_relation(table, alias, None);
    Analyzer::track_again(tracked, &mut relation);
    let scope = Scope {
        columns: relation.columns.clone(),
        relations: vec![relation],
        aggregates_refused: Some("RETURNING"),
        windows_refused: Some("RETURNING"),
        ..Scope::default()
    };
    analyzer.in_scope(scope, |analyzer| {
        let mut select = Select::default();
        let names = analyzer.select_items(items, &mut select)?;
        let mut texts = Vec::with_capacity(names.len());
        let mut columns = Vec::with_capacity(names.len());
        for (item, name) in select.items.iter().zip(names) {
            let text = analyzer.text(item)?;
            texts.push(match &item.ty {
                PgType::Reg(reg) => format!("sh_sys('reg_show','{}',{text})", reg.name()),
                _ => text,
            });
            let pg_type = if item.is_unknown() {
                PgType::Text
            } else {
                item.ty.clone()
            };
            columns.push(OutputColumn {
                name,
                pg_type,
                origin: item.origin,
                nullable: item.nullable,
            });
        }
        Ok((format!(" RETURNING {}", texts.join(",")), columns.into()))
    })
}
