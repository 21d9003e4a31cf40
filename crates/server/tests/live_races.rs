//! Live queries while writers write at full speed: between snapshot and changes nothing is lost and
//! nothing comes twice, over SSE and over a WebSocket; and over kills of the server clients that go on
//! from their cursors end with what a fresh SELECT says.
//!
//! `SPRINGHEAD_LIVE_ROUNDS` is how many rounds of the races are run (10,000 for the long run).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use springhead_sim::client::http::{SseOpened, SseStream, encode};
use springhead_sim::client::pg::{PgClient, PgError};
use springhead_sim::fixture::Fixture;
use springhead_sim::rng::Rng;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

const PATIENCE: Duration = Duration::from_secs(30);

const TABLES: &str = "CREATE TABLE items (id integer PRIMARY KEY, grp integer, n integer);
    CREATE TABLE notes (id integer PRIMARY KEY, item integer, text text);
    CREATE INDEX notes_item ON notes (item);
    CREATE VIEW low AS SELECT id, n FROM items WHERE grp < 2";

const QUERIES: [&str; 7] = [
    "SELECT id, n FROM items WHERE grp = 1",
    "SELECT id, grp, n FROM items WHERE n BETWEEN 20 AND 70",
    "SELECT grp, count(*), sum(n) FROM items GROUP BY grp",
    "SELECT i.id, x.id, x.text FROM items i LEFT JOIN notes x ON x.item = i.id WHERE i.grp < 3",
    "SELECT id, n FROM items ORDER BY n DESC, id LIMIT 5",
    "SELECT i.id, x.text FROM items i JOIN notes x ON x.item = i.id ORDER BY i.n DESC, i.id, x.id",
    "SELECT id, n FROM low WHERE n > 20",
];

fn rounds() -> usize {
    let given = std::env::var("SPRINGHEAD_LIVE_ROUNDS");
    given.map_or(60, |text| text.parse().expect("a number of rounds"))
}

/// Clients that write as fast as they can, until told to stop.
struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    /// `survives`: a server that is gone is tried again.
    fn start(address: SocketAddr, count: u64, survives: bool) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count)
            .map(|writer| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || {
                    let mut rng = Rng::new(writer + 1);
                    let mut client = None;
                    while !stop.load(Ordering::Relaxed) {
                        let sql = statement(&mut rng);
                        let open = match client.take() {
                            Some(open) => Ok(open),
                            None => PgClient::connect(address, "postgres"),
                        };
                        let ran = open.and_then(|mut open| {
                            let ran = open.query(&sql);
                            if !matches!(ran, Err(PgError::Io(_))) {
                                client = Some(open);
                            }
                            ran
                        });
                        match ran {
                            Ok(_) => {}
                            Err(PgError::Sql { code, .. }) if code == "23505" => {}
                            Err(error) => assert!(survives, "{sql}: {error}"),
                        }
                    }
                })
            })
            .collect();
        Writers { stop, threads }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a writer");
        }
    }
}

fn statement(rng: &mut Rng) -> String {
    let (id, n) = (rng.below(60), rng.below(100));
    match rng.below(8) {
        0 | 1 => format!("INSERT INTO items VALUES ({id}, {}, {n})", rng.below(5)),
        2 | 3 => format!("UPDATE items SET n = {n} WHERE id = {id}"),
        4 => format!("UPDATE items SET grp = {} WHERE id = {id}", rng.below(5)),
        5 => format!("DELETE FROM items WHERE id = {id}"),
        6 => format!("INSERT INTO notes VALUES ({n}, {id}, 'text {n}')"),
        _ => format!(
            "BEGIN; DELETE FROM notes WHERE id = {n}; UPDATE items SET n = n + 1 WHERE id = {id}; COMMIT"
        ),
    }
}

/// A result that is kept by what comes, by key.
#[derive(Default)]
struct Mirror {
    rows: BTreeMap<String, Value>,
    at: u64,
}

impl Mirror {
    fn snapshot(&mut self, data: &Value) {
        let list = |name: &str| data[name].as_array().expect("a list").clone();
        for (key, row) in list("keys").into_iter().zip(list("rows")) {
            let twice = self
                .rows
                .insert(key.as_str().expect("a key").to_owned(), row);
            assert!(twice.is_none(), "twice in a snapshot: {key}");
        }
    }

    #[track_caller]
    fn change(&mut self, change: &Value) {
        let lsn = change["lsn"].as_u64().expect("an LSN");
        assert!(lsn > self.at, "{lsn} after {}", self.at);
        self.at = lsn;
        let list = |name: &str| change[name].as_array().expect("a list").clone();
        let key = |entry: &Value| entry["key"].as_str().expect("a key").to_owned();
        for entry in list("removed") {
            assert!(
                self.rows.remove(&key(&entry)).is_some(),
                "{entry} is not there"
            );
        }
        for entry in list("changed") {
            let was = self.rows.insert(key(&entry), entry["row"].clone());
            assert!(was.is_some(), "{entry} is not there");
        }
        for entry in list("added") {
            let was = self.rows.insert(key(&entry), entry["row"].clone());
            assert!(was.is_none(), "{entry} is there already");
        }
    }
}

