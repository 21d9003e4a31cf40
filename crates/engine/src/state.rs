//! A tenant's SQLite file: how it is opened, what of it is the engine's own, and how the catalog is
//! read back from it.
//!
//! ```text
//! t<id>         a collection's rows; t1 is springhead.definitions
//! s_meta        one row: what of the log is in this file
//! s_sequences   how far each sequence is reserved
//! s_schemas     each collection's columns at each schema version, for reading old row images
//! ```
//!
//! WAL mode with `synchronous=NORMAL`: after a power cut the file may be older than the log, never
//! newer; replay makes up for it. Every page carries a checksum ([`crate::checksum`]), and memory
//! mapping, which would go past it, is off.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, params};
use rustc_hash::FxHashMap;
use springhead_proto::{CollectionId, Epoch, Lsn, TenantId};
use springhead_sql::Catalog;
use springhead_sql::catalog::{DefinitionRecord, Table};
use springhead_sql::plan::DefinitionAction;

use crate::functions::{self, Context};
use crate::schemas::Schemas;
use crate::sequences::Advance;
use crate::{EngineConfig, EngineError, checksum, undo_mark};

/// The version of the layout above; a file of a newer one is refused.
const FORMAT: i64 = 1;

/// What of the log is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// Every commit of this tenant up to it is in the file.
    pub lsn: Lsn,
    pub epoch: Epoch,
}

/// Where a tenant's files are.
#[must_use]
pub fn tenant_dir(config: &EngineConfig, tenant: TenantId) -> PathBuf {
    config
        .data_dir
        .join("tenants")
        .join(format!("{:010}", tenant.0))
}

/// Where a tenant's state is.
#[must_use]
pub fn state_file(config: &EngineConfig, tenant: TenantId) -> PathBuf {
    tenant_dir(config, tenant).join("state.db")
}

/// Opens the file for writing and makes it if it is not there.
///
/// # Errors
/// What SQLite says, or that the file is of a newer version.
pub fn open_writer(
    config: &EngineConfig,
    tenant: TenantId,
    epoch: Epoch,
    context: &Arc<Context>,
) -> Result<Connection, EngineError> {
    let dir = tenant_dir(config, tenant);
    std::fs::create_dir_all(&dir).map_err(|error| EngineError::Io {
        operation: "create",
        path: dir.display().to_string(),
        error,
    })?;
    let sqlite = |error| sqlite_error(tenant, error);
    let path = state_file(config, tenant);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = checksum::open(&path, flags).map_err(sqlite)?;
    expect_checksums(&conn, tenant, &path)?;
    // Before anything is read or written: it is the first page that says how long pages are.
    checksum::reserve(&conn).map_err(sqlite)?;
    prepare(&mut conn, config, context).map_err(sqlite)?;
    // Checkpoints run off this thread; foreign keys are on except while replay runs. Once begun
    // anew, a WAL that had grown long is cut to a usual size.
    conn.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0;
         PRAGMA journal_size_limit=67108864;
         PRAGMA foreign_keys=ON; PRAGMA recursive_triggers=ON;",
    )
    .map_err(sqlite)?;
    let format: i64 = conn
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(sqlite)?;
    match format {
        0 => {
            create(&conn, epoch).map_err(sqlite)?;
            // The file's name must survive a power cut before the log is trimmed on its strength.
            std::fs::File::open(&dir)
                .and_then(|dir| dir.sync_all())
                .map_err(|error| EngineError::Io {
                    operation: "sync",
                    path: dir.display().to_string(),
                    error,
                })?;
        }
        FORMAT => {
            expect_whole(&conn, tenant, &path)?;
            complete(&conn).map_err(sqlite)?;
        }
        newer => {
            return Err(EngineError::Corrupt {
                tenant: tenant.0,
                what: format!(
                    "its format is {newer}, and this version reads {FORMAT}: upgrade springhead"
                ),
            });
        }
    }
    Ok(conn)
}

/// Opens the file for reading snapshots.
///
/// # Errors
/// What SQLite says.
pub fn open_reader(
    config: &EngineConfig,
    tenant: TenantId,
    context: &Arc<Context>,
) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = checksum::open(&state_file(config, tenant), flags)?;
    prepare(&mut conn, config, context)?;
    conn.execute_batch("PRAGMA query_only=ON;")?;
    Ok(conn)
}

