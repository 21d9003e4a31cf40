//! Random sequences of DDL over tables with rows: whatever is accepted leaves SQLite's schema and
//! the catalog in step ([`Database::check`] after every statement), loses no row, and replays to the
//! same schema.

use proptest::prelude::*;

use super::Database;

const TABLES: [&str; 3] = ["a", "b", "c"];
const COLUMNS: [&str; 5] = ["id", "x", "y", "z", "w"];
const TYPES: [&str; 7] = [
    "int",
    "bigint",
    "text",
    "varchar(9)",
    "numeric(9,2)",
    "numeric",
    "boolean",
];

fn table() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&TABLES[..])
}

fn column() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&COLUMNS[..])
}

fn pg_type() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&TYPES[..])
}

fn cascade() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&["", " CASCADE"][..])
}

fn statement() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => (table(), pg_type()).prop_map(|(t, p)| format!("CREATE TABLE {t} (id serial PRIMARY KEY, x int, y {p})")),
        1 => (table(), pg_type()).prop_map(|(t, p)| format!("CREATE TABLE {t} (x {p} UNIQUE, y int CHECK (y > 0))")),
        1 => (table(), cascade()).prop_map(|(t, c)| format!("DROP TABLE {t}{c}")),
        3 => (table(), column(), pg_type()).prop_map(|(t, c, p)| format!("ALTER TABLE {t} ADD COLUMN {c} {p}")),
        1 => (table(), column()).prop_map(|(t, c)| format!("ALTER TABLE {t} ADD COLUMN {c} int NOT NULL DEFAULT 4")),
        1 => (table(), column()).prop_map(|(t, c)| format!("ALTER TABLE {t} ADD COLUMN {c} serial")),
        2 => (table(), column(), cascade()).prop_map(|(t, c, k)| format!("ALTER TABLE {t} DROP COLUMN {c}{k}")),
        2 => (table(), column(), column()).prop_map(|(t, c, d)| format!("ALTER TABLE {t} RENAME COLUMN {c} TO {d}")),
        1 => (table(), table()).prop_map(|(t, u)| format!("ALTER TABLE {t} RENAME TO {u}")),
        3 => (table(), column(), pg_type()).prop_map(|(t, c, p)| format!("ALTER TABLE {t} ALTER COLUMN {c} TYPE {p}")),
        1 => (table(), column(), pg_type()).prop_map(|(t, c, p)| format!("ALTER TABLE {t} ALTER COLUMN {c} TYPE {p} USING NULL")),
        2 => (table(), column()).prop_map(|(t, c)| format!("ALTER TABLE {t} ALTER COLUMN {c} SET NOT NULL")),
        1 => (table(), column()).prop_map(|(t, c)| format!("ALTER TABLE {t} ALTER COLUMN {c} DROP NOT NULL")),
        1 => (table(), column()).prop_map(|(t, c)| format!("ALTER TABLE {t} ALTER COLUMN {c} SET DEFAULT 1")),
        2 => (table(), column()).prop_map(|(t, c)| format!("ALTER TABLE {t} ADD UNIQUE ({c})")),
        2 => (table(), column(), column()).prop_map(|(t, c, d)| format!("ALTER TABLE {t} ADD PRIMARY KEY ({c}, {d})")),
        2 => (table(), column()).prop_map(|(t, c)| format!("ALTER TABLE {t} ADD PRIMARY KEY ({c})")),
        1 => (table(), column()).prop_map(|(t, c)| format!("ALTER TABLE {t} ADD CHECK ({c} IS NULL OR {c} = {c})")),
        3 => (table(), column(), table()).prop_map(|(t, c, u)| format!("ALTER TABLE {t} ADD FOREIGN KEY ({c}) REFERENCES {u} ON DELETE SET NULL")),
        2 => (table(), cascade()).prop_map(|(t, c)| format!("ALTER TABLE {t} DROP CONSTRAINT {t}_pkey{c}")),
        2 => (table(), column(), cascade()).prop_map(|(t, c, k)| format!("ALTER TABLE {t} DROP CONSTRAINT {t}_{c}_key{k}")),
        1 => (table(), column()).prop_map(|(t, c)| format!("ALTER TABLE {t} DROP CONSTRAINT {t}_{c}_fkey")),
        2 => (table(), column(), column()).prop_map(|(t, c, d)| format!("CREATE INDEX ON {t} ({c}, {d} DESC)")),
        1 => (table(), column()).prop_map(|(t, c)| format!("CREATE UNIQUE INDEX ON {t} ({c}) WHERE {c} IS NOT NULL")),
        1 => (table(), column()).prop_map(|(t, c)| format!("DROP INDEX {t}_{c}_idx")),
        1 => (table(), cascade()).prop_map(|(t, k)| format!("DROP SEQUENCE {t}_id_seq{k}")),
        1 => (table(), column()).prop_map(|(t, c)| format!("CREATE VIEW v_{t} AS SELECT {c} FROM {t}")),
        2 => (table(), column(), column(), pg_type()).prop_map(|(t, c, d, p)| format!(
            "ALTER TABLE {t} ADD COLUMN {c} {p}, DROP COLUMN {d}, ADD UNIQUE ({c})"
        )),
    ]
}

/// One row more in every table: NULL where it may be.
fn insert_rows(database: &Database, number: usize) {
    for table in database
        .catalog
        .tables
        .values()
        .filter(|table| !table.collection().is_system())
    {
        let (mut columns, mut values) = (Vec::new(), Vec::new());
        for column in table
            .columns
            .iter()
            .filter(|column| column.not_null && !column.hidden)
        {
            columns.push(column.storage_name());
            values.push(match column.pg_type.sqlite_type() {
                "TEXT" => format!("'{number}'"),
                "BLOB" => format!("sh_num_from_int({number})"),
                _ => number.to_string(),
            });
        }
        let sql = if columns.is_empty() {
            format!(
                "INSERT OR IGNORE INTO {} DEFAULT VALUES",
                table.storage_name()
            )
        } else {
            format!(
                "INSERT OR IGNORE INTO {} ({}) VALUES ({})",
                table.storage_name(),
                columns.join(", "),
                values.join(", ")
            )
        };
        // A row whose parent is not there is refused, which is as good as any.
        let _refused = database.connection.execute_batch(&sql);
    }
}

fn counts(database: &Database) -> Vec<(u32, String)> {
    let tables = database.catalog.tables_by_id();
    tables
        .iter()
        .map(|table| {
            (
                table.id,
                database.rows(&format!("SELECT count(*) FROM {}", table.storage_name())),
            )
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn random_ddl_keeps_catalog_schema_and_rows_in_step(statements in prop::collection::vec(statement(), 1..40)) {
        let mut database = Database::new();
        database.run(&["CREATE TABLE a (id serial PRIMARY KEY, x int, y text)", "CREATE TABLE b (x int UNIQUE, y int)"]);
        for (number, statement) in statements.iter().enumerate() {
            insert_rows(&database, number + 1);
            let before = counts(&database);
            if database.try_run(statement).is_ok() {
                let after = counts(&database);
                for (id, count) in &before {
                    if let Some((_, now)) = after.iter().find(|(other, _)| other == id) {
                        prop_assert_eq!(count, now, "{} lost or made rows of t{}", statement, id);
                    }
                }
            }
        }
        database.check_replay();
    }
}
