//! Aggregates, each usable over a moving window frame too.
//!
//! NULLs are skipped as PostgreSQL does, and over no rows the result is NULL (but for `count`,
//! which is SQLite's own). Sums and averages of integers and numerics are exact.

use std::collections::VecDeque;

use springhead_proto::{SqlError, Value, ValueRef};

use super::support::{
    Args, Outcome, int, invalid_parameter, numeric, out_of_range, pg_type, real, too_large,
};
use super::values::{printed, storage_order};
use super::{Aggregate, AggregateState, MAX_RESULT_BYTES};
use crate::types::float::not_nan;
use crate::types::interval::Interval;
use crate::types::json::{into_text, normalise, write_string};
use crate::types::numeric::{Decimal, Numeric};
use crate::types::{PgType, array, output_json};

use super::numbers::{divide, sqrt_to};

pub(super) const AGGREGATES: &[Aggregate] = &[
    // Integers: a bigint sum of small ones, checked; numeric results.
    Aggregate {
        name: "sh_sum_int",
        args: 1,
        start: || {
            Box::new(IntegerSum {
                finish: integer_sum,
                ..IntegerSum::new()
            })
        },
    },
    Aggregate {
        name: "sh_sum_int8",
        args: 1,
        start: || {
            Box::new(IntegerSum {
                finish: numeric_sum,
                ..IntegerSum::new()
            })
        },
    },
    Aggregate {
        name: "sh_avg_int",
        args: 1,
        start: || {
            Box::new(IntegerSum {
                finish: average,
                ..IntegerSum::new()
            })
        },
    },
    // Scaled numerics: value, scale.
    Aggregate {
        name: "sh_sum_scaled",
        args: 2,
        start: || {
            Box::new(IntegerSum {
                finish: numeric_sum,
                ..IntegerSum::new()
            })
        },
    },
    Aggregate {
        name: "sh_avg_scaled",
        args: 2,
        start: || {
            Box::new(IntegerSum {
                finish: average,
                ..IntegerSum::new()
            })
        },
    },
    Aggregate {
        name: "sh_sum_num",
        args: 1,
        start: || {
            Box::new(NumericSum {
                average: false,
                ..NumericSum::new()
            })
        },
    },
    Aggregate {
        name: "sh_avg_num",
        args: 1,
        start: || {
            Box::new(NumericSum {
                average: true,
                ..NumericSum::new()
            })
        },
    },
    Aggregate {
        name: "sh_sum_float",
        args: 1,
        start: || {
            Box::new(FloatSum {
                average: false,
                ..FloatSum::new()
            })
        },
    },
    Aggregate {
        name: "sh_sum_float4",
        args: 1,
        start: || {
            Box::new(FloatSum {
                single: true,
                ..FloatSum::new()
            })
        },
    },
    Aggregate {
        name: "sh_avg_float",
        args: 1,
        start: || {
            Box::new(FloatSum {
                average: true,
                ..FloatSum::new()
            })
        },
    },
    Aggregate {
        name: "sh_sum_interval",
        args: 1,
        start: || Box::new(IntervalSum::default()),
    },
    Aggregate {
        name: "sh_avg_interval",
        args: 1,
        start: || {
            Box::new(IntervalSum {
                average: true,
                ..IntervalSum::default()
            })
        },
    },
    // Spread, exact for numerics.
    Aggregate {
        name: "sh_var_samp_num",
        args: 1,
        start: || Box::new(NumericSpread::new(true, false)),
    },
    Aggregate {
        name: "sh_var_pop_num",
        args: 1,
        start: || Box::new(NumericSpread::new(false, false)),
    },
    Aggregate {
        name: "sh_stddev_samp_num",
        args: 1,
        start: || Box::new(NumericSpread::new(true, true)),
    },
    Aggregate {
        name: "sh_stddev_pop_num",
        args: 1,
        start: || Box::new(NumericSpread::new(false, true)),
    },
    Aggregate {
        name: "sh_var_samp_float",
        args: 1,
        start: || Box::new(FloatSpread::new(true, false)),
    },
    Aggregate {
        name: "sh_var_pop_float",
        args: 1,
        start: || Box::new(FloatSpread::new(false, false)),
    },
    Aggregate {
        name: "sh_stddev_samp_float",
        args: 1,
        start: || Box::new(FloatSpread::new(true, true)),
    },
    Aggregate {
        name: "sh_stddev_pop_float",
        args: 1,
        start: || Box::new(FloatSpread::new(false, true)),
    },
    // y, x
    Aggregate {
        name: "sh_corr",
        args: 2,
        start: || Box::new(Pairs::new(Pairs::corr)),
    },
    Aggregate {
        name: "sh_covar_samp",
        args: 2,
        start: || Box::new(Pairs::new(Pairs::covar_samp)),
    },
    Aggregate {
        name: "sh_covar_pop",
        args: 2,
        start: || Box::new(Pairs::new(Pairs::covar_pop)),
    },
    Aggregate {
        name: "sh_regr_slope",
        args: 2,
        start: || Box::new(Pairs::new(Pairs::slope)),
    },
    Aggregate {
        name: "sh_regr_intercept",
        args: 2,
        start: || Box::new(Pairs::new(Pairs::intercept)),
    },
    Aggregate {
        name: "sh_regr_r2",
        args: 2,
        start: || Box::new(Pairs::new(Pairs::r2)),
    },
    Aggregate {
        name: "sh_bool_and",
        args: 1,
        start: || {
            Box::new(Bools {
                all: true,
                ..Bools::default()
            })
        },
    },
    Aggregate {
        name: "sh_bool_or",
        args: 1,
        start: || Box::new(Bools::default()),
    },
    Aggregate {
        name: "sh_bit_and",
        args: 1,
        start: || Box::new(Kept::new(bit_and, false)),
    },
    Aggregate {
        name: "sh_bit_or",
        args: 1,
        start: || Box::new(Kept::new(bit_or, false)),
    },
    // In storage order; for values whose keys differ from them: value, key.
    Aggregate {
        name: "sh_min",
        args: -1,
        start: || Box::new(Kept::new(least, false)),
    },
    Aggregate {
        name: "sh_max",
        args: -1,
        start: || Box::new(Kept::new(greatest, false)),
    },
    // text, delimiter
    Aggregate {
        name: "sh_string_agg",
        args: 2,
        start: || Box::new(Kept::new(string_agg, false)),
    },
    // value, oid, typmod
    Aggregate {
        name: "sh_array_agg",
        args: 3,
        start: || Box::new(Kept::new(array_agg, true)),
    },
    Aggregate {
        name: "sh_json_agg",
        args: 3,
        start: || Box::new(Kept::new(json_agg, true)),
    },
    Aggregate {
        name: "sh_jsonb_agg",
        args: 3,
        start: || Box::new(Kept::new(jsonb_agg, true)),
    },
    // key, oid, typmod, value, oid, typmod
    Aggregate {
        name: "sh_json_object_agg",
        args: 6,
        start: || Box::new(Kept::new(json_object_agg, true)),
    },
    Aggregate {
        name: "sh_jsonb_object_agg",
        args: 6,
        start: || Box::new(Kept::new(jsonb_object_agg, true)),
    },
    // value, fraction
    Aggregate {
        name: "sh_percentile_cont",
        args: 2,
        start: || Box::new(Kept::new(percentile_cont, false)),
    },
    Aggregate {
        name: "sh_percentile_disc",
        args: 2,
        start: || Box::new(Kept::new(percentile_disc, false)),
    },
    Aggregate {
        name: "sh_mode",
        args: 1,
        start: || Box::new(Kept::new(mode, false)),
    },
];

