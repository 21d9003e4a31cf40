//! Random statements that define and write, for the test of definitions that change: what is there is
//! asked of the session that writes, so that most of them can succeed wherever a transaction is.

use crate::definitions_seen::is_ours;
use crate::live::Random;
use crate::live_world::below;
use crate::support::Client;

/// The names that tables have in turn.
pub const NAMES: [&str; 3] = ["a", "b", "c"];

/// Types that columns have, with what is put into them.
const TYPES: [(&str, &[&str]); 6] = [
    ("integer", &["0", "1", "2", "3", "NULL"]),
    ("bigint", &["0", "2", "4", "4000000000"]),
    ("text", &["'1'", "'2'", "'x'", "'Xy'", "NULL"]),
    ("character varying(4)", &["'1'", "'3'", "'ab'"]),
    ("numeric(8,2)", &["0", "1.50", "2.25", "-3", "NULL"]),
    ("numeric(8,1)", &["1.5", "2.2"]),
];

/// What a table has now, as the session sees it that asks.
#[derive(Debug, Clone)]
pub struct Form {
    pub name: &'static str,
    /// Names and types; `id` is the key, where there is one.
    pub columns: Vec<(String, String)>,
    pub has_key: bool,
}

pub struct World {
    pub r: Random,
    /// Names that are made up have numbers.
    next: usize,
    /// Only rows change, and what else can be undone from images.
    pub only_rows: bool,
}

pub const SETUP: &[&str] = &["CREATE ROLE boss LOGIN SUPERUSER", "CREATE ROLE ann LOGIN"];

/// By `boss`.
pub const TABLES: &[&str] = &[
    "CREATE TABLE seen (n bigserial PRIMARY KEY, what text)",
    "CREATE SEQUENCE numbers",
    "CREATE FUNCTION f(x integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT x + 1'",
    "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \
     'BEGIN INSERT INTO seen (what) VALUES (TG_TABLE_NAME || TG_OP); RETURN NULL; END'",
    "CREATE TABLE a (id integer PRIMARY KEY, x1 integer, x2 text)",
    "CREATE TABLE b (id integer PRIMARY KEY, x1 numeric(8,2), x2 text DEFAULT 'd')",
    "GRANT SELECT ON a, b TO ann",
    "INSERT INTO a VALUES (1, 1, 'x'), (2, 2, 'y'), (3, NULL, 'x')",
    "INSERT INTO b VALUES (1, 1.5, 'x'), (2, 2.25, 'y')",
];

/// What tables there are, as `client` sees it.
pub async fn forms(client: &mut Client) -> Vec<Form> {
    let sql = "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), \
               EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) \
               FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid \
               WHERE c.relkind = 'r' AND c.relname IN ('a', 'b', 'c') AND a.attnum > 0 \
               AND NOT a.attisdropped ORDER BY c.relname, a.attnum";
    let mut forms: Vec<Form> = Vec::new();
    for row in client.ok(sql).await.rows {
        let cell = |place: usize| row[place].clone().unwrap();
        let name = NAMES.into_iter().find(|name| *name == cell(0)).unwrap();
        if forms.last().is_none_or(|form| form.name != name) {
            forms.push(Form {
                name,
                columns: Vec::new(),
                has_key: cell(3) == "t",
            });
        }
        let form = forms.last_mut().unwrap();
        form.columns.push((cell(1), cell(2)));
    }
    forms
}

/// What a seed has run, for who looks at its failure.
pub struct Trace {
    seed: u64,
    lines: Vec<String>,
}

impl Trace {
    pub fn new(seed: u64) -> Trace {
        Trace {
            seed,
            lines: Vec::new(),
        }
    }

    pub fn push(&mut self, line: String) {
        self.lines.push(line);
    }

    pub fn why(&self) -> String {
        let from = self.lines.len().saturating_sub(60);
        format!("seed {}:\n{}\n", self.seed, self.lines[from..].join("\n"))
    }

