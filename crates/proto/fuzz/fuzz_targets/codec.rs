//! Any bytes are read as changes or refused; what is read encodes to the bytes it was read from.

#![no_main]

use libfuzzer_sys::fuzz_target;
use springhead_proto::{ChangeRef, Cursor, RowBuilder, RowRef, encode_change};

fn encode_row(row: RowRef<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut builder = RowBuilder::new(&mut out, row.len());
    for value in row.values() {
        builder.push(value);
    }
    out
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(row) = RowRef::parse(bytes) {
        assert_eq!(encode_row(row), bytes);
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(cursor) = text.parse::<Cursor>()
    {
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
    }
    let mut input = bytes;
    while !input.is_empty() {
        let before = input;
        let Ok(change) = ChangeRef::read(&mut input) else {
            return;
        };
        let (old, new) = (change.before.map(encode_row), change.after.map(encode_row));
        let mut again = Vec::new();
        encode_change(
            &mut again,
            change.kind,
            change.collection,
            change.schema_version,
            old.as_deref(),
            new.as_deref(),
        );
        assert_eq!(again, before[..before.len() - input.len()]);
    }
});
