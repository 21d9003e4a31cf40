//! Live queries: from commit to message, and changes per second, with many of them registered;
//! beside what one would build on PostgreSQL: a trigger that notifies, and the query again.

use std::time::{Duration, Instant};

use crate::error::{BenchError, Result};
use crate::measure::NOTE;
use crate::options::Options;
use crate::report::{Aim, Better, Point, Report};
use crate::rig::pause;
use crate::stats::{Samples, float, now_ns};
use crate::systems::{Kind, Server, Systems};
use crate::wire::{Client, Frame, put_message};

/// A server's limit is a thousand live queries per connection.
const PER_CONNECTION: usize = 1000;

/// Rows of a commit of bulk load.
const BATCH: u64 = 1000;

const TABLES: &str =
    "CREATE TABLE items (id bigint PRIMARY KEY, grp integer NOT NULL, n integer NOT NULL,
        name text NOT NULL, sent_ns bigint NOT NULL, note text NOT NULL);
    CREATE TABLE owners (grp integer PRIMARY KEY, owner text NOT NULL)";

/// What is registered, and what is written.
struct Scenario {
    name: &'static str,
    /// The query that matches: `$1` is 1.
    query: &'static str,
    count: usize,
    /// Rows that are in the table before.
    rows: u64,
    /// Every registered query has the changed row.
    all_match: bool,
    /// An index, so that no query has to read the table.
    index: Option<&'static str>,
}

fn scenarios(options: &Options) -> Vec<Scenario> {
    let less = |count: usize| if options.quick { count / 10 } else { count };
    let rows = if options.quick { 10_000 } else { 100_000 };
    let one = |name, query, count| Scenario {
        name,
        query,
        count,
        rows,
        all_match: false,
        index: None,
    };
    let equal = "SELECT id, n, sent_ns FROM items WHERE grp = $1";
    let by_grp = Some("CREATE INDEX ON items (grp)");
    vec![
        Scenario {
            index: by_grp,
            ..one("1 equal", equal, 1)
        },
        Scenario {
            index: by_grp,
            ..one("1,000 equal", equal, 1000)
        },
        Scenario {
            index: by_grp,
            ..one("100,000 equal", equal, less(100_000))
        },
        Scenario {
            all_match: true,
            index: by_grp,
            ..one(
                "1,000 that all match",
                "SELECT id, n, sent_ns FROM items WHERE grp = 1 AND n < 2000000 + $1::integer",
                1000,
            )
        },
        Scenario {
            index: Some("CREATE INDEX ON items (n)"),
            ..one(
                "10,000 ranges",
                "SELECT id, n, sent_ns FROM items WHERE n BETWEEN $1 AND $1",
                less(10_000),
            )
        },
        Scenario {
            index: Some("CREATE INDEX ON items (name text_pattern_ops)"),
            ..one(
                "1,000 LIKE",
                "SELECT id, n, sent_ns FROM items WHERE name LIKE $1",
                1000,
            )
        },
        Scenario {
            rows: rows * 10,
            index: Some("CREATE INDEX ON items (n DESC)"),
            ..one(
                "top 10 of 1,000,000",
                "SELECT id, n, sent_ns FROM items ORDER BY n DESC LIMIT 10",
                1,
            )
        },
        Scenario {
            index: by_grp,
            ..one(
                "join",
                "SELECT i.id, o.owner, i.n, i.sent_ns FROM items i JOIN owners o ON o.grp = i.grp WHERE i.grp < 3",
                1,
            )
        },
        Scenario {
            index: by_grp,
            ..one(
                "groups",
                "SELECT grp, count(*), sum(n), max(sent_ns) FROM items WHERE grp < 50 GROUP BY grp",
                1,
            )
        },
    ]
}

/// # Errors
/// When a server fails.
pub fn measure(systems: &Systems, options: &Options, report: &mut Report) -> Result<()> {
    report.note("live: one-row commits one after the other, each after the message of the one before has come; counted from before the commit is sent to when the message (Springhead), or the answer to the query that is asked after it (PostgreSQL), is read. PostgreSQL: a trigger calls pg_notify for each row, and one client that listens asks its query again (as many times as there are queries that match); what is registered besides costs it nothing, and its answer says nothing of what changed");
    report.note("live: changes per second are rows inserted in commits of a thousand, of which one matches, until the message of the last has come; `grp` of the others is of nobody");
    let wanted = std::env::var("BENCH_LIVE").unwrap_or_default();
    let wanted = |scenario: &Scenario| scenario.name.contains(&wanted);
    for scenario in scenarios(options).into_iter().filter(wanted) {
        for _ in 0..options.rounds {
            for &kind in systems.kinds() {
                let place = systems.place(kind, "live")?;
                let server = systems.start(&place, &[])?;
                let turn = turn(&server, &scenario, options)?;
                record(report, kind, &scenario, turn);
                server.stop()?;
                place.remove()?;
            }
        }
    }
    Ok(())
}

