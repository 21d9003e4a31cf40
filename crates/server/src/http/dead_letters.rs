//! `/v1/dead-letters` and `/v1/dead-letter-policies`: what becomes of rejected mutations. All of it is
//! the session's to do, so that rights, policies and audit are those of SQL.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use springhead_engine::Session;
use springhead_engine::dead_letters::{
    ANY_VIOLATION, Action, OnFull, Outcome, PolicyChange, PolicyInForce, Redriven,
};
use springhead_engine::session::{DeadLetterFilter, REDRIVE_RATE, read_operations, rejected_again};
use springhead_proto::{ErrorCode, Lsn, SqlError};

use super::body::{Response, json_response, response};
use super::error::HttpError;
use super::request::{Request, finish_fields, take_field, take_number, take_text};

const LIMIT: u64 = 100;
const MAX_LIMIT: u64 = 1000;
const POLICY_FIELDS: [&str; 5] = ["ttl_s", "action", "max_entries", "on_full", "violation"];
/// How long a redrive is waited for before the answer is that it runs.
const REDRIVE_WAIT: Duration = Duration::from_secs(10);

/// Lists them by number.
///
/// # Errors
/// 42501, 22023, or what SQL says.
pub async fn list(mut request: Request) -> Result<Response, HttpError> {
    let limit = request.params.number("limit")?.unwrap_or(LIMIT);
    if limit == 0 {
        return Err(HttpError::parameter("limit is at least 1"));
    }
    let after = request.params.number("after")?.map(number).transpose()?;
    let resolved = match request.params.take("resolved").as_deref() {
        None => None,
        Some("true") => Some(true),
        Some("false") => Some(false),
        Some(_) => return Err(HttpError::parameter("resolved is true or false")),
    };
    let filter = DeadLetterFilter {
        collection: request.params.take("collection"),
        resolved,
        limit: limit.min(MAX_LIMIT),
        after,
    };
    let mut session = begin(&mut request, true).await?;
    let page = session.dead_letters(&filter).await?;
    let next = page.next.map_or(Value::Null, Value::from);
    let body = format!(
        "{{\"entries\":[{}],\"next\":{next},\"lsn\":{}}}",
        page.entries.join(","),
        page.lsn
    );
    Ok(response(
        StatusCode::OK,
        "application/json",
        body.into_bytes(),
    ))
}

/// Shows one.
///
/// # Errors
/// SH006 for one that is not there, or not for the reader.
pub async fn one(mut request: Request) -> Result<Response, HttpError> {
    let id = id(&mut request)?;
    let mut session = begin(&mut request, true).await?;
    let (mut entry, lsn) = session.dead_letter(id).await?;
    entry.pop();
    entry.push_str(&format!(",\"lsn\":{lsn}}}"));
    Ok(response(
        StatusCode::OK,
        "application/json",
        entry.into_bytes(),
    ))
}

/// Tries one again, with other operations if the body has them.
///
/// # Errors
/// What the mutation came to, if it was rejected again; 42501, SH006, 55000.
pub async fn retry(mut request: Request) -> Result<Response, HttpError> {
    let id = id(&mut request)?;
    let mut session = begin(&mut request, false).await?;
    let mut fields = body(&mut request).await?;
    let operations = take_field(&mut fields, "operations")
        .map(|operations| read_operations(&operations.to_string()))
        .transpose()?;
    finish_fields(&fields, &["operations"])?;
    let (retried, lsn) = session.retry_dead_letter(id, operations).await?;
    if let Outcome::Rejected { violation, error } = retried.outcome {
        return Err(rejected_again(id, &violation.to_string(), error).into());
    }
    let mut answer = json!({ "outcome": "applied", "entry": retried.entry.to_json() });
    answer["id"] = id.into();
    answer["resolved"] = retried.entry.resolved.into();
    Ok(answered(answer, lsn))
}

/// Says that one has been dealt with.
///
/// # Errors
/// 42501, SH006, 55000.
pub async fn resolve(mut request: Request) -> Result<Response, HttpError> {
    let id = id(&mut request)?;
    let mut session = begin(&mut request, false).await?;
    let mut fields = body(&mut request).await?;
    let note = take_text(&mut fields, "note")?;
    finish_fields(&fields, &["note"])?;
    let (entry, lsn) = session.resolve_dead_letter(id, note).await?;
    let answer = json!({ "id": id, "resolved": true, "entry": entry.to_json() });
    Ok(answered(answer, lsn))
}

