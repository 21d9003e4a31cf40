//! How commits become durable: log first, then the state file, then everyone who reads, then the reply.
//!
//! Until the log has answered nothing of it is shown to anyone; once it has, the commit stands,
//! whatever SQLite says. A lone client is answered between log and state file ([`Unfinished`]): then
//! every read waits for the state file first (docs/adr/0006-reply-and-commit.md).

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use springhead_log::failpoint;
use springhead_log::{AppendError, Appended, CommitSlice, CommitSource, PendingCommit};
use springhead_proto::{ErrorCode, Lsn, SqlError};

use super::Writer;
use crate::capture::{CapturedBytes, CapturedCommit};
use crate::sequences::{Advance, Moved};
use crate::state::{self, Applied};
use crate::tail;

impl Writer {
    /// Appends the commits to the log, then commits them to the state file, then shows them. The last
    /// LSN of each, in order. If they `may_wait` and the caller of [`Writer::process`] has promised
    /// to come back, all after the log is left for [`Writer::finish`].
    pub(super) fn make_durable(
        &mut self,
        commits: Vec<CapturedCommit>,
        may_wait: bool,
    ) -> Result<Vec<Lsn>, SqlError> {
        let before_truncate = self.before_truncate.take();
        let advances = self.take_advances();
        let of_transaction = std::mem::take(&mut self.moved);
        if commits.is_empty() && advances.is_empty() {
            self.roll_forward_nothing();
            return Ok(Vec::new());
        }
        let Pending {
            commits,
            sizes,
            in_memory,
            sequences,
        } = self.pending(commits, &advances);

        failpoint::hit("writer.before_append");
        if !self.made_by.is_empty() {
            failpoint::hit("sync.before_append");
        }
        self.hub.begin_flight();
        let begun = Instant::now();
        let appended = self.log.append(commits);
        self.last_flush = begun.elapsed();
        let appended = match appended {
            Ok(appended) => appended,
            Err(AppendError::Refused(reason)) => {
                self.take_back(advances);
                return Err(SqlError::new(ErrorCode::DiskFull, reason.to_string()));
            }
            Err(AppendError::Poisoned(why)) => {
                self.die(why.to_string());
                self.roll_back();
                return Err(self.dead.clone().expect("it has just died"));
            }
        };
        failpoint::hit("writer.after_append");
        if !self.made_by.is_empty() {
            failpoint::hit("sync.after_append");
        }

        let slices = slices(self.tenant, appended, &sizes, in_memory);
        let last_lsns: Vec<Lsn> = slices
            .iter()
            .skip(sequences)
            .map(Placed::last_lsn)
            .collect();
        let last = slices.last().map_or(appended.first_lsn, Placed::last_lsn);
        // Before anyone can see the commits: who follows them asks whose they are.
        self.published.note_mutations(
            (self.made_by.drain(..)).filter_map(|(place, id)| Some((*last_lsns.get(place)?, id))),
        );
        if let Some(snapshot) = before_truncate {
            self.published.before_truncate.keep(last, snapshot);
        }
        let changes_definitions = self.published.catalog().version != self.catalog.version;
        if changes_definitions {
            self.published
                .announce_catalog(last, Arc::clone(&self.catalog));
        }
        self.unfinished = Some(Unfinished {
            sequences: (advances.into_iter().chain(of_transaction))
                .map(|moved| moved.after)
                .collect(),
            applied: Applied {
                lsn: last,
                epoch: appended.epoch,
            },
            slices,
        });
        if may_wait && self.may_leave_unfinished && !changes_definitions {
            self.hub.acknowledge(last);
        } else {
            self.finish()?;
        }
        failpoint::hit("writer.before_reply");
        Ok(last_lsns)
    }

    fn take_advances(&self) -> Vec<Moved> {
        match &self.context.sequences {
            Some(book) => book.lock().take_advances(&self.catalog),
            None => Vec::new(),
        }
    }

