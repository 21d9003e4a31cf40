//! Opening a log: what is on disk is checked and made whole, or refused.
//!
//! The rule for the tail: an invalid frame is where a crash tore the last write only if it is in
//! the last segment, no whole frame of the segment follows it, and nobody has ever been told of an
//! LSN there. Then it is cut. Everything else is damage, named by file and offset and never
//! skipped.

mod erase;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use springhead_proto::{Lsn, TimestampMs};

use self::erase::{erase_head, erase_rest};
use super::compress::ChunkTable;
use super::directory::{Found, open_segment_file, remove_if_there};
use super::files::{EPOCHS_NAME, Epochs, load_running_ms, read_file};
use super::format::{HEADER_BYTES, SegmentHeader};
use super::frames::{Fault, FrameCursor, SegmentFile, read_header};
use super::index::{End, Run, SegmentIndex};
use super::keeper::lay_out;
use super::scan::{Before, LastBatch, scan};
use super::shared::{
    Published, Sealed, Segment, corrupt, index_name, io_error, parse_segment_name,
};
use super::writer::place_segment;
use super::{Identity, SegmentConfig, truncate};
use crate::clock::{Clock, Progress};
use crate::contract::{EpochRecord, LogError};
use crate::disk::{Disk, DiskFile, OpenFor};

/// A log that is ready to go on.
pub struct Recovered {
    pub published: Published,
    /// The active segment's file.
    pub file: Box<dyn DiskFile>,
    /// Files that can become segments.
    pub spares: Vec<String>,
    pub running_ms: u64,
    pub cut: Option<CutTail>,
    /// What of the log another one may not have durable, if it follows that.
    pub last_batch: LastBatch,
}

/// A torn write that recovery cut off. Nobody had been told of what was in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutTail {
    pub file: PathBuf,
    pub offset: u64,
    /// What was wrong there.
    pub what: String,
    /// A follower's: whole frames followed. It writes many before it flushes, so that a power cut can
    /// leave the later ones and tear the first; damage to what it had flushed, and acknowledged, looks the
    /// same. It has to get them again, and must not lead before it has.
    pub doubtful: bool,
}

/// Opens the log in `dir`, or begins one there.
pub fn recover(
    disk: &dyn Disk,
    dir: &Path,
    config: &SegmentConfig,
    clock: &dyn Clock,
    progress: &dyn Progress,
) -> Result<Recovered, LogError> {
    disk.create_dir(dir)
        .map_err(|error| io_error("create", dir, error))?;
    if truncate::finish(disk, dir)? {
        tracing::warn!(dir = %dir.display(), "completed a cut of the log that was interrupted");
    }
    let mut found = Found::list(disk, dir)?;
    if !found.epochs {
        if !found.segments.is_empty() || config.known_durable > Lsn::ZERO {
            return Err(corrupt(&dir.join(EPOCHS_NAME), 0, "the file is missing"));
        }
        begin(disk, dir, config)?;
    }
    let epochs = Epochs::load(disk, dir)?;
    found.sort_spares(disk, dir, config.segment_bytes)?;
    if found.segments.is_empty() {
        return begin_first_segment(disk, dir, config, clock, &epochs, found.spares);
    }
    let mut recovery = Recovery {
        disk,
        dir,
        config,
        progress,
        segments: Vec::new(),
        last_batch: LastBatch::Durable,
        total_bytes: 0,
    };
    recovery.load_headers(&found.segments, &epochs)?;
    let mut recovered = recovery.run(epochs)?;
    recovered.spares = found.spares;
    complete_epoch(disk, dir, config, clock, &mut recovered)?;
    Ok(recovered)
}

