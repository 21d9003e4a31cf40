//! Rows and changes as bytes: the bytes themselves, round trips, and refusal of everything else.
//! The golden bytes are those drawn in docs/log-format.md; they never change.

use proptest::prelude::*;
use springhead_proto::{
    ChangeKind, ChangeRef, Changes, CollectionId, Row, RowBuilder, RowRef, SchemaVersion, Value,
    ValueRef, encode_change, read_varint, unzigzag, write_varint, zigzag,
};

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(" ")
}

fn row_of(values: &[Value]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut row = RowBuilder::new(&mut out, values.len());
    for value in values {
        row.push(value.as_ref());
    }
    out
}

/// The row of the example in docs/log-format.md.
fn golden_row() -> Vec<u8> {
    row_of(&[
        Value::Integer(-3),
        Value::Null,
        Value::Real(1.5),
        Value::Text("épée".to_owned()),
        Value::Blob(vec![0, 255]),
        Value::Integer(i64::MAX),
    ])
}

#[test]
fn a_row_has_these_bytes() {
    assert_eq!(
        hex(&golden_row()),
        "06 01 05 00 02 00 00 00 00 00 00 f8 3f 03 06 c3 a9 70 c3 a9 65 04 02 00 ff \
         01 fe ff ff ff ff ff ff ff ff 01"
    );
}

#[test]
fn a_change_has_these_bytes() {
    let before = row_of(&[Value::Integer(1), Value::Text("a".to_owned())]);
    let after = row_of(&[Value::Integer(1), Value::Text("b".to_owned())]);
    let mut out = Vec::new();
    let (collection, version) = (CollectionId(300), SchemaVersion(2));
    encode_change(
        &mut out,
        ChangeKind::Update,
        collection,
        version,
        Some(&before),
        Some(&after),
    );
    assert_eq!(
        hex(&out),
        "02 03 ac 02 02 06 02 01 02 03 01 61 06 02 01 02 03 01 62"
    );

    out.clear();
    encode_change(
        &mut out,
        ChangeKind::Truncate,
        CollectionId(100),
        SchemaVersion(1),
        None,
        None,
    );
    assert_eq!(hex(&out), "04 00 64 01");
}

#[test]
fn kinds_keep_their_numbers() {
    let kinds = [
        (ChangeKind::Insert, 1, Some("INSERT")),
        (ChangeKind::Update, 2, Some("UPDATE")),
        (ChangeKind::Delete, 3, Some("DELETE")),
        (ChangeKind::Truncate, 4, Some("TRUNCATE")),
        (ChangeKind::Definition, 5, Some("DEFINITION")),
        (ChangeKind::Message, 6, Some("MESSAGE")),
        (ChangeKind::Sequence, 7, None),
    ];
    for (kind, number, operation) in kinds {
        let mut out = Vec::new();
        encode_change(
            &mut out,
            kind,
            CollectionId(1),
            SchemaVersion(1),
            None,
            None,
        );
        assert_eq!(out[0], number);
        assert_eq!(ChangeRef::read(&mut &out[..]).expect("sound").kind, kind);
        assert_eq!(kind.operation(), operation);
    }
    for number in [0, 8, 255] {
        assert!(ChangeRef::read(&mut &[number, 0, 1, 1][..]).is_err());
    }
}

#[test]
fn varints_have_one_form() {
    let check = |value: u64, bytes: &[u8]| {
        let mut out = Vec::new();
        write_varint(&mut out, value);
        assert_eq!(out, bytes);
        let mut input = bytes;
        assert_eq!(read_varint(&mut input), Some(value));
        assert!(input.is_empty());
    };
    check(0, &[0]);
    check(127, &[127]);
    check(128, &[0x80, 1]);
    check(
        u64::MAX,
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
    );
    for bad in [
        &[][..],
        &[0x80],
        &[0x80, 0],
        &[0xff, 0x80, 0],
        &[0xff; 10],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
        &[
            0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1,
        ],
    ] {
        assert_eq!(read_varint(&mut &bad[..]), None, "{bad:02x?}");
    }
}

#[test]
fn every_row_cut_short_is_refused() {
    let row = golden_row();
    assert!(RowRef::parse(&row).is_ok());
    for length in 0..row.len() {
        assert!(RowRef::parse(&row[..length]).is_err(), "cut to {length}");
    }
    let mut longer = row;
    longer.push(0);
    assert!(RowRef::parse(&longer).is_err(), "bytes left over");
}

