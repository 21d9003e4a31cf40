//! Functions that planned statements call and no PostgreSQL function maps to: the engine registers
//! them with the others ([`crate::functions::scalars`] lists them too).

use std::cmp::Ordering;

use springhead_proto::{ErrorCode, SqlError, Value, ValueRef};

use crate::functions::{MAX_RESULT_BYTES, Scalar};
use crate::types::{self, PgType};

use super::compare::prefix_range;

/// See the module.
pub const SCALARS: &[Scalar] = &[
    Scalar {
        name: "sh_limit",
        args: 1,
        deterministic: true,
        call: limit,
    },
    Scalar {
        name: "sh_offset",
        args: 1,
        deterministic: true,
        call: offset,
    },
    Scalar {
        name: "sh_not_null",
        args: 3,
        deterministic: true,
        call: not_null,
    },
    Scalar {
        name: "sh_zero_step",
        args: 0,
        deterministic: false,
        call: zero_step,
    },
    Scalar {
        name: "sh_merge_twice",
        args: 0,
        deterministic: false,
        call: merge_twice,
    },
    Scalar {
        name: "sh_refuse_value",
        args: 2,
        deterministic: false,
        call: refuse_value,
    },
    Scalar {
        name: "sh_refuse_row",
        args: 1,
        // So that it is not called before it is its turn.
        deterministic: false,
        call: refuse_row,
    },
    Scalar {
        name: "sh_series",
        args: 3,
        deterministic: true,
        call: series,
    },
    Scalar {
        name: "sh_array_distinct",
        args: 4,
        deterministic: true,
        call: array_distinct,
    },
    Scalar {
        name: "sh_second_row",
        args: 0,
        deterministic: false,
        call: second_row,
    },
    Scalar {
        name: "sh_like_low",
        args: 1,
        deterministic: true,
        call: like_low,
    },
    Scalar {
        name: "sh_like_high",
        args: 1,
        deterministic: true,
        call: like_high,
    },
    Scalar {
        name: "sh_no_setting",
        args: 2,
        deterministic: false,
        call: no_setting,
    },
    Scalar {
        name: "sh_pad_char",
        args: 2,
        deterministic: true,
        call: pad_char,
    },
];

