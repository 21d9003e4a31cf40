//! Tables whose conflicts are decided by clocks (`ALTER TABLE … SET (conflict = 'hlc')`): when each
//! column of a row was last written, in `springhead.sync_clocks`.
//!
//! A device's write has the clock of the moment when it was made, a statement's that of the moment
//! when it runs; whichever is later stays, whatever order they arrive in. A device's clock counts for
//! no more than the server's and the drift that is allowed, so that one that is years ahead does not
//! win for years.

use rusqlite::{Connection, params};
use springhead_proto::sync::{Hlc, Mutation};
use springhead_proto::{ChangeKind, ChangeRef, Changes, RowRef};
use springhead_sql::catalog::{Catalog, Conflict, Table};

/// Who wrote, for clocks that are equal: a producer, or nobody for a statement.
pub(crate) const STATEMENT: &str = "";

/// The clock that a mutation's writes have.
pub(crate) fn of_mutation(mutation: &Mutation, now_us: i64, drift_ms: u64) -> Hlc {
    let latest = now(now_us).ms().saturating_add(drift_ms);
    match mutation.hlc {
        Some(hlc) if hlc.ms() <= latest => hlc,
        Some(_) => Hlc::at_ms(latest),
        None => now(now_us),
    }
}

/// The server's clock.
pub(crate) fn now(now_us: i64) -> Hlc {
    Hlc::at_ms(u64::try_from(now_us / 1000).unwrap_or(0))
}

/// Whether a column of a document was written later than at `hlc` by `producer`.
pub(crate) fn is_older(
    conn: &Connection,
    table: &Table,
    document_id: &str,
    column: u32,
    (hlc, producer): (Hlc, &str),
) -> rusqlite::Result<bool> {
    let known = conn
        .prepare_cached("SELECT c4, c5 FROM t22 WHERE c1 = ?1 AND c2 = ?2 AND c3 = ?3")?
        .query_row(params![table.id, document_id, column], |row| {
            Ok((
                row.get::<_, i64>(0)?.unsigned_abs(),
                row.get::<_, String>(1)?,
            ))
        });
    match known {
        Ok((known, by)) => Ok((known, by.as_str()) > (hlc.0, producer)),
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Notes when the columns were written that some captured changes have written.
///
/// # Errors
/// What SQLite says.
pub(crate) fn note(
    conn: &Connection,
    catalog: &Catalog,
    changes: &[u8],
    written: (Hlc, &str),
) -> rusqlite::Result<()> {
    for change in Changes::new(changes) {
        let change = change.expect("it has just been captured");
        let is_row = matches!(
            change.kind,
            ChangeKind::Insert | ChangeKind::Update | ChangeKind::Delete
        );
        if let Some(table) = catalog.table(change.collection)
            && table.conflict == Conflict::Hlc
            && is_row
        {
            note_change(conn, table, &change, written)?;
        }
    }
    Ok(())
}

fn note_change(
    conn: &Connection,
    table: &Table,
    change: &ChangeRef<'_>,
    (hlc, producer): (Hlc, &str),
) -> rusqlite::Result<()> {
    let forget = |row: RowRef<'_>| {
        conn.prepare_cached("DELETE FROM t22 WHERE c1 = ?1 AND c2 = ?2")?
            .execute(params![table.id, table.document_id(row)])
            .map(|_| ())
    };
    let Some(after) = change.after else {
        return change.before.map_or(Ok(()), forget);
    };
    let id = table.document_id(after);
    for (place, column) in table.columns.iter().enumerate() {
        let is_same = (change.before).is_some_and(|before| before.get(place) == after.get(place));
        if is_same || table.key.contains(&place) {
            continue;
        }
        conn.prepare_cached(
            "INSERT INTO t22 VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (c1, c2, c3) DO UPDATE \
             SET c4 = excluded.c4, c5 = excluded.c5",
        )?
        .execute(params![
            table.id,
            id,
            column.id,
            hlc.0.cast_signed(),
            producer
        ])?;
    }
    Ok(())
}
