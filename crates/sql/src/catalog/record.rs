//! A definition as a row of `springhead.definitions`, and its digest.
//!
//! The row of a dropped definition stays, with action `drop`: devices that were away learn of the
//! drop from it, and the highest id ever used stays known.

use serde::{Deserialize, Serialize};
use springhead_proto::{CollectionId, ErrorCode, RowRef, SqlError, Value, ValueRef};

use super::{Definition, QualifiedName};
use crate::plan::{Ddl, DefinitionAction};

/// A row of `springhead.definitions`: what a DEFINITION change carries as its `after`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinitionRecord {
    /// The object's id, unique among all kinds.
    pub id: u32,
    /// `table`, `sequence`, `view`, `function`, `procedure`, `trigger`,
    /// `enum`, `domain`, `comment`.
    pub kind: String,
    /// `schema.name`, without the schema for `public`.
    pub name: String,
    /// The name of the table it concerns; `None` for what concerns no table.
    pub collection: Option<String>,
    /// The statement as its author wrote it.
    pub sql: String,
    pub payload: DefinitionPayload,
    pub action: DefinitionAction,
    /// The catalog version that it made.
    pub catalog_version: u64,
    /// Digest of the definition ([`Definition::hash`]).
    pub hash: String,
}

/// The `payload` column, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefinitionPayload {
    /// After a put: the new form. For a drop: the last form.
    pub definition: Definition,
    /// [`super::Catalog::next_id`] after the statement.
    pub next_id: u32,
    /// The exact SQLite statements that replay runs, in order: those of the whole DDL statement are
    /// in its first definition's record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub statements: Vec<String>,
    /// Whether `statements` rebuild a table ([`Ddl::rebuilds`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rebuilds: bool,
    /// Whether rows of this table get other values by them in columns that they had
    /// ([`Ddl::converts`]): the log has no images of that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub converts: bool,
}

impl DefinitionRecord {
    /// The records of one DDL statement, in the order of its changes.
    #[must_use]
    pub fn of(ddl: &Ddl) -> Vec<DefinitionRecord> {
        let mut records: Vec<DefinitionRecord> = ddl
            .changes
            .iter()
            .map(|change| DefinitionRecord {
                id: change.definition.id(),
                kind: change.definition.kind().to_owned(),
                name: crate::plan::display_name(change.definition.name()),
                collection: match &change.definition {
                    Definition::Table(table) => Some(crate::plan::display_name(&table.name)),
                    _ => None,
                },
                sql: ddl.source.clone(),
                payload: DefinitionPayload {
                    definition: change.definition.clone(),
                    next_id: ddl.catalog.next_id,
                    statements: Vec::new(),
                    rebuilds: false,
                    converts: ddl.converts.contains(&change.collection),
                },
                action: change.action,
                catalog_version: ddl.catalog.version,
                hash: change.definition.hash(),
            })
            .collect();
        if let Some(first) = records.first_mut() {
            first.payload.statements.clone_from(&ddl.statements);
            first.payload.rebuilds = ddl.rebuilds;
        }
        records
    }

    /// Its values in the storage order of `springhead.definitions`.
    #[must_use]
    pub fn values(&self) -> Vec<Value> {
        let payload = serde_json::to_string(&self.payload).expect("a definition is plain data");
        vec![
            Value::Integer(i64::from(self.id)),
            Value::Text(self.kind.clone()),
            Value::Text(self.name.clone()),
            self.collection.clone().map_or(Value::Null, Value::Text),
            Value::Text(self.sql.clone()),
            Value::Text(payload),
            Value::Text(self.action.word().to_owned()),
            Value::Integer(i64::try_from(self.catalog_version).expect("versions count statements")),
            Value::Text(self.hash.clone()),
        ]
    }

    /// Reads a row of `springhead.definitions`.
    ///
    /// # Errors
    /// XX001 if the row is none or its payload cannot be read: a newer version wrote it, or it is
    /// damaged.
    pub fn from_row(row: RowRef<'_>) -> Result<DefinitionRecord, SqlError> {
        let values: Vec<ValueRef<'_>> = row.values().collect();
        DefinitionRecord::from_values(&values)
    }

