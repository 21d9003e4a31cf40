//! Where a feed starts, decided once for every exit, and the refusals of positions that cannot be
//! resumed from (G5).

use springhead_log::{EpochRecord, Log, LogError};
use springhead_proto::{BadCursor, Cursor, Epoch, ErrorCode, Lsn, SqlError, TimestampMs};

use crate::Tenant;

/// The place that a reader asks to start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// After all that is there.
    Now,
    /// At the earliest change kept.
    Earliest,
    /// After this cursor.
    After(Cursor),
    /// That LSN and later.
    SinceLsn(Lsn),
    /// That time and later; a time past the end means now.
    SinceMs(TimestampMs),
}

/// A position that cannot be resumed from, and where to start instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct RefusedCursor {
    pub reason: RefusedReason,
    /// The first LSN that can be read: `since_lsn` with it starts there.
    pub earliest_lsn: Lsn,
}

/// Why it cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefusedReason {
    #[error("everything from LSN {wanted} is asked for, but retention has trimmed up to {trimmed}")]
    Trimmed { wanted: Lsn, trimmed: Lsn },
    #[error("LSN {asked} is past the end of the log at {end}")]
    Future { asked: Lsn, end: Lsn },
    #[error(
        "epoch {epoch} is unknown here: the cursor is of another database or of a lost history"
    )]
    UnknownEpoch { epoch: Epoch },
    #[error("epoch {epoch} ended at LSN {fork_lsn}, and the cursor's LSN {asked} is past it")]
    PastFork {
        epoch: Epoch,
        asked: Lsn,
        fork_lsn: Lsn,
    },
}

impl RefusedCursor {
    /// The last LSN that the cursor's history shares with this one, if that is what stands in the
    /// way.
    #[must_use]
    pub const fn fork_lsn(&self) -> Option<Lsn> {
        match self.reason {
            RefusedReason::PastFork { fork_lsn, .. } => Some(fork_lsn),
            _ => None,
        }
    }

    /// What to do now, for people.
    #[must_use]
    pub fn hint(&self) -> String {
        format!(
            "take a snapshot (snapshot=true) and go on from its cursor, or start at the earliest change with since_lsn={}",
            self.earliest_lsn
        )
    }
}

/// Reads a cursor.
///
/// # Errors
/// SH002 with the text that is none.
pub fn parse_cursor(text: &str) -> Result<Cursor, SqlError> {
    text.parse().map_err(|error: BadCursor| {
        let shown: String = text.chars().take(64).collect();
        SqlError::new(ErrorCode::MalformedCursor, format!("\"{shown}\": {error}"))
    })
}

/// What is known of the log when a start is decided.
#[derive(Debug, Clone)]
pub(crate) struct LogView {
    pub earliest: Lsn,
    pub durable: Lsn,
    pub timestamp_ms: TimestampMs,
    pub epochs: Vec<EpochRecord>,
}

impl LogView {
    pub(crate) fn of(log: &dyn Log) -> LogView {
        let tail = log.tail();
        LogView {
            earliest: log.earliest(),
            durable: tail.durable,
            timestamp_ms: tail.timestamp_ms,
            epochs: log.epochs(),
        }
    }

    /// The position (everything up to it has been seen) that `cursor` stands for.
    fn check(&self, cursor: Cursor) -> Result<Lsn, RefusedCursor> {
        if let Some(epoch) = cursor.epoch {
            self.check_epoch(epoch, cursor.lsn)?;
        }
        self.check_position(cursor.lsn)
    }

    fn check_epoch(&self, epoch: Epoch, lsn: Lsn) -> Result<(), RefusedCursor> {
        let Some(place) = self.epochs.iter().rposition(|record| record.epoch == epoch) else {
            return Err(self.refuse(RefusedReason::UnknownEpoch { epoch }));
        };
        // Each later history left its ancestors at its fork; a restore may have gone back further
        // than the fork before it.
        let fork_lsn = self.epochs[place + 1..]
            .iter()
            .map(|record| record.fork_lsn)
            .min();
        match fork_lsn {
            Some(fork_lsn) if lsn > fork_lsn => Err(self.refuse(RefusedReason::PastFork {
                epoch,
                asked: lsn,
                fork_lsn,
            })),
            _ => Ok(()),
        }
    }

