//! How the node's role changes by votes: it is elected, it gives up, it has itself elected anew.

use std::sync::Arc;
use std::time::Duration;

use springhead_log::LogError;
use springhead_log::vote::{Ballot, Members, Message, Output, Position, Role};
use springhead_proto::{ErrorCode, SqlError};
use tokio::time::Instant;

use super::Voting;
use super::link::{Answer, LinkError};
use super::messages::{Ask, Known};
use crate::standby::Replication;
use crate::standby::promote::{self, Call};

/// The longest and the shortest that an answer of the witness is waited for; between them, a third of
/// what a primary may be unheard.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(2));

/// Why a node is not elected.
#[derive(Debug, thiserror::Error)]
pub enum NotElected {
    #[error("the witness does not answer: {0}")]
    Unreachable(#[from] LinkError),
    #[error("the witness serves no cluster yet, or has forgotten this one")]
    Blank,
    #[error("{name} leads, and was heard less than {timeout:?} ago")]
    Led { name: String, timeout: Duration },
    #[error("this node may lack commits that were acknowledged: {0}")]
    Behind(&'static str),
    #[error("the witness has promised epoch {0} to another node")]
    Refused(u32),
    #[error("the promise could not be written down: {0}")]
    Disk(#[from] LogError),
}

impl From<NotElected> for SqlError {
    fn from(why: NotElected) -> SqlError {
        let error = SqlError::new(
            ErrorCode::ObjectNotInState,
            format!("this node was not elected: {why}"),
        );
        match why {
            NotElected::Led { .. } => error.with_hint(
                "to change places with a primary that runs: springhead standby switchover",
            ),
            NotElected::Unreachable(_) | NotElected::Blank => error.with_hint(
                "start the witness; if it is lost for good, start this node without `witness` and promote it then, once you are sure that no other node leads",
            ),
            _ => error,
        }
    }
}

impl Voting {
    /// Asks the witness. Notes what it says.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn ask(&self, replication: &Replication, ask: Ask) -> Result<Answer, LinkError> {
        let limit = (self.timeout / 3).clamp(PATIENCE.0, PATIENCE.1);
        let answer = self
            .witness
            .ask(|| replication.identity(), ask, limit)
            .await;
        self.note(&answer);
        answer
    }

    /// Whether the node may try to be elected, by what the witness has just said. `handed_over`: its
    /// primary has said that this node has everything, and leads no more.
    ///
    /// # Errors
    /// Why not.
    pub fn may_campaign(&self, known: &Known, handed_over: bool) -> Result<(), NotElected> {
        if !known.is_enrolled {
            return Err(NotElected::Blank);
        }
        let led = |name: &str| NotElected::Led {
            name: name.to_owned(),
            timeout: self.timeout,
        };
        let leader = known
            .leader
            .as_ref()
            .filter(|leader| leader.node != self.own);
        if let Some(leader) = leader {
            return Err(led(self.name_of(leader.node)));
        }
        if !known.in_sync.contains(self.own) {
            return Err(NotElected::Behind(
                "the witness does not hold it to be in sync",
            ));
        }
        let state = self.state.lock();
        if !state.voter.durable().may_lead {
            return Err(NotElected::Behind(
                "its log is being made anew, or came from elsewhere",
            ));
        }
        let has_heard = state.followed > Ballot(0) && state.heard_primary.elapsed() < self.timeout;
        if has_heard && !handed_over {
            return Err(led("the primary"));
        }
        Ok(())
    }

    /// Tries to be elected; `position` is the end of the log, to which nothing is added meanwhile.
    ///
    /// # Errors
    /// [`NotElected`]: the node is what it was, and may have promised a higher ballot.
    pub async fn elect(
        &self,
        replication: &Replication,
        position: Position,
        handed_over: bool,
    ) -> Result<Ballot, NotElected> {
        let known = self.ask(replication, Ask::Look).await?.said.known;
        self.may_campaign(&known, handed_over)?;
        let request = self.campaign(position)?;
        let answer = self.ask(replication, Ask::Vote(request)).await?;
        let elected = self.count_vote(&answer, position)?;
        let lost = known
            .voted_for
            .filter(|node| *node != self.own && !handed_over);
        self.begin_waiting(lost.map(|node| usize::from(node.0)));
        self.lead(replication, elected).await;
        Ok(elected)
    }

    fn campaign(&self, position: Position) -> Result<Message, NotElected> {
        let mut state = self.state.lock();
        state.campaigns += 1;
        let witness = self.witness_id();
        let outputs = self.perform(&mut state, |voter| voter.campaign(position))?;
        // The other data nodes are not asked: with its own vote the witness's is enough, and without it
        // none is.
        let request = outputs.into_iter().find_map(|output| match output {
            Output::Send { to, message } if to == witness => Some(message),
            _ => None,
        });
        request.ok_or(NotElected::Behind("it does not campaign"))
    }

    fn count_vote(&self, answer: &Answer, position: Position) -> Result<Ballot, NotElected> {
        let refused = NotElected::Refused(answer.known().promised.0);
        let Some(message) = answer.said.message else {
            return Err(refused);
        };
        let mut state = self.state.lock();
        let witness = self.witness_id();
        let outputs = self.perform(&mut state, |voter| {
            voter.receive(witness, message, position)
        })?;
        let elected = outputs.into_iter().find_map(|output| match output {
            Output::BecomePrimary { ballot } => Some(ballot),
            _ => None,
        });
        if elected.is_some() {
            state.elected += 1;
            state.voter.elected_with(answer.known().in_sync);
            self.settle(&state);
        }
        elected.ok_or(refused)
    }

    /// From now on the others are waited for, but `lost`, which has been for long enough.
    fn begin_waiting(&self, lost: Option<usize>) {
        let mut state = self.state.lock();
        let now = Instant::now();
        for (place, follower) in state.followers.iter_mut().enumerate() {
            let is_lost = lost == Some(place);
            follower.heard = now
                .checked_sub(self.timeout)
                .filter(|_| is_lost)
                .unwrap_or(now);
            follower.advanced = now;
            follower.lease_until_ms = 0;
        }
        state.witness.lease_until_ms = 0;
        state.problem = None;
    }

    /// Tells the witness that this node leads. What it says.
    pub(super) async fn lead(&self, replication: &Replication, ballot: Ballot) -> Option<Answer> {
        let lease_ms = u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX);
        let answer = self.ask(replication, Ask::Lead { ballot, lease_ms }).await;
        let answer = answer.ok()?;
        let holds = answer.known().leader.as_ref();
        if holds.is_some_and(|leader| leader.node == self.own) && answer.known().promised == ballot
        {
            self.extend_lease(answer.sent);
        }
        Some(answer)
    }

    /// What a witness that has forgotten everything is to know. `None` if the node does not lead and is
    /// not `forced`, or may lack something.
    fn words_again(&self, forced: bool) -> Option<Ask> {
        let state = self.state.lock();
        let durable = state.voter.durable();
        let in_sync = match state.voter.role() {
            Role::Primary(primary) => primary.required(),
            _ if forced && durable.may_lead => Members::of([self.own]),
            _ => return None,
        };
        let ballot = durable.promised;
        Some(Ask::Enrol { ballot, in_sync })
    }

    /// Nothing lower than `promised` is led with or followed any more.
    fn promise(&self, promised: Ballot) -> Result<(), LogError> {
        let mut state = self.state.lock();
        let witness = self.witness_id();
        let told = Message::Vote {
            ballot: Ballot(0),
            granted: false,
            promised,
        };
        self.perform(&mut state, |voter| {
            voter.receive(witness, told, Position::default())
        })
        .map(drop)
    }
}

/// The primary gives up: from here on it acknowledges nothing and takes no writes.
pub async fn step_down(replication: &Arc<Replication>, voting: &Voting, why: &str) {
    let _changing = replication.changing.lock().await;
    if voting.leads() == 0 {
        return;
    }
    tracing::error!(
        epoch = voting.leads(),
        why,
        "this node takes no writes and acknowledges nothing any more"
    );
    voting.note_problem(why);
    relinquish(replication, voting).await;
}

/// Acknowledgements end first, then writes. `changing` is held.
pub async fn relinquish(replication: &Arc<Replication>, voting: &Voting) {
    voting.resign();
    replication.synchrony.retire();
    let engine = replication.engine.clone();
    let retired = tokio::task::spawn_blocking(move || engine.retire(None)).await;
    if let Err(error) = retired {
        replication
            .engine
            .poison(format!("giving up the lead panicked: {error}"));
    }
}

/// Has a blank witness serve this cluster, where the one that it had is lost: the word of a person stands
/// in for what that one had promised. Where this node does not lead, by `force` only: nobody else may.
///
/// # Errors
/// 55000 if the node does not lead (but by force), the witness is not blank, or does not answer.
pub async fn enrol_again(
    replication: &Replication,
    voting: &Voting,
    force: bool,
) -> Result<(), SqlError> {
    let state_error = |what: String| SqlError::new(ErrorCode::ObjectNotInState, what);
    let Some(ask) = voting.words_again(force && !replication.is_following()) else {
        return Err(state_error("this node does not lead".to_owned()).with_hint(
            "ask the primary; if there is none, ask by force (--force) the node that led last, and only that one",
        ));
    };
    let look = voting.ask(replication, Ask::Look).await;
    let known = look.map_err(NotElected::Unreachable)?.said.known;
    if known.is_enrolled {
        return Err(state_error(
            "the witness serves this cluster already".to_owned(),
        ));
    }
    let answer = voting.ask(replication, ask).await;
    let answer = answer.map_err(NotElected::Unreachable)?;
    if !answer.known().in_sync.contains(voting.own) {
        return Err(state_error(
            "the witness has been told otherwise by another node".to_owned(),
        ));
    }
    tracing::warn!(
        witness = voting.witness.address(),
        "a blank witness serves this cluster"
    );
    Ok(())
}

/// The primary has itself elected anew with a ballot above `seen`, so that whoever has promised that can
/// follow it again.
pub async fn renew(replication: &Arc<Replication>, voting: &Voting, seen: Ballot) {
    let _changing = replication.changing.lock().await;
    if voting.leads() == 0 {
        return;
    }
    tracing::warn!(
        promised = seen.0,
        "a standby has promised a newer epoch: this primary begins one newer still"
    );
    relinquish(replication, voting).await;
    let renewed = match voting.promise(seen) {
        Ok(()) => Box::pin(promote::promote_locked(replication, Call::Elected)).await,
        Err(error) => Err(NotElected::Disk(error).into()),
    };
    if let Err(error) = renewed {
        tracing::warn!(%error, "not elected anew; it is tried again");
    }
}