    /// Runs what may fail, but only as statements fail.
    pub async fn run(&mut self, client: &mut Client, sql: &str) -> bool {
        match client.run(sql).await {
            Ok(_) => {
                if !sql.ends_with(" p") {
                    self.lines.push(format!("{sql};"));
                }
                true
            }
            Err(error) => {
                assert!(!is_ours(&error), "{}{sql}: {error:?}", self.why());
                self.lines.push(format!("-- {sql}: {}", error.message));
                false
            }
        }
    }

    /// A statement by itself, or several in a block with savepoints.
    pub async fn transaction(&mut self, world: &mut World, client: &mut Client) {
        if world.below(3) == 0 {
            let statement = world.statement(client).await;
            self.run(client, &statement).await;
            return;
        }
        self.run(client, "BEGIN").await;
        for _ in 0..1 + world.below(7) {
            match world.below(8) {
                0 => {
                    let name = world.below(2);
                    self.run(client, &format!("SAVEPOINT s{name}")).await;
                    continue;
                }
                1 => {
                    let name = world.below(2);
                    self.run(client, "SAVEPOINT p").await;
                    if !self.run(client, &format!("ROLLBACK TO s{name}")).await {
                        self.run(client, "ROLLBACK TO p").await;
                    }
                    continue;
                }
                _ => {}
            }
            let statement = world.statement(client).await;
            self.run(client, "SAVEPOINT p").await;
            let word = match self.run(client, &statement).await {
                true => "RELEASE p",
                false => "ROLLBACK TO p",
            };
            self.run(client, word).await;
        }
        let end = if world.below(6) == 0 {
            "ROLLBACK"
        } else {
            "COMMIT"
        };
        self.run(client, end).await;
        self.run(client, "ROLLBACK").await;
    }
}

