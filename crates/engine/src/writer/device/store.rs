//! The collections of a device, `springhead.device_*`, read and written inside the writer's
//! transaction.
//!
//! | storage | collection | holds |
//! | --- | --- | --- |
//! | t40 | `device_state` | who the device is and how far it has come, by name |
//! | t41 | `device_pending` | mutations without a final verdict, or not in the image yet |
//! | t42 | `device_rejections` | rejected ones, until the application has acknowledged them |
//! | t43 | `device_image` | of rows that pending mutations have touched: the server's row, NULL for none |
//! | t44 | `device_members` | which shapes hold a document |
//! | t45 | `device_shapes` | what the application has subscribed to |
//! | t46 | `device_definitions` | the server's definitions as it sent them |

use rusqlite::{Connection, OptionalExtension, Result, params};
use springhead_proto::sync::{Generation, Mutation, MutationId, ProducerId, Push, Rejection, Seq};
use springhead_proto::{CollectionId, Cursor, Lsn};

/// Facts of `device_state`, by name.
pub(crate) mod fact {
    pub const PRODUCER: &str = "producer_id";
    pub const GENERATION: &str = "generation";
    pub const NEXT_SEQ: &str = "next_seq";
    pub const CURSOR: &str = "cursor";
    pub const CATALOG_VERSION: &str = "catalog_version";
    pub const CATALOG_HASH: &str = "catalog_hash";
    pub const CLOCK: &str = "clock";
}

/// A mutation's state: queued until a verdict; applied, and the image does not have it; included in
/// the image, and its verdict is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Queued,
    Applied(Lsn),
    Included,
}

/// A row of `device_pending`.
#[derive(Debug)]
pub(crate) struct Pending {
    pub id: i64,
    pub state: State,
    pub mutation: Mutation,
}

pub(crate) fn fact(conn: &Connection, name: &str) -> Result<Option<String>> {
    conn.prepare_cached("SELECT c2 FROM t40 WHERE c1 = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()
}

pub(crate) fn put_fact(conn: &Connection, name: &str, value: Option<&str>) -> Result<()> {
    match value {
        Some(value) => conn
            .prepare_cached(
                "INSERT INTO t40 VALUES (?1, ?2) ON CONFLICT (c1) DO UPDATE SET c2 = excluded.c2",
            )?
            .execute([name, value])?,
        None => conn
            .prepare_cached("DELETE FROM t40 WHERE c1 = ?1")?
            .execute([name])?,
    };
    Ok(())
}

/// What the image is complete to; nothing yet if there is none.
pub(crate) fn cursor(conn: &Connection) -> Result<Option<Cursor>> {
    Ok(fact(conn, fact::CURSOR)?.and_then(|text| text.parse().ok()))
}

pub(crate) fn id_of(mutation: &Mutation) -> (String, i64, i64) {
    key(&mutation.id())
}

fn key(id: &MutationId) -> (String, i64, i64) {
    (
        id.producer.to_string(),
        i64::from(id.generation.0),
        id.seq.0.cast_signed(),
    )
}

fn body(mutation: &Mutation) -> String {
    let push = Push {
        producer: mutation.producer,
        generation: mutation.generation,
        mutations: vec![mutation.clone()],
    };
    serde_json::to_string(&push).expect("a mutation has a JSON form")
}

/// The mutation in a body of `device_pending` or `device_rejections`; `None` for what is none.
#[must_use]
pub fn mutation_of(body: &str) -> Option<Mutation> {
    let push: Push = serde_json::from_str(body).ok()?;
    push.mutations.into_iter().next()
}

pub(crate) fn add_pending(conn: &Connection, mutation: &Mutation, now_us: i64) -> Result<()> {
    let (producer, generation, seq) = id_of(mutation);
    conn.prepare_cached(
        "INSERT INTO t41 (c2, c3, c4, c5, c6, c7, c8) VALUES (?1, ?2, ?3, 'queued', NULL, ?4, ?5)",
    )?
    .execute(params![producer, generation, seq, body(mutation), now_us])?;
    Ok(())
}

/// All pending mutations, in the order in which they were made.
pub(crate) fn pending(conn: &Connection) -> Result<Vec<Pending>> {
    let mut statement = conn.prepare_cached("SELECT c1, c5, c6, c7 FROM t41 ORDER BY c1")?;
    let mut rows = statement.query([])?;
    let mut pending = Vec::new();
    while let Some(row) = rows.next()? {
        let state: String = row.get(1)?;
        let lsn: Option<i64> = row.get(2)?;
        let body: String = row.get(3)?;
        let mutation = mutation_of(&body).ok_or_else(|| unreadable(3))?;
        pending.push(Pending {
            id: row.get(0)?,
            state: match (state.as_str(), lsn) {
                ("applied", Some(lsn)) => State::Applied(Lsn(lsn.cast_unsigned())),
                ("included", _) => State::Included,
                _ => State::Queued,
            },
            mutation,
        });
    }
    Ok(pending)
}

fn unreadable(column: usize) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(
        column,
        rusqlite::types::Type::Text,
        "a pending mutation cannot be read".into(),
    )
}

