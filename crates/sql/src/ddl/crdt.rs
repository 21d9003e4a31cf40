//! `TEXT CRDT` and `LIST CRDT`: columns whose concurrent edits merge. For PostgreSQL's clients they are
//! `text` and `jsonb`; each has a hidden column beside it, named after it, with the edits that its
//! value comes of.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{ColumnDef, DataType};
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::table::plain_column;
use crate::catalog::{Column, Crdt, CrdtKind, Table};
use crate::types::PgType;

/// The types as one word each; nobody can have named a type so, with a blank, without quotes.
const TEXT: &str = "text crdt";
const LIST: &str = "list crdt";

/// Makes one word of `TEXT CRDT` and `LIST CRDT` in a definition, which the parser takes for a type's
/// name.
pub(crate) fn join_words(tokens: &mut Vec<TokenWithSpan>) {
    let defines = tokens.iter().find_map(|token| match &token.token {
        Token::Whitespace(_) => None,
        token => Some(matches!(unquoted(token), Some(word) if
            word.keyword == Keyword::CREATE || word.keyword == Keyword::ALTER)),
    });
    if defines != Some(true) {
        return;
    }
    let mut at = 0;
    while at < tokens.len() {
        let joined = match unquoted(&tokens[at].token) {
            Some(word) if word.value.eq_ignore_ascii_case("text") => TEXT,
            Some(word) if word.value.eq_ignore_ascii_case("list") => LIST,
            _ => {
                at += 1;
                continue;
            }
        };
        let blanks = tokens[at + 1..]
            .iter()
            .take_while(|token| matches!(token.token, Token::Whitespace(_)))
            .count();
        let next = at + 1 + blanks;
        let is_crdt = tokens.get(next).and_then(|token| unquoted(&token.token));
        if is_crdt.is_some_and(|word| word.value.eq_ignore_ascii_case("crdt")) {
            tokens[at].token = Token::Word(Word {
                value: joined.to_owned(),
                quote_style: Some('"'),
                keyword: Keyword::NoKeyword,
            });
            tokens.drain(at + 1..=next);
        }
        at += 1;
    }
}

fn unquoted(token: &Token) -> Option<&Word> {
    match token {
        Token::Word(word) if word.quote_style.is_none() => Some(word),
        _ => None,
    }
}

/// What merges in a column of this type, if it is a CRDT's.
pub(crate) fn kind_of(data_type: &DataType) -> Option<CrdtKind> {
    let DataType::Custom(name, arguments) = data_type else {
        return None;
    };
    let [part] = name.0.as_slice() else {
        return None;
    };
    match part.as_ident()?.value.as_str() {
        TEXT if arguments.is_empty() => Some(CrdtKind::Text),
        LIST if arguments.is_empty() => Some(CrdtKind::List),
        _ => None,
    }
}

/// Gives those of `definitions` that are CRDT columns, which are `table`'s from `first` on, their
/// states.
///
/// # Errors
/// 42701 if another column has the state's name.
pub(super) fn add_states(
    table: &mut Table,
    first: usize,
    definitions: &[ColumnDef],
) -> Result<(), SqlError> {
    for (place, definition) in (first..).zip(definitions) {
        if let Some(kind) = kind_of(&definition.data_type) {
            let name = table.columns[place].name.clone();
            add_state(table, place, kind, &name)?;
        }
    }
    Ok(())
}

/// Makes the column at `place` one that merges.
///
/// # Errors
/// 42701 if another column has the state's name.
pub(super) fn add_state(
    table: &mut Table,
    place: usize,
    kind: CrdtKind,
    name: &str,
) -> Result<(), SqlError> {
    let name = state_name(name);
    if table.columns.iter().any(|column| column.name == name) {
        return Err(SqlError::new(
            ErrorCode::DuplicateColumn,
            format!("column \"{name}\" specified more than once"),
        )
        .with_detail("It is the name of what a CRDT column keeps beside it."));
    }
    let id = table.next_column_id;
    table.next_column_id += 1;
    let mut state = plain_column(id, name, PgType::Bytea);
    state.hidden = true;
    table.columns.push(state);
    table.columns[place].crdt = Some(Crdt { kind, state: id });
    Ok(())
}

/// The name of a CRDT column's state.
pub(crate) fn state_name(column: &str) -> String {
    format!("{column}{}", Column::CRDT_STATE)
}

/// # Errors
/// 42P16 for a CRDT column in the primary key; 0A000 for one that is computed.
pub(super) fn check_constraints(table: &Table) -> Result<(), SqlError> {
    for (place, column) in table.columns.iter().enumerate() {
        if column.crdt.is_none() {
            continue;
        }
        if table.key.contains(&place) {
            return Err(SqlError::new(
                ErrorCode::InvalidTableDefinition,
                format!("CRDT column \"{}\" cannot be in a primary key", column.name),
            )
            .with_hint("A key tells documents apart and does not change."));
        }
        if column.generated.is_some() {
            return Err(SqlError::unsupported(format_args!(
                "a generated CRDT column, \"{}\",",
                column.name
            )));
        }
    }
    Ok(())
}

/// # Errors
/// 0A000 where a type, old or new, is a CRDT's: what others have edited cannot be carried over.
pub(super) fn refuse_other_type(column: &Column, to: &DataType) -> Result<(), SqlError> {
    if column.crdt.is_none() && kind_of(to).is_none() {
        return Ok(());
    }
    Err(SqlError::unsupported(format_args!(
        "changing the type of \"{}\" to or from a CRDT's",
        column.name
    ))
    .with_hint("Add a column of the new type, UPDATE it from the old one, and drop that."))
}
