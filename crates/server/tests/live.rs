//! Live queries over the PostgreSQL protocol, on a real server: notifications, FETCH LIVE, COPY, and
//! what is left of them when clients vanish.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use springhead_sim::client::pg::{self, PgClient, PgError, PgResult};
use springhead_sim::fixture::Fixture;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

const ORDERS: &str = "CREATE TABLE orders (id text PRIMARY KEY, status text, qty integer)";

fn with_orders() -> Fixture {
    let fixture = Fixture::started();
    fixture.sql(ORDERS);
    fixture
}

/// The extended flow: a statement with text parameters.
fn extended(client: &mut PgClient, sql: &str, params: &[&str]) -> Result<PgResult, PgError> {
    let parse = [b"\0", sql.as_bytes(), b"\0\0\0"].concat();
    client.send(b'P', &parse)?;
    let mut bind = b"\0\0\0\0".to_vec();
    bind.extend(u16::try_from(params.len()).expect("few").to_be_bytes());
    for param in params {
        bind.extend(u32::try_from(param.len()).expect("short").to_be_bytes());
        bind.extend(param.as_bytes());
    }
    bind.extend([0, 0]);
    client.send(b'B', &bind)?;
    client.send(b'D', b"P\0")?;
    client.send(b'E', b"\0\0\0\0\0")?;
    client.send(b'S', b"")?;
    client.answer()
}

fn cell(result: &PgResult, index: usize) -> String {
    result.rows[0][index].clone().expect("it is not NULL")
}

/// The next event of a live query, which must come on its channel.
#[track_caller]
fn event(client: &mut PgClient, id: &str) -> Value {
    let told = client.await_notification().expect("told");
    assert_eq!(told.channel, format!("live_{id}"));
    assert!(told.payload.len() < 8000);
    assert_eq!(Some(told.process_id), client.key.map(|key| key.0));
    serde_json::from_str(&told.payload).expect("JSON")
}

#[track_caller]
fn wait_for_live_queries(fixture: &Fixture, expected: usize) {
    let begun = Instant::now();
    let line = format!("springhead_live_queries {expected}\n");
    while !fixture.get("/metrics").text().contains(&line) {
        assert!(
            begun.elapsed() < PATIENCE,
            "there are not {expected} live queries"
        );
        std::thread::yield_now();
    }
}

#[test]
fn g2_a_live_select_tells_each_commit_that_matters_once_on_its_channel() {
    let fixture = with_orders();
    fixture.sql("INSERT INTO orders VALUES ('o1', 'pending', 1)");
    let mut client = fixture.pg();
    let opened = client
        .query("LIVE SELECT id, qty FROM orders WHERE status = 'pending'")
        .expect("opened");
    assert_eq!(opened.columns, ["live_id", "cursor", "lsn"]);
    assert_eq!(opened.tags, ["LIVE SELECT"]);
    let id = cell(&opened, 0);
    fixture.sql("INSERT INTO orders VALUES ('o2', 'done', 2)");
    fixture.sql("INSERT INTO orders VALUES ('o3', 'pending', 3), ('o4', 'pending', 4)");
    let change = event(&mut client, &id);
    assert_eq!(change["event"], "change");
    assert_eq!(
        change["added"],
        json!([{"key": "o3", "row": ["o3", 3]}, {"key": "o4", "row": ["o4", 4]}])
    );
    // In the session's own transaction it is told once that has ended.
    client
        .query("BEGIN; UPDATE orders SET qty = 9 WHERE id = 'o1'")
        .unwrap();
    client
        .query("UPDATE orders SET status = 'done' WHERE id = 'o3'")
        .unwrap();
    assert!(client.notified.is_empty());
    client.query("COMMIT").unwrap();
    let change = event(&mut client, &id);
    assert_eq!(change["changed"], json!([{"key": "o1", "row": ["o1", 9]}]));
    assert_eq!(change["removed"], json!([{"key": "o3"}]));
    // Gone on from that cursor, by another session: what was missed, and what comes.
    let cursor = change["cursor"].as_str().unwrap().to_owned();
    fixture.sql("DELETE FROM orders WHERE id = 'o4'");
    assert_eq!(event(&mut client, &id)["removed"], json!([{"key": "o4"}]));
    let mut other = fixture.pg();
    let sql = format!(
        "LIVE SELECT id, qty FROM orders WHERE status = 'pending' WITH (cursor = '{cursor}', before)"
    );
    let second = cell(&other.query(&sql).expect("gone on"), 0);
    let missed = event(&mut other, &second);
    assert_eq!(missed["removed"], json!([{"key": "o4", "row": ["o4", 4]}]));
    // Ended, it tells no more.
    assert_eq!(
        client.query(&format!("CANCEL LIVE {id}")).unwrap().tags,
        ["CANCEL LIVE"]
    );
    let again = client.query(&format!("CANCEL LIVE {id}"));
    assert_eq!(again.unwrap_err().code(), Some("42704"));
    fixture.sql("UPDATE orders SET qty = 10 WHERE id = 'o1'");
    assert_eq!(
        event(&mut other, &second)["changed"],
        json!([{"key": "o1", "row": ["o1", 10], "before": ["o1", 9]}])
    );
    client.query("SELECT 1").unwrap();
    assert!(client.notified.is_empty());
    drop((client, other));
    wait_for_live_queries(&fixture, 0);
}

