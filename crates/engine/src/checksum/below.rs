//! The system's file below one of ours.

use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, Ordering};

use libsqlite3_sys as ffi;

use super::page;

/// An open file of the system's. Its methods return SQLite's codes.
pub struct Below(*mut ffi::sqlite3_file);

impl Below {
    /// # Safety
    /// `file` is an open file of the system's, and stays open as long as this is used.
    pub unsafe fn open(file: *mut ffi::sqlite3_file) -> Below {
        Below(file)
    }

    fn methods(&self) -> &ffi::sqlite3_io_methods {
        // SAFETY: the file below is open as long as this one, and then its table is there.
        unsafe { &*(*self.0).pMethods }
    }

    /// SQLITE_IOERR_SHORT_READ if not all is there; the rest is then zero.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> c_int {
        let (Ok(bytes), Ok(offset)) = (c_int::try_from(buffer.len()), i64::try_from(offset)) else {
            return ffi::SQLITE_IOERR_READ;
        };
        match self.methods().xRead {
            // SAFETY: the file is open, and there is room for `bytes` at the pointer.
            Some(read) => unsafe { read(self.0, buffer.as_mut_ptr().cast(), bytes, offset) },
            None => ffi::SQLITE_IOERR_READ,
        }
    }

    pub fn write(&self, content: &[u8], offset: u64) -> c_int {
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

    pub fn truncate(&self, size: u64) -> c_int {
        match (self.methods().xTruncate, i64::try_from(size)) {
            // SAFETY: the file is open.
            (Some(truncate), Ok(size)) => unsafe { truncate(self.0, size) },
            _ => ffi::SQLITE_IOERR_TRUNCATE,
        }
    }

    pub fn size(&self) -> Result<u64, c_int> {
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

    /// How many frames of the WAL have been moved into the file, and how many have been committed, by
    /// the WAL's index (SQLite's "WAL-mode File Format", "The WAL-Index File Format"). While a
    /// checkpoint runs the first does not change and the frames between the two do not either.
    pub fn wal_frames(&self) -> Option<(u64, u64)> {
        const REGION_BYTES: c_int = 32768;
        const COMMITTED_AT: usize = 16;
        const MOVED_AT: usize = 96;
        let map = self.methods().xShmMap?;
        let mut region = std::ptr::null_mut();
        // SAFETY: the file is open, and so is its index while a checkpoint runs; the place is ours.
        let code = unsafe { map(self.0, 0, REGION_BYTES, 0, &raw mut region) };
        if code != ffi::SQLITE_OK || region.is_null() {
            return None;
        }
        // SAFETY: the region has so many bytes, both numbers are aligned in it, and others change
        // them only as a whole.
        let number = |at: usize| {
            unsafe { AtomicU32::from_ptr(region.byte_add(at).cast()) }.load(Ordering::Acquire)
        };
        Some((u64::from(number(MOVED_AT)), u64::from(number(COMMITTED_AT))))
    }

    /// Whether the database in the file has page `number`, by the header in the file, which is of the
    /// last checkpoint. Of a file that is there the first page must be.
    pub fn should_have(&self, number: u32) -> bool {
        const PAGES_AT: u64 = 28;
        let mut pages = [0; 4];
        match self.read(&mut pages, PAGES_AT) {
            ffi::SQLITE_OK => number <= u32::from_be_bytes(pages),
            _ => number == 1 && self.size().is_ok_and(|size| size > 0),
        }
    }

    /// The size of the file's pages, by its header.
    pub fn page_bytes(&self) -> Option<usize> {
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
