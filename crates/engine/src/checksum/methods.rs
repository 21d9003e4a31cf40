//! SQLite's table of methods over an open file ([`State`]) and the system's file below it.
//!
//! ```text
//! what SQLite gives room for:  | Head: methods, state | the system's file … |
//! ```
//!
//! A file belongs to one connection, which one thread at a time uses, so no method runs twice at
//! once on one file.

use std::ffi::{CStr, c_char, c_int, c_void};

use libsqlite3_sys as ffi;

use super::below::Below;
use super::file::{Kind, State};

/// What is before the system's file.
#[repr(C)]
struct Head {
    /// SQLite's: the methods, or null if the file is not open.
    base: ffi::sqlite3_file,
    /// Ours from opening to closing, a box.
    state: *mut State,
}

/// Bytes before the system's file; a multiple of every alignment that it can need.
pub const HEAD: usize = size_of::<Head>().next_multiple_of(16);

/// The place of the system's file.
///
/// # Safety
/// `file` is room for this VFS's file.
pub unsafe fn below(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: by contract there are HEAD bytes and the system's file.
    unsafe { file.cast::<u8>().add(HEAD).cast() }
}

/// Finishes opening `file`, whose file below has been opened with result `code`.
///
/// # Safety
/// `file` is room for this VFS's file; `name` is null or ends in zero.
pub unsafe fn opened(
    file: *mut ffi::sqlite3_file,
    name: *const c_char,
    kind: Kind,
    code: c_int,
) -> c_int {
    let head: *mut Head = file.cast();
    // SAFETY: by contract there is room for the head and the file below, which SQLite fills with
    // zeros before it opens a file; a file below that could not be opened may still want closing.
    unsafe {
        (*head).base.pMethods = std::ptr::null();
        (*head).state = std::ptr::null_mut();
        if code != ffi::SQLITE_OK {
            let below = below(file);
            if let Some(methods) = (*below).pMethods.as_ref()
                && let Some(close) = methods.xClose
            {
                close(below);
            }
            return code;
        }
        let path = if name.is_null() {
            String::new()
        } else {
            CStr::from_ptr(name).to_string_lossy().into_owned()
        };
        (*head).state = Box::into_raw(Box::new(State::new(path, kind)));
        (*head).base.pMethods = &raw const METHODS;
    }
    code
}

/// What is behind an open file.
///
/// # Safety
/// `file` has been opened by this VFS and not been closed, and nobody else has its state now.
unsafe fn parts<'a>(file: *mut ffi::sqlite3_file) -> (&'a mut State, Below) {
    // SAFETY: by contract the head is filled in, with a state that lives until the file is closed.
    unsafe { (&mut *(*file.cast::<Head>()).state, Below::open(below(file))) }
}

/// Calls a method of the file below, or is `$missing` if it has none.
macro_rules! forward {
    ($file:expr, $method:ident, $missing:expr $(, $argument:expr)*) => {
        // SAFETY: SQLite calls methods of open files only, and the file below is open as long; the
        // arguments are passed on as they came.
        unsafe {
            let below = below($file);
            match (*(*below).pMethods).$method {
                Some(method) => method(below $(, $argument)*),
                None => $missing,
            }
        }
    };
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    // Version 3 would add memory mapping, which would go past every checksum.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    let code = forward!(file, xClose, ffi::SQLITE_OK);
    // SAFETY: the state came out of a box when the file was opened, and SQLite closes a file once.
    unsafe {
        let head: *mut Head = file.cast();
        drop(Box::from_raw((*head).state));
        (*head).state = std::ptr::null_mut();
        (*head).base.pMethods = std::ptr::null();
    }
    code
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    out: *mut c_void,
    bytes: c_int,
    offset: i64,
) -> c_int {
    let (Ok(bytes), Ok(offset)) = (usize::try_from(bytes), u64::try_from(offset)) else {
        return ffi::SQLITE_IOERR_READ;
    };
    // SAFETY: the file is open, and SQLite gives room for `bytes` at `out`, memory that it has
    // allocated itself and that nobody else uses meanwhile.
    let (state, below, buffer) = unsafe {
        let (state, below) = parts(file);
        (
            state,
            below,
            std::slice::from_raw_parts_mut(out.cast::<u8>(), bytes),
        )
    };
    state.read(&below, buffer, offset)
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    content: *const c_void,
    bytes: c_int,
    offset: i64,
) -> c_int {
    let (Ok(bytes), Ok(offset)) = (usize::try_from(bytes), u64::try_from(offset)) else {
        return ffi::SQLITE_IOERR_WRITE;
    };
    // SAFETY: the file is open, and there are `bytes` at `content`.
    let (state, below, content) = unsafe {
        let (state, below) = parts(file);
        (
            state,
            below,
            std::slice::from_raw_parts(content.cast::<u8>(), bytes),
        )
    };
    state.write(&below, content, offset)
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    let Ok(size) = u64::try_from(size) else {
        return ffi::SQLITE_IOERR_TRUNCATE;
    };
    // SAFETY: the file is open.
    let (state, below) = unsafe { parts(file) };
    state.truncate(&below, size)
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    forward!(file, xSync, ffi::SQLITE_IOERR_FSYNC, flags)
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, out: *mut i64) -> c_int {
    forward!(file, xFileSize, ffi::SQLITE_IOERR_FSTAT, out)
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    forward!(file, xLock, ffi::SQLITE_IOERR_LOCK, level)
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    forward!(file, xUnlock, ffi::SQLITE_IOERR_UNLOCK, level)
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    forward!(
        file,
        xCheckReservedLock,
        ffi::SQLITE_IOERR_CHECKRESERVEDLOCK,
        out
    )
}

unsafe extern "C" fn file_control(
    file: *mut ffi::sqlite3_file,
    operation: c_int,
    argument: *mut c_void,
) -> c_int {
    if matches!(
        operation,
        ffi::SQLITE_FCNTL_CKPT_START | ffi::SQLITE_FCNTL_CKPT_DONE
    ) {
        // SAFETY: the file is open.
        let (state, below) = unsafe { parts(file) };
        if operation == ffi::SQLITE_FCNTL_CKPT_START {
            state.begin_checkpoint(&below);
        } else {
            state.end_checkpoint();
        }
    }
    if operation == ffi::SQLITE_FCNTL_MMAP_SIZE {
        // Stays off, whoever asks.
        // SAFETY: this control's argument is a pointer to a 64-bit number.
        unsafe { argument.cast::<i64>().write(0) };
        return ffi::SQLITE_OK;
    }
    forward!(
        file,
        xFileControl,
        ffi::SQLITE_NOTFOUND,
        operation,
        argument
    )
}

unsafe extern "C" fn sector_size(file: *mut ffi::sqlite3_file) -> c_int {
    const USUAL: c_int = 4096;
    forward!(file, xSectorSize, USUAL)
}

unsafe extern "C" fn device_characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    // A part of a page cannot be verified, so none may be read.
    forward!(file, xDeviceCharacteristics, 0) & !ffi::SQLITE_IOCAP_SUBPAGE_READ
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    bytes: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    forward!(
        file,
        xShmMap,
        ffi::SQLITE_IOERR_SHMMAP,
        region,
        bytes,
        extend,
        out
    )
}

unsafe extern "C" fn shm_lock(
    file: *mut ffi::sqlite3_file,
    offset: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    forward!(
        file,
        xShmLock,
        ffi::SQLITE_IOERR_SHMLOCK,
        offset,
        count,
        flags
    )
}

unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
    forward!(file, xShmBarrier, ());
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    forward!(file, xShmUnmap, ffi::SQLITE_OK, delete)
}
