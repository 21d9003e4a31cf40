//! What a segment holds and where: a sparse index by LSN and time, and for each block the labels
//! (tenant, collection) in it, so that a filtered reader steps over blocks without reading them.
//!
//! A block is a stretch of whole frames, about [`BLOCK_BYTES`] long, that begins with a frame in
//! which a commit begins; the frames of a large commit belong to the block it begins in, on into
//! the next segments. The writer extends the active segment's index frame by frame; a sealed
//! segment's lies beside it in a file, and is rebuilt from the frames if that is lost or damaged.
//!
//! ```text
//! index := magic "SHLOGIDX" format_version:u32 segment_number:u32 header_crc:u32
//!          end_crc:u32 end_offset:u64 next_lsn:u64 timestamp_ms:u64 begins_lsn:u64
//!          run:u8 run_offset:u64 run_previous_crc:u32 run_timestamp_ms:u64
//!          labels:u32 (tenant:u32 collection:u32)*
//!          blocks:u32 (offset:u64 first_lsn:u64 timestamp_ms:u64 previous_crc:u32
//!                      labels:u16 label:u16*)*          labels = 0xffff: not known, may be any
//!          crc:u32 of all before
//! ```

use std::collections::HashMap;

use springhead_proto::{CollectionId, Lsn, TenantId, TimestampMs};

use super::format::{FORMAT_VERSION, FrameHeader, HEADER_BYTES};
use crate::contract::ReadFilter;

/// A new block begins with the first frame that starts this far behind its block's start.
pub const BLOCK_BYTES: u64 = 64 * 1024;
/// A block with more labels than this is not described and never skipped.
const MAX_BLOCK_LABELS: usize = 1024;
const MAGIC: &[u8; 8] = b"SHLOGIDX";
const ANY_LABEL: u16 = u16::MAX;

/// Whose commit, and which collection of theirs. A commit that touches none has
/// [`CollectionId::NONE`].
pub type Label = (TenantId, CollectionId);

/// A stretch of frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Where its first frame lies in the segment.
    pub offset: u64,
    /// The LSN of its first change.
    pub first_lsn: Lsn,
    /// The time of its first frame.
    pub timestamp_ms: TimestampMs,
    /// The checksum of the frame before it.
    pub previous_crc: u32,
    /// Numbers of its labels in the dictionary; `None` when they were too many.
    labels: Option<Vec<u16>>,
}

/// Where a segment's frames end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The byte after the last frame.
    pub offset: u64,
    /// The last frame's checksum; the header's when there is none.
    pub crc: u32,
    /// The LSN after the last that came into being.
    pub next_lsn: Lsn,
    /// The time of the last frame of the log up to here.
    pub timestamp_ms: TimestampMs,
}

/// Whether a segment ends within a large commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// It does not.
    None,
    /// It does, and the commit began before this segment.
    Through,
    /// It does; the frames before the commit end here.
    Begun(End),
}

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SegmentIndex {
    blocks: Vec<Block>,
    labels: Vec<Label>,
    /// The place in `labels` of each label.
    numbers: HashMap<Label, u16>,
}

impl SegmentIndex {
    /// Takes in a frame that begins at `offset`, before its commits' labels.
    pub fn add_frame(&mut self, offset: u64, frame: &FrameHeader, previous_crc: u32) {
        if frame.is_part() && !frame.is_first() {
            return;
        }
        if self
            .blocks
            .last()
            .is_some_and(|block| offset - block.offset < BLOCK_BYTES)
        {
            return;
        }
        self.blocks.push(Block {
            offset,
            first_lsn: frame.first_lsn,
            timestamp_ms: frame.timestamp_ms,
            previous_crc,
            labels: Some(Vec::new()),
        });
    }

    /// Takes in the labels of a commit that begins in the last frame added.
    pub fn add_commit(&mut self, tenant: TenantId, collections: &[CollectionId]) {
        if collections.is_empty() {
            self.add_label((tenant, CollectionId::NONE));
        }
        for &collection in collections {
            self.add_label((tenant, collection));
        }
    }

    fn add_label(&mut self, label: Label) {
        let Some(block) = self.blocks.last_mut() else {
            return;
        };
        let Some(labels) = &mut block.labels else {
            return;
        };
        // Mostly one commit is like the one before.
        if let Some(&last) = labels.last()
            && self.labels[usize::from(last)] == label
        {
            return;
        }
        let number = match self.numbers.get(&label) {
            Some(&number) => number,
            None => {
                let Some(number) = u16::try_from(self.labels.len())
                    .ok()
                    .filter(|&number| number < ANY_LABEL)
                else {
                    block.labels = None;
                    return;
                };
                self.labels.push(label);
                self.numbers.insert(label, number);
                number
            }
        };
        if labels.contains(&number) {
            return;
        }
        if labels.len() == MAX_BLOCK_LABELS {
            block.labels = None;
        } else {
            labels.push(number);
        }
    }

    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The LSN of the first commit that begins in the segment.
    #[must_use]
    pub fn begins_lsn(&self) -> Option<Lsn> {
        self.blocks.first().map(|block| block.first_lsn)
    }

