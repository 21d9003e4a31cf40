//! Hostile clients of the PostgreSQL protocol: messages that are broken, lie about themselves or come
//! in the wrong order. Each gets what the table says, and nobody else notices. And clients that are
//! silent for longer than they may be.

use std::time::{Duration, Instant};

use springhead_sim::client::pg::{PgClient, PgError, error_of};
use springhead_sim::fixture::Fixture;

/// What a client gets.
enum Gets {
    /// This error, after which the connection goes on.
    Error(&'static str),
    /// This error, and the end of the connection.
    End(&'static str),
    /// No error at all.
    Nothing,
}

type Message = (u8, &'static [u8]);

const HOSTILE: &[(&str, &[Message], Gets)] = &[
    (
        "a portal that is not there",
        &[(b'E', b"nope\0\0\0\0\0"), (b'S', b"")],
        Gets::Error("34000"),
    ),
    (
        "a statement that is not there",
        &[(b'B', b"\0nope\0\0\0\0\0\0\0"), (b'S', b"")],
        Gets::Error("26000"),
    ),
    (
        "a description of nothing",
        &[(b'D', b"Snope\0"), (b'S', b"")],
        Gets::Error("26000"),
    ),
    (
        "a description of no portal",
        &[(b'D', b"Pnope\0"), (b'S', b"")],
        Gets::Error("34000"),
    ),
    (
        "closing what was never open",
        &[(b'C', b"Snope\0"), (b'S', b"")],
        Gets::Nothing,
    ),
    (
        "Execute with no portal bound",
        &[
            (b'P', b"\0SELECT 1\0\0\0"),
            (b'E', b"\0\0\0\0\0"),
            (b'S', b""),
        ],
        Gets::Error("34000"),
    ),
    (
        "values for a statement that takes none",
        &[
            (b'P', b"\0SELECT 1\0\0\0"),
            (b'B', b"\0\0\0\0\0\x01\0\0\0\x01x\0\0"),
            (b'S', b""),
        ],
        Gets::Error("08P01"),
    ),
    (
        "too few values",
        &[
            (b'P', b"\0SELECT $1::int\0\0\0"),
            (b'B', b"\0\0\0\0\0\0\0\0"),
            (b'S', b""),
        ],
        Gets::Error("08P01"),
    ),
    (
        "binary values of the wrong length",
        &[
            (b'P', b"\0SELECT $1::int\0\0\0"),
            (b'B', b"\0\0\0\x01\0\x01\0\x01\0\0\0\x03abc\0\0"),
            (b'E', b"\0\0\0\0\0"),
            (b'S', b""),
        ],
        Gets::Error("22P03"),
    ),
    (
        "more result formats than columns",
        &[
            (b'P', b"\0SELECT 1\0\0\0"),
            (b'B', b"\0\0\0\0\0\0\0\x02\0\0\0\x01"),
            (b'S', b""),
        ],
        Gets::Error("08P01"),
    ),
    (
        "two statements in one Parse",
        &[(b'P', b"\0SELECT 1; SELECT 2\0\0\0"), (b'S', b"")],
        Gets::Error("42601"),
    ),
    (
        "a parameter type nobody has",
        &[(b'P', b"\0SELECT $1\0\0\x01\x7f\xff\xff\xff"), (b'S', b"")],
        Gets::Error("0A000"),
    ),
    (
        "a statement's name that is no text",
        &[(b'P', b"\xff\xfe\0SELECT 1\0\0\0"), (b'S', b"")],
        Gets::Error("22021"),
    ),
    (
        "a portal's name that is no text",
        &[(b'E', b"\xff\0\0\0\0\0"), (b'S', b"")],
        Gets::Error("22021"),
    ),
    (
        "COPY's data without a COPY",
        &[(b'd', b"1\n"), (b'c', b""), (b'f', b"why\0"), (b'S', b"")],
        Gets::Nothing,
    ),
    (
        "Flush and nothing else",
        &[(b'H', b""), (b'S', b"")],
        Gets::Nothing,
    ),
    (
        "a function call",
        &[(b'F', b"\0\0\0\x01\0\0\0\0\0\0")],
        Gets::Error("0A000"),
    ),
    (
        "a password that nobody asked for",
        &[(b'p', b"secret\0")],
        Gets::End("08P01"),
    ),
    (
        "a start-up in the middle",
        &[(0, b"\x08\x04\xd2\x16\x2f")],
        Gets::End("08P01"),
    ),
    (
        "a type for each of 65,535 parameters, of which there is none",
        &[(b'P', b"\0SELECT 1\0\xff\xff")],
        Gets::End("08P01"),
    ),
    (
        "65,535 values of which there is none",
        &[(b'B', b"\0\0\0\0\xff\xff")],
        Gets::End("08P01"),
    ),
    (
        "a value of minus two bytes",
        &[(b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0")],
        Gets::End("08P01"),
    ),
    (
        "a value longer than its message",
        &[(b'B', b"\0\0\0\0\0\x01\x7f\xff\xff\xffx\0\0")],
        Gets::End("08P01"),
    ),
    (
        "a format that is none",
        &[(b'B', b"\0\0\0\x01\0\x07\0\0\0\0")],
        Gets::End("08P01"),
    ),
    (
        "a description of neither kind",
        &[(b'D', b"Xa\0")],
        Gets::End("08P01"),
    ),
    (
        "a Sync with something in it",
        &[(b'S', b"x")],
        Gets::End("08P01"),
    ),
    (
        "a query with two ends",
        &[(b'Q', b"SELECT 1\0SELECT 2\0")],
        Gets::End("08P01"),
    ),
    (
        "a COPY that is answered with a query",
        &[(b'Q', b"COPY t FROM STDIN\0"), (b'Q', b"SELECT 1\0")],
        Gets::Error("08P01"),
    ),
    (
        "a COPY that ends in the middle of a row",
        &[
            (b'Q', b"COPY t FROM STDIN BINARY\0"),
            (
                b'd',
                b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x04\0",
            ),
            (b'c', b""),
        ],
        Gets::Error("22P04"),
    ),
    (
        "a COPY's field of minus nine bytes",
        &[
            (b'Q', b"COPY t FROM STDIN BINARY\0"),
            (
                b'd',
                b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x01\xff\xff\xff\xf7",
            ),
            (b'c', b""),
        ],
        Gets::Error("22P04"),
    ),
    (
        "a COPY's field of two gigabytes",
        &[
            (b'Q', b"COPY t FROM STDIN BINARY\0"),
            (
                b'd',
                b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x01\x7f\xff\xff\xff",
            ),
            (b'c', b""),
        ],
        Gets::Error("54000"),
    ),
    (
        "a COPY's text that is none",
        &[
            (b'Q', b"COPY t FROM STDIN\0"),
            (b'd', b"\xff\xfe\n"),
            (b'c', b""),
        ],
        Gets::Error("22021"),
    ),
    (
        "a COPY's zero byte",
        &[
            (b'Q', b"COPY t FROM STDIN\0"),
            (b'd', b"1\0\n"),
            (b'c', b""),
        ],
        Gets::Error("22021"),
    ),
    (
        "a channel named like a statement",
        &[(b'Q', b"LISTEN \"a; DROP TABLE t; --\"\0")],
        Gets::Nothing,
    ),
    (
        "a message named like a statement",
        &[(
            b'Q',
            b"SELECT pg_notify('x''; DROP TABLE t; --', '''; DROP TABLE t')\0",
        )],
        Gets::Nothing,
    ),
];

/// The code of the first error, and whether the connection has ended.
fn outcome(client: &mut PgClient) -> (Option<String>, bool) {
    let mut code = None;
    loop {
        match client.receive() {
            Err(_) => return (code, true),
            Ok((b'E', body)) => {
                if let PgError::Sql { code: found, .. } = error_of(&body) {
                    code.get_or_insert(found);
                }
            }
            Ok((b'Z', _)) => return (code, false),
            Ok(_) => {}
        }
    }
}

#[test]
fn g7_hostile_messages_get_what_the_table_says_and_nobody_else_notices() {
    let fixture = Fixture::started();
    fixture.sql("CREATE TABLE t (id integer PRIMARY KEY)");
    fixture.sql("INSERT INTO t VALUES (1)");
    for (what, messages, gets) in HOSTILE {
        let mut client = fixture.pg();
        for (kind, body) in *messages {
            // The server may have closed already.
            let _ = client.send(*kind, body);
        }
        let (code, ended) = outcome(&mut client);
        let expected = match gets {
            Gets::Error(code) => (Some((*code).to_owned()), false),
            Gets::End(code) => (Some((*code).to_owned()), true),
            Gets::Nothing => (None, false),
        };
        assert_eq!((code, ended), expected, "{what}");
        if !ended {
            let rows = client.query("SELECT id FROM t").expect(what).rows;
            assert_eq!(rows.len(), 1, "{what}");
        }
        assert_eq!(fixture.sql("SELECT id FROM t").len(), 1, "{what}");
    }
}

#[test]
fn g7_a_thousand_syncs_at_once_are_a_thousand_answers() {
    let fixture = Fixture::started();
    let mut client = fixture.pg();
    let syncs = b"S\0\0\0\x04".repeat(1000);
    client.send_raw(&syncs).expect("sent");
    for number in 0..1000 {
        assert_eq!(client.receive().expect("an answer").0, b'Z', "{number}");
    }
    client.query("SELECT 1").expect("goes on");
}

/// Waits for the end of a silent connection; its last error, and how long it took.
fn silence(client: &mut PgClient) -> (Option<String>, Duration) {
    let begun = Instant::now();
    let (code, ended) = outcome(client);
    assert!(ended, "it is still there");
    (code, begun.elapsed())
}

#[test]
fn silent_clients_are_ended_by_the_limit_that_they_have() {
    let fixture = Fixture::started();
    fixture.sql("CREATE TABLE t (id integer PRIMARY KEY)");
    let least = Duration::from_millis(250);
    let mut client = fixture.pg();
    client
        .query("SET idle_session_timeout = '300ms'")
        .expect("set");
    let (code, took) = silence(&mut client);
    assert_eq!(code.as_deref(), Some("57P05"));
    assert!(took >= least, "{took:?}");
    let mut client = fixture.pg();
    client
        .query("SET idle_in_transaction_session_timeout = 300")
        .expect("set");
    client.query("BEGIN").expect("begun");
    client.query("INSERT INTO t VALUES (1)").expect("written");
    let (code, took) = silence(&mut client);
    assert_eq!(code.as_deref(), Some("25P03"));
    assert!(took >= least, "{took:?}");
    assert_eq!(fixture.sql("SELECT id FROM t").len(), 0);
    let mut client = fixture.pg();
    client
        .query("SET statement_timeout = '200ms'")
        .expect("set");
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) SELECT count(*) FROM n";
    assert_eq!(
        client.query(endless).expect_err("out of time").code(),
        Some("57014")
    );
    client.query("SET statement_timeout = 0").expect("goes on");
    // Cancelled from elsewhere.
    let (address, key) = (fixture.setup.pg, client.key.expect("a key"));
    let mut asker = fixture.pg();
    asker.query("SELECT 1").expect("answers");
    client
        .send(b'Q', &[endless.as_bytes(), b"\0"].concat())
        .expect("sent");
    // A request that comes before the statement has begun does nothing: ask until it has.
    let cancelled = std::thread::spawn(move || client.answer());
    while !cancelled.is_finished() {
        springhead_sim::client::pg::cancel(address, key).expect("asked");
        asker.query("SELECT 1").expect("answers");
    }
    let ended = cancelled.join().expect("it ends");
    assert_eq!(ended.expect_err("cancelled").code(), Some("57014"));
}
