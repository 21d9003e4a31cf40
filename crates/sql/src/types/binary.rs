//! The binary forms of PostgreSQL's protocol.
//!
//! Big-endian. Dates and timestamps count from 2000-01-01; numerics are in base 10,000; an array
//! is its dimensions, the element type's oid and the elements, each with its length.

use springhead_proto::{ErrorCode, SqlError, Value, ValueRef};

use super::datetime::{DAY, INFINITY, MINUS_INFINITY, in_range};
use super::interval::Interval;
use super::json::{self, Json};
use super::numeric::{Decimal, Int, MAX_SCALE, Numeric};
use super::text::{fit, pad, text_without_nul};
use super::{PgType, array, float, output_json, output_text, record, uuid};

/// 2000-01-01 in microseconds since 1970.
const EPOCH_2000: i64 = 10_957 * DAY;

/// Reads a value's binary form.
///
/// # Errors
/// 22P03 if the bytes are no such value, and as [`super::input`].
pub fn input_binary(ty: &PgType, bytes: &[u8]) -> Result<Value, SqlError> {
    let wrong = || {
        SqlError::new(
            ErrorCode::InvalidBinaryRepresentation,
            format!(
                "incorrect binary data format of {} bytes for type {}",
                bytes.len(),
                ty.sql_name()
            ),
        )
    };
    let int2 = || {
        bytes
            .try_into()
            .map(i16::from_be_bytes)
            .map_err(|_| wrong())
    };
    let int4 = || {
        bytes
            .try_into()
            .map(i32::from_be_bytes)
            .map_err(|_| wrong())
    };
    let int8 = || {
        bytes
            .try_into()
            .map(i64::from_be_bytes)
            .map_err(|_| wrong())
    };
    let text = || {
        let text = std::str::from_utf8(bytes).map_err(|_| {
            SqlError::new(
                ErrorCode::InvalidByteSequence,
                "invalid byte sequence for encoding \"UTF8\"",
            )
        })?;
        text_without_nul(text)
    };
    Ok(match ty {
        PgType::Bool => match bytes {
            [value] => Value::Integer(i64::from(*value != 0)),
            _ => return Err(wrong()),
        },
        PgType::Int2 => Value::Integer(int2()?.into()),
        PgType::Int4 => Value::Integer(int4()?.into()),
        PgType::Int8 => Value::Integer(int8()?),
        PgType::Oid | PgType::Reg(_) => Value::Integer(int4()?.cast_unsigned().into()),
        PgType::Float4 => {
            let value = bytes
                .try_into()
                .map(f32::from_be_bytes)
                .map_err(|_| wrong())?;
            Value::Real(float::not_nan(value.into(), ty)?)
        }
        PgType::Float8 => {
            let value = bytes
                .try_into()
                .map(f64::from_be_bytes)
                .map_err(|_| wrong())?;
            Value::Real(float::not_nan(value, ty)?)
        }
        PgType::Numeric(modifier) => {
            let numeric = read_numeric(bytes).ok_or_else(wrong)?;
            match modifier {
                Some((precision, scale)) => numeric.to_column(*precision, *scale)?,
                None => numeric.to_value()?,
            }
        }
        PgType::Varchar(Some(length)) => Value::Text(fit(text()?, *length, ty, false)?.to_owned()),
        PgType::Char(length) => Value::Text(pad(fit(text()?, *length, ty, false)?, *length)),
        PgType::Text
        | PgType::Varchar(None)
        | PgType::Name
        | PgType::InternalChar
        | PgType::Unknown
        | PgType::Enum(_)
        | PgType::Json => super::input(ty, text()?)?,
        PgType::Precise(moment, digits) => {
            moment.round_value(input_binary(&moment.plain(), bytes)?, *digits)?
        }
        PgType::Domain(user) => input_binary(user.base(), bytes)?,
        PgType::Jsonb => match text()?.strip_prefix('\u{1}') {
            Some(text) => super::input(ty, text)?,
            None => return Err(wrong()),
        },
        PgType::Bytea => Value::Blob(bytes.to_vec()),
        PgType::Date => Value::Integer(match int4()? {
            i32::MAX => INFINITY,
            i32::MIN => MINUS_INFINITY,
            days => checked(
                i64::from(days)
                    .checked_mul(DAY)
                    .and_then(|micros| micros.checked_add(EPOCH_2000))
                    .ok_or_else(wrong)?,
            )?,
        }),
        PgType::Time => Value::Integer(
            Some(int8()?)
                .filter(|micros| (0..=DAY).contains(micros))
                .ok_or_else(wrong)?,
        ),
        PgType::Timestamp | PgType::Timestamptz => Value::Integer(match int8()? {
            infinite @ (i64::MAX | i64::MIN) => infinite,
            micros => checked(micros.checked_add(EPOCH_2000).ok_or_else(wrong)?)?,
        }),
        PgType::Interval => read_interval(bytes.try_into().map_err(|_| wrong())?),
        PgType::Uuid => Value::Text(uuid::from_bytes(bytes.try_into().map_err(|_| wrong())?)),
        PgType::Array(element) => Value::Text(read_array(element, bytes)?.ok_or_else(wrong)?),
        PgType::Int2Vector => Value::Text(read_array(&PgType::Int2, bytes)?.ok_or_else(wrong)?),
        PgType::OidVector => Value::Text(read_array(&PgType::Oid, bytes)?.ok_or_else(wrong)?),
        PgType::Record(_) => {
            return Err(SqlError::unsupported("input of anonymous composite types"));
        }
        PgType::Void => Value::Null,
    })
}

