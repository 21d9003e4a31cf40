//! What every log promises.
//!
//! ```text
//!            trimmed          earliest                      durable
//!  1 ........... t | t+1 ............................... d | (being appended)
//!                  '------- readable, gap-free -----------'
//! ```
//!
//! * LSNs are dense over the log: the first commit of the first batch starts at 1, each change
//!   takes one, and no LSN is ever given twice, whatever fails.
//! * `append` returns after the commits are durable, or with an error after which nobody knows
//!   ([`AppendError::Poisoned`]) or after which they are surely absent ([`AppendError::Refused`]).
//! * A reader yields only what is durable, in LSN order, whole commits, each once; a commit that a
//!   crash cut is never yielded by anyone.
//! * Readers never make an appender wait.

use std::sync::Arc;

use bytes::Bytes;
use springhead_proto::{CollectionId, Epoch, Lsn, TenantId, TimestampMs};

use crate::raw::RawLog;

/// One commit on its way into the log.
#[derive(Debug)]
pub struct PendingCommit {
    pub tenant: TenantId,
    /// How many changes it has; at least 1. It will take that many LSNs.
    pub count: u64,
    /// The collections it touches, each once, ascending; kept in skip lists.
    pub collections: Vec<CollectionId>,
    /// Its changes, encoded one after the other (`springhead_proto::encode_change`).
    pub changes: CommitSource,
}

/// Where a pending commit's bytes are.
#[derive(Debug)]
pub enum CommitSource {
    Memory(Bytes),
    /// Spilled to a temporary file: `length` bytes from offset 0.
    File {
        file: std::fs::File,
        length: u64,
    },
}

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The LSN of the first change of the first commit given; the others follow densely, in the
    /// order given, with no other commit between them.
    pub first_lsn: Lsn,
    pub epoch: Epoch,
    /// The batch's time: never lower than that of any batch before it.
    pub timestamp_ms: TimestampMs,
}

/// Why an append did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// Nothing of it is in the log or ever will be; the log goes on. Safe to retry later.
    #[error("the log refused the append: {0}")]
    Refused(RefusedReason),
    /// A write or flush failed: whether the commits are there only recovery can say. The log takes
    /// no further append; the process should end.
    #[error("the log is poisoned, the outcome is unknown: {0}")]
    Poisoned(Arc<str>),
}

/// Why nothing was appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefusedReason {
    #[error(
        "the disk has {available_bytes} bytes left, below the reserve of {reserve_bytes}; free some space, writes go on by themselves then"
    )]
    DiskReserve {
        available_bytes: u64,
        reserve_bytes: u64,
    },
    #[error("the log is closed")]
    Closed,
    /// It is a follower's: see [`RawLog`].
    #[error("the log follows another and takes no appends until this node is promoted")]
    Following,
}

/// Why a read, or opening the log, did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// Asked for what retention has trimmed.
    #[error("LSN {asked} is older than the log, which starts at {earliest}")]
    Trimmed { asked: Lsn, earliest: Lsn },
    /// Asked for what does not exist yet.
    #[error("LSN {asked} is past the log's end at {durable}")]
    Future { asked: Lsn, durable: Lsn },
    /// Asked to cut within a commit.
    #[error("LSN {asked} lies within a commit, which has LSN {first} to {last}")]
    WithinCommit { asked: Lsn, first: Lsn, last: Lsn },
    /// Bytes are not what was written. Never skipped.
    #[error(
        "the log is corrupt: {file} at byte {offset}: {what}; restore it from a standby or a backup"
    )]
    Corrupt {
        file: String,
        offset: u64,
        what: String,
    },
    /// Written by a newer version.
    #[error(
        "{file} has format version {found}, newer than {supported} which this version reads; upgrade springhead"
    )]
    NewerFormat {
        file: String,
        found: u32,
        supported: u32,
    },
    #[error("{operation} {file}: {error}")]
    Io {
        operation: &'static str,
        file: String,
        error: Arc<std::io::Error>,
    },
}

