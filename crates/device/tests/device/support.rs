//! A server's engine, devices, and what carries their frames: the real conversation and the real
//! session, with nothing but memory between them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value as Json;
use springhead_device::Device;
use springhead_device::conversation::{Conversation, End};
use springhead_engine::access::{Credential, Principal};
use springhead_engine::live::{Live, LiveLimits};
use springhead_engine::session::ParamValue;
use springhead_engine::sync::{Door, Peer, Sync, SyncLimits, SyncSession};
use springhead_engine::{Engine, EngineConfig, Entropy};
use springhead_log::memory::MemoryLog;
use springhead_log::{Clock, Log, SystemClock};
use springhead_proto::sync::{DeviceToServer, HandshakeAnswer, ServerToDevice};
use springhead_proto::{Epoch, ErrorCode, SqlError, TenantId};
use springhead_sim::disk::Random;
use springhead_sql::types::text::output_text;
use tempfile::TempDir;

/// Bytes that anyone can predict.
#[derive(Default)]
struct Counting(AtomicU64);

impl Entropy for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            let next = self.0.fetch_add(1, Ordering::Relaxed);
            *byte = (next.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
        }
    }
}

struct NoTokens;

impl Door for NoTokens {
    fn principal(&self, _: &str) -> Result<Arc<Principal>, SqlError> {
        Err(SqlError::new(
            ErrorCode::InvalidAuthorization,
            "no such token",
        ))
    }
}

/// Where nothing waits for a disk.
pub fn directory() -> TempDir {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

/// The same seed gives the same run of choices.
pub struct Dice(Random);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(Random::new(seed))
    }

    pub fn of(&mut self, sides: u64) -> u64 {
        self.0.below(sides)
    }

    pub fn small(&mut self, sides: u64) -> i64 {
        i64::try_from(self.of(sides)).unwrap()
    }

    /// A place among so many.
    pub fn place(&mut self, many: usize) -> usize {
        usize::try_from(self.of(many as u64)).unwrap()
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.place(from.len())]
    }
}

/// A number of the environment's.
pub fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

/// Whoever `role` is; the superuser `tester` or a role that has shown a password.
pub fn principal(role: &str) -> Arc<Principal> {
    match role {
        "tester" => Principal::unrestricted("tester"),
        role => Arc::new(Principal::of(role, Credential::Password)),
    }
}

/// A server without sockets.
pub struct Server {
    pub engine: Engine,
    pub sync: Arc<Sync>,
    /// Of one that lives no longer than it runs.
    _dir: Option<TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.engine.shutdown();
    }
}

impl Server {
    pub async fn start(sql: &str) -> Server {
        let dir = directory();
        let log: Arc<dyn Log> = Arc::new(MemoryLog::new(Epoch(0x5eed_0001)));
        let mut server = Server::open(dir.path(), log, Arc::new(SystemClock));
        server._dir = Some(dir);
        server.sql(sql).await;
        server
    }

    /// One whose state is in `dir` already, or is to be there.
    pub fn open(dir: &Path, log: Arc<dyn Log>, clock: Arc<dyn Clock>) -> Server {
        let config = EngineConfig::new(dir);
        let engine = Engine::open(config, log, clock, Arc::new(Counting::default())).unwrap();
        let live = Live::new(engine.clone(), LiveLimits::default());
        let sync = Sync::new(engine.clone(), &live, SyncLimits::default());
        Server {
            engine,
            sync,
            _dir: None,
        }
    }

    /// Runs statements; the last one's rows, values joined by `|`.
    pub async fn sql(&self, sql: &str) -> Vec<String> {
        self.sql_as("tester", sql).await.unwrap()
    }

