//! DDL planned and run: on SQLite in memory, with the guard that the engine puts around rebuilds.

mod alter;
mod create;
mod dump;
mod errors;
mod postgres;
mod random;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rusqlite::config::DbConfig;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::Value as Sqlite;
use rusqlite::{Connection, ErrorCode as SqliteCode};
use springhead_proto::{ErrorCode, SqlError, Value, ValueRef};

use super::storage;
use crate::catalog::{Catalog, Definition, DefinitionRecord, Table};
use crate::errors::translate_ddl;
use crate::plan::{Ddl, PlanKind, Validation};
use crate::planner::{PlanContext, plan};

/// A database, its catalog, and what replay would be given.
struct Database {
    connection: Connection,
    catalog: Arc<Catalog>,
    /// The records of every statement that committed.
    records: Vec<DefinitionRecord>,
    notices: Vec<String>,
}

impl Database {
    fn new() -> Database {
        let connection = open();
        for statement in Catalog::bootstrap_statements() {
            connection.execute_batch(&statement).unwrap();
        }
        Database {
            connection,
            catalog: Arc::new(Catalog::bootstrap()),
            records: Vec::new(),
            notices: Vec::new(),
        }
    }

    /// Runs statements that must succeed.
    fn run(&mut self, statements: &[&str]) {
        for statement in statements {
            if let Err(error) = self.try_run(statement) {
                panic!(
                    "{statement}\n  {}: {error} {:?}",
                    error.code.sqlstate(),
                    error.detail
                );
            }
        }
    }

    /// Runs one statement that must fail: its SQLSTATE, message and detail.
    fn fails(&mut self, statement: &str) -> (String, String, Option<String>) {
        let before = self.schema();
        let error = self.try_run(statement).expect_err(statement);
        assert_eq!(self.schema(), before, "a failed statement changes nothing");
        (
            error.code.sqlstate().to_string(),
            error.message.clone(),
            error.detail.clone(),
        )
    }

    fn try_run(&mut self, statement: &str) -> Result<(), SqlError> {
        let planned = plan(&self.catalog, statement, &[], &PlanContext::default())?;
        let PlanKind::Ddl(ddl) = planned.kind else {
            return match planned.kind {
                PlanKind::NoEffect(_) => Ok(()),
                other => panic!("{statement} is no DDL but {other:?}"),
            };
        };
        self.connection
            .execute_batch("SAVEPOINT statement")
            .unwrap();
        match self.execute(&ddl) {
            Ok(()) => self.connection.execute_batch("RELEASE statement").unwrap(),
            Err(error) => {
                self.connection
                    .execute_batch("ROLLBACK TO statement; RELEASE statement")
                    .unwrap();
                return Err(error);
            }
        }
        self.records.extend(DefinitionRecord::of(&ddl));
        self.catalog = Arc::clone(&ddl.catalog);
        self.notices.extend(ddl.notices.iter().cloned());
        self.check();
        Ok(())
    }

    fn execute(&self, ddl: &Ddl) -> Result<(), SqlError> {
        self.validate(&ddl.preconditions)?;
        run_statements(&self.connection, &ddl.statements, ddl.rebuilds)
            .map_err(|error| describe(&ddl.catalog, &error))?;
        self.validate(&ddl.validations)?;
        for id in &ddl.check_foreign_keys {
            let violated = rows(
                &self.connection,
                &format!("PRAGMA foreign_key_check(t{id})"),
            );
            assert!(
                violated.is_empty(),
                "validations name what foreign_key_check finds: {violated:?}"
            );
        }
        for update in &ddl.updates {
            self.connection
                .execute_batch(update)
                .map_err(|error| describe(&ddl.catalog, &error))?;
        }
        Ok(())
    }

    fn validate(&self, validations: &[Validation]) -> Result<(), SqlError> {
        for validation in validations {
            if let Some(row) = rows(&self.connection, &validation.sql).first() {
                let values: Vec<Value> = row.iter().map(from_sqlite).collect();
                return Err(validation.error(&values.iter().map(Value::as_ref).collect::<Vec<_>>()));
            }
        }
        Ok(())
    }

