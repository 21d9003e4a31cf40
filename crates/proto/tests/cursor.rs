//! Cursors as text: one form, and refusal of everything else.

use proptest::prelude::*;
use springhead_proto::{Cursor, Epoch, Lsn};

fn check(text: &str, lsn: u64, epoch: Option<u32>) {
    let cursor = Cursor {
        lsn: Lsn(lsn),
        epoch: epoch.map(Epoch),
    };
    assert_eq!(text.parse(), Ok(cursor));
    assert_eq!(cursor.to_string(), text);
}

#[test]
fn cursors_have_this_form() {
    check("42@9c1e04d7", 42, Some(0x9c1e_04d7));
    check("0@00000000", 0, Some(0));
    check("18446744073709551615@ffffffff", u64::MAX, Some(u32::MAX));
    check("7", 7, None);
}

#[test]
fn g5_what_is_no_cursor_is_refused() {
    for text in [
        "",
        "@",
        "42@",
        "@9c1e04d7",
        "+42",
        "-1",
        " 42",
        "42 ",
        "4_2",
        "0x2a",
        "42@9c1e04d",
        "42@9c1e04d70",
        "42@9c1e04dg",
        "42@+c1e04d7",
        "42@9c1e04d7@1",
        "18446744073709551616",
        "٤٢",
        "42@９c1e04d7",
    ] {
        assert!(text.parse::<Cursor>().is_err(), "{text:?}");
    }
}

proptest! {
    #[test]
    fn cursors_come_back(lsn in any::<u64>(), epoch in proptest::option::of(any::<u32>())) {
        let cursor = Cursor { lsn: Lsn(lsn), epoch: epoch.map(Epoch) };
        prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
    }

    #[test]
    fn any_text_is_read_or_refused(text in ".{0,30}") {
        if let Ok(cursor) = text.parse::<Cursor>() {
            // Leading zeros and upper-case digits are the same cursor.
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
    }
}
