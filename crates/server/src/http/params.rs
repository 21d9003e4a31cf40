//! Parameters of a request: percent-decoded, each known by name, each once. What is not known is
//! refused by name, so that a misspelt `since_lsn` never means "from now".

use springhead_proto::{ErrorCode, Lsn, SqlError};

use super::error::HttpError;

/// No path takes half as many; more would only cost time to compare.
const MAX_PARAMETERS: usize = 32;

/// The query's parameters that have not been taken yet.
#[derive(Debug, Default)]
pub struct Params {
    left: Vec<(String, String)>,
}

impl Params {
    /// Decodes a query string.
    ///
    /// # Errors
    /// 22021 for what is not UTF-8, 22023 for a broken escape or a parameter given twice.
    pub fn parse(query: Option<&str>) -> Result<Params, HttpError> {
        let mut left: Vec<(String, String)> = Vec::new();
        for pair in query
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
        {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name, true)?;
            if left.iter().any(|(known, _)| *known == name) {
                return Err(HttpError::parameter(format!(
                    "parameter \"{}\" is given twice",
                    shown(&name)
                )));
            }
            if left.len() == MAX_PARAMETERS {
                return Err(HttpError::parameter(format!(
                    "there are more than {MAX_PARAMETERS} parameters"
                )));
            }
            left.push((name, decode(value, true)?));
        }
        Ok(Params { left })
    }

    /// Takes a parameter.
    pub fn take(&mut self, name: &str) -> Option<String> {
        let at = self.left.iter().position(|(known, _)| known == name)?;
        Some(self.left.swap_remove(at).1)
    }

    /// Takes a whole number.
    ///
    /// # Errors
    /// 22023 if it is none.
    pub fn number(&mut self, name: &str) -> Result<Option<u64>, HttpError> {
        self.take(name).map(|text| number(name, &text)).transpose()
    }

    /// Takes `true` or `false`; the name alone means true.
    ///
    /// # Errors
    /// 22023 for anything else.
    pub fn flag(&mut self, name: &str) -> Result<bool, HttpError> {
        match self.take(name).as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1" | "") => Ok(true),
            Some(other) => Err(HttpError::parameter(format!(
                "{name} is true or false, not \"{}\"",
                shown(other)
            ))),
        }
    }

    /// Whether it is there in any case, not taken yet.
    pub fn has(&self, name: &str) -> bool {
        (self.left.iter()).any(|(left, _)| left.eq_ignore_ascii_case(name))
    }

    /// Takes `min_lsn`.
    ///
    /// # Errors
    /// 22023 if it is no LSN.
    pub fn min_lsn(&mut self) -> Result<Option<Lsn>, HttpError> {
        Ok(self.number("min_lsn")?.map(Lsn))
    }

    /// Refuses what is left. `known` are the names that this path takes.
    ///
    /// # Errors
    /// 22023 naming the parameter.
    pub fn finish(self, known: &[&str]) -> Result<(), HttpError> {
        match self.left.first() {
            None => Ok(()),
            Some((name, _)) => Err(SqlError::new(
                ErrorCode::InvalidParameterValue,
                format!("unknown parameter \"{}\"", shown(name)),
            )
            .with_hint(if known.is_empty() {
                "this path takes none".to_owned()
            } else {
                format!("this path takes: {}", known.join(", "))
            })
            .into()),
        }
    }
}

/// Reads a whole number.
///
/// # Errors
/// 22023 if it is none.
pub fn number(name: &str, text: &str) -> Result<u64, HttpError> {
    // `u64::from_str` also takes a leading plus.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| {
        HttpError::parameter(format!(
            "{name} is a whole number from 0 to {}, not \"{}\"",
            u64::MAX,
            shown(text)
        ))
    })
}

/// Decodes `%xx`, and in queries `+`.
///
/// # Errors
/// 22023 for a broken escape, 22021 for bytes that are not UTF-8.
pub fn decode(text: &str, plus_is_blank: bool) -> Result<String, HttpError> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let escaped = rest.split_first_chunk::<2>().and_then(|(digits, after)| {
                    let byte = hex(digits[0])? << 4 | hex(digits[1])?;
                    Some((byte, after))
                });
                let Some((byte, after)) = escaped else {
                    return Err(HttpError::parameter(format!(
                        "\"{}\" has a % without two hexadecimal digits",
                        shown(text)
                    )));
                };
                out.push(byte);
                rest = after;
            }
            b'+' if plus_is_blank => out.push(b' '),
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).map_err(|_| {
        HttpError::new(
            ErrorCode::InvalidByteSequence,
            format!("\"{}\" is not UTF-8", shown(text)),
        )
    })
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// At most some of it, for messages.
pub fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_taken_once() {
        let mut params =
            Params::parse(Some("where=a%3D1+or+b%26c&limit=5&flag&x=%E2%82%AC")).unwrap();
        assert_eq!(params.take("where").as_deref(), Some("a=1 or b&c"));
        assert_eq!(params.number("limit").unwrap(), Some(5));
        assert!(params.flag("flag").unwrap());
        assert_eq!(params.take("x").as_deref(), Some("€"));
        assert!(params.take("x").is_none());
        assert!(params.finish(&[]).is_ok());
    }

    #[test]
    fn what_is_wrong_with_parameters_is_told_by_name() {
        let code = |query: &str| Params::parse(Some(query)).unwrap_err().code();
        assert_eq!(code("a=1&a=2"), ErrorCode::InvalidParameterValue);
        assert_eq!(code("a=%zz"), ErrorCode::InvalidParameterValue);
        assert_eq!(code("a=%4"), ErrorCode::InvalidParameterValue);
        assert_eq!(code("a=%FF%FE"), ErrorCode::InvalidByteSequence);
        for text in ["", "x", "-1", "+1", "1.0", "99999999999999999999999"] {
            assert_eq!(
                number("limit", text).unwrap_err().code(),
                ErrorCode::InvalidParameterValue,
                "{text}"
            );
        }
        let many: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        assert_eq!(code(&many.join("&")), ErrorCode::InvalidParameterValue);
        let long = "x".repeat(10_000);
        let error = Params::parse(Some(&format!("{long}&{long}"))).unwrap_err();
        assert!(error.to_string().len() < 200, "a long name is not repeated");
        let error = Params::parse(Some("sinse_lsn=1"))
            .unwrap()
            .finish(&["since_lsn"])
            .unwrap_err();
        assert!(error.to_string().contains("sinse_lsn"));
    }
}
