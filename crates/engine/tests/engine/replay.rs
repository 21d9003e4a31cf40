//! The state is what the log adds up to, byte for byte, whatever has happened: random statements,
//! definitions, transactions and failures, then a state made from nothing but the log, and one that
//! catches up from an older copy.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use springhead_proto::{ErrorCode, TenantId};
use springhead_sql::catalog::Catalog;

use crate::support::{Client, Node, dump};

/// What one step does: a form, and two small numbers that fill it in.
pub type Step = (u8, u8, u8);

pub const FORMS: u8 = 44;

/// Tables with what is hard to replay: a cascading and a deferred key, a generated column, a key of
/// two columns, a table without a key, numbers of every kind.
pub const TABLES: &str = "
    CREATE TABLE parent (id int PRIMARY KEY, name text UNIQUE, total numeric(12, 2) DEFAULT 1.5);
    CREATE TABLE child (
        id serial PRIMARY KEY,
        p int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE,
        d int REFERENCES parent ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED,
        n int CHECK (n < 90),
        doubled int GENERATED ALWAYS AS (n * 2) STORED,
        f double precision DEFAULT 2.0
    );
    CREATE TABLE nokey (a text, b bytea);
    CREATE TABLE comp (a int, b text, c jsonb, r real, PRIMARY KEY (a, b));
    CREATE SEQUENCE numbers INCREMENT 3 MAXVALUE 60 CYCLE;
";

pub fn statement((form, x, y): Step) -> String {
    let (x, y) = (i32::from(x % 12), i32::from(y % 100));
    match form % FORMS {
        0..=2 => format!("INSERT INTO parent (id, name) VALUES ({x}, 'n{y}')"),
        3 => format!("INSERT INTO parent SELECT i, 'g' || i, i / 3.0 FROM generate_series({x}, {x} + 4) g(i)"),
        4..=6 => format!("INSERT INTO child (p, n) VALUES ({x}, {y}), (NULL, {y} - 1)"),
        7 => format!("INSERT INTO child (d, n, f) VALUES ({x}, 1, {y})"),
        8 => format!("UPDATE child SET n = n + {y}, f = f / 3 WHERE id % 3 = {x} % 3"),
        9 => format!("UPDATE parent SET id = id + 20 WHERE id = {x}"),
        10 => format!("UPDATE parent SET total = total + {y}, name = name || '-' WHERE id <= {x}"),
        11 => format!("DELETE FROM parent WHERE id = {x}"),
        12 => format!("DELETE FROM child WHERE id % 5 = {x} % 5"),
        13 | 14 => format!(
            "INSERT INTO comp VALUES ({x}, 'k{y}', '{{\"y\": {y}}}', {y}.5), ({y}, 'k{x}', NULL, {x})
             ON CONFLICT (a, b) DO UPDATE SET c = excluded.c, r = comp.r + 1"
        ),
        15 => format!("UPDATE comp SET a = a + 1, b = b || 'x' WHERE a = {x}"),
        16 => format!("DELETE FROM comp WHERE a > {y} RETURNING a, b, c"),
        17 => format!("INSERT INTO nokey (a, b) SELECT 'r' || i, NULL FROM generate_series(1, {x}) g(i)"),
        18 => format!("UPDATE nokey SET b = '\\x0{x:01x}ff' WHERE a = 'r{x}'"),
        19 => format!("DELETE FROM nokey WHERE a = 'r{x}'"),
        20 => "TRUNCATE comp".to_owned(),
        21 => "TRUNCATE parent, child RESTART IDENTITY".to_owned(),
        22 => "SELECT nextval('numbers'), nextval('numbers')".to_owned(),
        23 => format!("SELECT setval('numbers', {})", x + 1),
        24 => format!("ALTER SEQUENCE numbers RESTART WITH {}", x + 1),
        25 => format!("ALTER TABLE nokey ADD COLUMN x{x} int DEFAULT {y}"),
        26 => format!("ALTER TABLE nokey DROP COLUMN x{x}"),
        27 => format!("ALTER TABLE comp ADD CONSTRAINT c{x} CHECK (a < {y} + 50)"),
        28 => format!("ALTER TABLE comp DROP CONSTRAINT IF EXISTS c{x}"),
        29 => format!("CREATE TABLE extra{} (id bigserial PRIMARY KEY, v text DEFAULT 'd{y}', p int REFERENCES parent)", x % 3),
        30 => format!("INSERT INTO extra{} (v, p) VALUES ('v{y}', NULL), (DEFAULT, {x})", x % 3),
        31 => format!("DROP TABLE extra{}", x % 3),
        32 => format!("ALTER TABLE extra{} ADD COLUMN u{y} uuid DEFAULT gen_random_uuid()", x % 3),
        33 => format!("ALTER TABLE extra{} ALTER COLUMN v TYPE varchar(20) USING v || '!'", x % 3),
        34 => "ALTER TABLE nokey ADD COLUMN id serial PRIMARY KEY".to_owned(),
        35 => format!("CREATE INDEX i{x} ON comp (r, lower(b))"),
        36 => format!("DROP INDEX i{x}"),
        37 => format!("ALTER TABLE extra{0} RENAME TO extra{1}", x % 3, (x + 1) % 3),
        38 => "ALTER TABLE child RENAME COLUMN f TO g".to_owned(),
        39 => format!("CREATE OR REPLACE VIEW totals AS SELECT p, sum(n) + {x} AS s FROM child GROUP BY p"),
        40 => format!("BEGIN; INSERT INTO parent (id, name) VALUES ({x}, 's{y}'); INSERT INTO child (p, n) VALUES ({x}, {y}); COMMIT"),
        41 => "DROP SEQUENCE numbers; CREATE SEQUENCE numbers START 5".to_owned(),
        42 => format!("ALTER TABLE child ADD COLUMN z{x} int GENERATED ALWAYS AS (n + {x}) STORED"),
        _ => format!("INSERT INTO parent (id, name) VALUES ({x}, 'ok'), ({x} + 1, 'ok')"),
    }
}

