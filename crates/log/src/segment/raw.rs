//! Reads the log as bytes: headers and frames as they lie in the segments, each checked, as far as
//! they are durable or as far as they are written.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use springhead_proto::Lsn;

use super::follow::raw_position;
use super::format::HEADER_BYTES;
use super::frames::FrameCursor;
use super::index::{End, Run};
use super::recent::RecentFrame;
use super::scan::LastBatch;
use super::shared::{Published, Segment, Shared, Written, corrupt, segment_name};
use crate::contract::{EpochRecord, LogError};
use crate::raw::{RawIdentity, RawItem, RawLimit, RawPosition, RawReader, RawSegment};

/// See the module's text.
pub struct SegmentRawReader {
    shared: Arc<Shared>,
    limit: RawLimit,
    at: RawPosition,
    place: Option<Place>,
}

/// A segment that is being read.
struct Place {
    segment: Arc<Segment>,
    cursor: FrameCursor,
}

/// How far one segment can be read now.
struct Reach {
    segment: Arc<Segment>,
    epoch: EpochRecord,
    /// Where to stop.
    limit: u64,
    /// Up to where it is durable; at most `limit`.
    durable: u64,
    /// How it ends, if it is sealed and may be read to its end: another one follows.
    sealed: Option<End>,
}

/// What lies in one segment, of what kind.
enum Found {
    Reach(Box<Reach>),
    NotYet,
    Trimmed,
}

/// Looks for the segment `number`; `all`: also for what is written and not shown.
fn find(shared: &Shared, number: u32, all: bool) -> Found {
    let published = shared.published.lock();
    let written = shared.written.lock();
    let first = published
        .segments
        .front()
        .map_or(1, |segment| segment.header.segment_number);
    if number < first {
        return Found::Trimmed;
    }
    let segment = published.by_number(number).or_else(|| {
        let mut unshown = written.segments.iter().filter(|_| all);
        unshown.find(|segment| segment.header.segment_number == number)
    });
    let Some(segment) = segment.map(Arc::clone) else {
        return Found::NotYet;
    };
    let epoch = published
        .epochs
        .iter()
        .find(|record| record.history_id == segment.header.history_id);
    let epoch = *epoch.expect("every segment is of a known history");
    let durable = durable_offset(&published, &segment);
    let (limit, sealed) = if all {
        written_end(&written, &segment)
    } else if number < published.last_number() {
        let end = segment.end(&published);
        (end.offset, Some(end))
    } else {
        (durable, None)
    };
    Found::Reach(Box::new(Reach {
        segment,
        epoch,
        limit,
        durable: durable.min(limit),
        sealed,
    }))
}

fn durable_offset(published: &Published, segment: &Segment) -> u64 {
    if segment.header.segment_number > published.last_number() {
        return HEADER_BYTES;
    }
    segment.end(published).offset
}

fn written_end(written: &Written, segment: &Segment) -> (u64, Option<End>) {
    match segment.sealed.get() {
        Some(sealed) if segment.header.segment_number != written.number => {
            (sealed.end.offset, Some(sealed.end))
        }
        _ => (written.end.offset, None),
    }
}

impl SegmentRawReader {
    /// A reader that begins at `from`, which is known to be a place of this log.
    pub fn new(shared: Arc<Shared>, from: RawPosition, limit: RawLimit) -> SegmentRawReader {
        if limit == RawLimit::Written {
            shared.recent.begin();
        }
        SegmentRawReader {
            shared,
            limit,
            at: from,
            place: None,
        }
    }

    /// What a follower has not been told is durable, it passes on to nobody.
    fn reads_unflushed(&self) -> bool {
        self.limit == RawLimit::Written && !self.shared.follows.load(Ordering::Acquire)
    }

    fn reach(&self, number: u32) -> Result<Option<Box<Reach>>, LogError> {
        match find(&self.shared, number, self.reads_unflushed()) {
            Found::Reach(reach) => Ok(Some(reach)),
            Found::NotYet => Ok(None),
            Found::Trimmed => Err(trimmed(&self.shared, self.at.lsn.next())),
        }
    }

