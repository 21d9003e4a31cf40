//! Faults and what must hold in spite of them: crash scenarios on the real server process, and the
//! checker of their histories.
//!
//! A scenario ([`scenario`]) starts the real binary ([`process`]), lets seeded writers ([`load`])
//! and readers ([`followers`]) at it over its own protocols ([`client`]), kills or harms it, starts
//! it again, and hands everything that happened ([`history`]) to the [`checker`]. The tests and
//! `cargo xtask soak` call it; nothing else does. It uses none of Springhead's other crates for
//! that: what is checked is what a user could see. The simulated disk ([`disk`]) stands beside: the
//! log's own tests run on it.

pub mod checker;
pub mod client;
pub mod disk;
pub mod fixture;
pub mod followers;
pub mod history;
pub mod load;
pub mod matrix;
pub mod process;
pub mod rng;
pub mod scenario;
pub mod world;

/// Every failpoint of the server: each must be in the crash matrix.
#[must_use]
pub fn failpoints() -> Vec<&'static str> {
    springhead_log::failpoint::LOG_FAILPOINTS.to_vec()
}
