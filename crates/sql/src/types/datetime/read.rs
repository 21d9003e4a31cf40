//! PostgreSQL's spellings of dates and times, read.

use springhead_proto::{ErrorCode, SqlError};

use super::{
    DAY, HOUR, INFINITY, MINUS_INFINITY, MINUTE, MONTHS, SECOND, WEEKDAYS, date_micros,
    days_in_month, field_range, fraction_micros, in_range, invalid, is_infinite, named,
    timestamp_range,
};
use crate::types::PgType;
use crate::types::text::trim;

/// Reads a date; a time of day is allowed and ignored.
pub(crate) fn read_date(text: &str) -> Result<i64, SqlError> {
    let parsed = parse(text, &PgType::Date)?;
    match parsed {
        Parsed::Infinite(micros) => Ok(micros),
        Parsed::At { day: Some(day), .. } => Ok(day),
        Parsed::At { day: None, .. } => Err(invalid(&PgType::Date, text)),
    }
}

/// Reads a timestamp without time zone; an offset is allowed and ignored.
pub(crate) fn read_timestamp(text: &str) -> Result<i64, SqlError> {
    read_moment(text, &PgType::Timestamp, false)
}

/// Reads a timestamp with time zone; without an offset it is UTC.
pub(crate) fn read_timestamptz(text: &str) -> Result<i64, SqlError> {
    read_moment(text, &PgType::Timestamptz, true)
}

fn read_moment(text: &str, ty: &PgType, zoned: bool) -> Result<i64, SqlError> {
    match parse(text, ty)? {
        Parsed::Infinite(micros) => Ok(micros),
        Parsed::At {
            day: Some(day),
            time,
            offset,
        } => {
            let offset = if zoned { offset.unwrap_or(0) } else { 0 };
            day.checked_add(time.unwrap_or(0))
                .and_then(|micros| micros.checked_sub(offset))
                .filter(|&micros| in_range(micros) && !is_infinite(micros))
                .ok_or_else(|| timestamp_range(text))
        }
        Parsed::At { day: None, .. } => Err(invalid(ty, text)),
    }
}

/// Reads a time of day; a date and an offset are allowed and ignored.
pub(crate) fn read_time(text: &str) -> Result<i64, SqlError> {
    match parse(text, &PgType::Time)? {
        Parsed::At {
            time: Some(time), ..
        } => Ok(time),
        _ => Err(invalid(&PgType::Time, text)),
    }
}

/// What a text says of a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parsed {
    Infinite(i64),
    /// Each in microseconds; `offset` is east of UTC.
    At {
        day: Option<i64>,
        time: Option<i64>,
        offset: Option<i64>,
    },
}

fn parse(text: &str, ty: &PgType) -> Result<Parsed, SqlError> {
    // The common forms first: `2009-01-01`, `2009-01-01 00:00:00`.
    if let Some(parsed) = parse_iso(text.as_bytes()) {
        return Ok(parsed);
    }
    Parser {
        text,
        ty,
        rest: trim(text),
    }
    .parse()
}

/// The exact shapes `YYYY-MM-DD` and `YYYY-MM-DD[ T]HH:MM:SS`, fields in range; else `None`.
fn parse_iso(bytes: &[u8]) -> Option<Parsed> {
    let two = |at: usize| {
        let (high, low) = (
            bytes.get(at)?.wrapping_sub(b'0'),
            bytes.get(at + 1)?.wrapping_sub(b'0'),
        );
        (high < 10 && low < 10).then(|| u32::from(high) * 10 + u32::from(low))
    };
    if !matches!(bytes.len(), 10 | 19) || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let year = two(0)? * 100 + two(2)?;
    if year == 0 {
        return None;
    }
    let day = date_micros(year.into(), two(5)?, two(8)?)?;
    if bytes.len() == 10 {
        return Some(Parsed::At {
            day: Some(day),
            time: None,
            offset: None,
        });
    }
    if !matches!(bytes[10], b' ' | b'T') || bytes[13] != b':' || bytes[16] != b':' {
        return None;
    }
    let (hour, minute, second) = (two(11)?, two(14)?, two(17)?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let time = i64::from(hour) * HOUR + i64::from(minute) * MINUTE + i64::from(second) * SECOND;
    Some(Parsed::At {
        day: Some(day),
        time: Some(time),
        offset: None,
    })
}

/// Everything else, field by field.
struct Parser<'t> {
    text: &'t str,
    ty: &'t PgType,
    rest: &'t str,
}