#[test]
fn wrong_rows_are_refused() {
    for (what, bytes) in [
        ("more values than bytes", &[5, 0, 0][..]),
        (
            "a count beyond any memory",
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        ),
        ("an unknown tag", &[1, 5]),
        ("a text that is not UTF-8", &[1, 3, 1, 0xff]),
        ("a length past the end", &[1, 4, 9, 1, 2]),
        (
            "a length beyond any memory",
            &[
                1, 4, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
            ],
        ),
        ("an integer in a long form", &[1, 1, 0x80, 0]),
    ] {
        assert!(RowRef::parse(bytes).is_err(), "{what}");
    }
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Integer),
        any::<f64>()
            .prop_filter("NaN is not equal to itself", |real| !real.is_nan())
            .prop_map(Value::Real),
        ".{0,40}".prop_map(Value::Text),
        proptest::collection::vec(any::<u8>(), 0..200).prop_map(Value::Blob),
    ]
}

fn row() -> impl Strategy<Value = Vec<Value>> {
    proptest::collection::vec(value(), 0..12)
}

type Given = (ChangeKind, u32, u32, Option<Vec<Value>>, Option<Vec<Value>>);

fn change() -> impl Strategy<Value = Given> {
    let kind = prop_oneof![
        Just(ChangeKind::Insert),
        Just(ChangeKind::Update),
        Just(ChangeKind::Delete),
        Just(ChangeKind::Truncate),
        Just(ChangeKind::Definition),
        Just(ChangeKind::Message),
        Just(ChangeKind::Sequence),
    ];
    let image = || proptest::option::of(row());
    (kind, any::<u32>(), any::<u32>(), image(), image())
}

fn encode(changes: &[Given]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, collection, version, before, after) in changes {
        let (before, after) = (before.as_deref().map(row_of), after.as_deref().map(row_of));
        let (collection, version) = (CollectionId(*collection), SchemaVersion(*version));
        encode_change(
            &mut out,
            *kind,
            collection,
            version,
            before.as_deref(),
            after.as_deref(),
        );
    }
    out
}

fn owned(row: RowRef<'_>) -> Vec<Value> {
    row.values().map(ValueRef::to_owned).collect()
}

proptest! {
    #[test]
    fn rows_come_back_as_they_were(values in row()) {
        let bytes = row_of(&values);
        let row = RowRef::parse(&bytes).expect("sound");
        prop_assert_eq!(row.len(), values.len());
        prop_assert_eq!(&owned(row), &values);
        for (index, value) in values.iter().enumerate() {
            prop_assert_eq!(row.get(index), Some(value.as_ref()));
        }
        prop_assert_eq!(row.get(values.len()), None);
        let kept = Row::from_values(values.iter().map(Value::as_ref));
        prop_assert_eq!(&kept.bytes()[..], &bytes[..]);
    }

    #[test]
    fn runs_of_changes_come_back_as_they_were(given in proptest::collection::vec(change(), 0..6)) {
        let bytes = encode(&given);
        let read: Vec<Given> = Changes::new(&bytes)
            .map(|change| {
                let change = change.expect("sound");
                (
                    change.kind,
                    change.collection.0,
                    change.schema_version.0,
                    change.before.map(owned),
                    change.after.map(owned),
                )
            })
            .collect();
        prop_assert_eq!(read, given);
    }

    /// Equal values have equal bytes, so what is read from any bytes encodes to just those bytes.
    #[test]
    fn damaged_bytes_never_panic_and_never_read_as_something_else(
        given in proptest::collection::vec(change(), 1..4),
        place in any::<prop::sample::Index>(),
        with in any::<u8>(),
    ) {
        let mut bytes = encode(&given);
        let place = place.index(bytes.len());
        bytes[place] = with;
        check_any_bytes(&bytes);
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        check_any_bytes(&bytes);
        let _ = RowRef::parse(&bytes);
    }

    #[test]
    fn zigzag_is_its_own_way_back(value in any::<i64>()) {
        prop_assert_eq!(unzigzag(zigzag(value)), value);
    }

    #[test]
    fn varints_come_back(value in any::<u64>(), rest in proptest::collection::vec(any::<u8>(), 0..4)) {
        let mut bytes = Vec::new();
        write_varint(&mut bytes, value);
        bytes.extend(&rest);
        let mut input = &bytes[..];
        prop_assert_eq!(read_varint(&mut input), Some(value));
        prop_assert_eq!(input, &rest[..]);
    }
}

/// Reads whatever it is, encodes what was read again, and expects the bytes that were taken.
fn check_any_bytes(bytes: &[u8]) {
    let mut input = bytes;
    while !input.is_empty() {
        let before = input;
        let Ok(change) = ChangeRef::read(&mut input) else {
            return;
        };
        let image = |row: Option<RowRef<'_>>| row.map(|row| row_of_ref(row));
        let (old, new) = (image(change.before), image(change.after));
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
}

fn row_of_ref(row: RowRef<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut builder = RowBuilder::new(&mut out, row.len());
    for value in row.values() {
        builder.push(value);
    }
    out
}
