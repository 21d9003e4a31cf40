//! What every [`Log`] must pass. A backend's tests call [`crate::conformance_tests!`] with a
//! function that makes an empty log; each case below then becomes a test of that backend.

mod epochs;

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;
use springhead_proto::{
    ChangeKind, Changes, CollectionId, Lsn, RowBuilder, SchemaVersion, TenantId, TimestampMs,
    ValueRef, encode_change,
};

use crate::clock::ManualClock;
use crate::contract::{
    CommitSlice, CommitSource, Log, LogError, LogReader, PendingCommit, Pin, ReadFilter,
};

pub use epochs::{
    g1_an_epoch_begins_between_two_appends, g5_an_epoch_begins_at_the_durable_end,
    g12_a_closed_log_refuses,
};

/// What a case asks of the log made for it.
#[derive(Debug, Clone)]
pub struct Setup {
    pub clock: Arc<ManualClock>,
    /// How many bytes retention keeps; the backend should be able to trim in steps of at most
    /// about a megabyte.
    pub retain_bytes: u64,
}

/// An empty log, and what must live as long as it does.
pub struct Made {
    pub log: Arc<dyn Log>,
    pub keep: Box<dyn Any>,
}

/// One commit with `count` changes to `collection`, each an insert of a row with `label` and
/// `padding` bytes.
#[must_use]
pub fn commit_of(
    tenant: u32,
    collection: u32,
    count: u64,
    label: &str,
    padding: usize,
) -> PendingCommit {
    let padding = vec![b'x'; padding];
    let mut changes = Vec::new();
    for index in 0..count {
        let mut row = Vec::new();
        let mut values = RowBuilder::new(&mut row, 3);
        values.push(ValueRef::Text(label));
        values.push(ValueRef::Integer(i64::try_from(index).expect("small")));
        values.push(ValueRef::Blob(&padding));
        encode_change(
            &mut changes,
            ChangeKind::Insert,
            CollectionId(collection),
            SchemaVersion(1),
            None,
            Some(&row),
        );
    }
    PendingCommit {
        tenant: TenantId(tenant),
        count,
        collections: vec![CollectionId(collection)],
        changes: CommitSource::Memory(changes.into()),
    }
}

/// The label of each change in a slice, with its place in its commit.
#[must_use]
pub fn labels_in(slice: &CommitSlice) -> Vec<(String, i64)> {
    let labels: Vec<(String, i64)> = Changes::new(&slice.changes)
        .map(|change| {
            let row = change
                .expect("the log yields whole changes")
                .after
                .expect("an insert");
            match (row.get(0), row.get(1)) {
                (Some(ValueRef::Text(label)), Some(ValueRef::Integer(index))) => {
                    (label.to_owned(), index)
                }
                other => panic!("not a row of the suite: {other:?}"),
            }
        })
        .collect();
    assert_eq!(
        labels.len() as u64,
        slice.count,
        "the slice says how many changes it has"
    );
    labels
}

/// Everything that `reader` yields, and the LSN it ends at.
///
/// # Panics
/// If the reader fails.
pub fn drain(reader: &mut dyn LogReader) -> (Vec<CommitSlice>, Lsn) {
    let mut out = Vec::new();
    let mut last = None;
    loop {
        let before = out.len();
        let lsn = reader
            .read(&mut out, 64 * 1024)
            .expect("the log can be read");
        if out.len() == before && last == Some(lsn) {
            return (out, lsn);
        }
        last = Some(lsn);
    }
}

fn read_all(log: &dyn Log, from: u64, filter: ReadFilter) -> Vec<CommitSlice> {
    let mut reader = log.reader(Lsn(from), filter).expect("a reader");
    drain(reader.as_mut()).0
}

fn of_tenant(tenant: u32) -> ReadFilter {
    ReadFilter {
        tenant: Some(TenantId(tenant)),
        collections: Vec::new(),
    }
}

fn of_collections(tenant: u32, collections: &[u32]) -> ReadFilter {
    ReadFilter {
        tenant: Some(TenantId(tenant)),
        collections: collections.iter().map(|&id| CollectionId(id)).collect(),
    }
}

