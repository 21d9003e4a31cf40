//! Domains: CREATE and ALTER DOMAIN. A domain's conditions are CHECKs of the tables whose columns are of
//! it, so adding one rebuilds these tables. [`super::user_type`] drops them.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::Expr;
use sqlparser::tokenizer::Token;

use super::change::Change;
use super::draft::Draft;
use super::expression;
use super::names::choose;
use super::text::Reader;
use super::type_users::tables_of;
use super::user_type::{check_new, owned_type};
use super::{permit, types};
use crate::catalog::{
    Catalog, Check, Definition, Domain, QualifiedName, Table, UserType, UserTypeKind,
};
use crate::plan::{PlanKind, Validation};

impl Reader<'_> {
    /// After CREATE DOMAIN.
    pub(super) fn create_domain(&mut self) -> Result<PlanKind, SqlError> {
        let name = self.name()?;
        self.word("AS");
        let data_type = self
            .parser
            .parse_data_type()
            .map_err(|_| self.unexpected())?;
        let (base, serial) = types::column_type(self.catalog, &name.name, &data_type)?;
        if serial {
            return Err(SqlError::new(
                ErrorCode::UndefinedObject,
                format!("type \"{data_type}\" does not exist"),
            ));
        }
        permit::create(self.catalog, self.context)?;
        let mut change = self.change("CREATE DOMAIN");
        check_new(&change.catalog, &name)?;
        let id = change.next_id()?;
        let mut domain = Domain {
            base,
            not_null: None,
            default: None,
            checks: Vec::new(),
        };
        loop {
            if self.word("DEFAULT") {
                let value = self.expression()?;
                domain.default = Some(value.to_string());
            } else if self.word("COLLATE") {
                self.collation()?;
            } else if !self.domain_constraint(&mut change, &name.name, &mut domain)? {
                break;
            }
        }
        self.end()?;
        let of = UserType {
            id,
            name,
            kind: UserTypeKind::Domain(domain),
            access: Default::default(),
        };
        change.put(Definition::Type(of.clone()));
        check_domain(&change.catalog, &of)?;
        Ok(change.finish())
    }

    fn collation(&mut self) -> Result<(), SqlError> {
        let name = self
            .parser
            .parse_object_name(false)
            .map_err(|_| self.unexpected())?;
        super::table::refuse_collation(&name)
    }

    fn expression(&mut self) -> Result<Expr, SqlError> {
        self.parser.parse_expr().map_err(|_| self.unexpected())
    }

    /// `[CONSTRAINT name] NOT NULL | NULL | CHECK (…)`; whether there is one.
    fn domain_constraint(
        &mut self,
        change: &mut Change<'_>,
        domain_name: &str,
        domain: &mut Domain,
    ) -> Result<bool, SqlError> {
        let name = if self.word("CONSTRAINT") {
            Some(self.ident()?)
        } else {
            None
        };
        if self.words(&["NOT", "NULL"]) {
            domain.not_null = Some(change.next_id()?);
        } else if self.word("NULL") {
            domain.not_null = None;
        } else if self.word("CHECK") {
            if !self.parser.consume_token(&Token::LParen) {
                return Err(self.unexpected());
            }
            let condition = self.expression()?;
            if !self.parser.consume_token(&Token::RParen) {
                return Err(self.unexpected());
            }
            let taken = |name: &str| domain.checks.iter().any(|check| check.name == name);
            let name = match name {
                Some(name) if taken(&name) => {
                    return Err(SqlError::new(
                        ErrorCode::DuplicateObject,
                        format!(
                            "constraint \"{name}\" for domain \"{domain_name}\" already exists"
                        ),
                    ));
                }
                Some(name) => name,
                None => choose(domain_name, "", "check", taken),
            };
            domain.checks.push(Check {
                id: change.next_id()?,
                name,
                expression: condition.to_string(),
            });
        } else if name.is_some() {
            return Err(self.unexpected());
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// After ALTER DOMAIN.
    pub(super) fn alter_domain(&mut self) -> Result<PlanKind, SqlError> {
        let name = self.name()?;
        let of = owned_type(self.catalog, &name, self.context)?;
        let Some(domain) = of.domain() else {
            return Err(SqlError::new(
                ErrorCode::WrongObjectType,
                format!("{} is not a domain", of.name.name),
            ));
        };
        if let Some(done) = self.alter_any(&of, "ALTER DOMAIN")? {
            return Ok(done);
        }
        let mut domain = domain.clone();
        let mut change = self.change("ALTER DOMAIN");
        if self.words(&["SET", "DEFAULT"]) {
            domain.default = Some(self.expression()?.to_string());
        } else if self.words(&["DROP", "DEFAULT"]) {
            domain.default = None;
        } else if self.words(&["SET", "NOT", "NULL"]) {
            if domain.not_null.is_none() {
                domain.not_null = Some(change.next_id()?);
            }
        } else if self.words(&["DROP", "NOT", "NULL"]) {
            domain.not_null = None;
        } else if self.word("ADD") {
            if !self.domain_constraint(&mut change, &name.name, &mut domain)? {
                return Err(self.unexpected());
            }
            // Taken, and validated at once, as with tables.
            self.words(&["NOT", "VALID"]);
        } else if self.words(&["VALIDATE", "CONSTRAINT"]) {
            self.ident()?;
        } else if self.words(&["RENAME", "CONSTRAINT"]) {
            let from = self.ident()?;
            if !self.word("TO") {
                return Err(self.unexpected());
            }
            let to = self.ident()?;
            let check = domain.checks.iter_mut().find(|check| check.name == from);
            match check {
                Some(check) => check.name = to,
                None => return Err(no_constraint(&of, &from)),
            }
        } else if self.words(&["DROP", "CONSTRAINT"]) {
            let if_exists = self.words(&["IF", "EXISTS"]);
            let dropped = self.ident()?;
            let _ = self.word("CASCADE") || self.word("RESTRICT");
            let before = domain.checks.len();
            domain.checks.retain(|check| check.name != dropped);
            if domain.checks.len() == before {
                let error = no_constraint(&of, &dropped);
                if !if_exists {
                    return Err(error);
                }
                change.notices.push(format!("{}, skipping", error.message));
            }
        } else {
            return Err(self.unexpected());
        }
        self.end()?;
        put_domain(&mut change, &of, domain)?;
        Ok(change.finish())
    }
}

fn no_constraint(of: &UserType, name: &str) -> SqlError {
    SqlError::new(
        ErrorCode::UndefinedObject,
        format!(
            "constraint \"{name}\" of domain \"{}\" does not exist",
            of.name.name
        ),
    )
}

/// The table of a domain's one value, for its conditions: a column `value`, stored as `c<id>`.
pub(super) fn value_table(domain: &Domain, column: u32) -> Table {
    let mut table = super::table::empty(0, QualifiedName::public(""));
    table.columns.push(super::table::plain_column(
        column,
        "value".to_owned(),
        domain.base.of_value(),
    ));
    table
}

/// Whether a domain's expressions can be understood.
fn check_domain(catalog: &Catalog, of: &UserType) -> Result<(), SqlError> {
    let Some(domain) = of.domain() else {
        return Ok(());
    };
    let table = value_table(domain, 0);
    for check in &domain.checks {
        expression::refuse_subquery(&check.expression, "check constraint")?;
        let purpose = expression::Purpose::Check;
        expression::storage(catalog, &table, &check.expression, purpose)?;
    }
    if let Some(default) = &domain.default {
        let purpose = expression::Purpose::Default(&domain.base);
        expression::storage(catalog, &table, default, purpose)?;
    }
    Ok(())
}

/// Puts the new form of a domain, and rebuilds the tables that use it where its conditions differ.
fn put_domain(change: &mut Change<'_>, of: &UserType, domain: Domain) -> Result<(), SqlError> {
    let old = of.domain().cloned();
    let new = UserType {
        kind: UserTypeKind::Domain(domain.clone()),
        ..of.clone()
    };
    let before = Arc::clone(&change.catalog);
    change.put(Definition::Type(new.clone()));
    check_domain(&change.catalog, &new)?;
    let same = old.is_some_and(|old| {
        old.not_null == domain.not_null
            && old.checks.len() == domain.checks.len()
            && old
                .checks
                .iter()
                .zip(&domain.checks)
                .all(|(a, b)| a.id == b.id)
    });
    if same {
        return Ok(());
    }
    for table in tables_of(&before, of.id) {
        for column in &table.columns {
            if column.pg_type.user_types().contains(&of.id) {
                require(change, &before, of, &domain, &table, column)?;
            }
        }
        let current = change.table(table.collection()).unwrap_or(table);
        Draft::new(&current).rebuild_as_it_is(change)?;
    }
    Ok(())
}

/// What existing rows must be like.
fn require(
    change: &mut Change<'_>,
    before: &Catalog,
    of: &UserType,
    domain: &Domain,
    table: &Table,
    column: &crate::catalog::Column,
) -> Result<(), SqlError> {
    let old = of.domain();
    let storage_name = table.storage_name();
    let mut demand = |condition: String, code: ErrorCode, what: &str| {
        let message = format!(
            "column \"{}\" of table \"{}\" contains {what}",
            column.name, table.name.name
        );
        let error = SqlError::new(code, message)
            .with_table(&table.name.name)
            .with_column(&column.name);
        change.preconditions.push(Validation::new(
            format!("SELECT 1 FROM {storage_name} WHERE {condition} LIMIT 1"),
            error,
        ));
    };
    if domain.not_null.is_some() && old.is_none_or(|old| old.not_null.is_none()) {
        demand(
            format!("{} IS NULL", column.storage_name()),
            ErrorCode::NotNullViolation,
            "null values",
        );
    }
    let value = value_table(domain, column.id);
    for check in &domain.checks {
        if old.is_some_and(|old| old.checks.iter().any(|other| other.id == check.id)) {
            continue;
        }
        let purpose = expression::Purpose::Check;
        let condition = expression::storage(before, &value, &check.expression, purpose)?;
        demand(
            format!("NOT ({condition})"),
            ErrorCode::CheckViolation,
            "values that violate the new constraint",
        );
    }
    Ok(())
}
