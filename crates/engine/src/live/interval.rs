//! Which intervals a value lies in: an interval tree over a sorted array (Cormen et al., chapter
//! 14.3, laid out implicitly), made again once enough has come or gone since.
//!
//! Bounds count as inside, and what has none has no end: it only prunes.

use std::cmp::Ordering;

use springhead_proto::{Value, ValueRef};

/// A set of intervals, each with an id.
#[derive(Default)]
pub(super) struct Intervals {
    /// By low bound.
    sorted: Vec<Interval>,
    /// For each place the index in `sorted` of the highest high bound in its subtree.
    highest: Vec<u32>,
    /// Come since `sorted` was made.
    recent: Vec<Interval>,
    /// How many of `sorted` have gone since.
    gone: usize,
}

struct Interval {
    low: Option<Value>,
    high: Option<Value>,
    /// `None` once it has gone.
    id: Option<u64>,
}

/// So many are looked at one by one before the tree is made again.
const RECENT: usize = 32;

impl Intervals {
    pub(super) fn is_empty(&self) -> bool {
        self.sorted.len() == self.gone && self.recent.is_empty()
    }

    pub(super) fn insert(&mut self, id: u64, low: Option<Value>, high: Option<Value>) {
        self.recent.push(Interval {
            low,
            high,
            id: Some(id),
        });
    }

    /// Takes away the interval that was inserted with these.
    pub(super) fn remove(&mut self, id: u64, low: Option<&Value>) {
        if let Some(at) = self.recent.iter().position(|one| one.id == Some(id)) {
            self.recent.swap_remove(at);
            return;
        }
        let start = (self.sorted).partition_point(|one| {
            by_low(one.low.as_ref(), low.map(Value::as_ref)) == Ordering::Less
        });
        let found = (self.sorted[start..].iter_mut()).find(|one| one.id == Some(id));
        if let Some(found) = found {
            found.id = None;
            self.gone += 1;
        }
    }

    /// Calls `found` with each interval that `value` lies in.
    pub(super) fn stab(&mut self, value: ValueRef<'_>, found: &mut impl FnMut(u64)) {
        if self.recent.len() > RECENT + self.sorted.len() / 16 || self.gone > self.sorted.len() / 2
        {
            self.rebuild();
        }
        for one in &self.recent {
            if one.contains(value)
                && let Some(id) = one.id
            {
                found(id);
            }
        }
        self.descend(0, self.sorted.len(), value, found);
    }

    fn descend(&self, from: usize, to: usize, value: ValueRef<'_>, found: &mut impl FnMut(u64)) {
        if from >= to {
            return;
        }
        let middle = usize::midpoint(from, to);
        let highest = &self.sorted[index(self.highest[middle])];
        if !highest.reaches(value) {
            return;
        }
        self.descend(from, middle, value, found);
        let one = &self.sorted[middle];
        if !one.begins_by(value) {
            return;
        }
        if one.reaches(value)
            && let Some(id) = one.id
        {
            found(id);
        }
        self.descend(middle + 1, to, value, found);
    }

    fn rebuild(&mut self) {
        self.sorted.append(&mut self.recent);
        self.sorted.retain(|one| one.id.is_some());
        self.gone = 0;
        (self.sorted).sort_by(|a, b| by_low(a.low.as_ref(), b.low.as_ref().map(Value::as_ref)));
        self.highest = vec![0; self.sorted.len()];
        self.note_highest(0, self.sorted.len());
    }

    fn note_highest(&mut self, from: usize, to: usize) -> Option<u32> {
        if from >= to {
            return None;
        }
        let middle = usize::midpoint(from, to);
        let mut highest = u32::try_from(middle).expect("fewer queries than u32 counts");
        let below = [
            self.note_highest(from, middle),
            self.note_highest(middle + 1, to),
        ];
        for other in below.into_iter().flatten() {
            if by_high(&self.sorted[index(other)], &self.sorted[index(highest)])
                == Ordering::Greater
            {
                highest = other;
            }
        }
        self.highest[middle] = highest;
        Some(highest)
    }
}

impl Interval {
    fn begins_by(&self, value: ValueRef<'_>) -> bool {
        (self.low.as_ref()).is_none_or(|low| compare(low.as_ref(), value) != Ordering::Greater)
    }

    fn reaches(&self, value: ValueRef<'_>) -> bool {
        (self.high.as_ref()).is_none_or(|high| compare(high.as_ref(), value) != Ordering::Less)
    }

