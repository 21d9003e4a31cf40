//! DECLARE, FETCH, MOVE and CLOSE: cursors by name. What they name is the session's; only DECLARE's
//! query is planned. Called by the planner before anything else looks at the text.
//! Source: PostgreSQL 15, reference pages "DECLARE", "FETCH", "MOVE", "CLOSE".

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};

use crate::catalog::Catalog;
use crate::plan::{Parameter, Plan, PlanKind, WriteVerb};
use crate::planner::{self, PlanContext};
use crate::program::Library;
use crate::types::PgType;
use crate::words::{self, Words};

/// A statement about a cursor of the session.
#[derive(Debug, Clone)]
pub enum CursorStatement {
    Declare(DeclareCursor),
    /// FETCH, or with `moves` MOVE, which returns no rows.
    Fetch {
        name: String,
        direction: FetchDirection,
        moves: bool,
    },
    /// `None` for all.
    Close {
        name: Option<String>,
    },
}

/// See [`CursorStatement`].
#[derive(Debug, Clone)]
pub struct DeclareCursor {
    pub name: String,
    /// SCROLL or NO SCROLL, if it says either.
    pub scroll: Option<bool>,
    /// It outlives a transaction that commits.
    pub hold: bool,
    pub query: Arc<Plan>,
}

/// Which rows FETCH wants; `None` for all that there are that way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchDirection {
    Forward(Option<u64>),
    Backward(Option<u64>),
    /// From the first row, which is 1, or from the last, which is -1.
    Absolute(i64),
    /// From the present row.
    Relative(i64),
}

/// The plan of a statement of this kind; `None` if it is of another.
///
/// # Errors
/// 42601 where it is not of its form, and what is wrong with the query.
pub(crate) fn plan(
    catalog: &Arc<Catalog>,
    sql: &str,
    param_types: &[Option<PgType>],
    context: &PlanContext,
) -> Result<Option<Plan>, SqlError> {
    let is = |word| words::begins_with(sql, word);
    let plan = |parameters: Vec<Parameter>, statement| {
        Ok(Some(Plan {
            catalog_version: catalog.version,
            parameters,
            system: false,
            library: Library::of(catalog, context),
            kind: PlanKind::Cursor(statement),
        }))
    };
    if is("declare") {
        let declare = declare(catalog, sql, param_types, context)?;
        let parameters = declare.query.parameters.clone();
        plan(parameters, CursorStatement::Declare(declare))
    } else if is("fetch") || is("move") {
        plan(Vec::new(), fetch(sql, is("move"))?)
    } else if is("close") {
        let mut words = Words::new(sql)?;
        words.expect_word("close")?;
        let name = if words.word("all") {
            None
        } else {
            Some(words.name()?)
        };
        words.expect_end()?;
        plan(Vec::new(), CursorStatement::Close { name })
    } else {
        Ok(None)
    }
}

/// `DECLARE name [INSENSITIVE | ASENSITIVE] [[NO] SCROLL] CURSOR [{WITH | WITHOUT} HOLD] FOR query`.
fn declare(
    catalog: &Arc<Catalog>,
    sql: &str,
    param_types: &[Option<PgType>],
    context: &PlanContext,
) -> Result<DeclareCursor, SqlError> {
    let mut words = Words::new(sql)?;
    words.expect_word("declare")?;
    let name = words.name()?;
    let mut scroll = None;
    loop {
        if words.word("binary") {
            return Err(SqlError::unsupported("DECLARE … BINARY CURSOR").with_hint(
                "ask for binary results with the protocol (Bind's result formats of FETCH)",
            ));
        } else if words.word("insensitive") || words.word("asensitive") {
            // Every cursor is: its rows are those of when it was declared.
        } else if words.word("no") {
            words.expect_word("scroll")?;
            scroll = Some(false);
        } else if words.word("scroll") {
            scroll = Some(true);
        } else {
            break;
        }
    }
    words.expect_word("cursor")?;
    let hold = if words.word("with") {
        words.expect_word("hold")?;
        true
    } else if words.word("without") {
        words.expect_word("hold")?;
        false
    } else {
        false
    };
    words.expect_word("for")?;
    let query = planner::plan(catalog, &sql[words.place()..], param_types, context)?;
    let is_query = match &query.kind {
        PlanKind::Query(_) => true,
        PlanKind::Write(write) => write.verb == WriteVerb::Select,
        _ => false,
    };
    if !is_query {
        return Err(SqlError::new(
            ErrorCode::SyntaxError,
            "a cursor is declared for a SELECT or VALUES",
        ));
    }
    Ok(DeclareCursor {
        name,
        scroll,
        hold,
        query: Arc::new(query),
    })
}

