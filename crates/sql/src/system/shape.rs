//! What a system relation looks like: its name, its columns, and who makes its rows.

use springhead_proto::SqlError;

use super::{Row, View, oids};
use crate::types::{PgType, Reg};

/// A relation of `pg_catalog` or `information_schema`.
#[derive(Clone, Copy)]
pub struct Relation {
    pub schema: &'static str,
    pub name: &'static str,
    /// PostgreSQL's object id; 0 where it has no fixed one.
    pub id: u32,
    pub columns: &'static [(&'static str, Kind)],
    /// Depends on more than the catalog: its rows are made for each statement.
    pub live: bool,
    pub rows: fn(&View<'_>, &mut Vec<Row>) -> Result<(), SqlError>,
}

/// A column's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Char,
    Name,
    Text,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Oid,
    Timestamptz,
    Proc,
    Type,
    Int2Vector,
    OidVector,
    Int2Array,
    OidArray,
    TextArray,
    NameArray,
    CharArray,
}

impl Kind {
    #[must_use]
    pub fn pg_type(self) -> PgType {
        match self {
            Kind::Bool => PgType::Bool,
            Kind::Char => PgType::InternalChar,
            Kind::Name => PgType::Name,
            Kind::Text => PgType::Text,
            Kind::Int2 => PgType::Int2,
            Kind::Int4 => PgType::Int4,
            Kind::Int8 => PgType::Int8,
            Kind::Float4 => PgType::Float4,
            Kind::Float8 => PgType::Float8,
            Kind::Oid => PgType::Oid,
            Kind::Timestamptz => PgType::Timestamptz,
            Kind::Proc => PgType::Reg(Reg::Proc),
            Kind::Type => PgType::Reg(Reg::Type),
            Kind::Int2Vector => PgType::Int2Vector,
            Kind::OidVector => PgType::OidVector,
            Kind::Int2Array => PgType::Int2.array(),
            Kind::OidArray => PgType::Oid.array(),
            Kind::TextArray => PgType::Text.array(),
            Kind::NameArray => PgType::Name.array(),
            Kind::CharArray => PgType::InternalChar.array(),
        }
    }

    /// Whether looking for one value of it leaves few rows.
    #[must_use]
    pub fn is_selective(self) -> bool {
        matches!(
            self,
            Kind::Oid | Kind::Name | Kind::Text | Kind::Int2 | Kind::Int4
        )
    }
}

impl Relation {
    /// Its table in SQLite.
    #[must_use]
    pub fn storage_name(&self) -> String {
        if self.schema == "pg_catalog" {
            format!("sh_sys_{}", self.name)
        } else {
            format!("sh_sys_is_{}", self.name)
        }
    }

    /// Its object id.
    #[must_use]
    pub fn oid(&self) -> u32 {
        match self.id {
            0 => oids::named(self.schema, self.name),
            id => id,
        }
    }

    /// `v` for what PostgreSQL has as a view, `r` for a table.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        if self.id == 0 { "v" } else { "r" }
    }
}

/// `relation!(schema, "name", id, live, rows, { "column": Kind, … })`.
macro_rules! relation {
    ($schema:literal, $name:literal, $id:expr, $rows:expr, { $($column:literal : $kind:ident),* $(,)? }) => {
        relation!(@ $schema, $name, $id, false, $rows, { $($column : $kind),* })
    };
    (live $schema:literal, $name:literal, $id:expr, $rows:expr, { $($column:literal : $kind:ident),* $(,)? }) => {
        relation!(@ $schema, $name, $id, true, $rows, { $($column : $kind),* })
    };
    (@ $schema:literal, $name:literal, $id:expr, $live:literal, $rows:expr, { $($column:literal : $kind:ident),* }) => {
        $crate::system::shape::Relation {
            schema: $schema,
            name: $name,
            id: $id,
            columns: &[$(($column, $crate::system::shape::Kind::$kind)),*],
            live: $live,
            rows: $rows,
        }
    };
}
pub(super) use relation;

/// A relation that has no rows here.
#[allow(
    clippy::unnecessary_wraps,
    reason = "the type that all row makers have"
)]
pub(super) fn nothing(_: &View<'_>, _: &mut Vec<Row>) -> Result<(), SqlError> {
    Ok(())
}
