//! One connection of a standby, on the side that has the log: verdict, then frames as soon as they
//! are written (the local flush runs meanwhile), announcements of what is durable, and the standby's
//! acknowledgements.

use std::sync::Arc;

use springhead_log::{LogError, RawItem, RawLimit, TailPosition};
use springhead_proto::{Epoch, Lsn};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};

use super::channel::{ChannelError, Incoming, Outgoing};
use super::handshake::{Accepted, HandshakeError, Own, accept};
use super::slots::{State, TooMany};
use super::wire::{Identity, Purpose, ToPrimary, ToStandby, Verdict, Wanted};
use super::{Replication, base, verdict};

/// Log that is read and sent in one go.
const SEND_BYTES: u64 = 1 << 20;

/// Why a standby is served no longer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    TooMany(#[from] TooMany),
    #[error("a base backup: {0}")]
    Base(#[from] base::BaseError),
    #[error("another connection of the same name has taken its place")]
    TakenOver,
}

/// Serves a node that has asked for an upgrade, until it leaves.
pub async fn serve(
    replication: Arc<Replication>,
    socket: impl AsyncRead + AsyncWrite + Send + 'static,
) {
    let own = Own {
        identity: replication.identity(),
        token: replication.options.token.clone(),
        timeout: replication.options.timeout,
    };
    let mut name = "?".to_owned();
    let served = async {
        let accepted = accept(socket, &own).await?;
        name.clone_from(&accepted.identity.name);
        Box::pin(answer(&replication, accepted)).await
    };
    if let Err(error) = served.await {
        tracing::info!(standby = name, %error, "a standby's connection is over");
    }
}

async fn answer(replication: &Arc<Replication>, mut accepted: Accepted) -> Result<(), SendError> {
    // It has proven itself: if it is the primary of a newer epoch, this node is none.
    replication.superseded(&accepted.identity);
    if let Some(voting) = &replication.voting {
        voting.saw(&accepted.identity.name, accepted.identity.promised);
    }
    match accepted.purpose {
        Purpose::Vote => {
            let why = "this node has data, and is no witness".to_owned();
            let refused = ToStandby::Verdict(Verdict::Refused { why });
            accepted.out.send(&refused).await?;
            Ok(())
        }
        Purpose::Probe => {
            let verdict = if replication.is_primary() {
                Verdict::Stream
            } else {
                Verdict::NotPrimary {
                    primary: replication.primary_address().unwrap_or_default(),
                }
            };
            accepted.out.send(&ToStandby::Verdict(verdict)).await?;
            Ok(())
        }
        Purpose::BaseBackup => {
            let identity = accepted.identity.clone();
            let Accepted { out, incoming, .. } = accepted;
            Box::pin(base::send(replication, &identity, out, incoming)).await?;
            Ok(())
        }
        Purpose::Stream => {
            let verdict = tokio::task::block_in_place(|| {
                let log = replication.raw();
                verdict::decide(log, &log.identity(), &accepted.identity, &accepted.ends)
            })?;
            accepted
                .out
                .send(&ToStandby::Verdict(verdict.clone()))
                .await?;
            if let Verdict::Stream = verdict {
                Box::pin(stream(replication, accepted)).await
            } else {
                tracing::info!(
                    standby = %accepted.identity.name,
                    ?verdict,
                    "a standby cannot stream from where its log ends"
                );
                Ok(())
            }
        }
    }
}

async fn stream(replication: &Arc<Replication>, accepted: Accepted) -> Result<(), SendError> {
    let Accepted {
        identity,
        out,
        incoming,
        ..
    } = accepted;
    let connection = replication.slots.connect(
        &identity.name,
        &identity.address,
        State::Catchup,
        identity.durable,
    )?;
    // It has its base backup, or needs none.
    drop(replication.giving.take(&identity.name));
    tracing::info!(standby = %identity.name, address = %identity.address, from = identity.written.lsn.0, "a standby streams");
    let ended = tokio::select! {
        ended = send_log(replication, &identity, connection, out) => ended,
        ended = take_acknowledgements(replication, &identity.name, connection, incoming) => ended,
    };
    replication.slots.disconnect(&identity.name, connection);
    ended
}

