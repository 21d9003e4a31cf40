//! interval: months, days and microseconds, kept apart as PostgreSQL does.
//!
//! # Storage
//!
//! ```text
//! blob := key:16 months:i32 BE days:i32 BE micros:i64 BE
//! key  := i128 BE, sign bit flipped: the span in microseconds, 30 days to a month, 24 hours to a day
//! ```
//!
//! The key compares (memcmp) as PostgreSQL compares intervals; spans that are equal by it
//! (`1 day` and `24:00:00`) differ in the rest, so equality is that of the key
//! (`sh_interval_key`).

use springhead_proto::{ErrorCode, SqlError};

use super::PgType;
use super::datetime::{DAY, HOUR, MINUTE, SECOND, fraction_micros, two, write_fraction};
use super::text::{trim, write_int};

/// Bytes of the stored form that decide order and equality.
pub const KEY_BYTES: usize = 16;

/// A span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interval {
    pub months: i32,
    pub days: i32,
    pub micros: i64,
}

impl Interval {
    /// The stored form.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let mut blob = Vec::with_capacity(32);
        let key = self.span().cast_unsigned() ^ (1 << 127);
        blob.extend(key.to_be_bytes());
        blob.extend(self.months.to_be_bytes());
        blob.extend(self.days.to_be_bytes());
        blob.extend(self.micros.to_be_bytes());
        blob
    }

    /// Reads the stored form; `None` if it is none.
    #[must_use]
    pub fn decode(blob: &[u8]) -> Option<Interval> {
        let rest = blob.get(KEY_BYTES..).filter(|rest| rest.len() == 16)?;
        Some(Interval {
            months: i32::from_be_bytes(*rest.first_chunk()?),
            days: i32::from_be_bytes(*rest[4..].first_chunk()?),
            micros: i64::from_be_bytes(*rest[8..].first_chunk()?),
        })
    }

    /// Its length in microseconds, 30 days to a month: what order goes by.
    #[must_use]
    pub fn span(self) -> i128 {
        (i128::from(self.months) * 30 + i128::from(self.days)) * i128::from(DAY)
            + i128::from(self.micros)
    }

    /// # Errors
    /// 22008 if a field overflows.
    pub fn plus(self, other: Interval) -> Result<Interval, SqlError> {
        let sum = || {
            Some(Interval {
                months: self.months.checked_add(other.months)?,
                days: self.days.checked_add(other.days)?,
                micros: self.micros.checked_add(other.micros)?,
            })
        };
        sum().ok_or_else(out_of_range)
    }

    /// # Errors
    /// 22008 if a field overflows.
    pub fn negated(self) -> Result<Interval, SqlError> {
        let negated = || {
            Some(Interval {
                months: self.months.checked_neg()?,
                days: self.days.checked_neg()?,
                micros: self.micros.checked_neg()?,
            })
        };
        negated().ok_or_else(out_of_range)
    }

    /// Multiplied as PostgreSQL does: fractions of months become days, those of days microseconds.
    ///
    /// # Errors
    /// 22008 if a field overflows.
    pub fn times(self, factor: f64) -> Result<Interval, SqlError> {
        let months = f64::from(self.months) * factor;
        let days = f64::from(self.days) * factor;
        let whole_months = int32(months.trunc())?;
        let whole_days = int32(days.trunc())?;
        // To the microsecond, so that products such as 0.1 * 30 do not leave dust.
        let month_days = tidy((months - months.trunc()) * 30.0);
        let day = tidy((days - days.trunc()) + month_days - month_days.trunc());
        let mut result = Interval {
            months: whole_months,
            days: whole_days,
            micros: 0,
        };
        let mut seconds = tidy(day * 86_400.0);
        if seconds.abs() >= 86_400.0 {
            result.days = result
                .days
                .checked_add(int32((seconds / 86_400.0).trunc())?)
                .ok_or_else(out_of_range)?;
            seconds %= 86_400.0;
        }
        result.days = result
            .days
            .checked_add(int32(month_days.trunc())?)
            .ok_or_else(out_of_range)?;
        #[expect(
            clippy::cast_precision_loss,
            reason = "PostgreSQL multiplies in double precision, too"
        )]
        let micros = (self.micros as f64 * factor + seconds * 1e6).round_ties_even();
        result.micros = int64(micros)?;
        Ok(result)
    }
}

