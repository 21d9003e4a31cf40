//! PostgreSQL's binary form of COPY's data.
//!
//! ```text
//! data   := "PGCOPY\n" 0xff "\r\n" 0x00 flags:i32 length:i32 extension tuple* [-1:i16]
//! tuple  := count:i16 (length:i32 bytes)*count      length -1: NULL
//! ```

use springhead_proto::{ErrorCode, SqlError};

pub(super) const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// Data into rows, however it is cut.
pub(super) struct BinaryRows {
    buffer: Vec<u8>,
    start: usize,
    max_bytes: usize,
    has_header: bool,
    ended: bool,
    /// Rows taken.
    pub row: u64,
}

/// A row's fields; `None` for NULL.
pub(super) struct Tuple<'a> {
    pub fields: Vec<Option<&'a [u8]>>,
    /// How many bytes it has.
    pub length: usize,
}

fn bad(what: impl Into<String>) -> SqlError {
    SqlError::new(ErrorCode::BadCopyFormat, what)
}

impl BinaryRows {
    pub(super) fn new(max_bytes: usize) -> BinaryRows {
        BinaryRows {
            buffer: Vec::new(),
            start: 0,
            max_bytes,
            has_header: false,
            ended: false,
            row: 0,
        }
    }

    pub(super) fn feed(&mut self, data: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(data);
    }

    /// The next row of `relation`, with a field for each of `names`; `None` if it is not all there.
    ///
    /// # Errors
    /// 22P04 for data of another form, 54000 for a row that is too long.
    pub(super) fn next(
        &mut self,
        relation: &str,
        names: &[String],
        at_end: bool,
    ) -> Result<Option<Tuple<'_>>, SqlError> {
        let row = self.row + 1;
        let in_row = |error: SqlError| error.with_context(format!("COPY {relation}, line {row}"));
        let rest = &self.buffer[self.start..];
        if self.ended {
            return if rest.is_empty() {
                Ok(None)
            } else {
                Err(in_row(bad("received copy data after EOF marker")))
            };
        }
        let Some(count) = rest.first_chunk::<2>() else {
            return match rest.len() {
                0 => Ok(None),
                _ if at_end => Err(in_row(bad("unexpected EOF in COPY data"))),
                _ => Ok(None),
            };
        };
        let count = i16::from_be_bytes(*count);
        if count == -1 {
            self.ended = true;
            self.start += 2;
            return if self.start == self.buffer.len() {
                Ok(None)
            } else {
                Err(in_row(bad("received copy data after EOF marker")))
            };
        }
        if usize::try_from(count).ok() != Some(names.len()) {
            let what = format!("row field count is {count}, expected {}", names.len());
            return Err(in_row(bad(what)));
        }
        let mut fields = Vec::with_capacity(names.len());
        let mut at = 2;
        for name in names {
            let in_column = |error: SqlError| {
                error.with_context(format!("COPY {relation}, line {row}, column {name}"))
            };
            match field(rest, &mut at, self.max_bytes).map_err(in_column)? {
                Some(value) => fields.push(value),
                None if at_end => return Err(in_column(bad("unexpected EOF in COPY data"))),
                None => return Ok(None),
            }
        }
        self.row += 1;
        Ok(Some(Tuple { fields, length: at }))
    }

    /// Reads the head, if it is all there; whether the rows have begun.
    ///
    /// # Errors
    /// 22P04 for data of another form.
    pub(super) fn begin(&mut self, at_end: bool) -> Result<bool, SqlError> {
        Ok(self.has_header || self.header(at_end)?)
    }

    /// Forgets a row that has been looked at.
    pub(super) fn consume(&mut self, length: usize) {
        self.start += length;
    }

    fn header(&mut self, at_end: bool) -> Result<bool, SqlError> {
        let known = self.buffer.len().min(SIGNATURE.len());
        if self.buffer[..known] != SIGNATURE[..known] || (at_end && known < SIGNATURE.len()) {
            return Err(bad("COPY file signature not recognized"));
        }
        let number = |at: usize| {
            self.buffer
                .get(at..at + 4)
                .map(|b| i32::from_be_bytes([b[0], b[1], b[2], b[3]]))
        };
        let (Some(flags), Some(length)) = (number(11), number(15)) else {
            return if at_end {
                Err(bad("invalid COPY file header (missing flags)"))
            } else {
                Ok(false)
            };
        };
        if flags & (1 << 16) != 0 {
            return Err(bad("invalid COPY file header (WITH OIDS)"));
        }
        if flags >> 16 != 0 {
            return Err(bad("unrecognized critical flags in COPY file header"));
        }
        let length = usize::try_from(length)
            .ok()
            .filter(|&length| length <= self.max_bytes)
            .ok_or_else(|| bad("invalid COPY file header (wrong length)"))?;
        if self.buffer.len() < 19 + length {
            return if at_end {
                Err(bad("invalid COPY file header (wrong length)"))
            } else {
                Ok(false)
            };
        }
        self.start = 19 + length;
        self.has_header = true;
        Ok(true)
    }
}

/// The field at `at`, which then is behind it; `None` if it is not all there.
fn field<'a>(
    rest: &'a [u8],
    at: &mut usize,
    max_bytes: usize,
) -> Result<Option<Option<&'a [u8]>>, SqlError> {
    let Some(length) = rest.get(*at..).and_then(|rest| rest.first_chunk::<4>()) else {
        return Ok(None);
    };
    let length = i32::from_be_bytes(*length);
    if length == -1 {
        *at += 4;
        return Ok(Some(None));
    }
    let length = usize::try_from(length).map_err(|_| bad("invalid field size"))?;
    if *at + length > max_bytes {
        return Err(SqlError::new(
            ErrorCode::StatementTooLarge,
            format!("a row of the data is over {max_bytes} bytes"),
        )
        .with_hint("raise max_row_bytes"));
    }
    let Some(value) = rest.get(*at + 4..*at + 4 + length) else {
        return Ok(None);
    };
    *at += 4 + length;
    Ok(Some(Some(value)))
}
