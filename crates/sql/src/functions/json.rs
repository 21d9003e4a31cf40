//! json and jsonb: operators and functions.
//!
//! A json value is its text as written; what is taken out of it is written compactly. A jsonb value
//! is in its normal form, and so is every jsonb result.

use std::borrow::Cow;

use springhead_proto::{ErrorCode, SqlError, Value, ValueRef};

use super::Scalar;
use super::support::{
    Args, Outcome, bool_value, bounded, int, invalid_parameter, lenient, pg_type, strict, text,
};
use super::values::printed;
use crate::types::json::{Json, into_text, normalise, parse, place, unique_members, write_string};
use crate::types::{PgType, array, input_explicit, output_json};

pub(super) const SCALARS: &[Scalar] = &[
    strict!("sh_jsonb", 1, |args| normalise(text(args, 0)?)
        .map(Value::Text)),
    // json, key or index
    strict!("sh_json_get", 2, |args| found(
        step(&parse(text(args, 0)?)?, args[1]),
        compact
    )),
    strict!("sh_jsonb_get", 2, |args| found(
        step(&parse(text(args, 0)?)?, args[1]),
        normal
    )),
    strict!("sh_json_get_text", 2, |args| found(
        step(&parse(text(args, 0)?)?, args[1]),
        |json| as_text(json, false)
    )),
    strict!("sh_jsonb_get_text", 2, |args| found(
        step(&parse(text(args, 0)?)?, args[1]),
        |json| as_text(json, true)
    )),
    // json, path as a text[]
    strict!("sh_json_path", 2, |args| found(
        walk(&parse(text(args, 0)?)?, &path(args, 1)?),
        compact
    )),
    strict!("sh_jsonb_path", 2, |args| found(
        walk(&parse(text(args, 0)?)?, &path(args, 1)?),
        normal
    )),
    strict!("sh_json_path_text", 2, |args| found(
        walk(&parse(text(args, 0)?)?, &path(args, 1)?),
        |json| as_text(json, false)
    )),
    strict!("sh_jsonb_path_text", 2, |args| found(
        walk(&parse(text(args, 0)?)?, &path(args, 1)?),
        |json| as_text(json, true)
    )),
    strict!("sh_jsonb_contains", 2, |args| bool_value(contains(
        &parse(text(args, 0)?)?,
        &parse(text(args, 1)?)?,
        true
    ))),
    strict!("sh_jsonb_has", 2, |args| bool_value(has(
        &parse(text(args, 0)?)?,
        text(args, 1)?
    ))),
    strict!("sh_jsonb_has_any", 2, |args| {
        let json = parse(text(args, 0)?)?;
        bool_value(path(args, 1)?.iter().any(|key| has(&json, key)))
    }),
    strict!("sh_jsonb_has_all", 2, |args| {
        let json = parse(text(args, 0)?)?;
        bool_value(path(args, 1)?.iter().all(|key| has(&json, key)))
    }),
    strict!("sh_jsonb_concat", 2, |args| concat(
        parse(text(args, 0)?)?,
        parse(text(args, 1)?)?
    )),
    // jsonb, key or index
    strict!("sh_jsonb_delete", 2, |args| delete(
        parse(text(args, 0)?)?,
        args[1]
    )),
    strict!("sh_jsonb_delete_keys", 2, |args| {
        let mut json = parse(text(args, 0)?)?;
        for key in path(args, 1)? {
            json = without_key(json, &key)?;
        }
        normal(&json)
    }),
    strict!("sh_jsonb_delete_path", 2, |args| {
        let path = path(args, 1)?;
        let mut json = parse(text(args, 0)?)?;
        require_container(&json, "cannot delete path in scalar")?;
        delete_path(&mut json, &path);
        normal(&json)
    }),
    // jsonb, path, new value, create if missing
    strict!("sh_jsonb_set", -1, |args| {
        let create = args.len() < 4 || int(args, 3)? != 0;
        let path = path(args, 1)?;
        let mut json = parse(text(args, 0)?)?;
        require_container(&json, "cannot set path in scalar")?;
        set_path(&mut json, &path, parse(text(args, 2)?)?, create, 1)?;
        normal(&json.into_jsonb()?)
    }),
    // jsonb, path, new value, insert after
    strict!("sh_jsonb_insert", -1, |args| {
        let after = args.len() > 3 && int(args, 3)? != 0;
        let path = path(args, 1)?;
        let mut json = parse(text(args, 0)?)?;
        require_container(&json, "cannot set path in scalar")?;
        insert_path(&mut json, &path, parse(text(args, 2)?)?, after)?;
        normal(&json.into_jsonb()?)
    }),
    strict!("sh_json_typeof", 1, |args| Ok(Value::Text(
        kind(&parse(text(args, 0)?)?).to_owned()
    ))),
    strict!(
        "sh_json_array_length",
        1,
        |args| match parse(text(args, 0)?)? {
            Json::Array(elements) => super::support::count(elements.len()),
            Json::Object(_) => Err(invalid_parameter("cannot get array length of a non-array")),
            _ => Err(invalid_parameter("cannot get array length of a scalar")),
        }
    ),
    strict!("sh_json_strip_nulls", 1, |args| compact(&without_nulls(
        parse(text(args, 0)?)?
    ))),
    strict!("sh_jsonb_strip_nulls", 1, |args| normal(&without_nulls(
        parse(text(args, 0)?)?
    ))),
    strict!("sh_jsonb_pretty", 1, |args| {
        let mut out = Vec::new();
        pretty(&parse(text(args, 0)?)?, 0, &mut out)?;
        Ok(Value::Text(into_text(out)))
    }),
    // Each value, oid, typmod.
    lenient!("sh_json_build_array", -1, |args| build_array(args)
        .map(Value::Text)),
    lenient!("sh_jsonb_build_array", -1, |args| normalise(&build_array(
        args
    )?)
    .map(Value::Text)),
    lenient!("sh_json_build_object", -1, |args| build_object(args)
        .map(Value::Text)),
    lenient!("sh_jsonb_build_object", -1, |args| normalise(
        &build_object(args)?
    )
    .map(Value::Text)),
    // value, oid, typmod
    strict!("sh_to_json", 3, |args| Ok(Value::Text(printed_json(
        &pg_type(args, 1)?,
        args[0]
    )))),
    strict!("sh_to_jsonb", 3, |args| normalise(&printed_json(
        &pg_type(args, 1)?,
        args[0]
    ))
    .map(Value::Text)),
    // name, value, oid, typmod, again and again: what row_to_json prints
    lenient!("sh_row_to_json", -1, |args| {
        let mut out = vec![b'{'];
        for (index, field) in args.chunks(4).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_string(text(field, 0)?, &mut out);
            out.push(b':');
            output_json(
                &pg_type(field, 2)?,
                *field.get(1).unwrap_or(&ValueRef::Null),
                &mut out,
            );
        }
        out.push(b'}');
        Ok(Value::Text(into_text(out)))
    }),
    // jsonb, oid, typmod of what it is cast to
    strict!("sh_jsonb_to", 3, |args| cast(
        &parse(text(args, 0)?)?,
        &pg_type(args, 1)?
    )),
    // Set-returning functions as JSON arrays that the planner unnests with json_each: elements as
    // texts of JSON, or as texts.
    strict!("sh_json_elements", 1, |args| elements(
        &parse(text(args, 0)?)?,
        |json, out| {
            let mut inner = Vec::new();
            json.write_compact(&mut inner);
            write_string(&into_text(inner), out);
        }
    )),
    strict!("sh_jsonb_elements", 1, |args| elements(
        &parse(text(args, 0)?)?,
        |json, out| {
            let mut inner = Vec::new();
            json.write_jsonb(&mut inner);
            write_string(&into_text(inner), out);
        }
    )),
    strict!("sh_json_elements_text", 1, |args| elements(
        &parse(text(args, 0)?)?,
        |json, out| match as_text(json, true) {
            Ok(Value::Text(text)) => write_string(&text, out),
            _ => out.extend_from_slice(b"null"),
        }
    )),
    // document, whether values are texts, whether it is jsonb: rows of key and value
    strict!("sh_json_members", 3, |args| match parse(text(args, 0)?)? {
        Json::Object(members) => {
            let (as_texts, binary) = (int(args, 1)? != 0, int(args, 2)? != 0);
            let mut rows = super::rowset::RowArray::default();
            for (key, member) in &members {
                let value = match (as_texts, binary) {
                    (true, _) => as_text(member, binary)?,
                    (false, true) => normal(member)?,
                    (false, false) => compact(member)?,
                };
                rows.push(&[ValueRef::Text(key), value.as_ref()])?;
            }
            Ok(Value::Text(rows.finish()))
        }
        Json::Array(_) => Err(invalid_parameter(
            "cannot deconstruct an array as an object"
        )),
        _ => Err(invalid_parameter("cannot deconstruct a scalar")),
    }),
    strict!(
        "sh_json_object_keys",
        1,
        |args| match parse(text(args, 0)?)? {
            Json::Object(members) => Ok(Value::Text(array::store(
                &PgType::Text,
                members.iter().map(|(key, _)| ValueRef::Text(key)),
            ))),
            Json::Array(_) => Err(invalid_parameter(
                "cannot call json_object_keys on an array"
            )),
            _ => Err(invalid_parameter(
                "cannot call json_object_keys on a scalar"
            )),
        }
    ),
];

