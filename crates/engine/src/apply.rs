//! Puts commits of the log into a state file: replay after a crash, and what a standby does all the
//! time. Foreign keys, checks and triggers are off here, since their effects are in the log.

use std::sync::Arc;

use libsqlite3_sys as ffi;
use rusqlite::Connection;
use rustc_hash::FxHashMap;
use springhead_log::CommitSlice;
use springhead_proto::{ChangeKind, ChangeRef, Changes, CollectionId, RowRef, TenantId};
use springhead_sql::Catalog;
use springhead_sql::catalog::{DefinitionRecord, Table};

use crate::EngineError;
use crate::definitions;
use crate::functions::to_sqlite;
use crate::schemas::Schemas;
use crate::sequences::Advance;
use crate::state::{self, Applied};

/// Applies slices to one state file, whole commits per SQLite transaction.
pub struct Applier<'c> {
    conn: &'c Connection,
    tenant: TenantId,
    catalog: Arc<Catalog>,
    /// Told of definitions, which are durable; `None` where they are not.
    schemas: Option<&'c Schemas>,
    statements: FxHashMap<CollectionId, Arc<RowStatements>>,
    open: bool,
    /// A commit has begun and its last piece is to come.
    mid_commit: bool,
    /// The last whole commit in the open SQLite transaction; noted in the state when that ends.
    reached: Option<Applied>,
    /// Bytes applied in the open SQLite transaction.
    open_bytes: usize,
}

/// What an applier leaves for the next one of the same connection. Enforcement is off meanwhile: every
/// change of it makes SQLite prepare all of the connection's statements again.
#[derive(Default)]
pub struct Paused {
    statements: FxHashMap<CollectionId, Arc<RowStatements>>,
}

/// SQLite texts that put, change and remove one row of a table.
#[derive(PartialEq, Eq)]
pub(crate) struct RowStatements {
    pub insert: String,
    pub update: String,
    pub delete: String,
    /// Places in a row image that are stored (not generated).
    pub stored: Vec<usize>,
    pub key: Vec<usize>,
    pub columns: usize,
}

/// A SQLite transaction of replay is ended after about this much log.
const TRANSACTION_BYTES: usize = 8 << 20;

