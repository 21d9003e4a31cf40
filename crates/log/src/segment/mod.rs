//! The log on a local disk.
//!
//! ```text
//! epochs                                   which histories led here
//! 00000000000000000001-0000000001.seg(z)   segments, named by first LSN and number
//! 00000000000000000001-0000000001.idx      what a sealed one holds and where
//! spare-0000000000                         laid out to become a segment
//! running                                  how long the log has been open
//! vote                                     what this node has promised, where nodes vote
//! truncated                                a cut that was decided and not completed
//! diverged-…/                              what was cut off at a fork; a log in itself
//! ```
//!
//! One write's way: [`SegmentLog::append`](crate::Log::append) → `append` (queue, leader) →
//! `writer` (frames, flush, rotation) → `shared` (publish). A reader's: `reader` → `frames` →
//! `disk`. `recovery` makes a directory whole at open, `keeper` tidies beside the append path,
//! `retention` decides what may go; `follow` writes another log's bytes and begins new histories,
//! `raw` reads bytes for that, `truncate` cuts a closed log back to a fork; `inspect` looks at a log that nobody has open.
//!
//! Architecture invariant: nothing here keeps another process out; the server's lock on the data
//! directory does.

mod append;
mod compress;
mod directory;
mod files;
mod follow;
mod format;
mod frames;
#[cfg(any(fuzzing, feature = "failpoints"))]
pub mod fuzzing;
mod index;
mod inspect;
mod keeper;
mod large;
mod raw;
mod reader;
mod recent;
mod recovery;
mod retention;
mod scan;
mod shared;
mod source;
mod truncate;
mod writer;

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use springhead_proto::{Epoch, Lsn, TenantId, TimestampMs};

use crate::clock::{Clock, NoProgress, Progress};
use crate::contract::{
    AppendError, Appended, EpochRecord, Log, LogError, LogReader, LogStats, PendingCommit, Pin,
    ReadFilter, RefusedReason, TailPosition,
};
use crate::disk::{Disk, RealDisk};
use crate::pins::Pins;
use crate::raw::{
    FollowError, RawIdentity, RawLimit, RawLog, RawPosition, RawReader, RawSegment, RawWatcher,
};

pub use files::{load_vote, store_vote};
pub use inspect::{DumpItem, SegmentReport, VerifyReport, dump, verify};
pub use recovery::CutTail;
pub use source::{SegmentSource, SourceFrame, encode_epochs, read_epochs};
pub use truncate::{Truncated, begin_copy, truncate};

use append::Appender;
use format::{FRAME_HEADER_BYTES, HEADER_BYTES};
use keeper::Keeper;
use raw::SegmentRawReader;
use reader::SegmentReader;
use scan::LastBatch;
use shared::{Published, Shared, Written};
use writer::Writer;

/// Who a new log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The same for every log of one cluster.
    pub cluster_id: u128,
    /// 128 random bits that no other history has.
    pub history_id: u128,
    pub epoch: Epoch,
}

impl Identity {
    /// An identity that no other log has.
    ///
    /// # Errors
    /// What the kernel's source of randomness says.
    pub fn random() -> io::Result<Identity> {
        let mut bytes = [0u8; 36];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += rustix::rand::getrandom(
                &mut bytes[filled..],
                rustix::rand::GetRandomFlags::empty(),
            )?;
        }
        let (cluster, rest) = bytes.split_first_chunk::<16>().expect("36 bytes");
        let (history, rest) = rest.split_first_chunk::<16>().expect("20 bytes");
        let (epoch, _) = rest.split_first_chunk::<4>().expect("4 bytes");
        Ok(Identity {
            cluster_id: u128::from_le_bytes(*cluster),
            history_id: u128::from_le_bytes(*history),
            epoch: Epoch(u32::from_le_bytes(*epoch)),
        })
    }
}

