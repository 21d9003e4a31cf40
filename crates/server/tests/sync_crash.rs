//! kill -9 of the real server at every place of a push, a verdict and a commit, under devices that
//! push again what they have no verdict for: each mutation is applied once or is one dead letter,
//! counters are exact. `SPRINGHEAD_SYNC_ROUNDS` repeats it.

#![cfg(feature = "failpoints")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use springhead_proto::sync::{
    CatalogHash, CatalogVersion, ColumnValues, DeviceId, DeviceToServer, Generation, Handshake,
    HandshakeAnswer, Mutation, Operation, ProducerId, Push, Seq, ServerToDevice, SyncValue, Verb,
    Verdict,
};
use springhead_proto::{Cursor, Lsn};
use springhead_sim::client::http;
use springhead_sim::process::{Ports, Server, Setup, default_binary};
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Mutations of each device, and of each push.
const MUTATIONS: u64 = 60;
const PUSH: usize = 7;

fn sql(http: SocketAddr, sql: &str) -> Vec<Vec<Value>> {
    let body = json!({ "sql": sql }).to_string();
    let headers = [("content-type", "application/json")];
    let answer = http::request(http, "POST", "/v1/sql", &headers, body.as_bytes()).unwrap();
    assert_eq!(answer.status, 200, "{sql}: {}", answer.text());
    serde_json::from_value(answer.json()["rows"].clone()).unwrap_or_default()
}

/// A device whose queue outlives every connection.
struct Device {
    producer: ProducerId,
    queue: BTreeMap<Seq, Mutation>,
    verdicts: BTreeMap<Seq, Verdict>,
    decided: Arc<AtomicU64>,
}

fn columns<const N: usize>(columns: [(&str, SyncValue); N]) -> ColumnValues {
    columns.into_iter().collect()
}

impl Device {
    fn new(number: u128, decided: &Arc<AtomicU64>) -> Device {
        let producer = ProducerId(number);
        let queue = (1..=MUTATIONS).map(|seq| {
            let number = i64::try_from(number).unwrap();
            let id = number * 1_000_000 + i64::try_from(seq).unwrap();
            let name = match seq % 5 {
                // Taken from the start.
                0 => "taken".to_owned(),
                _ => format!("n{id}"),
            };
            let operations = vec![
                Operation {
                    collection: "counters".to_owned(),
                    id: vec![1.into()],
                    verb: Verb::Inc(columns([("n", 1.into())])),
                },
                Operation {
                    collection: "rows".to_owned(),
                    id: vec![id.into()],
                    verb: Verb::Insert(columns([("name", name.as_str().into())])),
                },
            ];
            let mutation = Mutation {
                producer,
                generation: Generation::FIRST,
                seq: Seq(seq),
                base: Cursor {
                    lsn: Lsn::ZERO,
                    epoch: None,
                },
                schema_version: CatalogVersion(0),
                after: Vec::new(),
                hlc: None,
                operations,
            };
            (Seq(seq), mutation)
        });
        Device {
            producer,
            queue: queue.collect(),
            verdicts: BTreeMap::new(),
            decided: Arc::clone(decided),
        }
    }

    /// Until everything has its verdict.
    fn run(mut self, http: SocketAddr) -> BTreeMap<Seq, Verdict> {
        let begun = Instant::now();
        while !self.queue.is_empty() {
            assert!(begun.elapsed() < PATIENCE, "{} are left", self.queue.len());
            // A server that is away is asked again in a moment.
            if self.session(http).is_none() {
                std::thread::park_timeout(Duration::from_millis(5));
            }
        }
        self.verdicts
    }

    fn session(&mut self, http: SocketAddr) -> Option<()> {
        let stream = TcpStream::connect(http).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let (mut socket, _) = client(format!("ws://{http}/sync"), stream).ok()?;
        let settled = (self.queue.keys().next()).map_or(Seq(MUTATIONS), |seq| Seq(seq.0 - 1));
        let hello = DeviceToServer::Handshake(Handshake {
            protocol: 1,
            token: None,
            tenant: None,
            device: DeviceId(self.producer.0),
            producer: self.producer,
            generation: Generation::FIRST,
            cursor: None,
            catalog_version: CatalogVersion(0),
            catalog_hash: CatalogHash::default(),
            settled,
            shapes: Vec::new(),
            client: "crash test".to_owned(),
        });
        socket.send(Message::Binary(hello.to_bytes().into())).ok()?;
        loop {
            if let ServerToDevice::HandshakeAck(answer) = next(&mut socket)? {
                assert!(matches!(answer, HandshakeAnswer::Accepted(_)), "{answer:?}");
                break;
            }
        }
        while !self.queue.is_empty() {
            self.push(&mut socket)?;
        }
        Some(())
    }

