//! RETURNING.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{SelectItem, TableFactor, TableWithJoins};

use crate::catalog::Table;
use crate::plan::OutputColumn;
use crate::query::Analyzer;
use crate::query::expression::table_relation;
use crate::query::names::fold;
use crate::query::reference::Tracked;
use crate::query::scope::Scope;
use crate::query::select::Select;
use crate::types::PgType;

/// What RETURNING could not find, if it is of a table of FROM or USING: SQLite does not know these there.
pub(crate) fn not_of_others(error: SqlError, others: &[&TableFactor]) -> SqlError {
    let named = |name: &str| error.message.ends_with(&format!("\"{name}\""));
    let is_one = |factor: &&TableFactor| {
        let (alias, name) = match factor {
            TableFactor::Table { alias, name, .. } => (alias, name.0.last()),
            TableFactor::Derived { alias, .. } | TableFactor::NestedJoin { alias, .. } => {
                (alias, None)
            }
            _ => return false,
        };
        match alias {
            Some(alias) => named(&fold(&alias.name)),
            None => name
                .and_then(|name| name.as_ident())
                .is_some_and(|name| named(&fold(name))),
        }
    };
    if error.code == ErrorCode::UndefinedTable && others.iter().any(is_one) {
        SqlError::unsupported("RETURNING of columns of FROM or USING tables")
    } else {
        error
    }
}

/// The items of FROM or USING.
pub(crate) fn factors(from: &[TableWithJoins]) -> Vec<&TableFactor> {
    from.iter()
        .flat_map(|item| {
            let joined = item.joins.iter().map(|join| &join.relation);
            std::iter::once(&item.relation).chain(joined)
        })
        .collect()
}

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
