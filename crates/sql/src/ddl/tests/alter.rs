//! ALTER and DROP over tables with rows and foreign keys.

use super::Database;

fn shop() -> Database {
    let mut database = Database::new();
    database.run(&[
        "CREATE TABLE customer (id int PRIMARY KEY, name text NOT NULL, score int)",
        "CREATE TABLE purchase (id bigserial PRIMARY KEY, customer_id int REFERENCES customer ON DELETE CASCADE, price numeric(8,2), note varchar(20))",
        "CREATE INDEX ON purchase (customer_id)",
    ]);
    database
        .sqlite("INSERT INTO {customer} VALUES (1, 'ann', 7), (2, 'bob', NULL)")
        .unwrap();
    database
        .sqlite(
            "INSERT INTO {purchase} VALUES (1, 1, 150, 'x'), (2, 1, 275, NULL), (3, 2, NULL, '12')",
        )
        .unwrap();
    database
}

const PURCHASES: &str = "SELECT {purchase.id}, {purchase.customer_id}, {purchase.price}, {purchase.note} FROM {purchase}";

#[test]
fn a_rebuild_keeps_rows_and_what_refers_to_them() {
    let mut database = shop();
    database.run(&["ALTER TABLE customer ADD CONSTRAINT positive CHECK (score > 0), ALTER COLUMN score SET DEFAULT 1"]);
    assert_eq!(
        database.rows("SELECT * FROM {customer}"),
        "1|ann|7 2|bob|null"
    );
    // The children neither went with the old table nor lost sight of the new one.
    assert_eq!(
        database.rows(PURCHASES),
        "1|1|150|x 2|1|275|null 3|2|null|12"
    );
    database
        .sqlite("DELETE FROM {customer} WHERE {customer.id} = 2")
        .unwrap();
    assert_eq!(database.rows(PURCHASES), "1|1|150|x 2|1|275|null");
    database.check_replay();
}

#[test]
fn columns_come_in_place_where_nothing_else_changes() {
    let mut database = shop();
    database.run(&[
        "ALTER TABLE purchase ADD COLUMN extra text, ADD IF NOT EXISTS note int, ADD more int",
    ]);
    assert_eq!(
        database.notices,
        ["column \"note\" of relation \"purchase\" already exists, skipping"]
    );
    assert_eq!(database.table("purchase").schema_version, 2);
    let statements = &database.records.last().unwrap().payload.statements;
    assert_eq!(
        statements,
        &[
            "ALTER TABLE t101 ADD COLUMN c5 TEXT",
            "ALTER TABLE t101 ADD COLUMN c6 INTEGER"
        ]
    );
    database.check_replay();
}

#[test]
fn a_new_column_s_default_fills_the_rows_that_are_there() {
    let mut database = shop();
    database.run(&[
        "ALTER TABLE customer ADD COLUMN level int NOT NULL DEFAULT 3",
        "ALTER TABLE customer ADD COLUMN tag text DEFAULT 'new'",
        "ALTER TABLE customer ADD COLUMN number serial",
        "ALTER TABLE customer ADD COLUMN token uuid DEFAULT gen_random_uuid()",
        "ALTER TABLE customer ADD COLUMN seen timestamptz NOT NULL DEFAULT now()",
    ]);
    assert_eq!(
        database.rows("SELECT {customer.level}, {customer.tag}, {customer.number}, {customer.token}, {customer.seen} FROM {customer}"),
        "3|new|1|uuid-0|1700000000000000 3|new|2|uuid-1|1700000000000000"
    );
    let (state, message, _) = database.fails("ALTER TABLE customer ADD COLUMN must int NOT NULL");
    assert_eq!(
        (state.as_str(), message.as_str()),
        (
            "23502",
            "column \"must\" of relation \"customer\" contains null values"
        )
    );
    database.check_replay();
}

#[test]
fn types_change_with_their_values() {
    let mut database = shop();
    database.run(&[
        "ALTER TABLE purchase ALTER COLUMN price TYPE numeric(10,3)",
        "ALTER TABLE purchase ALTER COLUMN note TYPE text",
        "ALTER TABLE purchase ALTER COLUMN id TYPE int, ALTER customer_id SET DATA TYPE bigint",
    ]);
    assert_eq!(
        database.rows(PURCHASES),
        "1|1|1500|x 2|1|2750|null 3|2|null|12"
    );
    let (state, message, _) = database.fails("ALTER TABLE purchase ALTER COLUMN note TYPE int");
    assert_eq!(state, "42804");
    assert_eq!(
        message,
        "column \"note\" cannot be cast automatically to type integer"
    );
    assert_eq!(
        database
            .fails("ALTER TABLE purchase ALTER COLUMN note TYPE int USING note::int")
            .0,
        "22P02"
    );
    database.run(&["ALTER TABLE purchase ALTER COLUMN note TYPE int USING length(note)"]);
    assert_eq!(
        database.rows(PURCHASES),
        "1|1|1500|1 2|1|2750|null 3|2|null|2"
    );
    assert_eq!(
        database
            .fails("ALTER TABLE customer ALTER COLUMN id TYPE text")
            .0,
        "42804"
    );
    database.check_replay();
}

