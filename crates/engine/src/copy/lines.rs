//! Data into lines, however it is cut. In text a backslash keeps the character after it, in CSV
//! quotes keep ends of lines. Which end of line there is the first one says.

use std::ops::Range;

use springhead_proto::{ErrorCode, SqlError};
use springhead_sql::plan::{CopyFormat, CopyOptions};

/// See the module's text.
pub(super) struct Lines {
    is_csv: bool,
    quote: u8,
    escape: u8,
    max_bytes: usize,
    buffer: Vec<u8>,
    /// Where the line that is looked for begins.
    start: usize,
    /// Up to where it has been looked through.
    scanned: usize,
    end_of_line: Option<EndOfLine>,
    in_quotes: bool,
    after_escape: bool,
    /// Lines found; ends of lines in quotes count too.
    line: u64,
    /// The end marker has come: what follows is nothing.
    ended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EndOfLine {
    Newline,
    CarriageReturn,
    Both,
}

/// What a look at one byte came to.
enum Look {
    /// Part of the line.
    Part(usize),
    /// The line ends here; how many bytes its end has.
    End(usize),
    /// The end marker.
    Marker,
    /// More data is needed to say.
    Wait,
}

impl Lines {
    pub(super) fn new(options: &CopyOptions, max_bytes: usize) -> Lines {
        Lines {
            is_csv: options.format == CopyFormat::Csv,
            quote: options.quote,
            // A doubled quote leaves the quotes and enters them again, which comes to the same.
            escape: if options.escape == options.quote {
                0
            } else {
                options.escape
            },
            max_bytes,
            buffer: Vec::new(),
            start: 0,
            scanned: 0,
            end_of_line: None,
            in_quotes: false,
            after_escape: false,
            line: 0,
            ended: false,
        }
    }

    pub(super) fn feed(&mut self, data: &[u8]) {
        if self.ended {
            return;
        }
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(data);
    }

    /// The line that is looked at now.
    pub(super) fn line_of_error(&self) -> u64 {
        self.line + 1
    }

    /// The text of a line that has been found; it has been checked.
    pub(super) fn text(&self, range: Range<usize>) -> &str {
        std::str::from_utf8(&self.buffer[range]).unwrap_or_default()
    }

    /// The next line, without its end, and its number; `None` if it is not all there. With
    /// `at_end`, what is left is the last line.
    ///
    /// # Errors
    /// 22P04 for an end of line that does not belong, 22021 for bytes that are no text, 54000 for a
    /// line that is too long.
    pub(super) fn next(&mut self, at_end: bool) -> Result<Option<(Range<usize>, u64)>, SqlError> {
        if self.ended {
            return Ok(None);
        }
        while self.scanned < self.buffer.len() {
            match self.look(at_end)? {
                Look::Part(bytes) => self.scanned += bytes,
                Look::Wait => break,
                Look::End(bytes) => {
                    let range = self.start..self.scanned;
                    self.start = self.scanned + bytes;
                    self.scanned = self.start;
                    return self.found(range).map(Some);
                }
                Look::Marker => {
                    self.ended = true;
                    let range = self.start..self.scanned;
                    return if range.is_empty() {
                        Ok(None)
                    } else {
                        self.found(range).map(Some)
                    };
                }
            }
        }
        if self.scanned - self.start > self.max_bytes {
            return Err(SqlError::new(
                ErrorCode::StatementTooLarge,
                format!("a line of the data is over {} bytes", self.max_bytes),
            )
            .with_hint("raise max_row_bytes"));
        }
        if !at_end || self.start == self.buffer.len() {
            return Ok(None);
        }
        let range = self.start..self.buffer.len();
        self.start = self.buffer.len();
        self.scanned = self.start;
        self.ended = true;
        self.found(range).map(Some)
    }

