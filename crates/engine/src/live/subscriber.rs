//! One connection's live queries, as a protocol holds them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustc_hash::FxHashMap;
use springhead_proto::{Cursor, Epoch, ErrorCode, Lsn, SqlError, Value};
use springhead_sql::live::{LiveClass, LivePlan, plan_live, strip_live};
use springhead_sql::planner::PlanContext;
use springhead_sql::types::{input, input_binary, input_json};

use super::core::{Initial, Prepared, Waiting};
use super::delta::{Delta, Entry};
use super::outbox::{Item, LiveEnd, LiveId, Outbox, Taken};
use super::resume::filter_difference;
use super::{Live, LiveError, TenantLive};
use crate::access::Principal;
use crate::cdc::{CdcError, Start, resolve_start};
use crate::rows::RowsWriter;
use crate::session::ParamValue;
use crate::{Rows, Tenant};

/// What is asked for.
pub struct LiveRequest<'r> {
    /// A SELECT, with or without `LIVE` before it and `WITH (recompute)` after it.
    pub sql: &'r str,
    pub params: &'r [ParamValue<'r>],
    /// Go on from here: no snapshot, the net difference since.
    pub cursor: Option<Cursor>,
}

/// A live query that has been opened.
pub struct Opened {
    pub id: LiveId,
    pub plan: Arc<LivePlan>,
    /// The result at `lsn`; `None` if it goes on from a cursor.
    pub rows: Option<Rows>,
    /// What has changed since the cursor, if anything.
    pub delta: Option<Arc<Delta>>,
    pub lsn: Lsn,
}

/// What comes next for a connection.
pub enum LiveEvent {
    Change {
        id: LiveId,
        delta: Arc<Delta>,
    },
    /// All queries of the connection are at this LSN now.
    Tick(Lsn),
    Ended {
        id: LiveId,
        end: LiveEnd,
    },
}

/// See the module's text.
pub struct Subscriber {
    live: Arc<Live>,
    tenant: Arc<Tenant>,
    /// `None` before the first query.
    of: Option<Arc<TenantLive>>,
    outbox: Arc<Outbox>,
    queries: FxHashMap<LiveId, Query>,
    /// Net differences that are to be handed out.
    ready: VecDeque<LiveEvent>,
    /// Changes have been dropped, and the net difference has not been made yet.
    is_behind: bool,
}

struct Query {
    asked: Prepared,
    /// The last LSN handed out.
    at: Lsn,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        if let Some(of) = &self.of {
            let ids: Vec<LiveId> = self.queries.keys().copied().collect();
            let mut core = of.core.lock();
            ids.into_iter().for_each(|id| core.unsubscribe(id));
            drop(core);
            of.kick();
        }
    }
}

impl Subscriber {
    /// A connection to a tenant, without queries yet.
    #[must_use]
    pub fn new(live: &Arc<Live>, tenant: Arc<Tenant>) -> Subscriber {
        Subscriber {
            outbox: Outbox::new(live.limits.outbox_bytes),
            live: Arc::clone(live),
            tenant,
            of: None,
            queries: FxHashMap::default(),
            ready: VecDeque::new(),
            is_behind: false,
        }
    }

    /// The live queries that are open, oldest first.
    #[must_use]
    pub fn ids(&self) -> Vec<LiveId> {
        let mut ids: Vec<LiveId> = self.queries.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Live queries that are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queries.is_empty()
    }

    #[must_use]
    pub fn tenant(&self) -> &Arc<Tenant> {
        &self.tenant
    }

