//! The words around a live query: `LIVE` before it, `WITH (…)` after it, CANCEL LIVE and FETCH LIVE.

use springhead_proto::{ErrorCode, SqlError};

use crate::plan::PlanKind;
use crate::scan::{self, Token};
use crate::words::{self, Words};

/// What a client wants of a live query beside its rows. Every exit takes the same, by parameters of
/// its own or by `WITH (…)` after the query.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one option by its name"
)]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LiveOptions {
    /// It may be evaluated again as a whole, whatever it is.
    pub recompute: bool,
    /// The result first; `None` for what is usual where it is asked for.
    pub snapshot: Option<bool>,
    /// Changed rows with what they were, removed rows with what they are.
    pub before: bool,
    /// Changes as rows to put and keys to delete.
    pub upsert: bool,
    /// Changes at most every so many milliseconds, as their net difference; 0 for one per commit.
    pub squash_ms: u64,
    /// Where it cannot go on it begins again with a new snapshot.
    pub refetch: bool,
    /// Go on from this cursor.
    pub cursor: Option<String>,
}

/// A longer pause between two changes is none that anyone means.
pub const MAX_SQUASH_MS: u64 = 3_600_000;

/// A statement about live queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LiveStatement {
    /// CANCEL LIVE; `None` for all of the session.
    Cancel(Option<u64>),
    /// FETCH LIVE: the changes that were too large for a notification.
    Fetch(u64),
}

impl LiveOptions {
    /// Sets one option from its text.
    ///
    /// # Errors
    /// 22023 for a name that is none, or a value that it does not take.
    pub fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), SqlError> {
        match name {
            "recompute" => self.recompute = flag(name, value)?,
            "snapshot" => self.snapshot = Some(flag(name, value)?),
            "before" => self.before = flag(name, value)?,
            "refetch" => self.refetch = flag(name, value)?,
            "envelope" => {
                self.upsert = match value {
                    Some("diff") => false,
                    Some("upsert") => true,
                    _ => return Err(wrong("envelope is diff or upsert")),
                }
            }
            "squash_ms" => {
                let ms = value.and_then(|text| text.parse::<u64>().ok());
                self.squash_ms = ms.filter(|ms| *ms <= MAX_SQUASH_MS).ok_or_else(|| {
                    wrong(&format!(
                        "squash_ms is a number of milliseconds up to {MAX_SQUASH_MS}"
                    ))
                })?;
            }
            "cursor" | "as_of" => {
                let cursor = value.filter(|text| !text.is_empty());
                let cursor = cursor.ok_or_else(|| wrong("cursor is a cursor, as 42@9c1e04d7"))?;
                self.cursor = Some(cursor.to_owned());
            }
            _ => {
                return Err(wrong(&format!("a live query has no option \"{name}\"")).with_hint(
                    "there are recompute, snapshot, before, envelope, squash_ms, refetch and cursor",
                ));
            }
        }
        Ok(())
    }
}

fn flag(name: &str, value: Option<&str>) -> Result<bool, SqlError> {
    match value {
        None | Some("true" | "on" | "1" | "") => Ok(true),
        Some("false" | "off" | "0") => Ok(false),
        Some(_) => Err(wrong(&format!("{name} is true or false"))),
    }
}

fn wrong(what: &str) -> SqlError {
    SqlError::new(ErrorCode::InvalidParameterValue, what)
}

/// Takes `LIVE` and `WITH (…)` off a statement's text: the query, and what is asked of it.
///
/// # Errors
/// As [`LiveOptions::set`]; 42601 for a list that is not of its form.
pub fn read_live(sql: &str) -> Result<(&str, LiveOptions), SqlError> {
    let mut text = sql.trim().trim_end_matches(';').trim_end();
    if words::begins_with(text, "live") {
        let (_, _, end) = scan::next(text, 0)?;
        // A table may be called live; a statement does not begin with one.
        text = text[end..].trim_start();
    }
    let mut options = LiveOptions::default();
    let Some(start) = list_start(text)? else {
        return Ok((text, options));
    };
    let mut words = Words::new(&text[start..])?;
    words.expect_word("with")?;
    words.expect_symbol(b'(')?;
    loop {
        let name = words.any_word()?;
        let _ = words.symbol(b'=');
        let value = match words.is_symbol(b',') || words.is_symbol(b')') {
            true => None,
            false => Some(words.value()?),
        };
        options.set(&name, value.as_deref())?;
        if !words.symbol(b',') {
            break;
        }
    }
    words.expect_symbol(b')')?;
    words.expect_end()?;
    Ok((text[..start].trim_end(), options))
}

