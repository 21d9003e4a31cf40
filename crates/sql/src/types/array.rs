//! Arrays: stored as compact JSON (what `row_to_json` prints), read and printed as `{…}`.

use springhead_proto::{ErrorCode, SqlError, Value};

use super::json::{self, Json};
use super::{PgType, input, input_json, interval, numeric, output_json, output_text};

/// The deepest array.
const MAX_DIMENSIONS: usize = 6;

/// Reads `{1,2,NULL,"quoted, text"}`, nested to any of PostgreSQL's six dimensions.
pub(crate) fn read(element: &PgType, text: &str) -> Result<String, SqlError> {
    let mut reader = Reader {
        text,
        at: 0,
        element,
        out: Vec::with_capacity(text.len()),
    };
    reader.skip();
    if reader.peek() == Some(b'[') {
        return Err(SqlError::unsupported(
            "an array whose bounds do not start at 1",
        ));
    }
    reader.array(1)?;
    reader.skip();
    if reader.at < text.len() {
        return Err(reader.malformed("Junk after closing right brace."));
    }
    Ok(json::into_text(reader.out))
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    element: &'t PgType,
    out: Vec<u8>,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn malformed(&self, detail: &str) -> SqlError {
        SqlError::new(
            ErrorCode::InvalidTextRepresentation,
            format!("malformed array literal: \"{}\"", self.text),
        )
        .with_detail(detail)
    }

    /// The array that starts here; gives its shape, outermost length first.
    fn array(&mut self, depth: usize) -> Result<Vec<usize>, SqlError> {
        if self.peek() != Some(b'{') {
            return Err(
                self.malformed("Array value must start with \"{\" or dimension information.")
            );
        }
        if depth > MAX_DIMENSIONS {
            return Err(SqlError::new(
                ErrorCode::StatementTooLarge,
                format!(
                    "number of array dimensions exceeds the maximum allowed ({MAX_DIMENSIONS})"
                ),
            ));
        }
        self.at += 1;
        self.out.push(b'[');
        let mut count = 0;
        let mut shape: Option<Vec<usize>> = None;
        loop {
            self.skip();
            match self.peek() {
                Some(b'}') if count == 0 => break,
                Some(b'{') => {
                    if count > 0 {
                        self.out.push(b',');
                    }
                    let inner = self.array(depth + 1)?;
                    if count > 0 && shape.as_ref() != Some(&inner) {
                        return Err(self.malformed("Multidimensional arrays must have sub-arrays with matching dimensions."));
                    }
                    shape = Some(inner);
                }
                _ => {
                    if shape.is_some() {
                        return Err(self.malformed("Unexpected array element."));
                    }
                    if count > 0 {
                        self.out.push(b',');
                    }
                    self.element()?;
                }
            }
            count += 1;
            self.skip();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                Some(_) => return Err(self.malformed("Unexpected array element.")),
                None => return Err(self.malformed("Unexpected end of input.")),
            }
        }
        self.at += 1;
        self.out.push(b']');
        let mut dimensions = vec![count];
        dimensions.extend(shape.unwrap_or_default());
        Ok(dimensions)
    }

    fn element(&mut self) -> Result<(), SqlError> {
        let quoted = self.peek() == Some(b'"');
        let mut text = Vec::new();
        let bytes = self.text.as_bytes();
        if quoted {
            self.at += 1;
            loop {
                match bytes.get(self.at) {
                    Some(b'"') => break self.at += 1,
                    Some(b'\\') if self.at + 1 < bytes.len() => {
                        text.push(bytes[self.at + 1]);
                        self.at += 2;
                    }
                    Some(b'\\') | None => return Err(self.malformed("Unexpected end of input.")),
                    Some(&byte) => {
                        text.push(byte);
                        self.at += 1;
                    }
                }
            }
        } else {
            // Blanks before the delimiter are no part of it, unless they are escaped.
            let mut solid = 0;
            loop {
                match bytes.get(self.at) {
                    Some(b',' | b'}') => break,
                    Some(b'\\') if self.at + 1 < bytes.len() => {
                        text.push(bytes[self.at + 1]);
                        self.at += 2;
                        solid = text.len();
                    }
                    Some(b'{' | b'"') => return Err(self.malformed("Unexpected array element.")),
                    Some(b'\\') | None => return Err(self.malformed("Unexpected end of input.")),
                    Some(&byte) => {
                        text.push(byte);
                        self.at += 1;
                        if !byte.is_ascii_whitespace() {
                            solid = text.len();
                        }
                    }
                }
            }
            text.truncate(solid);
            if text.is_empty() {
                return Err(self.malformed("Unexpected \",\" or \"}\" character."));
            }
        }
        let text = String::from_utf8(text).map_err(|_| self.malformed("It is not UTF-8."))?;
        if !quoted && text.eq_ignore_ascii_case("null") {
            self.out.extend_from_slice(b"null");
            return Ok(());
        }
        let value = input(self.element, &text)?;
        output_json(self.element, value.as_ref(), &mut self.out);
        Ok(())
    }
}

