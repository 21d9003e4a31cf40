//! Copies of state files, taken while they are written to: what a base backup for a standby consists
//! of beside the log. A copy is the state at one moment, whole, and says in itself which
//! ([`state::applied`]).

use std::path::Path;

use rusqlite::OpenFlags;
use rusqlite::backup::Backup;
use springhead_proto::{Lsn, SYSTEM_TENANT, TenantId};

use crate::engine::{Engine, block_on};
use crate::{EngineError, checksum, state};

impl Engine {
    /// Copies the state of a tenant as it is now into the new file `to`, in one step on one read
    /// snapshot: writers go on meanwhile. Everything up to the LSN given is in it. Blocks.
    ///
    /// # Errors
    /// That there is no such tenant, or what SQLite says.
    pub fn copy_state(&self, id: TenantId, to: &Path) -> Result<Lsn, EngineError> {
        if id != SYSTEM_TENANT {
            // One that was closed by a crash is behind the log until it is opened.
            block_on(self.tenant(id)).map_err(|error| EngineError::Corrupt {
                tenant: id.0,
                what: error.to_string(),
            })?;
        }
        let sqlite = |error| EngineError::Sqlite {
            tenant: id.0,
            error,
        };
        let from = checksum::open(
            &state::state_file(self.config(), id),
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )
        .map_err(sqlite)?;
        let mut copy = checksum::open(
            to,
            OpenFlags::SQLITE_OPEN_READ_WRITE
                | OpenFlags::SQLITE_OPEN_CREATE
                | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )
        .map_err(sqlite)?;
        checksum::reserve(&copy).map_err(sqlite)?;
        copy.execute_batch("PRAGMA synchronous=OFF; PRAGMA journal_mode=OFF;")
            .map_err(sqlite)?;
        Backup::new(&from, &mut copy)
            .and_then(|backup| backup.step(-1))
            .map_err(sqlite)?;
        let applied = state::applied(&copy).map_err(sqlite)?;
        copy.close().map_err(|(_, error)| sqlite(error))?;
        // Its pages must be on the disk before anyone is told that there is a copy.
        std::fs::File::open(to)
            .and_then(|file| file.sync_all())
            .map_err(|error| EngineError::Io {
                operation: "sync",
                path: to.display().to_string(),
                error,
            })?;
        Ok(applied.lsn)
    }

    /// Ends the node: the log or a state cannot be relied on any more.
    pub fn poison(&self, why: String) {
        self.shared().poison.send_if_modified(|poison| {
            let first = poison.is_none();
            if first {
                *poison = Some(why);
            }
            first
        });
    }
}
