//! Aggregates that look at all rows of their frame at its end: least and greatest, lists, JSON,
//! percentiles; and those of booleans and bits.

use std::collections::VecDeque;

use springhead_proto::{SqlError, Value, ValueRef};

use crate::functions::support::{Args, Outcome, invalid_parameter, pg_type, real, too_large};
use crate::functions::values::{printed, storage_order};
use crate::functions::{Aggregate, AggregateState, MAX_RESULT_BYTES};
use crate::types::float::not_nan;
use crate::types::json::{into_text, normalise, write_string};
use crate::types::{PgType, array, output_json};

pub(in crate::functions) const AGGREGATES: &[Aggregate] = &[
    Aggregate {
        name: "sh_bool_and",
        args: 1,
        start: || {
            Box::new(Bools {
                all: true,
                ..Bools::default()
            })
        },
    },
    Aggregate {
        name: "sh_bool_or",
        args: 1,
        start: || Box::new(Bools::default()),
    },
    Aggregate {
        name: "sh_bit_and",
        args: 1,
        start: || Box::new(Kept::new(bit_and, false)),
    },
    Aggregate {
        name: "sh_bit_or",
        args: 1,
        start: || Box::new(Kept::new(bit_or, false)),
    },
    // In storage order; for values whose keys differ from them: value, key.
    Aggregate {
        name: "sh_min",
        args: -1,
        start: || Box::new(Kept::new(least, false)),
    },
    Aggregate {
        name: "sh_max",
        args: -1,
        start: || Box::new(Kept::new(greatest, false)),
    },
    // text, delimiter
    Aggregate {
        name: "sh_string_agg",
        args: 2,
        start: || Box::new(Kept::new(string_agg, false)),
    },
    // value, oid, typmod
    Aggregate {
        name: "sh_array_agg",
        args: 3,
        start: || Box::new(Kept::new(array_agg, true)),
    },
    Aggregate {
        name: "sh_json_agg",
        args: 3,
        start: || Box::new(Kept::new(json_agg, true)),
    },
    Aggregate {
        name: "sh_jsonb_agg",
        args: 3,
        start: || Box::new(Kept::new(jsonb_agg, true)),
    },
    // key, oid, typmod, value, oid, typmod
    Aggregate {
        name: "sh_json_object_agg",
        args: 6,
        start: || Box::new(Kept::new(json_object_agg, true)),
    },
    Aggregate {
        name: "sh_jsonb_object_agg",
        args: 6,
        start: || Box::new(Kept::new(jsonb_object_agg, true)),
    },
    // value, fraction
    Aggregate {
        name: "sh_percentile_cont",
        args: 2,
        start: || Box::new(Kept::new(percentile_cont, false)),
    },
    Aggregate {
        name: "sh_percentile_disc",
        args: 2,
        start: || Box::new(Kept::new(percentile_disc, false)),
    },
    Aggregate {
        name: "sh_mode",
        args: 1,
        start: || Box::new(Kept::new(mode, false)),
    },
];

#[derive(Default)]
struct Bools {
    trues: i64,
    falses: i64,
    all: bool,
}

impl Bools {
    fn take(&mut self, args: Args<'_, '_>, sign: i64) -> Result<(), SqlError> {
        match args[0] {
            ValueRef::Null => {}
            ValueRef::Integer(0) => self.falses += sign,
            _ => self.trues += sign,
        }
        Ok(())
    }
}

impl AggregateState for Bools {
    fn step(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        self.take(args, 1)
    }

    fn inverse(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        self.take(args, -1)
    }

    fn finish(&self) -> Outcome {
        if self.trues + self.falses == 0 {
            return Ok(Value::Null);
        }
        Ok(Value::Integer(i64::from(if self.all {
            self.falses == 0
        } else {
            self.trues > 0
        })))
    }
}

/// Aggregates that look at all rows of their frame at the end.
struct Kept {
    rows: VecDeque<Vec<Value>>,
    bytes: usize,
    /// Whether rows whose first argument is NULL count.
    nulls: bool,
    result: fn(&VecDeque<Vec<Value>>) -> Outcome,
}

