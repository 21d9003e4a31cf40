//! One client's conversation with a tenant: its settings, its transaction, its prepared statements.

use std::sync::Arc;

use springhead_proto::{Lsn, SqlError};
use springhead_sql::plan::OutputColumn;
use springhead_sql::{Plan, PgType};

use crate::{Rows, Tenant};

/// A conversation. Dropped, it rolls back what is open.
pub struct Session {
    _todo: (),
}

/// A statement that has been parsed and planned.
pub struct Statement {
    pub plan: Arc<Plan>,
}

/// A parameter's value as a client sends it.
#[derive(Debug, Clone, Copy)]
pub enum ParamValue<'a> {
    Null,
    Text(&'a str),
    Binary(&'a [u8]),
    Json(&'a serde_json::Value),
}

/// For ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    Idle,
    InTransaction,
    Failed,
}

/// What a statement came to.
#[derive(Debug)]
pub struct Outcome {
    /// PostgreSQL's command tag, e.g. `INSERT 0 1`. Empty for an empty statement.
    pub tag: String,
    /// The result's columns; empty for a statement that returns none.
    pub columns: Arc<[OutputColumn]>,
    /// `None` for a statement that returns no rows (as opposed to zero rows).
    pub rows: Option<Rows>,
    /// For NoticeResponse.
    pub notices: Vec<SqlError>,
    /// Settings that the protocol reports (ParameterStatus), name and new value.
    pub parameter_status: Vec<(String, String)>,
    /// A write: the LSN of its commit's last change. A read: the LSN of its snapshot.
    pub lsn: Lsn,
}

/// Ends the statement that runs now, from any thread.
#[derive(Clone)]
pub struct Canceller {
    _todo: (),
}

impl Canceller {
    /// The running statement, if any, ends with 57014.
    pub fn cancel(&self) { unimplemented!() }
}

impl Session {
    pub fn tenant(&self) -> &Arc<Tenant> { unimplemented!() }

    pub fn canceller(&self) -> Canceller { unimplemented!() }

    /// Unique in the process, positive; the backend PID of the PostgreSQL protocol.
    pub fn process_id(&self) -> i32 { unimplemented!() }

    pub fn transaction_status(&self) -> TransactionStatus { unimplemented!() }

    /// The value of a setting (SHOW).
    pub fn setting(&self, name: &str) -> Option<String> { unimplemented!() }

    /// SET name = value, as from a startup packet.
    ///
    /// # Errors
    /// 22023 for a value it does not take.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SqlError> { unimplemented!() }

    /// Every further read first waits until `lsn` is visible.
    pub fn require_lsn(&mut self, lsn: Lsn) { unimplemented!() }

    /// The statements of a simple query, run one after the other as they are asked for. More than
    /// one form one transaction, as in PostgreSQL.
    pub fn script<'a>(&'a mut self, sql: &'a str) -> Script<'a> { unimplemented!() }

    /// Parses and plans one statement.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn prepare(&mut self, sql: &str, types: &[Option<PgType>]) -> Result<Arc<Statement>, SqlError> { unimplemented!() }

    /// Runs a prepared statement.
    ///
    /// # Errors
    /// What went wrong; in a transaction block it has then failed.
    pub async fn execute(&mut self, statement: &Arc<Statement>, params: &[ParamValue<'_>]) -> Result<Outcome, SqlError> { unimplemented!() }

    /// Starts a transaction block that is not a client's BEGIN (several statements of one request).
    pub fn begin_block(&mut self) { unimplemented!() }

    /// Ends it: commits, or rolls back if a statement failed. The LSN of the commit.
    ///
    /// # Errors
    /// Why it did not commit.
    pub async fn end_block(&mut self) -> Result<Lsn, SqlError> { unimplemented!() }

    /// Whether a transaction is open and holds the tenant's writer, so that the idle timeout counts.
    pub fn holds_writer(&self) -> bool { unimplemented!() }

    /// Rolls back whatever is open (a client that left, a timeout).
    pub async fn reset(&mut self) { unimplemented!() }
}

/// See [`Session::script`].
pub struct Script<'a> {
    _session: &'a mut Session,
}

impl Script<'_> {
    /// Runs the next statement; `None` when there is none left or one has failed.
    pub async fn next(&mut self) -> Option<Result<Outcome, SqlError>> { unimplemented!() }
}
