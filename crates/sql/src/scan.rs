//! Finds where PostgreSQL's tokens begin and end, without copying them.
//!
//! [`crate::split`] and [`crate::lift`] walk statements with it, long before (and often instead of)
//! a parse. It follows PostgreSQL's lexical rules with `standard_conforming_strings` on.

use springhead_proto::SqlError;

use crate::split::unterminated;

/// What a token is; its text is a range of the statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// An identifier or key word, not quoted.
    Word,
    /// `"…"`.
    QuotedIdentifier,
    /// `'…'`.
    String,
    /// `E'…'`.
    EscapeString,
    /// `N'…'`.
    NationalString,
    /// `B'…'`, `X'…'`, `U&'…'`, `U&"…"`.
    OtherString,
    /// `$tag$…$tag$`.
    DollarString,
    /// Digits alone.
    Integer,
    /// With a point or an exponent.
    Decimal,
    /// A number in another form (`0x1f`, `1_000`), or digits that run into letters.
    OtherNumber,
    /// `$1`.
    Parameter,
    /// One character of an operator or of punctuation.
    Symbol(u8),
    End,
}

/// The token at or after `at`: what it is, where it begins, where it ends (exclusive).
///
/// # Errors
/// 42601 for a quote or comment that never ends.
pub(crate) fn next(text: &str, at: usize) -> Result<(Token, usize, usize), SqlError> {
    let bytes = text.as_bytes();
    let at = skip_blanks(text, at)?;
    let Some(&byte) = bytes.get(at) else {
        return Ok((Token::End, at, at));
    };
    let after = bytes.get(at + 1).copied().unwrap_or(0);
    match byte {
        b'\'' => Ok((
            Token::String,
            at,
            quoted_end(text, at, b'\'', "quoted string")?,
        )),
        b'"' => Ok((
            Token::QuotedIdentifier,
            at,
            quoted_end(text, at, b'"', "quoted identifier")?,
        )),
        b'e' | b'E' if after == b'\'' => Ok((Token::EscapeString, at, escaped_end(text, at + 1)?)),
        b'n' | b'N' if after == b'\'' => Ok((
            Token::NationalString,
            at,
            quoted_end(text, at + 1, b'\'', "quoted string")?,
        )),
        b'b' | b'B' | b'x' | b'X' if after == b'\'' => Ok((
            Token::OtherString,
            at,
            quoted_end(text, at + 1, b'\'', "bit string literal")?,
        )),
        b'u' | b'U' if after == b'&' && matches!(bytes.get(at + 2), Some(b'\'' | b'"')) => Ok((
            Token::OtherString,
            at,
            quoted_end(text, at + 2, bytes[at + 2], "quoted string")?,
        )),
        b'$' => dollar(text, at),
        b'0'..=b'9' => Ok(number(bytes, at)),
        b'.' if after.is_ascii_digit() => Ok(number(bytes, at)),
        _ if is_word_start(byte) => {
            let end = bytes[at..]
                .iter()
                .position(|&b| !is_word_part(b))
                .map_or(bytes.len(), |n| at + n);
            Ok((Token::Word, at, end))
        }
        _ => Ok((Token::Symbol(byte), at, at + 1)),
    }
}

fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

pub(crate) fn is_word_part(byte: u8) -> bool {
    is_word_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

fn skip_blanks(text: &str, mut at: usize) -> Result<usize, SqlError> {
    let bytes = text.as_bytes();
    loop {
        match bytes.get(at) {
            Some(b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c) => at += 1,
            Some(b'-') if bytes.get(at + 1) == Some(&b'-') => {
                at = bytes[at..]
                    .iter()
                    .position(|&b| b == b'\n' || b == b'\r')
                    .map_or(bytes.len(), |n| at + n);
            }
            Some(b'/') if bytes.get(at + 1) == Some(&b'*') => at = comment_end(text, at)?,
            _ => return Ok(at),
        }
    }
}

fn comment_end(text: &str, start: usize) -> Result<usize, SqlError> {
    let bytes = text.as_bytes();
    let mut depth = 0usize;
    let mut at = start;
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'/', Some(b'*')) => {
                depth += 1;
                at += 2;
            }
            (b'*', Some(b'/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Ok(at);
                }
            }
            _ => at += 1,
        }
    }
    Err(unterminated("/* comment", text, start))
}

/// The end of a quoted text whose opening quote is at `open`; a doubled quote stands for one.
fn quoted_end(text: &str, open: usize, quote: u8, what: &str) -> Result<usize, SqlError> {
    let bytes = text.as_bytes();
    let mut at = open + 1;
    while let Some(found) = bytes[at..].iter().position(|&b| b == quote) {
        at += found + 1;
        if bytes.get(at) != Some(&quote) {
            return Ok(at);
        }
        at += 1;
    }
    Err(unterminated(
        &format!("{what} at or near \"{}\"", &text[open..]),
        text,
        open,
    ))
}

fn escaped_end(text: &str, open: usize) -> Result<usize, SqlError> {
    let bytes = text.as_bytes();
    let mut at = open + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'\'' if bytes.get(at + 1) == Some(&b'\'') => at += 2,
            b'\'' => return Ok(at + 1),
            _ => at += 1,
        }
    }
    Err(unterminated("quoted string", text, open))
}

/// `$1`, `$tag$…$tag$`, or a lone dollar.
fn dollar(text: &str, start: usize) -> Result<(Token, usize, usize), SqlError> {
    let bytes = text.as_bytes();
    let tail = &bytes[start + 1..];
    let digits = tail.iter().take_while(|b| b.is_ascii_digit()).count();
    if digits > 0 {
        return Ok((Token::Parameter, start, start + 1 + digits));
    }
    let tag = tail
        .iter()
        .take_while(|&&b| is_word_part(b) && b != b'$')
        .count();
    if tail.get(tag) != Some(&b'$') {
        return Ok((Token::Symbol(b'$'), start, start + 1));
    }
    let delimiter = &text[start..start + tag + 2];
    let body = start + delimiter.len();
    match text[body..].find(delimiter) {
        Some(found) => Ok((Token::DollarString, start, body + found + delimiter.len())),
        None => Err(unterminated("dollar-quoted string", text, start)),
    }
}

fn number(bytes: &[u8], start: usize) -> (Token, usize, usize) {
    let digits = |at: usize| {
        bytes[at..]
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .count()
    };
    let mut at = start + digits(start);
    let mut token = Token::Integer;
    // `1..10` is a range, not a decimal.
    if bytes.get(at) == Some(&b'.') && bytes.get(at + 1) != Some(&b'.') {
        token = Token::Decimal;
        at += 1;
        at += digits(at);
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let exponent = if at + 1 + sign <= bytes.len() {
            digits(at + 1 + sign)
        } else {
            0
        };
        if exponent > 0 {
            token = Token::Decimal;
            at += 1 + sign + exponent;
        }
    }
    let run_on = bytes[at..].iter().take_while(|&&b| is_word_part(b)).count();
    if run_on > 0 {
        return (Token::OtherNumber, start, at + run_on);
    }
    (token, start, at)
}
