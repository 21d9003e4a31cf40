//! LISTEN, UNLISTEN, NOTIFY, and SHOW CHANGES: statements about what has happened.

use springhead_proto::{ErrorCode, SqlError};

use crate::plan::{ChangesSince, Listen, Notification, PlanKind, ShowChanges};
use crate::words::{self, Words};

/// PostgreSQL's: a payload has fewer bytes than this.
pub const PAYLOAD_BYTES: usize = 8000;
/// PostgreSQL's: a channel's name has at most this many bytes.
pub const CHANNEL_BYTES: usize = 63;

/// The plan of a statement of this kind; `None` if it is of another.
///
/// # Errors
/// 42601 where it is not of its form, 22023 for a payload that is too long.
pub(crate) fn plan_text(sql: &str) -> Result<Option<PlanKind>, SqlError> {
    let is = |word| words::begins_with(sql, word);
    if is("listen") {
        listen(sql).map(|listen| Some(PlanKind::Listen(listen)))
    } else if is("unlisten") {
        unlisten(sql).map(|listen| Some(PlanKind::Listen(listen)))
    } else if is("notify") {
        notify(sql).map(|message| Some(PlanKind::Notify(message)))
    } else if is("show") {
        changes(sql).map(|changes| changes.map(|changes| PlanKind::Changes(Box::new(changes))))
    } else {
        Ok(None)
    }
}

fn listen(sql: &str) -> Result<Listen, SqlError> {
    let mut words = Words::new(sql)?;
    words.expect_word("listen")?;
    let channel = words.name()?;
    let from = if words.word("from") {
        Some(words.string()?)
    } else {
        None
    };
    words.expect_end()?;
    Ok(Listen::Start { channel, from })
}

fn unlisten(sql: &str) -> Result<Listen, SqlError> {
    let mut words = Words::new(sql)?;
    words.expect_word("unlisten")?;
    let listen = if words.symbol(b'*') {
        Listen::StopAll
    } else {
        Listen::Stop(words.name()?)
    };
    words.expect_end()?;
    Ok(listen)
}

fn notify(sql: &str) -> Result<Notification, SqlError> {
    let mut words = Words::new(sql)?;
    words.expect_word("notify")?;
    let channel = words.name()?;
    let payload = if words.symbol(b',') {
        words.string()?
    } else {
        String::new()
    };
    words.expect_end()?;
    check_notification(&channel, &payload)?;
    Ok(Notification { channel, payload })
}

/// Makes sure that a message may be sent.
///
/// # Errors
/// 22023 with PostgreSQL's words.
pub fn check_notification(channel: &str, payload: &str) -> Result<(), SqlError> {
    let wrong = |what| Err(SqlError::new(ErrorCode::InvalidParameterValue, what));
    if channel.is_empty() {
        wrong("channel name cannot be empty")
    } else if channel.len() > CHANNEL_BYTES {
        wrong("channel name too long")
    } else if payload.len() >= PAYLOAD_BYTES {
        wrong("payload string too long")
    } else {
        Ok(())
    }
}

