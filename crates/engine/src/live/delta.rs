//! Results and what changed between two of them.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};
use springhead_proto::{Lsn, Row, RowRef};
use springhead_sql::live::LivePlan;
use springhead_sql::types::{output_json, output_text};

/// What tells a row of a result apart: its key's values, encoded, or all its values and which of
/// several equal rows it is.
pub(crate) type Identity = Box<[u8]>;

/// A result as it is kept: rows in their order, each with its identity.
#[derive(Debug, Default, Clone)]
pub(crate) struct ResultSet {
    pub rows: Vec<(Identity, Row)>,
    /// What the rows take in memory, roughly.
    pub bytes: usize,
}

/// What a row costs beside its bytes.
pub(super) const ROW_BYTES: usize = 64;

/// One row of a difference.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    Added {
        row: Row,
        position: Option<usize>,
    },
    Changed {
        before: Row,
        row: Row,
        position: Option<usize>,
    },
    Removed {
        row: Row,
    },
}

/// What one commit changed in a live query's result, or several in a row.
pub struct Delta {
    /// The result is that of this LSN once it has been applied.
    pub lsn: Lsn,
    pub entries: Vec<Entry>,
    plan: Arc<LivePlan>,
    /// Its JSON members: without and with the rows before, and as upserts.
    rendered: [OnceLock<Bytes>; 3],
}

impl Entry {
    /// What it takes in memory, roughly.
    pub(crate) fn size_bytes(&self) -> usize {
        let rows = match self {
            Entry::Added { row, .. } | Entry::Removed { row } => row.bytes().len(),
            Entry::Changed { before, row, .. } => before.bytes().len() + row.bytes().len(),
        };
        rows + ROW_BYTES
    }
}

impl ResultSet {
    pub(crate) fn push(&mut self, plan: &LivePlan, row: Row, seen: &mut FxHashMap<Identity, u32>) {
        let mut identity = identity_of(plan, row.as_ref());
        if !plan.is_keyed {
            let count = seen.entry(identity.clone()).or_insert(0);
            *count += 1;
            if *count > 1 {
                let mut bytes = identity.into_vec();
                bytes.extend_from_slice(&count.to_le_bytes());
                identity = bytes.into();
            }
        }
        self.bytes += identity.len() + row.bytes().len() + ROW_BYTES;
        self.rows.push((identity, row));
    }
}

/// The encoded values of a row's key; of all its values if it has none.
pub(crate) fn identity_of(plan: &LivePlan, row: RowRef<'_>) -> Identity {
    let (from, count) = match plan.is_keyed {
        true => (plan.columns.len(), plan.key.len()),
        false => (0, plan.columns.len()),
    };
    let values: Vec<_> = row.values().skip(from).take(count).collect();
    Row::from_values(values.into_iter()).bytes()[..].into()
}

/// What makes `new` of `old`. With `ordered`, positions are places in `new`: whoever takes out what
/// was removed and changed, then puts in what was added and changed by ascending position, has it.
pub(crate) fn difference(old: &ResultSet, new: &ResultSet, ordered: bool) -> Vec<Entry> {
    let places: FxHashMap<&[u8], usize> = (old.rows.iter().enumerate())
        .map(|(place, (identity, _))| (&**identity, place))
        .collect();
    let mut entries = Vec::new();
    let mut kept = FxHashSet::default();
    // Rows that are as they were: place in the old and in the new.
    let mut same = Vec::new();
    for (position, (identity, row)) in new.rows.iter().enumerate() {
        let shown = ordered.then_some(position);
        match places.get(&**identity) {
            None => entries.push(Entry::Added {
                row: row.clone(),
                position: shown,
            }),
            Some(&place) => {
                kept.insert(place);
                let before = &old.rows[place].1;
                if before == row {
                    same.push((place, position));
                } else {
                    entries.push(Entry::Changed {
                        before: before.clone(),
                        row: row.clone(),
                        position: shown,
                    });
                }
            }
        }
    }
    if ordered {
        let stay = longest_increasing(&same);
        for (index, (place, position)) in same.iter().enumerate() {
            if !stay.contains(&index) {
                entries.push(Entry::Changed {
                    before: old.rows[*place].1.clone(),
                    row: new.rows[*position].1.clone(),
                    position: Some(*position),
                });
            }
        }
    }
    for (place, (_, row)) in old.rows.iter().enumerate() {
        if !kept.contains(&place) {
            entries.push(Entry::Removed { row: row.clone() });
        }
    }
    entries
}

/// Indexes into `pairs` of a longest run of ascending first places: what need not move.
fn longest_increasing(pairs: &[(usize, usize)]) -> FxHashSet<usize> {
    let mut tails: Vec<usize> = Vec::new();
    let mut before = vec![usize::MAX; pairs.len()];
    for (index, (place, _)) in pairs.iter().enumerate() {
        let at = tails.partition_point(|&tail| pairs[tail].0 < *place);
        if at > 0 {
            before[index] = tails[at - 1];
        }
        if at == tails.len() {
            tails.push(index);
        } else {
            tails[at] = index;
        }
    }
    let mut stay = FxHashSet::default();
    let mut at = tails.last().copied().unwrap_or(usize::MAX);
    while at != usize::MAX {
        stay.insert(at);
        at = before[at];
    }
    stay
}

