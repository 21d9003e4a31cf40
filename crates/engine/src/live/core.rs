//! One tenant's live queries and the state they are kept in. A task feeds it the log commit by
//! commit ([`Core::step`]); all else comes between two steps. It blocks, on SQLite and on memory
//! alone; nothing in it waits for a client.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use springhead_proto::{
    ChangeRef, Changes, CollectionId, ErrorCode, Lsn, Row, SchemaVersion, SqlError, Value,
};
use springhead_sql::live::{LiveClass, LivePlan, plan_live};
use springhead_sql::planner::PlanContext;

use super::commit::{CommitChange, RowChange};
use super::delta::{Delta, Entry, Identity, ResultSet, difference, identity_of};
use super::index::Index;
use super::outbox::{Item, LiveEnd, LiveId, Outbox};
use super::shadow::{Shadow, image_query};
use super::{LiveError, LiveLimits};
use crate::access::Principal;
use crate::functions::SessionContext;
use crate::{Block, Engine, Step, Tenant};

/// What a live query was opened with.
#[derive(Clone)]
pub(crate) struct Prepared {
    pub plan: Arc<LivePlan>,
    pub sql: Arc<str>,
    pub recompute: bool,
    pub params: Arc<[Value]>,
    pub principal: Arc<Principal>,
    pub plan_context: PlanContext,
    pub session: Arc<SessionContext>,
}

/// Queries that are the same share one.
#[derive(PartialEq, Eq, Hash)]
struct SharedKey {
    sql: Arc<str>,
    recompute: bool,
    params: Box<[u8]>,
    context: PlanContext,
    /// Its claims and all else that policies may look at.
    principal: String,
}

/// A live query, of all who have opened the same.
struct Instance {
    asked: Prepared,
    key: Arc<SharedKey>,
    image_sql: Option<(SchemaVersion, Arc<str>)>,
    kept: Kept,
    /// Commits up to it are in what is kept.
    after: Lsn,
    subscribers: Vec<(LiveId, Arc<Outbox>)>,
}

