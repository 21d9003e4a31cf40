//! A log that follows another byte for byte: checked, shown only when announced, promoted.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use springhead_log::conformance::{assert_whole_and_ordered, commit_of, drain, labels_in};
use springhead_log::disk::RealDisk;
use springhead_log::segment::{SegmentConfig, SegmentLog, begin_copy, verify};
use springhead_log::{
    AppendError, FollowError, Log, LogError, ManualClock, NoProgress, RawItem, RawLimit, RawLog,
    RawPosition, ReadFilter, RefusedReason,
};
use springhead_proto::Lsn;
use tempfile::TempDir;

fn config(follows: bool) -> SegmentConfig {
    SegmentConfig {
        segment_bytes: 64 << 10,
        large_commit_bytes: 8 << 10,
        reserve_bytes: 0,
        retain_bytes: 0,
        background: false,
        follows,
        ..SegmentConfig::default()
    }
}

fn open(dir: &Path, follows: bool, known_durable: u64) -> SegmentLog {
    let config = SegmentConfig {
        known_durable: Lsn(known_durable),
        ..config(follows)
    };
    let clock = Arc::new(ManualClock::at(1_718_000_000_000));
    SegmentLog::open(dir, config, clock).expect("opened")
}

/// A primary, and one that follows it.
struct Pair {
    primary: SegmentLog,
    follower: SegmentLog,
    primary_dir: TempDir,
    follower_dir: TempDir,
}

/// Begins the log of a follower from where `primary` begins.
fn begin(primary: &SegmentLog, dir: &Path) {
    let start = primary.segment_start(primary.earliest()).expect("a start");
    let mut reader = primary
        .raw_reader(start, RawLimit::Durable)
        .expect("a reader");
    let mut items = Vec::new();
    reader.read(&mut items, 1).expect("read");
    let Some(RawItem::Segment { header, .. }) = items.first() else {
        panic!("a segment begins with its header")
    };
    let epochs = primary.identity().epochs;
    begin_copy(&RealDisk, dir, 64 << 10, &epochs, header).expect("begun");
}

impl Pair {
    fn new() -> Pair {
        let (primary_dir, follower_dir) = (
            tempfile::tempdir().expect("a directory"),
            tempfile::tempdir().expect("a directory"),
        );
        let primary = open(primary_dir.path(), false, 0);
        append(&primary, 1);
        begin(&primary, follower_dir.path());
        Pair {
            primary,
            follower: open(follower_dir.path(), true, 0),
            primary_dir,
            follower_dir,
        }
    }
}

fn append(log: &SegmentLog, changes: u64) -> u64 {
    let label = format!("{}", log.tail().durable.0);
    let padding = if changes == 1 { 3_000 } else { 500 };
    log.append(vec![commit_of(1, 100, changes, &label, padding)])
        .expect("appended");
    log.tail().durable.0
}

/// Streams all that there is, without announcing it.
fn stream(from: &SegmentLog, to: &SegmentLog) -> RawPosition {
    let at = to.identity().written;
    let mut reader = from.raw_reader(at, RawLimit::Written).expect("a reader");
    let mut at = at;
    loop {
        let mut items = Vec::new();
        let next = reader.read(&mut items, 10_000).expect("read");
        for item in items {
            give(to, &item).expect("taken");
        }
        if next == at {
            return to.follow_flush().expect("flushed");
        }
        at = next;
    }
}

fn give(to: &SegmentLog, item: &RawItem) -> Result<RawPosition, FollowError> {
    match item {
        RawItem::Segment { header, epoch, .. } => to.follow_segment(header, epoch),
        RawItem::Frames { from, bytes, .. } => to.follow_frames(*from, bytes),
    }
}

fn visible(log: &SegmentLog) -> Vec<String> {
    let mut reader = log
        .reader(log.earliest(), ReadFilter::default())
        .expect("a reader");
    let (slices, lsn) = drain(reader.as_mut());
    assert_whole_and_ordered(&slices);
    assert_eq!(lsn, log.tail().durable);
    let first = slices.iter().filter(|slice| slice.index == 0);
    first.map(|slice| labels_in(slice)[0].0.clone()).collect()
}

