//! One tenant's live queries and the state they are kept in. A task feeds it the log commit by
//! commit ([`Core::step`]); all else comes between two steps. It blocks, on SQLite and on memory
//! alone; nothing in it waits for a client.

use std::hash::BuildHasher;
use std::sync::Arc;

use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};
use springhead_proto::{CollectionId, ErrorCode, Lsn, Row, SqlError};
use springhead_sql::live::LiveClass;

use super::asked::Prepared;
use super::commit::{CommitChange, RowChange};
use super::delta::{Delta, Entry, Identity, ResultSet};
use super::index::Index;
use super::outbox::{Item, LiveEnd, LiveId, Outbox, Subscribers};
use super::parts::Evaluator;
use super::progress::{Progress, Reached};
use super::recompute::Recomputes;
use super::shadow::Shadow;
use super::sides::KeptSides;
use super::sorted::Sorted;
use super::{LiveError, LiveLimits};
use crate::{Block, Engine, Step, Tenant};

/// A live query, of all who have opened the same.
pub(super) struct Instance {
    pub query: Prepared,
    pub kept: Kept,
    /// Commits up to it are in what is kept.
    pub after: Lsn,
    pub subscribers: Subscribers,
}

/// What is remembered of a result.
#[derive(Clone)]
pub(super) enum Kept {
    /// Row images, or the rows that changed keys are in before and after, are enough.
    Nothing,
    Set(Box<ResultSet>),
    Groups(Box<FxHashMap<Identity, Row>>),
    /// The result's rows by the row of the first table that they belong to.
    Anchored(Box<ByAnchor>),
    /// Groups, and the keys of those that each row of the first table counts in.
    AnchoredGroups(Box<(FxHashMap<Identity, Row>, ByAnchor)>),
    /// What each side of a set operation or full join keeps, and how often rows are in them.
    Sides(Box<KeptSides>),
    /// Its tables have been copied at `Instance::after`, which the others are on their way to. With
    /// what the subscribers have been told, if they have been told anything.
    Waiting(Option<Box<ResultSet>>),
}

/// A result by the key of the first table's row.
pub(super) type ByAnchor = FxHashMap<Identity, Vec<(Identity, Row)>>;

/// What a commit has changed of filters, by their numbers.
pub(super) struct Told {
    lsn: Lsn,
    pub entries: FxHashMap<u64, Result<Vec<Entry>, SqlError>>,
    bytes: usize,
}

impl Told {
    fn at(lsn: Lsn) -> Told {
        Told {
            lsn,
            entries: FxHashMap::default(),
            bytes: 0,
        }
    }

    fn add(&mut self, id: u64, found: Result<Vec<Entry>, SqlError>) {
        if let Ok(entries) = &found {
            self.bytes += entries.iter().map(Entry::size_bytes).sum::<usize>();
        }
        let known = self.entries.entry(id).or_insert_with(|| Ok(Vec::new()));
        match (known, found) {
            (Ok(entries), Ok(more)) => entries.extend(more),
            (known @ Ok(_), Err(error)) => *known = Err(error),
            (Err(_), _) => {}
        }
    }

    /// What it takes in memory, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Who waits for a first result, and from where it wants to go on.
pub(crate) struct Waiting {
    pub id: LiveId,
    pub cursor: Option<Lsn>,
    pub reply: tokio::sync::oneshot::Sender<Result<Initial, LiveError>>,
}

/// Where a subscriber begins.
pub(crate) struct Initial {
    pub lsn: Lsn,
    /// The whole result; empty if it goes on from a cursor.
    pub rows: Vec<Row>,
    /// What has changed since the cursor.
    pub entries: Vec<Entry>,
}

/// See the module's text.
pub(crate) struct Core {
    pub(super) engine: Engine,
    pub(super) tenant: Arc<Tenant>,
    pub(super) limits: LiveLimits,
    /// Every commit up to it has been gone through.
    pub position: Lsn,
    pub progress: Arc<Progress>,
    pub shadow: Shadow,
    pub(super) instances: FxHashMap<u64, Box<Instance>>,
    /// By [`shared_hash`]: queries that are the same share one. Of two that are not and have the same
    /// hash, one is not shared.
    pub(super) shared: FxHashMap<u64, u64>,
    pub(super) of_subscriber: FxHashMap<LiveId, u64>,
    pub(super) next_instance: u64,
    pub(super) index: Index,
    /// The same for queries of one table over copies.
    pub(super) copy_index: Index,
    /// Queries over copies that are [`Kept::Waiting`].
    pub(super) pending: FxHashSet<u64>,
    pub(super) recomputes: Recomputes,
    /// The rows in their order, of queries that are kept so.
    pub(super) sorted: FxHashMap<u64, Sorted>,
    /// Queries that are evaluated over copies, by the tables that they read.
    pub(super) readers: FxHashMap<CollectionId, Vec<u64>>,
    /// The first pieces of a commit whose last piece has not come yet.
    pub(super) partial: Vec<Arc<Block>>,
    pub(super) waiting: Vec<Waiting>,
    /// Connections that the present commit has put something in for.
    pub(super) told: Vec<Arc<Outbox>>,
    /// No query is left, and the task is gone: whoever comes makes a new one.
    pub is_over: bool,
}

impl Core {
    pub(crate) fn new(
        engine: Engine,
        tenant: Arc<Tenant>,
        limits: LiveLimits,
        position: Lsn,
    ) -> Result<Core, SqlError> {
        let shadow = Shadow::open(
            Arc::clone(engine.clock()),
            Arc::clone(&tenant.shared.entropy),
        )?;
        Ok(Core {
            engine,
            tenant,
            limits,
            position,
            progress: Arc::new(Progress::at(position)),
            shadow,
            instances: FxHashMap::default(),
            shared: FxHashMap::default(),
            of_subscriber: FxHashMap::default(),
            next_instance: 0,
            index: Index::default(),
            copy_index: Index::default(),
            pending: FxHashSet::default(),
            recomputes: Recomputes::default(),
            sorted: FxHashMap::default(),
            readers: FxHashMap::default(),
            partial: Vec::new(),
            waiting: Vec::new(),
            told: Vec::new(),
            is_over: false,
        })
    }

