//! What could be done about a rejected mutation: for people as facts, for machines as fixes.
//!
//! A hint never shows the contents of a row that the author may not read; what the author sent may be
//! echoed. For `policy` and `permission_denied` there is none beyond the violation itself.

use serde::{Deserialize, Serialize};

use super::{ColumnValues, SyncValue};

/// See the module. In JSON, as `compensation` of a dead letter has it:
/// `{"kind":"unique","column":"title","value":"milk (2)","fixes":[{"fix":"set_column",…}]}`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Hint {
    #[serde(flatten)]
    pub kind: HintKind,
    /// Each alone would let the mutation commit, as things stood when it was rejected; the best
    /// first. Empty where a machine cannot know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fixes: Vec<Fix>,
}

/// The facts, by violation.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum HintKind {
    /// Nothing more to say.
    #[default]
    None,
    /// A value that would commit in place of the one that is taken.
    Unique {
        column: String,
        value: SyncValue,
    },
    /// The row that has to be there first.
    ForeignKey {
        column: String,
        collection: String,
        columns: ColumnValues,
    },
    /// The column that needs a value, and its default if it has one.
    NotNull {
        column: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        default: Option<SyncValue>,
    },
    /// The constraint's condition, and the bounds that it sets to one column where that is its form.
    Check {
        constraint: String,
        text: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        column: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min: Option<SyncValue>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max: Option<SyncValue>,
    },
    /// The type that the column takes, by its SQL name.
    Type {
        column: String,
        expected: String,
    },
    /// Fetch the definitions and make the mutation again.
    SchemaStale {
        catalog_version: u64,
    },
    TooLarge {
        limit_bytes: u64,
    },
}

/// Something a machine can do to a rejected mutation before it is pushed again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fix", rename_all = "snake_case")]
pub enum Fix {
    /// In the operation at this place (from 0): the column gets this value.
    SetColumn {
        operation: u32,
        column: String,
        value: SyncValue,
    },
    /// Before the mutation: insert this row.
    CreateRow {
        collection: String,
        columns: ColumnValues,
    },
    /// In the operation at this place: leave the column as it is.
    DropColumn { operation: u32, column: String },
    /// Fetch the definitions, then push it again.
    ResyncDefinitions,
}
