//! `GET /live`.

use serde_json::{Value, json};

use super::{Node, encode, next};

fn live(sql: &str) -> String {
    format!("/live?sql={}", encode(sql))
}

/// The events up to `ready`, and that.
#[track_caller]
fn start(stream: &mut springhead_sim::client::http::SseStream) -> (Vec<Value>, Value) {
    let mut snapshot = Vec::new();
    loop {
        let event = next(stream);
        match event.event.as_str() {
            "snapshot" => {
                assert_eq!(event.id, None, "a snapshot cannot be gone on from");
                snapshot.push(event.json());
            }
            "ready" => {
                let ready = event.json();
                assert_eq!(event.id.as_deref(), ready["cursor"].as_str());
                return (snapshot, ready);
            }
            other => panic!("{other}: {}", event.data),
        }
    }
}

#[test]
fn g4_a_live_query_is_a_snapshot_then_one_change_per_commit_that_matters() {
    let node = Node::with_orders();
    node.sql("INSERT INTO orders VALUES ('o1', 'pending', 1), ('o2', 'done', 2)");
    let query =
        live("SELECT id, qty FROM orders WHERE status = $1") + "&params=%5B%22pending%22%5D";
    let mut stream = node.stream(&query, None);
    let (snapshot, ready) = start(&mut stream);
    assert_eq!(
        snapshot,
        [json!({
            "columns": [{"name": "id", "type": "text"}, {"name": "qty", "type": "integer"}],
            "keys": ["o1"],
            "rows": [["o1", 1]],
        })]
    );
    node.sql("INSERT INTO orders VALUES ('o3', 'done', 3)");
    node.sql("UPDATE orders SET status = 'done' WHERE id = 'o1'");
    let lsn = node.sql("UPDATE orders SET status = 'pending', qty = 5 WHERE id <> 'o1'");
    node.sql("UPDATE orders SET qty = 6 WHERE id = 'o2'");
    let event = next(&mut stream);
    assert_eq!(
        (event.event.as_str(), event.json()["removed"].clone()),
        ("change", json!([{"key": "o1"}]))
    );
    assert!(event.json()["lsn"].as_u64() > ready["lsn"].as_u64());
    let both = next(&mut stream);
    let change = both.json();
    assert_eq!(change["lsn"], lsn);
    assert_eq!(
        change["added"],
        json!([{"key": "o2", "row": ["o2", 5]}, {"key": "o3", "row": ["o3", 5]}])
    );
    let change = next(&mut stream).json();
    assert_eq!(change["changed"], json!([{"key": "o2", "row": ["o2", 6]}]));
    // Gone on from the commit of both, with what was before.
    let mut again = node.stream(&(query + "&before=true"), both.id.as_deref());
    let change = next(&mut again).json();
    assert_eq!(
        change["changed"],
        json!([{"key": "o2", "row": ["o2", 6], "before": ["o2", 5]}])
    );
    assert_eq!(next(&mut again).event, "ready");
}

#[test]
fn windows_groups_and_joins_come_with_positions_and_keys() {
    let node = Node::with_orders();
    node.sql("INSERT INTO orders VALUES ('o1', 'a', 1), ('o2', 'b', 2), ('o3', 'b', 3)");
    let mut top = node.stream(
        &live("SELECT id FROM orders ORDER BY qty DESC, id LIMIT 2"),
        None,
    );
    let (snapshot, _) = start(&mut top);
    assert_eq!(snapshot[0]["rows"], json!([["o3"], ["o2"]]));
    let groups = "LIVE SELECT status, count(*), sum(qty) FROM orders GROUP BY status";
    let mut groups = node.stream(&live(groups), None);
    start(&mut groups);
    node.sql("INSERT INTO orders VALUES ('o4', 'b', 9)");
    let change = next(&mut top).json();
    assert_eq!(
        change["added"],
        json!([{"key": "o4", "row": ["o4"], "position": 0}])
    );
    assert_eq!(change["removed"], json!([{"key": "o2"}]));
    let change = next(&mut groups).json();
    assert_eq!(
        change["changed"],
        json!([{"key": "[\"b\"]", "row": ["b", 3, 14]}])
    );
}

#[test]
fn g5_a_cursor_that_is_too_old_or_before_a_truncate_is_told_to_refetch() {
    let node = Node::with_orders();
    let query = live("SELECT * FROM orders");
    let mut stream = node.stream(&query, None);
    let (_, ready) = start(&mut stream);
    let lsn = node.sql("INSERT INTO orders VALUES ('o1', 'a', 1)");
    assert_eq!(next(&mut stream).event, "change");
    node.sql("TRUNCATE orders");
    let change = next(&mut stream).json();
    assert_eq!(change["removed"], json!([{"key": "o1"}]));
    // Which rows it took is known to nobody any more.
    let mut across = node.stream(&query, ready["cursor"].as_str());
    let event = next(&mut across);
    assert_eq!(
        (event.event.as_str(), event.id.as_deref()),
        ("must-refetch", Some("must-refetch"))
    );
    node.trim(lsn);
    let mut old = node.stream(&query, ready["cursor"].as_str());
    let event = next(&mut old);
    assert_eq!(event.event, "must-refetch");
    assert_eq!(event.json()["code"], "cursor_expired");
    let stopped = node.request("GET", &query, &[("last-event-id", "must-refetch")], "");
    assert_eq!(stopped.status, 204);
}

#[test]
fn g7_counters_go_back_to_zero_when_clients_vanish() {
    let node = Node::with_orders();
    let streams: Vec<_> = (0..5)
        .map(|number| {
            let sql = format!("SELECT * FROM orders WHERE qty = {number}");
            let mut stream = node.stream(&live(&sql), None);
            start(&mut stream);
            stream
        })
        .collect();
    node.wait_for_metric("springhead_live_queries", 5);
    drop(streams);
    node.wait_for_metric("springhead_live_queries", 0);
    node.wait_for_metric("springhead_subscribers{exit=\"live\"}", 0);
}

#[test]
fn what_is_wrong_with_a_live_query_is_told_before_the_stream() {
    let node = Node::with_orders();
    node.refused(&live("SELECT now(), id FROM orders"), 400, "not_supported");
    node.refused(&live("SELECT nope FROM orders"), 400, "unknown_column");
    node.refused(&live("SELECT 1 FROM nobody"), 404, "unknown_collection");
    node.refused("/live", 400, "invalid_parameter");
    node.refused(
        &(live("SELECT id FROM orders") + "&params=7"),
        400,
        "invalid_parameter",
    );
}
