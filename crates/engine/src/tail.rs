//! What every exit does: read the tenant's part of the log from a position, then follow it; when it
//! lags, back to disk. A reader that nobody polls costs its own few fields and nothing else.

use std::sync::Arc;

use springhead_log::{CommitSlice, LogError};
use springhead_proto::Lsn;

use crate::cdc::RenderCache;

/// A commit, or a piece of a large one, with what has been rendered from it so far. Shared by all
/// who follow in memory.
pub struct Block {
    pub slice: CommitSlice,
    /// Encodings of its events that subscribers share.
    pub rendered: RenderCache,
}

/// One step of a tail.
pub struct Step {
    /// In LSN order; may be empty when nothing in this stretch is for this reader.
    pub blocks: Vec<Arc<Block>>,
    /// Everything up to and including this LSN has now been delivered by this reader.
    pub position: Lsn,
}

/// Why a tail ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TailError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the tenant was dropped")]
    TenantDropped,
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// Reads one tenant's commits after a position.
pub struct TailReader {
    _todo: (),
}

impl TailReader {
    /// Everything up to and including this LSN has been delivered.
    #[must_use]
    pub fn position(&self) -> Lsn { unimplemented!() }

    /// The next step, as soon as there is one. Cancel-safe.
    ///
    /// # Errors
    /// Why no more will come.
    pub async fn next(&mut self) -> Result<Step, TailError> { unimplemented!() }

    /// The next step if there is one now (reading the disk if need be, off the runtime's threads).
    ///
    /// # Errors
    /// Why no more will come.
    pub async fn try_next(&mut self) -> Result<Option<Step>, TailError> { unimplemented!() }
}
