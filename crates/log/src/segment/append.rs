//! Group commit without a thread of its own. Whoever appends first is the leader: it takes what is
//! queued, writes and flushes it once for all, hands leadership to the first of those that queued
//! meanwhile, and wakes the others it has served. A single client never waits for another thread.
//!
//! ```text
//! append ── queue ──► leader? ── yes ──► take the queue ► write ► flush ► publish ► hand on ► wake
//!                        └── no ──► park until served, or until made the leader
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::Thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use springhead_proto::Lsn;

use super::keeper::Keeper;
use super::writer::{WriteFailure, Writer};
use crate::contract::{AppendError, Appended, PendingCommit, RefusedReason};

/// One call of `append` in the queue.
pub struct Waiter {
    pub commits: Vec<PendingCommit>,
    /// Bytes of its changes.
    pub bytes: u64,
    /// Set when its commits go into frames.
    pub first_lsn: Lsn,
    pub last_lsn: Lsn,
    pub outcome: Option<Result<Appended, AppendError>>,
    slot: Arc<Slot>,
}

const WAITING: u8 = 0;
const LEADS: u8 = 1;
const SERVED: u8 = 2;

/// Where a parked thread finds what became of its call. One per thread: a thread has at most one
/// call under way.
struct Slot {
    state: AtomicU8,
    outcome: Mutex<Option<Result<Appended, AppendError>>>,
    thread: Thread,
}

thread_local! {
    static SLOT: Arc<Slot> = Arc::new(Slot {
        state: AtomicU8::new(WAITING),
        outcome: Mutex::new(None),
        thread: std::thread::current(),
    });
}

struct Queue {
    waiters: Vec<Waiter>,
    /// Bytes of the waiters' changes.
    bytes: u64,
    /// Whether some thread is the leader or has been told to be.
    led: bool,
    /// How many threads wait to have the writer for themselves.
    claims: usize,
    /// Whether the leadership is meant for one of them.
    granted: bool,
    closed: bool,
    poisoned: Option<Arc<str>>,
    /// An empty vector with its capacity, for the next batch.
    spare: Vec<Waiter>,
}

/// See the module's text.
pub struct Appender {
    queue: Mutex<Queue>,
    /// Notified when nobody leads any more.
    idle: Condvar,
    /// Notified when one of the claims is granted.
    grant: Condvar,
    /// Only the leader locks it, so nobody ever waits for it.
    writer: Mutex<Writer>,
    keeper: Arc<Keeper>,
    batch_bytes: u64,
    delay: Duration,
}

impl Appender {
    pub fn new(writer: Writer, keeper: Arc<Keeper>, batch_bytes: u64, delay: Duration) -> Appender {
        let queue = Queue {
            waiters: Vec::new(),
            bytes: 0,
            led: false,
            claims: 0,
            granted: false,
            closed: false,
            poisoned: None,
            spare: Vec::new(),
        };
        Appender {
            queue: Mutex::new(queue),
            idle: Condvar::new(),
            grant: Condvar::new(),
            writer: Mutex::new(writer),
            keeper,
            batch_bytes,
            delay,
        }
    }

    pub fn append(&self, commits: Vec<PendingCommit>) -> Result<Appended, AppendError> {
        assert!(!commits.is_empty(), "an append of nothing");
        assert!(
            commits.iter().all(|commit| commit.count > 0),
            "a commit without a change"
        );
        let bytes = commits.iter().map(|commit| commit.changes.length()).sum();
        self.keeper
            .check_reserve(bytes)
            .map_err(AppendError::Refused)?;
        let slot = SLOT.with(Arc::clone);
        slot.state.store(WAITING, Ordering::Relaxed);
        let waiter = Waiter {
            commits,
            bytes,
            first_lsn: Lsn::ZERO,
            last_lsn: Lsn::ZERO,
            outcome: None,
            slot: Arc::clone(&slot),
        };
        let mut queue = self.queue.lock();
        if let Some(why) = &queue.poisoned {
            return Err(AppendError::Poisoned(Arc::clone(why)));
        }
        if queue.closed {
            return Err(AppendError::Refused(RefusedReason::Closed));
        }
        queue.waiters.push(waiter);
        queue.bytes += bytes;
        let leads = !queue.led;
        queue.led = true;
        drop(queue);
        if leads || wait_for_turn(&slot) == LEADS {
            self.lead(&slot);
        }
        slot.outcome
            .lock()
            .take()
            .expect("a served call has an outcome")
    }

    /// Serves a batch whose first call is the leader's own.
    fn lead(&self, own: &Arc<Slot>) {
        if !self.delay.is_zero() {
            self.gather();
        }
        let mut batch = self.take_batch();
        let mut writer = self.writer.lock();
        let written = writer.write_batch(&mut batch);
        // Even where a later commit failed: what is durable and answered must be seen.
        if batch
            .iter()
            .any(|waiter| matches!(waiter.outcome, Some(Ok(_))))
        {
            writer.publish();
        }
        drop(writer);
        self.hand_on(&mut batch, written, Some(own));
    }

