//! Any text is a query string, a path's segment, a cursor and a number, or refused by name. (A
//! condition on a row is the dialect's, and tried in its target.)
//!
//! The parameters are taken as a file, with the little that they use of the server's errors: the whole
//! server would take minutes to build and show nothing else.

#![no_main]
#![allow(dead_code, unused_imports)]

use libfuzzer_sys::fuzz_target;
use springhead_proto::Cursor;

mod error {
    use springhead_proto::{ErrorCode, SqlError};

    #[derive(Debug)]
    pub struct HttpError(SqlError);

    impl HttpError {
        pub fn new(code: ErrorCode, message: impl Into<String>) -> HttpError {
            SqlError::new(code, message).into()
        }

        pub fn parameter(message: impl Into<String>) -> HttpError {
            HttpError::new(ErrorCode::InvalidParameterValue, message)
        }

        pub fn code(&self) -> ErrorCode {
            self.0.code
        }
    }

    impl std::fmt::Display for HttpError {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.0.fmt(f)
        }
    }

    impl From<SqlError> for HttpError {
        fn from(error: SqlError) -> HttpError {
            assert!(
                error.message.len() < 4096,
                "a long input is not repeated: {error}"
            );
            HttpError(error)
        }
    }
}

#[path = "../../src/http/params.rs"]
mod params;

use params::{Params, decode, number};

fuzz_target!(|text: &str| {
    if let Ok(decoded) = decode(text, false) {
        let _ = decode(&decoded, true);
    }
    if let Ok(cursor) = text.parse::<Cursor>() {
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
    }
    if let Ok(value) = number("limit", text) {
        assert_eq!(text.trim_start_matches('0').parse().unwrap_or(0), value);
    }
    let Ok(mut params) = Params::parse(Some(text)) else {
        return;
    };
    let _ = params.take("where");
    for name in ["snapshot", "limit"] {
        let _ = params.flag(name);
        let _ = params.number(name);
    }
    let _ = params.min_lsn();
    let _ = params.finish(&["where", "snapshot", "limit", "min_lsn"]);
});