    /// The number of the last block that begins at or before `lsn`.
    #[must_use]
    pub fn block_of_lsn(&self, lsn: Lsn) -> Option<usize> {
        self.blocks
            .partition_point(|block| block.first_lsn <= lsn)
            .checked_sub(1)
    }

    /// The number of the last block that begins before `time`.
    #[must_use]
    pub fn block_before_time(&self, time: TimestampMs) -> Option<usize> {
        self.blocks
            .partition_point(|block| block.timestamp_ms < time)
            .checked_sub(1)
    }

    /// The number of the block that begins at `offset`.
    #[must_use]
    pub fn block_at_offset(&self, offset: u64) -> Option<usize> {
        self.blocks
            .binary_search_by_key(&offset, |block| block.offset)
            .ok()
    }

    /// Whether a commit in the block may pass `filter`.
    #[must_use]
    pub fn may_pass(&self, block: usize, filter: &ReadFilter) -> bool {
        let Some(labels) = self
            .blocks
            .get(block)
            .and_then(|block| block.labels.as_ref())
        else {
            return true;
        };
        labels.iter().any(|&number| {
            let (tenant, collection) = self.labels[usize::from(number)];
            filter.admits(tenant, &[collection])
        })
    }

    /// The tenants in the block; `None` if not known.
    #[must_use]
    pub fn block_tenants(&self, block: usize) -> Option<Vec<TenantId>> {
        let labels = self.blocks.get(block)?.labels.as_ref()?;
        Some(
            labels
                .iter()
                .map(|&number| self.labels[usize::from(number)].0)
                .collect(),
        )
    }

    /// Forgets the blocks that begin at or after `offset`.
    pub fn cut(&mut self, offset: u64) {
        self.blocks.retain(|block| block.offset < offset);
    }

    /// The file beside a sealed segment.
    #[must_use]
    pub fn encode(&self, segment_number: u32, header_crc: u32, end: &End, run: &Run) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        put_u32(&mut out, FORMAT_VERSION);
        put_u32(&mut out, segment_number);
        put_u32(&mut out, header_crc);
        put_u32(&mut out, end.crc);
        put_u64(&mut out, end.offset);
        put_u64(&mut out, end.next_lsn.0);
        put_u64(&mut out, end.timestamp_ms.0);
        put_u64(&mut out, self.begins_lsn().map_or(0, |lsn| lsn.0));
        let (kind, before) = match run {
            Run::None => (0, None),
            Run::Through => (1, None),
            Run::Begun(before) => (2, Some(before)),
        };
        out.push(kind);
        put_u64(&mut out, before.map_or(0, |end| end.offset));
        put_u32(&mut out, before.map_or(0, |end| end.crc));
        put_u64(&mut out, before.map_or(0, |end| end.timestamp_ms.0));
        put_u32(&mut out, small(self.labels.len()));
        for (tenant, collection) in &self.labels {
            put_u32(&mut out, tenant.0);
            put_u32(&mut out, collection.0);
        }
        put_u32(&mut out, small(self.blocks.len()));
        for block in &self.blocks {
            put_u64(&mut out, block.offset);
            put_u64(&mut out, block.first_lsn.0);
            put_u64(&mut out, block.timestamp_ms.0);
            put_u32(&mut out, block.previous_crc);
            let labels = block.labels.as_ref();
            let count = labels.map_or(Some(ANY_LABEL), |labels| u16::try_from(labels.len()).ok());
            put_u16(&mut out, count.expect("a block's labels are bounded"));
            for &label in labels.into_iter().flatten() {
                put_u16(&mut out, label);
            }
        }
        let crc = crc32c::crc32c(&out);
        put_u32(&mut out, crc);
        out
    }

    /// Reads such a file; `None` if it is damaged or not of that segment, and must be rebuilt.
    #[must_use]
    pub fn decode(
        bytes: &[u8],
        segment_number: u32,
        header_crc: u32,
    ) -> Option<(SegmentIndex, End, Run)> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let mut input = body;
        if take::<8>(&mut input)? != *MAGIC
            || take_u32(&mut input)? != FORMAT_VERSION
            || take_u32(&mut input)? != segment_number
            || take_u32(&mut input)? != header_crc
        {
            return None;
        }
        let crc = take_u32(&mut input)?;
        let end = End {
            crc,
            offset: take_u64(&mut input)?,
            next_lsn: Lsn(take_u64(&mut input)?),
            timestamp_ms: TimestampMs(take_u64(&mut input)?),
        };
        let begins = take_u64(&mut input)?;
        let [kind] = take::<1>(&mut input)?;
        let before = End {
            offset: take_u64(&mut input)?,
            crc: take_u32(&mut input)?,
            timestamp_ms: TimestampMs(take_u64(&mut input)?),
            next_lsn: end.next_lsn,
        };
        let run = match kind {
            0 => Run::None,
            1 => Run::Through,
            2 => Run::Begun(before),
            _ => return None,
        };
        let mut index = SegmentIndex::default();
        for number in 0..take_u32(&mut input)? {
            let label = (
                TenantId(take_u32(&mut input)?),
                CollectionId(take_u32(&mut input)?),
            );
            index.labels.push(label);
            index.numbers.insert(label, u16::try_from(number).ok()?);
        }
        for _ in 0..take_u32(&mut input)? {
            let block = index.take_block(&mut input)?;
            index.blocks.push(block);
        }
        let consistent = input.is_empty()
            && end.offset >= HEADER_BYTES
            && begins == index.begins_lsn().map_or(0, |lsn| lsn.0);
        consistent.then_some((index, end, run))
    }

    fn take_block(&self, input: &mut &[u8]) -> Option<Block> {
        let offset = take_u64(input)?;
        let first_lsn = Lsn(take_u64(input)?);
        let timestamp_ms = TimestampMs(take_u64(input)?);
        let previous_crc = take_u32(input)?;
        let count = take_u16(input)?;
        let labels = if count == ANY_LABEL {
            None
        } else {
            let mut labels = Vec::with_capacity(usize::from(count));
            for _ in 0..count {
                let label = take_u16(input)?;
                self.labels.get(usize::from(label))?;
                labels.push(label);
            }
            Some(labels)
        };
        Some(Block {
            offset,
            first_lsn,
            timestamp_ms,
            previous_crc,
            labels,
        })
    }
}

