//! The VFS itself: opens main database files and WALs as [`file`](super::file)s over the system's,
//! everything else as the system's own.

use std::ffi::{c_char, c_int};
use std::sync::OnceLock;

use libsqlite3_sys as ffi;

use super::file::Kind;
use super::{VFS, methods};

/// Registers the VFS, once for the process. It does not become the default.
///
/// # Errors
/// What SQLite says.
pub fn register() -> rusqlite::Result<()> {
    static REGISTERED: OnceLock<c_int> = OnceLock::new();
    match *REGISTERED.get_or_init(make) {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(
            ffi::Error::new(code),
            Some("no VFS to build on".to_owned()),
        )),
    }
}

fn make() -> c_int {
    // SAFETY: a null name asks for the default; SQLite initializes itself in this call.
    let real = unsafe { ffi::sqlite3_vfs_find(std::ptr::null()) };
    if real.is_null() {
        return ffi::SQLITE_ERROR;
    }
    // SAFETY: a registered VFS is never freed or changed.
    let (version, file_bytes, max_path) =
        unsafe { ((*real).iVersion, (*real).szOsFile, (*real).mxPathname) };
    let Ok(head) = c_int::try_from(methods::HEAD) else {
        return ffi::SQLITE_ERROR;
    };
    let vfs = ffi::sqlite3_vfs {
        // Version 3 only adds system calls to replace in tests.
        iVersion: version.min(2),
        szOsFile: head + file_bytes,
        mxPathname: max_path,
        pNext: std::ptr::null_mut(),
        zName: VFS.as_ptr(),
        pAppData: real.cast(),
        xOpen: Some(open),
        xDelete: Some(delete),
        xAccess: Some(access),
        xFullPathname: Some(full_pathname),
        // No extension is ever loaded.
        xDlOpen: None,
        xDlError: None,
        xDlSym: None,
        xDlClose: None,
        xRandomness: Some(randomness),
        xSleep: Some(sleep),
        xCurrentTime: Some(current_time),
        xGetLastError: Some(last_error),
        xCurrentTimeInt64: Some(current_time_ms),
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    };
    // SAFETY: SQLite keeps the pointer for good, and it is never freed.
    unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0) }
}

/// The VFS below.
///
/// # Safety
/// `vfs` is the one made above, which SQLite hands to each of its methods.
unsafe fn real(vfs: *mut ffi::sqlite3_vfs) -> *mut ffi::sqlite3_vfs {
    // SAFETY: by contract `vfs` is ours and its data is what `make` put there.
    unsafe { (*vfs).pAppData.cast() }
}

/// Calls a method of the VFS below with that VFS as its first argument, or is `$missing` if it has
/// none. The arguments are SQLite's own, so what it promises of them holds below too.
macro_rules! forward {
    ($vfs:expr, $method:ident, $missing:expr $(, $argument:expr)*) => {
        // SAFETY: `$vfs` is ours; the arguments are passed on as they came.
        unsafe {
            let real = real($vfs);
            match (*real).$method {
                Some(method) => method(real $(, $argument)*),
                None => $missing,
            }
        }
    };
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let kind = if flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
        Kind::database()
    } else if flags & ffi::SQLITE_OPEN_WAL != 0 {
        Kind::wal()
    } else {
        // The system's own file, in the room where ours would be.
        return forward!(
            vfs,
            xOpen,
            ffi::SQLITE_CANTOPEN,
            name,
            file,
            flags,
            out_flags
        );
    };
    // SAFETY: SQLite gives room for `szOsFile` bytes at `file`, which is HEAD and a file of the
    // system's.
    let below = unsafe { methods::below(file) };
    let code = forward!(
        vfs,
        xOpen,
        ffi::SQLITE_CANTOPEN,
        name,
        below,
        flags,
        out_flags
    );
    // SAFETY: as above; `name` is null or ends in zero, as SQLite promises.
    unsafe { methods::opened(file, name, kind, code) }
}

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    forward!(vfs, xDelete, ffi::SQLITE_IOERR_DELETE, name, sync)
}

unsafe extern "C" fn access(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    forward!(vfs, xAccess, ffi::SQLITE_IOERR_ACCESS, name, flags, out)
}

unsafe extern "C" fn full_pathname(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    bytes: c_int,
    out: *mut c_char,
) -> c_int {
    forward!(vfs, xFullPathname, ffi::SQLITE_CANTOPEN, name, bytes, out)
}

unsafe extern "C" fn randomness(
    vfs: *mut ffi::sqlite3_vfs,
    bytes: c_int,
    out: *mut c_char,
) -> c_int {
    forward!(vfs, xRandomness, 0, bytes, out)
}

unsafe extern "C" fn sleep(vfs: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    forward!(vfs, xSleep, 0, microseconds)
}

unsafe extern "C" fn current_time(vfs: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    forward!(vfs, xCurrentTime, ffi::SQLITE_ERROR, out)
}

unsafe extern "C" fn last_error(
    vfs: *mut ffi::sqlite3_vfs,
    bytes: c_int,
    out: *mut c_char,
) -> c_int {
    forward!(vfs, xGetLastError, 0, bytes, out)
}

unsafe extern "C" fn current_time_ms(
    vfs: *mut ffi::sqlite3_vfs,
    out: *mut ffi::sqlite3_int64,
) -> c_int {
    forward!(vfs, xCurrentTimeInt64, ffi::SQLITE_ERROR, out)
}
