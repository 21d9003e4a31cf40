//! What every request must pass before its path is looked at: lengths, the Host that it names
//! (DNS rebinding), the Origin that it comes from, and the type of its body.

use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};
use springhead_proto::{ErrorCode, SqlError};

use super::body::{Body, Response};
use super::config::HttpConfig;
use super::error::HttpError;
use super::params::shown;

/// Checks a request's head. `Ok` holds the origin to name in the answer, for a browser's page of
/// another origin that may read it.
///
/// # Errors
/// SH011, 54000, 08P01 or SH008.
pub fn check(
    config: &HttpConfig,
    version: Version,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Option<HeaderValue>, HttpError> {
    let uri_bytes = uri.path_and_query().map_or(0, |uri| uri.as_str().len());
    if uri_bytes > config.max_uri_bytes {
        return Err(HttpError::new(
            ErrorCode::UriTooLong,
            format!(
                "path and query are {uri_bytes} bytes long, over the limit of {}",
                config.max_uri_bytes
            ),
        ));
    }
    let head_bytes = uri_bytes + header_bytes(headers);
    if head_bytes > config.max_head_bytes {
        return Err(HttpError::Head {
            head_bytes,
            limit: config.max_head_bytes,
        });
    }
    let host = check_host(config, version, uri, headers)?;
    let origin = check_origin(config, &host, headers)?;
    Ok(origin)
}

/// Refuses a body that is no JSON: a form of another site can send those without asking.
///
/// # Errors
/// SH009.
pub fn expect_json(method: &Method, headers: &HeaderMap) -> Result<(), HttpError> {
    if (method == Method::POST || method == Method::PUT || method == Method::PATCH)
        && !is_json(headers)
    {
        return Err(SqlError::new(
            ErrorCode::UnsupportedMediaType,
            "the body must be application/json",
        )
        .with_hint("send content-type: application/json")
        .into());
    }
    // Nothing that comes in is ever unpacked: there is no small body that becomes a large one.
    let encodings = headers.get_all(header::CONTENT_ENCODING);
    if encodings.iter().any(|encoding| encoding != "identity") {
        return Err(HttpError::new(
            ErrorCode::UnsupportedMediaType,
            "the body must not be encoded",
        ));
    }
    Ok(())
}

/// Answers a browser's question whether it may ask.
pub fn preflight() -> Response {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = http::StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE"),
    );
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("content-type, last-event-id, authorization"),
    );
    headers.insert(
        header::ACCESS_CONTROL_MAX_AGE,
        HeaderValue::from_static("600"),
    );
    response
}

/// Lets a page of an allowed origin read the answer.
pub fn allow(response: &mut Response, origin: Option<HeaderValue>) {
    let headers = response.headers_mut();
    headers.insert(
        header::VARY,
        HeaderValue::from_static("origin, accept-encoding"),
    );
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    }
}

/// As they were written, but for blanks.
fn header_bytes(headers: &HeaderMap) -> usize {
    let lines = headers.iter();
    lines
        .map(|(name, value)| name.as_str().len() + ": \r\n".len() + value.len())
        .sum()
}

fn check_host(
    config: &HttpConfig,
    version: Version,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<String, HttpError> {
    // Of two, a proxy may have gone by the other (RFC 9112, 3.2).
    if headers.get_all(header::HOST).iter().nth(1).is_some() {
        return Err(HttpError::new(
            ErrorCode::ProtocolViolation,
            "the request names more than one host",
        ));
    }
    let host = match (uri.authority(), headers.get(header::HOST)) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(host)) => host.to_str().unwrap_or("?"),
        // Which no browser speaks.
        (None, None) if version <= Version::HTTP_10 => return Ok(String::new()),
        (None, None) => {
            return Err(HttpError::new(
                ErrorCode::ProtocolViolation,
                "the request names no host",
            ));
        }
    };
    let name = host_name(host);
    if is_loopback(name)
        || config
            .allowed_hosts
            .iter()
            .any(|allowed| allowed.eq_ignore_ascii_case(name))
    {
        return Ok(host.to_ascii_lowercase());
    }
    Err(SqlError::new(
        ErrorCode::ForbiddenOrigin,
        format!("host \"{}\" is not served here", shown(name)),
    )
    .with_hint("add it to allowed_hosts if it is this server's name")
    .into())
}

