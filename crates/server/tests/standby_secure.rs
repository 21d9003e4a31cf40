//! Nodes with users: TLS between them, both sides prove the token, and who may do what follows the
//! log.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod nodes;

use std::path::Path;
use std::process::Command;

use nodes::voting::{failover, voter, wait_for_leader};
use nodes::{eventually, node};
use serde_json::Value;
use springhead_sim::client::http;
use springhead_sim::fixture::Fixture;

/// root:rootpass and ann:annpass.
const ROOT: (&str, &str) = ("authorization", "Basic cm9vdDpyb290cGFzcw==");
const ANN: (&str, &str) = ("authorization", "Basic YW5uOmFubnBhc3M=");

fn certificates(place: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients/certificates.sh");
    let made = Command::new("sh").arg(script).arg(place).status().unwrap();
    assert!(made.success(), "openssl is installed");
}

fn ask(node: &Fixture, who: (&str, &str), sql: &str) -> http::Response {
    let body = serde_json::json!({ "sql": sql }).to_string();
    let headers = [("content-type", "application/json"), who];
    http::request(
        node.setup.http,
        "POST",
        "/v1/sql",
        &headers,
        body.as_bytes(),
    )
    .unwrap()
}

fn status(node: &Fixture) -> Value {
    http::request(node.setup.http, "GET", "/v1/status", &[ROOT], b"")
        .map_or(Value::Null, |answer| answer.json())
}

fn standby(primary: &Fixture, name: &str, args: &[&str]) -> Fixture {
    let mut node = node(name, args);
    node.setup.args.push("--standby-of".to_owned());
    let port = primary.setup.http.port();
    node.setup.args.push(format!("https://localhost:{port}"));
    node
}

#[test]
fn g6_nodes_prove_themselves_over_tls_and_rights_follow_the_log() {
    let place = tempfile::tempdir().unwrap();
    certificates(place.path());
    let path = |name: &str| place.path().join(name).display().to_string();
    let (certificate, key, ca) = (path("server.crt"), path("server.key"), path("ca.crt"));
    let tls = ["--tls-certificate", &certificate, "--tls-key", &key];
    let mut primary = node("a", &tls);
    primary.start();
    // The last thing that anyone does without a password.
    primary.sql("CREATE ROLE root SUPERUSER LOGIN PASSWORD 'rootpass'");
    let made = ask(&primary, ROOT, "CREATE ROLE ann LOGIN PASSWORD 'annpass'");
    assert_eq!(made.status, 200, "{}", made.text());
    assert_eq!(
        ask(&primary, ROOT, "CREATE TABLE t (id integer PRIMARY KEY)").status,
        200
    );
    assert_eq!(ask(&primary, ROOT, "INSERT INTO t VALUES (1)").status, 200);

    // Without the token, or without trust in the certificate, nothing comes about.
    let with_ca = ["--standby-ca", ca.as_str()];
    let mut stranger = standby(&primary, "x", &with_ca);
    let token = stranger
        .setup
        .args
        .iter()
        .position(|arg| arg == nodes::TOKEN)
        .unwrap();
    stranger.setup.args[token] = "another".to_owned();
    let mut trusting_nobody = standby(&primary, "y", &[]);
    for (node, what) in [
        (&mut stranger, "standby_token"),
        (&mut trusting_nobody, "certificate"),
    ] {
        let mut server = springhead_sim::process::Server::spawn(&node.setup).unwrap();
        eventually(&format!("it says {what}"), || {
            node.setup.printed().contains(what).then_some(())
        });
        assert!(!node.setup.data_dir.join("tenants").exists());
        assert!(server.stop().is_some());
    }

    let mut good = standby(&primary, "b", &with_ca);
    good.start();
    eventually("ann may log in there", || {
        (ask(&good, ROOT, "SELECT id FROM t").status == 200).then_some(())
    });
    assert_eq!(ask(&good, ANN, "SELECT id FROM t").status, 403);
    assert_eq!(ask(&primary, ROOT, "GRANT SELECT ON t TO ann").status, 200);
    eventually("her grant follows", || {
        (ask(&good, ANN, "SELECT id FROM t").status == 200).then_some(())
    });
    assert_eq!(
        ask(&primary, ROOT, "REVOKE SELECT ON t FROM ann").status,
        200
    );
    eventually("so does its end", || {
        (ask(&good, ANN, "SELECT id FROM t").status == 403).then_some(())
    });
    assert_eq!(ask(&primary, ROOT, "ALTER ROLE ann NOLOGIN").status, 200);
    eventually("and that she may not log in", || {
        (ask(&good, ANN, "SELECT 1").status == 401).then_some(())
    });
    // Only a superuser administers nodes; what is said of them is not for everyone.
    let headers = [("content-type", "application/json"), ANN];
    let answer = http::request(good.setup.http, "POST", "/v1/promote", &headers, b"{}").unwrap();
    assert_eq!(answer.status, 401);
    let answer =
        http::request(good.setup.http, "POST", "/v1/promote", &[headers[0]], b"{}").unwrap();
    assert_eq!(answer.status, 401);
    assert_eq!(status(&good)["role"], "standby");
    let headers = [("content-type", "application/json"), ROOT];
    let answer = http::request(good.setup.http, "POST", "/v1/promote", &headers, b"{}").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(status(&good)["role"], "primary");
    assert_eq!(ask(&good, ROOT, "INSERT INTO t VALUES (2)").status, 200);
}

#[test]
fn g6_a_witness_proves_itself_over_tls_and_tells_nothing_to_strangers() {
    let place = tempfile::tempdir().unwrap();
    certificates(place.path());
    let path = |name: &str| place.path().join(name).display().to_string();
    let mut witness = Fixture::new();
    witness.setup.command = "witness";
    for arg in [
        "--standby-token",
        nodes::TOKEN,
        "--tls-certificate",
        &path("server.crt"),
        "--tls-key",
        &path("server.key"),
    ] {
        witness.setup.args.push(arg.to_owned());
    }
    // It speaks TLS alone: that it is ready is seen by who leads.
    let _serving = springhead_sim::process::Server::spawn(&witness.setup).unwrap();
    let address = format!("https://localhost:{}", witness.setup.http.port());
    let names = ["a", "b"];
    let ca = path("ca.crt");
    let mut a = voter("a", &names, &address, &["--standby-ca", &ca]);
    a.start();
    wait_for_leader(&a);
    // Whoever does not trust its certificate asks nothing of it.
    let mut doubter = voter("a", &names, &address, &[]);
    doubter.start();
    eventually("it says why", || {
        let problem = failover(&doubter)["witness"]["problem"].clone();
        problem.as_str()?.contains("certificate").then_some(())
    });
    // Without the token no witness listens to the world.
    let mut open = Fixture::new();
    open.setup.command = "witness";
    open.setup.http.set_ip([0, 0, 0, 0].into());
    let refused = open.try_start().unwrap_err().to_string();
    assert!(refused.contains("standby_token"), "{refused}");
}