/// Sums of INTEGERs in 128 bits, which no number of rows overflows.
struct IntegerSum {
    sum: i128,
    count: i64,
    /// Digits after the point of each.
    scale: u32,
    /// How many are NaN.
    nans: i64,
    finish: fn(&IntegerSum) -> Outcome,
}

impl IntegerSum {
    fn new() -> IntegerSum {
        IntegerSum {
            sum: 0,
            count: 0,
            scale: 0,
            nans: 0,
            finish: integer_sum,
        }
    }

    fn take(&mut self, args: Args<'_, '_>, sign: i64) -> Result<(), SqlError> {
        if args[0].is_null() {
            return Ok(());
        }
        self.count += sign;
        let value = int(args, 0)?;
        if args.len() > 1 {
            self.scale = u32::try_from(int(args, 1)?).map_err(|_| out_of_range("scale"))?;
            if value == crate::types::numeric::SCALED_NAN {
                self.nans += sign;
                return Ok(());
            }
        }
        self.sum += i128::from(value) * i128::from(sign);
        Ok(())
    }

    fn total(&self) -> Numeric {
        if self.nans > 0 {
            Numeric::NaN
        } else {
            Numeric::Finite(Decimal::new(self.sum, self.scale))
        }
    }
}

impl AggregateState for IntegerSum {
    fn step(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        self.take(args, 1)
    }

