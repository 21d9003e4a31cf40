//! The log as bytes: what a standby streams and what an archive keeps.
//!
//! ```text
//!  primary   frames ──► written ──► flushed = durable ──► readers
//!               │ raw reader, durable or only written      ▲
//!               ▼                                          │ announce(durable)
//!  follower  checked ──► written ──► flushed ──────────────┴─► readers of the follower
//! ```
//!
//! A follower's log consists of the very bytes of the one it follows: the same segments with the
//! same headers, the same frames at the same offsets, so that a [`RawPosition`] means the same on
//! both sides and every link of the checksum chain holds across them.
//!
//! What a follower MUST keep to:
//! * it takes a frame only if every check holds (place, chain, checksum, count, time), and nothing
//!   of what does not pass is ever written;
//! * its readers see a commit only when it is flushed here *and* was announced durable there
//!   ([`RawLog::announce`]): a primary sends bytes while its own flush runs, and may lose them;
//! * it takes no appends until [`Log::begin_epoch`](crate::Log::begin_epoch) makes it the writer of
//!   a new history.

use std::sync::Arc;

use bytes::Bytes;
use springhead_proto::Lsn;

use crate::contract::{AppendError, EpochRecord, LogError};

/// A place between two frames of a log, the same in a log and in what follows it byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawPosition {
    /// The segment's number, from 1.
    pub segment: u32,
    /// The byte in the segment (before compression) at which the next frame begins; 0 is before
    /// the segment's header.
    pub offset: u64,
    /// The checksum of the frame before in this segment; the header's if there is none; 0 at
    /// offset 0.
    pub crc: u32,
    /// The last LSN that came into being before here. Within a large commit: the one before it.
    pub lsn: Lsn,
}

/// What a raw reader yields.
#[derive(Debug, Clone)]
pub enum RawItem {
    /// A segment begins.
    Segment {
        /// All of its header.
        header: Bytes,
        /// The history that it belongs to: a follower that does not know it yet begins it with
        /// this segment.
        epoch: EpochRecord,
        /// Behind the header.
        next: RawPosition,
    },
    /// One or more whole frames, next to one another.
    Frames {
        /// Where the first begins.
        from: RawPosition,
        /// Behind the last.
        next: RawPosition,
        bytes: Bytes,
        /// Whether all of them were flushed when they were read. Not being durable, they may be
        /// sent, but must not be announced or shown.
        durable: bool,
    },
}

impl RawItem {
    /// The place behind it.
    #[must_use]
    pub fn next(&self) -> RawPosition {
        match self {
            RawItem::Segment { next, .. } | RawItem::Frames { next, .. } => *next,
        }
    }

    /// Its bytes as they lie in the segment.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        match self {
            RawItem::Segment { header, .. } => header,
            RawItem::Frames { bytes, .. } => bytes,
        }
    }
}

/// How far a raw reader goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawLimit {
    /// As far as readers may see: the durable end; on a follower, what has been announced.
    Durable,
    /// As far as anything is written, flushed or not. On a follower the same as `Durable`, since
    /// it passes on only what is durable at its source.
    Written,
}

/// Reads forward, header by header and frame by frame, and checks each as it goes.
pub trait RawReader: Send {
    /// Appends what follows to `out`, about `budget_bytes` of it or up to the limit. Gives the
    /// place reached; equal to the last one when there is nothing new.
    ///
    /// # Errors
    /// [`LogError::Trimmed`] if retention overtook the reader, [`LogError::Corrupt`] for damage;
    /// the reader is then done for.
    fn read(&mut self, out: &mut Vec<RawItem>, budget_bytes: u64) -> Result<RawPosition, LogError>;

    /// As [`RawReader::read`] where nothing has to be read from disk for it: what follows was written a
    /// moment ago, or there is nothing new. `None` otherwise; nothing has happened then. Does not block.
    fn read_recent(&mut self, out: &mut Vec<RawItem>, budget_bytes: u64) -> Option<RawPosition>;
}

