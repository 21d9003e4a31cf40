//! Taking arguments apart, and the errors that many functions share.

use springhead_proto::{ErrorCode, SqlError, Value, ValueRef};

use super::MAX_RESULT_BYTES;
use crate::types::PgType;
use crate::types::interval::Interval;
use crate::types::numeric::Numeric;

/// A table entry for a function that is NULL for any NULL argument.
macro_rules! strict {
    ($name:literal, $args:expr, $call:expr) => {
        $crate::functions::Scalar {
            name: $name,
            args: $args,
            deterministic: true,
            call: |args| {
                if args.iter().any(|arg| arg.is_null()) {
                    return Ok(springhead_proto::Value::Null);
                }
                let call: fn(
                    &[springhead_proto::ValueRef<'_>],
                )
                    -> Result<springhead_proto::Value, springhead_proto::SqlError> = $call;
                call(args)
            },
        }
    };
}

/// A table entry for a function that looks at NULLs itself.
macro_rules! lenient {
    ($name:literal, $args:expr, $call:expr) => {
        $crate::functions::Scalar {
            name: $name,
            args: $args,
            deterministic: true,
            call: $call,
        }
    };
}

pub(super) use {lenient, strict};

pub(super) type Args<'a, 'v> = &'a [ValueRef<'v>];
pub(super) type Outcome = Result<Value, SqlError>;

/// The integer at that place.
pub(super) fn int(args: Args<'_, '_>, at: usize) -> Result<i64, SqlError> {
    match args.get(at) {
        Some(ValueRef::Integer(value)) => Ok(*value),
        other => Err(mismatch(other, at, "an integer")),
    }
}

/// The double at that place; integers count.
pub(super) fn real(args: Args<'_, '_>, at: usize) -> Result<f64, SqlError> {
    match args.get(at) {
        Some(ValueRef::Real(value)) => Ok(*value),
        #[expect(
            clippy::cast_precision_loss,
            reason = "the nearest double is what PostgreSQL takes"
        )]
        Some(ValueRef::Integer(value)) => Ok(*value as f64),
        other => Err(mismatch(other, at, "a float")),
    }
}

/// The text at that place.
pub(super) fn text<'v>(args: Args<'_, 'v>, at: usize) -> Result<&'v str, SqlError> {
    match args.get(at) {
        Some(ValueRef::Text(value)) => Ok(value),
        other => Err(mismatch(other, at, "a text")),
    }
}

/// The bytes at that place.
pub(super) fn blob<'v>(args: Args<'_, 'v>, at: usize) -> Result<&'v [u8], SqlError> {
    match args.get(at) {
        Some(ValueRef::Blob(value)) => Ok(value),
        other => Err(mismatch(other, at, "a blob")),
    }
}

/// The numeric (BLOB form) at that place.
pub(super) fn numeric(args: Args<'_, '_>, at: usize) -> Result<Numeric, SqlError> {
    args.get(at)
        .and_then(|value| Numeric::from_value(*value))
        .ok_or_else(|| mismatch(args.get(at), at, "a numeric"))
}

/// The interval at that place.
pub(super) fn interval(args: Args<'_, '_>, at: usize) -> Result<Interval, SqlError> {
    Interval::decode(blob(args, at)?).ok_or_else(|| mismatch(args.get(at), at, "an interval"))
}

/// The type that `oid,typmod` at that place and the next stand for.
pub(super) fn pg_type(args: Args<'_, '_>, at: usize) -> Result<PgType, SqlError> {
    let (oid, typmod) = (int(args, at)?, int(args, at + 1)?);
    u32::try_from(oid)
        .ok()
        .zip(i32::try_from(typmod).ok())
        .and_then(|(oid, typmod)| PgType::from_oid(oid, typmod))
        .ok_or_else(|| SqlError::new(ErrorCode::Internal, format!("no type has the oid {oid}")))
}

/// An int4 that counts or places something, as an i64 within i32.
pub(super) fn bool_value(value: bool) -> Outcome {
    Ok(Value::Integer(i64::from(value)))
}

pub(super) fn text_value(bytes: Vec<u8>) -> Outcome {
    String::from_utf8(bytes).map(Value::Text).map_err(|_| {
        SqlError::new(
            ErrorCode::InvalidByteSequence,
            "invalid byte sequence for encoding \"UTF8\"",
        )
    })
}

/// How many characters, or any count, as a value.
pub(super) fn count(value: usize) -> Outcome {
    i64::try_from(value)
        .map(Value::Integer)
        .map_err(|_| too_large())
}

pub(super) fn mismatch(value: Option<&ValueRef<'_>>, at: usize, wanted: &str) -> SqlError {
    let got = match value {
        None => "missing",
        Some(ValueRef::Null) => "NULL",
        Some(ValueRef::Integer(_)) => "an integer",
        Some(ValueRef::Real(_)) => "a float",
        Some(ValueRef::Text(_)) => "a text",
        Some(ValueRef::Blob(_)) => "a blob",
    };
    SqlError::new(
        ErrorCode::Internal,
        format!("argument {} must be {wanted}, it is {got}", at + 1),
    )
}

/// 22003.
pub(super) fn out_of_range(ty: &str) -> SqlError {
    SqlError::new(ErrorCode::NumericOutOfRange, format!("{ty} out of range"))
}

/// 22012.
pub(super) fn division_by_zero() -> SqlError {
    SqlError::new(ErrorCode::DivisionByZero, "division by zero")
}

/// 22023.
pub(super) fn invalid_parameter(message: impl Into<String>) -> SqlError {
    SqlError::new(ErrorCode::InvalidParameterValue, message)
}

/// 54000.
pub(super) fn too_large() -> SqlError {
    SqlError::new(
        ErrorCode::StatementTooLarge,
        format!("the result of a function is larger than {MAX_RESULT_BYTES} bytes"),
    )
}

/// Refuses results above [`MAX_RESULT_BYTES`] before they are made.
pub(super) fn bounded(bytes: usize) -> Result<usize, SqlError> {
    if bytes > MAX_RESULT_BYTES {
        Err(too_large())
    } else {
        Ok(bytes)
    }
}
