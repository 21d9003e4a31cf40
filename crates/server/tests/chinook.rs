//! A real schema and its data: psql loads the Chinook script unchanged; the tables hold what
//! PostgreSQL 15 holds after the same script; the change feed tells it all, in order, once.

mod side_by_side;

use std::collections::BTreeMap;

use serde_json::Value;
use springhead_sim::client::http::{self, SseStream, encode};
use springhead_sim::client::pg::PgClient;
use springhead_sim::fixture::Fixture;
use springhead_sim::postgres::Postgres;
use springhead_sim::rng::Rng;

use side_by_side::{load, psql, script};

const TABLES: [&str; 11] = [
    "album",
    "artist",
    "customer",
    "employee",
    "genre",
    "invoice",
    "invoice_line",
    "media_type",
    "playlist",
    "playlist_track",
    "track",
];

/// Every row of every table, in the order of all its columns, as psql prints it: one text per row.
fn contents(port: u16) -> BTreeMap<&'static str, Vec<String>> {
    let rows_of = |table: &str| {
        let columns = psql(
            port,
            "chinook_serial",
            &["-At", "-c", &format!("SELECT * FROM {table}")],
        );
        let said = String::from_utf8_lossy(&columns.stderr).into_owned();
        assert!(columns.status.success(), "{table}: {said}");
        let mut rows: Vec<String> = String::from_utf8_lossy(&columns.stdout)
            .lines()
            .map(str::to_owned)
            .collect();
        rows.sort();
        rows
    };
    TABLES
        .into_iter()
        .map(|table| (table, rows_of(table)))
        .collect()
}

#[test]
fn psql_loads_chinook_unchanged_and_the_tables_are_postgresqls() {
    let Some(script) = script() else { return };
    let fixture = Fixture::started();
    load(fixture.setup.pg.port(), &script);
    let ours = contents(fixture.setup.pg.port());
    let total: usize = ours.values().map(Vec::len).sum();
    assert!(total > 15_000, "{total} rows");
    let Some(postgres) = Postgres::start() else {
        return;
    };
    load(postgres.ports.pg.port(), &script);
    let theirs = contents(postgres.ports.pg.port());
    for table in TABLES {
        let (ours, theirs) = (&ours[table], &theirs[table]);
        assert_eq!(ours.len(), theirs.len(), "{table}: rows");
        let different = ours
            .iter()
            .zip(theirs)
            .find(|(ours, theirs)| ours != theirs);
        assert_eq!(
            different, None,
            "{table}: the first row that differs (ours, PostgreSQL's)"
        );
    }
}

/// What psql's commands print, theirs and ours, is the same to the byte.
#[test]
fn psql_describes_chinook_as_it_describes_postgresql_s() {
    let Some(script) = script() else { return };
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let fixture = Fixture::started();
    let ports = [fixture.setup.pg.port(), postgres.ports.pg.port()];
    let more = "CREATE VIEW rock AS SELECT track_id, name FROM track WHERE genre_id = 1; \
                CREATE TABLE typed (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
                a smallint NOT NULL DEFAULT 3, b varchar(20) DEFAULT 'x', c numeric(10,2), \
                d timestamptz DEFAULT now(), e text[], f jsonb, g uuid UNIQUE, h char(3), \
                i boolean DEFAULT true, l int GENERATED ALWAYS AS (a * 2) STORED, o int DEFAULT -1); \
                CREATE UNIQUE INDEX typed_ab ON typed (a DESC, o) WHERE a > 1; \
                CREATE TABLE child (id serial PRIMARY KEY, t bigint REFERENCES typed \
                ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED)";
    for port in ports {
        load(port, &script);
        let made = psql(port, "chinook_serial", &["-q", "-c", more]);
        let said = String::from_utf8_lossy(&made.stderr).into_owned();
        assert!(made.status.success(), "{said}");
    }
    let commands = [
        "\\d",
        "\\dt",
        "\\di",
        "\\dv",
        "\\ds",
        "\\df",
        "\\dT",
        "\\dD",
        "\\du",
        "\\dp",
        "\\z",
        "\\dm",
        "\\dE",
        "\\dy",
        "\\des",
        "\\dRp",
        "\\dRs",
        "\\dX",
        "\\dP",
        "\\dA",
        "\\dd",
        "\\db",
        "\\d track",
        "\\d+ track",
        "\\d album",
        "\\d employee",
        "\\d+ invoice_line",
        "\\d playlist_track",
        "\\d typed",
        "\\d+ typed",
        "\\d child",
        "\\d rock",
        "\\d album_album_id_seq",
        "\\d album_pkey",
        "\\d+ typed_ab",
        "\\di track*",
        "\\dt public.a*",
        "\\d nosuch",
    ];
    for command in commands {
        let [ours, theirs] = ports.map(|port| {
            let printed = psql(port, "chinook_serial", &["-c", command]);
            let errors = String::from_utf8_lossy(&printed.stderr).into_owned();
            (
                String::from_utf8_lossy(&printed.stdout).into_owned(),
                errors,
            )
        });
        assert_eq!(ours, theirs, "{command}");
    }
}