    /// What must always hold: SQLite's schema is what a fresh database made of the definitions would
    /// have, and the catalog is what its definitions add up to.
    fn check(&self) {
        let fresh = open();
        for table in self.catalog.tables_by_id() {
            for statement in storage::create(&self.catalog, table).unwrap() {
                fresh.execute_batch(&statement).unwrap();
            }
        }
        assert_eq!(normal(&schema(&self.connection)), normal(&schema(&fresh)));

        let again = Catalog::from_definitions(
            self.catalog.definitions(),
            self.catalog.version,
            self.catalog.next_id,
        );
        assert_eq!(again.hash(), self.catalog.hash());
        assert_eq!(again.relations, self.catalog.relations);
        for table in self.catalog.tables.values() {
            assert_eq!(
                again.children(table.collection()),
                self.catalog.children(table.collection())
            );
            assert_eq!(
                table.columns.iter().filter(|column| column.hidden).count(),
                usize::from(!table.has_declared_key())
            );
        }
    }

    /// Runs the recorded statements on a second database, and compares the two.
    fn check_replay(&self) {
        let replayed = open();
        for statement in Catalog::bootstrap_statements() {
            replayed.execute_batch(&statement).unwrap();
        }
        let mut definitions: BTreeMap<u32, Option<Definition>> = BTreeMap::new();
        let (mut version, mut next_id) = (1, 0);
        for record in &self.records {
            let values = record.values();
            let values: Vec<ValueRef<'_>> = values.iter().map(Value::as_ref).collect();
            let read = DefinitionRecord::from_values(&values).expect("a record reads back");
            assert_eq!(read, *record);
            run_statements(&replayed, &read.payload.statements, read.payload.rebuilds).unwrap();
            (version, next_id) = (read.catalog_version, read.payload.next_id);
            let definition = (read.action == crate::plan::DefinitionAction::Put)
                .then_some(read.payload.definition);
            definitions.insert(read.id, definition);
        }
        assert_eq!(
            schema(&replayed),
            schema(&self.connection),
            "replay runs exactly what ran"
        );
        let catalog =
            Catalog::from_definitions(definitions.into_values().flatten(), version, next_id);
        assert_eq!(catalog.hash(), self.catalog.hash());
        assert_eq!(
            (catalog.version, catalog.next_id),
            (self.catalog.version, self.catalog.next_id)
        );
    }

    fn table(&self, name: &str) -> &Arc<Table> {
        self.catalog
            .expect_table(&crate::catalog::QualifiedName::public(name))
            .unwrap()
    }

    /// Runs SQLite text in which `{table}` and `{table.column}` stand for storage names.
    fn sqlite(&self, text: &str) -> Result<(), SqlError> {
        self.connection
            .execute_batch(&self.stored(text))
            .map_err(|error| describe_row(&self.catalog, &error))
    }

    fn rows(&self, text: &str) -> String {
        let rows = rows(&self.connection, &self.stored(text));
        let row = |row: &Vec<Sqlite>| row.iter().map(show).collect::<Vec<_>>().join("|");
        rows.iter().map(row).collect::<Vec<_>>().join(" ")
    }

    fn stored(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').unwrap();
            out.push_str(before);
            match name.split_once('.') {
                Some((table, column)) => {
                    out.push_str(
                        &self
                            .table(table)
                            .expect_column(column)
                            .unwrap()
                            .1
                            .storage_name(),
                    );
                }
                None => out.push_str(&self.table(name).storage_name()),
            }
            rest = after;
        }
        out.push_str(rest);
        out
    }

    fn schema(&self) -> Vec<String> {
        schema(&self.connection)
    }
}

/// As the engine does it.
fn run_statements(
    connection: &Connection,
    statements: &[String],
    rebuilds: bool,
) -> rusqlite::Result<()> {
    let guard = |on: bool| {
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, !on)
            .unwrap();
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_LEGACY_ALTER_TABLE, on)
            .unwrap();
    };
    guard(rebuilds);
    let ran = statements
        .iter()
        .try_for_each(|statement| connection.execute_batch(statement));
    guard(false);
    ran
}

