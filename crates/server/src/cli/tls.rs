//! TLS of the commands that talk to a server: whom they trust, and how far they look, by libpq's
//! `sslmode` or by `https`. Called by the two clients of this module; holds no connection itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::CliError;

/// Whom to trust, for every command that talks to a server.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TlsArgs {
    /// File (PEM) of the authorities that may sign the server's certificate, or of that certificate
    /// itself [default: SPRINGHEAD_TLS_CA, else the system's authorities]
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
}

impl TlsArgs {
    fn file(&self) -> Option<PathBuf> {
        let of = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty());
        let from_environment = || of("SPRINGHEAD_TLS_CA").or_else(|| of("PGSSLROOTCERT"));
        self.tls_ca
            .clone()
            .or_else(|| from_environment().map(PathBuf::from))
    }
}

/// How much TLS there must be; libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// None.
    Disable,
    /// If the server has it, whoever it is.
    Prefer,
    /// It must be there, whoever the server is.
    Require,
    /// The server must have a certificate of an authority that is trusted.
    VerifyCa,
    /// And it must be for the host's name.
    VerifyFull,
}

impl Mode {
    /// What is asked for; without a word from anyone, as much as can be had.
    ///
    /// # Errors
    /// A mode that there is not.
    pub fn read(text: Option<&str>, args: &TlsArgs) -> Result<Mode, CliError> {
        Ok(match text {
            // An authority that is named is meant to be asked for.
            None if args.file().is_some() => Mode::VerifyFull,
            None | Some("prefer" | "allow") => Mode::Prefer,
            Some("disable") => Mode::Disable,
            // As libpq does: who names an authority wants it checked.
            Some("require") if args.file().is_some() => Mode::VerifyCa,
            Some("require") => Mode::Require,
            Some("verify-ca") => Mode::VerifyCa,
            Some("verify-full") => Mode::VerifyFull,
            Some(other) => {
                return Err(CliError::Usage(format!(
                    "sslmode={other}: expected disable, prefer, require, verify-ca or verify-full"
                )));
            }
        })
    }
}

/// How to speak TLS to one host.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// A connection, with TLS or without.
pub type Stream = Box<dyn Socket>;

/// What both kinds of connection are.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send {
    /// The server's certificate, where there is one.
    fn certificate(&self) -> Option<&[u8]>;
}

impl Socket for TcpStream {
    fn certificate(&self) -> Option<&[u8]> {
        None
    }
}

impl Socket for tokio_rustls::client::TlsStream<TcpStream> {
    fn certificate(&self) -> Option<&[u8]> {
        let chain = self.get_ref().1.peer_certificates()?;
        chain.first().map(|certificate| certificate.as_ref())
    }
}

impl Tls {
    /// For the host of `host_port`, which has been read already; `None` where `mode` wants none.
    ///
    /// # Errors
    /// A file of authorities that cannot be used, or a host that no certificate can be for.
    pub fn of(
        host_port: &str,
        mode: Mode,
        args: &TlsArgs,
        protocol: &[u8],
    ) -> Result<Option<Tls>, CliError> {
        if mode == Mode::Disable {
            return Ok(None);
        }
        let host = host_port
            .rsplit_once(':')
            .map_or(host_port, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| CliError::Usage(format!("{host} is no name of a host")))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let failed = |error: Error| CliError::Failed(format!("TLS: {error}"));
        let trust = Trust::of(mode, args.file().as_deref(), Arc::clone(&provider))?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(trust))
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Some(Tls {
            config: Arc::new(config),
            name,
        }))
    }

    /// The handshake on a connection whose other side expects it.
    ///
    /// # Errors
    /// The socket's, or why the server is not trusted.
    pub async fn connect(&self, stream: TcpStream) -> std::io::Result<Stream> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let stream = connector
            .connect(self.name.clone(), stream)
            .await
            .map_err(explained)?;
        Ok(Box::new(stream))
    }
}

/// An error of the handshake, with what to do about the commonest.
fn explained(error: std::io::Error) -> std::io::Error {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    match tls {
        // The second: an authority of the same name, with another key.
        Some(Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        )) => std::io::Error::other(
            "the server's certificate is of no authority that is trusted here: name the authority \
             with --tls-ca FILE or SPRINGHEAD_TLS_CA",
        ),
        _ => error,
    }
}

/// Who is taken for the server.
#[derive(Debug)]
struct Trust {
    /// The authorities; nobody is asked without them.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    /// Certificates that were given by hand: one of them is the server's own, and needs no authority.
    given: Vec<CertificateDer<'static>>,
    names_must_match: bool,
    provider: Arc<CryptoProvider>,
}

impl Trust {
    fn of(
        mode: Mode,
        file: Option<&Path>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Trust, CliError> {
        let mut trust = Trust {
            authorities: None,
            given: Vec::new(),
            names_must_match: mode == Mode::VerifyFull,
            provider,
        };
        if !matches!(mode, Mode::VerifyCa | Mode::VerifyFull) {
            return Ok(trust);
        }
        let mut roots = RootCertStore::empty();
        if let Some(file) = file {
            let bad = |what: String| CliError::Usage(format!("{}: {what}", file.display()));
            trust.given = CertificateDer::pem_file_iter(file)
                .and_then(Iterator::collect)
                .map_err(|error| bad(error.to_string()))?;
            roots.add_parsable_certificates(trust.given.iter().cloned());
            if roots.is_empty() {
                return Err(bad("there is no certificate in it".to_owned()));
            }
        } else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(CliError::Usage(
                    "this system has no authorities to trust: name one with --tls-ca FILE"
                        .to_owned(),
                ));
            }
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::clone(&trust.provider),
        );
        let verifier = verifier
            .build()
            .map_err(|error| CliError::Failed(format!("TLS: {error}")))?;
        trust.authorities = Some(verifier);
        Ok(trust)
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(authorities) = &self.authorities else {
            return Ok(ServerCertVerified::assertion());
        };
        if self.given.iter().any(|given| given == end_entity) {
            if self.names_must_match {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        let verified = authorities.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified {
            // Looked at last, after the chain was found to be good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.names_must_match => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
