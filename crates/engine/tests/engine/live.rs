//! Live queries are what a fresh SELECT says, after every commit.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use springhead_engine::access::Principal;
use springhead_engine::live::{
    Entry, Live, LiveEvent, LiveId, LiveLimits, LiveOptions, LiveRequest, Opened, Subscriber,
    key_text,
};
use springhead_proto::{Cursor, Lsn, RowRef};
use springhead_sql::live::{LiveClass, LivePlan};
use springhead_sql::types::text::output_text;

use crate::support::{Client, Node};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A client that keeps a result by what it is told alone.
#[derive(Clone)]
pub struct Mirror {
    pub plan: Arc<LivePlan>,
    pub sql: String,
    pub rows: Vec<(String, String)>,
    /// What fresh SELECTs have said, by the commit that they came after.
    pub expected: VecDeque<(Lsn, Vec<String>)>,
}

fn line(plan: &LivePlan, row: RowRef<'_>) -> String {
    let cells: Vec<String> = (row.values().zip(plan.columns.iter()))
        .map(|(value, column)| {
            if value.is_null() {
                return "~".to_owned();
            }
            let mut text = Vec::new();
            output_text(&column.pg_type, value, &mut text);
            String::from_utf8(text).unwrap()
        })
        .collect();
    cells.join("|")
}

impl Mirror {
    pub fn new(sql: &str, opened: Opened) -> Mirror {
        let mut mirror = Mirror {
            plan: opened.plan,
            sql: sql.to_owned(),
            rows: Vec::new(),
            expected: VecDeque::new(),
        };
        let mut rows = opened.rows.unwrap();
        while let Some(chunk) = rows.next_chunk().unwrap() {
            for row in chunk.rows() {
                let plan = &mirror.plan;
                mirror.rows.push((key_text(plan, row), line(plan, row)));
            }
        }
        mirror
    }

    fn take_out(&mut self, row: RowRef<'_>) {
        let (key, text) = (key_text(&self.plan, row), line(&self.plan, row));
        let at = (self.rows.iter())
            .position(|(known, was)| *known == key && *was == text)
            .unwrap_or_else(|| panic!("{}: {key} {text} is not there", self.sql));
        self.rows.remove(at);
    }

    pub fn apply(&mut self, entries: &[Entry]) {
        for entry in entries {
            if let Entry::Removed { row } | Entry::Changed { before: row, .. } = entry {
                self.take_out(row.as_ref());
            }
        }
        let mut coming: Vec<_> = (entries.iter())
            .filter_map(|entry| match entry {
                Entry::Added { row, position } | Entry::Changed { row, position, .. } => {
                    Some((*position, row))
                }
                Entry::Removed { .. } => None,
            })
            .collect();
        coming.sort_by_key(|(position, _)| *position);
        for (position, row) in coming {
            let row = row.as_ref();
            assert_eq!(position.is_some(), self.plan.ordered);
            let row = (key_text(&self.plan, row), line(&self.plan, row));
            self.rows.insert(position.unwrap_or(self.rows.len()), row);
        }
    }

    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.rows.iter().map(|(_, text)| text.clone()).collect();
        if !self.plan.ordered {
            lines.sort();
        }
        lines
    }

    /// Compares with what has been expected after commits before `end`; how often.
    pub fn check(&mut self, end: Lsn, why: &str) -> usize {
        let mut count = 0;
        while let Some((lsn, expected)) = self.expected.front()
            && *lsn < end
        {
            assert_eq!(self.lines(), *expected, "{} after {lsn}: {why}", self.sql);
            self.expected.pop_front();
            count += 1;
        }
        count
    }
}

/// Who owns the tables and views.
pub fn principal() -> Arc<Principal> {
    Principal::unrestricted("tester")
}

pub fn asked(sql: &str) -> LiveRequest<'_> {
    LiveRequest {
        sql,
        params: &[],
        cursor: None,
        options: LiveOptions::default(),
    }
}

pub async fn subscriber(node: &Node, limits: LiveLimits) -> Subscriber {
    Subscriber::new(&Live::new(node.engine.clone(), limits), node.tenant().await)
}

