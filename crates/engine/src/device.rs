//! A tenant that is a device: it holds part of a server's data, and its own writes until the server
//! has decided them (docs/devices.md, docs/adr/0010-device-engine.md).
//!
//! ```text
//!   local statement ─ capture ─┬ rows                          one commit of the device's own log
//!                              ├ device_image: what the server's row was, the first time it is touched
//!                              └ device_pending: the mutation
//!   news of the server ─ rows back to the image ─ apply ─ replay pending ─ one commit
//! ```
//!
//! Both halves of what a device must never lose, the image and the queue, are collections of the
//! tenant itself (`springhead.device_*`), so that they are in the same commit as the rows that they
//! are about. The writer's half is `writer/device`.
//!
//! Used by the crate `device`, which has the conversation. A server's tenants have the collections
//! too, empty.

use std::sync::Arc;

use springhead_proto::sync::{
    Definition, Delta, MutationId, Operation, ProducerId, Shape, ShapeEnded, ShapeId,
    SnapshotChunk, SyncValue, Verdict,
};
use springhead_proto::{CollectionId, Lsn, SqlError};

pub use springhead_crdt::Edit;

use crate::Tenant;
use crate::sync::Author;
use crate::writer::Work;
pub use crate::writer::device::store::mutation_of;

/// Objects made on the device have ids from here on; below are the server's.
pub const FIRST_LOCAL_ID: u32 = 1 << 24;

/// Whether a collection's definition came from the server.
pub(crate) const fn is_replicated(collection: CollectionId) -> bool {
    collection.0 >= CollectionId::FIRST_USER.0 && collection.0 < FIRST_LOCAL_ID
}

/// Something for a device's writer to do, as one commit.
pub struct DeviceTask {
    pub work: DeviceWork,
    /// Whoever uses the device.
    pub author: Arc<Author>,
}

/// See [`DeviceTask`].
#[derive(Debug, Clone)]
pub enum DeviceWork {
    /// Operations that SQL cannot say: they are applied here and pushed as they are.
    Write {
        operations: Vec<Operation>,
        after: Vec<MutationId>,
        /// The rejection that this makes good; it is acknowledged with it.
        instead_of: Option<i64>,
    },
    /// Edits of a document's CRDT column: they merge with what others do to it meanwhile.
    Edit {
        collection: String,
        id: Vec<SyncValue>,
        column: String,
        edits: Vec<Edit>,
    },
    /// What the server said, and what follows from it, in order.
    News(Vec<News>),
}

/// Something a device has learnt.
#[derive(Debug, Clone)]
pub enum News {
    Snapshot(SnapshotChunk),
    /// All parts of one commit.
    Delta(Delta),
    ShapeEnded(ShapeEnded),
    Verdict(MutationId, Verdict),
    /// A whole set, or one after the other.
    Definitions(Vec<Definition>),
    /// The application wants a shape, from now on and over restarts.
    Subscribe(Shape),
    Unsubscribe(ShapeId),
    /// The server starts over with these shapes; empty: all.
    Resync(Vec<ShapeId>),
    /// This mutation, and all later ones of its producer, are another producer's from now on.
    Rekey {
        from: MutationId,
        to: ProducerId,
    },
    /// New mutations are this producer's from now on; the pending ones keep their names.
    Producer(ProducerId),
    /// The application has seen a rejection.
    Dismiss(i64),
    /// A fact of `springhead.device_state`.
    Keep(String, Option<String>),
}

impl News {
    /// Whether rows change with it, or what is replayed on them.
    pub(crate) fn moves_rows(&self) -> bool {
        match self {
            News::Snapshot(_)
            | News::Delta(_)
            | News::ShapeEnded(_)
            | News::Definitions(_)
            | News::Unsubscribe(_) => true,
            News::Verdict(_, verdict) => verdict.is_final(),
            News::Subscribe(_)
            | News::Resync(_)
            | News::Rekey { .. }
            | News::Producer(_)
            | News::Dismiss(_)
            | News::Keep(..) => false,
        }
    }
}

impl DeviceTask {
    /// Whether it changes definitions, so that it runs alone.
    pub(crate) fn defines(&self) -> bool {
        matches!(&self.work, DeviceWork::News(news)
            if news.iter().any(|news| matches!(news, News::Definitions(_))))
    }

    pub(crate) fn bytes(&self) -> usize {
        match &self.work {
            DeviceWork::Write { operations, .. } => operations.len() * 256,
            DeviceWork::Edit { edits, .. } => (edits.iter())
                .map(|edit| match edit {
                    Edit::Insert { text, .. } => text.len(),
                    _ => 64,
                })
                .sum(),
            DeviceWork::News(news) => news
                .iter()
                .map(|news| match news {
                    News::Snapshot(chunk) => chunk.rows.len() * 128,
                    News::Delta(delta) => delta.changes.len() * 128,
                    _ => 128,
                })
                .sum(),
        }
    }
}

impl Tenant {
    /// Has a device's writer do something. Returns once it is durable, with its commit's last LSN in
    /// the device's own log.
    ///
    /// # Errors
    /// Why nothing of it was done.
    pub async fn device(&self, author: &Arc<Author>, work: DeviceWork) -> Result<Lsn, SqlError> {
        let task = DeviceTask {
            work,
            author: Arc::clone(author),
        };
        self.work(Work::Device(task)).await.map(|done| done.lsn)
    }
}
