//! Dead letters: none vanishes, each ends once, whatever comes first.

use std::time::Duration;

use springhead_engine::dead_letters::{Action, Author, OnFull, Recorded, Refused};

use springhead_proto::ChangeKind;

use crate::support::{Client, Node, dump, tail_from};

/// A rejection as sync would record it.
fn refused(collection: &str, violation: &str, seq: u64) -> Refused {
    Refused {
        session_id: Some("s1".to_owned()),
        author: Author {
            username: "ann".to_owned(),
            uid: "ann".to_owned(),
            claims: None,
        },
        collection: collection.to_owned(),
        document_id: Some(seq.to_string()),
        mutation_id: seq,
        peer_id: "00000000000000000000000000000001".to_owned(),
        delta: vec![1, 2, 3],
        violation: violation.to_owned(),
        policy_or_constraint: Some("todos_title_key".to_owned()),
        compensation: Some(r#"{"kind":"none"}"#.to_owned()),
        client_version: Some("1.0".to_owned()),
        remote_addr: Some("127.0.0.1".to_owned()),
        user_agent: None,
        ..Refused::default()
    }
}

async fn record(node: &Node, refused: Refused) -> Recorded {
    node.tenant()
        .await
        .record_dead_letter(refused)
        .await
        .unwrap()
        .0
}

/// Every row of the totals adds up, and so do the rows that they count.
async fn check_totals(client: &mut Client) {
    let wrong = client
        .lines(
            "SELECT * FROM springhead.dead_letter_totals \
             WHERE enqueued <> resolved + expired + escalated + unresolved",
        )
        .await;
    assert_eq!(wrong, Vec::<String>::new());
    let counted = client
        .one("SELECT count(*) FROM springhead.dead_letters WHERE NOT resolved")
        .await;
    let total = client
        .lines("SELECT unresolved FROM springhead.dead_letter_totals WHERE collection = ''")
        .await;
    assert_eq!(total.first().map_or("0", String::as_str), counted);
}

async fn todos(node: &Node) -> Client {
    let mut client = node.client().await;
    client
        .ok("CREATE TABLE todos (id int PRIMARY KEY, title text UNIQUE)")
        .await;
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_a_rejection_is_kept_whole_and_replays() {
    let node = Node::start();
    let mut client = todos(&node).await;
    let kept = record(&node, refused("todos", "unique:title=milk", 7)).await;
    assert_eq!(kept, Recorded::Kept { id: 1 });
    let kept = record(&node, refused("no_such", "malformed", 8)).await;
    assert_eq!(kept, Recorded::Kept { id: 2 });
    let lines = client
        .lines(
            "SELECT id, username, collection, mutation_id, violation_type, delta, \
             attempts -> 0 ->> 'outcome', device_metadata ->> 'remote_addr', resolved \
             FROM springhead.dead_letters ORDER BY id",
        )
        .await;
    assert_eq!(
        lines,
        [
            "1|ann|todos|7|unique|\\x010203|unique:title=milk|127.0.0.1|f",
            "2|ann|?|8|malformed|\\x010203|malformed|127.0.0.1|f",
        ]
    );
    check_totals(&mut client).await;
    let other = node.replayed_elsewhere();
    let tenant = springhead_proto::TenantId::DEFAULT;
    other.tenant().await;
    assert_eq!(
        dump(&node.state_file(tenant)),
        dump(&other.state_file(tenant))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_a_full_queue_escalates_its_oldest_or_refuses_the_newest() {
    let node = Node::with(|config| config.dead_letter_max_entries = 3);
    let mut client = todos(&node).await;
    let before = node.tenant().await.visible();
    for seq in 1..=5 {
        record(&node, refused("todos", "check:short", seq)).await;
    }
    let left = client
        .lines("SELECT dead_letter_id, reason, entry ->> 'mutation_id' FROM springhead.escalations ORDER BY id")
        .await;
    assert_eq!(left, ["1|capacity|1", "2|capacity|2"]);
    let told = tail_from(&node.tenant().await, before).await;
    let told = told
        .iter()
        .filter(|change| change.kind == ChangeKind::Message);
    assert_eq!(told.count(), 2, "whoever listens is told of each");
    check_totals(&mut client).await;

    let node = Node::with(|config| {
        config.dead_letter_max_entries = 3;
        config.dead_letter_on_full = OnFull::RejectPush;
    });
    let mut client = todos(&node).await;
    for seq in 1..=3 {
        record(&node, refused("todos", "check:short", seq)).await;
    }
    let full = record(&node, refused("todos", "check:short", 4)).await;
    assert!(matches!(full, Recorded::Full { .. }), "{full:?}");
    assert_eq!(
        client
            .one("SELECT count(*) FROM springhead.escalations")
            .await,
        "0"
    );
    check_totals(&mut client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_what_is_due_is_dealt_with_once() {
    for (action, left, escalated) in [(Action::Drop, "0", "0"), (Action::Escalate, "0", "2")] {
        let node = Node::with(|config| {
            config.dead_letter_action = action;
            config.dead_letter_ttl = Duration::from_secs(60);
        });
        let mut client = todos(&node).await;
        record(&node, refused("todos", "check:short", 1)).await;
        record(&node, refused("todos", "check:short", 2)).await;
        node.clock.advance(59_000);
        record(&node, refused("todos", "check:short", 3)).await;
        let swept = node.engine.sweep_dead_letters().await.unwrap();
        assert_eq!((swept.dropped, swept.escalated), (0, 0));
        node.clock.advance(1_000);
        let (first, second) = tokio::join!(
            node.engine.sweep_dead_letters(),
            node.engine.sweep_dead_letters()
        );
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!(
            first.dropped + first.escalated + second.dropped + second.escalated,
            2
        );
        let count = "SELECT count(*) FROM springhead.dead_letters WHERE id < 3";
        assert_eq!(client.one(count).await, left);
        let count = "SELECT count(*) FROM springhead.escalations";
        assert_eq!(client.one(count).await, escalated);
        check_totals(&mut client).await;
    }
}
