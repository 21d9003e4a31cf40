//! Random schemas, policies, queries, statements and definitions for the test of live queries at full
//! width.

use crate::live::Random;

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

pub struct Table {
    name: &'static str,
    /// Names and numbers of types; `k` comes first.
    columns: Vec<(String, usize)>,
}

/// What a seed is about.
pub struct World {
    pub r: Random,
    tables: Vec<Table>,
    added: usize,
}

impl World {
    pub fn new(seed: u64) -> World {
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
    pub fn schema(&mut self) -> Vec<String> {
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
        for table in &self.tables {
            made.push(format!(
                "CREATE VIEW v{0} AS SELECT k, ref AS r, c0 AS c FROM {0} WHERE ref > 0",
                table.name
            ));
        }
        made.push("CREATE ROLE ann LOGIN".to_owned());
        for table in &self.tables {
            made.push(format!("GRANT SELECT ON {0}, v{0} TO ann", table.name));
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

    pub fn query(&mut self) -> String {
        let at = below(&mut self.r, self.tables.len());
        let other = (at + 1) % self.tables.len();
        let (a, b) = (self.tables[at].name, self.tables[other].name);
        let last = self.tables[at].columns.len() - 1;
        let (column, ty) = self.tables[at].columns[below(&mut self.r, last + 1)].clone();
        let outputs = self.outputs(at, "a");
        let condition = self.condition(at, "a");
        let order = self.total_order(at, "a");
        let limit = 1 + below(&mut self.r, 4);
        match below(&mut self.r, 27) {
            14 => {
                let k = below(&mut self.r, 8);
                format!("SELECT r, c FROM v{a} WHERE r = {k} OR k < {k}")
            }
            15 => format!("SELECT a.k, b.c FROM {a} a JOIN v{b} b ON b.r = a.k WHERE {condition}"),
            16 => format!(
                "WITH s AS (SELECT * FROM {a} a WHERE {condition}) SELECT s.k, s.ref FROM s WHERE s.ref IS NOT NULL"
            ),
            17 => {
                let all = self.total_order(other, "b");
                format!(
                    "SELECT a.k, b.k, b.ref FROM {a} a JOIN {b} b ON b.ref = a.k WHERE {condition} ORDER BY {order}, {all} LIMIT {limit}"
                )
            }
            18 => {
                let all = self.total_order(other, "b");
                format!(
                    "SELECT a.ref, b.k FROM {a} a LEFT JOIN {b} b ON b.ref = a.k WHERE {condition} ORDER BY a.{column} DESC, {order}, {all}"
                )
            }
            19 => format!(
                "SELECT a.ref, count(*) AS n FROM {a} a GROUP BY a.ref ORDER BY n DESC, a.ref OFFSET 1 LIMIT {limit}"
            ),
            20 => format!("SELECT b.k, a.ref FROM {a} a RIGHT JOIN {b} b ON b.ref = a.k"),
            21 => format!(
                "SELECT a.k FROM {a} a WHERE {condition} UNION ALL SELECT b.ref FROM {b} b UNION ALL SELECT r FROM v{a}"
            ),
            22 => format!(
                "SELECT {outputs} FROM {a} a WHERE a.ref NOT IN (SELECT b.k FROM {b} b WHERE b.ref > 1)"
            ),
            23 => format!("SELECT a.k, b.k FROM {a} a FULL JOIN {b} b ON b.ref = a.k"),
            24 | 25 => {
                let word = (self.r).pick(&[
                    "UNION",
                    "INTERSECT",
                    "EXCEPT",
                    "EXCEPT ALL",
                    "INTERSECT ALL",
                ]);
                let right = match below(&mut self.r, 4) {
                    0 => format!("SELECT r, k FROM v{a}"),
                    1 => format!("SELECT a.ref, b.k FROM {a} a LEFT JOIN {b} b ON b.ref = a.k"),
                    2 => format!("SELECT max(b.k), b.ref FROM {b} b GROUP BY b.ref"),
                    _ => format!("SELECT b.k, b.ref FROM {b} b"),
                };
                format!("SELECT a.k, a.ref FROM {a} a WHERE {condition} {word} {right}")
            }
            26 => format!(
                "SELECT a.k, a.{column}, b.ref FROM {a} a FULL JOIN {b} b ON b.ref = a.k WHERE {condition} OR b.k > 3"
            ),
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

    pub fn statement(&mut self) -> String {
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

    pub fn transaction(&mut self) -> String {
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
    pub fn definition(&mut self) -> String {
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

pub fn below(r: &mut Random, end: usize) -> usize {
    usize::try_from(r.below(end as u64)).unwrap()
}
