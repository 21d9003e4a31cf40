//! Which live queries a row image can matter to: those with a condition on a column are found by
//! the row's value, so that a commit's cost follows the queries that match. Equality is a hash
//! table, ranges an interval tree, `LIKE 'abc%'` a hash table of prefixes.
//!
//! It only prunes: whatever it lets through is evaluated.

use std::collections::BTreeMap;
use std::hash::BuildHasher;

use rustc_hash::{FxBuildHasher, FxHashMap};
use springhead_proto::{CollectionId, RowRef, Value, ValueRef};
use springhead_sql::catalog::Table;
use springhead_sql::live::{LivePlan, Operand, Test, literal_prefix};

use super::asked::Params;
use super::ids::Ids;
use super::interval::Intervals;

/// The filters of one tenant, by what they look for.
#[derive(Default)]
pub(crate) struct Index {
    tables: FxHashMap<CollectionId, TableIndex>,
}

#[derive(Default)]
struct TableIndex {
    columns: FxHashMap<u32, ColumnIndex>,
    /// Those that every row is shown to.
    all: Ids,
    count: usize,
}

/// The conditions on one column.
#[derive(Default)]
struct ColumnIndex {
    /// By the encoded value's hash: of two values with the same one, each finds the other's queries too.
    equal: FxHashMap<u64, Ids>,
    ranges: Intervals,
    prefixes: FxHashMap<Box<[u8]>, Ids>,
    /// How many prefixes there are of each length.
    lengths: BTreeMap<usize, usize>,
}

/// Where one query stands.
enum Place {
    All,
    /// It can never have a row.
    Nowhere,
    /// Column, and the hashes of the values that it can have.
    Equal(u32, Vec<u64>),
    Range(u32, Option<Value>, Option<Value>),
    Prefix(u32, Box<[u8]>),
}

impl Index {
    pub(crate) fn has(&self, collection: CollectionId) -> bool {
        self.tables.contains_key(&collection)
    }

    pub(crate) fn insert(&mut self, id: u64, plan: &LivePlan, params: &Params) {
        let Some(collection) = plan.table else {
            return;
        };
        let table = self.tables.entry(collection).or_default();
        table.count += 1;
        match place(plan, params) {
            Place::All => table.all.push(id),
            Place::Nowhere => {}
            Place::Equal(column, values) => {
                let index = table.columns.entry(column).or_default();
                for value in values {
                    index.equal.entry(value).or_default().push(id);
                }
            }
            Place::Range(column, low, high) => {
                let index = table.columns.entry(column).or_default();
                index.ranges.insert(id, low, high);
            }
            Place::Prefix(column, prefix) => {
                let index = table.columns.entry(column).or_default();
                *index.lengths.entry(prefix.len()).or_default() += 1;
                index.prefixes.entry(prefix).or_default().push(id);
            }
        }
    }

    pub(crate) fn remove(&mut self, id: u64, plan: &LivePlan, params: &Params) {
        let Some(collection) = plan.table else {
            return;
        };
        let Some(table) = self.tables.get_mut(&collection) else {
            return;
        };
        let place = place(plan, params);
        let column = match &place {
            Place::All => {
                table.all.remove(id);
                None
            }
            Place::Nowhere => None,
            Place::Equal(column, _) | Place::Range(column, ..) | Place::Prefix(column, _) => {
                Some(*column)
            }
        };
        if let Some(column) = column
            && let Some(index) = table.columns.get_mut(&column)
        {
            index.remove(id, place);
            if index.is_empty() {
                table.columns.remove(&column);
            }
        }
        table.count -= 1;
        if table.count == 0 {
            self.tables.remove(&collection);
        }
    }

    /// Calls `found` with each query that may have the row; perhaps twice.
    pub(crate) fn candidates(
        &mut self,
        table: &Table,
        row: RowRef<'_>,
        mut found: impl FnMut(u64),
    ) {
        let Some(index) = self.tables.get_mut(&table.collection()) else {
            return;
        };
        index.all.iter().for_each(&mut found);
        let mut bytes = Vec::new();
        for (column, index) in &mut index.columns {
            let value = (table.column_by_id(*column)).and_then(|(place, _)| row.get(place));
            index.candidates(value.unwrap_or(ValueRef::Null), &mut bytes, &mut found);
        }
    }
}

impl ColumnIndex {
    fn is_empty(&self) -> bool {
        self.equal.is_empty() && self.ranges.is_empty() && self.prefixes.is_empty()
    }

    fn remove(&mut self, id: u64, place: Place) {
        match place {
            Place::All | Place::Nowhere => {}
            Place::Equal(_, values) => {
                for value in values {
                    if let Some(ids) = self.equal.get_mut(&value)
                        && ids.remove(id)
                    {
                        self.equal.remove(&value);
                    }
                }
            }
            Place::Range(_, low, _) => self.ranges.remove(id, low.as_ref()),
            Place::Prefix(_, prefix) => {
                if let Some(ids) = self.prefixes.get_mut(&prefix)
                    && ids.remove(id)
                {
                    self.prefixes.remove(&prefix);
                }
                if let Some(count) = self.lengths.get_mut(&prefix.len()) {
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&prefix.len());
                    }
                }
            }
        }
    }

    fn candidates(
        &mut self,
        value: ValueRef<'_>,
        bytes: &mut Vec<u8>,
        found: &mut impl FnMut(u64),
    ) {
        if !self.equal.is_empty()
            && let Some(ids) = self.equal.get(&hash_of(value, bytes))
        {
            ids.iter().for_each(&mut *found);
        }
        if !value.is_null() && !self.ranges.is_empty() {
            self.ranges.stab(value, found);
        }
        if let ValueRef::Text(text) = value {
            for &length in self.lengths.keys() {
                let Some(prefix) = text.as_bytes().get(..length) else {
                    break;
                };
                if let Some(ids) = self.prefixes.get(prefix) {
                    ids.iter().for_each(&mut *found);
                }
            }
        }
    }
}

fn place(plan: &LivePlan, params: &Params) -> Place {
    let Some(condition) = plan.conditions.first() else {
        return Place::All;
    };
    let column = condition.column;
    let value = |operand: &Operand| match operand {
        Operand::Value(value) => value.clone(),
        Operand::Parameter(index) => params.get(*index).to_owned(),
        Operand::Null => Value::Null,
    };
    match &condition.test {
        Test::Equal(operands) => {
            let mut bytes = Vec::new();
            let mut values: Vec<u64> = (operands.iter())
                // Nothing is equal to NULL, but what is asked to be NULL.
                .filter(|operand| matches!(operand, Operand::Null) || value(operand) != Value::Null)
                .map(|operand| hash_of(value(operand).as_ref(), &mut bytes))
                .collect();
            values.sort_unstable();
            values.dedup();
            Place::Equal(column, values)
        }
        Test::Range { low, high } => {
            let (low, high) = (low.as_ref().map(value), high.as_ref().map(value));
            if low == Some(Value::Null) || high == Some(Value::Null) {
                return Place::Nowhere;
            }
            Place::Range(column, low, high)
        }
        Test::Prefix(operand) => match value(operand) {
            Value::Text(pattern) => {
                Place::Prefix(column, literal_prefix(&pattern).as_bytes().into())
            }
            _ => Place::Nowhere,
        },
    }
}

/// The hash of a value's encoding. `room` is used for it.
fn hash_of(value: ValueRef<'_>, room: &mut Vec<u8>) -> u64 {
    room.clear();
    springhead_proto::RowBuilder::new(room, 1).push(value);
    FxBuildHasher.hash_one(&room[..])
}
