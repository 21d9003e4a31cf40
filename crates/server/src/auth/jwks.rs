//! Fetches a JWKS over https: from the configuration's URL alone, from public addresses alone,
//! without following redirects, within a time and a size.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::jwt::{KeyError, NamedKey, read_set};

const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_BYTES: u64 = 256 << 10;

/// Why keys could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{0} is no https URL")]
    Url(String),
    #[error("{0} has no public address")]
    Private(String),
    #[error("it took over {} s", TIMEOUT.as_secs())]
    Timeout,
    #[error("it is over {MAX_BYTES} bytes")]
    TooLong,
    #[error("it was answered with \"{0}\"; redirects are not followed")]
    Status(String),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Where to fetch from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    host: String,
    port: u16,
    path: String,
}

impl Url {
    /// # Errors
    /// [`FetchError::Url`].
    pub fn parse(text: &str) -> Result<Url, FetchError> {
        let bad = || FetchError::Url(text.to_owned());
        let rest = text.strip_prefix("https://").ok_or_else(bad)?;
        let (place, path) = match rest.find(['/', '?']) {
            Some(end) => rest.split_at(end),
            None => (rest, "/"),
        };
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !host.contains(']') || host.ends_with(']') => {
                (host, port.parse().map_err(|_| bad())?)
            }
            _ => (place, 443),
        };
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if host.is_empty() || host.contains('@') || !is_plain(host) || !is_plain(path) {
            return Err(bad());
        }
        Ok(Url {
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            path: if path.starts_with('/') {
                path.to_owned()
            } else {
                format!("/{path}")
            },
        })
    }
}

/// Fetches the keys.
///
/// # Errors
/// [`FetchError`]; the keys in use stay in use.
pub async fn fetch(url: &Url) -> Result<Vec<NamedKey>, FetchError> {
    let body = tokio::time::timeout(TIMEOUT, get(url))
        .await
        .map_err(|_| FetchError::Timeout)??;
    Ok(read_set(&body)?)
}

async fn get(url: &Url) -> Result<Vec<u8>, FetchError> {
    // The address that is looked at is the one that is connected to.
    let address: SocketAddr = tokio::net::lookup_host((url.host.as_str(), url.port))
        .await?
        .find(|address| is_public(address.ip()))
        .ok_or_else(|| FetchError::Private(url.host.clone()))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name =
        ServerName::try_from(url.host.clone()).map_err(|_| FetchError::Url(url.host.clone()))?;
    let stream = TcpStream::connect(address).await?;
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    // HTTP/1.0: the body ends with the connection, and comes in no chunks.
    let request = format!(
        "GET {} HTTP/1.0\r\nhost: {}\r\naccept: application/json\r\nuser-agent: springhead\r\n\r\n",
        url.path, url.host
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    (&mut stream)
        .take(MAX_BYTES + 1)
        .read_to_end(&mut answer)
        .await
        .or_else(|error| match error.kind() {
            // Many servers end a connection without saying so in TLS; the JSON tells whether it is whole.
            std::io::ErrorKind::UnexpectedEof => Ok(0),
            _ => Err(error),
        })?;
    if answer.len() as u64 > MAX_BYTES {
        return Err(FetchError::TooLong);
    }
    body_of(&answer).map(<[u8]>::to_vec)
}

fn body_of(answer: &[u8]) -> Result<&[u8], FetchError> {
    let end = memchr::memmem::find(answer, b"\r\n\r\n").unwrap_or(answer.len());
    let (head, rest) = answer.split_at(end);
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let is_ok = line.starts_with("HTTP/1.") && line.split(' ').nth(1) == Some("200");
    if !is_ok {
        return Err(FetchError::Status(line.chars().take(80).collect()));
    }
    Ok(rest.get(4..).unwrap_or_default())
}

/// Whether anyone on the internet can have this address: not the host's own, its network's, or one
/// that stands for another.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_documentation()
        || a == 0
        || a >= 224
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b)))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    // Of what is given out (2000::/3), without documentation, Teredo and 6to4, which hold an IPv4
    // address.
    segments[0] & 0xe000 == 0x2000
        && !(segments[0] == 0x2001 && matches!(segments[1], 0 | 0xdb8))
        && segments[0] != 0x2002
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g6_only_public_addresses_are_fetched_from() {
        for (address, expected) in [
            ("93.184.216.34", true),
            ("2606:2800:220:1::1", true),
            ("127.0.0.1", false),
            ("10.1.2.3", false),
            ("172.16.0.1", false),
            ("192.168.1.1", false),
            ("169.254.169.254", false),
            ("100.64.0.1", false),
            ("0.0.0.0", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::1", false),
            ("::", false),
            ("::ffff:127.0.0.1", false),
            ("::127.0.0.1", false),
            ("fe80::1", false),
            ("fd00::1", false),
            ("2002:7f00:1::", false),
            ("64:ff9b::7f00:1", false),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn urls_and_answers() {
        let url = Url::parse("https://id.example/keys?x=1").unwrap();
        assert_eq!(
            (&*url.host, url.port, &*url.path),
            ("id.example", 443, "/keys?x=1")
        );
        assert_eq!(Url::parse("https://id.example:8443").unwrap().port, 8443);
        for bad in [
            "http://id.example/",
            "https://",
            "https://a@b/",
            "https://a:x/",
            "https://a/ b",
            "file:///etc/passwd",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            body_of(b"HTTP/1.1 200 OK\r\na: b\r\n\r\n{}").unwrap(),
            b"{}"
        );
        for bad in [
            &b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\n\r\n{}"[..],
            b"",
            b"{}",
        ] {
            assert!(body_of(bad).is_err());
        }
    }

    #[tokio::test]
    async fn g6_a_name_of_this_host_is_not_fetched_from() {
        let url = Url::parse("https://localhost/keys").unwrap();
        assert!(matches!(fetch(&url).await, Err(FetchError::Private(_))));
    }
}
