//! Watches a log for the failure after which the process must end: [`AppendError::Poisoned`].
//! Everything else goes straight through.

use std::sync::Arc;

use springhead_log::{
    AppendError, Appended, EpochRecord, Log, LogError, LogReader, LogStats, PendingCommit, Pin,
    ReadFilter, TailPosition,
};
use springhead_proto::{Lsn, TenantId, TimestampMs};
use tokio::sync::watch;

/// A log whose poisoning is announced.
pub struct WatchedLog {
    log: Arc<dyn Log>,
    poisoned: watch::Sender<Option<Arc<str>>>,
}

impl WatchedLog {
    /// Wraps `log`; the receiver holds the reason once it is poisoned.
    #[must_use]
    pub fn new(log: Arc<dyn Log>) -> (Arc<WatchedLog>, watch::Receiver<Option<Arc<str>>>) {
        let (poisoned, receiver) = watch::channel(None);
        (Arc::new(WatchedLog { log, poisoned }), receiver)
    }
}

impl Log for WatchedLog {
    fn append(&self, commits: Vec<PendingCommit>) -> Result<Appended, AppendError> {
        let appended = self.log.append(commits);
        if let Err(AppendError::Poisoned(reason)) = &appended {
            self.poisoned.send_replace(Some(Arc::clone(reason)));
        }
        appended
    }

    fn reader(&self, from: Lsn, filter: ReadFilter) -> Result<Box<dyn LogReader>, LogError> {
        self.log.reader(from, filter)
    }

    fn lsn_at_time(&self, time: TimestampMs) -> Result<Lsn, LogError> {
        self.log.lsn_at_time(time)
    }

    fn tail(&self) -> TailPosition {
        self.log.tail()
    }

    fn earliest(&self) -> Lsn {
        self.log.earliest()
    }

    fn epochs(&self) -> Vec<EpochRecord> {
        self.log.epochs()
    }

    fn bytes_between(&self, from: Lsn, to: Lsn) -> u64 {
        self.log.bytes_between(from, to)
    }

    fn set_pin(&self, name: &str, pin: Option<Pin>) {
        self.log.set_pin(name, pin);
    }

    fn take_expired_pins(&self) -> Vec<String> {
        self.log.take_expired_pins()
    }

    fn trim_candidate(&self) -> Option<Lsn> {
        self.log.trim_candidate()
    }

    fn tenants_before(&self, up_to: Lsn) -> Result<Vec<TenantId>, LogError> {
        self.log.tenants_before(up_to)
    }

    fn trim(&self, up_to: Lsn) -> Result<(), LogError> {
        self.log.trim(up_to)
    }

    fn stats(&self) -> LogStats {
        self.log.stats()
    }

    fn close(&self) {
        self.log.close();
    }
}
