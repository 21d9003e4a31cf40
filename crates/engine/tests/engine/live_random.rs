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

use crate::live::{Mirror, Random, drain, number};
use crate::support::{Client, Node};

/// Types that columns have, with what is put into them.
const TYPES: [(&str, &[&str]); 7] = [
    ("integer", &["0", "1", "2", "3", "4", "NULL"]),
    ("bigint", &["-1", "0", "2", "5", "4000000000"]),
    (
        "text",
        &["'x'", "'xy'", "'y'", "''", "'X'", "'xyz'", "NULL"],
    ),
    ("varchar(5)", &["'a'", "'ab'", "'b'", "NULL"]),
    ("boolean", &["true", "false", "NULL"]),
    ("numeric(10,2)", &["0", "1.50", "1.5", "-3.25", "NULL"]),
    (
        "date",
        &["'2024-01-01'", "'2024-02-29'", "'2025-07-01'", "NULL"],
    ),
];

struct Table {
    name: &'static str,
    /// Names and numbers of types; `k` comes first.
    columns: Vec<(String, usize)>,
}

/// What a seed is about.
struct World {
    r: Random,
    tables: Vec<Table>,
    added: usize,
}

impl World {
    fn new(seed: u64) -> World {
        let mut r = Random(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
        let count = 2 + below(&mut r, 2);
        let tables = (0..count)
            .map(|number| {
                let name = ["red", "green", "blue"][number];
                let mut columns = vec![("k".to_owned(), 0), ("ref".to_owned(), 0)];
                for extra in 0..1 + below(&mut r, 4) {
                    columns.push((format!("c{extra}"), below(&mut r, TYPES.len())));
                }
                Table { name, columns }
            })
            .collect();
        World {
            r,
            tables,
            added: 0,
        }
    }

    /// The statements that make it.
    fn schema(&mut self) -> Vec<String> {
        let mut made = Vec::new();
        for table in &self.tables {
            let mut columns: Vec<String> = (table.columns.iter())
                .map(|(name, ty)| format!("{name} {}", TYPES[*ty].0))
                .collect();
            match below(&mut self.r, 4) {
                0 => {}
                1 => columns.push("PRIMARY KEY (k, ref)".to_owned()),
                _ => columns[0].push_str(" PRIMARY KEY"),
            }
            made.push(format!(
                "CREATE TABLE {} ({})",
                table.name,
                columns.join(", ")
            ));
            for (name, _) in &table.columns[1..] {
                if below(&mut self.r, 4) == 0 {
                    made.push(format!("CREATE INDEX ON {} ({name})", table.name));
                }
            }
        }
        made.push("CREATE ROLE ann LOGIN".to_owned());
        for table in &self.tables {
            made.push(format!("GRANT SELECT ON {} TO ann", table.name));
        }
        for at in 0..self.tables.len() {
            if below(&mut self.r, 2) == 0 {
                made.extend(self.policies(at));
            }
        }
        made
    }

    fn policies(&mut self, at: usize) -> Vec<String> {
        let name = self.tables[at].name;
        let other = self.tables[(at + 1) % self.tables.len()].name;
        let mut made = vec![format!("ALTER TABLE {name} ENABLE ROW LEVEL SECURITY")];
        for number in 0..1 + below(&mut self.r, 2) {
            let using = match below(&mut self.r, 5) {
                0 => format!("EXISTS (SELECT 1 FROM {other} o WHERE o.k = {name}.ref)"),
                1 => "auth.uid() = 'ann' AND k < 8".to_owned(),
                2 => format!("ref IN (SELECT k FROM {other})"),
                _ => self.condition(at, name),
            };
            made.push(format!(
                "CREATE POLICY p{number} ON {name} FOR SELECT USING ({using})"
            ));
        }
        made
    }

    fn value(&mut self, ty: usize) -> &'static str {
        self.r.pick(TYPES[ty].1)
    }

    /// A condition on one table, under an alias.
    fn condition(&mut self, at: usize, alias: &str) -> String {
        let columns = self.tables[at].columns.clone();
        let (name, ty) = &columns[below(&mut self.r, columns.len())];
        let column = format!("{alias}.{name}");
        let plain = |world: &mut World| loop {
            let value = world.value(*ty);
            if value != "NULL" {
                return value;
            }
        };
        match below(&mut self.r, 10) {
            0 | 1 => format!("{column} = {}", plain(self)),
            2 => format!("{column} IN ({}, {})", plain(self), plain(self)),
            3 => format!("{column} IS NULL"),
            4 if *ty != 4 => format!("{column} > {}", plain(self)),
            5 if *ty != 4 => format!("{column} BETWEEN {} AND {}", plain(self), plain(self)),
            6 if *ty == 2 => format!("{column} LIKE 'x%'"),
            7 => format!("NOT ({})", self.condition(at, alias)),
            8 => format!(
                "({} OR {})",
                self.condition(at, alias),
                self.condition(at, alias)
            ),
            _ => format!(
                "{} AND {}",
                self.condition(at, alias),
                self.condition(at, alias)
            ),
        }
    }

    fn outputs(&mut self, at: usize, alias: &str) -> String {
        let columns = self.tables[at].columns.clone();
        let count = 1 + below(&mut self.r, columns.len());
        let start = below(&mut self.r, columns.len());
        let names = (0..count).map(|number| &columns[(start + number) % columns.len()].0);
        let names: Vec<String> = names.map(|name| format!("{alias}.{name}")).collect();
        names.join(", ")
    }