fn open() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true)
        .unwrap();
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)
        .unwrap();
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)
        .unwrap();
    for scalar in crate::functions::scalars() {
        let mut flags = FunctionFlags::SQLITE_UTF8;
        flags.set(FunctionFlags::SQLITE_DETERMINISTIC, scalar.deterministic);
        connection
            .create_scalar_function(scalar.name, scalar.args, flags, move |context| {
                let values: Vec<Value> = (0..context.len())
                    .map(|index| from_raw(context.get_raw(index)))
                    .collect();
                let values: Vec<ValueRef<'_>> = values.iter().map(Value::as_ref).collect();
                (scalar.call)(&values)
                    .map(|value| to_sqlite(&value))
                    .map_err(|error| rusqlite::Error::UserFunctionError(error.to_string().into()))
            })
            .unwrap();
    }
    let counter = AtomicI64::new(0);
    connection
        .create_scalar_function("sh_nextval", 1, FunctionFlags::SQLITE_UTF8, move |_| {
            Ok(counter.fetch_add(1, Ordering::Relaxed) + 1)
        })
        .unwrap();
    let uuids = AtomicI64::new(0);
    connection
        .create_scalar_function(
            "sh_gen_random_uuid",
            0,
            FunctionFlags::SQLITE_UTF8,
            move |_| Ok(format!("uuid-{}", uuids.fetch_add(1, Ordering::Relaxed))),
        )
        .unwrap();
    connection
        .create_scalar_function("sh_now", 0, FunctionFlags::SQLITE_UTF8, |_| {
            Ok(1_700_000_000_000_000_i64)
        })
        .unwrap();
    connection
}

fn from_raw(value: rusqlite::types::ValueRef<'_>) -> Value {
    from_sqlite(&Sqlite::try_from(value).expect("SQLite gives UTF-8"))
}

fn from_sqlite(value: &Sqlite) -> Value {
    match value {
        Sqlite::Null => Value::Null,
        Sqlite::Integer(value) => Value::Integer(*value),
        Sqlite::Real(value) => Value::Real(*value),
        Sqlite::Text(value) => Value::Text(value.clone()),
        Sqlite::Blob(value) => Value::Blob(value.clone()),
    }
}

fn to_sqlite(value: &Value) -> Sqlite {
    match value {
        Value::Null => Sqlite::Null,
        Value::Integer(value) => Sqlite::Integer(*value),
        Value::Real(value) => Sqlite::Real(*value),
        Value::Text(value) => Sqlite::Text(value.clone()),
        Value::Blob(value) => Sqlite::Blob(value.clone()),
    }
}

fn show(value: &Sqlite) -> String {
    match value {
        Sqlite::Null => "null".to_owned(),
        Sqlite::Integer(value) => value.to_string(),
        Sqlite::Real(value) => format!("{value:?}"),
        Sqlite::Text(value) => value.clone(),
        Sqlite::Blob(value) => format!("{value:02x?}"),
    }
}

fn rows(connection: &Connection, sql: &str) -> Vec<Vec<Sqlite>> {
    let mut statement = connection
        .prepare(sql)
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    let count = statement.column_count();
    let rows = statement
        .query_map([], |row| (0..count).map(|index| row.get(index)).collect())
        .unwrap();
    rows.map(|row| row.unwrap()).collect()
}

fn schema(connection: &Connection) -> Vec<String> {
    let sql = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name";
    rows(connection, sql)
        .iter()
        .map(|row| show(&row[0]))
        .collect()
}

/// ALTER TABLE … RENAME quotes the name, and ADD COLUMN appends to the text.
fn normal(schema: &[String]) -> Vec<String> {
    schema
        .iter()
        .map(|sql| {
            sql.replacen("CREATE TABLE \"", "CREATE TABLE ", 1)
                .replacen("\" (", " (", 1)
        })
        .collect()
}

fn describe(catalog: &Catalog, error: &rusqlite::Error) -> SqlError {
    match error {
        rusqlite::Error::SqliteFailure(failure, message) => {
            assert!(
                matches!(
                    failure.code,
                    SqliteCode::ConstraintViolation | SqliteCode::Unknown
                ),
                "SQLite refuses what was planned: {error}"
            );
            let message = message.as_deref().unwrap_or("");
            // A function's error travels beside SQLite's; here its text is enough.
            if failure.code == SqliteCode::Unknown {
                assert!(
                    !message.contains("syntax error") && !message.contains("no such"),
                    "{message}"
                );
                return SqlError::new(ErrorCode::InvalidTextRepresentation, message);
            }
            translate_ddl(catalog, failure.extended_code, message)
        }
        other => panic!("{other}"),
    }
}

fn describe_row(catalog: &Catalog, error: &rusqlite::Error) -> SqlError {
    match error {
        rusqlite::Error::SqliteFailure(failure, Some(message)) => {
            crate::errors::translate(catalog, failure.extended_code, message)
        }
        other => panic!("{other}"),
    }
}
