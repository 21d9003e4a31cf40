//! Which commits are safe enough: what the standbys have acknowledged, what `synchronous_standbys`
//! asks of them, and everyone who waits for it.
//!
//! A primary that has lost its standbys blocks (the default), or goes on alone after
//! `async_after_ms`, says so in a metric, the status and the audit, and waits again as soon as
//! enough standbys have caught up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use springhead_engine::confirm::{CommitGate, Confirmation, SyncLevel};
use springhead_engine::horizon::Horizon;
use springhead_proto::{ErrorCode, Lsn, SqlError};
use tokio::sync::{oneshot, watch};

use super::names::SynchronousStandbys;
use super::wire::{Progress, Wanted};
use crate::vote::Voting;

/// What nobody has waited for within this time, standbys need not tell at once.
const WANTED_FOR: Duration = Duration::from_secs(1);

/// See the module's text.
pub struct Synchrony {
    names: SynchronousStandbys,
    /// How long commits wait for a standby before the primary goes on alone; `None` for ever.
    patience: Option<Duration>,
    /// The level of sessions that say nothing; feeds show no more than is as safe.
    level: SyncLevel,
    horizon: Arc<Horizon>,
    /// Where nodes vote: a commit also waits for every node in sync.
    voting: Option<Arc<Voting>>,
    state: Mutex<State>,
    confirmed: Mutex<Confirmed>,
    /// Commits that are durable here and not safe enough yet. Locked before `confirmed` where both are.
    waiting: Mutex<Vec<Waiting>>,
    /// What commits wait for of late, as far as senders have to be told at once: what is added.
    wanted: watch::Sender<Wanted>,
}

/// A commit that waits; each is woken by itself, once and not before it is safe.
struct Waiting {
    lsn: Lsn,
    level: SyncLevel,
    /// Told whether the node is still the primary.
    done: oneshot::Sender<bool>,
}

struct State {
    /// The node has been the primary, and commits may wait; what a standby's own standbys say decides
    /// nothing.
    begun: bool,
    /// Since when somebody waits for something that no standby acknowledges.
    waiting_since: Option<Instant>,
    /// When a commit last waited for what a standby had written, and for what it had applied.
    wanted_written: Option<Instant>,
    wanted_applied: Option<Instant>,
    /// What the votes said last: up to where the nodes in sync have the log, and whether there is a lease.
    followed: Option<(Lsn, bool)>,
}

/// What enough standbys have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Confirmed {
    pub written: Lsn,
    pub flushed: Lsn,
    pub applied: Lsn,
    /// The primary goes on alone.
    pub alone: bool,
    /// This node is no longer the primary.
    pub retired: bool,
}

impl Confirmed {
    fn at(&self, level: SyncLevel) -> Lsn {
        match level {
            SyncLevel::Off | SyncLevel::Local => Lsn::MAX,
            SyncLevel::RemoteWrite => self.written,
            SyncLevel::On => self.flushed,
            SyncLevel::RemoteApply => self.applied,
        }
    }
}

impl Synchrony {
    /// `voting` is the node's voter, where nodes vote.
    pub fn new(
        names: SynchronousStandbys,
        patience: Option<Duration>,
        level: SyncLevel,
        horizon: Arc<Horizon>,
        voting: Option<Arc<Voting>>,
    ) -> Arc<Synchrony> {
        Arc::new(Synchrony {
            voting,
            names,
            patience,
            level,
            horizon,
            state: Mutex::new(State {
                begun: false,
                waiting_since: None,
                wanted_written: None,
                wanted_applied: None,
                followed: None,
            }),
            confirmed: Mutex::default(),
            waiting: Mutex::default(),
            wanted: watch::Sender::default(),
        })
    }

    /// Where nodes vote, this node's voter.
    pub fn voting(&self) -> Option<&Arc<Voting>> {
        self.voting.as_ref()
    }

