//! What a device's calls can fail with.

use springhead_engine::EngineError;
use springhead_log::LogError;
use springhead_proto::SqlError;

/// See the module's text.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The device's files cannot be opened.
    #[error("{path}: {error}")]
    Io { path: String, error: std::io::Error },
    #[error("{path} is open in another process")]
    InUse { path: String },
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A statement failed; nothing of it is left.
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error("{url:?} is no address of a server: {why}")]
    BadUrl { url: String, why: String },
    #[error("the device is connected already")]
    Connected,
    #[error("there is no rejection {0}")]
    NoSuchRejection(i64),
    #[error("the fix {0} is none of the rejection's")]
    NoSuchFix(usize),
    #[error("{0}")]
    Refused(String),
}