fn compact(json: &Json<'_>) -> Outcome {
    let mut out = Vec::new();
    json.write_compact(&mut out);
    Ok(Value::Text(into_text(out)))
}

fn normal(json: &Json<'_>) -> Outcome {
    let mut out = Vec::new();
    json.write_jsonb(&mut out);
    Ok(Value::Text(into_text(out)))
}

fn found(json: Option<&Json<'_>>, print: impl Fn(&Json<'_>) -> Outcome) -> Outcome {
    json.map_or(Ok(Value::Null), print)
}

/// A string without quotes; NULL for null; all else as it prints.
fn as_text(json: &Json<'_>, binary: bool) -> Outcome {
    match json {
        Json::Null => Ok(Value::Null),
        Json::String(text) => Ok(Value::Text(text.clone().into_owned())),
        other if binary => normal(other),
        other => compact(other),
    }
}

fn step<'j, 't>(json: &'j Json<'t>, key: ValueRef<'_>) -> Option<&'j Json<'t>> {
    match key {
        ValueRef::Text(key) => json.member(key),
        ValueRef::Integer(index) => json.element(index),
        _ => None,
    }
}

/// Path steps: an array's are indexes, an object's are keys.
fn walk<'j, 't>(json: &'j Json<'t>, path: &[String]) -> Option<&'j Json<'t>> {
    path.iter().try_fold(json, |json, key| match json {
        Json::Array(_) => json.element(key.parse().ok()?),
        _ => json.member(key),
    })
}

