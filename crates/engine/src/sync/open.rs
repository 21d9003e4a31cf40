//! How sessions and shapes begin.

use std::sync::Arc;

use springhead_proto::sync::{
    DeltaChange, Generation, Handshake, HandshakeAck, MutationId, PROTOCOL_VERSION, ProducerId,
    Refused, ResyncReason, Seq, ServerToDevice, Subscription, SyncErrorCode, SyncValue,
};
use springhead_proto::{Cursor, ErrorCode, Lsn, SqlError, TenantId, Value};
use springhead_sql::PlanKind;
use springhead_sql::access::Identity;

use super::session::{Closing, Door, Parts, Peer, SyncSession, expires_ms};
use super::shape::{OpenShape, Resume, Sending, ShapeQuery, params as shape_params, texts};
use super::{Author, Producer, Sync};
use crate::Tenant;
use crate::access::Principal;
use crate::cdc::CdcError;
use crate::live::{Entry, LiveError, LiveOptions, LiveRequest};

/// A session with its answer to the handshake; boxed, since it is large beside a refusal.
pub type Opened = (Box<SyncSession>, HandshakeAck);

impl SyncSession {
    /// Answers a handshake. `principal` is whoever the connection's own credentials stand for, if it
    /// has any; `tenant` the one that it named.
    ///
    /// # Errors
    /// Why there is no session.
    pub async fn open(
        sync: &Arc<Sync>,
        hello: Handshake,
        principal: Option<Arc<Principal>>,
        tenant: Option<TenantId>,
        peer: Peer,
        door: &dyn Door,
    ) -> Result<Opened, Refused> {
        let opened = SyncSession::try_open(sync, hello, principal, tenant, peer, door).await;
        opened.map_err(|closing| Refused {
            after_ms: closing.code.may_reconnect().then_some(AGAIN_MS),
            code: closing.code,
            message: closing.message,
            hint: None,
            protocols: [PROTOCOL_VERSION, PROTOCOL_VERSION],
        })
    }

    async fn try_open(
        sync: &Arc<Sync>,
        hello: Handshake,
        principal: Option<Arc<Principal>>,
        tenant: Option<TenantId>,
        peer: Peer,
        door: &dyn Door,
    ) -> Result<Opened, Closing> {
        let (principal, identity, tenant) = admit(sync, &hello, principal, tenant, door).await?;
        let (engine, tenant_id) = (&sync.engine, tenant.id());
        let limits = &sync.limits.device;
        if hello.shapes.len() > limits.max_shapes as usize {
            return Err(Closing::new(
                SyncErrorCode::LimitExceeded,
                format!("a session has at most {} shapes", limits.max_shapes),
            ));
        }
        let next_seq = next_seq(&tenant, &principal, hello.producer, hello.generation).await?;
        let Some(seat) = sync.sit(tenant_id, hello.producer) else {
            return Err(Closing::new(
                SyncErrorCode::TooManySessions,
                "the tenant has as many sessions as it may",
            ));
        };
        let catalog_changes = tenant.published().watch_catalog();
        let definitions = sync.definitions.of(&tenant, &identity).await?;
        let epoch = engine.log().tail().epoch;
        let visible = tenant.visible();
        let session_id = format!("{:08x}-{}", epoch.0, seat.number);
        let mut session = SyncSession::new(Parts {
            sync: Arc::clone(sync),
            at: (hello.cursor).map_or(Lsn::ZERO, |cursor| cursor.lsn.min(visible)),
            principal: Arc::clone(&principal),
            identity,
            seat,
            session_id: session_id.clone(),
            hello: Handshake {
                shapes: Vec::new(),
                token: None,
                ..hello.clone()
            },
            peer,
            definitions: Arc::clone(&definitions),
            catalog_changes,
            tenant: Arc::clone(&tenant),
        });
        if (hello.catalog_version, hello.catalog_hash) != (definitions.version, definitions.hash) {
            let cursor = session.cursor(session.at);
            session.tell_definitions(definitions.frames(cursor));
        }
        session.accept_shapes(&hello).await;
        // The device hears when it is where the answer says that the server is.
        session.owed.up_to = visible;
        let ack = HandshakeAck {
            protocol: PROTOCOL_VERSION,
            session: session_id,
            user: principal.user.to_string(),
            cursor: Cursor::new(visible, epoch),
            server_ms: session.now_ms(),
            next_seq,
            catalog_version: definitions.version,
            catalog_hash: definitions.hash,
            limits: *limits,
            token_expires_ms: expires_ms(&principal),
        };
        Ok((Box::new(session), ack))
    }