/// The position of a cursor, before its epoch.
fn position(cursor: &str) -> u64 {
    let (lsn, _) = cursor.split_once('@').expect("LSN@epoch");
    lsn.parse().expect("an LSN")
}

fn live_cursor(client: &mut PgClient) -> String {
    cell(&client.query("SHOW live_cursor").expect("shown"), 0)
}

/// Waits until the cursor is at `lsn` or past it.
#[track_caller]
fn wait_for_cursor(client: &mut PgClient, lsn: u64) {
    let begun = Instant::now();
    while position(&live_cursor(client)) < lsn {
        assert!(begun.elapsed() < PATIENCE, "the cursor is not at {lsn}");
    }
}

#[test]
fn g2_the_live_cursor_is_never_past_what_the_client_was_told() {
    let fixture = with_orders();
    let mut client = fixture.pg();
    let opened = client.query("LIVE SELECT id, qty FROM orders").unwrap();
    let id = cell(&opened, 0);
    assert!(position(&live_cursor(&mut client)) >= position(&cell(&opened, 1)));
    // In a transaction nothing is told: whatever comes, waits.
    for round in 0..10 {
        client.query("BEGIN").unwrap();
        fixture.sql(&format!("INSERT INTO orders VALUES ('o{round}', 'new', 1)"));
        let shown: Vec<String> = (0..20).map(|_| live_cursor(&mut client)).collect();
        assert!(client.notified.is_empty());
        client.query("COMMIT").unwrap();
        let change = event(&mut client, &id);
        let lsn = change["lsn"].as_u64().unwrap();
        for cursor in &shown {
            assert!(position(cursor) < lsn, "{cursor} is past {lsn}");
        }
        // Gone on from the last of them the change is there.
        let mut other = fixture.pg();
        let cursor = shown.last().unwrap();
        let sql = format!("LIVE SELECT id, qty FROM orders WITH (cursor = '{cursor}')");
        let second = cell(&other.query(&sql).unwrap(), 0);
        let missed = event(&mut other, &second);
        let key = json!(format!("o{round}"));
        assert_eq!(missed["added"][0]["key"], key, "{missed}");
        // Told, it is counted; so is what concerns no query.
        fixture.sql("CREATE TABLE IF NOT EXISTS others (n integer); INSERT INTO others VALUES (1)");
        wait_for_cursor(&mut client, lsn);
    }
    // A difference that is still to be sent is not told either.
    let mut other = fixture.pg();
    let cursor = cell(&opened, 1);
    let script =
        format!("LIVE SELECT id, qty FROM orders WITH (cursor = '{cursor}'); SHOW live_cursor");
    let shown = other.query(&script).unwrap();
    let shown = shown.rows.last().unwrap()[0].clone().unwrap();
    assert_eq!(position(&shown), position(&cursor));
    // What is too large for a notification counts once it is fetched.
    let large = format!(
        "INSERT INTO orders VALUES ('{}', 'new', 1)",
        "x".repeat(9000)
    );
    fixture.sql(&large);
    let announced = event(&mut client, &id);
    assert_eq!(announced["too_large"], true);
    let lsn = announced["lsn"].as_u64().unwrap();
    assert!(position(&live_cursor(&mut client)) < lsn);
    client.query(&format!("FETCH LIVE {id}")).unwrap();
    wait_for_cursor(&mut client, lsn);
}

