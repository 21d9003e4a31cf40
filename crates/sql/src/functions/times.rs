//! Arithmetic on dates, times, timestamps and intervals.

use springhead_proto::{ErrorCode, SqlError, Value, ValueRef};

use super::Scalar;
use super::support::{
    Args, Outcome, bool_value, division_by_zero, int, interval, real, strict, text,
};
use super::time_fields::{
    extract, extract_date, extract_interval, extract_time, part, truncate, truncate_interval,
};
use super::to_char;
use crate::types::datetime::{
    DAY, HOUR, MINUTE, civil_from_days, date_micros, days_from_civil, days_in_month, field_range,
    in_range, is_infinite, out_of_range,
};
use crate::types::interval::Interval;

pub(super) const SCALARS: &[Scalar] = &[
    // Casts.
    strict!("sh_timestamp_to_date", 1, |args| {
        let micros = int(args, 0)?;
        Ok(Value::Integer(if is_infinite(micros) {
            micros
        } else {
            micros.div_euclid(DAY) * DAY
        }))
    }),
    strict!("sh_timestamp_to_time", 1, |args| {
        let micros = int(args, 0)?;
        Ok(if is_infinite(micros) {
            Value::Null
        } else {
            Value::Integer(micros.rem_euclid(DAY))
        })
    }),
    strict!("sh_time_to_interval", 1, |args| span(Interval {
        micros: int(args, 0)?,
        ..Interval::default()
    })),
    strict!("sh_interval_to_time", 1, |args| Ok(Value::Integer(
        interval(args, 0)?.micros.rem_euclid(DAY)
    ))),
    // Arithmetic.
    strict!("sh_timestamp_add", 2, |args| add(
        int(args, 0)?,
        interval(args, 1)?
    )
    .map(Value::Integer)),
    strict!("sh_timestamp_sub", 2, |args| add(
        int(args, 0)?,
        interval(args, 1)?.negated()?
    )
    .map(Value::Integer)),
    strict!("sh_timestamp_diff", 2, |args| {
        let (a, b) = (int(args, 0)?, int(args, 1)?);
        if is_infinite(a) || is_infinite(b) {
            return Err(SqlError::new(
                ErrorCode::DatetimeOverflow,
                "cannot subtract infinite timestamps",
            ));
        }
        let micros = a.checked_sub(b).ok_or_else(|| out_of_range("interval"))?;
        span(justify_hours(Interval {
            micros,
            ..Interval::default()
        })?)
    }),
    strict!("sh_date_add", 2, |args| date_add(
        int(args, 0)?,
        int(args, 1)?
    )),
    strict!("sh_date_sub", 2, |args| date_add(
        int(args, 0)?,
        -int(args, 1)?
    )),
    strict!("sh_date_diff", 2, |args| {
        let (a, b) = (int(args, 0)?, int(args, 1)?);
        if is_infinite(a) || is_infinite(b) {
            return Err(SqlError::new(
                ErrorCode::DatetimeOverflow,
                "cannot subtract infinite dates",
            ));
        }
        Ok(Value::Integer(a / DAY - b / DAY))
    }),
    strict!("sh_date_time", 2, |args| {
        let day = int(args, 0)?;
        Ok(Value::Integer(if is_infinite(day) {
            day
        } else {
            day + int(args, 1)?
        }))
    }),
    strict!("sh_time_add", 2, |args| Ok(Value::Integer(
        int(args, 0)?
            .wrapping_add(interval(args, 1)?.micros % DAY)
            .rem_euclid(DAY)
    ))),
    strict!("sh_time_sub", 2, |args| Ok(Value::Integer(
        int(args, 0)?
            .wrapping_sub(interval(args, 1)?.micros % DAY)
            .rem_euclid(DAY)
    ))),
    strict!("sh_time_diff", 2, |args| span(Interval {
        micros: int(args, 0)? - int(args, 1)?,
        ..Interval::default()
    })),
    strict!("sh_interval_add", 2, |args| span(
        interval(args, 0)?.plus(interval(args, 1)?)?
    )),
    strict!("sh_interval_sub", 2, |args| span(
        interval(args, 0)?.plus(interval(args, 1)?.negated()?)?
    )),
    strict!("sh_interval_mul", 2, |args| span(
        interval(args, 0)?.times(real(args, 1)?)?
    )),
    strict!("sh_interval_div", 2, |args| {
        let divisor = real(args, 1)?;
        if divisor == 0.0 {
            Err(division_by_zero())
        } else {
            span(interval(args, 0)?.times(1.0 / divisor)?)
        }
    }),
    strict!("sh_justify_hours", 1, |args| span(justify_hours(
        interval(args, 0)?
    )?)),
    strict!("sh_justify_days", 1, |args| span(justify_days(interval(
        args, 0
    )?)?)),
    strict!("sh_justify_interval", 1, |args| span(justify(interval(
        args, 0
    )?)?)),
    // later, earlier
    strict!("sh_age", 2, |args| age(int(args, 0)?, int(args, 1)?)
        .and_then(span)),
    // Parts. The field's name comes first.
    strict!("sh_date_trunc", 2, |args| truncate(
        text(args, 0)?,
        int(args, 1)?
    )
    .map(Value::Integer)),
    strict!("sh_interval_trunc", 2, |args| truncate_interval(
        text(args, 0)?,
        interval(args, 1)?
    )
    .and_then(span)),
    strict!("sh_extract", 2, |args| part(extract(
        text(args, 0)?,
        int(args, 1)?,
        "timestamp without time zone"
    )?)),
    strict!("sh_extract_date", 2, |args| part(extract_date(
        text(args, 0)?,
        int(args, 1)?
    )?)),
    strict!("sh_extract_time", 2, |args| part(extract_time(
        text(args, 0)?,
        int(args, 1)?
    )?)),
    strict!("sh_extract_interval", 2, |args| part(extract_interval(
        text(args, 0)?,
        interval(args, 1)?
    )?)),
    // stride, timestamp, origin
    strict!("sh_date_bin", 3, date_bin),
    // Making.
    strict!("sh_make_date", 3, |args| make_date(
        int(args, 0)?,
        int(args, 1)?,
        int(args, 2)?
    )
    .map(Value::Integer)),
    strict!("sh_make_time", 3, |args| make_time(
        int(args, 0)?,
        int(args, 1)?,
        real(args, 2)?
    )
    .map(Value::Integer)),
    strict!("sh_make_timestamp", 6, |args| {
        let day = make_date(int(args, 0)?, int(args, 1)?, int(args, 2)?)?;
        Ok(Value::Integer(
            day + make_time(int(args, 3)?, int(args, 4)?, real(args, 5)?)?,
        ))
    }),
    // years, months, weeks, days, hours, minutes, seconds; those left out are zero
    strict!("sh_make_interval", -1, make_interval),
    // seconds since 1970
    strict!("sh_to_timestamp", 1, |args| {
        let micros = (real(args, 0)? * 1e6).round_ties_even();
        if micros.is_infinite() {
            return Ok(Value::Integer(if micros > 0.0 {
                i64::MAX
            } else {
                i64::MIN
            }));
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "saturates, and is then refused"
        )]
        let micros = micros as i64;
        checked(micros).map(Value::Integer)
    }),
    // zone, timestamp: from local time there to UTC, and back
    strict!("sh_from_zone", 2, |args| {
        let (name, local) = (text(args, 0)?, int(args, 1)?);
        match fixed_offset(name) {
            Some(offset) => shift(local, -offset),
            None => shift(local, -super::zones::offset_at_local(name, local)?),
        }
    }),
    strict!("sh_to_zone", 2, |args| {
        let (name, moment) = (text(args, 0)?, int(args, 1)?);
        match fixed_offset(name) {
            Some(offset) => shift(moment, offset),
            None => shift(moment, super::zones::offset_at(name, moment)?),
        }
    }),
    strict!("sh_isfinite", 1, |args| bool_value(!matches!(
        args[0],
        ValueRef::Integer(i64::MAX | i64::MIN)
    ))),
    // Formatting. value, pattern
    strict!("sh_to_char_timestamp", 2, |args| to_char::timestamp(
        int(args, 0)?,
        text(args, 1)?
    )
    .map(Value::Text)),
    strict!("sh_to_char_interval", 2, |args| to_char::interval(
        interval(args, 0)?,
        text(args, 1)?
    )
    .map(Value::Text)),
    strict!("sh_to_char_numeric", 2, |args| {
        to_char::numeric(&super::support::numeric(args, 0)?, text(args, 1)?).map(Value::Text)
    }),
    // text, pattern
    strict!("sh_parse_timestamp", 2, |args| to_char::parse(
        text(args, 0)?,
        text(args, 1)?
    )
    .map(Value::Integer)),
    strict!("sh_parse_date", 2, |args| {
        Ok(Value::Integer(
            to_char::parse(text(args, 0)?, text(args, 1)?)?.div_euclid(DAY) * DAY,
        ))
    }),
    strict!("sh_to_number", 2, |args| to_char::number(
        text(args, 0)?,
        text(args, 1)?
    )?
    .to_value()),
];