#[test]
fn constraints_are_checked_against_the_rows_that_are_there() {
    let mut database = shop();
    let cases = [
        (
            "ALTER TABLE customer ALTER COLUMN score SET NOT NULL",
            "23502",
            "column \"score\" of relation \"customer\" contains null values",
            None,
        ),
        (
            "ALTER TABLE purchase ADD UNIQUE (customer_id)",
            "23505",
            "could not create unique index \"purchase_customer_id_key\"",
            Some("Key (customer_id)=(1) is duplicated."),
        ),
        (
            "ALTER TABLE purchase ADD CHECK (price < 2)",
            "23514",
            "check constraint \"purchase_price_check\" of relation \"purchase\" is violated by some row",
            None,
        ),
        (
            "ALTER TABLE customer ADD FOREIGN KEY (score) REFERENCES customer",
            "23503",
            "insert or update on table \"customer\" violates foreign key constraint \"customer_score_fkey\"",
            Some("Key (score)=(7) is not present in table \"customer\"."),
        ),
    ];
    for (statement, state, message, detail) in cases {
        let (found, text, found_detail) = database.fails(statement);
        assert_eq!(
            (found.as_str(), text.as_str(), found_detail.as_deref()),
            (state, message, detail),
            "{statement}"
        );
    }
    database
        .sqlite("UPDATE {customer} SET {customer.score} = 2")
        .unwrap();
    database.run(&[
        "ALTER TABLE customer ALTER COLUMN score SET NOT NULL",
        "ALTER TABLE customer ADD FOREIGN KEY (score) REFERENCES customer (id)",
        "ALTER TABLE customer ADD CONSTRAINT named UNIQUE (name), ADD CHECK (score >= 0) NOT VALID",
        "ALTER TABLE customer VALIDATE CONSTRAINT named",
    ]);
    database.check_replay();
}

#[test]
fn keys_come_and_go() {
    let mut database = Database::new();
    database.run(&["CREATE TABLE t (a int, b text)"]);
    database
        .sqlite("INSERT INTO {t} ({t.a}, {t.b}) VALUES (5, 'x'), (6, 'y')")
        .unwrap();
    database.run(&["ALTER TABLE ONLY t ADD CONSTRAINT t_pkey PRIMARY KEY (a)"]);
    assert!(database.table("t").key_is_rowid() && database.table("t").columns.len() == 2);
    assert_eq!(database.rows("SELECT * FROM {t}"), "5|x 6|y");
    database
        .run(&["ALTER TABLE t DROP CONSTRAINT t_pkey, ADD CONSTRAINT t_pkey PRIMARY KEY (b, a)"]);
    assert_eq!(database.table("t").key, [1, 0]);
    database.run(&["ALTER TABLE t DROP CONSTRAINT t_pkey"]);
    assert_eq!(database.rows("SELECT * FROM {t}"), "1|5|x 2|6|y");
    assert_eq!(database.table("t").schema_version, 4);
    database.run(&["ALTER TABLE t ADD COLUMN id serial PRIMARY KEY"]);
    assert_eq!(database.rows("SELECT * FROM {t}"), "5|x|1 6|y|2");
    database.check_replay();
}

#[test]
fn a_key_that_is_referred_to_stays_or_goes_with_the_references() {
    let mut database = shop();
    let (state, message, detail) =
        database.fails("ALTER TABLE customer DROP CONSTRAINT customer_pkey");
    assert_eq!(state, "2BP01");
    assert_eq!(
        message,
        "cannot drop constraint customer_pkey on table customer because other objects depend on it"
    );
    assert_eq!(
        detail.unwrap(),
        "constraint purchase_customer_id_fkey on table purchase depends on index customer_pkey"
    );
    let (_, message, detail) = database.fails("DROP TABLE customer");
    assert_eq!(
        message,
        "cannot drop table customer because other objects depend on it"
    );
    assert_eq!(
        detail.unwrap(),
        "constraint purchase_customer_id_fkey on table purchase depends on table customer"
    );
    database.run(&["DROP TABLE customer CASCADE"]);
    assert_eq!(
        database.notices,
        ["drop cascades to constraint purchase_customer_id_fkey on table purchase"]
    );
    assert_eq!(
        database.rows(PURCHASES),
        "1|1|150|x 2|1|275|null 3|2|null|12"
    );
    database.run(&["DROP TABLE IF EXISTS customer, purchase"]);
    assert!(database.catalog.sequences.is_empty());
    database.check_replay();
}

#[test]
fn tables_that_refer_to_each_other_go_together() {
    let mut database = shop();
    database.run(&["DROP TABLE customer, purchase"]);
    assert_eq!(
        database.catalog.tables.len(),
        crate::catalog::Catalog::bootstrap().tables.len()
    );
    database.check_replay();
}