/// Checks that `slices` are whole commits in LSN order, each once.
///
/// # Panics
/// If they are not.
pub fn assert_whole_and_ordered(slices: &[CommitSlice]) {
    let mut next_lsn = Lsn::ZERO;
    let mut inside: Option<(Lsn, u64)> = None;
    for slice in slices {
        match inside {
            None => {
                assert_eq!(slice.index, 0, "a commit starts with its first piece");
                assert!(slice.commit_lsn >= next_lsn, "LSNs only rise");
            }
            Some((lsn, index)) => {
                assert_eq!(
                    (slice.commit_lsn, slice.index),
                    (lsn, index),
                    "nothing in between"
                );
            }
        }
        assert!(slice.count > 0, "no empty piece");
        let labels = labels_in(slice);
        for (place, (_, index)) in labels.iter().enumerate() {
            assert_eq!(u64::try_from(*index).ok(), Some(slice.index + place as u64));
        }
        let end = slice.index + slice.count;
        assert_eq!(
            slice.last,
            end == slice.commit_count,
            "the last piece says so"
        );
        inside = (!slice.last).then_some((slice.commit_lsn, end));
        next_lsn = slice.commit_last_lsn().next();
    }
    assert_eq!(inside, None, "the last commit is whole");
}

pub fn an_empty_log_has_nothing(made: &Made, setup: &Setup) {
    let log = made.log.as_ref();
    assert_eq!(log.tail().durable, Lsn::ZERO);
    assert_eq!(log.earliest(), Lsn(1));
    assert_eq!(log.epochs().len(), 1);
    assert_eq!(log.epochs()[0].fork_lsn, Lsn::ZERO);
    assert!(read_all(log, 1, ReadFilter::default()).is_empty());
    assert_eq!(log.lsn_at_time(TimestampMs(0)).expect("a time"), Lsn(1));
    let now = TimestampMs(crate::clock::Clock::now_ms(setup.clock.as_ref()));
    assert_eq!(log.lsn_at_time(now).expect("a time"), Lsn(1));
    assert_eq!(log.trim_candidate(), None);
    assert_eq!(log.tenants_before(Lsn(100)).expect("tenants"), Vec::new());
    let future = log.reader(Lsn(2), ReadFilter::default()).err();
    assert!(matches!(
        future,
        Some(LogError::Future {
            asked: Lsn(2),
            durable: Lsn(0)
        })
    ));
}

pub fn g2_lsns_are_dense_and_in_order(made: &Made, _: &Setup) {
    let log = made.log.as_ref();
    let first = log
        .append(vec![commit_of(1, 100, 1, "a", 0)])
        .expect("appended");
    assert_eq!(first.first_lsn, Lsn(1));
    let second = log
        .append(vec![
            commit_of(1, 100, 3, "b", 0),
            commit_of(2, 101, 2, "c", 0),
        ])
        .expect("appended");
    assert_eq!(second.first_lsn, Lsn(2));
    let third = log
        .append(vec![commit_of(1, 100, 1, "d", 0)])
        .expect("appended");
    assert_eq!(third.first_lsn, Lsn(7));
    assert_eq!(third.epoch, log.tail().epoch);
    assert_eq!(log.tail().durable, Lsn(7));

    let slices = read_all(log, 1, ReadFilter::default());
    assert_whole_and_ordered(&slices);
    let seen: Vec<_> = slices
        .iter()
        .map(|slice| (slice.commit_lsn.0, slice.tenant.0, slice.count))
        .collect();
    assert_eq!(seen, [(1, 1, 1), (2, 1, 3), (5, 2, 2), (7, 1, 1)]);
}

pub fn g1_what_is_acknowledged_can_be_read_at_once(made: &Made, _: &Setup) {
    let log = made.log.as_ref();
    let mut follower = log.reader(Lsn(1), ReadFilter::default()).expect("a reader");
    for round in 1..=50 {
        log.append(vec![commit_of(1, 100, 1, &round.to_string(), 10)])
            .expect("appended");
        assert_eq!(log.tail().durable, Lsn(round));
        let (slices, lsn) = drain(follower.as_mut());
        assert_eq!(
            (slices.len(), lsn),
            (1, Lsn(round)),
            "exactly the new commit"
        );
        assert_eq!(labels_in(&slices[0])[0].0, round.to_string());
    }
}