    /// The epoch of cursors that go out now.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.live.engine.log().tail().epoch
    }

    /// Opens a live query for `principal`.
    ///
    /// # Errors
    /// What is wrong with the query; 0A000 with the reason if it cannot be kept true;
    /// [`LiveError::Refused`] and [`LiveError::Refetch`] for a cursor that cannot be gone on from.
    pub async fn open(
        &mut self,
        principal: &Arc<Principal>,
        request: &LiveRequest<'_>,
    ) -> Result<Opened, LiveError> {
        let asked = prepare(&self.live, &self.tenant, principal, request).await?;
        let cursor = match request.cursor {
            None => None,
            Some(cursor) => {
                let log = Arc::clone(self.live.engine.log());
                let start = resolve_start(&self.tenant, &*log, Start::After(cursor)).await;
                Some(start.map_err(CdcError::from)?)
            }
        };
        // What anyone was told of is in the snapshot of whoever comes now.
        self.tenant.wait_visible(self.tenant.acknowledged()).await?;
        let id = LiveId(self.live.next_id.fetch_add(1, Ordering::Relaxed));
        let of = self.subscribe(id, &asked).await?;
        let opened = if asked.plan.class == LiveClass::Rows {
            self.open_filter(&of, id, &asked, cursor).await
        } else {
            self.open_copied(&of, id, &asked, cursor).await
        };
        match opened {
            Ok(opened) => {
                let at = opened.lsn;
                self.queries.insert(id, Query { asked, at });
                Ok(opened)
            }
            Err(error) => {
                of.core.lock().unsubscribe(id);
                of.kick();
                Err(error)
            }
        }
    }

    async fn subscribe(
        &mut self,
        id: LiveId,
        asked: &Prepared,
    ) -> Result<Arc<TenantLive>, SqlError> {
        loop {
            let of = self.live.of(&self.tenant)?;
            let (outbox, asked) = (Arc::clone(&self.outbox), asked.clone());
            let subscribed = of
                .with_core(move |core| (!core.is_over).then(|| core.subscribe(id, &outbox, asked)));
            if let Some(result) = subscribed.await? {
                result?;
                self.of = Some(Arc::clone(&of));
                return Ok(of);
            }
        }
    }

    /// A filter of one table: the snapshot is read after the subscription, so that what comes in
    /// between is in both, and is dropped from the changes.
    async fn open_filter(
        &self,
        of: &Arc<TenantLive>,
        id: LiveId,
        asked: &Prepared,
        cursor: Option<Lsn>,
    ) -> Result<Opened, LiveError> {
        let plan = Arc::clone(&asked.plan);
        if let Some(cursor) = cursor {
            let lsn = self.tenant.visible();
            let entries = self.filter_since(of, asked, cursor, lsn).await?;
            return Ok(Opened {
                id,
                rows: None,
                delta: delta(&plan, lsn, entries),
                plan,
                lsn,
            });
        }
        let params = asked.params.to_vec();
        let (sql, version) = (plan.sql.clone(), plan.catalog_version);
        let published = Arc::clone(self.tenant.published());
        let read = self
            .tenant
            .read(
                Arc::clone(&asked.session),
                Arc::default(),
                move |snapshot, session, cancel| {
                    let catalog = published.catalog_at(snapshot.applied);
                    if catalog.is_none_or(|catalog| catalog.version != version) {
                        return Ok(None);
                    }
                    let rows = snapshot.query(&sql, &params, session, cancel)?;
                    Ok(Some((rows, snapshot.lsn)))
                },
            )
            .await?;
        let (rows, lsn) =
            read.ok_or_else(|| LiveError::Refetch("definitions changed meanwhile".to_owned()))?;
        Ok(Opened {
            id,
            plan,
            rows: Some(rows),
            delta: None,
            lsn,
        })
    }

    async fn filter_since(
        &self,
        of: &Arc<TenantLive>,
        asked: &Prepared,
        from: Lsn,
        to: Lsn,
    ) -> Result<Vec<Entry>, LiveError> {
        let (of, asked) = (Arc::clone(of), asked.clone());
        let limits = self.live.limits;
        let work = move || {
            let side = of.side.lock();
            filter_difference(&of.tenant, &side, &asked, from, to, limits)
        };
        let readers = &self.tenant.shared.readers;
        readers.call(work).await.map_err(SqlError::from)?
    }

    /// All else: the first result comes from the copies, at the LSN that they are at.
    async fn open_copied(
        &self,
        of: &Arc<TenantLive>,
        id: LiveId,
        asked: &Prepared,
        cursor: Option<Lsn>,
    ) -> Result<Opened, LiveError> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        of.with_core(move |core| core.wait_for_initial(Waiting { id, cursor, reply }))
            .await?;
        of.kick();
        let Ok(initial) = answer.await else {
            // It has ended meanwhile, and says why.
            return Err(match self.end_of(id) {
                Some(LiveEnd::Failed(error)) => error.into(),
                Some(LiveEnd::MustRefetch { message }) => LiveError::Refetch(message),
                None => LiveError::Refetch("the query ended while it was opened".to_owned()),
            });
        };
        let Initial { lsn, rows, entries } = initial?;
        let plan = Arc::clone(&asked.plan);
        let rows = match cursor {
            Some(_) => None,
            None => {
                let config = &self.tenant.shared.config;
                let mut spool =
                    RowsWriter::new(config.result_memory_bytes, config.max_result_bytes);
                for row in &rows {
                    spool.push(row.values())?;
                }
                Some(spool.finish()?)
            }
        };
        Ok(Opened {
            id,
            rows,
            delta: delta(&plan, lsn, entries),
            plan,
            lsn,
        })
    }

    /// The end of a query that is in the outbox; what else is there stays.
    fn end_of(&self, id: LiveId) -> Option<LiveEnd> {
        let mut others = Vec::new();
        let mut found = None;
        while let Taken::Item(item) = self.outbox.take() {
            match item {
                Item::Ended { id: ended, end } if ended == id => found = Some(end),
                other => others.push(other),
            }
        }
        others.into_iter().for_each(|item| self.outbox.push(item));
        found
    }

    /// Ends a live query; false if there is none of that id.
    pub fn close(&mut self, id: LiveId) -> bool {
        let known = self.queries.remove(&id).is_some();
        if known && let Some(of) = &self.of {
            of.core.lock().unsubscribe(id);
            of.kick();
        }
        known
    }

    /// The next event, as soon as there is one. Cancel-safe.
    pub async fn next(&mut self) -> LiveEvent {
        loop {
            if let Some(event) = self.try_next().await {
                return event;
            }
            self.outbox.came.notified().await;
        }
    }

    /// The next event, if there is one now.
    pub async fn try_next(&mut self) -> Option<LiveEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.is_behind {
                self.catch_up().await;
                continue;
            }
            match self.outbox.take() {
                Taken::Empty => return None,
                Taken::Lagged => self.is_behind = true,
                Taken::Item(Item::Tick(lsn)) => {
                    if self.queries.values().any(|query| query.at >= lsn) {
                        return Some(LiveEvent::Tick(lsn));
                    }
                }
                Taken::Item(Item::Ended { id, end }) => {
                    if self.queries.remove(&id).is_some() {
                        return Some(LiveEvent::Ended { id, end });
                    }
                }
                Taken::Item(Item::Change { id, delta }) => {
                    // What comes before its start is in its snapshot.
                    if let Some(query) = self.queries.get_mut(&id)
                        && delta.lsn > query.at
                    {
                        query.at = delta.lsn;
                        return Some(LiveEvent::Change { id, delta });
                    }
                }
            }
        }
    }

    /// Has the log looked at now: its end moves over what no tenant's subscriber is told of.
    pub fn look(&self) {
        if let Some(of) = &self.of {
            of.kick();
        }
    }

    /// Everything that has come up to this LSN has been handed out, if that is so now.
    #[must_use]
    pub fn progress(&mut self) -> Option<Lsn> {
        let of = self.of.as_ref()?;
        let position = of.core.lock().position;
        if self.is_behind || !self.ready.is_empty() || !matches!(self.outbox.peek(), Taken::Empty) {
            return None;
        }
        let oldest = self.queries.values().map(|query| query.at).min()?;
        Some(position.max(oldest))
    }

    /// What was not taken has been dropped: each query's net difference, all to one LSN. Cancelled,
    /// it begins again.
    async fn catch_up(&mut self) {
        let Some(of) = self.of.clone() else {
            self.outbox.recover();
            self.is_behind = false;
            return;
        };
        let copied: Vec<(LiveId, Lsn)> = (self.queries.iter())
            .filter(|(_, query)| query.asked.plan.class != LiveClass::Rows)
            .map(|(id, query)| (*id, query.at))
            .collect();
        let outbox = Arc::clone(&self.outbox);
        let looked = of
            .with_core(move |core| {
                // From here on changes are taken again, those after this position.
                outbox.recover();
                let found: Vec<_> = (copied.into_iter())
                    .map(|(id, at)| (id, core.initial(id, Some(at)).map(|found| found.entries)))
                    .collect();
                (core.position, found)
            })
            .await;
        let (position, mut found) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                let ended = self.queries.drain().map(|(id, _)| LiveEvent::Ended {
                    id,
                    end: LiveEnd::Failed(error.clone()),
                });
                self.ready.extend(ended);
                self.is_behind = false;
                return;
            }
        };
        let filters: Vec<(LiveId, Prepared, Lsn)> = (self.queries.iter())
            .filter(|(_, query)| query.asked.plan.class == LiveClass::Rows)
            .map(|(id, query)| (*id, query.asked.clone(), query.at))
            .collect();
        for (id, asked, at) in filters {
            found.push((id, self.filter_since(&of, &asked, at, position).await));
        }
        for (id, entries) in found {
            let Some(query) = self.queries.get_mut(&id) else {
                continue;
            };
            match entries {
                Ok(entries) => {
                    if let Some(delta) = delta(&query.asked.plan, position, entries) {
                        self.ready.push_back(LiveEvent::Change { id, delta });
                    }
                    query.at = query.at.max(position);
                }
                Err(error) => {
                    let end = match error {
                        LiveError::Refused(refused) => LiveEnd::MustRefetch {
                            message: refused.to_string(),
                        },
                        LiveError::Refetch(message) => LiveEnd::MustRefetch { message },
                        LiveError::Sql(error) => LiveEnd::Failed(error),
                    };
                    self.queries.remove(&id);
                    of.core.lock().unsubscribe(id);
                    self.ready.push_back(LiveEvent::Ended { id, end });
                }
            }
        }
        if !self.ready.is_empty() {
            self.ready.push_back(LiveEvent::Tick(position));
        }
        self.is_behind = false;
    }
}