/// A live query over SSE.
struct Stream {
    stream: SseStream,
    mirror: Mirror,
    /// A change that has been read ahead.
    next: Option<Value>,
}

impl Stream {
    fn open(fixture: &Fixture, sql: &str) -> Stream {
        let mut stream = fixture.stream(&format!("/live?sql={}", encode(sql)), None);
        let mut mirror = Mirror::default();
        loop {
            let event = stream.next_event().expect("a stream").expect("no end");
            match event.event.as_str() {
                "snapshot" => mirror.snapshot(&event.json()),
                "ready" => {
                    mirror.at = event.json()["lsn"].as_u64().expect("an LSN");
                    return Stream {
                        stream,
                        mirror,
                        next: None,
                    };
                }
                other => panic!("{other}: {}", event.data),
            }
        }
    }

    /// Takes the changes up to `lsn`: until one comes that is after it.
    fn advance(&mut self, lsn: u64) {
        loop {
            if self.next.is_none() {
                let event = self.stream.next_event().expect("a stream").expect("no end");
                match event.event.as_str() {
                    "change" => self.next = Some(event.json()),
                    "progress" => {
                        let cursor = event.json()["cursor"].to_string();
                        let digits = cursor.trim_matches('"').split('@').next().map(str::parse);
                        if digits.is_some_and(|at| at.is_ok_and(|at: u64| at >= lsn)) {
                            return;
                        }
                        continue;
                    }
                    other => panic!("{other}: {}", event.data),
                }
            }
            let change = self.next.take().expect("it was read above");
            if change["lsn"].as_u64().is_some_and(|at| at > lsn) {
                self.next = Some(change);
                return;
            }
            self.mirror.change(&change);
        }
    }
}

#[test]
fn g4_over_sse_nothing_is_lost_and_nothing_comes_twice_between_snapshot_and_changes() {
    let fixture = Fixture::started();
    fixture.sql(TABLES);
    let writers = Writers::start(fixture.setup.pg, 3, false);
    for round in 0..rounds() {
        let sql = QUERIES[round % QUERIES.len()];
        let mut stream = Stream::open(&fixture, sql);
        let from = stream.mirror.at;
        stream.advance(from + 15);
        // It comes to what another sees that starts later.
        let later = Stream::open(&fixture, sql);
        stream.advance(later.mirror.at);
        assert_eq!(
            stream.mirror.rows, later.mirror.rows,
            "{sql} in round {round}"
        );
    }
    writers.stop();
}

/// A WebSocket and the live queries on it.
struct Socket {
    socket: WebSocketStream<TcpStream>,
    mirrors: BTreeMap<u64, Mirror>,
    asked: u64,
}

impl Socket {
    async fn connect(address: SocketAddr) -> Socket {
        let stream = TcpStream::connect(address).await.expect("connected");
        let url = format!("ws://{address}/ws");
        let (socket, _) = client_async(url, stream).await.expect("a WebSocket");
        Socket {
            socket,
            mirrors: BTreeMap::new(),
            asked: 0,
        }
    }

    async fn ask(&mut self, method: &str, params: Value) {
        self.asked += 1;
        let request =
            json!({ "jsonrpc": "2.0", "id": self.asked, "method": method, "params": params });
        let message = Message::Text(request.to_string().into());
        self.socket.send(message).await.expect("sent");
    }

    /// Takes one message; the answer to what was asked, or the LSN of a tick.
    async fn take(&mut self) -> (Option<Value>, Option<u64>) {
        let message = tokio::time::timeout(PATIENCE, self.socket.next()).await;
        let Message::Text(text) = message
            .expect("in time")
            .expect("no end")
            .expect("a message")
        else {
            return (None, None);
        };
        let message: Value = serde_json::from_str(&text).expect("JSON");
        let params = &message["params"];
        let id = params["live_id"].as_u64().unwrap_or(0);
        match message["method"].as_str() {
            None => return (Some(message["result"].clone()), None),
            Some("tick") => return (None, params["lsn"].as_u64()),
            Some("live.snapshot") => self.mirrors.entry(id).or_default().snapshot(params),
            Some("live.ready") => {
                let at = params["lsn"].as_u64().expect("an LSN");
                self.mirrors.entry(id).or_default().at = at;
            }
            Some("live.change") => {
                // One that has been cancelled may still have been under way.
                if let Some(mirror) = self.mirrors.get_mut(&id) {
                    mirror.change(params);
                }
            }
            Some("live.progress") => {}
            Some(other) => panic!("{other}: {message}"),
        }
        (None, None)
    }

