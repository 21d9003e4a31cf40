//! Steps that concern a few filters, or nothing that anyone looks at, are gone through by the task that
//! reads the log: waking another thread, and being woken by it, would take longer than they do.

use std::sync::Arc;

use springhead_proto::{ChangeKind, Changes, SqlError};

use super::TenantLive;
use super::core::Core;
use crate::Step;

/// Changes of such a step.
const CHANGES: usize = 16;

/// Images of rows that a filter may have to be shown, a few microseconds each.
const EVALUATIONS: usize = 32;

impl TenantLive {
    /// Goes through one step of the log: here if it is a quick one, else on a reader thread.
    pub(super) async fn step(self: &Arc<Self>, step: Step) -> Result<(), SqlError> {
        if let Some(mut core) = self.core.try_lock()
            && core.is_quick(&step)
        {
            core.step(step);
            return Ok(());
        }
        self.with_core(move |core| core.step(step)).await
    }
}

impl Core {
    /// Whether a step is of few changes, of which few filters have to be asked and nothing else.
    fn is_quick(&mut self, step: &Step) -> bool {
        if !(self.waiting.is_empty() && self.pending.is_empty() && self.partial.is_empty()) {
            return false;
        }
        let (mut changes, mut evaluations) = (0, 0);
        for block in &step.blocks {
            for change in Changes::new(&block.slice.changes) {
                let Ok(change) = change else { return false };
                let is_heavy = matches!(change.kind, ChangeKind::Definition | ChangeKind::Truncate)
                    || self.readers.contains_key(&change.collection);
                changes += 1;
                if is_heavy || changes > CHANGES {
                    return false;
                }
                if !self.index.has(change.collection) {
                    continue;
                }
                let schema = (self.tenant).schema(change.collection, change.schema_version);
                let Some(table) = schema else { return false };
                for image in [change.before, change.after].into_iter().flatten() {
                    self.index.candidates(&table, image, |_| evaluations += 1);
                }
                if evaluations > EVALUATIONS {
                    return false;
                }
            }
        }
        true
    }
}
