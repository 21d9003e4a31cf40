//! A standby's writer: it runs nothing, and takes what the primary has made durable from the log
//! into the state file, through the same apply as recovery. At a promotion it begins to lead.

use std::sync::Arc;

use springhead_log::CommitSlice;
use springhead_proto::{ErrorCode, Lsn, SqlError};

use super::{Command, Writer, refuse};
use crate::EngineError;
use crate::apply::{Applier, enforce};
use crate::state;
use crate::tail::Published;

/// Where the pieces of a large commit come from, one after the other.
pub trait MoreSlices {
    /// Appends further pieces of the same commit.
    ///
    /// # Errors
    /// What the log says.
    fn more(&mut self, out: &mut Vec<CommitSlice>) -> Result<(), EngineError>;
}

impl Writer {
    /// Takes commits of this tenant into the state file, in one SQLite transaction where they are
    /// small, and shows them as far as the horizon lets it. Those that are there already are passed
    /// over. `slices` begin with a commit; if the last one does not end, `more` goes on with it.
    ///
    /// # Errors
    /// Damage, or what SQLite says; the state then stays behind and the node has to stop.
    pub fn follow(
        &mut self,
        mut slices: Vec<CommitSlice>,
        more: &mut dyn MoreSlices,
    ) -> Result<(), EngineError> {
        let sqlite = |tenant: springhead_proto::TenantId| {
            move |error| EngineError::Sqlite {
                tenant: tenant.0,
                error,
            }
        };
        let before = state::applied(&self.conn).map_err(sqlite(self.tenant))?;
        slices.retain(|slice| slice.commit_last_lsn() > before.lsn);
        if slices.is_empty() {
            return Ok(());
        }
        self.capture.enabled = false;
        let (conn, catalog) = (&self.conn, Arc::clone(&self.catalog));
        let mut applier = match self.following.take() {
            Some(paused) => Applier::resume(conn, self.tenant, catalog, &self.schemas, paused),
            None => Applier::new(conn, self.tenant, catalog, &self.schemas)?,
        };
        let mut published = Vec::with_capacity(slices.len());
        let mut bytes = 0;
        let last = loop {
            for slice in std::mem::take(&mut slices) {
                applier.apply(&slice)?;
                bytes += slice.changes.len() as u64;
                if !slice.last {
                    continue;
                }
                let last_lsn = slice.commit_last_lsn();
                published.push((
                    last_lsn,
                    if slice.index == 0 {
                        Published::InMemory(slice)
                    } else {
                        Published::OnDisk { last_lsn }
                    },
                ));
            }
            if !applier.is_mid_commit() {
                break published.last().map_or(before.lsn, |(lsn, _)| *lsn);
            }
            more.more(&mut slices)?;
        };
        let catalog = applier.catalog();
        let has_definitions = catalog.version != self.catalog.version;
        if has_definitions {
            self.published.announce_catalog(last, Arc::clone(&catalog));
        }
        let (catalog, paused) = applier.pause()?;
        self.following = Some(paused);
        if has_definitions {
            self.catalog = Arc::clone(&catalog);
            for table in catalog.tables.values() {
                self.schemas.put(table);
            }
            self.published.set_catalog(catalog);
        }
        self.published.committed(published.len() as u64);
        self.hub
            .publish(published.into_iter().map(|(_, commit)| commit));
        self.published.note_wal(&self.conn, bytes);
        Ok(())
    }

    /// Begins to take writes, from what the state file has.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn lead(&mut self) -> Result<(), SqlError> {
        if self.following.take().is_some() {
            enforce(&self.conn, true)
                .map_err(|error| SqlError::new(ErrorCode::Internal, error.to_string()))?;
        }
        if let Some(book) = &self.context.sequences {
            // What is stored counts, not what was read when the tenant was opened.
            *book.lock() = crate::sequences::SequenceBook::default();
        }
        let catalog = Arc::clone(&self.catalog);
        self.adopt(&catalog, None);
        self.capture.clear();
        self.capture.enabled = true;
        Ok(())
    }

    /// Gives up what is open: the node is no longer the primary. What is durable already is finished.
    pub fn halt(&mut self) {
        // What cannot be finished is replayed when the tenant opens again.
        let _ = self.finish();
        if self.owner.is_some() {
            self.end_owner_rollback();
        }
        for command in self.waiting.drain(..) {
            refuse(command, self.shared.role.refusal());
        }
    }

    /// Answers `command` on a node that takes no writes.
    pub(super) fn refuse_write(&mut self, command: Command) {
        if self.owner.is_some() {
            self.end_owner_rollback();
        }
        if let Command::Rollback(_, Some(reply)) = command {
            super::answer(reply, Ok(self.done(Lsn::ZERO)));
            return;
        }
        refuse(command, self.shared.role.refusal());
    }
}
