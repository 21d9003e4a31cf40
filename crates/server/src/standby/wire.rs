//! What nodes say to one another (docs/replication.md). Framing and fields, no sockets.
//!
//! ```text
//!  0      4      8              16     17
//!  | length | crc | sequence       | kind | fields …            length counts from `crc` on
//! ```
//!
//! `crc` is the CRC32C of all behind it, so that nothing that a network did to a message is ever
//! believed; `sequence` counts each side's messages from 0, so that none is lost, repeated or out of
//! order unnoticed. Numbers are little-endian, texts and lists start with a u32 of their length.

use bytes::Bytes;
use springhead_log::{EpochRecord, RawPosition};
use springhead_proto::{Epoch, Lsn};

use super::fields::{
    Fields, put_base_have, put_bytes, put_epoch, put_epochs, put_identity, put_position, put_u32,
    put_verdict,
};
use crate::vote::messages::{Ask, Said, ask, put_ask, put_said, said};

/// The protocol's version: a node speaks with those of its own.
pub const VERSION: u32 = 4;
/// Before a message's fields.
pub const HEAD_BYTES: usize = 17;
/// A longer message is not believed.
pub const MAX_MESSAGE_BYTES: usize = 80 << 20;
/// Frame ends that a standby names at most.
pub const MAX_ENDS: usize = 256;

/// Random bytes that one side draws and the other must answer for.
pub type Nonce = [u8; 32];
/// A proof of knowing the token.
pub type Mac = [u8; 32];

/// What a node that connects is after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The log from where it ends.
    Stream,
    /// Everything, from the beginning.
    BaseBackup,
    /// Only to know who is there and how far.
    Probe,
    /// To vote; asked of a witness.
    Vote,
}

/// Who a node is and how far its log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// What synchronous_standbys calls it.
    pub name: String,
    /// Where others reach it over HTTP.
    pub address: String,
    /// 0 while it has no log yet.
    pub cluster_id: u128,
    pub epochs: Vec<EpochRecord>,
    /// Behind the last frame that it has.
    pub written: RawPosition,
    /// The last LSN that its readers may see.
    pub durable: Lsn,
    pub is_primary: bool,
    /// Where it takes its primary to be, if it is none.
    pub primary: String,
    /// The highest epoch number that it has promised: it follows no lower one.
    pub promised: u32,
}

impl Identity {
    /// Of who has no log (yet), reached at `address`.
    pub fn without_log(name: &str, address: &str) -> Identity {
        Identity {
            name: name.to_owned(),
            address: address.to_owned(),
            cluster_id: 0,
            epochs: Vec::new(),
            written: RawPosition {
                segment: 1,
                offset: 0,
                crc: 0,
                lsn: Lsn::ZERO,
            },
            durable: Lsn::ZERO,
            is_primary: false,
            primary: String::new(),
            promised: 0,
        }
    }

    /// The number of its epoch; 0 while it has none.
    pub fn epoch_number(&self) -> u32 {
        self.epochs.last().map_or(0, |record| record.number)
    }
}

/// How far a standby has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    pub written: Lsn,
    pub flushed: Lsn,
    pub applied: Lsn,
}

/// What of a standby's progress commits wait for, beside what it has flushed: told at once, where all
/// else is told with the next acknowledgement. A hint; what is acknowledged counts in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    pub written: bool,
    pub applied: bool,
}

impl Wanted {
    const WRITTEN: u8 = 1;
    const APPLIED: u8 = 2;

    /// As one byte.
    pub fn bits(self) -> u8 {
        u8::from(self.written) * Wanted::WRITTEN + u8::from(self.applied) * Wanted::APPLIED
    }

    /// From its byte; `None` for one that no such has.
    pub fn from_bits(bits: u8) -> Option<Wanted> {
        (bits <= Wanted::WRITTEN + Wanted::APPLIED).then_some(Wanted {
            written: bits & Wanted::WRITTEN != 0,
            applied: bits & Wanted::APPLIED != 0,
        })
    }
}

