//! COPY, beside PostgreSQL 15: the same data in gives the same rows, the same rows give the same
//! data out, and what is wrong with data is said in the same words.

use springhead_sim::client::pg::{PgClient, PgError};
use springhead_sim::fixture::Fixture;
use springhead_sim::postgres::Postgres;

const TABLE: &str = "CREATE TABLE t (id integer PRIMARY KEY, s smallint, b bigint, r real, \
    d double precision, n numeric, f numeric(8,3), o boolean, x text, v varchar(5), c char(4), \
    y bytea, da date, ti time, ts timestamp, tz timestamptz, i interval, u uuid, j json, jb jsonb)";

const ROWS: &str = r#"INSERT INTO t VALUES
    (1, -32768, 9223372036854775807, 1.5, -0.1, 12345678901234567890.123456789, 12345.678, true,
     E'tab\there, back\\slash, "quote"', 'abcde', 'ab', '\x00ff10', '2024-02-29', '23:59:59.999999',
     '1999-12-31 23:59:59', '2024-07-01 12:00:00+02', '1 year 2 days 03:04:05.6',
     'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a": [1, 2]}', '{"b": null, "a": "x,y"}'),
    (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
     NULL, NULL, NULL, NULL),
    (3, 0, 0, 0, 0, 0, 0, false, '', '', '', '', '1970-01-01', '00:00', '1970-01-01',
     '1970-01-01 00:00:00+00', '00:00', '00000000-0000-0000-0000-000000000000', 'null', '[]'),
    (4, 1, -1, 1e10, 1e100, -0.5, -99999.999, true, E'line\nfeed\rand \b\f\v', E'\\N', '\.', '\x5c6e',
     '0001-01-01', '12:00', '2000-01-01', '2000-01-01 00:00:00+00', '-1 mon', 
     'ffffffff-ffff-ffff-ffff-ffffffffffff', '"\\n"', '"ü€"'),
    (5, 2, 3, 4, 5, 6, 7, false, 'ünïcödé 🙂 ''single''', '"', ',', '\x', '9999-12-31', '00:00:00.000001',
     '2024-01-01 00:00:00.5', '2024-01-01 00:00:00.000001+00', '1 day', 
     '12345678-1234-1234-1234-123456789012', '1', '1.50')"#;

const FORMS: &[&str] = &[
    "",
    "(FORMAT text, DELIMITER '|', NULL 'nil')",
    "(FORMAT text, HEADER)",
    "(FORMAT csv)",
    "CSV HEADER",
    "(FORMAT csv, DELIMITER ';', QUOTE '''', ESCAPE '\\', NULL 'NULL', HEADER match)",
    "(FORMAT csv, FORCE_QUOTE *)",
    "(FORMAT csv, FORCE_QUOTE (x, v))",
    "WITH BINARY",
];

struct Both {
    ours: PgClient,
    theirs: PgClient,
    _postgres: Postgres,
    _fixture: Fixture,
}

fn both() -> Option<Both> {
    let postgres = Postgres::start()?;
    let fixture = Fixture::started();
    let mut theirs = postgres.pg();
    theirs.query("SET timezone = 'UTC'").expect("set");
    Some(Both {
        ours: fixture.pg(),
        theirs,
        _postgres: postgres,
        _fixture: fixture,
    })
}

impl Both {
    /// Runs it on both; rows and tags must be the same.
    #[track_caller]
    fn same(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        let theirs = self.theirs.query(sql).expect(sql);
        let ours = self.ours.query(sql).expect(sql);
        assert_eq!(
            (&ours.rows, &ours.tags),
            (&theirs.rows, &theirs.tags),
            "{sql}"
        );
        ours.rows
    }

    #[track_caller]
    fn same_out(&mut self, sql: &str) -> Vec<u8> {
        let theirs = self.theirs.copy_out(sql).expect(sql);
        let ours = self.ours.copy_out(sql).expect(sql);
        assert_eq!(
            String::from_utf8_lossy(&ours),
            String::from_utf8_lossy(&theirs),
            "{sql}"
        );
        assert_eq!(ours, theirs, "{sql}");
        ours
    }
}