/// All events of a feed, by poll.
fn feed(fixture: &Fixture, collection: &str, tenant: u64, query: &str) -> Vec<Value> {
    let base = format!("/cdc/{collection}/poll?tenant_id={tenant}{query}&limit=1000");
    let mut events = Vec::new();
    let mut target = format!("{base}&since_lsn=1");
    loop {
        let answer = fixture.get(&target);
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        let page = answer.json();
        events.extend(page["changes"].as_array().expect("changes").iter().cloned());
        if page["has_more"] == Value::Bool(false) {
            return events;
        }
        let cursor = page["next_cursor"]["cursor"].as_str().expect("a cursor");
        target = format!("{base}&cursor={}", encode(cursor));
    }
}

#[test]
fn g2_the_feed_of_a_table_tells_every_row_once_in_order() {
    let Some(script) = script() else { return };
    let fixture = Fixture::started();
    load(fixture.setup.pg.port(), &script);
    let rows = fixture
        .pg_to("chinook_serial")
        .query("SELECT track_id, name, unit_price FROM track ORDER BY track_id");
    let rows = rows.expect("rows").rows;
    // The tenant's number is not ours to know: of the ones there are, it is the one with the table.
    let tenant = (2..10)
        .find(|tenant| {
            fixture
                .get(&format!("/cdc/track/poll?tenant_id={tenant}"))
                .status
                == 200
        })
        .expect("a tenant with the table");
    let events: Vec<Value> = feed(&fixture, "track", tenant, "")
        .into_iter()
        .filter(|event| event["operation"] != "DEFINITION")
        .collect();
    assert_eq!(events.len(), rows.len());
    let mut last_lsn = 0;
    for (event, row) in events.iter().zip(&rows) {
        let lsn = event["lsn"].as_u64().expect("an LSN");
        assert!(lsn > last_lsn, "LSN {lsn} after {last_lsn}");
        last_lsn = lsn;
        assert_eq!(event["operation"], "INSERT");
        assert_eq!(event["before"], Value::Null);
        assert_eq!(event["tenant_id"], tenant);
        assert_eq!(event["collection"], "track");
        let after = event["after"].as_object().expect("a whole row");
        let columns: Vec<&str> = after.keys().map(String::as_str).collect();
        let wanted = [
            "track_id",
            "name",
            "album_id",
            "media_type_id",
            "genre_id",
            "composer",
            "milliseconds",
            "bytes",
            "unit_price",
        ];
        assert_eq!(columns, wanted);
        assert_eq!(Some(after["track_id"].to_string()), row[0]);
        assert_eq!(event["document_id"].as_str(), row[0].as_deref());
        assert_eq!(after["name"].as_str(), row[1].as_deref());
        assert_eq!(
            Some(after["unit_price"].to_string()),
            row[2],
            "numeric(10,2) as row_to_json prints it"
        );
        let tx = &event["tx"];
        let place = tx["lsn"].as_u64().zip(tx["index"].as_u64());
        assert_eq!(place.map(|(first, index)| first + index), Some(lsn), "{tx}");
    }
    stream_agrees(&fixture, tenant, &events);
    variants_agree(&fixture, tenant, &events);
}

/// SSE from LSN 1 tells the same.
fn stream_agrees(fixture: &Fixture, tenant: u64, events: &[Value]) {
    let mut stream = fixture.stream(&format!("/cdc/track?tenant_id={tenant}&since_lsn=1"), None);
    let mut told = Vec::new();
    while told.len() < events.len() {
        let event = stream
            .next_event()
            .expect("the stream lives")
            .expect("the stream goes on");
        if event.event == "insert" {
            assert_eq!(event.id.as_deref(), event.json()["cursor"].as_str());
            told.push(event.json());
        }
    }
    assert!(
        stream.retry_ms.is_some(),
        "the stream set no reconnection time"
    );
    assert_eq!(told, events);
}

