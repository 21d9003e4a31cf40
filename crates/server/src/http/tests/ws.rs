//! `/ws`, spoken to by a client that is not ours.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::{Node, PATIENCE};

struct Client {
    socket: WebSocketStream<TcpStream>,
}

impl Client {
    async fn connect(node: &Node) -> Client {
        let stream = TcpStream::connect(node.address).await.unwrap();
        let url = format!("ws://{}/ws", node.address);
        let (socket, _) = client_async(url, stream).await.unwrap();
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
        client.ask(2, "ping", json!({})).await;
        assert_eq!(client.next().await["result"], json!({}));
    });
    let answer = node.get("/ws");
    assert_eq!(answer.status, 400, "{}", answer.text());
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
