//! date, time, timestamp, timestamptz: the calendar, PostgreSQL's spellings in, ISO out.
//!
//! All four are microseconds: since 1970-01-01T00:00:00Z, or since midnight. The calendar is the
//! proleptic Gregorian one; years before 1 are printed and read as `BC`.

use springhead_proto::{ErrorCode, SqlError};

mod read;
mod write;

use super::PgType;

pub(crate) use read::{read_date, read_time, read_timestamp, read_timestamptz};
pub(crate) use write::{two, write_fraction};
pub use write::{write_date, write_time, write_timestamp, write_timestamptz};

/// Microseconds in a day.
pub const DAY: i64 = 86_400_000_000;
/// Microseconds in an hour.
pub const HOUR: i64 = 3_600_000_000;
/// Microseconds in a minute.
pub const MINUTE: i64 = 60_000_000;
/// Microseconds in a second.
pub const SECOND: i64 = 1_000_000;
/// `infinity`.
pub const INFINITY: i64 = i64::MAX;
/// `-infinity`.
pub const MINUS_INFINITY: i64 = i64::MIN;

/// 4714-11-24 BC, the first day of PostgreSQL's calendar, in days since 1970-01-01.
const FIRST_DAY: i64 = -2_440_588;
/// 294276-12-31, the last one.
const END_DAY: i64 = 106_751_990;

/// A day of the calendar. Year 0 is 1 BC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    pub year: i64,
    pub month: u32,
    pub day: u32,
}

/// Days since 1970-01-01 of a day of the proleptic Gregorian calendar.
#[must_use]
pub fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    // Years from March, so that the leap day is the last (Howard Hinnant's algorithm).
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month = i64::from((month + 9) % 12);
    let day_of_year = (153 * month + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The day that is `days` after 1970-01-01.
#[must_use]
pub fn civil_from_days(days: i64) -> Date {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = small(day_of_year - (153 * month + 2) / 5 + 1);
    let month = small(if month < 10 { month + 3 } else { month - 9 });
    Date {
        year: year_of_era + era * 400 + i64::from(month <= 2),
        month,
        day,
    }
}

fn small(value: i64) -> u32 {
    u32::try_from(value).expect("a month or a day")
}

/// How many days that month has.
#[must_use]
pub fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Microseconds since 1970 of that day's midnight; `None` if there is no such day or it is outside
/// PostgreSQL's range.
pub fn date_micros(year: i64, month: u32, day: u32) -> Option<i64> {
    if !(1..=12).contains(&month)
        || day == 0
        || day > days_in_month(year, month)
        || !(-4800..=300_000).contains(&year)
    {
        return None;
    }
    let days = days_from_civil(year, month, day);
    if !(FIRST_DAY..=END_DAY).contains(&days) {
        return None;
    }
    Some(days * DAY)
}

/// Whether a timestamp is one of PostgreSQL's (or infinite).
#[must_use]
pub fn in_range(micros: i64) -> bool {
    micros == INFINITY
        || micros == MINUS_INFINITY
        || (FIRST_DAY..=END_DAY).contains(&micros.div_euclid(DAY))
}

/// Whether it is `infinity` or `-infinity`.
#[must_use]
pub const fn is_infinite(micros: i64) -> bool {
    micros == INFINITY || micros == MINUS_INFINITY
}

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const WEEKDAYS: [&str; 7] = [
    "sunday",
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
];

/// Full names of the months, from January, in lower case.
#[must_use]
pub(crate) const fn month_names() -> &'static [&'static str; 12] {
    &MONTHS
}

/// Full names of the days, from Sunday, in lower case.
#[must_use]
pub(crate) const fn weekday_names() -> &'static [&'static str; 7] {
    &WEEKDAYS
}

/// Digits after a point in microseconds, rounded half to even as PostgreSQL's float arithmetic does
/// for all practical inputs.
pub(crate) fn fraction_micros(digits: &[u8]) -> i64 {
    let mut micros = 0;
    for index in 0..6 {
        let digit = digits.get(index).map_or(0, |byte| i64::from(byte - b'0'));
        micros = micros * 10 + digit;
    }
    micros + i64::from(digits.get(6).is_some_and(|&byte| byte >= b'5'))
}

/// The place in `names` of a full name or its first three letters (`sept`, `tues`, `thurs` too).
pub(crate) fn named(word: &str, names: &[&str]) -> Option<u32> {
    let at = names.iter().position(|name| {
        *name == word
            || (word.len() >= 3
                && name.starts_with(word)
                && (word.len() <= 3
                    || matches!(word, "sept" | "tues" | "wednes" | "thur" | "thurs")))
    })?;
    u32::try_from(at).ok()
}

/// 22007.
pub(crate) fn invalid(ty: &PgType, text: &str) -> SqlError {
    let name = match ty {
        PgType::Timestamp => "timestamp".into(),
        PgType::Time => "time".into(),
        _ => ty.sql_name(),
    };
    SqlError::new(
        ErrorCode::InvalidDatetime,
        format!("invalid input syntax for type {name}: \"{text}\""),
    )
}

/// 22008.
pub(crate) fn field_range(text: &str) -> SqlError {
    SqlError::new(
        ErrorCode::DatetimeOverflow,
        format!("date/time field value out of range: \"{text}\""),
    )
}

fn timestamp_range(text: &str) -> SqlError {
    SqlError::new(
        ErrorCode::DatetimeOverflow,
        format!("timestamp out of range: \"{text}\""),
    )
}

/// 22008 for the result of arithmetic.
pub(crate) fn out_of_range(what: &str) -> SqlError {
    SqlError::new(ErrorCode::DatetimeOverflow, format!("{what} out of range"))
}