/// Who a log is and where it ends: what two logs tell one another before they stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawIdentity {
    /// The same for every log of one cluster.
    pub cluster_id: u128,
    /// The histories that led here, oldest first, the current one last.
    pub epochs: Vec<EpochRecord>,
    /// Behind the last frame written.
    pub written: RawPosition,
    /// The last LSN that readers may see.
    pub durable: Lsn,
}

/// A segment as far as readers may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawSegment {
    /// The name that its file has in a log's directory, uncompressed.
    pub file_name: String,
    pub epoch: EpochRecord,
    /// Before its header.
    pub start: RawPosition,
    /// Behind its last frame.
    pub end: RawPosition,
    /// Whether it gets no more frames.
    pub sealed: bool,
}

/// Called after anything was written or became durable, from the thread that did it: it MUST be
/// quick and MUST NOT call the log.
pub type RawWatcher = Arc<dyn Fn() + Send + Sync>;

/// Why a follower did not take what it was given.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FollowError {
    /// The log writes its own history.
    #[error("the log follows no other: it has its own epoch and takes appends")]
    NotFollowing,
    /// The bytes are not what comes next. Nothing of them has been written; streaming can begin
    /// again from the follower's position.
    #[error("what was received does not follow {}/{}: {what}", at.segment, at.offset)]
    Refused { at: RawPosition, what: &'static str },
    /// Refused for want of space, or poisoned, as an append would be.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// The log as bytes and positions; see the module's text. Every method may be called from any
/// thread; all block on disk at most.
pub trait RawLog: Send + Sync {
    /// Who this is and where it ends.
    fn identity(&self) -> RawIdentity;

    /// Why this log may lack what it had acknowledged, if opening it has cut off what may have been
    /// that ([`CutTail::doubtful`](crate::segment::CutTail)): it must not lead before it has caught up.
    fn doubt(&self) -> Option<String>;

    /// A reader from `from`, which must be a place that this log [holds](RawLog::holds).
    ///
    /// # Errors
    /// [`LogError::Trimmed`] if retention has passed it, [`LogError::Corrupt`] if it is no place
    /// of this log.
    fn raw_reader(
        &self,
        from: RawPosition,
        limit: RawLimit,
    ) -> Result<Box<dyn RawReader>, LogError>;

    /// The beginning (offset 0) of the segment that holds the commit of `lsn`, or the change that
    /// will be next.
    ///
    /// # Errors
    /// [`LogError::Trimmed`] and [`LogError::Future`].
    fn segment_start(&self, lsn: Lsn) -> Result<RawPosition, LogError>;

    /// The segments, oldest first.
    fn segments(&self) -> Vec<RawSegment>;

    /// Begins a new segment, if the active one has a frame, so that what there is can be archived.
    ///
    /// # Errors
    /// As an append.
    fn seal(&self) -> Result<(), AppendError>;

    /// [`Log::begin_epoch`](crate::Log::begin_epoch) with the number that was voted for, unless it is
    /// lower than the next.
    ///
    /// # Errors
    /// As [`Log::begin_epoch`](crate::Log::begin_epoch).
    fn begin_epoch_numbered(&self, number: u32) -> Result<EpochRecord, AppendError>;

    /// Whether this log has a frame that ends exactly there with that checksum, or begins a segment
    /// there: whether a log that ends there is a beginning of this one. Looks at what is written,
    /// flushed or not.
    ///
    /// # Errors
    /// [`LogError::Trimmed`] if retention has passed it, or what the disk says.
    fn holds(&self, position: RawPosition) -> Result<bool, LogError>;

    /// The ends of the last `max` frames at which a commit ends, newest first, so that two logs
    /// that differ only at their ends find the last place they share.
    ///
    /// # Errors
    /// What the disk says.
    fn frame_ends(&self, max: usize) -> Result<Vec<RawPosition>, LogError>;

    /// Sets or removes who is told that there is more to read.
    fn watch(&self, watcher: Option<RawWatcher>);

    /// Whether the log follows another and takes no appends.
    fn follows(&self) -> bool;

    /// Begins the segment whose header is given. `epoch` is written down first if the log does not
    /// know it. Everything before is flushed.
    ///
    /// # Errors
    /// See [`FollowError`].
    fn follow_segment(
        &self,
        header: &[u8],
        epoch: &EpochRecord,
    ) -> Result<RawPosition, FollowError>;

    /// Checks and writes whole frames that begin at `from`. Not flushed, not visible. Gives the
    /// end of what is written.
    ///
    /// # Errors
    /// See [`FollowError`]. Frames in front of a bad one are kept: ask [`RawLog::identity`] where
    /// to go on.
    fn follow_frames(&self, from: RawPosition, bytes: &[u8]) -> Result<RawPosition, FollowError>;

    /// Flushes what was written. Gives the end of it: its LSN is what this follower has durable.
    ///
    /// # Errors
    /// See [`FollowError`]; a failed flush poisons the log for good.
    fn follow_flush(&self) -> Result<RawPosition, FollowError>;

    /// Lets readers see what is flushed here up to `durable`, which the log followed has announced
    /// as durable there. Never goes back; frames are shown whole. Gives the visible LSN.
    ///
    /// # Errors
    /// See [`FollowError`].
    fn announce(&self, durable: Lsn) -> Result<Lsn, FollowError>;
}

/// The last history that two logs share, and the LSN up to which it can be the same in both by
/// what they say of their forks; `None` if they share none. Whether it is the same is for
/// [`RawLog::holds`] to say: both may have gone on in one history.
///
/// Lists are oldest first; an `…_end` is the last LSN written.
#[must_use]
pub fn common_history(
    ours: &[EpochRecord],
    our_end: Lsn,
    theirs: &[EpochRecord],
    their_end: Lsn,
) -> Option<(EpochRecord, Lsn)> {
    let shared = ours
        .iter()
        .zip(theirs)
        .take_while(|(our, their)| our.history_id == their.history_id)
        .count();
    let record = *ours.get(shared.checked_sub(1)?)?;
    let fork = |records: &[EpochRecord], end: Lsn| {
        records
            .get(shared)
            .map_or(end, |next| next.fork_lsn.min(end))
    };
    Some((record, fork(ours, our_end).min(fork(theirs, their_end))))
}

#[cfg(test)]
mod tests {
    use springhead_proto::Epoch;

    use super::*;

    fn histories(list: &[(u128, u64)]) -> Vec<EpochRecord> {
        (1..)
            .zip(list)
            .map(|(number, &(history_id, fork_lsn))| EpochRecord {
                epoch: Epoch(number),
                number,
                history_id,
                fork_lsn: Lsn(fork_lsn),
            })
            .collect()
    }

    #[track_caller]
    fn check(ours: &[(u128, u64)], theirs: &[(u128, u64)], expected: Option<(u32, u64)>) {
        let found = common_history(&histories(ours), Lsn(50), &histories(theirs), Lsn(90));
        let found = found.map(|(record, lsn)| (record.number, lsn.0));
        assert_eq!(found, expected);
    }

    #[test]
    fn g5_two_logs_share_history_up_to_the_first_fork() {
        check(&[(7, 0)], &[(7, 0)], Some((1, 50)));
        check(&[(7, 0)], &[(8, 0)], None);
        check(&[(7, 0)], &[(7, 0), (8, 30)], Some((1, 30)));
        check(&[(7, 0), (9, 20)], &[(7, 0), (8, 30)], Some((1, 20)));
        check(&[(7, 0), (8, 30)], &[(7, 0), (8, 30)], Some((2, 50)));
        // A fork past where we end: we are a beginning of theirs.
        check(&[(7, 0)], &[(7, 0), (8, 80)], Some((1, 50)));
    }
}
