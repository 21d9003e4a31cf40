//! Bad input over the PostgreSQL protocol: each gets its SQLSTATE, and the server goes on as if
//! nothing had been.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use springhead_sim::client::pg::{self, PgClient, PgError};
use springhead_sim::fixture::Fixture;

fn fixture() -> Fixture {
    let fixture = Fixture::started();
    fixture.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT CHECK (note <> 'bad'))");
    fixture.sql("CREATE TABLE child (id INTEGER PRIMARY KEY, t_id INTEGER REFERENCES t (id))");
    fixture.sql("INSERT INTO t VALUES (1, 'one')");
    fixture
}

#[track_caller]
fn still_serves(fixture: &Fixture) {
    assert_eq!(
        fixture.sql("SELECT note FROM t WHERE id = 1"),
        [[Some("one".to_owned())]]
    );
}

#[track_caller]
fn code_of(client: &mut PgClient, sql: &str) -> String {
    match client.query(sql) {
        Ok(result) => panic!("{sql:.100} was taken: {result:?}"),
        Err(PgError::Io(error)) => panic!("{sql:.100}: {error}"),
        Err(PgError::Sql { code, message }) => {
            assert!(!message.is_empty());
            code
        }
    }
}

#[test]
fn statements_that_fail_say_why_and_the_connection_goes_on() {
    let fixture = fixture();
    let mut client = fixture.pg();
    for (sql, code) in [
        ("selec 1", "42601"),
        ("SELECT (1", "42601"),
        ("SELECT 'open", "42601"),
        ("SELECT * FROM nope", "42P01"),
        ("SELECT nope FROM t", "42703"),
        ("SELECT nope(1)", "42883"),
        ("SELECT 1/0", "22012"),
        ("SELECT 'x'::integer", "22P02"),
        ("SELECT 9223372036854775807 + 1", "22003"),
        ("INSERT INTO t VALUES (1, 'again')", "23505"),
        ("INSERT INTO t VALUES (2, 'bad')", "23514"),
        ("INSERT INTO t VALUES (NULL, 'x')", "23502"),
        ("INSERT INTO child VALUES (1, 99)", "23503"),
        ("INSERT INTO t (id, nope) VALUES (2, 'x')", "42703"),
        ("INSERT INTO t VALUES (2, 'x', 3)", "42601"),
        ("CREATE TABLE t (id INTEGER)", "42P07"),
        ("DROP TABLE nope", "42P01"),
        ("CREATE TABLE u (a nosuchtype)", "42704"),
        ("CREATE TABLE u (a INTEGER, a TEXT)", "42701"),
        ("CREATE DATABASE \"default\"", "42P04"),
        ("DROP DATABASE nope", "3D000"),
        ("ROLLBACK TO SAVEPOINT nope", "25P01"),
    ] {
        assert_eq!(code_of(&mut client, sql), code, "{sql}");
        assert_eq!(
            client
                .query("SELECT 1")
                .expect("the connection goes on")
                .rows
                .len(),
            1,
            "{sql}"
        );
    }
    // SQLite's own statements are nobody's business: no syntax of ours, or named as refused.
    for sql in [
        "ATTACH DATABASE 'x' AS y",
        "DETACH DATABASE main",
        "PRAGMA journal_mode",
        "VACUUM INTO 'x'",
        "REINDEX",
        "SELECT load_extension('x')",
        "SELECT * FROM pragma_table_info('t')",
        "SELECT * FROM sqlite_master",
        "SELECT * FROM main.t",
    ] {
        let code = code_of(&mut client, sql);
        let refused = ["42601", "0A000", "42883", "42P01", "3F000", "42501"];
        assert!(refused.contains(&code.as_str()), "{sql}: {code}");
    }
    still_serves(&fixture);
}

#[test]
fn g3_a_failed_statement_takes_its_whole_script_with_it() {
    let fixture = fixture();
    let mut client = fixture.pg();
    let script = "INSERT INTO t VALUES (10, 'x'); INSERT INTO t VALUES (1, 'again'); \
                  INSERT INTO t VALUES (11, 'x')";
    assert_eq!(code_of(&mut client, script), "23505");
    let left = client
        .query("SELECT id FROM t WHERE id >= 10")
        .expect("a result");
    assert_eq!(left.rows, Vec::<Vec<Option<String>>>::new());
}

#[test]
fn a_failed_transaction_takes_nothing_until_its_end() {
    let fixture = fixture();
    let mut client = fixture.pg();
    client.query("BEGIN").expect("begin");
    client
        .query("INSERT INTO t VALUES (10, 'x')")
        .expect("insert");
    assert_eq!(code_of(&mut client, "SELECT nope"), "42703");
    assert_eq!(code_of(&mut client, "SELECT 1"), "25P02");
    assert_eq!(client.query("COMMIT").expect("ends").tags, ["ROLLBACK"]);
    assert_eq!(
        client
            .query("SELECT id FROM t WHERE id = 10")
            .expect("a result")
            .rows
            .len(),
        0
    );
}

#[test]
fn an_unknown_database_is_3d000() {
    let fixture = fixture();
    match PgClient::connect(fixture.setup.pg, "nope") {
        Err(PgError::Sql { code, .. }) => assert_eq!(code, "3D000"),
        other => panic!("{other:?}"),
    }
    still_serves(&fixture);
}

