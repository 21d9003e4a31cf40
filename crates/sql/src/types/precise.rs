//! Times, timestamps and intervals with fewer than six digits of seconds: `timestamp(3)`.
//!
//! What is read or converted as such a type is rounded as PostgreSQL rounds it, half away from zero
//! (a timestamp's zero is 2000-01-01). Nothing else differs from the plain type.

use serde::{Deserialize, Serialize};
use springhead_proto::{SqlError, Value};

use super::datetime::{DAY, INFINITY, MINUS_INFINITY};
use super::interval::Interval;
use super::{PgType, bad_modifier};

/// 2000-01-01 in microseconds since 1970.
const EPOCH_2000: i64 = 10_957 * DAY;
/// The digits that are stored.
const DIGITS: u8 = 6;
/// `INTERVAL_FULL_RANGE`, in an interval's modifier.
const FULL_RANGE: i32 = 0x7fff << 16;

/// A type that has a precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    Time,
    Timestamp,
    Timestamptz,
    Interval,
}

impl Moment {
    /// The type without a precision.
    #[must_use]
    pub const fn plain(self) -> PgType {
        match self {
            Moment::Time => PgType::Time,
            Moment::Timestamp => PgType::Timestamp,
            Moment::Timestamptz => PgType::Timestamptz,
            Moment::Interval => PgType::Interval,
        }
    }

    /// The plain type's object id.
    #[must_use]
    pub const fn oid(self) -> u32 {
        match self {
            Moment::Time => 1083,
            Moment::Timestamp => 1114,
            Moment::Timestamptz => 1184,
            Moment::Interval => 1186,
        }
    }

    /// The object id of the array type over the plain type.
    #[must_use]
    pub const fn array_oid(self) -> u32 {
        match self {
            Moment::Time => 1183,
            Moment::Timestamp => 1115,
            Moment::Timestamptz => 1185,
            Moment::Interval => 1187,
        }
    }

    /// With a statement's modifiers.
    ///
    /// # Errors
    /// 22023 for what is none.
    pub fn with(self, modifiers: &[i64]) -> Result<PgType, SqlError> {
        match modifiers {
            [] => Ok(self.plain()),
            // PostgreSQL takes more digits for six, with a warning.
            [digits] if *digits >= 0 => {
                let digits = u8::try_from(*digits).unwrap_or(DIGITS).min(DIGITS);
                Ok(PgType::Precise(self, digits))
            }
            _ => Err(bad_modifier(&format!(
                "{} precision must not be negative",
                self.word()
            ))),
        }
    }

    /// With an `atttypmod`.
    #[must_use]
    pub fn with_typmod(self, typmod: i32) -> PgType {
        let digits = match self {
            Moment::Interval => typmod & 0xffff,
            _ => typmod,
        };
        match u8::try_from(digits) {
            Ok(digits @ 0..=DIGITS) if typmod >= 0 => PgType::Precise(self, digits),
            _ => self.plain(),
        }
    }

    #[must_use]
    pub const fn typmod(self, digits: u8) -> i32 {
        match self {
            Moment::Interval => FULL_RANGE | digits as i32,
            _ => digits as i32,
        }
    }

    /// As `format_type` prints it.
    #[must_use]
    pub fn name(self, digits: u8) -> String {
        match self {
            Moment::Time => format!("time({digits}) without time zone"),
            Moment::Timestamp => format!("timestamp({digits}) without time zone"),
            Moment::Timestamptz => format!("timestamp({digits}) with time zone"),
            Moment::Interval => format!("interval({digits})"),
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Moment::Time => "TIME",
            Moment::Timestamp | Moment::Timestamptz => "TIMESTAMP",
            Moment::Interval => "INTERVAL",
        }
    }

    /// The SQLite function that rounds: `name(value, digits)`.
    #[must_use]
    pub const fn function(self) -> &'static str {
        match self {
            Moment::Time => "sh_round_time",
            Moment::Timestamp | Moment::Timestamptz => "sh_round_timestamp",
            Moment::Interval => "sh_round_interval",
        }
    }

    /// The stored value with so many digits.
    ///
    /// # Errors
    /// 22008 past the ends of the type.
    pub fn round_value(self, value: Value, digits: u8) -> Result<Value, SqlError> {
        Ok(match value {
            Value::Integer(moment @ (INFINITY | MINUS_INFINITY)) => Value::Integer(moment),
            Value::Integer(micros) if self == Moment::Time => Value::Integer(round(micros, digits)),
            Value::Integer(micros) => {
                let since = micros.saturating_sub(EPOCH_2000);
                Value::Integer(round(since, digits).saturating_add(EPOCH_2000))
            }
            Value::Blob(bytes) => match Interval::decode(&bytes) {
                Some(interval) => Value::Blob(
                    Interval {
                        micros: round(interval.micros, digits),
                        ..interval
                    }
                    .encode(),
                ),
                None => Value::Blob(bytes),
            },
            other => other,
        })
    }
}

/// Half away from zero.
fn round(micros: i64, digits: u8) -> i64 {
    let unit = 10_i64.pow(u32::from(DIGITS - digits.min(DIGITS)));
    let half = unit / 2;
    if micros >= 0 {
        micros.saturating_add(half) / unit * unit
    } else {
        micros.saturating_sub(half) / unit * unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_half_away_from_the_type_s_zero() {
        assert_eq!(round(1_500, 3), 2_000);
        assert_eq!(round(1_499, 3), 1_000);
        assert_eq!(round(-1_500, 3), -2_000);
        assert_eq!(round(123_456, 6), 123_456);
        assert_eq!(round(499_999, 0), 0);
    }
}