/// What the node that connected says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToPrimary {
    Hello {
        version: u32,
        purpose: Purpose,
        nonce: Nonce,
        identity: Identity,
        /// The last ends of its frames, newest first.
        ends: Vec<RawPosition>,
    },
    Proof {
        mac: Mac,
    },
    /// Also the heartbeat.
    Ack {
        /// Of what it acknowledges; a primary of another epoch must not count it.
        epoch: Epoch,
        progress: Progress,
        /// `sent_ms` of the last announcement that it has heard.
        echo_ms: u64,
    },
    /// What a node asks a witness.
    Ask(Ask),
    /// What has come of a base backup that was cut; nothing for the first one. Follows the verdict.
    BaseHave(BaseHave),
}

/// What a node has of a base backup.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BaseHave {
    /// The history that its sender was in; 0 for nothing.
    pub history_id: u128,
    /// As in [`ToStandby::BaseBegin`].
    pub start: Lsn,
    pub copies: u64,
    /// No file has anything behind this LSN.
    pub through: Lsn,
    /// Paths of the files that are whole.
    pub files: Vec<String>,
    /// The beginning of another.
    pub part: Option<BasePart>,
    /// The end of the log that came behind the files.
    pub log: Option<RawPosition>,
}

/// So many of a file's first bytes, and their CRC32C.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BasePart {
    pub path: String,
    pub bytes: u64,
    pub crc: u32,
}

/// What is to become of a standby's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Its log is a beginning of this one: frames follow.
    Stream,
    /// What it has after this LSN is not of this history: it must cut its log there.
    Truncate { after: Lsn, why: String },
    /// It needs a base backup.
    BaseBackup { why: String },
    /// It must not follow this node.
    Refused { why: String },
    /// This node is no primary; that one may be.
    NotPrimary { primary: String },
}

/// What the node that was connected to says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToStandby {
    Welcome {
        version: u32,
        nonce: Nonce,
        mac: Mac,
        identity: Identity,
    },
    Verdict(Verdict),
    /// A segment begins.
    Segment {
        header: Bytes,
        epoch: EpochRecord,
    },
    /// Whole frames; durable at the sender or not yet.
    Frames {
        epoch: Epoch,
        from: RawPosition,
        bytes: Bytes,
    },
    /// What the sender has durable; also the heartbeat.
    Announce {
        epoch: Epoch,
        durable: Lsn,
        timestamp_ms: u64,
        /// The epoch number that the sender was elected for; 0 while it does not lead, or nobody votes.
        leads: u32,
        /// When it was sent, by a clock of the sender's that nobody else can read; it comes back.
        sent_ms: u64,
        wanted: Wanted,
    },
    /// A base backup begins, or goes on with what is there: its state was taken at or after `start`, and
    /// is whole with the log behind that.
    BaseBegin {
        epochs: Vec<EpochRecord>,
        start: Lsn,
        /// All of them, those that are there already included.
        files: u32,
        bytes: u64,
        /// Of what the files are sent: drawn by the sender.
        copies: u64,
        goes_on: bool,
    },
    /// A copy is being made: the next bytes take their time.
    BaseWait,
    /// One file's next bytes, in order. The path is relative to the data directory.
    BaseFile {
        path: String,
        offset: u64,
        bytes: Bytes,
        is_last: bool,
        /// The sender's last durable LSN when it had made the copy: what the file has is at or before it.
        through: Lsn,
    },
    /// The files are complete; log follows as frames until `end`, from a segment's beginning or, if it
    /// `goes_on`, from where the standby has said that it ends.
    BaseEnd {
        end: Lsn,
        goes_on: bool,
    },
    /// A switchover: the sender takes no writes any more, and everything up to `end` is durable here.
    HandOver {
        end: Lsn,
    },
    /// A witness answers.
    Said(Said),
}

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("a message of {0} bytes is longer than any can be")]
    TooLong(u64),
    #[error("a message was damaged on its way")]
    Damaged,
    #[error("message {found} came where {expected} was due")]
    OutOfOrder { expected: u64, found: u64 },
    #[error("a message of kind {0}, which this version does not know")]
    UnknownKind(u8),
    #[error("a message of kind {0} has other fields than it should")]
    Malformed(u8),
}

