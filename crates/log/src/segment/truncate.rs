//! Cutting a closed log back to a fork, and beginning a log directory as a copy of another.
//!
//! Nothing that is cut off is lost: it is first copied, whole segments of it, into a directory
//! beside the segments that is a log in itself (`springhead log dump` reads it).
//!
//! ```text
//! 1. diverged-<after>-<last>-<epoch>/   copies of every segment that is cut or dropped; durable
//! 2. truncated                          the cut segment as it is to be; its name is the decision
//! 3. later segments removed, from the last; `epochs` cut; `truncated` renamed over the segment
//! ```
//!
//! A crash before 2 leaves the log as it was; after it, [`finish`] completes the cut at the next
//! start.

use std::path::{Path, PathBuf};

use springhead_proto::Lsn;

use super::directory::{Found, open_segment_file, remove_if_there};
use super::files::{EPOCHS_NAME, Epochs, read_file};
use super::format::{FrameFields, SegmentHeader, finish_frame, start_frame};
use super::frames::{Fault, Frame, FrameCursor, SegmentFile, read_header};
use super::keeper::{lay_out, write_durably};
use super::scan::take_commit;
use super::shared::{corrupt, index_name, io_error, parse_segment_name, segment_name};
use super::writer::place_segment;
use crate::contract::{EpochRecord, LogError};
use crate::disk::{Disk, DiskFile, OpenFor, write_all_at};
use crate::failpoint;

/// The cut segment as it is to be.
pub const TRUNCATED_NAME: &str = "truncated";
const COPY_BYTES: u64 = 1 << 20;

/// What [`truncate`] cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truncated {
    /// The last LSN that the log still has.
    pub after: Lsn,
    /// The last whole LSN that it had.
    pub last: Lsn,
    /// The directory that keeps what was cut off: a log in itself, from the beginning of the segment
    /// that was cut.
    pub kept_in: PathBuf,
}

/// Cuts off everything after LSN `after` of the log in `dir`, which nobody may have open, and keeps
/// what was cut. `None`: there was nothing after it. `after` must be the last LSN of a commit that
/// the log has, or the one before its earliest. Histories that began at or after it are forgotten.
///
/// # Errors
/// [`LogError::WithinCommit`], [`LogError::Future`], [`LogError::Trimmed`] if the log begins after
/// it; [`LogError::Corrupt`] for damage before it, or what the disk says. Then the log is as it was,
/// or the next start completes the cut.
pub fn truncate(disk: &dyn Disk, dir: &Path, after: Lsn) -> Result<Option<Truncated>, LogError> {
    finish(disk, dir)?;
    let epochs = Epochs::load(disk, dir)?;
    let found = Found::list(disk, dir)?;
    let names: Vec<&String> = found.segments.values().collect();
    let (place, cut) = find_cut(disk, dir, &names, after)?;
    let last = last_lsn(disk, dir, &names)?;
    // A torn write goes too, but nothing of the log does.
    let is_end = last <= after && place + 1 == names.len();
    if is_end {
        return Ok(None);
    }
    let record = epochs.records.last().expect("the file holds at least one");
    let name = format!("diverged-{:020}-{:020}-{}", after.0, last.0, record.epoch);
    let kept_in = dir.join(name);
    keep(disk, dir, &names[place..], &kept_in)?;
    failpoint::hit("log.truncate_kept");
    write_cut(disk, dir, names[place], &cut)?;
    failpoint::hit("log.truncate_decided");
    finish(disk, dir)?;
    Ok(Some(Truncated {
        after,
        last,
        kept_in,
    }))
}

/// Where a segment is to end.
struct Cut {
    /// Behind its last frame that stays.
    offset: u64,
    /// What stays of the frame behind that, made anew.
    frame: Vec<u8>,
}