pub fn g2_a_reader_starts_anywhere(made: &Made, _: &Setup) {
    let log = made.log.as_ref();
    for round in 0..200 {
        log.append(vec![commit_of(1, 100, 3, &round.to_string(), 2000)])
            .expect("appended");
    }
    for from in (1..=601).step_by(7) {
        let slices = read_all(log, from, ReadFilter::default());
        assert_whole_and_ordered(&slices);
        // The commit that holds `from` comes whole.
        let first = (from - 1) / 3 * 3 + 1;
        assert_eq!(
            slices.first().map(|slice| slice.commit_lsn.0),
            (from <= 600).then_some(first)
        );
        assert_eq!(
            slices.iter().map(|slice| slice.count).sum::<u64>(),
            601 - first
        );
    }
    let future = log.reader(Lsn(602), ReadFilter::default()).err();
    assert!(matches!(
        future,
        Some(LogError::Future {
            asked: Lsn(602),
            durable: Lsn(600)
        })
    ));
}

pub fn g6_a_filter_lets_through_what_it_names_and_nothing_else(made: &Made, _: &Setup) {
    let log = made.log.as_ref();
    // Stretches of one tenant, long enough to be whole blocks, then mixed ones.
    for round in 0..40u32 {
        let tenant = round / 10 + 1;
        let commits = (0..4)
            .map(|n| commit_of(tenant, 100 + n, 2, &format!("{round}"), 8000))
            .collect();
        log.append(commits).expect("appended");
    }
    for round in 0..10u32 {
        let commits = (1..=4)
            .map(|tenant| commit_of(tenant, 100 + round, 1, "m", 10))
            .collect();
        log.append(commits).expect("appended");
    }
    let all = read_all(log, 1, ReadFilter::default());
    for tenant in 1..=5 {
        for collections in [&[][..], &[100], &[101, 107], &[999]] {
            let filter = of_collections(tenant, collections);
            let wanted: Vec<u64> = all
                .iter()
                .filter(|slice| {
                    let of_collection = |id: &u32| {
                        Changes::new(&slice.changes)
                            .any(|change| change.expect("whole").collection == CollectionId(*id))
                    };
                    slice.tenant == TenantId(tenant)
                        && (collections.is_empty() || collections.iter().any(of_collection))
                })
                .map(|slice| slice.commit_lsn.0)
                .collect();
            for from in [1, 50, 161, 320] {
                let mut reader = log.reader(Lsn(from), filter.clone()).expect("a reader");
                let (slices, lsn) = drain(reader.as_mut());
                assert_whole_and_ordered(&slices);
                assert_eq!(lsn, log.tail().durable, "all has been looked at");
                let seen: Vec<u64> = slices.iter().map(|slice| slice.commit_lsn.0).collect();
                let expected: Vec<u64> = wanted
                    .iter()
                    .copied()
                    .filter(|&lsn| {
                        let slice = all.iter().find(|slice| slice.commit_lsn.0 == lsn);
                        slice.is_some_and(|slice| slice.commit_last_lsn().0 >= from)
                    })
                    .collect();
                assert_eq!(
                    seen, expected,
                    "tenant {tenant} {collections:?} from {from}"
                );
            }
        }
    }
}

pub fn a_filtered_reader_follows(made: &Made, _: &Setup) {
    let log = made.log.as_ref();
    let mut reader = log.reader(Lsn(1), of_tenant(2)).expect("a reader");
    for round in 1..=30u64 {
        log.append(vec![commit_of(1, 100, 2, "other", 5000)])
            .expect("appended");
        let (slices, lsn) = drain(reader.as_mut());
        assert_eq!((slices.len(), lsn), (0, Lsn(round * 3 - 1)));
        log.append(vec![commit_of(2, 100, 1, "own", 5000)])
            .expect("appended");
        let (slices, lsn) = drain(reader.as_mut());
        assert_eq!((slices.len(), lsn), (1, Lsn(round * 3)));
    }
}

pub fn commits_without_a_collection_are_found_by_tenant(made: &Made, _: &Setup) {
    let log = made.log.as_ref();
    let mut commit = commit_of(3, 0, 1, "message", 0);
    commit.collections.clear();
    log.append(vec![commit_of(1, 100, 1, "a", 0), commit])
        .expect("appended");
    assert_eq!(read_all(log, 1, of_tenant(3)).len(), 1);
    assert_eq!(read_all(log, 1, of_collections(3, &[100])).len(), 0);
    assert_eq!(
        log.tenants_before(Lsn(2)).expect("tenants"),
        [TenantId(1), TenantId(3)]
    );
}

