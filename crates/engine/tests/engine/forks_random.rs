//! Histories that fork while definitions change: an old primary that is taken back to the fork and follows
//! the new one, and a log that is restored to any LSN. Each is afterwards what a node is that never had
//! what was cut off, in its state, its feeds and its live queries, and goes on from there; or it says
//! that it needs a base backup.
//!
//! A failure names its seed; `FORK_SEED` starts there, `FORK_SEEDS` is how many are run.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use springhead_engine::cdc::{
    Cdc, CdcError, CdcLimits, FeedSpec, Poll, PollOptions, Reader, RefusedReason, Start,
};
use springhead_engine::follow::Follower;
use springhead_engine::live::{LiveError, LiveOptions, LiveRequest, Subscriber};
use springhead_engine::undo::{Undone, undo_past};
use springhead_log::disk::RealDisk;
use springhead_log::segment::truncate;
use springhead_log::{Log, ReadFilter};
use springhead_proto::{ChangeKind, Changes, Cursor, Epoch, Lsn, TenantId};

use crate::definitions_random::{Watcher, client_of};
use crate::definitions_seen::{is_ours, user};
use crate::definitions_world::{SETUP, TABLES, Trace, World, forms};
use crate::feeds::pages;
use crate::live::{Mirror, number, principal};
use crate::support::{Counting, Kept, Node, Stopped, dump};

/// Of a segment.
const HEADER_BYTES: u64 = 4096;

/// A state file without how far it is, which a fork changes.
fn state_of(path: &Path) -> Vec<String> {
    let mut lines = dump(path);
    lines.retain(|line| !line.starts_with("s_meta:"));
    lines
}

/// What every tenant's state holds.
type States = BTreeMap<u32, Vec<String>>;

async fn states(node: &Node) -> States {
    let mut all = States::new();
    for info in node.engine.tenants() {
        let tenant = node.engine.tenant(info.id).await.unwrap();
        tenant.wait_visible(tenant.acknowledged()).await.unwrap();
        all.insert(info.id.0, state_of(&node.state_file(info.id)));
    }
    all
}

/// Those of `of` that have a file: one that was dropped is made again from the log.
fn states_on_disk(stopped: &Stopped, of: &States) -> States {
    let state = |id| springhead_engine::state::state_file(stopped.config(), TenantId(id));
    let there = of.keys().filter(|id| state(**id).exists());
    there.map(|id| (*id, state_of(&state(*id)))).collect()
}

/// All that a feed of everything has, whoever there is to ask.
async fn events(node: &Node) -> Vec<Value> {
    let cdc = Cdc::new(node.engine.clone(), CdcLimits::default());
    let options = PollOptions {
        reader: Reader::new(&principal()),
        spec: FeedSpec::default(),
        start: Some(Start::Earliest),
        limit: 1000,
        consumer: None,
    };
    pages(&cdc, &node.tenant().await, options).await.unwrap()
}

/// Where the node was between two transactions.
struct Point {
    lsn: Lsn,
    states: States,
}

fn step(follower: &mut Follower, why: &str) {
    let applied = tokio::task::block_in_place(|| follower.step());
    applied.unwrap_or_else(|error| panic!("{why}: {error}"));
}

struct Run {
    world: World,
    trace: Trace,
    /// Of the history in force, ascending.
    points: Vec<Point>,
    kept: Option<Kept>,
    compared: usize,
    undone: usize,
}

impl Run {
    /// Some transactions on `node`, and databases that come and go.
    async fn write(&mut self, node: &Node, count: usize) {
        let mut boss = client_of(node, "boss").await;
        for _ in 0..count {
            if self.world.below(12) == 0 {
                let name = self.world.r.pick(&["shop", "depot"]);
                let word = self.world.r.pick(&["CREATE", "CREATE", "DROP"]);
                self.trace
                    .run(&mut boss, &format!("{word} DATABASE {name}"))
                    .await;
            } else {
                self.trace.transaction(&mut self.world, &mut boss).await;
            }
            // A number that has been given out is not given again.
            if self.world.below(3) == 0 {
                let told = boss.run("INSERT INTO seen (what) VALUES ('again')").await;
                let why = self.trace.why();
                told.unwrap_or_else(|error| panic!("{why}{error:?}"));
            }
            self.note(node).await;
        }
        let statement = "INSERT INTO seen (what) VALUES ('last')";
        if self.world.below(2) == 0 {
            self.trace.run(&mut boss, statement).await;
            self.note(node).await;
        }
    }

