//! Every limit of the engine, with its default. `server` fills it from flags, environment and file.

use std::path::PathBuf;
use std::time::Duration;

use crate::confirm::SyncLevel;
use crate::dead_letters::{Action, OnFull};
use crate::role::NodeRole;

/// What an engine needs to know to open. Sizes in bytes.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Holds `tenants/` and `tmp/`; created if absent.
    pub data_dir: PathBuf,
    /// Whether a tenant without a state file is one that the log has made since the files were copied,
    /// and not one whose file is lost. Only while a node is restored.
    pub states_may_be_missing: bool,
    /// Threads that run writers and readers; each has at most this many at work.
    pub worker_threads: usize,
    /// Snapshot readers (SQLite connections) kept open per tenant.
    pub readers_per_tenant: usize,
    /// Tenants kept open when idle; the least recently used are closed beyond it, at the latest when an
    /// eighth as many have been opened since.
    pub open_tenants: usize,
    /// A tenant without a request for this long is closed.
    pub tenant_idle: Duration,
    /// Longest statement text.
    pub max_statement_bytes: usize,
    /// Longest value or row.
    pub max_row_bytes: usize,
    /// Largest transaction, as captured.
    pub max_transaction_bytes: u64,
    /// Capture beyond this goes to a temporary file.
    pub capture_memory_bytes: usize,
    /// A result beyond this goes to a temporary file.
    pub result_memory_bytes: usize,
    /// Largest result, in memory and file together.
    pub max_result_bytes: u64,
    /// Bytes of statements and parameters waiting for one tenant's writer.
    pub writer_queue_bytes: usize,
    /// Statements that one group commit may join.
    pub max_group: usize,
    /// Bytes of recent commits per tenant that followers read from memory.
    pub tail_memory_bytes: usize,
    /// Bytes of log that one catch-up read scans.
    pub tail_read_bytes: u64,
    /// SQLite's page cache of a writer and of each reader.
    pub cache_bytes: usize,
    /// Past this size of SQLite's WAL new snapshots wait until it is truncated.
    pub wal_limit_bytes: u64,
    /// A snapshot older than this is ended with 72000.
    pub snapshot_max_age: Duration,
    /// An idle transaction that holds the writer is ended after this; `None` for never.
    pub idle_in_transaction_timeout: Option<Duration>,
    /// How long a statement waits for the writer; `None` for ever.
    pub lock_timeout: Option<Duration>,
    /// How long a statement may run; `None` for ever.
    pub statement_timeout: Option<Duration>,
    /// How long a request with `min_lsn` waits for it.
    pub min_lsn_wait: Duration,
    /// What the node is when it opens.
    pub role: NodeRole,
    /// How safe a commit is when its client is told, unless the session says otherwise.
    pub synchronous_commit: SyncLevel,
    /// Plans kept per tenant.
    pub plan_cache: usize,
    /// How much a consumer's pin may hold back retention, at most.
    pub consumer_pin_cap_bytes: u64,
    /// Consumers per tenant.
    pub max_consumers: usize,
    /// What SQLite may take of memory for one statement.
    pub statement_memory_bytes: usize,
    /// Entries of the audit that are kept; older ones are deleted.
    pub audit_rows: u64,
    /// Messages (NOTIFY) of one transaction, in bytes.
    pub notify_transaction_bytes: usize,
    /// The default tenant holds part of a server's data, and this device's own writes until the
    /// server has decided them ([`crate::device`]).
    pub device: bool,
    /// Messages that wait for one listener in memory, in bytes; further ones it reads from the log.
    pub notify_queue_bytes: usize,
    /// How long a dead letter waits from its first rejection, where no policy says otherwise.
    pub dead_letter_ttl: Duration,
    /// What happens to it then, where no policy says otherwise.
    pub dead_letter_action: Action,
    /// Unresolved dead letters per collection, where no policy says otherwise.
    pub dead_letter_max_entries: u64,
    /// What happens to the next, where no policy says otherwise.
    pub dead_letter_on_full: OnFull,
    /// How long resolved dead letters and escalations are kept.
    pub dead_letter_retention: Duration,
    /// How far a device's clock may be ahead of the server's, where clocks decide conflicts.
    pub sync_clock_drift_ms: u64,
    /// Verdicts of one device that are kept after it has acknowledged them: a copy of it that pushes
    /// what the original has settled gets them again. What is older becomes a dead letter.
    pub sync_settled_verdicts: u64,
    /// The edits that one CRDT column of one row comes of, in bytes.
    pub crdt_state_bytes: usize,
    /// After so many edits those of a CRDT column are made one; deleted text is then forgotten.
    pub crdt_merge_updates: usize,
}

impl EngineConfig {
    /// The defaults, for a data directory.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> EngineConfig {
        const MIB: usize = 1 << 20;
        EngineConfig {
            data_dir: data_dir.into(),
            states_may_be_missing: false,
            worker_threads: 8,
            readers_per_tenant: 4,
            open_tenants: 256,
            tenant_idle: Duration::from_secs(300),
            max_statement_bytes: 16 * MIB,
            max_row_bytes: 64 * MIB,
            max_transaction_bytes: 1 << 30,
            capture_memory_bytes: 16 * MIB,
            result_memory_bytes: 4 * MIB,
            max_result_bytes: 4 << 30,
            writer_queue_bytes: 64 * MIB,
            max_group: 1024,
            tail_memory_bytes: 8 * MIB,
            tail_read_bytes: 1 << 20,
            cache_bytes: 16 * MIB,
            wal_limit_bytes: 256 << 20,
            snapshot_max_age: Duration::from_secs(60),
            idle_in_transaction_timeout: Some(Duration::from_secs(10)),
            lock_timeout: None,
            statement_timeout: None,
            min_lsn_wait: Duration::from_secs(10),
            role: NodeRole::Primary,
            synchronous_commit: SyncLevel::On,
            plan_cache: 1024,
            consumer_pin_cap_bytes: 10 << 30,
            max_consumers: 1000,
            statement_memory_bytes: 1024 * MIB,
            audit_rows: 100_000,
            notify_transaction_bytes: 64 * MIB,
            device: false,
            notify_queue_bytes: 256 << 10,
            dead_letter_ttl: Duration::from_secs(72 * 3600),
            dead_letter_action: Action::Escalate,
            dead_letter_max_entries: 10_000,
            dead_letter_on_full: OnFull::Escalate,
            dead_letter_retention: Duration::from_secs(30 * 86_400),
            sync_clock_drift_ms: 60_000,
            sync_settled_verdicts: 200,
            crdt_state_bytes: MIB / 2,
            crdt_merge_updates: 64,
        }
    }
}
