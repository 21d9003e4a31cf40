//! tokio-postgres: its ordinary use. It takes and sends every value in binary; `simple_query` has text.

use std::fmt::Debug;
use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use futures_util::{SinkExt, TryStreamExt, pin_mut};
use serde_json::{Value, json};
use springhead_client_tests::ENDLESS;
use springhead_client_tests::server::Server;
use tokio_postgres::binary_copy::{BinaryCopyInWriter, BinaryCopyOutStream};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSqlOwned, ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage};
use uuid::Uuid;

/// `value` comes back in binary, and is `text` as text, from the literal too.
async fn check<T>(client: &Client, pg_type: &str, value: T, text: &str)
where
    T: ToSql + Sync + FromSqlOwned + PartialEq + Debug,
{
    let sql = format!("SELECT $1::{pg_type}, NULL::{pg_type}, $1::{pg_type}::text");
    let row = client.query_one(&sql, &[&value]).await.expect(pg_type);
    assert_eq!(row.get::<_, T>(0), value, "{pg_type}");
    assert_eq!(row.get::<_, Option<T>>(1), None, "{pg_type}");
    assert_eq!(row.get::<_, String>(2), text, "{pg_type}");
    let sql = format!("SELECT '{}'::{pg_type}", text.replace('\'', "''"));
    let messages = client.simple_query(&sql).await.expect(pg_type);
    let found = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    assert_eq!(found, Some(text), "{pg_type}");
}

fn moment() -> NaiveDateTime {
    let day = NaiveDate::from_ymd_opt(2024, 2, 29).expect("it was");
    day.and_hms_micro_opt(1, 2, 3, 4).expect("it was")
}