    /// Nothing of what was handed to the log is there.
    fn take_back(&mut self, advances: Vec<Moved>) {
        self.roll_back();
        if let Some(book) = &self.context.sequences {
            book.lock().give_back(advances);
        }
        self.hub.publish(std::iter::empty());
        // What others have committed meanwhile is visible here again.
        self.published.moved(self.hub.published());
    }

    /// Takes what is durable already into the state file and shows it.
    ///
    /// # Errors
    /// Why the writer is done for. The commit stands all the same.
    pub fn finish(&mut self) -> Result<(), SqlError> {
        let Some(unfinished) = self.unfinished.take() else {
            return Ok(());
        };
        if let Err(error) = self.commit_state(&unfinished.sequences, unfinished.applied) {
            // The commit stands: it is in the log. The state has to come to it by replay.
            tracing::warn!(
                tenant = self.tenant.0,
                "the state file did not take a commit that is in the log ({error}); replaying"
            );
            self.reopen()?;
        }
        failpoint::hit("writer.after_commit");
        self.show(unfinished.slices);
        Ok(())
    }

    /// What the log is to be given.
    fn pending(&mut self, captured: Vec<CapturedCommit>, advances: &[Moved]) -> Pending {
        let buffer: Bytes = self.capture.take_buffer().into();
        let mut pending = Pending {
            commits: Vec::with_capacity(captured.len() + 1),
            sizes: Vec::with_capacity(captured.len() + 1),
            in_memory: Vec::with_capacity(captured.len() + 1),
            sequences: usize::from(!advances.is_empty()),
        };
        if !advances.is_empty() {
            // First: a number is reserved before anything that uses it.
            pending.push(self.sequence_commit(advances));
        }
        for commit in captured {
            pending.push(PendingCommit {
                tenant: self.tenant,
                count: commit.count,
                collections: commit.collections,
                changes: match commit.bytes {
                    CapturedBytes::Buffer(range) => CommitSource::Memory(buffer.slice(range)),
                    CapturedBytes::File { file, length } => CommitSource::File { file, length },
                },
            });
        }
        pending
    }

    /// Ends a transaction that changed nothing.
    pub(super) fn roll_forward_nothing(&mut self) {
        if std::mem::take(&mut self.open)
            && let Err(error) = self
                .conn
                .prepare_cached("COMMIT")
                .and_then(|mut commit| commit.execute([]))
        {
            tracing::warn!(
                tenant = self.tenant.0,
                "ending an empty transaction: {error}"
            );
            self.open = true;
            self.roll_back();
        }
    }

    fn sequence_commit(&self, advances: &[Moved]) -> PendingCommit {
        let mut bytes = Vec::new();
        for moved in advances {
            moved.encode(&mut bytes);
        }
        PendingCommit {
            tenant: self.tenant,
            count: advances.len() as u64,
            collections: Vec::new(),
            changes: CommitSource::Memory(bytes.into()),
        }
    }

    fn commit_state(&mut self, sequences: &[Advance], applied: Applied) -> rusqlite::Result<()> {
        if !self.open {
            // A rolled-back transaction took numbers from a sequence.
            self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
            self.open = true;
        }
        for advance in sequences {
            state::set_sequence(&self.conn, *advance)?;
        }
        state::set_applied(&self.conn, applied)?;
        failpoint::hit("writer.before_commit");
        self.conn.prepare_cached("COMMIT")?.execute([])?;
        self.open = false;
        Ok(())
    }

    /// Lets everyone see what is in the state file now.
    fn show(&mut self, slices: Vec<Placed>) {
        self.publish_catalog();
        if let Some(book) = &self.context.sequences {
            book.lock().keep_restarts();
        }
        self.published.committed(slices.len() as u64);
        let bytes = slices.iter().map(Placed::len_bytes).sum();
        self.hub
            .publish(slices.into_iter().map(|placed| match placed {
                Placed::InMemory(slice) => tail::Published::InMemory(slice),
                Placed::OnDisk { last_lsn, .. } => tail::Published::OnDisk { last_lsn },
            }));
        self.published.moved(self.hub.published());
        self.published.note_wal(&self.conn, bytes);
    }

