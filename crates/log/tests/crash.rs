//! Power cuts, torn writes, failing disks and full ones, on the simulated disk. Each seed is one
//! life of a log: it is opened, written, cut off at some call, opened again and held to what it had
//! acknowledged. A failure names its seed.

// The simulated disk belongs to the crate `sim`, which depends on this one.
#[path = "../../sim/src/disk.rs"]
#[allow(dead_code)]
mod disk;

use std::path::Path;
use std::sync::Arc;

use disk::{Faults, Random, SimDisk};
use springhead_log::conformance::{assert_whole_and_ordered, commit_of, drain, labels_in};
use springhead_log::segment::{SegmentConfig, SegmentLog};
use springhead_log::{
    AppendError, CommitSlice, Log, LogError, ManualClock, NoProgress, PendingCommit, ReadFilter,
    RefusedReason,
};
use springhead_proto::Lsn;

const DIR: &str = "/log";

fn config() -> SegmentConfig {
    SegmentConfig {
        segment_bytes: 64 << 10,
        large_commit_bytes: 8 << 10,
        batch_bytes: 16 << 10,
        retain_bytes: u64::MAX,
        reserve_bytes: 0,
        background: false,
        ..SegmentConfig::default()
    }
}

fn open(disk: &SimDisk, config: SegmentConfig) -> Result<SegmentLog, LogError> {
    let clock = Arc::new(ManualClock::at(1_000));
    SegmentLog::open_on(
        Arc::new(disk.clone()),
        Path::new(DIR),
        config,
        clock,
        &NoProgress,
    )
}

fn read_all(log: &SegmentLog) -> Vec<CommitSlice> {
    let mut reader = log
        .reader(log.earliest(), ReadFilter::default())
        .expect("a reader");
    let slices = drain(reader.as_mut()).0;
    assert_whole_and_ordered(&slices);
    slices
}

/// The label of each commit, in order, with its LSN.
fn commits_in(slices: &[CommitSlice]) -> Vec<(Lsn, String)> {
    slices
        .iter()
        .filter(|slice| slice.index == 0)
        .map(|slice| (slice.commit_lsn, labels_in(slice)[0].0.clone()))
        .collect()
}

/// One call of append: some commits, small ones mostly.
fn some_commits(random: &mut Random, label: &mut u64) -> (Vec<PendingCommit>, Vec<String>) {
    let count = 1 + random.below(3);
    let mut commits = Vec::new();
    let mut labels = Vec::new();
    for _ in 0..count {
        *label += 1;
        let text = label.to_string();
        let (changes, padding) = match random.below(12) {
            // Over several frames, now and then over several segments.
            0 => (1 + random.below(300), 1_000),
            1 => (1 + random.below(3), 50_000),
            _ => (1 + random.below(4), 200),
        };
        let tenant = 1 + u32::try_from(random.below(3)).expect("small");
        commits.push(commit_of(tenant, 100, changes, &text, padding));
        labels.push(text);
    }
    (commits, labels)
}

/// What a log must hold: the commits known to be there, and those of the call whose outcome nobody
/// learned.
#[derive(Default)]
struct Model {
    certain: Vec<(Lsn, String)>,
    unknown: Vec<String>,
    /// Trimming has been asked for up to here.
    trimmed: Lsn,
}

impl Model {
    /// Checks what is there after a start, from `earliest` on; from then on it is certain.
    fn check(&mut self, earliest: Lsn, slices: &[CommitSlice], seed: u64) -> Lsn {
        assert!(
            earliest <= self.trimmed.next(),
            "seed {seed}: trimmed more than was asked"
        );
        self.certain.retain(|(lsn, _)| *lsn >= earliest);
        let found = commits_in(slices);
        let certain = self.certain.len();
        assert!(
            found.len() >= certain,
            "seed {seed}: an acknowledged commit is gone"
        );
        assert_eq!(
            found[..certain],
            self.certain[..],
            "seed {seed}: acknowledged commits differ"
        );
        let more: Vec<&String> = found[certain..].iter().map(|(_, label)| label).collect();
        assert!(
            more.len() <= self.unknown.len(),
            "seed {seed}: more than was ever appended"
        );
        assert!(
            more.iter()
                .zip(&self.unknown)
                .all(|(found, given)| *found == given),
            "seed {seed}: {more:?} was never appended like this"
        );
        let mut next = earliest;
        for slice in slices.iter().filter(|slice| slice.index == 0) {
            assert_eq!(slice.commit_lsn, next, "seed {seed}: LSNs are dense");
            next = slice.commit_last_lsn().next();
        }
        self.certain = found;
        self.unknown.clear();
        next.previous()
    }
}