/// The segment that is to be the last, and where it is to end.
fn find_cut(
    disk: &dyn Disk,
    dir: &Path,
    names: &[&String],
    after: Lsn,
) -> Result<(usize, Cut), LogError> {
    let first_lsn = |name: &str| parse_segment_name(name).expect("found by its name").0;
    let earliest = names.first().map(|name| first_lsn(name));
    let earliest = earliest.ok_or_else(|| corrupt(dir, 0, "the segments are missing"))?;
    if after.next() < earliest {
        return Err(LogError::Trimmed {
            asked: after,
            earliest,
        });
    }
    // The last one that begins before the cut: a large commit may go through several segments with
    // one first LSN, and its first frame lies in the first of them, or before.
    let place = names
        .iter()
        .position(|name| first_lsn(name) > after)
        .map_or(names.len() - 1, |next| next.saturating_sub(1));
    let path = dir.join(names[place]);
    let mut cursor = open_cursor(disk, &path)?;
    let (cut, seed) = (walk_to(&mut cursor.0, &path, after)?, cursor.1);
    let frame = match cut.1 {
        None => Vec::new(),
        Some(frame) => shorten(&frame, seed, after).map_err(|what| match what {
            Shorten::Damaged(what) => corrupt(&path, frame.offset, what),
            Shorten::Within(first, last) => LogError::WithinCommit {
                asked: after,
                first,
                last,
            },
        })?,
    };
    Ok((
        place,
        Cut {
            offset: cut.0,
            frame,
        },
    ))
}

fn open_cursor(disk: &dyn Disk, path: &Path) -> Result<(FrameCursor, u32, u64), LogError> {
    let opened = open_segment_file(disk, path)?;
    let (header, seed) = read_header(&opened.file, path)?;
    let length = opened.length;
    Ok((FrameCursor::new(opened.file, &header, seed), seed, length))
}

/// The end of the last frame whose commits all stay, and the frame behind it if some of its commits
/// stay.
fn walk_to(
    cursor: &mut FrameCursor,
    path: &Path,
    after: Lsn,
) -> Result<(u64, Option<Frame>), LogError> {
    // The end of the last frame at which a commit ends.
    let mut whole = cursor.offset();
    loop {
        let offset = cursor.offset();
        let frame = match cursor.next(u64::MAX) {
            Ok(Some(frame)) => frame,
            Err(fault @ Fault::Io(_)) => return Err(fault.at(path, offset)),
            // The end of the segment's frames, or damage; only if LSNs are missing is it either.
            Ok(None) | Err(Fault::Invalid(_)) => {
                let durable = cursor.next_lsn().previous();
                if durable < after {
                    return Err(LogError::Future {
                        asked: after,
                        durable,
                    });
                }
                return Ok((whole, None));
            }
        };
        if frame.header.is_part() && !frame.header.is_end() {
            if frame.header.first_lsn > after {
                return Ok((whole, None));
            }
            continue;
        }
        let last = frame.header.next_lsn().previous();
        if last > after {
            let some_stay = frame.header.first_lsn <= after;
            return Ok((whole, some_stay.then_some(frame)));
        }
        whole = cursor.offset();
    }
}

