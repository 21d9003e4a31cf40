//! What a tenant's writer tells the rest of it: which definitions count for which snapshots, that
//! something moved, that SQLite's WAL has grown and wants a checkpoint, that all is lost.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rusqlite::Connection;
use springhead_proto::sync::MutationId;
use springhead_proto::{Lsn, TenantId};
use springhead_sql::Catalog;
use tokio::sync::watch;

use crate::before_truncate::BeforeTruncate;
use crate::readers::{Readers, Snapshot};
use crate::tenant::Shared;
use crate::{checksum, state};

/// What the writer tells the rest of the tenant.
pub struct Published {
    shared: Arc<Shared>,
    tenant: TenantId,
    path: PathBuf,
    catalog: ArcSwap<InForce>,
    /// Commits since the WAL's size was last looked at.
    since_look: AtomicU64,
    checkpoint: Arc<AtomicU8>,
    /// Their gate keeps new snapshots out while a long WAL is cut.
    readers: Weak<Readers>,
    /// The last commits that are devices' mutations, oldest first.
    mutations: Mutex<VecDeque<(Lsn, MutationId)>>,
    /// The commit that made the catalog that is in force.
    catalog_changed: watch::Sender<Lsn>,
    /// For live filters of truncated tables.
    pub before_truncate: BeforeTruncate,
}

/// Mutations that are remembered by their commits: sessions ask within moments, and one that asks
/// too late knows its own by their verdicts.
const MUTATIONS: usize = 8192;

/// Which definitions count, and for which snapshots.
struct InForce {
    /// As of the last visible commit.
    catalog: Arc<Catalog>,
    /// The commit that made it: snapshots before it have other definitions.
    since: Lsn,
    /// Set while a commit with definitions is on its way into the state file: its last LSN, and
    /// what counts from there.
    next: Option<(Lsn, Arc<Catalog>)>,
}

/// The WAL is looked at after about this much has been written into it.
const LOOK_EVERY_BYTES: u64 = 1 << 20;
/// What a commit writes into the WAL beside its rows, roughly.
const COMMIT_PAGES_BYTES: u64 = 12 << 10;
/// A WAL of this size is worth a checkpoint.
const CHECKPOINT_BYTES: u64 = 4 << 20;

impl Published {
    /// For a tenant whose state file at `path` has `catalog`.
    pub fn new(
        shared: Arc<Shared>,
        tenant: TenantId,
        path: PathBuf,
        catalog: Arc<Catalog>,
        readers: &Arc<Readers>,
    ) -> Published {
        Published {
            shared,
            tenant,
            path,
            catalog: ArcSwap::from_pointee(InForce {
                catalog,
                since: Lsn::ZERO,
                next: None,
            }),
            since_look: AtomicU64::new(0),
            checkpoint: Arc::default(),
            readers: Arc::downgrade(readers),
            mutations: Mutex::default(),
            catalog_changed: watch::Sender::new(Lsn::ZERO),
            before_truncate: BeforeTruncate::default(),
        }
    }

    /// Tells of each new catalog by the commit that made it.
    pub fn watch_catalog(&self) -> watch::Receiver<Lsn> {
        self.catalog_changed.subscribe()
    }

    /// These commits, by their last LSN, are devices' mutations.
    pub fn note_mutations(&self, made: impl Iterator<Item = (Lsn, MutationId)>) {
        let mut made = made.peekable();
        if made.peek().is_none() {
            return;
        }
        let mut mutations = self.mutations.lock();
        for mutation in made {
            if mutations.len() == MUTATIONS {
                mutations.pop_front();
            }
            mutations.push_back(mutation);
        }
    }

    /// The mutation that the commit with this last LSN is, if it is one and not long ago.
    pub fn mutation_at(&self, lsn: Lsn) -> Option<MutationId> {
        let mutations = self.mutations.lock();
        let place = mutations.binary_search_by_key(&lsn, |(lsn, _)| *lsn).ok()?;
        Some(mutations[place].1)
    }

    /// The state as it is committed now, if a live filter would ask for it after a TRUNCATE.
    pub fn before_truncate(&self) -> Option<Snapshot> {
        let readers = (self.readers.upgrade()).filter(|_| self.before_truncate.is_wanted())?;
        readers.snapshot_at_once()
    }

