//! The metamorphic test of live queries at full width: random schemas, policies, readers, queries of
//! every class, definitions that change, and an engine that dies in the middle. After every commit
//! each maintained result is what a fresh SELECT of the same reader says.
//!
//! A failure names its seed; `SPRINGHEAD_LIVE_SEED` starts there, `SPRINGHEAD_LIVE_COMPARISONS` is
//! how many comparisons are made (for the long run 1,000,000).

use std::collections::VecDeque;
use std::sync::Arc;

use springhead_engine::access::{Credential, Principal};
use springhead_engine::live::{
    Live, LiveEnd, LiveError, LiveEvent, LiveId, LiveLimits, LiveOptions, LiveRequest, Subscriber,
};
use springhead_proto::{Cursor, ErrorCode, Lsn, TenantId};

use crate::live::{Mirror, drain, number};
use crate::live_world::{World, below};
use crate::support::{Client, Node};

/// A live query under test.
struct Watched {
    id: LiveId,
    mirror: Mirror,
    /// Whether it is ann's, else the superuser's.
    is_anns: bool,
    /// The last LSN that it has been told of.
    at: Lsn,
}

struct Run {
    node: Node,
    world: World,
    client: Client,
    ann: Client,
    live: Arc<Live>,
    subscribers: [Subscriber; 2],
    watched: Vec<Watched>,
    why: String,
    compared: usize,
}

fn principals() -> [Arc<Principal>; 2] {
    [
        Principal::unrestricted("postgres"),
        Arc::new(Principal::of("ann", Credential::Password)),
    ]
}

async fn superuser(node: &Node) -> Client {
    let everyone = principals();
    kept_good(&everyone[0]);
    let session = node.engine.session(TenantId::DEFAULT, &everyone[0]).await;
    Client {
        session: session.unwrap(),
    }
}

async fn session(node: &Node) -> Client {
    let session = node
        .engine
        .session(TenantId::DEFAULT, &principals()[1])
        .await;
    Client {
        session: session.unwrap(),
    }
}

/// Roles end open mode for all but who is kept good.
fn kept_good(principal: &Principal) {
    if let Credential::Open(kept) = &principal.credential {
        kept.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

async fn subscribe(node: &Node, live: &Arc<Live>) -> [Subscriber; 2] {
    let tenant = node.tenant().await;
    [
        Subscriber::new(live, Arc::clone(&tenant)),
        Subscriber::new(live, tenant),
    ]
}

fn request<'r>(sql: &'r str, cursor: Option<Lsn>) -> LiveRequest<'r> {
    LiveRequest {
        sql,
        params: &[],
        cursor: cursor.map(|lsn| Cursor { lsn, epoch: None }),
        options: LiveOptions {
            refetch: true,
            ..LiveOptions::default()
        },
    }
}

impl Run {
    async fn start(seed: u64) -> Run {
        let node = Node::start();
        let mut world = World::new(seed);
        // Views are read with their owner's rights, and it has none once there are roles and it is none.
        let mut client = superuser(&node).await;
        for statement in world.schema() {
            client.ok(&statement).await;
        }
        for _ in 0..25 {
            let statement = world.statement();
            client.ok(&statement).await;
        }
        let mut limits = LiveLimits::default();
        if world.r.below(4) == 0 {
            limits.keys_by_parts = 2;
        }
        let live = Live::new(node.engine.clone(), limits);
        let subscribers = subscribe(&node, &live).await;
        let ann = session(&node).await;
        Run {
            node,
            world,
            client,
            ann,
            live,
            subscribers,
            watched: Vec::new(),
            why: format!("seed {seed}"),
            compared: 0,
        }
    }

    async fn open(&mut self, count: usize) {
        let everyone = principals();
        kept_good(&everyone[0]);
        for _ in 0..count {
            let sql = self.world.query();
            let is_anns = self.world.r.below(2) == 0;
            let who = usize::from(is_anns);
            let opened = self.subscribers[who]
                .open(&everyone[who], &request(&sql, None))
                .await;
            match opened {
                Ok(opened) => self.watched.push(Watched {
                    id: opened.id,
                    at: opened.lsn,
                    mirror: Mirror::new(&sql, opened),
                    is_anns,
                }),
                // A policy may make a query what cannot be kept, and two may need one another.
                Err(LiveError::Sql(error))
                    if matches!(
                        error.code,
                        ErrorCode::FeatureNotSupported | ErrorCode::InvalidObjectDefinition
                    ) => {}
                Err(error) => panic!("{}: {sql}: {error}", self.why),
            }
        }
    }

    async fn fresh(&mut self, index: usize) -> Vec<String> {
        let watched = &self.watched[index];
        let client = if watched.is_anns {
            &mut self.ann
        } else {
            &mut self.client
        };
        let mut lines = client.lines(&watched.mirror.sql).await;
        if !watched.mirror.plan.ordered {
            lines.sort();
        }
        lines
    }

    async fn commit(&mut self) -> Lsn {
        let text = self.world.transaction();
        let mut last = Lsn::ZERO;
        match self.client.run(&text).await {
            Ok(answer) => last = answer.lsn,
            Err(error) => {
                let expected = ErrorCode::UniqueViolation;
                assert_eq!(error.code, expected, "{}: {text}", self.why);
                self.client.run("ROLLBACK").await.ok();
            }
        }
        // What is answered may be told to others a moment later.
        last = last.max(self.node.tenant().await.last_commit());
        for index in 0..self.watched.len() {
            let lines = self.fresh(index).await;
            self.watched[index].mirror.expected.push_back((last, lines));
        }
        last
    }

