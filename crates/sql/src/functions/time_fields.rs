//! Fields of dates, times and intervals: extract, date_part and date_trunc.

use springhead_proto::{ErrorCode, SqlError, Value};

use super::support::{Outcome, invalid_parameter};
use crate::types::datetime::{
    DAY, HOUR, MINUTE, SECOND, civil_from_days, days_from_civil, is_infinite, out_of_range,
};
use crate::types::interval::Interval;
use crate::types::numeric::{Decimal, Numeric};

fn unknown_unit(field: &str, of: &str) -> SqlError {
    invalid_parameter(format!("unit \"{field}\" not recognized for type {of}"))
}

fn unsupported_unit(field: &str, of: &str) -> SqlError {
    SqlError::new(
        ErrorCode::FeatureNotSupported,
        format!("unit \"{field}\" not supported for type {of}"),
    )
}

/// A field's canonical name, from any of PostgreSQL's spellings.
pub(super) fn unit(field: &str) -> String {
    let lower = field.to_ascii_lowercase();
    let canonical = match lower.as_str() {
        "us" | "usec" | "usecs" | "microsecond" | "microseconds" | "microsec" | "microsecs"
        | "useconds" => "microseconds",
        "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" | "millisec" | "mseconds" => {
            "milliseconds"
        }
        "s" | "sec" | "secs" | "second" | "seconds" => "second",
        "m" | "min" | "mins" | "minute" | "minutes" => "minute",
        "h" | "hr" | "hrs" | "hour" | "hours" => "hour",
        "d" | "day" | "days" => "day",
        "w" | "week" | "weeks" => "week",
        "mon" | "mons" | "month" | "months" => "month",
        "qtr" | "quarter" => "quarter",
        "y" | "yr" | "yrs" | "year" | "years" => "year",
        "dec" | "decs" | "decade" | "decades" => "decade",
        "c" | "cent" | "century" | "centuries" => "century",
        "mil" | "mils" | "millennium" | "millennia" => "millennium",
        "j" | "jd" | "julian" => "julian",
        _ => return lower,
    };
    canonical.to_owned()
}

pub(super) fn truncate(field: &str, micros: i64) -> Result<i64, SqlError> {
    if is_infinite(micros) {
        return Ok(micros);
    }
    let floor = |unit: i64| micros.div_euclid(unit) * unit;
    let days = micros.div_euclid(DAY);
    let date = civil_from_days(days);
    let first = |year: i64, month: u32| Ok(days_from_civil(year, month, 1) * DAY);
    // The first year of a period that is counted from year 1.
    let period = |years: i64| (date.year - 1).div_euclid(years) * years + 1;
    match unit(field).as_str() {
        "microseconds" => Ok(micros),
        "milliseconds" => Ok(floor(1000)),
        "second" => Ok(floor(SECOND)),
        "minute" => Ok(floor(MINUTE)),
        "hour" => Ok(floor(HOUR)),
        "day" => Ok(days * DAY),
        // 1970-01-01 was a Thursday.
        "week" => Ok((days - (days + 3).rem_euclid(7)) * DAY),
        "month" => first(date.year, date.month),
        "quarter" => first(date.year, (date.month - 1) / 3 * 3 + 1),
        "year" => first(date.year, 1),
        "decade" => first(date.year.div_euclid(10) * 10, 1),
        "century" => first(period(100), 1),
        "millennium" => first(period(1000), 1),
        _ => Err(unknown_unit(field, "timestamp without time zone")),
    }
}

pub(super) fn truncate_interval(field: &str, interval: Interval) -> Result<Interval, SqlError> {
    let months = |size: i32| Interval {
        months: interval.months / size * size,
        ..Interval::default()
    };
    let time = |unit: i64| Interval {
        micros: interval.micros / unit * unit,
        ..interval
    };
    Ok(match unit(field).as_str() {
        "microseconds" => interval,
        "milliseconds" => time(1000),
        "second" => time(SECOND),
        "minute" => time(MINUTE),
        "hour" => time(HOUR),
        "day" => Interval {
            micros: 0,
            ..interval
        },
        "month" => months(1),
        "quarter" => months(3),
        "year" => months(12),
        "decade" => months(120),
        "century" => months(1200),
        "millennium" => months(12_000),
        "week" => {
            return Err(unsupported_unit(field, "interval")
                .with_detail("Months usually have fractional weeks."));
        }
        _ => return Err(unknown_unit(field, "interval")),
    })
}

/// Exact, or NULL, or infinite.
pub(super) enum Part {
    Whole(i64),
    /// In units of 10^-scale.
    Scaled(i64, u32),
    Infinite(bool),
    Null,
}

pub(super) fn part(part: Part) -> Outcome {
    match part {
        Part::Whole(value) => Numeric::Finite(Decimal::from_int(value.into())).to_value(),
        Part::Scaled(value, scale) => Numeric::Finite(Decimal::new(value.into(), scale)).to_value(),
        Part::Infinite(true) => Numeric::Infinity.to_value(),
        Part::Infinite(false) => Numeric::MinusInfinity.to_value(),
        Part::Null => Ok(Value::Null),
    }
}

