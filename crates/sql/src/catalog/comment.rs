//! What COMMENT ON says of objects.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Catalog, QualifiedName};

/// A comment on one object: a row of `pg_description`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comment {
    pub id: u32,
    /// What the statement called the object; for people that read definitions.
    pub name: QualifiedName,
    /// The object id of the catalog that the object is in (`pg_class` is 1259).
    pub class: u32,
    /// The object's id, as `pg_catalog` has it ([`crate::system::oids`]).
    pub object: u32,
    /// A column's id; 0 for the object itself.
    pub sub: u32,
    pub text: String,
}

impl Comment {
    /// Whether it is on the object with this id in the catalog, or on a part of it.
    #[must_use]
    pub fn is_about(&self, id: u32) -> bool {
        crate::system::oids::id_of(self.object).is_some_and(|(object, _)| object == id)
    }
}

impl Catalog {
    /// The comment on an object, or on its column.
    #[must_use]
    pub fn comment_on(&self, class: u32, object: u32, sub: u32) -> Option<&Arc<Comment>> {
        self.comments.values().find(|comment| {
            comment.object == object && comment.class == class && comment.sub == sub
        })
    }

    /// Comments by their ids.
    #[must_use]
    pub fn comments_by_id(&self) -> Vec<&Arc<Comment>> {
        let mut all: Vec<_> = self.comments.values().collect();
        all.sort_unstable_by_key(|comment| comment.id);
        all
    }
}
