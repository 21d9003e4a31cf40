//! A node in this process under a random load, what it should hold at any LSN, and what a node that
//! replayed the whole log to there holds.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags};
use springhead_engine::Engine;
use springhead_engine::access::Principal;
use springhead_log::disk::RealDisk;
use springhead_log::segment::{SegmentLog, truncate};
use springhead_log::{Clock, Log, ManualClock, NoProgress, RawLog, SystemClock};
use springhead_proto::{Lsn, TimestampMs};
use springhead_server::Config;
use springhead_server::config::Size;
use springhead_server::node::SystemEntropy;
use springhead_sim::rng::Rng;

/// Small segments, so that there are many.
pub fn config(data_dir: &Path) -> Config {
    Config {
        data_dir: data_dir.to_owned(),
        segment_bytes: Size(64 << 10),
        large_commit_bytes: Size(8 << 10),
        reserve_bytes: Size(0),
        worker_threads: 2,
        ..Config::default()
    }
}

/// Opens a node's log and engine in `data_dir`.
pub fn open(data_dir: &Path, clock: Arc<dyn Clock>) -> (Engine, Arc<SegmentLog>) {
    let config = config(data_dir);
    let log_dir = data_dir.join("log");
    let log = SegmentLog::open(&log_dir, config.segment_log(), Arc::clone(&clock)).unwrap();
    let log = Arc::new(log);
    let engine = Engine::open(
        config.engine(),
        Arc::clone(&log) as Arc<dyn Log>,
        clock,
        Arc::new(SystemEntropy),
    )
    .unwrap();
    (engine, log)
}

/// A node under load, and what it was told to do.
pub struct Loaded {
    pub engine: Engine,
    pub log: Arc<SegmentLog>,
    pub clock: Arc<ManualClock>,
    runtime: tokio::runtime::Runtime,
    random: Rng,
    /// What `t` of the default tenant holds after each commit, by the commit's last LSN.
    pub rows: BTreeMap<Lsn, BTreeMap<u64, String>>,
    /// The time of each commit's batch.
    pub times: Vec<(TimestampMs, Lsn)>,
    steps: u64,
}