/// Tries all of a collection again. One that takes longer goes on by itself: 202.
///
/// # Errors
/// 42501, 22023, 55006.
pub async fn redrive(mut request: Request) -> Result<Response, HttpError> {
    let mut session = begin(&mut request, false).await?;
    let mut fields = body(&mut request).await?;
    let collection = take_text(&mut fields, "collection")?
        .ok_or_else(|| HttpError::parameter("\"collection\" is missing"))?;
    let rate = take_number(&mut fields, "rate_per_s")?;
    finish_fields(&fields, &["collection", "rate_per_s"])?;
    let rate = rate.map_or(Ok(REDRIVE_RATE), number)?;
    let name = collection.clone();
    let running = tokio::spawn(async move {
        let done = session.redrive_dead_letters(&collection, rate).await;
        done.map(|redriven| (redriven, session.tenant().visible()))
    });
    let answer = |redriven: Redriven, state: &str| {
        json!({
            "collection": name,
            "rate_per_s": rate,
            "state": state,
            "found": redriven.found,
            "applied": redriven.applied,
            "rejected": redriven.rejected,
        })
    };
    match tokio::time::timeout(REDRIVE_WAIT, running).await {
        Ok(Ok(done)) => {
            let (redriven, lsn) = done?;
            Ok(answered(answer(redriven, "done"), lsn))
        }
        Ok(Err(error)) => Err(HttpError::new(ErrorCode::Internal, error.to_string())),
        Err(_) => {
            let value = json!({ "collection": name, "rate_per_s": rate, "state": "running" });
            Ok(json_response(StatusCode::ACCEPTED, &value))
        }
    }
}

/// Shows or sets what happens to a collection's.
///
/// # Errors
/// 42501, 42P01, 22023.
pub async fn policy(mut request: Request) -> Result<Response, HttpError> {
    let collection = request.segments.pop().unwrap_or_default();
    if request.method == Method::GET {
        let violation = request.params.take("violation");
        let violation = violation.as_deref().unwrap_or(ANY_VIOLATION);
        let mut session = begin(&mut request, true).await?;
        let in_force = session.dead_letter_policy(&collection, violation).await?;
        return Ok(json_response(StatusCode::OK, &object(&in_force)));
    }
    let mut session = begin(&mut request, false).await?;
    let mut fields = request.json_object().await?;
    let violation = take_text(&mut fields, "violation")?;
    let change = PolicyChange {
        ttl_s: take_number(&mut fields, "ttl_s")?.map(number).transpose()?,
        action: word::<Action>(&mut fields, "action")?,
        max_entries: take_number(&mut fields, "max_entries")?
            .map(number)
            .transpose()?,
        on_full: word::<OnFull>(&mut fields, "on_full")?,
    };
    finish_fields(&fields, &POLICY_FIELDS)?;
    let violation = violation.as_deref().unwrap_or(ANY_VIOLATION);
    let (in_force, lsn) = session
        .put_dead_letter_policy(&collection, violation, change)
        .await?;
    Ok(answered(object(&in_force), lsn))
}

fn object(in_force: &PolicyInForce) -> Value {
    let policy = in_force.policy;
    json!({
        "collection": in_force.collection,
        "violation": in_force.violation,
        "ttl_s": policy.ttl.as_secs(),
        "action": policy.action.word(),
        "max_entries": policy.max_entries,
        "on_full": policy.on_full.word(),
    })
}

fn word<T: std::str::FromStr<Err = SqlError>>(
    fields: &mut Map<String, Value>,
    name: &str,
) -> Result<Option<T>, HttpError> {
    let word = take_text(fields, name)?;
    Ok(word.map(|word| word.parse()).transpose()?)
}

/// The session that the request is for; what reads may say from which LSN on.
async fn begin(request: &mut Request, reads: bool) -> Result<Session, HttpError> {
    let min_lsn = request.params.min_lsn()?.filter(|_| reads);
    let tenant = request.tenant_id()?;
    std::mem::take(&mut request.params).finish(&["tenant_id", "min_lsn"])?;
    request.session(tenant, min_lsn).await
}

/// The body's fields; none for a body that is empty.
async fn body(request: &mut Request) -> Result<Map<String, Value>, HttpError> {
    request.json_object_or_nothing().await
}

/// The number of a dead letter in a path.
fn id(request: &mut Request) -> Result<i64, HttpError> {
    let text = request.segments.pop().unwrap_or_default();
    text.parse().ok().filter(|id| *id > 0).ok_or_else(|| {
        HttpError::parameter(format!(
            "\"{}\" is no number of a dead letter",
            super::params::shown(&text)
        ))
    })
}

fn number(value: u64) -> Result<i64, HttpError> {
    i64::try_from(value).map_err(|_| HttpError::parameter(format!("{value} is out of range")))
}

fn answered(mut answer: Value, lsn: Lsn) -> Response {
    answer["lsn"] = lsn.0.into();
    json_response(StatusCode::OK, &answer)
}