#[test]
fn parameters_snapshots_and_upserts_over_the_extended_flow() {
    let fixture = with_orders();
    fixture.sql("INSERT INTO orders VALUES ('o1', 'a', 1), ('o2', 'b', 2), ('o3', 'a', 3)");
    let mut client = fixture.pg();
    let sql = "LIVE SELECT id, qty FROM orders WHERE status = $1 AND qty > $2::integer \
               WITH (snapshot, envelope = upsert)";
    let opened = extended(&mut client, sql, &["a", "1"]).expect("opened");
    assert_eq!(opened.columns, ["live_id", "cursor", "lsn"]);
    let id = cell(&opened, 0);
    let snapshot = event(&mut client, &id);
    assert_eq!(
        (&snapshot["event"], &snapshot["keys"], &snapshot["rows"]),
        (&json!("snapshot"), &json!(["o3"]), &json!([["o3", 3]]))
    );
    let ready = event(&mut client, &id);
    assert_eq!(ready["event"], "ready");
    assert_eq!(ready["cursor"].as_str(), opened.rows[0][1].as_deref());
    fixture.sql("UPDATE orders SET qty = qty + 1");
    let change = event(&mut client, &id);
    assert_eq!(
        change["upsert"],
        json!([{"key": "o1", "row": ["o1", 2]}, {"key": "o3", "row": ["o3", 4]}])
    );
    fixture.sql("DELETE FROM orders WHERE id = 'o3'");
    assert_eq!(event(&mut client, &id)["delete"], json!([{"key": "o3"}]));
    for (sql, code) in [
        ("LIVE SELECT now() FROM orders", "0A000"),
        ("LIVE SELECT nope FROM orders", "42703"),
        ("LIVE SELECT id FROM orders WITH (speed = 9)", "22023"),
        ("LIVE DELETE FROM orders", "0A000"),
        ("CANCEL LIVE 4711", "42704"),
        ("FETCH LIVE 4711", "42704"),
    ] {
        let error = client.query(sql).expect_err(sql);
        assert_eq!(error.code(), Some(code), "{sql}: {error}");
    }
    assert_eq!(
        client.query("CANCEL LIVE ALL").unwrap().tags,
        ["CANCEL LIVE"]
    );
    wait_for_live_queries(&fixture, 0);
}

#[test]
fn a_change_that_is_too_large_for_a_notification_is_announced_and_fetched() {
    let fixture = with_orders();
    let mut client = fixture.pg();
    let id = cell(&client.query("LIVE SELECT id, qty FROM orders").unwrap(), 0);
    fixture.sql(
        "INSERT INTO orders SELECT 'order number ' || n, 'x', n FROM generate_series(1, 500) AS s(n)",
    );
    let change = event(&mut client, &id);
    assert_eq!(
        (&change["too_large"], &change["counts"]["added"]),
        (&json!(true), &json!(500))
    );
    assert_eq!(change["fetch"], format!("FETCH LIVE {id}"));
    fixture.sql("DELETE FROM orders WHERE qty = 1");
    assert_eq!(
        event(&mut client, &id)["removed"],
        json!([{"key": "order number 1"}])
    );
    let fetched = client.query(&format!("FETCH LIVE {id}")).unwrap();
    assert_eq!(
        fetched.columns,
        [
            "lsn",
            "cursor",
            "operation",
            "key",
            "row",
            "before",
            "position"
        ]
    );
    assert_eq!(fetched.rows.len(), 500);
    assert_eq!(
        fetched.rows[0][0],
        change["lsn"].as_u64().map(|lsn| lsn.to_string())
    );
    let mut keys: Vec<_> = fetched.rows.iter().map(|row| row[3].clone()).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 500);
    assert_eq!(
        client
            .query(&format!("FETCH LIVE {id}"))
            .unwrap()
            .rows
            .len(),
        0
    );
}

