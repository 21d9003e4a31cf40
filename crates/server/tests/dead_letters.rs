//! Dead letters on the real server: what is due is done once however often it is killed, a retry is
//! applied if and only if its entry says so, and the faces for people keep to their shapes.

mod letters;

use std::time::Duration;

use letters::{TABLES, check_totals, count, one, refused, seed, wait_until_none};
use serde_json::{Value, json};
use springhead_proto::sync::{Operation, SyncValue, Verb};
use springhead_sim::client::http::{self, Response};
use springhead_sim::fixture::Fixture;
use springhead_sim::rng::Rng;

const PLACES: [&str; 6] = [
    "dead_letters.expire",
    "writer.before_append",
    "writer.after_append",
    "writer.before_commit",
    "writer.after_commit",
    "dead_letters.retry",
];

/// How often the server is killed: `SPRINGHEAD_DEAD_LETTER_KILLS`, or a few times.
fn kills() -> u64 {
    let wanted = std::env::var("SPRINGHEAD_DEAD_LETTER_KILLS").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(8)
}

/// Starts the server with a failpoint; whether it was killed before everything due was done.
fn killed_at_a_failpoint(fixture: &mut Fixture, rng: &mut Rng) -> bool {
    let place = PLACES[usize::try_from(rng.below(PLACES.len() as u64)).expect("small")];
    let hit = 1 + rng.below(if place.starts_with("dead") { 20 } else { 1 });
    let setup = fixture.setup.clone().with_failpoint(place, hit);
    if fixture.start_as(&setup).is_err() {
        return true;
    }
    loop {
        if fixture
            .server()
            .wait_end(Duration::from_millis(5))
            .is_some()
        {
            return true;
        }
        let waiting = http::get(
            fixture.setup.http,
            "/v1/dead-letters?resolved=false&limit=1",
        );
        if waiting.is_ok_and(|answer| answer.json()["entries"] == json!([])) {
            fixture.kill();
            return false;
        }
    }
}

/// TTL actions run once per entry, whenever the server is killed.
#[test]
fn g9_what_is_due_is_done_once_across_kills() {
    const EACH: u64 = 20;
    let mut rng = Rng::new(9);
    let mut fixture = Fixture::started();
    fixture.sql(TABLES);
    for (collection, action) in [
        ("dropped", "drop"),
        ("escalated", "escalate"),
        ("forced", "force_apply_lww"),
    ] {
        let call = format!(
            "CALL springhead.set_dead_letter_policy('{collection}', ttl_s => 1, action => '{action}')"
        );
        fixture.pg().query(&call).expect("a policy");
    }
    fixture.stop();
    let (mut killed, mut rounds) = (0, 0);
    while killed < kills() {
        rounds += 1;
        let mut letters = Vec::new();
        for seq in 1..=EACH {
            for collection in ["dropped", "escalated", "forced"] {
                letters.push(refused(seq, "schema_stale", &count(collection)));
            }
        }
        seed(&fixture, letters);
        while killed_at_a_failpoint(&mut fixture, &mut rng) {
            killed += 1;
        }
        fixture.start();
        wait_until_none(&fixture, "dead_letters", "NOT resolved");
        check_totals(&fixture);
        let expected = i64::try_from(rounds * EACH).expect("few");
        assert_eq!(
            one(&fixture, "SELECT n FROM forced"),
            expected,
            "each applied once"
        );
        assert_eq!(one(&fixture, "SELECT n FROM dropped"), 0);
        assert_eq!(one(&fixture, "SELECT n FROM escalated"), 0);
        let escalated =
            "SELECT count(*) FROM springhead.escalations WHERE collection = 'escalated'";
        assert_eq!(one(&fixture, escalated), expected, "each escalated once");
        fixture.stop();
    }
}

