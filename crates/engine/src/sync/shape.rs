//! One shape of one device: the live query that keeps it true, and the snapshot that it begins with.
//!
//! A snapshot is read in the order of the key, so that one that was cut off goes on after the last
//! row that the device has. What happened to the rows before it meanwhile comes from the log.

use std::cmp::Ordering;
use std::sync::Arc;

use springhead_proto::sync::{
    ColumnValues, DeltaChange, DeltaVerb, Shape, SnapshotChunk, SyncValue, fnv1a,
};
use springhead_proto::{Cursor, ErrorCode, Lsn, RowRef, SqlError, Value, ValueRef};
use springhead_sql::PgType;
use springhead_sql::catalog::{Catalog, Table};
use springhead_sql::live::LivePlan;

use super::statement::{name_of, quote};
use super::value::from_storage;
use crate::Rows;
use crate::live::{Entry, LiveId};
use crate::session::ParamValue;

/// A shape as SQL.
pub(crate) struct ShapeQuery {
    /// `SELECT key columns, other columns FROM table WHERE condition`.
    pub sql: String,
    /// What comes after `WHERE` in a statement of one's own.
    condition: Option<String>,
    table: Arc<Table>,
    /// Names of the columns sent, the key's first.
    pub columns: Arc<[String]>,
    pub key: usize,
    /// What a resume token is good for.
    digest: u64,
}

impl ShapeQuery {
    /// # Errors
    /// 42P01, 42703, and what is wrong with the condition.
    pub(crate) fn of(catalog: &Catalog, shape: &Shape) -> Result<ShapeQuery, SqlError> {
        let table = crate::cdc::find_collection(catalog, &shape.collection)?;
        if !table.has_declared_key() {
            return Err(SqlError::new(
                ErrorCode::InvalidTableDefinition,
                format!("collection \"{}\" has no primary key", shape.collection),
            )
            .with_hint("devices hold collections with primary keys alone"));
        }
        if let Some(condition) = &shape.condition {
            springhead_sql::planner::check_condition(condition)?;
        }
        let mut columns: Vec<String> = (table.key_columns())
            .map(|column| column.name.clone())
            .collect();
        let key = columns.len();
        let is_key = |name: &str| table.key_columns().any(|column| column.name == name);
        if shape.columns.is_empty() {
            let others = table.visible_columns().map(|(_, column)| &column.name);
            columns.extend(others.filter(|name| !is_key(name)).cloned());
        } else {
            for name in &shape.columns {
                table.expect_column(name)?;
                if !columns.contains(name) {
                    columns.push(name.clone());
                }
            }
        }
        let states = states_of(table, &columns);
        columns.extend(states);
        let list = select_list(table, &columns);
        // On lines of its own: a comment in it ends there.
        let condition = (shape.condition.as_ref()).map(|condition| format!("(\n{condition}\n)"));
        let mut sql = format!("SELECT {list} FROM {}", name_of(table));
        if let Some(condition) = &condition {
            sql.push_str(&format!(" WHERE {condition}"));
        }
        let digest = fnv1a(&springhead_proto::sync::body::to_bytes(&(
            &sql,
            &shape.params,
        )));
        Ok(ShapeQuery {
            sql,
            condition,
            table: Arc::clone(table),
            columns: columns.into(),
            key,
            digest,
        })
    }

    /// The query of a snapshot after `after`, whose key's values follow the shape's `params`.
    pub(crate) fn snapshot(&self, params: usize, after: bool) -> String {
        let key: Vec<String> = (self.table.key_columns())
            .map(|column| quote(&column.name))
            .collect();
        let mut conditions: Vec<String> = self.condition.iter().cloned().collect();
        if after {
            let alternatives: Vec<String> = (0..key.len())
                .map(|at| {
                    let mut parts: Vec<String> = (0..at)
                        .map(|index| format!("{} = ${}", key[index], params + index + 1))
                        .collect();
                    parts.push(format!("{} > ${}", key[at], params + at + 1));
                    format!("({})", parts.join(" AND "))
                })
                .collect();
            conditions.push(format!("({})", alternatives.join(" OR ")));
        }
        let list = select_list(&self.table, &self.columns);
        let mut sql = format!("SELECT {list} FROM {}", name_of(&self.table));
        if !conditions.is_empty() {
            sql.push_str(&format!(" WHERE {}", conditions.join(" AND ")));
        }
        sql.push_str(&format!(" ORDER BY {}", key.join(", ")));
        sql
    }
}

