//! kill -9 at every step of a backup and of a restore: what is left is never taken for whole, and the
//! next try succeeds.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use springhead_sim::fixture::Fixture;

use super::server::{json_of, serve_restored, small, springhead, succeed, url};

fn loaded() -> Fixture {
    let mut fixture = small();
    fixture.start();
    fixture.sql("CREATE TABLE t (id serial PRIMARY KEY, note text)");
    fixture.sql("CREATE DATABASE shop");
    for _ in 0..40 {
        fixture.sql("INSERT INTO t (note) VALUES (repeat('x', 5000))");
    }
    fixture
}

fn files_in(dir: &Path) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

#[test]
fn g12_a_backup_that_is_killed_is_no_backup_and_is_made_anew() {
    let fixture = loaded();
    let backup = fixture.directory.path().join("backup");
    let text = backup.to_str().unwrap();
    let args = ["backup", text, "--url", &url(&fixture)];
    for (point, pass) in [
        ("backup.data_written", 1),
        ("backup.data_written", 3),
        ("backup.data_written", 6),
        ("backup.before_manifest", 1),
    ] {
        let mut command = springhead(&fixture.setup, &args);
        command.env("SPRINGHEAD_FAILPOINT", format!("{point}:{pass}"));
        let output = command.output().unwrap();
        assert_eq!(
            output.status.signal(),
            Some(9),
            "{point}:{pass} was never passed"
        );
        assert!(files_in(&backup) > 0);
        let verified = springhead(&fixture.setup, &["backup", "verify", text])
            .output()
            .unwrap();
        assert_eq!(verified.status.code(), Some(5), "{point}:{pass}");
        let into = fixture.directory.path().join("restored");
        let args = ["restore", text, "--data-dir", into.to_str().unwrap()];
        let restored = springhead(&fixture.setup, &args).output().unwrap();
        assert_eq!(restored.status.code(), Some(5), "{point}:{pass}");
    }
    // Behind the manifest it is whole.
    let mut command = springhead(&fixture.setup, &args);
    command.env("SPRINGHEAD_FAILPOINT", "backup.manifest_written:1");
    assert_eq!(command.output().unwrap().status.signal(), Some(9));
    succeed(&mut springhead(
        &fixture.setup,
        &["backup", "verify", text, "--restore"],
    ));
}

#[test]
fn g12_a_server_that_is_killed_leaves_no_whole_backup() {
    for point in [
        "backup.state_copied:1",
        "backup.state_copied:3",
        "backup.segment_sent:1",
    ] {
        let mut fixture = loaded();
        fixture.stop();
        let (name, pass) = point.split_once(':').unwrap();
        let armed = fixture
            .setup
            .clone()
            .with_failpoint(name, pass.parse().unwrap());
        fixture.start_as(&armed).unwrap();
        let backup = fixture.directory.path().join("backup");
        let text = backup.to_str().unwrap();
        let args = ["backup", text, "--url", &url(&fixture)];
        let output = springhead(&fixture.setup, &args).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(3),
            "{point}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let verified = springhead(&fixture.setup, &["backup", "verify", text])
            .output()
            .unwrap();
        assert_ne!(verified.status.code(), Some(0), "{point}");
        fixture.start();
        let tmp = fixture.setup.data_dir.join("tmp");
        assert_eq!(files_in(&tmp), 0, "what it left is gone");
        succeed(&mut springhead(&fixture.setup, &args));
    }
}

#[test]
fn g12_a_restore_that_is_killed_is_not_served_and_is_made_anew() {
    let fixture = loaded();
    let dir = fixture.directory.path();
    let (backup, restored) = (dir.join("backup"), dir.join("restored"));
    let (backup, into) = (backup.to_str().unwrap(), restored.to_str().unwrap());
    succeed(&mut springhead(
        &fixture.setup,
        &["backup", backup, "--url", &url(&fixture)],
    ));
    let args = ["restore", backup, "--data-dir", into, "--json"];
    for point in [
        "restore.states_copied:1",
        "restore.frame_followed:5",
        "restore.log_restored:1",
        "log.epoch_stored:1",
        "restore.replayed:1",
    ] {
        let mut command = springhead(&fixture.setup, &args);
        command.env("SPRINGHEAD_FAILPOINT", point);
        assert_eq!(
            command.output().unwrap().status.signal(),
            Some(9),
            "{point} was never passed"
        );
        let mut server = small();
        server.setup.data_dir = restored.clone();
        let refused = server.try_start().expect_err("it is not whole").to_string();
        assert!(refused.contains("being restored"), "{point}: {refused}");
    }
    let told = json_of(&succeed(&mut springhead(&fixture.setup, &args)));
    let again = serve_restored(&restored);
    let rows = again.sql("SELECT count(*) FROM t");
    assert_eq!(rows[0][0].as_deref(), Some("40"), "{told}");
}