/// The frames and headers of both are the same bytes.
fn assert_same_bytes(pair: &Pair) {
    let frames = |log: &SegmentLog| {
        let start = log.segment_start(log.earliest()).expect("a start");
        let mut reader = log.raw_reader(start, RawLimit::Durable).expect("a reader");
        let mut items = Vec::new();
        reader.read(&mut items, u64::MAX).expect("read");
        let bytes = items.iter().flat_map(|item| item.bytes().to_vec());
        bytes.collect::<Vec<u8>>()
    };
    assert!(frames(&pair.primary) == frames(&pair.follower));
    for dir in [&pair.primary_dir, &pair.follower_dir] {
        let report = verify(&RealDisk, dir.path(), &NoProgress).expect("looked at");
        assert!(report.problems.is_empty(), "{:?}", report.problems);
    }
}

#[test]
fn g11_a_follower_has_the_same_bytes_and_shows_what_was_announced() {
    let pair = Pair::new();
    for round in 0..30 {
        append(&pair.primary, if round % 7 == 3 { 300 } else { 1 });
        if round == 11 || round == 12 {
            pair.primary.begin_epoch().expect("begun");
        }
        let shown = visible(&pair.follower);
        let end = stream(&pair.primary, &pair.follower);
        assert_eq!(end, pair.primary.identity().written);
        assert_eq!(visible(&pair.follower), shown, "nothing was announced");
        let durable = pair.primary.tail().durable;
        assert_eq!(pair.follower.announce(durable).expect("taken"), durable);
        assert_eq!(visible(&pair.follower), visible(&pair.primary));
        assert_eq!(pair.follower.epochs(), pair.primary.epochs());
    }
    assert_same_bytes(&pair);
}

#[test]
fn g11_a_follower_takes_no_appends_until_it_begins_an_epoch() {
    let pair = Pair::new();
    let end = append(&pair.primary, 1);
    stream(&pair.primary, &pair.follower);
    let refused = pair.follower.append(vec![commit_of(1, 100, 1, "x", 1)]);
    let expected = AppendError::Refused(RefusedReason::Following);
    assert_eq!(
        refused.expect_err("it follows").to_string(),
        expected.to_string()
    );
    assert!(pair.follower.follows());
    let record = pair.follower.begin_epoch().expect("promoted");
    assert!(!pair.follower.follows());
    // Not announced, but whole: it may have been acknowledged.
    assert_eq!(record.fork_lsn, Lsn(end));
    assert_eq!(visible(&pair.follower), visible(&pair.primary));
    let lsn = append(&pair.follower, 1);
    assert_eq!(lsn, end + 1);
    let item = RawItem::Frames {
        from: pair.follower.identity().written,
        next: pair.follower.identity().written,
        bytes: bytes::Bytes::new(),
        durable: true,
    };
    assert!(matches!(
        give(&pair.follower, &item),
        Err(FollowError::NotFollowing)
    ));
}

#[test]
fn g12_damaged_reordered_and_foreign_bytes_are_refused() {
    let pair = Pair::new();
    for _ in 0..30 {
        append(&pair.primary, 1);
    }
    let start = pair.follower.identity().written;
    let mut reader = pair
        .primary
        .raw_reader(start, RawLimit::Durable)
        .expect("a reader");
    let mut items = Vec::new();
    while items.len() < 3 {
        reader.read(&mut items, 1).expect("read");
    }
    let [RawItem::Frames { from, bytes, .. }, later, ..] = &items[..] else {
        panic!("frames")
    };
    for at in (0..bytes.len()).step_by(7) {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1 << (at % 8);
        let refused = pair.follower.follow_frames(*from, &damaged);
        assert!(
            matches!(refused, Err(FollowError::Refused { .. })),
            "byte {at}: {refused:?}"
        );
        assert_eq!(pair.follower.identity().written, start);
    }
    let cut = pair
        .follower
        .follow_frames(*from, &bytes[..bytes.len() - 8]);
    assert!(matches!(cut, Err(FollowError::Refused { .. })), "{cut:?}");
    let early = give(&pair.follower, later);
    assert!(
        matches!(early, Err(FollowError::Refused { .. })),
        "{early:?}"
    );
    give(&pair.follower, &items[0]).expect("taken");
    let twice = give(&pair.follower, &items[0]);
    assert!(
        matches!(twice, Err(FollowError::Refused { .. })),
        "{twice:?}"
    );
    let other = Pair::new();
    append(&other.primary, 1);
    assert!(
        !pair
            .primary
            .holds(other.primary.identity().written)
            .expect("looked")
    );
    stream(&pair.primary, &pair.follower);
    assert_eq!(
        pair.follower.identity().written,
        pair.primary.identity().written
    );
}

