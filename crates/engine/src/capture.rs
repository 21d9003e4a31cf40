//! Collects the old and new image of every row that changes, whatever changed it: triggers,
//! cascades, upserts and functions are captured because they happened.
//!
//! SQLite calls the preupdate hook for each row of a storage table (`t<id>`), also for rows of
//! statements that fail afterwards and of savepoints that are rolled back: whoever runs statements
//! takes a [`Mark`] before and [`Capture::cut`]s back to it. One capture belongs to one connection,
//! and both to one writer at a time.

mod labels;
mod reading;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::sync::Arc;

use libsqlite3_sys as ffi;
use rusqlite::Connection;
use rustc_hash::FxHashMap;
use springhead_proto::{
    ChangeKind, CollectionId, ErrorCode, SchemaVersion, SqlError, encode_change,
};
use springhead_sql::catalog::Table;
use springhead_sql::types::PgType;

use crate::notify::{Folded, Outbox};
use crate::programs::{Fired, FiredRows, WatchedRows};
use images::image;

mod amend;
mod beside;
mod images;

// Declared here because rusqlite has them only with generated bindings, and generating needs
// libclang. Signatures: https://www.sqlite.org/c3ref/preupdate_blobwrite.html
type PreupdateHook = unsafe extern "C" fn(
    *mut c_void,
    *mut ffi::sqlite3,
    c_int,
    *const c_char,
    *const c_char,
    ffi::sqlite3_int64,
    ffi::sqlite3_int64,
);

unsafe extern "C" {
    fn sqlite3_preupdate_hook(
        db: *mut ffi::sqlite3,
        hook: Option<PreupdateHook>,
        argument: *mut c_void,
    ) -> *mut c_void;
    fn sqlite3_preupdate_old(
        db: *mut ffi::sqlite3,
        index: c_int,
        value: *mut *mut ffi::sqlite3_value,
    ) -> c_int;
    fn sqlite3_preupdate_new(
        db: *mut ffi::sqlite3,
        index: c_int,
        value: *mut *mut ffi::sqlite3_value,
    ) -> c_int;
    fn sqlite3_preupdate_count(db: *mut ffi::sqlite3) -> c_int;
    fn sqlite3_preupdate_depth(db: *mut ffi::sqlite3) -> c_int;
}

/// What capture must know of a table.
#[derive(Debug, Clone)]
struct CapturedTable {
    schema_version: SchemaVersion,
    /// Per stored column: whether it is REAL. SQLite stores whole reals as integers and hands them
    /// out as such for new rows.
    real: Box<[bool]>,
    /// Whether AFTER ROW triggers are to see its changes.
    fires: bool,
    /// Whether it has CRDT columns.
    merges: bool,
    /// Places of the key's columns: a row whose key changes is a delete and an insert.
    key: Box<[usize]>,
}

/// The changes captured on one connection since they were last taken. Boxed: SQLite holds its
/// address.
pub struct Capture {
    tables: FxHashMap<u32, CapturedTable>,
    /// Off while definitions change and while replay runs.
    pub enabled: bool,
    /// Encoded changes of the commits taken so far, then of the open one from `start`.
    buffer: Vec<u8>,
    /// Where in `buffer` the open commit starts.
    start: usize,
    /// The open commit's first bytes, once it has outgrown memory.
    spill: Option<Spill>,
    count: u64,
    collections: Vec<CollectionId>,
    /// What statements send with pg_notify.
    outbox: Arc<Outbox>,
    /// The messages that the open commit has.
    folded: Folded,
    /// Bytes of messages of one commit, at most.
    max_message_bytes: usize,
    /// Why the open commit cannot be captured; it must fail.
    failed: Option<SqlError>,
    memory_bytes: usize,
    max_bytes: u64,
    max_row_bytes: usize,
    before: Vec<u8>,
    after: Vec<u8>,
    /// Rows that AFTER ROW triggers are to see; the writer's own.
    pub fired: Arc<FiredRows>,
    /// Rows that row policies are to see; the writer's own.
    pub watched: Arc<WatchedRows>,
    /// On a device: what the open commit did to replicated rows, each change after a byte that says
    /// whether a statement did it itself.
    noted: Vec<u8>,
    /// Whose changes are being noted.
    noting: Noting,
    /// Rows of a table with CRDT columns have been updated since [`Capture::take_merging`].
    merging: bool,
}

