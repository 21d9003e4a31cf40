//! Definitions that change between rows, in transactions, with savepoints, and several commits to one
//! group, seen through every exit: what a change feed adds up to, what live queries and devices hold,
//! what a standby has and shows, is after every few commits what a fresh SELECT says, or has ended with a
//! reason that is not the server's own fault.
//!
//! A failure names its seed; `DEFINITION_SEED` starts there, `DEFINITION_SEEDS` is how many are run.

use std::sync::Arc;

use springhead_engine::follow::Follower;
use springhead_engine::live::{
    Live, LiveEnd, LiveError, LiveEvent, LiveId, LiveLimits, LiveOptions, LiveRequest, Subscriber,
};
use springhead_engine::sync::SyncLimits;
use springhead_log::Log;
use springhead_proto::{Cursor, Lsn, TenantId};

use crate::definitions_feeds::Consumer;
use crate::definitions_seen::{Folded, Holder, is_ours, user};
use crate::definitions_world::{Form, NAMES, SETUP, TABLES, Trace, World, forms};
use crate::live::{Mirror, drain, number};
use crate::support::{Client, Kept, Node, dump};
use crate::sync::device::Rig;

/// A live query under test.
pub struct Watched {
    id: LiveId,
    mirror: Mirror,
    at: Lsn,
}

/// Those of one user on one node.
pub struct Watcher {
    who: &'static str,
    live: Arc<Live>,
    subscriber: Subscriber,
    pub watched: Vec<Watched>,
    /// As they were some time ago, to go on from there.
    pub old: Vec<(Mirror, Lsn)>,
}

pub async fn client_of(node: &Node, who: &str) -> Client {
    let session = node.engine.session(TenantId::DEFAULT, &user(who)).await;
    Client {
        session: session.unwrap(),
    }
}

fn request(sql: &str, cursor: Option<Lsn>, refetch: bool) -> LiveRequest<'_> {
    LiveRequest {
        sql,
        params: &[],
        cursor: cursor.map(|lsn| Cursor { lsn, epoch: None }),
        options: LiveOptions {
            refetch,
            ..LiveOptions::default()
        },
    }
}

impl Watcher {
    pub async fn new(node: &Node, who: &'static str) -> Watcher {
        let live = Live::new(node.engine.clone(), LiveLimits::default());
        Watcher {
            who,
            subscriber: Subscriber::new(&live, node.tenant().await),
            live,
            watched: Vec::new(),
            old: Vec::new(),
        }
    }

    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    pub async fn open(&mut self, world: &mut World, forms: &[Form], why: &str) {
        let Some(sql) = world.query(forms) else {
            return;
        };
        let refetch = world.below(2) == 0;
        let opened = self
            .subscriber
            .open(&user(self.who), &request(&sql, None, refetch))
            .await;
        match opened {
            Ok(opened) => self.watched.push(Watched {
                id: opened.id,
                at: opened.lsn,
                mirror: Mirror::new(&sql, opened),
            }),
            Err(LiveError::Sql(error)) if !is_ours(&error) => {}
            Err(error) => panic!("{why}: {sql} of {}: {error:?}", self.who),
        }
    }

    /// Goes on from where an older one was.
    pub async fn go_on(
        &mut self,
        node: &Node,
        world: &mut World,
        client: &mut Client,
        why: &str,
    ) -> usize {
        if self.old.is_empty() {
            return 0;
        }
        let at = world.below(self.old.len());
        let (mut mirror, cursor) = self.old.swap_remove(at);
        let sql = mirror.sql.clone();
        let why = format!("{why}: {sql} of {} from {cursor}", self.who);
        let mut subscriber = Subscriber::new(&self.live, node.tenant().await);
        match subscriber
            .open(&user(self.who), &request(&sql, Some(cursor), false))
            .await
        {
            Ok(opened) => {
                mirror.plan = opened.plan;
                if let Some(delta) = opened.delta {
                    mirror.apply(&delta.entries);
                }
                compare(client, &mirror, &why).await;
                1
            }
            Err(LiveError::Sql(error)) if is_ours(&error) => panic!("{why}: {error:?}"),
            Err(_) => 0,
        }
    }

