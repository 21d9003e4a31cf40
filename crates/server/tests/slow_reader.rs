//! Readers that do not read: bounded memory for them, no waiting for anyone else, and everything is
//! there when they read again.

use std::thread;
use std::time::{Duration, Instant};

use springhead_sim::client::pg::PgClient;
use springhead_sim::fixture::Fixture;

/// The server's anonymous memory in bytes: what it keeps, without mapped files.
fn anonymous_bytes(fixture: &mut Fixture) -> u64 {
    let pid = fixture.server().pid().as_raw_nonzero();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon:"))
        .expect("RssAnon");
    let kilobytes: u64 = line
        .split_whitespace()
        .nth(1)
        .expect("a number")
        .parse()
        .expect("a number");
    kilobytes * 1024
}

fn insert_rows(fixture: &Fixture, from: usize, to: usize) {
    let mut client = fixture.pg();
    let note = "n".repeat(500);
    for start in (from..to).step_by(100) {
        let values: Vec<String> = (start..start + 100)
            .map(|id| format!("({id}, '{note}')"))
            .collect();
        client
            .query(&format!("INSERT INTO t VALUES {}", values.join(", ")))
            .expect("an insert");
    }
}

#[test]
fn g7_stalled_streams_cost_little_and_get_everything_later() {
    const STREAMS: usize = 20;
    const ROWS: usize = 40_000;
    let mut fixture = Fixture::started();
    fixture.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT)");
    // The caches that any writing fills are full before the first look.
    insert_rows(&fixture, 0, 20_000);
    let streams: Vec<_> = (0..STREAMS)
        .map(|_| fixture.stream("/cdc/t", None))
        .collect();
    let before = anonymous_bytes(&mut fixture);
    insert_rows(&fixture, 20_000, 20_000 + ROWS);
    let after = anonymous_bytes(&mut fixture);
    let grown = after.saturating_sub(before);
    println!(
        "{STREAMS} stalled streams: {before} bytes before, {after} after {ROWS} rows of 500 bytes"
    );
    let allowed = (STREAMS as u64 + 8) * (2 << 20);
    assert!(
        grown < allowed,
        "{STREAMS} streams that read nothing cost {grown} bytes"
    );
    for (number, mut stream) in streams.into_iter().enumerate().take(3) {
        for id in 20_000..20_000 + ROWS {
            let event = loop {
                let event = stream
                    .next_event()
                    .expect("the stream lives")
                    .expect("it goes on");
                if event.event != "progress" {
                    break event;
                }
            };
            let told = event.json()["document_id"].as_str().map(str::to_owned);
            assert_eq!(told, Some(id.to_string()), "stream {number}");
        }
    }
}

#[test]
fn g7_a_client_that_never_reads_its_result_holds_nobody_up() {
    let mut fixture = Fixture::started();
    fixture.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT)");
    insert_rows(&fixture, 0, 20_000);
    let before = anonymous_bytes(&mut fixture);
    let stalled: Vec<PgClient> = (0..8)
        .map(|_| {
            let mut client = fixture.pg();
            client
                .send(
                    b'Q',
                    b"SELECT a.id, a.note, b.note FROM t a, t b LIMIT 100000\0",
                )
                .expect("sent");
            client
        })
        .collect();
    let address = fixture.setup.pg;
    let writer = thread::spawn(move || {
        let mut client = PgClient::connect(address, "postgres").expect("a connection");
        let mut slowest = Duration::ZERO;
        for id in 0..300 {
            let started = Instant::now();
            client
                .query(&format!("UPDATE t SET note = 'new' WHERE id = {id}"))
                .expect("an update");
            client
                .query(&format!("SELECT note FROM t WHERE id = {id}"))
                .expect("a read");
            slowest = slowest.max(started.elapsed());
        }
        slowest
    });
    let slowest = writer.join().expect("every statement is answered");
    let grown = anonymous_bytes(&mut fixture).saturating_sub(before);
    println!("slowest update and read beside stalled clients: {slowest:?}; memory grew {grown}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    assert!(
        grown < 200 << 20,
        "8 results of 100 MB that nobody reads cost {grown} bytes"
    );
    drop(stalled);
}
