//! Where queries over copies begin: the first result of each, and the way from a cursor.

use std::sync::Arc;

use springhead_proto::{ChangeRef, Changes, ErrorCode, Lsn, SqlError};
use springhead_sql::live::LiveClass;

use super::LiveError;
use super::asked::Prepared;
use super::core::{Core, Initial, Instance, Kept, Waiting};
use super::delta::{ResultSet, difference};
use super::outbox::{LiveEnd, LiveId};
use super::sorted::{Sorted, Window};

/// What a query begins with.
struct Begun {
    /// The rows that it is kept by; nothing, if nothing is.
    all: ResultSet,
    sorted: Option<Sorted>,
    /// It is evaluated as a whole, whatever its class.
    as_whole: bool,
}

impl Core {
    /// Answers once the query's tables are all of one LSN.
    pub(crate) fn wait_for_initial(&mut self, waiting: Waiting) {
        self.waiting.push(waiting);
        self.answer_waiting(self.position.next());
    }

    /// Gives first results to those whose tables are all as of before `next`, the state now.
    pub(super) fn answer_waiting(&mut self, next: Lsn) {
        if self.pending.is_empty() && self.waiting.is_empty() {
            return;
        }
        let due: Vec<u64> = (self.pending.iter().copied())
            .filter(|id| self.instances[id].after < next)
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
            if let Some(&instance) = self.of_subscriber.get(&waiting.id) {
                self.settle(instance);
            }
            let initial = self.initial(waiting.id, waiting.cursor);
            // Whoever asked may have gone.
            let _ = waiting.reply.send(initial);
        }
    }

    fn is_ready(&self, id: LiveId) -> bool {
        (self.of_subscriber.get(&id))
            .and_then(|instance| self.instances.get(instance))
            .is_none_or(|instance| !matches!(instance.kept, Kept::Waiting(_)))
    }

    fn evaluate_first(&mut self, id: u64) -> Result<(), SqlError> {
        let instance = self.instances.get(&id).expect("the caller has looked");
        let plan = Arc::clone(instance.query.plan());
        let told = matches!(instance.kept, Kept::Waiting(Some(_)));
        let Begun {
            all,
            sorted,
            as_whole,
        } = self.begin(instance, told)?;
        let lsn = self.position.max(instance.after);
        let before = match &instance.kept {
            Kept::Waiting(before) => before.as_deref(),
            _ => None,
        };
        let entries = before.map(|before| match &sorted {
            Some(sorted) => difference(before, &sorted.shown(), plan.ordered),
            None => difference(before, &all, plan.ordered),
        });
        let kept = match as_whole {
            true => Kept::Set(Box::new(all)),
            false => self.evaluator().kept_of(instance.query.ask(), all)?,
        };
        let instance = self.instances.get_mut(&id).expect("looked at above");
        instance.kept = kept;
        self.sorted.extend(sorted.map(|sorted| (id, sorted)));
        self.pending.remove(&id);
        if let Some(entries) = entries {
            self.publish(id, lsn, entries);
        }
        Ok(())
    }

    /// What a query begins with.
    fn begin(&self, instance: &Instance, told: bool) -> Result<Begun, SqlError> {
        let Prepared { asked, params } = &instance.query;
        let plan = &asked.plan;
        let Some(order) = &plan.order else {
            // Of these no rows are kept, or others.
            let is_free = matches!(
                plan.class,
                LiveClass::Rows | LiveClass::Join | LiveClass::Union | LiveClass::Sides
            );
            let all = match is_free && !told {
                true => ResultSet::default(),
                false => self.evaluate(instance)?,
            };
            return Ok(Begun {
                all,
                sorted: None,
                as_whole: false,
            });
        };
        let whole = |all| Begun {
            all,
            sorted: None,
            as_whole: true,
        };
        let Some(window) = Window::of(order, params) else {
            // Which is an error, and SQLite says which.
            return self.evaluate(instance).map(whole);
        };
        match self.evaluator().evaluate_all(instance.query.ask()) {
            Ok(all) => Ok(Begun {
                sorted: Some(Sorted::new(plan, order, window, &all)),
                all,
                as_whole: false,
            }),
            // A window of more than can be kept is looked for each time.
            Err(error) if error.code == ErrorCode::StatementTooLarge && window.is_part() => {
                self.evaluate(instance).map(whole)
            }
            Err(error) => Err(error),
        }
    }

    /// What is shown, by the query itself.
    pub(super) fn evaluate(&self, instance: &Instance) -> Result<ResultSet, SqlError> {
        self.evaluator().evaluate(instance.query.ask())
    }

    /// The result of a query over copies now; or its net difference from `cursor` to now.
    pub(crate) fn initial(&self, id: LiveId, cursor: Option<Lsn>) -> Result<Initial, LiveError> {
        let (sorted, instance) = (self.of_subscriber.get(&id))
            .and_then(|id| Some((self.sorted.get(id), self.instances.get(id)?)))
            .ok_or_else(|| LiveError::Refetch("definitions changed meanwhile".to_owned()))?;
        let lsn = self.position.max(instance.after);
        let computed;
        let now = match (&instance.kept, sorted) {
            (Kept::Set(set), _) => &**set,
            (_, Some(sorted)) => {
                computed = sorted.shown();
                &computed
            }
            (_, None) => {
                computed = self.evaluate(instance)?;
                &computed
            }
        };
        let (mut rows, mut entries) = (Vec::new(), Vec::new());
        match cursor {
            None => rows.extend(now.rows.iter().map(|(_, row)| row.clone())),
            Some(cursor) if cursor < lsn => {
                let past = self.result_at(instance, sorted.is_some(), cursor, lsn)?;
                entries = difference(&past, now, instance.query.plan().ordered);
            }
            Some(_) => {}
        }
        Ok(Initial { lsn, rows, entries })
    }

    /// The result as it was at `cursor`: the copies are taken back there, and forth again.
    fn result_at(
        &self,
        instance: &Instance,
        is_sorted: bool,
        cursor: Lsn,
        now: Lsn,
    ) -> Result<ResultSet, LiveError> {
        let plan = instance.query.plan();
        let slices = super::resume::read(&self.tenant, cursor, now, plan, self.limits)?;
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
        let Prepared { asked, params } = &instance.query;
        let max_bytes = self.limits.result_bytes;
        // As it was told then: a query that is sorted here was sorted here.
        let sorts = (plan.order.as_ref().filter(|_| is_sorted))
            .and_then(|order| Some((order, Window::of(order, params)?)));
        let sql = sorts.map_or(&plan.sql, |(order, _)| &order.all);
        let past = self.shadow.in_the_past(&changes, |shadow| {
            shadow.result(plan, sql, &params.values(), &asked.session, max_bytes)
        })?;
        Ok(match sorts {
            Some((order, window)) => Sorted::new(plan, order, window, &past).shown(),
            None => past,
        })
    }
}
