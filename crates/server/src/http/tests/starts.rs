//! Where a feed starts, and what it says of that.

use std::io::Read;

use super::*;

#[test]
fn g2_every_start_and_every_exit_leads_into_the_same_feed() {
    let node = Node::with_orders();
    for index in 0..20 {
        node.sql(&format!(
            "INSERT INTO orders VALUES ('a{index}', 'new', {index}), ('b{index}', 'new', {index})"
        ));
    }
    node.sql("UPDATE orders SET status = 'paid' WHERE qty < 3");
    node.sql("DELETE FROM orders WHERE qty >= 15");
    let whole = node.page("/cdc/orders/poll?since_lsn=1&limit=10000")["changes"]
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(whole.len(), 1 + 40 + 6 + 10);
    for limit in [1, 3, 7, 1000] {
        assert_eq!(
            all_pages(&node, "/cdc/orders/poll", limit),
            whole,
            "pages of {limit}"
        );
    }
    let by_stream = take(
        &mut node.stream("/cdc/orders?since_lsn=1", None),
        whole.len(),
    );
    assert_eq!(by_stream, whole);
    // From every single change, by header and by parameter.
    for (index, change) in whole.iter().enumerate().step_by(5) {
        let cursor = change["cursor"].as_str().unwrap();
        let rest = &whole[index + 1..];
        if !rest.is_empty() {
            assert_eq!(
                take(&mut node.stream("/cdc/orders", Some(cursor)), rest.len()),
                rest
            );
            let target = format!("/cdc/orders?last_event_id={}&since_lsn=1", encode(cursor));
            assert_eq!(take(&mut node.stream(&target, None), rest.len()), rest);
        }
        let page = node.page(&format!(
            "/cdc/orders/poll?cursor={}&limit=1000",
            encode(cursor)
        ));
        assert_eq!(page["changes"].as_array().unwrap(), rest);
        let page = node.page(&format!(
            "/cdc/orders/poll?since_lsn={}&limit=1000",
            change["lsn"]
        ));
        assert_eq!(page["changes"].as_array().unwrap(), &whole[index..]);
        // By time nothing is missed, and the same millisecond may come again.
        let page = node.page(&format!(
            "/cdc/orders/poll?since_ms={}&limit=1000",
            change["timestamp_ms"]
        ));
        assert!(
            page["changes"]
                .as_array()
                .unwrap()
                .ends_with(&whole[index..])
        );
    }
    // Each event's own id is its cursor.
    let event = next(&mut node.stream("/cdc/orders?since_lsn=2", None));
    assert_eq!(event.id.as_deref(), event.json()["cursor"].as_str());
}

#[test]
fn g2_a_feed_from_now_begins_after_what_is_there() {
    let node = Node::with_orders();
    node.sql("INSERT INTO orders VALUES ('old', null, 1)");
    let mut stream = node.stream("/cdc/orders", None);
    let mut late = node.stream("/cdc/orders?since_ms=99999999999999", None);
    node.wait_for_metric("springhead_subscribers{exit=\"sse\"}", 2);
    node.sql("INSERT INTO orders VALUES ('new', null, 1)");
    assert_eq!(next(&mut stream).json()["document_id"], "new");
    assert_eq!(next(&mut late).json()["document_id"], "new");
    let page = node.page("/cdc/orders/poll?since_ms=99999999999999");
    assert_eq!(
        (page["count"].as_u64(), page["has_more"].as_bool()),
        (Some(0), Some(false))
    );
}

/// A browser asks again for what it asked for, with the last id that it was told. Without one, a time to
/// come meant another now.
#[test]
fn g2_a_feed_from_a_time_tells_its_position_before_the_first_event() {
    let node = Node::with_orders();
    node.sql("INSERT INTO orders VALUES ('old', null, 1)");
    let target = "/cdc/orders?since_ms=99999999999999";
    let mut stream = http::open(node.address, "GET", target, &[], b"").unwrap();
    let mut first = String::new();
    while !first.ends_with("\n\n") {
        let mut byte = [0];
        stream.body().read_exact(&mut byte).unwrap();
        first.push(char::from(byte[0]));
    }
    let id = first.lines().find_map(|line| line.strip_prefix("id: "));
    let id = id.expect("a position").to_owned();
    drop(stream);
    node.sql("INSERT INTO orders VALUES ('new', null, 1)");
    let mut again = node.stream(target, Some(&id));
    assert_eq!(next(&mut again).json()["document_id"], "new");
    // One of the past is told, too, and what it asks for follows.
    let mut past = node.stream("/cdc/orders?since_ms=0&operations=insert", None);
    assert_eq!(next(&mut past).json()["document_id"], "old");
}

#[test]
fn g4_who_goes_on_from_a_position_gets_no_snapshot() {
    let node = Node::with_orders();
    let lsn = node.sql("INSERT INTO orders VALUES ('old', null, 1)");
    node.sql("INSERT INTO orders VALUES ('new', null, 1)");
    let id = lsn.to_string();
    for (target, header) in [
        ("/cdc/orders?snapshot=true".to_owned(), Some(id.as_str())),
        (
            format!("/cdc/orders?snapshot=true&last_event_id={id}"),
            None,
        ),
    ] {
        let event = next(&mut node.stream(&target, header));
        assert_eq!(
            (event.event.as_str(), &event.json()["document_id"]),
            ("insert", &json!("new")),
            "{target}"
        );
    }
}
