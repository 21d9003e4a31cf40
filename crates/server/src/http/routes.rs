//! From a request's path to its handler, and from its outcome to an answer.

use std::sync::Arc;

use http::request::Parts;
use http::{Method, StatusCode, header};
use springhead_engine::access::{Credential, Principal};
use springhead_proto::{ErrorCode, SqlError};

use super::body::{Body, Response, response};
use super::error::HttpError;
use super::params::{Params, decode, shown};
use super::request::{Came, Request, RequestBody};
use super::{
    App, backup, collections, consumers, dead_letters, events, guard, live, openapi, poll, session,
    sql, standby, status, sync, ws,
};
use crate::auth::web::Shown;
use crate::standby::dial::{PATH, PROTOCOL};

/// What event streams take.
pub const EVENT_PARAMETERS: [&str; 14] = [
    "last_event_id",
    "since_lsn",
    "since_ms",
    "snapshot",
    "where",
    "columns",
    "operations",
    "envelope",
    "tx",
    "consumer",
    "tenant_id",
    "min_lsn",
    "ticket",
    "Last-Event-ID (header)",
];

/// What polls take.
pub const POLL_PARAMETERS: [&str; 14] = [
    "cursor",
    "since_lsn",
    "since_ms",
    "limit",
    "wait_ms",
    "where",
    "columns",
    "operations",
    "envelope",
    "tx",
    "consumer",
    "tenant_id",
    "min_lsn",
    "ticket",
];

/// A path with its placeholders, by what serves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    Events,
    Live,
    WebSocket,
    Sync,
    Poll,
    Sql,
    Documents,
    Document,
    Consumers,
    Consumer,
    ConsumerCommit,
    DeadLetters,
    DeadLetter,
    DeadLetterRetry,
    DeadLetterResolve,
    DeadLetterRedrive,
    DeadLetterPolicy,
    Session,
    Tickets,
    Health,
    Ready,
    Metrics,
    OpenApi,
    Status,
    Replication,
    Promote,
    Standbys,
    Switchover,
    EnrolWitness,
    Standby,
    Backup,
}

impl Route {
    /// The methods that it takes.
    pub const fn methods(self) -> &'static [&'static str] {
        match self {
            Route::Sql
            | Route::ConsumerCommit
            | Route::Tickets
            | Route::Promote
            | Route::Switchover
            | Route::EnrolWitness
            | Route::DeadLetterRetry
            | Route::DeadLetterResolve
            | Route::DeadLetterRedrive => &["POST"],
            Route::Standby => &["DELETE"],
            Route::DeadLetterPolicy => &["GET", "PUT"],
            Route::Session => &["GET", "POST", "DELETE"],
            Route::Document => &["GET", "PUT", "PATCH", "DELETE"],
            Route::Consumers => &["GET", "POST"],
            Route::Consumer => &["GET", "DELETE"],
            Route::Events
            | Route::Live
            | Route::WebSocket
            | Route::Sync
            | Route::Poll
            | Route::Documents
            | Route::DeadLetters
            | Route::DeadLetter
            | Route::Health
            | Route::Ready
            | Route::Metrics
            | Route::OpenApi
            | Route::Status
            | Route::Replication
            | Route::Backup
            | Route::Standbys => &["GET"],
        }
    }

    /// Whether it is served without credentials.
    fn is_public(self, method: &Method) -> bool {
        match self {
            Route::Health | Route::Ready | Route::OpenApi => true,
            // Nodes prove who they are to one another in words of their own.
            Route::Replication => true,
            // A device says who it is in its first frame.
            Route::Sync => true,
            Route::Session => *method != Method::GET,
            _ => false,
        }
    }

    /// Whether it only reads, or sees to that itself.
    fn reads(self, method: &Method) -> bool {
        *method == Method::GET || matches!(self, Route::Sql | Route::Session | Route::Tickets)
    }
}

/// Whether a request asks for that upgrade.
fn asks_for(head: &Parts, protocol: &str) -> bool {
    let asked = head.headers.get(header::UPGRADE);
    asked.is_some_and(|asked| asked.as_bytes().eq_ignore_ascii_case(protocol.as_bytes()))
}

