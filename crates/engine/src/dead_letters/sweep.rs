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
use super::retry::{Due, Member};
use super::task::{Refused, Swept, Task, TaskAnswer};
use super::{Author, Entry, is_passing};
use crate::engine::Engine;
use crate::functions::now_us;
use crate::writer::{Work, WorkAnswer};
use crate::{Tenant, sync};

/// Entries that one commit deals with at most.
const BATCH: i64 = 100;
/// Closed tenants, of which it is not known when something is due in them, that one sweep opens.
const OPENED_PER_SWEEP: usize = 16;

/// What there is to do in a tenant.
struct Waiting {
    /// Entries whose time is over, the first due first, with whom they act for.
    entries: Vec<(i64, Author)>,
    /// Whether there are escalations that have been kept for long enough.
    escalations: bool,
}

impl Engine {
    /// Deals with what is due in every tenant; nothing on a standby.
    ///
    /// # Errors
    /// Why a tenant could not be swept; the others have been, and the next sweep tries it again.
    pub async fn sweep_dead_letters(&self) -> Result<Swept, SqlError> {
        let mut all = Swept::default();
        if !self.shared().role.is_writable() {
            return Ok(all);
        }
        let mut failed = None;
        let mut may_open = OPENED_PER_SWEEP;
        for info in self.tenants() {
            match self.sweep_if_due(info.id, &mut may_open).await {
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

    /// Looking at a tenant is no use of it: one that is idle is closed all the same.
    async fn sweep_if_due(&self, id: TenantId, may_open: &mut usize) -> Result<Swept, SqlError> {
        let known = match self.tenant_if_open(id) {
            Some(tenant) => self.know_dead_letters(&tenant).await?,
            None => {
                let known = self.known_dead_letters().lock().get(&id).cloned();
                match known {
                    Some(known) => known,
                    None if *may_open == 0 => return Ok(Swept::default()),
                    None => {
                        *may_open -= 1;
                        self.know_dead_letters(&self.tenant(id).await?).await?
                    }
                }
            }
        };
        if known.due_us > now_us(&**self.clock()) {
            return Ok(Swept::default());
        }
        self.sweep_tenant(id).await
    }

    async fn sweep_tenant(&self, id: TenantId) -> Result<Swept, SqlError> {
        let tenant = self.tenant(id).await?;
        self.resume_redrives(&tenant).await?;
        let mut swept = Swept::default();
        loop {
            let waiting = tenant.waiting_dead_letters().await?;
            if waiting.entries.is_empty() && !waiting.escalations {
                return Ok(swept);
            }
            let due = |(entry, author)| Due {
                member: Member {
                    id: entry,
                    author: sync::Author::of_letter(self, id, &author).map(Arc::new),
                },
                failed: None,
            };
            let due: Vec<Due> = waiting.entries.into_iter().map(due).collect();
            match tenant.expire_dead_letters(due.clone()).await {
                Ok(done) => swept.add(done),
                Err(error) if is_passing(&error) => return Err(error),
                // One of them is to blame, and must not hold up the others for ever.
                Err(_) => swept.add(tenant.expire_alone(due).await?),
            }
        }
    }
}

impl Tenant {
    async fn waiting_dead_letters(self: &Arc<Self>) -> Result<Waiting, SqlError> {
        let now_us = now_us(&*self.shared.clock);
        let kept_since = now_us.saturating_sub(after(0, self.shared.config.dead_letter_retention));
        self.on_snapshot(move |conn| {
            let mut due =
                conn.prepare_cached("SELECT c1 FROM t8 WHERE c22 <= ?1 ORDER BY c22, c1 LIMIT ?2")?;
            let ids = due
                .query_map((now_us, BATCH), |row| row.get::<_, i64>(0))?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            let mut entries = Vec::with_capacity(ids.len());
            for id in ids {
                let author = Entry::find(conn, id)?.map(|entry| entry.author());
                entries.extend(author.map(|author| (id, author)));
            }
            let oldest: Option<i64> = conn
                .prepare_cached("SELECT c9 FROM t10 ORDER BY c1 LIMIT 1")?
                .query_row([], |row| row.get(0))
                .optional()?;
            Ok(Waiting {
                entries,
                escalations: oldest.is_some_and(|at| at < kept_since),
            })
        })
        .await
    }

    async fn expire_dead_letters(&self, due: Vec<Due>) -> Result<Swept, SqlError> {
        let done = self.work(Work::DeadLetters(Task::Expire(due))).await?;
        match done.answer {
            WorkAnswer::DeadLetters(TaskAnswer::Swept(swept)) => Ok(swept),
            _ => unreachable!("a sweep is answered as one"),
        }
    }

    /// One by one; what cannot even be tried is escalated.
    async fn expire_alone(&self, due: Vec<Due>) -> Result<Swept, SqlError> {
        let mut swept = Swept::default();
        for mut due in due {
            match self.expire_dead_letters(vec![due.clone()]).await {
                Ok(done) => swept.add(done),
                Err(error) if is_passing(&error) => return Err(error),
                Err(error) => {
                    due.failed = Some(error.message.clone());
                    swept.add(self.expire_dead_letters(vec![due]).await?);
                }
            }
        }
        Ok(swept)
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
            _ => unreachable!("a record is answered as one"),
        }
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
