//! Who asks, as far as planning depends on it.

use std::sync::Arc;

/// A role with what it inherits, as of one version of the roles. Part of a plan's key: sessions of
/// equal identities share plans, so nothing that differs from user to user of one role (claims, ids)
/// is in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The current role (`current_user`).
    pub role: Arc<str>,
    /// Every role whose privileges it has, itself included, sorted; `public` goes without saying.
    pub roles: Arc<[Arc<str>]>,
    /// Passes every check.
    pub superuser: bool,
    /// Sees every row, whatever policies say.
    pub bypass_rls: bool,
}

impl Identity {
    /// Who may do everything: Springhead's own sessions, and everyone in open mode.
    #[must_use]
    pub fn unrestricted(role: &str) -> Identity {
        let role: Arc<str> = role.into();
        Identity {
            roles: Arc::from([Arc::clone(&role)]),
            role,
            superuser: true,
            bypass_rls: true,
        }
    }

    /// Whether it has the privileges of `role`.
    #[must_use]
    pub fn is_member_of(&self, role: &str) -> bool {
        self.superuser || self.roles.iter().any(|own| **own == *role)
    }
}
