//! What is on disk is not what was written: torn tails are cut, everything else is found, named and
//! never served. And what is not there, but in the log, comes back.

use std::path::{Path, PathBuf};

use springhead_sim::fixture::{Fixture, copy_tree};
use springhead_sim::process::StartError;
use springhead_sim::scenario::read_log;

/// A server that has acknowledged `rows` inserts of about a kilobyte and was killed; its segments
/// are small, so that some are sealed and copies are cheap.
fn killed_after(rows: u64) -> Fixture {
    let mut fixture = Fixture::new();
    fixture.setup = fixture
        .setup
        .clone()
        .with_env("SPRINGHEAD_SEGMENT_BYTES", "1MiB");
    fixture.start();
    fixture.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT)");
    let mut client = fixture.pg();
    for id in 0..rows {
        let note = format!("{id:0>1000}");
        client
            .query(&format!("INSERT INTO t VALUES ({id}, '{note}')"))
            .expect("an insert");
    }
    fixture.kill();
    fixture
}

#[cfg(feature = "failpoints")]
fn ids(fixture: &Fixture) -> Vec<u64> {
    let rows = fixture.sql("SELECT id FROM t ORDER BY id");
    rows.iter()
        .map(|row| {
            row[0]
                .as_deref()
                .unwrap_or_default()
                .parse()
                .expect("an id")
        })
        .collect()
}

/// A fixture on a copy of another's data.
fn copy_of(original: &Fixture) -> Fixture {
    let mut fixture = Fixture::new();
    copy_tree(original.data_dir(), fixture.data_dir());
    fixture.setup.env.clone_from(&original.setup.env);
    fixture
}

/// The log's segment files, oldest first, relative to the data directory.
fn segments(fixture: &Fixture) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![fixture.data_dir().to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|e| e == "seg" || e == "segz") {
                found.push(
                    path.strip_prefix(fixture.data_dir())
                        .expect("inside")
                        .to_path_buf(),
                );
            }
        }
    }
    found.sort();
    found
}

/// Where each frame of an uncompressed segment begins and ends (docs/log-format.md).
fn frames(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut frames = Vec::new();
    let mut at = 4096;
    while bytes.get(at + 4..at + 8) == Some(b"SHfr") {
        let length = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().expect("four bytes"));
        let end = (at + 64 + usize::try_from(length).expect("fits")).next_multiple_of(8);
        frames.push((at, end));
        at = end;
    }
    frames
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).expect("the file");
    change(&mut bytes);
    std::fs::write(path, bytes).expect("the file");
}

