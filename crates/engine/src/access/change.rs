//! Changes of roles, members and tokens: who may make them (PostgreSQL 15's rules), and the
//! statements that they come to. Pure; [`super::admin`] runs them.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError, TenantId};
use springhead_sql::access::Identity;
use springhead_sql::plan::{RoleName, RoleOptions, RoleStatement};

use super::roles::{Role, Roles, SUPERUSER};
use super::scram::{ITERATIONS, SALT_BYTES, Verifier};
use super::store::store;
use super::tokens::NewToken;
use crate::Entropy;

/// Who makes a change.
#[derive(Debug, Clone)]
pub struct Actor {
    /// `session_user`.
    pub session_user: Arc<str>,
    /// The current role.
    pub identity: Arc<Identity>,
    /// Where the session is.
    pub tenant: TenantId,
    /// Where the client is.
    pub address: Option<Arc<str>>,
}

/// One statement on the default tenant's collections, and its parameters as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Op {
    pub sql: &'static str,
    pub params: Vec<Option<String>>,
}

impl Op {
    pub(super) fn new(sql: &'static str, params: Vec<Option<String>>) -> Op {
        Op { sql, params }
    }
}

/// What a change comes to.
#[derive(Default)]
pub(super) struct Planned {
    pub ops: Vec<Op>,
    /// Roles that go, if nothing in any tenant names them.
    pub dropped: Vec<String>,
    pub notices: Vec<SqlError>,
    /// What the audit calls it, and what it is done to.
    pub action: &'static str,
    pub object: String,
    /// A new token: its id and text.
    pub token: Option<(String, String)>,
}

/// What planning a change needs to know.
pub(super) struct Planner<'a> {
    pub roles: &'a Roles,
    pub actor: &'a Actor,
    pub entropy: &'a dyn Entropy,
    /// The id of the tenant of a name.
    pub tenant_id: &'a dyn Fn(&str) -> Result<TenantId, SqlError>,
}

/// What the audit calls a statement, and what it is done to; without secrets.
pub(super) fn describe(statement: &RoleStatement) -> (&'static str, String) {
    let list = |names: &[RoleName]| {
        let names: Vec<&str> = names.iter().map(shown).collect();
        names.join(", ")
    };
    match statement {
        RoleStatement::Create { name, .. } => ("create role", name.clone()),
        RoleStatement::Alter { name, .. } => ("alter role", shown(name).to_owned()),
        RoleStatement::Drop { names, .. } => ("drop role", list(names)),
        RoleStatement::Grant { roles, members, .. } => (
            "grant role",
            format!("{} to {}", list(roles), list(members)),
        ),
        RoleStatement::Revoke { roles, members, .. } => (
            "revoke role",
            format!("{} from {}", list(roles), list(members)),
        ),
        RoleStatement::CreateToken { name, role, .. } => {
            ("create token", format!("{name} for {}", shown(role)))
        }
        RoleStatement::DropToken { id } => ("drop token", id.clone()),
    }
}

fn shown(name: &RoleName) -> &str {
    match name {
        RoleName::Named(name) => name,
        RoleName::Current => "current_user",
        RoleName::Session => "session_user",
    }
}