/// Finds what serves a path, and what its placeholders stand for, not decoded yet. A collection
/// called `poll` is `public.poll`.
pub fn find(path: &str) -> Option<(Route, Vec<&str>)> {
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    Some(match segments.as_slice() {
        ["live"] => (Route::Live, vec![]),
        ["ws"] => (Route::WebSocket, vec![]),
        ["sync"] => (Route::Sync, vec![]),
        ["cdc"] => (Route::Events, vec![]),
        ["cdc", "poll"] => (Route::Poll, vec![]),
        ["cdc", collection] if !collection.is_empty() => (Route::Events, vec![*collection]),
        ["cdc", collection, "poll"] if !collection.is_empty() => (Route::Poll, vec![*collection]),
        ["v1", "sql"] => (Route::Sql, vec![]),
        ["v1", "collections", collection] if !collection.is_empty() => {
            (Route::Documents, vec![*collection])
        }
        ["v1", "collections", collection, id] if !collection.is_empty() && !id.is_empty() => {
            (Route::Document, vec![*collection, *id])
        }
        ["v1", "consumers"] => (Route::Consumers, vec![]),
        ["v1", "consumers", name] if !name.is_empty() => (Route::Consumer, vec![*name]),
        ["v1", "consumers", name, "commit"] if !name.is_empty() => {
            (Route::ConsumerCommit, vec![*name])
        }
        ["v1", "dead-letters"] => (Route::DeadLetters, vec![]),
        ["v1", "dead-letters", "redrive"] => (Route::DeadLetterRedrive, vec![]),
        ["v1", "dead-letters", id] if !id.is_empty() => (Route::DeadLetter, vec![*id]),
        ["v1", "dead-letters", id, "retry"] if !id.is_empty() => {
            (Route::DeadLetterRetry, vec![*id])
        }
        ["v1", "dead-letters", id, "resolve"] if !id.is_empty() => {
            (Route::DeadLetterResolve, vec![*id])
        }
        ["v1", "dead-letter-policies", collection] if !collection.is_empty() => {
            (Route::DeadLetterPolicy, vec![*collection])
        }
        ["v1", "session"] => (Route::Session, vec![]),
        ["v1", "tickets"] => (Route::Tickets, vec![]),
        ["v1", "backup"] => (Route::Backup, vec![]),
        ["v1", "status"] => (Route::Status, vec![]),
        ["v1", "replication"] => (Route::Replication, vec![]),
        ["v1", "promote"] => (Route::Promote, vec![]),
        ["v1", "standbys"] => (Route::Standbys, vec![]),
        ["v1", "standbys", "switchover"] => (Route::Switchover, vec![]),
        ["v1", "standbys", "witness"] => (Route::EnrolWitness, vec![]),
        ["v1", "standbys", name] if !name.is_empty() => (Route::Standby, vec![*name]),
        ["healthz"] => (Route::Health, vec![]),
        ["readyz"] => (Route::Ready, vec![]),
        ["metrics"] => (Route::Metrics, vec![]),
        ["openapi.json"] => (Route::OpenApi, vec![]),
        _ => return None,
    })
}

/// Answers a request, whatever becomes of it.
pub async fn answer(app: Arc<App>, head: Parts, body: RequestBody) -> Response {
    // Nodes are reached under whatever name; no page of a browser can ask for this upgrade.
    let checked = if head.uri.path() == PATH && asks_for(&head, PROTOCOL) {
        Ok(None)
    } else {
        guard::check(&app.config, head.version, &head.uri, &head.headers)
    };
    let is_head = head.method == Method::HEAD;
    let (mut answer, origin) = match checked {
        Err(error) => (error.response(), None),
        Ok(origin) if head.method == Method::OPTIONS && origin.is_some() => {
            (guard::preflight(), origin)
        }
        Ok(origin) => {
            let served = serve(Arc::clone(&app), head, body).await;
            (served.unwrap_or_else(|error| error.response()), origin)
        }
    };
    if answer.status().is_server_error() {
        tracing::warn!(status = answer.status().as_u16(), "a request failed");
    }
    guard::allow(&mut answer, origin);
    app.metrics.answered(answer.status());
    if is_head {
        let length = match answer.body() {
            Body::Whole(bytes) => Some(bytes.len()),
            Body::Empty | Body::Stream(_) => None,
        };
        *answer.body_mut() = Body::Empty;
        if let Some(length) = length {
            answer
                .headers_mut()
                .insert(header::CONTENT_LENGTH, length.into());
        }
    }
    answer
}

