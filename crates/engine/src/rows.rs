//! A result's rows: in memory while small, in a temporary file beyond that, so that no SQLite
//! snapshot is held while a socket is written to.
//!
//! ```text
//! rows := (length:u32 LE row)*
//! ```

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use springhead_proto::{ErrorCode, RowBuilder, RowRef, SqlError, ValueRef};

const CHUNK_BYTES: usize = 64 << 10;
const LENGTH_BYTES: usize = 4;

/// Rows in the order they were produced, read once; a clone is read from where this one is.
#[derive(Debug, Default, Clone)]
pub struct Rows {
    file: Option<Arc<File>>,
    file_bytes: u64,
    /// How far the file has been read.
    file_read: u64,
    memory: Bytes,
    count: u64,
}

/// Some whole rows.
#[derive(Debug, Clone)]
pub struct RowChunk {
    bytes: Bytes,
}

impl RowChunk {
    /// The rows, first to last.
    pub fn rows(&self) -> impl Iterator<Item = RowRef<'_>> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk::<LENGTH_BYTES>()?;
            let (row, after) = after.split_at(u32::from_le_bytes(*length) as usize);
            rest = after;
            Some(RowRef::parse(row).expect("rows are written by RowsWriter alone"))
        })
    }

    /// Their size, as they are held.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }
}

impl Rows {
    /// How many rows there are in all.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Bytes held in memory.
    #[must_use]
    pub fn len_in_memory(&self) -> usize {
        self.memory.len()
    }

    /// The next rows, at most about 64 KiB of them (one row at least); `None` at the end. Reads the
    /// temporary file if there is one: short, local, blocking.
    ///
    /// # Errors
    /// XX000 if the temporary file cannot be read.
    pub fn next_chunk(&mut self) -> Result<Option<RowChunk>, SqlError> {
        if let Some(file) = &self.file
            && self.file_read < self.file_bytes
        {
            let left = usize::try_from(self.file_bytes - self.file_read).unwrap_or(usize::MAX);
            let mut bytes = vec![0; left.min(CHUNK_BYTES)];
            read_at(file, &mut bytes, self.file_read)?;
            let mut whole = whole_rows(&bytes, CHUNK_BYTES);
            if whole == 0 {
                // The first row is longer than a chunk.
                let length =
                    u32::from_le_bytes(bytes[..LENGTH_BYTES].try_into().expect("four bytes"));
                whole = LENGTH_BYTES + length as usize;
                bytes.resize(whole, 0);
                read_at(file, &mut bytes, self.file_read)?;
            }
            bytes.truncate(whole);
            self.file_read += whole as u64;
            return Ok(Some(RowChunk {
                bytes: bytes.into(),
            }));
        }
        if self.memory.is_empty() {
            return Ok(None);
        }
        let mut whole = whole_rows(&self.memory, CHUNK_BYTES);
        if whole == 0 {
            let length =
                u32::from_le_bytes(self.memory[..LENGTH_BYTES].try_into().expect("four bytes"));
            whole = LENGTH_BYTES + length as usize;
        }
        Ok(Some(RowChunk {
            bytes: self.memory.split_to(whole),
        }))
    }
}

fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> Result<(), SqlError> {
    file.read_exact_at(bytes, offset).map_err(|error| {
        SqlError::new(
            ErrorCode::Internal,
            format!("the result's temporary file: {error}"),
        )
    })
}

/// How many bytes at the front of `bytes` are whole rows, at most `limit` unless the first is longer.
fn whole_rows(bytes: &[u8], limit: usize) -> usize {
    let mut end = 0;
    while let Some(length) = bytes[end..].first_chunk::<LENGTH_BYTES>() {
        let next = end + LENGTH_BYTES + u32::from_le_bytes(*length) as usize;
        if next > bytes.len() || next > limit {
            break;
        }
        end = next;
    }
    end
}

/// Collects rows; past its memory it goes on in a temporary file.
pub struct RowsWriter {
    memory: Vec<u8>,
    file: Option<File>,
    file_bytes: u64,
    count: u64,
    memory_bytes: usize,
    max_bytes: u64,
}

impl RowsWriter {
    /// Empty. Up to `memory_bytes` in memory, `max_bytes` in all.
    #[must_use]
    pub fn new(memory_bytes: usize, max_bytes: u64) -> RowsWriter {
        RowsWriter {
            memory: Vec::new(),
            file: None,
            file_bytes: 0,
            count: 0,
            memory_bytes,
            max_bytes,
        }
    }

    /// Adds one row of `count` values.
    ///
    /// # Errors
    /// 54000 past the result's limit, 53100 if the temporary file cannot be written.
    pub fn push<'v>(
        &mut self,
        values: impl ExactSizeIterator<Item = ValueRef<'v>>,
    ) -> Result<(), SqlError> {
        let start = self.memory.len();
        self.memory.extend_from_slice(&[0; LENGTH_BYTES]);
        let mut row = RowBuilder::new(&mut self.memory, values.len());
        for value in values {
            row.push(value);
        }
        let length = u32::try_from(self.memory.len() - start - LENGTH_BYTES).map_err(|_| {
            SqlError::new(
                ErrorCode::StatementTooLarge,
                "a row of the result is over 4 GiB",
            )
        })?;
        self.memory[start..start + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
        self.count += 1;
        if self.memory.len() > self.memory_bytes {
            self.spill()?;
        }
        Ok(())
    }

    /// The rows collected.
    ///
    /// # Errors
    /// 53100 if the temporary file cannot be written.
    pub fn finish(mut self) -> Result<Rows, SqlError> {
        if self.file.is_some() {
            self.spill()?;
        }
        Ok(Rows {
            file: self.file.map(Arc::new),
            file_bytes: self.file_bytes,
            file_read: 0,
            memory: self.memory.into(),
            count: self.count,
        })
    }

    fn spill(&mut self) -> Result<(), SqlError> {
        let failed = |error: std::io::Error| {
            SqlError::new(
                ErrorCode::DiskFull,
                format!("the result's temporary file: {error}"),
            )
        };
        if self.file_bytes + self.memory.len() as u64 > self.max_bytes {
            return Err(SqlError::new(
                ErrorCode::StatementTooLarge,
                format!("the result is over {} bytes", self.max_bytes),
            )
            .with_hint("ask for less at a time (LIMIT), or raise max_result_bytes"));
        }
        if self.file.is_none() {
            self.file = Some(tempfile::tempfile().map_err(failed)?);
        }
        let file = self.file.as_mut().expect("it has just been made");
        file.seek(SeekFrom::Start(self.file_bytes))
            .and_then(|_| file.write_all(&self.memory))
            .map_err(failed)?;
        self.file_bytes += self.memory.len() as u64;
        self.memory.clear();
        Ok(())
    }
}
