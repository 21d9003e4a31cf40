//! The variables of a body: their slots, what statements see of them, and how a row gets into them.

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use super::body::{Declaration, Target};
use super::compile::Compiler;
use super::{Run, Step};
use crate::catalog::Catalog;
use crate::functions::CastContext;
use crate::query::Analyzer;
use crate::query::scope::{Frame, Relation, Scope, ScopeColumn};
use crate::query::typed::Typed;
use crate::types::PgType;

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Scalar(usize),
    /// Fields and their slots.
    Record(Vec<(String, usize)>),
    /// RECORD that has not been given a row yet.
    Open,
}

#[derive(Debug, Clone)]
pub(super) struct Variable {
    pub name: String,
    pub kind: Kind,
    pub not_null: bool,
}

impl Variable {
    pub(super) fn scalar(name: &str, slot: usize) -> Variable {
        Variable {
            name: name.to_owned(),
            kind: Kind::Scalar(slot),
            not_null: false,
        }
    }
}

impl Compiler<'_> {
    pub(super) fn slot(&mut self, ty: &PgType) -> usize {
        self.slots.push(ty.clone());
        self.slots.len() - 1
    }

    pub(super) fn declare(&mut self, name: &str, kind: Kind) {
        self.variables.push(Variable {
            name: name.to_owned(),
            kind,
            not_null: false,
        });
    }

    /// What statements see of the variables.
    pub(super) fn frame(&self) -> Frame {
        let column = |name: &str, slot: usize| ScopeColumn {
            name: name.to_owned(),
            sql: format!("?{}", slot + 1),
            ty: self.slots[slot].of_value(),
            nullable: true,
            origin: None,
            used: None,
        };
        let mut scope = Scope::default();
        for variable in self.variables.iter().rev() {
            match &variable.kind {
                Kind::Scalar(slot) => {
                    if !scope.columns.iter().any(|c| c.name == variable.name) {
                        scope.columns.push(column(&variable.name, *slot));
                    }
                }
                Kind::Record(fields) => {
                    if !scope.relations.iter().any(|r| r.alias == variable.name) {
                        scope.relations.push(relation(
                            &variable.name,
                            fields
                                .iter()
                                .map(|(name, slot)| column(name, *slot))
                                .collect(),
                        ));
                    }
                }
                Kind::Open => {}
            }
        }
        if let Some(name) = &self.around.own_name {
            let arguments = self
                .around
                .argument_names
                .iter()
                .map(|(name, slot)| column(name, *slot))
                .collect();
            scope.relations.push(relation(name, arguments));
        }
        Frame {
            scope,
            parameters: self
                .around
                .parameters
                .iter()
                .map(|&slot| column("", slot))
                .collect(),
            strict_names: self.around.strict_names,
        }
    }

    pub(super) fn convert(&self, from: usize, to: usize) -> Result<Option<Step>, SqlError> {
        if self.slots[from] == self.slots[to] && from == to {
            return Ok(None);
        }
        let mut analyzer = Analyzer::new(self.catalog, "", self.context, &[], usize::MAX);
        let value = Typed::new(format!("?{}", from + 1), self.slots[from].clone());
        let sql = analyzer.coerce(&value, &self.slots[to], CastContext::Assignment)?;
        Ok(Some(Step::Assign {
            slot: to,
            sql: format!("SELECT {sql}"),
            not_null: self.not_null(to),
        }))
    }

    pub(super) fn not_null(&self, slot: usize) -> Option<String> {
        self.variables
            .iter()
            .find_map(|variable| match variable.kind {
                Kind::Scalar(other) if other == slot && variable.not_null => {
                    Some(variable.name.clone())
                }
                _ => None,
            })
    }

    /// A declared variable that statements see from now on; its slot, unless it is a record.
    pub(super) fn declaration(
        &mut self,
        declaration: &Declaration,
    ) -> Result<Option<usize>, SqlError> {
        let kind = self.declared(&declaration.data_type)?;
        let slot = match &kind {
            Kind::Scalar(slot) => Some(*slot),
            _ => None,
        };
        self.variables.push(Variable {
            name: declaration.name.clone(),
            kind,
            not_null: declaration.not_null,
        });
        Ok(slot)
    }

    pub(super) fn declared(&mut self, text: &str) -> Result<Kind, SqlError> {
        let lower = text.trim().to_ascii_lowercase();
        if lower == "record" {
            return Ok(Kind::Open);
        }
        if let Some(of) = lower.strip_suffix("%rowtype") {
            let name = crate::catalog::QualifiedName::public(of.trim());
            let table = self.catalog.expect_table(&name)?.clone();
            let fields = table
                .visible_columns()
                .map(|(_, column)| (column.name.clone(), self.slot(&column.pg_type)))
                .collect();
            return Ok(Kind::Record(fields));
        }
        if let Some(of) = lower.strip_suffix("%type") {
            let of = of.trim();
            if let Some((table, column)) = of.rsplit_once('.') {
                let table = table.strip_prefix("public.").unwrap_or(table);
                let name = crate::catalog::QualifiedName::public(table);
                let table = self.catalog.expect_table(&name)?.clone();
                let ty = table.expect_column(column)?.1.pg_type.clone();
                return Ok(Kind::Scalar(self.slot(&ty)));
            }
            let known = self.variables.iter().rev().find(|v| v.name == of);
            if let Some(Kind::Scalar(slot)) = known.map(|v| v.kind.clone()) {
                let ty = self.slots[slot].clone();
                return Ok(Kind::Scalar(self.slot(&ty)));
            }
        }
        let ty = parse_type(self.catalog, text)?;
        Ok(Kind::Scalar(self.slot(&ty)))
    }

    /// Slots for a statement's row, and what takes it from there to the variables.
    pub(super) fn row_into(
        &mut self,
        run: &Run,
        targets: &[Target],
    ) -> Result<(Vec<usize>, Vec<Step>), SqlError> {
        let columns: Vec<(String, PgType)> = match run {
            Run::Query(query) => &query.columns,
            Run::Write(write) => &write.returning,
        }
        .iter()
        .map(|column| (column.name.clone(), column.pg_type.clone()))
        .collect();
        let slots: Vec<usize> = columns.iter().map(|(_, ty)| self.slot(ty)).collect();
        if let [target] = targets
            && let [name] = target.as_slice()
            && let Some(place) = self.variables.iter().rposition(|v| v.name == *name)
            && !matches!(self.variables[place].kind, Kind::Scalar(_))
        {
            if matches!(self.variables[place].kind, Kind::Open) {
                let fields = columns.into_iter().map(|(name, _)| name).zip(slots.clone());
                self.variables[place].kind = Kind::Record(fields.collect());
                return Ok((slots, Vec::new()));
            }
            let Kind::Record(fields) = self.variables[place].kind.clone() else {
                return Ok((slots, Vec::new()));
            };
            let mut convert = Vec::new();
            for (&from, (_, to)) in slots.iter().zip(&fields) {
                convert.extend(self.convert(from, *to)?);
            }
            return Ok((slots, convert));
        }
        let mut convert = Vec::new();
        for (index, target) in targets.iter().enumerate() {
            let to = self.target_slot(target)?;
            match slots.get(index) {
                Some(&from) => convert.extend(self.convert(from, to)?),
                None => convert.push(Step::Assign {
                    slot: to,
                    sql: "SELECT NULL".to_owned(),
                    not_null: None,
                }),
            }
        }
        Ok((slots, convert))
    }

    pub(super) fn target_slot(&self, target: &Target) -> Result<usize, SqlError> {
        let found = match target.as_slice() {
            [name] => self
                .variables
                .iter()
                .rev()
                .find(|variable| variable.name == *name)
                .and_then(|variable| match &variable.kind {
                    Kind::Scalar(slot) => Some(*slot),
                    _ => None,
                }),
            [record, field] => self
                .variables
                .iter()
                .rev()
                .find(|variable| variable.name == *record)
                .and_then(|variable| match &variable.kind {
                    Kind::Record(fields) => Some(fields),
                    _ => None,
                })
                .map(|fields| {
                    fields
                        .iter()
                        .find(|(name, _)| name == field)
                        .map(|(_, slot)| *slot)
                        .ok_or_else(|| {
                            SqlError::new(
                                ErrorCode::UndefinedColumn,
                                format!("record \"{record}\" has no field \"{field}\""),
                            )
                        })
                })
                .transpose()?,
            _ => None,
        };
        found.ok_or_else(|| {
            SqlError::new(
                ErrorCode::SyntaxError,
                format!("\"{}\" is not a known variable", target.join(".")),
            )
        })
    }

    /// The slots of a record's fields; `None` for a scalar.
    pub(super) fn fields_of(&self, name: &str) -> Option<Vec<usize>> {
        let variable = self.variables.iter().rev().find(|v| v.name == name)?;
        match &variable.kind {
            Kind::Record(fields) => Some(fields.iter().map(|(_, slot)| *slot).collect()),
            _ => None,
        }
    }
}

fn relation(alias: &str, columns: Vec<ScopeColumn>) -> Relation {
    Relation {
        alias: alias.to_owned(),
        schema: None,
        id: format!("\u{1}{alias}"),
        columns,
        key: Vec::new(),
        table_oid: None,
        is_scalar: false,
    }
}

fn parse_type(catalog: &Catalog, text: &str) -> Result<PgType, SqlError> {
    let data_type = Parser::new(&PostgreSqlDialect {})
        .try_with_sql(text)
        .and_then(|mut parser| parser.parse_data_type())
        .map_err(|_| {
            SqlError::new(
                ErrorCode::SyntaxError,
                format!("\"{text}\" is no type of a variable"),
            )
        })?;
    crate::query::data_type::pg_type(catalog, &data_type)
}
