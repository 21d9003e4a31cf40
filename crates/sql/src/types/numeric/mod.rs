//! numeric: exact decimals, with PostgreSQL's rules for the scale of each result.
//!
//! # Storage
//!
//! A numeric(p ≤ 18, s) is an INTEGER scaled by 10^s. Any other is a BLOB whose bytes compare
//! (memcmp) as the numbers do:
//!
//! ```text
//! blob     := class:1 [exponent:2 BE digits* end:1] scale:2 BE
//! class    := 1 -infinity | 2 negative | 3 zero | 4 positive | 5 infinity | 6 NaN
//! exponent := 0x8000 + e, where the number is 0.d1d2… × 100^e
//! digits   := each pair of decimal digits + 1, without trailing zero pairs
//! end      := 0
//! ```
//!
//! For a negative number exponent, digits and end are complemented. `scale` is the number of
//! digits that are printed after the point (PostgreSQL's display scale). It comes last, after a
//! self-ending number, so it decides the order only between equal numbers; the *key* of a BLOB is
//! the same without it, and equal numbers have equal keys (`sh_num_key`).
//!
//! Numbers have at most 16,383 digits after the point and [`MAX_DIGITS`] in all; beyond is 22003.

use std::cmp::Ordering;

use springhead_proto::{ErrorCode, SqlError, Value, ValueRef};

mod decimal;
mod int;

use super::PgType;
use super::text::{invalid_syntax, trim};
use decimal::{digit_count, write_scaled};

pub use decimal::Decimal;
pub use int::Int;

/// The most decimal digits of a number; half of PostgreSQL's bound before the point.
pub const MAX_DIGITS: usize = 65_000;
/// The most digits after the point.
pub const MAX_SCALE: u32 = 16_383;
/// `NaN` among scaled INTEGERs: greater than all.
pub const SCALED_NAN: i64 = i64::MAX;

const NEGATIVE: u8 = 2;
const ZERO: u8 = 3;
const POSITIVE: u8 = 4;

/// A numeric value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Numeric {
    MinusInfinity,
    Finite(Decimal),
    Infinity,
    NaN,
}

impl Numeric {
    /// PostgreSQL's order: -infinity, numbers, infinity, NaN; NaN equals itself.
    #[must_use]
    pub fn compare(&self, other: &Numeric) -> Ordering {
        match (self, other) {
            (Numeric::Finite(a), Numeric::Finite(b)) => a.compare(b),
            _ => self.class().cmp(&other.class()),
        }
    }

    fn class(&self) -> u8 {
        match self {
            Numeric::MinusInfinity => 1,
            Numeric::Finite(value) if value.is_zero() => ZERO,
            Numeric::Finite(value) if value.unscaled.is_negative() => NEGATIVE,
            Numeric::Finite(_) => POSITIVE,
            Numeric::Infinity => 5,
            Numeric::NaN => 6,
        }
    }

