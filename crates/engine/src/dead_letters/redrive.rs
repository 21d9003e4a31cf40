//! Redrives: all unresolved dead letters of a collection tried again, oldest first, at a rate.
//!
//! ```text
//!   begin ──> row of springhead.dead_letter_redrives ── retry, retry … ── end: no row
//!                          each moves the row on in its own commit
//! ```
//!
//! Whoever begins one drives it. If that one is gone (a restart, a promotion, a client that left), the
//! sweep finds the row and has it go on, with the rights of whoever began it: those that were tried are
//! not tried again.

use std::sync::Arc;

use rusqlite::{Connection, params};
use springhead_proto::{ErrorCode, SqlError, TenantId};

use super::{Author, Desk};
use crate::Tenant;
use crate::engine::Engine;
use crate::readers::Failure;
use crate::sync;

/// A row of `springhead.dead_letter_redrives` (`t12`).
#[derive(Debug, Clone, PartialEq)]
pub struct Redrive {
    pub collection: String,
    pub rate_per_s: i64,
    /// Everything up to it has been tried.
    pub last_id: i64,
    /// What has come in since it began is not tried.
    pub up_to_id: i64,
    pub redriven: Redriven,
    /// Who began it.
    pub by: Author,
}

/// What came of a redrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Redriven {
    /// Entries that were unresolved when it began.
    pub found: u64,
    pub applied: u64,
    pub rejected: u64,
}

/// A retry of a redrive: which, and the entry that is due in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    pub collection: String,
    pub id: i64,
}

/// Writes down that one has begun.
///
/// # Errors
/// 55006 while another of the collection has not ended.
pub(crate) fn begin(desk: &Desk<'_>, redrive: &Redrive) -> Result<(), Failure> {
    let begun = desk
        .conn
        .prepare_cached(
            "INSERT INTO t12 VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, ?6, ?7) ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            redrive.collection,
            redrive.rate_per_s,
            redrive.last_id,
            redrive.up_to_id,
            redrive.redriven.found.cast_signed(),
            desk.now_us,
            serde_json::to_string(&redrive.by).expect("names have a JSON form"),
        ])?;
    match begun {
        0 => Err(in_use(&redrive.collection).into()),
        _ => Ok(()),
    }
}

/// An entry has been tried: part of the commit that tried it.
pub(crate) fn advance(conn: &Connection, turn: &Turn, is_applied: bool) -> rusqlite::Result<()> {
    let (applied, rejected) = (i64::from(is_applied), i64::from(!is_applied));
    conn.prepare_cached(
        "UPDATE t12 SET c3 = max(c3, ?2), c6 = c6 + ?3, c7 = c7 + ?4 WHERE c1 = ?1",
    )?
    .execute(params![turn.collection, turn.id, applied, rejected])?;
    Ok(())
}

/// Nothing more of it is to be tried.
pub(crate) fn end(conn: &Connection, collection: &str) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM t12 WHERE c1 = ?1")?
        .execute([collection])?;
    Ok(())
}

/// Whether there is any.
pub(super) fn is_any(conn: &Connection) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM t12")?.exists([])
}

fn all(conn: &Connection) -> Result<Vec<Redrive>, Failure> {
    let mut statement = conn.prepare_cached("SELECT c1, c2, c3, c4, c5, c6, c7, c9 FROM t12")?;
    let mut rows = statement.query([])?;
    let mut redrives = Vec::new();
    while let Some(row) = rows.next()? {
        let by: String = row.get(7)?;
        let count = |place| row.get::<_, i64>(place).map(i64::unsigned_abs);
        redrives.push(Redrive {
            collection: row.get(0)?,
            rate_per_s: row.get(1)?,
            last_id: row.get(2)?,
            up_to_id: row.get(3)?,
            redriven: Redriven {
                found: count(4)?,
                applied: count(5)?,
                rejected: count(6)?,
            },
            by: serde_json::from_str(&by).map_err(|error| {
                SqlError::new(
                    ErrorCode::Corrupted,
                    format!("who began a redrive cannot be read: {error}"),
                )
            })?,
        });
    }
    Ok(redrives)
}

/// What whoever wants a second one of a collection is told.
pub(crate) fn in_use(collection: &str) -> SqlError {
    SqlError::new(
        ErrorCode::ObjectInUse,
        format!("the dead letters of \"{collection}\" are being redriven"),
    )
    .with_hint("springhead.dead_letter_redrives says how far it has come")
}

impl Engine {
    /// Has those redrives go on that nobody drives.
    pub(super) async fn resume_redrives(&self, tenant: &Arc<Tenant>) -> Result<(), SqlError> {
        for redrive in tenant.on_snapshot(all).await? {
            if tenant.redrives.lock().contains(&redrive.collection) {
                continue;
            }
            let (engine, id) = (self.clone(), tenant.id());
            tokio::spawn(async move {
                if let Err(error) = engine.resume_redrive(id, &redrive).await {
                    let collection = &redrive.collection;
                    tracing::warn!(%error, collection, "a redrive could not go on");
                }
            });
        }
        Ok(())
    }

    async fn resume_redrive(&self, tenant: TenantId, redrive: &Redrive) -> Result<(), SqlError> {
        let principal = sync::Author::principal_of_letter(self, &redrive.by);
        let mut session = self.session(tenant, &principal).await?;
        session.resume_redrive(&redrive.collection).await
    }
}

impl Tenant {
    /// The redrive of a collection that has begun and not ended, as of what anyone was told.
    pub(crate) async fn redrive_of(
        self: &Arc<Self>,
        collection: &str,
    ) -> Result<Option<Redrive>, SqlError> {
        self.wait_visible(self.acknowledged()).await?;
        let redrives = self.on_snapshot(all).await?;
        Ok((redrives.into_iter()).find(|redrive| redrive.collection == collection))
    }
}
