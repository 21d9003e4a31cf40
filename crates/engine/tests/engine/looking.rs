//! Change feeds of tables whose row policies look at other tables.

use std::sync::Arc;

use springhead_engine::access::{Credential, Principal};
use springhead_engine::cdc::{Cdc, CdcLimits, Feed, FeedOptions, FeedSpec, Reader};
use springhead_proto::TenantId;

use crate::access::each;
use crate::feeds::frames;
use crate::support::{Client, Node};

/// How many changes of rows `SHOW CHANGES` shows.
async fn row_changes(client: &mut Client, collection: &str) -> usize {
    let shown = client.ok(&format!("SHOW CHANGES FOR {collection}")).await;
    let is_row = |row: &&Vec<Option<String>>| row[4].as_deref() != Some("DEFINITION");
    shown.rows.iter().filter(is_row).count()
}

/// Membership in a table of its own: what it says when a change is delivered decides, for the image
/// before and the image after.
#[tokio::test]
async fn g6_feeds_ask_other_tables_when_changes_are_delivered() {
    let node = Node::start();
    let mut admin = node.client().await;
    each(&mut admin, "CREATE TABLE docs (id integer PRIMARY KEY, team integer); CREATE TABLE members (team integer, who text, PRIMARY KEY (team, who)); CREATE ROLE ann LOGIN; GRANT SELECT ON docs, members TO ann; ALTER TABLE docs ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON docs USING (EXISTS (SELECT 1 FROM members m WHERE m.team = docs.team AND m.who = current_user))").await;
    each(
        &mut admin,
        "INSERT INTO members VALUES (1, 'ann'); INSERT INTO docs VALUES (1, 1), (2, 2)",
    )
    .await;
    let principal = Arc::new(Principal::of("ann", Credential::Password));
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
            image["id"]
                .as_i64()
                .map_or("-".to_owned(), |id| id.to_string())
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
    each(&mut admin, "INSERT INTO docs VALUES (3, 1), (4, 2); UPDATE docs SET team = 2 WHERE id = 3; UPDATE docs SET team = 1 WHERE id = 4").await;
    let found = frames(&mut feed, |all| all.len() >= 3).await;
    assert_eq!(shown(&found), ["insert - 3", "delete 3 -", "insert - 4"]);
    // Who comes or goes by membership alone is no event.
    each(&mut admin, "INSERT INTO members VALUES (2, 'ann'); DELETE FROM members WHERE team = 1; INSERT INTO docs VALUES (5, 2); DELETE FROM docs").await;
    let found = frames(&mut feed, |all| all.len() >= 4).await;
    assert_eq!(
        shown(&found),
        ["insert - 5", "delete 2 -", "delete 3 -", "delete 5 -"]
    );
    // More than is judged at a time.
    admin
        .ok("INSERT INTO docs SELECT i, i % 2 + 1 FROM generate_series(100, 1099) i")
        .await;
    let found = frames(&mut feed, |all| all.len() >= 500).await;
    assert_eq!(found.len(), 500);
    assert!(found.iter().all(|(_, data)| data["after"]["team"] == 2));

    let session = node.engine.session(TenantId::DEFAULT, &principal).await;
    let mut ann = Client {
        session: session.unwrap(),
    };
    // Older changes too, by what is in force now: 2 and 4 were inserted, 3 came, 4 left, 5 was
    // inserted, three were deleted.
    assert_eq!(row_changes(&mut ann, "docs").await, 8 + 500);
    admin.ok("DELETE FROM members").await;
    assert_eq!(row_changes(&mut ann, "docs").await, 0);
    admin.ok("REVOKE SELECT ON members FROM ann").await;
    ann.fails("SHOW CHANGES FOR docs", "42501").await;
    admin
        .ok("CREATE POLICY q ON docs USING (random() < (SELECT count(*) FROM docs d))")
        .await;
    let error = ann.fails("SHOW CHANGES FOR docs", "0A000").await;
    assert!(error.message.contains("row policies"), "{error:?}");
}
