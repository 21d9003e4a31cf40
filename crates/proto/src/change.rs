//! One change as bytes, and a run of changes.
//!
//! ```text
//! change := kind:u8 images:u8 collection:varint schema_version:varint
//!           [before_length:varint before:row] [after_length:varint after:row]
//! images := bit 0: before is there, bit 1: after is there; all other bits 0
//! ```
//!
//! A change does not carry its LSN: changes are dense, so the frame's first LSN and the place in
//! the run give it. That also lets a commit be encoded before its place in the log is known.

use crate::ids::{CollectionId, SchemaVersion};
use crate::row::{DamagedRow, RowRef};
use crate::varint::{read_varint, write_varint};

/// What happened. The numbers are the bytes in the log and never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ChangeKind {
    /// A row came: `after`.
    Insert = 1,
    /// A row changed: `before` and `after`.
    Update = 2,
    /// A row went: `before`.
    Delete = 3,
    /// All rows of the collection went.
    Truncate = 4,
    /// A definition was put or dropped; `after` is its row in `springhead.definitions`, and
    /// `collection` the table it concerns, if any.
    Definition = 5,
    /// NOTIFY; `after` is channel, payload and the sender's process id.
    Message = 6,
    /// A sequence reserved numbers; `after` is its id and the last number reserved. On no exit.
    Sequence = 7,
}

impl ChangeKind {
    fn from_byte(byte: u8) -> Option<ChangeKind> {
        Some(match byte {
            1 => ChangeKind::Insert,
            2 => ChangeKind::Update,
            3 => ChangeKind::Delete,
            4 => ChangeKind::Truncate,
            5 => ChangeKind::Definition,
            6 => ChangeKind::Message,
            7 => ChangeKind::Sequence,
            _ => return None,
        })
    }

    /// The word for it in a change event; `None` for what no exit shows.
    #[must_use]
    pub const fn operation(self) -> Option<&'static str> {
        Some(match self {
            ChangeKind::Insert => "INSERT",
            ChangeKind::Update => "UPDATE",
            ChangeKind::Delete => "DELETE",
            ChangeKind::Truncate => "TRUNCATE",
            ChangeKind::Definition => "DEFINITION",
            ChangeKind::Message => "MESSAGE",
            ChangeKind::Sequence => return None,
        })
    }
}

/// One change, borrowed from the buffer it lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeRef<'a> {
    pub kind: ChangeKind,
    pub collection: CollectionId,
    /// The version of the collection's columns that both images follow.
    pub schema_version: SchemaVersion,
    pub before: Option<RowRef<'a>>,
    pub after: Option<RowRef<'a>>,
}

/// Bytes that are no change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DamagedChange {
    #[error("damaged change: {0}")]
    Change(&'static str),
    #[error(transparent)]
    Row(#[from] DamagedRow),
}

/// Appends one change. `before` and `after` are encoded rows ([`crate::RowBuilder`]).
pub fn encode_change(
    out: &mut Vec<u8>,
    kind: ChangeKind,
    collection: CollectionId,
    schema_version: SchemaVersion,
    before: Option<&[u8]>,
    after: Option<&[u8]>,
) {
    out.push(kind as u8);
    out.push(u8::from(before.is_some()) | u8::from(after.is_some()) << 1);
    write_varint(out, u64::from(collection.0));
    write_varint(out, u64::from(schema_version.0));
    for image in [before, after].into_iter().flatten() {
        write_varint(out, image.len() as u64);
        out.extend_from_slice(image);
    }
}

impl<'a> ChangeRef<'a> {
    /// Takes one change off the front of `input`.
    ///
    /// # Errors
    /// [`DamagedChange`] if the bytes are none; `input` is then anywhere.
    pub fn read(input: &mut &'a [u8]) -> Result<ChangeRef<'a>, DamagedChange> {
        let (&[kind, images], rest) = input
            .split_first_chunk::<2>()
            .ok_or(DamagedChange::Change("its head is cut short"))?;
        *input = rest;
        let kind =
            ChangeKind::from_byte(kind).ok_or(DamagedChange::Change("of an unknown kind"))?;
        if images & !0b11 != 0 {
            return Err(DamagedChange::Change("unknown images"));
        }
        let collection = CollectionId(read_u32(input)?);
        let schema_version = SchemaVersion(read_u32(input)?);
        let before = (images & 0b01 != 0)
            .then(|| read_image(input))
            .transpose()?;
        let after = (images & 0b10 != 0)
            .then(|| read_image(input))
            .transpose()?;
        Ok(ChangeRef {
            kind,
            collection,
            schema_version,
            before,
            after,
        })
    }
}

fn read_u32(input: &mut &[u8]) -> Result<u32, DamagedChange> {
    read_varint(input)
        .and_then(|value| u32::try_from(value).ok())
        .ok_or(DamagedChange::Change("a number is cut short or too large"))
}

fn read_image<'a>(input: &mut &'a [u8]) -> Result<RowRef<'a>, DamagedChange> {
    let length = read_varint(input)
        .and_then(|length| usize::try_from(length).ok())
        .filter(|&length| length <= input.len())
        .ok_or(DamagedChange::Change("an image passes its end"))?;
    let (image, rest) = input.split_at(length);
    *input = rest;
    Ok(RowRef::parse(image)?)
}

