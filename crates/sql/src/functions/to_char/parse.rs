//! to_timestamp and to_date: moments read by a template.

use springhead_proto::{ErrorCode, SqlError};

use super::{Piece, pieces};
use crate::functions::times::bad_field;
use crate::types::datetime::{DAY, HOUR, MINUTE, SECOND, date_micros, month_names, weekday_names};

/// Reads a timestamp by a template; what it does not name is that of 0001-01-01 00:00.
pub(in crate::functions) fn parse(text: &str, template: &str) -> Result<i64, SqlError> {
    let (mut year, mut month, mut day, mut hour, mut minute, mut micros) =
        (1i64, 1i64, 1i64, 0i64, 0i64, 0i64);
    let (mut pm, mut day_of_year, mut offset, mut bc, mut epoch_day) =
        (None, None, 0i64, false, None);
    let mut rest = text.trim_start();
    let template_pieces = pieces(template);
    for (at, piece) in template_pieces.iter().enumerate() {
        let (name, ordinal) = match piece {
            Piece::Literal(literal) => {
                for c in literal.chars() {
                    // A separator matches any separator, and none.
                    if c.is_alphanumeric() {
                        rest = rest
                            .strip_prefix(|first: char| !first.is_ascii_digit() || first == c)
                            .unwrap_or(rest);
                    } else if c.is_whitespace() {
                        rest = rest.trim_start();
                    } else {
                        rest = rest.trim_start();
                        rest = rest
                            .strip_prefix(|first: char| {
                                !first.is_alphanumeric() && !matches!(first, '+')
                            })
                            .unwrap_or(rest);
                    }
                }
                continue;
            }
            Piece::Pattern { name, ordinal, .. } => (*name, ordinal.is_some()),
        };
        rest = rest.trim_start();
        // Digits may run on if no digits follow in the template.
        let followed = matches!(template_pieces.get(at + 1), Some(Piece::Pattern { .. }));
        let mut digits = |width: usize| -> Result<i64, SqlError> {
            let limit = if followed {
                width
            } else {
                width.max(if width == 4 { 9 } else { width })
            };
            let signed = usize::from(rest.starts_with('-') && width == 4);
            let length = rest[signed..]
                .bytes()
                .take(limit)
                .take_while(u8::is_ascii_digit)
                .count();
            if length == 0 {
                let shown: String = rest.chars().take(width).collect();
                return Err(SqlError::new(
                    ErrorCode::InvalidDatetime,
                    format!("invalid value \"{shown}\" for \"{name}\""),
                )
                .with_detail("Value must be an integer."));
            }
            let value = rest[..signed + length]
                .parse()
                .map_err(|_| bad_field(text))?;
            rest = &rest[signed + length..];
            if ordinal {
                rest = rest.get(2..).unwrap_or_default();
            }
            Ok(value)
        };
        match name {
            "YYYY" | "IYYY" => year = digits(4)?,
            "YYY" => year = 2000 + digits(3)?,
            "YY" => {
                let value = digits(2)?;
                year = if value < 70 {
                    value + 2000
                } else {
                    value + 1900
                };
            }
            "Y" => year = 2000 + digits(1)?,
            "MM" => month = digits(2)?,
            "DD" => day = digits(2)?,
            "DDD" => day_of_year = Some(digits(3)?),
            "J" => epoch_day = Some(digits(9)? - 2_440_588),
            "HH24" | "HH12" | "HH" => hour = digits(2)?,
            "MI" => minute = digits(2)?,
            "SS" => micros += digits(2)? * SECOND,
            "SSSS" | "SSSSS" => micros += digits(5)? * SECOND,
            "MS" | "US" | "FF1" | "FF2" | "FF3" | "FF4" | "FF5" | "FF6" => {
                let length = rest
                    .bytes()
                    .take(if name == "MS" { 3 } else { 6 })
                    .take_while(u8::is_ascii_digit)
                    .count();
                micros += crate::types::datetime::fraction_micros(&rest.as_bytes()[..length]);
                rest = &rest[length..];
            }
            "AM" | "PM" | "am" | "pm" | "A.M." | "P.M." | "a.m." | "p.m." => {
                let head = rest
                    .get(..name.len())
                    .unwrap_or_default()
                    .to_ascii_lowercase();
                pm = match head.as_bytes().first() {
                    Some(b'p') => Some(true),
                    Some(b'a') => Some(false),
                    _ => {
                        return Err(SqlError::new(
                            ErrorCode::InvalidDatetime,
                            format!("invalid value \"{head}\" for \"{name}\""),
                        ));
                    }
                };
                rest = &rest[name.len()..];
            }
            "AD" | "BC" | "A.D." | "B.C." => {
                let head = rest.get(..name.len()).unwrap_or_default();
                bc = head.to_ascii_lowercase().starts_with('b');
                rest = &rest[head.len()..];
            }
            "TZH" => {
                let negative = rest.starts_with('-');
                rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
                let length = rest.bytes().take(2).take_while(u8::is_ascii_digit).count();
                let hours: i64 = rest[..length].parse().map_err(|_| bad_field(text))?;
                offset = if negative { -hours } else { hours } * HOUR;
                rest = &rest[length..];
            }
            "TZM" => offset += digits(2)? * MINUTE * if offset < 0 { -1 } else { 1 },
            "MONTH" | "Month" | "month" | "MON" | "Mon" | "mon" | "DAY" | "Day" | "day" | "DY"
            | "Dy" | "dy" => {
                let length = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
                let months = name.to_ascii_uppercase().starts_with("MON");
                let names: &[&str] = if months {
                    month_names()
                } else {
                    weekday_names()
                };
                let lower = rest[..length].to_ascii_lowercase();
                let short = name.len() == 3 && !name.eq_ignore_ascii_case("DAY") || name.len() == 2;
                let found = names
                    .iter()
                    .position(|full| lower.starts_with(if short { &full[..3] } else { full }));
                let found = found.ok_or_else(|| {
                    SqlError::new(
                        ErrorCode::InvalidDatetime,
                        format!("invalid value \"{}\" for \"{name}\"", &rest[..length]),
                    )
                    .with_detail(
                        "The given value did not match any of the allowed values for this field.",
                    )
                })?;
                rest = &rest[if short { 3 } else { names[found].len() }..];
                if months {
                    month = i64::try_from(found + 1).unwrap_or(1);
                }
            }
            other => {
                return Err(SqlError::unsupported(format_args!(
                    "reading the template pattern \"{other}\""
                )));
            }
        }
    }
    if let Some(pm) = pm {
        if !(1..=12).contains(&hour) {
            return Err(SqlError::new(
                ErrorCode::InvalidDatetime,
                format!("hour \"{hour}\" is invalid for the 12-hour clock"),
            )
            .with_hint("Use the 24-hour clock, or give an hour between 1 and 12."));
        }
        hour = hour % 12 + if pm { 12 } else { 0 };
    }
    let year = if bc { 1 - year } else { year };
    let field = |value: i64| u32::try_from(value).map_err(|_| bad_field(text));
    let start = match (epoch_day, day_of_year) {
        (Some(day), _) => day.checked_mul(DAY).ok_or_else(|| bad_field(text))?,
        (None, Some(of_year)) => {
            date_micros(year, 1, 1).ok_or_else(|| bad_field(text))? + (of_year - 1) * DAY
        }
        (None, None) => {
            date_micros(year, field(month)?, field(day)?).ok_or_else(|| bad_field(text))?
        }
    };
    if !(0..24).contains(&hour) || !(0..60).contains(&minute) || micros > DAY {
        return Err(bad_field(text));
    }
    let start = Some(start)
        .filter(|&start| crate::types::datetime::in_range(start))
        .ok_or_else(|| bad_field(text))?;
    Ok(start + hour * HOUR + minute * MINUTE + micros - offset)
}
