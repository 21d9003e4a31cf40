//! Queries that are evaluated again as a whole because that was asked for (`WITH (recompute)`): at once
//! after a commit, then at most once per pause, with the difference since the last time.

use std::time::Duration;

use rustc_hash::FxHashMap;
use springhead_proto::Lsn;
use springhead_sql::live::LiveClass;

use super::core::{Core, Kept};
use super::delta::difference;
use super::outbox::{Item, LiveEnd};

/// When queries were evaluated, and which are to be.
#[derive(Default)]
pub(super) struct Recomputes {
    /// `Clock::monotonic_ms` of the last evaluation.
    last_ms: FxHashMap<u64, u64>,
    /// Queries whose kept result is behind the copies.
    behind: FxHashMap<u64, Behind>,
}

/// A query that waits for its pause.
struct Behind {
    /// When it is due.
    due_ms: u64,
    /// Its kept result is that of every commit up to here.
    exact_at: Lsn,
}

impl Recomputes {
    /// Up to where the kept results of all queries that wait are exact; `None` if none waits.
    pub(super) fn exact_at(&self) -> Option<Lsn> {
        self.behind.values().map(|behind| behind.exact_at).min()
    }

    pub(super) fn forget(&mut self, id: u64) {
        self.last_ms.remove(&id);
        self.behind.remove(&id);
    }
}

impl Core {
    /// Whether a query that a commit touches is to wait.
    pub(super) fn defers(&mut self, id: u64) -> bool {
        if self.instances[&id].query.plan().class != LiveClass::Recomputed {
            return false;
        }
        let now = self.engine.clock().monotonic_ms();
        let pause = u64::try_from(self.limits.recompute_pause.as_millis()).unwrap_or(u64::MAX);
        let recomputes = &mut self.recomputes;
        match recomputes.last_ms.get(&id) {
            Some(last) if now < last.saturating_add(pause) => {
                let due_ms = last.saturating_add(pause);
                // The commit that it is asked about is not in the position yet.
                let exact_at = self.position;
                recomputes
                    .behind
                    .entry(id)
                    .or_insert(Behind { due_ms, exact_at });
                true
            }
            _ => {
                recomputes.last_ms.insert(id, now);
                recomputes.behind.remove(&id);
                false
            }
        }
    }

    /// How long until a query that waits is due.
    pub(crate) fn recompute_in(&self) -> Option<Duration> {
        let waiting = self.recomputes.behind.values();
        let due = waiting.map(|behind| behind.due_ms).min()?;
        let now = self.engine.clock().monotonic_ms();
        Some(Duration::from_millis(due.saturating_sub(now)))
    }

    /// Evaluates all that waits.
    pub(crate) fn recompute_due(&mut self) {
        let now = self.engine.clock().monotonic_ms();
        for (id, _) in std::mem::take(&mut self.recomputes.behind) {
            self.recomputes.last_ms.insert(id, now);
            self.recompute(id);
        }
        let position = self.position;
        for outbox in self.told.drain(..) {
            outbox.push(Item::Tick(position));
        }
        self.note_progress();
    }

    /// Brings one query's kept result to the position, if it is behind.
    pub(super) fn settle(&mut self, id: u64) {
        if self.recomputes.behind.remove(&id).is_some() {
            self.recompute(id);
        }
    }

    fn recompute(&mut self, id: u64) {
        let Some(instance) = self.instances.get(&id) else {
            return;
        };
        let new = match self.evaluate(instance) {
            Ok(new) => new,
            Err(error) => return self.end(id, &LiveEnd::Failed(error)),
        };
        let ordered = instance.query.plan().ordered;
        let instance = self.instances.get_mut(&id).expect("looked at above");
        let Kept::Set(old) = &mut instance.kept else {
            return;
        };
        let entries = difference(old, &new, ordered);
        **old = new;
        let lsn = self.position;
        self.publish(id, lsn, entries);
    }
}
