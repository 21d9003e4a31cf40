//! `ALTER TABLE … ALTER CONSTRAINT`: whether a foreign key waits for the end of the transaction.

use springhead_proto::{ErrorCode, SqlError};

use super::change::Change;
use super::draft::Draft;
use super::text::Reader;
use crate::catalog::QualifiedName;
use crate::plan::PlanKind;

impl Reader<'_> {
    /// `ALTER CONSTRAINT name [NOT] DEFERRABLE [INITIALLY …]`: whether a foreign key waits is looked up
    /// when it counts, so that nothing else changes.
    pub(super) fn alter_constraint(&mut self, name: &QualifiedName) -> Result<PlanKind, SqlError> {
        let constraint = self.ident()?;
        let (mut deferrable, mut deferred) = (None, None);
        loop {
            if self.words(&["NOT", "DEFERRABLE"]) {
                deferrable = Some(false);
            } else if self.word("DEFERRABLE") {
                deferrable = Some(true);
            } else if self.words(&["INITIALLY", "DEFERRED"]) {
                deferred = Some(true);
            } else if self.words(&["INITIALLY", "IMMEDIATE"]) {
                deferred = Some(false);
            } else {
                break;
            }
        }
        self.end()?;
        if deferrable == Some(false) && deferred == Some(true) {
            return Err(SqlError::new(
                ErrorCode::SyntaxError,
                "constraint declared INITIALLY DEFERRED must be DEFERRABLE",
            ));
        }
        let initially_deferred = deferred.unwrap_or(false);
        let deferrable = deferrable.unwrap_or(initially_deferred);
        let mut change = self.change("ALTER TABLE");
        defer(
            &mut change,
            name,
            &constraint,
            (deferrable, initially_deferred),
        )?;
        Ok(change.finish())
    }
}

/// Says anew whether a foreign key may wait for the end of the transaction, and whether it does.
///
/// # Errors
/// 42704 if there is no such constraint, 42809 if it is no foreign key.
fn defer(
    change: &mut Change<'_>,
    name: &QualifiedName,
    constraint: &str,
    (deferrable, initially_deferred): (bool, bool),
) -> Result<(), SqlError> {
    let table = super::alter::own(change, name)?;
    let mut draft = Draft::new(&table);
    let key = (draft.table.foreign_keys.iter_mut()).find(|key| key.name == constraint);
    let Some(key) = key else {
        let relation = &table.name.name;
        return Err(if table.constraint_names().any(|name| name == constraint) {
            SqlError::new(
                ErrorCode::WrongObjectType,
                format!(
                    "constraint \"{constraint}\" of relation \"{relation}\" is not a foreign key constraint"
                ),
            )
        } else {
            SqlError::new(
                ErrorCode::UndefinedObject,
                format!("constraint \"{constraint}\" of relation \"{relation}\" does not exist"),
            )
        });
    };
    (key.deferrable, key.initially_deferred) = (deferrable, initially_deferred);
    draft.write(change)
}
