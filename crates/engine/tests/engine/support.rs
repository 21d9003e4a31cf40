//! What the tests are written in: a node that can be closed and opened again, clients that run SQL
//! and see texts, tails read as plain changes, and a log that fails when told to.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, OpenFlags};
use springhead_engine::{
    Engine, EngineConfig, EngineError, Entropy, Session, TailError, TailReader, Tenant,
    TransactionStatus,
};
use springhead_log::segment::{SegmentConfig, SegmentLog};
use springhead_log::{
    AppendError, Appended, EpochRecord, Log, LogError, LogReader, LogStats, ManualClock,
    PendingCommit, Pin, ReadFilter, RefusedReason, TailPosition, memory::MemoryLog,
};
use springhead_proto::{
    ChangeKind, Changes, CollectionId, Epoch, Lsn, SchemaVersion, SqlError, TenantId, TimestampMs,
    Value,
};
use springhead_sql::types::text::output_text;

mod nodes;

pub use nodes::{Kept, Stopped};

/// Bytes that anyone can predict.
#[derive(Default)]
pub struct Counting(AtomicU64);

impl Entropy for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            // splitmix64
            let mut z = self
                .0
                .fetch_add(1, Ordering::Relaxed)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}

/// A log that refuses, breaks or stands still when told to.
pub struct FaultyLog {
    inner: Arc<dyn Log>,
    refuses: AtomicBool,
    breaks: AtomicBool,
    panics: AtomicBool,
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Default)]
struct Held {
    holds: bool,
    waiting: usize,
}

