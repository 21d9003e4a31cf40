//! The log in memory: durable for nobody, otherwise true to the contract. For tests, and the
//! yardstick that the conformance suite measures other logs by.

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use springhead_proto::{CollectionId, Epoch, Lsn, TenantId, TimestampMs};

use crate::clock::{Clock, SystemClock};
use crate::contract::{
    AppendError, Appended, CommitSlice, CommitSource, EpochRecord, Log, LogError, LogReader,
    LogStats, PendingCommit, Pin, ReadFilter, RefusedReason, TailPosition,
};
use crate::pins::Pins;

/// See the module's text.
pub struct MemoryLog {
    clock: Arc<dyn Clock>,
    retain_bytes: u64,
    state: Arc<Mutex<State>>,
}

struct State {
    /// Oldest first; the last one is the current one.
    epochs: Vec<EpochRecord>,
    /// In LSN order; the first is the earliest kept.
    commits: Vec<StoredCommit>,
    /// How many commits have been trimmed from the front of `commits`.
    trimmed_commits: u64,
    /// The LSN after the last.
    next_lsn: Lsn,
    /// One past the last LSN trimmed.
    earliest: Lsn,
    timestamp_ms: TimestampMs,
    pins: Pins,
    stats: LogStats,
    closed: bool,
}

#[derive(Clone)]
struct StoredCommit {
    slice: CommitSlice,
    collections: Arc<[CollectionId]>,
    /// Bytes of log before this commit, since the log began.
    position_bytes: u64,
}

impl MemoryLog {
    /// An empty log whose first and only history is `epoch`, keeping everything.
    #[must_use]
    pub fn new(epoch: Epoch) -> MemoryLog {
        MemoryLog::with(epoch, Arc::new(SystemClock), u64::MAX)
    }

    /// An empty log with a clock of its own, which would trim to about `retain_bytes`.
    #[must_use]
    pub fn with(epoch: Epoch, clock: Arc<dyn Clock>, retain_bytes: u64) -> MemoryLog {
        let epoch = EpochRecord {
            epoch,
            number: 1,
            history_id: u128::from(epoch.0) | 1 << 64,
            fork_lsn: Lsn::ZERO,
        };
        let state = State {
            epochs: vec![epoch],
            commits: Vec::new(),
            trimmed_commits: 0,
            next_lsn: Lsn::FIRST,
            earliest: Lsn::FIRST,
            timestamp_ms: TimestampMs(0),
            pins: Pins::default(),
            stats: LogStats {
                segments: 1,
                ..LogStats::default()
            },
            closed: false,
        };
        MemoryLog {
            clock,
            retain_bytes,
            state: Arc::new(Mutex::new(state)),
        }
    }
}

impl State {
    fn epoch(&self) -> EpochRecord {
        *self.epochs.last().expect("there is always one")
    }

    fn durable(&self) -> Lsn {
        self.next_lsn.previous()
    }

    /// The number in `commits` of the first commit that ends at or after `lsn`.
    fn position_of(&self, lsn: Lsn) -> usize {
        self.commits
            .partition_point(|commit| commit.slice.commit_last_lsn() < lsn)
    }

    /// Bytes of log before the commit that holds `lsn`.
    fn bytes_before(&self, lsn: Lsn) -> u64 {
        self.commits
            .get(self.position_of(lsn))
            .map_or(self.stats.written_bytes, |commit| commit.position_bytes)
    }

    fn kept_bytes(&self) -> u64 {
        self.stats.written_bytes - self.bytes_before(self.earliest)
    }
}

fn read_source(source: CommitSource) -> std::io::Result<Bytes> {
    match source {
        CommitSource::Memory(bytes) => Ok(bytes),
        CommitSource::File { file, length } => {
            let length = usize::try_from(length).map_err(std::io::Error::other)?;
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, 0)?;
            Ok(bytes.into())
        }
    }
}

impl Log for MemoryLog {
    fn append(&self, commits: Vec<PendingCommit>) -> Result<Appended, AppendError> {
        assert!(!commits.is_empty(), "an append of nothing");
        let mut read = Vec::with_capacity(commits.len());
        for commit in commits {
            assert!(commit.count > 0, "a commit without a change");
            let changes = read_source(commit.changes)
                .map_err(|error| AppendError::Poisoned(error.to_string().into()))?;
            read.push((commit.tenant, commit.count, commit.collections, changes));
        }
        let mut state = self.state.lock();
        if state.closed {
            return Err(AppendError::Refused(RefusedReason::Closed));
        }
        let timestamp_ms = state.timestamp_ms.max(TimestampMs(self.clock.now_ms()));
        state.timestamp_ms = timestamp_ms;
        let first_lsn = state.next_lsn;
        let epoch = state.epoch().epoch;
        for (tenant, count, collections, changes) in read {
            let slice = CommitSlice {
                tenant,
                epoch,
                timestamp_ms,
                commit_lsn: state.next_lsn,
                commit_count: count,
                index: 0,
                count,
                last: true,
                changes,
            };
            let position_bytes = state.stats.written_bytes;
            state.stats.written_bytes += slice.changes.len() as u64;
            state.stats.commits += 1;
            state.next_lsn = state.next_lsn.plus(count);
            state.commits.push(StoredCommit {
                slice,
                collections: collections.into(),
                position_bytes,
            });
        }
        state.stats.batches += 1;
        state.stats.flushes += 1;
        Ok(Appended {
            first_lsn,
            epoch,
            timestamp_ms,
        })
    }

