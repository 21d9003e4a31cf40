//! Against SQLite itself: files that are damaged in every way that is cheap to do.

mod workloads;

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rusqlite::{Connection, OpenFlags};

use super::{applied_in_file, describe, is_damage, open, page, reserve, wal, wal_begins_sound};

/// A file with two tables, one of them with an index and with rows of many pages.
struct Fixture {
    dir: tempfile::TempDir,
    page_bytes: usize,
}

const READ_WRITE: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE
    .union(OpenFlags::SQLITE_OPEN_CREATE)
    .union(OpenFlags::SQLITE_OPEN_NO_MUTEX);
const READ_ONLY: OpenFlags =
    OpenFlags::SQLITE_OPEN_READ_ONLY.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// Everything in a table, in an order of its own.
type Rows = Vec<(i64, String)>;

impl Fixture {
    fn new(page_bytes: usize) -> Fixture {
        Fixture {
            dir: tempfile::tempdir().unwrap(),
            page_bytes,
        }
    }

    /// As [`Fixture::new`], with rows, all of them checkpointed.
    fn filled(page_bytes: usize) -> Fixture {
        let fixture = Fixture::new(page_bytes);
        let conn = fixture.writer();
        fill(&conn);
        drop(conn);
        assert!(
            !fixture.wal().exists(),
            "the last to close moves the WAL into the file"
        );
        fixture
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("state.db")
    }

    fn wal(&self) -> PathBuf {
        self.dir.path().join("state.db-wal")
    }

    fn writer(&self) -> Connection {
        let conn = open(&self.path(), READ_WRITE).unwrap();
        reserve(&conn).unwrap();
        conn.execute_batch(&format!(
            "PRAGMA page_size={}; PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0;",
            self.page_bytes
        ))
        .unwrap();
        conn
    }

    fn reader(&self) -> rusqlite::Result<Connection> {
        open(&self.path(), READ_ONLY)
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    fn put(&self, bytes: &[u8]) {
        std::fs::write(self.path(), bytes).unwrap();
    }

    fn read(&self, table: &str) -> rusqlite::Result<Rows> {
        rows(&self.reader()?, table)
    }

    /// Reads every page there is.
    fn read_all(&self) -> rusqlite::Result<[Rows; 3]> {
        let conn = self.reader()?;
        Ok([
            rows(&conn, "a")?,
            rows(&conn, "b")?,
            rows(&conn, "a INDEXED BY ai WHERE body > ''")?,
        ])
    }

    /// Asserts that every page of the file is there and has its checksum.
    fn assert_sealed(&self) {
        let bytes = self.bytes();
        assert_eq!(bytes.len() % self.page_bytes, 0);
        for (index, page) in bytes.chunks(self.page_bytes).enumerate() {
            let number = u32::try_from(index + 1).unwrap();
            assert!(
                page::is_intact(page, number),
                "page {number} of {}",
                bytes.len() / self.page_bytes
            );
        }
    }
}

fn fill(conn: &Connection) {
    conn.execute_batch(
        "BEGIN;
         CREATE TABLE a (id INTEGER PRIMARY KEY, body TEXT) STRICT;
         CREATE INDEX ai ON a (body);
         CREATE TABLE b (id INTEGER PRIMARY KEY, body TEXT) STRICT;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)
         INSERT INTO a SELECT i, printf('%04d', i) || hex(zeroblob(30 * (i % 7))) FROM n;
         INSERT INTO a VALUES (1000, hex(zeroblob(9000)));
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)
         INSERT INTO b SELECT i, 'b' || i FROM n;
         COMMIT;",
    )
    .unwrap();
}

