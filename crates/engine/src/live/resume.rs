//! The way from a cursor to now: the changes of the log in between, within bounds.

use springhead_log::{CommitSlice, LogError, ReadFilter};
use springhead_proto::{ChangeKind, ChangeRef, CollectionId, Lsn, SqlError};

use super::asked::Prepared;
use super::commit::CommitChange;
use super::core::filter_rows;
use super::delta::Entry;
use super::shadow::Shadow;
use super::{LiveError, LiveLimits};
use crate::Tenant;
use crate::cdc::CdcError;
use crate::tail::TailError;

/// Bytes of log read at a time.
const READ_BYTES: u64 = 4 << 20;

/// The commits after `from` up to `to` that touch `collections`. Blocks on disk.
///
/// # Errors
/// [`LiveError::Refetch`] when there are more than is worth it; what the log says.
pub(crate) fn read(
    tenant: &Tenant,
    from: Lsn,
    to: Lsn,
    collections: &[CollectionId],
    limits: LiveLimits,
) -> Result<Vec<CommitSlice>, LiveError> {
    let filter = ReadFilter {
        tenant: Some(tenant.id()),
        collections: collections.to_vec(),
    };
    let mut reader = tenant.shared.log.reader(from.next(), filter).map_err(log)?;
    let mut slices: Vec<CommitSlice> = Vec::new();
    let mut changes = 0;
    loop {
        let known = slices.len();
        let scanned = reader.read(&mut slices, READ_BYTES).map_err(log)?;
        slices.retain(|slice| slice.commit_last_lsn() <= to);
        changes += slices
            .iter()
            .skip(known)
            .map(|slice| slice.count)
            .sum::<u64>();
        if changes > limits.resume_changes {
            return Err(LiveError::Refetch(format!(
                "over {} changes have been made since the cursor",
                limits.resume_changes
            )));
        }
        if scanned >= to {
            return Ok(slices);
        }
    }
}

/// A change that can be taken back.
///
/// # Errors
/// [`LiveError::Refetch`] for one that cannot.
pub(crate) fn expect_reversible(change: &ChangeRef<'_>) -> Result<(), LiveError> {
    match change.kind {
        ChangeKind::Truncate => Err(LiveError::Refetch(
            "the table has been truncated since the cursor".to_owned(),
        )),
        ChangeKind::Definition => Err(LiveError::Refetch(
            "the table's definition has changed since the cursor".to_owned(),
        )),
        _ => Ok(()),
    }
}

/// The net difference of a filter of one table between two positions. Blocks on disk.
///
/// # Errors
/// As [`read`]; [`LiveError::Refetch`] if a truncate or a change of definitions lies in between.
pub(crate) fn filter_difference(
    tenant: &Tenant,
    shadow: &Shadow,
    query: &Prepared,
    from: Lsn,
    to: Lsn,
    limits: LiveLimits,
) -> Result<Vec<Entry>, LiveError> {
    if from >= to {
        return Ok(Vec::new());
    }
    let reads = &query.plan().reads;
    let slices = read(tenant, from, to, reads, limits)?;
    let mut change = CommitChange::default();
    let wanted = |id: CollectionId| reads.contains(&id);
    let schema = |id, version| tenant.schema(id, version);
    for slice in &slices {
        change.add(slice, &wanted, &schema)?;
    }
    if change.definitions.iter().any(|id| reads.contains(id)) {
        return Err(LiveError::Refetch(
            "the table's definition has changed since the cursor".to_owned(),
        ));
    }
    if change.tables.values().any(|table| table.truncated) {
        return Err(LiveError::Refetch(
            "the table has been truncated since the cursor".to_owned(),
        ));
    }
    change.settle();
    let mut entries = Vec::new();
    for table in change.tables.values() {
        entries.extend(filter_rows(shadow, query, table.rows.iter())?);
    }
    Ok(entries)
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
