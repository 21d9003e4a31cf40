//! What a commit has beside rows and definitions: messages, and steps of sequences.

use springhead_proto::{
    ChangeKind, CollectionId, ErrorCode, RowBuilder, SchemaVersion, SqlError, ValueRef,
};

use super::Capture;
use crate::notify::Message;
use crate::sequences::Moved;

impl Capture {
    /// Adds a step of a sequence to the open commit.
    pub fn push_sequence(&mut self, moved: &Moved) {
        moved.encode(&mut self.buffer);
        self.added(CollectionId::NONE);
    }

    /// Adds what the statement has sent to the open commit. A message that is there already is
    /// folded, as in PostgreSQL.
    pub fn take_messages(&mut self) {
        for message in self.outbox.take() {
            self.push_message(&message);
        }
    }

    /// Adds one message to the open commit, unless it is there already.
    pub fn push_message(&mut self, message: &Message) {
        if self.failed.is_some() || !self.folded.insert(message) {
            return;
        }
        self.after.clear();
        let mut row = RowBuilder::new(&mut self.after, 3);
        row.push(ValueRef::Text(&message.channel));
        row.push(ValueRef::Text(&message.payload));
        row.push(ValueRef::Integer(i64::from(message.process_id)));
        let after = std::mem::take(&mut self.after);
        self.push(
            ChangeKind::Message,
            CollectionId::NONE,
            SchemaVersion(1),
            Some(&after),
        );
        self.after = after;
        if self.folded.len_bytes() > self.max_message_bytes {
            self.failed = Some(
                SqlError::new(
                    ErrorCode::StatementTooLarge,
                    format!(
                        "the transaction's notifications are over {} bytes",
                        self.max_message_bytes
                    ),
                )
                .with_hint("send fewer in one transaction, or raise notify_transaction_bytes"),
            );
        }
    }
}