    async fn note(&mut self, node: &Node) {
        let lsn = node.log.tail().durable;
        self.trace.push(format!("-- LSN {lsn}"));
        let states = states(node).await;
        self.points.push(Point { lsn, states });
    }

    /// Both nodes have the same, and show it.
    async fn same(&mut self, primary: &Node, standby: &Node) {
        let why = format!("{}on the standby", self.trace.why());
        assert_eq!(states(standby).await, states(primary).await, "{why}");
        assert_eq!(events(standby).await, events(primary).await, "{why}");
        self.compared += 2;
    }

    /// What `watcher` holds is what a SELECT says; it opens some more.
    async fn look(&mut self, node: &Node, watcher: &mut Watcher) {
        let why = self.trace.why();
        let tenant = node.tenant().await;
        tenant.wait_visible(tenant.acknowledged()).await.unwrap();
        let mut client = client_of(node, "boss").await;
        let last = tenant.last_commit();
        self.compared += watcher.take(last, &mut client, &why).await;
        let forms = forms(&mut client).await;
        while watcher.watched.len() < 5 {
            let before = watcher.watched.len();
            watcher.open(&mut self.world, &forms, &why).await;
            if watcher.watched.len() == before {
                break;
            }
        }
    }

    /// The primary writes on alone, its standby leads, and it comes back as the standby.
    async fn fail_over(&mut self, primary: Node, standby: Node) -> (Node, Node) {
        let mut follower = standby.engine.follower().unwrap();
        let mut watcher = Watcher::new(&primary, "boss").await;
        let mut on_standby = Watcher::new(&standby, "boss").await;
        for _ in 0..1 + self.world.below(3) {
            let count = 1 + self.world.below(3);
            self.write(&primary, count).await;
            self.look(&primary, &mut watcher).await;
            primary.stream(&standby);
            step(&mut follower, &self.trace.why());
            self.same(&primary, &standby).await;
            self.look(&standby, &mut on_standby).await;
        }
        if self.world.below(3) == 0 {
            self.kept = Some(primary.keep());
        }
        self.look(&primary, &mut watcher).await;
        let fork = primary.log.tail();
        let expected = states(&primary).await;
        let told = events(&primary).await;

        // What only it has.
        let (points, shared) = (self.points.len(), std::mem::take(&mut watcher.old));
        self.trace.push("-- alone".to_owned());
        self.world.only_rows = self.world.below(3) > 0;
        let count = self.world.below(6);
        self.write(&primary, count).await;
        self.world.only_rows = false;
        self.look(&primary, &mut watcher).await;
        self.points.truncate(points);
        let end = primary.log.tail().durable;
        let lost: Vec<(Mirror, Lsn)> = (std::mem::take(&mut watcher.old).into_iter())
            .filter(|(_, lsn)| *lsn > fork.durable)
            .collect();
        drop(watcher);
        let undoable = is_undoable(&primary, fork.durable);

        // The other leads.
        self.trace.push("-- the other leads".to_owned());
        standby.log.begin_epoch().unwrap();
        step(&mut follower, &self.trace.why());
        drop(follower);
        lead(&standby);
        let count = 1 + self.world.below(4);
        self.write(&standby, count).await;
        self.look(&standby, &mut on_standby).await;

        // And the first comes back.
        let stopped = primary.stop();
        let log = stopped.open_log(false);
        let (clock, entropy) = (stopped.clock(), Arc::new(Counting::default()));
        let undone = undo_past(stopped.config(), &*log, clock, entropy, fork.durable).unwrap();
        log.close();
        drop(log);
        let cut = truncate(&RealDisk, &stopped.log_dir(), fork.durable).unwrap();
        assert_eq!(cut.map(|cut| cut.last), (end > fork.durable).then_some(end));
        let why = format!("{}taken back to LSN {}", self.trace.why(), fork.durable);
        let back = match undone {
            Undone::Done { .. } => {
                assert!(undoable, "{why}");
                for (id, state) in states_on_disk(&stopped, &expected) {
                    assert_eq!(state, expected[&id], "{why}: tenant {id}");
                }
                self.undone += 1;
                let back = stopped.start(true).unwrap();
                assert_eq!(states(&back).await, expected, "{why}");
                assert_eq!(events(&back).await, told, "{why}");
                back
            }
            Undone::NeedsBaseBackup(reason) => {
                assert!(!undoable, "{why}: {reason}");
                standby.standby_on_disk()
            }
        };
        standby.stream(&back);
        let mut follower = back.engine.follower().unwrap();
        step(&mut follower, &why);
        drop(follower);
        self.same(&standby, &back).await;
        for node in [&standby, &back] {
            let mut client = client_of(node, "boss").await;
            let mut watcher = Watcher::new(node, "boss").await;
            watcher.old = shared.clone();
            while !watcher.old.is_empty() {
                let world = &mut self.world;
                self.compared += watcher.go_on(node, world, &mut client, &why).await;
            }
            refused(node, fork.epoch, fork.durable, end, &lost, &why).await;
        }
        if self
            .kept
            .as_ref()
            .is_some_and(|kept| kept.lsn > fork.durable)
        {
            self.kept = None;
        }
        (standby, back)
    }

