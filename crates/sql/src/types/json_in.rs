//! Values out of JSON.
use springhead_proto::{SqlError, Value};
use super::PgType;
/// Reads a JSON value.
///
/// # Errors
/// As [`super::input`].
pub fn input_json(ty: &PgType, json: &serde_json::Value) -> Result<Value, SqlError> {
    match json {
        serde_json::Value::Null => Ok(Value::Null),
        serde_json::Value::String(text) => super::input(ty, text),
        other => super::input(ty, &other.to_string()),
    }
}
