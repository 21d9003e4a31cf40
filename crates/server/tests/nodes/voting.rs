//! Nodes that vote, and their witness.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use springhead_sim::fixture::Fixture;

use super::proxy::{Direction, Proxy};
use super::{PATIENCE, TOKEN, eventually, node, pause, status};

/// How long a primary may be unheard, in tests: short, and long enough for a busy machine.
pub const TIMEOUT: Duration = Duration::from_millis(1500);

/// A started witness.
pub fn witness() -> Fixture {
    let mut witness = new_witness();
    witness.start();
    witness
}

/// A witness that has not been started.
pub fn new_witness() -> Fixture {
    let mut witness = Fixture::new();
    witness.setup.command = "witness";
    let timeout = format!("{}ms", TIMEOUT.as_millis());
    for arg in ["--standby-token", TOKEN, "--failover-timeout", &timeout] {
        witness.setup.args.push(arg.to_owned());
    }
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

/// What one node says to another, whoever has connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    AToB,
    BToA,
    AToWitness,
    WitnessToA,
    BToWitness,
    WitnessToB,
}

pub const LINKS: [Link; 6] = [
    Link::AToB,
    Link::BToA,
    Link::AToWitness,
    Link::WitnessToA,
    Link::BToWitness,
    Link::WitnessToB,
];

/// How a link fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// What is said is lost.
    Lost,
    /// What is said comes late, once the link is back.
    Late,
}

/// A primary a, a standby b in sync, and their witness, each of which reaches each other through a network
/// of the test's.
pub struct Mesh {
    pub witness: Fixture,
    pub a: Fixture,
    pub b: Fixture,
    to_a: Proxy,
    to_b: Proxy,
    a_to_witness: Proxy,
    b_to_witness: Proxy,
}

impl Mesh {
    /// With an empty table t.
    pub fn new() -> Mesh {
        let witness = witness();
        let names = ["a", "b"];
        let through = |proxy: &Proxy| format!("http://{}", proxy.address);
        let (a_to_witness, b_to_witness) =
            (Proxy::to(witness.setup.http), Proxy::to(witness.setup.http));
        let mut a = voter("a", &names, &through(&a_to_witness), &[]);
        let mut b = voter("b", &names, &through(&b_to_witness), &[]);
        let (to_a, to_b) = (Proxy::to(a.setup.http), Proxy::to(b.setup.http));
        for (node, other) in [(&mut a, &to_a), (&mut b, &to_b)] {
            let args = ["--advertise".to_owned(), through(other)];
            node.setup.args.extend(args);
        }
        let follow = ["--standby-of".to_owned(), through(&to_a)];
        b.setup.args.extend(follow);
        a.start();
        a.sql("CREATE TABLE t (id bigint PRIMARY KEY, v text)");
        b.start();
        wait_in_sync(&a, &names);
        Mesh {
            witness,
            a,
            b,
            to_a,
            to_b,
            a_to_witness,
            b_to_witness,
        }
    }

    /// The directions of connections that the link consists of.
    fn directions(&self, link: Link) -> Vec<&Direction> {
        let [to_a, to_b] = [&self.to_a.network, &self.to_b.network];
        let [a, b] = [&self.a_to_witness.network, &self.b_to_witness.network];
        match link {
            Link::AToB => vec![&to_b.there, &to_a.back],
            Link::BToA => vec![&to_a.there, &to_b.back],
            Link::AToWitness => vec![&a.there],
            Link::WitnessToA => vec![&a.back],
            Link::BToWitness => vec![&b.there],
            Link::WitnessToB => vec![&b.back],
        }
    }

    pub fn silence(&self, link: Link, silence: Silence) {
        for direction in self.directions(link) {
            let switch = match silence {
                Silence::Lost => &direction.swallow,
                Silence::Late => &direction.hold,
            };
            switch.store(true, Ordering::Release);
        }
    }

    /// The link carries everything again; a connection that has lost something finds out by itself.
    pub fn restore(&self, link: Link) {
        for direction in self.directions(link) {
            direction.swallow.store(false, Ordering::Release);
            direction.hold.store(false, Ordering::Release);
        }
    }

    /// Every link carries everything again; no connection goes on that may have lost something.
    pub fn heal(&self) {
        for link in LINKS {
            self.restore(link);
        }
        for proxy in [
            &self.to_a,
            &self.to_b,
            &self.a_to_witness,
            &self.b_to_witness,
        ] {
            proxy.cut();
        }
    }

    /// Waits until one leads and both are in sync, by the witness too; which one leads.
    #[track_caller]
    pub fn wait_until_quiet(&self) -> (&Fixture, &Fixture) {
        let names = json!(["a", "b"]);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            for (leader, other) in [(&self.a, &self.b), (&self.b, &self.a)] {
                let failover = failover(leader);
                let is_so = failover["in_sync"] == names
                    && failover["witness"]["in_sync"] == names
                    && failover["state"] == "leads";
                if is_so && !leads(other) {
                    return (leader, other);
                }
            }
            pause(5);
        }
        let told = [&self.a, &self.b].map(|node| {
            let status = status(node)["replication"].clone();
            format!("{}\n{status:#}", node.setup.printed())
        });
        panic!("they do not become quiet: {}", told.join("\n\n"));
    }

    /// How many ballots there have been: each is one node's to lead with, at most.
    #[track_caller]
    pub fn ballots(&self) -> u64 {
        eventually("the witness says what it has promised", || {
            status(&self.witness)["promised"].as_u64()
        })
    }
}

/// A directory's file that sets a process's wall clock ([`springhead_log::failpoint`]).
pub struct WallClock(std::path::PathBuf);

impl WallClock {
    /// Of a node that has not been started.
    pub fn of(node: &mut Fixture) -> WallClock {
        let file = node.directory.path().join("clock-shift");
        let setup = node.setup.clone();
        node.setup = setup.with_env("SPRINGHEAD_CLOCK_SHIFT", &file.display().to_string());
        WallClock(file)
    }

    /// Sets it so many days ahead of the machine's, or behind.
    pub fn set_days(&self, days: i64) {
        let new = self.0.with_extension("new");
        std::fs::write(&new, (days * 86_400_000).to_string()).unwrap();
        std::fs::rename(&new, &self.0).unwrap();
    }
}
