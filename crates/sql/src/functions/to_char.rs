//! to_char, to_date, to_timestamp and to_number: PostgreSQL's template patterns.

use springhead_proto::{ErrorCode, SqlError};

use super::support::{bounded, invalid_parameter};
use super::times::{bad_field, iso_week};
use crate::types::datetime::{
    DAY, HOUR, MINUTE, SECOND, civil_from_days, date_micros, days_from_civil, is_infinite,
    month_names, weekday_names,
};
use crate::types::interval::Interval;
use crate::types::json::into_text;
use crate::types::numeric::{Decimal, Int, Numeric};

/// The patterns of dates and times, longer ones before their beginnings.
const PATTERNS: [&str; 66] = [
    "A.D.", "A.M.", "AD", "AM", "B.C.", "BC", "CC", "DAY", "Day", "day", "DDD", "DD", "DY", "Dy",
    "dy", "D", "FF1", "FF2", "FF3", "FF4", "FF5", "FF6", "HH24", "HH12", "HH", "IDDD", "ID", "IW",
    "IYYY", "IYY", "IY", "I", "J", "MI", "MM", "MONTH", "Month", "month", "MON", "Mon", "mon",
    "MS", "OF", "P.M.", "PM", "Q", "RM", "SSSSS", "SSSS", "SS", "TZH", "TZM", "TZ", "US", "WW",
    "W", "Y,YYY", "YYYY", "YYY", "YY", "Y", "a.m.", "am", "p.m.", "pm", "tz",
];

/// One piece of a template.
enum Piece<'t> {
    Pattern {
        name: &'static str,
        fill: bool,
        ordinal: Option<bool>,
    },
    Literal(&'t str),
}

fn pieces(template: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = template;
    let mut fill = true;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("FM").or_else(|| rest.strip_prefix("fm")) {
            (fill, rest) = (false, after);
            continue;
        }
        if let Some(quoted) = rest.strip_prefix('"') {
            let end = quoted.find('"').unwrap_or(quoted.len());
            pieces.push(Piece::Literal(&quoted[..end]));
            rest = quoted.get(end + 1..).unwrap_or_default();
            continue;
        }
        let exact = PATTERNS.iter().find(|name| rest.starts_with(**name));
        // Patterns that print digits are the same in either case.
        let folded = || {
            PATTERNS.iter().find(|name| {
                !is_cased(name)
                    && rest
                        .get(..name.len())
                        .is_some_and(|head| head.eq_ignore_ascii_case(name))
            })
        };
        if let Some(name) = exact.or_else(folded) {
            rest = &rest[name.len()..];
            let ordinal = if rest.starts_with("TH") {
                Some(true)
            } else if rest.starts_with("th") {
                Some(false)
            } else {
                None
            };
            if ordinal.is_some() {
                rest = &rest[2..];
            }
            pieces.push(Piece::Pattern {
                name,
                fill,
                ordinal,
            });
            fill = true;
            continue;
        }
        let length = rest.chars().next().map_or(0, char::len_utf8);
        pieces.push(Piece::Literal(&rest[..length]));
        rest = &rest[length..];
    }
    pieces
}

fn is_cased(name: &str) -> bool {
    matches!(
        name.to_ascii_uppercase().as_str(),
        "DAY" | "DY" | "MONTH" | "MON" | "AM" | "PM" | "A.M." | "P.M." | "TZ"
    )
}

/// The fields that a template prints.
struct Fields {
    year: i64,
    month: u32,
    day: u32,
    days: i64,
    micros: i64,
    hour: i64,
}

/// A timestamp by a template.
pub(super) fn timestamp(micros: i64, template: &str) -> Result<String, SqlError> {
    if is_infinite(micros) {
        return Ok(String::new());
    }
    let days = micros.div_euclid(DAY);
    let date = civil_from_days(days);
    let time = micros.rem_euclid(DAY);
    let fields = Fields {
        year: date.year,
        month: date.month,
        day: date.day,
        days,
        micros: time,
        hour: time / HOUR,
    };
    print(&fields, template)
}

/// An interval by a template; names of days and months have no meaning for it.
pub(super) fn interval(interval: Interval, template: &str) -> Result<String, SqlError> {
    let fields = Fields {
        year: (interval.months / 12).into(),
        month: (interval.months % 12).unsigned_abs(),
        day: interval.days.unsigned_abs(),
        days: 0,
        micros: interval.micros % HOUR,
        hour: interval.micros / HOUR,
    };
    print(&fields, template)
}