/// Whether changes of replicated rows are noted ([`crate::device`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noting {
    /// The tenant is no device.
    Never,
    /// Local statements: their changes become a mutation.
    Local,
    /// Mutations that exist already: only what rows were is of interest.
    Replay,
    /// The server's rows.
    Nothing,
}

struct Spill {
    file: std::fs::File,
    bytes: u64,
}

/// A place in the open commit to cut back to.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    bytes: u64,
    noted: usize,
    count: u64,
    messages: usize,
}

/// A commit taken out of the capture.
#[derive(Debug)]
pub struct CapturedCommit {
    pub count: u64,
    pub collections: Vec<CollectionId>,
    pub bytes: CapturedBytes,
}

/// Where a captured commit's bytes are.
#[derive(Debug)]
pub enum CapturedBytes {
    /// A range of the group's buffer ([`Capture::take_buffer`]).
    Buffer(Range<usize>),
    File {
        file: std::fs::File,
        length: u64,
    },
}

impl Capture {
    /// Puts the hook on `conn`. The capture must live as long as the connection is used.
    pub fn install(
        conn: &Connection,
        memory_bytes: usize,
        max_bytes: u64,
        max_row_bytes: usize,
        outbox: Arc<Outbox>,
        max_message_bytes: usize,
    ) -> Box<Capture> {
        let mut capture = Box::new(Capture {
            tables: FxHashMap::default(),
            enabled: false,
            buffer: Vec::new(),
            start: 0,
            spill: None,
            count: 0,
            collections: Vec::new(),
            outbox,
            folded: Folded::default(),
            max_message_bytes,
            failed: None,
            memory_bytes,
            max_bytes,
            max_row_bytes,
            before: Vec::new(),
            after: Vec::new(),
            fired: Arc::default(),
            noted: Vec::new(),
            noting: Noting::Never,
            merging: false,
            watched: Arc::default(),
        });
        let argument: *mut Capture = &raw mut *capture;
        // SAFETY: the handle is open; the argument is the boxed capture, which the writer keeps
        // beside the connection and drops after it; both are only ever used by one thread at a time.
        unsafe {
            sqlite3_preupdate_hook(conn.handle(), Some(on_preupdate), argument.cast());
        }
        capture
    }

    /// From now on `table`'s changes carry its schema version, and are kept for AFTER ROW triggers if
    /// it `fires`.
    pub fn set_table(&mut self, table: &Table, fires: bool) {
        let captured = CapturedTable {
            fires,
            merges: table.has_crdt(),
            schema_version: table.version(),
            real: table
                .columns
                .iter()
                .map(|column| matches!(column.pg_type, PgType::Float4 | PgType::Float8))
                .collect(),
            key: table.key.clone().into_boxed_slice(),
        };
        self.tables.insert(table.id, captured);
    }

    /// `table` is gone.
    pub fn remove_table(&mut self, table: CollectionId) {
        self.tables.remove(&table.0);
    }

    /// The present end of the open commit.
    pub fn mark(&self) -> Mark {
        Mark {
            bytes: self.open_bytes(),
            noted: self.noted.len(),
            count: self.count,
            messages: self.folded.len(),
        }
    }

