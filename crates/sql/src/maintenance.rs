//! VACUUM, ANALYZE, REINDEX, CLUSTER and CHECKPOINT: what PostgreSQL asks its administrators to do now
//! and then, and what tools therefore send. Springhead's files keep themselves, so these are checked
//! as PostgreSQL checks them and then have nothing to do.
//!
//! Source: PostgreSQL 15, "VACUUM", "ANALYZE", "REINDEX", "CLUSTER", "CHECKPOINT".

use springhead_proto::{ErrorCode, SqlError};

use crate::catalog::{Catalog, Relation, Table};
use crate::plan::PlanKind;
use crate::planner::PlanContext;
use crate::words::{self, Words};

/// VACUUM, ANALYZE, REINDEX, CLUSTER, CHECKPOINT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maintenance {
    /// The tag to answer with.
    pub tag: &'static str,
    /// What is refused in a transaction block (25001), in PostgreSQL's words.
    pub alone: Option<&'static str>,
}

/// The plan of such a statement; `None` if it is another.
///
/// # Errors
/// 42601 where it is not of its form, 42P01, 42809, 42703 and 42704 for what it names, 42501 for
/// CHECKPOINT by somebody who may not.
pub(crate) fn plan_text(
    catalog: &Catalog,
    sql: &str,
    context: &PlanContext,
) -> Result<Option<PlanKind>, SqlError> {
    let Some(verb) = [
        "vacuum",
        "analyze",
        "analyse",
        "reindex",
        "cluster",
        "checkpoint",
    ]
    .into_iter()
    .find(|verb| words::begins_with(sql, verb)) else {
        return Ok(None);
    };
    let mut words = Words::new(sql)?;
    words.expect_word(verb)?;
    let names = Names { catalog, context };
    let done = match verb {
        "vacuum" => vacuum(&mut words, &names)?,
        "reindex" => reindex(&mut words, &names)?,
        "cluster" => cluster(&mut words, &names)?,
        "checkpoint" => checkpoint(context)?,
        _ => analyze(&mut words, &names)?,
    };
    words.expect_end()?;
    Ok(Some(PlanKind::Maintenance(done)))
}

fn vacuum(words: &mut Words<'_>, names: &Names<'_>) -> Result<Maintenance, SqlError> {
    let mut analyzes = false;
    if words.is_symbol(b'(') {
        options(
            words,
            "VACUUM",
            &[
                "full",
                "freeze",
                "verbose",
                "analyze",
                "analyse",
                "disable_page_skipping",
                "skip_locked",
                "index_cleanup",
                "process_toast",
                "truncate",
                "parallel",
            ],
            |name| analyzes |= name.starts_with("analy"),
        )?;
    } else {
        for word in ["full", "freeze", "verbose"] {
            let _ = words.word(word);
        }
        analyzes = words.word("analyze") || words.word("analyse");
    }
    targets(words, names, analyzes.then_some(()).ok_or("VACUUM"))?;
    Ok(Maintenance {
        tag: "VACUUM",
        alone: Some("VACUUM"),
    })
}

fn analyze(words: &mut Words<'_>, names: &Names<'_>) -> Result<Maintenance, SqlError> {
    if words.is_symbol(b'(') {
        options(words, "ANALYZE", &["verbose", "skip_locked"], |_| {})?;
    } else {
        let _ = words.word("verbose");
    }
    targets(words, names, Ok(()))?;
    Ok(Maintenance {
        tag: "ANALYZE",
        alone: None,
    })
}

fn reindex(words: &mut Words<'_>, names: &Names<'_>) -> Result<Maintenance, SqlError> {
    let mut concurrently = false;
    if words.is_symbol(b'(') {
        options(
            words,
            "REINDEX",
            &["concurrently", "tablespace", "verbose"],
            |name| concurrently |= name == "concurrently",
        )?;
    }
    let what = words.any_word()?;
    concurrently |= words.word("concurrently");
    let mut alone = concurrently.then_some("REINDEX CONCURRENTLY");
    match what.as_str() {
        "table" => {
            let (schema, name) = words.qualified_name()?;
            names.table(schema.as_deref(), &name)?;
        }
        "index" => {
            let (schema, name) = words.qualified_name()?;
            names.index(schema.as_deref(), &name)?;
        }
        "schema" | "database" | "system" => {
            words.name()?;
            alone = Some(match what.as_str() {
                "schema" => "REINDEX SCHEMA",
                "database" => "REINDEX DATABASE",
                _ => "REINDEX SYSTEM",
            });
        }
        _ => return Err(words.wrong()),
    }
    Ok(Maintenance {
        tag: "REINDEX",
        alone,
    })
}

