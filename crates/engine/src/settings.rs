//! A session's settings: those that PostgreSQL's clients set and ask for. A setting that would
//! change what a statement means is either obeyed or refused; one that concerns only PostgreSQL's
//! inside is accepted and kept.

use std::time::Duration;

use springhead_proto::{ErrorCode, NoticeLevel, SqlError};
use springhead_sql::plan::Isolation;

/// Which values a setting takes.
enum Takes {
    Anything,
    Bool,
    /// A duration, in milliseconds if it has no unit; 0 for none.
    Duration,
    OneOf(&'static [&'static str]),
    /// `off`, `local`, `remote_write`, `on`, `remote_apply`.
    SyncLevel,
    /// Cannot be set.
    /// How grave what a client is told of must be.
    Level,
    Nothing,
}

struct Known {
    name: &'static str,
    default: &'static str,
    takes: Takes,
    /// The protocol tells the client when it changes, under this spelling.
    reported: Option<&'static str>,
}

const fn known(name: &'static str, default: &'static str, takes: Takes) -> Known {
    Known {
        name,
        default,
        takes,
        reported: None,
    }
}

const fn reported(
    name: &'static str,
    default: &'static str,
    takes: Takes,
    as_name: &'static str,
) -> Known {
    Known {
        name,
        default,
        takes,
        reported: Some(as_name),
    }
}

const ISOLATION: Takes = Takes::OneOf(&[
    "read committed",
    "read uncommitted",
    "repeatable read",
    "serializable",
]);

/// What `server_version` says: the PostgreSQL version whose behaviour clients may count on.
pub const SERVER_VERSION: &str = "15.0";

