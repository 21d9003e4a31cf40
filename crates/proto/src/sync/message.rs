//! The frames by direction, and their bodies.

mod bodies;
mod codes;
mod push;

pub use bodies::*;
pub use codes::{ResyncReason, SyncErrorCode};
pub use push::Push;

use super::body::{self, BadBody};
use super::frame::{Frame, FrameError, FrameKind};

/// A message that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Body(#[from] BadBody),
    /// A frame that only the other side sends.
    #[error("a {0:?} frame does not go this way")]
    Direction(FrameKind),
}

impl BadMessage {
    /// What the peer is told.
    #[must_use]
    pub fn code(&self) -> SyncErrorCode {
        match self {
            BadMessage::Frame(FrameError::Version { .. }) => SyncErrorCode::UnsupportedVersion,
            BadMessage::Frame(FrameError::Kind { .. }) => SyncErrorCode::UnknownType,
            BadMessage::Frame(FrameError::TooLarge { .. }) => SyncErrorCode::FrameTooLarge,
            BadMessage::Frame(FrameError::Length { .. } | FrameError::Checksum) => {
                SyncErrorCode::DamagedFrame
            }
            BadMessage::Body(_) => SyncErrorCode::MalformedBody,
            BadMessage::Direction(_) => SyncErrorCode::ProtocolViolation,
        }
    }
}

macro_rules! messages {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $kind:ident($variant:ident: $body:ty),)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant($body),)*
        }

        impl $name {
            /// Its type byte.
            #[must_use]
            pub const fn kind(&self) -> FrameKind {
                match self { $($name::$variant(_) => FrameKind::$kind,)* }
            }

            /// Appends it as one frame.
            ///
            /// # Panics
            /// As [`Frame::write_to`].
            pub fn write_to(&self, out: &mut Vec<u8>) {
                let body = match self { $($name::$variant(value) => body::to_bytes(value),)* };
                Frame { kind: self.kind(), body: &body }.write_to(out);
            }

            /// It as one frame.
            #[must_use]
            pub fn to_bytes(&self) -> Vec<u8> {
                let mut out = Vec::new();
                self.write_to(&mut out);
                out
            }

            /// Reads one whole WebSocket message of at most `limit` bytes.
            ///
            /// # Errors
            /// [`BadMessage`], which knows what to tell the peer.
            pub fn from_bytes(bytes: &[u8], limit: usize) -> Result<$name, BadMessage> {
                let frame = Frame::parse(bytes, limit)?;
                match frame.kind {
                    $(FrameKind::$kind => Ok($name::$variant(body::from_bytes(frame.body)?)),)*
                    other => Err(BadMessage::Direction(other)),
                }
            }
        }
    };
}

messages! {
    /// What a device says.
    DeviceToServer {
        Handshake(Handshake: Handshake),
        Push(Push: Push),
        Ack(Acknowledge: Acknowledge),
        Subscribe(Subscribe: Subscription),
        Unsubscribe(Unsubscribe: Unsubscribe),
        Clock(Clock: ClockQuestion),
        Resync(Resync: Resync),
        TokenRefresh(TokenRefresh: TokenRefresh),
        PresenceSet(PresenceSet: PresenceSet),
        PresenceLeave(PresenceLeave: PresenceLeave),
        PresenceRoster(PresenceRoster: PresenceQuestion),
        Ping(Ping: Ping),
    }
}

messages! {
    /// What a server says.
    ServerToDevice {
        HandshakeAck(HandshakeAck: HandshakeAnswer),
        Error(Error: ErrorFrame),
        Ack(Ack: Ack),
        Reject(Reject: Reject),
        Snapshot(Snapshot: SnapshotChunk),
        Delta(Delta: Delta),
        Unsubscribe(ShapeEnded: ShapeEnded),
        Clock(Clock: ClockAnswer),
        Resync(Resync: ResyncOrder),
        Throttle(Throttle: Throttle),
        TokenRefresh(TokenWanted: TokenWanted),
        TokenAck(TokenAck: TokenAnswer),
        Definition(Definition: Definition),
        PresenceSet(PresenceSet: PresenceMember),
        PresenceLeave(PresenceLeave: PresenceLeft),
        PresenceRoster(PresenceRoster: PresenceRoster),
        Ping(Ping: Ping),
    }
}