fn live_and_die(seed: u64) {
    let disk = SimDisk::new(seed);
    let mut random = Random::new(seed ^ 0x5eed);
    let mut model = Model::default();
    let mut label = 0;
    let mut known_durable = Lsn::ZERO;
    let mut epochs = Vec::new();
    for _ in 0..6 {
        // A start may be cut off as well, as often as it likes.
        let log = loop {
            let power_off_at = Some(1 + random.below(400));
            let short_writes = random.below(4) == 0;
            disk.set_faults(Faults {
                power_off_at,
                short_writes,
                ..Faults::default()
            });
            let compress_level = seed.is_multiple_of(3).then_some(1);
            match open(
                &disk,
                SegmentConfig {
                    known_durable,
                    compress_level,
                    ..config()
                },
            ) {
                Ok(log) => break log,
                Err(error) => {
                    assert!(disk.is_off(), "seed {seed}: {error}");
                    disk.power_cycle();
                }
            }
        };
        let earliest = log.earliest();
        let mut slices = Vec::new();
        let mut reader = log
            .reader(earliest, ReadFilter::default())
            .expect("a reader");
        loop {
            match reader.read(&mut slices, 1 << 20) {
                Ok(lsn) if lsn == log.tail().durable => break,
                Ok(_) => {}
                Err(error) => {
                    assert!(disk.is_off(), "seed {seed}: {error}");
                    slices.clear();
                    break;
                }
            }
        }
        if disk.is_off() {
            drop(log);
            disk.power_cycle();
            continue;
        }
        assert_whole_and_ordered(&slices);
        known_durable = model.check(earliest, &slices, seed);
        let found = log.epochs();
        assert!(
            found.starts_with(&epochs) && found.len() <= epochs.len() + 1,
            "seed {seed}: a history that was begun is there, and one more at most"
        );
        epochs = found;
        loop {
            if random.below(30) == 0 {
                match log.begin_epoch() {
                    Ok(record) => epochs.push(record),
                    Err(_) => break,
                }
            }
            let (commits, labels) = some_commits(&mut random, &mut label);
            let mut lsn = Lsn::ZERO;
            let counts: Vec<u64> = commits.iter().map(|commit| commit.count).collect();
            match log.append(commits) {
                Ok(appended) => {
                    for (count, label) in counts.iter().zip(labels) {
                        if lsn == Lsn::ZERO {
                            lsn = appended.first_lsn;
                        }
                        model.certain.push((lsn, label));
                        lsn = lsn.plus(*count);
                    }
                    known_durable = lsn.previous();
                    if random.below(4) == 0
                        && let Some(up_to) = log.trim_candidate()
                    {
                        model.trimmed = up_to;
                        if log.trim(up_to).is_err() {
                            assert!(
                                disk.is_off(),
                                "seed {seed}: a trim fails only without power"
                            );
                        }
                    }
                }
                Err(AppendError::Poisoned(_)) => {
                    model.unknown = labels;
                    break;
                }
                Err(refused) => panic!("seed {seed}: {refused}"),
            }
        }
        let again = log.append(vec![commit_of(1, 100, 1, "late", 0)]);
        assert!(
            matches!(again, Err(AppendError::Poisoned(_))),
            "seed {seed}: poison stays"
        );
        drop(log);
        disk.power_cycle();
    }
    let log = open(
        &disk,
        SegmentConfig {
            known_durable,
            ..config()
        },
    )
    .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    model.check(log.earliest(), &read_all(&log), seed);
}

#[test]
fn g1_g3_a_power_cut_at_any_call_loses_nothing_acknowledged_and_leaves_nothing_half() {
    for seed in 0..250 {
        live_and_die(seed);
    }
}

#[test]
fn g1_concurrent_appenders_lose_nothing_acknowledged_in_a_power_cut() {
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let mut random = Random::new(seed);
        drop(open(&disk, config()).expect("opened"));
        let power_off_at = Some(20 + random.below(400));
        disk.set_faults(Faults {
            power_off_at,
            ..Faults::default()
        });
        let Ok(log) = open(&disk, config()) else {
            continue;
        };
        let mut acknowledged: Vec<(Lsn, String)> = std::thread::scope(|scope| {
            let appenders: Vec<_> = (0..6)
                .map(|appender| {
                    let log = &log;
                    scope.spawn(move || {
                        let mut own = Vec::new();
                        for call in 0.. {
                            let label = format!("{appender}/{call}");
                            match log.append(vec![commit_of(1, 100, 2, &label, 300)]) {
                                Ok(appended) => own.push((appended.first_lsn, label)),
                                Err(AppendError::Poisoned(_)) => break,
                                Err(refused) => panic!("{refused}"),
                            }
                        }
                        own
                    })
                })
                .collect();
            appenders
                .into_iter()
                .flat_map(|thread| thread.join().expect("no panic"))
                .collect()
        });
        acknowledged.sort();
        let known_durable = acknowledged.last().map_or(Lsn::ZERO, |(lsn, _)| lsn.next());
        drop(log);
        disk.power_cycle();
        let log = open(
            &disk,
            SegmentConfig {
                known_durable,
                ..config()
            },
        )
        .expect("opened");
        let found = commits_in(&read_all(&log));
        for commit in &acknowledged {
            assert!(found.contains(commit), "seed {seed}: {commit:?} is gone");
        }
        // At most one call of each appender was under way.
        assert!(found.len() <= acknowledged.len() + 6, "seed {seed}");
    }
}

