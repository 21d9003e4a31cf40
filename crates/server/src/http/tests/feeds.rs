//! What comes out of the feed: transactions, snapshots, filters, forms.

use super::*;

#[test]
fn g3_each_change_says_its_place_and_groups_are_never_split() {
    let node = Node::with_orders();
    let body = json!({ "transaction": [
        { "sql": "INSERT INTO orders VALUES ('a', 'new', 1)" },
        { "sql": "INSERT INTO orders VALUES ('b', 'new', $1)", "params": [2] },
        { "sql": "UPDATE orders SET qty = 5 WHERE id = 'a'" },
    ] });
    let answer = node.send("POST", "/v1/sql", &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    node.sql("INSERT INTO orders VALUES ('c', 'new', 3)");
    let page = node.page("/cdc/orders/poll?since_lsn=1&operations=insert,update");
    let changes = page["changes"].as_array().unwrap();
    let last = answer.json()["lsn"].as_u64().unwrap();
    for (index, change) in changes[..3].iter().enumerate() {
        assert_eq!(
            change["tx"],
            json!({ "lsn": last - 2, "index": index, "count": 3 })
        );
        assert_eq!(change["lsn"], last - 2 + index as u64);
    }
    // A limit of one ends after the transaction that reaches it; places are those of the whole.
    let page = node.page("/cdc/orders/poll?since_lsn=3&tx=group&limit=1&operations=update");
    let transactions = page["transactions"].as_array().unwrap();
    assert_eq!(transactions.len(), 1);
    assert_eq!(
        transactions[0]["tx"],
        json!({ "lsn": last - 2, "count": 3 })
    );
    assert_eq!(transactions[0]["changes"][0], changes[2]);
    let page = node.page("/cdc/orders/poll?since_lsn=3&tx=group&limit=2");
    assert_eq!(
        (page["count"].as_u64(), page["has_more"].as_bool()),
        (Some(3), Some(true))
    );
    let mut stream = node.stream("/cdc/orders?since_lsn=3&tx=group", None);
    let group = next(&mut stream);
    assert_eq!(
        (group.event.as_str(), group.id.as_deref().unwrap()),
        ("transaction", format!("{last}@abcd0123").as_str())
    );
    assert_eq!(group.json()["changes"].as_array().unwrap(), &changes[..3]);
    assert_eq!(
        next(&mut stream).json()["changes"].as_array().unwrap(),
        &changes[3..]
    );
}

#[test]
fn g3_a_transaction_larger_than_a_chunk_comes_as_one_frame() {
    let node = Node::with_orders();
    let filler = "x".repeat(2000);
    let statements: Vec<Value> =
        (0..200).map(|index| json!({ "sql": format!("INSERT INTO orders VALUES ('r{index}', '{filler}', {index})") })).collect();
    let answer = node.send("POST", "/v1/sql", &json!({ "transaction": statements }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let group = next(&mut node.stream("/cdc/orders?since_lsn=3&tx=group", None)).json();
    let ids = words(group["changes"].as_array().unwrap(), "document_id");
    assert_eq!(
        ids,
        (0..200)
            .map(|index| format!("r{index}"))
            .collect::<Vec<_>>()
    );
    // The same on a page, over the size that is made in one piece.
    let page = node.page("/cdc/orders/poll?since_lsn=3&tx=group&limit=1");
    assert_eq!(page["transactions"][0], group);
    // A frame that nothing of is to be seen is not there.
    node.sql("INSERT INTO orders VALUES ('end', null, 1000)");
    let group =
        next(&mut node.stream("/cdc/orders?since_lsn=3&tx=group&where=qty%3D1000", None)).json();
    assert_eq!(
        words(group["changes"].as_array().unwrap(), "document_id"),
        ["end"]
    );
}

#[test]
fn g4_a_snapshot_and_what_follows_add_up_to_the_table_whatever_is_written_meanwhile() {
    let node = Node::with_orders();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                node.sql(&format!("INSERT INTO orders VALUES ('k{}', 'n{round}', {round}) ON CONFLICT (id) DO UPDATE SET qty = excluded.qty", round % 50));
                if round % 7 == 0 {
                    node.sql(&format!("DELETE FROM orders WHERE id = 'k{}'", round % 50));
                }
                round += 1;
            }
        });
        for _ in 0..5 {
            let mut stream = node.stream("/cdc/orders?snapshot=true", None);
            let mut rows = std::collections::BTreeMap::new();
            let ready = loop {
                let event = next(&mut stream);
                if event.event == "ready" {
                    break event;
                }
                assert_eq!(
                    (event.event.as_str(), &event.json()["operation"]),
                    ("snapshot", &json!("READ"))
                );
                let read = event.json();
                let before = rows.insert(
                    read["document_id"].as_str().unwrap().to_owned(),
                    read["after"].clone(),
                );
                assert!(before.is_none(), "a row came twice");
            };
            let at = ready.json()["lsn"].as_u64().unwrap();
            assert_eq!(ready.id.as_deref(), ready.json()["cursor"].as_str());
            let mut last = at;
            for _ in 0..40 {
                let event = next(&mut stream);
                let change = event.json();
                let lsn = change["lsn"].as_u64().unwrap();
                assert!(lsn > last, "{lsn} after {last}");
                last = lsn;
                let id = change["document_id"].as_str().unwrap().to_owned();
                // What was there before is exactly what we hold: no gap, no repeat.
                assert_eq!(
                    rows.get(&id).cloned().unwrap_or(Value::Null),
                    change["before"],
                    "{change}"
                );
                match change["after"].clone() {
                    Value::Null => rows.remove(&id),
                    after => rows.insert(id, after),
                };
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn g4_a_snapshot_knows_filters_and_columns_and_all_collections() {
    let node = Node::with_orders();
    node.sql("CREATE TABLE items (n integer PRIMARY KEY)");
    node.sql("INSERT INTO orders VALUES ('b', 'new', 2), ('a', 'new', 1), ('c', 'old', 3)");
    node.sql("INSERT INTO items VALUES (10)");
    let mut stream = node.stream(
        "/cdc/orders?snapshot=true&where=status%3D%27new%27&columns=qty",
        None,
    );
    let rows = take(&mut stream, 2);
    assert_eq!(words(&rows, "document_id"), ["a", "b"]);
    assert_eq!(rows[0]["after"], json!({ "qty": 1 }));
    assert_eq!(next(&mut stream).event, "ready");
    let mut stream = node.stream("/cdc?snapshot=true", None);
    let rows = take(&mut stream, 4);
    assert_eq!(
        words(&rows, "collection"),
        ["orders", "orders", "orders", "items"]
    );
    assert_eq!(next(&mut stream).event, "ready");
    // With a Last-Event-ID, even though the URL still asks for it, no snapshot comes.
    let cursor = rows[0]["cursor"].as_str().unwrap().to_owned();
    let mut stream = node.stream("/cdc/orders?snapshot=true", Some(&cursor));
    node.sql("INSERT INTO orders VALUES ('d', 'new', 4)");
    assert_eq!(next(&mut stream).event, "insert");
    let debezium =
        next(&mut node.stream("/cdc/items?snapshot=true&envelope=debezium", None)).json();
    assert_eq!(
        (&debezium["op"], &debezium["source"]["snapshot"]),
        (&json!("r"), &json!("true"))
    );
}

#[test]
fn g5_what_cannot_be_resumed_is_told_with_where_to_start() {
    let node = Node::with_orders();
    for index in 0..10 {
        node.sql(&format!(
            "INSERT INTO orders VALUES ('{index}', null, {index})"
        ));
    }
    let old = node.page("/cdc/orders/poll?limit=2")["next_cursor"].clone();
    node.trim(8);
    let (cursor, since_ms) = (
        old["cursor"].as_str().unwrap(),
        old["since_ms"].as_u64().unwrap(),
    );
    for target in [
        format!("cursor={}", encode(cursor)),
        "since_lsn=1".to_owned(),
        "since_lsn=0".to_owned(),
        format!("since_ms={since_ms}"),
    ] {
        let error = node.refused(&format!("/cdc/orders/poll?{target}"), 410, "cursor_expired");
        assert_eq!(error["earliest_lsn"], 9, "{target}");
        let mut stream = node.stream(
            &format!(
                "/cdc/orders?{}",
                target.replace("cursor=", "last_event_id=")
            ),
            None,
        );
        let told = next(&mut stream);
        assert_eq!(
            (told.event.as_str(), told.id.as_deref()),
            ("must-refetch", Some("must-refetch"))
        );
        assert_eq!(told.json()["earliest_lsn"], 9);
        assert!(stream.next_event().unwrap().is_none(), "it ends");
    }
    for gone in ["must-refetch", "taken-over"] {
        let answer = node.request("GET", "/cdc/orders", &[("last-event-id", gone)], "");
        assert_eq!(answer.status, 204);
    }
    node.refused(
        "/cdc/orders/poll?cursor=1%409c1e04d7",
        410,
        "cursor_expired",
    );
    node.refused("/cdc/orders/poll?since_lsn=99999", 410, "cursor_expired");
    node.refused("/cdc/orders?last_event_id=x", 400, "malformed_cursor");
    // Where it says, one can start; without a position a page starts there by itself.
    assert_eq!(
        lsns(
            node.page("/cdc/orders/poll?since_lsn=9")["changes"]
                .as_array()
                .unwrap()
        )[0],
        9
    );
    assert_eq!(
        lsns(node.page("/cdc/orders/poll")["changes"].as_array().unwrap())[0],
        9
    );
}

#[test]
fn rows_that_enter_or_leave_a_filter_come_and_go() {
    let node = Node::with_orders();
    node.sql("INSERT INTO orders VALUES ('a', 'new', 1), ('b', 'paid', 2)");
    node.sql("UPDATE orders SET status = 'paid' WHERE id = 'a'");
    node.sql("UPDATE orders SET qty = 9 WHERE id = 'a'");
    node.sql("UPDATE orders SET status = 'new' WHERE id = 'a'");
    node.sql("DELETE FROM orders WHERE id = 'b'");
    let seen = |query: &str| -> Vec<Value> {
        let page = node.page(&format!("/cdc/orders/poll?since_lsn=3&{query}"));
        let changes = page["changes"].as_array().unwrap();
        changes
            .iter()
            .map(|c| {
                json!([
                    c["operation"],
                    c["document_id"],
                    c["before"]["qty"],
                    c["after"]["qty"]
                ])
            })
            .collect()
    };
    let expected = vec![
        json!(["INSERT", "b", null, 2]),
        json!(["INSERT", "a", null, 1]),
        json!(["UPDATE", "a", 1, 9]),
        json!(["DELETE", "a", 9, null]),
        json!(["DELETE", "b", 2, null]),
    ];
    assert_eq!(seen("where=status%3D'paid'"), expected);
    // Operations are looked at after the filter has had its say.
    assert_eq!(
        seen("where=status%3D'paid'&operations=delete"),
        expected[3..]
    );
    assert_eq!(
        seen("where=status%3D'paid'&operations=UPDATE"),
        expected[2..3]
    );
    // As people write it.
    assert_eq!(seen("where=qty>8&columns=qty").len(), 2);
    node.refused(
        "/cdc/orders/poll?since_lsn=3&where=1/(qty-9)<>0",
        400,
        "division_by_zero",
    );
    node.refused("/cdc/poll?where=true", 400, "invalid_parameter");
    node.refused("/cdc/poll?columns=id", 400, "invalid_parameter");
    node.refused("/cdc/orders/poll?columns=id,nope", 400, "unknown_column");
}

#[test]
fn images_of_each_age_are_read_with_the_columns_of_their_time() {
    let node = Node::with_orders();
    node.sql("INSERT INTO orders VALUES ('a', 'new', 1)");
    node.sql("ALTER TABLE orders ADD COLUMN note text");
    node.sql("UPDATE orders SET note = 'n' WHERE id = 'a'");
    let page = node.page("/cdc/orders/poll?since_lsn=3&operations=insert,update");
    let changes = page["changes"].as_array().unwrap();
    assert_eq!(
        changes[0]["after"],
        json!({ "id": "a", "status": "new", "qty": 1 })
    );
    assert_eq!(
        changes[1]["before"],
        json!({ "id": "a", "status": "new", "qty": 1, "note": null })
    );
    assert_ne!(changes[0]["schema_version"], changes[1]["schema_version"]);
    // A filter on the new column reads NULL where it was not there yet.
    let page = node.page(
        "/cdc/orders/poll?since_lsn=3&where=note+is+null&columns=id,note&operations=insert,delete",
    );
    let changes = page["changes"].as_array().unwrap();
    assert_eq!(words(changes, "operation"), ["INSERT", "DELETE"]);
    assert_eq!(changes[0]["after"], json!({ "id": "a", "note": null }));
}

#[test]
fn definitions_and_springheads_own_collections_come_where_they_are_named() {
    let node = Node::with_orders();
    node.sql("CREATE TABLE poll (id integer PRIMARY KEY)");
    node.sql("INSERT INTO poll VALUES (1)");
    let made = node.send("POST", "/v1/consumers", &json!({ "name": "mailer" }));
    assert_eq!(made.status, 201, "{}", made.text());
    node.sql("TRUNCATE orders");
    let all = all_pages(&node, "/cdc/poll", 100);
    assert_eq!(
        words(&all, "operation"),
        ["DEFINITION", "DEFINITION", "INSERT", "TRUNCATE"]
    );
    assert_eq!(
        words(&all, "collection"),
        ["orders", "poll", "public.poll", "orders"]
    );
    assert_eq!(all[0]["after"]["type"], "table");
    assert_eq!(all[0]["after"]["action"], "put");
    assert!(
        all[0]["after"]["sql"]
            .as_str()
            .unwrap()
            .starts_with("CREATE TABLE orders")
    );
    assert_eq!(all[3]["document_id"], Value::Null);
    assert_eq!(
        words(&all_pages(&node, "/cdc/public.poll/poll", 10), "operation"),
        ["DEFINITION", "INSERT"]
    );
    assert_eq!(
        words(
            &all_pages(&node, "/cdc/springhead.consumers/poll", 10),
            "document_id"
        ),
        ["mailer"]
    );
    assert_eq!(
        words(
            &all_pages(&node, "/cdc/springhead.definitions/poll", 10),
            "operation"
        ),
        ["DEFINITION", "DEFINITION"]
    );
}

#[test]
fn g5_the_feed_of_a_dropped_collection_ends_with_its_drop() {
    let node = Node::with_orders();
    let mut stream = node.stream("/cdc/orders?since_lsn=3", None);
    node.sql("DROP TABLE orders");
    let event = next(&mut stream);
    assert_eq!(
        (event.event.as_str(), &event.json()["after"]["action"]),
        ("definition", &json!("drop"))
    );
    let event = next(&mut stream);
    assert_eq!(
        (event.event.as_str(), &event.json()["code"]),
        ("error", &json!("unknown_collection"))
    );
    assert!(stream.next_event().unwrap().is_none());
    node.refused("/cdc/orders/poll", 404, "unknown_collection");
}

#[test]
fn g2_progress_moves_the_id_of_a_filtered_stream_and_never_past_what_it_has_not_seen() {
    let node = Node::start_with(|config| config.sse_heartbeat = Duration::from_millis(50));
    node.sql("CREATE TABLE orders (id text PRIMARY KEY, status text, qty integer)");
    let mut stream = node.stream("/cdc/orders?since_lsn=3&where=qty=1", None);
    let last = node.sql("INSERT INTO orders VALUES ('a', null, 5), ('b', null, 6)");
    let event = stream.next_event().unwrap().unwrap();
    assert_eq!(
        (event.event.as_str(), event.id.clone()),
        ("progress", Some(format!("{last}@abcd0123")))
    );
    assert_eq!(
        event.json(),
        json!({ "cursor": format!("{last}@abcd0123") })
    );
    node.sql("INSERT INTO orders VALUES ('c', null, 1)");
    assert_eq!(next(&mut stream).json()["document_id"], "c");
    // Other collections and other tenants move it, too.
    node.sql("CREATE TABLE other (id integer PRIMARY KEY)");
    let last = node.sql("INSERT INTO other VALUES (1)");
    loop {
        let event = stream.next_event().unwrap().unwrap();
        assert_eq!(event.event, "progress");
        if event.id == Some(format!("{last}@abcd0123")) {
            break;
        }
    }
}

#[test]
fn a_long_poll_waits_for_the_first_change_and_no_longer() {
    let node = Node::with_orders();
    let cursor = node.page("/cdc/orders/poll")["next_cursor"]["cursor"]
        .as_str()
        .unwrap()
        .to_owned();
    let target = format!(
        "/cdc/orders/poll?cursor={}&wait_ms=20000&where=qty=1",
        encode(&cursor)
    );
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| node.page(&target));
        node.wait_for_metric("springhead_subscribers{exit=\"poll\"}", 1);
        node.sql("INSERT INTO orders VALUES ('no', null, 2)");
        node.sql("INSERT INTO orders VALUES ('yes', null, 1)");
        let page = waiting.join().unwrap();
        assert_eq!(
            words(page["changes"].as_array().unwrap(), "document_id"),
            ["yes"]
        );
    });
    let last = node.sql("INSERT INTO orders VALUES ('late', null, 2)");
    let page = node.page(&format!(
        "/cdc/orders/poll?since_lsn={}&wait_ms=50",
        last + 1
    ));
    assert_eq!(
        (
            page["count"].as_u64(),
            page["next_cursor"]["since_lsn"].as_u64()
        ),
        (Some(0), Some(last + 1))
    );
    node.wait_for_metric("springhead_subscribers{exit=\"poll\"}", 0);
}