impl<'t> Parser<'t> {
    fn parse(mut self) -> Result<Parsed, SqlError> {
        match self.rest.to_ascii_lowercase().as_str() {
            "infinity" | "+infinity" => return Ok(Parsed::Infinite(INFINITY)),
            "-infinity" => return Ok(Parsed::Infinite(MINUS_INFINITY)),
            "epoch" => {
                return Ok(Parsed::At {
                    day: Some(0),
                    time: Some(0),
                    offset: Some(0),
                });
            }
            word @ ("now" | "today" | "tomorrow" | "yesterday") => {
                return Err(SqlError::unsupported(format_args!(
                    "the {} constant '{word}'",
                    self.ty.sql_name()
                ))
                .with_hint("Use now(), current_date or current_timestamp."));
            }
            _ => {}
        }
        let (mut year, mut month, mut day) = (None, None, None);
        let (mut time, mut offset, mut bc, mut pm, mut date) = (None, None, false, None, false);
        while !self.rest.is_empty() {
            let first = self.rest.as_bytes()[0];
            if first.is_ascii_whitespace() || first == b',' {
                self.rest = &self.rest[1..];
            } else if first.is_ascii_digit() && time.is_none() && self.is_time() {
                time = Some(self.time()?);
            } else if matches!(first, b'+' | b'-') && (time.is_some() || date) && offset.is_none() {
                offset = Some(self.offset()?);
            } else if first.is_ascii_digit() && !date && time.is_none() && self.is_compact_time() {
                time = Some(self.compact_time()?);
            } else if first.is_ascii_digit() && !date {
                date = self.date(&mut year, &mut month, &mut day)?;
            } else if first.is_ascii_digit() && time.is_none() && date {
                time = Some(self.compact_time()?);
            } else if first.is_ascii_alphabetic() {
                let word = self.word();
                match word.as_str() {
                    "t" if date => {}
                    "z" | "utc" | "gmt" | "ut" | "zulu" if offset.is_none() => offset = Some(0),
                    "bc" => bc = true,
                    "ad" => {}
                    "am" | "pm" if time.is_some() && pm.is_none() => pm = Some(word == "pm"),
                    "allballs" if time.is_none() => {
                        time = Some(0);
                        offset = Some(0);
                    }
                    _ => {
                        if let Some(number) = named(&word, &MONTHS).filter(|_| month.is_none()) {
                            month = Some(number + 1);
                            // `January 8, 1999` and `8 January 1999`: what is a year is told by size.
                            if let (Some(first), None) = (year, day) {
                                (day, year) = (Some(first), None);
                            }
                            date = year.is_some() && day.is_some();
                        } else if named(&word, &WEEKDAYS).is_none() {
                            return Err(self.unknown_word(&word));
                        }
                    }
                }
            } else {
                return Err(self.invalid());
            }
        }
        let day = self.day(year, month, day, bc)?;
        let time = match (time, pm) {
            (Some(time), Some(pm)) => Some(self.twelve_hours(time, pm)?),
            (time, _) => time,
        };
        Ok(Parsed::At { day, time, offset })
    }

    /// Whether digits and a colon come next.
    fn is_time(&self) -> bool {
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        digits <= 2 && self.rest.as_bytes().get(digits) == Some(&b':')
    }

    /// Whether a time is wanted and `HHMM` or `HHMMSS` comes next.
    fn is_compact_time(&self) -> bool {
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        *self.ty == PgType::Time
            && matches!(digits, 4 | 6)
            && !matches!(self.rest.as_bytes().get(digits), Some(b'-' | b'/'))
    }

