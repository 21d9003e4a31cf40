//! A segment's file on its own, wherever it lies: in a backup, in an archive, in the log of a node
//! that is no more. Read frame by frame, each checked, to be followed by a log being restored.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use springhead_proto::{Lsn, TimestampMs};

use super::directory::open_segment_file;
use super::files::Epochs;
use super::format::{FRAME_HEADER_BYTES, FrameHeader, HEADER_BYTES, SegmentHeader};
use super::frames::{Fault, FrameCursor, read_header};
use super::shared::corrupt;
use crate::contract::{EpochRecord, LogError};
use crate::disk::Disk;
use crate::raw::RawPosition;

/// See the module's text.
pub struct SegmentSource {
    path: PathBuf,
    header: SegmentHeader,
    cursor: FrameCursor,
    /// Bytes in the file, before compression.
    length: u64,
    at: RawPosition,
}

/// One frame of a [`SegmentSource`].
#[derive(Debug, Clone)]
pub struct SourceFrame {
    /// Where it begins.
    pub from: RawPosition,
    /// Behind it.
    pub next: RawPosition,
    pub bytes: Bytes,
    pub timestamp_ms: TimestampMs,
    /// Part of a large commit, and not its last: the commit's LSNs come with a later frame.
    pub unfinished: bool,
}

impl SegmentSource {
    /// Opens the file and reads its header.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] for a damaged header, [`LogError::NewerFormat`], or what the disk says.
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<SegmentSource, LogError> {
        let opened = open_segment_file(disk, path)?;
        let (header, seed) = read_header(&opened.file, path)?;
        Ok(SegmentSource {
            path: path.to_owned(),
            header,
            cursor: FrameCursor::new(opened.file, &header, seed),
            length: opened.length,
            at: RawPosition {
                segment: header.segment_number,
                offset: HEADER_BYTES,
                crc: seed,
                lsn: header.first_lsn.previous(),
            },
        })
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The segment's number.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.header.segment_number
    }

    /// The history that it belongs to.
    #[must_use]
    pub fn history_id(&self) -> u128 {
        self.header.history_id
    }

    /// The checksum of the last frame of the segment before.
    #[must_use]
    pub fn previous_crc(&self) -> u32 {
        self.header.previous_crc
    }

    /// The LSN that follows the last one given when the segment was begun.
    #[must_use]
    pub fn first_lsn(&self) -> Lsn {
        self.header.first_lsn
    }

    /// The bytes of its header.
    #[must_use]
    pub fn header(&self) -> Vec<u8> {
        self.header.encode().0
    }

    /// Goes to a place between two frames. Whether it is one is seen with the next frame: its checks
    /// depend on what was before.
    pub fn seek(&mut self, position: RawPosition) {
        self.at = position;
        self.cursor
            .jump(position.offset, position.crc, position.lsn.next());
    }

    /// The next frame; `None` where no frame of this segment begins that follows the last one: at
    /// its end.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] if a frame of this segment begins there and is not whole, or what the
    /// disk says.
    pub fn next_frame(&mut self) -> Result<Option<SourceFrame>, LogError> {
        let offset = self.at.offset;
        if offset >= self.length {
            return Ok(None);
        }
        let bytes = match self.cursor.next_raw(self.length, 1) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(fault @ Fault::Io(_)) => return Err(fault.at(&self.path, offset)),
            Err(fault) => {
                let begun = self.cursor.begins_like_a_frame(self.length);
                if begun.map_err(|fault| fault.at(&self.path, offset))? {
                    return Err(fault.at(&self.path, offset));
                }
                return Ok(None);
            }
        };
        let header =
            FrameHeader::decode(&bytes).map_err(|what| corrupt(&self.path, offset, what))?;
        debug_assert!(bytes.len() >= FRAME_HEADER_BYTES, "it was checked");
        let from = self.at;
        self.at = RawPosition {
            segment: from.segment,
            offset: self.cursor.offset(),
            crc: header.crc,
            lsn: header.next_lsn().previous(),
        };
        Ok(Some(SourceFrame {
            from,
            next: self.at,
            bytes,
            timestamp_ms: header.timestamp_ms,
            unfinished: header.is_part() && !header.is_end(),
        }))
    }
}

/// The content of a file `epochs`.
#[must_use]
pub fn encode_epochs(cluster_id: u128, records: &[EpochRecord]) -> Vec<u8> {
    Epochs {
        cluster_id,
        records: records.to_vec(),
    }
    .encode()
}

/// Reads the file `epochs` in `dir`: the cluster, and its histories, oldest first.
///
/// # Errors
/// [`LogError::Corrupt`], or what the disk says.
pub fn read_epochs(disk: &dyn Disk, dir: &Path) -> Result<(u128, Vec<EpochRecord>), LogError> {
    let epochs = Epochs::load(disk, dir)?;
    Ok((epochs.cluster_id, epochs.records))
}
