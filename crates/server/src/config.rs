//! Every setting of the server: its name, meaning and default. Where its value comes from is in `load`
//! (flags, then environment, then file, then default); what it comes to, in `parts`.
//!
//! Owns the names; `main` loads once, everyone else reads [`Config`]'s fields. Reads no clock,
//! opens nothing but the configuration file.

mod error;
mod load;
mod parts;
mod reference;
mod standbys;
mod value;

use std::path::PathBuf;
use std::time::Duration;

use springhead_engine::EngineConfig;
use springhead_engine::dead_letters::{Action, OnFull};
use springhead_engine::live::LiveLimits;
use springhead_log::segment::SegmentConfig;

use crate::http::HttpConfig;

pub use error::{ConfigError, Source};
pub use reference::markdown;
pub use value::{SettingValue, Size};

/// What environment variables of settings start with.
pub const ENVIRONMENT_PREFIX: &str = "SPRINGHEAD_";

/// The file that is read if it is there and no other is named.
pub const DEFAULT_FILE: &str = "springhead.toml";

/// Variables with the prefix that are no settings.
const OTHER_VARIABLES: [&str; 5] = ["CONFIG", "FAILPOINT", "TLS_CA", "TOKEN", "UPDATE_GOLDEN"];

/// One setting, described.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its one name, `with_underscores`.
    pub name: &'static str,
    pub section: &'static str,
    /// What a value looks like.
    pub kind: &'static str,
    lines: &'static [&'static str],
}

impl Key {
    /// What it means, in one line.
    #[must_use]
    pub fn text(&self) -> String {
        self.lines
            .iter()
            .map(|line| line.trim())
            .collect::<Vec<_>>()
            .join(" ")
    }
}

