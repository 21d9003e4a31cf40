//! The golden frames in `tests/golden/sync`: one file of bytes for each, and beside it the same as
//! JSON. Clients of other languages are tested with the same files. They never change; a new version
//! of the protocol gets new ones. `GOLDEN=write cargo test -p springhead-proto --test sync golden`
//! writes those that are missing, and only those.

use std::path::PathBuf;

use serde::Serialize;
use springhead_proto::sync::frame::MAX_FRAME_BYTES;
use springhead_proto::sync::*;
use springhead_proto::{Cursor, Epoch, Lsn};

const PRODUCER: ProducerId = ProducerId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
const DEVICE: DeviceId = DeviceId(0xffee_ddcc_bbaa_9988_7766_5544_3322_1100);

fn cursor(lsn: u64) -> Cursor {
    Cursor::new(Lsn(lsn), Epoch(0x9c1e_04d7))
}

fn id(seq: u64) -> MutationId {
    MutationId {
        producer: PRODUCER,
        generation: Generation::FIRST,
        seq: Seq(seq),
    }
}

fn columns(columns: &[(&str, SyncValue)]) -> ColumnValues {
    ColumnValues(
        columns
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
    )
}

fn operation(verb: Verb) -> Operation {
    Operation {
        collection: "todos".to_owned(),
        id: vec![SyncValue::from(7)],
        verb,
    }
}

fn shape() -> Subscription {
    Subscription {
        shape: Shape {
            id: ShapeId(1),
            collection: "todos".to_owned(),
            condition: Some("owner = $1".to_owned()),
            params: vec!["ann".into()],
            columns: vec!["title".to_owned(), "done".to_owned()],
        },
        complete: false,
        resume: Some("k:7".to_owned()),
    }
}

fn push() -> Push {
    let mutation = |seq, operations| Mutation {
        producer: PRODUCER,
        generation: Generation::FIRST,
        seq: Seq(seq),
        base: cursor(42),
        schema_version: CatalogVersion(7),
        after: vec![],
        hlc: None,
        operations,
    };
    let all_kinds = columns(&[
        ("title", "milk".into()),
        ("done", false.into()),
        ("votes", 1.into()),
        ("weight", SyncValue::Real(1.5)),
        ("picture", SyncValue::Blob(vec![0, 255])),
        ("due", SyncValue::Null),
    ]);
    let sets = |element: &str| vec![("tags".to_owned(), vec![element.into()])];
    let mut second = mutation(
        6,
        vec![
            operation(Verb::Set(columns(&[("title", "oat milk".into())]))),
            operation(Verb::Inc(columns(&[("votes", 2.into())]))),
            operation(Verb::Min(columns(&[("low", (-3).into())]))),
            operation(Verb::Max(columns(&[("high", SyncValue::Integer(1 << 60))]))),
            operation(Verb::SetAdd(sets("food"))),
            operation(Verb::SetRemove(sets("drink"))),
            operation(Verb::Crdt(vec![("body".to_owned(), vec![1, 2, 3])])),
            operation(Verb::Delete),
        ],
    );
    second.base = cursor(43);
    second.schema_version = CatalogVersion(8);
    second.after = vec![
        id(5),
        MutationId {
            producer: ProducerId(1),
            generation: Generation(2),
            seq: Seq(3),
        },
    ];
    second.hlc = Some(Hlc::at_ms(1_718_000_000_000));
    // Less than the one before it: clocks of two producers, say, that became one.
    let mut third = mutation(7, vec![operation(Verb::Delete)]);
    third.hlc = Some(Hlc::at_ms(1_717_999_999_998));
    let mut fourth = mutation(9, vec![operation(Verb::Delete)]);
    fourth.hlc = Some(Hlc(Hlc::at_ms(1_718_000_000_001).0 + 3));
    Push {
        producer: PRODUCER,
        generation: Generation::FIRST,
        mutations: vec![
            mutation(5, vec![operation(Verb::Insert(all_kinds))]),
            second,
            third,
            fourth,
        ],
    }
}

fn reject(violation: Violation, hint: Hint) -> ServerToDevice {
    ServerToDevice::Reject(Reject {
        producer: PRODUCER,
        generation: Generation::FIRST,
        seq: Seq(6),
        rejection: Rejection {
            dead_letter_id: 12,
            violation,
            hint,
            chain: Some(11),
        },
    })
}

