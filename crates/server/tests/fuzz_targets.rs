//! The fuzz targets of the two protocols, as the suite runs them.

// What the targets call libFuzzer is this crate: `fuzz_target` is the suite's.
extern crate self as libfuzzer_sys;

#[path = "../../proto/fuzz/suite.rs"]
mod suite;

#[path = "../fuzz/fuzz_targets/http.rs"]
#[allow(unused_attributes, reason = "it is a crate of its own for the fuzzer")]
mod http;
#[path = "../fuzz/fuzz_targets/pgwire.rs"]
#[allow(unused_attributes, reason = "it is a crate of its own for the fuzzer")]
mod pgwire;

use suite::fuzz_target;

#[test]
fn the_http_target_holds_over_its_seeds() {
    suite::over("http", &suite::lines("fuzz/seeds/http.txt"), http::fuzz_one);
}

#[test]
fn the_pgwire_target_holds_over_a_conversation() {
    let startup = b"\0\0\0\x29\0\x03\0\0user\0ann\0database\0shop\0options\0-c a=b\0\0".to_vec();
    let ssl = b"\0\0\0\x08\x04\xd2\x16\x2f".to_vec();
    let cancel = b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07\0\0\0\x09".to_vec();
    let messages: &[(u8, &[u8])] = &[
        (b'p', b"SCRAM-SHA-256\0\0\0\0\x05n,,n="),
        (b'Q', b"SELECT 1\0"),
        (b'P', b"s\0SELECT $1\0\0\x01\0\0\0\x17"),
        (
            b'B',
            b"p\0s\0\0\x01\0\x01\0\x01\0\0\0\x04\0\0\0\x07\0\x01\0\x01",
        ),
        (b'D', b"Ss\0"),
        (b'E', b"p\0\0\0\0\x0a"),
        (b'C', b"Pp\0"),
        (b'd', b"a\tb\n"),
        (b'c', b""),
        (b'f', b"no\0"),
        (b'H', b""),
        (b'S', b""),
        (b'X', b""),
    ];
    let mut seeds = vec![startup, ssl, cancel];
    let mut all = Vec::new();
    for (kind, body) in messages {
        // As the target frames it, and framed.
        seeds.push([&[*kind], *body].concat());
        let length = i32::try_from(body.len() + 4).expect("a short message");
        let framed = [&[*kind], &length.to_be_bytes()[..], body].concat();
        all.extend_from_slice(&framed);
        seeds.push(framed);
    }
    seeds.push(all);
    suite::over("pgwire", &seeds, pgwire::fuzz_one);
}
