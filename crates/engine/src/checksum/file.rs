//! An open file: SQLite's table of methods over [`Database`] and [`Wal`], which do the work in safe
//! code on the system's file below ([`Below`]).
//!
//! ```text
//! what SQLite gives room for:  | Head: methods, state | the system's file … |
//! ```
//!
//! A file belongs to one connection, which one thread at a time uses, so no method runs twice at
//! once on one file.

use std::ffi::{CStr, c_char, c_int, c_void};

use libsqlite3_sys as ffi;

use super::damage::{self, Damage};
use super::wal::{self, Frame};
use super::{RESERVED, page};

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

struct State {
    path: String,
    kind: Kind,
    /// A page to be written with its checksum, or a frame that is verified as a whole.
    scratch: Vec<u8>,
}

/// Which of a state's files it is.
pub enum Kind {
    Database,
    /// With a sum of each frame's content that this connection wrote since the WAL last began, so
    /// that it can verify what it has not committed: those frames' own checksums are not final. 8
    /// bytes for each frame; 0 where nothing is known.
    Wal {
        written: Vec<u64>,
    },
}

impl Kind {
    pub fn database() -> Kind {
        Kind::Database
    }

    pub fn wal() -> Kind {
        Kind::Wal {
            written: Vec::new(),
        }
    }
}

/// The system's file.
struct Below(*mut ffi::sqlite3_file);

impl State {
    fn read(&mut self, below: &Below, buffer: &mut [u8], offset: u64) -> c_int {
        match &self.kind {
            Kind::Database => self.read_database(below, buffer, offset),
            Kind::Wal { .. } => self.read_wal(below, buffer, offset),
        }
    }

    fn read_database(&self, below: &Below, buffer: &mut [u8], offset: u64) -> c_int {
        /// SQLite peeks at parts of the header without a lock; it uses none of it before it has read
        /// the first page as a whole.
        const HEADER: u64 = 100;
        let code = below.read(buffer, offset);
        let number = page::number_at(buffer.len(), offset);
        match (code, number) {
            (ffi::SQLITE_OK, Some(number)) if page::is_intact(buffer, number) => code,
            (ffi::SQLITE_OK, Some(page)) => {
                buffer.fill(0);
                self.damaged(Damage::Page {
                    file: damage::shown(&self.path),
                    page,
                })
            }
            // SQLite takes it for a page of zeros, which is right only past the end of the database.
            (ffi::SQLITE_IOERR_SHORT_READ, Some(page)) if below.should_have(page) => {
                self.damaged(Damage::Missing {
                    file: damage::shown(&self.path),
                    page,
                })
            }
            (ffi::SQLITE_OK, None) if offset + buffer.len() as u64 > HEADER => {
                // Never asked for: `device_characteristics` says that parts of pages cannot be read.
                buffer.fill(0);
                ffi::SQLITE_IOERR_READ
            }
            _ => code,
        }
    }

    fn write_database(&mut self, below: &Below, content: &[u8], offset: u64) -> c_int {
        let Some(number) = page::number_at(content.len(), offset) else {
            // Nothing but whole pages is ever written to a database.
            return ffi::SQLITE_IOERR_WRITE;
        };
        const RESERVED_AT: usize = 20;
        if number == 1 && content[RESERVED_AT] != RESERVED {
            tracing::error!(path = self.path, "no room for checksums was set aside");
            return ffi::SQLITE_IOERR_WRITE;
        }
        match self.fill(below, content.len(), offset) {
            ffi::SQLITE_OK => self.write_page(below, content, number, offset),
            code => code,
        }
    }

    fn write_page(&mut self, below: &Below, content: &[u8], number: u32, offset: u64) -> c_int {
        // SQLite's buffer is SQLite's: its cache and its WAL have the page without a checksum.
        self.scratch.clear();
        self.scratch.extend_from_slice(content);
        page::seal(&mut self.scratch, number);
        below.write(&self.scratch, offset)
    }

