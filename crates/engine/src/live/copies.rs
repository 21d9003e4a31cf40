//! Queries over copies, from one commit to the next.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use springhead_proto::{Changes, ErrorCode, Lsn, Row, RowRef, SqlError, Value, ValueRef};
use springhead_sql::live::{LiveClass, LivePlan};

use super::asked::Prepared;
use super::commit::CommitChange;
use super::core::{ByAnchor, Core, Instance, Kept, entry};
use super::delta::{Entry, Identity, difference, identity_of};
use super::outbox::LiveEnd;
use super::prune::may_meet;
use crate::Block;

/// Of the step from one commit to the next.
#[derive(Clone, Copy)]
enum Side {
    Before,
    After,
}

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
            match self.parts(&self.instances[&id], change, Side::Before) {
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
            let entries = self.entries_of_copies(id, before, change);
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

    /// For joins the rows that changed keys take part in, for groups the groups that they count
    /// in, in the state that the copies have now. `None`: all of it.
    fn parts(
        &self,
        instance: &Instance,
        change: &CommitChange<'_>,
        side: Side,
    ) -> Result<Option<FxHashMap<Identity, Row>>, SqlError> {
        let Prepared {
            asked,
            params: asked_with,
        } = &instance.query;
        let params = asked_with.values();
        let plan = &asked.plan;
        let by_parts = matches!(
            plan.class,
            LiveClass::Join | LiveClass::Union | LiveClass::Groups | LiveClass::Anchored
        );
        if !by_parts || matches!(instance.kept, Kept::Set(_)) {
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
        if as_whole && matches!(plan.class, LiveClass::Join | LiveClass::Union) {
            // Nothing is kept of these: the whole before is compared with the whole after.
            let all = self.evaluate_all(instance)?;
            return Ok(Some(all.rows.into_iter().collect()));
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
                // A row that is not there has no part in anything.
                let image = match side {
                    Side::Before => &row.before,
                    Side::After => &row.after,
                };
                if !(image.as_ref())
                    .is_some_and(|image| may_meet(&occurrence.conditions, asked_with, image))
                {
                    continue;
                }
                self.shadow.query(
                    &occurrence.of_key,
                    &params,
                    &row.key,
                    &asked.session,
                    |row| {
                        let identity = match plan.class {
                            LiveClass::Join => identity_of(plan, row.as_ref()),
                            LiveClass::Union => identity_in_part(plan, occurrence.part, &row),
                            _ => row.bytes()[..].into(),
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
        let plan = Arc::clone(instance.query.plan());
        if let Kept::Set(_) = instance.kept {
            return self.entries_of_whole(id);
        }
        match (plan.class, before) {
            (LiveClass::Union, Some(before)) => {
                let after = self
                    .parts(instance, change, Side::After)?
                    .unwrap_or_default();
                Ok(by_contents(&plan, difference_of_maps(before, after)))
            }
            (LiveClass::Join, Some(before)) => {
                let after = self
                    .parts(instance, change, Side::After)?
                    .unwrap_or_default();
                Ok(difference_of_maps(before, after))
            }
            (LiveClass::Groups, Some(before)) if plan.anchor_groups.is_none() => {
                let after = self
                    .parts(instance, change, Side::After)?
                    .unwrap_or_default();
                let groups: FxHashMap<Identity, Row> = before.into_iter().chain(after).collect();
                self.entries_of_groups(id, groups)
            }
            (LiveClass::Anchored, before) => match self.anchors(instance, before, change)? {
                Some(anchors) => self.entries_of_anchors(id, anchors),
                None => self.entries_of_all_anchors(id),
            },
            (LiveClass::Groups, before) if plan.anchor_groups.is_some() => {
                match self.anchors(instance, before, change)? {
                    Some(anchors) => self.entries_of_anchored_groups(id, anchors),
                    None => self.entries_of_all_anchored_groups(id),
                }
            }
            (LiveClass::Groups, None) => {
                let new: FxHashMap<_, _> = self.evaluate_all(instance)?.rows.into_iter().collect();
                let instance = self.instances.get_mut(&id).expect("looked at above");
                let Kept::Groups(old) =
                    std::mem::replace(&mut instance.kept, Kept::Groups(Box::new(new.clone())))
                else {
                    return Ok(Vec::new());
                };
                Ok(difference_of_maps(*old, new))
            }
            _ => Ok(Vec::new()),
        }
    }

    fn entries_of_whole(&mut self, id: u64) -> Result<Vec<Entry>, SqlError> {
        let instance = &self.instances[&id];
        let ordered = instance.query.plan().ordered;
        let new = self.evaluate(instance)?;
        let instance = self.instances.get_mut(&id).expect("looked at above");
        let Kept::Set(old) = &instance.kept else {
            return Ok(Vec::new());
        };
        let entries = difference(old, &new, ordered);
        instance.kept = Kept::Set(Box::new(new));
        Ok(entries)
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

    /// The rows of the first table that a commit may matter to; `None` for too many.
    fn anchors(
        &self,
        instance: &Instance,
        before: Option<FxHashMap<Identity, Row>>,
        change: &CommitChange<'_>,
    ) -> Result<Option<FxHashSet<Identity>>, SqlError> {
        let (Some(before), Some(after)) = (before, self.parts(instance, change, Side::After)?)
        else {
            return Ok(None);
        };
        let anchors: FxHashSet<Identity> = before.into_keys().chain(after.into_keys()).collect();
        Ok(Some(anchors).filter(|anchors| anchors.len() <= self.limits.keys_by_parts))
    }

    /// In which groups each row of the first table counts now.
    pub(super) fn groups_of_anchors(&self, instance: &Instance) -> Result<ByAnchor, SqlError> {
        let Prepared { asked, params } = &instance.query;
        let mut of_anchors = ByAnchor::default();
        if let Some(found) = &asked.plan.anchor_groups {
            let params = params.values();
            self.shadow
                .query(&found.all, &params, &[], &asked.session, |row| {
                    let (anchor, group) = anchor_and_group(&row, found.anchor_keys);
                    of_anchors.entry(anchor).or_default().push(group);
                    Ok(())
                })?;
        }
        Ok(of_anchors)
    }

    /// Groups that some rows of the first table have counted in, or do now, computed anew.
    fn entries_of_anchored_groups(
        &mut self,
        id: u64,
        anchors: FxHashSet<Identity>,
    ) -> Result<Vec<Entry>, SqlError> {
        let instance = &self.instances[&id];
        let Prepared { asked, params } = &instance.query;
        let params = params.values();
        let (Some(found), Kept::AnchoredGroups(kept)) = (&asked.plan.anchor_groups, &instance.kept)
        else {
            return Ok(Vec::new());
        };
        let mut touched: FxHashMap<Identity, Row> = FxHashMap::default();
        let mut now = Vec::with_capacity(anchors.len());
        for anchor in anchors {
            touched.extend(kept.1.get(&anchor).into_iter().flatten().cloned());
            let key = values_of(&anchor)?;
            let mut groups = Vec::new();
            self.shadow
                .query(&found.of_anchor, &params, &key, &asked.session, |row| {
                    groups.push(anchor_and_group(&row, found.anchor_keys).1);
                    Ok(())
                })?;
            touched.extend(groups.iter().cloned());
            now.push((anchor, groups));
        }
        let new = self.computed_groups(instance, touched)?;
        let instance = self.instances.get_mut(&id).expect("looked at above");
        let Kept::AnchoredGroups(kept) = &mut instance.kept else {
            return Ok(Vec::new());
        };
        for (anchor, groups) in now {
            if groups.is_empty() {
                kept.1.remove(&anchor);
            } else {
                kept.1.insert(anchor, groups);
            }
        }
        Ok(replaced_groups(&mut kept.0, new))
    }

    fn entries_of_all_anchored_groups(&mut self, id: u64) -> Result<Vec<Entry>, SqlError> {
        let instance = &self.instances[&id];
        let new: FxHashMap<_, _> = self.evaluate_all(instance)?.rows.into_iter().collect();
        let of_anchors = self.groups_of_anchors(instance)?;
        let instance = self.instances.get_mut(&id).expect("looked at above");
        let Kept::AnchoredGroups(kept) = &mut instance.kept else {
            return Ok(Vec::new());
        };
        let (old, _) = std::mem::replace(&mut **kept, (new.clone(), of_anchors));
        Ok(difference_of_maps(old, new))
    }

    /// Evaluates what belongs to some rows of the first table anew, and compares it with what is kept.
    fn entries_of_anchors(
        &mut self,
        id: u64,
        anchors: FxHashSet<Identity>,
    ) -> Result<Vec<Entry>, SqlError> {
        let instance = &self.instances[&id];
        let Prepared { asked, params } = &instance.query;
        let params = params.values();
        let plan = Arc::clone(&asked.plan);
        let Some(of_anchor) = &plan.of_group else {
            return self.entries_of_all_anchors(id);
        };
        let mut new = Vec::with_capacity(anchors.len());
        for anchor in anchors {
            let key = values_of(&anchor)?;
            let mut rows = Vec::new();
            self.shadow
                .query(of_anchor, &params, &key, &asked.session, |row| {
                    rows.push((identity_of(&plan, row.as_ref()), row));
                    Ok(())
                })?;
            new.push((anchor, rows));
        }
        let instance = self.instances.get_mut(&id).expect("looked at above");
        let Kept::Anchored(kept) = &mut instance.kept else {
            return Ok(Vec::new());
        };
        let mut entries = Vec::new();
        for (anchor, rows) in new {
            let old = if rows.is_empty() {
                kept.remove(&anchor)
            } else {
                kept.insert(anchor, rows.clone())
            };
            let old = old.unwrap_or_default().into_iter().collect();
            entries.extend(difference_of_maps(old, rows.into_iter().collect()));
        }
        Ok(entries)
    }

    fn entries_of_all_anchors(&mut self, id: u64) -> Result<Vec<Entry>, SqlError> {
        let instance = &self.instances[&id];
        let plan = Arc::clone(instance.query.plan());
        let new = self.evaluate_all(instance)?.rows;
        let instance = self.instances.get_mut(&id).expect("looked at above");
        let Kept::Anchored(kept) = &mut instance.kept else {
            return Ok(Vec::new());
        };
        let old = std::mem::replace(&mut **kept, by_anchor(&plan, new.clone()));
        let old = old.into_values().flatten().collect();
        Ok(difference_of_maps(old, new.into_iter().collect()))
    }

    /// Computes groups anew and compares them with what is kept.
    fn entries_of_groups(
        &mut self,
        id: u64,
        groups: FxHashMap<Identity, Row>,
    ) -> Result<Vec<Entry>, SqlError> {
        let new = self.computed_groups(&self.instances[&id], groups)?;
        let instance = self.instances.get_mut(&id).expect("looked at above");
        match &mut instance.kept {
            Kept::Groups(kept) => Ok(replaced_groups(kept, new)),
            _ => Ok(Vec::new()),
        }
    }

    /// What some groups are now; `None` for one that is not there.
    fn computed_groups(
        &self,
        instance: &Instance,
        groups: FxHashMap<Identity, Row>,
    ) -> Result<FxHashMap<Identity, Option<Row>>, SqlError> {
        let Prepared { asked, params } = &instance.query;
        let params = params.values();
        let mut new: FxHashMap<Identity, Option<Row>> = FxHashMap::default();
        match &asked.plan.of_group {
            Some(of_group) => {
                for (identity, group) in groups {
                    let key: Vec<Value> = group.values().map(|value| value.to_owned()).collect();
                    let mut found = None;
                    self.shadow
                        .query(of_group, &params, &key, &asked.session, |row| {
                            found = Some(row);
                            Ok(())
                        })?;
                    new.insert(identity, found);
                }
            }
            // Aggregates over all rows: one group.
            None if groups.is_empty() => {}
            None => {
                let result = self.evaluate_all(instance)?;
                let empty = Row::from_values(std::iter::empty());
                let found = result.rows.into_iter().next().map(|(_, row)| row);
                new.insert(empty.bytes()[..].into(), found);
            }
        }
        Ok(new)
    }
}

fn replaced_groups(
    kept: &mut FxHashMap<Identity, Row>,
    new: FxHashMap<Identity, Option<Row>>,
) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (identity, row) in new {
        let before = match &row {
            Some(row) => kept.insert(identity, row.clone()),
            None => kept.remove(&identity),
        };
        entries.extend(entry(before, row));
    }
    entries
}

/// The values that an identity was made of.
fn values_of(identity: &Identity) -> Result<Vec<Value>, SqlError> {
    let row = RowRef::parse(identity)
        .map_err(|error| SqlError::new(ErrorCode::Internal, error.to_string()))?;
    Ok(row.values().map(|value| value.to_owned()).collect())
}

/// The key of a row of the first table, and that of a group that it counts in.
fn anchor_and_group(row: &Row, anchor_keys: usize) -> (Identity, (Identity, Row)) {
    let anchor: Vec<_> = row.values().take(anchor_keys).collect();
    let group: Vec<_> = row.values().skip(anchor_keys).collect();
    let anchor = Row::from_values(anchor.into_iter());
    let group = Row::from_values(group.into_iter());
    let identity: Identity = group.bytes()[..].into();
    (anchor.bytes()[..].into(), (identity, group))
}

/// A result's rows by the row of the first table that they belong to.
pub(super) fn by_anchor(plan: &LivePlan, rows: Vec<(Identity, Row)>) -> ByAnchor {
    let mut by_anchor = ByAnchor::default();
    for (identity, row) in rows {
        let values: Vec<_> = (row.values())
            .skip(plan.columns.len())
            .take(plan.group_keys)
            .collect();
        let anchor: Identity = Row::from_values(values.into_iter()).bytes()[..].into();
        by_anchor.entry(anchor).or_default().push((identity, row));
    }
    by_anchor
}

/// A row's key, and which part of a union it is in.
fn identity_in_part(plan: &LivePlan, part: usize, row: &Row) -> Identity {
    let part = ValueRef::Integer(i64::try_from(part).unwrap_or(i64::MAX));
    let values: Vec<ValueRef<'_>> = std::iter::once(part)
        .chain(row.values().skip(plan.columns.len()))
        .collect();
    Row::from_values(values.into_iter()).bytes()[..].into()
}

/// Entries of a result whose rows are told apart by their contents alone: rows that come and rows that
/// go, those that are the same left out.
fn by_contents(plan: &LivePlan, entries: Vec<Entry>) -> Vec<Entry> {
    let shown = |row: &Row| {
        let values: Vec<_> = row.values().take(plan.columns.len()).collect();
        Row::from_values(values.into_iter())
    };
    let mut net: FxHashMap<Identity, (Row, i64)> = FxHashMap::default();
    let mut count = |row: &Row, by: i64| {
        let row = shown(row);
        let identity = row.bytes()[..].into();
        net.entry(identity).or_insert((row, 0)).1 += by;
    };
    for entry in &entries {
        if let Entry::Removed { row } | Entry::Changed { before: row, .. } = entry {
            count(row, -1);
        }
        if let Entry::Added { row, .. } | Entry::Changed { row, .. } = entry {
            count(row, 1);
        }
    }
    let mut told = Vec::new();
    for (row, by) in net.into_values() {
        for _ in 0..by.unsigned_abs() {
            let row = row.clone();
            told.push(match by > 0 {
                true => Entry::Added {
                    row,
                    position: None,
                },
                false => Entry::Removed { row },
            });
        }
    }
    told
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
