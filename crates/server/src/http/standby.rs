//! Standbys over HTTP: the upgrade that nodes speak to one another over, and what an administrator
//! asks of a node: `POST /v1/promote`, `GET /v1/standbys`, `POST /v1/standbys/switchover`,
//! `POST /v1/standbys/witness`, `DELETE /v1/standbys/{name}`.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::json;
use springhead_proto::{ErrorCode, SqlError};

use super::body::{Body, Response, json_response};
use super::error::HttpError;
use super::request::{Request, finish_fields, take_flag, take_text};
use crate::standby::dial::PROTOCOL;
use crate::standby::promote::{self, Call};
use crate::standby::{Replication, sender, status};
use crate::vote::elect;

/// Answers another node's upgrade; who it is it proves afterwards, by the cluster's token.
///
/// # Errors
/// 28000 where this node has users and no token, 08P01 for what is no upgrade.
pub fn upgrade(mut request: Request) -> Result<Response, HttpError> {
    std::mem::take(&mut request.params).finish(&[])?;
    let replication = replication(&request)?;
    if replication.options.token.is_empty() && !request.app.node.engine.roles().is_open {
        return Err(SqlError::new(
            ErrorCode::InvalidAuthorization,
            "this node has users and no standby_token",
        )
        .with_hint("set the same standby_token on all nodes")
        .into());
    }
    let asks = request
        .header("upgrade")
        .is_some_and(|word| word.eq_ignore_ascii_case(PROTOCOL));
    let Some(on_upgrade) = request.upgrade.take().filter(|_| asks) else {
        return Err(HttpError::new(
            ErrorCode::ProtocolViolation,
            format!("this path is for other nodes: it upgrades to {PROTOCOL} over HTTP/1.1"),
        ));
    };
    tokio::spawn(async move {
        let Ok(upgraded) = on_upgrade.await else {
            return;
        };
        let serving = sender::serve(Arc::clone(&replication), TokioIo::new(upgraded));
        tokio::select! {
            () = Box::pin(serving) => {}
            () = replication.serving_ended() => {}
        }
    });
    let mut answer = Response::new(Body::Empty);
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
    Ok(answer)
}

/// Makes this node the primary.
///
/// # Errors
/// 42501 for who is no superuser, and what [`promote::promote`] says.
pub async fn promote(mut request: Request) -> Result<Response, HttpError> {
    let (replication, mut fields) = administer(&mut request).await?;
    let force = take_flag(&mut fields, "force")?;
    finish_fields(&fields, &["force"])?;
    let record = promote::promote(&replication, Call::Command { force }).await?;
    Ok(json_response(
        StatusCode::OK,
        &json!({
            "role": "primary",
            "epoch": record.epoch.to_string(),
            "epoch_number": record.number,
            "fork_lsn": record.fork_lsn.0,
        }),
    ))
}

/// The standbys of this node.
///
/// # Errors
/// 42501 for who is no superuser.
pub async fn list(mut request: Request) -> Result<Response, HttpError> {
    let replication = administer(&mut request).await?.0;
    Ok(json_response(
        StatusCode::OK,
        &json!({ "standbys": status::list(&replication) }),
    ))
}

/// Hands over to a standby.
///
/// # Errors
/// 42501 for who is no superuser, and what [`promote::switch_over`] says.
pub async fn switch_over(mut request: Request) -> Result<Response, HttpError> {
    let (replication, mut fields) = administer(&mut request).await?;
    let to = take_text(&mut fields, "to")?;
    finish_fields(&fields, &["to"])?;
    let primary = promote::switch_over(&replication, to).await?;
    Ok(json_response(
        StatusCode::OK,
        &json!({ "role": "standby", "primary": primary }),
    ))
}

/// Has a witness that is blank serve this node's cluster.
///
/// # Errors
/// 42501 for who is no superuser, and what [`elect::enrol_again`] says.
pub async fn enrol_witness(mut request: Request) -> Result<Response, HttpError> {
    let (replication, mut fields) = administer(&mut request).await?;
    let force = take_flag(&mut fields, "force")?;
    finish_fields(&fields, &["force"])?;
    let Some(voting) = &replication.voting else {
        return Err(
            SqlError::new(ErrorCode::ObjectNotInState, "this node knows of no witness")
                .with_hint("set witness and failover_nodes on it")
                .into(),
        );
    };
    elect::enrol_again(&replication, voting, force).await?;
    Ok(json_response(StatusCode::OK, &voting.status()["witness"]))
}

/// Forgets a standby that is gone for good, and the log that is kept for it.
///
/// # Errors
/// 42501 for who is no superuser, SH006 if there is none that is not connected.
pub async fn forget(mut request: Request) -> Result<Response, HttpError> {
    let replication = administer(&mut request).await?.0;
    let name = request.segments.pop().unwrap_or_default();
    if replication.slots.drop_slot(&name) {
        return Ok(json_response(StatusCode::OK, &json!({ "dropped": name })));
    }
    Err(HttpError::new(
        ErrorCode::NotFound,
        format!("there is no standby \"{name}\" that is not connected"),
    ))
}

fn replication(request: &Request) -> Result<Arc<Replication>, HttpError> {
    request.app.node.replication.clone().ok_or_else(|| {
        HttpError::new(
            ErrorCode::FeatureNotSupported,
            "this node's log cannot be followed",
        )
    })
}

/// For superusers only; with the fields of the body, if there is one.
async fn administer(
    request: &mut Request,
) -> Result<(Arc<Replication>, serde_json::Map<String, serde_json::Value>), HttpError> {
    std::mem::take(&mut request.params).finish(&[])?;
    if !request
        .app
        .node
        .engine
        .identify(&request.principal)?
        .superuser
    {
        return Err(HttpError::new(
            ErrorCode::InsufficientPrivilege,
            "permission denied: it takes a superuser to administer nodes",
        ));
    }
    let fields = if request.method == http::Method::POST {
        request.object_or_empty().await?
    } else {
        serde_json::Map::new()
    };
    Ok((replication(request)?, fields))
}