    /// Pages that SQLite skips, since a transaction freed again what it added, are written as zeros
    /// with their checksum: there are no holes, so that zeros without one are damage.
    fn fill(&mut self, below: &Below, page_bytes: usize, up_to: u64) -> c_int {
        let size = match below.size() {
            Ok(size) => size,
            Err(code) => return code,
        };
        if size >= up_to {
            return ffi::SQLITE_OK;
        }
        let zeros = vec![0; page_bytes];
        let mut offset = size.next_multiple_of(page_bytes as u64);
        while offset < up_to {
            let Some(number) = page::number_at(page_bytes, offset) else {
                return ffi::SQLITE_FULL;
            };
            let code = self.write_page(below, &zeros, number, offset);
            if code != ffi::SQLITE_OK {
                return code;
            }
            offset += page_bytes as u64;
        }
        ffi::SQLITE_OK
    }

    fn read_wal(&mut self, below: &Below, buffer: &mut [u8], offset: u64) -> c_int {
        let Kind::Wal { written } = &self.kind else {
            return ffi::SQLITE_MISUSE;
        };
        let sum_of = |frame: Frame| {
            let place = usize::try_from(frame.index).ok()?;
            written.get(place).copied().filter(|&sum| sum != 0)
        };
        if let Some(frame) = Frame::of_whole(buffer.len(), offset) {
            // SQLite recovering, which verifies for itself and cuts what it cannot; or finishing the
            // checksums of a transaction, which must not make damage look right.
            let code = below.read(buffer, offset);
            return match sum_of(frame) {
                Some(sum)
                    if code == ffi::SQLITE_OK
                        && sum != content_sum(&buffer[wal::FRAME_HEADER..]) =>
                {
                    self.verify_chain(below, frame, buffer)
                }
                _ => code,
            };
        }
        let Some(frame) = Frame::of_content(buffer.len(), offset) else {
            // Headers, of which nothing is believed that a checksum does not cover.
            return below.read(buffer, offset);
        };
        if let Some(sum) = sum_of(frame) {
            let code = below.read(buffer, offset);
            if code != ffi::SQLITE_OK || sum == content_sum(buffer) {
                return code;
            }
            // Another connection may have written the frame anew; then its own checksum is right.
        }
        self.read_frame(below, frame, buffer)
    }

    /// Reads a frame's content by way of the frame as a whole.
    fn read_frame(&mut self, below: &Below, frame: Frame, content: &mut [u8]) -> c_int {
        let mut whole = std::mem::take(&mut self.scratch);
        whole.resize(wal::FRAME_HEADER + content.len(), 0);
        let mut code = below.read(&mut whole, frame.offset());
        if code == ffi::SQLITE_OK {
            code = self.verify_chain(below, frame, &mut whole);
        } else if code == ffi::SQLITE_IOERR_SHORT_READ {
            // A frame is only looked for where one has been written.
            code = self.damaged(Damage::Frame {
                file: damage::shown(&self.path),
                frame: frame.index + 1,
            });
        }
        content.copy_from_slice(&whole[wal::FRAME_HEADER..]);
        self.scratch = whole;
        code
    }

    fn verify_chain(&self, below: &Below, frame: Frame, whole: &mut [u8]) -> c_int {
        let mut previous = [0; 8];
        let code = below.read(&mut previous, frame.previous_sum_offset());
        if code != ffi::SQLITE_OK || Frame::is_intact(whole, previous) {
            return code;
        }
        whole.fill(0);
        self.damaged(Damage::Frame {
            file: damage::shown(&self.path),
            frame: frame.index + 1,
        })
    }

    fn write_wal(&mut self, below: &Below, content: &[u8], offset: u64) -> c_int {
        let code = below.write(content, offset);
        let Kind::Wal { written } = &mut self.kind else {
            return code;
        };
        if offset == 0 {
            // The WAL begins anew.
            written.clear();
        } else if let Some(frame) = Frame::of_content(content.len(), offset)
            && let Ok(place) = usize::try_from(frame.index)
        {
            if written.len() <= place {
                written.resize(place + 1, 0);
            }
            written[place] = if code == ffi::SQLITE_OK {
                content_sum(content)
            } else {
                0
            };
        }
        code
    }

