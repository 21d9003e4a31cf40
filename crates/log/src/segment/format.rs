//! The bytes of a segment: header, frames, commits. Drawn in docs/log-format.md. Pure: no IO.
//!
//! All numbers are little-endian.
//!
//! ```text
//! segment := header (4096 bytes) frame* (zeros or stale bytes to the end of the file)
//!
//! header:  0 magic "SHLOGSEG"        8 format_version:u32     12 segment_number:u32
//!         16 cluster_id:u128        32 history_id:u128
//!         48 first_lsn:u64          56 epoch:u32              60 previous_crc:u32
//!         64 running_ms:u64         72 created_ms:u64         80 crc:u32 of bytes 0..80
//!         84 zeros
//!
//! frame:   0 crc:u32 of bytes 4..end, seeded with the segment header's crc
//!          4 magic "SHfr"            8 payload_length:u32     12 previous_crc:u32
//!         16 segment_number:u32     20 epoch:u32
//!         24 first_lsn:u64          32 count:u64
//!         40 timestamp_ms:u64       48 durable_lsn:u64
//!         56 flags:u16              58 zero:u16               60 commits:u32
//!         64 payload, then zeros to a multiple of 8
//!
//! payload := commit*                         (no flag)
//!          | bytes of one large commit       (PART; FIRST on the first, END on the last)
//! commit  := tenant:varint count:varint collections:varint collection:varint*
//!            length:varint changes:length bytes
//! ```

use springhead_proto::{
    CollectionId, Epoch, Lsn, TenantId, TimestampMs, read_varint, write_varint,
};

/// What this version writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;
/// A segment's header takes a page of its own, so that no later write can tear it.
pub const HEADER_BYTES: u64 = HEADER_LENGTH as u64;
const HEADER_LENGTH: usize = 4096;
/// A frame's bytes before its payload.
pub const FRAME_HEADER_BYTES: usize = 64;

const HEADER_MAGIC: &[u8; 8] = b"SHLOGSEG";
const HEADER_USED: usize = 84;
const FRAME_MAGIC: [u8; 4] = *b"SHfr";

/// The payload is a stretch of one large commit's bytes.
pub const FLAG_PART: u16 = 1;
/// The first stretch.
pub const FLAG_FIRST: u16 = 2;
/// The last stretch: with this frame the commit exists.
pub const FLAG_END: u16 = 4;

/// The first page of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// From 1, one more than the segment before.
    pub segment_number: u32,
    /// One cluster's logs; never changes.
    pub cluster_id: u128,
    /// The history that the segment belongs to.
    pub history_id: u128,
    /// The LSN that follows the last one given when the segment was begun.
    pub first_lsn: Lsn,
    pub epoch: Epoch,
    /// The checksum of the last frame of the segment before; 0 in the first.
    pub previous_crc: u32,
    /// How long the log had been open, over all its runs, when the segment was begun.
    pub running_ms: u64,
    /// The wall clock when the segment was begun. For people.
    pub created_ms: u64,
}

/// Why bytes are no segment header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadHeader {
    Damaged(&'static str),
    Newer { found: u32 },
}

impl SegmentHeader {
    /// The header's page, and its checksum, which seeds the checksums of the segment's frames.
    #[must_use]
    pub fn encode(&self) -> (Vec<u8>, u32) {
        let mut out = Vec::with_capacity(HEADER_LENGTH);
        out.extend_from_slice(HEADER_MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&self.segment_number.to_le_bytes());
        out.extend_from_slice(&self.cluster_id.to_le_bytes());
        out.extend_from_slice(&self.history_id.to_le_bytes());
        out.extend_from_slice(&self.first_lsn.0.to_le_bytes());
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.extend_from_slice(&self.previous_crc.to_le_bytes());
        out.extend_from_slice(&self.running_ms.to_le_bytes());
        out.extend_from_slice(&self.created_ms.to_le_bytes());
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.resize(HEADER_LENGTH, 0);
        (out, crc)
    }