/// `FETCH [direction] [FROM | IN] name`, and MOVE alike.
fn fetch(sql: &str, moves: bool) -> Result<CursorStatement, SqlError> {
    let mut words = Words::new(sql)?;
    words.expect_word(if moves { "move" } else { "fetch" })?;
    let direction = direction(&mut words)?;
    let _ = words.word("from") || words.word("in");
    let name = words.name()?;
    words.expect_end()?;
    Ok(CursorStatement::Fetch {
        name,
        direction,
        moves,
    })
}

fn direction(words: &mut Words<'_>) -> Result<FetchDirection, SqlError> {
    Ok(if words.word("next") {
        FetchDirection::Forward(Some(1))
    } else if words.word("prior") {
        FetchDirection::Backward(Some(1))
    } else if words.word("first") {
        FetchDirection::Absolute(1)
    } else if words.word("last") {
        FetchDirection::Absolute(-1)
    } else if words.word("absolute") {
        FetchDirection::Absolute(signed(words)?.ok_or_else(|| words.wrong())?)
    } else if words.word("relative") {
        FetchDirection::Relative(signed(words)?.ok_or_else(|| words.wrong())?)
    } else if words.word("all") {
        FetchDirection::Forward(None)
    } else if words.word("forward") {
        counted(words, true)?
    } else if words.word("backward") {
        counted(words, false)?
    } else {
        match signed(words)? {
            Some(count) => by(count, true),
            None => FetchDirection::Forward(Some(1)),
        }
    })
}

/// What follows FORWARD or BACKWARD: a number, ALL, or nothing for one.
fn counted(words: &mut Words<'_>, forward: bool) -> Result<FetchDirection, SqlError> {
    if words.word("all") {
        return Ok(if forward {
            FetchDirection::Forward(None)
        } else {
            FetchDirection::Backward(None)
        });
    }
    Ok(by(signed(words)?.unwrap_or(1), forward))
}

/// A negative number of rows is as many the other way.
fn by(count: i64, forward: bool) -> FetchDirection {
    let rows = Some(count.unsigned_abs());
    if (count >= 0) == forward || count == 0 {
        FetchDirection::Forward(rows)
    } else {
        FetchDirection::Backward(rows)
    }
}

/// A number with or without a sign, if there is one.
fn signed(words: &mut Words<'_>) -> Result<Option<i64>, SqlError> {
    let is_negative = words.symbol(b'-');
    let is_positive = !is_negative && words.symbol(b'+');
    if !is_negative && !is_positive && !words.is_number() {
        return Ok(None);
    }
    let number = i64::try_from(words.integer()?).map_err(|_| words.wrong())?;
    Ok(Some(if is_negative { -number } else { number }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sql: &str, expected: FetchDirection) {
        let CursorStatement::Fetch {
            name, direction, ..
        } = fetch(sql, sql.starts_with("MOVE")).unwrap()
        else {
            panic!("no FETCH: {sql}");
        };
        assert_eq!((name.as_str(), direction), ("c", expected), "{sql}");
    }

    #[test]
    fn directions_are_postgresqls() {
        use FetchDirection::{Absolute, Backward, Forward, Relative};
        check("FETCH c", Forward(Some(1)));
        check("FETCH FROM c", Forward(Some(1)));
        check("FETCH 10 IN c", Forward(Some(10)));
        check("FETCH -2 FROM c", Backward(Some(2)));
        check("FETCH ALL FROM c", Forward(None));
        check("fetch forward all c", Forward(None));
        check("FETCH FORWARD -3 FROM c", Backward(Some(3)));
        check("FETCH BACKWARD FROM c", Backward(Some(1)));
        check("FETCH BACKWARD -3 FROM c", Forward(Some(3)));
        check("MOVE BACKWARD ALL FROM c", Backward(None));
        check("MOVE PRIOR FROM \"c\"", Backward(Some(1)));
        check("FETCH FIRST c", Absolute(1));
        check("FETCH LAST c", Absolute(-1));
        check("FETCH ABSOLUTE -4 FROM c", Absolute(-4));
        check("FETCH RELATIVE 0 FROM c;", Relative(0));
        assert!(fetch("FETCH ABSOLUTE FROM c", false).is_err());
        assert!(fetch("FETCH 1 FROM c d", false).is_err());
    }
}