impl World {
    pub fn new(seed: u64) -> World {
        World {
            r: Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d)),
            next: 1,
            only_rows: false,
        }
    }

    pub fn below(&mut self, end: usize) -> usize {
        below(&mut self.r, end)
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    fn value(&mut self, ty: &str) -> &'static str {
        let known = TYPES.iter().find(|(name, _)| *name == ty);
        known.map_or("NULL", |(_, values)| self.r.pick(values))
    }

    fn fresh(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}{}", self.next)
    }

    /// One statement, or a few that belong together.
    pub async fn statement(&mut self, client: &mut Client) -> String {
        let forms = forms(client).await;
        if self.only_rows {
            return self.rows_alone(&forms);
        }
        if forms.is_empty() || self.below(20) == 0 {
            return self.create();
        }
        let form = self.pick(&forms);
        match self.below(10) {
            0..=4 => self.rows(&form),
            5..=7 => self.columns(&form),
            8 => self.table(&form),
            _ => self.beside(&form),
        }
    }

    /// What leaves nothing behind but rows and numbers.
    fn rows_alone(&mut self, forms: &[Form]) -> String {
        if !forms.is_empty() && self.below(8) > 0 {
            let form = self.pick(forms);
            return self.rows(&form);
        }
        match self.below(6) {
            0 => "INSERT INTO seen (what) VALUES ('alone')".to_owned(),
            1 => "DELETE FROM seen WHERE n % 3 = 0".to_owned(),
            2 => format!("CREATE ROLE r{}", self.below(9)),
            3 => format!("DROP ROLE r{}", self.below(9)),
            4 => "NOTIFY told, 'it'".to_owned(),
            _ => self.numbers(),
        }
    }

    fn create(&mut self) -> String {
        let name = self.pick(&NAMES);
        let (one, two) = (self.below(TYPES.len()), self.below(TYPES.len()));
        let key = self.pick(&["PRIMARY KEY", "PRIMARY KEY", "NOT NULL"]);
        format!(
            "CREATE TABLE {name} (id integer {key}, x1 {}, y {}); GRANT SELECT ON {name} TO ann",
            TYPES[one].0, TYPES[two].0
        )
    }

    fn rows(&mut self, form: &Form) -> String {
        let name = form.name;
        let id = self.below(8);
        let (column, ty) = self.pick(&form.columns);
        match self.below(10) {
            0..=4 => {
                let of_table: Vec<_> = (form.columns.iter())
                    .filter(|(name, _)| name == "id" || self.r.below(4) > 0)
                    .cloned()
                    .collect();
                let names: Vec<&str> = of_table.iter().map(|(name, _)| name.as_str()).collect();
                let rows: Vec<String> = (0..1 + self.below(2))
                    .map(|more| {
                        let values: Vec<String> = (of_table.iter())
                            .map(|(name, ty)| match name.as_str() {
                                "id" => (id + more).to_string(),
                                _ => self.value(ty).to_owned(),
                            })
                            .collect();
                        format!("({})", values.join(", "))
                    })
                    .collect();
                format!(
                    "INSERT INTO {name} ({}) VALUES {}{}",
                    names.join(", "),
                    rows.join(", "),
                    self.r.pick(&["", " ON CONFLICT DO NOTHING"])
                )
            }
            5 | 6 if column != "id" => {
                let value = self.value(&ty);
                format!("UPDATE {name} SET {column} = {value} WHERE id >= {id}")
            }
            5 | 6 => format!("UPDATE {name} SET id = id + 10 WHERE id = {id}"),
            7 => format!("UPDATE {name} SET {column} = {column} WHERE id <= {id}"),
            8 => format!("DELETE FROM {name} WHERE id = {id}"),
            _ if self.below(3) == 0 && !self.only_rows => format!("TRUNCATE {name}"),
            _ => self.numbers(),
        }
    }

    fn numbers(&mut self) -> String {
        match self.below(4) {
            0 => format!("SELECT setval('numbers', {})", 1 + self.below(90)),
            _ => "SELECT nextval('numbers')".to_owned(),
        }
    }

    fn columns(&mut self, form: &Form) -> String {
        let name = form.name;
        let (column, ty) = self.pick(&form.columns);
        let (new, values) = self.pick(&TYPES);
        let value = loop {
            let value = self.r.pick(values);
            if value != "NULL" {
                break value;
            }
        };
        let added = self.fresh("x");
        match self.below(16) {
            0 | 1 => format!("ALTER TABLE {name} ADD COLUMN {added} {new}"),
            2 => format!("ALTER TABLE {name} ADD COLUMN {added} {new} DEFAULT {value}"),
            3 => format!("ALTER TABLE {name} ADD COLUMN {added} {new} NOT NULL DEFAULT {value}"),
            4..=6 if column != "id" => format!("ALTER TABLE {name} DROP COLUMN {column} CASCADE"),
            7 if column != "id" => format!("ALTER TABLE {name} RENAME COLUMN {column} TO {added}"),
            8 if column != "id" => format!(
                "ALTER TABLE {name} ALTER COLUMN {column} TYPE {new} USING \
                 CASE WHEN {column}::text ~ '^[0-9.]+$' THEN ({column}::text)::numeric(8,2)::{new} END"
            ),
            9 if column != "id" => format!("ALTER TABLE {name} ALTER COLUMN {column} TYPE {new}"),
            10 if ty == "text" => format!(
                "ALTER TABLE {name} ALTER COLUMN {column} TYPE text USING {column} || '{}'",
                self.below(3)
            ),
            10 | 11 if column != "id" => {
                let default = self.value(&ty);
                format!("ALTER TABLE {name} ALTER COLUMN {column} SET DEFAULT {default}")
            }
            12 if column != "id" => {
                let what = self.pick(&["SET", "DROP"]);
                format!("ALTER TABLE {name} ALTER COLUMN {column} {what} NOT NULL")
            }
            13 => format!("ALTER TABLE {name} ADD CONSTRAINT {added} CHECK (id < 90)"),
            14 => format!("CREATE INDEX ON {name} ({column})"),
            _ => format!("ALTER TABLE {name} ADD COLUMN {added} bigint DEFAULT nextval('numbers')"),
        }
    }

    fn table(&mut self, form: &Form) -> String {
        let name = form.name;
        let other = self.pick(&NAMES);
        match self.below(9) {
            0 | 1 => format!("ALTER TABLE {name} RENAME TO {other}"),
            2 | 3 => format!(
                "ALTER TABLE {name} RENAME TO z; ALTER TABLE {other} RENAME TO {name}; \
                 ALTER TABLE z RENAME TO {other}"
            ),
            4 => format!("DROP TABLE {name} CASCADE"),
            5 => format!("DROP TABLE {name} CASCADE; {}", self.create()),
            6 if form.has_key => format!("ALTER TABLE {name} DROP CONSTRAINT {name}_pkey"),
            6 | 7 => format!("ALTER TABLE {name} ADD CONSTRAINT {name}_pkey PRIMARY KEY (id)"),
            _ => format!(
                "ALTER TABLE {name} DROP CONSTRAINT {name}_pkey; \
                 UPDATE {name} SET id = id + 20 WHERE id = 1; \
                 ALTER TABLE {name} ADD CONSTRAINT {name}_pkey PRIMARY KEY (id)"
            ),
        }
    }

    /// What is about a table, and not its columns.
    fn beside(&mut self, form: &Form) -> String {
        let name = form.name;
        let (column, _) = self.pick(&form.columns);
        let made = self.fresh("p");
        match self.below(13) {
            0 | 1 => format!(
                "CREATE OR REPLACE VIEW v{name} AS SELECT id FROM {name} WHERE id > {}",
                self.below(4)
            ),
            2 => format!("DROP VIEW IF EXISTS v{name}"),
            3 => format!(
                "CREATE OR REPLACE FUNCTION f(x integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT x + {}'",
                self.below(4)
            ),
            4 => format!(
                "CREATE OR REPLACE TRIGGER note AFTER INSERT OR DELETE ON {name} FOR EACH ROW EXECUTE FUNCTION note()"
            ),
            5 => format!("DROP TRIGGER IF EXISTS note ON {name}"),
            6 => format!(
                "CREATE POLICY {made} ON {name} FOR SELECT USING (id % 2 = {})",
                self.below(2)
            ),
            7 => format!("ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"),
            8 => format!("ALTER TABLE {name} DISABLE ROW LEVEL SECURITY"),
            9 => format!("REVOKE SELECT ON {name} FROM ann"),
            10 => format!("GRANT SELECT ON {name} TO ann"),
            11 => format!("GRANT SELECT (id, {column}) ON {name} TO ann"),
            _ => format!("ALTER SEQUENCE numbers RESTART WITH {}", 1 + self.below(5)),
        }
    }

    /// A live query over what is there.
    pub fn query(&mut self, forms: &[Form]) -> Option<String> {
        if forms.is_empty() {
            return None;
        }
        let (one, two) = (self.pick(forms), self.pick(forms));
        let (a, b) = (one.name, two.name);
        let (column, ty) = self.pick(&one.columns);
        let value = self.value(&ty);
        let id = self.below(6);
        Some(match self.below(12) {
            0 => format!("SELECT * FROM {a}"),
            1 => format!("SELECT id, {column} FROM {a} WHERE id > {id}"),
            2 => format!("SELECT id FROM {a} WHERE {column} = {value}"),
            3 => format!("SELECT id FROM {a} WHERE {column} IS NOT NULL AND id <> {id}"),
            4 => format!("SELECT {column}, count(*) FROM {a} GROUP BY {column}"),
            5 => format!("SELECT count(*), max(id), max({column}) FROM {a}"),
            6 => format!("SELECT x.id, y.id FROM {a} x JOIN {b} y ON y.id = x.id"),
            7 => format!("SELECT x.id, x.{column}, y.id FROM {a} x LEFT JOIN {b} y ON y.id = x.id"),
            8 => format!("SELECT id, {column} FROM {a} ORDER BY id, {column} LIMIT 3"),
            9 => format!("SELECT id FROM {a} EXCEPT SELECT id FROM {b}"),
            10 => format!("SELECT id FROM v{a}"),
            _ => format!("SELECT id, f(id) FROM {a} WHERE f(id) > {id}"),
        })
    }
}
