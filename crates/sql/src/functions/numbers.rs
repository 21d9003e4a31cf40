//! Arithmetic that SQLite does not check or does not have: integers that must not become floats
//! when they overflow, floats that must not become NULL, and exact numerics.

use std::cmp::Ordering;

use springhead_proto::{ErrorCode, SqlError, Value};

use super::Scalar;
use super::support::{
    Args, Outcome, bool_value, division_by_zero, int, invalid_parameter, numeric, out_of_range,
    real, strict,
};
use crate::types::PgType;
use crate::types::float::not_nan;
use crate::types::numeric::{Decimal, Int, Numeric, overflow};

/// One table entry per integer type for a checked operation.
macro_rules! integer_ops {
    ($($int2:literal, $int4:literal, $int8:literal, $args:expr, $op:expr;)*) => {
        [$(
            strict!($int2, $args, |args| ranged($op(args)?, INT2)),
            strict!($int4, $args, |args| ranged($op(args)?, INT4)),
            strict!($int8, $args, |args| ranged($op(args)?, INT8)),
        )*]
    };
}

type Range = (i64, i64, &'static str);
const INT2: Range = (i16::MIN as i64, i16::MAX as i64, "smallint");
const INT4: Range = (i32::MIN as i64, i32::MAX as i64, "integer");
const INT8: Range = (i64::MIN, i64::MAX, "bigint");

const INTEGER_OPS: [Scalar; 27] = integer_ops! {
    "sh_int2_add", "sh_int4_add", "sh_int8_add", 2, |args| Ok(int(args, 0)?.checked_add(int(args, 1)?));
    "sh_int2_sub", "sh_int4_sub", "sh_int8_sub", 2, |args| Ok(int(args, 0)?.checked_sub(int(args, 1)?));
    "sh_int2_mul", "sh_int4_mul", "sh_int8_mul", 2, |args| Ok(int(args, 0)?.checked_mul(int(args, 1)?));
    "sh_int2_div", "sh_int4_div", "sh_int8_div", 2, |args| {
        let divisor = int(args, 1)?;
        if divisor == 0 { Err(division_by_zero()) } else { Ok(int(args, 0)?.checked_div(divisor)) }
    };
    "sh_int2_mod", "sh_int4_mod", "sh_int8_mod", 2, |args| {
        let divisor = int(args, 1)?;
        if divisor == 0 { Err(division_by_zero()) } else { Ok(Some(int(args, 0)?.wrapping_rem(divisor))) }
    };
    "sh_int2_neg", "sh_int4_neg", "sh_int8_neg", 1, |args| Ok(int(args, 0)?.checked_neg());
    "sh_int2_abs", "sh_int4_abs", "sh_int8_abs", 1, |args| Ok(int(args, 0)?.checked_abs());
    "sh_int2_gcd", "sh_int4_gcd", "sh_int8_gcd", 2, |args| Ok(gcd(int(args, 0)?, int(args, 1)?));
    "sh_int2_lcm", "sh_int4_lcm", "sh_int8_lcm", 2, |args| Ok(lcm(int(args, 0)?, int(args, 1)?));
};

pub(super) const SCALARS: &[Scalar] = {
    const OTHER: &[Scalar] = OTHERS;
    const LENGTH: usize = INTEGER_OPS.len() + OTHER.len();
    const ALL: [Scalar; LENGTH] = {
        let mut all = [OTHER[0]; LENGTH];
        let mut at = 0;
        while at < LENGTH {
            all[at] = if at < INTEGER_OPS.len() {
                INTEGER_OPS[at]
            } else {
                OTHER[at - INTEGER_OPS.len()]
            };
            at += 1;
        }
        all
    };
    &ALL
};

const OTHERS: &[Scalar] = &[
    // Integer casts.
    strict!("sh_to_int2", 1, |args| ranged(Some(int(args, 0)?), INT2)),
    strict!("sh_to_int4", 1, |args| ranged(Some(int(args, 0)?), INT4)),
    strict!("sh_to_oid", 1, |args| match int(args, 0)? {
        value @ -2_147_483_648..0 => Ok(Value::Integer(value + (1 << 32))),
        value => ranged(Some(value), (0, u32::MAX as i64, "OID")),
    }),
    strict!("sh_xor", 2, |args| Ok(Value::Integer(
        int(args, 0)? ^ int(args, 1)?
    ))),
    // value, bits: shifts as PostgreSQL's int4 and int8 do, the count modulo the width.
    strict!("sh_int4_shl", 2, |args| Ok(Value::Integer(
        narrow(int(args, 0)?)
            .wrapping_shl(narrow(int(args, 1)?).cast_unsigned())
            .into()
    ))),
    strict!("sh_int4_shr", 2, |args| Ok(Value::Integer(
        narrow(int(args, 0)?)
            .wrapping_shr(narrow(int(args, 1)?).cast_unsigned())
            .into()
    ))),
    strict!("sh_int8_shl", 2, |args| Ok(Value::Integer(
        int(args, 0)?.wrapping_shl(narrow(int(args, 1)?).cast_unsigned())
    ))),
    strict!("sh_int8_shr", 2, |args| Ok(Value::Integer(
        int(args, 0)?.wrapping_shr(narrow(int(args, 1)?).cast_unsigned())
    ))),
    strict!("sh_to_hex", 1, |args| Ok(Value::Text(
        match int(args, 0)? {
            value @ -2_147_483_648..0 => format!("{:x}", narrow(value)),
            value => format!("{value:x}"),
        }
    ))),
    strict!("sh_factorial", 1, |args| factorial(int(args, 0)?)),
    // Float casts.
    strict!("sh_to_float4", 1, |args| single(real(args, 0)?)),
    strict!("sh_float_to_int2", 1, |args| float_to_int(
        real(args, 0)?,
        INT2
    )),
    strict!("sh_float_to_int4", 1, |args| float_to_int(
        real(args, 0)?,
        INT4
    )),
    strict!("sh_float_to_int8", 1, |args| float_to_int(
        real(args, 0)?,
        INT8
    )),
    // Float arithmetic.
    strict!("sh_float_add", 2, |args| double(args, |a, b| a + b)),
    strict!("sh_float_sub", 2, |args| double(args, |a, b| a - b)),
    strict!("sh_float_mul", 2, |args| double(args, |a, b| a * b)),
    strict!("sh_float_div", 2, |args| {
        if real(args, 1)? == 0.0 {
            Err(division_by_zero())
        } else {
            double(args, |a, b| a / b)
        }
    }),
    strict!("sh_float_power", 2, |args| float_power(
        real(args, 0)?,
        real(args, 1)?
    )),
    strict!("sh_float_sqrt", 1, |args| {
        let value = real(args, 0)?;
        if value < 0.0 {
            Err(bad_power_argument(
                "cannot take square root of a negative number",
            ))
        } else {
            finite(value.sqrt(), true)
        }
    }),
    strict!("sh_float_cbrt", 1, |args| finite(
        real(args, 0)?.cbrt(),
        true
    )),
    strict!("sh_float_exp", 1, |args| {
        let value = real(args, 0)?;
        let result = value.exp();
        if result == 0.0 && value.is_finite() {
            Err(underflow())
        } else {
            finite(result, value.is_infinite())
        }
    }),
    strict!("sh_float_ln", 1, |args| logarithm(real(args, 0)?, f64::ln)),
    strict!("sh_float_log10", 1, |args| logarithm(
        real(args, 0)?,
        f64::log10
    )),
    // round() of a double goes to the even neighbour.
    strict!("sh_float_round", 1, |args| Ok(Value::Real(
        real(args, 0)?.round_ties_even()
    ))),
    strict!("sh_float_trunc", 1, |args| Ok(Value::Real(
        real(args, 0)?.trunc()
    ))),
    strict!("sh_float_ceil", 1, |args| Ok(Value::Real(
        real(args, 0)?.ceil()
    ))),
    strict!("sh_float_floor", 1, |args| Ok(Value::Real(
        real(args, 0)?.floor()
    ))),
    strict!("sh_float_abs", 1, |args| Ok(Value::Real(
        real(args, 0)?.abs()
    ))),
    strict!("sh_float_sign", 1, |args| {
        let value = real(args, 0)?;
        Ok(Value::Real(if value == 0.0 { 0.0 } else { value.signum() }))
    }),
    strict!("sh_float_sin", 1, |args| trigonometric(
        real(args, 0)?,
        f64::sin
    )),
    strict!("sh_float_cos", 1, |args| trigonometric(
        real(args, 0)?,
        f64::cos
    )),
    strict!("sh_float_tan", 1, |args| trigonometric(
        real(args, 0)?,
        f64::tan
    )),
    strict!("sh_float_asin", 1, |args| trigonometric(
        real(args, 0)?,
        f64::asin
    )),
    strict!("sh_float_acos", 1, |args| trigonometric(
        real(args, 0)?,
        f64::acos
    )),
    strict!("sh_float_atan", 1, |args| trigonometric(
        real(args, 0)?,
        f64::atan
    )),
    strict!("sh_float_atan2", 2, |args| Ok(Value::Real(
        real(args, 0)?.atan2(real(args, 1)?)
    ))),
    strict!("sh_float_degrees", 1, |args| finite(
        real(args, 0)?.to_degrees(),
        false
    )),
    strict!("sh_float_radians", 1, |args| Ok(Value::Real(
        real(args, 0)?.to_radians()
    ))),
    strict!("sh_width_bucket", 4, |args| width_bucket(
        real(args, 0)?,
        real(args, 1)?,
        real(args, 2)?,
        int(args, 3)?
    )),
    // Numeric casts.
    strict!("sh_num", 2, |args| Numeric::from_scaled(
        int(args, 0)?,
        scale_at(args, 1)?
    )
    .to_value()),
    strict!("sh_num_scaled", 3, |args| to_column(args)),
    strict!("sh_num_fit", 3, |args| to_column(args)),
    strict!("sh_num_from_int", 1, |args| Numeric::Finite(
        Decimal::from_int(int(args, 0)?.into())
    )
    .to_value()),
    strict!("sh_num_from_float4", 1, |args| Numeric::from_f64(
        real(args, 0)?,
        6
    )
    .to_value()),
    strict!("sh_num_from_float8", 1, |args| Numeric::from_f64(
        real(args, 0)?,
        15
    )
    .to_value()),
    strict!("sh_num_to_int2", 1, |args| numeric_to_int(args, INT2)),
    strict!("sh_num_to_int4", 1, |args| numeric_to_int(args, INT4)),
    strict!("sh_num_to_int8", 1, |args| numeric_to_int(args, INT8)),
    strict!("sh_num_to_float4", 1, |args| single(numeric_to_float(
        args
    )?)),
    strict!("sh_num_to_float8", 1, |args| Ok(Value::Real(
        numeric_to_float(args)?
    ))),
    // Numeric arithmetic.
    strict!("sh_num_add", 2, |args| add(
        &numeric(args, 0)?,
        &numeric(args, 1)?
    )?
    .to_value()),
    strict!("sh_num_sub", 2, |args| add(
        &numeric(args, 0)?,
        &negated(numeric(args, 1)?)
    )?
    .to_value()),
    strict!("sh_num_mul", 2, |args| multiply(
        &numeric(args, 0)?,
        &numeric(args, 1)?
    )?
    .to_value()),
    strict!("sh_num_div", 2, |args| divide(
        &numeric(args, 0)?,
        &numeric(args, 1)?
    )?
    .to_value()),
    strict!(
        "sh_num_idiv",
        2,
        |args| match (numeric(args, 0)?, numeric(args, 1)?) {
            (_, Numeric::Finite(b)) if b.is_zero() => Err(division_by_zero()),
            (Numeric::Finite(a), Numeric::Finite(b)) => {
                let scale = a.scale.max(b.scale);
                let quotient = a.at_scale(scale).div(&b.at_scale(scale));
                Numeric::Finite(Decimal {
                    unscaled: quotient,
                    scale: 0,
                })
                .to_value()
            }
            (a, b) => divide(&a, &b)?.to_value(),
        }
    ),
    strict!(
        "sh_num_mod",
        2,
        |args| match (numeric(args, 0)?, numeric(args, 1)?) {
            (Numeric::NaN, _) | (_, Numeric::NaN) => Numeric::NaN.to_value(),
            (_, Numeric::Finite(b)) if b.is_zero() => Err(division_by_zero()),
            (Numeric::Finite(a), Numeric::Finite(b)) => Numeric::Finite(a.remainder(&b)).to_value(),
            (a @ Numeric::Finite(_), _) => a.to_value(),
            _ => Numeric::NaN.to_value(),
        }
    ),
    strict!("sh_num_neg", 1, |args| negated(numeric(args, 0)?)
        .to_value()),
    strict!("sh_num_abs", 1, |args| match numeric(args, 0)? {
        Numeric::MinusInfinity => Numeric::Infinity,
        Numeric::Finite(value) if value.unscaled.is_negative() => Numeric::Finite(value.negated()),
        other => other,
    }
    .to_value()),
    strict!("sh_num_sign", 1, |args| match numeric(args, 0)? {
        Numeric::NaN => Numeric::NaN,
        other => Numeric::Finite(Decimal::from_int(other.compare(&zero()) as i128)),
    }
    .to_value()),
    strict!("sh_num_round", 2, |args| map(args, |value, digits| value
        .round(digits))),
    strict!("sh_num_trunc", 2, |args| map(args, |value, digits| value
        .trunc(digits))),
    strict!("sh_num_ceil", 1, |args| finite_map(args, Decimal::ceil)),
    strict!("sh_num_floor", 1, |args| finite_map(args, Decimal::floor)),
    strict!("sh_num_trim_scale", 1, |args| finite_map(
        args,
        Decimal::trimmed
    )),
    strict!("sh_num_scale", 1, |args| Ok(match numeric(args, 0)? {
        Numeric::Finite(value) => Value::Integer(value.scale.into()),
        _ => Value::Null,
    })),
    strict!("sh_num_min_scale", 1, |args| Ok(match numeric(args, 0)? {
        Numeric::Finite(value) => Value::Integer(value.trimmed().scale.into()),
        _ => Value::Null,
    })),
    strict!("sh_num_sqrt", 1, |args| square_root(args)),
    strict!("sh_num_power", 2, |args| super::transcendental::power(
        numeric(args, 0)?,
        numeric(args, 1)?
    )?
    .to_value()),
    strict!("sh_num_exp", 1, |args| super::transcendental::exp(
        numeric(args, 0)?
    )?
    .to_value()),
    strict!("sh_num_ln", 1, |args| super::transcendental::ln(numeric(
        args, 0
    )?)?
    .to_value()),
    strict!("sh_num_log", 2, |args| super::transcendental::log(
        numeric(args, 0)?,
        numeric(args, 1)?
    )?
    .to_value()),
    strict!("sh_num_cmp", 2, |args| Ok(Value::Integer(
        numeric(args, 0)?.compare(&numeric(args, 1)?) as i64
    ))),
    strict!("sh_num_eq", 2, |args| bool_value(
        numeric(args, 0)?.compare(&numeric(args, 1)?) == Ordering::Equal
    )),
    strict!("sh_num_gcd", 2, |args| numeric_gcd(args)),
    strict!("sh_num_width_bucket", 4, |args| match (
        numeric(args, 0)?,
        numeric(args, 1)?,
        numeric(args, 2)?
    ) {
        (Numeric::Finite(value), Numeric::Finite(low), Numeric::Finite(high)) =>
            numeric_bucket(&value, &low, &high, int(args, 3)?),
        _ => Err(bucket_error(
            "operand, lower bound, and upper bound must be finite numbers"
        )),
    }),
];

fn ranged(value: Option<i64>, (min, max, name): Range) -> Outcome {
    value
        .filter(|value| (min..=max).contains(value))
        .map(Value::Integer)
        .ok_or_else(|| out_of_range(name))
}

/// The low 32 bits, as C's int.
#[expect(
    clippy::cast_possible_truncation,
    reason = "int4 arguments fit; shift counts count modulo the width"
)]
const fn narrow(value: i64) -> i32 {
    value as i32
}

