//! Damage to the files of a log: what a crash can have torn is cut, everything else is refused by
//! file and offset; nothing wrong is ever read.

#[path = "../../sim/src/disk.rs"]
#[allow(dead_code)]
mod disk;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::{Faults, SimDisk};
use springhead_log::conformance::{assert_whole_and_ordered, commit_of, labels_in};
use springhead_log::segment::{DumpItem, SegmentConfig, SegmentLog, dump, verify};
use springhead_log::{Log, LogError, ManualClock, NoProgress, ReadFilter};
use springhead_proto::Lsn;

const DIR: &str = "/log";

fn config() -> SegmentConfig {
    SegmentConfig {
        segment_bytes: 64 << 10,
        large_commit_bytes: 8 << 10,
        batch_bytes: 16 << 10,
        reserve_bytes: 0,
        background: false,
        ..SegmentConfig::default()
    }
}

fn open_with(disk: &SimDisk, config: SegmentConfig) -> Result<SegmentLog, LogError> {
    let clock = Arc::new(ManualClock::at(1_000));
    SegmentLog::open_on(
        Arc::new(disk.clone()),
        Path::new(DIR),
        config,
        clock,
        &NoProgress,
    )
}

fn open(disk: &SimDisk) -> Result<SegmentLog, LogError> {
    open_with(disk, config())
}

/// The label of each commit, in order; or why not all could be read.
fn read_all(log: &SegmentLog) -> Result<Vec<String>, LogError> {
    let mut reader = log.reader(log.earliest(), ReadFilter::default())?;
    let mut slices = Vec::new();
    while reader.read(&mut slices, 1 << 20)? < log.tail().durable {}
    assert_whole_and_ordered(&slices);
    let firsts = slices.iter().filter(|slice| slice.index == 0);
    Ok(firsts.map(|slice| labels_in(slice)[0].0.clone()).collect())
}

/// A disk with a log of `count` commits, each with `padding` bytes, and their labels.
fn written(count: usize, padding: usize) -> (SimDisk, Vec<String>) {
    let disk = SimDisk::new(1);
    let log = open(&disk).expect("opened");
    let labels: Vec<String> = (0..count)
        .map(|number| format!("commit {number}"))
        .collect();
    for label in &labels {
        log.append(vec![commit_of(1, 100, 1, label, padding)])
            .expect("appended");
    }
    (disk, labels)
}

fn files_ending(disk: &SimDisk, ending: &str) -> Vec<PathBuf> {
    let files = disk.files().into_iter();
    files
        .filter(|path| path.to_str().is_some_and(|path| path.ends_with(ending)))
        .collect()
}

/// Where each frame of a log begins, by file.
fn frames(disk: &SimDisk) -> Vec<(PathBuf, u64, u64)> {
    let mut file = PathBuf::new();
    let mut frames = Vec::new();
    dump(disk, Path::new(DIR), Lsn(1), Lsn::MAX, &mut |item| {
        match item {
            DumpItem::Segment { file: begun, .. } => file = begun,
            DumpItem::Frame { offset, bytes, .. } => frames.push((file.clone(), offset, bytes)),
            _ => {}
        }
        true
    })
    .expect("readable");
    frames
}

#[test]
fn g12_a_tail_torn_at_any_byte_is_cut_to_whole_commits() {
    let (disk, labels) = written(6, 40);
    let frames = frames(&disk);
    let (path, start, _) = frames[3].clone();
    let end = frames[5].1 + frames[5].2;
    let sound = disk.content(&path).expect("there");
    for at in start..end {
        let at = usize::try_from(at).expect("small");
        let whole = frames
            .iter()
            .filter(|(_, offset, bytes)| offset + bytes <= at as u64)
            .count();
        for truncate in [false, true] {
            disk.damage(&path, |content| {
                content.clone_from(&sound);
                if truncate {
                    content.truncate(at)
                } else {
                    content[at..].fill(0)
                }
            });
            // The padding at a frame's end is zeros anyway.
            let same = disk.content(&path).is_some_and(|content| content == sound);
            let expected = if same { labels.len() } else { whole };
            let log = open(&disk).expect("a torn tail is cut");
            let read = read_all(&log).expect("sound");
            assert!(
                read == labels[..expected] || read == labels[..expected + 1],
                "byte {at}: {read:?}"
            );
            if read.len() > whole {
                // Only padding was lost.
                continue;
            }
            log.append(vec![commit_of(1, 100, 1, "after", 40)])
                .expect("the log goes on");
            drop(log);
            let log = open(&disk).expect("sound");
            assert_eq!(
                read_all(&log).expect("sound").last().map(String::as_str),
                Some("after")
            );
            // Somebody knows of an LSN that is gone: then it is damage.
            disk.damage(&path, |content| {
                content.clone_from(&sound);
                if truncate {
                    content.truncate(at)
                } else {
                    content[at..].fill(0)
                }
            });
            let known_durable = Lsn(labels.len() as u64);
            let refused = open_with(
                &disk,
                SegmentConfig {
                    known_durable,
                    ..config()
                },
            )
            .err();
            let Some(LogError::Corrupt { file, offset, .. }) = refused else {
                panic!("byte {at}: {refused:?}");
            };
            assert_eq!(
                (Path::new(&file), offset),
                (path.as_path(), frames[whole].1)
            );
        }
    }
}