    /// Takes all that has come up to `last`, and compares.
    async fn take(&mut self, last: Lsn, exactly: bool) {
        let why = &self.why;
        for subscriber in &mut self.subscribers {
            let (watched, compared) = (&mut self.watched, &mut self.compared);
            let mut gone = Vec::new();
            drain(subscriber, last, |event| match event {
                LiveEvent::Change { id, delta } => {
                    let one = watched.iter_mut().find(|one| one.id == id).unwrap();
                    if exactly {
                        *compared += one.mirror.check(delta.lsn, why);
                    } else {
                        one.mirror.expected.retain(|(lsn, _)| *lsn >= delta.lsn);
                    }
                    one.at = delta.lsn;
                    one.mirror.apply(&delta.entries);
                }
                LiveEvent::Tick(_) => {}
                LiveEvent::Refetched { id, opened, .. } => {
                    let one = watched.iter_mut().find(|one| one.id == id).unwrap();
                    one.at = opened.lsn;
                    let expected = std::mem::take(&mut one.mirror.expected);
                    one.mirror = Mirror::new(&one.mirror.sql.clone(), *opened);
                    one.mirror.expected = expected;
                    one.mirror.expected.retain(|(lsn, _)| *lsn >= one.at);
                }
                LiveEvent::Ended { id, end } => {
                    let LiveEnd::Failed(error) = end else {
                        panic!("{why}: it was to begin anew");
                    };
                    assert_eq!(error.code, ErrorCode::FeatureNotSupported, "{why}: {error}");
                    gone.push(id);
                }
            })
            .await;
            watched.retain(|one| !gone.contains(&one.id));
        }
        for one in &mut self.watched {
            if !exactly {
                let newest = one.mirror.expected.pop_back();
                one.mirror.expected = newest.into_iter().collect::<VecDeque<_>>();
            }
            self.compared += one.mirror.check(last.next(), why);
        }
    }

    /// The engine dies with some changes not told, and comes back; everyone goes on from its cursor.
    async fn die(mut self) -> Run {
        for _ in 0..3 {
            self.commit().await;
        }
        let Run {
            node,
            world,
            live,
            subscribers,
            mut watched,
            why,
            compared,
            client,
            ann,
        } = self;
        drop((subscribers, live, client, ann));
        let node = node.reopen();
        let live = Live::new(node.engine.clone(), LiveLimits::default());
        let mut subscribers = subscribe(&node, &live).await;
        let everyone = principals();
        kept_good(&everyone[0]);
        let client = superuser(&node).await;
        for one in &mut watched {
            let who = usize::from(one.is_anns);
            let sql = one.mirror.sql.clone();
            let asked = request(&sql, Some(one.at));
            let opened = subscribers[who].open(&everyone[who], &asked).await;
            let opened = opened.unwrap_or_else(|error| panic!("{why}: {sql}: {error}"));
            (one.id, one.at) = (opened.id, opened.lsn);
            let newest = one.mirror.expected.pop_back();
            one.mirror.expected = newest.into_iter().collect();
            match opened.rows {
                Some(_) => {
                    let expected = std::mem::take(&mut one.mirror.expected);
                    one.mirror = Mirror::new(&sql, opened);
                    one.mirror.expected = expected;
                }
                None => {
                    if let Some(delta) = opened.delta {
                        one.mirror.apply(&delta.entries);
                    }
                }
            }
        }
        let ann = session(&node).await;
        let last = node.tenant().await.last_commit();
        let mut run = Run {
            node,
            world,
            client,
            ann,
            live,
            subscribers,
            watched,
            why,
            compared,
        };
        run.take(last, false).await;
        run
    }
}

async fn run_seed(seed: u64, rounds: usize) -> usize {
    let mut run = Run::start(seed).await;
    run.open(10).await;
    for round in 0..rounds {
        run.why = format!("seed {seed}, round {round}");
        let burst = 1 + below(&mut run.world.r, 5);
        let mut last = Lsn::ZERO;
        for _ in 0..burst {
            last = run.commit().await;
        }
        run.take(last, true).await;
        if run.world.r.below(5) == 0 {
            let definition = run.world.definition();
            run.why = format!("{}, {definition}", run.why);
            run.client.ok(&definition).await;
            let last = run.commit().await;
            run.take(last, false).await;
        }
        if run.world.r.below(12) == 0 {
            run = run.die().await;
        }
        if run.watched.len() < 14 {
            run.open(2).await;
        }
    }
    run.compared
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g8_whatever_the_schema_and_the_policies_live_queries_are_what_their_readers_would_select()
{
    let wanted = number("SPRINGHEAD_LIVE_COMPARISONS").unwrap_or(4_000);
    let mut seed = number("SPRINGHEAD_LIVE_SEED").unwrap_or(1);
    let first = seed;
    let mut compared = 0;
    while compared < wanted {
        compared += run_seed(seed, 25).await as u64;
        seed += 1;
    }
    println!("{compared} comparisons over {} seeds", seed - first);
}
