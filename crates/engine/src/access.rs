//! Who is on the other side of a session, a feed or a request, and what they may do now.
//!
//! ```text
//! credentials -> (server) -> Principal -> Engine::identify -> Identity -> plans, feeds
//! statements about roles -> change (who may) -> admin (statements of a transaction) -> commit, then roles
//! ```
//!
//! Roles belong to all tenants. They are collections of the default tenant, in memory one value
//! ([`Roles`]) that is replaced as a whole once a change is durable.

pub mod admin;
pub mod audit;
pub(crate) mod change;
pub mod roles;
pub mod scram;
mod store;
mod tokens;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use springhead_proto::{ErrorCode, SqlError, TenantId};
use springhead_sql::access::Identity;
use tokio::sync::watch;

use crate::engine::Engine;
use crate::functions::now_us;

pub use audit::AuditEvent;
pub use change::Actor;
pub use roles::{Membership, Role, Roles, SUPERUSER, Token};

/// An authenticated user: made once by whoever checks the credentials, then carried by everything
/// that acts for it. What it may do is looked up anew as roles change ([`Engine::identify`]).
#[derive(Debug, Clone)]
pub struct Principal {
    /// The role that authenticated (`session_user`).
    pub user: Arc<str>,
    /// `auth.uid()`: what the token says, else the user's name.
    pub uid: Option<Arc<str>>,
    /// `auth.claim('x')`: the token's claims.
    pub claims: Option<Arc<serde_json::Value>>,
    /// Nobody has defined users, or Springhead itself: everything is allowed.
    pub unrestricted: bool,
    /// The credentials allow reading only.
    pub read_only: bool,
    /// What it authenticated with.
    pub credential: Credential,
    /// The one tenant that the credentials are for; `None` for those of the role.
    pub tenant: Option<TenantId>,
    /// When the credentials expire, in microseconds since 1970.
    pub expires_at_us: Option<i64>,
    /// Where the client is.
    pub address: Option<Arc<str>>,
}

/// What a principal authenticated with: as long as it is good, so is the principal.
#[derive(Debug, Clone)]
pub enum Credential {
    /// Nothing: it is good in open mode, and where the flag is set also afterwards, for the session
    /// that ended open mode.
    Open(Arc<AtomicBool>),
    /// A password, when the connection was made; good while the role may log in.
    Password,
    /// Something that a password was exchanged for; good while the role has this verifier.
    Exchanged(Arc<scram::Verifier>),
    /// An API token, by its id.
    Token(Arc<str>),
    /// A token of an issuer that the configuration trusts.
    Jwt,
}

impl Principal {
    /// Who may do everything, under the name `user`.
    #[must_use]
    pub fn unrestricted(user: &str) -> Arc<Principal> {
        Arc::new(Principal {
            unrestricted: true,
            ..Principal::of(user, Credential::Open(Arc::default()))
        })
    }

    /// Whoever has shown `credential` of `user`.
    #[must_use]
    pub fn of(user: &str, credential: Credential) -> Principal {
        Principal {
            user: user.into(),
            uid: None,
            claims: None,
            unrestricted: false,
            read_only: false,
            credential,
            tenant: None,
            expires_at_us: None,
            address: None,
        }
    }

    /// `auth.uid()`: what the token says, else the user's name.
    #[must_use]
    pub fn uid(&self) -> Option<String> {
        Some(self.uid.as_ref().unwrap_or(&self.user).to_string())
    }

    /// Whether its token says the same as another one's, but for what differs in every token.
    #[must_use]
    pub fn has_claims_of(&self, other: &Principal) -> bool {
        let lasting = |principal: &Principal| {
            let mut claims = principal.claims.as_deref().cloned();
            if let Some(serde_json::Value::Object(claims)) = &mut claims {
                claims.retain(|name, _| !matches!(name.as_str(), "exp" | "iat" | "nbf" | "jti"));
            }
            claims
        };
        lasting(self) == lasting(other)
    }

    /// `auth.claim(name)`: a string as it is, anything else as JSON; `None` for a claim that is not
    /// there or null.
    #[must_use]
    pub fn claim(&self, name: &str) -> Option<String> {
        match self.claims.as_ref()?.get(name)? {
            serde_json::Value::Null => None,
            serde_json::Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }
}

impl Engine {
    /// What a principal may do now. Cheap enough for every statement and every step of a feed: the
    /// same `Arc` comes back until roles change.
    ///
    /// # Errors
    /// 28000 if its role is gone or may not log in any more, or its credentials have expired or
    /// been revoked.
    pub fn identify(&self, principal: &Principal) -> Result<Arc<Identity>, SqlError> {
        let roles = self.roles();
        self.check(&roles, principal)?;
        if principal.unrestricted {
            return Ok(roles.unrestricted(&principal.user));
        }
        roles
            .identity(&principal.user)
            .ok_or_else(|| revoked("its role has been dropped"))
    }