/// Flips bits all over a log of two segments. Whatever is read afterwards is what was written.
#[test]
fn g12_a_flipped_bit_is_cut_only_in_the_last_frame_and_never_read() {
    let (disk, labels) = written(70, 1_000);
    let frames = frames(&disk);
    let segments = files_ending(&disk, ".seg");
    assert_eq!(
        segments.len(),
        2,
        "the test wants a sealed and an active segment"
    );
    let (last_file, last_offset, last_bytes) = frames.last().cloned().expect("frames");
    for segment in &segments {
        let own = frames.iter().filter(|(path, _, _)| path == segment);
        let end = own
            .map(|(_, offset, bytes)| offset + bytes)
            .max()
            .unwrap_or(4096);
        let sound = disk.content(segment).expect("there");
        let heads: Vec<u64> = frames
            .iter()
            .filter(|(path, _, _)| path == segment)
            .flat_map(|(_, offset, _)| (*offset..offset + 70).step_by(3))
            .collect();
        let everywhere = (0..end).step_by(97);
        let header = 0..100;
        for at in everywhere.chain(header).chain(heads) {
            let bit = 1u8 << (at % 8);
            let place = usize::try_from(at).expect("small");
            disk.damage(segment, |content| content[place] ^= bit);
            let in_last =
                *segment == last_file && at >= last_offset && at < last_offset + last_bytes;
            match open(&disk).and_then(|log| read_all(&log)) {
                Ok(read) if in_last => assert_eq!(read, labels[..labels.len() - 1], "byte {at}"),
                Ok(_) => panic!("{}: nobody noticed byte {at}", segment.display()),
                Err(LogError::Corrupt { file, .. }) => {
                    assert_eq!(Path::new(&file), segment, "byte {at}");
                }
                Err(LogError::NewerFormat { .. }) if at < 4096 => {}
                Err(error) => panic!("byte {at}: {error}"),
            }
            disk.damage(segment, |content| content.clone_from(&sound));
        }
    }
    assert_eq!(
        read_all(&open(&disk).expect("sound")).expect("sound"),
        labels
    );
}

#[test]
fn g12_damage_in_the_small_files_is_refused_or_repaired() {
    let (disk, labels) = written(200, 1_000);
    let epochs = PathBuf::from("/log/epochs");
    let length = disk.content(&epochs).expect("there").len();
    for at in 0..length {
        disk.damage(&epochs, |content| content[at] ^= 4);
        assert!(
            matches!(open(&disk), Err(LogError::Corrupt { .. })),
            "byte {at}"
        );
        disk.damage(&epochs, |content| content[at] ^= 4);
    }
    let indexes = files_ending(&disk, ".idx");
    assert!(!indexes.is_empty());
    for index in indexes {
        let sound = disk.content(&index).expect("there");
        for at in 0..sound.len() {
            disk.damage(&index, |content| content[at] ^= 1);
            let log = open(&disk).expect("an index is rebuilt");
            if at % 50 == 0 {
                assert_eq!(read_all(&log).expect("sound"), labels);
            }
            drop(log);
            assert_eq!(
                disk.content(&index).expect("there"),
                sound,
                "the same again"
            );
        }
    }
}

#[test]
fn g12_a_missing_segment_is_named() {
    let (disk, _) = written(200, 1_000);
    let segments = files_ending(&disk, ".seg");
    assert!(segments.len() >= 3);
    use springhead_log::disk::Disk as _;
    disk.remove(&segments[1]).expect("removed");
    let refused = open(&disk).err().map(|error| error.to_string());
    assert!(
        refused
            .as_ref()
            .is_some_and(|text| text.contains("segment 2")),
        "{refused:?}"
    );
    disk.remove(&segments[0]).expect("removed");
    disk.remove(&segments[2]).expect("removed");
    for segment in &segments[3..] {
        disk.remove(segment).expect("removed");
    }
    let known_durable = Lsn(200);
    let refused = open_with(
        &disk,
        SegmentConfig {
            known_durable,
            ..config()
        },
    );
    assert!(
        matches!(refused, Err(LogError::Corrupt { .. })),
        "no new log over a lost one"
    );
}