    fn found(&mut self, range: Range<usize>) -> Result<(Range<usize>, u64), SqlError> {
        self.in_quotes = false;
        self.after_escape = false;
        let bytes = &self.buffer[range.clone()];
        if let Err(error) = std::str::from_utf8(bytes) {
            let shown: Vec<_> = bytes[error.valid_up_to()..]
                .iter()
                .take(4)
                .map(|byte| format!("0x{byte:02x}"))
                .collect();
            return Err(invalid_bytes(&shown.join(" ")));
        }
        if bytes.contains(&0) {
            return Err(invalid_bytes("0x00"));
        }
        self.line += 1;
        Ok((range, self.line))
    }

    fn look(&mut self, at_end: bool) -> Result<Look, SqlError> {
        let at = self.scanned;
        let byte = self.buffer[at];
        if self.is_csv {
            if self.in_quotes && byte == self.escape {
                self.after_escape = !self.after_escape;
            }
            if byte == self.quote && !self.after_escape {
                self.in_quotes = !self.in_quotes;
            }
            if byte != self.escape {
                self.after_escape = false;
            }
            if self.in_quotes {
                let counted = match self.end_of_line {
                    Some(EndOfLine::Newline) => b'\n',
                    // PostgreSQL counts so as long as it does not know.
                    None | Some(EndOfLine::CarriageReturn | EndOfLine::Both) => b'\r',
                };
                self.line += u64::from(byte == counted);
                return Ok(Look::Part(1));
            }
        }
        match byte {
            b'\r' => self.carriage_return(at, at_end),
            b'\n' => match self.end_of_line {
                None | Some(EndOfLine::Newline) => {
                    self.end_of_line = Some(EndOfLine::Newline);
                    Ok(Look::End(1))
                }
                Some(_) => Err(self.stray("newline", "\\n")),
            },
            b'\\' if !self.is_csv || at == self.start => self.backslash(at, at_end),
            _ => Ok(Look::Part(1)),
        }
    }

    fn carriage_return(&mut self, at: usize, at_end: bool) -> Result<Look, SqlError> {
        match self.end_of_line {
            Some(EndOfLine::Newline) => Err(self.stray("carriage return", "\\r")),
            Some(EndOfLine::CarriageReturn) => Ok(Look::End(1)),
            before => match self.buffer.get(at + 1) {
                Some(b'\n') => {
                    self.end_of_line = Some(EndOfLine::Both);
                    Ok(Look::End(2))
                }
                None if !at_end => Ok(Look::Wait),
                _ if before.is_some() => Err(self.stray("carriage return", "\\r")),
                _ => {
                    self.end_of_line = Some(EndOfLine::CarriageReturn);
                    Ok(Look::End(1))
                }
            },
        }
    }

    fn backslash(&self, at: usize, at_end: bool) -> Result<Look, SqlError> {
        match (self.buffer.get(at + 1), self.buffer.get(at + 2)) {
            (None, _) if at_end => Ok(Look::Part(1)),
            (None, _) => Ok(Look::Wait),
            (Some(b'.'), None) if !at_end => Ok(Look::Wait),
            (Some(b'.'), None | Some(b'\n' | b'\r')) => Ok(Look::Marker),
            (Some(b'.'), Some(_)) if !self.is_csv => Err(SqlError::new(
                ErrorCode::BadCopyFormat,
                "end-of-copy marker corrupt",
            )),
            _ if self.is_csv => Ok(Look::Part(1)),
            _ => Ok(Look::Part(2)),
        }
    }

    fn stray(&self, what: &str, written: &str) -> SqlError {
        let (kind, hint) = if self.is_csv {
            (
                "unquoted",
                format!("Use quoted CSV field to represent {what}."),
            )
        } else {
            ("literal", format!("Use \"{written}\" to represent {what}."))
        };
        SqlError::new(
            ErrorCode::BadCopyFormat,
            format!("{kind} {what} found in data"),
        )
        .with_hint(hint)
    }
}

fn invalid_bytes(shown: &str) -> SqlError {
    SqlError::new(
        ErrorCode::InvalidByteSequence,
        format!("invalid byte sequence for encoding \"UTF8\": {shown}"),
    )
}