#[test]
fn every_type_in_every_form_goes_out_and_comes_back_as_with_postgresql() {
    let Some(mut both) = both() else { return };
    both.same(TABLE);
    both.same(ROWS);
    both.same("CREATE TABLE u (LIKE t)");
    for form in FORMS {
        // PostgreSQL compares the header on the way in only.
        let out_form = form.replace("HEADER match", "HEADER");
        let data = both.same_out(&format!(
            "COPY (SELECT * FROM t ORDER BY id) TO STDOUT {out_form}"
        ));
        let in_form = form
            .replace(", FORCE_QUOTE *", "")
            .replace(", FORCE_QUOTE (x, v)", "");
        for piece in [1, 7, 8192] {
            both.same("DELETE FROM u");
            let sql = format!("COPY u FROM STDIN {in_form}");
            let theirs = both.theirs.copy_in(&sql, &data, piece).expect(&sql);
            let ours = both.ours.copy_in(&sql, &data, piece).expect(&sql);
            assert_eq!(ours.tags, theirs.tags, "{sql}");
            both.same("SELECT * FROM u ORDER BY id");
        }
    }
    both.same_out("COPY t (x, id) TO STDOUT");
    both.same_out("COPY (SELECT 1 AS a, 'x' AS b) TO STDOUT CSV HEADER");
    both.same_out("COPY (SELECT x FROM t ORDER BY id) TO STDOUT CSV");
    both.same_out("COPY (SELECT 1 WHERE false) TO STDOUT BINARY");
}

/// COPY's options and data, and its columns where they are not all.
const WRONG: &[(&str, &[u8])] = &[
    // Data of another form.
    ("w FROM STDIN", b"1\n"),
    ("w FROM STDIN", b"1\ta\tb\tc\n"),
    ("w FROM STDIN", b"1\ta\tb\n2\tx\ty\tz\n"),
    ("w FROM STDIN", b"x\ta\tb\n"),
    ("w FROM STDIN", b"1\ttoo long\tb\n"),
    ("w FROM STDIN", b"1\ta\tb\n\\N\tc\td\n"),
    ("w FROM STDIN", b"1\ta\tb\n1\tc\td\n"),
    ("w FROM STDIN", b"1\ta\tb\r\n2\tc\td\n"),
    ("w FROM STDIN", b"1\ta\tb\n2\tc\rc\td\n"),
    ("w FROM STDIN", b"1\ta\tb\n\\.x\n"),
    ("w FROM STDIN", b"99999999999\ta\tb\n"),
    ("w FROM STDIN", b"1\ta\t\xff\n"),
    ("w FROM STDIN", b"1\ta\tbad\n"),
    ("w FROM STDIN CSV", b"1,a,\"b\n"),
    ("w FROM STDIN CSV", b"1,\"a\"\"\n"),
    ("w FROM STDIN CSV HEADER", b"a,b\n1\n"),
    ("w FROM STDIN (FORMAT csv, HEADER match)", b"id,a\n1,a,b\n"),
    (
        "w FROM STDIN (FORMAT csv, HEADER match)",
        b"id,a,c\n1,a,b\n",
    ),
    ("w FROM STDIN BINARY", b"nothing of it"),
    (
        "w FROM STDIN BINARY",
        b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x02\0\0",
    ),
    (
        "w FROM STDIN BINARY",
        b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x03\0\0\0",
    ),
    (
        "w FROM STDIN BINARY",
        b"PGCOPY\n\xff\r\n\0\0\x01\0\0\0\0\0\0",
    ),
    // Statements of another form.
    ("nope FROM STDIN", b""),
    ("w (nope) FROM STDIN", b""),
    ("w (a, a) FROM STDIN", b""),
    ("w FROM STDIN (FORMAT nope)", b""),
    ("w FROM STDIN (NOPE)", b""),
    ("w FROM STDIN (DELIMITER 'xx')", b""),
    ("w FROM STDIN (DELIMITER 'a')", b""),
    ("w FROM STDIN (DELIMITER ',', DELIMITER ';')", b""),
    ("w FROM STDIN (QUOTE '''')", b""),
    ("w FROM STDIN (FORMAT csv, QUOTE ',')", b""),
    ("w FROM STDIN (FORMAT csv, NULL 'a,b')", b""),
    ("w FROM STDIN (FORMAT csv, FORCE_QUOTE *)", b""),
    ("w FROM STDIN (FORCE_NULL (a))", b""),
    ("w FROM STDIN (FORMAT csv, FORCE_NULL (nope))", b""),
    ("w FROM STDIN (FORMAT binary, NULL 'x')", b""),
    ("w FROM", b""),
    ("view_of_w FROM STDIN", b""),
];