    /// The log of `node`, restored to LSNs of any kind, from nothing and from older states.
    async fn restores(&mut self, node: Node) {
        let end = node.log.tail().durable;
        let told = events(&node).await;
        let last = node.log.raw().unwrap().segments().pop().unwrap();
        let stopped = node.stop();
        for _ in 0..3 {
            let target = Lsn(1 + self.world.r.below(end.0));
            let why = format!("{}restored to LSN {target}", self.trace.why());
            let make = || stopped.log_up_to(target);
            let lsn = self.whole(make, &told, &why).await;
            assert!(lsn <= target, "{why}");
        }
        // A power cut leaves what it leaves of the last writes.
        let frames = last.end.offset.saturating_sub(HEADER_BYTES);
        for _ in 0..if frames > 0 { 3 } else { 0 } {
            let offset = HEADER_BYTES + self.world.r.below(frames);
            let why = format!("{}torn at byte {offset}", self.trace.why());
            let make = || stopped.log_torn(&last.file_name, offset);
            self.whole(make, &told, &why).await;
        }
    }

    /// A node over the log that `make` makes has whole commits of it, from nothing and from older states,
    /// and goes on. Where the log then ends.
    async fn whole(&mut self, make: impl Fn() -> Stopped, told: &[Value], why: &str) -> Lsn {
        let (lsn, states) = self.restored(make(), told, why).await;
        if let Some(kept) = self.kept.as_ref().filter(|kept| kept.lsn <= lsn) {
            let older = make();
            kept.give(&older.config().data_dir);
            let why = format!("{why} from the states of {}", kept.lsn);
            let again = self.restored(older, told, &why).await;
            assert_eq!(again, (lsn, states), "{why}");
        }
        lsn
    }

    /// Where the log ends, and what the states hold.
    async fn restored(&mut self, copy: Stopped, told: &[Value], why: &str) -> (Lsn, States) {
        let node = copy.start(false).unwrap();
        let lsn = node.log.tail().durable;
        let found = states(&node).await;
        if let Some(point) = self.points.iter().find(|point| point.lsn == lsn) {
            assert_eq!(found, point.states, "{why}");
            self.compared += 1;
        }
        let expected: Vec<&Value> = told
            .iter()
            .filter(|event| event["lsn"].as_u64().unwrap() <= lsn.0)
            .collect();
        let events = events(&node).await;
        assert_eq!(events.iter().collect::<Vec<_>>(), expected, "{why}");
        self.compared += 1;
        self.goes_on(node, why).await;
        (lsn, found)
    }

    /// A restored node is written to, and its log alone is then again what it has.
    async fn goes_on(&mut self, node: Node, why: &str) {
        node.log.begin_epoch().unwrap();
        let mut trace = Trace::new(0);
        let mut client = node.client().await;
        // It may be from before there were any.
        if client.run("SELECT count(*) FROM seen").await.is_ok() {
            for _ in 0..3 {
                trace.transaction(&mut self.world, &mut client).await;
            }
        }
        drop(client);
        let expected = states(&node).await;
        let elsewhere = node.stop().log_alone().start(false).unwrap();
        assert_eq!(
            states(&elsewhere).await,
            expected,
            "{why}, and then\n{}",
            trace.why()
        );
        self.compared += 1;
    }
}