/// Writes a value's binary form; nothing for NULL, which the protocol marks in its own way.
pub fn output_binary(ty: &PgType, value: ValueRef<'_>, out: &mut Vec<u8>) {
    match (ty, value) {
        (PgType::Bool, ValueRef::Integer(value)) => out.push(u8::from(value != 0)),
        #[expect(clippy::cast_possible_truncation, reason = "a stored smallint is one")]
        (PgType::Int2, ValueRef::Integer(value)) => out.extend((value as i16).to_be_bytes()),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a stored integer or oid has 32 bits"
        )]
        (PgType::Int4 | PgType::Oid | PgType::Reg(_), ValueRef::Integer(value)) => {
            out.extend((value as i32).to_be_bytes())
        }
        (PgType::Int8 | PgType::Time, ValueRef::Integer(value)) => out.extend(value.to_be_bytes()),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a stored real is a 32-bit float exactly"
        )]
        (PgType::Float4, ValueRef::Real(value)) => out.extend((value as f32).to_be_bytes()),
        (PgType::Float8, ValueRef::Real(value)) => out.extend(value.to_be_bytes()),
        (PgType::Numeric(_), _) => {
            let numeric = match (value, ty.scaled()) {
                (ValueRef::Integer(value), Some(scale)) => {
                    Some(Numeric::from_scaled(value, scale.into()))
                }
                (value, _) => Numeric::from_value(value),
            };
            if let Some(numeric) = numeric {
                write_numeric(&numeric, out);
            }
        }
        (PgType::Date, ValueRef::Integer(value)) => {
            let days = match value {
                INFINITY => i32::MAX,
                MINUS_INFINITY => i32::MIN,
                micros => i32::try_from((micros - EPOCH_2000).div_euclid(DAY)).unwrap_or(i32::MAX),
            };
            out.extend(days.to_be_bytes());
        }
        (PgType::Timestamp | PgType::Timestamptz, ValueRef::Integer(value)) => {
            let micros = match value {
                INFINITY | MINUS_INFINITY => value,
                micros => micros.saturating_sub(EPOCH_2000),
            };
            out.extend(micros.to_be_bytes());
        }
        (PgType::Interval, ValueRef::Blob(blob)) => {
            if let Some(interval) = Interval::decode(blob) {
                out.extend(interval.micros.to_be_bytes());
                out.extend(interval.days.to_be_bytes());
                out.extend(interval.months.to_be_bytes());
            }
        }
        (PgType::Uuid, ValueRef::Text(text)) => {
            out.extend(uuid::to_bytes(text).unwrap_or_default())
        }
        (PgType::Jsonb, ValueRef::Text(text)) => {
            out.push(1);
            out.extend_from_slice(text.as_bytes());
        }
        (PgType::Array(element), ValueRef::Text(stored)) => write_array(element, stored, out),
        (PgType::Record(types), ValueRef::Text(stored)) => record::write_binary(types, stored, out),
        (PgType::Int2Vector, ValueRef::Text(stored)) => write_array(&PgType::Int2, stored, out),
        (PgType::OidVector, ValueRef::Text(stored)) => write_array(&PgType::Oid, stored, out),
        (PgType::Reg(_), ValueRef::Text(shown)) => {
            out.extend(super::reg::oid_of(shown).to_be_bytes());
        }
        (_, ValueRef::Blob(bytes)) => out.extend_from_slice(bytes),
        _ => output_text(ty, value, out),
    }
}

