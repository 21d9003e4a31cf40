//! Checksums on a tenant's state file, verified on every read, so that damage is an error and never
//! a wrong answer (G12). An own SQLite VFS, [`VFS`], stands before the system's: [`crate::state`] opens
//! all its connections with it, and nobody else does.
//!
//! ```text
//! state.db       each page ends in 8 reserved bytes (20th byte of the file's header: 8):
//!                  [0, n/2)      crc32c, begun at the page's number    → n-8, little-endian u32
//!                  [n/2, n-8)    crc32c, begun at its complement       → n-4, little-endian u32
//!                written and verified where the page is written to and read from the file
//! state.db-wal   SQLite's own format, unchanged; a frame is verified whenever its page is read
//! others         the -shm, journals and temporary files pass through
//! ```
//!
//! Two CRCs of half a page rather than one of it all: as much again of what one would miss is seen,
//! at the same price. A burst of up to 32 bits, or up to three bits anywhere in a half, is noticed
//! for certain; anything else is missed once in 2^32 if it keeps to one half and once in 2^64 if
//! not. The number makes certain that a page in another's place is noticed too. ([`page`])
//!
//! In the WAL a page is covered by the checksum of its frame, which SQLite itself verifies only when
//! it recovers. Here it is verified on each read, checkpoints included: against what this connection
//! wrote, if it did, and otherwise against the frame's and its predecessor's headers. ([`wal`])
//!
//! What is not covered: parts of the first 100 bytes, which SQLite peeks at without a lock before it
//! reads the page as a whole; the WAL's index, which is memory; a page that was never written to the
//! disk although the system said so, if it is an old version of itself.
//!
//! The way of a call: SQLite → [`methods`] → [`file`], which verifies → [`below`], the system's file.
//!
//! This module never repairs anything and never makes a file readable that is not.

mod applied;
mod below;
mod damage;
mod file;
mod methods;
mod page;
mod vfs;
mod wal;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "these are tests")]
mod tests;

use std::path::Path;

use libsqlite3_sys as ffi;
use rusqlite::{Connection, OpenFlags};

pub use applied::{applied_in_file, wal_begins_sound};
pub use damage::{Damage, describe, is_damage};

/// The name that the VFS is registered under.
pub const VFS: &std::ffi::CStr = c"springhead";

/// Bytes at the end of each page that hold its checksum.
pub const RESERVED: u8 = 8;

/// Whether the file that `conn` has open says that it has room for checksums, or is no database yet.
#[must_use]
pub fn reserves(conn: &Connection) -> bool {
    const AT: u64 = 20;
    let mut bytes = [0];
    !applied::read_file(conn, &mut bytes, AT) || bytes[0] == RESERVED
}

/// Opens a state file, verified from now on. A file that this makes still needs [`reserve`].
///
/// # Errors
/// What SQLite says.
pub fn open(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    crate::memory::install();
    vfs::register()?;
    Connection::open_with_flags_and_vfs(path, flags, VFS)
}

/// Sets the room for checksums aside, before the first page of a new file is written. Changes
/// nothing in a file that has it.
///
/// # Errors
/// What SQLite says.
pub fn reserve(conn: &Connection) -> rusqlite::Result<()> {
    let mut bytes = i32::from(RESERVED);
    // SAFETY: the handle is open, the name ends in zero, and this control takes a pointer to an int.
    let code = unsafe {
        ffi::sqlite3_file_control(
            conn.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_RESERVE_BYTES,
            (&raw mut bytes).cast(),
        )
    };
    if code == ffi::SQLITE_OK {
        Ok(())
    } else {
        Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))
    }
}
