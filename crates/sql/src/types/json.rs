//! json and jsonb: validation, jsonb's normal form, and writing strings fast.
//!
//! A value is parsed into [`Json`], which keeps each number's text, so that no digit is lost.
//! jsonb's normal form is what PostgreSQL prints: keys ordered by length, then by bytes; of equal
//! keys the last; `, ` and `: ` between; numbers as numeric prints them.

use std::borrow::Cow;
use std::cmp::Ordering;

use springhead_proto::{ErrorCode, SqlError};

use super::numeric::Numeric;

/// How deep arrays and objects may nest.
pub const MAX_DEPTH: usize = 512;

/// A parsed JSON value. Objects keep their members' order and duplicates.
#[derive(Debug, Clone, PartialEq)]
pub enum Json<'t> {
    Null,
    Bool(bool),
    /// As written.
    Number(Cow<'t, str>),
    String(Cow<'t, str>),
    Array(Vec<Json<'t>>),
    Object(Vec<(Cow<'t, str>, Json<'t>)>),
}

/// Checks a text to be JSON.
pub(crate) fn validate(text: &str) -> Result<(), SqlError> {
    parse(text).map(drop)
}

/// The jsonb form of a JSON text.
pub(crate) fn normalise(text: &str) -> Result<String, SqlError> {
    let json = parse(text)?.into_jsonb()?;
    let mut out = Vec::with_capacity(text.len());
    json.write_jsonb(&mut out);
    Ok(into_text(out))
}

/// Parses a JSON text.
///
/// # Errors
/// 22P02 if it is none, 54001 if it nests too deep, 0A000 for `\u0000`.
pub fn parse(text: &str) -> Result<Json<'_>, SqlError> {
    let mut parser = Parser { text, at: 0 };
    let value = parser.value(0)?;
    parser.skip();
    if parser.at < text.len() {
        return Err(parser.invalid());
    }
    Ok(value)
}

/// What the writers here make is UTF-8.
pub(crate) fn into_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("made of whole texts and ASCII")
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let taken = self.peek() == Some(byte);
        self.at += usize::from(taken);
        taken
    }

    fn invalid(&self) -> SqlError {
        let rest = &self.text[self.text.floor_char_boundary(self.at)..];
        let error = SqlError::new(
            ErrorCode::InvalidTextRepresentation,
            "invalid input syntax for type json",
        );
        let token = rest
            .split_inclusive([' ', ',', ':', '{', '}', '[', ']', '\n'])
            .next()
            .unwrap_or_default();
        if token.trim().is_empty() {
            error.with_detail("The input string ended unexpectedly.")
        } else {
            let shown = &token[..token.floor_char_boundary(64)];
            let shown = if shown.len() > 1 {
                shown.trim_end_matches([' ', ',', ':', '{', '}', '[', ']', '\n'])
            } else {
                shown
            };
            error.with_detail(format!("Token \"{shown}\" is invalid."))
        }
    }

    fn value(&mut self, depth: usize) -> Result<Json<'t>, SqlError> {
        if depth > MAX_DEPTH {
            return Err(SqlError::new(
                ErrorCode::TooComplex,
                format!("json nests deeper than {MAX_DEPTH} levels"),
            ));
        }
        self.skip();
        match self.peek() {
            Some(b'"') => self.string().map(Json::String),
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => {
                for (word, value) in [
                    ("true", Json::Bool(true)),
                    ("false", Json::Bool(false)),
                    ("null", Json::Null),
                ] {
                    if self.text[self.at..].starts_with(word) {
                        self.at += word.len();
                        if self.peek().is_some_and(|byte| {
                            byte.is_ascii_alphanumeric() || byte >= 0x80 || byte == b'_'
                        }) {
                            return Err(self.invalid());
                        }
                        return Ok(value);
                    }
                }
                Err(self.invalid())
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json<'t>, SqlError> {
        self.at += 1;
        let mut members = Vec::new();
        self.skip();
        if self.take(b'}') {
            return Ok(Json::Object(members));
        }
        loop {
            self.skip();
            if self.peek() != Some(b'"') {
                return Err(self.invalid());
            }
            let key = self.string()?;
            self.skip();
            if !self.take(b':') {
                return Err(self.invalid());
            }
            members.push((key, self.value(depth + 1)?));
            self.skip();
            if self.take(b'}') {
                return Ok(Json::Object(members));
            }
            if !self.take(b',') {
                return Err(self.invalid());
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Json<'t>, SqlError> {
        self.at += 1;
        let mut elements = Vec::new();
        self.skip();
        if self.take(b']') {
            return Ok(Json::Array(elements));
        }
        loop {
            elements.push(self.value(depth + 1)?);
            self.skip();
            if self.take(b']') {
                return Ok(Json::Array(elements));
            }
            if !self.take(b',') {
                return Err(self.invalid());
            }
        }
    }

    fn number(&mut self) -> Result<Json<'t>, SqlError> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') && self.digits() == 0 {
            return Err(self.invalid());
        }
        if self.take(b'.') && self.digits() == 0 {
            return Err(self.invalid());
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            if self.digits() == 0 {
                return Err(self.invalid());
            }
        }
        if self
            .peek()
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            self.at = start;
            return Err(self.invalid());
        }
        Ok(Json::Number(Cow::Borrowed(&self.text[start..self.at])))
    }

    fn digits(&mut self) -> usize {
        let count = self.text.as_bytes()[self.at..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        self.at += count;
        count
    }

    fn string(&mut self) -> Result<Cow<'t, str>, SqlError> {
        self.at += 1;
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut owned: Option<String> = None;
        let mut copied = start;
        loop {
            match bytes.get(self.at) {
                Some(b'"') => {
                    let tail = &self.text[copied..self.at];
                    self.at += 1;
                    return Ok(match owned {
                        None => Cow::Borrowed(tail),
                        Some(mut text) => {
                            text.push_str(tail);
                            Cow::Owned(text)
                        }
                    });
                }
                Some(b'\\') => {
                    let text = owned.get_or_insert_default();
                    text.push_str(&self.text[copied..self.at]);
                    self.at += 1;
                    let c = self.escape()?;
                    if let Some(text) = &mut owned {
                        text.push(c);
                    }
                    copied = self.at;
                }
                Some(0..0x20) | None => return Err(self.invalid()),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<char, SqlError> {
        let byte = self.peek().ok_or_else(|| self.invalid())?;
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.hex4()?;
                let code = if (0xd800..0xdc00).contains(&first) {
                    if !(self.take(b'\\') && self.take(b'u')) {
                        return Err(self.invalid());
                    }
                    let second = self.hex4()?;
                    if !(0xdc00..0xe000).contains(&second) {
                        return Err(self.invalid());
                    }
                    0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
                } else {
                    first
                };
                if code == 0 {
                    return Err(SqlError::new(
                        ErrorCode::UntranslatableCharacter,
                        "unsupported Unicode escape sequence",
                    )
                    .with_detail("\\u0000 cannot be converted to text."));
                }
                char::from_u32(code).ok_or_else(|| self.invalid())?
            }
            _ => return Err(self.invalid()),
        })
    }

    fn hex4(&mut self) -> Result<u32, SqlError> {
        let digits = self
            .text
            .as_bytes()
            .get(self.at..self.at + 4)
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let value = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .ok_or_else(|| self.invalid())?;
        self.at += 4;
        Ok(value)
    }
}