    /// Forgets what the open commit got since `mark`.
    pub fn cut(&mut self, mark: Mark) {
        self.outbox.take();
        self.folded.truncate(mark.messages);
        self.noted.truncate(mark.noted);
        let spilled = self.spill.as_ref().map_or(0, |spill| spill.bytes);
        if mark.bytes >= spilled {
            let kept =
                usize::try_from(mark.bytes - spilled).expect("it was the length of a buffer");
            self.buffer.truncate(self.start + kept);
        } else {
            self.buffer.truncate(self.start);
            if mark.bytes == 0 {
                self.spill = None;
            } else if let Some(spill) = &mut self.spill {
                spill.bytes = mark.bytes;
                let cut = spill
                    .file
                    .set_len(mark.bytes)
                    .and_then(|()| spill.file.seek(SeekFrom::Start(mark.bytes)));
                if let Err(error) = cut {
                    self.failed = Some(spill_failed(&error));
                    self.count = mark.count;
                    return;
                }
            }
        }
        self.count = mark.count;
        if mark.count == 0 {
            self.collections.clear();
        }
        self.failed = None;
    }

    /// Whether the open commit has got more than messages since `mark`.
    pub fn has_rows_since(&self, mark: &Mark) -> bool {
        self.count - mark.count > (self.folded.len() - mark.messages) as u64
    }

    /// Whether the open commit has changes of `collection`.
    pub fn touches(&self, collection: CollectionId) -> bool {
        self.collections.binary_search(&collection).is_ok()
    }

    /// The collections that the open commit has changes of, ascending.
    pub fn collections(&self) -> &[CollectionId] {
        &self.collections
    }

    /// The tenant is a device: changes of replicated rows are noted from now on.
    pub fn note_always(&mut self) {
        self.noting = Noting::Local;
    }

    /// Changes the way in which a device's changes are noted; on others nothing is.
    pub fn note(&mut self, noting: Noting) {
        if self.noting != Noting::Never {
            self.noting = noting;
        }
    }

