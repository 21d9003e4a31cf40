//! A device that has never met a server.

use springhead_device::{Device, DeviceError};
use springhead_engine::live::{LiveEvent, LiveOptions, LiveRequest};

use crate::support::{directory, lines};

#[tokio::test(flavor = "multi_thread")]
async fn g9_a_device_works_with_no_server_and_keeps_what_it_has() {
    let dir = directory();
    let device = Device::open(dir.path()).await.unwrap();
    for sql in [
        "CREATE TABLE notes (id int PRIMARY KEY, body text NOT NULL, words int)",
        "CREATE FUNCTION words(t text) RETURNS int LANGUAGE sql AS \
         'SELECT cardinality(regexp_split_to_array(t, '' ''))'",
        "CREATE FUNCTION count_words() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN NEW.words := words(NEW.body); RETURN NEW; END'",
        "CREATE TRIGGER counted BEFORE INSERT OR UPDATE ON notes \
         FOR EACH ROW EXECUTE FUNCTION count_words()",
        "INSERT INTO notes (id, body) VALUES (1, 'two words')",
    ] {
        device.sql(sql, &[]).await.unwrap();
    }
    assert_eq!(
        lines(&device, "SELECT * FROM notes").await,
        ["1|two words|2"]
    );
    // What is this device's own is nobody's mutation.
    assert!(device.pending().await.unwrap().is_empty());
    drop(device);
    let device = Device::open(dir.path()).await.unwrap();
    assert_eq!(
        lines(&device, "SELECT * FROM notes").await,
        ["1|two words|2"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_is_told_that_the_device_is_in_use() {
    let dir = directory();
    let _device = Device::open(dir.path()).await.unwrap();
    let second = Device::open(dir.path()).await.err();
    assert!(
        matches!(second, Some(DeviceError::InUse { .. })),
        "{second:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn g8_live_queries_run_on_the_device() {
    let dir = directory();
    let device = Device::open(dir.path()).await.unwrap();
    device
        .sql("CREATE TABLE notes (id int PRIMARY KEY, body text)", &[])
        .await
        .unwrap();
    let mut live = device.live();
    let request = LiveRequest {
        sql: "SELECT id FROM notes WHERE body = 'x'",
        params: &[],
        cursor: None,
        options: LiveOptions::default(),
    };
    live.open(device.principal(), &request).await.unwrap();
    device
        .sql("INSERT INTO notes VALUES (7, 'x')", &[])
        .await
        .unwrap();
    loop {
        if let LiveEvent::Change { delta, .. } = live.next().await {
            assert_eq!(delta.entries.len(), 1);
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_none_is_refused_by_name() {
    let dir = directory();
    let device = Device::open(dir.path()).await.unwrap();
    for url in ["http://x/sync", "nonsense", "ws:///sync"] {
        let error = device.connect(url, None).expect_err(url);
        assert!(matches!(error, DeviceError::BadUrl { .. }), "{error}");
    }
}
