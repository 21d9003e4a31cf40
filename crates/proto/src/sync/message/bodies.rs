//! The bodies of all frames but the push. Fields are documented in `docs/sync-protocol.md` too.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::codes::{ResyncReason, SyncErrorCode};
use crate::sync::{
    CatalogHash, CatalogVersion, ColumnValues, DeviceId, Generation, MutationId, ProducerId,
    Rejection, RetryReason, Seq, Shape, ShapeId, SyncValue, Verdict,
};
use crate::{Cursor, Lsn};

/// The first frame of a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Handshake {
    /// The highest protocol version that the device speaks.
    pub protocol: u8,
    /// As after `Authorization: Bearer`; absent where the upgrade request had credentials, or in open
    /// mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The tenant's name; absent for the credentials' own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    pub device: DeviceId,
    pub producer: ProducerId,
    pub generation: Generation,
    /// What the device's image of the server has; absent for nothing yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Cursor>,
    pub catalog_version: CatalogVersion,
    pub catalog_hash: CatalogHash,
    /// The highest seq of this producer and generation up to which the device has every verdict
    /// durably.
    pub settled: Seq,
    pub shapes: Vec<Subscription>,
    /// Name and version of the program, for people.
    pub client: String,
}

/// A shape, and how far the device has come with its rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subscription {
    #[serde(flatten)]
    pub shape: Shape,
    /// Its rows are complete at the device's cursor: only changes are wanted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub complete: bool,
    /// The token of the last chunk that the device has durably: the snapshot goes on after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<String>,
}

/// The answer to a handshake: `{"accepted": {…}}` or `{"refused": {…}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HandshakeAnswer {
    Accepted(HandshakeAck),
    Refused(Refused),
}

/// See [`HandshakeAnswer`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HandshakeAck {
    /// The version that both speak from now on.
    pub protocol: u8,
    /// For logs and dead letters.
    pub session: String,
    /// The user that the session acts for.
    pub user: String,
    /// Where the server is: its epoch, and what was visible when it answered.
    pub cursor: Cursor,
    /// The server's wall clock, in milliseconds since 1970.
    pub server_ms: u64,
    /// The seq that the server expects next of this producer and generation.
    pub next_seq: Seq,
    pub catalog_version: CatalogVersion,
    pub catalog_hash: CatalogHash,
    pub limits: Limits,
    /// When the token's time is over, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_expires_ms: Option<u64>,
}

/// What a device must keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// One frame, head included, in both directions.
    pub max_frame_bytes: u32,
    /// One mutation's operations, encoded.
    pub max_mutation_bytes: u32,
    /// Mutations in one push.
    pub max_push_mutations: u32,
    /// Mutations pushed and not answered.
    pub max_in_flight: u32,
    pub max_shapes: u32,
    pub max_presence_bytes: u32,
    pub max_presence_channels: u32,
    /// A side that has sent nothing for this long sends a ping.
    pub ping_interval_ms: u32,
    /// A side that has heard nothing for this long closes.
    pub idle_timeout_ms: u32,
    /// How far a mutation's clock may be from the server's; beyond it the server's own counts.
    pub max_clock_drift_ms: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_frame_bytes: 1 << 20,
            max_mutation_bytes: 256 << 10,
            max_push_mutations: 500,
            max_in_flight: 2000,
            max_shapes: 100,
            max_presence_bytes: 4 << 10,
            max_presence_channels: 32,
            ping_interval_ms: 20_000,
            idle_timeout_ms: 60_000,
            max_clock_drift_ms: 60_000,
        }
    }
}

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    pub code: SyncErrorCode,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The lowest and the highest version that the server speaks.
    pub protocols: [u8; 2],
    /// When to try again, where that may help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u64>,
}

/// What went wrong in a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorFrame {
    pub code: SyncErrorCode,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The connection closes after it.
    pub closing: bool,
}

/// Verdicts other than rejections, of one producer and generation, in the order of the push.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ack {
    pub producer: ProducerId,
    pub generation: Generation,
    #[serde(with = "verdicts")]
    pub verdicts: Vec<(Seq, Verdict)>,
}

/// On the wire `{"seq": 5, "applied": 42}`, `{"seq": 5, "duplicate": 42}`,
/// `{"seq": 5, "retry": {"after_ms": 100, "reason": "overload"}}`, `{"seq": 9, "gap": 6}`,
/// `{"seq": 5, "fenced": true}`.
#[derive(Default, Serialize, Deserialize)]
struct WireVerdict {
    seq: Seq,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    applied: Option<Lsn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    duplicate: Option<Lsn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry: Option<WireRetry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gap: Option<Seq>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fenced: Option<bool>,
}

#[derive(Serialize, Deserialize)]
struct WireRetry {
    after_ms: u64,
    reason: RetryReason,
}