/// A recycled file still holds whole frames of its earlier life, right behind the new end.
#[test]
fn g12_stale_frames_in_a_recycled_segment_never_come_back() {
    let disk = SimDisk::new(1);
    let config = SegmentConfig {
        retain_bytes: 64 << 10,
        ..config()
    };
    let log = open_with(&disk, config.clone()).expect("opened");
    let append = |log: &SegmentLog, label: &str| {
        log.append(vec![commit_of(1, 100, 1, label, 1_000)])
            .expect("appended");
    };
    for _ in 0..300 {
        append(&log, "old");
    }
    log.trim(log.trim_candidate().expect("more than is kept"))
        .expect("trimmed");
    assert!(
        disk.files()
            .iter()
            .any(|path| path.to_string_lossy().contains("spare-"))
    );
    let mut count = 0;
    let segments = log.stats().segments;
    while log.stats().segments == segments {
        append(&log, "new");
        count += 1;
    }
    let tail = log.tail().durable;
    let last = files_ending(&disk, ".seg").pop().expect("segments");
    drop(log);
    let content = disk.content(&last).expect("there");
    let stale = content
        .windows(4)
        .skip(8_192)
        .filter(|window| window == b"SHfr")
        .count();
    assert!(stale > 10, "the file was used before");
    let log = open_with(
        &disk,
        SegmentConfig {
            known_durable: tail,
            ..config.clone()
        },
    );
    let log = log.expect("stale frames are no damage");
    assert!(log.cut_tail().is_none(), "nor a torn write");
    assert_eq!(log.tail().durable, tail);
    let read = read_all(&log).expect("sound");
    assert_eq!(read.iter().filter(|label| *label == "new").count(), count);
    drop(log);
    // Also where the next frame of the earlier life begins exactly at the new end.
    let frames = frames(&disk);
    let (_, offset, bytes) = frames.last().cloned().expect("frames");
    let other = files_ending(&disk, ".seg").remove(0);
    let other = disk.content(&other).expect("there");
    let end = usize::try_from(offset + bytes).expect("small");
    disk.damage(&last, |content| {
        let length = other.len() - end;
        content[end..].copy_from_slice(&other[end..end + length]);
    });
    let log = open_with(&disk, config).expect("stale frames are no damage");
    assert_eq!(log.tail().durable, tail);
}

/// A large commit lies in many frames and several segments. Cut off at any call while it is
/// written, it is there whole or not at all, and the log goes on.
#[test]
fn g3_a_large_commit_cut_off_anywhere_is_whole_or_absent() {
    let mut whole = 0;
    for call in 1.. {
        let disk = SimDisk::new(call);
        let log = open(&disk).expect("opened");
        log.append(vec![commit_of(1, 100, 1, "before", 30_000)])
            .expect("appended");
        disk.set_faults(Faults {
            power_off_at: Some(call),
            ..Faults::default()
        });
        let appended = log
            .append(vec![commit_of(1, 100, 200, "large", 1_000)])
            .is_ok();
        drop(log);
        disk.power_cycle();
        let known_durable = if appended { Lsn(201) } else { Lsn(1) };
        let log = open_with(
            &disk,
            SegmentConfig {
                known_durable,
                ..config()
            },
        )
        .expect("opened");
        let read = read_all(&log).expect("sound");
        let expected = if read.len() == 1 {
            vec!["before"]
        } else {
            vec!["before", "large"]
        };
        assert_eq!(read, expected);
        assert!(!appended || read.len() == 2);
        let next = log
            .append(vec![commit_of(1, 100, 1, "after", 30_000)])
            .expect("goes on");
        assert_eq!(next.first_lsn, Lsn(if read.len() == 2 { 202 } else { 2 }));
        drop(log);
        let log = open(&disk).expect("opened");
        let read = read_all(&log).expect("sound");
        assert_eq!(read.last().map(String::as_str), Some("after"));
        let report = verify(&disk, Path::new(DIR), &NoProgress).expect("looked at");
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        whole += u32::from(appended);
        if whole == 3 {
            assert!(call > 20, "there were calls to cut off at");
            return;
        }
    }
}