impl<'t> Json<'t> {
    /// With its objects' keys in jsonb's order, each once, and its numbers in normal form.
    ///
    /// # Errors
    /// 22003 for a number with too many digits.
    pub fn into_jsonb(self) -> Result<Json<'t>, SqlError> {
        Ok(match self {
            Json::Number(text) => Json::Number(jsonb_number(text)?),
            Json::Array(elements) => Json::Array(
                elements
                    .into_iter()
                    .map(Json::into_jsonb)
                    .collect::<Result<_, _>>()?,
            ),
            Json::Object(members) => {
                let members = members
                    .into_iter()
                    .map(|(key, value)| Ok((key, value.into_jsonb()?)))
                    .collect::<Result<Vec<_>, SqlError>>()?;
                Json::Object(unique_members(members))
            }
            other => other,
        })
    }

    /// As jsonb prints it; it must be in its normal form.
    pub fn write_jsonb(&self, out: &mut Vec<u8>) {
        self.write(out, b", ", b": ");
    }

    /// Without white space.
    pub fn write_compact(&self, out: &mut Vec<u8>) {
        self.write(out, b",", b":");
    }

    fn write(&self, out: &mut Vec<u8>, comma: &[u8], colon: &[u8]) {
        match self {
            Json::Null => out.extend_from_slice(b"null"),
            Json::Bool(true) => out.extend_from_slice(b"true"),
            Json::Bool(false) => out.extend_from_slice(b"false"),
            Json::Number(text) => out.extend_from_slice(text.as_bytes()),
            Json::String(text) => write_string(text, out),
            Json::Array(elements) => {
                out.push(b'[');
                for (index, element) in elements.iter().enumerate() {
                    if index > 0 {
                        out.extend_from_slice(comma);
                    }
                    element.write(out, comma, colon);
                }
                out.push(b']');
            }
            Json::Object(members) => {
                out.push(b'{');
                for (index, (key, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.extend_from_slice(comma);
                    }
                    write_string(key, out);
                    out.extend_from_slice(colon);
                    value.write(out, comma, colon);
                }
                out.push(b'}');
            }
        }
    }

    /// The member of that name, the last if there are several; `None` if it is no object or has none.
    #[must_use]
    pub fn member(&self, key: &str) -> Option<&Json<'t>> {
        match self {
            Json::Object(members) => members
                .iter()
                .rev()
                .find(|(name, _)| name == key)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    /// The element at that place, from the end if negative; `None` if it is no array or has none.
    #[must_use]
    pub fn element(&self, index: i64) -> Option<&Json<'t>> {
        match self {
            Json::Array(elements) => elements.get(place(index, elements.len())?),
            _ => None,
        }
    }

    /// jsonb's equality: numbers by value.
    #[must_use]
    pub fn equals(&self, other: &Json<'_>) -> bool {
        match (self, other) {
            (Json::Null, Json::Null) => true,
            (Json::Bool(a), Json::Bool(b)) => a == b,
            (Json::Number(a), Json::Number(b)) => {
                a == b || compare_numbers(a, b) == Ordering::Equal
            }
            (Json::String(a), Json::String(b)) => a == b,
            (Json::Array(a), Json::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.equals(b))
            }
            (Json::Object(a), Json::Object(b)) => {
                a.len() == b.len()
                    && a.iter()
                        .zip(b)
                        .all(|((k, a), (l, b))| k == l && a.equals(b))
            }
            _ => false,
        }
    }
}