fn delta(plan: &Arc<LivePlan>, lsn: Lsn, entries: Vec<Entry>) -> Option<Arc<Delta>> {
    (!entries.is_empty()).then(|| Delta::new(plan, lsn, entries))
}

/// Plans a request and converts its parameters.
async fn prepare(
    live: &Live,
    tenant: &Tenant,
    principal: &Arc<Principal>,
    request: &LiveRequest<'_>,
) -> Result<Prepared, SqlError> {
    let session = live.engine.session(tenant.id(), principal).await?;
    let (context, session) = session.contexts();
    let context = PlanContext {
        identity: live.engine.identify(principal)?,
        ..context
    };
    let (sql, recompute) = strip_live(request.sql);
    let plan = plan_live(&tenant.catalog(), sql, &[], &context, recompute)?;
    if plan.parameters.len() != request.params.len() {
        return Err(SqlError::new(
            ErrorCode::ProtocolViolation,
            format!(
                "the query takes {} parameters, and {} were given",
                plan.parameters.len(),
                request.params.len()
            ),
        ));
    }
    let params: Vec<Value> = (plan.parameters.iter().zip(request.params))
        .map(|(parameter, value)| match value {
            ParamValue::Null => Ok(Value::Null),
            ParamValue::Text(text) => input(&parameter.pg_type, text),
            ParamValue::Binary(bytes) => input_binary(&parameter.pg_type, bytes),
            ParamValue::Json(json) => input_json(&parameter.pg_type, json),
        })
        .collect::<Result<_, _>>()?;
    Ok(Prepared {
        plan: Arc::new(plan),
        sql: sql.into(),
        recompute,
        params: params.into(),
        principal: Arc::clone(principal),
        plan_context: context,
        session,
    })
}
