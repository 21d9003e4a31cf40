//! The log: an ordered, durable sequence of batches of commits. Bytes and positions; it knows
//! tenants and collections as labels to filter by, and nothing of SQL or rows.
//!
//! [`Log`] is the contract. [`segment`] keeps it on a local disk, [`memory`] keeps it nowhere (for
//! tests). One conformance suite ([`conformance`]) holds both to the contract.

mod contract;
mod pins;
mod raw;

pub mod clock;
pub mod conformance;
pub mod disk;
pub mod failpoint;
pub mod memory;
pub mod segment;
pub mod vote;

pub use clock::{Clock, ManualClock, NoProgress, Progress, SystemClock};
pub use contract::{
    AppendError, Appended, CommitSlice, CommitSource, EpochRecord, Log, LogError, LogReader,
    LogStats, PendingCommit, Pin, ReadFilter, RefusedReason, TailPosition,
};
pub use raw::{
    FollowError, RawIdentity, RawItem, RawLimit, RawLog, RawPosition, RawReader, RawSegment,
    RawWatcher, common_history,
};
