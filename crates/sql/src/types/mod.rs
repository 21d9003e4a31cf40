//! PostgreSQL's types, how each is stored in SQLite, and its texts.
//!
//! `engine` converts parameters and literals with [`input`] before it binds them, `server` prints
//! results with [`output_text`], [`output_json`] and [`output_binary`]; the functions of
//! [`crate::functions`] do the same inside a statement. A value's storage form follows from its type
//! alone, so a type and a [`ValueRef`] are all that is ever needed.
//!
//! # Storage forms
//!
//! | type | SQLite | form |
//! | --- | --- | --- |
//! | boolean | INTEGER | 0 or 1 |
//! | smallint, integer, bigint, oid | INTEGER | itself |
//! | real, double precision | REAL | itself; a `real` is always exactly a 32-bit float. `NaN`, which SQLite turns into NULL, is refused (0A000) |
//! | numeric(p ≤ 18, s) | INTEGER | value × 10^s; `i64::MAX` is `NaN` |
//! | any other numeric | BLOB | [`numeric`]: memcmp order, then two bytes of display scale |
//! | text, varchar, name, char(n) | TEXT | itself; char(n) padded with blanks |
//! | bytea | BLOB | itself |
//! | date, timestamp, timestamptz | INTEGER | microseconds since 1970-01-01T00:00:00Z (date: at midnight), so that they compare with each other; `i64::MAX` and `i64::MIN` are `infinity` and `-infinity` |
//! | time | INTEGER | microseconds since midnight |
//! | interval | BLOB | [`interval`]: 16 bytes in memcmp order, then 16 bytes of fields |
//! | uuid | TEXT | lower case, with hyphens |
//! | enums | TEXT | the label ([`user`]) |
//! | domains | | as their base types |
//! | json | TEXT | as written |
//! | jsonb | TEXT | normalised, exactly as PostgreSQL prints it |
//! | rows ([`record`]) | TEXT | as PostgreSQL prints them |
//! | arrays | TEXT | a compact JSON array of the elements' JSON forms |
//!
//! Values of numeric (BLOB), interval, jsonb and char(n) can be equal without being the same bytes
//! (`1.5 = 1.50`, `1 day = 24:00:00`). Where equality decides (=, GROUP BY, DISTINCT, UNIQUE, joins)
//! and for exact order, wrap the operands in [`PgType::key_function`].

pub mod array;
pub mod binary;
pub mod bytea;
pub mod datetime;
pub mod float;
pub mod interval;
pub mod json;
pub mod json_in;
mod names;
pub mod numeric;
pub mod precise;
pub mod record;
pub mod reg;
pub mod text;
pub mod user;
pub mod uuid;

use serde::{Deserialize, Serialize};

pub use binary::{input_binary, output_binary};
pub use json_in::input_json;
pub(crate) use names::bad_modifier;
pub use precise::Moment;
pub use reg::Reg;
pub use text::{input, input_explicit, output_json, output_text};
pub use user::{DomainRef, EnumRef, Labels};

#[cfg(doc)]
use springhead_proto::ValueRef;

/// The greatest precision of a numeric that is stored as a scaled INTEGER.
pub const SCALED_PRECISION: u16 = 18;

/// A column's or expression's PostgreSQL type; its storage form is in the module's table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PgType {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    /// Precision and scale; `None`: any number of digits.
    Numeric(Option<(u16, u16)>),
    Text,
    Varchar(Option<u32>),
    /// char(n), blank-padded.
    Char(u32),
    Name,
    Bytea,
    Date,
    Time,
    Timestamp,
    Timestamptz,
    Interval,
    Uuid,
    Json,
    Jsonb,
    Array(Box<PgType>),
    /// The catalogs' one-byte `"char"`.
    InternalChar,
    /// The catalogs' arrays whose subscripts start at 0, stored as other arrays are.
    Int2Vector,
    OidVector,
    /// An object id that is shown by name.
    Reg(Reg),
    /// A time, timestamp or interval with fewer than six digits of seconds: of columns and as a
    /// cast's target. A value's type is the plain one.
    Precise(Moment, u8),
    Enum(EnumRef),
    /// Of columns, arguments and as a cast's target. A value's type is the base type.
    Domain(DomainRef),
    /// A literal or parameter whose type the context has not decided.
    Unknown,
    /// The result of a function called for its effect (`pg_notify`).
    Void,
    /// A row as a value, and its fields' types; none of them where only its text matters.
    Record(Vec<PgType>),
}

/// A column type of SQLite's STRICT tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageClass {
    Integer,
    Real,
    Text,
    Blob,
}

