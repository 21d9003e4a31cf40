//! A request on its way to its handler: path, parameters, tenant, body.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use serde_json::{Map, Value};
use springhead_engine::Session;
use springhead_engine::access::Principal;
use springhead_proto::{ErrorCode, Lsn, SqlError, TenantId};

use super::App;
use super::error::HttpError;
use super::params::Params;

/// A request whose head has been read.
pub struct Request {
    pub app: Arc<App>,
    pub method: Method,
    pub headers: HeaderMap,
    pub params: Params,
    /// What the path's placeholders stand for, decoded, first to last.
    pub segments: Vec<String>,
    pub body: RequestBody,
    /// Whom it acts for.
    pub principal: Arc<Principal>,
    /// Where the client is.
    pub peer: SocketAddr,
    /// Whether it came over TLS.
    pub is_secure: bool,
    /// The way to the raw connection, where it can be upgraded.
    pub upgrade: Option<hyper::upgrade::OnUpgrade>,
}

/// How a request came, put into its extensions by whoever read it.
#[derive(Debug, Clone, Copy)]
pub struct Came {
    pub peer: SocketAddr,
    pub is_secure: bool,
}

/// The body of a request, not read yet.
pub enum RequestBody {
    None,
    Hyper(Arriving),
}

/// How long what a client still sends is taken after it was refused.
pub(super) const LINGER: Duration = Duration::from_secs(10);

/// A body on its way. Whoever sends one reads the answer only when all of it has gone, many clients at
/// least, so what is left of it when this is dropped is still taken, for a while, and thrown away (RFC
/// 9112, 9.6).
pub struct Arriving {
    app: Arc<App>,
    body: Option<hyper::body::Incoming>,
    /// The client waits to be told to go on, and has not been.
    waits: bool,
}

impl RequestBody {
    /// Of a request with these headers.
    pub fn of(app: &Arc<App>, headers: &HeaderMap, body: hyper::body::Incoming) -> RequestBody {
        if hyper::body::Body::is_end_stream(&body) {
            return RequestBody::None;
        }
        RequestBody::Hyper(Arriving {
            app: Arc::clone(app),
            body: Some(body),
            waits: headers.contains_key(header::EXPECT),
        })
    }
}

impl Arriving {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// 08P01 if it breaks off.
    async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        self.waits = false;
        let Some(body) = &mut self.body else {
            return Ok(None);
        };
        let data = next_data(body).await;
        if !matches!(data, Ok(Some(_))) {
            self.body = None;
        }
        data
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take().filter(|_| !self.waits) else {
            return;
        };
        if hyper::body::Body::is_end_stream(&body) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let mut shutdown = self.app.shutdown.clone();
        runtime.spawn(async move {
            let rest = async { while let Ok(Some(_)) = next_data(&mut body).await {} };
            tokio::select! {
                () = shutdown.requested() => {}
                _ = tokio::time::timeout(LINGER, rest) => {}
            }
        });
    }
}

impl Request {
    /// One header as text; `None` if it is not there or not text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The tenant that the request is for: that of its credentials, or, if they are for all of them
    /// (as in open mode), the one that `tenant_id` names, or the default one.
    ///
    /// # Errors
    /// 22023 for a malformed id, 3D000 for an unknown one, SH007 for one that is not the credentials'.
    pub fn tenant_id(&mut self) -> Result<TenantId, HttpError> {
        let node = &self.app.node;
        let own = node.engine.tenant_of(&self.principal);
        let asked = self.asked_tenant(own)?;
        let tenant = asked.or(own).unwrap_or(TenantId::DEFAULT);
        self.app.node.auth.limits.tenant(tenant)?;
        Ok(tenant)
    }

    /// What `tenant_id` says.
    fn asked_tenant(&mut self, own: Option<TenantId>) -> Result<Option<TenantId>, HttpError> {
        let Some(text) = self.params.take("tenant_id") else {
            return Ok(None);
        };
        let number = super::params::number("tenant_id", &text)?;
        let unknown = || {
            SqlError::new(
                ErrorCode::UnknownDatabase,
                format!("tenant {number} does not exist"),
            )
        };
        let id = u32::try_from(number)
            .ok()
            .filter(|&id| id > 0)
            .ok_or_else(unknown)?;
        // Whether there is such a tenant is nothing that others' users learn.
        if own.is_some_and(|own| own.0 != id) {
            return Err(HttpError::new(
                ErrorCode::ForbiddenTenant,
                "the credentials are for another tenant than tenant_id",
            ));
        }
        Ok(Some(TenantId(id)))
    }

    /// A session with a tenant.
    ///
    /// # Errors
    /// Why the tenant does not open.
    pub async fn session(
        &self,
        tenant: TenantId,
        min_lsn: Option<Lsn>,
    ) -> Result<Session, HttpError> {
        let mut session = self
            .app
            .node
            .engine
            .session(tenant, &self.principal)
            .await?;
        if let Some(lsn) = min_lsn {
            session.require_lsn(lsn);
        }
        Ok(session)
    }

