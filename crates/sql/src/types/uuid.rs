//! uuid: any of PostgreSQL's spellings in, the standard one out, which is also the stored form.

use springhead_proto::SqlError;

use super::PgType;
use super::text::invalid_syntax;

/// Reads 32 hex digits in either case, with a hyphen allowed after every fourth, and braces allowed
/// around; gives the lower-case form with hyphens.
pub(crate) fn read(text: &str) -> Result<String, SqlError> {
    let invalid = || invalid_syntax(&PgType::Uuid, text);
    let inner = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}').ok_or_else(invalid)?,
        None => text,
    };
    let mut out = String::with_capacity(36);
    let mut digits = 0;
    let mut hyphen_allowed = false;
    for byte in inner.bytes() {
        match byte {
            b'-' if hyphen_allowed => hyphen_allowed = false,
            b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F' if digits < 32 => {
                if matches!(digits, 8 | 12 | 16 | 20) {
                    out.push('-');
                }
                out.push(char::from(byte.to_ascii_lowercase()));
                digits += 1;
                hyphen_allowed = digits % 4 == 0 && digits < 32;
            }
            _ => return Err(invalid()),
        }
    }
    if digits == 32 {
        Ok(out)
    } else {
        Err(invalid())
    }
}

/// The stored form of 16 bytes.
pub(crate) fn from_bytes(bytes: &[u8; 16]) -> String {
    let mut hex = Vec::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            hex.push(b'-');
        }
        super::bytea::write_hex(&[*byte], &mut hex);
    }
    String::from_utf8(hex).expect("hex digits and hyphens are ASCII")
}

/// The 16 bytes of the stored form; `None` if it is none.
pub(crate) fn to_bytes(text: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    let mut digits = text.chars().filter(|&c| c != '-');
    for byte in &mut bytes {
        let high = digits.next()?.to_digit(16)?;
        let low = digits.next()?.to_digit(16)?;
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    digits.next().is_none().then_some(bytes)
}
