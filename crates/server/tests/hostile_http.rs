//! HTTP requests made to hurt or to slip through, and what each gets. docs/testing.md has the table.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;
use springhead_sim::client::http::{self, encode};
use springhead_sim::fixture::Fixture;

const HOST: &str = "host: localhost\r\n";
const JSON: &str = "content-type: application/json\r\n";
/// A request that a smuggler wants to be seen as one of its own.
const SMUGGLED: &str = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";

fn fixture() -> Fixture {
    let fixture = Fixture::started();
    fixture.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT)");
    fixture.sql("INSERT INTO t VALUES (1, 'one')");
    fixture
}

#[track_caller]
fn still_serves(fixture: &Fixture) {
    let answer = fixture.http_sql("SELECT note FROM t");
    assert_eq!(answer.json()["rows"], json!([["one"]]), "{}", answer.text());
}

/// The statuses of all answers to raw bytes, until the server closes or says nothing for a while.
fn statuses(fixture: &Fixture, bytes: &[u8]) -> Vec<u16> {
    let mut stream = TcpStream::connect(fixture.setup.http).expect("a connection");
    stream
        .set_read_timeout(Some(Duration::from_secs(3)))
        .expect("a timeout");
    // The server may close while we still send.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    // A reset after the answer, or silence, ends it as well.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer)
        .split("HTTP/1.1 ")
        .skip(1)
        .filter_map(|answer| answer.get(..3)?.parse().ok())
        .collect()
}

#[test]
fn paths_are_taken_as_they_are_and_lead_nowhere_else() {
    let fixture = fixture();
    for (path, status) in [
        ("/cdc/../v1/status", 404),
        ("/cdc/%2e%2e/v1/status", 404),
        ("/healthz/../metrics", 404),
        ("//healthz", 404),
        ("/healthz/", 404),
        ("/healthz;x", 404),
        ("/%68ealthz", 404),
        ("/\\..\\healthz", 404),
        ("/cdc//poll", 404),
        ("/cdc/%2fetc%2fpasswd/poll", 404),
        ("/cdc/..%2f..%2fstate.db/poll", 404),
        ("/v1/collections/..%2f..%2fetc/passwd", 404),
        ("/cdc/t%0d%0aset-cookie:%20x/poll", 404),
        ("/cdc/t%00/poll", 404),
        ("/cdc/%/poll", 400),
        ("/cdc/%f0%28%8c%28/poll", 400),
        ("*", 404),
        ("http://evil.example/healthz", 403),
        ("healthz", 403),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\n{HOST}connection: close\r\n\r\n");
        assert_eq!(statuses(&fixture, request.as_bytes()), [status], "{path}");
    }
    still_serves(&fixture);
}

#[test]
fn a_request_within_a_request_is_never_served() {
    let fixture = fixture();
    let sql = "{\"sql\":\"select 1\"}";
    let chunked = format!("{:x}\r\n{sql}\r\n0\r\n\r\n", sql.len());
    let post = |version: &str, headers: &str, body: &str| {
        format!("POST /v1/sql {version}\r\n{HOST}{JSON}{headers}\r\n{body}{SMUGGLED}")
    };
    // What is served, and whether what follows is a request in its own right.
    let table: [(&str, String, &[u16]); 15] = [
        (
            "both lengths: chunked counts, and the connection ends",
            post(
                "HTTP/1.1",
                "content-length: 6\r\ntransfer-encoding: chunked\r\n",
                &chunked,
            ),
            &[200],
        ),
        (
            "both lengths, the other way round",
            post(
                "HTTP/1.1",
                "transfer-encoding: chunked\r\ncontent-length: 6\r\n",
                &chunked,
            ),
            &[200],
        ),
        (
            "two lengths",
            post(
                "HTTP/1.1",
                "content-length: 18\r\ncontent-length: 19\r\n",
                sql,
            ),
            &[400],
        ),
        (
            "a list of lengths",
            post("HTTP/1.1", "content-length: 18, 18\r\n", sql),
            &[400],
        ),
        (
            "a signed length",
            post("HTTP/1.1", "content-length: +18\r\n", sql),
            &[400],
        ),
        (
            "an unknown coding",
            post("HTTP/1.1", "transfer-encoding: xchunked\r\n", sql),
            &[400],
        ),
        (
            "chunked is not last",
            post(
                "HTTP/1.1",
                "transfer-encoding: chunked, identity\r\n",
                &chunked,
            ),
            &[400],
        ),
        (
            "chunked in HTTP/1.0",
            post("HTTP/1.0", "transfer-encoding: chunked\r\n", &chunked),
            &[400],
        ),
        (
            "a blank before the colon",
            post("HTTP/1.1", "transfer-encoding : chunked\r\n", &chunked),
            &[400],
        ),
        (
            "a folded header",
            post("HTTP/1.1", "transfer-encoding:\r\n chunked\r\n", &chunked),
            &[400],
        ),
        (
            "an endless chunk",
            post(
                "HTTP/1.1",
                "transfer-encoding: chunked\r\n",
                "ffffffffffffffffff\r\n",
            ),
            &[400],
        ),
        (
            "a negative chunk",
            post("HTTP/1.1", "transfer-encoding: chunked\r\n", "-1\r\n"),
            &[400],
        ),
        (
            "a line end in a header",
            format!("GET /healthz HTTP/1.1\r\n{HOST}x: a\rb\r\n\r\n{SMUGGLED}"),
            &[400],
        ),
        (
            "two hosts",
            format!(
                "GET /healthz HTTP/1.1\r\n{HOST}host: evil.example\r\nconnection: close\r\n\r\n"
            ),
            &[400],
        ),
        (
            "an honest pair of requests",
            format!("{SMUGGLED}GET /healthz HTTP/1.1\r\n{HOST}connection: close\r\n\r\n"),
            &[200, 200],
        ),
    ];
    for (what, request, expected) in table {
        assert_eq!(statuses(&fixture, request.as_bytes()), expected, "{what}");
    }
    still_serves(&fixture);
}

