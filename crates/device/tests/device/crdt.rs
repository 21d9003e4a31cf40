//! Columns that merge, on devices and their server: what is written in one text by several people,
//! with and without a network, is all there in the end, and the same everywhere.
//!
//! `CRDT_SEEDS=200 cargo nextest run -p springhead-device g9_random_edits` runs more of the random
//! ones; `CRDT_FIRST=17 CRDT_SEEDS=1` repeats one.

use springhead_device::{Device, Edit};
use springhead_proto::sync::{SyncValue, Violation};
use tempfile::TempDir;

use crate::support::{Dice, Server, Wire, directory, exchange, lines};

const SCHEMA: &str = "CREATE TABLE notes (id int PRIMARY KEY, body text CRDT NOT NULL DEFAULT '', \
     items list CRDT, title text, CHECK (length(body) < 200)); \
     INSERT INTO notes (id, body, items) VALUES (1, 'milk and bread', '[\"a\", \"b\"]')";

const BODY: &str = "SELECT body FROM notes ORDER BY id";
const STATES: &str =
    r#"SELECT id, body, items::text, notes."body$crdt", notes."items$crdt" FROM notes ORDER BY id"#;

async fn device(server: &Server) -> (TempDir, Device) {
    let dir = directory();
    let device = Device::open(dir.path()).await.unwrap();
    device.subscribe(1, "notes", None, &[]).await.unwrap();
    exchange(&device, server).await;
    (dir, device)
}

fn insert(at: usize, text: &str) -> Edit {
    Edit::Insert {
        at,
        text: text.to_owned(),
    }
}

async fn edit(device: &Device, column: &str, edits: Vec<Edit>) {
    let id = SyncValue::from(1_i64);
    device.edit("notes", id, column, edits).await.unwrap();
}

