//! LISTEN and NOTIFY: the same scripts on PostgreSQL 15 and on Springhead give the same messages in
//! the same order; and what PostgreSQL does not do, `LISTEN … FROM`, loses nothing over kills.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use springhead_sim::client::pg::{Notified, PgClient, PgError};
use springhead_sim::fixture::Fixture;
use springhead_sim::postgres::Postgres;
use springhead_sim::rng::Rng;

/// What one session was told: channel, payload and the number of the session that sent it.
type Told = Vec<(String, String, usize)>;

/// Told at the end of a script, so that everything before it has come.
const END: &str = "zz_end";

/// Sessions of one script on one server.
struct Stage {
    sessions: Vec<PgClient>,
    by_process: HashMap<i32, usize>,
    told: Vec<Told>,
    /// The SQLSTATE of each step, empty for success.
    codes: Vec<String>,
    ends: u32,
}

impl Stage {
    fn new(address: SocketAddr, user: &str, sessions: usize) -> Stage {
        let sessions: Vec<PgClient> = (0..sessions)
            .map(|_| PgClient::connect_as(address, user, "postgres").expect("a session"))
            .collect();
        let process = |client: &PgClient| client.key.expect("a key").0;
        Stage {
            by_process: sessions.iter().map(process).zip(0..).collect(),
            told: vec![Told::new(); sessions.len()],
            sessions,
            codes: Vec::new(),
            ends: 0,
        }
    }

    fn run(&mut self, session: usize, sql: &str) {
        let code = match self.sessions[session].query(sql) {
            Ok(_) => String::new(),
            Err(PgError::Sql { code, .. }) => code,
            Err(PgError::Io(error)) => panic!("{sql}: {error}"),
        };
        self.codes.push(code);
    }

    /// Waits until `session`, which is in no transaction, has been told everything.
    fn settle(&mut self, session: usize) {
        self.ends += 1;
        let end = format!("{}", self.ends);
        let client = &mut self.sessions[session];
        client
            .query(&format!("LISTEN {END}"))
            .expect("it is in no transaction");
        client
            .query(&format!("NOTIFY {END}, '{end}'"))
            .expect("it is in no transaction");
        loop {
            let Notified {
                process_id,
                channel,
                payload,
            } = self.sessions[session].await_notification().expect("told");
            if channel == END && payload == end {
                return;
            }
            if channel != END {
                let sender = self.by_process[&process_id];
                self.told[session].push((channel, payload, sender));
            }
        }
    }

    fn finish(mut self) -> (Vec<Told>, Vec<String>) {
        for session in 0..self.sessions.len() {
            let _ = self.sessions[session].query("ROLLBACK");
        }
        for session in 0..self.sessions.len() {
            self.settle(session);
        }
        (self.told, self.codes)
    }
}

/// A step is a session and its statement; `settle` waits until it has been told everything.
fn play(address: SocketAddr, user: &str, script: &[(usize, String)]) -> (Vec<Told>, Vec<String>) {
    let sessions = script.iter().map(|(session, _)| session + 1).max();
    let mut stage = Stage::new(address, user, sessions.unwrap_or(1));
    for (session, sql) in script {
        if sql == "settle" {
            stage.settle(*session);
        } else {
            stage.run(*session, sql);
        }
    }
    stage.finish()
}

#[track_caller]
fn same_on_both(postgres: &Postgres, fixture: &Fixture, name: &str, script: &[(usize, String)]) {
    let theirs = play(postgres.ports.pg, "postgres", script);
    let ours = play(fixture.setup.pg, "sim", script);
    assert_eq!(ours, theirs, "{name}: {script:#?}");
}