/// Whether there is something in the tenant's state file; of one byte SQLite says that it is empty.
#[must_use]
pub fn has_state(config: &EngineConfig, tenant: TenantId) -> bool {
    std::fs::metadata(state_file(config, tenant)).is_ok_and(|metadata| metadata.len() > 1)
}

/// SQLite's error, or the damage that it stands for.
fn sqlite_error(tenant: TenantId, error: rusqlite::Error) -> EngineError {
    match checksum::describe(&error) {
        Some(damage) => EngineError::Corrupt {
            tenant: tenant.0,
            what: damage.message.clone(),
        },
        None => EngineError::Sqlite {
            tenant: tenant.0,
            error,
        },
    }
}

/// # Errors
/// Damage, if the file says that it has no checksums, or its WAL does not begin like one.
fn expect_checksums(conn: &Connection, tenant: TenantId, path: &Path) -> Result<(), EngineError> {
    let io = |error| EngineError::Io {
        operation: "read",
        path: path.display().to_string(),
        error,
    };
    let damaged = |what: &str| EngineError::Corrupt {
        tenant: tenant.0,
        what: what.to_owned(),
    };
    if !checksum::reserves(conn) {
        return Err(damaged(
            "its pages carry no checksums: it was not made by this version, or its header is damaged",
        ));
    }
    if !checksum::wal_begins_sound(path).map_err(io)? {
        return Err(damaged("the header of its WAL is damaged"));
    }
    Ok(())
}

/// # Errors
/// Damage, if SQLite has cut its WAL below what had been moved into the file.
fn expect_whole(conn: &Connection, tenant: TenantId, path: &Path) -> Result<(), EngineError> {
    let sqlite = |error| sqlite_error(tenant, error);
    let root: u32 = conn
        .query_row(
            "SELECT rootpage FROM sqlite_schema WHERE name = 's_meta'",
            [],
            |row| row.get(0),
        )
        .map_err(sqlite)?;
    let whole = applied(conn).map_err(sqlite)?.lsn;
    let undone_from = undo_mark::read(path).map_err(|error| EngineError::Io {
        operation: "read",
        path: undo_mark::of(path).display().to_string(),
        error,
    })?;
    match checksum::applied_in_file(conn, root).map(Lsn) {
        Some(file) if file > whole && undone_from.is_none_or(|from| file > from) => {
            return Err(EngineError::Corrupt {
                tenant: tenant.0,
                what: format!(
                    "its WAL is damaged: it ends at LSN {whole}, and some of LSN {file} has been moved out of it"
                ),
            });
        }
        _ => {}
    }
    if undone_from.is_some() {
        undo_mark::settle(conn, path).map_err(sqlite)?;
    }
    Ok(())
}

fn prepare(
    conn: &mut Connection,
    config: &EngineConfig,
    context: &Arc<Context>,
) -> rusqlite::Result<()> {
    conn.busy_timeout(std::time::Duration::from_secs(10))?;
    conn.set_prepared_statement_cache_capacity(256);
    let cache_kib = config.cache_bytes / 1024;
    conn.execute_batch(&format!(
        "PRAGMA cache_size=-{cache_kib}; PRAGMA mmap_size=0; PRAGMA trusted_schema=OFF;
         PRAGMA cell_size_check=ON; PRAGMA temp_store=MEMORY;"
    ))?;
    functions::register(conn, context)
}

fn create(conn: &Connection, epoch: Epoch) -> rusqlite::Result<()> {
    conn.execute_batch("BEGIN IMMEDIATE")?;
    conn.execute_batch(
        "CREATE TABLE s_meta (
             id INTEGER PRIMARY KEY CHECK (id = 1),
             applied_lsn INTEGER NOT NULL,
             applied_epoch INTEGER NOT NULL
         ) STRICT;
         CREATE TABLE s_sequences (
             id INTEGER PRIMARY KEY, last INTEGER NOT NULL, called INTEGER NOT NULL
         ) STRICT;
         CREATE TABLE s_schemas (
             collection INTEGER NOT NULL, version INTEGER NOT NULL, payload TEXT NOT NULL,
             PRIMARY KEY (collection, version)
         ) STRICT, WITHOUT ROWID;",
    )?;
    for statement in Catalog::bootstrap_statements() {
        conn.execute_batch(&statement)?;
    }
    conn.execute("INSERT INTO s_meta VALUES (1, 0, ?1)", params![epoch.0])?;
    conn.execute_batch(&format!("PRAGMA user_version={FORMAT}; COMMIT"))
}

