//! Dates and times, printed in ISO style.

use super::{DAY, Date, INFINITY, MINUS_INFINITY, SECOND, civil_from_days};
use crate::types::text::write_int;

/// `2009-01-31`, `0044-03-15 BC`, `infinity`.
pub fn write_date(micros: i64, out: &mut Vec<u8>) {
    if write_infinite(micros, out) {
        return;
    }
    let date = civil_from_days(micros.div_euclid(DAY));
    write_day(date, out);
    write_era(date, out);
}

/// `23:59:59.5`.
pub fn write_time(micros: i64, out: &mut Vec<u8>) {
    let seconds = micros / SECOND;
    two(seconds / 3600, out);
    out.push(b':');
    two(seconds / 60 % 60, out);
    out.push(b':');
    two(seconds % 60, out);
    write_fraction(micros % SECOND, out);
}

/// `2009-01-31 23:59:59.5`, with `separator` between day and time.
pub fn write_timestamp(micros: i64, separator: u8, out: &mut Vec<u8>) {
    write_timestamptz(micros, separator, b"", out);
}

/// The same, with `zone` after the time (`+00`).
pub fn write_timestamptz(micros: i64, separator: u8, zone: &[u8], out: &mut Vec<u8>) {
    if write_infinite(micros, out) {
        return;
    }
    let date = civil_from_days(micros.div_euclid(DAY));
    write_day(date, out);
    out.push(separator);
    write_time(micros.rem_euclid(DAY), out);
    out.extend_from_slice(zone);
    write_era(date, out);
}

fn write_infinite(micros: i64, out: &mut Vec<u8>) -> bool {
    let name: &[u8] = match micros {
        INFINITY => b"infinity",
        MINUS_INFINITY => b"-infinity",
        _ => return false,
    };
    out.extend_from_slice(name);
    true
}

fn write_day(date: Date, out: &mut Vec<u8>) {
    let year = if date.year > 0 {
        date.year
    } else {
        1 - date.year
    };
    if year < 10_000 {
        two(year / 100, out);
        two(year % 100, out);
    } else {
        write_int(year, out);
    }
    out.push(b'-');
    two(date.month.into(), out);
    out.push(b'-');
    two(date.day.into(), out);
}

fn write_era(date: Date, out: &mut Vec<u8>) {
    if date.year <= 0 {
        out.extend_from_slice(b" BC");
    }
}

/// `.` and the digits of a fraction of a second, without trailing zeros; nothing for none.
pub(crate) fn write_fraction(micros: i64, out: &mut Vec<u8>) {
    if micros == 0 {
        return;
    }
    out.push(b'.');
    let mut unit = 100_000;
    let mut left = micros;
    while left > 0 {
        out.push(b'0' + u8::try_from(left / unit % 10).expect("one digit"));
        left %= unit;
        unit /= 10;
    }
}

/// Two digits.
pub(crate) fn two(value: i64, out: &mut Vec<u8>) {
    let value = u8::try_from(value.rem_euclid(100)).expect("below a hundred");
    out.push(b'0' + value / 10);
    out.push(b'0' + value % 10);
}