    /// Where the state file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The catalog as of the last visible commit.
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.load().catalog)
    }

    /// The commit that made [`Published::catalog`]: what comes after it is of no older definitions.
    pub fn catalog_since(&self) -> Lsn {
        self.catalog.load().since
    }

    /// The definitions of a snapshot that has just been opened and has everything up to `applied`;
    /// `None` if those that count now are newer than it.
    pub fn catalog_at(&self, applied: Lsn) -> Option<Arc<Catalog>> {
        let in_force = self.catalog.load();
        match &in_force.next {
            Some((from, next)) if applied >= *from => Some(Arc::clone(next)),
            _ => (applied >= in_force.since).then(|| Arc::clone(&in_force.catalog)),
        }
    }

    /// `next` counts in every snapshot that has `from`; to be called before one can have it.
    pub fn announce_catalog(&self, from: Lsn, next: Arc<Catalog>) {
        let now = self.catalog.load();
        let in_force = InForce {
            catalog: Arc::clone(&now.catalog),
            since: now.since,
            next: Some((from, next)),
        };
        self.catalog.store(Arc::new(in_force));
    }

    /// `catalog` counts from now on: the one that was announced, or the same as before under
    /// another version.
    pub fn set_catalog(&self, catalog: Arc<Catalog>) {
        let now = self.catalog.load();
        let since = now.next.as_ref().map_or(now.since, |(from, _)| *from);
        self.catalog.store(Arc::new(InForce {
            catalog,
            since,
            next: None,
        }));
        self.catalog_changed.send_replace(since);
    }

    pub fn committed(&self, commits: u64) {
        self.shared.commits.fetch_add(commits, Ordering::Relaxed);
    }

    /// The node must stop: the log or the state cannot be relied on.
    pub fn poison(&self, why: String) {
        self.shared.poison.send_if_modified(|poison| {
            let first = poison.is_none();
            if first {
                *poison = Some(why);
            }
            first
        });
    }

    /// The tenant takes no writes any more.
    pub fn note_damage(&self, what: &str) {
        let mut damaged = self.shared.damaged.lock();
        damaged
            .entry(self.tenant)
            .or_insert_with(|| what.to_owned());
    }

    /// The next checkpoint moves what this one did not. But a damaged WAL never gets into the file:
    /// then the node stops, and what recovery cuts off comes again from the log.
    pub(crate) fn checkpoint_failed(&self, error: &rusqlite::Error) {
        if checksum::is_damage(error) {
            let what = checksum::describe(error)
                .map_or_else(|| error.to_string(), |damage| damage.message.clone());
            self.poison(format!("the state cannot be checkpointed: {what}"));
        } else {
            tracing::warn!(path = %self.path.display(), "checkpoint: {error}");
        }
    }

    /// Everyone who waits for an LSN looks again.
    pub fn moved(&self, lsn: Lsn) {
        self.shared.moved.send_replace(lsn);
    }

    /// After a commit: starts a checkpoint on another thread when SQLite's WAL has grown, and
    /// finishes it here once so little is left that nobody notices, since the WAL begins anew only
    /// after a checkpoint during which nothing was written.
    pub fn note_wal(self: &Arc<Self>, conn: &Connection, bytes: u64) {
        if self
            .checkpoint
            .compare_exchange(MOVED, IDLE, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
        {
            let finished: rusqlite::Result<i64> =
                conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(0));
            if let Err(error) = finished {
                self.checkpoint_failed(&error);
            }
            return;
        }
        // A commit takes a few pages, however small it is.
        let written = bytes + COMMIT_PAGES_BYTES;
        if self.since_look.fetch_add(written, Ordering::Relaxed) + written < LOOK_EVERY_BYTES {
            return;
        }
        self.since_look.store(0, Ordering::Relaxed);
        let wal_bytes = wal_bytes(&self.path);
        let is_due = wal_bytes >= CHECKPOINT_BYTES
            && self
                .checkpoint
                .compare_exchange(IDLE, RUNNING, Ordering::AcqRel, Ordering::Acquire)
                .is_ok();
        if !is_due {
            return;
        }
        let is_long = wal_bytes > self.shared.config.wal_limit_bytes;
        let readers = self.readers.upgrade().filter(|_| is_long);
        if let Some(readers) = &readers {
            readers.close_gate();
        }
        let checkpoint = Arc::clone(&self.checkpoint);
        let published = Arc::clone(self);
        self.shared.background.run(move || {
            if let Err(error) = state::checkpoint(&published.path, is_long) {
                published.checkpoint_failed(&error);
            }
            if let Some(readers) = &readers {
                readers.open_gate();
            }
            checkpoint.store(MOVED, Ordering::Release);
        });
    }
}

/// States of [`Published::checkpoint`].
const IDLE: u8 = 0;
const RUNNING: u8 = 1;
/// All but what was written meanwhile has been moved.
const MOVED: u8 = 2;

fn wal_bytes(state: &Path) -> u64 {
    let mut wal = state.as_os_str().to_owned();
    wal.push("-wal");
    std::fs::metadata(wal).map_or(0, |metadata| metadata.len())
}
