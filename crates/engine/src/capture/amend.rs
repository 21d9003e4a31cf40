//! What a statement has written is looked at once more where CRDT columns are part of it: the edits
//! that a new value comes of belong into the same change ([`crate::writer`]'s `crdt` says which).

use springhead_proto::{ChangeRef, ErrorCode, Row, SqlError, encode_change};

use super::{Capture, Mark};

/// Changes of a statement, to be replaced by others.
pub(crate) struct Amended {
    /// As in the open commit.
    pub changes: Vec<u8>,
    /// As noted on a device, each after its byte.
    pub noted: Vec<u8>,
}

impl Capture {
    /// Whether rows of a table with CRDT columns have been updated since the last call.
    pub(crate) fn take_merging(&mut self) -> bool {
        std::mem::take(&mut self.merging)
    }

    /// Writes the changes since `mark` anew, with the images after them that `after` gives (`None`:
    /// as it is). It is asked once for each change.
    ///
    /// # Errors
    /// 54000 if they have outgrown memory; what `after` says.
    pub(crate) fn amended(
        &self,
        mark: &Mark,
        mut after: impl FnMut(&ChangeRef<'_>) -> Result<Option<Vec<u8>>, SqlError>,
    ) -> Result<Amended, SqlError> {
        let spilled = self.spill.as_ref().map_or(0, |spill| spill.bytes);
        let from = (mark.bytes.checked_sub(spilled))
            .and_then(|bytes| usize::try_from(bytes).ok())
            .ok_or_else(too_many)?;
        let mut changes = Vec::new();
        // In the order of the changes; those noted are some of them.
        let mut replaced = Vec::new();
        let mut rest = &self.buffer[self.start + from..];
        while !rest.is_empty() {
            let raw = rest;
            let change = ChangeRef::read(&mut rest).expect("it has just been captured");
            match after(&change)? {
                None => changes.extend_from_slice(&raw[..raw.len() - rest.len()]),
                Some(image) => {
                    write(&mut changes, &change, &image);
                    replaced.push((change, image));
                }
            }
        }
        let mut noted = Vec::new();
        let mut rest = &self.noted[mark.noted..];
        let mut replaced = replaced.into_iter().peekable();
        while let Some((&direct, after)) = rest.split_first() {
            rest = after;
            let change = ChangeRef::read(&mut rest).expect("it has just been noted");
            noted.push(direct);
            match replaced.next_if(|(captured, _)| *captured == change) {
                None => noted.extend_from_slice(&after[..after.len() - rest.len()]),
                Some((_, image)) => write(&mut noted, &change, &image),
            }
        }
        Ok(Amended { changes, noted })
    }

    /// Puts amended changes in the place of those since `mark`.
    pub(crate) fn put_amended(&mut self, mark: &Mark, amended: Amended) {
        let spilled = self.spill.as_ref().map_or(0, |spill| spill.bytes);
        let from = usize::try_from(mark.bytes - spilled).expect("it was so when it was amended");
        self.buffer.truncate(self.start + from);
        self.buffer.extend_from_slice(&amended.changes);
        self.noted.truncate(mark.noted);
        self.noted.extend_from_slice(&amended.noted);
    }
}

fn too_many() -> SqlError {
    SqlError::new(
        ErrorCode::StatementTooLarge,
        "the statement changes more rows with CRDT columns than are kept in memory",
    )
    .with_hint("change fewer rows at a time, or raise capture_memory_bytes")
}

fn write(out: &mut Vec<u8>, change: &ChangeRef<'_>, after: &[u8]) {
    let before = change.before.map(|row| Row::from_values(row.values()));
    encode_change(
        out,
        change.kind,
        change.collection,
        change.schema_version,
        before.as_ref().map(|row| &row.bytes()[..]),
        Some(after),
    );
}