/// Whatever the server was killed at, a retried mutation is in its table if and only if its entry is
/// resolved.
#[test]
fn g9_a_retry_is_applied_if_and_only_if_its_entry_says_so() {
    let mut fixture = Fixture::started();
    fixture.sql(TABLES);
    fixture.stop();
    let letters = (1..=12).map(|seq| refused(seq, "schema_stale", &count("retried")));
    seed(&fixture, letters.collect());
    let mut next = 1;
    for place in PLACES.iter().skip(1) {
        let setup = fixture.setup.clone().with_failpoint(place, 1);
        if fixture.start_as(&setup).is_ok() {
            let target = format!("/v1/dead-letters/{next}/retry");
            // It is killed in the middle, or, at places that were passed before, answers.
            let _ = http::post(fixture.setup.http, &target, &json!({}));
            next += 1;
            fixture.server().wait_end(Duration::from_secs(3));
            fixture.kill();
        }
        fixture.start();
        let resolved = "SELECT count(*) FROM springhead.dead_letters WHERE resolved";
        assert_eq!(
            one(&fixture, "SELECT n FROM retried"),
            one(&fixture, resolved),
            "{place}"
        );
        check_totals(&fixture);
        fixture.stop();
    }
    fixture.start();
    let redrive = json!({"collection": "retried", "rate_per_s": 1000});
    let answer = fixture.post("/v1/dead-letters/redrive", &redrive);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["state"], "done");
    assert_eq!(one(&fixture, "SELECT n FROM retried"), 12);
    fixture.stop();
}

fn put(fixture: &Fixture, target: &str, body: &Value) -> Response {
    let headers = [("content-type", "application/json")];
    let body = body.to_string();
    let answer = http::request(fixture.setup.http, "PUT", target, &headers, body.as_bytes());
    answer.expect("an answer")
}

fn with_letters() -> Fixture {
    let mut fixture = Fixture::started();
    fixture.sql(TABLES);
    fixture.stop();
    let insert = |id: i64| Operation {
        collection: "retried".to_owned(),
        id: vec![SyncValue::Integer(id)],
        verb: Verb::Insert([("n", SyncValue::Integer(5))].into_iter().collect()),
    };
    seed(
        &fixture,
        vec![
            refused(1, "unique:id=1", &insert(1)),
            refused(2, "schema_stale", &count("retried")),
            refused(3, "schema_stale", &count("forced")),
        ],
    );
    fixture.start();
    fixture
}

#[test]
fn g9_the_http_face_of_dead_letters() {
    let mut fixture = with_letters();
    let list = fixture.get("/v1/dead-letters?limit=2");
    assert_eq!(list.status, 200);
    let list = list.json();
    assert_eq!(list["next"], 2);
    let first = &list["entries"][0];
    for name in [
        "id",
        "tenant_id",
        "session_id",
        "username",
        "collection",
        "document_id",
        "mutation_id",
        "peer_id",
        "delta",
        "violation_type",
        "compensation",
        "created_at",
        "device_metadata",
        "retry_count",
        "resolved",
        "resolved_by",
        "resolved_at",
        "base_lsn",
        "schema_version",
        "policy_or_constraint",
        "attempts",
        "expires_at",
    ] {
        assert!(first.get(name).is_some(), "{name}: {first}");
    }
    assert_eq!(first["violation_type"], "unique");
    assert_eq!(first["violation"], "unique:id=1");
    assert_eq!(
        first["operations"],
        json!([{"in": "retried", "id": [1], "insert": {"n": 5}}])
    );
    assert_eq!(first["device_metadata"]["remote_addr"], "127.0.0.1");
    let rest = fixture.get("/v1/dead-letters?limit=2&after=2").json();
    assert_eq!(
        (rest["entries"][0]["id"].clone(), rest["next"].clone()),
        (json!(3), Value::Null)
    );
    let forced = fixture
        .get("/v1/dead-letters?collection=forced&resolved=false")
        .json();
    assert_eq!(forced["entries"].as_array().map(Vec::len), Some(1));

    let again = fixture.post("/v1/dead-letters/1/retry", &json!({}));
    assert_eq!(
        (again.status, again.error_code().as_str()),
        (409, "unique_violation")
    );
    assert_eq!(fixture.get("/v1/dead-letters/1").json()["retry_count"], 1);
    let edited = json!({"operations": [{"in": "retried", "id": [2], "insert": {"n": 6}}]});
    let applied = fixture.post("/v1/dead-letters/1/retry", &edited).json();
    assert_eq!(
        (applied["outcome"].clone(), applied["resolved"].clone()),
        (json!("applied"), json!(true))
    );
    let seen = fixture.get(&format!(
        "/v1/collections/retried/2?min_lsn={}",
        applied["lsn"]
    ));
    assert_eq!(seen.json()["document"]["n"], 6);
    let resolved = fixture.post("/v1/dead-letters/2/resolve", &json!({"note": "by phone"}));
    assert_eq!(resolved.status, 200);
    let entry = fixture.get("/v1/dead-letters/2").json();
    assert_eq!(entry["attempts"][1]["note"], "by phone");
    assert_eq!(
        fixture
            .post("/v1/dead-letters/2/resolve", &json!({}))
            .status,
        409
    );
    let redriven = fixture.post(
        "/v1/dead-letters/redrive",
        &json!({"collection": "forced", "rate_per_s": 100}),
    );
    assert_eq!(redriven.json()["applied"], 1, "{}", redriven.text());

    let policy = json!({"ttl_s": 60, "action": "drop", "max_entries": 7, "on_full": "reject_push"});
    let answer = put(&fixture, "/v1/dead-letter-policies/forced", &policy);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let mut in_force = fixture.get("/v1/dead-letter-policies/forced").json();
    in_force
        .as_object_mut()
        .expect("an object")
        .remove("collection");
    in_force
        .as_object_mut()
        .expect("an object")
        .remove("violation");
    assert_eq!(in_force, policy);

    let status = fixture.get("/v1/status").json();
    assert_eq!(status["dead_letters"]["enqueued"], 3);
    assert_eq!(status["dead_letters"]["resolved"], 3);
    assert_eq!(
        status["dead_letters"]["by_violation"]["unique"]["resolved"],
        1
    );
    let metrics = fixture.get("/metrics").text();
    assert!(
        metrics.contains("springhead_dead_letters_enqueued_total{violation=\"schema_stale\"} 2"),
        "{metrics}"
    );
    let feed = fixture
        .get("/cdc/springhead.dead_letters/poll?since_lsn=1")
        .json();
    assert!(
        feed["changes"]
            .as_array()
            .is_some_and(|changes| changes.len() >= 3),
        "{feed}"
    );
    fixture.stop();
}

