//! How a transaction block gets the tenant's writer for its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use springhead_proto::SqlError;
use springhead_sql::plan::Isolation;
use springhead_sql::{Plan, PlanKind};

use super::Session;
use super::execute::changing_catalog;
use crate::writer::{Begin, Command, Reply, TransactionId};

impl Session {
    /// Makes the writer this block's own.
    pub(super) async fn acquire_writer(&mut self) -> Result<TransactionId, SqlError> {
        self.acquire(false).await
    }

    /// As [`Session::acquire_writer`]; with `nowait` it is an error if another transaction has it.
    pub(super) async fn acquire(&mut self, nowait: bool) -> Result<TransactionId, SqlError> {
        let shared = Arc::clone(&self.tenant.shared);
        let block = self
            .block
            .as_mut()
            .expect("only a block acquires the writer");
        let transaction = TransactionId(shared.next_transaction.fetch_add(1, Ordering::Relaxed));
        let unchanged_since = match block.isolation {
            Isolation::ReadCommitted => None,
            Isolation::RepeatableRead | Isolation::Serializable => {
                block.snapshot.as_ref().map(|snapshot| snapshot.lsn)
            }
        };
        let savepoints = block
            .savepoints
            .iter()
            .map(|savepoint| savepoint.name.clone())
            .collect();
        // Already now: a session that is dropped while it waits gives back what it may have got.
        block.writer = Some(transaction);
        let reply = self
            .ask(true, |cancel, reply| {
                if nowait {
                    cancel.never_wait();
                }
                Command::Begin(Begin {
                    transaction,
                    unchanged_since,
                    savepoints,
                    cancel,
                    reply,
                })
            })
            .await;
        let block = self.block.as_mut().expect("it was there above");
        let error = match reply {
            Ok(Reply::Done(_)) => {
                // From now on it reads what it writes.
                block.snapshot = None;
                block.catalog = None;
                return Ok(transaction);
            }
            Ok(Reply::Failed { error, .. }) | Err(error) => error,
            Ok(Reply::Stale(_)) => changing_catalog(),
        };
        block.writer = None;
        Err(error)
    }
}

/// Whether the statement fails where it would have to wait for a transaction.
pub(super) fn is_nowait(plan: &Plan) -> bool {
    matches!(&plan.kind, PlanKind::Query(query) if query.nowait)
}