/// What damage may come to: refused at the start, named; or served in part, and then the feed
/// refuses and `log verify` names the file. Never a wrong answer.
#[track_caller]
fn is_found(mut fixture: Fixture, file: &Path, right: &[springhead_sim::history::Change]) {
    let name = file
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    // Verify reads everything, and needs nobody to be running.
    let data_dir = fixture.data_dir().display().to_string();
    let verified = fixture.command(&["log", "verify", "--data-dir", &data_dir]);
    let said = [verified.stdout, verified.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(
        !verified.status.success(),
        "log verify found nothing: {said}"
    );
    assert!(
        said.contains(&name),
        "log verify does not name {name}: {said}"
    );
    match fixture.try_start() {
        Err(StartError::Ended { status, output }) => {
            assert!(!status.success());
            assert!(
                output.contains(&name),
                "the refusal does not name {name}: {output}"
            );
        }
        Err(error) => panic!("{error}"),
        Ok(()) => match read_log(fixture.setup.http, 1) {
            Ok(log) => panic!("served: {} changes, {} were right", log.len(), right.len()),
            // A page that has begun can only be broken off; then the server's own output says why.
            Err(error) => {
                let printed = fixture.setup.printed();
                assert!(
                    error.contains("data_corrupted") || printed.contains(&name),
                    "{error}\n{printed}"
                );
            }
        },
    }
}

#[test]
fn g12_a_flipped_bit_in_any_part_of_the_log_is_found() {
    let mut original = killed_after(2500);
    original.start();
    let right = read_log(original.setup.http, 1).expect("the feed");
    original.stop();
    let segments = segments(&original);
    assert!(segments.len() >= 3, "{segments:?}");
    for (number, file) in segments.iter().enumerate() {
        let bytes = std::fs::read(original.data_dir().join(file)).expect("a segment");
        let compressed = file
            .extension()
            .is_some_and(|extension| extension == "segz");
        let used = if compressed {
            bytes.len()
        } else {
            frames(&bytes).last().map_or(84, |f| f.1)
        };
        // The header, the first frame's head, somewhere in the middle, the end of what is used.
        let mut places = vec![20, 4096 + 20, used / 2];
        if number + 1 < segments.len() {
            places.push(used - 9);
        }
        for place in places.into_iter().filter(|&place| place < used) {
            let copy = copy_of(&original);
            edit(&copy.data_dir().join(file), |bytes| bytes[place] ^= 0x10);
            println!("{} byte {place} of {used}", file.display());
            is_found(copy, file, &right);
        }
    }
}

#[test]
fn g12_a_cut_into_what_was_acknowledged_is_found() {
    let mut original = killed_after(50);
    original.start();
    let right = read_log(original.setup.http, 1).expect("the feed");
    original.stop();
    let segments = segments(&original);
    let file = segments.last().expect("a segment");
    let bytes = std::fs::read(original.data_dir().join(file)).expect("a segment");
    let all = frames(&bytes);
    let (start, end) = all[all.len() - 3];
    for cut in [
        start,
        start + 1,
        start + 40,
        end - 1,
        all[all.len() - 1].0 + 10,
    ] {
        let mut copy = copy_of(&original);
        edit(&copy.data_dir().join(file), |bytes| bytes[cut..].fill(0));
        // SQLite knows that there was more: this is no torn tail.
        match copy.try_start() {
            Err(StartError::Ended { status, output }) => {
                assert!(!status.success());
                let name = file
                    .file_name()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned();
                assert!(output.contains(&name), "{output}");
            }
            Err(error) => panic!("{error}"),
            Ok(()) => {
                // Unless what is gone held nothing but bookkeeping of our own.
                let log = read_log(copy.setup.http, 1).expect("the feed");
                assert_eq!(log, right, "cut at {cut}: changes are gone without a word");
            }
        }
    }
}

#[test]
fn g1_the_state_comes_back_from_the_log_alone() {
    let mut fixture = killed_after(300);
    fixture.start();
    fixture.sql("UPDATE t SET note = 'new' WHERE id % 3 = 0; DELETE FROM t WHERE id % 7 = 0");
    let query = "SELECT id, note FROM t ORDER BY id";
    let right = fixture.sql(query);
    fixture.kill();
    std::fs::remove_dir_all(fixture.data_dir().join("tenants")).expect("the state");
    fixture.start();
    assert_eq!(fixture.sql(query), right);
    fixture.sql("INSERT INTO t VALUES (7, 'again')");
    fixture.stop();
}

#[test]
fn g12_a_flipped_bit_in_the_state_is_never_served() {
    let mut original = killed_after(400);
    original.start();
    let query = "SELECT id, note FROM t ORDER BY id";
    let right = original.sql(query);
    // An orderly end leaves everything in the main file.
    original.stop();
    let state = Path::new("tenants/0000000001/state.db");
    let length = std::fs::metadata(original.data_dir().join(state))
        .expect("the state")
        .len();
    let length = usize::try_from(length).expect("fits");
    for place in [
        length / 4 + 100,
        length / 2 + 300,
        length - 1000,
        length - 50,
    ] {
        let mut copy = copy_of(&original);
        edit(&copy.data_dir().join(state), |bytes| bytes[place] ^= 0x01);
        match copy.try_start() {
            Err(StartError::Ended { status, .. }) => assert!(!status.success()),
            Err(error) => panic!("{error}"),
            Ok(()) => {
                let answer = copy.http_sql(query);
                let told = answer.error_code();
                let rows = answer.json()["rows"].as_array().map(Vec::len);
                if answer.status == 200 {
                    assert_eq!(
                        copy.sql(query),
                        right,
                        "byte {place}: a wrong answer of {rows:?} rows"
                    );
                } else {
                    assert_eq!(told, "data_corrupted", "{}", answer.text());
                }
            }
        }
    }
}

#[test]
fn g12_a_directory_of_a_newer_version_is_refused() {
    let original = killed_after(3);
    let file = segments(&original).pop().expect("a segment");
    let epochs = file.with_file_name("epochs");
    // The version, and the checksum that a newer program would have written over it.
    for (file, version_at, crc_at) in [(&file, 8, Some(80)), (&epochs, 8, None)] {
        let mut copy = copy_of(&original);
        edit(&copy.data_dir().join(file), |bytes| {
            bytes[version_at] = 99;
            let crc_at = crc_at.unwrap_or(bytes.len() - 4);
            let crc = crc32c(&bytes[..crc_at]);
            bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        });
        match copy.try_start() {
            Err(StartError::Ended { status, output }) => {
                assert!(!status.success());
                assert!(
                    output.contains("version 99") && output.contains("newer"),
                    "{output}"
                );
            }
            Err(error) => panic!("{error}"),
            Ok(()) => panic!("{}: a newer version was opened", file.display()),
        }
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 * (crc & 1))
        })
    })
}

