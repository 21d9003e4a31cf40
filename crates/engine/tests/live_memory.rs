//! What a live query takes in memory, counted by an allocator: no other test may run in this process.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use springhead_engine::access::Principal;
use springhead_engine::live::{Live, LiveLimits};
use springhead_engine::{Engine, EngineConfig, Entropy, ParamValue, Session};
use springhead_log::ManualClock;
use springhead_log::memory::MemoryLog;
use springhead_proto::{Epoch, TenantId};

/// Bytes that are allocated now, as glibc's allocator rounds them.
static IN_USE: AtomicUsize = AtomicUsize::new(0);

struct Counted;

/// A chunk has a header of 8 bytes, a multiple of 16, and at least 32.
fn chunk(size: usize) -> usize {
    ((size + 8).next_multiple_of(16)).max(32)
}

// SAFETY: it is the system's allocator, with a count beside.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(chunk(layout.size()), Ordering::Relaxed);
        // SAFETY: as the caller says.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(chunk(layout.size()), Ordering::Relaxed);
        // SAFETY: as the caller says.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

struct Zeroes;

impl Entropy for Zeroes {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(0);
    }
}

/// A session whose client has live queries for some groups, one each.
async fn session(engine: &Engine, live: &Arc<Live>, groups: std::ops::Range<u64>) -> Session {
    let principal = Principal::unrestricted("tester");
    let mut session = engine.session(TenantId::DEFAULT, &principal).await.unwrap();
    session.enable_live(live);
    let sql = "LIVE SELECT id, n FROM items WHERE grp = $1";
    let statement = session.prepare(sql, &[]).unwrap();
    for group in groups {
        let text = group.to_string();
        let outcome = session
            .execute(&statement, &[ParamValue::Text(&text)])
            .await;
        assert_eq!(outcome.unwrap().tag, "LIVE SELECT");
    }
    session
}

/// As many as a session may have.
const EACH: u64 = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g7_a_live_query_that_shares_its_plan_takes_at_most_400_bytes() {
    // SPRINGHEAD_LIVE_QUERIES=100000 for as many as the aim is about.
    let count = std::env::var("SPRINGHEAD_LIVE_QUERIES");
    let count: u64 = count.map_or(12_000, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_700_000_000_000));
    let log = MemoryLog::with(Epoch(1), Arc::clone(&clock) as _, u64::MAX);
    let config = EngineConfig::new(dir.path());
    let engine = Engine::open(config, Arc::new(log), clock, Arc::new(Zeroes)).unwrap();
    let live = Live::new(engine.clone(), LiveLimits::default());
    let principal = Principal::unrestricted("tester");
    let mut writer = engine.session(TenantId::DEFAULT, &principal).await.unwrap();
    let mut script =
        writer.script("CREATE TABLE items (id bigint PRIMARY KEY, grp integer, n integer)");
    script.next().await.unwrap().unwrap();
    // What the first makes the tenant set up belongs to nobody.
    let mut sessions = vec![session(&engine, &live, 0..1).await];
    let before = IN_USE.load(Ordering::Relaxed);
    let mut next = 1;
    while next <= count {
        sessions.push(session(&engine, &live, next..next + EACH).await);
        next += EACH;
    }
    let after = IN_USE.load(Ordering::Relaxed);
    let (open, different) = live.counts();
    assert_eq!(open as u64, next);
    assert_eq!(different, open);
    let each = (after - before) as u64 / (next - 1);
    println!(
        "{each} bytes for each of {} live queries, sessions included",
        next - 1
    );
    assert!(each <= 400, "{each} bytes each");
}