    /// Asks the copies.
    pub(super) fn evaluator(&self) -> Evaluator<'_> {
        Evaluator {
            shadow: &self.shadow,
            limits: self.limits,
        }
    }

    pub(crate) fn subscribers(&self) -> usize {
        self.of_subscriber.len()
    }

    pub(crate) fn instances(&self) -> usize {
        self.instances.len()
    }

    // ---- coming and going ----

    /// Adds a subscriber. Its changes go into `outbox` from now on.
    ///
    /// # Errors
    /// 53300 past the tenant's limit, or why a table could not be copied; [`LiveError::Refetch`] if it means
    /// something else by now.
    pub(crate) fn subscribe(
        &mut self,
        id: LiveId,
        outbox: &Arc<Outbox>,
        query: Prepared,
    ) -> Result<(), LiveError> {
        // What has changed since it was planned may have been gone through already, without it.
        self.expect_current(&query.asked)?;
        // One that was begun, and cancelled before it was answered.
        if self.of_subscriber.contains_key(&id) {
            self.unsubscribe(id);
        }
        if self.of_subscriber.len() >= self.limits.per_tenant {
            return Err(SqlError::new(
                ErrorCode::TooManyConnections,
                format!(
                    "the tenant has {} live queries already",
                    self.limits.per_tenant
                ),
            )
            .with_hint("end some, or raise live_per_tenant")
            .into());
        }
        let instance = match self.same_as(&query) {
            Some(instance) => instance,
            None => self.instantiate(query)?,
        };
        self.of_subscriber.insert(id, instance);
        let instance = self.instances.get_mut(&instance).expect("it is there");
        instance.subscribers.push(id, Arc::clone(outbox));
        Ok(())
    }

    /// The query that was asked alike, with the same parameters.
    fn same_as(&self, query: &Prepared) -> Option<u64> {
        let id = *self.shared.get(&shared_hash(query))?;
        let known = &self.instances[&id].query;
        let is_same = Arc::ptr_eq(&known.asked, &query.asked) && known.params == query.params;
        is_same.then_some(id)
    }

    fn instantiate(&mut self, query: Prepared) -> Result<u64, SqlError> {
        let mut instance = Instance {
            kept: Kept::Nothing,
            // Until its definitions are those of the commits that come, it has no part in these.
            after: (self.position).max(self.tenant.published().catalog_since()),
            subscribers: Subscribers::default(),
            query,
        };
        let plan = Arc::clone(instance.query.plan());
        if plan.class != LiveClass::Rows {
            if let Some(loaded_at) = self.load(&plan.reads)? {
                instance.after = instance.after.max(loaded_at);
            }
            self.shadow.want_index(&plan)?;
            instance.kept = Kept::Waiting(None);
        }
        Ok(self.put(instance))
    }

    /// Puts a query where commits find it.
    pub(super) fn put(&mut self, instance: Instance) -> u64 {
        let id = self.next_instance;
        let plan = instance.query.plan();
        if plan.class == LiveClass::Rows {
            self.tenant.published().before_truncate.want();
            self.index.insert(id, plan, &instance.query.params);
        } else {
            for &read in &plan.reads {
                self.readers.entry(read).or_default().push(id);
            }
            if plan.table.is_some() {
                self.copy_index.insert(id, plan, &instance.query.params);
            }
            if matches!(instance.kept, Kept::Waiting(_)) {
                self.pending.insert(id);
            }
        }
        self.next_instance += 1;
        self.shared.insert(shared_hash(&instance.query), id);
        self.instances.insert(id, Box::new(instance));
        id
    }

