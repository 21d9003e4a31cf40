//! What a cell shows, and how it is the same in Yjs.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value as Json;
use yrs::{Any, Number};

use crate::CrdtError;
use crate::cell::Kind;

/// What a row shows of a cell.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    Text(String),
    /// Elements are plain JSON. Their numbers are doubles, as in JavaScript.
    List(Vec<Json>),
}

impl Content {
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Content::Text(_) => Kind::Text,
            Content::List(_) => Kind::List,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Content::Text(text) => text.is_empty(),
            Content::List(elements) => elements.is_empty(),
        }
    }
}

/// The largest whole number that a double tells from its neighbours.
const SAFE: i64 = (1 << 53) - 1;

pub(crate) fn to_any(json: &Json) -> Any {
    match json {
        Json::Null => Any::Null,
        Json::Bool(value) => Any::Bool(*value),
        Json::Number(number) => Any::Number(match number.as_i64() {
            Some(whole) if (-SAFE..=SAFE).contains(&whole) => Number::Int(whole),
            _ => Number::Float(number.as_f64().unwrap_or(f64::MAX)),
        }),
        Json::String(text) => Any::String(Arc::from(text.as_str())),
        Json::Array(elements) => Any::Array(elements.iter().map(to_any).collect()),
        Json::Object(members) => {
            let members = members
                .iter()
                .map(|(name, value)| (name.clone(), to_any(value)));
            Any::Map(Arc::new(members.collect::<HashMap<_, _>>()))
        }
    }
}

/// # Errors
/// [`CrdtError::Malformed`] for what JSON has no word for.
pub(crate) fn to_json(any: &Any) -> Result<Json, CrdtError> {
    Ok(match any {
        Any::Null | Any::Undefined => Json::Null,
        Any::Bool(value) => Json::Bool(*value),
        Any::Number(Number::Int(whole)) => Json::from(*whole),
        Any::Number(Number::Float(value)) => number(*value)?,
        Any::String(text) => Json::String(text.to_string()),
        Any::Buffer(_) => {
            return Err(CrdtError::Malformed(
                "an element of a list is JSON, not bytes".to_owned(),
            ));
        }
        Any::Array(elements) => {
            Json::Array(elements.iter().map(to_json).collect::<Result<_, _>>()?)
        }
        Any::Map(members) => {
            let mut names: Vec<_> = members.iter().collect();
            names.sort_unstable_by_key(|(name, _)| name.as_str());
            let members = names
                .into_iter()
                .map(|(name, value)| Ok((name.clone(), to_json(value)?)));
            Json::Object(members.collect::<Result<_, CrdtError>>()?)
        }
    })
}

fn number(value: f64) -> Result<Json, CrdtError> {
    let limit = SAFE as f64;
    if value.fract() == 0.0 && (-limit..=limit).contains(&value) {
        #[expect(clippy::cast_possible_truncation, reason = "it is whole and in range")]
        return Ok(Json::from(value as i64));
    }
    serde_json::Number::from_f64(value)
        .map(Json::Number)
        .ok_or_else(|| CrdtError::Malformed("a number of a list is finite".to_owned()))
}
