//! Document ids: a row's key as text, and back.
//!
//! One column: the value's text form, as PostgreSQL prints it. Several: a JSON array of their JSON
//! forms, without blanks, as in `["eu",17]`.

use springhead_proto::{ErrorCode, RowRef, SqlError, Value, ValueRef};

use super::Table;
use crate::plan::display_name;
use crate::types::{PgType, input, input_json, output_json, output_text};

impl Table {
    /// The document id of a row in storage order. A value that the row does not have counts as
    /// NULL, which a key never is.
    #[must_use]
    pub fn document_id(&self, row: RowRef<'_>) -> String {
        self.document_id_by(|place| row.get(place).unwrap_or(ValueRef::Null))
    }

    /// As [`Table::document_id`], from the values of a row in storage order.
    #[must_use]
    pub fn document_id_of(&self, values: &[ValueRef<'_>]) -> String {
        self.document_id_by(|place| values.get(place).copied().unwrap_or(ValueRef::Null))
    }

    fn document_id_by<'a>(&self, value: impl Fn(usize) -> ValueRef<'a>) -> String {
        let mut out = Vec::new();
        if let &[place] = self.key.as_slice() {
            let pg_type = &self.columns[place].pg_type;
            match (pg_type, value(place)) {
                // Nearly all keys are one of these, whose storage form is their text.
                (PgType::Int2 | PgType::Int4 | PgType::Int8, ValueRef::Integer(key)) => {
                    return key.to_string();
                }
                (PgType::Text | PgType::Varchar(_) | PgType::Uuid, ValueRef::Text(key)) => {
                    return key.to_owned();
                }
                (pg_type, key) => output_text(pg_type, key, &mut out),
            }
        } else {
            out.push(b'[');
            for (index, &place) in self.key.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                output_json(&self.columns[place].pg_type, value(place), &mut out);
            }
            out.push(b']');
        }
        String::from_utf8(out)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    /// The key's values that a document id stands for, in the order of `key`, in storage form.
    ///
    /// # Errors
    /// What reading a value of the column's type gives (22P02, 22003, …); 22P02 for a composite
    /// key's id that is no JSON array of as many values.
    pub fn parse_document_id(&self, id: &str) -> Result<Vec<Value>, SqlError> {
        if let &[place] = self.key.as_slice() {
            let pg_type = &self.columns[place].pg_type;
            return Ok(vec![match pg_type {
                PgType::Text => Value::Text(id.to_owned()),
                pg_type => input(pg_type, id)?,
            }]);
        }
        let parts: Vec<serde_json::Value> =
            serde_json::from_str(id).map_err(|_| self.bad_document_id(id))?;
        if parts.len() != self.key.len() || parts.iter().any(serde_json::Value::is_null) {
            return Err(self.bad_document_id(id));
        }
        self.key_columns()
            .zip(&parts)
            .map(|(column, part)| input_json(&column.pg_type, part))
            .collect()
    }

    fn bad_document_id(&self, id: &str) -> SqlError {
        SqlError::new(
            ErrorCode::InvalidTextRepresentation,
            format!("invalid document id: \"{id}\""),
        )
        .with_detail(format!(
            "The key of \"{}\" is ({}), so its id is a JSON array of {} values.",
            display_name(&self.name),
            self.key_columns()
                .map(|column| column.name.as_str())
                .collect::<Vec<_>>()
                .join(", "),
            self.key.len()
        ))
    }
}
