//! What is to become of the log of a node that wants to follow this one: go on, cut, start over, or
//! stay away. Decided by what both logs say of themselves and by looking for the standby's last
//! frames here; nothing is ever mixed.

use springhead_log::{LogError, RawIdentity, RawLog, RawPosition, common_history};

use super::wire::{Identity, Verdict};

/// Decides for a standby that ends as `theirs` says; `ends` are the last ends of its frames, newest
/// first.
///
/// # Errors
/// What the disk says.
pub fn decide(
    log: &dyn RawLog,
    ours: &RawIdentity,
    theirs: &Identity,
    ends: &[RawPosition],
) -> Result<Verdict, LogError> {
    if theirs.cluster_id == 0 || theirs.epochs.is_empty() {
        return Ok(Verdict::BaseBackup {
            why: "it has no log yet".to_owned(),
        });
    }
    if theirs.cluster_id != ours.cluster_id {
        return Ok(refused(
            "its log is of another cluster: one of the two was made anew at its address; empty the standby's data directory to make it follow this one",
        ));
    }
    let our_number = ours.epochs.last().map_or(0, |record| record.number);
    if theirs.epoch_number() > our_number {
        return Ok(refused(&format!(
            "it is in epoch {}, newer than this node's {our_number}: this node is not its primary any more",
            theirs.epoch_number()
        )));
    }
    let common = common_history(
        &ours.epochs,
        ours.written.lsn,
        &theirs.epochs,
        theirs.written.lsn,
    );
    let Some((record, shared_lsn)) = common else {
        return Ok(refused(
            "its log shares no history with this one's, though both name the same cluster; empty the standby's data directory to make it follow this one",
        ));
    };
    let knows_more = theirs.epochs.last().map(|last| last.history_id) != Some(record.history_id);
    let is_past_fork = ours.epochs.last().map(|last| last.history_id) != Some(record.history_id)
        && theirs.written.lsn > shared_lsn;
    if knows_more || is_past_fork {
        return Ok(Verdict::Truncate {
            after: shared_lsn,
            why: format!(
                "its history left this one's at LSN {shared_lsn}, and it has changes up to {}",
                theirs.written.lsn
            ),
        });
    }
    match log.holds(theirs.written) {
        Ok(true) => return Ok(Verdict::Stream),
        Ok(false) => {}
        Err(LogError::Trimmed { earliest, .. }) => {
            return Ok(Verdict::BaseBackup {
                why: format!(
                    "it ends at LSN {}, and the log here begins at {earliest}",
                    theirs.written.lsn
                ),
            });
        }
        Err(error) => return Err(error),
    }
    in_one_history(log, theirs, ends)
}

/// Both are in one history, and the standby's end is not here: what it received had not been
/// durable, or this node has lost something.
fn in_one_history(
    log: &dyn RawLog,
    theirs: &Identity,
    ends: &[RawPosition],
) -> Result<Verdict, LogError> {
    for end in ends {
        match log.holds(*end) {
            Ok(true) if end.lsn >= theirs.durable => {
                return Ok(Verdict::Truncate {
                    after: end.lsn,
                    why: format!("what it has after LSN {} was never durable here", end.lsn),
                });
            }
            Ok(true) => {
                return Ok(refused(&format!(
                    "it is ahead of its primary: LSN {} was announced durable, and the log here shares only {} with it; this node has lost changes, so promote the standby instead, or empty its data directory",
                    theirs.durable, end.lsn
                )));
            }
            Ok(false) => {}
            Err(LogError::Trimmed { .. }) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(Verdict::BaseBackup {
        why: "none of its last frames is in the log here".to_owned(),
    })
}

fn refused(why: &str) -> Verdict {
    Verdict::Refused {
        why: why.to_owned(),
    }
}