fn from_device() -> Vec<(&'static str, DeviceToServer)> {
    let channel = "doc:7".to_owned();
    vec![
        (
            "handshake",
            DeviceToServer::Handshake(Handshake {
                protocol: 1,
                token: Some("token".to_owned()),
                tenant: None,
                device: DEVICE,
                producer: PRODUCER,
                generation: Generation::FIRST,
                cursor: Some(cursor(42)),
                catalog_version: CatalogVersion(7),
                catalog_hash: CatalogHash(0x0123_4567_89ab_cdef),
                settled: Seq(4),
                shapes: vec![shape()],
                client: "golden/1".to_owned(),
            }),
        ),
        ("push", DeviceToServer::Push(push())),
        (
            "acknowledge",
            DeviceToServer::Acknowledge(Acknowledge {
                cursor: Some(cursor(44)),
                settled: vec![id(6)],
            }),
        ),
        ("subscribe", DeviceToServer::Subscribe(shape())),
        (
            "unsubscribe",
            DeviceToServer::Unsubscribe(Unsubscribe { shape: ShapeId(1) }),
        ),
        (
            "clock_question",
            DeviceToServer::Clock(ClockQuestion {
                device_ms: 1_718_000_000_000,
            }),
        ),
        (
            "resync",
            DeviceToServer::Resync(Resync {
                reason: ResyncReason::ImageDamaged,
                shapes: vec![ShapeId(1)],
                definitions: true,
            }),
        ),
        (
            "token_refresh",
            DeviceToServer::TokenRefresh(TokenRefresh {
                token: "another".to_owned(),
            }),
        ),
        (
            "presence_set",
            DeviceToServer::PresenceSet(PresenceSet {
                channel: channel.clone(),
                state: r#"{"at":3}"#.to_owned(),
            }),
        ),
        (
            "presence_leave",
            DeviceToServer::PresenceLeave(PresenceLeave {
                channel: channel.clone(),
            }),
        ),
        (
            "presence_question",
            DeviceToServer::PresenceRoster(PresenceQuestion { channel }),
        ),
        (
            "ping",
            DeviceToServer::Ping(Ping {
                nonce: 300,
                reply: false,
            }),
        ),
    ]
}

fn handshakes() -> Vec<(&'static str, ServerToDevice)> {
    vec![
        (
            "handshake_accepted",
            ServerToDevice::HandshakeAck(HandshakeAnswer::Accepted(HandshakeAck {
                protocol: 1,
                session: "s1".to_owned(),
                user: "ann".to_owned(),
                cursor: cursor(50),
                server_ms: 1_718_000_000_500,
                next_seq: Seq(5),
                catalog_version: CatalogVersion(8),
                catalog_hash: CatalogHash(0xfedc_ba98_7654_3210),
                limits: Limits::default(),
                token_expires_ms: Some(1_718_000_060_000),
            })),
        ),
        (
            "handshake_refused",
            ServerToDevice::HandshakeAck(HandshakeAnswer::Refused(Refused {
                code: SyncErrorCode::TooManySessions,
                message: "no more sessions".to_owned(),
                hint: Some("try again later".to_owned()),
                protocols: [1, 1],
                after_ms: Some(5000),
            })),
        ),
        (
            "error",
            ServerToDevice::Error(ErrorFrame {
                code: SyncErrorCode::DamagedFrame,
                message: "the checksum is wrong".to_owned(),
                hint: None,
                closing: true,
            }),
        ),
    ]
}

fn verdicts() -> Vec<(&'static str, ServerToDevice)> {
    let fix = Fix::SetColumn {
        operation: 0,
        column: "title".to_owned(),
        value: "milk (2)".into(),
    };
    let unique = Hint {
        kind: HintKind::Unique {
            column: "title".to_owned(),
            value: "milk (2)".into(),
        },
        fixes: vec![fix],
    };
    let row = columns(&[("id", "ann".into())]);
    let parent = Hint {
        kind: HintKind::ForeignKey {
            column: "owner".to_owned(),
            collection: "users".to_owned(),
            columns: row.clone(),
        },
        fixes: vec![Fix::CreateRow {
            collection: "users".to_owned(),
            columns: row,
        }],
    };
    vec![
        (
            "ack",
            ServerToDevice::Ack(Ack {
                producer: PRODUCER,
                generation: Generation::FIRST,
                verdicts: vec![
                    (Seq(5), Verdict::Applied { lsn: Lsn(51) }),
                    (Seq(4), Verdict::Duplicate { lsn: Lsn(40) }),
                    (
                        Seq(6),
                        Verdict::Retry {
                            after_ms: 250,
                            reason: RetryReason::RateLimit,
                        },
                    ),
                    (
                        Seq(9),
                        Verdict::Gap {
                            expected_seq: Seq(7),
                        },
                    ),
                    (Seq(3), Verdict::Fenced),
                ],
            }),
        ),
        (
            "reject_unique",
            reject(
                Violation::Unique {
                    column: "title".to_owned(),
                    value: "milk".to_owned(),
                },
                unique,
            ),
        ),
        (
            "reject_foreign_key",
            reject(
                Violation::ForeignKey {
                    column: "owner".to_owned(),
                },
                parent,
            ),
        ),
        ("reject_policy", reject(Violation::Policy, Hint::default())),
    ]
}