enum Shorten {
    Damaged(&'static str),
    Within(Lsn, Lsn),
}

/// The frame with only the commits up to `after`. Every log that shortens it there makes the same.
fn shorten(frame: &Frame, seed: u32, after: Lsn) -> Result<Vec<u8>, Shorten> {
    let header = &frame.header;
    if header.is_part() {
        return Err(Shorten::Within(
            header.first_lsn,
            header.next_lsn().previous(),
        ));
    }
    let mut collections = Vec::new();
    let mut payload = frame.payload.clone();
    let (mut lsn, mut commits) = (header.first_lsn, 0);
    while lsn <= after {
        let (head, _) = take_commit(&mut payload, &mut collections).map_err(Shorten::Damaged)?;
        let next = lsn.plus(head.count);
        if next > after.next() {
            return Err(Shorten::Within(lsn, next.previous()));
        }
        lsn = next;
        commits += 1;
    }
    let mut out = Vec::new();
    start_frame(&mut out);
    out.extend_from_slice(&frame.payload[..frame.payload.len() - payload.len()]);
    let fields = FrameFields {
        previous_crc: header.previous_crc,
        segment_number: header.segment_number,
        epoch: header.epoch,
        first_lsn: header.first_lsn,
        count: lsn.0 - header.first_lsn.0,
        timestamp_ms: header.timestamp_ms,
        durable_lsn: header.durable_lsn,
        flags: 0,
        commits,
    };
    finish_frame(&mut out, seed, &fields);
    Ok(out)
}

/// The last whole LSN of the log.
fn last_lsn(disk: &dyn Disk, dir: &Path, names: &[&String]) -> Result<Lsn, LogError> {
    let path = dir.join(names.last().expect("there is at least one"));
    let (mut cursor, _, length) = open_cursor(disk, &path)?;
    loop {
        let offset = cursor.offset();
        match cursor.next(length) {
            Ok(Some(_)) => {}
            Err(fault @ Fault::Io(_)) => return Err(fault.at(&path, offset)),
            Ok(None) | Err(Fault::Invalid(_)) => return Ok(cursor.next_lsn().previous()),
        }
    }
}

/// Copies segments, as they are, into a directory of their own.
fn keep(disk: &dyn Disk, dir: &Path, names: &[&String], kept_in: &Path) -> Result<(), LogError> {
    disk.create_dir(kept_in)
        .map_err(|error| io_error("create", kept_in, error))?;
    for name in names {
        let to = kept_in.join(name);
        let copied = disk
            .open(&dir.join(name), OpenFor::Reading)
            .and_then(|from| {
                let out = disk.open(&to, OpenFor::Creating)?;
                let length = from.length()?;
                copy(from.as_ref(), out.as_ref(), length)?;
                out.sync_all()
            });
        copied.map_err(|error| io_error("copy to", &to, error))?;
    }
    // Last: with it the directory is a log.
    let path = kept_in.join(EPOCHS_NAME);
    read_file(disk, &dir.join(EPOCHS_NAME))
        .and_then(|epochs| write_durably(disk, &path, &epochs))
        .and_then(|()| disk.sync_dir(kept_in))
        .map_err(|error| io_error("write", &path, error))
}

fn copy(from: &dyn DiskFile, to: &dyn DiskFile, length: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; usize::try_from(COPY_BYTES).expect("a megabyte")];
    let mut at = 0;
    while at < length {
        let filled = crate::disk::read_up_to(from, &mut buffer, at)?;
        if filled == 0 {
            break;
        }
        write_all_at(to, &buffer[..filled], at)?;
        at += filled as u64;
    }
    Ok(())
}

/// Writes the cut segment under its own name for the time being, and decides with it.
fn write_cut(disk: &dyn Disk, dir: &Path, name: &str, cut: &Cut) -> Result<(), LogError> {
    let opened = open_segment_file(disk, &dir.join(name))?;
    let temporary = dir.join(format!("{TRUNCATED_NAME}.tmp"));
    let length = opened.length.max(cut.offset + cut.frame.len() as u64);
    let written = lay_out(disk, &temporary, length)
        .and_then(|()| disk.open(&temporary, OpenFor::Writing))
        .and_then(|out| {
            copy_front(&opened.file, out.as_ref(), cut.offset)?;
            write_all_at(out.as_ref(), &cut.frame, cut.offset)?;
            out.sync_all()
        })
        .and_then(|()| disk.rename(&temporary, &dir.join(TRUNCATED_NAME)))
        .and_then(|()| disk.sync_dir(dir));
    written.map_err(|error| io_error("write", &temporary, error))
}

fn copy_front(from: &SegmentFile, to: &dyn DiskFile, length: u64) -> std::io::Result<()> {
    let mut at = 0;
    while at < length {
        let wanted = (length - at).min(COPY_BYTES);
        let bytes = from.read(at, usize::try_from(wanted).map_err(std::io::Error::other)?)?;
        if bytes.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        write_all_at(to, &bytes, at)?;
        at += bytes.len() as u64;
    }
    Ok(())
}

