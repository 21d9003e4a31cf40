//! One value on the sync wire.
//!
//! Not the storage value: what a timestamp or a numeric looks like in SQLite is this server's own
//! business. It is the value that a change event has in its JSON, in the nearest MessagePack type:
//!
//! | PostgreSQL's type | on the wire |
//! | --- | --- |
//! | any, NULL | nil |
//! | boolean | boolean |
//! | smallint, integer, bigint, oid | integer |
//! | real, double precision | float 64 |
//! | bytea | bin |
//! | json, jsonb, arrays | string: JSON text |
//! | all others (text, numeric, date, time, timestamps, interval, uuid, …) | string: PostgreSQL's text in ISO form, timestamptz in UTC, as `row_to_json` prints it |
//!
//! Whoever reads a value into a column takes any form that means one of the column's: an integer for
//! a double precision, a string `"42"` for an integer. `sql` has the two conversions.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// See the module.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum SyncValue {
    #[default]
    Null,
    Bool(bool),
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

impl SyncValue {
    /// Whether this is SQL's NULL.
    #[must_use]
    pub const fn is_null(&self) -> bool {
        matches!(self, SyncValue::Null)
    }

    /// Roughly what it takes on the wire.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        match self {
            SyncValue::Null | SyncValue::Bool(_) => 1,
            SyncValue::Integer(_) | SyncValue::Real(_) => 9,
            SyncValue::Text(text) => text.len() + 5,
            SyncValue::Blob(bytes) => bytes.len() + 5,
        }
    }
}

/// For people and for texts such as a violation's: without quotes, a blob as `\x…`.
impl fmt::Display for SyncValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SyncValue::Null => f.write_str("NULL"),
            SyncValue::Bool(value) => value.fmt(f),
            SyncValue::Integer(value) => value.fmt(f),
            SyncValue::Real(value) => value.fmt(f),
            SyncValue::Text(text) => f.write_str(text),
            SyncValue::Blob(bytes) => {
                f.write_str("\\x")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl From<i64> for SyncValue {
    fn from(value: i64) -> SyncValue {
        SyncValue::Integer(value)
    }
}

impl From<&str> for SyncValue {
    fn from(text: &str) -> SyncValue {
        SyncValue::Text(text.to_owned())
    }
}

impl From<bool> for SyncValue {
    fn from(value: bool) -> SyncValue {
        SyncValue::Bool(value)
    }
}

impl Serialize for SyncValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return human::serialize(self, serializer);
        }
        match self {
            SyncValue::Null => serializer.serialize_unit(),
            SyncValue::Bool(value) => serializer.serialize_bool(*value),
            SyncValue::Integer(value) => serializer.serialize_i64(*value),
            SyncValue::Real(value) => serializer.serialize_f64(*value),
            SyncValue::Text(text) => serializer.serialize_str(text),
            SyncValue::Blob(bytes) => serializer.serialize_bytes(bytes),
        }
    }
}

impl<'de> Deserialize<'de> for SyncValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SyncValue, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = SyncValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("null, a boolean, a number, a string or bytes")
    }

    fn visit_unit<E>(self) -> Result<SyncValue, E> {
        Ok(SyncValue::Null)
    }

    fn visit_none<E>(self) -> Result<SyncValue, E> {
        Ok(SyncValue::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<SyncValue, D::Error> {
        SyncValue::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<SyncValue, E> {
        Ok(SyncValue::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<SyncValue, E> {
        Ok(SyncValue::Integer(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<SyncValue, E> {
        i64::try_from(value)
            .map(SyncValue::Integer)
            .map_err(|_| E::custom("an integer is over 64 bits with sign; send it as text"))
    }

    fn visit_f64<E>(self, value: f64) -> Result<SyncValue, E> {
        Ok(SyncValue::Real(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<SyncValue, E> {
        Ok(SyncValue::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<SyncValue, E> {
        Ok(SyncValue::Text(text))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<SyncValue, E> {
        Ok(SyncValue::Blob(bytes.to_vec()))
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<SyncValue, E> {
        Ok(SyncValue::Blob(bytes))
    }

    /// The JSON form of what JSON has no type for: `{"$bytes":"00ff"}`, `{"$int":"9007199254740993"}`,
    /// `{"$real":"1"}`.
    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<SyncValue, A::Error> {
        human::visit_map(map)
    }
}

/// JSON, for dead letters, golden twins and people: a number with a fraction or an exponent is a real,
/// any other an integer; where that would lose something, an object with one key says the type.
mod human {
    use serde::de::{Error as _, MapAccess};
    use serde::ser::SerializeMap;
    use serde::{Serialize, Serializer};

    use super::SyncValue;
    use crate::sync::text::{from_hex, to_hex};

    /// Integers that every JSON reader keeps.
    const SAFE_INTEGER: i64 = (1 << 53) - 1;

    pub(super) fn serialize<S: Serializer>(
        value: &SyncValue,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let tagged = |serializer: S, tag: &str, text: &str| {
            let mut map = serializer.serialize_map(Some(1))?;
            map.serialize_entry(tag, text)?;
            map.end()
        };
        match value {
            SyncValue::Null => serializer.serialize_unit(),
            SyncValue::Bool(value) => value.serialize(serializer),
            SyncValue::Integer(value) if value.unsigned_abs() <= SAFE_INTEGER.unsigned_abs() => {
                value.serialize(serializer)
            }
            SyncValue::Integer(value) => tagged(serializer, "$int", &value.to_string()),
            SyncValue::Real(value) if value.is_finite() && value.fract() != 0.0 => {
                value.serialize(serializer)
            }
            SyncValue::Real(value) => tagged(serializer, "$real", &value.to_string()),
            SyncValue::Text(text) => text.serialize(serializer),
            SyncValue::Blob(bytes) => tagged(serializer, "$bytes", &to_hex(bytes)),
        }
    }

    pub(super) fn visit_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<SyncValue, A::Error> {
        let (tag, text) = map
            .next_entry::<String, String>()?
            .ok_or_else(|| A::Error::custom("an empty object is no value"))?;
        let bad = |what: &str| A::Error::custom(format!("{text:?} is no {what}"));
        let value = match tag.as_str() {
            "$bytes" => SyncValue::Blob(from_hex(&text).ok_or_else(|| bad("hexadecimal bytes"))?),
            "$int" => SyncValue::Integer(text.parse().map_err(|_| bad("integer"))?),
            "$real" => SyncValue::Real(text.parse().map_err(|_| bad("number"))?),
            _ => return Err(A::Error::custom(format!("{tag:?} is no type of value"))),
        };
        match map.next_key::<String>()? {
            None => Ok(value),
            Some(_) => Err(A::Error::custom("a value's object has one key")),
        }
    }
}
