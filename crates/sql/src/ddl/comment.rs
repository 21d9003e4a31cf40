//! COMMENT ON: kept as definitions of their own, dropped with what they are about.

use springhead_proto::{CollectionId, ErrorCode, SqlError};
use sqlparser::tokenizer::Token;

use super::permit;
use super::text::Reader;
use crate::catalog::{BOOTSTRAP_ROLE, Comment, Definition, QualifiedName, Relation};
use crate::plan::{PlanKind, display_name};
use crate::system::oids::{self, Part};

/// Catalogs' object ids.
mod class {
    pub const CLASS: u32 = 1259;
    pub const PROC: u32 = 1255;
    pub const TYPE: u32 = 1247;
    pub const TRIGGER: u32 = 2620;
    pub const CONSTRAINT: u32 = 2606;
    pub const POLICY: u32 = 3256;
    pub const NAMESPACE: u32 = 2615;
}

/// What a comment is on.
struct Subject {
    name: QualifiedName,
    class: u32,
    object: u32,
    sub: u32,
}

/// Kinds of objects that there are none of, or whose comments nobody asks for: taken, and forgotten.
const FORGOTTEN: [&str; 14] = [
    "DATABASE",
    "EXTENSION",
    "ROLE",
    "LANGUAGE",
    "CAST",
    "AGGREGATE",
    "OPERATOR",
    "SERVER",
    "RULE",
    "COLLATION",
    "TABLESPACE",
    "ACCESS",
    "PUBLICATION",
    "EVENT",
];

