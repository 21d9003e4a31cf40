//! `listen` and `unlisten` over the WebSocket: the messages of NOTIFY, on the same connection as live
//! queries.
//!
//! A session of its own listens for the connection, so that channels mean what they mean over the
//! PostgreSQL protocol: messages come in commit order, each once, and `cursor` replays.

use serde_json::{Map, Value, json};
use springhead_engine::Session;
use springhead_engine::notify::Listener;
use springhead_proto::{ErrorCode, SqlError};

use super::error::HttpError;
use super::request::{finish_fields, take_text};
use super::ws::{Connection, Gone, Refusal, Socket, send};

/// Channels of one connection, at most.
const CHANNELS: usize = 1_000;

/// Completes when there are messages; without a listener, never.
pub(super) async fn ready(listener: Option<&Listener>) {
    match listener {
        Some(listener) => listener.ready().await,
        None => std::future::pending().await,
    }
}

impl Connection {
    pub(super) async fn listen(
        &mut self,
        mut params: Map<String, Value>,
    ) -> Result<Value, Refusal> {
        let channel = channel(&mut params)?;
        let cursor = take_text(&mut params, "cursor")?;
        finish_fields(&params, &["channel", "cursor"])?;
        let mut session = match self.listening.take() {
            Some(session) => session,
            None => {
                let engine = &self.app.node.engine;
                let mut session = engine.session(self.tenant_id, &self.principal).await?;
                session.enable_streams();
                Box::new(session)
            }
        };
        let listened = self.start(&mut session, &channel, cursor.as_deref()).await;
        self.listening = Some(session);
        let cursor = listened?;
        Ok(json!({ "channel": channel, "cursor": cursor }))
    }

    /// The cursor to come back with after what has been told.
    async fn start(
        &self,
        session: &mut Session,
        channel: &str,
        cursor: Option<&str>,
    ) -> Result<String, SqlError> {
        let count = session
            .listener()
            .map_or(0, |listener| listener.channels().len());
        if count >= CHANNELS {
            return Err(SqlError::new(
                ErrorCode::TooManyConnections,
                format!("the connection listens to {CHANNELS} channels already"),
            )
            .with_hint("unlisten some"));
        }
        let mut sql = format!("LISTEN {}", quoted(channel));
        if let Some(cursor) = cursor {
            sql.push_str(&format!(" FROM '{}'", cursor.replace('\'', "''")));
        }
        run(session, &sql).await?;
        session.notifications_until().await;
        Ok(session.notification_cursor())
    }

    pub(super) async fn unlisten(
        &mut self,
        mut params: Map<String, Value>,
    ) -> Result<Value, Refusal> {
        let all = params.get("channel").is_none_or(|channel| channel == "*");
        let name = match all {
            true => {
                params.remove("channel");
                None
            }
            false => Some(channel(&mut params)?),
        };
        finish_fields(&params, &["channel"])?;
        if let Some(session) = self.listening.as_deref_mut() {
            let what = name.as_deref().map_or("*".to_owned(), quoted);
            run(session, &format!("UNLISTEN {what}")).await?;
        }
        Ok(json!({ "unlistened": name.map_or(Value::from("*"), Value::from) }))
    }

    /// Sends the messages that wait.
    pub(super) async fn tell_messages(&mut self, socket: &mut Socket) -> Result<(), Gone> {
        let Some(session) = self.listening.as_deref_mut() else {
            return Ok(());
        };
        let taken = session.take_notifications().await;
        let epoch = self.subscriber.epoch();
        let messages = match taken {
            Ok(messages) => messages,
            Err(error) => {
                self.listening = None;
                let params = HttpError::from(error).object();
                let frame = json!({ "jsonrpc": "2.0", "method": "listen.error", "params": params });
                return send(socket, frame.to_string()).await;
            }
        };
        for message in messages {
            let params = json!({
                "channel": &*message.channel,
                "payload": &*message.payload,
                "pid": message.process_id,
                "lsn": message.lsn.0,
                "cursor": format!("{}@{epoch}", message.lsn),
            });
            let frame = json!({ "jsonrpc": "2.0", "method": "listen.message", "params": params });
            send(socket, frame.to_string()).await?;
        }
        Ok(())
    }
}

fn channel(params: &mut Map<String, Value>) -> Result<String, HttpError> {
    let channel = take_text(params, "channel")?.filter(|channel| !channel.is_empty());
    channel.ok_or_else(|| HttpError::parameter("\"channel\" is missing"))
}

/// A name as an identifier, whatever is in it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

async fn run(session: &mut Session, sql: &str) -> Result<(), SqlError> {
    let mut script = session.script(sql);
    while let Some(outcome) = script.next().await {
        outcome?;
    }
    Ok(())
}
