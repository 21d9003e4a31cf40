//! What becomes of live queries when definitions change.

use rustc_hash::FxHashSet;
use springhead_proto::{CollectionId, SqlError};
use springhead_sql::live::{LiveClass, LivePlan, plan_live};
use springhead_sql::planner::PlanContext;

use super::core::{Core, Prepared};
use super::outbox::LiveEnd;

impl Core {
    /// Plans again what a change of definitions may mean something else for.
    pub(super) fn follow_definitions(&mut self, definitions: &[CollectionId]) {
        let touched: FxHashSet<CollectionId> = definitions.iter().copied().collect();
        let others = touched.contains(&CollectionId::NONE);
        let ids: Vec<u64> = (self.instances.iter())
            .filter(|(_, instance)| {
                others
                    || instance
                        .asked
                        .plan
                        .reads
                        .iter()
                        .any(|read| touched.contains(read))
            })
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let instance = &self.instances[&id];
            let is_copied = instance.asked.plan.class != LiveClass::Rows
                && instance
                    .asked
                    .plan
                    .reads
                    .iter()
                    .any(|read| touched.contains(read));
            let end = match self.plan_again(&instance.asked) {
                Err(error) => Some(LiveEnd::Failed(error)),
                Ok(plan) if is_copied || !is_same(&plan, &instance.asked.plan) => {
                    Some(LiveEnd::MustRefetch {
                        message: "definitions that the query depends on have changed".to_owned(),
                    })
                }
                Ok(_) => None,
            };
            if let Some(end) = end {
                self.end(id, &end);
            }
        }
    }

    fn plan_again(&self, asked: &Prepared) -> Result<LivePlan, SqlError> {
        let context = PlanContext {
            identity: self.engine.identify(&asked.principal)?,
            ..asked.plan_context.clone()
        };
        let types: Vec<_> = (asked.plan.parameters.iter())
            .map(|parameter| Some(parameter.pg_type.clone()))
            .collect();
        plan_live(
            &self.tenant.catalog(),
            &asked.sql,
            &types,
            &context,
            asked.recompute,
        )
    }
}

fn is_same(a: &LivePlan, b: &LivePlan) -> bool {
    a.sql == b.sql
        && a.columns == b.columns
        && a.parameters == b.parameters
        && a.key == b.key
        && a.reads == b.reads
}