/// A failed flush says nothing about what is on disk, and a second one would lie (the kernel has
/// marked the pages clean): the log must never try again.
/// Killed between writing a frame and flushing it, a process left a frame that the next one trusted and
/// built its states on; a power cut then took it, and the states were ahead of the log. Found by the
/// simulation of devices.
#[test]
fn g1_what_is_recovered_is_durable_before_it_counts() {
    for power_off_at in 1..=4 {
        let disk = SimDisk::new(power_off_at);
        let log = open(&disk, config()).expect("opened");
        let append = |label: &str| log.append(vec![commit_of(1, 100, 1, label, 2_000)]);
        append("first").expect("appended");
        disk.set_faults(Faults {
            power_off_at: Some(power_off_at),
            ..Faults::default()
        });
        let _ = append("second");
        // The process ends there; nobody has cut the power.
        let left = disk.fork();
        let log = open(&left, config()).expect("opened again");
        let seen = commits_in(&read_all(&log));
        drop(log);
        left.power_cycle();
        let log = open(&left, config()).expect("opened after the cut");
        assert_eq!(commits_in(&read_all(&log)), seen, "call {power_off_at}");
    }
}

#[test]
fn g12_a_failed_flush_or_write_poisons_for_good() {
    let broken = [
        Faults {
            sync_error_at: Some(1),
            ..Faults::default()
        },
        Faults {
            write_error_at: Some(1),
            ..Faults::default()
        },
    ];
    for faults in broken {
        let disk = SimDisk::new(1);
        let log = open(&disk, config()).expect("opened");
        let append = |label: &str| log.append(vec![commit_of(1, 100, 1, label, 10)]);
        append("good").expect("appended");
        disk.set_faults(faults);
        assert!(matches!(append("lost"), Err(AppendError::Poisoned(_))));
        assert!(matches!(append("later"), Err(AppendError::Poisoned(_))));
        assert!(log.poisoned().is_some());
        assert_eq!(
            log.tail().durable,
            Lsn(1),
            "nothing unacknowledged is shown"
        );
        assert_eq!(commits_in(&read_all(&log)), [(Lsn(1), "good".to_owned())]);
        drop(log);
        disk.power_cycle();
        let config = SegmentConfig {
            known_durable: Lsn(1),
            ..config()
        };
        let log = open(&disk, config).expect("opened");
        assert_eq!(commits_in(&read_all(&log))[0], (Lsn(1), "good".to_owned()));
    }
}

#[test]
fn g12_a_full_disk_refuses_and_recovers() {
    let disk = SimDisk::new(1);
    let clock = Arc::new(ManualClock::at(1_000));
    let config = SegmentConfig {
        reserve_bytes: 100_000,
        ..config()
    };
    let log = SegmentLog::open_on(
        Arc::new(disk.clone()),
        Path::new(DIR),
        config,
        clock.clone(),
        &NoProgress,
    )
    .expect("opened");
    let append = |label: &str| log.append(vec![commit_of(1, 100, 1, label, 1_000)]);
    append("before").expect("appended");
    disk.set_capacity_bytes(150_000);
    clock.advance(1_000);
    let refused = append("refused").expect_err("the disk is filling");
    let AppendError::Refused(RefusedReason::DiskReserve {
        available_bytes,
        reserve_bytes,
    }) = refused
    else {
        panic!("{refused}");
    };
    assert!(available_bytes < reserve_bytes);
    assert_eq!(commits_in(&read_all(&log)).len(), 1, "reads go on");
    disk.set_capacity_bytes(u64::MAX);
    append("after").expect("writes go on by themselves");
    assert_eq!(log.tail().durable, Lsn(2), "the refused one took no LSN");
}

/// Without a reserve the disk is really full when the next segment is laid out: what did not fit is
/// refused, not unknown, and the log goes on when there is room again.
#[test]
fn g12_no_room_for_the_next_segment_refuses() {
    let disk = SimDisk::new(1);
    let log = open(&disk, config()).expect("opened");
    disk.set_capacity_bytes(100_000);
    let mut appended = 0;
    let refused = loop {
        match log.append(vec![commit_of(1, 100, 1, "x", 5_000)]) {
            Ok(_) => appended += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AppendError::Refused(_)), "{refused}");
    assert!(appended > 5);
    disk.set_capacity_bytes(u64::MAX);
    log.append(vec![commit_of(1, 100, 1, "x", 5_000)])
        .expect("there is room again");
    drop(log);
    disk.power_cycle();
    let log = open(
        &disk,
        SegmentConfig {
            known_durable: Lsn(appended + 1),
            ..config()
        },
    );
    assert_eq!(
        commits_in(&read_all(&log.expect("opened"))).len() as u64,
        appended + 1
    );
}
