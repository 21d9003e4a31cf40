//! Values out of JSON: HTTP parameters and documents.

use serde_json::Value as Json;
use springhead_proto::{ErrorCode, SqlError, Value};

use super::{PgType, array, input, json};

/// Reads a JSON value as a value of the type. A JSON string is read as the type's text, so what
/// [`super::output_json`] prints is read back; a JSON number or boolean goes by its text; `null` is
/// NULL, for json and jsonb too. For json and jsonb every other value is itself, a string included.
///
/// # Errors
/// 22P02 if the type has no such value, and as [`input`].
pub fn input_json(ty: &PgType, value: &Json) -> Result<Value, SqlError> {
    match (ty, value) {
        (_, Json::Null) => Ok(Value::Null),
        (PgType::Domain(user), value) => input_json(user.base(), value),
        (PgType::Json, value) => Ok(Value::Text(value.to_string())),
        (PgType::Jsonb, value) => json::normalise(&value.to_string()).map(Value::Text),
        (PgType::Array(element), Json::Array(elements)) => {
            array::from_json(element, elements).map(Value::Text)
        }
        (_, Json::String(text)) => input(ty, text),
        (PgType::Int2 | PgType::Int4 | PgType::Int8 | PgType::Oid, Json::Number(number)) => {
            input_integer(ty, number)
        }
        (_, Json::Number(number)) if ty.is_numeric() || is_text(ty) => {
            input(ty, &number.to_string())
        }
        (PgType::Bool, Json::Bool(value)) => Ok(Value::Integer(i64::from(*value))),
        (_, Json::Bool(value)) if is_text(ty) => input(ty, if *value { "true" } else { "false" }),
        (_, Json::Object(_) | Json::Array(_)) if is_text(ty) => input(ty, &value.to_string()),
        _ => Err(SqlError::new(
            ErrorCode::InvalidTextRepresentation,
            format!(
                "a json {} is no value of type {}",
                kind(value),
                ty.sql_name()
            ),
        )),
    }
}

/// `3.0` is an integer, too: JavaScript knows no other numbers.
fn input_integer(ty: &PgType, number: &serde_json::Number) -> Result<Value, SqlError> {
    let text = number.to_string();
    match text.strip_suffix(".0") {
        Some(whole) => input(ty, whole),
        None => input(ty, &text),
    }
}

const fn is_text(ty: &PgType) -> bool {
    ty.is_string() || matches!(ty, PgType::Unknown)
}

const fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}
