//! The server's side of device sync.
//!
//! ```text
//!   push ──> Session ──(Command::Mutate)──> Writer::mutate ── operations as SQL ──┐
//!                                             │ rejected: dead letter             │ one log commit:
//!                                             └ producer, verdict ────────────────┴ rows + verdict
//!   Session <── live::Subscriber (shapes, definitions) <── tail
//! ```
//!
//! A mutation is planned as the statements that its author could have sent, for its author: grants,
//! row policies, constraints and triggers are those of SQL, and there is no second way to them
//! ([`statement`]). What the database says against it becomes a violation and a hint
//! ([`violation`], [`hint`]). [`crate::writer`] decides each mutation once.

mod author;
pub(crate) mod carry;
pub(crate) mod clocks;
mod definitions;
pub(crate) mod hint;
mod limits;
mod open;
mod place;
mod presence;
mod push;
mod service;
mod session;
pub(crate) mod sets;
mod shape;
pub(crate) mod statement;
mod tell;
pub(crate) mod value;
pub(crate) mod violation;

use std::sync::Arc;

use springhead_proto::sync::{Mutation, Rejection, RetryReason, Seq, Verdict, Violation};
use springhead_proto::{Lsn, SqlError};
use tokio::sync::oneshot;

pub use author::Author;
pub use limits::SyncLimits;
pub use open::Opened;
pub(crate) use place::{Place, Producer, rejected_before};
pub use service::{Sync, SyncCounts};
pub use session::{Closing, Door, Peer, SyncSession};
pub use springhead_proto::sync::MutationId;

/// A mutation for the writer.
pub struct MutationRequest {
    pub mutation: Arc<Mutation>,
    pub author: Arc<Author>,
    /// Verdicts up to it have reached the device: they need not be kept any more.
    pub acknowledged: Seq,
    /// It is rejected for this, and not tried.
    pub precluded: Option<Violation>,
    /// What it takes in memory, roughly.
    pub size_bytes: usize,
    /// An error says that it was not decided.
    pub reply: oneshot::Sender<Result<(Decided, Lsn), SqlError>>,
}

/// What became of a mutation, before its place in the log is known.
#[derive(Debug, Clone, PartialEq)]
pub enum Decided {
    Applied,
    Duplicate,
    Rejected(Box<Rejection>),
    Retry { after_ms: u64, reason: RetryReason },
    Gap { expected_seq: Seq },
    Fenced,
}

impl MutationRequest {
    pub(crate) fn size_bytes(&self) -> usize {
        self.size_bytes
    }
}

impl Decided {
    /// The verdict, once what it rests on is visible at `lsn`.
    #[must_use]
    pub fn at(self, lsn: Lsn) -> Verdict {
        match self {
            Decided::Applied => Verdict::Applied { lsn },
            Decided::Duplicate => Verdict::Duplicate { lsn },
            Decided::Rejected(rejection) => Verdict::Rejected(rejection),
            Decided::Retry { after_ms, reason } => Verdict::Retry { after_ms, reason },
            Decided::Gap { expected_seq } => Verdict::Gap { expected_seq },
            Decided::Fenced => Verdict::Fenced,
        }
    }
}
