//! Random worlds: schemas, constraints, policies, definitions that change, every kind of operation,
//! devices of several users that are away for a while. In the end each device shows what its user
//! would select on the server, and every rejection is known to whoever wrote it.
//!
//! `WORLD_SEEDS=1000 cargo nextest run -p springhead-device worlds` runs more of them;
//! `WORLD_FIRST=17 WORLD_SEEDS=1` repeats one.

use springhead_device::{Device, Edit};
use springhead_proto::sync::{ColumnValues, Operation, SyncValue, Verb};
use tempfile::TempDir;

use crate::support::{Dice, Server, Wire, directory, lines, number};

/// What a column holds.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Int,
    Text,
    Flag,
    Amount,
    Tags,
    Note,
}

const KINDS: [Kind; 6] = [
    Kind::Int,
    Kind::Text,
    Kind::Flag,
    Kind::Amount,
    Kind::Tags,
    Kind::Note,
];

impl Kind {
    fn definition(self) -> &'static str {
        match self {
            Kind::Int => "int",
            Kind::Text => "text",
            Kind::Flag => "boolean",
            Kind::Amount => "numeric(8, 2)",
            Kind::Tags => "jsonb NOT NULL DEFAULT '[]'",
            Kind::Note => "text CRDT NOT NULL DEFAULT ''",
        }
    }

    fn literal(self, dice: &mut Dice) -> String {
        match self {
            Kind::Int => dice.of(70).to_string(),
            Kind::Text => format!("'x{}'", dice.of(9)),
            Kind::Flag => ["true", "false", "NULL"][dice.place(3)].to_owned(),
            Kind::Amount => format!("{}.{:02}", dice.of(90), dice.of(100)),
            Kind::Tags => format!("'[\"t{}\"]'", dice.of(4)),
            Kind::Note => format!("'note {}'", dice.of(9)),
        }
    }
}

struct Table {
    name: &'static str,
    /// Besides `id` and `owner`, as the server has them now.
    columns: Vec<(String, Kind)>,
}

impl Table {
    fn make(name: &'static str, dice: &mut Dice) -> Table {
        let mut columns = vec![("n".to_owned(), Kind::Int)];
        for number in 0..1 + dice.of(4) {
            columns.push((format!("c{number}"), *dice.pick(&KINDS)));
        }
        Table { name, columns }
    }

    fn definition(&self, dice: &mut Dice) -> String {
        let mut parts = vec!["id int PRIMARY KEY".to_owned(), "owner text".to_owned()];
        for (name, kind) in &self.columns {
            let rule = match (kind, dice.of(3)) {
                (Kind::Int, 0) => format!(" CHECK ({name} < 60)"),
                (Kind::Text, 0) => " UNIQUE".to_owned(),
                (Kind::Int, 1) => " DEFAULT 5".to_owned(),
                (Kind::Note, 0) => format!(" CHECK (length({name}) < 60)"),
                _ => String::new(),
            };
            parts.push(format!("{name} {}{rule}", kind.definition()));
        }
        format!("CREATE TABLE {} ({})", self.name, parts.join(", "))
    }

    /// All of a row as texts.
    fn select(&self, condition: Option<&str>) -> String {
        let columns: Vec<String> = (self.columns.iter())
            .map(|(name, _)| format!("{name}::text"))
            .collect();
        let condition = condition.map_or(String::new(), |text| format!(" WHERE {text}"));
        let columns = columns.join(", ");
        format!(
            "SELECT id, owner, {columns} FROM {}{condition} ORDER BY id",
            self.name
        )
    }

    fn some_column(&self, dice: &mut Dice) -> (String, Kind) {
        dice.pick(&self.columns).clone()
    }
}

struct Holder {
    role: &'static str,
    dir: TempDir,
    device: Device,
    /// By table, the condition of its shape.
    shapes: Vec<Option<String>>,
}

struct World {
    server: Server,
    tables: Vec<Table>,
    holders: Vec<Holder>,
    dice: Dice,
    definitions: u64,
}

const ROLES: [&str; 4] = ["ann", "bob", "ann", "tester"];

const POLICIES: [&str; 4] = [
    "owner = auth.uid()",
    "owner = auth.uid() OR owner IS NULL",
    "owner = auth.uid() OR n < 30",
    "owner IS DISTINCT FROM 'bob' OR auth.uid() = 'bob'",
];

