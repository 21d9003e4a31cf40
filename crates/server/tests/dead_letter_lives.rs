//! What is under way with dead letters when a node is lost: a redrive goes on after it, and what was due
//! is done once, by whichever node is the primary.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod letters;
mod nodes;

use letters::{TABLES, check_totals, count, one, refused, seed, wait_until_none};
use nodes::{caught_up, eventually, node, promote, rows_of, standby_of, streams, url};
use serde_json::json;
use springhead_proto::sync::{Operation, SyncValue, Verb};
use springhead_sim::client::http;
use springhead_sim::fixture::Fixture;

/// kill -9 in the middle of a redrive: the server goes on with it by itself when it is back, tries each
/// entry once, and none that was tried before.
#[test]
fn g9_a_redrive_goes_on_after_a_kill_and_tries_each_once() {
    const EACH: u64 = 20;
    let mut fixture = Fixture::started();
    fixture.sql(TABLES);
    fixture.stop();
    // Every other one is refused again: its row is there.
    let taken = Operation {
        collection: "retried".to_owned(),
        id: vec![SyncValue::Integer(1)],
        verb: Verb::Insert([("n", SyncValue::Integer(5))].into_iter().collect()),
    };
    let letters = (1..=2 * EACH).map(|seq| match seq % 2 {
        0 => refused(seq, "schema_stale", &count("retried")),
        _ => refused(seq, "unique:id=1", &taken),
    });
    seed(&fixture, letters.collect());
    fixture.start();
    let http_face = fixture.setup.http;
    let begun = std::thread::spawn(move || {
        let redrive = json!({"collection": "retried", "rate_per_s": 25});
        // It dies with the server.
        drop(http::post(http_face, "/v1/dead-letters/redrive", &redrive));
    });
    let tried = "SELECT count(*) FROM springhead.dead_letters WHERE retry_count > 0";
    eventually("some have been tried", || {
        (one(&fixture, tried) >= 5).then_some(())
    });
    fixture.kill();
    begun.join().unwrap();
    fixture.start();
    let before = one(&fixture, tried);
    assert!(before < 40, "it was killed too late");
    // Nobody else may begin one meanwhile.
    let refused = fixture.post(
        "/v1/dead-letters/redrive",
        &json!({"collection": "retried"}),
    );
    assert_eq!(refused.status, 409, "{}", refused.text());
    wait_until_none(&fixture, "dead_letter_redrives", "true");
    let each = i64::try_from(EACH).unwrap();
    assert_eq!(one(&fixture, "SELECT n FROM retried"), each);
    let once = "SELECT count(*) FROM springhead.dead_letters WHERE retry_count = 1";
    assert_eq!(one(&fixture, once), 2 * each, "each tried once");
    let open = "SELECT count(*) FROM springhead.dead_letters WHERE NOT resolved";
    assert_eq!(one(&fixture, open), each);
    let audit = "SELECT count(*) FROM springhead.audit WHERE action = 'redrive dead letters' \
                 AND detail LIKE '40 found, 20 applied, 20 rejected'";
    // It is written down once the redrive has ended.
    eventually("the redrive is in the audit", || {
        (one(&fixture, audit) == 1).then_some(())
    });
    check_totals(&fixture);
    fixture.stop();
}

fn set_policies(node: &Fixture) {
    for (collection, action) in [
        ("dropped", "drop"),
        ("escalated", "escalate"),
        ("forced", "force_apply_lww"),
    ] {
        let call = format!(
            "CALL springhead.set_dead_letter_policy('{collection}', ttl_s => 1, action => '{action}')"
        );
        // The node may die of the one before.
        let Ok(mut client) =
            springhead_sim::client::pg::PgClient::connect(node.setup.pg, "postgres")
        else {
            return;
        };
        drop(client.query(&call));
    }
}

/// The primary dies while it deals with what is due; its standby goes on from what it has, and the old
/// primary, back as a standby, has the same.
#[test]
fn g9_what_is_due_is_done_once_across_a_promotion() {
    const EACH: u64 = 20;
    for (place, pass) in [("dead_letters.expire", 9), ("writer.after_append", 2)] {
        let mut a = node("a", &[]);
        a.start();
        a.sql(TABLES);
        a.stop();
        let letters = (1..=EACH).flat_map(|seq| {
            ["dropped", "escalated", "forced"]
                .map(|collection| refused(seq, "schema_stale", &count(collection)))
        });
        seed(&a, letters.collect());
        let setup = a.setup.clone().with_failpoint(place, pass);
        a.start_as(&setup).unwrap();
        let b = standby_of(&a, "b", &[]);
        caught_up(&a, &b);
        streams(&a, "b");
        set_policies(&a);
        let died = a.server().wait_end(nodes::PATIENCE);
        assert!(
            died.is_some(),
            "{place} was not passed: {}",
            a.setup.printed()
        );
        promote(&b);
        set_policies(&b);
        wait_until_none(&b, "dead_letters", "NOT resolved");
        check_totals(&b);
        let each = i64::try_from(EACH).unwrap();
        assert_eq!(
            one(&b, "SELECT n FROM forced"),
            each,
            "{place}: each applied once"
        );
        assert_eq!(one(&b, "SELECT n FROM dropped"), 0);
        let escalated = "SELECT count(*) FROM springhead.escalations";
        assert_eq!(one(&b, escalated), each, "{place}: each escalated once");
        // The old primary is a standby now.
        for arg in ["--standby-of".to_owned(), url(&b)] {
            a.setup.args.push(arg);
        }
        a.start();
        caught_up(&b, &a);
        for table in [
            "forced",
            "springhead.escalations",
            "springhead.dead_letter_totals",
        ] {
            assert_eq!(rows_of(&a, table), rows_of(&b, table), "{place}: {table}");
        }
    }
}
