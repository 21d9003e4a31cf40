//! Whom a session acts for: its user, SET SESSION AUTHORIZATION, SET ROLE; and statements about
//! roles, which are the engine's to run.
//!
//! The two settings are kept with all others, so that a rolled-back transaction takes them with it;
//! before each statement the identity is looked up anew, so that it is never older than the roles.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError, TenantId};
use springhead_sql::access::Identity;
use springhead_sql::plan::RoleStatement;
use tokio::task::JoinHandle;

use super::{Outcome, Session, outcome};
use crate::access::{Actor, AuditEvent, Roles};

const ROLE: &str = "role";
const USER: &str = "session_authorization";
const NONE: &str = "none";

impl Session {
    /// Looks up what the session may do now.
    ///
    /// # Errors
    /// 28000 if it may do nothing any more.
    pub(super) fn refresh_identity(&mut self) -> Result<(), SqlError> {
        let (Some(engine), Some(roles)) = (&self.engine, self.roles()) else {
            return Ok(());
        };
        let identity = {
            let settings = self.context.settings.lock();
            let role = settings.get(ROLE).map(String::as_str);
            let role = role.filter(|role| *role != NONE);
            let user = settings
                .get(USER)
                .map_or(&*self.principal.user, String::as_str);
            engine.identify_as(&roles, &self.principal, user, role)?
        };
        if roles.version != self.plan_context.roles.version() {
            self.plan_context.roles = springhead_sql::access::Roles::new(roles);
        }
        if !Arc::ptr_eq(&identity, &self.plan_context.identity) {
            self.put_identity(identity);
        }
        Ok(())
    }

    /// The roles as its statements see them: those in force, or what its transaction has made of them.
    pub(super) fn roles(&self) -> Option<Arc<Roles>> {
        let draft = self.block.as_ref().and_then(|block| block.roles.as_ref());
        match draft {
            Some(draft) => Some(Arc::clone(&draft.roles)),
            None => self.engine.as_ref().map(crate::Engine::roles),
        }
    }

    pub(super) fn put_identity(&mut self, identity: Arc<Identity>) {
        {
            let mut settings = self.context.settings.lock();
            let user = settings.get(USER).cloned().unwrap_or_default();
            settings.insert("session_user".to_owned(), user);
            for name in ["current_user", "user"] {
                settings.insert(name.to_owned(), identity.role.to_string());
            }
            let is_superuser = if identity.superuser { "on" } else { "off" };
            settings.insert("is_superuser".to_owned(), is_superuser.to_owned());
        }
        self.plan_context.identity = identity;
    }