#[test]
fn a_dropped_column_takes_what_looks_at_it() {
    let mut database = Database::new();
    database.run(&[
        "CREATE TABLE t (a int PRIMARY KEY, b int, c int GENERATED ALWAYS AS (b + 1) STORED, d int CHECK (d > b), UNIQUE (b, d))",
        "CREATE INDEX ON t (d) WHERE b > 0",
        "CREATE INDEX kept ON t (d)",
    ]);
    database
        .sqlite("INSERT INTO {t} ({t.a}, {t.b}, {t.d}) VALUES (1, 2, 3)")
        .unwrap();
    let (_, message, detail) = database.fails("ALTER TABLE t DROP COLUMN b");
    assert_eq!(
        message,
        "cannot drop column b of table t because other objects depend on it"
    );
    assert_eq!(
        detail.unwrap(),
        "column c of table t depends on column b of table t"
    );
    database.run(&[
        "ALTER TABLE t DROP COLUMN b CASCADE",
        "ALTER TABLE t DROP COLUMN IF EXISTS b",
    ]);
    let table = database.table("t");
    assert!(table.uniques.is_empty() && table.checks.is_empty());
    assert_eq!(table.indexes.len(), 1);
    assert_eq!(database.rows("SELECT * FROM {t}"), "1|3");
    database.run(&["ALTER TABLE t DROP a"]);
    assert_eq!(database.rows("SELECT * FROM {t}"), "1|3");
    assert!(!database.table("t").has_declared_key());
    database.check_replay();
}

#[test]
fn names_change_in_the_catalog_alone() {
    let mut database = Database::new();
    database.run(&[
        "CREATE TABLE t (a int PRIMARY KEY, b int CHECK (t.b > 0), c int GENERATED ALWAYS AS (b * 2) STORED)",
        "CREATE INDEX i ON t ((b + 1)) WHERE b > 2",
    ]);
    let before = database.schema();
    database.run(&[
        "ALTER TABLE t RENAME COLUMN b TO \"New Name\"",
        "ALTER TABLE t RENAME TO u",
        "ALTER TABLE u RENAME CONSTRAINT t_b_check TO positive",
        "ALTER TABLE u RENAME CONSTRAINT t_pkey TO u_pkey",
        "ALTER INDEX i RENAME TO j",
    ]);
    assert_eq!(database.schema(), before);
    // What was written about the column follows it, through a rebuild too.
    database.run(&["ALTER TABLE u ALTER COLUMN \"New Name\" SET NOT NULL"]);
    database
        .sqlite("INSERT INTO {u} ({u.a}, {u.New Name}) VALUES (1, 4)")
        .unwrap();
    assert_eq!(database.rows("SELECT * FROM {u}"), "1|4|8");
    let error = database
        .sqlite("INSERT INTO {u} ({u.a}, {u.New Name}) VALUES (2, 0)")
        .unwrap_err();
    assert_eq!(
        error.message,
        "new row for relation \"u\" violates check constraint \"positive\""
    );
    assert_eq!(database.fails("ALTER TABLE u RENAME a TO c").0, "42701");
    assert_eq!(
        database.fails("ALTER TABLE t RENAME TO x").1,
        "relation \"t\" does not exist"
    );
    database.check_replay();
}

#[test]
fn self_references_survive_a_rebuild() {
    let mut database = Database::new();
    database.run(&[
        "CREATE TABLE node (id int PRIMARY KEY, parent int REFERENCES node ON DELETE CASCADE)",
    ]);
    database
        .sqlite("INSERT INTO {node} VALUES (1, NULL), (2, 1), (3, 2)")
        .unwrap();
    database.run(&["ALTER TABLE node ADD COLUMN depth int NOT NULL DEFAULT 0"]);
    assert_eq!(
        database.rows("SELECT * FROM {node}"),
        "1|null|0 2|1|0 3|2|0"
    );
    database
        .sqlite("DELETE FROM {node} WHERE {node.id} = 1")
        .unwrap();
    assert_eq!(database.rows("SELECT * FROM {node}"), "");
    database.check_replay();
}

#[test]
fn actions_that_are_not_there_are_named() {
    let mut database = shop();
    for statement in [
        "ALTER TABLE purchase ADD CONSTRAINT x UNIQUE USING INDEX y",
        "ALTER TABLE purchase INHERIT customer",
        "ALTER TABLE purchase SET SCHEMA other",
    ] {
        assert_eq!(database.fails(statement).0, "0A000", "{statement}");
    }
    assert_eq!(
        database
            .fails("ALTER TABLE springhead.consumers ADD COLUMN x int")
            .0,
        "42501"
    );
    assert_eq!(
        database.fails("DROP TABLE springhead.definitions").0,
        "42501"
    );
    assert_eq!(
        database
            .fails("ALTER TABLE purchase DROP CONSTRAINT nope")
            .1,
        "constraint \"nope\" of relation \"purchase\" does not exist"
    );
    database.run(&[
        "ALTER TABLE IF EXISTS nope OWNER TO me",
        "ALTER TABLE IF EXISTS nope ADD COLUMN a int",
    ]);
}
