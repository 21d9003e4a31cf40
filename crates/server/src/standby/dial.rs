//! How a node reaches another: its HTTP port, over TLS if the address says so, and an upgrade to
//! this protocol. Gives a socket that both sides have left HTTP on.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The path of the upgrade, and what it upgrades to.
pub const PATH: &str = "/v1/replication";
pub const PROTOCOL: &str = "springhead-replication";

/// The head of an answer is shorter.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// A socket, encrypted or not.
pub trait Socket: AsyncRead + AsyncWrite + Send {}
impl<S: AsyncRead + AsyncWrite + Send> Socket for S {}

/// A socket after the upgrade, and what was read beyond it.
pub struct Dialled {
    pub socket: Pin<Box<dyn Socket>>,
    pub unread: Vec<u8>,
}

/// Whom to trust, for addresses that begin with https.
#[derive(Clone)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// The authorities of the file, or the system's.
    ///
    /// # Errors
    /// That the file has none.
    pub fn open(authorities: Option<&Path>) -> io::Result<Trust> {
        let mut roots = RootCertStore::empty();
        match authorities {
            Some(path) => {
                let certificates: Vec<CertificateDer<'static>> =
                    CertificateDer::pem_file_iter(path)
                        .and_then(Iterator::collect)
                        .map_err(|error| {
                            io::Error::other(format!("{}: {error}", path.display()))
                        })?;
                for certificate in certificates {
                    roots.add(certificate).map_err(io::Error::other)?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Trust(Arc::new(config)))
    }
}

/// An address as it is written: `http://host:port` or `https://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub is_secure: bool,
    pub host: String,
    pub port: u16,
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        let bad = || format!("\"{text}\" is no address; expected http://host:port");
        let (is_secure, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://"))
        {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => (false, text),
        };
        let rest = rest.trim_end_matches('/');
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && !port.contains(']') => {
                (host, port.parse().map_err(|_| bad())?)
            }
            _ => (rest, 6480),
        };
        if host.is_empty() || host.contains('/') || host.contains(char::is_whitespace) {
            return Err(bad());
        }
        Ok(Address {
            is_secure,
            host: host.to_owned(),
            port,
        })
    }
}

/// Connects and upgrades.
///
/// # Errors
/// The socket's, `TimedOut`, or that the answer is no upgrade.
pub async fn dial(address: &Address, trust: &Trust, limit: Duration) -> io::Result<Dialled> {
    tokio::time::timeout(limit, upgrade(address, trust))
        .await
        .unwrap_or_else(|_| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer from {}:{} in time", address.host, address.port),
            ))
        })
}

async fn upgrade(address: &Address, trust: &Trust) -> io::Result<Dialled> {
    let host = address.host.trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, address.port)).await?;
    stream.set_nodelay(true)?;
    let mut socket: Pin<Box<dyn Socket>> = if address.is_secure {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::clone(&trust.0));
        Box::pin(connector.connect(name, stream).await?)
    } else {
        Box::pin(stream)
    };
    let request = format!(
        "GET {PATH} HTTP/1.1\r\nhost: {}:{}\r\nuser-agent: springhead\r\nconnection: upgrade\r\nupgrade: {PROTOCOL}\r\n\r\n",
        address.host, address.port
    );
    socket.write_all(request.as_bytes()).await?;
    socket.flush().await?;
    let mut read = Vec::new();
    loop {
        if let Some(end) = memchr::memmem::find(&read, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end]).into_owned();
            if !head.starts_with("HTTP/1.1 101") {
                let line = head.lines().next().unwrap_or_default();
                return Err(io::Error::other(format!(
                    "{}:{} does not serve replication: {line}",
                    address.host, address.port
                )));
            }
            let unread = read.split_off(end + 4);
            return Ok(Dialled { socket, unread });
        }
        if read.len() > MAX_HEAD_BYTES {
            return Err(io::Error::other("the answer is no HTTP"));
        }
        if socket.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let check = |text: &str, expected: Option<(bool, &str, u16)>| {
            let found: Result<Address, _> = text.parse();
            let found = found.as_ref().ok();
            let found = found.map(|found| (found.is_secure, found.host.as_str(), found.port));
            assert_eq!(found, expected, "{text}");
        };
        check("http://a:1", Some((false, "a", 1)));
        check("https://a.example:1/", Some((true, "a.example", 1)));
        check("a", Some((false, "a", 6480)));
        check("http://[::1]:7", Some((false, "[::1]", 7)));
        check("http://", None);
        check("http://a:x", None);
        check("http://a/b", None);
    }
}
