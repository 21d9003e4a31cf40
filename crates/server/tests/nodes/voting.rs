//! Nodes that vote, and their witness.

use std::time::Duration;

use serde_json::{Value, json};
use springhead_sim::fixture::Fixture;

use super::{TOKEN, eventually, node, status};

/// How long a primary may be unheard, in tests: short, and long enough for a busy machine.
pub const TIMEOUT: Duration = Duration::from_millis(1500);

/// A started witness.
pub fn witness() -> Fixture {
    let mut witness = Fixture::new();
    witness.setup.command = "witness";
    let timeout = format!("{}ms", TIMEOUT.as_millis());
    for arg in ["--standby-token", TOKEN, "--failover-timeout", &timeout] {
        witness.setup.args.push(arg.to_owned());
    }
    witness.start();
    witness
}

/// A node of that name, one of `names`, that has not been started.
pub fn voter(name: &str, names: &[&str], witness: &str, args: &[&str]) -> Fixture {
    let (names, timeout) = (names.join(","), format!("{}ms", TIMEOUT.as_millis()));
    let mut voter = node(
        name,
        &[
            "--witness",
            witness,
            "--failover-nodes",
            &names,
            "--failover-timeout",
            &timeout,
        ],
    );
    let args = args.iter().map(|arg| (*arg).to_owned());
    voter.setup.args.extend(args);
    voter
}

/// What a node says of votes.
pub fn failover(node: &Fixture) -> Value {
    status(node)["replication"]["failover"].clone()
}

/// Whether the node takes writes, and nobody else can have been elected.
pub fn leads(node: &Fixture) -> bool {
    let status = status(node);
    status["role"] == "primary" && status["replication"]["failover"]["state"] == "leads"
}

/// Who leads, as far as the node knows.
#[track_caller]
pub fn leader(node: &Fixture) -> String {
    eventually("somebody leads", || {
        failover(node)["leader"].as_str().map(str::to_owned)
    })
}

#[track_caller]
pub fn wait_for_leader(node: &Fixture) {
    eventually(&format!("it leads, {}", node.setup.printed()), || {
        leads(node).then_some(())
    });
}

pub fn is_in_sync(primary: &Fixture, name: &str) -> bool {
    let in_sync = failover(primary)["in_sync"].clone();
    in_sync
        .as_array()
        .is_some_and(|names| names.contains(&json!(name)))
}

/// Waits until exactly these are in sync, on the witness too.
#[track_caller]
pub fn wait_in_sync(primary: &Fixture, names: &[&str]) {
    eventually(
        &format!("{names:?} are in sync, {}", primary.setup.printed()),
        || {
            let failover = failover(primary);
            let is_so = failover["in_sync"] == json!(names)
                && failover["witness"]["in_sync"] == json!(names)
                && failover["state"] == "leads";
            is_so.then_some(())
        },
    );
}

/// What was promised, and who is in sync, by the witness.
pub fn votes(node: &Fixture) -> Value {
    let witness = failover(node)["witness"].clone();
    json!({
        "promised": witness["promised"],
        "voted_for": witness["voted_for"],
        "in_sync": witness["in_sync"],
    })
}
