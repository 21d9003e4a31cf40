//! What may be forgotten, and forgetting it: whole segments from the front, never the active one.

use std::sync::Arc;

use parking_lot::Mutex;
use springhead_proto::{Lsn, TenantId};

use super::frames::FrameCursor;
use super::keeper::{Keeper, remove_if_there};
use super::scan::take_commit;
use super::shared::{Published, Segment, Shared, index_name, io_error};
use crate::contract::LogError;
use crate::failpoint;
use crate::pins::Pins;

/// The last LSN that retention would trim now.
pub fn trim_candidate(shared: &Shared, pins: &Mutex<Pins>) -> Option<Lsn> {
    let published = shared.published.lock();
    let count = expendable(shared, &published);
    if count == 0 {
        return None;
    }
    let wanted = last_lsn(&published, count - 1);
    let held = pins
        .lock()
        .hold_back(wanted, |from, to| bytes_between(&published, from, to));
    // Only whole segments go.
    let count = (0..count)
        .take_while(|&place| last_lsn(&published, place) <= held)
        .count();
    (count > 0).then(|| last_lsn(&published, count - 1))
}

/// How many segments from the front are beyond what size and age keep.
fn expendable(shared: &Shared, published: &Published) -> usize {
    let sealed = published.segments.len() - 1;
    let mut kept: u64 = kept_bytes(published);
    let mut by_bytes = 0;
    for segment in published.segments.iter().take(sealed) {
        let bytes = segment.end_offset(published);
        if kept.saturating_sub(bytes) < shared.config.retain_bytes {
            break;
        }
        kept -= bytes;
        by_bytes += 1;
    }
    // A segment is as old as the last frame in it, which is older than the next one's header. Age
    // counts the time that the log was open, so that no clock can jump past it.
    let running_ms = shared.running_ms();
    let by_time = (0..sealed)
        .take_while(|&place| {
            let sealed_at_ms = published.segments[place + 1].header.running_ms;
            running_ms.saturating_sub(sealed_at_ms) > shared.config.retain_ms
        })
        .count();
    by_bytes.max(by_time)
}

/// The last LSN of the commits that begin in the segment at `place`; they may end in later ones.
fn last_lsn(published: &Published, place: usize) -> Lsn {
    published.begins_lsn(place + 1).previous()
}

/// Forgets the segments whose commits all end at or before `up_to`.
pub fn trim(shared: &Shared, keeper: &Keeper, up_to: Lsn) -> Result<(), LogError> {
    let trimmed = {
        let mut published = shared.published.lock();
        let sealed = published.segments.len() - 1;
        let count = (0..sealed)
            .take_while(|&place| last_lsn(&published, place) <= up_to)
            .count();
        published.segments.drain(..count).collect::<Vec<_>>()
    };
    failpoint::hit("log.before_trim");
    // Oldest first, each durable before the next, so that a crash leaves no gap.
    for segment in trimmed {
        remove(shared, keeper, segment)?;
        failpoint::hit("log.mid_trim");
    }
    failpoint::hit("log.after_trim");
    Ok(())
}

fn remove(shared: &Shared, keeper: &Keeper, segment: Arc<Segment>) -> Result<(), LogError> {
    let path = shared.path(&segment.file_name);
    // A reader that still holds the segment keeps its bytes: the file is then not used again.
    let gone = if Arc::strong_count(&segment) == 1 {
        keeper.recycle(&segment.file_name)
    } else {
        shared
            .disk
            .remove(&path)
            .and_then(|()| shared.disk.sync_dir(&shared.dir))
    };
    gone.map_err(|error| io_error("trim", &path, error))?;
    // The plain file of a segment that is just being compressed goes here too, in its turn: left
    // behind alone, it would be a gap at the next start.
    let stem = segment
        .file_name
        .rsplit_once('.')
        .map_or(segment.file_name.as_str(), |(s, _)| s);
    for name in [format!("{stem}.seg"), index_name(&segment.file_name)] {
        let path = shared.path(&name);
        remove_if_there(shared.disk.as_ref(), &path)
            .map_err(|error| io_error("remove", &path, error))?;
    }
    Ok(())
}

