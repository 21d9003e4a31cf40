//! The server: configuration, command line, and the two ways in and out (PostgreSQL protocol and
//! HTTP) around one engine. The only crate with sockets.
//!
//! `main` parses the command line and chooses the log's backend; [`node`] runs what `serve` asks
//! for; [`pgwire`] and [`http`] turn bytes into calls of the engine. No SQL is parsed here and no
//! change is rendered: that is the engine's.

pub mod auth;
pub mod backup;
pub mod cli;
pub mod config;
pub mod http;
pub mod lock;
pub mod node;
pub mod pgwire;
pub mod standby;
pub mod vote;
pub mod witness;

pub use config::Config;
pub use node::{NodeState, Shutdown};