fn limit(args: &[ValueRef<'_>]) -> Result<Value, SqlError> {
    match args {
        [ValueRef::Null] => Ok(Value::Integer(-1)),
        [ValueRef::Integer(count)] if *count >= 0 => Ok(Value::Integer(*count)),
        _ => Err(SqlError::new(
            ErrorCode::InvalidLimit,
            "LIMIT must not be negative",
        )),
    }
}

fn offset(args: &[ValueRef<'_>]) -> Result<Value, SqlError> {
    match args {
        [ValueRef::Null] => Ok(Value::Integer(0)),
        [ValueRef::Integer(count)] if *count >= 0 => Ok(Value::Integer(*count)),
        _ => Err(SqlError::new(
            ErrorCode::InvalidOffset,
            "OFFSET must not be negative",
        )),
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

/// `sh_refuse_row(message)`: a policy does not let a row be written.
fn refuse_row(args: &[ValueRef<'_>]) -> Result<Value, SqlError> {
    let message = match args.first() {
        Some(ValueRef::Text(message)) => *message,
        _ => "new row violates row-level security policy",
    };
    Err(SqlError::new(ErrorCode::InsufficientPrivilege, message))
}

/// `sh_merge_twice()`: MERGE would change a row of its target twice.
fn merge_twice(_: &[ValueRef<'_>]) -> Result<Value, SqlError> {
    Err(SqlError::new(
        ErrorCode::CardinalityViolation,
        "MERGE command cannot affect row a second time",
    )
    .with_hint("Ensure that not more than one source row matches any one target row."))
}

/// `sh_refuse_value(domain, constraint)`: a domain does not take a value; it takes no NULL if no
/// constraint is named.
fn refuse_value(args: &[ValueRef<'_>]) -> Result<Value, SqlError> {
    let name = |index: usize| match args.get(index) {
        Some(ValueRef::Text(name)) => Some(*name),
        _ => None,
    };
    Err(crate::errors::domain_violation(
        name(0).unwrap_or_default(),
        name(1),
    ))
}

fn zero_step(_: &[ValueRef<'_>]) -> Result<Value, SqlError> {
    Err(SqlError::new(
        ErrorCode::InvalidParameterValue,
        "step size cannot equal zero",
    ))
}

/// `sh_series(first, last, step)`: integers as a JSON array.
fn series(args: &[ValueRef<'_>]) -> Result<Value, SqlError> {
    let [
        ValueRef::Integer(first),
        ValueRef::Integer(last),
        ValueRef::Integer(step),
    ] = args
    else {
        return Ok(Value::Null);
    };
    if *step == 0 {
        return zero_step(args);
    }
    let mut out = String::from("[");
    let mut next = Some(*first);
    while let Some(value) = next.filter(|value| {
        if *step > 0 {
            value <= last
        } else {
            value >= last
        }
    }) {
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(&value.to_string());
        if out.len() > MAX_RESULT_BYTES {
            return Err(SqlError::new(
                ErrorCode::StatementTooLarge,
                "the series is too long",
            ));
        }
        next = value.checked_add(*step);
    }
    out.push(']');
    Ok(Value::Text(out))
}

/// `sh_array_distinct(array, oid, typmod, flags)`: its elements sorted, each once; flags 1:
/// descending, 2: without NULL. NULL is the greatest, as PostgreSQL sorts it.
fn array_distinct(args: &[ValueRef<'_>]) -> Result<Value, SqlError> {
    let [
        ValueRef::Text(array),
        ValueRef::Integer(oid),
        ValueRef::Integer(typmod),
        ValueRef::Integer(flags),
    ] = args
    else {
        return Ok(Value::Null);
    };
    let element = u32::try_from(*oid)
        .ok()
        .zip(i32::try_from(*typmod).ok())
        .and_then(|(oid, typmod)| PgType::from_oid(oid, typmod))
        .ok_or_else(|| SqlError::new(ErrorCode::Internal, "an array of an unknown type"))?;
    let mut elements = types::array::elements(&element, array)?;
    elements.sort_by(|a, b| order(a.as_ref(), b.as_ref()));
    elements.dedup_by(|a, b| order(a.as_ref(), b.as_ref()).is_eq());
    if flags & 2 != 0 {
        elements.retain(|element| *element != Value::Null);
    }
    if flags & 1 != 0 {
        elements.reverse();
    }
    Ok(Value::Text(types::array::store(
        &element,
        elements.iter().map(Value::as_ref),
    )))
}

fn order(a: ValueRef<'_>, b: ValueRef<'_>) -> Ordering {
    match (a, b) {
        (ValueRef::Null, ValueRef::Null) => Ordering::Equal,
        (ValueRef::Null, _) => Ordering::Greater,
        (_, ValueRef::Null) => Ordering::Less,
        (ValueRef::Integer(a), ValueRef::Integer(b)) => a.cmp(&b),
        (ValueRef::Real(a), ValueRef::Real(b)) => a.total_cmp(&b),
        (ValueRef::Text(a), ValueRef::Text(b)) => a.cmp(b),
        (ValueRef::Blob(a), ValueRef::Blob(b)) => a.cmp(b),
        _ => Ordering::Equal,
    }
}

/// The least text that a LIKE pattern can match, by its fixed beginning.
fn like_low(args: &[ValueRef<'_>]) -> Result<Value, SqlError> {
    Ok(match args {
        [ValueRef::Text(pattern)] => {
            Value::Text(prefix_range(pattern).map_or_else(String::new, |(low, _)| low))
        }
        _ => Value::Null,
    })
}

/// What is greater than every text that a LIKE pattern can match: without a fixed beginning a blob,
/// which SQLite takes for greater than any text.
fn like_high(args: &[ValueRef<'_>]) -> Result<Value, SqlError> {
    Ok(match args {
        [ValueRef::Text(pattern)] => match prefix_range(pattern) {
            Some((_, high)) => Value::Text(high),
            None => Value::Blob(Vec::new()),
        },
        _ => Value::Null,
    })
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
    let [ValueRef::Text(text), ValueRef::Integer(length)] = args else {
        return Ok(Value::Null);
    };
    let text = text.trim_end_matches(' ');
    let missing = usize::try_from(*length)
        .unwrap_or(0)
        .saturating_sub(text.chars().count());
    Ok(Value::Text(format!("{text}{}", " ".repeat(missing))))
}
