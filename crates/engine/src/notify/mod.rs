//! LISTEN and NOTIFY: messages go through the log like every change, and come out of it to whoever
//! listens.
//!
//! ```text
//!  pg_notify() ─> Outbox ─> capture (folded, in order with the rows) ─> log ─> tail
//!                                                                              │
//!                     Listener <── queue, bounded ── Channels (by channel) <───┘
//!                        └──── what did not fit: from the log, by itself ──────┘
//! ```
//!
//! [`outbox`] belongs to the writer, [`channels`] to the tenant (one task while anyone listens),
//! [`listener`] to a session. A commit costs a listener on another channel nothing ([`listened`]); a listener that
//! does not read costs its bounded queue, and reads the log from where it was when it comes back.

mod channels;
mod listened;
mod listener;
mod outbox;

use std::sync::Arc;

use springhead_log::CommitSlice;
use springhead_proto::{ErrorCode, Lsn, Messages, SqlError, ValueRef};

pub use channels::{ChannelChange, Channels};
pub(crate) use listened::Listened;
pub use listener::{ChannelStart, Listener};
pub use outbox::{Folded, Message, Outbox};

/// A message as a listener gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Its place in the log.
    pub lsn: Lsn,
    pub channel: Arc<str>,
    pub payload: Arc<str>,
    /// The backend process id of the session that sent it.
    pub process_id: i32,
}

impl Notification {
    /// Roughly what it holds in memory.
    fn len_bytes(&self) -> usize {
        64 + self.payload.len()
    }
}

/// Calls `each` with every message of a piece of a commit, in order.
///
/// # Errors
/// XX001 for damage.
fn for_each_message(
    slice: &CommitSlice,
    mut each: impl FnMut(Lsn, &str, &str, i32),
) -> Result<(), SqlError> {
    let damaged = |what: &dyn std::fmt::Display| {
        SqlError::new(
            ErrorCode::Corrupted,
            format!(
                "a message of the commit at LSN {}: {what}",
                slice.commit_lsn
            ),
        )
    };
    for message in Messages::new(&slice.changes) {
        let (place, row) = message.map_err(|error| damaged(&error))?;
        let mut values = row.values();
        let (
            Some(ValueRef::Text(channel)),
            Some(ValueRef::Text(payload)),
            Some(ValueRef::Integer(pid)),
        ) = (values.next(), values.next(), values.next())
        else {
            return Err(damaged(&"it has other values"));
        };
        let pid = i32::try_from(pid).map_err(|error| damaged(&error))?;
        each(slice.first_lsn().plus(place), channel, payload, pid);
    }
    Ok(())
}
