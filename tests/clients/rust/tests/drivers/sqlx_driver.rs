//! sqlx: its ordinary use, without its macros. It takes every value in binary and prepares everything.

use std::fmt::Debug;
use std::str::FromStr;
use std::time::Duration;

use bigdecimal::BigDecimal;
use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use futures_util::TryStreamExt;
use serde_json::{Value, json};
use springhead_client_tests::ENDLESS;
use springhead_client_tests::server::{PASSWORD, Server};
use sqlx::error::ErrorKind;
use sqlx::migrate::Migrator;
use sqlx::postgres::types::PgInterval;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgPool, Postgres, Row};
use uuid::Uuid;

pub(crate) fn options(server: &Server) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host("localhost")
        .port(server.port)
        .username("app")
        .password(PASSWORD)
        .database("default")
        .ssl_mode(PgSslMode::VerifyFull)
        .ssl_root_cert(server.ca())
}

pub(crate) async fn pool(server: &Server) -> PgPool {
    let pool = PgPoolOptions::new().max_connections(4);
    pool.connect_with(options(server))
        .await
        .expect("the user may log in")
}

/// `value` comes back, in a column of its type, and alone.
async fn check<T>(pool: &PgPool, pg_type: &str, value: T)
where
    T: for<'q> sqlx::Encode<'q, Postgres> + for<'r> sqlx::Decode<'r, Postgres>,
    T: sqlx::Type<Postgres> + Clone + PartialEq + Debug + Send + Unpin + 'static,
{
    let sql = format!("SELECT $1::{pg_type}, NULL::{pg_type}");
    let row = sqlx::query(AssertSqlSafe(sql)).bind(value.clone());
    let row = row.fetch_one(pool).await.expect(pg_type);
    assert_eq!(row.get::<T, _>(0), value, "{pg_type}");
    assert!(row.get::<Option<T>, _>(1).is_none(), "{pg_type}");
    // As text: what is not prepared comes in text.
    // One table for each type: the driver knows its statements by their text.
    let letters: String = pg_type
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    let table = if pg_type.ends_with(']') {
        format!("of_{letters}s")
    } else {
        format!("of_{letters}")
    };
    let sql = format!("CREATE TABLE {table} (v {pg_type})");
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(pool)
        .await
        .expect(pg_type);
    let sql = format!("INSERT INTO {table} VALUES ($1)");
    sqlx::query(AssertSqlSafe(sql))
        .bind(value.clone())
        .execute(pool)
        .await
        .expect(pg_type);
    let sql = format!("SELECT v FROM {table}");
    let row = sqlx::raw_sql(AssertSqlSafe(sql))
        .fetch_one(pool)
        .await
        .expect(pg_type);
    assert_eq!(row.get::<T, _>(0), value, "{pg_type} as text");
}

#[tokio::test]
async fn every_type_comes_back_in_both_formats() {
    let server = Server::start().await;
    let pool = pool(&server).await;
    let day = NaiveDate::from_ymd_opt(2024, 2, 29).expect("it was");
    let moment: NaiveDateTime = day.and_hms_micro_opt(1, 2, 3, 4).expect("it was");
    let utc: DateTime<Utc> = moment.and_utc();
    check(&pool, "smallint", -7_i16).await;
    check(&pool, "integer", 70_000_i32).await;
    check(&pool, "bigint", 1_i64 << 62).await;
    check(&pool, "real", 1.5_f32).await;
    check(&pool, "double precision", -2.25_f64).await;
    let exact = |text| BigDecimal::from_str(text).expect("a number");
    check(&pool, "numeric(12,3)", exact("1234.567")).await;
    check(&pool, "numeric", exact("123456789012345678901234567890.5")).await;
    check(&pool, "boolean", true).await;
    check(&pool, "text", "söme 'text'".to_owned()).await;
    check(&pool, "varchar(20)", "short".to_owned()).await;
    check(&pool, "bytea", vec![0_u8, 255]).await;
    check(&pool, "date", moment.date()).await;
    check(&pool, "time", moment.time()).await;
    check(&pool, "timestamp", moment).await;
    check(&pool, "timestamptz", utc).await;
    check(&pool, "uuid", Uuid::from_u128(5)).await;
    check::<Value>(&pool, "json", json!({"a": [1, null]})).await;
    check::<Value>(&pool, "jsonb", json!({"a": [1, null]})).await;
    check(&pool, "integer[]", vec![Some(1), None, Some(3)]).await;
    check(&pool, "text[]", vec!["a,b".to_owned(), "c\"d".to_owned()]).await;
    check(&pool, "timestamptz[]", vec![utc]).await;
    let interval = PgInterval {
        months: 1,
        days: 2,
        microseconds: 3,
    };
    let found: PgInterval = sqlx::query_scalar("SELECT $1::interval")
        .bind(interval.clone())
        .fetch_one(&pool)
        .await
        .expect("an interval");
    assert_eq!(found, interval);
}