#[test]
fn verify_and_dump_agree_with_the_log() {
    let (disk, labels) = written(150, 1_000);
    {
        let log = open(&disk).expect("opened");
        log.append(vec![commit_of(2, 101, 300, "large", 1_000)])
            .expect("appended");
        log.append(vec![commit_of(1, 100, 1, "end", 0)])
            .expect("appended");
    }
    let report = verify(&disk, Path::new(DIR), &NoProgress).expect("looked at");
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!(report.torn_tail, None);
    assert_eq!(report.next_lsn, Lsn(452));
    assert_eq!(
        report
            .segments
            .iter()
            .map(|segment| segment.changes)
            .sum::<u64>(),
        451
    );
    assert_eq!(
        report
            .segments
            .iter()
            .map(|segment| segment.commits)
            .sum::<u64>(),
        152
    );
    let (active, sealed) = report.segments.split_last().expect("segments");
    assert!(sealed.iter().all(|segment| segment.indexed) && !active.indexed);
    let shown = |from, to| {
        let mut slices = Vec::new();
        dump(&disk, Path::new(DIR), Lsn(from), Lsn(to), &mut |item| {
            if let DumpItem::Commit(slice) = item {
                slices.push(slice);
            }
            true
        })
        .expect("readable");
        assert_whole_and_ordered(&slices);
        let firsts = slices.iter().filter(|slice| slice.index == 0);
        firsts
            .map(|slice| labels_in(slice)[0].0.clone())
            .collect::<Vec<_>>()
    };
    let mut all = labels.clone();
    all.extend(["large".to_owned(), "end".to_owned()]);
    assert_eq!(shown(1, u64::MAX), all);
    assert_eq!(shown(100, 102), labels[99..102]);
    assert_eq!(shown(300, 300), ["large"]);
    assert_eq!(shown(451, 451), ["end"]);

    let middle = &report.segments[1].file;
    disk.damage(middle, |content| content[30_000] ^= 1);
    let report = verify(&disk, Path::new(DIR), &NoProgress).expect("looked at");
    let Some(LogError::Corrupt { file, offset, .. }) = report.problems.first() else {
        panic!("{:?}", report.problems);
    };
    assert_eq!(Path::new(file), middle);
    assert!(*offset <= 30_000 && *offset > 28_000);
}

#[test]
fn a_compressed_segment_is_read_and_checked_like_any_other() {
    let disk = SimDisk::new(1);
    let config = SegmentConfig {
        compress_level: Some(1),
        ..config()
    };
    let log = open_with(&disk, config.clone()).expect("opened");
    let labels: Vec<String> = (0..300).map(|number| format!("commit {number}")).collect();
    for label in &labels {
        log.append(vec![commit_of(1, 100, 1, label, 1_000)])
            .expect("appended");
    }
    drop(log);
    let compressed = files_ending(&disk, ".segz");
    assert!(compressed.len() > 3);
    let log = open_with(&disk, config.clone()).expect("opened");
    assert_eq!(read_all(&log).expect("sound"), labels);
    drop(log);
    let report = verify(&disk, Path::new(DIR), &NoProgress).expect("looked at");
    assert!(report.problems.is_empty() && report.segments[0].compressed);
    let sound = disk.content(&compressed[1]).expect("there");
    for at in (0..sound.len()).step_by(7) {
        disk.damage(&compressed[1], |content| content[at] ^= 16);
        match open_with(&disk, config.clone()).and_then(|log| read_all(&log)) {
            Err(LogError::Corrupt { file, .. }) => assert_eq!(Path::new(&file), compressed[1]),
            other => panic!("byte {at}: {other:?}"),
        }
        disk.damage(&compressed[1], |content| content.clone_from(&sound));
    }
}

#[test]
fn a_segment_of_a_newer_format_is_refused_by_name() {
    let (disk, _) = written(1, 10);
    let segment = files_ending(&disk, ".seg").remove(0);
    disk.damage(&segment, |content| {
        content[8] = 2;
        let crc = crc32c::crc32c(&content[..80]);
        content[80..84].copy_from_slice(&crc.to_le_bytes());
    });
    let refused = open(&disk).err();
    let Some(LogError::NewerFormat {
        file,
        found: 2,
        supported: 1,
    }) = refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!(Path::new(&file), segment);
}

#[test]
fn progress_of_recovery_and_verify_reaches_its_total() {
    let (disk, _) = written(300, 1_000);
    let check = |run: &dyn Fn(&dyn springhead_log::Progress)| {
        let reports = std::sync::Mutex::new(Vec::new());
        run(&|done, total| reports.lock().expect("no panic").push((done, total)));
        let reports = reports.into_inner().expect("no panic");
        assert!(reports.len() > 5 && reports.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        let (done, total) = reports.last().copied().expect("reports");
        assert!(done == total && total > 300_000, "{done} of {total}");
    };
    check(&|progress| {
        verify(&disk, Path::new(DIR), progress).expect("looked at");
    });
    check(&|progress| {
        let clock = Arc::new(ManualClock::at(1_000));
        let disk = Arc::new(disk.clone());
        SegmentLog::open_on(disk, Path::new(DIR), config(), clock, progress).expect("opened");
    });
}