/// Makes those of Springhead's own collections that an older version did not have.
fn complete(conn: &Connection) -> rusqlite::Result<()> {
    for statement in Catalog::bootstrap_statements() {
        let if_missing = statement
            .replacen("CREATE TABLE ", "CREATE TABLE IF NOT EXISTS ", 1)
            .replacen("INDEX ", "INDEX IF NOT EXISTS ", 1);
        conn.execute_batch(&if_missing)?;
    }
    Ok(())
}

/// What of the log is in the file that `conn` sees.
///
/// # Errors
/// What SQLite says.
pub fn applied(conn: &Connection) -> rusqlite::Result<Applied> {
    conn.prepare_cached("SELECT applied_lsn, applied_epoch FROM s_meta")?
        .query_row([], |row| {
            Ok(Applied {
                lsn: Lsn(row.get::<_, i64>(0)?.unsigned_abs()),
                epoch: Epoch(row.get(1)?),
            })
        })
}

/// The tenants that have a state file, by number.
///
/// # Errors
/// What the disk says.
pub fn tenants_with_state(config: &EngineConfig) -> Result<Vec<TenantId>, EngineError> {
    let dir = config.data_dir.join("tenants");
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(EngineError::Io {
                operation: "list",
                path: dir.display().to_string(),
                error,
            });
        }
    };
    let mut tenants: Vec<TenantId> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(TenantId))
        .filter(|tenant| has_state(config, *tenant))
        .collect();
    tenants.sort_unstable();
    Ok(tenants)
}

/// The highest LSN that any tenant's state file holds; [`Lsn::ZERO`] without any. A log that ends
/// before it has lost what was durable. Called before the log is opened.
///
/// # Errors
/// What SQLite says.
pub fn highest_applied(data_dir: &Path) -> Result<Lsn, EngineError> {
    let Ok(tenants) = std::fs::read_dir(data_dir.join("tenants")) else {
        return Ok(Lsn::ZERO);
    };
    let mut highest = Lsn::ZERO;
    for entry in tenants.flatten() {
        let Some(tenant) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let path = entry.path().join("state.db");
        if !path.exists() {
            continue;
        }
        let read = || -> rusqlite::Result<Lsn> {
            let conn = checksum::open(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            let has_meta: bool = conn.query_row(
                "SELECT count(*) FROM sqlite_schema WHERE name = 's_meta'",
                [],
                |row| row.get(0),
            )?;
            // A file that was never finished holds nothing.
            if has_meta {
                applied(&conn).map(|applied| applied.lsn)
            } else {
                Ok(Lsn::ZERO)
            }
        };
        highest = highest.max(read().map_err(|error| sqlite_error(TenantId(tenant), error))?);
    }
    Ok(highest)
}

/// Notes in the open transaction that everything up to `applied` is in the file.
///
/// # Errors
/// What SQLite says.
pub fn set_applied(conn: &Connection, applied: Applied) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE s_meta SET applied_lsn = ?1, applied_epoch = ?2")?
        .execute(params![
            i64::try_from(applied.lsn.0).unwrap_or(i64::MAX),
            applied.epoch.0
        ])?;
    Ok(())
}

/// Notes in the open transaction how far a sequence is reserved.
///
/// # Errors
/// What SQLite says.
pub fn set_sequence(conn: &Connection, advance: Advance) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT INTO s_sequences VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE SET last = ?2, called = ?3")?
        .execute(params![advance.id, advance.last, advance.called])?;
    Ok(())
}

