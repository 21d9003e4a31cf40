//! Runs changes of roles: as statements of a transaction of the default tenant, together with their
//! audit, and into the registry once that transaction is durable.
//!
//! Whoever makes a change has the default tenant's writer from the look at the roles to the commit, so
//! that no two are made on top of the same roles.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use springhead_proto::{ErrorCode, SqlError, TenantId};
use springhead_sql::Catalog;
use springhead_sql::plan::RoleStatement;

use super::audit::AuditEvent;
use super::change::{Actor, Op, Planner, describe};
use super::roles::Roles;
use crate::Session;
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

/// What a transaction has made of the roles.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    /// As its own statements see them.
    pub roles: Arc<Roles>,
    /// Roles that it drops.
    pub dropped: Vec<String>,
}

/// Versions of roles that are not in force: no version that is in force is as high, and none comes twice,
/// so that no plan made for the ones is taken for the others.
static NEXT_DRAFT: AtomicU64 = AtomicU64::new(1 << 63);

impl Engine {
    /// Makes a change of roles, members or tokens, in a transaction of its own.
    ///
    /// # Errors
    /// 42501 for what the actor may not do, 42710 and 42704 for names that are taken or unknown.
    pub fn change_roles(&self, actor: Actor, statement: RoleStatement) -> Change<Changed> {
        let engine = self.clone();
        to_its_end(async move { engine.change(&actor, &statement).await })
    }

    async fn change(&self, actor: &Actor, statement: &RoleStatement) -> Result<Changed, SqlError> {
        let mut session = self.tenant(TenantId::DEFAULT).await?.system_session();
        session.begin_block();
        let result = self.change_in(&mut session, None, actor, statement).await;
        let (mut changed, draft) = match result {
            Ok(done) => done,
            Err(error) => {
                session.reset().await;
                if let Some(refused) = self.refusal(actor, statement, &error)
                    && let Err(error) = self.audit(vec![refused]).await
                {
                    tracing::error!(%error, "a refused change of roles is not in the audit");
                }
                return Err(error);
            }
        };
        let was_open = self.roles().is_open;
        if let Err(error) = self.expect_unnamed(&draft.dropped, None).await {
            session.reset().await;
            return Err(error);
        }
        session.end_block().await?;
        let after = self.reload_roles().await?;
        changed.ended_open_mode = was_open && !after.is_open;
        Ok(changed)
    }

    /// Makes a change in the open transaction of `session`, which is one of the default tenant; `draft` is
    /// what it has made of the roles so far. Nothing of it is in force before the transaction has been
    /// committed and [`Engine::reload_roles`] called.
    ///
    /// # Errors
    /// As [`Engine::change_roles`]; the transaction has then failed.
    pub(crate) async fn change_in(
        &self,
        session: &mut Session,
        draft: Option<&Draft>,
        actor: &Actor,
        statement: &RoleStatement,
    ) -> Result<(Changed, Draft), SqlError> {
        session.own_writer().await?;
        let before = match draft {
            Some(draft) => Arc::clone(&draft.roles),
            None => Arc::new(self.draft_of(session).await?),
        };
        let planned = {
            let planner = Planner {
                roles: &before,
                actor,
                entropy: &**self.entropy(),
                tenant_id: &|name| self.tenant_id(name),
            };
            planner.plan(statement)?
        };
        let catalog = session.seen_catalog();
        self.expect_unnamed(&planned.dropped, Some(&catalog))
            .await?;
        let mut changed = Changed {
            notices: planned.notices,
            token: planned.token,
            ended_open_mode: false,
        };
        let mut dropped = draft.map_or_else(Vec::new, |draft| draft.dropped.clone());
        if planned.ops.is_empty() {
            let roles = before;
            return Ok((changed, Draft { roles, dropped }));
        }
        let event = self.event(actor, planned.action, planned.object, "ok");
        let audit = self.audit_book().ops(event, self.config().audit_rows);
        for op in planned.ops.iter().chain(&audit) {
            session.run_system(op).await?;
        }
        let roles = Arc::new(self.draft_of(session).await?);
        dropped.extend(planned.dropped);
        if before.is_open && !roles.is_open && !roles.has_login_superuser() {
            changed.notices.push(
                SqlError::new(
                    ErrorCode::InvalidAuthorization,
                    "from now on users must log in, and no superuser can",
                )
                .with_hint("before this session ends: ALTER ROLE postgres PASSWORD '…'"),
            );
        }
        Ok((changed, Draft { roles, dropped }))
    }

    /// The roles as the transaction that has the default tenant's writer sees them.
    async fn draft_of(&self, session: &mut Session) -> Result<Roles, SqlError> {
        let [roles, members, tokens] = Roles::queries();
        let version = NEXT_DRAFT.fetch_add(1, Ordering::Relaxed);
        let roles = session.read_storage(&roles).await?;
        let members = session.read_storage(&members).await?;
        let tokens = session.read_storage(&tokens).await?;
        Roles::of_rows(version, roles, members, tokens)
    }

    /// What the audit says of a change that somebody may not make; `None` for other errors.
    pub(crate) fn refusal(
        &self,
        actor: &Actor,
        statement: &RoleStatement,
        error: &SqlError,
    ) -> Option<AuditEvent> {
        if error.code != ErrorCode::InsufficientPrivilege {
            return None;
        }
        let (action, object) = describe(statement);
        Some(self.event(actor, action, object, error.code.sqlstate().0))
    }

    /// Rights are kept by the role's name: one that is made again under it must not find any. `own` is the
    /// default tenant's catalog as a transaction of its own sees it.
    ///
    /// # Errors
    /// 2BP01 with what names one of `roles`.
    pub(crate) async fn expect_unnamed(
        &self,
        roles: &[String],
        own: Option<&Catalog>,
    ) -> Result<(), SqlError> {
        for role in roles {
            self.expect_one_unnamed(role, own).await?;
        }
        Ok(())
    }

    async fn expect_one_unnamed(&self, role: &str, own: Option<&Catalog>) -> Result<(), SqlError> {
        const SHOWN: usize = 10;
        let mut objects = Vec::new();
        for tenant in self.tenants() {
            let found = match own {
                Some(own) if tenant.id == TenantId::DEFAULT => own.objects_of_role(role),
                _ => self
                    .tenant(tenant.id)
                    .await?
                    .catalog()
                    .objects_of_role(role),
            };
            let found = found.into_iter();
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
        // One after the other: each sees what was committed before it began, so the last one is right.
        let _reading = self.role_changes().lock().await;
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