fn tidy(value: f64) -> f64 {
    (value * 1e6).round_ties_even() / 1e6
}

#[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
fn int32(value: f64) -> Result<i32, SqlError> {
    if (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&value) {
        Ok(value as i32)
    } else {
        Err(out_of_range())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
fn int64(value: f64) -> Result<i64, SqlError> {
    if value.abs() < 9.2e18 {
        Ok(value as i64)
    } else {
        Err(out_of_range())
    }
}

fn out_of_range() -> SqlError {
    SqlError::new(ErrorCode::DatetimeOverflow, "interval out of range")
}

/// One of the units that a text may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Months(i64),
    Days(i64),
    Micros(i64),
}

fn unit(word: &str) -> Option<Unit> {
    Some(match word {
        "us" | "usec" | "usecs" | "microsecond" | "microseconds" | "microsec" | "microsecs"
        | "usecond" | "useconds" => Unit::Micros(1),
        "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" | "millisec" | "millisecs"
        | "mseconds" => Unit::Micros(1000),
        "s" | "sec" | "secs" | "second" | "seconds" => Unit::Micros(SECOND),
        "m" | "min" | "mins" | "minute" | "minutes" => Unit::Micros(MINUTE),
        "h" | "hr" | "hrs" | "hour" | "hours" => Unit::Micros(HOUR),
        "d" | "day" | "days" => Unit::Days(1),
        "w" | "week" | "weeks" => Unit::Days(7),
        "mon" | "mons" | "month" | "months" => Unit::Months(1),
        "y" | "yr" | "yrs" | "year" | "years" => Unit::Months(12),
        "dec" | "decs" | "decade" | "decades" => Unit::Months(120),
        "c" | "cent" | "century" | "centuries" => Unit::Months(1200),
        "mil" | "mils" | "millennium" | "millennia" | "millenniums" => Unit::Months(12_000),
        _ => return None,
    })
}

/// The sum of what has been read.
#[derive(Default)]
struct Total {
    months: i64,
    days: i64,
    micros: i64,
}

impl Total {
    /// `whole` and `fraction` (digits after the point) of a unit.
    fn add(&mut self, negative: bool, whole: i64, fraction: &[u8], unit: Unit) -> Option<()> {
        let sign = if negative { -1 } else { 1 };
        // Nine digits are exact in what follows; more cannot reach a microsecond of a month.
        let nano = (0..9).fold(0i64, |value, at| {
            value * 10 + fraction.get(at).map_or(0, |byte| i64::from(byte - b'0'))
        });
        match unit {
            Unit::Months(size) => {
                self.months = self.months.checked_add(sign * whole.checked_mul(size)?)?;
                if size >= 12 {
                    // A fraction of a year is rounded to months.
                    let months = (nano * size).checked_add(500_000_000)? / 1_000_000_000;
                    self.months = self.months.checked_add(sign * months)?;
                } else {
                    self.add_days(sign, nano, 30)?;
                }
            }
            Unit::Days(size) => {
                self.days = self.days.checked_add(sign * whole.checked_mul(size)?)?;
                self.add_days(sign, nano, size)?;
            }
            Unit::Micros(size) => {
                self.micros = self.micros.checked_add(sign * whole.checked_mul(size)?)?;
                let part = (i128::from(nano) * i128::from(size) + 500_000_000) / 1_000_000_000;
                self.micros = self.micros.checked_add(sign * i64::try_from(part).ok()?)?;
            }
        }
        Some(())
    }

    /// A fraction (in 10^-9) of `size` days: whole days, and the rest as time.
    fn add_days(&mut self, sign: i64, nano: i64, size: i64) -> Option<()> {
        let days = nano * size;
        self.days = self.days.checked_add(sign * (days / 1_000_000_000))?;
        let part =
            (i128::from(days % 1_000_000_000) * i128::from(DAY) + 500_000_000) / 1_000_000_000;
        self.micros = self.micros.checked_add(sign * i64::try_from(part).ok()?)?;
        Some(())
    }
}

/// Reads PostgreSQL's verbose form, ISO 8601 and the SQL standard's forms.
pub(crate) fn read(text: &str) -> Result<Interval, SqlError> {
    let trimmed = trim(text);
    let total = match trimmed.strip_prefix('P') {
        Some(iso) => read_iso(iso),
        None => read_words(trimmed),
    };
    let total = total.ok_or_else(|| super::datetime::invalid(&PgType::Interval, text))?;
    let interval = || {
        Some(Interval {
            months: i32::try_from(total.months).ok()?,
            days: i32::try_from(total.days).ok()?,
            micros: total.micros,
        })
    };
    interval().ok_or_else(|| {
        SqlError::new(
            ErrorCode::DatetimeOverflow,
            format!("interval field value out of range: \"{text}\""),
        )
    })
}

/// A number's sign, whole part and digits after the point; what follows it.
struct Number<'t> {
    negative: bool,
    signed: bool,
    whole: i64,
    digits: usize,
    fraction: &'t [u8],
    rest: &'t str,
}

