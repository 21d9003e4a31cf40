//! One connection's live queries, as a protocol holds them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustc_hash::{FxHashMap, FxHashSet};
use springhead_proto::{Cursor, Epoch, ErrorCode, Lsn, SqlError};
use springhead_sql::live::{LiveClass, LiveOptions, LivePlan};
use springhead_sql::plan::LiveSelect;
use tokio::time::{Instant, sleep_until};

use super::asked::{self, Asker, Params, Prepared};
use super::by_id::ById;
use super::delta::Delta;
use super::outbox::{Item, LiveEnd, LiveId, Outbox, Taken};
use super::squash::Squashed;
use super::{Live, LiveError, TenantLive};
use crate::access::Principal;
use crate::cdc::{CdcError, Start, parse_cursor, resolve_start};
use crate::session::ParamValue;
use crate::{Rows, Tenant};

/// What is asked for.
pub struct LiveRequest<'r> {
    /// A SELECT, with or without `LIVE` before it and `WITH (…)` after it.
    pub sql: &'r str,
    pub params: &'r [ParamValue<'r>],
    /// Go on from here: no snapshot, the net difference since.
    pub cursor: Option<Cursor>,
    /// Beside those of the text.
    pub options: LiveOptions,
}

/// A live query that has been opened.
pub struct Opened {
    pub id: LiveId,
    pub plan: Arc<LivePlan>,
    /// Those of the request and of the text.
    pub options: LiveOptions,
    /// The result at `lsn`; `None` if it goes on from a cursor.
    pub rows: Option<Rows>,
    /// What has changed since the cursor, if anything.
    pub delta: Option<Arc<Delta>>,
    pub lsn: Lsn,
    /// Why it begins anew, though it was to go on from a cursor.
    pub refetched: Option<String>,
}

/// What comes next for a connection.
pub enum LiveEvent {
    Change {
        id: LiveId,
        delta: Arc<Delta>,
    },
    /// All queries of the connection are at this LSN now.
    Tick(Lsn),
    /// A query that asked for it begins anew, since it could not go on.
    Refetched {
        id: LiveId,
        message: String,
        opened: Box<Opened>,
    },
    Ended {
        id: LiveId,
        end: LiveEnd,
    },
}

/// See the module's text.
pub struct Subscriber {
    pub(super) live: Arc<Live>,
    pub(super) tenant: Arc<Tenant>,
    /// `None` before the first query.
    pub(super) of: Option<Arc<TenantLive>>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) queries: ById<Query>,
    /// Net differences that are to be handed out.
    pub(super) ready: VecDeque<LiveEvent>,
    /// Changes have been dropped, and the net difference has not been made yet.
    pub(super) is_behind: bool,
    /// Queries with a pause between changes, and what they wait with.
    pub(super) squashed: FxHashMap<LiveId, Squashed>,
    /// Queries that begin anew where they cannot go on.
    refetching: FxHashSet<LiveId>,
    /// A query that is to begin anew, and why.
    anew: Option<(LiveId, String)>,
    /// Changes of a commit have been handed out, and its tick has not: it is due whatever becomes of
    /// their queries and of what waits.
    pub(super) owes_tick: bool,
}

/// How often a query is planned again whose definitions change while it is opened.
const ATTEMPTS: usize = 3;

pub(super) struct Query {
    pub prepared: Prepared,
    /// The last LSN handed out.
    pub at: Lsn,
}

/// Waits for something to come for a connection, while others have the [`Subscriber`].
#[derive(Clone)]
pub struct LiveWaiter(Arc<Outbox>);