#[test]
fn heads_and_bodies_over_their_limits_are_refused() {
    let fixture = fixture();
    let get = |target: &str, headers: &str| {
        format!("GET {target} HTTP/1.1\r\n{HOST}{headers}connection: close\r\n\r\n")
    };
    let many: String = (0..300).map(|n| format!("x-{n}: y\r\n")).collect();
    let long = format!("x: {}\r\n", "y".repeat(100_000));
    let parameters: Vec<String> = (0..9000).map(|n| format!("{n:x}")).collect();
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    for (what, request, status) in [
        ("300 headers", get("/healthz", &many), 431),
        ("a header of 100 kB", get("/healthz", &long), 431),
        (
            "a query of 60 kB",
            get(&format!("/healthz?{}", "a".repeat(60_000)), ""),
            414,
        ),
        (
            "9,000 parameters",
            get(&format!("/cdc/t/poll?{}", parameters.join("&")), ""),
            400,
        ),
        (
            "an endless body",
            format!(
                "POST /v1/sql HTTP/1.1\r\n{HOST}{JSON}transfer-encoding: chunked\r\n\r\n{}",
                chunk.repeat(300)
            ),
            413,
        ),
        (
            "an endless line in a chunk",
            format!(
                "POST /v1/sql HTTP/1.1\r\n{HOST}{JSON}transfer-encoding: chunked\r\n\r\n12;{}",
                "x".repeat(100_000)
            ),
            400,
        ),
    ] {
        let started = Instant::now();
        assert_eq!(statuses(&fixture, request.as_bytes()), [status], "{what}");
        let took = started.elapsed();
        assert!(took < Duration::from_secs(15), "{what}: {took:?}");
    }
    still_serves(&fixture);
}

#[test]
fn nothing_that_comes_in_is_unpacked() {
    let fixture = fixture();
    for encoding in ["gzip", "deflate", "br", "zstd", "identity, gzip"] {
        let answer = http::request(
            fixture.setup.http,
            "POST",
            "/v1/sql",
            &[
                ("content-type", "application/json"),
                ("content-encoding", encoding),
            ],
            b"{\"sql\":\"select 1\"}",
        )
        .expect("an answer");
        assert_eq!(answer.status, 415, "{encoding}: {}", answer.text());
        assert_eq!(answer.error_code(), "unsupported_media_type");
    }
    still_serves(&fixture);
}

#[test]
fn names_in_parameters_and_paths_are_names_and_no_sql() {
    let fixture = fixture();
    for name in [
        "t\"; DROP TABLE t; --",
        "t'; DROP TABLE t; --",
        "t) OR 1=1 --",
        "t UNION SELECT",
        "t\u{0}",
        "sqlite_master",
        "main.t",
        "t1",
        "pragma_table_info",
        "\u{202e}t",
        "т",
    ] {
        let shown = encode(name);
        for (target, status) in [
            (format!("/cdc/{shown}/poll"), 404),
            (format!("/v1/collections/{shown}"), 404),
            (format!("/v1/collections/{shown}/1"), 404),
            (format!("/cdc/t/poll?columns={shown}"), 400),
            (format!("/cdc/t/poll?consumer={shown}"), 404),
            (format!("/cdc/t/poll?operations={shown}"), 400),
            (format!("/v1/collections/t/{shown}"), 400),
        ] {
            let answer = fixture.get(&target);
            let refused = [status, 400, 404].contains(&answer.status);
            assert!(refused, "{target}: {} {}", answer.status, answer.text());
            assert_ne!(answer.error_code(), "internal_error", "{target}");
        }
        let answer = http::request(
            fixture.setup.http,
            "PUT",
            "/v1/collections/t/2",
            &[("content-type", "application/json")],
            json!({ name: "x" }).to_string().as_bytes(),
        )
        .expect("an answer");
        assert_eq!(answer.status, 400, "{name}: {}", answer.text());
    }
    still_serves(&fixture);
}

#[test]
fn g7_a_head_that_comes_drop_by_drop_ends_at_its_time() {
    let mut fixture = Fixture::new();
    fixture
        .setup
        .args
        .extend(["--http-head-timeout".to_owned(), "1s".to_owned()]);
    fixture.start();
    fixture.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT)");
    fixture.sql("INSERT INTO t VALUES (1, 'one')");
    for start in ["GET /healthz HTTP/1.1\r\nx: ", "GET /cdc/t HTTP/1.1\r\nx: "] {
        let mut stream = TcpStream::connect(fixture.setup.http).expect("a connection");
        stream.write_all(start.as_bytes()).expect("sent");
        stream
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("a timeout");
        let started = Instant::now();
        let mut byte = [0];
        // One byte more each time that nothing has come.
        let ended = loop {
            match stream.read(&mut byte) {
                Ok(_) => break true,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break true,
            }
            if stream.write_all(b"y").is_err() {
                break true;
            }
            if started.elapsed() > Duration::from_secs(20) {
                break false;
            }
        };
        assert!(ended, "{start:?} was waited for without end");
    }
    still_serves(&fixture);
}
