//! One device's session: what it is told and what it says, without a socket.
//!
//! ```text
//!   handshake ── SyncSession::open ── ack
//!   loop: receive(frame)            what the device says
//!         ready().await             cancel-safe: something is to be sent
//!         step().await ─> frame     one frame; not to be cancelled
//! ```
//!
//! Whoever drives it sends one frame before it asks for the next, so that a device that does not
//! read costs what its shapes' outbox holds, and no more. Deltas are of whole commits, in order; a
//! snapshot begins only once every delta before it has been handed out, so that the device's one
//! cursor is true of all its shapes.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use springhead_proto::sync::{
    Acknowledge, ClockAnswer, DeltaChange, DeviceId, DeviceToServer, ErrorFrame, Generation, Ping,
    ProducerId, ResyncOrder, ResyncReason, Seq, ServerToDevice, ShapeId, Subscription,
    SyncErrorCode, TokenWanted,
};
use springhead_proto::{Cursor, ErrorCode, Lsn, SqlError};
use springhead_sql::access::Identity;
use tokio::sync::watch;

use super::definitions::DefinitionSet;
use super::presence::Attendance;
use super::push::{Bucket, Owed, Pushes};
use super::service::{Seat, Sync};
use super::shape::{OpenShape, Sending};
use crate::Tenant;
use crate::access::{Principal, RoleChanges};
use crate::live::{Delta, LiveEvent, LiveId, Subscriber};

/// Where a device is, as the server sees it.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    pub address: Option<String>,
    pub user_agent: Option<String>,
}

/// Turns tokens into principals; the server's.
pub trait Door: Send + std::marker::Sync {
    /// # Errors
    /// 28000 for a token that is none.
    fn principal(&self, token: &str) -> Result<Arc<Principal>, SqlError>;
}

/// Why a session ends: told to the device as a frame, and as the close code.
#[derive(Debug, Clone)]
pub struct Closing {
    pub code: SyncErrorCode,
    pub message: String,
}

impl Closing {
    pub(crate) fn new(code: SyncErrorCode, message: impl Into<String>) -> Closing {
        Closing {
            code,
            message: message.into(),
        }
    }

    /// The frame that says so.
    #[must_use]
    pub fn frame(&self) -> ServerToDevice {
        ServerToDevice::Error(ErrorFrame {
            code: self.code,
            message: self.message.clone(),
            hint: None,
            closing: true,
        })
    }
}

impl From<SqlError> for Closing {
    fn from(error: SqlError) -> Closing {
        let code = match error.code {
            ErrorCode::InvalidAuthorization => SyncErrorCode::Unauthenticated,
            ErrorCode::InsufficientPrivilege => SyncErrorCode::Forbidden,
            ErrorCode::TenantDropped | ErrorCode::UnknownDatabase => SyncErrorCode::UnknownTenant,
            ErrorCode::AdminShutdown => SyncErrorCode::GoingAway,
            _ => SyncErrorCode::Internal,
        };
        Closing::new(code, error.message.clone())
    }
}

