//! Limits of device sync. `server` fills them from the configuration.

use springhead_proto::sync::Limits;

/// See the module's text.
#[derive(Debug, Clone)]
pub struct SyncLimits {
    /// What devices are told and must keep to.
    pub device: Limits,
    /// Sessions of one tenant.
    pub sessions: usize,
    /// Mutations that one session may push in a second; in a burst, twice as many.
    pub mutations_per_s: u32,
    /// Bytes of a snapshot's rows that are kept in memory while they are sent; the rest waits in a
    /// temporary file.
    pub snapshot_memory_bytes: usize,
    /// Bytes of rows in one frame, roughly.
    pub chunk_bytes: usize,
    /// Devices that are in one presence channel.
    pub presence_members: usize,
}

impl Default for SyncLimits {
    fn default() -> SyncLimits {
        SyncLimits {
            device: Limits::default(),
            sessions: 50_000,
            mutations_per_s: 10_000,
            snapshot_memory_bytes: 128 << 10,
            chunk_bytes: 128 << 10,
            presence_members: 1_000,
        }
    }
}