pub(crate) fn find_pending(conn: &Connection, id: &MutationId) -> Result<Option<(i64, String)>> {
    let (producer, generation, seq) = key(id);
    conn.prepare_cached("SELECT c1, c5 FROM t41 WHERE c2 = ?1 AND c3 = ?2 AND c4 = ?3")?
        .query_row(params![producer, generation, seq], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()
}

pub(crate) fn set_state(conn: &Connection, id: i64, state: State) -> Result<()> {
    let (word, lsn) = match state {
        State::Queued => ("queued", None),
        State::Applied(lsn) => ("applied", Some(lsn.0.cast_signed())),
        State::Included => ("included", None),
    };
    conn.prepare_cached("UPDATE t41 SET c5 = ?2, c6 = ?3 WHERE c1 = ?1")?
        .execute(params![id, word, lsn])?;
    Ok(())
}

/// Says why a pending mutation has no effect here at present, or that it has.
pub(crate) fn set_note(conn: &Connection, id: i64, note: Option<&str>) -> Result<()> {
    conn.prepare_cached("UPDATE t41 SET c9 = ?2 WHERE c1 = ?1 AND c9 IS NOT ?2")?
        .execute(params![id, note])?;
    Ok(())
}

pub(crate) fn remove_pending(conn: &Connection, id: i64) -> Result<()> {
    conn.prepare_cached("DELETE FROM t41 WHERE c1 = ?1")?
        .execute([id])?;
    Ok(())
}

/// Those up to a seq are in the image now, whatever their verdict.
pub(crate) fn include_up_to(conn: &Connection, id: &MutationId) -> Result<()> {
    let (producer, generation, seq) = key(id);
    // Of an applied one the verdict is known: it has come to its end.
    conn.prepare_cached(
        "DELETE FROM t41 WHERE c2 = ?1 AND c3 = ?2 AND c4 <= ?3 AND c5 = 'applied'",
    )?
    .execute(params![producer, generation, seq])?;
    conn.prepare_cached(
        "UPDATE t41 SET c5 = 'included' WHERE c2 = ?1 AND c3 = ?2 AND c4 <= ?3 AND c5 = 'queued'",
    )?
    .execute(params![producer, generation, seq])?;
    Ok(())
}

/// One of them is in the image now.
pub(crate) fn include(conn: &Connection, id: &MutationId) -> Result<()> {
    if let Some((row, state)) = find_pending(conn, id)? {
        match state.as_str() {
            "applied" => remove_pending(conn, row)?,
            _ => set_state(conn, row, State::Included)?,
        }
    }
    Ok(())
}

/// Applied ones that the image has by now.
pub(crate) fn remove_applied(conn: &Connection, up_to: Lsn) -> Result<()> {
    conn.prepare_cached("DELETE FROM t41 WHERE c5 = 'applied' AND c6 <= ?1")?
        .execute([up_to.0.cast_signed()])?;
    Ok(())
}

/// Replaces a mutation's name.
pub(crate) fn rename_pending(conn: &Connection, id: i64, mutation: &Mutation) -> Result<()> {
    let (producer, generation, seq) = id_of(mutation);
    conn.prepare_cached(
        "UPDATE t41 SET c2 = ?2, c3 = ?3, c4 = ?4, c5 = 'queued', c6 = NULL, c7 = ?5 WHERE c1 = ?1",
    )?
    .execute(params![id, producer, generation, seq, body(mutation)])?;
    Ok(())
}

pub(crate) fn add_rejection(
    conn: &Connection,
    id: &MutationId,
    body: &str,
    rejection: &Rejection,
    now_us: i64,
) -> Result<()> {
    let (producer, generation, seq) = key(id);
    let hint = serde_json::to_string(&rejection.hint).expect("a hint has a JSON form");
    conn.prepare_cached(
        "INSERT INTO t42 (c2, c3, c4, c5, c6, c7, c8, c9, c10) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        producer,
        generation,
        seq,
        rejection.dead_letter_id.cast_signed(),
        rejection.violation.to_string(),
        hint,
        body,
        now_us,
        rejection.chain.map(u64::cast_signed),
    ])?;
    Ok(())
}