struct Turn {
    latencies: Samples,
    rows_per_second: f64,
    /// Memory that each registered query takes; NaN where nothing is.
    bytes_per_query: f64,
}

fn turn(server: &Server, scenario: &Scenario, options: &Options) -> Result<Turn> {
    let mut writer = server.client()?;
    writer.run(TABLES)?;
    load(&mut writer, scenario.rows)?;
    if let Some(index) = scenario.index {
        writer.run(index)?;
    }
    if server.kind() == Kind::Postgres {
        writer.run("VACUUM ANALYZE items")?;
    }
    let mut watcher = Watcher::open(server, scenario)?;
    let commits = if options.quick { 100 } else { 500 };
    let mut latencies = Samples::default();
    for number in 0..commits {
        let begun = now_ns();
        writer.run(&update(scenario, number, begun))?;
        watcher.wait_for(begun)?;
        latencies.add(now_ns() - begun);
    }
    let rows_per_second = bulk(&mut writer, &mut watcher, scenario, options)?;
    Ok(Turn {
        latencies,
        rows_per_second,
        bytes_per_query: watcher.bytes_per_query,
    })
}

fn load(writer: &mut Client, rows: u64) -> Result<()> {
    for first in (0..rows).step_by(10_000) {
        writer.run(&format!(
            "INSERT INTO items SELECT s, s, 1000 + s % 900000, 'name ' || s, 0, '{NOTE}'
             FROM generate_series({first}, {}) AS g(s)",
            first + 9_999.min(rows - first - 1)
        ))?;
    }
    writer.run("UPDATE items SET n = 1 WHERE id = 1")?;
    writer
        .run("INSERT INTO owners SELECT s, 'owner ' || s FROM generate_series(0, 999) AS g(s)")?;
    Ok(())
}

/// A commit that changes what the watched query gives.
fn update(scenario: &Scenario, number: u64, sent_ns: u64) -> String {
    if scenario.name.starts_with("top") {
        format!(
            "UPDATE items SET n = {}, sent_ns = {sent_ns} WHERE id = 1",
            1_000_000 + number
        )
    } else {
        format!("UPDATE items SET sent_ns = {sent_ns} WHERE id = 1")
    }
}

/// Rows per second of commits of a thousand, the last of which matches.
fn bulk(
    writer: &mut Client,
    watcher: &mut Watcher,
    scenario: &Scenario,
    options: &Options,
) -> Result<f64> {
    let batches = if options.quick { 20 } else { 100 };
    let begun = Instant::now();
    let mut sent_ns = 0;
    for batch in 0..batches {
        let first = 10_000_000 + batch * BATCH;
        writer.run(&format!(
            "INSERT INTO items SELECT s, 2000000, 0, 'bulk', 0, '{NOTE}'
             FROM generate_series({first}, {}) AS g(s)",
            first + BATCH - 1
        ))?;
        if batch + 1 == batches {
            sent_ns = now_ns();
            writer.run(&update(scenario, 100_000 + batch, sent_ns))?;
        }
    }
    watcher.wait_for(sent_ns)?;
    Ok(float(batches * BATCH) / begun.elapsed().as_secs_f64())
}

/// Who waits for changes.
struct Watcher {
    /// With the query that matches.
    client: Client,
    /// Hold the other live queries.
    others: Vec<Client>,
    /// PostgreSQL: what is asked again.
    again: Option<String>,
    /// All of them are told of each change.
    all_match: usize,
    bytes_per_query: f64,
}

impl Watcher {
    fn open(server: &Server, scenario: &Scenario) -> Result<Watcher> {
        let mut client = server.client()?;
        if server.kind() == Kind::Postgres {
            client.run(
                "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    PERFORM pg_notify('items', NEW.grp::text); RETURN NULL; END $$",
            )?;
            client.run("CREATE TRIGGER tell AFTER INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION tell()")?;
            client.run("LISTEN items")?;
            let value = if scenario.query.contains("LIKE") {
                "'name 1'"
            } else {
                "1"
            };
            return Ok(Watcher {
                client,
                others: Vec::new(),
                again: Some(scenario.query.replace("$1", value)),
                all_match: if scenario.all_match {
                    scenario.count
                } else {
                    1
                },
                bytes_per_query: f64::NAN,
            });
        }
        // One first: what the first live query makes the server set up belongs to nobody.
        register(&mut client, scenario, 1..2)?;
        let before = server.anonymous_bytes();
        let mut others = Vec::new();
        let mut next = 2;
        while next <= scenario.count {
            let end = (next + PER_CONNECTION).min(scenario.count + 1);
            let mut other = server.client()?;
            register(&mut other, scenario, next..end)?;
            others.push(other);
            next = end;
        }
        pause(Duration::from_millis(500));
        let more = float(scenario.count as u64 - 1);
        Ok(Watcher {
            client,
            others,
            again: None,
            all_match: if scenario.all_match {
                scenario.count
            } else {
                1
            },
            bytes_per_query: (server.anonymous_bytes() - before) / more,
        })
    }

