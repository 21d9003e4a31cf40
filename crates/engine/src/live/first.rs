//! Where queries over copies begin: the first result of each, and the way from a cursor.

use springhead_proto::{ChangeRef, Changes, ErrorCode, Lsn, SqlError};
use springhead_sql::live::LiveClass;

use super::LiveError;
use super::core::{Core, Initial, Instance, Kept, Waiting};
use super::delta::{ResultSet, difference};
use super::outbox::{LiveEnd, LiveId};

impl Core {
    /// Answers once the query's tables are all of one LSN.
    pub(crate) fn wait_for_initial(&mut self, waiting: Waiting) {
        self.waiting.push(waiting);
        self.answer_waiting(self.position.next());
    }

    /// Gives first results to those whose tables are all as of before `next`, the state now.
    pub(super) fn answer_waiting(&mut self, next: Lsn) {
        let due: Vec<u64> = (self.instances.iter())
            .filter(|(_, instance)| matches!(instance.kept, Kept::Waiting) && instance.after < next)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            if let Err(error) = self.evaluate_first(id) {
                self.end(id, &LiveEnd::Failed(error));
            }
        }
        let (due, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|waiting| self.is_ready(waiting.id));
        self.waiting = rest;
        for waiting in due {
            let initial = self.initial(waiting.id, waiting.cursor);
            // Whoever asked may have gone.
            let _ = waiting.reply.send(initial);
        }
    }

    fn is_ready(&self, id: LiveId) -> bool {
        (self.of_subscriber.get(&id))
            .and_then(|instance| self.instances.get(instance))
            .is_none_or(|instance| !matches!(instance.kept, Kept::Waiting))
    }

    fn evaluate_first(&mut self, id: u64) -> Result<(), SqlError> {
        let instance = self.instances.get(&id).expect("the caller has looked");
        let class = instance.asked.plan.class;
        let kept = match class {
            LiveClass::Rows | LiveClass::Join => Kept::Nothing,
            LiveClass::Groups => Kept::Groups(self.evaluate(instance)?.rows.into_iter().collect()),
            _ => Kept::Set(self.evaluate(instance)?),
        };
        self.instances.get_mut(&id).expect("looked at above").kept = kept;
        Ok(())
    }

    pub(super) fn evaluate(&self, instance: &Instance) -> Result<ResultSet, SqlError> {
        let asked = &instance.asked;
        self.shadow.result(
            &asked.plan,
            &asked.params,
            &asked.session,
            self.limits.result_bytes,
        )
    }

    /// The result of a query over copies now; or its net difference from `cursor` to now.
    pub(crate) fn initial(&self, id: LiveId, cursor: Option<Lsn>) -> Result<Initial, LiveError> {
        let instance = (self.of_subscriber.get(&id))
            .and_then(|instance| self.instances.get(instance))
            .ok_or_else(|| LiveError::Refetch("definitions changed meanwhile".to_owned()))?;
        let lsn = self.position.max(instance.after);
        let computed;
        let now = match &instance.kept {
            Kept::Set(set) => set,
            _ => {
                computed = self.evaluate(instance)?;
                &computed
            }
        };
        let (mut rows, mut entries) = (Vec::new(), Vec::new());
        match cursor {
            None => rows.extend(now.rows.iter().map(|(_, row)| row.clone())),
            Some(cursor) if cursor < lsn => {
                let past = self.result_at(instance, cursor, lsn)?;
                entries = difference(&past, now, instance.asked.plan.ordered);
            }
            Some(_) => {}
        }
        Ok(Initial { lsn, rows, entries })
    }

    /// The result as it was at `cursor`: the copies are taken back there, and forth again.
    fn result_at(
        &self,
        instance: &Instance,
        cursor: Lsn,
        now: Lsn,
    ) -> Result<ResultSet, LiveError> {
        let plan = &instance.asked.plan;
        let slices = super::resume::read(&self.tenant, cursor, now, &plan.reads, self.limits)?;
        let mut changes: Vec<ChangeRef<'_>> = Vec::new();
        for slice in &slices {
            for change in Changes::new(&slice.changes) {
                let change = change
                    .map_err(|error| SqlError::new(ErrorCode::Corrupted, error.to_string()))?;
                if plan.reads.contains(&change.collection) {
                    super::resume::expect_reversible(&change)?;
                    changes.push(change);
                }
            }
        }
        let asked = &instance.asked;
        let max_bytes = self.limits.result_bytes;
        Ok(self.shadow.in_the_past(&changes, |shadow| {
            shadow.result(plan, &asked.params, &asked.session, max_bytes)
        })?)
    }
}