    /// As [`DefinitionRecord::from_row`], from the row's values in storage order.
    ///
    /// # Errors
    /// XX001, as there.
    pub fn from_values(values: &[ValueRef<'_>]) -> Result<DefinitionRecord, SqlError> {
        let &[
            ValueRef::Integer(id),
            ValueRef::Text(kind),
            ValueRef::Text(name),
            collection,
            ValueRef::Text(sql),
            ValueRef::Text(payload),
            ValueRef::Text(action),
            ValueRef::Integer(catalog_version),
            ValueRef::Text(hash),
        ] = values
        else {
            return Err(damaged("its values have other types"));
        };
        let payload: DefinitionPayload = serde_json::from_str(payload)
            .map_err(|error| damaged(&format!("its payload: {error}")))?;
        if payload.definition.hash() != hash {
            return Err(damaged("its digest does not match"));
        }
        Ok(DefinitionRecord {
            id: u32::try_from(id).map_err(|_| damaged("its id is out of range"))?,
            kind: kind.to_owned(),
            name: name.to_owned(),
            collection: match collection {
                ValueRef::Text(collection) => Some(collection.to_owned()),
                _ => None,
            },
            sql: sql.to_owned(),
            payload,
            action: DefinitionAction::from_word(action)
                .ok_or_else(|| damaged("its action is unknown"))?,
            catalog_version: u64::try_from(catalog_version)
                .map_err(|_| damaged("its version is negative"))?,
            hash: hash.to_owned(),
        })
    }
}

fn damaged(what: &str) -> SqlError {
    SqlError::new(
        ErrorCode::Corrupted,
        format!("unreadable definition: {what}"),
    )
}

impl DefinitionAction {
    /// Its word in the `action` column.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            DefinitionAction::Put => "put",
            DefinitionAction::Drop => "drop",
        }
    }

    /// The action with this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<DefinitionAction> {
        [DefinitionAction::Put, DefinitionAction::Drop]
            .into_iter()
            .find(|action| action.word() == word)
    }
}

impl Definition {
    /// The object's id, unique among all kinds.
    #[must_use]
    pub const fn id(&self) -> u32 {
        match self {
            Definition::Table(table) => table.id,
            Definition::Sequence(sequence) => sequence.id,
            Definition::View(view) => view.id,
            Definition::Routine(routine) => routine.id,
            Definition::Trigger(trigger) => trigger.id,
            Definition::Schema(schema) => schema.id,
            Definition::Type(user) => user.id,
            Definition::Comment(comment) => comment.id,
        }
    }

    #[must_use]
    pub const fn name(&self) -> &QualifiedName {
        match self {
            Definition::Table(table) => &table.name,
            Definition::Sequence(sequence) => &sequence.name,
            Definition::View(view) => &view.name,
            Definition::Routine(routine) => &routine.name,
            Definition::Trigger(trigger) => &trigger.name,
            Definition::Schema(schema) => &schema.name,
            Definition::Type(user) => &user.name,
            Definition::Comment(comment) => &comment.name,
        }
    }

    /// Its access part.
    pub fn access_mut(&mut self) -> Option<&mut super::Access> {
        Some(match self {
            Definition::Table(table) => &mut table.access,
            Definition::Sequence(sequence) => &mut sequence.access,
            Definition::View(view) => &mut view.access,
            Definition::Schema(schema) => &mut schema.access,
            Definition::Type(user) => &mut user.access,
            Definition::Routine(routine) => &mut routine.access,
            Definition::Trigger(_) | Definition::Comment(_) => return None,
        })
    }

    /// The word in the `type` column.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Definition::Table(_) => "table",
            Definition::Sequence(_) => "sequence",
            Definition::View(_) => "view",
            Definition::Routine(routine) => routine.kind(),
            Definition::Trigger(_) => "trigger",
            Definition::Schema(_) => "schema",
            Definition::Type(user) => match user.kind {
                super::UserTypeKind::Enum(_) => "enum",
                super::UserTypeKind::Domain(_) => "domain",
            },
            Definition::Comment(_) => "comment",
        }
    }

    /// The table it is, or [`CollectionId::NONE`].
    #[must_use]
    pub const fn collection(&self) -> CollectionId {
        match self {
            Definition::Table(table) => CollectionId(table.id),
            _ => CollectionId::NONE,
        }
    }

    /// Digest of its content: 32 hexadecimal digits.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut digest = Digest::new();
        digest.add(&self.json());
        digest.text()
    }

    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("a definition is plain data")
    }
}

/// FNV-1a, 128 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>): stable over versions and
/// machines, and short to state.
pub(super) struct Digest(u128);

impl Digest {
    pub(super) const fn new() -> Digest {
        Digest(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    /// Adds a text and its end, so that two texts never run into one.
    pub(super) fn add(&mut self, text: &str) {
        for &byte in text.as_bytes().iter().chain(&[0xff]) {
            self.0 ^= u128::from(byte);
            self.0 = self
                .0
                .wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }

    pub(super) fn text(&self) -> String {
        format!("{:032x}", self.0)
    }
}
