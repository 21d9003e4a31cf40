//! A large commit on its way out: its bytes arrive frame by frame, cut anywhere, and leave as
//! slices cut between changes. Holds at most one frame and one change.

use bytes::{Bytes, BytesMut};
use springhead_proto::{Lsn, TenantId, read_varint};

use super::format::{CommitHead, FrameHeader};
use crate::contract::CommitSlice;

/// See the module's text.
pub struct LargeCommit {
    tenant: TenantId,
    lsn: Lsn,
    count: u64,
    /// Bytes of changes still to come.
    left_bytes: u64,
    /// The place of the next change to leave, from 0.
    index: u64,
    /// The beginning of a change whose end has not come.
    carry: BytesMut,
    /// How long `carry` must be before it is worth looking at again.
    needed: usize,
    wanted: bool,
}

impl LargeCommit {
    /// The commit that `head` describes, in the frame of `header`; not `wanted`, it is only
    /// counted.
    pub fn new(head: &CommitHead, header: &FrameHeader, wanted: bool) -> LargeCommit {
        LargeCommit {
            tenant: head.tenant,
            lsn: header.first_lsn,
            count: head.count,
            left_bytes: head.changes_length,
            index: 0,
            carry: BytesMut::new(),
            needed: 0,
            wanted,
        }
    }

    /// The same commit, to be walked and not shown.
    pub fn unwanted(&self) -> LargeCommit {
        LargeCommit {
            carry: BytesMut::new(),
            wanted: false,
            ..*self
        }
    }

    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Takes the next frame's bytes of changes; gives the whole changes that can leave, if any.
    pub fn take(
        &mut self,
        bytes: Bytes,
        header: &FrameHeader,
    ) -> Result<Option<CommitSlice>, &'static str> {
        self.left_bytes = self
            .left_bytes
            .checked_sub(bytes.len() as u64)
            .ok_or("a large commit has more bytes than it says")?;
        if header.is_end() && (self.left_bytes > 0 || header.count != self.count) {
            return Err("a large commit does not end where it says");
        }
        if !self.wanted {
            return Ok(None);
        }
        let slice = self.cut(bytes, header)?;
        if header.is_end() && (self.index != self.count || !self.carry.is_empty()) {
            return Err("a large commit does not hold as many changes as it says");
        }
        Ok(slice)
    }

    fn cut(
        &mut self,
        bytes: Bytes,
        header: &FrameHeader,
    ) -> Result<Option<CommitSlice>, &'static str> {
        let bytes = if self.carry.is_empty() {
            bytes
        } else {
            self.carry.extend_from_slice(&bytes);
            if self.carry.len() < self.needed {
                return Ok(None);
            }
            self.carry.split().freeze()
        };
        let mut at = 0;
        let mut count = 0;
        while at < bytes.len() {
            match change_length(&bytes[at..])? {
                Length::Known(length) => {
                    at += length;
                    count += 1;
                }
                Length::AtLeast(length) => {
                    self.needed = length;
                    break;
                }
            }
        }
        self.carry.extend_from_slice(&bytes[at..]);
        if count == 0 {
            return Ok(None);
        }
        let index = self.index;
        self.index += count;
        if self.index > self.count {
            return Err("a large commit holds more changes than it says");
        }
        Ok(Some(CommitSlice {
            tenant: self.tenant,
            epoch: header.epoch,
            timestamp_ms: header.timestamp_ms,
            commit_lsn: self.lsn,
            commit_count: self.count,
            index,
            count,
            last: self.index == self.count,
            changes: bytes.slice(..at),
        }))
    }
}

enum Length {
    Known(usize),
    /// The change is cut off; it has at least that many bytes.
    AtLeast(usize),
}

/// How long the encoded change at the front of `bytes` is (`springhead_proto::encode_change`).
fn change_length(bytes: &[u8]) -> Result<Length, &'static str> {
    let Some((&[_, images], mut rest)) = bytes.split_first_chunk::<2>() else {
        return Ok(Length::AtLeast(bytes.len() + 1));
    };
    for _ in 0..2 {
        let Some(_) = take_varint(&mut rest)? else {
            return Ok(Length::AtLeast(bytes.len() + 1));
        };
    }
    for _ in 0..(images & 0b11).count_ones() {
        let Some(length) = take_varint(&mut rest)? else {
            return Ok(Length::AtLeast(bytes.len() + 1));
        };
        let length = usize::try_from(length).map_err(|_| "a row is longer than memory")?;
        let Some(after) = rest.get(length..) else {
            let before = bytes.len() - rest.len();
            return Ok(Length::AtLeast(before.saturating_add(length)));
        };
        rest = after;
    }
    Ok(Length::Known(bytes.len() - rest.len()))
}

/// A varint off the front; `None` if more bytes may complete it.
fn take_varint(input: &mut &[u8]) -> Result<Option<u64>, &'static str> {
    match read_varint(input) {
        Some(value) => Ok(Some(value)),
        None if input.len() < 10 && input.iter().all(|byte| byte & 0x80 != 0) => Ok(None),
        None => Err("a change is damaged"),
    }
}