fn path(args: Args<'_, '_>, at: usize) -> Result<Vec<String>, SqlError> {
    array::elements(&PgType::Text, text(args, at)?)?
        .into_iter()
        .map(|value| match value {
            Value::Text(text) => Ok(text),
            _ => Err(SqlError::new(
                ErrorCode::InvalidParameterValue,
                "a path element is null",
            )),
        })
        .collect()
}

const fn kind(json: &Json<'_>) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}

/// `@>`: a scalar is contained in an array that has it, but only at the top.
fn contains(whole: &Json<'_>, part: &Json<'_>, outermost: bool) -> bool {
    match (whole, part) {
        (Json::Object(_), Json::Object(members)) => members.iter().all(|(key, value)| {
            whole
                .member(key)
                .is_some_and(|inner| contains(inner, value, false))
        }),
        (Json::Array(elements), Json::Array(wanted)) => wanted.iter().all(|wanted| {
            elements
                .iter()
                .any(|element| contains(element, wanted, false))
        }),
        (Json::Array(elements), Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_))
            if outermost =>
        {
            elements.iter().any(|element| element.equals(part))
        }
        _ => whole.equals(part),
    }
}

fn has(json: &Json<'_>, key: &str) -> bool {
    match json {
        Json::Object(_) => json.member(key).is_some(),
        Json::Array(elements) => elements
            .iter()
            .any(|element| matches!(element, Json::String(text) if text == key)),
        Json::String(text) => text == key,
        _ => false,
    }
}

fn concat(a: Json<'_>, b: Json<'_>) -> Outcome {
    normal(&match (a, b) {
        (Json::Object(mut members), Json::Object(more)) => {
            members.extend(more);
            Json::Object(unique_members(members))
        }
        (Json::Array(mut elements), Json::Array(more)) => {
            elements.extend(more);
            Json::Array(elements)
        }
        (Json::Array(mut elements), other) => {
            elements.push(other);
            Json::Array(elements)
        }
        (other, Json::Array(mut elements)) => {
            elements.insert(0, other);
            Json::Array(elements)
        }
        (a, b) => Json::Array(vec![a, b]),
    })
}

