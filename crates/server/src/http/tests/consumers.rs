//! Consumer groups.

use super::*;

fn node() -> Node {
    let node = Node::with_orders();
    for index in 0..6 {
        node.sql(&format!(
            "INSERT INTO orders VALUES ('{index}', null, {index})"
        ));
    }
    node
}

fn create(node: &Node, body: &Value) -> Response {
    node.send("POST", "/v1/consumers", body)
}

fn commit(node: &Node, name: &str, body: &Value) -> Response {
    node.send("POST", &format!("/v1/consumers/{name}/commit"), body)
}

#[test]
fn g2_a_consumer_goes_on_from_what_it_has_committed() {
    let node = node();
    let made = create(
        &node,
        &json!({ "name": "mailer", "collection": "orders", "since_lsn": 3 }),
    );
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(made.json()["cursor"], "2@abcd0123");
    assert_eq!(create(&node, &json!({ "name": "mailer" })).status, 409);
    let page = node.page("/cdc/orders/poll?consumer=mailer&limit=2");
    assert_eq!(
        words(page["changes"].as_array().unwrap(), "document_id"),
        ["0", "1"]
    );
    // Not committed: it comes again.
    assert_eq!(node.page("/cdc/orders/poll?consumer=mailer&limit=2"), page);
    let cursor = page["next_cursor"]["cursor"].clone();
    let committed = commit(&node, "mailer", &json!({ "cursor": cursor }));
    assert_eq!(
        (committed.status, &committed.json()["cursor"]),
        (200, &cursor),
        "{}",
        committed.text()
    );
    let next_page = node.page("/cdc/orders/poll?consumer=mailer&limit=2");
    assert_eq!(
        words(next_page["changes"].as_array().unwrap(), "document_id"),
        ["2", "3"]
    );
    assert_eq!(
        next(&mut node.stream("/cdc/orders?consumer=mailer", None)).json()["document_id"],
        "2"
    );
    // Back only on purpose.
    let back = commit(&node, "mailer", &json!({ "cursor": "2@abcd0123" }));
    assert_eq!(
        (back.status, back.error_code().as_str()),
        (409, "wrong_state"),
        "{}",
        back.text()
    );
    assert_eq!(
        commit(
            &node,
            "mailer",
            &json!({ "cursor": "2@abcd0123", "rewind": true })
        )
        .status,
        200
    );
    assert_eq!(node.page("/cdc/orders/poll?consumer=mailer&limit=2"), page);
    node.refused("/cdc/poll?consumer=mailer", 400, "invalid_parameter");
    node.refused("/cdc/orders/poll?consumer=nobody", 404, "unknown_consumer");
    assert_eq!(
        commit(&node, "mailer", &json!({ "cursor": "999@abcd0123" })).error_code(),
        "cursor_expired"
    );
    assert_eq!(
        commit(&node, "mailer", &json!({ "cursor": "x" })).error_code(),
        "malformed_cursor"
    );
    let list = node.page("/v1/consumers");
    assert_eq!(list["consumers"].as_array().unwrap().len(), 1);
    assert_eq!(
        node.request("DELETE", "/v1/consumers/mailer", &[], "")
            .status,
        200
    );
    node.refused("/v1/consumers/mailer", 404, "unknown_consumer");
}

#[test]
fn a_new_reader_takes_over_and_the_old_is_told() {
    let node = node();
    assert_eq!(
        create(&node, &json!({ "name": "mailer", "since_lsn": 3 })).status,
        201
    );
    let mut old = node.stream("/cdc/orders?consumer=mailer", None);
    assert_eq!(take(&mut old, 6).len(), 6);
    let mut new = node.stream("/cdc/orders?consumer=mailer", None);
    let told = next(&mut old);
    assert_eq!(
        (told.event.as_str(), told.id.as_deref()),
        ("taken-over", Some("taken-over"))
    );
    assert!(old.next_event().unwrap().is_none());
    assert_eq!(take(&mut new, 6).len(), 6);
    // A poll takes over as well.
    node.page("/cdc/orders/poll?consumer=mailer");
    assert_eq!(next(&mut new).event, "taken-over");
}

