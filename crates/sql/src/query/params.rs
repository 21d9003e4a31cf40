//! What becomes known of parameters while a statement is analyzed.

use springhead_proto::{ErrorCode, SqlError};

use crate::plan::{Assigned, Parameter};
use crate::types::PgType;

use super::Analyzer;

/// Parameters past this are refused, as PostgreSQL's protocol does.
pub(crate) const MAX_PARAMETERS: usize = 32_766;

/// A parameter.
#[derive(Debug, Clone, Default)]
pub(crate) struct ParamState {
    /// What the client said, or what a lifted literal is.
    declared: Option<PgType>,
    /// The type it is bound as.
    decided: Option<PgType>,
    assigned: Option<Assigned>,
    /// How often it has been used other than by assignment.
    uses: usize,
}

pub(super) fn declared(types: &[Option<PgType>], lifted_from: usize) -> Vec<ParamState> {
    types
        .iter()
        .enumerate()
        .map(|(index, ty)| {
            let declared = ty.clone().filter(|ty| *ty != PgType::Unknown);
            // A lifted number may still become what its context wants.
            let decided = if index < lifted_from {
                declared.clone()
            } else {
                None
            };
            ParamState {
                declared,
                decided,
                ..ParamState::default()
            }
        })
        .collect()
}

impl Analyzer<'_> {
    /// The index of `$n`; makes room for it.
    pub(crate) fn parameter(&mut self, placeholder: &str) -> Result<usize, SqlError> {
        let bad = || {
            SqlError::new(
                ErrorCode::UndefinedParameter,
                format!("there is no parameter {placeholder}"),
            )
        };
        let number: usize = placeholder
            .strip_prefix('$')
            .and_then(|n| n.parse().ok())
            .ok_or_else(bad)?;
        if number == 0 || number > MAX_PARAMETERS || self.rules.no_parameters {
            return Err(bad());
        }
        if self.params.len() < number {
            self.params.resize_with(number, ParamState::default);
        }
        Ok(number - 1)
    }

    /// Whether a parameter is a literal that was lifted out.
    pub(crate) fn is_lifted(&self, index: usize) -> bool {
        index >= self.lifted_from
    }

    /// The type as known so far: what the client declared, what a literal is, or what an earlier
    /// use decided.
    pub(crate) fn parameter_type(&self, index: usize) -> PgType {
        let param = &self.params[index];
        let known = if self.is_lifted(index) {
            &param.declared
        } else {
            &param.decided
        };
        known.clone().unwrap_or(PgType::Unknown)
    }

    /// Binds a parameter as `ty`. False if it is bound as another type already.
    pub(crate) fn decide(&mut self, index: usize, ty: &PgType) -> bool {
        let param = &mut self.params[index];
        param.uses += 1;
        if param.uses > 1 {
            param.assigned = None;
        }
        match &param.decided {
            Some(decided) => decided == ty,
            None => {
                param.decided = Some(ty.clone());
                true
            }
        }
    }

    /// Binds a parameter as a column's type, checked as the column demands when it is bound. False
    /// if it is bound otherwise already.
    pub(crate) fn assign_parameter(
        &mut self,
        index: usize,
        ty: &PgType,
        assigned: Assigned,
    ) -> bool {
        let first = self.params[index].uses == 0;
        if !self.decide(index, ty) {
            return false;
        }
        if first {
            self.params[index].assigned = Some(assigned);
        }
        first
    }

    /// Whether a parameter is checked against a column when it is bound.
    pub(crate) fn is_checked(&self, index: usize) -> bool {
        self.params[index]
            .assigned
            .as_ref()
            .is_some_and(|assigned| assigned.not_null)
    }

    /// Every parameter's type.
    pub(crate) fn finish_parameters(self) -> Result<Vec<Parameter>, SqlError> {
        let lifted_from = self.lifted_from;
        self.params
            .into_iter()
            .enumerate()
            .map(|(index, param)| {
                let ty = param.decided.or(param.declared);
                match ty {
                    Some(pg_type) => Ok(Parameter {
                        pg_type,
                        assigned_to: param.assigned,
                    }),
                    // A lifted string that nothing uses cannot be; a gap in the numbers can.
                    None if index >= lifted_from => Ok(Parameter {
                        pg_type: PgType::Text,
                        assigned_to: None,
                    }),
                    None => Err(SqlError::new(
                        ErrorCode::IndeterminateDatatype,
                        format!("could not determine data type of parameter ${}", index + 1),
                    )),
                }
            })
            .collect()
    }
}
