//! Springhead's vocabulary: the positions, values, changes and commits that every other crate
//! speaks of, and the codecs that give them bytes.
//!
//! No IO, no async, no SQL. What is drawn here byte by byte is drawn again, for readers of other
//! languages, in `docs/log-format.md`; golden bytes in `tests/` hold the two together.

mod change;
mod ids;
mod row;
mod varint;

pub mod error;
pub mod sync;

pub use change::{ChangeKind, ChangeRef, Changes, DamagedChange, Messages, encode_change};
pub use error::{ErrorCode, NoticeLevel, SqlError, SqlErrorFields, SqlState};
pub use ids::{
    BadCursor, CollectionId, Cursor, Epoch, Lsn, SYSTEM_TENANT, SchemaVersion, TenantId,
    TimestampMs,
};
pub use row::{DamagedRow, Row, RowBuilder, RowRef, Value, ValueRef};
pub use varint::{read_varint, unzigzag, write_varint, zigzag};
