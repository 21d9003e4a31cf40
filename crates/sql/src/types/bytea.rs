//! bytea: hex (`\xdead`) and the older escape form in, hex out.

use springhead_proto::{ErrorCode, SqlError};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Reads either form.
pub(crate) fn read(text: &str) -> Result<Vec<u8>, SqlError> {
    match text.strip_prefix("\\x") {
        Some(hex) => read_hex(hex),
        None => read_escape(text),
    }
}

/// Hex digits in pairs; white space may stand between pairs.
pub(crate) fn read_hex(hex: &str) -> Result<Vec<u8>, SqlError> {
    let mut bytes = Vec::with_capacity(hex.len() / 2);
    let mut chars = hex.chars();
    while let Some(high) = chars.next() {
        if matches!(high, ' ' | '\n' | '\t' | '\r') {
            continue;
        }
        let high = digit(high)?;
        let low = chars
            .next()
            .ok_or_else(|| invalid("invalid hexadecimal data: odd number of digits"))?;
        bytes.push(high << 4 | digit(low)?);
    }
    Ok(bytes)
}

fn digit(c: char) -> Result<u8, SqlError> {
    c.to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
        .ok_or_else(|| invalid(&format!("invalid hexadecimal digit: \"{c}\"")))
}

/// `\\` for a backslash, `\ooo` for any byte in octal, all else as it is.
pub(crate) fn read_escape(text: &str) -> Result<Vec<u8>, SqlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'\\' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        match *after {
            [b'\\', ref after @ ..] => {
                bytes.push(b'\\');
                rest = after;
            }
            [
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                ref after @ ..,
            ] => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                return Err(SqlError::new(
                    ErrorCode::InvalidTextRepresentation,
                    "invalid input syntax for type bytea",
                ));
            }
        }
    }
    Ok(bytes)
}

/// `\x` and the hex digits.
pub(crate) fn write(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"\\x");
    write_hex(bytes, out);
}

/// The hex digits alone.
pub(crate) fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() * 2);
    for &byte in bytes {
        out.push(HEX[usize::from(byte >> 4)]);
        out.push(HEX[usize::from(byte & 15)]);
    }
}

fn invalid(message: &str) -> SqlError {
    SqlError::new(ErrorCode::InvalidParameterValue, message)
}