impl<'c> Applier<'c> {
    /// Starts from the state that `conn` and `catalog` are in.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn new(
        conn: &'c Connection,
        tenant: TenantId,
        catalog: Arc<Catalog>,
        schemas: &'c Schemas,
    ) -> Result<Applier<'c>, EngineError> {
        Applier::start(conn, tenant, catalog, Some(schemas))
    }

    /// For changes that are in no log yet, in a transaction that the caller opens.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn uncommitted(
        conn: &'c Connection,
        tenant: TenantId,
        catalog: Arc<Catalog>,
    ) -> Result<Applier<'c>, EngineError> {
        Applier::start(conn, tenant, catalog, None)
    }

    /// Goes on where [`Applier::pause`] has left off; `catalog` is still the one that it gave.
    #[must_use]
    pub fn resume(
        conn: &'c Connection,
        tenant: TenantId,
        catalog: Arc<Catalog>,
        schemas: &'c Schemas,
        paused: Paused,
    ) -> Applier<'c> {
        Applier {
            conn,
            tenant,
            catalog,
            schemas: Some(schemas),
            statements: paused.statements,
            open: false,
            mid_commit: false,
            reached: None,
            open_bytes: 0,
        }
    }

    fn start(
        conn: &'c Connection,
        tenant: TenantId,
        catalog: Arc<Catalog>,
        schemas: Option<&'c Schemas>,
    ) -> Result<Applier<'c>, EngineError> {
        let applier = Applier {
            conn,
            tenant,
            catalog,
            schemas,
            statements: FxHashMap::default(),
            open: false,
            mid_commit: false,
            reached: None,
            open_bytes: 0,
        };
        enforce(conn, false).map_err(|error| applier.sqlite(error))?;
        Ok(applier)
    }

    /// Applies one slice. A commit's slices must follow one another.
    ///
    /// # Errors
    /// Damage, or what SQLite says; the open SQLite transaction is then to be given up.
    pub fn apply(&mut self, slice: &CommitSlice) -> Result<(), EngineError> {
        if !self.open {
            self.execute("BEGIN IMMEDIATE")?;
            self.open = true;
        }
        for change in Changes::new(&slice.changes) {
            let change = change.map_err(|error| EngineError::Corrupt {
                tenant: self.tenant.0,
                what: format!("a change after LSN {}: {error}", slice.first_lsn()),
            })?;
            self.apply_change(&change)?;
        }
        self.open_bytes += slice.changes.len();
        self.mid_commit = !slice.last;
        if slice.last {
            self.reached = Some(Applied {
                lsn: slice.commit_last_lsn(),
                epoch: slice.epoch,
            });
            if self.open_bytes >= TRANSACTION_BYTES {
                self.commit()?;
            }
        }
        Ok(())
    }

    /// Whether the commit of the last slice goes on.
    #[must_use]
    pub fn is_mid_commit(&self) -> bool {
        self.mid_commit
    }

    /// The catalog as of the last slice.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog)
    }

    /// Ends the open SQLite transaction, turns enforcement on again and gives the catalog back.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn finish(mut self) -> Result<Arc<Catalog>, EngineError> {
        self.commit()?;
        enforce(self.conn, true).map_err(|error| self.sqlite(error))?;
        Ok(self.catalog)
    }

    /// Ends the open SQLite transaction, leaves enforcement off for [`Applier::resume`] and gives the
    /// catalog back.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn pause(mut self) -> Result<(Arc<Catalog>, Paused), EngineError> {
        self.commit()?;
        let statements = self.statements;
        Ok((self.catalog, Paused { statements }))
    }

    /// Turns enforcement on again and leaves the caller's transaction open.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn leave_open(self) -> Result<(), EngineError> {
        enforce(self.conn, true).map_err(|error| self.sqlite(error))
    }

    fn commit(&mut self) -> Result<(), EngineError> {
        if std::mem::take(&mut self.open) {
            self.open_bytes = 0;
            if let Some(applied) = self.reached.take() {
                state::set_applied(self.conn, applied).map_err(|error| self.sqlite(error))?;
            }
            self.execute("COMMIT")?;
        }
        Ok(())
    }

    fn execute(&self, sql: &str) -> Result<(), EngineError> {
        let prepared = self.conn.prepare_cached(sql);
        let executed = prepared.and_then(|mut statement| statement.execute([]));
        executed.map(drop).map_err(|error| self.sqlite(error))
    }

    /// Applies one change, in the open transaction.
    ///
    /// # Errors
    /// As [`Applier::apply`].
    pub fn apply_change(&mut self, change: &ChangeRef<'_>) -> Result<(), EngineError> {
        match change.kind {
            ChangeKind::Insert | ChangeKind::Update | ChangeKind::Delete => self.apply_row(change),
            ChangeKind::Truncate => {
                let sql = format!("DELETE FROM {}", state::storage_name(change.collection));
                self.conn
                    .execute_batch(&sql)
                    .map_err(|error| self.sqlite(error))
            }
            ChangeKind::Definition => self.apply_definition(change),
            ChangeKind::Sequence => {
                let advance = change
                    .after
                    .and_then(Advance::from_row)
                    .ok_or_else(|| self.damaged("a sequence advance has other values"))?;
                state::set_sequence(self.conn, advance).map_err(|error| self.sqlite(error))
            }
            ChangeKind::Message => Ok(()),
        }
    }

    fn apply_row(&mut self, change: &ChangeRef<'_>) -> Result<(), EngineError> {
        let statements = self.row_statements(change.collection)?;
        let (sql, changed) = match change.kind {
            ChangeKind::Insert => {
                let after = self.image(&statements, change.after)?;
                let values = statements.stored.iter().map(|&place| after[place]);
                (&statements.insert, self.run(&statements.insert, values))
            }
            ChangeKind::Update => {
                let (before, after) = (
                    self.image(&statements, change.before)?,
                    self.image(&statements, change.after)?,
                );
                let values = statements
                    .stored
                    .iter()
                    .map(|&place| after[place])
                    .chain(statements.key.iter().map(|&place| before[place]));
                (&statements.update, self.run(&statements.update, values))
            }
            _ => {
                let before = self.image(&statements, change.before)?;
                let values = statements.key.iter().map(|&place| before[place]);
                (&statements.delete, self.run(&statements.delete, values))
            }
        };
        let changed = changed.map_err(|error| self.sqlite(error))?;
        if changed != 1 {
            // The state was not what the log adds up to.
            return Err(self.damaged(&format!("replaying one row touched {changed} ({sql})")));
        }
        Ok(())
    }

    /// The values of a row image, which there must be.
    fn image<'a>(
        &self,
        statements: &RowStatements,
        row: Option<RowRef<'a>>,
    ) -> Result<Vec<rusqlite::types::ValueRef<'a>>, EngineError> {
        let row = row.ok_or_else(|| self.damaged("a row image is missing"))?;
        let values: Vec<_> = row.values().map(to_sqlite).collect();
        if values.len() != statements.columns {
            return Err(
                self.damaged("a row image has another number of values than its table has columns")
            );
        }
        Ok(values)
    }

    fn run<'v>(
        &self,
        sql: &str,
        values: impl Iterator<Item = rusqlite::types::ValueRef<'v>>,
    ) -> rusqlite::Result<usize> {
        let mut statement = self.conn.prepare_cached(sql)?;
        for (index, value) in values.enumerate() {
            statement
                .raw_bind_parameter(index + 1, rusqlite::types::ToSqlOutput::Borrowed(value))?;
        }
        statement.raw_execute()
    }

    fn row_statements(
        &mut self,
        collection: CollectionId,
    ) -> Result<Arc<RowStatements>, EngineError> {
        if let Some(statements) = self.statements.get(&collection) {
            return Ok(Arc::clone(statements));
        }
        let table = self.catalog.tables.get(&collection).ok_or_else(|| {
            self.damaged(&format!(
                "a change names the unknown collection {collection}"
            ))
        })?;
        let statements = Arc::new(RowStatements::of(table));
        self.statements.insert(collection, Arc::clone(&statements));
        Ok(statements)
    }

    fn apply_definition(&mut self, change: &ChangeRef<'_>) -> Result<(), EngineError> {
        let after = change
            .after
            .ok_or_else(|| self.damaged("a definition is missing"))?;
        let record =
            DefinitionRecord::from_row(after).map_err(|error| self.damaged(&error.message))?;
        for statement in &record.payload.statements {
            self.conn
                .execute_batch(statement)
                .map_err(|error| self.sqlite(error))?;
        }
        self.conn.flush_prepared_statement_cache();
        self.statements.clear();
        definitions::store(self.conn, &record).map_err(|error| self.sqlite(error))?;
        if let (Some(schemas), Some(table)) = (self.schemas, definitions::table(&record)) {
            schemas.put(&table);
        }
        let change = definitions::change(&record);
        self.catalog = Arc::new(self.catalog.with_changes(
            &[change],
            record.catalog_version,
            record.payload.next_id,
        ));
        Ok(())
    }

    fn sqlite(&self, error: rusqlite::Error) -> EngineError {
        EngineError::Sqlite {
            tenant: self.tenant.0,
            error,
        }
    }

    fn damaged(&self, what: &str) -> EngineError {
        EngineError::Corrupt {
            tenant: self.tenant.0,
            what: what.to_owned(),
        }
    }
}

