//! G10: definitions reach every device, however slow, in order, and end on the server's hash.
//! `SYNC_DEFINITIONS` and `SYNC_DEVICES` say how many; the suite takes few.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::device::{Device, Rig, shape};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// A device that reads, stalls, leaves and comes back, until it is where the server is.
async fn live(rig: Arc<Rig>, last: Arc<AtomicU64>, number: u64) {
    let shapes = [shape(1, "t0", None)];
    let mut device = Device::new(u128::from(number) + 1, "tester", &shapes);
    device.connect(&rig).await.unwrap();
    let mut frames = 0;
    loop {
        let due = last.load(Ordering::Acquire);
        if due > 0 && device.catalog.0.0 >= due {
            break;
        }
        let before = device.catalog.0;
        device.frame().await;
        assert!(
            device.catalog.0 >= before,
            "{before} then {}",
            device.catalog.0
        );
        frames += 1;
        if frames % (3 + number % 7) == 0 {
            // Away for a while, however long the others take for it.
            device.session = None;
            for _ in 0..number % 50 {
                tokio::task::yield_now().await;
            }
            device.connect(&rig).await.unwrap();
        }
    }
    // The last frames of the same version may still be on their way.
    let tenant = rig.node.tenant().await;
    let server = rig.sync.definitions_hash(&tenant, "tester").await.unwrap();
    device.until(|device| device.catalog.1 == server).await;
    assert_eq!(device.catalog_hash(), server, "device {number}");
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_every_device_ends_on_the_servers_definitions() {
    let rig = Arc::new(Rig::start("CREATE TABLE t0 (id integer PRIMARY KEY, a text)").await);
    let last = Arc::new(AtomicU64::new(0));
    let devices: Vec<_> = (0..number("SYNC_DEVICES", 12))
        .map(|number| tokio::spawn(live(Arc::clone(&rig), Arc::clone(&last), number)))
        .collect();
    let mut client = rig.node.client().await;
    for round in 1..=number("SYNC_DEFINITIONS", 60) {
        let sql = match round % 6 {
            0 => format!("DROP TABLE IF EXISTS t{}", round.saturating_sub(4)),
            1 => format!("ALTER TABLE t0 ADD COLUMN c{round} integer DEFAULT {round}"),
            2 => format!("CREATE TABLE t{round} (id integer PRIMARY KEY, n integer CHECK (n > 0))"),
            3 => format!("CREATE INDEX i{round} ON t0 (a)"),
            4 => format!(
                "CREATE FUNCTION f{round}(n integer) RETURNS integer LANGUAGE sql AS 'SELECT n + {round}'"
            ),
            _ => format!("CREATE OR REPLACE VIEW v AS SELECT id, a, {round} AS round FROM t0"),
        };
        client.ok(&sql).await;
    }
    client
        .ok("CREATE TABLE last (id integer PRIMARY KEY)")
        .await;
    last.store(rig.node.tenant().await.catalog().version, Ordering::Release);
    for device in devices {
        device.await.unwrap();
    }
}