fn gcd(a: i64, b: i64) -> Option<i64> {
    let (mut a, mut b) = (a.unsigned_abs(), b.unsigned_abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    i64::try_from(a).ok()
}

fn lcm(a: i64, b: i64) -> Option<i64> {
    if a == 0 || b == 0 {
        return Some(0);
    }
    (a / gcd(a, b)?).checked_mul(b)?.checked_abs()
}

fn factorial(value: i64) -> Outcome {
    if value < 0 {
        return Err(SqlError::new(
            ErrorCode::NumericOutOfRange,
            "factorial of a negative number is undefined",
        ));
    }
    if value > 3000 {
        return Err(overflow());
    }
    let product = (2..=value).fold(Int::Small(1), |product, factor| {
        product.mul(&Int::Small(factor.into()))
    });
    Numeric::Finite(Decimal {
        unscaled: product,
        scale: 0,
    })
    .to_value()
}

/// A double that came out of finite arguments: infinite means overflow.
fn finite(value: f64, infinite_argument: bool) -> Outcome {
    if value.is_infinite() && !infinite_argument {
        return Err(SqlError::new(
            ErrorCode::NumericOutOfRange,
            "value out of range: overflow",
        ));
    }
    not_nan(value, &PgType::Float8).map(Value::Real)
}

fn underflow() -> SqlError {
    SqlError::new(
        ErrorCode::NumericOutOfRange,
        "value out of range: underflow",
    )
}

fn double(args: Args<'_, '_>, op: fn(f64, f64) -> f64) -> Outcome {
    let (a, b) = (real(args, 0)?, real(args, 1)?);
    finite(op(a, b), a.is_infinite() || b.is_infinite())
}

fn single(value: f64) -> Outcome {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rounding to 32 bits is what is asked for"
    )]
    let narrow = f64::from(value as f32);
    if narrow == 0.0 && value != 0.0 {
        return Err(underflow());
    }
    finite(narrow, value.is_infinite())
}