    /// What has been noted since the last call.
    pub fn take_noted(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.noted)
    }

    fn note_change(
        &mut self,
        is_direct: bool,
        collection: CollectionId,
        version: SchemaVersion,
        images: (bool, bool),
    ) {
        let direct = self.noting == Noting::Local && is_direct;
        let before = images.0.then_some(&self.before[..]);
        let after = images.1.then_some(&self.after[..]);
        let kind = match images {
            (false, _) => ChangeKind::Insert,
            (true, true) => ChangeKind::Update,
            (true, false) => ChangeKind::Delete,
        };
        self.noted.push(u8::from(direct));
        encode_change(&mut self.noted, kind, collection, version, before, after);
    }

    /// How many changes the open commit has.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds a change that is no row of a storage table (a definition, a message, …) to the open
    /// commit.
    pub fn push(
        &mut self,
        kind: ChangeKind,
        collection: CollectionId,
        schema_version: SchemaVersion,
        after: Option<&[u8]>,
    ) {
        encode_change(
            &mut self.buffer,
            kind,
            collection,
            schema_version,
            None,
            after,
        );
        self.added(collection);
        self.label_kind(kind);
    }

    /// Why the open commit must fail, if it must.
    ///
    /// # Errors
    /// 54000 for a transaction or row that is too large, 58030 for a temporary file that failed.
    pub fn check(&self) -> Result<(), SqlError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Ends the open commit and takes it; `None` if it has no change.
    pub fn take_commit(&mut self) -> Option<CapturedCommit> {
        self.folded.clear();
        if self.count == 0 {
            self.spill = None;
            self.buffer.truncate(self.start);
            self.collections.clear();
            return None;
        }
        let bytes = match self.spill.take() {
            None => CapturedBytes::Buffer(self.start..self.buffer.len()),
            Some(mut spill) => match spill.file.write_all(&self.buffer[self.start..]) {
                Ok(()) => {
                    let length = spill.bytes + (self.buffer.len() - self.start) as u64;
                    self.buffer.truncate(self.start);
                    CapturedBytes::File {
                        file: spill.file,
                        length,
                    }
                }
                Err(error) => {
                    // The caller has checked before, so this is the disk's last word.
                    self.failed = Some(spill_failed(&error));
                    return None;
                }
            },
        };
        self.start = self.buffer.len();
        let count = std::mem::take(&mut self.count);
        Some(CapturedCommit {
            count,
            collections: std::mem::take(&mut self.collections),
            bytes,
        })
    }

    /// Takes the bytes of all commits taken since the last call. No commit may be open.
    pub fn take_buffer(&mut self) -> Vec<u8> {
        debug_assert_eq!(self.count, 0, "a commit is open");
        self.start = 0;
        // The next group is probably of the same size.
        let next = Vec::with_capacity(self.buffer.len().clamp(256, 1 << 20));
        std::mem::replace(&mut self.buffer, next)
    }

    /// Forgets everything, taken or not.
    pub fn clear(&mut self) {
        self.outbox.take();
        self.folded.clear();
        self.buffer.clear();
        self.start = 0;
        self.spill = None;
        self.count = 0;
        self.collections.clear();
        self.noted.clear();
        self.merging = false;
        self.failed = None;
    }

    fn open_bytes(&self) -> u64 {
        self.spill.as_ref().map_or(0, |spill| spill.bytes) + (self.buffer.len() - self.start) as u64
    }

    fn added(&mut self, collection: CollectionId) {
        self.count += 1;
        self.label(collection);
        if self.open_bytes() > self.max_bytes && self.failed.is_none() {
            self.failed = Some(
                SqlError::new(
                    ErrorCode::StatementTooLarge,
                    format!(
                        "the transaction's changes are over {} bytes",
                        self.max_bytes
                    ),
                )
                .with_hint("split it, or raise max_transaction_bytes"),
            );
        }
        if self.buffer.len() - self.start > self.memory_bytes
            && self.failed.is_none()
            && let Err(error) = self.spill_open()
        {
            self.failed = Some(spill_failed(&error));
        }
    }

    fn spill_open(&mut self) -> std::io::Result<()> {
        if self.spill.is_none() {
            self.spill = Some(Spill {
                file: tempfile::tempfile()?,
                bytes: 0,
            });
        }
        let spill = self.spill.as_mut().expect("it has just been made");
        let open = &self.buffer[self.start..];
        spill.file.write_all(open)?;
        spill.bytes += open.len() as u64;
        self.buffer.truncate(self.start);
        Ok(())
    }

    /// One call of the hook.
    ///
    /// # Safety
    /// Only inside the hook, with the handle it was called with.
    unsafe fn on_row(&mut self, db: *mut ffi::sqlite3, operation: c_int, table_name: &[u8]) {
        let Some(id) = storage_id(table_name) else {
            return;
        };
        if self.failed.is_some() {
            return;
        }
        self.take_messages();
        let Some(table) = self.tables.get(&id) else {
            self.failed = Some(SqlError::new(
                ErrorCode::Internal,
                format!("capture does not know table t{id}"),
            ));
            return;
        };
        self.merging |= table.merges && operation == ffi::SQLITE_UPDATE;
        let collection = CollectionId(id);
        let version = table.schema_version;
        self.before.clear();
        self.after.clear();
        // SAFETY: as this function's.
        let (has_before, has_after, ok) = unsafe {
            let count = sqlite3_preupdate_count(db);
            let has_before = operation != ffi::SQLITE_INSERT;
            let has_after = operation != ffi::SQLITE_DELETE;
            let ok = (!has_before
                || image(db, sqlite3_preupdate_old, count, table, &mut self.before))
                && (!has_after || image(db, sqlite3_preupdate_new, count, table, &mut self.after));
            (has_before, has_after, ok)
        };
        if !ok {
            self.failed = Some(SqlError::new(
                ErrorCode::OutOfMemory,
                "a row's image could not be read",
            ));
            return;
        }
        if self.before.len().max(self.after.len()) > self.max_row_bytes {
            self.failed = Some(SqlError::new(
                ErrorCode::StatementTooLarge,
                format!("a row is over {} bytes", self.max_row_bytes),
            ));
            return;
        }
        if table.fires {
            let kept = self.fired.push(Fired {
                table: id,
                before: has_before.then(|| self.before.clone()),
                after: has_after.then(|| self.after.clone()),
            });
            if kept > self.memory_bytes {
                self.failed = Some(
                    SqlError::new(
                        ErrorCode::StatementTooLarge,
                        format!(
                            "the rows that one statement keeps for AFTER ROW triggers are over {} bytes",
                            self.memory_bytes
                        ),
                    )
                    .with_hint("change fewer rows at a time, or raise capture_memory_bytes"),
                );
                return;
            }
        }
        let rekeyed = has_before && has_after && key_differs(&self.before, &self.after, &table.key);
        if matches!(self.noting, Noting::Local | Noting::Replay)
            && crate::device::is_replicated(collection)
        {
            // SAFETY: as this function's.
            let is_direct = unsafe { sqlite3_preupdate_depth(db) } == 0 && !self.fired.in_trigger();
            if rekeyed {
                self.note_change(is_direct, collection, version, (true, false));
                self.note_change(is_direct, collection, version, (false, true));
            } else {
                self.note_change(is_direct, collection, version, (has_before, has_after));
            }
        }
        let before = has_before.then_some(&self.before[..]);
        let after = has_after.then_some(&self.after[..]);
        if rekeyed {
            encode_change(
                &mut self.buffer,
                ChangeKind::Delete,
                collection,
                version,
                before,
                None,
            );
            self.added(collection);
            encode_change(
                &mut self.buffer,
                ChangeKind::Insert,
                collection,
                version,
                None,
                Some(&self.after),
            );
        } else {
            let kind = match (has_before, has_after) {
                (false, _) => ChangeKind::Insert,
                (true, true) => ChangeKind::Update,
                (true, false) => ChangeKind::Delete,
            };
            encode_change(&mut self.buffer, kind, collection, version, before, after);
        }
        self.added(collection);
    }
}

