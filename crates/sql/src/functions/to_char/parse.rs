//! to_timestamp and to_date: moments read by a template.

use springhead_proto::{ErrorCode, SqlError};

use super::{Piece, pieces};
use crate::functions::times::bad_field;
use crate::types::datetime::{
    DAY, HOUR, MINUTE, SECOND, date_micros, fraction_micros, in_range, month_names, weekday_names,
};

/// Days from the first of the Julian calendar to 1970-01-01.
const JULIAN_EPOCH: i64 = 2_440_588;

/// Reads a timestamp by a template; what it does not name is that of 0001-01-01 00:00.
pub(in crate::functions) fn parse(text: &str, template: &str) -> Result<i64, SqlError> {
    let pieces = pieces(template);
    let mut reader = Reader {
        text,
        rest: text.trim_start(),
    };
    let mut fields = Fields::default();
    for (at, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Literal(literal) => literal.chars().for_each(|c| reader.literal(c)),
            Piece::Pattern { name, ordinal, .. } => {
                reader.rest = reader.rest.trim_start();
                fields.read(
                    &mut reader,
                    &Pattern {
                        name,
                        ordinal: ordinal.is_some(),
                        followed: matches!(pieces.get(at + 1), Some(Piece::Pattern { .. })),
                    },
                )?;
            }
        }
    }
    fields.moment(text)
}

/// A pattern of the template, where it stands.
struct Pattern<'p> {
    name: &'p str,
    /// Its number has a suffix: `1st`.
    ordinal: bool,
    /// Whether another pattern follows at once, so that digits may not run on.
    followed: bool,
}

impl Pattern<'_> {
    fn invalid(&self, shown: &str) -> SqlError {
        SqlError::new(
            ErrorCode::InvalidDatetime,
            format!("invalid value \"{shown}\" for \"{}\"", self.name),
        )
    }
}

/// The text, and what of it has not been read.
struct Reader<'t> {
    text: &'t str,
    rest: &'t str,
}

impl Reader<'_> {
    /// Passes what stands for a character of the template that is no pattern.
    fn literal(&mut self, c: char) {
        if c.is_alphanumeric() {
            self.skip_one(|first| !first.is_ascii_digit() || first == c);
            return;
        }
        self.rest = self.rest.trim_start();
        if !c.is_whitespace() {
            // A separator matches any separator, and none.
            self.skip_one(|first| !first.is_alphanumeric() && first != '+');
        }
    }

    fn skip_one(&mut self, skipped: impl Fn(char) -> bool) {
        self.rest = self.rest.strip_prefix(skipped).unwrap_or(self.rest);
    }

    /// The length of the run of digits that comes, at most `limit`.
    fn run(&self, from: usize, limit: usize) -> usize {
        let digits = self.rest[from..].bytes().take(limit);
        digits.take_while(u8::is_ascii_digit).count()
    }

    /// A number of `width` digits at most, or of nine where a year may run on.
    fn number(&mut self, pattern: &Pattern<'_>, width: usize) -> Result<i64, SqlError> {
        let is_year = width == 4;
        let limit = if is_year && !pattern.followed {
            9
        } else {
            width
        };
        let signed = usize::from(is_year && self.rest.starts_with('-'));
        let length = self.run(signed, limit);
        if length == 0 {
            let shown: String = self.rest.chars().take(width).collect();
            return Err(pattern
                .invalid(&shown)
                .with_detail("Value must be an integer."));
        }
        let (digits, rest) = self.rest.split_at(signed + length);
        let value = digits.parse().map_err(|_| bad_field(self.text))?;
        self.rest = if pattern.ordinal {
            rest.get(2..).unwrap_or_default()
        } else {
            rest
        };
        Ok(value)
    }

    /// A fraction of a second, in microseconds.
    fn fraction(&mut self, pattern: &Pattern<'_>) -> i64 {
        let length = self.run(0, if pattern.name == "MS" { 3 } else { 6 });
        let (digits, rest) = self.rest.split_at(length);
        self.rest = rest;
        fraction_micros(digits.as_bytes())
    }

    /// As many bytes as the pattern has, in lower case; nothing if there are fewer.
    fn head(&mut self, pattern: &Pattern<'_>) -> String {
        let head = self.rest.get(..pattern.name.len()).unwrap_or_default();
        self.rest = &self.rest[head.len()..];
        head.to_ascii_lowercase()
    }

    /// Which of `names` comes, from 0: whole, or its first three letters if `short`.
    fn name(
        &mut self,
        pattern: &Pattern<'_>,
        names: &[&str],
        short: bool,
    ) -> Result<i64, SqlError> {
        let letters = self
            .rest
            .bytes()
            .take_while(u8::is_ascii_alphabetic)
            .count();
        let lower = self.rest[..letters].to_ascii_lowercase();
        let wanted = |full: &str| if short { 3 } else { full.len() };
        let found = names
            .iter()
            .position(|full| lower.starts_with(&full[..wanted(full)]))
            .ok_or_else(|| {
                pattern.invalid(&self.rest[..letters]).with_detail(
                    "The given value did not match any of the allowed values for this field.",
                )
            })?;
        self.rest = &self.rest[wanted(names[found])..];
        Ok(i64::try_from(found).unwrap_or(0))
    }

    /// The hours of an offset from UTC, with their sign; in microseconds.
    fn offset_hours(&mut self) -> Result<i64, SqlError> {
        let negative = self.rest.starts_with('-');
        self.rest = self.rest.strip_prefix(['+', '-']).unwrap_or(self.rest);
        let (digits, rest) = self.rest.split_at(self.run(0, 2));
        let hours: i64 = digits.parse().map_err(|_| bad_field(self.text))?;
        self.rest = rest;
        Ok(if negative { -hours } else { hours } * HOUR)
    }
}

