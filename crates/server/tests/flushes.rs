//! What the kernel sees: no reply without a flush after the write, and few flushes for many clients.
//! Runs the server under strace.

use std::path::PathBuf;
use std::process::Command;
use std::thread;

use springhead_sim::client::pg::PgClient;
use springhead_sim::fixture::Fixture;

/// A server under strace with these options, which writes what it sees into the returned file; none
/// where strace cannot be used, said.
fn traced(options: &[&str]) -> Option<(Fixture, PathBuf)> {
    if !Command::new("strace")
        .args(["-qq", "-f", "true"])
        .output()
        .is_ok_and(|o| o.status.success())
    {
        println!("skipped: strace is not here or not allowed; cargo xtask test installs it");
        return None;
    }
    let mut fixture = Fixture::new();
    let trace = fixture.directory.path().join("trace");
    // -D: the server stays our own child, so that signals and its end are its own.
    let mut wrapper = vec!["strace", "-D", "-f", "-qq", "-o"];
    let path = trace.display().to_string();
    wrapper.push(&path);
    wrapper.extend(options);
    wrapper.push("--");
    fixture.setup.wrapper = wrapper.into_iter().map(str::to_owned).collect();
    fixture.start();
    Some((fixture, trace))
}

#[test]
fn g1_every_reply_follows_a_flush_that_follows_its_statement() {
    const STATEMENTS: usize = 50;
    let calls_traced = "trace=fdatasync,fsync,sync_file_range,write,writev,sendto,sendmsg,read,readv,recvfrom,recvmsg";
    let Some((mut fixture, trace)) =
        traced(&["-s", "200", "-e", calls_traced, "-e", "signal=none"])
    else {
        return;
    };
    fixture.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT)");
    let mut client = fixture.pg();
    for id in 0..STATEMENTS {
        client
            .query(&format!("INSERT INTO t VALUES ({id}, 'traced-{id}-')"))
            .expect("an insert");
    }
    drop(client);
    fixture.stop();
    let text = std::fs::read_to_string(&trace).expect("the trace");
    // One client, one statement at a time: query in, flush done, reply out, and again.
    let (mut replies, mut flushed, mut waiting) = (0, false, false);
    // A call that another thread interrupts in the trace takes two lines: what is sent is in the
    // first, and a flush that is not over does not count.
    for call in text.lines() {
        let is_sync = ["fdatasync(", "fsync(", "fdatasync resumed", "fsync resumed"]
            .iter()
            .any(|name| call.contains(name));
        if call.contains("'traced-") && call.contains("INSERT INTO t VALUES") && !waiting {
            (waiting, flushed) = (true, false);
        } else if is_sync && call.trim_end().ends_with("= 0") {
            flushed = true;
        } else if waiting && call.contains("INSERT 0 1") {
            assert!(flushed, "reply {replies} came without a flush:\n{call}");
            replies += 1;
            waiting = false;
        }
    }
    assert_eq!(replies, STATEMENTS, "the trace does not show every reply");
}

#[test]
fn g1_many_clients_share_flushes() {
    const CLIENTS: usize = 32;
    const EACH: usize = 60;
    let sync_only = [
        "-e",
        "trace=fdatasync,fsync,sync_file_range",
        "-e",
        "signal=none",
        "--seccomp-bpf",
    ];
    let Some((mut fixture, trace)) = traced(&sync_only) else {
        return;
    };
    fixture.sql("CREATE TABLE t (id TEXT PRIMARY KEY)");
    let count = || {
        let text = std::fs::read_to_string(&trace).expect("the trace");
        text.lines()
            .filter(|call| call.contains("sync") && call.trim_end().ends_with("= 0"))
            .count()
    };
    let before = count();
    let address = fixture.setup.pg;
    let writers: Vec<_> = (0..CLIENTS)
        .map(|client| {
            thread::spawn(move || {
                let mut connection = PgClient::connect(address, "postgres").expect("a connection");
                for row in 0..EACH {
                    let insert = format!("INSERT INTO t VALUES ('{client}-{row}')");
                    connection.query(&insert).expect("an insert");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().expect("every insert is acknowledged");
    }
    // strace writes behind; the end of the server is the end of the trace.
    let rows = fixture.sql("SELECT count(*) FROM t");
    assert_eq!(rows, [[Some((CLIENTS * EACH).to_string())]]);
    fixture.kill();
    let flushes = count() - before;
    let commits = CLIENTS * EACH;
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let ratio = flushes as f64 / commits as f64;
    println!("{flushes} flushes for {commits} commits of {CLIENTS} clients: {ratio:.3} per commit");
    assert!(ratio < 0.25, "{flushes} flushes for {commits} commits");
    assert!(flushes > 0, "no flush at all");
}
