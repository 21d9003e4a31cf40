//! Reads the log forward from disk, as far as it is durable. Knows nothing of the appender but the
//! end that it publishes; when there is nothing new it compares two numbers and is done.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use springhead_proto::{CollectionId, Lsn};

use super::format::read_commit_head;
use super::frames::{Frame, FrameCursor};
use super::index::End;
use super::large::LargeCommit;
use super::scan::take_commit;
use super::shared::{Segment, Shared};
use crate::contract::{CommitSlice, LogError, LogReader, ReadFilter};

/// See the module's text.
pub struct SegmentReader {
    shared: Arc<Shared>,
    filter: ReadFilter,
    /// Commits that end before it are not wanted.
    from: Lsn,
    /// Everything up to here has been looked at.
    scanned: Lsn,
    /// Where it is; `None` before the first read.
    place: Option<Place>,
    /// The large commit that it is within.
    large: Option<LargeCommit>,
    /// Kept to save allocations.
    collections: Vec<CollectionId>,
}

struct Place {
    segment: Arc<Segment>,
    cursor: FrameCursor,
    /// Where the segment's readable frames end, as last seen.
    limit: End,
    /// The LSN after the last durable one, when `limit` was seen.
    next_lsn: Lsn,
    /// Whether `limit` is for good and another segment follows.
    sealed: bool,
}

/// What the reader should do next.
enum Step {
    Frame(Frame),
    Moved,
    End,
}

impl SegmentReader {
    /// A reader that begins with the first commit that ends at or after `from`.
    pub fn new(shared: Arc<Shared>, from: Lsn, filter: ReadFilter) -> SegmentReader {
        SegmentReader {
            shared,
            filter,
            from,
            scanned: from.previous(),
            place: None,
            large: None,
            collections: Vec::new(),
        }
    }

    fn trimmed(&self, asked: Lsn) -> LogError {
        let earliest = self.shared.published.lock().earliest();
        LogError::Trimmed { asked, earliest }
    }

    /// The first place: the block that holds `from`.
    fn enter(&mut self) -> Result<Place, LogError> {
        let asked = self.scanned.next();
        let (segment, limit, next_lsn, sealed) = {
            let published = self.shared.published.lock();
            let earliest = published.earliest();
            if asked < earliest {
                return Err(LogError::Trimmed { asked, earliest });
            }
            let segment = Arc::clone(&published.segments[published.place_of_lsn(asked)]);
            let sealed = segment.header.segment_number != published.last_number();
            (
                Arc::clone(&segment),
                segment.end(&published),
                published.end.next_lsn,
                sealed,
            )
        };
        let mut place = self.open(segment, limit, next_lsn, sealed)?;
        let index = place.segment.index.read();
        let block = index
            .block_of_lsn(asked)
            .map(|block| &index.blocks()[block]);
        // Before the first block are only the rest of a large commit that began earlier, and that
        // is over: `asked` is not in it.
        let block = block
            .or(index.blocks().first())
            .filter(|block| block.offset < limit.offset);
        match block {
            Some(block) => place
                .cursor
                .jump(block.offset, block.previous_crc, block.first_lsn),
            None => place.cursor.jump(limit.offset, limit.crc, limit.next_lsn),
        }
        drop(index);
        Ok(place)
    }

    fn open(
        &self,
        segment: Arc<Segment>,
        limit: End,
        next_lsn: Lsn,
        sealed: bool,
    ) -> Result<Place, LogError> {
        let shared = &self.shared;
        let opened = FrameCursor::open(shared.disk.as_ref(), &shared.dir, &segment);
        let (segment, cursor) = match opened {
            Ok(cursor) => (segment, cursor),
            Err(error) => {
                // Compressed or trimmed between the look at the list and here?
                let number = segment.header.segment_number;
                let current = shared.published.lock().by_number(number).cloned();
                match current {
                    None => return Err(self.trimmed(self.scanned.next())),
                    Some(current) if Arc::ptr_eq(&current, &segment) => return Err(error),
                    Some(current) => {
                        let cursor =
                            FrameCursor::open(shared.disk.as_ref(), &shared.dir, &current)?;
                        (current, cursor)
                    }
                }
            }
        };
        Ok(Place {
            segment,
            cursor,
            limit,
            next_lsn,
            sealed,
        })
    }