fn rows(conn: &Connection, from: &str) -> rusqlite::Result<Rows> {
    let mut statement = conn.prepare(&format!("SELECT id, body FROM {from}"))?;
    statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

fn expect_damage<T: std::fmt::Debug>(result: rusqlite::Result<T>, what: &str) {
    match result {
        Ok(rows) => panic!("{what}: read {rows:?}"),
        Err(error) => assert!(is_damage(&error), "{what}: {error:?}"),
    }
}

/// Places to damage in `bytes` bytes: many, and all that are near an end.
fn places(bytes: usize, step: usize) -> impl Iterator<Item = usize> {
    (0..bytes).filter(move |place| place % step == 0 || *place < 40 || bytes - place <= 9)
}

#[test]
fn the_first_page_says_that_eight_bytes_are_reserved() {
    for page_bytes in [512, 1024, 4096, 65536] {
        let fixture = Fixture::filled(page_bytes);
        assert_eq!(fixture.bytes()[20], 8);
        fixture.assert_sealed();
    }
}

#[test]
fn g12_no_flipped_bit_is_ever_read_as_a_row() {
    for (page_bytes, step) in [(512, 61), (4096, 509)] {
        let fixture = Fixture::filled(page_bytes);
        let whole = fixture.read_all().unwrap();
        assert!(whole.iter().all(|rows| rows.len() >= 60));
        let bytes = fixture.bytes();
        for (index, page) in bytes.chunks(page_bytes).enumerate() {
            for place in places(page.len(), step) {
                let mut damaged = bytes.clone();
                damaged[index * page_bytes + place] ^= 1 << (place % 8);
                fixture.put(&damaged);
                expect_damage(
                    fixture.read_all(),
                    &format!("page {} byte {place}", index + 1),
                );
            }
        }
        fixture.put(&bytes);
        assert_eq!(fixture.read_all().unwrap(), whole);
    }
}

#[test]
fn g12_damage_names_its_file_and_page_and_spares_other_tables() {
    let fixture = Fixture::filled(1024);
    let b = fixture.read("b").unwrap();
    let root: u32 = fixture
        .reader()
        .unwrap()
        .query_row(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'a'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    let mut bytes = fixture.bytes();
    bytes[usize::try_from(root).unwrap() * 1024 - 500] ^= 4;
    fixture.put(&bytes);
    let error = describe(&fixture.read("a").unwrap_err()).unwrap();
    assert_eq!(error.code.sqlstate().0, "XX001");
    assert!(
        error
            .message
            .starts_with(&format!("invalid checksum in page {root} of ")),
        "{}",
        error.message
    );
    assert!(error.message.contains("state.db"), "{}", error.message);
    assert_eq!(fixture.read("b").unwrap(), b);
}

#[test]
fn g12_a_page_in_anothers_place_is_noticed() {
    let fixture = Fixture::filled(1024);
    let bytes = fixture.bytes();
    let pages = bytes.len() / 1024;
    for from in 0..pages {
        for to in (0..pages).filter(|to| *to != from).step_by(3) {
            let mut damaged = bytes.clone();
            damaged[to * 1024..][..1024].copy_from_slice(&bytes[from * 1024..][..1024]);
            fixture.put(&damaged);
            expect_damage(
                fixture.read_all(),
                &format!("page {} as {}", from + 1, to + 1),
            );
        }
    }
}

#[test]
fn g12_a_page_of_zeros_is_noticed() {
    let fixture = Fixture::filled(1024);
    let bytes = fixture.bytes();
    for index in 0..bytes.len() / 1024 {
        let mut damaged = bytes.clone();
        damaged[index * 1024..][..1024].fill(0);
        fixture.put(&damaged);
        expect_damage(fixture.read_all(), &format!("page {}", index + 1));
    }
}

#[test]
fn g12_a_file_cut_short_is_noticed() {
    let fixture = Fixture::filled(1024);
    let bytes = fixture.bytes();
    // One byte is what SQLite itself may leave in a file that is otherwise empty.
    for length in (2..bytes.len())
        .step_by(509)
        .chain((1024..bytes.len()).step_by(1024))
    {
        fixture.put(&bytes[..length]);
        expect_damage(fixture.read_all(), &format!("cut to {length}"));
    }
}

/// SQLite looks at a file's size when it opens it, and takes what a later read does not find for a
/// page of zeros.
#[test]
fn g12_a_file_cut_short_while_it_is_open_is_noticed() {
    let fixture = Fixture::filled(1024);
    let bytes = fixture.bytes();
    let writer = fixture.writer();
    writer
        .execute_batch("INSERT INTO b VALUES (2000, 'x'); PRAGMA wal_checkpoint(PASSIVE);")
        .unwrap();
    for kept in [3, bytes.len() / 2048, bytes.len() / 1024 - 1] {
        let bytes = fixture.bytes();
        let reader = fixture.reader().unwrap();
        assert_eq!(rows(&reader, "b WHERE id = 1").unwrap().len(), 1);
        fixture.put(&bytes[..kept * 1024]);
        reader
            .execute_batch("PRAGMA cache_size=0; PRAGMA shrink_memory")
            .unwrap();
        let whole = rows(&reader, "a")
            .and_then(|a| Ok((a, rows(&reader, "a INDEXED BY ai WHERE body > ''")?)));
        expect_damage(whole, &format!("cut to {kept} pages"));
        fixture.put(&bytes);
    }
}

#[test]
fn g12_a_file_without_room_for_checksums_is_refused() {
    let fixture = Fixture::new(4096);
    let conn = Connection::open(fixture.path()).unwrap();
    conn.execute_batch(
        "PRAGMA journal_mode=WAL; CREATE TABLE a (id INTEGER PRIMARY KEY, body TEXT)",
    )
    .unwrap();
    drop(conn);
    expect_damage(fixture.read("a"), "a file of SQLite's own");
    // And none is made.
    let fixture = Fixture::new(4096);
    let conn = open(&fixture.path(), READ_WRITE).unwrap();
    assert!(
        conn.execute_batch("CREATE TABLE a (id INTEGER PRIMARY KEY)")
            .is_err()
    );
}

#[test]
fn memory_mapping_stays_off() {
    let fixture = Fixture::filled(4096);
    let conn = fixture.writer();
    let bytes: i64 = conn
        .query_row("PRAGMA mmap_size=1000000", [], |row| row.get(0))
        .unwrap();
    assert_eq!(bytes, 0);
}

#[test]
fn g12_a_damaged_frame_of_the_wal_is_noticed() {
    let fixture = Fixture::new(1024);
    let writer = fixture.writer();
    fill(&writer);
    let whole = fixture.read_all().unwrap();
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(fixture.wal())
        .unwrap();
    let bytes = std::fs::read(fixture.wal()).unwrap();
    let frame_bytes = wal::FRAME_HEADER + 1024;
    // The first transaction wrote page 1 alone, which the second wrote again.
    let mut damaged = 0;
    for (index, frame) in bytes[32..].chunks(frame_bytes).enumerate() {
        for place in places(frame.len(), 97).filter(|place| !(8..16).contains(place)) {
            let offset = (32 + index * frame_bytes + place) as u64;
            file.write_all_at(&[frame[place] ^ 0x20], offset).unwrap();
            match fixture.read_all() {
                Ok(rows) => {
                    assert!(rows == whole);
                    assert!(index < 2, "frame {index} byte {place} went unnoticed");
                }
                Err(error) => {
                    assert!(is_damage(&error), "{error:?}");
                    let error = describe(&error).unwrap();
                    assert!(
                        error.message.starts_with("invalid checksum in frame "),
                        "{}",
                        error.message
                    );
                    damaged += 1;
                }
            }
            file.write_all_at(&[frame[place]], offset).unwrap();
        }
    }
    assert!(damaged > 500, "{damaged}");
    assert_eq!(fixture.read_all().unwrap(), whole);
}

#[test]
fn g12_a_checkpoint_does_not_move_a_damaged_frame() {
    let fixture = Fixture::new(1024);
    let writer = fixture.writer();
    fill(&writer);
    let before = fixture.bytes();
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(fixture.wal())
        .unwrap();
    let middle = std::fs::metadata(fixture.wal()).unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
    for conn in [&writer, &open(&fixture.path(), READ_WRITE).unwrap()] {
        let moved = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
            row.get::<_, i64>(0)
        });
        expect_damage(moved, "a checkpoint");
        assert!(fixture.bytes() == before, "some of it was moved");
    }
    file.write_all_at(&byte, middle).unwrap();
    writer
        .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
            row.get::<_, i64>(0)
        })
        .unwrap();
    drop(writer);
    fixture.assert_sealed();
}