/// Completes a cut that was decided and interrupted; does nothing where there is none. Whether there
/// was one.
pub fn finish(disk: &dyn Disk, dir: &Path) -> Result<bool, LogError> {
    let decided = dir.join(TRUNCATED_NAME);
    let listed = disk
        .list(dir)
        .map_err(|error| io_error("list", dir, error))?;
    if !listed.iter().any(|name| name == TRUNCATED_NAME) {
        return Ok(false);
    }
    let file = open_segment_file(disk, &decided)?.file;
    let (header, _) = read_header(&file, &decided)?;
    drop(file);
    drop_later(disk, dir, &header)?;
    failpoint::hit("log.truncate_dropped");
    let mut epochs = Epochs::load(disk, dir)?;
    let own = epochs
        .records
        .iter()
        .position(|record| record.history_id == header.history_id)
        .ok_or_else(|| corrupt(&decided, 0, "the segment is of an unknown history"))?;
    if own + 1 < epochs.records.len() {
        epochs.records.truncate(own + 1);
        epochs.store(disk, dir)?;
    }
    let name = segment_name(header.first_lsn, header.segment_number);
    remove_if_there(disk, &dir.join(index_name(&name)))?;
    disk.rename(&decided, &dir.join(&name))
        .and_then(|()| disk.sync_dir(dir))
        .map_err(|error| io_error("rename", &decided, error))?;
    remove_if_there(disk, &dir.join(format!("{name}z")))?;
    disk.sync_dir(dir)
        .map_err(|error| io_error("sync", dir, error))?;
    Ok(true)
}

/// Removes the segments behind the one that is to be the last, from the last backwards.
fn drop_later(disk: &dyn Disk, dir: &Path, header: &SegmentHeader) -> Result<(), LogError> {
    let found = Found::list(disk, dir)?;
    for (_, name) in found.segments.range(header.segment_number + 1..).rev() {
        remove_if_there(disk, &dir.join(index_name(name)))?;
        for name in [name.clone(), format!("{name}z")] {
            remove_if_there(disk, &dir.join(name))?;
        }
        disk.sync_dir(dir)
            .map_err(|error| io_error("sync", dir, error))?;
    }
    Ok(())
}

/// Begins in `dir` the log of a copy: a cluster's identity, its histories so far, and one segment
/// with the given header and no frame, in a file of `segment_bytes`. Opened as a follower it takes
/// frames from there on. What was in the directory of a log before is removed.
///
/// `epochs` may go on past the segment's history; what is later is left out, since it comes with its
/// own segments.
///
/// # Errors
/// [`LogError::Corrupt`] if the header is damaged or of no history given, or what the disk says. An
/// interrupted copy is refused at open.
pub fn begin_copy(
    disk: &dyn Disk,
    dir: &Path,
    segment_bytes: u64,
    epochs: &[EpochRecord],
    header: &[u8],
) -> Result<(), LogError> {
    disk.create_dir(dir)
        .map_err(|error| io_error("create", dir, error))?;
    clear(disk, dir)?;
    let damaged = |what| corrupt(&dir.join("the first segment"), 0, what);
    let Ok((header, _)) = SegmentHeader::decode(header) else {
        return Err(damaged(
            "the segment's header is damaged, or of a newer version",
        ));
    };
    let own = epochs
        .iter()
        .position(|record| record.history_id == header.history_id && record.epoch == header.epoch)
        .ok_or_else(|| damaged("the segment is of an unknown history"))?;
    let spare = dir.join("spare-0000000000");
    lay_out(disk, &spare, segment_bytes).map_err(|error| io_error("lay out", &spare, error))?;
    place_segment(disk, dir, "spare-0000000000", header)
        .map_err(|error| io_error("begin", &spare, error))?;
    // Last: a directory with segments and without this file is refused.
    Epochs {
        cluster_id: header.cluster_id,
        records: epochs[..=own].to_vec(),
    }
    .store(disk, dir)
}

/// Removes a log's files: `epochs` first, so that what an interruption leaves is no log.
fn clear(disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
    remove_if_there(disk, &dir.join(EPOCHS_NAME))?;
    let mut names = disk
        .list(dir)
        .map_err(|error| io_error("list", dir, error))?;
    names.sort_unstable();
    for name in names.iter().rev() {
        let ours = parse_segment_name(name).is_some()
            || super::keeper::spare_number(name).is_some()
            || name == TRUNCATED_NAME
            || name == "running"
            || [".idx", ".tmp"].iter().any(|end| name.ends_with(end));
        if ours {
            remove_if_there(disk, &dir.join(name))?;
        }
    }
    disk.sync_dir(dir)
        .map_err(|error| io_error("sync", dir, error))
}
