//! What the appender, the readers and the keeper of one segment log share: the list of segments,
//! the durable end, the names of files.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use springhead_proto::{Epoch, Lsn};

use super::SegmentConfig;
use super::compress::ChunkTable;
use super::format::SegmentHeader;
use super::index::{End, Run, SegmentIndex};
use super::recent::Recent;
use crate::clock::Clock;
use crate::contract::{EpochRecord, LogError, TailPosition};
use crate::disk::Disk;
use crate::raw::RawWatcher;

/// One segment as everyone sees it.
pub struct Segment {
    pub header: SegmentHeader,
    /// The header's checksum, which seeds those of the frames.
    pub seed: u32,
    /// The name of its file.
    pub file_name: String,
    /// Where its chunks lie, if its file is compressed.
    pub chunks: Option<Arc<ChunkTable>>,
    /// Grows while the segment is the active one.
    pub index: RwLock<SegmentIndex>,
    /// Set once no frame will be added.
    pub sealed: OnceLock<Sealed>,
}

/// How a sealed segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    pub end: End,
    pub run: Run,
}

impl Segment {
    /// The number of bytes of log it holds, header included.
    pub fn end_offset(&self, published: &Published) -> u64 {
        self.end(published).offset
    }

    /// Where its readable frames end.
    pub fn end(&self, published: &Published) -> End {
        match self.sealed.get() {
            Some(sealed) if self.header.segment_number != published.last_number() => sealed.end,
            _ => published.end,
        }
    }
}

/// The name of a segment's file: sorted by name is sorted by place.
pub fn segment_name(first_lsn: Lsn, number: u32) -> String {
    format!("{:020}-{number:010}.seg", first_lsn.0)
}

/// The name of a segment's file once it is compressed.
pub fn compressed_name(segment: &str) -> String {
    segment
        .strip_suffix(".seg")
        .map_or_else(|| segment.to_owned(), |stem| format!("{stem}.segz"))
}

/// The name of the index file that belongs to a segment's file.
pub fn index_name(segment: &str) -> String {
    let stem = segment.rsplit_once('.').map_or(segment, |(stem, _)| stem);
    format!("{stem}.idx")
}

/// First LSN and number from a segment file's name, compressed or not.
pub fn parse_segment_name(name: &str) -> Option<(Lsn, u32)> {
    let stem = name
        .strip_suffix(".seg")
        .or_else(|| name.strip_suffix(".segz"))?;
    let (lsn, number) = stem.split_once('-')?;
    if lsn.len() != 20 || number.len() != 10 {
        return None;
    }
    Some((Lsn(lsn.parse().ok()?), number.parse().ok()?))
}

/// What readers may see. Changed by the appender after a flush, and by trimming.
pub struct Published {
    /// Oldest first, numbers dense; the last one is the active one. Never empty.
    pub segments: VecDeque<Arc<Segment>>,
    /// Where the last segment's durable frames end.
    pub end: End,
    /// Oldest first; the last one is the current one.
    pub epochs: Vec<EpochRecord>,
}

impl Published {
    /// The number of the last segment.
    pub fn last_number(&self) -> u32 {
        self.last().header.segment_number
    }

    /// The last segment.
    pub fn last(&self) -> &Arc<Segment> {
        self.segments
            .back()
            .expect("the log always has an active segment")
    }

    /// The current epoch.
    pub fn epoch(&self) -> Epoch {
        self.epochs
            .last()
            .expect("a log has at least one epoch")
            .epoch
    }

