//! Mutations that were made on older definitions: carried forward where what has changed allows it.
//!
//! A column that was renamed is found by its id, and so is a renamed collection; what was written
//! into a column that is gone is left out; a column that came since has its default. A mutation whose
//! names mean nothing, then or now, or whose collection has another key since, is `schema_stale`.

use std::borrow::Cow;
use std::sync::Arc;

use springhead_proto::sync::{CatalogVersion, ColumnValues, Operation, Verb};
use springhead_proto::{ErrorCode, SchemaVersion, SqlError};
use springhead_sql::catalog::{Catalog, Table};

use crate::cdc::find_collection;
use crate::schemas::Schemas;

/// An operation by the present names, and its table.
pub(crate) type Carried<'o> = (Arc<Table>, Cow<'o, Operation>);

/// An operation by the present names, with its table; `None` if nothing of it is left to do.
///
/// # Errors
/// 42P01 or 42703 for what cannot be carried forward.
pub(crate) fn carried<'o>(
    catalog: &Catalog,
    schemas: &Schemas,
    made_on: CatalogVersion,
    operation: &'o Operation,
) -> Result<Option<Carried<'o>>, SqlError> {
    let present = find_collection(catalog, &operation.collection);
    if made_on.0 == 0 || made_on.0 >= catalog.version {
        return Ok(Some((Arc::clone(present?), Cow::Borrowed(operation))));
    }
    if let Ok(table) = present
        && table.since_catalog <= made_on.0
    {
        return Ok(Some((Arc::clone(table), Cow::Borrowed(operation))));
    }
    let was_called = |table: &Arc<Table>| {
        let then = as_of(schemas, table, made_on)?;
        let name = crate::cdc::collection_name(&then.name);
        let full = format!("{}.{}", then.name.schema, then.name.name);
        (operation.collection == name || operation.collection == full)
            .then(|| (Arc::clone(table), then))
    };
    let Some((table, then)) = catalog.tables.values().find_map(was_called) else {
        // What nobody was called then is what is called so now, if it is new.
        return match present {
            Ok(table) if as_of(schemas, table, made_on).is_none() => {
                Ok(Some((Arc::clone(table), Cow::Borrowed(operation))))
            }
            _ => Err(stale(&operation.collection)),
        };
    };
    if table.key_ids() != then.key_ids() {
        return Err(stale(&operation.collection));
    }
    let mut carried = operation.clone();
    carried.collection = crate::cdc::collection_name(&table.name);
    let had_columns = has_columns(&carried.verb);
    match &mut carried.verb {
        Verb::Insert(columns)
        | Verb::Set(columns)
        | Verb::Inc(columns)
        | Verb::Min(columns)
        | Verb::Max(columns) => {
            let ColumnValues(columns) = columns;
            rename(columns, &then, &table)?;
        }
        Verb::SetAdd(columns) | Verb::SetRemove(columns) => rename(columns, &then, &table)?,
        Verb::Crdt(columns) => rename(columns, &then, &table)?,
        Verb::Delete => {}
    }
    let is_empty = had_columns && !has_columns(&carried.verb);
    if is_empty && !matches!(carried.verb, Verb::Insert(_)) {
        return Ok(None);
    }
    Ok(Some((table, Cow::Owned(carried))))
}

/// A table as it was at a catalog version.
fn as_of(schemas: &Schemas, table: &Arc<Table>, made_on: CatalogVersion) -> Option<Arc<Table>> {
    (1..=table.schema_version)
        .rev()
        .filter_map(|version| schemas.get(table.collection(), SchemaVersion(version)))
        .find(|then| then.since_catalog <= made_on.0)
}

fn rename<V>(columns: &mut Vec<(String, V)>, then: &Table, now: &Table) -> Result<(), SqlError> {
    let given = std::mem::take(columns);
    for (name, value) in given {
        let (_, column) = then.expect_column(&name)?;
        if let Some((_, present)) = now.column_by_id(column.id) {
            columns.push((present.name.clone(), value));
        }
    }
    Ok(())
}

fn has_columns(verb: &Verb) -> bool {
    match verb {
        Verb::Insert(columns)
        | Verb::Set(columns)
        | Verb::Inc(columns)
        | Verb::Min(columns)
        | Verb::Max(columns) => !columns.0.is_empty(),
        Verb::SetAdd(columns) | Verb::SetRemove(columns) => !columns.is_empty(),
        Verb::Crdt(columns) => !columns.is_empty(),
        Verb::Delete => false,
    }
}

fn stale(collection: &str) -> SqlError {
    SqlError::new(
        ErrorCode::UndefinedTable,
        format!("collection \"{collection}\" is not what it was"),
    )
}
