//! A mark beside a state that is taken back before a fork ([`crate::undo`]): until what was undone has been
//! moved from the WAL into the file, the file alone is at a later LSN than the two together, which is what
//! damage of the WAL looks like otherwise ([`crate::checksum`]).
//!
//! ```text
//! mark written, durable ─► COMMIT at an earlier LSN ─► checkpoint of all of it ─► mark removed
//! ```

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use springhead_proto::Lsn;

/// The mark of the state file `state`.
#[must_use]
pub fn of(state: &Path) -> PathBuf {
    state.with_extension("undone")
}

/// From which LSN the state is, or may have been, taken back.
///
/// # Errors
/// What the disk says.
pub fn read(state: &Path) -> io::Result<Option<Lsn>> {
    match std::fs::read_to_string(of(state)) {
        // A torn one was not durable: nothing has been undone after it.
        Ok(text) => Ok(text
            .strip_suffix('\n')
            .and_then(|number| number.parse().ok())
            .map(Lsn)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Says, durably, that the state is about to be taken back from `from`.
///
/// # Errors
/// What the disk says.
pub fn write(state: &Path, from: Lsn) -> io::Result<()> {
    let mut file = File::create(of(state))?;
    file.write_all(format!("{}\n", from.0).as_bytes())?;
    file.sync_all()?;
    sync_directory(state)
}

/// Moves what the WAL has into the file, and removes the mark if that was all of it: somebody who still reads
/// an older state stands in its way.
///
/// # Errors
/// What SQLite says. A mark that stays is looked at again with the next opening.
pub fn settle(conn: &Connection, state: &Path) -> rusqlite::Result<()> {
    let (in_wal, moved): (i64, i64) =
        conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
            Ok((row.get(1)?, row.get(2)?))
        })?;
    if in_wal == moved {
        let removed = std::fs::remove_file(of(state)).and_then(|()| sync_directory(state));
        if let Err(error) = removed {
            tracing::warn!(path = %of(state).display(), %error, "the mark stays");
        }
    }
    Ok(())
}

fn sync_directory(state: &Path) -> io::Result<()> {
    match state.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}
