//! The texts of values: what is read from literals, parameters and COPY, and what is printed on the
//! PostgreSQL protocol and in JSON. Dispatches to one file per kind of type.
//!
//! Integers and texts are the hottest path of the server: nothing is allocated for them but the
//! value itself, and nothing goes through `format!`.

use springhead_proto::{ErrorCode, SqlError, Value, ValueRef};

use super::{PgType, array, bytea, datetime, float, interval, json, numeric, reg, uuid};

/// Reads a value as PostgreSQL's input function of the type does, and as it is assigned to a column
/// of the type: varchar(n) and char(n) refuse what is too long unless only blanks are cut (22001).
///
/// # Errors
/// 22P02, 22003, 22001, 22007, 22008 with PostgreSQL's messages; 0A000 for values that cannot be
/// stored (a float `NaN`) or that depend on the clock (`now`).
pub fn input(ty: &PgType, text: &str) -> Result<Value, SqlError> {
    read(ty, text, false)
}

/// As [`input`], but as an explicit cast does it: varchar(n) and char(n) cut what is too long.
///
/// # Errors
/// As [`input`], except 22001.
pub fn input_explicit(ty: &PgType, text: &str) -> Result<Value, SqlError> {
    read(ty, text, true)
}

fn read(ty: &PgType, text: &str, explicit: bool) -> Result<Value, SqlError> {
    Ok(match ty {
        PgType::Bool => Value::Integer(i64::from(read_bool(text)?)),
        PgType::Int2 => Value::Integer(read_int(text, i16::MIN.into(), i16::MAX.into(), ty)?),
        PgType::Int4 => Value::Integer(read_int(text, i32::MIN.into(), i32::MAX.into(), ty)?),
        PgType::Int8 => Value::Integer(read_int(text, i64::MIN, i64::MAX, ty)?),
        PgType::Oid => Value::Integer(read_oid(text)?),
        PgType::Float4 => Value::Real(float::read_float4(text)?),
        PgType::Float8 => Value::Real(float::read_float8(text)?),
        PgType::Numeric(modifier) => numeric::read(text, *modifier)?,
        PgType::Text | PgType::Unknown => Value::Text(text_without_nul(text)?.to_owned()),
        PgType::Varchar(None) => Value::Text(text_without_nul(text)?.to_owned()),
        PgType::Varchar(Some(length)) => {
            Value::Text(fit(text_without_nul(text)?, *length, ty, explicit)?.to_owned())
        }
        PgType::Char(length) => Value::Text(pad(
            fit(text_without_nul(text)?, *length, ty, explicit)?,
            *length,
        )),
        PgType::Name => Value::Text(cut_name(text_without_nul(text)?).to_owned()),
        PgType::Bytea => Value::Blob(bytea::read(text)?),
        PgType::Date => Value::Integer(datetime::read_date(text)?),
        PgType::Time => Value::Integer(datetime::read_time(text)?),
        PgType::Timestamp => Value::Integer(datetime::read_timestamp(text)?),
        PgType::Timestamptz => Value::Integer(datetime::read_timestamptz(text)?),
        PgType::Interval => Value::Blob(interval::read(text)?.encode()),
        PgType::Uuid => Value::Text(uuid::read(text)?),
        PgType::Json => {
            json::validate(text)?;
            Value::Text(text.to_owned())
        }
        PgType::Jsonb => Value::Text(json::normalise(text)?),
        PgType::Array(element) => Value::Text(array::read(element, text)?),
        PgType::InternalChar => Value::Text(first_char(text_without_nul(text)?).to_owned()),
        PgType::Int2Vector | PgType::OidVector => {
            let element = ty.element().expect("vectors have elements");
            let list: Vec<&str> = text.split_ascii_whitespace().collect();
            Value::Text(array::read(element, &format!("{{{}}}", list.join(",")))?)
        }
        // Names are looked up by the planner, or by a cast from text when the statement runs.
        PgType::Reg(_) => Value::Integer(read_oid(text)?),
        PgType::Precise(moment, digits) => {
            moment.round_value(read(&moment.plain(), text, explicit)?, *digits)?
        }
        PgType::Enum(user) => Value::Text(user.read(text)?.to_owned()),
        PgType::Domain(user) => read(user.base(), text, explicit)?,
        PgType::Record(_) => {
            return Err(SqlError::unsupported("input of anonymous composite types"));
        }
        PgType::Void => Value::Null,
    })
}