    /// Reads a header's page; also gives its checksum.
    ///
    /// # Errors
    /// [`BadHeader`] if the bytes are none.
    pub fn decode(page: &[u8]) -> Result<(SegmentHeader, u32), BadHeader> {
        if page.len() < HEADER_LENGTH {
            return Err(BadHeader::Damaged("the segment's header is cut short"));
        }
        if &page[..8] != HEADER_MAGIC {
            return Err(BadHeader::Damaged(
                "the segment's header does not start with its magic",
            ));
        }
        let crc = u32_at(page, 80);
        if crc32c::crc32c(&page[..80]) != crc {
            return Err(BadHeader::Damaged(
                "the segment header's checksum does not match",
            ));
        }
        // Only a header with a right checksum is believed about its version.
        let found = u32_at(page, 8);
        if found > FORMAT_VERSION {
            return Err(BadHeader::Newer { found });
        }
        if found == 0
            || page[HEADER_USED..HEADER_LENGTH]
                .iter()
                .any(|&byte| byte != 0)
        {
            return Err(BadHeader::Damaged(
                "the segment's header holds what no version wrote",
            ));
        }
        let header = SegmentHeader {
            segment_number: u32_at(page, 12),
            cluster_id: u128_at(page, 16),
            history_id: u128_at(page, 32),
            first_lsn: Lsn(u64_at(page, 48)),
            epoch: Epoch(u32_at(page, 56)),
            previous_crc: u32_at(page, 60),
            running_ms: u64_at(page, 64),
            created_ms: u64_at(page, 72),
        };
        Ok((header, crc))
    }
}

/// A frame's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    pub crc: u32,
    pub payload_length: u32,
    /// The checksum of the frame before in this segment; the header's for the first.
    pub previous_crc: u32,
    pub segment_number: u32,
    pub epoch: Epoch,
    /// The LSN of its first change. For a part: of the commit that it is part of.
    pub first_lsn: Lsn,
    /// How many LSNs come into being with this frame; 0 for a part that is not the last.
    pub count: u64,
    pub timestamp_ms: TimestampMs,
    /// The last LSN known durable when the frame was made.
    pub durable_lsn: Lsn,
    pub flags: u16,
    /// How many commits the payload holds; 0 for a part that is not the last, 1 for the last.
    pub commits: u32,
}

impl FrameHeader {
    /// The frame's length on disk: header, payload, padding.
    #[must_use]
    pub fn frame_bytes(&self) -> u64 {
        frame_bytes(u64::from(self.payload_length))
    }

    /// The LSN after this frame's last change.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.first_lsn.plus(self.count)
    }

    #[must_use]
    pub fn is_part(&self) -> bool {
        self.flags & FLAG_PART != 0
    }

    #[must_use]
    pub fn is_first(&self) -> bool {
        self.flags & FLAG_FIRST != 0
    }

    #[must_use]
    pub fn is_end(&self) -> bool {
        self.flags & FLAG_END != 0
    }

    /// Reads the fields at the front of `bytes`; says nothing of whether they are true.
    ///
    /// # Errors
    /// A word on what is wrong, when no frame can begin like this.
    pub fn decode(bytes: &[u8]) -> Result<FrameHeader, &'static str> {
        if bytes.len() < FRAME_HEADER_BYTES {
            return Err("a frame's header is cut short");
        }
        if bytes[4..8] != FRAME_MAGIC {
            return Err("no frame begins here");
        }
        let flags = u16_at(bytes, 56);
        let all = FLAG_PART | FLAG_FIRST | FLAG_END;
        // FIRST and END say something only of a part.
        let known = flags == 0 || (flags & FLAG_PART != 0 && flags & !all == 0);
        if !known || u16_at(bytes, 58) != 0 {
            return Err("a frame has unknown flags");
        }
        if u64_at(bytes, 24).checked_add(u64_at(bytes, 32)).is_none() {
            return Err("a frame has more changes than there are LSNs");
        }
        Ok(FrameHeader {
            crc: u32_at(bytes, 0),
            payload_length: u32_at(bytes, 8),
            previous_crc: u32_at(bytes, 12),
            segment_number: u32_at(bytes, 16),
            epoch: Epoch(u32_at(bytes, 20)),
            first_lsn: Lsn(u64_at(bytes, 24)),
            count: u64_at(bytes, 32),
            timestamp_ms: TimestampMs(u64_at(bytes, 40)),
            durable_lsn: Lsn(u64_at(bytes, 48)),
            flags,
            commits: u32_at(bytes, 60),
        })
    }

    /// Whether `frame`, all of it, is what was written into the segment with the header checksum
    /// `seed`.
    #[must_use]
    pub fn checksum_holds(&self, seed: u32, frame: &[u8]) -> bool {
        crc32c::crc32c_append(seed, &frame[4..]) == self.crc
    }
}