/// Whether nothing after `after` has no image.
fn is_undoable(node: &Node, after: Lsn) -> bool {
    let mut reader = node
        .log
        .reader(after.next(), ReadFilter::default())
        .unwrap();
    let mut slices = Vec::new();
    while reader.read(&mut slices, 1 << 20).unwrap() < node.log.tail().durable {}
    let changes = slices.iter().flat_map(|slice| Changes::new(&slice.changes));
    !(changes.map(Result::unwrap))
        .any(|change| matches!(change.kind, ChangeKind::Definition | ChangeKind::Truncate))
}

fn lead(node: &Node) {
    let engine = node.engine.clone();
    std::thread::spawn(move || engine.lead().unwrap())
        .join()
        .unwrap();
}

/// Who has seen what was lost is told so.
async fn refused(
    node: &Node,
    epoch: Epoch,
    fork: Lsn,
    end: Lsn,
    lost: &[(Mirror, Lsn)],
    why: &str,
) {
    let cdc = Cdc::new(node.engine.clone(), CdcLimits::default());
    let tenant = node.tenant().await;
    let at = |lsn| Cursor {
        lsn,
        epoch: Some(epoch),
    };
    for lsn in [fork, fork.next(), end] {
        let options = PollOptions {
            reader: Reader::new(&user("boss")),
            spec: FeedSpec::default(),
            start: Some(Start::After(at(lsn))),
            limit: 10,
            consumer: None,
        };
        match Poll::open(&cdc, Arc::clone(&tenant), options).await {
            Ok(_) => assert_eq!(lsn, fork, "{why}"),
            Err(CdcError::Refused { refused, .. }) => {
                assert!(lsn > fork, "{why}: {refused}");
                let told = matches!(refused.reason, RefusedReason::PastFork { fork_lsn, .. } if fork_lsn == fork);
                assert!(told, "{why}: {refused}");
            }
            Err(error) => panic!("{why}: {error}"),
        }
    }
    let watcher = Watcher::new(node, "boss").await;
    let mut subscriber = Subscriber::new(watcher.live(), tenant);
    for (mirror, lsn) in lost {
        let request = LiveRequest {
            sql: &mirror.sql,
            params: &[],
            cursor: Some(at(*lsn)),
            options: LiveOptions::default(),
        };
        match subscriber.open(&user("boss"), &request).await {
            Err(LiveError::Refused(_)) => {}
            // Its tables may not be there.
            Err(LiveError::Sql(error)) if !is_ours(&error) => {}
            Err(error) => panic!("{why}: {} from {lsn}: {error:?}", mirror.sql),
            Ok(_) => panic!("{why}: {} from {lsn} went on", mirror.sql),
        }
    }
}

async fn run_seed(seed: u64) -> (usize, usize) {
    let mut run = Run {
        world: World::new(seed),
        trace: Trace::new(seed),
        points: Vec::new(),
        kept: None,
        compared: 0,
        undone: 0,
    };
    let mut primary = match run.world.below(2) {
        0 => Node::on_disk(|config| config.capture_memory_bytes = 2000),
        _ => Node::in_pieces(|config| config.capture_memory_bytes = 2000),
    };
    let mut client = primary.client().await;
    for statement in SETUP {
        client.ok(statement).await;
    }
    let mut boss = client_of(&primary, "boss").await;
    for statement in TABLES {
        boss.ok(statement).await;
    }
    drop((client, boss));
    let mut standby = primary.standby_on_disk();
    for _ in 0..1 + run.world.below(3) {
        (primary, standby) = run.fail_over(primary, standby).await;
    }
    drop(standby);
    run.restores(primary).await;
    (run.compared, run.undone)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_g11_g12_what_a_fork_cuts_off_leaves_nothing_behind() {
    let first = number("FORK_SEED").unwrap_or(1);
    let seeds = number("FORK_SEEDS").unwrap_or(1);
    let (mut compared, mut undone) = (0, 0);
    for seed in first..first + seeds {
        println!("seed {seed}, {compared} comparisons, {undone} taken back so far");
        let done = run_seed(seed).await;
        (compared, undone) = (compared + done.0, undone + done.1);
    }
    println!("{compared} comparisons, {undone} taken back");
}
