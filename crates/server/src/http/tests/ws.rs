//! `/ws`, spoken to by a client that is not ours.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use springhead_engine::access::Principal;
use springhead_proto::{TenantId, ValueRef};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::{Node, PATIENCE};

struct Client {
    socket: WebSocketStream<TcpStream>,
}

impl Client {
    async fn connect(node: &Node) -> Client {
        Client::connect_as(node, None).await
    }

    async fn connect_as(node: &Node, token: Option<&str>) -> Client {
        let stream = TcpStream::connect(node.address).await.unwrap();
        let url = format!("ws://{}/ws", node.address);
        let mut request = url.into_client_request().unwrap();
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().unwrap();
            request.headers_mut().insert("authorization", value);
        }
        let (socket, _) = client_async(request, stream).await.unwrap();
        Client { socket }
    }

    async fn ask(&mut self, id: u64, method: &str, params: Value) {
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        self.raw(request.to_string()).await;
    }

    async fn raw(&mut self, text: String) {
        self.socket.send(Message::Text(text.into())).await.unwrap();
    }

    async fn next(&mut self) -> Value {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next()).await;
            match message.unwrap().unwrap().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Close(_) => panic!("the server closed"),
                _ => {}
            }
        }
    }

    async fn event(&mut self, method: &str) -> Value {
        let event = self.next().await;
        assert_eq!(event["method"], method, "{event}");
        event["params"].clone()
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

#[test]
fn g3_all_live_queries_of_a_connection_move_to_the_same_lsn_together() {
    let node = Node::with_orders();
    run(async {
        let mut client = Client::connect(&node).await;
        let queries = [
            ("SELECT id FROM orders WHERE status = 'new'", true),
            ("SELECT count(*) FROM orders", true),
            ("SELECT id FROM orders ORDER BY qty LIMIT 1", false),
        ];
        let mut ids = Vec::new();
        for (number, (sql, snapshot)) in (1..).zip(queries) {
            let params = json!({ "sql": sql, "snapshot": snapshot });
            client.ask(number, "live", params).await;
            let answer = client.next().await;
            assert_eq!(answer["id"], number, "{answer}");
            ids.push(answer["result"]["live_id"].clone());
            if snapshot {
                assert_eq!(
                    client.event("live.snapshot").await["live_id"],
                    ids[ids.len() - 1]
                );
            }
            assert!(client.event("live.ready").await["cursor"].is_string());
        }
        client
            .ask(
                9,
                "sql",
                json!({ "sql": "INSERT INTO orders VALUES ($1, 'new', 3)", "params": ["a"] }),
            )
            .await;
        let (mut answered, mut changed) = (false, Vec::new());
        let lsn = loop {
            let message = client.next().await;
            if message["id"] == 9 {
                assert_eq!(message["result"]["command"], "INSERT 0 1");
                answered = true;
            } else if message["method"] == "tick" {
                break message["params"]["lsn"].clone();
            } else {
                assert_eq!(message["method"], "live.change");
                changed.push(message["params"].clone());
            }
        };
        assert_eq!(changed.len(), 3);
        for change in &changed {
            assert_eq!(change["lsn"], lsn);
            assert!(ids.contains(&change["live_id"]));
        }
        if !answered {
            assert_eq!(client.next().await["id"], 9);
        }
        client.ask(10, "cancel", json!({ "live_id": ids[1] })).await;
        assert_eq!(client.next().await["result"]["cancelled"], true);
        node.wait_for_metric("springhead_live_queries", 2);
    });
    node.wait_for_metric("springhead_live_queries", 0);
    node.wait_for_metric("springhead_subscribers{exit=\"websocket\"}", 0);
}

#[test]
fn what_is_wrong_with_a_request_is_told_and_the_connection_goes_on() {
    let node = Node::with_orders();
    run(async {
        let mut client = Client::connect(&node).await;
        for (text, code) in [
            ("{", -32700),
            ("[]", -32600),
            ("{\"id\":1}", -32600),
            ("7", -32600),
            ("{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"ping\"}", -32600),
            ("{\"id\":{},\"method\":\"ping\"}", -32600),
            ("{\"id\":1,\"method\":\"nope\"}", -32601),
            ("{\"id\":1,\"method\":\"live\",\"params\":{}}", -32602),
            (
                "{\"id\":1,\"method\":\"live\",\"params\":{\"sql\":\"SELECT now(), id FROM orders\"}}",
                -32000,
            ),
            (
                "{\"id\":1,\"method\":\"cancel\",\"params\":{\"live_id\":7}}",
                -32000,
            ),
        ] {
            client.raw(text.to_owned()).await;
            let answer = client.next().await;
            assert_eq!(answer["error"]["code"], code, "{text}: {answer}");
        }
        // A notification is answered by nothing, whatever becomes of it.
        client.raw("{\"method\":\"nope\"}".to_owned()).await;
        client.raw("[{\"method\":\"ping\"}]".to_owned()).await;
        client.ask(2, "ping", json!({})).await;
        assert_eq!(client.next().await["result"], json!({}));
    });
    let answer = node.get("/ws");
    assert_eq!(answer.status, 400, "{}", answer.text());
}

#[test]
fn a_batch_is_answered_in_one_array_and_its_live_queries_begin_after_it() {
    let node = Node::with_orders();
    run(async {
        let mut client = Client::connect(&node).await;
        let live =
            "{\"id\":1,\"method\":\"live\",\"params\":{\"sql\":\"SELECT count(*) FROM orders\"}}";
        let batch = format!(
            "[{live},{{\"id\":\"b\",\"method\":\"nope\"}},5,{{\"method\":\"ping\"}},{{\"id\":2,\"method\":\"ping\"}}]"
        );
        client.raw(batch).await;
        let answers = client.next().await;
        let answers = answers.as_array().unwrap();
        assert_eq!(answers.len(), 4, "{answers:?}");
        let id = answers[0]["result"]["live_id"].clone();
        assert_eq!(
            (&answers[1]["id"], &answers[1]["error"]["code"]),
            (&json!("b"), &json!(-32601))
        );
        assert_eq!(
            (&answers[2]["id"], &answers[2]["error"]["code"]),
            (&Value::Null, &json!(-32600))
        );
        assert_eq!(
            (&answers[3]["id"], &answers[3]["result"]),
            (&json!(2), &json!({}))
        );
        assert_eq!(client.event("live.snapshot").await["live_id"], id);
        assert_eq!(client.event("live.ready").await["live_id"], id);
        // What a later request of the batch ends does not begin.
        let id = id.as_u64().unwrap() + 1;
        let cancel = format!("{{\"id\":3,\"method\":\"cancel\",\"params\":{{\"live_id\":{id}}}}}");
        client.raw(format!("[{live},{cancel}]")).await;
        let answers = client.next().await;
        assert_eq!(answers[0]["result"]["live_id"], id, "{answers}");
        assert_eq!(answers[1]["result"]["cancelled"], true, "{answers}");
        client.ask(4, "ping", json!({})).await;
        assert_eq!(client.next().await["id"], 4);
    });
}

#[test]
fn g2_a_live_query_goes_on_over_a_websocket_from_a_cursor_of_an_event_stream() {
    let node = Node::with_orders();
    let mut stream = node.stream("/live?sql=SELECT%20id,qty%20FROM%20orders", None);
    let cursor = loop {
        let event = super::next(&mut stream);
        if event.event == "ready" {
            break event.id.unwrap();
        }
    };
    node.sql("INSERT INTO orders VALUES ('a', 'x', 1), ('b', 'x', 2)");
    node.sql("DELETE FROM orders WHERE id = 'a'");
    run(async {
        let mut client = Client::connect(&node).await;
        let params = json!({ "sql": "SELECT id,qty FROM orders", "cursor": cursor });
        client.ask(1, "live", params).await;
        client.next().await;
        let change = client.event("live.change").await;
        assert_eq!(change["added"], json!([{"key": "b", "row": ["b", 2]}]));
        assert_eq!(change["removed"], json!([]));
        client.event("live.ready").await;
    });
}

#[test]
fn g2_messages_come_over_the_same_connection_in_order_and_from_a_cursor() {
    let node = Node::with_orders();
    run(async {
        let mut client = Client::connect(&node).await;
        client.ask(1, "listen", json!({ "channel": "news" })).await;
        let answer = client.next().await;
        assert_eq!(answer["result"]["channel"], "news", "{answer}");
        for number in 0..3 {
            node.sql(&format!("NOTIFY news, 'n{number}'"));
            node.sql("NOTIFY other, 'x'");
        }
        let mut first = Value::Null;
        for number in 0..3 {
            let message = client.event("listen.message").await;
            assert_eq!(message["payload"], format!("n{number}"));
            if number == 0 {
                first = message["cursor"].clone();
            }
        }
        client
            .ask(2, "unlisten", json!({ "channel": "news" }))
            .await;
        assert_eq!(client.next().await["result"]["unlistened"], "news");
        node.sql("NOTIFY news, 'n3'");
        // Another connection goes on after the first message.
        let mut other = Client::connect(&node).await;
        other
            .ask(1, "listen", json!({ "channel": "news", "cursor": first }))
            .await;
        assert!(other.next().await["result"]["cursor"].is_string());
        for number in 1..4 {
            assert_eq!(
                other.event("listen.message").await["payload"],
                format!("n{number}")
            );
        }
        client.ask(3, "listen", json!({})).await;
        assert_eq!(client.next().await["error"]["code"], -32602);
    });
}

#[test]
fn squashed_changes_are_net_differences_and_upserts_are_rows_to_put() {
    let node = Node::with_orders();
    node.sql("INSERT INTO orders VALUES ('a', 'x', 0), ('b', 'x', 0)");
    run(async {
        let mut client = Client::connect(&node).await;
        let filter = json!({ "sql": "SELECT id, qty FROM orders WHERE status = 'x'",
            "squash_ms": 300, "envelope": "upsert", "snapshot": false });
        let window = json!({ "sql": "SELECT id, qty FROM orders ORDER BY qty DESC, id LIMIT 2",
            "squash_ms": 300, "snapshot": false });
        for (number, params) in [(1, filter), (2, window)] {
            client.ask(number, "live", params).await;
            assert_eq!(client.next().await["id"], number);
            client.event("live.ready").await;
        }
        // The first change of each goes out at once.
        node.sql("UPDATE orders SET qty = 1 WHERE id = 'a'");
        let mut changed = 0;
        while changed < 2 {
            changed += usize::from(client.next().await["method"] == "live.change");
        }
        let mut last = 0;
        for qty in 2..40 {
            last = node.sql(&format!("UPDATE orders SET qty = {qty} WHERE id = 'a'"));
        }
        node.sql("INSERT INTO orders VALUES ('c', 'x', 7)");
        last = last.max(node.sql("DELETE FROM orders WHERE id IN ('b', 'c')"));
        let (mut window, mut upserts, mut deleted) = (0, Vec::new(), Vec::new());
        while window < last || deleted.is_empty() {
            let message = client.next().await;
            let params = &message["params"];
            if let Some(rows) = params["upsert"].as_array() {
                upserts.extend(rows.clone());
                deleted.extend(params["delete"].as_array().unwrap().clone());
            } else if message["method"] == "live.change" {
                window = params["lsn"].as_u64().unwrap();
            }
        }
        assert!(upserts.len() < 10, "{upserts:?}");
        assert_eq!(upserts.last().unwrap()["row"], json!(["a", 39]));
        assert_eq!(deleted.last().unwrap()["key"], "b", "{deleted:?}");
    });
}

#[test]
fn a_query_that_cannot_go_on_begins_anew_where_that_was_asked_for() {
    let node = Node::with_orders();
    node.sql("INSERT INTO orders VALUES ('a', 'x', 0)");
    run(async {
        let mut client = Client::connect(&node).await;
        let params = json!({ "sql": "SELECT * FROM orders", "refetch": true });
        client.ask(1, "live", params).await;
        let id = client.next().await["result"]["live_id"].clone();
        client.event("live.snapshot").await;
        let old = client.event("live.ready").await["cursor"].clone();
        node.sql("ALTER TABLE orders ADD COLUMN note text DEFAULT 'none'");
        let told = client.event("live.must-refetch").await;
        assert_eq!((&told["live_id"], &told["refetch"]), (&id, &json!(true)));
        assert_eq!(
            client.event("live.snapshot").await["rows"],
            json!([["a", "x", 0, "none"]])
        );
        client.event("live.ready").await;
        let lsn = node.sql("INSERT INTO orders VALUES ('b', 'x', 0)");
        let change = client.event("live.change").await;
        assert_eq!((&change["live_id"], &change["lsn"]), (&id, &json!(lsn)));
        client.event("tick").await;
        node.trim(lsn);
        let params = json!({ "sql": "SELECT id FROM orders", "refetch": true, "cursor": old });
        client.ask(2, "live", params).await;
        client.next().await;
        assert_eq!(
            client.event("live.must-refetch").await["code"],
            "cursor_expired"
        );
        assert_eq!(
            client.event("live.snapshot").await["rows"],
            json!([["a"], ["b"]])
        );
    });
}

/// Runs statements as the session that ends open mode; the second column of each answer that has one.
pub(super) fn administer(node: &Node, statements: &[&str]) -> Vec<String> {
    let engine = node.engine.clone();
    node._runtime.block_on(async {
        let principal = Principal::unrestricted("postgres");
        let session = engine.session(TenantId::DEFAULT, &principal).await;
        let mut session = session.unwrap();
        let mut found = Vec::new();
        for sql in statements {
            let mut script = session.script(sql);
            while let Some(outcome) = script.next().await {
                let mut rows = outcome.unwrap().rows.unwrap_or_default();
                if let Some(chunk) = rows.next_chunk().unwrap() {
                    let row = chunk.rows().next().unwrap();
                    if let Some(ValueRef::Text(text)) = row.get(1) {
                        found.push(text.to_owned());
                    }
                }
            }
        }
        found
    })
}

#[test]
fn g6_authenticate_goes_on_with_live_queries_only_as_far_as_they_are_allowed() {
    let node = Node::with_orders();
    for sql in [
        "CREATE TABLE secret (id text PRIMARY KEY)",
        "INSERT INTO orders VALUES ('a', 'ann', 1), ('b', 'bob', 2)",
        "ALTER TABLE orders ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY own ON orders USING (status = auth.uid())",
        "INSERT INTO secret VALUES ('s')",
    ] {
        node.sql(sql);
    }
    let tokens = administer(
        &node,
        &[
            "CREATE ROLE ann LOGIN",
            "CREATE ROLE bob LOGIN",
            "GRANT SELECT ON orders TO ann, bob",
            "GRANT SELECT ON secret TO ann",
            "CREATE TOKEN a FOR ann",
            "CREATE TOKEN b FOR bob",
        ],
    );
    let [ann, bob] = &tokens[..] else {
        panic!("{tokens:?}");
    };
    run(async {
        let mut client = Client::connect_as(&node, Some(ann)).await;
        let mut ids = Vec::new();
        for (number, sql) in [(1, "SELECT id FROM orders"), (2, "SELECT id FROM secret")] {
            client.ask(number, "live", json!({ "sql": sql })).await;
            ids.push(client.next().await["result"]["live_id"].clone());
            let snapshot = client.event("live.snapshot").await;
            assert_eq!(snapshot["rows"].as_array().unwrap().len(), 1, "{snapshot}");
            client.event("live.ready").await;
        }
        // A new token of the same user changes nothing.
        client.ask(3, "authenticate", json!({ "token": ann })).await;
        assert_eq!(client.next().await["result"]["user"], "ann");
        client.ask(4, "authenticate", json!({ "token": bob })).await;
        let mut ended = false;
        let mut answered = false;
        let mut anew = Value::Null;
        while !(ended && answered && anew != Value::Null) {
            let message = client.next().await;
            match message["method"].as_str() {
                None => answered = message["result"]["user"] == "bob",
                Some("live.error") => {
                    assert_eq!(message["params"]["live_id"], ids[1], "{message}");
                    ended = true;
                }
                Some("live.must-refetch") => {
                    assert_eq!(message["params"]["live_id"], ids[0]);
                    anew = client.event("live.snapshot").await["rows"].clone();
                    client.event("live.ready").await;
                }
                Some(other) => assert!(other == "tick", "{message}"),
            }
        }
        assert_eq!(anew, json!([["b"]]));
    });
}

/// From now on nothing that comes is seen, nor answered by the kernel: the peer has vanished.
fn vanish(socket: &impl std::os::fd::AsFd) {
    const RETURN: u16 = 0x06;
    let drop_all = socket2::SockFilter::new(RETURN, 0, 0, 0);
    socket2::SockRef::from(socket)
        .attach_filter(&[drop_all])
        .unwrap();
}

#[test]
fn g7_a_peer_that_vanishes_without_a_word_leaves_nothing() {
    let node = Node::start_with(|config| {
        config.sse_heartbeat = Duration::from_millis(100);
        config.http_peer_timeout = Duration::from_millis(1500);
    });
    node.sql("CREATE TABLE orders (id text PRIMARY KEY, status text, qty integer)");
    let begun = Instant::now();
    let live = "/live?sql=SELECT%20*%20FROM%20orders";
    let vanishes = node.stream(live, None);
    let stays = node.stream(live, None);
    run(async {
        let mut sockets = Vec::new();
        for _ in 0..2 {
            let mut client = Client::connect(&node).await;
            let params = json!({ "sql": "SELECT count(*) FROM orders" });
            client.ask(1, "live", params).await;
            assert_eq!(client.next().await["id"], 1);
            sockets.push(client);
        }
        node.wait_for_metric("springhead_live_queries", 4);
        vanish(&vanishes.socket());
        vanish(sockets[0].socket.get_ref());
        // Something is on its way to both when they go.
        node.sql("INSERT INTO orders VALUES ('o1', 'new', 1)");
        // Who stays answers pings while it reads.
        while node.metric("springhead_live_queries") != 2 {
            let waits = tokio::time::timeout(Duration::from_millis(50), sockets[1].socket.next());
            assert!(!matches!(waits.await, Ok(None | Some(Err(_)))), "closed");
            assert!(begun.elapsed() < PATIENCE, "they are still there");
        }
        node.wait_for_metric("springhead_subscribers{exit=\"websocket\"}", 1);
    });
    drop((stays, vanishes));
    node.wait_for_metric("springhead_live_queries", 0);
}
