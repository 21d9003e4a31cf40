//! Links that fail one way, both ways, and again and again, between nodes that vote: a primary that is heard
//! and does not hear, one that hears and is not heard, whatever is lost or comes late. Real processes (G11).
//!
//! Clients that look for the primary themselves commit at `on`, and on each node one commits at `local`,
//! which only the lease stands behind. At most one primary acknowledges: who acknowledges changes no more
//! often than a ballot is begun. Nothing that was acknowledged at `on` is lost, nothing is read twice, and
//! once the links are back the nodes become quiet.
//!
//! `SPRINGHEAD_PARTITION_ROUNDS` adds so many random ways to fail, `SPRINGHEAD_PARTITION_SEED` says which.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod nodes;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nodes::load::{Load, nothing_lost};
use nodes::voting::{LINKS, Link, Mesh, Silence, TIMEOUT, failover, leads, wait_in_sync};
use nodes::{caught_up, eventually, pause, same_rows};
use springhead_sim::client::pg::PgClient;
use springhead_sim::fixture::Fixture;
use springhead_sim::rng::Rng;

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Who was told on which node that a commit at `local` is safe, in the order in which they were told.
#[derive(Default)]
struct Acknowledged(Mutex<Vec<(Instant, char)>>);

impl Acknowledged {
    /// How often another node acknowledges than before.
    fn changes(&self) -> u64 {
        let mut all = self.0.lock().unwrap().clone();
        all.sort();
        let changes = all.windows(2).filter(|pair| pair[0].1 != pair[1].1);
        changes.count() as u64
    }
}

/// A client of one node, whatever it is, that commits at `local`.
fn commit_locally(
    node: &Fixture,
    name: char,
    stop: &Arc<AtomicBool>,
    acknowledged: &Arc<Acknowledged>,
) -> std::thread::JoinHandle<()> {
    let (address, stop, acknowledged) = (node.setup.pg, Arc::clone(stop), Arc::clone(acknowledged));
    std::thread::spawn(move || {
        let mut id = i64::from(u32::from(name)) * 10_000_000;
        while !stop.load(Ordering::Acquire) {
            let Ok(mut client) = PgClient::connect(address, "postgres") else {
                pause(5);
                continue;
            };
            let mut sql = "SET synchronous_commit = local".to_owned();
            while !stop.load(Ordering::Acquire) && client.query(&sql).is_ok() {
                if sql.starts_with("INSERT") {
                    let told = (Instant::now(), name);
                    acknowledged.0.lock().unwrap().push(told);
                }
                id += 1;
                sql = format!("INSERT INTO l VALUES ({id})");
                pause(1);
            }
            pause(5);
        }
    })
}

/// A way to fail.
#[derive(Debug, Clone)]
struct Failure {
    links: Vec<Link>,
    silence: Silence,
    /// Every so often the links are back for as long; `None`: they stay as they are.
    flap: Option<Duration>,
    length: Duration,
}

impl Failure {
    fn steady(links: &[Link]) -> Failure {
        Failure {
            links: links.to_vec(),
            silence: Silence::Lost,
            flap: None,
            length: TIMEOUT * 2,
        }
    }

    fn random(random: &mut Rng) -> Failure {
        let mut links: Vec<Link> = LINKS.into_iter().filter(|_| random.chance(40)).collect();
        if links.is_empty() {
            links.push(LINKS[usize::try_from(random.below(6)).unwrap()]);
        }
        Failure {
            links,
            silence: if random.chance(50) {
                Silence::Lost
            } else {
                Silence::Late
            },
            flap: random
                .chance(40)
                .then(|| Duration::from_millis(20 + random.below(900))),
            length: Duration::from_millis(300 + random.below(4_500)),
        }
    }

    /// The same with the nodes' parts exchanged.
    fn mirrored(&self) -> Failure {
        let links = self.links.iter().map(|link| match link {
            Link::AToB => Link::BToA,
            Link::BToA => Link::AToB,
            Link::AToWitness => Link::BToWitness,
            Link::WitnessToA => Link::WitnessToB,
            Link::BToWitness => Link::AToWitness,
            Link::WitnessToB => Link::WitnessToA,
        });
        Failure {
            links: links.collect(),
            ..self.clone()
        }
    }

