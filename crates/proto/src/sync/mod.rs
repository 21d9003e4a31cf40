//! Device sync: what a device and a server say to each other, and its bytes.
//!
//! A device's write is a [`Mutation`]; each gets a [`Verdict`]. What a device holds are [`Shape`]s.
//! The frames that carry them are [`DeviceToServer`] and [`ServerToDevice`], one type code each
//! ([`frame`] draws the head, [`body`] bounds the MessagePack in it). `docs/sync-protocol.md` says it
//! all again to the byte for other languages; the golden frames in `tests/golden/sync` hold the two
//! together.
//!
//! Used by `engine` (the server's side) and `device`; no IO here, and no state machine.

pub mod body;
pub mod frame;
mod hint;
mod ids;
mod message;
mod mutation;
mod shape;
mod text;
mod value;
mod verdict;

pub use frame::{Frame, FrameError, FrameKind, HEAD_BYTES, MAX_FRAME_BYTES, PROTOCOL_VERSION};
pub use hint::{Fix, Hint, HintKind};
pub use ids::{
    BadId, CatalogHash, CatalogVersion, DeviceId, Generation, Hlc, MutationId, ProducerId, Seq,
    fnv1a,
};
pub use message::{
    Ack, Acknowledge, BadMessage, ClockAnswer, ClockQuestion, Definition, DefinitionAction, Delta,
    DeltaChange, DeltaVerb, DeviceToServer, ErrorFrame, Handshake, HandshakeAck, HandshakeAnswer,
    Limits, Ping, PresenceLeave, PresenceLeft, PresenceMember, PresenceQuestion, PresenceRoster,
    PresenceSet, Push, Refused, Reject, Resync, ResyncOrder, ResyncReason, ServerToDevice,
    ShapeEnded, SnapshotChunk, SnapshotDone, Subscription, SyncErrorCode, Throttle, TokenAnswer,
    TokenRefresh, TokenWanted, Unsubscribe,
};
pub use mutation::{ColumnValues, Mutation, Operation, Verb};
pub use shape::{Shape, ShapeId};
pub use value::SyncValue;
pub use verdict::{BadViolation, Rejection, RetryReason, Verdict, Violation};