    fn check_position(&self, position: Lsn) -> Result<Lsn, RefusedCursor> {
        if position > self.durable {
            return Err(self.refuse(RefusedReason::Future {
                asked: position,
                end: self.durable,
            }));
        }
        if position.next() < self.earliest {
            return Err(self.trimmed(position.next()));
        }
        Ok(position)
    }

    pub(crate) fn trimmed(&self, wanted: Lsn) -> RefusedCursor {
        self.refuse(RefusedReason::Trimmed {
            wanted,
            trimmed: self.earliest.previous(),
        })
    }

    fn refuse(&self, reason: RefusedReason) -> RefusedCursor {
        RefusedCursor {
            reason,
            earliest_lsn: self.earliest,
        }
    }

    /// As [`resolve`], without waiting; `lsn_at_time` is [`Log::lsn_at_time`].
    fn position(
        &self,
        start: Start,
        visible: Lsn,
        lsn_at_time: impl FnOnce(TimestampMs) -> Result<Lsn, LogError>,
    ) -> Result<Lsn, StartError> {
        Ok(match start {
            Start::Now => visible,
            Start::Earliest => self.earliest.previous().min(self.durable),
            Start::After(cursor) => self.check(cursor)?,
            Start::SinceLsn(lsn) => {
                // One past the end is fine: it is the next change. Nothing has LSN 0.
                let position = lsn.previous();
                if position > self.durable {
                    return Err(self
                        .refuse(RefusedReason::Future {
                            asked: lsn,
                            end: self.durable,
                        })
                        .into());
                }
                self.check_position(position)?
            }
            Start::SinceMs(time) if time > self.timestamp_ms => visible,
            Start::SinceMs(time) => {
                let lsn = lsn_at_time(time)?;
                if lsn <= self.earliest && self.earliest > Lsn::FIRST {
                    // Of what retention has trimmed some may be of that time or later.
                    return Err(self.trimmed(lsn.min(self.earliest.previous())).into());
                }
                lsn.previous().min(self.durable)
            }
        })
    }
}

/// Why no start could be decided.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Refused(#[from] RefusedCursor),
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Decides where a feed starts: the position up to which everything counts as seen, at most the
/// tenant's visible LSN. Waits until a durable position has become visible.
///
/// # Errors
/// [`RefusedCursor`] for what cannot be resumed from; what waiting or the disk says.
pub async fn resolve(tenant: &Tenant, log: &dyn Log, start: Start) -> Result<Lsn, StartError> {
    // What anyone was told of is in the past of whoever starts now.
    tenant.wait_visible(tenant.acknowledged()).await?;
    if tenant.is_on_standby() {
        wait_on_standby(tenant, log, start).await?;
    }
    // Visible is read before the log's end, so that it is never past it.
    let visible = tenant.visible();
    let view = LogView::of(log);
    let position = view.position(start, visible, |time| log.lsn_at_time(time))?;
    if position > tenant.visible() {
        tenant.wait_visible(position).await?;
    }
    Ok(position)
}

