//! The decoders of the log's files, for the fuzz target `segment` (docs/testing.md). Built for it, and for
//! the tests that run it over the files of `tests/fixtures`.
//!
//! What comes in stands for what lies on a disk. Checksums are made right first, or nothing behind
//! them would ever be reached.

use std::io;

use bytes::Bytes;
use springhead_proto::{Epoch, Lsn, TenantId, TimestampMs};

use super::compress::ChunkTable;
use super::format::{
    FRAME_HEADER_BYTES, FrameHeader, HEADER_BYTES, SegmentHeader, read_commit_head,
};
use super::frames::{FrameCursor, SegmentFile};
use super::index::SegmentIndex;
use super::large::LargeCommit;
use super::scan::{Before, scan, take_commit};
use crate::contract::ReadFilter;
use crate::disk::DiskFile;

/// A file that cannot be changed.
struct InMemory(Bytes);

impl DiskFile for InMemory {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let from = usize::try_from(offset).map_or(self.0.len(), |from| from.min(self.0.len()));
        let count = buffer.len().min(self.0.len() - from);
        buffer[..count].copy_from_slice(&self.0[from..from + count]);
        Ok(count)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_all(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
}

/// Any bytes are an index, or none; one that is read encodes to what it was read from, and can be
/// asked anything.
pub fn index(bytes: &[u8]) {
    let mut file = bytes.to_vec();
    file.extend_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
    let number = bytes.get(12..16).map_or(0, |bytes| {
        u32::from_le_bytes(bytes.try_into().expect("four"))
    });
    let header_crc = bytes.get(16..20).map_or(0, |bytes| {
        u32::from_le_bytes(bytes.try_into().expect("four"))
    });
    let Some((index, end, run)) = SegmentIndex::decode(&file, number, header_crc) else {
        return;
    };
    let again = index.encode(number, header_crc, &end, &run);
    assert_eq!(
        SegmentIndex::decode(&again, number, header_crc),
        Some((index.clone(), end, run))
    );
    for at in [0, 1, 5_000, u64::MAX] {
        let _ = index.block_of_lsn(Lsn(at));
        let _ = index.block_before_time(TimestampMs(at));
        let _ = index.block_at_offset(at);
    }
    let filter = ReadFilter {
        tenant: Some(TenantId(1)),
        ..ReadFilter::default()
    };
    for block in 0..index.blocks().len() {
        let _ = index.may_pass(block, &filter);
        let _ = index.block_tenants(block);
    }
}

/// Any bytes are a compressed segment, or damaged. Its reads end and stay within the segment's size.
pub fn chunks(bytes: &[u8]) {
    const HEAD_BYTES: usize = 28;
    let mut file = bytes.to_vec();
    let count = file.get(24..28).map_or(0, |bytes| {
        u32::from_le_bytes(bytes.try_into().expect("four")) as usize
    });
    let table = HEAD_BYTES.saturating_add(count.saturating_mul(16));
    if file.len() >= table.saturating_add(4) {
        // The table's checksum, and that of each chunk it places.
        for entry in (HEAD_BYTES..table).step_by(16) {
            let offset = u64::from_le_bytes(file[entry..entry + 8].try_into().expect("eight"));
            let length =
                u32::from_le_bytes(file[entry + 8..entry + 12].try_into().expect("four")) as usize;
            let chunk = usize::try_from(offset)
                .ok()
                .and_then(|from| file.get(from..from.checked_add(length)?));
            if let Some(crc) = chunk.map(crc32c::crc32c) {
                file[entry + 12..entry + 16].copy_from_slice(&crc.to_le_bytes());
            }
        }
        let crc = crc32c::crc32c(&file[..table]);
        file[table..table + 4].copy_from_slice(&crc.to_le_bytes());
    }
    let file = InMemory(file.into());
    let Ok(table) = ChunkTable::load(&file) else {
        return;
    };
    for offset in [0, table.raw_bytes() / 2, table.raw_bytes(), u64::MAX / 2] {
        let mut buffer = [0; 512];
        if let Ok(filled) = table.read(&file, &mut buffer, offset) {
            assert!(offset.saturating_add(filled as u64) <= table.raw_bytes().max(offset));
        }
    }
}

/// Any bytes are frames behind a sound header, or not. Whatever is scanned can be taken apart.
pub fn frames(bytes: &[u8]) {
    let _ = FrameHeader::decode(bytes);
    let _ = read_commit_head(&mut &bytes[..], &mut Vec::new());
    let mut page = bytes.to_vec();
    page.resize(header_bytes(), 0);
    let _ = SegmentHeader::decode(&page);

    let header = SegmentHeader {
        segment_number: 1,
        cluster_id: 7,
        history_id: 8,
        first_lsn: Lsn(1),
        epoch: Epoch(9),
        previous_crc: 0,
        running_ms: 0,
        created_ms: 1,
    };
    let (mut file, seed) = header.encode();
    chain(bytes, seed, &mut file);
    let limit = file.len() as u64;
    let file = Bytes::from(file);
    let cursor = || {
        let file = SegmentFile::new(Box::new(InMemory(file.clone())), None);
        FrameCursor::new(file, &header, seed)
    };
    let before = Before {
        in_run: Some(false),
        timestamp_ms: TimestampMs(0),
    };
    let mut scanned = cursor();
    let found = scan(&mut scanned, limit, before, |_| ());
    assert!(found.end.offset <= limit && scanned.offset() == found.end.offset);
    let _ = scanned.begins_like_a_frame(limit);
    let _ = scanned.valid_frame_after(limit);
    let _ = scan(
        &mut cursor(),
        limit,
        Before {
            in_run: None,
            ..before
        },
        |_| (),
    );
    walk(&mut cursor(), found.end.offset);
}

/// Reads frames as a reader does, up to where they are sound.
fn walk(cursor: &mut FrameCursor, limit: u64) {
    let mut collections = Vec::new();
    let mut large: Option<LargeCommit> = None;
    while let Ok(Some(frame)) = cursor.next(limit) {
        if !frame.header.is_part() {
            let mut payload = frame.payload;
            while !payload.is_empty() {
                take_commit(&mut payload, &mut collections).expect("it was scanned");
            }
            continue;
        }
        let mut rest = &frame.payload[..];
        if frame.header.is_first() {
            let head = read_commit_head(&mut rest, &mut collections).expect("it was scanned");
            large = Some(LargeCommit::new(&head, &frame.header, true));
        }
        let bytes = frame.payload.slice(frame.payload.len() - rest.len()..);
        if let Some(commit) = &mut large
            && commit.take(bytes, &frame.header).is_err()
        {
            return;
        }
    }
}

/// Cuts `bytes` into frames that belong here: the fields that a chain fixes are made right, all others
/// are as they came.
///
/// ```text
/// frame := flags:u8 commits:u8 count:u8 length:u8 payload
/// ```
fn chain(bytes: &[u8], seed: u32, file: &mut Vec<u8>) {
    let (mut rest, mut previous_crc, mut next_lsn) = (bytes, seed, 1);
    while let Some((&[flags, commits, count, length], after)) = rest.split_first_chunk::<4>() {
        let (payload, after) = after.split_at(usize::from(length).min(after.len()));
        rest = after;
        let mut frame = Vec::new();
        super::format::start_frame(&mut frame);
        frame.extend_from_slice(payload);
        // A count may also be absurd.
        let count = if count == u8::MAX {
            u64::MAX
        } else {
            u64::from(count)
        };
        previous_crc = super::format::finish_frame(
            &mut frame,
            seed,
            &super::format::FrameFields {
                previous_crc,
                segment_number: 1,
                epoch: Epoch(9),
                first_lsn: Lsn(next_lsn),
                count,
                timestamp_ms: TimestampMs(1_000),
                durable_lsn: Lsn(0),
                flags: u16::from(flags & 7),
                commits: u32::from(commits),
            },
        );
        next_lsn = next_lsn.wrapping_add(count);
        file.extend_from_slice(&frame);
    }
    // What is no whole frame lies behind them, as a torn write would.
    file.extend_from_slice(rest);
}

/// What [`frames`] would have to be given to make the frames of a segment, those apart that have more bytes
/// than it can: seeds from real files.
#[must_use]
pub fn seed_of(segment: &[u8]) -> Vec<u8> {
    let mut seed = Vec::new();
    let mut rest = &segment[header_bytes()..];
    while let Ok(header) = FrameHeader::decode(rest) {
        let Some((frame, after)) = usize::try_from(header.frame_bytes())
            .ok()
            .and_then(|length| rest.split_at_checked(length))
        else {
            break;
        };
        rest = after;
        let Ok(length) = u8::try_from(header.payload_length) else {
            continue;
        };
        let byte = |value: u64| u8::try_from(value).unwrap_or(u8::MAX);
        seed.push(byte(u64::from(header.flags)));
        seed.push(byte(u64::from(header.commits)));
        seed.push(byte(header.count));
        seed.push(length);
        seed.extend_from_slice(&frame[FRAME_HEADER_BYTES..][..usize::from(length)]);
    }
    seed
}

fn header_bytes() -> usize {
    usize::try_from(HEADER_BYTES).expect("a page")
}