impl Delta {
    pub(crate) fn new(plan: &Arc<LivePlan>, lsn: Lsn, entries: Vec<Entry>) -> Arc<Delta> {
        Arc::new(Delta {
            lsn,
            entries,
            plan: Arc::clone(plan),
            rendered: Default::default(),
        })
    }

    /// The plan whose result changed.
    #[must_use]
    pub fn plan(&self) -> &Arc<LivePlan> {
        &self.plan
    }

    /// What it takes in memory, roughly.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.entries.iter().map(Entry::size_bytes).sum()
    }

    /// Its JSON members, made once for all who want them: `"added"`, `"changed"` and `"removed"`; with
    /// `upsert` `"upsert"`, rows to put, and `"delete"`, keys to take away. `with_before`: changed rows
    /// come with what they were, removed ones with what they are.
    pub fn members(&self, with_before: bool, upsert: bool) -> &Bytes {
        if upsert {
            return self.rendered[2].get_or_init(|| self.render_upsert().into());
        }
        self.rendered[usize::from(with_before)].get_or_init(|| self.render(with_before).into())
    }

    fn render_upsert(&self) -> Vec<u8> {
        let plan = &self.plan;
        let mut out = b"\"upsert\":[".to_vec();
        let mut deleted = Vec::new();
        let mut is_first = true;
        for entry in &self.entries {
            let (row, position) = match entry {
                Entry::Added { row, position } | Entry::Changed { row, position, .. } => {
                    (row, *position)
                }
                Entry::Removed { row } => {
                    deleted.extend_from_slice(if deleted.is_empty() { b"" } else { b"," });
                    deleted.extend_from_slice(b"{\"key\":");
                    write_key(plan, row.as_ref(), &mut deleted);
                    deleted.push(b'}');
                    continue;
                }
            };
            out.extend_from_slice(if is_first {
                b"{\"key\":"
            } else {
                b",{\"key\":"
            });
            is_first = false;
            write_key(plan, row.as_ref(), &mut out);
            out.extend_from_slice(b",\"row\":");
            write_row(plan, row.as_ref(), &mut out);
            if let Some(position) = position {
                out.extend_from_slice(format!(",\"position\":{position}").as_bytes());
            }
            out.push(b'}');
        }
        out.extend_from_slice(b"],\"delete\":[");
        out.extend_from_slice(&deleted);
        out.push(b']');
        out
    }

    fn render(&self, with_before: bool) -> Vec<u8> {
        let plan = &self.plan;
        let mut lists: [Vec<u8>; 3] = Default::default();
        for entry in &self.entries {
            let (list, row, before, position, shows_row) = match entry {
                Entry::Added { row, position } => (0, row, None, *position, true),
                Entry::Changed {
                    before,
                    row,
                    position,
                } => (1, row, Some(before), *position, true),
                Entry::Removed { row } => (2, row, None, None, with_before),
            };
            let out = &mut lists[list];
            out.extend_from_slice(if out.is_empty() {
                b"{\"key\":"
            } else {
                b",{\"key\":"
            });
            write_key(plan, row.as_ref(), out);
            if shows_row {
                out.extend_from_slice(b",\"row\":");
                write_row(plan, row.as_ref(), out);
            }
            if let Some(before) = before.filter(|_| with_before) {
                out.extend_from_slice(b",\"before\":");
                write_row(plan, before.as_ref(), out);
            }
            if let Some(position) = position {
                out.extend_from_slice(format!(",\"position\":{position}").as_bytes());
            }
            out.push(b'}');
        }
        let mut out = Vec::with_capacity(64 + lists.iter().map(Vec::len).sum::<usize>());
        for (name, list) in ["\"added\":[", "],\"changed\":[", "],\"removed\":["]
            .into_iter()
            .zip(&lists)
        {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(list);
        }
        out.push(b']');
        out
    }
}

/// A row's visible values as a JSON array.
pub fn write_row(plan: &LivePlan, row: RowRef<'_>, out: &mut Vec<u8>) {
    out.push(b'[');
    for (index, (value, column)) in row.values().zip(plan.columns.iter()).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        output_json(&column.pg_type, value, out);
    }
    out.push(b']');
}

/// A row's key as a JSON string: the document id of a row of one table, else the key's values (of a
/// result without keys, all values) as a JSON array.
pub fn write_key(plan: &LivePlan, row: RowRef<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(
        serde_json::Value::from(key_text(plan, row))
            .to_string()
            .as_bytes(),
    );
}

/// A row's key as text: see [`write_key`].
#[must_use]
pub fn key_text(plan: &LivePlan, row: RowRef<'_>) -> String {
    let mut text = Vec::new();
    if !plan.is_keyed {
        write_row(plan, row, &mut text);
    } else {
        let keys = row.values().skip(plan.columns.len());
        match plan.key.as_slice() {
            [only] if plan.has_document_ids() => {
                for value in keys {
                    output_text(only, value, &mut text);
                }
            }
            types => {
                text.push(b'[');
                for (index, (ty, value)) in types.iter().zip(keys).enumerate() {
                    if index > 0 {
                        text.push(b',');
                    }
                    output_json(ty, value, &mut text);
                }
                text.push(b']');
            }
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_need_not_move_is_a_longest_ascending_run() {
        let pairs: Vec<(usize, usize)> = [3, 0, 1, 4, 2].into_iter().zip(0..).collect();
        let mut stay: Vec<_> = longest_increasing(&pairs).into_iter().collect();
        stay.sort_unstable();
        assert_eq!(stay, [1, 2, 4]);
    }
}