impl FaultyLog {
    /// Appends are refused, as on a disk that is nearly full, until told otherwise.
    pub fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }

    /// The next append reaches the log, and its flush fails.
    pub fn poison(&self) {
        self.breaks.store(true, Ordering::SeqCst);
    }

    /// The next append panics, as code with a mistake does.
    pub fn panic(&self) {
        self.panics.store(true, Ordering::SeqCst);
    }

    /// Appends wait until [`FaultyLog::release`].
    pub fn hold(&self) {
        self.held.lock().holds = true;
    }

    /// Lets appends through again.
    pub fn release(&self) {
        self.held.lock().holds = false;
        self.changed.notify_all();
    }

    /// Blocks until an append waits.
    pub async fn held(&self) {
        loop {
            if self.held.lock().waiting > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Log for FaultyLog {
    fn append(&self, commits: Vec<PendingCommit>) -> Result<Appended, AppendError> {
        {
            let mut held = self.held.lock();
            held.waiting += 1;
            while held.holds {
                self.changed.wait(&mut held);
            }
            held.waiting -= 1;
        }
        if self.refuses.load(Ordering::SeqCst) {
            let reason = RefusedReason::DiskReserve {
                available_bytes: 1,
                reserve_bytes: 2,
            };
            return Err(AppendError::Refused(reason));
        }
        assert!(
            !self.panics.load(Ordering::SeqCst),
            "the log was told to panic"
        );
        if self.breaks.load(Ordering::SeqCst) {
            return Err(AppendError::Poisoned(
                "fdatasync: input/output error".into(),
            ));
        }
        self.inner.append(commits)
    }

    fn reader(&self, from: Lsn, filter: ReadFilter) -> Result<Box<dyn LogReader>, LogError> {
        self.inner.reader(from, filter)
    }

    fn lsn_at_time(&self, time: TimestampMs) -> Result<Lsn, LogError> {
        self.inner.lsn_at_time(time)
    }

    fn tail(&self) -> TailPosition {
        self.inner.tail()
    }

    fn earliest(&self) -> Lsn {
        self.inner.earliest()
    }

    fn epochs(&self) -> Vec<EpochRecord> {
        self.inner.epochs()
    }

    fn begin_epoch(&self) -> Result<EpochRecord, AppendError> {
        self.inner.begin_epoch()
    }

    fn raw(&self) -> Option<&dyn springhead_log::RawLog> {
        self.inner.raw()
    }

    fn bytes_between(&self, from: Lsn, to: Lsn) -> u64 {
        self.inner.bytes_between(from, to)
    }

    fn set_pin(&self, name: &str, pin: Option<Pin>) {
        self.inner.set_pin(name, pin);
    }

    fn take_expired_pins(&self) -> Vec<String> {
        self.inner.take_expired_pins()
    }

    fn trim_candidate(&self) -> Option<Lsn> {
        self.inner.trim_candidate()
    }

    fn tenants_before(&self, up_to: Lsn) -> Result<Vec<TenantId>, LogError> {
        self.inner.tenants_before(up_to)
    }

    fn trim(&self, up_to: Lsn) -> Result<(), LogError> {
        self.inner.trim(up_to)
    }

    fn stats(&self) -> LogStats {
        self.inner.stats()
    }

    fn close(&self) {
        self.inner.close();
    }
}

/// One engine over one log, in a directory of its own.
pub struct Node {
    pub engine: Engine,
    pub log: Arc<FaultyLog>,
    pub clock: Arc<ManualClock>,
    setup: Setup,
}

/// What a node is opened with again.
#[derive(Clone)]
struct Setup {
    config: EngineConfig,
    /// `None`: the log is in memory, and outlives the engine.
    segments: Option<SegmentConfig>,
    /// What a log in memory keeps when it is trimmed.
    retain_bytes: u64,
    clock: Arc<ManualClock>,
    /// Removed with the last node in it.
    #[expect(dead_code, reason = "held, so that the directory stays")]
    dir: Arc<tempfile::TempDir>,
}

/// Small enough that tests reach every limit quickly.
fn config(dir: &Path) -> EngineConfig {
    EngineConfig {
        worker_threads: 4,
        readers_per_tenant: 2,
        cache_bytes: 1 << 20,
        ..EngineConfig::new(dir)
    }
}

impl Node {
    /// Over a log in memory.
    pub fn start() -> Node {
        Node::with(|_| {})
    }

    /// Over a log in memory, configured by `change`.
    pub fn with(change: impl FnOnce(&mut EngineConfig)) -> Node {
        Node::new(None, u64::MAX, change)
    }

    /// As [`Node::with`], trimmed to about `retain_bytes` by maintenance.
    pub fn remembering(retain_bytes: u64, change: impl FnOnce(&mut EngineConfig)) -> Node {
        Node::new(None, retain_bytes, change)
    }

    /// Over segments of 64 KiB in the node's directory, with no reserve.
    pub fn on_disk(change: impl FnOnce(&mut EngineConfig)) -> Node {
        let segments = SegmentConfig {
            segment_bytes: 64 << 10,
            large_commit_bytes: 4 << 10,
            batch_bytes: 16 << 10,
            reserve_bytes: 0,
            spare_segments: 1,
            background: false,
            ..SegmentConfig::default()
        };
        Node::new(Some(segments), u64::MAX, change)
    }

    /// As [`Node::on_disk`], trimmed to about `retain_bytes` by maintenance.
    pub fn retaining(retain_bytes: u64, change: impl FnOnce(&mut EngineConfig)) -> Node {
        let segments = SegmentConfig {
            segment_bytes: 64 << 10,
            large_commit_bytes: 4 << 10,
            batch_bytes: 16 << 10,
            retain_bytes,
            reserve_bytes: 0,
            spare_segments: 0,
            background: false,
            ..SegmentConfig::default()
        };
        Node::new(Some(segments), u64::MAX, change)
    }

    fn new(
        segments: Option<SegmentConfig>,
        retain_bytes: u64,
        change: impl FnOnce(&mut EngineConfig),
    ) -> Node {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let mut config = config(dir.path());
        change(&mut config);
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        let setup = Setup {
            config,
            segments,
            retain_bytes,
            clock,
            dir,
        };
        let log = setup.open_log();
        setup.open(log).unwrap()
    }

    /// Ends the engine without a shutdown and opens it again on the same log.
    pub fn reopen(self) -> Node {
        self.try_reopen(|_| {}).unwrap()
    }

    /// As [`Node::reopen`], with `meanwhile` done to its directory.
    pub fn try_reopen(self, meanwhile: impl FnOnce(&EngineConfig)) -> Result<Node, EngineError> {
        let Node {
            engine, log, setup, ..
        } = self;
        drop(engine);
        meanwhile(&setup.config);
        let log = if setup.segments.is_some() {
            // Statements whose clients left are still on their way.
            while Arc::strong_count(&log) > 1 {
                std::thread::yield_now();
            }
            drop(log);
            setup.open_log()
        } else {
            // Faults do not outlive the process.
            Arc::clone(&log.inner)
        };
        setup.open(log)
    }

    pub async fn client(&self) -> Client {
        self.client_of("default").await
    }

    pub async fn client_of(&self, tenant: &str) -> Client {
        let id = self.engine.tenant_id(tenant).unwrap();
        Client {
            session: self
                .engine
                .session(
                    id,
                    &springhead_engine::access::Principal::unrestricted("tester"),
                )
                .await
                .unwrap(),
        }
    }

    pub async fn tenant(&self) -> Arc<Tenant> {
        self.engine.tenant(TenantId::DEFAULT).await.unwrap()
    }

    pub fn config(&self) -> &EngineConfig {
        &self.setup.config
    }

    pub fn state_file(&self, tenant: TenantId) -> PathBuf {
        springhead_engine::state::state_file(&self.setup.config, tenant)
    }
}

impl Setup {
    fn open_log(&self) -> Arc<dyn Log> {
        match &self.segments {
            None => {
                let clock = Arc::clone(&self.clock);
                Arc::new(MemoryLog::with(Epoch(0x51), clock, self.retain_bytes))
            }
            Some(segments) => {
                let dir = self.config.data_dir.join("log");
                let clock = Arc::clone(&self.clock);
                Arc::new(SegmentLog::open(&dir, segments.clone(), clock).unwrap())
            }
        }
    }

    fn open(self, inner: Arc<dyn Log>) -> Result<Node, EngineError> {
        let log = Arc::new(FaultyLog {
            inner,
            refuses: AtomicBool::new(false),
            breaks: AtomicBool::new(false),
            panics: AtomicBool::new(false),
            held: Mutex::default(),
            changed: Condvar::new(),
        });
        let clock = Arc::clone(&self.clock);
        let engine = Engine::open(
            self.config.clone(),
            Arc::clone(&log) as Arc<dyn Log>,
            Arc::clone(&clock) as Arc<dyn springhead_log::Clock>,
            Arc::new(Counting::default()),
        )?;
        Ok(Node {
            engine,
            log,
            clock,
            setup: self,
        })
    }
}

/// A session, and what it answers as texts.
pub struct Client {
    pub session: Session,
}

/// What the last statement of a script came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub tag: String,
    /// Texts; `None` for NULL.
    pub rows: Vec<Vec<Option<String>>>,
    pub notices: Vec<String>,
    pub lsn: Lsn,
}

impl Answer {
    /// The rows, columns separated by `|`, NULL as `~`.
    pub fn lines(&self) -> Vec<String> {
        let cell = |value: &Option<String>| value.clone().unwrap_or_else(|| "~".to_owned());
        self.rows
            .iter()
            .map(|row| row.iter().map(cell).collect::<Vec<_>>().join("|"))
            .collect()
    }
}

impl Client {
    /// Runs a script as a simple query does; the last statement's answer, or the first error.
    pub async fn run(&mut self, sql: &str) -> Result<Answer, SqlError> {
        let mut script = self.session.script(sql);
        let mut last = None;
        while let Some(outcome) = script.next().await {
            last = Some(answer(outcome?)?);
        }
        Ok(last.expect("a script has an outcome"))
    }

    /// Runs what must succeed.
    pub async fn ok(&mut self, sql: &str) -> Answer {
        self.run(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {} {error:?}", error.code.sqlstate()))
    }

    /// Runs what must succeed, and its rows as lines.
    pub async fn lines(&mut self, sql: &str) -> Vec<String> {
        self.ok(sql).await.lines()
    }

    /// Runs what must succeed with one value.
    pub async fn one(&mut self, sql: &str) -> String {
        let lines = self.lines(sql).await;
        assert_eq!(lines.len(), 1, "{sql}: {lines:?}");
        lines.into_iter().next().unwrap()
    }

    /// Runs what must fail, with this SQLSTATE.
    pub async fn fails(&mut self, sql: &str, sqlstate: &str) -> SqlError {
        match self.run(sql).await {
            Ok(answer) => panic!("{sql}: {answer:?}, not {sqlstate}"),
            Err(error) => {
                assert_eq!(error.code.sqlstate().0, sqlstate, "{sql}: {error:?}");
                error
            }
        }
    }

    pub fn status(&self) -> TransactionStatus {
        self.session.transaction_status()
    }
}

/// An outcome with its rows as PostgreSQL's texts.
pub fn answer(outcome: springhead_engine::Outcome) -> Result<Answer, SqlError> {
    let mut rows = Vec::new();
    if let Some(mut found) = outcome.rows {
        while let Some(chunk) = found.next_chunk()? {
            for row in chunk.rows() {
                let values = row.values().zip(outcome.columns.iter());
                rows.push(
                    values
                        .map(|(value, column)| {
                            (!value.is_null()).then(|| {
                                let mut text = Vec::new();
                                output_text(&column.pg_type, value, &mut text);
                                String::from_utf8(text).unwrap()
                            })
                        })
                        .collect(),
                );
            }
        }
    }
    let notices = outcome
        .notices
        .iter()
        .map(|notice| notice.message.clone())
        .collect();
    Ok(Answer {
        tag: outcome.tag,
        rows,
        notices,
        lsn: outcome.lsn,
    })
}

/// A change as a tail delivers it.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub lsn: Lsn,
    pub kind: ChangeKind,
    pub collection: CollectionId,
    pub schema_version: SchemaVersion,
    pub before: Option<Vec<Value>>,
    pub after: Option<Vec<Value>>,
    /// The first LSN of its commit, and how many changes that has.
    pub commit_lsn: Lsn,
    pub commit_count: u64,
}

/// The changes of one step of a tail that come after `after`.
pub fn seen(step: &springhead_engine::Step, after: Lsn) -> Vec<Seen> {
    let mut all = Vec::new();
    for block in &step.blocks {
        let slice = &block.slice;
        let mut lsn = slice.first_lsn();
        for change in Changes::new(&slice.changes) {
            let change = change.expect("the log is whole");
            let values = |row: Option<springhead_proto::RowRef<'_>>| {
                row.map(|row| {
                    row.values()
                        .map(springhead_proto::ValueRef::to_owned)
                        .collect::<Vec<_>>()
                })
            };
            if lsn > after {
                all.push(Seen {
                    lsn,
                    kind: change.kind,
                    collection: change.collection,
                    schema_version: change.schema_version,
                    before: values(change.before),
                    after: values(change.after),
                    commit_lsn: slice.commit_lsn,
                    commit_count: slice.commit_count,
                });
            }
            lsn = lsn.next();
        }
        assert_eq!(
            lsn,
            slice.last_lsn().next(),
            "a slice has as many changes as it says"
        );
    }
    all
}