    /// Opens the segment; at its very beginning, its header is yielded.
    fn enter(&mut self, reach: &Reach, out: &mut Vec<RawItem>) -> Result<u64, LogError> {
        let (segment, mut cursor) = open(&self.shared, &reach.segment)?;
        if self.at.offset >= HEADER_BYTES {
            cursor.jump(self.at.offset, self.at.crc, self.at.lsn.next());
            self.place = Some(Place { segment, cursor });
            return Ok(0);
        }
        let (header, _) = segment.header.encode();
        self.at = segment_begin(&segment);
        self.place = Some(Place { segment, cursor });
        out.push(RawItem::Segment {
            header: header.into(),
            epoch: reach.epoch,
            next: self.at,
        });
        Ok(HEADER_BYTES)
    }

    /// Goes on to the next segment, whose number is known to be there or to come.
    fn leave(&mut self, end: &End) -> Result<(), LogError> {
        if let Some(place) = self.place.take()
            && !place.cursor.stands_at(end)
        {
            let path = self.shared.path(&place.segment.file_name);
            let what = "its frames do not end as they should";
            return Err(corrupt(&path, place.cursor.offset(), what));
        }
        self.at = RawPosition {
            segment: self.at.segment + 1,
            offset: 0,
            crc: 0,
            lsn: self.at.lsn,
        };
        Ok(())
    }

    fn frames(&mut self, reach: &Reach, budget: u64) -> Result<Option<RawItem>, LogError> {
        let place = self.place.as_mut().expect("entered");
        // Not across the durable end, so that all of an item is one or the other.
        let limit = if self.at.offset < reach.durable {
            reach.durable
        } else {
            reach.limit
        };
        let offset = place.cursor.offset();
        let read = place.cursor.next_raw(limit, budget);
        let bytes =
            read.map_err(|fault| fault.at(&self.shared.path(&place.segment.file_name), offset))?;
        let from = self.at;
        self.at = RawPosition {
            segment: from.segment,
            offset: place.cursor.offset(),
            crc: place.cursor.previous_crc(),
            lsn: place.cursor.next_lsn().previous(),
        };
        Ok(bytes.map(|bytes| RawItem::Frames {
            from,
            next: self.at,
            bytes,
            durable: self.at.offset <= reach.durable,
        }))
    }
}

impl RawReader for SegmentRawReader {
    fn read(&mut self, out: &mut Vec<RawItem>, budget_bytes: u64) -> Result<RawPosition, LogError> {
        let mut left = budget_bytes.max(1);
        while left > 0 {
            let Some(reach) = self.reach(self.at.segment)? else {
                break;
            };
            if self.place.is_none() {
                left = left.saturating_sub(self.enter(&reach, out)?);
            } else if self.at.offset >= reach.limit {
                match &reach.sealed {
                    Some(end) => self.leave(end)?,
                    None => break,
                }
            } else if let Some(item) = self.frames(&reach, left)? {
                left = left.saturating_sub(item.bytes().len() as u64);
                out.push(item);
            }
        }
        Ok(self.at)
    }

    fn read_recent(&mut self, out: &mut Vec<RawItem>, budget_bytes: u64) -> Option<RawPosition> {
        if !self.reads_unflushed() {
            return None;
        }
        let is_at_end = {
            let written = self.shared.written.lock();
            raw_position(written.number, &written.end) == self.at
        };
        if is_at_end {
            return Some(self.at);
        }
        let frames = self.shared.recent.from(self.at, budget_bytes.max(1))?;
        let (last, durable) = {
            let published = self.shared.published.lock();
            (published.last_number(), published.end.offset)
        };
        for RecentFrame { from, next, bytes } in frames {
            self.at = next;
            out.push(RawItem::Frames {
                from,
                next,
                bytes,
                durable: next.segment < last || (next.segment == last && next.offset <= durable),
            });
        }
        // A file that is read from again is read from here.
        let at = self.at;
        self.place = self.place.take().filter(|place| {
            place.segment.header.segment_number == at.segment && at.offset >= HEADER_BYTES
        });
        if let Some(place) = &mut self.place {
            place.cursor.jump(at.offset, at.crc, at.lsn.next());
        }
        Some(at)
    }
}

