//! Takes a state back to before a fork: what a node applied of a history that is no longer one. From
//! the before images of the log that is about to be cut, newest first, in one SQLite transaction per
//! tenant. A definition or a TRUNCATE has no before image: then only a base backup helps.
//!
//! Called by the server while no engine is open on the data directory.

use std::sync::Arc;

use rusqlite::{Connection, types::ToSqlOutput};
use springhead_log::{CommitSlice, Log, ReadFilter, failpoint};
use springhead_proto::{
    ChangeKind, ChangeRef, Changes, CollectionId, Epoch, Lsn, RowRef, SYSTEM_TENANT, TenantId,
};
use springhead_sql::Catalog;

use crate::apply::{RowStatements, set_foreign_keys};
use crate::functions::{Context, to_sqlite};
use crate::schemas::Schemas;
use crate::sequences::Advance;
use crate::state::{self, Applied};
use crate::undo_mark;
use crate::{EngineConfig, EngineError, Entropy};

/// More log than this past a fork is not undone change by change: a base backup is as quick.
const MAX_BYTES: usize = 256 << 20;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undone {
    /// So many tenants were taken back, by so many changes; possibly none.
    Done { tenants: usize, changes: u64 },
    /// It takes a base backup, and why. Some tenants may have been taken back.
    NeedsBaseBackup(String),
}

/// Takes every tenant's state that has more than `after` back to it. `log` still has the changes
/// after it. Blocks.
///
/// # Errors
/// Damage, or what the disk says; a repetition goes on where it stopped.
pub fn undo_past(
    config: &EngineConfig,
    log: &dyn Log,
    clock: Arc<dyn springhead_log::Clock>,
    entropy: Arc<dyn Entropy>,
    after: Lsn,
) -> Result<Undone, EngineError> {
    let epoch = epoch_at(log, after);
    let (mut tenants, mut changes) = (0, 0);
    for tenant in state::tenants_with_state(config)? {
        let context = Context::new(Arc::clone(&clock), Arc::clone(&entropy), None);
        let conn = state::open_writer(config, tenant, log.tail().epoch, &context)?;
        let sqlite = |error| EngineError::Sqlite {
            tenant: tenant.0,
            error,
        };
        let applied = state::applied(&conn).map_err(sqlite)?;
        if applied.lsn > after {
            let schemas = Schemas::default();
            let catalog = state::load_catalog(&conn, tenant, &schemas)?;
            let undo = Undo {
                conn: &conn,
                path: &state::state_file(config, tenant),
                tenant,
                catalog,
            };
            match undo.run(log, after, applied.lsn, epoch)? {
                Ok(count) => changes += count,
                Err(why) => return Ok(Undone::NeedsBaseBackup(why)),
            }
            tenants += 1;
        }
        if tenant == SYSTEM_TENANT
            && log.earliest() > Lsn::FIRST
            && let Some(gone) = without_state(config, &conn).map_err(sqlite)?
        {
            return Ok(Undone::NeedsBaseBackup(format!(
                "tenant {gone} was dropped after LSN {after}, and the log no longer goes back to its beginning"
            )));
        }
    }
    Ok(Undone::Done { tenants, changes })
}

/// A tenant that the system's state lists and that has no state: dropping one removes its files at once.
fn without_state(config: &EngineConfig, system: &Connection) -> rusqlite::Result<Option<TenantId>> {
    let sql = format!(
        "SELECT c1 FROM {} WHERE c3 = 'active' ORDER BY c1",
        state::storage_name(CollectionId::TENANTS)
    );
    let mut statement = system.prepare(&sql)?;
    let tenants = statement.query_map([], |row| row.get(0).map(TenantId))?;
    for tenant in tenants {
        let tenant = tenant?;
        if !state::has_state(config, tenant) {
            return Ok(Some(tenant));
        }
    }
    Ok(None)
}

/// The history that LSN `after` belongs to.
fn epoch_at(log: &dyn Log, after: Lsn) -> Epoch {
    let epochs = log.epochs();
    let of = epochs.iter().rev().find(|record| record.fork_lsn < after);
    of.or(epochs.first())
        .map_or(log.tail().epoch, |record| record.epoch)
}

struct Undo<'c> {
    conn: &'c Connection,
    /// Of the state file.
    path: &'c std::path::Path,
    tenant: TenantId,
    catalog: Catalog,
}

