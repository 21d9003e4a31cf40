//! What a writer can be asked, and what it answers: a closed set.

use std::sync::Arc;

use springhead_proto::{ErrorCode, Lsn, SqlError, Value};
use springhead_sql::catalog::Catalog;
use springhead_sql::{Plan, PlanKind};
use tokio::sync::oneshot;

use super::work::WorkRequest;
use crate::functions::{CancelFlag, SessionContext};
use crate::rows::Rows;
use crate::sync::MutationRequest;

/// An interactive transaction, unique in the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransactionId(pub u64);

/// One statement to run, and who wants to know.
pub struct Request {
    pub plan: Arc<Plan>,
    pub params: Vec<Value>,
    /// COPY: the rows to run the plan with, one after the other, as one statement. The first value
    /// of each is its line.
    pub rows: Option<Rows>,
    pub session: Arc<SessionContext>,
    pub cancel: Arc<CancelFlag>,
    pub reply: oneshot::Sender<Reply>,
}

/// What a statement came to.
pub enum Reply {
    Done(Done),
    /// It was planned against another catalog than this one: plan again.
    Stale(Arc<Catalog>),
    Failed {
        error: SqlError,
        /// SQLite has ended the interactive transaction with it; the writer is free.
        transaction_lost: bool,
    },
}

/// A statement that succeeded.
#[derive(Debug)]
pub struct Done {
    pub rows: Option<Rows>,
    /// Rows inserted, updated or deleted.
    pub affected: u64,
    /// Autocommit: its commit's last LSN, or what is visible if it changed nothing.
    pub lsn: Lsn,
    pub notices: Vec<SqlError>,
    /// A DDL statement: the catalog from now on (of the transaction, if one is open).
    pub catalog: Option<Arc<Catalog>>,
}

/// What a writer can be asked.
pub enum Command {
    /// One autocommit statement.
    Run(Request),
    /// A device's mutation, to be decided once.
    Mutate(MutationRequest),
    /// An interactive transaction's first write: the writer is its own from now on.
    Begin(Begin),
    /// A statement of the interactive transaction.
    Execute(TransactionId, Request),
    Savepoint(TransactionId, SavepointAction, oneshot::Sender<Reply>),
    /// SET CONSTRAINTS: names (`None` for all) and whether deferred.
    Constraints(
        TransactionId,
        Option<Vec<String>>,
        bool,
        oneshot::Sender<Reply>,
    ),
    Commit(TransactionId, oneshot::Sender<Reply>),
    /// Also for a client that left: then nobody listens to the reply.
    Rollback(TransactionId, Option<oneshot::Sender<Reply>>),
    /// The engine's own, beside autocommit statements.
    Work(WorkRequest),
}

/// See [`Command::Begin`].
pub struct Begin {
    pub transaction: TransactionId,
    /// REPEATABLE READ and SERIALIZABLE: 40001 if the tenant has committed anything after this.
    pub unchanged_since: Option<Lsn>,
    /// Savepoints set before the first write.
    pub savepoints: Vec<String>,
    pub cancel: Arc<CancelFlag>,
    pub reply: oneshot::Sender<Reply>,
}

/// SAVEPOINT and its kin.
#[derive(Debug, Clone)]
pub enum SavepointAction {
    Set(String),
    Release(String),
    RollbackTo(String),
}

impl Command {
    pub(super) fn transaction(&self) -> Option<TransactionId> {
        match self {
            Command::Run(_) | Command::Mutate(_) | Command::Begin(_) | Command::Work(_) => None,
            Command::Execute(id, _)
            | Command::Savepoint(id, ..)
            | Command::Constraints(id, ..)
            | Command::Commit(id, _)
            | Command::Rollback(id, _) => Some(*id),
        }
    }

    /// Why it does not wait for another transaction's end, if it does not.
    pub(super) fn cannot_wait(&self) -> Option<SqlError> {
        let never_waits = match self {
            Command::Run(request) => request.cancel.never_waits(),
            Command::Begin(begin) => begin.cancel.never_waits(),
            Command::Mutate(_) | Command::Work(_) => false,
            // Of a transaction that has ended.
            _ => return Some(transaction_gone()),
        };
        never_waits.then(|| {
            SqlError::new(
                ErrorCode::LockNotAvailable,
                "could not obtain lock: another transaction is writing",
            )
        })
    }

    /// Roughly what it holds in memory.
    pub(super) fn bytes(&self) -> usize {
        const HEAD: usize = 256;
        match self {
            Command::Run(request) | Command::Execute(_, request) => {
                HEAD + request
                    .params
                    .iter()
                    .map(|value| match value {
                        Value::Text(text) => text.len() + 24,
                        Value::Blob(blob) => blob.len() + 24,
                        _ => 24,
                    })
                    .sum::<usize>()
                    + request.rows.as_ref().map_or(0, Rows::len_in_memory)
            }
            Command::Work(request) => HEAD + request.work.bytes(),
            Command::Mutate(request) => HEAD + request.size_bytes(),
            _ => HEAD,
        }
    }
}

pub(super) fn transaction_gone() -> SqlError {
    SqlError::new(ErrorCode::NoActiveTransaction, "the transaction has ended")
}

/// Whether there was still somebody to answer.
pub(super) fn answer(reply: oneshot::Sender<Reply>, result: Result<Done, SqlError>) -> bool {
    let reply_with = match result {
        Ok(done) => Reply::Done(done),
        Err(error) => Reply::Failed {
            error,
            transaction_lost: false,
        },
    };
    reply.send(reply_with).is_ok()
}

/// Answers `command` with `error` without running it.
pub fn refuse(command: Command, error: SqlError) {
    let reply = match command {
        Command::Mutate(request) => {
            let _ = request.reply.send(Err(error));
            return;
        }
        Command::Run(request) | Command::Execute(_, request) => request.reply,
        Command::Begin(begin) => begin.reply,
        Command::Savepoint(_, _, reply)
        | Command::Constraints(_, _, _, reply)
        | Command::Commit(_, reply) => reply,
        Command::Rollback(_, Some(reply)) => reply,
        Command::Rollback(_, None) => return,
        Command::Work(request) => {
            let _ = request.reply.send(Err(error));
            return;
        }
    };
    let _ = reply.send(Reply::Failed {
        error,
        transaction_lost: true,
    });
}

/// Whether a plan's place is the writer.
#[must_use]
pub fn needs_writer(plan: &Plan) -> bool {
    match &plan.kind {
        PlanKind::Write(_) | PlanKind::Truncate { .. } | PlanKind::Ddl(_) | PlanKind::Notify(_) => {
            true
        }
        PlanKind::Query(query) => query.locks,
        _ => false,
    }
}