    fn happen(&self, mesh: &Mesh) {
        let end = Instant::now() + self.length;
        let mut is_silent = false;
        while Instant::now() < end {
            is_silent = !is_silent;
            for link in &self.links {
                if is_silent {
                    mesh.silence(*link, self.silence);
                } else {
                    mesh.restore(*link);
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            let wait = self.flap.unwrap_or(left).min(left);
            pause(u64::try_from(wait.as_millis()).unwrap());
        }
        mesh.heal();
    }
}

/// The ways that the suite tries, with a as the primary: each that is not the mirror of another.
fn known() -> Vec<Failure> {
    use Link::{AToB, AToWitness, BToA, BToWitness, WitnessToA, WitnessToB};
    let flapping = |links: &[Link], silence| Failure {
        silence,
        flap: Some(Duration::from_millis(300)),
        ..Failure::steady(links)
    };
    vec![
        // The primary is not heard by its standby, or does not hear it: the witness holds it.
        Failure::steady(&[AToB]),
        Failure::steady(&[BToA]),
        // It is not heard by the witness: its standby holds it.
        Failure::steady(&[AToWitness]),
        // Mute, then deaf: the other takes over.
        Failure::steady(&[AToB, AToWitness]),
        Failure::steady(&[BToA, WitnessToA]),
        // Both hear each other, and nobody the witness.
        Failure::steady(&[WitnessToA, WitnessToB, AToWitness, BToWitness]),
        flapping(&[AToB, AToWitness], Silence::Lost),
        flapping(&LINKS, Silence::Late),
    ]
}

#[test]
fn g11_whatever_link_fails_one_primary_acknowledges_and_nothing_is_lost() {
    let mesh = Mesh::new();
    mesh.a.sql("CREATE TABLE l (id bigint PRIMARY KEY)");
    let ballots_first = mesh.ballots();
    let (stop, acknowledged) = (Arc::default(), Arc::<Acknowledged>::default());
    let local = [(&mesh.a, 'a'), (&mesh.b, 'b')];
    let local = local.map(|(node, name)| commit_locally(node, name, &stop, &acknowledged));
    let load = Load::that_finds_the_primary(&[&mesh.a, &mesh.b], 3);
    let rounds = number("SPRINGHEAD_PARTITION_ROUNDS", 0);
    let mut random = Rng::new(number("SPRINGHEAD_PARTITION_SEED", 1));
    let mut failures = known();
    failures.extend((0..rounds).map(|_| Failure::random(&mut random)));
    let mut slowest = Duration::ZERO;
    for (round, failure) in failures.iter().enumerate() {
        let (before, begun) = (load.count(), mesh.ballots());
        eventually("some commits", || {
            (load.count() > before + 20).then_some(())
        });
        let failure = if leads(&mesh.b) {
            failure.mirrored()
        } else {
            failure.clone()
        };
        failure.happen(&mesh);
        let healed = Instant::now();
        mesh.wait_until_quiet();
        let before = load.count();
        eventually("commits go on", || (load.count() > before).then_some(()));
        slowest = slowest.max(healed.elapsed());
        let ballots = mesh.ballots() - begun;
        println!(
            "{round}: {failure:?}: {ballots} ballots, quiet after {:?}",
            healed.elapsed()
        );
        // One at each time-out, and one for whoever campaigned in vain, at most.
        let time_outs = failure.length.as_millis() / TIMEOUT.as_millis() + 1;
        assert!(
            u128::from(ballots) <= 2 * time_outs + 2,
            "{failure:?}: {ballots} ballots"
        );
    }
    load.wait_until_read();
    stop.store(true, Ordering::Release);
    for thread in local {
        thread.join().unwrap();
    }
    let (leader, other) = mesh.wait_until_quiet();
    let (told, seen) = load.stop();
    nothing_lost(leader, &told, &seen);
    caught_up(leader, other);
    same_rows(leader, other, "t");
    same_rows(leader, other, "l");
    let (changes, ballots) = (acknowledged.changes(), mesh.ballots() - ballots_first);
    assert!(
        changes <= ballots,
        "another node acknowledged {changes} times than before, with {ballots} ballots"
    );
    println!(
        "{} ways, {} commits acknowledged, 0 lost, {} at local, {changes} changes of who acknowledges, {ballots} ballots, quiet after {slowest:?} at most",
        failures.len(),
        told.len(),
        acknowledged.0.lock().unwrap().len(),
    );
}

/// A standby that the primary cannot reach is lost to it, and does not campaign while the witness hears the
/// primary: nobody is deposed, and commits go on.
#[test]
fn g11_a_standby_that_hears_nothing_deposes_nobody_whom_the_witness_hears() {
    let mesh = Mesh::new();
    let begun_with = mesh.ballots();
    mesh.silence(Link::AToB, Silence::Lost);
    let begun = Instant::now();
    // It waits for b until the witness has in writing that b is not in sync any more.
    mesh.a.sql("INSERT INTO t VALUES (1, 'alone')");
    wait_in_sync(&mesh.a, &["a"]);
    eventually("b has missed its primary for long", || {
        (begun.elapsed() > TIMEOUT * 3).then_some(())
    });
    assert!(leads(&mesh.a) && !leads(&mesh.b));
    assert_eq!(failover(&mesh.b)["leader"], "a");
    assert_eq!(mesh.ballots(), begun_with);
    mesh.heal();
    wait_in_sync(&mesh.a, &["a", "b"]);
    same_rows(&mesh.a, &mesh.b, "t");
    assert_eq!(mesh.ballots(), begun_with);
}