/// What a transaction too large for the cache has spilled is read back from frames whose own
/// checksums are not final.
#[test]
fn g12_what_a_transaction_spills_is_verified_when_it_reads_it_back() {
    let fixture = Fixture::new(1024);
    let writer = fixture.writer();
    writer.execute_batch("PRAGMA cache_size=5").unwrap();
    fill(&writer);
    let update = "BEGIN; UPDATE a SET body = body || 'x'; UPDATE a SET body = body || 'y'";
    writer.execute_batch(update).unwrap();
    let mine = rows(&writer, "a").unwrap();
    assert!(mine.iter().all(|(_, body)| body.ends_with("xy")));
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(fixture.wal())
        .unwrap();
    let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
    let mut noticed = 0;
    for start in (32..length).step_by(wal::FRAME_HEADER + 1024) {
        let place = (start + wal::FRAME_HEADER + 700) as u64;
        let mut byte = [0];
        file.read_exact_at(&mut byte, place).unwrap();
        file.write_all_at(&[byte[0] ^ 8], place).unwrap();
        match rows(&writer, "a") {
            Ok(rows) => assert!(rows == mine),
            Err(error) => {
                assert!(is_damage(&error), "{error:?}");
                noticed += 1;
            }
        }
        file.write_all_at(&byte, place).unwrap();
        if writer.is_autocommit() {
            // SQLite gives the transaction up.
            writer.execute_batch(update).unwrap();
        }
    }
    assert!(noticed > 10, "{noticed}");
    writer.execute_batch("COMMIT").unwrap();
    assert!(
        fixture.read("a").unwrap() == mine,
        "others verify the final checksums"
    );
    drop(writer);
    fixture.assert_sealed();
}