fn checked(micros: i64) -> Result<i64, SqlError> {
    if in_range(micros) {
        Ok(micros)
    } else {
        Err(super::datetime::out_of_range("timestamp"))
    }
}

fn read_interval(bytes: &[u8; 16]) -> Value {
    let [micros @ .., d0, d1, d2, d3, m0, m1, m2, m3] = *bytes;
    let interval = Interval {
        micros: i64::from_be_bytes(micros),
        days: i32::from_be_bytes([d0, d1, d2, d3]),
        months: i32::from_be_bytes([m0, m1, m2, m3]),
    };
    Value::Blob(interval.encode())
}

fn read_numeric(bytes: &[u8]) -> Option<Numeric> {
    let mut words = bytes
        .chunks_exact(2)
        .map(|word| i16::from_be_bytes([word[0], word[1]]));
    let (count, weight, sign, scale) = (words.next()?, words.next()?, words.next()?, words.next()?);
    match sign.cast_unsigned() {
        0xc000 => return Some(Numeric::NaN),
        0xd000 => return Some(Numeric::Infinity),
        0xf000 => return Some(Numeric::MinusInfinity),
        0 | 0x4000 => {}
        _ => return None,
    }
    let count = usize::try_from(count)
        .ok()
        .filter(|count| bytes.len() == 8 + 2 * count)?;
    let scale = u32::try_from(scale)
        .ok()
        .filter(|&scale| scale <= MAX_SCALE)?;
    let mut digits = Vec::with_capacity(4 * count);
    for word in words {
        let word = u16::try_from(word).ok().filter(|&word| word < 10_000)?;
        digits.extend(format!("{word:04}").bytes());
    }
    // The digits' integer stands for itself × 10,000^(weight + 1 - count).
    let natural = 4 * (i64::try_from(count).ok()? - 1 - i64::from(weight));
    let unscaled = Int::from_digits(&digits);
    let decimal = match u32::try_from(natural) {
        Ok(natural) => Decimal {
            unscaled,
            scale: natural,
        },
        Err(_) => Decimal {
            unscaled: unscaled.mul(&Int::pow10(u32::try_from(-natural).ok()?)),
            scale: 0,
        },
    };
    let decimal = decimal.trunc(i32::try_from(scale).ok()?);
    Some(Numeric::Finite(if sign == 0 {
        decimal
    } else {
        decimal.negated()
    }))
}

fn write_numeric(numeric: &Numeric, out: &mut Vec<u8>) {
    let special: u16 = match numeric {
        Numeric::NaN => 0xc000,
        Numeric::Infinity => 0xd000,
        Numeric::MinusInfinity => 0xf000,
        Numeric::Finite(decimal) => return write_decimal(decimal, out),
    };
    out.extend([0; 4]);
    out.extend(special.to_be_bytes());
    out.extend([0; 2]);
}

