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

use num_bigint::{BigInt, Sign};
use springhead_proto::{ErrorCode, SqlError, Value, ValueRef};

use super::PgType;
use super::text::{invalid_syntax, trim};

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

/// A finite decimal: `unscaled` / 10^`scale`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decimal {
    pub unscaled: Int,
    /// Digits after the point, trailing zeros included: what is printed.
    pub scale: u32,
}

/// An integer of any size that costs no allocation while it is small.
#[derive(Debug, Clone)]
pub enum Int {
    Small(i128),
    /// May hold a value that would be small.
    Big(BigInt),
}

impl PartialEq for Int {
    fn eq(&self, other: &Int) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Int {}

impl PartialOrd for Int {
    fn partial_cmp(&self, other: &Int) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Int {
    fn cmp(&self, other: &Int) -> Ordering {
        match (self, other) {
            (Int::Small(a), Int::Small(b)) => a.cmp(b),
            _ => self.to_big().cmp(&other.to_big()),
        }
    }
}

impl Int {
    #[must_use]
    pub fn to_big(&self) -> BigInt {
        match self {
            Int::Small(value) => BigInt::from(*value),
            Int::Big(value) => value.clone(),
        }
    }

    fn from_big(value: BigInt) -> Int {
        i128::try_from(&value).map_or(Int::Big(value), Int::Small)
    }

    fn combine(
        &self,
        other: &Int,
        small: fn(i128, i128) -> Option<i128>,
        big: impl FnOnce(BigInt, BigInt) -> BigInt,
    ) -> Int {
        if let (Int::Small(a), Int::Small(b)) = (self, other)
            && let Some(value) = small(*a, *b)
        {
            return Int::Small(value);
        }
        Int::from_big(big(self.to_big(), other.to_big()))
    }

    #[must_use]
    pub fn add(&self, other: &Int) -> Int {
        self.combine(other, i128::checked_add, |a, b| a + b)
    }

    #[must_use]
    pub fn sub(&self, other: &Int) -> Int {
        self.combine(other, i128::checked_sub, |a, b| a - b)
    }

    #[must_use]
    pub fn mul(&self, other: &Int) -> Int {
        self.combine(other, i128::checked_mul, |a, b| a * b)
    }

    /// Toward zero; `other` is not zero.
    #[must_use]
    pub fn div(&self, other: &Int) -> Int {
        self.combine(other, i128::checked_div, |a, b| a / b)
    }

    /// With the sign of `self`; `other` is not zero.
    #[must_use]
    pub fn rem(&self, other: &Int) -> Int {
        self.combine(other, i128::checked_rem, |a, b| a % b)
    }

    #[must_use]
    pub fn neg(&self) -> Int {
        Int::Small(0).sub(self)
    }

    #[must_use]
    pub fn is_negative(&self) -> bool {
        match self {
            Int::Small(value) => *value < 0,
            Int::Big(value) => value.sign() == Sign::Minus,
        }
    }

    #[must_use]
    pub fn is_zero(&self) -> bool {
        match self {
            Int::Small(value) => *value == 0,
            Int::Big(value) => value.sign() == Sign::NoSign,
        }
    }

    /// Without its sign.
    #[must_use]
    pub fn abs(&self) -> Int {
        if self.is_negative() {
            self.neg()
        } else {
            self.clone()
        }
    }

    /// 10^`power`.
    #[must_use]
    pub fn pow10(power: u32) -> Int {
        match 10i128.checked_pow(power) {
            Some(value) => Int::Small(value),
            None => Int::Big(BigInt::from(10).pow(power)),
        }
    }

    /// Divided by `other`, rounded half away from zero.
    #[must_use]
    pub fn div_round(&self, other: &Int) -> Int {
        let quotient = self.div(other);
        let rest = self.rem(other).abs();
        if rest.add(&rest) < other.abs() {
            return quotient;
        }
        let one = Int::Small(if self.is_negative() == other.is_negative() {
            1
        } else {
            -1
        });
        quotient.add(&one)
    }

    /// The greatest integer whose square is at most this, which is not negative.
    #[must_use]
    pub fn isqrt(&self) -> Int {
        match self {
            Int::Small(value) => Int::Small(value.isqrt()),
            Int::Big(value) => Int::from_big(value.sqrt()),
        }
    }

    /// Its decimal digits, without a sign.
    #[must_use]
    pub fn digits(&self) -> Vec<u8> {
        match self {
            Int::Small(value) => {
                let mut left = value.unsigned_abs();
                let mut digits = Vec::with_capacity(20);
                while left >= 10_000_000_000_000_000_000 {
                    digits.push(digit(left % 10));
                    left /= 10;
                }
                let mut left = u64::try_from(left).expect("below 10^19");
                while left > 0 {
                    digits.push(digit(u128::from(left % 10)));
                    left /= 10;
                }
                if digits.is_empty() {
                    digits.push(b'0');
                }
                digits.reverse();
                digits
            }
            Int::Big(value) => value.magnitude().to_str_radix(10).into_bytes(),
        }
    }

