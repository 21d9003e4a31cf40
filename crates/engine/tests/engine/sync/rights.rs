//! G6 and G9: a device may do and see what its user may, and nothing tells it more.

use springhead_proto::sync::{SyncErrorCode, Verb, Verdict};

use super::device::{Rig, columns, op, shape};

const NOTES: &str = "CREATE TABLE notes (id integer PRIMARY KEY, owner text, body text UNIQUE); \
     ALTER TABLE notes ENABLE ROW LEVEL SECURITY; \
     CREATE POLICY own ON notes USING (owner = auth.uid()) WITH CHECK (owner = auth.uid()); \
     CREATE ROLE ann LOGIN; CREATE ROLE bob LOGIN; GRANT ALL ON notes TO ann, bob; \
     CREATE TABLE secret (id integer PRIMARY KEY); INSERT INTO secret VALUES (1); \
     INSERT INTO notes VALUES (1, 'ann', 'hers'), (2, 'bob', 'his')";

fn violation(verdict: &Verdict) -> (String, String) {
    match verdict {
        Verdict::Rejected(rejection) => (
            rejection.violation.to_string(),
            serde_json::to_string(&rejection.hint).unwrap(),
        ),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g6_a_device_writes_what_its_user_may_and_learns_nothing_of_the_rest() {
    let rig = Rig::start(NOTES).await;
    let mut ann = rig.device_of(1, "ann", &[]).await;
    let put = |id: i64, owner: &str, body: &str| {
        let columns = columns([("owner", owner.into()), ("body", body.into())]);
        op("notes", id, Verb::Insert(columns))
    };
    ann.applied(vec![put(3, "ann", "more")]).await;
    // Somebody else's name.
    let (text, hint) = violation(&ann.write(vec![put(4, "bob", "forged")]).await);
    assert_eq!(
        (text.as_str(), hint.as_str()),
        ("policy", r#"{"kind":"none"}"#)
    );
    // A row that is hidden, and one that is not there: the same answer.
    let edit = |id: i64| op("notes", id, Verb::Set(columns([("body", "x".into())])));
    let hidden = violation(&ann.write(vec![edit(2)]).await);
    let absent = violation(&ann.write(vec![edit(99)]).await);
    assert_eq!(hidden, absent);
    // A value that a hidden row has: that it is taken, and what was sent.
    let (text, hint) = violation(&ann.write(vec![put(5, "ann", "his")]).await);
    assert_eq!(text, "unique:body=his");
    assert!(!hint.contains("bob"), "{hint}");
    let (text, _) = violation(&ann.write(vec![op("secret", 1, Verb::Delete)]).await);
    assert_eq!(text, "permission_denied");
    // Deleted rows that one may not see stay.
    ann.applied(vec![op("notes", 2, Verb::Delete)]).await;
    assert_eq!(
        rig.sql("SELECT id, body FROM notes ORDER BY id").await,
        ["1|hers", "2|his", "3|more"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn g6_a_producer_is_its_users() {
    let rig = Rig::start(NOTES).await;
    let mut ann = rig.device_of(1, "ann", &[]).await;
    let body = columns([("owner", "ann".into()), ("body", "x".into())]);
    ann.applied(vec![op("notes", 10, Verb::Insert(body))]).await;
    let mut forged = super::device::Device::new(1, "bob", &[]);
    let refused = forged.connect(&rig).await.unwrap_err();
    assert_eq!(refused.code, SyncErrorCode::ProducerFenced);
    // Nor under a session of his own.
    let mut bob = rig.device_of(2, "bob", &[]).await;
    bob.producer = ann.producer;
    bob.next = springhead_proto::sync::Seq(2);
    let verdict = bob.write(vec![op("notes", 2, Verb::Delete)]).await;
    assert_eq!(verdict, Verdict::Fenced);
    assert_eq!(rig.sql("SELECT count(*) FROM notes").await, ["3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g6_rows_that_are_no_longer_allowed_leave_the_device() {
    let rig = Rig::start(NOTES).await;
    let all = [shape(1, "notes", None)];
    let mut bob = rig.device_of(2, "bob", &all).await;
    bob.settle(&rig).await;
    assert_eq!(bob.lines(1), ["2|his|bob"]);
    // As data change …
    rig.sql("UPDATE notes SET owner = 'bob' WHERE id = 1").await;
    bob.until(|bob| bob.image[&1].len() == 2).await;
    rig.sql("UPDATE notes SET owner = 'ann' WHERE id = 1").await;
    bob.until(|bob| bob.image[&1].len() == 1).await;
    // … as policies change …
    rig.sql("CREATE POLICY none ON notes AS RESTRICTIVE USING (body <> 'his')")
        .await;
    bob.until(|bob| bob.image.get(&1).is_some_and(|rows| rows.is_empty()))
        .await;
    rig.sql("DROP POLICY none ON notes").await;
    bob.until(|bob| bob.image[&1].len() == 1).await;
    // … and as rights do.
    rig.sql("REVOKE SELECT ON notes FROM bob").await;
    bob.until(|bob| bob.ended.contains_key(&1)).await;
    assert_eq!(bob.ended[&1], SyncErrorCode::Forbidden);
}

#[tokio::test(flavor = "multi_thread")]
async fn g6_memberships_count_from_the_moment_they_change() {
    let rig = Rig::start(
        "CREATE TABLE t (id integer PRIMARY KEY); INSERT INTO t VALUES (1); \
         CREATE ROLE team; CREATE ROLE ann LOGIN; GRANT SELECT ON t TO team; GRANT team TO ann",
    )
    .await;
    let mut ann = rig.device_of(1, "ann", &[shape(1, "t", None)]).await;
    ann.settle(&rig).await;
    assert_eq!(ann.image[&1].len(), 1);
    rig.sql("REVOKE team FROM ann").await;
    ann.until(|ann| ann.ended.contains_key(&1)).await;
    rig.sql("DROP ROLE ann").await;
    let closing = ann.closing().await;
    assert_eq!(closing.code, SyncErrorCode::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn g6_shapes_name_nothing_that_is_hidden() {
    let rig = Rig::start(NOTES).await;
    rig.sql(
        "CREATE TABLE w (id integer PRIMARY KEY, a text, b text); GRANT SELECT (id, a) ON w TO ann",
    )
    .await;
    let mut hidden = shape(1, "w", None);
    hidden.columns = vec!["b".to_owned()];
    let mut shown = shape(2, "w", None);
    shown.columns = vec!["a".to_owned()];
    let shapes = [
        hidden,
        shown,
        shape(3, "secret", None),
        shape(4, "nothing", None),
        shape(5, "notes", Some("no_column = 1")),
        shape(
            6,
            "notes",
            Some("true) UNION SELECT 1, '', '' FROM secret WHERE (true"),
        ),
        shape(7, "springhead.roles", None),
    ];
    let mut ann = rig.device_of(1, "ann", &shapes).await;
    ann.settle(&rig).await;
    let ended: Vec<_> = ann.ended.iter().map(|(id, code)| (*id, *code)).collect();
    assert_eq!(
        ended,
        [
            (1, SyncErrorCode::Forbidden),
            (3, SyncErrorCode::Forbidden),
            (4, SyncErrorCode::BadShape),
            (5, SyncErrorCode::BadShape),
            (6, SyncErrorCode::BadShape),
            (7, SyncErrorCode::BadShape),
        ]
    );
}
