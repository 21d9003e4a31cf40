//! A tenant: one writer over one SQLite file, snapshot readers, the catalog, sessions, and the tail
//! that every exit reads. No sockets, no HTTP, no wall clock and no randomness of its own: clock and
//! entropy are handed in.
//!
//! The path of one write: [`session`] plans it → [`writer`] runs it in an open SQLite transaction,
//! [`capture`] collects the row images → the log makes it durable → SQLite commits → the reply →
//! [`tail`] moves.

pub mod access;
mod advisory;
pub mod apply;
pub mod backends;
mod backup;
mod before_truncate;
pub mod cancel;
mod capture;
pub mod cdc;
pub mod checksum;
pub mod clock;
pub mod config;
pub mod confirm;
pub mod copies;
pub mod copy;
mod crdt;
pub mod dead_letters;
pub mod definitions;
pub mod device;
pub mod engine;
pub mod error;
pub mod follow;
pub mod functions;
pub mod horizon;
pub mod live;
mod memory;
pub mod notify;
pub mod plans;
mod programs;
pub mod published;
pub mod readers;
pub mod replay;
pub mod role;
pub mod rows;
pub mod schemas;
pub mod sequences;
pub mod session;
pub mod settings;
pub mod state;
pub mod sync;
pub mod system;
pub mod tail;
pub mod tenant;
mod tenants;
pub mod undo;
mod undo_mark;
pub mod workers;
pub mod writer;

pub use clock::Entropy;
pub use config::EngineConfig;
pub use engine::{Engine, EngineStatus, TenantInfo};
pub use error::EngineError;
pub use rows::{RowChunk, Rows};
pub use session::{Canceller, Outcome, ParamValue, Script, Session, Statement, TransactionStatus};
pub use tail::{Block, Step, TailError, TailReader};
pub use tenant::Tenant;
