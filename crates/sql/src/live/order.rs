//! Results in an order that are kept by parts: what they are ordered by comes with each row, so that rows
//! are put in their places without asking SQLite for all of them again.

use sqlparser::ast::{self, Expr, LimitClause};

use crate::plan::Parameter;

/// How the rows of a result are ordered, and which of them are shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// SQLite text of the whole result in no order: its columns, its key, then what is ordered by.
    pub all: String,
    /// How it is ordered by each of these.
    pub directions: Vec<Direction>,
    pub limit: Option<Bound>,
    pub offset: Option<Bound>,
}

/// How values follow one another. Their own order is SQLite's: NULL, numbers, texts by their bytes, blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Direction {
    pub descending: bool,
    /// Whether NULL comes before all else in the end, descending or not.
    pub nulls_first: bool,
}

/// A number of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    Count(u64),
    /// Parameter, from 0.
    Parameter(usize),
}

impl Direction {
    /// From the words that follow a term in SQLite's ORDER BY.
    pub(super) fn of(words: &str) -> Direction {
        let descending = words.contains("DESC");
        Direction {
            descending,
            nulls_first: if descending {
                words.contains("NULLS FIRST")
            } else {
                !words.contains("NULLS LAST")
            },
        }
    }
}

impl Order {
    pub(super) fn of(directions: &[&str]) -> Order {
        Order {
            all: String::new(),
            directions: directions
                .iter()
                .map(|words| Direction::of(words))
                .collect(),
            limit: None,
            offset: None,
        }
    }

    pub(super) fn describe(&self) -> String {
        let shown = match (&self.limit, &self.offset) {
            (None, None) => "all rows",
            _ => "a window of it",
        };
        format!(
            "all rows are kept in it, by {} terms; shown: {shown}",
            self.directions.len()
        )
    }
}

/// LIMIT and OFFSET of a query; `None` if one of them is no number and no parameter.
pub(super) fn bounds(
    query: &ast::Query,
    parameters: &[Parameter],
) -> Option<(Option<Bound>, Option<Bound>)> {
    let (limit, offset) = match &query.limit_clause {
        None => (None, None),
        Some(LimitClause::LimitOffset {
            limit,
            offset,
            limit_by,
        }) if limit_by.is_empty() => (limit.as_ref(), offset.as_ref().map(|offset| &offset.value)),
        Some(_) => return None,
    };
    let mut limit = match limit {
        Some(Expr::Identifier(word)) if word.value.eq_ignore_ascii_case("all") => None,
        Some(expr) => Some(bound(expr, parameters)?),
        None => None,
    };
    if let Some(fetch) = &query.fetch {
        if fetch.with_ties || fetch.percent {
            return None;
        }
        limit = Some(match &fetch.quantity {
            Some(expr) => bound(expr, parameters)?,
            None => Bound::Count(1),
        });
    }
    let offset = match offset {
        Some(expr) => Some(bound(expr, parameters)?),
        None => None,
    };
    Some((limit, offset))
}

fn bound(expr: &Expr, parameters: &[Parameter]) -> Option<Bound> {
    let Expr::Value(value) = expr else {
        return None;
    };
    match &value.value {
        ast::Value::Number(digits, _) => digits.parse().ok().map(Bound::Count),
        ast::Value::Placeholder(name) => {
            let number: usize = name.strip_prefix('$')?.parse().ok()?;
            let index = number.checked_sub(1)?;
            let is_integer = parameters.get(index)?.pg_type.is_integer();
            is_integer.then_some(Bound::Parameter(index))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_are_those_of_sqlite() {
        for (words, descending, nulls_first) in [
            ("", false, true),
            (" NULLS LAST", false, false),
            (" DESC", true, false),
            (" DESC NULLS FIRST", true, true),
        ] {
            let expected = Direction {
                descending,
                nulls_first,
            };
            assert_eq!(Direction::of(words), expected, "{words}");
        }
    }
}