/// A run of encoded changes, read one after the other. Ends after the last or after the first
/// damage.
#[derive(Debug, Clone)]
pub struct Changes<'a> {
    rest: &'a [u8],
}

impl<'a> Changes<'a> {
    /// Reads `bytes` from the front.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Changes<'a> {
        Changes { rest: bytes }
    }
}

impl<'a> Iterator for Changes<'a> {
    type Item = Result<ChangeRef<'a>, DamagedChange>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let change = ChangeRef::read(&mut self.rest);
        if change.is_err() {
            self.rest = &[];
        }
        Some(change)
    }
}

/// The messages (NOTIFY) in a run of encoded changes, each with its place in the run, from 0. What
/// else is there is stepped over by its lengths alone. Ends after the last or after the first damage.
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    rest: &'a [u8],
    place: u64,
}

impl<'a> Messages<'a> {
    /// Reads `bytes` from the front.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Messages<'a> {
        Messages {
            rest: bytes,
            place: 0,
        }
    }

    fn step(&mut self) -> Result<Option<RowRef<'a>>, DamagedChange> {
        let (&[kind, images], rest) = self
            .rest
            .split_first_chunk::<2>()
            .ok_or(DamagedChange::Change("its head is cut short"))?;
        let mut rest = rest;
        read_u32(&mut rest)?;
        read_u32(&mut rest)?;
        let mut image = None;
        for _ in 0..(images & 0b11).count_ones() {
            let length = read_varint(&mut rest)
                .and_then(|length| usize::try_from(length).ok())
                .filter(|&length| length <= rest.len())
                .ok_or(DamagedChange::Change("an image passes its end"))?;
            let (bytes, after) = rest.split_at(length);
            image = Some(bytes);
            rest = after;
        }
        self.rest = rest;
        self.place += 1;
        if kind != ChangeKind::Message as u8 {
            return Ok(None);
        }
        let image = image.ok_or(DamagedChange::Change("a message without its row"))?;
        Ok(Some(RowRef::parse(image)?))
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<(u64, RowRef<'a>), DamagedChange>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            match self.step() {
                Ok(Some(row)) => return Some(Ok((self.place - 1, row))),
                Ok(None) => {}
                Err(error) => {
                    self.rest = &[];
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Row, ValueRef};

    #[test]
    fn messages_are_found_among_rows() {
        let row = |text: &'static str| Row::from_values([ValueRef::Text(text)].into_iter());
        let mut bytes = Vec::new();
        let mut put = |kind, before: Option<&Row>, after: Option<&Row>| {
            let image = |row: Option<&Row>| row.map(|row| row.bytes().to_vec());
            let (before, after) = (image(before), image(after));
            encode_change(
                &mut bytes,
                kind,
                CollectionId(300),
                SchemaVersion(1),
                before.as_deref(),
                after.as_deref(),
            );
        };
        put(ChangeKind::Insert, None, Some(&row("a")));
        put(ChangeKind::Message, None, Some(&row("first")));
        put(ChangeKind::Update, Some(&row("a")), Some(&row("b")));
        put(ChangeKind::Truncate, None, None);
        put(ChangeKind::Message, None, Some(&row("second")));
        let found: Vec<_> = Messages::new(&bytes)
            .map(|found| found.map(|(place, row)| (place, row.get(0))))
            .collect();
        assert_eq!(
            found,
            [
                Ok((1, Some(ValueRef::Text("first")))),
                Ok((4, Some(ValueRef::Text("second"))))
            ]
        );
        for end in 1..bytes.len() {
            // Whatever is cut off, it ends.
            assert!(Messages::new(&bytes[..end]).count() <= 3, "{end}");
        }
    }
}
