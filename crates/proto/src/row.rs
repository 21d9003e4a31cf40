//! One row's values as bytes.
//!
//! ```text
//! row    := count:varint value*count
//! value  := 0x00                          null
//!         | 0x01 zigzag:varint            integer
//!         | 0x02 f64:8 bytes LE           real
//!         | 0x03 length:varint bytes      text (UTF-8)
//!         | 0x04 length:varint bytes      blob
//! ```
//!
//! The values are SQLite's five storage classes; which PostgreSQL type a column has is in the
//! catalog, not here.

use bytes::Bytes;

use crate::varint::{read_varint, unzigzag, write_varint, zigzag};

const NULL: u8 = 0;
const INTEGER: u8 = 1;
const REAL: u8 = 2;
const TEXT: u8 = 3;
const BLOB: u8 = 4;

/// An owned value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

impl Value {
    /// This value, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Value::Null => ValueRef::Null,
            Value::Integer(value) => ValueRef::Integer(*value),
            Value::Real(value) => ValueRef::Real(*value),
            Value::Text(value) => ValueRef::Text(value),
            Value::Blob(value) => ValueRef::Blob(value),
        }
    }
}

/// A value that borrows the row it is in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ValueRef<'a> {
    Null,
    Integer(i64),
    Real(f64),
    Text(&'a str),
    Blob(&'a [u8]),
}

impl ValueRef<'_> {
    /// A copy that owns its bytes.
    #[must_use]
    pub fn to_owned(self) -> Value {
        match self {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(value) => Value::Integer(value),
            ValueRef::Real(value) => Value::Real(value),
            ValueRef::Text(value) => Value::Text(value.to_owned()),
            ValueRef::Blob(value) => Value::Blob(value.to_owned()),
        }
    }

    /// Whether this is SQL's NULL.
    #[must_use]
    pub const fn is_null(self) -> bool {
        matches!(self, ValueRef::Null)
    }
}

/// Writes one row at the end of a buffer that many rows share.
pub struct RowBuilder<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> RowBuilder<'a> {
    /// Starts a row of exactly `count` values; that many pushes must follow.
    pub fn new(out: &'a mut Vec<u8>, count: usize) -> RowBuilder<'a> {
        write_varint(out, count as u64);
        RowBuilder { out }
    }

    /// The next value.
    pub fn push(&mut self, value: ValueRef<'_>) {
        match value {
            ValueRef::Null => self.out.push(NULL),
            ValueRef::Integer(value) => {
                self.out.push(INTEGER);
                write_varint(self.out, zigzag(value));
            }
            ValueRef::Real(value) => {
                self.out.push(REAL);
                self.out.extend_from_slice(&value.to_le_bytes());
            }
            ValueRef::Text(value) => self.push_bytes(TEXT, value.as_bytes()),
            ValueRef::Blob(value) => self.push_bytes(BLOB, value),
        }
    }

    fn push_bytes(&mut self, tag: u8, bytes: &[u8]) {
        self.out.push(tag);
        write_varint(self.out, bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }
}

/// Bytes that are no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("damaged row: {0}")]
pub struct DamagedRow(pub &'static str);

/// An encoded row that keeps the buffer it lies in alive. Its bytes have been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    bytes: Bytes,
}

impl Row {
    /// Checks `bytes` to be exactly one row.
    ///
    /// # Errors
    /// [`DamagedRow`] if they are anything else, bytes left over included.
    pub fn from_bytes(bytes: Bytes) -> Result<Row, DamagedRow> {
        RowRef::parse(&bytes)?;
        Ok(Row { bytes })
    }

    /// The row of `values`.
    pub fn from_values<'v>(values: impl ExactSizeIterator<Item = ValueRef<'v>>) -> Row {
        let mut out = Vec::new();
        let mut row = RowBuilder::new(&mut out, values.len());
        for value in values {
            row.push(value);
        }
        Row { bytes: out.into() }
    }

    /// The row as it lies in the log.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The row, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> RowRef<'_> {
        RowRef::parse(&self.bytes).expect("checked when it was made")
    }

    /// The values, first to last.
    pub fn values(&self) -> impl ExactSizeIterator<Item = ValueRef<'_>> {
        self.as_ref().values()
    }
}