    fn contains(&self, value: ValueRef<'_>) -> bool {
        self.begins_by(value) && self.reaches(value)
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).expect("usize has 32 bits or more")
}

fn by_low(a: Option<&Value>, b: Option<ValueRef<'_>>) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(a), Some(b)) => compare(a.as_ref(), b),
    }
}

fn by_high(a: &Interval, b: &Interval) -> Ordering {
    match (&a.high, &b.high) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(a), Some(b)) => compare(a.as_ref(), b.as_ref()),
    }
}

/// SQLite's order of values of one column: numbers, then texts by their bytes, then blobs.
pub(super) fn compare(a: ValueRef<'_>, b: ValueRef<'_>) -> Ordering {
    let class = |value: ValueRef<'_>| match value {
        ValueRef::Null => 0,
        ValueRef::Integer(_) | ValueRef::Real(_) => 1,
        ValueRef::Text(_) => 2,
        ValueRef::Blob(_) => 3,
    };
    match (a, b) {
        (ValueRef::Integer(a), ValueRef::Integer(b)) => a.cmp(&b),
        (ValueRef::Text(a), ValueRef::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
        (ValueRef::Blob(a), ValueRef::Blob(b)) => a.cmp(b),
        (ValueRef::Real(a), ValueRef::Real(b)) => reals(a, b),
        (ValueRef::Integer(a), ValueRef::Real(b)) => integer_and_real(a, b),
        (ValueRef::Real(a), ValueRef::Integer(b)) => integer_and_real(b, a).reverse(),
        _ => class(a).cmp(&class(b)),
    }
}

/// Of SQLite's two zeros neither comes first; NaN it has as NULL.
fn reals(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.total_cmp(&b))
}

/// Exactly, also where a real has no room for all digits of the integer.
fn integer_and_real(integer: i64, real: f64) -> Ordering {
    /// 2^63: past all integers.
    const END: f64 = 9_223_372_036_854_775_808.0;
    if real >= END {
        return Ordering::Less;
    }
    if real < -END {
        return Ordering::Greater;
    }
    let whole = real.trunc();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "it is whole and within bounds"
    )]
    let rounded = whole as i64;
    integer.cmp(&rounded).then_with(|| reals(0.0, real - whole))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn integers_and_reals_are_compared_exactly() {
        let big = 9_007_199_254_740_993; // 2^53 + 1
        for (integer, real, expected) in [
            (1, 1.0, Ordering::Equal),
            (1, 1.5, Ordering::Less),
            (-1, -1.5, Ordering::Greater),
            (big, 9_007_199_254_740_992.0, Ordering::Greater),
            (i64::MAX, 9.3e18, Ordering::Less),
            (i64::MIN, -9.3e18, Ordering::Greater),
            (0, -0.0, Ordering::Equal),
        ] {
            let (integer, real) = (ValueRef::Integer(integer), ValueRef::Real(real));
            assert_eq!(compare(integer, real), expected);
            assert_eq!(compare(real, integer), expected.reverse());
        }
    }

    proptest! {
        #[test]
        fn a_value_finds_exactly_the_intervals_that_it_lies_in(
            steps in prop::collection::vec(
                (0u8..8, prop::option::of(-20i64..20), prop::option::of(-20i64..20), -25i64..25), 1..300)
        ) {
            let mut intervals = Intervals::default();
            let mut model: Vec<(u64, Option<i64>, Option<i64>)> = Vec::new();
            for (number, (what, low, high, value)) in steps.into_iter().enumerate() {
                match what {
                    0..=4 => {
                        let id = number as u64;
                        model.push((id, low, high));
                        intervals.insert(id, low.map(Value::Integer), high.map(Value::Integer));
                    }
                    5 if !model.is_empty() => {
                        let (id, low, _) = model.swap_remove(number % model.len());
                        intervals.remove(id, low.map(Value::Integer).as_ref());
                    }
                    _ => {
                        let mut found = Vec::new();
                        intervals.stab(ValueRef::Integer(value), &mut |id| found.push(id));
                        found.sort_unstable();
                        let mut expected: Vec<u64> = model.iter()
                            .filter(|(_, low, high)| {
                                low.is_none_or(|low| low <= value) && high.is_none_or(|high| value <= high)
                            })
                            .map(|(id, ..)| *id)
                            .collect();
                        expected.sort_unstable();
                        prop_assert_eq!(found, expected);
                        prop_assert_eq!(intervals.is_empty(), model.is_empty());
                    }
                }
            }
        }
    }
}