    /// Copies the tables that are not copied yet; the LSN that they are of, if there are any.
    pub(super) fn load(&mut self, reads: &[CollectionId]) -> Result<Option<Lsn>, SqlError> {
        let missing: Vec<_> = (reads.iter())
            .filter(|read| !self.shadow.has(**read))
            .collect();
        if missing.is_empty() {
            // One that came a moment ago may be ahead of the others.
            return Ok(reads
                .iter()
                .filter_map(|read| self.shadow.loaded_at(*read))
                .max());
        }
        let (snapshot, catalog) = loop {
            let snapshot = self.tenant.snapshots().snapshot()?;
            if let Some(catalog) = self.tenant.published().catalog_at(snapshot.applied) {
                break (snapshot, catalog);
            }
        };
        for &collection in missing {
            let table = catalog.table(collection).ok_or_else(|| {
                SqlError::new(
                    ErrorCode::UndefinedTable,
                    "a table of the query has been dropped",
                )
            })?;
            self.shadow.load(table, &snapshot)?;
        }
        Ok(reads
            .iter()
            .filter_map(|read| self.shadow.loaded_at(*read))
            .max())
    }

    /// Takes a subscriber away.
    pub(crate) fn unsubscribe(&mut self, id: LiveId) {
        self.waiting.retain(|waiting| waiting.id != id);
        let Some(instance_id) = self.of_subscriber.remove(&id) else {
            return;
        };
        let Some(instance) = self.instances.get_mut(&instance_id) else {
            return;
        };
        instance.subscribers.remove(id);
        if instance.subscribers.is_empty() {
            self.forget(instance_id);
        }
    }

    /// Takes a query away; nobody is told.
    fn forget(&mut self, id: u64) -> Option<Box<Instance>> {
        let instance = self.instances.remove(&id)?;
        let hash = shared_hash(&instance.query);
        if self.shared.get(&hash) == Some(&id) {
            self.shared.remove(&hash);
        }
        let plan = instance.query.plan();
        if plan.class == LiveClass::Rows {
            self.tenant.published().before_truncate.leave();
            self.index.remove(id, plan, &instance.query.params);
        } else {
            self.pending.remove(&id);
            self.recomputes.forget(id);
            self.sorted.remove(&id);
            if plan.table.is_some() {
                self.copy_index.remove(id, plan, &instance.query.params);
            }
            for read in &plan.reads {
                if let Some(readers) = self.readers.get_mut(read) {
                    readers.retain(|other| *other != id);
                    if readers.is_empty() {
                        self.readers.remove(read);
                        self.shadow.drop_table(*read);
                    }
                }
            }
        }
        Some(instance)
    }

    /// Ends a query for all who have it.
    pub(super) fn end(&mut self, id: u64, end: &LiveEnd) {
        let Some(instance) = self.forget(id) else {
            return;
        };
        for (id, outbox) in instance.subscribers.iter() {
            self.of_subscriber.remove(id);
            outbox.push(Item::Ended {
                id: *id,
                end: end.clone(),
            });
        }
        // Whoever waits for a first result finds out by its reply being dropped.
        let live = &self.of_subscriber;
        self.waiting
            .retain(|waiting| live.contains_key(&waiting.id));
    }

    /// Ends all queries.
    pub(crate) fn end_all(&mut self, end: &LiveEnd) {
        let ids: Vec<u64> = self.instances.keys().copied().collect();
        ids.into_iter().for_each(|id| self.end(id, end));
    }

    // ---- commits ----

    /// Goes through one step of the tail.
    pub(crate) fn step(&mut self, step: Step) {
        for block in step.blocks {
            let is_last = block.slice.last;
            self.partial.push(block);
            if is_last {
                let blocks = std::mem::take(&mut self.partial);
                let lsn = blocks[0].slice.commit_last_lsn();
                if lsn > self.position {
                    self.answer_waiting(lsn);
                    if let Err(error) = self.commit(&blocks, lsn) {
                        self.end_all(&LiveEnd::Failed(error));
                    }
                    self.position = lsn;
                    for outbox in self.told.drain(..) {
                        outbox.push(Item::Tick(lsn));
                    }
                }
            }
        }
        if self.partial.is_empty() {
            self.position = self.position.max(step.position);
        }
        self.answer_waiting(self.position.next());
        self.note_progress();
    }