    /// Reads PostgreSQL's spellings of a number.
    ///
    /// # Errors
    /// 22P02 if it is none, 22003 if it has too many digits.
    pub fn parse(text: &str) -> Result<Numeric, SqlError> {
        let ty = PgType::Numeric(None);
        let trimmed = trim(text);
        let (negative, unsigned) = match trimmed.as_bytes() {
            [b'-', ..] => (true, &trimmed[1..]),
            [b'+', ..] => (false, &trimmed[1..]),
            _ => (false, trimmed),
        };
        if unsigned.starts_with(|c: char| c.is_ascii_alphabetic()) {
            let is = |word: &str| unsigned.eq_ignore_ascii_case(word);
            return match () {
                () if is("nan") && unsigned.len() == trimmed.len() => Ok(Numeric::NaN),
                () if (is("infinity") || is("inf")) && negative => Ok(Numeric::MinusInfinity),
                () if is("infinity") || is("inf") => Ok(Numeric::Infinity),
                () => Err(invalid_syntax(&ty, text)),
            };
        }
        let (significand, exponent) = match unsigned.find(['e', 'E']) {
            Some(at) => {
                let exponent = unsigned[at + 1..]
                    .strip_prefix('+')
                    .unwrap_or(&unsigned[at + 1..]);
                if exponent.is_empty() || exponent.starts_with('+') {
                    return Err(invalid_syntax(&ty, text));
                }
                let exponent = exponent.parse::<i64>().map_err(|error| {
                    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
                    match error.kind() {
                        PosOverflow | NegOverflow => overflow(),
                        _ => invalid_syntax(&ty, text),
                    }
                })?;
                (&unsigned[..at], exponent)
            }
            None => (unsigned, 0),
        };
        let (whole, fraction) = significand.split_once('.').unwrap_or((significand, ""));
        if whole.is_empty() && fraction.is_empty()
            || !whole
                .bytes()
                .chain(fraction.bytes())
                .all(|byte| byte.is_ascii_digit())
        {
            return Err(invalid_syntax(&ty, text));
        }
        let mut digits = Vec::with_capacity(whole.len() + fraction.len());
        digits.extend_from_slice(whole.as_bytes());
        digits.extend_from_slice(fraction.as_bytes());
        let start = digits
            .iter()
            .position(|&byte| byte != b'0')
            .unwrap_or(digits.len());
        let significant = digits.len() - start;
        let scale = digit_count(fraction.as_bytes()).saturating_sub(exponent);
        if significant > MAX_DIGITS || exponent.unsigned_abs() > MAX_DIGITS as u64 {
            return Err(overflow());
        }
        let mut unscaled = Int::from_digits(&digits[start..]);
        if negative {
            unscaled = unscaled.neg();
        }
        let decimal = match u32::try_from(scale) {
            Ok(scale) if scale <= MAX_SCALE => Decimal { unscaled, scale },
            Ok(scale) => Decimal { unscaled, scale }.round(16_383),
            Err(_) => {
                let up = u32::try_from(-scale).map_err(|_| overflow())?;
                Decimal {
                    unscaled: unscaled.mul(&Int::pow10(up)),
                    scale: 0,
                }
            }
        };
        Ok(Numeric::Finite(decimal))
    }

    /// The number that a double prints as, to 15 digits, as PostgreSQL casts it; NaN and infinities
    /// stay.
    #[must_use]
    pub fn from_f64(value: f64, digits: usize) -> Numeric {
        if value.is_nan() {
            return Numeric::NaN;
        }
        if value.is_infinite() {
            return if value > 0.0 {
                Numeric::Infinity
            } else {
                Numeric::MinusInfinity
            };
        }
        let text = format!("{value:.*e}", digits - 1);
        match Numeric::parse(&text) {
            // `%.15g` prints no trailing zeros.
            Ok(Numeric::Finite(decimal)) => Numeric::Finite(decimal.trimmed()),
            other => other.unwrap_or(Numeric::NaN),
        }
    }

    /// Reads a scaled INTEGER.
    #[must_use]
    pub fn from_scaled(value: i64, scale: u32) -> Numeric {
        if value == SCALED_NAN {
            Numeric::NaN
        } else {
            Numeric::Finite(Decimal::new(value.into(), scale))
        }
    }

    /// Reads a value in its BLOB form; an INTEGER counts as itself.
    #[must_use]
    pub fn from_value(value: ValueRef<'_>) -> Option<Numeric> {
        match value {
            ValueRef::Integer(value) => Some(Numeric::Finite(Decimal::from_int(value.into()))),
            ValueRef::Blob(bytes) => Numeric::decode(bytes),
            _ => None,
        }
    }

