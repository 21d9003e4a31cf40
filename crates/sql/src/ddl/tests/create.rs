//! CREATE TABLE, INDEX, SEQUENCE, VIEW, and what is said of mistakes in them.

use super::Database;
use crate::catalog::{Catalog, QualifiedName};
use crate::ddl::storage;
use crate::types::PgType;

fn database(statements: &[&str]) -> Database {
    let mut database = Database::new();
    database.run(statements);
    database.check_replay();
    database
}

#[test]
fn the_bootstrap_s_statements_are_what_its_definitions_say() {
    let catalog = Catalog::bootstrap();
    let made: Vec<String> = catalog
        .tables_by_id()
        .into_iter()
        .flat_map(|table| storage::create(&catalog, table).unwrap())
        .collect();
    assert_eq!(Catalog::bootstrap_statements(), made);
    Database::new().check();
}

#[test]
fn a_table_is_stored_under_ids() {
    let database = database(&[
        "CREATE TABLE parent (id bigint PRIMARY KEY, code varchar(8) UNIQUE)",
        "CREATE TABLE child (
            id serial PRIMARY KEY,
            parent_id bigint NOT NULL REFERENCES parent ON DELETE CASCADE,
            code text REFERENCES parent (code) DEFERRABLE INITIALLY DEFERRED,
            amount numeric(10,2) DEFAULT 0 CHECK (amount >= 0),
            twice numeric(10,2) GENERATED ALWAYS AS (amount) STORED,
            made timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT pair UNIQUE (parent_id, code))",
    ]);
    let schema = database.schema().join("\n");
    assert!(
        schema.contains(
            "FOREIGN KEY (c2) REFERENCES t100 (c1) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED"
        ),
        "{schema}"
    );
    let child = database.table("child");
    let names: Vec<&str> = child.constraint_names().collect();
    assert_eq!(
        names,
        [
            "child_pkey",
            "pair",
            "child_amount_check",
            "child_parent_id_fkey",
            "child_code_fkey"
        ]
    );
    assert!(child.key_is_rowid());
    assert!(child.columns[0].not_null);
    assert_eq!(child.columns[0].sequence, Some(103));
    let sequence = database.catalog.sequence(103).unwrap();
    assert_eq!(
        (sequence.name.name.as_str(), sequence.max, sequence.owned_by),
        ("child_id_seq", i64::from(i32::MAX), Some((102, 1)))
    );
    assert!(child.foreign_keys[1].initially_deferred && !child.foreign_keys[0].deferrable);
}

#[test]
fn a_table_without_a_key_gets_a_hidden_one() {
    let database = database(&["CREATE TABLE note (body text, at date)"]);
    let table = database.table("note");
    assert_eq!(
        table
            .columns
            .iter()
            .map(|column| column.hidden)
            .collect::<Vec<_>>(),
        [true, false, false]
    );
    database
        .sqlite("INSERT INTO {note} ({note.body}) VALUES ('a'), ('b')")
        .unwrap();
    assert_eq!(
        database.rows("SELECT c0, {note.body} FROM {note}"),
        "1|a 2|b"
    );
}

