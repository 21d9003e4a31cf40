//! Following another log: its bytes, checked, into segments of one's own, and the beginning of a
//! history of one's own ([`Writer::begin_epoch`]), which ends the following.
//!
//! ```text
//! frames ─► check each ─► write ─► flush ─► announced? ─► shown to readers
//!                                    └ until then a batch waits in `Follow::waiting`
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use springhead_proto::{CollectionId, Lsn};

use super::Identity;
use super::files::Epochs;
use super::format::{FRAME_HEADER_BYTES, HEADER_BYTES, SegmentHeader};
use super::frames::Link;
use super::index::{End, Run};
use super::scan::Walk;
use super::shared::{Segment, index_name};
use super::writer::{WriteFailure, Writer, poisoned};
use crate::contract::EpochRecord;
use crate::disk::{OpenFor, write_all_at};
use crate::failpoint;
use crate::raw::{FollowError, RawPosition};

/// Room that a change of epoch takes beside its segment, with much to spare.
const EPOCHS_ROOM_BYTES: u64 = 1 << 20;

/// What a writer that follows knows beside its place.
pub struct Follow {
    /// Whether what is written ends within a large commit.
    run: Run,
    /// The ends of batches that are written and not shown yet, oldest first.
    waiting: VecDeque<(u32, End)>,
    /// The LSN up to which all is flushed here.
    flushed: Lsn,
    /// The highest LSN that was announced to be durable where it comes from.
    announced: Lsn,
    /// Kept to save allocations.
    collections: Vec<CollectionId>,
}

impl Follow {
    /// For a log that ends, whole and flushed, at `end`; `waiting` is what of it must not be shown
    /// yet.
    pub fn new(end: &End, waiting: VecDeque<(u32, End)>) -> Follow {
        Follow {
            run: Run::None,
            waiting,
            flushed: end.next_lsn.previous(),
            announced: Lsn::ZERO,
            collections: Vec::new(),
        }
    }
}

/// What came of following: refused is the sender's fault, or that of what lies between.
type Followed<T> = Result<Result<T, FollowError>, WriteFailure>;

impl Writer {
    /// Makes a writer that has just been made one that follows. `shown` is where readers may go,
    /// `waiting` the batches behind it.
    pub fn start_following(&mut self, shown: (u32, End), waiting: VecDeque<(u32, End)>) {
        self.durable = shown;
        self.follow = Some(Follow::new(&self.end, waiting));
    }

    /// The place behind everything written.
    pub fn position(&self) -> RawPosition {
        raw_position(self.segment.header.segment_number, &self.end)
    }

    fn refuse<T>(&self, what: &'static str) -> Followed<T> {
        Ok(Err(FollowError::Refused {
            at: self.position(),
            what,
        }))
    }

    /// See [`crate::RawLog::follow_segment`].
    pub fn follow_segment(&mut self, page: &[u8], epoch: &EpochRecord) -> Followed<RawPosition> {
        let Some(follow) = &self.follow else {
            return Ok(Err(FollowError::NotFollowing));
        };
        let run = follow.run;
        let Ok((header, _)) = SegmentHeader::decode(page) else {
            return self.refuse("the segment's header is damaged, or of a newer version");
        };
        if let Err(what) = self.check_header(&header, epoch, run) {
            return self.refuse(what);
        }
        self.flush()?;
        let spare = self.keeper.take_spare()?;
        if self.current_history() != epoch.history_id {
            self.store_epoch(*epoch)?;
            self.shared.published.lock().epochs.push(*epoch);
        }
        self.begin_segment(&spare, header, run)
            .map_err(|error| poisoned("begin a segment", &error))?;
        let follow = self.follow.as_mut().expect("looked at above");
        if run != Run::None {
            follow.run = Run::Through;
        }
        follow.flushed = self.end.next_lsn.previous();
        self.show();
        Ok(Ok(self.position()))
    }

    fn current_history(&self) -> u128 {
        self.segment.header.history_id
    }