fn span(interval: Interval) -> Outcome {
    Ok(Value::Blob(interval.encode()))
}

fn checked(micros: i64) -> Result<i64, SqlError> {
    if in_range(micros) && !is_infinite(micros) {
        Ok(micros)
    } else {
        Err(out_of_range("timestamp"))
    }
}

fn shift(micros: i64, by: i64) -> Outcome {
    if is_infinite(micros) {
        return Ok(Value::Integer(micros));
    }
    micros
        .checked_add(by)
        .ok_or_else(|| out_of_range("timestamp"))
        .and_then(checked)
        .map(Value::Integer)
}

/// Months first (the day of the month is cut to the month's length), then days, then time.
fn add(micros: i64, interval: Interval) -> Result<i64, SqlError> {
    if is_infinite(micros) {
        return Ok(micros);
    }
    let (mut days, time) = (micros.div_euclid(DAY), micros.rem_euclid(DAY));
    if interval.months != 0 {
        let date = civil_from_days(days);
        let months = date.year * 12 + i64::from(date.month) - 1 + i64::from(interval.months);
        let (year, month) = (
            months.div_euclid(12),
            u32::try_from(months.rem_euclid(12) + 1).expect("1 to 12"),
        );
        days = days_from_civil(year, month, date.day.min(days_in_month(year, month)));
    }
    (days + i64::from(interval.days))
        .checked_mul(DAY)
        .and_then(|micros| micros.checked_add(time)?.checked_add(interval.micros))
        .ok_or_else(|| out_of_range("timestamp"))
        .and_then(checked)
}