async fn send_log(
    replication: &Arc<Replication>,
    standby: &Identity,
    connection: u64,
    mut out: Outgoing<ToStandby>,
) -> Result<(), SendError> {
    let name = &standby.name;
    let mut moved = replication.watch_log();
    let mut hand_over = replication.hand_over.subscribe();
    let mut wants = replication.synchrony.watch_wanted();
    let mut reader = tokio::task::block_in_place(|| {
        replication
            .raw()
            .raw_reader(standby.written, RawLimit::Written)
    })?;
    let heartbeat = replication.options.heartbeat;
    let mut beat_at = Instant::now();
    let mut announced = Lsn::ZERO;
    let mut told = Wanted::default();
    let mut sent = standby.written;
    loop {
        if !replication.slots.is_current(name, connection) {
            return Err(SendError::TakenOver);
        }
        moved.mark_unchanged();
        let mut items = Vec::new();
        let reached = match reader.read_recent(&mut items, SEND_BYTES) {
            Some(reached) => reached,
            None => tokio::task::block_in_place(|| reader.read(&mut items, SEND_BYTES))?,
        };
        // Looked at after the read: everything that it yielded as durable is at or before it.
        let tail = replication.engine.log().tail();
        let mut bytes = 0;
        for item in items {
            bytes += item.bytes().len() as u64;
            out.feed(&message(item, tail.epoch)).await?;
        }
        let is_due = Instant::now() >= beat_at;
        let wanted = replication.synchrony.wanted();
        if tail.durable > announced || wanted != told || is_due {
            (announced, told) = (tail.durable, wanted);
            beat_at = Instant::now() + heartbeat;
            out.feed(&announcement(replication, &tail, wanted)).await?;
        }
        out.flush().await?;
        if reached != sent {
            sent = reached;
            replication.slots.sent(name, connection, reached.lsn);
        }
        if bytes >= SEND_BYTES {
            // There may be more.
            continue;
        }
        let asked = hand_over.borrow_and_update().clone();
        if let Some((to, end)) = asked
            && to == *name
            && reached.lsn >= end
        {
            out.send(&ToStandby::HandOver { end }).await?;
            replication.hand_over.send_replace(None);
        }
        tokio::select! {
            _ = moved.changed() => {}
            _ = hand_over.changed() => {}
            _ = wants.changed() => {}
            () = sleep_until(beat_at) => {}
        }
    }
}

fn announcement(replication: &Replication, tail: &TailPosition, wanted: Wanted) -> ToStandby {
    let voting = replication.voting.as_ref();
    ToStandby::Announce {
        epoch: tail.epoch,
        durable: tail.durable,
        timestamp_ms: tail.timestamp_ms.0,
        leads: voting.map_or(0, |voting| voting.leads()),
        sent_ms: voting.map_or(0, |voting| voting.now_ms()),
        wanted,
    }
}

fn message(item: RawItem, epoch: Epoch) -> ToStandby {
    match item {
        RawItem::Segment {
            header,
            epoch: record,
            ..
        } => ToStandby::Segment {
            header,
            epoch: record,
        },
        RawItem::Frames { from, bytes, .. } => ToStandby::Frames { epoch, from, bytes },
    }
}

async fn take_acknowledgements(
    replication: &Arc<Replication>,
    name: &str,
    connection: u64,
    mut incoming: Incoming<ToPrimary>,
) -> Result<(), SendError> {
    loop {
        let ToPrimary::Ack {
            epoch,
            progress,
            echo_ms,
        } = incoming.receive().await?
        else {
            return Err(ChannelError::Unexpected("no acknowledgement").into());
        };
        let tail = replication.engine.log().tail();
        if epoch != tail.epoch {
            // Of an epoch that is over, or of one that this node does not have: it counts for
            // nothing. It may still be catching up with the epoch that has just begun.
            let known = replication.engine.log().epochs();
            if !known.iter().any(|record| record.epoch == epoch) {
                return Err(
                    ChannelError::Unexpected("it acknowledges an epoch unknown here").into(),
                );
            }
        }
        replication
            .slots
            .acknowledged(name, connection, progress, tail.durable);
        if let Some(voting) = &replication.voting {
            voting.flushed(tail.durable);
            voting.acknowledged(name, progress.flushed, echo_ms);
        }
        replication.count_acknowledgements();
    }
}