/// Where `WITH (…)` begins, if it is what the text ends with.
fn list_start(text: &str) -> Result<Option<usize>, SqlError> {
    let (mut at, mut depth) = (0, 0_usize);
    // The last WITH outside parentheses, and whether the list right after it is the end.
    let (mut with, mut opened, mut closed) = (None, false, false);
    loop {
        let (token, start, end) = scan::next(text, at)?;
        let follows_with = with.is_some() && !opened;
        match token {
            Token::End => return Ok(with.filter(|_| closed)),
            Token::Symbol(b'(') => {
                if depth == 0 && follows_with {
                    opened = true;
                } else if depth == 0 {
                    with = None;
                }
                depth += 1;
            }
            Token::Symbol(b')') => {
                depth = depth.saturating_sub(1);
                closed = depth == 0 && opened;
            }
            Token::Word if depth == 0 && text[start..end].eq_ignore_ascii_case("with") => {
                (with, opened, closed) = (Some(start), false, false);
            }
            _ if depth == 0 => (with, opened, closed) = (None, false, false),
            _ => {}
        }
        at = end;
    }
}

/// The plan of CANCEL LIVE and FETCH LIVE; `None` for another statement.
///
/// # Errors
/// 42601 where it is not of its form.
pub(crate) fn plan_text(sql: &str) -> Result<Option<PlanKind>, SqlError> {
    let is_cancel = words::begins_with(sql, "cancel");
    if !is_cancel && !words::begins_with(sql, "fetch") {
        return Ok(None);
    }
    let mut words = Words::new(sql)?;
    words.expect_word(if is_cancel { "cancel" } else { "fetch" })?;
    // Alone it is the name of a cursor.
    if !words.word("live") || words.is_end() {
        return Ok(None);
    }
    let statement = if is_cancel && words.word("all") {
        LiveStatement::Cancel(None)
    } else {
        let id = words.value()?;
        let digits = id.strip_prefix("live_").unwrap_or(&id);
        let id = digits.parse().map_err(|_| {
            SqlError::new(
                ErrorCode::InvalidTextRepresentation,
                format!("\"{id}\" is not the id of a live query"),
            )
        })?;
        if is_cancel {
            LiveStatement::Cancel(Some(id))
        } else {
            LiveStatement::Fetch(id)
        }
    };
    words.expect_end()?;
    Ok(Some(PlanKind::LiveControl(statement)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_a_select_live_is_taken_off() {
        for (text, query, recompute) in [
            ("SELECT 1", "SELECT 1", false),
            ("live  select 1 ;", "select 1", false),
            (
                "LIVE SELECT a FROM b WITH (recompute);",
                "SELECT a FROM b",
                true,
            ),
            (
                "select a from b with ( RECOMPUTE )",
                "select a from b",
                true,
            ),
            ("select f(recompute)", "select f(recompute)", false),
            ("select width(recompute)", "select width(recompute)", false),
            (
                "with x as (select 1) select * from x",
                "with x as (select 1) select * from x",
                false,
            ),
            (
                "select 'live with (recompute)'",
                "select 'live with (recompute)'",
                false,
            ),
        ] {
            let (found, options) = read_live(text).unwrap();
            assert_eq!((found, options.recompute), (query, recompute), "{text}");
        }
    }

    #[test]
    fn options_are_read_and_others_are_refused_by_name() {
        let (_, options) = read_live(
            "LIVE SELECT * FROM t WITH (envelope = upsert, squash_ms 250, snapshot = false, before, \
             refetch = on, cursor = '42@9c1e04d7')",
        )
        .unwrap();
        let expected = LiveOptions {
            recompute: false,
            snapshot: Some(false),
            before: true,
            upsert: true,
            squash_ms: 250,
            refetch: true,
            cursor: Some("42@9c1e04d7".to_owned()),
        };
        assert_eq!(options, expected);
        for text in [
            "SELECT * FROM t WITH (nolock)",
            "SELECT * FROM t WITH (squash_ms = never)",
            "SELECT * FROM t WITH (envelope = debezium)",
        ] {
            let error = read_live(text).expect_err(text);
            assert_eq!(error.code, ErrorCode::InvalidParameterValue, "{text}");
        }
    }

    #[test]
    fn live_queries_are_cancelled_and_fetched_by_their_id() {
        let control = |sql| match plan_text(sql) {
            Ok(Some(PlanKind::LiveControl(control))) => Some(control),
            Ok(None) => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            control("CANCEL LIVE 7;"),
            Some(LiveStatement::Cancel(Some(7)))
        );
        assert_eq!(
            control("cancel live 'live_7'"),
            Some(LiveStatement::Cancel(Some(7)))
        );
        assert_eq!(
            control("CANCEL LIVE ALL"),
            Some(LiveStatement::Cancel(None))
        );
        assert_eq!(control("FETCH LIVE 7"), Some(LiveStatement::Fetch(7)));
        assert_eq!(control("FETCH NEXT FROM c"), None);
        assert!(plan_text("CANCEL LIVE now").is_err());
    }
}
