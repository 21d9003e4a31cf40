//! The fuzz targets of the codec, as the suite runs them.

// What the targets call libFuzzer is this crate: `fuzz_target` is the suite's.
extern crate self as libfuzzer_sys;

#[path = "../fuzz/suite.rs"]
mod suite;

#[path = "../fuzz/fuzz_targets/codec.rs"]
#[allow(unused_attributes, reason = "it is a crate of its own for the fuzzer")]
mod codec;
#[path = "../fuzz/fuzz_targets/sync.rs"]
#[allow(unused_attributes, reason = "it is a crate of its own for the fuzzer")]
mod sync;

use springhead_proto::sync::frame::MAX_FRAME_BYTES;
use springhead_proto::sync::{Frame, FrameKind};
use springhead_proto::{
    ChangeKind, CollectionId, RowBuilder, SchemaVersion, ValueRef, encode_change,
};
use suite::fuzz_target;

fn row(values: &[ValueRef<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut builder = RowBuilder::new(&mut bytes, values.len());
    values.iter().for_each(|value| builder.push(*value));
    bytes
}

#[test]
fn the_codec_target_holds_over_rows_changes_and_cursors() {
    let all = row(&[
        ValueRef::Null,
        ValueRef::Integer(i64::MIN),
        ValueRef::Real(-0.0),
        ValueRef::Text("Ä%_"),
        ValueRef::Blob(&[0, 255]),
    ]);
    let small = row(&[ValueRef::Integer(7)]);
    let mut seeds = vec![
        Vec::new(),
        small.clone(),
        all.clone(),
        b"12@9c1e04d7".to_vec(),
    ];
    let mut changes = Vec::new();
    for (kind, before, after) in [
        (ChangeKind::Insert, None, Some(&all)),
        (ChangeKind::Update, Some(&all), Some(&small)),
        (ChangeKind::Delete, Some(&small), None),
        (ChangeKind::Truncate, None, None),
        (ChangeKind::Message, None, Some(&small)),
    ] {
        let mut change = Vec::new();
        encode_change(
            &mut change,
            kind,
            CollectionId(16_400),
            SchemaVersion(3),
            before.map(Vec::as_slice),
            after.map(Vec::as_slice),
        );
        changes.extend_from_slice(&change);
        seeds.push(change);
    }
    seeds.push(changes);
    suite::over("codec", &seeds, codec::fuzz_one);
}

#[test]
fn the_sync_target_holds_over_the_golden_frames() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/sync");
    let mut seeds = Vec::new();
    for entry in std::fs::read_dir(directory).expect("golden frames") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "bin") {
            seeds.push(std::fs::read(path).expect("a golden frame"));
        }
    }
    seeds.sort();
    // The target makes a frame of any kind and body, past the checksum.
    let framed: Vec<Vec<u8>> = seeds
        .iter()
        .filter_map(|frame| {
            let frame = Frame::parse(frame, MAX_FRAME_BYTES).ok()?;
            let kind = FrameKind::ALL.iter().position(|kind| *kind == frame.kind)?;
            let mut seed = vec![u8::try_from(kind).expect("few kinds")];
            seed.extend_from_slice(frame.body);
            Some(seed)
        })
        .collect();
    assert_eq!(framed.len(), seeds.len(), "each golden frame is read");
    seeds.extend(framed);
    suite::over("sync", &seeds, sync::fuzz_one);
}