    /// Waits until the change with this mark has been told to everyone whom it concerns.
    fn wait_for(&mut self, sent_ns: u64) -> Result<()> {
        let mark = sent_ns.to_string();
        if let Some(again) = &self.again {
            // Others of its kind may have come with an earlier answer.
            self.client.receive(|frame| frame.kind)?;
            let mut left = self.all_match;
            while left > 0 {
                let rows = self.client.run(again)?;
                let found = rows.iter().flatten().flatten().any(|cell| *cell == mark);
                left -= usize::from(found);
            }
            return Ok(());
        }
        told(&mut self.client, mark.as_bytes(), 1)?;
        if self.all_match > 1 {
            for other in &mut self.others {
                let count = PER_CONNECTION.min(self.all_match - 1);
                told(other, mark.as_bytes(), count)?;
            }
        }
        Ok(())
    }
}

/// Reads notifications until so many hold the mark.
fn told(client: &mut Client, mark: &[u8], mut count: usize) -> Result<()> {
    while count > 0 {
        let found = client.receive(|frame| {
            frame.kind == b'A' && memchr::memmem::find(frame.body, mark).is_some()
        })?;
        count -= usize::from(found);
    }
    Ok(())
}

/// Opens a live query for each number, over the extended protocol and one statement.
fn register(
    client: &mut Client,
    scenario: &Scenario,
    numbers: std::ops::Range<usize>,
) -> Result<()> {
    let is_text = scenario.query.contains("LIKE");
    let sql = format!("LIVE {}", scenario.query);
    let has_parameter = sql.contains("$1");
    let mut message = Vec::new();
    put_message(&mut message, b'P', &[b"q\0", sql.as_bytes(), b"\0\0\0"]);
    for number in numbers.clone() {
        let value = if is_text {
            // The first begins as the row's name does.
            if number == 1 {
                "name 1".to_owned()
            } else {
                format!("other {number}%")
            }
        } else {
            number.to_string()
        };
        let length = u32::try_from(value.len()).unwrap_or(0).to_be_bytes();
        let parts: &[&[u8]] = if has_parameter {
            &[b"\0q\0\0\0\0\x01", &length, value.as_bytes(), b"\0\0"]
        } else {
            &[b"\0q\0\0\0\0\0\0\0"]
        };
        put_message(&mut message, b'B', parts);
        put_message(&mut message, b'E', &[b"\0\0\0\0\0"]);
        put_message(&mut message, b'S', &[]);
    }
    client.send(&message)?;
    let mut left = numbers.len();
    while left > 0 {
        let done = client.receive(|frame: Frame<'_>| match frame.kind {
            b'E' => Err(crate::wire::error_text(frame.body)),
            kind => Ok(kind == b'Z'),
        })?;
        match done {
            Ok(done) => left -= usize::from(done),
            Err(message) => {
                return Err(BenchError::Refused { sql, message });
            }
        }
    }
    Ok(())
}

fn record(report: &mut Report, kind: Kind, scenario: &Scenario, mut turn: Turn) {
    let how = match kind {
        Kind::Springhead => "LIVE SELECT",
        Kind::Postgres => "trigger, NOTIFY, query again",
    };
    for (per_mille, label) in [(500, "p50"), (990, "p99")] {
        let what = format!("{}, commit to message {label}", scenario.name);
        report.record(
            Point::new("live", what, "ms", Better::Lower),
            kind,
            how,
            turn.latencies.per_mille_ms(per_mille),
        );
    }
    let what = format!("{}, changes in batches", scenario.name);
    let mut point = Point::new("live", what, "per second", Better::Higher);
    if scenario.name.ends_with("equal") {
        point = point.aim(Aim::AtLeast(50_000.0));
    }
    report.record(point, kind, how, turn.rows_per_second);
    if kind == Kind::Springhead && scenario.count >= 1000 {
        let what = format!("{}, memory per query", scenario.name);
        let mut point = Point::new("live", what, "bytes", Better::Lower);
        if scenario.name.starts_with("100,000") {
            point = point.aim(Aim::AtMost(400.0));
        }
        report.record(point, kind, how, turn.bytes_per_query);
    }
}
