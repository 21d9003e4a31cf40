//! SQLite's write-ahead log as far as verifying its frames needs it. The format is SQLite's
//! ("The Write-Ahead Log", in its file format document):
//!
//! ```text
//! header := magic:4 version:4 page_size:4 checkpoint:4 salts:8 checksum:8          32 bytes
//! frame  := page:4 database_size:4 salts:8 checksum:8 content:page_size            24 + page size
//! ```
//!
//! Big-endian numbers. A frame's checksum goes on from that of the frame before it (the first's from
//! the header's), over its first 8 bytes and its content, so one frame is verified with the 8 bytes
//! before it that end its predecessor's header.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::page;

/// Bytes of the WAL's header.
pub const HEADER: u64 = 32;
/// Bytes of a frame's header.
pub const FRAME_HEADER: usize = 24;
/// Where in a header its checksum is.
const HEADER_SUM: u64 = 24;
const FRAME_SUM: usize = 16;

/// A frame, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub index: u64,
    page_bytes: usize,
}

impl Frame {
    /// The frame whose content is `bytes` bytes at `offset`, if they are one's.
    pub fn of_content(bytes: usize, offset: u64) -> Option<Frame> {
        if !page::is_page_size(bytes) {
            return None;
        }
        let start = offset.checked_sub(FRAME_HEADER as u64)?;
        Frame::at(bytes, start)
    }

    /// The frame that is `bytes` bytes at `offset`, header and content, if they are one.
    pub fn of_whole(bytes: usize, offset: u64) -> Option<Frame> {
        let content = bytes.checked_sub(FRAME_HEADER)?;
        if page::is_page_size(content) {
            Frame::at(content, offset)
        } else {
            None
        }
    }

    fn at(page_bytes: usize, start: u64) -> Option<Frame> {
        let size = (page_bytes + FRAME_HEADER) as u64;
        let start = start.checked_sub(HEADER)?;
        start.is_multiple_of(size).then_some(Frame {
            index: start / size,
            page_bytes,
        })
    }

    /// Frame `index`, with content of `page_bytes` bytes.
    pub fn numbered(index: u64, page_bytes: usize) -> Frame {
        Frame { index, page_bytes }
    }

    /// Where its header begins.
    pub fn offset(self) -> u64 {
        HEADER + self.index * (self.page_bytes + FRAME_HEADER) as u64
    }

    /// Where the checksum is that this frame's goes on from.
    pub fn previous_sum_offset(self) -> u64 {
        match self.index {
            0 => HEADER_SUM,
            _ => self.offset() - (self.page_bytes + FRAME_HEADER - FRAME_SUM) as u64,
        }
    }

    /// Whether `whole` is what its checksum says, if `previous` is its predecessor's.
    pub fn is_intact(whole: &[u8], previous: [u8; 8]) -> bool {
        let (header, content) = whole.split_at(FRAME_HEADER);
        let said = sum_at(&header[FRAME_SUM..]);
        // The header's magic says in which order the sum was made: this machine's, but for a file
        // that was brought from another. Trying the other then is cheaper than reading it each time.
        [Order::NATIVE, Order::FOREIGN].into_iter().any(|order| {
            let sum = order.go_on(sum_at(&previous), &header[..8]);
            order.go_on(sum, content) == said
        })
    }
}

/// Whether `header` is a WAL's, and undamaged.
pub fn is_header(header: &[u8; 32]) -> bool {
    const MAGIC: u32 = 0x377f_0682;
    let magic = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
    let order = match magic ^ MAGIC {
        0 => Order::Little,
        1 => Order::Big,
        _ => return false,
    };
    order.go_on((0, 0), &header[..24]) == sum_at(&header[24..])
}

/// The first frame of `from..to` (counted from 0) in the WAL `file` that is damaged.
///
/// # Errors
/// What the disk says.
pub fn first_damaged(file: &File, from: u64, to: u64) -> io::Result<Option<u64>> {
    const PAGE_SIZE_AT: u64 = 8;
    let mut number = [0; 4];
    file.read_exact_at(&mut number, PAGE_SIZE_AT)?;
    let page_bytes = usize::try_from(u32::from_be_bytes(number)).unwrap_or(0);
    if !page::is_page_size(page_bytes) {
        return Ok(Some(from));
    }
    let mut previous = [0; 8];
    file.read_exact_at(
        &mut previous,
        Frame::numbered(from, page_bytes).previous_sum_offset(),
    )?;
    let mut whole = vec![0; FRAME_HEADER + page_bytes];
    for index in from..to {
        match file.read_exact_at(&mut whole, Frame::numbered(index, page_bytes).offset()) {
            Ok(()) if Frame::is_intact(&whole, previous) => {
                previous.copy_from_slice(&whole[FRAME_SUM..FRAME_HEADER])
            }
            Ok(()) => return Ok(Some(index)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Some(index)),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The order in which a sum takes a file's bytes as numbers.
#[derive(Debug, Clone, Copy)]
enum Order {
    Little,
    Big,
}

impl Order {
    const NATIVE: Order = if cfg!(target_endian = "big") {
        Order::Big
    } else {
        Order::Little
    };
    const FOREIGN: Order = if cfg!(target_endian = "big") {
        Order::Little
    } else {
        Order::Big
    };

    fn go_on(self, sum: (u32, u32), bytes: &[u8]) -> (u32, u32) {
        match self {
            Order::Little => run(sum, bytes, u32::from_le_bytes),
            Order::Big => run(sum, bytes, u32::from_be_bytes),
        }
    }
}

#[inline]
fn run(
    (mut first, mut second): (u32, u32),
    bytes: &[u8],
    number: impl Fn([u8; 4]) -> u32,
) -> (u32, u32) {
    for pair in bytes.chunks_exact(8) {
        let (low, high) = (
            [pair[0], pair[1], pair[2], pair[3]],
            [pair[4], pair[5], pair[6], pair[7]],
        );
        first = first.wrapping_add(number(low)).wrapping_add(second);
        second = second.wrapping_add(number(high)).wrapping_add(first);
    }
    (first, second)
}

fn sum_at(bytes: &[u8]) -> (u32, u32) {
    (
        u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    )
}
