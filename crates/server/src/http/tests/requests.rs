//! Everything that is no feed: SQL, documents, guards, operators' pages.

use std::io::{Read, Write};

use super::*;

fn sql(node: &Node, body: &Value) -> Response {
    node.send("POST", "/v1/sql", body)
}

#[test]
fn sql_answers_columns_rows_and_the_lsn() {
    let node = Node::with_orders();
    let answer = sql(
        &node,
        &json!({ "sql": "INSERT INTO orders VALUES ($1, $2, $3)", "params": ["a", null, 7] }),
    )
    .json();
    assert_eq!(
        (&answer["command"], &answer["row_count"]),
        (&json!("INSERT 0 1"), &json!(1))
    );
    let lsn = answer["lsn"].as_u64().unwrap();
    let answer = sql(
        &node,
        &json!({ "sql": "SELECT id, status, qty FROM orders", "min_lsn": lsn }),
    )
    .json();
    assert_eq!(
        answer["columns"][2],
        json!({ "name": "qty", "type": "integer" })
    );
    assert_eq!(
        (&answer["rows"], &answer["row_count"]),
        (&json!([["a", null, 7]]), &json!(1))
    );
    assert!(answer["lsn"].as_u64().unwrap() >= lsn);
    // A large result comes whole, in pieces.
    let answer = sql(
        &node,
        &json!({ "sql": "SELECT repeat('x', 1000), n FROM generate_series(1, 3000) AS n" }),
    );
    assert_eq!(answer.status, 200, "{:.300}", answer.text());
    assert_eq!(answer.json()["rows"].as_array().unwrap().len(), 3000);
    assert_eq!(answer.json()["rows"][2999][1], 3000);
}

#[test]
fn g3_a_transaction_is_all_or_nothing_and_names_the_statement_that_failed() {
    let node = Node::with_orders();
    let insert =
        |id: &str| json!({ "sql": "INSERT INTO orders VALUES ($1, null, 1)", "params": [id] });
    let answer = sql(
        &node,
        &json!({ "transaction": [insert("a"), insert("b"), insert("a")] }),
    );
    assert_eq!(
        (answer.status, answer.error_code().as_str()),
        (409, "unique_violation"),
        "{}",
        answer.text()
    );
    assert_eq!(answer.json()["error"]["statement"], 2);
    let answer = sql(
        &node,
        &json!({ "transaction": [insert("a"), { "sql": "SELECT count(*) FROM orders" }] }),
    )
    .json();
    assert_eq!(answer["results"][1]["rows"], json!([[1]]));
    assert_eq!(node.page("/cdc/orders/poll?operations=insert")["count"], 1);
    assert_eq!(
        answer["lsn"],
        node.page("/cdc/orders/poll?operations=insert")["changes"][0]["lsn"]
    );
    let answer = sql(&node, &json!({ "transaction": [] }));
    assert_eq!(
        (answer.status, &answer.json()["results"]),
        (200, &json!([])),
        "{}",
        answer.text()
    );
}