fn fails(client: &mut PgClient, sql: &str, data: &[u8]) -> (String, String, Option<String>) {
    client.context = None;
    match client.copy_in(sql, data, 8192) {
        Err(PgError::Sql { code, message }) => (code, message, client.context.take()),
        other => panic!("{sql} {:?}: {other:?}", String::from_utf8_lossy(data)),
    }
}

#[test]
fn what_is_wrong_is_said_as_postgresql_says_it() {
    let Some(mut both) = both() else { return };
    both.same("CREATE TABLE w (id integer PRIMARY KEY, a varchar(4), b text CHECK (b <> 'bad'))");
    both.same("CREATE VIEW view_of_w AS SELECT * FROM w");
    for (copy, data) in WRONG {
        let sql = format!("COPY {copy}");
        let (their_code, their_message, their_context) = fails(&mut both.theirs, &sql, data);
        let (our_code, our_message, our_context) = fails(&mut both.ours, &sql, data);
        let shown = format!("{sql} {:?}", String::from_utf8_lossy(data));
        assert_eq!(
            our_code, their_code,
            "{shown}: {our_message} / {their_message}"
        );
        if their_code != "42601" {
            assert_eq!(our_message, their_message, "{shown}");
        }
        // Of a row that the table does not take PostgreSQL sometimes shows the text as well.
        let line = |context: Option<String>| {
            context.map(|context| match context.split_once(": \"") {
                Some((place, _)) if our_code.starts_with("23") => place.to_owned(),
                _ => context,
            })
        };
        if our_code != "22021" {
            assert_eq!(line(our_context), line(their_context), "{shown}");
        }
        both.same("SELECT * FROM w");
    }
    let error = both.ours.query("COPY (SELECT 1) TO PROGRAM 'id'");
    assert_eq!(error.expect_err("refused").code(), Some("42501"));
    let error = both.ours.query("COPY w FROM '/etc/passwd'");
    assert_eq!(error.expect_err("refused").code(), Some("42501"));
}

#[test]
fn g3_a_copy_is_one_commit_or_nothing() {
    let fixture = Fixture::started();
    let mut client = fixture.pg();
    client
        .query("CREATE TABLE t (id integer PRIMARY KEY)")
        .expect("made");
    let rows = |client: &mut PgClient| {
        client.query("SELECT count(*) FROM t").expect("rows").rows[0][0].clone()
    };
    let data = |count: u32| (0..count).map(|n| format!("{n}\n")).collect::<String>();
    let failed = client.copy_in(
        "COPY t FROM STDIN",
        format!("{}7\n", data(5000)).as_bytes(),
        4096,
    );
    assert_eq!(failed.expect_err("twice").code(), Some("23505"));
    assert_eq!(rows(&mut client).as_deref(), Some("0"));
    client
        .copy_in("COPY t FROM STDIN", data(5000).as_bytes(), 4096)
        .expect("copied");
    let page = fixture
        .get("/cdc/t/poll?since_lsn=1&limit=1&operations=insert")
        .json();
    assert_eq!(page["changes"][0]["tx"]["count"], 5000);
    // In a block it is undone with it, and fails it.
    client.query("BEGIN").expect("begun");
    client.query("DELETE FROM t").expect("deleted");
    client
        .copy_in("COPY t FROM STDIN", b"1\n2\n", 1)
        .expect("copied");
    assert_eq!(rows(&mut client).as_deref(), Some("2"));
    client.query("ROLLBACK").expect("undone");
    assert_eq!(rows(&mut client).as_deref(), Some("5000"));
    client.query("BEGIN").expect("begun");
    assert!(client.copy_in("COPY t FROM STDIN", b"x\n", 1).is_err());
    assert_eq!(
        client.query("SELECT 1").expect_err("failed").code(),
        Some("25P02")
    );
    client.query("ROLLBACK").expect("undone");
}

