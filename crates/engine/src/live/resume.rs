//! The way from a cursor to now: the changes of the log in between, within bounds.

use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use springhead_log::{CommitSlice, LogError, ReadFilter};
use springhead_proto::{
    ChangeKind, ChangeRef, Changes, CollectionId, ErrorCode, Lsn, Row, RowRef, SchemaVersion,
    SqlError, Value, ValueRef,
};
use springhead_sql::catalog::Table;
use springhead_sql::live::LivePlan;

use super::asked::Prepared;
use super::commit::{CommitChange, Defined};
use super::core::{entry, filter_rows};
use super::delta::{Entry, Identity, identity_of};
use super::index::Index;
use super::shadow::Shadow;
use super::{LiveError, LiveLimits};
use crate::Tenant;
use crate::cdc::CdcError;
use crate::tail::TailError;

/// Bytes of log read at a time.
const READ_BYTES: u64 = 4 << 20;

/// Changes whose rows are held at a time, at most, but for those of one read.
const WINDOW_CHANGES: u64 = 50_000;

/// The commits after `from` up to `to` that touch what a query reads. Blocks on disk.
///
/// # Errors
/// [`LiveError::Refetch`] when there are more than is worth it; what the log says.
pub(crate) fn read(
    tenant: &Tenant,
    from: Lsn,
    to: Lsn,
    plan: &LivePlan,
    limits: LiveLimits,
) -> Result<Vec<CommitSlice>, LiveError> {
    let mut all = Vec::new();
    let range = (from, to, WINDOW_CHANGES);
    in_windows(tenant, range, plan, &mut |slices, changes| {
        for slice in slices.iter() {
            expect_no_definition(slice, plan)?;
        }
        expect_at_most(limits.resume_changes, changes)?;
        all.append(slices);
        Ok(())
    })?;
    Ok(all)
}

fn expect_at_most(most: u64, changes: u64) -> Result<(), LiveError> {
    if changes > most {
        let message = format!("over {most} changes have been made since the cursor");
        return Err(LiveError::Refetch(message));
    }
    Ok(())
}

/// Takes some slices, and how many changes they and those before them have.
type Window<'w> = &'w mut dyn FnMut(&mut Vec<CommitSlice>, u64) -> Result<(), LiveError>;

/// Gives `each` the slices after `from` up to `to`, at least `window` changes at a time, and how many
/// changes they and those before them have. Blocks on disk.
fn in_windows(
    tenant: &Tenant,
    (from, to, window): (Lsn, Lsn, u64),
    plan: &LivePlan,
    each: Window<'_>,
) -> Result<(), LiveError> {
    let filter = ReadFilter {
        tenant: Some(tenant.id()),
        collections: match plan.names_others {
            true => [&[CollectionId::DEFINITIONS][..], &plan.reads].concat(),
            false => plan.reads.clone(),
        },
    };
    let mut reader = tenant.shared.log.reader(from.next(), filter).map_err(log)?;
    let mut slices: Vec<CommitSlice> = Vec::new();
    let (mut changes, mut given) = (0, 0);
    loop {
        let known = slices.len();
        let scanned = reader.read(&mut slices, READ_BYTES).map_err(log)?;
        slices.retain(|slice| slice.commit_last_lsn() <= to);
        let come = slices.iter().skip(known);
        changes += come.map(|slice| slice.count).sum::<u64>();
        let is_last = scanned >= to;
        if is_last || changes - given >= window {
            each(&mut slices, changes)?;
            slices.clear();
            given = changes;
        }
        if is_last {
            return Ok(());
        }
    }
}

/// A change of rows that can be taken back.
///
/// # Errors
/// [`LiveError::Refetch`] for one that cannot.
pub(crate) fn expect_reversible(change: &ChangeRef<'_>) -> Result<(), LiveError> {
    match change.kind {
        ChangeKind::Truncate => Err(LiveError::Refetch(
            "the table has been truncated since the cursor".to_owned(),
        )),
        _ => Ok(()),
    }
}