async fn expect_converged(server: &Server, devices: &[&Device]) {
    let all = server.sql(STATES).await;
    for device in devices {
        assert_eq!(lines(device, STATES).await, all);
        let pending = device.pending().await.unwrap();
        assert!(pending.is_empty(), "{pending:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_offline_edits_of_one_text_are_all_there() {
    let server = Server::start(SCHEMA).await;
    let (_one_dir, one) = device(&server).await;
    let (_two_dir, two) = device(&server).await;
    edit(&one, "body", vec![insert(4, ", eggs")]).await;
    edit(&one, "body", vec![insert(0, "Today: ")]).await;
    edit(
        &two,
        "body",
        vec![Edit::Delete { at: 9, length: 5 }, insert(9, "rye")],
    )
    .await;
    assert_eq!(lines(&one, BODY).await, ["Today: milk, eggs and bread"]);
    assert_eq!(lines(&two, BODY).await, ["milk and rye"]);
    exchange(&one, &server).await;
    exchange(&two, &server).await;
    exchange(&one, &server).await;
    assert_eq!(server.sql(BODY).await, ["Today: milk, eggs and rye"]);
    expect_converged(&server, &[&one, &two]).await;
    // From there on too, now that there are edits to rest on.
    edit(&two, "body", vec![insert(0, "Buy ")]).await;
    edit(&one, "body", vec![insert(0, "(list) ")]).await;
    exchange(&one, &server).await;
    exchange(&two, &server).await;
    exchange(&one, &server).await;
    expect_converged(&server, &[&one, &two]).await;
    let body = server.sql(BODY).await.remove(0);
    assert!(body.contains("Buy ") && body.contains("(list) "), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_a_statement_s_replacement_merges_with_edits_made_offline() {
    let server = Server::start(SCHEMA).await;
    let (_one_dir, one) = device(&server).await;
    let (_two_dir, two) = device(&server).await;
    edit(&one, "body", vec![insert(14, ", now")]).await;
    // On another device with SQL, and on the server.
    two.sql(
        "UPDATE notes SET body = 'oat ' || body, title = 't' WHERE id = 1",
        &[],
    )
    .await
    .unwrap();
    server
        .sql("UPDATE notes SET body = replace(body, 'and', 'or') WHERE id = 1")
        .await;
    exchange(&one, &server).await;
    exchange(&two, &server).await;
    exchange(&one, &server).await;
    assert_eq!(server.sql(BODY).await, ["oat milk or bread, now"]);
    assert_eq!(server.sql("SELECT title FROM notes").await, ["t"]);
    expect_converged(&server, &[&one, &two]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_a_refused_edit_is_taken_back_and_the_next_one_goes_on() {
    let server = Server::start(SCHEMA).await;
    let (_one_dir, one) = device(&server).await;
    let (_two_dir, two) = device(&server).await;
    // Each fits, both together do not.
    edit(&one, "body", vec![insert(0, &"1".repeat(120))]).await;
    edit(&two, "body", vec![insert(0, &"2".repeat(120))]).await;
    exchange(&one, &server).await;
    exchange(&two, &server).await;
    let rejections = two.rejections().await.unwrap();
    assert_eq!(rejections.len(), 1);
    assert!(
        matches!(&rejections[0].violation, Violation::Check { .. }),
        "{:?}",
        rejections[0].violation
    );
    expect_converged(&server, &[&two]).await;
    edit(&two, "body", vec![insert(0, "2")]).await;
    exchange(&two, &server).await;
    exchange(&one, &server).await;
    assert_eq!(
        server.sql(BODY).await,
        [format!("2{}milk and bread", "1".repeat(120))]
    );
    expect_converged(&server, &[&one, &two]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_lists_keep_the_elements_of_all() {
    let server = Server::start(SCHEMA).await;
    let (_one_dir, one) = device(&server).await;
    let (_two_dir, two) = device(&server).await;
    let add = |at, element: &str| Edit::InsertElements {
        at,
        elements: vec![element.into()],
    };
    edit(
        &one,
        "items",
        vec![add(2, "c"), Edit::Delete { at: 0, length: 1 }],
    )
    .await;
    edit(&two, "items", vec![add(0, "z")]).await;
    exchange(&one, &server).await;
    exchange(&two, &server).await;
    exchange(&one, &server).await;
    assert_eq!(
        server.sql("SELECT items FROM notes").await,
        [r#"["z", "b", "c"]"#]
    );
    expect_converged(&server, &[&one, &two]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_merge_is_refused_at_once() {
    let server = Server::start(SCHEMA).await;
    let (_dir, one) = device(&server).await;
    let try_edit = async |id: i64, column: &str, edit: Edit| {
        let tried = one
            .edit("notes", SyncValue::from(id), column, vec![edit])
            .await;
        tried.unwrap_err().to_string()
    };
    let told = try_edit(1, "title", insert(0, "x")).await;
    assert!(told.contains("no CRDT column"), "{told}");
    let told = try_edit(1, "body", insert(99, "x")).await;
    assert!(told.contains("beyond the end"), "{told}");
    let told = try_edit(1, "items", insert(0, "x")).await;
    assert!(told.contains("not an edit of this kind"), "{told}");
    let told = try_edit(7, "body", insert(0, "x")).await;
    assert!(told.contains("no such document"), "{told}");
    assert!(one.pending().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_edits_are_there_after_a_restart() {
    let server = Server::start(SCHEMA).await;
    let (dir, one) = device(&server).await;
    edit(&one, "body", vec![insert(0, "a")]).await;
    one.close().await;
    let one = Device::open(dir.path()).await.unwrap();
    edit(&one, "body", vec![insert(0, "b")]).await;
    assert_eq!(lines(&one, BODY).await, ["bamilk and bread"]);
    exchange(&one, &server).await;
    assert_eq!(server.sql(BODY).await, ["bamilk and bread"]);
    expect_converged(&server, &[&one]).await;
}

async fn random_edit(device: &Device, dice: &mut Dice) {
    let length = lines(device, "SELECT length(body) FROM notes")
        .await
        .remove(0);
    let length: usize = length.parse().unwrap();
    let word = ["x", "yes ", "é😀", "and\n"][dice.place(4)];
    match dice.place(6) {
        0 if length > 0 => {
            let at = dice.place(length);
            let length = (dice.place(4) + 1).min(length - at);
            edit(device, "body", vec![Edit::Delete { at, length }]).await;
        }
        1 => {
            let sql = format!("UPDATE notes SET body = body || '{word}' WHERE id = 1");
            // It may be over the limit already.
            let _ = device.sql(&sql, &[]).await;
        }
        2 => {
            let elements = vec![word.into(), 1.into()];
            edit(
                device,
                "items",
                vec![Edit::InsertElements { at: 0, elements }],
            )
            .await;
        }
        _ => {
            let id = SyncValue::from(1_i64);
            let edits = vec![insert(dice.place(length + 1), word)];
            let _ = device.edit("notes", id, "body", edits).await;
        }
    }
}

/// Pushes, and hears only the beginning of what the server says, now and then twice.
async fn torn_exchange(device: &Device, server: &Server, dice: &mut Dice) {
    let mut wire = Wire::connect(device, server).await;
    wire.push().await;
    for _ in 0..dice.place(4) {
        let Some(frame) = wire.hear().await else {
            return;
        };
        if wire.take(frame).await.is_err() {
            return;
        }
    }
}

async fn run(seed: u64) {
    let server = Server::start(SCHEMA).await;
    let mut dice = Dice::new(seed);
    let mut devices = Vec::new();
    for _ in 0..3 {
        devices.push(device(&server).await);
    }
    for _ in 0..40 {
        let place = dice.place(devices.len());
        let device = &devices[place].1;
        match dice.place(8) {
            0 => exchange(device, &server).await,
            1 => torn_exchange(device, &server, &mut dice).await,
            2 => {
                let sql = "UPDATE notes SET body = 'S' || body WHERE length(body) < 150";
                server.sql(sql).await;
            }
            _ => random_edit(device, &mut dice).await,
        }
    }
    for _ in 0..2 {
        for (_, device) in &devices {
            exchange(device, &server).await;
        }
    }
    let devices: Vec<&Device> = devices.iter().map(|(_, device)| device).collect();
    let all = server.sql("SELECT body, items::text FROM notes").await;
    for device in devices {
        assert_eq!(
            lines(device, "SELECT body, items::text FROM notes").await,
            all
        );
        assert!(device.pending().await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_random_edits_of_three_devices_converge() {
    let number = |name: &str, default: u64| {
        (std::env::var(name).ok()).map_or(default, |text| text.parse().unwrap())
    };
    let first = number("CRDT_FIRST", 1);
    for seed in first..first + number("CRDT_SEEDS", 6) {
        println!("seed {seed}");
        run(seed).await;
    }
}
