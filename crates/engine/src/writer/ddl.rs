//! How a DDL statement runs: SQLite's own statements under a guard, the checks of what was there
//! before, the rows of `springhead.definitions`, and one DEFINITION change each.

use std::sync::Arc;

use springhead_proto::{ChangeKind, CollectionId, ErrorCode, Row, SchemaVersion, SqlError};
use springhead_sql::catalog::{Definition, DefinitionRecord};
use springhead_sql::plan::{Ddl, DefinitionAction, Validation};

use super::Writer;
use super::run::Executed;
use crate::apply::set_foreign_keys;
use crate::definitions;
use crate::functions;
use crate::readers::Failure;

impl Writer {
    pub(crate) fn execute_ddl(&mut self, ddl: &Ddl) -> Result<Executed, Failure> {
        if self.config.device {
            super::device::define::expect_own(ddl)?;
        }
        let context = Arc::clone(&self.context);
        context.as_engine(|| self.run_ddl(ddl))
    }

    fn run_ddl(&mut self, ddl: &Ddl) -> Result<Executed, Failure> {
        let before = Arc::clone(&self.catalog);
        self.conn
            .prepare_cached("SAVEPOINT statement")?
            .execute([])?;
        let defined = self.define(ddl);
        let mut affected = 0;
        let result = defined.and_then(|()| {
            self.adopt(&ddl.catalog, Some(&before));
            if let Some(book) = &self.context.sequences {
                let mut book = book.lock();
                for &(sequence, next) in &ddl.sequence_restarts {
                    book.restart_at(sequence, next);
                }
            }
            for update in &ddl.updates {
                self.conn.execute_batch(update)?;
                affected = self.conn.changes();
            }
            self.capture.check()?;
            Ok(())
        });
        let result = self.end_savepoint(result);
        if result.is_err() && self.catalog.version != before.version {
            self.adopt(&before, None);
        }
        // A rebuild fires no triggers.
        self.context.fired.truncate(0);
        result?;
        let notices = ddl
            .notices
            .iter()
            .map(|text| springhead_sql::errors::definition_notice(text))
            .collect();
        Ok(Executed {
            affected,
            notices,
            catalog: Some(Arc::clone(&self.catalog)),
            ..Executed::default()
        })
    }

    fn define(&mut self, ddl: &Ddl) -> Result<(), Failure> {
        self.validate(&ddl.preconditions)?;
        self.capture.enabled = false;
        let restructured = self.restructure(ddl);
        self.capture.enabled = true;
        restructured?;
        self.validate(&ddl.validations)?;
        for &table in &ddl.check_foreign_keys {
            self.check_table(ddl, table)?;
        }
        for (record, change) in DefinitionRecord::of(ddl).iter().zip(&ddl.changes) {
            self.capture.enabled = false;
            let stored = definitions::store(&self.conn, record);
            self.capture.enabled = true;
            stored?;
            self.defined.extend(definitions::table(record));
            let version = match &change.definition {
                Definition::Table(table) => table.version(),
                _ => ddl
                    .catalog
                    .table(change.collection)
                    .map_or(SchemaVersion(1), |table| table.version()),
            };
            let values = record.values();
            let row = Row::from_values(values.iter().map(springhead_proto::Value::as_ref));
            self.capture.push(
                ChangeKind::Definition,
                change.collection,
                version,
                Some(row.bytes()),
            );
            if let (Definition::Table(table), DefinitionAction::Drop) =
                (&change.definition, change.action)
            {
                self.capture.remove_table(table.collection());
            }
        }
        Ok(())
    }

    /// Runs SQLite's statements. A rebuild drops and renames tables, which must neither cascade nor
    /// rewrite what refers to them; whatever happens, the guard is taken down again.
    fn restructure(&self, ddl: &Ddl) -> Result<(), Failure> {
        if ddl.rebuilds {
            set_foreign_keys(&self.conn, false)?;
            self.conn.execute_batch("PRAGMA legacy_alter_table=ON")?;
        }
        let ran = ddl.statements.iter().try_for_each(|statement| {
            self.conn
                .execute_batch(statement)
                .map_err(|error| self.describe_ddl(ddl, error))
        });
        if ddl.rebuilds {
            let restored = set_foreign_keys(&self.conn, true)
                .and_then(|()| self.conn.execute_batch("PRAGMA legacy_alter_table=OFF"));
            ran?;
            restored?;
        } else {
            ran?;
        }
        Ok(())
    }

    /// What existing rows have against a new definition, in PostgreSQL's words.
    fn describe_ddl(&self, ddl: &Ddl, error: rusqlite::Error) -> Failure {
        match (self.context.take_error(), error) {
            (Some(error), _) => Failure::Sql(error),
            (None, error) if crate::checksum::is_damage(&error) => Failure::Sqlite(error),
            (None, rusqlite::Error::SqliteFailure(failure, Some(message))) => {
                Failure::Sql(springhead_sql::errors::translate_ddl(
                    &ddl.catalog,
                    failure.extended_code,
                    &message,
                ))
            }
            (None, error) => Failure::Sqlite(error),
        }
    }

    fn validate(&self, validations: &[Validation]) -> Result<(), Failure> {
        for validation in validations {
            let mut statement = self.conn.prepare(&validation.sql)?;
            let columns = statement.column_count();
            let mut rows = statement.query([])?;
            if let Some(row) = rows.next()? {
                let mut values = Vec::with_capacity(columns);
                for index in 0..columns {
                    values.push(functions::from_sqlite(row.get_ref(index)?)?.to_owned());
                }
                let values: Vec<_> = values.iter().map(springhead_proto::Value::as_ref).collect();
                return Err(validation.error(&values).into());
            }
        }
        Ok(())
    }

    fn check_table(&self, ddl: &Ddl, table: CollectionId) -> Result<(), Failure> {
        let Some(table) = ddl.catalog.tables.get(&table) else {
            return Ok(());
        };
        let mut check = self.conn.prepare(&format!(
            "PRAGMA foreign_key_check({})",
            table.storage_name()
        ))?;
        let mut rows = check.query([])?;
        if let Some(row) = rows.next()? {
            let ordinal: u16 = row.get(3)?;
            let key = table
                .foreign_keys
                .iter()
                .rev()
                .nth(usize::from(ordinal))
                .ok_or_else(|| {
                    SqlError::new(
                        ErrorCode::ForeignKeyViolation,
                        "a foreign key constraint is violated",
                    )
                })?;
            return Err(springhead_sql::errors::foreign_key_violation(
                &ddl.catalog,
                table,
                key,
                None,
                true,
            )
            .into());
        }
        Ok(())
    }
}