/// That a slice defines nothing that the query is made of.
fn expect_no_definition(slice: &CommitSlice, plan: &LivePlan) -> Result<(), LiveError> {
    for change in Changes::new(&slice.changes) {
        let change = change.map_err(|error| damaged(&error))?;
        if change.kind == ChangeKind::Definition && Defined::of(&change)?.concerns(plan) {
            return Err(redefined());
        }
    }
    Ok(())
}

fn redefined() -> LiveError {
    LiveError::Refetch(
        "what the query is made of has been defined anew since the cursor".to_owned(),
    )
}

fn damaged(error: &impl ToString) -> SqlError {
    SqlError::new(ErrorCode::Corrupted, error.to_string())
}

/// The net difference of a filter of one table between two positions: the log is gone through window
/// by window, and what is held is the difference so far. `shadow` is locked for a window at a time.
/// Blocks on disk.
///
/// # Errors
/// [`LiveError::Refetch`] if there is more to go through, or more of a difference, than is worth it, or
/// if a truncate or a change of definitions lies in between; what the log says.
pub(crate) fn filter_difference(
    tenant: &Tenant,
    shadow: &Mutex<Shadow>,
    query: &Prepared,
    range: (Lsn, Lsn),
    limits: LiveLimits,
) -> Result<Vec<Entry>, LiveError> {
    let plan = query.plan();
    let mut net = Net::default();
    changes_that_matter(tenant, query, range, limits, &mut |mut change| {
        change.settle();
        let shadow = shadow.lock();
        for table in change.tables.values() {
            net.add(plan, filter_rows(&shadow, query, table.rows.iter())?);
        }
        expect_at_most(limits.resume_changes, net.len())
    })?;
    Ok(net.into_entries())
}

/// Each row of a filter of one table that a change between two positions has to do with, as it is at
/// the second: as added, or as removed with its key and nothing else, if the filter's columns begin with
/// the key's. Right also for whoever has seen some of it already. Blocks on disk.
///
/// # Errors
/// As [`filter_difference`].
pub(crate) fn touched(
    tenant: &Tenant,
    shadow: &Mutex<Shadow>,
    query: &Prepared,
    range: (Lsn, Lsn),
    limits: LiveLimits,
) -> Result<Vec<Entry>, LiveError> {
    let Prepared { asked, params } = query;
    let params = params.values();
    let nothing = std::iter::repeat(ValueRef::Null);
    let mut rows: FxHashMap<Identity, Entry> = FxHashMap::default();
    changes_that_matter(tenant, query, range, limits, &mut |change| {
        let shadow = shadow.lock();
        for row in change.tables.values().flat_map(|table| &table.rows) {
            let after = match &row.after {
                Some(image) => {
                    let sql = asked.image_sql(&image.table);
                    shadow.of_image(&sql, &params, image.row, &asked.session)?
                }
                None => None,
            };
            let key = row.key.iter().map(Value::as_ref);
            let entry = match after {
                Some(row) => Entry::Added {
                    row,
                    position: None,
                },
                None => {
                    let columns = key.clone().chain(nothing.clone());
                    let columns: Vec<_> = columns.take(asked.plan.columns.len()).collect();
                    Entry::Removed {
                        row: Row::from_values(columns.into_iter()),
                    }
                }
            };
            rows.insert(Row::from_values(key).bytes()[..].into(), entry);
        }
        expect_at_most(limits.resume_changes, rows.len() as u64)
    })?;
    Ok(rows.into_values().collect())
}

