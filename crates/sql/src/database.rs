//! CREATE DATABASE with PostgreSQL's options, as createdb and pg_dump write them: what says that the
//! database is as every one here is taken, anything else refused by name.
//!
//! Source: PostgreSQL 15, "CREATE DATABASE".

use springhead_proto::{ErrorCode, SqlError};

use crate::plan::{Database, PlanKind};
use crate::words::{self, Words};

/// The plan of a CREATE DATABASE; `None` if the statement is another.
///
/// # Errors
/// 42601 where it is not of its form, 0A000 for a database unlike those here.
pub(crate) fn plan_text(sql: &str) -> Result<Option<PlanKind>, SqlError> {
    if !words::begins_with(sql, "create") {
        return Ok(None);
    }
    let mut words = Words::new(sql)?;
    words.expect_word("create")?;
    if !words.word("database") {
        return Ok(None);
    }
    let mut if_not_exists = false;
    if words.word("if") {
        words.expect_word("not")?;
        words.expect_word("exists")?;
        if_not_exists = true;
    }
    let name = words.name()?;
    let _ = words.word("with");
    while !words.is_end() {
        option(&mut words)?;
    }
    words.expect_end()?;
    Ok(Some(PlanKind::Database(Database::Create {
        name,
        if_not_exists,
    })))
}

fn option(words: &mut Words<'_>) -> Result<(), SqlError> {
    let mut option = words.any_word()?;
    if option == "connection" {
        words.expect_word("limit")?;
        option.push_str(" limit");
    }
    let _ = words.symbol(b'=');
    let minus = words.symbol(b'-');
    let value = if words.is_string() || words.is_number() {
        words.value()?
    } else {
        words.name().or_else(|_| words.any_word())?
    };
    let lower = value.to_ascii_lowercase();
    let is_one_of = |known: &[&str]| known.contains(&lower.as_str());
    let fits = match option.as_str() {
        // Whoever makes it; roles are the server's.
        "owner" | "strategy" | "oid" | "collation_version" => true,
        "template" => is_one_of(&["template0", "template1", "default"]),
        "encoding" => is_one_of(&["utf8", "utf-8", "unicode", "default", "6"]),
        "locale_provider" => is_one_of(&["libc", "default"]),
        "locale" | "lc_collate" | "lc_ctype" => {
            is_one_of(&["c", "posix", "c.utf-8", "c.utf8", "default"])
        }
        "tablespace" => is_one_of(&["pg_default", "default"]),
        "allow_connections" => is_one_of(&["true", "on", "1", "default"]),
        "is_template" => is_one_of(&["false", "off", "0", "default"]),
        "connection limit" => minus && lower == "1" || lower == "default",
        _ => {
            return Err(SqlError::new(
                ErrorCode::SyntaxError,
                format!("option \"{option}\" not recognized"),
            ));
        }
    };
    if fits {
        return Ok(());
    }
    let option = option.to_ascii_uppercase();
    Err(
        SqlError::unsupported(format_args!("CREATE DATABASE with {option} = {value}")).with_hint(
            "every database has the encoding UTF8, the locale C and the template template0",
        ),
    )
}