#[test]
fn text_that_is_no_utf8_is_22021() {
    let fixture = fixture();
    let mut client = fixture.pg();
    client.send(b'Q', b"SELECT '\xff\xfe'\0").expect("sent");
    let (kind, body) = client.receive().expect("an answer");
    assert_eq!((kind, pg::error_of(&body).code()), (b'E', Some("22021")));
    assert_eq!(client.receive().expect("ready").0, b'Z');
    still_serves(&fixture);
}

#[test]
fn a_statement_over_the_limit_is_54000() {
    let fixture = fixture();
    let large = "x".repeat(17 << 20);
    let mut client = fixture.pg();
    match client.query(&format!("SELECT '{large}'")) {
        Err(PgError::Sql { code, .. }) => assert_eq!(code, "54000"),
        other => panic!("{:?}", other.map(|result| result.rows.len())),
    }
    still_serves(&fixture);
}

/// Sends bytes, then waits for the server to answer with an error or to close; never silence.
#[track_caller]
fn ends(fixture: &Fixture, what: &str, bytes: &[u8], mut stream: TcpStream) -> Vec<u8> {
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    // The server may close while we still send.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        let silent = matches!(
            error.kind(),
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
        );
        assert!(!silent, "{what}: neither an answer nor an end");
    }
    still_serves(fixture);
    answer
}

#[test]
fn messages_that_are_none_end_their_connection_only() {
    let fixture = fixture();
    let raw = || TcpStream::connect(fixture.setup.pg).expect("a connection");
    ends(
        &fixture,
        "a start-up of two gigabytes",
        &[0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0],
        raw(),
    );
    ends(
        &fixture,
        "a start-up shorter than itself",
        &[0, 0, 0, 2, 0, 3, 0, 0],
        raw(),
    );
    ends(
        &fixture,
        "another protocol",
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        raw(),
    );
    ends(
        &fixture,
        "protocol 1.0",
        &[0, 0, 0, 9, 0, 1, 0, 0, 0],
        raw(),
    );
    ends(
        &fixture,
        "a start-up without an end",
        &[0, 0, 0, 12, 0, 3, 0, 0, b'u', b's', b'e', b'r'],
        raw(),
    );
    for (what, bytes) in [
        (
            "a message of two gigabytes",
            &[b'Q', 0x7f, 0xff, 0xff, 0xff][..],
        ),
        ("a message shorter than itself", &[b'Q', 0, 0, 0, 1]),
        ("an unknown message", &[0xff, 0, 0, 0, 4]),
        ("a query without an end", &[b'Q', 0, 0, 0, 6, b'x', b'y']),
    ] {
        let client = fixture.pg();
        let stream = client.socket().try_clone().expect("the socket");
        let answer = ends(&fixture, what, bytes, stream);
        assert_eq!(answer.first(), Some(&b'E'), "{what}: closed without a word");
        let error = pg::error_of(&answer[5..]);
        assert!(
            matches!(error.code(), Some("08P01" | "54000")),
            "{what}: {error}"
        );
    }
}

#[test]
fn encryption_is_declined_in_one_byte() {
    let fixture = fixture();
    for (what, code) in [
        ("SSLRequest", 80_877_103_u32),
        ("GSSENCRequest", 80_877_104),
    ] {
        let mut stream = TcpStream::connect(fixture.setup.pg).expect("a connection");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout");
        let mut request = 8_u32.to_be_bytes().to_vec();
        request.extend_from_slice(&code.to_be_bytes());
        stream.write_all(&request).expect("sent");
        let mut answer = [0];
        stream.read_exact(&mut answer).expect("one byte");
        assert_eq!(answer, [b'N'], "{what}");
    }
}

#[test]
fn a_cancel_with_a_wrong_key_does_nothing() {
    let fixture = fixture();
    let client = fixture.pg();
    let (pid, secret) = client.key.expect("a key");
    pg::cancel(fixture.setup.pg, (pid, secret ^ 1)).expect("sent");
    pg::cancel(fixture.setup.pg, (pid ^ 1, secret)).expect("sent");
    still_serves(&fixture);
}

#[test]
fn g7_half_closed_sockets_and_silent_clients_harm_nobody() {
    let fixture = fixture();
    // Connected and never a word; in the middle of a start-up; in the middle of a message.
    let mut open = Vec::new();
    for bytes in [&b""[..], &[0, 0, 0, 40, 0, 3], &[0, 0, 0]] {
        for _ in 0..20 {
            let mut stream = TcpStream::connect(fixture.setup.pg).expect("a connection");
            stream.write_all(bytes).expect("sent");
            open.push(stream);
        }
    }
    // Half-closed after a query: what it did is done, whole.
    let mut client = fixture.pg();
    client
        .send(b'Q', b"INSERT INTO t VALUES (20, 'half')\0")
        .expect("sent");
    client
        .socket()
        .shutdown(Shutdown::Write)
        .expect("half closed");
    let answered = std::iter::from_fn(|| client.receive().ok()).any(|(kind, _)| kind == b'C');
    assert!(answered, "the answer to a whole query did not come");
    assert_eq!(
        fixture.sql("SELECT note FROM t WHERE id = 20"),
        [[Some("half".to_owned())]]
    );
    // Gone in the middle of a transaction: nobody waits for it, nothing of it stays.
    let mut gone = fixture.pg();
    gone.query("BEGIN").expect("begin");
    gone.query("UPDATE t SET note = 'gone' WHERE id = 1")
        .expect("update");
    drop(gone);
    let mut other = fixture.pg();
    other
        .query("UPDATE t SET note = note WHERE id = 1")
        .expect("the writer is free");
    still_serves(&fixture);
}