    fn reader(&self, from: Lsn, filter: ReadFilter) -> Result<Box<dyn LogReader>, LogError> {
        let state = self.state.lock();
        // Nothing has LSN 0, so "from before the first" is "from the first".
        let from = from.max(Lsn::FIRST);
        if from < state.earliest {
            return Err(LogError::Trimmed {
                asked: from,
                earliest: state.earliest,
            });
        }
        if from > state.next_lsn {
            return Err(LogError::Future {
                asked: from,
                durable: state.durable(),
            });
        }
        let next = state.trimmed_commits + state.position_of(from) as u64;
        Ok(Box::new(MemoryReader {
            state: Arc::clone(&self.state),
            filter,
            next,
            scanned: from.previous(),
        }))
    }

    fn lsn_at_time(&self, time: TimestampMs) -> Result<Lsn, LogError> {
        let state = self.state.lock();
        let at = state
            .commits
            .partition_point(|commit| commit.slice.timestamp_ms < time);
        Ok(state
            .commits
            .get(at)
            .map_or(state.next_lsn, |commit| commit.slice.commit_lsn))
    }

    fn tail(&self) -> TailPosition {
        let state = self.state.lock();
        TailPosition {
            durable: state.durable(),
            epoch: state.epoch().epoch,
            timestamp_ms: state.timestamp_ms,
        }
    }

    fn earliest(&self) -> Lsn {
        self.state.lock().earliest
    }

    fn epochs(&self) -> Vec<EpochRecord> {
        self.state.lock().epochs.clone()
    }

    fn begin_epoch(&self) -> Result<EpochRecord, AppendError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(AppendError::Refused(RefusedReason::Closed));
        }
        let last = state.epoch();
        // Unlike any before it, and the same in every run of a test.
        let epoch = EpochRecord {
            epoch: Epoch(last.epoch.0.wrapping_add(0x9e37_79b9)),
            number: last.number + 1,
            history_id: last.history_id + (1 << 64),
            fork_lsn: state.durable(),
        };
        state.epochs.push(epoch);
        Ok(epoch)
    }

    fn bytes_between(&self, from: Lsn, to: Lsn) -> u64 {
        let state = self.state.lock();
        state
            .bytes_before(to.next())
            .saturating_sub(state.bytes_before(from.next()))
    }

    fn set_pin(&self, name: &str, pin: Option<Pin>) {
        self.state.lock().pins.set(name, pin);
    }

    fn take_expired_pins(&self) -> Vec<String> {
        self.state.lock().pins.take_expired()
    }

    fn trim_candidate(&self) -> Option<Lsn> {
        let mut state = self.state.lock();
        let excess = state
            .kept_bytes()
            .checked_sub(self.retain_bytes)
            .filter(|&bytes| bytes > 0)?;
        let keep_from = state.bytes_before(state.earliest) + excess;
        let at = state
            .commits
            .partition_point(|commit| commit.position_bytes < keep_from);
        let up_to = state
            .commits
            .get(at)
            .map_or(state.durable(), |commit| commit.slice.commit_lsn.previous());
        let mut pins = std::mem::take(&mut state.pins);
        let up_to = pins.hold_back(up_to, |from, to| {
            state
                .bytes_before(to.next())
                .saturating_sub(state.bytes_before(from.next()))
        });
        state.pins = pins;
        (up_to >= state.earliest).then_some(up_to)
    }

    fn tenants_before(&self, up_to: Lsn) -> Result<Vec<TenantId>, LogError> {
        let state = self.state.lock();
        let mut tenants: Vec<TenantId> = state
            .commits
            .iter()
            .take_while(|commit| commit.slice.commit_lsn <= up_to)
            .map(|commit| commit.slice.tenant)
            .collect();
        tenants.sort_unstable();
        tenants.dedup();
        Ok(tenants)
    }

    fn trim(&self, up_to: Lsn) -> Result<(), LogError> {
        let mut state = self.state.lock();
        let count = state
            .commits
            .partition_point(|commit| commit.slice.commit_last_lsn() <= up_to);
        state.commits.drain(..count);
        state.trimmed_commits += count as u64;
        state.earliest = state
            .commits
            .first()
            .map_or(state.next_lsn, |commit| commit.slice.commit_lsn);
        Ok(())
    }

    fn stats(&self) -> LogStats {
        let state = self.state.lock();
        LogStats {
            kept_bytes: state.kept_bytes(),
            ..state.stats
        }
    }

    fn close(&self) {
        self.state.lock().closed = true;
    }
}

struct MemoryReader {
    state: Arc<Mutex<State>>,
    filter: ReadFilter,
    /// The commit to look at next, counted from the log's beginning.
    next: u64,
    /// Everything up to here has been looked at.
    scanned: Lsn,
}

impl LogReader for MemoryReader {
    fn read(&mut self, out: &mut Vec<CommitSlice>, budget_bytes: u64) -> Result<Lsn, LogError> {
        let state = self.state.lock();
        let Some(skip) = self.next.checked_sub(state.trimmed_commits) else {
            return Err(LogError::Trimmed {
                asked: self.scanned.next(),
                earliest: state.earliest,
            });
        };
        let mut seen_bytes = 0;
        for commit in state
            .commits
            .iter()
            .skip(usize::try_from(skip).unwrap_or(usize::MAX))
        {
            if self.filter.admits(commit.slice.tenant, &commit.collections) {
                out.push(commit.slice.clone());
            }
            self.next += 1;
            self.scanned = commit.slice.commit_last_lsn();
            seen_bytes += commit.slice.changes.len() as u64;
            if seen_bytes >= budget_bytes {
                break;
            }
        }
        Ok(self.scanned)
    }
}
