//! Writing JSON by hand: the few shapes of a change event, straight into a buffer. Values of
//! columns are written by `springhead_sql::types::output_json`; this writes what is around them.

use springhead_proto::ValueRef;
use springhead_sql::types::{PgType, output_json};

/// Appends a number.
pub(crate) fn number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends an epoch: eight hexadecimal digits.
pub(crate) fn hex8(out: &mut Vec<u8>, value: u32) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for shift in (0..8).rev() {
        out.push(DIGITS[((value >> (shift * 4)) & 0xf) as usize]);
    }
}

/// Appends a string with its quotes.
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    string_inside(out, text);
    out.push(b'"');
}

/// Appends a string's inside, escaped. Control characters never get through raw, so that a text
/// can never end a line of an event stream.
pub(crate) fn string_inside(out: &mut Vec<u8>, text: &str) {
    springhead_sql::types::json::write_string_inside(text, out);
}

/// Appends a column's value as `row_to_json` prints it, on one line: a `json` value is kept as it
/// was written, line ends between its tokens included, which an event stream cannot carry.
pub(crate) fn value(out: &mut Vec<u8>, pg_type: &PgType, value: ValueRef<'_>) {
    let start = out.len();
    output_json(pg_type, value, out);
    if matches!(pg_type, PgType::Json | PgType::Jsonb) {
        for byte in &mut out[start..] {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_json_wants_them() {
        let text = "plain \"quoted\" back\\slash\n\r\t\u{8}\u{c}\u{1}\u{1f} ü €";
        let mut out = Vec::new();
        string(&mut out, text);
        assert!(out.iter().all(|&byte| byte >= 0x20));
        let back: String = serde_json::from_slice(&out).unwrap();
        assert_eq!(back, text);
    }

    #[test]
    fn numbers_and_epochs_are_written_whole() {
        for (value, expected) in [
            (0, "0"),
            (7, "7"),
            (1_718_000_000_000, "1718000000000"),
            (u64::MAX, "18446744073709551615"),
        ] {
            let mut out = Vec::new();
            number(&mut out, value);
            assert_eq!(out, expected.as_bytes());
        }
        let mut out = Vec::new();
        hex8(&mut out, 0x009c_1e04);
        assert_eq!(out, b"009c1e04");
    }

    #[test]
    fn a_json_value_stays_on_one_line() {
        let mut out = Vec::new();
        value(
            &mut out,
            &PgType::Json,
            ValueRef::Text("{\n \"a\": \"x\\ny\"\r\n}"),
        );
        assert_eq!(out, b"{  \"a\": \"x\\ny\"  }");
    }
}