    /// Tells how far it has come; to be called once all has been put before whom it concerns.
    pub(super) fn note_progress(&self) {
        self.progress.tell(Reached {
            position: self.position,
            exact_at: self.recomputes.exact_at(),
        });
    }

    fn commit(&mut self, blocks: &[Arc<Block>], lsn: Lsn) -> Result<(), SqlError> {
        let mut change = CommitChange::default();
        {
            let tenant = Arc::clone(&self.tenant);
            let wanted = |id: CollectionId| self.index.has(id) || self.readers.contains_key(&id);
            let mut schema = move |id, version| tenant.schema(id, version);
            for block in blocks {
                change.add(&block.slice, &wanted, &mut schema)?;
            }
        }
        if !change.definitions.is_empty() {
            self.follow_definitions(&change.definitions, lsn);
        }
        change.settle();
        self.commit_rows(&change, lsn);
        self.commit_copies(&change, blocks, lsn)
    }

    /// Filters of one table: from the images.
    fn commit_rows(&mut self, change: &CommitChange<'_>, lsn: Lsn) {
        // Of earlier commits none is kept, whether or not anyone has asked.
        let before = self.tenant.published().before_truncate.take(lsn);
        let mut told = Told::at(lsn);
        for (collection, table) in &change.tables {
            if !self.index.has(*collection) {
                continue;
            }
            if table.truncated {
                self.rows_of_truncated(*collection, table, before.as_ref(), &mut told);
            } else {
                self.found_rows(&table.rows, &mut told);
            }
        }
        let mut ids: Vec<u64> = told.entries.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            match told.entries.remove(&id) {
                Some(Ok(entries)) => self.publish(id, lsn, entries),
                Some(Err(error)) => self.end(id, &LiveEnd::Failed(error)),
                None => {}
            }
        }
    }

    /// Evaluates changed rows of one table for the filters that may have them.
    pub(super) fn found_rows(&mut self, rows: &[RowChange<'_>], told: &mut Told) {
        let mut work: FxHashMap<u64, Vec<&RowChange<'_>>> = FxHashMap::default();
        for row in rows {
            for image in [&row.before, &row.after].into_iter().flatten() {
                self.index.candidates(&image.table, image.row, |id| {
                    let rows = work.entry(id).or_default();
                    if !rows.last().is_some_and(|last| std::ptr::eq(*last, row)) {
                        rows.push(row);
                    }
                });
            }
        }
        for (id, rows) in work {
            // What it was planned after is in its first result, and may lack columns that it looks at.
            let Some(instance) = (self.instances.get(&id)).filter(|one| one.after < told.lsn)
            else {
                continue;
            };
            let found = filter_rows(&self.shadow, &instance.query, rows.into_iter());
            told.add(id, found);
        }
    }

    pub(super) fn publish(&mut self, id: u64, lsn: Lsn, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        let Some(instance) = self.instances.get(&id) else {
            return;
        };
        let delta = Delta::new(instance.query.plan(), lsn, entries);
        for (id, outbox) in instance.subscribers.iter() {
            outbox.push(Item::Change {
                id: *id,
                delta: Arc::clone(&delta),
            });
            if !outbox.mark(lsn) {
                self.told.push(Arc::clone(outbox));
            }
        }
    }
}

/// Of a query's plan, user and parameters.
fn shared_hash(query: &Prepared) -> u64 {
    let asked = Arc::as_ptr(&query.asked).addr();
    FxBuildHasher.hash_one((asked, &query.params))
}

/// What a filter makes of changed rows.
pub(crate) fn filter_rows<'r, 'a: 'r>(
    shadow: &Shadow,
    query: &Prepared,
    rows: impl Iterator<Item = &'r RowChange<'a>>,
) -> Result<Vec<Entry>, SqlError> {
    let Prepared { asked, params } = query;
    let params = params.values();
    let mut entries = Vec::new();
    for row in rows {
        if (asked.plan.watched.as_ref()).is_some_and(|watched| !row.touches(watched)) {
            continue;
        }
        let mut found = [None, None];
        for (image, found) in [&row.before, &row.after].into_iter().zip(&mut found) {
            if let Some(image) = image {
                let sql = asked.image_sql(&image.table);
                *found = shadow.of_image(&sql, &params, image.row, &asked.session)?;
            }
        }
        let [before, after] = found;
        entries.extend(entry(before, after));
    }
    Ok(entries)
}

pub(super) fn entry(before: Option<Row>, after: Option<Row>) -> Option<Entry> {
    match (before, after) {
        (None, None) => None,
        (None, Some(row)) => Some(Entry::Added {
            row,
            position: None,
        }),
        (Some(row), None) => Some(Entry::Removed { row }),
        (Some(before), Some(row)) => (before != row).then_some(Entry::Changed {
            before,
            row,
            position: None,
        }),
    }
}
