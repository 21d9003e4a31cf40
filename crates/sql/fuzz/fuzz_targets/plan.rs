//! Any text is split, lifted, planned and run, or refused; a filter too. Nothing panics, what is
//! planned SQLite takes, its values have their types' storage forms, and whatever plans as a template
//! takes as many parameters as it has literals.
//!
//! What runs is bounded by SQLite's steps, and leaves no trace, so that every input meets the same
//! database.

#![no_main]

use std::cell::RefCell;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use rusqlite::limits::Limit;
use springhead_sql::catalog::{Catalog, QualifiedName, Table};
use springhead_sql::lift::{self, Lifted};
use springhead_sql::planner::{self, PlanContext};
use springhead_sql::{PlanKind, filter, split};

#[path = "../../tests/support/mod.rs"]
mod support;

use support::Db;

/// How often SQLite asks whether to go on, in steps, and how often it may.
const STEPS: i32 = 1_000;
const ASKED: u32 = 20;

thread_local! {
    static DB: RefCell<Db> = RefCell::new(database());
}

fn database() -> Db {
    let mut db = Db::new();
    db.script(
        "CREATE TABLE t (a INT PRIMARY KEY, b TEXT, c NUMERIC(8,2), d TIMESTAMP, e JSONB, f INT[]);
         CREATE TABLE u (a SERIAL, b VARCHAR(3) UNIQUE, c BOOLEAN DEFAULT true, d DATE, g BYTEA, h FLOAT8, i INTERVAL, j UUID, k TIMESTAMPTZ);
         CREATE VIEW v AS SELECT t.a, u.b FROM t JOIN u USING (a);
         INSERT INTO t VALUES (1, 'one', 1.5, '2024-02-29 12:34:56.789', '{\"k\": [1, null, {\"x\": \"y\"}]}', '{1,2,NULL}'), (2, NULL, NULL, NULL, NULL, NULL), (-7, 'Ä%_', -999999.99, 'infinity', '\"s\"', '{}');
         INSERT INTO u (b, c, d, g, h, i, j, k) VALUES ('abc', NULL, '0044-03-15 BC', '\\xdeadbeef', '1.5', '1 mon -2 days 03:04:05', '6f1ed002-ab5f-4df9-9b3c-0c0d0e0f1011', '-infinity'), ('', false, 'infinity', '', '-0', NULL, NULL, '2024-02-29 12:34:56+02');",
    );
    db.context.max_statement_bytes = 64 << 10;
    db.conn
        .set_limit(Limit::SQLITE_LIMIT_LENGTH, 4 << 20)
        .expect("a limit");
    db
}

/// Runs what reads or writes rows, and takes it back.
fn run(db: &mut Db, plan: &springhead_sql::Plan, params: &[springhead_proto::Value]) {
    if !matches!(plan.kind, PlanKind::Query(_) | PlanKind::Write(_)) {
        return;
    }
    let mut asked = 0;
    db.conn
        .progress_handler(
            STEPS,
            Some(move || {
                asked += 1;
                asked > ASKED
            }),
        )
        .expect("it is set");
    let catalog = db.catalog.clone();
    db.conn
        .execute_batch("SAVEPOINT whole")
        .expect("a savepoint");
    let _ = db.execute(plan, params);
    db.conn
        .progress_handler(0, None::<fn() -> bool>)
        .expect("it is unset");
    if db.conn.is_autocommit() {
        return;
    }
    db.conn
        .execute_batch("ROLLBACK TO whole; RELEASE whole")
        .expect("back");
    db.catalog = catalog;
}

fn try_statement(db: &mut Db, statement: &str, lifted: &mut Lifted) {
    let catalog: Arc<Catalog> = db.catalog.clone();
    let context: PlanContext = db.context.clone();
    if lift::lift(statement, lifted)
        && let Some(plan) = planner::plan_template(&catalog, lifted, &[], &context)
    {
        assert_eq!(
            plan.parameters.len(),
            lifted.parameters + lifted.literals.len()
        );
        if lifted.parameters == 0 {
            let texts: Vec<Option<&str>> = lifted.texts().map(Some).collect();
            if let Ok(values) = support::bind(&plan.parameters, &texts) {
                run(db, &plan, &values);
            }
        }
    }
    if let Ok(plan) = planner::plan(&catalog, statement, &[], &context) {
        let nulls = vec![springhead_proto::Value::Null; plan.parameters.len()];
        run(db, &plan, &nulls);
    }
}

fuzz_target!(|text: &str| {
    DB.with_borrow_mut(|db| {
        let mut lifted = Lifted::default();
        for statement in split::statements(text).flatten() {
            try_statement(db, statement, &mut lifted);
        }
        let table: &Arc<Table> = db
            .catalog
            .table_named(&QualifiedName::public("t"))
            .expect("made above");
        if let Ok(planned) = filter::plan_filter(table, text) {
            db.conn
                .prepare(&planned.sql)
                .expect("SQLite takes a planned filter");
        }
        let _ = filter::plan_filter_on_table(table, text);
    });
});