/// The names of the states of those of `columns` that merge: sent beside them, last.
fn states_of(table: &Table, columns: &[String]) -> Vec<String> {
    table
        .crdt_columns()
        .filter(|merging| columns.contains(&merging.column.name))
        .map(|merging| merging.state.name.clone())
        .collect()
}

/// Qualified, since states have no name alone.
fn select_list(table: &Table, columns: &[String]) -> String {
    let of = quote(&table.name.name);
    let names: Vec<String> = (columns.iter())
        .map(|name| format!("{of}.{}", quote(name)))
        .collect();
    names.join(", ")
}

/// A shape that is kept for a device.
pub(crate) struct OpenShape {
    pub shape: Shape,
    pub live: LiveId,
    pub columns: Arc<[String]>,
    pub key: usize,
    types: Arc<[PgType]>,
    /// From here on, columns are the states of CRDT columns.
    states: usize,
    digest: u64,
    /// Changes up to it are in what the device was sent, but for keys that the snapshot had not to
    /// read again.
    pub from: Lsn,
    /// Of a snapshot that was gone on with: rows up to this key are followed from before `from`.
    had: Option<Vec<Value>>,
}

/// Where a snapshot goes on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Resume {
    /// What the device has is of this cursor.
    pub cursor: Cursor,
    /// The last key that it has.
    pub key: Vec<SyncValue>,
}

/// A snapshot on its way to the device.
pub(crate) struct Sending {
    pub rows: Rows,
    pub is_first: bool,
    pub lsn: Lsn,
    pub decided: Vec<springhead_proto::sync::MutationId>,
}

impl OpenShape {
    pub(crate) fn new(
        shape: Shape,
        query: &ShapeQuery,
        live: LiveId,
        plan: &LivePlan,
    ) -> OpenShape {
        OpenShape {
            shape,
            live,
            columns: Arc::clone(&query.columns),
            key: query.key,
            states: query.columns.len() - states_of(&query.table, &query.columns).len(),
            types: plan
                .columns
                .iter()
                .map(|column| column.pg_type.clone())
                .collect(),
            digest: query.digest,
            from: Lsn::ZERO,
            had: None,
        }
    }

    /// Whether `query` gives the columns that it is followed by.
    pub(crate) fn is_of(&self, query: &ShapeQuery) -> bool {
        self.digest == query.digest
    }

    /// The token after which a snapshot goes on.
    pub(crate) fn token(&self, cursor: Cursor, key: &[SyncValue]) -> String {
        let key = serde_json::to_string(key).expect("values are plain JSON");
        format!("{cursor} {:016x} {key}", self.digest)
    }

    /// What a token says; `None` for one of another shape, or none at all.
    pub(crate) fn resume(&self, token: &str) -> Option<Resume> {
        let (cursor, rest) = token.split_once(' ')?;
        let (digest, key) = rest.split_once(' ')?;
        let key: Vec<SyncValue> = serde_json::from_str(key).ok()?;
        let matches = u64::from_str_radix(digest, 16) == Ok(self.digest) && key.len() == self.key;
        matches.then_some(Resume {
            cursor: crate::cdc::parse_cursor(cursor).ok()?,
            key,
        })
    }

    /// Rows up to `key` are followed from before the snapshot's own LSN.
    ///
    /// # Errors
    /// 22P02 for values that are no key.
    pub(crate) fn has_up_to(&mut self, key: &[SyncValue]) -> Result<(), SqlError> {
        let key = (self.types.iter().zip(key))
            .map(|(pg_type, value)| super::value::to_storage(pg_type, value))
            .collect::<Result<Vec<_>, _>>()?;
        self.had = Some(key);
        Ok(())
    }

    /// What an entry of a difference at `lsn` means for the device; `None` if it has it already.
    pub(crate) fn change(&self, lsn: Lsn, entry: &Entry) -> Option<DeltaChange> {
        let row = match entry {
            Entry::Added { row, .. } | Entry::Changed { row, .. } | Entry::Removed { row } => row,
        };
        let row = row.as_ref();
        if lsn <= self.from && !self.had.as_ref().is_some_and(|had| self.is_up_to(row, had)) {
            return None;
        }
        let verb = match entry {
            Entry::Added { .. } => DeltaVerb::Put(self.values(row, None)),
            Entry::Removed { .. } => DeltaVerb::Delete,
            Entry::Changed { before, .. } => {
                DeltaVerb::Set(self.values(row, Some(before.as_ref())))
            }
        };
        Some(DeltaChange {
            shapes: vec![self.shape.id],
            id: self.key_of(row),
            verb,
        })
    }