/// Without its port.
fn host_name(host: &str) -> &str {
    if host.starts_with('[') {
        return host.find(']').map_or(host, |end| &host[..=end]);
    }
    host.split_once(':').map_or(host, |(name, _)| name)
}

fn is_loopback(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    if name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost") {
        return true;
    }
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<std::net::IpAddr>()
        .is_ok_and(|address| address.to_canonical().is_loopback())
}

fn check_origin(
    config: &HttpConfig,
    host: &str,
    headers: &HeaderMap,
) -> Result<Option<HeaderValue>, HttpError> {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return Ok(None);
    };
    let text = origin.to_str().unwrap_or("?");
    let authority = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    if authority.is_some_and(|authority| !host.is_empty() && authority.eq_ignore_ascii_case(host)) {
        return Ok(None);
    }
    if config.cors_origins.iter().any(|allowed| allowed == text) {
        return Ok(Some(origin.clone()));
    }
    Err(SqlError::new(
        ErrorCode::ForbiddenOrigin,
        format!("origin \"{}\" may not ask here", shown(text)),
    )
    .with_hint("add it to cors_origins if its pages may read this server")
    .into())
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(method: &str, pairs: &[(&'static str, &str)]) -> Result<bool, ErrorCode> {
        let config = HttpConfig {
            allowed_hosts: vec!["db.example.org".to_owned()],
            cors_origins: vec!["https://app.example.org".to_owned()],
            ..HttpConfig::default()
        };
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        let method = method.parse().unwrap();
        check(
            &config,
            Version::HTTP_11,
            &Uri::from_static("/cdc"),
            &headers,
        )
        .and_then(|origin| expect_json(&method, &headers).map(|()| origin))
        .map(|origin| origin.is_some())
        .map_err(|error| error.code())
    }

    #[test]
    fn g6_foreign_hosts_and_origins_are_refused() {
        for host in [
            "127.0.0.1:6480",
            "localhost",
            "LOCALHOST:1",
            "app.localhost:6480",
            "[::1]:6480",
            "127.9.9.9",
            "DB.example.org:80",
        ] {
            assert_eq!(verdict("GET", &[("host", host)]), Ok(false), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:6480",
            "192.168.1.1",
            "[::2]",
            "",
        ] {
            assert_eq!(
                verdict("GET", &[("host", host)]),
                Err(ErrorCode::ForbiddenOrigin),
                "{host}"
            );
        }
        let from = |origin| verdict("GET", &[("host", "127.0.0.1:6480"), ("origin", origin)]);
        assert_eq!(from("http://127.0.0.1:6480"), Ok(false));
        assert_eq!(from("https://app.example.org"), Ok(true));
        for origin in [
            "null",
            "http://127.0.0.1:9999",
            "http://localhost:6480",
            "https://app.example.org.evil",
            "http://evil.example",
        ] {
            assert_eq!(from(origin), Err(ErrorCode::ForbiddenOrigin), "{origin}");
        }
    }

    #[test]
    fn g6_a_post_must_be_json_so_that_no_form_can_make_it() {
        let post = |content_type| {
            verdict(
                "POST",
                &[("host", "localhost"), ("content-type", content_type)],
            )
        };
        assert_eq!(post("application/json; charset=utf-8"), Ok(false));
        for other in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
            "application/jsonp",
        ] {
            assert_eq!(post(other), Err(ErrorCode::UnsupportedMediaType), "{other}");
        }
        assert_eq!(
            verdict("POST", &[("host", "localhost")]),
            Err(ErrorCode::UnsupportedMediaType)
        );
    }
}
