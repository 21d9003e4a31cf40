//! Functions that planned statements call and no PostgreSQL function maps to: the engine registers
//! them with the others ([`crate::functions::scalars`] lists them too).

use springhead_proto::{ErrorCode, SqlError, Value, ValueRef};

use crate::functions::Scalar;

/// See the module.
pub const SCALARS: &[Scalar] = &[
    Scalar { name: "sh_limit", args: 1, deterministic: true, call: limit },
    Scalar { name: "sh_offset", args: 1, deterministic: true, call: offset },
    Scalar { name: "sh_not_null", args: 3, deterministic: true, call: not_null },
    Scalar { name: "sh_zero_step", args: 0, deterministic: false, call: zero_step },
    Scalar { name: "sh_second_row", args: 0, deterministic: false, call: second_row },
    Scalar { name: "sh_no_setting", args: 2, deterministic: false, call: no_setting },
    Scalar { name: "sh_pad_char", args: 2, deterministic: true, call: pad_char },
];

fn limit(args: &[ValueRef<'_>]) -> Result<Value, SqlError> {
    match args {
        [ValueRef::Null] => Ok(Value::Integer(-1)),
        [ValueRef::Integer(count)] if *count >= 0 => Ok(Value::Integer(*count)),
        _ => Err(SqlError::new(ErrorCode::InvalidLimit, "LIMIT must not be negative")),
    }
}

fn offset(args: &[ValueRef<'_>]) -> Result<Value, SqlError> {
    match args {
        [ValueRef::Null] => Ok(Value::Integer(0)),
        [ValueRef::Integer(count)] if *count >= 0 => Ok(Value::Integer(*count)),
        _ => Err(SqlError::new(ErrorCode::InvalidOffset, "OFFSET must not be negative")),
    }
}

/// `sh_not_null(value, table, column)`: SQLite would number a NULL integer key by itself.
fn not_null(args: &[ValueRef<'_>]) -> Result<Value, SqlError> {
    let name = |index: usize| match args.get(index) {
        Some(ValueRef::Text(name)) => (*name).to_owned(),
        _ => String::new(),
    };
    match args.first() {
        Some(ValueRef::Null) | None => {
            let (table, column) = (name(1), name(2));
            Err(SqlError::new(
                ErrorCode::NotNullViolation,
                format!("null value in column \"{column}\" of relation \"{table}\" violates not-null constraint"),
            )
            .with_table(table)
            .with_column(column))
        }
        Some(value) => Ok((*value).to_owned()),
    }
}

fn zero_step(_: &[ValueRef<'_>]) -> Result<Value, SqlError> {
    Err(SqlError::new(ErrorCode::InvalidParameterValue, "step size cannot equal zero"))
}

fn second_row(_: &[ValueRef<'_>]) -> Result<Value, SqlError> {
    Err(SqlError::new(
        ErrorCode::CardinalityViolation,
        "more than one row returned by a subquery used as an expression",
    ))
}

/// `sh_no_setting(name, missing_ok)`: current_setting() of what is not set.
fn no_setting(args: &[ValueRef<'_>]) -> Result<Value, SqlError> {
    match args {
        [ValueRef::Text(name), ValueRef::Integer(0)] => Err(SqlError::new(
            ErrorCode::UndefinedObject,
            format!("unrecognized configuration parameter \"{name}\""),
        )),
        _ => Ok(Value::Null),
    }
}

/// `sh_pad_char(text, length)`: what a char(n) column holds where the text equals it; a text that
/// is longer stays longer, so that it equals none.
fn pad_char(args: &[ValueRef<'_>]) -> Result<Value, SqlError> {
    let [ValueRef::Text(text), ValueRef::Integer(length)] = args else { return Ok(Value::Null) };
    let text = text.trim_end_matches(' ');
    let missing = usize::try_from(*length).unwrap_or(0).saturating_sub(text.chars().count());
    Ok(Value::Text(format!("{text}{}", " ".repeat(missing))))
}
