//! Queries over copies, from one commit to the next.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use springhead_proto::{Changes, ErrorCode, Lsn, Row, SqlError, Value};
use springhead_sql::live::{LiveClass, LivePlan};

use super::commit::CommitChange;
use super::core::{Core, Instance, Kept, entry};
use super::delta::{Entry, Identity, difference, identity_of};
use super::outbox::LiveEnd;
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
        // Whether or not a query minds, the copies follow.
        let touches_copies = (change.tables.keys()).any(|id| self.shadow.has(*id))
            || blocks.iter().any(|block| self.has_copied_changes(block));
        if !touches_copies {
            return Ok(());
        }
        ids.retain(|id| {
            let instance = &self.instances[id];
            lsn > instance.after
                && !matches!(instance.kept, Kept::Waiting)
                && minds(&instance.asked.plan, change)
        });
        let mut befores = FxHashMap::default();
        let mut failed = Vec::new();
        for &id in &ids {
            match self.parts(&self.instances[&id], change) {
                Ok(before) => {
                    befores.insert(id, before);
                }
                Err(error) => failed.push((id, error)),
            }
        }
        self.shadow.begin()?;
        for block in blocks {
            for change in Changes::new(&block.slice.changes) {
                let change =
                    change.map_err(|e| SqlError::new(ErrorCode::Corrupted, e.to_string()))?;
                self.shadow.apply(&change, lsn)?;
            }
        }
        self.shadow.commit()?;
        for id in ids {
            let Some(before) = befores.remove(&id) else {
                continue;
            };
            match self.entries_of_copies(id, before, change) {
                Ok(entries) => self.publish(id, lsn, entries),
                Err(error) => failed.push((id, error)),
            }
        }
        for (id, error) in failed {
            self.end(id, &LiveEnd::Failed(error));
        }
        Ok(())
    }

    fn has_copied_changes(&self, block: &Block) -> bool {
        Changes::new(&block.slice.changes)
            .filter_map(Result::ok)
            .any(|change| self.shadow.has(change.collection))
    }

    /// For joins the rows that changed keys take part in, for groups the groups that they count
    /// in, in the state that the copies have now. `None`: all of it.
    fn parts(
        &self,
        instance: &Instance,
        change: &CommitChange<'_>,
    ) -> Result<Option<FxHashMap<Identity, Row>>, SqlError> {
        let asked = &instance.asked;
        let plan = &asked.plan;
        let by_parts = matches!(plan.class, LiveClass::Join | LiveClass::Groups);
        if !by_parts {
            return Ok(Some(FxHashMap::default()));
        }
        let changed: usize = (plan.occurrences.iter())
            .filter_map(|occurrence| change.tables.get(&occurrence.collection))
            .map(|table| {
                if table.truncated {
                    usize::MAX / 64
                } else {
                    table.rows.len()
                }
            })
            .sum();
        let as_whole = changed > self.limits.keys_by_parts;
        if as_whole && plan.class == LiveClass::Join {
            // Nothing is kept of a join: the whole before is compared with the whole after.
            return Ok(Some(self.evaluate(instance)?.rows.into_iter().collect()));
        }
        if as_whole {
            return Ok(None);
        }
        let mut rows = FxHashMap::default();
        for occurrence in &plan.occurrences {
            let Some(table) = change.tables.get(&occurrence.collection) else {
                continue;
            };
            for row in &table.rows {
                self.shadow.query(
                    &occurrence.of_key,
                    &asked.params,
                    &row.key,
                    &asked.session,
                    |row| {
                        let identity = if plan.class == LiveClass::Join {
                            identity_of(plan, row.as_ref())
                        } else {
                            row.bytes()[..].into()
                        };
                        rows.insert(identity, row);
                        Ok(())
                    },
                )?;
            }
        }
        Ok(Some(rows))
    }

    fn entries_of_copies(
        &mut self,
        id: u64,
        before: Option<FxHashMap<Identity, Row>>,
        change: &CommitChange<'_>,
    ) -> Result<Vec<Entry>, SqlError> {
        let instance = &self.instances[&id];
        let plan = Arc::clone(&instance.asked.plan);
        match (plan.class, before) {
            (LiveClass::Join, Some(before)) => {
                let after = self.parts(instance, change)?.unwrap_or_default();
                Ok(difference_of_maps(before, after))
            }
            (LiveClass::Groups, Some(before)) => {
                let after = self.parts(instance, change)?.unwrap_or_default();
                let groups: FxHashMap<Identity, Row> = before.into_iter().chain(after).collect();
                self.entries_of_groups(id, groups)
            }
            (LiveClass::Groups, None) => {
                let new: FxHashMap<_, _> = self.evaluate(instance)?.rows.into_iter().collect();
                let instance = self.instances.get_mut(&id).expect("looked at above");
                let Kept::Groups(old) =
                    std::mem::replace(&mut instance.kept, Kept::Groups(new.clone()))
                else {
                    return Ok(Vec::new());
                };
                Ok(difference_of_maps(old, new))
            }
            _ => {
                let new = self.evaluate(instance)?;
                let instance = self.instances.get_mut(&id).expect("looked at above");
                let Kept::Set(old) = &instance.kept else {
                    return Ok(Vec::new());
                };
                let entries = difference(old, &new, plan.ordered);
                instance.kept = Kept::Set(new);
                Ok(entries)
            }
        }
    }

    /// Computes groups anew and compares them with what is kept.
    fn entries_of_groups(
        &mut self,
        id: u64,
        groups: FxHashMap<Identity, Row>,
    ) -> Result<Vec<Entry>, SqlError> {
        let instance = &self.instances[&id];
        let asked = &instance.asked;
        let plan = &asked.plan;
        let mut new: FxHashMap<Identity, Option<Row>> = FxHashMap::default();
        match &plan.of_group {
            Some(of_group) => {
                for (identity, group) in groups {
                    let key: Vec<Value> = group.values().map(|value| value.to_owned()).collect();
                    let mut found = None;
                    self.shadow
                        .query(of_group, &asked.params, &key, &asked.session, |row| {
                            found = Some(row);
                            Ok(())
                        })?;
                    new.insert(identity, found);
                }
            }
            // Aggregates over all rows: one group.
            None if groups.is_empty() => {}
            None => {
                let result = self.evaluate(instance)?;
                let empty = Row::from_values(std::iter::empty());
                let found = result.rows.into_iter().next().map(|(_, row)| row);
                new.insert(empty.bytes()[..].into(), found);
            }
        }
        let instance = self.instances.get_mut(&id).expect("looked at above");
        let Kept::Groups(kept) = &mut instance.kept else {
            return Ok(Vec::new());
        };
        let mut entries = Vec::new();
        for (identity, row) in new {
            let before = match &row {
                Some(row) => kept.insert(identity, row.clone()),
                None => kept.remove(&identity),
            };
            entries.extend(entry(before, row));
        }
        Ok(entries)
    }
}

fn difference_of_maps(
    mut before: FxHashMap<Identity, Row>,
    after: FxHashMap<Identity, Row>,
) -> Vec<Entry> {
    let mut entries: Vec<Entry> = (after.into_iter())
        .filter_map(|(identity, row)| entry(before.remove(&identity), Some(row)))
        .collect();
    entries.extend(before.into_values().map(|row| Entry::Removed { row }));
    entries
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