    /// The integer of those ASCII digits.
    #[must_use]
    pub fn from_digits(digits: &[u8]) -> Int {
        if digits.len() <= 38 {
            return Int::Small(
                digits
                    .iter()
                    .fold(0, |value, byte| value * 10 + i128::from(byte - b'0')),
            );
        }
        Int::from_big(BigInt::parse_bytes(digits, 10).unwrap_or_default())
    }

    #[must_use]
    pub fn to_i64(&self) -> Option<i64> {
        match self {
            Int::Small(value) => i64::try_from(*value).ok(),
            Int::Big(value) => i64::try_from(value).ok(),
        }
    }
}

fn digit(value: u128) -> u8 {
    b'0' + u8::try_from(value).expect("one digit")
}

impl Decimal {
    /// An integer.
    #[must_use]
    pub const fn from_int(value: i128) -> Decimal {
        Decimal {
            unscaled: Int::Small(value),
            scale: 0,
        }
    }

    /// `unscaled` / 10^`scale`.
    #[must_use]
    pub const fn new(unscaled: i128, scale: u32) -> Decimal {
        Decimal {
            unscaled: Int::Small(unscaled),
            scale,
        }
    }

    /// The same number with at least that scale, as an integer of that scale.
    #[must_use]
    pub fn at_scale(&self, scale: u32) -> Int {
        if scale <= self.scale {
            self.unscaled.clone()
        } else {
            self.unscaled.mul(&Int::pow10(scale - self.scale))
        }
    }

    /// The number in units of 10^-`scale`, cut toward zero where it has more digits.
    #[must_use]
    pub fn at_or_cut(&self, scale: u32) -> Int {
        if scale >= self.scale {
            self.at_scale(scale)
        } else {
            self.unscaled.div(&Int::pow10(self.scale - scale))
        }
    }

    /// Rounded half away from zero to `scale` digits after the point; negative: before it.
    #[must_use]
    pub fn round(&self, scale: i32) -> Decimal {
        self.rescale(scale, Int::div_round)
    }

    /// Cut to `scale` digits after the point; negative: before it.
    #[must_use]
    pub fn trunc(&self, scale: i32) -> Decimal {
        self.rescale(scale, Int::div)
    }

    fn rescale(&self, scale: i32, divide: fn(&Int, &Int) -> Int) -> Decimal {
        match u32::try_from(scale) {
            Ok(scale) if scale >= self.scale => Decimal {
                unscaled: self.at_scale(scale),
                scale,
            },
            Ok(scale) => Decimal {
                unscaled: divide(&self.unscaled, &Int::pow10(self.scale - scale)),
                scale,
            },
            Err(_) => {
                let before = scale.unsigned_abs();
                let cut = u32::try_from(MAX_DIGITS).unwrap_or(u32::MAX);
                if before > cut {
                    return Decimal::from_int(0);
                }
                let power = Int::pow10(before);
                let whole = divide(&self.unscaled, &power.mul(&Int::pow10(self.scale)));
                Decimal {
                    unscaled: whole.mul(&power),
                    scale: 0,
                }
            }
        }
    }

    /// The greatest integer that is not greater.
    #[must_use]
    pub fn floor(&self) -> Decimal {
        let whole = self.trunc(0);
        if self.unscaled.is_negative() && whole.compare(self) == Ordering::Greater {
            return Decimal {
                unscaled: whole.unscaled.sub(&Int::Small(1)),
                scale: 0,
            };
        }
        whole
    }

    /// The least integer that is not less.
    #[must_use]
    pub fn ceil(&self) -> Decimal {
        self.negated().floor().negated()
    }

    #[must_use]
    pub fn negated(&self) -> Decimal {
        Decimal {
            unscaled: self.unscaled.neg(),
            scale: self.scale,
        }
    }

    /// By value: 1.5 and 1.50 are equal.
    #[must_use]
    pub fn compare(&self, other: &Decimal) -> Ordering {
        let scale = self.scale.max(other.scale);
        self.at_scale(scale).cmp(&other.at_scale(scale))
    }

    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.unscaled.is_zero()
    }

    #[must_use]
    pub fn plus(&self, other: &Decimal) -> Decimal {
        let scale = self.scale.max(other.scale);
        Decimal {
            unscaled: self.at_scale(scale).add(&other.at_scale(scale)),
            scale,
        }
    }

    #[must_use]
    pub fn minus(&self, other: &Decimal) -> Decimal {
        let scale = self.scale.max(other.scale);
        Decimal {
            unscaled: self.at_scale(scale).sub(&other.at_scale(scale)),
            scale,
        }
    }