/// Waits for everything up to `lsn`; each event as it comes.
pub async fn drain(subscriber: &mut Subscriber, lsn: Lsn, mut each: impl FnMut(LiveEvent)) {
    let begun = std::time::Instant::now();
    loop {
        while let Some(event) = subscriber.try_next().await {
            each(event);
        }
        // Busy, it cannot say.
        let is_there = |subscriber: &mut Subscriber| {
            subscriber.is_empty()
                || subscriber
                    .progress()
                    .is_some_and(|position| position >= lsn)
        };
        if is_there(subscriber) && {
            let next = subscriber.try_next().await;
            let quiet = next.is_none();
            next.into_iter().for_each(&mut each);
            quiet && is_there(subscriber)
        } {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "nothing comes any more");
        tokio::task::yield_now().await;
    }
}

// ---- random schemas, statements and queries ----

pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    pub fn pick<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }

    fn number(&mut self) -> String {
        if self.below(8) == 0 {
            "NULL".to_owned()
        } else {
            self.below(6).to_string()
        }
    }

    fn text(&mut self) -> &'static str {
        self.pick(&["'x'", "'xy'", "'Y'", "''", "NULL", "'é'"])
    }
}

pub const TABLES: &str = "
    CREATE TABLE a (id integer PRIMARY KEY, g integer, v integer, t text, n numeric(10,2));
    CREATE TABLE b (k text, l integer, a_id integer, w integer, PRIMARY KEY (k, l));
    CREATE TABLE c (x integer, y text);
    CREATE VIEW va AS SELECT id, g AS grp, v FROM a WHERE v > 1;
    CREATE VIEW vab AS SELECT x.id AS aid, b.k, b.l, b.w FROM va x JOIN b ON b.a_id = x.id;
    CREATE VIEW vg AS SELECT g, count(*) AS m FROM a GROUP BY g;";

const EXTRAS: [&str; 4] = [
    "CREATE INDEX a_g ON a (g)",
    "CREATE INDEX b_a ON b (a_id)",
    "CREATE UNIQUE INDEX a_vid ON a (v DESC, id)",
    "ALTER TABLE a ADD COLUMN e integer DEFAULT 3",
];

fn statement(r: &mut Random) -> String {
    let id = r.below(12);
    let (k, l) = (r.pick(&["p", "q"]), r.below(5));
    match r.below(13) {
        0..=2 => format!(
            "INSERT INTO a VALUES ({id}, {}, {}, {}, {}.5) ON CONFLICT (id) DO UPDATE SET v = excluded.v, n = excluded.n",
            r.number(),
            r.number(),
            r.text(),
            r.below(4)
        ),
        3 => format!(
            "UPDATE a SET v = {}, t = {} WHERE id = {id}",
            r.number(),
            r.text()
        ),
        4 => format!("UPDATE a SET g = {} WHERE g = {}", r.number(), r.below(6)),
        5 => format!("DELETE FROM a WHERE id = {id}"),
        6 => format!(
            "UPDATE a SET id = id + 12 WHERE id = {id} AND NOT EXISTS (SELECT 1 FROM a z WHERE z.id = {id} + 12)"
        ),
        7 | 8 => format!(
            "INSERT INTO b VALUES ('{k}', {l}, {id}, {}) ON CONFLICT (k, l) DO UPDATE SET a_id = {id}, w = excluded.w",
            r.number()
        ),
        9 => format!("DELETE FROM b WHERE k = '{k}' AND w = {}", r.below(6)),
        10 => format!("INSERT INTO c VALUES ({}, {})", r.number(), r.text()),
        11 => format!("UPDATE c SET x = {} WHERE x = {}", r.number(), r.below(6)),
        _ => format!("DELETE FROM c WHERE x = {}", r.below(6)),
    }
}

pub fn transaction(r: &mut Random) -> String {
    let count = if r.below(3) == 0 { 1 + r.below(5) } else { 1 };
    let statements: Vec<_> = (0..count).map(|_| statement(r)).collect();
    if count == 1 {
        statements[0].clone()
    } else {
        format!("BEGIN; {}; COMMIT", statements.join("; "))
    }
}

/// A transaction that truncates, and goes on.
fn truncation(r: &mut Random) -> String {
    let table = r.pick(&["a", "b", "c", "a, b"]);
    let (before, after) = (statement(r), statement(r));
    match r.below(3) {
        0 => format!("TRUNCATE {table}"),
        1 => format!("BEGIN; {before}; TRUNCATE {table}; {after}; COMMIT"),
        _ => format!(
            "BEGIN; SAVEPOINT s; TRUNCATE {table}; ROLLBACK TO s; {before}; TRUNCATE {table}; COMMIT"
        ),
    }
}

