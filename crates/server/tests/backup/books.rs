//! The run-books of docs/operations.md, executed as they are written.
//!
//! All commands under a heading are one script of `bash -euo pipefail` in an empty directory, where
//! `springhead` is the built program and its ports are free ones (by the environment). A test brings
//! about what the run-book is for, runs it, and looks at what came of it.

use std::path::Path;
use std::process::{Command, Output};

use rustix::process::{Pid, Signal, kill_process};
use springhead_sim::book::commands;
use springhead_sim::client::pg::PgClient;
use springhead_sim::fixture::Fixture;

const DOCUMENT: &str = include_str!("../../../../docs/operations.md");

/// The script of a run-book: its blocks, one after the other.
fn script(heading: &str) -> String {
    commands(DOCUMENT, heading).concat()
}

/// A place where run-books are executed: a directory with a server's data in it.
struct Place {
    fixture: Fixture,
}

impl Place {
    /// With a server that runs.
    fn new() -> Place {
        let mut fixture = Fixture::new();
        let setup = fixture.setup.clone();
        let setup = setup.with_env("SPRINGHEAD_SEGMENT_BYTES", "64KiB");
        fixture.setup = setup.with_env("SPRINGHEAD_RESERVE_BYTES", "0");
        fixture.setup.data_dir = fixture.directory.path().join("springhead-data");
        fixture.start();
        Place { fixture }
    }

    fn dir(&self) -> &Path {
        self.fixture.directory.path()
    }

    /// Executes a run-book; `variables` stand for what the reader must know.
    fn run(&self, name: &str, variables: &[(&str, &str)]) -> Output {
        let setup = &self.fixture.setup;
        let programs = setup.binary.parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        Command::new("bash")
            .args(["-euo", "pipefail", "-c", &script(name)])
            .current_dir(self.dir())
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("SPRINGHEAD_PG", setup.pg.to_string())
            .env("SPRINGHEAD_HTTP", setup.http.to_string())
            .env("SPRINGHEAD_SEGMENT_BYTES", "64KiB")
            .env("SPRINGHEAD_RESERVE_BYTES", "0")
            .env_remove("SPRINGHEAD_FAILPOINT")
            .envs(variables.iter().copied())
            .output()
            .unwrap()
    }

    #[track_caller]
    fn succeeds(&self, name: &str, variables: &[(&str, &str)]) -> String {
        let output = self.run(name, variables);
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        let log = std::fs::read_to_string(self.dir().join("springhead.log")).unwrap_or_default();
        assert!(
            output.status.success(),
            "{name}: {}\n{said}\n{log}",
            output.status
        );
        said
    }

    fn one(&self, sql: &str) -> String {
        let mut client = PgClient::connect(self.fixture.setup.pg, "postgres").unwrap();
        client.query(sql).unwrap().rows[0][0].clone().unwrap()
    }
}

/// Ends the server that a run-book has started, by the process id in its lock file.
impl Drop for Place {
    fn drop(&mut self) {
        let lock = std::fs::read_to_string(self.dir().join("springhead-data/LOCK"));
        let pid = lock.ok().and_then(|text| text.trim().parse().ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            // Our own server has ended before; one that is gone cannot be ended again.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

#[test]
fn run_book_back_up() {
    let place = Place::new();
    place.one("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); SELECT 1");
    let said = place.succeeds("Back up", &[]);
    assert!(said.contains("sound:"), "{said}");
    assert!(place.dir().join("backups/nightly/manifest.json").exists());
}

#[test]
fn run_book_restore_to_a_time() {
    let place = Place::new();
    place.one("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); SELECT 1");
    place.succeeds("Back up", &[]);
    place.one("INSERT INTO t VALUES (2), (3); SELECT 1");
    let when = place.one("SELECT to_char(now() AT TIME ZONE 'UTC' + interval '1 millisecond', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS') || 'Z'");
    // The harm is done in a later millisecond.
    let begun = std::time::Instant::now();
    while begun.elapsed().as_millis() < 10 {
        std::thread::yield_now();
    }
    place.one("DROP TABLE t; SELECT 1");
    place.succeeds("Restore to a time", &[("WHEN", &when)]);
    assert_eq!(place.one("SELECT count(*) FROM t"), "3");
    assert!(
        place
            .dir()
            .join("backups/after-restore/manifest.json")
            .exists()
    );
    assert!(place.dir().join("springhead-data.before/log").exists());
}

#[test]
fn run_book_recover_a_corrupt_node() {
    let mut place = Place::new();
    place.one("CREATE TABLE t (id int PRIMARY KEY, v text); SELECT 1");
    place.succeeds("Back up", &[]);
    for id in 0..50 {
        place.one(&format!(
            "INSERT INTO t VALUES ({id}, repeat('x', 2000)); SELECT 1"
        ));
    }
    place.fixture.stop();
    let state = place
        .dir()
        .join("springhead-data/tenants/0000000001/state.db");
    let mut bytes = std::fs::read(&state).unwrap();
    for at in (100..bytes.len()).step_by(1_000) {
        bytes[at] ^= 0x55;
    }
    std::fs::write(&state, bytes).unwrap();
    let refused = place
        .fixture
        .try_start()
        .expect_err("it is corrupt")
        .to_string();
    assert!(refused.contains("exit status: 5"), "{refused}");
    place.succeeds("Recover a corrupt node from a backup", &[]);
    assert_eq!(place.one("SELECT count(*) FROM t"), "50");
    assert!(
        place
            .dir()
            .join("backups/after-recovery/manifest.json")
            .exists()
    );
}
