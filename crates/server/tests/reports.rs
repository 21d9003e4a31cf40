//! Reports over a real database: the same rows, column names and types as PostgreSQL 15 gives (G8).
//!
//! `reports/chinook.sql` holds the queries. Those under `-- refused:` are what Springhead does not do
//! yet: PostgreSQL answers them, Springhead says 0A000 and never another answer.

mod side_by_side;

use side_by_side::{connect, load, script};
use springhead_sim::client::pg::{PgClient, PgError, PgResult};
use springhead_sim::fixture::Fixture;
use springhead_sim::postgres::Postgres;

const REPORTS: &str = include_str!("reports/chinook.sql");

struct Report<'r> {
    name: &'r str,
    sql: &'r str,
    refused: bool,
}

fn reports() -> Vec<Report<'static>> {
    let mut reports = Vec::new();
    for part in REPORTS.split("\n-- ").skip(1) {
        let (kind, rest) = part.split_once(": ").expect("a kind and a name");
        let (name, sql) = rest.split_once('\n').expect("a name on its line");
        let refused = match kind {
            "name" => false,
            "refused" => true,
            other => panic!("a report of the kind {other}"),
        };
        let sql = sql.trim().trim_end_matches(';');
        reports.push(Report { name, sql, refused });
    }
    reports
}

/// In a transaction of its own, which is rolled back: some reports write.
fn run(client: &mut PgClient, sql: &str) -> Result<PgResult, PgError> {
    client.query("BEGIN").expect("a transaction begins");
    let result = client.query(sql);
    client.query("ROLLBACK").expect("a transaction ends");
    result
}

#[test]
fn g8_reports_give_the_rows_and_types_that_postgresql_gives() {
    let Some(script) = script() else { return };
    let Some(postgres) = Postgres::start() else {
        return;
    };
    load(postgres.ports.pg.port(), &script);
    let fixture = Fixture::started();
    load(fixture.setup.pg.port(), &script);
    let mut theirs = connect(&postgres, "chinook_serial");
    let mut ours = fixture.pg_to("chinook_serial");
    let reports = reports();
    let answered = reports.iter().filter(|report| !report.refused).count();
    assert!(answered >= 40, "only {answered} reports are answered");
    let mut wrong = Vec::new();
    for report in &reports {
        let wanted = run(&mut theirs, report.sql).expect(report.name);
        match run(&mut ours, report.sql) {
            Err(error) if report.refused && error.code() == Some("0A000") => {}
            Err(error) => wrong.push(format!("{}: {error}", report.name)),
            Ok(_) if report.refused => wrong.push(format!("{}: answered now", report.name)),
            Ok(result) => wrong.extend(difference(report.name, &result, &wanted)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn difference(name: &str, ours: &PgResult, theirs: &PgResult) -> Option<String> {
    if ours.columns != theirs.columns || ours.types != theirs.types {
        return Some(format!(
            "{name}: columns {:?} {:?}, PostgreSQL has {:?} {:?}",
            ours.columns, ours.types, theirs.columns, theirs.types
        ));
    }
    assert!(
        !theirs.rows.is_empty(),
        "{name}: a report without rows proves nothing"
    );
    if ours.rows.len() != theirs.rows.len() {
        return Some(format!(
            "{name}: {} rows, PostgreSQL has {}",
            ours.rows.len(),
            theirs.rows.len()
        ));
    }
    let mut rows = ours.rows.iter().zip(&theirs.rows);
    let (ours, theirs) = rows.find(|(ours, theirs)| ours != theirs)?;
    Some(format!("{name}: {ours:?}, PostgreSQL has {theirs:?}"))
}
