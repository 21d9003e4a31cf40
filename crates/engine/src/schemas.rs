//! Which columns a collection had at each of its schema versions, for reading row images of any age.

use std::sync::Arc;

use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use springhead_proto::{CollectionId, SchemaVersion};
use springhead_sql::catalog::Table;

/// Grows with each DDL commit; a version once there never changes.
#[derive(Default)]
pub struct Schemas {
    tables: RwLock<FxHashMap<(CollectionId, SchemaVersion), Arc<Table>>>,
}

impl Schemas {
    /// The columns of `collection` at `version`.
    #[must_use]
    pub fn get(&self, collection: CollectionId, version: SchemaVersion) -> Option<Arc<Table>> {
        self.tables.read().get(&(collection, version)).cloned()
    }

    /// Adds a version, or the same version under a new name.
    pub fn put(&self, table: &Arc<Table>) {
        self.tables
            .write()
            .insert((table.collection(), table.version()), Arc::clone(table));
    }
}