#[tokio::test]
async fn transactions_streams_and_error_codes() {
    let server = Server::start().await;
    let pool = pool(&server).await;
    sqlx::raw_sql(
        "CREATE TABLE p (id serial PRIMARY KEY); CREATE TABLE t (id serial PRIMARY KEY, \
        n text NOT NULL UNIQUE, p int REFERENCES p, m int CHECK (m > 0))",
    )
    .execute(&pool)
    .await
    .expect("tables");
    let mut transaction = pool.begin().await.expect("a transaction");
    for n in 0..20 {
        let id: i32 = sqlx::query_scalar("INSERT INTO t (n) VALUES ($1) RETURNING id")
            .bind(format!("n{n}"))
            .fetch_one(&mut *transaction)
            .await
            .expect("a row");
        assert_eq!(id, n + 1);
    }
    let mut inner = transaction.begin().await.expect("a savepoint");
    let taken = sqlx::query("INSERT INTO t (n) VALUES ('n3')")
        .execute(&mut *inner)
        .await;
    assert!(taken.is_err());
    drop(inner);
    let deleted = sqlx::query("DELETE FROM t WHERE id > $1")
        .bind(10)
        .execute(&mut *transaction)
        .await;
    assert_eq!(
        deleted.expect("the transaction goes on").rows_affected(),
        10
    );
    transaction.commit().await.expect("a commit");
    let mut dropped = pool.begin().await.expect("a transaction");
    sqlx::query("DELETE FROM t")
        .execute(&mut *dropped)
        .await
        .expect("all");
    drop(dropped);
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM t")
        .fetch_one(&pool)
        .await
        .expect("a count");
    assert_eq!(count, 10);
    let names: Vec<String> = sqlx::query("SELECT n FROM t WHERE id = ANY($1) ORDER BY id DESC")
        .bind(vec![2, 4, 99])
        .fetch(&pool)
        .map_ok(|row| row.get("n"))
        .try_collect()
        .await
        .expect("rows");
    assert_eq!(names, ["n3", "n1"]);
    for (sql, code, kind) in [
        (
            "INSERT INTO t (n) VALUES ('n3')",
            "23505",
            ErrorKind::UniqueViolation,
        ),
        (
            "INSERT INTO t (n, p) VALUES ('x', 7)",
            "23503",
            ErrorKind::ForeignKeyViolation,
        ),
        (
            "INSERT INTO t (n) VALUES (NULL)",
            "23502",
            ErrorKind::NotNullViolation,
        ),
        (
            "INSERT INTO t (n, m) VALUES ('x', 0)",
            "23514",
            ErrorKind::CheckViolation,
        ),
        ("SELECT * FROM nosuch", "42P01", ErrorKind::Other),
    ] {
        let error = sqlx::query(sql).execute(&pool).await.expect_err(sql);
        let error = error.as_database_error().expect("the server's");
        assert_eq!(error.code().as_deref(), Some(code), "{sql}");
        assert_eq!(format!("{:?}", error.kind()), format!("{kind:?}"), "{sql}");
    }
}