impl Drop for SegmentRawReader {
    fn drop(&mut self) {
        if self.limit == RawLimit::Written {
            self.shared.recent.end();
        }
    }
}

/// Behind a segment's header.
fn segment_begin(segment: &Segment) -> RawPosition {
    RawPosition {
        segment: segment.header.segment_number,
        offset: HEADER_BYTES,
        crc: segment.seed,
        lsn: segment.header.first_lsn.previous(),
    }
}

fn trimmed(shared: &Shared, asked: Lsn) -> LogError {
    let earliest = shared.published.lock().earliest();
    LogError::Trimmed { asked, earliest }
}

/// Opens a segment's file; if it has just been compressed, the new one.
fn open(shared: &Shared, segment: &Arc<Segment>) -> Result<(Arc<Segment>, FrameCursor), LogError> {
    match FrameCursor::open(shared.disk.as_ref(), &shared.dir, segment) {
        Ok(cursor) => Ok((Arc::clone(segment), cursor)),
        Err(error) => {
            let number = segment.header.segment_number;
            let current = shared.published.lock().by_number(number).cloned();
            match current {
                None => Err(trimmed(shared, segment.header.first_lsn)),
                Some(current) if Arc::ptr_eq(&current, segment) => Err(error),
                Some(current) => {
                    let cursor = FrameCursor::open(shared.disk.as_ref(), &shared.dir, &current)?;
                    Ok((current, cursor))
                }
            }
        }
    }
}

/// See [`crate::RawLog::identity`].
pub fn identity(shared: &Shared) -> RawIdentity {
    let published = shared.published.lock();
    let written = shared.written.lock();
    RawIdentity {
        cluster_id: published.last().header.cluster_id,
        epochs: published.epochs.clone(),
        written: raw_position(written.number, &written.end),
        durable: published.end.next_lsn.previous(),
    }
}

/// See [`crate::RawLog::segment_start`].
pub fn segment_start(shared: &Shared, lsn: Lsn) -> Result<RawPosition, LogError> {
    let lsn = lsn.max(Lsn::FIRST);
    let published = shared.published.lock();
    let (earliest, next_lsn) = (published.earliest(), published.end.next_lsn);
    if lsn < earliest {
        return Err(LogError::Trimmed {
            asked: lsn,
            earliest,
        });
    }
    if lsn > next_lsn {
        return Err(LogError::Future {
            asked: lsn,
            durable: next_lsn.previous(),
        });
    }
    let segment = &published.segments[published.place_of_lsn(lsn)];
    Ok(RawPosition {
        segment: segment.header.segment_number,
        offset: 0,
        crc: 0,
        lsn: segment.header.first_lsn.previous(),
    })
}

/// See [`crate::RawLog::segments`].
pub fn segments(shared: &Shared) -> Vec<RawSegment> {
    let published = shared.published.lock();
    let last = published.last_number();
    let segments = published.segments.iter().map(|segment| {
        let header = &segment.header;
        let mut records = published.epochs.iter();
        let epoch = records.find(|record| record.history_id == header.history_id);
        RawSegment {
            file_name: segment_name(header.first_lsn, header.segment_number),
            epoch: *epoch.expect("every segment is of a known history"),
            start: RawPosition {
                segment: header.segment_number,
                offset: 0,
                crc: 0,
                lsn: header.first_lsn.previous(),
            },
            end: raw_position(header.segment_number, &segment.end(&published)),
            sealed: header.segment_number != last,
        }
    });
    segments.collect()
}

