//! Damage to a tenant's state file: noticed, named, and never an answer (G12).

use std::path::{Path, PathBuf};
use std::time::Duration;

use springhead_engine::{EngineError, state};
use springhead_proto::TenantId;

use crate::support::{Client, Node};

/// Two tables with some pages each.
async fn filled(node: &Node) -> Client {
    let mut client = node.client().await;
    for table in ["apples", "pears"] {
        client
            .ok(&format!(
                "CREATE TABLE {table} (id int PRIMARY KEY, body text)"
            ))
            .await;
        for tens in 0..10 {
            let (from, to) = (tens * 30, tens * 30 + 29);
            client
                .ok(&format!(
                    "INSERT INTO {table} SELECT i, '{table}-' || i || repeat('.', 100) FROM generate_series({from}, {to}) g(i)"
                ))
                .await;
        }
    }
    client
}

fn path(node: &Node) -> PathBuf {
    node.state_file(TenantId::DEFAULT)
}

fn wal(state: &Path) -> PathBuf {
    state.with_file_name("state.db-wal")
}

/// Flips a bit of `text` in the file, and the page that it is in.
fn damage(state: &Path, text: &str) -> usize {
    let mut bytes = std::fs::read(state).unwrap();
    let place = bytes
        .windows(text.len())
        .position(|window| window == text.as_bytes())
        .unwrap();
    bytes[place] ^= 1;
    std::fs::write(state, bytes).unwrap();
    place / 4096 + 1
}

/// Ends the engine with everything in the state file, and opens it with `text` damaged there.
async fn reopened_with_damage_in(node: Node, text: &str) -> (Node, usize) {
    let state = path(&node);
    let mut page = 0;
    node.engine.shutdown();
    let node = node.try_reopen(|_| page = damage(&state, text)).unwrap();
    (node, page)
}

#[tokio::test]
async fn g12_a_damaged_page_is_an_error_where_it_is_read_and_nowhere_else() {
    let node = Node::on_disk(|_| {});
    let mut client = filled(&node).await;
    let pears = client.lines("SELECT * FROM pears ORDER BY id").await;
    drop(client);
    let (node, page) = reopened_with_damage_in(node, "apples-150.").await;
    let mut client = node.client().await;
    for query in [
        "SELECT * FROM apples",
        "SELECT body FROM apples WHERE id = 150",
        "SELECT sum(id) FROM apples",
    ] {
        let error = client.fails(query, "XX001").await;
        assert!(
            error.message.contains(&format!("page {page} of ")),
            "{}",
            error.message
        );
        assert!(error.message.contains("\"tenants/"), "{}", error.message);
        assert!(
            !error
                .message
                .contains(node.config().data_dir.to_str().unwrap()),
            "{}",
            error.message
        );
    }
    assert_eq!(
        client
            .one("SELECT count(*) FROM apples WHERE id < 20")
            .await,
        "20"
    );
    assert_eq!(client.lines("SELECT * FROM pears ORDER BY id").await, pears);
    // Readers end nothing: what is whole can still be written.
    client.ok("INSERT INTO pears VALUES (1000, 'new')").await;
}