/// The length on disk of a frame with that much payload.
#[must_use]
pub const fn frame_bytes(payload_length: u64) -> u64 {
    (FRAME_HEADER_BYTES as u64 + payload_length).next_multiple_of(8)
}

/// What [`finish_frame`] puts into the header.
#[derive(Debug, Clone, Copy)]
pub struct FrameFields {
    pub previous_crc: u32,
    pub segment_number: u32,
    pub epoch: Epoch,
    pub first_lsn: Lsn,
    pub count: u64,
    pub timestamp_ms: TimestampMs,
    pub durable_lsn: Lsn,
    pub flags: u16,
    pub commits: u32,
}

/// Starts a frame in `out`, which is emptied: room for the header, the payload goes behind it.
pub fn start_frame(out: &mut Vec<u8>) {
    out.clear();
    out.resize(FRAME_HEADER_BYTES, 0);
}

/// Pads the frame begun by [`start_frame`], fills in its header, gives its checksum. `seed` is the
/// segment header's checksum.
pub fn finish_frame(out: &mut Vec<u8>, seed: u32, fields: &FrameFields) -> u32 {
    let payload_length = u32::try_from(out.len() - FRAME_HEADER_BYTES)
        .expect("a frame is bounded by its segment, which is under 4 GiB");
    out.resize(out.len().next_multiple_of(8), 0);
    out[4..8].copy_from_slice(&FRAME_MAGIC);
    out[8..12].copy_from_slice(&payload_length.to_le_bytes());
    out[12..16].copy_from_slice(&fields.previous_crc.to_le_bytes());
    out[16..20].copy_from_slice(&fields.segment_number.to_le_bytes());
    out[20..24].copy_from_slice(&fields.epoch.0.to_le_bytes());
    out[24..32].copy_from_slice(&fields.first_lsn.0.to_le_bytes());
    out[32..40].copy_from_slice(&fields.count.to_le_bytes());
    out[40..48].copy_from_slice(&fields.timestamp_ms.0.to_le_bytes());
    out[48..56].copy_from_slice(&fields.durable_lsn.0.to_le_bytes());
    out[56..58].copy_from_slice(&fields.flags.to_le_bytes());
    out[58..60].copy_from_slice(&[0; 2]);
    out[60..64].copy_from_slice(&fields.commits.to_le_bytes());
    let crc = crc32c::crc32c_append(seed, &out[4..]);
    out[0..4].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// Appends what stands before a commit's changes.
pub fn write_commit_head(
    out: &mut Vec<u8>,
    tenant: TenantId,
    count: u64,
    collections: &[CollectionId],
    changes_length: u64,
) {
    write_varint(out, u64::from(tenant.0));
    write_varint(out, count);
    write_varint(out, collections.len() as u64);
    for collection in collections {
        write_varint(out, u64::from(collection.0));
    }
    write_varint(out, changes_length);
}

/// What stands before a commit's changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitHead {
    pub tenant: TenantId,
    pub count: u64,
    pub changes_length: u64,
}