pub fn g3_a_large_commit_is_whole(made: &Made, _: &Setup) {
    let log = made.log.as_ref();
    log.append(vec![commit_of(1, 100, 1, "before", 0)])
        .expect("appended");
    let many = commit_of(2, 101, 40_000, "many", 100);
    let wide = commit_of(1, 102, 3, "wide", 3_000_000);
    let first = log
        .append(vec![
            commit_of(1, 100, 2, "small", 0),
            many,
            wide,
            commit_of(1, 100, 1, "x", 0),
        ])
        .expect("appended");
    assert_eq!(first.first_lsn, Lsn(2));
    log.append(vec![commit_of(1, 100, 1, "after", 0)])
        .expect("appended");

    let slices = read_all(log, 1, ReadFilter::default());
    assert_whole_and_ordered(&slices);
    assert_eq!(
        slices.iter().map(|slice| slice.count).sum::<u64>(),
        log.tail().durable.0
    );
    assert_eq!(log.tail().durable, Lsn(1 + 2 + 40_000 + 3 + 1 + 1));

    // Only one of them, and one from its middle.
    let many = read_all(log, 1, of_tenant(2));
    assert_whole_and_ordered(&many);
    assert_eq!(many.iter().map(|slice| slice.count).sum::<u64>(), 40_000);
    let from_middle = read_all(log, 20_000, ReadFilter::default());
    assert_eq!(
        (from_middle[0].commit_lsn, from_middle[0].index),
        (Lsn(4), 0)
    );
    let others = read_all(log, 1, of_tenant(1));
    assert_whole_and_ordered(&others);
    assert_eq!(
        others.iter().map(|slice| slice.count).sum::<u64>(),
        1 + 2 + 3 + 1 + 1
    );
}

pub fn a_filtered_reader_passes_a_large_commit_at_the_end(made: &Made, _: &Setup) {
    let log = made.log.as_ref();
    let mut other = log.reader(Lsn(1), of_tenant(9)).expect("a reader");
    for round in 1..=5u64 {
        log.append(vec![commit_of(1, 100, 1_000, "large", 2_000)])
            .expect("appended");
        let (slices, lsn) = drain(other.as_mut());
        assert_eq!((slices.len(), lsn), (0, Lsn(round * 1_001 - 1)));
        let (slices, lsn) = drain(log.reader(Lsn(1), of_tenant(8)).expect("a reader").as_mut());
        assert_eq!((slices.len(), lsn), (0, Lsn(round * 1_001 - 1)));
        log.append(vec![commit_of(9, 100, 1, "own", 10)])
            .expect("appended");
        let (slices, lsn) = drain(other.as_mut());
        assert_eq!((slices.len(), lsn), (1, Lsn(round * 1_001)));
    }
}

pub fn a_spilled_commit_is_read_from_its_file(made: &Made, _: &Setup) {
    let log = made.log.as_ref();
    for padding in [10, 2_000] {
        let commit = commit_of(1, 100, 1_000, "spilled", padding);
        let CommitSource::Memory(bytes) = &commit.changes else {
            panic!("made in memory")
        };
        let file = spill(bytes);
        let changes = CommitSource::File {
            file,
            length: bytes.len() as u64,
        };
        let from = log.tail().durable.0 + 1;
        log.append(vec![PendingCommit { changes, ..commit }])
            .expect("appended");
        let slices = read_all(log, from, ReadFilter::default());
        assert_whole_and_ordered(&slices);
        assert_eq!(slices.iter().map(|slice| slice.count).sum::<u64>(), 1_000);
    }
}