    /// Reads a BLOB, with or without its scale; `None` if it is none.
    #[must_use]
    pub fn decode(blob: &[u8]) -> Option<Numeric> {
        let (&class, rest) = blob.split_first()?;
        let negative = class == NEGATIVE;
        match class {
            1 => return Some(Numeric::MinusInfinity),
            5 => return Some(Numeric::Infinity),
            6 => return Some(Numeric::NaN),
            ZERO => {
                let scale = rest
                    .first_chunk()
                    .map_or(0, |bytes| u16::from_be_bytes(*bytes));
                return Some(Numeric::Finite(Decimal::new(0, scale.into())));
            }
            NEGATIVE | POSITIVE => {}
            _ => return None,
        }
        let flip = if negative { 0xff } else { 0 };
        let (exponent, rest) = rest.split_first_chunk::<2>()?;
        let exponent =
            i64::from(u16::from_be_bytes([exponent[0] ^ flip, exponent[1] ^ flip])) - 0x8000;
        let length = rest.iter().position(|&byte| byte == flip)?;
        let (pairs, tail) = rest.split_at(length);
        // The number is the pairs' integer × 100^(exponent - pairs).
        let natural = 2 * (i64::try_from(length).ok()? - exponent);
        let scale = match tail.get(1..3) {
            Some(bytes) => u32::from(u16::from_be_bytes([bytes[0], bytes[1]])),
            None => u32::try_from(natural).unwrap_or(0),
        };
        let shift = i64::from(scale) - natural;
        let mut unscaled = if length <= 18 {
            let mut value = 0i128;
            for &pair in pairs {
                value = value * 100 + i128::from((pair ^ flip).checked_sub(1)?);
            }
            Int::Small(value)
        } else {
            let mut digits = Vec::with_capacity(2 * length);
            for &pair in pairs {
                let pair = (pair ^ flip).checked_sub(1).filter(|&pair| pair < 100)?;
                digits.extend([b'0' + pair / 10, b'0' + pair % 10]);
            }
            Int::from_digits(&digits)
        };
        if shift > 0 {
            unscaled = unscaled.mul(&Int::pow10(u32::try_from(shift).ok()?));
        } else if shift < 0 {
            unscaled = unscaled.div(&Int::pow10(u32::try_from(-shift).ok()?));
        }
        let mut decimal = Decimal {
            unscaled: if negative { unscaled.neg() } else { unscaled },
            scale,
        };
        if tail.len() < 3 {
            decimal = decimal.trimmed();
        }
        Some(Numeric::Finite(decimal))
    }

    /// The BLOB form.
    ///
    /// # Errors
    /// 22003 if the number has too many digits.
    pub fn encode(&self) -> Result<Vec<u8>, SqlError> {
        let mut blob = Vec::with_capacity(16);
        let class = self.class();
        blob.push(class);
        let Numeric::Finite(decimal) = self else {
            blob.extend([0, 0]);
            return Ok(blob);
        };
        let scale = u16::try_from(decimal.scale).map_err(|_| overflow())?;
        if class != ZERO {
            encode_digits(decimal, class == NEGATIVE, &mut blob)?;
        }
        blob.extend(scale.to_be_bytes());
        Ok(blob)
    }

    /// As a value in its BLOB form.
    ///
    /// # Errors
    /// 22003 if the number has too many digits.
    pub fn to_value(&self) -> Result<Value, SqlError> {
        self.encode().map(Value::Blob)
    }

    /// As a value of a column numeric(`precision`, `scale`), rounded to its scale.
    ///
    /// # Errors
    /// 22003 if it does not fit.
    pub fn to_column(&self, precision: u16, scale: u16) -> Result<Value, SqlError> {
        let scaled = precision <= super::SCALED_PRECISION;
        let decimal = match self {
            Numeric::NaN if scaled => return Ok(Value::Integer(SCALED_NAN)),
            Numeric::NaN => return self.to_value(),
            Numeric::Infinity | Numeric::MinusInfinity => {
                return Err(field_overflow().with_detail(format!(
                    "A field with precision {precision}, scale {scale} cannot hold an infinite value."
                )));
            }
            Numeric::Finite(decimal) => decimal.round(scale.into()),
        };
        if decimal.unscaled.abs() >= Int::pow10(precision.into()) {
            let whole = precision - scale;
            let bound = if whole == 0 {
                "1".to_owned()
            } else {
                format!("10^{whole}")
            };
            return Err(field_overflow().with_detail(format!(
                "A field with precision {precision}, scale {scale} must round to an absolute value less than {bound}."
            )));
        }
        if scaled {
            return decimal
                .unscaled
                .to_i64()
                .map(Value::Integer)
                .ok_or_else(overflow);
        }
        Numeric::Finite(decimal).to_value()
    }

