//! Devices with a server: what they write arrives once, what is refused comes back with its reason,
//! and what the server has is what they show.

use springhead_device::{Device, Shape, ShapeId};
use springhead_proto::sync::{Operation, SyncValue, Verb, Violation};
use tempfile::TempDir;

use crate::support::{Server, Wire, directory, exchange, lines};

const SCHEMA: &str = "CREATE TABLE todos (id int PRIMARY KEY, title text UNIQUE NOT NULL, \
     done boolean NOT NULL DEFAULT false, votes int NOT NULL DEFAULT 0 CHECK (votes <= 100), tags jsonb); \
     INSERT INTO todos (id, title) VALUES (1, 'milk'), (2, 'bread')";

const ALL: &str = "SELECT id, title, done, votes FROM todos ORDER BY id";

async fn device(server: &Server) -> (TempDir, Device) {
    let dir = directory();
    let device = Device::open(dir.path()).await.unwrap();
    device.subscribe(1, "todos", None, &[]).await.unwrap();
    exchange(&device, server).await;
    (dir, device)
}

async fn expect_settled(device: &Device) {
    let pending = device.pending().await.unwrap();
    assert!(pending.is_empty(), "{pending:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_a_new_device_gets_definitions_and_rows() {
    let server = Server::start(SCHEMA).await;
    let (_dir, device) = device(&server).await;
    assert_eq!(lines(&device, ALL).await, ["1|milk|f|0", "2|bread|f|0"]);
    assert!(device.status().borrow().complete);
    server
        .sql("ALTER TABLE todos ADD COLUMN note text; UPDATE todos SET note = 'n' WHERE id = 2")
        .await;
    exchange(&device, &server).await;
    assert_eq!(
        lines(&device, "SELECT id, note FROM todos ORDER BY id").await,
        ["1|", "2|n"]
    );
    server
        .sql("ALTER TABLE todos RENAME COLUMN note TO remark")
        .await;
    exchange(&device, &server).await;
    assert_eq!(
        lines(&device, "SELECT id, remark FROM todos ORDER BY id").await,
        ["1|", "2|n"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_offline_edits_of_two_devices_converge() {
    let server = Server::start(SCHEMA).await;
    let (_one_dir, one) = device(&server).await;
    let (_two_dir, two) = device(&server).await;
    // Different columns of one document both survive; on the same column the later verdict wins.
    for sql in [
        "UPDATE todos SET title = 'oat milk', votes = 1 WHERE id = 1",
        "INSERT INTO todos (id, title) VALUES (3, 'eggs')",
        "DELETE FROM todos WHERE id = 2",
    ] {
        one.sql(sql, &[]).await.unwrap();
    }
    two.sql("UPDATE todos SET done = true, votes = 2 WHERE id = 1", &[])
        .await
        .unwrap();
    assert_eq!(one.pending().await.unwrap().len(), 3);
    // Shown before anybody has confirmed it.
    assert_eq!(lines(&one, ALL).await, ["1|oat milk|f|1", "3|eggs|f|0"]);
    exchange(&one, &server).await;
    exchange(&two, &server).await;
    exchange(&one, &server).await;
    let all = server.sql(ALL).await;
    assert_eq!(all, ["1|oat milk|t|2", "3|eggs|f|0"]);
    assert_eq!(lines(&one, ALL).await, all);
    assert_eq!(lines(&two, ALL).await, all);
    expect_settled(&one).await;
    expect_settled(&two).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_increments_and_set_elements_of_two_devices_add_up() {
    let server = Server::start(SCHEMA).await;
    let (_one_dir, one) = device(&server).await;
    let (_two_dir, two) = device(&server).await;
    let add = |tag: &str| Operation {
        collection: "todos".to_owned(),
        id: vec![SyncValue::from(1)],
        verb: Verb::SetAdd(vec![("tags".to_owned(), vec![tag.into()])]),
    };
    for (device, by, tag) in [(&one, 3, "a"), (&two, 4, "b")] {
        device.inc("todos", 1.into(), "votes", by).await.unwrap();
        device.write(vec![add(tag)]).await.unwrap();
    }
    assert_eq!(
        lines(&one, "SELECT votes, tags FROM todos WHERE id = 1")
            .await
            .len(),
        1
    );
    exchange(&one, &server).await;
    exchange(&two, &server).await;
    exchange(&one, &server).await;
    let query = "SELECT votes FROM todos WHERE id = 1 AND tags @> '[\"a\",\"b\"]'";
    assert_eq!(server.sql(query).await, ["7"]);
    assert_eq!(lines(&one, query).await, ["7"]);
    assert_eq!(lines(&two, query).await, ["7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_a_rejected_update_restores_the_servers_row_exactly() {
    let server = Server::start(SCHEMA).await;
    let (_dir, device) = device(&server).await;
    device
        .sql("UPDATE todos SET votes = 50 WHERE id = 1", &[])
        .await
        .unwrap();
    // Meanwhile the server has a rule that the device has not heard of.
    server
        .sql("ALTER TABLE todos ADD CONSTRAINT few CHECK (votes < 10)")
        .await;
    device
        .sql("UPDATE todos SET title = 'rye' WHERE id = 2", &[])
        .await
        .unwrap();
    exchange(&device, &server).await;
    // The independent one behind it is in; the row of the rejected one is the server's.
    let all = server.sql(ALL).await;
    assert_eq!(all, ["1|milk|f|0", "2|rye|f|0"]);
    assert_eq!(lines(&device, ALL).await, all);
    let rejections = device.rejections().await.unwrap();
    assert_eq!(rejections.len(), 1);
    assert_eq!(rejections[0].violation.to_string(), "check:few");
    // With the original values, until the application has seen them.
    assert!(format!("{:?}", rejections[0].mutation).contains("50"));
    device.acknowledge(rejections[0].id).await.unwrap();
    assert!(device.rejections().await.unwrap().is_empty());
    expect_settled(&device).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_the_unique_hint_s_fix_commits() {
    let server = Server::start(SCHEMA).await;
    let (_one_dir, one) = device(&server).await;
    let (_two_dir, two) = device(&server).await;
    for (device, id) in [(&one, 10), (&two, 20)] {
        let sql = "INSERT INTO todos (id, title) VALUES ($1, 'jam')";
        device.sql(sql, &[id.into()]).await.unwrap();
    }
    exchange(&one, &server).await;
    exchange(&two, &server).await;
    let rejections = two.rejections().await.unwrap();
    assert_eq!(
        rejections[0].violation,
        Violation::Unique {
            column: "title".to_owned(),
            value: "jam".to_owned()
        }
    );
    assert!(
        !lines(&two, ALL)
            .await
            .iter()
            .any(|line| line.starts_with("20|"))
    );
    two.apply_fix(rejections[0].id, 0).await.unwrap();
    exchange(&two, &server).await;
    assert!(two.rejections().await.unwrap().is_empty());
    let all = server.sql(ALL).await;
    assert_eq!(all.len(), 4, "{all:?}");
    assert_eq!(lines(&two, ALL).await, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_triggers_fire_once_for_each_mutation_and_never_for_the_servers_rows() {
    let server = Server::start(
        "CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL); \
         CREATE TABLE journal (id int PRIMARY KEY, times int NOT NULL); \
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN INSERT INTO journal VALUES (NEW.id, 1) ON CONFLICT (id) \
          DO UPDATE SET times = journal.times + 1; RETURN NEW; END'; \
         CREATE TRIGGER noted AFTER INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION note(); \
         INSERT INTO items VALUES (1, 0)",
    )
    .await;
    let dir = directory();
    let device = Device::open(dir.path()).await.unwrap();
    device.subscribe(1, "items", None, &[]).await.unwrap();
    device.subscribe(2, "journal", None, &[]).await.unwrap();
    exchange(&device, &server).await;
    let journal = "SELECT id, times FROM journal ORDER BY id";
    assert_eq!(lines(&device, journal).await, ["1|1"]);
    device
        .sql("UPDATE items SET n = 5 WHERE id = 1", &[])
        .await
        .unwrap();
    device
        .sql("INSERT INTO items VALUES (2, 0)", &[])
        .await
        .unwrap();
    // Predicted here, done again there.
    assert_eq!(lines(&device, journal).await, ["1|2", "2|1"]);
    let pending = device.pending().await.unwrap();
    assert!(
        pending.iter().all(|one| one.mutation.operations.len() == 1),
        "{pending:?}"
    );
    exchange(&device, &server).await;
    assert_eq!(server.sql(journal).await, ["1|2", "2|1"]);
    assert_eq!(lines(&device, journal).await, ["1|2", "2|1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_a_lost_verdict_does_not_apply_a_mutation_twice() {
    let server = Server::start(SCHEMA).await;
    let (_dir, device) = device(&server).await;
    device.inc("todos", 1.into(), "votes", 1).await.unwrap();
    {
        // Pushed and decided, and the connection is lost before a word of it has come.
        let mut wire = Wire::connect(&device, &server).await;
        assert!(wire.push().await);
        while wire.hear().await.is_some() {}
    }
    assert_eq!(device.pending().await.unwrap().len(), 1);
    exchange(&device, &server).await;
    expect_settled(&device).await;
    let votes = "SELECT votes FROM todos WHERE id = 1";
    assert_eq!(server.sql(votes).await, ["1"]);
    assert_eq!(lines(&device, votes).await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_a_copied_device_keeps_its_queue_and_counts_once() {
    let server = Server::start(SCHEMA).await;
    let (dir, original) = device(&server).await;
    original.inc("todos", 1.into(), "votes", 1).await.unwrap();
    drop(original);
    let copied = directory();
    copy(dir.path(), copied.path());
    std::fs::remove_file(copied.path().join("IDENTITY")).unwrap();
    std::fs::copy(dir.path().join("IDENTITY"), copied.path().join("IDENTITY")).unwrap();
    let original = Device::open(dir.path()).await.unwrap();
    let copy = Device::open(copied.path()).await.unwrap();
    // Both have it pending, under one name; what each writes from now on is its own.
    original.inc("todos", 1.into(), "votes", 10).await.unwrap();
    copy.inc("todos", 1.into(), "votes", 20).await.unwrap();
    exchange(&original, &server).await;
    exchange(&copy, &server).await;
    exchange(&original, &server).await;
    expect_settled(&original).await;
    expect_settled(&copy).await;
    let votes = "SELECT votes FROM todos WHERE id = 1";
    assert_eq!(server.sql(votes).await, ["31"]);
    assert_eq!(lines(&original, votes).await, ["31"]);
    assert_eq!(lines(&copy, votes).await, ["31"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_a_shape_with_columns_holds_these_and_leaves_the_others_alone() {
    let server = Server::start(SCHEMA).await;
    let dir = directory();
    let device = Device::open(dir.path()).await.unwrap();
    let shape = |id, collection: &str, columns: &[&str]| Shape {
        id: ShapeId(id),
        collection: collection.to_owned(),
        condition: None,
        params: Vec::new(),
        columns: columns.iter().map(|column| (*column).to_owned()).collect(),
    };
    device
        .subscribe_to(shape(1, "todos", &["title"]))
        .await
        .unwrap();
    device
        .subscribe_to(shape(2, "todos", &["no_such"]))
        .await
        .unwrap();
    exchange(&device, &server).await;
    let shapes = device.shapes().await.unwrap();
    assert!(
        shapes[0].complete && shapes[0].ended.is_none(),
        "{shapes:?}"
    );
    let ended = shapes[1].ended.as_deref().unwrap_or_default();
    assert!(ended.contains("no_such"), "{shapes:?}");
    let here = "SELECT id, title, votes FROM todos ORDER BY id";
    assert_eq!(lines(&device, here).await, ["1|milk|", "2|bread|"]);
    // What it does to the columns that it has touches no other.
    server.sql("UPDATE todos SET votes = 7 WHERE id = 1").await;
    device
        .sql("UPDATE todos SET title = 'oat milk' WHERE id = 1", &[])
        .await
        .unwrap();
    device.inc("todos", 2.into(), "votes", 3).await.unwrap();
    exchange(&device, &server).await;
    expect_settled(&device).await;
    assert_eq!(server.sql(here).await, ["1|oat milk|7", "2|bread|3"]);
    // Another shape has all of them, and takes them along when it goes.
    device.subscribe_to(shape(3, "todos", &[])).await.unwrap();
    exchange(&device, &server).await;
    assert_eq!(lines(&device, here).await, server.sql(here).await);
}

/// A whole disk that is set back to an earlier time: the files know nothing of it, and the device does
/// not notice. Its queue was settled meanwhile, and the same number stands for another mutation.
#[tokio::test(flavor = "multi_thread")]
async fn g9_a_device_set_back_to_an_earlier_time_does_nothing_twice() {
    let server = Server::start(SCHEMA).await;
    let (dir, device) = device(&server).await;
    device.inc("todos", 1.into(), "votes", 1).await.unwrap();
    device.close().await;
    let earlier = directory();
    copy(dir.path(), earlier.path());

    let device = Device::open(dir.path()).await.unwrap();
    exchange(&device, &server).await;
    // The same as the earlier one is going to write, and another: the first is settled with it.
    for votes in [10, 50] {
        device.inc("todos", 1.into(), "votes", votes).await.unwrap();
        exchange(&device, &server).await;
    }
    device.close().await;
    set_back(dir.path(), earlier.path());

    let device = Device::open(dir.path()).await.unwrap();
    assert_eq!(device.pending().await.unwrap().len(), 1);
    device.inc("todos", 1.into(), "votes", 10).await.unwrap();
    for _ in 0..2 {
        exchange(&device, &server).await;
    }
    expect_settled(&device).await;
    let votes = "SELECT votes FROM todos WHERE id = 1";
    assert_eq!(server.sql(votes).await, ["71"]);
    assert_eq!(lines(&device, votes).await, ["71"]);
}

/// Puts the files of `from` in the place of those in `to`, which stays the directory that it is.
fn set_back(to: &std::path::Path, from: &std::path::Path) {
    for entry in std::fs::read_dir(to).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else if !path.ends_with("IDENTITY") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let identity = std::fs::metadata(to.join("IDENTITY")).unwrap();
    copy(from, to);
    use std::os::unix::fs::MetadataExt;
    let after = std::fs::metadata(to.join("IDENTITY")).unwrap();
    assert_eq!(identity.ino(), after.ino(), "written over, not made anew");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g10_what_the_server_defines_is_not_changed_on_a_device() {
    let server = Server::start(SCHEMA).await;
    let (_dir, device) = device(&server).await;
    for sql in [
        "ALTER TABLE todos ADD COLUMN x int",
        "DROP TABLE todos",
        "TRUNCATE todos",
    ] {
        let error = device.sql(sql, &[]).await.expect_err(sql).to_string();
        assert!(error.contains("server"), "{sql}: {error}");
    }
    // Its own tables are its own.
    device
        .sql("CREATE TABLE mine (id int PRIMARY KEY)", &[])
        .await
        .unwrap();
    server.sql("CREATE TABLE more (id int PRIMARY KEY)").await;
    exchange(&device, &server).await;
    assert!(lines(&device, "SELECT * FROM more").await.is_empty());
    assert!(lines(&device, "SELECT * FROM mine").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_one_mutation_and_a_rolled_back_one_none() {
    let server = Server::start(SCHEMA).await;
    let (_dir, device) = device(&server).await;
    let mut session = device.session().await.unwrap();
    for sql in [
        "BEGIN",
        "UPDATE todos SET done = true WHERE id = 1",
        "SAVEPOINT s",
        "DELETE FROM todos WHERE id = 2",
        "ROLLBACK TO s",
        "INSERT INTO todos (id, title) VALUES (4, 'tea')",
        "COMMIT",
        "BEGIN",
        "DELETE FROM todos",
        "ROLLBACK",
    ] {
        let statement = session.prepare(sql, &[]).unwrap();
        session.execute(&statement, &[]).await.unwrap();
    }
    let pending = device.pending().await.unwrap();
    assert_eq!(pending.len(), 1);
    assert_eq!(pending[0].mutation.operations.len(), 2);
    exchange(&device, &server).await;
    assert_eq!(
        server.sql(ALL).await,
        ["1|milk|t|0", "2|bread|f|0", "4|tea|f|0"]
    );
}
