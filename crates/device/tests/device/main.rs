//! Devices: alone, and over sessions without sockets with a whole server engine.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod alone;
mod converge;
mod crdt;
mod link;
mod presence;
mod served;
mod support;
mod worlds;
