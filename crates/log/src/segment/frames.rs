//! Walks the frames of one segment's file, checking each: length, place in the segment, chain and
//! checksum. Recovery, readers, verify and dump all walk with this.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use springhead_proto::{Epoch, Lsn};

use super::compress::ChunkTable;
use super::format::{
    BadHeader, FORMAT_VERSION, FRAME_HEADER_BYTES, FrameHeader, HEADER_BYTES, SegmentHeader,
};
use super::index::End;
use super::shared::{Segment, corrupt, io_error};
use crate::contract::LogError;
use crate::disk::{Disk, DiskFile, OpenFor, read_up_to};

/// How much is read at once, when the segment has it.
const READ_BYTES: u64 = 256 * 1024;
static ZERO_PAGE: [u8; 4096] = [0; 4096];

/// A segment's file, whose offsets are those of the bytes before compression.
pub struct SegmentFile {
    file: Box<dyn DiskFile>,
    chunks: Option<Arc<ChunkTable>>,
}

impl SegmentFile {
    pub fn new(file: Box<dyn DiskFile>, chunks: Option<Arc<ChunkTable>>) -> SegmentFile {
        SegmentFile { file, chunks }
    }

    /// The bytes from `offset`, up to `length` of them; fewer at the end.
    pub fn read(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let mut buffer = vec![0; length];
        let filled = match &self.chunks {
            None => read_up_to(self.file.as_ref(), &mut buffer, offset)?,
            Some(chunks) => chunks.read(self.file.as_ref(), &mut buffer, offset)?,
        };
        buffer.truncate(filled);
        Ok(buffer.into())
    }
}

/// Why there is no frame where one was looked for.
#[derive(Debug)]
pub enum Fault {
    /// The bytes are not a frame of this segment at this place.
    Invalid(&'static str),
    Io(io::Error),
}

impl Fault {
    /// As an error of the file at `path`.
    pub fn at(self, path: &Path, offset: u64) -> LogError {
        match self {
            Fault::Invalid(what) => corrupt(path, offset, what),
            Fault::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                corrupt(path, offset, error.to_string())
            }
            Fault::Io(error) => io_error("read", path, error),
        }
    }
}

/// One frame whose every check has passed.
#[derive(Debug, Clone)]
pub struct Frame {
    pub header: FrameHeader,
    /// Where it begins in the segment.
    pub offset: u64,
    pub payload: Bytes,
}

/// What the next frame of a segment must fit.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// The checksum of the segment's header.
    pub seed: u32,
    pub segment_number: u32,
    pub epoch: Epoch,
    /// The checksum of the frame before; the header's if there is none.
    pub previous_crc: u32,
    /// The LSN that the frame must begin with.
    pub next_lsn: Lsn,
}

impl Link {
    /// Whether a frame with this header belongs here; its checksum is another matter.
    pub fn check_place(&self, header: &FrameHeader) -> Result<(), &'static str> {
        if header.segment_number != self.segment_number || header.epoch != self.epoch {
            return Err("the frame is of another segment");
        }
        if header.previous_crc != self.previous_crc {
            return Err("the frame does not follow the one before it");
        }
        if header.first_lsn != self.next_lsn {
            return Err("the frame's LSN is not the next one");
        }
        Ok(())
    }

    /// The frame at the front of `bytes`, which lies at `offset` of the segment, every check passed.
    pub fn take(&self, bytes: &Bytes, offset: u64) -> Result<Frame, &'static str> {
        let header = FrameHeader::decode(bytes)?;
        self.check_place(&header)?;
        let length = usize::try_from(header.frame_bytes()).map_err(|_| "the frame is too long")?;
        let frame = bytes.get(..length).ok_or("the frame is cut short")?;
        if !header.checksum_holds(self.seed, frame) {
            return Err("the frame's checksum does not match");
        }
        let payload_length =
            usize::try_from(header.payload_length).map_err(|_| "the frame is too long")?;
        let payload = bytes.slice(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + payload_length);
        Ok(Frame {
            header,
            offset,
            payload,
        })
    }
}