fn float_to_int(value: f64, range: Range) -> Outcome {
    let rounded = value.round_ties_even();
    // 2^63 itself is no bigint; the comparison with doubles is exact.
    if !(-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&rounded) {
        return Err(out_of_range(range.2));
    }
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
    let whole = rounded as i64;
    ranged(Some(whole), range)
}

fn bad_power_argument(message: &str) -> SqlError {
    SqlError::new(ErrorCode::InvalidPowerArgument, message)
}

fn float_power(base: f64, exponent: f64) -> Outcome {
    if base == 0.0 && exponent < 0.0 {
        return Err(bad_power_argument(
            "zero raised to a negative power is undefined",
        ));
    }
    if base < 0.0 && exponent.is_finite() && exponent.fract() != 0.0 {
        return Err(bad_power_argument(
            "a negative number raised to a non-integer power yields a complex result",
        ));
    }
    let result = base.powf(exponent);
    if result == 0.0 && base != 0.0 && base.is_finite() && exponent.is_finite() {
        return Err(underflow());
    }
    finite(result, base.is_infinite() || exponent.is_infinite())
}

fn logarithm(value: f64, op: fn(f64) -> f64) -> Outcome {
    if value == 0.0 {
        return Err(SqlError::new(
            ErrorCode::InvalidLogarithmArgument,
            "cannot take logarithm of zero",
        ));
    }
    if value < 0.0 {
        return Err(SqlError::new(
            ErrorCode::InvalidLogarithmArgument,
            "cannot take logarithm of a negative number",
        ));
    }
    finite(op(value), value.is_infinite())
}

