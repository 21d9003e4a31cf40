//! How one statement runs in the open SQLite transaction: atomically, captured, and undone alone if
//! it fails.

use std::sync::Arc;

use rusqlite::types::ToSqlOutput;
use rustc_hash::FxHashSet;
use springhead_proto::{
    ChangeKind, ChangeRef, CollectionId, ErrorCode, RowRef, SchemaVersion, SqlError, ValueRef,
};
use springhead_sql::PlanKind;
use springhead_sql::catalog::Catalog;
use springhead_sql::functions::rowset;
use springhead_sql::plan::{Write, WriteVerb};
use springhead_sql::program::Library;

use super::{Request, Writer, keys};
use crate::apply::set_foreign_keys;
use crate::capture::Mark;
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
    /// SQLite has given up the whole transaction, or it has to be given up, with it. The capture has
    /// what there was before the statement.
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
        *context.constraints.lock() = (self.owner.as_ref()).map(|owner| owner.constraints.clone());
        // Definitions may build indexes over all there is.
        let limited = !matches!(request.plan.kind, PlanKind::Ddl(_));
        let limited = limited.then(|| Limited::to(self.config.statement_memory_bytes));
        let result = match &request.plan.kind {
            PlanKind::Write(write) => match &request.rows {
                None => self.execute_write(write, request, &mark),
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
            self.settle_crdt(&mark)?;
            Ok(executed)
        });
        let executed = match result {
            Ok(mut executed) => {
                executed.notices.append(&mut request.session.notices.lock());
                Ok(executed)
            }
            Err(failure) => Err(self.undone_by(failure, request, mark, restarts)),
        };
        context.leave();
        executed
    }

    /// What a failure leaves of the transaction. The capture and the sequences are as they were at
    /// `mark` and `restarts`, unless there is damage.
    fn undone_by(
        &mut self,
        failure: Failure,
        request: &Request,
        mark: Mark,
        restarts: usize,
    ) -> NotDone {
        // Not SQLite's own failures: what the statement has changed is there.
        let is_ours = self.capture.check().is_err() || matches!(failure, Failure::Sql(_));
        let damaged = matches!(&failure, Failure::Sqlite(error) if checksum::is_damage(error));
        let mut error = self.describe(failure);
        if let PlanKind::Write(write) = &request.plan.kind
            && let Some(viewer) = &write.viewer
        {
            error = springhead_sql::access::conceal(&self.catalog, viewer, error);
        }
        if damaged {
            return NotDone::Damaged(error);
        }
        self.capture.cut(mark);
        self.undo_restarts(restarts);
        if self.conn.is_autocommit() || is_ours && !self.leaves_nothing(request) {
            NotDone::TransactionLost(error)
        } else {
            NotDone::Failed(error)
        }
    }

    fn execute_write(
        &mut self,
        write: &Write,
        request: &Request,
        mark: &Mark,
    ) -> Result<Executed, Failure> {
        // A statement that fails undoes itself; only what is found wrong after it has succeeded
        // needs a savepoint.
        if !write.touches_foreign_keys
            && write.checks.is_empty()
            && !write.once
            && !self.merges(write)
        {
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
            if write.once {
                self.expect_once(write, mark)?;
            }
            self.settle_crdt(mark)?;
            Ok(executed)
        });
        self.end_savepoint(result)
    }

    /// Makes sure that ON CONFLICT DO UPDATE has met no row that the same statement has written.
    fn expect_once(&self, write: &Write, mark: &Mark) -> Result<(), Failure> {
        let Some(table) = self.catalog.table(write.table) else {
            return Ok(());
        };
        let bytes = self.capture.read_open(mark.bytes(), usize::MAX);
        let bytes = bytes.map_err(|error| {
            let message = format!("the transaction's temporary file: {error}");
            SqlError::new(ErrorCode::DiskFull, message)
        })?;
        let (mut changes, mut written) = (&*bytes, FxHashSet::default());
        while !changes.is_empty() {
            let change = ChangeRef::read(&mut changes)
                .map_err(|error| SqlError::new(ErrorCode::Internal, error.to_string()))?;
            if change.collection != write.table {
                continue;
            }
            let key_of = |row: RowRef<'_>| {
                let values: Vec<ValueRef<'_>> = table
                    .key
                    .iter()
                    .filter_map(|&place| row.get(place))
                    .collect();
                rowset::encode(&values)
            };
            if change
                .before
                .is_some_and(|row| written.contains(&key_of(row)))
            {
                return Err(SqlError::new(
                    ErrorCode::CardinalityViolation,
                    "ON CONFLICT DO UPDATE command cannot affect row a second time",
                )
                .with_hint("Ensure that no rows proposed for insertion within the same command have duplicate constrained values.")
                .into());
            }
            written.extend(change.after.map(key_of));
        }
        Ok(())
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
        if self.before_truncate.is_none() {
            self.before_truncate = self.published.before_truncate();
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

    /// Whether the statement leaves nothing in SQLite when it fails for a reason that is not SQLite's:
    /// it runs in a savepoint of its own, or changes nothing.
    fn leaves_nothing(&self, request: &Request) -> bool {
        match &request.plan.kind {
            PlanKind::Write(write) => {
                write.touches_foreign_keys
                    || !write.checks.is_empty()
                    || write.once
                    || self.merges(write)
                    || write.verb == WriteVerb::Select
                    || request.rows.is_some()
            }
            _ => true,
        }
    }

    /// Whether it writes to a table with CRDT columns.
    fn merges(&self, write: &Write) -> bool {
        (self.catalog.table(write.table)).is_some_and(|table| table.has_crdt())
    }

    /// The failure in PostgreSQL's words.
    pub(super) fn describe(&self, failure: Failure) -> SqlError {
        match failure {
            Failure::Sql(error) => error,
            Failure::Sqlite(error) => self.context.take_error().unwrap_or_else(|| {
                let conn = &self.conn;
                let named = self.context.as_engine(|| {
                    keys::named_restriction(conn, &self.catalog, &self.capture, &error)
                });
                named.unwrap_or_else(|| translate(&self.catalog, &error))
            }),
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
