//! Whether SQLite's recovery of the WAL has left the state file whole.
//!
//! Recovery ends the WAL before the first frame that it cannot verify, without a word. What was in
//! the frames behind comes again from the log, unless a checkpoint had already moved some of it into
//! the file: then the file's pages are newer than what is left of the WAL, and the two together are
//! no state that there ever was. A power cut cannot do this (the WAL is synced before a checkpoint
//! moves anything), damage can. It shows in `s_meta`, which every commit writes: its page in the file
//! alone says a later LSN than the database as a whole.

use std::ffi::c_int;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;

use libsqlite3_sys as ffi;
use rusqlite::Connection;

use super::wal;

/// Whether the WAL of the state file `path` begins with an undamaged header, or has no frames. The
/// header is synced before the first frame is written; without it SQLite takes the WAL for empty.
///
/// # Errors
/// What the disk says.
pub fn wal_begins_sound(path: &Path) -> io::Result<bool> {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    let file = match File::open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() <= wal::HEADER {
        return Ok(true);
    }
    let mut header = [0; 32];
    file.read_exact_at(&mut header, 0)?;
    Ok(wal::is_header(&header))
}

/// `applied_lsn` in page `root` (that of `s_meta`) of the file that `conn` has open, without its WAL.
/// `None` if the page is not there, or is not what it should be, which reading it will bring up.
#[must_use]
pub fn applied_in_file(conn: &Connection, root: u32) -> Option<u64> {
    let page_bytes: u32 = conn
        .query_row("PRAGMA page_size", [], |row| row.get(0))
        .ok()?;
    let offset = u64::from(root.checked_sub(1)?) * u64::from(page_bytes);
    let mut content = vec![0; usize::try_from(page_bytes).ok()?];
    (root > 1 && read_file(conn, &mut content, offset)).then(|| lsn_of(&content))?
}

/// Reads from the file that `conn` has open; whether all of it was there, and undamaged. Never by a
/// descriptor of one's own: closing it would drop the locks that the process has on the file.
pub fn read_file(conn: &Connection, buffer: &mut [u8], offset: u64) -> bool {
    let (Ok(bytes), Ok(offset)) = (c_int::try_from(buffer.len()), i64::try_from(offset)) else {
        return false;
    };
    let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
    // SAFETY: the handle is open, the name ends in zero, and this control gives a pointer to the open
    // file of the database; the buffer has room for `bytes`.
    let code = unsafe {
        let code = ffi::sqlite3_file_control(
            conn.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_FILE_POINTER,
            (&raw mut file).cast(),
        );
        match file.as_ref().and_then(|file| file.pMethods.as_ref()?.xRead) {
            Some(read) if code == ffi::SQLITE_OK => {
                read(file, buffer.as_mut_ptr().cast(), bytes, offset)
            }
            _ => ffi::SQLITE_IOERR_READ,
        }
    };
    code == ffi::SQLITE_OK
}

/// The second column of the only row of a leaf page of a table (SQLite's file format, "B-tree Pages"
/// and "Record Format").
fn lsn_of(page: &[u8]) -> Option<u64> {
    const TABLE_LEAF: u8 = 13;
    if page[0] != TABLE_LEAF || page[3..5] != [0, 1] {
        return None;
    }
    let start = usize::from(u16::from_be_bytes([page[8], page[9]]));
    let mut cell = page.get(start..)?;
    let _payload_bytes = varint(&mut cell)?;
    let _row_id = varint(&mut cell)?;
    let mut header = cell;
    let header_bytes = usize::try_from(varint(&mut header)?).ok()?;
    // The row's id, kept as NULL; then the LSN.
    if varint(&mut header)? != 0 {
        return None;
    }
    let bytes = match varint(&mut header)? {
        kind @ 1..=4 => usize::try_from(kind).ok()?,
        5 => 6,
        6 => 8,
        8 => return Some(0),
        9 => return Some(1),
        _ => return None,
    };
    let number = cell.get(header_bytes..header_bytes + bytes)?;
    // An LSN is never negative, so there is no sign to carry.
    Some(
        number
            .iter()
            .fold(0, |value, &byte| value << 8 | u64::from(byte)),
    )
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for place in 0..9 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        if place == 8 {
            return Some(value << 8 | u64::from(byte));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
