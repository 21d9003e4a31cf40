//! Live queries from opening to end: what is refused, what is shared, what definitions, rights and
//! roles do to them.

use std::sync::Arc;

use springhead_engine::ParamValue;
use springhead_engine::access::{Credential, Principal};
use springhead_engine::live::{
    Live, LiveEnd, LiveError, LiveEvent, LiveLimits, LiveRequest, Subscriber,
};
use springhead_proto::{ErrorCode, Lsn};

use crate::live::{Mirror, PATIENCE, TABLES, asked, drain, fresh, principal, subscriber};
use crate::support::Node;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_kept_true_is_refused_with_the_reason() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok(TABLES).await;
    let mut subscriber = subscriber(&node, LiveLimits::default()).await;
    for (sql, code, word) in [
        (
            "SELECT now(), id FROM a",
            ErrorCode::FeatureNotSupported,
            "time",
        ),
        (
            "SELECT id FROM a WHERE v > random()",
            ErrorCode::InvalidObjectDefinition,
            "random",
        ),
        ("SELECT 1", ErrorCode::FeatureNotSupported, "no table"),
        (
            "SELECT id FROM a FOR UPDATE",
            ErrorCode::FeatureNotSupported,
            "lock",
        ),
        (
            "SELECT id, rank() OVER (ORDER BY v) FROM a",
            ErrorCode::FeatureNotSupported,
            "window",
        ),
        ("DELETE FROM a", ErrorCode::FeatureNotSupported, "SELECT"),
        ("SELECT id FROM nobody", ErrorCode::UndefinedTable, "nobody"),
        (
            "SELECT id FROM a WHERE id = $1",
            ErrorCode::ProtocolViolation,
            "parameters",
        ),
    ] {
        match subscriber.open(&principal(), &asked(sql)).await {
            Err(LiveError::Sql(error)) => {
                assert_eq!(error.code, code, "{sql}: {error}");
                assert!(error.message.contains(word), "{sql}: {error}");
            }
            Err(other) => panic!("{sql}: {other}"),
            Ok(_) => panic!("{sql} was not refused"),
        }
    }
    assert!(subscriber.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recomputed_query_is_evaluated_once_per_pause_and_comes_to_what_a_select_says() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok(TABLES).await;
    let mut subscriber = subscriber(&node, LiveLimits::default()).await;
    let sql = "SELECT id, rank() OVER (ORDER BY v DESC, id) FROM a WITH (recompute)";
    let opened = subscriber.open(&principal(), &asked(sql)).await.unwrap();
    let mut mirror = Mirror::new(sql, opened);
    let mut last = Lsn::ZERO;
    for id in 0..40 {
        last = client
            .ok(&format!("INSERT INTO a (id, v) VALUES ({id}, {id})"))
            .await
            .lsn;
    }
    let mut changes = 0;
    drain(&mut subscriber, last, |event| {
        if let LiveEvent::Change { delta, .. } = event {
            changes += 1;
            mirror.apply(&delta.entries);
        }
    })
    .await;
    assert!((1..20).contains(&changes), "{changes} changes");
    assert_eq!(mirror.lines(), fresh(&mut client, &mirror).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_a_live_query_needs_the_rights_of_its_select_and_ends_when_they_are_revoked() {
    // Rights on tables were once not asked for here, policies alone were.
    let node = Node::start();
    let mut admin = node.client().await;
    for sql in TABLES.split(';').chain([
        "CREATE ROLE ann LOGIN",
        "GRANT SELECT ON b TO ann",
        "GRANT SELECT (id, g) ON a TO ann",
    ]) {
        if !sql.trim().is_empty() {
            admin.ok(sql).await;
        }
    }
    let ann = Arc::new(Principal::of("ann", Credential::Password));
    let mut subscriber = subscriber(&node, LiveLimits::default()).await;
    for sql in [
        "SELECT * FROM c",
        "SELECT id, t FROM a",
        "SELECT id FROM a WHERE v > 1",
        "SELECT b.k, c.y FROM b JOIN c ON c.x = b.l",
        "SELECT id FROM a ORDER BY t LIMIT 1",
        "SELECT id FROM a WHERE EXISTS (SELECT 1 FROM c WHERE c.x = a.id)",
    ] {
        match subscriber.open(&ann, &asked(sql)).await {
            Err(LiveError::Sql(error)) => {
                assert_eq!(
                    error.code,
                    ErrorCode::InsufficientPrivilege,
                    "{sql}: {error}"
                );
            }
            _ => panic!("{sql} was not refused"),
        }
    }
    let mut open = Vec::new();
    for sql in ["SELECT id FROM a WHERE g = 1", "SELECT count(*) FROM b"] {
        open.push(subscriber.open(&ann, &asked(sql)).await.unwrap().id);
    }
    for (sql, id) in [
        ("REVOKE SELECT ON b FROM ann", open[1]),
        ("ALTER ROLE ann NOLOGIN", open[0]),
    ] {
        admin.ok(sql).await;
        let ended = tokio::time::timeout(PATIENCE, subscriber.next())
            .await
            .unwrap();
        match ended {
            LiveEvent::Ended {
                id: ended,
                end: LiveEnd::Failed(_),
            } => assert_eq!(ended, id, "{sql}"),
            _ => panic!("{sql}: an end was to come"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_live_says_how_a_query_is_kept_true() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok(TABLES).await;
    let lines = client
        .lines("EXPLAIN LIVE SELECT id FROM a WHERE g = 3 AND v > 1")
        .await;
    assert_eq!(
        lines[..4],
        [
            "Live query: filter/project (a condition on one table)",
            "  Reads: a",
            "  Found by: g = one of 1 values (hash index)",
            "  Watches: id, g, v",
        ]
    );
    client
        .fails("EXPLAIN LIVE SELECT now() FROM a", "0A000")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_queries_are_kept_once_and_gone_with_their_last_client() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok(TABLES).await;
    let live = Live::new(node.engine.clone(), LiveLimits::default());
    let tenant = node.tenant().await;
    let mut clients = Vec::new();
    for number in 0..20i64 {
        let mut subscriber = Subscriber::new(&live, Arc::clone(&tenant));
        let value = serde_json::Value::from(number % 4);
        let params = [ParamValue::Json(&value)];
        let request = LiveRequest {
            params: &params,
            ..asked("SELECT * FROM a WHERE g = $1")
        };
        subscriber.open(&principal(), &request).await.unwrap();
        subscriber
            .open(&principal(), &asked("SELECT g, count(*) FROM a GROUP BY g"))
            .await
            .unwrap();
        clients.push(subscriber);
    }
    assert_eq!(live.counts(), (40, 5));
    let lsn = client.ok("INSERT INTO a VALUES (1, 2, 3)").await.lsn;
    for (number, subscriber) in clients.iter_mut().enumerate() {
        let mut changes = 0;
        drain(subscriber, lsn, |event| {
            changes += usize::from(matches!(event, LiveEvent::Change { .. }));
        })
        .await;
        assert_eq!(changes, 1 + usize::from(number % 4 == 2));
    }
    drop(clients);
    assert_eq!(live.counts(), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_definitions_ends_a_live_query_only_if_it_matters() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok(TABLES).await;
    let mut subscriber = subscriber(&node, LiveLimits::default()).await;
    let open = asked("SELECT id, t FROM a WHERE g = 1");
    let id = subscriber.open(&principal(), &open).await.unwrap().id;
    client.ok("CREATE INDEX a_t ON a (t)").await;
    client
        .ok("ALTER TABLE a ADD COLUMN z integer DEFAULT 7")
        .await;
    client
        .ok("INSERT INTO a (id, g, t) VALUES (1, 1, 'x')")
        .await;
    match subscriber.next().await {
        LiveEvent::Change { id: changed, delta } => {
            assert_eq!((changed, delta.entries.len()), (id, 1))
        }
        _ => panic!("a change was to come"),
    }
    client.ok("ALTER TABLE a DROP COLUMN t").await;
    loop {
        match subscriber.next().await {
            LiveEvent::Ended {
                end: LiveEnd::Failed(error),
                ..
            } => {
                assert_eq!(error.code, ErrorCode::UndefinedColumn);
                break;
            }
            LiveEvent::Tick(_) => {}
            _ => panic!("an end was to come"),
        }
    }
    let open = asked("SELECT * FROM b ORDER BY l");
    subscriber.open(&principal(), &open).await.unwrap();
    client.ok("DROP TABLE b").await;
    match subscriber.next().await {
        LiveEvent::Ended {
            end: LiveEnd::Failed(error),
            ..
        } => {
            assert_eq!(error.code, ErrorCode::UndefinedTable);
        }
        _ => panic!("an end was to come"),
    }
}