/// Reads COPY's lines until `enough` of them have come.
fn lines(client: &mut PgClient, enough: usize) -> Vec<String> {
    let mut text = String::new();
    while text.lines().count() < enough || !text.ends_with('\n') {
        match client.receive().expect("data") {
            (b'd', body) => text.push_str(&String::from_utf8(body).expect("UTF-8")),
            (b'H' | b'N', _) => {}
            (kind, body) => panic!("{}: {:?}", char::from(kind), pg::error_of(&body)),
        }
    }
    text.lines().map(str::to_owned).collect()
}

#[test]
fn copy_of_a_live_select_streams_its_rows_and_changes_until_it_is_cancelled() {
    let fixture = with_orders();
    fixture.sql("INSERT INTO orders VALUES ('o1', 'a', 1), ('o2', 'b', 2)");
    let mut client = fixture.pg();
    let sql =
        "COPY (LIVE SELECT id, qty FROM orders ORDER BY qty DESC LIMIT 1) TO STDOUT (FORMAT csv)\0";
    client.send(b'Q', sql.as_bytes()).unwrap();
    let begun = lines(&mut client, 2);
    assert_eq!(begun[0], "snapshot,,o2,,o2,2");
    assert!(
        begun[1].starts_with("ready,") && begun[1].ends_with(",,,,"),
        "{begun:?}"
    );
    fixture.sql("INSERT INTO orders VALUES ('o3', 'a', 3)");
    let mut change = lines(&mut client, 2);
    change.sort();
    let cut = |line: &str| {
        let cells: Vec<_> = line.split(',').collect();
        [&cells[..1], &cells[2..]].concat().join(",")
    };
    assert_eq!(cut(&change[0]), "added,o3,0,o3,3");
    assert_eq!(cut(&change[1]), "removed,o2,,o2,2");
    pg::cancel(fixture.setup.pg, client.key.unwrap()).unwrap();
    assert_eq!(client.answer().unwrap_err().code(), Some("57014"));
    wait_for_live_queries(&fixture, 0);
    // And over the extended flow, ended by the client's going.
    let copy = "COPY (LIVE SELECT count(*) FROM orders) TO STDOUT";
    client
        .send(b'P', &[b"\0", copy.as_bytes(), b"\0\0\0"].concat())
        .unwrap();
    client.send(b'B', b"\0\0\0\0\0\0\0\0").unwrap();
    client.send(b'E', b"\0\0\0\0\0").unwrap();
    client.send(b'S', b"").unwrap();
    for expected in [b'1', b'2'] {
        assert_eq!(client.receive().unwrap().0, expected);
    }
    let begun = lines(&mut client, 2);
    assert_eq!(begun[0], "snapshot\t\\N\t[]\t\\N\t3");
    wait_for_live_queries(&fixture, 1);
    drop(client);
    wait_for_live_queries(&fixture, 0);
}

#[test]
fn g7_what_clients_leave_behind_is_nothing_however_they_go() {
    let mut fixture = Fixture::new();
    fixture
        .setup
        .env
        .push(("SPRINGHEAD_LIVE_PER_CONNECTION".to_owned(), "3".to_owned()));
    fixture.start();
    fixture.sql(ORDERS);
    let mut clients = Vec::new();
    for number in 0..4 {
        let mut client = fixture.pg();
        for query in 0..3 {
            client
                .query(&format!(
                    "LIVE SELECT * FROM orders WHERE qty = {}",
                    number * 3 + query
                ))
                .unwrap();
        }
        let error = client.query("LIVE SELECT * FROM orders").unwrap_err();
        assert_eq!(error.code(), Some("53300"), "{error}");
        clients.push(client);
    }
    wait_for_live_queries(&fixture, 12);
    // One says goodbye, one closes, one is reset in the middle of a message, one is half closed.
    clients[0].send(b'X', b"").unwrap();
    clients[3]
        .socket()
        .shutdown(std::net::Shutdown::Write)
        .unwrap();
    let reset = clients.remove(2);
    rustix::net::sockopt::set_socket_linger(reset.socket(), Some(Duration::ZERO)).unwrap();
    drop(reset);
    drop(clients.remove(1));
    wait_for_live_queries(&fixture, 0);
}