    /// The body as a JSON object.
    ///
    /// # Errors
    /// SH009 if it is not declared as JSON, 54000 if it is too long, 22021 if it is not UTF-8,
    /// 22023 if it is no JSON object.
    pub async fn json_object(&mut self) -> Result<Map<String, Value>, HttpError> {
        let bytes = self.body_bytes().await?;
        read_object(&bytes)
    }

    /// As [`Request::json_object`]; no body at all is an object without fields.
    ///
    /// # Errors
    /// As [`Request::json_object`].
    pub async fn json_object_or_nothing(&mut self) -> Result<Map<String, Value>, HttpError> {
        let bytes = self.body_bytes().await?;
        if bytes.is_empty() {
            return Ok(Map::new());
        }
        read_object(&bytes)
    }

    /// As [`Request::json_object`]; no body is an object without fields.
    ///
    /// # Errors
    /// As [`Request::json_object`].
    pub async fn object_or_empty(&mut self) -> Result<Map<String, Value>, HttpError> {
        let is_empty = match &self.body {
            RequestBody::None => true,
            RequestBody::Hyper(_) => false,
        };
        if is_empty {
            return Ok(Map::new());
        }
        self.json_object().await
    }

    async fn body_bytes(&mut self) -> Result<Bytes, HttpError> {
        let limit = self.app.config.max_body_bytes;
        let too_long = || {
            HttpError::new(
                ErrorCode::StatementTooLarge,
                format!("the body is over {limit} bytes"),
            )
        };
        let length = self
            .header(header::CONTENT_LENGTH.as_str())
            .and_then(|length| length.parse::<u64>().ok());
        if length.is_some_and(|length| length > limit as u64) {
            return Err(too_long());
        }
        let RequestBody::Hyper(mut body) = std::mem::replace(&mut self.body, RequestBody::None)
        else {
            return Ok(Bytes::new());
        };
        let read = async {
            let mut whole = Vec::new();
            while let Some(chunk) = body.next().await? {
                if whole.len() + chunk.len() > limit {
                    return Err(too_long());
                }
                whole.extend_from_slice(&chunk);
            }
            Ok(Bytes::from(whole))
        };
        let timeout: Duration = self.app.config.body_timeout;
        tokio::time::timeout(timeout, read)
            .await
            .unwrap_or_else(|_| {
                Err(HttpError::new(
                    ErrorCode::ProtocolViolation,
                    "the body did not come in time",
                ))
            })
    }
}

fn read_object(bytes: &[u8]) -> Result<Map<String, Value>, HttpError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| HttpError::new(ErrorCode::InvalidByteSequence, "the body is not UTF-8"))?;
    match super::json::read(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(HttpError::parameter("the body is no JSON object")),
        Err(error) => Err(HttpError::parameter(format!("the body {error}"))),
    }
}

async fn next_data(body: &mut hyper::body::Incoming) -> Result<Option<Bytes>, HttpError> {
    use hyper::body::Body as _;
    loop {
        let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut *body).poll_frame(cx)).await;
        match frame {
            None => return Ok(None),
            Some(Ok(frame)) => {
                // Trailers say nothing to us.
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Some(Err(error)) => {
                return Err(HttpError::new(
                    ErrorCode::ProtocolViolation,
                    format!("the body broke off: {error}"),
                ));
            }
        }
    }
}

/// Takes a field of a JSON object, if it is there and not null.
pub fn take_field(object: &mut Map<String, Value>, name: &str) -> Option<Value> {
    object.remove(name).filter(|value| !value.is_null())
}

/// Takes a text field.
///
/// # Errors
/// 22023 if it is something else.
pub fn take_text(object: &mut Map<String, Value>, name: &str) -> Result<Option<String>, HttpError> {
    match take_field(object, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(HttpError::parameter(format!("\"{name}\" is a text"))),
    }
}

/// Takes a whole number.
///
/// # Errors
/// 22023 if it is something else.
pub fn take_number(object: &mut Map<String, Value>, name: &str) -> Result<Option<u64>, HttpError> {
    match take_field(object, name) {
        None => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or_else(|| {
            HttpError::parameter(format!("\"{name}\" is a whole number of 0 or more"))
        }),
    }
}

/// Takes true or false; false if it is not there.
///
/// # Errors
/// 22023 if it is something else.
pub fn take_flag(object: &mut Map<String, Value>, name: &str) -> Result<bool, HttpError> {
    match take_field(object, name) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(_) => Err(HttpError::parameter(format!("\"{name}\" is true or false"))),
    }
}

/// Refuses what is left of an object.
///
/// # Errors
/// 22023 naming the field.
pub fn finish_fields(object: &Map<String, Value>, known: &[&str]) -> Result<(), HttpError> {
    match object.keys().next() {
        None => Ok(()),
        Some(name) => Err(SqlError::new(
            ErrorCode::InvalidParameterValue,
            format!("unknown field \"{}\"", super::params::shown(name)),
        )
        .with_hint(format!("the fields are: {}", known.join(", ")))
        .into()),
    }
}
