//! The handoff race: writers at full speed, and subscriptions that begin, each at its own moment, by the
//! thousand. What each of them holds (its snapshot, then its changes one by one) is compared after every
//! commit with a model, which is plain SQLite fed by the log's rows alone.
//!
//! `SPRINGHEAD_LIVE_ROUNDS` is how many subscriptions are made (for the long run 1,000,000).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use springhead_engine::Tenant;
use springhead_engine::live::{Delta, Live, LiveEvent, LiveId, LiveLimits, Subscriber};
use springhead_proto::{ErrorCode, Lsn};
use springhead_sql::live::LiveClass;
use tokio::task::JoinHandle;

use crate::live::{Mirror, Random, asked, number, principal};
use crate::race_model::{Model, digest};
use crate::support::Node;

const TABLES: &str = "
    CREATE TABLE items (id integer PRIMARY KEY, grp integer NOT NULL, n integer NOT NULL);
    CREATE TABLE notes (id integer PRIMARY KEY, item integer NOT NULL, txt text);
    CREATE INDEX notes_item ON notes (item);
    CREATE VIEW low AS SELECT id, n FROM items WHERE grp < 2;
    INSERT INTO items SELECT i, i % 4, i * 3 FROM generate_series(0, 19) g(i);
    INSERT INTO notes SELECT i, i % 7, 'text ' || i FROM generate_series(0, 19) g(i)";

/// Texts that mean the same to SQLite and to Springhead, of each class.
pub const QUERIES: [(LiveClass, &str); 16] = {
    use LiveClass::{Anchored, Evaluated, Groups, Join, Rows, Sides, Union, Window};
    [
        (Rows, "SELECT id, n FROM items WHERE grp = 1"),
        (
            Rows,
            "SELECT id, grp, n FROM items WHERE n BETWEEN 20 AND 70",
        ),
        (Rows, "SELECT id, n FROM low WHERE n > 20"),
        (
            Window,
            "SELECT id, n FROM items ORDER BY n DESC, id LIMIT 5",
        ),
        (
            Groups,
            "SELECT grp, count(*), sum(n) FROM items GROUP BY grp",
        ),
        (Groups, "SELECT count(*), max(n) FROM items WHERE grp > 1"),
        (
            Groups,
            "SELECT i.grp, count(x.id) FROM items i LEFT JOIN notes x ON x.item = i.id GROUP BY i.grp",
        ),
        (
            Join,
            "SELECT i.id, x.id, x.txt FROM items i JOIN notes x ON x.item = i.id WHERE i.grp < 3",
        ),
        (
            Join,
            "SELECT i.n, x.txt FROM items i JOIN notes x ON x.item = i.id ORDER BY i.n DESC, i.id, x.id LIMIT 4",
        ),
        (
            Anchored,
            "SELECT i.id, x.id, x.txt FROM items i LEFT JOIN notes x ON x.item = i.id",
        ),
        (
            Anchored,
            "SELECT id, txt FROM notes WHERE item IN (SELECT id FROM items WHERE n > 50)",
        ),
        (
            Anchored,
            "SELECT id FROM items WHERE NOT EXISTS (SELECT 1 FROM notes WHERE item = items.id) ORDER BY n, id",
        ),
        (
            Union,
            "SELECT id FROM items WHERE n > 30 UNION ALL SELECT item FROM notes",
        ),
        (Sides, "SELECT id FROM items EXCEPT SELECT item FROM notes"),
        (
            Sides,
            "SELECT i.id, i.n, x.id FROM items i FULL JOIN notes x ON x.item = i.id",
        ),
        (
            Evaluated,
            "WITH s AS (SELECT grp, max(n) AS m FROM items GROUP BY grp) SELECT items.id FROM items JOIN s ON s.grp = items.grp AND s.m = items.n",
        ),
    ]
};

