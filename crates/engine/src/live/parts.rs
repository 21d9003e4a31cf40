//! What a commit changes in one query over the copies, by its class: the rows, groups or rows of the first
//! table that changed rows matter to are looked at before and after the copies are stepped.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use springhead_proto::{ErrorCode, Row, RowRef, SqlError, Value, ValueRef};
use springhead_sql::live::{LiveClass, LivePlan};

use super::LiveLimits;
use super::asked::{Params, Prepared};
use super::commit::CommitChange;
use super::core::{ByAnchor, Kept, entry};
use super::delta::{Entry, Identity, ResultSet, difference, identity_of};
use super::prune::may_meet;
use super::shadow::Shadow;
use super::sides::KeptSides;
use crate::functions::SessionContext;

/// A query over the copies, or one side of one.
#[derive(Clone, Copy)]
pub(super) struct Ask<'q> {
    pub plan: &'q LivePlan,
    pub params: &'q Params,
    pub session: &'q Arc<SessionContext>,
}

impl Prepared {
    pub(super) fn ask(&self) -> Ask<'_> {
        Ask {
            plan: &self.asked.plan,
            params: &self.params,
            session: &self.asked.session,
        }
    }
}

/// Of the step from one commit to the next.
#[derive(Clone, Copy)]
pub(super) enum Moment {
    Before,
    After,
}

/// What changed rows have a part in, at one moment.
pub(super) enum Parts {
    /// More than is gone through one by one.
    Whole,
    /// Rows of a join, groups, or keys of the first table.
    Rows(FxHashMap<Identity, Row>),
    Sides(Vec<Parts>),
}

/// Asks the copies as they are now.
#[derive(Clone, Copy)]
pub(super) struct Evaluator<'c> {
    pub shadow: &'c Shadow,
    pub limits: LiveLimits,
}