#[tokio::test]
async fn g12_a_writer_that_meets_damage_acknowledges_nothing_and_harms_no_other_tenant() {
    let attempts = [
        "UPDATE apples SET body = body || '!'",
        "DELETE FROM apples WHERE id = 150",
        "INSERT INTO pears SELECT id + 5000, body FROM apples",
        "BEGIN; INSERT INTO pears VALUES (9000, 'x'); UPDATE apples SET body = 'y' WHERE id = 150; COMMIT",
    ];
    for attempt in attempts {
        let node = Node::on_disk(|_| {});
        drop(filled(&node).await);
        let (node, page) = reopened_with_damage_in(node, "apples-150.").await;
        let durable = node.engine.log().tail().durable;
        let mut client = node.client().await;
        let neighbour = node.engine.create_tenant("neighbour").await.unwrap();
        let durable = durable.max(node.engine.log().tail().durable);
        client.fails(attempt, "XX001").await;
        let damaged = node.engine.status().damaged_tenants;
        assert!(
            matches!(&damaged[..], [(TenantId::DEFAULT, what)] if what.contains(&format!("page {page} of "))),
            "{damaged:?}"
        );
        assert_eq!(
            node.engine.log().tail().durable,
            durable,
            "{attempt} was logged"
        );
        let mut other = node.client().await;
        other
            .fails("INSERT INTO pears VALUES (9001, 'x')", "XX001")
            .await;
        assert_eq!(other.one("SELECT count(*) FROM pears").await, "300");
        assert_eq!(node.engine.log().tail().durable, durable);
        assert_ne!(neighbour, TenantId::DEFAULT);
        let mut neighbour = node.client_of("neighbour").await;
        neighbour.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
        neighbour.ok("INSERT INTO t VALUES (1)").await;
    }
}

/// Those that share its transaction have not been answered and are not in the log: they fail too.
#[tokio::test]
async fn g12_neighbours_of_a_statement_that_meets_damage_are_not_acknowledged() {
    let node = Node::on_disk(|_| {});
    drop(filled(&node).await);
    let (node, _) = reopened_with_damage_in(node, "apples-150.").await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(node.client().await);
    }
    let mut first = node.client().await;
    node.log.hold();
    let blocking =
        tokio::spawn(async move { first.run("INSERT INTO pears VALUES (8000, 'first')").await });
    node.log.held().await;
    let statements = [
        "INSERT INTO pears VALUES (8001, 'before')",
        "INSERT INTO pears VALUES (8000, 'twice')",
        "UPDATE apples SET body = body || '!'",
        "INSERT INTO pears VALUES (8002, 'after')",
    ];
    let running: Vec<_> = clients
        .into_iter()
        .zip(statements)
        .map(|(mut client, sql)| tokio::spawn(async move { client.run(sql).await }))
        .collect();
    tokio::task::yield_now().await;
    node.log.release();
    blocking.await.unwrap().unwrap();
    let durable = node.engine.log().tail().durable;
    for (task, sql) in running.into_iter().zip(statements) {
        let error = task.await.unwrap().unwrap_err();
        assert_eq!(error.code.sqlstate().0, "XX001", "{sql}: {error:?}");
    }
    assert_eq!(
        node.engine.log().tail().durable,
        durable,
        "something was logged"
    );
    let mut client = node.client().await;
    assert_eq!(
        client.lines("SELECT id FROM pears WHERE id >= 8000").await,
        ["8000"]
    );
}

/// The files as a killed process leaves them: an orderly end would empty the WAL.
struct Killed {
    state: PathBuf,
    file: Vec<u8>,
    wal: Vec<u8>,
}

impl Killed {
    fn now(node: &Node) -> Killed {
        let state = path(node);
        Killed {
            file: std::fs::read(&state).unwrap(),
            wal: std::fs::read(wal(&state)).unwrap(),
            state,
        }
    }

    /// Puts the files back, with one bit of the WAL flipped.
    fn put(&self, flipped: Option<usize>) {
        let mut bytes = self.wal.clone();
        if let Some(place) = flipped {
            bytes[place] ^= 0x10;
        }
        std::fs::write(&self.state, &self.file).unwrap();
        std::fs::write(wal(&self.state), bytes).unwrap();
        let _ = std::fs::remove_file(self.state.with_file_name("state.db-shm"));
    }
}

const BOTH: &str = "SELECT * FROM apples UNION ALL SELECT * FROM pears ORDER BY body";