    fn truncate(&mut self, below: &Below, size: u64) -> c_int {
        match &mut self.kind {
            Kind::Database => {
                // Longer than it is: see `fill`.
                if let Some(page_bytes) = below.page_bytes() {
                    let code = self.fill(below, page_bytes, size);
                    if code != ffi::SQLITE_OK {
                        return code;
                    }
                }
            }
            Kind::Wal { written } => *written = Vec::new(),
        }
        below.truncate(size)
    }

    fn damaged(&self, damage: Damage) -> c_int {
        damage::found(&self.path, damage)
    }
}

/// A sum of a frame's content, never 0.
fn content_sum(content: &[u8]) -> u64 {
    page::checksum(content, 0).max(1)
}

impl Below {
    fn methods(&self) -> &ffi::sqlite3_io_methods {
        // SAFETY: the file below is open as long as this one, and then its table is there.
        unsafe { &*(*self.0).pMethods }
    }

    /// SQLITE_IOERR_SHORT_READ if not all is there; the rest is then zero.
    fn read(&self, buffer: &mut [u8], offset: u64) -> c_int {
        let (Ok(bytes), Ok(offset)) = (c_int::try_from(buffer.len()), i64::try_from(offset)) else {
            return ffi::SQLITE_IOERR_READ;
        };
        match self.methods().xRead {
            // SAFETY: the file is open, and there is room for `bytes` at the pointer.
            Some(read) => unsafe { read(self.0, buffer.as_mut_ptr().cast(), bytes, offset) },
            None => ffi::SQLITE_IOERR_READ,
        }
    }

    fn write(&self, content: &[u8], offset: u64) -> c_int {
        let (Ok(bytes), Ok(offset)) = (c_int::try_from(content.len()), i64::try_from(offset))
        else {
            return ffi::SQLITE_IOERR_WRITE;
        };
        match self.methods().xWrite {
            // SAFETY: the file is open, and there are `bytes` at the pointer.
            Some(write) => unsafe { write(self.0, content.as_ptr().cast(), bytes, offset) },
            None => ffi::SQLITE_IOERR_WRITE,
        }
    }

    fn truncate(&self, size: u64) -> c_int {
        match (self.methods().xTruncate, i64::try_from(size)) {
            // SAFETY: the file is open.
            (Some(truncate), Ok(size)) => unsafe { truncate(self.0, size) },
            _ => ffi::SQLITE_IOERR_TRUNCATE,
        }
    }

    fn size(&self) -> Result<u64, c_int> {
        let mut size = 0;
        let code = match self.methods().xFileSize {
            // SAFETY: the file is open, the place is ours.
            Some(file_size) => unsafe { file_size(self.0, &raw mut size) },
            None => ffi::SQLITE_IOERR_FSTAT,
        };
        if code == ffi::SQLITE_OK {
            u64::try_from(size).map_err(|_| ffi::SQLITE_IOERR_FSTAT)
        } else {
            Err(code)
        }
    }

    /// Whether the database in the file has page `number`, by the header in the file, which is of the
    /// last checkpoint. Of a file that is there the first page must be.
    fn should_have(&self, number: u32) -> bool {
        const PAGES_AT: u64 = 28;
        let mut pages = [0; 4];
        match self.read(&mut pages, PAGES_AT) {
            ffi::SQLITE_OK => number <= u32::from_be_bytes(pages),
            _ => number == 1 && self.size().is_ok_and(|size| size > 0),
        }
    }

    /// The size of the file's pages, by its header.
    fn page_bytes(&self) -> Option<usize> {
        const PAGE_SIZE_AT: u64 = 16;
        let mut size = [0; 2];
        if self.read(&mut size, PAGE_SIZE_AT) != ffi::SQLITE_OK {
            return None;
        }
        let bytes = match u16::from_be_bytes(size) {
            1 => 65536,
            bytes => usize::from(bytes),
        };
        page::is_page_size(bytes).then_some(bytes)
    }
}

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
        (*head).state = Box::into_raw(Box::new(State {
            path,
            kind,
            scratch: Vec::new(),
        }));
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
    unsafe { (&mut *(*file.cast::<Head>()).state, Below(below(file))) }
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
    match state.kind {
        Kind::Database => state.write_database(&below, content, offset),
        Kind::Wal { .. } => state.write_wal(&below, content, offset),
    }
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