#[test]
fn g12_hostile_requests_about_dead_letters_get_typed_errors() {
    let mut fixture = with_letters();
    for (target, status) in [
        ("/v1/dead-letters?limit=0", 400),
        ("/v1/dead-letters?limit=-1", 400),
        ("/v1/dead-letters?limit=99999999999999999999", 400),
        ("/v1/dead-letters?resolved=maybe", 400),
        ("/v1/dead-letters?after=x", 400),
        ("/v1/dead-letters?after=18446744073709551615", 400),
        ("/v1/dead-letters?colour=red", 400),
        ("/v1/dead-letters/0", 400),
        ("/v1/dead-letters/-1", 400),
        ("/v1/dead-letters/1e3", 400),
        ("/v1/dead-letters/9223372036854775808", 400),
        ("/v1/dead-letters/9223372036854775807", 404),
        ("/v1/dead-letters/1;DROP", 400),
        ("/v1/dead-letters/%00", 400),
        ("/v1/dead-letters/redrive", 405),
        ("/v1/dead-letters?collection=%27%20OR%201=1--", 200),
        ("/v1/dead-letter-policies/x?violation=y", 400),
    ] {
        let answer = fixture.get(target);
        assert_eq!(answer.status, status, "{target}: {}", answer.text());
        if status >= 400 {
            assert!(
                !answer.error_code().is_empty(),
                "{target}: {}",
                answer.text()
            );
        }
    }
    let deep = "[".repeat(5000) + &"]".repeat(5000);
    for (target, body, status) in [
        ("1/retry", "{\"operations\":[]}", 400),
        ("1/retry", "{\"operations\":{}}", 400),
        ("1/retry", "{\"operations\":[{\"in\":\"retried\"}]}", 400),
        (
            "1/retry",
            "{\"operations\":[{\"in\":\"retried\",\"id\":[],\"delete\":true}]}",
            400,
        ),
        (
            "1/retry",
            "{\"operations\":[{\"in\":\"retried\",\"id\":[1],\"delete\":true,\"set\":{}}]}",
            400,
        ),
        ("1/retry", "{\"sql\":\"DROP TABLE retried\"}", 400),
        ("1/retry", "[1]", 400),
        ("1/retry", &format!("{{\"operations\":{deep}}}"), 400),
        ("1/retry", "\u{0}", 400),
        ("1/resolve", "{\"note\":7}", 400),
        (
            "1/resolve",
            &format!("{{\"note\":\"{}\"}}", "n".repeat(5000)),
            400,
        ),
        ("77/resolve", "{}", 404),
        ("redrive", "{}", 400),
        (
            "redrive",
            "{\"collection\":\"retried\",\"rate_per_s\":0}",
            400,
        ),
        (
            "redrive",
            "{\"collection\":\"retried\",\"rate_per_s\":1000000}",
            400,
        ),
        ("redrive", "{\"collection\":\"no_such\"}", 200),
    ] {
        let headers = [("content-type", "application/json")];
        let path = format!("/v1/dead-letters/{target}");
        let answer = http::request(fixture.setup.http, "POST", &path, &headers, body.as_bytes());
        let answer = answer.expect("an answer");
        assert_eq!(
            answer.status,
            status,
            "{target} {body:.60}: {}",
            answer.text()
        );
    }
    // Another collection, Springhead's own, and one that is not there: with the author's rights or not
    // at all, and an answer each time.
    for collection in ["springhead.roles", "springhead.dead_letters", "no_such"] {
        let body = json!({"operations": [{"in": collection, "id": [1], "set": {"n": 1}}]});
        let answer = fixture.post("/v1/dead-letters/1/retry", &body);
        assert!(
            (400..500).contains(&answer.status),
            "{collection}: {}",
            answer.text()
        );
    }
    for (body, status) in [
        (json!({"ttl_s": 0}), 400),
        (json!({"ttl_s": -5}), 400),
        (json!({"ttl_s": 1e30}), 400),
        (json!({"action": "burn"}), 400),
        (json!({"on_full": 3}), 400),
        (json!({"max_entries": 0}), 400),
        (json!({"colour": "red"}), 400),
        (json!({"violation": "weather", "ttl_s": 5}), 400),
    ] {
        let answer = put(&fixture, "/v1/dead-letter-policies/retried", &body);
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
    }
    let unknown = put(
        &fixture,
        "/v1/dead-letter-policies/no_such",
        &json!({"ttl_s": 5}),
    );
    assert_eq!(unknown.status, 404);
    assert_eq!(fixture.get("/v1/dead-letters/1").json()["resolved"], false);
    check_totals(&fixture);
    fixture.stop();
}

