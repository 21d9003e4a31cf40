//! Enums: CREATE and ALTER TYPE; DROP TYPE and DOMAIN.
//!
//! An enum's values are stored as labels, so a new one changes no row, and a renamed one is an UPDATE
//! of the rows that hold it.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::tokenizer::Token;

use super::change::Change;
use super::depend::{Dependent, Dependents};
use super::names::check_schema;
use super::permit;
use super::text::Reader;
use super::type_users::{
    add_dependents, mentioned_by, refuse_kept_order, rename_in_definitions, rename_in_rows,
};
use crate::catalog::{BOOTSTRAP_ROLE, Catalog, Definition, QualifiedName, UserType, UserTypeKind};
use crate::plan::{PlanKind, display_name};
use crate::planner::PlanContext;

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
    pub(super) fn alter_any(
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
pub(super) fn check_new(catalog: &Catalog, name: &QualifiedName) -> Result<(), SqlError> {
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
