//! JSON that comes in. A number is read as a 64-bit integer or a double; one with more digits than
//! those have would be stored as another number, so it is refused, and can be sent as a string.

use serde_json::Value;

/// Reads a JSON text.
///
/// # Errors
/// What it is that it is not taken: "is no JSON: …", or "has the number …", which would lose digits.
pub fn read(text: &str) -> Result<Value, String> {
    let value = serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}"))?;
    match inexact(text) {
        None => Ok(value),
        Some(number) => {
            let shown: String = number.chars().take(60).collect();
            Err(format!(
                "has the number {shown}, which has more digits than a JSON number keeps here: send it as a string"
            ))
        }
    }
}

/// The first number of a valid JSON text that is not read as it is written.
fn inexact(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at += 1;
                while bytes.get(at).is_some_and(|&inside| inside != b'"') {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let is_number =
                    |b: &&u8| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
                let length = bytes[at..].iter().take_while(is_number).count();
                let number = &text[at..at + length];
                if !is_exact(number) {
                    return Some(number);
                }
                at += length;
            }
            _ => at += 1,
        }
    }
    None
}

fn is_exact(number: &str) -> bool {
    // A double keeps any 15 digits, and a 64-bit integer 18.
    if number.len() <= 15 || number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok() {
        // Short, and still too small for a double: 1e-400.
        return !number.contains(['e', 'E']) || is_same(number);
    }
    is_same(number)
}

/// Whether the double that it is read as has its digits.
fn is_same(number: &str) -> bool {
    let double: f64 = number.parse().unwrap_or(f64::NAN);
    digits(number) == digits(&format!("{double:e}"))
}

/// The digits that count: neither zeros before nor after them.
fn digits(number: &str) -> String {
    let mantissa = number.split(['e', 'E']).next().unwrap_or_default();
    let all: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    all.trim_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_read_as_they_are_written_or_refused() {
        for exact in [
            "0",
            "-0.0",
            "1e5",
            "0.1",
            "1.50",
            "123456789012345.5",
            "9007199254740993",
            "18446744073709551615",
            "-9223372036854775808",
            "1e300",
            "0.30000000000000004",
            "100000000000000000000000",
            "1.000000000000000000000000",
            r#""0.10000000000000000001""#,
            r#"["\"1", 2, {"a\\": 3.25}]"#,
        ] {
            assert!(read(exact).is_ok(), "{exact}");
        }
        for inexact in [
            "0.10000000000000000001",
            "18446744073709551617",
            "1e-400",
            "-123456789012345678901",
            r#"{"a": ["x", 3.14159265358979323846]}"#,
        ] {
            let error = read(inexact).expect_err(inexact);
            assert!(error.contains("send it as a string"), "{error}");
        }
        assert!(!read("[1,").unwrap_err().contains("digits"));
    }

    proptest! {
        #[test]
        fn what_a_double_or_an_integer_prints_is_exact(double in any::<f64>(), integer in any::<i64>()) {
            prop_assume!(double.is_finite());
            let text = format!("[{}, {integer}]", serde_json::json!(double));
            prop_assert!(read(&text).is_ok(), "{text}");
        }
    }
}
