//! `POST /v1/session` and `POST /v1/tickets`: what a login is exchanged for by those who cannot send
//! a header each time (browsers' `EventSource`).

use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use springhead_engine::access::{AuditEvent, Principal};
use springhead_proto::ErrorCode;

use super::body::{Body, Response, json_response};
use super::error::HttpError;
use super::request::{Request, finish_fields, take_text};
use crate::auth::signed::{self, Use};
use crate::auth::web::SESSION_COOKIE;

/// Begins a session (POST), says whose it is (GET), or ends it (DELETE).
///
/// # Errors
/// 28P01 or 28000 for credentials that are not good.
pub async fn session(mut request: Request) -> Result<Response, HttpError> {
    std::mem::take(&mut request.params).finish(&[])?;
    match request.method {
        http::Method::POST => begin(request).await,
        http::Method::DELETE => {
            let mut answer = Response::new(Body::Empty);
            *answer.status_mut() = StatusCode::NO_CONTENT;
            set_cookie(&mut answer, "", Duration::ZERO, request.is_secure);
            Ok(answer)
        }
        _ => Ok(json_response(StatusCode::OK, &whose(&request.principal))),
    }
}

async fn begin(mut request: Request) -> Result<Response, HttpError> {
    let app = request.app.clone();
    let (auth, engine) = (&app.node.auth, &app.node.engine);
    let mut object = request.json_object().await?;
    let user = take_text(&mut object, "user")?;
    let password = take_text(&mut object, "password")?;
    let token = take_text(&mut object, "token")?;
    finish_fields(&object, &["user", "password", "token"])?;
    let address = request.peer.ip();
    let principal = match (user, password, token) {
        (Some(user), Some(password), None) => {
            auth.password(engine, &user, &password, address)?.into()
        }
        (None, None, Some(token)) => auth.bearer(engine, &token, address)?.into(),
        (None, None, None) => request.principal.clone(),
        _ => {
            return Err(HttpError::parameter(
                "give \"user\" and \"password\", or \"token\", or an Authorization header",
            ));
        }
    };
    engine.identify(&principal)?;
    let lifetime = app.node.config.session_lifetime;
    let Some((cookie, _)) = sign(&request, &principal, Use::Cookie, lifetime) else {
        return Err(nothing_to_show());
    };
    auth.note(AuditEvent {
        actor: principal.user.to_string(),
        action: "begin session",
        address: Some(address.to_string()),
        outcome: "ok",
        ..AuditEvent::default()
    });
    let mut answer = json_response(StatusCode::OK, &whose(&principal));
    set_cookie(&mut answer, &cookie, lifetime, request.is_secure);
    Ok(answer)
}

fn whose(principal: &Principal) -> serde_json::Value {
    json!({ "user": &*principal.user, "read_only": principal.read_only })
}

/// Makes a ticket: reading one path, for whoever has it.
///
/// # Errors
/// 22023 for a path that is none.
pub async fn ticket(mut request: Request) -> Result<Response, HttpError> {
    std::mem::take(&mut request.params).finish(&[])?;
    let mut object = request.json_object().await?;
    let path = take_text(&mut object, "path")?;
    finish_fields(&object, &["path"])?;
    let path = path
        .filter(|path| path.starts_with("/cdc") || path.starts_with("/live"))
        .filter(|path| !path.contains(['?', '#']))
        .ok_or_else(|| {
            HttpError::parameter(
                "\"path\" is the path of a feed without its query, as in /cdc/orders",
            )
        })?;
    let lifetime = request.app.node.config.ticket_lifetime;
    let good_for = Use::Ticket(path.clone());
    let principal = request.principal.clone();
    let (ticket, expires_us) =
        sign(&request, &principal, good_for, lifetime).ok_or_else(nothing_to_show)?;
    Ok(json_response(
        StatusCode::OK,
        &json!({ "ticket": ticket, "path": path, "expires_at_ms": expires_us / 1000 }),
    ))
}

fn sign(
    request: &Request,
    principal: &Principal,
    good_for: Use,
    lifetime: Duration,
) -> Option<(String, i64)> {
    let node = &request.app.node;
    let now_us = i64::try_from(node.engine.clock().now_ms())
        .ok()?
        .checked_mul(1000)?;
    let lifetime_us = i64::try_from(lifetime.as_micros()).ok()?;
    let expires_us = now_us.checked_add(lifetime_us)?;
    signed::sign(
        &node.engine,
        &node.auth.secret,
        principal,
        good_for,
        expires_us,
    )
}

fn nothing_to_show() -> HttpError {
    HttpError::new(
        ErrorCode::ObjectNotInState,
        "there are no users yet: nobody needs to log in",
    )
}

fn set_cookie(answer: &mut Response, value: &str, lifetime: Duration, is_secure: bool) {
    let secure = if is_secure { "; Secure" } else { "" };
    let cookie = format!(
        "{SESSION_COOKIE}={value}; Path=/; Max-Age={}; HttpOnly; SameSite=Strict{secure}",
        lifetime.as_secs()
    );
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        answer.headers_mut().insert(header::SET_COOKIE, cookie);
    }
}