fn number(text: &str) -> Option<Number<'_>> {
    let (signed, negative) = (text.starts_with(['+', '-']), text.starts_with('-'));
    let text = if signed { &text[1..] } else { text };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let whole = if digits == 0 {
        0
    } else {
        text[..digits].parse().ok()?
    };
    let mut rest = &text[digits..];
    let mut fraction: &[u8] = &[];
    if let Some(after) = rest.strip_prefix('.') {
        let length = after.bytes().take_while(u8::is_ascii_digit).count();
        fraction = &after.as_bytes()[..length];
        rest = &after[length..];
    }
    (digits + fraction.len() > 0).then_some(Number {
        negative,
        signed,
        whole,
        digits,
        fraction,
        rest,
    })
}

fn read_words(text: &str) -> Option<Total> {
    let mut total = Total::default();
    let mut rest = text.strip_prefix('@').unwrap_or(text).trim_start();
    if rest.is_empty() {
        return None;
    }
    let mut seen = false;
    while !rest.is_empty() {
        if let Some(after) = strip_word(rest, "ago").filter(|_| seen) {
            total = Total {
                months: total.months.checked_neg()?,
                days: total.days.checked_neg()?,
                micros: total.micros.checked_neg()?,
            };
            rest = after.trim_start();
            if !rest.is_empty() {
                return None;
            }
            break;
        }
        let amount = number(rest)?;
        seen = true;
        let after = amount.rest;
        if after.starts_with(':') && amount.fraction.is_empty() {
            let (micros, left) = clock(amount.whole, after)?;
            total.micros =
                total
                    .micros
                    .checked_add(if amount.negative { -micros } else { micros })?;
            rest = left.trim_start();
        } else if after.starts_with('-')
            && amount.fraction.is_empty()
            && after[1..].starts_with(|c: char| c.is_ascii_digit())
        {
            // SQL's years-months.
            let months = number(&after[1..])?;
            if months.whole > 11 || !months.fraction.is_empty() {
                return None;
            }
            total.add(
                amount.negative,
                amount.whole.checked_mul(12)?.checked_add(months.whole)?,
                &[],
                Unit::Months(1),
            )?;
            rest = months.rest.trim_start();
        } else {
            let left = after.trim_start();
            let length = left.bytes().take_while(u8::is_ascii_alphabetic).count();
            let word = left[..length].to_ascii_lowercase();
            let (unit, left) = if length > 0 {
                (unit(&word)?, left[length..].trim_start())
            } else if left.is_empty() {
                (Unit::Micros(SECOND), left)
            } else if number(left).is_some_and(|next| next.rest.starts_with(':')) {
                // SQL's days before a time: `3 4:05:06`; the sign counts for both.
                let next = number(left)?;
                let negative = amount.negative && !next.signed;
                total.add(
                    amount.negative,
                    amount.whole,
                    amount.fraction,
                    Unit::Days(1),
                )?;
                let (micros, left) = clock(next.whole, next.rest)?;
                total.micros = total.micros.checked_add(if negative || next.negative {
                    -micros
                } else {
                    micros
                })?;
                rest = left.trim_start();
                continue;
            } else {
                return None;
            };
            total.add(amount.negative, amount.whole, amount.fraction, unit)?;
            rest = left;
        }
    }
    Some(total)
}

fn strip_word<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    text.get(..word.len())
        .filter(|head| head.eq_ignore_ascii_case(word))?;
    Some(&text[word.len()..])
}