/// The end of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailPosition {
    /// The last durable LSN; [`Lsn::ZERO`] when the log is empty.
    pub durable: Lsn,
    pub epoch: Epoch,
    /// The time of the last durable batch.
    pub timestamp_ms: TimestampMs,
}

/// One history of the log and where it came from, oldest first in [`Log::epochs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochRecord {
    pub epoch: Epoch,
    /// Counts promotions and restores, from 1.
    pub number: u32,
    /// 128 random bits: two histories never share them, whatever their numbers.
    pub history_id: u128,
    /// The last LSN it has in common with the one before; [`Lsn::ZERO`] for the first.
    pub fork_lsn: Lsn,
}

/// What a reader wants to see. Labels only; everything finer is the engine's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadFilter {
    /// Only this tenant's commits; `None` for all.
    pub tenant: Option<TenantId>,
    /// Only commits that touch one of these collections; empty for all. Commits are yielded whole.
    pub collections: Vec<CollectionId>,
}

impl ReadFilter {
    /// Whether a commit of `tenant` that touches `collections` passes.
    #[must_use]
    pub fn admits(&self, tenant: TenantId, collections: &[CollectionId]) -> bool {
        self.tenant.is_none_or(|wanted| wanted == tenant)
            && (self.collections.is_empty()
                || self
                    .collections
                    .iter()
                    .any(|wanted| collections.contains(wanted)))
    }
}

/// A piece of one commit: all of it, unless it is large (a run of frames), and then the pieces
/// follow one another with nothing between them.
#[derive(Debug, Clone)]
pub struct CommitSlice {
    pub tenant: TenantId,
    pub epoch: Epoch,
    pub timestamp_ms: TimestampMs,
    /// The first LSN of the whole commit.
    pub commit_lsn: Lsn,
    /// How many changes the whole commit has.
    pub commit_count: u64,
    /// The place in the commit of this piece's first change, from 0.
    pub index: u64,
    /// How many changes this piece has.
    pub count: u64,
    /// Whether the commit ends with this piece.
    pub last: bool,
    /// Whole encoded changes, one after the other (`springhead_proto::Changes`).
    pub changes: Bytes,
}

impl CommitSlice {
    /// The LSN of this piece's first change.
    #[must_use]
    pub fn first_lsn(&self) -> Lsn {
        self.commit_lsn.plus(self.index)
    }

    /// The LSN of this piece's last change.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        self.commit_lsn.plus(self.index + self.count - 1)
    }

    /// The LSN of the whole commit's last change.
    #[must_use]
    pub fn commit_last_lsn(&self) -> Lsn {
        self.commit_lsn.plus(self.commit_count - 1)
    }
}

/// Reads forward. Cheap to keep, holds no file open beyond the segment it is in.
pub trait LogReader: Send {
    /// Appends further slices to `out`, in order, until about `budget_bytes` of log have been
    /// scanned or the durable end is reached. Blocks on disk, never on the appender.
    ///
    /// Returns the last LSN that has been scanned: every commit up to and including it that passes
    /// the filter has been yielded by this reader (a large commit's pieces may be spread over
    /// calls; the returned LSN then stays before that commit until its last piece). Equal to the
    /// last call's answer when there is nothing new.
    ///
    /// # Errors
    /// [`LogError::Trimmed`] if retention overtook the reader, [`LogError::Corrupt`] for damage,
    /// which is never skipped; the reader is then done for.
    fn read(&mut self, out: &mut Vec<CommitSlice>, budget_bytes: u64) -> Result<Lsn, LogError>;
}

/// A hold on retention: what follows `after` is kept while this lives in the log's table of pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Unique; for people, e.g. `consumer 3/mailer`.
    pub name: String,
    /// Everything after this LSN is wanted.
    pub after: Lsn,
    /// At most this many bytes are held beyond what retention would keep; past it the pin is
    /// dropped and its owner finds [`LogError::Trimmed`].
    pub cap_bytes: u64,
}

