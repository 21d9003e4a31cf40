//! Who reads for a consumer group now: one at a time, and a new reader ends the old one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use springhead_proto::{ErrorCode, SqlError, TenantId};
use tokio::sync::Notify;

/// The present reader of each consumer that has one.
#[derive(Default)]
pub(crate) struct Readers {
    present: Arc<Mutex<Present>>,
}

type Present = FxHashMap<(TenantId, String), Arc<Seat>>;

#[derive(Default)]
struct Seat {
    taken: AtomicBool,
    /// There is nothing to read for any more.
    gone: AtomicBool,
    wake: Notify,
}

/// A reader's place; dropped, it is free.
pub(crate) struct ReaderSeat {
    present: Arc<Mutex<Present>>,
    key: (TenantId, String),
    seat: Arc<Seat>,
}

impl Readers {
    /// Takes the place of the consumer's reader, ending whoever has it.
    pub(crate) fn take(&self, tenant: TenantId, consumer: &str) -> ReaderSeat {
        let key = (tenant, consumer.to_owned());
        let seat = Arc::new(Seat::default());
        let before = self.present.lock().insert(key.clone(), Arc::clone(&seat));
        if let Some(before) = before {
            before.taken.store(true, Ordering::Release);
            before.wake.notify_one();
        }
        ReaderSeat {
            present: Arc::clone(&self.present),
            key,
            seat,
        }
    }

    /// Ends the reader of a consumer that has been deleted.
    pub(crate) fn end(&self, tenant: TenantId, consumer: &str) {
        let key = (tenant, consumer.to_owned());
        if let Some(seat) = self.present.lock().remove(&key) {
            seat.gone.store(true, Ordering::Release);
            seat.wake.notify_one();
        }
    }
}

impl ReaderSeat {
    /// Completes when another reader has taken this place, or the consumer is deleted. Cancel-safe.
    pub(crate) async fn lost(&self) -> SqlError {
        loop {
            if let Some(error) = self.is_lost() {
                return error;
            }
            // A wake-up sent before this waits is kept for it.
            self.seat.wake.notified().await;
        }
    }

    /// The error to end with, if another reader has taken this place, or there is none any more.
    pub(crate) fn is_lost(&self) -> Option<SqlError> {
        if self.seat.gone.load(Ordering::Acquire) {
            return Some(SqlError::new(
                ErrorCode::UnknownConsumer,
                format!("consumer \"{}\" has been deleted", self.key.1),
            ));
        }
        self.seat.taken.load(Ordering::Acquire).then(|| {
            SqlError::new(
                ErrorCode::TakenOver,
                format!("another reader has taken over consumer \"{}\"", self.key.1),
            )
        })
    }
}

impl Drop for ReaderSeat {
    fn drop(&mut self) {
        let mut present = self.present.lock();
        if present
            .get(&self.key)
            .is_some_and(|seat| Arc::ptr_eq(seat, &self.seat))
        {
            present.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_reader_ends_the_old_and_leaves_others_alone() {
        let readers = Readers::default();
        let first = readers.take(TenantId(1), "mailer");
        let other = readers.take(TenantId(2), "mailer");
        let second = readers.take(TenantId(1), "mailer");
        assert_eq!(
            first.is_lost().map(|error| error.code),
            Some(ErrorCode::TakenOver)
        );
        assert!(other.is_lost().is_none() && second.is_lost().is_none());
        // The old one's leaving does not free the new one's place.
        drop(first);
        let third = readers.take(TenantId(1), "mailer");
        assert!(second.is_lost().is_some() && third.is_lost().is_none());
        readers.end(TenantId(1), "mailer");
        assert_eq!(
            third.is_lost().map(|error| error.code),
            Some(ErrorCode::UnknownConsumer)
        );
        assert!(other.is_lost().is_none());
        drop((second, third, other));
        assert!(readers.present.lock().is_empty());
    }
}