fn print(fields: &Fields, template: &str) -> Result<String, SqlError> {
    bounded(template.len().saturating_mul(12))?;
    let mut out = String::with_capacity(template.len() + 16);
    for piece in pieces(template) {
        match piece {
            Piece::Literal(text) => out.push_str(text),
            Piece::Pattern {
                name,
                fill,
                ordinal,
            } => {
                let start = out.len();
                print_field(fields, name, fill, &mut out)?;
                if let Some(upper) = ordinal {
                    let suffix = suffix(&out[start..]);
                    out.push_str(&if upper {
                        suffix.to_ascii_uppercase()
                    } else {
                        suffix.to_owned()
                    });
                }
            }
        }
    }
    Ok(out)
}

fn suffix(number: &str) -> &'static str {
    let bytes = number.as_bytes();
    let teen = bytes.len() > 1 && bytes[bytes.len() - 2] == b'1';
    match bytes.last() {
        Some(b'1') if !teen => "st",
        Some(b'2') if !teen => "nd",
        Some(b'3') if !teen => "rd",
        _ => "th",
    }
}

fn print_field(fields: &Fields, name: &str, fill: bool, out: &mut String) -> Result<(), SqlError> {
    let mut number = |value: i64, width: usize| {
        let width = if fill { width } else { 0 };
        let sign = if value < 0 { "-" } else { "" };
        out.push_str(&format!("{sign}{:0width$}", value.unsigned_abs()));
    };
    let year = if fields.year > 0 {
        fields.year
    } else {
        1 - fields.year
    };
    let weekday = (fields.days + 4).rem_euclid(7);
    let twelve = (fields.hour + 11).rem_euclid(12) + 1;
    let fraction = fields.micros % SECOND;
    match name {
        "YYYY" => number(year, 4),
        "YYY" => number(year % 1000, 3),
        "YY" => number(year % 100, 2),
        "Y" => number(year % 10, 1),
        "Y,YYY" => {
            out.push_str(&format!("{},{:03}", year / 1000, year % 1000));
        }
        "IYYY" => number(iso_week(fields.days).0, 4),
        "IYY" => number(iso_week(fields.days).0 % 1000, 3),
        "IY" => number(iso_week(fields.days).0 % 100, 2),
        "I" => number(iso_week(fields.days).0 % 10, 1),
        "CC" => number((year + 99) / 100, 2),
        "Q" => number(fields.month.div_ceil(3).into(), 1),
        "MM" => number(fields.month.into(), 2),
        "DD" => number(fields.day.into(), 2),
        "DDD" => number(fields.days - days_from_civil(fields.year, 1, 1) + 1, 3),
        "IDDD" => {
            let monday = fields.days - (fields.days + 3).rem_euclid(7);
            number(
                (iso_week(fields.days).1 - 1) * 7 + fields.days - monday + 1,
                3,
            );
        }
        "D" => number(weekday + 1, 1),
        "ID" => number((weekday + 6) % 7 + 1, 1),
        "WW" => number(
            (fields.days - days_from_civil(fields.year, 1, 1)) / 7 + 1,
            2,
        ),
        "W" => number((i64::from(fields.day) - 1) / 7 + 1, 1),
        "IW" => number(iso_week(fields.days).1, 2),
        "J" => number(fields.days + 2_440_588, 1),
        "HH24" => number(fields.hour, 2),
        "HH12" | "HH" => number(twelve, 2),
        "MI" => number(fields.micros / MINUTE % 60, 2),
        "SS" => number(fields.micros / SECOND % 60, 2),
        "SSSS" | "SSSSS" => number(fields.hour * 3600 + fields.micros % HOUR / SECOND, 1),
        "MS" | "FF3" => out.push_str(&format!("{:03}", fraction / 1000)),
        "US" | "FF6" => out.push_str(&format!("{fraction:06}")),
        "FF1" => out.push_str(&format!("{:01}", fraction / 100_000)),
        "FF2" => out.push_str(&format!("{:02}", fraction / 10_000)),
        "FF4" => out.push_str(&format!("{:04}", fraction / 100)),
        "FF5" => out.push_str(&format!("{:05}", fraction / 10)),
        "AM" | "PM" => out.push_str(if fields.hour % 24 < 12 { "AM" } else { "PM" }),
        "am" | "pm" => out.push_str(if fields.hour % 24 < 12 { "am" } else { "pm" }),
        "A.M." | "P.M." => out.push_str(if fields.hour % 24 < 12 {
            "A.M."
        } else {
            "P.M."
        }),
        "a.m." | "p.m." => out.push_str(if fields.hour % 24 < 12 {
            "a.m."
        } else {
            "p.m."
        }),
        "AD" | "BC" => out.push_str(if fields.year > 0 { "AD" } else { "BC" }),
        "A.D." | "B.C." => out.push_str(if fields.year > 0 { "A.D." } else { "B.C." }),
        "TZ" => out.push_str("UTC"),
        "tz" => out.push_str("utc"),
        "TZH" | "OF" => out.push_str("+00"),
        "TZM" => out.push_str("00"),
        "RM" => {
            const ROMAN: [&str; 12] = [
                "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII",
            ];
            let width = if fill { 4 } else { 0 };
            out.push_str(&format!("{:<width$}", index(fields.month, 1, &ROMAN)));
        }
        _ => return print_name(fields, name, weekday, fill, out),
    }
    Ok(())
}

