//! Rust's values as the storage forms of a system relation's columns.

use springhead_proto::Value;

/// What can stand in a row.
pub(super) trait Cell {
    fn cell(self) -> Value;
}

impl Cell for Value {
    fn cell(self) -> Value {
        self
    }
}

impl Cell for bool {
    fn cell(self) -> Value {
        Value::Integer(i64::from(self))
    }
}

impl Cell for u32 {
    fn cell(self) -> Value {
        Value::Integer(i64::from(self))
    }
}

impl Cell for i32 {
    fn cell(self) -> Value {
        Value::Integer(i64::from(self))
    }
}

impl Cell for i16 {
    fn cell(self) -> Value {
        Value::Integer(i64::from(self))
    }
}

impl Cell for i64 {
    fn cell(self) -> Value {
        Value::Integer(self)
    }
}

impl Cell for f64 {
    fn cell(self) -> Value {
        Value::Real(self)
    }
}

impl Cell for &str {
    fn cell(self) -> Value {
        Value::Text(self.to_owned())
    }
}

impl Cell for String {
    fn cell(self) -> Value {
        Value::Text(self)
    }
}

impl Cell for &String {
    fn cell(self) -> Value {
        Value::Text(self.clone())
    }
}

impl Cell for std::borrow::Cow<'_, str> {
    fn cell(self) -> Value {
        Value::Text(self.into_owned())
    }
}

impl<T: Cell> Cell for Option<T> {
    fn cell(self) -> Value {
        self.map_or(Value::Null, Cell::cell)
    }
}

/// NULL, whatever the column's type.
pub(super) const NULL: Option<i64> = None;

/// An array or vector of numbers.
pub(super) fn numbers(values: impl IntoIterator<Item = i64>) -> Value {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    Value::Text(format!("[{}]", values.join(",")))
}

/// An array of object ids, which are kept as texts in arrays.
pub(super) fn oid_array(values: impl IntoIterator<Item = i64>) -> Value {
    texts(values.into_iter().map(|value| value.to_string()))
}

/// An array of texts.
pub(super) fn texts<T: AsRef<str>>(values: impl IntoIterator<Item = T>) -> Value {
    let mut out = vec![b'['];
    for (index, value) in values.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        crate::types::json::write_string(value.as_ref(), &mut out);
    }
    out.push(b']');
    Value::Text(String::from_utf8(out).expect("made of texts"))
}

/// `row![a, b, …]`: one row of a relation.
macro_rules! row {
    ($($value:expr),* $(,)?) => {
        Box::from([$($crate::system::cell::Cell::cell($value)),*])
    };
}
pub(super) use row;
