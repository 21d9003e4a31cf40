//! A device's write.
//!
//! On the wire a push says once what its mutations have in common, and each mutation the rest; see
//! [`super::message::Push`]. An operation is a map with its collection, its document's key and one
//! verb:
//!
//! ```text
//! {"in": "todos", "id": [7], "set": {"title": "milk"}}
//! {"in": "todos", "id": [7], "inc": {"votes": 1}}
//! {"in": "todos", "id": [7], "delete": true}
//! {"in": "notes", "id": [3], "crdt": {"body": bin}}
//! ```

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{CatalogVersion, Generation, Hlc, MutationId, ProducerId, Seq, SyncValue};
use crate::Cursor;

/// One write of a device: atomic, decided once.
#[derive(Debug, Clone, PartialEq)]
pub struct Mutation {
    pub producer: ProducerId,
    pub generation: Generation,
    pub seq: Seq,
    /// What of the server the device had seen when it made it; `0` without an epoch for nothing.
    pub base: Cursor,
    /// The definitions that the device had then.
    pub schema_version: CatalogVersion,
    /// Mutations that this one makes no sense without: rejected with them.
    pub after: Vec<MutationId>,
    /// When it was made; for tables whose conflicts the clock decides. Others may do without.
    pub hlc: Option<Hlc>,
    /// What it does, in order. Never empty.
    pub operations: Vec<Operation>,
}

impl Mutation {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> MutationId {
        MutationId {
            producer: self.producer,
            generation: self.generation,
            seq: self.seq,
        }
    }

    /// A number that two mutations share only if they do the same at the same time of a device's clock,
    /// where they have one: how a server that has decided this seq already tells a repeated push from a
    /// copied device's other write.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut bytes = super::body::to_bytes(&self.operations);
        if let Some(hlc) = self.hlc {
            bytes.extend_from_slice(&hlc.0.to_le_bytes());
        }
        super::fnv1a(&bytes)
    }
}

/// Columns by name with values, in the order given.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ColumnValues(pub Vec<(String, SyncValue)>);

impl ColumnValues {
    /// The value of `column`, if it is here.
    #[must_use]
    pub fn get(&self, column: &str) -> Option<&SyncValue> {
        self.0
            .iter()
            .find(|(name, _)| name == column)
            .map(|(_, value)| value)
    }

    /// Puts `value` in place of what `column` had, or adds it.
    pub fn put(&mut self, column: &str, value: SyncValue) {
        match self.0.iter_mut().find(|(name, _)| name == column) {
            Some((_, held)) => *held = value,
            None => self.0.push((column.to_owned(), value)),
        }
    }
}

impl<N: Into<String>, V: Into<SyncValue>> FromIterator<(N, V)> for ColumnValues {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(columns: I) -> ColumnValues {
        ColumnValues(
            columns
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

/// What a mutation does to one document.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// The collection's name; of another schema than `public` with it and a dot before.
    pub collection: String,
    /// The document's key: the values of the primary key's columns, in its order. Never empty.
    pub id: Vec<SyncValue>,
    pub verb: Verb,
}

/// See [`Operation`]. No verb but `Insert` makes a document, and none changes a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Verb {
    /// A new document. The key's columns are in `id` and may be left out here; other columns that
    /// are left out get their default.
    Insert(ColumnValues),
    /// These columns, whatever they were.
    Set(ColumnValues),
    Delete,
    /// Adds to numbers, a negative one to take away; NULL counts as 0.
    Inc(ColumnValues),
    /// The lower of what is there and this; NULL is nothing.
    Min(ColumnValues),
    /// The greater of what is there and this; NULL is nothing.
    Max(ColumnValues),
    /// Elements that an array (or a JSON array) has from now on, each once, new ones at the end.
    SetAdd(Vec<(String, Vec<SyncValue>)>),
    /// Elements that it no longer has.
    SetRemove(Vec<(String, Vec<SyncValue>)>),
    /// Updates of CRDT columns, as their library encodes them.
    Crdt(Vec<(String, Vec<u8>)>),
}

impl Verb {
    /// Its word on the wire.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Verb::Insert(_) => "insert",
            Verb::Set(_) => "set",
            Verb::Delete => "delete",
            Verb::Inc(_) => "inc",
            Verb::Min(_) => "min",
            Verb::Max(_) => "max",
            Verb::SetAdd(_) => "add",
            Verb::SetRemove(_) => "remove",
            Verb::Crdt(_) => "crdt",
        }
    }
}