impl StorageClass {
    /// The word in a STRICT table's column definition.
    #[must_use]
    pub const fn sqlite_type(self) -> &'static str {
        match self {
            StorageClass::Integer => "INTEGER",
            StorageClass::Real => "REAL",
            StorageClass::Text => "TEXT",
            StorageClass::Blob => "BLOB",
        }
    }
}

/// PostgreSQL's type categories, for overload resolution (`pg_type.typcategory`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Category {
    Array,
    Boolean,
    DateTime,
    Enum,
    Numeric,
    Pseudo,
    String,
    Timespan,
    User,
    Unknown,
}

impl PgType {
    /// Its object id in `pg_type`.
    #[must_use]
    pub const fn oid(&self) -> u32 {
        match self {
            PgType::Bool => 16,
            PgType::Bytea => 17,
            PgType::InternalChar => 18,
            PgType::Name => 19,
            PgType::Int8 => 20,
            PgType::Int2 => 21,
            PgType::Int2Vector => 22,
            PgType::Int4 => 23,
            PgType::OidVector => 30,
            PgType::Reg(reg) => reg.oid(),
            PgType::Text => 25,
            PgType::Oid => 26,
            PgType::Json => 114,
            PgType::Float4 => 700,
            PgType::Float8 => 701,
            PgType::Unknown => 705,
            PgType::Char(_) => 1042,
            PgType::Varchar(_) => 1043,
            PgType::Date => 1082,
            PgType::Time => 1083,
            PgType::Timestamp => 1114,
            PgType::Timestamptz => 1184,
            PgType::Interval => 1186,
            PgType::Numeric(_) => 1700,
            PgType::Void => 2278,
            PgType::Record(_) => 2249,
            PgType::Uuid => 2950,
            PgType::Jsonb => 3802,
            PgType::Array(element) => element.array_oid(),
            PgType::Precise(moment, _) => moment.oid(),
            PgType::Enum(user) => user.oid(),
            PgType::Domain(user) => user.oid(),
        }
    }

    /// The object id of the array type over it; 0 if there is none.
    #[must_use]
    pub const fn array_oid(&self) -> u32 {
        match self {
            PgType::Bool => 1000,
            PgType::Bytea => 1001,
            PgType::InternalChar => 1002,
            PgType::Int2Vector => 1006,
            PgType::OidVector => 1013,
            PgType::Reg(reg) => reg.array_oid(),
            PgType::Name => 1003,
            PgType::Int2 => 1005,
            PgType::Int4 => 1007,
            PgType::Text => 1009,
            PgType::Char(_) => 1014,
            PgType::Varchar(_) => 1015,
            PgType::Int8 => 1016,
            PgType::Float4 => 1021,
            PgType::Float8 => 1022,
            PgType::Oid => 1028,
            PgType::Timestamp => 1115,
            PgType::Date => 1182,
            PgType::Time => 1183,
            PgType::Timestamptz => 1185,
            PgType::Interval => 1187,
            PgType::Numeric(_) => 1231,
            PgType::Json => 199,
            PgType::Uuid => 2951,
            PgType::Jsonb => 3807,
            // PostgreSQL's arrays have one type whatever their dimensions.
            PgType::Array(element) => element.array_oid(),
            PgType::Precise(moment, _) => moment.array_oid(),
            PgType::Enum(user) => user.array_oid(),
            PgType::Domain(user) => user.array_oid(),
            PgType::Record(_) => 2287,
            PgType::Unknown | PgType::Void => 0,
        }
    }

    /// The type modifier as `pg_attribute.atttypmod` and the protocol show it; -1 for none.
    #[must_use]
    pub const fn typmod(&self) -> i32 {
        match self {
            PgType::Numeric(Some((precision, scale))) => {
                (((*precision as i32) << 16) | *scale as i32) + 4
            }
            PgType::Varchar(Some(length)) | PgType::Char(length) => length.cast_signed() + 4,
            PgType::Precise(moment, digits) => moment.typmod(*digits),
            PgType::Array(element) => element.typmod(),
            _ => -1,
        }
    }

    /// `pg_type.typlen`: bytes of the binary form, -1 if they vary.
    #[must_use]
    pub const fn size(&self) -> i16 {
        match self {
            PgType::Bool | PgType::InternalChar => 1,
            PgType::Int2 => 2,
            PgType::Int4
            | PgType::Oid
            | PgType::Reg(_)
            | PgType::Float4
            | PgType::Date
            | PgType::Void => 4,
            PgType::Int8
            | PgType::Float8
            | PgType::Time
            | PgType::Timestamp
            | PgType::Timestamptz => 8,
            PgType::Interval | PgType::Uuid => 16,
            PgType::Name => 64,
            PgType::Precise(Moment::Interval, _) => 16,
            PgType::Precise(..) => 8,
            PgType::Domain(user) => user.base().size(),
            PgType::Enum(_) => 4,
            PgType::Unknown => -2,
            _ => -1,
        }
    }