/// Around statements: transactions and savepoints, and what happens to the node.
#[derive(Debug, Clone)]
enum Event {
    Run(Step),
    Begin,
    Commit,
    Rollback,
    Savepoint(u8),
    RollbackTo(u8),
    Release(u8),
    /// The log refuses this statement's commit.
    Refused(Step),
    /// The state file as it is now is kept aside.
    Keep,
    /// The engine ends and opens again.
    Crash,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let step = || (0..FORMS, 0u8..12, 0u8..100);
    let event = prop_oneof![
        30 => step().prop_map(Event::Run),
        3 => Just(Event::Begin),
        3 => Just(Event::Commit),
        1 => Just(Event::Rollback),
        2 => (0u8..3).prop_map(Event::Savepoint),
        2 => (0u8..3).prop_map(Event::RollbackTo),
        1 => (0u8..3).prop_map(Event::Release),
        1 => step().prop_map(Event::Refused),
        1 => Just(Event::Keep),
        1 => Just(Event::Crash),
    ];
    prop::collection::vec(event, 20..90)
}

/// Runs what may fail, but only as statements fail.
pub async fn try_run(client: &mut Client, sql: &str) -> Result<(), TestCaseError> {
    if let Err(error) = client.run(sql).await {
        let is_wrong = matches!(
            error.code,
            ErrorCode::Internal | ErrorCode::Corrupted | ErrorCode::OutcomeUnknown
        );
        prop_assert!(!is_wrong, "{}: {:?}", sql, error);
    }
    Ok(())
}

async fn happen(events: Vec<Event>) -> Result<(), TestCaseError> {
    let mut node = Node::with(|config| config.capture_memory_bytes = 2000);
    let mut client = node.client().await;
    client.ok(TABLES).await;
    let kept = tempfile::tempdir().unwrap();
    let mut is_kept = false;
    for event in events {
        match event {
            Event::Run(step) => try_run(&mut client, &statement(step)).await?,
            Event::Begin => try_run(&mut client, "BEGIN").await?,
            Event::Commit => try_run(&mut client, "COMMIT").await?,
            Event::Rollback => try_run(&mut client, "ROLLBACK").await?,
            Event::Savepoint(n) => try_run(&mut client, &format!("SAVEPOINT s{n}")).await?,
            Event::RollbackTo(n) => try_run(&mut client, &format!("ROLLBACK TO s{n}")).await?,
            Event::Release(n) => try_run(&mut client, &format!("RELEASE s{n}")).await?,
            Event::Refused(step) => {
                node.log.refuse(true);
                try_run(&mut client, &statement(step)).await?;
                node.log.refuse(false);
            }
            Event::Keep => {
                keep(&node, kept.path());
                is_kept = true;
            }
            Event::Crash => {
                drop(client);
                node = node.reopen();
                client = node.client().await;
            }
        }
    }
    // What is open goes with its client.
    client.session.reset().await;
    drop(client);
    let state = node.state_file(TenantId::DEFAULT);
    let expected = dump(&state);
    let catalog = node.tenant().await.catalog();
    let schemas = schemas_of(&node).await;

    let node = node.try_reopen(remove_state).unwrap();
    prop_assert_eq!(
        dump(&node.state_file(TenantId::DEFAULT)),
        expected.clone(),
        "made from the log alone"
    );
    same_definitions(&node.tenant().await.catalog(), &catalog)?;
    prop_assert_eq!(schemas_of(&node).await, schemas.clone());

    if is_kept {
        let node = node
            .try_reopen(|config| {
                remove_state(config);
                copy_dir(
                    kept.path(),
                    &springhead_engine::state::tenant_dir(config, TenantId::DEFAULT),
                );
            })
            .unwrap();
        prop_assert_eq!(
            dump(&node.state_file(TenantId::DEFAULT)),
            expected,
            "caught up from an older copy"
        );
        same_definitions(&node.tenant().await.catalog(), &catalog)?;
        prop_assert_eq!(schemas_of(&node).await, schemas);
        // And it goes on.
        let mut client = node.client().await;
        try_run(&mut client, "INSERT INTO child (n) VALUES (1)").await?;
    }
    Ok(())
}