/// Scripts by name: lines of a session's number and its statement.
const SCRIPTS: &[(&str, &str)] = &[
    (
        "duplicates within a transaction are one",
        "0 LISTEN a\n1 BEGIN\n1 NOTIFY a, 'x'\n1 NOTIFY a, 'y'\n1 NOTIFY a, 'x'\n1 NOTIFY a\n1 NOTIFY a, ''\n1 COMMIT\n1 NOTIFY a, 'x'\n1 NOTIFY a, 'x'",
    ),
    (
        "a script is one transaction",
        "0 LISTEN a\n1 NOTIFY a, 'x'; NOTIFY a, 'x'; SELECT pg_notify('a', 'x'), pg_notify('a', 'z')",
    ),
    (
        "what is rolled back is not told",
        "0 LISTEN a\n1 BEGIN\n1 NOTIFY a, '1'\n1 ROLLBACK\n1 BEGIN\n1 NOTIFY a, '2'\n1 SELECT 1/0\n1 NOTIFY a, '3'\n1 COMMIT\n1 NOTIFY a, '4'",
    ),
    (
        "savepoints drop theirs",
        "0 LISTEN a\n1 BEGIN\n1 NOTIFY a, '1'\n1 SAVEPOINT s\n1 NOTIFY a, '2'\n1 SAVEPOINT t\n1 NOTIFY a, '3'\n1 ROLLBACK TO s\n1 NOTIFY a, '1'\n1 NOTIFY a, '4'\n1 RELEASE s\n1 NOTIFY a, '2'\n1 COMMIT",
    ),
    (
        "a savepoint's duplicates fold with those before it",
        "0 LISTEN a\n1 BEGIN\n1 NOTIFY a, '1'\n1 SAVEPOINT s\n1 NOTIFY a, '1'\n1 NOTIFY a, '2'\n1 RELEASE s\n1 NOTIFY a, '2'\n1 COMMIT",
    ),
    (
        "one hears oneself",
        "0 LISTEN a\n0 NOTIFY a, 'own'\n0 BEGIN\n0 NOTIFY a, 'in a block'\n0 COMMIT",
    ),
    (
        "a transaction that listens hears itself",
        "0 BEGIN\n0 NOTIFY a, 'before'\n0 LISTEN a\n0 NOTIFY a, 'after'\n0 COMMIT",
    ),
    (
        "one that is in a transaction hears when it ends",
        "0 LISTEN a\n0 BEGIN\n1 NOTIFY a, '1'\n0 SELECT 1\n1 NOTIFY a, '2'\n0 COMMIT\n1 NOTIFY a, '3'",
    ),
    (
        "LISTEN is undone by ROLLBACK",
        "0 BEGIN\n0 LISTEN a\n0 ROLLBACK\n1 NOTIFY a, '1'\n0 BEGIN\n0 SAVEPOINT s\n0 LISTEN a\n0 ROLLBACK TO s\n0 LISTEN b\n0 COMMIT\n1 NOTIFY a, '2'\n1 NOTIFY b, '3'",
    ),
    (
        "UNLISTEN is undone by ROLLBACK",
        "0 LISTEN a\n0 BEGIN\n0 UNLISTEN a\n0 ROLLBACK\n1 NOTIFY a, '1'\n0 settle\n0 UNLISTEN a\n1 NOTIFY a, '2'\n0 LISTEN a\n0 LISTEN b\n0 UNLISTEN *\n1 NOTIFY a, '3'\n1 NOTIFY b, '3'",
    ),
    (
        "what was sent before LISTEN is not heard",
        "1 NOTIFY a, '1'\n0 LISTEN a\n1 NOTIFY a, '2'",
    ),
    (
        "what arrived in a transaction is heard with the channels at its end",
        "0 LISTEN a\n0 BEGIN\n1 NOTIFY a, '1'\n1 NOTIFY b, '1'\n0 LISTEN b\n0 UNLISTEN a\n0 COMMIT\n1 NOTIFY a, '2'\n1 NOTIFY b, '2'",
    ),
    (
        "twice is once",
        "0 LISTEN a\n0 LISTEN a\n1 NOTIFY a, '1'\n0 settle\n0 UNLISTEN a\n1 NOTIFY a, '2'",
    ),
    (
        "two hear the same, in the order of the commits",
        "0 LISTEN a\n1 LISTEN a\n1 LISTEN b\n2 BEGIN\n2 NOTIFY a, 'last'\n0 SELECT 1\n2 COMMIT\n1 NOTIFY b, 'mine'\n0 NOTIFY a, 'again'",
    ),
    (
        "names fold unless they are quoted",
        "0 LISTEN Foo\n0 LISTEN \"Bar x\"\n1 NOTIFY fOO, '1'\n1 NOTIFY \"Foo\", '2'\n1 SELECT pg_notify('Bar x', '3')\n1 SELECT pg_notify('FOO', '4')",
    ),
    (
        "limits",
        "0 LISTEN a\n1 SELECT pg_notify('a', repeat('x', 7999))\n1 SELECT pg_notify('a', repeat('x', 8000))\n1 SELECT pg_notify('', 'x')\n1 SELECT pg_notify(NULL, 'x')\n1 SELECT pg_notify('a', NULL)\n1 SELECT pg_notify(repeat('x', 63), '')\n1 SELECT pg_notify(repeat('x', 64), '')\n1 LISTEN ''\n1 LISTEN\n1 NOTIFY a, 7\n1 UNLISTEN 'a'",
    ),
    (
        "DISCARD ALL ends listening",
        "0 LISTEN a\n0 BEGIN\n0 DISCARD ALL\n0 ROLLBACK\n1 NOTIFY a, '1'\n0 settle\n0 DISCARD ALL\n1 NOTIFY a, '2'",
    ),
    (
        "sent by a statement over rows",
        "0 LISTEN a\n1 SELECT pg_notify('a', n::text) FROM generate_series(1, 30) n\n1 SELECT count(pg_notify('a', (n % 3)::text)) FROM generate_series(1, 30) n",
    ),
    (
        "a transaction that only reads may send",
        "0 LISTEN a\n1 BEGIN READ ONLY\n1 NOTIFY a, '1'\n1 COMMIT",
    ),
];

