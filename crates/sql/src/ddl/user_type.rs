//! Enums and domains: CREATE, ALTER and DROP TYPE and DOMAIN.
//!
//! An enum's values are stored as labels, so a new one changes no row, and a renamed one is an UPDATE
//! of the rows that hold it. A domain's conditions are CHECKs of the tables whose columns are of it,
//! so adding one rebuilds these tables.

use std::sync::Arc;

use springhead_proto::{CollectionId, ErrorCode, SqlError};
use sqlparser::ast::Expr;
use sqlparser::tokenizer::Token;

use super::change::Change;
use super::depend::{Dependent, Dependents};
use super::draft::Draft;
use super::expression;
use super::names::{check_schema, choose};
use super::text::Reader;
use super::{permit, storage, types};
use crate::catalog::{
    BOOTSTRAP_ROLE, Catalog, Check, Definition, Domain, QualifiedName, Table, UserType,
    UserTypeKind,
};
use crate::plan::{PlanKind, Validation, display_name};
use crate::planner::PlanContext;
use crate::query::names::quote_text;
use crate::types::PgType;

/// The most bytes of a label, as of a name.
const MAX_LABEL_BYTES: usize = super::names::MAX_NAME_BYTES;

impl Reader<'_> {
    /// After CREATE TYPE.
    pub(super) fn create_type(&mut self) -> Result<PlanKind, SqlError> {
        let name = self.name()?;
        if !self.words(&["AS", "ENUM"]) {
            let what = if self.words(&["AS", "RANGE"]) {
                "CREATE TYPE … AS RANGE"
            } else if self.word("AS") {
                "CREATE TYPE … AS (…), a composite type,"
            } else {
                "CREATE TYPE of a base type"
            };
            return Err(SqlError::unsupported(what));
        }
        let labels = self.labels()?;
        self.end()?;
        permit::create(self.catalog, self.context)?;
        let mut change = self.change("CREATE TYPE");
        check_new(&change.catalog, &name)?;
        let id = change.next_id()?;
        change.put(Definition::Type(UserType {
            id,
            name,
            kind: UserTypeKind::Enum(labels),
            access: Default::default(),
        }));
        Ok(change.finish())
    }

    fn labels(&mut self) -> Result<Vec<String>, SqlError> {
        if !self.parser.consume_token(&Token::LParen) {
            return Err(self.unexpected());
        }
        let mut labels: Vec<String> = Vec::new();
        if self.parser.consume_token(&Token::RParen) {
            return Ok(labels);
        }
        loop {
            let label = self.label()?;
            if labels.contains(&label) {
                return Err(SqlError::new(
                    ErrorCode::UniqueViolation,
                    "duplicate key value violates unique constraint \"pg_enum_typid_label_index\"",
                ));
            }
            labels.push(label);
            if self.parser.consume_token(&Token::RParen) {
                return Ok(labels);
            }
            if !self.parser.consume_token(&Token::Comma) {
                return Err(self.unexpected());
            }
        }
    }

    fn label(&mut self) -> Result<String, SqlError> {
        let label = match self.parser.next_token().token {
            Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) => text,
            other => return Err(self.syntax_error(&other.to_string())),
        };
        if label.len() > MAX_LABEL_BYTES {
            return Err(SqlError::new(
                ErrorCode::InvalidName,
                format!("invalid enum label \"{label}\""),
            )
            .with_detail(format!("Labels must be {MAX_LABEL_BYTES} bytes or less.")));
        }
        Ok(label)
    }

    /// After ALTER TYPE.
    pub(super) fn alter_type(&mut self) -> Result<PlanKind, SqlError> {
        let name = self.name()?;
        let of = owned_type(self.catalog, &name, self.context)?;
        if let Some(done) = self.alter_any(&of, "ALTER TYPE")? {
            return Ok(done);
        }
        let UserTypeKind::Enum(labels) = &of.kind else {
            return Err(not_an_enum(&of));
        };
        let mut labels = labels.clone();
        if self.words(&["ADD", "VALUE"]) {
            let if_not_exists = self.words(&["IF", "NOT", "EXISTS"]);
            let label = self.label()?;
            let beside = if self.word("BEFORE") {
                Some((self.label()?, 0))
            } else if self.word("AFTER") {
                Some((self.label()?, 1))
            } else {
                None
            };
            self.end()?;
            let mut change = self.change("ALTER TYPE");
            if labels.contains(&label) {
                let message = format!("enum label \"{label}\" already exists");
                if if_not_exists {
                    change.notices.push(format!("{message}, skipping"));
                    return Ok(change.finish());
                }
                return Err(SqlError::new(ErrorCode::DuplicateObject, message));
            }
            let place = match beside {
                Some((beside, after)) => place_of(&labels, &beside)? + after,
                None => labels.len(),
            };
            labels.insert(place, label);
            put_labels(&mut change, &of, labels);
            refuse_kept_order(&change, self.catalog, &of)?;
            return Ok(change.finish());
        }
        if self.words(&["RENAME", "VALUE"]) {
            let from = self.label()?;
            if !self.word("TO") {
                return Err(self.unexpected());
            }
            let to = self.label()?;
            self.end()?;
            let place = place_of(&labels, &from)?;
            if labels.contains(&to) {
                return Err(SqlError::new(
                    ErrorCode::DuplicateObject,
                    format!("enum label \"{to}\" already exists"),
                ));
            }
            labels[place].clone_from(&to);
            let mut change = self.change("ALTER TYPE");
            put_labels(&mut change, &of, labels);
            rename_in_definitions(&mut change, &of, &from, &to)?;
            refuse_kept_order(&change, self.catalog, &of)?;
            rename_in_rows(&mut change, &of, &from, &to);
            return Ok(change.finish());
        }
        Err(SqlError::unsupported("ALTER TYPE of this form"))
    }

    /// What can be done to any type: OWNER TO, RENAME TO, SET SCHEMA.
    fn alter_any(
        &mut self,
        of: &Arc<UserType>,
        tag: &'static str,
    ) -> Result<Option<PlanKind>, SqlError> {
        if self.words(&["OWNER", "TO"]) {
            let owner = self.ident()?;
            self.end()?;
            let mut of = UserType::clone(of);
            permit::change_owner(&mut of.access, permit::new_owner(&owner, self.context)?);
            let mut change = self.change(tag);
            change.put(Definition::Type(of));
            return Ok(Some(change.finish()));
        }
        if self.words(&["SET", "SCHEMA"]) {
            return self.set_schema(tag).map(Some);
        }
        if self.words(&["RENAME", "TO"]) {
            let to = QualifiedName::public(self.ident()?);
            self.end()?;
            let mut change = self.change(tag);
            check_new(&change.catalog, &to)?;
            if let Some(what) = mentioned_by(&change.catalog, &of.name.name) {
                return Err(SqlError::unsupported(format_args!(
                    "renaming the type \"{}\" while {what} names it",
                    of.name.name
                )));
            }
            let mut of = UserType::clone(of);
            of.name = to;
            change.put(Definition::Type(of));
            return Ok(Some(change.finish()));
        }
        Ok(None)
    }

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

    /// After DROP TYPE or DROP DOMAIN.
    pub(super) fn drop_types(&mut self, tag: &'static str) -> Result<PlanKind, SqlError> {
        let if_exists = self.words(&["IF", "EXISTS"]);
        let mut names = vec![self.name()?];
        while self.parser.consume_token(&Token::Comma) {
            names.push(self.name()?);
        }
        let cascade = self.word("CASCADE");
        self.word("RESTRICT");
        self.end()?;
        let mut change = self.change(tag);
        let mut going = Vec::new();
        for name in &names {
            match owned_type(self.catalog, name, self.context) {
                Ok(of) if tag == "DROP DOMAIN" && of.domain().is_none() => {
                    return Err(SqlError::new(
                        ErrorCode::WrongObjectType,
                        format!("\"{}\" is not a domain", of.name.name),
                    ));
                }
                Ok(of) => going.push(of),
                Err(error) if if_exists && error.code == ErrorCode::UndefinedObject => {
                    change.notices.push(format!("{}, skipping", error.message));
                }
                Err(error) => return Err(error),
            }
        }
        let mut dependents = Dependents::default();
        for of in &going {
            let on = format!("type {}", of.name.name);
            add_dependents(&change, &mut dependents, of, &on);
        }
        let gone: Vec<Dependent> = going.iter().map(|of| Dependent::Type(of.id)).collect();
        dependents.without(&gone);
        let subject = match going.as_slice() {
            [one] => Some(format!("type {}", one.name.name)),
            _ => None,
        };
        dependents.resolve(&mut change, subject.as_deref(), cascade)?;
        for of in going {
            change.drop(Definition::Type(UserType::clone(&of)));
        }
        Ok(change.finish())
    }
}

