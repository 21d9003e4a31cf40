//! Bad input over HTTP: each gets its typed error, and the server goes on as if nothing had been.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use springhead_sim::client::http::{self, Response, SseOpened, SseStream, encode};
use springhead_sim::fixture::Fixture;

fn fixture() -> Fixture {
    let fixture = Fixture::started();
    fixture.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT)");
    fixture.sql("INSERT INTO t VALUES (1, 'one')");
    fixture
}

/// An error has its status, one of the codes, and a message, and nothing else where a caller looks.
#[track_caller]
fn expect(what: &str, answer: &Response, status: u16, codes: &[&str]) {
    let body = answer.text();
    assert_eq!(answer.status, status, "{what}: {body:.300}");
    let error = &answer.json()["error"];
    let code = error["code"].as_str().unwrap_or_default();
    assert!(
        codes.contains(&code),
        "{what}: {code} is none of {codes:?}: {body:.300}"
    );
    let message = error["message"].as_str().unwrap_or_default();
    assert!(!message.is_empty(), "{what}: no message: {body:.300}");
    let json_type = answer
        .headers
        .get("content-type")
        .is_some_and(|t| t.contains("json"));
    assert!(json_type, "{what}: {:?}", answer.headers);
}

#[track_caller]
fn still_serves(fixture: &Fixture) {
    let answer = fixture.http_sql("SELECT id, note FROM t ORDER BY id");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["rows"][0], json!([1, "one"]));
    assert_eq!(fixture.get("/healthz").status, 200);
}

#[test]
fn g5_bad_parameters_of_a_feed_are_refused_by_name() {
    let fixture = fixture();
    let long_where = format!("note = '{}'", "x".repeat(9000));
    let deep_where = format!("{}id = 1{}", "(".repeat(80), ")".repeat(80));
    let where_of = |condition: &str| format!("where={}", encode(condition));
    let table: Vec<(String, u16, &[&str])> = vec![
        (
            "since_lsn=x".to_owned(),
            400,
            &["invalid_parameter", "malformed_cursor"],
        ),
        (
            "since_lsn=-1".to_owned(),
            400,
            &["invalid_parameter", "malformed_cursor"],
        ),
        (
            "since_lsn=99999999999999999999999".to_owned(),
            400,
            &["invalid_parameter", "malformed_cursor"],
        ),
        ("since_ms=yesterday".to_owned(), 400, &["invalid_parameter"]),
        (
            "sinse_lsn=1".to_owned(),
            400,
            &["invalid_parameter", "unknown_parameter"],
        ),
        ("tenant_id=abc".to_owned(), 400, &["invalid_parameter"]),
        ("tenant_id=77".to_owned(), 404, &["unknown_tenant"]),
        ("columns=nope".to_owned(), 400, &["unknown_column"]),
        (
            "operations=frobnicate".to_owned(),
            400,
            &["invalid_parameter"],
        ),
        ("envelope=xml".to_owned(), 400, &["invalid_parameter"]),
        ("tx=maybe".to_owned(), 400, &["invalid_parameter"]),
        ("consumer=nobody".to_owned(), 404, &["unknown_consumer"]),
        (where_of("id = "), 400, &["syntax_error"]),
        (where_of("id = 1; DROP TABLE t"), 400, &["syntax_error"]),
        (where_of("nope = 1"), 400, &["unknown_column"]),
        (
            where_of("id IN (SELECT id FROM t)"),
            400,
            &["not_supported"],
        ),
        (
            where_of("load_extension('x') IS NULL"),
            400,
            &["unknown_function", "not_supported"],
        ),
        (
            where_of("random() > 0.5"),
            400,
            &["unknown_function", "not_supported", "invalid_definition"],
        ),
        (where_of(&long_where), 413, &["too_large"]),
        (where_of(&deep_where), 400, &["too_complex"]),
        (
            "where=%FF%FE".to_owned(),
            400,
            &["invalid_utf8", "invalid_parameter"],
        ),
    ];
    for (query, status, codes) in &table {
        for target in [format!("/cdc/t/poll?{query}"), format!("/cdc/t?{query}")] {
            // What is wrong with a cursor is told inside a stream, so that browsers stop.
            let answer = fixture.get(&target);
            expect(&target, &answer, *status, codes);
        }
    }
    for query in ["limit=0", "limit=-1", "limit=x", "wait_ms=x", "wait_ms=-1"] {
        let target = format!("/cdc/t/poll?{query}");
        expect(&target, &fixture.get(&target), 400, &["invalid_parameter"]);
    }
    still_serves(&fixture);
}

