//! pg_advisory_lock() and its kin: a session's part, which is to wait. The table is in
//! [`crate::advisory`].

use std::sync::Arc;
use std::time::Duration;

use springhead_proto::{ErrorCode, SqlError, Value, ValueRef};
use springhead_sql::plan::{AdvisoryAction, AdvisoryLock};

use super::execute::Answer;
use super::{Outcome, Session};
use crate::advisory::{Key, MAX_PER_SESSION, Taken, Waiting, Wanted};
use crate::rows::RowsWriter;

impl Session {
    /// Gives back what a session has beside its settings: channels, cursors, live queries, advisory locks.
    pub(super) fn let_go(&mut self) {
        self.cursors.close_all();
        self.stop_listening();
        self.end_live();
        self.tenant.advisory.unlock_all(self.process_id, false);
    }

    pub(super) async fn advisory(
        &mut self,
        lock: &AdvisoryLock,
        params: Vec<Value>,
    ) -> Result<Answer, SqlError> {
        let Answer::Outcome(mut found) = Box::pin(self.run_data(&lock.key, params, None)).await?
        else {
            return Ok(Answer::Stale);
        };
        let key = read_key(&mut found)?;
        let locks = Arc::clone(&self.tenant.advisory);
        let mut warning = None;
        let answer = match (lock.action, key) {
            // Strict, as PostgreSQL's functions are: NULL for NULL, and nothing is done.
            (AdvisoryAction::UnlockAll, _) => {
                locks.unlock_all(self.process_id, false);
                ValueRef::Text("")
            }
            (_, None) => ValueRef::Null,
            (AdvisoryAction::Unlock, Some(key)) => {
                let freed = locks.unlock(self.process_id, key, lock.shared);
                if !freed {
                    warning = Some(not_held(lock.shared));
                }
                ValueRef::Integer(i64::from(freed))
            }
            (AdvisoryAction::Try, Some(key)) => {
                let taken = locks.take(self.process_id, wanted(lock, key));
                expect_room(taken)?;
                ValueRef::Integer(i64::from(taken == Taken::Yes))
            }
            (AdvisoryAction::Lock, Some(key)) => {
                self.wait_for_lock(wanted(lock, key)).await?;
                ValueRef::Text("")
            }
        };
        if lock.transaction && self.block.is_none() {
            // Its transaction is this statement.
            locks.unlock_all(self.process_id, true);
        }
        let mut rows = RowsWriter::new(usize::MAX, u64::MAX);
        rows.push([answer].into_iter())?;
        let outcome = Outcome {
            columns: Arc::clone(&lock.columns),
            rows: Some(rows.finish()?),
            lsn: found.lsn,
            ..Outcome::command("SELECT 1")
        };
        Ok(Answer::Outcome(match warning {
            Some(warning) => outcome.noticed(warning),
            None => outcome,
        }))
    }

    /// Waits until the lock is ours, or until somebody or a timeout ends the wait. Who has the writer
    /// waits no longer than an idle transaction may: whoever holds the lock may be waiting for the writer.
    async fn wait_for_lock(&self, wanted: Wanted) -> Result<(), SqlError> {
        let locks = Arc::clone(&self.tenant.advisory);
        let interrupt = self.interruptible();
        let _waiting = Waiting {
            locks: Arc::clone(&locks),
            owner: self.process_id,
        };
        let while_owner = self
            .duration("idle_in_transaction_session_timeout")
            .filter(|_| self.holds_writer());
        let statement = wait(self.statement_timeout());
        let lock = wait(self.duration("lock_timeout"));
        let owner = wait(while_owner);
        tokio::pin!(statement, lock, owner);
        loop {
            let freed = locks.freed();
            tokio::pin!(freed);
            freed.as_mut().enable();
            match locks.take_or_wait(self.process_id, wanted) {
                Taken::Yes => return Ok(()),
                Taken::No => {}
                other => expect_room(other)?,
            }
            tokio::select! {
                () = freed => {}
                error = interrupt.asked() => return Err(error),
                () = statement.as_mut() => return Err(SqlError::new(
                    ErrorCode::QueryCanceled,
                    "canceling statement due to statement timeout",
                )),
                () = lock.as_mut() => return Err(SqlError::new(
                    ErrorCode::LockNotAvailable,
                    "canceling statement due to lock timeout",
                )),
                () = owner.as_mut() => return Err(SqlError::new(
                    ErrorCode::LockNotAvailable,
                    "the transaction has written and waited too long for an advisory lock",
                )
                .with_hint("take advisory locks before the transaction's first write")),
            }
        }
    }
}

/// Waits for `limit`, or for ever.
pub(super) async fn wait(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

fn wanted(lock: &AdvisoryLock, key: Key) -> Wanted {
    Wanted {
        key,
        shared: lock.shared,
        transaction: lock.transaction,
    }
}

/// The key that the query has computed; `None` if a part of it is NULL.
fn read_key(found: &mut Outcome) -> Result<Option<Key>, SqlError> {
    let Some(rows) = &mut found.rows else {
        return Ok(None);
    };
    let Some(chunk) = rows.next_chunk()? else {
        return Ok(None);
    };
    let Some(row) = chunk.rows().next() else {
        return Ok(None);
    };
    let part = |place| match row.get(place) {
        Some(ValueRef::Integer(value)) => Some(value),
        _ => None,
    };
    let half = |place| part(place).and_then(|value| i32::try_from(value).ok());
    Ok(match row.get(2) {
        None => part(1).map(Key::One),
        Some(_) => half(1).zip(half(2)).map(|(a, b)| Key::Two(a, b)),
    })
}

fn expect_room(taken: Taken) -> Result<(), SqlError> {
    match taken {
        Taken::Yes | Taken::No => Ok(()),
        Taken::TooMany => Err(SqlError::new(
            ErrorCode::OutOfMemory,
            format!("a session may hold {MAX_PER_SESSION} advisory locks at a time"),
        )
        .with_hint("give some back with pg_advisory_unlock()")),
        Taken::Deadlock => Err(
            SqlError::new(ErrorCode::DeadlockDetected, "deadlock detected").with_detail(
                "each of the sessions waits for an advisory lock that another one holds",
            ),
        ),
    }
}

fn not_held(shared: bool) -> SqlError {
    let mode = if shared { "ShareLock" } else { "ExclusiveLock" };
    SqlError::new(
        ErrorCode::Warning,
        format!("you don't own a lock of type {mode}"),
    )
}