fn trigonometric(value: f64, op: fn(f64) -> f64) -> Outcome {
    let result = op(value);
    if result.is_nan() {
        return Err(SqlError::new(
            ErrorCode::NumericOutOfRange,
            "input is out of range",
        ));
    }
    Ok(Value::Real(result))
}

fn bucket_error(message: &str) -> SqlError {
    SqlError::new(ErrorCode::InvalidWidthBucketArgument, message)
}

fn width_bucket(value: f64, low: f64, high: f64, buckets: i64) -> Outcome {
    check_buckets(buckets)?;
    if low == high {
        return Err(bucket_error("lower bound cannot equal upper bound"));
    }
    let (value, low, high) = if low < high {
        (value, low, high)
    } else {
        (-value, -low, -high)
    };
    if value < low {
        return Ok(Value::Integer(0));
    }
    if value >= high {
        return Ok(Value::Integer(buckets + 1));
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "below buckets, an int4"
    )]
    let bucket = ((value - low) / (high - low) * buckets as f64) as i64;
    Ok(Value::Integer(bucket + 1))
}

fn check_buckets(buckets: i64) -> Result<(), SqlError> {
    if buckets <= 0 {
        Err(bucket_error("count must be greater than zero"))
    } else {
        Ok(())
    }
}

fn numeric_bucket(value: &Decimal, low: &Decimal, high: &Decimal, buckets: i64) -> Outcome {
    check_buckets(buckets)?;
    let (value, low, high) = match low.compare(high) {
        Ordering::Equal => return Err(bucket_error("lower bound cannot equal upper bound")),
        Ordering::Less => (value.clone(), low.clone(), high.clone()),
        Ordering::Greater => (value.negated(), low.negated(), high.negated()),
    };
    if value.compare(&low) == Ordering::Less {
        return Ok(Value::Integer(0));
    }
    if value.compare(&high) != Ordering::Less {
        return Ok(Value::Integer(buckets + 1));
    }
    let scale = value.scale.max(low.scale).max(high.scale);
    let part = value
        .at_scale(scale)
        .sub(&low.at_scale(scale))
        .mul(&Int::Small(buckets.into()));
    let bucket = part.div(&high.at_scale(scale).sub(&low.at_scale(scale)));
    Ok(Value::Integer(
        bucket.to_i64().ok_or_else(|| out_of_range("integer"))? + 1,
    ))
}

