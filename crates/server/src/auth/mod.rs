//! Credentials: passwords, API tokens, JWTs, cookies and tickets; TLS; and what slows down those
//! who guess. It ends with a [`springhead_engine::access::Principal`]; what that may do is the
//! engine's to say.
//!
//! One [`Auth`] per node, in its `NodeState`. `pgwire::login` and `http` ask it.

pub mod jwks;
pub mod jwt;
pub mod limits;
pub mod scram;
pub mod signed;
pub mod throttle;
pub mod tls;
pub mod web;

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use springhead_engine::Engine;
use springhead_engine::access::AuditEvent;
use springhead_engine::access::scram::Verifier;
use springhead_proto::{ErrorCode, SqlError};
use tokio::sync::mpsc;

use crate::config::Config;
use jwks::{FetchError, Url};
use jwt::{Jwt, JwtRules, KeyError};
use limits::Limits;
use throttle::Throttle;
use tls::{Tls, TlsError};

/// The file of the key that cookies and tickets are signed with.
const SECRET_FILE: &str = "secret.key";
/// Entries of the audit that may wait to be written; more are counted and dropped.
const AUDIT_QUEUE: usize = 1024;
/// Entries written in one commit.
const AUDIT_BATCH: usize = 256;

/// Why there can be no authentication.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{path}: {error}")]
    Secret { path: String, error: std::io::Error },
    #[error("{path}: {error}")]
    Key { path: String, error: KeyError },
    #[error("jwt_jwks_url: {0}")]
    Url(#[from] FetchError),
}

/// See the module's text.
pub struct Auth {
    /// The node's own secret, kept across restarts.
    pub secret: [u8; 32],
    pub tls: Option<Tls>,
    pub throttle: Throttle,
    /// Set if the configuration says whose tokens are good.
    pub jwt: Option<Jwt>,
    pub limits: Limits,
    /// Where keys are fetched from.
    jwks_url: Option<Url>,
    jwks_file: Option<PathBuf>,
    jwks_changed: parking_lot::Mutex<Option<SystemTime>>,
    tls_required: bool,
    audit: mpsc::Sender<AuditEvent>,
    /// Taken by the task that writes them.
    waiting: parking_lot::Mutex<Option<mpsc::Receiver<AuditEvent>>>,
    dropped: AtomicU64,
}