mod verdicts {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        verdicts: &[(Seq, Verdict)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let wire = |(seq, verdict): &(Seq, Verdict)| {
            let mut wire = WireVerdict {
                seq: *seq,
                ..WireVerdict::default()
            };
            match verdict {
                Verdict::Applied { lsn } => wire.applied = Some(*lsn),
                Verdict::Duplicate { lsn } => wire.duplicate = Some(*lsn),
                Verdict::Retry { after_ms, reason } => {
                    wire.retry = Some(WireRetry {
                        after_ms: *after_ms,
                        reason: *reason,
                    });
                }
                Verdict::Gap { expected_seq } => wire.gap = Some(*expected_seq),
                Verdict::Fenced => wire.fenced = Some(true),
                Verdict::Rejected(_) => {
                    unreachable!("a rejection is a frame of its own: Ack::frames")
                }
            }
            wire
        };
        serializer.collect_seq(verdicts.iter().map(wire))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<(Seq, Verdict)>, D::Error> {
        let wire = Vec::<WireVerdict>::deserialize(deserializer)?;
        wire.into_iter()
            .map(|wire| {
                let verdicts = [
                    wire.applied.map(|lsn| Verdict::Applied { lsn }),
                    wire.duplicate.map(|lsn| Verdict::Duplicate { lsn }),
                    wire.retry.map(|retry| Verdict::Retry {
                        after_ms: retry.after_ms,
                        reason: retry.reason,
                    }),
                    wire.gap.map(|expected_seq| Verdict::Gap { expected_seq }),
                    wire.fenced
                        .filter(|fenced| *fenced)
                        .map(|_| Verdict::Fenced),
                ];
                let mut verdicts = verdicts.into_iter().flatten();
                match (verdicts.next(), verdicts.next()) {
                    (Some(verdict), None) => Ok((wire.seq, verdict)),
                    _ => Err(D::Error::custom("a seq has exactly one verdict")),
                }
            })
            .collect()
    }
}

impl Ack {
    /// The frames that tell `verdicts`, in the order given: runs of others as one ack, each rejection
    /// alone.
    #[must_use]
    pub fn frames(
        producer: ProducerId,
        generation: Generation,
        verdicts: impl IntoIterator<Item = (Seq, Verdict)>,
    ) -> Vec<super::ServerToDevice> {
        let mut frames = Vec::new();
        for (seq, verdict) in verdicts {
            match verdict {
                Verdict::Rejected(rejection) => {
                    frames.push(super::ServerToDevice::Reject(Reject {
                        producer,
                        generation,
                        seq,
                        rejection: *rejection,
                    }));
                }
                other => match frames.last_mut() {
                    Some(super::ServerToDevice::Ack(ack)) => ack.verdicts.push((seq, other)),
                    _ => frames.push(super::ServerToDevice::Ack(Ack {
                        producer,
                        generation,
                        verdicts: vec![(seq, other)],
                    })),
                },
            }
        }
        frames
    }
}

/// One mutation's rejection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reject {
    pub producer: ProducerId,
    pub generation: Generation,
    pub seq: Seq,
    #[serde(flatten)]
    pub rejection: Rejection,
}

/// What a device has made durable, so that the server may forget it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Acknowledge {
    /// The image is complete up to here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Cursor>,
    /// Of each producer and generation: every verdict up to this seq is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settled: Vec<MutationId>,
}

/// Rows of one shape. The token of the last chunk that a device has durably resumes after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotChunk {
    pub shape: ShapeId,
    /// The first chunk: rows of this shape that the device has and that come in none of the chunks
    /// are gone when the last has come.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub first: bool,
    /// The columns of `rows`.
    pub columns: Vec<String>,
    /// How many of them, from the first, are the key.
    pub key: u32,
    pub rows: Vec<Vec<SyncValue>>,
    /// Present in all chunks but the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<String>,
    /// Present in the last chunk alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<SnapshotDone>,
}

/// A shape is complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotDone {
    /// The device's rows of the shape are those at this cursor.
    pub cursor: Cursor,
    /// Of each of the device's producers the session has heard of: mutations up to this seq have been
    /// decided in what the shape shows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decided: Vec<MutationId>,
}

/// One commit of the server, as the device's shapes see it; the device applies it as one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// The commit's last LSN. With no changes: nothing of the device's was changed up to here.
    pub cursor: Cursor,
    /// The commit's time, in milliseconds since 1970.
    #[serde(rename = "at", default, skip_serializing_if = "Option::is_none")]
    pub timestamp_ms: Option<u64>,
    /// The commit is this mutation of the device's own: it is no longer pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<MutationId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<DeltaChange>,
    /// The next delta frame is of the same commit; to be applied with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// One document in some of the device's shapes.
#[derive(Debug, Clone, PartialEq)]
pub struct DeltaChange {
    /// All of one collection; never empty.
    pub shapes: Vec<ShapeId>,
    /// The document's key; empty for [`DeltaVerb::Clear`].
    pub id: Vec<SyncValue>,
    pub verb: DeltaVerb,
}

/// See [`DeltaChange`].
#[derive(Debug, Clone, PartialEq)]
pub enum DeltaVerb {
    /// It is in the shapes, with these columns; the key's may be left out.
    Put(ColumnValues),
    /// It is and was in the shapes, and these columns have changed. Nothing if the device has it not.
    Set(ColumnValues),
    /// It was deleted.
    Delete,
    /// It is there, but not in the shapes any more.
    Leave,
    /// All documents of the shapes were deleted (TRUNCATE).
    Clear,
}

