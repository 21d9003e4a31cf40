//! A result's rows: in memory while small, in a temporary file beyond that, so that no SQLite
//! snapshot is held while a socket is written to.

use bytes::Bytes;
use springhead_proto::{RowRef, SqlError};

/// Rows in the order they were produced, read once.
#[derive(Debug, Default)]
pub struct Rows {
    _todo: (),
}

/// Some whole rows.
#[derive(Debug, Clone)]
pub struct RowChunk {
    pub bytes: Bytes,
    pub count: usize,
}

impl RowChunk {
    /// The rows, first to last.
    pub fn rows(&self) -> impl Iterator<Item = RowRef<'_>> {
        std::iter::empty()
    }
}

impl Rows {
    /// How many rows there are in all.
    #[must_use]
    pub fn count(&self) -> u64 { unimplemented!() }

    /// The next rows, at most about 64 KiB of them (one row at least); `None` at the end. Reads the
    /// temporary file if there is one: short, local, blocking.
    ///
    /// # Errors
    /// 58030-like if the temporary file cannot be read.
    pub fn next_chunk(&mut self) -> Result<Option<RowChunk>, SqlError> { unimplemented!() }
}
