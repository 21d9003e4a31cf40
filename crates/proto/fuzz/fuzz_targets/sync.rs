//! Any bytes are read as a sync frame or refused; what is read is said and read again as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use springhead_proto::sync::{DeviceToServer, Frame, FrameKind, ServerToDevice};

const LIMIT: usize = 1 << 20;

fn check(bytes: &[u8]) {
    if let Ok(message) = DeviceToServer::from_bytes(bytes, LIMIT) {
        let again = DeviceToServer::from_bytes(&message.to_bytes(), 4 * LIMIT);
        // NaN is not equal to itself.
        assert_eq!(format!("{again:?}"), format!("{:?}", Ok::<_, ()>(message)));
    }
    if let Ok(message) = ServerToDevice::from_bytes(bytes, LIMIT) {
        let again = ServerToDevice::from_bytes(&message.to_bytes(), 4 * LIMIT);
        assert_eq!(format!("{again:?}"), format!("{:?}", Ok::<_, ()>(message)));
    }
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // Past the checksum, which no fuzzer guesses.
    if let Some((kind, body)) = bytes.split_first() {
        let kind = FrameKind::ALL[usize::from(*kind) % FrameKind::ALL.len()];
        let mut framed = Vec::new();
        Frame { kind, body }.write_to(&mut framed);
        check(&framed);
    }
});