    fn inverse(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        self.take(args, -1)
    }

    fn finish(&self) -> Outcome {
        if self.count == 0 {
            Ok(Value::Null)
        } else {
            (self.finish)(self)
        }
    }
}

fn integer_sum(sum: &IntegerSum) -> Outcome {
    i64::try_from(sum.sum)
        .map(Value::Integer)
        .map_err(|_| out_of_range("bigint"))
}

fn numeric_sum(sum: &IntegerSum) -> Outcome {
    sum.total().to_value()
}

fn average(sum: &IntegerSum) -> Outcome {
    divide(
        &sum.total(),
        &Numeric::Finite(Decimal::from_int(sum.count.into())),
    )?
    .to_value()
}

/// Sums of BLOB numerics. The greatest scale ever seen stays, as in PostgreSQL while it is there.
struct NumericSum {
    sum: Decimal,
    count: i64,
    specials: Specials,
    average: bool,
}

/// How many are not finite.
#[derive(Default)]
struct Specials {
    nan: i64,
    infinity: i64,
    minus_infinity: i64,
}

impl Specials {
    fn take(&mut self, value: &Numeric, sign: i64) {
        match value {
            Numeric::NaN => self.nan += sign,
            Numeric::Infinity => self.infinity += sign,
            Numeric::MinusInfinity => self.minus_infinity += sign,
            Numeric::Finite(_) => {}
        }
    }

    fn result(&self) -> Option<Numeric> {
        if self.nan > 0 || (self.infinity > 0 && self.minus_infinity > 0) {
            Some(Numeric::NaN)
        } else if self.infinity > 0 {
            Some(Numeric::Infinity)
        } else if self.minus_infinity > 0 {
            Some(Numeric::MinusInfinity)
        } else {
            None
        }
    }
}

impl NumericSum {
    fn new() -> NumericSum {
        NumericSum {
            sum: Decimal::from_int(0),
            count: 0,
            specials: Specials::default(),
            average: false,
        }
    }

    fn take(&mut self, args: Args<'_, '_>, sign: i64) -> Result<(), SqlError> {
        if args[0].is_null() {
            return Ok(());
        }
        self.count += sign;
        let value = numeric(args, 0)?;
        self.specials.take(&value, sign);
        if let Numeric::Finite(value) = value {
            self.sum = if sign > 0 {
                self.sum.plus(&value)
            } else {
                self.sum.minus(&value)
            };
        }
        Ok(())
    }
}

impl AggregateState for NumericSum {
    fn step(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        self.take(args, 1)
    }

    fn inverse(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        self.take(args, -1)
    }

    fn finish(&self) -> Outcome {
        if self.count == 0 {
            return Ok(Value::Null);
        }
        let sum = self
            .specials
            .result()
            .unwrap_or_else(|| Numeric::Finite(self.sum.clone()));
        if self.average {
            return divide(&sum, &Numeric::Finite(Decimal::from_int(self.count.into())))?
                .to_value();
        }
        sum.to_value()
    }
}

/// Values that a sum of floats keeps for a moving frame.
const KEPT_FLOATS: usize = 1 << 20;

/// Sums of floats. For a moving frame the values are kept and added anew, as taking one back would
/// leave its rounding errors behind; of more than [`KEPT_FLOATS`] none is kept.
struct FloatSum {
    values: VecDeque<f64>,
    /// Of all values, unless `moved`.
    sum: f64,
    count: u64,
    /// How many are infinite.
    infinite: u64,
    /// A value has been taken back, so that `values` must be summed.
    moved: bool,
    /// There were too many to keep: `values` is empty and `sum` is kept up by subtraction.
    too_many: bool,
    average: bool,
    single: bool,
}

impl FloatSum {
    fn new() -> FloatSum {
        FloatSum {
            values: VecDeque::new(),
            sum: 0.0,
            count: 0,
            infinite: 0,
            moved: false,
            too_many: false,
            average: false,
            single: false,
        }
    }

    fn total(&self) -> f64 {
        if self.moved {
            self.values.iter().sum()
        } else {
            self.sum
        }
    }
}

