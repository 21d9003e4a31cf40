//! Dead letters: rejected mutations, kept whole until somebody or something decides about them.
//!
//! ```text
//! sync ── record ──> springhead.dead_letters ──┬── retry, resolve ──> resolved, kept until purged
//!                        │ full                ├── expired: drop, force_apply_lww
//!                        └── escalate ─────────┴──────────────> springhead.escalations + NOTIFY
//! ```
//!
//! All of it happens in the tenant's writer, inside its open transaction: an entry, what becomes of
//! it, the rows that a retry changes and the counts of `springhead.dead_letter_totals` are one commit
//! in the log, so that they agree after any crash and on every node. [`record`](record()) is what sync
//! calls there; [`task`] is what everyone else may ask of the writer; [`desk`] is what both stand on.
//! [`service`] is the way in for people, [`sweep`] has the clock. Nothing here is kept in memory.

pub mod desk;
mod entry;
pub(crate) mod figures;
mod policy;
pub mod record;
pub mod redrive;
pub mod retry;
mod service;
mod sweep;
pub mod task;
mod totals;

use serde::{Deserialize, Serialize};

pub use desk::Desk;
pub use entry::{Attempt, Entry};
pub use figures::Figures;
pub use policy::{ANY_VIOLATION, Action, OnFull, Policy, PolicyChange, VIOLATIONS};
pub use record::{DeviceFacts, Recorded, Rejected, record};
pub use redrive::Redriven;
pub use retry::{Outcome, Retried};
pub use service::PolicyInForce;
pub use task::{Refused, Swept, Task, TaskAnswer};
pub use totals::{Counts, Ended};

/// The channel that escalations are told on.
pub const ESCALATIONS_CHANNEL: &str = "springhead_escalations";

/// The queue of mutations whose collection is not there, so that names a device makes up cost
/// nothing. The name itself is in the entry's delta.
pub const UNKNOWN_COLLECTION: &str = "?";

/// Whether an error says nothing about what was to be done: somebody else, or the next time, does it.
pub(crate) fn is_passing(error: &springhead_proto::SqlError) -> bool {
    use springhead_proto::ErrorCode;
    matches!(
        error.code,
        ErrorCode::ReadOnlyTransaction
            | ErrorCode::AdminShutdown
            | ErrorCode::TenantDropped
            | ErrorCode::OutcomeUnknown
            | ErrorCode::DiskFull
            | ErrorCode::Corrupted
    )
}

/// Whom a mutation acts for: as much of a principal as decides what it may do, at any later time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Author {
    /// The role that authenticated.
    pub username: String,
    /// `auth.uid()`.
    pub uid: String,
    /// `auth.claim()`: the token's claims, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claims: Option<serde_json::Value>,
}