    /// Takes all that has come up to `last`, and compares.
    pub async fn take(&mut self, last: Lsn, client: &mut Client, why: &str) -> usize {
        let (watched, who) = (&mut self.watched, self.who);
        drain(&mut self.subscriber, last, |event| match event {
            LiveEvent::Change { id, delta } => {
                let one = watched.iter_mut().find(|one| one.id == id).unwrap();
                one.mirror.apply(&delta.entries);
                one.at = delta.lsn;
            }
            LiveEvent::Tick(_) => {}
            LiveEvent::Refetched { id, opened, .. } => {
                let one = watched.iter_mut().find(|one| one.id == id).unwrap();
                one.at = opened.lsn;
                one.mirror = Mirror::new(&one.mirror.sql.clone(), *opened);
            }
            LiveEvent::Ended { id, end } => {
                let at = watched.iter().position(|one| one.id == id).unwrap();
                let one = watched.swap_remove(at);
                if let LiveEnd::Failed(error) = end
                    && is_ours(&error)
                {
                    panic!("{why}: {} of {who}: {error:?}", one.mirror.sql);
                }
            }
        })
        .await;
        for one in &self.watched {
            compare(
                client,
                &one.mirror,
                &format!("{why}: {} of {who}", one.mirror.sql),
            )
            .await;
            if self.old.len() < 12 {
                self.old.push((one.mirror.clone(), last.max(one.at)));
            }
        }
        self.watched.len()
    }
}

async fn compare(client: &mut Client, mirror: &Mirror, why: &str) {
    let rows = client.run(&mirror.sql).await;
    let mut lines = rows
        .unwrap_or_else(|error| panic!("{why}: {error:?}"))
        .lines();
    if !mirror.plan.ordered {
        lines.sort();
    }
    assert_eq!(mirror.lines(), lines, "{why}");
}

struct Run {
    rig: Rig,
    world: World,
    boss: Client,
    ann: Client,
    others: Vec<Client>,
    watchers: Vec<Watcher>,
    folded: Folded,
    consumer: Consumer,
    holders: Vec<Holder>,
    standby: Node,
    follower: Follower,
    on_standby: Watcher,
    /// The primary's states of some time ago.
    kept: Option<Kept>,
    trace: Trace,
    compared: usize,
}

impl Run {
    async fn start(seed: u64) -> Run {
        let mut world = World::new(seed);
        // Some forget what is older than a few transactions.
        let retain_bytes = [u64::MAX, u64::MAX, 6000][world.below(3)];
        let node = Node::remembering(retain_bytes, |config| config.capture_memory_bytes = 2000);
        let mut client = node.client().await;
        for statement in SETUP {
            client.ok(statement).await;
        }
        let mut boss = client_of(&node, "boss").await;
        for statement in TABLES {
            boss.ok(statement).await;
        }
        let standby = node.standby();
        let mut follower = standby.engine.follower().unwrap();
        let stepped = tokio::task::block_in_place(|| follower.step());
        stepped.unwrap();
        let watchers = vec![
            Watcher::new(&node, "boss").await,
            Watcher::new(&node, "ann").await,
        ];
        let mut others = Vec::new();
        for _ in 0..3 {
            others.push(client_of(&node, "boss").await);
        }
        Run {
            on_standby: Watcher::new(&standby, "boss").await,
            standby,
            follower,
            folded: Folded::new(&node),
            consumer: Consumer::default(),
            watchers,
            others,
            ann: client_of(&node, "ann").await,
            boss,
            holders: vec![Holder::new(1, "boss"), Holder::new(2, "ann")],
            rig: Rig::over(node, SyncLimits::default(), "").await,
            world,
            kept: None,
            trace: Trace::new(seed),
            compared: 0,
        }
    }

    fn why(&self) -> String {
        self.trace.why()
    }

    async fn transaction(&mut self) {
        let Run {
            world, boss, trace, ..
        } = self;
        trace.transaction(world, boss).await;
    }

