//! Values on the sync wire as values in storage, and back ([`SyncValue`] has the table).

use springhead_proto::sync::{ColumnValues, DeltaChange, DeltaVerb, Operation, SyncValue, Verb};
use springhead_proto::{ErrorCode, SqlError, Value, ValueRef};
use springhead_sql::PgType;
use springhead_sql::types::{input, output_json, output_text};

/// Reads a value as one of a type.
///
/// # Errors
/// 22P02 if the type has no such value, and what reading a text of the type gives.
pub(crate) fn to_storage(pg_type: &PgType, value: &SyncValue) -> Result<Value, SqlError> {
    match (pg_type, value) {
        (_, SyncValue::Null) => Ok(Value::Null),
        (PgType::Bytea, SyncValue::Blob(bytes)) => Ok(Value::Blob(bytes.clone())),
        (_, SyncValue::Blob(_)) => Err(SqlError::new(
            ErrorCode::InvalidTextRepresentation,
            format!("bytes are no value of type {}", pg_type.sql_name()),
        )),
        (_, SyncValue::Text(text)) => input(pg_type, text),
        (_, SyncValue::Bool(value)) => input(pg_type, if *value { "true" } else { "false" }),
        (_, SyncValue::Integer(value)) => input(pg_type, &value.to_string()),
        // JavaScript knows no other numbers.
        (PgType::Int2 | PgType::Int4 | PgType::Int8 | PgType::Oid, SyncValue::Real(value))
            if value.fract() == 0.0 =>
        {
            input(pg_type, &format!("{value:.0}"))
        }
        (_, SyncValue::Real(value)) => input(pg_type, &real_text(*value)),
    }
}

fn real_text(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    value.to_string()
}

/// A stored value as it is sent.
pub(crate) fn from_storage(pg_type: &PgType, value: ValueRef<'_>) -> SyncValue {
    match (pg_type, value) {
        (_, ValueRef::Null) => SyncValue::Null,
        (PgType::Domain(domain), value) => from_storage(domain.base(), value),
        (PgType::Bool, ValueRef::Integer(value)) => SyncValue::Bool(value != 0),
        (PgType::Int2 | PgType::Int4 | PgType::Int8 | PgType::Oid, ValueRef::Integer(value)) => {
            SyncValue::Integer(value)
        }
        (PgType::Float4 | PgType::Float8, ValueRef::Real(value)) => SyncValue::Real(value),
        (PgType::Bytea, ValueRef::Blob(bytes)) => SyncValue::Blob(bytes.to_vec()),
        (PgType::Text | PgType::Varchar(_) | PgType::Uuid, ValueRef::Text(text)) => {
            SyncValue::Text(text.to_owned())
        }
        (pg_type, value) => {
            let mut out = Vec::new();
            match pg_type {
                PgType::Json | PgType::Jsonb | PgType::Array(_) => {
                    output_json(pg_type, value, &mut out);
                }
                _ => output_json_text(pg_type, value, &mut out),
            }
            SyncValue::Text(String::from_utf8_lossy(&out).into_owned())
        }
    }
}

/// The text inside the JSON string that `row_to_json` prints; of what it prints as a number, the
/// number's text.
fn output_json_text(pg_type: &PgType, value: ValueRef<'_>, out: &mut Vec<u8>) {
    let mut json = Vec::new();
    output_json(pg_type, value, &mut json);
    match serde_json::from_slice::<serde_json::Value>(&json) {
        Ok(serde_json::Value::String(text)) => out.extend_from_slice(text.as_bytes()),
        _ => output_text(pg_type, value, out),
    }
}

/// Roughly what a change takes in a frame.
pub(crate) fn size_of_change(change: &DeltaChange) -> usize {
    let id: usize = change.id.iter().map(SyncValue::len_bytes).sum();
    let columns = match &change.verb {
        DeltaVerb::Put(columns) | DeltaVerb::Set(columns) => size_of_columns(columns),
        DeltaVerb::Delete | DeltaVerb::Leave | DeltaVerb::Clear => 0,
    };
    FRAMING + id + columns
}

/// Roughly what an operation takes in a frame.
pub(crate) fn size_of_operation(operation: &Operation) -> usize {
    let id: usize = operation.id.iter().map(SyncValue::len_bytes).sum();
    let elements = |columns: &[(String, Vec<SyncValue>)]| {
        (columns.iter())
            .map(|(name, values)| {
                name.len() + values.iter().map(SyncValue::len_bytes).sum::<usize>()
            })
            .sum()
    };
    let columns = match &operation.verb {
        Verb::Insert(columns)
        | Verb::Set(columns)
        | Verb::Inc(columns)
        | Verb::Min(columns)
        | Verb::Max(columns) => size_of_columns(columns),
        Verb::SetAdd(columns) | Verb::SetRemove(columns) => elements(columns),
        Verb::Crdt(updates) => (updates.iter())
            .map(|(name, update)| name.len() + update.len())
            .sum(),
        Verb::Delete => 0,
    };
    FRAMING + operation.collection.len() + id + columns
}

/// What MessagePack and the names of fields add, roughly.
const FRAMING: usize = 24;

fn size_of_columns(columns: &ColumnValues) -> usize {
    (columns.0.iter())
        .map(|(name, value)| name.len() + 2 + value.len_bytes())
        .sum()
}

/// A value as JSON, as an element of a set.
pub(crate) fn to_json(value: &SyncValue) -> serde_json::Value {
    use serde_json::Value as Json;
    match value {
        SyncValue::Null => Json::Null,
        SyncValue::Bool(value) => Json::Bool(*value),
        SyncValue::Integer(value) => Json::from(*value),
        SyncValue::Real(value) => Json::from(*value),
        SyncValue::Text(text) => Json::String(text.clone()),
        SyncValue::Blob(_) => Json::String(value.to_string()),
    }
}