#[tokio::test]
async fn every_type_comes_back_in_both_formats() {
    let server = Server::start().await;
    let client = server.client().await;
    check(&client, "smallint", -7_i16, "-7").await;
    check(&client, "integer", 70_000_i32, "70000").await;
    check(&client, "bigint", 1_i64 << 62, "4611686018427387904").await;
    check(&client, "real", 1.5_f32, "1.5").await;
    check(&client, "double precision", -2.25_f64, "-2.25").await;
    check(&client, "text", "söme 'text'".to_owned(), "söme 'text'").await;
    check(&client, "varchar(20)", "short".to_owned(), "short").await;
    check(&client, "bytea", vec![0_u8, 255], "\\x00ff").await;
    check(&client, "date", moment().date(), "2024-02-29").await;
    check::<NaiveTime>(&client, "time", moment().time(), "01:02:03.000004").await;
    check(&client, "timestamp", moment(), "2024-02-29 01:02:03.000004").await;
    let utc: DateTime<Utc> = moment().and_utc();
    check(&client, "timestamptz", utc, "2024-02-29 01:02:03.000004+00").await;
    let id = Uuid::from_u128(5);
    check(&client, "uuid", id, "00000000-0000-0000-0000-000000000005").await;
    check::<Value>(&client, "json", json!({"a":[1,null]}), r#"{"a":[1,null]}"#).await;
    check(&client, "jsonb", json!({"a": [1]}), r#"{"a": [1]}"#).await;
    check(
        &client,
        "integer[]",
        vec![Some(1), None, Some(3)],
        "{1,NULL,3}",
    )
    .await;
    let texts = vec!["a,b".to_owned(), "c\"d".to_owned()];
    check(&client, "text[]", texts, r#"{"a,b","c\"d"}"#).await;
    check(&client, "oid", 42_u32, "42").await;
    // Its text is "t" in a result and "true" by a cast.
    let row = client.query_one("SELECT $1::boolean", &[&true]).await;
    assert!(row.expect("a boolean").get::<_, bool>(0));
    // What the driver cannot know it looks up in the catalogs.
    let found = client
        .prepare("SELECT 'pg_class'::regclass, '1 day'::interval")
        .await;
    assert_eq!(
        found.expect("both are there").columns()[0].type_(),
        &Type::REGCLASS
    );
}

#[tokio::test]
async fn transactions_statements_portals_pipelines_and_error_codes() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let create = "CREATE TABLE t (id serial PRIMARY KEY, n text UNIQUE, m int CHECK (m > 0))";
    client.batch_execute(create).await.expect("a table");
    let transaction = client.transaction().await.expect("a transaction");
    let insert = transaction
        .prepare("INSERT INTO t (n) VALUES ($1)")
        .await
        .expect("it is sound");
    assert_eq!(insert.params(), [Type::TEXT]);
    let names: Vec<String> = (0..20).map(|n| format!("n{n}")).collect();
    // All at once: the driver sends them without waiting for answers.
    let inserts = names
        .iter()
        .map(|name| async { transaction.execute(&insert, &[name]).await });
    let counts = futures_util::future::try_join_all(inserts)
        .await
        .expect("all are taken");
    assert_eq!(counts, [1; 20]);
    transaction.commit().await.expect("a commit");

    let mut transaction = client.transaction().await.expect("a transaction");
    let inner = transaction.savepoint("inner").await.expect("a savepoint");
    let taken = inner
        .execute("INSERT INTO t (n) VALUES ($1)", &[&"n3"])
        .await;
    let error = taken.expect_err("it is there");
    let error = error.as_db_error().expect("the server's");
    assert_eq!(error.code(), &SqlState::UNIQUE_VIOLATION);
    assert_eq!(
        (error.constraint(), error.table()),
        (Some("t_n_key"), Some("t"))
    );
    let failed = inner
        .query("SELECT 1", &[])
        .await
        .expect_err("the transaction has failed");
    assert_eq!(failed.code(), Some(&SqlState::IN_FAILED_SQL_TRANSACTION));
    inner.rollback().await.expect("back to the savepoint");

    let portal = transaction
        .bind("SELECT id FROM t ORDER BY id", &[])
        .await
        .expect("a portal");
    let mut seen = Vec::new();
    loop {
        let rows = transaction
            .query_portal(&portal, 7)
            .await
            .expect("some rows");
        if rows.is_empty() {
            break;
        }
        seen.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
    }
    assert_eq!(seen, (1..=20).collect::<Vec<_>>());
    transaction.commit().await.expect("a commit");

    let wanted = vec![2, 4, 99];
    let rows = client
        .query("SELECT n FROM t WHERE id = ANY($1) ORDER BY id", &[&wanted])
        .await;
    let names: Vec<String> = rows.expect("rows").iter().map(|row| row.get("n")).collect();
    assert_eq!(names, ["n1", "n3"]);
    for (sql, code) in [
        ("SELECT * FROM nosuch", SqlState::UNDEFINED_TABLE),
        ("SELECT nosuch FROM t", SqlState::UNDEFINED_COLUMN),
        ("SELEC 1", SqlState::SYNTAX_ERROR),
        ("INSERT INTO t (m) VALUES (0)", SqlState::CHECK_VIOLATION),
        ("SELECT 1 / 0", SqlState::DIVISION_BY_ZERO),
        ("SELECT 'x'::int", SqlState::INVALID_TEXT_REPRESENTATION),
    ] {
        let error = client.query(sql, &[]).await.expect_err(sql);
        assert_eq!(error.code(), Some(&code), "{sql}");
    }
}

#[tokio::test]
async fn copy_in_text_and_binary() {
    let server = Server::start().await;
    let client = server.client().await;
    client
        .batch_execute("CREATE TABLE c (id int PRIMARY KEY, n text)")
        .await
        .expect("a table");
    let sink = client.copy_in("COPY c FROM STDIN").await.expect("a copy");
    pin_mut!(sink);
    sink.send(Bytes::from_static(b"1\ta\n2\t"))
        .await
        .expect("a part");
    sink.send(Bytes::from_static(b"\\N\n"))
        .await
        .expect("the rest");
    assert_eq!(sink.finish().await.expect("two rows"), 2);
    let out = client
        .copy_out("COPY c TO STDOUT (FORMAT csv)")
        .await
        .expect("a copy");
    let parts: Vec<Bytes> = out.try_collect().await.expect("all of it");
    assert_eq!(parts.concat(), b"1,a\n2,\n");

    let types = [Type::INT4, Type::TEXT];
    let sink = client
        .copy_in("COPY c FROM STDIN (FORMAT binary)")
        .await
        .expect("a copy");
    let writer = BinaryCopyInWriter::new(sink, &types);
    pin_mut!(writer);
    for id in 10..15 {
        writer
            .as_mut()
            .write(&[&id, &format!("n{id}")])
            .await
            .expect("a row");
    }
    assert_eq!(writer.finish().await.expect("five rows"), 5);
    let out = client
        .copy_out("COPY (SELECT * FROM c WHERE id > 9) TO STDOUT (FORMAT binary)")
        .await;
    let rows = BinaryCopyOutStream::new(out.expect("a copy"), &types);
    let rows: Vec<_> = rows.try_collect().await.expect("all of it");
    assert_eq!(rows.len(), 5);
    assert_eq!(rows[4].get::<String>(1), "n14");
}

#[tokio::test]
async fn notifications_reach_an_idle_connection() {
    let server = Server::start().await;
    let connected = server.config().connect(server.connector()).await;
    let (listener, mut connection) = connected.expect("the user may log in");
    let (found, mut received) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(message) = message {
                found.send(message).expect("the test waits");
            }
        }
    });
    listener
        .batch_execute("LISTEN news")
        .await
        .expect("a channel");
    let other = server.client().await;
    other
        .execute("SELECT pg_notify($1, $2)", &[&"news", &"hello"])
        .await
        .expect("it is sent");
    let message = tokio::time::timeout(Duration::from_secs(10), received.recv()).await;
    let message = message.expect("in time").expect("a message");
    assert_eq!((message.channel(), message.payload()), ("news", "hello"));
    let row = other
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .expect("a number");
    assert_eq!(row.get::<_, i32>(0), message.process_id());
}

#[tokio::test]
async fn a_running_statement_is_cancelled() {
    let server = Server::start().await;
    let client = server.client().await;
    let token = client.cancel_token();
    let cancel = async {
        // What is cancelled before it has begun is not cancelled.
        tokio::time::sleep(Duration::from_millis(500)).await;
        token.cancel_query(server.connector()).await
    };
    let (ended, cancelled) = tokio::join!(client.query(ENDLESS, &[]), cancel);
    cancelled.expect("the request is taken");
    assert_eq!(
        ended.expect_err("it is endless").code(),
        Some(&SqlState::QUERY_CANCELED)
    );
    client
        .query_one("SELECT 1", &[])
        .await
        .expect("the connection goes on");
}

#[tokio::test]
async fn who_does_not_show_the_password_over_tls_is_refused() {
    let server = Server::start().await;
    let mut wrong = server.config();
    let refused = wrong.password("wrong").connect(server.connector()).await;
    let error = refused.err().expect("it is wrong");
    assert_eq!(error.code(), Some(&SqlState::INVALID_PASSWORD), "{error}");
    let mut plain = server.config();
    plain.ssl_mode(tokio_postgres::config::SslMode::Disable);
    plain.channel_binding(tokio_postgres::config::ChannelBinding::Disable);
    let error = plain.connect(NoTls).await.err().expect("TLS is required");
    assert_eq!(
        error.code(),
        Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION),
        "{error}"
    );
    let other = Server::start().await;
    assert!(
        server.config().connect(other.connector()).await.is_err(),
        "another authority's"
    );
}