/// `SHOW CHANGES FOR [TABLE] name [SINCE …] [WHERE …] [LIMIT n]`; `None` for another SHOW.
fn changes(sql: &str) -> Result<Option<ShowChanges>, SqlError> {
    let mut words = Words::new(sql)?;
    words.expect_word("show")?;
    if !words.word("changes") || words.is_end() {
        return Ok(None);
    }
    words.expect_word("for")?;
    let _ = words.word("table");
    let (schema, name) = words.qualified_name()?;
    let collection = match schema {
        Some(schema) if schema != "public" => format!("{schema}.{name}"),
        _ => name,
    };
    let since = if !words.word("since") {
        ChangesSince::Earliest
    } else if words.word("lsn") {
        ChangesSince::Lsn(words.integer()?)
    } else if words.word("cursor") {
        ChangesSince::Cursor(words.string()?)
    } else {
        ChangesSince::Time(words.string()?)
    };
    let filter = if words.word("where") {
        let start = words.place();
        let end = words.skip_to_word("limit");
        let condition = sql[start..end].trim();
        if condition.is_empty() {
            return Err(words.wrong());
        }
        Some(condition.trim_end_matches(';').to_owned())
    } else {
        None
    };
    let limit = if words.word("limit") {
        Some(words.integer()?)
    } else {
        None
    };
    words.expect_end()?;
    Ok(Some(ShowChanges {
        collection,
        since,
        filter,
        limit,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(sql: &str) -> Result<Option<String>, String> {
        match plan_text(sql) {
            Ok(None) => Ok(None),
            Ok(Some(PlanKind::Listen(listen))) => Ok(Some(format!("{listen:?}"))),
            Ok(Some(PlanKind::Notify(message))) => {
                Ok(Some(format!("{} {}", message.channel, message.payload)))
            }
            Ok(Some(PlanKind::Changes(changes))) => Ok(Some(format!("{changes:?}"))),
            Ok(Some(other)) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn names_fold_and_payloads_are_strings() {
        let start = |channel: &str| {
            Ok(Some(format!(
                "Start {{ channel: {channel:?}, from: None }}"
            )))
        };
        assert_eq!(plan("LISTEN Foo;"), start("foo"));
        assert_eq!(plan("listen \"Foo bar\""), start("Foo bar"));
        assert_eq!(plan("NOTIFY a, 'it''s'"), Ok(Some("a it's".to_owned())));
        assert_eq!(plan("NOTIFY a, E'x\\ny'"), Ok(Some("a x\ny".to_owned())));
        assert_eq!(plan("NOTIFY a , $q$b'c$q$"), Ok(Some("a b'c".to_owned())));
        assert_eq!(plan("NOTIFY a"), Ok(Some("a ".to_owned())));
        assert_eq!(plan("UNLISTEN *"), Ok(Some("StopAll".to_owned())));
        assert_eq!(plan("SELECT 1"), Ok(None));
        assert_eq!(plan("SHOW server_version"), Ok(None));
    }

    #[test]
    fn what_is_not_of_their_form_is_a_syntax_error() {
        for sql in [
            "LISTEN",
            "LISTEN 'a'",
            "LISTEN select",
            "LISTEN a b",
            "LISTEN a FROM 7",
            "NOTIFY",
            "NOTIFY a 'x'",
            "NOTIFY a, b",
            "UNLISTEN",
            "LISTEN \"\"",
            "SHOW CHANGES FOR",
            "SHOW CHANGES FOR t SINCE 5",
            "SHOW CHANGES FOR t WHERE LIMIT 5",
        ] {
            let error = plan_text(sql).expect_err(sql);
            assert_eq!(error.code, ErrorCode::SyntaxError, "{sql}");
        }
    }

    #[test]
    fn a_payload_has_fewer_than_8000_bytes() {
        assert!(plan(&format!("NOTIFY a, '{}'", "x".repeat(7999))).is_ok());
        assert_eq!(
            plan(&format!("NOTIFY a, '{}'", "x".repeat(8000))),
            Err("payload string too long".to_owned())
        );
    }

    #[test]
    fn show_changes_takes_every_start() {
        let changes = |sql| match plan_text(sql) {
            Ok(Some(PlanKind::Changes(changes))) => *changes,
            other => panic!("{other:?}"),
        };
        let all = changes("SHOW CHANGES FOR Orders");
        assert_eq!((all.collection.as_str(), all.limit), ("orders", None));
        let some = changes(
            "show changes for table public.orders since cursor '4@9c1e04d7' where (a = 'limit') and b > 1 limit 7;",
        );
        assert_eq!(some.since, ChangesSince::Cursor("4@9c1e04d7".to_owned()));
        assert_eq!(some.filter.as_deref(), Some("(a = 'limit') and b > 1"));
        assert_eq!(some.limit, Some(7));
        assert_eq!(
            changes("SHOW CHANGES FOR a SINCE LSN 12").since,
            ChangesSince::Lsn(12)
        );
    }
}