#[test]
fn g11_after_a_restart_the_last_batch_waits_for_its_announcement() {
    for last in [1, 300] {
        let mut pair = Pair::new();
        let known = append(&pair.primary, 1);
        let all = append(&pair.primary, last);
        stream(&pair.primary, &pair.follower);
        let dir = pair.follower_dir.path().to_owned();
        pair.follower.close();
        pair.follower = open(&dir, true, 0);
        assert_eq!(pair.follower.tail().durable, Lsn(known));
        assert_eq!(pair.follower.identity().written.lsn, Lsn(all));
        assert_eq!(pair.follower.announce(Lsn(all)).expect("taken"), Lsn(all));
        pair.follower.close();
        pair.follower = open(&dir, true, all);
        assert_eq!(pair.follower.tail().durable, Lsn(all), "its state has it");
        append(&pair.primary, 1);
        stream(&pair.primary, &pair.follower);
        pair.follower.announce(Lsn(all + 1)).expect("taken");
        assert_eq!(visible(&pair.follower), visible(&pair.primary));
        assert_same_bytes(&pair);
    }
}

/// A primary dies within a large commit: what of it a follower has is no part of any log.
#[test]
fn g3_a_promotion_cuts_an_unfinished_large_commit() {
    let whole = Pair::new();
    let before = append(&whole.primary, 1);
    // 150 kB: over several segments of 64 kB.
    append(&whole.primary, 300);
    let start = whole.follower.identity().written;
    let mut reader = whole
        .primary
        .raw_reader(start, RawLimit::Durable)
        .expect("a reader");
    let mut items = Vec::new();
    while items
        .last()
        .is_none_or(|item: &RawItem| item.next().lsn < Lsn(before + 300))
    {
        reader.read(&mut items, 1).expect("read");
    }
    for kept in 1..items.len() - 1 {
        let dir = tempfile::tempdir().expect("a directory");
        begin(&whole.primary, dir.path());
        let follower = open(dir.path(), true, 0);
        for item in &items[..kept] {
            give(&follower, item).expect("taken");
        }
        follower.announce(Lsn(1)).expect("taken");
        let shown = visible(&follower);
        let has = follower.identity().written.lsn;
        let record = follower.begin_epoch().expect("promoted");
        assert_eq!(record.fork_lsn, has);
        assert!(visible(&follower).starts_with(&shown));
        append(&follower, 300);
        append(&follower, 1);
        let expected = visible(&follower);
        follower.close();
        drop(follower);
        let report = verify(&RealDisk, dir.path(), &NoProgress).expect("looked at");
        assert!(report.problems.is_empty(), "{kept}: {:?}", report.problems);
        let again = open(dir.path(), false, has.0 + 301);
        assert_eq!(visible(&again), expected);
        assert_eq!(again.epochs().last(), Some(&record));
    }
}

#[test]
fn g5_two_logs_find_the_last_place_they_share() {
    let pair = Pair::new();
    for _ in 0..40 {
        append(&pair.primary, 1);
    }
    append(&pair.primary, 300);
    let shared = stream(&pair.primary, &pair.follower);
    append(&pair.primary, 1);
    // Ends of frames, newest first, each held.
    let ends = pair.primary.frame_ends(1_000).expect("looked");
    assert_eq!(ends.len(), 43);
    assert!(ends.windows(2).all(|pair| pair[0].lsn > pair[1].lsn));
    for (place, end) in ends.iter().enumerate() {
        assert!(pair.primary.holds(*end).expect("looked"));
        assert_eq!(pair.follower.holds(*end).expect("looked"), place > 0);
        let wrong = RawPosition {
            crc: end.crc ^ 1,
            ..*end
        };
        assert!(!pair.primary.holds(wrong).expect("looked"));
    }
    assert_eq!(ends[1], shared);
    assert_eq!(pair.primary.frame_ends(5).expect("looked"), ends[..5]);
    // Both go on, each in its own way.
    pair.follower.begin_epoch().expect("promoted");
    append(&pair.follower, 1);
    assert!(
        !pair
            .primary
            .holds(pair.follower.identity().written)
            .expect("looked")
    );
    let theirs = pair.follower.frame_ends(10).expect("looked");
    let last = theirs
        .iter()
        .find(|end| pair.primary.holds(**end).expect("looked"));
    assert_eq!(last, Some(&shared));
}