    /// The type with that object id and modifier; `None` if it is not supported.
    #[must_use]
    pub fn from_oid(oid: u32, typmod: i32) -> Option<PgType> {
        let length = || u32::try_from(typmod - 4).ok();
        Some(match oid {
            16 => PgType::Bool,
            17 => PgType::Bytea,
            18 => PgType::InternalChar,
            19 => PgType::Name,
            20 => PgType::Int8,
            21 => PgType::Int2,
            22 => PgType::Int2Vector,
            23 => PgType::Int4,
            30 => PgType::OidVector,
            25 => PgType::Text,
            26 => PgType::Oid,
            114 => PgType::Json,
            700 => PgType::Float4,
            701 => PgType::Float8,
            705 => PgType::Unknown,
            1042 => PgType::Char(length().unwrap_or(1)),
            1043 => PgType::Varchar(length()),
            1082 => PgType::Date,
            1083 => Moment::Time.with_typmod(typmod),
            1114 => Moment::Timestamp.with_typmod(typmod),
            1184 => Moment::Timestamptz.with_typmod(typmod),
            1186 => Moment::Interval.with_typmod(typmod),
            1700 => PgType::Numeric(length().map(|bits| {
                let [high0, high1, low0, low1] = bits.to_be_bytes();
                (
                    u16::from_be_bytes([high0, high1]),
                    u16::from_be_bytes([low0, low1]),
                )
            })),
            2249 => PgType::Record(Vec::new()),
            2278 => PgType::Void,
            2287 => PgType::Record(Vec::new()).array(),
            2950 => PgType::Uuid,
            3802 => PgType::Jsonb,
            1000 => PgType::Bool.array(),
            1001 => PgType::Bytea.array(),
            1002 => PgType::InternalChar.array(),
            1003 => PgType::Name.array(),
            1005 => PgType::Int2.array(),
            1007 => PgType::Int4.array(),
            1009 => PgType::Text.array(),
            1014 => PgType::Char(length().unwrap_or(1)).array(),
            1015 => PgType::Varchar(length()).array(),
            1016 => PgType::Int8.array(),
            1021 => PgType::Float4.array(),
            1022 => PgType::Float8.array(),
            1028 => PgType::Oid.array(),
            1115 => PgType::from_oid(1114, typmod)?.array(),
            1182 => PgType::Date.array(),
            1183 => PgType::from_oid(1083, typmod)?.array(),
            1185 => PgType::from_oid(1184, typmod)?.array(),
            1187 => PgType::from_oid(1186, typmod)?.array(),
            1231 => PgType::from_oid(1700, typmod)?.array(),
            199 => PgType::Json.array(),
            2951 => PgType::Uuid.array(),
            3807 => PgType::Jsonb.array(),
            other => {
                return Reg::from_oid(other)
                    .map(PgType::Reg)
                    .or_else(|| Reg::from_array_oid(other).map(|reg| PgType::Reg(reg).array()));
            }
        })
    }

    /// The array type over it.
    #[must_use]
    pub fn array(self) -> PgType {
        PgType::Array(Box::new(self))
    }

    /// How SQLite stores it.
    #[must_use]
    pub const fn storage_class(&self) -> StorageClass {
        match self {
            PgType::Bool
            | PgType::Int2
            | PgType::Int4
            | PgType::Int8
            | PgType::Oid
            | PgType::Reg(_)
            | PgType::Date
            | PgType::Time
            | PgType::Timestamp
            | PgType::Timestamptz => StorageClass::Integer,
            PgType::Float4 | PgType::Float8 => StorageClass::Real,
            PgType::Numeric(_) if self.scaled().is_some() => StorageClass::Integer,
            PgType::Numeric(_) | PgType::Bytea | PgType::Interval => StorageClass::Blob,
            PgType::Text
            | PgType::Varchar(_)
            | PgType::Char(_)
            | PgType::Name
            | PgType::Uuid
            | PgType::Json
            | PgType::Jsonb
            | PgType::Array(_)
            | PgType::InternalChar
            | PgType::Int2Vector
            | PgType::OidVector
            | PgType::Enum(_)
            | PgType::Record(_)
            | PgType::Unknown
            | PgType::Void => StorageClass::Text,
            PgType::Precise(Moment::Interval, _) => StorageClass::Blob,
            PgType::Precise(..) => StorageClass::Integer,
            PgType::Domain(user) => user.base().storage_class(),
        }
    }