fn date_add(micros: i64, days: i64) -> Outcome {
    if is_infinite(micros) {
        return Ok(Value::Integer(micros));
    }
    days.checked_mul(DAY)
        .and_then(|days| micros.checked_add(days))
        .filter(|&micros| in_range(micros))
        .map(Value::Integer)
        .ok_or_else(|| out_of_range("date"))
}

fn narrow(value: i64) -> Result<i32, SqlError> {
    i32::try_from(value).map_err(|_| out_of_range("interval"))
}

fn justify_hours(mut interval: Interval) -> Result<Interval, SqlError> {
    let mut days = i64::from(interval.days) + interval.micros / DAY;
    interval.micros %= DAY;
    if days > 0 && interval.micros < 0 {
        (days, interval.micros) = (days - 1, interval.micros + DAY);
    } else if days < 0 && interval.micros > 0 {
        (days, interval.micros) = (days + 1, interval.micros - DAY);
    }
    interval.days = narrow(days)?;
    Ok(interval)
}

fn justify_days(mut interval: Interval) -> Result<Interval, SqlError> {
    let mut months = i64::from(interval.months) + i64::from(interval.days / 30);
    interval.days %= 30;
    if months > 0 && interval.days < 0 {
        (months, interval.days) = (months - 1, interval.days + 30);
    } else if months < 0 && interval.days > 0 {
        (months, interval.days) = (months + 1, interval.days - 30);
    }
    interval.months = narrow(months)?;
    Ok(interval)
}

/// Both, and then one sign for all fields.
fn justify(interval: Interval) -> Result<Interval, SqlError> {
    let mut days = i64::from(interval.days) + interval.micros / DAY;
    let mut micros = interval.micros % DAY;
    let mut months = i64::from(interval.months) + days / 30;
    days %= 30;
    if months > 0 && (days < 0 || (days == 0 && micros < 0)) {
        (days, months) = (days + 30, months - 1);
    } else if months < 0 && (days > 0 || (days == 0 && micros > 0)) {
        (days, months) = (days - 30, months + 1);
    }
    if days > 0 && micros < 0 {
        (micros, days) = (micros + DAY, days - 1);
    } else if days < 0 && micros > 0 {
        (micros, days) = (micros - DAY, days + 1);
    }
    Ok(Interval {
        months: narrow(months)?,
        days: narrow(days)?,
        micros,
    })
}

/// The calendar difference, in years, months and days.
fn age(a: i64, b: i64) -> Result<Interval, SqlError> {
    if is_infinite(a) || is_infinite(b) {
        return Err(SqlError::new(
            ErrorCode::DatetimeOverflow,
            "interval out of range",
        ));
    }
    let (later, earlier, negative) = if a < b { (b, a, true) } else { (a, b, false) };
    let (to, from) = (
        civil_from_days(later.div_euclid(DAY)),
        civil_from_days(earlier.div_euclid(DAY)),
    );
    let mut micros = later.rem_euclid(DAY) - earlier.rem_euclid(DAY);
    let mut days = i64::from(to.day) - i64::from(from.day);
    let mut months = (to.year - from.year) * 12 + i64::from(to.month) - i64::from(from.month);
    if micros < 0 {
        (micros, days) = (micros + DAY, days - 1);
    }
    if days < 0 {
        // Borrowed from the earlier one's month.
        (days, months) = (
            days + i64::from(days_in_month(from.year, from.month)),
            months - 1,
        );
    }
    let interval = Interval {
        months: narrow(months)?,
        days: narrow(days)?,
        micros,
    };
    if negative {
        interval.negated()
    } else {
        Ok(interval)
    }
}

