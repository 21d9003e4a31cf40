//! `/v1/consumers`: consumer groups.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use springhead_engine::cdc::{Consumer, FeedSpec, NewConsumer, Reader, Start, parse_cursor};
use springhead_proto::{Lsn, TimestampMs};

use super::body::{Response, json_response};
use super::error::HttpError;
use super::request::{Request, finish_fields, take_flag, take_number, take_text};

const FIELDS: [&str; 6] = [
    "name",
    "collection",
    "cursor",
    "since_lsn",
    "since_ms",
    "pin_bytes",
];

/// Lists consumers, or makes one.
///
/// # Errors
/// What is wrong with the request.
pub async fn all(mut request: Request) -> Result<Response, HttpError> {
    let min_lsn = request.params.min_lsn()?;
    let tenant_id = request.tenant_id()?;
    std::mem::take(&mut request.params).finish(&["tenant_id", "min_lsn"])?;
    let tenant = request.app.node.engine.tenant(tenant_id).await?;
    if let Some(lsn) = min_lsn {
        tenant.wait_visible(lsn).await?;
    }
    if request.method == Method::GET {
        let (consumers, lsn) = request.app.cdc.consumers(&tenant).await?;
        let reader = Reader::new(&request.principal);
        let mut list: Vec<Value> = Vec::with_capacity(consumers.len());
        for consumer in &consumers {
            if request.app.cdc.may_use(consumer, &reader)? {
                list.push(object(consumer));
            }
        }
        return Ok(json_response(
            StatusCode::OK,
            &json!({ "consumers": list, "lsn": lsn.0 }),
        ));
    }
    let mut fields = request.json_object().await?;
    let name = take_text(&mut fields, "name")?
        .ok_or_else(|| HttpError::parameter("\"name\" is missing"))?;
    let collection = take_text(&mut fields, "collection")?;
    let cursor = take_text(&mut fields, "cursor")?
        .map(|text| parse_cursor(&text))
        .transpose()?;
    let since_lsn = take_number(&mut fields, "since_lsn")?.map(|lsn| Start::SinceLsn(Lsn(lsn)));
    let since_ms =
        take_number(&mut fields, "since_ms")?.map(|time| Start::SinceMs(TimestampMs(time)));
    let pin_bytes = take_number(&mut fields, "pin_bytes")?;
    finish_fields(&fields, &FIELDS)?;
    let reader = Reader::new(&request.principal);
    if let Some(collection) = &collection {
        // Whoever may not read it is told so now.
        let spec = FeedSpec {
            collection: Some(collection.clone()),
            ..FeedSpec::default()
        };
        request.app.cdc.plan(&tenant, spec, &reader)?;
    }
    let owner = reader.identify(&request.app.node.engine)?.role.to_string();
    let start = cursor.map(Start::After).or(since_lsn).or(since_ms);
    let (consumer, lsn) = request
        .app
        .cdc
        .create_consumer(
            &tenant,
            NewConsumer {
                name,
                collection,
                start,
                pin_bytes,
                owner: Some(owner),
            },
        )
        .await?;
    Ok(answer(StatusCode::CREATED, &consumer, lsn))
}

/// Shows or deletes one consumer.
///
/// # Errors
/// SH003 if there is none.
pub async fn one(mut request: Request) -> Result<Response, HttpError> {
    let min_lsn = request.params.min_lsn()?;
    let tenant_id = request.tenant_id()?;
    std::mem::take(&mut request.params).finish(&["tenant_id", "min_lsn"])?;
    let tenant = request.app.node.engine.tenant(tenant_id).await?;
    if let Some(lsn) = min_lsn {
        tenant.wait_visible(lsn).await?;
    }
    let name = request.segments.pop().unwrap_or_default();
    let reader = Reader::new(&request.principal);
    let (consumer, lsn) = request.app.cdc.consumer_of(&tenant, &name, &reader).await?;
    if request.method == Method::DELETE {
        let lsn = request.app.cdc.delete_consumer(&tenant, &name).await?;
        return Ok(json_response(
            StatusCode::OK,
            &json!({ "name": name, "lsn": lsn.0 }),
        ));
    }
    Ok(answer(StatusCode::OK, &consumer, lsn))
}

/// Moves a consumer's cursor.
///
/// # Errors
/// What is wrong with the cursor or the consumer.
pub async fn commit(mut request: Request) -> Result<Response, HttpError> {
    let min_lsn = request.params.min_lsn()?;
    let tenant_id = request.tenant_id()?;
    std::mem::take(&mut request.params).finish(&["tenant_id", "min_lsn"])?;
    let tenant = request.app.node.engine.tenant(tenant_id).await?;
    if let Some(lsn) = min_lsn {
        tenant.wait_visible(lsn).await?;
    }
    let name = request.segments.pop().unwrap_or_default();
    let mut fields = request.json_object().await?;
    let cursor = take_text(&mut fields, "cursor")?
        .ok_or_else(|| HttpError::parameter("\"cursor\" is missing"))?;
    let rewind = take_flag(&mut fields, "rewind")?;
    finish_fields(&fields, &["cursor", "rewind"])?;
    let cursor = parse_cursor(&cursor)?;
    let reader = Reader::new(&request.principal);
    request.app.cdc.consumer_of(&tenant, &name, &reader).await?;
    let (consumer, lsn) = request
        .app
        .cdc
        .commit_consumer(&tenant, &name, cursor, rewind)
        .await?;
    Ok(answer(StatusCode::OK, &consumer, lsn))
}

fn answer(status: StatusCode, consumer: &Consumer, lsn: Lsn) -> Response {
    let mut value = object(consumer);
    value["lsn"] = lsn.0.into();
    json_response(status, &value)
}

fn object(consumer: &Consumer) -> Value {
    json!({
        "name": consumer.name,
        "collection": consumer.collection,
        "cursor": consumer.cursor.to_string(),
        "pin_bytes": consumer.pin_bytes,
        "state": if consumer.expired { "expired" } else { "active" },
        "created_at": consumer.created_at,
        "updated_at": consumer.updated_at,
    })
}
