//! Turns a batch of commits into frames on disk and makes them durable. One thread at a time: the
//! leader of the group commit, or recovery before there is any.
//!
//! The one ordering that everything rests on: **no frame is written before the frame in front of
//! it is durable**, the parts of one unfinished large commit excepted. So a whole frame behind a
//! damaged one proves the damaged one had been durable, and recovery can tell a torn tail from
//! damage.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use springhead_proto::{Lsn, TimestampMs};

use super::append::Waiter;
use super::follow::Follow;
use super::format::{
    FLAG_END, FLAG_FIRST, FLAG_PART, FRAME_HEADER_BYTES, FrameFields, FrameHeader, HEADER_BYTES,
    SegmentHeader, finish_frame, frame_bytes, start_frame, write_commit_head,
};
use super::index::{End, Label, Run, SegmentIndex};
use super::keeper::Keeper;
use super::shared::{Sealed, Segment, Shared, segment_name};
use crate::contract::{Appended, CommitSource, PendingCommit, RefusedReason};
use crate::disk::{Disk, DiskFile, OpenFor, write_all_at};
use crate::failpoint;

/// Parts of a large commit are flushed at least this often, to keep the page cache's debt small.
const FLUSH_PARTS_BYTES: u64 = 16 * 1024 * 1024;
/// A part smaller than this is not worth a frame; the next segment takes it.
const SMALLEST_PART: u64 = 4096;

/// Why a batch was not written.
#[derive(Debug, Clone)]
pub enum WriteFailure {
    /// Nothing of what was being written is in the log.
    Refused(RefusedReason),
    /// Nobody knows.
    Poisoned(String),
}

/// See the module's text.
pub struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) keeper: Arc<Keeper>,
    pub(super) file: Box<dyn DiskFile>,
    pub(super) segment: Arc<Segment>,
    /// Where the frames written so far end, flushed or not.
    pub(super) end: End,
    /// Where the commits that are durable end, and the number of the segment that is in. Behind
    /// `end` while a frame is not flushed or a large commit not finished.
    pub(super) durable: (u32, End),
    /// Bytes written behind the last flush.
    pub(super) unflushed_bytes: u64,
    /// What it takes to follow another log; `None` where it writes its own.
    pub(super) follow: Option<Follow>,
    /// The frame being filled; its capacity is kept from batch to batch.
    frame: Vec<u8>,
    frame_count: u64,
    frame_commits: u32,
    /// Labels of the commits in `frame`, each run of equal ones once.
    frame_labels: Vec<Label>,
    pub(super) timestamp_ms: TimestampMs,
}

impl Writer {
    /// A writer that goes on at `end` of `segment`, whose file is `file`.
    pub fn new(
        shared: Arc<Shared>,
        keeper: Arc<Keeper>,
        file: Box<dyn DiskFile>,
        segment: Arc<Segment>,
        end: End,
    ) -> Writer {
        Writer {
            shared,
            keeper,
            file,
            durable: (segment.header.segment_number, end),
            segment,
            end,
            unflushed_bytes: 0,
            follow: None,
            frame: Vec::new(),
            frame_count: 0,
            frame_commits: 0,
            frame_labels: Vec::new(),
            timestamp_ms: end.timestamp_ms,
        }
    }

    /// Writes the commits of all `waiters`, in order, and flushes. Those whose commits are durable
    /// have their outcome set, even if a later one fails.
    pub fn write_batch(&mut self, waiters: &mut [Waiter]) -> Result<(), WriteFailure> {
        self.timestamp_ms = self
            .end
            .timestamp_ms
            .max(TimestampMs(self.shared.clock.now_ms()));
        self.start_frame();
        let mut begun = 0;
        let outcome = self.write_waiters(waiters, &mut begun);
        let durable_lsn = self.durable.1.next_lsn;
        for waiter in waiters.iter_mut().take(begun) {
            if waiter.last_lsn < durable_lsn {
                waiter.outcome = Some(Ok(Appended {
                    first_lsn: waiter.first_lsn,
                    epoch: self.segment.header.epoch,
                    timestamp_ms: self.timestamp_ms,
                }));
            }
        }
        let partly = waiters
            .iter()
            .take(begun)
            .any(|waiter| waiter.first_lsn < durable_lsn && waiter.last_lsn >= durable_lsn);
        match outcome {
            // Of a call that is half there it can no longer be said that nothing is.
            Err(WriteFailure::Refused(reason)) if partly => Err(WriteFailure::Poisoned(format!(
                "half of an append was refused: {reason}"
            ))),
            outcome => outcome,
        }
    }

