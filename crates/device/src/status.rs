//! What a device tells the application about itself.

use springhead_proto::Cursor;

/// Where a device stands with its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Nobody has asked it to connect.
    #[default]
    Local,
    /// No connection; it tries again by itself.
    Offline,
    Connecting,
    /// Connected, and the image is behind the server.
    CatchingUp,
    /// Connected, and the image has what the server had a moment ago.
    Live,
    /// Another session of this device, begun from a copy of it, has taken the connection again and again.
    /// It comes back when it is asked to ([`crate::Device::retry_now`]), and now and then by itself.
    Elsewhere,
    /// The server has refused it in a way that trying again does not mend.
    Stopped,
}

impl Phase {
    /// Its word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Phase::Local => "local",
            Phase::Offline => "offline",
            Phase::Connecting => "connecting",
            Phase::CatchingUp => "catching_up",
            Phase::Live => "live",
            Phase::Elsewhere => "elsewhere",
            Phase::Stopped => "stopped",
        }
    }
}

/// A device's state, as [`crate::Device::status`] streams it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    pub phase: Phase,
    /// What of the server the image has.
    pub cursor: Option<Cursor>,
    /// Mutations that have no verdict, or whose effect the image does not have yet.
    pub pending: u64,
    /// Rejections that the application has not acknowledged.
    pub rejections: u64,
    /// Shapes that it is subscribed to.
    pub shapes: u64,
    /// All shapes are complete.
    pub complete: bool,
    /// What last went wrong with the connection.
    pub error: Option<String>,
}