impl AggregateState for FloatSum {
    fn step(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        if args[0].is_null() {
            return Ok(());
        }
        let value = real(args, 0)?;
        self.sum += value;
        self.count += 1;
        self.infinite += u64::from(value.is_infinite());
        if !self.too_many {
            self.values.push_back(value);
            if self.values.len() > KEPT_FLOATS {
                self.sum = self.total();
                (self.too_many, self.moved) = (true, false);
                self.values = VecDeque::new();
            }
        }
        Ok(())
    }

    fn inverse(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        if args[0].is_null() {
            return Ok(());
        }
        let value = real(args, 0)?;
        self.count = self.count.saturating_sub(1);
        self.infinite = self.infinite.saturating_sub(u64::from(value.is_infinite()));
        if self.too_many {
            self.sum -= value;
        } else {
            self.values.pop_front();
            self.moved = true;
        }
        Ok(())
    }

    fn finish(&self) -> Outcome {
        if self.count == 0 {
            return Ok(Value::Null);
        }
        let sum = self.total();
        if sum.is_infinite() && self.infinite == 0 {
            return Err(out_of_range("value"));
        }
        #[expect(clippy::cast_precision_loss, reason = "fewer rows than 2^53")]
        let result = if self.average {
            sum / self.count as f64
        } else {
            sum
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the sum of reals is a real"
        )]
        let result = if self.single {
            f64::from(result as f32)
        } else {
            result
        };
        not_nan(result, &PgType::Float8).map(Value::Real)
    }
}

#[derive(Default)]
struct IntervalSum {
    sum: Interval,
    count: i64,
    average: bool,
}

impl AggregateState for IntervalSum {
    fn step(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        if !args[0].is_null() {
            self.sum = self.sum.plus(super::support::interval(args, 0)?)?;
            self.count += 1;
        }
        Ok(())
    }

    fn inverse(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        if !args[0].is_null() {
            self.sum = self
                .sum
                .plus(super::support::interval(args, 0)?.negated()?)?;
            self.count -= 1;
        }
        Ok(())
    }

    fn finish(&self) -> Outcome {
        if self.count == 0 {
            return Ok(Value::Null);
        }
        #[expect(clippy::cast_precision_loss, reason = "fewer rows than 2^53")]
        let result = if self.average {
            self.sum.times(1.0 / self.count as f64)?
        } else {
            self.sum
        };
        Ok(Value::Blob(result.encode()))
    }
}

/// Variance and standard deviation of numerics, from exact sums, as PostgreSQL computes them.
struct NumericSpread {
    sum: Decimal,
    squares: Decimal,
    count: i64,
    specials: Specials,
    sample: bool,
    root: bool,
}

impl NumericSpread {
    fn new(sample: bool, root: bool) -> NumericSpread {
        let zero = Decimal::from_int(0);
        NumericSpread {
            sum: zero.clone(),
            squares: zero,
            count: 0,
            specials: Specials::default(),
            sample,
            root,
        }
    }

    fn take(&mut self, args: Args<'_, '_>, sign: i64) -> Result<(), SqlError> {
        if args[0].is_null() {
            return Ok(());
        }
        self.count += sign;
        let value = numeric(args, 0)?;
        self.specials.take(&value, sign);
        if let Numeric::Finite(value) = value {
            let square = value.times(&value);
            if sign > 0 {
                (self.sum, self.squares) = (self.sum.plus(&value), self.squares.plus(&square));
            } else {
                (self.sum, self.squares) = (self.sum.minus(&value), self.squares.minus(&square));
            }
        }
        Ok(())
    }
}

impl AggregateState for NumericSpread {
    fn step(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        self.take(args, 1)
    }

    fn inverse(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        self.take(args, -1)
    }

    fn finish(&self) -> Outcome {
        if self.count < if self.sample { 2 } else { 1 } {
            return Ok(Value::Null);
        }
        if self.specials.result().is_some() {
            return Numeric::NaN.to_value();
        }
        let n = Decimal::from_int(self.count.into());
        let above = n.times(&self.squares).minus(&self.sum.times(&self.sum));
        if above.is_zero() || above.unscaled.is_negative() {
            return Numeric::Finite(Decimal::from_int(0)).to_value();
        }
        let below = n.times(&Decimal::from_int(
            (self.count - i64::from(self.sample)).into(),
        ));
        let scale = above.division_scale(&below);
        let variance = above.divided_to(&below, scale);
        Numeric::Finite(if self.root {
            sqrt_to(&variance, scale)
        } else {
            variance
        })
        .to_value()
    }
}

