//! The roles, who is a member of which, and the tokens: one immutable value, read from the default
//! tenant's collections and replaced as a whole after each change.

use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use springhead_proto::{CollectionId, ErrorCode, SqlError, TenantId, ValueRef};
use springhead_sql::access::{Directory, Identity};

use super::scram::{Key, Verifier};
use crate::readers::Snapshot;
use crate::rows::Rows;
use crate::state;

/// The superuser that every node has. It has no password until it is given one.
pub const SUPERUSER: &str = "postgres";
/// Its id, and the id before the first that a role gets: PostgreSQL's.
const SUPERUSER_ID: i64 = 10;
pub(super) const FIRST_ID: i64 = 16_384;
/// Identities of names that are no roles (open mode) are forgotten past this many.
const MAX_IDENTITIES: usize = 10_000;

/// A role: a user, if it may log in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)]
pub struct Role {
    pub name: Arc<str>,
    /// Its OID.
    pub id: i64,
    pub login: bool,
    pub superuser: bool,
    pub createdb: bool,
    pub createrole: bool,
    /// Whether it has the privileges of the roles that it is a member of without SET ROLE.
    pub inherit: bool,
    pub bypass_rls: bool,
    /// Connections at a time; -1 for any number.
    pub connection_limit: i64,
    /// Until when its password is good, in microseconds since 1970.
    pub valid_until_us: Option<i64>,
    pub verifier: Option<Arc<Verifier>>,
    /// The one tenant that it may connect to; `None` for all.
    pub tenant: Option<TenantId>,
    /// Whether it is a row of `springhead.roles`; the superuser is not until it is altered.
    pub is_stored: bool,
}

/// `member` is a member of `role`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    pub role: Arc<str>,
    pub member: Arc<str>,
    /// Whether it may make others members.
    pub admin_option: bool,
    pub grantor: Arc<str>,
}

/// An API token, as it is known without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub id: Arc<str>,
    pub name: String,
    /// SHA-256 of the secret.
    pub hash: Key,
    pub role: Arc<str>,
    /// The one tenant that it is good for; `None` for those of its role.
    pub tenant: Option<TenantId>,
    pub read_only: bool,
    pub expires_at_us: Option<i64>,
}

/// All of it, as of one version.
#[derive(Debug)]
pub struct Roles {
    /// Counts changes.
    pub version: u64,
    /// Nobody can log in with a password, so that everyone may do everything.
    pub is_open: bool,
    by_name: FxHashMap<Arc<str>, Arc<Role>>,
    memberships: Vec<Membership>,
    /// By the member's name: places in `memberships`.
    memberships_of: FxHashMap<Arc<str>, Vec<usize>>,
    tokens: FxHashMap<Arc<str>, Arc<Token>>,
    identities: Mutex<FxHashMap<Arc<str>, Arc<Identity>>>,
    unrestricted: Mutex<FxHashMap<Arc<str>, Arc<Identity>>>,
}

impl Roles {
    /// Reads them from a snapshot of the default tenant.
    ///
    /// # Errors
    /// What SQLite says, or XX001 for rows that are none.
    pub(crate) fn read(snapshot: &Snapshot, version: u64) -> Result<Roles, SqlError> {
        let query = |sql: &str| snapshot.query(sql, &[], &Arc::default(), &Arc::default());
        let [roles, members, tokens] = Roles::queries();
        Roles::of_rows(version, query(&roles)?, query(&members)?, query(&tokens)?)
    }

    /// What they are read with: roles, members, tokens.
    pub(crate) fn queries() -> [String; 3] {
        TABLES.map(|(table, columns)| {
            let columns: Vec<String> = (1..=columns).map(|column| format!("c{column}")).collect();
            format!(
                "SELECT {} FROM {}",
                columns.join(", "),
                state::storage_name(table)
            )
        })
    }

    /// Of what [`Roles::queries`] give.
    ///
    /// # Errors
    /// As [`Roles::read`].
    pub(crate) fn of_rows(
        version: u64,
        roles: Rows,
        members: Rows,
        tokens: Rows,
    ) -> Result<Roles, SqlError> {
        let mut roles = read_rows(roles, CollectionId::ROLES, role_of)?;
        if !roles.iter().any(|role| &*role.name == SUPERUSER) {
            roles.push(superuser());
        }
        let memberships = read_rows(members, CollectionId::ROLE_MEMBERS, membership_of)?;
        let tokens = read_rows(tokens, CollectionId::TOKENS, token_of)?;
        Ok(Roles::new(version, roles, memberships, tokens))
    }