fn not_an_enum(of: &UserType) -> SqlError {
    SqlError::new(
        ErrorCode::WrongObjectType,
        format!("{} is not an enum", of.name.name),
    )
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

fn place_of(labels: &[String], label: &str) -> Result<usize, SqlError> {
    labels
        .iter()
        .position(|known| known == label)
        .ok_or_else(|| {
            SqlError::new(
                ErrorCode::InvalidParameterValue,
                format!("\"{label}\" is not an existing enum label"),
            )
        })
}

/// Refuses a name that is taken: a relation's row type has the relation's.
fn check_new(catalog: &Catalog, name: &QualifiedName) -> Result<(), SqlError> {
    check_schema(name)?;
    if catalog.type_named(name).is_some() || catalog.relation(name).is_some() {
        return Err(SqlError::new(
            ErrorCode::DuplicateObject,
            format!("type \"{}\" already exists", name.name),
        ));
    }
    Ok(())
}

/// The type of this name, if it may be altered.
pub(super) fn owned_type(
    catalog: &Catalog,
    name: &QualifiedName,
    context: &PlanContext,
) -> Result<Arc<UserType>, SqlError> {
    let Some(of) = catalog.type_named(name) else {
        return Err(SqlError::new(
            ErrorCode::UndefinedObject,
            format!("type \"{}\" does not exist", display_name(name)),
        ));
    };
    let owner = of.access.owner.as_deref().unwrap_or(BOOTSTRAP_ROLE);
    if context.identity.superuser || context.identity.is_member_of(owner) {
        return Ok(Arc::clone(of));
    }
    Err(SqlError::new(
        ErrorCode::InsufficientPrivilege,
        format!("must be owner of type {}", of.name.name),
    ))
}

fn put_labels(change: &mut Change<'_>, of: &UserType, labels: Vec<String>) {
    change.put(Definition::Type(UserType {
        kind: UserTypeKind::Enum(labels),
        ..of.clone()
    }));
}

/// The tables with columns of the type, or of one over it.
fn tables_of(catalog: &Catalog, id: u32) -> Vec<Arc<Table>> {
    let uses = |ty: &PgType| ty.user_types().contains(&id);
    catalog
        .tables_by_id()
        .into_iter()
        .filter(|table| table.columns.iter().any(|column| uses(&column.pg_type)))
        .cloned()
        .collect()
}

/// SQLite keeps the order of an enum's values where a CHECK, an index or a generated column compares
/// them: there it cannot change.
fn refuse_kept_order(change: &Change<'_>, before: &Catalog, of: &UserType) -> Result<(), SqlError> {
    for old in tables_of(before, of.id) {
        let Some(new) = change.table(old.collection()) else {
            continue;
        };
        if storage::create(before, &old)? != storage::create(&change.catalog, &new)? {
            return Err(SqlError::unsupported(format_args!(
                "changing the values of the type \"{}\" while a constraint, an index or a generated column of the table \"{}\" compares them",
                of.name.name, old.name.name
            )));
        }
    }
    Ok(())
}

/// Rows that hold a value under its old label.
fn rename_in_rows(change: &mut Change<'_>, of: &UserType, from: &str, to: &str) {
    let (from, to) = (quote_text(from), quote_text(to));
    for table in tables_of(&change.catalog, of.id) {
        for column in &table.columns {
            if !column.pg_type.user_types().contains(&of.id) || column.generated.is_some() {
                continue;
            }
            let (table, column, ty) = (
                table.storage_name(),
                column.storage_name(),
                column.pg_type.of_value(),
            );
            change.updates.push(if matches!(ty, PgType::Array(_)) {
                format!(
                    "UPDATE {table} SET {column} = (SELECT json_group_array(CASE WHEN e.value = {from} THEN {to} ELSE e.value END) FROM json_each({table}.{column}) AS e) WHERE EXISTS (SELECT 1 FROM json_each({table}.{column}) AS e WHERE e.value = {from})"
                )
            } else {
                format!("UPDATE {table} SET {column} = {to} WHERE {column} = {from}")
            });
        }
    }
}

/// Defaults get the new label; what else is written with the old one stands in the way.
fn rename_in_definitions(
    change: &mut Change<'_>,
    of: &UserType,
    from: &str,
    to: &str,
) -> Result<(), SqlError> {
    let holds = |text: &str| expression::has_string(text, from);
    let refuse = |what: String| {
        Err(SqlError::unsupported(format_args!(
            "renaming the value \"{from}\" of the type \"{}\" while {what} names it",
            of.name.name
        )))
    };
    for table in tables_of(&change.catalog, of.id) {
        let mut new = Table::clone(&table);
        for column in &mut new.columns {
            let is_of = column.pg_type.user_types().contains(&of.id);
            if let (Some(default), true) = (&column.default, is_of)
                && holds(default)
            {
                column.default = Some(expression::replace_string(default, from, to)?);
            }
            if column.generated.as_deref().is_some_and(holds) {
                return refuse(format!("the generated column \"{}\"", column.name));
            }
        }
        if let Some(check) = new.checks.iter().find(|check| holds(&check.expression)) {
            return refuse(format!("the constraint \"{}\"", check.name));
        }
        let index = new.indexes.iter().find(|index| {
            index
                .keys
                .iter()
                .chain(&index.predicate)
                .any(|text| holds(text))
        });
        if let Some(index) = index {
            return refuse(format!("the index \"{}\"", index.name));
        }
        let policy = new.access.policies.iter().find(|policy| {
            [&policy.using, &policy.check]
                .into_iter()
                .flatten()
                .any(|text| holds(text))
        });
        if let Some(policy) = policy {
            return refuse(format!("the policy \"{}\"", policy.name));
        }
        if new != *table {
            change.put_table(new);
        }
    }
    let catalog = Arc::clone(&change.catalog);
    if let Some(view) = catalog.views.values().find(|view| holds(&view.query)) {
        return refuse(format!("the view \"{}\"", view.name.name));
    }
    if let Some(routine) = catalog
        .routines
        .values()
        .find(|routine| holds(&routine.body))
    {
        return refuse(format!("the function \"{}\"", routine.name.name));
    }
    let trigger = catalog
        .triggers
        .values()
        .find(|trigger| trigger.condition.as_deref().is_some_and(holds));
    if let Some(trigger) = trigger {
        return refuse(format!("the trigger \"{}\"", trigger.name.name));
    }
    Ok(())
}

/// A definition's text that says a type's name.
fn mentioned_by(catalog: &Catalog, name: &str) -> Option<String> {
    let says = |text: &str| expression::mentions(text, name);
    for table in catalog.tables_by_id() {
        let in_column = table.columns.iter().any(|column| {
            [&column.default, &column.generated]
                .into_iter()
                .flatten()
                .any(|text| says(text))
        });
        let in_rest = table.checks.iter().any(|check| says(&check.expression))
            || table.indexes.iter().any(|index| {
                index
                    .keys
                    .iter()
                    .chain(&index.predicate)
                    .any(|text| says(text))
            });
        if in_column || in_rest {
            return Some(format!("the table \"{}\"", table.name.name));
        }
    }
    if let Some(view) = catalog.views.values().find(|view| says(&view.query)) {
        return Some(format!("the view \"{}\"", view.name.name));
    }
    catalog
        .routines
        .values()
        .find(|routine| says(&routine.body))
        .map(|routine| format!("the function \"{}\"", routine.name.name))
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

/// What goes with a type.
fn add_dependents(change: &Change<'_>, dependents: &mut Dependents, of: &UserType, on: &str) {
    let uses = |ty: &PgType| ty.user_types().contains(&of.id);
    let name = &of.name.name;
    let says = |text: &str| expression::mentions(text, name);
    let catalog = Arc::clone(&change.catalog);
    for table in catalog.tables_by_id() {
        let id: CollectionId = table.collection();
        for column in &table.columns {
            if uses(&column.pg_type) {
                let column_name = column.name.clone();
                dependents.add(
                    Dependent::Column {
                        table: id,
                        column: column.id,
                    },
                    on,
                );
                let on = format!("column {column_name} of table {}", table.name.name);
                dependents.add_views(change, table.id, &on, &|view| {
                    expression::mentions(&view.query, &column_name)
                });
            } else if column.default.as_deref().is_some_and(says) {
                dependents.add(
                    Dependent::Default {
                        table: id,
                        column: column.id,
                    },
                    on,
                );
            }
        }
        for check in table.checks.iter().filter(|check| says(&check.expression)) {
            dependents.add(
                Dependent::Check {
                    table: id,
                    name: check.name.clone(),
                },
                on,
            );
        }
    }
    let mut views: Vec<_> = catalog.views.values().collect();
    views.sort_unstable_by_key(|view| view.id);
    for view in views {
        if says(&view.query) || view.columns.iter().any(|(_, ty)| uses(ty)) {
            dependents.add(Dependent::View(view.id), on);
            dependents.add_views(
                change,
                view.id,
                &format!("view {}", view.name.name),
                &|_| true,
            );
        }
    }
    let mut routines: Vec<_> = catalog.routines.values().collect();
    routines.sort_unstable_by_key(|routine| routine.id);
    for routine in routines {
        if routine.types().any(uses) {
            dependents.add(Dependent::Routine(routine.id), on);
            super::routine::add_dependents(
                change,
                dependents,
                routine,
                &format!("function {}", routine.signature()),
            );
        }
    }
    let mut types: Vec<_> = catalog.types.values().collect();
    types.sort_unstable_by_key(|of| of.id);
    for over in types {
        if over.domain().is_some_and(|domain| uses(&domain.base)) {
            dependents.add(Dependent::Type(over.id), on);
            let on = format!("type {}", over.name.name);
            add_dependents(change, dependents, over, &on);
        }
    }
}
