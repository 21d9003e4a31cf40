//! CALL of Springhead's own procedures. Their arguments are planned here, as a query of one row; what
//! they do is the engine's.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::Function;

use crate::catalog::QualifiedName;
use crate::functions::CastContext;
use crate::plan::{OutputColumn, OwnCall, OwnProcedure, Query};
use crate::types::PgType;

use super::Analyzer;
use super::expression::name_place;
use super::names;
use super::routine::{arguments, given_for};

/// A procedure and its parameters: name, type, whether it may be left out.
type Signature = (OwnProcedure, &'static [(&'static str, PgType, bool)]);

const SIGNATURES: [(&str, Signature); 4] = [
    (
        "retry_dead_letter",
        (
            OwnProcedure::RetryDeadLetter,
            &[
                ("id", PgType::Int8, false),
                ("operations", PgType::Jsonb, true),
            ],
        ),
    ),
    (
        "resolve_dead_letter",
        (
            OwnProcedure::ResolveDeadLetter,
            &[("id", PgType::Int8, false), ("note", PgType::Text, true)],
        ),
    ),
    (
        "redrive_dead_letters",
        (
            OwnProcedure::RedriveDeadLetters,
            &[
                ("collection", PgType::Text, false),
                ("rate_per_s", PgType::Int8, true),
            ],
        ),
    ),
    (
        "set_dead_letter_policy",
        (
            OwnProcedure::SetDeadLetterPolicy,
            &[
                ("collection", PgType::Text, false),
                ("ttl_s", PgType::Int8, true),
                ("action", PgType::Text, true),
                ("max_entries", PgType::Int8, true),
                ("on_full", PgType::Text, true),
                ("violation", PgType::Text, true),
            ],
        ),
    ),
];

impl Analyzer<'_> {
    /// The plan of CALL, if the procedure is one of Springhead's own.
    ///
    /// # Errors
    /// 42883 for one that is not there, or other arguments than it takes.
    pub(crate) fn own_procedure(
        &mut self,
        function: &Function,
    ) -> Result<Option<OwnCall>, SqlError> {
        let (schema, name) = names::schema_and_name(&function.name)?;
        if schema.as_deref() != Some(QualifiedName::SPRINGHEAD) {
            return Ok(None);
        }
        let place = name_place(&function.name);
        let given = self.given(arguments(function)?)?;
        let found = SIGNATURES.iter().find(|(known, _)| *known == name);
        let unknown = |what: String| {
            SqlError::new(ErrorCode::UndefinedFunction, what).with_hint(format!(
                "Springhead's own procedures: {}",
                SIGNATURES
                    .map(|(name, signature)| shown(name, signature.1))
                    .join("; ")
            ))
        };
        let Some((_, (procedure, parameters))) = found else {
            let what = format!("procedure springhead.{name} does not exist");
            return Err(self.at(unknown(what), place));
        };
        let is_known = |name: &str| parameters.iter().any(|(known, ..)| *known == name);
        let fits = given.len() <= parameters.len()
            && given
                .iter()
                .all(|(name, _)| name.as_deref().is_none_or(is_known));
        let mut values = Vec::with_capacity(parameters.len());
        let mut columns = Vec::with_capacity(parameters.len());
        for (index, (parameter, pg_type, optional)) in parameters.iter().enumerate() {
            match given_for(&given, index, Some(parameter)) {
                Some(value) => values.push(self.coerce(value, pg_type, CastContext::Implicit)?),
                None if *optional => values.push("NULL".to_owned()),
                None => {
                    let what = format!("springhead.{name} needs \"{parameter}\"");
                    return Err(self.at(unknown(what), place));
                }
            }
            columns.push(OutputColumn::computed(*parameter, pg_type.clone()));
        }
        if !fits {
            let what = format!("springhead.{name} does not take these arguments");
            return Err(self.at(unknown(what), place));
        }
        Ok(Some(OwnCall {
            procedure: *procedure,
            arguments: Arc::new(Query {
                sql: format!("SELECT {}", values.join(", ")),
                columns: columns.into(),
                reads: self.reads(),
                locks: false,
                nowait: false,
            }),
        }))
    }
}

fn shown(name: &str, parameters: &[(&str, PgType, bool)]) -> String {
    let list: Vec<String> = parameters
        .iter()
        .map(|(parameter, pg_type, optional)| {
            let default = if *optional { " DEFAULT …" } else { "" };
            format!("{parameter} {}{default}", pg_type.base_name())
        })
        .collect();
    format!("{name}({})", list.join(", "))
}
