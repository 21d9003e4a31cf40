//! Types that users define, as a column's or an expression's type holds them: enums and domains.
//!
//! An enum's value is stored as its label: output, JSON, the change feed and devices need nothing
//! else, and equality is that of texts. Only order needs the labels, and the planner writes it out
//! ([`Labels::order`]). A domain's value is its base type's.
//!
//! In a definition a type is kept by its id; [`crate::catalog::Catalog`] fills in the rest
//! whenever a definition comes into it, so that a renamed type or a new label is seen at once by
//! all that use it.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use springhead_proto::{ErrorCode, SqlError};

use super::PgType;
use crate::system::oids::{self, Part};

/// An enum, by its id; two with one id are equal, whatever is known of them.
#[derive(Debug, Clone)]
pub struct EnumRef {
    id: u32,
    labels: Arc<Labels>,
}

/// What an enum is called and which values it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    pub name: String,
    /// In their order.
    pub labels: Vec<String>,
}

/// A domain, by its id, with the type that it is over.
#[derive(Debug, Clone)]
pub struct DomainRef {
    id: u32,
    base: Box<PgType>,
    name: Arc<str>,
}

impl EnumRef {
    #[must_use]
    pub fn new(id: u32, labels: Arc<Labels>) -> EnumRef {
        EnumRef { id, labels }
    }

    /// Its id in the catalog.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    #[must_use]
    pub const fn oid(&self) -> u32 {
        oids::of(self.id, Part::RowType)
    }

    #[must_use]
    pub const fn array_oid(&self) -> u32 {
        oids::of(self.id, Part::ArrayType)
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.labels.name
    }

    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Reads a label.
    ///
    /// # Errors
    /// 22P02 for what is none.
    pub fn read<'t>(&self, text: &'t str) -> Result<&'t str, SqlError> {
        if self.labels.labels.iter().any(|label| label == text) {
            Ok(text)
        } else {
            Err(no_label(&self.labels.name, text))
        }
    }
}

/// 22P02 in PostgreSQL's words.
pub(crate) fn no_label(name: &str, text: &str) -> SqlError {
    SqlError::new(
        ErrorCode::InvalidTextRepresentation,
        format!("invalid input value for enum {}: \"{text}\"", quoted(name)),
    )
}

/// A type's name as messages show it.
fn quoted(name: &str) -> String {
    crate::functions::quote_ident(name)
}

impl Labels {
    /// The SQLite expression of the place of the label `sql`, by which it is ordered.
    #[must_use]
    pub fn order(&self, sql: &str) -> String {
        use std::fmt::Write as _;
        if self.labels.is_empty() {
            return sql.to_owned();
        }
        let mut out = format!("(CASE {sql}");
        for (place, label) in self.labels.iter().enumerate() {
            let label = crate::query::names::quote_text(label);
            let _ = write!(out, " WHEN {label} THEN {place}");
        }
        out.push_str(" END)");
        out
    }

    /// The SQLite expression of the label at the place `sql`.
    #[must_use]
    pub fn at(&self, sql: &str) -> String {
        use std::fmt::Write as _;
        if self.labels.is_empty() {
            return sql.to_owned();
        }
        let mut out = format!("(CASE {sql}");
        for (place, label) in self.labels.iter().enumerate() {
            let label = crate::query::names::quote_text(label);
            let _ = write!(out, " WHEN {place} THEN {label}");
        }
        out.push_str(" END)");
        out
    }
}

impl DomainRef {
    #[must_use]
    pub fn new(id: u32, base: PgType, name: impl Into<Arc<str>>) -> DomainRef {
        DomainRef {
            id,
            base: Box::new(base),
            name: name.into(),
        }
    }

    /// Its id in the catalog.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    #[must_use]
    pub const fn oid(&self) -> u32 {
        oids::of(self.id, Part::RowType)
    }

    #[must_use]
    pub const fn array_oid(&self) -> u32 {
        oids::of(self.id, Part::ArrayType)
    }

    /// The type that it is over, which may be a domain itself.
    #[must_use]
    pub const fn base(&self) -> &PgType {
        &self.base
    }

    pub(crate) fn base_mut(&mut self) -> &mut PgType {
        &mut self.base
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl PartialEq for EnumRef {
    fn eq(&self, other: &EnumRef) -> bool {
        self.id == other.id
    }
}

impl Eq for EnumRef {}

impl Hash for EnumRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl PartialEq for DomainRef {
    fn eq(&self, other: &DomainRef) -> bool {
        self.id == other.id
    }
}

impl Eq for DomainRef {}

impl Hash for DomainRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl Serialize for EnumRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.id.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for EnumRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<EnumRef, D::Error> {
        static UNBOUND: LazyLock<Arc<Labels>> = LazyLock::new(Arc::default);
        Ok(EnumRef::new(
            u32::deserialize(deserializer)?,
            Arc::clone(&UNBOUND),
        ))
    }
}

/// A domain as it is kept: its base says how values are stored.
#[derive(Serialize, Deserialize)]
struct KeptDomain<T> {
    id: u32,
    base: T,
}

impl Serialize for DomainRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        KeptDomain {
            id: self.id,
            base: &*self.base,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for DomainRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DomainRef, D::Error> {
        let kept = KeptDomain::<PgType>::deserialize(deserializer)?;
        Ok(DomainRef::new(kept.id, kept.base, ""))
    }
}

impl PgType {
    /// The type that a value of a column of this type has: a domain's base type, a moment of any
    /// precision.
    #[must_use]
    pub fn of_value(&self) -> PgType {
        match self {
            PgType::Precise(moment, _) => moment.plain(),
            PgType::Domain(user) => user.base().of_value(),
            PgType::Array(element) if element.is_refined() => element.of_value().array(),
            other => other.clone(),
        }
    }

    /// Whether [`PgType::of_value`] is another type.
    #[must_use]
    pub fn is_refined(&self) -> bool {
        match self {
            PgType::Precise(..) | PgType::Domain(_) => true,
            PgType::Array(element) => element.is_refined(),
            _ => false,
        }
    }

    /// `oid, typmod` as functions of a statement get them, which know nothing of users' types: an
    /// enum's value is its label.
    #[must_use]
    pub fn at_run_time(&self) -> (u32, i32) {
        let shown = match self {
            PgType::Enum(_) => PgType::Text,
            PgType::Array(element) if matches!(**element, PgType::Enum(_)) => PgType::Text.array(),
            other => other.of_value(),
        };
        (shown.oid(), shown.typmod())
    }

    /// Whether a type that users define is in it.
    #[must_use]
    pub fn is_user_defined(&self) -> bool {
        match self {
            PgType::Enum(_) | PgType::Domain(_) => true,
            PgType::Array(element) => element.is_user_defined(),
            PgType::Record(fields) => fields.iter().any(PgType::is_user_defined),
            _ => false,
        }
    }

    /// The ids of the users' types in it.
    #[must_use]
    pub fn user_types(&self) -> Vec<u32> {
        match self {
            PgType::Enum(user) => vec![user.id()],
            PgType::Domain(user) => {
                let mut ids = user.base().user_types();
                ids.insert(0, user.id());
                ids
            }
            PgType::Array(element) => element.user_types(),
            PgType::Record(fields) => fields.iter().flat_map(PgType::user_types).collect(),
            _ => Vec::new(),
        }
    }
}