/// Prints a value as PostgreSQL's output function of the type does; nothing for NULL, which each
/// protocol marks in its own way. `timestamptz` is in UTC.
///
/// A value whose storage form is not its type's (damage, or a planner's mistake) is printed as
/// SQLite has it.
pub fn output_text(ty: &PgType, value: ValueRef<'_>, out: &mut Vec<u8>) {
    match (ty, value) {
        (_, ValueRef::Null) => {}
        (PgType::Precise(moment, _), _) => output_text(&moment.plain(), value, out),
        (PgType::Domain(user), _) => output_text(user.base(), value, out),
        (PgType::Bool, ValueRef::Integer(value)) => out.push(if value == 0 { b'f' } else { b't' }),
        (PgType::Date, ValueRef::Integer(value)) => datetime::write_date(value, out),
        (PgType::Time, ValueRef::Integer(value)) => datetime::write_time(value, out),
        (PgType::Timestamp, ValueRef::Integer(value)) => {
            datetime::write_timestamp(value, b' ', out)
        }
        (PgType::Timestamptz, ValueRef::Integer(value)) => {
            datetime::write_timestamptz(value, b' ', b"+00", out);
        }
        (PgType::Float4, ValueRef::Real(value)) => float::write_float4(value, out),
        (_, ValueRef::Real(value)) => float::write_float8(value, out),
        (PgType::Numeric(_), _) => numeric::write(ty, value, out),
        (_, ValueRef::Integer(value)) => write_int(value, out),
        (PgType::Interval, ValueRef::Blob(bytes)) => interval::write(bytes, out),
        (PgType::Array(element), ValueRef::Text(value)) => array::write(element, value, out),
        (PgType::Int2Vector | PgType::OidVector, ValueRef::Text(value)) => {
            out.extend(value.bytes().filter_map(|byte| match byte {
                b'[' | b']' => None,
                b',' => Some(b' '),
                byte => Some(byte),
            }));
        }
        (PgType::Reg(_), ValueRef::Text(value)) => {
            out.extend_from_slice(reg::name_of(value).as_bytes());
        }
        (_, ValueRef::Text(value)) => out.extend_from_slice(value.as_bytes()),
        (_, ValueRef::Blob(bytes)) => bytea::write(bytes, out),
    }
}

/// Prints a value as PostgreSQL's `row_to_json` does; NULL is `null`. `timestamptz` is in UTC.
pub fn output_json(ty: &PgType, value: ValueRef<'_>, out: &mut Vec<u8>) {
    match (ty, value) {
        (_, ValueRef::Null) => out.extend_from_slice(b"null"),
        (PgType::Precise(moment, _), _) => output_json(&moment.plain(), value, out),
        (PgType::Domain(user), _) => output_json(user.base(), value, out),
        (PgType::Bool, ValueRef::Integer(value)) => {
            out.extend_from_slice(if value == 0 { b"false" } else { b"true" });
        }
        (PgType::Int2 | PgType::Int4 | PgType::Int8, ValueRef::Integer(value)) => {
            write_int(value, out)
        }
        (PgType::Int2Vector | PgType::OidVector, ValueRef::Text(value)) => {
            out.extend_from_slice(value.as_bytes());
        }
        (
            PgType::Text
            | PgType::Varchar(_)
            | PgType::Char(_)
            | PgType::Name
            | PgType::InternalChar
            | PgType::Enum(_)
            | PgType::Record(_)
            | PgType::Unknown,
            ValueRef::Text(value),
        ) => {
            json::write_string(value, out);
        }
        (PgType::Uuid, ValueRef::Text(value)) => {
            quoted(out, |out| out.extend_from_slice(value.as_bytes()))
        }
        (PgType::Json | PgType::Jsonb, ValueRef::Text(value)) => {
            out.extend_from_slice(value.as_bytes());
        }
        // Arrays are stored as row_to_json prints them.
        (PgType::Array(_), ValueRef::Text(value)) => out.extend_from_slice(value.as_bytes()),
        (PgType::Timestamp, ValueRef::Integer(value)) => {
            quoted(out, |out| datetime::write_timestamp(value, b'T', out));
        }
        (PgType::Timestamptz, ValueRef::Integer(value)) => {
            quoted(out, |out| {
                datetime::write_timestamptz(value, b'T', b"+00:00", out)
            });
        }
        (PgType::Bytea, ValueRef::Blob(bytes)) => {
            out.extend_from_slice(b"\"\\");
            bytea::write(bytes, out);
            out.push(b'"');
        }
        (PgType::Float4 | PgType::Float8 | PgType::Numeric(_), _) => {
            // What is no JSON number (Infinity, NaN) is a string, as in PostgreSQL.
            let start = out.len();
            output_text(ty, value, out);
            if !out[start..]
                .iter()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e'))
            {
                out.insert(start, b'"');
                out.push(b'"');
            }
        }
        _ => quoted(out, |out| output_text(ty, value, out)),
    }
}

