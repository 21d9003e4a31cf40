//! The values that SQLite shows its hook, as a row's image.

use std::ffi::c_int;

use libsqlite3_sys as ffi;
use springhead_proto::{RowBuilder, ValueRef};

use super::CapturedTable;

pub(super) type ImageValue =
    unsafe extern "C" fn(*mut ffi::sqlite3, c_int, *mut *mut ffi::sqlite3_value) -> c_int;

/// Writes the row's old or new image; whether SQLite gave all its values.
///
/// # Safety
/// Only inside the hook.
pub(super) unsafe fn image(
    db: *mut ffi::sqlite3,
    read: ImageValue,
    count: c_int,
    table: &CapturedTable,
    out: &mut Vec<u8>,
) -> bool {
    let mut row = RowBuilder::new(out, usize::try_from(count).unwrap_or(0));
    for index in 0..count {
        let mut value: *mut ffi::sqlite3_value = std::ptr::null_mut();
        // SAFETY: inside the hook, `index` is below the count; the value lives until the hook ends.
        unsafe {
            if read(db, index, &raw mut value) != ffi::SQLITE_OK || value.is_null() {
                return false;
            }
            let real = table
                .real
                .get(usize::try_from(index).unwrap_or(usize::MAX))
                .copied()
                .unwrap_or(false);
            if real && ffi::sqlite3_value_type(value) == ffi::SQLITE_INTEGER {
                row.push(ValueRef::Real(ffi::sqlite3_value_double(value)));
            } else if !push_value(&mut row, value) {
                return false;
            }
        }
    }
    true
}

/// # Safety
/// `value` is a live SQLite value.
unsafe fn push_value(row: &mut RowBuilder<'_>, value: *mut ffi::sqlite3_value) -> bool {
    // SAFETY: the pointer that text or blob gives is good for as many bytes as `bytes` says, until
    // the next call on the same value.
    unsafe {
        match ffi::sqlite3_value_type(value) {
            ffi::SQLITE_NULL => row.push(ValueRef::Null),
            ffi::SQLITE_INTEGER => row.push(ValueRef::Integer(ffi::sqlite3_value_int64(value))),
            ffi::SQLITE_FLOAT => row.push(ValueRef::Real(ffi::sqlite3_value_double(value))),
            ffi::SQLITE_TEXT => {
                let data = ffi::sqlite3_value_text(value);
                let length = usize::try_from(ffi::sqlite3_value_bytes(value)).unwrap_or(0);
                let bytes = if length == 0 {
                    &[][..]
                } else {
                    std::slice::from_raw_parts(data, length)
                };
                match std::str::from_utf8(bytes) {
                    Ok(text) => row.push(ValueRef::Text(text)),
                    Err(_) => return false,
                }
            }
            _ => {
                let data = ffi::sqlite3_value_blob(value);
                let length = usize::try_from(ffi::sqlite3_value_bytes(value)).unwrap_or(0);
                let bytes = if length == 0 {
                    &[][..]
                } else {
                    std::slice::from_raw_parts(data.cast::<u8>(), length)
                };
                row.push(ValueRef::Blob(bytes));
            }
        }
    }
    true
}