    fn push(&mut self, socket: &mut WebSocket<TcpStream>) -> Option<()> {
        let mutations: Vec<_> = self.queue.values().take(PUSH).cloned().collect();
        let mut left = mutations.len();
        let push = DeviceToServer::Push(Push {
            producer: self.producer,
            generation: Generation::FIRST,
            mutations,
        });
        socket.send(Message::Binary(push.to_bytes().into())).ok()?;
        while left > 0 {
            let verdicts = match next(socket)? {
                ServerToDevice::Ack(ack) => ack.verdicts,
                ServerToDevice::Reject(reject) => {
                    vec![(reject.seq, Verdict::Rejected(Box::new(reject.rejection)))]
                }
                _ => continue,
            };
            for (seq, verdict) in verdicts {
                left -= 1;
                if verdict.is_final() {
                    self.queue.remove(&seq).expect("one verdict for each");
                    self.verdicts.insert(seq, verdict);
                    self.decided.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Some(())
    }
}

fn next(socket: &mut WebSocket<TcpStream>) -> Option<ServerToDevice> {
    loop {
        match socket.read().ok()? {
            Message::Binary(bytes) => {
                return Some(ServerToDevice::from_bytes(&bytes, 16 << 20).unwrap());
            }
            Message::Close(_) => return None,
            _ => {}
        }
    }
}

/// Devices push while the server dies at a place, at its first pass and at a later one.
fn killed_at(failpoint: &str) {
    let rounds = std::env::var("SPRINGHEAD_SYNC_ROUNDS").ok();
    for _ in 0..rounds.and_then(|text| text.parse().ok()).unwrap_or(1) {
        killed_once(failpoint);
    }
}

fn killed_once(failpoint: &str) {
    let directory = tempfile::tempdir().unwrap();
    let ports = Ports::take().unwrap();
    let setup = Setup::new(&default_binary(), directory.path(), &ports);
    let mut server = Server::start(&setup).unwrap();
    sql(
        ports.http,
        "CREATE TABLE counters (id integer PRIMARY KEY, n integer NOT NULL)",
    );
    sql(
        ports.http,
        "CREATE TABLE rows (id integer PRIMARY KEY, name text NOT NULL UNIQUE)",
    );
    sql(ports.http, "INSERT INTO counters VALUES (1, 0)");
    sql(ports.http, "INSERT INTO rows VALUES (0, 'taken')");
    server.kill();

    let decided: Arc<AtomicU64> = Arc::default();
    let devices: Vec<_> = (1..=3)
        .map(|number| {
            let device = Device::new(number, &decided);
            let http = ports.http;
            std::thread::spawn(move || device.run(http))
        })
        .collect();
    let mut kills = 0_u32;
    for hit in [1, 9, 23] {
        let mut server = Server::spawn(&setup.clone().with_failpoint(failpoint, hit)).unwrap();
        let begun = Instant::now();
        // Until it dies there, or there is nothing left to die of.
        while begun.elapsed() < Duration::from_secs(20)
            && decided.load(Ordering::Relaxed) < 3 * MUTATIONS
        {
            if server.wait_end(Duration::from_millis(50)).is_some() {
                kills += 1;
                break;
            }
        }
        server.kill();
    }
    let server = Server::start(&setup).unwrap();
    let verdicts: Vec<_> = devices
        .into_iter()
        .map(|device| device.join().unwrap())
        .collect();
    assert!(kills > 0, "{failpoint} was never passed");

    let (mut applied, mut rejected) = (0, 0);
    for verdict in verdicts.iter().flat_map(BTreeMap::values) {
        match verdict {
            Verdict::Rejected(rejection) => {
                assert_eq!(rejection.violation.to_string(), "unique:name=taken");
                rejected += 1;
            }
            _ => applied += 1,
        }
    }
    assert_eq!((applied, rejected), (3 * 48, 3 * 12));
    assert_eq!(
        sql(ports.http, "SELECT n FROM counters"),
        [[json!(applied)]]
    );
    assert_eq!(
        sql(ports.http, "SELECT count(*) FROM rows"),
        [[json!(applied + 1)]]
    );
    let letters = "SELECT count(*), count(DISTINCT (peer_id || '/' || mutation_id)) \
                   FROM springhead.dead_letters";
    assert_eq!(
        sql(ports.http, letters),
        [[json!(rejected), json!(rejected)]]
    );
    let totals = "SELECT enqueued, resolved, expired, escalated, unresolved \
                  FROM springhead.dead_letter_totals WHERE collection = ''";
    assert_eq!(
        sql(ports.http, totals),
        [[
            json!(rejected),
            json!(0),
            json!(0),
            json!(0),
            json!(rejected)
        ]]
    );
    println!(
        "{failpoint}: {kills} kills, {} verdicts",
        decided.load(Ordering::Relaxed)
    );
    drop(server);
}

#[test]
fn g9_killed_before_a_mutation_is_applied() {
    killed_at("sync.before_apply");
}

#[test]
fn g9_killed_after_a_mutation_is_applied() {
    killed_at("sync.after_apply");
}

#[test]
fn g9_killed_after_the_verdict() {
    killed_at("sync.after_verdict");
}

#[test]
fn g9_killed_when_a_rejection_has_been_written() {
    killed_at("dead_letters.record");
}

#[test]
fn g9_killed_before_the_log_has_it() {
    killed_at("sync.before_append");
}

#[test]
fn g9_killed_once_the_log_has_it() {
    killed_at("sync.after_append");
}

#[test]
fn g9_killed_when_the_state_has_it() {
    killed_at("writer.after_commit");
}

#[test]
fn g9_killed_before_the_device_hears_of_it() {
    killed_at("sync.before_verdicts");
}
