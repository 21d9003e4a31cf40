//! to_char, to_date, to_timestamp and to_number: PostgreSQL's template patterns.

use springhead_proto::SqlError;

mod numbers;
mod parse;

use super::support::bounded;
use super::time_fields::iso_week;
use crate::types::datetime::{
    DAY, HOUR, MINUTE, SECOND, civil_from_days, days_from_civil, is_infinite, month_names,
    weekday_names,
};
use crate::types::interval::Interval;

pub(super) use numbers::{number, numeric};
pub(super) use parse::parse;

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
