//! How one statement runs in the open SQLite transaction: atomically, captured, and undone alone if
//! it fails.

use std::sync::Arc;

use libsqlite3_sys as ffi;
use rusqlite::Connection;
use rusqlite::types::ToSqlOutput;
use springhead_proto::{ChangeKind, CollectionId, ErrorCode, SchemaVersion, SqlError, ValueRef};
use springhead_sql::PlanKind;
use springhead_sql::catalog::{Catalog, ForeignKey};
use springhead_sql::plan::{Write, WriteVerb};
use springhead_sql::program::Library;

use super::{Request, Writer};
use crate::apply::set_foreign_keys;
use crate::memory::Limited;
use crate::notify::Message;
use crate::programs::{self, Runner};
use crate::readers::{self, Failure};
use crate::rows::{Rows, RowsWriter};
use crate::{checksum, state};

/// A statement that ran; its changes are in the capture.
#[derive(Default)]
pub struct Executed {
    pub rows: Option<Rows>,
    pub affected: u64,
    pub notices: Vec<SqlError>,
    /// A DDL statement: the catalog from now on.
    pub catalog: Option<Arc<Catalog>>,
}

/// A statement that left no trace.
#[derive(Debug)]
pub enum NotDone {
    /// Planned against another catalog.
    Stale,
    Failed(SqlError),
    /// SQLite has given up the whole transaction, or it had to be given up, with it.
    TransactionLost(SqlError),
    /// The state file is damaged where it had to read. Nothing of what is open has been acknowledged
    /// or logged, so all of it has failed for certain.
    Damaged(SqlError),
}

impl NotDone {
    /// What is said of it where it makes no difference which it is.
    pub(super) fn into_error(self) -> SqlError {
        match self {
            NotDone::Failed(error) | NotDone::TransactionLost(error) | NotDone::Damaged(error) => {
                error
            }
            NotDone::Stale => SqlError::new(
                ErrorCode::SerializationFailure,
                "the definitions have changed under the statement",
            ),
        }
    }
}

impl From<SqlError> for NotDone {
    fn from(error: SqlError) -> NotDone {
        NotDone::Failed(error)
    }
}

impl Writer {
    /// Runs one statement in the open transaction.
    pub(super) fn execute(&mut self, request: &Request) -> Result<Executed, NotDone> {
        if request.plan.catalog_version != self.catalog.version {
            return Err(NotDone::Stale);
        }
        let mark = self.capture.mark();
        let context = Arc::clone(&self.context);
        let restarts = context
            .sequences
            .as_ref()
            .map_or(0, |book| book.lock().mark());
        context.fired.truncate(0);
        context.watched.clear();
        request.session.notices.lock().clear();
        (*request.session.library.lock()).clone_from(&request.plan.library);
        context.enter(&request.session, &request.cancel);
        // Definitions may build indexes over all there is.
        let limited = !matches!(request.plan.kind, PlanKind::Ddl(_));
        let limited = limited.then(|| Limited::to(self.config.statement_memory_bytes));
        let result = match &request.plan.kind {
            PlanKind::Write(write) => match &request.rows {
                None => self.execute_write(write, request),
                Some(rows) => self.execute_rows(write, rows.clone(), request),
            },
            PlanKind::Notify(message) => {
                self.capture.push_message(&Message {
                    channel: message.channel.clone(),
                    payload: message.payload.clone(),
                    process_id: request.session.process_id,
                });
                Ok(Executed::default())
            }
            PlanKind::Query(query) => {
                readers::collect_rows(&self.conn, &query.sql, &request.params, &self.config).map(
                    |rows| Executed {
                        affected: rows.count(),
                        rows: Some(rows),
                        ..Executed::default()
                    },
                )
            }
            PlanKind::Truncate {
                tables,
                restart_identity,
            } => self.truncate(tables, restart_identity),
            PlanKind::Ddl(ddl) => self.execute_ddl(ddl),
            _ => Err(Failure::Sql(SqlError::new(
                ErrorCode::Internal,
                "this statement is not the writer's",
            ))),
        };
        drop(limited);
        let result = result.and_then(|executed| {
            self.capture.take_messages();
            self.capture.check()?;
            Ok(executed)
        });
        let executed = match result {
            Ok(mut executed) => {
                executed.notices.append(&mut request.session.notices.lock());
                Ok(executed)
            }
            Err(failure) => {
                // Not SQLite's own failures: what the statement has changed is there.
                let is_ours = self.capture.check().is_err() || matches!(failure, Failure::Sql(_));
                let damaged =
                    matches!(&failure, Failure::Sqlite(error) if checksum::is_damage(error));
                let mut error = self.describe(failure);
                if let PlanKind::Write(write) = &request.plan.kind
                    && let Some(viewer) = &write.viewer
                {
                    error = springhead_sql::access::conceal(&self.catalog, viewer, error);
                }
                if damaged {
                    Err(NotDone::Damaged(error))
                } else if self.conn.is_autocommit() || is_ours && !leaves_nothing(request) {
                    Err(NotDone::TransactionLost(error))
                } else {
                    self.capture.cut(mark);
                    self.undo_restarts(restarts);
                    Err(NotDone::Failed(error))
                }
            }
        };
        context.leave();
        executed
    }

