//! Backups of a node, and nodes made of backups.
//!
//! ```text
//! DIR/INCOMPLETE                        made first; says when the backup was begun
//! DIR/tenants/0000000001/state.db       one SQLite file per tenant, each at an LSN of its own
//! DIR/log/epochs, DIR/log/….seg         the log from before the first of them to the end
//! DIR/manifest.json                     made last: with it the backup is whole
//! ```
//!
//! `source` makes the pieces of a backup from a running engine; they go into a directory
//! (`store`), or as a tar archive over HTTP (`tar`) and then into one. `manifest` says what a whole
//! backup consists of and finds every byte that has changed. `restore` makes a data directory of a
//! backup and whatever log there is beyond it (`lineage`), through the log's follower, which checks
//! each frame, and the engine's replay. `archive` keeps sealed segments elsewhere as they come.
//!
//! Architecture invariant: nothing here ever changes a backup or an archive that is whole.

pub mod archive;
mod lineage;
pub mod manifest;
pub mod restore;
pub mod source;
pub mod store;
pub mod tar;

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use springhead_engine::EngineError;
use springhead_log::{AppendError, FollowError, LogError};

use crate::lock::DataDirError;

/// The file that makes a backup whole.
pub const MANIFEST_NAME: &str = "manifest.json";
/// The file that an interrupted backup has, and no other.
pub const INCOMPLETE_NAME: &str = "INCOMPLETE";

/// A piece of a backup on its way to a directory.
#[derive(Debug, Clone)]
pub enum Piece {
    /// A file begins; its bytes follow.
    File {
        /// Relative, with `/`.
        path: String,
        bytes: u64,
    },
    /// Bytes of the file begun last.
    Data(Bytes),
}

/// Why a backup was not made, is not sound or cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{operation} {}: {error}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        error: io::Error,
    },
    /// Bytes are not what was written.
    #[error("{} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("{} is no whole backup: it was interrupted, or is still being made; make it again", path.display())]
    Incomplete { path: PathBuf },
    #[error("{} is not empty and no backup of springhead; give an empty or a new directory", path.display())]
    Foreign { path: PathBuf },
    #[error("{} holds a backup already; give an empty or a new directory", path.display())]
    Exists { path: PathBuf },
    #[error("{} has format {found}, newer than {supported} which this version reads; upgrade springhead", path.display())]
    Newer {
        path: PathBuf,
        found: u32,
        supported: u32,
    },
    /// The wish cannot be met with what there is.
    #[error("{0}")]
    Target(String),
    /// Whoever took the backup is gone.
    #[error("nobody takes the backup any more")]
    Gone,
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Follow(#[from] FollowError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
}

impl BackupError {
    /// Whether bytes were found that are not what was written.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            BackupError::Damaged { .. }
                | BackupError::Incomplete { .. }
                | BackupError::Log(LogError::Corrupt { .. })
                | BackupError::Engine(
                    EngineError::Corrupt { .. } | EngineError::Log(LogError::Corrupt { .. })
                )
        )
    }
}

fn io_error(operation: &'static str, path: &Path, error: io::Error) -> BackupError {
    BackupError::Io {
        operation,
        path: path.to_owned(),
        error,
    }
}

fn sync_dir(path: &Path) -> Result<(), BackupError> {
    std::fs::File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| io_error("sync", path, error))
}

/// Whether a file of a backup may have this path: what comes over a network must not lead elsewhere.
#[must_use]
pub fn is_path_of_a_backup(path: &str) -> bool {
    let name = |name: &str, end: &str| {
        name.strip_suffix(end).is_some_and(|stem| {
            !stem.is_empty()
                && stem
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || byte == b'-')
        })
    };
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        [INCOMPLETE_NAME | MANIFEST_NAME] | ["log", "epochs"] => true,
        ["tenants", id, "state.db"] => name(id, ""),
        ["log", segment] => name(segment, ".seg"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_backups_own_paths_are_taken() {
        for (path, expected) in [
            ("manifest.json", true),
            ("log/epochs", true),
            ("log/00000000000000000001-0000000001.seg", true),
            ("tenants/0000000001/state.db", true),
            ("tenants/../state.db", false),
            ("tenants//state.db", false),
            ("log/../../x.seg", false),
            ("/log/epochs", false),
            ("log/epochs/", false),
            ("secret.key", false),
            ("", false),
        ] {
            assert_eq!(is_path_of_a_backup(path), expected, "{path}");
        }
    }
}
