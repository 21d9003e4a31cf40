//! A statement that keeps meeting definitions newer than those it was planned against. Planning takes
//! time, and where definitions change faster it would lose every time: with the writer to itself they
//! stand still.

use std::sync::Arc;

use springhead_proto::{SqlError, Value};
use springhead_sql::Plan;

use super::execute::{Answer, changing_catalog};
use super::{Outcome, Session};

impl Session {
    /// Plans and runs one statement while nobody else can change definitions: in the open
    /// transaction, or in one of its own.
    pub(super) async fn run_at_standstill(
        &mut self,
        sql: &str,
        plan: impl FnOnce(&mut Session) -> Result<(Arc<Plan>, Vec<Value>), SqlError>,
    ) -> Result<Outcome, SqlError> {
        if self.block.is_some() {
            return self.plan_with_writer(sql, plan).await;
        }
        self.begin_block();
        let ran = self.plan_with_writer(sql, plan).await;
        if ran.is_err() {
            self.fail_block();
        }
        let ended = self.end_block().await;
        let mut outcome = ran?;
        outcome.lsn = ended?;
        Ok(outcome)
    }

    async fn plan_with_writer(
        &mut self,
        sql: &str,
        plan: impl FnOnce(&mut Session) -> Result<(Arc<Plan>, Vec<Value>), SqlError>,
    ) -> Result<Outcome, SqlError> {
        if !self.holds_writer() {
            self.acquire_writer().await?;
        }
        let (plan, params) = plan(self)?;
        match self.run_plan(sql, &plan, params).await? {
            Answer::Outcome(outcome) => Ok(outcome),
            Answer::Stale => Err(changing_catalog()),
        }
    }
}