/// Variance and standard deviation of floats, by Youngs and Cramer's updates as in PostgreSQL; a
/// moving frame is computed anew.
struct FloatSpread {
    values: VecDeque<f64>,
    sample: bool,
    root: bool,
}

impl FloatSpread {
    fn new(sample: bool, root: bool) -> FloatSpread {
        FloatSpread {
            values: VecDeque::new(),
            sample,
            root,
        }
    }
}

impl AggregateState for FloatSpread {
    fn step(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        if !args[0].is_null() {
            self.values.push_back(real(args, 0)?);
            if self.values.len() > MAX_RESULT_BYTES / 8 {
                return Err(too_large());
            }
        }
        Ok(())
    }

    fn inverse(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        if !args[0].is_null() {
            self.values.pop_front();
        }
        Ok(())
    }

    fn finish(&self) -> Outcome {
        if self.values.len() < if self.sample { 2 } else { 1 } {
            return Ok(Value::Null);
        }
        let (mut n, mut sum, mut squares) = (0.0, 0.0, 0.0);
        for &value in &self.values {
            n += 1.0;
            sum += value;
            if n > 1.0 {
                let deviation = value * n - sum;
                squares += deviation * deviation / (n * (n - 1.0));
            }
        }
        let variance = squares / if self.sample { n - 1.0 } else { n };
        not_nan(
            if self.root { variance.sqrt() } else { variance },
            &PgType::Float8,
        )
        .map(Value::Real)
    }
}

/// Two-argument statistics, y before x.
struct Pairs {
    values: VecDeque<(f64, f64)>,
    result: fn(&Moments) -> Option<f64>,
}

struct Moments {
    n: f64,
    mean_x: f64,
    mean_y: f64,
    xx: f64,
    yy: f64,
    xy: f64,
}

impl Pairs {
    fn new(result: fn(&Moments) -> Option<f64>) -> Pairs {
        Pairs {
            values: VecDeque::new(),
            result,
        }
    }

    fn corr(m: &Moments) -> Option<f64> {
        (m.xx != 0.0 && m.yy != 0.0).then(|| m.xy / (m.xx * m.yy).sqrt())
    }

    fn covar_samp(m: &Moments) -> Option<f64> {
        (m.n >= 2.0).then(|| m.xy / (m.n - 1.0))
    }

    fn covar_pop(m: &Moments) -> Option<f64> {
        Some(m.xy / m.n)
    }

    fn slope(m: &Moments) -> Option<f64> {
        (m.xx != 0.0).then(|| m.xy / m.xx)
    }

    fn intercept(m: &Moments) -> Option<f64> {
        Pairs::slope(m).map(|slope| m.mean_y - slope * m.mean_x)
    }

    fn r2(m: &Moments) -> Option<f64> {
        if m.xx == 0.0 {
            return None;
        }
        Some(if m.yy == 0.0 {
            1.0
        } else {
            (m.xy * m.xy) / (m.xx * m.yy)
        })
    }
}

impl AggregateState for Pairs {
    fn step(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        if !args[0].is_null() && !args[1].is_null() {
            self.values.push_back((real(args, 0)?, real(args, 1)?));
            if self.values.len() > MAX_RESULT_BYTES / 16 {
                return Err(too_large());
            }
        }
        Ok(())
    }

    fn inverse(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        if !args[0].is_null() && !args[1].is_null() {
            self.values.pop_front();
        }
        Ok(())
    }

    fn finish(&self) -> Outcome {
        let (mut n, mut sum_x, mut sum_y, mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
        for &(y, x) in &self.values {
            n += 1.0;
            sum_x += x;
            sum_y += y;
            if n > 1.0 {
                let (dx, dy, scale) = (x * n - sum_x, y * n - sum_y, 1.0 / (n * (n - 1.0)));
                xx += dx * dx * scale;
                yy += dy * dy * scale;
                xy += dx * dy * scale;
            }
        }
        if n == 0.0 {
            return Ok(Value::Null);
        }
        let moments = Moments {
            n,
            mean_x: sum_x / n,
            mean_y: sum_y / n,
            xx,
            yy,
            xy,
        };
        match (self.result)(&moments) {
            Some(value) => not_nan(value, &PgType::Float8).map(Value::Real),
            None => Ok(Value::Null),
        }
    }
}

#[derive(Default)]
struct Bools {
    trues: i64,
    falses: i64,
    all: bool,
}

impl Bools {
    fn take(&mut self, args: Args<'_, '_>, sign: i64) -> Result<(), SqlError> {
        match args[0] {
            ValueRef::Null => {}
            ValueRef::Integer(0) => self.falses += sign,
            _ => self.trues += sign,
        }
        Ok(())
    }
}

impl AggregateState for Bools {
    fn step(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        self.take(args, 1)
    }