fn script(text: &str) -> Vec<(usize, String)> {
    text.lines()
        .map(|line| {
            let (session, sql) = line.split_once(' ').expect("a number and a statement");
            (session.parse().expect("a number"), sql.to_owned())
        })
        .collect()
}

#[test]
fn every_script_gives_what_postgresql_gives() {
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let fixture = Fixture::started();
    for (name, text) in SCRIPTS {
        same_on_both(&postgres, &fixture, name, &script(text));
    }
    for seed in 0..60 {
        let script = generated(seed);
        same_on_both(&postgres, &fixture, &format!("seed {seed}"), &script);
    }
}

/// A script at random. At most one session at a time has sent in an open transaction: with
/// Springhead it holds the writer until it ends.
fn generated(seed: u64) -> Vec<(usize, String)> {
    let mut rng = Rng::new(seed);
    let mut script = Vec::new();
    let mut in_block = [false; 3];
    let mut savepoints = [0_u32; 3];
    let mut holder = None;
    for _ in 0..40 {
        let session = usize::try_from(rng.below(3)).expect("small");
        let channel = ["a", "b", "c"][usize::try_from(rng.below(3)).expect("small")];
        let payload = rng.below(4);
        let may_send = holder.is_none() || holder == Some(session);
        let sql = match rng.below(14) {
            0 | 1 if !in_block[session] => {
                in_block[session] = true;
                "BEGIN".to_owned()
            }
            0 | 1 => {
                in_block[session] = false;
                savepoints[session] = 0;
                if holder == Some(session) {
                    holder = None;
                }
                ["COMMIT", "ROLLBACK"][usize::from(rng.chance(30))].to_owned()
            }
            2 if in_block[session] => {
                savepoints[session] += 1;
                format!("SAVEPOINT s{}", savepoints[session])
            }
            3 if savepoints[session] > 0 => {
                format!("ROLLBACK TO s{}", savepoints[session])
            }
            4 if savepoints[session] > 0 => {
                savepoints[session] -= 1;
                format!("RELEASE s{}", savepoints[session] + 1)
            }
            5 | 6 => format!("LISTEN {channel}"),
            7 => format!("UNLISTEN {channel}"),
            8 if rng.chance(30) => "UNLISTEN *".to_owned(),
            9..=11 if may_send => {
                if in_block[session] {
                    holder = Some(session);
                }
                format!("NOTIFY {channel}, '{payload}'")
            }
            12 if may_send => {
                if in_block[session] {
                    holder = Some(session);
                }
                format!("SELECT pg_notify('{channel}', '{payload}')")
            }
            _ => continue,
        };
        let sends = sql.contains("NOTIFY") || sql.contains("pg_notify") || sql == "COMMIT";
        script.push((session, sql));
        if sends && holder.is_none() {
            // Those who may be told are: what they do next would race with it.
            for (other, in_block) in in_block.iter().enumerate() {
                if !in_block {
                    script.push((other, "settle".to_owned()));
                }
            }
        }
    }
    script
}

