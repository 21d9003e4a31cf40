//! Identity columns in the forms of ALTER TABLE that sqlparser does not read.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{AlterColumnOperation, GeneratedAs, Ident};
use sqlparser::tokenizer::Token;

use super::alter::{alter_column, own};
use super::change::Change;
use super::draft::Draft;
use super::names::duplicate_relation;
use super::sequence::{self, Options};
use super::text::Reader;
use crate::catalog::{QualifiedName, Sequence};
use crate::plan::PlanKind;

impl Reader<'_> {
    /// `SET GENERATED ALWAYS | BY DEFAULT`.
    pub(super) fn generated_again(&mut self) -> Option<bool> {
        if self.words(&["SET", "GENERATED", "ALWAYS"]) {
            Some(true)
        } else if self.words(&["SET", "GENERATED", "BY", "DEFAULT"]) {
            Some(false)
        } else {
            None
        }
    }

    /// `RESTART WITH 5`, `SET INCREMENT BY 2`: what an identity column's sequence is to be like.
    pub(super) fn identity_options(&mut self) -> Result<Option<Options>, SqlError> {
        let is_option = |token: &Token| match token {
            Token::Word(word) => [
                "increment",
                "minvalue",
                "maxvalue",
                "start",
                "cache",
                "cycle",
            ]
            .iter()
            .any(|option| word.value.eq_ignore_ascii_case(option)),
            _ => false,
        };
        let is = |token: &Token, wanted: &str| matches!(token, Token::Word(word) if word.value.eq_ignore_ascii_case(wanted));
        let first = self.parser.peek_nth_token(0).token;
        let second = self.parser.peek_nth_token(1).token;
        if !(is(&first, "restart") || is(&first, "set") && is_option(&second)) {
            return Ok(None);
        }
        self.word("SET");
        self.sequence_options().map(Some)
    }
}

/// DROP IDENTITY [IF EXISTS], which sqlparser does not read.
pub(super) fn drop(
    mut change: Change<'_>,
    name: &QualifiedName,
    column: &str,
    if_exists: bool,
) -> Result<PlanKind, SqlError> {
    let table = own(&change, name)?;
    let mut draft = Draft::new(&table);
    let (place, found) = draft.table.expect_column(column)?;
    if !found.identity {
        let message = format!(
            "column \"{column}\" of relation \"{}\" is not an identity column",
            name.name
        );
        if if_exists {
            change.notices.push(format!("{message}, skipping"));
            return Ok(change.finish());
        }
        return Err(SqlError::new(ErrorCode::ObjectNotInState, message));
    }
    let sequence = found.sequence;
    let column = &mut draft.table.columns[place];
    (column.sequence, column.identity, column.identity_always) = (None, false, false);
    draft.write(&mut change)?;
    if let Some(sequence) = sequence {
        sequence::remove(&mut change, sequence);
    }
    Ok(change.finish())
}

/// `ALTER COLUMN … ADD GENERATED … AS IDENTITY (SEQUENCE NAME …)`, as dumps have it.
pub(super) fn add(
    mut change: Change<'_>,
    name: &QualifiedName,
    column: &str,
    always: bool,
    options: &sequence::Options,
) -> Result<PlanKind, SqlError> {
    let table = own(&change, name)?;
    let mut draft = Draft::new(&table);
    let (place, _) = draft.table.expect_column(column)?;
    let operation = AlterColumnOperation::AddGenerated {
        generated_as: Some(if always {
            GeneratedAs::Always
        } else {
            GeneratedAs::ByDefault
        }),
        sequence_options: None,
    };
    alter_column(
        &mut change,
        &mut draft,
        &Ident::with_quote('"', column),
        &operation,
    )?;
    let made = draft.table.columns[place]
        .sequence
        .and_then(|id| change.catalog.sequence(id).cloned());
    if let Some(made) = made {
        let mut made = Sequence::clone(&made);
        sequence::set_options(&mut made, options, true)?;
        if let Some(name) = &options.name {
            if change.catalog.relation(name).is_some() && *name != made.name {
                return Err(duplicate_relation(name));
            }
            made.name = name.clone();
        }
        change.put_sequence(made);
    }
    draft.write(&mut change)?;
    Ok(change.finish())
}

/// The sequence of an identity column, by its name.
///
/// # Errors
/// 42703 for an unknown column, 55000 for one that is no identity.
pub(super) fn sequence_of(
    catalog: &crate::catalog::Catalog,
    table: &QualifiedName,
    column: &str,
) -> Result<QualifiedName, SqlError> {
    let table = catalog.expect_table(table)?;
    let (_, column) = table.expect_column(column)?;
    column
        .sequence
        .filter(|_| column.identity)
        .and_then(|id| catalog.sequence(id))
        .map(|sequence| sequence.name.clone())
        .ok_or_else(|| no_identity(&table.name.name, &column.name))
}

fn no_identity(table: &str, column: &str) -> SqlError {
    SqlError::new(
        ErrorCode::ObjectNotInState,
        format!("column \"{column}\" of relation \"{table}\" is not an identity column"),
    )
}

/// SET GENERATED ALWAYS or BY DEFAULT.
///
/// # Errors
/// As [`sequence_of`].
pub(super) fn set_always(
    mut change: Change<'_>,
    table: &QualifiedName,
    column: &str,
    always: bool,
) -> Result<PlanKind, SqlError> {
    sequence_of(&change.catalog, table, column)?;
    let old = std::sync::Arc::clone(change.catalog.expect_table(table)?);
    let mut draft = Draft::new(&old);
    for changed in &mut draft.table.columns {
        if changed.name == column {
            changed.identity_always = always;
        }
    }
    draft.write(&mut change)?;
    Ok(change.finish())
}
