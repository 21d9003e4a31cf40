//! pgbench as PostgreSQL ships it: what somebody who has a new database in front of them runs first.
//! Its own tables by its own way of filling them, then its own scripts in every mode of the protocol,
//! and the books must balance.

use std::path::Path;
use std::process::Command;

use springhead_sim::fixture::Fixture;

const CLIENTS: usize = 4;
const TRANSACTIONS: usize = 25;

/// Runs pgbench to its end; what it printed.
#[track_caller]
fn pgbench(fixture: &Fixture, args: &[&str]) -> String {
    let address = fixture.setup.pg;
    let done = Command::new("/usr/lib/postgresql/15/bin/pgbench")
        .args(["-h", "127.0.0.1", "-p", &address.port().to_string()])
        .args(args)
        .arg("postgres")
        .output()
        .expect("pgbench runs");
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(done.status.success(), "pgbench {args:?}: {said}");
    said
}

fn one(fixture: &Fixture, sql: &str) -> i64 {
    let rows = fixture.sql(sql);
    let value = rows[0][0].as_deref().expect("a value");
    value.parse().expect("a number")
}

#[test]
fn g3_pgbench_fills_its_tables_and_its_books_balance_in_every_mode() {
    if !Path::new("/usr/lib/postgresql/15/bin/pgbench").is_file() {
        println!("skipped: PostgreSQL 15 is not installed; cargo xtask test does it");
        return;
    }
    let fixture = Fixture::started();
    // Drop, create, generate on either side, vacuum, primary and foreign keys.
    pgbench(&fixture, &["-i", "-s", "1", "-I", "dtgvpf"]);
    pgbench(&fixture, &["-i", "-s", "1", "-I", "dtGvpf"]);
    assert_eq!(
        one(&fixture, "SELECT count(*) FROM pgbench_accounts"),
        100_000
    );
    let (clients, transactions) = (CLIENTS.to_string(), TRANSACTIONS.to_string());
    let load = ["-c", &clients, "-j", "2", "-t", &transactions];
    let mut runs = 0;
    for mode in ["simple", "extended", "prepared"] {
        // "tpcb-like" writes four tables in one transaction, "simple-update" two, "select-only" none.
        for script in ["tpcb-like", "simple-update", "select-only"] {
            let said = pgbench(
                &fixture,
                &[&load[..], &["-n", "-M", mode, "-b", script]].concat(),
            );
            let all = CLIENTS * TRANSACTIONS;
            assert!(
                said.contains(&format!("actually processed: {all}/{all}")),
                "{said}"
            );
            runs += usize::from(script != "select-only");
        }
    }
    // With VACUUM and TRUNCATE before, as it runs without -n; that empties the history.
    let deltas = one(&fixture, "SELECT sum(delta) FROM pgbench_history");
    let count = one(&fixture, "SELECT count(*) FROM pgbench_history");
    assert_eq!(
        usize::try_from(count).expect("a count"),
        runs * CLIENTS * TRANSACTIONS
    );
    assert_eq!(
        one(&fixture, "SELECT sum(abalance) FROM pgbench_accounts"),
        deltas
    );
    let [branches, tellers] = [
        one(&fixture, "SELECT sum(bbalance) FROM pgbench_branches"),
        one(&fixture, "SELECT sum(tbalance) FROM pgbench_tellers"),
    ];
    assert_eq!(branches, tellers, "written by the same transactions");
    pgbench(&fixture, &load);
    assert_eq!(
        one(&fixture, "SELECT count(*) FROM pgbench_history"),
        i64::try_from(CLIENTS * TRANSACTIONS).expect("few")
    );
}
