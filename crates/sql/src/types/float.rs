//! real and double precision: PostgreSQL's spellings in, its shortest exact form out.

use std::io::Write;

use springhead_proto::{ErrorCode, SqlError};

use super::PgType;
use super::text::{invalid_syntax, trim};

/// Reads a double precision.
pub(crate) fn read_float8(text: &str) -> Result<f64, SqlError> {
    let (value, is_zero) = parse(text, &PgType::Float8)?;
    // A number that is not written as infinity or zero and becomes it has left the range.
    if (value.is_infinite() && has_digit(text)) || (value == 0.0 && !is_zero) {
        return Err(out_of_range(text, &PgType::Float8));
    }
    Ok(value)
}

/// Reads a real: the nearest 32-bit float.
pub(crate) fn read_float4(text: &str) -> Result<f64, SqlError> {
    let (wide, is_zero) = parse(text, &PgType::Float4)?;
    // Rounded once, from the text: rounding the double again could differ.
    let value = trim(text).parse::<f32>().map_or(wide, f64::from);
    if (value.is_infinite() && has_digit(text)) || (value == 0.0 && !is_zero) {
        return Err(out_of_range(text, &PgType::Float4));
    }
    Ok(value)
}

fn has_digit(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_digit())
}

fn out_of_range(text: &str, ty: &PgType) -> SqlError {
    SqlError::new(
        ErrorCode::NumericOutOfRange,
        format!(
            "\"{}\" is out of range for type {}",
            trim(text),
            ty.sql_name()
        ),
    )
}

/// The value, and whether every digit of its significand is zero.
fn parse(text: &str, ty: &PgType) -> Result<(f64, bool), SqlError> {
    let trimmed = trim(text);
    let unsigned = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
    if unsigned.eq_ignore_ascii_case("nan") {
        return Err(nan(ty));
    }
    // Rust takes the same spellings (`inf`, `infinity`, digits, exponent).
    let value: f64 = trimmed.parse().map_err(|_| invalid_syntax(ty, text))?;
    let significand = unsigned.split(['e', 'E']).next().unwrap_or_default();
    Ok((
        value,
        !significand.bytes().any(|byte| matches!(byte, b'1'..=b'9')),
    ))
}

/// SQLite turns a float NaN into NULL, so it is refused rather than lost.
pub(crate) fn nan(ty: &PgType) -> SqlError {
    SqlError::unsupported(format_args!("NaN as a value of type {}", ty.sql_name()))
}

/// A float NaN is an error; all else is a value.
pub(crate) fn not_nan(value: f64, ty: &PgType) -> Result<f64, SqlError> {
    if value.is_nan() {
        Err(nan(ty))
    } else {
        Ok(value)
    }
}

/// The fewest digits that read back as the same double.
pub(crate) fn write_float8(value: f64, out: &mut Vec<u8>) {
    let mut buffer = [0u8; 32];
    write(value, &mut buffer, 15, out, |value, mut to| {
        write!(to, "{value:e}").is_ok()
    });
}

/// The fewest digits that read back as the same 32-bit float.
pub(crate) fn write_float4(value: f64, out: &mut Vec<u8>) {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a stored real is a 32-bit float exactly"
    )]
    let narrow = value as f32;
    let mut buffer = [0u8; 32];
    write(value, &mut buffer, 6, out, |_, mut to| {
        write!(to, "{narrow:e}").is_ok()
    });
}

/// `scientific` writes `d.ddde±x`; numbers from 10^-4 to 10^`digits` are printed without exponent.
fn write(
    value: f64,
    buffer: &mut [u8; 32],
    digits: i32,
    out: &mut Vec<u8>,
    scientific: impl FnOnce(f64, &mut [u8]) -> bool,
) {
    if !value.is_finite() {
        let name: &[u8] = if value.is_nan() {
            b"NaN"
        } else if value > 0.0 {
            b"Infinity"
        } else {
            b"-Infinity"
        };
        return out.extend_from_slice(name);
    }
    let fits = scientific(value, buffer);
    debug_assert!(fits, "a shortest float takes at most 24 bytes");
    let length = buffer
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(buffer.len());
    let written = &buffer[..length];
    let at = written
        .iter()
        .position(|&byte| byte == b'e')
        .unwrap_or(length);
    let exponent = std::str::from_utf8(written.get(at + 1..).unwrap_or_default())
        .ok()
        .and_then(|text| text.parse::<i32>().ok())
        .unwrap_or(0);
    let mantissa = match &written[..at] {
        [b'-', rest @ ..] => {
            out.push(b'-');
            rest
        }
        rest => rest,
    };
    if !(-4..digits).contains(&exponent) {
        out.extend_from_slice(mantissa);
        out.push(b'e');
        out.push(if exponent < 0 { b'-' } else { b'+' });
        if exponent.unsigned_abs() < 10 {
            out.push(b'0');
        }
        return super::text::write_int(exponent.unsigned_abs().into(), out);
    }
    let significant = mantissa.iter().copied().filter(|&byte| byte != b'.');
    match usize::try_from(exponent) {
        Err(_) => {
            out.extend_from_slice(b"0.");
            out.extend(std::iter::repeat_n(
                b'0',
                usize::try_from(-exponent - 1).unwrap_or(0),
            ));
            out.extend(significant);
        }
        Ok(whole) => {
            let mut left = whole + 1;
            for digit in significant {
                if left == 0 {
                    out.push(b'.');
                    left = usize::MAX;
                }
                out.push(digit);
                left -= 1;
            }
            if left < whole + 1 {
                out.extend(std::iter::repeat_n(b'0', left));
            }
        }
    }
}