/// A condition, chosen columns, operations, whole transactions and a snapshot.
fn variants_agree(fixture: &Fixture, tenant: u64, events: &[Value]) {
    let condition = encode("milliseconds > 1000000 AND name LIKE 'S%'");
    let some = feed(
        fixture,
        "track",
        tenant,
        &format!("&where={condition}&operations=insert"),
    );
    let wanted: Vec<&Value> = events
        .iter()
        .filter(|event| {
            let row = &event["after"];
            row["milliseconds"].as_i64() > Some(1_000_000)
                && row["name"]
                    .as_str()
                    .is_some_and(|name| name.starts_with('S'))
        })
        .collect();
    assert!(!wanted.is_empty());
    assert_eq!(some.iter().collect::<Vec<_>>(), wanted);

    let narrow = feed(
        fixture,
        "track",
        tenant,
        "&columns=track_id,name&operations=insert",
    );
    assert_eq!(narrow.len(), events.len());
    let columns: Vec<_> = narrow[0]["after"]
        .as_object()
        .expect("a row")
        .keys()
        .collect();
    assert_eq!(columns, ["track_id", "name"]);

    assert_eq!(
        feed(fixture, "track", tenant, "&operations=delete"),
        Vec::<Value>::new()
    );

    let target = format!(
        "/cdc/track/poll?tenant_id={tenant}&since_lsn=1&tx=group&limit=10000&operations=insert"
    );
    let grouped = fixture.get(&target).json();
    let transactions = grouped["transactions"]
        .as_array()
        .expect("transactions, not changes");
    let flat: Vec<&Value> = transactions
        .iter()
        .flat_map(|transaction| transaction["changes"].as_array().expect("changes"))
        .collect();
    assert_eq!(flat, events.iter().collect::<Vec<_>>());
    for transaction in transactions {
        let changes = transaction["changes"].as_array().expect("changes");
        assert!(
            changes
                .iter()
                .all(|change| change["tx"]["lsn"] == transaction["tx"]["lsn"])
        );
    }

    let mut stream = fixture.stream(
        &format!("/cdc/track?tenant_id={tenant}&snapshot=true"),
        None,
    );
    let mut rows = Vec::new();
    let cursor = loop {
        let event = stream
            .next_event()
            .expect("the stream lives")
            .expect("the stream goes on");
        match event.event.as_str() {
            "snapshot" => {
                assert_eq!(
                    event.id, None,
                    "a snapshot's row has no id: a reconnect starts over"
                );
                let json = event.json();
                assert_eq!(json["operation"], "READ");
                rows.push(json["after"].clone());
            }
            "ready" => break event.id.expect("ready carries the cursor"),
            other => panic!("{other} in a snapshot"),
        }
    };
    let order = |row: &Value| row["track_id"].as_i64();
    rows.sort_by_key(order);
    let mut wanted: Vec<Value> = events.iter().map(|event| event["after"].clone()).collect();
    wanted.sort_by_key(order);
    assert_eq!(rows, wanted);
    // And from there on what comes after, by another exit.
    let mut client = fixture.pg_to("chinook_serial");
    client
        .query("UPDATE track SET composer = 'nobody' WHERE track_id = 7")
        .expect("an update");
    let page = http::get(
        fixture.setup.http,
        &format!(
            "/cdc/track/poll?tenant_id={tenant}&cursor={}",
            encode(&cursor)
        ),
    );
    let page = page.expect("an answer").json();
    assert_eq!(page["count"], 1, "{page}");
    let change = &page["changes"][0];
    assert_eq!(
        (&change["operation"], &change["document_id"]),
        (&"UPDATE".into(), &"7".into())
    );
    assert_eq!(change["before"], wanted[6]);
    assert_eq!(change["after"]["composer"], "nobody");
}

/// Sales by country.
const SALES: &str = "SELECT c.country, count(*) AS lines, sum(l.unit_price * l.quantity) AS total
    FROM invoice i JOIN invoice_line l ON l.invoice_id = i.invoice_id
    JOIN customer c ON c.customer_id = i.customer_id GROUP BY c.country";

/// The same data on both servers, and what a live query has told of ours.
struct Sales {
    ours: PgClient,
    theirs: PgClient,
    stream: SseStream,
    told: BTreeMap<String, Value>,
    /// What PostgreSQL answered last.
    answer: BTreeMap<String, Value>,
    changes: usize,
}

impl Sales {
    /// Runs a transaction on both; the live query must then say what PostgreSQL answers, by exactly one
    /// change, or none where the answer is as it was.
    #[track_caller]
    fn run(&mut self, sql: &str) {
        for client in [&mut self.ours, &mut self.theirs] {
            client
                .query(sql)
                .unwrap_or_else(|error| panic!("{sql:.300}: {error}"));
        }
        let answer = answer(&mut self.theirs);
        if answer != self.answer {
            let change = loop {
                let event = self.stream.next_event().expect("a stream").expect("no end");
                match event.event.as_str() {
                    "change" => break event.json(),
                    "progress" => {}
                    other => panic!("{other}: {}", event.data),
                }
            };
            self.changes += 1;
            let entries = |name: &str| change[name].as_array().cloned().unwrap_or_default();
            for entry in entries("removed") {
                let gone = self.told.remove(entry["key"].as_str().expect("a key"));
                assert!(gone.is_some(), "{sql}: {entry}");
            }
            for entry in [entries("added"), entries("changed")].concat() {
                let key = entry["key"].as_str().expect("a key").to_owned();
                self.told.insert(key, entry["row"].clone());
            }
            self.answer = answer;
        }
        assert_eq!(self.told, self.answer, "after {sql}");
    }
}

