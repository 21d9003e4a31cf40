//! What the settings come to for each part of the server; HTTP's are in `crate::http`, standbys' beside
//! this.

use springhead_engine::EngineConfig;
use springhead_engine::confirm::SyncLevel;
use springhead_engine::live::LiveLimits;
use springhead_log::segment::SegmentConfig;

use super::Config;

impl Config {
    /// What the engine is opened with.
    #[must_use]
    pub fn engine(&self) -> EngineConfig {
        EngineConfig {
            device: false,
            data_dir: self.data_dir.clone(),
            states_may_be_missing: false,
            worker_threads: self.worker_threads,
            readers_per_tenant: self.readers_per_tenant,
            open_tenants: self.open_tenants,
            tenant_idle: self.tenant_idle,
            max_statement_bytes: self.max_statement_bytes.in_memory(),
            max_row_bytes: self.max_row_bytes.in_memory(),
            max_transaction_bytes: self.max_transaction_bytes.0,
            capture_memory_bytes: self.capture_memory_bytes.in_memory(),
            result_memory_bytes: self.result_memory_bytes.in_memory(),
            max_result_bytes: self.max_result_bytes.0,
            writer_queue_bytes: self.writer_queue_bytes.in_memory(),
            max_group: self.max_group,
            tail_memory_bytes: self.tail_memory_bytes.in_memory(),
            tail_read_bytes: self.tail_read_bytes.0,
            cache_bytes: self.cache_bytes.in_memory(),
            wal_limit_bytes: self.wal_limit_bytes.0,
            snapshot_max_age: self.snapshot_max_age,
            idle_in_transaction_timeout: self.idle_in_transaction_session_timeout,
            lock_timeout: self.lock_timeout,
            statement_timeout: self.statement_timeout,
            min_lsn_wait: self.min_lsn_wait,
            role: springhead_engine::role::NodeRole::Primary,
            synchronous_commit: SyncLevel::parse(&self.synchronous_commit).unwrap_or(SyncLevel::On),
            plan_cache: self.plan_cache,
            consumer_pin_cap_bytes: self.consumer_pin_cap_bytes.0,
            max_consumers: self.max_consumers,
            statement_memory_bytes: self.statement_memory_bytes.in_memory(),
            audit_rows: self.audit_rows,
            notify_transaction_bytes: self.notify_transaction_bytes.in_memory(),
            notify_queue_bytes: self.notify_queue_bytes.in_memory(),
            dead_letter_ttl: self.dead_letter_ttl,
            dead_letter_action: self.dead_letter_action,
            dead_letter_max_entries: self.dead_letter_max_entries,
            dead_letter_on_full: self.dead_letter_on_full,
            dead_letter_retention: self.dead_letter_retention,
            sync_clock_drift_ms: u64::try_from(self.sync_clock_drift.as_millis())
                .unwrap_or(u64::MAX),
            sync_settled_verdicts: self.sync_settled_verdicts,
            crdt_state_bytes: self.crdt_state_bytes.in_memory(),
            crdt_merge_updates: self.crdt_merge_updates,
        }
    }

    /// What a log on a local disk is opened with.
    #[must_use]
    pub fn segment_log(&self) -> SegmentConfig {
        SegmentConfig {
            segment_bytes: self.segment_bytes.0,
            large_commit_bytes: self.large_commit_bytes.0,
            batch_bytes: self.batch_bytes.0,
            commit_delay_us: u64::try_from(self.commit_delay.as_micros()).unwrap_or(u64::MAX),
            retain_bytes: self.retain_bytes.0,
            retain_ms: u64::try_from(self.retain_time.as_millis()).unwrap_or(u64::MAX),
            reserve_bytes: self.reserve_bytes.0,
            spare_segments: self.spare_segments,
            compress_level: self.compress_level,
            ..SegmentConfig::default()
        }
    }

    /// Limits of live queries.
    #[must_use]
    pub fn live(&self) -> LiveLimits {
        LiveLimits {
            result_bytes: self.live_result_bytes.in_memory(),
            outbox_bytes: self.live_outbox_bytes.in_memory(),
            resume_changes: self.live_resume_changes,
            resume_scan: self.live_resume_scan,
            per_tenant: self.live_per_tenant,
            per_connection: self.live_per_connection,
            keys_by_parts: self.live_keys_by_parts,
            recompute_pause: self.live_recompute_pause,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::http::HttpConfig;

    #[test]
    fn every_http_setting_reaches_http() {
        let found = HttpConfig::from(&Config::default());
        assert_eq!(format!("{found:?}"), format!("{:?}", HttpConfig::default()));
        let other = Config {
            filter_max_time: Duration::from_millis(7),
            poll_changes: 7,
            ..Config::default()
        };
        let found = HttpConfig::from(&other);
        assert_eq!((found.cdc.filter.max_ms, found.page_changes), (7, 7));
    }

    #[test]
    fn every_log_setting_reaches_the_log() {
        assert_eq!(Config::default().segment_log(), SegmentConfig::default());
    }

    #[test]
    fn every_engine_setting_reaches_the_engine() {
        let plain = EngineConfig::new(Config::default().data_dir);
        assert_eq!(
            format!("{:?}", Config::default().engine()),
            format!("{plain:?}")
        );
    }
}
