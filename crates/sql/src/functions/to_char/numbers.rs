//! Numbers by templates: to_char of numerics, and to_number.

use springhead_proto::SqlError;

use crate::functions::support::{bounded, invalid_parameter};
use crate::types::json::into_text;
use crate::types::numeric::{Decimal, Int, Numeric};

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
pub(in crate::functions) fn numeric(value: &Numeric, template: &str) -> Result<String, SqlError> {
    let Numeric::Finite(value) = value else {
        return Err(SqlError::unsupported(
            "to_char() of an infinite number or NaN",
        ));
    };
    bounded(template.len())?;
    let (format, sign_last) = number_format(template)?;
    let rounded = value.round(i32::try_from(format.after.len()).unwrap_or(0));
    let mut text = Vec::new();
    Decimal {
        unscaled: rounded.unscaled.abs(),
        scale: rounded.scale,
    }
    .write(&mut text);
    let text = into_text(text);
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let whole = if whole == "0" { "" } else { whole };
    let mut body = format.whole(whole, fraction);
    if format.point {
        body.push('.');
        body.push_str(&format.fraction(whole, fraction));
    }
    let printed = format.with_sign(&body, rounded.unscaled.is_negative(), sign_last);
    Ok(if format.fill {
        printed
    } else {
        printed.trim().to_owned()
    })
}

impl NumberFormat {
    /// Places for digits before the point.
    fn places(&self) -> usize {
        self.before.iter().filter(|c| **c != ',').count()
    }

    /// What stands before the point.
    fn whole(&self, whole: &str, fraction: &str) -> String {
        let places = self.places();
        let overflow = whole.len() > places;
        let mut body = String::new();
        let (mut place, mut zeros) = (0, false);
        for &c in &self.before {
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
            } else if zeros || (from_end == 1 && self.after.is_empty()) {
                '0'
            } else {
                ' '
            });
        }
        // With a fraction, zero before the point is printed only if asked for, or if it is all there is.
        let all_zero = whole.is_empty() && fraction.bytes().all(|byte| byte == b'0');
        let optional = !self.fill && !self.after.is_empty() && self.after.iter().all(|&c| c == '9');
        if all_zero && optional && !zeros && places > 0 {
            body.pop();
            body.push('0');
        }
        body
    }

    /// What stands behind the point.
    fn fraction(&self, whole: &str, fraction: &str) -> String {
        let kept = if self.fill {
            self.after.len()
        } else {
            let last_zero = self.after.iter().rposition(|&c| c == '0');
            let asked = last_zero.map_or(0, |at| at + 1);
            fraction.trim_end_matches('0').len().max(asked)
        };
        if whole.len() > self.places() {
            "#".repeat(kept)
        } else {
            fraction[..kept].to_owned()
        }
    }

    /// The digits with their sign and currency; `last`: the sign's pattern stands behind them.
    fn with_sign(&self, body: &str, negative: bool, last: bool) -> String {
        let digits = body.trim_start();
        let blanks = " ".repeat(body.len() - digits.len());
        let digits = format!("{}{digits}", if self.currency { "$" } else { "" });
        let of = |minus: &'static str, plus: &'static str| if negative { minus } else { plus };
        // Where a sign may be left out, its place is kept unless FM says otherwise.
        let quiet = of("-", if self.fill { " " } else { "" });
        match (self.sign, last) {
            (Sign::Leading, _) => format!("{blanks}{quiet}{digits}"),
            (Sign::S | Sign::SG, true) => format!("{blanks}{digits}{}", of("-", "+")),
            (Sign::S, false) => format!("{blanks}{}{digits}", of("-", "+")),
            (Sign::SG, false) => format!("{}{blanks}{digits}", of("-", "+")),
            (Sign::MI, true) => format!("{blanks}{digits}{quiet}"),
            (Sign::MI, false) => format!("{}{blanks}{digits}", of("-", " ")),
            (Sign::PL, true) => {
                format!("{blanks}{}{digits}{}", of("-", " "), of(" ", "+"))
            }
            (Sign::PL, false) => {
                format!("{}{blanks}{}{digits}", of(" ", "+"), of("-", " "))
            }
            (Sign::PR, _) => format!("{blanks}{}{digits}{}", of("<", " "), of(">", " ")),
        }
    }
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
pub(in crate::functions) fn number(text: &str, template: &str) -> Result<Numeric, SqlError> {
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