impl Evaluator<'_> {
    /// What is shown, by the query itself.
    pub(super) fn evaluate(self, ask: Ask<'_>) -> Result<ResultSet, SqlError> {
        self.result(ask, &ask.plan.sql)
    }

    /// All rows that are kept by parts: of a query in an order in none, with what they are ordered by.
    pub(super) fn evaluate_all(self, ask: Ask<'_>) -> Result<ResultSet, SqlError> {
        let order = ask.plan.order.as_ref();
        self.result(ask, order.map_or(&ask.plan.sql, |order| &order.all))
    }

    fn result(self, ask: Ask<'_>, sql: &str) -> Result<ResultSet, SqlError> {
        let params = ask.params.values();
        let max_bytes = self.limits.result_bytes;
        self.shadow
            .result(ask.plan, sql, &params, ask.session, max_bytes)
    }

    fn query(
        self,
        ask: Ask<'_>,
        sql: &str,
        more: &[Value],
        each: impl FnMut(Row) -> Result<(), SqlError>,
    ) -> Result<(), SqlError> {
        let params = ask.params.values();
        self.shadow.query(sql, &params, more, ask.session, each)
    }

    /// What is kept of a query that has `all` of these rows now.
    pub(super) fn kept_of(self, ask: Ask<'_>, all: ResultSet) -> Result<Kept, SqlError> {
        Ok(match ask.plan.class {
            LiveClass::Rows | LiveClass::Join | LiveClass::Union => Kept::Nothing,
            LiveClass::Groups => {
                let groups = all.rows.into_iter().collect();
                match ask.plan.anchor_groups {
                    None => Kept::Groups(Box::new(groups)),
                    Some(_) => {
                        let of_anchors = self.groups_of_anchors(ask)?;
                        Kept::AnchoredGroups(Box::new((groups, of_anchors)))
                    }
                }
            }
            LiveClass::Anchored => Kept::Anchored(Box::new(by_anchor(ask.plan, all.rows))),
            LiveClass::Sides => match KeptSides::new(self, ask) {
                Ok(sides) => Kept::Sides(Box::new(sides)),
                // The result may be less than what it is made of.
                Err(error) if error.code == ErrorCode::StatementTooLarge => {
                    Kept::Set(Box::new(self.evaluate(ask)?))
                }
                Err(error) => return Err(error),
            },
            LiveClass::Window | LiveClass::Evaluated | LiveClass::Recomputed => {
                Kept::Set(Box::new(all))
            }
        })
    }

    /// What the rows of a commit have a part in, in the state that the copies have now.
    pub(super) fn parts(
        self,
        ask: Ask<'_>,
        kept: &Kept,
        change: &CommitChange<'_>,
        moment: Moment,
    ) -> Result<Parts, SqlError> {
        let plan = ask.plan;
        match (plan.class, kept) {
            (LiveClass::Sides, Kept::Sides(kept)) => {
                return kept.parts(self, ask, change, moment).map(Parts::Sides);
            }
            (_, Kept::Set(_) | Kept::Sides(_) | Kept::Waiting(_))
            | (LiveClass::Window | LiveClass::Evaluated | LiveClass::Recomputed, _) => {
                return Ok(Parts::Whole);
            }
            _ => {}
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
        if changed <= self.limits.keys_by_parts {
            return self.parts_of_rows(ask, change, moment).map(Parts::Rows);
        }
        match kept {
            // The whole before is compared with the whole after.
            Kept::Nothing => {
                let all = self.evaluate_all(ask)?;
                Ok(Parts::Rows(all.rows.into_iter().collect()))
            }
            _ => Ok(Parts::Whole),
        }
    }

    /// For joins the rows that changed keys take part in, for groups the groups that they count in.
    fn parts_of_rows(
        self,
        ask: Ask<'_>,
        change: &CommitChange<'_>,
        moment: Moment,
    ) -> Result<FxHashMap<Identity, Row>, SqlError> {
        let plan = ask.plan;
        let mut rows = FxHashMap::default();
        for occurrence in &plan.occurrences {
            let Some(table) = change.tables.get(&occurrence.collection) else {
                continue;
            };
            for row in &table.rows {
                // A row that is not there has no part in anything.
                let image = match moment {
                    Moment::Before => &row.before,
                    Moment::After => &row.after,
                };
                if !(image.as_ref())
                    .is_some_and(|image| may_meet(&occurrence.conditions, ask.params, image))
                {
                    continue;
                }
                self.query(ask, &occurrence.of_key, &row.key, |row| {
                    let identity = match plan.class {
                        LiveClass::Rows | LiveClass::Join => identity_of(plan, row.as_ref()),
                        LiveClass::Union => identity_in_part(plan, occurrence.part, &row),
                        _ => row.bytes()[..].into(),
                    };
                    rows.insert(identity, row);
                    Ok(())
                })?;
            }
        }
        Ok(rows)
    }

    /// What a commit has changed, now that the copies are stepped. `before`: [`Evaluator::parts`] then.
    pub(super) fn entries(
        self,
        ask: Ask<'_>,
        kept: &mut Kept,
        before: Parts,
        change: &CommitChange<'_>,
    ) -> Result<Vec<Entry>, SqlError> {
        if let Kept::Set(old) = kept {
            let new = self.evaluate(ask)?;
            let entries = difference(old, &new, ask.plan.ordered);
            **old = new;
            return Ok(entries);
        }
        let after = match &before {
            Parts::Rows(_) => self.parts(ask, kept, change, Moment::After)?,
            Parts::Sides(_) | Parts::Whole => Parts::Whole,
        };
        match (kept, before, after) {
            (Kept::Sides(kept), Parts::Sides(before), _) => kept.entries(self, ask, before, change),
            (Kept::Nothing, Parts::Rows(before), Parts::Rows(after)) => {
                let entries = difference_of_maps(before, after);
                Ok(match ask.plan.class {
                    LiveClass::Union => by_contents(ask.plan, entries),
                    _ => entries,
                })
            }
            (Kept::Groups(kept), Parts::Rows(before), Parts::Rows(after)) => {
                let groups = before.into_iter().chain(after).collect();
                Ok(replaced_groups(kept, self.computed_groups(ask, groups)?))
            }
            (Kept::Groups(kept), ..) => {
                let new: FxHashMap<_, _> = self.evaluate_all(ask)?.rows.into_iter().collect();
                let old = std::mem::replace(&mut **kept, new.clone());
                Ok(difference_of_maps(old, new))
            }
            (Kept::Anchored(kept), before, after) => match self.anchors(before, after) {
                Some(anchors) => self.entries_of_anchors(ask, kept, anchors),
                None => self.entries_of_all_anchors(ask, kept),
            },
            (Kept::AnchoredGroups(kept), before, after) => match self.anchors(before, after) {
                Some(anchors) => self.entries_of_anchored_groups(ask, kept, anchors),
                None => {
                    let new: FxHashMap<_, _> = self.evaluate_all(ask)?.rows.into_iter().collect();
                    let of_anchors = self.groups_of_anchors(ask)?;
                    let (old, _) = std::mem::replace(&mut **kept, (new.clone(), of_anchors));
                    Ok(difference_of_maps(old, new))
                }
            },
            _ => Ok(Vec::new()),
        }
    }

    // ---- by rows of the first table ----

    /// The rows of the first table that a commit may matter to; `None` for too many.
    fn anchors(self, before: Parts, after: Parts) -> Option<FxHashSet<Identity>> {
        let (Parts::Rows(before), Parts::Rows(after)) = (before, after) else {
            return None;
        };
        let anchors: FxHashSet<Identity> = before.into_keys().chain(after.into_keys()).collect();
        Some(anchors).filter(|anchors| anchors.len() <= self.limits.keys_by_parts)
    }

    /// In which groups each row of the first table counts now.
    fn groups_of_anchors(self, ask: Ask<'_>) -> Result<ByAnchor, SqlError> {
        let mut of_anchors = ByAnchor::default();
        if let Some(found) = &ask.plan.anchor_groups {
            self.query(ask, &found.all, &[], |row| {
                let (anchor, group) = anchor_and_group(&row, found.anchor_keys);
                of_anchors.entry(anchor).or_default().push(group);
                Ok(())
            })?;
        }
        Ok(of_anchors)
    }

    /// Groups that some rows of the first table have counted in, or do now, computed anew.
    fn entries_of_anchored_groups(
        self,
        ask: Ask<'_>,
        (groups_kept, of_anchors): &mut (FxHashMap<Identity, Row>, ByAnchor),
        anchors: FxHashSet<Identity>,
    ) -> Result<Vec<Entry>, SqlError> {
        let Some(found) = &ask.plan.anchor_groups else {
            return Ok(Vec::new());
        };
        let mut touched: FxHashMap<Identity, Row> = FxHashMap::default();
        let mut now = Vec::with_capacity(anchors.len());
        for anchor in anchors {
            touched.extend(of_anchors.get(&anchor).into_iter().flatten().cloned());
            let key = values_of(&anchor)?;
            let mut groups = Vec::new();
            self.query(ask, &found.of_anchor, &key, |row| {
                groups.push(anchor_and_group(&row, found.anchor_keys).1);
                Ok(())
            })?;
            touched.extend(groups.iter().cloned());
            now.push((anchor, groups));
        }
        let new = self.computed_groups(ask, touched)?;
        for (anchor, groups) in now {
            if groups.is_empty() {
                of_anchors.remove(&anchor);
            } else {
                of_anchors.insert(anchor, groups);
            }
        }
        Ok(replaced_groups(groups_kept, new))
    }

    /// Evaluates what belongs to some rows of the first table anew, and compares it with what is kept.
    fn entries_of_anchors(
        self,
        ask: Ask<'_>,
        kept: &mut ByAnchor,
        anchors: FxHashSet<Identity>,
    ) -> Result<Vec<Entry>, SqlError> {
        let Some(of_anchor) = &ask.plan.of_group else {
            return self.entries_of_all_anchors(ask, kept);
        };
        let mut new = Vec::with_capacity(anchors.len());
        for anchor in anchors {
            let key = values_of(&anchor)?;
            let mut rows = Vec::new();
            self.query(ask, of_anchor, &key, |row| {
                rows.push((identity_of(ask.plan, row.as_ref()), row));
                Ok(())
            })?;
            new.push((anchor, rows));
        }
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

    fn entries_of_all_anchors(
        self,
        ask: Ask<'_>,
        kept: &mut ByAnchor,
    ) -> Result<Vec<Entry>, SqlError> {
        let new = self.evaluate_all(ask)?.rows;
        let old = std::mem::replace(kept, by_anchor(ask.plan, new.clone()));
        let old = old.into_values().flatten().collect();
        Ok(difference_of_maps(old, new.into_iter().collect()))
    }

    /// What some groups are now; `None` for one that is not there.
    fn computed_groups(
        self,
        ask: Ask<'_>,
        groups: FxHashMap<Identity, Row>,
    ) -> Result<FxHashMap<Identity, Option<Row>>, SqlError> {
        let mut new: FxHashMap<Identity, Option<Row>> = FxHashMap::default();
        match &ask.plan.of_group {
            Some(of_group) => {
                for (identity, group) in groups {
                    let key: Vec<Value> = group.values().map(|value| value.to_owned()).collect();
                    let mut found = None;
                    self.query(ask, of_group, &key, |row| {
                        found = Some(row);
                        Ok(())
                    })?;
                    new.insert(identity, found);
                }
            }
            // Aggregates over all rows: one group.
            None if groups.is_empty() => {}
            None => {
                let result = self.evaluate_all(ask)?;
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
pub(super) fn values_of(identity: &Identity) -> Result<Vec<Value>, SqlError> {
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
fn by_anchor(plan: &LivePlan, rows: Vec<(Identity, Row)>) -> ByAnchor {
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
