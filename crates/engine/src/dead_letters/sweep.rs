//! What is due: the only part of dead letters that looks at the clock by itself.
//!
//! [`Engine::sweep_dead_letters`] is called every second or so on a primary; a standby gets what came
//! of it through the log. It only finds out which entries may be due. Whether they are is decided
//! again in the writer, in the commit that does something about it, so that a crash, a second sweep
//! or a retry that came first changes nothing.

use std::sync::Arc;

use rusqlite::OptionalExtension;
use springhead_proto::{ErrorCode, Lsn, SqlError, TenantId};

use super::policy::after;
use super::record::Recorded;
use super::task::{Refused, Swept, Task, TaskAnswer};
use crate::engine::Engine;
use crate::functions::now_us;
use crate::writer::{Work, WorkAnswer};
use crate::{Tenant, readers};

/// Entries that one commit deals with at most.
const BATCH: i64 = 100;
/// Closed tenants, of which it is not known when something is due in them, that one sweep opens.
const OPENED_PER_SWEEP: usize = 16;
/// When something is due in a tenant that has nothing.
const NEVER: i64 = i64::MAX;

/// What there is to do in a tenant.
struct Due {
    /// Entries whose time is over, the first due first.
    ids: Vec<i64>,
    /// Whether there are escalations that have been kept for long enough.
    escalations: bool,
}

impl Engine {
    /// Deals with what is due in every tenant.
    ///
    /// # Errors
    /// Why a tenant could not be swept; the others have been, and the next sweep tries it again.
    pub async fn sweep_dead_letters(&self) -> Result<Swept, SqlError> {
        let mut all = Swept::default();
        let mut failed = None;
        let mut may_open = OPENED_PER_SWEEP;
        for info in self.tenants() {
            if !info.open {
                match self.closed_due(info.id) {
                    Some(due) if due > now_us(&**self.clock()) => continue,
                    Some(_) => {}
                    None if may_open == 0 => continue,
                    None => may_open -= 1,
                }
            }
            match self.sweep_tenant(info.id).await {
                Ok(swept) => all.add(swept),
                // Dropped meanwhile.
                Err(error) if error.code == ErrorCode::UnknownDatabase => {}
                // The next primary does it.
                Err(error) if error.code == ErrorCode::ReadOnlyTransaction => return Ok(all),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(all), Err)
    }

    async fn sweep_tenant(&self, id: TenantId) -> Result<Swept, SqlError> {
        let tenant = self.tenant(id).await?;
        let mut swept = Swept::default();
        loop {
            let due = tenant.due_dead_letters().await?;
            if due.ids.is_empty() && !due.escalations {
                return Ok(swept);
            }
            swept.add(tenant.expire_dead_letters(due.ids).await?);
        }
    }
}

impl Tenant {
    async fn due_dead_letters(self: &Arc<Self>) -> Result<Due, SqlError> {
        let now_us = now_us(&*self.shared.clock);
        let kept_since = now_us.saturating_sub(after(0, self.shared.config.dead_letter_retention));
        self.on_snapshot(move |conn| {
            let mut due =
                conn.prepare_cached("SELECT c1 FROM t8 WHERE c22 <= ?1 ORDER BY c22, c1 LIMIT ?2")?;
            let ids = due.query_map((now_us, BATCH), |row| row.get(0))?;
            let oldest: Option<i64> = conn
                .prepare_cached("SELECT c9 FROM t10 ORDER BY c1 LIMIT 1")?
                .query_row([], |row| row.get(0))
                .optional()?;
            Ok(Due {
                ids: ids.collect::<rusqlite::Result<_>>()?,
                escalations: oldest.is_some_and(|at| at < kept_since),
            })
        })
        .await
    }

    async fn expire_dead_letters(&self, ids: Vec<i64>) -> Result<Swept, SqlError> {
        let done = self.work(Work::DeadLetters(Task::Expire { ids })).await?;
        match done.answer {
            WorkAnswer::DeadLetters(TaskAnswer::Swept(swept)) => Ok(swept),
            WorkAnswer::DeadLetters(_) => unreachable!("a sweep is answered as one"),
        }
    }

    /// Writes down a mutation that was refused before it got to the writer.
    ///
    /// # Errors
    /// Why it could not be kept.
    pub async fn record_dead_letter(&self, refused: Refused) -> Result<(Recorded, Lsn), SqlError> {
        let task = Task::Record(Box::new(refused));
        let done = self.work(Work::DeadLetters(task)).await?;
        match done.answer {
            WorkAnswer::DeadLetters(TaskAnswer::Recorded(recorded)) => Ok((recorded, done.lsn)),
            WorkAnswer::DeadLetters(_) => unreachable!("a record is answered as one"),
        }
    }

    /// When the next entry is due, in microseconds since 1970; the far future for none. Blocks.
    pub(crate) fn next_due(&self) -> Result<i64, SqlError> {
        let snapshot = self.snapshots().snapshot()?;
        let due: Option<Option<i64>> = snapshot
            .connection()
            .query_row("SELECT min(c22) FROM t8", [], |row| row.get(0))
            .optional()
            .map_err(|error| readers::translate_plain(&error))?;
        Ok(due.flatten().unwrap_or(NEVER))
    }
}

impl Swept {
    fn add(&mut self, other: Swept) {
        self.dropped += other.dropped;
        self.escalated += other.escalated;
        self.force_applied += other.force_applied;
        self.forgotten += other.forgotten;
    }
}