    /// As [`Server::sql`], for a role; what is refused is the last.
    pub async fn sql_as(&self, role: &str, sql: &str) -> Result<Vec<String>, SqlError> {
        let mut session = self
            .engine
            .session(TenantId::DEFAULT, &principal(role))
            .await?;
        let mut lines = Vec::new();
        for statement in springhead_sql::split::statements(sql) {
            let statement = session.prepare(statement.unwrap(), &[])?;
            let none: &[ParamValue<'_>] = &[];
            let mut outcome = session.execute(&statement, none).await?;
            lines.clear();
            while let Some(chunk) = outcome
                .rows
                .as_mut()
                .and_then(|rows| rows.next_chunk().unwrap())
            {
                for row in chunk.rows() {
                    let values = row.values().zip(outcome.columns.iter());
                    let texts: Vec<String> = values
                        .map(|(value, column)| {
                            let mut out = Vec::new();
                            if !value.is_null() {
                                output_text(&column.pg_type, value, &mut out);
                            }
                            String::from_utf8(out).unwrap()
                        })
                        .collect();
                    lines.push(texts.join("|"));
                }
            }
        }
        Ok(lines)
    }
}

/// A device's rows, in the form of [`Server::sql`].
pub async fn lines(device: &Device, sql: &str) -> Vec<String> {
    let answer = device.sql(sql, &[]).await.unwrap();
    let text = |value: &Json| match value {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        Json::Bool(true) => "t".to_owned(),
        Json::Bool(false) => "f".to_owned(),
        other => other.to_string(),
    };
    let line = |row: &Vec<Json>| row.iter().map(text).collect::<Vec<_>>().join("|");
    answer.rows.iter().map(line).collect()
}

/// A device that is connected to a server.
pub struct Wire {
    pub conversation: Conversation,
    session: Box<SyncSession>,
}

impl Wire {
    pub async fn connect(device: &Device, server: &Server) -> Wire {
        Wire::connect_as("tester", device, server).await
    }

    pub async fn connect_as(role: &str, device: &Device, server: &Server) -> Wire {
        let mut conversation = Conversation::new(device.clone());
        let DeviceToServer::Handshake(hello) = conversation.hello(None).await.unwrap() else {
            panic!("a conversation begins with a handshake");
        };
        let (session, ack) = SyncSession::open(
            &server.sync,
            hello,
            Some(principal(role)),
            None,
            Peer::default(),
            &NoTokens,
        )
        .await
        .unwrap_or_else(|refused| panic!("{refused:?}"));
        let answer = ServerToDevice::HandshakeAck(HandshakeAnswer::Accepted(ack));
        conversation.take(answer, 0).await.unwrap();
        Wire {
            conversation,
            session,
        }
    }

    pub async fn say(&mut self, frame: DeviceToServer) {
        // Over the wire and back, so that nothing passes that the codec would not.
        let bytes = frame.to_bytes();
        let frame = DeviceToServer::from_bytes(&bytes, 1 << 20).unwrap();
        self.session.receive(frame, &NoTokens).await.unwrap();
    }

    /// The server's next frame; `None` once it has nothing more to say.
    pub async fn hear(&mut self) -> Option<ServerToDevice> {
        let frame = self.session.next_or_quiet().await;
        let bytes = frame
            .unwrap_or_else(|closing| panic!("{closing:?}"))?
            .to_bytes();
        Some(ServerToDevice::from_bytes(&bytes, 1 << 24).unwrap())
    }

    pub async fn push(&mut self) -> bool {
        let mut pushed = false;
        while let Some(push) = self.conversation.push(u64::MAX).await.unwrap() {
            self.say(push).await;
            pushed = true;
        }
        pushed
    }

    pub async fn take(&mut self, frame: ServerToDevice) -> Result<(), End> {
        self.conversation.take(frame, 0).await
    }

    pub async fn settle(&mut self) -> Result<(), End> {
        for reply in self.conversation.settle().await? {
            self.say(reply).await;
        }
        Ok(())
    }

    /// Talks for a while and breaks off anywhere; pushes and frames may come twice, pushes in another
    /// order or never.
    pub async fn stumble(mut self, dice: &mut Dice) {
        let mut held: Option<DeviceToServer> = None;
        for _ in 0..dice.of(30) {
            match dice.of(6) {
                0 => {
                    if let Some(push) = self.conversation.push(u64::MAX).await.unwrap() {
                        match dice.of(4) {
                            0 => {
                                self.say(push.clone()).await;
                                self.say(push).await;
                            }
                            // It comes after the next, or never.
                            1 => held = Some(push),
                            _ => self.say(push).await,
                        }
                    }
                    if dice.of(2) == 0
                        && let Some(push) = held.take()
                    {
                        self.say(push).await;
                    }
                }
                1 => self.settle().await.unwrap(),
                _ => {
                    if let Some(frame) = self.hear().await {
                        if dice.of(8) == 0 {
                            self.take(frame.clone()).await.unwrap();
                        }
                        self.take(frame).await.unwrap();
                    }
                }
            }
        }
    }

    /// Talks until neither side has anything to say.
    pub async fn run(&mut self) {
        loop {
            let mut moved = self.push().await;
            while let Some(frame) = self.hear().await {
                self.take(frame).await.unwrap();
                moved = true;
            }
            self.settle().await.unwrap();
            if !moved {
                return;
            }
        }
    }
}

/// Connects, exchanges all there is, and goes offline.
pub async fn exchange(device: &Device, server: &Server) {
    Wire::connect(device, server).await.run().await;
}
