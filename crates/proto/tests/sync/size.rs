//! What a device's writes cost on the wire.

use springhead_proto::sync::{
    CatalogVersion, DeviceToServer, Generation, Hlc, Mutation, Operation, ProducerId, Push, Seq,
    SyncValue, Verb,
};
use springhead_proto::{Cursor, Epoch, Lsn};

#[test]
fn a_one_column_update_is_small() {
    let producer = ProducerId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
    // A clock reading each, seconds apart, as of somebody who works offline.
    let mutation = |seq: u64| Mutation {
        producer,
        generation: Generation::FIRST,
        seq: Seq(seq),
        base: Cursor::new(Lsn(42), Epoch(0x9c1e_04d7)),
        schema_version: CatalogVersion(7),
        after: vec![],
        hlc: Some(Hlc::at_ms(1_718_000_000_000 + 7_000 * seq)),
        operations: vec![Operation {
            collection: "todos".to_owned(),
            id: vec![SyncValue::from(
                1000 + i64::try_from(seq).expect("it is small"),
            )],
            verb: Verb::Set(std::iter::once(("done", true)).collect()),
        }],
    };
    let push = DeviceToServer::Push(Push {
        producer,
        generation: Generation::FIRST,
        mutations: (1..=100).map(mutation).collect(),
    });
    let each = push.to_bytes().len() / 100;
    assert!(each <= 48, "{each} bytes");
}
