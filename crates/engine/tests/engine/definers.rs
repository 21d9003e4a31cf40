//! Row policies that call SECURITY DEFINER functions: a reader sees by them what its own rights hide, on
//! every exit that can ask them; those that cannot say so.

use std::sync::Arc;

use springhead_engine::access::{Credential, Principal};
use springhead_engine::cdc::{Cdc, CdcLimits, Feed, FeedOptions, FeedSpec, Reader};
use springhead_engine::live::{LiveError, LiveLimits};
use springhead_proto::TenantId;

use crate::access::each;
use crate::feeds::frames;
use crate::live::{asked, subscriber};
use crate::support::{Client, Node};

/// Rows of `docs` are for members of their team, whom only the owner of `is_member` may read.
async fn teams(node: &Node) -> Client {
    let mut admin = node.client().await;
    each(
        &mut admin,
        "CREATE ROLE boss; GRANT CREATE ON SCHEMA public TO boss; CREATE ROLE ann LOGIN; SET ROLE boss; \
         CREATE TABLE members (team integer, who text, PRIMARY KEY (team, who)); \
         CREATE TABLE docs (id integer PRIMARY KEY, team integer); GRANT SELECT ON docs TO ann; \
         CREATE FUNCTION is_member(t integer) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER AS \
         'SELECT EXISTS (SELECT 1 FROM members WHERE team = t AND who = auth.uid())'; \
         ALTER TABLE docs ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY p ON docs FOR SELECT TO ann USING (is_member(team)); \
         INSERT INTO members VALUES (1, 'ann'); INSERT INTO docs VALUES (1, 1), (2, 2)",
    )
    .await;
    admin
}

fn ann() -> Arc<Principal> {
    Arc::new(Principal::of("ann", Credential::Password))
}

async fn client_of(node: &Node, principal: &Arc<Principal>) -> Client {
    let session = node.engine.session(TenantId::DEFAULT, principal).await;
    Client {
        session: session.unwrap(),
    }
}

#[tokio::test]
async fn g6_feeds_ask_security_definer_functions() {
    let node = Node::start();
    let mut boss = teams(&node).await;
    let principal = ann();
    let mut reader = client_of(&node, &principal).await;
    assert_eq!(reader.lines("SELECT id FROM docs").await, ["1"]);
    reader.fails("SELECT * FROM members", "42501").await;

    let cdc = Cdc::new(node.engine.clone(), CdcLimits::default());
    let options = FeedOptions {
        reader: Reader::new(&principal),
        spec: FeedSpec {
            collection: Some("docs".to_owned()),
            ..FeedSpec::default()
        },
        start: None,
        snapshot: true,
        consumer: None,
    };
    let mut feed = Feed::open(&cdc, node.tenant().await, options)
        .await
        .unwrap();
    let shown = |found: &[(String, serde_json::Value)]| -> Vec<String> {
        let id = |image: &serde_json::Value| {
            let id = image["id"].as_i64();
            id.map_or("-".to_owned(), |id| id.to_string())
        };
        let changes = found
            .iter()
            .filter(|(event, _)| event != "ready" && event != "progress");
        changes
            .map(|(event, data)| format!("{event} {} {}", id(&data["before"]), id(&data["after"])))
            .collect()
    };
    let found = frames(&mut feed, |all| {
        all.iter().any(|(event, _)| event == "ready")
    })
    .await;
    assert_eq!(shown(&found), ["snapshot - 1"]);
    // Rows that come into sight and leave it, and one that is never seen.
    each(
        &mut boss,
        "INSERT INTO docs VALUES (3, 1), (4, 2); UPDATE docs SET team = 2 WHERE id = 3; \
         UPDATE docs SET team = 1 WHERE id = 4",
    )
    .await;
    let found = frames(&mut feed, |all| all.len() >= 3).await;
    assert_eq!(shown(&found), ["insert - 3", "delete 3 -", "insert - 4"]);
    // What the function says when a change is delivered counts.
    each(
        &mut boss,
        "DELETE FROM members; INSERT INTO members VALUES (2, 'ann'); INSERT INTO docs VALUES (5, 1), (6, 2)",
    )
    .await;
    let found = frames(&mut feed, |all| !all.is_empty()).await;
    assert_eq!(shown(&found), ["insert - 6"]);
    let lines = reader.ok("SHOW CHANGES FOR docs").await;
    let rows = lines
        .rows
        .iter()
        .filter(|row| row[4].as_deref() == Some("INSERT"));
    let ids: Vec<_> = rows.map(|row| row[5].clone().unwrap()).collect();
    // By the membership that there is now: 3 came when it left team 1, and was not there before.
    assert_eq!(ids, ["2", "4", "3", "6"]);
    // Another body is in force for what comes next.
    each(
        &mut boss,
        "CREATE OR REPLACE FUNCTION is_member(t integer) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER AS 'SELECT t = 7'; \
         INSERT INTO docs VALUES (7, 2), (8, 7)",
    )
    .await;
    let found = frames(&mut feed, |all| !all.is_empty()).await;
    assert_eq!(shown(&found), ["insert - 8"]);
}

#[tokio::test]
async fn g8_a_live_query_that_cannot_ask_a_policys_function_is_refused() {
    let node = Node::start();
    let mut boss = teams(&node).await;
    let principal = ann();
    let mut live = subscriber(&node, LiveLimits::default()).await;
    let refused = live.open(&principal, &asked("SELECT id FROM docs")).await;
    let Err(LiveError::Sql(error)) = refused else {
        panic!("a live query cannot ask it");
    };
    assert_eq!(error.code.sqlstate().0, "0A000", "{error:?}");
    // Its words hide what it would have asked.
    assert!(!error.message.contains("members"), "{error:?}");
    // Whom the policy does not concern is not refused, and without the function nobody is.
    let owner = Principal::unrestricted("tester");
    live.open(&owner, &asked("SELECT id FROM docs"))
        .await
        .unwrap();
    each(
        &mut boss,
        "DROP POLICY p ON docs; CREATE POLICY p ON docs FOR SELECT TO ann USING (team = 1)",
    )
    .await;
    live.open(&principal, &asked("SELECT id FROM docs"))
        .await
        .unwrap();
}
