//! The real server and the command line: backups under load, restores served again, archives.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use springhead_sim::client::http::encode;
use springhead_sim::fixture::Fixture;
use springhead_sim::process::Setup;

/// The command line of springhead, with small segments.
pub fn springhead(setup: &Setup, args: &[&str]) -> Command {
    let mut command = Command::new(&setup.binary);
    command
        .args(args)
        .env_remove("SPRINGHEAD_FAILPOINT")
        .env("SPRINGHEAD_SEGMENT_BYTES", "64KiB")
        .env("SPRINGHEAD_RESERVE_BYTES", "0");
    command
}

#[track_caller]
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

pub fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

pub fn url(fixture: &Fixture) -> String {
    format!("http://{}", fixture.setup.http)
}

/// A fixture with small segments.
pub fn small() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.setup = fixture
        .setup
        .clone()
        .with_env("SPRINGHEAD_SEGMENT_BYTES", "64KiB")
        .with_env("SPRINGHEAD_LARGE_COMMIT_BYTES", "16KiB")
        .with_env("SPRINGHEAD_RESERVE_BYTES", "0");
    fixture
}

/// Another server, on the data directory that a restore has made.
pub fn serve_restored(data_dir: &Path) -> Fixture {
    let mut fixture = small();
    fixture.setup.data_dir = data_dir.to_owned();
    fixture.start();
    fixture
}

fn count(fixture: &Fixture) -> u64 {
    let rows = fixture.sql("SELECT count(*) FROM t");
    rows[0][0].as_ref().unwrap().parse().unwrap()
}

#[test]
fn g1_g5_a_server_is_backed_up_under_load_and_restored_to_an_lsn() {
    let mut fixture = small();
    fixture.start();
    fixture.sql("CREATE TABLE t (id serial PRIMARY KEY, note text)");
    fixture.sql("CREATE DATABASE shop");
    fixture
        .pg_to("shop")
        .query("CREATE TABLE s (id int PRIMARY KEY); INSERT INTO s VALUES (1)")
        .unwrap();
    let dir = fixture.directory.path().to_owned();
    let backup = dir.join("backup");
    let stop = AtomicBool::new(false);
    let insert = "INSERT INTO t (note) VALUES (repeat('x', 300)), ('y')";
    let (made, written) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut client = fixture.pg();
            let mut written = 0_u64;
            while !stop.load(Ordering::Relaxed) || written < 400 {
                client.query(insert).unwrap();
                written += 2;
            }
            written
        });
        let args = [
            "backup",
            backup.to_str().unwrap(),
            "--verify",
            "--json",
            "--url",
            &url(&fixture),
        ];
        let output = succeed(&mut springhead(&fixture.setup, &args));
        stop.store(true, Ordering::Relaxed);
        (json_of(&output), writer.join().unwrap())
    });
    assert_eq!(count(&fixture), written);
    let poll = fixture.get("/cdc/t/poll?since_lsn=1&limit=10000").json();
    let changes = poll["changes"].as_array().unwrap().clone();
    let epoch = fixture.get("/v1/status").json()["epoch"]
        .as_str()
        .unwrap()
        .to_owned();
    fixture.stop();
    // To the middle of what came after the backup.
    let end = made["end_lsn"].as_u64().unwrap();
    let inserts = changes
        .iter()
        .filter(|change| change["operation"] == "INSERT");
    let lsns: Vec<u64> = inserts
        .map(|change| change["lsn"].as_u64().unwrap())
        .collect();
    let target = lsns
        .iter()
        .copied()
        .filter(|lsn| *lsn > end)
        .nth(31)
        .unwrap_or(end);
    let restored_to = dir.join("restored");
    let old_log = fixture.setup.data_dir.join("log");
    let output = succeed(&mut springhead(
        &fixture.setup,
        &[
            "restore",
            backup.to_str().unwrap(),
            "--data-dir",
            restored_to.to_str().unwrap(),
            "--archive",
            old_log.to_str().unwrap(),
            "--to-lsn",
            &target.to_string(),
            "--json",
        ],
    ));
    let restored = json_of(&output);
    assert_eq!(restored["from_epoch"], epoch.as_str());
    let fork = restored["fork_lsn"].as_u64().unwrap();
    assert!(fork <= target && fork + 2 > target, "{restored}");
    let again = serve_restored(&restored_to);
    let expected = lsns.iter().filter(|lsn| **lsn <= fork).count() as u64;
    assert_eq!(count(&again), expected);
    assert_eq!(
        again
            .pg_to("shop")
            .query("SELECT count(*) FROM s")
            .unwrap()
            .rows[0][0]
            .as_deref(),
        Some("1")
    );
    // A cursor before the fork is good, one past it is told where the histories parted.
    let at = |lsn: u64| {
        let cursor = format!("{lsn}@{epoch}");
        again.get(&format!("/cdc/t/poll?cursor={}&limit=10", encode(&cursor)))
    };
    assert_eq!(at(fork).status, 200, "{}", at(fork).text());
    let refused = at(fork + 1);
    assert!((400..500).contains(&refused.status), "{}", refused.text());
    assert_eq!(
        refused.json()["error"]["fork_lsn"],
        fork,
        "{}",
        refused.text()
    );
    again.sql("INSERT INTO t (note) VALUES ('after')");
    assert_eq!(count(&again), expected + 1);
}