/// See the module's text.
pub struct SyncSession {
    pub(super) sync: Arc<Sync>,
    pub(super) tenant: Arc<Tenant>,
    pub(super) principal: Arc<Principal>,
    pub(super) identity: Arc<Identity>,
    pub(super) seat: Seat,
    pub(super) session_id: String,
    pub(super) device: DeviceId,
    pub(super) producer: ProducerId,
    pub(super) generation: Generation,
    pub(super) client: String,
    pub(super) peer: Peer,
    /// Verdicts up to it are the device's, by its own word.
    pub(super) settled: Seq,
    pub(super) bucket: Bucket,
    pub(super) pushes: Pushes,
    pub(super) out: VecDeque<ServerToDevice>,
    pub(super) subscriber: Subscriber,
    pub(super) shapes: Vec<OpenShape>,
    /// Shapes that are to be opened, and whether the device has rows of them to lose.
    pub(super) wanted: VecDeque<Subscription>,
    pub(super) sending: Option<(ShapeId, Sending)>,
    pub(super) event: Option<LiveEvent>,
    /// Changes of the commit whose tick has not come yet.
    pub(super) commit: Vec<(LiveId, Arc<Delta>)>,
    /// Changes of commits that are to go out with those that a device comes back to, as one.
    pub(super) collected: Option<Vec<DeltaChange>>,
    /// The device's cursor, once it has what it was sent.
    pub(super) at: Lsn,
    pub(super) owed: Owed,
    pub(super) definitions: Arc<DefinitionSet>,
    catalog_changes: watch::Receiver<Lsn>,
    /// Definitions have changed with the commit of this LSN, and the device has not been told.
    pub(super) definitions_due: Option<Lsn>,
    role_changes: RoleChanges,
    /// When the device is to be asked for a new token, in microseconds since 1970; `None` if it has
    /// been, or the token has no end.
    token_due_us: Option<i64>,
    attendance: Option<Box<Attendance>>,
}

/// What a new session starts with.
pub(super) struct Parts {
    pub sync: Arc<Sync>,
    pub tenant: Arc<Tenant>,
    pub principal: Arc<Principal>,
    pub identity: Arc<Identity>,
    pub seat: Seat,
    pub session_id: String,
    pub hello: springhead_proto::sync::Handshake,
    pub peer: Peer,
    pub at: Lsn,
    pub definitions: Arc<DefinitionSet>,
    pub catalog_changes: watch::Receiver<Lsn>,
}

impl SyncSession {
    pub(super) fn new(parts: Parts) -> SyncSession {
        let Parts { sync, hello, .. } = parts;
        let now_us = crate::functions::now_us(&**sync.engine.clock());
        let token_due_us = token_due_us(&parts.principal, now_us);
        SyncSession {
            subscriber: Subscriber::new(&sync.live, Arc::clone(&parts.tenant)),
            bucket: Bucket::new(sync.limits.mutations_per_s, &**sync.engine.clock()),
            role_changes: sync.engine.watch_roles(),
            sync,
            tenant: parts.tenant,
            principal: parts.principal,
            identity: parts.identity,
            seat: parts.seat,
            session_id: parts.session_id,
            device: hello.device,
            producer: hello.producer,
            generation: hello.generation,
            client: hello.client,
            peer: parts.peer,
            settled: hello.settled,
            pushes: Pushes::default(),
            out: VecDeque::new(),
            shapes: Vec::new(),
            wanted: VecDeque::new(),
            sending: None,
            event: None,
            commit: Vec::new(),
            collected: None,
            at: parts.at,
            owed: Owed::default(),
            definitions: parts.definitions,
            catalog_changes: parts.catalog_changes,
            definitions_due: None,
            token_due_us,
            attendance: None,
        }
    }