/// How a segment log is kept. Every limit has a default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentConfig {
    /// Who the log is, where none is there yet; random if not given.
    pub identity: Option<Identity>,
    /// The highest LSN that some state says was durable (the highest `applied_lsn`). A log that
    /// ends before it has lost something and is refused.
    pub known_durable: Lsn,
    /// Length of a segment's file; at least 64 KiB, under 4 GiB.
    pub segment_bytes: u64,
    /// A commit with more bytes of changes is written as a run of frames.
    pub large_commit_bytes: u64,
    /// About how many bytes of changes one flush makes durable at most.
    pub batch_bytes: u64,
    /// How long a leader lets the queue grow before it writes; 0: not at all.
    pub commit_delay_us: u64,
    /// Retention keeps at least that many bytes of log …
    pub retain_bytes: u64,
    /// … and trims segments sealed longer ago than this, in time that the log was open.
    pub retain_ms: u64,
    /// Appends are refused while the disk has less than this left.
    pub reserve_bytes: u64,
    /// At most that many files of trimmed segments are kept for new ones.
    pub spare_segments: usize,
    /// The zstd level for sealed segments; `None` leaves them plain.
    pub compress_level: Option<i32>,
    /// Whether the log follows another ([`crate::RawLog`]) and takes no appends.
    pub follows: bool,
    /// Whether housekeeping has a thread of its own; otherwise it is done within appends.
    pub background: bool,
}

impl Default for SegmentConfig {
    fn default() -> SegmentConfig {
        SegmentConfig {
            identity: None,
            known_durable: Lsn::ZERO,
            segment_bytes: 64 << 20,
            large_commit_bytes: 1 << 20,
            batch_bytes: 4 << 20,
            commit_delay_us: 0,
            retain_bytes: 1 << 30,
            retain_ms: 7 * 24 * 60 * 60 * 1000,
            reserve_bytes: 256 << 20,
            spare_segments: 2,
            compress_level: None,
            follows: false,
            background: true,
        }
    }
}

/// The cap of a pin whose owner names none.
pub const DEFAULT_PIN_CAP_BYTES: u64 = 10 << 30;

const SMALLEST_SEGMENT_BYTES: u64 = 64 * 1024;
const LARGEST_SEGMENT_BYTES: u64 = 1 << 31;

impl SegmentConfig {
    /// With limits that fit one another: every frame fits an empty segment.
    fn normalized(mut self) -> SegmentConfig {
        self.segment_bytes = self
            .segment_bytes
            .clamp(SMALLEST_SEGMENT_BYTES, LARGEST_SEGMENT_BYTES)
            .next_multiple_of(4096);
        let room = self.segment_bytes - HEADER_BYTES - FRAME_HEADER_BYTES as u64 - 8;
        self.large_commit_bytes = self.large_commit_bytes.clamp(4096, room / 4);
        self.batch_bytes = self.batch_bytes.clamp(self.large_commit_bytes, room / 2);
        self
    }
}

/// The log on a local disk; see the module's text, and [`Log`] for the contract.
pub struct SegmentLog {
    shared: Arc<Shared>,
    keeper: Arc<Keeper>,
    appender: Appender,
    pins: Mutex<Pins>,
    cut: Option<CutTail>,
}

impl SegmentLog {
    /// Opens the log in `dir`, or begins one there. Nobody else may have it open.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] for damage that is no torn tail, [`LogError::NewerFormat`], or what
    /// the disk says.
    pub fn open(
        dir: &Path,
        config: SegmentConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<SegmentLog, LogError> {
        SegmentLog::open_on(Arc::new(RealDisk), dir, config, clock, &NoProgress)
    }

    /// [`SegmentLog::open`] on a disk of one's own, told of how far recovery has come.
    ///
    /// # Errors
    /// As [`SegmentLog::open`].
    pub fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: SegmentConfig,
        clock: Arc<dyn Clock>,
        progress: &dyn Progress,
    ) -> Result<SegmentLog, LogError> {
        let config = config.normalized();
        let recovered = recovery::recover(disk.as_ref(), dir, &config, clock.as_ref(), progress)?;
        if let Some(cut) = &recovered.cut {
            tracing::warn!(
                file = %cut.file.display(),
                offset = cut.offset,
                what = %cut.what,
                "cut a torn write off the log's end; nobody had been told of it"
            );
        }
        let end = recovered.published.end;
        let segment = Arc::clone(recovered.published.last());
        let (batch_bytes, delay) = (
            config.batch_bytes,
            Duration::from_micros(config.commit_delay_us),
        );
        let mut published = recovered.published;
        let waiting = match config.follows {
            true => hold_back(&mut published, recovered.last_batch, config.known_durable),
            false => Held::default(),
        };
        let written = Written {
            segments: waiting.segments,
            number: segment.header.segment_number,
            end,
        };
        let shown = (published.last_number(), published.end);
        let shared = Arc::new(Shared {
            disk,
            dir: dir.to_owned(),
            opened_at_ms: clock.monotonic_ms(),
            clock,
            next_lsn: AtomicU64::new(published.end.next_lsn.0),
            published: Mutex::new(published),
            written: Mutex::new(written),
            recent: recent::Recent::default(),
            watcher: RwLock::new(None),
            follows: AtomicBool::new(config.follows),
            counters: shared::Counters::default(),
            running_at_open_ms: recovered.running_ms,
            config,
        });
        let keeper = Keeper::start(Arc::clone(&shared), recovered.spares)
            .map_err(|error| shared::io_error("start the thread of", dir, error))?;
        let mut writer = Writer::new(
            Arc::clone(&shared),
            Arc::clone(&keeper),
            recovered.file,
            segment,
            end,
        );
        if shared.config.follows {
            writer.start_following(shown, waiting.ends);
        }
        let appender = Appender::new(writer, Arc::clone(&keeper), batch_bytes, delay);
        Ok(SegmentLog {
            shared,
            keeper,
            appender,
            pins: Mutex::default(),
            cut: recovered.cut,
        })
    }