/// Notes in the open transaction that nothing is known of a sequence.
///
/// # Errors
/// What SQLite says.
pub fn forget_sequence(conn: &Connection, id: u32) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM s_sequences WHERE id = ?1")?
        .execute([id])?;
    Ok(())
}

/// How far each sequence is reserved.
///
/// # Errors
/// What SQLite says.
pub fn sequences(conn: &Connection) -> rusqlite::Result<FxHashMap<u32, Advance>> {
    let mut statement = conn.prepare("SELECT id, last, called FROM s_sequences")?;
    let rows = statement.query_map([], |row| {
        let advance = Advance {
            id: row.get(0)?,
            last: row.get(1)?,
            called: row.get(2)?,
        };
        Ok((advance.id, advance))
    })?;
    rows.collect()
}

/// Notes in the open transaction a table's columns at their version, for row images to come.
///
/// # Errors
/// What SQLite says.
pub fn put_schema(conn: &Connection, table: &Table) -> rusqlite::Result<()> {
    let payload = serde_json::to_string(table).expect("a table has only strings as keys");
    conn.prepare_cached("INSERT OR REPLACE INTO s_schemas VALUES (?1, ?2, ?3)")?
        .execute(params![table.id, table.schema_version, payload])?;
    Ok(())
}

/// Reads the catalog back, and every schema version there has been.
///
/// # Errors
/// What SQLite says, or that a row cannot be understood.
pub fn load_catalog(
    conn: &Connection,
    tenant: TenantId,
    schemas: &Schemas,
) -> Result<Catalog, EngineError> {
    let sqlite = |error| EngineError::Sqlite {
        tenant: tenant.0,
        error,
    };
    let damaged = |what: String| EngineError::Corrupt {
        tenant: tenant.0,
        what,
    };
    let mut definitions = Vec::new();
    let (mut version, mut next_id) = (0, 0);
    {
        let mut statement = conn
            .prepare("SELECT * FROM t1 ORDER BY c1")
            .map_err(sqlite)?;
        let mut rows = statement.query([]).map_err(sqlite)?;
        while let Some(row) = rows.next().map_err(sqlite)? {
            let values: Vec<_> = (0..9)
                .map(|index| row.get_ref(index).map_err(sqlite))
                .collect::<Result<_, _>>()?;
            let values = values
                .into_iter()
                .map(functions::from_sqlite)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| damaged(error.to_string()))?;
            let record = DefinitionRecord::from_values(&values)
                .map_err(|error| damaged(error.to_string()))?;
            version = version.max(record.catalog_version);
            next_id = next_id.max(record.payload.next_id);
            if record.action == DefinitionAction::Put {
                definitions.push(record.payload.definition);
            }
        }
    }
    let mut statement = conn
        .prepare("SELECT payload FROM s_schemas")
        .map_err(sqlite)?;
    let mut rows = statement.query([]).map_err(sqlite)?;
    while let Some(row) = rows.next().map_err(sqlite)? {
        let payload: String = row.get(0).map_err(sqlite)?;
        let table: Table = serde_json::from_str(&payload)
            .map_err(|error| damaged(format!("a schema version cannot be read: {error}")))?;
        schemas.put(&Arc::new(table));
    }
    let catalog = Catalog::from_definitions(definitions, version, next_id);
    for table in catalog.tables.values() {
        schemas.put(table);
    }
    Ok(catalog)
}

/// The key of a collection's tables in SQLite's schema.
#[must_use]
pub fn storage_name(collection: CollectionId) -> String {
    format!("t{collection}")
}

/// Moves SQLite's WAL into the file and syncs it, without waiting for readers or the writer. The
/// LSN that is surely in the synced file, if all of the WAL could be moved.
///
/// # Errors
/// What SQLite says.
pub fn checkpoint(path: &Path, truncate: bool) -> rusqlite::Result<bool> {
    let conn = checksum::open(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    conn.busy_timeout(std::time::Duration::from_millis(200))?;
    conn.execute_batch("PRAGMA synchronous=NORMAL;")?;
    let mode = if truncate { "TRUNCATE" } else { "PASSIVE" };
    let (busy, log, moved): (i64, i64, i64) =
        conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    Ok(busy == 0 && log == moved)
}
