//! G7: what a device costs that is connected and does nothing. `SYNC_IDLE` says how many there are.

use std::time::Duration;

use springhead_engine::sync::SyncLimits;

use super::device::{Device, Rig, shape};
use crate::support::Node;

/// Bytes of this process that no file is behind.
fn anonymous_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon:"))
        .unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn g7_an_idle_session_costs_little() {
    let count = std::env::var("SYNC_IDLE")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(400);
    let limits = SyncLimits {
        sessions: 1 << 20,
        ..SyncLimits::default()
    };
    let rig = Rig::over(
        Node::start(),
        limits,
        "CREATE TABLE notes (id integer PRIMARY KEY, owner integer, body text)",
    )
    .await;
    let mut devices: Vec<Device> = Vec::new();
    let mut before = 0;
    for number in 0..=count {
        if number == 1 {
            // What the first one makes the engine set up belongs to nobody.
            before = anonymous_bytes();
        }
        let own = format!("owner = {number}");
        let mut device = rig
            .device(u128::from(number + 1_u64), &[shape(1, "notes", Some(&own))])
            .await;
        device.settle(&rig).await;
        // What a real device holds is on the device.
        device.told = Vec::new();
        device.definitions.clear();
        devices.push(device);
    }
    let per_session = (anonymous_bytes() - before) / usize::try_from(count).unwrap();
    println!("{count} idle sessions: {per_session} bytes each, the test's own device included");
    assert_eq!(rig.sync.sessions() as u64, count + 1);
    assert!(per_session < 60_000, "{per_session}");
    // Each hears of what is its own, and of nothing else.
    let begun = std::time::Instant::now();
    rig.sql(&format!(
        "INSERT INTO notes VALUES (1, {count}, 'for the last')"
    ))
    .await;
    let last = devices.last_mut().unwrap();
    last.until(|last| last.image[&1].len() == 1).await;
    println!("told after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(devices[0].image[&1].is_empty());
}