macro_rules! settings {
    ($(section $section:literal { $($(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:expr;)+ })+) => {
        /// The values in force.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Config {
            $($($(#[doc = $doc])+ pub $name: $type,)+)+
        }

        impl Default for Config {
            fn default() -> Config {
                Config { $($($name: $default,)+)+ }
            }
        }

        /// Every setting, in the order of the documentation.
        pub const KEYS: &[Key] = &[$($(Key {
            name: stringify!($name),
            section: $section,
            kind: <$type as SettingValue>::KIND,
            lines: &[$($doc),+],
        },)+)+];

        impl Config {
            /// Sets one value from its text.
            ///
            /// # Errors
            /// What was expected instead; `None` where no setting has that name.
            fn set(&mut self, name: &str, text: &str) -> Result<(), Option<String>> {
                match name {
                    $($(stringify!($name) => self.$name = <$type as SettingValue>::read(text).map_err(Some)?,)+)+
                    _ => return Err(None),
                }
                Ok(())
            }

            /// One value as text; `None` where no setting has that name.
            #[must_use]
            pub fn get(&self, name: &str) -> Option<String> {
                match name {
                    $($(stringify!($name) => Some(self.$name.text()),)+)+
                    _ => None,
                }
            }

            fn toml(&self, name: &str) -> Option<String> {
                match name {
                    $($(stringify!($name) => Some(self.$name.toml()),)+)+
                    _ => None,
                }
            }
        }
    };
}

fn engine() -> EngineConfig {
    EngineConfig::new("")
}

fn http() -> HttpConfig {
    HttpConfig::default()
}

fn log() -> SegmentConfig {
    SegmentConfig::default()
}

settings! {
    section "Places" {
        /// Where everything is kept; made at the first start. One process at a time.
        data_dir: PathBuf = PathBuf::from("springhead-data");
        /// Address of the PostgreSQL protocol. Without users, loopback only.
        pg: String = "127.0.0.1:6432".to_owned();
        /// Address of HTTP. Without users, loopback only.
        http: String = "127.0.0.1:6480".to_owned();
    }
    section "Server" {
        /// What is written to standard error: error, warn, info, debug, trace, or per module as in
        /// `info,springhead_engine=debug`.
        log_level: String = "info".to_owned();
        /// Threads that serve sockets; 0 for one per core.
        network_threads: usize = 0;
        /// How long a stop waits for running statements and streams before it ends them.
        shutdown_grace: Duration = Duration::from_secs(10);
        /// How often retention and checkpoints are looked after.
        maintenance_interval: Duration = Duration::from_secs(10);
    }
    section "PostgreSQL protocol" {
        /// Connections at a time; more are refused with 53300.
        pg_max_connections: usize = 2000;
        /// Connections at a time to one tenant; more are refused with 53300.
        pg_max_connections_per_tenant: usize = 1000;
        /// Longest message of a client; a longer one ends the connection with 08P01.
        pg_max_message_bytes: Size = Size(64 << 20);
        /// How long a client may take to say who it is.
        pg_startup_timeout: Duration = Duration::from_secs(10);
        /// Bytes of answers that wait for one client's socket; beyond it the result waits where it is.
        pg_write_buffer_bytes: Size = Size(64 << 10);
        /// A client that takes none of its answer for this long is disconnected.
        pg_write_stall_timeout: Option<Duration> = Some(Duration::from_secs(300));
        /// A silent peer is probed after this, and given up if it does not answer.
        pg_keepalive: Option<Duration> = Some(Duration::from_secs(60));
        /// Prepared statements and portals, each, that one connection may hold.
        pg_max_prepared: usize = 10_000;
    }
    section "HTTP" {
        /// Connections at a time; more are refused with 503.
        http_max_connections: usize = http().max_connections;
        /// Longest body of a request; a longer one is refused with 413.
        http_max_body_bytes: Size = Size::of(http().max_body_bytes);
        /// Longest path and query; a longer one is refused with 414.
        http_max_uri_bytes: Size = Size::of(http().max_uri_bytes);
        /// Longest head of a request, request line and all headers.
        http_max_head_bytes: Size = Size::of(http().max_head_bytes);
        /// Headers of a request, at most.
        http_max_headers: usize = http().max_headers;
        /// How long a client may take for the head of its first or next request.
        http_head_timeout: Duration = http().head_timeout;
        /// How long a client may take for the body of a request.
        http_body_timeout: Duration = http().body_timeout;
        /// Requests of one HTTP/2 connection at a time.
        http_max_streams: u32 = http().max_streams;
        /// Bytes of answers that wait for one client's socket.
        http_write_buffer_bytes: Size = Size::of(http().write_buffer_bytes);
        /// A client that takes nothing of what it is sent for this long, or leaves a WebSocket's pings
        /// unanswered, is gone.
        http_peer_timeout: Duration = http().peer_timeout;
        /// Statements of one transaction request, at most.
        http_max_statements: usize = http().max_statements;
        /// Host names beside the loopback ones that requests may name (against DNS rebinding).
        allowed_hosts: Vec<String> = http().allowed_hosts;
        /// Origins beside its own from which browsers may call, such as `https://app.example.org`.
        cors_origins: Vec<String> = http().cors_origins;
    }
    section "Change feeds" {
        /// A stream that has sent nothing for this long sends a comment or its progress; under 15 s.
        sse_heartbeat: Duration = http().heartbeat;
        /// After how long a browser should connect again.
        sse_retry: Duration = http().retry;
        /// Changes of a polled page, if the client does not say.
        poll_changes: u64 = http().page_changes;
        /// Changes of a polled page, at most.
        poll_max_changes: u64 = http().max_page_changes;
        /// How long a poll may wait, at most.
        poll_max_wait: Duration = http().max_wait;
        /// How long one polled page scans the log, at most.
        poll_scan_time: Duration = Duration::from_millis(http().cdc.page_scan_ms);
        /// Documents of a list, if the client does not say.
        list_documents: u64 = http().list_documents;
        /// Documents of a list, at most.
        list_max_documents: u64 = http().max_list_documents;
        /// Longest condition of a feed (`where=`).
        filter_max_bytes: Size = Size::of(http().cdc.filter.max_bytes);
        /// SQLite instructions that a condition may take for one row.
        filter_max_instructions: u32 = http().cdc.filter.max_instructions;
        /// How long a condition may take for one row, functions included.
        filter_max_time: Duration = Duration::from_millis(http().cdc.filter.max_ms);
        /// Longest value that a condition may make.
        filter_max_value_bytes: Size = Size::of(http().cdc.filter.max_value_bytes);
    }
    section "Live queries" {
        /// Largest result of a live query that is kept; a larger one is refused or ended with 54000.
        live_result_bytes: Size = Size::of(LiveLimits::default().result_bytes);
        /// Changes that wait for one connection; past it, it gets their net difference instead.
        live_outbox_bytes: Size = Size::of(LiveLimits::default().outbox_bytes);
        /// Rows of a net difference, and changes gone through where it is not a filter's of one table; past it: refetch.
        live_resume_changes: u64 = LiveLimits::default().resume_changes;
        /// Changes gone through for the net difference of a filter of one table, or a device's shape; past it: refetch.
        live_resume_scan: u64 = LiveLimits::default().resume_scan;
        /// Live queries of one tenant at a time; more are refused with 53300.
        live_per_tenant: usize = LiveLimits::default().per_tenant;
        /// Live queries of one connection at a time; more are refused with 53300.
        live_per_connection: usize = LiveLimits::default().per_connection;
        /// Rows of one commit that joins and groups follow one by one; with more they are evaluated as a whole.
        live_keys_by_parts: usize = LiveLimits::default().keys_by_parts;
        /// Pause between two evaluations of a live query with `WITH (recompute)`.
        live_recompute_pause: Duration = LiveLimits::default().recompute_pause;
    }
    section "Devices" {
        /// Longest frame of a device's session, in both directions; at most 16 MiB.
        sync_max_frame_bytes: Size = Size(u64::from(http().sync.device.max_frame_bytes));
        /// Largest mutation; a larger one is rejected as too_large.
        sync_max_mutation_bytes: Size = Size(u64::from(http().sync.device.max_mutation_bytes));
        /// Mutations of one push.
        sync_max_push_mutations: u32 = http().sync.device.max_push_mutations;
        /// Mutations of one session that wait for their verdicts.
        sync_max_in_flight: u32 = http().sync.device.max_in_flight;
        /// Shapes of one session.
        sync_max_shapes: u32 = http().sync.device.max_shapes;
        /// A quiet session is pinged this often.
        sync_ping_interval: Duration = Duration::from_millis(u64::from(http().sync.device.ping_interval_ms));
        /// A device that is silent for this long is gone.
        sync_idle_timeout: Duration = Duration::from_millis(u64::from(http().sync.device.idle_timeout_ms));
        /// How far a mutation's clock may be ahead of the server's; beyond it the server's counts.
        sync_clock_drift: Duration = Duration::from_millis(u64::from(http().sync.device.max_clock_drift_ms));
        /// Verdicts of one device that are kept after it has acknowledged them, for copies of its files.
        sync_settled_verdicts: u64 = engine().sync_settled_verdicts;
        /// The edits that one CRDT column of one row comes of; a mutation with more is rejected as too_large.
        crdt_state_bytes: Size = Size::of(engine().crdt_state_bytes);
        /// After so many edits those of a CRDT column are made one; deleted text is then forgotten.
        crdt_merge_updates: usize = engine().crdt_merge_updates;
        /// Sessions of one tenant.
        sync_sessions: usize = http().sync.sessions;
        /// Mutations that one session may push in a second; in a burst, twice as many.
        sync_mutations_per_s: u32 = http().sync.mutations_per_s;
        /// Rows of one snapshot that are kept in memory while they are sent; others wait in a file.
        sync_snapshot_memory_bytes: Size = Size::of(http().sync.snapshot_memory_bytes);
    }
    section "Log" {
        /// Length of a segment's file; at least 64 KiB, at most 2 GiB.
        segment_bytes: Size = Size(log().segment_bytes);
        /// A commit with more changes than this is written as a run of frames.
        large_commit_bytes: Size = Size(log().large_commit_bytes);
        /// About how much one flush makes durable at most.
        batch_bytes: Size = Size(log().batch_bytes);
        /// How long the first commit of a batch waits for others; 0 for not at all.
        commit_delay: Duration = Duration::from_micros(log().commit_delay_us);
        /// Retention keeps at least this much log …
        retain_bytes: Size = Size(log().retain_bytes);
        /// … and trims segments that were sealed longer ago than this, in time that the server ran.
        retain_time: Duration = Duration::from_millis(log().retain_ms);
        /// Writes are refused with 53100 while the disk has less than this left.
        reserve_bytes: Size = Size(log().reserve_bytes);
        /// Files of trimmed segments that are kept for new ones.
        spare_segments: usize = log().spare_segments;
        /// The zstd level that sealed segments are compressed at.
        compress_level: Option<i32> = log().compress_level;
    }
    section "Engine" {
        /// Threads that run statements; each of writers and readers has at most this many at work.
        worker_threads: usize = engine().worker_threads;
        /// Snapshot readers kept open per tenant.
        readers_per_tenant: usize = engine().readers_per_tenant;
        /// Tenants kept open when idle; the least recently used are closed beyond it, at the latest when an eighth as many have been opened since.
        open_tenants: usize = engine().open_tenants;
        /// A tenant without a request for this long is closed.
        tenant_idle: Duration = engine().tenant_idle;
        /// SQLite's page cache of each writer and reader.
        cache_bytes: Size = Size::of(engine().cache_bytes);
        /// Plans of statements kept per tenant.
        plan_cache: usize = engine().plan_cache;
        /// Statements that one group commit may join.
        max_group: usize = engine().max_group;
        /// Statements and parameters that may wait for one tenant's writer, in bytes.
        writer_queue_bytes: Size = Size::of(engine().writer_queue_bytes);
        /// Recent commits per tenant that followers read from memory.
        tail_memory_bytes: Size = Size::of(engine().tail_memory_bytes);
        /// Log that one catch-up read scans at a time.
        tail_read_bytes: Size = Size(engine().tail_read_bytes);
    }
    section "Limits of statements" {
        /// Longest statement; 54000 beyond it.
        max_statement_bytes: Size = Size::of(engine().max_statement_bytes);
        /// Longest value or row; 54000 beyond it.
        max_row_bytes: Size = Size::of(engine().max_row_bytes);
        /// Largest transaction, as it goes into the log; 54000 beyond it.
        max_transaction_bytes: Size = Size(engine().max_transaction_bytes);
        /// A transaction's changes beyond this go to a temporary file.
        capture_memory_bytes: Size = Size::of(engine().capture_memory_bytes);
        /// A result beyond this goes to a temporary file.
        result_memory_bytes: Size = Size::of(engine().result_memory_bytes);
        /// Largest result, in memory and file together; 54000 beyond it.
        max_result_bytes: Size = Size(engine().max_result_bytes);
        /// What SQLite may take of memory for one statement, sorts and aggregates above all; 53200
        /// beyond it.
        statement_memory_bytes: Size = Size::of(engine().statement_memory_bytes);
        /// How long a statement may run (57014); a session may set its own.
        statement_timeout: Option<Duration> = engine().statement_timeout;
        /// How long a statement waits for the writer (55P03); a session may set its own.
        lock_timeout: Option<Duration> = engine().lock_timeout;
        /// An idle transaction that holds the writer is ended after this (25P03); a session may set
        /// its own.
        idle_in_transaction_session_timeout: Option<Duration> = engine().idle_in_transaction_timeout;
        /// Messages (NOTIFY) of one transaction; 54000 beyond it.
        notify_transaction_bytes: Size = Size::of(engine().notify_transaction_bytes);
        /// Messages that wait for one listener in memory; further ones it reads from the log.
        notify_queue_bytes: Size = Size::of(engine().notify_queue_bytes);
        /// How long a request with `min_lsn` waits for it.
        min_lsn_wait: Duration = engine().min_lsn_wait;
        /// A snapshot older than this is ended with 72000.
        snapshot_max_age: Duration = engine().snapshot_max_age;
        /// Past this size of SQLite's WAL new snapshots wait until it is truncated.
        wal_limit_bytes: Size = Size(engine().wal_limit_bytes);
    }
    section "Users" {
        /// File of the certificate and its chain (PEM); with it both protocols speak TLS. Read again
        /// when it changes, and on SIGHUP.
        tls_certificate: String = String::new();
        /// File of the certificate's private key (PEM).
        tls_key: String = String::new();
        /// Whether connections without TLS are refused, once there are users.
        tls_required: bool = false;
        /// Failed logins of a user from an address that cost nothing; ten times as many of any users.
        login_free_failures: u32 = 5;
        /// How long the next login is refused after one more failure; doubles with each.
        login_delay: Duration = Duration::from_secs(1);
        /// The longest delay.
        login_delay_max: Duration = Duration::from_secs(60);
        /// File of the secret that HS256 tokens (JWT) are signed with; 32 bytes at least.
        jwt_secret_file: String = String::new();
        /// File of the keys (JWKS) that RS256 and ES256 tokens are signed with. Read again when it
        /// changes, and on SIGHUP.
        jwt_jwks_file: String = String::new();
        /// An https URL to fetch those keys from, on a public address; in place of the file.
        jwt_jwks_url: String = String::new();
        /// How often keys are fetched from the URL.
        jwt_jwks_refresh: Duration = Duration::from_secs(300);
        /// The issuer (`iss`) that tokens must name; anyone's if empty.
        jwt_issuer: String = String::new();
        /// The audience (`aud`) that tokens must name; anyone's if empty.
        jwt_audience: String = String::new();
        /// How far the issuer's clock may be off.
        jwt_leeway: Duration = Duration::from_secs(30);
        /// The claim that names the role.
        jwt_role_claim: String = "role".to_owned();
        /// The claim that names the tenant.
        jwt_tenant_claim: String = "tenant".to_owned();
        /// The claim that `auth.uid()` gives.
        jwt_uid_claim: String = "sub".to_owned();
        /// How long the cookie of a session is good.
        session_lifetime: Duration = Duration::from_secs(12 * 3600);
        /// How long a ticket is good.
        ticket_lifetime: Duration = Duration::from_secs(3600);
        /// Requests and statements per second of one user; more are refused with 53400 (429). 0 for any
        /// number.
        rate_limit_per_user: u32 = 0;
        /// Requests per second from one address, over HTTP; 0 for any number.
        rate_limit_per_address: u32 = 0;
        /// Requests and statements per second in one tenant; 0 for any number.
        rate_limit_per_tenant: u32 = 0;
        /// Entries of the audit that are kept; older ones are deleted.
        audit_rows: u64 = engine().audit_rows;
    }
    section "Dead letters" {
        /// How long a dead letter waits from its first rejection, where its collection has no policy of
        /// its own.
        dead_letter_ttl: Duration = engine().dead_letter_ttl;
        /// What happens to it then: `drop`, `escalate` or `force_apply_lww`.
        dead_letter_action: Action = engine().dead_letter_action;
        /// Unresolved dead letters of one collection.
        dead_letter_max_entries: u64 = engine().dead_letter_max_entries;
        /// What happens to the next: `escalate` (the oldest makes room) or `reject_push` (the device
        /// comes back later).
        dead_letter_on_full: OnFull = engine().dead_letter_on_full;
        /// How long resolved dead letters and escalations are kept.
        dead_letter_retention: Duration = engine().dead_letter_retention;
        /// How often is looked for dead letters that are due.
        dead_letter_sweep_interval: Duration = Duration::from_secs(1);
    }
    section "Standbys" {
        /// Address of the node to follow, as in `http://primary:6480`; this node begins as its standby.
        /// Once a node has changed its role (`role.json` in its data directory), that counts instead.
        standby_of: String = String::new();
        /// What all nodes of a cluster know and prove to one another; needed once there are users.
        standby_token: String = String::new();
        /// What this node is called, in `synchronous_standbys` too; its HTTP address if empty.
        node_name: String = String::new();
        /// Where other nodes and their clients reach this one over HTTP, as in `http://host:6480`; made
        /// from `http` if empty.
        advertise: String = String::new();
        /// Other nodes that may have become primary while this one was away; asked before it takes
        /// writes. Its own standbys are known anyway.
        standby_peers: Vec<String> = Vec::new();
        /// File of the certificate authorities (PEM) that other nodes' certificates are of, for https;
        /// the system's if empty.
        standby_ca: String = String::new();
        /// How safe a commit is when its client is told, unless the session says otherwise: off, local,
        /// remote_write, on, remote_apply. The last three wait for `synchronous_standbys`.
        synchronous_commit: String = engine().synchronous_commit.name().to_owned();
        /// The standbys that commits wait for: `ANY 1 (a, b)`, `FIRST 1 (a, b)` by priority, or names;
        /// nobody if empty.
        synchronous_standbys: String = String::new();
        /// After how many milliseconds without a standby commits are answered without one; 0: they wait.
        async_after_ms: u64 = 0;
        /// Log that one standby may hold back from retention; past it the standby needs a base backup.
        standby_slot_bytes: Size = Size(springhead_log::segment::DEFAULT_PIN_CAP_BYTES);
        /// How long the copy stays that a base backup which was cut was being sent from, so that it goes on
        /// in the middle of a file.
        standby_base_keep: Duration = Duration::from_mins(10);
        /// How often nodes say that they are there.
        standby_heartbeat: Duration = Duration::from_secs(1);
        /// A node that was not heard for so long is gone.
        standby_timeout: Duration = Duration::from_secs(10);
    }
    section "Automatic promotion" {
        /// Address of the witness (`springhead witness`), as in `http://witness:6480`, the same on all
        /// `failover_nodes`: with it one of them takes over by itself when the primary is gone. Without
        /// it promotion is by command.
        witness: String = String::new();
        /// The names (`node_name`) of the nodes that may lead, the same list on all of them; two to five.
        failover_nodes: Vec<String> = Vec::new();
        /// A primary that was not heard for so long is replaced, and gives up a little sooner itself; a
        /// standby in sync that was not heard for so long is not waited for any more. The same on all
        /// nodes and on the witness.
        failover_timeout: Duration = Duration::from_secs(10);
    }
    section "Backup" {
        /// A directory that sealed segments of the log are copied into, for restoring to any point.
        archive_dir: String = String::new();
        /// A command that archives one file, in place of a directory: `%p` is where the file is, `%f`
        /// the name to keep it under. It must end with 0 once the file is safe.
        archive_command: String = String::new();
        /// How long the command may take for one file; then it is ended, and tried again.
        archive_command_timeout: Duration = Duration::from_secs(300);
        /// A segment that is not full is archived after this long, if anything is in it.
        archive_timeout: Option<Duration> = None;
        /// Log that waits for the archive, at most; past it, it is trimmed, and the archive has a gap.
        archive_pin_cap_bytes: Size = Size(10 << 30);
        /// Log that one running backup may hold back from retention.
        backup_pin_cap_bytes: Size = Size(10 << 30);
        /// Backups at a time; more are refused with 53300.
        max_backups: usize = 2;
    }
    section "Consumers" {
        /// Named consumers per tenant.
        max_consumers: usize = engine().max_consumers;
        /// Log that one consumer may hold back from retention; past it the consumer is expired.
        consumer_pin_cap_bytes: Size = Size(engine().consumer_pin_cap_bytes);
    }
}