/// One of the two directions.
pub trait Message: Sized {
    fn kind(&self) -> u8;
    fn write_fields(&self, out: &mut Vec<u8>);
    /// # Errors
    /// `None` for fields that are none.
    fn read_fields(kind: u8, input: &mut Fields<'_>) -> Option<Result<Self, WireError>>;
}

/// Appends `message`, the `sequence`th, to `out`.
pub fn encode<M: Message>(message: &M, sequence: u64, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&sequence.to_le_bytes());
    out.push(message.kind());
    message.write_fields(out);
    let length = u32::try_from(out.len() - start - 4).expect("messages are bounded");
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    let crc = crc32c::crc32c(&out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// How many bytes the message that begins with `head` has behind its length.
///
/// # Errors
/// [`WireError::TooLong`].
pub fn body_length(head: [u8; 4]) -> Result<usize, WireError> {
    let length = u32::from_le_bytes(head);
    let bytes = usize::try_from(length).unwrap_or(usize::MAX);
    if !(HEAD_BYTES - 4..=MAX_MESSAGE_BYTES).contains(&bytes) {
        return Err(WireError::TooLong(length.into()));
    }
    Ok(bytes)
}

/// Reads what stands behind the length of the `sequence`th message.
///
/// # Errors
/// [`WireError`].
pub fn decode<M: Message>(body: &Bytes, sequence: u64) -> Result<M, WireError> {
    if body.len() < HEAD_BYTES - 4 {
        return Err(WireError::Damaged);
    }
    let crc = u32::from_le_bytes(body[..4].try_into().expect("four bytes"));
    if crc32c::crc32c(&body[4..]) != crc {
        return Err(WireError::Damaged);
    }
    let found = u64::from_le_bytes(body[4..12].try_into().expect("eight bytes"));
    if found != sequence {
        return Err(WireError::OutOfOrder {
            expected: sequence,
            found,
        });
    }
    let kind = body[12];
    let mut fields = Fields {
        body,
        at: HEAD_BYTES - 4,
    };
    let message = M::read_fields(kind, &mut fields).unwrap_or(Err(WireError::Malformed(kind)))?;
    if fields.at != body.len() {
        return Err(WireError::Malformed(kind));
    }
    Ok(message)
}

impl Message for ToPrimary {
    fn kind(&self) -> u8 {
        match self {
            ToPrimary::Hello { .. } => 1,
            ToPrimary::Proof { .. } => 2,
            ToPrimary::Ack { .. } => 3,
            ToPrimary::Ask(_) => 4,
            ToPrimary::BaseHave(_) => 5,
        }
    }

    fn write_fields(&self, out: &mut Vec<u8>) {
        match self {
            ToPrimary::Hello {
                version,
                purpose,
                nonce,
                identity,
                ends,
            } => {
                out.extend_from_slice(&version.to_le_bytes());
                out.push(match purpose {
                    Purpose::Stream => 0,
                    Purpose::BaseBackup => 1,
                    Purpose::Probe => 2,
                    Purpose::Vote => 3,
                });
                out.extend_from_slice(nonce);
                put_identity(out, identity);
                put_u32(out, ends.len());
                for end in ends {
                    put_position(out, *end);
                }
            }
            ToPrimary::Proof { mac } => out.extend_from_slice(mac),
            ToPrimary::Ack {
                epoch,
                progress,
                echo_ms,
            } => {
                out.extend_from_slice(&epoch.0.to_le_bytes());
                for lsn in [progress.written, progress.flushed, progress.applied] {
                    out.extend_from_slice(&lsn.0.to_le_bytes());
                }
                out.extend_from_slice(&echo_ms.to_le_bytes());
            }
            ToPrimary::Ask(ask) => put_ask(out, ask),
            ToPrimary::BaseHave(have) => put_base_have(out, have),
        }
    }

    fn read_fields(kind: u8, input: &mut Fields<'_>) -> Option<Result<ToPrimary, WireError>> {
        Some(Ok(match kind {
            1 => ToPrimary::Hello {
                version: input.u32()?,
                purpose: match input.u8()? {
                    0 => Purpose::Stream,
                    1 => Purpose::BaseBackup,
                    2 => Purpose::Probe,
                    3 => Purpose::Vote,
                    _ => return None,
                },
                nonce: input.array()?,
                identity: input.identity()?,
                ends: {
                    let count = input.count(24)?;
                    if count > MAX_ENDS {
                        return None;
                    }
                    (0..count)
                        .map(|_| input.position())
                        .collect::<Option<_>>()?
                },
            },
            2 => ToPrimary::Proof {
                mac: input.array()?,
            },
            3 => ToPrimary::Ack {
                epoch: Epoch(input.u32()?),
                progress: Progress {
                    written: input.lsn()?,
                    flushed: input.lsn()?,
                    applied: input.lsn()?,
                },
                echo_ms: input.u64()?,
            },
            4 => ToPrimary::Ask(ask(input)?),
            5 => ToPrimary::BaseHave(input.base_have()?),
            kind => return Some(Err(WireError::UnknownKind(kind))),
        }))
    }
}

impl Message for ToStandby {
    fn kind(&self) -> u8 {
        match self {
            ToStandby::Welcome { .. } => 65,
            ToStandby::Verdict(_) => 66,
            ToStandby::Segment { .. } => 67,
            ToStandby::Frames { .. } => 68,
            ToStandby::Announce { .. } => 69,
            ToStandby::BaseBegin { .. } => 70,
            ToStandby::BaseFile { .. } => 71,
            ToStandby::BaseEnd { .. } => 72,
            ToStandby::HandOver { .. } => 73,
            ToStandby::Said(_) => 74,
            ToStandby::BaseWait => 75,
        }
    }

    fn write_fields(&self, out: &mut Vec<u8>) {
        match self {
            ToStandby::Welcome {
                version,
                nonce,
                mac,
                identity,
            } => {
                out.extend_from_slice(&version.to_le_bytes());
                out.extend_from_slice(nonce);
                out.extend_from_slice(mac);
                put_identity(out, identity);
            }
            ToStandby::Verdict(verdict) => put_verdict(out, verdict),
            ToStandby::Segment { header, epoch } => {
                put_epoch(out, epoch);
                put_bytes(out, header);
            }
            ToStandby::Frames { epoch, from, bytes } => {
                out.extend_from_slice(&epoch.0.to_le_bytes());
                put_position(out, *from);
                put_bytes(out, bytes);
            }
            ToStandby::Announce {
                epoch,
                durable,
                timestamp_ms,
                leads,
                sent_ms,
                wanted,
            } => {
                out.extend_from_slice(&epoch.0.to_le_bytes());
                out.extend_from_slice(&durable.0.to_le_bytes());
                out.extend_from_slice(&timestamp_ms.to_le_bytes());
                out.extend_from_slice(&leads.to_le_bytes());
                out.extend_from_slice(&sent_ms.to_le_bytes());
                out.push(wanted.bits());
            }
            ToStandby::BaseBegin {
                epochs,
                start,
                files,
                bytes,
                copies,
                goes_on,
            } => {
                put_epochs(out, epochs);
                out.extend_from_slice(&start.0.to_le_bytes());
                out.extend_from_slice(&files.to_le_bytes());
                out.extend_from_slice(&bytes.to_le_bytes());
                out.extend_from_slice(&copies.to_le_bytes());
                out.push(u8::from(*goes_on));
            }
            ToStandby::BaseWait => {}
            ToStandby::BaseFile {
                path,
                offset,
                bytes,
                is_last,
                through,
            } => {
                put_bytes(out, path.as_bytes());
                out.extend_from_slice(&offset.to_le_bytes());
                put_bytes(out, bytes);
                out.push(u8::from(*is_last));
                out.extend_from_slice(&through.0.to_le_bytes());
            }
            ToStandby::BaseEnd { end, goes_on } => {
                out.extend_from_slice(&end.0.to_le_bytes());
                out.push(u8::from(*goes_on));
            }
            ToStandby::HandOver { end } => out.extend_from_slice(&end.0.to_le_bytes()),
            ToStandby::Said(said) => put_said(out, said),
        }
    }

    fn read_fields(kind: u8, input: &mut Fields<'_>) -> Option<Result<ToStandby, WireError>> {
        Some(Ok(match kind {
            65 => ToStandby::Welcome {
                version: input.u32()?,
                nonce: input.array()?,
                mac: input.array()?,
                identity: input.identity()?,
            },
            66 => ToStandby::Verdict(input.verdict()?),
            67 => ToStandby::Segment {
                epoch: input.epoch()?,
                header: input.bytes()?,
            },
            68 => ToStandby::Frames {
                epoch: Epoch(input.u32()?),
                from: input.position()?,
                bytes: input.bytes()?,
            },
            69 => ToStandby::Announce {
                epoch: Epoch(input.u32()?),
                durable: input.lsn()?,
                timestamp_ms: input.u64()?,
                leads: input.u32()?,
                sent_ms: input.u64()?,
                wanted: Wanted::from_bits(input.u8()?)?,
            },
            70 => ToStandby::BaseBegin {
                epochs: input.epochs()?,
                start: input.lsn()?,
                files: input.u32()?,
                bytes: input.u64()?,
                copies: input.u64()?,
                goes_on: input.flag()?,
            },
            71 => ToStandby::BaseFile {
                path: input.text()?,
                offset: input.u64()?,
                bytes: input.bytes()?,
                is_last: input.flag()?,
                through: input.lsn()?,
            },
            72 => ToStandby::BaseEnd {
                end: input.lsn()?,
                goes_on: input.flag()?,
            },
            73 => ToStandby::HandOver { end: input.lsn()? },
            74 => ToStandby::Said(said(input)?),
            75 => ToStandby::BaseWait,
            kind => return Some(Err(WireError::UnknownKind(kind))),
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(number: u32) -> EpochRecord {
        EpochRecord {
            epoch: Epoch(0x9c1e_04d7 + number),
            number,
            history_id: 7 + u128::from(number),
            fork_lsn: Lsn(u64::from(number) * 10),
        }
    }

    fn position(offset: u64) -> RawPosition {
        RawPosition {
            segment: 3,
            offset,
            crc: 0xdead_beef,
            lsn: Lsn(42),
        }
    }

    fn identity() -> Identity {
        Identity {
            name: "a".to_owned(),
            address: "http://127.0.0.1:6480".to_owned(),
            cluster_id: 1 << 100,
            epochs: vec![record(1), record(2)],
            written: position(4096),
            durable: Lsn(41),
            is_primary: true,
            primary: String::new(),
            promised: 2,
        }
    }

    fn to_primary() -> Vec<ToPrimary> {
        vec![
            ToPrimary::Hello {
                version: VERSION,
                purpose: Purpose::Stream,
                nonce: [7; 32],
                identity: identity(),
                ends: vec![position(4096), position(8192)],
            },
            ToPrimary::Proof { mac: [9; 32] },
            ToPrimary::Ack {
                epoch: Epoch(1),
                progress: Progress {
                    written: Lsn(3),
                    flushed: Lsn(2),
                    applied: Lsn(1),
                },
                echo_ms: 4,
            },
            ToPrimary::Ask(Ask::Look),
            ToPrimary::BaseHave(BaseHave::default()),
            ToPrimary::BaseHave(BaseHave {
                history_id: 7,
                start: Lsn(8),
                copies: 9,
                through: Lsn(12),
                files: vec!["secret.key".to_owned(), String::new()],
                part: Some(BasePart {
                    path: "tenants/0000000001/state.db".to_owned(),
                    bytes: 10,
                    crc: 11,
                }),
                log: Some(position(4096)),
            }),
        ]
    }

    fn to_standby() -> Vec<ToStandby> {
        let why = "because".to_owned();
        vec![
            ToStandby::Welcome {
                version: VERSION,
                nonce: [1; 32],
                mac: [2; 32],
                identity: identity(),
            },
            ToStandby::Verdict(Verdict::Stream),
            ToStandby::Verdict(Verdict::Truncate {
                after: Lsn(5),
                why: why.clone(),
            }),
            ToStandby::Verdict(Verdict::BaseBackup { why: why.clone() }),
            ToStandby::Verdict(Verdict::Refused { why }),
            ToStandby::Verdict(Verdict::NotPrimary {
                primary: "http://b:1".to_owned(),
            }),
            ToStandby::Segment {
                header: Bytes::from_static(b"header"),
                epoch: record(2),
            },
            ToStandby::Frames {
                epoch: Epoch(2),
                from: position(4096),
                bytes: Bytes::from_static(b"frames"),
            },
            ToStandby::Announce {
                epoch: Epoch(2),
                durable: Lsn(42),
                timestamp_ms: 1_718_000_000_000,
                leads: 3,
                sent_ms: 70_000,
                wanted: Wanted {
                    written: false,
                    applied: true,
                },
            },
            ToStandby::BaseBegin {
                epochs: vec![record(1)],
                start: Lsn(1),
                files: 2,
                bytes: 8192,
                copies: 1 << 60,
                goes_on: true,
            },
            ToStandby::BaseWait,
            ToStandby::BaseFile {
                path: "tenants/0000000001/state.db".to_owned(),
                offset: 4096,
                bytes: Bytes::from_static(b"page"),
                is_last: true,
                through: Lsn(11),
            },
            ToStandby::BaseEnd {
                end: Lsn(9),
                goes_on: false,
            },
            ToStandby::HandOver { end: Lsn(10) },
        ]
    }

    fn whole<M: Message>(message: &M, sequence: u64) -> Vec<u8> {
        let mut out = Vec::new();
        encode(message, sequence, &mut out);
        out
    }

    fn read<M: Message>(bytes: &[u8], sequence: u64) -> Result<M, WireError> {
        let (head, body) = bytes.split_at(4);
        let length = body_length(head.try_into().expect("four bytes"))?;
        if length != body.len() {
            return Err(WireError::Damaged);
        }
        decode(&Bytes::copy_from_slice(body), sequence)
    }

    #[test]
    fn every_message_comes_back_as_it_was() {
        for (sequence, message) in (0..).zip(to_primary()) {
            let bytes = whole(&message, sequence);
            assert_eq!(read::<ToPrimary>(&bytes, sequence), Ok(message));
        }
        for (sequence, message) in (0..).zip(to_standby()) {
            let bytes = whole(&message, sequence);
            assert_eq!(read::<ToStandby>(&bytes, sequence), Ok(message));
        }
    }

    #[test]
    fn an_acknowledgement_has_the_documented_bytes() {
        const DOCUMENT: &str = include_str!("../../../../docs/replication.md");
        let bytes = whole(&to_primary()[2], 5);
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let lines: Vec<String> = hex.chunks(16).map(|line| line.join(" ")).collect();
        for line in lines {
            assert!(
                DOCUMENT.contains(&line),
                "docs/replication.md does not show {line}"
            );
        }
    }

    #[test]
    fn g11_every_flipped_bit_of_a_message_is_noticed() {
        for message in to_standby() {
            let sound = whole(&message, 3);
            for at in 0..sound.len() {
                for bit in 0..8 {
                    let mut damaged = sound.clone();
                    damaged[at] ^= 1 << bit;
                    assert!(
                        read::<ToStandby>(&damaged, 3).is_err(),
                        "byte {at} bit {bit}"
                    );
                }
            }
        }
    }

    #[test]
    fn g11_a_repeated_or_missing_message_is_noticed() {
        let bytes = whole(&to_primary()[2], 5);
        for expected in [4, 6] {
            assert_eq!(
                read::<ToPrimary>(&bytes, expected),
                Err(WireError::OutOfOrder { expected, found: 5 })
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0_u8..80) {
            // With a right checksum, so that the fields are looked at.
            let mut body = vec![0; 4];
            body.extend_from_slice(&0_u64.to_le_bytes());
            body.push(kind);
            body.extend_from_slice(&bytes);
            let crc = crc32c::crc32c(&body[4..]);
            body[..4].copy_from_slice(&crc.to_le_bytes());
            let body = Bytes::from(body);
            let _ = decode::<ToPrimary>(&body, 0);
            let _ = decode::<ToStandby>(&body, 0);
        }
    }
}