    /// Looks whether the votes have changed what commits wait for, and tells those that wait.
    pub fn follow_votes(&self) {
        let Some(voting) = &self.voting else { return };
        let now = Some((voting.in_sync_lsn(), voting.has_lease()));
        let mut state = self.state.lock();
        if !state.begun || state.followed == now {
            return;
        }
        state.followed = now;
        drop(state);
        self.wake();
        self.move_horizon();
    }

    /// What standbys should tell at once.
    pub fn wanted(&self) -> Wanted {
        let of_late = |at: Option<Instant>| at.is_some_and(|at| at.elapsed() < WANTED_FOR);
        let state = self.state.lock();
        let now = Wanted {
            written: of_late(state.wanted_written),
            applied: of_late(state.wanted_applied),
        };
        drop(state);
        // Nobody is told of what is not wanted any more: that is no hurry.
        self.wanted.send_if_modified(|wanted| {
            *wanted = now;
            false
        });
        now
    }

    /// Tells when [`Synchrony::wanted`] has more.
    pub fn watch_wanted(&self) -> watch::Receiver<Wanted> {
        self.wanted.subscribe()
    }

    /// A commit begins to wait at `level`.
    fn note_wait(&self, level: SyncLevel) {
        let mut state = self.state.lock();
        // Whatever the votes say next is told to it.
        state.followed = None;
        let (written, applied) = (SyncLevel::RemoteWrite, SyncLevel::RemoteApply);
        let at = match level {
            level if level == written => &mut state.wanted_written,
            level if level == applied => &mut state.wanted_applied,
            _ => return,
        };
        *at = Some(Instant::now());
        drop(state);
        self.wanted.send_if_modified(|wanted| {
            let before = *wanted;
            wanted.written |= level == written;
            wanted.applied |= level == applied;
            *wanted != before
        });
    }

    /// Wakes the commits that are safe by now, or for ever unknown.
    fn wake(&self) {
        let mut waiting = self.waiting.lock();
        let confirmed = self.confirmed();
        let is_over = |waits: &mut Waiting| {
            confirmed.retired
                || waits.done.is_closed()
                || self.is_safe(&confirmed, waits.lsn, waits.level)
        };
        for over in waiting.extract_if(.., is_over) {
            // Whoever was cancelled does not hear it.
            let _ = over.done.send(!confirmed.retired);
        }
    }

    /// Whether a commit is as safe as `level` asks.
    fn is_safe(&self, confirmed: &Confirmed, lsn: Lsn, level: SyncLevel) -> bool {
        let by_names = self.names.is_empty() || confirmed.alone || confirmed.at(level) >= lsn;
        let voting = self.voting.as_ref();
        !confirmed.retired
            && by_names
            && voting.is_none_or(|voting| voting.is_safe(lsn, level.is_remote()))
    }

    /// Whom commits wait for.
    pub fn names(&self) -> &SynchronousStandbys {
        &self.names
    }

    /// The primary begins: everything up to `end` is the past, which nobody waits for.
    pub fn begin(&self, end: Lsn) {
        if let Some(voting) = &self.voting {
            voting.begin(end);
        }
        self.state.lock().begun = true;
        *self.confirmed.lock() = Confirmed {
            written: end,
            flushed: end,
            applied: end,
            ..Confirmed::default()
        };
        self.wake();
        self.move_horizon();
    }