fn zero() -> Numeric {
    Numeric::Finite(Decimal::from_int(0))
}

fn scale_at(args: Args<'_, '_>, at: usize) -> Result<u32, SqlError> {
    u32::try_from(int(args, at)?).map_err(|_| invalid_parameter("a scale must not be negative"))
}

fn to_column(args: Args<'_, '_>) -> Outcome {
    let modifier =
        |at| int(args, at).and_then(|value| u16::try_from(value).map_err(|_| overflow()));
    numeric(args, 0)?.to_column(modifier(1)?, modifier(2)?)
}

fn numeric_to_int(args: Args<'_, '_>, range: Range) -> Outcome {
    match numeric(args, 0)? {
        Numeric::Finite(value) => ranged(value.to_i64(), range),
        Numeric::NaN => Err(SqlError::new(
            ErrorCode::FeatureNotSupported,
            format!("cannot convert NaN to {}", range.2),
        )),
        _ => Err(SqlError::new(
            ErrorCode::FeatureNotSupported,
            format!("cannot convert infinity to {}", range.2),
        )),
    }
}

fn numeric_to_float(args: Args<'_, '_>) -> Result<f64, SqlError> {
    match numeric(args, 0)? {
        Numeric::Finite(value) => {
            let float = value.to_f64();
            if float.is_infinite() {
                let mut text = Vec::new();
                value.write(&mut text);
                return Err(SqlError::new(
                    ErrorCode::NumericOutOfRange,
                    format!(
                        "\"{}\" is out of range for type double precision",
                        String::from_utf8_lossy(&text)
                    ),
                ));
            }
            Ok(float)
        }
        Numeric::Infinity => Ok(f64::INFINITY),
        Numeric::MinusInfinity => Ok(f64::NEG_INFINITY),
        Numeric::NaN => not_nan(f64::NAN, &PgType::Float8),
    }
}

