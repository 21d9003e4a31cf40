//! Devices that lie, about everything that they say of themselves: each gets a typed answer, nothing is
//! lost or done twice, and nobody else is harmed. What else a device can say wrong is in `decide`
//! (numbers, copies), `rights` (others' producers, hidden columns), `crdt` (updates) and `talk`.

use std::sync::Arc;

use springhead_engine::access::{Credential, Principal};
use springhead_engine::sync::{Peer, SyncSession};
use springhead_proto::sync::{
    CatalogVersion, DeviceToServer, Generation, Hlc, Operation, Push, Seq, SyncErrorCode, Verb,
    Verdict,
};
use springhead_proto::{Cursor, Epoch, Lsn};

use super::device::{Device, Names, Rig, columns, op, shape};

const NOTES: &str = "CREATE TABLE notes (id integer PRIMARY KEY, body text)";

fn insert(id: i64, body: &str) -> Operation {
    op("notes", id, Verb::Insert(columns([("body", body.into())])))
}

fn set(id: i64, body: &str) -> Operation {
    op("notes", id, Verb::Set(columns([("body", body.into())])))
}

fn is_applied(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Applied { .. })
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_forged_generations_begin_anew_or_are_fenced() {
    let rig = Rig::start(NOTES).await;
    let mut device = rig.device(1, &[]).await;
    device.applied(vec![insert(1, "first life")]).await;
    // A life that has not begun, in the middle of it.
    device.generation = Generation(7);
    device.next = Seq(5);
    let due = Seq::FIRST;
    let gap = device.write(vec![insert(2, "x")]).await;
    assert_eq!(gap, Verdict::Gap { expected_seq: due });
    device.next = due;
    device.applied(vec![insert(2, "seventh life")]).await;
    // What came before it is over: under a session of its own, and in another's.
    device.generation = Generation::FIRST;
    device.next = Seq(2);
    let over = device.write(vec![insert(3, "x")]).await;
    assert_eq!(over, Verdict::Fenced);
    let refused = device.connect(&rig).await.unwrap_err();
    assert_eq!(refused.code, SyncErrorCode::ProducerFenced);
    device.generation = Generation(u32::MAX);
    let ack = device.connect(&rig).await.unwrap();
    assert_eq!(ack.next_seq, Seq::FIRST);
    device.next = Seq::FIRST;
    device.applied(vec![insert(3, "last life")]).await;
    let rows = rig.sql("SELECT id FROM notes ORDER BY id").await;
    assert_eq!(rows, ["1", "2", "3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_forged_seqs_are_gaps_and_their_highest_is_no_end() {
    let rig = Rig::start(NOTES).await;
    let mut device = rig.device(1, &[]).await;
    for seq in [2, 1 << 40, u64::MAX] {
        device.next = Seq(seq - 1);
        let mut mutation = device.mutation(vec![insert(1, "x")]);
        mutation.seq = Seq(seq);
        let verdict = device.push(vec![mutation]).await.remove(0);
        let expected_seq = Seq::FIRST;
        assert_eq!(verdict, Verdict::Gap { expected_seq }, "{seq}");
    }
    device.next = Seq::FIRST;
    device.applied(vec![insert(1, "x")]).await;
    // Said to be settled, by a handshake: what has not been decided is not forgotten for it.
    device.settled = Seq(u64::MAX);
    let ack = device.connect(&rig).await.unwrap();
    assert_eq!(ack.next_seq, Seq(2));
    device.next = Seq(2);
    device.applied(vec![insert(2, "y")]).await;
    assert_eq!(rig.sql("SELECT count(*) FROM notes").await, ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_forged_schema_versions_and_bases_give_nothing_away_and_change_nothing() {
    let rig = Rig::start(NOTES).await;
    let mut device = rig.device(1, &[]).await;
    let bases = [
        Cursor::new(Lsn(u64::MAX), Epoch(0x51)),
        Cursor::new(Lsn(3), Epoch(0xdead_beef)),
        Cursor {
            lsn: Lsn::ZERO,
            epoch: None,
        },
    ];
    let mut id = 0;
    for schema in [0, 1, 1 << 40, u64::MAX] {
        for base in bases {
            id += 1;
            let mut good = device.mutation(vec![insert(id, "x")]);
            let mut bad = device.mutation(vec![op("nothing", 1, Verb::Delete)]);
            for mutation in [&mut good, &mut bad] {
                mutation.schema_version = CatalogVersion(schema);
                mutation.base = base;
            }
            let verdicts = device.push(vec![good, bad]).await;
            assert!(is_applied(&verdicts[0]), "{schema} {base}: {verdicts:?}");
            let Verdict::Rejected(rejection) = &verdicts[1] else {
                panic!("{schema} {base}: {verdicts:?}")
            };
            assert_eq!(rejection.violation.to_string(), "schema_stale");
        }
    }
    let count = rig.sql("SELECT count(*) FROM notes").await;
    assert_eq!(count, [id.to_string()]);
    // A handshake that says the same is told the definitions that there are.
    device.catalog.0 = CatalogVersion(u64::MAX);
    device.connect(&rig).await.unwrap();
    device
        .until(|device| device.catalog.0 != CatalogVersion(u64::MAX))
        .await;
    assert_eq!(device.catalog_hash(), device.catalog.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_clocks_that_are_years_off_decide_nothing_for_longer_than_the_drift() {
    let rig = Rig::start(NOTES).await;
    rig.sql("ALTER TABLE notes SET (conflict = 'hlc')").await;
    rig.sql("INSERT INTO notes VALUES (1, 'there')").await;
    let (mut wrong, mut right) = (rig.device(1, &[]).await, rig.device(2, &[]).await);
    let said = async |device: &mut Device, hlc: Hlc, body: &str| {
        let mut mutation = device.mutation(vec![set(1, body)]);
        mutation.hlc = Some(hlc);
        assert!(is_applied(&device.push(vec![mutation]).await[0]));
        rig.sql("SELECT body FROM notes").await.remove(0)
    };
    let now_ms = 1_700_000_000_000;
    let year_ms = 31_536_000_000;
    // Behind: what is there was written later.
    for hlc in [Hlc(0), Hlc::at_ms(now_ms - year_ms)] {
        assert_eq!(said(&mut wrong, hlc, "behind").await, "there");
    }
    // Ahead: for as long as clocks may be apart.
    for (later_ms, hlc) in [
        (61_000, Hlc::at_ms(now_ms + year_ms)),
        (122_000, Hlc(u64::MAX)),
    ] {
        assert_eq!(said(&mut wrong, hlc, "ahead").await, "ahead");
        rig.node.clock.advance(61_000);
        let present = Hlc::at_ms(now_ms + later_ms);
        assert_eq!(said(&mut right, present, "present").await, "present");
    }
}

/// A counter that two copies of a device count up, each once: the same operation under the same name.
#[tokio::test(flavor = "multi_thread")]
async fn g9_a_copy_that_writes_the_same_is_told_by_its_clock() {
    let rig = Rig::start("CREATE TABLE counters (id integer PRIMARY KEY, n integer)").await;
    rig.sql("INSERT INTO counters VALUES (1, 0)").await;
    let mut original = rig.device(1, &[]).await;
    let count = || op("counters", 1, Verb::Inc(columns([("n", 1.into())])));
    let mut first = original.mutation(vec![count()]);
    first.hlc = Some(Hlc::at_ms(1_700_000_000_000));
    assert!(is_applied(&original.push(vec![first.clone()]).await[0]));
    let mut copied = first.clone();
    copied.hlc = Some(Hlc(Hlc::at_ms(1_700_000_000_000).0 + 1));
    assert_eq!(original.push(vec![copied]).await, [Verdict::Fenced]);
    let again = original.push(vec![first]).await;
    assert!(matches!(again[..], [Verdict::Duplicate { .. }]));
    assert_eq!(rig.sql("SELECT n FROM counters").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_dependencies_on_what_is_not_there_hold_nobody_up() {
    let rig = Rig::start(NOTES).await;
    let mut device = rig.device(1, &[]).await;
    let mut other = rig.device(2, &[]).await;
    other.write(vec![op("nothing", 1, Verb::Delete)]).await;
    let mut mutation = device.mutation(vec![insert(1, "x")]);
    // Itself, what comes later, what never was, what nobody is.
    mutation.after = vec![device.id_of(1), device.id_of(2), device.id_of(u64::MAX)];
    let mut stranger = device.id_of(1);
    stranger.producer = springhead_proto::sync::ProducerId(77);
    mutation.after.push(stranger);
    assert!(is_applied(&device.push(vec![mutation]).await[0]));
    assert_eq!(rig.sql("SELECT count(*) FROM notes").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_a_token_that_ends_in_the_middle_of_a_push_leaves_nothing_undecided_and_nothing_twice() {
    let rig = Rig::start(
        "CREATE TABLE notes (id integer PRIMARY KEY, body text); CREATE ROLE ann LOGIN; \
         GRANT ALL ON notes TO ann",
    )
    .await;
    let mut ann = Device::new(1, "ann", &[shape(1, "notes", None)]);
    let ends_us = 1_700_000_000_000_000 + 100_000;
    let brief = Principal {
        expires_at_us: Some(ends_us),
        ..Principal::of("ann", Credential::Password)
    };
    let opened = SyncSession::open(
        &rig.sync,
        ann.hello(),
        Some(Arc::new(brief)),
        None,
        Peer::default(),
        &Names,
    );
    ann.session = Some(opened.await.unwrap().0);
    let all: Vec<_> = (1..=60)
        .map(|id| ann.mutation(vec![insert(id, "x")]))
        .collect();
    let push = Push {
        producer: ann.producer,
        generation: ann.generation,
        mutations: all.clone(),
    };
    ann.say(DeviceToServer::Push(push)).await.unwrap();
    rig.node.clock.advance(200);
    let closing = ann.closing().await;
    assert_eq!(closing.code, SyncErrorCode::TokenExpired);
    // With a new token, everything that has no verdict yet is pushed again.
    ann.connect(&rig).await.unwrap();
    let verdicts = ann.push(all).await;
    let is_decided =
        |verdict: &Verdict| is_applied(verdict) || matches!(verdict, Verdict::Duplicate { .. });
    assert!(verdicts.iter().all(is_decided), "{verdicts:?}");
    assert_eq!(rig.sql("SELECT count(*) FROM notes").await, ["60"]);
}
