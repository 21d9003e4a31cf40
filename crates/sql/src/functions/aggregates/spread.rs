//! Variance, standard deviation, correlation and regression.

use std::collections::VecDeque;

use springhead_proto::{SqlError, Value, ValueRef};

use super::sums::Specials;
use crate::functions::numbers::sqrt_to;
use crate::functions::support::{Args, Outcome, numeric, real, too_large};
use crate::functions::{Aggregate, AggregateState, MAX_RESULT_BYTES};
use crate::types::PgType;
use crate::types::float::not_nan;
use crate::types::numeric::{Decimal, Numeric};

pub(in crate::functions) const AGGREGATES: &[Aggregate] = &[
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
];

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
