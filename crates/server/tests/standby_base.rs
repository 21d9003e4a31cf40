//! Base backups over networks that break and with nodes that are killed: what was cut goes on where it was
//! cut, and what comes of it is a standby like any other (G11, G12).

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod nodes;

use std::sync::atomic::Ordering;

use nodes::load::{Load, nothing_lost};
use nodes::proxy::Proxy;
use nodes::{caught_up, eventually, node, promote, same_rows, streams};
use springhead_sim::fixture::Fixture;
use springhead_sim::process::Server;

/// So many pieces are sent before a connection breaks, a few megabytes: the largest file is several times
/// that.
const PIECES: u64 = 250;
/// Three times the bytes of all states. That it ends at all shows that files go on; the largest comes again when
/// the network breaks while the last of it is under way, since its copy is gone then, and it has changed.
const MUCH: u64 = 100_000_000;
const OTHERS: [&str; 3] = ["one", "two", "three"];

/// A primary with one large database and three small ones, and a network in front of it.
fn primary() -> (Fixture, Proxy) {
    let mut primary = node("a", &[]);
    primary.start();
    primary.sql("CREATE TABLE t (id bigint PRIMARY KEY, v text)");
    primary.sql("CREATE TABLE big (id bigint PRIMARY KEY, v text)");
    for name in OTHERS {
        primary.sql(&format!("CREATE DATABASE {name}"));
    }
    fill(&mut primary.pg(), 24);
    for name in OTHERS {
        let mut client = primary.pg_to(name);
        client
            .query("CREATE TABLE big (id bigint PRIMARY KEY, v text)")
            .unwrap();
        fill(&mut client, 2);
    }
    let proxy = Proxy::to(primary.setup.http);
    (primary, proxy)
}

/// Rows of so many megabytes.
fn fill(client: &mut springhead_sim::client::pg::PgClient, megabytes: u32) {
    for part in 0..megabytes {
        let first = part * 1000;
        client
            .query(&format!(
                "INSERT INTO big SELECT n, repeat('x', 1000) FROM generate_series({first}, {}) AS n",
                first + 999
            ))
            .unwrap();
    }
}

/// A standby that has not been started, behind that network.
fn standby(proxy: &Proxy) -> Fixture {
    let follow = format!("http://{}", proxy.address);
    node("b", &["--standby-of", &follow])
}

fn received(standby: &Fixture) -> String {
    let list = standby.data_dir().join("incoming/RECEIVED");
    std::fs::read_to_string(list).unwrap_or_default()
}

fn files_received(standby: &Fixture) -> usize {
    received(standby).matches("{\"file\"").count()
}

fn came(proxy: &Proxy) -> u64 {
    proxy.network.back.bytes.load(Ordering::Acquire)
}

/// The standby has all of it, and keeps nothing beside.
#[track_caller]
fn is_equal(primary: &Fixture, standby: &Fixture) {
    streams(primary, "b");
    caught_up(primary, standby);
    for table in ["t", "big"] {
        same_rows(primary, standby, table);
    }
    for name in OTHERS {
        let rows = |node: &Fixture| {
            let mut client = node.pg_to(name);
            client.query("SELECT * FROM big ORDER BY 1").unwrap().rows
        };
        assert_eq!(rows(primary), rows(standby), "{name}");
    }
    assert!(!standby.data_dir().join("incoming").exists());
}

#[test]
fn g11_a_base_backup_that_is_cut_again_and_again_goes_on_where_it_was_cut() {
    let (primary, proxy) = primary();
    let mut standby = standby(&proxy);
    let load = Load::start([&primary, &primary], 0, 2, false);
    let back = &proxy.network.back;
    back.cut_every.store(PIECES, Ordering::Release);
    // It is no node yet while it takes one.
    let mut server = Server::spawn(&standby.setup).unwrap();
    eventually("the files are there", || {
        received(&standby).contains("files_end").then_some(())
    });
    back.cut_every.store(0, Ordering::Release);
    server.wait_ready().unwrap();
    streams(&primary, "b");
    let (cut, came) = (proxy.network.ended.load(Ordering::Acquire), came(&proxy));
    assert!(cut > 3, "the network broke only {cut} times");
    // No connection lasted for the largest file.
    assert!(
        came < MUCH,
        "{came} bytes came: {}",
        standby.setup.printed()
    );
    assert!(standby.setup.printed().contains("goes on where it was cut"));
    let (acknowledged, seen) = load.stop();
    drop(server);
    standby.start();
    is_equal(&primary, &standby);
    nothing_lost(&standby, &acknowledged, &seen);
    println!("{cut} cuts, {came} bytes came");
}

#[test]
fn g12_a_base_backup_goes_on_where_the_standby_was_killed() {
    let (primary, proxy) = primary();
    let mut standby = standby(&proxy);
    let load = Load::start([&primary, &primary], 0, 2, false);
    let mut files = 0;
    for (failpoint, hit) in [
        ("standby.base_chunk", 9),
        ("standby.base_chunk", 9),
        ("standby.base_file", 2),
        ("standby.base_frames", 1),
        ("standby.base_received", 1),
    ] {
        let setup = standby.setup.clone().with_failpoint(failpoint, hit);
        assert!(
            standby.start_as(&setup).is_err(),
            "{failpoint} was not passed"
        );
        let now = files_received(&standby);
        assert!(now >= files, "{failpoint}: {now} files, after {files}");
        files = now;
        println!("{failpoint}: {files} files, {} bytes came", came(&proxy));
    }
    standby.start();
    let came = came(&proxy);
    let (acknowledged, seen) = load.stop();
    nothing_lost(&primary, &acknowledged, &seen);
    is_equal(&primary, &standby);
    assert!(
        came < MUCH,
        "{came} bytes came: {}",
        standby.setup.printed()
    );
    println!("5 kills, {came} bytes came");
}

#[test]
fn g11_a_base_backup_goes_on_with_a_primary_that_was_killed_and_with_another_that_has_its_history()
{
    let (mut primary, proxy) = primary();
    let mut standby = standby(&proxy);
    let back = &proxy.network.back;
    back.cut_every.store(PIECES, Ordering::Release);
    let server = Server::spawn(&standby.setup).unwrap();
    eventually("two files are there", || {
        (files_received(&standby) >= 2).then_some(())
    });
    // The copy that was being sent is gone with it.
    primary.kill();
    primary.start();
    primary.sql("INSERT INTO t VALUES (1, 'after')");
    eventually("all files are there", || {
        received(&standby).contains("files_end").then_some(())
    });
    drop(server);
    back.cut_every.store(0, Ordering::Release);
    standby.start();
    is_equal(&primary, &standby);
    let came = came(&proxy);
    assert!(
        came < MUCH,
        "{came} bytes came: {}",
        standby.setup.printed()
    );
    // What a third has of it is of use to the second, once that is the primary: it has all of it.
    let mut third = node("c", &["--standby-of", &format!("http://{}", proxy.address)]);
    let setup = third.setup.clone().with_failpoint("standby.base_file", 3);
    assert!(third.start_as(&setup).is_err());
    primary.kill();
    promote(&standby);
    third.setup.args.pop();
    third.setup.args.push(nodes::url(&standby));
    third.start();
    let printed = third.setup.printed();
    assert!(printed.contains("goes on where it was cut"), "{printed}");
    caught_up(&standby, &third);
    same_rows(&standby, &third, "big");
    same_rows(&standby, &third, "t");
}
