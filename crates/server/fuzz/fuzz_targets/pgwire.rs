//! Any bytes are PostgreSQL's protocol, or refused: as the start of a connection, and as messages,
//! also under a limit that is soon met.
//!
//! The decoders are taken as files, with the two types of the other direction that they name: the whole
//! server would take minutes to build and show nothing else.

#![no_main]
#![allow(dead_code, unused_imports)]

use libfuzzer_sys::fuzz_target;

mod backend {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Format {
        Text,
        Binary,
    }

    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub enum Formats {
        #[default]
        AllText,
        AllBinary,
        Each(Vec<Format>),
    }
}

#[path = "../../src/pgwire/frontend.rs"]
mod frontend;
#[path = "../../src/pgwire/startup.rs"]
mod startup;

use backend::Formats;
use frontend::{Frame, FrontendMessage, Mistake};
use startup::Startup;

/// Any bytes are a startup packet, the beginning of one, or refused.
fn start(bytes: &[u8]) {
    match startup::read_packet(bytes) {
        Ok(None) => assert!(
            bytes.len() < 10_000,
            "waits for more than a packet may have"
        ),
        Ok(Some((startup, length))) => {
            assert!((8..=bytes.len()).contains(&length));
            // What follows the packet changes nothing of it.
            let alone = startup::read_packet(&bytes[..length]).expect("read before");
            assert_eq!(alone.as_ref(), Some(&(startup, length)));
            if let Some((Startup::Session(parameters), _)) = alone {
                assert!(!parameters.user.is_empty());
            }
        }
        Err(error) => assert!(!error.message.is_empty()),
    }
}

/// Any bytes are messages, the beginning of one, or refused. Nothing is waited for that is over the
/// limit, and what is decoded lies within its frame.
fn messages(bytes: &[u8], max_bytes: usize) {
    let mut rest = bytes;
    loop {
        let frame = match Frame::find(rest, max_bytes) {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                assert!(rest.len() <= max_bytes, "waits for more than the limit");
                return;
            }
            Err(Mistake::Fatal(error) | Mistake::Error(error)) => {
                assert!(!error.message.is_empty());
                return;
            }
        };
        assert!((5..=rest.len()).contains(&frame.length) && frame.length <= max_bytes + 1);
        match frame.decode(rest) {
            Ok(message) => decoded(&message, frame.length),
            Err(Mistake::Error(_)) => {}
            Err(Mistake::Fatal(_)) => return,
        }
        rest = &rest[frame.length..];
    }
}

fn decoded(message: &FrontendMessage<'_>, length: usize) {
    match message {
        FrontendMessage::Parse {
            name,
            sql,
            type_oids,
        } => assert!(name.len() + sql.len() + 4 * type_oids.len() < length),
        FrontendMessage::Bind(bind) => {
            let values: usize = bind
                .parameters
                .iter()
                .flatten()
                .map(|value| value.len())
                .sum();
            assert!(values + 4 * bind.parameters.len() < length);
            for formats in [&bind.parameter_formats, &bind.result_formats] {
                if let Formats::Each(each) = formats {
                    assert!(2 * each.len() < length);
                }
            }
        }
        _ => {}
    }
}

fuzz_target!(|bytes: &[u8]| {
    start(bytes);
    messages(bytes, 1 << 20);
    messages(bytes, 64);
    // Framed rightly, so that what lies inside is reached.
    if let Some((&kind, body)) = bytes.split_first()
        && let Ok(length) = i32::try_from(body.len() + 4)
    {
        let mut framed = vec![kind];
        framed.extend_from_slice(&length.to_be_bytes());
        framed.extend_from_slice(body);
        messages(&framed, 1 << 20);
        if let Ok(length) = i32::try_from(bytes.len() + 8) {
            let mut packet = length.to_be_bytes().to_vec();
            packet.extend_from_slice(&196_608_i32.to_be_bytes());
            packet.extend_from_slice(bytes);
            start(&packet);
        }
    }
});