/// An index from the end if negative; `None` past either end.
pub(crate) fn place(index: i64, length: usize) -> Option<usize> {
    let index = if index < 0 {
        index + i64::try_from(length).ok()?
    } else {
        index
    };
    usize::try_from(index).ok().filter(|&index| index < length)
}

fn compare_numbers(a: &str, b: &str) -> Ordering {
    match (Numeric::parse(a), Numeric::parse(b)) {
        (Ok(a), Ok(b)) => a.compare(&b),
        _ => a.cmp(b),
    }
}

/// jsonb's order of keys: by length in bytes, then by bytes.
pub(crate) fn key_order(a: &str, b: &str) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// In jsonb's order, of equal keys the last.
pub(crate) fn unique_members<'t>(
    mut members: Vec<(Cow<'t, str>, Json<'t>)>,
) -> Vec<(Cow<'t, str>, Json<'t>)> {
    // Stable, so that of equal keys the last stays last.
    members.sort_by(|(a, _), (b, _)| key_order(a, b));
    let mut unique: Vec<(Cow<'t, str>, Json<'t>)> = Vec::with_capacity(members.len());
    for member in members {
        match unique.last_mut() {
            Some(last) if last.0 == member.0 => *last = member,
            _ => unique.push(member),
        }
    }
    unique
}

/// As numeric prints it: no exponent, no `+`, no negative zero.
fn jsonb_number(text: Cow<'_, str>) -> Result<Cow<'_, str>, SqlError> {
    if !text.bytes().any(|byte| matches!(byte, b'e' | b'E')) && !text.starts_with("-0") {
        return Ok(text);
    }
    let mut out = Vec::new();
    Numeric::parse(&text)?.write(&mut out);
    Ok(Cow::Owned(into_text(out)))
}

/// Writes a JSON string with its quotes, escaped as PostgreSQL does.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    write_string_inside(text, out);
    out.push(b'"');
}

/// Writes the inside of a JSON string, escaped as PostgreSQL does: control characters never raw.
pub fn write_string_inside(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    let mut copied = 0;
    while let Some(found) = first_special(&bytes[copied..]) {
        let at = copied + found;
        out.extend_from_slice(&bytes[copied..at]);
        copied = at + 1;
        let short = match bytes[at] {
            byte @ (b'"' | b'\\') => byte,
            0x08 => b'b',
            0x0c => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            byte => {
                out.extend_from_slice(b"\\u00");
                super::bytea::write_hex(&[byte], out);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
    }
    out.extend_from_slice(&bytes[copied..]);
}

/// Where the first byte is that a JSON string must escape. Eight bytes at a time: most texts have
/// none.
fn first_special(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let is_special = |&byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
    // The usual test for a zero byte in a word, applied to what is zero where the byte is equal.
    let has_zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, chunk) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*chunk);
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        if control | has_zero(word ^ (ONES * 0x22)) | has_zero(word ^ (ONES * 0x5c)) != 0 {
            // A borrow may mark a byte too many, so that each is looked at here.
            if let Some(at) = chunk.iter().position(is_special) {
                return Some(index * 8 + at);
            }
        }
    }
    rest.iter()
        .position(is_special)
        .map(|at| words.len() * 8 + at)
}
