//! Brings a state file up to a DEFINITION change: its row in `springhead.definitions`, the schema
//! history, the sequence table. For the writer and for replay alike.

use std::sync::Arc;

use rusqlite::{Connection, params};
use springhead_sql::catalog::{Definition, DefinitionRecord, Table};
use springhead_sql::plan::{DefinitionAction, DefinitionChange};

use crate::functions::Output;
use crate::state;

/// Stores `record` in the open transaction. Its statements have run.
///
/// # Errors
/// What SQLite says.
pub fn store(conn: &Connection, record: &DefinitionRecord) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO t1 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?
        .execute(rusqlite::params_from_iter(
            record.values().into_iter().map(Output),
        ))?;
    match (&record.payload.definition, record.action) {
        (Definition::Table(table), DefinitionAction::Put) => state::put_schema(conn, table),
        (Definition::Sequence(sequence), DefinitionAction::Drop) => conn
            .prepare_cached("DELETE FROM s_sequences WHERE id = ?1")?
            .execute(params![sequence.id])
            .map(|_| ()),
        _ => Ok(()),
    }
}

/// The table that `record` puts, if it is one: a version that row images are read by.
#[must_use]
pub fn table(record: &DefinitionRecord) -> Option<Arc<Table>> {
    match (&record.payload.definition, record.action) {
        (Definition::Table(table), DefinitionAction::Put) => Some(Arc::new(table.clone())),
        _ => None,
    }
}

/// What `record` does to a catalog.
#[must_use]
pub fn change(record: &DefinitionRecord) -> DefinitionChange {
    DefinitionChange {
        action: record.action,
        definition: record.payload.definition.clone(),
        collection: record.payload.definition.collection(),
    }
}