    /// Its name in logs and dead letters.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.session_id
    }

    /// Whom it acts for.
    #[must_use]
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    #[must_use]
    pub fn tenant(&self) -> &Arc<Tenant> {
        &self.tenant
    }

    pub(super) fn cursor(&self, lsn: Lsn) -> Cursor {
        Cursor::new(lsn, self.subscriber.epoch())
    }

    // ---- what the device says ----

    /// Takes one frame.
    ///
    /// # Errors
    /// Why the session is over.
    pub async fn receive(&mut self, frame: DeviceToServer, door: &dyn Door) -> Result<(), Closing> {
        match frame {
            DeviceToServer::Handshake(_) => {
                return Err(Closing::new(
                    SyncErrorCode::ProtocolViolation,
                    "a session has one handshake",
                ));
            }
            DeviceToServer::Push(push) => self.push(push)?,
            DeviceToServer::Acknowledge(acknowledge) => self.acknowledge(&acknowledge),
            DeviceToServer::Subscribe(subscription) => self.subscribe(subscription)?,
            DeviceToServer::Unsubscribe(unsubscribe) => self.unsubscribe(unsubscribe.shape),
            DeviceToServer::Clock(question) => {
                self.out.push_back(ServerToDevice::Clock(ClockAnswer {
                    device_ms: question.device_ms,
                    server_ms: self.now_ms(),
                }));
            }
            DeviceToServer::Resync(resync) => {
                if resync.definitions {
                    let cursor = self.cursor(self.at);
                    self.tell_definitions(self.definitions.frames(cursor));
                }
                let shapes = resync.shapes;
                self.start_over(ResyncReason::Requested, &shapes, "as the device asked");
            }
            DeviceToServer::TokenRefresh(refresh) => self.refresh(&refresh.token, door).await?,
            DeviceToServer::PresenceSet(set) => {
                let (sync, user) = (Arc::clone(&self.sync), Arc::clone(&self.principal.user));
                let attendance = self.attendance();
                attendance.set(&sync.limits, &set.channel, &user, set.state)?;
            }
            DeviceToServer::PresenceRoster(question) => {
                let sync = Arc::clone(&self.sync);
                let roster = self.attendance().roster(&sync.limits, &question.channel)?;
                self.out.push_back(roster);
            }
            DeviceToServer::PresenceLeave(leave) => {
                if let Some(attendance) = &mut self.attendance {
                    attendance.leave(&leave.channel);
                }
            }
            DeviceToServer::Ping(ping) if !ping.reply => {
                self.out.push_back(ServerToDevice::Ping(Ping {
                    nonce: ping.nonce,
                    reply: true,
                }));
            }
            DeviceToServer::Ping(_) => {}
        }
        Ok(())
    }

    /// Made with the first presence frame: most devices send none.
    fn attendance(&mut self) -> &mut Attendance {
        self.attendance.get_or_insert_with(|| {
            Box::new(Attendance::new(
                &self.sync.presence,
                self.tenant.id(),
                self.seat.number,
                self.device,
            ))
        })
    }

    fn acknowledge(&mut self, acknowledge: &Acknowledge) {
        for id in &acknowledge.settled {
            if id.producer == self.producer && id.generation == self.generation {
                self.settled = self.settled.max(id.seq);
            }
        }
    }

    fn subscribe(&mut self, subscription: Subscription) -> Result<(), Closing> {
        let id = subscription.shape.id;
        self.forget(id);
        let limit = self.sync.limits.device.max_shapes as usize;
        if self.shapes.len() + self.wanted.len() >= limit {
            return Err(Closing::new(
                SyncErrorCode::LimitExceeded,
                format!("a session has at most {limit} shapes"),
            ));
        }
        self.wanted.push_back(Subscription {
            // What it had was of another session's cursor.
            complete: false,
            ..subscription
        });
        Ok(())
    }

    /// A shape that was had when the session began.
    pub(super) fn want(&mut self, subscription: Subscription) {
        self.wanted.push_back(subscription);
    }

    fn unsubscribe(&mut self, id: ShapeId) {
        self.forget(id);
    }

    /// Everything of a shape goes.
    pub(super) fn forget(&mut self, id: ShapeId) {
        self.wanted.retain(|wanted| wanted.shape.id != id);
        if self.sending.as_ref().is_some_and(|(sent, _)| *sent == id) {
            self.sending = None;
        }
        if let Some(place) = self.shapes.iter().position(|open| open.shape.id == id) {
            let open = self.shapes.remove(place);
            self.subscriber.close(open.live);
        }
    }

    /// Some shapes (all, if none is named) begin with a new snapshot.
    pub(super) fn start_over(&mut self, reason: ResyncReason, shapes: &[ShapeId], message: &str) {
        let due: Vec<_> = (self.shapes.iter())
            .filter(|open| shapes.is_empty() || shapes.contains(&open.shape.id))
            .map(|open| open.shape.clone())
            .collect();
        if due.is_empty() {
            return;
        }
        self.out.push_back(ServerToDevice::Resync(ResyncOrder {
            reason,
            shapes: due.iter().map(|shape| shape.id).collect(),
            message: message.to_owned(),
        }));
        for shape in due {
            self.forget(shape.id);
            self.wanted.push_back(Subscription {
                shape,
                complete: false,
                resume: None,
            });
        }
    }

    async fn refresh(&mut self, token: &str, door: &dyn Door) -> Result<(), Closing> {
        let checked = door.principal(token).and_then(|principal| {
            self.sync
                .engine
                .check_tenant(&principal, self.tenant.id())?;
            if principal.user != self.principal.user {
                return Err(SqlError::new(
                    ErrorCode::InvalidAuthorization,
                    "the token is another user's",
                ));
            }
            Ok(principal)
        });
        let answer = match checked {
            Ok(principal) => {
                let expires_ms = expires_ms(&principal);
                let has_same_claims = principal.has_claims_of(&self.principal);
                self.principal = principal;
                let now_us = crate::functions::now_us(&**self.sync.engine.clock());
                self.token_due_us = token_due_us(&self.principal, now_us);
                // Policies may let other rows through.
                if !self.identify()? || !has_same_claims {
                    self.start_over(ResyncReason::RightsChanged, &[], "the token has changed");
                }
                springhead_proto::sync::TokenAnswer {
                    accepted: true,
                    expires_ms,
                    code: None,
                    message: None,
                }
            }
            Err(error) => springhead_proto::sync::TokenAnswer {
                accepted: false,
                expires_ms: None,
                code: Some(Closing::from(error.clone()).code),
                message: Some(error.message.clone()),
            },
        };
        self.out.push_back(ServerToDevice::TokenAck(answer));
        Ok(())
    }

    // ---- what the device is told ----

    /// Completes once [`SyncSession::step`] has something to do. Cancel-safe.
    ///
    /// # Errors
    /// Why the session is over.
    pub async fn ready(&mut self) -> Result<(), Closing> {
        if self.has_work() {
            return Ok(());
        }
        // A session that waits holds no room for what it has said.
        self.out = VecDeque::new();
        self.wanted = VecDeque::new();
        let engine = self.sync.engine.clone();
        let principal = Arc::clone(&self.principal);
        // Within a commit nothing is told but the rest of it.
        let due = self.due().filter(|_| self.commit.is_empty());
        let reached = due.map(|due| self.reached(due));
        tokio::select! {
            biased;
            ended = self.seat.end.changed() => {
                let code = match ended {
                    Ok(()) => self.seat.end.borrow().unwrap_or(SyncErrorCode::GoingAway),
                    Err(_) => SyncErrorCode::TakenOver,
                };
                return Err(Closing::new(code, "the device has connected again"));
            }
            error = engine.revoked(&principal) => {
                let expired = self.principal.expires_at_us.is_some_and(|at| {
                    at <= crate::functions::now_us(&**self.sync.engine.clock())
                });
                let code = if expired {
                    SyncErrorCode::TokenExpired
                } else {
                    SyncErrorCode::Unauthenticated
                };
                return Err(Closing::new(code, error.message.clone()));
            }
            () = at_moment(self.token_due_us, &**engine.clock()) => {
                self.token_due_us = None;
                self.out.extend(expires_ms(&principal).map(|expires_ms| {
                    ServerToDevice::TokenWanted(TokenWanted { expires_ms })
                }));
            }
            () = self.pushes.decided() => {}
            changed = self.catalog_changes.changed() => {
                if changed.is_err() {
                    return Err(Closing::new(SyncErrorCode::GoingAway, "the tenant is closed"));
                }
                self.definitions_due = Some(*self.catalog_changes.borrow_and_update());
            }
            changed = self.role_changes.changed() => {
                if changed.is_err() {
                    return Err(Closing::new(SyncErrorCode::GoingAway, "the server stops"));
                }
                if !self.identify()? {
                    self.start_over(ResyncReason::RightsChanged, &[], "the user's rights have changed");
                    self.definitions_due = Some(self.at);
                }
            }
            event = self.subscriber.next() => self.event = Some(event),
            () = presence_came(self.attendance.as_deref()) => {
                if let Some(frame) = self.attendance.as_ref().and_then(|attendance| attendance.take()) {
                    self.out.push_back(frame);
                }
            }
            () = there(reached) => {}
        }
        Ok(())
    }

    pub(super) fn has_work(&self) -> bool {
        !self.out.is_empty()
            || self.event.is_some()
            || self.sending.is_some()
            || !self.wanted.is_empty()
            || self.pushes.has_decided()
    }

    /// Whether definitions, rights or a channel have moved and have not been looked at.
    pub(super) fn has_news(&self) -> bool {
        self.catalog_changes.has_changed().unwrap_or(true)
            || self.role_changes.has_changed().unwrap_or(true)
            || (self.attendance.as_deref()).is_some_and(|attendance| !attendance.is_empty())
    }

    /// Whether the user may still do the same.
    fn identify(&mut self) -> Result<bool, Closing> {
        let identity = self.sync.engine.identify(&self.principal)?;
        let same = identity == self.identity;
        self.identity = identity;
        Ok(same)
    }

    /// The next frame, if there is one now. Not to be cancelled.
    ///
    /// # Errors
    /// Why the session is over.
    pub async fn step(&mut self) -> Result<Option<ServerToDevice>, Closing> {
        for frame in self.pushes.take_decided(&self.sync, &mut self.owed)? {
            self.out.push_back(frame);
        }
        if let Some(frame) = self.out.pop_front() {
            return Ok(Some(frame));
        }
        if let Some(event) = self.event.take() {
            self.on_event(event).await?;
        } else if let Some((id, sending)) = self.sending.take() {
            self.send_chunk(id, sending)?;
        } else if !self.wanted.is_empty() {
            self.open_wanted().await?;
        }
        self.look_around().await?;
        Ok(self.out.pop_front())
    }
}

