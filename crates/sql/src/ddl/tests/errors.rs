//! SQLite's errors in PostgreSQL's words, exactly.

use springhead_proto::{Value, ValueRef};

use super::Database;
use crate::errors::{foreign_key_violation, translate, translate_with_row};

fn database() -> Database {
    let mut database = Database::new();
    database.run(&[
        "CREATE TABLE p (id int PRIMARY KEY, a int NOT NULL, b text, CONSTRAINT pair UNIQUE (a, b), CHECK (a < 100))",
        "CREATE TABLE c (id uuid PRIMARY KEY, p int REFERENCES p, a int, b text, FOREIGN KEY (a, b) REFERENCES p (a, b))",
        "CREATE UNIQUE INDEX lowered ON p (lower(b)) WHERE a > 50",
    ]);
    database
        .sqlite("INSERT INTO {p} VALUES (1, 2, 'x')")
        .unwrap();
    database
}

fn check(statement: &str, state: &str, message: &str) {
    let error = database().sqlite(statement).expect_err(statement);
    assert_eq!(
        (error.code.sqlstate().0, error.message.as_str()),
        (state, message)
    );
    assert!(error.table.is_some(), "{error:?}");
}

#[test]
fn violations_have_postgresql_s_words() {
    check(
        "INSERT INTO {p} VALUES (1, 3, 'y')",
        "23505",
        "duplicate key value violates unique constraint \"p_pkey\"",
    );
    check(
        "INSERT INTO {p} VALUES (2, 2, 'x')",
        "23505",
        "duplicate key value violates unique constraint \"pair\"",
    );
    check(
        "INSERT INTO {p} VALUES (2, 60, 'q'), (3, 61, 'Q')",
        "23505",
        "duplicate key value violates unique constraint \"lowered\"",
    );
    check(
        "INSERT INTO {p} VALUES (2, NULL, 'y')",
        "23502",
        "null value in column \"a\" of relation \"p\" violates not-null constraint",
    );
    check(
        "INSERT INTO {p} VALUES (2, 200, 'y')",
        "23514",
        "new row for relation \"p\" violates check constraint \"p_a_check\"",
    );
}

#[test]
fn details_name_the_values() {
    let database = database();
    let row = [
        ValueRef::Integer(2),
        ValueRef::Integer(2),
        ValueRef::Text("x"),
    ];
    let error = translate_with_row(
        &database.catalog,
        2067,
        "UNIQUE constraint failed: t100.c2, t100.c3",
        Some(&row),
    );
    assert_eq!(
        error.detail.as_deref(),
        Some("Key (a, b)=(2, x) already exists.")
    );
    assert_eq!(error.constraint.as_deref(), Some("pair"));
    let row = [ValueRef::Integer(2), ValueRef::Null, ValueRef::Text("x")];
    let error = translate_with_row(
        &database.catalog,
        1299,
        "NOT NULL constraint failed: t100.c2",
        Some(&row),
    );
    assert_eq!(
        error.detail.as_deref(),
        Some("Failing row contains (2, null, x).")
    );
    assert_eq!(
        (error.table.as_deref(), error.column.as_deref()),
        (Some("p"), Some("a"))
    );
}

#[test]
fn foreign_keys_are_named_in_both_directions() {
    let database = database();
    let child = database.table("c");
    // As `PRAGMA foreign_key_check` counts them: the last of the table is 0.
    let key = child.foreign_keys.last().unwrap();
    let values = [Value::Integer(9), Value::Text("z".into())];
    let error = foreign_key_violation(&database.catalog, child, key, Some(&values), true);
    assert_eq!(
        error.message,
        "insert or update on table \"c\" violates foreign key constraint \"c_a_b_fkey\""
    );
    assert_eq!(
        error.detail.as_deref(),
        Some("Key (a, b)=(9, z) is not present in table \"p\".")
    );
    let key = &child.foreign_keys[0];
    let error = foreign_key_violation(
        &database.catalog,
        child,
        key,
        Some(&[Value::Integer(1)]),
        false,
    );
    assert_eq!(
        error.message,
        "update or delete on table \"p\" violates foreign key constraint \"c_p_fkey\" on table \"c\""
    );
    assert_eq!(
        error.detail.as_deref(),
        Some("Key (id)=(1) is still referenced from table \"c\".")
    );
    assert_eq!(error.code.sqlstate().0, "23503");
}

#[test]
fn sqlite_counts_foreign_keys_from_the_last_to_the_first() {
    let database = database();
    database.connection.execute_batch("BEGIN").unwrap();
    database
        .sqlite("INSERT INTO {c} ({c.id}, {c.p}) VALUES ('u', 77)")
        .unwrap();
    assert_eq!(
        database.rows("PRAGMA foreign_key_check({c})"),
        "t103|1|t100|1"
    );
    database.connection.execute_batch("ROLLBACK").unwrap();
}

#[test]
fn other_failures_have_their_codes() {
    let catalog = database().catalog;
    let code = |code, message: &str| translate(&catalog, code, message).code.sqlstate().0;
    assert_eq!(code(13, "database or disk is full"), "53100");
    assert_eq!(code(7, "out of memory"), "53200");
    assert_eq!(code(9, "interrupted"), "57014");
    assert_eq!(code(18, "string or blob too big"), "54000");
    assert_eq!(code(11, "database disk image is malformed"), "XX001");
    assert_eq!(code(1, "integer overflow"), "22003");
    assert_eq!(code(1, "something else"), "XX000");
    let readable = translate(
        &catalog,
        3091,
        "cannot store TEXT value in INTEGER column t100.c1",
    );
    assert_eq!(
        readable.message,
        "cannot store TEXT value in INTEGER column p.id"
    );
}
