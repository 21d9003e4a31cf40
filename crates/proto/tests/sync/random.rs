//! Any message, as a property test makes one.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use springhead_proto::sync::*;
use springhead_proto::{Cursor, Epoch, Lsn};

fn text() -> impl Strategy<Value = String> {
    "[a-z_äé中\\x00]{0,12}"
}

fn name() -> impl Strategy<Value = String> {
    "[a-z_]{1,8}"
}

fn value() -> impl Strategy<Value = SyncValue> {
    prop_oneof![
        Just(SyncValue::Null),
        any::<bool>().prop_map(SyncValue::Bool),
        any::<i64>().prop_map(SyncValue::Integer),
        any::<f64>()
            .prop_filter("NaN is equal to nothing", |real| !real.is_nan())
            .prop_map(SyncValue::Real),
        text().prop_map(SyncValue::Text),
        vec(any::<u8>(), 0..20).prop_map(SyncValue::Blob),
    ]
}

fn columns() -> impl Strategy<Value = ColumnValues> {
    proptest::collection::btree_map(name(), value(), 0..4)
        .prop_map(|columns| ColumnValues(columns.into_iter().collect()))
}

fn sets() -> impl Strategy<Value = Vec<(String, Vec<SyncValue>)>> {
    proptest::collection::btree_map(name(), vec(value(), 0..3), 1..3)
        .prop_map(|columns| columns.into_iter().collect())
}

fn cursor() -> impl Strategy<Value = Cursor> {
    (any::<u64>(), option::of(any::<u32>())).prop_map(|(lsn, epoch)| Cursor {
        lsn: Lsn(lsn),
        epoch: epoch.map(Epoch),
    })
}

pub(crate) fn operation() -> impl Strategy<Value = Operation> {
    let updates = proptest::collection::btree_map(name(), vec(any::<u8>(), 0..8), 1..3);
    let verb = prop_oneof![
        columns().prop_map(Verb::Insert),
        columns().prop_map(Verb::Set),
        Just(Verb::Delete),
        columns().prop_map(Verb::Inc),
        columns().prop_map(Verb::Min),
        columns().prop_map(Verb::Max),
        sets().prop_map(Verb::SetAdd),
        sets().prop_map(Verb::SetRemove),
        updates.prop_map(|updates| Verb::Crdt(updates.into_iter().collect())),
    ];
    (name(), vec(value(), 1..3), verb).prop_map(|(collection, id, verb)| Operation {
        collection,
        id,
        verb,
    })
}

fn mutation_id() -> impl Strategy<Value = MutationId> {
    (any::<u128>(), any::<u32>(), any::<u64>()).prop_map(|(producer, generation, seq)| MutationId {
        producer: ProducerId(producer),
        generation: Generation(generation),
        seq: Seq(seq),
    })
}

fn push() -> impl Strategy<Value = Push> {
    let mutation = (
        cursor(),
        0..3u64,
        vec(mutation_id(), 0..2),
        option::of(any::<u64>().prop_map(Hlc)),
        vec(operation(), 1..4),
    );
    (any::<u128>(), 1..9u32, 1..1000u64, vec(mutation, 0..4)).prop_map(
        |(producer, generation, first, mutations)| {
            let (producer, generation) = (ProducerId(producer), Generation(generation));
            let numbered = mutations.into_iter().zip(first..);
            Push {
                producer,
                generation,
                mutations: numbered
                    .map(|((base, schema, after, hlc, operations), seq)| Mutation {
                        producer,
                        generation,
                        seq: Seq(seq),
                        base,
                        schema_version: CatalogVersion(schema),
                        after,
                        hlc,
                        operations,
                    })
                    .collect(),
            }
        },
    )
}

fn subscription() -> impl Strategy<Value = Subscription> {
    (
        any::<u32>(),
        name(),
        option::of(text()),
        vec(value(), 0..3),
        vec(name(), 0..3),
        any::<bool>(),
        option::of(text()),
    )
        .prop_map(
            |(id, collection, condition, params, columns, complete, resume)| Subscription {
                shape: Shape {
                    id: ShapeId(id),
                    collection,
                    condition,
                    params,
                    columns,
                },
                complete,
                resume,
            },
        )
}

pub(crate) fn from_device() -> impl Strategy<Value = DeviceToServer> {
    let handshake = (
        option::of(text()),
        any::<u128>(),
        option::of(cursor()),
        any::<u64>(),
        vec(subscription(), 0..3),
    )
        .prop_map(|(token, id, cursor, number, shapes)| Handshake {
            protocol: 1,
            token,
            tenant: None,
            device: DeviceId(id),
            producer: ProducerId(!id),
            generation: Generation::FIRST,
            cursor,
            catalog_version: CatalogVersion(number),
            catalog_hash: CatalogHash(number),
            settled: Seq(number),
            shapes,
            client: "test 1".to_owned(),
        });
    prop_oneof![
        handshake.prop_map(DeviceToServer::Handshake),
        push().prop_map(DeviceToServer::Push),
        (option::of(cursor()), vec(mutation_id(), 0..3)).prop_map(|(cursor, settled)| {
            DeviceToServer::Acknowledge(Acknowledge { cursor, settled })
        }),
        subscription().prop_map(DeviceToServer::Subscribe),
        (any::<u64>(), any::<bool>())
            .prop_map(|(nonce, reply)| DeviceToServer::Ping(Ping { nonce, reply })),
        (text(), text()).prop_map(|(channel, state)| DeviceToServer::PresenceSet(PresenceSet {
            channel,
            state
        })),
    ]
}

