//! Any text and any bytes are a value of any type, or refused. A value's text reads back as the same
//! text, and its binary form as the same bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use springhead_sql::PgType;
use springhead_sql::types::{input, input_binary, output_binary, output_text};

fn scalars() -> Vec<PgType> {
    vec![
        PgType::Bool,
        PgType::Int2,
        PgType::Int4,
        PgType::Int8,
        PgType::Oid,
        PgType::Float4,
        PgType::Float8,
        PgType::Numeric(None),
        PgType::Numeric(Some((7, 3))),
        PgType::Text,
        PgType::Varchar(Some(3)),
        PgType::Char(4),
        PgType::Name,
        PgType::Bytea,
        PgType::Date,
        PgType::Time,
        PgType::Timestamp,
        PgType::Timestamptz,
        PgType::Interval,
        PgType::Uuid,
        PgType::Json,
        PgType::Jsonb,
    ]
}

fn check(ty: &PgType, bytes: &[u8]) {
    let read = std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| input(ty, text).ok());
    for value in [read, input_binary(ty, bytes).ok()].into_iter().flatten() {
        let mut text = Vec::new();
        output_text(ty, value.as_ref(), &mut text);
        let text = String::from_utf8(text).expect("a text form is UTF-8");
        let mut binary = Vec::new();
        output_binary(ty, value.as_ref(), &mut binary);
        let again = input(ty, &text).unwrap_or_else(|error| panic!("{ty:?} {text:?}: {error}"));
        let mut text_again = Vec::new();
        output_text(ty, again.as_ref(), &mut text_again);
        assert_eq!(text.as_bytes(), text_again, "{ty:?}");
        let again = input_binary(ty, &binary)
            .unwrap_or_else(|error| panic!("{ty:?} {text:?} {binary:?}: {error}"));
        let mut binary_again = Vec::new();
        output_binary(ty, again.as_ref(), &mut binary_again);
        assert_eq!(binary, binary_again, "{ty:?} {text:?}");
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&choice, bytes)) = input.split_first() else {
        return;
    };
    let mut types = scalars();
    let ty = types.swap_remove(usize::from(choice & 0x7f) % types.len());
    if choice & 0x80 == 0 {
        check(&ty, bytes);
    } else {
        check(&PgType::Array(Box::new(ty)), bytes);
    }
});
