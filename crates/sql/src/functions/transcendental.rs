//! exp, ln, log and power of exact numerics, to the scales that PostgreSQL chooses.
//!
//! Computed in fixed point with guard digits, from series; arguments that would need results of
//! unreasonable size are refused (22003) before any work is done.

use std::cmp::Ordering;

use springhead_proto::{ErrorCode, SqlError};

use super::numbers::{divide, sqrt_to};
use crate::types::numeric::{Decimal, Int, Numeric, overflow};

/// Digits that are computed beyond those wanted.
const GUARD: u32 = 12;
/// log10(e).
const LOG10_E: f64 = std::f64::consts::LOG10_E;

/// e raised to it.
pub(super) fn exp(value: Numeric) -> Result<Numeric, SqlError> {
    match value {
        Numeric::Finite(value) => {
            let weight = value.to_f64() * LOG10_E;
            let scale = scale_for(weight, &[value.scale]);
            exp_to(&value, scale).map(Numeric::Finite)
        }
        Numeric::MinusInfinity => Ok(Numeric::Finite(Decimal::from_int(0))),
        other => Ok(other),
    }
}

/// The natural logarithm.
pub(super) fn ln(value: Numeric) -> Result<Numeric, SqlError> {
    let value = match positive(value)? {
        Numeric::Finite(value) => value,
        other => return Ok(other),
    };
    let scale = scale_from_weight(ln_weight(&value), &[value.scale]);
    Ok(Numeric::Finite(ln_to(&value, scale)))
}

/// The logarithm of `value` to `base`.
pub(super) fn log(base: Numeric, value: Numeric) -> Result<Numeric, SqlError> {
    match (positive(base)?, positive(value)?) {
        (Numeric::Finite(base), Numeric::Finite(value)) => {
            let weight = ln_weight(&value) - ln_weight(&base);
            let scale = scale_from_weight(weight, &[base.scale, value.scale]);
            let inner = scale + GUARD + ln_weight(&base).unsigned_abs() * 2;
            let divisor = ln_to(&base, inner);
            if divisor.is_zero() {
                return Err(super::support::division_by_zero());
            }
            Ok(Numeric::Finite(
                ln_to(&value, inner).divided_to(&divisor, scale),
            ))
        }
        (Numeric::NaN, _) | (_, Numeric::NaN) => Ok(Numeric::NaN),
        (Numeric::Finite(_), other) => Ok(other),
        (other, value) => divide(&value, &other),
    }
}

/// `base` raised to `exponent`.
pub(super) fn power(base: Numeric, exponent: Numeric) -> Result<Numeric, SqlError> {
    let (base, exponent) = match (base, exponent) {
        (Numeric::Finite(base), Numeric::Finite(exponent)) => (base, exponent),
        _ => return Err(SqlError::unsupported("power() of infinite numerics")),
    };
    let refuse = |message: &str| Err(SqlError::new(ErrorCode::InvalidPowerArgument, message));
    if base.is_zero() && exponent.unscaled.is_negative() {
        return refuse("zero raised to a negative power is undefined");
    }
    let whole = exponent.trunc(0).compare(&exponent) == Ordering::Equal;
    if base.unscaled.is_negative() && !whole {
        return refuse("a negative number raised to a non-integer power yields a complex result");
    }
    if base.is_zero() {
        let scale = 16.max(base.scale).max(exponent.scale);
        let one = i32::try_from(scale).unwrap_or(16);
        let result = Decimal::from_int(i128::from(exponent.is_zero()));
        return Ok(Numeric::Finite(result.round(one)));
    }
    if whole
        && let Some(exponent_int) = exponent
            .trunc(0)
            .unscaled
            .to_i64()
            .and_then(|value| i32::try_from(value).ok())
    {
        return power_int(&base, exponent_int).map(Numeric::Finite);
    }
    let weight = base.abs_log10() * exponent.to_f64();
    check_weight(weight)?;
    let scale = scale_for(weight, &[base.scale, exponent.scale]);
    let digits = scale + u32_of(weight.abs()) + GUARD;
    let product = ln_to(&base.magnitude(), digits).times(&exponent);
    let result = exp_to(&product, scale)?;
    let odd =
        base.unscaled.is_negative() && !exponent.trunc(0).unscaled.rem(&Int::Small(2)).is_zero();
    Ok(Numeric::Finite(if odd { result.negated() } else { result }))
}

fn power_int(base: &Decimal, exponent: i32) -> Result<Decimal, SqlError> {
    let weight = base.abs_log10() * f64::from(exponent);
    check_weight(weight)?;
    // PostgreSQL gives a whole exponent's result 16 digits after the point, whatever its size.
    let scale = base.scale.clamp(16, 1000);
    // Exact while the digits are few; else through enough digits to round correctly.
    let work = i32::try_from(scale + u32_of(weight.abs()) + GUARD).unwrap_or(i32::MAX);
    let mut result = Decimal::from_int(1);
    let mut square = base.clone();
    let mut left = exponent.unsigned_abs();
    let significant = |value: Decimal| {
        // So many digits after the point that the whole keeps `work` significant ones.
        let extra = i32::try_from(-4 * value.weight()).unwrap_or(0).max(0);
        let keep = work.saturating_add(extra);
        if i64::from(value.scale) > i64::from(keep) {
            value.round(keep)
        } else {
            value
        }
    };
    while left > 0 {
        if left % 2 == 1 {
            result = significant(result.times(&square));
        }
        left /= 2;
        if left > 0 {
            square = significant(square.times(&square));
        }
    }
    if exponent < 0 {
        if result.is_zero() {
            return Err(overflow());
        }
        return Ok(Decimal::from_int(1).divided_to(&result, scale));
    }
    Ok(result.round(i32::try_from(scale).unwrap_or(1000)))
}

