//! What the settings of live queries come to.

use springhead_engine::live::LiveLimits;

use super::Config;

impl Config {
    /// Limits of live queries.
    #[must_use]
    pub fn live(&self) -> LiveLimits {
        LiveLimits {
            result_bytes: self.live_result_bytes.in_memory(),
            outbox_bytes: self.live_outbox_bytes.in_memory(),
            resume_changes: self.live_resume_changes,
            per_tenant: self.live_per_tenant,
            per_connection: self.live_per_connection,
            keys_by_parts: self.live_keys_by_parts,
            recompute_pause: self.live_recompute_pause,
        }
    }
}