impl Kept {
    fn new(result: fn(&VecDeque<Vec<Value>>) -> Outcome, nulls: bool) -> Kept {
        Kept {
            rows: VecDeque::new(),
            bytes: 0,
            nulls,
            result,
        }
    }

    fn counts(&self, args: Args<'_, '_>) -> bool {
        self.nulls || !args[0].is_null()
    }
}

fn size(args: Args<'_, '_>) -> usize {
    let bytes = |value: &ValueRef<'_>| match value {
        ValueRef::Text(text) => text.len(),
        ValueRef::Blob(bytes) => bytes.len(),
        _ => 0,
    };
    32 + args.iter().map(|value| 32 + bytes(value)).sum::<usize>()
}

impl AggregateState for Kept {
    fn step(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        if self.counts(args) {
            self.bytes += size(args);
            if self.bytes > MAX_RESULT_BYTES {
                return Err(too_large());
            }
            self.rows
                .push_back(args.iter().map(|value| (*value).to_owned()).collect());
        }
        Ok(())
    }

    fn inverse(&mut self, args: &[ValueRef<'_>]) -> Result<(), SqlError> {
        if self.counts(args) {
            self.bytes = self.bytes.saturating_sub(size(args));
            self.rows.pop_front();
        }
        Ok(())
    }

    fn finish(&self) -> Outcome {
        if self.rows.is_empty() {
            Ok(Value::Null)
        } else {
            (self.result)(&self.rows)
        }
    }
}

type Rows = VecDeque<Vec<Value>>;

fn fold_bits(rows: &Rows, op: fn(i64, i64) -> i64) -> Outcome {
    let bits = rows.iter().filter_map(|row| match row[0] {
        Value::Integer(bits) => Some(bits),
        _ => None,
    });
    Ok(bits.reduce(op).map_or(Value::Null, Value::Integer))
}

fn bit_and(rows: &Rows) -> Outcome {
    fold_bits(rows, |a, b| a & b)
}

fn bit_or(rows: &Rows) -> Outcome {
    fold_bits(rows, |a, b| a | b)
}

/// The last argument is what is compared.
fn key(row: &[Value]) -> ValueRef<'_> {
    row.last().map_or(ValueRef::Null, Value::as_ref)
}

fn least(rows: &Rows) -> Outcome {
    Ok(rows
        .iter()
        .min_by(|a, b| storage_order(key(a), key(b)))
        .map_or(Value::Null, |row| row[0].clone()))
}

fn greatest(rows: &Rows) -> Outcome {
    Ok(rows
        .iter()
        .max_by(|a, b| storage_order(key(a), key(b)))
        .map_or(Value::Null, |row| row[0].clone()))
}

fn string_agg(rows: &Rows) -> Outcome {
    let mut out = String::new();
    let mut bytes = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        match (&row[0], &row[1]) {
            (Value::Text(text), delimiter) => {
                if let (Value::Text(delimiter), true) = (delimiter, index > 0) {
                    out.push_str(delimiter);
                }
                out.push_str(text);
            }
            (Value::Blob(part), delimiter) => {
                if let (Value::Blob(delimiter), true) = (delimiter, index > 0) {
                    bytes.extend_from_slice(delimiter);
                }
                bytes.extend_from_slice(part);
            }
            _ => {}
        }
    }
    Ok(if matches!(rows[0][0], Value::Blob(_)) {
        Value::Blob(bytes)
    } else {
        Value::Text(out)
    })
}

/// The type that the arguments from `at` on name.
fn type_at(row: &[Value], at: usize) -> Result<PgType, SqlError> {
    let args: Vec<ValueRef<'_>> = row.iter().map(Value::as_ref).collect();
    pg_type(&args, at)
}

fn array_agg(rows: &Rows) -> Outcome {
    let ty = type_at(&rows[0], 1)?;
    let element = match &ty {
        PgType::Array(element) => (**element).clone(),
        other => other.clone(),
    };
    if ty == element {
        return Ok(Value::Text(array::store(
            &element,
            rows.iter().map(|row| row[0].as_ref()),
        )));
    }
    // Arrays become the rows of one of a dimension more: their stored forms stand side by side.
    Ok(Value::Text(array::store(
        &PgType::Json,
        rows.iter().map(|row| row[0].as_ref()),
    )))
}