/// For texts that hold nothing to escape.
fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

/// Prints an integer.
pub fn write_int(value: i64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut left = value.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(left % 10).expect("a remainder of ten fits a byte");
        left /= 10;
        if left == 0 {
            break;
        }
    }
    if value < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

/// White space as C's isspace has it: what PostgreSQL's input functions skip.
#[must_use]
pub fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| matches!(c, ' ' | '\t'..='\r'))
}

/// 22P02 with PostgreSQL's message.
pub(crate) fn invalid_syntax(ty: &PgType, text: &str) -> SqlError {
    SqlError::new(
        ErrorCode::InvalidTextRepresentation,
        format!(
            "invalid input syntax for type {}: \"{text}\"",
            ty.base_name()
        ),
    )
}

fn out_of_range(ty: &PgType, text: &str) -> SqlError {
    SqlError::new(
        ErrorCode::NumericOutOfRange,
        format!(
            "value \"{text}\" is out of range for type {}",
            ty.base_name()
        ),
    )
}

fn read_int(text: &str, min: i64, max: i64, ty: &PgType) -> Result<i64, SqlError> {
    let trimmed = trim(text).as_bytes();
    let (negative, digits) = match trimmed {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return Err(invalid_syntax(ty, text));
    }
    // Negative all along: its range is the wider one.
    let mut value: Option<i64> = Some(0);
    for &byte in digits {
        if !byte.is_ascii_digit() {
            return Err(invalid_syntax(ty, text));
        }
        value = value.and_then(|value| value.checked_mul(10)?.checked_sub(i64::from(byte - b'0')));
    }
    value
        .and_then(|value| {
            if negative {
                Some(value)
            } else {
                value.checked_neg()
            }
        })
        .filter(|value| (min..=max).contains(value))
        .ok_or_else(|| out_of_range(ty, text))
}

/// As PostgreSQL, an oid may also be written as the negative number of the same 32 bits.
fn read_oid(text: &str) -> Result<i64, SqlError> {
    let value = read_int(text, i32::MIN.into(), u32::MAX.into(), &PgType::Oid)?;
    Ok(if value < 0 { value + (1 << 32) } else { value })
}

fn read_bool(text: &str) -> Result<bool, SqlError> {
    let word = trim(text);
    if word == "t" || word == "1" {
        return Ok(true);
    }
    if word == "f" || word == "0" {
        return Ok(false);
    }
    // Any beginning of a word that no other word begins with.
    let begins = |full: &str, least: usize| {
        word.len() >= least
            && word.len() <= full.len()
            && full.as_bytes()[..word.len()].eq_ignore_ascii_case(word.as_bytes())
    };
    if begins("true", 1) || begins("yes", 1) || begins("on", 2) {
        Ok(true)
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) {
        Ok(false)
    } else {
        Err(invalid_syntax(&PgType::Bool, text))
    }
}

/// PostgreSQL's texts hold no NUL.
pub(crate) fn text_without_nul(text: &str) -> Result<&str, SqlError> {
    if text.as_bytes().contains(&0) {
        return Err(SqlError::new(
            ErrorCode::InvalidByteSequence,
            "invalid byte sequence for encoding \"UTF8\": 0x00",
        ));
    }
    Ok(text)
}

/// The first `length` characters; refused, unless `explicit`, if more than blanks would be cut.
pub(crate) fn fit<'t>(
    text: &'t str,
    length: u32,
    ty: &PgType,
    explicit: bool,
) -> Result<&'t str, SqlError> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if text.len() <= length {
        return Ok(text);
    }
    let Some((end, _)) = text.char_indices().nth(length) else {
        return Ok(text);
    };
    let (kept, cut) = text.split_at(end);
    if explicit || cut.bytes().all(|byte| byte == b' ') {
        return Ok(kept);
    }
    Err(SqlError::new(
        ErrorCode::StringTooLong,
        format!("value too long for type {}", ty.sql_name()),
    ))
}

/// Padded with blanks to `length` characters.
pub(crate) fn pad(text: &str, length: u32) -> String {
    let have = text.chars().count();
    let missing = usize::try_from(length)
        .unwrap_or(usize::MAX)
        .saturating_sub(have);
    let mut padded = String::with_capacity(text.len() + missing);
    padded.push_str(text);
    padded.extend(std::iter::repeat_n(' ', missing));
    padded
}

/// `"char"` keeps one character.
fn first_char(text: &str) -> &str {
    text.chars().next().map_or("", |c| &text[..c.len_utf8()])
}

/// At most 63 bytes, whole characters.
pub(crate) fn cut_name(text: &str) -> &str {
    &text[..text.floor_char_boundary(63)]
}
