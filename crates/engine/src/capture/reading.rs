//! Reads what the open commit has captured so far, wherever it is.

use std::os::unix::fs::FileExt;

use super::{Capture, Mark};

impl Mark {
    /// How many bytes the open commit had.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.bytes
    }
}

impl Capture {
    /// The open commit's changes, encoded; `None` if they have outgrown memory.
    pub fn open_changes(&self) -> Option<&[u8]> {
        match self.spill {
            None => Some(&self.buffer[self.start..]),
            Some(_) => None,
        }
    }

    /// `length` bytes of the open commit's changes from byte `from` on, or fewer where they end.
    ///
    /// # Errors
    /// What its temporary file says.
    pub fn read_open(&self, from: u64, length: usize) -> std::io::Result<Vec<u8>> {
        let spilled = self.spill.as_ref().map_or(0, |spill| spill.bytes);
        let mut out = Vec::new();
        if let Some(spill) = &self.spill
            && from < spilled
        {
            let in_file = usize::try_from(spilled - from).unwrap_or(usize::MAX);
            out.resize(length.min(in_file), 0);
            spill.file.read_exact_at(&mut out, from)?;
        }
        let start = usize::try_from((from + out.len() as u64).saturating_sub(spilled))
            .map_or(usize::MAX, |start| start.saturating_add(self.start));
        let in_memory = self.buffer.get(start..).unwrap_or_default();
        let left = (length - out.len()).min(in_memory.len());
        out.extend_from_slice(&in_memory[..left]);
        Ok(out)
    }
}