/// What a terminal shows after some output: lines, a cursor that goes up, and "clear to the end".
fn shown(output: &str) -> Vec<String> {
    let (mut lines, mut at) = (vec![String::new()], 0_usize);
    let mut rest = output;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\n' => {
                at += 1;
                if at == lines.len() {
                    lines.push(String::new());
                }
            }
            '\r' => {}
            '\x1b' => {
                let end = rest
                    .find(|c: char| c.is_ascii_alphabetic())
                    .expect("a whole sequence");
                match (&rest[1..end], &rest[end..=end]) {
                    (up, "A") => at -= up.parse::<usize>().expect("a number of lines"),
                    ("", "J") => {
                        lines.truncate(at + 1);
                        lines[at].clear();
                    }
                    other => panic!("{other:?} is not tidy"),
                }
                rest = &rest[end + 1..];
            }
            c => lines[at].push(c),
        }
    }
    lines
}

#[test]
fn the_command_line_keeps_a_result_in_the_terminal_and_leaves_it_tidy() {
    let mut fixture = with_orders();
    fixture.sql("INSERT INTO orders VALUES ('o1', 'pending', 1), ('o2', 'a long status', 20)");
    let command = format!(
        "{} live 'SELECT id, status, qty FROM orders ORDER BY id' --url http://{}",
        fixture.setup.binary.display(),
        fixture.setup.http
    );
    // In a pseudo-terminal of its own.
    let mut script = Command::new("script")
        .args(["-q", "-f", "-c", &command, "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script, of bsdutils, starts");
    let mut output = script.stdout.take().expect("it is piped");
    let mut text = String::new();
    let mut until = |wanted: &dyn Fn(&[String]) -> bool| {
        let begun = Instant::now();
        let mut buffer = [0; 4096];
        loop {
            let lines = shown(&text);
            if wanted(&lines) {
                return lines;
            }
            assert!(begun.elapsed() < PATIENCE, "the terminal shows {lines:#?}");
            let read = output.read(&mut buffer).expect("output");
            assert!(read > 0, "it ended: {text}");
            text.push_str(std::str::from_utf8(&buffer[..read]).expect("UTF-8, cut between writes"));
        }
    };
    let has =
        |what: &'static str| move |lines: &[String]| lines.iter().any(|line| line.contains(what));
    let lines = until(&has("(2 rows; 0 changes;"));
    assert_eq!(
        lines[..4],
        [
            "id │ status        │ qty",
            "───┼───────────────┼────",
            "o1 │ pending       │ 1",
            "o2 │ a long status │ 20",
        ]
    );
    fixture.sql("UPDATE orders SET status = 'done' WHERE id = 'o2'");
    fixture.sql("INSERT INTO orders VALUES ('o0', 'first', 0)");
    let lines = until(&has("(3 rows; 2 changes;"));
    assert_eq!(
        lines[..5],
        [
            "id │ status  │ qty",
            "───┼─────────┼────",
            "o0 │ first   │ 0",
            "o1 │ pending │ 1",
            "o2 │ done    │ 20",
        ]
    );
    assert_eq!(lines.iter().filter(|line| line.contains("o1")).count(), 1);
    // What it showed when the server went stays; it goes on below once that is back.
    fixture.kill();
    until(&has("going on from"));
    fixture.start();
    fixture.sql("DELETE FROM orders WHERE id = 'o1'");
    let lines = until(&has("(2 rows; 3 changes;"));
    assert_eq!(lines.iter().filter(|line| line.contains("o1")).count(), 1);
    script.kill().expect("it is ended");
    script.wait().expect("it has ended");
}
