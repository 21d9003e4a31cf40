//! What becomes of live queries when definitions, rights or roles change: a query that still means
//! the same goes on, over new copies of its tables if these have another form; any other ends with
//! the reason.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use springhead_proto::{CollectionId, Lsn, SchemaVersion, SqlError};
use springhead_sql::catalog::Table;
use springhead_sql::live::LiveClass;

use super::LiveError;
use super::asked::{Asked, Prepared};
use super::commit::Defined;
use super::core::{Core, Instance, Kept};
use super::delta::ResultSet;
use super::outbox::{LiveEnd, LiveId, Subscribers};

impl Core {
    /// Looks again at what a change of definitions may mean something else for.
    pub(super) fn follow_definitions(&mut self, definitions: &[Defined], lsn: Lsn) {
        let touched: FxHashSet<CollectionId> =
            (definitions.iter()).map(|one| one.collection).collect();
        let others = touched.contains(&CollectionId::NONE);
        let ids: Vec<u64> = (self.instances.iter())
            .filter(|(_, instance)| {
                let reads = &instance.query.plan().reads;
                others || reads.iter().any(|read| touched.contains(read))
            })
            .map(|(id, _)| *id)
            .collect();
        self.look_again(&ids, "definitions that the query depends on have changed");
        self.end_converted(definitions, lsn);
        self.renew_copies(definitions, lsn);
    }

