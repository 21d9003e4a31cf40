//! The command line over TLS to both ports: whom it trusts, what it refuses and in which words.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use springhead_sim::fixture::Fixture;

const USERS: [&str; 4] = [
    "CREATE ROLE root SUPERUSER LOGIN PASSWORD 'rootpass'",
    "CREATE TABLE t (id int PRIMARY KEY)",
    "INSERT INTO t VALUES (1)",
    "CREATE TOKEN reader FOR root READ ONLY",
];

/// A node that takes nothing but TLS, with a certificate for `localhost` by an authority of the test's.
struct Secure {
    fixture: Fixture,
    place: tempfile::TempDir,
    token: String,
}

impl Secure {
    fn start() -> Secure {
        let place = tempfile::tempdir().unwrap();
        certificates(place.path());
        let mut fixture = Fixture::new();
        let file = |name: &str| place.path().join(name).display().to_string();
        let setup = fixture.setup.clone();
        fixture.setup = setup
            .with_env("SPRINGHEAD_TLS_CERTIFICATE", &file("server.crt"))
            .with_env("SPRINGHEAD_TLS_KEY", &file("server.key"))
            .with_env("SPRINGHEAD_TLS_REQUIRED", "on");
        fixture.start();
        let mut admin = fixture.pg();
        let mut token = String::new();
        for sql in USERS {
            let rows = admin.query(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
            if sql.starts_with("CREATE TOKEN") {
                token = rows.rows[0][1].clone().unwrap();
            }
        }
        Secure {
            fixture,
            place,
            token,
        }
    }

    fn ca(&self) -> PathBuf {
        self.place.path().join("ca.crt")
    }

    /// The program, with nothing of this process's environment that it would trust.
    fn command(&self, args: &[&str], url: &str, ca: Option<&Path>) -> Command {
        let mut command = Command::new(&self.fixture.setup.binary);
        command.args(args).args(["--url", url]).stdin(Stdio::null());
        if let Some(ca) = ca {
            command.arg("--tls-ca").arg(ca);
        }
        for name in [
            "SPRINGHEAD_TLS_CA",
            "PGSSLROOTCERT",
            "PGSSLMODE",
            "PGUSER",
            "SPRINGHEAD_TOKEN",
        ] {
            command.env_remove(name);
        }
        command.env("PGPASSWORD", "rootpass");
        command
    }

    fn sql(&self, host: &str, query: &str, ca: Option<&Path>) -> Output {
        let port = self.fixture.setup.pg.port();
        let url = format!("postgres://root@{host}:{port}/default{query}");
        let sql = "SELECT current_user, 40 + 2 AS answer";
        self.command(&["sql", sql, "--json"], &url, ca)
            .output()
            .unwrap()
    }

    fn https(&self) -> String {
        format!("https://localhost:{}", self.fixture.setup.http.port())
    }
}

/// Makes an authority and a certificate of its, as the tests of drivers do.
fn certificates(place: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients/certificates.sh");
    let made = Command::new("sh").arg(script).arg(place).status().unwrap();
    assert!(made.success(), "openssl is installed");
}

fn told(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    out + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn g6_sql_looks_at_the_server_as_far_as_it_is_told() {
    let secure = Secure::start();
    let ca = secure.ca();
    let own = secure.place.path().join("server.crt");
    for (host, query, ca) in [
        ("localhost", "?sslmode=verify-full", Some(ca.as_path())),
        ("localhost", "", Some(ca.as_path())),
        ("localhost", "", None),
        ("127.0.0.1", "?sslmode=require", None),
        ("127.0.0.1", "?sslmode=verify-ca", Some(ca.as_path())),
        ("localhost", "?sslmode=verify-full", Some(own.as_path())),
    ] {
        let out = secure.sql(host, query, ca);
        let what = format!("{host} {query} {ca:?}: {}", told(&out));
        assert!(out.status.success(), "{what}");
        assert!(
            told(&out).contains(r#"{"current_user":"root","answer":42}"#),
            "{what}"
        );
    }
    let another = tempfile::tempdir().unwrap();
    certificates(another.path());
    let other = another.path().join("ca.crt");
    let nothing = Path::new("/dev/null");
    let full = "?sslmode=verify-full";
    for (host, query, ca, code, words) in [
        (
            "127.0.0.1",
            full,
            Some(ca.as_path()),
            3,
            "not valid for name",
        ),
        ("127.0.0.1", "", Some(ca.as_path()), 3, "not valid for name"),
        (
            "127.0.0.1",
            full,
            Some(own.as_path()),
            3,
            "not valid for name",
        ),
        ("localhost", full, Some(other.as_path()), 3, "--tls-ca"),
        (
            "localhost",
            "?sslmode=require",
            Some(other.as_path()),
            3,
            "--tls-ca",
        ),
        ("localhost", full, Some(nothing), 2, "no certificate in it"),
        (
            "localhost",
            "?sslmode=disable",
            None,
            1,
            "without TLS are not accepted",
        ),
        ("localhost", "?sslmode=strict", None, 2, "verify-full"),
    ] {
        let out = secure.sql(host, query, ca);
        let what = format!("{host} {query} {ca:?}: {}", told(&out));
        assert_eq!(out.status.code(), Some(code), "{what}");
        assert!(told(&out).contains(words), "{what}");
    }
    let port = secure.fixture.setup.pg.port();
    let url = format!("postgres://root@localhost:{port}");
    let mut list = secure.command(&["user", "list", "--json"], &url, None);
    let list = list.env("SPRINGHEAD_TLS_CA", &ca).output().unwrap();
    assert!(told(&list).contains(r#""name":"root""#), "{}", told(&list));
    let wrong = secure
        .command(&["tenant", "list"], &url, Some(&ca))
        .env("PGPASSWORD", "wrong")
        .output()
        .unwrap();
    assert!(
        told(&wrong).contains("password authentication failed"),
        "{}",
        told(&wrong)
    );
}

#[test]
fn g6_status_tail_and_live_go_over_https() {
    let secure = Secure::start();
    let ca = secure.ca();
    let url = secure.https();
    let status = secure
        .command(&["status", "--json"], &url, Some(&ca))
        .env("SPRINGHEAD_TOKEN", &secure.token)
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", told(&status));
    let nobody = secure
        .command(&["status"], &url, Some(&ca))
        .output()
        .unwrap();
    assert!(told(&nobody).contains("401"), "{}", told(&nobody));
    let stranger = url.replace("localhost", "127.0.0.1");
    let stranger = secure
        .command(&["status"], &stranger, Some(&ca))
        .output()
        .unwrap();
    assert_eq!(stranger.status.code(), Some(3));
    assert!(
        told(&stranger).contains("not valid for name"),
        "{}",
        told(&stranger)
    );
    let untrusted = secure.command(&["status"], &url, None).output().unwrap();
    assert!(
        told(&untrusted).contains("--tls-ca"),
        "{}",
        told(&untrusted)
    );
    for (args, expected) in [
        (
            ["tail", "t", "--json", "--since", "0"].as_slice(),
            r#""after":{"id":1}"#,
        ),
        (&["live", "SELECT id FROM t", "--json"], r#""rows":[[1]]"#),
    ] {
        let mut child = secure
            .command(args, &url, Some(&ca))
            .env("SPRINGHEAD_TOKEN", &secure.token)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let found = lines.any(|line| line.unwrap().contains(expected));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found, "{args:?}");
    }
}
