//! DDL: from PostgreSQL's statements to the SQLite statements that mean the same, and the
//! definitions that they put and drop.
//!
//! [`crate::planner`] calls [`plan_text`] and [`plan`]; the engine runs the [`crate::plan::Ddl`]
//! that comes out, in one transaction with its DEFINITION changes. Nothing here looks at data: what
//! existing rows must be like is said as queries ([`crate::plan::Validation`]).
//!
//! | file | what |
//! | --- | --- |
//! | `change` | what one statement has changed so far |
//! | `table`, `constraint` | CREATE TABLE; columns and constraints wherever they are added |
//! | `alter`, `draft` | ALTER TABLE: a draft of the new definition, compared with the old |
//! | `rename`, `identity` | the other actions of ALTER |
//! | `drop`, `depend` | DROP, what stands in its way, what CASCADE takes along |
//! | `index`, `sequence`, `view` | the other relations |
//! | `comment` | COMMENT ON |
//! | `routine` | functions, procedures, triggers |
//! | `user_type`, `domain`, `type_users` | enums and domains, and what uses them |
//! | `text` | forms that sqlparser does not read |
//! | `storage` | a definition as SQLite statements |
//! | `expression`, `names`, `types` | expressions, names and types within definitions |

pub mod adopt;
mod alter;
mod change;
mod comment;
mod constraint;
pub(crate) mod crdt;
mod defer;
mod depend;
mod domain;
mod draft;
mod drop;
mod expression;
mod grant;
mod grant_routine;
mod identity;
mod index;
mod names;
mod permit;
mod policy;
mod rename;
mod routine;
mod sequence;
pub(crate) mod storage;
mod table;
mod text;
mod trigger;
mod type_users;
mod types;
mod user_type;
mod view;

pub(crate) use table::empty as empty_table;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{CommentObject, ObjectName, ObjectType, SchemaName, Statement};

use crate::catalog::{Catalog, QualifiedName, Relation};
use crate::plan::{PlanKind, display_name};
use crate::planner::PlanContext;
use change::Change;
pub(crate) use expression::{mentions, parse as parse_expression};
use names::{fold, qualified, qualified_column};

/// Plans DDL of the forms that sqlparser does not read as PostgreSQL does (sequences, ALTER …
/// OWNER, identity options of dumps). To be tried on a statement's text before sqlparser; `None`
/// for everything else.
///
/// # Errors
/// What is wrong with a statement of such a form.
pub fn plan_text(
    catalog: &Arc<Catalog>,
    source: &str,
    context: &PlanContext,
) -> Result<Option<PlanKind>, SqlError> {
    text::plan(catalog, source, context)
}

/// The SQLite text of a partial index's condition.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn index_predicate(
    catalog: &Catalog,
    table: &crate::catalog::Table,
    text: &str,
) -> Result<String, SqlError> {
    expression::storage(catalog, table, text, expression::Purpose::Predicate)
}

/// The SQLite text of a unique index's key or of what ON CONFLICT names, and the ids of the columns that
/// it looks at.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn conflict_key(
    catalog: &Catalog,
    table: &crate::catalog::Table,
    text: &str,
) -> Result<(String, Vec<u32>), SqlError> {
    let (key, _) = expression::index_key(catalog, table, text)?;
    Ok((key, expression::index_key_columns(table, text)?))
}