    fn execute_write(&mut self, write: &Write, request: &Request) -> Result<Executed, Failure> {
        // A statement that fails undoes itself; only what is found wrong after it has succeeded
        // needs a savepoint.
        if !write.touches_foreign_keys && write.checks.is_empty() {
            return self.step_write(write, request);
        }
        self.conn
            .prepare_cached("SAVEPOINT statement")?
            .execute([])?;
        if !write.checks.is_empty() {
            self.context.watched.start(write.table);
        }
        let stepped = self.step_write(write, request);
        let watched = (!write.checks.is_empty()).then(|| self.context.watched.end());
        let result = stepped.and_then(|executed| {
            programs::check_rows(&self.conn, write, watched.flatten())?;
            self.check_foreign_keys(!self.in_transaction(), Some(write))?;
            self.capture.check()?;
            Ok(executed)
        });
        self.end_savepoint(result)
    }

    /// Runs one INSERT for each of `rows`, as one statement. The first value of a row is the line of
    /// COPY's data that it comes from.
    fn execute_rows(
        &mut self,
        write: &Write,
        mut rows: Rows,
        request: &Request,
    ) -> Result<Executed, Failure> {
        self.conn
            .prepare_cached("SAVEPOINT statement")?
            .execute([])?;
        if !write.checks.is_empty() {
            self.context.watched.start(write.table);
        }
        let stepped = self.copy_rows(write, &mut rows, request);
        let watched = (!write.checks.is_empty()).then(|| self.context.watched.end());
        let result = stepped.and_then(|executed| {
            programs::check_rows(&self.conn, write, watched.flatten())?;
            self.check_foreign_keys(!self.in_transaction(), Some(write))?;
            self.capture.check()?;
            Ok(executed)
        });
        self.end_savepoint(result)
    }

    /// The rows of a COPY, and what they fire.
    fn copy_rows(
        &self,
        write: &Write,
        rows: &mut Rows,
        request: &Request,
    ) -> Result<Executed, Failure> {
        let Some(library) = &request.plan.library else {
            return self.step_rows(write, rows, request);
        };
        let runner = Runner {
            conn: &self.conn,
            context: &self.context,
            library: Arc::clone(library),
        };
        runner.begin(write)?;
        let executed = self.step_rows(write, rows, request)?;
        runner.finish(write, 0)?;
        Ok(executed)
    }

    fn step_rows(
        &self,
        write: &Write,
        rows: &mut Rows,
        request: &Request,
    ) -> Result<Executed, Failure> {
        let mut affected = 0;
        let mut statement = self.conn.prepare_cached(&write.sql)?;
        while let Some(chunk) = rows.next_chunk()? {
            self.capture.check()?;
            if let Some(error) = request.cancel.error() {
                return Err(error.into());
            }
            for row in chunk.rows() {
                let mut values = row.values();
                let line = match values.next() {
                    Some(ValueRef::Integer(line)) => line,
                    _ => 0,
                };
                for (index, value) in values.enumerate() {
                    statement.raw_bind_parameter(
                        index + 1,
                        ToSqlOutput::Borrowed(crate::functions::to_sqlite(value)),
                    )?;
                }
                match statement.raw_execute() {
                    Ok(count) => affected += count as u64,
                    // Damage is told as what it is.
                    Err(error) if checksum::is_damage(&error) => return Err(error.into()),
                    Err(error) => {
                        let error = self.describe(Failure::Sqlite(error));
                        return Err(Failure::Sql(match &error.context {
                            Some(_) => error,
                            None => error.with_context(format!("line {line}")),
                        }));
                    }
                }
            }
        }
        Ok(Executed {
            affected,
            ..Executed::default()
        })
    }

    /// Releases the savepoint `statement`, or rolls back to it first.
    pub(super) fn end_savepoint<T>(&self, result: Result<T, Failure>) -> Result<T, Failure> {
        if result.is_err() {
            // SQLite may have ended everything, savepoint included; the caller looks.
            if self.conn.is_autocommit() {
                return result;
            }
            self.conn
                .prepare_cached("ROLLBACK TO statement")?
                .execute([])?;
        }
        self.conn.prepare_cached("RELEASE statement")?.execute([])?;
        result
    }