/// An encoded row, borrowed. Its bytes have been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowRef<'a> {
    count: usize,
    values: &'a [u8],
}

impl<'a> RowRef<'a> {
    /// Checks `bytes` to be exactly one row.
    ///
    /// # Errors
    /// [`DamagedRow`] if they are anything else, bytes left over included.
    pub fn parse(bytes: &'a [u8]) -> Result<RowRef<'a>, DamagedRow> {
        let mut rest = bytes;
        let count =
            read_varint(&mut rest).ok_or(DamagedRow("its number of values is cut short"))?;
        // Each value takes at least a byte, so a larger count cannot be true.
        let count = usize::try_from(count)
            .ok()
            .filter(|&count| count <= rest.len())
            .ok_or(DamagedRow("it has more values than bytes"))?;
        let values = rest;
        for _ in 0..count {
            read_value(&mut rest)?;
        }
        if !rest.is_empty() {
            return Err(DamagedRow("bytes are left over"));
        }
        Ok(RowRef { count, values })
    }

    /// How many values the row has.
    #[must_use]
    pub const fn len(self) -> usize {
        self.count
    }

    /// Whether the row has no value at all.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.count == 0
    }

    /// The bytes of its values, without their number: the same for rows with the same values.
    #[must_use]
    pub const fn value_bytes(self) -> &'a [u8] {
        self.values
    }

    /// The values, first to last.
    pub fn values(self) -> Values<'a> {
        Values {
            left: self.count,
            rest: self.values,
        }
    }

    /// The value at `index`, from 0; `None` past the end. Walks the row.
    #[must_use]
    pub fn get(self, index: usize) -> Option<ValueRef<'a>> {
        self.values().nth(index)
    }
}

/// Iterator over a row's values.
#[derive(Debug, Clone)]
pub struct Values<'a> {
    left: usize,
    rest: &'a [u8],
}

impl<'a> Iterator for Values<'a> {
    type Item = ValueRef<'a>;

    fn next(&mut self) -> Option<ValueRef<'a>> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        Some(read_value(&mut self.rest).expect("the row was checked when it was parsed"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Values<'_> {}

fn read_value<'a>(rest: &mut &'a [u8]) -> Result<ValueRef<'a>, DamagedRow> {
    let (&tag, after) = rest.split_first().ok_or(DamagedRow("a value is missing"))?;
    *rest = after;
    match tag {
        NULL => Ok(ValueRef::Null),
        INTEGER => read_varint(rest)
            .map(|bits| ValueRef::Integer(unzigzag(bits)))
            .ok_or(DamagedRow("an integer is cut short")),
        REAL => {
            let (bytes, after) = rest
                .split_first_chunk::<8>()
                .ok_or(DamagedRow("a real is cut short"))?;
            *rest = after;
            Ok(ValueRef::Real(f64::from_le_bytes(*bytes)))
        }
        TEXT => {
            let bytes = read_bytes(rest)?;
            std::str::from_utf8(bytes)
                .map(ValueRef::Text)
                .map_err(|_| DamagedRow("a text is not UTF-8"))
        }
        BLOB => read_bytes(rest).map(ValueRef::Blob),
        _ => Err(DamagedRow("a value has an unknown tag")),
    }
}

fn read_bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], DamagedRow> {
    let length = read_varint(rest).ok_or(DamagedRow("a length is cut short"))?;
    let length = usize::try_from(length)
        .ok()
        .filter(|&length| length <= rest.len())
        .ok_or(DamagedRow("a length passes the row's end"))?;
    let (bytes, after) = rest.split_at(length);
    *rest = after;
    Ok(bytes)
}