/// A text that says `milk`, and `oat ` before it: blocks of a CRDT column's state
/// (`crates/crdt/tests/golden/cells.json`).
const SEED: &[u8] =
    b"\x18\0\0\0\x01\x01\xd9\xfd\xea\xf6\xf2\x89\xff\x07\0\x04\x01\x04text\x04milk\0";
const EDIT: &[u8] = b"\x14\0\0\0\x01\x01\x07\0D\xd9\xfd\xea\xf6\xf2\x89\xff\x07\0\x04oat \0";

fn rows() -> Vec<(&'static str, ServerToDevice)> {
    let change = |verb| DeltaChange {
        shapes: vec![ShapeId(1), ShapeId(2)],
        id: match verb {
            DeltaVerb::Clear => vec![],
            _ => vec![7.into()],
        },
        verb,
    };
    let names = ["id", "title", "done"].map(str::to_owned).to_vec();
    vec![
        (
            "snapshot_first",
            ServerToDevice::Snapshot(SnapshotChunk {
                shape: ShapeId(1),
                first: true,
                columns: names.clone(),
                key: 1,
                rows: vec![vec![7.into(), "milk".into(), false.into()]],
                resume: Some("k:7".to_owned()),
                done: None,
            }),
        ),
        (
            "snapshot_last",
            ServerToDevice::Snapshot(SnapshotChunk {
                shape: ShapeId(1),
                first: false,
                columns: names,
                key: 1,
                rows: vec![],
                resume: None,
                done: Some(SnapshotDone {
                    cursor: cursor(50),
                    decided: vec![id(5)],
                }),
            }),
        ),
        (
            "delta",
            ServerToDevice::Delta(Delta {
                cursor: cursor(52),
                timestamp_ms: Some(1_718_000_000_600),
                own: Some(id(6)),
                changes: vec![
                    change(DeltaVerb::Put(columns(&[("title", "milk".into())]))),
                    change(DeltaVerb::Set(columns(&[("done", true.into())]))),
                    change(DeltaVerb::Delete),
                    change(DeltaVerb::Leave),
                    change(DeltaVerb::Clear),
                ],
                more: true,
            }),
        ),
        (
            "delta_crdt",
            ServerToDevice::Delta(Delta {
                cursor: cursor(53),
                timestamp_ms: None,
                own: None,
                changes: vec![
                    change(DeltaVerb::Put(columns(&[
                        ("body", "milk".into()),
                        ("body$crdt", SyncValue::Blob([&[0][..], SEED].concat())),
                    ]))),
                    change(DeltaVerb::Set(columns(&[
                        ("body", "oat milk".into()),
                        ("body$crdt", SyncValue::Blob([&[1][..], EDIT].concat())),
                    ]))),
                ],
                more: false,
            }),
        ),
        (
            "progress",
            ServerToDevice::Delta(Delta {
                cursor: cursor(60),
                timestamp_ms: None,
                own: None,
                changes: vec![],
                more: false,
            }),
        ),
        (
            "shape_ended",
            ServerToDevice::ShapeEnded(ShapeEnded {
                shape: ShapeId(1),
                code: SyncErrorCode::Forbidden,
                message: "no longer allowed".to_owned(),
            }),
        ),
        (
            "definition",
            ServerToDevice::Definition(Definition {
                cursor: cursor(49),
                catalog_version: CatalogVersion(8),
                kind: "table".to_owned(),
                name: "todos".to_owned(),
                action: DefinitionAction::Put,
                sql: "CREATE TABLE todos (id int PRIMARY KEY)".to_owned(),
                payload: r#"{"definition":{}}"#.to_owned(),
                hash: CatalogHash(1),
                set: Some([0, 2]),
            }),
        ),
    ]
}

