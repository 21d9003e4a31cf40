//! What a node that votes does all the time: a primary tells the witness that it leads, has it write
//! down who is in sync, and gives up when it is cut off; a standby looks whether its primary is gone; a
//! node that is neither looks for a primary, or becomes one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use springhead_log::vote::{Ballot, Members, Message, NodeId, Output, Position, Role};
use springhead_proto::Lsn;
use tokio::time::{Instant, sleep, timeout};

use super::Voting;
use super::elect::{NotElected, renew, step_down};
use super::messages::{Ask, Known};
use crate::standby::handshake::Own;
use crate::standby::promote::{self, Call};
use crate::standby::slots::State as SlotState;
use crate::standby::{Replication, peers};

/// A node that starts as nobody's standby tries for so long to lead before it serves what it has.
const FIRST_TRY: Duration = Duration::from_secs(2);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(50);
/// For so long at least, an attempt to follow another node is not begun anew.
const REDIRECT_PATIENCE: Duration = Duration::from_secs(2);
/// So often in the time that a primary may be unheard it says that it leads.
const BEATS: u32 = 8;

/// Before the node's listeners are served: leads, if it may.
pub async fn begin(replication: &Arc<Replication>, voting: &Arc<Voting>) {
    // A new node's engine opens as a primary's; it is none before it is elected.
    let engine = replication.engine.clone();
    let _ = tokio::task::spawn_blocking(move || engine.retire(None)).await;
    let trying = async {
        while voting.leads() == 0 && replication.restart.borrow().is_none() {
            seek(replication, voting).await;
            sleep(RETRY).await;
        }
    };
    // Then it goes on in [`keep`].
    let _ = timeout(FIRST_TRY, trying).await;
}

/// Until the node stops.
pub async fn keep(replication: Arc<Replication>, voting: Arc<Voting>) {
    let beat = (voting.timeout / BEATS).min(replication.options.heartbeat);
    loop {
        if replication.restart.borrow().is_none() {
            turn(&replication, &voting).await;
        }
        tokio::select! {
            () = sleep(beat) => {}
            () = voting.wake.notified() => {}
        }
    }
}

async fn turn(replication: &Arc<Replication>, voting: &Arc<Voting>) {
    let ballot = voting.leads();
    if ballot > 0 {
        lead(replication, voting, Ballot(ballot)).await;
    } else if replication.changing.try_lock().is_err() {
        // Somebody is at it: a switchover, or a promotion by command.
    } else if replication.is_following() {
        watch(replication, voting).await;
    } else {
        seek(replication, voting).await;
    }
}

/// A primary's turn.
async fn lead(replication: &Arc<Replication>, voting: &Arc<Voting>, ballot: Ballot) {
    let answer = tokio::select! {
        answer = voting.lead(replication, ballot) => answer,
        // It is not waited for any longer than the node may lead without it.
        () = voting.lease_over() => None,
    };
    if let Some(answer) = &answer {
        let promised = answer.known().promised;
        if promised > ballot {
            let why = format!(
                "the witness has promised epoch {} to another node",
                promised.0
            );
            step_down(replication, voting, &why).await;
            return;
        }
        let seen = voting.seen();
        if seen > ballot {
            renew(replication, voting, seen).await;
            return;
        }
    }
    if !voting.has_lease() {
        let why =
            "neither the witness nor every standby in sync is heard: another node may be elected";
        step_down(replication, voting, why).await;
        return;
    }
    let end = replication.engine.log().tail().durable;
    let streaming: Vec<String> = replication
        .slots
        .list()
        .into_iter()
        .filter(|standby| standby.state == SlotState::Streaming)
        .filter(|standby| {
            let heard = standby.heard;
            heard.is_some_and(|heard| heard.elapsed() < voting.timeout)
        })
        .map(|standby| standby.name)
        .collect();
    if let Some(wish) = voting.wish(&streaming, end)
        && answer.is_some()
        && let Ok(answer) = voting.ask(replication, Ask::Vote(wish)).await
        && let Some(message) = answer.said.message
    {
        voting.hear(message);
    }
    replication.synchrony.follow_votes();
}

