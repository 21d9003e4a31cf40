//! The model of the handoff race: a plain SQLite database that takes the rows of the log, commit by
//! commit, and says what each query's result is after each. Nothing of live queries is in it.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::types::ValueRef as SqliteRef;
use springhead_engine::{TailReader, Tenant};
use springhead_proto::{ChangeKind, CollectionId, Lsn, Value};

use crate::live_race::{QUERIES, Round};
use crate::support::{Seen, seen};

/// Of a result's rows; in their order, if they have one.
pub fn digest<'l>(lines: impl Iterator<Item = &'l str>, ordered: bool) -> u64 {
    let each = lines.map(|line| {
        let mut hasher = DefaultHasher::new();
        line.hash(&mut hasher);
        hasher.finish()
    });
    each.fold(0, |sum: u64, line| match ordered {
        true => sum.rotate_left(7).wrapping_mul(0x5851_f42d_4c95_7f2d) ^ line,
        false => sum.wrapping_add(line),
    })
}

/// See the module's text.
pub struct Model {
    conn: Connection,
    names: HashMap<CollectionId, &'static str>,
    tail: TailReader,
    /// The end of the last commit that has been applied.
    at: Lsn,
    /// Commits that have been read and not applied, by their ends.
    ahead: VecDeque<(Lsn, Vec<Seen>)>,
    /// Changes of a commit whose rest has not been read.
    partial: Vec<Seen>,
}

const TABLES: &str = "
    CREATE TABLE items (id INTEGER PRIMARY KEY, grp INTEGER, n INTEGER);
    CREATE TABLE notes (id INTEGER PRIMARY KEY, item INTEGER, txt TEXT);
    CREATE INDEX notes_item ON notes (item);
    CREATE VIEW low AS SELECT id, n FROM items WHERE grp < 2";

impl Model {
    pub async fn new(tenant: &Arc<Tenant>) -> Model {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(TABLES).unwrap();
        conn.set_prepared_statement_cache_capacity(64);
        let catalog = tenant.catalog();
        let of = |name: &'static str| {
            let mut tables = catalog.tables.values();
            let table = tables.find(|table| table.name.name == name).unwrap();
            (table.collection(), name)
        };
        let mut model = Model {
            conn,
            names: HashMap::from([of("items"), of("notes")]),
            tail: tenant.tail(Lsn::ZERO, Vec::new()),
            at: Lsn::ZERO,
            ahead: VecDeque::new(),
            partial: Vec::new(),
        };
        model.read_to(tenant.visible()).await;
        while model.apply_next() {}
        model
    }

    /// Reads the log until there is nothing more up to `lsn`.
    async fn read_to(&mut self, lsn: Lsn) {
        while self.tail.position() < lsn {
            let before = self.tail.position();
            let step = self.tail.next().await.unwrap();
            for change in seen(&step, before) {
                let end = change.commit_lsn.plus(change.commit_count - 1);
                let is_last = change.lsn == end;
                self.partial.push(change);
                if is_last {
                    let whole = std::mem::take(&mut self.partial);
                    self.ahead.push_back((end, whole));
                }
            }
        }
    }

    fn apply_next(&mut self) -> bool {
        let Some((end, changes)) = self.ahead.pop_front() else {
            return false;
        };
        for change in &changes {
            self.apply(change);
        }
        self.at = end;
        true
    }

    fn apply(&self, change: &Seen) {
        let Some(name) = self.names.get(&change.collection) else {
            return;
        };
        if let (ChangeKind::Update | ChangeKind::Delete, Some(before)) =
            (change.kind, &change.before)
        {
            let sql = format!("DELETE FROM {name} WHERE id = ?1");
            let mut statement = self.conn.prepare_cached(&sql).unwrap();
            let Value::Integer(id) = before[0] else {
                panic!("{before:?}");
            };
            assert_eq!(statement.execute([id]).unwrap(), 1);
        }
        if let (ChangeKind::Insert | ChangeKind::Update, Some(after)) = (change.kind, &change.after)
        {
            let sql = format!("INSERT INTO {name} VALUES (?1, ?2, ?3)");
            let mut statement = self.conn.prepare_cached(&sql).unwrap();
            for (place, value) in after.iter().enumerate() {
                let bound = match value {
                    Value::Integer(number) => statement.raw_bind_parameter(place + 1, number),
                    Value::Text(text) => statement.raw_bind_parameter(place + 1, &text[..]),
                    other => panic!("{other:?}"),
                };
                bound.unwrap();
            }
            statement.raw_execute().unwrap();
        }
    }

    /// The rows of a query now, as lines.
    fn lines(&self, sql: &str) -> Vec<String> {
        let mut statement = self.conn.prepare_cached(sql).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.raw_query();
        let mut lines = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            let mut line = String::new();
            for column in 0..columns {
                line.push_str(if column > 0 { "|" } else { "" });
                match row.get_ref(column).unwrap() {
                    SqliteRef::Null => line.push('~'),
                    SqliteRef::Integer(number) => line.push_str(&number.to_string()),
                    SqliteRef::Text(text) => line.push_str(std::str::from_utf8(text).unwrap()),
                    other => panic!("{other:?}"),
                }
            }
            lines.push(line);
        }
        lines
    }

    /// Compares what subscriptions held with the log after every commit from their snapshots on; how
    /// often. All begin at or after where the last ones that were compared began.
    pub async fn compare(&mut self, rounds: &[Round]) -> usize {
        let Some(last) = rounds.iter().map(|round| round.until).max() else {
            return 0;
        };
        self.read_to(last).await;
        let mut compared = 0;
        let mut places = vec![0; rounds.len()];
        loop {
            // What is true now is true up to before the next commit.
            let next = self.ahead.front().map_or(Lsn(u64::MAX), |(end, _)| *end);
            let mut now: HashMap<usize, u64> = HashMap::new();
            for (round, place) in rounds.iter().zip(&mut places) {
                if round.until < self.at || round.states[0].0 >= next {
                    continue;
                }
                while let Some((lsn, ..)) = round.states.get(*place + 1)
                    && *lsn < next
                {
                    *place += 1;
                    assert_eq!(*lsn, self.at, "a change has the LSN of a commit's end");
                }
                let ordered = QUERIES[round.query].1.contains("ORDER BY");
                let expected = *now.entry(round.query).or_insert_with(|| {
                    let lines = self.lines(QUERIES[round.query].1);
                    digest(lines.iter().map(String::as_str), ordered)
                });
                compared += 1;
                if round.states[*place].1 != expected {
                    self.explain(round, *place);
                }
            }
            if next > last || !self.apply_next() {
                return compared;
            }
        }
    }

    fn explain(&self, round: &Round, place: usize) -> ! {
        let sql = QUERIES[round.query].1;
        let changes = round.states.iter().map(|(lsn, _, delta)| {
            let entries = delta.as_ref().map(|delta| &delta.entries);
            format!("{lsn}: {entries:?}")
        });
        panic!(
            "{sql}\nafter {} it is {:?}\nfrom {:?}\nat place {place} of\n{}",
            self.at,
            self.lines(sql),
            round.snapshot,
            changes.collect::<Vec<_>>().join("\n")
        );
    }
}