    /// The shapes of the handshake: gone on with if the device's cursor is one to go on from.
    async fn accept_shapes(&mut self, hello: &Handshake) {
        let usable = match hello.cursor {
            None => None,
            Some(cursor) => {
                let log = Arc::clone(self.sync.engine.log());
                let start = crate::cdc::Start::After(cursor);
                match crate::cdc::resolve_start(&self.tenant, &*log, start).await {
                    Ok(_) => Some(cursor),
                    Err(error) => {
                        let message = CdcError::from(error).to_string();
                        self.at = Lsn::ZERO;
                        let shapes = hello.shapes.iter().map(|wanted| wanted.shape.id).collect();
                        self.resync(reason(&message), shapes, message);
                        None
                    }
                }
            }
        };
        for wanted in &hello.shapes {
            self.want(Subscription {
                complete: wanted.complete && usable.is_some(),
                resume: wanted.resume.clone(),
                shape: wanted.shape.clone(),
            });
        }
    }

    /// Goes on with the shapes that the device has: one delta brings all of them to one cursor.
    pub(super) async fn open_complete(&mut self) -> Result<(), Closing> {
        let from = self.cursor(self.at);
        let mut changes: Vec<DeltaChange> = Vec::new();
        // Each shape is opened at the position of its moment.
        let mut reached: Option<Lsn> = None;
        for wanted in self.take_complete() {
            let id = wanted.shape.id;
            match self.follow(&wanted, Some(from)).await {
                Ok((mut open, opened)) => {
                    open.from = from.lsn;
                    if let Some(delta) = &opened.delta {
                        let entries = delta.entries.iter();
                        changes.extend(entries.filter_map(|entry| open.change(delta.lsn, entry)));
                    }
                    open.from = opened.lsn;
                    reached = reached.max(Some(opened.lsn));
                    self.shapes.push(open);
                }
                Err(LiveError::Sql(error)) => self.shape_failed(id, &error),
                Err(LiveError::Refetch(message)) => {
                    self.resync(ResyncReason::CursorExpired, vec![id], message);
                    self.want(Subscription {
                        complete: false,
                        resume: None,
                        ..wanted
                    });
                }
                Err(LiveError::Refused(refused)) => {
                    let message = refused.to_string();
                    self.resync(reason(&message), vec![id], message);
                    self.want(Subscription {
                        complete: false,
                        resume: None,
                        ..wanted
                    });
                }
            }
        }
        if let Some(reached) = reached {
            // What the others have missed up to the last one's belongs to the same delta: its cursor has
            // to be true of all of them, or the device would ask for differences from a wrong place.
            self.collected = Some(changes);
            self.drain(reached).await?;
            let changes = self.collected.take().unwrap_or_default();
            self.catch_up(reached, changes);
        }
        Ok(())
    }

    /// Subscribes to a shape, and reads its snapshot or the rest of it.
    ///
    /// # Errors
    /// [`LiveError::Refetch`] if definitions have changed between its two steps.
    pub(super) async fn open_shape(&mut self, wanted: &Subscription) -> Result<Sending, LiveError> {
        let resume = wanted.resume.clone();
        // Followed from before the snapshot, so that nothing falls in between.
        let now = self.cursor(self.tenant.visible());
        let (mut open, opened) = self.follow(wanted, Some(now)).await?;
        let resume = match resume.as_deref().and_then(|token| open.resume(token)) {
            Some(resume) => self.changes_since(wanted, &open, &resume).await,
            None => None,
        };
        let after = resume.as_ref().map(|(resume, _)| resume.key.clone());
        let read = self.read(wanted, &open, after.as_deref(), opened.lsn).await;
        if read.is_err() {
            self.subscriber().close(opened.id);
        }
        let sending = read?;
        open.from = sending.lsn;
        if let Some((resume, changes)) = resume {
            open.has_up_to(&resume.key)?;
            // In the same commit for the device as the last chunk it has.
            self.early(changes);
        }
        self.shapes.reserve_exact(1);
        self.shapes.push(open);
        Ok(sending)
    }

