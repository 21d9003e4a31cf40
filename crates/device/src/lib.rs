//! The embedded client for devices: a database in the application's own process that works with no
//! network at all, and exchanges its changes with a server when there is one.
//!
//! ```no_run
//! # async fn tour() -> Result<(), springhead_device::DeviceError> {
//! let device = springhead_device::Device::open("todos.device").await?;
//! device.connect("ws://127.0.0.1:6480/sync", None)?;
//! device.subscribe(1, "todos", None, &[]).await?;
//! device.sql("UPDATE todos SET done = true WHERE id = 7", &[]).await?;
//! # Ok(()) }
//! ```
//!
//! [`Device`] is what an application holds. Rows, queue and everything else that must not be lost are
//! in a tenant of the engine ([`springhead_engine::device`]); [`conversation`] is the protocol's state
//! machine without a socket, [`link`] the socket, its retries and its token. docs/devices.md is the
//! tour, docs/sync-protocol.md what goes over the wire.

mod answer;
pub mod conversation;
mod device;
mod error;
mod identity;
mod link;
mod local;
mod presence;
mod reading;
mod status;

pub use answer::Answer;
pub use device::Device;
pub use error::DeviceError;
pub use link::TokenSource;
pub use presence::{Member, Members};
pub use springhead_engine::device::Edit;

pub use reading::{PendingMutation, RejectedMutation, ShapeState};
pub use springhead_proto::sync::{DeviceId, Shape, ShapeId};
pub use status::{Phase, Status};