/// What is remembered of a result.
enum Kept {
    /// Row images, or the rows that changed keys are in before and after, are enough.
    Nothing,
    Set(ResultSet),
    Groups(FxHashMap<Identity, Row>),
    /// Its tables have been copied at `Instance::after`, which the others are on their way to.
    Waiting,
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
    engine: Engine,
    tenant: Arc<Tenant>,
    limits: LiveLimits,
    /// Every commit up to it has been gone through.
    pub position: Lsn,
    pub shadow: Shadow,
    instances: FxHashMap<u64, Instance>,
    shared: FxHashMap<Arc<SharedKey>, u64>,
    of_subscriber: FxHashMap<LiveId, u64>,
    next_instance: u64,
    index: Index,
    /// Queries that are evaluated over copies, by the tables that they read.
    readers: FxHashMap<CollectionId, Vec<u64>>,
    /// The first pieces of a commit whose last piece has not come yet.
    partial: Vec<Arc<Block>>,
    waiting: Vec<Waiting>,
    /// Connections that the present commit has put something in for.
    told: Vec<Arc<Outbox>>,
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
            shadow,
            instances: FxHashMap::default(),
            shared: FxHashMap::default(),
            of_subscriber: FxHashMap::default(),
            next_instance: 0,
            index: Index::default(),
            readers: FxHashMap::default(),
            partial: Vec::new(),
            waiting: Vec::new(),
            told: Vec::new(),
            is_over: false,
        })
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
    /// 53400 past the tenant's limit, or why a table could not be copied.
    pub(crate) fn subscribe(
        &mut self,
        id: LiveId,
        outbox: &Arc<Outbox>,
        asked: Prepared,
    ) -> Result<(), SqlError> {
        if self.of_subscriber.len() >= self.limits.per_tenant {
            return Err(SqlError::new(
                ErrorCode::TooManyConnections,
                format!(
                    "the tenant has {} live queries already",
                    self.limits.per_tenant
                ),
            )
            .with_hint("end some, or raise live_per_tenant"));
        }
        let key = Arc::new(shared_key(&asked));
        let instance = match self.shared.get(&key) {
            Some(&instance) => instance,
            None => self.instantiate(asked, key)?,
        };
        self.of_subscriber.insert(id, instance);
        let instance = self.instances.get_mut(&instance).expect("it is there");
        instance.subscribers.push((id, Arc::clone(outbox)));
        Ok(())
    }

    fn instantiate(&mut self, asked: Prepared, key: Arc<SharedKey>) -> Result<u64, SqlError> {
        let id = self.next_instance;
        let plan = Arc::clone(&asked.plan);
        let mut instance = Instance {
            key: Arc::clone(&key),
            image_sql: None,
            kept: Kept::Nothing,
            after: self.position,
            subscribers: Vec::new(),
            asked,
        };
        if plan.class == LiveClass::Rows {
            self.index.insert(id, &plan, &instance.asked.params);
        } else {
            if let Some(loaded_at) = self.load(&plan.reads)? {
                instance.after = instance.after.max(loaded_at);
            }
            instance.kept = Kept::Waiting;
            for &read in &plan.reads {
                self.readers.entry(read).or_default().push(id);
            }
        }
        self.next_instance += 1;
        self.shared.insert(key, id);
        self.instances.insert(id, instance);
        Ok(id)
    }

    /// Copies the tables that are not copied yet; the LSN that they are of, if there are any.
    fn load(&mut self, reads: &[CollectionId]) -> Result<Option<Lsn>, SqlError> {
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
        instance.subscribers.retain(|(other, _)| *other != id);
        if instance.subscribers.is_empty() {
            self.forget(instance_id);
        }
    }

    /// Takes a query away; nobody is told.
    fn forget(&mut self, id: u64) -> Option<Instance> {
        let instance = self.instances.remove(&id)?;
        self.shared.remove(&instance.key);
        let plan = &instance.asked.plan;
        if plan.class == LiveClass::Rows {
            self.index.remove(id, plan, &instance.asked.params);
        } else {
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
    fn end(&mut self, id: u64, end: &LiveEnd) {
        let Some(instance) = self.forget(id) else {
            return;
        };
        for (id, outbox) in instance.subscribers {
            self.of_subscriber.remove(&id);
            outbox.push(Item::Ended {
                id,
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

    // ---- first results ----

    /// Answers once the query's tables are all of one LSN.
    pub(crate) fn wait_for_initial(&mut self, waiting: Waiting) {
        self.waiting.push(waiting);
        self.answer_waiting(self.position.next());
    }

    /// Gives first results to those whose tables are all as of before `next`, the state now.
    fn answer_waiting(&mut self, next: Lsn) {
        let due: Vec<u64> = (self.instances.iter())
            .filter(|(_, instance)| matches!(instance.kept, Kept::Waiting) && instance.after < next)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            if let Err(error) = self.evaluate_first(id) {
                self.end(id, &LiveEnd::Failed(error));
            }
        }
        let (due, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|waiting| self.is_ready(waiting.id));
        self.waiting = rest;
        for waiting in due {
            let initial = self.initial(waiting.id, waiting.cursor);
            // Whoever asked may have gone.
            let _ = waiting.reply.send(initial);
        }
    }

    fn is_ready(&self, id: LiveId) -> bool {
        (self.of_subscriber.get(&id))
            .and_then(|instance| self.instances.get(instance))
            .is_none_or(|instance| !matches!(instance.kept, Kept::Waiting))
    }

    fn evaluate_first(&mut self, id: u64) -> Result<(), SqlError> {
        let instance = self.instances.get(&id).expect("the caller has looked");
        let class = instance.asked.plan.class;
        let kept = match class {
            LiveClass::Rows | LiveClass::Join => Kept::Nothing,
            LiveClass::Groups => Kept::Groups(self.evaluate(instance)?.rows.into_iter().collect()),
            _ => Kept::Set(self.evaluate(instance)?),
        };
        self.instances.get_mut(&id).expect("looked at above").kept = kept;
        Ok(())
    }

    fn evaluate(&self, instance: &Instance) -> Result<ResultSet, SqlError> {
        let asked = &instance.asked;
        self.shadow.result(
            &asked.plan,
            &asked.params,
            &asked.session,
            self.limits.result_bytes,
        )
    }

    /// The result of a query over copies now; or its net difference from `cursor` to now.
    pub(crate) fn initial(&self, id: LiveId, cursor: Option<Lsn>) -> Result<Initial, LiveError> {
        let instance = (self.of_subscriber.get(&id))
            .and_then(|instance| self.instances.get(instance))
            .ok_or_else(|| LiveError::Refetch("definitions changed meanwhile".to_owned()))?;
        let lsn = self.position.max(instance.after);
        let computed;
        let now = match &instance.kept {
            Kept::Set(set) => set,
            _ => {
                computed = self.evaluate(instance)?;
                &computed
            }
        };
        let (mut rows, mut entries) = (Vec::new(), Vec::new());
        match cursor {
            None => rows.extend(now.rows.iter().map(|(_, row)| row.clone())),
            Some(cursor) if cursor < lsn => {
                let past = self.result_at(instance, cursor, lsn)?;
                entries = difference(&past, now, instance.asked.plan.ordered);
            }
            Some(_) => {}
        }
        Ok(Initial { lsn, rows, entries })
    }

    /// The result as it was at `cursor`: the copies are taken back there, and forth again.
    fn result_at(
        &self,
        instance: &Instance,
        cursor: Lsn,
        now: Lsn,
    ) -> Result<ResultSet, LiveError> {
        let plan = &instance.asked.plan;
        let slices = super::resume::read(&self.tenant, cursor, now, &plan.reads, self.limits)?;
        let mut changes: Vec<ChangeRef<'_>> = Vec::new();
        for slice in &slices {
            for change in Changes::new(&slice.changes) {
                let change = change
                    .map_err(|error| SqlError::new(ErrorCode::Corrupted, error.to_string()))?;
                if plan.reads.contains(&change.collection) {
                    super::resume::expect_reversible(&change)?;
                    changes.push(change);
                }
            }
        }
        let asked = &instance.asked;
        let max_bytes = self.limits.result_bytes;
        Ok(self.shadow.in_the_past(&changes, |shadow| {
            shadow.result(plan, &asked.params, &asked.session, max_bytes)
        })?)
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
    }

    fn commit(&mut self, blocks: &[Arc<Block>], lsn: Lsn) -> Result<(), SqlError> {
        let mut change = CommitChange::default();
        {
            let tenant = Arc::clone(&self.tenant);
            let wanted = |id: CollectionId| self.index.has(id) || self.readers.contains_key(&id);
            let schema = move |id, version| tenant.schema(id, version);
            for block in blocks {
                change.add(&block.slice, &wanted, &schema)?;
            }
        }
        if !change.definitions.is_empty() {
            self.follow_definitions(&change.definitions);
        }
        change.settle();
        self.commit_rows(&change, lsn);
        self.commit_copies(&change, blocks, lsn)
    }

    /// Filters of one table: from the images.
    fn commit_rows(&mut self, change: &CommitChange<'_>, lsn: Lsn) {
        let mut work: FxHashMap<u64, Vec<&RowChange<'_>>> = FxHashMap::default();
        for (collection, table) in &change.tables {
            if !self.index.has(*collection) {
                continue;
            }
            if table.truncated {
                self.end_truncated(*collection);
                continue;
            }
            for row in &table.rows {
                for image in [&row.before, &row.after].into_iter().flatten() {
                    self.index.candidates(&image.table, image.row, |id| {
                        let rows = work.entry(id).or_default();
                        if !rows.last().is_some_and(|last| std::ptr::eq(*last, row)) {
                            rows.push(row);
                        }
                    });
                }
            }
        }
        let mut ids: Vec<u64> = work.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            match self.entries_of_rows(id, &work[&id]) {
                Ok(entries) => self.publish(id, lsn, entries),
                Err(error) => self.end(id, &LiveEnd::Failed(error)),
            }
        }
    }

    fn end_truncated(&mut self, collection: CollectionId) {
        let ids: Vec<u64> = (self.instances.iter())
            .filter(|(_, instance)| {
                let plan = &instance.asked.plan;
                plan.class == LiveClass::Rows && plan.reads.contains(&collection)
            })
            .map(|(id, _)| *id)
            .collect();
        let message = "the table has been truncated".to_owned();
        for id in ids {
            self.end(
                id,
                &LiveEnd::MustRefetch {
                    message: message.clone(),
                },
            );
        }
    }

    fn entries_of_rows(
        &mut self,
        id: u64,
        rows: &[&RowChange<'_>],
    ) -> Result<Vec<Entry>, SqlError> {
        let Some(instance) = self.instances.get_mut(&id) else {
            return Ok(Vec::new());
        };
        filter_rows(&self.shadow, instance, rows)
    }

    /// Queries over copies: these are brought to the commit, and the queries with them.
    fn commit_copies(
        &mut self,
        change: &CommitChange<'_>,
        blocks: &[Arc<Block>],
        lsn: Lsn,
    ) -> Result<(), SqlError> {
        let mut ids: Vec<u64> = (change.tables.keys())
            .filter_map(|collection| self.readers.get(collection))
            .flatten()
            .copied()
            .collect();
        ids.sort_unstable();
        ids.dedup();
        // Whether or not a query minds, the copies follow.
        let touches_copies = (change.tables.keys()).any(|id| self.shadow.has(*id))
            || blocks.iter().any(|block| self.has_copied_changes(block));
        if !touches_copies {
            return Ok(());
        }
        ids.retain(|id| {
            let instance = &self.instances[id];
            lsn > instance.after
                && !matches!(instance.kept, Kept::Waiting)
                && minds(&instance.asked.plan, change)
        });
        let mut befores = FxHashMap::default();
        let mut failed = Vec::new();
        for &id in &ids {
            match self.parts(&self.instances[&id], change) {
                Ok(before) => {
                    befores.insert(id, before);
                }
                Err(error) => failed.push((id, error)),
            }
        }
        self.shadow.begin()?;
        for block in blocks {
            for change in Changes::new(&block.slice.changes) {
                let change =
                    change.map_err(|e| SqlError::new(ErrorCode::Corrupted, e.to_string()))?;
                self.shadow.apply(&change, lsn)?;
            }
        }
        self.shadow.commit()?;
        for id in ids {
            let Some(before) = befores.remove(&id) else {
                continue;
            };
            match self.entries_of_copies(id, before, change) {
                Ok(entries) => self.publish(id, lsn, entries),
                Err(error) => failed.push((id, error)),
            }
        }
        for (id, error) in failed {
            self.end(id, &LiveEnd::Failed(error));
        }
        Ok(())
    }

    fn has_copied_changes(&self, block: &Block) -> bool {
        Changes::new(&block.slice.changes)
            .filter_map(Result::ok)
            .any(|change| self.shadow.has(change.collection))
    }

    /// For joins the rows that changed keys take part in, for groups the groups that they count
    /// in, in the state that the copies have now. `None`: all of it.
    fn parts(
        &self,
        instance: &Instance,
        change: &CommitChange<'_>,
    ) -> Result<Option<FxHashMap<Identity, Row>>, SqlError> {
        let asked = &instance.asked;
        let plan = &asked.plan;
        let by_parts = matches!(plan.class, LiveClass::Join | LiveClass::Groups);
        if !by_parts {
            return Ok(Some(FxHashMap::default()));
        }
        let changed: usize = (plan.occurrences.iter())
            .filter_map(|occurrence| change.tables.get(&occurrence.collection))
            .map(|table| {
                if table.truncated {
                    usize::MAX / 64
                } else {
                    table.rows.len()
                }
            })
            .sum();
        let as_whole = changed > self.limits.keys_by_parts;
        if as_whole {
            return Ok(None);
        }
        let mut rows = FxHashMap::default();
        for occurrence in &plan.occurrences {
            let Some(table) = change.tables.get(&occurrence.collection) else {
                continue;
            };
            for row in &table.rows {
                self.shadow.query(
                    &occurrence.of_key,
                    &asked.params,
                    &row.key,
                    &asked.session,
                    |row| {
                        let identity = if plan.class == LiveClass::Join {
                            identity_of(plan, row.as_ref())
                        } else {
                            row.bytes()[..].into()
                        };
                        rows.insert(identity, row);
                        Ok(())
                    },
                )?;
            }
        }
        Ok(Some(rows))
    }

    fn entries_of_copies(
        &mut self,
        id: u64,
        before: Option<FxHashMap<Identity, Row>>,
        change: &CommitChange<'_>,
    ) -> Result<Vec<Entry>, SqlError> {
        let instance = &self.instances[&id];
        let plan = Arc::clone(&instance.asked.plan);
        match (plan.class, before) {
            (LiveClass::Join, Some(before)) => {
                let after = self.parts(instance, change)?.unwrap_or_default();
                Ok(difference_of_maps(before, after))
            }
            (LiveClass::Groups, Some(before)) => {
                let after = self.parts(instance, change)?.unwrap_or_default();
                let groups: FxHashMap<Identity, Row> = before.into_iter().chain(after).collect();
                self.entries_of_groups(id, groups)
            }
            (LiveClass::Groups, None) => {
                let new: FxHashMap<_, _> = self.evaluate(instance)?.rows.into_iter().collect();
                let instance = self.instances.get_mut(&id).expect("looked at above");
                let Kept::Groups(old) =
                    std::mem::replace(&mut instance.kept, Kept::Groups(new.clone()))
                else {
                    return Ok(Vec::new());
                };
                Ok(difference_of_maps(old, new))
            }
            _ => {
                let new = self.evaluate(instance)?;
                let instance = self.instances.get_mut(&id).expect("looked at above");
                let Kept::Set(old) = &instance.kept else {
                    return Ok(Vec::new());
                };
                let entries = difference(old, &new, plan.ordered);
                instance.kept = Kept::Set(new);
                Ok(entries)
            }
        }
    }

    /// Computes groups anew and compares them with what is kept.
    fn entries_of_groups(
        &mut self,
        id: u64,
        groups: FxHashMap<Identity, Row>,
    ) -> Result<Vec<Entry>, SqlError> {
        let instance = &self.instances[&id];
        let asked = &instance.asked;
        let plan = &asked.plan;
        let mut new: FxHashMap<Identity, Option<Row>> = FxHashMap::default();
        match &plan.of_group {
            Some(of_group) => {
                for (identity, group) in groups {
                    let key: Vec<Value> = group.values().map(|value| value.to_owned()).collect();
                    let mut found = None;
                    self.shadow
                        .query(of_group, &asked.params, &key, &asked.session, |row| {
                            found = Some(row);
                            Ok(())
                        })?;
                    new.insert(identity, found);
                }
            }
            // Aggregates over all rows: one group.
            None if groups.is_empty() => {}
            None => {
                let result = self.evaluate(instance)?;
                let empty = Row::from_values(std::iter::empty());
                let found = result.rows.into_iter().next().map(|(_, row)| row);
                new.insert(empty.bytes()[..].into(), found);
            }
        }
        let instance = self.instances.get_mut(&id).expect("looked at above");
        let Kept::Groups(kept) = &mut instance.kept else {
            return Ok(Vec::new());
        };
        let mut entries = Vec::new();
        for (identity, row) in new {
            let before = match &row {
                Some(row) => kept.insert(identity, row.clone()),
                None => kept.remove(&identity),
            };
            entries.extend(entry(before, row));
        }
        Ok(entries)
    }

    fn publish(&mut self, id: u64, lsn: Lsn, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        let Some(instance) = self.instances.get(&id) else {
            return;
        };
        let delta = Delta::new(&instance.asked.plan, lsn, entries);
        for (id, outbox) in &instance.subscribers {
            outbox.push(Item::Change {
                id: *id,
                delta: Arc::clone(&delta),
            });
            if !outbox.mark(lsn) {
                self.told.push(Arc::clone(outbox));
            }
        }
    }

    // ---- definitions ----

    /// Plans again what a change of definitions may mean something else for.
    fn follow_definitions(&mut self, definitions: &[CollectionId]) {
        let touched: FxHashSet<CollectionId> = definitions.iter().copied().collect();
        let others = touched.contains(&CollectionId::NONE);
        let ids: Vec<u64> = (self.instances.iter())
            .filter(|(_, instance)| {
                others
                    || instance
                        .asked
                        .plan
                        .reads
                        .iter()
                        .any(|read| touched.contains(read))
            })
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let instance = &self.instances[&id];
            let is_copied = instance.asked.plan.class != LiveClass::Rows
                && instance
                    .asked
                    .plan
                    .reads
                    .iter()
                    .any(|read| touched.contains(read));
            let end = match self.plan_again(&instance.asked) {
                Err(error) => Some(LiveEnd::Failed(error)),
                Ok(plan) if is_copied || !is_same(&plan, &instance.asked.plan) => {
                    Some(LiveEnd::MustRefetch {
                        message: "definitions that the query depends on have changed".to_owned(),
                    })
                }
                Ok(_) => None,
            };
            if let Some(end) = end {
                self.end(id, &end);
            }
        }
    }

    fn plan_again(&self, asked: &Prepared) -> Result<LivePlan, SqlError> {
        let context = PlanContext {
            identity: self.engine.identify(&asked.principal)?,
            ..asked.plan_context.clone()
        };
        let types: Vec<_> = (asked.plan.parameters.iter())
            .map(|parameter| Some(parameter.pg_type.clone()))
            .collect();
        plan_live(
            &self.tenant.catalog(),
            &asked.sql,
            &types,
            &context,
            asked.recompute,
        )
    }
}

/// What a filter makes of changed rows.
fn filter_rows(
    shadow: &Shadow,
    instance: &mut Instance,
    rows: &[&RowChange<'_>],
) -> Result<Vec<Entry>, SqlError> {
    let asked = &instance.asked;
    let mut entries = Vec::new();
    for row in rows {
        if (asked.plan.watched.as_ref()).is_some_and(|watched| !row.touches(watched)) {
            continue;
        }
        let mut found = [None, None];
        for (image, found) in [&row.before, &row.after].into_iter().zip(&mut found) {
            let Some(image) = image else { continue };
            let version = image.table.version();
            let sql = match &instance.image_sql {
                Some((known, sql)) if *known == version => Arc::clone(sql),
                _ => {
                    let sql: Arc<str> = image_query(&asked.plan, &image.table).into();
                    instance.image_sql = Some((version, Arc::clone(&sql)));
                    sql
                }
            };
            *found = shadow.of_image(&sql, &asked.params, image.row, &asked.session)?;
        }
        let [before, after] = found;
        entries.extend(entry(before, after));
    }
    Ok(entries)
}

/// As [`filter_rows`], for whoever has the plan alone.
pub(crate) fn filter_changes(
    shadow: &Shadow,
    asked: &Prepared,
    rows: &[RowChange<'_>],
) -> Result<Vec<Entry>, SqlError> {
    let mut instance = Instance {
        key: Arc::new(shared_key(asked)),
        asked: asked.clone(),
        image_sql: None,
        kept: Kept::Nothing,
        after: Lsn::ZERO,
        subscribers: Vec::new(),
    };
    let rows: Vec<_> = rows.iter().collect();
    filter_rows(shadow, &mut instance, &rows)
}

fn entry(before: Option<Row>, after: Option<Row>) -> Option<Entry> {
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

fn difference_of_maps(
    mut before: FxHashMap<Identity, Row>,
    after: FxHashMap<Identity, Row>,
) -> Vec<Entry> {
    let mut entries: Vec<Entry> = (after.into_iter())
        .filter_map(|(identity, row)| entry(before.remove(&identity), Some(row)))
        .collect();
    entries.extend(before.into_values().map(|row| Entry::Removed { row }));
    entries
}

/// Whether a change can matter to a query over one table: a column that it looks at has changed.
fn minds(plan: &LivePlan, change: &CommitChange<'_>) -> bool {
    let Some(watched) = &plan.watched else {
        return true;
    };
    (plan.reads.iter())
        .filter_map(|read| change.tables.get(read))
        .any(|table| table.truncated || table.rows.iter().any(|row| row.touches(watched)))
}

fn is_same(a: &LivePlan, b: &LivePlan) -> bool {
    a.sql == b.sql
        && a.columns == b.columns
        && a.parameters == b.parameters
        && a.key == b.key
        && a.reads == b.reads
}

fn shared_key(asked: &Prepared) -> SharedKey {
    SharedKey {
        sql: Arc::clone(&asked.sql),
        recompute: asked.recompute,
        params: Row::from_values(asked.params.iter().map(Value::as_ref)).bytes()[..].into(),
        context: asked.plan_context.clone(),
        principal: format!("{:?}", asked.principal),
    }
}