    fn write_waiters(
        &mut self,
        waiters: &mut [Waiter],
        begun: &mut usize,
    ) -> Result<(), WriteFailure> {
        for waiter in waiters {
            waiter.first_lsn = self.next_lsn();
            let changes: u64 = waiter.commits.iter().map(|commit| commit.count).sum();
            waiter.last_lsn = waiter.first_lsn.plus(changes - 1);
            *begun += 1;
            for commit in waiter.commits.drain(..) {
                self.add_commit(commit)?;
            }
        }
        self.finish_frame()
    }

    /// The LSN of the next change.
    fn next_lsn(&self) -> Lsn {
        self.end.next_lsn.plus(self.frame_count)
    }

    fn start_frame(&mut self) {
        start_frame(&mut self.frame);
        self.frame_count = 0;
        self.frame_commits = 0;
        self.frame_labels.clear();
    }

    fn add_commit(&mut self, commit: PendingCommit) -> Result<(), WriteFailure> {
        let length = commit.changes.length();
        if length > self.shared.config.large_commit_bytes {
            self.finish_frame()?;
            return self.write_large(commit);
        }
        let labels_bytes = 5 * commit.collections.len() as u64;
        let bytes = length + labels_bytes + 40;
        let filled = (self.frame.len() - FRAME_HEADER_BYTES) as u64;
        if self.frame_commits > 0 && filled + bytes > self.shared.config.batch_bytes {
            self.finish_frame()?;
        }
        let PendingCommit {
            tenant,
            count,
            collections,
            changes,
        } = commit;
        write_commit_head(&mut self.frame, tenant, count, &collections, length);
        changes
            .append_to(&mut self.frame, 0, length)
            .map_err(|error| poisoned("read a spilled commit", &error))?;
        add_labels(&mut self.frame_labels, tenant, &collections);
        self.frame_count += count;
        self.frame_commits += 1;
        Ok(())
    }

    /// Writes and flushes the frame being filled, if it holds anything, and starts another.
    fn finish_frame(&mut self) -> Result<(), WriteFailure> {
        if self.frame_commits == 0 {
            return Ok(());
        }
        let length = frame_bytes((self.frame.len() - FRAME_HEADER_BYTES) as u64);
        if length > self.room() {
            self.rotate(Run::None)?;
        }
        self.write_frame(0, self.frame_count, self.frame_commits)?;
        self.flush()?;
        self.note_durable(self.frame_commits);
        Ok(())
    }

    /// Writes one commit as a run of frames. It exists when the last of them is durable, which is
    /// written only after all the others are.
    fn write_large(&mut self, commit: PendingCommit) -> Result<(), WriteFailure> {
        let PendingCommit {
            tenant,
            count,
            collections,
            changes,
        } = commit;
        let length = changes.length();
        self.keeper
            .make_room_for(length)
            .map_err(WriteFailure::Refused)?;
        let mut head = Vec::new();
        write_commit_head(&mut head, tenant, count, &collections, length);
        let before = self.end;
        let mut run = Run::Begun(before);
        let mut sent = 0;
        let mut first = true;
        loop {
            let overhead = if first { head.len() as u64 } else { 0 };
            let room = self.room().saturating_sub(FRAME_HEADER_BYTES as u64 + 8);
            let wanted = (length - sent).min(self.shared.config.large_commit_bytes);
            let least = wanted.min(SMALLEST_PART);
            // A head that no segment has room for makes its segment longer.
            if room < overhead + least && self.end.offset > HEADER_BYTES {
                // Until its first frame is written, the run has not begun.
                self.rotate(if first { Run::None } else { run })?;
                run = if first {
                    Run::Begun(self.end)
                } else {
                    Run::Through
                };
                continue;
            }
            let take = wanted.min(room.saturating_sub(overhead)).max(least);
            let end = sent + take == length;
            if end && !first {
                self.flush()?;
            }
            start_frame(&mut self.frame);
            if first {
                self.frame.extend_from_slice(&head);
                add_labels(&mut self.frame_labels, tenant, &collections);
            }
            changes
                .append_to(&mut self.frame, sent, take)
                .map_err(|error| poisoned("read a spilled commit", &error))?;
            let flags =
                FLAG_PART | if first { FLAG_FIRST } else { 0 } | if end { FLAG_END } else { 0 };
            self.write_frame(flags, if end { count } else { 0 }, u32::from(end))?;
            failpoint::hit("log.large_part_written");
            sent += take;
            first = false;
            if end || self.unflushed_bytes >= FLUSH_PARTS_BYTES {
                self.flush()?;
            }
            if end {
                break;
            }
        }
        self.note_durable(1);
        Ok(())
    }

