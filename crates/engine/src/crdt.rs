//! CRDT columns as rows have them: a value that everybody sees and, in the hidden column beside it,
//! the edits that it comes of (crate `crdt`).

use serde_json::Value as Json;
use springhead_crdt::{Content, CrdtError, Kind};
use springhead_proto::{ErrorCode, SqlError, ValueRef};
use springhead_sql::PgType;
use springhead_sql::catalog::{CrdtColumn, CrdtKind};
use springhead_sql::types::output_json;

pub(crate) const fn kind_of(kind: CrdtKind) -> Kind {
    match kind {
        CrdtKind::Text => Kind::Text,
        CrdtKind::List => Kind::List,
    }
}

/// What a stored value shows; `None` for NULL.
///
/// # Errors
/// 22023 for a list that is no JSON array.
pub(crate) fn content_of(
    column: &CrdtColumn<'_>,
    value: ValueRef<'_>,
) -> Result<Option<Content>, SqlError> {
    match (column.kind, value) {
        (_, ValueRef::Null) => Ok(None),
        (CrdtKind::Text, ValueRef::Text(text)) => Ok(Some(Content::Text(text.to_owned()))),
        (CrdtKind::List, value) => {
            let mut text = Vec::new();
            output_json(&PgType::Jsonb, value, &mut text);
            match serde_json::from_slice(&text) {
                Ok(Json::Array(elements)) => Ok(Some(Content::List(elements))),
                _ => Err(not_its_kind(column)),
            }
        }
        (CrdtKind::Text, _) => Err(not_its_kind(column)),
    }
}

fn not_its_kind(column: &CrdtColumn<'_>) -> SqlError {
    let what = match column.kind {
        CrdtKind::Text => "a text",
        CrdtKind::List => "a JSON array",
    };
    let message = format!("CRDT column \"{}\" holds {what}", column.column.name);
    SqlError::new(ErrorCode::InvalidParameterValue, message).with_column(&*column.column.name)
}

/// A content as a statement's parameter.
pub(crate) fn to_json(content: Content) -> Json {
    match content {
        Content::Text(text) => Json::String(text),
        Content::List(elements) => Json::Array(elements),
    }
}

/// The edits in a hidden column.
pub(crate) fn state_of(value: ValueRef<'_>) -> Option<&[u8]> {
    match value {
        ValueRef::Blob(state) => Some(state),
        _ => None,
    }
}

/// An error about a column's edits in SQL's words; [`crate::sync`] makes violations of them.
pub(crate) fn sql_error(error: &CrdtError, column: &str) -> SqlError {
    let code = match error {
        CrdtError::Malformed(_) | CrdtError::OutOfRange { .. } | CrdtError::WrongKind => {
            ErrorCode::InvalidParameterValue
        }
        CrdtError::Missing => ErrorCode::ObjectNotInState,
        CrdtError::TooLarge { .. } => ErrorCode::StatementTooLarge,
        CrdtError::Damaged(_) => ErrorCode::Corrupted,
    };
    let told = SqlError::new(code, error.to_string()).with_column(column);
    match error {
        CrdtError::TooLarge { .. } => {
            told.with_hint("set the column to NULL to begin anew, or raise crdt_state_bytes")
        }
        _ => told,
    }
}
