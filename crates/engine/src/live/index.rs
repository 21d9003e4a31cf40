//! Which live queries a row image can matter to: those with a condition `column = constant` are
//! found by the row's value, so that a commit's cost follows the queries that match.

use rustc_hash::FxHashMap;
use springhead_proto::{CollectionId, RowRef, Value, ValueRef};
use springhead_sql::catalog::Table;
use springhead_sql::live::{LivePlan, Operand};

/// The filters of one tenant, by what they look for.
#[derive(Default)]
pub(crate) struct Index {
    tables: FxHashMap<CollectionId, TableIndex>,
}

#[derive(Default)]
struct TableIndex {
    /// By column id and value.
    equal: FxHashMap<u32, FxHashMap<Box<[u8]>, Vec<u64>>>,
    /// Those that every row is shown to.
    all: Vec<u64>,
    count: usize,
}

/// Where one query stands.
enum Place {
    All,
    /// Column, and the values that it can have.
    Equal(u32, Vec<Box<[u8]>>),
}

impl Index {
    pub(crate) fn has(&self, collection: CollectionId) -> bool {
        self.tables.contains_key(&collection)
    }

    pub(crate) fn insert(&mut self, id: u64, plan: &LivePlan, params: &[Value]) {
        let Some(&collection) = plan.reads.first() else {
            return;
        };
        let table = self.tables.entry(collection).or_default();
        table.count += 1;
        match place(plan, params) {
            Place::All => table.all.push(id),
            Place::Equal(column, values) => {
                let by_value = table.equal.entry(column).or_default();
                for value in values {
                    by_value.entry(value).or_default().push(id);
                }
            }
        }
    }

    pub(crate) fn remove(&mut self, id: u64, plan: &LivePlan, params: &[Value]) {
        let Some(collection) = plan.reads.first() else {
            return;
        };
        let Some(table) = self.tables.get_mut(collection) else {
            return;
        };
        match place(plan, params) {
            Place::All => table.all.retain(|other| *other != id),
            Place::Equal(column, values) => {
                if let Some(by_value) = table.equal.get_mut(&column) {
                    for value in values {
                        if let Some(ids) = by_value.get_mut(&value) {
                            ids.retain(|other| *other != id);
                            if ids.is_empty() {
                                by_value.remove(&value);
                            }
                        }
                    }
                    if by_value.is_empty() {
                        table.equal.remove(&column);
                    }
                }
            }
        }
        table.count -= 1;
        if table.count == 0 {
            self.tables.remove(collection);
        }
    }

    /// Calls `found` with each query that may have the row; perhaps twice.
    pub(crate) fn candidates(&self, table: &Table, row: RowRef<'_>, mut found: impl FnMut(u64)) {
        let Some(index) = self.tables.get(&table.collection()) else {
            return;
        };
        index.all.iter().copied().for_each(&mut found);
        let mut bytes = Vec::new();
        for (column, by_value) in &index.equal {
            let value = (table.column_by_id(*column)).and_then(|(place, _)| row.get(place));
            bytes.clear();
            encode(value.unwrap_or(ValueRef::Null), &mut bytes);
            if let Some(ids) = by_value.get(&bytes[..]) {
                ids.iter().copied().for_each(&mut found);
            }
        }
    }
}

fn place(plan: &LivePlan, params: &[Value]) -> Place {
    let Some(equal) = plan.equals.iter().min_by_key(|equal| equal.operands.len()) else {
        return Place::All;
    };
    let mut values: Vec<Box<[u8]>> = (equal.operands.iter())
        .map(|operand| match operand {
            Operand::Value(value) => value,
            Operand::Parameter(index) => params.get(*index).unwrap_or(&Value::Null),
        })
        // Nothing is equal to NULL.
        .filter(|value| !value.as_ref().is_null())
        .map(|value| {
            let mut bytes = Vec::new();
            encode(value.as_ref(), &mut bytes);
            bytes.into()
        })
        .collect();
    values.sort_unstable();
    values.dedup();
    Place::Equal(equal.column, values)
}

fn encode(value: ValueRef<'_>, out: &mut Vec<u8>) {
    springhead_proto::RowBuilder::new(out, 1).push(value);
}
