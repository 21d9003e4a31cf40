//! Any text is split, lifted and planned, or refused; a filter too. Nothing panics, and whatever
//! plans as a template takes as many parameters as it has literals.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use springhead_sql::catalog::{QualifiedName, Table};
use springhead_sql::lift::{self, Lifted};
use springhead_sql::planner::{self, PlanContext};
use springhead_sql::{Catalog, PlanKind, filter, split};

static CATALOG: LazyLock<Arc<Catalog>> = LazyLock::new(|| {
    let mut catalog = Arc::new(Catalog::bootstrap());
    for sql in [
        "CREATE TABLE t (a INT PRIMARY KEY, b TEXT, c NUMERIC(8,2), d TIMESTAMP, e JSONB, f INT[])",
        "CREATE TABLE u (a SERIAL, b VARCHAR(3) UNIQUE, c BOOLEAN DEFAULT true)",
        "CREATE VIEW v AS SELECT t.a, u.b FROM t JOIN u USING (a)",
    ] {
        let plan = planner::plan(&catalog, sql, &[], &PlanContext::default()).expect("it plans");
        if let PlanKind::Ddl(ddl) = plan.kind {
            catalog = ddl.catalog.clone();
        }
    }
    catalog
});

fuzz_target!(|text: &str| {
    let context = PlanContext {
        max_statement_bytes: 64 << 10,
        ..PlanContext::default()
    };
    let mut lifted = Lifted::default();
    for statement in split::statements(text).flatten() {
        if lift::lift(statement, &mut lifted)
            && let Some(plan) = planner::plan_template(&CATALOG, &lifted, &[], &context)
        {
            assert_eq!(
                plan.parameters.len(),
                lifted.parameters + lifted.literals.len()
            );
        }
        let _ = planner::plan(&CATALOG, statement, &[], &context);
    }
    let table: &Arc<Table> = CATALOG
        .table_named(&QualifiedName::public("t"))
        .expect("made above");
    let _ = filter::plan_filter(table, text);
});
