//! Starting and stopping: one process per directory, an orderly end, loopback only while anyone may
//! connect.

use std::process::Command;

use springhead_sim::fixture::Fixture;
use springhead_sim::process::{Ports, Server, Setup, StartError};

#[test]
fn g12_a_second_server_on_the_directory_is_refused() {
    let fixture = Fixture::started();
    fixture.sql("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    let ports = Ports::take().expect("two more ports");
    let mut second = Setup::new(&fixture.setup.binary, fixture.directory.path(), &ports);
    second.output = fixture.directory.path().join("second.log");
    match Server::start(&second) {
        Err(StartError::Ended { status, output }) => {
            assert!(!status.success(), "it said no and exited 0");
            let directory = fixture.data_dir().display().to_string();
            assert!(
                output.contains(&directory),
                "the message does not name {directory}: {output}"
            );
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("two servers on one directory"),
    }
    fixture.sql("INSERT INTO t VALUES (1)");
    assert_eq!(fixture.sql("SELECT id FROM t"), [[Some("1".to_owned())]]);
}

#[test]
fn g1_sigterm_drains_and_a_restart_has_everything() {
    let mut fixture = Fixture::started();
    fixture.sql("CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1), (2)");
    fixture.stop();
    fixture.start();
    assert_eq!(
        fixture.sql("SELECT count(*) FROM t"),
        [[Some("2".to_owned())]]
    );
    fixture.stop();
}

#[test]
fn g2_sigterm_ends_open_streams_and_long_polls() {
    let mut fixture = Fixture::started();
    fixture.sql("CREATE TABLE t (id INTEGER PRIMARY KEY)");
    let mut stream = fixture.stream("/cdc/t?since_lsn=1", None);
    let poll = std::thread::spawn({
        let http = fixture.setup.http;
        move || springhead_sim::client::http::get(http, "/cdc/t/poll?wait_ms=60000")
    });
    fixture.sql("INSERT INTO t VALUES (1)");
    loop {
        let event = stream
            .next_event()
            .expect("the stream lives")
            .expect("an event");
        if event.event == "insert" {
            break;
        }
    }
    // An idle transaction must not hold the end up either.
    let mut idle = fixture.pg();
    idle.query("BEGIN").expect("a transaction");
    idle.query("INSERT INTO t VALUES (2)").expect("an insert");
    fixture.stop();
    let _ = poll.join().expect("the poll ended");
    fixture.start();
    assert_eq!(fixture.sql("SELECT id FROM t"), [[Some("1".to_owned())]]);
}

#[test]
fn an_open_server_listens_on_loopback_only() {
    for flag in ["--pg", "--http"] {
        let fixture = Fixture::new();
        let mut setup = fixture.setup.clone();
        let everywhere = std::net::SocketAddr::from(([0, 0, 0, 0], setup.pg.port()));
        if flag == "--pg" {
            setup.pg = everywhere;
        } else {
            setup.http = everywhere;
        }
        match Server::start(&setup) {
            Err(StartError::Ended { status, output }) => {
                assert!(!status.success());
                assert!(output.contains("loopback"), "{flag}: {output}");
            }
            Err(error) => panic!("{flag}: {error}"),
            Ok(_) => panic!("{flag} 0.0.0.0 was taken with no user defined"),
        }
    }
}

/// It said of the server's own words that they were no change, and that standard output had failed.
#[test]
fn a_tail_that_the_server_ends_says_why() {
    let fixture = Fixture::started();
    fixture.sql("CREATE TABLE t (id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)");
    let url = format!("http://{}", fixture.setup.http);
    let ended = Command::new(&fixture.setup.binary)
        .args([
            "tail",
            "t",
            "--since",
            "0",
            "--where",
            "1 / (id - 1) = 1",
            "--url",
            &url,
        ])
        .output()
        .expect("it runs");
    assert_eq!(ended.status.code(), Some(1));
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(
        told.trim(),
        "springhead: division by zero (division_by_zero)"
    );
}