#[test]
fn every_type_has_its_storage() {
    let database = database(&["CREATE TABLE kinds (
        a smallint, b int, c bigint, d real, e double precision, f numeric, g numeric(12,3), h boolean,
        i text, j varchar, k varchar(3), l char(4), m bytea, n date, o time, p timestamp, q timestamptz,
        r interval, s uuid, t json, u jsonb, v int[], w text[], x timestamp with time zone, y float(10),
        z character varying(20) NOT NULL DEFAULT 'x', aa smallserial, ab bigserial)"]);
    let kinds = database.table("kinds");
    let types: Vec<&str> = kinds
        .visible_columns()
        .map(|(_, column)| column.pg_type.sqlite_type())
        .collect();
    let (i, r, t, b) = ("INTEGER", "REAL", "TEXT", "BLOB");
    assert_eq!(
        types,
        [
            i, i, i, r, r, b, i, i, t, t, t, t, b, i, i, i, i, b, t, t, t, t, t, i, r, t, i, i
        ]
    );
    assert_eq!(kinds.column_named("ab").unwrap().1.pg_type, PgType::Int8);
}

#[test]
fn keys_of_values_that_are_equal_without_being_identical_are_guarded_by_their_comparable_form() {
    let database = database(&["CREATE TABLE m (n numeric PRIMARY KEY, j jsonb UNIQUE)"]);
    let schema = database.schema().join("\n");
    assert!(
        schema.contains("CREATE UNIQUE INDEX p100 ON t100 (sh_num_key(c1))"),
        "{schema}"
    );
    assert!(schema.contains("(sh_jsonb_key(c2))"), "{schema}");
}

#[test]
fn nulls_not_distinct_takes_one_null() {
    let database = database(&["CREATE TABLE t (a int, b int, UNIQUE NULLS NOT DISTINCT (a, b))"]);
    database
        .sqlite("INSERT INTO {t} ({t.a}) VALUES (1)")
        .unwrap();
    database
        .sqlite("INSERT INTO {t} ({t.a}, {t.b}) VALUES (1, 0)")
        .unwrap();
    let error = database
        .sqlite("INSERT INTO {t} ({t.a}) VALUES (1)")
        .unwrap_err();
    assert_eq!(
        error.message,
        "duplicate key value violates unique constraint \"t_a_b_key\""
    );
}

#[test]
fn indexes_of_all_kinds() {
    let mut database = database(&[
        "CREATE TABLE t (a int PRIMARY KEY, name text, data jsonb, at timestamptz)",
        "CREATE INDEX ON t (name)",
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS by_lower ON t USING btree (lower(name) DESC NULLS LAST, a)",
        "CREATE UNIQUE INDEX one_a ON t (name text_pattern_ops) WHERE a > 0",
        "CREATE INDEX ON t USING gin (data)",
        "CREATE INDEX ON t ((a + 1), at)",
        "CREATE INDEX IF NOT EXISTS one_a ON t (a)",
    ]);
    assert_eq!(
        database.notices,
        ["relation \"one_a\" already exists, skipping"]
    );
    let names: Vec<&str> = database
        .table("t")
        .indexes
        .iter()
        .map(|index| index.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "t_name_idx",
            "by_lower",
            "one_a",
            "t_data_idx",
            "t_expr_at_idx"
        ]
    );
    let schema = database.schema().join("\n");
    assert!(
        schema.contains("CREATE UNIQUE INDEX i103 ON t100 (\"c2\") WHERE "),
        "{schema}"
    );
    assert_eq!(
        database.fails("CREATE INDEX ON t (nope)").1,
        "column \"nope\" does not exist"
    );
    assert_eq!(
        database.fails("CREATE INDEX ON t ((now()))").1,
        "functions in index expression must be marked IMMUTABLE"
    );
    database.run(&[
        "DROP INDEX by_lower, one_a",
        "ALTER INDEX t_name_idx RENAME TO named",
        "DROP INDEX IF EXISTS nix",
    ]);
    database.check_replay();
}

#[test]
fn a_unique_index_over_rows_that_are_there_names_the_duplicate() {
    let mut database = database(&["CREATE TABLE t (a int PRIMARY KEY, b text)"]);
    database
        .sqlite("INSERT INTO {t} VALUES (1, 'x'), (2, 'x')")
        .unwrap();
    let expected = (
        "23505".to_owned(),
        "could not create unique index \"t_b_idx\"".to_owned(),
        Some("Key (b)=(x) is duplicated.".to_owned()),
    );
    assert_eq!(database.fails("CREATE UNIQUE INDEX ON t (b)"), expected);
}