impl World {
    async fn start(seed: u64) -> World {
        let mut dice = Dice::new(seed);
        let tables: Vec<Table> = ["t0", "t1"]
            .into_iter()
            .map(|name| Table::make(name, &mut dice))
            .collect();
        let mut sql = "CREATE ROLE ann LOGIN; CREATE ROLE bob LOGIN; ".to_owned();
        for (place, table) in tables.iter().enumerate() {
            let name = table.name;
            sql += &format!(
                "{}; GRANT ALL ON {name} TO ann, bob; ",
                table.definition(&mut dice)
            );
            if dice.of(3) > 0 {
                let policy = dice.pick(&POLICIES);
                sql += &format!(
                    "ALTER TABLE {name} ENABLE ROW LEVEL SECURITY; \
                     CREATE POLICY own ON {name} USING ({policy}); "
                );
            }
            for id in 1..4 + place {
                sql += &format!(
                    "INSERT INTO {name} (id, owner) VALUES ({id}, {}); ",
                    owner(&mut dice)
                );
            }
        }
        let server = Server::start(&sql).await;
        let mut holders = Vec::new();
        for role in ROLES {
            let dir = directory();
            let device = Device::open(dir.path()).await.unwrap();
            let mut shapes = Vec::new();
            for (table, id) in tables.iter().zip(1..) {
                let condition = match dice.of(6) {
                    0 => Some("n < 20".to_owned()),
                    1 => Some(format!("owner = {}", owner(&mut dice))),
                    2 => Some("owner IS NULL OR n > 8".to_owned()),
                    3 => Some("c0 IS NOT NULL".to_owned()),
                    _ => None,
                };
                device
                    .subscribe(id, table.name, condition.as_deref(), &[])
                    .await
                    .unwrap();
                shapes.push(condition);
            }
            holders.push(Holder {
                role,
                dir,
                device,
                shapes,
            });
        }
        World {
            server,
            tables,
            holders,
            dice,
            definitions: 0,
        }
    }

    /// A row change in SQL, as a device or the server writes it.
    fn statement(&mut self) -> String {
        let dice = &mut self.dice;
        let table = dice.pick(&self.tables);
        let (name, id) = (table.name, dice.of(9) + 1);
        let (column, kind) = table.some_column(dice);
        let value = kind.literal(dice);
        match dice.of(8) {
            0..3 => {
                let owner = owner(dice);
                format!("INSERT INTO {name} (id, owner, {column}) VALUES ({id}, {owner}, {value})")
            }
            3 => format!("DELETE FROM {name} WHERE id = {id}"),
            4 => {
                let owner = owner(dice);
                format!("UPDATE {name} SET owner = {owner} WHERE id = {id}")
            }
            5 => format!("UPDATE {name} SET {column} = {value}"),
            _ => format!("UPDATE {name} SET {column} = {value} WHERE id = {id}"),
        }
    }

    /// What the device has against it is no mutation.
    async fn edit(&mut self, place: usize) {
        let device = self.holders[place].device.clone();
        if self.dice.of(2) == 0 {
            let sql = self.statement();
            let _ = device.sql(&sql, &[]).await;
            return;
        }
        let dice = &mut self.dice;
        let table = dice.pick(&self.tables);
        let (column, kind) = table.some_column(dice);
        let id = SyncValue::from(dice.small(9) + 1);
        let number = |dice: &mut Dice| -> ColumnValues {
            std::iter::once((column.as_str(), dice.small(40) - 10)).collect()
        };
        let verb = match kind {
            Kind::Int => match dice.of(3) {
                0 => Verb::Inc(number(dice)),
                1 => Verb::Min(number(dice)),
                _ => Verb::Max(number(dice)),
            },
            Kind::Tags => {
                let tags = vec![format!("t{}", dice.of(4)).as_str().into()];
                let columns = vec![(column, tags)];
                match dice.of(3) {
                    0 => Verb::SetRemove(columns),
                    _ => Verb::SetAdd(columns),
                }
            }
            Kind::Note => {
                let text = format!("{}", dice.of(10));
                let edits = match dice.of(3) {
                    0 => vec![Edit::Delete { at: 0, length: 1 }],
                    _ => vec![Edit::Insert { at: 0, text }],
                };
                let _ = device.edit(table.name, id, &column, edits).await;
                return;
            }
            Kind::Text => {
                let text = format!("x{}", dice.of(9));
                Verb::Set(std::iter::once((column.as_str(), text.as_str())).collect())
            }
            Kind::Flag | Kind::Amount => Verb::Delete,
        };
        let operation = Operation {
            collection: table.name.to_owned(),
            id: vec![id],
            verb,
        };
        let _ = device.write(vec![operation]).await;
    }