    /// Learns anew where the readable frames of the place's segment end.
    fn refresh(&self, place: &mut Place) {
        let published = self.shared.published.lock();
        // It may have been replaced by its like: compressed, or unsealed at a promotion.
        if let Some(current) = published.by_number(place.segment.header.segment_number) {
            place.segment = Arc::clone(current);
        }
        place.limit = place.segment.end(&published);
        place.next_lsn = published.end.next_lsn;
        place.sealed = place.segment.header.segment_number != published.last_number();
    }

    fn step(&mut self, place: &mut Place) -> Result<Step, LogError> {
        if place.cursor.offset() >= place.limit.offset {
            if !place.sealed {
                self.refresh(place);
                if place.cursor.offset() < place.limit.offset {
                    return Ok(Step::Moved);
                }
                if !place.sealed {
                    return Ok(Step::End);
                }
            }
            self.next_segment(place)?;
            return Ok(Step::Moved);
        }
        if self.large.is_none() && self.skip(place) {
            return Ok(Step::Moved);
        }
        let offset = place.cursor.offset();
        match place.cursor.next(place.limit.offset) {
            Ok(Some(frame)) => Ok(Step::Frame(frame)),
            Ok(None) => Ok(Step::Moved),
            Err(fault) => Err(fault.at(&self.shared.path(&place.segment.file_name), offset)),
        }
    }

    fn next_segment(&mut self, place: &mut Place) -> Result<(), LogError> {
        let end = place.limit;
        let path = self.shared.path(&place.segment.file_name);
        if !place.cursor.stands_at(&end) {
            let offset = place.cursor.offset();
            return Err(super::shared::corrupt(
                &path,
                offset,
                "its frames do not end as they should",
            ));
        }
        let number = place.segment.header.segment_number + 1;
        let next = {
            let published = self.shared.published.lock();
            published.by_number(number).map(|segment| {
                let sealed = number != published.last_number();
                (
                    Arc::clone(segment),
                    segment.end(&published),
                    published.end.next_lsn,
                    sealed,
                )
            })
        };
        let Some((segment, limit, next_lsn, sealed)) = next else {
            return Err(self.trimmed(self.scanned.next()));
        };
        if segment.header.previous_crc != end.crc || segment.header.first_lsn != end.next_lsn {
            let path = self.shared.path(&segment.file_name);
            return Err(super::shared::corrupt(
                &path,
                0,
                "it does not follow the segment before it",
            ));
        }
        let mut next = self.open(segment, limit, next_lsn, sealed)?;
        if self.large.is_none() {
            self.scanned = self.scanned.max(next.skip_rest_of_run());
        }
        *place = next;
        Ok(())
    }

    /// Steps over blocks in which nothing passes the filter. Whether it moved.
    fn skip(&mut self, place: &mut Place) -> bool {
        if self.filter.tenant.is_none() && self.filter.collections.is_empty() {
            return false;
        }
        let index = place.segment.index.read();
        let Some(first) = index.block_at_offset(place.cursor.offset()) else {
            return false;
        };
        let within = |block: usize| {
            index
                .blocks()
                .get(block)
                .filter(|block| block.offset < place.limit.offset)
        };
        let mut block = first;
        while within(block).is_some() && !index.may_pass(block, &self.filter) {
            block += 1;
        }
        if block == first {
            return false;
        }
        match within(block) {
            Some(block) => {
                place
                    .cursor
                    .jump(block.offset, block.previous_crc, block.first_lsn);
                self.scanned = self.scanned.max(block.first_lsn.previous());
            }
            None => {
                let end = place.limit;
                place.cursor.jump(end.offset, end.crc, end.next_lsn);
                self.scanned = self.scanned.max(place.scanned_at_limit());
            }
        }
        true
    }