    /// The torn write that opening cut off, if there was one.
    #[must_use]
    pub fn cut_tail(&self) -> Option<&CutTail> {
        self.cut.as_ref()
    }

    /// Why the log takes no more appends, if a write or flush failed.
    #[must_use]
    pub fn poisoned(&self) -> Option<Arc<str>> {
        self.appender.poisoned()
    }

    /// [`Log::begin_epoch`] with an identity of one's own, of which the cluster's part is not used, and
    /// a number of at least `number`. For tests and simulations.
    ///
    /// # Errors
    /// As [`Log::begin_epoch`].
    pub fn begin_epoch_as(
        &self,
        identity: Identity,
        number: u32,
    ) -> Result<EpochRecord, AppendError> {
        self.appender
            .exclusively(|writer| writer.begin_epoch(&identity, number))
    }

    /// The same for every log of one cluster.
    #[must_use]
    pub fn cluster_id(&self) -> u128 {
        self.shared.published.lock().last().header.cluster_id
    }
}

/// What a follower must not show yet.
#[derive(Default)]
struct Held {
    /// Begun behind what is shown.
    segments: VecDeque<Arc<shared::Segment>>,
    /// The ends of batches.
    ends: VecDeque<(u32, index::End)>,
}

/// Takes from readers what may not be durable in the log that is followed.
fn hold_back(published: &mut Published, last_batch: LastBatch, known_durable: Lsn) -> Held {
    let mut held = Held::default();
    let Some((number, shown)) = raw::doubtful(published, last_batch, known_durable) else {
        return held;
    };
    held.ends
        .push_back((published.last_number(), published.end));
    while published.last_number() > number
        && let Some(segment) = published.segments.pop_back()
    {
        held.segments.push_front(segment);
    }
    published.end = shown;
    held
}

impl Drop for SegmentLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl Log for SegmentLog {
    fn append(&self, commits: Vec<PendingCommit>) -> Result<Appended, AppendError> {
        if self.shared.follows.load(Ordering::Acquire) {
            return Err(AppendError::Refused(RefusedReason::Following));
        }
        self.appender.append(commits)
    }

    fn reader(&self, from: Lsn, filter: ReadFilter) -> Result<Box<dyn LogReader>, LogError> {
        let from = from.max(Lsn::FIRST);
        let published = self.shared.published.lock();
        let (earliest, next_lsn) = (published.earliest(), published.end.next_lsn);
        drop(published);
        if from < earliest {
            return Err(LogError::Trimmed {
                asked: from,
                earliest,
            });
        }
        if from > next_lsn {
            return Err(LogError::Future {
                asked: from,
                durable: next_lsn.previous(),
            });
        }
        Ok(Box::new(SegmentReader::new(
            Arc::clone(&self.shared),
            from,
            filter,
        )))
    }

    fn lsn_at_time(&self, time: TimestampMs) -> Result<Lsn, LogError> {
        reader::lsn_at_time(&self.shared, time)
    }

    fn tail(&self) -> TailPosition {
        self.shared.tail()
    }

    fn earliest(&self) -> Lsn {
        self.shared.published.lock().earliest()
    }

    fn epochs(&self) -> Vec<EpochRecord> {
        self.shared.published.lock().epochs.clone()
    }

    fn begin_epoch(&self) -> Result<EpochRecord, AppendError> {
        self.begin_epoch_numbered(0)
    }

    fn raw(&self) -> Option<&dyn RawLog> {
        Some(self)
    }

    fn bytes_between(&self, from: Lsn, to: Lsn) -> u64 {
        retention::bytes_between(&self.shared.published.lock(), from, to)
    }