/// Bytes of log on disk.
pub fn kept_bytes(published: &Published) -> u64 {
    published
        .segments
        .iter()
        .map(|segment| segment.end_offset(published))
        .sum()
}

/// Bytes of log behind `from` up to `to`, to the nearest block.
pub fn bytes_between(published: &Published, from: Lsn, to: Lsn) -> u64 {
    let position = |lsn: Lsn| {
        if lsn >= published.end.next_lsn {
            return kept_bytes(published);
        }
        let place = published.place_of_lsn(lsn);
        let before: u64 = published
            .segments
            .iter()
            .take(place)
            .map(|found| found.end_offset(published))
            .sum();
        let index = published.segments[place].index.read();
        let block = index.block_of_lsn(lsn);
        before + block.map_or(0, |block| index.blocks()[block].offset)
    };
    position(to.next()).saturating_sub(position(from.next()))
}

/// The tenants with changes at or before `up_to`, ascending. From the indexes; only blocks that
/// `up_to` cuts through, and those with too many labels to be described, are read.
pub fn tenants_before(shared: &Shared, up_to: Lsn) -> Result<Vec<TenantId>, LogError> {
    let mut tenants = Vec::new();
    let (segments, end) = {
        let published = shared.published.lock();
        (published.segments.clone(), published.end)
    };
    let up_to = up_to.min(end.next_lsn.previous());
    for (place, segment) in segments.iter().enumerate() {
        let index = segment.index.read().clone();
        let limit = match segment.sealed.get() {
            Some(sealed) if place + 1 < segments.len() => sealed.end.offset,
            _ => end.offset,
        };
        for (number, block) in index.blocks().iter().enumerate() {
            if block.first_lsn > up_to || block.offset >= limit {
                break;
            }
            let next = index.blocks().get(number + 1);
            let whole = next.is_some_and(|next| next.first_lsn <= up_to.next());
            match index.block_tenants(number).filter(|_| whole) {
                Some(found) => tenants.extend(found),
                None => {
                    let to = next.map_or(limit, |next| next.offset.min(limit));
                    let mut cursor = FrameCursor::open(shared.disk.as_ref(), &shared.dir, segment)?;
                    cursor.jump(block.offset, block.previous_crc, block.first_lsn);
                    read_tenants(shared, segment, &mut cursor, to, up_to, &mut tenants)?;
                }
            }
        }
        tenants.sort_unstable();
        tenants.dedup();
    }
    Ok(tenants)
}

fn read_tenants(
    shared: &Shared,
    segment: &Segment,
    cursor: &mut FrameCursor,
    to: u64,
    up_to: Lsn,
    tenants: &mut Vec<TenantId>,
) -> Result<(), LogError> {
    let path = shared.path(&segment.file_name);
    let mut collections = Vec::new();
    loop {
        let offset = cursor.offset();
        let Some(frame) = cursor.next(to).map_err(|fault| fault.at(&path, offset))? else {
            return Ok(());
        };
        let damaged = |what: &'static str| super::shared::corrupt(&path, offset, what);
        let mut lsn = frame.header.first_lsn;
        if lsn > up_to {
            return Ok(());
        }
        if frame.header.is_part() {
            if frame.header.is_first() {
                let head =
                    super::format::read_commit_head(&mut &frame.payload[..], &mut collections)
                        .ok_or_else(|| damaged("a large commit's head is damaged"))?;
                tenants.push(head.tenant);
            }
            continue;
        }
        let mut payload = frame.payload;
        while !payload.is_empty() && lsn <= up_to {
            let (head, _) = take_commit(&mut payload, &mut collections).map_err(damaged)?;
            tenants.push(head.tenant);
            lsn = lsn.plus(head.count);
        }
    }
}
