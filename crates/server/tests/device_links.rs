//! Rust devices over real sockets, with the server as a process of its own: it is killed at every place
//! of a push, a verdict and a commit while they push, and whenever; connections are secured and outlive
//! their tokens. Each mutation is applied once or is one dead letter, counters are exact, and in the end
//! every device shows what the server has.
//!
//! `SPRINGHEAD_SYNC_ROUNDS` repeats the kills, `SPRINGHEAD_DEVICE_SEEDS` the random histories.

#![cfg(feature = "failpoints")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use springhead_device::{Device, Phase, TokenSource};
use springhead_proto::sync::{
    CatalogHash, CatalogVersion, DeviceId, DeviceToServer, Generation, Handshake, Operation,
    ProducerId, Seq, ServerToDevice, SyncValue, Verb,
};
use springhead_sim::fixture::Fixture;
use springhead_sim::rng::Rng;
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::{Message, WebSocket, connect, stream::MaybeTlsStream};

/// How long anything may take on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

const SCHEMA: &[&str] = &[
    "CREATE TABLE items (id int PRIMARY KEY, title text UNIQUE, n int CHECK (n < 50))",
    "CREATE TABLE counters (id int PRIMARY KEY, n bigint NOT NULL)",
    "INSERT INTO counters VALUES (1, 0)",
    "INSERT INTO items SELECT -k, 'taken ' || k, 0 FROM generate_series(1, 5000) AS k",
];

fn served() -> Fixture {
    let fixture = Fixture::started();
    for sql in SCHEMA {
        fixture.sql(sql);
    }
    fixture
}

fn rows(fixture: &Fixture, sql: &str) -> Vec<String> {
    let line = |row: Vec<Option<String>>| {
        let texts: Vec<String> = row.into_iter().map(Option::unwrap_or_default).collect();
        texts.join("|")
    };
    fixture.sql(sql).into_iter().map(line).collect()
}

/// A device, and how many of its mutations the server takes and refuses.
struct Phone {
    _dir: TempDir,
    device: Device,
    number: i64,
    written: i64,
    applied: usize,
    rejected: usize,
}

impl Phone {
    async fn new(fixture: &Fixture, number: i64) -> Phone {
        let dir = tempfile::tempdir().unwrap();
        let device = Device::open(dir.path()).await.unwrap();
        let seen = Some("id > 0");
        device.subscribe(1, "items", seen, &[]).await.unwrap();
        device.subscribe(2, "counters", None, &[]).await.unwrap();
        let url = format!("ws://{}/sync", fixture.setup.http);
        device.connect(&url, None).unwrap();
        let phone = Phone {
            _dir: dir,
            device,
            number,
            written: 0,
            applied: 0,
            rejected: 0,
        };
        phone.live().await;
        phone
    }

    /// One more row and one more on the counter; every fifth takes a title that is taken.
    async fn write(&mut self) {
        self.written += 1;
        let id = self.number * 1_000_000 + self.written;
        let title = if self.written % 5 == 0 {
            self.rejected += 1;
            format!("taken {}", self.number * 1000 + self.written / 5)
        } else {
            self.applied += 1;
            format!("title {id}")
        };
        let operation = |collection: &str, id: i64, verb| Operation {
            collection: collection.to_owned(),
            id: vec![id.into()],
            verb,
        };
        let columns = [("title", SyncValue::from(title.as_str())), ("n", 1.into())];
        let operations = vec![
            operation("items", id, Verb::Insert(columns.into_iter().collect())),
            operation(
                "counters",
                1,
                Verb::Inc(std::iter::once(("n", 1)).collect()),
            ),
        ];
        self.device.write(operations).await.unwrap();
    }

    /// Everything is decided and here.
    async fn live(&self) {
        let mut status = self.device.status();
        let there = status.wait_for(|now| {
            assert_ne!(now.phase, Phase::Stopped, "{now:?}");
            now.phase == Phase::Live && now.pending == 0 && now.complete
        });
        let there = tokio::time::timeout(PATIENCE, there).await;
        drop(there.unwrap_or_else(|_| panic!("{:?}", *self.device.status().borrow())));
    }

    fn is_settled(&self) -> bool {
        self.device.status().borrow().pending == 0
    }
}

