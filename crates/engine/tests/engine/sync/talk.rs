//! G7 and the rest of the conversation: limits, tokens, clocks, presence.

use springhead_engine::sync::SyncLimits;
use springhead_proto::sync::{
    ClockQuestion, DeviceToServer, Limits, Ping, PresenceLeave, PresenceQuestion, PresenceSet,
    Push, RetryReason, Seq, ServerToDevice, SyncErrorCode, TokenRefresh, Verb, Verdict,
};

use super::device::{Device, Rig, columns, op, shape};
use crate::support::Node;

const NOTES: &str = "CREATE TABLE notes (id integer PRIMARY KEY, body text)";

fn insert(id: i64, body: &str) -> springhead_proto::sync::Operation {
    op("notes", id, Verb::Insert(columns([("body", body.into())])))
}

#[tokio::test(flavor = "multi_thread")]
async fn g7_limits_that_are_passed_end_the_session_by_name() {
    let limits = SyncLimits {
        device: Limits {
            max_shapes: 2,
            max_push_mutations: 3,
            max_mutation_bytes: 200,
            max_presence_bytes: 10,
            ..Limits::default()
        },
        ..SyncLimits::default()
    };
    let rig = Rig::over(Node::start(), limits, NOTES).await;
    let shapes: Vec<_> = (0..3).map(|id| shape(id, "notes", None)).collect();
    let mut device = Device::new(1, "tester", &shapes);
    let refused = device.connect(&rig).await.unwrap_err();
    assert_eq!(refused.code, SyncErrorCode::LimitExceeded);

    let mut device = rig.device(1, &[]).await;
    let mutations = (0..4)
        .map(|id| device.mutation(vec![insert(id, "x")]))
        .collect();
    let push = Push {
        producer: device.producer,
        generation: device.generation,
        mutations,
    };
    let closing = device.say(DeviceToServer::Push(push)).await.unwrap_err();
    assert_eq!(closing.code, SyncErrorCode::LimitExceeded);

    // One mutation that is too large is rejected, and nobody's session ends.
    let mut device = rig.device(2, &[]).await;
    let verdict = device.write(vec![insert(1, &"x".repeat(300))]).await;
    let Verdict::Rejected(rejection) = &verdict else {
        panic!("{verdict:?}")
    };
    assert_eq!(rejection.violation.to_string(), "too_large");
    device.applied(vec![insert(1, "short")]).await;
    let state = DeviceToServer::PresenceSet(PresenceSet {
        channel: "room".to_owned(),
        state: "\"more than ten bytes\"".to_owned(),
    });
    assert_eq!(
        device.say(state).await.unwrap_err().code,
        SyncErrorCode::LimitExceeded
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn g7_who_pushes_too_fast_is_told_when_to_go_on() {
    let limits = SyncLimits {
        mutations_per_s: 5,
        ..SyncLimits::default()
    };
    let rig = Rig::over(Node::start(), limits, NOTES).await;
    let mut device = rig.device(1, &[]).await;
    let push: Vec<_> = (0..15)
        .map(|id| device.mutation(vec![insert(id, "x")]))
        .collect();
    let verdicts = device.push(push.clone()).await;
    assert!(
        matches!(verdicts[9], Verdict::Applied { .. }),
        "{verdicts:?}"
    );
    let Verdict::Retry { after_ms, reason } = &verdicts[10] else {
        panic!("{verdicts:?}")
    };
    assert_eq!((*after_ms, *reason), (1000, RetryReason::RateLimit));
    assert!(
        device
            .told
            .iter()
            .any(|frame| matches!(frame, ServerToDevice::Throttle(_)))
    );
    rig.node.clock.advance(*after_ms);
    let verdicts = device.push(push[10..].to_vec()).await;
    assert!(
        verdicts
            .iter()
            .all(|verdict| matches!(verdict, Verdict::Applied { .. })),
        "{verdicts:?}"
    );
    assert_eq!(rig.sql("SELECT count(*) FROM notes").await, ["15"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_a_device_that_never_acknowledges_is_held_up_and_nobody_else() {
    let rig = Rig::start(NOTES).await;
    let mut device = rig.device(1, &[]).await;
    for _ in 0..3 {
        let push = (0..100)
            .map(|_| device.mutation(vec![op("notes", 1, Verb::Delete)]))
            .collect();
        device.push(push).await;
    }
    // What is not acknowledged is kept …
    assert_eq!(
        rig.sql("SELECT count(*) FROM springhead.sync_verdicts")
            .await,
        ["300"]
    );
    // … and goes with the next push after it was, but for the last 200.
    device.acknowledge().await;
    device.applied(vec![op("notes", 1, Verb::Delete)]).await;
    assert_eq!(
        rig.sql("SELECT count(*) FROM springhead.sync_verdicts")
            .await,
        ["201"]
    );
    // Whoever lies about it gains nothing.
    let lie = springhead_proto::sync::Acknowledge {
        cursor: None,
        settled: vec![device.id_of(1_000_000)],
    };
    device.say(DeviceToServer::Acknowledge(lie)).await.unwrap();
    device.applied(vec![op("notes", 1, Verb::Delete)]).await;
    let mut again = rig.device(1, &[]).await;
    assert_eq!(again.next, Seq(303));
    again.applied(vec![op("notes", 1, Verb::Delete)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g6_a_new_token_is_the_same_users_or_none() {
    let rig = Rig::start(
        "CREATE TABLE notes (id integer PRIMARY KEY, body text); CREATE ROLE ann LOGIN; \
         CREATE ROLE bob LOGIN; GRANT ALL ON notes TO ann, bob",
    )
    .await;
    let mut ann = rig.device_of(1, "ann", &[]).await;
    for (token, accepted) in [("ann", true), ("bob", false), ("none", false)] {
        let token = token.to_owned();
        ann.say(DeviceToServer::TokenRefresh(TokenRefresh { token }))
            .await
            .unwrap();
        ann.until(|ann| matches!(ann.told.last(), Some(ServerToDevice::TokenAck(_))))
            .await;
        let Some(ServerToDevice::TokenAck(answer)) = ann.told.pop() else {
            unreachable!()
        };
        assert_eq!(answer.accepted, accepted, "{answer:?}");
    }
    // The session has gone on all the while.
    ann.applied(vec![insert(1, "still hers")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g7_presence_is_told_and_forgotten() {
    let rig = Rig::start(NOTES).await;
    let mut one = rig.device(1, &[]).await;
    let mut two = rig.device(2, &[]).await;
    let ask = || {
        DeviceToServer::PresenceRoster(PresenceQuestion {
            channel: "room".to_owned(),
        })
    };
    let set = |state: &str| {
        DeviceToServer::PresenceSet(PresenceSet {
            channel: "room".to_owned(),
            state: state.to_owned(),
        })
    };
    one.say(set("\"here\"")).await.unwrap();
    two.say(ask()).await.unwrap();
    two.until(|two| matches!(two.told.last(), Some(ServerToDevice::PresenceRoster(roster)) if roster.members.len() == 1))
        .await;
    for at in 0..1000 {
        one.say(set(&format!("{at}"))).await.unwrap();
    }
    // Only the last of them is worth telling.
    two.until(|two| matches!(two.told.last(), Some(ServerToDevice::PresenceSet(member)) if member.state == "999"))
        .await;
    assert!(two.told.len() < 100, "{}", two.told.len());
    one.say(DeviceToServer::PresenceLeave(PresenceLeave {
        channel: "room".to_owned(),
    }))
    .await
    .unwrap();
    two.until(|two| matches!(two.told.last(), Some(ServerToDevice::PresenceLeave(_))))
        .await;
    one.say(set("\"back\"")).await.unwrap();
    two.until(|two| matches!(two.told.last(), Some(ServerToDevice::PresenceSet(_))))
        .await;
    one.session = None;
    two.until(|two| matches!(two.told.last(), Some(ServerToDevice::PresenceLeave(_))))
        .await;
    let before = rig.node.tenant().await.last_commit();
    two.say(set("\"mine\"")).await.unwrap();
    assert_eq!(rig.node.tenant().await.last_commit(), before);

    two.say(DeviceToServer::Clock(ClockQuestion { device_ms: 5 }))
        .await
        .unwrap();
    two.until(
        |two| matches!(two.told.last(), Some(ServerToDevice::Clock(clock)) if clock.device_ms == 5),
    )
    .await;
    two.say(DeviceToServer::Ping(Ping {
        nonce: 9,
        reply: false,
    }))
    .await
    .unwrap();
    two.until(|two| matches!(two.told.last(), Some(ServerToDevice::Ping(ping)) if ping.reply && ping.nonce == 9))
        .await;
}
