//! Roles: who may make and change them, whom a session acts for, what ends a principal.

use std::sync::Arc;
use std::time::Duration;

use springhead_engine::access::{Credential, Principal};
use springhead_proto::{ErrorCode, SqlError, TenantId};

use crate::support::{Client, Node};

async fn as_user(node: &Node, tenant: &str, user: &str) -> Client {
    let principal = Arc::new(Principal::of(user, Credential::Password));
    let tenant = node.engine.tenant_id(tenant).unwrap();
    Client {
        session: node.engine.session(tenant, &principal).await.unwrap(),
    }
}

/// Runs it, which must not take for ever.
async fn soon(client: &mut Client, sql: &str) -> Result<(), SqlError> {
    let ran = tokio::time::timeout(Duration::from_secs(20), client.run(sql)).await;
    let answer = ran.unwrap_or_else(|_| panic!("{sql} hangs"));
    answer.map(|_| ())
}

#[tokio::test]
async fn g7_statements_about_access_after_a_write_in_one_request_never_hang() {
    let node = Node::start();
    let mut admin = node.client().await;
    admin.ok("CREATE ROLE staff").await;
    admin.ok("CREATE TABLE t (n integer)").await;
    node.engine.create_tenant("shop").await.unwrap();
    let mut shop = node.client_of("shop").await;
    shop.ok("CREATE TABLE t (n integer)").await;
    for role in [
        "CREATE ROLE x",
        "ALTER ROLE staff NOLOGIN",
        "GRANT staff TO postgres",
        "REVOKE staff FROM postgres",
        "CREATE TOKEN k FOR staff",
        "DROP ROLE staff",
        "CREATE ROLE staff",
    ] {
        for before in ["INSERT INTO t VALUES (1);", "SELECT * FROM t FOR UPDATE;"] {
            // Where roles are kept it is one transaction; elsewhere it would be two.
            let sql = format!("BEGIN; {before} {role}");
            soon(&mut admin, &sql).await.unwrap();
            let mut other = node.client().await;
            admin.ok("ROLLBACK").await;
            soon(&mut other, "UPDATE t SET n = n").await.unwrap();
            let error = soon(&mut shop, &format!("{before} {role}")).await;
            let error = error.expect_err("is refused");
            assert_eq!(error.code.sqlstate().0, "0A000", "{sql}: {error:?}");
            assert!(error.hint.is_some(), "{sql}");
            // The writer is free again, and the block's write is not there.
            let mut other = node.client_of("shop").await;
            soon(&mut other, "UPDATE t SET n = n").await.unwrap();
        }
        if role.ends_with("ROLE staff") {
            soon(&mut admin, role).await.unwrap();
        }
    }
    assert_eq!(admin.one("SELECT count(*) FROM t").await, "0");
    assert_eq!(shop.one("SELECT count(*) FROM t").await, "0");
    // Rights on objects are the tenant's own. They are in the audit once they are in force.
    let granted =
        "SELECT count(*) FROM springhead.audit WHERE action IN ('GRANT', 'CREATE POLICY')";
    for (sql, deeds) in [
        ("INSERT INTO t VALUES (1); GRANT SELECT ON t TO staff", "1"),
        (
            "BEGIN; INSERT INTO t VALUES (1); GRANT INSERT ON t TO staff; \
             CREATE POLICY p ON t USING (true); COMMIT",
            "3",
        ),
        ("BEGIN; GRANT UPDATE ON t TO staff; ROLLBACK", "3"),
        (
            "BEGIN; SAVEPOINT s; GRANT UPDATE ON t TO staff; ROLLBACK TO s; \
             GRANT DELETE ON t TO staff; COMMIT",
            "4",
        ),
        (
            "DO $$ BEGIN INSERT INTO t VALUES (1); GRANT UPDATE ON t TO staff; END $$",
            "5",
        ),
    ] {
        soon(&mut admin, sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        assert_eq!(admin.one(granted).await, deeds, "{sql}");
    }
}

#[tokio::test]
async fn g6_roles_are_made_by_those_who_may() {
    let node = Node::start();
    let mut admin = node.client().await;
    for sql in [
        "CREATE ROLE boss LOGIN CREATEROLE CREATEDB",
        "CREATE USER ann",
        "CREATE ROLE root SUPERUSER",
        "CREATE ROLE staff",
        "GRANT staff TO ann",
    ] {
        admin.ok(sql).await;
    }
    admin.fails("CREATE ROLE ann", "42710").await;
    admin.fails("CREATE ROLE pg_x", "42939").await;
    admin.fails("CREATE ROLE public", "42939").await;
    admin.fails("GRANT ann TO staff", "0LP01").await;
    admin.fails("GRANT nobody TO ann", "42704").await;
    admin.fails("ALTER ROLE nobody LOGIN", "42704").await;
    admin.fails("DROP ROLE postgres", "2BP01").await;
    admin
        .fails(
            "CREATE ROLE x PASSWORD 'md5d41d8cd98f00b204e9800998ecf8427e'",
            "0A000",
        )
        .await;
    admin.ok("BEGIN; CREATE ROLE x").await;
    admin.ok("ROLLBACK").await;
    admin.ok("DROP ROLE IF EXISTS nobody").await;

    let mut boss = as_user(&node, "default", "boss").await;
    boss.fails("CREATE ROLE x SUPERUSER", "42501").await;
    boss.fails("CREATE ROLE x BYPASSRLS", "42501").await;
    boss.fails("ALTER ROLE root NOLOGIN", "42501").await;
    boss.fails("ALTER ROLE ann SUPERUSER", "42501").await;
    boss.fails("DROP ROLE root", "42501").await;
    boss.fails("GRANT root TO boss", "42501").await;
    boss.fails("DROP ROLE boss", "55006").await;
    boss.ok("CREATE ROLE temp IN ROLE staff").await;
    boss.ok("DROP ROLE temp").await;
    boss.ok("CREATE DATABASE shop").await;
    boss.fails("DROP DATABASE shop", "42501").await;

    let mut ann = as_user(&node, "default", "ann").await;
    ann.fails("CREATE ROLE x", "42501").await;
    ann.fails("DROP ROLE staff", "42501").await;
    ann.fails("GRANT staff TO boss", "42501").await;
    ann.fails("ALTER ROLE boss NOLOGIN", "42501").await;
    ann.fails("ALTER ROLE ann CREATEDB", "42501").await;
    ann.fails("CREATE DATABASE x", "42501").await;
    ann.ok("ALTER ROLE ann PASSWORD 'own'").await;
    boss.ok("GRANT staff TO ann WITH ADMIN OPTION").await;
    ann.ok("GRANT staff TO boss").await;
    ann.ok("REVOKE staff FROM boss").await;
}

#[tokio::test]
async fn g6_a_role_made_in_a_tenant_stays_there() {
    let node = Node::start();
    let mut admin = node.client().await;
    admin.ok("CREATE DATABASE shop").await;
    admin.ok("CREATE DATABASE bank").await;
    let mut shop = node.client_of("shop").await;
    shop.ok("CREATE ROLE keeper LOGIN CREATEROLE").await;
    shop.fails("CREATE ROLE x SUPERUSER TENANT shop", "22023")
        .await;
    admin.ok("CREATE ROLE everywhere LOGIN").await;
    admin.ok("CREATE ROLE teller LOGIN TENANT bank").await;
    let keeper = Arc::new(Principal::of("keeper", Credential::Password));
    let bank = node.engine.tenant_id("bank").unwrap();
    for tenant in [bank, TenantId::DEFAULT] {
        let refused = node.engine.session(tenant, &keeper).await.err().unwrap();
        assert_eq!(refused.code, ErrorCode::InsufficientPrivilege);
    }
    as_user(&node, "bank", "everywhere").await;
    let mut keeper = as_user(&node, "shop", "keeper").await;
    keeper.ok("CREATE ROLE clerk").await;
    keeper.fails("CREATE ROLE spy TENANT bank", "42501").await;
    keeper.fails("CREATE ROLE spy TENANT ALL", "42501").await;
    keeper.fails("ALTER ROLE teller NOLOGIN", "42501").await;
    keeper.fails("DROP ROLE teller", "42501").await;
    keeper.fails("GRANT teller TO clerk", "42501").await;
    let clerk = node.engine.roles().get("clerk").cloned().unwrap();
    assert_eq!(clerk.tenant, Some(node.engine.tenant_id("shop").unwrap()));
}

#[tokio::test]
async fn g6_a_session_acts_for_the_roles_it_may() {
    let node = Node::start();
    let mut admin = node.client().await;
    for sql in [
        "CREATE ROLE ann LOGIN",
        "CREATE ROLE staff",
        "CREATE ROLE boss IN ROLE staff ROLE ann",
        "CREATE ROLE aloof NOINHERIT LOGIN IN ROLE staff",
    ] {
        admin.ok(sql).await;
    }
    let mut ann = as_user(&node, "default", "ann").await;
    assert_eq!(
        ann.session
            .identity()
            .roles
            .iter()
            .map(|role| &**role)
            .collect::<Vec<_>>(),
        ["ann", "boss", "staff"]
    );
    ann.ok("SET ROLE staff").await;
    assert_eq!(
        ann.one("SELECT current_user || ' ' || session_user").await,
        "staff ann"
    );
    ann.ok("RESET ROLE").await;
    ann.fails("SET ROLE postgres", "42501").await;
    ann.fails("SET ROLE nobody", "22023").await;
    ann.fails("SET SESSION AUTHORIZATION staff", "42501").await;
    ann.fails("SELECT set_config('role', 'postgres', false)", "0A000")
        .await;
    ann.ok("BEGIN").await;
    ann.ok("SET LOCAL ROLE boss").await;
    assert_eq!(ann.one("SELECT current_user").await, "boss");
    ann.ok("COMMIT").await;
    assert_eq!(ann.one("SELECT current_user").await, "ann");
    ann.ok("BEGIN").await;
    ann.ok("SET ROLE boss").await;
    ann.ok("ROLLBACK").await;
    assert_eq!(ann.one("SELECT current_user").await, "ann");

    let mut aloof = as_user(&node, "default", "aloof").await;
    assert!(!aloof.session.identity().is_member_of("staff"));
    aloof.ok("SET ROLE staff").await;
    assert!(aloof.session.identity().is_member_of("staff"));

    // Whoever may do everything may become anybody, and come back.
    assert_eq!(admin.one("SHOW is_superuser").await, "on");
    admin.ok("SET SESSION AUTHORIZATION ann").await;
    assert_eq!(admin.one("SHOW is_superuser").await, "off");
    assert_eq!(admin.one("SELECT session_user").await, "ann");
    admin.fails("CREATE ROLE x", "42501").await;
    admin.fails("SET ROLE aloof", "42501").await;
    admin.ok("SET ROLE boss").await;
    admin.ok("RESET SESSION AUTHORIZATION").await;
    assert_eq!(
        admin.one("SELECT current_user").await,
        admin.one("SELECT session_user").await
    );
    admin.ok("CREATE ROLE x").await;
}

#[tokio::test]
async fn g6_open_mode_ends_for_every_tenant_with_the_first_password() {
    let mut node = Node::start();
    let mut admin = node.client().await;
    admin.ok("CREATE DATABASE shop").await;
    let mut bystander = node.client().await;
    let mut elsewhere = node.client_of("shop").await;
    admin.ok("CREATE ROLE group_only").await;
    admin.ok("CREATE ROLE locked PASSWORD 'x'").await;
    admin.ok("CREATE USER keyless").await;
    bystander.ok("SELECT 1").await;
    assert!(node.engine.roles().is_open);

    let answer = admin.ok("CREATE USER ann PASSWORD 'secret'").await;
    assert!(!answer.notices.is_empty(), "no superuser can log in");
    assert!(!node.engine.roles().is_open);
    bystander.fails("SELECT 1", "28000").await;
    elsewhere.fails("SELECT 1", "28000").await;
    let anyone = Principal::unrestricted("postgres");
    assert!(
        node.engine
            .session(TenantId::DEFAULT, &anyone)
            .await
            .is_err()
    );
    // Whoever made the user goes on, and may mend it.
    admin.ok("ALTER USER postgres PASSWORD 'mended'").await;

    let stored = admin
        .lines("SELECT name, verifier FROM springhead.roles")
        .await
        .join(" ");
    assert!(
        stored.contains("SCRAM-SHA-256$4096:") && !stored.contains("secret"),
        "{stored}"
    );
    let audit = admin
        .lines("SELECT action, object, outcome FROM springhead.audit ORDER BY id")
        .await;
    assert!(!audit.join(" ").contains("secret"), "{audit:?}");
    assert_eq!(audit.len(), 6, "{audit:?}");
    drop((admin, bystander, elsewhere));
    node = node.reopen();
    let roles = node.engine.roles();
    assert!(!roles.is_open);
    let ann = roles.get("ann").unwrap();
    assert!(ann.verifier.as_ref().unwrap().fits("secret"));
}

#[tokio::test]
async fn g6_what_is_revoked_ends_at_once() {
    let node = Node::start();
    let mut admin = node.client().await;
    admin.ok("CREATE ROLE ann LOGIN").await;
    let answer = admin.ok("CREATE TOKEN laptop FOR ann READ ONLY").await;
    let (id, token) = answer.lines()[0]
        .split_once('|')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    let found = node.engine.find_token(&token).expect("it is good");
    assert!(found.read_only);
    for wrong in [
        "",
        "sh_",
        "sh_x_y",
        &token[..token.len() - 1],
        &format!("{token}x"),
    ] {
        assert!(node.engine.find_token(wrong).is_none(), "{wrong}");
    }
    let by_token = Arc::new(Principal {
        read_only: true,
        ..Principal::of("ann", Credential::Token(id.as_str().into()))
    });
    let mut reader = Client {
        session: node
            .engine
            .session(TenantId::DEFAULT, &by_token)
            .await
            .unwrap(),
    };
    reader.ok("SELECT 1").await;
    reader.ok("SET default_transaction_read_only = off").await;
    reader
        .fails("BEGIN READ WRITE; CREATE TABLE t (a int)", "42501")
        .await;
    reader.ok("ROLLBACK").await;
    reader.fails("CREATE ROLE x", "42501").await;
    let (watcher, watched) = (node.engine.clone(), Arc::clone(&by_token));
    let ended = tokio::spawn(async move { watcher.revoked(&watched).await });
    admin.ok(&format!("DROP TOKEN '{id}'")).await;
    let told = tokio::time::timeout(Duration::from_secs(1), ended).await;
    assert_eq!(told.unwrap().unwrap().code, ErrorCode::InvalidAuthorization);
    reader.fails("SELECT 1", "28000").await;

    let mut ann = as_user(&node, "default", "ann").await;
    ann.ok("SELECT 1").await;
    admin.ok("ALTER ROLE ann NOLOGIN").await;
    ann.fails("SELECT 1", "28000").await;
    admin.ok("ALTER ROLE ann LOGIN").await;
    ann.ok("SELECT 1").await;
    admin.ok("DROP ROLE ann").await;
    ann.fails("SELECT 1", "28000").await;
}

/// Rights are kept by name: a role that is made again must not find what another of its name had.
#[tokio::test]
async fn g6_a_role_that_something_names_in_any_tenant_stays() {
    let node = Node::start();
    let mut admin = node.client().await;
    admin.ok("CREATE ROLE ann").await;
    admin.ok("CREATE DATABASE shop").await;
    let mut shop = node.client_of("shop").await;
    shop.ok("CREATE TABLE t (id int PRIMARY KEY)").await;
    shop.ok("GRANT SELECT ON t TO ann").await;
    let error = admin.fails("DROP ROLE ann", "2BP01").await;
    assert_eq!(error.detail.as_deref(), Some("table t of database shop"));
    shop.ok("REVOKE SELECT ON t FROM ann").await;
    shop.ok("ALTER TABLE t OWNER TO ann").await;
    admin.fails("DROP ROLE ann", "2BP01").await;
    shop.ok("ALTER TABLE t OWNER TO postgres").await;
    shop.ok("CREATE POLICY p ON t TO ann USING (true)").await;
    admin.fails("DROP ROLE ann", "2BP01").await;
    shop.ok("DROP POLICY p ON t").await;
    admin.ok("DROP ROLE ann").await;
}
