//! What is behind the last frame of a log that was cut off: it goes, so that nothing takes it for a
//! frame later.

use super::FoundSegment;
use crate::contract::LogError;
use crate::disk::{Disk, DiskFile, OpenFor, read_up_to, write_all_at};
use crate::segment::format::{FRAME_HEADER_BYTES, FrameHeader};
use crate::segment::shared::io_error;

/// Overwrites the head of what is behind the last frame with zeros, so that later looks at the file
/// find a clean end. Says whether it was a frame of this segment: in a recycled file it may be one
/// of an earlier segment.
pub(super) fn erase_head(file: &dyn DiskFile, segment: &FoundSegment) -> Result<bool, LogError> {
    let (path, offset) = (&segment.path, segment.end.offset);
    let room = usize::try_from(segment.length.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut head = vec![0; room.min(FRAME_HEADER_BYTES)];
    read_up_to(file, &mut head, offset).map_err(|error| io_error("read", path, error))?;
    if head.iter().all(|&byte| byte == 0) {
        return Ok(false);
    }
    let own = FrameHeader::decode(&head)
        .is_ok_and(|frame| frame.segment_number == segment.header.segment_number);
    head.fill(0);
    write_all_at(file, &head, offset)
        .and_then(|()| file.sync_data())
        .map_err(|error| io_error("write", path, error))?;
    Ok(own)
}

/// Overwrites all that is behind the last frame with zeros.
pub(super) fn erase_rest(disk: &dyn Disk, segment: &FoundSegment) -> Result<(), LogError> {
    let zeros = vec![0; 1 << 16];
    let mut at = segment.end.offset;
    let erased = disk.open(&segment.path, OpenFor::Writing).and_then(|file| {
        while at < segment.length {
            let left = usize::try_from(segment.length - at).unwrap_or(usize::MAX);
            let step = left.min(zeros.len());
            write_all_at(file.as_ref(), &zeros[..step], at)?;
            at += step as u64;
        }
        file.sync_data()
    });
    erased.map_err(|error| io_error("write", &segment.path, error))
}
