//! PL/pgSQL's names of errors: in RAISE and EXCEPTION.

use springhead_proto::{ErrorCode, SqlError};

/// The SQLSTATE of a condition's name, or of itself.
pub(super) fn condition_state(text: &str) -> Option<String> {
    const NAMES: &[(&str, &str)] = &[
        ("ambiguous_column", "42702"),
        ("assert_failure", "P0004"),
        ("cannot_coerce", "42846"),
        ("cardinality_violation", "21000"),
        ("case_not_found", "20000"),
        ("check_violation", "23514"),
        ("data_exception", "22000"),
        ("datatype_mismatch", "42804"),
        ("datetime_field_overflow", "22008"),
        ("deadlock_detected", "40P01"),
        ("dependent_objects_still_exist", "2BP01"),
        ("division_by_zero", "22012"),
        ("duplicate_alias", "42712"),
        ("duplicate_column", "42701"),
        ("duplicate_database", "42P04"),
        ("duplicate_function", "42723"),
        ("duplicate_object", "42710"),
        ("duplicate_schema", "42P06"),
        ("duplicate_table", "42P07"),
        ("exclusion_violation", "23P01"),
        ("feature_not_supported", "0A000"),
        ("foreign_key_violation", "23503"),
        ("grouping_error", "42803"),
        ("insufficient_privilege", "42501"),
        ("integrity_constraint_violation", "23000"),
        ("internal_error", "XX000"),
        ("invalid_column_reference", "42P10"),
        ("invalid_datetime_format", "22007"),
        ("invalid_foreign_key", "42830"),
        ("invalid_object_definition", "42P17"),
        ("invalid_parameter_value", "22023"),
        ("invalid_schema_name", "3F000"),
        ("invalid_table_definition", "42P16"),
        ("invalid_text_representation", "22P02"),
        ("lock_not_available", "55P03"),
        ("no_data_found", "P0002"),
        ("not_null_violation", "23502"),
        ("null_value_not_allowed", "22004"),
        ("numeric_value_out_of_range", "22003"),
        ("object_in_use", "55006"),
        ("object_not_in_prerequisite_state", "55000"),
        ("plpgsql_error", "P0000"),
        ("query_canceled", "57014"),
        ("raise_exception", "P0001"),
        ("serialization_failure", "40001"),
        ("string_data_right_truncation", "22001"),
        ("syntax_error", "42601"),
        ("syntax_error_or_access_rule_violation", "42000"),
        ("too_many_rows", "P0003"),
        ("transaction_rollback", "40000"),
        ("undefined_column", "42703"),
        ("undefined_function", "42883"),
        ("undefined_object", "42704"),
        ("undefined_parameter", "42P02"),
        ("undefined_table", "42P01"),
        ("unique_violation", "23505"),
        ("wrong_object_type", "42809"),
    ];
    let name = text.to_ascii_lowercase();
    let known = NAMES.binary_search_by_key(&name.as_str(), |(name, _)| name);
    match known {
        Ok(place) => Some(NAMES[place].1.to_owned()),
        Err(_) => (text.len() == 5
            && text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase()))
        .then(|| text.to_owned()),
    }
}

/// An error with this SQLSTATE, be it one of this server's or somebody's own.
pub(super) fn error_of_state(state: &str, message: String) -> SqlError {
    let known = ErrorCode::ALL
        .iter()
        .copied()
        .find(|code| state == code.sqlstate().0);
    match known {
        Some(code) => SqlError::new(code, message),
        None => SqlError::new(ErrorCode::RaiseException, message).with_state(state),
    }
}

/// Whether one of a handler's conditions (names, or SQLSTATEs) is about this error. No handler is told of a
/// statement that is to end, nor of what nothing may be done about.
#[must_use]
pub fn catches(conditions: &[String], error: &SqlError) -> bool {
    if matches!(
        error.code,
        ErrorCode::QueryCanceled
            | ErrorCode::AdminShutdown
            | ErrorCode::SnapshotTooOld
            | ErrorCode::OutcomeUnknown
            | ErrorCode::Corrupted
    ) {
        return false;
    }
    let state = error.sqlstate();
    conditions.iter().any(|condition| {
        if condition.eq_ignore_ascii_case("others") {
            return error.code != ErrorCode::AssertFailure;
        }
        condition_state(condition).is_some_and(|wanted| {
            wanted == state || wanted.ends_with("000") && wanted[..2] == state[..2]
        })
    })
}

/// What is only there for a handler was asked for elsewhere.
#[must_use]
pub fn outside_handler(what: &str) -> SqlError {
    error_of_state(
        "0Z002",
        format!("{what} cannot be used outside an exception handler"),
    )
}