impl Planner<'_> {
    pub(super) fn plan(&self, statement: &RoleStatement) -> Result<Planned, SqlError> {
        let mut planned = Planned::default();
        (planned.action, planned.object) = describe(statement);
        match statement {
            RoleStatement::Create { name, options } => self.create(name, options, &mut planned)?,
            RoleStatement::Alter { name, options } => self.alter(name, options, &mut planned)?,
            RoleStatement::Drop { names, if_exists } => {
                for name in names {
                    self.drop_role(name, *if_exists, &mut planned)?;
                }
            }
            RoleStatement::Grant {
                roles,
                members,
                admin_option,
            } => {
                for role in roles {
                    for member in members {
                        let (role, member) = (self.role(role)?, self.role(member)?);
                        self.grant(&role, &member, *admin_option, &mut planned)?;
                    }
                }
            }
            RoleStatement::Revoke {
                roles,
                members,
                admin_option_only,
            } => {
                for role in roles {
                    for member in members {
                        let (role, member) = (self.role(role)?, self.role(member)?);
                        self.revoke(&role, &member, *admin_option_only, &mut planned)?;
                    }
                }
            }
            RoleStatement::CreateToken {
                name,
                role,
                tenant,
                read_only,
                valid_until,
            } => {
                let role = self.role(role)?;
                let token = NewToken {
                    name,
                    role: &role,
                    tenant: tenant.as_deref(),
                    read_only: *read_only,
                    valid_until: *valid_until,
                };
                self.create_token(&token, &mut planned)?;
            }
            RoleStatement::DropToken { id } => self.drop_token(id, &mut planned)?,
        }
        Ok(planned)
    }

    fn is_superuser(&self) -> bool {
        self.actor.identity.superuser
    }

    /// The current role, unless it is one of open mode that nobody has made.
    fn own(&self) -> Option<&Arc<Role>> {
        self.roles.get(&self.actor.identity.role)
    }

    fn can_create_roles(&self) -> bool {
        self.is_superuser() || self.own().is_some_and(|own| own.createrole)
    }

    /// The tenant that it, and the roles that it makes and changes, are bound to.
    fn bound_to(&self) -> Option<TenantId> {
        if self.is_superuser() {
            return None;
        }
        self.own().and_then(|own| own.tenant)
    }

    /// Whether it may change or drop `role` at all.
    pub(super) fn may_change(&self, role: &Role) -> bool {
        if role.superuser && !self.is_superuser() {
            return false;
        }
        let in_reach = self
            .bound_to()
            .is_none_or(|tenant| role.tenant == Some(tenant));
        self.can_create_roles() && in_reach
    }

    fn role(&self, name: &RoleName) -> Result<Arc<Role>, SqlError> {
        let name = self.resolve(name);
        self.roles.get(name).cloned().ok_or_else(|| unknown(name))
    }

    fn resolve<'n>(&'n self, name: &'n RoleName) -> &'n str {
        match name {
            RoleName::Named(name) => name,
            RoleName::Current => &self.actor.identity.role,
            RoleName::Session => &self.actor.session_user,
        }
    }

    fn create(
        &self,
        name: &str,
        options: &RoleOptions,
        planned: &mut Planned,
    ) -> Result<(), SqlError> {
        check_name(name)?;
        self.check_attributes(options, "create")?;
        if !self.can_create_roles() {
            return Err(denied("permission denied to create role"));
        }
        if self.roles.get(name).is_some() {
            return Err(SqlError::new(
                ErrorCode::DuplicateObject,
                format!("role \"{name}\" already exists"),
            ));
        }
        // A role that is made inside a tenant is that tenant's; those made in the default tenant,
        // where the node's admins are, go everywhere unless it is said otherwise.
        let tenant = match &options.tenant {
            Some(tenant) => self.tenant(tenant.as_deref())?,
            None if options.superuser == Some(true) => None,
            None => match self.actor.tenant {
                TenantId::DEFAULT => self.bound_to(),
                tenant => Some(tenant),
            },
        };
        let mut role = Role {
            name: name.into(),
            id: self.roles.next_id(),
            login: false,
            superuser: false,
            createdb: false,
            createrole: false,
            inherit: true,
            bypass_rls: false,
            connection_limit: -1,
            valid_until_us: None,
            verifier: None,
            tenant,
            is_stored: false,
        };
        self.apply(&mut role, options, planned)?;
        planned.ops.push(store(&role));
        let role = Arc::new(role);
        for group in &options.in_roles {
            self.grant(&*self.role(group)?, &role, false, planned)?;
        }
        for member in &options.members {
            self.grant(&role, &*self.role(member)?, false, planned)?;
        }
        for admin in &options.admins {
            self.grant(&role, &*self.role(admin)?, true, planned)?;
        }
        Ok(())
    }

    /// Only a superuser makes superusers, and those whom policies do not concern.
    fn check_attributes(&self, options: &RoleOptions, verb: &str) -> Result<(), SqlError> {
        if self.is_superuser() {
            return Ok(());
        }
        if options.superuser == Some(true) || (verb == "alter" && options.superuser.is_some()) {
            return Err(denied(format!("must be superuser to {verb} superusers")));
        }
        if options.bypass_rls == Some(true) || (verb == "alter" && options.bypass_rls.is_some()) {
            return Err(denied(if verb == "create" {
                "must be superuser to create bypassrls users"
            } else {
                "must be superuser to change bypassrls attribute"
            }));
        }
        Ok(())
    }

    fn alter(
        &self,
        name: &RoleName,
        options: &RoleOptions,
        planned: &mut Planned,
    ) -> Result<(), SqlError> {
        let mut role = Role::clone(&*self.role(name)?);
        self.check_attributes(options, "alter")?;
        if role.superuser && !self.is_superuser() {
            return Err(denied("must be superuser to alter superusers"));
        }
        let only_password = RoleOptions {
            password: options.password.clone(),
            ..RoleOptions::default()
        } == *options;
        let is_own = *role.name == *self.actor.identity.role;
        if !(self.may_change(&role) || is_own && only_password) {
            return Err(denied("permission denied"));
        }
        if &*role.name == SUPERUSER && options.superuser == Some(false) {
            return Err(SqlError::new(
                ErrorCode::FeatureNotSupported,
                "the bootstrap user must have the SUPERUSER attribute",
            ));
        }
        if let Some(tenant) = &options.tenant {
            role.tenant = self.tenant(tenant.as_deref())?;
        }
        self.apply(&mut role, options, planned)?;
        planned.ops.push(store(&role));
        Ok(())
    }

    /// The tenant of a TENANT option.
    fn tenant(&self, name: Option<&str>) -> Result<Option<TenantId>, SqlError> {
        let tenant = name.map(self.tenant_id).transpose()?;
        match self.bound_to() {
            Some(own) if tenant != Some(own) => Err(denied(
                "permission denied: your role is bound to one tenant, and so are the roles that it makes",
            )),
            _ => Ok(tenant),
        }
    }

    fn apply(
        &self,
        role: &mut Role,
        options: &RoleOptions,
        planned: &mut Planned,
    ) -> Result<(), SqlError> {
        let set = |to: &mut bool, from: Option<bool>| *to = from.unwrap_or(*to);
        set(&mut role.login, options.login);
        set(&mut role.superuser, options.superuser);
        set(&mut role.createdb, options.createdb);
        set(&mut role.createrole, options.createrole);
        set(&mut role.inherit, options.inherit);
        set(&mut role.bypass_rls, options.bypass_rls);
        role.connection_limit = options.connection_limit.unwrap_or(role.connection_limit);
        role.valid_until_us = options.valid_until.unwrap_or(role.valid_until_us);
        if role.superuser && role.tenant.is_some() {
            return Err(SqlError::new(
                ErrorCode::InvalidParameterValue,
                "a superuser cannot be bound to one tenant",
            ));
        }
        match &options.password {
            None => {}
            Some(None) => role.verifier = None,
            Some(Some(password)) => role.verifier = self.verifier(password, planned)?,
        }
        Ok(())
    }

    fn verifier(
        &self,
        password: &str,
        planned: &mut Planned,
    ) -> Result<Option<Arc<Verifier>>, SqlError> {
        if let Some(verifier) = Verifier::parse(password) {
            return Ok(Some(Arc::new(verifier)));
        }
        let is_md5 = password.len() == 35
            && password
                .strip_prefix("md5")
                .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if is_md5 {
            return Err(SqlError::unsupported("a password as an MD5 digest")
                .with_hint("give the password itself, or a SCRAM-SHA-256 verifier"));
        }
        if password.is_empty() {
            planned.notices.push(SqlError::new(
                ErrorCode::InvalidPassword,
                "empty string is not a valid password, clearing password",
            ));
            return Ok(None);
        }
        let mut salt = [0; SALT_BYTES];
        self.entropy.fill(&mut salt);
        let verifier = Verifier::of_password(password, &salt, ITERATIONS);
        Ok(Some(Arc::new(verifier)))
    }

    fn drop_role(
        &self,
        name: &RoleName,
        if_exists: bool,
        planned: &mut Planned,
    ) -> Result<(), SqlError> {
        if !self.can_create_roles() {
            return Err(denied("permission denied to drop role"));
        }
        let name = self.resolve(name);
        let Some(role) = self.roles.get(name) else {
            if if_exists {
                planned.notices.push(SqlError::new(
                    ErrorCode::UndefinedObject,
                    format!("role \"{name}\" does not exist, skipping"),
                ));
                return Ok(());
            }
            return Err(unknown(name));
        };
        for (own, what) in [
            (&self.actor.identity.role, "current user"),
            (&self.actor.session_user, "session user"),
        ] {
            if **own == *name {
                return Err(SqlError::new(
                    ErrorCode::ObjectInUse,
                    format!("{what} cannot be dropped"),
                ));
            }
        }
        if name == SUPERUSER {
            return Err(SqlError::new(
                ErrorCode::DependentObjects,
                format!("cannot drop role {name} because it is required by the database system"),
            ));
        }
        if role.superuser && !self.is_superuser() {
            return Err(denied("must be superuser to drop superusers"));
        }
        if !self.may_change(role) {
            return Err(denied("permission denied to drop role"));
        }
        for sql in [
            "DELETE FROM springhead.role_members WHERE role = $1 OR member = $1",
            "DELETE FROM springhead.tokens WHERE role = $1",
            "DELETE FROM springhead.roles WHERE name = $1",
        ] {
            planned.ops.push(Op::new(sql, vec![Some(name.to_owned())]));
        }
        planned.dropped.push(name.to_owned());
        Ok(())
    }

    fn may_grant(&self, role: &Role) -> Result<(), SqlError> {
        if role.superuser && !self.is_superuser() {
            return Err(denied("must be superuser to alter superusers"));
        }
        let has_admin_option = self
            .roles
            .membership(&role.name, &self.actor.identity.role)
            .is_some_and(|membership| membership.admin_option);
        if self.may_change(role) || has_admin_option {
            return Ok(());
        }
        Err(denied(format!(
            "must have admin option on role \"{}\"",
            role.name
        )))
    }

    fn grant(
        &self,
        role: &Role,
        member: &Role,
        admin_option: bool,
        planned: &mut Planned,
    ) -> Result<(), SqlError> {
        self.may_grant(role)?;
        if self.roles.is_member(&role.name, &member.name) {
            return Err(SqlError::new(
                ErrorCode::InvalidGrant,
                format!(
                    "role \"{}\" is a member of role \"{}\"",
                    role.name, member.name
                ),
            ));
        }
        let known = self.roles.membership(&role.name, &member.name);
        if known.is_some_and(|known| known.admin_option || !admin_option) {
            planned.notices.push(SqlError::new(
                ErrorCode::DuplicateObject,
                format!(
                    "role \"{}\" is already a member of role \"{}\"",
                    member.name, role.name
                ),
            ));
            return Ok(());
        }
        planned.ops.push(Op::new(
            "INSERT INTO springhead.role_members (role, member, admin_option, grantor) \
             VALUES ($1, $2, $3, $4) ON CONFLICT (role, member) DO UPDATE SET admin_option = excluded.admin_option",
            vec![
                Some(role.name.to_string()),
                Some(member.name.to_string()),
                Some(admin_option.to_string()),
                Some(self.actor.identity.role.to_string()),
            ],
        ));
        Ok(())
    }

    fn revoke(
        &self,
        role: &Role,
        member: &Role,
        admin_option_only: bool,
        planned: &mut Planned,
    ) -> Result<(), SqlError> {
        self.may_grant(role)?;
        if self.roles.membership(&role.name, &member.name).is_none() {
            planned.notices.push(SqlError::new(
                ErrorCode::UndefinedObject,
                format!(
                    "role \"{}\" is not a member of role \"{}\"",
                    member.name, role.name
                ),
            ));
            return Ok(());
        }
        let sql = if admin_option_only {
            "UPDATE springhead.role_members SET admin_option = false WHERE role = $1 AND member = $2"
        } else {
            "DELETE FROM springhead.role_members WHERE role = $1 AND member = $2"
        };
        let params = vec![Some(role.name.to_string()), Some(member.name.to_string())];
        planned.ops.push(Op::new(sql, params));
        Ok(())
    }
}

fn check_name(name: &str) -> Result<(), SqlError> {
    if name.is_empty() {
        return Err(SqlError::new(
            ErrorCode::SyntaxError,
            "zero-length delimited identifier",
        ));
    }
    if matches!(name, "public" | "none" | "springhead") || name.starts_with("pg_") {
        return Err(SqlError::new(
            ErrorCode::ReservedName,
            format!("role name \"{name}\" is reserved"),
        ));
    }
    Ok(())
}

pub(super) fn denied(message: impl Into<String>) -> SqlError {
    SqlError::new(ErrorCode::InsufficientPrivilege, message)
}

fn unknown(name: &str) -> SqlError {
    SqlError::new(
        ErrorCode::UndefinedObject,
        format!("role \"{name}\" does not exist"),
    )
}
