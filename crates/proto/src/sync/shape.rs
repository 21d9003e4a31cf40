//! What a device holds of a collection.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::SyncValue;

/// Names a shape within one device; the device chooses it and uses it again after a reconnect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShapeId(pub u32);

impl fmt::Display for ShapeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A query on one collection. What the device's user may not see is never in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    #[serde(rename = "shape")]
    pub id: ShapeId,
    #[serde(rename = "in")]
    pub collection: String,
    /// Springhead SQL, as after WHERE, with `$1`… for `params`; may have `column IN (SELECT …)`.
    /// `None`: all rows.
    #[serde(rename = "where", default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<SyncValue>,
    /// The columns wanted; those of the key are always sent. Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
}
