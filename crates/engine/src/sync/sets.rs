//! `add` and `remove` on arrays and JSON arrays: sets that never conflict. An element is there once
//! or not at all; new ones come last, so that everyone sees one order.

use serde_json::Value as Json;
use springhead_proto::sync::{Operation, SyncValue, Verb};
use springhead_proto::{ErrorCode, SqlError, Value, ValueRef};
use springhead_sql::PgType;
use springhead_sql::catalog::Table;
use springhead_sql::types::output_json;

use super::statement::{Form, Param};
use super::value::to_json;

/// The assignments that an operation comes to, given the document's visible columns as stored
/// (`None`: there is no document, and the assignments only have to be planned).
///
/// # Errors
/// 42703 for an unknown column; 42804 for one that is no array.
pub(crate) fn assignments<'o>(
    table: &'o Table,
    operation: &'o Operation,
    stored: Option<&[Value]>,
) -> Result<Vec<(&'o str, Param<'o>, Form)>, SqlError> {
    let (columns, adds) = match &operation.verb {
        Verb::SetAdd(columns) => (columns, true),
        Verb::SetRemove(columns) => (columns, false),
        other => {
            return Err(SqlError::new(
                ErrorCode::InvalidParameterValue,
                format!("{} is not supported on this column", other.word()),
            ));
        }
    };
    let mut made = Vec::with_capacity(columns.len());
    for (name, elements) in columns {
        let (_, column) = table.expect_column(name)?;
        let place = (table.visible_columns()).position(|(_, visible)| visible.id == column.id);
        let value = match (stored, place) {
            (Some(values), Some(place)) => values.get(place).map_or(ValueRef::Null, Value::as_ref),
            _ => ValueRef::Null,
        };
        let array = changed(&column.pg_type, value, elements, adds)
            .map_err(|error| error.with_column(name.as_str()))?;
        made.push((name.as_str(), Param::Made(array), Form::Plain));
    }
    Ok(made)
}

fn changed(
    pg_type: &PgType,
    value: ValueRef<'_>,
    elements: &[SyncValue],
    adds: bool,
) -> Result<Json, SqlError> {
    let wrong = || {
        SqlError::new(
            ErrorCode::DatatypeMismatch,
            "elements are added to and removed from arrays alone",
        )
    };
    if !matches!(pg_type, PgType::Json | PgType::Jsonb | PgType::Array(_)) {
        return Err(wrong());
    }
    let mut array = match value {
        ValueRef::Null => Vec::new(),
        value => {
            let mut text = Vec::new();
            output_json(pg_type, value, &mut text);
            match serde_json::from_slice(&text) {
                Ok(Json::Array(array)) => array,
                Ok(Json::Null) => Vec::new(),
                _ => return Err(wrong()),
            }
        }
    };
    for element in elements.iter().map(to_json) {
        let same = |other: &Json| same(other, &element);
        if !adds {
            array.retain(|other| !same(other));
        } else if !array.iter().any(same) {
            array.push(element);
        }
    }
    Ok(Json::Array(array))
}

/// Numbers are the same by their value, in whatever form.
fn same(one: &Json, other: &Json) -> bool {
    match (one, other) {
        (Json::Number(one), Json::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stored: &str, elements: &[SyncValue], adds: bool, expected: &str) {
        let value = match stored {
            "" => ValueRef::Null,
            text => ValueRef::Text(text),
        };
        let made = changed(&PgType::Jsonb, value, elements, adds);
        assert_eq!(
            made.map_or("error".to_owned(), |made| made.to_string()),
            expected
        );
    }

    #[test]
    fn an_element_is_there_once_or_not() {
        let (a, one) = ([SyncValue::from("a")], [SyncValue::from(1)]);
        let twice = [a[0].clone(), a[0].clone()];
        check("", &twice, true, r#"["a"]"#);
        check(r#"["b"]"#, &a, true, r#"["b","a"]"#);
        check(r#"["a","b"]"#, &a, true, r#"["a","b"]"#);
        check("[1.0, 2]", &one, true, "[1.0,2]");
        check(r#"["a","b","a"]"#, &a, false, r#"["b"]"#);
        check("", &one, false, "[]");
        check(r#"{"a":1}"#, &a, true, "error");
    }
}