    #[must_use]
    pub fn times(&self, other: &Decimal) -> Decimal {
        let product = Decimal {
            unscaled: self.unscaled.mul(&other.unscaled),
            scale: self.scale + other.scale,
        };
        if product.scale > MAX_SCALE {
            product.round(16_383)
        } else {
            product
        }
    }

    /// The quotient to the scale that PostgreSQL's `select_div_scale` chooses; `other` is not zero.
    #[must_use]
    pub fn divided_by(&self, other: &Decimal) -> Decimal {
        self.divided_to(other, self.division_scale(other))
    }

    /// The quotient rounded to that scale; `other` is not zero.
    #[must_use]
    pub fn divided_to(&self, other: &Decimal, scale: u32) -> Decimal {
        // self/10^s ÷ other/10^o = self·10^(scale+o-s) ÷ other, in units of 10^-scale.
        let up = scale + other.scale;
        let (dividend, divisor) = if up >= self.scale {
            (
                self.unscaled.mul(&Int::pow10(up - self.scale)),
                other.unscaled.clone(),
            )
        } else {
            (
                self.unscaled.clone(),
                other.unscaled.mul(&Int::pow10(self.scale - up)),
            )
        };
        Decimal {
            unscaled: dividend.div_round(&divisor),
            scale,
        }
    }

    /// At least 16 significant digits, and no fewer after the point than either operand has.
    #[must_use]
    pub fn division_scale(&self, other: &Decimal) -> u32 {
        let (weight, first) = self.leading();
        let (other_weight, other_first) = other.leading();
        let mut quotient_weight = weight - other_weight;
        if first <= other_first {
            quotient_weight -= 1;
        }
        let wanted = u32::try_from(16 - 4 * quotient_weight).unwrap_or(0);
        wanted.max(self.scale).max(other.scale).min(1000)
    }

    /// In base 10,000: the weight of the first digit that is not zero, and that digit.
    fn leading(&self) -> (i64, u32) {
        if self.is_zero() {
            return (0, 0);
        }
        let digits = self.unscaled.digits();
        // The first digit stands for 10^exponent.
        let exponent = digit_count(&digits) - 1 - i64::from(self.scale);
        let weight = exponent.div_euclid(4);
        let take = usize::try_from(exponent.rem_euclid(4) + 1).unwrap_or(1);
        let first = (0..take).fold(0, |value, at| {
            value * 10 + digits.get(at).map_or(0, |byte| u32::from(byte - b'0'))
        });
        (weight, first)
    }

    /// PostgreSQL's weight of the number in base 10,000.
    #[must_use]
    pub fn weight(&self) -> i64 {
        self.leading().0
    }

    /// The remainder of the division toward zero; `other` is not zero.
    #[must_use]
    pub fn remainder(&self, other: &Decimal) -> Decimal {
        let scale = self.scale.max(other.scale);
        Decimal {
            unscaled: self.at_scale(scale).rem(&other.at_scale(scale)),
            scale,
        }
    }

    /// Without trailing zeros after the point.
    #[must_use]
    pub fn trimmed(&self) -> Decimal {
        let mut scale = self.scale;
        let mut unscaled = self.unscaled.clone();
        while scale > 0 && unscaled.rem(&Int::Small(10)).is_zero() {
            unscaled = unscaled.div(&Int::Small(10));
            scale -= 1;
        }
        Decimal { unscaled, scale }
    }

    /// The nearest integer, if it is a bigint.
    #[must_use]
    pub fn to_i64(&self) -> Option<i64> {
        self.round(0).unscaled.to_i64()
    }

    /// The nearest double; infinite if it is beyond all of them.
    #[must_use]
    pub fn to_f64(&self) -> f64 {
        let mut text = Vec::new();
        self.write(&mut text);
        std::str::from_utf8(&text)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0.0)
    }

    /// Digits, with a point if the scale is not zero.
    pub fn write(&self, out: &mut Vec<u8>) {
        if self.unscaled.is_negative() {
            out.push(b'-');
        }
        write_scaled(&self.unscaled.digits(), self.scale, out);
    }
}

fn digit_count(digits: &[u8]) -> i64 {
    i64::try_from(digits.len()).expect("a Vec's length fits")
}

fn write_scaled(digits: &[u8], scale: u32, out: &mut Vec<u8>) {
    let scale = usize::try_from(scale).expect("a scale is below 2^15");
    if digits.len() <= scale {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', scale - digits.len()));
        out.extend_from_slice(digits);
    } else {
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        out.extend_from_slice(whole);
        if scale > 0 {
            out.push(b'.');
            out.extend_from_slice(fraction);
        }
    }
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
