//! What a client is told without having asked: notifications, and what its live queries have to tell.

use springhead_engine::Session;
use springhead_proto::Lsn;

use super::backend;
use super::connection::Ended;
use super::results::Wire;

/// Sends notifications that wait: up to that LSN, or some of them.
pub(super) async fn tell(
    wire: &mut Wire,
    session: &mut Session,
    until: Option<Lsn>,
) -> Result<(), Ended> {
    if session.listener().is_none() {
        return Ok(());
    }
    loop {
        let batch = session.take_notifications().await?;
        let Some(last) = batch.last().map(|last| last.lsn) else {
            return Ok(());
        };
        for told in &batch {
            backend::notification_response(
                &mut wire.out,
                told.process_id,
                &told.channel,
                &told.payload,
            );
            wire.make_room().await?;
        }
        if until.is_none_or(|until| last >= until) {
            // With what follows, where something does.
            return match until {
                Some(_) => Ok(()),
                None => Ok(wire.flush().await?),
            };
        }
    }
}

/// Sends what its live queries have to tell.
pub(super) async fn tell_live(wire: &mut Wire, session: &mut Session) -> Result<(), Ended> {
    loop {
        let batch = session.take_live().await;
        if batch.is_empty() {
            return Ok(());
        }
        for told in &batch {
            backend::notification_response(
                &mut wire.out,
                told.process_id,
                &told.channel,
                &told.payload,
            );
            wire.make_room().await?;
        }
        wire.flush().await?;
    }
}
