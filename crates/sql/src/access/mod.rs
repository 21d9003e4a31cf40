//! Who asks, as far as planning depends on it, and what they may do: one function decides for every
//! exit ([`decide`]).

mod author;
mod decide;

pub(crate) use decide::rows;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

pub use decide::{
    Columns, Object, RowRule, Rows, Sight, Use, conceal, decide, may_grant, must_own, refusal,
};

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

    /// Whose sight errors are to be cut down to; `None` for a superuser.
    #[must_use]
    pub fn viewer(self: &Arc<Identity>) -> Option<Arc<Identity>> {
        (!self.superuser).then(|| Arc::clone(self))
    }

    /// Whether it has the privileges of `role`.
    #[must_use]
    pub fn is_member_of(&self, role: &str) -> bool {
        self.superuser || self.roles.iter().any(|own| **own == *role)
    }
}

/// What roles there are, for the rights of another than the one that asks: a view's owner, a
/// grantee. One version of them; a plan that was made by it is good for no other.
pub trait Directory: Send + Sync {
    /// Goes up whenever a role or a membership changes.
    fn version(&self) -> u64;

    /// The role of this name with what it inherits; `None` if there is none.
    fn identity(&self, role: &str) -> Option<Arc<Identity>>;

    /// What the owner of a view or of a function may do. While nobody has defined users, owners are no
    /// roles, and may do everything.
    fn owner(&self, role: &str) -> Option<Arc<Identity>> {
        self.identity(role)
    }
}

/// A [`Directory`] that contexts are compared by.
#[derive(Clone)]
pub struct Roles(Arc<dyn Directory>);

impl Roles {
    #[must_use]
    pub fn new(directory: Arc<dyn Directory>) -> Roles {
        Roles(directory)
    }

    /// Nobody has defined roles: every role exists and may do everything.
    #[must_use]
    pub fn open() -> Roles {
        Roles(Arc::new(Open))
    }

    /// See [`Directory::version`].
    #[must_use]
    pub fn version(&self) -> u64 {
        self.0.version()
    }

    /// See [`Directory::identity`]. The bootstrap role is always there.
    #[must_use]
    pub fn identity(&self, role: &str) -> Option<Arc<Identity>> {
        self.0.identity(role).or_else(|| bootstrap(role))
    }

    /// See [`Directory::owner`]. The bootstrap role is always there.
    #[must_use]
    pub fn owner(&self, role: &str) -> Option<Arc<Identity>> {
        self.0.owner(role).or_else(|| bootstrap(role))
    }
}

fn bootstrap(role: &str) -> Option<Arc<Identity>> {
    (role == crate::catalog::BOOTSTRAP_ROLE).then(|| Arc::new(Identity::unrestricted(role)))
}

struct Open;

impl Directory for Open {
    fn version(&self) -> u64 {
        // No registry's.
        u64::MAX
    }

    fn identity(&self, role: &str) -> Option<Arc<Identity>> {
        Some(Arc::new(Identity::unrestricted(role)))
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "roles at version {}", self.version())
    }
}

impl PartialEq for Roles {
    fn eq(&self, other: &Roles) -> bool {
        self.version() == other.version()
    }
}

impl Eq for Roles {}

impl Hash for Roles {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.version().hash(state);
    }
}
