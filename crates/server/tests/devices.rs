//! Devices as processes, with a real server: what they write arrives once, also when the device is
//! killed at any point of push, verdict, apply or acknowledge (`SPRINGHEAD_SYNC_ROUNDS` repeats it).

#![cfg(feature = "failpoints")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use springhead_sim::fixture::Fixture;
use tempfile::TempDir;

const SCHEMA: &[&str] = &[
    "CREATE TABLE todos (id int PRIMARY KEY, title text UNIQUE, done boolean NOT NULL DEFAULT false)",
    "CREATE TABLE tally (id int PRIMARY KEY, times int NOT NULL)",
    "CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS \
     'BEGIN INSERT INTO tally VALUES (NEW.id, 1) ON CONFLICT (id) \
      DO UPDATE SET times = tally.times + 1; RETURN NEW; END'",
    "CREATE TRIGGER counted AFTER INSERT ON todos FOR EACH ROW EXECUTE FUNCTION count_it()",
    "INSERT INTO todos VALUES (1, 'milk', false)",
];

struct Phone {
    dir: TempDir,
    binary: std::path::PathBuf,
    url: String,
}

impl Phone {
    fn new(fixture: &Fixture) -> Phone {
        let phone = Phone {
            dir: tempfile::tempdir().expect("a temporary directory"),
            binary: fixture.setup.binary.clone(),
            url: format!("ws://{}/sync", fixture.setup.http),
        };
        phone.must(&["subscribe", "1", "todos"]);
        phone.sync();
        phone
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn run(&self, args: &[&str], failpoint: Option<&str>) -> Output {
        let mut command = Command::new(&self.binary);
        let (name, rest) = args.split_first().expect("a command");
        command.args(["device", name]).args(["--json", "--dir"]);
        command.arg(self.path()).args(rest).stdin(Stdio::null());
        if let Some(failpoint) = failpoint {
            command.env("SPRINGHEAD_FAILPOINT", failpoint);
        }
        command.output().expect("the program starts")
    }

    fn must(&self, args: &[&str]) -> Value {
        let output = self.run(args, None);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {error}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    fn sync(&self) -> Value {
        self.must(&["sync", "--url", &self.url])
    }

    fn rows(&self, sql: &str) -> Value {
        self.must(&["sql", sql])["rows"].take()
    }
}

fn served() -> Fixture {
    let fixture = Fixture::started();
    for sql in SCHEMA {
        fixture.sql(sql);
    }
    fixture
}

fn server_rows(fixture: &Fixture, sql: &str) -> Vec<String> {
    let rows = fixture.sql(sql);
    rows.into_iter()
        .map(|row| {
            let texts: Vec<String> = row.into_iter().map(Option::unwrap_or_default).collect();
            texts.join("|")
        })
        .collect()
}

#[test]
fn g9_two_devices_meet_over_a_real_server_from_the_shell() {
    let fixture = served();
    let (one, two) = (Phone::new(&fixture), Phone::new(&fixture));
    assert_eq!(
        one.rows("SELECT title FROM todos"),
        serde_json::json!([["milk"]])
    );
    one.must(&["sql", "INSERT INTO todos VALUES (10, 'jam', false)"]);
    two.must(&["sql", "INSERT INTO todos VALUES (20, 'jam', false)"]);
    two.must(&["sql", "UPDATE todos SET done = true WHERE id = 1"]);
    one.sync();
    let status = two.sync();
    assert_eq!(
        (&status["pending"], &status["rejections"]),
        (&0.into(), &1.into())
    );
    let rejected = two.must(&["rejections"]);
    assert_eq!(rejected["rows"][0][1], "unique:title=jam");
    let id = rejected["rows"][0][0].to_string();
    two.must(&["rejections", "--fix", &id]);
    assert_eq!(two.sync()["rejections"], 0);
    one.sync();
    let all = "SELECT id, title, done FROM todos ORDER BY id";
    assert_eq!(
        server_rows(&fixture, all),
        ["1|milk|t", "10|jam|f", "20|jam (2)|f"]
    );
    assert_eq!(one.rows(all), two.rows(all));
    assert_eq!(
        one.rows("SELECT count(*) FROM todos"),
        serde_json::json!([[3]])
    );
}

/// The places on a device's way, the passes of each that are tried, and whether it is the statement
/// or the exchange that is killed.
const POINTS: &[(&str, &[u64], bool)] = &[
    ("device.before_queue", &[1], true),
    ("writer.before_append", &[1], true),
    ("writer.after_append", &[1], true),
    ("device.before_push", &[1], false),
    ("device.after_push", &[1], false),
    ("device.before_news", &[1, 2, 3], false),
    ("device.before_replay", &[1, 2], false),
    ("device.after_news", &[1, 2, 3], false),
    ("writer.before_append", &[1, 2, 3], false),
    ("writer.after_append", &[1, 2, 3], false),
    ("writer.before_commit", &[1, 2], false),
    ("writer.after_commit", &[1, 2], false),
    ("device.before_acknowledge", &[1, 2, 3], false),
];

#[test]
fn g9_a_device_killed_anywhere_loses_nothing_and_does_nothing_twice() {
    let fixture = served();
    let phone = Phone::new(&fixture);
    let (mut id, mut killed, mut lost) = (100, 0, 0);
    let rounds = std::env::var("SPRINGHEAD_SYNC_ROUNDS").ok();
    let rounds = rounds.and_then(|text| text.parse().ok()).unwrap_or(1);
    for (point, passes, in_statement) in (0..rounds).flat_map(|_| POINTS) {
        for pass in *passes {
            id += 2;
            let failpoint = format!("{point}:{pass}");
            let good = format!("INSERT INTO todos VALUES ({id}, 'todo {id}', false)");

            fixture.sql(&format!(
                "INSERT INTO todos VALUES ({}, 'todo {}', false)",
                id + 5000,
                id + 5000
            ));
            if *in_statement {
                let output = phone.run(&["sql", &good], Some(&failpoint));
                killed += u32::from(!output.status.success());
                // Not acknowledged: it may be there or not, and never in part.
                let here = phone.rows(&format!("SELECT count(*) FROM todos WHERE id = {id}"));
                let queued = phone.rows("SELECT count(*) FROM springhead.device_pending");
                assert_eq!(here, queued, "{failpoint}");
                if here == serde_json::json!([[0]]) {
                    lost += 1;
                    phone.must(&["sql", &good]);
                }
            } else {
                phone.must(&["sql", &good]);
                phone.must(&[
                    "sql",
                    &format!("UPDATE todos SET done = true WHERE id = {id}"),
                ]);
                // One that another device has been faster with: the server rejects it.
                let rejected = "INSERT INTO todos VALUES ($1, $2, false)";
                let title = format!("\"todo {}\"", id + 5000);
                phone.must(&["sql", rejected, &(id + 1).to_string(), &title]);
                let output = phone.run(&["sync", "--url", &phone.url], Some(&failpoint));
                killed += u32::from(!output.status.success());
            }

            let status = phone.sync();
            assert_eq!(status["pending"], 0, "{failpoint}");
            let tally = server_rows(
                &fixture,
                &format!("SELECT times FROM tally WHERE id = {id}"),
            );
            assert_eq!(tally, ["1"], "{failpoint}: applied exactly once");
            let rejections = phone.rows("SELECT id, violation FROM springhead.device_rejections");
            let rejections = rejections.as_array().expect("rows").clone();
            assert_eq!(rejections.len(), usize::from(!*in_statement), "{failpoint}");
            for rejection in rejections {
                assert_eq!(rejection[1], format!("unique:title=todo {}", id + 5000));
                phone.must(&["rejections", "--acknowledge", &rejection[0].to_string()]);
            }
        }
    }
    println!("{killed} kills, {lost} statements that had not got into the log");
    assert!(killed >= 12, "only {killed} of the runs were killed");
    let all = "SELECT id, title, done FROM todos ORDER BY id";
    let on_phone: Vec<String> = phone
        .rows(all)
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| {
            let done = if row[2] == true { "t" } else { "f" };
            format!("{}|{}|{done}", row[0], row[1].as_str().expect("a title"))
        })
        .collect();
    assert_eq!(on_phone, server_rows(&fixture, all));
}