async fn serve(app: Arc<App>, mut head: Parts, body: RequestBody) -> Result<Response, HttpError> {
    let path = head.uri.path();
    let Some((route, segments)) = find(path) else {
        return Err(HttpError::new(
            ErrorCode::NotFound,
            format!("there is nothing at \"{}\"", shown(path)),
        ));
    };
    // HEAD is GET without its body; a stream has no end to be asked for.
    let is_head = head.method == Method::HEAD
        && !matches!(
            route,
            Route::Events
                | Route::Live
                | Route::Poll
                | Route::WebSocket
                | Route::Sync
                | Route::Backup
        );
    let method = if is_head { Method::GET } else { head.method };
    if !route.methods().contains(&method.as_str()) {
        return Err(HttpError::Method {
            method: method.to_string(),
            allowed: route.methods().join(", "),
        });
    }
    guard::expect_json(&method, &head.headers)?;
    let segments = segments
        .into_iter()
        .map(|segment| decode(segment, false))
        .collect::<Result<_, _>>()?;
    let mut params = Params::parse(head.uri.query())?;
    let came = head.extensions.get::<Came>().copied().ok_or_else(|| {
        HttpError::new(
            ErrorCode::Internal,
            "nobody said where the request came from",
        )
    })?;
    let ticket = params.take("ticket");
    refuse_secrets(&params)?;
    let shown = Shown {
        headers: &head.headers,
        ticket: ticket.as_deref(),
        path,
        is_get: matches!(
            route,
            Route::Events | Route::Live | Route::Poll | Route::WebSocket | Route::Sync
        ) && method == Method::GET,
        address: came.peer.ip(),
    };
    let principal = admit(&app, route, &method, came, &shown)?;
    let request = Request {
        app: Arc::clone(&app),
        method,
        headers: head.headers,
        params,
        segments,
        body,
        principal: Arc::clone(&principal),
        peer: came.peer,
        is_secure: came.is_secure,
        upgrade: head.extensions.remove(),
    };
    if route.is_public(&request.method) {
        return Box::pin(handle(route, request)).await;
    }
    // What is revoked while it is served is served no further.
    let engine = app.node.engine.clone();
    let answer = tokio::select! {
        biased;
        answer = Box::pin(handle(route, request)) => answer?,
        error = engine.revoked(&principal) => return Err(error.into()),
    };
    let (head, body) = answer.into_parts();
    let body = body.until(async move {
        engine.revoked(&principal).await;
    });
    Ok(Response::from_parts(head, body))
}

/// Whom a request is made for, if they may make it.
fn admit(
    app: &App,
    route: Route,
    method: &Method,
    came: Came,
    shown: &Shown<'_>,
) -> Result<Arc<Principal>, HttpError> {
    let auth = &app.node.auth;
    if auth.tls_required() && !came.is_secure && !app.node.engine.roles().is_open {
        return Err(HttpError::new(
            ErrorCode::InvalidAuthorization,
            "connections without TLS are not accepted",
        ));
    }
    auth.limits.address(shown.address)?;
    let principal = match auth.principal(&app.node.engine, shown) {
        Ok(principal) => principal,
        // These say nothing of anyone's data, and the session's own path takes credentials in its
        // body.
        Err(_) if route.is_public(method) => nobody(came),
        Err(error) => return Err(error.into()),
    };
    auth.limits.user(&principal.user)?;
    if principal.read_only && !route.reads(method) {
        return Err(HttpError::new(
            ErrorCode::InsufficientPrivilege,
            "the credentials allow reading only",
        ));
    }
    Ok(principal)
}

/// Other names under which people put secrets into URLs, where logs and histories keep them.
fn refuse_secrets(params: &Params) -> Result<(), HttpError> {
    const NAMES: [&str; 9] = [
        "token",
        "access_token",
        "id_token",
        "api_key",
        "apikey",
        "jwt",
        "authorization",
        "password",
        "secret",
    ];
    match NAMES.iter().find(|name| params.has(name)) {
        None => Ok(()),
        Some(name) => Err(SqlError::new(
            ErrorCode::InvalidParameterValue,
            format!("credentials do not belong in a URL: {name}"),
        )
        .with_hint("send an Authorization header; EventSource uses POST /v1/session or a ticket")
        .into()),
    }
}

