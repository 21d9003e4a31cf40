//! Live queries from opening to end: what is refused, what is shared, what definitions, rights and
//! roles do to them.

use std::sync::Arc;

use springhead_engine::ParamValue;
use springhead_engine::access::{Credential, Principal};
use springhead_engine::live::{
    Live, LiveEnd, LiveError, LiveEvent, LiveLimits, LiveOptions, LiveRequest, Subscriber,
};
use springhead_proto::{ErrorCode, Lsn};

use crate::live::{Mirror, PATIENCE, TABLES, asked, drain, fresh, principal, subscriber};
use crate::support::{Client, Node};

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

/// One that was planned before a change of definitions, and began after it had been gone through, was
/// never looked at again: it went on without a policy that had come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_a_live_query_that_begins_while_policies_change_is_under_those_that_count() {
    let node = Node::start();
    let mut admin = node.client().await;
    for sql in [
        "CREATE TABLE t (k integer PRIMARY KEY, g integer)",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY p0 ON t FOR SELECT USING (true)",
        "CREATE ROLE ann LOGIN",
        "GRANT SELECT ON t TO ann",
    ] {
        admin.ok(sql).await;
    }
    let ann = Arc::new(Principal::of("ann", Credential::Password));
    let tenant = node.tenant().await;
    let session = node.engine.session(tenant.id(), &ann).await.unwrap();
    let mut anns = Client { session };
    let live = Live::new(node.engine.clone(), LiveLimits::default());
    // It keeps the task going, and has its definitions gone through at once.
    let mut keeper = Subscriber::new(&live, Arc::clone(&tenant));
    let kept = "SELECT k FROM t WHERE g = 1";
    keeper.open(&principal(), &asked(kept)).await.unwrap();
    for round in 1..=60 {
        let mut subscriber = Subscriber::new(&live, Arc::clone(&tenant));
        let sql = [
            "SELECT g, count(*) FROM t GROUP BY g",
            "SELECT k, g FROM t WHERE g > 0",
            "SELECT x.k, y.k FROM t x JOIN t y ON y.g = x.g",
        ][round % 3];
        let hides = round % 2 == 1;
        let policy = match hides {
            true => "CREATE POLICY p1 ON t AS RESTRICTIVE FOR SELECT USING (k % 2 = 0)",
            false => "DROP POLICY p1 ON t",
        };
        let request = LiveRequest {
            options: LiveOptions {
                refetch: true,
                ..LiveOptions::default()
            },
            ..asked(sql)
        };
        let (opened, _) = tokio::join!(subscriber.open(&ann, &request), admin.ok(policy));
        let mut mirror = Mirror::new(sql, opened.unwrap());
        let insert = format!("INSERT INTO t VALUES ({round}, {})", round % 4);
        let last = admin.ok(&insert).await.lsn;
        drain(&mut subscriber, last, |event| match event {
            LiveEvent::Change { delta, .. } => mirror.apply(&delta.entries),
            LiveEvent::Refetched { opened, .. } => mirror = Mirror::new(sql, *opened),
            LiveEvent::Tick(_) => {}
            LiveEvent::Ended { end, .. } => panic!("{end:?}"),
        })
        .await;
        let expected = fresh(&mut anns, &mirror).await;
        assert_eq!(mirror.lines(), expected, "{sql} in round {round}");
    }
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
    // Where somebody else has the core just then, they leave a moment later.
    let gone = async {
        while live.counts() != (0, 0) {
            tokio::task::yield_now().await;
        }
    };
    let gone = tokio::time::timeout(PATIENCE, gone).await;
    assert!(gone.is_ok(), "{:?}", live.counts());
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
    client.ok("DROP TABLE b CASCADE").await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g7_a_tenant_has_so_many_live_queries_and_no_more() {
    let node = Node::start();
    node.client().await.ok(TABLES).await;
    let limits = LiveLimits {
        per_tenant: 3,
        per_connection: 2,
        ..LiveLimits::default()
    };
    let live = Live::new(node.engine.clone(), limits);
    let tenant = node.tenant().await;
    let mut clients: Vec<Subscriber> = (0..2)
        .map(|_| Subscriber::new(&live, Arc::clone(&tenant)))
        .collect();
    let refused = |opened: Result<_, LiveError>, limit: &str| match opened {
        Err(LiveError::Sql(error)) => {
            assert_eq!(error.code, ErrorCode::TooManyConnections, "{error}");
            assert!(error.hint.as_ref().is_some_and(|hint| hint.contains(limit)));
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{limit} was to refuse it"),
    };
    let query = asked("SELECT count(*) FROM a");
    let first = clients[0].open(&principal(), &query).await.unwrap().id;
    clients[0].open(&principal(), &query).await.unwrap();
    let third = clients[0].open(&principal(), &query).await.map(|_| ());
    refused(third, "live_per_connection");
    // Queries that are shared count for each that has them.
    clients[1].open(&principal(), &query).await.unwrap();
    let fourth = clients[1].open(&principal(), &query).await.map(|_| ());
    refused(fourth, "live_per_tenant");
    assert_eq!(live.counts(), (3, 1));
    // One that goes makes room for another.
    assert!(clients[0].close(first));
    clients[1].open(&principal(), &query).await.unwrap();
    drop(clients);
    // One that leaves while another is being taken away is taken away a moment later.
    while live.counts() != (0, 0) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g8_a_truncate_takes_each_row_of_a_filter_as_a_delete_does() {
    // Filters keep no rows: they were once ended by it.
    let node = Node::start();
    let mut client = node.client().await;
    client.ok(TABLES).await;
    client
        .ok("INSERT INTO a (id, g, t) SELECT s, s % 3, 't' || s FROM generate_series(1, 3000) AS g(s)")
        .await;
    let mut subscriber = subscriber(&node, LiveLimits::default()).await;
    let mut mirrors = Vec::new();
    for sql in [
        "SELECT id, t FROM a WHERE g = 1",
        "SELECT id FROM a WHERE g > 1 AND t LIKE 't1%'",
        "SELECT count(*) FROM a",
    ] {
        let opened = subscriber.open(&principal(), &asked(sql)).await.unwrap();
        mirrors.push((opened.id, Mirror::new(sql, opened)));
    }
    for (transaction, changes) in [
        ("TRUNCATE a", 3),
        ("TRUNCATE a", 0),
        (
            "INSERT INTO a (id, g, t) VALUES (1, 1, 't1'), (2, 2, 't1'), (3, 1, 't3')",
            3,
        ),
        // What comes back as it was has not changed; what comes back otherwise has, once.
        (
            "BEGIN; UPDATE a SET t = 'x'; TRUNCATE a; INSERT INTO a (id, g, t) VALUES (1, 1, 't1'), (3, 1, 't4'), (4, 2, 't1'); COMMIT",
            2,
        ),
        (
            "BEGIN; SAVEPOINT s; TRUNCATE a; ROLLBACK TO s; DELETE FROM a WHERE id = 4; COMMIT",
            2,
        ),
        ("BEGIN; TRUNCATE a; ROLLBACK", 0),
    ] {
        client.ok(transaction).await;
        let last = node.tenant().await.last_commit();
        let mut told = 0;
        drain(&mut subscriber, last, |event| match event {
            LiveEvent::Change { id, delta } => {
                told += 1;
                let (_, mirror) = mirrors.iter_mut().find(|(known, _)| *known == id).unwrap();
                mirror.apply(&delta.entries);
            }
            LiveEvent::Tick(_) => {}
            _ => panic!("{transaction}: it was to go on"),
        })
        .await;
        for (_, mirror) in &mirrors {
            assert_eq!(
                mirror.lines(),
                fresh(&mut client, mirror).await,
                "{transaction}"
            );
        }
        assert_eq!(told, changes, "{transaction}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_of_more_rows_than_can_be_kept_is_looked_for_each_time() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok(TABLES).await;
    client
        .ok("INSERT INTO a (id, g) SELECT s, s FROM generate_series(1, 500) AS g(s)")
        .await;
    client
        .ok("INSERT INTO b SELECT 'k', s, s, s % 7 FROM generate_series(1, 500) AS g(s)")
        .await;
    let limits = LiveLimits {
        result_bytes: 10_000,
        ..LiveLimits::default()
    };
    let mut subscriber = subscriber(&node, limits).await;
    let join = "SELECT a.id, b.w FROM a JOIN b ON b.a_id = a.id ORDER BY b.w, a.id";
    let too_large = subscriber.open(&principal(), &asked(join)).await;
    match too_large.map(|_| ()) {
        Err(LiveError::Sql(error)) => assert_eq!(error.code, ErrorCode::StatementTooLarge),
        other => panic!("{other:?}"),
    }
    let sql = format!("{join} LIMIT 5");
    let opened = subscriber.open(&principal(), &asked(&sql)).await.unwrap();
    let mut mirror = Mirror::new(&sql, opened);
    let last = client.ok("UPDATE b SET w = -1 WHERE l = 77").await.lsn;
    drain(&mut subscriber, last, |event| {
        if let LiveEvent::Change { delta, .. } = event {
            mirror.apply(&delta.entries);
        }
    })
    .await;
    assert_eq!(mirror.lines(), fresh(&mut client, &mirror).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_live_says_what_is_seen_through_and_how_an_order_is_kept() {
    let node = Node::start();
    let mut client = node.client().await;
    client.ok(TABLES).await;
    for (sql, expected) in [
        (
            "SELECT * FROM va WHERE grp = 3",
            &[
                "Live query: filter/project (a condition on one table)",
                "  Found by: g = one of 1 values (hash index)",
            ][..],
        ),
        (
            "WITH s AS (SELECT id FROM a WHERE t LIKE 'ab%') SELECT * FROM s",
            &["  Found by: t begins with a text (prefix index)"],
        ),
        (
            "SELECT a.id FROM a JOIN b ON b.a_id = a.id ORDER BY b.w DESC LIMIT 3",
            &[
                "Live query: join (inner joins of plain tables)",
                "  Order: all rows are kept in it, by 1 terms; shown: a window of it",
            ],
        ),
        (
            "SELECT id FROM a UNION ALL SELECT x FROM c",
            &["Live query: union (UNION ALL of filters and joins)"],
        ),
        (
            "SELECT id FROM a EXCEPT SELECT x FROM c",
            &[
                "Live query: by sides (set operations of queries that are kept by parts)",
                "  Rows: (side 1 EXCEPT side 2), by counts",
                "  Side 1: filter/project (a condition on one table)",
                "  Cost per commit: of each side what its class costs",
            ],
        ),
        (
            "SELECT a.id, b.k FROM a FULL JOIN b ON b.a_id = a.id",
            &[
                "Live query: by sides (a full join: a left join, and what is joined to nothing)",
                "  Rows: those of all sides, by key",
                "  Side 2: by rows of one table (a subquery)",
            ],
        ),
    ] {
        let lines = client.lines(&format!("EXPLAIN LIVE {sql}")).await;
        for line in expected {
            assert!(lines.iter().any(|known| known == line), "{sql}: {lines:#?}");
        }
    }
}