impl Undo<'_> {
    /// The number of changes undone, or why they cannot be.
    fn run(
        &self,
        log: &dyn Log,
        after: Lsn,
        applied: Lsn,
        epoch: Epoch,
    ) -> Result<Result<u64, String>, EngineError> {
        let slices = match self.read(log, after, applied)? {
            Ok(slices) => slices,
            Err(why) => return Ok(Err(why)),
        };
        let mut all = Vec::new();
        for slice in &slices {
            for change in Changes::new(&slice.changes) {
                let change = change.map_err(|error| self.damaged(&error.to_string()))?;
                match change.kind {
                    ChangeKind::Definition | ChangeKind::Truncate => {
                        return Ok(Err(format!(
                            "a {} of tenant {} after LSN {after} cannot be undone",
                            if change.kind == ChangeKind::Truncate {
                                "TRUNCATE"
                            } else {
                                "change of definitions"
                            },
                            self.tenant
                        )));
                    }
                    _ => all.push(change),
                }
            }
        }
        let sqlite = |error| EngineError::Sqlite {
            tenant: self.tenant.0,
            error,
        };
        set_foreign_keys(self.conn, false).map_err(sqlite)?;
        self.conn
            .execute_batch("PRAGMA ignore_check_constraints=ON; BEGIN IMMEDIATE")
            .map_err(sqlite)?;
        let mut count = 0;
        for change in all.iter().rev() {
            count += u64::from(self.undo(change)?);
        }
        state::set_applied(self.conn, Applied { lsn: after, epoch }).map_err(sqlite)?;
        undo_mark::write(self.path, applied).map_err(|error| EngineError::Io {
            operation: "write",
            path: undo_mark::of(self.path).display().to_string(),
            error,
        })?;
        self.conn.execute_batch("COMMIT").map_err(sqlite)?;
        failpoint::hit("standby.undo_committed");
        undo_mark::settle(self.conn, self.path).map_err(sqlite)?;
        Ok(Ok(count))
    }

    fn read(
        &self,
        log: &dyn Log,
        after: Lsn,
        applied: Lsn,
    ) -> Result<Result<Vec<CommitSlice>, String>, EngineError> {
        let filter = ReadFilter {
            tenant: Some(self.tenant),
            collections: Vec::new(),
        };
        let mut reader = log.reader(after.next(), filter)?;
        let (mut slices, mut bytes) = (Vec::new(), 0);
        loop {
            let before = slices.len();
            let scanned = reader.read(&mut slices, 4 << 20)?;
            bytes += slices[before..]
                .iter()
                .map(|slice: &CommitSlice| slice.changes.len())
                .sum::<usize>();
            if bytes > MAX_BYTES {
                return Ok(Err(format!(
                    "there are over {MAX_BYTES} bytes of changes after LSN {after}"
                )));
            }
            if scanned >= applied || (slices.len() == before && scanned >= log.tail().durable) {
                break;
            }
        }
        // What the state does not have yet needs no undoing.
        slices.retain(|slice| slice.commit_last_lsn() <= applied);
        Ok(Ok(slices))
    }

    /// Whether there was anything to undo.
    fn undo(&self, change: &ChangeRef<'_>) -> Result<bool, EngineError> {
        if change.kind == ChangeKind::Sequence {
            return self.undo_sequence(change);
        }
        if !matches!(
            change.kind,
            ChangeKind::Insert | ChangeKind::Update | ChangeKind::Delete
        ) {
            // A message leaves nothing behind.
            return Ok(false);
        }
        let table = self
            .catalog
            .tables
            .get(&change.collection)
            .ok_or_else(|| self.damaged("a change names an unknown collection"))?;
        let statements = RowStatements::of(table);
        let (sql, values) = match change.kind {
            ChangeKind::Insert => {
                let after = self.image(&statements, change.after)?;
                let key: Vec<_> = statements.key.iter().map(|&place| after[place]).collect();
                (&statements.delete, key)
            }
            ChangeKind::Delete => {
                let before = self.image(&statements, change.before)?;
                let row = statements.stored.iter().map(|&place| before[place]);
                (&statements.insert, row.collect())
            }
            _ => {
                let (before, after) = (
                    self.image(&statements, change.before)?,
                    self.image(&statements, change.after)?,
                );
                let row = statements.stored.iter().map(|&place| before[place]);
                let key = statements.key.iter().map(|&place| after[place]);
                (&statements.update, row.chain(key).collect())
            }
        };
        let changed = self
            .execute(sql, &values)
            .map_err(|error| EngineError::Sqlite {
                tenant: self.tenant.0,
                error,
            })?;
        if changed != 1 {
            return Err(self.damaged(&format!("undoing one row touched {changed} ({sql})")));
        }
        Ok(true)
    }

    fn undo_sequence(&self, change: &ChangeRef<'_>) -> Result<bool, EngineError> {
        let after = change
            .after
            .and_then(Advance::from_row)
            .ok_or_else(|| self.damaged("a sequence advance has other values"))?;
        let Some(before) = change.before else {
            // An older version did not say; what was reserved stays so.
            return Ok(false);
        };
        let undone = match Advance::from_row(before) {
            Some(before) => state::set_sequence(self.conn, before),
            None => state::forget_sequence(self.conn, after.id),
        };
        undone.map_err(|error| EngineError::Sqlite {
            tenant: self.tenant.0,
            error,
        })?;
        Ok(true)
    }

    fn execute(
        &self,
        sql: &str,
        values: &[rusqlite::types::ValueRef<'_>],
    ) -> rusqlite::Result<usize> {
        let mut statement = self.conn.prepare_cached(sql)?;
        for (index, value) in values.iter().enumerate() {
            statement.raw_bind_parameter(index + 1, ToSqlOutput::Borrowed(*value))?;
        }
        statement.raw_execute()
    }

    fn image<'a>(
        &self,
        statements: &RowStatements,
        row: Option<RowRef<'a>>,
    ) -> Result<Vec<rusqlite::types::ValueRef<'a>>, EngineError> {
        let row = row.ok_or_else(|| self.damaged("a row image is missing"))?;
        let values: Vec<_> = row.values().map(to_sqlite).collect();
        if values.len() != statements.columns {
            return Err(self.damaged("a row image has another number of values than its table"));
        }
        Ok(values)
    }

    fn damaged(&self, what: &str) -> EngineError {
        EngineError::Corrupt {
            tenant: self.tenant.0,
            what: what.to_owned(),
        }
    }
}
