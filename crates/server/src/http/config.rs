//! Every limit of HTTP, with its default.

use std::time::Duration;

use springhead_engine::cdc::{CdcLimits, FilterLimits};
use springhead_engine::sync::SyncLimits;

use crate::config::Config;

/// What the HTTP side needs to know. Sizes in bytes.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// Connections at a time; more are answered 503 and closed.
    pub max_connections: usize,
    /// Longest body of a request.
    pub max_body_bytes: usize,
    /// Longest path and query.
    pub max_uri_bytes: usize,
    /// Longest head of a request, request line and all headers.
    pub max_head_bytes: usize,
    /// Headers of a request, at most.
    pub max_headers: usize,
    /// How long a client may take for the head of its first or next request.
    pub head_timeout: Duration,
    /// How long a client may take for the body of a request.
    pub body_timeout: Duration,
    /// Requests of one HTTP/2 connection at a time.
    pub max_streams: u32,
    /// Bytes of answers that wait for one client's socket.
    pub write_buffer_bytes: usize,
    /// A client that takes nothing of what it is sent for this long, or leaves a WebSocket's pings
    /// unanswered, is gone.
    pub peer_timeout: Duration,
    /// A stream that has sent nothing for this long sends a comment or its progress. Under 15 s.
    pub heartbeat: Duration,
    /// After how long a browser should connect again.
    pub retry: Duration,
    /// Changes of a page, if the client does not say.
    pub page_changes: u64,
    /// Changes of a page, at most.
    pub max_page_changes: u64,
    /// How long a poll may wait, at most.
    pub max_wait: Duration,
    /// Documents of a list, if the client does not say, and at most.
    pub list_documents: u64,
    pub max_list_documents: u64,
    /// Statements of one transaction request, at most.
    pub max_statements: usize,
    /// Host names beside the loopback ones that requests may name.
    pub allowed_hosts: Vec<String>,
    /// Origins beside its own from which browsers may call.
    pub cors_origins: Vec<String>,
    /// Limits of feeds and pages.
    pub cdc: CdcLimits,
    /// Limits of device sync.
    pub sync: SyncLimits,
}

impl Default for HttpConfig {
    fn default() -> HttpConfig {
        HttpConfig {
            max_connections: 20_000,
            max_body_bytes: 16 << 20,
            max_uri_bytes: 48 << 10,
            max_head_bytes: 64 << 10,
            max_headers: 100,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(60),
            max_streams: 250,
            write_buffer_bytes: 64 << 10,
            peer_timeout: Duration::from_secs(300),
            heartbeat: Duration::from_secs(10),
            retry: Duration::from_secs(1),
            page_changes: 100,
            max_page_changes: 10_000,
            max_wait: Duration::from_secs(60),
            list_documents: 100,
            max_list_documents: 10_000,
            max_statements: 1000,
            allowed_hosts: Vec::new(),
            cors_origins: Vec::new(),
            cdc: CdcLimits::default(),
            sync: SyncLimits::default(),
        }
    }
}

impl From<&Config> for HttpConfig {
    fn from(config: &Config) -> HttpConfig {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let defaults = HttpConfig::default();
        HttpConfig {
            max_connections: config.http_max_connections,
            max_body_bytes: config.http_max_body_bytes.in_memory(),
            max_uri_bytes: config.http_max_uri_bytes.in_memory(),
            max_head_bytes: config.http_max_head_bytes.in_memory(),
            max_headers: config.http_max_headers,
            head_timeout: config.http_head_timeout,
            body_timeout: config.http_body_timeout,
            max_streams: config.http_max_streams,
            write_buffer_bytes: config.http_write_buffer_bytes.in_memory(),
            peer_timeout: config.http_peer_timeout,
            heartbeat: config.sse_heartbeat,
            retry: config.sse_retry,
            page_changes: config.poll_changes,
            max_page_changes: config.poll_max_changes,
            max_wait: config.poll_max_wait,
            list_documents: config.list_documents,
            max_list_documents: config.list_max_documents,
            max_statements: config.http_max_statements,
            allowed_hosts: config.allowed_hosts.clone(),
            cors_origins: config.cors_origins.clone(),
            cdc: CdcLimits {
                filter: FilterLimits {
                    max_bytes: config.filter_max_bytes.in_memory(),
                    max_instructions: config.filter_max_instructions,
                    max_ms: ms(config.filter_max_time),
                    max_value_bytes: config.filter_max_value_bytes.in_memory(),
                    ..defaults.cdc.filter
                },
                page_scan_ms: ms(config.poll_scan_time),
                ..defaults.cdc
            },
            sync: sync_limits(config),
        }
    }
}

fn sync_limits(config: &Config) -> SyncLimits {
    let defaults = SyncLimits::default();
    let bytes = |size: crate::config::Size| u32::try_from(size.in_memory()).unwrap_or(u32::MAX);
    let ms = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
    SyncLimits {
        device: springhead_proto::sync::Limits {
            max_frame_bytes: bytes(config.sync_max_frame_bytes),
            max_mutation_bytes: bytes(config.sync_max_mutation_bytes),
            max_push_mutations: config.sync_max_push_mutations,
            max_in_flight: config.sync_max_in_flight,
            max_shapes: config.sync_max_shapes,
            ping_interval_ms: ms(config.sync_ping_interval),
            idle_timeout_ms: ms(config.sync_idle_timeout),
            max_clock_drift_ms: ms(config.sync_clock_drift),
            ..defaults.device
        },
        sessions: config.sync_sessions,
        mutations_per_s: config.sync_mutations_per_s,
        snapshot_memory_bytes: config.sync_snapshot_memory_bytes.in_memory(),
        ..defaults
    }
}
