//! Changes of roles in a transaction of the default tenant, whose collections roles are: they are its
//! statements, in force for it at once and for all others once it is committed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use springhead_proto::{ErrorCode, SqlError};
use springhead_sql::access::Identity;
use springhead_sql::catalog::Catalog;
use springhead_sql::plan::{Query, RoleStatement};
use springhead_sql::planner::{self, PlanContext};
use springhead_sql::{Plan, PlanKind};
use tokio::sync::oneshot;

use super::Session;
use super::execute::{Answer, REPLANS, changing_catalog, outcome_unknown};
use super::statement::{ParamValue, convert};
use crate::Engine;
use crate::access::admin::Changed;
use crate::access::change::Op;
use crate::access::{Actor, Credential};
use crate::engine::to_its_end;
use crate::rows::Rows;
use crate::writer::{Command, Done, Reply, TransactionId};

impl Session {
    /// Runs a statement about roles in the open block.
    pub(super) async fn change_in_block(
        &mut self,
        engine: &Engine,
        actor: &Actor,
        statement: &RoleStatement,
    ) -> Result<Changed, SqlError> {
        self.note_use();
        let draft = self.block.as_ref().and_then(|block| block.roles.clone());
        let result = engine
            .change_in(self, draft.as_ref(), actor, statement)
            .await;
        match result {
            Ok((changed, draft)) => {
                if let Some(block) = &mut self.block {
                    block.roles = Some(draft);
                }
                self.refresh_identity()?;
                Ok(changed)
            }
            Err(error) => {
                if let Some(refused) = engine.refusal(actor, statement, &error) {
                    // The audit waits for the writer, which this block has: nobody waits for it here.
                    drop(self.note_deeds(vec![refused]));
                }
                Err(error)
            }
        }
    }

    /// Makes the writer the block's own, if it is not.
    pub(crate) async fn own_writer(&mut self) -> Result<(), SqlError> {
        if !self.holds_writer() {
            self.acquire_writer().await?;
        }
        Ok(())
    }

    /// The catalog as the open block sees it.
    pub(crate) fn seen_catalog(&self) -> Arc<Catalog> {
        self.catalog()
    }

    /// Runs a statement of Springhead's own in the block that has the writer.
    pub(crate) async fn run_system(&mut self, op: &Op) -> Result<(), SqlError> {
        let context = PlanContext {
            system: true,
            identity: Arc::new(Identity::unrestricted("springhead")),
            ..self.plan_context.clone()
        };
        let params: Vec<ParamValue<'_>> = op
            .params
            .iter()
            .map(|param| param.as_deref().map_or(ParamValue::Null, ParamValue::Text))
            .collect();
        for _ in 0..REPLANS {
            let plan = Arc::new(planner::plan(&self.catalog(), op.sql, &[], &context)?);
            let values = convert(&plan, &params)?;
            if let Answer::Outcome(_) = self.run_owned(&plan, values, None).await? {
                return Ok(());
            }
        }
        Err(changing_catalog())
    }

    /// Reads storage tables in the block that has the writer: what it has changed, too.
    pub(crate) async fn read_storage(&mut self, sql: &str) -> Result<Rows, SqlError> {
        for _ in 0..REPLANS {
            let plan = Arc::new(Plan {
                catalog_version: self.catalog().version,
                parameters: Vec::new(),
                system: false,
                library: None,
                kind: PlanKind::Query(Query {
                    sql: sql.to_owned(),
                    columns: Arc::from([]),
                    reads: Vec::new(),
                    locks: true,
                    nowait: false,
                }),
            });
            if let Answer::Outcome(outcome) = self.run_owned(&plan, Vec::new(), None).await? {
                return outcome
                    .rows
                    .ok_or_else(|| SqlError::new(ErrorCode::Internal, "a query without a result"));
            }
        }
        Err(changing_catalog())
    }

    /// Before a block that has dropped roles is committed: meanwhile others may have been granted something.
    pub(super) async fn expect_dropped_unnamed(&self) -> Result<(), SqlError> {
        let dropped = self.block.as_ref().and_then(|block| block.roles.as_ref());
        let (Some(draft), Some(engine)) = (dropped, &self.engine) else {
            return Ok(());
        };
        engine
            .expect_unnamed(&draft.dropped, Some(&self.catalog()))
            .await
    }

    /// Commits a block that has changed roles and puts them in force, to the end whatever becomes of the
    /// session: a right that has been revoked must not outlive the commit because a client went away.
    pub(super) async fn commit_roles(&mut self, writer: TransactionId) -> Result<Done, SqlError> {
        let Some(engine) = self.engine.clone() else {
            return self.ask_owned(|reply| Command::Commit(writer, reply)).await;
        };
        let (reply, answer) = oneshot::channel();
        self.tenant.mailbox.submit(Command::Commit(writer, reply));
        let was_open = engine.roles().is_open;
        let (done, ended_open_mode) = to_its_end(async move {
            let done = match answer.await {
                Ok(Reply::Done(done)) => done,
                Ok(Reply::Failed { error, .. }) => return Err(error),
                Ok(Reply::Stale(_)) => return Err(changing_catalog()),
                Err(_) => return Err(outcome_unknown()),
            };
            let after = engine.reload_roles().await?;
            Ok((done, was_open && !after.is_open))
        })
        .await?;
        if ended_open_mode {
            self.keep_open_mode();
        }
        Ok(done)
    }

    /// Whoever made the first user may finish what it began.
    pub(super) fn keep_open_mode(&self) {
        if let Credential::Open(kept) = &self.principal.credential {
            kept.store(true, Ordering::Relaxed);
        }
    }
}