/// One query of each kind, and the class it must be of.
pub fn queries(r: &mut Random) -> Vec<(LiveClass, String)> {
    use LiveClass::{Anchored, Evaluated, Groups, Join, Recomputed, Rows, Sides, Union, Window};
    let mut n = || r.below(6);
    vec![
        (Rows, format!("SELECT * FROM a WHERE g = {}", n())),
        (Rows, format!("SELECT id, v * 2 AS d, upper(t), n FROM a WHERE v > {} OR t LIKE 'x%'", n())),
        (Rows, format!("SELECT id, n + 1 FROM a WHERE g IN ({}, {}) AND NOT v = {}", n(), n(), n())),
        (Rows, "SELECT y FROM c WHERE x IS NULL OR y > 'X'".to_owned()),
        (Rows, format!("SELECT k, w FROM b WHERE k = 'p' AND w BETWEEN {} AND 4", n())),
        (Window, format!("SELECT id, v FROM a ORDER BY v, id LIMIT {}", 1 + n())),
        (Window, format!("SELECT id, t FROM a WHERE g <> {} ORDER BY v DESC NULLS LAST, id DESC OFFSET 1 LIMIT 4", n())),
        (Window, "SELECT x, y FROM c ORDER BY x NULLS FIRST, y".to_owned()),
        (Groups, "SELECT g, count(*), sum(v), min(v), max(v), avg(v) FROM a GROUP BY g".to_owned()),
        (Groups, format!("SELECT g, count(t) FROM a WHERE v < {} GROUP BY g HAVING count(*) > 1", n())),
        (Groups, format!("SELECT count(*), sum(n) FROM a WHERE g = {}", n())),
        (Groups, "SELECT n, count(*) FROM a GROUP BY n".to_owned()),
        (Groups, "SELECT a.g, b.k, count(*), sum(b.w) FROM a JOIN b ON b.a_id = a.id GROUP BY a.g, b.k".to_owned()),
        (Join, format!("SELECT a.id, b.k, a.v + b.w FROM a JOIN b ON b.a_id = a.id WHERE a.v > {}", n())),
        (Join, "SELECT x.id, y.id FROM a x, a y WHERE x.g = y.v AND x.id < y.id".to_owned()),
        (Join, "SELECT a.t, c.y FROM a JOIN c ON c.x = a.g JOIN b ON b.a_id = a.id".to_owned()),
        (Anchored, "SELECT a.id, b.k, b.l FROM a LEFT JOIN b ON b.a_id = a.id".to_owned()),
        (Anchored, format!("SELECT a.id, b.k FROM a LEFT JOIN b ON b.a_id = a.id AND b.w > {} WHERE b.k IS NULL OR a.v < 3", n())),
        (Anchored, "SELECT c.y, a.id, b.w FROM c JOIN a ON a.g = c.x LEFT JOIN b ON b.a_id = a.id".to_owned()),
        (Groups, "SELECT DISTINCT g, t FROM a".to_owned()),
        (Groups, "SELECT DISTINCT b.k, a.g FROM a JOIN b ON b.a_id = a.id".to_owned()),
        (Evaluated, "SELECT DISTINCT n FROM a".to_owned()),
        (Groups, "SELECT a.g, count(*), count(b.k), sum(b.w) FROM a LEFT JOIN b ON b.a_id = a.id GROUP BY a.g".to_owned()),
        (Groups, format!("SELECT b.k, count(*), max(a.v) FROM a LEFT JOIN b ON b.a_id = a.id AND b.w < {} GROUP BY b.k HAVING count(*) > 1", n())),
        (Anchored, "SELECT id, t FROM a WHERE id IN (SELECT a_id FROM b WHERE w > 1)".to_owned()),
        (Anchored, format!("SELECT id FROM a WHERE NOT EXISTS (SELECT 1 FROM b WHERE b.a_id = a.id AND b.w <> {})", n())),
        (Anchored, "SELECT id, (SELECT max(w) FROM b WHERE b.a_id = a.id) AS m FROM a WHERE g > 0".to_owned()),
        (Anchored, "SELECT id FROM a WHERE id NOT IN (SELECT a_id FROM b WHERE w > 1)".to_owned()),
        (Anchored, format!("SELECT id, v NOT IN (SELECT l FROM b WHERE w > {0}) AS q, g IN (SELECT w FROM b) FROM a WHERE v IN (SELECT w FROM b) OR id > {0}", n())),
        (Evaluated, "SELECT id FROM a WHERE v IN (SELECT x FROM c)".to_owned()),
        (Union, "SELECT x FROM c UNION ALL SELECT g FROM a".to_owned()),
        (Union, format!("SELECT id, v FROM a WHERE g > {} UNION ALL (SELECT b.l, a.v FROM b JOIN a ON a.id = b.a_id) UNION ALL SELECT grp, v FROM va", n())),
        (Sides, "SELECT g FROM a UNION SELECT x FROM c".to_owned()),
        (Sides, "SELECT v FROM a EXCEPT SELECT w FROM b".to_owned()),
        (Sides, format!("SELECT v FROM a WHERE g <> {} EXCEPT ALL SELECT w FROM b", n())),
        (Sides, "SELECT g, t FROM a INTERSECT SELECT x, y FROM c".to_owned()),
        (Sides, "SELECT g FROM a INTERSECT ALL (SELECT x FROM c UNION ALL SELECT w FROM b)".to_owned()),
        (Sides, format!("SELECT g, count(*) AS m FROM a GROUP BY g UNION SELECT w, l FROM b WHERE l > {}", n())),
        (Sides, "SELECT a.id, b.w FROM a LEFT JOIN b ON b.a_id = a.id EXCEPT SELECT DISTINCT x.id, y.v FROM a x JOIN a y ON y.id = x.g".to_owned()),
        (Sides, "(SELECT id FROM a WHERE id IN (SELECT a_id FROM b)) UNION ALL SELECT max(v) FROM a UNION ALL SELECT grp FROM va".to_owned()),
        (Sides, format!("(SELECT v FROM a UNION SELECT w FROM b) EXCEPT (SELECT x FROM c INTERSECT SELECT g FROM a WHERE v > {})", n())),
        (Evaluated, "SELECT n FROM a UNION SELECT v FROM a".to_owned()),
        (Evaluated, "SELECT g FROM a UNION SELECT x FROM c ORDER BY 1 LIMIT 3".to_owned()),
        (Join, format!("SELECT a.id, b.w FROM a JOIN b ON b.a_id = a.id ORDER BY b.w DESC, b.k, b.l LIMIT {}", 1 + n())),
        (Join, "SELECT a.id, b.k, b.l, a.v + b.w AS s FROM a JOIN b ON b.a_id = a.id ORDER BY s DESC NULLS LAST, 1, b.k, b.l".to_owned()),
        (Join, "SELECT a.id, b.k FROM a JOIN b ON b.a_id = a.id ORDER BY a.t NULLS FIRST, a.n DESC, b.k || a.t, a.id, b.l, b.k FETCH FIRST 3 ROWS ONLY".to_owned()),
        (Anchored, format!("SELECT a.id, b.k FROM a LEFT JOIN b ON b.a_id = a.id ORDER BY a.n, a.id, b.k, b.l OFFSET {} LIMIT 4", n())),
        (Anchored, "SELECT id, t FROM a WHERE id IN (SELECT a_id FROM b WHERE w > 1) ORDER BY upper(t), id DESC".to_owned()),
        (Groups, "SELECT g, count(*) AS m FROM a GROUP BY g ORDER BY m DESC, g LIMIT 3".to_owned()),
        (Groups, "SELECT n, count(*), avg(v) FROM a GROUP BY n ORDER BY avg(v), n DESC NULLS LAST".to_owned()),
        (Groups, "SELECT a.g, count(b.k) AS m FROM a LEFT JOIN b ON b.a_id = a.id GROUP BY a.g ORDER BY m, a.g OFFSET 1".to_owned()),
        (Groups, "SELECT DISTINCT g, t FROM a ORDER BY t DESC, g LIMIT 4".to_owned()),
        (Rows, format!("SELECT * FROM va WHERE grp = {}", n())),
        (Rows, format!("SELECT z.q + 1, z.id FROM va AS z (id, q) WHERE q IN (1, {})", n())),
        (Rows, format!("WITH s AS (SELECT id, v AS w, t FROM a WHERE g > 1), u AS (SELECT id, w FROM s) SELECT u.w FROM u WHERE u.w < {}", n())),
        (Window, "SELECT id, v FROM va ORDER BY v DESC, id LIMIT 3".to_owned()),
        (Groups, "SELECT grp, count(*), sum(d.v) FROM (SELECT grp, v FROM va WHERE grp > 1) d GROUP BY grp".to_owned()),
        (Join, format!("SELECT aid, w FROM vab WHERE w > {}", n())),
        (Join, "SELECT c.y, va.v FROM c JOIN va ON va.grp = c.x".to_owned()),
        (Join, "WITH s AS (SELECT id, v FROM a) SELECT s.v, b.w, o.v FROM s JOIN b ON b.a_id = s.id JOIN s AS o ON o.id = b.w".to_owned()),
        (Anchored, "SELECT a.id, d.w FROM a LEFT JOIN (SELECT a_id, w FROM b WHERE w > 1) d ON d.a_id = a.id".to_owned()),
        (Anchored, "SELECT vab.k, c.y FROM vab LEFT JOIN c ON c.x = vab.w".to_owned()),
        (Anchored, "SELECT b.k, a.id, a.v FROM a RIGHT JOIN b ON b.a_id = a.id".to_owned()),
        (Anchored, format!("SELECT x.id, c.y FROM a x RIGHT JOIN c ON c.x = x.g AND x.v > {} LEFT JOIN b ON b.a_id = x.id WHERE b.w IS NULL OR b.w > 1", n())),
        (Sides, "SELECT a.id, b.k FROM a FULL JOIN b ON b.a_id = a.id".to_owned()),
        (Sides, format!("SELECT a.t, b.k, a.v + b.w AS s FROM a FULL JOIN b ON b.a_id = a.id AND b.w > {} WHERE a.v IS NULL OR b.w IS NULL OR a.v <> b.w", n())),
        (Evaluated, "SELECT a.id, c.y FROM c FULL JOIN a ON c.x = a.g".to_owned()),
        (Evaluated, "SELECT m FROM vg WHERE g > 1".to_owned()),
        (Evaluated, "WITH s AS (SELECT g, max(v) AS m FROM a GROUP BY g) SELECT a.id FROM a JOIN s ON s.g = a.g AND s.m = a.v".to_owned()),
        (Recomputed, "SELECT id, row_number() OVER (PARTITION BY g ORDER BY id) FROM a WITH (recompute)".to_owned()),
    ]
}

