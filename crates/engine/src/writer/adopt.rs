//! Which catalog is in force for a writer, and what follows it.

use std::sync::Arc;

use springhead_sql::Catalog;

use super::Writer;
use crate::state;

impl Writer {
    /// The definitions of a transaction that has been rolled back are gone: `before` counts again.
    pub(super) fn forget_definitions(&mut self, before: &Arc<Catalog>) {
        if before.version != self.catalog.version {
            let catalog = self.go_back_to(before);
            self.published.set_catalog(catalog);
        }
    }

    /// Adopts `before` under a version of its own: plans made against what is rolled back must not
    /// be taken for plans against what comes next. Versions only have to rise, not to be dense.
    pub(super) fn go_back_to(&mut self, before: &Arc<Catalog>) -> Arc<Catalog> {
        let mut catalog = Catalog::clone(before);
        catalog.version = self.catalog.version + 1;
        let catalog = Arc::new(catalog);
        self.adopt(&catalog, None);
        catalog
    }

    /// Makes capture and sequences follow `catalog`, which is from now on in force here. What `before`
    /// has may come back all the same.
    pub(super) fn adopt(&mut self, catalog: &Arc<Catalog>, before: Option<&Catalog>) {
        self.catalog = Arc::clone(catalog);
        for table in catalog.tables.values() {
            self.capture
                .set_table(table, catalog.has_after_row_triggers(table));
        }
        if let Some(book) = &self.context.sequences {
            let stored = state::sequences(&self.conn).unwrap_or_default();
            let (committed, savepoints) = match &self.owner {
                Some(owner) => (Arc::clone(&owner.before), &owner.savepoints[..]),
                None => (self.published.catalog(), &[][..]),
            };
            let mut kept: Vec<&Catalog> = savepoints.iter().map(|one| &*one.catalog).collect();
            kept.extend(before);
            book.lock().follow(catalog, &committed, &kept, &stored);
        }
    }
}
