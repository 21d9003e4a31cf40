//! Sealed segments, compressed chunk by chunk. The chunks cut the segment's bytes at fixed places,
//! so that a reader asks for the same offsets as in a plain segment and finds the same frames with
//! the same checksums.
//!
//! ```text
//! segz := magic "SHLOGZST" format_version:u32 chunk_bytes:u32 raw_bytes:u64 chunks:u32
//!         (offset:u64 length:u32 crc:u32)*  crc:u32 of all before
//!         chunk*                            zstd frames; chunk i holds the segment's bytes from
//!                                           i * chunk_bytes on
//! ```

use std::io;

use crate::disk::{DiskFile, read_up_to};

/// How many of a segment's bytes are compressed together.
pub const CHUNK_BYTES: u32 = 128 * 1024;
const MAGIC: &[u8; 8] = b"SHLOGZST";
const HEAD_BYTES: usize = 28;
const ENTRY_BYTES: usize = 16;

/// Where a compressed segment's chunks lie.
#[derive(Debug)]
pub struct ChunkTable {
    chunk_bytes: u32,
    /// How many bytes the segment had.
    raw_bytes: u64,
    chunks: Vec<Chunk>,
}

#[derive(Debug, Clone, Copy)]
struct Chunk {
    offset: u64,
    length: u32,
    crc: u32,
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

impl ChunkTable {
    /// How many bytes the segment had.
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// Reads the table at the front of a compressed segment. `Err(InvalidData)` if it is damaged.
    pub fn load(file: &dyn DiskFile) -> io::Result<ChunkTable> {
        let mut head = [0; HEAD_BYTES];
        if read_up_to(file, &mut head, 0)? < HEAD_BYTES || &head[..8] != MAGIC {
            return Err(damaged("no compressed segment begins here"));
        }
        let u32_at = |bytes: &[u8], at: usize| {
            u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
        };
        let u64_at = |bytes: &[u8], at: usize| {
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
        };
        let chunk_bytes = u32_at(&head, 12);
        let raw_bytes = u64_at(&head, 16);
        let count = u32_at(&head, 24);
        if chunk_bytes == 0
            || chunk_bytes > 1 << 24
            || u64::from(count) != raw_bytes.div_ceil(u64::from(chunk_bytes))
            || u64::from(count) * ENTRY_BYTES as u64 > file.length()?
        {
            return Err(damaged("the compressed segment's table makes no sense"));
        }
        let entries = usize::try_from(count).map_err(io::Error::other)? * ENTRY_BYTES;
        let mut bytes = vec![0; HEAD_BYTES + entries + 4];
        if read_up_to(file, &mut bytes, 0)? < bytes.len() {
            return Err(damaged("the compressed segment's table is cut short"));
        }
        let (body, crc) = bytes.split_at(HEAD_BYTES + entries);
        if crc32c::crc32c(body) != u32_at(crc, 0) {
            return Err(damaged(
                "the compressed segment's table does not match its checksum",
            ));
        }
        let chunks = body[HEAD_BYTES..]
            .chunks_exact(ENTRY_BYTES)
            .map(|entry| Chunk {
                offset: u64_at(entry, 0),
                length: u32_at(entry, 8),
                crc: u32_at(entry, 12),
            })
            .collect();
        Ok(ChunkTable {
            chunk_bytes,
            raw_bytes,
            chunks,
        })
    }

    /// Fills `buffer` with the segment's bytes from `offset` on, as far as it reaches.
    pub fn read(&self, file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset + filled as u64;
            if at >= self.raw_bytes {
                break;
            }
            let number = at / u64::from(self.chunk_bytes);
            let chunk =
                self.decompress(file, usize::try_from(number).map_err(io::Error::other)?)?;
            let from =
                usize::try_from(at % u64::from(self.chunk_bytes)).map_err(io::Error::other)?;
            let bytes = chunk.get(from..).unwrap_or_default();
            let taken = bytes.len().min(buffer.len() - filled);
            if taken == 0 {
                return Err(damaged("a compressed chunk is shorter than it should be"));
            }
            buffer[filled..filled + taken].copy_from_slice(&bytes[..taken]);
            filled += taken;
        }
        Ok(filled)
    }

    fn decompress(&self, file: &dyn DiskFile, number: usize) -> io::Result<Vec<u8>> {
        let chunk = self
            .chunks
            .get(number)
            .ok_or_else(|| damaged("a chunk is missing"))?;
        let bound = usize::try_from(self.chunk_bytes).map_err(io::Error::other)?;
        let length = usize::try_from(chunk.length).map_err(io::Error::other)?;
        if length > zstd::zstd_safe::compress_bound(bound) {
            return Err(damaged("a compressed chunk is longer than any can be"));
        }
        let mut bytes = vec![0; length];
        if read_up_to(file, &mut bytes, chunk.offset)? < length {
            return Err(damaged("a compressed chunk is cut short"));
        }
        if crc32c::crc32c(&bytes) != chunk.crc {
            return Err(damaged("a compressed chunk does not match its checksum"));
        }
        zstd::bulk::decompress(&bytes, bound)
            .map_err(|error| damaged(&format!("a compressed chunk cannot be read: {error}")))
    }
}

/// The compressed form of a segment's bytes: `read` fills a buffer from an offset.
pub fn compress(
    raw_bytes: u64,
    level: i32,
    mut read: impl FnMut(u64, usize) -> io::Result<bytes::Bytes>,
) -> io::Result<Vec<u8>> {
    let count =
        u32::try_from(raw_bytes.div_ceil(u64::from(CHUNK_BYTES))).map_err(io::Error::other)?;
    let table_bytes = HEAD_BYTES as u64 + u64::from(count) * ENTRY_BYTES as u64 + 4;
    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&super::format::FORMAT_VERSION.to_le_bytes());
    out.extend_from_slice(&CHUNK_BYTES.to_le_bytes());
    out.extend_from_slice(&raw_bytes.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    let mut body = Vec::new();
    for number in 0..u64::from(count) {
        let from = number * u64::from(CHUNK_BYTES);
        let length = (raw_bytes - from).min(u64::from(CHUNK_BYTES));
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let raw = read(from, length)?;
        if raw.len() < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let chunk = zstd::bulk::compress(&raw, level)?;
        out.extend_from_slice(&(table_bytes + body.len() as u64).to_le_bytes());
        out.extend_from_slice(
            &u32::try_from(chunk.len())
                .map_err(io::Error::other)?
                .to_le_bytes(),
        );
        out.extend_from_slice(&crc32c::crc32c(&chunk).to_le_bytes());
        body.extend_from_slice(&chunk);
    }
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&body);
    Ok(out)
}