fn hint() -> impl Strategy<Value = Hint> {
    let fix = prop_oneof![
        (any::<u32>(), name(), value()).prop_map(|(operation, column, value)| Fix::SetColumn {
            operation,
            column,
            value
        }),
        (name(), columns()).prop_map(|(collection, columns)| Fix::CreateRow {
            collection,
            columns
        }),
        Just(Fix::ResyncDefinitions),
    ];
    let kind = prop_oneof![
        Just(HintKind::None),
        (name(), value()).prop_map(|(column, value)| HintKind::Unique { column, value }),
        (name(), name(), columns()).prop_map(|(column, collection, columns)| {
            HintKind::ForeignKey {
                column,
                collection,
                columns,
            }
        }),
        (
            name(),
            option::of(value().prop_filter("NULL is no default", |value| !value.is_null()))
        )
            .prop_map(|(column, default)| HintKind::NotNull { column, default }),
    ];
    (kind, vec(fix, 0..3)).prop_map(|(kind, fixes)| Hint { kind, fixes })
}

fn rejection() -> impl Strategy<Value = Rejection> {
    let violation = prop_oneof![
        Just(Violation::Policy),
        (name(), text()).prop_map(|(column, value)| Violation::Unique { column, value }),
        name().prop_map(|detail| Violation::Constraint { detail }),
    ];
    (any::<u64>(), violation, hint(), option::of(any::<u64>())).prop_map(
        |(dead_letter_id, violation, hint, chain)| Rejection {
            dead_letter_id,
            violation,
            hint,
            chain,
        },
    )
}

pub(crate) fn from_server() -> impl Strategy<Value = ServerToDevice> {
    let verdict = prop_oneof![
        any::<u64>().prop_map(|lsn| Verdict::Applied { lsn: Lsn(lsn) }),
        any::<u64>().prop_map(|lsn| Verdict::Duplicate { lsn: Lsn(lsn) }),
        any::<u64>().prop_map(|after_ms| Verdict::Retry {
            after_ms,
            reason: RetryReason::Overload
        }),
        any::<u64>().prop_map(|seq| Verdict::Gap {
            expected_seq: Seq(seq)
        }),
        Just(Verdict::Fenced),
    ];
    let ack = (
        any::<u128>(),
        vec((any::<u64>().prop_map(Seq), verdict), 0..4),
    )
        .prop_map(|(producer, verdicts)| Ack {
            producer: ProducerId(producer),
            generation: Generation(2),
            verdicts,
        });
    let reject = (mutation_id(), rejection()).prop_map(|(id, rejection)| Reject {
        producer: id.producer,
        generation: id.generation,
        seq: id.seq,
        rejection,
    });
    let change = (
        vec(any::<u32>().prop_map(ShapeId), 1..3),
        vec(value(), 1..3),
        prop_oneof![
            columns().prop_map(DeltaVerb::Put),
            columns().prop_map(DeltaVerb::Set),
            Just(DeltaVerb::Delete),
            Just(DeltaVerb::Leave),
            Just(DeltaVerb::Clear),
        ],
    )
        .prop_map(|(shapes, id, verb)| DeltaChange {
            shapes,
            id: if verb == DeltaVerb::Clear { vec![] } else { id },
            verb,
        });
    let delta = (
        cursor(),
        option::of(any::<u64>()),
        option::of(mutation_id()),
        vec(change, 0..4),
        any::<bool>(),
    )
        .prop_map(|(cursor, timestamp_ms, own, changes, more)| Delta {
            cursor,
            timestamp_ms,
            own,
            changes,
            more,
        });
    let chunk = (
        any::<u32>(),
        any::<bool>(),
        vec(name(), 1..3),
        vec(vec(value(), 1..3), 0..4),
        option::of(text()),
        option::of((cursor(), vec(mutation_id(), 0..2))),
    )
        .prop_map(
            |(shape, first, columns, rows, resume, done)| SnapshotChunk {
                shape: ShapeId(shape),
                first,
                columns,
                key: 1,
                rows,
                resume,
                done: done.map(|(cursor, decided)| SnapshotDone { cursor, decided }),
            },
        );
    prop_oneof![
        ack.prop_map(ServerToDevice::Ack),
        reject.prop_map(ServerToDevice::Reject),
        delta.prop_map(ServerToDevice::Delta),
        chunk.prop_map(ServerToDevice::Snapshot),
        (any::<u64>(), any::<bool>())
            .prop_map(|(nonce, reply)| ServerToDevice::Ping(Ping { nonce, reply })),
    ]
}
