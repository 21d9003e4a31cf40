//! GRANT and REVOKE of EXECUTE on functions and procedures: forms that sqlparser reads for one
//! function alone.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::tokenizer::Token;

use super::text::Reader;
use super::{grant, permit};
use crate::catalog::{Definition, Privilege, Privileges, QualifiedName, Routine};
use crate::plan::PlanKind;

/// What a statement says beside the routines.
struct Terms {
    revoke: bool,
    grantees: Vec<Option<String>>,
    /// WITH GRANT OPTION, GRANT OPTION FOR.
    option: bool,
    cascade: bool,
}

impl Reader<'_> {
    /// After GRANT or REVOKE; nothing is read unless it is about routines.
    pub(super) fn grant_routines(&mut self, revoke: bool) -> Result<Option<PlanKind>, SqlError> {
        let option_for = revoke && self.words(&["GRANT", "OPTION", "FOR"]);
        let known = if self.word("ALL") {
            self.word("PRIVILEGES");
            true
        } else {
            self.word("EXECUTE")
        };
        if !known || !self.word("ON") {
            return Ok(None);
        }
        let routines = if self.words(&["ALL", "FUNCTIONS", "IN", "SCHEMA"]) {
            self.all_routines(Some(false))?
        } else if self.words(&["ALL", "PROCEDURES", "IN", "SCHEMA"]) {
            self.all_routines(Some(true))?
        } else if self.words(&["ALL", "ROUTINES", "IN", "SCHEMA"]) {
            self.all_routines(None)?
        } else if self.word("FUNCTION") {
            self.named_routines(Some(false))?
        } else if self.word("PROCEDURE") {
            self.named_routines(Some(true))?
        } else if self.word("ROUTINE") {
            self.named_routines(None)?
        } else {
            return Ok(None);
        };
        let terms = self.terms(revoke, option_for)?;
        self.end()?;
        let mut change = self.change(if revoke { "REVOKE" } else { "GRANT" });
        for routine in routines {
            let name = routine.name.name.clone();
            let mut definition = Definition::Routine(routine);
            let wanted = Privileges::NONE.with(Privilege::Execute);
            let Some((grantor, privileges)) =
                grant::grantor(&definition, self.context, None, wanted)?
            else {
                let word = if revoke {
                    "could be revoked"
                } else {
                    "were granted"
                };
                change
                    .notices
                    .push(format!("no privileges {word} for \"{name}\""));
                continue;
            };
            let Some(access) = definition.access_mut() else {
                continue;
            };
            for grantee in &terms.grantees {
                if terms.revoke {
                    grant::take(
                        access,
                        grantee.as_deref(),
                        &grantor,
                        None,
                        privileges,
                        terms.option,
                        terms.cascade,
                    )?;
                } else {
                    grant::add(
                        access,
                        grantee.clone(),
                        &grantor,
                        None,
                        privileges,
                        terms.option,
                    );
                }
            }
            grant::put_if_changed(&mut change, definition);
        }
        Ok(Some(change.finish()))
    }

    fn all_routines(&mut self, procedure: Option<bool>) -> Result<Vec<Routine>, SqlError> {
        loop {
            let schema = self.ident()?;
            super::names::check_schema(&QualifiedName::new(schema, ""))?;
            if !self.parser.consume_token(&Token::Comma) {
                break;
            }
        }
        let mut all: Vec<Routine> = self
            .catalog
            .routines
            .values()
            .filter(|routine| procedure.is_none_or(|is| routine.procedure == is))
            .map(|routine| Routine::clone(routine))
            .collect();
        all.sort_unstable_by_key(|routine| routine.id);
        Ok(all)
    }

    fn named_routines(&mut self, procedure: Option<bool>) -> Result<Vec<Routine>, SqlError> {
        let mut named = Vec::new();
        loop {
            named.push(Routine::clone(&*self.routine_named(procedure)??));
            if !self.parser.consume_token(&Token::Comma) {
                return Ok(named);
            }
        }
    }

    /// `TO roles WITH GRANT OPTION`, `FROM roles CASCADE`.
    fn terms(&mut self, revoke: bool, option_for: bool) -> Result<Terms, SqlError> {
        if !self.word(if revoke { "FROM" } else { "TO" }) {
            return Err(self.unexpected());
        }
        let mut terms = Terms {
            revoke,
            grantees: Vec::new(),
            option: option_for,
            cascade: false,
        };
        loop {
            self.word("GROUP");
            let name = self.ident()?;
            terms.grantees.push(match name.as_str() {
                "public" => None,
                name => Some(permit::role(name, self.context)?),
            });
            if !self.parser.consume_token(&Token::Comma) {
                break;
            }
        }
        if !revoke && self.words(&["WITH", "GRANT", "OPTION"]) {
            if terms.grantees.contains(&None) {
                return Err(SqlError::new(
                    ErrorCode::InvalidGrantOperation,
                    "grant options can only be granted to roles",
                ));
            }
            terms.option = true;
        }
        if self.words(&["GRANTED", "BY"]) {
            let by = self.ident()?;
            if permit::role(&by, self.context)? != *self.context.identity.role {
                return Err(SqlError::new(
                    ErrorCode::FeatureNotSupported,
                    "grantor must be current user",
                ));
            }
        }
        if revoke {
            terms.cascade = self.word("CASCADE");
            self.word("RESTRICT");
        }
        Ok(terms)
    }
}