impl Decimal {
    fn magnitude(&self) -> Decimal {
        Decimal {
            unscaled: self.unscaled.abs(),
            scale: self.scale,
        }
    }

    /// log10 of its magnitude, roughly, without overflow.
    fn abs_log10(&self) -> f64 {
        let digits = self.unscaled.digits();
        let lead = &digits[..digits.len().min(17)];
        let first = lead
            .iter()
            .fold(0.0, |value, byte| value * 10.0 + f64::from(byte - b'0'));
        let rest = digits.len() - lead.len();
        first.log10() + f64::from(u32::try_from(rest).unwrap_or(u32::MAX)) - f64::from(self.scale)
    }
}

fn positive(value: Numeric) -> Result<Numeric, SqlError> {
    let refuse = |message: &str| Err(SqlError::new(ErrorCode::InvalidLogarithmArgument, message));
    match value {
        Numeric::Finite(ref decimal) if decimal.is_zero() => {
            refuse("cannot take logarithm of zero")
        }
        Numeric::Finite(ref decimal) if decimal.unscaled.is_negative() => {
            refuse("cannot take logarithm of a negative number")
        }
        Numeric::MinusInfinity => refuse("cannot take logarithm of a negative number"),
        other => Ok(other),
    }
}

fn check_weight(weight: f64) -> Result<(), SqlError> {
    if weight.is_nan() || weight > 20_000.0 {
        Err(overflow())
    } else {
        Ok(())
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped first"
)]
fn u32_of(value: f64) -> u32 {
    value.clamp(0.0, 30_000.0) as u32
}

/// At least 16 significant digits of a result of that many digits before the point, no fewer after
/// it than any argument has.
fn scale_for(weight: f64, scales: &[u32]) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "clamped first")]
    let weight = weight.clamp(-2000.0, 2000.0) as i32;
    scale_from_weight(weight, scales)
}

fn scale_from_weight(weight: i32, scales: &[u32]) -> u32 {
    let wanted = u32::try_from(16 - weight).unwrap_or(0);
    scales.iter().copied().fold(wanted, u32::max).min(1000)
}

/// Digits before the point of the logarithm (negative: zeros after it), as PostgreSQL estimates.
fn ln_weight(value: &Decimal) -> i32 {
    let one = Decimal::from_int(1);
    let near = value.compare(&Decimal::new(9, 1)) != Ordering::Less
        && value.compare(&Decimal::new(11, 1)) != Ordering::Greater;
    if near {
        let rest = value.minus(&one);
        if rest.is_zero() {
            return 0;
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a logarithm of a bounded number of digits"
        )]
        return rest.abs_log10().floor() as i32;
    }
    let logarithm = value.abs_log10() * std::f64::consts::LN_10;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a logarithm of a bounded number of digits"
    )]
    let weight = logarithm.abs().log10() as i32;
    weight
}

/// e^`value` rounded to `scale` digits.
fn exp_to(value: &Decimal, scale: u32) -> Result<Decimal, SqlError> {
    let weight = value.to_f64() * LOG10_E;
    check_weight(weight)?;
    if weight < -f64::from(scale) - 2.0 {
        return Ok(Decimal {
            unscaled: Int::Small(0),
            scale,
        });
    }
    let digits = scale + u32_of(weight) + GUARD + 20;
    let unit = Int::pow10(digits);
    // Halved until it is small, the result squared as often: each squaring costs a bit.
    let mut halvings = 0;
    let mut x = value.at_or_cut(digits);
    let limit = unit.div(&Int::Small(16));
    while x.abs() > limit {
        x = x.div(&Int::Small(2));
        halvings += 1;
    }
    let (mut sum, mut term, mut n) = (unit.clone(), unit.clone(), 1);
    loop {
        term = term.mul(&x).div(&unit).div(&Int::Small(n));
        if term.is_zero() {
            break;
        }
        sum = sum.add(&term);
        n += 1;
    }
    for _ in 0..halvings {
        sum = sum.mul(&sum).div(&unit);
    }
    Ok(Decimal {
        unscaled: sum,
        scale: digits,
    }
    .round(i32::try_from(scale).unwrap_or(1000)))
}

/// The natural logarithm of what is positive, rounded to `scale` digits.
fn ln_to(value: &Decimal, scale: u32) -> Decimal {
    let digits = scale + GUARD + 20 + u32_of(value.abs_log10().abs());
    let unit = Int::pow10(digits);
    let one = Decimal {
        unscaled: unit.clone(),
        scale: digits,
    };
    // Roots until it is near one; the logarithm doubles with each.
    let mut x = Decimal {
        unscaled: value.at_or_cut(digits),
        scale: digits,
    };
    let mut doublings = 0;
    let near = Decimal {
        unscaled: unit.div(&Int::Small(10)),
        scale: digits,
    };
    while x.minus(&one).magnitude().compare(&near) == Ordering::Greater {
        x = sqrt_to(&x, digits);
        doublings += 1;
    }
    // ln x = 2 artanh((x-1)/(x+1)).
    let z = x.minus(&one).divided_to(&x.plus(&one), digits).unscaled;
    let square = z.mul(&z).div(&unit);
    let (mut sum, mut power, mut n) = (z.clone(), z, 3);
    loop {
        power = power.mul(&square).div(&unit);
        let term = power.div(&Int::Small(n));
        if term.is_zero() {
            break;
        }
        sum = sum.add(&term);
        n += 2;
    }
    for _ in 0..=doublings {
        sum = sum.add(&sum);
    }
    Decimal {
        unscaled: sum,
        scale: digits,
    }
    .round(i32::try_from(scale).unwrap_or(1000))
}
