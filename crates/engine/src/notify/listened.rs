//! The names of the channels that anyone of a tenant listens to, for whoever publishes commits: a
//! commit without a message for them wakes nobody, so that listeners on other channels cost the writer
//! a look at the messages' channels and nothing else.

use std::sync::Arc;

use parking_lot::RwLock;
use rustc_hash::FxHashSet;
use springhead_proto::{Messages, ValueRef};
use tokio::sync::Notify;

use crate::tail::Published;

/// See the module's text.
#[derive(Default)]
pub(crate) struct Listened {
    channels: RwLock<FxHashSet<Arc<str>>>,
    message: Notify,
}

impl Listened {
    /// From now on somebody listens to `channel`.
    pub(super) fn add(&self, channel: &Arc<str>) {
        self.channels.write().insert(Arc::clone(channel));
    }

    /// Nobody listens to `channel` any more.
    pub(super) fn remove(&self, channel: &str) {
        self.channels.write().remove(channel);
    }

    /// Nobody listens to anything any more.
    pub(super) fn clear(&self) {
        self.channels.write().clear();
    }

    /// Whether a commit has, or may have, a message that somebody listens for.
    pub(crate) fn wants(&self, published: &Published) -> bool {
        let channels = self.channels.read();
        if channels.is_empty() {
            return false;
        }
        let Published::InMemory(slice) = published else {
            return true;
        };
        Messages::new(&slice.changes).any(|message| match message {
            Ok((_, row)) => match row.get(0) {
                Some(ValueRef::Text(channel)) => channels.contains(channel),
                _ => true,
            },
            // Whoever dispatches it says so.
            Err(_) => true,
        })
    }

    /// Somebody is to look.
    pub(crate) fn wake(&self) {
        self.message.notify_one();
    }

    /// Completes once there is a message that somebody listens for, or the hub has ended. For one who
    /// waits. Cancel-safe.
    pub(super) async fn woken(&self) {
        self.message.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use springhead_log::CommitSlice;
    use springhead_proto::{
        ChangeKind, CollectionId, Epoch, Lsn, Row, SchemaVersion, TenantId, TimestampMs,
        encode_change,
    };

    use super::*;

    fn published(channels: &[&str]) -> Published {
        let mut changes = Vec::new();
        let row = Row::from_values([ValueRef::Integer(1)].into_iter());
        let (table, version) = (CollectionId(7), SchemaVersion(1));
        encode_change(
            &mut changes,
            ChangeKind::Insert,
            table,
            version,
            None,
            Some(row.bytes()),
        );
        for channel in channels {
            let row = Row::from_values(
                [
                    ValueRef::Text(channel),
                    ValueRef::Text("payload"),
                    ValueRef::Integer(4),
                ]
                .into_iter(),
            );
            encode_change(
                &mut changes,
                ChangeKind::Message,
                CollectionId::NONE,
                version,
                None,
                Some(row.bytes()),
            );
        }
        let count = 1 + channels.len() as u64;
        Published::InMemory(CommitSlice {
            tenant: TenantId(1),
            epoch: Epoch(1),
            timestamp_ms: TimestampMs(1),
            commit_lsn: Lsn(1),
            commit_count: count,
            index: 0,
            count,
            last: true,
            changes: changes.into(),
        })
    }

    #[test]
    fn only_messages_that_somebody_listens_for_are_wanted() {
        let listened = Listened::default();
        assert!(!listened.wants(&published(&["a"])), "nobody listens");
        listened.add(&"a".into());
        listened.add(&"b".into());
        assert!(!listened.wants(&published(&[])), "no message");
        assert!(!listened.wants(&published(&["c", "A"])), "other channels");
        assert!(listened.wants(&published(&["c", "b"])));
        let large = Published::OnDisk { last_lsn: Lsn(9) };
        assert!(listened.wants(&large), "nobody has looked into it");
        listened.remove("b");
        assert!(!listened.wants(&published(&["c", "b"])));
        listened.clear();
        assert!(!listened.wants(&large));
    }
}
