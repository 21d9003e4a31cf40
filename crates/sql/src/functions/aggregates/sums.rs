//! Sums and averages: of integers and numerics exact, of floats as the order of their rows gives them.

use std::collections::VecDeque;

use springhead_proto::{SqlError, Value, ValueRef};

use crate::functions::numbers::divide;
use crate::functions::support::{Args, Outcome, int, interval, numeric, out_of_range, real};
use crate::functions::{Aggregate, AggregateState};
use crate::types::PgType;
use crate::types::float::not_nan;
use crate::types::interval::Interval;
use crate::types::numeric::{Decimal, Numeric};

pub(in crate::functions) const AGGREGATES: &[Aggregate] = &[
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
pub(super) struct Specials {
    pub(super) nan: i64,
    pub(super) infinity: i64,
    pub(super) minus_infinity: i64,
}

impl Specials {
    pub(super) fn take(&mut self, value: &Numeric, sign: i64) {
        match value {
            Numeric::NaN => self.nan += sign,
            Numeric::Infinity => self.infinity += sign,
            Numeric::MinusInfinity => self.minus_infinity += sign,
            Numeric::Finite(_) => {}
        }
    }

    pub(super) fn result(&self) -> Option<Numeric> {
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
            self.sum = self.sum.plus(interval(args, 0)?)?;
            self.count += 1;
        }
        Ok(())
    }

    fn inverse(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        if !args[0].is_null() {
            self.sum = self.sum.plus(interval(args, 0)?.negated()?)?;
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