/// A standby's turn.
async fn watch(replication: &Arc<Replication>, voting: &Arc<Voting>) {
    let Ok(answer) = voting.ask(replication, Ask::Look).await else {
        return;
    };
    if !voting.is_primary_gone() {
        return;
    }
    let known = answer.known();
    if let Some(leader) = &known.leader
        && leader.node != voting.own
    {
        // Somebody leads, and this node does not hear it where it listens.
        let upstream = replication.upstream.borrow().primary.clone();
        if leader.address != upstream && voting.may_redirect(&leader.address) {
            replication.redirect.send_replace(leader.address.clone());
        }
        return;
    }
    campaign(replication, voting, known).await;
}

/// The turn of a node that neither leads nor follows.
async fn seek(replication: &Arc<Replication>, voting: &Arc<Voting>) {
    peers::look_around(replication).await;
    let Ok(answer) = voting.ask(replication, Ask::Look).await else {
        return;
    };
    let mut known = answer.said.known;
    if !known.is_enrolled {
        let Some(enrolled) = enrol(replication, voting).await else {
            return;
        };
        known = enrolled;
    }
    if let Some(leader) = &known.leader
        && leader.node != voting.own
    {
        let own = Own {
            identity: replication.identity(),
            token: replication.options.token.clone(),
            timeout: replication.options.timeout,
        };
        let trust = &replication.options.trust;
        if let Ok(found) = peers::probe(&leader.address, trust, &own).await {
            replication.superseded(&found);
        }
        return;
    }
    if replication.restart.borrow().is_none() {
        campaign(replication, voting, &known).await;
    }
}

/// The first primary of a cluster that votes has its witness serve it. A witness that this node has
/// known before must not be blank.
async fn enrol(replication: &Arc<Replication>, voting: &Arc<Voting>) -> Option<Known> {
    let epochs = replication.raw().identity().epochs;
    let ask = voting.first_words(epochs.last().map_or(0, |record| record.number))?;
    // Before the witness knows of it: what the log has is everything, since nobody else has led.
    if let Err(error) = voting.caught_up() {
        tracing::error!(%error, "the first promise could not be written down");
        return None;
    }
    let answer = voting.ask(replication, ask).await.ok()?;
    if !answer.known().is_enrolled || !answer.known().in_sync.contains(voting.own) {
        return None;
    }
    tracing::info!(
        witness = voting.witness.address(),
        "the witness serves this cluster"
    );
    Some(answer.said.known)
}

async fn campaign(replication: &Arc<Replication>, voting: &Arc<Voting>, known: &Known) {
    let doubt = replication.doubt();
    let may = match &doubt {
        Some(_) => Err(NotElected::Behind(
            "its log was damaged, and it has not caught up since",
        )),
        None => voting.may_campaign(known, false),
    };
    let tried = match may {
        Ok(()) => promote::promote(replication, Call::Elected).await.map(drop),
        Err(why) => Err(why.into()),
    };
    if let Err(error) = tried {
        voting.note_problem(&error.message);
    }
}

impl Voting {
    /// Completes when the lease is over, unless it is extended meanwhile.
    async fn lease_over(&self) {
        const FAR: u64 = 24 * 3600 * 1000;
        let until = self.lease_until_ms.load(Ordering::Acquire);
        let left = until.saturating_sub(self.now_ms()).min(FAR);
        sleep(Duration::from_millis(left)).await;
    }

    /// The highest ballot that somebody who wants to follow has promised.
    fn seen(&self) -> Ballot {
        self.state.lock().seen
    }

    /// Whether no primary was heard for too long.
    fn is_primary_gone(&self) -> bool {
        self.state.lock().heard_primary.elapsed() >= self.timeout
    }

