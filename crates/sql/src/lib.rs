//! PostgreSQL's dialect over SQLite: the catalog model, the types, and the planner that turns one
//! PostgreSQL statement into the SQLite statements that mean the same, or refuses it by name.
//!
//! Pure: no IO, no connection, no clock. `engine` runs what is planned here; `server` uses the
//! types to read and print values.

pub mod access;
mod advisory;
pub mod bounds;
pub mod catalog;
mod control;
mod copy;
pub mod cursor;
mod database;
pub mod ddl;
pub mod dml;
pub mod errors;
pub mod explain;
pub mod filter;
pub mod functions;
mod grammar;
pub mod lift;
pub mod listen;
pub mod live;
mod maintenance;
mod nesting;
mod pause;
pub mod plan;
pub mod planner;
pub mod prepared;
pub mod program;
pub mod query;
mod roles;
mod scan;
pub mod split;
pub mod system;
pub mod types;
mod words;

pub use catalog::Catalog;
pub use copy::LIVE_COLUMNS as LIVE_COPY_COLUMNS;
pub use plan::{Plan, PlanKind};
pub use types::PgType;
