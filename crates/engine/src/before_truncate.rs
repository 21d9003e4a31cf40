//! Snapshots of just before a TRUNCATE. The log says only that all rows went; live filters, which keep no
//! rows, look here which they were.
//!
//! The writer opens one while the truncating transaction is open, so that it is the state of the commit
//! before; the live queries' task takes it when it comes to that commit. Nobody waits for it: where there
//! is none, filters begin anew.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use springhead_proto::Lsn;

use crate::readers::Snapshot;

/// Snapshots that are kept at most: each holds on to a state file's WAL.
const KEPT: usize = 2;

/// See the module's text.
#[derive(Default)]
pub struct BeforeTruncate {
    /// How many live filters the tenant has.
    wanted: AtomicUsize,
    /// By the last LSN of the commit that truncates, ascending.
    kept: Mutex<VecDeque<(Lsn, Snapshot)>>,
}

impl BeforeTruncate {
    /// One more asks for snapshots.
    pub fn want(&self) {
        self.wanted.fetch_add(1, Ordering::AcqRel);
    }

    /// One asks no more.
    pub fn leave(&self) {
        if self.wanted.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.kept.lock().clear();
        }
    }

    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire) > 0
    }

    /// Keeps the state before the commit that ends at `lsn`; to be called before anyone sees the commit.
    pub fn keep(&self, lsn: Lsn, snapshot: Snapshot) {
        let mut kept = self.kept.lock();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((lsn, snapshot));
    }

    /// The state before the commit that ends at `lsn`, if there is one; those of earlier commits go.
    pub fn take(&self, lsn: Lsn) -> Option<Snapshot> {
        let mut kept = self.kept.lock();
        while let Some((of, _)) = kept.front()
            && *of <= lsn
        {
            let (of, snapshot) = kept.pop_front()?;
            if of == lsn {
                return Some(snapshot);
            }
        }
        None
    }
}