/// Names of months and days, blank-padded to nine characters unless short.
fn print_name(
    fields: &Fields,
    name: &str,
    weekday: i64,
    fill: bool,
    out: &mut String,
) -> Result<(), SqlError> {
    let full = match name.to_ascii_uppercase().as_str() {
        "MONTH" | "MON" => index(fields.month, 1, month_names()),
        "DAY" | "DY" => index(u32::try_from(weekday).unwrap_or(0), 0, weekday_names()),
        _ => {
            return Err(SqlError::unsupported(format_args!(
                "the template pattern \"{name}\""
            )));
        }
    };
    let short = name.len() < 4 && !name.eq_ignore_ascii_case("DAY");
    let word = if short { &full[..3] } else { full };
    let cased = if name.bytes().all(|byte| byte.is_ascii_uppercase()) {
        word.to_ascii_uppercase()
    } else if name.starts_with(|c: char| c.is_ascii_uppercase()) {
        word[..1].to_ascii_uppercase() + &word[1..]
    } else {
        word.to_owned()
    };
    let width = if fill && !short { 9 } else { 0 };
    out.push_str(&format!("{cased:<width$}"));
    Ok(())
}

fn index<'n>(at: u32, first: u32, names: &[&'n str]) -> &'n str {
    usize::try_from(at.wrapping_sub(first))
        .ok()
        .and_then(|at| names.get(at))
        .copied()
        .unwrap_or("   ")
}

