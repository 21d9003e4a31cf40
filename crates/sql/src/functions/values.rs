//! Functions that work on values of any type: texts, casts, keys, the greatest and the least.

use std::cmp::Ordering;

use springhead_proto::{ErrorCode, SqlError, Value, ValueRef};

use super::Scalar;
use super::support::{
    Args, Outcome, blob, bool_value, int, interval, invalid_parameter, lenient, mismatch, pg_type,
    strict, text,
};
use crate::types::json::{self, Json};
use crate::types::numeric::{self, Numeric};
use crate::types::{
    Moment, PgType, array, input_explicit, interval as span, output_json, output_text,
    text as texts,
};

pub(super) const SCALARS: &[Scalar] = &[
    // value, oid, typmod
    // The text cast, which prints booleans in full.
    strict!("sh_text", 3, |args| Ok(Value::Text(
        match (pg_type(args, 1)?, args[0]) {
            (PgType::Bool, ValueRef::Integer(value)) =>
                if value == 0 { "false" } else { "true" }.to_owned(),
            (ty, value) => printed(&ty, value),
        }
    ))),
    lenient!("sh_json", 3, |args| {
        let mut out = Vec::new();
        output_json(&pg_type(args, 1)?, args[0], &mut out);
        Ok(Value::Text(json::into_text(out)))
    }),
    // text, oid, typmod
    strict!("sh_input", 3, |args| input_explicit(
        &pg_type(args, 1)?,
        text(args, 0)?
    )),
    // text, length
    // value, digits
    strict!("sh_round_time", 2, |args| rounded(Moment::Time, args)),
    strict!("sh_round_timestamp", 2, |args| rounded(
        Moment::Timestamp,
        args
    )),
    strict!("sh_round_interval", 2, |args| rounded(
        Moment::Interval,
        args
    )),
    // text, the enum's name, its labels as a JSON array
    strict!("sh_enum", 3, enum_label),
    strict!("sh_cut", 2, |args| fit(args, true)),
    strict!("sh_fit", 2, |args| fit(args, false)),
    strict!("sh_cut_char", 2, |args| fit_char(args, true)),
    strict!("sh_fit_char", 2, |args| fit_char(args, false)),
    strict!("sh_name", 1, |args| Ok(Value::Text(
        texts::cut_name(text(args, 0)?).to_owned()
    ))),
    strict!("sh_num_key", 1, |args| match args[0] {
        ValueRef::Blob(bytes) => Ok(Value::Blob(numeric::key(bytes).to_vec())),
        ref other => Err(mismatch(Some(other), 0, "a numeric")),
    }),
    strict!("sh_interval_key", 1, |args| {
        Ok(Value::Blob(
            blob(args, 0)?
                .get(..span::KEY_BYTES)
                .unwrap_or_default()
                .to_vec(),
        ))
    }),
    // array, oid and typmod of its elements: what is in the order of arrays
    strict!("sh_array_order", 3, |args| {
        let element = pg_type(args, 1)
            .map_err(|_| SqlError::unsupported("the order of arrays of such elements"))?;
        Ok(Value::Blob(array::order_key(&element, text(args, 0)?)?))
    }),
    strict!("sh_jsonb_key", 1, |args| Ok(Value::Blob(jsonb_key(text(
        args, 0
    )?)?))),
    lenient!("sh_greatest", -1, |args| Ok(extreme(
        args,
        Ordering::Greater
    ))),
    lenient!("sh_least", -1, |args| Ok(extreme(args, Ordering::Less))),
    // array, oid, typmod of its type, oid, typmod of the wanted one
    strict!("sh_array_cast", 5, array_cast),
    // Each value, oid, typmod.
    lenient!("sh_array", -1, |args| {
        let mut out = vec![b'['];
        for (index, value) in args.chunks(3).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            output_json(&pg_type(value, 1)?, value[0], &mut out);
        }
        out.push(b']');
        Ok(Value::Text(json::into_text(out)))
    }),
    strict!("sh_array_length", 2, |args| {
        let stored = json::parse(text(args, 0)?)?;
        Ok(dimension(&stored, int(args, 1)?).map_or(Value::Null, Value::Integer))
    }),
    strict!("sh_cardinality", 1, |args| Ok(Value::Integer(cardinality(
        &json::parse(text(args, 0)?)?
    )))),
    // array, index from 1, oid, typmod of the element
    strict!("sh_array_get", 4, |args| {
        let stored = json::parse(text(args, 0)?)?;
        let index = int(args, 1)?;
        match stored.element(index - 1).filter(|_| index > 0) {
            Some(element) => array::decode_element(&pg_type(args, 2)?, element),
            None => Ok(Value::Null),
        }
    }),
    // array, delimiter, text for NULLs (or NULL), oid, typmod of the array
    lenient!("sh_array_to_string", 5, array_to_string),
    // array, element, oid, typmod of the element
    lenient!("sh_array_append", 4, |args| spliced(args, false)),
    lenient!("sh_array_prepend", 4, |args| spliced(args, true)),
    lenient!("sh_array_cat", 2, |args| match (args[0], args[1]) {
        (ValueRef::Null, other) | (other, ValueRef::Null) => Ok(other.to_owned()),
        _ => {
            let (Json::Array(mut all), Json::Array(more)) =
                (json::parse(text(args, 0)?)?, json::parse(text(args, 1)?)?)
            else {
                return Err(invalid_parameter("not an array"));
            };
            all.extend(more);
            stored(&Json::Array(all))
        }
    }),
    // array, element, oid, typmod of the element
    lenient!("sh_array_position", 4, |args| {
        if args[0].is_null() {
            return Ok(Value::Null);
        }
        let ty = pg_type(args, 2)?;
        let elements = array::elements(&ty, text(args, 0)?)?;
        let found = elements
            .iter()
            .position(|element| same(element.as_ref(), args[1]));
        Ok(found.map_or(Value::Null, |at| {
            Value::Integer(i64::try_from(at + 1).unwrap_or(i64::MAX))
        }))
    }),
    lenient!("sh_array_remove", 4, |args| {
        if args[0].is_null() {
            return Ok(Value::Null);
        }
        let ty = pg_type(args, 2)?;
        let kept: Vec<Value> = array::elements(&ty, text(args, 0)?)?
            .into_iter()
            .filter(|element| !same(element.as_ref(), args[1]))
            .collect();
        Ok(Value::Text(array::store(
            &ty,
            kept.iter().map(Value::as_ref),
        )))
    }),
    strict!("sh_array_contains", 2, |args| {
        contains_all(args[0], args[1]).and_then(bool_value)
    }),
    strict!("sh_array_overlaps", 2, |args| {
        let (Json::Array(a), Json::Array(b)) =
            (json::parse(text(args, 0)?)?, json::parse(text(args, 1)?)?)
        else {
            return Err(invalid_parameter("not an array"));
        };
        bool_value(
            a.iter()
                .any(|x| *x != Json::Null && b.iter().any(|y| x.equals(y))),
        )
    }),
    // Always fails: the message of a refused case inside an expression.
    lenient!("sh_error", 1, |args| Err(SqlError::new(
        ErrorCode::FeatureNotSupported,
        text(args, 0)?
    ))),
    strict!("sh_interval_neg", 1, |args| Ok(Value::Blob(
        interval(args, 0)?.negated()?.encode()
    ))),
];