    /// Opens the live query of a shape.
    async fn follow(
        &mut self,
        wanted: &Subscription,
        cursor: Option<Cursor>,
    ) -> Result<(OpenShape, crate::live::Opened), LiveError> {
        let query = ShapeQuery::of(&self.tenant.catalog(), &wanted.shape)?;
        let texts = texts(&wanted.shape.params);
        let params = shape_params(&wanted.shape.params, &texts);
        let request = LiveRequest {
            sql: &query.sql,
            params: &params,
            cursor,
            options: LiveOptions::default(),
        };
        let principal = Arc::clone(&self.principal);
        let opened = self.subscriber().open(&principal, &request).await?;
        if !opened.plan.is_keyed || opened.plan.columns.len() != query.columns.len() {
            self.subscriber().close(opened.id);
            return Err(SqlError::new(
                ErrorCode::FeatureNotSupported,
                "a shape is one collection's rows",
            )
            .into());
        }
        let open = OpenShape::new(wanted.shape.clone(), &query, opened.id, &opened.plan);
        Ok((open, opened))
    }

    /// What happened since a snapshot that was cut off to the rows that the device has of it; `None`
    /// if the log does not tell any more.
    async fn changes_since(
        &mut self,
        wanted: &Subscription,
        open: &OpenShape,
        resume: &Resume,
    ) -> Option<(Resume, Vec<DeltaChange>)> {
        let query = ShapeQuery::of(&self.tenant.catalog(), &wanted.shape).ok()?;
        let texts = texts(&wanted.shape.params);
        let params = shape_params(&wanted.shape.params, &texts);
        let request = LiveRequest {
            sql: &query.sql,
            params: &params,
            cursor: None,
            options: LiveOptions::default(),
        };
        let principal = Arc::clone(&self.principal);
        let touched = self
            .subscriber()
            .touched_since(&principal, &request, resume.cursor);
        // It may have been told of some of them before it was cut off again: a net difference would not be
        // one for it.
        let (plan, lsn, entries) = touched.await.ok()?;
        let shape = |from| {
            let mut shape = OpenShape::new(wanted.shape.clone(), &query, open.live, &plan);
            shape.from = from;
            shape
        };
        let (mut had, any) = (shape(Lsn(u64::MAX)), shape(Lsn::ZERO));
        had.has_up_to(&resume.key).ok()?;
        debug_assert_eq!(had.key, open.key);
        let changes = entries.iter().filter_map(|entry| match entry {
            // Of rows after the key too: what is in no chunk any more may have come by a delta.
            Entry::Removed { .. } => any.change(lsn, entry),
            _ => had.change(lsn, entry),
        });
        Some((resume.clone(), changes.collect()))
    }

    /// Reads a shape's rows, those after a key alone if there is one.
    async fn read(
        &mut self,
        wanted: &Subscription,
        open: &OpenShape,
        after: Option<&[SyncValue]>,
        at_least: Lsn,
    ) -> Result<Sending, LiveError> {
        for _ in 0..REPLANS {
            let catalog = self.tenant.catalog();
            let query = ShapeQuery::of(&catalog, &wanted.shape)?;
            if !open.is_of(&query) {
                break;
            }
            let author = Author::new(&self.sync.engine, &self.principal)?;
            let sql = query.snapshot(wanted.shape.params.len(), after.is_some());
            let plan = self
                .tenant
                .plans
                .text(&catalog, &sql, &[], &author.plan_context)?;
            let given = wanted.shape.params.iter().chain(after.unwrap_or_default());
            let values: Vec<Value> = (plan.parameters.iter().zip(given))
                .map(|(parameter, value)| super::value::to_storage(&parameter.pg_type, value))
                .collect::<Result<_, _>>()?;
            let version = plan.catalog_version;
            let published = Arc::clone(self.tenant.published());
            let memory = self.sync.limits.snapshot_memory_bytes;
            let producer = self.producer;
            (*author.session.library.lock()).clone_from(&plan.library);
            let session = Arc::clone(&author.session);
            let read = self
                .tenant
                .read(session, Arc::default(), move |snapshot, session, cancel| {
                    let catalog = published.catalog_at(snapshot.applied);
                    if catalog.is_none_or(|catalog| catalog.version != version) {
                        return Ok(None);
                    }
                    let PlanKind::Query(query) = &plan.kind else {
                        return Err(SqlError::new(ErrorCode::Internal, "a shape is a query"));
                    };
                    let rows =
                        snapshot.query_within(&query.sql, &values, session, cancel, memory)?;
                    let decided = Producer::find(snapshot.connection(), producer)
                        .map_err(|error| crate::readers::translate_plain(&error))?;
                    Ok(Some((rows, snapshot.applied, decided)))
                })
                .await?;
            let Some((rows, applied, decided)) = read else {
                tokio::task::yield_now().await;
                continue;
            };
            let decided = decided.map(|decided| MutationId {
                producer,
                generation: decided.generation,
                seq: decided.seq,
            });
            return Ok(Sending {
                rows,
                is_first: after.is_none(),
                lsn: applied.max(at_least).max(self.at),
                decided: decided.into_iter().collect(),
            });
        }
        Err(LiveError::Refetch(
            "the definitions have changed under the snapshot".to_owned(),
        ))
    }

