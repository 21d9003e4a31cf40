//! LISTEN, UNLISTEN, and what a session's client is told by itself.
//!
//! Channels change when their transaction commits. What arrives waits in the session's
//! [`Listener`]; the protocol takes it when the session is idle.

use std::sync::{Arc, Weak};

use springhead_proto::{Cursor, ErrorCode, Lsn, SqlError};
use springhead_sql::plan::Listen;

use super::{Outcome, Session};
use crate::Tenant;
use crate::cdc::{Start, StartError, parse_cursor, resolve_start};
use crate::notify::{ChannelChange, ChannelStart, Listener, Notification};

/// The setting that pg_listening_channels() reads: a JSON array.
const CHANNELS_SETTING: &str = "listening_channels";

/// pg_notification_queue_usage() of a tenant's sessions.
pub(super) fn queue_usage(tenant: &Arc<Tenant>) -> Box<dyn Fn() -> f64 + Send + Sync> {
    let tenant: Weak<Tenant> = Arc::downgrade(tenant);
    Box::new(move || {
        tenant
            .upgrade()
            .map_or(0.0, |tenant| tenant.channels.usage())
    })
}

impl Session {
    /// Its client takes what comes by itself: notifications, COPY's data. Without it LISTEN and COPY
    /// are refused.
    pub fn enable_streams(&mut self) {
        self.streams = true;
    }

    /// Where its messages wait, once it has listened.
    pub fn listener(&self) -> Option<&Arc<Listener>> {
        self.listener.as_ref()
    }

    /// To be called when the client, idle until now, begins something: what was there before counts
    /// as told, or about to be.
    pub async fn settle_notifications(&mut self) {
        if let Some(listener) = &self.listener {
            self.tenant.channels.catch_up().await;
            self.tenant.channels.settle(listener);
        }
    }

    /// Some of the messages that wait, in the order of the log; none when there is none left.
    ///
    /// # Errors
    /// Why no more will come.
    pub async fn take_notifications(&mut self) -> Result<Vec<Notification>, SqlError> {
        match &self.listener {
            Some(listener) => listener.take(&self.tenant.channels).await,
            None => Ok(Vec::new()),
        }
    }

    /// The last LSN of the tenant's last commit, with all messages up to it ready to be taken.
    pub async fn notifications_until(&mut self) -> Lsn {
        self.catch_up();
        let until = self.tenant.channels.published();
        if self.listener.is_some() {
            self.tenant.channels.catch_up().await;
        }
        until
    }

    /// SHOW notification_cursor: what comes after it has not been handed to the client yet. With it
    /// `LISTEN … FROM` goes on after a lost connection.
    #[must_use]
    pub fn notification_cursor(&self) -> String {
        let seen = match &self.listener {
            Some(listener) => listener.seen(),
            None => self.tenant.channels.acknowledged(),
        };
        let epoch = self.tenant.shared.log.tail().epoch;
        Cursor::new(seen, epoch).to_string()
    }

    pub(super) async fn listen(&mut self, listen: &Listen) -> Result<Outcome, SqlError> {
        if !self.streams {
            return Err(SqlError::unsupported("LISTEN here")
                .with_hint("listen over the PostgreSQL protocol, or follow GET /cdc"));
        }
        self.note_use();
        let (tag, change) = match listen {
            Listen::Start { channel, from } => {
                let start = match from {
                    None => ChannelStart::Now,
                    Some(cursor) => ChannelStart::After(self.place_of(cursor).await?),
                };
                ("LISTEN", ChannelChange::Start(channel.clone(), start))
            }
            Listen::Stop(channel) => ("UNLISTEN", ChannelChange::Stop(channel.clone())),
            Listen::StopAll => ("UNLISTEN", ChannelChange::StopAll),
        };
        match &mut self.block {
            Some(block) => block.channels.push(change),
            None => {
                let start = self.tenant.channels.acknowledged();
                self.change_channels(vec![change], start);
            }
        }
        let mut outcome = Outcome::command(tag);
        outcome.lsn = self.tenant.visible();
        Ok(outcome)
    }

    async fn place_of(&self, cursor: &str) -> Result<Lsn, SqlError> {
        let start = Start::After(parse_cursor(cursor)?);
        let log = &*self.tenant.shared.log;
        resolve_start(&self.tenant, log, start)
            .await
            .map_err(|error| match error {
                StartError::Refused(refused) => {
                    SqlError::new(ErrorCode::CursorExpired, refused.to_string()).with_hint(format!(
                        "listen without FROM, or from the earliest change kept, which is LSN {}",
                        refused.earliest_lsn
                    ))
                }
                StartError::Sql(error) => error,
                StartError::Log(error) => SqlError::new(ErrorCode::Internal, error.to_string()),
            })
    }

    /// Makes what a transaction has asked for true; messages of commits after `start` count.
    pub(super) fn change_channels(&mut self, changes: Vec<ChannelChange>, start: Lsn) {
        if changes.is_empty() {
            return;
        }
        let channels = &self.tenant.channels;
        let listener = self.listener.get_or_insert_with(|| channels.listener());
        channels.change(listener, changes.into_iter(), start);
        let names: Vec<Arc<str>> = listener.channels();
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        let json = serde_json::Value::from(names).to_string();
        self.context
            .settings
            .lock()
            .insert(CHANNELS_SETTING.to_owned(), json);
    }

    /// UNLISTEN *, now.
    pub(super) fn stop_listening(&mut self) {
        if self.listener.is_some() {
            self.change_channels(vec![ChannelChange::StopAll], Lsn::ZERO);
        }
    }
}