    /// What the standbys that stream have, with their priorities.
    pub fn acknowledged(&self, standbys: &[(usize, Progress)]) {
        if !self.state.lock().begun {
            return;
        }
        let of = |position: fn(&Progress) -> Lsn| {
            let positions: Vec<(usize, Lsn)> = standbys
                .iter()
                .map(|(priority, progress)| (*priority, position(progress)))
                .collect();
            self.names.quorum(&positions).unwrap_or(Lsn::ZERO)
        };
        let (written, flushed, applied) = (
            of(|progress| progress.written),
            of(|progress| progress.flushed),
            of(|progress| progress.applied),
        );
        let moved = {
            let mut confirmed = self.confirmed.lock();
            let before = *confirmed;
            // What was confirmed stays so, also when who confirmed it goes.
            confirmed.written = confirmed.written.max(written);
            confirmed.flushed = confirmed.flushed.max(flushed);
            confirmed.applied = confirmed.applied.max(applied);
            *confirmed != before
        };
        if moved {
            self.state.lock().waiting_since = None;
            self.wake();
            self.move_horizon();
        }
    }

    /// Looks whether patience is at its end, or whether standbys have come back. `end` is the
    /// log's. What has changed, if anything has: whether the primary goes on alone now.
    pub fn look(&self, end: Lsn) -> Option<bool> {
        let patience = self.patience?;
        if self.names.is_empty() {
            return None;
        }
        let confirmed = self.confirmed();
        let mut state = self.state.lock();
        if confirmed.at(self.level) >= end {
            state.waiting_since = None;
        } else if state.waiting_since.is_none() {
            state.waiting_since = Some(Instant::now());
        }
        let out_of_patience = state
            .waiting_since
            .is_some_and(|since| since.elapsed() >= patience);
        drop(state);
        let alone = match confirmed.alone {
            false => out_of_patience,
            true => confirmed.at(self.level) < end && !self.is_near(&confirmed, end),
        };
        if alone == confirmed.alone {
            return None;
        }
        self.state.lock().waiting_since = None;
        {
            let mut confirmed = self.confirmed.lock();
            confirmed.alone = alone;
            if !alone {
                // What was answered alone is the past, and was shown.
                confirmed.written = confirmed.written.max(end);
                confirmed.flushed = confirmed.flushed.max(end);
                confirmed.applied = confirmed.applied.max(end);
            }
        }
        self.wake();
        self.move_horizon();
        Some(alone)
    }

    /// Close enough to the end that waiting for the rest is a moment.
    fn is_near(&self, confirmed: &Confirmed, end: Lsn) -> bool {
        const NEAR: u64 = 1000;
        end.0.saturating_sub(confirmed.at(self.level).0) < NEAR
            && self.state.lock().waiting_since.is_none()
    }

    /// Nobody's commit is confirmed any more: another node may be the primary.
    pub fn retire(&self) {
        self.confirmed.lock().retired = true;
        self.wake();
    }

    /// What enough standbys have now.
    pub fn confirmed(&self) -> Confirmed {
        *self.confirmed.lock()
    }

    /// Feeds show what is confirmed at the server's own level.
    fn move_horizon(&self) {
        let confirmed = self.confirmed();
        let by_names = if self.names.is_empty() || !self.level.is_remote() || confirmed.alone {
            Lsn::MAX
        } else {
            // A feed need not wait for what only reads on standbys need.
            confirmed.at(self.level.min(SyncLevel::On))
        };
        let by_votes = match &self.voting {
            Some(voting) if self.level.is_remote() => voting.shown_lsn(),
            _ => Lsn::MAX,
        };
        self.horizon.set_confirmed(by_names.min(by_votes));
    }
}

/// [`Synchrony`] as the engine sees it.
pub struct Gate(pub Arc<Synchrony>);

