//! Runs changes of roles: in one commit of the default tenant together with their audit, and into
//! the registry once that commit is durable.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError, TenantId};
use springhead_sql::plan::RoleStatement;

use super::audit::AuditEvent;
use super::change::{Actor, Op, Planner, describe};
use super::roles::Roles;
use crate::engine::{Change, Engine, to_its_end};
use crate::session::ParamValue;

/// What came of a change.
#[derive(Debug, Default)]
pub struct Changed {
    pub notices: Vec<SqlError>,
    /// A new token: its id and text, which is nowhere else.
    pub token: Option<(String, String)>,
    /// From now on users must log in.
    pub ended_open_mode: bool,
}

impl Engine {
    /// Makes a change of roles, members or tokens.
    ///
    /// # Errors
    /// 42501 for what the actor may not do, 42710 and 42704 for names that are taken or unknown.
    pub fn change_roles(&self, actor: Actor, statement: RoleStatement) -> Change<Changed> {
        let engine = self.clone();
        to_its_end(async move { engine.change(&actor, &statement).await })
    }

    async fn change(&self, actor: &Actor, statement: &RoleStatement) -> Result<Changed, SqlError> {
        // One at a time, from the look at the roles to their replacement.
        let _changing = self.role_changes().lock().await;
        let result = self.plan_and_run(actor, statement).await;
        if let Err(error) = &result
            && error.code == ErrorCode::InsufficientPrivilege
        {
            let (action, object) = describe(statement);
            let refused = self.event(actor, action, object, error.code.sqlstate().0);
            if let Err(error) = self.audit(vec![refused]).await {
                tracing::error!(%error, "a refused change of roles is not in the audit");
            }
        }
        result
    }

    async fn plan_and_run(
        &self,
        actor: &Actor,
        statement: &RoleStatement,
    ) -> Result<Changed, SqlError> {
        let before = self.roles();
        let planned = {
            let planner = Planner {
                roles: &before,
                actor,
                entropy: &**self.entropy(),
                tenant_id: &|name| self.tenant_id(name),
            };
            planner.plan(statement)?
        };
        for role in &planned.dropped {
            self.expect_unnamed(role).await?;
        }
        let mut changed = Changed {
            notices: planned.notices,
            token: planned.token,
            ended_open_mode: false,
        };
        if planned.ops.is_empty() {
            return Ok(changed);
        }
        let mut ops = planned.ops;
        let event = self.event(actor, planned.action, planned.object, "ok");
        ops.extend(self.audit_book().ops(event, self.config().audit_rows));
        self.run_on(TenantId::DEFAULT, ops).await?;
        let after = self.reload_roles().await?;
        changed.ended_open_mode = before.is_open && !after.is_open;
        if changed.ended_open_mode && !after.has_login_superuser() {
            changed.notices.push(
                SqlError::new(
                    ErrorCode::InvalidAuthorization,
                    "from now on users must log in, and no superuser can",
                )
                .with_hint("before this session ends: ALTER ROLE postgres PASSWORD '…'"),
            );
        }
        Ok(changed)
    }

    /// Rights are kept by the role's name: one that is made again under it must not find any.
    async fn expect_unnamed(&self, role: &str) -> Result<(), SqlError> {
        const SHOWN: usize = 10;
        let mut objects = Vec::new();
        for tenant in self.tenants() {
            let catalog = self.tenant(tenant.id).await?.catalog();
            let found = catalog.objects_of_role(role).into_iter();
            objects.extend(found.map(|object| format!("{object} of database {}", tenant.name)));
        }
        if objects.is_empty() {
            return Ok(());
        }
        let mut detail = objects[..objects.len().min(SHOWN)].join("\n");
        if objects.len() > SHOWN {
            detail.push_str(&format!("\nand {} other objects", objects.len() - SHOWN));
        }
        Err(SqlError::new(
            ErrorCode::DependentObjects,
            format!("role \"{role}\" cannot be dropped because some objects depend on it"),
        )
        .with_detail(detail)
        .with_hint(
            "revoke its grants, give its objects another owner, and drop its policies first",
        ))
    }

    fn event(
        &self,
        actor: &Actor,
        action: &'static str,
        object: String,
        outcome: &'static str,
    ) -> AuditEvent {
        AuditEvent {
            actor: actor.session_user.to_string(),
            action,
            object: Some(object),
            tenant: self.tenant_name(actor.tenant),
            address: actor.address.as_ref().map(ToString::to_string),
            outcome,
            detail: None,
        }
    }

    /// Reads the roles anew and puts them in force.
    ///
    /// # Errors
    /// Why they cannot be read; those before stay in force.
    pub async fn reload_roles(&self) -> Result<Arc<Roles>, SqlError> {
        let tenant = self.tenant(TenantId::DEFAULT).await?;
        let version = self.roles().version + 1;
        let read = move || Roles::read(&tenant.snapshots().snapshot()?, version);
        let roles = Arc::new(self.on_reader(read).await??);
        self.put_roles(Arc::clone(&roles));
        Ok(roles)
    }

    /// Runs statements of Springhead's own on a tenant, in one transaction.
    pub(super) async fn run_on(&self, tenant: TenantId, ops: Vec<Op>) -> Result<(), SqlError> {
        let mut session = self.tenant(tenant).await?.system_session();
        session.begin_block();
        for op in &ops {
            let params: Vec<ParamValue<'_>> = op
                .params
                .iter()
                .map(|param| param.as_deref().map_or(ParamValue::Null, ParamValue::Text))
                .collect();
            let statement = session.prepare(op.sql, &[])?;
            session.execute(&statement, &params).await?;
        }
        session.end_block().await?;
        Ok(())
    }
}
