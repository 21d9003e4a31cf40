//! Whatever lies on the disk is a segment, a compressed segment or an index, or is found damaged.

#![no_main]

use libfuzzer_sys::fuzz_target;
use springhead_log::segment::fuzzing;

fuzz_target!(|input: &[u8]| {
    let Some((&choice, bytes)) = input.split_first() else {
        return;
    };
    match choice % 3 {
        0 => fuzzing::frames(bytes),
        1 => fuzzing::index(bytes),
        _ => fuzzing::chunks(bytes),
    }
});