    fn take_batch(&self) -> Vec<Waiter> {
        let mut queue = self.queue.lock();
        let spare = std::mem::take(&mut queue.spare);
        if queue.bytes <= self.batch_bytes {
            queue.bytes = 0;
            return std::mem::replace(&mut queue.waiters, spare);
        }
        let mut bytes = 0;
        let fitting = queue.waiters.iter().take_while(|waiter| {
            bytes += waiter.bytes;
            bytes <= self.batch_bytes
        });
        let count = fitting.count().max(1);
        let mut batch = spare;
        batch.extend(queue.waiters.drain(..count));
        queue.bytes -= batch.iter().map(|waiter| waiter.bytes).sum::<u64>();
        batch
    }

    /// Makes the first call in the queue the leader, then answers those in `batch`. In this order:
    /// the next flush should begin as early as it can.
    fn hand_on(
        &self,
        batch: &mut Vec<Waiter>,
        written: Result<(), WriteFailure>,
        own: Option<&Arc<Slot>>,
    ) {
        let rest = written.map_err(answer);
        let mut orphans = Vec::new();
        let mut queue = self.queue.lock();
        if let Err(AppendError::Poisoned(why)) = &rest {
            queue.poisoned = Some(Arc::clone(why));
            queue.bytes = 0;
            orphans = std::mem::take(&mut queue.waiters);
        }
        self.pass_leadership(queue);
        for waiter in batch.drain(..).chain(orphans) {
            let outcome = waiter.outcome.unwrap_or_else(|| match &rest {
                Err(error) => Err(error.clone()),
                Ok(()) => Err(AppendError::Poisoned(
                    "the batch was left unanswered".into(),
                )),
            });
            *waiter.slot.outcome.lock() = Some(outcome);
            waiter.slot.state.store(SERVED, Ordering::Release);
            if own.is_none_or(|own| !Arc::ptr_eq(&waiter.slot, own)) {
                waiter.slot.thread.unpark();
            }
        }
        self.queue.lock().spare = std::mem::take(batch);
    }

    /// Makes someone the leader: who has claimed the writer for itself, else the first in the queue.
    fn pass_leadership(&self, mut queue: MutexGuard<'_, Queue>) {
        if queue.claims > 0 {
            queue.claims -= 1;
            queue.granted = true;
            drop(queue);
            self.grant.notify_one();
            return;
        }
        let next = queue.waiters.first().map(|waiter| Arc::clone(&waiter.slot));
        queue.led = next.is_some();
        drop(queue);
        match next {
            Some(next) => {
                next.state.store(LEADS, Ordering::Release);
                next.thread.unpark();
            }
            None => _ = self.idle.notify_all(),
        }
    }

    /// Does `work` with the writer between two batches: everything appended before is durable or
    /// answered, nothing is under way. Goes before all that waits in the queue.
    pub fn exclusively<T>(
        &self,
        work: impl FnOnce(&mut Writer) -> Result<T, WriteFailure>,
    ) -> Result<T, AppendError> {
        let mut queue = self.queue.lock();
        if let Some(why) = &queue.poisoned {
            return Err(AppendError::Poisoned(Arc::clone(why)));
        }
        if queue.closed {
            return Err(AppendError::Refused(RefusedReason::Closed));
        }
        if queue.led {
            queue.claims += 1;
            while !queue.granted {
                self.grant.wait(&mut queue);
            }
            queue.granted = false;
        }
        queue.led = true;
        if let Some(why) = &queue.poisoned {
            let why = Arc::clone(why);
            self.pass_leadership(queue);
            return Err(AppendError::Poisoned(why));
        }
        drop(queue);
        let (done, written) = match work(&mut self.writer.lock()) {
            Ok(done) => (Ok(done), Ok(())),
            Err(failure) => {
                let error = answer(failure.clone());
                let written = match failure {
                    poisoned @ WriteFailure::Poisoned(_) => Err(poisoned),
                    // It concerns nobody else.
                    WriteFailure::Refused(_) => Ok(()),
                };
                (Err(error), written)
            }
        };
        self.hand_on(&mut Vec::new(), written, None);
        done
    }

    /// Lets the queue grow for a while, as the configuration asks.
    fn gather(&self) {
        let until = std::time::Instant::now() + self.delay;
        let mut queue = self.queue.lock();
        while queue.bytes < self.batch_bytes {
            // Nobody notifies while there is a leader: this waits for the time alone.
            if self.idle.wait_until(&mut queue, until).timed_out() {
                break;
            }
        }
    }

    /// Takes no more calls and waits for those that are in.
    pub fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        while queue.led {
            self.idle.wait(&mut queue);
        }
    }

    /// The failure that poisoned the log, if one has.
    pub fn poisoned(&self) -> Option<Arc<str>> {
        self.queue.lock().poisoned.clone()
    }
}

fn answer(failure: WriteFailure) -> AppendError {
    match failure {
        WriteFailure::Refused(reason) => AppendError::Refused(reason),
        WriteFailure::Poisoned(why) => {
            tracing::error!(%why, "the log is poisoned");
            AppendError::Poisoned(why.into())
        }
    }
}

fn wait_for_turn(slot: &Slot) -> u8 {
    loop {
        match slot.state.load(Ordering::Acquire) {
            // A thread may be unparked for other reasons; only the state counts.
            WAITING => std::thread::park(),
            state => return state,
        }
    }
}