#[test]
fn a_page_is_compressed_for_who_asks() {
    use std::io::Read;
    let node = Node::with_orders();
    for index in 0..50 {
        node.sql(&format!(
            "INSERT INTO orders VALUES ('{index}', 'some status', {index})"
        ));
    }
    let plain = node.get("/cdc/orders/poll?limit=1000");
    let packed = node.request(
        "GET",
        "/cdc/orders/poll?limit=1000",
        &[("accept-encoding", "br, gzip;q=0.8")],
        "",
    );
    assert_eq!(
        packed.headers.get("content-encoding").map(String::as_str),
        Some("gzip")
    );
    let mut text = String::new();
    flate2::read::GzDecoder::new(&packed.body[..])
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, plain.text());
    assert!(packed.body.len() * 3 < plain.body.len());
    let refused = node.request(
        "GET",
        "/cdc/orders/poll?limit=1000",
        &[("accept-encoding", "gzip;q=0")],
        "",
    );
    assert_eq!(refused.headers.get("content-encoding"), None);
}

#[test]
fn g6_tenants_see_their_own_changes_alone() {
    let node = Node::with_orders();
    node.sql("CREATE DATABASE shop");
    let tenants = node.engine.tenants();
    let shop = tenants
        .iter()
        .find(|tenant| tenant.name == "shop")
        .unwrap()
        .id;
    let sql = |sql: &str| {
        node.send(
            "POST",
            &format!("/v1/sql?tenant_id={shop}"),
            &json!({ "sql": sql }),
        )
    };
    assert_eq!(
        sql("CREATE TABLE things (id integer PRIMARY KEY)").status,
        200
    );
    assert_eq!(sql("INSERT INTO things VALUES (1)").status, 200);
    node.sql("INSERT INTO orders VALUES ('mine', null, 1)");
    assert_eq!(
        words(&all_pages(&node, "/cdc/poll", 1), "collection"),
        ["orders", "orders"]
    );
    let theirs = all_pages(&node, &format!("/cdc/poll?tenant_id={shop}"), 1);
    assert_eq!(words(&theirs, "collection"), ["things", "things"]);
    assert!(theirs.iter().all(|change| change["tenant_id"] == shop.0));
    node.refused("/cdc/things/poll", 404, "unknown_collection");
    node.refused("/cdc/poll?tenant_id=0", 404, "unknown_tenant");
    node.refused("/cdc/poll?tenant_id=77", 404, "unknown_tenant");
}