/// Plans a DDL statement against `catalog`, which may be a transaction's working catalog. `source`
/// is the statement's text.
///
/// # Errors
/// What PostgreSQL says is wrong with it; 0A000 for what is not supported, and for what is no DDL.
pub fn plan(
    catalog: &Catalog,
    statement: &Statement,
    source: &str,
    context: &PlanContext,
) -> Result<PlanKind, SqlError> {
    permit::statement(catalog, statement, context)?;
    let change = |tag| Change::new(catalog, tag, source).by(&context.identity);
    let kind = match statement {
        Statement::CreateTable(create) => match &create.query {
            Some(query) if !create.temporary => {
                view::create_table_as(change("CREATE TABLE AS"), create, query, context)?
            }
            _ => table::create(change("CREATE TABLE"), create)?,
        },
        Statement::AlterTable(alter) => alter::plan(change("ALTER TABLE"), alter, context)?,
        Statement::CreateIndex(create) => index::create(change("CREATE INDEX"), create)?,
        Statement::AlterIndex { name, operation } => {
            let sqlparser::ast::AlterIndexOperation::RenameIndex { index_name } = operation;
            let mut change = change("ALTER INDEX");
            rename::relation(&mut change, &qualified(name)?, &qualified(index_name)?.name)?;
            change.finish()
        }
        Statement::CreateView(create) => view::create(change("CREATE VIEW"), create, context)?,
        Statement::CreateSequence { .. } => {
            return Err(SqlError::new(
                ErrorCode::SyntaxError,
                "this form of CREATE SEQUENCE cannot be read",
            ));
        }
        Statement::Drop {
            object_type,
            if_exists,
            names,
            cascade,
            ..
        } => drop(change, object_type, *if_exists, names, *cascade)?,
        Statement::CreateSchema {
            schema_name,
            if_not_exists,
            ..
        } => create_schema(change("CREATE SCHEMA"), schema_name, *if_not_exists)?,
        Statement::Comment {
            object_type,
            object_name,
            if_exists,
            ..
        } => comment(catalog, *object_type, object_name, *if_exists)?,
        Statement::CreatePolicy(create) => {
            policy::create(change("CREATE POLICY"), create, context)?
        }
        Statement::AlterPolicy(alter) => policy::alter(change("ALTER POLICY"), alter, context)?,
        Statement::DropPolicy(drop) => policy::drop(change("DROP POLICY"), drop)?,
        Statement::Grant(statement) => grant::grant(change("GRANT"), statement, context)?,
        Statement::Revoke(statement) => grant::revoke(change("REVOKE"), statement, context)?,
        Statement::CreateExtension(create) => extension(&fold(&create.name))?,
        Statement::DropExtension(_) => PlanKind::NoEffect("DROP EXTENSION"),
        other => {
            return Err(SqlError::unsupported(
                refused(other).unwrap_or("this statement"),
            ));
        }
    };
    permit::foreign_keys(catalog, &kind, context)?;
    Ok(kind)
}

fn drop<'a>(
    change: impl Fn(&'static str) -> Change<'a>,
    kind: &ObjectType,
    if_exists: bool,
    names: &[ObjectName],
    cascade: bool,
) -> Result<PlanKind, SqlError> {
    let tag = match kind {
        ObjectType::Table => "DROP TABLE",
        ObjectType::View => "DROP VIEW",
        ObjectType::Sequence => "DROP SEQUENCE",
        ObjectType::Index => "DROP INDEX",
        ObjectType::Schema => return drop_schema(names, if_exists),
        ObjectType::MaterializedView if if_exists => {
            return Ok(PlanKind::NoEffect("DROP MATERIALIZED VIEW"));
        }
        other => return Err(SqlError::unsupported(format_args!("DROP {other}"))),
    };
    drop::relations(change(tag), kind, names, if_exists, cascade)
}

fn drop_schema(names: &[ObjectName], if_exists: bool) -> Result<PlanKind, SqlError> {
    for name in names {
        let name = qualified(name)?.name;
        if matches!(
            name.as_str(),
            QualifiedName::PUBLIC | QualifiedName::SPRINGHEAD | "pg_catalog" | "information_schema"
        ) {
            return Err(SqlError::unsupported(format_args!("DROP SCHEMA {name}")));
        }
        if !if_exists {
            return Err(names::unknown_schema(&name));
        }
    }
    Ok(PlanKind::NoEffect("DROP SCHEMA"))
}

/// `public` is the one schema that there is.
fn create_schema(
    mut change: Change<'_>,
    name: &SchemaName,
    if_not_exists: bool,
) -> Result<PlanKind, SqlError> {
    let name = match name {
        SchemaName::Simple(name) | SchemaName::NamedAuthorization(name, _) => qualified(name)?.name,
        SchemaName::UnnamedAuthorization(role) => fold(role),
    };
    if name != QualifiedName::PUBLIC {
        return Err(SqlError::unsupported(format_args!(
            "the schema \"{name}\", or any but public,"
        )));
    }
    let message = format!("schema \"{name}\" already exists");
    if if_not_exists {
        change.notices.push(format!("{message}, skipping"));
        return Ok(change.finish());
    }
    Err(SqlError::new(ErrorCode::DuplicateObject, message))
}

