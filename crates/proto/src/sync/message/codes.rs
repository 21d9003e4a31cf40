//! Why a session ends or starts over, as a closed list.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $close:literal, $again:literal;)*) => {
        /// What went wrong. On the wire its word; the WebSocket's close code says it again.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum SyncErrorCode {
            $($(#[$doc])* $name,)*
            /// A word of a newer peer.
            Unknown,
        }

        impl SyncErrorCode {
            /// Every code that this side gives.
            pub const ALL: &'static [SyncErrorCode] = &[$(SyncErrorCode::$name,)*];

            /// The word on the wire.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $(SyncErrorCode::$name => $word,)*
                    SyncErrorCode::Unknown => "unknown",
                }
            }

            /// The WebSocket close code that follows it.
            #[must_use]
            pub const fn close_code(self) -> u16 {
                match self {
                    $(SyncErrorCode::$name => $close,)*
                    SyncErrorCode::Unknown => 1011,
                }
            }

            /// Whether connecting again, after a pause, may succeed without anybody doing anything.
            #[must_use]
            pub const fn may_reconnect(self) -> bool {
                match self {
                    $(SyncErrorCode::$name => $again,)*
                    SyncErrorCode::Unknown => true,
                }
            }

            /// The code of a word.
            #[must_use]
            pub fn from_word(word: &str) -> SyncErrorCode {
                match word {
                    $($word => SyncErrorCode::$name,)*
                    _ => SyncErrorCode::Unknown,
                }
            }
        }
    };
}

codes! {
    /// The frame's version is none this side speaks.
    UnsupportedVersion = "unsupported_version", 4406, false;
    /// The frame's type is none of its version.
    UnknownType = "unknown_type", 4404, false;
    /// The frame is over the limit.
    FrameTooLarge = "frame_too_large", 4413, false;
    /// The frame's length or checksum is wrong.
    DamagedFrame = "damaged_frame", 4422, true;
    /// The frame's body is not what its type has.
    MalformedBody = "malformed_body", 4400, false;
    /// A good frame at the wrong time or of the wrong direction; a text message.
    ProtocolViolation = "protocol_violation", 4409, false;
    /// No token where one is needed, or one that is none.
    Unauthenticated = "unauthenticated", 4401, false;
    /// The token's time is over; a new one helps.
    TokenExpired = "token_expired", 4440, false;
    /// The user may not sync here.
    Forbidden = "forbidden", 4403, false;
    /// The tenant does not exist, or not any more.
    UnknownTenant = "unknown_tenant", 4410, false;
    /// The producer's generation is over, or another device uses its id.
    ProducerFenced = "producer_fenced", 4412, true;
    /// The same device connected again; this is the older session.
    TakenOver = "taken_over", 4411, false;
    /// More sessions than there may be.
    TooManySessions = "too_many_sessions", 4429, true;
    /// A limit of the handshake's was passed (shapes, presence channels, frames not taken).
    LimitExceeded = "limit_exceeded", 4430, true;
    /// The device does not take what it is sent.
    SlowConsumer = "slow_consumer", 4408, true;
    /// No frame for longer than `idle_timeout_ms`, or no handshake in time.
    Timeout = "timeout", 4415, true;
    /// A shape that is no shape, or asks for what there is not.
    BadShape = "bad_shape", 4420, false;
    /// The server stops, or hands over to another.
    GoingAway = "going_away", 1001, true;
    /// The server's fault.
    Internal = "internal", 1011, true;
}

impl fmt::Display for SyncErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Serialize for SyncErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

impl<'de> Deserialize<'de> for SyncErrorCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SyncErrorCode, D::Error> {
        let word = String::deserialize(deserializer)?;
        Ok(SyncErrorCode::from_word(&word))
    }
}

/// Why a device starts over, wholly or with some shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResyncReason {
    /// The device's cursor is older than the log.
    CursorExpired,
    /// The device's cursor is of a history that went on elsewhere.
    CursorForked,
    /// The device's cursor is past the log's end.
    CursorInFuture,
    /// The definitions of the device are not the server's.
    CatalogDiverged,
    /// What the user may see has changed in a way that rows cannot tell one by one.
    RightsChanged,
    /// Somebody asked for it.
    Requested,
    /// The device found its own image damaged.
    ImageDamaged,
    /// A reason of a newer peer.
    #[serde(other)]
    Other,
}
