//! The log: an ordered, durable sequence of batches of commits. Bytes and positions; it knows
//! tenants and collections as labels to filter by, and nothing of SQL or rows.
//!
//! [`Log`] is the contract. [`memory`] keeps it nowhere (for tests).

mod contract;
mod pins;

pub mod clock;
pub mod disk;
pub mod failpoint;
pub mod memory;

pub use clock::{Clock, NoProgress, Progress, SystemClock};
pub use contract::{
    
    AppendError, Appended, CommitSlice, CommitSource, EpochRecord, Log, LogError, LogReader,
    LogStats, PendingCommit, Pin, ReadFilter, RefusedReason, TailPosition,
};