/// PostgreSQL's answer, as a live query's rows by their keys.
fn answer(client: &mut PgClient) -> BTreeMap<String, Value> {
    let sql = format!("SELECT json_build_array(country, lines, total)::text FROM ({SALES}) s");
    let rows = client.query(&sql).expect("it answers").rows;
    (rows.into_iter().flatten().flatten())
        .map(|text| {
            let row: Value = serde_json::from_str(&text).expect("JSON");
            (Value::from(vec![row[0].clone()]).to_string(), row)
        })
        .collect()
}

fn literal(value: &Option<String>) -> String {
    match value {
        None => "NULL".to_owned(),
        Some(text) => format!("'{}'", text.replace('\'', "''")),
    }
}

#[test]
fn g8_live_sales_by_country_stay_what_postgresql_answers_while_invoices_come_and_are_edited() {
    let Some(script) = script() else { return };
    let Some(postgres) = Postgres::start() else {
        return;
    };
    load(postgres.ports.pg.port(), &script);
    let fixture = Fixture::started();
    load(fixture.setup.pg.port(), &script);
    let mut ours = fixture.pg_to("chinook_serial");
    let mut theirs = side_by_side::connect(&postgres, "chinook_serial");
    let mut rows = |table: &str| {
        let found = ours.query(&format!("SELECT * FROM {table} ORDER BY 1"));
        found.expect("rows").rows
    };
    let (invoices, lines) = (rows("invoice"), rows("invoice_line"));
    let tenants = fixture.sql("SHOW tenants");
    let tenant = (tenants.iter())
        .find(|row| row[1].as_deref() == Some("chinook_serial"))
        .and_then(|row| row[0].clone())
        .expect("the tenant");
    let target = format!("/live?tenant_id={tenant}&sql={}", encode(SALES));
    let mut stream = fixture.stream(&target, None);
    let mut told = BTreeMap::new();
    loop {
        let event = stream.next_event().expect("a stream").expect("no end");
        if event.event == "ready" {
            break;
        }
        let snapshot = event.json();
        for (key, row) in snapshot["keys"]
            .as_array()
            .into_iter()
            .flatten()
            .zip(snapshot["rows"].as_array().into_iter().flatten())
        {
            told.insert(key.as_str().expect("a key").to_owned(), row.clone());
        }
    }
    let answer = answer(&mut theirs);
    assert_eq!(told, answer);
    let mut sales = Sales {
        ours,
        theirs,
        stream,
        told,
        answer,
        changes: 0,
    };
    sales.run("DELETE FROM invoice_line");
    sales.run("DELETE FROM invoice");
    for invoice in &invoices {
        let values: Vec<String> = invoice.iter().map(literal).collect();
        let mut sql = format!("BEGIN; INSERT INTO invoice VALUES ({});", values.join(", "));
        for line in lines.iter().filter(|line| line[1] == invoice[0]) {
            let values: Vec<String> = line.iter().map(literal).collect();
            sql.push_str(&format!(
                "INSERT INTO invoice_line VALUES ({});",
                values.join(", ")
            ));
        }
        sales.run(&(sql + "COMMIT"));
    }
    assert_eq!(sales.changes, invoices.len() + 1);
    let mut random = Rng::new(2024);
    let mut next_line = 1_000_000;
    for _ in 0..1000 {
        let line = random.below(2240) + 1;
        let (invoice, customer) = (random.below(412) + 1, random.below(59) + 1);
        let edit = match random.below(7) {
            0 => format!(
                "UPDATE invoice_line SET quantity = {} WHERE invoice_line_id = {line}",
                random.below(5) + 1
            ),
            1 => format!(
                "UPDATE invoice_line SET unit_price = unit_price + 0.01 WHERE invoice_line_id = {line}"
            ),
            2 => format!("DELETE FROM invoice_line WHERE invoice_line_id = {line}"),
            3 => {
                next_line += 1;
                format!("INSERT INTO invoice_line VALUES ({next_line}, {invoice}, 1, 1.99, 2)")
            }
            4 => {
                format!("UPDATE invoice SET customer_id = {customer} WHERE invoice_id = {invoice}")
            }
            5 => format!(
                "UPDATE customer SET country = 'Country {}' WHERE customer_id = {customer}",
                random.below(5)
            ),
            _ => format!("UPDATE invoice SET billing_city = 'x' WHERE invoice_id = {invoice}"),
        };
        sales.run(&edit);
    }
    println!("{} changes, each what PostgreSQL answers", sales.changes);
}