fn date_bin(args: Args<'_, '_>) -> Outcome {
    let (stride, micros, origin) = (interval(args, 0)?, int(args, 1)?, int(args, 2)?);
    if is_infinite(micros) {
        return Ok(Value::Integer(micros));
    }
    if stride.months != 0 {
        return Err(SqlError::new(
            ErrorCode::FeatureNotSupported,
            "timestamps cannot be binned into intervals containing months or years",
        ));
    }
    let stride = i64::try_from(stride.span()).map_err(|_| out_of_range("interval"))?;
    if stride <= 0 {
        return Err(SqlError::new(
            ErrorCode::DatetimeOverflow,
            "stride must be greater than zero",
        ));
    }
    let since = micros
        .checked_sub(origin)
        .ok_or_else(|| out_of_range("interval"))?;
    Ok(Value::Integer(origin + since.div_euclid(stride) * stride))
}

fn make_date(year: i64, month: i64, day: i64) -> Result<i64, SqlError> {
    let shown = || {
        SqlError::new(
            ErrorCode::DatetimeOverflow,
            format!("date field value out of range: {year}-{month:02}-{day:02}"),
        )
    };
    if year == 0 {
        return Err(shown());
    }
    // Negative years are BC: -1 is 1 BC, year 0 of the calendar.
    let astronomical = if year < 0 { year + 1 } else { year };
    let (month, day) = (
        u32::try_from(month).map_err(|_| shown())?,
        u32::try_from(day).map_err(|_| shown())?,
    );
    date_micros(astronomical, month, day).ok_or_else(shown)
}

fn make_time(hour: i64, minute: i64, second: f64) -> Result<i64, SqlError> {
    let shown = || {
        SqlError::new(
            ErrorCode::DatetimeOverflow,
            format!("time field value out of range: {hour}:{minute:02}:{second:02}"),
        )
    };
    if !(0..=24).contains(&hour) || !(0..60).contains(&minute) || !(0.0..=60.0).contains(&second) {
        return Err(shown());
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most a minute")]
    let micros = hour * HOUR + minute * MINUTE + (second * 1e6).round_ties_even() as i64;
    if micros > DAY {
        Err(shown())
    } else {
        Ok(micros)
    }
}

fn make_interval(args: Args<'_, '_>) -> Outcome {
    let at = |place: usize| {
        if place < args.len() {
            int(args, place)
        } else {
            Ok(0)
        }
    };
    let seconds = if args.len() > 6 { real(args, 6)? } else { 0.0 };
    if !seconds.is_finite() || seconds.abs() > 9e12 {
        return Err(out_of_range("interval"));
    }
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
    let micros = (seconds * 1e6).round_ties_even() as i64;
    span(Interval {
        months: narrow(at(0)? * 12 + at(1)?)?,
        days: narrow(at(2)? * 7 + at(3)?)?,
        micros: (at(4)? * HOUR + at(5)? * MINUTE)
            .checked_add(micros)
            .ok_or_else(|| out_of_range("interval"))?,
    })
}

/// The offset east of UTC, in microseconds, of a zone that needs no history: UTC and its names, and
/// offsets. Of a bare `+02` the sign is as in ISO 8601 if it is an interval (`INTERVAL '+02:00'`),
/// but POSIX's, west positive, as a name: `AT TIME ZONE '+02'` is two hours *west*.
fn fixed_offset(name: &str) -> Option<i64> {
    let upper = name.trim().to_ascii_uppercase();
    if matches!(
        upper.as_str(),
        "UTC" | "GMT" | "Z" | "ZULU" | "UCT" | "ETC/UTC" | "ETC/GMT" | "UNIVERSAL"
    ) {
        return Some(0);
    }
    let letters = upper.bytes().take_while(u8::is_ascii_alphabetic).count();
    let (prefix, offset) = upper.split_at(letters);
    let known = matches!(prefix, "" | "UTC" | "GMT");
    let parsed = offset
        .strip_prefix(['+', '-'])
        .or_else(|| {
            offset
                .starts_with(|c: char| c.is_ascii_digit())
                .then_some(offset)
        })
        .and_then(|digits| {
            let mut fields = digits.split(':').map(|field| field.parse::<i64>().ok());
            let hours = fields.next()??;
            let minutes = fields.next().map_or(Some(0), |field| field)?;
            (hours <= 15 && (0..60).contains(&minutes)).then_some(hours * HOUR + minutes * MINUTE)
        });
    let west = parsed.filter(|_| known)?;
    Some(if offset.starts_with('-') { west } else { -west })
}

/// 22008 for a field of a formatted text.
pub(super) fn bad_field(text: &str) -> SqlError {
    field_range(text)
}
