//! Roles changed in a transaction: in force for it at once, for all others once it is committed, and
//! never if it is not.

use std::sync::Arc;
use std::time::Duration;

use springhead_engine::access::{Credential, Principal};
use springhead_proto::{ChangeKind, CollectionId};

use crate::support::{Client, Node, until};

const MADE: &str = "SELECT count(*) FROM pg_roles WHERE rolname IN ('ann', 'staff')";

async fn as_user(node: &Node, user: &str) -> Client {
    let principal = Arc::new(Principal::of(user, Credential::Password));
    let tenant = node.engine.tenant_id("default").unwrap();
    Client {
        session: node.engine.session(tenant, &principal).await.unwrap(),
    }
}

#[tokio::test]
async fn g3_roles_and_rows_of_a_transaction_are_one_commit() {
    let node = Node::start();
    let (mut admin, mut other) = (node.client().await, node.client().await);
    admin.ok("CREATE TABLE t (n integer)").await;
    let before = node.engine.log().tail().durable;
    admin.ok("BEGIN").await;
    admin.ok("INSERT INTO t VALUES (1)").await;
    admin
        .ok("CREATE ROLE staff; CREATE ROLE ann LOGIN IN ROLE staff")
        .await;
    admin.ok("GRANT SELECT ON t TO staff").await;
    assert_eq!(admin.one(MADE).await, "2");
    assert_eq!(
        admin
            .one("SELECT count(*) FROM springhead.roles WHERE name IN ('ann', 'staff')")
            .await,
        "2"
    );
    // Nobody else sees any of it.
    assert_eq!(other.one(MADE).await, "0");
    assert_eq!(node.engine.log().tail().durable, before);
    admin.ok("COMMIT").await;
    assert_eq!(other.one(MADE).await, "2");
    let tenant = node.tenant().await;
    let commits: std::collections::BTreeSet<_> = crate::support::tail_from(&tenant, before)
        .await
        .into_iter()
        .filter(|change| {
            // The audit of GRANT is a commit of its own.
            change.kind == ChangeKind::Insert && change.collection != CollectionId::AUDIT
        })
        .map(|change| change.commit_lsn)
        .collect();
    assert_eq!(
        commits.len(),
        1,
        "rows, roles and memberships are one commit"
    );
    // Replayed, it is the same.
    let again = node.replayed_elsewhere();
    let mut client = again.client().await;
    assert_eq!(client.one(MADE).await, "2");
    assert_eq!(
        client
            .one("SELECT has_table_privilege('staff', 't', 'select')")
            .await,
        "t"
    );
}

#[tokio::test]
async fn g3_what_is_rolled_back_leaves_no_role() {
    let node = Node::start();
    let mut admin = node.client().await;
    admin.ok("CREATE ROLE keeper CREATEDB").await;
    for end in [
        "ROLLBACK",
        // Fails, and takes all with it.
        "SELECT 1 / 0",
    ] {
        admin.ok("BEGIN; CREATE ROLE ann; DROP ROLE keeper").await;
        assert_eq!(admin.one(MADE).await, "1");
        let _ = admin.run(end).await;
        let _ = admin.run("ROLLBACK").await;
        assert_eq!(admin.one(MADE).await, "0");
        assert_eq!(
            admin
                .one("SELECT rolcreatedb FROM pg_roles WHERE rolname = 'keeper'")
                .await,
            "t"
        );
    }
    // A client that leaves.
    let mut leaver = node.client().await;
    leaver.ok("BEGIN; CREATE ROLE ann").await;
    drop(leaver);
    assert_eq!(admin.one(MADE).await, "0");
    admin.ok("CREATE ROLE ann").await;
    let again = node.reopen();
    let mut admin = again.client().await;
    assert_eq!(admin.one(MADE).await, "1");
}

#[tokio::test]
async fn g6_a_right_revoked_in_a_transaction_is_in_force_with_its_commit() {
    let node = Node::start();
    let mut admin = node.client().await;
    admin.ok("CREATE TABLE t (n integer); CREATE ROLE staff; CREATE ROLE ann LOGIN PASSWORD 'long enough' IN ROLE staff; CREATE ROLE root SUPERUSER LOGIN PASSWORD 'long enough'; GRANT SELECT ON t TO staff")
        .await;
    let mut root = as_user(&node, "root").await;
    let mut ann = as_user(&node, "ann").await;
    ann.ok("SELECT * FROM t").await;
    root.ok("BEGIN; REVOKE staff FROM ann").await;
    ann.ok("SELECT * FROM t").await;
    root.ok("COMMIT").await;
    ann.fails("SELECT * FROM t", "42501").await;
    // One who may not log in any more is told so at once.
    root.ok("BEGIN; ALTER ROLE ann NOLOGIN; COMMIT").await;
    ann.fails("SELECT 1", "28000").await;
}

#[tokio::test]
async fn g6_two_changes_of_one_role_do_not_lose_each_other() {
    let node = Node::start();
    let mut admin = node.client().await;
    admin.ok("CREATE ROLE ann").await;
    let mut first = node.client().await;
    first.ok("BEGIN; ALTER ROLE ann CREATEDB").await;
    // It waits for the first one's end, and begins from what that leaves.
    let second = tokio::spawn(async move {
        let ran = admin.run("ALTER ROLE ann CREATEROLE").await;
        (admin, ran.map(|_| ()))
    });
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    assert!(!second.is_finished(), "two write the same role at a time");
    first.ok("COMMIT").await;
    let second = tokio::time::timeout(Duration::from_secs(20), second);
    let (mut admin, ran) = second.await.expect("it ends").unwrap();
    ran.unwrap();
    assert_eq!(
        admin
            .lines("SELECT rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = 'ann'")
            .await,
        ["t|t"]
    );
}

#[tokio::test]
async fn g6_a_role_that_is_granted_something_while_it_is_dropped_stays() {
    let node = Node::start();
    let mut admin = node.client().await;
    node.engine.create_tenant("shop").await.unwrap();
    let mut shop = node.client_of("shop").await;
    shop.ok("CREATE TABLE t (n integer)").await;
    admin.ok("CREATE ROLE ann").await;
    admin.ok("BEGIN; DROP ROLE ann").await;
    let shop_id = node.engine.tenant_id("shop").unwrap();
    let tenant = node.engine.tenant(shop_id).await.unwrap();
    // The deed is done at once; its audit waits for the writer, which the transaction has.
    let granted = tokio::spawn(async move { shop.ok("GRANT SELECT ON t TO ann").await });
    until(|| !tenant.catalog().objects_of_role("ann").is_empty()).await;
    let error = admin.fails("COMMIT", "2BP01").await;
    assert!(
        error
            .detail
            .as_ref()
            .is_some_and(|detail| detail.contains("shop")),
        "{error:?}"
    );
    assert_eq!(admin.one(MADE).await, "1");
    granted.await.unwrap();
}

#[tokio::test]
async fn g6_open_mode_ends_with_the_commit_that_makes_the_first_user() {
    let node = Node::start();
    let (mut admin, mut other) = (node.client().await, node.client().await);
    admin
        .ok("BEGIN; CREATE ROLE root SUPERUSER LOGIN PASSWORD 'long enough'")
        .await;
    assert!(node.engine.roles().is_open);
    other.ok("SELECT 1").await;
    admin.ok("COMMIT").await;
    assert!(!node.engine.roles().is_open);
    other.fails("SELECT 1", "28000").await;
    // Whoever made the user may finish what it began.
    admin.ok("CREATE ROLE staff").await;
}