/// Who asks for what anyone may have.
fn nobody(came: Came) -> Arc<Principal> {
    Arc::new(Principal {
        address: Some(came.peer.ip().to_string().into()),
        read_only: false,
        ..Principal::of("", Credential::Password)
    })
}

async fn handle(route: Route, request: Request) -> Result<Response, HttpError> {
    match route {
        Route::Events => events::stream(request).await,
        Route::Live => Box::pin(live::stream(request)).await,
        Route::WebSocket => Box::pin(ws::upgrade(request)).await,
        Route::Sync => Box::pin(sync::upgrade(request)).await,
        Route::Poll => Box::pin(poll::page(request)).await,
        Route::Sql => Box::pin(sql::run(request)).await,
        Route::Documents => Box::pin(collections::list(request)).await,
        Route::Document => Box::pin(collections::document(request)).await,
        Route::Consumers => Box::pin(consumers::all(request)).await,
        Route::Consumer => Box::pin(consumers::one(request)).await,
        Route::ConsumerCommit => Box::pin(consumers::commit(request)).await,
        Route::DeadLetters => Box::pin(dead_letters::list(request)).await,
        Route::DeadLetter => Box::pin(dead_letters::one(request)).await,
        Route::DeadLetterRetry => Box::pin(dead_letters::retry(request)).await,
        Route::DeadLetterResolve => Box::pin(dead_letters::resolve(request)).await,
        Route::DeadLetterRedrive => Box::pin(dead_letters::redrive(request)).await,
        Route::DeadLetterPolicy => Box::pin(dead_letters::policy(request)).await,
        Route::Session => Box::pin(session::session(request)).await,
        Route::Tickets => Box::pin(session::ticket(request)).await,
        Route::Status => Box::pin(status::status(request)).await,
        Route::Replication => standby::upgrade(request),
        Route::Promote => Box::pin(standby::promote(request)).await,
        Route::Standbys => Box::pin(standby::list(request)).await,
        Route::Switchover => Box::pin(standby::switch_over(request)).await,
        Route::EnrolWitness => standby::enrol_witness(request).await,
        Route::Standby => Box::pin(standby::forget(request)).await,
        Route::Backup => backup::send(request).await,
        Route::Health => status::health(request),
        Route::Ready => status::ready(request),
        Route::Metrics => Box::pin(status::metrics(request)).await,
        Route::OpenApi => {
            request.params.finish(&[])?;
            Ok(response(
                StatusCode::OK,
                "application/json",
                openapi::text(),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_their_handlers() {
        type Case = (&'static str, Option<(Route, &'static [&'static str])>);
        let cases: &[Case] = &[
            ("/cdc", Some((Route::Events, &[]))),
            ("/cdc/poll", Some((Route::Poll, &[]))),
            ("/cdc/orders", Some((Route::Events, &["orders"]))),
            ("/cdc/public.poll", Some((Route::Events, &["public.poll"]))),
            (
                "/cdc/public.poll/poll",
                Some((Route::Poll, &["public.poll"])),
            ),
            ("/cdc/orders/poll", Some((Route::Poll, &["orders"]))),
            (
                "/cdc/springhead.consumers",
                Some((Route::Events, &["springhead.consumers"])),
            ),
            (
                "/v1/collections/t/a%2Fb",
                Some((Route::Document, &["t", "a%2Fb"])),
            ),
            (
                "/v1/consumers/x/commit",
                Some((Route::ConsumerCommit, &["x"])),
            ),
            ("/", None),
            ("/cdc/", None),
            ("/cdc/a/b", None),
            ("/cdc/a/poll/", None),
            ("/v1", None),
            ("/v1/collections/t/a/b", None),
        ];
        for (path, expected) in cases {
            let expected = expected.map(|(route, segments)| (route, segments.to_vec()));
            assert_eq!(find(path), expected, "{path}");
        }
    }
}