/// Prints the stored form as `{…}`.
pub(crate) fn write(element: &PgType, stored: &str, out: &mut Vec<u8>) {
    match json::parse(stored) {
        Ok(json @ Json::Array(_)) => write_level(element, &json, out),
        _ => out.extend_from_slice(stored.as_bytes()),
    }
}

fn write_level(element: &PgType, json: &Json<'_>, out: &mut Vec<u8>) {
    match json {
        Json::Array(elements) => {
            out.push(b'{');
            for (index, value) in elements.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                match value {
                    Json::Array(_) if !is_json(element) => write_level(element, value, out),
                    _ => write_element(element, value, out),
                }
            }
            out.push(b'}');
        }
        other => write_element(element, other, out),
    }
}

/// json[] has one dimension here: arrays within are its elements.
const fn is_json(ty: &PgType) -> bool {
    matches!(ty, PgType::Json | PgType::Jsonb)
}

fn write_element(element: &PgType, json: &Json<'_>, out: &mut Vec<u8>) {
    if *json == Json::Null && !is_json(element) {
        return out.extend_from_slice(b"NULL");
    }
    let mut text = Vec::new();
    match decode_element(element, json) {
        Ok(value) => output_text(element, value.as_ref(), &mut text),
        Err(_) => json.write_compact(&mut text),
    }
    let plain = !text.is_empty()
        && !text.eq_ignore_ascii_case(b"null")
        && !text.iter().any(|byte| {
            byte.is_ascii_whitespace() || matches!(byte, b'{' | b'}' | b',' | b'"' | b'\\' | 0x0b)
        });
    if plain {
        return out.extend_from_slice(&text);
    }
    out.push(b'"');
    for byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

/// The value of an element, from its JSON form in the stored array.
///
/// # Errors
/// If it is no such value.
pub fn decode_element(element: &PgType, json: &Json<'_>) -> Result<Value, SqlError> {
    Ok(match json {
        Json::Null if !is_json(element) => Value::Null,
        Json::Bool(value) if *element == PgType::Bool => Value::Integer(i64::from(*value)),
        Json::Number(text) if !is_json(element) => input(element, text)?,
        Json::String(text) if matches!(element, PgType::Record(_)) => Value::Text(text.to_string()),
        Json::String(text) if !is_json(element) => input(element, text)?,
        other => {
            let mut text = Vec::new();
            if *element == PgType::Jsonb {
                other.write_jsonb(&mut text)
            } else {
                other.write_compact(&mut text)
            }
            Value::Text(json::into_text(text))
        }
    })
}

/// The elements of a stored array, one dimension of it; `None` for what is no array.
///
/// # Errors
/// If an element is no value of the type.
pub fn elements(element: &PgType, stored: &str) -> Result<Vec<Value>, SqlError> {
    match json::parse(stored)? {
        Json::Array(elements) => elements
            .iter()
            .map(|json| decode_element(element, json))
            .collect(),
        _ => Err(SqlError::new(
            ErrorCode::Corrupted,
            "a stored array is no JSON array",
        )),
    }
}

/// What a stored array is ordered by: element by element, NULL after all else, then the shorter first,
/// then by dimensions.
///
/// ```text
/// (1, the element's own key | 2 for NULL)*, 0, for each dimension its length (u32)
/// ```
///
/// # Errors
/// If an element is no value of the type.
pub(crate) fn order_key(element: &PgType, stored: &str) -> Result<Vec<u8>, SqlError> {
    let (mut key, mut lengths) = (Vec::with_capacity(stored.len() * 2), Vec::new());
    push_order(element, &json::parse(stored)?, &mut key, &mut lengths, 0)?;
    key.push(0);
    for length in lengths {
        key.extend_from_slice(&length.to_be_bytes());
    }
    Ok(key)
}

fn push_order(
    element: &PgType,
    json: &Json<'_>,
    key: &mut Vec<u8>,
    lengths: &mut Vec<u32>,
    depth: usize,
) -> Result<(), SqlError> {
    if let Json::Array(elements) = json {
        if lengths.len() == depth && !elements.is_empty() {
            lengths.push(u32::try_from(elements.len()).unwrap_or(u32::MAX));
        }
        return elements
            .iter()
            .try_for_each(|json| push_order(element, json, key, lengths, depth + 1));
    }
    key.push(1);
    match decode_element(element, json)? {
        Value::Null => *key.last_mut().expect("it has just been pushed") = 2,
        Value::Integer(value) => push_integer(value, key),
        Value::Real(value) => {
            // -0 equals 0; the bits of a negative double fall as it rises.
            let bits = (value + 0.0).to_bits();
            let bits = if bits >> 63 == 0 {
                bits | 1 << 63
            } else {
                !bits
            };
            key.extend_from_slice(&bits.to_be_bytes());
        }
        Value::Text(value) if matches!(element, PgType::Char(_)) => {
            push_bytes(value.trim_end_matches(' ').as_bytes(), key);
        }
        Value::Text(value) => push_bytes(value.as_bytes(), key),
        Value::Blob(value) => match element.key_function() {
            Some("sh_interval_key") => {
                push_bytes(value.get(..interval::KEY_BYTES).unwrap_or_default(), key);
            }
            Some("sh_num_key") => push_bytes(numeric::key(&value), key),
            _ => push_bytes(&value, key),
        },
    }
    Ok(())
}

fn push_integer(value: i64, key: &mut Vec<u8>) {
    let bits = value.cast_unsigned() ^ 1 << 63;
    key.extend_from_slice(&bits.to_be_bytes());
}

/// Bytes of any length, and where they end: a zero is followed by 255, the end by 1.
fn push_bytes(bytes: &[u8], key: &mut Vec<u8>) {
    for &byte in bytes {
        key.push(byte);
        if byte == 0 {
            key.push(255);
        }
    }
    key.extend_from_slice(&[0, 1]);
}

/// The stored form of an array of those values.
#[must_use]
pub fn store<'v>(
    element: &PgType,
    values: impl Iterator<Item = springhead_proto::ValueRef<'v>>,
) -> String {
    let mut out = vec![b'['];
    for (index, value) in values.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        output_json(element, value, &mut out);
    }
    out.push(b']');
    json::into_text(out)
}

/// Reads a JSON array.
pub(crate) fn from_json(
    element: &PgType,
    elements: &[serde_json::Value],
) -> Result<String, SqlError> {
    let mut out = vec![b'['];
    for (index, json) in elements.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        match json {
            serde_json::Value::Array(inner) if !is_json(element) => {
                out.extend_from_slice(from_json(element, inner)?.as_bytes());
            }
            _ => output_json(element, input_json(element, json)?.as_ref(), &mut out),
        }
    }
    out.push(b']');
    Ok(json::into_text(out))
}