/// What has been read.
struct Fields {
    year: i64,
    bc: bool,
    month: i64,
    day: i64,
    day_of_year: Option<i64>,
    /// Days since 1970-01-01.
    epoch_day: Option<i64>,
    hour: i64,
    pm: Option<bool>,
    minute: i64,
    /// Seconds and their fraction.
    micros: i64,
    /// From UTC, in microseconds.
    offset: i64,
}

impl Default for Fields {
    fn default() -> Fields {
        Fields {
            year: 1,
            bc: false,
            month: 1,
            day: 1,
            day_of_year: None,
            epoch_day: None,
            hour: 0,
            pm: None,
            minute: 0,
            micros: 0,
            offset: 0,
        }
    }
}

impl Fields {
    fn read(&mut self, reader: &mut Reader<'_>, pattern: &Pattern<'_>) -> Result<(), SqlError> {
        match pattern.name {
            "YYYY" | "IYYY" => self.year = reader.number(pattern, 4)?,
            "YYY" => self.year = 2000 + reader.number(pattern, 3)?,
            "YY" => {
                let value = reader.number(pattern, 2)?;
                self.year = value + if value < 70 { 2000 } else { 1900 };
            }
            "Y" => self.year = 2000 + reader.number(pattern, 1)?,
            "MM" => self.month = reader.number(pattern, 2)?,
            "DD" => self.day = reader.number(pattern, 2)?,
            "DDD" => self.day_of_year = Some(reader.number(pattern, 3)?),
            "J" => self.epoch_day = Some(reader.number(pattern, 9)? - JULIAN_EPOCH),
            "HH24" | "HH12" | "HH" => self.hour = reader.number(pattern, 2)?,
            "MI" => self.minute = reader.number(pattern, 2)?,
            "SS" => self.micros += reader.number(pattern, 2)? * SECOND,
            "SSSS" | "SSSSS" => self.micros += reader.number(pattern, 5)? * SECOND,
            "MS" | "US" | "FF1" | "FF2" | "FF3" | "FF4" | "FF5" | "FF6" => {
                self.micros += reader.fraction(pattern);
            }
            "TZH" => self.offset = reader.offset_hours()?,
            "TZM" => {
                let sign = if self.offset < 0 { -1 } else { 1 };
                self.offset += reader.number(pattern, 2)? * MINUTE * sign;
            }
            name => match name.to_ascii_uppercase().as_str() {
                "AM" | "PM" | "A.M." | "P.M." => {
                    let head = reader.head(pattern);
                    self.pm = match head.as_bytes().first() {
                        Some(b'p') => Some(true),
                        Some(b'a') => Some(false),
                        _ => return Err(pattern.invalid(&head)),
                    };
                }
                "AD" | "BC" | "A.D." | "B.C." => self.bc = reader.head(pattern).starts_with('b'),
                "MONTH" => self.month = reader.name(pattern, month_names(), false)? + 1,
                "MON" => self.month = reader.name(pattern, month_names(), true)? + 1,
                // A weekday is read, and says nothing.
                name @ ("DAY" | "DY") => {
                    reader.name(pattern, weekday_names(), name == "DY")?;
                }
                _ => {
                    return Err(SqlError::unsupported(format_args!(
                        "reading the template pattern \"{name}\""
                    )));
                }
            },
        }
        Ok(())
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    fn moment(&self, text: &str) -> Result<i64, SqlError> {
        let bad = || bad_field(text);
        let hour = self.hour_of_day()?;
        if !(0..24).contains(&hour) || !(0..60).contains(&self.minute) || self.micros > DAY {
            return Err(bad());
        }
        let start = self.start_of_day().ok_or_else(bad)?;
        if !in_range(start) {
            return Err(bad());
        }
        Ok(start + hour * HOUR + self.minute * MINUTE + self.micros - self.offset)
    }

    fn hour_of_day(&self) -> Result<i64, SqlError> {
        let Some(pm) = self.pm else {
            return Ok(self.hour);
        };
        if !(1..=12).contains(&self.hour) {
            return Err(SqlError::new(
                ErrorCode::InvalidDatetime,
                format!("hour \"{}\" is invalid for the 12-hour clock", self.hour),
            )
            .with_hint("Use the 24-hour clock, or give an hour between 1 and 12."));
        }
        Ok(self.hour % 12 + if pm { 12 } else { 0 })
    }

    fn start_of_day(&self) -> Option<i64> {
        let year = if self.bc { 1 - self.year } else { self.year };
        match (self.epoch_day, self.day_of_year) {
            (Some(day), _) => day.checked_mul(DAY),
            (None, Some(of_year)) => Some(date_micros(year, 1, 1)? + (of_year - 1) * DAY),
            (None, None) => date_micros(
                year,
                u32::try_from(self.month).ok()?,
                u32::try_from(self.day).ok()?,
            ),
        }
    }
}
