//! TLS: certificate and key from the configuration's files, read again when they change, and the
//! certificate's digest that SCRAM binds itself to (RFC 5929, tls-server-end-point).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use ring::digest;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("tls_certificate and tls_key are given together or not at all")]
    Half,
    #[error("tls = required needs tls_certificate and tls_key")]
    NoCertificate,
    #[error("{path}: {what}")]
    File { path: String, what: String },
    #[error("{certificate} with {key}: {error}")]
    Pair {
        certificate: String,
        key: String,
        error: rustls::Error,
    },
}

/// The certificate in use.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    loaded: ArcSwap<Loaded>,
}

struct Loaded {
    postgres: TlsAcceptor,
    http: TlsAcceptor,
    end_point: Option<Vec<u8>>,
    changed: Option<(SystemTime, SystemTime)>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").finish_non_exhaustive()
    }
}

impl Tls {
    /// # Errors
    /// [`TlsError`].
    pub fn open(certificate: &Path, key: &Path) -> Result<Tls, TlsError> {
        Ok(Tls {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            loaded: ArcSwap::from_pointee(load(certificate, key)?),
        })
    }

    /// For connections of the PostgreSQL protocol.
    #[must_use]
    pub fn postgres(&self) -> TlsAcceptor {
        self.loaded.load().postgres.clone()
    }

    /// For HTTP, version 2 included.
    #[must_use]
    pub fn http(&self) -> TlsAcceptor {
        self.loaded.load().http.clone()
    }

    /// What SCRAM-SHA-256-PLUS binds to; `None` for a certificate whose signature names no digest.
    #[must_use]
    pub fn end_point(&self) -> Option<Vec<u8>> {
        self.loaded.load().end_point.clone()
    }

    /// Reads the files again. With `only_if_changed`, if they are others than before.
    ///
    /// # Errors
    /// [`TlsError`]; the certificate in use stays in use.
    pub fn reload(&self, only_if_changed: bool) -> Result<bool, TlsError> {
        let changed = changed(&self.certificate, &self.key);
        if only_if_changed && (changed.is_none() || changed == self.loaded.load().changed) {
            return Ok(false);
        }
        let loaded = load(&self.certificate, &self.key)?;
        self.loaded.store(Arc::new(loaded));
        Ok(true)
    }
}

fn changed(certificate: &Path, key: &Path) -> Option<(SystemTime, SystemTime)> {
    let of = |path: &Path| {
        std::fs::metadata(path)
            .and_then(|found| found.modified())
            .ok()
    };
    Some((of(certificate)?, of(key)?))
}

fn load(certificate: &Path, key: &Path) -> Result<Loaded, TlsError> {
    let changed = changed(certificate, key);
    let file_error = |path: &Path, what: String| TlsError::File {
        path: path.display().to_string(),
        what,
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| file_error(certificate, error.to_string()))?;
    let first = chain
        .first()
        .ok_or_else(|| file_error(certificate, "there is no certificate in it".to_owned()))?;
    let end_point = end_point(first);
    let private =
        PrivateKeyDer::from_pem_file(key).map_err(|error| file_error(key, error.to_string()))?;
    let pair_error = |error| TlsError::Pair {
        certificate: certificate.display().to_string(),
        key: key.display().to_string(),
        error,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(chain, private)
        })
        .map_err(pair_error)?;
    let mut http = config.clone();
    http.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut postgres = config;
    postgres.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(Loaded {
        postgres: TlsAcceptor::from(Arc::new(postgres)),
        http: TlsAcceptor::from(Arc::new(http)),
        end_point,
        changed,
    })
}

/// The certificate's digest, by the digest of its signature, or SHA-256 for the broken ones: what SCRAM
/// binds itself to. `None` where the signature names no digest.
pub(crate) fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    // Certificate ::= SEQUENCE { tbsCertificate SEQUENCE, signatureAlgorithm SEQUENCE { OID … } … }
    let (_, certificate_body, _) = element(certificate)?;
    let (_, _, rest) = element(certificate_body)?;
    let (_, algorithm, _) = element(rest)?;
    let (tag, oid, _) = element(algorithm)?;
    if tag != 6 {
        return None;
    }
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA_SHA2: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
    const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
    let (&last, family) = oid.split_last()?;
    let algorithm = match (family, last) {
        (RSA, 4 | 5 | 11) | (ECDSA_SHA2, 2) => &digest::SHA256,
        (RSA, 12) | (ECDSA_SHA2, 3) => &digest::SHA384,
        (RSA, 13) | (ECDSA_SHA2, 4) => &digest::SHA512,
        _ if oid == ECDSA_SHA1 => &digest::SHA256,
        _ => return None,
    };
    Some(digest::digest(algorithm, certificate).as_ref().to_vec())
}

/// One DER element: tag, body, what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        if !(1..=4).contains(&count) {
            return None;
        }
        let (digits, rest) = rest.split_at_checked(count)?;
        let length = digits
            .iter()
            .fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
        (length, rest)
    };
    let (body, rest) = rest.split_at_checked(length)?;
    Some((tag, body, rest))
}
