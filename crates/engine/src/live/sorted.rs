//! A result in an order that is kept by parts: its rows in their places, by what each came with to be
//! ordered by. Equal rows are ordered by their keys.

use std::cmp::Ordering;

use rustc_hash::FxHashSet;
use springhead_proto::{Row, ValueRef};
use springhead_sql::live::{Bound, Direction, LivePlan, Order};

use super::asked::Params;
use super::delta::{Entry, Identity, ResultSet, difference, identity_of};
use super::interval::compare;

/// See the module's text.
#[derive(Clone)]
pub(super) struct Sorted {
    rows: Vec<Placed>,
    /// What the rows take in memory, roughly.
    pub bytes: usize,
    window: Window,
}

#[derive(Clone)]
struct Placed {
    /// What it is ordered by.
    order: Row,
    identity: Identity,
    /// Its columns and its key.
    row: Row,
}

/// Which rows are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    offset: usize,
    limit: Option<usize>,
}

/// So many rows are put in place one by one; more are sorted in.
const FEW: usize = 64;

/// What a row costs beside its bytes.
const ROW_BYTES: usize = 128;

impl Window {
    /// `None` if a parameter is no number of rows.
    pub(super) fn of(order: &Order, params: &Params) -> Option<Window> {
        let count = |bound: Bound| match bound {
            Bound::Count(count) => Some(Some(usize::try_from(count).unwrap_or(usize::MAX))),
            Bound::Parameter(index) => match params.get(index) {
                ValueRef::Null => Some(None),
                ValueRef::Integer(count) => usize::try_from(count).ok().map(Some),
                _ => None,
            },
        };
        let limit = order.limit.map_or(Some(None), count)?;
        let offset = order.offset.map_or(Some(None), count)?;
        Some(Window {
            offset: offset.unwrap_or(0),
            limit,
        })
    }

    /// Whether some rows may not be shown.
    pub(super) fn is_part(self) -> bool {
        self.limit.is_some() || self.offset > 0
    }
}

impl Sorted {
    /// Of all rows, each with what it is ordered by after its key.
    pub(super) fn new(plan: &LivePlan, order: &Order, window: Window, all: &ResultSet) -> Sorted {
        let mut rows: Vec<Placed> = (all.rows.iter())
            .map(|(_, row)| placed(plan, row))
            .collect();
        rows.sort_by(|a, b| a.cmp(b, &order.directions));
        let bytes = rows.iter().map(Placed::size_bytes).sum();
        Sorted {
            rows,
            bytes,
            window,
        }
    }

    /// What is shown now.
    pub(super) fn shown(&self) -> ResultSet {
        let limit = self.window.limit.unwrap_or(usize::MAX);
        let mut shown = ResultSet::default();
        for placed in self.rows.iter().skip(self.window.offset).take(limit) {
            shown.bytes += placed.size_bytes();
            let row = (placed.identity.clone(), placed.row.clone());
            shown.rows.push(row);
        }
        shown
    }

    /// Takes in what has changed of all rows; what has changed of those that are shown.
    pub(super) fn apply(
        &mut self,
        plan: &LivePlan,
        order: &Order,
        entries: &[Entry],
    ) -> Vec<Entry> {
        let directions = &order.directions;
        let mut gone = Vec::new();
        let mut come = Vec::new();
        for entry in entries {
            if let Entry::Removed { row } | Entry::Changed { before: row, .. } = entry {
                gone.push(placed(plan, row));
            }
            if let Entry::Added { row, .. } | Entry::Changed { row, .. } = entry {
                come.push(placed(plan, row));
            }
        }
        if self.window.is_part() {
            let old = self.shown();
            self.replace(gone, come, directions);
            return difference(&old, &self.shown(), true);
        }
        let old: Vec<Option<usize>> = (entries.iter())
            .map(|entry| match entry {
                Entry::Changed { before, .. } => self.place(&placed(plan, before), directions),
                _ => None,
            })
            .collect();
        self.replace(gone, come, directions);
        self.told(plan, directions, entries, &old)
    }

