//! What every exit does: read the tenant's part of the log from a position, then follow it; when it
//! lags, back to disk. A reader that nobody polls costs its own few fields and nothing else.
//!
//! ```text
//!   on disk only          in the ring (shared, bounded)
//!  ........................|===========================|
//!                        floor                      visible
//!          ^ catch-up reader        ^ follower
//! ```

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};
use springhead_log::{CommitSlice, Log, LogError, LogReader, ReadFilter};
use springhead_proto::{CollectionId, Lsn, TenantId};
use tokio::sync::watch;

use crate::cdc::RenderCache;
use crate::horizon::Horizon;
use crate::notify::Listened;
use crate::workers::Workers;

/// A commit, or a piece of a large one, with what has been rendered from it so far. Shared by all
/// who follow in memory.
pub struct Block {
    pub slice: CommitSlice,
    /// Encodings of its events that subscribers share.
    pub rendered: RenderCache,
}

impl Block {
    fn new(slice: CommitSlice) -> Arc<Block> {
        Arc::new(Block {
            slice,
            rendered: RenderCache::default(),
        })
    }
}

/// One step of a tail.
pub struct Step {
    /// In LSN order; may be empty when nothing in this stretch is for this reader.
    pub blocks: Vec<Arc<Block>>,
    /// Everything up to and including this LSN has now been delivered by this reader.
    pub position: Lsn,
}

/// Why a tail ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TailError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the tenant was dropped")]
    TenantDropped,
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// Where one tenant's commits are published, once they are in its state file.
pub struct Hub {
    log: Arc<dyn Log>,
    tenant: TenantId,
    /// What may be shown; the same for all tenants.
    horizon: Arc<Horizon>,
    /// Itself, for the horizon.
    me: Weak<Hub>,
    ring: Mutex<Ring>,
    /// What was acknowledged is published, or will never be.
    settled: Condvar,
    /// Moves with each published commit, and when the hub ends.
    moved: watch::Sender<Signal>,
    /// What the tenant's sessions listen for; what nobody does wakes nobody.
    pub(crate) listened: Listened,
    subscribers: AtomicUsize,
    memory_bytes: usize,
    read_bytes: u64,
    readers: Arc<Workers>,
}

struct Ring {
    blocks: VecDeque<Arc<Block>>,
    bytes: usize,
    /// Every commit of the tenant after it, up to `published`, is in `blocks`.
    floor: Lsn,
    /// The last LSN of the last commit published.
    published: Lsn,
    /// Set while the tenant has commits that are or may be in the log but not yet in its state: the
    /// log's durable end from before they were handed to it.
    in_flight_after: Option<Lsn>,
    /// The last commit that a client was told of; past `published` while it is on its way into the
    /// state file.
    acknowledged: Lsn,
    /// The writer is done for: nothing more is published.
    failed: bool,
    /// Of the commits that are not shown yet: the first that may have a message which somebody listens
    /// for, and the last.
    messages: Option<(Lsn, Lsn)>,
}

