//! A replicated table's rows as the server has them: put and taken away as they are. Triggers, foreign
//! keys and policies have no part in it, since their effects come as rows too.

use rusqlite::types::ToSqlOutput;
use rusqlite::{CachedStatement, Connection};
use springhead_proto::sync::{ColumnValues, SyncValue};
use springhead_proto::{Row, RowRef, SqlError, Value, ValueRef};
use springhead_sql::catalog::{Column, CrdtColumn, Table};

use crate::apply::RowStatements;
use crate::functions::to_sqlite;
use crate::sync::value::to_storage;

/// A document's key as it is kept: an encoded row.
pub(crate) fn key_of_row(table: &Table, row: RowRef<'_>) -> Vec<u8> {
    let values = table
        .key
        .iter()
        .map(|&place| row.get(place).unwrap_or(ValueRef::Null));
    encode(values.collect())
}

/// The key of a document that is named on the wire.
///
/// # Errors
/// If it is none of the table's.
pub(crate) fn key_of_id(table: &Table, id: &[SyncValue]) -> Result<Vec<u8>, SqlError> {
    if id.len() != table.key.len() {
        return Err(SqlError::new(
            springhead_proto::ErrorCode::InvalidParameterValue,
            format!(
                "a key of {} has {} values",
                table.name.name,
                table.key.len()
            ),
        ));
    }
    let values = table
        .key_columns()
        .zip(id)
        .map(|(column, value)| to_storage(&column.pg_type, value))
        .collect::<Result<Vec<Value>, _>>()?;
    Ok(encode(values.iter().map(Value::as_ref).collect()))
}

fn encode(values: Vec<ValueRef<'_>>) -> Vec<u8> {
    Row::from_values(values.into_iter()).bytes().to_vec()
}

fn execute<'v>(
    conn: &Connection,
    sql: &str,
    values: impl Iterator<Item = ValueRef<'v>>,
) -> rusqlite::Result<usize> {
    let mut statement = conn.prepare_cached(sql)?;
    for (index, value) in values.enumerate() {
        statement.raw_bind_parameter(index + 1, ToSqlOutput::Borrowed(to_sqlite(value)))?;
    }
    statement.raw_execute()
}

/// Whoever stands in the way of one of the server's rows is not the server's, or not any more.
fn or_replace(sql: &str) -> String {
    sql.replacen("INSERT INTO", "INSERT OR REPLACE INTO", 1)
        .replacen("UPDATE ", "UPDATE OR REPLACE ", 1)
}

/// Makes a document what its image says: the whole row, or none.
pub(crate) fn put_image(
    conn: &Connection,
    table: &Table,
    key: &[u8],
    image: Option<&[u8]>,
) -> rusqlite::Result<()> {
    let statements = RowStatements::of(table);
    let key = RowRef::parse(key).map_err(unreadable)?;
    let Some(image) = image else {
        return execute(conn, &statements.delete, key.values()).map(|_| ());
    };
    let image = RowRef::parse(image).map_err(unreadable)?;
    let stored = || {
        statements
            .stored
            .iter()
            .map(|&place| image.get(place).unwrap_or(ValueRef::Null))
    };
    let updated = execute(
        conn,
        &or_replace(&statements.update),
        stored().chain(key.values()),
    )?;
    if updated == 0 {
        execute(conn, &or_replace(&statements.insert), stored())?;
    }
    Ok(())
}

fn unreadable(error: springhead_proto::DamagedRow) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(error))
}

/// Rows of a snapshot that are not there yet, which most are: what is the same for all of them is worked
/// out once.
pub(crate) struct Newcomers<'c> {
    insert: CachedStatement<'c>,
    /// For each of a row's values where it goes, if it goes anywhere.
    targets: Vec<Option<Target<'c>>>,
}

/// Where a value of a snapshot goes.
enum Target<'c> {
    Column(&'c Column),
    /// The edits of a CRDT column.
    State(CrdtColumn<'c>),
}

impl<'c> Newcomers<'c> {
    /// Of rows with these columns, the first of which are the key's.
    ///
    /// # Errors
    /// What SQLite says.
    pub(crate) fn of(
        conn: &'c Connection,
        table: &'c Table,
        columns: &[String],
        key_length: usize,
    ) -> rusqlite::Result<Newcomers<'c>> {
        let target = |name: &String| {
            if let Some(merging) = table
                .crdt_columns()
                .find(|merging| merging.state.name == *name)
            {
                return Some(Target::State(merging));
            }
            let (place, column) = table.column_named(name)?;
            let is_put = column.generated.is_none() && !table.key.contains(&place);
            is_put.then_some(Target::Column(column))
        };
        let targets: Vec<_> = columns.iter().skip(key_length).map(target).collect();
        let key = table.key_columns().map(Column::storage_name);
        let others = targets.iter().flatten().map(|target| match target {
            Target::Column(column) => column.storage_name(),
            Target::State(merging) => merging.state.storage_name(),
        });
        let names: Vec<String> = key.chain(others).collect();
        let places: Vec<String> = (1..=names.len())
            .map(|number| format!("?{number}"))
            .collect();
        let insert = conn.prepare_cached(&format!(
            "INSERT OR IGNORE INTO {} ({}) VALUES ({})",
            table.storage_name(),
            names.join(", "),
            places.join(", ")
        ))?;
        Ok(Newcomers { insert, targets })
    }

    /// Puts a row; false if something is in its place, the row as it was or another.
    ///
    /// # Errors
    /// A value that is none of its column's, or what SQLite says.
    pub(crate) fn put(&mut self, key: &[u8], row: &[SyncValue]) -> Result<bool, Fault> {
        let key = RowRef::parse(key).map_err(unreadable)?;
        let mut at = 0;
        for value in key.values() {
            at += 1;
            self.insert
                .raw_bind_parameter(at, ToSqlOutput::Borrowed(to_sqlite(value)))?;
        }
        let values = row.iter().skip(at).zip(&self.targets);
        for (value, target) in values {
            let stored = match (target, value) {
                (None, _) => continue,
                (Some(Target::Column(column)), value) => to_storage(&column.pg_type, value)?,
                (Some(Target::State(_)), SyncValue::Null) => Value::Null,
                (Some(Target::State(merging)), value) => state_after(None, value, merging)?,
            };
            at += 1;
            self.insert
                .raw_bind_parameter(at, ToSqlOutput::Borrowed(to_sqlite(stored.as_ref())))?;
        }
        Ok(self.insert.raw_execute()? > 0)
    }
}