#[test]
fn g12_damage_ends_verify_and_restore_with_5_and_the_files_name() {
    let mut fixture = small();
    fixture.start();
    fixture.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    fixture.stop();
    let dir = fixture.directory.path().to_owned();
    let (backup, data_dir) = (dir.join("backup"), fixture.setup.data_dir.clone());
    let (backup_text, data_text) = (backup.to_str().unwrap(), data_dir.to_str().unwrap());
    // Of a data directory that nobody serves.
    let args = ["backup", backup_text, "--data-dir", data_text, "--json"];
    let made = json_of(&succeed(&mut springhead(&fixture.setup, &args)));
    assert_eq!(made["tenants"].as_array().unwrap().len(), 2);
    succeed(&mut springhead(
        &fixture.setup,
        &["backup", "verify", backup_text, "--restore"],
    ));
    let again = springhead(&fixture.setup, &args).output().unwrap();
    assert_eq!(
        again.status.code(),
        Some(1),
        "one backup is not written over another"
    );
    let path = backup.join("tenants/0000000001/state.db");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[9_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let restored = dir.join("restored");
    for args in [
        vec!["backup", "verify", backup_text],
        vec![
            "restore",
            backup_text,
            "--data-dir",
            restored.to_str().unwrap(),
        ],
    ] {
        let output = springhead(&fixture.setup, &args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{said}");
        assert!(said.contains("tenants/0000000001/state.db"), "{said}");
    }
    // A running server's directory is not taken.
    fixture.start();
    let busy = dir.join("busy");
    let args = ["backup", busy.to_str().unwrap(), "--data-dir", data_text];
    let output = springhead(&fixture.setup, &args).output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(4),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn g6_only_superusers_take_backups() {
    let mut fixture = small();
    fixture.start();
    let mut admin = fixture.pg();
    for sql in [
        "CREATE ROLE root SUPERUSER LOGIN PASSWORD 'rootpass'",
        "CREATE USER ann PASSWORD 'annpass'",
    ] {
        admin.query(sql).unwrap();
    }
    assert_eq!(fixture.get("/v1/backup").status, 401);
    let basic = |name: &str| {
        use base64::Engine as _;
        let text = format!("{name}:{name}pass");
        format!(
            "Basic {}",
            base64::engine::general_purpose::STANDARD.encode(text)
        )
    };
    for (name, status) in [("ann", 403), ("root", 200)] {
        let answer = springhead_sim::client::http::request(
            fixture.setup.http,
            "GET",
            "/v1/backup",
            &[("authorization", &basic(name))],
            b"",
        )
        .unwrap();
        assert_eq!(answer.status, status, "{name}");
    }
}

/// Waits until `condition` holds, for a minute at most.
#[track_caller]
fn until(fixture: &mut Fixture, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(60), "in vain");
        // Returns early if the server ends.
        fixture.server().wait_end(Duration::from_millis(50));
    }
}

#[test]
fn g1_an_archive_restores_what_came_after_the_backup_without_the_node() {
    for by_command in [false, true] {
        let mut fixture = small();
        let dir = fixture.directory.path().to_owned();
        let archive = dir.join("archive");
        let archive_text = archive.to_str().unwrap().to_owned();
        let setup = fixture
            .setup
            .clone()
            .with_env("SPRINGHEAD_ARCHIVE_TIMEOUT", "1s");
        fixture.setup = if by_command {
            let command =
                format!("mkdir -p \"$(dirname {archive_text}/%f)\" && cp %p {archive_text}/%f");
            setup.with_env("SPRINGHEAD_ARCHIVE_COMMAND", &command)
        } else {
            setup.with_env("SPRINGHEAD_ARCHIVE_DIR", &archive_text)
        };
        fixture.start();
        fixture.sql("CREATE TABLE t (id serial PRIMARY KEY, note text)");
        let backup = dir.join("backup");
        let args = ["backup", backup.to_str().unwrap(), "--url", &url(&fixture)];
        succeed(&mut springhead(&fixture.setup, &args));
        for _ in 0..300 {
            fixture.sql("INSERT INTO t (note) VALUES (repeat('x', 1000))");
        }
        let durable = fixture.get("/v1/status").json()["durable_lsn"]
            .as_u64()
            .unwrap();
        let address = fixture.setup.http;
        until(&mut fixture, || {
            let status = springhead_sim::client::http::get(address, "/v1/status")
                .unwrap()
                .json();
            status["archive"]["lsn"].as_u64() >= Some(durable)
        });
        fixture.kill();
        std::fs::remove_dir_all(&fixture.setup.data_dir).unwrap();
        let restored = dir.join("restored");
        succeed(&mut springhead(
            &fixture.setup,
            &[
                "restore",
                backup.to_str().unwrap(),
                "--data-dir",
                restored.to_str().unwrap(),
                "--archive",
                &archive_text,
            ],
        ));
        let again = serve_restored(&restored);
        assert_eq!(count(&again), 300);
    }
}
