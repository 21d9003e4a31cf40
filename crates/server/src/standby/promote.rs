//! Changes of role while the node serves: a standby becomes the primary (by command, over HTTP, or
//! handed over to), a primary hands over to a standby.
//!
//! Where nodes vote ([`crate::vote`]), whoever is to lead is elected on the way, whatever it was that
//! called for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use springhead_engine::EngineError;
use springhead_log::vote::{Ballot, Position};
use springhead_log::{EpochRecord, failpoint};
use springhead_proto::{ErrorCode, Lsn, SqlError};
use tokio::sync::watch;
use tokio::time::timeout;

use super::files::StoredRole;
use super::handshake::Own;
use super::slots::State;
use super::wire::Identity;
use super::{Replication, Restart, Upstream, peers, receiver};
use crate::vote::Voting;
use crate::vote::elect::NotElected;
use crate::vote::messages::Ask;

/// How long a standby may take to have the last of a primary that hands over.
const CATCH_UP: Duration = Duration::from_secs(10);
/// How long the new primary may take to say that it is one.
const TAKE_OVER: Duration = Duration::from_secs(10);
/// Whoever takes over says so by itself; it is asked this often all the same.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// What calls for a promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// A person. By force also where the node may lack what it has acknowledged.
    Command { force: bool },
    /// Its primary, which has said that this node has everything.
    HandedOver,
    /// Nobody: its primary is gone, or it may lead as it did before.
    Elected,
}

/// Makes this standby the primary of a new epoch. Everything that it has of the log counts, announced
/// or not, since its clients may have been told of it.
///
/// # Errors
/// 55000 if it is the primary, may lack what it has acknowledged (but by force), or is not elected where
/// nodes vote; 58-like if the disk does not take the new epoch: it is then still a standby.
pub async fn promote(replication: &Arc<Replication>, call: Call) -> Result<EpochRecord, SqlError> {
    let replication = Arc::clone(replication);
    // To its end, also when whoever asked goes away.
    let promoting = tokio::spawn(async move {
        let _changing = replication.changing.lock().await;
        promote_locked(&replication, call).await
    });
    promoting
        .await
        .unwrap_or_else(|error| Err(SqlError::new(ErrorCode::Internal, error.to_string())))
}

/// [`promote`] for whoever holds `changing`.
///
/// # Errors
/// As [`promote`].
pub async fn promote_locked(
    replication: &Arc<Replication>,
    call: Call,
) -> Result<EpochRecord, SqlError> {
    if replication.is_primary() {
        return Err(SqlError::new(
            ErrorCode::ObjectNotInState,
            "this node is the primary already",
        ));
    }
    if let Some(doubt) = replication.doubt() {
        if matches!(call, Call::Elected | Call::Command { force: false }) {
            return Err(in_doubt(&doubt));
        }
        tracing::error!(%doubt, "promoted by force: commits that it has acknowledged may be lost");
    }
    if let Some(voting) = &replication.voting {
        // Before anything is given up for it.
        let known = voting.ask(replication, Ask::Look).await;
        let known = known.map_err(NotElected::Unreachable)?.said.known;
        voting.may_campaign(&known, call == Call::HandedOver)?;
    }
    let begun = Instant::now();
    let upstream = replication.upstream.borrow().primary.clone();
    let running = replication.following.lock().take();
    let was_following = running.is_some();
    if let Some(running) = running {
        // From here on nothing of the old primary is written or acknowledged.
        running.stop().await;
    }
    failpoint::hit("standby.promote_stopped");
    let number = match elect(replication, call).await {
        Ok(number) => number,
        Err(error) => {
            if was_following {
                follow_again(replication, upstream);
            }
            return Err(error);
        }
    };
    let followed = upstream.clone();
    let record = lead_from(replication, number, upstream).await?;
    replication.upstream.send_replace(Upstream::default());
    *replication.promoted.lock() = Some(format!(
        "epoch {} from LSN {}",
        record.epoch, record.fork_lsn
    ));
    tracing::warn!(
        epoch = %record.epoch,
        number = record.number,
        fork_lsn = record.fork_lsn.0,
        took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        "this node is the primary now"
    );
    // Whoever still follows the old primary hears of the new one, and so does that itself.
    let around = Arc::clone(replication);
    tokio::spawn(async move { peers::make_known(&around, followed).await });
    Ok(record)
}

/// The number of the epoch that the node is elected for; 0, which is the next, where nobody votes.
async fn elect(replication: &Arc<Replication>, call: Call) -> Result<u32, SqlError> {
    let Some(voting) = &replication.voting else {
        return Ok(0);
    };
    let log = replication.raw().identity();
    let position = Position {
        ballot: Ballot(log.epochs.last().map_or(0, |record| record.number)),
        lsn: log.written.lsn,
    };
    let handed_over = call == Call::HandedOver;
    let elected = voting.elect(replication, position, handed_over).await?;
    failpoint::hit("vote.elected");
    Ok(elected.0)
}

