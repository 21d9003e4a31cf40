//! Change data capture: from the tail's blocks to events, filters, pages, snapshots and consumers,
//! without sockets. `server` streams what comes from here.

/// Encodings of one block's events, made once and shared by all subscribers of the same kind.
#[derive(Default)]
pub struct RenderCache {}