/// The last frame was written and neither flushed nor acknowledged: whatever part of it reached the
/// disk, the server starts, has all that was acknowledged, and the last commit whole or not at all.
#[cfg(feature = "failpoints")]
#[test]
fn g1_g3_a_tail_torn_at_any_byte_is_cut() {
    let mut original = killed_after(5);
    let armed = original.setup.clone().with_failpoint("log.before_flush", 3);
    let mut last = 0;
    if original.start_as(&armed).is_ok() {
        let mut client = original.pg();
        while client
            .query(&format!(
                "INSERT INTO t VALUES ({}, 'torn'), ({}, 'torn')",
                100 + last,
                200 + last
            ))
            .is_ok()
        {
            last += 1;
        }
    }
    let mut acknowledged: Vec<u64> = (0..5)
        .chain(100..100 + last)
        .chain(200..200 + last)
        .collect();
    acknowledged.sort_unstable();
    let mut with_last = acknowledged.clone();
    with_last.extend([100 + last, 200 + last]);
    with_last.sort_unstable();
    let file = segments(&original).pop().expect("a segment");
    let bytes = std::fs::read(original.data_dir().join(&file)).expect("a segment");
    let &(start, end) = frames(&bytes).last().expect("a frame");
    let step = if std::env::var_os("SPRINGHEAD_LONG").is_some() {
        1
    } else {
        9
    };
    let (mut with, mut without) = (0, 0);
    for cut in (start..end)
        .step_by(step)
        .chain([start + 1, start + 64, end - 1, end])
    {
        let mut copy = copy_of(&original);
        edit(&copy.data_dir().join(&file), |bytes| {
            if cut % 2 == 0 {
                bytes[cut..].fill(0);
            } else {
                bytes.truncate(cut);
            }
        });
        copy.start();
        let there = ids(&copy);
        if there == with_last {
            with += 1;
        } else {
            assert_eq!(there, acknowledged, "cut at {cut} of {start}..{end}");
            without += 1;
        }
        copy.sql("INSERT INTO t VALUES (1000, 'after')");
        copy.kill();
        copy.start();
        assert_eq!(ids(&copy).len(), there.len() + 1);
    }
    println!("{without} without the torn commit, {with} with it, of frame {start}..{end}");
    assert!(without > 5, "no cut ever cut anything");
}