const KNOWN: &[Known] = &[
    reported("application_name", "", Takes::Anything, "application_name"),
    reported(
        "client_encoding",
        "UTF8",
        Takes::OneOf(&["utf8", "utf-8", "unicode"]),
        "client_encoding",
    ),
    reported(
        "datestyle",
        "ISO, MDY",
        Takes::OneOf(&["iso", "iso, mdy", "iso, us"]),
        "DateStyle",
    ),
    reported(
        "timezone",
        "UTC",
        Takes::OneOf(&["utc", "gmt", "etc/utc", "z", "zulu", "default", "0"]),
        "TimeZone",
    ),
    reported(
        "intervalstyle",
        "postgres",
        Takes::OneOf(&["postgres"]),
        "IntervalStyle",
    ),
    reported(
        "standard_conforming_strings",
        "on",
        Takes::OneOf(&["on", "true", "1", "yes"]),
        "standard_conforming_strings",
    ),
    reported(
        "integer_datetimes",
        "on",
        Takes::Nothing,
        "integer_datetimes",
    ),
    reported("server_encoding", "UTF8", Takes::Nothing, "server_encoding"),
    reported(
        "server_version",
        SERVER_VERSION,
        Takes::Nothing,
        "server_version",
    ),
    reported("is_superuser", "on", Takes::Nothing, "is_superuser"),
    reported(
        "session_authorization",
        "",
        Takes::Nothing,
        "session_authorization",
    ),
    reported(
        "default_transaction_read_only",
        "off",
        Takes::Bool,
        "default_transaction_read_only",
    ),
    reported("in_hot_standby", "off", Takes::Nothing, "in_hot_standby"),
    known("server_version_num", "150000", Takes::Nothing),
    known("max_identifier_length", "63", Takes::Nothing),
    known("block_size", "8192", Takes::Nothing),
    known("max_index_keys", "32", Takes::Nothing),
    known("lc_collate", "C", Takes::Nothing),
    known("lc_ctype", "C.UTF-8", Takes::Nothing),
    known("search_path", "\"$user\", public", Takes::Anything),
    known("statement_timeout", "0", Takes::Duration),
    known("lock_timeout", "0", Takes::Duration),
    known("idle_in_transaction_session_timeout", "0", Takes::Duration),
    known("idle_session_timeout", "0", Takes::Duration),
    known("default_transaction_isolation", "read committed", ISOLATION),
    known("transaction_isolation", "read committed", ISOLATION),
    known("transaction_read_only", "off", Takes::Bool),
    known("default_transaction_deferrable", "off", Takes::Bool),
    known("extra_float_digits", "1", Takes::OneOf(&["1", "2", "3"])),
    known("bytea_output", "hex", Takes::OneOf(&["hex"])),
    known("client_min_messages", "notice", Takes::Level),
    known("row_security", "on", Takes::Bool),
    known("synchronous_commit", "on", Takes::SyncLevel),
    known("xmloption", "content", Takes::Anything),
    known("xmlbinary", "base64", Takes::Anything),
    known("check_function_bodies", "on", Takes::Bool),
    known("default_tablespace", "", Takes::Anything),
    known("default_table_access_method", "heap", Takes::Anything),
    known("default_with_oids", "off", Takes::Bool),
    known("escape_string_warning", "on", Takes::Bool),
    known("quote_all_identifiers", "off", Takes::Bool),
    known("synchronize_seqscans", "on", Takes::Bool),
    known("jit", "off", Takes::Bool),
    known("work_mem", "4MB", Takes::Anything),
    known("maintenance_work_mem", "64MB", Takes::Anything),
    known("lc_messages", "C", Takes::Anything),
    known("lc_monetary", "C", Takes::Anything),
    known("lc_numeric", "C", Takes::Anything),
    known("lc_time", "C", Takes::Anything),
    known("role", "none", Takes::OneOf(&["none"])),
    known(
        "session_replication_role",
        "origin",
        Takes::OneOf(&["origin", "default", "local"]),
    ),
    known("tcp_keepalives_idle", "0", Takes::Anything),
    known("array_nulls", "on", Takes::OneOf(&["on", "true", "1"])),
    known(
        "transform_null_equals",
        "off",
        Takes::OneOf(&["off", "false", "0"]),
    ),
    known("transaction_deferrable", "off", Takes::Bool),
    known("max_connections", "100", Takes::Nothing),
    // How PostgreSQL plans and logs.
    known("enable_bitmapscan", "on", Takes::Bool),
    known("enable_hashagg", "on", Takes::Bool),
    known("enable_hashjoin", "on", Takes::Bool),
    known("enable_incremental_sort", "on", Takes::Bool),
    known("enable_indexonlyscan", "on", Takes::Bool),
    known("enable_indexscan", "on", Takes::Bool),
    known("enable_material", "on", Takes::Bool),
    known("enable_memoize", "on", Takes::Bool),
    known("enable_mergejoin", "on", Takes::Bool),
    known("enable_nestloop", "on", Takes::Bool),
    known("enable_parallel_append", "on", Takes::Bool),
    known("enable_parallel_hash", "on", Takes::Bool),
    known("enable_partition_pruning", "on", Takes::Bool),
    known("enable_partitionwise_aggregate", "off", Takes::Bool),
    known("enable_partitionwise_join", "off", Takes::Bool),
    known("enable_seqscan", "on", Takes::Bool),
    known("enable_sort", "on", Takes::Bool),
    known("enable_tidscan", "on", Takes::Bool),
    known("geqo", "on", Takes::Bool),
    known("random_page_cost", "4", Takes::Anything),
    known("seq_page_cost", "1", Takes::Anything),
    known("cpu_tuple_cost", "0.01", Takes::Anything),
    known("effective_cache_size", "4GB", Takes::Anything),
    known("effective_io_concurrency", "1", Takes::Anything),
    known("max_parallel_workers", "8", Takes::Anything),
    known("max_parallel_workers_per_gather", "2", Takes::Anything),
    known("max_parallel_maintenance_workers", "2", Takes::Anything),
    known("temp_buffers", "8MB", Takes::Anything),
    known("hash_mem_multiplier", "2", Takes::Anything),
    known("default_statistics_target", "100", Takes::Anything),
    known("from_collapse_limit", "8", Takes::Anything),
    known("join_collapse_limit", "8", Takes::Anything),
    known("plan_cache_mode", "auto", Takes::Anything),
    known("default_toast_compression", "pglz", Takes::Anything),
    known("deadlock_timeout", "1s", Takes::Anything),
    known("log_statement", "none", Takes::Anything),
    known("log_min_duration_statement", "-1", Takes::Anything),
    known("log_min_messages", "warning", Takes::Anything),
];

fn find(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == name)
}