fn transaction(r: &mut Random) -> String {
    let count = if r.below(4) == 0 { 1 + r.below(4) } else { 1 };
    let statements: Vec<String> = (0..count)
        .map(|_| {
            let (id, n) = (r.below(30), r.below(100));
            match r.below(7) {
                0 => format!("INSERT INTO items VALUES ({id}, {}, {n}) ON CONFLICT (id) DO UPDATE SET n = {n}", r.below(4)),
                1 => format!("UPDATE items SET n = {n} WHERE id = {id}"),
                2 => format!("UPDATE items SET grp = {} WHERE id = {id}", r.below(4)),
                3 => format!("DELETE FROM items WHERE id = {id}"),
                4 => format!("INSERT INTO notes VALUES ({id}, {}, 'text {n}') ON CONFLICT (id) DO UPDATE SET txt = excluded.txt", r.below(30)),
                5 => format!("UPDATE notes SET item = {} WHERE id = {id}", r.below(30)),
                _ => format!("DELETE FROM notes WHERE id = {id}"),
            }
        })
        .collect();
    match count {
        1 => statements[0].clone(),
        _ => format!("BEGIN; {}; COMMIT", statements.join("; ")),
    }
}

/// One subscription, and what it held from when on.
pub struct Round {
    pub query: usize,
    /// Of the snapshot, then after each change: the LSN, a digest of the rows, and what changed.
    pub states: Vec<(Lsn, u64, Option<Arc<Delta>>)>,
    /// Where it began.
    pub snapshot: Vec<(String, String)>,
    /// What comes after it is not looked at.
    pub until: Lsn,
    mirror: Mirror,
}

impl Round {
    fn take(&mut self, delta: Arc<Delta>) {
        let (last, ..) = self.states[self.states.len() - 1];
        let sql = QUERIES[self.query].1;
        assert!(
            delta.lsn > last,
            "{sql}: once, in order, after the snapshot"
        );
        if delta.lsn > self.until {
            return;
        }
        // A row that is not there fails.
        self.mirror.apply(&delta.entries);
        if self.mirror.plan.is_keyed {
            let mut keys: Vec<_> = self.mirror.rows.iter().map(|(key, _)| key).collect();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(
                keys.len(),
                self.mirror.rows.len(),
                "{sql}: a row came twice"
            );
        }
        let digest = digest_of(&self.mirror);
        self.states.push((delta.lsn, digest, Some(delta)));
    }
}

fn digest_of(mirror: &Mirror) -> u64 {
    let lines = mirror.rows.iter().map(|(_, line)| line.as_str());
    digest(lines, mirror.plan.ordered)
}

/// Subscriptions of one connection that are open at once, at most.
const AT_ONCE: usize = 8;

/// One connection: `rounds` subscriptions, which come and go among one another.
async fn connection(live: Arc<Live>, tenant: Arc<Tenant>, seed: u64, rounds: usize) -> Vec<Round> {
    let mut r = Random(seed);
    let mut subscriber = Subscriber::new(&live, tenant);
    let mut open: HashMap<LiveId, Round> = HashMap::new();
    let (mut begun, mut done) = (0, Vec::with_capacity(rounds));
    while done.len() < rounds {
        if begun < rounds && open.len() < AT_ONCE && (open.is_empty() || r.below(3) > 0) {
            let query = usize::try_from(r.below(QUERIES.len() as u64)).unwrap();
            let (class, sql) = QUERIES[query];
            let opened = subscriber.open(&principal(), &asked(sql)).await.unwrap();
            assert_eq!(opened.plan.class, class, "{sql}");
            let (id, lsn) = (opened.id, opened.lsn);
            let mirror = Mirror::new(sql, opened);
            let round = Round {
                query,
                states: vec![(lsn, digest_of(&mirror), None)],
                snapshot: mirror.rows.clone(),
                until: Lsn(lsn.0 + 1 + r.below(24)),
                mirror,
            };
            open.insert(id, round);
            begun += 1;
        }
        while let Some(event) = subscriber.try_next().await {
            match event {
                LiveEvent::Change { id, delta } => open.get_mut(&id).unwrap().take(delta),
                LiveEvent::Tick(_) => {}
                LiveEvent::Ended { end, .. } => panic!("{end:?}"),
                LiveEvent::Refetched { message, .. } => panic!("{message}"),
            }
        }
        let there = subscriber.progress().unwrap_or(Lsn::ZERO);
        let over: Vec<LiveId> = (open.iter())
            .filter(|(_, round)| round.until <= there)
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            subscriber.close(id);
            done.extend(open.remove(&id));
        }
        let full = open.len() == AT_ONCE || begun == rounds;
        if let Some(next) = open
            .values()
            .map(|round| round.until)
            .min()
            .filter(|_| full)
        {
            let (waiter, reached) = (subscriber.waiter(), subscriber.reached(next));
            tokio::select! {
                () = waiter.ready() => {}
                () = reached => {}
            }
        }
    }
    done
}

