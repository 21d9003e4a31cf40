//! Where a live query begins: its first result, or the way from a cursor.

use std::sync::Arc;

use springhead_proto::{Cursor, Lsn, SqlError};
use springhead_sql::live::{LiveClass, LiveOptions, LivePlan};

use super::asked::Prepared;
use super::core::{Initial, Waiting};
use super::delta::{Delta, Entry};
use super::outbox::{LiveEnd, LiveId};
use super::resume::{filter_difference, touched};
use super::subscriber::{LiveRequest, Opened, Subscriber};
use super::{LiveError, TenantLive};
use crate::access::Principal;
use crate::cdc::{CdcError, Start, resolve_start};
use crate::rows::RowsWriter;

impl Subscriber {
    /// A filter of one table: the snapshot is read after the subscription, so that what comes in
    /// between is in both, and is dropped from the changes.
    pub(super) async fn open_filter(
        &self,
        of: &Arc<TenantLive>,
        id: LiveId,
        query: &Prepared,
        cursor: Option<Lsn>,
        wants_rows: bool,
    ) -> Result<Opened, LiveError> {
        let plan = Arc::clone(query.plan());
        // It is told of what comes after the commit that its definitions are of, and of nothing before.
        let since = self.tenant.published().catalog_since();
        self.tenant.when_visible(since).await;
        if !wants_rows && cursor.is_none() && self.tenant.catalog().version == plan.catalog_version
        {
            return Ok(opened(id, plan, self.tenant.visible(), Vec::new()));
        }
        if let Some(cursor) = cursor {
            let lsn = self.tenant.visible();
            let entries = self.filter_since(of, query, cursor, lsn).await?;
            return Ok(opened(id, plan, lsn, entries));
        }
        let params = query.params.values();
        let (sql, version) = (plan.sql.clone(), plan.catalog_version);
        let published = Arc::clone(self.tenant.published());
        let read = self
            .tenant
            .read(
                Arc::clone(&query.asked.session),
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
            rows: Some(rows),
            ..opened(id, plan, lsn, Vec::new())
        })
    }

    pub(super) async fn filter_since(
        &self,
        of: &Arc<TenantLive>,
        query: &Prepared,
        from: Lsn,
        to: Lsn,
    ) -> Result<Vec<Entry>, LiveError> {
        let (of, query) = (Arc::clone(of), query.clone());
        let limits = self.live.limits;
        let work = move || filter_difference(&of.tenant, &of.side, &query, (from, to), limits);
        let readers = &self.tenant.shared.readers;
        readers.call(work).await.map_err(SqlError::from)?
    }

    /// The rows of a filter of one table that changes after `cursor` have to do with, as they are at the
    /// position that is given with them: added, or removed with their keys alone, if the filter's columns
    /// begin with the key's. Unlike a net difference it is right for whoever has seen some of it already.
    ///
    /// # Errors
    /// As [`Subscriber::open`]; [`LiveError::Refetch`] for any other query too.
    pub async fn touched_since(
        &self,
        principal: &Arc<Principal>,
        request: &LiveRequest<'_>,
        cursor: Cursor,
    ) -> Result<(Arc<LivePlan>, Lsn, Vec<Entry>), LiveError> {
        let query = self.prepare(principal, request).await?;
        if query.plan().class != LiveClass::Rows {
            let message = "the query is more than a filter of one table";
            return Err(LiveError::Refetch(message.to_owned()));
        }
        let log = Arc::clone(self.live.engine.log());
        let from = resolve_start(&self.tenant, &*log, Start::After(cursor)).await;
        let from = from.map_err(CdcError::from)?;
        let to = self.tenant.visible();
        let of = self.live.of(&self.tenant)?;
        let plan = Arc::clone(query.plan());
        let limits = self.live.limits;
        let work = move || touched(&of.tenant, &of.side, &query, (from, to), limits);
        let readers = &self.tenant.shared.readers;
        let entries = readers.call(work).await.map_err(SqlError::from)??;
        Ok((plan, to, entries))
    }

    /// All else: the first result comes from the copies, at the LSN that they are at.
    pub(super) async fn open_copied(
        &self,
        of: &Arc<TenantLive>,
        id: LiveId,
        query: &Prepared,
        cursor: Option<Lsn>,
    ) -> Result<Opened, LiveError> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        of.with_core(move |core| core.wait_for_initial(Waiting { id, cursor, reply }))
            .await?;
        of.kick();
        let Ok(initial) = answer.await else {
            // It has ended meanwhile, and says why.
            return Err(match self.outbox.take_end(id) {
                Some(LiveEnd::Failed(error)) => error.into(),
                Some(LiveEnd::MustRefetch { message }) => LiveError::Refetch(message),
                None => LiveError::Refetch("the query ended while it was opened".to_owned()),
            });
        };
        let Initial { lsn, rows, entries } = initial?;
        let plan = Arc::clone(query.plan());
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
            rows,
            ..opened(id, plan, lsn, entries)
        })
    }
}

fn opened(id: LiveId, plan: Arc<LivePlan>, lsn: Lsn, entries: Vec<Entry>) -> Opened {
    Opened {
        id,
        rows: None,
        delta: delta(&plan, lsn, entries),
        options: LiveOptions::default(),
        plan,
        lsn,
        refetched: None,
    }
}

pub(super) fn delta(plan: &Arc<LivePlan>, lsn: Lsn, entries: Vec<Entry>) -> Option<Arc<Delta>> {
    (!entries.is_empty()).then(|| Delta::new(plan, lsn, entries))
}
