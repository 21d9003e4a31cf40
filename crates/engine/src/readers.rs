//! Snapshots: read-only connections to a tenant's state file, lent out one query at a time. A
//! result is spooled while the snapshot is open, and nothing else happens in it, so that no snapshot
//! outlives its query.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, Row};
use springhead_proto::{ErrorCode, Lsn, SqlError, TenantId, Value, ValueRef};

use crate::clock::{Clock, Entropy};
use crate::functions::{self, CancelFlag, Context, SessionContext};
use crate::memory::Limited;
use crate::rows::{Rows, RowsWriter};
use crate::tail::Hub;
use crate::{EngineConfig, checksum, state};

/// One tenant's snapshot readers.
pub struct Readers {
    config: Arc<EngineConfig>,
    tenant: TenantId,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    hub: Arc<Hub>,
    idle: Mutex<Vec<Reader>>,
    gate: Gate,
}

/// A connection with what its functions see.
pub struct Reader {
    conn: Connection,
    context: Arc<Context>,
}

/// Closed while SQLite's WAL is being truncated: new snapshots wait, old ones end.
#[derive(Default)]
pub struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
    /// Snapshots that are open now.
    open: AtomicUsize,
}

/// A snapshot that is open: exactly the commits up to its LSN.
pub struct Snapshot {
    readers: Arc<Readers>,
    reader: Option<Reader>,
    pub lsn: Lsn,
    /// The tenant's own last commit in it.
    pub applied: Lsn,
}

impl Readers {
    pub fn new(
        config: Arc<EngineConfig>,
        tenant: TenantId,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        hub: Arc<Hub>,
    ) -> Readers {
        Readers {
            config,
            tenant,
            clock,
            entropy,
            hub,
            idle: Mutex::default(),
            gate: Gate::default(),
        }
    }

    /// Opens a snapshot of the newest state. Blocks on the gate.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn snapshot(self: &Arc<Self>) -> Result<Snapshot, SqlError> {
        // Whoever was told of a commit may have told the one who reads now.
        self.hub.wait_settled();
        self.gate.enter();
        let opened = self.open();
        if opened.is_err() {
            self.gate.leave();
        }
        opened
    }

    /// A snapshot of what is committed to the file now, for the writer: without waiting for anything,
    /// the writer itself included. `None` where that is not possible.
    pub fn snapshot_at_once(self: &Arc<Self>) -> Option<Snapshot> {
        if !self.gate.try_enter() {
            return None;
        }
        let opened = self.open();
        if opened.is_err() {
            self.gate.leave();
        }
        opened.ok()
    }

    fn open(self: &Arc<Self>) -> Result<Snapshot, SqlError> {
        let reader = self.take()?;
        let visible = self.hub.visible();
        let applied = begin(&reader.conn).map_err(|error| internal(&error))?;
        // Both hold: the file has every commit of this tenant up to each of them.
        Ok(Snapshot {
            readers: Arc::clone(self),
            reader: Some(reader),
            lsn: visible.max(applied),
            applied,
        })
    }

    fn take(&self) -> Result<Reader, SqlError> {
        if let Some(reader) = self.idle.lock().pop() {
            return Ok(reader);
        }
        let context = Context::new(Arc::clone(&self.clock), Arc::clone(&self.entropy), None);
        let conn = state::open_reader(&self.config, self.tenant, &context)
            .map_err(|error| internal(&error))?;
        Ok(Reader { conn, context })
    }

    /// Lets no new snapshot begin until [`Readers::open_gate`], and says whether none is open now.
    pub fn close_gate(&self) -> bool {
        *self.gate.closed.lock() = true;
        self.gate.open.load(Ordering::Acquire) == 0
    }

    /// Lets snapshots begin again.
    pub fn open_gate(&self) {
        *self.gate.closed.lock() = false;
        self.gate.opened.notify_all();
    }

    /// Closes the connections that nobody uses.
    pub fn close_idle(&self) {
        self.idle.lock().clear();
    }
}

impl Gate {
    fn enter(&self) {
        let mut closed = self.closed.lock();
        while *closed {
            self.opened.wait(&mut closed);
        }
        self.open.fetch_add(1, Ordering::AcqRel);
    }

    /// False while it is closed.
    fn try_enter(&self) -> bool {
        let closed = self.closed.lock();
        if !*closed {
            self.open.fetch_add(1, Ordering::AcqRel);
        }
        !*closed
    }

    fn leave(&self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }
}

fn begin(conn: &Connection) -> rusqlite::Result<Lsn> {
    conn.prepare_cached("BEGIN")?.execute([])?;
    state::applied(conn).map(|applied| applied.lsn)
}

fn internal(error: &rusqlite::Error) -> SqlError {
    checksum::describe(error)
        .unwrap_or_else(|| SqlError::new(ErrorCode::Internal, format!("the state file: {error}")))
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take() {
            let ended = reader
                .conn
                .prepare_cached("ROLLBACK")
                .and_then(|mut rollback| rollback.execute([]));
            let mut idle = self.readers.idle.lock();
            // A connection that cannot end its snapshot is closed, which ends it.
            if ended.is_ok() && idle.len() < self.readers.config.readers_per_tenant {
                idle.push(reader);
            }
        }
        self.readers.gate.leave();
    }
}