    fn set_pin(&self, name: &str, pin: Option<Pin>) {
        self.pins.lock().set(name, pin);
    }

    fn take_expired_pins(&self) -> Vec<String> {
        self.pins.lock().take_expired()
    }

    fn trim_candidate(&self) -> Option<Lsn> {
        retention::trim_candidate(&self.shared, &self.pins)
    }

    fn tenants_before(&self, up_to: Lsn) -> Result<Vec<TenantId>, LogError> {
        retention::tenants_before(&self.shared, up_to)
    }

    fn trim(&self, up_to: Lsn) -> Result<(), LogError> {
        retention::trim(&self.shared, &self.keeper, up_to)
    }

    fn stats(&self) -> LogStats {
        let counters = &self.shared.counters;
        let published = self.shared.published.lock();
        LogStats {
            flushes: counters.flushes.load(Ordering::Relaxed),
            batches: counters.batches.load(Ordering::Relaxed),
            commits: counters.commits.load(Ordering::Relaxed),
            written_bytes: counters.written_bytes.load(Ordering::Relaxed),
            kept_bytes: retention::kept_bytes(&published),
            segments: published.segments.len() as u64,
        }
    }

    fn close(&self) {
        self.appender.close();
        self.keeper.stop();
        self.shared.store_running_ms();
    }
}

impl RawLog for SegmentLog {
    fn identity(&self) -> RawIdentity {
        raw::identity(&self.shared)
    }

    fn doubt(&self) -> Option<String> {
        let cut = self.cut.as_ref().filter(|cut| cut.doubtful)?;
        Some(format!(
            "{} was damaged at byte {} ({}), with whole frames behind it",
            cut.file.display(),
            cut.offset,
            cut.what
        ))
    }

    fn raw_reader(
        &self,
        from: RawPosition,
        limit: RawLimit,
    ) -> Result<Box<dyn RawReader>, LogError> {
        if !raw::holds(&self.shared, from)? {
            let what = format!(
                "no frame ends at byte {} of segment {}",
                from.offset, from.segment
            );
            return Err(shared::corrupt(&self.shared.dir, from.offset, what));
        }
        Ok(Box::new(SegmentRawReader::new(
            Arc::clone(&self.shared),
            from,
            limit,
        )))
    }

    fn segment_start(&self, lsn: Lsn) -> Result<RawPosition, LogError> {
        raw::segment_start(&self.shared, lsn)
    }

    fn segments(&self) -> Vec<RawSegment> {
        raw::segments(&self.shared)
    }

    fn seal(&self) -> Result<(), AppendError> {
        if self.shared.follows.load(Ordering::Acquire) {
            return Err(AppendError::Refused(RefusedReason::Following));
        }
        self.appender.exclusively(Writer::seal)
    }

    fn begin_epoch_numbered(&self, number: u32) -> Result<EpochRecord, AppendError> {
        let known = self.epochs();
        loop {
            let identity = Identity::random().map_err(|error| {
                AppendError::Poisoned(format!("draw a history's identity: {error}").into())
            })?;
            // A cursor names only the 32 bits.
            if known.iter().all(|record| record.epoch != identity.epoch) {
                return self.begin_epoch_as(identity, number);
            }
        }
    }

    fn holds(&self, position: RawPosition) -> Result<bool, LogError> {
        raw::holds(&self.shared, position)
    }

    fn frame_ends(&self, max: usize) -> Result<Vec<RawPosition>, LogError> {
        raw::frame_ends(&self.shared, max)
    }

    fn watch(&self, watcher: Option<RawWatcher>) {
        *self.shared.watcher.write() = watcher;
    }

    fn follows(&self) -> bool {
        self.shared.follows.load(Ordering::Acquire)
    }

    fn follow_segment(
        &self,
        header: &[u8],
        epoch: &EpochRecord,
    ) -> Result<RawPosition, FollowError> {
        self.appender
            .exclusively(|writer| writer.follow_segment(header, epoch))?
    }

    fn follow_frames(&self, from: RawPosition, bytes: &[u8]) -> Result<RawPosition, FollowError> {
        self.appender
            .exclusively(|writer| writer.follow_frames(from, bytes))?
    }

    fn follow_flush(&self) -> Result<RawPosition, FollowError> {
        self.appender.exclusively(Writer::follow_flush)?
    }

    fn announce(&self, durable: Lsn) -> Result<Lsn, FollowError> {
        self.appender
            .exclusively(|writer| writer.announce(durable))?
    }
}