/// Checks a value and gives it its usual form.
///
/// # Errors
/// 42704 for an unknown setting, 55P02-like for one that cannot be set, 22023 for a value that it
/// does not take, 0A000 for one that PostgreSQL takes and Springhead cannot obey.
pub fn check(name: &str, value: &str) -> Result<String, SqlError> {
    let Some(known) = find(name) else {
        // A name with a dot is an application's own.
        if name.contains('.') {
            return Ok(value.to_owned());
        }
        return Err(SqlError::new(
            ErrorCode::UndefinedObject,
            format!("unrecognized configuration parameter \"{name}\""),
        ));
    };
    let invalid = || {
        SqlError::new(
            ErrorCode::InvalidParameterValue,
            format!("invalid value for parameter \"{name}\": \"{value}\""),
        )
    };
    let lower = value.to_ascii_lowercase();
    match &known.takes {
        Takes::Anything => Ok(value.to_owned()),
        Takes::Bool => match lower.as_str() {
            "on" | "true" | "yes" | "1" | "t" | "y" => Ok("on".to_owned()),
            "off" | "false" | "no" | "0" | "f" | "n" => Ok("off".to_owned()),
            _ => Err(invalid()),
        },
        Takes::Duration => parse_duration(value)
            .map(|_| value.to_owned())
            .ok_or_else(invalid),
        Takes::SyncLevel => crate::confirm::SyncLevel::parse(value)
            .map(|level| level.name().to_owned())
            .ok_or_else(|| {
                invalid().with_hint("available values: local, remote_write, remote_apply, on, off")
            }),
        Takes::Level => {
            const LEVELS: &[&str] = &[
                "debug5", "debug4", "debug3", "debug2", "debug1", "debug", "log", "notice",
                "warning", "error", "info", "fatal", "panic",
            ];
            if LEVELS.contains(&lower.as_str()) {
                Ok(lower)
            } else {
                Err(invalid().with_hint(
                    "Available values: debug5, debug4, debug3, debug2, debug1, log, notice, warning, error.",
                ))
            }
        }
        Takes::OneOf(values) if values.contains(&lower.as_str()) => Ok(canonical(known, value)),
        Takes::OneOf(values) => Err(SqlError::unsupported(format!("{name} = \"{value}\""))
            .with_hint(format!("supported: {}", values.join("; ")))),
        Takes::Nothing => Err(SqlError::new(
            ErrorCode::ObjectNotInState,
            format!("parameter \"{name}\" cannot be changed"),
        )),
    }
}

/// Settings of which only one meaning is supported keep their usual spelling.
fn canonical(known: &Known, value: &str) -> String {
    match known.name {
        "client_encoding" | "timezone" => known.default.to_owned(),
        "datestyle" => known.default.to_owned(),
        "standard_conforming_strings" => "on".to_owned(),
        "default_transaction_isolation" | "transaction_isolation" => value.to_ascii_lowercase(),
        _ => value.to_owned(),
    }
}

/// The value before anyone has set it.
#[must_use]
pub fn default_of(name: &str) -> Option<&'static str> {
    find(name).map(|known| known.default)
}

/// The spelling under which the protocol reports it, if it does.
#[must_use]
pub fn reported_as(name: &str) -> Option<&'static str> {
    find(name).and_then(|known| known.reported)
}

/// Every setting there is.
pub fn names() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().map(|known| known.name)
}

/// Whether a client may set it.
#[must_use]
pub fn can_be_set(name: &str) -> bool {
    match find(name) {
        Some(known) => !matches!(known.takes, Takes::Nothing),
        None => name.contains('.'),
    }
}

/// PostgreSQL's durations: a number with `us`, `ms`, `s`, `min`, `h`, `d`, or milliseconds.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let micros = match text[digits..].trim() {
        "us" => 1,
        "" | "ms" => 1_000,
        "s" => 1_000_000,
        "min" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return None,
    };
    number.checked_mul(micros).map(Duration::from_micros)
}

/// Whether a client with this `client_min_messages` is told of a notice of this level.
#[must_use]
pub fn tells(setting: Option<&str>, level: NoticeLevel) -> bool {
    let least = match setting.unwrap_or("notice").to_ascii_lowercase().as_str() {
        "log" => NoticeLevel::Log,
        "warning" => NoticeLevel::Warning,
        "error" | "fatal" | "panic" => NoticeLevel::Info,
        level if level.starts_with("debug") => NoticeLevel::Debug,
        _ => NoticeLevel::Notice,
    };
    level >= least
}

/// The isolation level of a setting's value.
#[must_use]
pub fn isolation(value: &str) -> Isolation {
    match value {
        "repeatable read" => Isolation::RepeatableRead,
        "serializable" => Isolation::Serializable,
        _ => Isolation::ReadCommitted,
    }
}
