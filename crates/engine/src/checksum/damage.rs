//! What was found damaged: logged once, and kept for whoever translates SQLite's error code, which
//! has no place for a file and a page.

use std::cell::RefCell;
use std::ffi::c_int;
use std::path::Path;

use libsqlite3_sys as ffi;
use parking_lot::Mutex;
use rustc_hash::FxHashSet;
use springhead_proto::{ErrorCode, SqlError};

/// A place in a state file that is not what was written there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Damage {
    #[error("invalid checksum in page {page} of \"{file}\"")]
    Page { file: String, page: u32 },
    #[error("page {page} of \"{file}\" is missing: the file has been cut short")]
    Missing { file: String, page: u32 },
    #[error("invalid checksum in frame {frame} of \"{file}\"")]
    Frame { file: String, frame: u64 },
}

thread_local! {
    /// The last one that a read on this thread came upon. SQLite reads on its caller's thread.
    static LAST: RefCell<Option<Damage>> = const { RefCell::new(None) };
}

/// What has been logged. Past this many nothing more is: the disk is gone, and has been named.
static LOGGED: Mutex<Option<FxHashSet<Damage>>> = Mutex::new(None);
const MAX_LOGGED: usize = 1024;

/// Notes damage, and is what the read comes to.
pub fn found(path: &str, damage: Damage) -> c_int {
    let mut logged = LOGGED.lock();
    let logged = logged.get_or_insert_default();
    if logged.len() < MAX_LOGGED && logged.insert(damage.clone()) {
        tracing::error!(path, "{damage}");
    }
    LAST.set(Some(damage));
    ffi::SQLITE_IOERR_DATA
}

/// What of a path an error may show: the file with its tenant's directory, as in the data directory.
pub fn shown(path: &str) -> String {
    const PARTS: usize = 3;
    let parts: Vec<_> = Path::new(path)
        .iter()
        .map(|part| part.to_string_lossy())
        .collect();
    parts[parts.len().saturating_sub(PARTS)..].join("/")
}

/// Whether SQLite says that the file is damaged.
#[must_use]
pub fn is_damage(error: &rusqlite::Error) -> bool {
    let rusqlite::Error::SqliteFailure(failure, _) = error else {
        return false;
    };
    failure.extended_code == ffi::SQLITE_IOERR_DATA
        || matches!(
            failure.extended_code & 0xff,
            ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB
        )
}

/// XX001 with the file and page, if SQLite says that the file is damaged. On the thread that met the
/// error.
#[must_use]
pub fn describe(error: &rusqlite::Error) -> Option<SqlError> {
    let rusqlite::Error::SqliteFailure(failure, message) = error else {
        return None;
    };
    if !is_damage(error) {
        return None;
    }
    let last = if failure.extended_code == ffi::SQLITE_IOERR_DATA {
        LAST.take()
    } else {
        None
    };
    let text = match (last, message) {
        (Some(damage), _) => damage.to_string(),
        (None, Some(message)) => format!("the state is damaged: {message}"),
        (None, None) => format!("the state is damaged: {failure}"),
    };
    Some(
        SqlError::new(ErrorCode::Corrupted, text)
            .with_hint("Restore the database from a standby or a backup."),
    )
}