/// A value's text.
pub(super) fn printed(ty: &PgType, value: ValueRef<'_>) -> String {
    let mut out = Vec::new();
    output_text(ty, value, &mut out);
    json::into_text(out)
}

fn length_at(args: Args<'_, '_>) -> Result<u32, SqlError> {
    u32::try_from(int(args, 1)?).map_err(|_| invalid_parameter("a length must not be negative"))
}

fn fit(args: Args<'_, '_>, explicit: bool) -> Outcome {
    let length = length_at(args)?;
    let ty = PgType::Varchar(Some(length));
    texts::fit(text(args, 0)?, length, &ty, explicit).map(|kept| Value::Text(kept.to_owned()))
}

fn fit_char(args: Args<'_, '_>, explicit: bool) -> Outcome {
    let length = length_at(args)?;
    let ty = PgType::Char(length);
    texts::fit(text(args, 0)?, length, &ty, explicit)
        .map(|kept| Value::Text(texts::pad(kept, length)))
}

/// Bytes that are equal for equal jsonb, and that order as PostgreSQL orders jsonb: first by kind,
/// containers by their size, then by content.
fn jsonb_key(stored: &str) -> Result<Vec<u8>, SqlError> {
    let mut key = Vec::with_capacity(stored.len() + 8);
    push_jsonb_key(&json::parse(stored)?, &mut key, true)?;
    Ok(key)
}

