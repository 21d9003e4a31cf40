//! The HTTP side over a whole engine on a log in memory, spoken to over real sockets.

mod consumers;
mod feeds;
mod live;
mod requests;
mod slow;
mod starts;
mod sync;
mod ws;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use springhead_engine::Engine;
use springhead_engine::live::Live;
use springhead_log::memory::MemoryLog;
use springhead_log::{Log, SystemClock};
use springhead_proto::{Epoch, Lsn};
use springhead_sim::client::http::{self, Response, SseEvent, SseOpened, SseStream, encode};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::config::Config;
use crate::node::{NodeState, Shutdown, SystemEntropy};
use crate::pgwire;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node without a process.
struct Node {
    address: SocketAddr,
    log: Arc<MemoryLog>,
    engine: Engine,
    _switch: watch::Sender<bool>,
    _runtime: Runtime,
    _directory: TempDir,
}

impl Node {
    fn start() -> Node {
        Node::start_with(|_| {})
    }

    fn start_with(change: impl FnOnce(&mut Config)) -> Node {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config {
            data_dir: directory.path().to_owned(),
            ..Config::default()
        };
        change(&mut config);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let log = Arc::new(MemoryLog::new(Epoch(0xabcd_0123)));
        let guard = runtime.enter();
        let engine = Engine::open(
            config.engine(),
            Arc::clone(&log) as Arc<dyn Log>,
            Arc::new(SystemClock),
            Arc::new(SystemEntropy),
        )
        .unwrap();
        drop(guard);
        let auth = crate::auth::Auth::open(&config).unwrap();
        let node = Arc::new(NodeState {
            live: Live::new(engine.clone(), config.live()),
            engine: engine.clone(),
            config,
            started: Instant::now(),
            pg: pgwire::Registry::default(),
            auth,
            replication: None,
            archive: Arc::default(),
        });
        let (switch, shutdown) = Shutdown::new();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(super::serve(listener, node, shutdown));
        Node {
            address,
            log,
            engine,
            _switch: switch,
            _runtime: runtime,
            _directory: directory,
        }
    }

    /// With a table of orders.
    fn with_orders() -> Node {
        let node = Node::start();
        node.sql("CREATE TABLE orders (id text PRIMARY KEY, status text, qty integer)");
        node
    }

    fn request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response {
        http::request(self.address, method, target, headers, body.as_bytes()).unwrap()
    }

    fn get(&self, target: &str) -> Response {
        self.request("GET", target, &[], "")
    }

    fn send(&self, method: &str, target: &str, body: &Value) -> Response {
        self.request(
            method,
            target,
            &[("content-type", "application/json")],
            &body.to_string(),
        )
    }

    /// A page that must be there.
    #[track_caller]
    fn page(&self, target: &str) -> Value {
        let answer = self.get(target);
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        answer.json()
    }

    /// Runs a statement that must succeed; the LSN that it answers.
    #[track_caller]
    fn sql(&self, sql: &str) -> u64 {
        let answer = self.send("POST", "/v1/sql", &json!({ "sql": sql }));
        assert_eq!(answer.status, 200, "{sql}: {}", answer.text());
        answer.json()["lsn"].as_u64().unwrap()
    }

    #[track_caller]
    fn stream(&self, target: &str, last_event_id: Option<&str>) -> SseStream {
        match SseStream::open(self.address, target, last_event_id).unwrap() {
            SseOpened::Stream(stream) => *stream,
            SseOpened::Other(answer) => panic!("{target}: {} {}", answer.status, answer.text()),
        }
    }

    /// Asserts a refusal: its status and code.
    #[track_caller]
    fn refused(&self, target: &str, status: u16, code: &str) -> Value {
        let answer = self.get(target);
        assert_eq!(
            (answer.status, answer.error_code().as_str()),
            (status, code),
            "{target}: {}",
            answer.text()
        );
        answer.json()["error"].clone()
    }

    /// Forgets the log up to `lsn`, as retention would.
    fn trim(&self, lsn: u64) {
        self.log.trim(Lsn(lsn)).unwrap();
    }

    fn metric(&self, line: &str) -> u64 {
        let text = self.get("/metrics").text();
        let value = text
            .lines()
            .find_map(|found| found.strip_prefix(line)?.strip_prefix(' '))
            .unwrap();
        value.parse().unwrap()
    }

    /// Asks again until a figure is what it should come to.
    #[track_caller]
    fn wait_for_metric(&self, line: &str, expected: u64) {
        let begun = Instant::now();
        loop {
            let value = self.metric(line);
            if value == expected {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{line} is {value}, not {expected}"
            );
            std::thread::yield_now();
        }
    }
}

/// The next event that is no progress.
#[track_caller]
fn next(stream: &mut SseStream) -> SseEvent {
    loop {
        let event = stream
            .next_event()
            .unwrap()
            .expect("an event before the end");
        if event.event != "progress" {
            return event;
        }
    }
}

/// The next `count` events, as JSON.
#[track_caller]
fn take(stream: &mut SseStream, count: usize) -> Vec<Value> {
    (0..count).map(|_| next(stream).json()).collect()
}

/// All changes from a position, by pages of `limit`.
fn all_pages(node: &Node, target: &str, limit: usize) -> Vec<Value> {
    let mut changes = Vec::new();
    let mut position = "since_lsn=1".to_owned();
    let join = if target.contains('?') { '&' } else { '?' };
    loop {
        let page = node.page(&format!("{target}{join}{position}&limit={limit}"));
        changes.extend(page["changes"].as_array().unwrap().iter().cloned());
        assert!(page["count"].as_u64().unwrap() <= limit as u64);
        if page["has_more"] == false {
            return changes;
        }
        position = format!(
            "cursor={}",
            encode(page["next_cursor"]["cursor"].as_str().unwrap())
        );
    }
}

fn lsns(changes: &[Value]) -> Vec<u64> {
    changes
        .iter()
        .map(|change| change["lsn"].as_u64().unwrap())
        .collect()
}

fn words(changes: &[Value], field: &str) -> Vec<String> {
    changes
        .iter()
        .map(|change| change[field].as_str().unwrap_or("-").to_owned())
        .collect()
}