    fn take_frame(
        &mut self,
        place: &Place,
        frame: &Frame,
        out: &mut Vec<CommitSlice>,
    ) -> Result<(), &'static str> {
        if frame.header.is_part() {
            return self.take_part(place, frame, out);
        }
        if self.large.is_some() {
            return Err("a large commit has no end");
        }
        let header = &frame.header;
        let mut payload = frame.payload.clone();
        let mut lsn = header.first_lsn;
        while !payload.is_empty() {
            let (head, changes) = take_commit(&mut payload, &mut self.collections)?;
            let next = lsn.plus(head.count);
            if next > self.from && self.filter.admits(head.tenant, &self.collections) {
                out.push(CommitSlice {
                    tenant: head.tenant,
                    epoch: header.epoch,
                    timestamp_ms: header.timestamp_ms,
                    commit_lsn: lsn,
                    commit_count: head.count,
                    index: 0,
                    count: head.count,
                    last: true,
                    changes,
                });
            }
            lsn = next;
        }
        if lsn != header.next_lsn() {
            return Err("the frame does not hold as many changes as it says");
        }
        self.scanned = self.scanned.max(lsn.previous());
        Ok(())
    }

    fn take_part(
        &mut self,
        place: &Place,
        frame: &Frame,
        out: &mut Vec<CommitSlice>,
    ) -> Result<(), &'static str> {
        let header = &frame.header;
        let mut changes = frame.payload.clone();
        if header.is_first() {
            if self.large.is_some() {
                return Err("a large commit begins within another");
            }
            let mut rest = &changes[..];
            let head = read_commit_head(&mut rest, &mut self.collections)
                .ok_or("a large commit's head is damaged")?;
            changes = changes.slice(changes.len() - rest.len()..);
            // What is published is complete; anything else is damage that must not be streamed.
            if header.first_lsn.plus(head.count) > place.next_lsn {
                return Err("a large commit passes the durable end");
            }
            let wanted = header.first_lsn.plus(head.count) > self.from
                && self.filter.admits(head.tenant, &self.collections);
            self.large = Some(LargeCommit::new(&head, header, wanted));
        }
        let Some(large) = &mut self.large else {
            return Err("a large commit has no beginning");
        };
        if let Some(slice) = large.take(changes, header)? {
            out.push(slice);
        }
        if header.is_end() {
            self.large = None;
            self.scanned = self.scanned.max(header.next_lsn().previous());
        }
        Ok(())
    }

    /// Walks the frames of the large commit that begins with `frame` to its end without yielding
    /// anything, so that damage in it is found before any of it is shown.
    fn verify_run(&mut self, place: &Place) -> Result<(), LogError> {
        let mut walk = self.open(
            Arc::clone(&place.segment),
            place.limit,
            place.next_lsn,
            place.sealed,
        )?;
        walk.cursor.jump(
            place.cursor.offset(),
            place.cursor.previous_crc(),
            place.cursor.next_lsn(),
        );
        let mut walker =
            SegmentReader::new(Arc::clone(&self.shared), self.from, ReadFilter::default());
        walker.scanned = self.scanned;
        // Only so that the walk does not step over the parts at the front of the next segment.
        walker.large = self.large.as_ref().map(LargeCommit::unwanted);
        loop {
            match walker.step(&mut walk)? {
                Step::Frame(frame) if frame.header.is_end() => return Ok(()),
                Step::Frame(frame) if frame.header.is_part() => {}
                Step::Moved => {}
                Step::Frame(_) | Step::End => {
                    let path = self.shared.path(&walk.segment.file_name);
                    let offset = walk.cursor.offset();
                    return Err(super::shared::corrupt(
                        &path,
                        offset,
                        "a large commit has no end",
                    ));
                }
            }
        }
    }

    fn read_on(
        &mut self,
        place: &mut Place,
        out: &mut Vec<CommitSlice>,
        budget_bytes: u64,
    ) -> Result<Lsn, LogError> {
        let mut scanned_bytes = 0;
        let had = out.len();
        loop {
            match self.step(place)? {
                Step::End => return Ok(self.scanned),
                Step::Moved => {}
                Step::Frame(frame) => {
                    let length = out.len();
                    self.take_frame(place, &frame, out).map_err(|what| {
                        let path = self.shared.path(&place.segment.file_name);
                        super::shared::corrupt(&path, frame.offset, what)
                    })?;
                    let begun = frame.header.is_first()
                        && self.large.as_ref().is_some_and(LargeCommit::is_wanted);
                    if begun && let Err(error) = self.verify_run(place) {
                        out.truncate(length);
                        return Err(error);
                    }
                    scanned_bytes += frame.header.frame_bytes();
                    // Within a large commit only with something to show, or the caller would
                    // take it for the end.
                    let showing = self.large.is_none() || out.len() > had;
                    if scanned_bytes >= budget_bytes && showing {
                        return Ok(self.scanned);
                    }
                }
            }
        }
    }
}

