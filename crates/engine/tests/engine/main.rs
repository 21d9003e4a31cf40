//! What the engine promises, tested through its public face: sessions that run SQL, tails that read
//! what was committed, and state files compared with what the log adds up to.
//!
//! Each test is named for the guarantee that it proves (the numbers are those of ARCHITECTURE.md).

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod access;
mod ahead;
mod damage;
mod dead_letters;
mod dead_letters_model;
mod definers;
mod definitions;
mod definitions_feeds;
mod definitions_random;
mod definitions_seen;
mod definitions_world;
mod exceptions;
mod exits;
mod explain;
mod faults;
mod feeds;
mod follow;
mod forks_random;
mod interrupted;
mod isolation;
mod keys;
mod live;
mod live_handoff;
mod live_life;
mod live_race;
mod live_random;
mod live_world;
mod looking;
mod race_model;
mod replay;
mod role_transactions;
mod roles;
mod sequences;
mod snapshots;
mod support;
mod sync;
mod tenants;
mod transactions;