impl Snapshot {
    /// Runs one storage query in the snapshot.
    ///
    /// # Errors
    /// What a function or SQLite says, untranslated texts included; or why it was cancelled.
    pub fn query(
        &self,
        sql: &str,
        params: &[Value],
        session: &Arc<SessionContext>,
        cancel: &Arc<CancelFlag>,
    ) -> Result<Rows, SqlError> {
        let memory_bytes = self.readers.config.result_memory_bytes;
        self.query_within(sql, params, session, cancel, memory_bytes)
    }

    /// As [`Snapshot::query`]; at most `memory_bytes` of the rows are kept in memory.
    ///
    /// # Errors
    /// As [`Snapshot::query`].
    pub fn query_within(
        &self,
        sql: &str,
        params: &[Value],
        session: &Arc<SessionContext>,
        cancel: &Arc<CancelFlag>,
        memory_bytes: usize,
    ) -> Result<Rows, SqlError> {
        let reader = self.reader.as_ref().expect("taken only when dropped");
        let config = &self.readers.config;
        reader.context.enter(session, cancel);
        let limited = Limited::to(config.statement_memory_bytes);
        let rows = collect_within(&reader.conn, sql, params, config, memory_bytes);
        drop(limited);
        reader.context.leave();
        rows.map_err(|failure| match failure {
            Failure::Sql(error) => error,
            Failure::Sqlite(error) => reader
                .context
                .take_error()
                .unwrap_or_else(|| translate_plain(&error)),
        })
    }

    /// The connection, for what is no query of a user.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.reader.as_ref().expect("taken only when dropped").conn
    }
}

/// Why a statement failed.
#[derive(Debug)]
pub enum Failure {
    Sql(SqlError),
    Sqlite(rusqlite::Error),
}

impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Failure {
        Failure::Sql(error)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Failure {
        Failure::Sqlite(error)
    }
}

/// Runs `sql` with `params` bound to `?1`… and collects what it returns.
///
/// # Errors
/// What SQLite says, or that the result is too large.
pub fn collect_rows(
    conn: &Connection,
    sql: &str,
    params: &[Value],
    config: &EngineConfig,
) -> Result<Rows, Failure> {
    collect_within(conn, sql, params, config, config.result_memory_bytes)
}

fn collect_within(
    conn: &Connection,
    sql: &str,
    params: &[Value],
    config: &EngineConfig,
    memory_bytes: usize,
) -> Result<Rows, Failure> {
    let mut statement = conn.prepare_cached(sql)?;
    bind(&mut statement, params)?;
    let columns = statement.column_count();
    let mut collected = RowsWriter::new(memory_bytes, config.max_result_bytes);
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        collect_row(row, columns, &mut collected)?;
    }
    Ok(collected.finish()?)
}

fn collect_row(row: &Row<'_>, columns: usize, collected: &mut RowsWriter) -> Result<(), Failure> {
    // Few columns stay on the stack.
    const FEW: usize = 16;
    if columns <= FEW {
        let mut values = [ValueRef::Null; FEW];
        for (index, value) in values.iter_mut().enumerate().take(columns) {
            *value = functions::from_sqlite(row.get_ref(index)?)?;
        }
        collected.push(values[..columns].iter().copied())?;
    } else {
        let mut values = Vec::with_capacity(columns);
        for index in 0..columns {
            values.push(functions::from_sqlite(row.get_ref(index)?)?);
        }
        collected.push(values.iter().copied())?;
    }
    Ok(())
}

/// Binds `params` to `?1`….
///
/// # Errors
/// What SQLite says.
pub fn bind(statement: &mut rusqlite::Statement<'_>, params: &[Value]) -> rusqlite::Result<()> {
    // A parameter that the SQLite text has no use for has no place there.
    let places = statement.parameter_count();
    for (index, value) in params.iter().enumerate().take(places) {
        statement.raw_bind_parameter(
            index + 1,
            rusqlite::types::ToSqlOutput::Borrowed(functions::to_sqlite(value.as_ref())),
        )?;
    }
    Ok(())
}

/// SQLite's word where no constraint of a table can be meant.
#[must_use]
pub fn translate_plain(error: &rusqlite::Error) -> SqlError {
    use rusqlite::ffi::ErrorCode as Sqlite;
    if let Some(damage) = checksum::describe(error) {
        return damage;
    }
    if let Some(limit) = springhead_sql::errors::limit(&error.to_string()) {
        return limit;
    }
    match error {
        rusqlite::Error::SqliteFailure(failure, message) => {
            let code = match failure.code {
                Sqlite::OperationInterrupted => ErrorCode::QueryCanceled,
                Sqlite::OutOfMemory => ErrorCode::OutOfMemory,
                Sqlite::DiskFull => ErrorCode::DiskFull,
                Sqlite::TooBig => ErrorCode::StatementTooLarge,
                _ => ErrorCode::Internal,
            };
            SqlError::new(code, message.clone().unwrap_or_else(|| failure.to_string()))
        }
        other => SqlError::new(ErrorCode::Internal, other.to_string()),
    }
}