fn signals() -> Vec<(&'static str, ServerToDevice)> {
    let member = PresenceMember {
        channel: "doc:7".to_owned(),
        device: DEVICE,
        user: "ann".to_owned(),
        state: "{}".to_owned(),
    };
    vec![
        (
            "clock_answer",
            ServerToDevice::Clock(ClockAnswer {
                device_ms: 1_718_000_000_000,
                server_ms: 1_718_000_000_020,
            }),
        ),
        (
            "resync_order",
            ServerToDevice::Resync(ResyncOrder {
                reason: ResyncReason::CursorExpired,
                shapes: vec![],
                message: "LSN 42 is older than the log".to_owned(),
            }),
        ),
        (
            "throttle",
            ServerToDevice::Throttle(Throttle {
                after_ms: 1000,
                reason: RetryReason::Overload,
                max_in_flight: Some(10),
            }),
        ),
        (
            "token_wanted",
            ServerToDevice::TokenWanted(TokenWanted {
                expires_ms: 1_718_000_060_000,
            }),
        ),
        (
            "token_ack",
            ServerToDevice::TokenAck(TokenAnswer {
                accepted: false,
                expires_ms: None,
                code: Some(SyncErrorCode::TokenExpired),
                message: Some("expired".to_owned()),
            }),
        ),
        (
            "presence_member",
            ServerToDevice::PresenceSet(member.clone()),
        ),
        (
            "presence_left",
            ServerToDevice::PresenceLeave(PresenceLeft {
                channel: "doc:7".to_owned(),
                device: DEVICE,
            }),
        ),
        (
            "presence_roster",
            ServerToDevice::PresenceRoster(PresenceRoster {
                channel: "doc:7".to_owned(),
                members: vec![member],
            }),
        ),
        (
            "pong",
            ServerToDevice::Ping(Ping {
                nonce: 300,
                reply: true,
            }),
        ),
    ]
}

#[derive(Serialize)]
struct Twin<'a, B> {
    /// Who sends it.
    from: &'a str,
    #[serde(rename = "type")]
    code: u8,
    body: &'a B,
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/sync")
        .join(name)
}

fn check(name: &str, bytes: &[u8], twin: &str) {
    let (bin, json) = (file(&format!("{name}.bin")), file(&format!("{name}.json")));
    if std::env::var("GOLDEN").is_ok_and(|value| value == "write") && !bin.exists() {
        std::fs::create_dir_all(file("")).expect("the directory can be made");
        std::fs::write(&bin, bytes).expect("the frame can be written");
        std::fs::write(&json, twin).expect("its twin can be written");
    }
    let held = std::fs::read(&bin).unwrap_or_else(|error| panic!("{}: {error}", bin.display()));
    assert_eq!(held, bytes, "{name}");
    let held = std::fs::read_to_string(&json).expect("every frame has its twin");
    assert_eq!(held, twin, "{name}");
}

macro_rules! twin_of {
    ($message:expr, $from:literal, $enum:ident: $($variant:ident)*) => {
        match $message {
            $($enum::$variant(body) => {
                let twin = Twin { from: $from, code: $message.kind() as u8, body };
                serde_json::to_string_pretty(&twin).expect("a body has a JSON form") + "\n"
            })*
        }
    };
}

#[test]
fn golden_frames_of_devices() {
    for (name, message) in from_device() {
        let twin = twin_of!(&message, "device", DeviceToServer:
            Handshake Push Acknowledge Subscribe Unsubscribe Clock Resync TokenRefresh PresenceSet
            PresenceLeave PresenceRoster Ping);
        check(name, &message.to_bytes(), &twin);
        let read = DeviceToServer::from_bytes(&message.to_bytes(), MAX_FRAME_BYTES);
        assert_eq!(read, Ok(message));
    }
}

#[test]
fn golden_frames_of_servers() {
    let all = [handshakes(), verdicts(), rows(), signals()].concat();
    for (name, message) in all {
        let twin = twin_of!(&message, "server", ServerToDevice:
            HandshakeAck Error Ack Reject Snapshot Delta ShapeEnded Clock Resync Throttle
            TokenWanted TokenAck Definition PresenceSet PresenceLeave PresenceRoster Ping);
        check(name, &message.to_bytes(), &twin);
        let read = ServerToDevice::from_bytes(&message.to_bytes(), MAX_FRAME_BYTES);
        assert_eq!(read, Ok(message));
    }
}

#[test]
fn every_kind_of_frame_has_a_golden_one() {
    let server = [handshakes(), verdicts(), rows(), signals()].concat();
    let mut seen: Vec<FrameKind> = from_device().iter().map(|(_, it)| it.kind()).collect();
    seen.extend(server.iter().map(|(_, it)| it.kind()));
    for kind in FrameKind::ALL {
        assert!(seen.contains(kind), "{kind:?}");
    }
}
