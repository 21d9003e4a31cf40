//! What can go wrong while measuring. Every error ends the run with a message; the rig cleans up.

use std::fmt::Display;

/// Why a run stopped.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("{what}: {error}")]
    Io { what: String, error: std::io::Error },
    /// The server answered a statement with an error.
    #[error("the server refused `{sql}`: {message}")]
    Refused { sql: String, message: String },
    /// A peer broke its protocol, or the stream ended early.
    #[error("{peer}: {what}")]
    Protocol { peer: String, what: String },
    /// A program that the run needs ended badly.
    #[error("{program} failed ({status}): {output}")]
    Program {
        program: String,
        status: String,
        output: String,
    },
    #[error("{what} did not happen within {seconds} s")]
    TimedOut { what: String, seconds: u64 },
    /// A figure came out that cannot be right; nothing is reported from it.
    #[error("the measurement is not valid: {0}")]
    Invalid(String),
    #[error("{0}\n\n{usage}", usage = crate::options::USAGE)]
    Usage(String),
}

pub type Result<T> = std::result::Result<T, BenchError>;

/// Adds what was being done to an I/O error.
pub trait Doing<T> {
    /// # Errors
    /// The error it was called on, with `what` in front.
    fn doing(self, what: impl Display) -> Result<T>;
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, what: impl Display) -> Result<T> {
        self.map_err(|error| BenchError::Io {
            what: what.to_string(),
            error,
        })
    }
}

impl<T> Doing<T> for std::result::Result<T, rustix::io::Errno> {
    fn doing(self, what: impl Display) -> Result<T> {
        self.map_err(|errno| BenchError::Io {
            what: what.to_string(),
            error: errno.into(),
        })
    }
}