    /// The columns that are not the key's; of a row that the device has as `before`, those that are
    /// others now.
    fn values(&self, row: RowRef<'_>, before: Option<RowRef<'_>>) -> ColumnValues {
        let columns = (self.columns.iter().enumerate())
            .skip(self.key)
            .filter(|(place, _)| before.is_none_or(|before| row.get(*place) != before.get(*place)))
            .map(|(place, name)| {
                let value = row.get(place).unwrap_or(ValueRef::Null);
                let before = before.and_then(|before| before.get(place));
                (name.clone(), self.sent(place, before, value))
            });
        ColumnValues(columns.collect())
    }

    /// A value as it is sent to a device that has `before`; of a CRDT column's edits, what is new.
    fn sent(&self, place: usize, before: Option<ValueRef<'_>>, value: ValueRef<'_>) -> SyncValue {
        match value {
            ValueRef::Blob(state) if place >= self.states => {
                let before = before.and_then(crate::crdt::state_of);
                SyncValue::Blob(springhead_crdt::state::difference(before, state))
            }
            value => from_storage(&self.types[place], value),
        }
    }

    fn key_of(&self, row: RowRef<'_>) -> Vec<SyncValue> {
        (self.types.iter().zip(row.values()).take(self.key))
            .map(|(pg_type, value)| from_storage(pg_type, value))
            .collect()
    }

    fn is_up_to(&self, row: RowRef<'_>, key: &[Value]) -> bool {
        for (value, key) in row.values().zip(key) {
            match compare(value, key.as_ref()) {
                Ordering::Less => return true,
                Ordering::Greater => return false,
                Ordering::Equal => {}
            }
        }
        true
    }

    /// The next chunk of a snapshot. `true` with the last.
    ///
    /// # Errors
    /// XX000 if the temporary file cannot be read.
    pub(crate) fn chunk(
        &self,
        sending: &mut Sending,
        cursor: Cursor,
        max_bytes: usize,
    ) -> Result<(SnapshotChunk, bool), SqlError> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        let mut is_last = false;
        while bytes < max_bytes {
            let Some(chunk) = sending.rows.next_chunk()? else {
                is_last = true;
                break;
            };
            bytes += chunk.len_bytes();
            for row in chunk.rows() {
                let values = row.values().take(self.types.len()).enumerate();
                rows.push(
                    values
                        .map(|(place, value)| self.sent(place, None, value))
                        .collect(),
                );
            }
        }
        let resume = rows
            .last()
            .filter(|_| !is_last)
            .map(|row: &Vec<SyncValue>| self.token(cursor, &row[..self.key]));
        let chunk = SnapshotChunk {
            shape: self.shape.id,
            first: std::mem::take(&mut sending.is_first),
            columns: self.columns.to_vec(),
            key: u32::try_from(self.key).unwrap_or(u32::MAX),
            rows,
            resume,
            done: is_last.then(|| springhead_proto::sync::SnapshotDone {
                cursor,
                decided: std::mem::take(&mut sending.decided),
            }),
        };
        Ok((chunk, is_last))
    }
}

/// As SQLite orders keys.
fn compare(one: ValueRef<'_>, other: ValueRef<'_>) -> Ordering {
    let class = |value: ValueRef<'_>| match value {
        ValueRef::Null => 0,
        ValueRef::Integer(_) | ValueRef::Real(_) => 1,
        ValueRef::Text(_) => 2,
        ValueRef::Blob(_) => 3,
    };
    match (one, other) {
        (ValueRef::Integer(one), ValueRef::Integer(other)) => one.cmp(&other),
        (ValueRef::Real(one), ValueRef::Real(other)) => one.total_cmp(&other),
        (ValueRef::Text(one), ValueRef::Text(other)) => one.as_bytes().cmp(other.as_bytes()),
        (ValueRef::Blob(one), ValueRef::Blob(other)) => one.cmp(other),
        _ => class(one).cmp(&class(other)),
    }
}

/// A shape's parameters as a statement takes them. `texts` holds what they borrow.
pub(crate) fn params<'p>(values: &'p [SyncValue], texts: &'p [String]) -> Vec<ParamValue<'p>> {
    (values.iter().zip(texts))
        .map(|(value, text)| match value {
            SyncValue::Null => ParamValue::Null,
            SyncValue::Blob(bytes) => ParamValue::Binary(bytes),
            SyncValue::Text(text) => ParamValue::Text(text),
            _ => ParamValue::Text(text),
        })
        .collect()
}

/// See [`params`].
pub(crate) fn texts(values: &[SyncValue]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}
