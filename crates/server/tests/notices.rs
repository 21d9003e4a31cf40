//! What RAISE tells a client, by psql's own account: levels, SQLSTATEs and fields are PostgreSQL 15's.

mod side_by_side;

use side_by_side::psql;
use springhead_sim::fixture::Fixture;
use springhead_sim::postgres::Postgres;

const SCRIPT: [&str; 6] = [
    "CREATE FUNCTION loud() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
       RAISE DEBUG 'd'; RAISE LOG 'l'; RAISE INFO 'i'; RAISE NOTICE 'n % %%', 1; RAISE WARNING 'w';
       RAISE WARNING 'own' USING ERRCODE = 'U0001', DETAIL = 'dd', HINT = 'hh', COLUMN = 'cc', CONSTRAINT = 'kk';
       RAISE NOTICE division_by_zero;
     END $$",
    "SELECT loud()",
    "SET client_min_messages = warning",
    "SELECT loud()",
    "SET client_min_messages = error",
    "SELECT loud()",
];

/// What psql says of the script on its standard error, but for where in PostgreSQL it comes from.
fn told(port: u16) -> Vec<String> {
    let mut args = vec!["-q", "-v", "VERBOSITY=verbose"];
    for sql in SCRIPT {
        args.extend(["-c", sql]);
    }
    let done = psql(port, "postgres", &args);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{said}");
    let lines = said.lines();
    lines
        .filter(|line| !line.starts_with("CONTEXT:") && !line.starts_with("LOCATION:"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn g8_notices_are_told_as_postgresql_tells_them() {
    let fixture = Fixture::started();
    let ours = told(fixture.setup.pg.port());
    assert!(
        ours.contains(&"WARNING:  U0001: own".to_owned()),
        "{ours:?}"
    );
    if let Some(postgres) = Postgres::start() {
        assert_eq!(ours, told(postgres.ports.pg.port()));
    }
}