/// Everything that `tail` has now.
pub async fn drain(tail: &mut TailReader) -> Result<Vec<Seen>, TailError> {
    let mut all = Vec::new();
    loop {
        let before = tail.position();
        let Some(step) = tail.try_next().await? else {
            return Ok(all);
        };
        assert!(step.position >= before, "a tail goes forward");
        assert_eq!(step.position, tail.position());
        all.extend(seen(&step, before));
    }
}

/// Everything of the tenant after `position`, as a new tail reads it.
pub async fn tail_from(tenant: &Arc<Tenant>, position: Lsn) -> Vec<Seen> {
    drain(&mut tenant.tail(position, Vec::new())).await.unwrap()
}

/// A change's kind and its images.
pub type RowChange = (ChangeKind, Option<Vec<Value>>, Option<Vec<Value>>);

/// The rows alone: kind and images, without LSNs and definitions.
pub fn rows_of(changes: &[Seen]) -> Vec<RowChange> {
    changes
        .iter()
        .filter(|change| {
            matches!(
                change.kind,
                ChangeKind::Insert | ChangeKind::Update | ChangeKind::Delete | ChangeKind::Truncate
            )
        })
        .map(|change| (change.kind, change.before.clone(), change.after.clone()))
        .collect()
}

/// Asserts that what a reader got is each change once, in order, and commits whole: a commit's
/// changes follow one another, from its first (unless the reader began inside it) to its last.
pub fn assert_whole_and_ordered(changes: &[Seen], began_after: Lsn) {
    let mut previous: Option<&Seen> = None;
    for change in changes {
        if let Some(previous) = previous {
            assert!(
                change.lsn > previous.lsn,
                "{:?} comes after {:?}",
                change.lsn,
                previous.lsn
            );
            if change.commit_lsn == previous.commit_lsn {
                assert_eq!(
                    change.lsn,
                    previous.lsn.next(),
                    "a commit's changes are dense"
                );
            } else {
                assert_eq!(
                    previous.lsn,
                    previous.commit_lsn.plus(previous.commit_count - 1),
                    "a commit was cut"
                );
                assert_eq!(
                    change.lsn, change.commit_lsn,
                    "a commit was begun in its middle"
                );
            }
        } else {
            assert!(
                change.lsn == change.commit_lsn || change.lsn == began_after.next(),
                "begun in a commit's middle"
            );
        }
        previous = Some(change);
    }
    if let Some(last) = previous {
        assert_eq!(
            last.lsn,
            last.commit_lsn.plus(last.commit_count - 1),
            "the last commit was cut"
        );
    }
}