impl LiveWaiter {
    /// Completes when there is something to take. Cancel-safe.
    pub async fn ready(&self) {
        while matches!(self.0.peek(), Taken::Empty) {
            self.0.came.notified().await;
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        if let Some(of) = &self.of {
            of.leave(self.ids());
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
            queries: ById::default(),
            ready: VecDeque::new(),
            is_behind: false,
            squashed: FxHashMap::default(),
            refetching: FxHashSet::default(),
            anew: None,
            owes_tick: false,
        }
    }

    /// The live queries that are open, oldest first.
    #[must_use]
    pub fn ids(&self) -> Vec<LiveId> {
        self.queries.ids().collect()
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

    /// A query is to begin anew, and has not yet.
    pub(super) fn begins_anew(&self) -> bool {
        self.anew.is_some()
    }

    /// For waiting without holding the subscriber.
    #[must_use]
    pub fn waiter(&self) -> LiveWaiter {
        LiveWaiter(Arc::clone(&self.outbox))
    }

    /// When a change that is held back may go out.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.squash_due()
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
        let (asker, select, params) = self.plan(principal, request).await?;
        let wants_rows = select.options.snapshot != Some(false);
        self.open_select(asker, &select, params, request.cursor, wants_rows)
            .await
    }

    async fn plan(
        &self,
        principal: &Arc<Principal>,
        request: &LiveRequest<'_>,
    ) -> Result<(Asker, LiveSelect, Params), LiveError> {
        let asker = asked::asker(&self.live.engine, &self.tenant, principal).await?;
        let recompute = request.options.recompute;
        let mut select = asked::plan(&self.tenant, request.sql, recompute, &asker.context)?;
        let params = asked::convert(&select.plan, request.params)?;
        select.options = asked::options(&request.options, select.options);
        Ok((asker, select, params))
    }

    /// A query that nobody keeps.
    pub(super) async fn prepare(
        &self,
        principal: &Arc<Principal>,
        request: &LiveRequest<'_>,
    ) -> Result<Prepared, LiveError> {
        let (asker, select, params) = self.plan(principal, request).await?;
        let asked = self.live.of(&self.tenant)?.asked.share(asker, &select);
        Ok(Prepared { asked, params })
    }

    /// Opens a query that has been planned; without `cursor` from that of its options. The rows of a
    /// filter that nobody wants are not read.
    pub(crate) async fn open_select(
        &mut self,
        asker: Asker,
        select: &LiveSelect,
        params: Params,
        cursor: Option<Cursor>,
        wants_rows: bool,
    ) -> Result<Opened, LiveError> {
        let most = self.live.limits.per_connection;
        if self.queries.len() >= most {
            let error = SqlError::new(
                ErrorCode::TooManyConnections,
                format!("the connection has {most} live queries already"),
            );
            return Err(error
                .with_hint("cancel some, or raise live_per_connection")
                .into());
        }
        let options = select.options.clone();
        let cursor = match (cursor, &options.cursor) {
            (Some(cursor), _) => Some(cursor),
            (None, Some(text)) => Some(parse_cursor(text)?),
            (None, None) => None,
        };
        let of = self.live.of(&self.tenant)?;
        let mut prepared = Prepared {
            asked: of.asked.share(asker, select),
            params,
        };
        let id = LiveId(self.live.next_id.fetch_add(1, Ordering::Relaxed));
        let has_cursor = cursor.is_some();
        let mut opened = self.open_prepared(id, &prepared, cursor, wants_rows).await;
        let mut refetched = None;
        for _ in 0..ATTEMPTS {
            match opened {
                // Who begins without a cursor does not mind that definitions have changed meanwhile.
                Err(error) if error.is_refetch() && (options.refetch || !has_cursor) => {
                    refetched = has_cursor.then(|| error.to_string());
                    opened = self
                        .open_again(id, &mut prepared, has_cursor || wants_rows)
                        .await;
                }
                _ => break,
            }
        }
        let mut opened = opened?;
        opened.refetched = refetched;
        if options.squash_ms > 0 {
            let squashed = Squashed::new(options.squash_ms);
            self.squashed.insert(id, squashed);
        }
        if options.refetch {
            self.refetching.insert(id);
        }
        opened.options = options;
        let at = opened.lsn;
        self.queries.insert(id, Query { prepared, at });
        Ok(opened)
    }

    async fn open_prepared(
        &mut self,
        id: LiveId,
        query: &Prepared,
        cursor: Option<Cursor>,
        wants_rows: bool,
    ) -> Result<Opened, LiveError> {
        let cursor = match cursor {
            None => None,
            Some(cursor) => {
                let log = Arc::clone(self.live.engine.log());
                let start = resolve_start(&self.tenant, &*log, Start::After(cursor)).await;
                Some(start.map_err(CdcError::from)?)
            }
        };
        // What anyone was told of is in the snapshot of whoever comes now.
        self.tenant.wait_visible(self.tenant.acknowledged()).await?;
        let of = self.subscribe(id, query).await?;
        let opened = if query.plan().class == LiveClass::Rows {
            self.open_filter(&of, id, query, cursor, wants_rows).await
        } else {
            self.open_copied(&of, id, query, cursor).await
        };
        if opened.is_err() {
            of.leave(vec![id]);
        }
        opened
    }

    async fn subscribe(
        &mut self,
        id: LiveId,
        query: &Prepared,
    ) -> Result<Arc<TenantLive>, LiveError> {
        loop {
            let of = self.live.of(&self.tenant)?;
            let (outbox, query) = (Arc::clone(&self.outbox), query.clone());
            let subscribed = of
                .with_core(move |core| (!core.is_over).then(|| core.subscribe(id, &outbox, query)));
            if let Some(result) = subscribed.await? {
                result?;
                self.of = Some(Arc::clone(&of));
                return Ok(of);
            }
        }
    }

    /// Ends a live query; false if there is none of that id.
    pub fn close(&mut self, id: LiveId) -> bool {
        let known = self.forget(id);
        if known && let Some(of) = &self.of {
            of.leave(vec![id]);
        }
        known
    }

    /// The connection goes on for `principal`. Queries of the same user with the same claims go on as
    /// they are; any other is planned again: it begins anew, or ends with why it may not go on.
    pub async fn change_principal(&mut self, principal: &Arc<Principal>) {
        for id in self.ids() {
            if let Err(error) = self.hand_over(id, principal).await {
                self.forget(id);
                if let Some(of) = &self.of {
                    of.leave(vec![id]);
                }
                let end = LiveEnd::Failed(error);
                self.ready.push_back(LiveEvent::Ended { id, end });
            }
        }
    }

    async fn hand_over(&mut self, id: LiveId, principal: &Arc<Principal>) -> Result<(), SqlError> {
        let (Some(query), Some(of)) = (self.queries.get(id), self.of.clone()) else {
            return Ok(());
        };
        let old = query.prepared.clone();
        let asker = asked::asker(&self.live.engine, &self.tenant, principal).await?;
        let select = asked::plan(
            &self.tenant,
            &old.asked.sql,
            old.asked.recompute,
            &asker.context,
        )?;
        let sees_the_same = asker.who.sees_as(&old.asked.who) && select.plan.sql == old.plan().sql;
        let prepared = Prepared {
            asked: of.asked.share(asker, &select),
            params: old.params,
        };
        if sees_the_same {
            let adopted = prepared.clone();
            of.with_core(move |core| core.adopt(id, adopted)).await??;
            if let Some(query) = self.queries.get_mut(id) {
                query.prepared = prepared;
            }
            return Ok(());
        }
        of.with_core(move |core| core.unsubscribe(id)).await?;
        if let Some(query) = self.queries.get_mut(id) {
            query.prepared = prepared;
        }
        let event = self
            .begin_anew(id, "the connection goes on for another user")
            .await;
        self.ready.push_back(event);
        Ok(())
    }

    /// Opens a query of the connection again, which is subscribed no more.
    async fn begin_anew(&mut self, id: LiveId, message: &str) -> LiveEvent {
        let Some(query) = self.queries.get(id) else {
            return LiveEvent::Tick(Lsn::ZERO);
        };
        let mut prepared = query.prepared.clone();
        let opened = Box::pin(self.open_again(id, &mut prepared, true)).await;
        match opened {
            Ok(opened) => {
                let at = opened.lsn;
                self.queries.insert(id, Query { prepared, at });
                if let Some(squashed) = self.squashed.get_mut(&id) {
                    squashed.clear();
                }
                LiveEvent::Refetched {
                    id,
                    message: message.to_owned(),
                    opened: Box::new(opened),
                }
            }
            Err(error) => {
                self.forget(id);
                let end = error.end();
                LiveEvent::Ended { id, end }
            }
        }
    }

    /// Plans a query again, against what is defined and allowed now, and opens it from the beginning.
    async fn open_again(
        &mut self,
        id: LiveId,
        prepared: &mut Prepared,
        wants_rows: bool,
    ) -> Result<Opened, LiveError> {
        let old = Arc::clone(&prepared.asked);
        let (select, context) = old.plan_again(&self.live.engine, &self.tenant)?;
        // Parameters are values of the types that they had.
        if select.plan.parameters != old.plan.parameters {
            let message = "its parameters have other types now";
            return Err(LiveError::Refetch(message.to_owned()));
        }
        let asker = Asker {
            who: old.who.clone(),
            context,
            session: Arc::clone(&old.session),
            settings: old.settings.clone(),
        };
        prepared.asked = self.live.of(&self.tenant)?.asked.share(asker, &select);
        self.open_prepared(id, prepared, None, wants_rows).await
    }

    /// The next event, as soon as there is one. Cancel-safe.
    pub async fn next(&mut self) -> LiveEvent {
        loop {
            if let Some(event) = self.try_next().await {
                return event;
            }
            match self.squash_due() {
                None => self.outbox.came.notified().await,
                Some(due) => {
                    tokio::select! {
                        () = self.outbox.came.notified() => {}
                        () = sleep_until(due) => {}
                    }
                }
            }
        }
    }

    /// The next event, if there is one now. Cancel-safe. What seldom happens is on the heap, since
    /// connections wait with a future of this size.
    pub async fn try_next(&mut self) -> Option<LiveEvent> {
        let event = self.take_next().await;
        match event {
            Some(LiveEvent::Change { .. }) => self.owes_tick = true,
            Some(LiveEvent::Tick(_)) => self.owes_tick = false,
            _ => {}
        }
        event
    }

    async fn take_next(&mut self) -> Option<LiveEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if let Some((id, message)) = self.anew.clone() {
                // Cancelled, it begins again.
                let event = Box::pin(self.begin_anew(id, &message)).await;
                self.anew = None;
                return Some(event);
            }
            if self.is_behind {
                Box::pin(self.catch_up()).await;
                continue;
            }
            match self.outbox.take() {
                Taken::Empty => {
                    if self.squash_due().is_some_and(|due| due <= Instant::now()) {
                        Box::pin(self.release_squashed()).await;
                        continue;
                    }
                    return None;
                }
                Taken::Lagged => self.is_behind = true,
                Taken::Item(Item::Tick(lsn)) => {
                    if self.owes_tick || self.queries.values().any(|query| query.at >= lsn) {
                        return Some(LiveEvent::Tick(lsn));
                    }
                }
                Taken::Item(Item::Ended { id, end }) => {
                    if let Some(event) = self.ended(id, end) {
                        return Some(event);
                    }
                }
                Taken::Item(Item::Change { id, delta }) => {
                    if let Some(event) = self.changed(id, delta) {
                        return Some(event);
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

    /// A query has ended: it begins anew, if it is to.
    pub(super) fn ended(&mut self, id: LiveId, end: LiveEnd) -> Option<LiveEvent> {
        if !self.queries.has(id) {
            return None;
        }
        if let (true, LiveEnd::MustRefetch { message }) = (self.refetching.contains(&id), &end) {
            self.anew = Some((id, message.clone()));
            return None;
        }
        self.forget(id);
        Some(LiveEvent::Ended { id, end })
    }

    /// Whether it was known.
    fn forget(&mut self, id: LiveId) -> bool {
        self.squashed.remove(&id);
        self.refetching.remove(&id);
        self.queries.remove(id).is_some()
    }

    fn changed(&mut self, id: LiveId, delta: Arc<Delta>) -> Option<LiveEvent> {
        let query = self.queries.get_mut(id)?;
        // What comes before its start is in its snapshot.
        if delta.lsn <= query.at {
            return None;
        }
        if let Some(squashed) = self.squashed.get_mut(&id) {
            squashed.hold(&delta);
            return None;
        }
        query.at = delta.lsn;
        Some(LiveEvent::Change { id, delta })
    }
}
