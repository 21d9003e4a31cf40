//! Foreign keys: SQLite has all of them deferred and counts; here it is looked which are to hold now.

use libsqlite3_sys as ffi;
use rusqlite::Connection;
use springhead_proto::{ChangeRef, ErrorCode, Lsn, RowRef, SqlError, Value};
use springhead_sql::catalog::{Catalog, ForeignKey, ReferentialAction, Table};
use springhead_sql::plan::{Write, WriteVerb};

use super::{DeferredConstraints, Done, Writer};
use crate::capture::Capture;
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
        self.context.as_engine(|| {
            let constraints = self.owner.as_ref().map(|owner| &owner.constraints);
            find_violation(
                &self.conn,
                &self.catalog,
                &|key| all || !is_deferred(key, constraints),
                &|table| match write {
                    Some(write) => is_child_of(write, table),
                    None => self.capture.touches(table.collection()),
                },
            )
        })?;
        if all && is_counted {
            return Err(SqlError::new(
                ErrorCode::ForeignKeyViolation,
                "a foreign key constraint is violated",
            ));
        }
        Ok(())
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

/// Looks for a row that violates a key that is to hold now.
///
/// # Errors
/// 23503 naming the constraint.
pub fn find_violation(
    conn: &Connection,
    catalog: &Catalog,
    holds_now: &dyn Fn(&ForeignKey) -> bool,
    child_changed: &dyn Fn(&Table) -> bool,
) -> Result<(), SqlError> {
    let plain = |error: rusqlite::Error| readers::translate_plain(&error);
    for table in catalog.tables.values() {
        if !table.foreign_keys.iter().any(holds_now) {
            continue;
        }
        let name = table.storage_name();
        let mut check = conn
            .prepare(&format!("PRAGMA foreign_key_check({name})"))
            .map_err(plain)?;
        let mut rows = check.query([]).map_err(plain)?;
        while let Some(row) = rows.next().map_err(plain)? {
            let (rowid, ordinal): (Option<i64>, u16) =
                (row.get(1).map_err(plain)?, row.get(3).map_err(plain)?);
            // SQLite numbers a table's keys from the last to the first.
            let key = table.foreign_keys.iter().rev().nth(usize::from(ordinal));
            if let Some(key) = key.filter(|key| holds_now(key)) {
                // The child is at fault if it was written to; otherwise the parent's row is gone.
                let values = rowid.and_then(|rowid| values_of(conn, table, key, rowid));
                return Err(springhead_sql::errors::foreign_key_violation(
                    catalog,
                    table,
                    key,
                    values.as_deref(),
                    child_changed(table),
                ));
            }
        }
    }
    Ok(())
}

/// SQLite's word for a RESTRICT names nothing. The key whose it was, in a statement that has been undone by
/// now: what the statement has changed is still captured, and one of those rows is referred to. `None` if
/// `error` is none of that, or if the changes have outgrown memory.
pub fn named_restriction(
    conn: &Connection,
    catalog: &Catalog,
    capture: &Capture,
    error: &rusqlite::Error,
) -> Option<SqlError> {
    if error.sqlite_error()?.extended_code != ffi::SQLITE_CONSTRAINT_TRIGGER {
        return None;
    }
    let mut changes = capture.open_changes()?;
    let mut rows = Vec::new();
    while !changes.is_empty() {
        let change = ChangeRef::read(&mut changes).ok()?;
        if let Some(before) = change.before {
            rows.push((change, before));
        }
    }
    // The statement's own changes are the last.
    rows.into_iter()
        .rev()
        .find_map(|(change, before)| restriction(conn, catalog, &change, before))
}

/// The RESTRICT of a key by which a row refers to this one, which has been deleted or changed.
fn restriction(
    conn: &Connection,
    catalog: &Catalog,
    change: &ChangeRef<'_>,
    before: RowRef<'_>,
) -> Option<SqlError> {
    let parent = catalog.table(change.collection)?;
    // An image from before the table was altered tells nothing here.
    if change.schema_version != parent.version() {
        return None;
    }
    for child in catalog.children(parent.collection()) {
        let child = catalog.table(*child)?;
        let keys = child.foreign_keys.iter().filter(|key| {
            let actions = [key.on_delete, key.on_update];
            key.parent == parent.id && actions.contains(&ReferentialAction::Restrict)
        });
        for key in keys {
            let place_of = |id: &u32| parent.column_by_id(*id).map(|(place, _)| place);
            let places: Vec<usize> = key.parent_columns.iter().filter_map(place_of).collect();
            let is_kept = |row: RowRef<'_>| {
                let mut places = places.iter();
                places.all(|&place| row.get(place) == before.get(place))
            };
            if change.after.is_some_and(is_kept) {
                continue;
            }
            let values = places
                .iter()
                .map(|&place| Some(before.get(place)?.to_owned()))
                .collect::<Option<Vec<Value>>>()?;
            if refers(conn, child, key, &values)? {
                return Some(springhead_sql::errors::foreign_key_violation(
                    catalog,
                    child,
                    key,
                    Some(&values),
                    false,
                ));
            }
        }
    }
    None
}

/// Whether a row of `child` refers to these values by `key`.
fn refers(conn: &Connection, child: &Table, key: &ForeignKey, values: &[Value]) -> Option<bool> {
    let conditions: Vec<String> = (1..)
        .zip(&key.columns)
        .map(|(place, id)| format!("c{id} = ?{place}"))
        .collect();
    let sql = format!(
        "SELECT 1 FROM {} WHERE {} LIMIT 1",
        child.storage_name(),
        conditions.join(" AND ")
    );
    let mut statement = conn.prepare(&sql).ok()?;
    readers::bind(&mut statement, values).ok()?;
    Some(statement.raw_query().next().ok()?.is_some())
}

/// Whether the key waits for the end of the transaction, by itself or by SET CONSTRAINTS.
pub fn is_deferred(key: &ForeignKey, constraints: Option<&DeferredConstraints>) -> bool {
    if !key.deferrable {
        return false;
    }
    let Some(constraints) = constraints else {
        return key.initially_deferred;
    };
    let named = constraints
        .named
        .iter()
        .find(|(name, _)| *name == key.name)
        .map(|(_, deferred)| *deferred);
    named.or(constraints.all).unwrap_or(key.initially_deferred)
}

/// Whether a statement may have written a row that refers to none.
pub fn is_child_of(write: &Write, table: &Table) -> bool {
    write.table == table.collection() && write.verb != WriteVerb::Delete
}

fn values_of(conn: &Connection, table: &Table, key: &ForeignKey, rowid: i64) -> Option<Vec<Value>> {
    let columns: Vec<String> = key.columns.iter().map(|id| format!("c{id}")).collect();
    let sql = format!(
        "SELECT {} FROM {} WHERE rowid = ?1",
        columns.join(", "),
        table.storage_name()
    );
    let mut statement = conn.prepare(&sql).ok()?;
    let mut rows = statement.query([rowid]).ok()?;
    let row = rows.next().ok()??;
    let values = (0..columns.len()).map(|index| {
        let value = row.get_ref(index).ok()?;
        Some(crate::functions::from_sqlite(value).ok()?.to_owned())
    });
    values.collect()
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
pub fn deferred_violations(conn: &Connection) -> i32 {
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