/// [`Operation`] as it is on the wire: one of the verbs.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireOperation {
    #[serde(rename = "in")]
    collection: String,
    id: Vec<SyncValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    insert: Option<ColumnValues>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    set: Option<ColumnValues>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delete: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inc: Option<ColumnValues>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    min: Option<ColumnValues>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max: Option<ColumnValues>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    add: Option<Named<Vec<SyncValue>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remove: Option<Named<Vec<SyncValue>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crdt: Option<Named<SyncValue>>,
}

impl Serialize for Operation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut wire = WireOperation {
            collection: self.collection.clone(),
            id: self.id.clone(),
            ..WireOperation::default()
        };
        match self.verb.clone() {
            Verb::Insert(columns) => wire.insert = Some(columns),
            Verb::Set(columns) => wire.set = Some(columns),
            Verb::Delete => wire.delete = Some(true),
            Verb::Inc(columns) => wire.inc = Some(columns),
            Verb::Min(columns) => wire.min = Some(columns),
            Verb::Max(columns) => wire.max = Some(columns),
            Verb::SetAdd(columns) => wire.add = Some(Named(columns)),
            Verb::SetRemove(columns) => wire.remove = Some(Named(columns)),
            Verb::Crdt(updates) => {
                let blobs = updates
                    .into_iter()
                    .map(|(column, update)| (column, SyncValue::Blob(update)));
                wire.crdt = Some(Named(blobs.collect()));
            }
        }
        wire.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Operation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Operation, D::Error> {
        let wire = WireOperation::deserialize(deserializer)?;
        if wire.collection.is_empty() || wire.id.is_empty() {
            return Err(D::Error::custom("an operation names its collection and id"));
        }
        let crdt = wire.crdt.map(updates).transpose();
        let delete = match wire.delete {
            Some(false) => return Err(D::Error::custom("delete is true or absent")),
            other => other,
        };
        let verbs = [
            wire.insert.map(Verb::Insert),
            wire.set.map(Verb::Set),
            delete.map(|_| Verb::Delete),
            wire.inc.map(Verb::Inc),
            wire.min.map(Verb::Min),
            wire.max.map(Verb::Max),
            wire.add.map(|columns| Verb::SetAdd(columns.0)),
            wire.remove.map(|columns| Verb::SetRemove(columns.0)),
            crdt.map_err(D::Error::custom)?.map(Verb::Crdt),
        ];
        let mut verbs = verbs.into_iter().flatten();
        match (verbs.next(), verbs.next()) {
            (Some(verb), None) => Ok(Operation {
                collection: wire.collection,
                id: wire.id,
                verb,
            }),
            _ => Err(D::Error::custom("an operation has exactly one verb")),
        }
    }
}

fn updates(wire: Named<SyncValue>) -> Result<Vec<(String, Vec<u8>)>, &'static str> {
    wire.0
        .into_iter()
        .map(|(column, update)| match update {
            SyncValue::Blob(bytes) => Ok((column, bytes)),
            _ => Err("a CRDT update is bytes"),
        })
        .collect()
}

/// A map by name that keeps its order and refuses a name twice.
struct Named<V>(Vec<(String, V)>);

impl<V: Serialize> Serialize for Named<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Named<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Named<V>, D::Error> {
        struct Visitor<V>(std::marker::PhantomData<V>);
        impl<'de, V: Deserialize<'de>> serde::de::Visitor<'de> for Visitor<V> {
            type Value = Named<V>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("columns by name")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Named<V>, A::Error> {
                let mut columns = Vec::new();
                let mut names = std::collections::HashSet::new();
                while let Some((name, value)) = map.next_entry::<String, V>()? {
                    if !names.insert(name.clone()) {
                        return Err(A::Error::custom(format!("column {name:?} is given twice")));
                    }
                    columns.push((name, value));
                }
                Ok(Named(columns))
            }
        }
        deserializer.deserialize_map(Visitor(std::marker::PhantomData))
    }
}

impl Serialize for ColumnValues {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de> Deserialize<'de> for ColumnValues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ColumnValues, D::Error> {
        Named::deserialize(deserializer).map(|columns| ColumnValues(columns.0))
    }
}