    /// The statement and what it fires.
    fn step_with_programs(
        &self,
        write: &Write,
        request: &Request,
        library: &Arc<Library>,
    ) -> Result<Executed, Failure> {
        let runner = Runner {
            conn: &self.conn,
            context: &self.context,
            library: Arc::clone(library),
        };
        let written = runner.write_unchecked(write, &request.params)?;
        let mut executed = Executed {
            affected: written.affected,
            ..Executed::default()
        };
        if !write.returning.is_empty() {
            let mut rows = RowsWriter::new(
                self.config.result_memory_bytes,
                self.config.max_result_bytes,
            );
            for row in &written.rows {
                rows.push(row.iter().map(springhead_proto::Value::as_ref))?;
            }
            executed.rows = Some(rows.finish()?);
        }
        Ok(executed)
    }

    fn step_write(&self, write: &Write, request: &Request) -> Result<Executed, Failure> {
        if write.verb == WriteVerb::Lock {
            return Ok(Executed::default());
        }
        if let Some(library) = &request.plan.library {
            return self.step_with_programs(write, request, library);
        }
        if write.returning.is_empty() && !matches!(write.verb, WriteVerb::Select | WriteVerb::Lock)
        {
            let mut statement = self.conn.prepare_cached(&write.sql)?;
            readers::bind(&mut statement, &request.params)?;
            let affected = statement.raw_execute()?;
            return Ok(Executed {
                affected: affected as u64,
                ..Executed::default()
            });
        }
        let rows = readers::collect_rows(&self.conn, &write.sql, &request.params, &self.config)?;
        let affected = if write.verb == WriteVerb::Select {
            rows.count()
        } else {
            self.conn.changes()
        };
        Ok(Executed {
            affected,
            rows: Some(rows),
            ..Executed::default()
        })
    }

    fn truncate(
        &mut self,
        tables: &[CollectionId],
        sequences: &[u32],
    ) -> Result<Executed, Failure> {
        if self.config.device
            && let Some(table) = tables
                .iter()
                .find(|table| crate::device::is_replicated(**table))
        {
            let name = self
                .catalog
                .table(*table)
                .map_or("", |table| &table.name.name);
            return Err(SqlError::new(
                ErrorCode::FeatureNotSupported,
                format!("TRUNCATE of \"{name}\", which the server holds"),
            )
            .with_hint("DELETE FROM it: each document is then deleted for all")
            .into());
        }
        // The planner has made sure that whoever refers to these tables is among them.
        self.conn
            .prepare_cached("SAVEPOINT statement")?
            .execute([])?;
        self.capture.enabled = false;
        set_foreign_keys(&self.conn, false)?;
        let emptied = tables.iter().try_for_each(|&table| {
            self.conn
                .execute_batch(&format!("DELETE FROM {}", state::storage_name(table)))
        });
        let restored = set_foreign_keys(&self.conn, true);
        self.capture.enabled = true;
        self.end_savepoint(emptied.and(restored).map_err(Failure::from))?;
        for &table in tables {
            let version = self
                .catalog
                .tables
                .get(&table)
                .map_or(SchemaVersion(1), |table| table.version());
            self.capture
                .push(ChangeKind::Truncate, table, version, None);
        }
        if let Some(book) = &self.context.sequences {
            let mut book = book.lock();
            for &sequence in sequences {
                book.restart(sequence);
            }
        }
        Ok(Executed::default())
    }

    /// Makes sure that no immediate foreign key is violated now; with `all`, no deferred one either.
    /// `write` is the statement that has just run, if it is one's.
    ///
    /// # Errors
    /// 23503 naming the constraint.
    pub(super) fn check_foreign_keys(
        &self,
        all: bool,
        write: Option<&Write>,
    ) -> Result<(), SqlError> {
        if deferred_violations(&self.conn) == 0 {
            return Ok(());
        }
        self.context.as_engine(|| self.find_violation(all, write))
    }

    fn find_violation(&self, all: bool, write: Option<&Write>) -> Result<(), SqlError> {
        for table in self
            .catalog
            .tables
            .values()
            .filter(|table| !table.foreign_keys.is_empty())
        {
            let mut check = self
                .conn
                .prepare(&format!(
                    "PRAGMA foreign_key_check({})",
                    table.storage_name()
                ))
                .map_err(|error| readers::translate_plain(&error))?;
            let mut rows = check
                .query([])
                .map_err(|error| readers::translate_plain(&error))?;
            while let Some(row) = rows
                .next()
                .map_err(|error| readers::translate_plain(&error))?
            {
                let (rowid, ordinal): (Option<i64>, u16) = (
                    row.get(1)
                        .map_err(|error| readers::translate_plain(&error))?,
                    row.get(3)
                        .map_err(|error| readers::translate_plain(&error))?,
                );
                // SQLite numbers a table's keys from the last to the first.
                let Some(key) = table.foreign_keys.iter().rev().nth(usize::from(ordinal)) else {
                    continue;
                };
                if all || !self.is_deferred(key) {
                    return Err(self.foreign_key_violation(table, key, rowid, write));
                }
            }
        }
        if all {
            return Err(SqlError::new(
                ErrorCode::ForeignKeyViolation,
                "a foreign key constraint is violated",
            ));
        }
        Ok(())
    }

