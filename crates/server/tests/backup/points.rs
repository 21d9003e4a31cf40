//! Point in time: 100 random LSNs and 20 random times under a random load.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use springhead_log::{Log, NoProgress, Progress};
use springhead_proto::{Lsn, TimestampMs};
use springhead_server::backup::manifest::Manifest;
use springhead_server::backup::restore::{Request, Restored, Steps, Target, restore};
use springhead_server::backup::store::Store;
use springhead_server::backup::{BackupError, source};
use springhead_sim::rng::Rng;
use tempfile::TempDir;

use super::oracle::{Loaded, config, dump_all, replayed_to, rows_of};

struct Quietly;

impl Steps for Quietly {
    fn begin(&self, _what: &'static str) -> Box<dyn Progress> {
        Box::new(NoProgress)
    }
}

/// A node that was backed up in the middle of a load, and its whole log.
struct Made {
    dir: TempDir,
    loaded: Loaded,
    manifest: Manifest,
}

impl Made {
    fn new(seed: u64) -> Made {
        let dir = tempfile::tempdir().unwrap();
        let mut loaded = Loaded::new(&dir.path().join("data"), seed);
        for _ in 0..80 {
            loaded.step();
        }
        let backup = dir.path().join("backup");
        let engine = loaded.engine.clone();
        let making = std::thread::spawn(move || {
            let mut store = Store::begin(&backup).unwrap();
            source::produce(&engine, u64::MAX, &mut |piece| store.take(piece)).unwrap();
            store.finish().unwrap()
        });
        // Commits go on while it is made, at least as many as it takes.
        while !making.is_finished() {
            loaded.step();
        }
        let manifest = making.join().unwrap();
        for _ in 0..160 {
            loaded.step();
        }
        loaded.engine.shutdown();
        Made {
            dir,
            loaded,
            manifest,
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("data/log")
    }

    fn restore(&self, target: Target, into: &Path) -> Result<Restored, BackupError> {
        let request = Request {
            backup: self.dir.path().join("backup"),
            more: vec![self.log()],
            target,
            epoch: None,
        };
        restore(&config(into), &request, &Quietly)
    }

    /// The last LSN of the last commit that ends at or before `lsn`.
    fn commit_at(&self, lsn: Lsn, commits: &BTreeMap<Lsn, Lsn>) -> Lsn {
        *commits.range(..=lsn).next_back().unwrap().0
    }

    /// The last LSN of every commit, with its first.
    fn commits(&self) -> BTreeMap<Lsn, Lsn> {
        let log = &self.loaded.log;
        let mut reader = log.reader(Lsn(1), Default::default()).unwrap();
        let mut slices = Vec::new();
        while reader.read(&mut slices, 1 << 20).unwrap() < log.tail().durable {}
        let commits = slices.iter();
        commits
            .map(|slice| (slice.commit_last_lsn(), slice.commit_lsn))
            .collect()
    }

    fn check(&self, restored: &Restored, expected: Lsn, into: &Path) {
        assert_eq!(restored.lsn, expected);
        assert_eq!(restored.epoch.fork_lsn, expected);
        assert_eq!(restored.epoch.number, restored.from_epoch.number + 1);
        let (found, oracle) = (dump_all(into), replayed_to(&self.log(), expected));
        if found != oracle {
            let at = found.iter().zip(&oracle).position(|(one, two)| one != two);
            let at = at.unwrap_or(found.len().min(oracle.len()));
            panic!(
                "at {expected}: line {at}\n{:?}\n{:?}",
                found.get(at),
                oracle.get(at)
            );
        }
        assert_eq!(&rows_of(into), self.loaded.rows_at(expected));
    }
}

#[test]
fn g1_g3_a_restore_to_any_lsn_is_what_a_replay_to_it_gives() {
    const LSNS: u64 = 100;
    let made = Made::new(11);
    let commits = made.commits();
    let (first, last) = (
        made.manifest.consistent_lsn,
        made.loaded.log.tail().durable.0,
    );
    let mut random = Rng::new(12);
    let mut within = 0;
    for round in 0..LSNS {
        let lsn = match round {
            0 => first,
            1 => last,
            _ => first + random.below(last - first + 1),
        };
        let into = tempfile::tempdir().unwrap();
        let expected = made.commit_at(Lsn(lsn), &commits);
        within += u64::from(expected != Lsn(lsn));
        let restored = made
            .restore(Target::Lsn(Lsn(lsn)), into.path())
            .unwrap_or_else(|error| panic!("{lsn} of {first} to {last}: {error}"));
        made.check(&restored, expected, into.path());
    }
    assert!(within > 0, "some lie within commits");
}

#[test]
fn g1_g3_a_restore_to_any_time_is_what_a_replay_to_it_gives() {
    const TIMES: u64 = 20;
    let made = Made::new(21);
    let times = &made.loaded.times;
    let begin = times
        .iter()
        .find(|(_, lsn)| lsn.0 >= made.manifest.consistent_lsn)
        .unwrap()
        .0
        .0;
    let end = times.last().unwrap().0.0;
    let mut random = Rng::new(22);
    for round in 0..TIMES {
        let time = match round {
            0 => end + 1_000,
            1 => end,
            _ => begin + random.below(end - begin + 1),
        };
        let expected = times.iter().rev().find(|(at, _)| at.0 <= time).unwrap().1;
        let into = tempfile::tempdir().unwrap();
        let restored = made
            .restore(Target::Time(TimestampMs(time)), into.path())
            .unwrap_or_else(|error| panic!("{time} of {begin} to {end}: {error}"));
        made.check(&restored, expected, into.path());
    }
}

#[test]
fn g5_a_target_that_cannot_be_reached_is_told_with_what_can() {
    let made = Made::new(31);
    let (first, last) = (
        made.manifest.consistent_lsn,
        made.loaded.log.tail().durable.0,
    );
    for (target, said) in [
        (
            Target::Lsn(Lsn(first - 1)),
            format!("LSN {first} and later"),
        ),
        (Target::Lsn(Lsn(last + 1)), format!("up to LSN {last} only")),
        (
            Target::Time(TimestampMs(1_000)),
            format!("LSN {first} and later"),
        ),
    ] {
        let into = tempfile::tempdir().unwrap();
        let refused = made.restore(target, into.path()).unwrap_err();
        assert!(refused.to_string().contains(&said), "{target:?}: {refused}");
        // And the directory can be used for another try.
        made.restore(Target::End, into.path()).unwrap();
        let exists = made.restore(Target::End, into.path()).unwrap_err();
        assert!(exists.to_string().contains("already"), "{exists}");
    }
}

#[test]
fn g12_a_flipped_bit_anywhere_in_a_backup_is_found_and_named() {
    let made = Made::new(41);
    let backup = made.dir.path().join("backup");
    let mut random = Rng::new(42);
    let mut paths: Vec<String> = made
        .manifest
        .files
        .iter()
        .map(|file| file.path.clone())
        .collect();
    paths.push("manifest.json".to_owned());
    for path in paths {
        let full = backup.join(&path);
        let sound = std::fs::read(&full).unwrap();
        for _ in 0..4 {
            let at = usize::try_from(random.below(sound.len() as u64)).unwrap();
            let mut damaged = sound.clone();
            damaged[at] ^= 1 << random.below(8);
            std::fs::write(&full, &damaged).unwrap();
            let into = tempfile::tempdir().unwrap();
            let refused = made.restore(Target::End, into.path()).unwrap_err();
            assert!(refused.is_damage(), "{refused}");
            assert!(refused.to_string().contains(&path), "{path}: {refused}");
            assert!(
                std::fs::read_dir(into.path()).unwrap().next().is_none(),
                "nothing was begun"
            );
        }
        std::fs::write(&full, &sound[..sound.len() - 1]).unwrap();
        let into = tempfile::tempdir().unwrap();
        assert!(
            made.restore(Target::End, into.path())
                .unwrap_err()
                .is_damage()
        );
        std::fs::write(&full, &sound).unwrap();
    }
    // In the log beyond the backup it is found by the frames' own checksums.
    let mut segments: Vec<_> = std::fs::read_dir(made.log())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "seg"))
        .collect();
    segments.sort();
    let middle = &segments[segments.len() - 2];
    let mut bytes = std::fs::read(middle).unwrap();
    bytes[5_000] ^= 4;
    std::fs::write(middle, &bytes).unwrap();
    let into = tempfile::tempdir().unwrap();
    let refused = made.restore(Target::End, into.path()).unwrap_err();
    assert!(refused.is_damage(), "{refused}");
    assert!(
        refused.to_string().contains(middle.to_str().unwrap()),
        "{refused}"
    );
}