/// The modifier that the type `json` has where its values are whole rows.
pub(crate) const ROW_AS_JSON: i32 = 1;

fn json_array(rows: &Rows) -> Result<String, SqlError> {
    let ty = type_at(&rows[0], 1)?;
    let is_nested =
        matches!(ty, PgType::Array(_)) || rows[0][2] == Value::Integer(ROW_AS_JSON.into());
    // As PostgreSQL prints it.
    let separator: &[u8] = if is_nested { b", \n " } else { b", " };
    let mut out = vec![b'['];
    for (index, row) in rows.iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(separator);
        }
        output_json(&ty, row[0].as_ref(), &mut out);
    }
    out.push(b']');
    Ok(into_text(out))
}

fn json_agg(rows: &Rows) -> Outcome {
    json_array(rows).map(Value::Text)
}

fn jsonb_agg(rows: &Rows) -> Outcome {
    normalise(&json_array(rows)?).map(Value::Text)
}

fn json_object(rows: &Rows) -> Result<String, SqlError> {
    let (key_type, value_type) = (type_at(&rows[0], 1)?, type_at(&rows[0], 4)?);
    let mut out = Vec::from(*b"{ ");
    for (index, row) in rows.iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(b", ");
        }
        if row[0] == Value::Null {
            return Err(invalid_parameter("field name must not be null"));
        }
        write_string(&printed(&key_type, row[0].as_ref()), &mut out);
        out.extend_from_slice(b" : ");
        output_json(&value_type, row[3].as_ref(), &mut out);
    }
    out.extend_from_slice(b" }");
    Ok(into_text(out))
}

fn json_object_agg(rows: &Rows) -> Outcome {
    json_object(rows).map(Value::Text)
}

fn jsonb_object_agg(rows: &Rows) -> Outcome {
    normalise(&json_object(rows)?).map(Value::Text)
}

fn sorted(rows: &Rows) -> Vec<ValueRef<'_>> {
    let mut values: Vec<ValueRef<'_>> = rows.iter().map(|row| row[0].as_ref()).collect();
    values.sort_by(|a, b| storage_order(*a, *b));
    values
}

fn fraction(rows: &Rows) -> Result<Option<f64>, SqlError> {
    let at = match rows[0][1] {
        Value::Null => return Ok(None),
        ref value => real(&[value.as_ref()], 0)?,
    };
    if (0.0..=1.0).contains(&at) {
        return Ok(Some(at));
    }
    Err(SqlError::new(
        springhead_proto::ErrorCode::NumericOutOfRange,
        format!("percentile value {at} is not between 0 and 1"),
    ))
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index"
)]
fn percentile_cont(rows: &Rows) -> Outcome {
    let Some(fraction) = fraction(rows)? else {
        return Ok(Value::Null);
    };
    let values = sorted(rows);
    let row = fraction * (values.len() - 1) as f64;
    let (low, high) = (row.floor() as usize, row.ceil() as usize);
    let (a, b) = (real(&values[low..=low], 0)?, real(&values[high..=high], 0)?);
    not_nan(a + (row - low as f64) * (b - a), &PgType::Float8).map(Value::Real)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index"
)]
fn percentile_disc(rows: &Rows) -> Outcome {
    let Some(fraction) = fraction(rows)? else {
        return Ok(Value::Null);
    };
    let values = sorted(rows);
    let row = ((fraction * values.len() as f64).ceil() as usize).max(1) - 1;
    Ok(values[row].to_owned())
}

fn mode(rows: &Rows) -> Outcome {
    let values = sorted(rows);
    let mut best = (0, ValueRef::Null);
    for group in values.chunk_by(|a, b| storage_order(*a, *b).is_eq()) {
        if group.len() > best.0 {
            best = (group.len(), group[0]);
        }
    }
    Ok(best.1.to_owned())
}