    fn check_header(
        &self,
        header: &SegmentHeader,
        epoch: &EpochRecord,
        run: Run,
    ) -> Result<(), &'static str> {
        let own = &self.segment.header;
        if header.cluster_id != own.cluster_id {
            return Err("the segment is of another cluster");
        }
        if header.segment_number != own.segment_number + 1 {
            return Err("the segment's number is not the next one");
        }
        if header.previous_crc != self.end.crc || header.first_lsn != self.end.next_lsn {
            return Err("the segment does not follow the one before it");
        }
        if header.history_id != epoch.history_id || header.epoch != epoch.epoch {
            return Err("the segment is not of the history that it comes with");
        }
        if header.history_id == own.history_id {
            return Ok(());
        }
        let current = self.current_record();
        if epoch.number <= current.number {
            return Err("the segment is of an older history");
        }
        if epoch.fork_lsn.next() != self.end.next_lsn || run != Run::None {
            return Err("the segment's history does not fork here");
        }
        Ok(())
    }

    fn current_record(&self) -> EpochRecord {
        let published = self.shared.published.lock();
        *published.epochs.last().expect("a log has a history")
    }

    /// See [`crate::RawLog::follow_frames`].
    pub fn follow_frames(&mut self, from: RawPosition, bytes: &[u8]) -> Followed<RawPosition> {
        let Some(follow) = &mut self.follow else {
            return Ok(Err(FollowError::NotFollowing));
        };
        if from != raw_position(self.segment.header.segment_number, &self.end) {
            return self.refuse("the frames are not of this place");
        }
        let mut walk = Walk {
            end: self.end,
            run: follow.run,
        };
        let header = &self.segment.header;
        // The first segment of a copy may begin with the rest of a large commit, which the state
        // that was copied with it has.
        let begins_log = {
            let published = self.shared.published.lock();
            let first = published.segments.front();
            first.is_none_or(|first| first.header.segment_number == header.segment_number)
        };
        let mut rest = Bytes::copy_from_slice(bytes);
        let mut index = self.segment.index.write();
        let mut fault = None;
        let number = header.segment_number;
        let had = follow.waiting.len();
        while !rest.is_empty() {
            let link = Link {
                seed: self.segment.seed,
                segment_number: number,
                epoch: header.epoch,
                previous_crc: walk.end.crc,
                next_lsn: walk.end.next_lsn,
            };
            let taken = link.take(&rest, walk.end.offset).and_then(|frame| {
                let may_be_inside = begins_log && walk.end.offset == HEADER_BYTES;
                walk.take(&frame, may_be_inside, &mut index, &mut follow.collections)
            });
            match taken {
                Ok(next) => {
                    let length = next.end.offset - walk.end.offset;
                    rest = rest.slice(usize::try_from(length).expect("it is in memory")..);
                    walk = next;
                    if walk.run == Run::None {
                        follow.waiting.push_back((number, walk.end));
                    }
                }
                Err(what) => {
                    // Part of the frame may be in it.
                    index.cut(walk.end.offset);
                    fault = Some(what);
                    break;
                }
            }
        }
        drop(index);
        let sound = &bytes[..bytes.len() - rest.len()];
        if let Err(refused) = self.keeper.check_reserve(sound.len() as u64) {
            follow.waiting.truncate(had);
            self.segment.index.write().cut(self.end.offset);
            return Err(WriteFailure::Refused(refused));
        }
        follow.run = walk.run;
        self.write_followed(sound, walk.end)?;
        match fault {
            Some(what) => self.refuse(what),
            None => Ok(Ok(self.position())),
        }
    }

    fn write_followed(&mut self, bytes: &[u8], end: End) -> Result<(), WriteFailure> {
        if bytes.is_empty() {
            return Ok(());
        }
        failpoint::hit("log.follow_before_write");
        write_all_at(self.file.as_ref(), bytes, self.end.offset)
            .map_err(|error| poisoned("write", &error))?;
        failpoint::hit("log.follow_after_write");
        let length = bytes.len() as u64;
        let counters = &self.shared.counters;
        counters.written_bytes.fetch_add(length, Ordering::Relaxed);
        self.unflushed_bytes += length;
        self.end = end;
        self.timestamp_ms = end.timestamp_ms;
        self.shared.note_written(end);
        Ok(())
    }

    /// See [`crate::RawLog::follow_flush`].
    pub fn follow_flush(&mut self) -> Followed<RawPosition> {
        if self.follow.is_none() {
            return Ok(Err(FollowError::NotFollowing));
        }
        self.flush()?;
        if let Some(follow) = &mut self.follow {
            follow.flushed = self.end.next_lsn.previous();
        }
        self.show();
        Ok(Ok(self.position()))
    }

    /// See [`crate::RawLog::announce`].
    pub fn announce(&mut self, durable: Lsn) -> Followed<Lsn> {
        let Some(follow) = &mut self.follow else {
            return Ok(Err(FollowError::NotFollowing));
        };
        follow.announced = follow.announced.max(durable);
        self.show();
        Ok(Ok(self.durable.1.next_lsn.previous()))
    }

    /// Shows readers the batches that are durable here and there.
    fn show(&mut self) {
        let Some(follow) = &mut self.follow else {
            return;
        };
        let limit = follow.announced.min(follow.flushed);
        let mut shown = None;
        while let Some(&(number, end)) = follow.waiting.front()
            && end.next_lsn.previous() <= limit
        {
            shown = Some((number, end));
            follow.waiting.pop_front();
        }
        // A segment without a frame says nothing that could be lost.
        if follow.waiting.is_empty()
            && follow.run == Run::None
            && self.end.next_lsn.previous() <= limit
        {
            shown = Some((self.segment.header.segment_number, self.end));
        }
        if let Some(shown) = shown.filter(|shown| *shown != self.durable) {
            self.durable = shown;
            self.publish();
        }
    }

    /// See [`crate::Log::begin_epoch`].
    pub fn begin_epoch(
        &mut self,
        identity: &Identity,
        number: u32,
    ) -> Result<EpochRecord, WriteFailure> {
        self.keeper
            .make_room_for(EPOCHS_ROOM_BYTES)
            .map_err(WriteFailure::Refused)?;
        let spare = self.keeper.take_spare()?;
        self.flush()?;
        self.stop_following()?;
        debug_assert_eq!(self.durable.1, self.end, "nothing is under way");
        let record = EpochRecord {
            epoch: identity.epoch,
            number: number.max(self.current_record().number + 1),
            history_id: identity.history_id,
            fork_lsn: self.end.next_lsn.previous(),
        };
        failpoint::hit("log.epoch_before_store");
        // Before any frame of it: whoever finds a frame finds where its history forked.
        self.store_epoch(record)?;
        failpoint::hit("log.epoch_stored");
        let header = SegmentHeader {
            segment_number: self.segment.header.segment_number + 1,
            history_id: record.history_id,
            epoch: record.epoch,
            first_lsn: self.end.next_lsn,
            previous_crc: self.end.crc,
            running_ms: self.shared.running_ms(),
            created_ms: self.shared.clock.now_ms(),
            ..self.segment.header
        };
        self.begin_segment(&spare, header, Run::None)
            .map_err(|error| poisoned("begin a segment", &error))?;
        failpoint::hit("log.epoch_begun");
        self.shared.published.lock().epochs.push(record);
        self.durable = (self.segment.header.segment_number, self.end);
        self.publish();
        Ok(record)
    }

    /// Adds a history to the file `epochs`.
    fn store_epoch(&self, record: EpochRecord) -> Result<(), WriteFailure> {
        let mut records = self.shared.published.lock().epochs.clone();
        records.push(record);
        let epochs = Epochs {
            cluster_id: self.segment.header.cluster_id,
            records,
        };
        epochs
            .store(self.shared.disk.as_ref(), &self.shared.dir)
            .map_err(|error| WriteFailure::Poisoned(error.to_string()))
    }

    /// Keeps every whole batch, cuts off a large commit whose end never came, and shows it all.
    fn stop_following(&mut self) -> Result<(), WriteFailure> {
        let Some(follow) = self.follow.take() else {
            return Ok(());
        };
        let whole = follow.waiting.back().copied().unwrap_or(self.durable);
        if follow.run != Run::None {
            self.cut_run(whole)?;
        }
        self.durable = (self.segment.header.segment_number, self.end);
        self.publish();
        self.shared.follows.store(false, Ordering::Release);
        Ok(())
    }

    /// Goes back to `whole`, the end of the batch before an unfinished large commit, from the last
    /// segment backwards, as recovery would.
    fn cut_run(&mut self, whole: (u32, End)) -> Result<(), WriteFailure> {
        let (number, end) = whole;
        let failed = |error: std::io::Error| poisoned("cut off a large commit", &error);
        self.keeper.forget_sealed_from(number);
        let disk = Arc::clone(&self.shared.disk);
        let later: Vec<Arc<Segment>> = {
            let mut written = self.shared.written.lock();
            let keep = written
                .segments
                .iter()
                .take_while(|segment| segment.header.segment_number <= number)
                .count();
            written.segments.drain(keep..).collect()
        };
        for segment in later.iter().rev() {
            for name in [&segment.file_name, &index_name(&segment.file_name)] {
                super::keeper::remove_if_there(disk.as_ref(), &self.shared.path(name))
                    .map_err(failed)?;
            }
            disk.sync_dir(&self.shared.dir).map_err(failed)?;
        }
        let segment = self
            .reopen(number)
            .expect("the last whole batch lies in a segment");
        segment.index.write().cut(end.offset);
        self.file = disk
            .open(&self.shared.path(&segment.file_name), OpenFor::Writing)
            .map_err(failed)?;
        // Or a scan of this segment would walk on into what was cut.
        write_all_at(self.file.as_ref(), &[0; FRAME_HEADER_BYTES], end.offset).map_err(failed)?;
        self.file.sync_data().map_err(failed)?;
        self.segment = segment;
        self.end = end;
        self.timestamp_ms = end.timestamp_ms;
        let mut written = self.shared.written.lock();
        (written.number, written.end) = (number, end);
        Ok(())
    }

    /// Puts an unsealed copy of the segment `number` in its place, wherever it is listed.
    fn reopen(&self, number: u32) -> Option<Arc<Segment>> {
        let mut published = self.shared.published.lock();
        let mut written = self.shared.written.lock();
        let place = published
            .segments
            .iter_mut()
            .chain(written.segments.iter_mut())
            .find(|segment| segment.header.segment_number == number)?;
        let copy = Arc::new(Segment {
            header: place.header,
            seed: place.seed,
            file_name: place.file_name.clone(),
            chunks: None,
            index: place.index.read().clone().into(),
            sealed: std::sync::OnceLock::new(),
        });
        *place = Arc::clone(&copy);
        Some(copy)
    }
}

/// An end as a place that another log understands.
pub fn raw_position(segment: u32, end: &End) -> RawPosition {
    RawPosition {
        segment,
        offset: end.offset,
        crc: end.crc,
        lsn: end.next_lsn.previous(),
    }
}
