//! Queries over copies, from one commit to the next.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use springhead_proto::{Changes, Lsn, SqlError};
use springhead_sql::live::LivePlan;

use super::commit::CommitChange;
use super::core::{Core, Kept};
use super::delta::Entry;
use super::outbox::LiveEnd;
use super::parts::{Evaluator, Moment, Parts};
use crate::Block;

impl Core {
    /// Queries over copies: these are brought to the commit, and the queries with them.
    pub(super) fn commit_copies(
        &mut self,
        change: &CommitChange<'_>,
        blocks: &[Arc<Block>],
        lsn: Lsn,
    ) -> Result<(), SqlError> {
        let mut ids: Vec<u64> = (change.tables.keys())
            .filter_map(|collection| self.readers.get(collection))
            .flatten()
            .copied()
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let found = self.found_copies(change);
        // Whether or not a query minds, the copies follow.
        let touches_copies = (change.tables.keys()).any(|id| self.shadow.has(*id))
            || blocks.iter().any(|block| self.has_copied_changes(block));
        if !touches_copies {
            return Ok(());
        }
        ids.retain(|id| {
            let instance = &self.instances[id];
            if instance.query.plan().table.is_some() && !found.contains(id) {
                return false;
            }
            lsn > instance.after
                && !matches!(instance.kept, Kept::Waiting(_))
                && minds(instance.query.plan(), change)
        });
        ids.retain(|id| !self.defers(*id));
        let mut befores = FxHashMap::default();
        let mut failed = Vec::new();
        for &id in &ids {
            match self.parts_before(id, change) {
                Ok(before) => {
                    befores.insert(id, before);
                }
                Err(error) => failed.push((id, error)),
            }
        }
        self.shadow.step(blocks, lsn)?;
        for id in ids {
            let Some(before) = befores.remove(&id) else {
                continue;
            };
            let entries = self.entries_after(id, before, change);
            match entries.and_then(|entries| self.in_order(id, entries)) {
                Ok(entries) => self.publish(id, lsn, entries),
                Err(error) => failed.push((id, error)),
            }
        }
        for (id, error) in failed {
            self.end(id, &LiveEnd::Failed(error));
        }
        Ok(())
    }

    /// The queries of one table whose conditions a changed row may meet, before or after.
    fn found_copies(&mut self, change: &CommitChange<'_>) -> FxHashSet<u64> {
        let mut found = FxHashSet::default();
        for (collection, table) in &change.tables {
            if !self.copy_index.has(*collection) {
                continue;
            }
            if table.truncated {
                found.extend(self.readers.get(collection).into_iter().flatten());
            }
            for row in &table.rows {
                for image in [&row.before, &row.after].into_iter().flatten() {
                    self.copy_index.candidates(&image.table, image.row, |id| {
                        found.insert(id);
                    });
                }
            }
        }
        found
    }

    fn has_copied_changes(&self, block: &Block) -> bool {
        Changes::new(&block.slice.changes)
            .filter_map(Result::ok)
            .any(|change| self.shadow.has(change.collection))
    }

    fn parts_before(&self, id: u64, change: &CommitChange<'_>) -> Result<Parts, SqlError> {
        let instance = &self.instances[&id];
        let (ask, kept) = (instance.query.ask(), &instance.kept);
        self.evaluator().parts(ask, kept, change, Moment::Before)
    }

    fn entries_after(
        &mut self,
        id: u64,
        before: Parts,
        change: &CommitChange<'_>,
    ) -> Result<Vec<Entry>, SqlError> {
        let evaluator = Evaluator {
            shadow: &self.shadow,
            limits: self.limits,
        };
        let instance = self.instances.get_mut(&id).expect("looked at before");
        let (ask, kept) = (instance.query.ask(), &mut instance.kept);
        evaluator.entries(ask, kept, before, change)
    }

    /// Puts what has changed into the order of a query that is kept sorted; what is told of it.
    fn in_order(&mut self, id: u64, entries: Vec<Entry>) -> Result<Vec<Entry>, SqlError> {
        let max_bytes = self.limits.result_bytes;
        let plan = Arc::clone(self.instances[&id].query.plan());
        let (Some(order), Some(sorted)) = (&plan.order, self.sorted.get_mut(&id)) else {
            return Ok(entries);
        };
        let told = sorted.apply(&plan, order, &entries);
        if sorted.bytes > max_bytes {
            return Err(super::shadow::too_large(max_bytes));
        }
        Ok(told)
    }
}

/// Whether a change can matter to a query over one table: a column that it looks at has changed.
fn minds(plan: &LivePlan, change: &CommitChange<'_>) -> bool {
    let Some(watched) = &plan.watched else {
        return true;
    };
    (plan.reads.iter())
        .filter_map(|read| change.tables.get(read))
        .any(|table| table.truncated || table.rows.iter().any(|row| row.touches(watched)))
}