/// A history is written down before its first segment is begun: a crash between the two is made up
/// for here.
fn complete_epoch(
    disk: &dyn Disk,
    dir: &Path,
    config: &SegmentConfig,
    clock: &dyn Clock,
    recovered: &mut Recovered,
) -> Result<(), LogError> {
    let published = &mut recovered.published;
    let last = Arc::clone(published.last());
    let record = *published
        .epochs
        .last()
        .expect("the file holds at least one");
    if record.history_id == last.header.history_id {
        return Ok(());
    }
    let end = published.end;
    if record.fork_lsn != end.next_lsn.previous() {
        let what = format!(
            "the log ends at LSN {}, but history {} forked at LSN {}",
            end.next_lsn.previous(),
            record.epoch,
            record.fork_lsn
        );
        return Err(corrupt(&dir.join(&last.file_name), end.offset, what));
    }
    let spare = take_spare(disk, dir, config, &mut recovered.spares)?;
    let header = SegmentHeader {
        segment_number: last.header.segment_number + 1,
        history_id: record.history_id,
        epoch: record.epoch,
        first_lsn: end.next_lsn,
        previous_crc: end.crc,
        running_ms: recovered.running_ms,
        created_ms: clock.now_ms(),
        ..last.header
    };
    let (file, segment) = place_segment(disk, dir, &spare, header)
        .map_err(|error| io_error("begin", &dir.join(&spare), error))?;
    let run = Run::None;
    last.sealed
        .set(Sealed { end, run })
        .expect("the last segment is not sealed");
    published.end = End {
        offset: HEADER_BYTES,
        crc: segment.seed,
        ..end
    };
    published.segments.push_back(segment);
    recovered.file = file;
    recovered.last_batch = LastBatch::Durable;
    Ok(())
}

fn take_spare(
    disk: &dyn Disk,
    dir: &Path,
    config: &SegmentConfig,
    spares: &mut Vec<String>,
) -> Result<String, LogError> {
    if let Some(spare) = spares.pop() {
        return Ok(spare);
    }
    let name = "spare-0000000000";
    lay_out(disk, &dir.join(name), config.segment_bytes)
        .map_err(|error| io_error("lay out", &dir.join(name), error))?;
    Ok(name.to_owned())
}

/// Writes down who this log is, before anything else.
fn begin(disk: &dyn Disk, dir: &Path, config: &SegmentConfig) -> Result<(), LogError> {
    let identity = match config.identity {
        Some(identity) => identity,
        None => Identity::random().map_err(|error| io_error("draw an identity for", dir, error))?,
    };
    let record = EpochRecord {
        epoch: identity.epoch,
        number: 1,
        history_id: identity.history_id,
        fork_lsn: Lsn::ZERO,
    };
    Epochs {
        cluster_id: identity.cluster_id,
        records: vec![record],
    }
    .store(disk, dir)
}

fn begin_first_segment(
    disk: &dyn Disk,
    dir: &Path,
    config: &SegmentConfig,
    clock: &dyn Clock,
    epochs: &Epochs,
    mut spares: Vec<String>,
) -> Result<Recovered, LogError> {
    // With one history and nothing known durable, a log without a segment is one whose beginning
    // was interrupted.
    if epochs.records.len() > 1 || config.known_durable > Lsn::ZERO {
        return Err(corrupt(dir, 0, "the segments are missing"));
    }
    let record = epochs.records[0];
    let spare = take_spare(disk, dir, config, &mut spares)?;
    let header = SegmentHeader {
        segment_number: 1,
        cluster_id: epochs.cluster_id,
        history_id: record.history_id,
        first_lsn: Lsn::FIRST,
        epoch: record.epoch,
        previous_crc: 0,
        running_ms: 0,
        created_ms: clock.now_ms(),
    };
    let (file, segment) = place_segment(disk, dir, &spare, header)
        .map_err(|error| io_error("begin", &dir.join(&spare), error))?;
    let end = End {
        offset: HEADER_BYTES,
        crc: segment.seed,
        next_lsn: Lsn::FIRST,
        timestamp_ms: TimestampMs(0),
    };
    let published = Published {
        segments: [segment].into(),
        end,
        epochs: epochs.records.clone(),
    };
    Ok(Recovered {
        published,
        file,
        spares,
        running_ms: 0,
        cut: None,
        last_batch: LastBatch::Durable,
    })
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    config: &'a SegmentConfig,
    progress: &'a dyn Progress,
    /// Oldest first, numbers dense.
    segments: Vec<FoundSegment>,
    last_batch: LastBatch,
    total_bytes: u64,
}

