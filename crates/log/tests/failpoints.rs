//! A real process on real files, ended by SIGKILL at each place there is. Needs the feature
//! `failpoints`: `cargo nextest run -p springhead-log --features failpoints`.
#![cfg(feature = "failpoints")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use springhead_log::conformance::{assert_whole_and_ordered, commit_of, drain, labels_in};
use springhead_log::disk::RealDisk;
use springhead_log::failpoint::LOG_FAILPOINTS;
use springhead_log::segment::{SegmentConfig, SegmentLog, verify};
use springhead_log::{Log, NoProgress, ReadFilter, SystemClock};
use springhead_proto::Lsn;

const DIR_VARIABLE: &str = "SPRINGHEAD_TEST_LOG_DIR";

fn open(dir: &Path, known_durable: Lsn) -> SegmentLog {
    let config = SegmentConfig {
        known_durable,
        segment_bytes: 64 << 10,
        large_commit_bytes: 8 << 10,
        batch_bytes: 16 << 10,
        retain_bytes: 200 << 10,
        reserve_bytes: 0,
        compress_level: Some(1),
        background: false,
        ..SegmentConfig::default()
    };
    SegmentLog::open(dir, config, Arc::new(SystemClock)).expect("opened")
}

/// Not a test of its own: what the child process does. Says on stdout what was acknowledged.
#[test]
fn child_appends_until_it_is_ended() {
    let Some(dir) = std::env::var_os(DIR_VARIABLE) else {
        return;
    };
    let log = open(Path::new(&dir), Lsn::ZERO);
    let mut out = std::io::stdout();
    for number in log.tail().durable.0..2_000 {
        let large = number % 40 == 39;
        let count = if large { 60 } else { 1 };
        let commit = commit_of(1, 100, count, &format!("n{number}"), 1_000);
        let appended = log.append(vec![commit]).expect("appended");
        let last = appended.first_lsn.plus(count - 1);
        writeln!(
            out,
            "\nacknowledged {} {last} n{number}",
            appended.first_lsn
        )
        .expect("told");
        if let Some(up_to) = log.trim_candidate() {
            log.trim(up_to).expect("trimmed");
        }
    }
}

#[test]
fn g1_g3_killed_at_every_failpoint_the_log_keeps_what_it_acknowledged() {
    let mut killed = 0;
    for name in LOG_FAILPOINTS {
        for pass in [1, 2, 7] {
            let dir = tempfile::tempdir().expect("a directory");
            let mut acknowledged: Vec<(Lsn, String)> = Vec::new();
            let mut known_durable = Lsn::ZERO;
            for _ in 0..2 {
                let mut child = Command::new(std::env::current_exe().expect("this test"))
                    .args(["--exact", "child_appends_until_it_is_ended", "--nocapture"])
                    .env(DIR_VARIABLE, dir.path())
                    .env("SPRINGHEAD_FAILPOINT", format!("{name}:{pass}"))
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null())
                    .spawn()
                    .expect("started");
                let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
                for line in lines.map_while(Result::ok) {
                    let words: Vec<&str> = line.split(' ').collect();
                    if let ["acknowledged", first, last, label] = words[..] {
                        let lsn = |text: &str| Lsn(text.parse().expect("an LSN"));
                        acknowledged.push((lsn(first), label.to_owned()));
                        known_durable = lsn(last);
                    }
                }
                let status = child.wait().expect("ended");
                assert_eq!(status.signal(), Some(9), "{name}:{pass} was never passed");
                killed += 1;
                let report = verify(&RealDisk, dir.path(), &NoProgress).expect("looked at");
                assert!(
                    report.problems.is_empty(),
                    "{name}:{pass}: {:?}",
                    report.problems
                );
                let log = open(dir.path(), known_durable);
                let earliest = log.earliest();
                let mut reader = log
                    .reader(earliest, ReadFilter::default())
                    .expect("a reader");
                let (slices, _) = drain(reader.as_mut());
                assert_whole_and_ordered(&slices);
                let found: Vec<(Lsn, String)> = slices
                    .iter()
                    .filter(|slice| slice.index == 0)
                    .map(|slice| (slice.commit_lsn, labels_in(slice)[0].0.clone()))
                    .collect();
                acknowledged.retain(|(lsn, _)| *lsn >= earliest);
                assert!(
                    found.starts_with(&acknowledged),
                    "{name}:{pass}: acknowledged is there"
                );
                assert!(
                    found.len() <= acknowledged.len() + 1,
                    "{name}:{pass}: and one at most"
                );
                acknowledged = found;
            }
        }
    }
    assert_eq!(killed, LOG_FAILPOINTS.len() * 6);
}