#[test]
fn functions_tell_what_a_session_listens_to() {
    let fixture = Fixture::started();
    let mut client = fixture.pg();
    let mut rows = |sql: &str| client.query(sql).expect(sql).rows;
    assert!(rows("SELECT * FROM pg_listening_channels()").is_empty());
    rows("LISTEN a");
    rows("BEGIN");
    rows("LISTEN \"It's\"");
    assert_eq!(rows("SELECT pg_listening_channels()").len(), 1);
    rows("COMMIT");
    assert_eq!(
        rows("SELECT * FROM pg_listening_channels()"),
        [[Some("a".to_owned())], [Some("It's".to_owned())]]
    );
    assert_eq!(
        rows("SELECT pg_notification_queue_usage()"),
        [[Some("0".to_owned())]]
    );
}

#[test]
fn g6_channels_are_the_tenants_own() {
    let fixture = Fixture::started();
    fixture.sql("CREATE DATABASE other");
    let mut here = fixture.pg();
    let mut there = fixture.pg_to("other");
    here.query("LISTEN a").expect("listens");
    there.query("LISTEN a").expect("listens");
    here.query("NOTIFY a, 'here'").expect("sent");
    there.query("NOTIFY a, 'there'").expect("sent");
    let payload = |client: &mut PgClient| client.await_notification().expect("told").payload;
    assert_eq!(payload(&mut here), "here");
    assert_eq!(payload(&mut there), "there");
    here.query("SELECT 1").expect("answers");
    assert_eq!(here.notified, []);
}

#[test]
fn g7_a_listener_that_does_not_read_loses_nothing() {
    let mut fixture = Fixture::new();
    let setup = fixture.setup.clone();
    // A queue of a few messages: nearly everything must come from the log.
    let setup = setup.with_env("SPRINGHEAD_NOTIFY_QUEUE_BYTES", "1KiB");
    fixture.start_as(&setup).expect("it starts");
    let mut listener = fixture.pg();
    listener.query("LISTEN a").expect("listens");
    let mut sender = fixture.pg();
    let count = 4000;
    let payload = "x".repeat(1000);
    for first in (0..count).step_by(100) {
        let sql = format!(
            "SELECT pg_notify('a', n || '{payload}') FROM generate_series({first}, {}) n",
            first + 99
        );
        sender.query(&sql).expect("sent");
    }
    for expected in 0..count {
        let told = listener.await_notification().expect("told");
        assert_eq!(told.payload, format!("{expected}{payload}"));
    }
    listener.query("SELECT 1").expect("answers");
    assert_eq!(listener.notified, []);
}

#[test]
fn a_bad_cursor_is_refused_by_name() {
    let fixture = Fixture::started();
    let mut client = fixture.pg();
    for (cursor, code) in [
        ("x", "SH002"),
        ("99999999", "SH001"),
        ("1@00000001", "SH001"),
    ] {
        let error = client.query(&format!("LISTEN a FROM '{cursor}'"));
        assert_eq!(error.expect_err(cursor).code(), Some(code), "{cursor}");
    }
}

/// What a follower of `LISTEN … FROM` has for certain, and its place.
#[derive(Default)]
struct Followed {
    seen: Vec<u64>,
    cursor: String,
}

