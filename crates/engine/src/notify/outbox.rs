//! Messages on their way into the open commit.
//!
//! `sh_notify` runs inside a statement and puts them in the [`Outbox`]; the capture takes them out
//! before the next row and when the statement has ended, so that they lie in the log where they were
//! sent. [`Folded`] remembers what the open commit has already, since a message that is sent twice in
//! one transaction comes once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashSet;

/// A message that has been sent in a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub channel: String,
    pub payload: String,
    pub process_id: i32,
}

/// What the statement that runs has sent and the capture has not taken yet.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Looked at for every row, so that a lock is taken only when there is something.
    has_some: AtomicBool,
    messages: Mutex<Vec<Message>>,
}

impl Outbox {
    /// Sends `message`, if the statement succeeds.
    pub fn put(&self, message: Message) {
        self.messages.lock().push(message);
        self.has_some.store(true, Ordering::Release);
    }

    /// Takes what was sent.
    pub fn take(&self) -> Vec<Message> {
        if !self.has_some.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut *self.messages.lock())
    }
}

/// The messages of the open commit, in the order they were sent first.
#[derive(Debug, Default)]
pub struct Folded {
    known: FxHashSet<Arc<str>>,
    order: Vec<Arc<str>>,
    bytes: usize,
}

impl Folded {
    /// Whether the message is new.
    pub fn insert(&mut self, message: &Message) -> bool {
        // No text has a zero byte.
        let key: Arc<str> = format!("{}\0{}", message.channel, message.payload).into();
        if !self.known.insert(Arc::clone(&key)) {
            return false;
        }
        self.bytes += key.len();
        self.order.push(key);
        true
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Bytes of their texts.
    pub fn len_bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets all but the first `kept`.
    pub fn truncate(&mut self, kept: usize) {
        for key in self.order.drain(kept.min(self.order.len())..) {
            self.bytes -= key.len();
            self.known.remove(&key);
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.truncate(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(channel: &str, payload: &str) -> Message {
        Message {
            channel: channel.to_owned(),
            payload: payload.to_owned(),
            process_id: 1,
        }
    }

    #[test]
    fn what_was_sent_before_is_folded_and_what_was_cut_is_not() {
        let mut folded = Folded::default();
        assert!(folded.insert(&message("a", "1")));
        assert!(folded.insert(&message("a1", "")));
        assert!(!folded.insert(&message("a", "1")));
        let mark = folded.len();
        assert!(folded.insert(&message("b", "1")));
        folded.truncate(mark);
        assert!(folded.insert(&message("b", "1")));
        assert!(!folded.insert(&message("a1", "")));
        folded.clear();
        assert_eq!(folded.len_bytes(), 0);
        assert!(folded.insert(&message("a", "1")));
    }

    #[test]
    fn an_outbox_is_emptied_by_taking() {
        let outbox = Outbox::default();
        assert_eq!(outbox.take(), []);
        outbox.put(message("a", "1"));
        outbox.put(message("a", "1"));
        assert_eq!(outbox.take().len(), 2);
        assert_eq!(outbox.take(), []);
    }
}