    /// Whether it is time to go to that address: an attempt to follow there is given its time.
    fn may_redirect(&self, address: &str) -> bool {
        let mut state = self.state.lock();
        let is_under_way = state.redirected.as_ref().is_some_and(|(to, at)| {
            to == address && at.elapsed() < self.timeout.max(REDIRECT_PATIENCE)
        });
        if address.is_empty() || is_under_way {
            return false;
        }
        state.redirected = Some((address.to_owned(), Instant::now()));
        true
    }

    /// Why the node does not lead; said when it changes.
    pub(super) fn note_problem(&self, why: &str) {
        let mut state = self.state.lock();
        if state.problem.as_deref() != Some(why) {
            tracing::warn!(problem = why, "this node does not lead");
            state.problem = Some(why.to_owned());
        }
    }

    /// What a node whose log is of epoch `current`, and that has neither been elected nor promised
    /// anything since, asks of a blank witness.
    fn first_words(&self, current: u32) -> Option<Ask> {
        let state = self.state.lock();
        let durable = state.voter.durable();
        let has_voted = durable.voted_for.is_some() || durable.promised != Ballot(current);
        (!has_voted).then(|| Ask::Enrol {
            ballot: durable.promised,
            in_sync: Members::of([self.own]),
        })
    }

    /// What a primary wants the witness to write down, now that `streaming` follow it and its log ends at
    /// `end`.
    fn wish(&self, streaming: &[String], end: Lsn) -> Option<Message> {
        let mut state = self.state.lock();
        let _ = state.voter.flushed(end);
        let Role::Primary(primary) = *state.voter.role() else {
            return None;
        };
        let streaming: Vec<NodeId> = streaming
            .iter()
            .filter_map(|name| self.node_called(name))
            .collect();
        let now = Instant::now();
        let lost = self.others_in(primary.required()).filter(|node| {
            let follower = state.followers[usize::from(node.0)];
            let is_over = |since| now.saturating_duration_since(since) >= self.timeout;
            let is_behind = primary.flushed(*node) < end;
            is_over(follower.heard) || is_behind && is_over(follower.advanced)
        });
        let lost: Vec<NodeId> = lost.collect();
        for node in &lost {
            tracing::debug!(node = self.name_of(*node), "lost");
        }
        if !lost.is_empty() {
            // Both are said by `remind`, as often as it takes.
            let _ = state.voter.go_on_without(Members::of(lost));
        }
        for node in streaming {
            if node != self.own && !primary.required().contains(node) {
                let _ = state.voter.rejoin(node);
            }
        }
        let outputs = state.voter.remind();
        self.settle(&state);
        outputs.into_iter().find_map(|output| match output {
            Output::Send { message, .. } => Some(message),
            _ => None,
        })
    }

    /// The witness has answered a primary.
    fn hear(&self, message: Message) {
        let mut state = self.state.lock();
        let before = in_sync_of(&state.voter);
        let witness = self.witness_id();
        let heard = self.perform(&mut state, |voter| {
            voter.receive(witness, message, Position::default())
        });
        if let Err(error) = heard {
            tracing::error!(%error, "a promise could not be written down");
        }
        let after = in_sync_of(&state.voter);
        if after != before {
            let names: Vec<&str> = self.names_of(after).collect();
            tracing::warn!(in_sync = names.join(", "), "commits wait for these");
        }
    }

    /// The names of a set.
    pub(super) fn names_of(&self, members: Members) -> impl Iterator<Item = &str> {
        let names = self.nodes.iter().zip(0_u8..);
        names
            .filter(move |(_, place)| members.contains(NodeId(*place)))
            .map(|(name, _)| name.as_str())
    }
}

fn in_sync_of(voter: &springhead_log::vote::Voter) -> Members {
    match voter.role() {
        Role::Primary(primary) => primary.required(),
        _ => Members::default(),
    }
}