fn push_jsonb_key(value: &Json<'_>, key: &mut Vec<u8>, outermost: bool) -> Result<(), SqlError> {
    match value {
        // PostgreSQL's quirk: an empty array at the top sorts before all else.
        Json::Array(elements) if outermost && elements.is_empty() => key.push(0),
        Json::Null => key.push(1),
        Json::String(text) => {
            key.push(2);
            key.extend_from_slice(text.as_bytes());
            key.push(0);
        }
        Json::Number(text) => {
            key.push(3);
            key.extend_from_slice(numeric::key(&Numeric::parse(text)?.encode()?));
        }
        Json::Bool(value) => key.extend([4, u8::from(*value)]),
        Json::Array(elements) => {
            key.push(5);
            key.extend(
                u32::try_from(elements.len())
                    .unwrap_or(u32::MAX)
                    .to_be_bytes(),
            );
            for element in elements {
                push_jsonb_key(element, key, false)?;
            }
        }
        Json::Object(members) => {
            key.push(6);
            key.extend(
                u32::try_from(members.len())
                    .unwrap_or(u32::MAX)
                    .to_be_bytes(),
            );
            for (name, value) in members {
                key.extend_from_slice(name.as_bytes());
                key.push(0);
                push_jsonb_key(value, key, false)?;
            }
        }
    }
    Ok(())
}

/// Storage order: numbers by value, texts and blobs by bytes.
pub(super) fn storage_order(a: ValueRef<'_>, b: ValueRef<'_>) -> Ordering {
    match (a, b) {
        (ValueRef::Integer(a), ValueRef::Integer(b)) => a.cmp(&b),
        (ValueRef::Real(a), ValueRef::Real(b)) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
        #[expect(
            clippy::cast_precision_loss,
            reason = "SQLite's own order differs only past 2^53"
        )]
        (ValueRef::Integer(a), ValueRef::Real(b)) => {
            (a as f64).partial_cmp(&b).unwrap_or(Ordering::Equal)
        }
        (ValueRef::Real(_), ValueRef::Integer(_)) => storage_order(b, a).reverse(),
        (ValueRef::Text(a), ValueRef::Text(b)) => a.cmp(b),
        (ValueRef::Blob(a), ValueRef::Blob(b)) => a.cmp(b),
        _ => class(a).cmp(&class(b)),
    }
}

const fn class(value: ValueRef<'_>) -> u8 {
    match value {
        ValueRef::Null => 0,
        ValueRef::Integer(_) | ValueRef::Real(_) => 1,
        ValueRef::Text(_) => 2,
        ValueRef::Blob(_) => 3,
    }
}

fn same(a: ValueRef<'_>, b: ValueRef<'_>) -> bool {
    storage_order(a, b) == Ordering::Equal
}

/// PostgreSQL's GREATEST and LEAST: NULLs do not count.
fn extreme(args: Args<'_, '_>, wanted: Ordering) -> Value {
    let mut best = ValueRef::Null;
    for &arg in args {
        if !arg.is_null() && (best.is_null() || storage_order(arg, best) == wanted) {
            best = arg;
        }
    }
    best.to_owned()
}

fn stored(value: &Json<'_>) -> Outcome {
    let mut out = Vec::new();
    value.write_compact(&mut out);
    Ok(Value::Text(json::into_text(out)))
}