fn negated(value: Numeric) -> Numeric {
    match value {
        Numeric::MinusInfinity => Numeric::Infinity,
        Numeric::Infinity => Numeric::MinusInfinity,
        Numeric::NaN => Numeric::NaN,
        Numeric::Finite(value) => Numeric::Finite(value.negated()),
    }
}

/// The sum, infinities and NaN as in IEEE arithmetic.
pub(super) fn add(a: &Numeric, b: &Numeric) -> Result<Numeric, SqlError> {
    Ok(match (a, b) {
        (Numeric::Finite(a), Numeric::Finite(b)) => Numeric::Finite(a.plus(b)),
        (Numeric::NaN, _)
        | (_, Numeric::NaN)
        | (Numeric::Infinity, Numeric::MinusInfinity)
        | (Numeric::MinusInfinity, Numeric::Infinity) => Numeric::NaN,
        (Numeric::Finite(_), other) | (other, _) => other.clone(),
    })
}

fn multiply(a: &Numeric, b: &Numeric) -> Result<Numeric, SqlError> {
    if let (Numeric::Finite(a), Numeric::Finite(b)) = (a, b) {
        return Ok(Numeric::Finite(a.times(b)));
    }
    if *a == Numeric::NaN || *b == Numeric::NaN {
        return Ok(Numeric::NaN);
    }
    Ok(
        match (a.compare(&zero()) as i8) * (b.compare(&zero()) as i8) {
            0 => Numeric::NaN,
            1 => Numeric::Infinity,
            _ => Numeric::MinusInfinity,
        },
    )
}