    /// Everything written has been flushed and is whole: another frame can be started.
    fn note_durable(&mut self, commits: u32) {
        self.durable = (self.segment.header.segment_number, self.end);
        self.shared.counters.batches.fetch_add(1, Ordering::Relaxed);
        self.shared
            .counters
            .commits
            .fetch_add(u64::from(commits), Ordering::Relaxed);
        self.start_frame();
    }

    /// Bytes left in the segment.
    fn room(&self) -> u64 {
        self.shared
            .config
            .segment_bytes
            .saturating_sub(self.end.offset)
    }

    fn write_frame(&mut self, flags: u16, count: u64, commits: u32) -> Result<(), WriteFailure> {
        let fields = FrameFields {
            previous_crc: self.end.crc,
            segment_number: self.segment.header.segment_number,
            epoch: self.segment.header.epoch,
            first_lsn: self.end.next_lsn,
            count,
            timestamp_ms: self.timestamp_ms,
            durable_lsn: self.end.next_lsn.previous(),
            flags,
            commits,
        };
        let crc = finish_frame(&mut self.frame, self.segment.seed, &fields);
        self.index_frame();
        self.write_bytes()
            .map_err(|error| poisoned("write", &error))?;
        let length = self.frame.len() as u64;
        self.shared
            .counters
            .written_bytes
            .fetch_add(length, Ordering::Relaxed);
        self.unflushed_bytes += length;
        let from = self.position();
        self.end = End {
            offset: self.end.offset + length,
            crc,
            next_lsn: self.end.next_lsn.plus(count),
            timestamp_ms: self.timestamp_ms,
        };
        self.shared.recent.push(from, self.position(), &self.frame);
        self.shared.note_written(self.end);
        Ok(())
    }

    /// The index may know a frame before readers may: they look only as far as the published end.
    fn index_frame(&mut self) {
        let header = FrameHeader::decode(&self.frame).expect("the frame was just made");
        let mut index = self.segment.index.write();
        index.add_frame(self.end.offset, &header, self.end.crc);
        for (tenant, collection) in self.frame_labels.drain(..) {
            index.add_commit(tenant, &[collection]);
        }
    }