/// Everything that a state file holds: the SQLite schema, and per table every row, ordered by key,
/// each value with its type.
pub fn dump(path: &Path) -> Vec<String> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let _ = conn.execute_batch("PRAGMA query_only=ON");
    let mut lines = Vec::new();
    let mut schema = conn
        .prepare(
            "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name",
        )
        .unwrap();
    let objects: Vec<(String, String, String, String)> = schema
        .query_map([], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    for (kind, name, table, sql) in &objects {
        lines.push(format!("{kind} {name} on {table}: {sql}"));
    }
    for (_, name, ..) in objects.iter().filter(|(kind, ..)| kind == "table") {
        let mut columns = conn
            .prepare("SELECT name FROM pragma_table_xinfo(?1)")
            .unwrap();
        let names: Vec<String> = columns
            .query_map([name], |row| row.get(0))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        let quoted: Vec<String> = names.iter().map(|name| format!("quote({name})")).collect();
        let types: Vec<String> = names.iter().map(|name| format!("typeof({name})")).collect();
        let order: Vec<String> = names.clone();
        let sql = format!(
            "SELECT {} FROM {name} ORDER BY {}",
            quoted
                .iter()
                .chain(&types)
                .cloned()
                .collect::<Vec<_>>()
                .join(" || ' ' || "),
            order.join(", ")
        );
        let mut rows = conn.prepare(&sql).unwrap();
        let texts: Vec<String> = rows
            .query_map([], |row| row.get(0))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        lines.extend(texts.into_iter().map(|text| format!("{name}: {text}")));
    }
    lines
}

/// Waits until `condition` holds; a test that waits in vain is ended by the runner.
pub async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
