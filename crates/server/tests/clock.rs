//! Clocks that jump by days, forth and back, between two lives of the server: times in the feed
//! never fall, nothing is trimmed, and time is still a place to start from.

use std::path::Path;

use serde_json::Value;
use springhead_sim::fixture::Fixture;

const DAY_MS: u64 = 86_400_000;

/// The library that shifts the clock of a process, if it is installed.
fn library() -> Option<String> {
    let found = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
        .map(|machine| format!("/usr/lib/{machine}/faketime/libfaketimeMT.so.1"))
        .into_iter()
        .find(|path| Path::new(path).is_file());
    if found.is_none() {
        println!("skipped: libfaketime is not here; cargo xtask test installs it");
    }
    found
}

#[test]
fn g2_times_never_fall_and_nothing_is_trimmed_when_the_clock_jumps() {
    let Some(library) = library() else { return };
    let mut fixture = Fixture::new();
    fixture.setup = fixture
        .setup
        .clone()
        .with_env("SPRINGHEAD_SEGMENT_BYTES", "1MiB")
        .with_env("SPRINGHEAD_RETAIN_TIME", "1h")
        .with_env("SPRINGHEAD_MAINTENANCE_INTERVAL", "50ms");
    let note = "n".repeat(100_000);
    for (life, shift) in ["+0d", "+3d", "-3d", "+0d"].into_iter().enumerate() {
        // Only the wall clock: timers keep counting as they do.
        let setup = fixture
            .setup
            .clone()
            .with_env("LD_PRELOAD", &library)
            .with_env("FAKETIME", shift)
            .with_env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        if let Err(error) = fixture.start_as(&setup) {
            panic!("{shift}: {error}");
        }
        if life == 0 {
            fixture.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT)");
        }
        for row in 0..30 {
            fixture.sql(&format!("INSERT INTO t VALUES ({life}{row:02}, '{note}')"));
        }
        if life % 2 == 0 {
            fixture.kill();
        } else {
            fixture.stop();
        }
    }
    fixture.start();
    let page = fixture
        .get("/cdc/t/poll?since_lsn=1&limit=1000&columns=id")
        .json();
    let changes = page["changes"]
        .as_array()
        .unwrap_or_else(|| panic!("{page}"));
    let inserts: Vec<&Value> = changes
        .iter()
        .filter(|c| c["operation"] == "INSERT")
        .collect();
    assert_eq!(inserts.len(), 120, "every insert of every life");
    let times: Vec<u64> = inserts
        .iter()
        .map(|change| change["timestamp_ms"].as_u64().expect("a time"))
        .collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(
        times[30] >= times[29] + 2 * DAY_MS,
        "the second life was three days ahead"
    );
    // That time and later: the first change of the second life is where it begins.
    let page = fixture
        .get(&format!(
            "/cdc/t/poll?since_ms={}&limit=1&columns=id",
            times[30]
        ))
        .json();
    let first = &page["changes"][0];
    assert_eq!(first["timestamp_ms"].as_u64(), Some(times[30]), "{page}");
    assert_eq!(first["lsn"], inserts[30]["lsn"]);
    // Past the end means now.
    let page = fixture
        .get(&format!(
            "/cdc/t/poll?since_ms={}",
            times[119] + 10 * DAY_MS
        ))
        .json();
    assert_eq!(page["count"], 0, "{page}");
    fixture.stop();
}
