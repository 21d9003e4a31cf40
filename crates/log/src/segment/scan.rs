//! Reads a segment from front to back as far as it is sound, and learns what an index of it would
//! know. For recovery, for a lost index file, and for `verify`.

use bytes::Bytes;
use springhead_proto::{CollectionId, TimestampMs};

use super::format::read_commit_head;
use super::frames::{Fault, Frame, FrameCursor};
use super::index::{End, Run, SegmentIndex};

/// What a scan found.
pub struct Scan {
    /// Behind the last sound frame.
    pub end: End,
    pub run: Run,
    pub last_batch: LastBatch,
    pub index: SegmentIndex,
    pub frames: u64,
    pub commits: u64,
    pub changes: u64,
    /// Why there was no further frame; `None` if `limit` was reached.
    pub fault: Option<Fault>,
}

/// Where the last batch of a log begins, if another may not have made it durable yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastBatch {
    /// Something was begun behind it, which is done only when it is durable; or there is none.
    Durable,
    /// In this segment, here.
    Begins(End),
    /// In a segment before.
    BeganEarlier,
}

/// What the segments before say about a segment's beginning.
#[derive(Debug, Clone, Copy)]
pub struct Before {
    /// Whether they end within a large commit; `None` if there are none left to tell.
    pub in_run: Option<bool>,
    /// No frame may be older.
    pub timestamp_ms: TimestampMs,
}

/// Scans from where `cursor` stands, the segment's first frame, up to `limit`; calls `progress`
/// with the offset reached.
pub fn scan(
    cursor: &mut FrameCursor,
    limit: u64,
    before: Before,
    mut progress: impl FnMut(u64),
) -> Scan {
    let end = End {
        offset: cursor.offset(),
        crc: cursor.previous_crc(),
        next_lsn: cursor.next_lsn(),
        timestamp_ms: before.timestamp_ms,
    };
    let mut scan = Scan {
        end,
        run: if before.in_run == Some(true) {
            Run::Through
        } else {
            Run::None
        },
        last_batch: LastBatch::Durable,
        index: SegmentIndex::default(),
        frames: 0,
        commits: 0,
        changes: 0,
        fault: None,
    };
    let mut may_be_inside = before.in_run.is_none();
    let mut collections = Vec::new();
    loop {
        let frame = match cursor.next(limit) {
            Ok(Some(frame)) => frame,
            Ok(None) => return scan,
            Err(fault) => {
                scan.fault = Some(fault);
                return scan;
            }
        };
        if let Err(what) = scan.take(&frame, may_be_inside, &mut collections) {
            scan.fault = Some(Fault::Invalid(what));
            // The cursor has already gone past it.
            cursor.jump(scan.end.offset, scan.end.crc, scan.end.next_lsn);
            return scan;
        }
        may_be_inside = false;
        progress(scan.end.offset);
    }
}

impl Scan {
    fn take(
        &mut self,
        frame: &Frame,
        may_be_inside: bool,
        collections: &mut Vec<CollectionId>,
    ) -> Result<(), &'static str> {
        let walk = Walk {
            end: self.end,
            run: self.run,
        };
        let walk = walk.take(frame, may_be_inside, &mut self.index, collections)?;
        self.last_batch = match self.run {
            _ if walk.run != Run::None => LastBatch::Durable,
            Run::None if frame.header.is_part() && !frame.header.is_first() => {
                LastBatch::BeganEarlier
            }
            Run::None => LastBatch::Begins(self.end),
            Run::Begun(before) => LastBatch::Begins(before),
            Run::Through => LastBatch::BeganEarlier,
        };
        (self.end, self.run) = (walk.end, walk.run);
        self.frames += 1;
        self.commits += u64::from(frame.header.commits);
        self.changes += frame.header.count;
        Ok(())
    }
}

/// A place between two frames, and what the frames before it say of the one behind it. Recovery and
/// followers step over frames with this, each whole and in its place already.
#[derive(Debug, Clone, Copy)]
pub struct Walk {
    pub end: End,
    pub run: Run,
}

impl Walk {
    /// The place behind `frame`, which is also entered into `index`. `may_be_inside`: nothing is
    /// known of what was before, which may have been the beginning of a large commit. Refused, the
    /// index may have part of the frame.
    pub fn take(
        self,
        frame: &Frame,
        may_be_inside: bool,
        index: &mut SegmentIndex,
        collections: &mut Vec<CollectionId>,
    ) -> Result<Walk, &'static str> {
        let header = &frame.header;
        if header.timestamp_ms < self.end.timestamp_ms {
            return Err("the frame is older than the one before it");
        }
        let in_run = self.run != Run::None || (may_be_inside && !header.is_first());
        match (header.is_part(), header.is_first(), in_run) {
            (false, _, true) if !may_be_inside => return Err("a large commit has no end"),
            (true, true, true) => return Err("a large commit begins within another"),
            (true, false, false) => return Err("a large commit has no beginning"),
            _ => {}
        }
        index.add_frame(frame.offset, header, self.end.crc);
        let mut run = self.run;
        if !header.is_part() {
            take_commits(frame, index, collections)?;
        } else if header.is_first() {
            let head = read_commit_head(&mut &frame.payload[..], collections)
                .ok_or("a large commit's head is damaged")?;
            index.add_commit(head.tenant, collections);
            run = Run::Begun(self.end);
        } else if run == Run::None {
            run = Run::Through;
        }
        if header.is_end() {
            run = Run::None;
        }
        let end = End {
            offset: frame.offset + header.frame_bytes(),
            crc: header.crc,
            next_lsn: header.next_lsn(),
            timestamp_ms: header.timestamp_ms,
        };
        Ok(Walk { end, run })
    }
}

fn take_commits(
    frame: &Frame,
    index: &mut SegmentIndex,
    collections: &mut Vec<CollectionId>,
) -> Result<(), &'static str> {
    let mut count = 0u64;
    let mut commits = 0u32;
    let mut rest = &frame.payload[..];
    while !rest.is_empty() {
        let (head, after) = split_commit(rest, collections)?;
        rest = after;
        index.add_commit(head.tenant, collections);
        count = count.saturating_add(head.count);
        commits = commits.saturating_add(1);
    }
    if count != frame.header.count || commits != frame.header.commits {
        return Err("the frame does not hold as many changes as it says");
    }
    Ok(())
}

/// A commit's head, and what follows the commit in a plain frame's payload.
fn split_commit<'a>(
    payload: &'a [u8],
    collections: &mut Vec<CollectionId>,
) -> Result<(super::format::CommitHead, &'a [u8]), &'static str> {
    let mut rest = payload;
    let head = read_commit_head(&mut rest, collections).ok_or("a commit's head is damaged")?;
    let after = usize::try_from(head.changes_length)
        .ok()
        .and_then(|length| rest.get(length..))
        .ok_or("a commit passes its frame's end")?;
    Ok((head, after))
}

/// Takes the commit at the front of a plain frame's payload; also gives its changes.
pub fn take_commit(
    payload: &mut Bytes,
    collections: &mut Vec<CollectionId>,
) -> Result<(super::format::CommitHead, Bytes), &'static str> {
    let (head, after) = split_commit(payload, collections)?;
    let end = payload.len() - after.len();
    let length = usize::try_from(head.changes_length).map_err(|_| "a commit is too long")?;
    let changes = payload.slice(end - length..end);
    *payload = payload.slice(end..);
    Ok((head, changes))
}