#[tokio::test]
async fn an_application_is_migrated_forth_and_back() {
    let server = Server::start().await;
    let pool = pool(&server).await;
    let place = tempfile::tempdir().expect("a temporary directory");
    for (name, sql) in [
        (
            "1_people.up.sql",
            "CREATE TABLE person (id bigserial PRIMARY KEY, name text NOT NULL);",
        ),
        ("1_people.down.sql", "DROP TABLE person;"),
        (
            "2_pets.up.sql",
            "CREATE TABLE pet (id bigserial PRIMARY KEY, owner bigint NOT NULL \
            REFERENCES person ON DELETE CASCADE); CREATE INDEX pet_owner ON pet (owner);",
        ),
        ("2_pets.down.sql", "DROP TABLE pet;"),
    ] {
        std::fs::write(place.path().join(name), sql).expect("a file");
    }
    let migrator = Migrator::new(place.path()).await.expect("two migrations");
    migrator.run(&pool).await.expect("they are made");
    migrator.run(&pool).await.expect("they are there");
    let owner: i64 = sqlx::query_scalar("INSERT INTO person (name) VALUES ('Ada') RETURNING id")
        .fetch_one(&pool)
        .await
        .expect("a row");
    sqlx::query("INSERT INTO pet (owner) VALUES ($1)")
        .bind(owner)
        .execute(&pool)
        .await
        .expect("a row");
    migrator.undo(&pool, 1).await.expect("one is undone");
    let left: Vec<i64> = sqlx::query_scalar("SELECT version FROM _sqlx_migrations ORDER BY 1")
        .fetch_all(&pool)
        .await
        .expect("the migrations");
    assert_eq!(left, [1]);
    assert!(
        sqlx::query("SELECT * FROM pet")
            .execute(&pool)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn copy_in_and_out() {
    let server = Server::start().await;
    let pool = pool(&server).await;
    sqlx::raw_sql("CREATE TABLE c (id int PRIMARY KEY, n text)")
        .execute(&pool)
        .await
        .expect("a table");
    let mut connection = pool.acquire().await.expect("a connection");
    let mut copy = connection
        .copy_in_raw("COPY c FROM STDIN (FORMAT csv)")
        .await
        .expect("a copy");
    copy.send(b"1,a\n2,".as_slice()).await.expect("a part");
    copy.send(b"\n".as_slice()).await.expect("the rest");
    assert_eq!(copy.finish().await.expect("two rows"), 2);
    let copy = connection
        .copy_in_raw("COPY c FROM STDIN")
        .await
        .expect("a copy");
    copy.abort("thought better of it")
        .await
        .expect("it is given up");
    let parts: Vec<_> = connection
        .copy_out_raw("COPY c TO STDOUT")
        .await
        .expect("a copy")
        .try_collect()
        .await
        .expect("all of it");
    assert_eq!(parts.concat(), b"1\ta\n2\t\\N\n");
}

#[tokio::test]
async fn notifications_reach_an_idle_connection() {
    let server = Server::start().await;
    let pool = pool(&server).await;
    let mut listener = PgListener::connect_with(&pool).await.expect("a listener");
    listener
        .listen_all(["news", "Other News"])
        .await
        .expect("two channels");
    for (channel, payload) in [("news", "hello"), ("Other News", "again")] {
        sqlx::query("SELECT pg_notify($1, $2)")
            .bind(channel)
            .bind(payload)
            .execute(&pool)
            .await
            .expect("it is sent");
        let message = tokio::time::timeout(Duration::from_secs(10), listener.recv()).await;
        let message = message.expect("in time").expect("a message");
        assert_eq!((message.channel(), message.payload()), (channel, payload));
    }
}

#[tokio::test]
async fn a_statement_ends_by_its_timeout_or_with_its_connection() {
    let server = Server::start().await;
    let pool = pool(&server).await;
    let mut connection = pool.acquire().await.expect("a connection");
    sqlx::query("SET statement_timeout = '200ms'")
        .execute(&mut *connection)
        .await
        .expect("a setting");
    let ended = sqlx::query(ENDLESS)
        .execute(&mut *connection)
        .await
        .expect_err("it is endless");
    let code = ended.as_database_error().and_then(|error| error.code());
    assert_eq!(code.as_deref(), Some("57014"));
    connection.ping().await.expect("the connection goes on");
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut *connection)
        .await
        .expect("a number");
    assert!(pid > 0);
}

#[tokio::test]
async fn who_does_not_show_the_password_over_tls_is_refused() {
    let server = Server::start().await;
    let code = |error: sqlx::Error| {
        let code = error.as_database_error().and_then(|error| error.code());
        code.map(|code| code.into_owned())
    };
    let wrong = options(&server).password("wrong").connect().await;
    assert_eq!(
        code(wrong.expect_err("it is wrong")).as_deref(),
        Some("28P01")
    );
    let plain = options(&server)
        .ssl_mode(PgSslMode::Disable)
        .connect()
        .await;
    assert_eq!(
        code(plain.expect_err("TLS is required")).as_deref(),
        Some("28000")
    );
    let other_name = options(&server).host("127.0.0.1").connect().await;
    let error = other_name
        .expect_err("the certificate is for localhost")
        .to_string();
    assert!(error.contains("not valid for name"), "{error}");
}