/// One segment while its end is being found out.
struct FoundSegment {
    name: String,
    path: PathBuf,
    header: SegmentHeader,
    seed: u32,
    chunks: Option<Arc<ChunkTable>>,
    /// Bytes in the segment's file, before compression.
    length: u64,
    index: SegmentIndex,
    end: End,
    run: Run,
}

impl Recovery<'_> {
    fn load_headers(
        &mut self,
        names: &BTreeMap<u32, String>,
        epochs: &Epochs,
    ) -> Result<(), LogError> {
        for (&number, name) in names {
            let segment = self.load_header(number, name, epochs)?;
            if let Some(before) = self.segments.last()
                && before.header.segment_number + 1 != number
            {
                let what = format!("segment {} before it is missing", number - 1);
                return Err(corrupt(&segment.path, 0, what));
            }
            self.check_fork(&segment, epochs)?;
            self.total_bytes += segment.length;
            self.segments.push(segment);
        }
        Ok(())
    }

    /// A history goes over into a later one, and where that forked.
    fn check_fork(&self, segment: &FoundSegment, epochs: &Epochs) -> Result<(), LogError> {
        let Some(before) = self.segments.last() else {
            return Ok(());
        };
        let place = |segment: &FoundSegment| {
            let history_id = segment.header.history_id;
            let mut records = epochs.records.iter();
            records.position(|record| record.history_id == history_id)
        };
        let (old, new) = (place(before), place(segment));
        if old == new {
            return Ok(());
        }
        let fork = new.map(|new| epochs.records[new].fork_lsn.next());
        if new < old || fork != Some(segment.header.first_lsn) {
            let what = "the segment's history does not fork where it begins";
            return Err(corrupt(&segment.path, 0, what));
        }
        Ok(())
    }

    fn load_header(
        &self,
        number: u32,
        name: &str,
        epochs: &Epochs,
    ) -> Result<FoundSegment, LogError> {
        let path = self.dir.join(name);
        let opened = open_segment_file(self.disk, &path)?;
        let (header, seed) = read_header(&opened.file, &path)?;
        let (first_lsn, _) = parse_segment_name(name).expect("found by its name");
        if header.segment_number != number || header.first_lsn != first_lsn {
            return Err(corrupt(
                &path,
                0,
                "the segment's name and its header differ",
            ));
        }
        if header.cluster_id != epochs.cluster_id {
            return Err(corrupt(&path, 0, "the segment is of another cluster"));
        }
        let known = epochs
            .records
            .iter()
            .any(|record| record.epoch == header.epoch && record.history_id == header.history_id);
        if !known {
            return Err(corrupt(&path, 0, "the segment is of an unknown history"));
        }
        let end = End {
            offset: HEADER_BYTES,
            crc: seed,
            next_lsn: first_lsn,
            timestamp_ms: TimestampMs(0),
        };
        Ok(FoundSegment {
            name: name.to_owned(),
            path,
            header,
            seed,
            chunks: opened.chunks,
            length: opened.length,
            index: SegmentIndex::default(),
            end,
            run: Run::None,
        })
    }

    fn run(mut self, epochs: Epochs) -> Result<Recovered, LogError> {
        let mut before = Before {
            in_run: None,
            timestamp_ms: TimestampMs(0),
        };
        let mut done_bytes = 0;
        let mut torn = None;
        for place in 0..self.segments.len() {
            if place + 1 < self.segments.len() {
                self.learn_sealed(place, before, done_bytes)?;
            } else {
                torn = self.learn_last(place, before, done_bytes)?;
            }
            let segment = &self.segments[place];
            before = Before {
                in_run: Some(segment.run != Run::None),
                timestamp_ms: segment.end.timestamp_ms,
            };
            done_bytes += segment.length;
            self.progress.report(done_bytes, self.total_bytes);
        }
        if let Some(mut unfinished) = self.drop_unfinished_run()? {
            unfinished.doubtful = torn.is_some_and(|torn: CutTail| torn.doubtful);
            torn = Some(unfinished);
        }
        self.check_known_durable()?;
        self.finish(epochs, torn)
    }

    /// A segment with another behind it: its index file is believed if it agrees with the next
    /// segment's header, otherwise the frames are read.
    fn learn_sealed(&mut self, place: usize, before: Before, done: u64) -> Result<(), LogError> {
        let next = self.segments[place + 1].header;
        let total = self.total_bytes;
        let segment = &mut self.segments[place];
        let index_path = self.dir.join(index_name(&segment.name));
        let loaded = read_file(self.disk, &index_path).ok().and_then(|bytes| {
            SegmentIndex::decode(&bytes, segment.header.segment_number, segment.seed)
        });
        if let Some((index, end, run)) = loaded
            && end.crc == next.previous_crc
            && end.next_lsn == next.first_lsn
            && end.offset <= segment.length
        {
            (segment.index, segment.end, segment.run) = (index, end, run);
            return Ok(());
        }
        let mut cursor = open_cursor(self.disk, segment)?;
        let scanned = scan(&mut cursor, segment.length, before, |at| {
            self.progress.report(done + at, total)
        });
        if scanned.end.crc != next.previous_crc || scanned.end.next_lsn != next.first_lsn {
            let fault = scanned
                .fault
                .unwrap_or(Fault::Invalid("frames are missing at its end"));
            return Err(fault.at(&segment.path, scanned.end.offset));
        }
        (segment.index, segment.end, segment.run) = (scanned.index, scanned.end, scanned.run);
        // Best effort: without the file the next start reads the frames again.
        let bytes = segment.index.encode(
            segment.header.segment_number,
            segment.seed,
            &segment.end,
            &segment.run,
        );
        let stored = super::keeper::write_durably(self.disk, &index_path, &bytes)
            .and_then(|()| self.disk.sync_dir(self.dir));
        if let Err(error) = stored {
            tracing::warn!(%error, file = %index_path.display(), "could not write an index file");
        }
        Ok(())
    }

    fn learn_last(
        &mut self,
        place: usize,
        before: Before,
        done: u64,
    ) -> Result<Option<CutTail>, LogError> {
        let total = self.total_bytes;
        let segment = &mut self.segments[place];
        if segment.chunks.is_some() {
            return Err(corrupt(
                &segment.path,
                0,
                "the segments behind a compressed one are missing",
            ));
        }
        let mut cursor = open_cursor(self.disk, segment)?;
        let scanned = scan(&mut cursor, segment.length, before, |at| {
            self.progress.report(done + at, total)
        });
        (segment.index, segment.end, segment.run) = (scanned.index, scanned.end, scanned.run);
        self.last_batch = scanned.last_batch;
        let offset = segment.end.offset;
        let what = match scanned.fault {
            None => return Ok(None),
            Some(Fault::Invalid(what)) => what,
            Some(fault) => return Err(fault.at(&segment.path, offset)),
        };
        let later = cursor
            .valid_frame_after(segment.length)
            .map_err(|fault| fault.at(&segment.path, offset))?;
        let doubtful = later.is_some();
        if let Some(later) = later {
            let what = format!("{what}, and a whole frame follows at byte {later}");
            // What a state has was flushed here for certain.
            let flushed = segment.end.next_lsn <= self.config.known_durable;
            if !self.config.follows || flushed {
                return Err(corrupt(&segment.path, offset, what));
            }
            erase_rest(self.disk, segment)?;
            self.last_batch = LastBatch::Durable;
        }
        Ok(Some(CutTail {
            file: segment.path.clone(),
            offset,
            what: what.to_owned(),
            doubtful,
        }))
    }

    /// A large commit whose last frame never came was never part of the log: its frames go, from
    /// the last segment backwards, so that a crash on the way leaves the same task.
    fn drop_unfinished_run(&mut self) -> Result<Option<CutTail>, LogError> {
        let Some(last) = self.segments.last() else {
            return Ok(None);
        };
        if last.run == Run::None {
            return Ok(None);
        }
        // What stood before it was durable, or it would not have been begun.
        self.last_batch = LastBatch::Durable;
        loop {
            let only_one = self.segments.len() == 1;
            let segment = self.segments.last_mut().expect("checked on the way");
            match segment.run {
                Run::Begun(before) => {
                    if self.config.known_durable >= before.next_lsn {
                        let what = "the end of a large commit that was durable is missing";
                        return Err(corrupt(&segment.path, segment.end.offset, what));
                    }
                    segment.index.cut(before.offset);
                    segment.end = before;
                    segment.run = Run::None;
                    let index_path = self.dir.join(index_name(&segment.name));
                    remove_if_there(self.disk, &index_path)?;
                    return Ok(Some(CutTail {
                        file: segment.path.clone(),
                        offset: before.offset,
                        what: "a large commit was not finished".to_owned(),
                        doubtful: false,
                    }));
                }
                _ if only_one => {
                    let what = "a large commit has neither beginning nor end";
                    return Err(corrupt(&segment.path, HEADER_BYTES, what));
                }
                _ => {
                    let gone = self.segments.pop().expect("there are at least two");
                    let path = self.dir.join(index_name(&gone.name));
                    remove_if_there(self.disk, &path)?;
                    remove_if_there(self.disk, &gone.path)?;
                    self.disk
                        .sync_dir(self.dir)
                        .map_err(|error| io_error("sync", self.dir, error))?;
                }
            }
        }
    }

    fn check_known_durable(&self) -> Result<(), LogError> {
        let last = self.segments.last().expect("there is at least one");
        let durable = last.end.next_lsn.previous();
        if self.config.known_durable > durable {
            let what = format!(
                "the log ends at LSN {durable}, but LSN {} is known to have been durable",
                self.config.known_durable
            );
            return Err(corrupt(&last.path, last.end.offset, what));
        }
        Ok(())
    }

    fn finish(self, epochs: Epochs, cut: Option<CutTail>) -> Result<Recovered, LogError> {
        let last = self.segments.last().expect("there is at least one");
        let (last_path, last_end) = (last.path.clone(), last.end);
        let running_ms = load_running_ms(self.disk, self.dir).max(last.header.running_ms);
        let file = self
            .disk
            .open(&last_path, OpenFor::Writing)
            .map_err(|error| io_error("open", &last_path, error))?;
        let mut cut = cut;
        let is_doubtful = cut.as_ref().is_some_and(|cut| cut.doubtful);
        if cut.is_some() && !erase_head(file.as_ref(), last)? && !is_doubtful {
            // Not a torn write but the clean end of what was written.
            cut = None;
        }
        // A process that was killed after writing and before flushing leaves frames that are whole and
        // not durable. From here on they count and states are built on them: a power cut must not take
        // them any more. Earlier segments were flushed before the next one began.
        file.sync_data()
            .and_then(|()| self.disk.sync_dir(self.dir))
            .map_err(|error| io_error("flush", &last_path, error))?;
        let count = self.segments.len();
        let segments = self.segments.into_iter().enumerate().map(|(place, found)| {
            let sealed = OnceLock::new();
            if place + 1 < count {
                sealed
                    .set(Sealed {
                        end: found.end,
                        run: found.run,
                    })
                    .expect("a fresh cell is empty");
            }
            Arc::new(Segment {
                header: found.header,
                seed: found.seed,
                file_name: found.name,
                chunks: found.chunks,
                index: found.index.into(),
                sealed,
            })
        });
        let published = Published {
            segments: segments.collect(),
            end: last_end,
            epochs: epochs.records,
        };
        Ok(Recovered {
            published,
            file,
            spares: Vec::new(),
            running_ms,
            cut,
            last_batch: self.last_batch,
        })
    }
}

fn open_cursor(disk: &dyn Disk, segment: &FoundSegment) -> Result<FrameCursor, LogError> {
    let file = disk
        .open(&segment.path, OpenFor::Reading)
        .map_err(|error| io_error("open", &segment.path, error))?;
    let file = SegmentFile::new(file, segment.chunks.clone());
    Ok(FrameCursor::new(file, &segment.header, segment.seed))
}