    /// What the session may do, as of its last statement.
    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.plan_context.identity
    }

    /// The value for a setting that says whom the session acts for, `None` for any other setting.
    /// `value` is `None` for the default.
    ///
    /// # Errors
    /// 22023 for a role that does not exist, 42501 for one that it may not act for.
    pub(super) fn check_role_setting(
        &self,
        name: &str,
        value: Option<&str>,
    ) -> Result<Option<String>, SqlError> {
        if name != ROLE && name != USER {
            return Ok(None);
        }
        let default = || Some(self.default_of(name));
        let (Some(value), Some(engine), Some(roles)) = (value, &self.engine, self.roles()) else {
            return Ok(default());
        };
        if name == ROLE && value == NONE {
            return Ok(default());
        }
        if name == USER && *value == *self.principal.user {
            return Ok(default());
        }
        if roles.get(value).is_none() {
            return Err(SqlError::new(
                ErrorCode::InvalidParameterValue,
                format!("role \"{value}\" does not exist"),
            ));
        }
        let is_allowed = if name == USER {
            // Whoever authenticated counts, whatever it has become since.
            let user = &self.principal.user;
            engine
                .identify_as(&roles, &self.principal, user, None)?
                .superuser
        } else {
            let user = self.setting(USER).unwrap_or_default();
            let as_user = engine.identify_as(&roles, &self.principal, &user, None)?;
            as_user.superuser || roles.is_member(&user, value)
        };
        if is_allowed {
            return Ok(Some(value.to_owned()));
        }
        let what = if name == USER {
            "set session authorization"
        } else {
            "set role"
        };
        Err(SqlError::new(
            ErrorCode::InsufficientPrivilege,
            format!("permission denied to {what} \"{value}\""),
        ))
    }

    fn default_of(&self, name: &str) -> String {
        if name == USER {
            self.principal.user.to_string()
        } else {
            NONE.to_owned()
        }
    }

    /// After a setting has been set: whom the session acts for may have changed.
    pub(super) fn after_role_setting(
        &mut self,
        name: &str,
        outcome: &mut Outcome,
    ) -> Result<(), SqlError> {
        if name != ROLE && name != USER {
            return Ok(());
        }
        if name == USER {
            self.context.settings.lock().remove(ROLE);
        }
        self.refresh_identity()?;
        let is_superuser = self.setting("is_superuser").unwrap_or_default();
        outcome
            .parameter_status
            .push(("is_superuser".to_owned(), is_superuser));
        Ok(())
    }

    /// DISCARD ALL: back to who authenticated.
    pub(super) fn forget_roles(&self) {
        let mut settings = self.context.settings.lock();
        settings.remove(ROLE);
        settings.insert(USER.to_owned(), self.principal.user.to_string());
    }

    pub(super) async fn run_role(
        &mut self,
        statement: &RoleStatement,
    ) -> Result<Outcome, SqlError> {
        let tag = match statement {
            RoleStatement::Create { .. } => "CREATE ROLE",
            RoleStatement::Alter { .. } => "ALTER ROLE",
            RoleStatement::Drop { .. } => "DROP ROLE",
            RoleStatement::Grant { .. } => "GRANT ROLE",
            RoleStatement::Revoke { .. } => "REVOKE ROLE",
            RoleStatement::CreateToken { .. } => "CREATE TOKEN",
            RoleStatement::DropToken { .. } => "DROP TOKEN",
        };
        self.expect_writable(tag)?;
        let Some(engine) = self.engine.clone() else {
            return Err(SqlError::unsupported(tag));
        };
        let actor = Actor {
            session_user: self.setting(USER).unwrap_or_default().into(),
            identity: Arc::clone(&self.plan_context.identity),
            tenant: self.tenant.id(),
            address: self.principal.address.clone(),
        };
        let changed = if self.block.is_none() {
            engine.change_roles(actor, statement.clone()).await?
        } else if self.tenant.id() == TenantId::DEFAULT {
            self.change_in_block(&engine, &actor, statement).await?
        } else {
            // Roles are in the default tenant's collections: two tenants' changes are no one commit.
            return Err(SqlError::unsupported(format_args!(
                "{tag} inside a transaction of a database other than \"default\""
            ))
            .with_hint(
                "send the statement by itself, or connect to \"default\", where roles are kept",
            ));
        };
        if changed.ended_open_mode {
            self.keep_open_mode();
        }
        let mut outcome = match changed.token {
            Some((id, token)) => {
                outcome::text_rows(tag, &["id", "token"], std::iter::once(vec![id, token]))?
            }
            None => Outcome::command(tag),
        };
        outcome.notices = changed.notices;
        outcome.lsn = self.tenant.visible();
        Ok(outcome)
    }

    /// Notes what an admin has done: at once, or when the transaction that it was done in commits.
    pub(super) async fn audit(&mut self, action: &'static str, object: &str) {
        let event = AuditEvent {
            actor: self.setting(USER).unwrap_or_default(),
            action,
            object: Some(object.to_owned()),
            tenant: Some(self.tenant.name()),
            address: self.principal.address.as_ref().map(ToString::to_string),
            outcome: "ok",
            detail: None,
        };
        if let Some(block) = &mut self.block {
            block.deeds.push(event);
        } else if let Some(noted) = self.note_deeds(vec![event]) {
            // A panic in it has been reported by the task itself.
            let _ = noted.await;
        }
    }

    /// Puts deeds that are done and durable into the audit, to the end whatever becomes of the session.
    pub(super) fn note_deeds(&self, deeds: Vec<AuditEvent>) -> Option<JoinHandle<()>> {
        let engine = self.engine.clone().filter(|_| !deeds.is_empty())?;
        Some(tokio::spawn(async move {
            let first = (deeds[0].action, deeds[0].object.clone());
            // That it is not in the audit is no reason to deny a deed.
            if let Err(error) = engine.audit(deeds).await {
                tracing::error!(%error, ?first, "deeds are not in the audit");
            }
        }))
    }

    /// # Errors
    /// 25006, or 42501 where it is the credentials that only read.
    pub(super) fn expect_writable(&self, what: &str) -> Result<(), SqlError> {
        if self.principal.read_only {
            return Err(SqlError::new(
                ErrorCode::InsufficientPrivilege,
                format!("permission denied: {what} with credentials that allow reading only"),
            ));
        }
        self.tenant.shared.role.expect_writable(what)?;
        if self.is_read_only() {
            return Err(SqlError::new(
                ErrorCode::ReadOnlyTransaction,
                format!("cannot execute {what} in a read-only transaction"),
            ));
        }
        Ok(())
    }
}