    fn inverse(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        self.take(args, -1)
    }

    fn finish(&self) -> Outcome {
        if self.trues + self.falses == 0 {
            return Ok(Value::Null);
        }
        Ok(Value::Integer(i64::from(if self.all {
            self.falses == 0
        } else {
            self.trues > 0
        })))
    }
}

/// Aggregates that look at all rows of their frame at the end.
struct Kept {
    rows: VecDeque<Vec<Value>>,
    bytes: usize,
    /// Whether rows whose first argument is NULL count.
    nulls: bool,
    result: fn(&VecDeque<Vec<Value>>) -> Outcome,
}

impl Kept {
    fn new(result: fn(&VecDeque<Vec<Value>>) -> Outcome, nulls: bool) -> Kept {
        Kept {
            rows: VecDeque::new(),
            bytes: 0,
            nulls,
            result,
        }
    }

    fn counts(&self, args: Args<'_, '_>) -> bool {
        self.nulls || !args[0].is_null()
    }
}

fn size(args: Args<'_, '_>) -> usize {
    let bytes = |value: &ValueRef<'_>| match value {
        ValueRef::Text(text) => text.len(),
        ValueRef::Blob(bytes) => bytes.len(),
        _ => 0,
    };
    32 + args.iter().map(|value| 32 + bytes(value)).sum::<usize>()
}

impl AggregateState for Kept {
    fn step(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        if self.counts(args) {
            self.bytes += size(args);
            if self.bytes > MAX_RESULT_BYTES {
                return Err(too_large());
            }
            self.rows
                .push_back(args.iter().map(|value| (*value).to_owned()).collect());
        }
        Ok(())
    }

    fn inverse(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        if self.counts(args) {
            self.bytes = self.bytes.saturating_sub(size(args));
            self.rows.pop_front();
        }
        Ok(())
    }

    fn finish(&self) -> Outcome {
        if self.rows.is_empty() {
            Ok(Value::Null)
        } else {
            (self.result)(&self.rows)
        }
    }
}

type Rows = VecDeque<Vec<Value>>;

fn fold_bits(rows: &Rows, op: fn(i64, i64) -> i64) -> Outcome {
    let bits = rows.iter().filter_map(|row| match row[0] {
        Value::Integer(bits) => Some(bits),
        _ => None,
    });
    Ok(bits.reduce(op).map_or(Value::Null, Value::Integer))
}

fn bit_and(rows: &Rows) -> Outcome {
    fold_bits(rows, |a, b| a & b)
}

fn bit_or(rows: &Rows) -> Outcome {
    fold_bits(rows, |a, b| a | b)
}

/// The last argument is what is compared.
fn key(row: &[Value]) -> ValueRef<'_> {
    row.last().map_or(ValueRef::Null, Value::as_ref)
}

fn least(rows: &Rows) -> Outcome {
    Ok(rows
        .iter()
        .min_by(|a, b| storage_order(key(a), key(b)))
        .map_or(Value::Null, |row| row[0].clone()))
}

fn greatest(rows: &Rows) -> Outcome {
    Ok(rows
        .iter()
        .max_by(|a, b| storage_order(key(a), key(b)))
        .map_or(Value::Null, |row| row[0].clone()))
}

fn string_agg(rows: &Rows) -> Outcome {
    let mut out = String::new();
    let mut bytes = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        match (&row[0], &row[1]) {
            (Value::Text(text), delimiter) => {
                if let (Value::Text(delimiter), true) = (delimiter, index > 0) {
                    out.push_str(delimiter);
                }
                out.push_str(text);
            }
            (Value::Blob(part), delimiter) => {
                if let (Value::Blob(delimiter), true) = (delimiter, index > 0) {
                    bytes.extend_from_slice(delimiter);
                }
                bytes.extend_from_slice(part);
            }
            _ => {}
        }
    }
    Ok(if matches!(rows[0][0], Value::Blob(_)) {
        Value::Blob(bytes)
    } else {
        Value::Text(out)
    })
}