#[test]
fn names_collide_as_in_postgresql() {
    let mut database = database(&[
        "CREATE TABLE t (a int UNIQUE, b int, UNIQUE (a), CHECK (b > 0), CHECK (b < 9))",
    ]);
    let names: Vec<&str> = database.table("t").constraint_names().collect();
    assert_eq!(names, ["t_a_key", "t_b_check", "t_b_check1"]);
    for (statement, state, message) in [
        (
            "CREATE TABLE t (a int)",
            "42P07",
            "relation \"t\" already exists",
        ),
        (
            "CREATE TABLE u (a int, a int)",
            "42701",
            "column \"a\" specified more than once",
        ),
        (
            "CREATE TABLE u (a nope)",
            "42704",
            "type \"nope\" does not exist",
        ),
        (
            "CREATE TABLE u (a int PRIMARY KEY, b int PRIMARY KEY)",
            "42P16",
            "multiple primary keys for table \"u\" are not allowed",
        ),
        (
            "CREATE TABLE u (a int, PRIMARY KEY (b))",
            "42703",
            "column \"b\" named in key does not exist",
        ),
        (
            "CREATE TABLE u (a int REFERENCES nope)",
            "42P01",
            "relation \"nope\" does not exist",
        ),
        (
            "CREATE TABLE u (a int REFERENCES t (b))",
            "42830",
            "there is no unique constraint matching given keys for referenced table \"t\"",
        ),
        (
            "CREATE TABLE u (a int REFERENCES t)",
            "42704",
            "there is no primary key for referenced table \"t\"",
        ),
        (
            "CREATE TABLE u (a text REFERENCES t (a))",
            "42804",
            "foreign key constraint \"u_a_fkey\" cannot be implemented",
        ),
        (
            "CREATE TABLE u (a int DEFAULT 'x')",
            "22P02",
            "invalid input syntax for type integer: \"x\"",
        ),
        (
            "CREATE TABLE u (a int NULL NOT NULL)",
            "42601",
            "conflicting NULL/NOT NULL declarations for column \"a\" of table \"u\"",
        ),
        (
            "CREATE TABLE u (a int CHECK (a + 1))",
            "42804",
            "argument of CHECK must be type boolean, not type integer",
        ),
        (
            "CREATE TABLE nope.u (a int)",
            "3F000",
            "schema \"nope\" does not exist",
        ),
        (
            "CREATE TABLE springhead.u (a int)",
            "42501",
            "permission denied for schema springhead",
        ),
        (
            "CREATE TEMP TABLE u (a int)",
            "0A000",
            "CREATE TEMPORARY TABLE is not supported",
        ),
        (
            "CREATE TYPE mood AS RANGE (subtype = integer)",
            "0A000",
            "CREATE TYPE … AS RANGE is not supported",
        ),
        (
            "CREATE SCHEMA app",
            "0A000",
            "the schema \"app\", or any but public, is not supported",
        ),
    ] {
        let (found, text, _) = database.fails(statement);
        assert_eq!(
            (found.as_str(), text.as_str()),
            (state, message),
            "{statement}"
        );
    }
    database.run(&[
        "CREATE TABLE IF NOT EXISTS t (a int)",
        "CREATE EXTENSION IF NOT EXISTS pgcrypto",
        "CREATE SCHEMA IF NOT EXISTS public",
    ]);
}

#[test]
fn sequences_take_their_options_in_any_order() {
    let mut database = database(&[
        "CREATE SEQUENCE s AS integer START WITH 5 INCREMENT BY 2 NO MINVALUE NO MAXVALUE CACHE 1",
        "CREATE SEQUENCE IF NOT EXISTS down INCREMENT -1 CYCLE",
        "CREATE TABLE t (id integer NOT NULL)",
        "ALTER SEQUENCE s OWNED BY t.id",
        "ALTER TABLE ONLY t ALTER COLUMN id SET DEFAULT nextval('s'::regclass)",
        "ALTER SEQUENCE s RESTART WITH 7 MAXVALUE 100",
        "ALTER SEQUENCE public.s OWNER TO somebody",
        "ALTER SEQUENCE down RENAME TO countdown",
    ]);
    let sequence = database
        .catalog
        .sequence_named(&QualifiedName::public("s"))
        .unwrap();
    assert_eq!(
        (
            sequence.start,
            sequence.increment,
            sequence.min,
            sequence.max
        ),
        (5, 2, 1, 100)
    );
    assert_eq!(database.table("t").columns[1].sequence, Some(sequence.id));
    let down = database
        .catalog
        .sequence_named(&QualifiedName::public("countdown"))
        .unwrap();
    assert_eq!((down.start, down.max, down.cycle), (-1, -1, true));
    let (state, message, detail) = database.fails("DROP SEQUENCE s");
    assert_eq!(state, "2BP01");
    assert_eq!(
        message,
        "cannot drop sequence s because other objects depend on it"
    );
    assert_eq!(
        detail.unwrap(),
        "default value for column id of table t depends on sequence s"
    );
    assert_eq!(
        database.fails("CREATE SEQUENCE z MAXVALUE 0").1,
        "MINVALUE (1) must be less than MAXVALUE (0)"
    );
    database.run(&["DROP SEQUENCE s CASCADE"]);
    assert_eq!(database.table("t").columns[1].sequence, None);
    database.check_replay();
}

