//! Two or three data nodes and a witness, simulated: nothing acknowledged is lost, whatever happens.
//! `SPRINGHEAD_CLUSTER_SEEDS=10000` for the long run, `SPRINGHEAD_CLUSTER_FIRST` to replay from a seed.

use springhead_sim::cluster::{Cluster, Report};

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn g11_two_data_nodes_and_a_witness_lose_nothing_acknowledged() {
    run(2);
}

#[test]
fn g11_three_data_nodes_and_a_witness_lose_nothing_acknowledged() {
    run(3);
}

fn run(data_nodes: u8) {
    let first = number("SPRINGHEAD_CLUSTER_FIRST", 1);
    let seeds = number("SPRINGHEAD_CLUSTER_SEEDS", 4);
    let mut all = Report::default();
    for seed in first..first + seeds {
        let report = Cluster::new(seed, data_nodes).run(6_000);
        all.acknowledged += report.acknowledged;
        all.primaries += report.primaries;
        all.power_cuts += report.power_cuts;
        all.kills += report.kills;
        all.stops += report.stops;
        all.clock_jumps += report.clock_jumps;
        all.full_disks += report.full_disks;
        all.truncations += report.truncations;
        all.copies += report.copies;
        all.alone += report.alone;
    }
    println!("{data_nodes} data nodes, {seeds} seeds from {first}: {all:?}");
    assert!(all.acknowledged > 0 && all.primaries > 0 && all.power_cuts > 0);
}

#[test]
fn one_seed_is_one_run() {
    for (seed, data_nodes) in [(3, 2), (17, 2), (17, 3)] {
        let one = Cluster::new(seed, data_nodes).run(4_000);
        let two = Cluster::new(seed, data_nodes).run(4_000);
        assert_eq!(one, two, "seed {seed}");
    }
}