    /// `HH:MM[:SS[.ffffff]]`.
    fn time(&mut self) -> Result<i64, SqlError> {
        let hour = self.number(2)?;
        self.expect(b':')?;
        let minute = self.number(2)?;
        let mut micros = 0;
        if self.take(b':') {
            micros = self.number(2)? * SECOND;
            if self.take(b'.') {
                micros += self.fraction();
            }
        }
        self.clock(hour, minute, micros)
    }

    /// `HHMM[SS[.ffffff]]`.
    fn compact_time(&mut self) -> Result<i64, SqlError> {
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        if !matches!(digits, 4 | 6) {
            return Err(self.invalid());
        }
        let hour = self.number(2)?;
        let minute = self.number(2)?;
        let mut micros = 0;
        if digits == 6 {
            micros = self.number(2)? * SECOND;
            if self.take(b'.') {
                micros += self.fraction();
            }
        }
        self.clock(hour, minute, micros)
    }

    fn clock(&self, hour: i64, minute: i64, micros: i64) -> Result<i64, SqlError> {
        let total = hour * HOUR + minute * MINUTE + micros;
        if minute > 59 || micros > 60 * SECOND || total > DAY {
            return Err(self.field_range());
        }
        Ok(total)
    }

    fn twelve_hours(&self, time: i64, pm: bool) -> Result<i64, SqlError> {
        if time >= 13 * HOUR {
            return Err(self.field_range());
        }
        let time = time % (12 * HOUR);
        Ok(if pm { time + 12 * HOUR } else { time })
    }

    /// `+HH[[:]MM[:SS]]`, east of UTC.
    fn offset(&mut self) -> Result<i64, SqlError> {
        let negative = self.rest.starts_with('-');
        self.rest = &self.rest[1..];
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        let hours = self.number(if digits == 1 { 1 } else { 2 })?;
        let (mut minutes, mut seconds) = (0, 0);
        if self.take(b':') {
            minutes = self.number(2)?;
            if self.take(b':') {
                seconds = self.number(2)?;
            }
        } else if digits == 4 {
            minutes = self.number(2)?;
        }
        if hours > 15 || minutes > 59 || seconds > 59 {
            return Err(SqlError::new(
                ErrorCode::DatetimeOverflow,
                format!("time zone displacement out of range: \"{}\"", self.text),
            ));
        }
        let offset = hours * HOUR + minutes * MINUTE + seconds * SECOND;
        Ok(if negative { -offset } else { offset })
    }

