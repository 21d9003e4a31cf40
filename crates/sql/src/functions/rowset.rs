//! Rows as values: how a query's rows pass through one SQLite value, where SQLite has no LATERAL and
//! no functions that return rows.
//!
//! A row is a BLOB in the form of a row image ([`springhead_proto::Row`]). Several rows are a JSON array
//! of such rows in hexadecimal digits, which `json_each` takes apart again: all types survive exactly.

use springhead_proto::{ErrorCode, Row, RowRef, SqlError, Value, ValueRef};

use super::support::{Args, int, lenient, pg_type, strict, text, text_value, too_large};
use super::{Aggregate, AggregateState, MAX_RESULT_BYTES, Scalar};
use crate::types::record;

pub(super) const SCALARS: &[Scalar] = &[
    // any values: one row
    lenient!("sh_row", -1, |args| Ok(Value::Blob(encode(args)))),
    // value, oid, typmod, value, oid, …: a row as PostgreSQL prints it
    lenient!("sh_record", -1, whole),
    // a row in that form: it has no order and no equality here
    lenient!("sh_record_key", 1, |_| Err(SqlError::unsupported(
        "the order and equality of rows as values"
    ))),
    // a row (BLOB, or digits), place from 0
    strict!("sh_field", 2, |args| field(args[0], int(args, 1)?)),
    // an array, lower and upper bound (NULL: none)
    lenient!("sh_array_slice", 3, |args| slice(args)),
];

pub(super) const AGGREGATES: &[Aggregate] = &[Aggregate {
    name: "sh_rows",
    args: -1,
    start: || Box::new(Rows::default()),
}];

/// The values of one row.
pub fn encode(values: &[ValueRef<'_>]) -> Vec<u8> {
    Row::from_values(values.iter().copied()).bytes().to_vec()
}

/// Several rows as the JSON array that `json_each` takes apart; rows are added one by one.
#[derive(Debug)]
pub struct RowArray {
    text: String,
}

impl Default for RowArray {
    fn default() -> RowArray {
        RowArray {
            text: "[".to_owned(),
        }
    }
}

impl RowArray {
    /// # Errors
    /// 54000 above [`MAX_RESULT_BYTES`].
    pub fn push(&mut self, values: &[ValueRef<'_>]) -> Result<(), SqlError> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let row = encode(values);
        if self.text.len() + 2 * row.len() > MAX_RESULT_BYTES {
            return Err(too_large());
        }
        self.text
            .push_str(if self.text.len() > 1 { ",\"" } else { "\"" });
        for byte in row {
            self.text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            self.text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        self.text.push('"');
        Ok(())
    }

    #[must_use]
    pub fn finish(&self) -> String {
        format!("{}]", self.text)
    }
}

#[derive(Default)]
struct Rows {
    rows: RowArray,
}

impl AggregateState for Rows {
    fn step(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        self.rows.push(args)
    }

    fn inverse(&mut self, _: &[ValueRef<'_>]) -> Result<(), SqlError> {
        Err(damaged())
    }

    fn finish(&self) -> Result<Value, SqlError> {
        Ok(Value::Text(self.rows.finish()))
    }
}

fn whole(args: Args<'_, '_>) -> Result<Value, SqlError> {
    let mut fields = Vec::with_capacity(args.len() / 3);
    for place in (0..args.len()).step_by(3) {
        fields.push((pg_type(args, place + 1)?, args[place]));
    }
    text_value(record::store(fields.into_iter()))
}

fn field(row: ValueRef<'_>, place: i64) -> Result<Value, SqlError> {
    let place = usize::try_from(place).map_err(|_| damaged())?;
    let of = |bytes: &[u8]| -> Result<Value, SqlError> {
        let row = RowRef::parse(bytes).map_err(|_| damaged())?;
        row.get(place).map(ValueRef::to_owned).ok_or_else(damaged)
    };
    match row {
        ValueRef::Blob(bytes) => of(bytes),
        ValueRef::Text(digits) => {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let bytes: Option<Vec<u8>> = digits
                .as_bytes()
                .chunks(2)
                .map(|pair| match *pair {
                    [high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
                    _ => None,
                })
                .collect();
            of(&bytes.ok_or_else(damaged)?)
        }
        _ => Err(damaged()),
    }
}

fn slice(args: &[ValueRef<'_>]) -> Result<Value, SqlError> {
    if args[0].is_null() {
        return Ok(Value::Null);
    }
    let stored: Vec<serde_json::Value> =
        serde_json::from_str(text(args, 0)?).map_err(|_| damaged())?;
    if stored.first().is_some_and(serde_json::Value::is_array) {
        return Err(SqlError::unsupported("a slice of an array of arrays"));
    }
    let bound = |place: usize, default: i64| match args[place] {
        ValueRef::Null => Ok(default),
        _ => int(args, place),
    };
    let count = i64::try_from(stored.len()).unwrap_or(i64::MAX);
    let (low, high) = (bound(1, 1)?.max(1), bound(2, count)?.min(count));
    let kept: Vec<serde_json::Value> = stored
        .into_iter()
        .zip(1_i64..)
        .filter(|(_, place)| (low..=high).contains(place))
        .map(|(element, _)| element)
        .collect();
    serde_json::to_string(&kept)
        .map(Value::Text)
        .map_err(|_| damaged())
}

fn damaged() -> SqlError {
    SqlError::new(ErrorCode::Internal, "a row as a value is not of its form")
}

#[cfg(test)]
mod tests {
    use super::{RowArray, encode, field};
    use springhead_proto::ValueRef;

    #[test]
    fn a_row_gives_back_every_kind_of_value_in_both_forms() {
        let values = [
            ValueRef::Null,
            ValueRef::Integer(i64::MIN),
            ValueRef::Real(0.1),
            ValueRef::Text("a\"\u{e9}"),
            ValueRef::Blob(&[0, 255]),
        ];
        let row = encode(&values);
        let mut rows = RowArray::default();
        rows.push(&values).expect("small");
        let text = rows.finish();
        let digits: Vec<String> = serde_json::from_str(&text).expect("an array of texts");
        for (place, value) in (0..).zip(values) {
            assert_eq!(
                field(ValueRef::Blob(&row), place)
                    .expect("a field")
                    .as_ref(),
                value
            );
            assert_eq!(
                field(ValueRef::Text(&digits[0]), place)
                    .expect("a field")
                    .as_ref(),
                value
            );
        }
        assert!(field(ValueRef::Blob(&row), 5).is_err());
        assert!(field(ValueRef::Text("zz"), 0).is_err());
    }
}