/// Puts columns of a document; it is made if it is not there, unless it `must_exist`. Whether it is
/// there now.
///
/// # Errors
/// A value that is none of its column's, or what SQLite says.
pub(crate) fn put_columns(
    conn: &Connection,
    table: &Table,
    key: &[u8],
    columns: &ColumnValues,
    must_exist: bool,
) -> Result<bool, Fault> {
    let key = RowRef::parse(key).map_err(unreadable)?;
    let mut names = Vec::new();
    let mut values = Vec::new();
    for (name, value) in &columns.0 {
        if let Some(merging) = (table.crdt_columns()).find(|merging| merging.state.name == *name) {
            names.push(merging.state.storage_name());
            values.push(received_state(conn, table, key, &merging, value)?);
            continue;
        }
        // A column that is not known here comes with its definition.
        let Some((place, column)) = table.column_named(name) else {
            continue;
        };
        if column.generated.is_some() || table.key.contains(&place) {
            continue;
        }
        names.push(column.storage_name());
        values.push(to_storage(&column.pg_type, value)?);
    }
    let storage = table.storage_name();
    let key_names: Vec<String> = table.key_columns().map(|c| c.storage_name()).collect();
    let own = || values.iter().map(Value::as_ref);
    let condition = numbered(&key_names, names.len() + 1, " AND ");
    let updated = if names.is_empty() {
        let sql = format!("SELECT count(*) FROM {storage} WHERE {condition}");
        let mut statement = conn.prepare_cached(&sql)?;
        for (index, value) in key.values().enumerate() {
            statement.raw_bind_parameter(index + 1, ToSqlOutput::Borrowed(to_sqlite(value)))?;
        }
        let mut rows = statement.raw_query();
        usize::from(match rows.next()? {
            Some(row) => row.get::<_, i64>(0)? > 0,
            None => false,
        })
    } else {
        let sql = format!(
            "UPDATE OR REPLACE {storage} SET {} WHERE {condition}",
            numbered(&names, 1, ", ")
        );
        execute(conn, &sql, own().chain(key.values()))?
    };
    if updated > 0 || must_exist {
        return Ok(updated > 0);
    }
    let all: Vec<String> = key_names.into_iter().chain(names).collect();
    let places: Vec<String> = (1..=all.len()).map(|number| format!("?{number}")).collect();
    let sql = format!(
        "INSERT OR REPLACE INTO {storage} ({}) VALUES ({})",
        all.join(", "),
        places.join(", ")
    );
    execute(conn, &sql, key.values().chain(own()))?;
    Ok(true)
}

/// The edits of a CRDT column with what has come of them.
///
/// # Errors
/// Bytes that are none, or what SQLite says.
fn received_state(
    conn: &Connection,
    table: &Table,
    key: RowRef<'_>,
    merging: &CrdtColumn<'_>,
    sent: &SyncValue,
) -> Result<Value, Fault> {
    if *sent == SyncValue::Null {
        return Ok(Value::Null);
    }
    let key_names: Vec<String> = table.key_columns().map(|c| c.storage_name()).collect();
    let sql = format!(
        "SELECT {} FROM {} WHERE {}",
        merging.state.storage_name(),
        table.storage_name(),
        numbered(&key_names, 1, " AND ")
    );
    let mut statement = conn.prepare_cached(&sql)?;
    for (index, value) in key.values().enumerate() {
        statement.raw_bind_parameter(index + 1, ToSqlOutput::Borrowed(to_sqlite(value)))?;
    }
    let mut rows = statement.raw_query();
    let before = match rows.next()? {
        Some(row) => row.get::<_, Option<Vec<u8>>>(0)?,
        None => None,
    };
    state_after(before.as_deref(), sent, merging)
}

/// The edits of a CRDT column where there were `before` and these have been sent.
fn state_after(
    before: Option<&[u8]>,
    sent: &SyncValue,
    merging: &CrdtColumn<'_>,
) -> Result<Value, Fault> {
    let sent: &[u8] = match sent {
        SyncValue::Blob(sent) => sent,
        _ => &[],
    };
    let state = springhead_crdt::state::received(before, sent)
        .map_err(|error| crate::crdt::sql_error(&error, &merging.column.name))?;
    Ok(Value::Blob(state))
}

fn numbered(names: &[String], first: usize, separator: &str) -> String {
    let parts: Vec<String> = names
        .iter()
        .zip(first..)
        .map(|(name, number)| format!("{name} = ?{number}"))
        .collect();
    parts.join(separator)
}

/// Why something of the server's could not be taken.
pub(crate) enum Fault {
    Sqlite(rusqlite::Error),
    Sql(SqlError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Fault {
        Fault::Sqlite(error)
    }
}

impl From<SqlError> for Fault {
    fn from(error: SqlError) -> Fault {
        Fault::Sql(error)
    }
}
