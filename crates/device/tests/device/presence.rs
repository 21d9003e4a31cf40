//! Presence: who is in a channel, over sessions without sockets.

use serde_json::json;
use springhead_device::Device;

use crate::support::{Server, Wire, directory};

/// Both say and hear what there is.
async fn meet(one: &mut Wire, two: &mut Wire) {
    for _ in 0..2 {
        one.run().await;
        two.run().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g7_devices_see_each_other_in_a_channel_and_nothing_is_stored() {
    let server = Server::start("CREATE TABLE todos (id int PRIMARY KEY)").await;
    let (one_dir, two_dir) = (directory(), directory());
    let one = Device::open(one_dir.path()).await.unwrap();
    let two = Device::open(two_dir.path()).await.unwrap();
    let name = one.id().await.unwrap();
    // Offline it is only kept.
    one.set_presence("room", &json!("before there was a server"))
        .unwrap();
    let others = two.presence("room").unwrap();
    assert!(others.borrow().is_empty());

    let mut first = Wire::connect(&one, &server).await;
    let mut second = Wire::connect(&two, &server).await;
    let before = server.engine.log().tail().durable;
    meet(&mut first, &mut second).await;
    assert_eq!(
        others.borrow()[&name].state,
        "\"before there was a server\""
    );
    assert_eq!(others.borrow()[&name].user, "tester");
    for cursor in 0..20 {
        one.set_presence("room", &json!({ "cursor": cursor }))
            .unwrap();
    }
    meet(&mut first, &mut second).await;
    assert_eq!(others.borrow()[&name].state, "{\"cursor\":19}");

    // Who leaves is gone, and whoever is cut off; after the connection is back it is there again.
    one.leave_presence("room");
    meet(&mut first, &mut second).await;
    assert!(others.borrow().is_empty());
    one.set_presence("room", &json!("back")).unwrap();
    meet(&mut first, &mut second).await;
    drop(first);
    second.run().await;
    assert!(others.borrow().is_empty());
    let mut first = Wire::connect(&one, &server).await;
    meet(&mut first, &mut second).await;
    assert_eq!(others.borrow()[&name].state, "\"back\"");
    // Without a connection nobody is known to be anywhere.
    drop(second);
    assert!(others.borrow().is_empty());
    assert_eq!(server.engine.log().tail().durable, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_state_and_no_channel_is_refused() {
    let dir = directory();
    let device = Device::open(dir.path()).await.unwrap();
    let long = "x".repeat(5000);
    for (channel, state) in [
        ("room", json!(long)),
        ("", json!(1)),
        (long.as_str(), json!(1)),
    ] {
        let error = device.set_presence(channel, &state).unwrap_err();
        assert!(error.to_string().contains("bytes"), "{error}");
    }
    assert!(device.presence("").is_err());
}
