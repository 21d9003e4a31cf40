//! Statements, names and messages made to hurt over the PostgreSQL protocol, and what each gets.
//! docs/testing.md has the table.

use std::io::Read;
use std::time::{Duration, Instant};

use springhead_sim::client::pg::{self, PgClient, PgError};
use springhead_sim::fixture::Fixture;

fn fixture() -> Fixture {
    let fixture = Fixture::started();
    fixture.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT)");
    fixture.sql("INSERT INTO t VALUES (1, 'one')");
    fixture
}

#[track_caller]
fn still_serves(fixture: &Fixture) {
    assert_eq!(
        fixture.sql("SELECT note FROM t"),
        [[Some("one".to_owned())]]
    );
}

/// The SQLSTATE of a statement's failure, or `None`. The connection must live.
#[track_caller]
fn code_of(client: &mut PgClient, what: &str, sql: &str) -> Option<String> {
    match client.query(sql) {
        Ok(_) => None,
        Err(PgError::Sql { code, message }) => {
            assert_ne!(code, "XX000", "{what}: {message}");
            Some(code)
        }
        Err(PgError::Io(error)) => panic!("{what}: the connection is gone: {error}"),
    }
}

#[test]
fn a_quoted_name_is_a_name_whatever_is_in_it() {
    let fixture = fixture();
    let mut client = fixture.pg();
    for name in [
        "x\"; DROP TABLE t; --",
        "x'; DROP TABLE t; --",
        "x; COMMIT; DROP TABLE t",
        "]; DROP TABLE t; --",
        "`x`",
        "../../state.db",
        "%2e%2e",
        "sqlite_master",
        "sqlite_sequence",
        "t1",
        "c1",
        "rowid",
        "main",
        "таблица\u{202e}\u{200b}",
        "🦀",
        "a\nb\tc\\d",
        "$1",
        "--",
        "/*",
        " ",
    ] {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        let mut run = |sql: String| {
            let failed = code_of(&mut client, name, &sql);
            assert_eq!(failed, None, "{sql}");
        };
        run(format!(
            "CREATE TABLE {quoted} ({quoted} INTEGER PRIMARY KEY, b TEXT DEFAULT 'x' CHECK ({quoted} > 0))"
        ));
        run(format!("CREATE INDEX ON {quoted} ({quoted}, b)"));
        run(format!(
            "INSERT INTO {quoted} ({quoted}) VALUES (1) ON CONFLICT ({quoted}) DO NOTHING"
        ));
        run(format!(
            "UPDATE {quoted} AS {quoted} SET {quoted} = {quoted}.{quoted} + 1 RETURNING {quoted} AS {quoted}"
        ));
        run(format!(
            "WITH {quoted} AS (SELECT {quoted} FROM {quoted}) SELECT * FROM {quoted}"
        ));
        run(format!(
            "BEGIN; SAVEPOINT {quoted}; ROLLBACK TO {quoted}; COMMIT"
        ));
        run(format!(
            "ALTER TABLE {quoted} RENAME COLUMN b TO \"b\"\"; --\""
        ));
        run(format!("DROP TABLE {quoted}"));
    }
    still_serves(&fixture);
}