/// `:MM[:SS[.ffffff]]` after the hours; a lone `MM:SS.f` counts as minutes and seconds.
fn clock(hours: i64, after: &str) -> Option<(i64, &str)> {
    let minutes = number(after.strip_prefix(':')?)?;
    if minutes.signed || minutes.digits == 0 {
        return None;
    }
    if minutes.whole > 59 {
        return None;
    }
    if !minutes.fraction.is_empty() {
        let micros = hours
            .checked_mul(MINUTE)?
            .checked_add(minutes.whole * SECOND + fraction_micros(minutes.fraction))?;
        return Some((micros, minutes.rest));
    }
    let mut micros = hours
        .checked_mul(HOUR)?
        .checked_add(minutes.whole.checked_mul(MINUTE)?)?;
    let mut rest = minutes.rest;
    if let Some(after) = rest.strip_prefix(':') {
        let seconds = number(after)?;
        if seconds.signed || seconds.whole > 60 {
            return None;
        }
        micros = micros.checked_add(seconds.whole * SECOND + fraction_micros(seconds.fraction))?;
        rest = seconds.rest;
    }
    Some((micros, rest))
}

/// `1Y2M3W4DT5H6M7S`, or `0001-02-03T04:05:06`.
fn read_iso(text: &str) -> Option<Total> {
    let mut total = Total::default();
    let (mut rest, mut time, mut seen) = (text, false, false);
    if let [Some(years), Some(months), Some(days)] = [0, 1, 2].map(|at| {
        text.split('T')
            .next()?
            .split('-')
            .nth(at)?
            .parse::<i64>()
            .ok()
    }) {
        total.months = years.checked_mul(12)?.checked_add(months)?;
        total.days = days;
        if let Some((_, clock_text)) = text.split_once('T') {
            let hours = number(clock_text)?;
            let (micros, left) = clock(hours.whole, hours.rest)?;
            total.micros = micros;
            return left.is_empty().then_some(total);
        }
        return Some(total);
    }
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('T').filter(|_| !time) {
            (time, rest) = (true, after);
            continue;
        }
        let amount = number(rest)?;
        let unit = match (amount.rest.as_bytes().first()?, time) {
            (b'Y', false) => Unit::Months(12),
            (b'M', false) => Unit::Months(1),
            (b'W', false) => Unit::Days(7),
            (b'D', false) => Unit::Days(1),
            (b'H', true) => Unit::Micros(HOUR),
            (b'M', true) => Unit::Micros(MINUTE),
            (b'S', true) => Unit::Micros(SECOND),
            _ => return None,
        };
        total.add(amount.negative, amount.whole, amount.fraction, unit)?;
        rest = &amount.rest[1..];
        seen = true;
    }
    seen.then_some(total)
}

/// Prints the stored form in PostgreSQL's style: `1 year 2 mons -3 days +04:05:06.7`.
pub(crate) fn write(blob: &[u8], out: &mut Vec<u8>) {
    let Some(interval) = Interval::decode(blob) else {
        return super::bytea::write(blob, out);
    };
    let start = out.len();
    let mut before = false;
    let parts = [
        (interval.months / 12, "year"),
        (interval.months % 12, "mon"),
        (interval.days, "day"),
    ];
    for (value, name) in parts {
        if value == 0 {
            continue;
        }
        if out.len() > start {
            out.push(b' ');
        }
        if before && value > 0 {
            out.push(b'+');
        }
        write_int(value.into(), out);
        out.push(b' ');
        out.extend_from_slice(name.as_bytes());
        if value != 1 {
            out.push(b's');
        }
        before = value < 0;
    }
    if interval.micros == 0 && out.len() > start {
        return;
    }
    if out.len() > start {
        out.push(b' ');
    }
    if interval.micros < 0 {
        out.push(b'-');
    } else if before {
        out.push(b'+');
    }
    let micros = interval.micros.unsigned_abs();
    let part =
        |unit: i64| i64::try_from(micros / unit.unsigned_abs()).expect("smaller than an i64");
    let hours = part(HOUR);
    if hours < 100 {
        two(hours, out);
    } else {
        write_int(hours, out);
    }
    out.push(b':');
    two(part(MINUTE) % 60, out);
    out.push(b':');
    two(part(SECOND) % 60, out);
    write_fraction(part(1) % SECOND, out);
}