    /// The segment with that number, unless it is trimmed or not there yet.
    pub fn by_number(&self, number: u32) -> Option<&Arc<Segment>> {
        let first = self.segments.front()?.header.segment_number;
        self.segments
            .get(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    /// The LSN of the first commit that begins in the segment at `place` or after it.
    pub fn begins_lsn(&self, place: usize) -> Lsn {
        self.segments
            .iter()
            .skip(place)
            .find_map(|segment| segment.index.read().begins_lsn())
            .map_or(self.end.next_lsn, |lsn| lsn.min(self.end.next_lsn))
    }

    /// The earliest LSN that can be read.
    pub fn earliest(&self) -> Lsn {
        self.begins_lsn(0)
    }

    /// The place of the segment in which the commit that holds `lsn` begins.
    pub fn place_of_lsn(&self, lsn: Lsn) -> usize {
        (0..self.segments.len())
            .rev()
            .find(|&place| {
                self.segments[place]
                    .index
                    .read()
                    .begins_lsn()
                    .is_some_and(|begins| begins <= lsn)
            })
            .unwrap_or(0)
    }
}

/// What has been written, flushed and whole or not: for raw readers alone.
pub struct Written {
    /// Begun, but not shown to readers yet; their numbers follow the last published one.
    pub segments: VecDeque<Arc<Segment>>,
    /// The number of the segment that is written to.
    pub number: u32,
    /// Where its frames end.
    pub end: End,
}

/// See the module's text.
pub struct Shared {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub config: SegmentConfig,
    pub clock: Arc<dyn Clock>,
    pub published: Mutex<Published>,
    /// Locked after `published`, where both are.
    pub written: Mutex<Written>,
    /// What was written last, for raw readers.
    pub recent: Recent,
    /// Told of everything written and published.
    pub watcher: RwLock<Option<RawWatcher>>,
    /// Whether the log follows another and takes no appends.
    pub follows: AtomicBool,
    /// The LSN after the last durable one, for readers that only want to know whether there is
    /// anything new. Stored after `published` has changed.
    pub next_lsn: AtomicU64,
    pub counters: Counters,
    /// `running_ms` when this process opened the log, and the monotonic clock then.
    pub running_at_open_ms: u64,
    pub opened_at_ms: u64,
}

/// See [`crate::LogStats`].
#[derive(Default)]
pub struct Counters {
    pub flushes: AtomicU64,
    pub batches: AtomicU64,
    pub commits: AtomicU64,
    pub written_bytes: AtomicU64,
}

impl Shared {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn tail(&self) -> TailPosition {
        let published = self.published.lock();
        TailPosition {
            durable: published.end.next_lsn.previous(),
            epoch: published.epoch(),
            timestamp_ms: published.end.timestamp_ms,
        }
    }

    /// Shows readers what has become durable: everything up to `end` of the segment `number`.
    pub fn publish(&self, number: u32, end: End) {
        let mut published = self.published.lock();
        let mut written = self.written.lock();
        while let Some(segment) = written
            .segments
            .pop_front_if(|segment| segment.header.segment_number <= number)
        {
            published.segments.push_back(segment);
        }
        drop(written);
        published.end = end;
        drop(published);
        self.next_lsn.store(end.next_lsn.0, Ordering::Release);
        self.wake_watcher();
    }

    /// Takes note of what has been written, for raw readers.
    pub fn note_written(&self, end: End) {
        self.written.lock().end = end;
        self.wake_watcher();
    }

    fn wake_watcher(&self) {
        if let Some(watcher) = self.watcher.read().as_ref() {
            watcher();
        }
    }

    /// Writes down how long the log has been open. If that fails, time retention keeps more.
    pub fn store_running_ms(&self) {
        let running_ms = self.running_ms();
        let stored = super::files::store_running_ms(self.disk.as_ref(), &self.dir, running_ms);
        if let Err(error) = stored {
            tracing::warn!(%error, "could not write down how long the log was open");
        }
    }

    /// How long the log has been open, over all its runs.
    pub fn running_ms(&self) -> u64 {
        let since_open = self.clock.monotonic_ms().saturating_sub(self.opened_at_ms);
        self.running_at_open_ms.saturating_add(since_open)
    }
}

/// Damage in a file.
pub fn corrupt(path: &Path, offset: u64, what: impl Into<String>) -> LogError {
    LogError::Corrupt {
        file: path.display().to_string(),
        offset,
        what: what.into(),
    }
}

/// What the disk said of `operation` on a file.
pub fn io_error(operation: &'static str, path: &Path, error: io::Error) -> LogError {
    LogError::Io {
        operation,
        file: path.display().to_string(),
        error: Arc::new(error),
    }
}