/// The quotient at PostgreSQL's scale.
pub(super) fn divide(a: &Numeric, b: &Numeric) -> Result<Numeric, SqlError> {
    match (a, b) {
        (Numeric::NaN, _) | (_, Numeric::NaN) => Ok(Numeric::NaN),
        (_, Numeric::Finite(b)) if b.is_zero() => Err(division_by_zero()),
        (Numeric::Finite(a), Numeric::Finite(b)) => Ok(Numeric::Finite(a.divided_by(b))),
        (Numeric::Finite(_), _) => Ok(zero()),
        (_, Numeric::Finite(_)) => multiply(a, b),
        _ => Ok(Numeric::NaN),
    }
}

fn map(args: Args<'_, '_>, op: fn(&Decimal, i32) -> Decimal) -> Outcome {
    let digits = i32::try_from(int(args, 1)?)
        .unwrap_or(i32::MAX)
        .clamp(-70_000, 16_383);
    match numeric(args, 0)? {
        Numeric::Finite(value) => Numeric::Finite(op(&value, digits)).to_value(),
        other => other.to_value(),
    }
}

fn finite_map(args: Args<'_, '_>, op: fn(&Decimal) -> Decimal) -> Outcome {
    match numeric(args, 0)? {
        Numeric::Finite(value) => Numeric::Finite(op(&value)).to_value(),
        other => other.to_value(),
    }
}

fn square_root(args: Args<'_, '_>) -> Outcome {
    match numeric(args, 0)? {
        Numeric::Finite(value) if value.unscaled.is_negative() => Err(bad_power_argument(
            "cannot take square root of a negative number",
        )),
        Numeric::MinusInfinity => Err(bad_power_argument(
            "cannot take square root of a negative number",
        )),
        Numeric::Finite(value) => {
            let weight = value.weight();
            // Digits before the point of the root, so that 16 are significant.
            let sweight = (weight + 1) * 2 - 1;
            let scale = u32::try_from(16 - sweight)
                .unwrap_or(0)
                .max(value.scale)
                .min(1000);
            Numeric::Finite(sqrt_to(&value, scale)).to_value()
        }
        other => other.to_value(),
    }
}

/// The square root of what is not negative, rounded to `scale` digits.
pub(super) fn sqrt_to(value: &Decimal, scale: u32) -> Decimal {
    // One digit more than wanted, then rounded; the floor of the root decides correctly, since no
    // root of a shorter decimal lies exactly between.
    let extra = scale + 2;
    let root = value.at_or_cut(2 * extra).isqrt();
    Decimal {
        unscaled: root,
        scale: extra,
    }
    .round(i32::try_from(scale).unwrap_or(1000))
}

fn numeric_gcd(args: Args<'_, '_>) -> Outcome {
    let (Numeric::Finite(a), Numeric::Finite(b)) = (numeric(args, 0)?, numeric(args, 1)?) else {
        return Numeric::NaN.to_value();
    };
    let scale = a.scale.max(b.scale);
    let (mut a, mut b) = (a.at_scale(scale).abs(), b.at_scale(scale).abs());
    while !b.is_zero() {
        (a, b) = (b.clone(), a.rem(&b));
    }
    Numeric::Finite(Decimal { unscaled: a, scale }).to_value()
}