    /// Changes of rows that the device has already, at the cursor that it is at.
    fn early(&mut self, changes: Vec<DeltaChange>) {
        if changes.is_empty() {
            return;
        }
        self.out
            .push_back(ServerToDevice::Delta(springhead_proto::sync::Delta {
                cursor: self.cursor(self.at),
                timestamp_ms: None,
                own: None,
                changes,
                more: false,
            }));
    }
}

/// Who a device is for, what it may do, and where.
type Admitted = (Arc<Principal>, Arc<Identity>, Arc<Tenant>);

/// Takes a handshake's word for it, and the credentials'.
async fn admit(
    sync: &Sync,
    hello: &Handshake,
    principal: Option<Arc<Principal>>,
    tenant: Option<TenantId>,
    door: &dyn Door,
) -> Result<Admitted, Closing> {
    if hello.protocol < PROTOCOL_VERSION {
        return Err(Closing::new(
            SyncErrorCode::UnsupportedVersion,
            format!("this server speaks version {PROTOCOL_VERSION}"),
        ));
    }
    let engine = &sync.engine;
    let principal = match &hello.token {
        Some(token) => door.principal(token)?,
        None => principal
            .ok_or_else(|| Closing::new(SyncErrorCode::Unauthenticated, "a token is needed"))?,
    };
    let identity = engine.identify(&principal)?;
    let tenant_id = match &hello.tenant {
        Some(name) => engine.tenant_id(name)?,
        None => tenant
            .or_else(|| engine.tenant_of(&principal))
            .unwrap_or(TenantId::DEFAULT),
    };
    engine.check_tenant(&principal, tenant_id)?;
    let tenant = engine.tenant(tenant_id).await?;
    // What anyone was told of is known to whoever comes now.
    tenant.wait_visible(tenant.acknowledged()).await?;
    Ok((principal, identity, tenant))
}

/// A snapshot whose definitions change under it is read again so often.
const REPLANS: usize = 8;

/// After how long a device that was refused for a moment comes back.
const AGAIN_MS: u64 = 1_000;

/// The seq that is expected of a producer.
async fn next_seq(
    tenant: &Tenant,
    principal: &Principal,
    producer: ProducerId,
    generation: Generation,
) -> Result<Seq, Closing> {
    let known = tenant
        .read(Arc::default(), Arc::default(), move |snapshot, _, _| {
            Producer::find(snapshot.connection(), producer)
                .map_err(|error| crate::readers::translate_plain(&error))
        })
        .await?;
    let Some(known) = known else {
        return Ok(Seq::FIRST);
    };
    if known.username != *principal.user || generation < known.generation {
        return Err(Closing::new(
            SyncErrorCode::ProducerFenced,
            "the producer is another's, or its generation is over",
        ));
    }
    if generation > known.generation {
        return Ok(Seq::FIRST);
    }
    Ok(known.seq.next())
}

fn reason(message: &str) -> ResyncReason {
    if message.contains("fork") {
        ResyncReason::CursorForked
    } else if message.contains("future") {
        ResyncReason::CursorInFuture
    } else {
        ResyncReason::CursorExpired
    }
}