#[test]
fn a_watcher_is_told_of_what_is_written_and_of_what_is_durable() {
    let pair = Pair::new();
    let told = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&told);
    pair.primary.watch(Some(Arc::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    })));
    append(&pair.primary, 1);
    assert_eq!(told.load(Ordering::SeqCst), 2);
    pair.primary.watch(None);
    append(&pair.primary, 1);
    assert_eq!(told.load(Ordering::SeqCst), 2);
}

#[test]
fn g5_a_raw_reader_of_what_is_trimmed_is_told() {
    let pair = Pair::new();
    let old = pair.primary.identity().written;
    for _ in 0..100 {
        append(&pair.primary, 1);
    }
    let up_to = pair.primary.trim_candidate().expect("something to trim");
    pair.primary.trim(up_to).expect("trimmed");
    let refused = pair.primary.raw_reader(old, RawLimit::Durable).err();
    assert!(
        matches!(refused, Some(LogError::Trimmed { .. })),
        "{refused:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A reader that takes from memory what was just written, and reads the rest from disk, however these
    /// take turns: the same bytes.
    #[test]
    fn g11_what_is_sent_from_memory_is_what_was_written(
        steps in prop::collection::vec((0u8..8, 1u64..60), 1..60),
    ) {
        let pair = Pair::new();
        let at = pair.follower.identity().written;
        let mut reader = pair.primary.raw_reader(at, RawLimit::Written).expect("a reader");
        let mut reached = at;
        let pass = |items: Vec<RawItem>| {
            let durable = pair.primary.tail().durable;
            for item in &items {
                // Nothing is under way here: all that is whole is durable.
                if let RawItem::Frames { next, durable: flushed, .. } = item {
                    assert!(*flushed || next.lsn == durable, "{next:?} of {durable}");
                }
                give(&pair.follower, item).expect("taken");
            }
        };
        for (step, amount) in steps {
            let mut items = Vec::new();
            match step {
                0..=2 => _ = append(&pair.primary, amount),
                3 => _ = pair.primary.begin_epoch().expect("begun"),
                4 => reached = reader.read(&mut items, amount * 1_000).expect("read"),
                5..=6 => {
                    let recent = reader.read_recent(&mut items, amount * 1_000);
                    prop_assert!(recent.is_some() || items.is_empty());
                    reached = recent.unwrap_or(reached);
                }
                // Written just before, by one who is at the end: that is in memory.
                _ => {
                    while reader.read(&mut items, 1 << 20).expect("read") != reached {
                        reached = items.last().expect("there was more").next();
                    }
                    append(&pair.primary, 1);
                    let segment = pair.primary.identity().written.segment;
                    let recent = reader.read_recent(&mut items, 1 << 20);
                    prop_assert!(recent.is_some() || segment != reached.segment);
                    reached = recent.unwrap_or(reached);
                }
            }
            pass(items);
        }
        stream(&pair.primary, &pair.follower);
        pair.follower.announce(pair.primary.tail().durable).expect("taken");
        prop_assert_eq!(visible(&pair.follower), visible(&pair.primary));
        assert_same_bytes(&pair);
    }

    /// Whatever is streamed in whatever pieces over whatever restarts: the same bytes.
    #[test]
    fn g11_any_stream_gives_the_same_log(
        steps in prop::collection::vec((0u8..6, 1u64..60), 1..60),
    ) {
        let mut pair = Pair::new();
        for (step, amount) in steps {
            match step {
                0..=2 => _ = append(&pair.primary, amount),
                3 => _ = pair.primary.begin_epoch().expect("begun"),
                4 => {
                    let at = pair.follower.identity().written;
                    let mut reader =
                        pair.primary.raw_reader(at, RawLimit::Written).expect("a reader");
                    let mut items = Vec::new();
                    reader.read(&mut items, amount * 1_000).expect("read");
                    for item in &items {
                        give(&pair.follower, item).expect("taken");
                    }
                    if amount % 3 == 0 {
                        pair.follower.follow_flush().expect("flushed");
                    }
                }
                _ => {
                    let durable = pair.follower.tail().durable.0;
                    pair.follower.close();
                    let dir = pair.follower_dir.path().to_owned();
                    pair.follower = open(&dir, true, durable);
                }
            }
            prop_assert!(pair.follower.tail().durable <= pair.primary.tail().durable);
        }
        stream(&pair.primary, &pair.follower);
        pair.follower.announce(pair.primary.tail().durable).expect("taken");
        prop_assert_eq!(visible(&pair.follower), visible(&pair.primary));
        assert_same_bytes(&pair);
    }
}