/// See [`crate::RawLog::holds`].
pub fn holds(shared: &Shared, position: RawPosition) -> Result<bool, LogError> {
    let reach = match find(shared, position.segment, true) {
        Found::Reach(reach) => reach,
        Found::NotYet => return Ok(false),
        Found::Trimmed => return Err(trimmed(shared, position.lsn.next())),
    };
    if position.offset == 0 {
        return Ok(position.lsn.next() == reach.segment.header.first_lsn);
    }
    if position.offset < HEADER_BYTES || position.offset > reach.limit {
        return Ok(false);
    }
    if position.offset == HEADER_BYTES {
        return Ok(position == segment_begin(&reach.segment));
    }
    let (segment, mut cursor) = open(shared, &reach.segment)?;
    let block = {
        let index = segment.index.read();
        let block = index.block_at_offset(position.offset - 1);
        block.map(|block| index.blocks()[block].clone())
    };
    if let Some(block) = block {
        cursor.jump(block.offset, block.previous_crc, block.first_lsn);
    }
    while cursor.offset() < position.offset {
        let offset = cursor.offset();
        match cursor.next(reach.limit) {
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(fault) => return Err(fault.at(&shared.path(&segment.file_name), offset)),
        }
    }
    Ok(cursor.offset() == position.offset
        && cursor.previous_crc() == position.crc
        && cursor.next_lsn() == position.lsn.next())
}

/// See [`crate::RawLog::frame_ends`].
pub fn frame_ends(shared: &Shared, max: usize) -> Result<Vec<RawPosition>, LogError> {
    let mut ends = Vec::new();
    let mut number = shared.written.lock().number;
    while ends.len() < max && number > 0 {
        let reach = match find(shared, number, true) {
            Found::Reach(reach) => reach,
            Found::NotYet | Found::Trimmed => break,
        };
        ends_in_segment(shared, &reach, max, &mut ends)?;
        number -= 1;
    }
    Ok(ends)
}

/// The ends of batches in one segment, from its last block backwards.
fn ends_in_segment(
    shared: &Shared,
    reach: &Reach,
    max: usize,
    ends: &mut Vec<RawPosition>,
) -> Result<(), LogError> {
    let (segment, mut cursor) = open(shared, &reach.segment)?;
    let mut to = reach.limit;
    let blocks = segment.index.read().blocks().to_vec();
    let starts = blocks.iter().rev().map(Some).chain([None]);
    for block in starts {
        let from = match block {
            Some(block) if block.offset >= to => continue,
            Some(block) => {
                cursor.jump(block.offset, block.previous_crc, block.first_lsn);
                block.offset
            }
            None if to <= HEADER_BYTES => break,
            None => {
                let begin = segment_begin(&segment);
                cursor.jump(begin.offset, begin.crc, begin.lsn.next());
                HEADER_BYTES
            }
        };
        let place = ends.len();
        while cursor.offset() < to {
            let offset = cursor.offset();
            let frame = cursor
                .next(to)
                .map_err(|fault| fault.at(&shared.path(&segment.file_name), offset))?;
            let Some(frame) = frame else { break };
            if !frame.header.is_part() || frame.header.is_end() {
                ends.push(RawPosition {
                    segment: segment.header.segment_number,
                    offset: cursor.offset(),
                    crc: cursor.previous_crc(),
                    lsn: cursor.next_lsn().previous(),
                });
            }
        }
        ends[place..].reverse();
        if ends.len() >= max {
            ends.truncate(max);
            return Ok(());
        }
        to = from;
    }
    Ok(())
}

/// What of a follower's log waits for an announcement: the last batch alone is in doubt, since a
/// primary writes a frame only when all before it is durable. Gives where readers may go until then.
pub fn doubtful(
    published: &Published,
    last_batch: LastBatch,
    known_durable: Lsn,
) -> Option<(u32, End)> {
    if published.end.next_lsn.previous() <= known_durable {
        return None;
    }
    match last_batch {
        LastBatch::Durable => None,
        LastBatch::Begins(before) => Some((published.last_number(), before)),
        LastBatch::BeganEarlier => published.segments.iter().rev().skip(1).find_map(|segment| {
            match segment.sealed.get()?.run {
                Run::Begun(before) => Some((segment.header.segment_number, before)),
                Run::Through | Run::None => None,
            }
        }),
    }
}
