//! Prepared statements have one list of names, whether the protocol or SQL has made them: the same
//! conversation with Springhead and with PostgreSQL 15.

mod side_by_side;

use side_by_side::connect as connect_postgres;
use springhead_sim::client::pg::PgClient;
use springhead_sim::fixture::Fixture;
use springhead_sim::postgres::Postgres;

/// What a request came to: columns, rows and tags, or a SQLSTATE and its words.
fn answered(client: &mut PgClient) -> String {
    match client.answer() {
        Ok(result) => {
            let cell = |value: Option<String>| value.unwrap_or_else(|| "~".to_owned());
            let row =
                |row: Vec<Option<String>>| row.into_iter().map(cell).collect::<Vec<_>>().join("|");
            let rows: Vec<String> = result.rows.into_iter().map(row).collect();
            format!("{:?} {rows:?} {:?}", result.columns, result.tags)
        }
        Err(error) => error.to_string(),
    }
}

fn simple(client: &mut PgClient, sql: &str) -> String {
    client
        .send(b'Q', &[sql.as_bytes(), b"\0"].concat())
        .expect("sent");
    answered(client)
}

fn parse(client: &mut PgClient, name: &str, sql: &str) -> String {
    let body = [name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat();
    client.send(b'P', &body).expect("sent");
    client.send(b'S', b"").expect("sent");
    answered(client)
}

/// Bind with texts, Describe of the portal, Execute.
fn run(client: &mut PgClient, name: &str, values: &[&str]) -> String {
    let mut body = [b"\0", name.as_bytes(), b"\0\0\0"].concat();
    body.extend(u16::try_from(values.len()).expect("few").to_be_bytes());
    for value in values {
        body.extend(u32::try_from(value.len()).expect("short").to_be_bytes());
        body.extend(value.as_bytes());
    }
    body.extend([0, 0]);
    client.send(b'B', &body).expect("sent");
    client.send(b'D', b"P\0").expect("sent");
    client.send(b'E', b"\0\0\0\0\0").expect("sent");
    client.send(b'S', b"").expect("sent");
    answered(client)
}

fn close(client: &mut PgClient, name: &str) -> String {
    client
        .send(b'C', &[b"S", name.as_bytes(), b"\0"].concat())
        .expect("sent");
    client.send(b'S', b"").expect("sent");
    answered(client)
}

fn conversation(mut client: PgClient) -> Vec<String> {
    let client = &mut client;
    let mut said = Vec::new();
    let mut note = |what: String| said.push(what);
    note(simple(
        client,
        "CREATE TABLE t (id integer PRIMARY KEY, v text)",
    ));
    note(parse(
        client,
        "by_protocol",
        "INSERT INTO t VALUES ($1, $2) RETURNING id, v AS value",
    ));
    note(simple(client, "EXECUTE by_protocol(1, 'one')"));
    note(run(client, "by_protocol", &["2", "two"]));
    note(simple(client, "PREPARE by_protocol AS SELECT 1"));
    note(simple(
        client,
        "PREPARE by_sql (integer) AS SELECT id, v FROM t WHERE id <= $1 ORDER BY id",
    ));
    note(run(client, "by_sql", &["2"]));
    note(parse(client, "by_sql", "SELECT 1"));
    // EXECUTE by way of the protocol: described by what it runs.
    note(parse(client, "", "EXECUTE by_sql(1)"));
    note(run(client, "", &[]));
    note(parse(client, "", "EXECUTE nothing"));
    note(run(client, "", &[]));
    note(simple(
        client,
        "SELECT name, parameter_types::text, from_sql FROM pg_prepared_statements ORDER BY name",
    ));
    note(close(client, "by_sql"));
    note(simple(client, "EXECUTE by_sql(1)"));
    note(simple(client, "DEALLOCATE by_protocol"));
    note(run(client, "by_protocol", &["3", "three"]));
    note(simple(client, "DEALLOCATE by_protocol"));
    // Several statements of one request, and what is there after one of them fails.
    note(simple(
        client,
        "PREPARE a AS VALUES (1); EXECUTE a; PREPARE b AS VALUES (2); SELECT 1 / 0; PREPARE c AS VALUES (3)",
    ));
    note(simple(client, "EXECUTE b"));
    note(simple(client, "EXECUTE c"));
    note(simple(client, "DEALLOCATE ALL"));
    note(simple(client, "EXECUTE a"));
    note(simple(client, "SELECT id, v FROM t ORDER BY id"));
    said
}

#[test]
fn g8_prepared_statements_have_one_list_of_names() {
    let fixture = Fixture::started();
    let ours = conversation(fixture.pg());
    assert!(ours.iter().any(|said| said.contains("26000")), "{ours:#?}");
    let Some(postgres) = Postgres::start() else {
        return;
    };
    let theirs = conversation(connect_postgres(&postgres, "postgres"));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
}