/// Clients that write as fast as they are answered.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<u64>>,
}

impl Writers {
    async fn start(node: &Node, seed: u64) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for writer in 0..3 {
            let (mut client, stop) = (node.client().await, Arc::clone(&stop));
            tasks.push(tokio::spawn(async move {
                let mut r = Random(seed * 3 + writer);
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    let text = transaction(&mut r);
                    if let Err(error) = client.run(&text).await {
                        // Writers may be in one another's way.
                        let expected = ErrorCode::UniqueViolation;
                        assert_eq!(error.code, expected, "{text}: {error}");
                        client.run("ROLLBACK").await.ok();
                    }
                    count += 1;
                }
                count
            }));
        }
        Writers { stop, tasks }
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut count = 0;
        for task in self.tasks {
            count += task.await.unwrap();
        }
        count
    }
}

/// Connections at once.
const CONNECTIONS: usize = 3;

/// Subscriptions of a connection, before everything that is kept for live queries is made anew.
const IN_A_WAVE: usize = 64;

/// Subscriptions on one node, whose log is in memory.
const ON_A_NODE: usize = 20_000;

/// What came of a run.
#[derive(Default)]
struct Counts {
    rounds: usize,
    changes: usize,
    compared: usize,
    transactions: u64,
}

async fn on_one_node(seed: u64, rounds: usize, counts: &mut Counts) {
    let node = Node::start();
    node.client().await.ok(TABLES).await;
    let tenant = node.tenant().await;
    let mut model = Some(Model::new(&tenant).await);
    let mut comparing: Option<JoinHandle<(Model, usize)>> = None;
    let writers = Writers::start(&node, seed).await;
    let (mut done, mut wave) = (0, 0);
    while done < rounds {
        // Nobody has a query before: each table is copied again for the first that reads it.
        let live = Live::new(node.engine.clone(), LiveLimits::default());
        let each = IN_A_WAVE.min((rounds - done).div_ceil(CONNECTIONS));
        let tasks: Vec<_> = (0..CONNECTIONS as u64)
            .map(|number| {
                let seed = seed << 32 | wave << 8 | number;
                let (live, tenant) = (Arc::clone(&live), Arc::clone(&tenant));
                tokio::spawn(connection(live, tenant, seed, each))
            })
            .collect();
        let mut ended = Vec::new();
        for task in tasks {
            ended.extend(task.await.unwrap());
        }
        done += ended.len();
        wave += 1;
        counts.changes += ended
            .iter()
            .map(|round| round.states.len() - 1)
            .sum::<usize>();
        // Beside the next wave.
        if let Some(before) = comparing.take() {
            let (returned, compared) = before.await.unwrap();
            model = Some(returned);
            counts.compared += compared;
        }
        let mut at_work = model.take().unwrap();
        comparing = Some(tokio::spawn(async move {
            let compared = at_work.compare(&ended).await;
            (at_work, compared)
        }));
    }
    if let Some(last) = comparing {
        counts.compared += last.await.unwrap().1;
    }
    counts.rounds += done;
    counts.transactions += writers.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_whenever_a_subscription_begins_it_holds_what_the_log_says_after_every_commit() {
    let rounds = usize::try_from(number("SPRINGHEAD_LIVE_ROUNDS").unwrap_or(1_000)).unwrap();
    let mut counts = Counts::default();
    let (begun, mut seed) = (Instant::now(), number("SPRINGHEAD_LIVE_SEED").unwrap_or(1));
    while counts.rounds < rounds {
        let some = ON_A_NODE.min(rounds - counts.rounds);
        on_one_node(seed, some, &mut counts).await;
        seed += 1;
        let Counts {
            rounds,
            changes,
            compared,
            transactions,
        } = counts;
        println!(
            "{rounds} subscriptions, {changes} changes, {compared} comparisons, {transactions} transactions, {:?}",
            begun.elapsed()
        );
    }
}