impl Ring {
    /// Whether a message that somebody listens for is shown now and was not before.
    fn take_message(&mut self, shown: Lsn) -> bool {
        let Some((first, last)) = self.messages else {
            return false;
        };
        if first > shown {
            return false;
        }
        self.messages = (last > shown).then(|| (shown.next(), last));
        true
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signal {
    Published(Lsn),
    Dropped,
    ShuttingDown,
}

impl Hub {
    /// A hub whose tenant's state has every commit up to `applied`.
    pub fn new(
        log: Arc<dyn Log>,
        horizon: Arc<Horizon>,
        tenant: TenantId,
        applied: Lsn,
        memory_bytes: usize,
        read_bytes: u64,
        readers: Arc<Workers>,
    ) -> Arc<Hub> {
        let shown = applied.min(horizon.limit());
        let hub = Arc::new_cyclic(|me| Hub {
            log,
            tenant,
            horizon,
            me: Weak::clone(me),
            ring: Mutex::new(Ring {
                blocks: VecDeque::new(),
                bytes: 0,
                floor: applied,
                published: applied,
                in_flight_after: None,
                acknowledged: applied,
                failed: false,
                messages: None,
            }),
            settled: Condvar::new(),
            moved: watch::Sender::new(Signal::Published(shown)),
            listened: Listened::default(),
            subscribers: AtomicUsize::new(0),
            memory_bytes,
            read_bytes,
            readers,
        });
        hub.show();
        hub
    }

    /// Every commit of this tenant up to it is in its state file and may be shown. Passes other
    /// tenants' changes.
    pub fn visible(&self) -> Lsn {
        // Before all else: whatever moves after it was looked at may only make it too low.
        let limit = self.horizon.limit();
        self.settled_up_to().min(limit)
    }

    /// Every commit of this tenant up to it is in its state file, whether it may be shown or not.
    pub fn stored(&self) -> Lsn {
        let limit = self.horizon.applied();
        self.settled_up_to().min(limit)
    }

    fn settled_up_to(&self) -> Lsn {
        // The log's end first: a commit of ours at or before it was in flight before it got there,
        // so seeing nothing in flight afterwards means that it has been published.
        let durable = self.log.tail().durable;
        let ring = self.ring.lock();
        match ring.in_flight_after {
            None => durable.max(ring.published),
            Some(after) => after.max(ring.published),
        }
    }

    /// The last commit published, others' not counted.
    pub fn published(&self) -> Lsn {
        self.ring.lock().published
    }

    /// The writer is about to hand commits to the log.
    pub fn begin_flight(&self) {
        let durable = self.log.tail().durable;
        self.ring.lock().in_flight_after = Some(durable);
    }

    /// A client is about to be told of the commit that ends at `lsn`, which is durable but not
    /// published yet: whoever reads from now on waits for it.
    pub fn acknowledge(&self, lsn: Lsn) {
        self.ring.lock().acknowledged = lsn;
    }

    /// The last commit that anyone was told of.
    pub fn acknowledged(&self) -> Lsn {
        let ring = self.ring.lock();
        ring.acknowledged.max(ring.published)
    }

    /// Whether everything that anyone was told of is in the state file.
    pub fn is_settled(&self) -> bool {
        let ring = self.ring.lock();
        ring.failed || ring.acknowledged <= ring.published
    }

    /// Blocks until [`Hub::is_settled`]; moments, since whoever acknowledged goes on to publish.
    pub fn wait_settled(&self) {
        let mut ring = self.ring.lock();
        while !ring.failed && ring.acknowledged > ring.published {
            self.settled.wait(&mut ring);
        }
    }

    /// Completes once [`Hub::is_settled`].
    pub async fn settled(self: &Arc<Self>) {
        if !self.is_settled() {
            let hub = Arc::clone(self);
            // An error means that the threads are gone, and with them who would publish.
            let _ = self.readers.call(move || hub.wait_settled()).await;
        }
    }

    /// The writer has failed for good: nobody waits for it any more.
    pub fn fail(&self) {
        self.ring.lock().failed = true;
        self.settled.notify_all();
    }

    /// What was in flight is in the state file, or surely not in the log. `slices` are the commits,
    /// in order; one that is not in memory makes followers read it from disk.
    pub fn publish(&self, slices: impl Iterator<Item = Published>) {
        let mut ring = self.ring.lock();
        ring.in_flight_after = None;
        for published in slices {
            // Here, where `published` moves: whoever begins to listen either reads this commit because
            // it is published already, or is known by now.
            if self.listened.wants(&published) {
                let last = published.last_lsn();
                let first = ring.messages.map_or(last, |(first, _)| first);
                ring.messages = Some((first, last));
            }
            match published {
                Published::InMemory(slice) => {
                    ring.published = slice.last_lsn();
                    ring.bytes += slice.changes.len();
                    ring.blocks.push_back(Block::new(slice));
                }
                Published::OnDisk { last_lsn } => {
                    ring.blocks.clear();
                    ring.bytes = 0;
                    ring.floor = last_lsn;
                    ring.published = last_lsn;
                }
            }
        }
        while ring.bytes > self.memory_bytes
            && let Some(oldest) = ring.blocks.pop_front()
        {
            ring.bytes -= oldest.slice.changes.len();
            ring.floor = oldest.slice.last_lsn();
        }
        drop(ring);
        self.settled.notify_all();
        self.show();
    }

    /// Wakes the tails for what is published and may be shown by now.
    pub(crate) fn show(&self) {
        let published = self.published();
        let mut limit = self.horizon.limit();
        if published > limit {
            self.horizon.hold(Weak::clone(&self.me));
            // It may have moved before it knew of us.
            limit = self.horizon.limit();
        }
        let shown = published.min(limit);
        if self.ring.lock().take_message(shown) {
            self.listened.wake();
        }
        self.moved.send_if_modified(|signal| {
            let moves = matches!(signal, Signal::Published(before) if *before < shown);
            if moves {
                *signal = Signal::Published(shown);
            }
            moves
        });
    }

    /// The last LSN of the last commit that tails may give. Never behind what is settled, as the signal
    /// that wakes them may be for a moment: a session whose channels change then would hear what it
    /// has unlistened to.
    pub fn shown(&self) -> Lsn {
        self.published().min(self.horizon.limit())
    }

    /// How much of the log that is kept lies after `lsn`, from 0 to 1.
    pub fn share_after(&self, lsn: Lsn) -> f64 {
        let end = self.log.tail().durable;
        let left = self.log.bytes_between(lsn.next(), end);
        let kept = self.log.stats().kept_bytes;
        #[expect(clippy::cast_precision_loss, reason = "a share needs no more")]
        let share = left as f64 / kept.max(1) as f64;
        share.clamp(0.0, 1.0)
    }

    /// Ends every tail: the tenant is gone.
    pub fn end_dropped(&self) {
        self.moved.send_replace(Signal::Dropped);
        self.listened.wake();
    }

    /// Ends every tail: the server stops.
    pub fn end_shutdown(&self) {
        self.moved.send_replace(Signal::ShuttingDown);
        self.listened.wake();
    }

    /// Tails there are.
    pub fn subscribers(&self) -> usize {
        self.subscribers.load(Ordering::Relaxed)
    }

    /// Completes when a commit of this tenant after `lsn` is published, or the hub ends.
    pub async fn published_after(&self, lsn: Lsn) {
        let mut moved = self.moved.subscribe();
        // An error means that the hub is gone, which is an end too.
        let _ = moved
            .wait_for(|signal| match signal {
                Signal::Published(published) => *published > lsn,
                Signal::Dropped | Signal::ShuttingDown => true,
            })
            .await;
    }

    /// A tail that delivers what comes after `position`.
    pub fn tail(self: &Arc<Self>, position: Lsn, collections: Vec<CollectionId>) -> TailReader {
        self.subscribers.fetch_add(1, Ordering::Relaxed);
        TailReader {
            moved: self.moved.subscribe(),
            hub: Arc::clone(self),
            position,
            collections,
            disk: None,
            ahead: VecDeque::new(),
        }
    }
}

/// A commit that is now in the state file.
pub enum Published {
    InMemory(CommitSlice),
    /// Too large to keep.
    OnDisk {
        last_lsn: Lsn,
    },
}

impl Published {
    fn last_lsn(&self) -> Lsn {
        match self {
            Published::InMemory(slice) => slice.last_lsn(),
            Published::OnDisk { last_lsn } => *last_lsn,
        }
    }
}

/// Reads one tenant's commits after a position.
pub struct TailReader {
    hub: Arc<Hub>,
    moved: watch::Receiver<Signal>,
    position: Lsn,
    /// Only commits that touch one of these; empty for all. A hint: others may be delivered too.
    collections: Vec<CollectionId>,
    /// While catching up.
    disk: Option<Box<dyn LogReader>>,
    /// Read from disk but not visible yet.
    ahead: VecDeque<CommitSlice>,
}

impl Drop for TailReader {
    fn drop(&mut self) {
        self.hub.subscribers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Blocks that one step hands out, at most.
const STEP_BLOCKS: usize = 256;

impl TailReader {
    /// Everything up to and including this LSN has been delivered.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// The next step, as soon as one of the tenant's own commits makes one. Cancel-safe.
    ///
    /// # Errors
    /// Why no more will come.
    pub async fn next(&mut self) -> Result<Step, TailError> {
        loop {
            let position = self.position;
            // First: thousands that have just been given a step ask for the next, which is seldom there.
            let moved = self.moved.wait_for(|signal| match signal {
                Signal::Published(published) => *published > position,
                Signal::Dropped | Signal::ShuttingDown => true,
            });
            if moved.await.is_err() {
                return Err(TailError::ShuttingDown);
            }
            if let Some(step) = self.try_next().await? {
                return Ok(step);
            }
        }
    }

    /// The next step if there is one now (reading the disk if need be, off the runtime's threads).
    /// A step without blocks still moves the position: over other tenants' changes, too.
    ///
    /// # Errors
    /// Why no more will come.
    pub async fn try_next(&mut self) -> Result<Option<Step>, TailError> {
        match *self.moved.borrow() {
            Signal::Published(_) => {}
            Signal::Dropped => return Err(TailError::TenantDropped),
            Signal::ShuttingDown => return Err(TailError::ShuttingDown),
        }
        let visible = self.hub.visible();
        if visible <= self.position {
            return Ok(None);
        }
        if self.disk.is_none()
            && let Some(step) = self.step_in_memory(visible)
        {
            return Ok(Some(step));
        }
        self.step_on_disk(visible).await.map(Some)
    }

    fn step_in_memory(&mut self, visible: Lsn) -> Option<Step> {
        let ring = self.hub.ring.lock();
        if self.position < ring.floor {
            return None;
        }
        let first = ring
            .blocks
            .partition_point(|block| block.slice.last_lsn() <= self.position);
        let blocks: Vec<_> = ring
            .blocks
            .iter()
            .skip(first)
            .take(STEP_BLOCKS)
            .take_while(|block| block.slice.last_lsn() <= visible)
            .cloned()
            .collect();
        // Commits at or before `visible` were in the ring before `visible` was read.
        let before_next = ring
            .blocks
            .get(first + blocks.len())
            .map_or(visible, |next| next.slice.first_lsn().previous());
        drop(ring);
        let last = blocks
            .last()
            .map_or(self.position, |block| block.slice.last_lsn());
        self.position = before_next.min(visible).max(last);
        Some(Step {
            blocks,
            position: self.position,
        })
    }

    async fn step_on_disk(&mut self, visible: Lsn) -> Result<Step, TailError> {
        let mut slices = std::mem::take(&mut self.ahead);
        let mut scanned = self.position;
        if slices.is_empty() {
            let mut reader = match self.disk.take() {
                Some(reader) => reader,
                None => {
                    let filter = ReadFilter {
                        tenant: Some(self.hub.tenant),
                        collections: self.collections.clone(),
                    };
                    self.hub.log.reader(self.position.next(), filter)?
                }
            };
            let budget = self.hub.read_bytes;
            // Cancelled here, the reader is lost and the next step opens one from the position,
            // which has not moved.
            let (reader, read) = self
                .hub
                .readers
                .call(move || {
                    let mut slices = Vec::new();
                    let read = reader.read(&mut slices, budget);
                    (reader, read.map(|scanned| (slices, scanned)))
                })
                .await
                .map_err(|_| TailError::ShuttingDown)?;
            let (read, last) = read?;
            slices = read.into();
            scanned = last;
            self.disk = Some(reader);
        } else {
            scanned = slices.back().map_or(scanned, CommitSlice::last_lsn);
        }
        let mut blocks = Vec::new();
        while let Some(slice) = slices.front() {
            if slice.commit_last_lsn() > visible {
                break;
            }
            if slice.last_lsn() > self.position {
                blocks.push(Block::new(slice.clone()));
            }
            slices.pop_front();
        }
        let delivered = blocks
            .last()
            .map_or(self.position, |block| block.slice.last_lsn());
        self.position = match slices.front() {
            // What is left is not visible yet; everything before it has been delivered.
            Some(left) => left.first_lsn().previous().max(delivered),
            None => scanned.min(visible).max(delivered),
        };
        let caught_up = self.position >= self.hub.ring.lock().floor && slices.is_empty();
        // In the middle of a large commit the reader must go on from where it is.
        if caught_up && self.position >= scanned && !is_mid_commit(&blocks) {
            self.disk = None;
        }
        self.ahead = slices;
        Ok(Step {
            blocks,
            position: self.position,
        })
    }
}

fn is_mid_commit(blocks: &[Arc<Block>]) -> bool {
    blocks.last().is_some_and(|block| !block.slice.last)
}