fn remove_state(config: &springhead_engine::EngineConfig) {
    std::fs::remove_dir_all(springhead_engine::state::tenant_dir(
        config,
        TenantId::DEFAULT,
    ))
    .unwrap();
}

fn keep(node: &Node, to: &Path) {
    copy_dir(node.state_file(TenantId::DEFAULT).parent().unwrap(), to);
}

/// Everything but the index of the WAL, which SQLite makes anew.
fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for old in std::fs::read_dir(to).unwrap() {
        std::fs::remove_file(old.unwrap().path()).unwrap();
    }
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_name().to_string_lossy().ends_with("-shm") {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// The same but for its number, which a restart may lower.
fn same_definitions(found: &Catalog, expected: &Catalog) -> Result<(), TestCaseError> {
    let sorted = |catalog: &Catalog| {
        let mut all: Vec<String> = catalog
            .tables
            .values()
            .map(|table| format!("{table:?}"))
            .collect();
        all.extend(
            catalog
                .sequences
                .values()
                .map(|sequence| format!("{sequence:?}")),
        );
        all.extend(catalog.views.values().map(|view| format!("{view:?}")));
        all.extend(
            catalog
                .relations
                .iter()
                .map(|relation| format!("{relation:?}")),
        );
        all.sort();
        (all, catalog.next_id)
    };
    prop_assert_eq!(sorted(found), sorted(expected));
    Ok(())
}

/// Every schema version that a row image in the log names, as the tenant knows it.
async fn schemas_of(node: &Node) -> Vec<String> {
    let tenant = node.tenant().await;
    let changes = crate::support::tail_from(&tenant, springhead_proto::Lsn::ZERO).await;
    let mut all: Vec<String> = changes
        .iter()
        .filter(|change| change.before.is_some() || change.after.is_some())
        .filter(|change| change.collection != springhead_proto::CollectionId::NONE)
        .filter(|change| change.kind != springhead_proto::ChangeKind::Definition)
        .map(|change| {
            let schema = tenant
                .schema(change.collection, change.schema_version)
                .expect("a row's schema is known");
            let row = change.after.as_ref().or(change.before.as_ref()).unwrap();
            assert_eq!(
                row.len(),
                schema.columns.len(),
                "a row has the columns of its schema version"
            );
            format!(
                "{} {:?}",
                schema.schema_version,
                Arc::clone(&schema).columns
            )
        })
        .collect();
    all.dedup();
    all
}

/// Few, for every run; `PROPTEST_CASES` asks for more.
pub fn cases() -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(48)
}

/// The property above says little if what is run mostly fails.
#[tokio::test]
async fn every_form_of_the_random_statements_can_succeed() {
    let mut never = Vec::new();
    for form in 0..FORMS {
        let node = Node::start();
        let mut client = node.client().await;
        client.ok(TABLES).await;
        client.ok("INSERT INTO parent (id, name) VALUES (5, 'five'); INSERT INTO child (p, n) VALUES (5, 1)").await;
        client
            .ok("CREATE TABLE extra2 (id bigserial PRIMARY KEY, v text DEFAULT 'd', p int)")
            .await;
        client.ok("ALTER TABLE nokey ADD COLUMN x5 int; CREATE INDEX i5 ON comp (r); INSERT INTO nokey VALUES ('r5')").await;
        client.ok("INSERT INTO extra2 DEFAULT VALUES").await;
        let mut succeeded = false;
        for x in [5, 8, 3] {
            succeeded |= client.run(&statement((form, x, 7))).await.is_ok();
            client.ok("ROLLBACK").await;
        }
        if !succeeded {
            never.push(statement((form, 5, 7)));
        }
    }
    // The last one is there to fail half-way.
    assert_eq!(never.len(), 1, "{never:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn g1_g12_the_state_is_what_the_log_adds_up_to(events in events()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(happen(events))?;
    }
}