impl Auth {
    /// # Errors
    /// [`AuthError`].
    pub fn open(config: &Config) -> Result<Auth, AuthError> {
        let (certificate, key) = (&config.tls_certificate, &config.tls_key);
        let tls = match (certificate.is_empty(), key.is_empty()) {
            (true, true) => None,
            (false, false) => Some(Tls::open(Path::new(certificate), Path::new(key))?),
            _ => return Err(TlsError::Half.into()),
        };
        if config.tls_required && tls.is_none() {
            return Err(TlsError::NoCertificate.into());
        }
        let jwks_url = match config.jwt_jwks_url.as_str() {
            "" => None,
            url => Some(Url::parse(url)?),
        };
        let jwks_file = Some(&config.jwt_jwks_file)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from);
        let (audit, waiting) = mpsc::channel(AUDIT_QUEUE);
        let auth = Auth {
            secret: secret(&config.data_dir)?,
            tls,
            throttle: Throttle::new(
                config.login_free_failures,
                config.login_delay,
                config.login_delay_max,
            ),
            jwt: jwt(config, jwks_url.is_some() || jwks_file.is_some())?,
            limits: Limits::new(config),
            jwks_url,
            jwks_file,
            jwks_changed: parking_lot::Mutex::default(),
            tls_required: config.tls_required,
            audit,
            waiting: parking_lot::Mutex::new(Some(waiting)),
            dropped: AtomicU64::new(0),
        };
        auth.read_keys(false)?;
        Ok(auth)
    }

    /// Reads the file of keys, if there is one.
    fn read_keys(&self, only_if_changed: bool) -> Result<(), AuthError> {
        let (Some(path), Some(jwt)) = (&self.jwks_file, &self.jwt) else {
            return Ok(());
        };
        let failed = |error| AuthError::Secret {
            path: path.display().to_string(),
            error,
        };
        let changed = std::fs::metadata(path)
            .and_then(|found| found.modified())
            .map_err(failed)?;
        let mut before = self.jwks_changed.lock();
        if only_if_changed && *before == Some(changed) {
            return Ok(());
        }
        let text = std::fs::read(path).map_err(failed)?;
        let keys = jwt::read_set(&text).map_err(|error| AuthError::Key {
            path: path.display().to_string(),
            error,
        })?;
        jwt.put_keys(keys);
        *before = Some(changed);
        Ok(())
    }

    /// Fetches keys from the configuration's URL again and again.
    pub async fn fetch_keys(&self, every: Duration) {
        let (Some(url), Some(jwt)) = (&self.jwks_url, &self.jwt) else {
            return;
        };
        let mut ticks = tokio::time::interval(every.max(Duration::from_secs(1)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match Box::pin(jwks::fetch(url)).await {
                Ok(keys) => jwt.put_keys(keys),
                Err(error) => {
                    tracing::error!(%error, "the keys of tokens could not be fetched; those before stay");
                }
            }
        }
    }

    #[must_use]
    pub fn tls_required(&self) -> bool {
        self.tls_required
    }

    /// What a user's password is checked against; `None` if no password is good.
    #[must_use]
    pub fn verifier_of(&self, engine: &Engine, user: &str) -> Option<Verifier> {
        let roles = engine.roles();
        let role = roles.get(user)?;
        let now_us = i64::try_from(engine.clock().now_ms())
            .ok()?
            .checked_mul(1000)?;
        let is_valid = role.valid_until_us.is_none_or(|until| until > now_us);
        let verifier = role.verifier.as_ref()?;
        (role.login && is_valid).then(|| Verifier::clone(verifier))
    }

    /// What the password of a user that has none is checked against.
    #[must_use]
    pub fn verifier_of_nobody(&self, user: &str) -> Verifier {
        Verifier::of_nobody(&self.secret, user)
    }

    /// Notes a login that was refused.
    pub fn failed(&self, user: &str, address: IpAddr, outcome: &'static str) {
        self.throttle.failed(user, address, Instant::now());
        self.note(AuditEvent {
            actor: user.chars().take(64).collect(),
            action: "login",
            address: Some(address.to_string()),
            outcome,
            ..AuditEvent::default()
        });
    }

    /// Notes a login.
    pub fn succeeded(&self, user: &str, address: IpAddr, action: &'static str) {
        self.throttle.succeeded(user, address);
        self.note(AuditEvent {
            actor: user.to_owned(),
            action,
            address: Some(address.to_string()),
            outcome: "ok",
            ..AuditEvent::default()
        });
    }

    /// For the audit, soon. Under a flood entries are counted instead of kept, so that guessing
    /// fills neither memory nor disk.
    pub fn note(&self, event: AuditEvent) {
        if self.audit.try_send(event).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes what has been noted, a batch at a time, for as long as the node lives.
    pub async fn write_audit(&self, engine: &Engine) {
        let Some(mut waiting) = self.waiting.lock().take() else {
            return;
        };
        let mut pace = tokio::time::interval(std::time::Duration::from_millis(100));
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut events = Vec::new();
        while waiting.recv_many(&mut events, AUDIT_BATCH).await > 0 {
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                events.push(AuditEvent {
                    actor: "springhead".to_owned(),
                    action: "audit",
                    outcome: ErrorCode::TooManyRequests.sqlstate().0,
                    detail: Some(format!("{dropped} entries were dropped: too many at once")),
                    ..AuditEvent::default()
                });
            }
            if *engine.role() != springhead_engine::role::NodeRole::Primary {
                // A standby's state is its primary's: what happens here is in this node's own
                // diagnostics alone.
                for event in events.drain(..) {
                    tracing::info!(?event, "audit");
                }
            } else if let Err(error) = engine.audit(std::mem::take(&mut events)).await {
                tracing::error!(%error, "entries of the audit could not be written");
            }
            pace.tick().await;
        }
    }

    /// Reads the files of the configuration again.
    pub fn reload(&self, only_if_changed: bool) {
        if let Err(error) = self.read_keys(only_if_changed) {
            tracing::error!(%error, "the keys of tokens stay those before");
        }
        if let Some(tls) = &self.tls {
            match tls.reload(only_if_changed) {
                Ok(true) => tracing::info!("the certificate has been read again"),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%error, "the certificate stays the one before");
                }
            }
        }
    }
}

fn jwt(config: &Config, has_set: bool) -> Result<Option<Jwt>, AuthError> {
    let secret = match config.jwt_secret_file.as_str() {
        "" => None,
        path => {
            let text = std::fs::read(path).map_err(|error| AuthError::Secret {
                path: path.to_owned(),
                error,
            })?;
            // An editor ends the file's line.
            let key = jwt::secret_key(text.trim_ascii_end()).map_err(|error| AuthError::Key {
                path: path.to_owned(),
                error,
            })?;
            Some(key)
        }
    };
    if secret.is_none() && !has_set {
        return Ok(None);
    }
    let rules = JwtRules {
        issuer: config.jwt_issuer.clone(),
        audience: config.jwt_audience.clone(),
        leeway_s: config.jwt_leeway.as_secs(),
        role_claim: config.jwt_role_claim.clone(),
        tenant_claim: config.jwt_tenant_claim.clone(),
        uid_claim: config.jwt_uid_claim.clone(),
    };
    Ok(Some(Jwt::new(rules, secret)))
}

/// In open mode anyone may do everything, so that nobody may come from elsewhere: also on a node that
/// was started with users and has lost the last one.
///
/// # Errors
/// 28000.
pub fn expect_loopback(address: IpAddr) -> Result<(), SqlError> {
    if address.to_canonical().is_loopback() {
        return Ok(());
    }
    Err(SqlError::new(
        ErrorCode::InvalidAuthorization,
        "there are no users, and without them only local connections are accepted",
    ))
}

/// Read, or made at the first start.
fn secret(data_dir: &Path) -> Result<[u8; 32], AuthError> {
    let path = data_dir.join(SECRET_FILE);
    let failed = |error: std::io::Error| AuthError::Secret {
        path: path.display().to_string(),
        error,
    };
    match std::fs::read(&path) {
        Ok(bytes) => {
            if let Ok(secret) = bytes.try_into() {
                return Ok(secret);
            }
            // Cut short by a crash at the first start: nobody has anything signed with it.
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)
        .map_err(|error| failed(std::io::Error::other(error.to_string())))?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    file.write_all(&secret)
        .and_then(|()| file.sync_all())
        .map_err(failed)?;
    Ok(secret)
}
