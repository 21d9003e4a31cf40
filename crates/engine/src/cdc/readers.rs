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
}

impl ReaderSeat {
    /// Completes when another reader has taken this place. Cancel-safe.
    pub(crate) async fn taken_over(&self) -> SqlError {
        loop {
            if let Some(error) = self.is_taken_over() {
                return error;
            }
            // A wake-up sent before this waits is kept for it.
            self.seat.wake.notified().await;
        }
    }

    /// The error to end with, if another reader has taken this place.
    pub(crate) fn is_taken_over(&self) -> Option<SqlError> {
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
            first.is_taken_over().map(|error| error.code),
            Some(ErrorCode::TakenOver)
        );
        assert!(other.is_taken_over().is_none() && second.is_taken_over().is_none());
        // The old one's leaving does not free the new one's place.
        drop(first);
        let third = readers.take(TenantId(1), "mailer");
        assert!(second.is_taken_over().is_some() && third.is_taken_over().is_none());
        drop((second, third, other));
        assert!(readers.present.lock().is_empty());
    }
}