impl Loaded {
    pub fn new(data_dir: &Path, seed: u64) -> Loaded {
        let clock = Arc::new(ManualClock::at(1_790_000_000_000));
        let (engine, log) = open(data_dir, clock.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut loaded = Loaded {
            engine,
            log,
            clock,
            runtime,
            random: Rng::new(seed),
            rows: BTreeMap::new(),
            times: Vec::new(),
            steps: 0,
        };
        loaded.run(
            "default",
            "CREATE TABLE t (id bigint PRIMARY KEY, note text)",
        );
        loaded.note(BTreeMap::new());
        loaded.engine_create("shop");
        loaded.run("shop", "CREATE TABLE other (id serial PRIMARY KEY, v text)");
        loaded
    }

    fn engine_create(&self, name: &str) {
        let created = self.engine.create_tenant(name);
        self.runtime.block_on(created).unwrap();
    }

    /// Runs a script in a tenant; what it came to does not matter.
    pub fn run(&self, tenant: &str, sql: &str) {
        self.runtime.block_on(async {
            let id = self.engine.tenant_id(tenant).unwrap();
            let principal = Principal::unrestricted("tester");
            let mut session = self.engine.session(id, &principal).await.unwrap();
            let mut script = session.script(sql);
            while let Some(outcome) = script.next().await {
                outcome.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            }
        });
    }

    fn note(&mut self, rows: BTreeMap<u64, String>) {
        let tail = self.log.tail();
        self.times.push((tail.timestamp_ms, tail.durable));
        self.rows.insert(tail.durable, rows);
    }

    /// One random commit, or several.
    pub fn step(&mut self) {
        self.steps += 1;
        self.clock.advance(self.random.below(40));
        let mut rows = self.rows.last_key_value().unwrap().1.clone();
        let id = self.random.below(60);
        let note = format!("n{}", self.steps);
        match self.random.below(12) {
            0..=4 => {
                let sql = format!(
                    "INSERT INTO t VALUES ({id}, '{note}') ON CONFLICT (id) DO UPDATE SET note = excluded.note"
                );
                self.run("default", &sql);
                rows.insert(id, note);
            }
            5 | 6 => {
                self.run("default", &format!("DELETE FROM t WHERE id = {id}"));
                rows.remove(&id);
            }
            7 => {
                // Several changes in one commit.
                self.run(
                    "default",
                    &format!("UPDATE t SET note = '{note}' WHERE id < {id}"),
                );
                for (_, old) in rows.iter_mut().filter(|(key, _)| **key < id) {
                    old.clone_from(&note);
                }
            }
            8 => {
                let long = "x".repeat(20_000);
                self.run("default", &format!(
                    "INSERT INTO t VALUES ({id}, '{long}') ON CONFLICT (id) DO UPDATE SET note = excluded.note"
                ));
                rows.insert(id, long);
            }
            9 => self.run("shop", &format!("INSERT INTO other (v) VALUES ('{note}')")),
            10 if self.steps.is_multiple_of(3) => {
                self.engine_create(&format!("made{}", self.steps));
                let name = format!("made{}", self.steps);
                self.run(
                    &name,
                    "CREATE TABLE z (id int PRIMARY KEY); INSERT INTO z VALUES (1), (2)",
                );
            }
            _ => {
                let sql = format!(
                    "CREATE TABLE d{0} (id int PRIMARY KEY, a text); INSERT INTO d{0} VALUES (1, '{note}')",
                    self.steps
                );
                self.run("shop", &sql);
            }
        }
        self.note(rows);
    }

    /// What `t` holds once every commit up to `lsn` is in.
    pub fn rows_at(&self, lsn: Lsn) -> &BTreeMap<u64, String> {
        self.rows.range(..=lsn).next_back().unwrap().1
    }
}

/// What `t` of the default tenant of the stopped node in `data_dir` holds, by its own SQL.
pub fn rows_of(data_dir: &Path) -> BTreeMap<u64, String> {
    let path = data_dir.join("tenants/0000000001/state.db");
    let conn = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    // The only table of a user with these two columns: `t`, made first.
    let table: String = conn
        .query_row(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 't[0-9]*'
             ORDER BY CAST(substr(name, 2) AS INTEGER) DESC LIMIT 1",
            [],
            |row| row.get(0),
        )
        .unwrap();
    let mut rows = conn
        .prepare(&format!("SELECT c1, c2 FROM {table}"))
        .unwrap();
    rows.query_map([], |row| {
        Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get(1)?))
    })
    .unwrap()
    .collect::<Result<_, _>>()
    .unwrap()
}

/// Everything that every state file of the stopped node in `data_dir` holds.
pub fn dump_all(data_dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(data_dir.join("tenants"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    let mut lines = Vec::new();
    for dir in names {
        lines.push(format!("-- {}", dir.file_name().unwrap().display()));
        dump(&dir.join("state.db"), &mut lines);
    }
    lines
}

fn dump(path: &Path, lines: &mut Vec<String>) {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let texts = |sql: &str| -> Vec<String> {
        let mut statement = conn.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    };
    lines.extend(texts(
        "SELECT type || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_schema ORDER BY type, name",
    ));
    for table in texts("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name") {
        let columns = texts(&format!("SELECT name FROM pragma_table_xinfo('{table}')"));
        let quoted: Vec<String> = columns
            .iter()
            .map(|name| format!("quote({name})"))
            .collect();
        let sql = format!(
            "SELECT {} FROM {table} ORDER BY {}",
            quoted.join(" || ' ' || "),
            columns.join(", ")
        );
        for row in texts(&sql) {
            // In which history a state was made that has nothing applied says nothing.
            let row = match row.strip_prefix("1 0 ") {
                Some(_) if table == "s_meta" => "1 0",
                _ => row.as_str(),
            };
            lines.push(format!("{table}: {row}"));
        }
    }
}

/// What a node holds that has replayed the whole log in `log` from its beginning to `lsn`.
pub fn replayed_to(log: &Path, lsn: Lsn) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let log_dir = dir.path().join("log");
    std::fs::create_dir_all(&log_dir).unwrap();
    for entry in std::fs::read_dir(log).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), log_dir.join(entry.file_name())).unwrap();
    }
    truncate(&RealDisk, &log_dir, lsn).unwrap();
    let (engine, log) = open(dir.path(), Arc::new(SystemClock));
    assert_eq!(log.tail().durable, lsn);
    engine.replay_all(&NoProgress).unwrap();
    engine.shutdown();
    assert_eq!(log.identity().durable, lsn, "replay adds nothing");
    dump_all(dir.path())
}