fn spill_failed(error: &std::io::Error) -> SqlError {
    SqlError::new(
        ErrorCode::DiskFull,
        format!("the transaction's temporary file: {error}"),
    )
}

/// The number in `t<number>`; `None` for the engine's own tables.
fn storage_id(name: &[u8]) -> Option<u32> {
    let digits = name.strip_prefix(b"t")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn key_differs(before: &[u8], after: &[u8], key: &[usize]) -> bool {
    let parse = |bytes| springhead_proto::RowRef::parse(bytes).expect("it has just been written");
    let (before, after) = (parse(before), parse(after));
    key.iter()
        .any(|&place| before.get(place) != after.get(place))
}

unsafe extern "C" fn on_preupdate(
    argument: *mut c_void,
    db: *mut ffi::sqlite3,
    operation: c_int,
    _database: *const c_char,
    table: *const c_char,
    _old_rowid: ffi::sqlite3_int64,
    new_rowid: ffi::sqlite3_int64,
) {
    // SAFETY: the argument is the capture that was installed, alive as long as the connection, and
    // nobody else uses it while SQLite runs a statement on the writer's only thread.
    let capture = unsafe { &mut *argument.cast::<Capture>() };
    if capture.enabled {
        // SAFETY: SQLite passes a zero-terminated name and we are inside the hook.
        unsafe {
            let name = CStr::from_ptr(table);
            capture.on_row(db, operation, name.to_bytes());
            if capture.watched.any()
                && operation != ffi::SQLITE_DELETE
                && sqlite3_preupdate_depth(db) == 0
                && let Some(table) = storage_id(name.to_bytes())
            {
                let inserted = operation == ffi::SQLITE_INSERT;
                capture.watched.note(table, new_rowid, inserted);
            }
        }
    }
}
