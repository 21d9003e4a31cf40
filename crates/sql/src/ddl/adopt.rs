//! Definitions that come from elsewhere, as the DDL that brings a database to them: what a device
//! does with the definitions of its server.
//!
//! Ids are kept, so that a renamed column is the same column. A table whose storage changes is made
//! anew; what both forms have goes over, and what only the new one has is NULL until its rows come.

use std::sync::Arc;

use springhead_proto::{CollectionId, ErrorCode, SqlError};

use super::storage;
use crate::catalog::{Catalog, Definition, Table};
use crate::plan::{Ddl, DefinitionAction, DefinitionChange};

/// The tag of such DDL, in place of a command's.
pub const ADOPT: &str = "SYNC DEFINITIONS";

/// The DDL that drops and then puts definitions, each by its id. What is to be dropped and is not
/// there is none's loss; `None` if there is nothing to do.
///
/// # Errors
/// 42710 if a name is taken by another object, 0A000 for what cannot be made here.
pub fn adopt(
    catalog: &Catalog,
    drops: &[Definition],
    puts: &[Definition],
) -> Result<Option<Ddl>, SqlError> {
    let known: Vec<Definition> = catalog.definitions().collect();
    let find = |definition: &Definition| {
        known
            .iter()
            .find(|known| known.kind() == definition.kind() && known.id() == definition.id())
    };
    let mut changes = Vec::new();
    for drop in drops.iter().rev() {
        changes.extend(find(drop).map(|known| change(DefinitionAction::Drop, known)));
    }
    for put in puts {
        if find(put).is_none_or(|known| known.hash() != put.hash()) {
            changes.push(change(DefinitionAction::Put, put));
        }
    }
    if changes.is_empty() {
        return Ok(None);
    }
    let adopted = catalog.with_changes(&changes, catalog.version + 1, catalog.next_id);
    for put in puts {
        expect_name_free(catalog, put, drops)?;
    }
    let mut statements = Vec::new();
    for change in &changes {
        if let Definition::Table(table) = &change.definition {
            match change.action {
                DefinitionAction::Drop => {
                    statements.push(format!("DROP TABLE {}", table.storage_name()));
                }
                DefinitionAction::Put => put_table(catalog, &adopted, table, &mut statements)?,
            }
        }
    }
    Ok(Some(Ddl {
        tag: ADOPT,
        source: String::new(),
        changes,
        statements,
        rebuilds: true,
        converts: Vec::new(),
        check_foreign_keys: Vec::new(),
        preconditions: Vec::new(),
        validations: Vec::new(),
        updates: Vec::new(),
        sequence_restarts: Vec::new(),
        catalog: Arc::new(adopted),
        notices: Vec::new(),
    }))
}

fn change(action: DefinitionAction, definition: &Definition) -> DefinitionChange {
    DefinitionChange {
        action,
        definition: definition.clone(),
        collection: definition.collection(),
    }
}

fn expect_name_free(
    catalog: &Catalog,
    put: &Definition,
    drops: &[Definition],
) -> Result<(), SqlError> {
    let Definition::Table(table) = put else {
        return Ok(());
    };
    match catalog.table_named(&table.name) {
        Some(other) if other.id != table.id && !drops.iter().any(|drop| drop.id() == other.id) => {
            Err(SqlError::new(
                ErrorCode::DuplicateTable,
                format!(
                    "the server has a table \"{}\", and there is another one of that name here",
                    table.name.name
                ),
            )
            .with_hint("rename the local table"))
        }
        _ => Ok(()),
    }
}

fn put_table(
    before: &Catalog,
    catalog: &Catalog,
    table: &Table,
    statements: &mut Vec<String>,
) -> Result<(), SqlError> {
    let Some(old) = before.table(CollectionId(table.id)) else {
        statements.extend(storage::create(catalog, table)?);
        return Ok(());
    };
    let made = storage::create(catalog, table)?;
    if storage::create(before, old)? == made {
        return Ok(());
    }
    let name = table.storage_name();
    let temporary = format!("{name}_new");
    statements.push(storage::create_table(catalog, table, &temporary)?);
    let shared: Vec<String> = table
        .columns
        .iter()
        .filter(|column| column.generated.is_none())
        .filter(|column| {
            old.column_by_id(column.id)
                .is_some_and(|(_, old)| old.pg_type == column.pg_type)
        })
        .map(|column| column.storage_name())
        .collect();
    if !shared.is_empty() {
        let shared = shared.join(", ");
        statements.push(format!(
            "INSERT OR IGNORE INTO {temporary} ({shared}) SELECT {shared} FROM {name}"
        ));
    }
    statements.push(format!("DROP TABLE {name}"));
    statements.push(format!("ALTER TABLE {temporary} RENAME TO {name}"));
    // The first makes the table itself.
    statements.extend(made.into_iter().skip(1));
    Ok(())
}