    fn query(&mut self) -> String {
        let at = below(&mut self.r, self.tables.len());
        let other = (at + 1) % self.tables.len();
        let (a, b) = (self.tables[at].name, self.tables[other].name);
        let last = self.tables[at].columns.len() - 1;
        let (column, ty) = self.tables[at].columns[below(&mut self.r, last + 1)].clone();
        let outputs = self.outputs(at, "a");
        let condition = self.condition(at, "a");
        let order = self.total_order(at, "a");
        let limit = 1 + below(&mut self.r, 4);
        match below(&mut self.r, 14) {
            0..=2 => format!("SELECT {outputs} FROM {a} a WHERE {condition}"),
            3 => format!("SELECT * FROM {a}"),
            4 => format!(
                "SELECT {outputs} FROM {a} a WHERE {condition} ORDER BY {order} LIMIT {limit}"
            ),
            5 => format!(
                "SELECT {outputs} FROM {a} a ORDER BY {column} DESC, {order} LIMIT {limit} OFFSET 1"
            ),
            6 => format!(
                "SELECT a.{column}, count(*), count(a.ref), max(a.k) FROM {a} a GROUP BY a.{column}"
            ),
            7 => format!("SELECT count(*), sum(a.k), min(a.ref) FROM {a} a WHERE {condition}"),
            8 if ty != 5 => {
                format!("SELECT DISTINCT a.{column}, a.ref FROM {a} a WHERE {condition}")
            }
            9 => format!(
                "SELECT a.k, b.k, b.ref FROM {a} a JOIN {b} b ON b.ref = a.k WHERE {condition}"
            ),
            10 => format!(
                "SELECT a.k, a.ref, b.k FROM {a} a LEFT JOIN {b} b ON b.ref = a.k WHERE {condition}"
            ),
            11 => format!(
                "SELECT {outputs} FROM {a} a WHERE a.ref IN (SELECT b.k FROM {b} b WHERE b.ref > 1)"
            ),
            12 => format!(
                "SELECT a.ref, count(b.k) FROM {a} a JOIN {b} b ON b.ref = a.k GROUP BY a.ref HAVING count(*) > 1"
            ),
            _ => format!(
                "SELECT {outputs} FROM {a} a WHERE NOT EXISTS (SELECT 1 FROM {b} b WHERE b.ref = a.k)"
            ),
        }
    }

    /// All columns, so that nothing is left to chance.
    fn total_order(&mut self, at: usize, alias: &str) -> String {
        let columns = &self.tables[at].columns;
        let terms: Vec<String> = (columns.iter())
            .map(|(name, _)| format!("{alias}.{name}"))
            .collect();
        terms.join(", ")
    }

    fn statement(&mut self) -> String {
        let at = below(&mut self.r, self.tables.len());
        let name = self.tables[at].name;
        let columns = self.tables[at].columns.clone();
        let k = below(&mut self.r, 10);
        let (column, ty) = columns[1 + below(&mut self.r, columns.len() - 1)].clone();
        match below(&mut self.r, 10) {
            0..=4 => {
                let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
                let values: Vec<String> = (columns.iter().enumerate())
                    .map(|(place, (_, ty))| match place {
                        0 => k.to_string(),
                        1 => below(&mut self.r, 10).to_string(),
                        _ => self.value(*ty).to_owned(),
                    })
                    .collect();
                format!(
                    "INSERT INTO {name} ({}) VALUES ({}) ON CONFLICT DO NOTHING",
                    names.join(", "),
                    values.join(", ")
                )
            }
            5 | 6 if column != "ref" => {
                format!(
                    "UPDATE {name} SET {column} = {} WHERE k = {k}",
                    self.value(ty)
                )
            }
            5..=7 => format!("UPDATE {name} SET {column} = {column} WHERE k < {k}"),
            8 => format!(
                "UPDATE {name} SET k = k + 10 WHERE k = {k} AND NOT EXISTS (SELECT 1 FROM {name} z WHERE z.k = {k} + 10)"
            ),
            _ => format!("DELETE FROM {name} WHERE k % 10 = {k}"),
        }
    }

    fn transaction(&mut self) -> String {
        let several = below(&mut self.r, 3) == 0;
        let count = 1 + below(&mut self.r, 4) * usize::from(several);
        let statements: Vec<_> = (0..count).map(|_| self.statement()).collect();
        if count == 1 {
            statements.into_iter().next().unwrap()
        } else {
            format!("BEGIN; {}; COMMIT", statements.join("; "))
        }
    }

    /// A definition, right or role that changes under open queries.
    fn definition(&mut self) -> String {
        let at = below(&mut self.r, self.tables.len());
        let name = self.tables[at].name;
        self.added += 1;
        let number = self.added;
        match below(&mut self.r, 6) {
            0 => format!("CREATE INDEX ON {name} (ref, k)"),
            1 => format!("ALTER TABLE {name} ADD COLUMN z{number} integer DEFAULT {number}"),
            2 => format!("TRUNCATE {name}"),
            3 => format!("CREATE POLICY d{number} ON {name} FOR SELECT USING (k > 3)"),
            4 => format!("CREATE ROLE r{number}"),
            _ => format!("CREATE TABLE other{number} (x integer)"),
        }
    }
}

fn below(r: &mut Random, end: usize) -> usize {
    usize::try_from(r.below(end as u64)).unwrap()
}

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
        let mut client = node.client().await;
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
                // A policy may make a query what cannot be kept.
                Err(LiveError::Sql(error)) if error.code == ErrorCode::FeatureNotSupported => {}
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
        if let Err(error) = self.client.run(&text).await {
            assert_eq!(
                error.code,
                ErrorCode::UniqueViolation,
                "{}: {text}",
                self.why
            );
            self.client.run("ROLLBACK").await.ok();
        }
        let last = self.node.tenant().await.last_commit();
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
        let client = Client {
            session: node
                .engine
                .session(TenantId::DEFAULT, &everyone[0])
                .await
                .unwrap(),
        };
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