/// Comments are taken and not kept; what they are on must be there.
fn comment(
    catalog: &Catalog,
    kind: CommentObject,
    name: &ObjectName,
    if_exists: bool,
) -> Result<PlanKind, SqlError> {
    let done = PlanKind::NoEffect("COMMENT");
    let undefined = |name: &QualifiedName| {
        SqlError::new(
            ErrorCode::UndefinedTable,
            format!("relation \"{}\" does not exist", display_name(name)),
        )
    };
    match kind {
        CommentObject::Column => {
            let (name, column) = qualified_column(name)?;
            match catalog.relation(&name) {
                Some(Relation::Table(_)) => {
                    catalog.expect_table(&name)?.expect_column(&column)?;
                }
                Some(_) => {}
                None if if_exists => {}
                None => return Err(undefined(&name)),
            }
        }
        CommentObject::Table
        | CommentObject::View
        | CommentObject::Index
        | CommentObject::Sequence => {
            let name = qualified(name)?;
            if catalog.relation(&name).is_none() && !if_exists {
                return Err(undefined(&name));
            }
        }
        _ => {}
    }
    Ok(done)
}

/// Extensions whose functions are there anyway.
fn extension(name: &str) -> Result<PlanKind, SqlError> {
    match name {
        "plpgsql" | "pgcrypto" | "uuid-ossp" => Ok(PlanKind::NoEffect("CREATE EXTENSION")),
        other => Err(SqlError::unsupported(format_args!(
            "the extension \"{other}\""
        ))),
    }
}

/// DDL that is known and not there: its name.
fn refused(statement: &Statement) -> Option<&'static str> {
    Some(match statement {
        Statement::CreateType { .. } => "CREATE TYPE",
        Statement::AlterType(_) => "ALTER TYPE",
        Statement::CreateDomain(_) => "CREATE DOMAIN",
        Statement::DropDomain(_) => "DROP DOMAIN",
        Statement::CreateFunction(_) => "CREATE FUNCTION",
        Statement::AlterFunction(_) => "ALTER FUNCTION",
        Statement::DropFunction(_) => "DROP FUNCTION",
        Statement::CreateProcedure { .. } => "CREATE PROCEDURE",
        Statement::DropProcedure { .. } => "DROP PROCEDURE",
        Statement::CreateTrigger(_) => "CREATE TRIGGER",
        Statement::DropTrigger(_) => "DROP TRIGGER",
        Statement::CreateRole(_) => "CREATE ROLE",
        Statement::AlterRole { .. } => "ALTER ROLE",
        Statement::CreateUser(_) => "CREATE USER",
        Statement::AlterUser(_) => "ALTER USER",
        Statement::Deny(_) => "DENY",
        Statement::AlterSchema(_) => "ALTER SCHEMA",
        Statement::AlterView { .. } => "ALTER VIEW",
        Statement::CreateVirtualTable { .. } => "CREATE VIRTUAL TABLE",
        Statement::CreateCollation(_) | Statement::AlterCollation(_) => "COLLATION",
        Statement::CreateOperator(_)
        | Statement::CreateOperatorClass(_)
        | Statement::CreateOperatorFamily(_)
        | Statement::AlterOperator(_)
        | Statement::AlterOperatorClass(_)
        | Statement::AlterOperatorFamily(_)
        | Statement::DropOperator(_)
        | Statement::DropOperatorClass(_)
        | Statement::DropOperatorFamily(_) => "OPERATOR",
        Statement::CreateTextSearch(_) | Statement::AlterTextSearch(_) => "TEXT SEARCH",
        Statement::CreateServer(_) => "CREATE SERVER",
        Statement::CreateMacro { .. } => "CREATE MACRO",
        Statement::AttachDatabase { .. } => "ATTACH",
        _ => return None,
    })
}