/// Pages that a transaction adds and frees again are never written by SQLite; reading such a hole
/// would be no damage, so there are none.
#[test]
fn pages_that_sqlite_skips_have_checksums_too() {
    for tail in ["", "INSERT INTO b VALUES (5000, hex(zeroblob(3000)));"] {
        let fixture = Fixture::filled(1024);
        let pages = fixture.bytes().len() / 1024;
        let writer = fixture.writer();
        writer
            .execute_batch(&format!(
                "BEGIN; INSERT INTO a VALUES (2000, hex(zeroblob(100000))); DELETE FROM a WHERE id = 2000; {tail} COMMIT;
                 PRAGMA wal_checkpoint(TRUNCATE);"
            ))
            .unwrap();
        drop(writer);
        fixture.assert_sealed();
        assert!(
            fixture.bytes().len() / 1024 > pages + 100,
            "the file has become longer"
        );
        fixture.read_all().unwrap();
    }
}

#[test]
fn a_wal_without_its_header_is_noticed() {
    let fixture = Fixture::new(1024);
    assert!(wal_begins_sound(&fixture.path()).unwrap(), "there is none");
    let writer = fixture.writer();
    fill(&writer);
    assert!(wal_begins_sound(&fixture.path()).unwrap());
    let mut bytes = std::fs::read(fixture.wal()).unwrap();
    for place in 0..32 {
        bytes[place] ^= 2;
        std::fs::write(fixture.wal(), &bytes).unwrap();
        assert!(!wal_begins_sound(&fixture.path()).unwrap(), "byte {place}");
        bytes[place] ^= 2;
    }
    std::fs::write(fixture.wal(), &bytes).unwrap();
}

#[test]
fn the_lsn_in_the_file_is_the_last_that_was_checkpointed() {
    let fixture = Fixture::new(4096);
    let writer = fixture.writer();
    writer
        .execute_batch("CREATE TABLE s_meta (id INTEGER PRIMARY KEY, applied_lsn INTEGER NOT NULL, applied_epoch INTEGER NOT NULL) STRICT; INSERT INTO s_meta VALUES (1, 0, 77)")
        .unwrap();
    let mut moved = None;
    for lsn in [
        0,
        1,
        2,
        127,
        128,
        32_767,
        32_768,
        8_388_607,
        8_388_608,
        1 << 31,
        1 << 40,
        1 << 47,
        i64::MAX as u64,
    ] {
        writer
            .execute(
                "UPDATE s_meta SET applied_lsn = ?1",
                [i64::try_from(lsn).unwrap()],
            )
            .unwrap();
        assert_eq!(applied_in_file(&writer, 2), moved);
        writer
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
                row.get::<_, i64>(0)
            })
            .unwrap();
        moved = Some(lsn);
        assert_eq!(applied_in_file(&writer, 2), moved);
    }
    for root in [0, 1, 3, 99] {
        assert_eq!(applied_in_file(&writer, root), None);
    }
}

/// The example of docs/state-format.md, against a CRC that is written as in the textbook.
#[test]
fn the_bytes_of_a_checksum_are_the_documented_ones() {
    fn crc32c_from(seed: u32, bytes: &[u8]) -> u32 {
        let mut crc = !seed;
        for &byte in bytes {
            crc ^= u32::from(byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 {
                    crc >> 1 ^ 0x82f6_3b78
                } else {
                    crc >> 1
                };
            }
        }
        !crc
    }
    let mut page: Vec<u8> = (0..=255).chain(0..=255).collect();
    page::seal(&mut page, 7);
    assert_eq!(page[504..508], crc32c_from(7, &page[..256]).to_le_bytes());
    assert_eq!(page[508..], crc32c_from(!7, &page[256..504]).to_le_bytes());
    assert_eq!(
        page[504..],
        [0xd5, 0x90, 0x8a, 0x80, 0xfb, 0xad, 0xde, 0xf4]
    );
}