#[test]
fn g9_the_command_line_of_dead_letters() {
    let mut fixture = with_letters();
    let url = format!("postgres://postgres@{}", fixture.setup.pg);
    let dlq = |args: &[&str]| {
        let mut all = vec!["dlq"];
        all.extend_from_slice(args);
        all.extend_from_slice(&["--url", &url]);
        let output = fixture.command(&all);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text, errors)
    };
    let (code, text, errors) = dlq(&["list", "--json"]);
    assert_eq!((code, text.lines().count()), (Some(0), 3), "{text}{errors}");
    let (code, text, _) = dlq(&["show", "1", "--json"]);
    let entry: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (code, entry["violation_type"].clone()),
        (Some(0), json!("unique"))
    );
    for args in [&["show", "4711"][..], &["show", "4711", "--json"]] {
        let (code, text, errors) = dlq(args);
        assert_eq!((code, text.as_str()), (Some(1), ""), "{args:?}");
        assert!(errors.contains("no dead letter 4711"), "{errors}");
    }
    let (code, _, errors) = dlq(&["retry", "1"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("rejected again"), "{errors}");
    let operations = r#"[{"in":"retried","id":[9],"insert":{"n":1}}]"#;
    let (code, _, errors) = dlq(&["retry", "1", "--operations", operations]);
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(dlq(&["resolve", "2", "--note", "it's done"]).0, Some(0));
    let (code, text, errors) = dlq(&["redrive", "forced", "--rate", "100", "--json"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(text.contains("\"applied\""), "{text}");
    assert_eq!(
        dlq(&["policy", "forced", "--ttl", "60", "--action", "drop"]).0,
        Some(0)
    );
    let (_, text, _) = dlq(&["policy", "--json"]);
    assert!(text.contains("\"drop\""), "{text}");
    assert_eq!(dlq(&["list", "--json"]).1, "");
    fixture.stop();
}