    fn new(
        version: u64,
        roles: Vec<Role>,
        memberships: Vec<Membership>,
        tokens: Vec<Option<Token>>,
    ) -> Roles {
        let mut memberships_of: FxHashMap<Arc<str>, Vec<usize>> = FxHashMap::default();
        for (place, membership) in memberships.iter().enumerate() {
            let places = memberships_of.entry(Arc::clone(&membership.member));
            places.or_default().push(place);
        }
        Roles {
            version,
            is_open: !roles
                .iter()
                .any(|role| role.login && role.verifier.is_some()),
            by_name: roles
                .into_iter()
                .map(|role| (Arc::clone(&role.name), Arc::new(role)))
                .collect(),
            memberships,
            memberships_of,
            tokens: tokens
                .into_iter()
                .flatten()
                .map(|token| (Arc::clone(&token.id), Arc::new(token)))
                .collect(),
            identities: Mutex::default(),
            unrestricted: Mutex::default(),
        }
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Role>> {
        self.by_name.get(name)
    }

    /// Every role, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Role>> {
        let mut all: Vec<_> = self.by_name.values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    #[must_use]
    pub fn memberships(&self) -> &[Membership] {
        &self.memberships
    }

    /// The token, unless it has been revoked.
    #[must_use]
    pub fn token(&self, id: &str) -> Option<&Arc<Token>> {
        self.tokens.get(id)
    }

    pub(super) fn next_id(&self) -> i64 {
        let highest = self.by_name.values().map(|role| role.id).max();
        highest.map_or(FIRST_ID, |id| (id + 1).max(FIRST_ID))
    }

    /// Whether somebody who is a superuser can log in.
    pub(super) fn has_login_superuser(&self) -> bool {
        let can = |role: &Arc<Role>| role.superuser && role.login && role.verifier.is_some();
        self.by_name.values().any(can)
    }

    /// Whether `member` is a member of `role`, directly or through others.
    #[must_use]
    pub fn is_member(&self, member: &str, role: &str) -> bool {
        self.reached_from(member, false)
            .iter()
            .any(|reached| **reached == *role)
    }

    pub(super) fn membership(&self, role: &str, member: &str) -> Option<&Membership> {
        self.memberships
            .iter()
            .find(|membership| *membership.role == *role && *membership.member == *member)
    }

    /// `from` and every role that it is a member of. With `inheriting`, only through those that
    /// inherit.
    fn reached_from(&self, from: &str, inheriting: bool) -> Vec<Arc<str>> {
        let mut reached: Vec<Arc<str>> = vec![from.into()];
        let mut next = 0;
        while let Some(member) = reached.get(next).cloned() {
            next += 1;
            if inheriting && !self.get(&member).is_some_and(|role| role.inherit) {
                continue;
            }
            for place in self.memberships_of.get(&member).into_iter().flatten() {
                let role = &self.memberships[*place].role;
                if !reached.contains(role) {
                    reached.push(Arc::clone(role));
                }
            }
        }
        reached
    }

    /// What a role may do; `None` if there is no such role. The same `Arc` each time.
    #[must_use]
    pub fn identity(&self, name: &str) -> Option<Arc<Identity>> {
        let role = self.get(name)?;
        let mut identities = self.identities.lock();
        if let Some(identity) = identities.get(name) {
            return Some(Arc::clone(identity));
        }
        let mut roles = self.reached_from(name, true);
        roles.sort();
        let identity = Arc::new(Identity {
            role: Arc::clone(&role.name),
            roles: roles.into(),
            superuser: role.superuser,
            bypass_rls: role.superuser || role.bypass_rls,
        });
        identities.insert(Arc::clone(&role.name), Arc::clone(&identity));
        Some(identity)
    }

    /// Of someone who may do everything under the name `user`. The same `Arc` each time.
    pub(super) fn unrestricted(&self, user: &Arc<str>) -> Arc<Identity> {
        let mut identities = self.unrestricted.lock();
        if identities.len() > MAX_IDENTITIES {
            identities.clear();
        }
        let identity = identities
            .entry(Arc::clone(user))
            .or_insert_with(|| Arc::new(Identity::unrestricted(user)));
        Arc::clone(identity)
    }
}

/// The rights of others, for the planner: of a view's owner, of a grantee.
impl Directory for Roles {
    fn version(&self) -> u64 {
        self.version
    }

