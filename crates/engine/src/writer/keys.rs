//! Foreign keys: SQLite has all of them deferred and counts; here it is looked which are to hold now.

use libsqlite3_sys as ffi;
use rusqlite::Connection;
use springhead_proto::{ErrorCode, Lsn, SqlError};
use springhead_sql::catalog::{Catalog, ForeignKey};
use springhead_sql::plan::{Write, WriteVerb};

use super::{Done, Writer};
use crate::readers;

impl Writer {
    /// Makes sure that no immediate foreign key is violated now; with `all`, no deferred one either.
    /// `write` is the statement that has just run, if it is one's.
    ///
    /// # Errors
    /// 23503 naming the constraint.
    pub(super) fn check_foreign_keys(
        &self,
        all: bool,
        write: Option<&Write>,
    ) -> Result<(), SqlError> {
        let is_counted = deferred_violations(&self.conn) != 0;
        let recounts = self.owner.as_ref().is_some_and(|owner| owner.recounts_keys);
        if !is_counted && !recounts {
            return Ok(());
        }
        self.context
            .as_engine(|| self.find_violation(all, write, is_counted))
    }

    fn find_violation(
        &self,
        all: bool,
        write: Option<&Write>,
        is_counted: bool,
    ) -> Result<(), SqlError> {
        for table in self
            .catalog
            .tables
            .values()
            .filter(|table| !table.foreign_keys.is_empty())
        {
            let mut check = self
                .conn
                .prepare(&format!(
                    "PRAGMA foreign_key_check({})",
                    table.storage_name()
                ))
                .map_err(|error| readers::translate_plain(&error))?;
            let mut rows = check
                .query([])
                .map_err(|error| readers::translate_plain(&error))?;
            while let Some(row) = rows
                .next()
                .map_err(|error| readers::translate_plain(&error))?
            {
                let (rowid, ordinal): (Option<i64>, u16) = (
                    row.get(1)
                        .map_err(|error| readers::translate_plain(&error))?,
                    row.get(3)
                        .map_err(|error| readers::translate_plain(&error))?,
                );
                // SQLite numbers a table's keys from the last to the first.
                let Some(key) = table.foreign_keys.iter().rev().nth(usize::from(ordinal)) else {
                    continue;
                };
                if all || !self.is_deferred(key) {
                    return Err(self.foreign_key_violation(table, key, rowid, write));
                }
            }
        }
        if all && is_counted {
            return Err(SqlError::new(
                ErrorCode::ForeignKeyViolation,
                "a foreign key constraint is violated",
            ));
        }
        Ok(())
    }

    fn is_deferred(&self, key: &ForeignKey) -> bool {
        if !key.deferrable {
            return false;
        }
        let Some(owner) = &self.owner else {
            return key.initially_deferred;
        };
        let constraints = &owner.constraints;
        constraints
            .named
            .iter()
            .find(|(name, _)| *name == key.name)
            .map(|(_, deferred)| *deferred)
            .or(constraints.all)
            .unwrap_or(key.initially_deferred)
    }

    fn foreign_key_violation(
        &self,
        table: &springhead_sql::catalog::Table,
        key: &ForeignKey,
        rowid: Option<i64>,
        write: Option<&Write>,
    ) -> SqlError {
        let values = rowid.and_then(|rowid| {
            let columns: Vec<String> = key.columns.iter().map(|id| format!("c{id}")).collect();
            let sql = format!(
                "SELECT {} FROM {} WHERE rowid = ?1",
                columns.join(", "),
                table.storage_name()
            );
            let mut statement = self.conn.prepare(&sql).ok()?;
            statement
                .query_row([rowid], |row| {
                    (0..columns.len())
                        .map(|index| {
                            row.get_ref(index).map(|value| {
                                crate::functions::from_sqlite(value).map(|value| value.to_owned())
                            })
                        })
                        .collect::<rusqlite::Result<Result<Vec<_>, _>>>()
                })
                .ok()?
                .ok()
        });
        // The child is at fault if it was written to; otherwise the parent's row is gone.
        let child_changed = match write {
            Some(write) => write.table == table.collection() && write.verb != WriteVerb::Delete,
            None => self.capture.touches(table.collection()),
        };
        springhead_sql::errors::foreign_key_violation(
            &self.catalog,
            table,
            key,
            values.as_deref(),
            child_changed,
        )
    }

    /// SET CONSTRAINTS.
    pub(super) fn set_constraints(
        &mut self,
        names: Option<Vec<String>>,
        deferred: bool,
    ) -> Result<Done, SqlError> {
        let owner = self
            .owner
            .as_mut()
            .expect("only its owner's commands come here");
        match names {
            None => {
                owner.constraints.all = Some(deferred);
                owner.constraints.named.clear();
            }
            Some(names) => {
                for name in names {
                    expect_deferrable(&self.catalog, &name)?;
                    owner.constraints.named.retain(|(known, _)| *known != name);
                    owner.constraints.named.push((name, deferred));
                }
            }
        }
        if !deferred {
            // Those that are immediate from now on.
            self.check_foreign_keys(false, None)?;
        }
        Ok(self.done(Lsn::ZERO))
    }

    /// Notes whether a foreign key is violated for the time being: what is counted now would be lost if
    /// the transaction had to be done again.
    pub(super) fn note_violations(&mut self) {
        let has_violations = deferred_violations(&self.conn) != 0;
        if let Some(owner) = &mut self.owner {
            owner.had_violations |= has_violations;
        }
    }
}

/// # Errors
/// 42704 for an unknown constraint, 42809 for one that cannot be deferred.
fn expect_deferrable(catalog: &Catalog, name: &str) -> Result<(), SqlError> {
    let mut keys = catalog
        .tables
        .values()
        .flat_map(|table| &table.foreign_keys)
        .filter(|key| key.name == name);
    match keys.next() {
        None => Err(SqlError::new(
            ErrorCode::UndefinedObject,
            format!("constraint \"{name}\" does not exist"),
        )),
        Some(key) if !key.deferrable => Err(SqlError::new(
            ErrorCode::WrongObjectType,
            format!("constraint \"{name}\" is not deferrable"),
        )),
        Some(_) => Ok(()),
    }
}

/// How many violations of foreign keys the open transaction still has to resolve; SQLite says only
/// whether there are any.
fn deferred_violations(conn: &Connection) -> i32 {
    let (mut current, mut high) = (0, 0);
    // SAFETY: the handle is open, the two places are ours.
    let code = unsafe {
        ffi::sqlite3_db_status(
            conn.handle(),
            ffi::SQLITE_DBSTATUS_DEFERRED_FKS,
            &raw mut current,
            &raw mut high,
            0,
        )
    };
    debug_assert_eq!(code, ffi::SQLITE_OK);
    current
}
