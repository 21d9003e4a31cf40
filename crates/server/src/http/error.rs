//! Errors as HTTP tells them: `{"error":{"code","message","hint?",…}}`.

use http::StatusCode;
use serde_json::{Map, Value, json};
use springhead_engine::cdc::{CdcError, RefusedCursor};
use springhead_proto::{ErrorCode, SqlError};

use super::body::{Response, json_response};

/// Why a request is refused or failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HttpError {
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// A position that cannot be resumed from.
    #[error("{refused}")]
    Refused {
        code: ErrorCode,
        refused: RefusedCursor,
    },
    /// Statement number `index`, from 0, of a transaction failed.
    #[error("statement {index}: {error}")]
    Statement { index: usize, error: SqlError },
    /// The request's head is too long.
    #[error("the request's head is {head_bytes} bytes long, over the limit of {limit}")]
    Head { head_bytes: usize, limit: usize },
    /// With the methods that the path takes.
    #[error("{method} is not for this path")]
    Method { method: String, allowed: String },
}

impl From<CdcError> for HttpError {
    fn from(error: CdcError) -> HttpError {
        match error {
            CdcError::Refused { code, refused } => HttpError::Refused { code, refused },
            CdcError::Sql(error) => HttpError::Sql(error),
        }
    }
}

impl HttpError {
    /// With a message alone.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> HttpError {
        SqlError::new(code, message).into()
    }

    /// 22023: a parameter or a field of the body.
    pub fn parameter(message: impl Into<String>) -> HttpError {
        HttpError::new(ErrorCode::InvalidParameterValue, message)
    }

    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            HttpError::Sql(error) | HttpError::Statement { error, .. } => error.code,
            HttpError::Refused { code, .. } => *code,
            HttpError::Head { .. } => ErrorCode::StatementTooLarge,
            HttpError::Method { .. } => ErrorCode::MethodNotAllowed,
        }
    }

    /// The object under `"error"`.
    #[must_use]
    pub fn object(&self) -> Map<String, Value> {
        let mut object = Map::new();
        let code = self.code();
        object.insert("code".to_owned(), code.word().into());
        let state = match self {
            HttpError::Sql(error) | HttpError::Statement { error, .. } => error.sqlstate(),
            _ => code.sqlstate().0,
        };
        object.insert("sqlstate".to_owned(), state.into());
        match self {
            HttpError::Sql(error) => sql_fields(&mut object, error),
            HttpError::Statement { index, error } => {
                sql_fields(&mut object, error);
                object.insert("statement".to_owned(), (*index).into());
            }
            HttpError::Refused { refused, .. } => {
                object.insert("message".to_owned(), refused.to_string().into());
                object.insert("hint".to_owned(), refused.hint().into());
                object.insert("earliest_lsn".to_owned(), refused.earliest_lsn.0.into());
                if let Some(fork_lsn) = refused.fork_lsn() {
                    object.insert("fork_lsn".to_owned(), fork_lsn.0.into());
                }
            }
            HttpError::Head { .. } => {
                object.insert("message".to_owned(), self.to_string().into());
            }
            HttpError::Method { allowed, .. } => {
                object.insert("message".to_owned(), self.to_string().into());
                object.insert("hint".to_owned(), format!("it takes: {allowed}").into());
            }
        }
        object
    }

    /// The answer.
    #[must_use]
    pub fn response(&self) -> Response {
        let status = match self {
            HttpError::Head { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            _ => StatusCode::from_u16(self.code().http_status())
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        };
        let mut response = json_response(status, &json!({ "error": self.object() }));
        let headers = response.headers_mut();
        if let HttpError::Method { allowed, .. } = self
            && let Ok(allowed) = allowed.parse()
        {
            headers.insert(http::header::ALLOW, allowed);
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(
                http::header::WWW_AUTHENTICATE,
                http::HeaderValue::from_static(
                    "Bearer realm=\"springhead\", Basic realm=\"springhead\"",
                ),
            );
        }
        if matches!(
            status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        ) {
            headers.insert(
                http::header::RETRY_AFTER,
                http::HeaderValue::from_static("1"),
            );
        }
        response
    }
}

fn sql_fields(object: &mut Map<String, Value>, error: &SqlError) {
    object.insert("message".to_owned(), error.message.clone().into());
    let texts = [
        ("detail", &error.detail),
        ("hint", &error.hint),
        ("table", &error.table),
        ("column", &error.column),
        ("constraint", &error.constraint),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            object.insert(name.to_owned(), text.clone().into());
        }
    }
    if let Some(position) = error.position {
        object.insert("position".to_owned(), position.into());
    }
}