    /// Some statements of several sessions, whose commits fall into one group where they can.
    async fn group(&mut self) {
        let mut statements = Vec::new();
        for _ in 0..3 {
            statements.push(self.world.statement(&mut self.boss).await);
        }
        let at_once = format!("-- at once: {}", statements.join(" | "));
        self.trace.push(at_once);
        let log = Arc::clone(&self.rig.node.log);
        log.hold();
        let running: Vec<_> = (self.others.drain(..).zip(statements))
            .map(|(mut other, statement)| {
                tokio::spawn(async move {
                    let done = other.run(&statement).await;
                    other.session.reset().await;
                    (other, done)
                })
            })
            .collect();
        let all = async {
            let mut all = Vec::new();
            for one in running {
                all.push(one.await.unwrap());
            }
            all
        };
        tokio::pin!(all);
        let done = tokio::select! {
            biased;
            done = &mut all => done,
            () = log.held() => {
                // Who comes behind the first forms the next group.
                for _ in 0..30 {
                    tokio::task::yield_now().await;
                }
                log.release();
                all.await
            }
        };
        log.release();
        for (other, done) in done {
            self.others.push(other);
            if let Err(error) = done {
                assert!(!is_ours(&error), "{}{error:?}", self.why());
            }
        }
    }

    async fn check(&mut self) {
        let why = self.why();
        let tenant = self.rig.node.tenant().await;
        tenant.wait_visible(tenant.acknowledged()).await.unwrap();
        let last = tenant.last_commit();
        let forms = forms(&mut self.boss).await;
        self.compared += self.folded.check(&self.rig.node, &forms, &why).await;
        if self.world.below(3) == 0 {
            self.compared += self
                .folded
                .check_pages(&self.rig.node, &mut self.world, &why)
                .await;
            self.compared += self
                .folded
                .check_show_changes(&self.rig.node, &mut self.boss, &mut self.world, &why)
                .await;
        }
        for watcher in &mut self.watchers {
            let client = match watcher.who {
                "boss" => &mut self.boss,
                _ => &mut self.ann,
            };
            self.compared += watcher.take(last, client, &why).await;
            self.compared += watcher
                .go_on(&self.rig.node, &mut self.world, client, &why)
                .await;
            if watcher.watched.len() < 8 {
                watcher.open(&mut self.world, &forms, &why).await;
                watcher.open(&mut self.world, &forms, &why).await;
            }
        }
        for holder in &mut self.holders {
            if self.world.below(3) == 0 {
                continue;
            }
            let client = match &*holder.device.role {
                "boss" => &mut self.boss,
                _ => &mut self.ann,
            };
            let shown = (client, &forms[..]);
            self.compared += holder.step(&self.rig, &mut self.world, shown, &why).await;
        }
        if self.world.below(3) == 0 {
            self.check_standby(&forms, &why).await;
            if self.world.below(3) == 0 {
                tenant.wait_visible(tenant.acknowledged()).await.unwrap();
                self.kept = Some(self.rig.node.keep());
            }
            // It has seen all that goes now.
            self.folded.forget(&self.rig.node).await;
        }
        if self.world.below(3) == 0 {
            self.compared += self
                .consumer
                .step(&self.folded, &self.rig.node, &mut self.world, &why)
                .await;
        }
        let name = self.world.r.pick(&NAMES);
        for sql in [
            format!("SHOW CHANGES FOR {name}"),
            format!("EXPLAIN LIVE SELECT * FROM {name} WHERE id > 1"),
        ] {
            for client in [&mut self.boss, &mut self.ann] {
                if let Err(error) = client.run(&sql).await {
                    assert!(!is_ours(&error), "{why}{sql}: {error:?}");
                }
            }
        }
    }

    async fn check_standby(&mut self, forms: &[Form], why: &str) {
        let applied = tokio::task::block_in_place(|| self.follower.step());
        let applied = applied.unwrap_or_else(|error| panic!("{why}: {error}"));
        let why = format!("{why}on the standby");
        let last = self.standby.tenant().await.last_commit();
        assert!(last <= applied);
        let state = |node: &Node| dump(&node.state_file(TenantId::DEFAULT));
        assert_eq!(state(&self.standby), state(&self.rig.node), "{why}");
        let mut client = client_of(&self.standby, "boss").await;
        self.compared += self.on_standby.take(last, &mut client, &why).await;
        self.compared += (self.on_standby)
            .go_on(&self.standby, &mut self.world, &mut client, &why)
            .await;
        if self.on_standby.watched.len() < 6 {
            self.on_standby.open(&mut self.world, forms, &why).await;
        }
        let folded = Folded::new(&self.standby);
        assert_eq!(
            folded.all(&self.standby, &why).await,
            self.folded.told(&self.standby),
            "{why}"
        );
    }

