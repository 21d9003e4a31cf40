//! What commands did, for programs: a JSON object with `--json`.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use springhead_sim::fixture::Fixture;

/// Runs a command with `--json`; what it printed.
fn springhead(fixture: &Fixture, user: (&str, &str), args: &[&str]) -> Value {
    let url = format!("postgres://127.0.0.1:{}", fixture.setup.pg.port());
    let mut child = Command::new(&fixture.setup.binary)
        .args(args)
        .args(["--json", "--url", &url])
        .env("PGUSER", user.0)
        .env("PGPASSWORD", user.1)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut input = child.stdin.take().expect("its input");
    // A command that asks for nothing may have ended.
    let _ = input.write_all(b"a password\n");
    drop(input);
    let ended = child.wait_with_output().expect("it ends");
    let told = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{args:?}: {told}");
    serde_json::from_slice(&ended.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

#[test]
fn commands_that_change_something_say_so_in_json() {
    let fixture = Fixture::started();
    let done = |user, args: &[&str], command: &str| {
        let told = springhead(&fixture, user, args);
        assert_eq!(told, json!({ "command": command }), "{args:?}");
    };
    let anyone = ("postgres", "");
    done(anyone, &["tenant", "create", "shop"], "CREATE DATABASE");
    done(anyone, &["tenant", "drop", "shop"], "DROP DATABASE");
    done(
        anyone,
        &["user", "create", "root", "--superuser"],
        "CREATE ROLE",
    );
    let root = ("root", "a password");
    done(root, &["user", "create", "ann"], "CREATE ROLE");
    done(root, &["user", "password", "ann"], "ALTER ROLE");
    let token = springhead(&fixture, root, &["token", "create", "ci", "--role", "ann"]);
    let id = token["id"].as_str().expect("an id");
    done(root, &["token", "revoke", id], "DROP TOKEN");
    done(root, &["user", "drop", "ann"], "DROP ROLE");
}
