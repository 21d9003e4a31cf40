//! Net differences in place of single commits: for queries that want a pause between changes, and
//! for connections that have not taken what came.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use springhead_proto::{Lsn, Row};
use springhead_sql::live::LiveClass;
use tokio::time::Instant;

use super::asked::Prepared;
use super::core::entry;
use super::delta::{Delta, Entry, Identity, identity_of};
use super::opening::delta;
use super::outbox::{LiveEnd, LiveId};
use super::subscriber::{LiveEvent, Subscriber};
use super::{LiveError, TenantLive};

/// What a query with a pause between changes waits with.
pub(super) struct Squashed {
    pause: Duration,
    /// When the next change may go out.
    next_at: Instant,
    /// The changes so far as one; `None` if there are none.
    held: Option<Held>,
}

/// A row before and now; `None` where it is not there.
type Net = (Option<Row>, Option<Row>);

struct Held {
    lsn: Lsn,
    /// What each row was before, and is now. Of a result in an order only that something changed:
    /// places do not add up, so that its difference is made from the log.
    rows: Option<FxHashMap<Identity, Net>>,
}

impl Squashed {
    pub(super) fn new(pause_ms: u64) -> Squashed {
        Squashed {
            pause: Duration::from_millis(pause_ms),
            next_at: Instant::now(),
            held: None,
        }
    }

    pub(super) fn holds(&self) -> bool {
        self.held.is_some()
    }

    pub(super) fn clear(&mut self) {
        self.held = None;
    }

    pub(super) fn hold(&mut self, delta: &Delta) {
        let plan = delta.plan();
        // Rows without keys may be equal, and are then told apart by their number.
        let adds_up = !plan.ordered && plan.is_keyed;
        let held = self.held.get_or_insert_with(|| Held {
            lsn: delta.lsn,
            rows: adds_up.then(FxHashMap::default),
        });
        held.lsn = delta.lsn;
        let Some(rows) = &mut held.rows else { return };
        for entry in &delta.entries {
            let (before, after) = match entry {
                Entry::Added { row, .. } => (None, Some(row)),
                Entry::Changed { before, row, .. } => (Some(before), Some(row)),
                Entry::Removed { row } => (Some(row), None),
            };
            let Some(any) = before.or(after) else {
                continue;
            };
            let identity = identity_of(plan, any.as_ref());
            let net = rows
                .entry(identity)
                .or_insert_with(|| (before.cloned(), None));
            net.1 = after.cloned();
        }
    }
}

impl Subscriber {
    /// When the first change that is held back may go out.
    pub(super) fn squash_due(&self) -> Option<Instant> {
        (self.squashed.values())
            .filter(|squashed| squashed.holds())
            .map(|squashed| squashed.next_at)
            .min()
    }

    /// Hands out what has been held back long enough. Cancelled, it begins again.
    pub(super) async fn release_squashed(&mut self) {
        let now = Instant::now();
        let due: Vec<LiveId> = (self.squashed.iter())
            .filter(|(_, squashed)| squashed.holds() && squashed.next_at <= now)
            .map(|(id, _)| *id)
            .collect();
        let mut ticked = Lsn::ZERO;
        for id in due {
            let (Some(query), Some(squashed)) = (self.queries.get(id), self.squashed.get(&id))
            else {
                self.squashed.remove(&id);
                continue;
            };
            let Some(held) = &squashed.held else { continue };
            let (at, mut lsn) = (query.at, held.lsn);
            let entries = match &held.rows {
                Some(rows) => Ok((rows.values())
                    .filter_map(|(before, after)| entry(before.clone(), after.clone()))
                    .collect()),
                None => {
                    let prepared = query.prepared.clone();
                    let since = self.since(id, &prepared, at).await;
                    since.map(|(position, entries)| {
                        lsn = position;
                        entries
                    })
                }
            };
            self.tell_difference(id, lsn, entries);
            ticked = ticked.max(lsn);
            if let Some(squashed) = self.squashed.get_mut(&id) {
                squashed.held = None;
                squashed.next_at = now + squashed.pause;
            }
        }
        if !self.ready.is_empty() && self.squashed.len() == self.queries.len() {
            self.ready.push_back(LiveEvent::Tick(ticked));
        }
    }