/// Completes with what is waited for, if anything is. Cancel-safe.
pub(super) async fn there(reached: Option<impl Future<Output = ()>>) {
    match reached {
        Some(reached) => reached.await,
        None => std::future::pending().await,
    }
}

/// Completes when something waits in a channel of the session's. Cancel-safe.
async fn presence_came(attendance: Option<&Attendance>) {
    match attendance {
        Some(attendance) if attendance.is_empty() => attendance.inbox.came.notified().await,
        Some(_) => {}
        None => std::future::pending().await,
    }
}

/// How long before its end a new token is asked for, at most.
const TOKEN_NOTICE_US: i64 = 60_000_000;

/// When a token is to be replaced: a minute before its end, or once half of what is left of it is over,
/// so that short ones are not asked for without end.
fn token_due_us(principal: &Principal, now_us: i64) -> Option<i64> {
    let expires = principal.expires_at_us?;
    let left = expires.saturating_sub(now_us).max(0);
    Some(expires - TOKEN_NOTICE_US.min(left / 2))
}

/// Completes at a moment of the wall clock; without one never. Cancel-safe.
async fn at_moment(due_us: Option<i64>, clock: &dyn springhead_log::Clock) {
    match due_us {
        Some(due) => {
            let left = due - crate::functions::now_us(clock);
            let left = u64::try_from(left).unwrap_or(0);
            tokio::time::sleep(Duration::from_micros(left)).await;
        }
        None => std::future::pending().await,
    }
}

/// When a principal's token ends, in milliseconds since 1970.
pub(super) fn expires_ms(principal: &Principal) -> Option<u64> {
    principal
        .expires_at_us
        .and_then(|us| u64::try_from(us / 1000).ok())
}
