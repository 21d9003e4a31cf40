//! Recovery of one tenant: the log, from where the state file ends, through the same apply as a
//! standby's.

use std::sync::Arc;

use rusqlite::Connection;
use springhead_log::{Log, Progress, ReadFilter};
use springhead_proto::TenantId;
use springhead_sql::Catalog;

use crate::apply::Applier;
use crate::schemas::Schemas;
use crate::{EngineError, state};

/// Brings the state file that `conn` writes up to the log's end.
///
/// # Errors
/// Damage, or what the disk says.
pub fn replay(
    conn: &Connection,
    tenant: TenantId,
    catalog: Arc<Catalog>,
    schemas: &Schemas,
    log: &dyn Log,
    progress: &dyn Progress,
) -> Result<Arc<Catalog>, EngineError> {
    let sqlite = |error| EngineError::Sqlite {
        tenant: tenant.0,
        error,
    };
    let applied = state::applied(conn).map_err(sqlite)?;
    let tail = log.tail();
    if applied.lsn > tail.durable {
        return Err(EngineError::Corrupt {
            tenant: tenant.0,
            what: format!(
                "it holds LSN {}, and the log ends at {}",
                applied.lsn, tail.durable
            ),
        });
    }
    let filter = ReadFilter {
        tenant: Some(tenant),
        collections: Vec::new(),
    };
    // What retention has trimmed was in the file first, or was other tenants'.
    let from = applied.lsn.next().max(log.earliest());
    let mut reader = log.reader(from, filter)?;
    let mut applier = Applier::new(conn, tenant, catalog, schemas)?;
    let total = log.bytes_between(from, tail.durable);
    let mut slices = Vec::new();
    loop {
        let scanned = reader.read(&mut slices, REPLAY_BYTES)?;
        for slice in slices.drain(..) {
            applier.apply(&slice)?;
        }
        progress.report(log.bytes_between(from, scanned), total);
        if scanned >= tail.durable {
            break;
        }
    }
    let catalog = applier.finish()?;
    Ok(catalog)
}

const REPLAY_BYTES: u64 = 4 << 20;
