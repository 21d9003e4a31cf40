//! One session's conversation with a server, without a socket: frames in, frames out, and everything
//! that it learns in the device's own transactions. The socket's task and simulations drive it alike.
//!
//! ```text
//!   hello ─> 0x01      take(frame)* ─> settle ─> frames      push ─> 0x10
//!                      collects news    one local transaction
//! ```

use std::collections::HashSet;

use springhead_engine::device::News;
use springhead_proto::sync::{
    Acknowledge, Definition, Delta, DeviceToServer, Handshake, HandshakeAnswer, Limits, MutationId,
    PROTOCOL_VERSION, Ping, ProducerId, Push, Resync, ResyncReason, Seq, ServerToDevice,
    SyncErrorCode, Verdict,
};
use springhead_proto::{Lsn, SqlError};

use crate::{Device, DeviceError, local};

/// Why a conversation is over.
#[derive(Debug, Clone)]
pub struct End {
    pub code: SyncErrorCode,
    pub message: String,
    /// No sooner than then.
    pub after_ms: Option<u64>,
}

impl End {
    pub(crate) fn new(code: SyncErrorCode, message: impl Into<String>) -> End {
        End {
            code,
            message: message.into(),
            after_ms: None,
        }
    }
}

impl From<SqlError> for End {
    fn from(error: SqlError) -> End {
        End::new(SyncErrorCode::Internal, error.message.clone())
    }
}

impl From<DeviceError> for End {
    fn from(error: DeviceError) -> End {
        End::new(SyncErrorCode::Internal, error.to_string())
    }
}

/// See the module's text.
pub struct Conversation {
    device: Device,
    /// The server has accepted the handshake.
    accepted: bool,
    limits: Limits,
    /// What the server had when it answered.
    server_at: Lsn,
    /// Pushed, and not answered in this session.
    in_flight: HashSet<MutationId>,
    /// Nothing is pushed before this moment of the caller's clock, in milliseconds.
    not_before_ms: u64,
    news: Vec<News>,
    /// Parts of a commit that go on.
    delta: Option<Delta>,
    /// A whole set that goes on.
    definitions: Vec<Definition>,
    replies: Vec<DeviceToServer>,
    /// The image has moved since the server was told.
    owes_ack: bool,
    /// The device's definitions, as the server said they add up.
    expected_hash: Option<springhead_proto::sync::CatalogHash>,
    asked_for_definitions: bool,
    /// The server wants another token.
    pub wants_token: bool,
}

impl Drop for Conversation {
    fn drop(&mut self) {
        if self.accepted {
            self.device.inner.presence.end();
        }
    }
}

/// Mutations looked at for one push.
const LOOK_AHEAD: i64 = 4_000;

impl Conversation {
    #[must_use]
    pub fn new(device: Device) -> Conversation {
        Conversation {
            device,
            accepted: false,
            limits: Limits::default(),
            server_at: Lsn::ZERO,
            in_flight: HashSet::new(),
            not_before_ms: 0,
            news: Vec::new(),
            delta: None,
            definitions: Vec::new(),
            replies: Vec::new(),
            owes_ack: false,
            expected_hash: None,
            asked_for_definitions: false,
            wants_token: false,
        }
    }