pub async fn fresh(client: &mut Client, mirror: &Mirror) -> Vec<String> {
    let sql = mirror.sql.trim_end_matches(" WITH (recompute)");
    let mut lines = client.lines(sql).await;
    if !mirror.plan.ordered {
        lines.sort();
    }
    lines
}

/// One seed: how many comparisons it made.
async fn run_seed(seed: u64, commits: usize) -> usize {
    let mut r = Random(seed);
    let node = Node::start();
    let mut client = node.client().await;
    client.ok(TABLES).await;
    for extra in EXTRAS {
        if r.below(3) == 0 && !(extra.contains("a_vid")) {
            client.ok(extra).await;
        }
    }
    for _ in 0..20 {
        client.ok(&statement(&mut r)).await;
    }
    let mut limits = LiveLimits {
        // Compared after every commit.
        recompute_pause: Duration::ZERO,
        ..LiveLimits::default()
    };
    if r.below(4) == 0 {
        limits.keys_by_parts = 2;
    }
    let overflows = r.below(5) == 0;
    if overflows {
        limits.outbox_bytes = 400;
    }
    let mut subscriber = subscriber(&node, limits).await;
    let mut mirrors: Vec<(LiveId, Mirror)> = Vec::new();
    let all = queries(&mut r);
    let mut compared = 0;
    let mut done = 0;
    while done < commits {
        // Some come later, among changes.
        for (class, sql) in &all {
            let is_new = mirrors.iter().all(|(_, mirror)| mirror.sql != *sql);
            if is_new && (done > 0 || r.below(3) > 0) {
                let opened = subscriber.open(&principal(), &asked(sql)).await;
                let opened = opened.unwrap_or_else(|error| panic!("{sql}: {error}"));
                assert_eq!(opened.plan.class, *class, "{sql}");
                mirrors.push((opened.id, Mirror::new(sql, opened)));
            }
        }
        let mut last = Lsn::ZERO;
        let burst = 1 + r.below(6);
        for _ in 0..burst {
            // What was dropped of a connection cannot be made up for across a TRUNCATE.
            let truncates = !overflows && r.below(30) == 0;
            let text = match truncates {
                true => truncation(&mut r),
                false => transaction(&mut r),
            };
            let lsn = client.ok(&text).await.lsn;
            last = last.max(lsn).max(node.tenant().await.last_commit());
            for (_, mirror) in &mut mirrors {
                let lines = fresh(&mut client, mirror).await;
                mirror.expected.push_back((last, lines));
            }
            done += 1;
        }
        let why = format!("seed {seed}, commit {done}");
        let mut ticked = Lsn::ZERO;
        drain(&mut subscriber, last, |event| match event {
            LiveEvent::Change { id, delta } => {
                let (_, mirror) = mirrors.iter_mut().find(|(known, _)| *known == id).unwrap();
                assert!(delta.lsn > ticked, "a tick comes after all of its commit");
                if overflows {
                    // Several commits may have become one difference.
                    mirror.expected.retain(|(lsn, _)| *lsn >= delta.lsn);
                } else {
                    compared += mirror.check(delta.lsn, &why);
                    assert!(mirror.expected.iter().any(|(lsn, _)| *lsn == delta.lsn));
                }
                assert!(!delta.entries.is_empty());
                mirror.apply(&delta.entries);
            }
            LiveEvent::Tick(lsn) => ticked = lsn,
            LiveEvent::Ended { end, .. } => panic!("{why}: {end:?}"),
            LiveEvent::Refetched { message, .. } => panic!("{why}: {message}"),
        })
        .await;
        for (_, mirror) in &mut mirrors {
            if overflows {
                let last = mirror.expected.pop_back();
                mirror.expected.clear();
                mirror.expected.extend(last);
            }
            compared += mirror.check(last.next(), &why);
        }
    }
    compared
}

