//! Copies that a base backup is sent from. They stay for a while when it is cut, so that it goes on in the
//! middle of a file; one node's at most for each standby.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use springhead_proto::{Lsn, TenantId};
use tokio::sync::{Notify, OwnedMutexGuard};

/// A directory for copies, which goes with it.
pub struct Copies {
    dir: PathBuf,
    /// Drawn for these: what a standby has of others is no part of these.
    pub id: u64,
    /// The copy that is there, whole.
    pub copied: Option<Copied>,
    /// Counts files, so that no two copies are written to one.
    files: u64,
}

/// A copy of a tenant's state.
#[derive(Debug, Clone)]
pub struct Copied {
    pub tenant: TenantId,
    pub file: PathBuf,
    /// What it has is at or before this LSN.
    pub through: Lsn,
}

impl Copies {
    /// An empty one in a data directory's `tmp`.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(data_dir: &Path) -> std::io::Result<Copies> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| std::io::Error::other(error.to_string()))?;
        let id = u64::from_le_bytes(random);
        let dir = data_dir.join("tmp").join(format!("base-{id:016x}"));
        std::fs::create_dir_all(&dir)?;
        Ok(Copies {
            dir,
            id,
            copied: None,
            files: 0,
        })
    }

    /// A file that is not there yet.
    pub fn next_file(&mut self) -> PathBuf {
        self.files += 1;
        self.dir.join(self.files.to_string())
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        // What stays behind is emptied at the next start.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The base backups that a node gives, by the standby's name: one at a time for each, and the copies of those
/// that were cut.
#[derive(Default)]
pub struct Giving {
    kept: Mutex<HashMap<String, (Copies, Instant)>>,
    active: Mutex<HashMap<String, Arc<Active>>>,
}

#[derive(Default)]
struct Active {
    /// The standby has come again.
    again: Notify,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// A standby's turn: what was given to it before has ended.
pub struct Turn {
    active: Arc<Active>,
    _turn: OwnedMutexGuard<()>,
}

impl Turn {
    /// Completes when the standby has come again, which ends this turn.
    pub async fn is_over(&self) {
        self.active.again.notified().await;
    }
}

impl Giving {
    /// Ends what is being given to the standby, whose other end must be gone, and waits for that.
    pub async fn begin(&self, standby: &str) -> Turn {
        let active = {
            let mut all = self.active.lock();
            Arc::clone(all.entry(standby.to_owned()).or_default())
        };
        active.again.notify_waiters();
        let turn = Arc::clone(&active.turn).lock_owned().await;
        Turn {
            active,
            _turn: turn,
        }
    }

    pub fn keep(&self, standby: &str, copies: Copies) {
        let kept = (copies, Instant::now());
        self.kept.lock().insert(standby.to_owned(), kept);
    }

    /// Those of a standby, which are not kept any longer.
    pub fn take(&self, standby: &str) -> Option<Copies> {
        let kept = self.kept.lock().remove(standby);
        kept.map(|(copies, _)| copies)
    }

    /// Lets go of what nobody has come back for.
    pub fn expire(&self, after: Duration) {
        self.kept
            .lock()
            .retain(|_, (_, since)| since.elapsed() < after);
        self.active
            .lock()
            .retain(|_, active| Arc::strong_count(active) > 1);
    }
}