    /// One group of digits with its separators: a whole date, or one part of a date with a month's
    /// name. Says whether the date is complete.
    fn date(
        &mut self,
        year: &mut Option<i64>,
        month: &mut Option<u32>,
        day: &mut Option<i64>,
    ) -> Result<bool, SqlError> {
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        let separator = self.rest.as_bytes().get(digits).copied();
        if matches!(digits, 8) && !matches!(separator, Some(b'-' | b'/' | b'.')) && month.is_none()
        {
            *year = Some(self.number(4)?);
            *month = u32::try_from(self.number(2)?).ok();
            *day = Some(self.number(2)?);
            return Ok(true);
        }
        let first = self.number(digits.min(7))?;
        let Some(separator @ (b'-' | b'/' | b'.')) = separator else {
            // A part beside a month's name.
            if month.is_some() && day.is_none() && digits <= 2 && year.is_none() {
                *day = Some(first);
            } else if year.is_none() {
                *year = Some(if digits == 2 && day.is_some() {
                    two_digit_year(first)
                } else {
                    first
                });
            } else {
                return Err(self.invalid());
            }
            return Ok(month.is_some() && day.is_some() && year.is_some());
        };
        self.expect(separator)?;
        if self.rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
            // 08-Jan-1999, 1999-Jan-08.
            let word = self.word();
            *month = Some(named(&word, &MONTHS).ok_or_else(|| self.unknown_word(&word))? + 1);
            self.expect(separator)?;
            let width = self.rest.bytes().take_while(u8::is_ascii_digit).count();
            let last = self.number(width.min(7))?;
            if digits > 2 {
                (*year, *day) = (Some(first), Some(last));
            } else {
                (*day, *year) = (
                    Some(first),
                    Some(if width == 2 {
                        two_digit_year(last)
                    } else {
                        last
                    }),
                );
            }
            return Ok(true);
        }
        let second = self.number(2)?;
        if digits > 2 && !matches!(self.rest.as_bytes().first(), Some(b'-' | b'/' | b'.')) {
            return Err(self.invalid());
        }
        self.expect(separator)?;
        let width = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        let third = self.number(width.min(7))?;
        if digits > 2 {
            *year = Some(first);
            *month = u32::try_from(second).ok();
            *day = Some(third);
        } else {
            // DateStyle ISO, MDY.
            *month = u32::try_from(first).ok();
            *day = Some(second);
            *year = Some(if width == 2 {
                two_digit_year(third)
            } else {
                third
            });
        }
        Ok(true)
    }

    fn day(
        &self,
        year: Option<i64>,
        month: Option<u32>,
        day: Option<i64>,
        bc: bool,
    ) -> Result<Option<i64>, SqlError> {
        let (year, month, day) = match (year, month, day) {
            (None, None, None) => return Ok(None),
            (Some(year), Some(month), Some(day)) => (year, month, day),
            _ => return Err(self.invalid()),
        };
        if year == 0 {
            return Err(self.field_range());
        }
        let year = if bc { 1 - year } else { year };
        let day = u32::try_from(day).map_err(|_| self.field_range())?;
        if !(1..=12).contains(&month) || day == 0 || day > days_in_month(year, month) {
            return Err(self.field_range());
        }
        date_micros(year, month, day)
            .map(Some)
            .ok_or_else(|| match self.ty {
                PgType::Date => SqlError::new(
                    ErrorCode::DatetimeOverflow,
                    format!("date out of range: \"{}\"", self.text),
                ),
                _ => timestamp_range(self.text),
            })
    }

    /// Up to `width` digits, at least one.
    fn number(&mut self, width: usize) -> Result<i64, SqlError> {
        let digits = self
            .rest
            .bytes()
            .take(width)
            .take_while(u8::is_ascii_digit)
            .count();
        let number = self.rest[..digits].parse().map_err(|_| self.invalid())?;
        self.rest = &self.rest[digits..];
        Ok(number)
    }

    /// Digits after the point, in microseconds, rounded to the nearest.
    fn fraction(&mut self) -> i64 {
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        let text = &self.rest.as_bytes()[..digits];
        self.rest = &self.rest[digits..];
        fraction_micros(text)
    }

    fn word(&mut self) -> String {
        let length = self
            .rest
            .bytes()
            .take_while(u8::is_ascii_alphabetic)
            .count();
        let word = self.rest[..length].to_ascii_lowercase();
        self.rest = &self.rest[length..];
        if self.rest.starts_with('.') {
            self.rest = &self.rest[1..];
        }
        word
    }

    fn take(&mut self, byte: u8) -> bool {
        let taken = self.rest.as_bytes().first() == Some(&byte);
        if taken {
            self.rest = &self.rest[1..];
        }
        taken
    }

    fn expect(&mut self, byte: u8) -> Result<(), SqlError> {
        if self.take(byte) {
            Ok(())
        } else {
            Err(self.invalid())
        }
    }

    fn invalid(&self) -> SqlError {
        invalid(self.ty, self.text)
    }

    fn unknown_word(&self, word: &str) -> SqlError {
        if word.len() > 2 && !self.text.is_empty() && self.text.contains(':') {
            return SqlError::unsupported(format_args!(
                "the time zone \"{word}\" in \"{}\"",
                self.text
            ))
            .with_hint("Write an offset such as +01, or Z.");
        }
        self.invalid()
    }

    fn field_range(&self) -> SqlError {
        field_range(self.text)
    }
}

fn two_digit_year(year: i64) -> i64 {
    if year < 70 { year + 2000 } else { year + 1900 }
}
