//! Clients that write and read while nodes come and go.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use springhead_sim::client::http;
use springhead_sim::client::pg::PgClient;
use springhead_sim::fixture::Fixture;

use super::{eventually, pause};

/// Clients that write to whichever node takes it, and a reader that follows.
pub struct Load {
    pub stop: Arc<AtomicBool>,
    /// Which of the addresses is the primary, as far as the test, or the last client that was answered,
    /// knows.
    pub primary: Arc<AtomicUsize>,
    pub acknowledged: Arc<Mutex<BTreeSet<i64>>>,
    /// What the reader has seen, in order.
    pub seen: Arc<Mutex<Vec<(u64, i64)>>>,
    /// Anything that must not be.
    fault: Arc<Mutex<Option<String>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    /// Clients of the node at that place, which the test says where it is.
    pub fn start(nodes: [&Fixture; 2], primary: usize, writers: i64, reads: bool) -> Load {
        Load::begin(&nodes, primary, writers, reads, false)
    }

    /// Clients that look for the primary themselves, one node after the other.
    pub fn that_finds_the_primary(nodes: &[&Fixture], writers: i64) -> Load {
        Load::begin(nodes, 0, writers, true, true)
    }

    fn begin(nodes: &[&Fixture], primary: usize, writers: i64, reads: bool, finds: bool) -> Load {
        let mut load = Load {
            stop: Arc::default(),
            primary: Arc::new(AtomicUsize::new(primary)),
            acknowledged: Arc::default(),
            seen: Arc::default(),
            fault: Arc::default(),
            threads: Vec::new(),
        };
        let pg: Vec<_> = nodes.iter().map(|node| node.setup.pg).collect();
        for writer in 0..writers {
            let (stop, primary) = (Arc::clone(&load.stop), Arc::clone(&load.primary));
            let (pg, acknowledged) = (pg.clone(), Arc::clone(&load.acknowledged));
            load.threads.push(std::thread::spawn(move || {
                let at = At {
                    primary: &primary,
                    finds,
                };
                write(&pg, writer * 10_000_000, &stop, at, &acknowledged);
            }));
        }
        if reads {
            let http: Vec<_> = nodes.iter().map(|node| node.setup.http).collect();
            let (stop, primary) = (Arc::clone(&load.stop), Arc::clone(&load.primary));
            let (seen, fault) = (Arc::clone(&load.seen), Arc::clone(&load.fault));
            load.threads.push(std::thread::spawn(move || {
                if let Err(what) = read(
                    &http,
                    &stop,
                    At {
                        primary: &primary,
                        finds,
                    },
                    &seen,
                ) {
                    *fault.lock().unwrap() = Some(what);
                }
            }));
        }
        load
    }

    pub fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Waits until the reader has seen the last of what is acknowledged now.
    pub fn wait_until_read(&self) {
        let last = self.acknowledged.lock().unwrap().iter().max().copied();
        let last = last.expect("something was acknowledged");
        eventually("the reader has seen it", || {
            // It has stopped, and says why.
            let fault = self.fault.lock().unwrap().clone();
            assert_eq!(fault, None);
            let seen = self.seen.lock().unwrap();
            seen.iter().rev().any(|(_, id)| *id == last).then_some(())
        });
    }

    /// What was acknowledged, and what was read.
    pub fn stop(self) -> (BTreeSet<i64>, Vec<(u64, i64)>) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let fault = self.fault.lock().unwrap().take();
        assert_eq!(fault, None);
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        let seen = self.seen.lock().unwrap().clone();
        (acknowledged, seen)
    }
}

/// Where a client goes.
#[derive(Clone, Copy)]
struct At<'a> {
    primary: &'a AtomicUsize,
    /// Whether it goes on to the next node when it is refused.
    finds: bool,
}