    /// Opens a live query, and waits until it is ready.
    async fn open(&mut self, sql: &str) -> u64 {
        self.ask("live", json!({ "sql": sql })).await;
        let id = loop {
            if let (Some(result), _) = self.take().await {
                break result["live_id"].as_u64().expect("an id");
            }
        };
        self.mirrors.insert(id, Mirror::default());
        while self.mirrors[&id].at == 0 {
            self.take().await;
        }
        id
    }
}

#[test]
fn g4_over_a_websocket_queries_that_start_at_different_times_agree_at_every_tick() {
    let fixture = Fixture::started();
    fixture.sql(TABLES);
    let writers = Writers::start(fixture.setup.pg, 3, false);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let mut socket = Socket::connect(fixture.setup.http).await;
        for round in 0..rounds() {
            let sql = QUERIES[round % QUERIES.len()];
            let first = socket.open(sql).await;
            let from = socket.mirrors[&first].at;
            while socket.mirrors[&first].at < from + 15 {
                socket.take().await;
            }
            let second = socket.open(sql).await;
            let at = socket.mirrors[&second].at;
            let mut agreed = 0;
            while agreed < 3 {
                if let (_, Some(lsn)) = socket.take().await
                    && lsn >= at
                {
                    let [one, other] = [first, second].map(|id| &socket.mirrors[&id].rows);
                    assert_eq!(one, other, "{sql} in round {round} at {lsn}");
                    agreed += 1;
                }
            }
            for id in [first, second] {
                socket.ask("cancel", json!({ "live_id": id })).await;
                while socket.take().await.0.is_none() {}
                socket.mirrors.remove(&id);
            }
        }
    });
    writers.stop();
}

/// A client that comes back with its cursor, whatever happens to the server.
fn follow(address: SocketAddr, sql: &str, end: &str) -> BTreeMap<String, Value> {
    let target = format!("/live?sql={}", encode(sql));
    let (mut mirror, mut cursor) = (Mirror::default(), None::<String>);
    let begun = Instant::now();
    while begun.elapsed() < 4 * PATIENCE {
        let Ok(SseOpened::Stream(mut stream)) =
            SseStream::open(address, &target, cursor.as_deref())
        else {
            std::thread::yield_now();
            continue;
        };
        if cursor.is_none() {
            mirror = Mirror::default();
        }
        while let Ok(Some(event)) = stream.next_event() {
            match event.event.as_str() {
                "snapshot" => mirror.snapshot(&event.json()),
                "change" => mirror.change(&event.json()),
                "ready" | "progress" => {}
                other => panic!("{sql}: {other}: {}", event.data),
            }
            cursor = event.id.or(cursor);
            if mirror
                .rows
                .values()
                .any(|row| row.to_string().contains(end))
            {
                return mirror.rows;
            }
        }
    }
    panic!("{sql}: the end never came");
}

#[test]
fn g2_over_kills_clients_that_go_on_from_their_cursors_end_with_what_a_select_says() {
    let mut fixture = Fixture::started();
    fixture.sql(TABLES);
    let end = "987654";
    let followers: Vec<_> = (QUERIES.iter())
        .map(|sql| {
            let address = fixture.setup.http;
            std::thread::spawn(move || follow(address, sql, end))
        })
        .collect();
    let writers = Writers::start(fixture.setup.pg, 2, true);
    for _ in 0..4 {
        let before = written(&fixture);
        let begun = Instant::now();
        while written(&fixture) < before + 100 {
            assert!(begun.elapsed() < PATIENCE, "the writers are stuck");
        }
        fixture.kill();
        fixture.start();
    }
    writers.stop();
    // Every query has a row that nobody else makes.
    fixture.sql(&format!(
        "BEGIN; DELETE FROM items WHERE id = 1; DELETE FROM notes WHERE id = 1;
         INSERT INTO items VALUES (1, 1, 50), (5000, 1, {end}), ({end}, 2, 60), (7000, {end}, 61);
         INSERT INTO notes VALUES (1, 1, '{end}'); COMMIT"
    ));
    for (sql, follower) in QUERIES.iter().zip(followers) {
        let told = follower.join().expect("a follower");
        let now = Stream::open(&fixture, sql).mirror.rows;
        assert_eq!(told, now, "{sql}");
    }
}

/// How far the log has come.
fn written(fixture: &Fixture) -> u64 {
    let status = fixture.get("/v1/status").json();
    let lsn = &status["durable_lsn"];
    lsn.as_u64().unwrap_or_else(|| panic!("{status}"))
}
