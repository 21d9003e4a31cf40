//! The counts of `springhead.dead_letter_totals`, changed in the commit of what they count.
//!
//! Each entry is in exactly one place: `enqueued = resolved + expired + escalated + unresolved`, in
//! every row. A row is for one violation of one collection; `*` is for all violations of it, and the
//! collection `` (no table is called so) with `*` for the whole tenant, whose counts also number
//! entries and escalations: a count that never goes down is a number that is never given twice.

use rusqlite::{Connection, OptionalExtension, params};

use super::policy::ANY_VIOLATION;

/// The collection of the row for the whole tenant.
pub const ALL_COLLECTIONS: &str = "";

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Retried with success, or resolved by somebody.
    Resolved,
    /// Its time was over: dropped, or force-applied.
    Expired,
    /// It went to `springhead.escalations`.
    Escalated,
}

/// One row's counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub enqueued: i64,
    pub resolved: i64,
    pub expired: i64,
    pub escalated: i64,
    pub unresolved: i64,
}

impl Counts {
    /// Whether nothing has vanished.
    #[must_use]
    pub fn add_up(&self) -> bool {
        self.enqueued == self.resolved + self.expired + self.escalated + self.unresolved
    }

    /// Adds another's.
    pub fn add(&mut self, other: Counts) {
        self.enqueued += other.enqueued;
        self.resolved += other.resolved;
        self.expired += other.expired;
        self.escalated += other.escalated;
        self.unresolved += other.unresolved;
    }

    /// The counts of one row; zeroes where there is none yet.
    pub(crate) fn of(
        conn: &Connection,
        collection: &str,
        violation: &str,
    ) -> rusqlite::Result<Counts> {
        let counts = conn
            .prepare_cached("SELECT c3, c4, c5, c6, c7 FROM t11 WHERE c1 = ?1 AND c2 = ?2")?
            .query_row(params![collection, violation], |row| {
                Ok(Counts {
                    enqueued: row.get(0)?,
                    resolved: row.get(1)?,
                    expired: row.get(2)?,
                    escalated: row.get(3)?,
                    unresolved: row.get(4)?,
                })
            })
            .optional()?;
        Ok(counts.unwrap_or_default())
    }

    pub(crate) fn of_tenant(conn: &Connection) -> rusqlite::Result<Counts> {
        Counts::of(conn, ALL_COLLECTIONS, ANY_VIOLATION)
    }

    pub(crate) fn of_collection(conn: &Connection, collection: &str) -> rusqlite::Result<Counts> {
        Counts::of(conn, collection, ANY_VIOLATION)
    }
}

/// One more entry has come in.
pub(crate) fn came(conn: &Connection, collection: &str, violation: &str) -> rusqlite::Result<()> {
    add(
        conn,
        collection,
        violation,
        Counts {
            enqueued: 1,
            unresolved: 1,
            ..Counts::default()
        },
    )
}

/// An unresolved entry has ended.
pub(crate) fn ended(
    conn: &Connection,
    collection: &str,
    violation: &str,
    how: Ended,
) -> rusqlite::Result<()> {
    let mut counts = Counts {
        unresolved: -1,
        ..Counts::default()
    };
    match how {
        Ended::Resolved => counts.resolved = 1,
        Ended::Expired => counts.expired = 1,
        Ended::Escalated => counts.escalated = 1,
    }
    add(conn, collection, violation, counts)
}

fn add(
    conn: &Connection,
    collection: &str,
    violation: &str,
    counts: Counts,
) -> rusqlite::Result<()> {
    debug_assert!(counts.add_up(), "a step that does not add up");
    add_to(conn, collection, violation, counts)?;
    add_to(conn, collection, ANY_VIOLATION, counts)?;
    add_to(conn, ALL_COLLECTIONS, ANY_VIOLATION, counts)
}

fn add_to(
    conn: &Connection,
    collection: &str,
    violation: &str,
    counts: Counts,
) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO t11 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (c1, c2) DO UPDATE SET \
         c3 = c3 + excluded.c3, c4 = c4 + excluded.c4, c5 = c5 + excluded.c5, \
         c6 = c6 + excluded.c6, c7 = c7 + excluded.c7",
    )?
    .execute(params![
        collection,
        violation,
        counts.enqueued,
        counts.resolved,
        counts.expired,
        counts.escalated,
        counts.unresolved,
    ])?;
    Ok(())
}