/// The server dies at its n-th pass of a place, or is killed once all is decided; whether it died.
async fn life(fixture: &mut Fixture, phones: &[Phone], place: &str, pass: u64) -> bool {
    let setup = fixture.setup.clone().with_failpoint(place, pass);
    if fixture.start_as(&setup).is_err() {
        return true;
    }
    phones.iter().for_each(|phone| phone.device.retry_now());
    loop {
        let ended = fixture.server().wait_end(Duration::from_millis(5));
        if ended.is_some() {
            return true;
        }
        if phones.iter().all(Phone::is_settled) {
            fixture.kill();
            return false;
        }
        // A try that failed while the server was starting waits for the next.
        phones.iter().for_each(|phone| phone.device.retry_now());
        tokio::task::yield_now().await;
    }
}

async fn check(fixture: &Fixture, phones: &[Phone]) {
    let (mut applied, mut rejected) = (0, 0);
    for phone in phones {
        phone.device.retry_now();
        phone.live().await;
        let rejections = phone.device.rejections().await.unwrap();
        assert_eq!(rejections.len(), phone.rejected, "device {}", phone.number);
        applied += phone.applied;
        rejected += phone.rejected;
    }
    let one = |sql: &str| rows(fixture, sql).remove(0);
    assert_eq!(one("SELECT n FROM counters"), applied.to_string());
    assert_eq!(
        one("SELECT count(*) FROM items WHERE id > 0"),
        applied.to_string()
    );
    let letters = "SELECT count(*), count(DISTINCT (peer_id || '/' || mutation_id)) \
                   FROM springhead.dead_letters";
    assert_eq!(one(letters), format!("{rejected}|{rejected}"));
    let totals = "SELECT coalesce(sum(enqueued), 0), coalesce(sum(resolved), 0), coalesce(sum(expired), 0), \
                  coalesce(sum(escalated), 0), coalesce(sum(unresolved), 0) \
                  FROM springhead.dead_letter_totals WHERE collection = ''";
    assert_eq!(one(totals), format!("{rejected}|0|0|0|{rejected}"));
    let all = "SELECT id, title, n FROM items WHERE id > 0 ORDER BY id";
    let there = rows(fixture, all);
    for phone in phones {
        let mut status = phone.device.status();
        // What the others have written is on its way.
        let here = tokio::time::timeout(PATIENCE, async {
            loop {
                let here = lines(&phone.device, all).await;
                if here == there {
                    return;
                }
                status.changed().await.unwrap();
            }
        });
        assert!(
            here.await.is_ok(),
            "device {} is not like the server",
            phone.number
        );
    }
}

async fn lines(device: &Device, sql: &str) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let answer = device.sql(sql, &[]).await.unwrap();
    let line = |row: &Vec<Value>| row.iter().map(text).collect::<Vec<_>>().join("|");
    answer.rows.iter().map(line).collect()
}

const PLACES: &[&str] = &[
    "sync.before_apply",
    "sync.after_apply",
    "dead_letters.record",
    "sync.after_verdict",
    "sync.before_append",
    "log.mid_write",
    "sync.after_append",
    "writer.after_commit",
    "sync.before_verdicts",
];

#[tokio::test(flavor = "multi_thread")]
async fn g9_a_server_killed_under_devices_decides_each_mutation_once() {
    let mut fixture = served();
    let mut phones = Vec::new();
    for number in 1..=3 {
        phones.push(Phone::new(&fixture, number).await);
    }
    fixture.kill();
    let mut kills = 0;
    let mut lives = 0;
    for _ in 0..number("SPRINGHEAD_SYNC_ROUNDS", 1) {
        for place in PLACES {
            for pass in [1, 4] {
                for phone in &mut phones {
                    for _ in 0..6 {
                        phone.write().await;
                    }
                }
                lives += 1;
                kills += u32::from(life(&mut fixture, &phones, place, pass).await);
            }
        }
    }
    fixture.start();
    check(&fixture, &phones).await;
    println!("{lives} lives, {kills} ended at their places");
    assert!(kills * 2 > lives, "only {kills} of {lives} were killed");
}

/// Devices write, leave, come back and are opened again while the server is killed whenever.
#[tokio::test(flavor = "multi_thread")]
async fn g9_random_devices_converge_over_a_real_server() {
    let mut fixture = served();
    let mut phones = Vec::new();
    for number in 1..=3 {
        phones.push(Phone::new(&fixture, number).await);
    }
    let url = format!("ws://{}/sync", fixture.setup.http);
    for seed in 1..=number("SPRINGHEAD_DEVICE_SEEDS", 2) {
        let mut rng = Rng::new(seed);
        for _ in 0..25 {
            let phone = &mut phones[usize::try_from(rng.below(3)).unwrap()];
            match rng.below(10) {
                0 => phone.device.disconnect(),
                // It may be connected already.
                1 | 2 => drop(phone.device.connect(&url, None)),
                3 if rng.below(3) == 0 => {
                    fixture.kill();
                    fixture.start();
                }
                3..=5 => {
                    let sql = format!(
                        "UPDATE items SET n = {} WHERE title LIKE 'title %'",
                        rng.below(49)
                    );
                    phone.device.sql(&sql, &[]).await.unwrap();
                }
                _ => phone.write().await,
            }
        }
        for phone in &phones {
            drop(phone.device.connect(&url, None));
        }
        check(&fixture, &phones).await;
    }
}