fn dimension(value: &Json<'_>, dimension: i64) -> Option<i64> {
    let Json::Array(elements) = value else {
        return None;
    };
    match dimension {
        ..=0 => None,
        1 if elements.is_empty() => None,
        1 => i64::try_from(elements.len()).ok(),
        _ => self::dimension(elements.first()?, dimension - 1),
    }
}

fn cardinality(value: &Json<'_>) -> i64 {
    match value {
        Json::Array(elements) => elements.iter().map(cardinality).sum(),
        _ => 1,
    }
}

fn array_cast(args: Args<'_, '_>) -> Outcome {
    let (PgType::Array(from), PgType::Array(to)) = (pg_type(args, 1)?, pg_type(args, 3)?) else {
        return Err(invalid_parameter("not an array"));
    };
    let mut values = Vec::new();
    for element in array::elements(&from, text(args, 0)?)? {
        values.push(match element {
            Value::Null => Value::Null,
            Value::Real(value) if to.is_integer() => {
                input_explicit(&to, &format!("{:.0}", value.round_ties_even()))?
            }
            value if to.is_integer() && matches!(*from, PgType::Numeric(_)) => {
                let whole = input_explicit(
                    &PgType::Numeric(Some((1000, 0))),
                    &printed(&from, value.as_ref()),
                )?;
                input_explicit(&to, &printed(&PgType::Numeric(None), whole.as_ref()))?
            }
            value => input_explicit(&to, &printed(&from, value.as_ref()))?,
        });
    }
    Ok(Value::Text(array::store(
        &to,
        values.iter().map(Value::as_ref),
    )))
}

fn array_to_string(args: Args<'_, '_>) -> Outcome {
    if args[0].is_null() || args[1].is_null() {
        return Ok(Value::Null);
    }
    let PgType::Array(ty) = pg_type(args, 3)? else {
        return Err(invalid_parameter("not an array"));
    };
    let delimiter = text(args, 1)?;
    let mut out = String::new();
    let mut first = true;
    for element in array::elements(&ty, text(args, 0)?)? {
        let shown = match (&element, args[2]) {
            (Value::Null, ValueRef::Text(null)) => null.to_owned(),
            (Value::Null, _) => continue,
            (value, _) => printed(&ty, value.as_ref()),
        };
        if !first {
            out.push_str(delimiter);
        }
        first = false;
        out.push_str(&shown);
    }
    Ok(Value::Text(out))
}

fn spliced(args: Args<'_, '_>, front: bool) -> Outcome {
    let ty = pg_type(args, 2)?;
    let mut elements = match args[0] {
        ValueRef::Null => Vec::new(),
        _ => array::elements(&ty, text(args, 0)?)?,
    };
    elements.insert(if front { 0 } else { elements.len() }, args[1].to_owned());
    Ok(Value::Text(array::store(
        &ty,
        elements.iter().map(Value::as_ref),
    )))
}

fn contains_all(whole: ValueRef<'_>, part: ValueRef<'_>) -> Result<bool, SqlError> {
    let args = [whole, part];
    let (Json::Array(whole), Json::Array(part)) =
        (json::parse(text(&args, 0)?)?, json::parse(text(&args, 1)?)?)
    else {
        return Err(invalid_parameter("not an array"));
    };
    Ok(part
        .iter()
        .all(|x| *x != Json::Null && whole.iter().any(|y| y.equals(x))))
}

/// A moment with fewer digits.
fn rounded(moment: Moment, args: Args<'_, '_>) -> Outcome {
    let digits = u8::try_from(int(args, 1)?).unwrap_or(6);
    let value = args
        .first()
        .map_or(Value::Null, |value| ValueRef::to_owned(*value));
    moment.round_value(value, digits)
}

/// A text as an enum's label.
fn enum_label(args: Args<'_, '_>) -> Outcome {
    let label = text(args, 0)?;
    let known = json::parse(text(args, 2)?).is_ok_and(|labels| match labels {
        Json::Array(labels) => labels
            .iter()
            .any(|known| matches!(known, Json::String(known) if *known == label)),
        _ => false,
    });
    if known {
        Ok(Value::Text(label.to_owned()))
    } else {
        Err(crate::types::user::no_label(text(args, 1)?, label))
    }
}