    /// The entries with their places now. `old`: where changed rows were.
    fn told(
        &self,
        plan: &LivePlan,
        directions: &[Direction],
        entries: &[Entry],
        old: &[Option<usize>],
    ) -> Vec<Entry> {
        let mut shows_something = false;
        let mut told = Vec::with_capacity(entries.len());
        for (entry, old) in entries.iter().zip(old) {
            told.push(match entry {
                Entry::Removed { row } => {
                    shows_something = true;
                    let row = placed(plan, row).row;
                    Entry::Removed { row }
                }
                Entry::Added { row, .. } => {
                    shows_something = true;
                    let now = placed(plan, row);
                    let position = self.place(&now, directions);
                    let row = now.row;
                    Entry::Added { row, position }
                }
                Entry::Changed { before, row, .. } => {
                    let (before, now) = (placed(plan, before), placed(plan, row));
                    let position = self.place(&now, directions);
                    shows_something |= before.row != now.row || position != *old;
                    Entry::Changed {
                        before: before.row,
                        row: now.row,
                        position,
                    }
                }
            });
        }
        // What it is ordered by may have changed and left every row where it was.
        if shows_something { told } else { Vec::new() }
    }

    fn replace(&mut self, gone: Vec<Placed>, come: Vec<Placed>, directions: &[Direction]) {
        let sizes = |rows: &[Placed]| rows.iter().map(Placed::size_bytes).sum::<usize>();
        self.bytes = (self.bytes + sizes(&come)).saturating_sub(sizes(&gone));
        if gone.len() + come.len() > FEW {
            let gone: FxHashSet<Identity> = gone.into_iter().map(|row| row.identity).collect();
            self.rows.retain(|row| !gone.contains(&row.identity));
            self.rows.extend(come);
            // Two runs that are sorted or nearly so: a stable sort merges them.
            self.rows.sort_by(|a, b| a.cmp(b, directions));
            return;
        }
        for row in gone {
            if let Some(place) = self.place(&row, directions) {
                self.rows.remove(place);
            }
        }
        for row in come {
            let place = (self.rows).partition_point(|other| other.cmp(&row, directions).is_lt());
            self.rows.insert(place, row);
        }
    }

    fn place(&self, row: &Placed, directions: &[Direction]) -> Option<usize> {
        (self.rows)
            .binary_search_by(|other| other.cmp(row, directions))
            .ok()
    }
}

impl Placed {
    fn size_bytes(&self) -> usize {
        self.order.bytes().len() + self.identity.len() + self.row.bytes().len() + ROW_BYTES
    }

    fn cmp(&self, other: &Placed, directions: &[Direction]) -> Ordering {
        let values = self.order.values().zip(other.order.values());
        for ((a, b), direction) in values.zip(directions) {
            let found = directed(a, b, *direction);
            if found.is_ne() {
                return found;
            }
        }
        self.identity.cmp(&other.identity)
    }
}

fn directed(a: ValueRef<'_>, b: ValueRef<'_>, direction: Direction) -> Ordering {
    match (a.is_null(), b.is_null()) {
        (true, true) => Ordering::Equal,
        (true, false) if direction.nulls_first => Ordering::Less,
        (true, false) => Ordering::Greater,
        (false, true) if direction.nulls_first => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) if direction.descending => compare(b, a),
        (false, false) => compare(a, b),
    }
}

/// A row without what it is ordered by, and that.
fn placed(plan: &LivePlan, row: &Row) -> Placed {
    let shown = plan.columns.len() + plan.key.len();
    let values: Vec<ValueRef<'_>> = row.values().collect();
    let (shown, order) = values.split_at(shown.min(values.len()));
    Placed {
        order: Row::from_values(order.iter().copied()),
        identity: identity_of(plan, row.as_ref()),
        row: Row::from_values(shown.iter().copied()),
    }
}
