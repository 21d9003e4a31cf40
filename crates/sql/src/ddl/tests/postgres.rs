//! What PostgreSQL 15 answers to the same statements, word for word (recorded from `psql` with
//! VERBOSITY verbose): code, message and detail.

use super::Database;

/// Code, message and detail; `None` if it takes the statement.
type Answer = Option<(&'static str, &'static str, Option<&'static str>)>;

const SCRIPT: &[(&str, Answer)] = &[
    (
        "CREATE TABLE t (a int UNIQUE, b int, UNIQUE (a), CHECK (b > 0), CHECK (b < 9))",
        None,
    ),
    (
        "CREATE TABLE t (a int)",
        Some(("42P07", "relation \"t\" already exists", None)),
    ),
    (
        "CREATE TABLE u (a int, a int)",
        Some(("42701", "column \"a\" specified more than once", None)),
    ),
    (
        "CREATE TABLE u (a int PRIMARY KEY, b int PRIMARY KEY)",
        Some((
            "42P16",
            "multiple primary keys for table \"u\" are not allowed",
            None,
        )),
    ),
    (
        "CREATE TABLE u (a int, PRIMARY KEY (b))",
        Some(("42703", "column \"b\" named in key does not exist", None)),
    ),
    (
        "CREATE TABLE u (a int REFERENCES nope)",
        Some(("42P01", "relation \"nope\" does not exist", None)),
    ),
    (
        "CREATE TABLE u (a int REFERENCES t (b))",
        Some((
            "42830",
            "there is no unique constraint matching given keys for referenced table \"t\"",
            None,
        )),
    ),
    (
        "CREATE TABLE u (a int REFERENCES t)",
        Some((
            "42704",
            "there is no primary key for referenced table \"t\"",
            None,
        )),
    ),
    (
        "CREATE TABLE u (a text REFERENCES t (a))",
        Some((
            "42804",
            "foreign key constraint \"u_a_fkey\" cannot be implemented",
            Some("Key columns \"a\" and \"a\" are of incompatible types: text and integer."),
        )),
    ),
    (
        "CREATE TABLE u (a int DEFAULT 'x')",
        Some((
            "22P02",
            "invalid input syntax for type integer: \"x\"",
            None,
        )),
    ),
    (
        "CREATE TABLE u (a int NULL NOT NULL)",
        Some((
            "42601",
            "conflicting NULL/NOT NULL declarations for column \"a\" of table \"u\"",
            None,
        )),
    ),
    (
        "CREATE TABLE u (a int CHECK (a + 1))",
        Some((
            "42804",
            "argument of CHECK must be type boolean, not type integer",
            None,
        )),
    ),
    (
        "CREATE TABLE u (a int DEFAULT true)",
        Some((
            "42804",
            "column \"a\" is of type integer but default expression is of type boolean",
            None,
        )),
    ),
    (
        "CREATE TABLE u (a int, UNIQUE (a, a))",
        Some((
            "42701",
            "column \"a\" appears twice in unique constraint",
            None,
        )),
    ),
    (
        "CREATE TABLE u (a int GENERATED ALWAYS AS (random()) STORED)",
        Some(("42P17", "generation expression is not immutable", None)),
    ),
    (
        "CREATE TABLE u (a int, b int GENERATED ALWAYS AS (a) STORED, c int GENERATED ALWAYS AS (b) STORED)",
        Some((
            "42P17",
            "cannot use generated column \"b\" in column generation expression",
            Some("A generated column cannot reference another generated column."),
        )),
    ),
    (
        "CREATE TABLE u (a int DEFAULT b)",
        Some((
            "0A000",
            "cannot use column reference in DEFAULT expression",
            None,
        )),
    ),
    (
        "CREATE TABLE u (a serial DEFAULT 3)",
        Some((
            "42601",
            "multiple default values specified for column \"a\" of table \"u\"",
            None,
        )),
    ),
    (
        "CREATE TABLE u (a text GENERATED ALWAYS AS IDENTITY)",
        Some((
            "22023",
            "identity column type must be smallint, integer, or bigint",
            None,
        )),
    ),
    (
        "CREATE INDEX ON t (nope)",
        Some(("42703", "column \"nope\" does not exist", None)),
    ),
    (
        "CREATE INDEX ON t ((now()))",
        Some((
            "42P17",
            "functions in index expression must be marked IMMUTABLE",
            None,
        )),
    ),
    (
        "CREATE SEQUENCE z MAXVALUE 0",
        Some(("22023", "MINVALUE (1) must be less than MAXVALUE (0)", None)),
    ),
    (
        "CREATE TABLE c (id int primary key, t_a int references t(a))",
        None,
    ),
    (
        "DROP TABLE t",
        Some((
            "2BP01",
            "cannot drop table t because other objects depend on it",
            Some("constraint c_t_a_fkey on table c depends on table t"),
        )),
    ),
    (
        "ALTER TABLE t DROP CONSTRAINT t_a_key",
        Some((
            "2BP01",
            "cannot drop constraint t_a_key on table t because other objects depend on it",
            Some("constraint c_t_a_fkey on table c depends on index t_a_key"),
        )),
    ),
    (
        "ALTER TABLE t DROP COLUMN a",
        Some((
            "2BP01",
            "cannot drop column a of table t because other objects depend on it",
            Some("constraint c_t_a_fkey on table c depends on column a of table t"),
        )),
    ),
    (
        "ALTER TABLE t DROP COLUMN nope",
        Some((
            "42703",
            "column \"nope\" of relation \"t\" does not exist",
            None,
        )),
    ),
    (
        "ALTER TABLE t ADD COLUMN b int",
        Some((
            "42701",
            "column \"b\" of relation \"t\" already exists",
            None,
        )),
    ),
    ("ALTER TABLE t ADD COLUMN IF NOT EXISTS b int", None),
    (
        "ALTER TABLE t RENAME nope TO x",
        Some(("42703", "column \"nope\" does not exist", None)),
    ),
    (
        "ALTER TABLE t RENAME CONSTRAINT nope TO x",
        Some((
            "42704",
            "constraint \"nope\" for table \"t\" does not exist",
            None,
        )),
    ),
    (
        "ALTER TABLE t RENAME a TO b",
        Some((
            "42701",
            "column \"b\" of relation \"t\" already exists",
            None,
        )),
    ),
    (
        "ALTER TABLE t DROP CONSTRAINT nope",
        Some((
            "42704",
            "constraint \"nope\" of relation \"t\" does not exist",
            None,
        )),
    ),
    ("ALTER TABLE t DROP CONSTRAINT IF EXISTS nope", None),
    (
        "ALTER TABLE c ALTER id DROP NOT NULL",
        Some(("42P16", "column \"id\" is in a primary key", None)),
    ),
    (
        "ALTER TABLE c ALTER nope SET NOT NULL",
        Some((
            "42703",
            "column \"nope\" of relation \"c\" does not exist",
            None,
        )),
    ),
    (
        "ALTER TABLE c ALTER COLUMN id TYPE uuid",
        Some((
            "42804",
            "column \"id\" cannot be cast automatically to type uuid",
            None,
        )),
    ),
    (
        "ALTER TABLE nope ADD COLUMN a int",
        Some(("42P01", "relation \"nope\" does not exist", None)),
    ),
    ("ALTER TABLE IF EXISTS nope ADD COLUMN a int", None),
    (
        "DROP TABLE nope",
        Some(("42P01", "table \"nope\" does not exist", None)),
    ),
    ("DROP TABLE IF EXISTS nope", None),
    ("DROP VIEW t", Some(("42809", "\"t\" is not a view", None))),
    (
        "DROP INDEX nope",
        Some(("42704", "index \"nope\" does not exist", None)),
    ),
    (
        "DROP INDEX c_pkey",
        Some((
            "2BP01",
            "cannot drop index c_pkey because constraint c_pkey on table c requires it",
            None,
        )),
    ),
    (
        "DROP SEQUENCE t",
        Some(("42809", "\"t\" is not a sequence", None)),
    ),
    (
        "CREATE VIEW v AS SELECT a, a FROM t",
        Some(("42701", "column \"a\" specified more than once", None)),
    ),
    ("CREATE VIEW v AS SELECT a FROM t", None),
    (
        "CREATE OR REPLACE VIEW v AS SELECT a AS z FROM t",
        Some((
            "42P16",
            "cannot change name of view column \"a\" to \"z\"",
            None,
        )),
    ),
    (
        "ALTER TABLE t ALTER COLUMN a TYPE bigint",
        Some((
            "0A000",
            "cannot alter type of a column used by a view or rule",
            Some("rule _RETURN on view v depends on column \"a\""),
        )),
    ),
    (
        "CREATE TABLE g (a int, b int generated always as (a) stored)",
        None,
    ),
    (
        "ALTER TABLE g ALTER a TYPE bigint",
        Some((
            "0A000",
            "cannot alter type of a column used by a generated column",
            Some("Column \"a\" is used by generated column \"b\"."),
        )),
    ),
    (
        "ALTER TABLE g ALTER b SET DEFAULT 3",
        Some((
            "42601",
            "column \"b\" of relation \"g\" is a generated column",
            None,
        )),
    ),
    ("CREATE TABLE s (id serial)", None),
    (
        "DROP SEQUENCE s_id_seq",
        Some((
            "2BP01",
            "cannot drop sequence s_id_seq because other objects depend on it",
            Some("default value for column id of table s depends on sequence s_id_seq"),
        )),
    ),
    ("DROP TABLE t CASCADE", None),
];

#[test]
fn errors_are_postgresql_s_word_for_word() {
    let mut database = Database::new();
    for (statement, expected) in SCRIPT {
        match expected {
            None => database.run(&[statement]),
            Some((state, message, detail)) => {
                let found = database.fails(statement);
                let found = (found.0.as_str(), found.1.as_str(), found.2.as_deref());
                assert_eq!(found, (*state, *message, *detail), "{statement}");
            }
        }
    }
    database.check_replay();
}
