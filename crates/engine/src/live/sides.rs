//! Set operations and full joins: each side is kept by its own class; of the whole it is remembered how
//! often each row is in each side, or nothing, where rows of sides are rows of the result.

use rustc_hash::FxHashMap;
use springhead_proto::{ErrorCode, Row, SqlError, ValueRef};
use springhead_sql::live::{FromSides, LivePlan, SetTree};

use super::commit::CommitChange;
use super::core::Kept;
use super::delta::{Entry, Identity, ROW_BYTES};
use super::parts::{Ask, Evaluator, Moment, Parts, values_of};
use super::shadow::too_large;

/// What is kept of a query that has sides.
#[derive(Clone)]
pub(super) struct KeptSides {
    /// Of each side.
    sides: Vec<Kept>,
    counts: Counts,
}

/// How often rows are in each side, by their visible values. Empty where nobody asks.
#[derive(Clone, Default)]
struct Counts {
    of_rows: FxHashMap<Identity, Box<[u64]>>,
    /// What they take in memory, roughly.
    bytes: usize,
}

/// The sides of a query, each as a query.
fn sides(ask: Ask<'_>) -> impl Iterator<Item = Ask<'_>> {
    let plans = ask.plan.sides.iter().flat_map(|sides| &sides.plans);
    plans.map(move |plan| Ask { plan, ..ask })
}

impl KeptSides {
    /// As the copies are now.
    ///
    /// # Errors
    /// 54000 (`StatementTooLarge`) if it is more than may be kept.
    pub(super) fn new(evaluator: Evaluator<'_>, ask: Ask<'_>) -> Result<KeptSides, SqlError> {
        let (mut kept, mut counts) = (Vec::new(), Counts::default());
        let mut bytes = 0;
        for (number, side) in sides(ask).enumerate() {
            let all = evaluator.evaluate_all(side)?;
            bytes += all.bytes;
            if let Some(tree) = counted(ask.plan) {
                for (_, row) in &all.rows {
                    counts.change(tree, ask.plan, number, row, true)?;
                }
            }
            kept.push(evaluator.kept_of(side, all)?);
        }
        let max_bytes = evaluator.limits.result_bytes;
        if bytes + counts.bytes > max_bytes {
            return Err(too_large(max_bytes));
        }
        Ok(KeptSides {
            sides: kept,
            counts,
        })
    }

    /// What a commit's rows have a part in, of each side.
    pub(super) fn parts(
        &self,
        evaluator: Evaluator<'_>,
        ask: Ask<'_>,
        change: &CommitChange<'_>,
        moment: Moment,
    ) -> Result<Vec<Parts>, SqlError> {
        let sides = sides(ask).zip(&self.sides);
        sides
            .map(|(side, kept)| evaluator.parts(side, kept, change, moment))
            .collect()
    }

    /// What a commit has changed.
    pub(super) fn entries(
        &mut self,
        evaluator: Evaluator<'_>,
        ask: Ask<'_>,
        before: Vec<Parts>,
        change: &CommitChange<'_>,
    ) -> Result<Vec<Entry>, SqlError> {
        let mut of_sides = Vec::with_capacity(before.len());
        for ((side, kept), before) in sides(ask).zip(&mut self.sides).zip(before) {
            of_sides.push(evaluator.entries(side, kept, before, change)?);
        }
        match ask.plan.sides.as_ref().map(|sides| &sides.from) {
            Some(FromSides::Counted(tree)) => {
                let entries = self.counts.entries(tree, ask.plan, &of_sides)?;
                let max_bytes = evaluator.limits.result_bytes;
                if self.counts.bytes > max_bytes {
                    return Err(too_large(max_bytes));
                }
                Ok(entries)
            }
            Some(FromSides::Keyed(places)) => {
                let entries = of_sides
                    .into_iter()
                    .zip(places)
                    .flat_map(|(entries, places)| {
                        entries
                            .into_iter()
                            .map(|entry| under_key(ask.plan, places, entry))
                    });
                Ok(entries.collect())
            }
            None => Ok(Vec::new()),
        }
    }
}

fn counted(plan: &LivePlan) -> Option<&SetTree> {
    match &plan.sides.as_ref()?.from {
        FromSides::Counted(tree) => Some(tree),
        FromSides::Keyed(_) => None,
    }
}

/// How often rows that a commit touched were in the result, before it.
type Touched = FxHashMap<Identity, u64>;

impl Counts {
    /// Counts a row of one side that comes or goes; how often it was in the result.
    fn change(
        &mut self,
        tree: &SetTree,
        plan: &LivePlan,
        side: usize,
        row: &Row,
        comes: bool,
    ) -> Result<(Identity, u64), SqlError> {
        let sides = plan.sides.as_ref().map_or(0, |sides| sides.plans.len());
        let visible: Vec<ValueRef<'_>> = row.values().take(plan.columns.len()).collect();
        let identity: Identity = Row::from_values(visible.into_iter()).bytes()[..].into();
        let size = identity.len() + sides * size_of::<u64>() + ROW_BYTES;
        let counts = self.of_rows.entry(identity.clone()).or_insert_with(|| {
            self.bytes += size;
            vec![0; sides].into()
        });
        let before = tree.count(counts);
        let changed = match comes {
            true => counts[side].checked_add(1),
            false => counts[side].checked_sub(1),
        };
        counts[side] = changed.ok_or_else(|| {
            SqlError::new(
                ErrorCode::Internal,
                "a live query's side lost a row that it did not have",
            )
        })?;
        if counts.iter().all(|count| *count == 0) {
            self.of_rows.remove(&identity);
            self.bytes = self.bytes.saturating_sub(size);
        }
        Ok((identity, before))
    }

    /// What changes of the sides make of the result.
    fn entries(
        &mut self,
        tree: &SetTree,
        plan: &LivePlan,
        of_sides: &[Vec<Entry>],
    ) -> Result<Vec<Entry>, SqlError> {
        let mut touched = Touched::default();
        for (side, entries) in of_sides.iter().enumerate() {
            // First what comes: a row that goes once and comes once is there all the time.
            for entry in entries {
                if let Entry::Added { row, .. } | Entry::Changed { row, .. } = entry {
                    let (identity, before) = self.change(tree, plan, side, row, true)?;
                    touched.entry(identity).or_insert(before);
                }
            }
            for entry in entries {
                if let Entry::Removed { row } | Entry::Changed { before: row, .. } = entry {
                    let (identity, before) = self.change(tree, plan, side, row, false)?;
                    touched.entry(identity).or_insert(before);
                }
            }
        }
        let mut told = Vec::new();
        for (identity, before) in touched {
            let now = self
                .of_rows
                .get(&identity)
                .map_or(0, |counts| tree.count(counts));
            if now == before {
                continue;
            }
            let values = values_of(&identity)?;
            let row = Row::from_values(values.iter().map(|value| value.as_ref()));
            for _ in 0..now.abs_diff(before) {
                let row = row.clone();
                told.push(match now > before {
                    true => Entry::Added {
                        row,
                        position: None,
                    },
                    false => Entry::Removed { row },
                });
            }
        }
        Ok(told)
    }
}

/// A side's entry as one of the result, whose key's values are at these `places` of the side's.
fn under_key(plan: &LivePlan, places: &[usize], entry: Entry) -> Entry {
    let keyed = |row: &Row| {
        let values: Vec<ValueRef<'_>> = row.values().collect();
        let (visible, key) = values.split_at(plan.columns.len().min(values.len()));
        let key = places
            .iter()
            .map(|&place| key.get(place).copied().unwrap_or(ValueRef::Null));
        let all: Vec<ValueRef<'_>> = visible.iter().copied().chain(key).collect();
        Row::from_values(all.into_iter())
    };
    match entry {
        Entry::Added { row, position } => Entry::Added {
            row: keyed(&row),
            position,
        },
        Entry::Changed {
            before,
            row,
            position,
        } => Entry::Changed {
            before: keyed(&before),
            row: keyed(&row),
            position,
        },
        Entry::Removed { row } => Entry::Removed { row: keyed(&row) },
    }
}
