//! The display texts of violations are stable: dead letters keep them and programs match them.

use springhead_proto::sync::Violation;

#[test]
fn a_violation_has_this_text_and_is_read_from_it() {
    let own = str::to_owned;
    let cases = [
        (Violation::Policy, "policy"),
        (Violation::PermissionDenied, "permission_denied"),
        (
            Violation::Unique {
                column: own("title"),
                value: own("a=b"),
            },
            "unique:title=a=b",
        ),
        (
            Violation::ForeignKey {
                column: own("owner"),
            },
            "foreign_key:owner",
        ),
        (
            Violation::NotNull {
                column: own("title"),
            },
            "not_null:title",
        ),
        (
            Violation::Check {
                constraint: own("votes_check"),
            },
            "check:votes_check",
        ),
        (
            Violation::Type {
                column: own("votes"),
            },
            "type:votes",
        ),
        (Violation::SchemaStale, "schema_stale"),
        (
            Violation::Constraint {
                detail: own(Violation::NO_DOCUMENT),
            },
            "constraint:no such document",
        ),
        (Violation::Malformed, "malformed"),
        (Violation::TooLarge, "too_large"),
    ];
    for (violation, text) in &cases {
        assert_eq!(violation.to_string(), *text);
        assert_eq!(text.parse(), Ok(violation.clone()));
        assert_eq!(text.split(':').next(), Some(violation.word()));
    }
    let words: Vec<_> = cases
        .iter()
        .map(|(violation, _)| violation.word())
        .collect();
    assert_eq!(words, Violation::WORDS);
}

#[test]
fn other_text_is_refused_by_name() {
    for text in [
        "",
        "unique",
        "unique:title",
        "policy:x",
        "not_null",
        "Unique:a=b",
        "nonsense",
    ] {
        let error = text.parse::<Violation>().expect_err(text);
        assert!(error.to_string().contains("is no violation"), "{error}");
    }
}