/// A number of the environment.
pub fn number(name: &str) -> Option<u64> {
    let given = std::env::var(name).ok();
    given.map(|text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g8_every_live_query_is_what_a_fresh_select_says_after_every_commit() {
    // SPRINGHEAD_LIVE_COMPARISONS=1000000 for the long run; a failure names its seed, and
    // SPRINGHEAD_LIVE_SEED starts there.
    let wanted = number("SPRINGHEAD_LIVE_COMPARISONS").unwrap_or(5_000);
    let mut seed = number("SPRINGHEAD_LIVE_SEED").unwrap_or(1);
    let mut compared = 0;
    let first = seed;
    while compared < wanted {
        compared += run_seed(seed, 16).await as u64;
        seed += 1;
    }
    println!("{compared} comparisons over {} seeds", seed - first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g2_a_live_query_goes_on_from_any_cursor_with_the_net_difference() {
    for seed in 1..=3 {
        let mut r = Random(seed * 7919);
        let node = Node::start();
        let mut client = node.client().await;
        client.ok(TABLES).await;
        for _ in 0..30 {
            client.ok(&statement(&mut r)).await;
        }
        let all = queries(&mut r);
        let mut mirrors = Vec::new();
        let cursor;
        {
            let mut first = subscriber(&node, LiveLimits::default()).await;
            for (_, sql) in &all {
                let opened = first.open(&principal(), &asked(sql)).await.unwrap();
                cursor_check(&opened);
                mirrors.push(Mirror::new(sql, opened));
            }
            cursor = node.tenant().await.visible();
        }
        for _ in 0..20 {
            client.ok(&transaction(&mut r)).await;
        }
        let mut again = subscriber(&node, LiveLimits::default()).await;
        for mirror in &mut mirrors {
            let sql = mirror.sql.clone();
            let request = LiveRequest {
                cursor: Some(Cursor {
                    lsn: cursor,
                    epoch: None,
                }),
                ..asked(&sql)
            };
            let opened = again.open(&principal(), &request).await.unwrap();
            assert!(opened.rows.is_none());
            if let Some(delta) = opened.delta {
                mirror.apply(&delta.entries);
            }
            assert_eq!(
                mirror.lines(),
                fresh(&mut client, mirror).await,
                "{sql} of seed {seed}"
            );
        }
    }
}

fn cursor_check(opened: &Opened) {
    assert!(opened.lsn > Lsn::ZERO);
}
