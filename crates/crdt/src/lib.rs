//! Cells that merge: a text or a list whose concurrent edits all survive, whatever order they arrive
//! in. One Yjs document for each cell ([ADR 0012](../../../docs/adr/0012-crdt-columns.md)).
//!
//! A row shows a cell's [`Content`]; beside it lies the cell's *state*, the edits that it comes of
//! ([`state`] draws its bytes). A cell that nobody has edited has no state: its content is the seed,
//! from which everyone makes the same first edit.
//!
//! Used by the engine, on servers and devices alike. No IO, no clock; who edits is told from outside.

mod cell;
mod content;
pub mod state;

pub use cell::{Cell, Client, Edit, Kind, Limits, is_nothing, update_between};
pub use content::Content;

/// Why a cell cannot be read, merged or edited. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CrdtError {
    /// The bytes are no update of such a cell. Trying again does not help.
    #[error("not an update of this column: {0}")]
    Malformed(String),
    /// The update rests on edits that are not in the cell: they were never sent, were rejected, or
    /// the cell has been emptied since.
    #[error("the update rests on edits that are not there")]
    Missing,
    /// The cell's edits would take more than they may.
    #[error("the column's edits would take over {limit_bytes} bytes")]
    TooLarge { limit_bytes: usize },
    /// An edit beyond the end.
    #[error("position {at} is beyond the end, which is at {length}")]
    OutOfRange { at: usize, length: usize },
    /// An edit of a text on a list, or the other way round.
    #[error("not an edit of this kind of column")]
    WrongKind,
    /// What is stored is no state.
    #[error("the stored edits cannot be read: {0}")]
    Damaged(String),
}
