//! Statements made to hurt: each is planned or refused, in bounded time and on a small stack.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use springhead_proto::ErrorCode;
use springhead_sql::lift::{self, Lifted};
use springhead_sql::planner::{self, PlanContext};
use springhead_sql::types::{self, PgType};
use springhead_sql::{Catalog, split};

/// Less than any thread of the server has.
const STACK_BYTES: usize = 1 << 20;

/// What planning says on a small stack; a stack that overflows ends the test's process.
fn plan(sql: String) -> Result<(), ErrorCode> {
    let small = std::thread::Builder::new().stack_size(STACK_BYTES);
    let planned = small.spawn(move || {
        let catalog = Arc::new(Catalog::bootstrap());
        let context = PlanContext::default();
        for statement in split::statements(&sql) {
            let statement = statement.map_err(|error| error.code)?;
            let mut lifted = Lifted::default();
            if lift::lift(statement, &mut lifted) {
                let _ = planner::plan_template(&catalog, &lifted, &[], &context);
            }
            planner::plan(&catalog, statement, &[], &context).map_err(|error| error.code)?;
        }
        Ok(())
    });
    planned
        .expect("a thread")
        .join()
        .expect("planning does not panic")
}

#[test]
fn a_chain_of_operators_of_any_length_overflows_no_stack() {
    for (head, link) in [
        ("SELECT 1", "::int"),
        ("SELECT 1", " + 1"),
        ("SELECT 'a'", " || 'a'"),
        ("SELECT true", " AND true"),
        ("SELECT true", " OR 1 = 1"),
        ("SELECT 1", " IS NULL"),
        ("SELECT 'a'", " LIKE 'a'"),
        ("SELECT 'a'", " COLLATE \"C\""),
        ("SELECT now()", " AT TIME ZONE 'utc'"),
        ("SELECT 1", " BETWEEN 1 AND 2"),
        ("SELECT 1", " IN (1)"),
        ("SELECT '{}'::jsonb", " -> 'a'"),
        ("SELECT '{1}'::int[]", "[1]"),
        ("SELECT 1", " UNION SELECT 1"),
        ("SELECT 1", " EXCEPT SELECT 1"),
        ("CREATE TABLE t (a int", "[]"),
        ("SELECT ", "- "),
        ("SELECT ", "NOT "),
        ("SELECT ", "("),
        ("SELECT ", "(SELECT "),
        ("SELECT ", "ARRAY["),
        ("SELECT ", "CASE WHEN "),
        ("SELECT ", "abs("),
        ("SELECT * FROM ", "("),
        (
            "SELECT 1 FROM (VALUES (1)) a",
            " JOIN (VALUES (1)) b ON true",
        ),
        ("", "WITH a AS ("),
        ("", "EXPLAIN "),
    ] {
        for count in [90, 350, 999, 20_000] {
            let what = format!("{head} and {count} times {link}");
            let refused = plan(format!("{head}{}", link.repeat(count)));
            if count == 20_000 {
                let code = refused.expect_err(&what);
                assert!(
                    matches!(
                        code,
                        ErrorCode::TooComplex | ErrorCode::SyntaxError | ErrorCode::DuplicateAlias
                    ),
                    "{what}: {code:?}"
                );
            }
        }
    }
}

#[test]
fn long_statements_take_time_in_proportion_to_their_length() {
    let lines = |count: usize| format!("SELECT {}", "'a'\n".repeat(count));
    let comments = |count: usize| format!("SELECT {}{}1", "/*".repeat(count), "*/".repeat(count));
    let quotes = |count: usize| format!("SELECT '{}'", "''".repeat(count));
    let open = |count: usize| format!("SELECT {}", "$a".repeat(count));
    let list = |count: usize| format!("SELECT 1 IN (1{})", ",1".repeat(count));
    let shapes: [(&str, &dyn Fn(usize) -> String); 5] = [
        ("strings on lines of their own", &lines),
        ("nested comments", &comments),
        ("quotes", &quotes),
        ("dollars", &open),
        ("a list", &list),
    ];
    for (what, shape) in shapes {
        let started = Instant::now();
        // Whether it is refused is no matter here.
        let _ = plan(shape(200_000));
        let took = started.elapsed();
        assert!(took < Duration::from_secs(20), "{what}: {took:?}");
    }
}

/// A scale beyond what a numeric can have was taken, and made a value that no text could give back.
#[test]
fn a_binary_numeric_with_an_impossible_scale_is_refused() {
    for (bytes, is_value) in [
        (&[0, 0, 0, 4, 0, 0, 0x3f, 0xff][..], true),
        (&[0, 0, 0, 4, 0, 0, 0x40, 0][..], false),
        (&[0, 0, 0, 4, 0, 0, 0x65, 0x38][..], false),
    ] {
        let read = types::input_binary(&PgType::Numeric(None), bytes);
        match read {
            Ok(_) => assert!(is_value, "{bytes:?}"),
            Err(error) => {
                assert!(!is_value, "{bytes:?}: {error}");
                assert_eq!(error.code, ErrorCode::InvalidBinaryRepresentation);
            }
        }
    }
}