    /// Lets everyone plan against the catalog that is in force here.
    pub(super) fn publish_catalog(&mut self) {
        let defined = std::mem::take(&mut self.defined);
        if self.published.catalog().version == self.catalog.version {
            return;
        }
        // Of a version that was taken back and defined again, the second is the one.
        for table in defined.iter().chain(self.catalog.tables.values()) {
            self.schemas.put(table);
        }
        self.published.set_catalog(Arc::clone(&self.catalog));
        if let Some(book) = &self.context.sequences {
            // What was dropped does not come back any more.
            book.lock().follow(
                &self.catalog,
                &self.catalog,
                &[],
                &rustc_hash::FxHashMap::default(),
            );
        }
    }

    /// Brings the state file up to the log again after it refused a commit.
    fn reopen(&mut self) -> Result<(), SqlError> {
        self.capture.clear();
        self.capture.enabled = false;
        if !self.conn.is_autocommit() && self.conn.execute_batch("ROLLBACK").is_err() {
            self.die("the state file can neither commit nor roll back".to_owned());
            return Err(self.dead.clone().expect("it has just died"));
        }
        self.open = false;
        let replayed = crate::replay::replay(
            &self.conn,
            self.tenant,
            self.published.catalog(),
            &self.schemas,
            &*self.log,
            &springhead_log::NoProgress,
        );
        self.capture.enabled = true;
        match replayed {
            Ok(catalog) => {
                self.adopt(&catalog, None);
                Ok(())
            }
            Err(error) => {
                self.die(format!("the state file cannot follow the log: {error}"));
                Err(self.dead.clone().expect("it has just died"))
            }
        }
    }
}

/// Commits that are in the log and not yet in the state file.
pub(super) struct Unfinished {
    /// What has become of sequences, oldest first.
    sequences: Vec<Advance>,
    applied: Applied,
    slices: Vec<Placed>,
}

/// Commits on their way into the log, and what is needed of them once they are there.
struct Pending {
    commits: Vec<PendingCommit>,
    /// How many changes each has.
    sizes: Vec<u64>,
    /// The bytes of each that is in memory; of any other, how many there are.
    in_memory: Vec<Result<Bytes, u64>>,
    /// How many of them, at the front, only reserve numbers.
    sequences: usize,
}

impl Pending {
    fn push(&mut self, commit: PendingCommit) {
        self.sizes.push(commit.count);
        self.in_memory.push(match &commit.changes {
            CommitSource::Memory(bytes) => Ok(bytes.clone()),
            CommitSource::File { length, .. } => Err(*length),
        });
        self.commits.push(commit);
    }
}

/// A commit with its place in the log.
enum Placed {
    InMemory(CommitSlice),
    OnDisk { last_lsn: Lsn, length: u64 },
}

impl Placed {
    fn last_lsn(&self) -> Lsn {
        match self {
            Placed::InMemory(slice) => slice.last_lsn(),
            Placed::OnDisk { last_lsn, .. } => *last_lsn,
        }
    }

    fn len_bytes(&self) -> u64 {
        match self {
            Placed::InMemory(slice) => slice.changes.len() as u64,
            Placed::OnDisk { length, .. } => *length,
        }
    }
}

fn slices(
    tenant: springhead_proto::TenantId,
    appended: Appended,
    sizes: &[u64],
    in_memory: Vec<Result<Bytes, u64>>,
) -> Vec<Placed> {
    let mut next = appended.first_lsn;
    sizes
        .iter()
        .zip(in_memory)
        .map(|(&count, bytes)| {
            let commit_lsn = next;
            next = next.plus(count);
            match bytes {
                Ok(changes) => Placed::InMemory(CommitSlice {
                    tenant,
                    epoch: appended.epoch,
                    timestamp_ms: appended.timestamp_ms,
                    commit_lsn,
                    commit_count: count,
                    index: 0,
                    count,
                    last: true,
                    changes,
                }),
                Err(length) => Placed::OnDisk {
                    last_lsn: next.previous(),
                    length,
                },
            }
        })
        .collect()
}