pub(crate) fn body_of(conn: &Connection, id: i64) -> Result<String> {
    conn.prepare_cached("SELECT c7 FROM t41 WHERE c1 = ?1")?
        .query_row([id], |row| row.get(0))
}

pub(crate) fn remove_rejection(conn: &Connection, id: i64) -> Result<usize> {
    conn.prepare_cached("DELETE FROM t42 WHERE c1 = ?1")?
        .execute([id])
}

/// Remembers the server's row of a document, unless one is remembered.
pub(crate) fn keep_image(
    conn: &Connection,
    collection: CollectionId,
    key: &[u8],
    row: Option<&[u8]>,
) -> Result<()> {
    conn.prepare_cached("INSERT OR IGNORE INTO t43 VALUES (?1, ?2, ?3)")?
        .execute(params![collection.0, key, row])?;
    Ok(())
}

/// One remembered row: its collection, key and image.
pub(crate) type Image = (CollectionId, Vec<u8>, Option<Vec<u8>>);

/// All remembered rows.
pub(crate) fn images(conn: &Connection) -> Result<Vec<Image>> {
    let mut statement = conn.prepare_cached("SELECT c1, c2, c3 FROM t43")?;
    let rows = statement.query_map([], |row| {
        Ok((CollectionId(row.get(0)?), row.get(1)?, row.get(2)?))
    })?;
    rows.collect()
}

pub(crate) fn forget_images(conn: &Connection) -> Result<()> {
    conn.prepare_cached("DELETE FROM t43")?.execute([])?;
    Ok(())
}

/// The producer that new mutations are of, and the seq of the next.
pub(crate) fn next_name(conn: &Connection) -> Result<Option<MutationId>> {
    let number =
        |name| -> Result<Option<u64>> { Ok(fact(conn, name)?.and_then(|text| text.parse().ok())) };
    let producer: Option<ProducerId> =
        fact(conn, fact::PRODUCER)?.and_then(|text| text.parse().ok());
    let Some(producer) = producer else {
        return Ok(None);
    };
    let generation = number(fact::GENERATION)?
        .and_then(|generation| u32::try_from(generation).ok())
        .map_or(Generation::FIRST, Generation);
    Ok(Some(MutationId {
        producer,
        generation,
        seq: number(fact::NEXT_SEQ)?.map_or(Seq::FIRST, Seq),
    }))
}
