//! A line into fields: what is between delimiters, without its escapes or quotes.

use std::ops::Range;

use springhead_proto::{ErrorCode, SqlError};
use springhead_sql::plan::{CopyFormat, CopyOptions};

/// The fields of one line; used again for the next.
#[derive(Default)]
pub(super) struct Fields {
    bytes: Vec<u8>,
    /// Where each is in `bytes`; `None` for NULL. And whether it was quoted.
    fields: Vec<(Option<Range<usize>>, bool)>,
}

impl Fields {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.fields.len()
    }

    /// The field at `index`: its text (`None` for NULL), and whether it is a candidate for
    /// FORCE_NULL. `None` past the last.
    pub(super) fn get(&self, index: usize) -> Option<(Option<&str>, bool)> {
        let (range, quoted) = self.fields.get(index)?;
        let text = range.as_ref().map(|range| {
            // Checked when the line was split.
            std::str::from_utf8(&self.bytes[range.clone()]).unwrap_or_default()
        });
        Some((text, *quoted))
    }

    /// Takes a line apart.
    ///
    /// # Errors
    /// 22P04 for quotes that do not end, 22021 for escapes that make no text.
    pub(super) fn split(&mut self, line: &str, options: &CopyOptions) -> Result<(), SqlError> {
        self.bytes.clear();
        self.fields.clear();
        match options.format {
            CopyFormat::Csv => self.split_csv(line.as_bytes(), options),
            CopyFormat::Text | CopyFormat::Binary => self.split_text(line.as_bytes(), options),
        }
    }

    /// Makes sure that the line names the columns.
    ///
    /// # Errors
    /// 22P04 naming the first that differs.
    pub(super) fn match_header(&self, names: &[String]) -> Result<(), SqlError> {
        let wrong = |what| Err(SqlError::new(ErrorCode::BadCopyFormat, what));
        if self.len() != names.len() {
            return wrong(format!(
                "wrong number of fields in header line: got {}, expected {}",
                self.len(),
                names.len()
            ));
        }
        for (index, name) in names.iter().enumerate() {
            match self.get(index) {
                Some((Some(found), _)) if found == name => {}
                Some((Some(found), _)) => {
                    return wrong(format!(
                        "column name mismatch in header line field {}: got \"{found}\", expected \"{name}\"",
                        index + 1
                    ));
                }
                _ => {
                    return wrong(format!(
                        "column name mismatch in header line field {}: got null value (\"\"), expected \"{name}\"",
                        index + 1
                    ));
                }
            }
        }
        Ok(())
    }

    fn split_text(&mut self, line: &[u8], options: &CopyOptions) -> Result<(), SqlError> {
        let mut at = 0;
        loop {
            let (field_at, start) = (at, self.bytes.len());
            let mut escaped_bytes = false;
            let mut end = line.len();
            let mut more = false;
            while at < line.len() {
                let byte = line[at];
                at += 1;
                if byte == options.delimiter {
                    (end, more) = (at - 1, true);
                    break;
                }
                if byte != b'\\' {
                    self.bytes.push(byte);
                    continue;
                }
                let Some(&letter) = line.get(at) else { break };
                at += 1;
                let (made, next) = unescape(line, letter, at);
                escaped_bytes |= made >= 0x80 || made == 0;
                self.bytes.push(made);
                at = next;
            }
            if line[field_at..end] == *options.null.as_bytes() {
                self.bytes.truncate(start);
                self.fields.push((None, false));
            } else {
                if escaped_bytes {
                    check_text(&self.bytes[start..])?;
                }
                self.fields.push((Some(start..self.bytes.len()), false));
            }
            if !more {
                return Ok(());
            }
        }
    }

    fn split_csv(&mut self, line: &[u8], options: &CopyOptions) -> Result<(), SqlError> {
        let mut at = 0;
        loop {
            let (field_at, start) = (at, self.bytes.len());
            let mut quoted = false;
            let mut in_quotes = false;
            let mut end = line.len();
            let mut more = false;
            loop {
                let Some(&byte) = line.get(at) else {
                    if in_quotes {
                        return Err(SqlError::new(
                            ErrorCode::BadCopyFormat,
                            "unterminated CSV quoted field",
                        ));
                    }
                    break;
                };
                at += 1;
                if !in_quotes {
                    if byte == options.delimiter {
                        (end, more) = (at - 1, true);
                        break;
                    }
                    if byte == options.quote {
                        (quoted, in_quotes) = (true, true);
                    } else {
                        self.bytes.push(byte);
                    }
                } else if byte == options.escape
                    && let Some(&next) = line.get(at)
                    && (next == options.escape || next == options.quote)
                {
                    self.bytes.push(next);
                    at += 1;
                } else if byte == options.quote {
                    in_quotes = false;
                } else {
                    self.bytes.push(byte);
                }
            }
            if !quoted && line[field_at..end] == *options.null.as_bytes() {
                self.bytes.truncate(start);
                self.fields.push((None, false));
            } else {
                self.fields.push((Some(start..self.bytes.len()), true));
            }
            if !more {
                return Ok(());
            }
        }
    }
}

/// The byte that `\letter` stands for, and where what follows begins.
fn unescape(line: &[u8], letter: u8, at: usize) -> (u8, usize) {
    let digits = |from: usize, most: usize, radix: u32| {
        let mut value = 0_u32;
        let mut count = 0;
        while count < most
            && let Some(digit) = line
                .get(from + count)
                .and_then(|&byte| char::from(byte).to_digit(radix))
        {
            value = value * radix + digit;
            count += 1;
        }
        // Of an octal number over 377 the low byte counts, as in PostgreSQL.
        (u8::try_from(value & 0xff).unwrap_or(0), count)
    };
    match letter {
        b'b' => (8, at),
        b'f' => (12, at),
        b'n' => (b'\n', at),
        b'r' => (b'\r', at),
        b't' => (b'\t', at),
        b'v' => (11, at),
        b'0'..=b'7' => {
            let (value, count) = digits(at - 1, 3, 8);
            (value, at - 1 + count)
        }
        b'x' => match digits(at, 2, 16) {
            (_, 0) => (b'x', at),
            (value, count) => (value, at + count),
        },
        other => (other, at),
    }
}

fn check_text(bytes: &[u8]) -> Result<(), SqlError> {
    let at = match std::str::from_utf8(bytes) {
        Err(error) => error.valid_up_to(),
        Ok(_) => match bytes.iter().position(|&byte| byte == 0) {
            Some(place) => place,
            None => return Ok(()),
        },
    };
    Err(SqlError::new(
        ErrorCode::InvalidByteSequence,
        format!(
            "invalid byte sequence for encoding \"UTF8\": 0x{:02x}",
            bytes[at]
        ),
    ))
}
