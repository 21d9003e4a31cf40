//! What a running statement keeps for the programs that are to see its rows at its end: for AFTER ROW
//! triggers what changed, for row policies what was written. Filled by [`crate::capture`], emptied by
//! [`super::Runner`].

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rusqlite::Connection;
use springhead_proto::{CollectionId, ErrorCode, SqlError};
use springhead_sql::plan::Write;

use crate::readers::Failure;

/// A row that AFTER triggers are still to see.
#[derive(Debug)]
pub struct Fired {
    pub table: u32,
    /// Row images.
    pub before: Option<Vec<u8>>,
    pub after: Option<Vec<u8>>,
}

/// Rows that changed in the running statement and its triggers, of tables with AFTER ROW triggers.
#[derive(Debug, Default)]
pub struct FiredRows {
    rows: Mutex<(Vec<Fired>, usize)>,
    /// How many triggers are running, one within the other.
    pub(super) triggers: AtomicUsize,
}

impl FiredRows {
    /// Whether what changes now is a trigger's doing.
    pub fn in_trigger(&self) -> bool {
        self.triggers.load(Ordering::Relaxed) > 0
    }

    /// Adds a row; how many bytes all of them have.
    pub fn push(&self, row: Fired) -> usize {
        let mut rows = self.rows.lock();
        rows.1 += row.bytes();
        rows.0.push(row);
        rows.1
    }

    pub fn len(&self) -> usize {
        self.rows.lock().0.len()
    }

    pub fn truncate(&self, len: usize) {
        let mut rows = self.rows.lock();
        rows.0.truncate(len);
        if len == 0 {
            rows.1 = 0;
        }
    }

    pub(super) fn take(&self, index: usize) -> Option<Fired> {
        let mut rows = self.rows.lock();
        let row = rows.0.get_mut(index)?;
        let taken = Fired {
            table: row.table,
            before: row.before.take(),
            after: row.after.take(),
        };
        rows.1 = rows.1.saturating_sub(taken.bytes());
        Some(taken)
    }
}

impl Fired {
    fn bytes(&self) -> usize {
        [&self.before, &self.after]
            .into_iter()
            .flatten()
            .map(Vec::len)
            .sum()
    }
}

/// Rows that statements themselves, and no cascade, have written into the tables whose policies they are
/// to satisfy; one entry for each statement that runs now.
#[derive(Debug, Default)]
pub struct WatchedRows {
    running: Mutex<Vec<Watched>>,
    any: AtomicBool,
}

#[derive(Debug)]
pub struct Watched {
    table: CollectionId,
    inserted: Vec<i64>,
    updated: Vec<i64>,
}

impl WatchedRows {
    /// From now on the rows that are written into `table` are noted.
    pub fn start(&self, table: CollectionId) {
        self.running.lock().push(Watched {
            table,
            inserted: Vec::new(),
            updated: Vec::new(),
        });
        self.any.store(true, Ordering::Relaxed);
    }

    /// What has been noted since the last start.
    pub fn end(&self) -> Option<Watched> {
        let mut running = self.running.lock();
        let last = running.pop();
        self.any.store(!running.is_empty(), Ordering::Relaxed);
        last
    }

    pub fn clear(&self) {
        self.running.lock().clear();
        self.any.store(false, Ordering::Relaxed);
    }

    /// How many rows are noted for each statement, inserted and updated.
    pub fn lengths(&self) -> Vec<(usize, usize)> {
        let running = self.running.lock();
        let lengths = running
            .iter()
            .map(|watched| (watched.inserted.len(), watched.updated.len()));
        lengths.collect()
    }

    /// Forgets what has been noted since there was so much.
    pub fn cut(&self, lengths: &[(usize, usize)]) {
        let mut running = self.running.lock();
        for (watched, (inserted, updated)) in running.iter_mut().zip(lengths) {
            watched.inserted.truncate(*inserted);
            watched.updated.truncate(*updated);
        }
    }

    pub fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    pub fn note(&self, table: u32, rowid: i64, inserted: bool) {
        for watched in self.running.lock().iter_mut() {
            if watched.table.0 == table {
                if inserted {
                    watched.inserted.push(rowid);
                } else {
                    watched.updated.push(rowid);
                }
            }
        }
    }
}

/// Row policies on what a statement has written. They see the state after it: a policy cannot ask
/// about its own table, and nothing else has changed but by triggers and cascades.
///
/// # Errors
/// 42501.
pub fn check_rows(
    conn: &Connection,
    write: &Write,
    watched: Option<Watched>,
) -> Result<(), Failure> {
    let Some(watched) = watched else {
        return Ok(());
    };
    for check in &write.checks {
        let rows = if check.inserted {
            &watched.inserted
        } else {
            &watched.updated
        };
        let mut statement = conn.prepare_cached(&check.sql)?;
        for rowid in rows {
            let mut found = statement.query([rowid])?;
            let violated: Option<u16> = match found.next()? {
                Some(row) => row.get(0)?,
                // Written, and gone again by a trigger's doing.
                None => None,
            };
            if let Some(violated) = violated {
                let message = check
                    .violations
                    .get(usize::from(violated))
                    .cloned()
                    .unwrap_or_default();
                return Err(SqlError::new(ErrorCode::InsufficientPrivilege, message).into());
            }
        }
    }
    Ok(())
}
