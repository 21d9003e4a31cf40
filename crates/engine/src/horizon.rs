//! How far a node may show its log. Two limits, of which a node has one at most:
//!
//! * on a standby, what every open tenant has **applied**;
//! * on a primary whose commits wait for standbys, what enough of them have **confirmed**, so that no
//!   feed shows what the loss of this machine could take back.
//!
//! Held by every [`Hub`]; moved by whoever replicates. Never waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use springhead_proto::Lsn;
use tokio::sync::watch;

use crate::tail::Hub;

/// See the module's text.
pub struct Horizon {
    applied: AtomicU64,
    confirmed: AtomicU64,
    /// Hubs that have published past a limit and not told their tails yet.
    held: Mutex<Vec<Weak<Hub>>>,
    /// Whoever waits for an LSN to become visible looks again.
    moved: watch::Sender<Lsn>,
}

impl Horizon {
    /// Without limits.
    #[must_use]
    pub fn open() -> Arc<Horizon> {
        Arc::new(Horizon {
            applied: AtomicU64::new(Lsn::MAX.0),
            confirmed: AtomicU64::new(Lsn::MAX.0),
            held: Mutex::default(),
            moved: watch::Sender::new(Lsn::MAX),
        })
    }

    /// The last LSN that may be shown.
    #[must_use]
    pub fn limit(&self) -> Lsn {
        self.applied().min(self.confirmed())
    }

    /// The last LSN that enough standbys have confirmed; [`Lsn::MAX`] where nobody waits for any.
    #[must_use]
    pub fn confirmed(&self) -> Lsn {
        Lsn(self.confirmed.load(Ordering::Acquire))
    }

    /// The last LSN up to which every open tenant has its commits in its state; [`Lsn::MAX`] where
    /// the tenants know themselves.
    #[must_use]
    pub fn applied(&self) -> Lsn {
        Lsn(self.applied.load(Ordering::Acquire))
    }

    /// Every open tenant has its commits up to `lsn`, the end of a commit. [`Lsn::MAX`] when tenants
    /// apply nothing any more.
    pub fn set_applied(&self, lsn: Lsn) {
        self.applied.store(lsn.0, Ordering::Release);
        self.tell();
    }

    /// Enough standbys have everything up to `lsn`, the end of a commit; [`Lsn::MAX`] when nothing is
    /// waited for.
    pub fn set_confirmed(&self, lsn: Lsn) {
        if self.confirmed.swap(lsn.0, Ordering::AcqRel) != lsn.0 {
            self.tell();
        }
    }

    fn tell(&self) {
        let held = std::mem::take(&mut *self.held.lock());
        for hub in held.iter().filter_map(Weak::upgrade) {
            hub.show();
        }
        self.moved.send_replace(self.limit());
    }

    /// Tells when it moves.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Lsn> {
        self.moved.subscribe()
    }

    /// `hub` has published past the limit: it is told once the limit moves.
    pub(crate) fn hold(&self, hub: Weak<Hub>) {
        self.held.lock().push(hub);
    }
}