    /// Filters of row images cannot go on where rows have changed without an image, or where a row was
    /// told from others by another key for a time.
    fn end_converted(&mut self, definitions: &[Defined], lsn: Lsn) {
        let converted: FxHashSet<CollectionId> = (definitions.iter())
            .filter(|one| one.converts || self.is_rekeyed(one))
            .map(|one| one.collection)
            .collect();
        let ids: Vec<u64> = (self.instances.iter())
            .filter(|(_, instance)| {
                let plan = instance.query.plan();
                plan.class == LiveClass::Rows
                    && lsn > instance.after
                    && plan.reads.iter().any(|read| converted.contains(read))
            })
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let message = "values of the table were converted".to_owned();
            self.end(id, &LiveEnd::MustRefetch { message });
        }
    }

    /// Whether the table had another key before.
    fn is_rekeyed(&self, one: &Defined) -> bool {
        let table = |version| self.tenant.schema(one.collection, SchemaVersion(version));
        let before = one.version.0.checked_sub(1).and_then(table);
        let now = table(one.version.0);
        matches!((before, now), (Some(before), Some(now)) if before.key_ids() != now.key_ids())
    }

    /// Says what has become of a query that nobody has looked at again since it was planned, if it means
    /// something else now.
    pub(super) fn expect_current(&self, asked: &Asked) -> Result<(), LiveError> {
        if asked.plan.catalog_version == self.tenant.catalog().version
            && asked.context.roles.version() == self.engine.roles().version
        {
            return Ok(());
        }
        match self.end_of_change(asked, "definitions changed meanwhile") {
            None => Ok(()),
            Some(LiveEnd::MustRefetch { message }) => Err(LiveError::Refetch(message)),
            Some(LiveEnd::Failed(error)) => Err(LiveError::Sql(error)),
        }
    }

    /// Looks again at all queries of those whose rights have changed.
    pub(crate) fn follow_roles(&mut self) {
        let ids: Vec<u64> = (self.instances.iter())
            .filter(|(_, instance)| {
                let asked = &instance.query.asked;
                let identity = asked.who.identify(&self.engine);
                identity.is_ok_and(|identity| *identity != *asked.context.identity)
                    || asked.context.roles.version() != self.engine.roles().version
            })
            .map(|(id, _)| *id)
            .collect();
        self.look_again(&ids, "what its user may see has changed");
    }

    /// Plans queries again, each text once, and ends those that mean something else now.
    fn look_again(&mut self, ids: &[u64], why: &str) {
        let mut ends: FxHashMap<usize, Option<LiveEnd>> = FxHashMap::default();
        for &id in ids {
            let asked = Arc::clone(&self.instances[&id].query.asked);
            let end = ends
                .entry(Arc::as_ptr(&asked).addr())
                .or_insert_with(|| self.end_of_change(&asked, why));
            if let Some(end) = end.clone() {
                self.end(id, &end);
            }
        }
    }

    fn end_of_change(&self, asked: &Asked, why: &str) -> Option<LiveEnd> {
        match asked.plan_again(&self.engine, &self.tenant) {
            Err(error) => Some(LiveEnd::Failed(error)),
            Ok((select, _)) if select.plan.is_kept_as(&asked.plan) => None,
            Ok(_) => Some(LiveEnd::MustRefetch {
                message: why.to_owned(),
            }),
        }
    }

    /// Makes copies anew whose tables have, or had for some of the rows that come, another form. Their
    /// queries go on from what they have told: the difference comes once the new copies are reached.
    fn renew_copies(&mut self, definitions: &[Defined], lsn: Lsn) {
        let catalog = self.tenant.catalog();
        let mut outdated: Vec<CollectionId> = (definitions.iter())
            .filter(|one| {
                // The catalog may be that of a later commit, in which a form that came has gone again.
                let then = self.tenant.schema(one.collection, one.version);
                let now = catalog.table(one.collection);
                let fits =
                    |table: Option<&Arc<Table>>| table.is_some_and(|table| self.shadow.fits(table));
                let is_before = (self.shadow.loaded_at(one.collection)).is_some_and(|at| at < lsn);
                is_before && (one.converts || !fits(then.as_ref()) || !fits(now))
            })
            .map(|one| one.collection)
            .collect();
        outdated.sort_unstable();
        outdated.dedup();
        let mut ids: Vec<u64> = (outdated.iter())
            .filter_map(|collection| self.readers.get(collection))
            .flatten()
            .copied()
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let told: Vec<_> = (ids.iter()).map(|id| (*id, self.told_by(*id))).collect();
        for collection in &outdated {
            self.shadow.drop_table(*collection);
        }
        for (id, told) in told {
            if let Err(error) = told.and_then(|told| self.go_on_over_new_copies(id, told)) {
                self.end(id, &LiveEnd::Failed(error));
            }
        }
    }

    /// What a query's subscribers know now; `None` if they know nothing yet.
    fn told_by(&self, id: u64) -> Result<Option<ResultSet>, SqlError> {
        if let Some(sorted) = self.sorted.get(&id) {
            return Ok(Some(sorted.shown()));
        }
        let instance = &self.instances[&id];
        match &instance.kept {
            Kept::Waiting(told) => Ok(told.as_deref().cloned()),
            Kept::Set(set) => Ok(Some((**set).clone())),
            Kept::Groups(_)
            | Kept::Anchored(_)
            | Kept::AnchoredGroups(_)
            | Kept::Sides(_)
            | Kept::Nothing => self.evaluate(instance).map(Some),
        }
    }

    fn go_on_over_new_copies(&mut self, id: u64, told: Option<ResultSet>) -> Result<(), SqlError> {
        let plan = Arc::clone(self.instances[&id].query.plan());
        let loaded_at = self.load(&plan.reads)?;
        self.shadow.want_index(&plan)?;
        let instance = self.instances.get_mut(&id).expect("it was there above");
        instance.after = instance.after.max(loaded_at.unwrap_or(instance.after));
        instance.kept = Kept::Waiting(told.map(Box::new));
        self.sorted.remove(&id);
        self.pending.insert(id);
        Ok(())
    }

    /// A subscriber's query goes on for the same user under other credentials, from where it is.
    /// False if it is not there any more.
    ///
    /// # Errors
    /// What evaluating it says.
    pub(crate) fn adopt(&mut self, id: LiveId, query: Prepared) -> Result<bool, SqlError> {
        let Some(&old) = self.of_subscriber.get(&id) else {
            return Ok(false);
        };
        let instance = &self.instances[&old];
        let outbox = (instance.subscribers.iter())
            .find(|(subscriber, _)| *subscriber == id)
            .map(|(_, outbox)| Arc::clone(outbox));
        let Some(outbox) = outbox else {
            return Ok(false);
        };
        let kept = instance.kept.clone();
        let (after, sorted) = (instance.after, self.sorted.get(&old).cloned());
        let new = self.put(Instance {
            query,
            kept,
            after,
            subscribers: Subscribers::One((id, outbox)),
        });
        self.sorted.extend(sorted.map(|sorted| (new, sorted)));
        // The copies are held by the new one now.
        self.unsubscribe(id);
        self.of_subscriber.insert(id, new);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use springhead_log::ManualClock;
    use springhead_log::memory::MemoryLog;
    use springhead_proto::{Epoch, Lsn, TenantId, ValueRef};

    use super::super::{Live, LiveLimits, LiveRequest, Subscriber, asked};
    use super::*;
    use crate::access::{Credential, Principal};
    use crate::live::LiveOptions;
    use crate::session::{ParamValue, Session};
    use crate::{Engine, EngineConfig, Entropy};

    struct Zeros;

    impl Entropy for Zeros {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(0);
        }
    }

    async fn run(session: &mut Session, sql: &str) -> Lsn {
        let statement = session.prepare(sql, &[]).unwrap();
        let none: &[ParamValue<'_>] = &[];
        session.execute(&statement, none).await.unwrap().lsn
    }

    /// What happens between planning and subscribing, one step after the other.
    #[tokio::test(flavor = "multi_thread")]
    async fn g6_a_query_planned_before_a_policy_and_begun_after_it_is_under_it() {
        let dir = tempfile::tempdir().unwrap();
        let (log, clock) = (MemoryLog::new(Epoch(1)), ManualClock::at(0));
        let config = EngineConfig::new(dir.path());
        let engine = Engine::open(config, Arc::new(log), Arc::new(clock), Arc::new(Zeros)).unwrap();
        let boss = Principal::unrestricted("boss");
        let mut admin = engine.session(TenantId::DEFAULT, &boss).await.unwrap();
        for sql in [
            "CREATE TABLE t (k integer PRIMARY KEY, g integer)",
            "INSERT INTO t VALUES (1, 1), (2, 1), (3, 1)",
            "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY p0 ON t FOR SELECT USING (true)",
            "CREATE ROLE ann LOGIN",
            "GRANT SELECT ON t TO ann",
        ] {
            run(&mut admin, sql).await;
        }
        let tenant = engine.tenant(TenantId::DEFAULT).await.unwrap();
        let live = Live::new(engine.clone(), LiveLimits::default());
        // Has definitions gone through as they come.
        let mut keeper = Subscriber::new(&live, Arc::clone(&tenant));
        let kept = LiveRequest {
            sql: "SELECT k FROM t",
            params: &[],
            cursor: None,
            options: LiveOptions::default(),
        };
        keeper.open(&boss, &kept).await.unwrap();

        let ann = Arc::new(Principal::of("ann", Credential::Password));
        let asker = asked::asker(&engine, &tenant, &ann).await.unwrap();
        let sql = "SELECT g, count(*) FROM t GROUP BY g";
        let select = asked::plan(&tenant, sql, false, &asker.context).unwrap();
        let params = asked::convert(&select.plan, &[]).unwrap();
        let hides = "CREATE POLICY p1 ON t AS RESTRICTIVE FOR SELECT USING (k % 2 = 0)";
        let lsn = run(&mut admin, hides).await;
        keeper.reached(lsn).await;

        let mut subscriber = Subscriber::new(&live, Arc::clone(&tenant));
        let opened = subscriber.open_select(asker, &select, params, None, true);
        let mut rows = opened.await.unwrap().rows.unwrap();
        let chunk = rows.next_chunk().unwrap().unwrap();
        let counts: Vec<_> = chunk.rows().map(|row| row.get(1)).collect();
        assert_eq!(counts, [Some(ValueRef::Integer(1))]);
        engine.shutdown();
    }
}