#[test]
fn documents_are_read_and_written_by_their_key() {
    let node = Node::start();
    node.sql("CREATE TABLE places (country text, no integer, name text DEFAULT 'unnamed', area numeric(8,2), PRIMARY KEY (country, no))");
    let target = format!("/v1/collections/places/{}", encode("[\"eu\",17]"));
    let put = node.send("PUT", &target, &json!({ "name": "Ulm", "area": 1.5 }));
    assert_eq!(put.status, 200, "{}", put.text());
    assert_eq!(
        put.json()["document"],
        json!({ "country": "eu", "no": 17, "name": "Ulm", "area": 1.5 })
    );
    assert_eq!(
        (&put.json()["document_id"], &put.json()["collection"]),
        (&json!("[\"eu\",17]"), &json!("places"))
    );
    let patched = node.send("PATCH", &target, &json!({ "area": 2 })).json();
    assert_eq!(
        (&patched["document"]["name"], &patched["document"]["area"]),
        (&json!("Ulm"), &json!(2.0))
    );
    // What a whole document does not name goes back to its default.
    let put = node
        .send("PUT", &target, &json!({ "country": "eu", "no": 17 }))
        .json();
    assert_eq!(
        (&put["document"]["name"], &put["document"]["area"]),
        (&json!("unnamed"), &Value::Null)
    );
    assert_eq!(node.page(&target)["document"], put["document"]);
    let feed = node.page("/cdc/places/poll?operations=insert,update");
    assert_eq!(
        words(feed["changes"].as_array().unwrap(), "operation"),
        ["INSERT", "UPDATE", "UPDATE"]
    );
    assert_eq!(
        words(feed["changes"].as_array().unwrap(), "document_id"),
        ["[\"eu\",17]"; 3]
    );
    let wrong = node.send("PUT", &target, &json!({ "no": 18 }));
    assert_eq!(
        (wrong.status, wrong.error_code().as_str()),
        (400, "invalid_parameter")
    );
    let wrong = node.send("PATCH", &target, &json!({ "nope": 18 }));
    assert_eq!(
        (wrong.status, wrong.error_code().as_str()),
        (400, "unknown_column")
    );
    let deleted = node.request("DELETE", &target, &[], "");
    assert_eq!(
        (deleted.status, &deleted.json()["document"]["name"]),
        (200, &json!("unnamed")),
        "{}",
        deleted.text()
    );
    for method in ["GET", "DELETE"] {
        let answer = node.request(method, &target, &[], "");
        assert_eq!(
            (answer.status, answer.error_code().as_str()),
            (404, "not_found")
        );
    }
    assert_eq!(
        node.send("PATCH", &target, &json!({ "area": 1 })).status,
        404
    );
    node.refused("/v1/collections/places/17", 400, "invalid_value");
}

/// COMMIT ended the transaction of its request: what came before it stayed although the answer was an
/// error, and a BEGIN had the whole request rolled back behind an answer that said otherwise.
#[test]
fn g3_no_statement_of_a_request_begins_or_ends_its_transaction() {
    let node = Node::with_orders();
    let insert =
        |id: &str| json!({ "sql": format!("INSERT INTO orders VALUES ('{id}', null, 1)") });
    for word in [
        "BEGIN",
        "START TRANSACTION",
        "COMMIT",
        "END",
        "ROLLBACK",
        "ABORT",
    ] {
        let bound = json!({ "sql": word });
        for (transaction, place) in [
            (json!([insert("a"), bound, insert("b")]), 1),
            (json!([bound, insert("c")]), 0),
        ] {
            let answer = sql(&node, &json!({ "transaction": transaction }));
            assert_eq!(
                (answer.status, answer.error_code().as_str()),
                (400, "not_supported"),
                "{word}: {}",
                answer.text()
            );
            assert_eq!(answer.json()["error"]["statement"], place, "{word}");
        }
        // Alone it would bind nothing that follows.
        let answer = sql(&node, &bound);
        assert_eq!(
            (answer.status, answer.error_code().as_str()),
            (400, "not_supported"),
            "{word}: {}",
            answer.text()
        );
    }
    let answer = sql(&node, &json!({ "sql": "SELECT * FROM orders" })).json();
    assert_eq!(answer["rows"], json!([]));
    let savepoints = json!({ "transaction": [
        insert("a"), { "sql": "SAVEPOINT s" }, insert("b"), { "sql": "ROLLBACK TO s" }
    ] });
    assert_eq!(sql(&node, &savepoints).status, 200);
    let answer = sql(&node, &json!({ "sql": "SELECT id FROM orders" })).json();
    assert_eq!(answer["rows"], json!([["a"]]));
}