#[test]
fn a_client_may_give_up_and_others_are_not_held_up_meanwhile() {
    let fixture = Fixture::started();
    fixture.sql("CREATE TABLE t (id integer PRIMARY KEY)");
    let mut client = fixture.pg();
    client.send(b'Q', b"COPY t FROM STDIN\0").expect("sent");
    assert_eq!(client.receive().expect("an answer").0, b'G');
    client.send(b'd', b"1\n2\n").expect("sent");
    let shown = fixture.sql("SHOW copies");
    assert_eq!(shown[0][1].as_deref(), Some("t"));
    // It holds nothing that others need.
    fixture.sql("INSERT INTO t VALUES (1)");
    client.send(b'f', b"changed my mind\0").expect("sent");
    match client.answer() {
        Err(PgError::Sql { code, message }) => {
            assert_eq!(
                (code.as_str(), message.as_str()),
                ("57014", "COPY from stdin failed: changed my mind")
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fixture.sql("SELECT id FROM t").len(), 1);
    // Cancelled, and out of time, while it waits for data.
    let key = client.key.expect("a key");
    client.send(b'Q', b"COPY t FROM STDIN\0").expect("sent");
    assert_eq!(client.receive().expect("an answer").0, b'G');
    springhead_sim::client::pg::cancel(fixture.setup.pg, key).expect("asked");
    assert_eq!(
        client.answer().expect_err("cancelled").code(),
        Some("57014")
    );
    client.query("SET statement_timeout = '50ms'").expect("set");
    client.send(b'Q', b"COPY t FROM STDIN\0").expect("sent");
    assert_eq!(client.receive().expect("an answer").0, b'G');
    assert_eq!(client.answer().expect_err("too late").code(), Some("57014"));
    // The data that still comes is thrown away.
    client.send(b'd', b"5\n").expect("sent");
    client.send(b'c', b"").expect("sent");
    assert_eq!(
        client
            .query("SELECT count(*) FROM t")
            .expect("goes on")
            .rows[0][0]
            .as_deref(),
        Some("1")
    );
    // A statement that does not belong ends the COPY, not the connection.
    client.query("SET statement_timeout = 0").expect("set");
    client.send(b'Q', b"COPY t FROM STDIN\0").expect("sent");
    assert_eq!(client.receive().expect("an answer").0, b'G');
    client.send(b'Q', b"SELECT 1\0").expect("sent");
    assert_eq!(client.answer().expect_err("no data").code(), Some("08P01"));
    client.query("SELECT 1").expect("goes on");
}

#[test]
fn the_extended_flow_copies_too() {
    let fixture = Fixture::started();
    fixture.sql("CREATE TABLE t (id integer PRIMARY KEY, x text)");
    let mut client = fixture.pg();
    let mut start = |sql: &str| {
        client
            .send(b'P', &[b"\0", sql.as_bytes(), b"\0\0\0"].concat())
            .expect("sent");
        client.send(b'B', b"\0\0\0\0\0\0\0\0").expect("sent");
        client.send(b'E', b"\0\0\0\0\0").expect("sent");
        client.send(b'S', b"").expect("sent");
    };
    start("COPY t FROM STDIN");
    loop {
        match client.receive().expect("an answer").0 {
            b'1' | b'2' => {}
            b'G' => break,
            other => panic!("{}", char::from(other)),
        }
    }
    client.send(b'd', b"1\tone\n2\ttwo\n").expect("sent");
    client.send(b'c', b"").expect("sent");
    // The Sync that came while data was awaited was passed over, as PostgreSQL does it.
    client.send(b'S', b"").expect("sent");
    assert_eq!(client.answer().expect("copied").tags, ["COPY 2"]);
    let mut start = |sql: &str| {
        client
            .send(b'P', &[b"\0", sql.as_bytes(), b"\0\0\0"].concat())
            .expect("sent");
        client.send(b'B', b"\0\0\0\0\0\0\0\0").expect("sent");
        client.send(b'E', b"\0\0\0\0\0").expect("sent");
        client.send(b'S', b"").expect("sent");
    };
    start("COPY (SELECT x FROM t ORDER BY id) TO STDOUT");
    let mut data = Vec::new();
    loop {
        match client.receive().expect("an answer") {
            (b'd', body) => data.extend(body),
            (b'Z', _) => break,
            (b'E', body) => panic!("{:?}", springhead_sim::client::pg::error_of(&body)),
            _ => {}
        }
    }
    assert_eq!(data, b"one\ntwo\n");
}