#[test]
fn identities_own_their_sequences() {
    let mut database = database(&[
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, other bigint NOT NULL)",
        "ALTER TABLE public.t ALTER COLUMN other ADD GENERATED BY DEFAULT AS IDENTITY (
            SEQUENCE NAME public.t_o START WITH 10 INCREMENT BY 1 NO MINVALUE NO MAXVALUE CACHE 1)",
    ]);
    assert!(database.table("t").columns[0].identity_always);
    assert_eq!(
        database
            .catalog
            .sequence_named(&QualifiedName::public("t_o"))
            .unwrap()
            .start,
        10
    );
    assert_eq!(
        database.fails("DROP SEQUENCE t_o").1,
        "cannot drop sequence t_o because column other of table t requires it"
    );
    database.run(&["ALTER TABLE t ALTER other DROP IDENTITY", "DROP TABLE t"]);
    assert!(
        database.catalog.sequences.is_empty(),
        "sequences go with the table that owns them"
    );
    database.check_replay();
}

#[test]
fn views_keep_their_columns() {
    let mut database = database(&[
        "CREATE TABLE t (a int PRIMARY KEY, b text)",
        "CREATE VIEW v AS SELECT * FROM t WHERE a > 0",
        "CREATE VIEW w (x) AS SELECT count(*) FROM v",
        "ALTER TABLE t ADD COLUMN c int",
        "ALTER TABLE t RENAME TO renamed",
        "CREATE OR REPLACE VIEW w AS SELECT count(*) AS x, 1 AS y FROM v",
    ]);
    let view = database
        .catalog
        .view_named(&QualifiedName::public("v"))
        .unwrap();
    let names: Vec<&str> = view.columns.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(view.depends_on, [100]);
    let (state, _, detail) = database.fails("DROP TABLE renamed");
    assert_eq!(state, "2BP01");
    assert_eq!(
        detail.unwrap(),
        "view v depends on table renamed\nview w depends on view v"
    );
    assert_eq!(
        database
            .fails("CREATE OR REPLACE VIEW w AS SELECT 1 AS x")
            .1,
        "cannot drop columns from view"
    );
    assert_eq!(
        database.fails("CREATE VIEW renamed AS SELECT 1").1,
        "relation \"renamed\" already exists"
    );
    database.run(&["DROP VIEW w", "DROP TABLE renamed CASCADE"]);
    assert!(database.catalog.views.is_empty());
    database.check_replay();
}

#[test]
fn tables_made_of_others() {
    let database = database(&[
        "CREATE TABLE t (a int PRIMARY KEY, b text DEFAULT 'x' CHECK (b <> ''), c int UNIQUE)",
        "CREATE TABLE plain (LIKE t)",
        "CREATE TABLE full_copy (LIKE t INCLUDING ALL EXCLUDING COMMENTS)",
        "CREATE TABLE made AS SELECT a, b FROM t",
    ]);
    assert!(
        database.table("plain").columns[1].not_null && database.table("plain").checks.is_empty()
    );
    let copy = database.table("full_copy");
    assert_eq!(
        copy.constraint_names().collect::<Vec<_>>(),
        ["full_copy_pkey", "full_copy_c_key", "t_b_check"]
    );
    assert_eq!(database.table("made").visible_columns().count(), 2);
}
