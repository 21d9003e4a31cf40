//! Round trips of random messages, and refusal of damaged, cut, oversize and foreign ones.

use proptest::prelude::*;
use springhead_proto::sync::frame::{HEAD_BYTES, MAX_FRAME_BYTES};
use springhead_proto::sync::*;

use crate::random;

proptest! {
    #[test]
    fn g9_what_a_device_says_is_read_as_it_was_said(message in random::from_device()) {
        let bytes = message.to_bytes();
        prop_assert_eq!(DeviceToServer::from_bytes(&bytes, MAX_FRAME_BYTES), Ok(message));
    }

    #[test]
    fn g9_what_a_server_says_is_read_as_it_was_said(message in random::from_server()) {
        let bytes = message.to_bytes();
        prop_assert_eq!(ServerToDevice::from_bytes(&bytes, MAX_FRAME_BYTES), Ok(message));
    }

    #[test]
    fn operations_survive_json(operation in random::operation()) {
        let json = serde_json::to_string(&operation).expect("it has a JSON form");
        prop_assert_eq!(serde_json::from_str::<Operation>(&json).expect(&json), operation);
    }

    #[test]
    fn g12_one_changed_bit_is_found(
        message in random::from_device(),
        place in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let mut bytes = message.to_bytes();
        let at = place.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(DeviceToServer::from_bytes(&bytes, MAX_FRAME_BYTES).is_err());
    }

    #[test]
    fn g12_a_cut_frame_is_found(message in random::from_server(), cut in any::<prop::sample::Index>()) {
        let bytes = message.to_bytes();
        let end = cut.index(bytes.len());
        prop_assert!(ServerToDevice::from_bytes(&bytes[..end], MAX_FRAME_BYTES).is_err());
    }

    #[test]
    fn any_body_is_read_or_refused(kind in any::<prop::sample::Index>(), body in prop::collection::vec(any::<u8>(), 0..200)) {
        let kind = FrameKind::ALL[kind.index(FrameKind::ALL.len())];
        let mut bytes = Vec::new();
        Frame { kind, body: &body }.write_to(&mut bytes);
        let _ = DeviceToServer::from_bytes(&bytes, MAX_FRAME_BYTES);
        let _ = ServerToDevice::from_bytes(&bytes, MAX_FRAME_BYTES);
    }
}

fn frame(kind: FrameKind, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Frame { kind, body }.write_to(&mut bytes);
    bytes
}

fn check(bytes: &[u8], code: SyncErrorCode, words: &str) {
    let error = DeviceToServer::from_bytes(bytes, 1 << 20).expect_err(words);
    assert_eq!(error.code(), code, "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn each_fault_of_a_frame_has_its_code() {
    let ping = DeviceToServer::Ping(Ping {
        nonce: 7,
        reply: false,
    })
    .to_bytes();
    check(&[], SyncErrorCode::DamagedFrame, "0 bytes");
    check(&ping[..5], SyncErrorCode::DamagedFrame, "5 bytes");
    let mut other = ping.clone();
    other[0] = 2;
    check(&other, SyncErrorCode::UnsupportedVersion, "version 2");
    check(
        &frame(FrameKind::Ping, &vec![0; 2 << 20]),
        SyncErrorCode::FrameTooLarge,
        "over the limit",
    );
    // A head that promises more than the limit is refused before anything is allocated for it.
    let mut huge = ping.clone();
    huge[2..6].copy_from_slice(&u32::MAX.to_le_bytes());
    check(&huge, SyncErrorCode::FrameTooLarge, "over the limit");
    let mut unknown = ping.clone();
    unknown[1] = 0x44;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&unknown[..6]), &unknown[HEAD_BYTES..]);
    unknown[6..10].copy_from_slice(&crc.to_le_bytes());
    check(&unknown, SyncErrorCode::UnknownType, "0x44");
    check(
        &frame(FrameKind::Snapshot, &[0x80]),
        SyncErrorCode::ProtocolViolation,
        "does not go this way",
    );
    check(
        &frame(FrameKind::Ping, &[]),
        SyncErrorCode::MalformedBody,
        "malformed body",
    );
    let mut left_over = body::to_bytes(&Ping {
        nonce: 1,
        reply: true,
    });
    left_over.push(0xc0);
    check(
        &frame(FrameKind::Ping, &left_over),
        SyncErrorCode::MalformedBody,
        "left over",
    );
}

#[test]
fn a_body_that_nests_too_deeply_is_refused() {
    let nested = [[0x81, 0xa1, b'x'].repeat(2000), vec![0xc0]].concat();
    check(
        &frame(FrameKind::Handshake, &nested),
        SyncErrorCode::MalformedBody,
        "depth",
    );
}

#[test]
fn an_array_that_promises_more_than_there_is_takes_no_memory() {
    // {"shape": …} of a subscription with `params` of 2^32 - 1 values.
    let mut body = vec![0x81, 0xa6];
    body.extend_from_slice(b"params");
    body.extend_from_slice(&[0xdd, 0xff, 0xff, 0xff, 0xff]);
    check(
        &frame(FrameKind::Subscribe, &body),
        SyncErrorCode::MalformedBody,
        "malformed body",
    );
}

#[test]
fn an_operation_that_is_not_understood_is_not_half_done() {
    for (json, words) in [
        (
            r#"{"in":"t","id":[1],"set":{"a":1},"multiply":{"b":2}}"#,
            "unknown field",
        ),
        (r#"{"in":"t","id":[1]}"#, "exactly one verb"),
        (
            r#"{"in":"t","id":[1],"set":{},"delete":true}"#,
            "exactly one verb",
        ),
        (
            r#"{"in":"t","id":[],"delete":true}"#,
            "names its collection and id",
        ),
        (
            r#"{"in":"","id":[1],"delete":true}"#,
            "names its collection and id",
        ),
        (r#"{"in":"t","id":[1],"set":{"a":1,"a":2}}"#, "given twice"),
        (r#"{"in":"t","id":[1],"crdt":{"a":"text"}}"#, "is bytes"),
        (r#"{"in":"t","id":[[1]],"delete":true}"#, "expected null"),
    ] {
        let error = serde_json::from_str::<Operation>(json).expect_err(json);
        assert!(error.to_string().contains(words), "{json}: {error}");
    }
}

#[test]
fn the_catalog_hash_is_of_the_set_not_of_the_order() {
    let (a, b) = (("table", "todos", "{}"), ("trigger", "t", "{\"x\":1}"));
    let empty = CatalogHash::default();
    let both = empty.with(a.0, a.1, a.2).with(b.0, b.1, b.2);
    assert_eq!(both, empty.with(b.0, b.1, b.2).with(a.0, a.1, a.2));
    assert_eq!(both.without(a.0, a.1, a.2), empty.with(b.0, b.1, b.2));
    // Where one part ends and the next begins counts.
    assert_ne!(empty.with("ab", "c", ""), empty.with("a", "bc", ""));
    assert_eq!(both.to_string().parse(), Ok(both));
}