/// Fields of a time of day.
fn clock_part(field: &str, micros: i64) -> Option<Part> {
    Some(match field {
        "microseconds" => Part::Whole(micros % MINUTE),
        "milliseconds" => Part::Scaled(micros % MINUTE, 3),
        "second" => Part::Scaled(micros % MINUTE, 6),
        "minute" => Part::Whole(micros / MINUTE % 60),
        "hour" => Part::Whole(micros / HOUR),
        _ => return None,
    })
}

fn calendar_part(field: &str, days: i64) -> Option<Part> {
    let date = civil_from_days(days);
    let weekday = (days + 4).rem_euclid(7);
    let year = if date.year > 0 {
        date.year
    } else {
        date.year - 1
    };
    let period = |years: i64| {
        if date.year > 0 {
            (date.year + years - 1) / years
        } else {
            -((years - date.year) / years)
        }
    };
    Some(Part::Whole(match field {
        "day" => date.day.into(),
        "month" => date.month.into(),
        "quarter" => ((date.month - 1) / 3 + 1).into(),
        "year" => year,
        "decade" => date.year.div_euclid(10),
        "century" => period(100),
        "millennium" => period(1000),
        "dow" => weekday,
        "isodow" => (weekday + 6) % 7 + 1,
        "doy" => days - days_from_civil(date.year, 1, 1) + 1,
        "week" => iso_week(days).1,
        "isoyear" => {
            let year = iso_week(days).0;
            if year > 0 { year } else { year - 1 }
        }
        "julian" => days + 2_440_588,
        _ => return None,
    }))
}

/// ISO 8601's year and week.
pub(super) fn iso_week(days: i64) -> (i64, i64) {
    // The week belongs to the year of its Thursday.
    let thursday = days - (days + 3).rem_euclid(7) + 3;
    let year = civil_from_days(thursday).year;
    (year, (thursday - days_from_civil(year, 1, 1)) / 7 + 1)
}

pub(super) fn extract(field: &str, micros: i64, of: &str) -> Result<Part, SqlError> {
    let name = unit(field);
    if is_infinite(micros) {
        return match name.as_str() {
            "epoch" | "year" | "isoyear" | "decade" | "century" | "millennium" | "julian" => {
                Ok(Part::Infinite(micros > 0))
            }
            _ => Ok(Part::Null),
        };
    }
    if name == "epoch" {
        return Ok(Part::Scaled(micros, 6));
    }
    if matches!(
        name.as_str(),
        "timezone" | "timezone_hour" | "timezone_minute"
    ) {
        return Ok(Part::Whole(0));
    }
    let time = micros.rem_euclid(DAY);
    if name == "julian" && time != 0 {
        return Err(SqlError::unsupported(
            "extract(julian) of a time that is not midnight",
        ));
    }
    clock_part(&name, time)
        .or_else(|| calendar_part(&name, micros.div_euclid(DAY)))
        .ok_or_else(|| unknown_unit(field, of))
}

pub(super) fn extract_date(field: &str, micros: i64) -> Result<Part, SqlError> {
    let name = unit(field);
    if is_infinite(micros) {
        return extract(field, micros, "date");
    }
    let days = micros.div_euclid(DAY);
    if name == "epoch" {
        return Ok(Part::Whole(days * 86_400));
    }
    if clock_part(&name, 0).is_some() {
        return Err(unsupported_unit(field, "date"));
    }
    calendar_part(&name, days).ok_or_else(|| unknown_unit(field, "date"))
}

pub(super) fn extract_time(field: &str, micros: i64) -> Result<Part, SqlError> {
    let name = unit(field);
    if name == "epoch" {
        return Ok(Part::Scaled(micros, 6));
    }
    if calendar_part(&name, 0).is_some() {
        return Err(unsupported_unit(field, "time without time zone"));
    }
    clock_part(&name, micros).ok_or_else(|| unknown_unit(field, "time without time zone"))
}

pub(super) fn extract_interval(field: &str, interval: Interval) -> Result<Part, SqlError> {
    let months = i64::from(interval.months);
    let name = unit(field);
    Ok(match name.as_str() {
        "epoch" => {
            // Here, and only here, a year has 365.25 days.
            let (years, rest) = (months / 12, months % 12);
            let days = i128::from(rest) * 30 + i128::from(interval.days);
            let micros = i128::from(years) * 31_557_600_000_000
                + days * i128::from(DAY)
                + i128::from(interval.micros);
            return i64::try_from(micros)
                .map(|micros| Part::Scaled(micros, 6))
                .map_err(|_| out_of_range("interval"));
        }
        "day" => Part::Whole(interval.days.into()),
        "month" => Part::Whole(months % 12),
        "quarter" => Part::Whole(months % 12 / 3 + 1),
        "year" => Part::Whole(months / 12),
        "decade" => Part::Whole(months / 120),
        "century" => Part::Whole(months / 1200),
        "millennium" => Part::Whole(months / 12_000),
        _ => match clock_part(&name, interval.micros) {
            Some(part) => part,
            None if calendar_part(&name, 0).is_some() => {
                return Err(unsupported_unit(field, "interval"));
            }
            None => return Err(unknown_unit(field, "interval")),
        },
    })
}