fn spill(bytes: &Bytes) -> std::fs::File {
    use std::os::unix::fs::FileExt as _;
    let path = std::env::temp_dir().join(format!(
        "springhead-conformance-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .expect("a temporary file");
    std::fs::remove_file(&path).expect("an unlinked file lives while it is open");
    file.write_all_at(bytes, 0).expect("written");
    file
}

pub fn times_never_go_back(made: &Made, setup: &Setup) {
    let log = made.log.as_ref();
    setup.clock.jump_to(1_000);
    let at = |time: u64| log.lsn_at_time(TimestampMs(time)).expect("a time").0;
    let append = || {
        log.append(vec![commit_of(1, 100, 1, "t", 5000)])
            .expect("appended")
    };
    assert_eq!(append().timestamp_ms, TimestampMs(1_000));
    setup.clock.jump_to(500);
    assert_eq!(append().timestamp_ms, TimestampMs(1_000));
    setup.clock.jump_to(2_000);
    assert_eq!(append().timestamp_ms, TimestampMs(2_000));
    assert_eq!(log.tail().timestamp_ms, TimestampMs(2_000));
    assert_eq!(
        (at(0), at(1_000), at(1_001), at(2_000), at(2_001)),
        (1, 1, 3, 3, 4)
    );
    for step in 1..=100 {
        setup.clock.jump_to(2_000 + step * 10);
        append();
    }
    for step in 1..=100 {
        assert_eq!(at(2_000 + step * 10), 3 + step);
        assert_eq!(at(2_000 + step * 10 - 5), 3 + step);
    }
    assert_eq!(at(9_999_999), 104, "past the end is the end");
}

pub fn trimming_forgets_the_oldest(made: &Made, setup: &Setup) {
    let log = made.log.as_ref();
    fill(log, setup.retain_bytes + (6 << 20));
    let candidate = log
        .trim_candidate()
        .expect("there is more than retention keeps");
    assert!(candidate < log.tail().durable);
    let mut stale = log.reader(Lsn(1), ReadFilter::default()).expect("a reader");
    let before = log.stats();
    log.trim(candidate).expect("trimmed");
    let earliest = log.earliest();
    assert_eq!(earliest, candidate.next());
    assert!(log.stats().kept_bytes < before.kept_bytes);
    let refused = log.reader(Lsn(1), ReadFilter::default()).err();
    let expected = LogError::Trimmed {
        asked: Lsn(1),
        earliest,
    };
    assert_eq!(
        refused.map(|error| error.to_string()),
        Some(expected.to_string())
    );
    let refused = stale.read(&mut Vec::new(), 1 << 20);
    assert!(
        matches!(refused, Err(LogError::Trimmed { .. })),
        "{refused:?}"
    );
    let slices = read_all(log, earliest.0, ReadFilter::default());
    assert_whole_and_ordered(&slices);
    assert_eq!(slices[0].commit_lsn, earliest);
    assert_eq!(
        slices.iter().map(|slice| slice.count).sum::<u64>(),
        log.tail().durable.0 - candidate.0
    );
    assert_eq!(log.lsn_at_time(TimestampMs(0)).expect("a time"), earliest);
    assert!(
        log.trim_candidate().is_none_or(|lsn| lsn > candidate),
        "no trim without need"
    );
}

/// Appends until about `bytes` are there.
fn fill(log: &dyn Log, bytes: u64) {
    let start = log.stats().written_bytes;
    while log.stats().written_bytes - start < bytes {
        let commits = (0..8)
            .map(|n| commit_of(1 + n % 3, 100, 2, "fill", 16_000))
            .collect();
        log.append(commits).expect("appended");
    }
}

pub fn a_pin_holds_retention_up_to_its_cap(made: &Made, setup: &Setup) {
    let log = made.log.as_ref();
    let pin = |after, cap_bytes| {
        Some(Pin {
            name: "consumer 1/x".into(),
            after: Lsn(after),
            cap_bytes,
        })
    };
    fill(log, setup.retain_bytes + (6 << 20));
    let free = log
        .trim_candidate()
        .expect("there is more than retention keeps");
    log.set_pin("consumer 1/x", pin(0, u64::MAX));
    assert_eq!(log.trim_candidate(), None, "everything is wanted");
    log.set_pin("consumer 1/x", pin(free.0 / 2, u64::MAX));
    assert!(
        log.trim_candidate()
            .is_some_and(|lsn| lsn <= Lsn(free.0 / 2))
    );
    log.set_pin("consumer 1/x", pin(0, 1 << 40));
    assert_eq!(log.trim_candidate(), None);
    assert_eq!(log.take_expired_pins(), Vec::<String>::new());
    log.set_pin("consumer 1/x", pin(0, 1 << 10));
    assert_eq!(
        log.trim_candidate(),
        Some(free),
        "past its cap a pin holds nothing"
    );
    assert_eq!(log.take_expired_pins(), ["consumer 1/x"]);
    assert_eq!(log.take_expired_pins(), Vec::<String>::new(), "told once");
    log.set_pin("consumer 1/x", pin(0, 1 << 40));
    log.set_pin("consumer 1/x", None);
    assert_eq!(log.trim_candidate(), Some(free));
}

pub fn lag_is_known_in_bytes(made: &Made, _: &Setup) {
    let log = made.log.as_ref();
    fill(log, 4 << 20);
    let tail = log.tail().durable;
    let all = log.bytes_between(Lsn(0), tail);
    assert!((3 << 20..6 << 20).contains(&all), "{all}");
    assert_eq!(log.bytes_between(tail, tail), 0);
    let half = log.bytes_between(Lsn(tail.0 / 2), tail);
    assert!((all / 3..all * 2 / 3).contains(&half), "{half} of {all}");
}

pub fn tenants_are_known(made: &Made, _: &Setup) {
    let log = made.log.as_ref();
    for tenant in [5, 3, 9] {
        for _ in 0..30 {
            log.append(vec![commit_of(tenant, 100, 2, "t", 4000)])
                .expect("appended");
        }
    }
    let up_to = |lsn| log.tenants_before(Lsn(lsn)).expect("tenants");
    assert_eq!(up_to(0), []);
    assert_eq!(up_to(1), [TenantId(5)]);
    assert_eq!(up_to(60), [TenantId(5)]);
    assert_eq!(up_to(61), [TenantId(3), TenantId(5)]);
    assert_eq!(up_to(120), [TenantId(3), TenantId(5)]);
    assert_eq!(up_to(9999), [TenantId(3), TenantId(5), TenantId(9)]);
}

pub fn g2_many_appenders_and_readers_agree(made: &Made, _: &Setup) {
    const APPENDERS: u32 = 8;
    const CALLS: u32 = 60;
    let log = &made.log;
    let seen = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut reader = log.reader(Lsn(1), ReadFilter::default()).expect("a reader");
                    let mut slices = Vec::new();
                    // Each call makes two commits of three and one change.
                    let all = u64::from(APPENDERS * CALLS * 4);
                    loop {
                        let lsn = reader.read(&mut slices, 4096).expect("readable");
                        assert!(lsn <= log.tail().durable, "only what is durable");
                        if lsn.0 == all {
                            return slices;
                        }
                        std::thread::yield_now();
                    }
                })
            })
            .collect();
        let appenders: Vec<_> = (0..APPENDERS)
            .map(|appender| {
                scope.spawn(move || {
                    (0..CALLS)
                        .map(|call| {
                            let label = format!("{appender}/{call}");
                            let commits = vec![
                                commit_of(appender, 100, 3, &label, 50),
                                commit_of(appender, 101, 1, &label, 50),
                            ];
                            (label, log.append(commits).expect("appended").first_lsn)
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let mut acknowledged = Vec::new();
        for appender in appenders {
            let own = appender.join().expect("no panic");
            assert!(
                own.windows(2).all(|pair| pair[0].1 < pair[1].1),
                "each client's order holds"
            );
            acknowledged.extend(own);
        }
        let seen: Vec<_> = readers
            .into_iter()
            .map(|reader| reader.join().expect("no panic"))
            .collect();
        acknowledged.sort_by_key(|(_, lsn)| *lsn);
        for slices in &seen {
            assert_whole_and_ordered(slices);
            let calls: Vec<_> = slices
                .chunks(2)
                .map(|pair| {
                    assert_eq!(
                        pair[1].commit_lsn,
                        pair[0].commit_lsn.plus(3),
                        "side by side"
                    );
                    (labels_in(&pair[0])[0].0.clone(), pair[0].commit_lsn)
                })
                .collect();
            assert_eq!(calls, acknowledged, "every call once, where it was told");
        }
        seen
    });
    assert_eq!(seen.len(), 3);
}

/// Makes each case of the suite a test; `$make` is a `fn(&Setup) -> Made`.
#[macro_export]
macro_rules! conformance_tests {
    ($make:path) => {
        $crate::conformance_tests!(@each $make;
            an_empty_log_has_nothing
            g2_lsns_are_dense_and_in_order
            g1_what_is_acknowledged_can_be_read_at_once
            g2_a_reader_starts_anywhere
            g6_a_filter_lets_through_what_it_names_and_nothing_else
            a_filtered_reader_follows
            commits_without_a_collection_are_found_by_tenant
            g3_a_large_commit_is_whole
            a_filtered_reader_passes_a_large_commit_at_the_end
            a_spilled_commit_is_read_from_its_file
            times_never_go_back
            trimming_forgets_the_oldest
            a_pin_holds_retention_up_to_its_cap
            lag_is_known_in_bytes
            tenants_are_known
            g12_a_closed_log_refuses
            g2_many_appenders_and_readers_agree
            g5_an_epoch_begins_at_the_durable_end
            g1_an_epoch_begins_between_two_appends
        );
    };
    (@each $make:path; $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                let setup = $crate::conformance::Setup {
                    clock: std::sync::Arc::new($crate::ManualClock::at(1_700_000_000_000)),
                    retain_bytes: 2 << 20,
                };
                let made = $make(&setup);
                $crate::conformance::$case(&made, &setup);
            }
        )*
    };
}