impl Place {
    /// Steps over the frames at the segment's front that belong to a large commit which began
    /// before it and is not wanted. The last LSN that has thereby been looked at.
    fn skip_rest_of_run(&mut self) -> Lsn {
        let index = self.segment.index.read();
        match index
            .blocks()
            .first()
            .filter(|block| block.offset < self.limit.offset)
        {
            Some(block) => {
                self.cursor
                    .jump(block.offset, block.previous_crc, block.first_lsn);
                block.first_lsn.previous()
            }
            None => {
                self.cursor
                    .jump(self.limit.offset, self.limit.crc, self.limit.next_lsn);
                drop(index);
                self.scanned_at_limit()
            }
        }
    }

    /// The last LSN that has been looked at by whoever stands at the limit.
    fn scanned_at_limit(&self) -> Lsn {
        // The LSNs of a large commit come into being with its end, which may lie segments later;
        // until then the limit's LSN is the one before it.
        self.limit.next_lsn.previous()
    }
}

impl LogReader for SegmentReader {
    fn read(&mut self, out: &mut Vec<CommitSlice>, budget_bytes: u64) -> Result<Lsn, LogError> {
        let next_lsn = Lsn(self.shared.next_lsn.load(Ordering::Acquire));
        if self.scanned.next() >= next_lsn {
            return Ok(self.scanned);
        }
        let mut place = match self.place.take() {
            Some(place) => place,
            None => self.enter()?,
        };
        let read = self.read_on(&mut place, out, budget_bytes)?;
        self.place = Some(place);
        Ok(read)
    }
}

/// The first LSN of the first frame whose time is `time` or later; one past the end if none is.
pub fn lsn_at_time(
    shared: &Arc<Shared>,
    time: springhead_proto::TimestampMs,
) -> Result<Lsn, LogError> {
    let (start, earliest, next_lsn) = {
        let published = shared.published.lock();
        let start = (0..published.segments.len()).rev().find_map(|place| {
            let index = published.segments[place].index.read();
            index
                .block_before_time(time)
                .map(|block| index.blocks()[block].first_lsn)
        });
        (start, published.earliest(), published.end.next_lsn)
    };
    let Some(start) = start else {
        return Ok(earliest);
    };
    if start >= next_lsn {
        return Ok(next_lsn);
    }
    // The block begins before `time`: the first frame at or after it is in here or right behind.
    let mut reader = SegmentReader::new(
        Arc::clone(shared),
        start.max(earliest),
        ReadFilter::default(),
    );
    let mut slices = Vec::new();
    loop {
        let scanned = reader.read(&mut slices, 1)?;
        if let Some(slice) = slices.iter().find(|slice| slice.timestamp_ms >= time) {
            return Ok(slice.commit_lsn);
        }
        if scanned.next() >= next_lsn {
            return Ok(scanned.next());
        }
        slices.clear();
    }
}