fn require_container(json: &Json<'_>, message: &str) -> Result<(), SqlError> {
    if matches!(json, Json::Array(_) | Json::Object(_)) {
        Ok(())
    } else {
        Err(invalid_parameter(message))
    }
}

fn without_key<'t>(json: Json<'t>, key: &str) -> Result<Json<'t>, SqlError> {
    Ok(match json {
        Json::Object(mut members) => {
            members.retain(|(name, _)| name != key);
            Json::Object(members)
        }
        Json::Array(mut elements) => {
            elements.retain(|element| !matches!(element, Json::String(text) if text == key));
            Json::Array(elements)
        }
        _ => return Err(invalid_parameter("cannot delete from scalar")),
    })
}

fn delete(json: Json<'_>, key: ValueRef<'_>) -> Outcome {
    match (json, key) {
        (json, ValueRef::Text(key)) => normal(&without_key(json, key)?),
        (Json::Array(mut elements), ValueRef::Integer(index)) => {
            if let Some(at) = place(index, elements.len()) {
                elements.remove(at);
            }
            normal(&Json::Array(elements))
        }
        (Json::Object(_), _) => Err(invalid_parameter(
            "cannot delete from object using integer index",
        )),
        _ => Err(invalid_parameter("cannot delete from scalar")),
    }
}

fn delete_path(json: &mut Json<'_>, path: &[String]) {
    let Some((key, rest)) = path.split_first() else {
        return;
    };
    match json {
        Json::Object(members) if rest.is_empty() => members.retain(|(name, _)| name != key),
        Json::Object(members) => {
            if let Some((_, inner)) = members.iter_mut().find(|(name, _)| name == key) {
                delete_path(inner, rest);
            }
        }
        Json::Array(elements) => {
            let Some(at) = key
                .parse()
                .ok()
                .and_then(|index| place(index, elements.len()))
            else {
                return;
            };
            if rest.is_empty() {
                elements.remove(at);
            } else {
                delete_path(&mut elements[at], rest);
            }
        }
        _ => {}
    }
}

/// The index that a path element means.
fn index_of(key: &str, position: usize) -> Result<i64, SqlError> {
    key.parse().map_err(|_| {
        SqlError::new(
            ErrorCode::InvalidTextRepresentation,
            format!("path element at position {position} is not an integer: \"{key}\""),
        )
    })
}

fn set_path<'t>(
    json: &mut Json<'t>,
    path: &[String],
    new: Json<'t>,
    create: bool,
    position: usize,
) -> Result<(), SqlError> {
    let Some((key, rest)) = path.split_first() else {
        return Ok(());
    };
    match json {
        Json::Object(members) => match members.iter_mut().find(|(name, _)| name == key) {
            Some((_, inner)) if rest.is_empty() => *inner = new,
            Some((_, inner)) => set_path(inner, rest, new, create, position + 1)?,
            None if create && rest.is_empty() => members.push((Cow::Owned(key.clone()), new)),
            None => {}
        },
        Json::Array(elements) => {
            let index = index_of(key, position)?;
            match place(index, elements.len()) {
                Some(at) if rest.is_empty() => elements[at] = new,
                Some(at) => set_path(&mut elements[at], rest, new, create, position + 1)?,
                None if create && rest.is_empty() => {
                    let at = if index < 0 { 0 } else { elements.len() };
                    elements.insert(at, new);
                }
                None => {}
            }
        }
        _ => {}
    }
    Ok(())
}

fn insert_path<'t>(
    json: &mut Json<'t>,
    path: &[String],
    new: Json<'t>,
    after: bool,
) -> Result<(), SqlError> {
    let Some((key, rest)) = path.split_first() else {
        return Ok(());
    };
    match json {
        Json::Object(members) => match members.iter_mut().find(|(name, _)| name == key) {
            Some(_) if rest.is_empty() => {
                return Err(invalid_parameter("cannot replace existing key")
                    .with_hint("Try using the function jsonb_set to replace key value."));
            }
            Some((_, inner)) => insert_path(inner, rest, new, after)?,
            None if rest.is_empty() => members.push((Cow::Owned(key.clone()), new)),
            None => {}
        },
        Json::Array(elements) => {
            let index = index_of(key, 1)?;
            match place(index, elements.len()) {
                Some(at) if rest.is_empty() => elements.insert(at + usize::from(after), new),
                Some(at) => insert_path(&mut elements[at], rest, new, after)?,
                None if rest.is_empty() => {
                    let at = if index < 0 { 0 } else { elements.len() };
                    elements.insert(at, new);
                }
                None => {}
            }
        }
        _ => {}
    }
    Ok(())
}