    /// As [`Engine::identify`], after SET SESSION AUTHORIZATION to `user` and SET ROLE to `role`. What they
    /// may do is as `roles` say: those in force, or what a transaction that is not committed yet has made
    /// of them. Whether the credentials are good is for those in force to say.
    ///
    /// # Errors
    /// As [`Engine::identify`], of any of the three.
    pub(crate) fn identify_as(
        &self,
        roles: &Roles,
        principal: &Principal,
        user: &str,
        role: Option<&str>,
    ) -> Result<Arc<Identity>, SqlError> {
        self.check(&self.roles(), principal)?;
        let name = match role {
            None if *user == *principal.user && principal.unrestricted => {
                return Ok(roles.unrestricted(&principal.user));
            }
            _ => role.unwrap_or(user),
        };
        roles
            .identity(name)
            .ok_or_else(|| revoked("its role has been dropped"))
    }

    fn check(&self, roles: &Roles, principal: &Principal) -> Result<(), SqlError> {
        if principal
            .expires_at_us
            .is_some_and(|expires| expires <= now_us(&**self.clock()))
        {
            return Err(revoked("the credentials have expired"));
        }
        let role = roles.get(&principal.user);
        let may_log_in = role.is_some_and(|role| role.login);
        let is_good = match &principal.credential {
            Credential::Open(kept) => {
                if roles.is_open || kept.load(Ordering::Relaxed) {
                    return Ok(());
                }
                return Err(revoked("there are users now: log in"));
            }
            Credential::Password => may_log_in,
            Credential::Exchanged(verifier) => {
                may_log_in && role.is_some_and(|role| role.verifier.as_ref() == Some(verifier))
            }
            Credential::Token(id) => may_log_in && roles.token(id).is_some(),
            // The issuer says who logs in, but never as somebody who may do everything.
            Credential::Jwt => role.is_some_and(|role| !role.superuser),
        };
        if is_good {
            return Ok(());
        }
        Err(revoked("the role or its credentials have been revoked"))
    }

    /// Whether a principal may use a tenant.
    ///
    /// # Errors
    /// 42501 if it may not.
    pub fn check_tenant(&self, principal: &Principal, tenant: TenantId) -> Result<(), SqlError> {
        let bound = self.tenant_of(principal);
        if bound.is_none_or(|bound| bound == tenant) {
            return Ok(());
        }
        // Named as the client did: whether it exists is not for everyone to know.
        Err(SqlError::new(
            ErrorCode::InsufficientPrivilege,
            "permission denied for database",
        )
        .with_detail("User does not have CONNECT privilege."))
    }

    /// The one tenant that a principal may use; `None` for all.
    #[must_use]
    pub fn tenant_of(&self, principal: &Principal) -> Option<TenantId> {
        if principal.unrestricted {
            return None;
        }
        principal
            .tenant
            .or_else(|| self.roles().get(&principal.user)?.tenant)
    }

    /// The token that `text` is the whole of; `None` for one that is unknown, wrong, revoked or
    /// expired.
    #[must_use]
    pub fn find_token(&self, text: &str) -> Option<Arc<Token>> {
        let token = tokens::find(&self.roles(), text)?;
        let now = now_us(&**self.clock());
        let is_good = token.expires_at_us.is_none_or(|expires| expires > now);
        is_good.then_some(token)
    }

    /// Completes once the principal's credentials are no longer good, with what to tell it.
    pub async fn revoked(&self, principal: &Principal) -> SqlError {
        let mut changes = self.watch_roles();
        loop {
            changes.borrow_and_update();
            if let Err(error) = self.identify(principal) {
                return error;
            }
            let expires = async {
                match principal.expires_at_us {
                    Some(expires) => {
                        let left = expires.saturating_sub(now_us(&**self.clock()));
                        let left = u64::try_from(left).unwrap_or(0);
                        tokio::time::sleep(std::time::Duration::from_micros(left.max(1000))).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    // The engine is gone, and with it whoever asks.
                    std::future::pending::<()>().await;
                },
                () = expires => {}
            }
        }
    }
}

/// Receives the version of the roles whenever they change.
pub type RoleChanges = watch::Receiver<u64>;

fn revoked(why: &str) -> SqlError {
    SqlError::new(ErrorCode::InvalidAuthorization, "authorization has ended").with_detail(why)
}
