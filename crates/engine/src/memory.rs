//! The memory that SQLite takes for one statement: counted on the thread that runs it, and refused
//! past a limit, so that a sort or an aggregate of one user cannot take the node's memory. The
//! statement then fails with 53200, alone.
//!
//! SQLite's allocator is wrapped before SQLite is first used ([`install`]); what is allocated outside
//! of [`Limited`] is not limited.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use libsqlite3_sys as ffi;

thread_local! {
    /// What the statement that runs on this thread has taken, less what it has given back.
    static USED: Cell<i64> = const { Cell::new(0) };
    static LIMIT: Cell<i64> = const { Cell::new(i64::MAX) };
}

/// SQLite's own allocator.
static BELOW: OnceLock<Below> = OnceLock::new();

struct Below {
    malloc: unsafe extern "C" fn(c_int) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
    realloc: unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void,
    size: unsafe extern "C" fn(*mut c_void) -> c_int,
}

/// Limits what SQLite takes on this thread until it is dropped.
pub struct Limited {
    before: (i64, i64),
}

impl Limited {
    #[must_use]
    pub fn to(bytes: usize) -> Limited {
        let limit = i64::try_from(bytes).unwrap_or(i64::MAX);
        Limited {
            before: (USED.replace(0), LIMIT.replace(limit)),
        }
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let (used, limit) = self.before;
        USED.set(used.saturating_add(USED.get()));
        LIMIT.set(limit);
    }
}

/// Wraps SQLite's allocator, once in the process and before anything else of SQLite is used. Where
/// SQLite is in use already, it says no and nothing is limited.
pub fn install() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let mut methods = ffi::sqlite3_mem_methods {
            xMalloc: None,
            xFree: None,
            xRealloc: None,
            xSize: None,
            xRoundup: None,
            xInit: None,
            xShutdown: None,
            pAppData: ptr::null_mut(),
        };
        // SAFETY: this control takes a pointer to the structure, which SQLite fills.
        let code = unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMALLOC, &raw mut methods) };
        let (Some(below_malloc), Some(below_free), Some(below_realloc), Some(size)) = (
            methods.xMalloc,
            methods.xFree,
            methods.xRealloc,
            methods.xSize,
        ) else {
            tracing::warn!(code, "the memory of statements is not limited");
            return;
        };
        let below = Below {
            malloc: below_malloc,
            free: below_free,
            realloc: below_realloc,
            size,
        };
        if code != ffi::SQLITE_OK || BELOW.set(below).is_err() {
            tracing::warn!(code, "the memory of statements is not limited");
            return;
        }
        methods.xMalloc = Some(malloc);
        methods.xFree = Some(free);
        methods.xRealloc = Some(realloc);
        // SAFETY: the same structure with functions of the same types; SQLite copies it.
        let code = unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw const methods) };
        if code != ffi::SQLITE_OK {
            tracing::warn!(code, "the memory of statements is not limited");
        }
    });
}

/// Whether so much more may be taken.
fn has_room(bytes: i64) -> bool {
    USED.get().saturating_add(bytes) <= LIMIT.get()
}

fn count(bytes: i64) {
    USED.set(USED.get().saturating_add(bytes));
}

// SQLite calls these as it would call its own allocator; what they hand on is what they were given.

unsafe extern "C" fn malloc(bytes: c_int) -> *mut c_void {
    let Some(below) = BELOW.get() else {
        return ptr::null_mut();
    };
    if !has_room(i64::from(bytes)) {
        return ptr::null_mut();
    }
    // SAFETY: SQLite's own allocator, called with SQLite's own argument.
    unsafe {
        let taken = (below.malloc)(bytes);
        if !taken.is_null() {
            count(i64::from((below.size)(taken)));
        }
        taken
    }
}

unsafe extern "C" fn free(taken: *mut c_void) {
    let Some(below) = BELOW.get() else { return };
    if taken.is_null() {
        return;
    }
    // SAFETY: `taken` came from this allocator, and is not null.
    unsafe {
        count(-i64::from((below.size)(taken)));
        (below.free)(taken);
    }
}

unsafe extern "C" fn realloc(taken: *mut c_void, bytes: c_int) -> *mut c_void {
    let Some(below) = BELOW.get() else {
        return ptr::null_mut();
    };
    // SAFETY: `taken` came from this allocator; SQLite never hands in null here.
    unsafe {
        let before = i64::from((below.size)(taken));
        if !has_room(i64::from(bytes) - before) {
            return ptr::null_mut();
        }
        let moved = (below.realloc)(taken, bytes);
        if !moved.is_null() {
            count(i64::from((below.size)(moved)) - before);
        }
        moved
    }
}
