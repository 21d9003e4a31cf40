//! Changes of role while the node serves: a standby becomes the primary (by command, over HTTP, or
//! handed over to), a primary hands over to a standby.
//!
//! Automatic promotion comes in here too: whoever has won a vote calls [`promote`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use springhead_engine::EngineError;
use springhead_log::{EpochRecord, failpoint};
use springhead_proto::{ErrorCode, Lsn, SqlError};

use super::files::StoredRole;
use super::handshake::Own;
use super::slots::State;
use super::{Replication, Restart, Upstream, peers};

/// How long a standby may take to have the last of a primary that hands over.
const CATCH_UP: Duration = Duration::from_secs(10);
/// How long the new primary may take to say that it is one.
const TAKE_OVER: Duration = Duration::from_secs(10);

/// Makes this standby the primary of a new epoch. Everything that it has of the log counts, announced
/// or not, since its clients may have been told of it.
///
/// # Errors
/// 55000 if it is the primary, or may lack what it has acknowledged and `force` is not given; 58-like if the disk does not take the new epoch: it is then still a
/// standby.
pub async fn promote(replication: &Arc<Replication>, force: bool) -> Result<EpochRecord, SqlError> {
    let replication = Arc::clone(replication);
    // To its end, also when whoever asked goes away.
    let promoting = tokio::spawn(async move { promote_to_the_end(&replication, force).await });
    promoting
        .await
        .unwrap_or_else(|error| Err(SqlError::new(ErrorCode::Internal, error.to_string())))
}

async fn promote_to_the_end(
    replication: &Arc<Replication>,
    force: bool,
) -> Result<EpochRecord, SqlError> {
    let _changing = replication.changing.lock().await;
    if replication.is_primary() {
        return Err(SqlError::new(
            ErrorCode::ObjectNotInState,
            "this node is the primary already",
        ));
    }
    if let Some(doubt) = replication.doubt() {
        if !force {
            return Err(in_doubt(&doubt));
        }
        tracing::error!(%doubt, "promoted by force: commits that it has acknowledged may be lost");
    }
    let begun = Instant::now();
    let upstream = replication.upstream.borrow().primary.clone();
    let running = replication.following.lock().take();
    if let Some(running) = running {
        // From here on nothing of the old primary is written or acknowledged.
        running.stop().await;
    }
    failpoint::hit("standby.promote_stopped");
    let on = Arc::clone(replication);
    let promoted = tokio::task::spawn_blocking(move || lead(&on)).await;
    let record = match promoted {
        Ok(Ok(record)) => record,
        Ok(Err(error)) => {
            replication.restart(Restart::Follow { primary: upstream });
            return Err(error);
        }
        Err(error) => {
            replication
                .engine
                .poison("the promotion panicked".to_owned());
            return Err(SqlError::new(ErrorCode::Internal, error.to_string()));
        }
    };
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
    // Whoever still follows the old primary hears of the new one.
    let around = Arc::clone(replication);
    tokio::spawn(async move { peers::look_around(&around).await });
    Ok(record)
}

fn in_doubt(doubt: &str) -> SqlError {
    state_error(format!(
        "this standby may lack commits that it has acknowledged, and has not caught up with a primary since: {doubt}"
    ))
    .with_hint(
        "let it catch up with the primary, or promote another standby; if both are lost for good, promote it by force (springhead promote --force) and lose what it lacks",
    )
}

fn lead(replication: &Replication) -> Result<EpochRecord, SqlError> {
    let engine = &replication.engine;
    let log = engine.log();
    let record = log.begin_epoch().map_err(|error| {
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
        let mut follower = engine.follower()?;
        follower.step()?;
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
        let deadline = Instant::now() + CATCH_UP;
        // Frames came before the word; the writer may have some left.
        while replication.raw().identity().written.lsn < end {
            if Instant::now() > deadline {
                tracing::error!(end = end.0, "the handover ends before all of it is here");
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // It has everything of the primary, which has just said so.
        if let Err(error) = promote(&replication, true).await {
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
    let engine = replication.engine.clone();
    let begun = Instant::now();
    let primary = Some(Arc::from(address.as_str()));
    blocking(move || engine.retire(primary)).await?;
    let end = replication.engine.log().tail().durable;
    let has_all = || {
        let standby = replication.slots.get(&name);
        standby.is_some_and(|standby| standby.progress.flushed >= end)
    };
    while !has_all() {
        if begun.elapsed() > CATCH_UP || !is_streaming(replication, &name) {
            let engine = replication.engine.clone();
            blocking(move || engine.lead())
                .await?
                .map_err(SqlError::from)?;
            return Err(state_error(format!(
                "standby {name} did not get everything in time; this node goes on as the primary"
            )));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let number = replication.promised();
    replication
        .store_role(StoredRole::Standby, Some(address.clone()), number)
        .map_err(|error| {
            replication.restart(Restart::Follow {
                primary: address.clone(),
            });
            SqlError::new(ErrorCode::Internal, error.to_string())
        })?;
    // From here on there is no way back: the standby may hear of it whatever is heard from it.
    replication
        .hand_over
        .send_replace(Some((name.clone(), end)));
    let taken = wait_for_new_primary(replication, &address, number).await;
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

async fn wait_for_new_primary(replication: &Arc<Replication>, address: &str, number: u32) -> bool {
    let own = Own {
        identity: replication.identity(),
        token: replication.options.token.clone(),
        timeout: Duration::from_secs(2),
    };
    let deadline = Instant::now() + TAKE_OVER;
    while Instant::now() < deadline {
        let found = peers::probe(address, &replication.options.trust, &own).await;
        if found.is_ok_and(|found| found.is_primary && found.epoch_number() > number) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SqlError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| SqlError::new(ErrorCode::Internal, error.to_string()))
}