#[derive(Default, Serialize, Deserialize)]
struct WireChange {
    #[serde(rename = "of")]
    shapes: Vec<ShapeId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    id: Vec<SyncValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    put: Option<ColumnValues>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    set: Option<ColumnValues>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delete: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leave: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clear: Option<bool>,
}

impl Serialize for DeltaChange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut wire = WireChange {
            shapes: self.shapes.clone(),
            id: self.id.clone(),
            ..WireChange::default()
        };
        match &self.verb {
            DeltaVerb::Put(columns) => wire.put = Some(columns.clone()),
            DeltaVerb::Set(columns) => wire.set = Some(columns.clone()),
            DeltaVerb::Delete => wire.delete = Some(true),
            DeltaVerb::Leave => wire.leave = Some(true),
            DeltaVerb::Clear => wire.clear = Some(true),
        }
        wire.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for DeltaChange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DeltaChange, D::Error> {
        let wire = WireChange::deserialize(deserializer)?;
        let flag = |flag: Option<bool>, verb: DeltaVerb| flag.filter(|flag| *flag).map(|_| verb);
        let verbs = [
            wire.put.map(DeltaVerb::Put),
            wire.set.map(DeltaVerb::Set),
            flag(wire.delete, DeltaVerb::Delete),
            flag(wire.leave, DeltaVerb::Leave),
            flag(wire.clear, DeltaVerb::Clear),
        ];
        let mut verbs = verbs.into_iter().flatten();
        let (Some(verb), None) = (verbs.next(), verbs.next()) else {
            return Err(D::Error::custom("a change has exactly one verb"));
        };
        if wire.shapes.is_empty() || wire.id.is_empty() != (verb == DeltaVerb::Clear) {
            return Err(D::Error::custom(
                "a change names its shapes and its document",
            ));
        }
        Ok(DeltaChange {
            shapes: wire.shapes,
            id: wire.id,
            verb,
        })
    }
}

/// A device wants a shape no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsubscribe {
    pub shape: ShapeId,
}

/// A shape has ended, or never began: its rows leave the device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShapeEnded {
    pub shape: ShapeId,
    pub code: SyncErrorCode,
    pub message: String,
}

/// A device asks for the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockQuestion {
    /// The device's wall clock; comes back in the answer.
    pub device_ms: u64,
}

/// See [`ClockQuestion`]. The device takes half of the time that the exchange took as the way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockAnswer {
    pub device_ms: u64,
    pub server_ms: u64,
}

/// A device wants to start over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resync {
    pub reason: ResyncReason,
    /// These shapes; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shapes: Vec<ShapeId>,
    /// All definitions too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub definitions: bool,
}

/// The server starts over with the device: snapshots of these shapes follow. Pending mutations stay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResyncOrder {
    pub reason: ResyncReason,
    /// These shapes; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shapes: Vec<ShapeId>,
    pub message: String,
}

/// A device pushes nothing for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttle {
    pub after_ms: u64,
    pub reason: RetryReason,
    /// From then on in place of the handshake's `max_in_flight`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
}

/// A device's new token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRefresh {
    pub token: String,
}

/// The server needs a new token before then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenWanted {
    pub expires_ms: u64,
}

/// What became of a new token. Refused, the session goes on with the old one while that lasts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenAnswer {
    pub accepted: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<SyncErrorCode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What a definition frame does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DefinitionAction {
    Put,
    Drop,
}

/// One definition, in log order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// The DEFINITION change's LSN; deltas after it follow its columns.
    pub cursor: Cursor,
    /// The catalog from it on.
    pub catalog_version: CatalogVersion,
    /// `table`, `index`, `view`, `function`, `procedure`, `trigger`, `sequence`, `policy`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// With its schema where that is not `public`.
    pub name: String,
    pub action: DefinitionAction,
    /// The statement that did it, as its author wrote it.
    pub sql: String,
    /// JSON text: the whole definition as it now is; of a drop, as it last was.
    pub payload: String,
    /// The catalog's hash with it.
    pub hash: CatalogHash,
    /// Part of a whole set: this place, from 0, of so many. When the last has come, the device drops
    /// what was in none of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<[u32; 2]>,
}

/// A device's own state in a channel, kept until it leaves, closes, or is silent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PresenceSet {
    pub channel: String,
    /// JSON text.
    pub state: String,
}

/// A device leaves a channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PresenceLeave {
    pub channel: String,
}

/// A device asks who is in a channel, and hears of changes from then on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PresenceQuestion {
    pub channel: String,
}

/// Somebody's state in a channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PresenceMember {
    pub channel: String,
    pub device: DeviceId,
    pub user: String,
    pub state: String,
}

/// Somebody left a channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PresenceLeft {
    pub channel: String,
    pub device: DeviceId,
}

/// All who are in a channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PresenceRoster {
    pub channel: String,
    pub members: Vec<PresenceMember>,
}

/// A ping, or with `reply` the pong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    pub nonce: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reply: bool,
}