// ---- TLS and tokens ----

fn certificates(place: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients/certificates.sh");
    let made = std::process::Command::new("sh")
        .arg(script)
        .arg(place)
        .status();
    assert!(made.unwrap().success(), "openssl is installed");
}

/// From a shell, since what a process trusts is the whole process'.
#[test]
fn g6_a_device_talks_over_tls_to_whom_it_trusts_and_to_nobody_else() {
    let place = tempfile::tempdir().unwrap();
    certificates(place.path());
    let path = |name: &str| place.path().join(name).display().to_string();
    let (certificate, key, ca) = (path("server.crt"), path("server.key"), path("ca.crt"));
    let mut fixture = Fixture::new();
    for arg in ["--tls-certificate", &certificate, "--tls-key", &key] {
        fixture.setup.args.push(arg.to_owned());
    }
    fixture.start();
    fixture.sql("CREATE TABLE todos (id int PRIMARY KEY, title text)");
    fixture.sql("INSERT INTO todos VALUES (1, 'milk')");
    let dir = path("phone");
    let url = format!("wss://localhost:{}/sync", fixture.setup.http.port());
    let device = |args: &[&str], trusted: &str| {
        let (name, rest) = args.split_first().unwrap();
        std::process::Command::new(&fixture.setup.binary)
            .args(["device", name, "--json", "--dir", &dir])
            .args(rest)
            .env("SSL_CERT_FILE", trusted)
            .output()
            .unwrap()
    };
    assert!(device(&["subscribe", "1", "todos"], &ca).status.success());
    // Its own certificate is nobody's authority.
    let refused = device(
        &["sync", "--url", &url, "--timeout-ms", "1500"],
        &certificate,
    );
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("TLS"), "{said}");
    let synced = device(&["sync", "--url", &url], &ca);
    let said = String::from_utf8_lossy(&synced.stderr).into_owned();
    assert!(synced.status.success(), "{said}");
    let rows = device(&["sql", "SELECT title FROM todos"], &ca);
    let rows: Value = serde_json::from_slice(&rows.stdout).unwrap();
    assert_eq!(rows["rows"], serde_json::json!([["milk"]]));
    fixture.stop();
}

/// A token of a role for three seconds.
fn token(secret: &str, role: &str) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let ends = now.unwrap().as_secs() + 3;
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(serde_json::json!({"alg": "HS256", "typ": "JWT"}));
    let claims = part(serde_json::json!({"role": role, "sub": "ann", "exp": ends}));
    let body = format!("{head}.{claims}");
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, body.as_bytes()));
    format!("{body}.{signature}")
}