impl Reader<'_> {
    /// After COMMENT.
    pub(super) fn comment(&mut self) -> Result<PlanKind, SqlError> {
        if !self.word("ON") {
            return Err(self.unexpected());
        }
        if FORGOTTEN.iter().any(|kind| self.word(kind)) {
            return Ok(PlanKind::NoEffect("COMMENT"));
        }
        let subject = self.subject()?;
        if !self.word("IS") {
            return Err(self.unexpected());
        }
        let text = match self.parser.next_token().token {
            Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) => Some(text),
            Token::DollarQuotedString(text) => Some(text.value),
            Token::Word(word) if word.value.eq_ignore_ascii_case("null") => None,
            other => return Err(self.syntax_error(&other.to_string())),
        };
        self.end()?;
        let mut change = self.change("COMMENT");
        let old = change
            .catalog
            .comment_on(subject.class, subject.object, subject.sub)
            .map(|comment| Comment::clone(comment));
        match (text.filter(|text| !text.is_empty()), old) {
            (Some(text), old) => {
                let id = match old {
                    Some(old) => old.id,
                    None => change.next_id()?,
                };
                change.put(Definition::Comment(Comment {
                    id,
                    name: subject.name,
                    class: subject.class,
                    object: subject.object,
                    sub: subject.sub,
                    text,
                }));
            }
            (None, Some(old)) => change.drop(Definition::Comment(old)),
            (None, None) => {}
        }
        Ok(change.finish())
    }

    fn subject(&mut self) -> Result<Subject, SqlError> {
        if self.word("COLUMN") {
            return self.column_subject();
        }
        for (word, is_right) in [
            ("TABLE", is_table as fn(Relation) -> bool),
            ("VIEW", is_view),
            ("SEQUENCE", is_sequence),
            ("INDEX", is_index),
        ] {
            if self.word(word) {
                return self.relation_subject(&word.to_ascii_lowercase(), is_right);
            }
        }
        for (word, procedure) in [
            ("FUNCTION", Some(false)),
            ("PROCEDURE", Some(true)),
            ("ROUTINE", None),
        ] {
            if self.word(word) {
                let routine = self.routine_named(procedure)??;
                self.must_own(&routine.access, "function", &routine.name.name)?;
                return Ok(itself(&routine.name, class::PROC, routine.id));
            }
        }
        if self.word("TYPE") || self.word("DOMAIN") {
            let name = self.name()?;
            let of = super::user_type::owned_type(self.catalog, &name, self.context)?;
            return Ok(Subject {
                name,
                class: class::TYPE,
                object: oids::of(of.id, Part::RowType),
                sub: 0,
            });
        }
        if self.word("SCHEMA") {
            let name = self.ident()?;
            super::names::check_schema(&QualifiedName::new(name.as_str(), ""))?;
            self.must_own(&self.catalog.schema.access, "schema", &name)?;
            return Ok(Subject {
                object: oids::namespace(&name),
                name: QualifiedName::public(name),
                class: class::NAMESPACE,
                sub: 0,
            });
        }
        if self.word("TRIGGER") {
            return self.trigger_subject();
        }
        if self.word("POLICY") {
            return self.policy_subject();
        }
        if self.word("CONSTRAINT") {
            return self.constraint_subject();
        }
        let kind = self.parser.peek_token().token.to_string();
        Err(SqlError::unsupported(format_args!("COMMENT ON {kind}")))
    }

    fn must_own(
        &self,
        access: &crate::catalog::Access,
        kind: &str,
        name: &str,
    ) -> Result<(), SqlError> {
        let owner = access.owner.as_deref().unwrap_or(BOOTSTRAP_ROLE);
        if self.context.identity.superuser || self.context.identity.is_member_of(owner) {
            return Ok(());
        }
        Err(SqlError::new(
            ErrorCode::InsufficientPrivilege,
            format!("must be owner of {kind} {name}"),
        ))
    }

    fn relation_subject(
        &mut self,
        kind: &str,
        is_right: fn(Relation) -> bool,
    ) -> Result<Subject, SqlError> {
        let name = self.name()?;
        let relation = self.existing(&name)?;
        permit::own(self.catalog, &name, self.context)?;
        if !is_right(relation) {
            return Err(SqlError::new(
                ErrorCode::WrongObjectType,
                format!(
                    "\"{}\" is not {} {kind}",
                    name.name,
                    if kind == "index" { "an" } else { "a" }
                ),
            ));
        }
        let object = match relation {
            Relation::Table(id) => oids::of(id.0, Part::Itself),
            Relation::View(id) | Relation::Sequence(id) => oids::of(id, Part::Itself),
            Relation::Index(table) => self.index_oid(table, &name.name)?,
        };
        Ok(Subject {
            name,
            class: class::CLASS,
            object,
            sub: 0,
        })
    }

    fn existing(&self, name: &QualifiedName) -> Result<Relation, SqlError> {
        self.catalog.relation(name).ok_or_else(|| {
            SqlError::new(
                ErrorCode::UndefinedTable,
                format!("relation \"{}\" does not exist", display_name(name)),
            )
        })
    }

    fn index_oid(&self, table: CollectionId, name: &str) -> Result<u32, SqlError> {
        self.catalog
            .table(table)
            .and_then(|table| crate::system::index_oid(table, name))
            .ok_or_else(|| SqlError::new(ErrorCode::Internal, "an index without its table"))
    }

    fn column_subject(&mut self) -> Result<Subject, SqlError> {
        let (relation, column) = self.column_name()?;
        let found = self.existing(&relation)?;
        permit::own_part(self.catalog, &relation, self.context)?;
        let missing = || {
            SqlError::new(
                ErrorCode::UndefinedColumn,
                format!(
                    "column \"{column}\" of relation \"{}\" does not exist",
                    relation.name
                ),
            )
        };
        let (id, sub) = match found {
            Relation::Table(id) => {
                let table = self.catalog.table(id).ok_or_else(missing)?;
                let (_, found) = table.column_named(&column).ok_or_else(missing)?;
                (id.0, found.id)
            }
            Relation::View(id) => {
                let view = self.catalog.view(id).ok_or_else(missing)?;
                let place = (1..)
                    .zip(&view.columns)
                    .find(|(_, (name, _))| *name == column)
                    .map(|(place, _)| place)
                    .ok_or_else(missing)?;
                (id, place)
            }
            Relation::Sequence(_) | Relation::Index(_) => {
                return Err(SqlError::new(
                    ErrorCode::WrongObjectType,
                    format!("cannot set comment on relation \"{}\"", relation.name),
                ));
            }
        };
        Ok(Subject {
            name: relation,
            class: class::CLASS,
            object: oids::of(id, Part::Itself),
            sub,
        })
    }

    /// `name ON relation`: the name, and the relation's.
    fn on(&mut self) -> Result<(String, QualifiedName), SqlError> {
        let name = self.ident()?;
        if !self.word("ON") {
            return Err(self.unexpected());
        }
        let relation = self.name()?;
        self.existing(&relation)?;
        permit::own_part(self.catalog, &relation, self.context)?;
        Ok((name, relation))
    }

    fn trigger_subject(&mut self) -> Result<Subject, SqlError> {
        let (name, relation) = self.on()?;
        let trigger = self.trigger_named(&name, &relation)?;
        Ok(itself(&trigger.name, class::TRIGGER, trigger.id))
    }

    fn policy_subject(&mut self) -> Result<Subject, SqlError> {
        let (name, relation) = self.on()?;
        let table = self.catalog.expect_table(&relation)?;
        let policy = table.access.policy(&name).ok_or_else(|| {
            SqlError::new(
                ErrorCode::UndefinedObject,
                format!(
                    "policy \"{name}\" for table \"{}\" does not exist",
                    relation.name
                ),
            )
        })?;
        Ok(Subject {
            object: crate::system::policy_oid(table, policy),
            name: relation,
            class: class::POLICY,
            sub: 0,
        })
    }

    fn constraint_subject(&mut self) -> Result<Subject, SqlError> {
        let name = self.ident()?;
        if !self.word("ON") {
            return Err(self.unexpected());
        }
        let missing = |on: &str| {
            SqlError::new(
                ErrorCode::UndefinedObject,
                format!("constraint \"{name}\" for {on} does not exist"),
            )
        };
        if self.word("DOMAIN") {
            let domain = self.name()?;
            let of = super::user_type::owned_type(self.catalog, &domain, self.context)?;
            let check = of
                .domain()
                .and_then(|of| of.checks.iter().find(|check| check.name == name))
                .ok_or_else(|| missing(&format!("domain {}", domain.name)))?;
            return Ok(itself(&domain, class::CONSTRAINT, check.id));
        }
        let relation = self.name()?;
        self.existing(&relation)?;
        permit::own_part(self.catalog, &relation, self.context)?;
        let table = self.catalog.expect_table(&relation)?;
        let object = crate::system::constraint_oid(table, &name)
            .ok_or_else(|| missing(&format!("table \"{}\"", relation.name)))?;
        Ok(Subject {
            name: relation,
            class: class::CONSTRAINT,
            object,
            sub: 0,
        })
    }
}

fn itself(name: &QualifiedName, class: u32, id: u32) -> Subject {
    Subject {
        name: name.clone(),
        class,
        object: oids::of(id, Part::Itself),
        sub: 0,
    }
}

fn is_table(relation: Relation) -> bool {
    matches!(relation, Relation::Table(_))
}

fn is_view(relation: Relation) -> bool {
    matches!(relation, Relation::View(_))
}

fn is_sequence(relation: Relation) -> bool {
    matches!(relation, Relation::Sequence(_))
}

fn is_index(relation: Relation) -> bool {
    matches!(relation, Relation::Index(_))
}
