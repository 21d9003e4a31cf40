//! Equality over one column of rows in memory, so that joins between system relations need not
//! look at every pair.

use std::hash::{Hash, Hasher};

use rustc_hash::{FxHashMap, FxHasher};
use springhead_proto::{Value, ValueRef};

use super::Row;

/// Places of rows by the hash of a column's value. SQLite compares again, so that two values of one
/// hash do no harm.
pub(super) struct Index(FxHashMap<u64, Vec<u32>>);

impl Index {
    pub(super) fn build(rows: &[Row], column: usize) -> Index {
        let mut places: FxHashMap<u64, Vec<u32>> = FxHashMap::default();
        for (place, row) in (0..).zip(rows) {
            if row[column] != Value::Null {
                places
                    .entry(hash(row[column].as_ref()))
                    .or_default()
                    .push(place);
            }
        }
        Index(places)
    }

    pub(super) fn get(&self, value: ValueRef<'_>) -> &[u32] {
        self.0.get(&hash(value)).map_or(&[], Vec::as_slice)
    }
}

fn hash(value: ValueRef<'_>) -> u64 {
    let mut hasher = FxHasher::default();
    match value {
        ValueRef::Null => {}
        ValueRef::Integer(value) => value.hash(&mut hasher),
        // What equals an integer must be found with it.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "only whole numbers get here"
        )]
        ValueRef::Real(value) if value.fract() == 0.0 && value.abs() < 1e15 => {
            (value as i64).hash(&mut hasher);
        }
        ValueRef::Real(value) => value.to_bits().hash(&mut hasher),
        ValueRef::Text(value) => value.hash(&mut hasher),
        ValueRef::Blob(value) => value.hash(&mut hasher),
    }
    hasher.finish()
}