/// What was followed is followed on.
fn follow_again(replication: &Arc<Replication>, upstream: String) {
    match receiver::start(replication, upstream.clone()) {
        Ok(running) => *replication.following.lock() = Some(running),
        Err(error) => {
            tracing::error!(%error, "cannot follow on; opening again");
            replication.restart(Restart::Follow { primary: upstream });
        }
    }
}

/// Begins the epoch and takes writes; follows `upstream` again if that fails.
async fn lead_from(
    replication: &Arc<Replication>,
    number: u32,
    upstream: String,
) -> Result<EpochRecord, SqlError> {
    let on = Arc::clone(replication);
    let promoted = tokio::task::spawn_blocking(move || lead(&on, number)).await;
    if !matches!(promoted, Ok(Ok(_)))
        && let Some(voting) = &replication.voting
    {
        voting.resign();
    }
    match promoted {
        Ok(Ok(record)) => Ok(record),
        Ok(Err(error)) => {
            replication.restart(Restart::Follow { primary: upstream });
            Err(error)
        }
        Err(error) => {
            replication
                .engine
                .poison("the promotion panicked".to_owned());
            Err(SqlError::new(ErrorCode::Internal, error.to_string()))
        }
    }
}

fn in_doubt(doubt: &str) -> SqlError {
    state_error(format!(
        "this standby may lack commits that it has acknowledged, and has not caught up with a primary since: {doubt}"
    ))
    .with_hint(
        "let it catch up with the primary, or promote another standby; if both are lost for good, promote it by force (springhead promote --force) and lose what it lacks",
    )
}

fn lead(replication: &Replication, number: u32) -> Result<EpochRecord, SqlError> {
    let engine = &replication.engine;
    let log = engine.log();
    let begun = replication.raw().begin_epoch_numbered(number);
    let record = begun.map_err(|error| {
        SqlError::new(
            ErrorCode::Internal,
            format!("a new epoch could not be begun: {error}"),
        )
    })?;
    failpoint::hit("standby.promote_epoch");
    let store = |what: std::io::Error| {
        SqlError::new(
            ErrorCode::Internal,
            format!("the new role could not be written down: {what}"),
        )
    };
    replication
        .store_role(StoredRole::Primary, None, record.number)
        .map_err(store)?;
    failpoint::hit("standby.promote_stored");
    let apply = || -> Result<(), EngineError> {
        if engine.horizon().applied() < Lsn::MAX {
            // It followed: its states may be behind its log.
            engine.follower()?.step()?;
        }
        replication.synchrony.begin(log.tail().durable);
        engine.lead()
    };
    apply().map_err(SqlError::from)?;
    Ok(record)
}

/// The primary hands over: everything up to `end` is here, or on its way.
pub fn take_over(replication: &Arc<Replication>, end: Lsn) {
    let replication = Arc::clone(replication);
    tokio::spawn(async move {
        // Frames came before the word; the writer may have some left.
        let mut moved = replication.watch_log();
        let all_written = async {
            while replication.raw().identity().written.lsn < end {
                if moved.changed().await.is_err() {
                    return;
                }
            }
        };
        if timeout(CATCH_UP, all_written).await.is_err() {
            tracing::error!(end = end.0, "the handover ends before all of it is here");
            return;
        }
        // It has everything of the primary, which has just said so.
        if let Err(error) = promote(&replication, Call::HandedOver).await {
            tracing::error!(%error, "the primary handed over, and this node could not take over");
        }
    });
}

/// Hands over to the standby of that name, or to the one that streams if there is but one.
///
/// # Errors
/// 55000 if this is no primary, there is no such standby, or it does not catch up in time: this node
/// is then still the primary. 08007 if the standby does not say that it has taken over.
pub async fn switch_over(
    replication: &Arc<Replication>,
    to: Option<String>,
) -> Result<String, SqlError> {
    let replication = Arc::clone(replication);
    let switching = tokio::spawn(async move { switch_to_the_end(&replication, to).await });
    switching
        .await
        .unwrap_or_else(|error| Err(SqlError::new(ErrorCode::Internal, error.to_string())))
}

fn state_error(what: impl Into<String>) -> SqlError {
    SqlError::new(ErrorCode::ObjectNotInState, what)
}