    /// The first frame.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn hello(&self, token: Option<String>) -> Result<DeviceToServer, DeviceError> {
        let own = self.device.introduction().await?;
        Ok(DeviceToServer::Handshake(Handshake {
            protocol: PROTOCOL_VERSION,
            token,
            tenant: None,
            device: own.device,
            producer: own.producer,
            generation: own.generation,
            cursor: own.cursor,
            catalog_version: own.catalog_version,
            catalog_hash: own.catalog_hash,
            settled: own.settled,
            shapes: own.shapes,
            client: concat!("springhead-device/", env!("CARGO_PKG_VERSION")).to_owned(),
        }))
    }

    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The moment before which nothing is pushed, by the clock given to [`Conversation::take`].
    #[must_use]
    pub fn not_before_ms(&self) -> u64 {
        self.not_before_ms
    }

    /// Takes a frame. What follows from it comes with [`Conversation::settle`].
    ///
    /// # Errors
    /// Why the conversation is over.
    pub async fn take(&mut self, frame: ServerToDevice, now_ms: u64) -> Result<(), End> {
        match frame {
            ServerToDevice::HandshakeAck(answer) => return self.begun(answer).await,
            ServerToDevice::Error(error) if error.closing => {
                return Err(End::new(error.code, error.message));
            }
            ServerToDevice::Error(error) => {
                tracing::warn!(code = error.code.word(), "{}", error.message);
            }
            ServerToDevice::Ack(ack) => {
                for (seq, verdict) in ack.verdicts {
                    let id = MutationId {
                        producer: ack.producer,
                        generation: ack.generation,
                        seq,
                    };
                    self.decided(id, verdict, now_ms).await?;
                }
            }
            ServerToDevice::Reject(reject) => {
                let id = MutationId {
                    producer: reject.producer,
                    generation: reject.generation,
                    seq: reject.seq,
                };
                let verdict = Verdict::Rejected(Box::new(reject.rejection));
                self.decided(id, verdict, now_ms).await?;
            }
            ServerToDevice::Snapshot(chunk) => self.news.push(News::Snapshot(chunk)),
            ServerToDevice::Delta(delta) => self.part(delta),
            ServerToDevice::ShapeEnded(ended) => self.news.push(News::ShapeEnded(ended)),
            ServerToDevice::Resync(order) => self.news.push(News::Resync(order.shapes)),
            ServerToDevice::Throttle(throttle) => {
                self.not_before_ms = self.not_before_ms.max(now_ms + throttle.after_ms);
                if let Some(max_in_flight) = throttle.max_in_flight {
                    self.limits.max_in_flight = max_in_flight.max(1);
                }
            }
            ServerToDevice::TokenWanted(_) => self.wants_token = true,
            ServerToDevice::TokenAck(answer) => {
                if !answer.accepted {
                    tracing::warn!("the server has refused a new token");
                }
            }
            ServerToDevice::Definition(definition) => self.definition(definition),
            ServerToDevice::Ping(ping) if !ping.reply => {
                self.replies.push(DeviceToServer::Ping(Ping {
                    nonce: ping.nonce,
                    reply: true,
                }));
            }
            ServerToDevice::PresenceSet(member) => self.device.inner.presence.heard(member),
            ServerToDevice::PresenceLeave(left) => self.device.inner.presence.left(&left),
            ServerToDevice::PresenceRoster(roster) => self.device.inner.presence.roster(roster),
            ServerToDevice::Ping(_) | ServerToDevice::Clock(_) => {}
        }
        Ok(())
    }

    async fn begun(&mut self, answer: HandshakeAnswer) -> Result<(), End> {
        let ack = match answer {
            HandshakeAnswer::Accepted(ack) => ack,
            HandshakeAnswer::Refused(refused) => {
                return Err(End {
                    code: refused.code,
                    message: refused.message,
                    after_ms: refused.after_ms,
                });
            }
        };
        self.accepted = true;
        self.limits = ack.limits;
        self.server_at = ack.cursor.lsn;
        let own = self.device.introduction().await?;
        self.device.inner.presence.begin(own.device);
        if ack.next_seq > own.next_seq {
            // Somebody else has pushed in this device's name, or its files are of an earlier time.
            // What is pending keeps its name: the server knows by its digest whether it has it.
            let producer = ProducerId(local::random());
            self.device.learn(vec![News::Producer(producer)]).await?;
        } else if ack.next_seq <= own.settled {
            // The server has gone back to an earlier time: it waits for what is no longer here.
            let from = MutationId {
                producer: own.producer,
                generation: own.generation,
                seq: Seq::FIRST,
            };
            self.rekey(from).await?;
        }
        Ok(())
    }

    async fn rekey(&mut self, from: MutationId) -> Result<(), End> {
        self.in_flight.clear();
        let to = ProducerId(local::random());
        self.flush().await?;
        Ok(self.device.learn(vec![News::Rekey { from, to }]).await?)
    }

    async fn decided(&mut self, id: MutationId, verdict: Verdict, now_ms: u64) -> Result<(), End> {
        self.in_flight.remove(&id);
        match &verdict {
            Verdict::Retry { after_ms, .. } => {
                self.not_before_ms = self.not_before_ms.max(now_ms + after_ms);
            }
            // The others are answered the same way and are pushed again from the one that is due.
            Verdict::Gap { expected_seq } => {
                let own = self.device.introduction().await?;
                let is_own = (own.producer, own.generation) == (id.producer, id.generation);
                if is_own && *expected_seq <= own.settled {
                    self.rekey(id).await?;
                }
            }
            Verdict::Fenced => {
                let inherited = self.device.fact("inherited").await?.unwrap_or_default();
                if inherited.contains(&id.producer.to_string()) {
                    // The original has pushed it, and knows its verdict.
                    let done = Verdict::Duplicate { lsn: Lsn::ZERO };
                    self.news.push(News::Verdict(id, done));
                } else {
                    self.rekey(id).await?;
                }
            }
            Verdict::Applied { .. } | Verdict::Duplicate { .. } | Verdict::Rejected(_) => {
                self.owes_ack = true;
                self.news.push(News::Verdict(id, verdict));
            }
        }
        Ok(())
    }

    /// Parts of a commit come together.
    fn part(&mut self, mut part: Delta) {
        if let Some(mut begun) = self.delta.take() {
            begun.changes.append(&mut part.changes);
            begun.own = begun.own.or(part.own);
            begun.cursor = part.cursor;
            begun.more = part.more;
            part = begun;
        }
        if part.more {
            self.delta = Some(part);
        } else {
            self.news.push(News::Delta(part));
        }
    }

    fn definition(&mut self, definition: Definition) {
        self.expected_hash = Some(definition.hash);
        // A set is its frames from the first to the last; one that has been delivered twice is none.
        if let Some([place, _]) = definition.set {
            if place == 0 {
                self.definitions.clear();
            } else if usize::try_from(place) != Ok(self.definitions.len()) {
                return;
            }
        }
        let is_last = definition
            .set
            .is_none_or(|[place, count]| place + 1 >= count);
        self.definitions.push(definition);
        if is_last {
            let definitions = std::mem::take(&mut self.definitions);
            self.news.push(News::Definitions(definitions));
        }
    }

    /// Puts what has been learnt into the device, as one transaction (several, if definitions are
    /// among it), and gives what is to be said.
    ///
    /// # Errors
    /// Why the conversation is over; what was not put is told again by the server.
    pub async fn settle(&mut self) -> Result<Vec<DeviceToServer>, End> {
        let moved = !self.news.is_empty();
        self.flush().await?;
        if moved {
            self.device.refresh_status().await?;
            self.check_definitions().await?;
        }
        self.show_live();
        let mut out = std::mem::take(&mut self.replies);
        if self.accepted {
            out.extend(self.device.inner.presence.take_wanted(&self.limits));
        }
        if std::mem::take(&mut self.owes_ack) {
            let own = self.device.introduction().await?;
            let settled = MutationId {
                producer: own.producer,
                generation: own.generation,
                seq: own.settled,
            };
            out.push(DeviceToServer::Acknowledge(Acknowledge {
                cursor: own.cursor,
                settled: vec![settled],
            }));
        }
        Ok(out)
    }

    /// The image has what the server had when it answered.
    fn show_live(&self) {
        self.device.inner.status.send_if_modified(|status| {
            let is_there = status.shapes == 0
                || status.complete
                    && status
                        .cursor
                        .is_some_and(|cursor| cursor.lsn >= self.server_at);
            let changes = self.accepted && is_there && status.phase != crate::Phase::Live;
            if changes {
                status.phase = crate::Phase::Live;
            }
            changes
        });
    }

    /// Definitions are a transaction of their own: the rows after them follow them.
    async fn flush(&mut self) -> Result<(), End> {
        let mut run = Vec::new();
        for news in std::mem::take(&mut self.news) {
            if matches!(news, News::Definitions(_)) {
                if !run.is_empty() {
                    self.device.learn(std::mem::take(&mut run)).await?;
                }
                self.device.learn(vec![news]).await?;
            } else {
                run.push(news);
            }
        }
        if !run.is_empty() {
            self.device.learn(run).await?;
        }
        Ok(())
    }

    async fn check_definitions(&mut self) -> Result<(), End> {
        let Some(expected) = self.expected_hash else {
            return Ok(());
        };
        if !self.definitions.is_empty() {
            return Ok(());
        }
        self.expected_hash = None;
        let own = self.device.introduction().await?;
        if own.catalog_hash == expected {
            self.asked_for_definitions = false;
        } else if !std::mem::replace(&mut self.asked_for_definitions, true) {
            self.replies.push(DeviceToServer::Resync(Resync {
                reason: ResyncReason::CatalogDiverged,
                shapes: Vec::new(),
                definitions: true,
            }));
        } else {
            return Err(End::new(
                SyncErrorCode::Internal,
                "the definitions do not add up to the server's, twice",
            ));
        }
        Ok(())
    }

    /// The next mutations to push, as one frame; `None` if there are none now.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn push(&mut self, now_ms: u64) -> Result<Option<DeviceToServer>, End> {
        let room = (self.limits.max_in_flight as usize).saturating_sub(self.in_flight.len());
        if !self.accepted || now_ms < self.not_before_ms || room == 0 {
            return Ok(None);
        }
        let most = room.min(self.limits.max_push_mutations as usize);
        let mut push: Option<Push> = None;
        let mut bytes = 0;
        for pending in self.device.pending_up_to(LOOK_AHEAD).await? {
            let mutation = pending.mutation;
            let id = mutation.id();
            if pending.state == "applied" || self.in_flight.contains(&id) {
                continue;
            }
            let push = push.get_or_insert_with(|| Push {
                producer: id.producer,
                generation: id.generation,
                mutations: Vec::new(),
            });
            bytes += springhead_proto::sync::body::to_bytes(&mutation.operations).len() + 64;
            let is_full =
                bytes > self.limits.max_frame_bytes as usize / 2 && !push.mutations.is_empty();
            if is_full
                || push.mutations.len() >= most
                || (push.producer, push.generation) != (id.producer, id.generation)
            {
                break;
            }
            push.mutations.push(mutation);
        }
        Ok(push.map(|push| {
            self.in_flight
                .extend(push.mutations.iter().map(|mutation| mutation.id()));
            DeviceToServer::Push(push)
        }))
    }
}