fn small(count: usize) -> u32 {
    u32::try_from(count).expect("bounded by the segment's size, which is under 4 GiB")
}

fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = input.split_first_chunk::<N>()?;
    *input = rest;
    Some(*taken)
}

fn take_u16(input: &mut &[u8]) -> Option<u16> {
    take(input).map(u16::from_le_bytes)
}

fn take_u32(input: &mut &[u8]) -> Option<u32> {
    take(input).map(u32::from_le_bytes)
}

fn take_u64(input: &mut &[u8]) -> Option<u64> {
    take(input).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_comes_back_and_damage_to_it_is_noticed() {
        let mut index = SegmentIndex::default();
        for block in 0..3u64 {
            index.blocks.push(Block {
                offset: HEADER_BYTES + block * BLOCK_BYTES,
                first_lsn: Lsn(10 + block),
                timestamp_ms: TimestampMs(100 * block),
                previous_crc: 7,
                labels: Some(Vec::new()),
            });
            index.add_commit(TenantId(1), &[CollectionId(100), CollectionId(101)]);
            index.add_commit(TenantId(2), &[]);
        }
        for collection in 0..2_000 {
            index.add_commit(TenantId(3), &[CollectionId(collection)]);
        }
        assert!(index.may_pass(
            2,
            &ReadFilter {
                tenant: Some(TenantId(9)),
                ..ReadFilter::default()
            }
        ));
        assert!(!index.may_pass(
            1,
            &ReadFilter {
                tenant: Some(TenantId(9)),
                ..ReadFilter::default()
            }
        ));
        let end = End {
            offset: 1 << 20,
            crc: 5,
            next_lsn: Lsn(99),
            timestamp_ms: TimestampMs(1_000),
        };
        for run in [
            Run::None,
            Run::Through,
            Run::Begun(End {
                offset: 5_000,
                ..end
            }),
        ] {
            let bytes = index.encode(4, 6, &end, &run);
            assert_eq!(
                SegmentIndex::decode(&bytes, 4, 6),
                Some((index.clone(), end, run))
            );
            assert_eq!(
                SegmentIndex::decode(&bytes, 5, 6),
                None,
                "of another segment"
            );
            assert_eq!(
                SegmentIndex::decode(&bytes, 4, 7),
                None,
                "of an earlier life"
            );
            for at in (0..bytes.len()).step_by(3) {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1;
                assert_eq!(SegmentIndex::decode(&damaged, 4, 6), None, "byte {at}");
                assert_eq!(
                    SegmentIndex::decode(&bytes[..at], 4, 6),
                    None,
                    "cut to {at}"
                );
            }
        }
    }
}