    fn identity(&self, role: &str) -> Option<Arc<Identity>> {
        Roles::identity(self, role)
    }

    fn owner(&self, role: &str) -> Option<Arc<Identity>> {
        let found = Roles::identity(self, role);
        found.or_else(|| self.is_open.then(|| self.unrestricted(&role.into())))
    }
}

fn superuser() -> Role {
    Role {
        name: SUPERUSER.into(),
        id: SUPERUSER_ID,
        login: true,
        superuser: true,
        createdb: true,
        createrole: true,
        inherit: true,
        bypass_rls: true,
        connection_limit: -1,
        valid_until_us: None,
        verifier: None,
        tenant: None,
        is_stored: false,
    }
}

/// The collections, and how many columns each has.
const TABLES: [(CollectionId, u32); 3] = [
    (CollectionId::ROLES, 13),
    (CollectionId::ROLE_MEMBERS, 4),
    (CollectionId::TOKENS, 10),
];

fn read_rows<T>(
    mut rows: Rows,
    table: CollectionId,
    read: impl Fn(&[ValueRef<'_>]) -> Option<T>,
) -> Result<Vec<T>, SqlError> {
    let mut found = Vec::new();
    while let Some(chunk) = rows.next_chunk()? {
        for row in chunk.rows() {
            let values: Vec<_> = row.values().collect();
            found.push(read(&values).ok_or_else(|| {
                SqlError::new(
                    ErrorCode::Corrupted,
                    format!("a row of collection {table} has other values"),
                )
            })?);
        }
    }
    Ok(found)
}

fn text(value: ValueRef<'_>) -> Option<&str> {
    match value {
        ValueRef::Text(text) => Some(text),
        _ => None,
    }
}

fn integer(value: ValueRef<'_>) -> Option<i64> {
    match value {
        ValueRef::Integer(integer) => Some(integer),
        _ => None,
    }
}

fn flag(value: ValueRef<'_>) -> Option<bool> {
    integer(value).map(|value| value != 0)
}

/// `Some(None)` for NULL.
fn maybe<T>(
    value: ValueRef<'_>,
    read: impl FnOnce(ValueRef<'_>) -> Option<T>,
) -> Option<Option<T>> {
    match value {
        ValueRef::Null => Some(None),
        value => read(value).map(Some),
    }
}

fn tenant(value: ValueRef<'_>) -> Option<TenantId> {
    u32::try_from(integer(value)?).ok().map(TenantId)
}

fn role_of(values: &[ValueRef<'_>]) -> Option<Role> {
    Some(Role {
        name: text(values[0])?.into(),
        id: integer(values[1])?,
        login: flag(values[2])?,
        superuser: flag(values[3])?,
        createdb: flag(values[4])?,
        createrole: flag(values[5])?,
        inherit: flag(values[6])?,
        bypass_rls: flag(values[7])?,
        connection_limit: integer(values[8])?,
        valid_until_us: maybe(values[9], integer)?,
        verifier: maybe(values[10], |value| Verifier::parse(text(value)?))?.map(Arc::new),
        tenant: maybe(values[11], tenant)?,
        is_stored: true,
    })
}

fn membership_of(values: &[ValueRef<'_>]) -> Option<Membership> {
    Some(Membership {
        role: text(values[0])?.into(),
        member: text(values[1])?.into(),
        admin_option: flag(values[2])?,
        grantor: text(values[3])?.into(),
    })
}

/// `Some(None)` for one that has been revoked.
fn token_of(values: &[ValueRef<'_>]) -> Option<Option<Token>> {
    let token = Token {
        id: text(values[0])?.into(),
        name: text(values[1])?.to_owned(),
        hash: super::tokens::read_hash(text(values[2])?)?,
        role: text(values[3])?.into(),
        tenant: maybe(values[4], tenant)?,
        read_only: flag(values[5])?,
        expires_at_us: maybe(values[6], integer)?,
    };
    let is_revoked = maybe(values[7], integer)?.is_some();
    Some(Some(token).filter(|_| !is_revoked))
}
