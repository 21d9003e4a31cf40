//! Which collections a commit touches, as the log keeps it beside the commit: readers of some of them
//! pass over all other commits by it.

use springhead_proto::{ChangeKind, CollectionId};

use super::Capture;

impl Capture {
    pub(super) fn label(&mut self, collection: CollectionId) {
        if collection != CollectionId::NONE
            && let Err(place) = self.collections.binary_search(&collection)
        {
            self.collections.insert(place, collection);
        }
    }

    /// Definitions have a label of their own beside that of their table: those of views and functions
    /// are of none.
    pub(super) fn label_kind(&mut self, kind: ChangeKind) {
        if kind == ChangeKind::Definition {
            self.label(CollectionId::DEFINITIONS);
        }
    }
}