/// A place between two frames of one segment.
pub struct FrameCursor {
    file: SegmentFile,
    seed: u32,
    segment_number: u32,
    epoch: Epoch,
    /// Where the next frame begins.
    offset: u64,
    /// The checksum of the frame before.
    previous_crc: u32,
    /// The LSN that the next frame must begin with.
    next_lsn: Lsn,
    buffer: Bytes,
    /// Where in the segment `buffer` begins.
    buffer_offset: u64,
}

impl FrameCursor {
    /// Stands before the first frame.
    pub fn new(file: SegmentFile, header: &SegmentHeader, seed: u32) -> FrameCursor {
        FrameCursor {
            file,
            seed,
            segment_number: header.segment_number,
            epoch: header.epoch,
            offset: HEADER_BYTES,
            previous_crc: seed,
            next_lsn: header.first_lsn,
            buffer: Bytes::new(),
            buffer_offset: 0,
        }
    }

    /// Opens `segment` and checks that its file is the one it should be.
    pub fn open(disk: &dyn Disk, dir: &Path, segment: &Segment) -> Result<FrameCursor, LogError> {
        let path = dir.join(&segment.file_name);
        let file = disk
            .open(&path, OpenFor::Reading)
            .map_err(|error| io_error("open", &path, error))?;
        let file = SegmentFile::new(file, segment.chunks.clone());
        let (header, seed) = read_header(&file, &path)?;
        if header != segment.header {
            return Err(corrupt(
                &path,
                0,
                "the segment's header is not the one it was opened with",
            ));
        }
        Ok(FrameCursor::new(file, &header, seed))
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn previous_crc(&self) -> u32 {
        self.previous_crc
    }

    pub fn next_lsn(&self) -> Lsn {
        self.next_lsn
    }

    /// Steps to another place between two frames, known from an index or the published end.
    pub fn jump(&mut self, offset: u64, previous_crc: u32, next_lsn: Lsn) {
        self.offset = offset;
        self.previous_crc = previous_crc;
        self.next_lsn = next_lsn;
    }

    /// Whether the frames walked end as `end` says.
    pub fn stands_at(&self, end: &End) -> bool {
        self.offset == end.offset && self.previous_crc == end.crc && self.next_lsn == end.next_lsn
    }

    /// The next frame; `None` at `limit`, where the frames are known to end.
    pub fn next(&mut self, limit: u64) -> Result<Option<Frame>, Fault> {
        if self.offset >= limit {
            return Ok(None);
        }
        self.fill(FRAME_HEADER_BYTES as u64, limit)?;
        let header =
            FrameHeader::decode(&self.buffer[self.in_buffer()..]).map_err(Fault::Invalid)?;
        self.link().check_place(&header).map_err(Fault::Invalid)?;
        let length = header.frame_bytes();
        if length > limit - self.offset {
            return Err(Fault::Invalid("the frame passes the segment's end"));
        }
        self.fill(length, limit)?;
        let bytes = self.buffer.slice(self.in_buffer()..);
        let frame = self
            .link()
            .take(&bytes, self.offset)
            .map_err(Fault::Invalid)?;
        self.offset += length;
        self.previous_crc = frame.header.crc;
        self.next_lsn = frame.header.next_lsn();
        Ok(Some(frame))
    }

    /// The bytes of the next frame and of those behind it, as many as there are in one piece of
    /// memory and in about `wanted` bytes, each checked; `None` at `limit`.
    pub fn next_raw(&mut self, limit: u64, wanted: u64) -> Result<Option<Bytes>, Fault> {
        let start = self.offset;
        if self.next(limit)?.is_none() {
            return Ok(None);
        }
        // Reading a frame may have moved the buffer, so that its beginning is counted from its end.
        let from = self.in_buffer() - usize::try_from(self.offset - start).unwrap_or(usize::MAX);
        let buffer_offset = self.buffer_offset;
        while self.offset - start < wanted && self.next_is_in_buffer(limit) {
            self.next(limit)?;
        }
        debug_assert_eq!(self.buffer_offset, buffer_offset, "nothing was read");
        Ok(Some(self.buffer.slice(from..self.in_buffer())))
    }

    fn next_is_in_buffer(&self, limit: u64) -> bool {
        self.offset < limit
            && FrameHeader::decode(&self.buffer[self.in_buffer()..]).is_ok_and(|header| {
                self.offset + header.frame_bytes() <= self.buffer_offset + self.buffer.len() as u64
            })
    }

    fn link(&self) -> Link {
        Link {
            seed: self.seed,
            segment_number: self.segment_number,
            epoch: self.epoch,
            previous_crc: self.previous_crc,
            next_lsn: self.next_lsn,
        }
    }

    /// Looks for a whole frame of this segment after the place stood at, wherever it may begin;
    /// `limit` is the segment's end. Frames of a large commit that has no end do not count: they
    /// were never part of the log. Used where the frame at this place is invalid: a later one shows
    /// that it had been flushed, as no frame is written before the last one is durable.
    pub fn valid_frame_after(&mut self, limit: u64) -> Result<Option<u64>, Fault> {
        let start = self.offset;
        let mut at = start + 8;
        let page = ZERO_PAGE.len() as u64;
        while at + FRAME_HEADER_BYTES as u64 <= limit {
            self.offset = at;
            self.fill(FRAME_HEADER_BYTES as u64, limit)?;
            let bytes = &self.buffer[self.in_buffer()..];
            if bytes.len() < FRAME_HEADER_BYTES {
                break;
            }
            // Most of a segment that is not full.
            if at.is_multiple_of(page) && bytes.starts_with(&ZERO_PAGE) {
                at += page;
                continue;
            }
            if self.whole_frame_here(limit)? {
                self.offset = start;
                return Ok(Some(at));
            }
            at += 8;
        }
        self.offset = start;
        Ok(None)
    }

    /// Whether something that a write into this segment began lies at the place stood at.
    pub fn begins_like_a_frame(&mut self, limit: u64) -> Result<bool, Fault> {
        self.fill(FRAME_HEADER_BYTES as u64, limit)?;
        Ok(FrameHeader::decode(&self.buffer[self.in_buffer()..])
            .is_ok_and(|header| header.segment_number == self.segment_number))
    }

    /// Whether a frame of this segment that came to count lies at the offset, whatever its place in
    /// the chain.
    fn whole_frame_here(&mut self, limit: u64) -> Result<bool, Fault> {
        let Ok(header) = FrameHeader::decode(&self.buffer[self.in_buffer()..]) else {
            return Ok(false);
        };
        if header.segment_number != self.segment_number
            || header.epoch != self.epoch
            || (header.is_part() && !header.is_end())
            || header.frame_bytes() > limit - self.offset
        {
            return Ok(false);
        }
        self.fill(header.frame_bytes(), limit)?;
        let place = self.in_buffer();
        let length = usize::try_from(header.frame_bytes()).unwrap_or(usize::MAX);
        let frame = place
            .checked_add(length)
            .and_then(|to| self.buffer.get(place..to));
        Ok(frame.is_some_and(|frame| header.checksum_holds(self.seed, frame)))
    }

    fn in_buffer(&self) -> usize {
        usize::try_from(self.offset - self.buffer_offset)
            .unwrap_or(usize::MAX)
            .min(self.buffer.len())
    }

    /// Makes `length` bytes from `offset` on lie in the buffer, if the file has them.
    fn fill(&mut self, length: u64, limit: u64) -> Result<(), Fault> {
        let inside = self.offset >= self.buffer_offset
            && self.offset + length <= self.buffer_offset + self.buffer.len() as u64;
        if inside {
            return Ok(());
        }
        let wanted = length.max(READ_BYTES).min(limit - self.offset);
        let wanted = usize::try_from(wanted).map_err(|_| Fault::Invalid("too long"))?;
        self.buffer = self.file.read(self.offset, wanted).map_err(Fault::Io)?;
        self.buffer_offset = self.offset;
        Ok(())
    }
}

/// The header of a segment's file and its checksum.
pub fn read_header(file: &SegmentFile, path: &Path) -> Result<(SegmentHeader, u32), LogError> {
    let page = file
        .read(0, usize::try_from(HEADER_BYTES).expect("a page"))
        .map_err(|error| Fault::Io(error).at(path, 0))?;
    SegmentHeader::decode(&page).map_err(|bad| match bad {
        BadHeader::Damaged(what) => corrupt(path, 0, what),
        BadHeader::Newer { found } => LogError::NewerFormat {
            file: path.display().to_string(),
            found,
            supported: FORMAT_VERSION,
        },
    })
}
