//! Errors of the engine as a whole. What a statement gets is a [`SqlError`].

use springhead_log::LogError;
use springhead_proto::{ErrorCode, SqlError};

use crate::checksum;

/// Why the engine or a tenant did not open.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("state of tenant {tenant}: {error}")]
    Sqlite { tenant: u32, error: rusqlite::Error },
    #[error("{operation} {path}: {error}")]
    Io {
        operation: &'static str,
        path: String,
        error: std::io::Error,
    },
    #[error("state of tenant {tenant} is damaged: {what}; restore it from a standby or a backup")]
    Corrupt { tenant: u32, what: String },
}

impl From<EngineError> for SqlError {
    fn from(error: EngineError) -> SqlError {
        if let EngineError::Sqlite { error: sqlite, .. } = &error
            && let Some(damage) = checksum::describe(sqlite)
        {
            return damage;
        }
        let code = match &error {
            EngineError::Log(LogError::Corrupt { .. }) | EngineError::Corrupt { .. } => {
                ErrorCode::Corrupted
            }
            _ => ErrorCode::Internal,
        };
        SqlError::new(code, error.to_string())
    }
}