/// Foreign keys, triggers and checks, on or off.
///
/// # Errors
/// What SQLite says.
pub fn enforce(conn: &Connection, on: bool) -> rusqlite::Result<()> {
    let word = if on { "OFF" } else { "ON" };
    set_foreign_keys(conn, on)?;
    conn.execute_batch(&format!(
        "PRAGMA ignore_check_constraints={word}; PRAGMA legacy_alter_table={word};"
    ))
}

/// Foreign keys on or off, also inside a transaction, where the PRAGMA does nothing.
///
/// # Errors
/// What SQLite says.
pub fn set_foreign_keys(conn: &Connection, on: bool) -> rusqlite::Result<()> {
    // SAFETY: the handle is open; this option takes an int and an optional int pointer.
    let code = unsafe {
        ffi::sqlite3_db_config(
            conn.handle(),
            ffi::SQLITE_DBCONFIG_ENABLE_FKEY,
            i32::from(on),
            std::ptr::null_mut::<i32>(),
        )
    };
    if code == ffi::SQLITE_OK {
        Ok(())
    } else {
        Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))
    }
}

impl RowStatements {
    pub(crate) fn of(table: &Table) -> RowStatements {
        let stored: Vec<usize> = table
            .columns
            .iter()
            .enumerate()
            .filter(|(_, column)| column.generated.is_none())
            .map(|(place, _)| place)
            .collect();
        let name = |&place: &usize| table.columns[place].storage_name();
        let names: Vec<String> = stored.iter().map(name).collect();
        let keys: Vec<String> = table.key.iter().map(name).collect();
        let numbered = |names: &[String], first: usize, separator: &str| {
            let parts: Vec<String> = names
                .iter()
                .enumerate()
                .map(|(index, name)| format!("{name} = ?{}", index + first))
                .collect();
            parts.join(separator)
        };
        let places: Vec<String> = (1..=names.len())
            .map(|number| format!("?{number}"))
            .collect();
        let storage = table.storage_name();
        RowStatements {
            insert: format!(
                "INSERT INTO {storage} ({}) VALUES ({})",
                names.join(", "),
                places.join(", ")
            ),
            update: format!(
                "UPDATE {storage} SET {} WHERE {}",
                numbered(&names, 1, ", "),
                numbered(&keys, names.len() + 1, " AND ")
            ),
            delete: format!(
                "DELETE FROM {storage} WHERE {}",
                numbered(&keys, 1, " AND ")
            ),
            stored,
            key: table.key.clone(),
            columns: table.columns.len(),
        }
    }
}