fn number_of(notification: &[u8]) -> u64 {
    let payload = notification[4..].split(|&byte| byte == 0).nth(1);
    let text = std::str::from_utf8(payload.expect("a payload")).expect("a text");
    text.parse().expect("a number")
}

/// Reads until the connection breaks, or `done` and everything has come. What came after the last
/// cursor that was asked for is forgotten with the connection.
fn follow(address: SocketAddr, followed: &mut Followed, done: &AtomicBool) -> Result<(), PgError> {
    let mut client = PgClient::connect(address, "postgres")?;
    let mut pending = Vec::new();
    client.query(&format!("LISTEN c FROM '{}'", followed.cursor))?;
    let replayed = client.notified.drain(..);
    pending.extend(replayed.map(|told| told.payload.parse::<u64>().expect("a number")));
    let mut quiet = 0;
    while quiet < 3 {
        let was_done = done.load(Ordering::SeqCst);
        client.send(b'Q', b"SHOW notification_cursor\0")?;
        let mut cursor = None;
        let mut after = Vec::new();
        loop {
            match client.receive()? {
                (b'A', body) if cursor.is_none() => pending.push(number_of(&body)),
                (b'A', body) => after.push(number_of(&body)),
                (b'D', body) => cursor = Some(String::from_utf8_lossy(&body[6..]).into_owned()),
                (b'Z', _) => break,
                _ => {}
            }
        }
        followed.cursor = cursor.expect("a cursor");
        followed.seen.append(&mut pending);
        pending = after;
        quiet = if was_done && pending.is_empty() {
            quiet + 1
        } else {
            0
        };
    }
    Ok(())
}

/// Sends numbers from `next` on until the connection breaks or `count` are sent; tells each that was
/// acknowledged, and the first that was not.
fn send(mut sender: PgClient, mut next: u64, count: u64, told: &Sender<Result<u64, u64>>) {
    for _ in 0..count {
        let sent = sender.query(&format!("NOTIFY c, '{next}'"));
        let answer = sent.map(|_| next).map_err(|_| next);
        let broken = answer.is_err();
        told.send(answer).expect("the test listens");
        if broken {
            return;
        }
        next += 1;
    }
}

#[test]
fn g2_listen_from_a_cursor_loses_nothing_and_repeats_nothing_over_kills() {
    const KILLS: u64 = 6;
    let mut fixture = Fixture::started();
    let address = fixture.setup.pg;
    let start = fixture.sql("SHOW notification_cursor")[0][0].clone();
    let mut followed = Followed {
        seen: Vec::new(),
        cursor: start.expect("a cursor"),
    };
    let (mut acknowledged, mut unknown) = (Vec::new(), Vec::new());
    let mut next = 0;
    for round in 0..=KILLS {
        let done = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&done);
        let mut state = std::mem::take(&mut followed);
        let follower = std::thread::spawn(move || {
            let result = follow(address, &mut state, &ended);
            (state, result.is_ok())
        });
        let (told, answers) = std::sync::mpsc::channel();
        let sender = fixture.pg();
        let sending = std::thread::spawn(move || send(sender, next, 400, &told));
        for (count, answer) in answers.iter().enumerate() {
            match answer {
                Ok(number) => acknowledged.push(number),
                Err(number) => unknown.push(number),
            }
            next += 1;
            if count == 150 && round < KILLS {
                fixture.kill();
            }
        }
        sending.join().expect("it ends");
        done.store(true, Ordering::SeqCst);
        let (state, whole) = follower.join().expect("it ends");
        followed = state;
        if round < KILLS {
            fixture.start();
        } else {
            assert!(whole, "the last follower was cut off");
        }
    }
    assert!(followed.seen.is_sorted_by(|a, b| a < b), "order, or twice");
    let sure: Vec<u64> = (followed.seen.iter().copied())
        .filter(|number| !unknown.contains(number))
        .collect();
    assert_eq!(sure, acknowledged);
}