/// Gives `each` what the commits after the first position up to the second did to the rows that can
/// matter to a filter of one table, window by window.
fn changes_that_matter(
    tenant: &Tenant,
    query: &Prepared,
    (from, to): (Lsn, Lsn),
    limits: LiveLimits,
    each: &mut dyn FnMut(CommitChange<'_>) -> Result<(), LiveError>,
) -> Result<(), LiveError> {
    if from >= to {
        return Ok(());
    }
    let plan = query.plan();
    let reads = &plan.reads;
    // Rows without keys may be equal, and can only be told apart within one window.
    let (most, window) = match plan.is_keyed {
        true => (limits.resume_scan, WINDOW_CHANGES),
        false => (limits.resume_changes, limits.resume_changes),
    };
    let catalog = tenant.catalog();
    let forms: FxHashMap<CollectionId, SchemaVersion> = (reads.iter())
        .filter_map(|read| Some((*read, catalog.table(*read)?.version())))
        .collect();
    let mut index = Index::default();
    index.insert(0, plan, &query.params);
    in_windows(tenant, (from, to, window), plan, &mut |slices, changes| {
        expect_at_most(most, changes)?;
        let mut is_of_another_form = false;
        let mut matters = |table: &Table, row: RowRef<'_>| {
            // The definition that is between them and the query may be in a later window.
            is_of_another_form |= forms.get(&table.collection()) != Some(&table.version());
            let mut is_candidate = false;
            index.candidates(table, row, |_| is_candidate = true);
            is_candidate
        };
        let mut schemas = LastSchema::default();
        let mut schema = |id, version| schemas.of(tenant, id, version);
        let wanted = |id: CollectionId| reads.contains(&id);
        let mut change = CommitChange::default();
        for slice in slices.iter() {
            change.add_those(slice, &wanted, &mut schema, &mut matters)?;
        }
        if is_of_another_form {
            return Err(redefined());
        }
        expect_rows_alone(&change, plan)?;
        each(change)
    })
}

/// The schema that was asked for last, which is the next one's too, mostly.
#[derive(Default)]
struct LastSchema(Option<(CollectionId, SchemaVersion, Option<Arc<Table>>)>);

impl LastSchema {
    fn of(
        &mut self,
        tenant: &Tenant,
        id: CollectionId,
        version: SchemaVersion,
    ) -> Option<Arc<Table>> {
        match &self.0 {
            Some((last, last_version, table)) if (*last, *last_version) == (id, version) => {
                table.clone()
            }
            _ => {
                let table = tenant.schema(id, version);
                self.0 = Some((id, version, table.clone()));
                table
            }
        }
    }
}

fn expect_rows_alone(change: &CommitChange<'_>, plan: &LivePlan) -> Result<(), LiveError> {
    if change.definitions.iter().any(|one| one.concerns(plan)) {
        return Err(redefined());
    }
    if change.tables.values().any(|table| table.truncated) {
        return Err(LiveError::Refetch(
            "the table has been truncated since the cursor".to_owned(),
        ));
    }
    Ok(())
}

/// Differences of a result that follow one another, as one.
#[derive(Default)]
struct Net {
    /// What each row was before all of it and is now; `None` where it is not there.
    rows: FxHashMap<Identity, (Option<Row>, Option<Row>)>,
    /// Of rows that no key tells apart: the only window's.
    others: Vec<Entry>,
}

impl Net {
    fn len(&self) -> u64 {
        (self.rows.len() + self.others.len()) as u64
    }

    fn add(&mut self, plan: &LivePlan, entries: Vec<Entry>) {
        if !plan.is_keyed {
            self.others.extend(entries);
            return;
        }
        for entry in entries {
            let (before, after) = match entry {
                Entry::Added { row, .. } => (None, Some(row)),
                Entry::Changed { before, row, .. } => (Some(before), Some(row)),
                Entry::Removed { row } => (Some(row), None),
            };
            let Some(any) = before.as_ref().or(after.as_ref()) else {
                continue;
            };
            let identity = identity_of(plan, any.as_ref());
            self.rows.entry(identity).or_insert((before, None)).1 = after;
        }
    }

    fn into_entries(self) -> Vec<Entry> {
        let net = self.rows.into_values();
        let net = net.filter_map(|(before, after)| entry(before, after));
        net.chain(self.others).collect()
    }
}

fn log(error: LogError) -> LiveError {
    match CdcError::from(TailError::Log(error)) {
        CdcError::Refused { refused, .. } => LiveError::Refused(refused),
        CdcError::Sql(error) => LiveError::Sql(error),
    }
}

impl From<SqlError> for LiveError {
    fn from(error: SqlError) -> LiveError {
        LiveError::Sql(error)
    }
}