async fn switch_to_the_end(
    replication: &Arc<Replication>,
    to: Option<String>,
) -> Result<String, SqlError> {
    let _changing = replication.changing.lock().await;
    if !replication.is_primary() {
        return Err(state_error(format!(
            "this node is a standby; ask the primary at {}",
            replication.primary_address().unwrap_or_default()
        )));
    }
    let (name, address) = choose(replication, to)?;
    if let Some(voting) = &replication.voting {
        can_hand_over(replication, voting, &name).await?;
    }
    let engine = replication.engine.clone();
    let begun = Instant::now();
    let primary = Some(Arc::from(address.as_str()));
    blocking(move || engine.retire(primary)).await?;
    let end = replication.engine.log().tail().durable;
    if !has_all(replication, &name, end).await {
        let engine = replication.engine.clone();
        blocking(move || engine.lead())
            .await?
            .map_err(SqlError::from)?;
        return Err(state_error(format!(
            "standby {name} did not get everything in time; this node goes on as the primary"
        )));
    }
    let number = replication.promised();
    if let Some(voting) = &replication.voting {
        release(replication, voting).await?;
    }
    replication
        .store_role(StoredRole::Standby, Some(address.clone()), number)
        .map_err(|error| {
            replication.restart(Restart::Follow {
                primary: address.clone(),
            });
            SqlError::new(ErrorCode::Internal, error.to_string())
        })?;
    // From here on there is no way back: the standby may hear of it whatever is heard from it.
    let successor = replication.successor.subscribe();
    replication
        .hand_over
        .send_replace(Some((name.clone(), end)));
    let taken = wait_for_new_primary(replication, &address, number, successor).await;
    replication.synchrony.retire();
    tracing::warn!(
        to = %name,
        end = end.0,
        took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        "handed over"
    );
    replication.restart(Restart::Follow {
        primary: address.clone(),
    });
    if taken {
        Ok(address)
    } else {
        Err(SqlError::new(
            ErrorCode::OutcomeUnknown,
            format!("standby {name} was handed over to and has not said that it is the primary"),
        )
        .with_hint("look at its status; promote it if it is still a standby"))
    }
}

/// Whether a standby would be elected if this node were gone.
async fn can_hand_over(
    replication: &Replication,
    voting: &Voting,
    to: &str,
) -> Result<(), SqlError> {
    let answer = voting.ask(replication, Ask::Look).await.map_err(|error| {
        state_error(format!(
            "nobody could be elected, since the witness does not answer: {error}"
        ))
    })?;
    if voting.is_held_in_sync(to, answer.known()) {
        return Ok(());
    }
    Err(state_error(format!(
        "standby {to} could not be elected: the witness does not hold it to be in sync"
    )))
}

/// The witness elects another from now on; this node leads no more, whatever comes of it.
async fn release(replication: &Replication, voting: &Voting) -> Result<(), SqlError> {
    let ballot = Ballot(voting.leads());
    voting.resign();
    let released = voting.ask(replication, Ask::Release { ballot }).await;
    released.map(drop).map_err(|error| {
        state_error(format!(
            "the witness does not answer: {error}; this node leads again once it does"
        ))
    })
}

fn choose(replication: &Replication, to: Option<String>) -> Result<(String, String), SqlError> {
    let streaming: Vec<_> = replication
        .slots
        .list()
        .into_iter()
        .filter(|standby| matches!(standby.state, State::Streaming | State::Catchup))
        .collect();
    let chosen = match &to {
        Some(name) => streaming.iter().find(|standby| standby.name == *name),
        None if streaming.len() > 1 => {
            return Err(state_error(
                "there are several standbys: say which one takes over",
            ));
        }
        None => streaming.first(),
    };
    chosen
        .map(|standby| (standby.name.clone(), standby.address.clone()))
        .ok_or_else(|| match to {
            Some(name) => state_error(format!("no standby called {name} is streaming")),
            None => state_error("no standby is streaming"),
        })
}

fn is_streaming(replication: &Replication, name: &str) -> bool {
    replication
        .slots
        .streaming(replication.options.timeout)
        .iter()
        .any(|(known, _)| known == name)
}

/// Whether a standby has flushed everything up to `end` before it goes, or its time is over.
async fn has_all(replication: &Replication, name: &str, end: Lsn) -> bool {
    let mut moved = replication.slots.watch();
    let looking = async {
        loop {
            let standby = replication.slots.get(name);
            if standby.is_some_and(|standby| standby.progress.flushed >= end) {
                return true;
            }
            if !is_streaming(replication, name) || moved.changed().await.is_err() {
                return false;
            }
        }
    };
    timeout(CATCH_UP, looking).await.unwrap_or(false)
}

/// Whether the node at `address` becomes the primary of an epoch past `number`: it makes itself known, and
/// is asked now and then for the case that its word is lost.
async fn wait_for_new_primary(
    replication: &Arc<Replication>,
    address: &str,
    number: u32,
    mut successor: watch::Receiver<Option<Identity>>,
) -> bool {
    let own = Own {
        identity: replication.identity(),
        token: replication.options.token.clone(),
        timeout: Duration::from_secs(2),
    };
    let is_it = |found: &Identity| found.is_primary && found.epoch_number() > number;
    let asking = async {
        loop {
            tokio::time::sleep(ASK_AGAIN).await;
            let found = peers::probe(address, &replication.options.trust, &own).await;
            if found.as_ref().is_ok_and(is_it) {
                return;
            }
        }
    };
    let told = async {
        let is_told = |found: &Option<Identity>| {
            let found = found.as_ref().filter(|found| found.address == address);
            found.is_some_and(is_it)
        };
        if successor.wait_for(is_told).await.is_err() {
            std::future::pending().await
        }
    };
    let becomes = async {
        tokio::select! {
            () = asking => {}
            () = told => {}
        }
    };
    timeout(TAKE_OVER, becomes).await.is_ok()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SqlError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| SqlError::new(ErrorCode::Internal, error.to_string()))
}
