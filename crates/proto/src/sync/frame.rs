//! A frame's head: one WebSocket binary message is one frame.
//!
//! ```text
//! frame := version:u8  type:u8  length:u32 LE  crc:u32 LE  body:length bytes
//! crc   := CRC32C of version, type, length and body
//! ```

/// The version of the protocol that this code speaks.
pub const PROTOCOL_VERSION: u8 = 1;

/// The bytes before the body.
pub const HEAD_BYTES: usize = 10;

/// The greatest frame, head included, whatever a server's own limit is.
pub const MAX_FRAME_BYTES: usize = 16 << 20;

macro_rules! frame_kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        /// What a frame is; its type byte.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum FrameKind {
            $($(#[$doc])* $name = $code,)*
        }

        impl FrameKind {
            /// Every kind there is.
            pub const ALL: &'static [FrameKind] = &[$(FrameKind::$name,)*];

            fn from_code(code: u8) -> Option<FrameKind> {
                match code {
                    $($code => Some(FrameKind::$name),)*
                    _ => None,
                }
            }
        }
    };
}

frame_kinds! {
    /// Device: who it is and what it has.
    Handshake = 0x01;
    /// Server: accepted or refused.
    HandshakeAck = 0x02;
    /// Server: what went wrong; a close follows where it says so.
    Error = 0x03;
    /// Device: mutations.
    Push = 0x10;
    /// Server: verdicts. Device: what it has made durable.
    Ack = 0x11;
    /// Server: one mutation's rejection.
    Reject = 0x12;
    /// Device: one more shape.
    Subscribe = 0x20;
    /// Server: rows of a shape.
    Snapshot = 0x21;
    /// Server: one commit, as the device's shapes see it.
    Delta = 0x22;
    /// Device: one shape less. Server: a shape has ended.
    Unsubscribe = 0x23;
    /// Both: what time it is.
    Clock = 0x30;
    /// Both: start over.
    Resync = 0x50;
    /// Server: push nothing for a while.
    Throttle = 0x52;
    /// Device: a new token. Server: one is needed.
    TokenRefresh = 0x60;
    /// Server: what became of it.
    TokenAck = 0x61;
    /// Server: a definition.
    Definition = 0x70;
    /// Both: somebody's state in a channel.
    PresenceSet = 0x80;
    /// Both: somebody left a channel.
    PresenceLeave = 0x81;
    /// Device: who is there? Server: they are.
    PresenceRoster = 0x82;
    /// Both: are you there, and yes.
    Ping = 0xff;
}

/// One frame, its head checked, its body not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    pub kind: FrameKind,
    pub body: &'a [u8],
}

/// Bytes that are no frame this code can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("the frame has version {found}, and this side speaks version {PROTOCOL_VERSION}")]
    Version { found: u8 },
    #[error("0x{found:02x} is no frame type of version {PROTOCOL_VERSION}")]
    Kind { found: u8 },
    #[error("the frame is {found} bytes, over the limit of {limit}")]
    TooLarge { found: u64, limit: usize },
    #[error(
        "the frame is cut short or has bytes left over: {found} bytes where its head says {expected}"
    )]
    Length { found: usize, expected: u64 },
    #[error("the frame's checksum is wrong: it was damaged on the way")]
    Checksum,
}

impl<'a> Frame<'a> {
    /// Reads one whole message as a frame of at most `limit` bytes.
    ///
    /// # Errors
    /// [`FrameError`], by the first thing that is wrong: version, size, length, checksum, type.
    pub fn parse(bytes: &'a [u8], limit: usize) -> Result<Frame<'a>, FrameError> {
        let limit = limit.min(MAX_FRAME_BYTES);
        let found = bytes.len();
        if found > limit {
            return Err(FrameError::TooLarge {
                found: found as u64,
                limit,
            });
        }
        if let Some(&version) = bytes.first()
            && version != PROTOCOL_VERSION
        {
            return Err(FrameError::Version { found: version });
        }
        let Some((head, body)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
            return Err(FrameError::Length {
                found,
                expected: HEAD_BYTES as u64,
            });
        };
        let [_, code, l0, l1, l2, l3, c0, c1, c2, c3] = *head;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let expected = HEAD_BYTES as u64 + u64::from(length);
        if expected > limit as u64 {
            return Err(FrameError::TooLarge {
                found: expected,
                limit,
            });
        }
        if found as u64 != expected {
            return Err(FrameError::Length { found, expected });
        }
        if checksum(&head[..6], body) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(FrameError::Checksum);
        }
        let kind = FrameKind::from_code(code).ok_or(FrameError::Kind { found: code })?;
        Ok(Frame { kind, body })
    }

    /// Appends the frame.
    ///
    /// # Panics
    /// If the body is over [`MAX_FRAME_BYTES`]; whoever builds one keeps to the peer's limit.
    pub fn write_to(self, out: &mut Vec<u8>) {
        let length = u32::try_from(self.body.len())
            .ok()
            .filter(|_| self.body.len() + HEAD_BYTES <= MAX_FRAME_BYTES)
            .expect("a frame's maker keeps to the limit");
        let start = out.len();
        out.extend_from_slice(&[PROTOCOL_VERSION, self.kind as u8]);
        out.extend_from_slice(&length.to_le_bytes());
        let crc = checksum(&out[start..], self.body);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(self.body);
    }
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(head), body)
}
