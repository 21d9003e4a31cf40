//! The run-books of docs/operations.md, run as they stand there.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod nodes;

use std::process::Command;

use nodes::{node, url};
use springhead_sim::book::commands;
use springhead_sim::fixture::Fixture;

const DOCUMENT: &str = include_str!("../../../docs/operations.md");

struct Books {
    primary: Fixture,
    standby: Fixture,
    witness: Fixture,
    /// Processes that a run-book has started, to be ended by their ids.
    started: Vec<rustix::process::Pid>,
}

impl Books {
    fn run(&mut self, heading: &str) -> String {
        let mut said = String::new();
        for block in commands(DOCUMENT, heading) {
            let serves = block.trim_end().ends_with('&');
            // Tells the id of what it leaves running.
            let script = if serves {
                format!(
                    "set -eu\n{} >\"$OUTPUT\" 2>&1 &\necho $!",
                    block.trim_end().trim_end_matches('&')
                )
            } else {
                format!("set -euo pipefail\n{block}")
            };
            let bin = self.primary.setup.binary.parent().unwrap().to_owned();
            let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
            let output = Command::new("bash")
                .arg("-c")
                .arg(&script)
                .env("PATH", path)
                .env("PRIMARY", url(&self.primary))
                .env("STANDBY", url(&self.standby))
                .env("PRIMARY_PG", self.primary.setup.pg.to_string())
                .env("STANDBY_PG", self.standby.setup.pg.to_string())
                .env("WITNESS", url(&self.witness))
                .env("PRIMARY_DATA", &self.primary.setup.data_dir)
                .env("STANDBY_DATA", &self.standby.setup.data_dir)
                .env("WITNESS_DATA", &self.witness.setup.data_dir)
                // Nobody waits for ten seconds here.
                .env("SPRINGHEAD_FAILOVER_TIMEOUT", "1500ms")
                .env("SPRINGHEAD_STANDBY_HEARTBEAT", "200ms")
                .env("SPRINGHEAD_STANDBY_TOKEN", nodes::TOKEN)
                .env("OUTPUT", &self.standby.setup.output)
                .output()
                .unwrap();
            let out = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                output.status.success(),
                "{heading}:\n{block}\n{out}{}",
                String::from_utf8_lossy(&output.stderr)
            );
            if serves {
                let pid = rustix::process::Pid::from_raw(out.trim().parse().unwrap()).unwrap();
                self.started.push(pid);
            }
            said.push_str(&out);
        }
        said
    }
}

impl Books {
    fn new() -> Books {
        Books {
            primary: node("primary", &[]),
            standby: node("standby", &[]),
            witness: Fixture::new(),
            started: Vec::new(),
        }
    }

    /// kill -9 of what was started at that place.
    fn kill_started(&mut self, place: usize) {
        let pid = self.started.remove(place);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }

    fn end_started(&mut self) {
        for pid in self.started.drain(..) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        // It is nobody's child here: gone when nobody answers.
        while std::net::TcpStream::connect(self.standby.setup.http).is_ok() {
            nodes::pause(2);
        }
    }
}

impl Drop for Books {
    fn drop(&mut self) {
        self.end_started();
    }
}

#[test]
fn the_run_books_for_standbys_work_as_written() {
    let mut books = Books::new();
    books.primary.start();
    books.primary.sql("CREATE TABLE t (id bigint PRIMARY KEY)");
    books.primary.sql("INSERT INTO t VALUES (1)");
    let said = books.run("Add a standby");
    assert!(said.contains("streaming"), "{said}");
    // A standby whose log is damaged does not start again, until it is replaced.
    books.end_started();
    let log = books.standby.setup.data_dir.join("log");
    let segment = std::fs::read_dir(&log).unwrap().flatten().find(|entry| {
        entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "seg")
    });
    std::fs::write(segment.unwrap().path(), b"damage").unwrap();
    books.run("Replace a damaged standby");
    let said = books.run("Switch over");
    assert!(said.contains("handed over"), "{said}");
    // And back, so that the next book finds the roles it names.
    let back = books
        .standby
        .post("/v1/standbys/switchover", &serde_json::json!({}));
    assert_eq!(back.status, 200, "{}", back.text());
    nodes::streams(&books.primary, "standby");
    books.primary.kill();
    let said = books.run("Fail over");
    assert!(said.contains("promoted: epoch"), "{said}");
    books.standby.sql("INSERT INTO t VALUES (2)");
}

#[test]
fn the_run_books_for_a_witness_work_as_written() {
    let mut books = Books::new();
    books.primary.start();
    books.primary.sql("CREATE TABLE t (id bigint PRIMARY KEY)");
    books.run("Add a standby");
    // Both are stopped, as the book says.
    books.end_started();
    books.primary.stop();
    let said = books.run("Add a witness");
    assert!(
        said.contains("by votes") && said.contains("streaming"),
        "{said}"
    );
    books.primary.sql("INSERT INTO t VALUES (1)");
    // The witness was started first, then the primary.
    books.kill_started(1);
    let said = books.run("Fail over automatically");
    assert!(said.contains("off"), "{said}");
    assert_eq!(nodes::one(&books.standby, "SELECT count(*) FROM t"), "1");
    books.standby.sql("INSERT INTO t VALUES (2)");
}