#[test]
fn g5_unknown_collections_tenants_and_paths_are_404() {
    let fixture = fixture();
    for target in ["/cdc/nope/poll", "/cdc/nope", "/v1/collections/nope/1"] {
        expect(target, &fixture.get(target), 404, &["unknown_collection"]);
    }
    for target in [
        "/cdc/poll?tenant_id=4000000000",
        "/cdc?tenant_id=9",
        "/cdc/t?tenant_id=9",
    ] {
        expect(target, &fixture.get(target), 404, &["unknown_tenant"]);
    }
    for target in ["/", "/nope", "/v1/nope", "/v1/collections/t/99"] {
        expect(target, &fixture.get(target), 404, &["not_found"]);
    }
    for (method, target) in [
        ("DELETE", "/cdc/t/poll"),
        ("GET", "/v1/sql"),
        ("DELETE", "/healthz"),
    ] {
        let answer = http::request(fixture.setup.http, method, target, &[], b"");
        let answer = answer.expect("an answer");
        expect(
            &format!("{method} {target}"),
            &answer,
            405,
            &["method_not_allowed"],
        );
    }
    still_serves(&fixture);
}

#[test]
fn g5_a_cursor_that_cannot_be_resumed_from_is_told_so() {
    let fixture = fixture();
    let page = fixture.get("/cdc/t/poll?since_lsn=1").json();
    let cursor = page["next_cursor"]["cursor"]
        .as_str()
        .expect("a cursor")
        .to_owned();
    let (lsn, epoch) = cursor.split_once('@').expect("a cursor has an epoch");
    let future = format!(
        "{}@{epoch}",
        lsn.parse::<u64>().expect("an LSN") + 1_000_000
    );
    let foreign = format!(
        "1@{}",
        if epoch == "deadbeef" {
            "cafebabe"
        } else {
            "deadbeef"
        }
    );
    for refused in [&future, &foreign] {
        let answer = fixture.get(&format!("/cdc/t/poll?cursor={}", encode(refused)));
        expect(refused, &answer, 410, &["cursor_expired"]);
        let error = &answer.json()["error"];
        assert!(
            error["earliest_lsn"].is_u64() || error["fork_lsn"].is_u64(),
            "{error}"
        );

        let mut stream = fixture.stream("/cdc/t", Some(refused));
        let event = stream
            .next_event()
            .expect("an event before the end")
            .expect("an event");
        assert_eq!(
            (event.event.as_str(), event.id.as_deref()),
            ("must-refetch", Some("must-refetch"))
        );
        let told = event.json();
        let names_a_start = |v: &Value| v["earliest_lsn"].is_u64() || v["fork_lsn"].is_u64();
        assert!(
            names_a_start(&told) || names_a_start(&told["error"]),
            "{told}"
        );
        assert_eq!(stream.next_event().expect("a proper end"), None);
    }
    for malformed in [
        "x",
        "1@",
        "@9c1e04d7",
        "1@xyz",
        "1@9c1e04d7@1",
        "-1",
        "1@9C1E04D77",
    ] {
        let answer = fixture.get(&format!("/cdc/t/poll?cursor={}", encode(malformed)));
        expect(malformed, &answer, 400, &["malformed_cursor"]);
    }
    match SseStream::open(fixture.setup.http, "/cdc/t", Some("must-refetch")).expect("an answer") {
        SseOpened::Other(answer) => assert_eq!(answer.status, 204, "{}", answer.text()),
        SseOpened::Stream(_) => panic!("a browser that was told to stop was served again"),
    }
    still_serves(&fixture);
}