#[test]
fn every_answer_says_its_lsn_and_every_request_may_ask_for_one() {
    let node = Node::with_orders();
    let lsn = node.sql("INSERT INTO orders VALUES ('a', null, 1)");
    for text in ["SET search_path = public", "SHOW server_version", ""] {
        assert!(node.sql(text) >= lsn, "{text}");
    }
    let target = format!("/v1/sql?min_lsn={lsn}");
    let answer = node.send("POST", &target, &json!({ "sql": "SELECT id FROM orders" }));
    assert_eq!(answer.json()["rows"], json!([["a"]]), "{}", answer.text());
    node.send(
        "POST",
        "/v1/consumers",
        &json!({ "name": "c", "since_lsn": 1 }),
    );
    let target = format!("/v1/consumers/c/commit?min_lsn={lsn}");
    let answer = node.send("POST", &target, &json!({ "cursor": lsn.to_string() }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    // A statement of a transaction has none of its own, and the hint says so.
    let body = json!({ "transaction": [{ "sql": "SELECT 1", "min_lsn": 1 }] });
    let hint = sql(&node, &body).json()["error"]["hint"].to_string();
    assert!(
        hint.contains("sql, params") && !hint.contains("min_lsn"),
        "{hint}"
    );
}

/// The key of a document and its id print one value in two ways, and a body that repeated the key as the
/// document has it was refused.
#[test]
fn a_document_may_be_put_back_as_it_was_got_whatever_type_its_key_has() {
    let node = Node::start();
    for (number, (pg_type, id)) in [
        ("numeric(6,2)", "1.5"),
        ("timestamptz", "2024-01-01T02:00:00+02:00"),
        ("timestamp", "2024-01-01 02:00:00"),
        ("boolean", "true"),
        ("uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"),
        ("char(5)", "ab"),
        ("bigint", "9007199254740993"),
        ("double precision", "1e300"),
        ("bytea", "\\x00ff"),
        ("text", "a/b"),
    ]
    .into_iter()
    .enumerate()
    {
        node.sql(&format!(
            "CREATE TABLE t{number} (id {pg_type} PRIMARY KEY, v integer)"
        ));
        let made = node.send(
            "PUT",
            &format!("/v1/collections/t{number}/{}", encode(id)),
            &json!({ "v": 1 }),
        );
        assert_eq!(made.status, 200, "{pg_type}: {}", made.text());
        let made = made.json();
        let own_id = made["document_id"].as_str().unwrap();
        let mut document = made["document"].clone();
        for (method, id, v) in [("PUT", id, 2), ("PUT", own_id, 3), ("PATCH", own_id, 4)] {
            document["v"] = v.into();
            let target = format!("/v1/collections/t{number}/{}", encode(id));
            let again = node.send(method, &target, &document);
            assert_eq!(again.status, 200, "{pg_type}: {}", again.text());
            assert_eq!(again.json()["document"], document, "{pg_type}");
        }
        let target = format!("/v1/collections/t{number}/{}", encode(own_id));
        let other = node.send("PUT", &target, &json!({ "id": null }));
        assert_eq!(other.status, 400, "{pg_type}: {}", other.text());
    }
    node.sql("CREATE TABLE pairs (a date, b numeric(6,2), v integer, PRIMARY KEY (a, b))");
    let target = format!("/v1/collections/pairs/{}", encode("[\"2024-01-02\",1.5]"));
    let made = node.send("PUT", &target, &json!({ "v": 1 })).json();
    let put = node.send("PUT", &target, &made["document"]);
    assert_eq!(put.status, 200, "{}", put.text());
}

/// A key that the database numbers could be patched and deleted, and not put.
#[test]
fn a_document_with_a_key_that_is_always_generated_may_be_put() {
    let node = Node::start();
    node.sql("CREATE TABLE t (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text, twice text GENERATED ALWAYS AS (a || a) STORED)");
    node.sql("INSERT INTO t (a) VALUES ('x')");
    for (id, a) in [(1, "y"), (7, "z")] {
        let target = format!("/v1/collections/t/{id}");
        let put = node.send("PUT", &target, &json!({ "id": id, "a": a }));
        assert_eq!(
            put.json()["document"],
            json!({ "id": id, "a": a, "twice": format!("{a}{a}") }),
            "{}",
            put.text()
        );
    }
}

#[test]
fn documents_are_listed_by_key_page_by_page() {
    let node = Node::start();
    node.sql("CREATE TABLE places (country text, no integer, PRIMARY KEY (country, no))");
    for no in 0..7 {
        node.sql(&format!("INSERT INTO places VALUES ('c{}', {no})", no % 2));
    }
    let mut ids = Vec::new();
    let mut after = String::new();
    loop {
        let page = node.page(&format!("/v1/collections/places?limit=2{after}"));
        ids.extend(words(page["documents"].as_array().unwrap(), "document_id"));
        match page["next_after"].as_str() {
            Some(id) => after = format!("&after={}", encode(id)),
            None => break,
        }
    }
    assert_eq!(
        ids,
        [
            "[\"c0\",0]",
            "[\"c0\",2]",
            "[\"c0\",4]",
            "[\"c0\",6]",
            "[\"c1\",1]",
            "[\"c1\",3]",
            "[\"c1\",5]"
        ]
    );
}

#[test]
fn a_row_without_a_key_is_read_by_the_id_that_the_feed_gives_it() {
    let node = Node::start();
    node.sql("CREATE TABLE notes (text text)");
    node.sql("INSERT INTO notes VALUES ('hello')");
    let page = node.page("/cdc/notes/poll?operations=insert");
    let change = &page["changes"][0];
    assert_eq!(change["after"], json!({ "text": "hello" }));
    let target = format!(
        "/v1/collections/notes/{}",
        change["document_id"].as_str().unwrap()
    );
    assert_eq!(node.page(&target)["document"], json!({ "text": "hello" }));
    let answer = node.send("PUT", &target, &json!({ "text": "x" }));
    assert_eq!(
        (answer.status, answer.error_code().as_str()),
        (400, "not_supported")
    );
    node.refused("/v1/collections/notes/99", 404, "not_found");
}

#[test]
fn g6_who_may_not_ask_is_refused_on_every_path() {
    let node =
        Node::start_with(|config| config.cors_origins = vec!["https://app.example.org".to_owned()]);
    for target in ["/cdc", "/cdc/poll", "/healthz", "/v1/status"] {
        let answer = node.request("GET", target, &[("origin", "http://evil.example")], "");
        assert_eq!(
            (answer.status, answer.error_code().as_str()),
            (403, "forbidden_origin"),
            "{target}"
        );
    }
    let answer = node.request(
        "GET",
        "/healthz",
        &[("origin", "https://app.example.org")],
        "",
    );
    assert_eq!(
        answer
            .headers
            .get("access-control-allow-origin")
            .map(String::as_str),
        Some("https://app.example.org")
    );
    let answer = node.request(
        "OPTIONS",
        "/v1/sql",
        &[("origin", "https://app.example.org")],
        "",
    );
    assert_eq!(answer.status, 204);
    let answer = node.request(
        "POST",
        "/v1/sql",
        &[("content-type", "text/plain")],
        "{\"sql\":\"SELECT 1\"}",
    );
    assert_eq!(
        (answer.status, answer.error_code().as_str()),
        (415, "unsupported_media_type")
    );
}

/// A ticket only reads, and was refused to who may only read.
#[test]
fn g6_who_may_read_may_have_a_ticket() {
    let node = Node::with_orders();
    let made = [
        "CREATE ROLE root LOGIN SUPERUSER PASSWORD 'rootpass'",
        "CREATE TOKEN reader FOR root READ ONLY TENANT default",
    ];
    let token = super::ws::administer(&node, &made).remove(0);
    let bearer = format!("Bearer {token}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let body = json!({ "path": "/cdc/orders/poll" }).to_string();
    let ticket = node.request("POST", "/v1/tickets", &headers, &body);
    assert_eq!(ticket.status, 200, "{}", ticket.text());
    let ticket = ticket.json()["ticket"].as_str().unwrap().to_owned();
    node.page(&format!("/cdc/orders/poll?ticket={}", encode(&ticket)));
    node.refused("/cdc/orders/poll?Access_Token=x", 400, "invalid_parameter");
}

#[test]
fn refusals_have_bodies_whoever_makes_them() {
    let node = Node::start_with(|config| config.http_max_uri_bytes = crate::config::Size(4 << 10));
    let long = format!("/cdc/poll?where={}", "a".repeat(5000));
    node.refused(&long, 414, "uri_too_long");
    node.refused("/nope", 404, "not_found");
    let answer = node.request(
        "PUT",
        "/healthz",
        &[("content-type", "application/json")],
        "",
    );
    assert_eq!(
        (answer.status, answer.error_code().as_str()),
        (405, "method_not_allowed")
    );
    assert_eq!(answer.headers.get("allow").map(String::as_str), Some("GET"));
    for (sent, status) in [
        ("GET / HTTP/1.1\r\nbad header\r\n\r\n".to_owned(), "400"),
        (
            format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(200_000)),
            "414",
        ),
        (
            format!(
                "GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
                "x".repeat(66_000)
            ),
            "431",
        ),
        (
            format!(
                "GET /cdc HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
                "x".repeat(200_000)
            ),
            "431",
        ),
        ("GET /healthz HTTP/1.1\r\n\r\n".to_owned(), "400"),
        ("GET /cdc HTTP/1.1\r\n\r\n".to_owned(), "400"),
    ] {
        let mut stream = std::net::TcpStream::connect(node.address).unwrap();
        stream.write_all(sent.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer:.200}"
        );
        assert!(answer.contains("\"error\":{\"code\":"), "{answer:.500}");
    }
}

/// The connection was closed under whoever was still sending, so that most clients saw a broken pipe in
/// place of the answer.
#[test]
fn a_client_that_sends_all_before_it_reads_gets_to_know_why_it_was_refused() {
    let node = Node::start();
    // More than the sockets of both sides hold.
    let large = vec![b' '; 24 << 20];
    let json = "content-type: application/json\r\n";
    let length = format!("content-length: {}\r\n", large.len());
    for (head, status, code) in [
        (
            format!("POST /v1/sql HTTP/1.1\r\n{json}{length}"),
            413,
            "too_large",
        ),
        (
            format!("POST /v1/sql HTTP/1.1\r\n{length}"),
            415,
            "unsupported_media_type",
        ),
        (
            format!("POST /nowhere HTTP/1.1\r\n{json}{length}"),
            404,
            "not_found",
        ),
        (
            format!("PUT /cdc HTTP/1.1\r\n{json}{length}"),
            405,
            "method_not_allowed",
        ),
        (
            format!("POST /v1/sql HTTP/1.1\r\norigin: http://evil.example\r\n{json}{length}"),
            403,
            "forbidden_origin",
        ),
        ("GET /".to_owned(), 414, "uri_too_long"),
    ] {
        let mut stream = std::net::TcpStream::connect(node.address).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        if status == 414 {
            stream.write_all(&vec![b'x'; 24 << 20]).unwrap();
        } else {
            stream.write_all(b"host: localhost\r\n\r\n").unwrap();
            stream.write_all(&large).unwrap();
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{head}: {answer:.300}"
        );
        assert!(
            answer.contains(&format!("{{\"error\":{{\"code\":\"{code}\"")),
            "{head}: {answer:.500}"
        );
    }
}

#[test]
fn operators_pages_say_how_things_are() {
    let node = Node::with_orders();
    assert_eq!(node.page("/healthz")["status"], "ok");
    assert_eq!(node.page("/readyz")["status"], "ready");
    let status = node.page("/v1/status");
    assert_eq!(
        (&status["epoch"], &status["role"]),
        (&json!("abcd0123"), &json!("primary"))
    );
    assert_eq!(status["durable_lsn"], status["visible_lsn"]);
    let spec = node.page("/openapi.json");
    assert!(spec["paths"]["/cdc/{collection}/poll"]["get"].is_object());
    for line in [
        "springhead_log_flushes_total",
        "springhead_commits_total",
        "springhead_log_durable_lsn",
    ] {
        assert!(node.metric(line) > 0, "{line}");
    }
    let mut stream = std::net::TcpStream::connect(node.address).unwrap();
    stream
        .write_all(b"HEAD /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
}

#[test]
fn g8_a_number_that_would_lose_digits_is_refused_and_a_string_keeps_them() {
    let node = Node::with_orders();
    let raw = |number: &str| {
        let body = format!(r#"{{"sql":"SELECT $1::numeric AS n","params":[{number}]}}"#);
        node.request(
            "POST",
            "/v1/sql",
            &[("content-type", "application/json")],
            &body,
        )
    };
    let refused = raw("0.10000000000000000001");
    assert_eq!(refused.status, 400);
    let said = refused.json()["error"]["message"].to_string();
    assert!(
        said.contains("0.10000000000000000001") && said.contains("string"),
        "{said}"
    );
    let kept = raw("\"0.10000000000000000001\"").text();
    assert!(kept.contains("[[0.10000000000000000001]]"), "{kept}");
}