impl At<'_> {
    fn now(self, nodes: &[SocketAddr]) -> (usize, SocketAddr) {
        let place = self.primary.load(Ordering::Acquire);
        (place, nodes[place])
    }

    /// The node at `place` is of no use.
    fn leave(self, place: usize, nodes: &[SocketAddr]) {
        if self.finds {
            let (next, order) = ((place + 1) % nodes.len(), Ordering::AcqRel);
            // Unless another client has left it already.
            let _ = self
                .primary
                .compare_exchange(place, next, order, Ordering::Acquire);
        }
        pause(2);
    }
}

/// Every number once, alone or two in a transaction; acknowledged only if the server said so.
fn write(
    nodes: &[SocketAddr],
    first: i64,
    stop: &AtomicBool,
    at: At<'_>,
    acknowledged: &Mutex<BTreeSet<i64>>,
) {
    let mut n = first;
    while !stop.load(Ordering::Acquire) {
        let (place, address) = at.now(nodes);
        let Ok(mut client) = PgClient::connect(address, "postgres") else {
            at.leave(place, nodes);
            continue;
        };
        while !stop.load(Ordering::Acquire) {
            let mut numbers = vec![n];
            let sql = if n % 3 == 0 {
                numbers.push(n + 1);
                format!(
                    "BEGIN; INSERT INTO t VALUES ({n}, 'x'); INSERT INTO t VALUES ({}, 'y'); COMMIT",
                    n + 1
                )
            } else {
                format!("INSERT INTO t VALUES ({n}, 'x')")
            };
            n += 2;
            match client.query(&sql) {
                Ok(_) => acknowledged.lock().unwrap().extend(numbers),
                Err(_) => {
                    at.leave(place, nodes);
                    break;
                }
            }
        }
    }
}

/// Polls from a cursor, on whichever node is the primary; never starts over.
fn read(
    nodes: &[SocketAddr],
    stop: &AtomicBool,
    at: At<'_>,
    seen: &Mutex<Vec<(u64, i64)>>,
) -> Result<(), String> {
    let mut from = "since_lsn=1".to_owned();
    while !stop.load(Ordering::Acquire) {
        let target = format!("/cdc/t/poll?{from}&limit=1000&wait_ms=50");
        let (place, address) = at.now(nodes);
        let Ok(answer) = http::get(address, &target) else {
            at.leave(place, nodes);
            continue;
        };
        match answer.status {
            200 => {}
            410 => return Err(format!("{target}: {}", answer.text())),
            _ => continue,
        }
        let page: Value = answer.json();
        for change in page["changes"].as_array().unwrap() {
            // The table's own definition has none.
            if let Some(id) = change["document_id"].as_str() {
                let lsn = change["lsn"].as_u64().unwrap();
                seen.lock().unwrap().push((lsn, id.parse().unwrap()));
            }
        }
        let cursor = page["next_cursor"]["cursor"].as_str().unwrap();
        from = format!("cursor={cursor}");
    }
    Ok(())
}

/// The numbers that a node has.
pub fn ids(node: &Fixture) -> BTreeSet<i64> {
    node.sql("SELECT id FROM t")
        .into_iter()
        .map(|row| row[0].clone().unwrap().parse().unwrap())
        .collect()
}

/// Checks what a load came to (G11): nothing acknowledged is missing on `node`, nothing was read twice or
/// out of order, nothing that was read is gone.
#[track_caller]
pub fn nothing_lost(node: &Fixture, acknowledged: &BTreeSet<i64>, seen: &[(u64, i64)]) {
    let there = ids(node);
    let lost: Vec<_> = acknowledged.difference(&there).collect();
    assert_eq!(lost, Vec::<&i64>::new(), "acknowledged and lost");
    assert!(
        seen.windows(2).all(|pair| pair[0].0 < pair[1].0),
        "a reader saw something twice"
    );
    let seen_ids: BTreeSet<i64> = seen.iter().map(|(_, id)| *id).collect();
    assert_eq!(seen_ids.len(), seen.len());
    let gone: Vec<_> = seen_ids.difference(&there).collect();
    assert_eq!(gone, Vec::<&i64>::new(), "shown and lost");
}