    /// Definitions change on the server; what its rows stand against is not done.
    async fn define(&mut self) {
        self.definitions += 1;
        let number = self.definitions;
        let dice = &mut self.dice;
        let place = dice.place(2);
        let table = &mut self.tables[place];
        let name = table.name;
        let other = (table.columns.len() > 2).then(|| dice.place(table.columns.len() - 1) + 1);
        let sql = match (dice.of(7), other) {
            (0, _) => {
                table.columns.push((format!("a{number}"), Kind::Int));
                format!("ALTER TABLE {name} ADD COLUMN a{number} int DEFAULT {number}")
            }
            (1, Some(other)) => {
                let new = format!("r{number}");
                let old = std::mem::replace(&mut table.columns[other].0, new.clone());
                format!("ALTER TABLE {name} RENAME COLUMN {old} TO {new}")
            }
            (2, Some(other)) => {
                let (old, _) = table.columns.remove(other);
                format!("ALTER TABLE {name} DROP COLUMN {old}")
            }
            (3, _) => format!("ALTER TABLE {name} ADD CONSTRAINT k{number} CHECK (n > -{number})"),
            (4, _) => {
                let policy = dice.pick(&POLICIES);
                format!(
                    "ALTER TABLE {name} ENABLE ROW LEVEL SECURITY; \
                     DROP POLICY IF EXISTS own ON {name}; CREATE POLICY own ON {name} USING ({policy})"
                )
            }
            (5, _) => format!("ALTER TABLE {name} DISABLE ROW LEVEL SECURITY"),
            _ => format!("CREATE TABLE other{number} (id int PRIMARY KEY)"),
        };
        let defined = self.server.sql_as("tester", &sql).await;
        let is_check = sql.contains("ADD CONSTRAINT");
        assert!(defined.is_ok() || is_check, "{sql}: {defined:?}");
    }

    async fn reopen(&mut self, place: usize) {
        let holder = self.holders.remove(place);
        drop(holder.device);
        let device = Device::open(holder.dir.path()).await.unwrap();
        self.holders.insert(place, Holder { device, ..holder });
    }

    async fn run(&mut self) {
        // Most of them know what there is before they are alone with it.
        for place in 0..ROLES.len() {
            if self.dice.of(5) > 0 {
                self.meet(place).await;
            }
        }
        for _ in 0..100 {
            let place = self.dice.place(ROLES.len());
            match self.dice.of(20) {
                0..=11 => self.edit(place).await,
                12..=15 => {
                    let holder = &self.holders[place];
                    let wire = Wire::connect_as(holder.role, &holder.device, &self.server).await;
                    wire.stumble(&mut self.dice).await;
                }
                16 => self.reopen(place).await,
                17 => self.define().await,
                _ => {
                    let sql = self.statement();
                    let _ = self.server.sql_as("tester", &sql).await;
                }
            }
        }
    }

    async fn meet(&self, place: usize) {
        let holder = &self.holders[place];
        let wire = Wire::connect_as(holder.role, &holder.device, &self.server);
        wire.await.run().await;
    }

    async fn check(&mut self, seed: u64, seen: &mut Seen) {
        for _ in 0..2 {
            for place in 0..ROLES.len() {
                self.meet(place).await;
            }
        }
        let mut rejections = 0;
        for (place, holder) in self.holders.iter().enumerate() {
            let who = format!("seed {seed}: device {place} of {}", holder.role);
            let pending = holder.device.pending().await.unwrap();
            assert!(pending.is_empty(), "{who}: {pending:?}");
            rejections += holder.device.rejections().await.unwrap().len();
            let states = holder.device.shapes().await.unwrap();
            for ((table, condition), state) in self.tables.iter().zip(&holder.shapes).zip(&states) {
                let held = lines(&holder.device, &table.select(None)).await;
                if let Some(why) = &state.ended {
                    // Its condition names what is no longer there.
                    assert!(held.is_empty(), "{who}: {} after {why}", table.name);
                    seen.ended += 1;
                    continue;
                }
                let there = table.select(condition.as_deref());
                let there = self.server.sql_as(holder.role, &there).await.unwrap();
                assert_eq!(held, there, "{who}: {} where {condition:?}", table.name);
                seen.rows += held.len();
            }
        }
        let letters = "SELECT count(*) FROM springhead.dead_letters";
        let letters = self.server.sql(letters).await;
        assert_eq!(letters, [rejections.to_string()], "seed {seed}");
        seen.rejections += rejections;
        let decided = "SELECT coalesce(sum(seq), 0) FROM springhead.sync_producers";
        seen.mutations += self.server.sql(decided).await[0].parse::<usize>().unwrap();
    }
}

/// What the worlds so far were made of.
#[derive(Debug, Default)]
struct Seen {
    mutations: usize,
    rejections: usize,
    /// Rows on devices in the end.
    rows: usize,
    /// Shapes whose columns went.
    ended: usize,
}

fn owner(dice: &mut Dice) -> &'static str {
    ["'ann'", "'bob'", "NULL"][dice.place(3)]
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_g6_g10_random_worlds_converge() {
    let first = number("WORLD_FIRST", 1);
    let mut seen = Seen::default();
    for seed in first..first + number("WORLD_SEEDS", 8) {
        let mut world = World::start(seed).await;
        world.run().await;
        world.check(seed, &mut seen).await;
    }
    println!("{seen:?}");
    assert!(seen.rejections > 0 && seen.rejections < seen.mutations && seen.rows > 0);
}
