//! What waits for one connection: the changes of all its live queries, in commit order, in bounded
//! memory. Past its bound it is emptied and marked; the reader then asks for the net difference
//! since what it has last seen, so that a stalled client costs nothing more and loses nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use springhead_proto::{Lsn, SqlError};
use tokio::sync::Notify;

use super::Delta;

/// Number of a live query, unique in the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LiveId(pub u64);

/// Who has a query. Mostly it is one.
#[derive(Default)]
pub(super) enum Subscribers {
    #[default]
    None,
    One((LiveId, Arc<Outbox>)),
    Many(Vec<(LiveId, Arc<Outbox>)>),
}

impl Subscribers {
    pub(super) fn push(&mut self, id: LiveId, outbox: Arc<Outbox>) {
        *self = match std::mem::take(self) {
            Subscribers::None => Subscribers::One((id, outbox)),
            Subscribers::One(one) => Subscribers::Many(vec![one, (id, outbox)]),
            Subscribers::Many(mut many) => {
                many.push((id, outbox));
                Subscribers::Many(many)
            }
        };
    }

    pub(super) fn remove(&mut self, id: LiveId) {
        match self {
            Subscribers::One((one, _)) if *one == id => *self = Subscribers::None,
            Subscribers::Many(many) => many.retain(|(other, _)| *other != id),
            _ => {}
        }
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, (LiveId, Arc<Outbox>)> {
        match self {
            Subscribers::None => std::slice::Iter::default(),
            Subscribers::One(one) => std::slice::from_ref(one).iter(),
            Subscribers::Many(many) => many.iter(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.iter().len() == 0
    }
}

/// One thing for the connection.
#[derive(Clone)]
pub(crate) enum Item {
    Change {
        id: LiveId,
        delta: Arc<Delta>,
    },
    /// Everything of the commit that ends here is in the queue before it.
    Tick(Lsn),
    Ended {
        id: LiveId,
        end: LiveEnd,
    },
}

/// Why a live query ended.
#[derive(Debug, Clone)]
pub enum LiveEnd {
    /// It can be opened again, from a new snapshot: its definitions changed, its cursor is too old.
    MustRefetch { message: String },
    /// It cannot go on.
    Failed(SqlError),
}

/// See the module's text.
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    /// Something came.
    pub(crate) came: Notify,
    max_bytes: usize,
    /// The last commit that put something in; the writer's own mark for ticks.
    marked: AtomicU64,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    is_lagged: bool,
}

/// What is next.
pub(crate) enum Taken {
    Item(Item),
    Empty,
    Lagged,
}

impl Outbox {
    pub(crate) fn new(max_bytes: usize) -> Arc<Outbox> {
        Arc::new(Outbox {
            queue: Mutex::default(),
            came: Notify::new(),
            max_bytes,
            marked: AtomicU64::new(0),
        })
    }

    pub(crate) fn push(&self, item: Item) {
        let mut queue = self.queue.lock();
        let is_end = matches!(item, Item::Ended { .. });
        if queue.is_lagged && !is_end {
            return;
        }
        if let Item::Change { delta, .. } = &item {
            queue.bytes += delta.size_bytes();
            if queue.bytes > self.max_bytes {
                queue
                    .items
                    .retain(|item| matches!(item, Item::Ended { .. }));
                queue.bytes = 0;
                queue.is_lagged = true;
                drop(queue);
                self.came.notify_one();
                return;
            }
        }
        queue.items.push_back(item);
        drop(queue);
        self.came.notify_one();
    }

    /// Whether this commit has put something in before; if not, it is marked now.
    pub(crate) fn mark(&self, lsn: Lsn) -> bool {
        self.marked.swap(lsn.0, Ordering::Relaxed) == lsn.0
    }

    pub(crate) fn take(&self) -> Taken {
        let mut queue = self.queue.lock();
        match queue.items.pop_front() {
            Some(item) => {
                if let Item::Change { delta, .. } = &item {
                    queue.bytes = queue.bytes.saturating_sub(delta.size_bytes());
                }
                Taken::Item(item)
            }
            None if queue.is_lagged => Taken::Lagged,
            None => Taken::Empty,
        }
    }

    /// Takes the end of one query out; what else is there stays, in its order.
    pub(crate) fn take_end(&self, id: LiveId) -> Option<LiveEnd> {
        let mut queue = self.queue.lock();
        let is_it = |item: &Item| matches!(item, Item::Ended { id: ended, .. } if *ended == id);
        let place = queue.items.iter().position(is_it)?;
        match queue.items.remove(place) {
            Some(Item::Ended { end, .. }) => Some(end),
            _ => None,
        }
    }

    /// Whether something is there.
    pub(crate) fn peek(&self) -> Taken {
        let queue = self.queue.lock();
        match queue.items.front() {
            Some(item) => Taken::Item(item.clone()),
            None if queue.is_lagged => Taken::Lagged,
            None => Taken::Empty,
        }
    }

    /// Changes are taken again.
    pub(crate) fn recover(&self) {
        self.queue.lock().is_lagged = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g2_the_end_of_one_query_leaves_the_others_order() {
        let outbox = Outbox::new(1 << 10);
        let end = |message: &str| LiveEnd::MustRefetch {
            message: message.to_owned(),
        };
        outbox.push(Item::Tick(Lsn(1)));
        let ended = |number, message: &str| Item::Ended {
            id: LiveId(number),
            end: end(message),
        };
        outbox.push(ended(7, "seven"));
        outbox.push(ended(8, "eight"));
        outbox.push(Item::Tick(Lsn(2)));
        let taken = outbox.take_end(LiveId(8));
        assert!(matches!(taken, Some(LiveEnd::MustRefetch { message }) if message == "eight"));
        assert!(outbox.take_end(LiveId(8)).is_none());
        assert!(matches!(outbox.take(), Taken::Item(Item::Tick(Lsn(1)))));
        assert!(matches!(
            outbox.take(),
            Taken::Item(Item::Ended { id: LiveId(7), .. })
        ));
        assert!(matches!(outbox.take(), Taken::Item(Item::Tick(Lsn(2)))));
        assert!(matches!(outbox.take(), Taken::Empty));
    }
}