    /// Prints it.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Numeric::MinusInfinity => out.extend_from_slice(b"-Infinity"),
            Numeric::Finite(decimal) => decimal.write(out),
            Numeric::Infinity => out.extend_from_slice(b"Infinity"),
            Numeric::NaN => out.extend_from_slice(b"NaN"),
        }
    }
}

fn encode_digits(decimal: &Decimal, negative: bool, blob: &mut Vec<u8>) -> Result<(), SqlError> {
    let digits = decimal.unscaled.digits();
    if digits.len() > MAX_DIGITS {
        return Err(overflow());
    }
    let digits = &digits[..digits
        .iter()
        .rposition(|&byte| byte != b'0')
        .map_or(0, |at| at + 1)];
    // The point stands this many digits after the first; pairs are aligned to it.
    let point = digit_count(&decimal.unscaled.digits()) - i64::from(decimal.scale);
    let exponent = (point + 1).div_euclid(2);
    let odd = point.rem_euclid(2) == 1;
    let flip = if negative { 0xff } else { 0 };
    let biased = u16::try_from(exponent + 0x8000).map_err(|_| overflow())?;
    blob.extend(biased.to_be_bytes().map(|byte| byte ^ flip));
    let mut rest = digits;
    if odd {
        blob.push((rest[0] - b'0' + 1) ^ flip);
        rest = &rest[1..];
    }
    for pair in rest.chunks(2) {
        let low = pair.get(1).map_or(0, |byte| byte - b'0');
        blob.push(((pair[0] - b'0') * 10 + low + 1) ^ flip);
    }
    blob.push(flip);
    Ok(())
}

/// The key of a BLOB numeric: itself without its scale. Empty for what is no numeric.
#[must_use]
pub fn key(blob: &[u8]) -> &[u8] {
    let flip = match blob.first() {
        Some(&NEGATIVE) => 0xff,
        Some(&POSITIVE) => 0,
        Some(_) => return &blob[..1],
        None => return blob,
    };
    let digits = blob.get(3..).unwrap_or_default();
    match digits.iter().position(|&byte| byte == flip) {
        Some(end) => &blob[..=3 + end],
        None => blob,
    }
}

pub(crate) fn read(text: &str, modifier: Option<(u16, u16)>) -> Result<Value, SqlError> {
    let numeric = Numeric::parse(text)?;
    match modifier {
        Some((precision, scale)) => numeric.to_column(precision, scale),
        None => numeric.to_value(),
    }
}

pub(crate) fn write(ty: &PgType, value: ValueRef<'_>, out: &mut Vec<u8>) {
    match (ty.scaled(), value) {
        (Some(_), ValueRef::Integer(SCALED_NAN)) => out.extend_from_slice(b"NaN"),
        (Some(scale), ValueRef::Integer(value)) => {
            if value < 0 {
                out.push(b'-');
            }
            write_scaled(&Int::Small(value.into()).digits(), scale.into(), out);
        }
        (_, ValueRef::Integer(value)) => super::text::write_int(value, out),
        (_, ValueRef::Text(text)) => out.extend_from_slice(text.as_bytes()),
        (_, ValueRef::Blob(bytes)) => match Numeric::decode(bytes) {
            Some(numeric) => numeric.write(out),
            None => super::bytea::write(bytes, out),
        },
        _ => {}
    }
}

/// 22003: more digits than a numeric may have.
#[must_use]
pub fn overflow() -> SqlError {
    SqlError::new(
        ErrorCode::NumericOutOfRange,
        "value overflows numeric format",
    )
}

fn field_overflow() -> SqlError {
    SqlError::new(ErrorCode::NumericOutOfRange, "numeric field overflow")
}