/// What a standby does not have yet, not even its epoch perhaps, it may have in a moment.
async fn wait_on_standby(tenant: &Tenant, log: &dyn Log, start: Start) -> Result<(), StartError> {
    let (asked, epoch) = match start {
        Start::After(cursor) => (cursor.lsn, cursor.epoch),
        Start::SinceLsn(lsn) => (lsn.previous(), None),
        Start::Now | Start::Earliest | Start::SinceMs(_) => return Ok(()),
    };
    let refused = || {
        let checked = epoch.map(|epoch| LogView::of(log).check_epoch(epoch, asked));
        checked.and_then(|checked| checked.err().map(|refused| refused.reason))
    };
    if matches!(refused(), Some(RefusedReason::PastFork { .. })) {
        return Ok(());
    }
    tenant.wait_visible(asked).await?;
    // A new primary gives cursors of its epoch before all others have heard of that.
    let is_unknown = || matches!(refused(), Some(RefusedReason::UnknownEpoch { .. }));
    // One that is unknown still is refused by whoever looks at the position next.
    let _ = tenant.wait_until(|| !is_unknown()).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> LogView {
        let record = |epoch, number, fork_lsn| EpochRecord {
            epoch: Epoch(epoch),
            number,
            history_id: u128::from(number),
            fork_lsn: Lsn(fork_lsn),
        };
        LogView {
            earliest: Lsn(11),
            durable: Lsn(100),
            timestamp_ms: TimestampMs(5_000),
            epochs: vec![record(0xa, 1, 0), record(0xb, 2, 40), record(0xc, 3, 70)],
        }
    }

    fn decide(start: Start) -> Result<u64, RefusedReason> {
        let times = |time: TimestampMs| Ok(if time.0 <= 1_000 { Lsn(11) } else { Lsn(50) });
        match view().position(start, Lsn(95), times) {
            Ok(lsn) => Ok(lsn.0),
            Err(StartError::Refused(refused)) => {
                assert_eq!(refused.earliest_lsn, Lsn(11));
                Err(refused.reason)
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn after(text: &str) -> Start {
        Start::After(parse_cursor(text).unwrap())
    }

    #[test]
    fn g5_every_cursor_is_resumed_or_refused_with_its_reason() {
        let trimmed = |wanted| {
            Err(RefusedReason::Trimmed {
                wanted: Lsn(wanted),
                trimmed: Lsn(10),
            })
        };
        let future = |asked| {
            Err(RefusedReason::Future {
                asked: Lsn(asked),
                end: Lsn(100),
            })
        };
        let past_fork = |epoch, asked, fork| {
            Err(RefusedReason::PastFork {
                epoch: Epoch(epoch),
                asked: Lsn(asked),
                fork_lsn: Lsn(fork),
            })
        };
        let cases = [
            // The current epoch.
            (after("50@0000000c"), Ok(50)),
            (after("100@0000000c"), Ok(100)),
            (after("101@0000000c"), future(101)),
            (after("10@0000000c"), Ok(10)),
            (after("9@0000000c"), trimmed(10)),
            (after("0@0000000c"), trimmed(1)),
            // Ancestors, up to where they forked and past it.
            (after("70@0000000b"), Ok(70)),
            (after("71@0000000b"), past_fork(0xb, 71, 70)),
            (after("40@0000000a"), Ok(40)),
            (after("41@0000000a"), past_fork(0xa, 41, 40)),
            (after("500@0000000a"), past_fork(0xa, 500, 40)),
            // Nobody's.
            (
                after("50@0000000d"),
                Err(RefusedReason::UnknownEpoch { epoch: Epoch(0xd) }),
            ),
            // A bare LSN skips the check of the epoch, and only that.
            (after("50"), Ok(50)),
            (after("101"), future(101)),
            (after("9"), trimmed(10)),
            // Inclusive LSNs.
            (Start::SinceLsn(Lsn(11)), Ok(10)),
            (Start::SinceLsn(Lsn(10)), trimmed(10)),
            (Start::SinceLsn(Lsn(0)), trimmed(1)),
            (Start::SinceLsn(Lsn(101)), Ok(100)),
            (Start::SinceLsn(Lsn(102)), future(102)),
            // Times.
            (Start::SinceMs(TimestampMs(4_000)), Ok(49)),
            (Start::SinceMs(TimestampMs(5_000)), Ok(49)),
            (Start::SinceMs(TimestampMs(5_001)), Ok(95)),
            (Start::SinceMs(TimestampMs(900)), trimmed(10)),
            (Start::Now, Ok(95)),
            (Start::Earliest, Ok(10)),
        ];
        for (start, expected) in cases {
            assert_eq!(decide(start), expected, "{start:?}");
        }
    }

    #[test]
    fn g5_a_restore_further_back_than_the_fork_before_it_cuts_both_ancestors() {
        let mut view = view();
        view.epochs[2].fork_lsn = Lsn(30);
        let check = |text: &str| {
            view.check(parse_cursor(text).unwrap())
                .map_err(|refused| refused.fork_lsn())
        };
        assert_eq!(check("31@0000000a"), Err(Some(Lsn(30))));
        assert_eq!(check("30@0000000a"), Ok(Lsn(30)));
        assert_eq!(check("31@0000000b"), Err(Some(Lsn(30))));
    }

    #[test]
    fn malformed_cursors_have_a_code_of_their_own() {
        for text in [
            "",
            "x",
            "-1",
            "+1",
            "1@",
            "1@xyz",
            "1@9c1e04d",
            "1@9c1e04d70",
            "18446744073709551616",
            "1 ",
            "1@9c1e04d7@1",
            "must-refetch",
        ] {
            let error = parse_cursor(text).unwrap_err();
            assert_eq!(error.code, ErrorCode::MalformedCursor, "{text:?}");
        }
    }
}