/// It was told that another reader had taken over.
#[test]
fn the_reader_of_a_deleted_consumer_is_told_so() {
    let node = node();
    create(&node, &json!({ "name": "mailer", "since_lsn": 3 }));
    let mut reader = node.stream("/cdc/orders?consumer=mailer", None);
    assert_eq!(take(&mut reader, 6).len(), 6);
    node.request("DELETE", "/v1/consumers/mailer", &[], "");
    let told = next(&mut reader);
    assert_eq!(
        (told.event.as_str(), &told.json()["code"]),
        ("error", &json!("unknown_consumer"))
    );
    assert!(reader.next_event().unwrap().is_none());
}

/// The cursor of a consumer was lost to its readers with the name of its collection.
#[test]
fn g2_a_consumer_goes_on_reading_a_collection_that_has_a_new_name() {
    let node = node();
    create(
        &node,
        &json!({ "name": "mailer", "collection": "orders", "since_lsn": 3 }),
    );
    let page = node.page("/cdc/orders/poll?consumer=mailer&limit=2");
    let cursor = page["next_cursor"]["cursor"].clone();
    commit(&node, "mailer", &json!({ "cursor": cursor }));
    node.sql("ALTER TABLE orders RENAME TO purchases");
    // Not that of whatever takes the old name.
    node.sql("CREATE TABLE orders (id text PRIMARY KEY)");
    let page = node.page("/cdc/purchases/poll?consumer=mailer&limit=2");
    assert_eq!(
        words(page["changes"].as_array().unwrap(), "document_id"),
        ["2", "3"]
    );
    assert_eq!(node.page("/v1/consumers/mailer")["collection"], "purchases");
    node.refused("/cdc/orders/poll?consumer=mailer", 400, "invalid_parameter");
}

#[test]
fn g5_an_expired_consumer_is_told_so() {
    let node = node();
    assert_eq!(
        create(&node, &json!({ "name": "slow", "since_lsn": 3 })).status,
        201
    );
    node.trim(6);
    let error = node.refused("/cdc/orders/poll?consumer=slow", 410, "consumer_expired");
    assert_eq!(error["earliest_lsn"], 7);
    let mut stream = node.stream("/cdc/orders?consumer=slow", None);
    let told = next(&mut stream);
    assert_eq!(
        (told.event.as_str(), &told.json()["code"]),
        ("must-refetch", &json!("consumer_expired"))
    );
    // A position inside retention makes it whole again.
    assert_eq!(
        commit(&node, "slow", &json!({ "cursor": "7@abcd0123" })).status,
        200
    );
    assert_eq!(
        node.page("/cdc/orders/poll?consumer=slow")["changes"][0]["lsn"],
        8
    );
}

#[test]
fn bad_consumers_are_refused_by_name() {
    let node = node();
    for (body, status, code) in [
        (json!({}), 400, "invalid_parameter"),
        (json!({ "name": "" }), 400, "invalid_parameter"),
        (
            json!({ "name": "x", "colection": "orders" }),
            400,
            "invalid_parameter",
        ),
        (
            json!({ "name": "x", "collection": "nope" }),
            404,
            "unknown_collection",
        ),
        (
            json!({ "name": "x", "cursor": "y" }),
            400,
            "malformed_cursor",
        ),
        (
            json!({ "name": "x", "since_lsn": 9999 }),
            410,
            "cursor_expired",
        ),
        (json!({ "name": 7 }), 400, "invalid_parameter"),
    ] {
        let answer = create(&node, &body);
        assert_eq!(
            (answer.status, answer.error_code().as_str()),
            (status, code),
            "{body}: {}",
            answer.text()
        );
    }
    let node = Node::start_with(|config| config.max_consumers = 1);
    assert_eq!(create(&node, &json!({ "name": "one" })).status, 201);
    assert_eq!(
        create(&node, &json!({ "name": "two" })).error_code(),
        "too_many_requests"
    );
}