fn cluster(words: &mut Words<'_>, names: &Names<'_>) -> Result<Maintenance, SqlError> {
    if words.is_symbol(b'(') {
        options(words, "CLUSTER", &["verbose"], |_| {})?;
    } else {
        let _ = words.word("verbose");
    }
    let is_all = words.is_end();
    if !is_all {
        let (schema, name) = words.qualified_name()?;
        names.table(schema.as_deref(), &name)?;
        if words.word("using") {
            let (_, index) = words.qualified_name()?;
            names.index(schema.as_deref(), &index)?;
        }
    }
    Ok(Maintenance {
        tag: "CLUSTER",
        alone: is_all.then_some("CLUSTER"),
    })
}

fn checkpoint(context: &PlanContext) -> Result<Maintenance, SqlError> {
    if !context.identity.superuser {
        return Err(SqlError::new(
            ErrorCode::InsufficientPrivilege,
            "must be superuser or have privileges of pg_checkpoint to do CHECKPOINT",
        ));
    }
    Ok(Maintenance {
        tag: "CHECKPOINT",
        alone: None,
    })
}

/// `(option [value], …)`; what is on is told to `take`.
fn options(
    words: &mut Words<'_>,
    statement: &str,
    known: &[&str],
    mut take: impl FnMut(&str),
) -> Result<(), SqlError> {
    words.expect_symbol(b'(')?;
    loop {
        let name = words.any_word()?;
        if !known.contains(&name.as_str()) {
            return Err(SqlError::new(
                ErrorCode::SyntaxError,
                format!("unrecognized {statement} option \"{name}\""),
            ));
        }
        let is_alone = words.is_symbol(b',') || words.is_symbol(b')');
        let value = if is_alone {
            String::new()
        } else {
            words.value()?.to_ascii_lowercase()
        };
        if !["off", "false", "0"].contains(&value.as_str()) {
            take(&name);
        }
        if !words.symbol(b',') {
            return words.expect_symbol(b')');
        }
    }
}

/// `[table [(column, …)], …]`. Columns are for statements that analyze; others are told so in
/// `columns`, by their name.
fn targets(
    words: &mut Words<'_>,
    names: &Names<'_>,
    columns: Result<(), &str>,
) -> Result<(), SqlError> {
    if words.is_end() {
        return Ok(());
    }
    loop {
        let (schema, name) = words.qualified_name()?;
        let table = names.table(schema.as_deref(), &name)?;
        if words.symbol(b'(') {
            if let Err(statement) = columns {
                return Err(SqlError::new(
                    ErrorCode::FeatureNotSupported,
                    "ANALYZE option must be specified when a column list is provided",
                )
                .with_hint(format!("{statement} (ANALYZE) takes one")));
            }
            loop {
                let column = words.name()?;
                let has = |table: &Table| table.visible_columns().any(|(_, c)| c.name == column);
                if !table.is_none_or(has) {
                    return Err(SqlError::new(
                        ErrorCode::UndefinedColumn,
                        format!("column \"{column}\" of relation \"{name}\" does not exist"),
                    ));
                }
                if !words.symbol(b',') {
                    break;
                }
            }
            words.expect_symbol(b')')?;
        }
        if !words.symbol(b',') {
            return Ok(());
        }
    }
}

/// Finds what a statement names.
struct Names<'c> {
    catalog: &'c Catalog,
    context: &'c PlanContext,
}

impl Names<'_> {
    fn relation(&self, schema: Option<&str>, name: &str) -> Result<Relation, SqlError> {
        let found = match schema {
            Some(schema) => self.catalog.resolve(Some(schema), name),
            None => self
                .context
                .search_path
                .iter()
                .find_map(|schema| self.catalog.resolve(Some(schema), name)),
        };
        let shown = schema.map_or_else(|| name.to_owned(), |schema| format!("{schema}.{name}"));
        found.map(|(_, relation)| relation).ok_or_else(|| {
            SqlError::new(
                ErrorCode::UndefinedTable,
                format!("relation \"{shown}\" does not exist"),
            )
        })
    }

    /// A table; `None` for one of `pg_catalog`'s, whose columns are not looked at.
    fn table(&self, schema: Option<&str>, name: &str) -> Result<Option<&Table>, SqlError> {
        if crate::system::resolve(schema, name).is_some_and(|known| known.id != 0) {
            return Ok(None);
        }
        let found = match self.relation(schema, name)? {
            Relation::Table(id) => self.catalog.table(id),
            _ => None,
        };
        found.map(|table| Some(&**table)).ok_or_else(|| {
            SqlError::new(
                ErrorCode::WrongObjectType,
                format!("\"{name}\" is not a table or materialized view"),
            )
        })
    }

    fn index(&self, schema: Option<&str>, name: &str) -> Result<(), SqlError> {
        match self.relation(schema, name)? {
            Relation::Index(_) => Ok(()),
            _ => Err(SqlError::new(
                ErrorCode::WrongObjectType,
                format!("\"{name}\" is not an index"),
            )),
        }
    }
}