/// Figures for status and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogStats {
    pub flushes: u64,
    pub batches: u64,
    pub commits: u64,
    /// Bytes written, padding included.
    pub written_bytes: u64,
    /// Bytes of log on disk from the earliest to the durable LSN.
    pub kept_bytes: u64,
    pub segments: u64,
}

/// An ordered, durable sequence of batches of commits. See the module's text for the contract.
///
/// Every method may be called from any thread at any time. All block; none needs an async runtime.
pub trait Log: Send + Sync + 'static {
    /// Appends `commits` in the order given, next to one another, and returns when they are
    /// durable. Callers that arrive while a flush runs form the next batch together: one write,
    /// one flush for all of them, and all are woken.
    ///
    /// `commits` MUST NOT be empty, and no commit may be without a change.
    ///
    /// # Errors
    /// See [`AppendError`]; says of each call whether a retry is safe.
    fn append(&self, commits: Vec<PendingCommit>) -> Result<Appended, AppendError>;

    /// A reader whose first slice is the first commit that has a change at or after `from` and
    /// passes `filter`. `from` may be at most one past the durable end.
    ///
    /// # Errors
    /// [`LogError::Trimmed`], [`LogError::Future`], or what the disk says.
    fn reader(&self, from: Lsn, filter: ReadFilter) -> Result<Box<dyn LogReader>, LogError>;

    /// The first LSN of the first batch whose time is `time` or later; one past the end if there
    /// is none, the earliest LSN if `time` is before the log.
    ///
    /// # Errors
    /// What the disk says.
    fn lsn_at_time(&self, time: TimestampMs) -> Result<Lsn, LogError>;

    /// The end of the log. Never waits.
    fn tail(&self) -> TailPosition;

    /// The earliest LSN that can be read; one past the end when nothing can.
    fn earliest(&self) -> Lsn;

    /// The histories that led here, oldest first, the current one last. Never empty.
    fn epochs(&self) -> Vec<EpochRecord>;

    /// Begins a new history: number one higher, 128 random bits of its own, forked at the durable
    /// end. Returns once it is durable; every append that returns later is of it, every one that
    /// returned before is not. A log that follows another ([`RawLog`]) takes appends from then on;
    /// whole commits that it has, announced or not, are kept and become visible, since they may
    /// have been acknowledged.
    ///
    /// # Errors
    /// As an append. Refused, nothing has begun; poisoned, the next start decides.
    fn begin_epoch(&self) -> Result<EpochRecord, AppendError>;

    /// The log as raw bytes, if it consists of segments that a standby can follow; `None` for a
    /// backend that is shared, or kept nowhere.
    fn raw(&self) -> Option<&dyn RawLog> {
        None
    }

    /// Bytes of log between two LSNs, roughly (by the sparse index): how much a reader lags.
    fn bytes_between(&self, from: Lsn, to: Lsn) -> u64;

    /// Puts, moves or (with `None`) removes the pin called `name`.
    fn set_pin(&self, name: &str, pin: Option<Pin>);

    /// Names of pins that retention has dropped because they passed their cap. Emptied by reading.
    fn take_expired_pins(&self) -> Vec<String>;

    /// The last LSN that retention would trim now, by bytes, time, pins and caps; a caller must
    /// first make sure that no state needs it (every tenant has checkpointed past it) and then
    /// calls [`Log::trim`]. `None` when nothing is to go.
    fn trim_candidate(&self) -> Option<Lsn>;

    /// The tenants with changes in the log at or before `up_to`: those that must have checkpointed
    /// before a trim up to there. Ascending, each once.
    ///
    /// # Errors
    /// What the disk says.
    fn tenants_before(&self, up_to: Lsn) -> Result<Vec<TenantId>, LogError>;

    /// Forgets whole segments that end at or before `up_to`.
    ///
    /// # Errors
    /// What the disk says; then part of it may still be there, and the log stays readable.
    fn trim(&self, up_to: Lsn) -> Result<(), LogError>;

    /// Figures for status and metrics.
    fn stats(&self) -> LogStats;

    /// Waits for the running append and takes no more. Idempotent.
    fn close(&self);
}