fn write_decimal(decimal: &Decimal, out: &mut Vec<u8>) {
    // Zeros in front and behind, so that the point stands between groups of four.
    let scale = usize::try_from(decimal.scale).expect("a scale is below 2^15");
    let mut digits = decimal.unscaled.digits();
    digits.extend(std::iter::repeat_n(b'0', (4 - scale % 4) % 4));
    let missing = (4 - digits.len() % 4) % 4;
    digits.splice(0..0, std::iter::repeat_n(b'0', missing));
    let groups: Vec<u16> = digits
        .chunks_exact(4)
        .map(|group| {
            group
                .iter()
                .fold(0, |value, byte| value * 10 + u16::from(byte - b'0'))
        })
        .collect();
    let first = groups
        .iter()
        .position(|&group| group != 0)
        .unwrap_or(groups.len());
    let last = groups
        .iter()
        .rposition(|&group| group != 0)
        .map_or(first, |at| at + 1);
    let whole =
        i64::try_from(groups.len()).unwrap_or(0) - i64::try_from(scale.div_ceil(4)).unwrap_or(0);
    let weight = if first == last {
        0
    } else {
        whole - 1 - i64::try_from(first).unwrap_or(0)
    };
    let word = |value: i64| i16::try_from(value).unwrap_or(i16::MAX).to_be_bytes();
    out.extend(word(i64::try_from(last - first).unwrap_or(0)));
    out.extend(word(weight));
    out.extend(
        if decimal.unscaled.is_negative() {
            0x4000u16
        } else {
            0
        }
        .to_be_bytes(),
    );
    out.extend(word(decimal.scale.into()));
    for group in &groups[first..last] {
        out.extend(group.to_be_bytes());
    }
}

/// `None` if the bytes are no array of one dimension.
fn read_array(element: &PgType, bytes: &[u8]) -> Result<Option<String>, SqlError> {
    let mut rest = bytes;
    let mut word = || {
        let (word, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        Some(i32::from_be_bytes(*word))
    };
    let (Some(dimensions), Some(_flags), Some(_oid)) = (word(), word(), word()) else {
        return Ok(None);
    };
    if dimensions == 0 {
        return Ok(Some("[]".to_owned()));
    }
    if dimensions != 1 {
        return Err(SqlError::unsupported(
            "an array of several dimensions in binary form",
        ));
    }
    let (Some(count), Some(_lower)) = (word(), word()) else {
        return Ok(None);
    };
    let mut out = vec![b'['];
    for index in 0..count {
        if index > 0 {
            out.push(b',');
        }
        let Some((length, after)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        rest = after;
        match usize::try_from(i32::from_be_bytes(*length)) {
            // -1: NULL.
            Err(_) => out.extend_from_slice(b"null"),
            Ok(length) => {
                let Some((value, after)) = rest.split_at_checked(length) else {
                    return Ok(None);
                };
                rest = after;
                output_json(element, input_binary(element, value)?.as_ref(), &mut out);
            }
        }
    }
    out.push(b']');
    Ok(rest.is_empty().then(|| json::into_text(out)))
}

fn write_array(element: &PgType, stored: &str, out: &mut Vec<u8>) {
    let Ok(json) = json::parse(stored) else {
        return;
    };
    let is_json = matches!(element, PgType::Json | PgType::Jsonb);
    let mut shape = Vec::new();
    let mut level = &json;
    while let Json::Array(elements) = level {
        shape.push(elements.len());
        match elements.first() {
            Some(first) if !is_json => level = first,
            _ => break,
        }
    }
    if shape.contains(&0) {
        shape.clear();
    }
    let word = |value: usize| i32::try_from(value).unwrap_or(i32::MAX).to_be_bytes();
    out.extend(word(shape.len()));
    let flags = out.len();
    out.extend(word(0));
    out.extend(element.oid().to_be_bytes());
    for &length in &shape {
        out.extend(word(length));
        out.extend(word(1));
    }
    if !shape.is_empty() && write_elements(element, &json, shape.len(), out) {
        out[flags + 3] = 1;
    }
}

/// Whether there is a NULL among them.
fn write_elements(element: &PgType, json: &Json<'_>, depth: usize, out: &mut Vec<u8>) -> bool {
    if let (Json::Array(elements), 1..) = (json, depth) {
        return elements.iter().fold(false, |nulls, json| {
            write_elements(element, json, depth - 1, out) | nulls
        });
    }
    match array::decode_element(element, json) {
        Ok(Value::Null) | Err(_) => {
            out.extend((-1i32).to_be_bytes());
            true
        }
        Ok(value) => {
            let start = out.len();
            out.extend([0; 4]);
            output_binary(element, value.as_ref(), out);
            let length = i32::try_from(out.len() - start - 4).unwrap_or(i32::MAX);
            out[start..start + 4].copy_from_slice(&length.to_be_bytes());
            false
        }
    }
}
