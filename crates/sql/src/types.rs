//! PostgreSQL's types, how each is stored in SQLite, and its texts.

use serde::{Deserialize, Serialize};

/// A column's or expression's PostgreSQL type.
///
/// Storage class in SQLite: `Bool` and the integers INTEGER; floats REAL; `Numeric` with a
/// precision of at most 18 INTEGER scaled by 10^scale, any other an order-preserving BLOB; text
/// types, `Uuid` (lower case), `Json` (as written) and `Jsonb` (normalised) TEXT; `Bytea` BLOB;
/// `Date`, `Time`, `Timestamp`, `Timestamptz` INTEGER microseconds (since 1970-01-01T00:00:00Z, or
/// since midnight); `Interval` an order-preserving BLOB; arrays JSON in TEXT.
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
    /// `None`: without a precision, any number of digits.
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
    /// A literal or parameter whose type the context has not decided.
    Unknown,
}