#[tokio::test(flavor = "multi_thread")]
async fn g6_a_session_outlives_its_tokens_while_there_are_new_ones() {
    let secret = "0123456789abcdef0123456789abcdef";
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("secret");
    std::fs::write(&file, secret).unwrap();
    let mut fixture = Fixture::new();
    let file = file.display().to_string();
    for arg in ["--jwt-secret-file", &file, "--jwt-leeway", "0s"] {
        fixture.setup.args.push(arg.to_owned());
    }
    fixture.start();
    fixture.sql("CREATE TABLE counters (id int PRIMARY KEY, n int)");
    fixture.sql("INSERT INTO counters VALUES (1, 0)");
    fixture.sql("CREATE ROLE app");
    fixture.sql("GRANT SELECT, UPDATE ON counters TO app");
    let dir = tempfile::tempdir().unwrap();
    let device = Device::open(dir.path()).await.unwrap();
    device.subscribe(1, "counters", None, &[]).await.unwrap();
    let made = Arc::new(AtomicUsize::new(0));
    let asked = Arc::new(tokio::sync::Notify::new());
    let source: TokenSource = {
        let (made, asked) = (Arc::clone(&made), Arc::clone(&asked));
        Arc::new(move || {
            let before = made.fetch_add(1, Ordering::SeqCst);
            asked.notify_one();
            // Someone who may not log in any more has no tokens that count.
            let secret = if before < 4 {
                secret
            } else {
                "another secret of thirty-two bytes"
            };
            Some(token(secret, "app"))
        })
    };
    let url = format!("ws://{}/sync", fixture.setup.http);
    device.connect(&url, Some(source)).unwrap();
    let mut status = device.status();
    let live = status.wait_for(|now| now.phase == Phase::Live);
    drop(tokio::time::timeout(PATIENCE, live).await.unwrap().unwrap());
    device.inc("counters", 1.into(), "n", 1).await.unwrap();
    // It stays as it is while tokens come and go.
    let phases = async {
        while made.load(Ordering::SeqCst) < 4 {
            tokio::select! {
                () = asked.notified() => {}
                changed = status.changed() => {
                    changed.unwrap();
                    assert_eq!(status.borrow_and_update().phase, Phase::Live);
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, phases).await.unwrap();
    let decided = status.wait_for(|now| now.pending == 0);
    drop(
        tokio::time::timeout(PATIENCE, decided)
            .await
            .unwrap()
            .unwrap(),
    );
    assert_eq!(rows(&fixture, "SELECT n FROM counters"), ["1"]);
    // Then there are none that count: the session ends with the last one's time, and says why.
    let ended = status.wait_for(|now| now.phase != Phase::Live);
    drop(
        tokio::time::timeout(PATIENCE, ended)
            .await
            .unwrap()
            .unwrap(),
    );
    let error = device.status().borrow().error.clone().unwrap_or_default();
    assert!(
        error.contains("token_expired") || error.contains("unauthenticated"),
        "{error}"
    );
    // What is written meanwhile waits.
    device.inc("counters", 1.into(), "n", 1).await.unwrap();
    assert_eq!(device.pending().await.unwrap().len(), 1);
    device.close().await;
}

/// A session in a device's name, as a copy of its files would begin one.
fn copy_of(
    producer: ProducerId,
    fixture: &Fixture,
) -> WebSocket<MaybeTlsStream<std::net::TcpStream>> {
    let (mut socket, _) = connect(format!("ws://{}/sync", fixture.setup.http)).unwrap();
    let hello = DeviceToServer::Handshake(Handshake {
        protocol: 1,
        token: None,
        tenant: None,
        device: DeviceId(7),
        producer,
        generation: Generation::FIRST,
        cursor: None,
        catalog_version: CatalogVersion(0),
        catalog_hash: CatalogHash::default(),
        settled: Seq::ZERO,
        shapes: Vec::new(),
        client: "a copy".to_owned(),
    });
    let hello = Message::Binary(hello.to_bytes().into());
    socket.send(hello).unwrap();
    loop {
        if let Message::Binary(bytes) = socket.read().unwrap()
            && let ServerToDevice::HandshakeAck(_) =
                ServerToDevice::from_bytes(&bytes, 1 << 20).unwrap()
        {
            return socket;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_who_is_taken_over_again_and_again_steps_back_and_comes_when_asked() {
    let fixture = served();
    let phone = Phone::new(&fixture, 1).await;
    phone.live().await;
    phone.device.disconnect();
    phone
        .device
        .inc("counters", 1.into(), "n", 1)
        .await
        .unwrap();
    let producer = phone.device.pending().await.unwrap()[0].mutation.producer;
    let url = format!("ws://{}/sync", fixture.setup.http);
    phone.device.connect(&url, None).unwrap();
    let mut copies = Vec::new();
    let mut status = phone.device.status();
    for _ in 0..3 {
        phone.live().await;
        copies.push(copy_of(producer, &fixture));
        let gone = status.wait_for(|now| now.phase != Phase::Live);
        drop(tokio::time::timeout(PATIENCE, gone).await.unwrap().unwrap());
    }
    let back = status.wait_for(|now| now.phase == Phase::Elsewhere);
    let error = tokio::time::timeout(PATIENCE, back).await.unwrap();
    let error = error.unwrap().error.clone().unwrap_or_default();
    assert!(error.contains("taken_over"), "{error}");
    // It works on, and the copy is left in peace.
    phone
        .device
        .inc("counters", 1.into(), "n", 1)
        .await
        .unwrap();
    assert_eq!(phone.device.status().borrow().phase, Phase::Elsewhere);
    assert_eq!(rows(&fixture, "SELECT n FROM counters"), ["1"]);
    phone.device.retry_now();
    phone.live().await;
    assert_eq!(rows(&fixture, "SELECT n FROM counters"), ["2"]);
}