#[test]
fn bad_bodies_of_sql_are_refused_by_name() {
    let fixture = fixture();
    let address = fixture.setup.http;
    let post = |content_type: &str, body: &[u8]| {
        http::request(
            address,
            "POST",
            "/v1/sql",
            &[("content-type", content_type)],
            body,
        )
        .expect("an answer")
    };
    let json_type = "application/json";
    expect(
        "no JSON",
        &post(json_type, b"{\"sql\":"),
        400,
        &["invalid_parameter", "syntax_error", "invalid_value"],
    );
    expect(
        "a form",
        &post("application/x-www-form-urlencoded", b"sql=select+1"),
        415,
        &["unsupported_media_type"],
    );
    expect(
        "text",
        &post("text/plain", b"{\"sql\":\"select 1\"}"),
        415,
        &["unsupported_media_type"],
    );
    expect(
        "not UTF-8",
        &post(json_type, b"{\"sql\":\"select '\xff'\"}"),
        400,
        &["invalid_utf8", "invalid_parameter", "invalid_value"],
    );
    let cases: Vec<(Value, u16, &[&str])> = vec![
        (json!({}), 400, &["invalid_parameter"]),
        (json!({"sql": 7}), 400, &["invalid_parameter"]),
        (
            json!({"sql": "select 1", "parms": []}),
            400,
            &["invalid_parameter", "unknown_parameter"],
        ),
        (json!({"sql": "selec 1"}), 400, &["syntax_error"]),
        (
            json!({"sql": "select * from nope"}),
            404,
            &["unknown_collection"],
        ),
        (
            json!({"sql": "select nope from t"}),
            400,
            &["unknown_column"],
        ),
        (json!({"sql": "select nope(1)"}), 400, &["unknown_function"]),
        (
            json!({"sql": "select $1", "params": []}),
            400,
            &[
                "unknown_parameter",
                "protocol_violation",
                "invalid_parameter",
            ],
        ),
        (
            json!({"sql": "insert into t values (1, 'again')"}),
            409,
            &["unique_violation"],
        ),
        (
            json!({"sql": "insert into t values (null, 'x')"}),
            409,
            &["not_null_violation"],
        ),
        (
            json!({"sql": "insert into t values ('x', 'x')"}),
            400,
            &["invalid_value"],
        ),
        (
            json!({"sql": "attach database 'x' as y"}),
            400,
            &["syntax_error", "not_supported"],
        ),
        (
            json!({"sql": "pragma journal_mode"}),
            400,
            &["syntax_error", "not_supported"],
        ),
        (
            json!({"sql": "select * from sqlite_master"}),
            404,
            &["unknown_collection"],
        ),
        (
            json!({"sql": "select 1", "min_lsn": "x"}),
            400,
            &["invalid_parameter"],
        ),
    ];
    for (body, status, codes) in &cases {
        expect(
            &body.to_string(),
            &post(json_type, body.to_string().as_bytes()),
            *status,
            codes,
        );
    }
    still_serves(&fixture);
}

#[test]
fn oversize_input_is_refused_before_it_is_kept() {
    let fixture = fixture();
    let long_url = format!("/cdc/t/poll?where={}", "a".repeat(200_000));
    let answer = fixture.get(&long_url);
    assert!(
        matches!(answer.status, 414 | 431),
        "{} {:.200}",
        answer.status,
        answer.text()
    );
    let large = "x".repeat(17 << 20);
    let answer = fixture.http_sql(&format!("SELECT '{large}'"));
    expect("a statement of 17 MiB", &answer, 413, &["too_large"]);
    // A length that nobody could keep: refused on sight of the head.
    let mut stream = TcpStream::connect(fixture.setup.http).expect("a connection");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    let head = "POST /v1/sql HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
                content-length: 99999999999\r\n\r\n{";
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = [0; 64];
    let count = stream.read(&mut answer).expect("an answer, not silence");
    let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    still_serves(&fixture);
}

#[test]
fn g6_a_foreign_host_or_origin_is_refused() {
    let fixture = fixture();
    let get = |headers: &[(&str, &str)]| {
        http::request(fixture.setup.http, "GET", "/cdc/t/poll", headers, b"").expect("an answer")
    };
    expect(
        "origin",
        &get(&[("origin", "http://evil.example")]),
        403,
        &["forbidden_origin"],
    );
    expect(
        "origin null",
        &get(&[("origin", "null")]),
        403,
        &["forbidden_origin"],
    );
    let own = format!("http://{}", fixture.setup.http);
    assert_eq!(get(&[("origin", own.as_str())]).status, 200);
    let mut stream = TcpStream::connect(fixture.setup.http).expect("a connection");
    let request = "GET /cdc/t/poll HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer:.200}");
    assert!(answer.contains("forbidden_origin"), "{answer:.500}");
}

#[test]
fn g7_half_closed_and_half_sent_requests_harm_nobody() {
    let fixture = fixture();
    let address = fixture.setup.http;
    // Requests that never end, kept open to the end of the test.
    let mut open = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream
            .write_all(b"GET /cdc/t/poll HTTP/1.1\r\nhost: 127.0")
            .expect("sent");
        open.push(stream);
    }
    // Half-closed after a whole request: the answer still comes.
    let mut stream = TcpStream::connect(address).expect("a connection");
    let request = format!("GET /healthz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    stream.shutdown(Shutdown::Write).expect("half closed");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:.200}");
    // Bytes that are no HTTP.
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout");
        stream.write_all(garbage).expect("sent");
        // It may have been reset already.
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        // A refusal or a reset, but no silence.
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_ne!(
                error.kind(),
                std::io::ErrorKind::WouldBlock,
                "{garbage:?} was kept open"
            );
        }
    }
    still_serves(&fixture);
}
