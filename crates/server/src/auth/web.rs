//! The credentials of an HTTP request: which it shows, and whom they stand for.
//!
//! In this order the first that is there counts, and must be good: `Authorization`, `ticket=`, the
//! session's cookie. None is fine in open mode alone.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE};
use springhead_engine::Engine;
use springhead_engine::access::{AuditEvent, Credential, Principal};
use springhead_proto::{ErrorCode, SqlError, TenantId};

use super::Auth;
use super::signed::{self, Use};

/// The cookie of a session.
pub const SESSION_COOKIE: &str = "springhead_session";
/// The name that someone without one goes by in open mode.
const OPEN_USER: &str = "postgres";

/// A request as far as its credentials go.
#[derive(Debug)]
pub struct Shown<'r> {
    pub headers: &'r HeaderMap,
    /// `ticket=`, decoded.
    pub ticket: Option<&'r str>,
    /// As it is written in the request, without its query.
    pub path: &'r str,
    pub is_get: bool,
    pub address: IpAddr,
}

impl Auth {
    /// Whom a request is made for.
    ///
    /// # Errors
    /// 28000 for credentials that are missing or not good, 53400 after too many that were not.
    pub fn principal(
        &self,
        engine: &Engine,
        shown: &Shown<'_>,
    ) -> Result<Arc<Principal>, SqlError> {
        let is_open = engine.roles().is_open;
        if is_open {
            super::expect_loopback(shown.address)?;
        }
        let found = if let Some(header) = shown.headers.get(AUTHORIZATION) {
            let header = header.to_str().map_err(|_| refused())?;
            self.authorization(engine, header, shown.address, is_open)?
        } else if let Some(ticket) = shown.ticket {
            let good_for = Use::Ticket(shown.path.to_owned());
            let found = signed::verify(engine, &self.secret, ticket, &good_for);
            found.filter(|_| shown.is_get).ok_or_else(refused)?
        } else if let Some(cookie) = session_cookie(shown.headers) {
            match signed::verify(engine, &self.secret, cookie, &Use::Cookie) {
                Some(found) => found,
                // A browser sends what it has; in open mode an old one is of no account.
                None if is_open => open(OPEN_USER),
                None => return Err(refused()),
            }
        } else if is_open {
            open(OPEN_USER)
        } else {
            return Err(
                SqlError::new(ErrorCode::InvalidAuthorization, "credentials are needed").with_hint(
                    "send Authorization: Bearer with a token, or Basic with user and password",
                ),
            );
        };
        let principal = Arc::new(Principal {
            address: Some(shown.address.to_string().into()),
            ..found
        });
        engine.identify(&principal).map_err(|_| refused())?;
        Ok(principal)
    }

    fn authorization(
        &self,
        engine: &Engine,
        header: &str,
        address: IpAddr,
        is_open: bool,
    ) -> Result<Principal, SqlError> {
        let (scheme, value) = header.split_once(' ').unwrap_or((header, ""));
        let value = value.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.bearer(engine, value, address);
        }
        if scheme.eq_ignore_ascii_case("basic") {
            let decoded = STANDARD
                .decode(value)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok());
            let decoded = decoded.ok_or_else(refused)?;
            let (user, password) = decoded.split_once(':').ok_or_else(refused)?;
            if is_open {
                return Ok(open(user));
            }
            return self.password(engine, user, password, address);
        }
        Err(SqlError::new(
            ErrorCode::InvalidAuthorization,
            "this kind of credentials is not known",
        )
        .with_hint("it is Bearer or Basic"))
    }

    /// A user by password; the same work and the same words whether or not there is such a user.
    ///
    /// # Errors
    /// 28P01, or 53400 after too many failures.
    pub fn password(
        &self,
        engine: &Engine,
        user: &str,
        password: &str,
        address: IpAddr,
    ) -> Result<Principal, SqlError> {
        self.throttle.check(user, address, Instant::now())?;
        let (nobody, known) = (
            self.verifier_of_nobody(user),
            self.verifier_of(engine, user),
        );
        let is_known = known.is_some();
        let verifier = known.unwrap_or(nobody);
        if !(verifier.fits(password) && is_known) {
            self.failed(user, address, ErrorCode::InvalidPassword.sqlstate().0);
            return Err(SqlError::new(
                ErrorCode::InvalidPassword,
                "user or password is wrong",
            ));
        }
        self.throttle.succeeded(user, address);
        Ok(Principal::of(
            user,
            Credential::Exchanged(Arc::new(verifier)),
        ))
    }

    /// An API token or a JWT.
    ///
    /// # Errors
    /// 28000.
    ///
    /// Nobody guesses tokens, so that failures slow nobody down: behind a proxy all clients have one
    /// address.
    pub fn bearer(
        &self,
        engine: &Engine,
        text: &str,
        address: IpAddr,
    ) -> Result<Principal, SqlError> {
        let found = if text.starts_with("sh_") {
            engine.find_token(text).map(|token| Principal {
                read_only: token.read_only,
                tenant: token.tenant,
                expires_at_us: token.expires_at_us,
                ..Principal::of(&token.role, Credential::Token(Arc::clone(&token.id)))
            })
        } else {
            self.jwt(engine, text)
        };
        found.ok_or_else(|| {
            self.note(AuditEvent {
                actor: "(token)".to_owned(),
                action: "login",
                address: Some(address.to_string()),
                outcome: ErrorCode::InvalidAuthorization.sqlstate().0,
                ..AuditEvent::default()
            });
            refused()
        })
    }

    fn jwt(&self, engine: &Engine, text: &str) -> Option<Principal> {
        let jwt = self.jwt.as_ref()?;
        let verified = match jwt.verify(text, engine.clock().now_ms() / 1000) {
            Ok(verified) => verified,
            Err(error) => {
                tracing::debug!(%error, "a JWT is refused");
                return None;
            }
        };
        let roles = engine.roles();
        let role = roles.get(&verified.role)?;
        // The credentials say which tenant; else the role does; else it is the default one.
        let tenant = match &verified.tenant {
            Some(text) => match text.parse() {
                Ok(id) => TenantId(id),
                Err(_) => engine.tenant_id(text).ok()?,
            },
            None => role.tenant.unwrap_or(TenantId::DEFAULT),
        };
        if role.tenant.is_some_and(|bound| bound != tenant) {
            return None;
        }
        let expires_us = i64::try_from(verified.expires_s)
            .ok()?
            .checked_mul(1_000_000)?;
        Some(Principal {
            uid: verified.uid.map(Into::into),
            claims: Some(Arc::new(verified.claims.into())),
            tenant: Some(tenant),
            expires_at_us: Some(expires_us),
            ..Principal::of(&verified.role, Credential::Jwt)
        })
    }
}

fn open(user: &str) -> Principal {
    Principal::clone(&Principal::unrestricted(user))
}

/// One answer for all that is not good.
fn refused() -> SqlError {
    SqlError::new(
        ErrorCode::InvalidAuthorization,
        "the credentials are not valid, or no longer",
    )
}

fn session_cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|header| header.to_str().ok())
        .flat_map(|header| header.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(SESSION_COOKIE)?.strip_prefix('='))
}