/// Takes a commit's head off the front of `input`; its collections go into `collections`, which is
/// emptied first. `None` if the bytes are none.
pub fn read_commit_head(
    input: &mut &[u8],
    collections: &mut Vec<CollectionId>,
) -> Option<CommitHead> {
    collections.clear();
    let tenant = TenantId(u32::try_from(read_varint(input)?).ok()?);
    let count = read_varint(input)?;
    let labels = usize::try_from(read_varint(input)?).ok()?;
    // Each takes at least a byte, so a larger number cannot be true.
    if count == 0 || labels > input.len() {
        return None;
    }
    for _ in 0..labels {
        collections.push(CollectionId(u32::try_from(read_varint(input)?).ok()?));
    }
    let changes_length = read_varint(input)?;
    Some(CommitHead {
        tenant,
        count,
        changes_length,
    })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(field(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(field(bytes, at))
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the range is N long")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use springhead_proto::{ChangeKind, RowBuilder, SchemaVersion, ValueRef, encode_change};

    use super::*;

    /// The format as readers of other languages see it; the examples in it are checked here.
    const DOCUMENT: &str = include_str!("../../../../docs/log-format.md");

    fn dump(bytes: &[u8]) -> String {
        let lines = bytes.chunks(16).enumerate().map(|(line, bytes)| {
            let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{:04x}  {}\n", line * 16, hex.join(" "))
        });
        lines.collect()
    }

    #[track_caller]
    fn check_documented(bytes: &[u8]) {
        let dump = dump(bytes);
        assert!(
            DOCUMENT.contains(&dump),
            "docs/log-format.md does not show\n{dump}"
        );
    }

    fn golden_header() -> SegmentHeader {
        SegmentHeader {
            segment_number: 1,
            cluster_id: 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff,
            history_id: 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100,
            first_lsn: Lsn(1),
            epoch: Epoch(0x9c1e_04d7),
            previous_crc: 0,
            running_ms: 0,
            created_ms: 1_718_000_000_000,
        }
    }

    /// One commit of tenant 1: one insert of the row (1, 'a') into collection 100.
    fn golden_frame(seed: u32) -> Vec<u8> {
        let mut row = Vec::new();
        let mut values = RowBuilder::new(&mut row, 2);
        values.push(ValueRef::Integer(1));
        values.push(ValueRef::Text("a"));
        let mut changes = Vec::new();
        let (collection, version) = (CollectionId(100), SchemaVersion(1));
        encode_change(
            &mut changes,
            ChangeKind::Insert,
            collection,
            version,
            None,
            Some(&row),
        );
        let mut frame = Vec::new();
        start_frame(&mut frame);
        write_commit_head(
            &mut frame,
            TenantId(1),
            1,
            &[collection],
            changes.len() as u64,
        );
        frame.extend_from_slice(&changes);
        let fields = FrameFields {
            previous_crc: seed,
            segment_number: 1,
            epoch: Epoch(0x9c1e_04d7),
            first_lsn: Lsn(1),
            count: 1,
            timestamp_ms: TimestampMs(1_718_000_000_001),
            durable_lsn: Lsn(0),
            flags: 0,
            commits: 1,
        };
        finish_frame(&mut frame, seed, &fields);
        frame
    }

    #[test]
    fn a_header_and_a_frame_have_the_documented_bytes() {
        let (page, seed) = golden_header().encode();
        assert_eq!(page.len() as u64, HEADER_BYTES);
        check_documented(&page[..96]);
        check_documented(&golden_frame(seed));
        assert_eq!(SegmentHeader::decode(&page), Ok((golden_header(), seed)));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let (page, _) = golden_header().encode();
        for at in 0..page.len() {
            for bit in 0..8 {
                let mut damaged = page.clone();
                damaged[at] ^= 1 << bit;
                assert!(
                    SegmentHeader::decode(&damaged).is_err(),
                    "byte {at} bit {bit}"
                );
            }
        }
    }

    #[test]
    fn every_flipped_bit_of_a_frame_is_noticed() {
        let (_, seed) = golden_header().encode();
        let frame = golden_frame(seed);
        let sound = FrameHeader::decode(&frame).expect("sound");
        assert!(sound.checksum_holds(seed, &frame));
        assert!(
            !sound.checksum_holds(seed ^ 1, &frame),
            "another segment's seed"
        );
        for at in 0..frame.len() {
            for bit in 0..8 {
                let mut damaged = frame.clone();
                damaged[at] ^= 1 << bit;
                let header = FrameHeader::decode(&damaged);
                let holds = header.is_ok_and(|header| header.checksum_holds(seed, &damaged));
                assert!(!holds, "byte {at} bit {bit}");
            }
        }
    }

    proptest! {
        #[test]
        fn frames_come_back_as_they_were(
            payload in proptest::collection::vec(any::<u8>(), 0..300),
            (seed, previous_crc, segment_number, epoch) in any::<(u32, u32, u32, u32)>(),
            (first_lsn, count, timestamp_ms, durable_lsn) in (0..u64::MAX / 2, any::<u32>(), any::<u64>(), any::<u64>()),
            part in prop::sample::select(vec![0, 1, 3, 5, 7]),
            commits in any::<u32>(),
        ) {
            let fields = FrameFields {
                previous_crc,
                segment_number,
                epoch: Epoch(epoch),
                first_lsn: Lsn(first_lsn),
                count: u64::from(count),
                timestamp_ms: TimestampMs(timestamp_ms),
                durable_lsn: Lsn(durable_lsn),
                flags: part,
                commits,
            };
            let mut frame = Vec::new();
            start_frame(&mut frame);
            frame.extend_from_slice(&payload);
            let crc = finish_frame(&mut frame, seed, &fields);
            let header = FrameHeader::decode(&frame).expect("sound");
            prop_assert!(header.checksum_holds(seed, &frame));
            prop_assert_eq!(header.frame_bytes(), frame.len() as u64);
            prop_assert_eq!(frame.len() % 8, 0);
            let back = FrameFields {
                previous_crc: header.previous_crc,
                segment_number: header.segment_number,
                epoch: header.epoch,
                first_lsn: header.first_lsn,
                count: header.count,
                timestamp_ms: header.timestamp_ms,
                durable_lsn: header.durable_lsn,
                flags: header.flags,
                commits: header.commits,
            };
            prop_assert_eq!(format!("{back:?}"), format!("{fields:?}"));
            prop_assert_eq!(header.crc, crc);
            let length = usize::try_from(header.payload_length).expect("small");
            prop_assert_eq!(&frame[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + length], &payload[..]);
        }

        #[test]
        fn a_frame_whose_lsns_would_pass_the_last_there_is_is_none(count in 1..u64::MAX) {
            let mut frame = golden_frame(1);
            frame[24..32].copy_from_slice(&(u64::MAX - count + 1).to_le_bytes());
            frame[32..40].copy_from_slice(&count.to_le_bytes());
            prop_assert!(FrameHeader::decode(&frame).is_err());
            frame[24..32].copy_from_slice(&(u64::MAX - count).to_le_bytes());
            prop_assert!(FrameHeader::decode(&frame).is_ok());
        }

        #[test]
        fn any_bytes_are_a_frame_header_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = FrameHeader::decode(&bytes);
            let _ = read_commit_head(&mut &bytes[..], &mut Vec::new());
        }

        #[test]
        fn commit_heads_come_back(
            tenant in any::<u32>(),
            count in 1..u64::MAX,
            collections in proptest::collection::vec(any::<u32>(), 0..20),
            changes_length in any::<u64>(),
        ) {
            let collections: Vec<_> = collections.into_iter().map(CollectionId).collect();
            let mut bytes = Vec::new();
            write_commit_head(&mut bytes, TenantId(tenant), count, &collections, changes_length);
            let mut input = &bytes[..];
            let mut read = Vec::new();
            let head = read_commit_head(&mut input, &mut read).expect("sound");
            prop_assert_eq!(head, CommitHead { tenant: TenantId(tenant), count, changes_length });
            prop_assert_eq!(read, collections);
            prop_assert!(input.is_empty());
        }
    }
}