    /// Its column type in a STRICT table.
    #[must_use]
    pub const fn sqlite_type(&self) -> &'static str {
        self.storage_class().sqlite_type()
    }

    /// The scale, if it is a numeric stored as a scaled INTEGER.
    #[must_use]
    pub const fn scaled(&self) -> Option<u16> {
        match self {
            PgType::Numeric(Some((precision, scale))) if *precision <= SCALED_PRECISION => {
                Some(*scale)
            }
            PgType::Domain(user) => user.base().scaled(),
            _ => None,
        }
    }

    /// The deterministic SQLite function that maps equal values to the same bytes, in the type's
    /// order; `None` if the stored values are that already. Wrap both operands of comparisons, keys
    /// of GROUP BY, DISTINCT, ORDER BY, joins and UNIQUE indexes in it.
    #[must_use]
    pub const fn key_function(&self) -> Option<&'static str> {
        match self {
            PgType::Numeric(None) => Some("sh_num_key"),
            PgType::Interval => Some("sh_interval_key"),
            PgType::Jsonb => Some("sh_jsonb_key"),
            PgType::Char(_) => Some("rtrim"),
            // Refuses: what is equal depends on the fields' types.
            PgType::Record(_) => Some("sh_record_key"),
            PgType::Precise(Moment::Interval, _) => Some("sh_interval_key"),
            PgType::Domain(user) => user.base().key_function(),
            _ => None,
        }
    }

    /// Its category in overload resolution.
    #[must_use]
    pub const fn category(&self) -> Category {
        match self {
            PgType::Bool => Category::Boolean,
            PgType::Int2
            | PgType::Int4
            | PgType::Int8
            | PgType::Oid
            | PgType::Reg(_)
            | PgType::Float4
            | PgType::Float8
            | PgType::Numeric(_) => Category::Numeric,
            PgType::Text
            | PgType::Varchar(_)
            | PgType::Char(_)
            | PgType::Name
            | PgType::InternalChar => Category::String,
            PgType::Date | PgType::Time | PgType::Timestamp | PgType::Timestamptz => {
                Category::DateTime
            }
            PgType::Interval => Category::Timespan,
            PgType::Array(_) | PgType::Int2Vector | PgType::OidVector => Category::Array,
            PgType::Bytea | PgType::Uuid | PgType::Json | PgType::Jsonb => Category::User,
            PgType::Enum(_) => Category::Enum,
            PgType::Precise(Moment::Interval, _) => Category::Timespan,
            PgType::Precise(..) => Category::DateTime,
            PgType::Domain(user) => user.base().category(),
            PgType::Unknown => Category::Unknown,
            PgType::Void | PgType::Record(_) => Category::Pseudo,
        }
    }

    /// Whether it is preferred within its category (`pg_type.typispreferred`).
    #[must_use]
    pub const fn is_preferred(&self) -> bool {
        matches!(
            self,
            PgType::Bool
                | PgType::Float8
                | PgType::Oid
                | PgType::Text
                | PgType::Timestamptz
                | PgType::Interval
        )
    }

    /// smallint, integer, bigint, oid.
    #[must_use]
    pub const fn is_integer(&self) -> bool {
        matches!(
            self,
            PgType::Int2 | PgType::Int4 | PgType::Int8 | PgType::Oid
        )
    }

    /// Integers, floats and numeric.
    #[must_use]
    pub const fn is_numeric(&self) -> bool {
        matches!(self.category(), Category::Numeric)
    }

    /// text, varchar, char, name and "char".
    #[must_use]
    pub const fn is_string(&self) -> bool {
        matches!(self.category(), Category::String)
    }

    /// The same type whatever the modifiers.
    #[must_use]
    pub fn same_base(&self, other: &PgType) -> bool {
        self.oid() == other.oid()
    }

    /// Without its modifier: what functions and operators see.
    #[must_use]
    pub fn without_modifier(&self) -> PgType {
        match self {
            PgType::Varchar(_) => PgType::Varchar(None),
            other => other.of_value(),
        }
    }

    /// An array's element type.
    #[must_use]
    pub fn element(&self) -> Option<&PgType> {
        match self {
            PgType::Domain(user) => user.base().element(),
            PgType::Array(element) => Some(element),
            PgType::Int2Vector => Some(&PgType::Int2),
            PgType::OidVector => Some(&PgType::Oid),
            _ => None,
        }
    }
}