    /// The engine ends without a word and comes back; everyone goes on.
    async fn restart(self) -> Run {
        let Run {
            rig: Rig { node, sync },
            watchers,
            others,
            boss,
            ann,
            folded,
            mut holders,
            ..
        } = self;
        for holder in &mut holders {
            holder.device.session = None;
        }
        let old: Vec<_> = watchers.into_iter().map(|watcher| watcher.old).collect();
        drop((sync, others, boss, ann));
        let folded = folded.without();
        let node = node.reopen();
        let mut watchers = vec![
            Watcher::new(&node, "boss").await,
            Watcher::new(&node, "ann").await,
        ];
        for (watcher, old) in watchers.iter_mut().zip(old) {
            watcher.old = old;
        }
        let mut others = Vec::new();
        for _ in 0..3 {
            others.push(client_of(&node, "boss").await);
        }
        Run {
            watchers,
            others,
            boss: client_of(&node, "boss").await,
            ann: client_of(&node, "ann").await,
            folded: folded.over(&node),
            holders,
            rig: Rig::over(node, SyncLimits::default(), "").await,
            ..self
        }
    }

    /// What the log alone adds up to; then the standby leads.
    async fn finish(mut self) -> usize {
        let why = self.why();
        let forms = forms(&mut self.boss).await;
        self.check_standby(&forms, &why).await;
        let state = |node: &Node| dump(&node.state_file(TenantId::DEFAULT));
        let earliest = self.rig.node.log.earliest();
        let mut others = Vec::new();
        if earliest <= Lsn::FIRST {
            others.push(self.rig.node.replayed_elsewhere());
        }
        if let Some(kept) = self.kept.take().filter(|kept| kept.lsn.next() >= earliest) {
            others.push(self.rig.node.replayed_from(&kept));
        }
        for other in others {
            assert_eq!(state(&other), state(&self.rig.node), "{why}");
            let again = Folded::new(&other);
            let told = self.folded.told(&other);
            assert_eq!(again.all(&other, &why).await, told, "{why}");
        }
        for holder in &mut self.holders {
            if holder.device.session.is_none() {
                holder.device.connect(&self.rig).await.unwrap();
            }
            holder.device.rest().await;
            // Who comes anew is told all of them.
            let role = holder.device.role.clone();
            let mut fresh = self.rig.device_of(99, &role, &[]).await;
            fresh.rest().await;
            assert_eq!(holder.device.catalog_hash(), fresh.catalog_hash(), "{why}");
            assert_eq!(holder.device.catalog.1, fresh.catalog_hash(), "{why}");
        }
        let leading = self.standby.engine.clone();
        std::thread::spawn(move || leading.lead().unwrap())
            .join()
            .unwrap();
        let mut client = client_of(&self.standby, "boss").await;
        for _ in 0..4 {
            let statement = self.world.statement(&mut client).await;
            if let Err(error) = client.run(&statement).await {
                assert!(!is_ours(&error), "{why}{statement}: {error:?}");
            }
            client.session.reset().await;
        }
        let last = self.standby.tenant().await.last_commit();
        self.compared += self.on_standby.take(last, &mut client, &why).await;
        self.compared
    }
}

async fn run_seed(seed: u64, rounds: usize) -> usize {
    let mut run = Run::start(seed).await;
    for _ in 0..rounds {
        for _ in 0..1 + run.world.below(3) {
            match run.world.below(5) {
                0 => run.group().await,
                _ => run.transaction().await,
            }
        }
        run.check().await;
        if run.world.below(10) == 0 {
            run = run.restart().await;
        }
    }
    run.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g8_g10_every_exit_is_right_while_definitions_change() {
    let first = number("DEFINITION_SEED").unwrap_or(1);
    let seeds = number("DEFINITION_SEEDS").unwrap_or(3);
    let mut compared = 0;
    for seed in first..first + seeds {
        println!("seed {seed}, {compared} comparisons so far");
        compared += run_seed(seed, 12).await;
    }
    println!("{compared} comparisons");
}