fn without_nulls(json: Json<'_>) -> Json<'_> {
    match json {
        Json::Object(members) => Json::Object(
            members
                .into_iter()
                .filter(|(_, value)| *value != Json::Null)
                .map(|(key, value)| (key, without_nulls(value)))
                .collect(),
        ),
        Json::Array(elements) => Json::Array(elements.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

fn pretty(json: &Json<'_>, depth: usize, out: &mut Vec<u8>) -> Result<(), SqlError> {
    bounded(out.len())?;
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', depth * 4));
    };
    match json {
        Json::Array(elements) => {
            out.push(b'[');
            for (index, element) in elements.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                line(out, depth + 1);
                pretty(element, depth + 1, out)?;
            }
            line(out, depth);
            out.push(b']');
        }
        Json::Object(members) => {
            out.push(b'{');
            for (index, (key, value)) in members.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                line(out, depth + 1);
                write_string(key, out);
                out.extend_from_slice(b": ");
                pretty(value, depth + 1, out)?;
            }
            line(out, depth);
            out.push(b'}');
        }
        other => other.write_jsonb(out),
    }
    Ok(())
}

/// A value as to_json has it: an array's elements and a json value as they are.
pub(super) fn printed_json(ty: &PgType, value: ValueRef<'_>) -> String {
    let mut out = Vec::new();
    output_json(ty, value, &mut out);
    into_text(out)
}

/// `[a, b]`, as json_build_array prints it.
fn build_array(args: Args<'_, '_>) -> Result<String, SqlError> {
    let mut out = String::from("[");
    for (index, value) in args.chunks(3).enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        out.push_str(&printed_json(&pg_type(value, 1)?, value[0]));
    }
    out.push(']');
    Ok(out)
}

/// `{"k" : v}`, as json_build_object prints it.
fn build_object(args: Args<'_, '_>) -> Result<String, SqlError> {
    if !args.len().is_multiple_of(6) {
        return Err(
            invalid_parameter("argument list must have even number of elements").with_hint(
                "The arguments of json_build_object() must consist of alternating keys and values.",
            ),
        );
    }
    let mut out = Vec::from(*b"{");
    for (index, pair) in args.chunks(6).enumerate() {
        if index > 0 {
            out.extend_from_slice(b", ");
        }
        if pair[0].is_null() {
            return Err(invalid_parameter(format!(
                "argument {}: key must not be null",
                index * 2 + 1
            )));
        }
        write_string(&printed(&pg_type(pair, 1)?, pair[0]), &mut out);
        out.extend_from_slice(b" : ");
        output_json(&pg_type(pair, 4)?, pair[3], &mut out);
    }
    out.push(b'}');
    Ok(into_text(out))
}

fn cast(json: &Json<'_>, ty: &PgType) -> Outcome {
    let refuse = || {
        Err(SqlError::new(
            ErrorCode::InvalidParameterValue,
            format!("cannot cast jsonb {} to type {}", kind(json), ty.sql_name()),
        ))
    };
    match (json, ty) {
        (Json::Bool(value), PgType::Bool) => bool_value(*value),
        (Json::Number(text), PgType::Int2 | PgType::Int4 | PgType::Int8) => {
            let rounded = PgType::Numeric(Some((1000, 0)));
            let whole = input_explicit(&rounded, text)?;
            input_explicit(ty, &printed(&rounded, whole.as_ref()))
        }
        (Json::Number(text), _) if ty.is_numeric() => input_explicit(ty, text),
        _ => refuse(),
    }
}

fn elements(json: &Json<'_>, write: impl Fn(&Json<'_>, &mut Vec<u8>)) -> Outcome {
    let Json::Array(elements) = json else {
        return Err(invalid_parameter(match json {
            Json::Object(_) => "cannot extract elements from an object",
            _ => "cannot extract elements from a scalar",
        }));
    };
    let mut out = vec![b'['];
    for (index, element) in elements.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(element, &mut out);
    }
    out.push(b']');
    Ok(Value::Text(into_text(out)))
}