    fn write_bytes(&self) -> io::Result<()> {
        failpoint::hit("log.before_write");
        let file = self.file.as_ref();
        if cfg!(feature = "failpoints") {
            let (front, back) = self.frame.split_at(self.frame.len() / 2);
            write_all_at(file, front, self.end.offset)?;
            failpoint::hit("log.mid_write");
            write_all_at(file, back, self.end.offset + front.len() as u64)?;
        } else {
            write_all_at(file, &self.frame, self.end.offset)?;
        }
        failpoint::hit("log.after_write");
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), WriteFailure> {
        if self.unflushed_bytes == 0 {
            return Ok(());
        }
        failpoint::hit("log.before_flush");
        // Never retried: after a failure the kernel may have dropped what it could not write.
        self.file
            .sync_data()
            .map_err(|error| poisoned("flush", &error))?;
        failpoint::hit("log.after_flush");
        self.unflushed_bytes = 0;
        self.shared.counters.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// See [`crate::RawLog::seal`]. Between two batches.
    pub fn seal(&mut self) -> Result<(), WriteFailure> {
        if self.end.offset > HEADER_BYTES {
            self.rotate(Run::None)?;
            self.durable = (self.segment.header.segment_number, self.end);
            self.publish();
        }
        Ok(())
    }

    /// Ends the active segment and begins the next.
    fn rotate(&mut self, run: Run) -> Result<(), WriteFailure> {
        self.flush()?;
        failpoint::hit("log.before_rotate");
        let spare = self.keeper.take_spare().map_err(|failure| match run {
            Run::None => failure,
            // Parts of a large commit are already there.
            _ => WriteFailure::Poisoned(format!("no room for a large commit: {failure:?}")),
        })?;
        let header = SegmentHeader {
            segment_number: self.segment.header.segment_number + 1,
            first_lsn: self.end.next_lsn,
            previous_crc: self.end.crc,
            running_ms: self.shared.running_ms(),
            created_ms: self.shared.clock.now_ms(),
            ..self.segment.header
        };
        self.begin_segment(&spare, header, run)
            .map_err(|error| poisoned("rotate", &error))?;
        failpoint::hit("log.after_rotate");
        Ok(())
    }

    pub(super) fn begin_segment(
        &mut self,
        spare: &str,
        header: SegmentHeader,
        run: Run,
    ) -> io::Result<()> {
        let (file, segment) =
            place_segment(self.shared.disk.as_ref(), &self.shared.dir, spare, header)?;
        self.segment
            .sealed
            .set(Sealed { end: self.end, run })
            .expect("only the active segment is sealed, once");
        self.keeper.sealed(Arc::clone(&self.segment));
        self.end = End {
            offset: HEADER_BYTES,
            crc: segment.seed,
            ..self.end
        };
        let mut written = self.shared.written.lock();
        written.segments.push_back(Arc::clone(&segment));
        (written.number, written.end) = (segment.header.segment_number, self.end);
        drop(written);
        self.segment = segment;
        self.file = file;
        Ok(())
    }

    /// Shows readers what is durable.
    pub fn publish(&mut self) {
        let (number, end) = self.durable;
        self.shared.publish(number, end);
        self.keeper.published(number);
    }
}

/// Makes the file `spare` the segment of `header`: its header durable first, then its name.
pub fn place_segment(
    disk: &dyn Disk,
    dir: &Path,
    spare: &str,
    header: SegmentHeader,
) -> io::Result<(Box<dyn DiskFile>, Arc<Segment>)> {
    let (page, seed) = header.encode();
    let file = disk.open(&dir.join(spare), OpenFor::Writing)?;
    write_all_at(file.as_ref(), &page, 0)?;
    file.sync_data()?;
    let file_name = segment_name(header.first_lsn, header.segment_number);
    failpoint::hit("log.before_rename");
    disk.rename(&dir.join(spare), &dir.join(&file_name))?;
    failpoint::hit("log.after_rename");
    disk.sync_dir(dir)?;
    let segment = Segment {
        header,
        seed,
        file_name,
        chunks: None,
        index: SegmentIndex::default().into(),
        sealed: std::sync::OnceLock::new(),
    };
    Ok((file, Arc::new(segment)))
}

pub(super) fn poisoned(operation: &str, error: &io::Error) -> WriteFailure {
    WriteFailure::Poisoned(format!("{operation}: {error}"))
}

fn add_labels(
    labels: &mut Vec<Label>,
    tenant: springhead_proto::TenantId,
    collections: &[springhead_proto::CollectionId],
) {
    let none = [springhead_proto::CollectionId::NONE];
    let collections = if collections.is_empty() {
        &none[..]
    } else {
        collections
    };
    for &collection in collections {
        if labels.last() != Some(&(tenant, collection)) {
            labels.push((tenant, collection));
        }
    }
}

impl CommitSource {
    /// How many bytes it has.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            CommitSource::Memory(bytes) => bytes.len() as u64,
            CommitSource::File { length, .. } => *length,
        }
    }

    /// Appends `length` of its bytes from `offset` on to `out`.
    ///
    /// # Errors
    /// What reading the file says.
    ///
    /// # Panics
    /// If that reaches past [`CommitSource::length`].
    pub fn append_to(&self, out: &mut Vec<u8>, offset: u64, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        match self {
            CommitSource::Memory(bytes) => {
                let from = usize::try_from(offset).map_err(io::Error::other)?;
                out.extend_from_slice(&bytes[from..from + length]);
                Ok(())
            }
            CommitSource::File { file, .. } => {
                let from = out.len();
                out.resize(from + length, 0);
                file.read_exact_at(&mut out[from..], offset)
            }
        }
    }
}