#[test]
fn statements_that_ask_for_too_much_are_refused_or_end_in_time() {
    let fixture = fixture();
    let mut client = fixture.pg();
    client.query("SET statement_timeout = '2s'").expect("set");
    let nested = |open: &str, inner: &str, close: &str, count: usize| {
        format!("{}{inner}{}", open.repeat(count), close.repeat(count))
    };
    let joined = |count: usize| {
        let all: Vec<String> = (0..count)
            .map(|n| format!("generate_series(1, 2) s{n}"))
            .collect();
        all.join(" CROSS JOIN ")
    };
    // Any of the codes will do; an answer is another matter where it is not named.
    let too_much = [
        "54000", "54001", "54011", "22003", "22023", "57014", "53200", "2201B",
    ];
    let table: Vec<(&str, String, bool)> = vec![
        ("parentheses", format!("SELECT {}", nested("(", "1", ")", 100_000)), false),
        ("a chain of casts", format!("SELECT 1{}", "::int".repeat(100_000)), false),
        ("a chain of sums", format!("SELECT 1{}", "+1".repeat(100_000)), false),
        ("a chain of LIKE", format!("SELECT 'a'{}", " LIKE 'a'".repeat(1000)), false),
        ("a chain of AND", format!("SELECT true{}", " AND true".repeat(100_000)), false),
        ("subqueries", format!("SELECT {}", nested("(SELECT ", "1", ")", 10_000)), false),
        ("unions", format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(10_000)), false),
        ("JSON", format!("SELECT '{}'::jsonb", nested("[", "", "]", 100_000)), false),
        ("an array", format!("SELECT '{}'::int[]", nested("{", "", "}", 100_000)), false),
        ("a regular expression", "SELECT 'a' ~ '((((a{1000}){1000}){1000}){1000})'".to_owned(), false),
        ("groups of one", format!("SELECT 'a' ~ '{}'", nested("(", "a", ")", 10_000)), false),
        ("a text of 2 GB", "SELECT repeat('x', 2147483647)".to_owned(), false),
        ("a padded text", "SELECT lpad('', 2147483647, 'ab')".to_owned(), false),
        ("a text that grows", "SELECT replace(repeat('a', 1000000), 'a', repeat('b', 1000000))".to_owned(), false),
        ("a number of a billion digits", "SELECT '1e999999999'::numeric".to_owned(), false),
        ("a power", "SELECT 10::numeric ^ 1000000000".to_owned(), false),
        ("an endless recursion", "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r".to_owned(), false),
        ("an endless series", "SELECT count(*) FROM generate_series(1, 1000000000000)".to_owned(), false),
        ("a series of aggregates", "SELECT length(string_agg(repeat('x', 1000000), ',')) FROM generate_series(1, 100000)".to_owned(), false),
        ("backtracking", "SELECT repeat('a', 3000) ~ '(a+)+(a+)+$b'".to_owned(), true),
        ("a pattern of LIKE", "SELECT repeat('a', 300) LIKE '%a%a%a%a%a%a%a%a%a%a%b'".to_owned(), true),
        ("columns", format!("SELECT 1{}", ", 1".repeat(10_000)), false),
        ("joins", format!("SELECT 1 FROM {}", joined(200)), false),
        ("10,000 comments", format!("SELECT {}", nested("/*", "", "*/", 10_000) + "1"), true),
    ];
    for (what, sql, may_answer) in table {
        let started = Instant::now();
        let code = code_of(&mut client, what, &sql);
        let took = started.elapsed();
        match code {
            None => assert!(may_answer, "{what}: it was taken"),
            Some(code) => {
                let known = too_much.contains(&code.as_str())
                    || ["42601", "2201B", "22P02", "0A000"].contains(&code.as_str());
                assert!(known, "{what}: {code}");
            }
        }
        assert!(took < Duration::from_secs(30), "{what}: {took:?}");
    }
    still_serves(&fixture);
}

#[test]
fn messages_that_lie_about_themselves_end_their_connection_with_08p01() {
    let fixture = fixture();
    for (what, bytes) in [
        ("a NUL in a query", &b"Q\0\0\0\x0fselect\0 1\0\0"[..]),
        ("two billion parameters", b"B\0\0\0\x0c\0\0\0\0\xff\xff\0\0"),
        (
            "a parameter of two gigabytes",
            b"B\0\0\0\x12\0\0\0\0\0\x01\x7f\xff\xff\xff\0\0\0\0",
        ),
        (
            "a parameter of length -2",
            b"B\0\0\0\x0e\0\0\0\0\0\x01\xff\xff\xff\xfe",
        ),
        ("an unknown format", b"B\0\0\0\x0c\0\0\0\x01\0\x07\0\0"),
        (
            "65,535 types that are not there",
            b"P\0\0\0\x08\0\0\xff\xff",
        ),
        ("neither statement nor portal", b"D\0\0\0\x06X\0"),
        ("a length of zero", b"S\0\0\0\0"),
        ("a message of the other side", b"Z\0\0\0\x05I"),
    ] {
        let client = fixture.pg();
        let mut client = client;
        client.send_raw(bytes).expect("sent");
        let (kind, body) = client
            .receive()
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(kind, b'E', "{what}");
        let error = pg::error_of(&body);
        assert_eq!(error.code(), Some("08P01"), "{what}: {error}");
        // And the connection ends.
        let mut rest = Vec::new();
        let mut socket = client.socket();
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout");
        if let Err(error) = socket.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{what}");
        }
    }
    still_serves(&fixture);
}