/// The type that the arguments from `at` on name.
fn type_at(row: &[Value], at: usize) -> Result<PgType, SqlError> {
    let args: Vec<ValueRef<'_>> = row.iter().map(Value::as_ref).collect();
    pg_type(&args, at)
}

fn array_agg(rows: &Rows) -> Outcome {
    let ty = type_at(&rows[0], 1)?;
    let element = match &ty {
        PgType::Array(element) => (**element).clone(),
        other => other.clone(),
    };
    if ty == element {
        return Ok(Value::Text(array::store(
            &element,
            rows.iter().map(|row| row[0].as_ref()),
        )));
    }
    // Arrays become the rows of one of a dimension more: their stored forms stand side by side.
    Ok(Value::Text(array::store(
        &PgType::Json,
        rows.iter().map(|row| row[0].as_ref()),
    )))
}

fn json_array(rows: &Rows) -> Result<String, SqlError> {
    let ty = type_at(&rows[0], 1)?;
    let mut out = vec![b'['];
    for (index, row) in rows.iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(b", ");
        }
        output_json(&ty, row[0].as_ref(), &mut out);
    }
    out.push(b']');
    Ok(into_text(out))
}

fn json_agg(rows: &Rows) -> Outcome {
    json_array(rows).map(Value::Text)
}

fn jsonb_agg(rows: &Rows) -> Outcome {
    normalise(&json_array(rows)?).map(Value::Text)
}

fn json_object(rows: &Rows) -> Result<String, SqlError> {
    let (key_type, value_type) = (type_at(&rows[0], 1)?, type_at(&rows[0], 4)?);
    let mut out = Vec::from(*b"{ ");
    for (index, row) in rows.iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(b", ");
        }
        if row[0] == Value::Null {
            return Err(invalid_parameter("field name must not be null"));
        }
        write_string(&printed(&key_type, row[0].as_ref()), &mut out);
        out.extend_from_slice(b" : ");
        output_json(&value_type, row[3].as_ref(), &mut out);
    }
    out.extend_from_slice(b" }");
    Ok(into_text(out))
}

fn json_object_agg(rows: &Rows) -> Outcome {
    json_object(rows).map(Value::Text)
}

fn jsonb_object_agg(rows: &Rows) -> Outcome {
    normalise(&json_object(rows)?).map(Value::Text)
}

fn sorted(rows: &Rows) -> Vec<ValueRef<'_>> {
    let mut values: Vec<ValueRef<'_>> = rows.iter().map(|row| row[0].as_ref()).collect();
    values.sort_by(|a, b| storage_order(*a, *b));
    values
}

fn fraction(rows: &Rows) -> Result<Option<f64>, SqlError> {
    let at = match rows[0][1] {
        Value::Null => return Ok(None),
        ref value => real(&[value.as_ref()], 0)?,
    };
    if (0.0..=1.0).contains(&at) {
        return Ok(Some(at));
    }
    Err(SqlError::new(
        springhead_proto::ErrorCode::NumericOutOfRange,
        format!("percentile value {at} is not between 0 and 1"),
    ))
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index"
)]
fn percentile_cont(rows: &Rows) -> Outcome {
    let Some(fraction) = fraction(rows)? else {
        return Ok(Value::Null);
    };
    let values = sorted(rows);
    let row = fraction * (values.len() - 1) as f64;
    let (low, high) = (row.floor() as usize, row.ceil() as usize);
    let (a, b) = (real(&values[low..=low], 0)?, real(&values[high..=high], 0)?);
    not_nan(a + (row - low as f64) * (b - a), &PgType::Float8).map(Value::Real)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index"
)]
fn percentile_disc(rows: &Rows) -> Outcome {
    let Some(fraction) = fraction(rows)? else {
        return Ok(Value::Null);
    };
    let values = sorted(rows);
    let row = ((fraction * values.len() as f64).ceil() as usize).max(1) - 1;
    Ok(values[row].to_owned())
}

fn mode(rows: &Rows) -> Outcome {
    let values = sorted(rows);
    let mut best = (0, ValueRef::Null);
    for group in values.chunk_by(|a, b| storage_order(*a, *b).is_eq()) {
        if group.len() > best.0 {
            best = (group.len(), group[0]);
        }
    }
    Ok(best.1.to_owned())
}
