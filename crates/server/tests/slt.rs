//! `tests/slt/*.slt`: one file for each feature, run by the public sqllogictest runner on Springhead
//! and, where it is installed, on PostgreSQL 15, which is how the files' answers came about (G8).

mod side_by_side;

use std::path::{Path, PathBuf};

use side_by_side::connect as connect_postgres;
use springhead_sim::client::pg::{PgClient, PgError};
use springhead_sim::fixture::Fixture;
use springhead_sim::postgres::Postgres;
use sqllogictest::{DB, DBOutput, DefaultColumnType, Runner};

struct Connection {
    client: PgClient,
    name: &'static str,
}

impl DB for Connection {
    type Error = PgError;
    type ColumnType = DefaultColumnType;

    fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, PgError> {
        let result = self.client.query(sql)?;
        if result.columns.is_empty() {
            return Ok(DBOutput::StatementComplete(0));
        }
        let shown = |value: Option<String>| match value {
            None => "NULL".to_owned(),
            Some(text) if text.is_empty() => "(empty)".to_owned(),
            Some(text) => text,
        };
        Ok(DBOutput::Rows {
            types: vec![DefaultColumnType::Text; result.columns.len()],
            rows: result
                .rows
                .into_iter()
                .map(|row| row.into_iter().map(shown).collect())
                .collect(),
        })
    }

    fn engine_name(&self) -> &str {
        self.name
    }
}

fn files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/slt");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory)
        .expect("tests/slt")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "slt"))
        .collect();
    files.sort();
    assert!(files.len() >= 10, "only {} files", files.len());
    files
}

/// How a file begins that is about what belongs to all databases.
const SHARED: &str = "# In the database postgres";

/// Every file in a database of its own, unless it says otherwise; what went wrong. `SPRINGHEAD_SLT` in the
/// environment is the name of the only file to run.
fn run(name: &'static str, connect: impl Fn(&str) -> PgClient) -> Vec<String> {
    let only = std::env::var("SPRINGHEAD_SLT").ok();
    let mut wrong = Vec::new();
    for file in files() {
        let stem = file
            .file_stem()
            .and_then(|stem| stem.to_str())
            .expect("a plain name");
        if only.as_ref().is_some_and(|only| only != stem) {
            continue;
        }
        let text = std::fs::read_to_string(&file).expect("a file of the repository");
        let database = if text.starts_with(SHARED) {
            "postgres".to_owned()
        } else {
            let own = format!("slt_{stem}");
            connect("postgres")
                .query(&format!("CREATE DATABASE {own}"))
                .expect("a database of its own");
            own
        };
        let mut runner = Runner::new(|| async {
            Ok(Connection {
                client: connect(&database),
                name,
            })
        });
        if let Err(error) = runner.run_file(&file) {
            wrong.push(format!("{name}: {error}"));
        }
    }
    wrong
}

#[test]
fn g8_every_feature_file_holds_on_springhead_and_on_postgresql() {
    let fixture = Fixture::started();
    let mut wrong = run("springhead", |database| fixture.pg_to(database));
    if let Some(postgres) = Postgres::start() {
        wrong.extend(run("postgresql", |database| {
            connect_postgres(&postgres, database)
        }));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