    fn is_deferred(&self, key: &ForeignKey) -> bool {
        if !key.deferrable {
            return false;
        }
        let Some(owner) = &self.owner else {
            return key.initially_deferred;
        };
        let constraints = &owner.constraints;
        constraints
            .named
            .iter()
            .find(|(name, _)| *name == key.name)
            .map(|(_, deferred)| *deferred)
            .or(constraints.all)
            .unwrap_or(key.initially_deferred)
    }

    fn foreign_key_violation(
        &self,
        table: &springhead_sql::catalog::Table,
        key: &ForeignKey,
        rowid: Option<i64>,
        write: Option<&Write>,
    ) -> SqlError {
        let values = rowid.and_then(|rowid| {
            let columns: Vec<String> = key.columns.iter().map(|id| format!("c{id}")).collect();
            let sql = format!(
                "SELECT {} FROM {} WHERE rowid = ?1",
                columns.join(", "),
                table.storage_name()
            );
            let mut statement = self.conn.prepare(&sql).ok()?;
            statement
                .query_row([rowid], |row| {
                    (0..columns.len())
                        .map(|index| {
                            row.get_ref(index).map(|value| {
                                crate::functions::from_sqlite(value).map(|value| value.to_owned())
                            })
                        })
                        .collect::<rusqlite::Result<Result<Vec<_>, _>>>()
                })
                .ok()?
                .ok()
        });
        // The child is at fault if it was written to; otherwise the parent's row is gone.
        let child_changed = match write {
            Some(write) => write.table == table.collection() && write.verb != WriteVerb::Delete,
            None => self.capture.touches(table.collection()),
        };
        springhead_sql::errors::foreign_key_violation(
            &self.catalog,
            table,
            key,
            values.as_deref(),
            child_changed,
        )
    }

    /// The failure in PostgreSQL's words.
    pub(super) fn describe(&self, failure: Failure) -> SqlError {
        match failure {
            Failure::Sql(error) => error,
            Failure::Sqlite(error) => self
                .context
                .take_error()
                .unwrap_or_else(|| translate(&self.catalog, &error)),
        }
    }
}

/// SQLite's error in PostgreSQL's words.
#[must_use]
pub fn translate(catalog: &Catalog, error: &rusqlite::Error) -> SqlError {
    if let Some(damage) = checksum::describe(error) {
        return damage;
    }
    match error {
        rusqlite::Error::SqliteFailure(failure, Some(message)) => {
            springhead_sql::errors::translate(catalog, failure.extended_code, message)
        }
        other => readers::translate_plain(other),
    }
}

/// # Errors
/// 42704 for an unknown constraint, 42809 for one that cannot be deferred.
pub(super) fn expect_deferrable(catalog: &Catalog, name: &str) -> Result<(), SqlError> {
    let mut keys = catalog
        .tables
        .values()
        .flat_map(|table| &table.foreign_keys)
        .filter(|key| key.name == name);
    match keys.next() {
        None => Err(SqlError::new(
            ErrorCode::UndefinedObject,
            format!("constraint \"{name}\" does not exist"),
        )),
        Some(key) if !key.deferrable => Err(SqlError::new(
            ErrorCode::WrongObjectType,
            format!("constraint \"{name}\" is not deferrable"),
        )),
        Some(_) => Ok(()),
    }
}

/// Whether the statement leaves nothing in SQLite when it fails for a reason that is not SQLite's:
/// it runs in a savepoint of its own, or changes nothing.
fn leaves_nothing(request: &Request) -> bool {
    match &request.plan.kind {
        PlanKind::Write(write) => {
            write.touches_foreign_keys
                || !write.checks.is_empty()
                || write.verb == WriteVerb::Select
                || request.rows.is_some()
        }
        PlanKind::Query(_) => true,
        _ => true,
    }
}

/// How many violations of foreign keys the open transaction still has to resolve; SQLite says only
/// whether there are any.
fn deferred_violations(conn: &Connection) -> i32 {
    let (mut current, mut high) = (0, 0);
    // SAFETY: the handle is open, the two places are ours.
    let code = unsafe {
        ffi::sqlite3_db_status(
            conn.handle(),
            ffi::SQLITE_DBSTATUS_DEFERRED_FKS,
            &raw mut current,
            &raw mut high,
            0,
        )
    };
    debug_assert_eq!(code, ffi::SQLITE_OK);
    current
}