/// Reads a timestamp by a template; what it does not name is that of 0001-01-01 00:00.
pub(super) fn parse(text: &str, template: &str) -> Result<i64, SqlError> {
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

/// What a number's template asks for.
#[derive(Default)]
struct NumberFormat {
    fill: bool,
    /// Digit places before the point, first to last; `true` for those that are always printed.
    before: Vec<char>,
    after: Vec<char>,
    point: bool,
    sign: Sign,
    currency: bool,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Sign {
    #[default]
    Leading,
    S,
    MI,
    PL,
    SG,
    PR,
}

/// A number by a template: 9, 0, `.`, D, `,`, G, FM, S, MI, PL, SG, PR, $ and L.
pub(super) fn numeric(value: &Numeric, template: &str) -> Result<String, SqlError> {
    let Numeric::Finite(value) = value else {
        return Err(SqlError::unsupported(
            "to_char() of an infinite number or NaN",
        ));
    };
    bounded(template.len())?;
    let (format, sign_last) = number_format(template)?;
    let scale = i32::try_from(format.after.len()).unwrap_or(0);
    let rounded = value.round(scale);
    let negative = rounded.unscaled.is_negative();
    let mut text = Vec::new();
    Decimal {
        unscaled: rounded.unscaled.abs(),
        scale: rounded.scale,
    }
    .write(&mut text);
    let text = into_text(text);
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let whole = if whole == "0" { "" } else { whole };
    let places = format
        .before
        .iter()
        .filter(|c| matches!(c, '9' | '0'))
        .count();
    let overflow = whole.len() > places;
    let mut body = String::new();
    let mut place = 0;
    let mut zeros = false;
    for &c in &format.before {
        if c == ',' {
            // Nothing to separate yet.
            body.push(if body.trim().is_empty() { ' ' } else { ',' });
            continue;
        }
        zeros |= c == '0';
        let from_end = places - place;
        place += 1;
        body.push(if overflow {
            '#'
        } else if from_end <= whole.len() {
            char::from(whole.as_bytes()[whole.len() - from_end])
        } else if zeros || (from_end == 1 && format.after.is_empty()) {
            '0'
        } else {
            ' '
        });
    }
    // With a fraction, zero before the point is not printed unless asked for.
    if whole.is_empty()
        && !zeros
        && !format.after.is_empty()
        && places > 0
        && !overflow
        && !format.fill
    {
        let needed =
            format.after.iter().all(|&c| c == '9') && fraction.bytes().all(|byte| byte == b'0');
        if needed {
            body.pop();
            body.push('0');
        }
    }
    if format.point {
        body.push('.');
        let kept = if format.fill {
            format.after.len()
        } else {
            let last_zero = format
                .after
                .iter()
                .rposition(|&c| c == '0')
                .map_or(0, |at| at + 1);
            fraction.trim_end_matches('0').len().max(last_zero)
        };
        for at in 0..kept {
            body.push(if overflow {
                '#'
            } else {
                char::from(fraction.as_bytes()[at])
            });
        }
    }
    let digits = body.trim_start();
    let blanks = " ".repeat(body.len() - digits.len());
    let currency = if format.currency { "$" } else { "" };
    let printed = match format.sign {
        Sign::Leading => {
            let sign = if negative {
                "-"
            } else if format.fill {
                " "
            } else {
                ""
            };
            format!("{blanks}{sign}{currency}{digits}")
        }
        Sign::S if sign_last => format!(
            "{blanks}{currency}{digits}{}",
            if negative { '-' } else { '+' }
        ),
        Sign::S => format!(
            "{blanks}{}{currency}{digits}",
            if negative { '-' } else { '+' }
        ),
        Sign::SG if sign_last => format!(
            "{blanks}{currency}{digits}{}",
            if negative { '-' } else { '+' }
        ),
        Sign::SG => format!(
            "{}{blanks}{currency}{digits}",
            if negative { '-' } else { '+' }
        ),
        Sign::MI if sign_last => format!(
            "{blanks}{currency}{digits}{}",
            if negative {
                "-"
            } else if format.fill {
                " "
            } else {
                ""
            }
        ),
        Sign::MI => format!(
            "{}{blanks}{currency}{digits}",
            if negative { "-" } else { " " }
        ),
        Sign::PL if sign_last => format!(
            "{blanks}{}{currency}{digits}{}",
            if negative { "-" } else { " " },
            if negative { " " } else { "+" }
        ),
        Sign::PL => format!(
            "{}{blanks}{}{currency}{digits}",
            if negative { " " } else { "+" },
            if negative { "-" } else { " " }
        ),
        Sign::PR if negative => format!("{blanks}<{currency}{digits}>"),
        Sign::PR => format!("{blanks} {currency}{digits} "),
    };
    Ok(if format.fill {
        printed
    } else {
        printed.trim().to_owned()
    })
}

fn number_format(template: &str) -> Result<(NumberFormat, bool), SqlError> {
    let mut format = NumberFormat {
        fill: true,
        ..NumberFormat::default()
    };
    let mut sign_last = false;
    let mut rest = template;
    while let Some(c) = rest.chars().next() {
        let pair = rest.get(..2).unwrap_or_default().to_ascii_uppercase();
        let digits_seen = !format.before.is_empty() || format.point;
        let sign = match pair.as_str() {
            "FM" => {
                format.fill = false;
                rest = &rest[2..];
                continue;
            }
            "MI" => Some(Sign::MI),
            "PL" => Some(Sign::PL),
            "SG" => Some(Sign::SG),
            "PR" => Some(Sign::PR),
            _ => None,
        };
        if let Some(sign) = sign {
            (format.sign, sign_last) = (sign, digits_seen);
            rest = &rest[2..];
            continue;
        }
        match c {
            '9' | '0' if format.point => format.after.push(c),
            '9' | '0' => format.before.push(c),
            ',' | 'G' | 'g' => format.before.push(','),
            '.' | 'D' | 'd' => format.point = true,
            'S' | 's' => (format.sign, sign_last) = (Sign::S, digits_seen),
            '$' | 'L' | 'l' => format.currency = true,
            other => {
                return Err(SqlError::unsupported(format_args!(
                    "\"{other}\" in a number's template"
                )));
            }
        }
        rest = &rest[c.len_utf8()..];
    }
    Ok((format, sign_last))
}

/// Reads a number by a template: its digits, sign and point; all else is skipped.
pub(super) fn number(text: &str, template: &str) -> Result<Numeric, SqlError> {
    let (format, _) = number_format(template)?;
    let mut digits = Vec::new();
    let (mut scale, mut fraction, mut negative) = (0, false, false);
    for c in text.chars() {
        match c {
            '0'..='9' => {
                if fraction && scale >= format.after.len() {
                    break;
                }
                digits.push(u8::try_from(c).unwrap_or(b'0'));
                scale += usize::from(fraction);
            }
            '.' if format.point && !fraction => fraction = true,
            '.' => break,
            '-' | '<' => negative = true,
            _ => {}
        }
    }
    if digits.is_empty() {
        return Err(invalid_parameter(format!(
            "invalid input syntax for type numeric: \"{text}\""
        )));
    }
    let unscaled = Int::from_digits(&digits);
    let unscaled = if negative { unscaled.neg() } else { unscaled };
    Ok(Numeric::Finite(Decimal {
        unscaled,
        scale: u32::try_from(scale).unwrap_or(0),
    }))
}