impl CommitGate for Gate {
    fn confirm(&self, lsn: Lsn, level: SyncLevel) -> Option<Confirmation> {
        let synchrony = Arc::clone(&self.0);
        match &synchrony.voting {
            Some(voting) => {
                // It is durable here.
                voting.flushed(lsn);
                synchrony.follow_votes();
            }
            None if synchrony.names.is_empty() => return None,
            None => {}
        }
        let told = {
            // Held from the look on: whatever changes after it wakes whoever is in the list by then.
            let mut waiting = synchrony.waiting.lock();
            let confirmed = synchrony.confirmed();
            if synchrony.is_safe(&confirmed, lsn, level) {
                return None;
            }
            let (done, told) = oneshot::channel();
            if confirmed.retired {
                // Nothing changes any more.
                drop(done);
            } else {
                waiting.push(Waiting { lsn, level, done });
            }
            told
        };
        synchrony.note_wait(level);
        Some(Box::pin(async move {
            if told.await == Ok(true) {
                return Ok(());
            }
            Err(SqlError::new(
                ErrorCode::OutcomeUnknown,
                format!(
                    "this node is no longer the primary: the commit is durable here at LSN {lsn}, and unknown on the new primary"
                ),
            )
            .with_hint("look on the new primary whether the change is there before you repeat it"))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn synchrony(patience: Option<Duration>) -> Arc<Synchrony> {
        let names = "ANY 1 (a, b)".parse().unwrap();
        let synchrony = Synchrony::new(names, patience, SyncLevel::On, Horizon::open(), None);
        synchrony.begin(Lsn(10));
        synchrony
    }

    fn progress(written: u64, flushed: u64, applied: u64) -> Progress {
        Progress {
            written: Lsn(written),
            flushed: Lsn(flushed),
            applied: Lsn(applied),
        }
    }

    #[tokio::test]
    async fn g11_a_commit_waits_for_what_its_level_asks() {
        let synchrony = synchrony(None);
        let gate = Gate(Arc::clone(&synchrony));
        assert!(gate.confirm(Lsn(10), SyncLevel::RemoteApply).is_none());
        assert!(gate.confirm(Lsn(11), SyncLevel::Local).is_none());
        let levels = [
            SyncLevel::RemoteWrite,
            SyncLevel::On,
            SyncLevel::RemoteApply,
        ];
        let is_waiting = |lsn| levels.map(|level| gate.confirm(Lsn(lsn), level).is_some());
        assert_eq!(is_waiting(12), [true, true, true]);
        synchrony.acknowledged(&[(1, progress(13, 12, 11))]);
        assert_eq!(is_waiting(12), [false, false, true]);
        assert_eq!(is_waiting(13), [false, true, true]);
        // A standby that nobody named has no say, and one that leaves takes nothing back.
        synchrony.acknowledged(&[(0, progress(20, 20, 20))]);
        assert_eq!(is_waiting(12), [false, false, true]);
        let wait = gate.confirm(Lsn(12), SyncLevel::RemoteApply).unwrap();
        synchrony.acknowledged(&[(2, progress(12, 12, 12))]);
        wait.await.unwrap();
    }

    #[tokio::test]
    async fn g11_a_retired_primary_confirms_nothing() {
        let synchrony = synchrony(None);
        let gate = Gate(Arc::clone(&synchrony));
        let wait = gate.confirm(Lsn(12), SyncLevel::On).unwrap();
        synchrony.retire();
        assert_eq!(wait.await.unwrap_err().code, ErrorCode::OutcomeUnknown);
        let late = gate.confirm(Lsn(9), SyncLevel::On).unwrap();
        assert_eq!(late.await.unwrap_err().code, ErrorCode::OutcomeUnknown);
    }

    #[test]
    fn a_primary_out_of_patience_goes_on_alone_and_comes_back() {
        let synchrony = synchrony(Some(Duration::ZERO));
        assert_eq!(synchrony.look(Lsn(10)), None);
        assert_eq!(synchrony.look(Lsn(5000)), Some(true));
        let gate = Gate(Arc::clone(&synchrony));
        assert!(gate.confirm(Lsn(5000), SyncLevel::On).is_none());
        assert_eq!(synchrony.horizon.limit(), Lsn::MAX);
        synchrony.acknowledged(&[(1, progress(5000, 5000, 5000))]);
        assert_eq!(synchrony.look(Lsn(5000)), Some(false));
        assert_eq!(synchrony.horizon.limit(), Lsn(5000));
    }
}