    /// What has changed in one query's result since `at`, and up to where.
    async fn since(
        &self,
        id: LiveId,
        query: &Prepared,
        at: Lsn,
    ) -> Result<(Lsn, Vec<Entry>), LiveError> {
        let Some(of) = &self.of else {
            return Ok((at, Vec::new()));
        };
        if query.plan().class == LiveClass::Rows {
            let position = of.with_core(|core| core.position).await?;
            let entries = self.filter_since(of, query, at, position).await?;
            return Ok((position, entries));
        }
        of.with_core(move |core| {
            core.recompute_due();
            let found = core.initial(id, Some(at))?;
            Ok((found.lsn, found.entries))
        })
        .await?
    }

    fn tell_difference(
        &mut self,
        id: LiveId,
        position: Lsn,
        entries: Result<Vec<Entry>, LiveError>,
    ) {
        let Some(query) = self.queries.get_mut(id) else {
            return;
        };
        match entries {
            Ok(entries) => {
                if let Some(delta) = delta(query.prepared.plan(), position, entries) {
                    self.ready.push_back(LiveEvent::Change { id, delta });
                }
                query.at = query.at.max(position);
            }
            Err(error) => {
                if let Some(of) = &self.of {
                    of.leave(vec![id]);
                }
                let event = self.ended(id, error.end());
                self.ready.extend(event);
            }
        }
    }

    /// What was not taken has been dropped: each query's net difference, all to one LSN. Cancelled,
    /// it begins again.
    pub(super) async fn catch_up(&mut self) {
        let Some(of) = self.of.clone() else {
            self.outbox.recover();
            self.is_behind = false;
            return;
        };
        let (position, found) = match self.differences(&of).await {
            Ok(found) => found,
            Err(error) => {
                let ended = self.queries.ids().map(|id| LiveEvent::Ended {
                    id,
                    end: LiveEnd::Failed(error.clone()),
                });
                self.ready.extend(ended);
                self.queries.clear();
                self.squashed.clear();
                self.is_behind = false;
                return;
            }
        };
        self.squashed.values_mut().for_each(Squashed::clear);
        for (id, entries) in found {
            self.tell_difference(id, position, entries);
        }
        if !self.ready.is_empty() || self.owes_tick {
            self.ready.push_back(LiveEvent::Tick(position));
        }
        self.is_behind = false;
    }

    async fn differences(
        &self,
        of: &Arc<TenantLive>,
    ) -> Result<(Lsn, Vec<(LiveId, Result<Vec<Entry>, LiveError>)>), springhead_proto::SqlError>
    {
        let is_filter = |query: &Prepared| query.plan().class == LiveClass::Rows;
        let copied: Vec<(LiveId, Lsn)> = (self.queries.iter())
            .filter(|(_, query)| !is_filter(&query.prepared))
            .map(|(id, query)| (id, query.at))
            .collect();
        let outbox = Arc::clone(&self.outbox);
        let (position, mut found) = of
            .with_core(move |core| {
                core.recompute_due();
                // From here on changes are taken again, those after this position.
                outbox.recover();
                let found: Vec<_> = (copied.into_iter())
                    .map(|(id, at)| (id, core.initial(id, Some(at)).map(|found| found.entries)))
                    .collect();
                (core.position, found)
            })
            .await?;
        let filters: Vec<(LiveId, Prepared, Lsn)> = (self.queries.iter())
            .filter(|(_, query)| is_filter(&query.prepared))
            .map(|(id, query)| (id, query.prepared.clone(), query.at))
            .collect();
        for (id, query, at) in filters {
            found.push((id, self.filter_since(of, &query, at, position).await));
        }
        Ok((position, found))
    }
}