#[tokio::test]
async fn g12_what_a_damaged_wal_loses_comes_again_from_the_log() {
    let mut node = Node::start();
    let mut client = filled(&node).await;
    let whole = client.lines(BOTH).await;
    drop(client);
    let killed = Killed::now(&node);
    let length = killed.wal.len();
    assert!(length > 100_000, "{length}");
    for place in (40..length).step_by(length / 14).chain([length - 1]) {
        node = node.try_reopen(|_| killed.put(Some(place))).unwrap();
        assert!(
            node.client().await.lines(BOTH).await == whole,
            "byte {place}"
        );
    }
}

/// A frame that goes bad while the node runs: readers are told, no checkpoint moves it, and the node
/// that starts again has everything.
#[tokio::test]
async fn g12_a_frame_that_cannot_be_checkpointed_stops_the_node_and_comes_again_from_the_log() {
    let node = Node::on_disk(|_| {});
    drop(filled(&node).await);
    let wal = wal(&path(&node));
    let text = b"apples-150.";
    let bytes = std::fs::read(&wal).unwrap();
    let place = bytes
        .windows(text.len())
        .rposition(|window| window == text)
        .unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&wal).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"A", place as u64).unwrap();
    let mut client = node.client().await;
    let error = client.fails("SELECT * FROM apples", "XX001").await;
    assert!(
        error.message.starts_with("invalid checksum in frame "),
        "{}",
        error.message
    );
    assert_eq!(client.one("SELECT count(*) FROM pears").await, "300");
    drop(client);
    node.engine.shutdown();
    let why = tokio::time::timeout(Duration::from_secs(10), node.engine.poisoned())
        .await
        .unwrap();
    assert!(why.contains("invalid checksum in frame "), "{why}");
    let node = node.reopen();
    let mut client = node.client().await;
    assert_eq!(
        client
            .one("SELECT count(*) FROM apples WHERE body LIKE 'apples-%'")
            .await,
        "300"
    );
    assert_eq!(client.one("SELECT count(*) FROM pears").await, "300");
}

#[tokio::test]
async fn g12_a_wal_without_its_header_is_refused() {
    let mut node = Node::start();
    drop(filled(&node).await);
    let killed = Killed::now(&node);
    let state = path(&node);
    node = node.try_reopen(|_| killed.put(None)).unwrap();
    drop(node.client().await.lines(BOTH).await);
    match node.try_reopen(|_| killed.put(Some(9))) {
        Err(EngineError::Corrupt { what, .. }) => assert!(what.contains("WAL"), "{what}"),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("{} was opened", state.display()),
    }
}

/// Part of a checkpointed WAL over a file that has all of it would be a state that there never was.
#[tokio::test]
async fn g12_a_wal_that_is_damaged_after_a_checkpoint_is_refused() {
    let node = Node::start();
    let mut client = filled(&node).await;
    let whole = client.lines(BOTH).await;
    drop(client);
    assert!(state::checkpoint(&path(&node), false).unwrap());
    let killed = Killed::now(&node);
    let node = node.try_reopen(|_| killed.put(None)).unwrap();
    assert!(node.client().await.lines(BOTH).await == whole, "undamaged");
    match node.try_reopen(|_| killed.put(Some(killed.wal.len() / 2))) {
        Err(EngineError::Corrupt { what, .. }) => assert!(what.contains("WAL"), "{what}"),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was opened"),
    }
}

#[tokio::test]
async fn g12_a_state_file_cut_short_is_refused() {
    let node = Node::start();
    drop(filled(&node).await);
    let state = path(&node);
    node.engine.shutdown();
    let cut = |_: &_| {
        let bytes = std::fs::read(&state).unwrap();
        std::fs::write(&state, &bytes[..bytes.len() / 2]).unwrap();
    };
    match node.try_reopen(cut) {
        Err(error @ (EngineError::Corrupt { .. } | EngineError::Sqlite { .. })) => {
            let error = springhead_proto::SqlError::from(error);
            assert_eq!(error.code.sqlstate().0, "XX001", "{}", error.message);
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was opened"),
    }
}
