//! MERGE: one query finds, for each row of the source and the row of the target that it meets, which
//! WHEN applies; then each WHEN's action runs for its rows ([`super::with`]).
//!
//! As in PostgreSQL, the first WHEN whose condition holds decides, conditions see the rows as they were
//! before the statement, and no row of the target may be changed twice. Deletions run before updates,
//! updates before insertions.

use springhead_proto::{CollectionId, ErrorCode, SqlError};
use sqlparser::ast::{
    self, Merge, MergeAction, MergeClause, MergeClauseKind, MergeInsertKind, MergeUpdateKind,
    Statement, TableFactor,
};

use super::with::{Parts, plain_alias};
use crate::access::{Rows, rows};
use crate::catalog::{Privilege, Table};
use crate::plan::{PlanKind, Write, WriteVerb};
use crate::query::Analyzer;
use crate::query::names::fold;
use crate::query::scope::Scope;

/// The name of the query that finds what applies.
const FOUND: &str = "?found";

/// What the parts are written with.
struct Names {
    /// The target as the statement has it: its name, and its alias.
    table: String,
    target: String,
    source: String,
    /// The key's columns, quoted.
    keys: Vec<String>,
}

/// Plans MERGE.
///
/// # Errors
/// What is wrong with a part; 0A000 for what cannot be given its meaning.
pub(crate) fn plan(analyzer: &mut Analyzer<'_>, merge: &Merge) -> Result<PlanKind, SqlError> {
    if merge.output.is_some() {
        return Err(SqlError::unsupported("RETURNING of MERGE"));
    }
    let TableFactor::Table { name, alias, .. } = &merge.table else {
        return Err(SqlError::unsupported("MERGE into what is no table"));
    };
    let table = super::target(analyzer, name)?;
    refuse(analyzer, &table)?;
    let names = Names {
        table: name.to_string(),
        target: quoted(
            &alias
                .as_ref()
                .map_or_else(|| table.name.name.clone(), |alias| fold(&alias.name)),
        ),
        source: quoted(&source_name(&merge.source)?),
        keys: table
            .key_columns()
            .map(|column| quoted(&column.name))
            .collect(),
    };
    check_reachable(&merge.clauses)?;
    analyzer.in_scope(Scope::default(), |analyzer| {
        let mut parts = Parts::default();
        let found = parse(&found_query(merge, &names))?;
        let Statement::Query(found) = &found else {
            return Err(SqlError::new(ErrorCode::Internal, "no query"));
        };
        parts.add_query(analyzer, FOUND, &plain_alias(FOUND)?, found)?;
        let width = analyzer
            .scope()
            .ctes
            .last()
            .map_or(0, |cte| cte.columns.len());
        parts.add_text(twice(&merge.clauses, width, names.keys.len()));
        for kind in [is_delete as fn(&MergeAction) -> bool, is_update, is_insert] {
            for (number, clause) in (1..).zip(&merge.clauses) {
                if !kind(&clause.action) {
                    continue;
                }
                let text = action(clause, number, &names)?;
                let statement = parse(&text)?;
                let part = format!("?when{number}");
                parts.add_write(analyzer, &part, &plain_alias(&part)?, &statement)?;
            }
        }
        let last = Write {
            verb: WriteVerb::Merge,
            sql: "SELECT 1 WHERE 0".to_owned(),
            returning: std::sync::Arc::from([]),
            table: CollectionId::NONE,
            touches_foreign_keys: true,
            sequences: Vec::new(),
            updated: Vec::new(),
            upserts: false,
            once: false,
            instead: false,
            checks: Vec::new(),
            viewer: None,
            before: Vec::new(),
        };
        parts.finish_merge(analyzer, last)
    })
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn parse(text: &str) -> Result<Statement, SqlError> {
    crate::planner::parse(text, &crate::planner::PlanContext::default())
}

fn refuse(analyzer: &Analyzer<'_>, table: &Table) -> Result<(), SqlError> {
    if !table.has_declared_key() {
        return Err(SqlError::unsupported(format_args!(
            "MERGE into the table \"{}\", which has no primary key,",
            table.name.name
        )));
    }
    let hides = [Privilege::Select, Privilege::Update, Privilege::Delete]
        .into_iter()
        .any(|privilege| matches!(rows(table, &analyzer.acting, privilege), Rows::By(_)));
    if hides {
        // PostgreSQL fails where a policy hides a row that is met; UPDATE and DELETE pass over it.
        return Err(SqlError::unsupported(format_args!(
            "MERGE into the table \"{}\", whose rows policies hide,",
            table.name.name
        )));
    }
    Ok(())
}

/// What the source is called.
fn source_name(source: &TableFactor) -> Result<String, SqlError> {
    let (alias, name) = match source {
        TableFactor::Table { name, alias, .. } => (
            alias.as_ref(),
            name.0.last().and_then(|part| part.as_ident()).map(fold),
        ),
        TableFactor::Derived { alias, .. } => (alias.as_ref(), None),
        other => {
            return Err(SqlError::unsupported(format_args!("MERGE … USING {other}")));
        }
    };
    alias
        .map(|alias| fold(&alias.name))
        .or(name)
        .ok_or_else(|| {
            SqlError::new(
                ErrorCode::SyntaxError,
                "subquery in FROM must have an alias",
            )
        })
}

fn check_reachable(clauses: &[MergeClause]) -> Result<(), SqlError> {
    for matched in [true, false] {
        let mut kind = clauses
            .iter()
            .filter(|clause| is_matched(clause) == matched);
        let last = kind.by_ref().find(|clause| clause.predicate.is_none());
        if last.is_some() && kind.next().is_some() {
            return Err(SqlError::new(
                ErrorCode::SyntaxError,
                "unreachable WHEN clause specified after unconditional WHEN clause",
            ));
        }
    }
    if let Some(clause) = clauses
        .iter()
        .find(|clause| clause.clause_kind == MergeClauseKind::NotMatchedBySource)
    {
        return Err(SqlError::unsupported(format_args!(
            "WHEN {}",
            clause.clause_kind
        )));
    }
    Ok(())
}

fn is_matched(clause: &MergeClause) -> bool {
    clause.clause_kind == MergeClauseKind::Matched
}

fn is_delete(action: &MergeAction) -> bool {
    matches!(action, MergeAction::Delete { .. })
}

fn is_update(action: &MergeAction) -> bool {
    matches!(action, MergeAction::Update(_))
}

fn is_insert(action: &MergeAction) -> bool {
    matches!(action, MergeAction::Insert(_))
}

/// The source's columns, the key of the row that is met, and the number of the WHEN that applies.
fn found_query(merge: &Merge, names: &Names) -> String {
    let decide = |matched: bool| {
        let arms: Vec<String> = (1..)
            .zip(&merge.clauses)
            .filter(|(_, clause)| is_matched(clause) == matched)
            .map(
                |(number, clause): (usize, &MergeClause)| match &clause.predicate {
                    Some(predicate) => format!("WHEN ({predicate}) THEN {number}"),
                    None => format!("WHEN true THEN {number}"),
                },
            )
            .collect();
        if arms.is_empty() {
            "0".to_owned()
        } else {
            format!("CASE {} ELSE 0 END", arms.join(" "))
        }
    };
    let keys: Vec<String> = (1..)
        .zip(&names.keys)
        .map(|(place, key): (usize, &String)| format!("{}.{key} AS \"?k{place}\"", names.target))
        .collect();
    format!(
        "SELECT {source}.*, {keys}, CASE WHEN {target}.{key} IS NULL THEN {unmatched} ELSE {matched} END AS \"?when\" FROM {from} LEFT JOIN {table} ON {on}",
        source = names.source,
        keys = keys.join(", "),
        target = names.target,
        key = names.keys[0],
        unmatched = decide(false),
        matched = decide(true),
        from = merge.source,
        table = merge.table,
        on = merge.on,
    )
}

/// Fails if a row of the target would be changed twice.
fn twice(clauses: &[MergeClause], width: usize, keys: usize) -> String {
    let changing: Vec<String> = (1..)
        .zip(clauses)
        .filter(|(_, clause)| is_update(&clause.action) || is_delete(&clause.action))
        .map(|(number, _): (usize, &MergeClause)| number.to_string())
        .collect();
    let when = width - 1;
    let keys: Vec<String> = (width - 1 - keys..width - 1)
        .map(|place| format!("sh_field(r.value,{place})"))
        .collect();
    format!(
        "SELECT sh_merge_twice() FROM json_each(sh_step(0)) AS r WHERE sh_field(r.value,{when}) IN ({}) GROUP BY {} HAVING count(*)>1",
        changing.join(","),
        keys.join(",")
    )
}

/// The statement of one WHEN.
fn action(clause: &MergeClause, number: usize, names: &Names) -> Result<String, SqlError> {
    let found = quoted(FOUND);
    let (table, target, source) = (&names.table, &names.target, &names.source);
    let met: Vec<String> = (1..)
        .zip(&names.keys)
        .map(|(place, key): (usize, &String)| format!("{target}.{key} = {source}.\"?k{place}\""))
        .collect();
    let met = met.join(" AND ");
    let applies = format!("{source}.\"?when\" = {number}");
    Ok(match &clause.action {
        MergeAction::Delete { .. } => {
            format!(
                "DELETE FROM {table} AS {target} USING {found} AS {source} WHERE {met} AND {applies}"
            )
        }
        MergeAction::Update(update) => {
            let MergeUpdateKind::Set(assignments) = &update.kind else {
                return Err(SqlError::unsupported("UPDATE SET * in MERGE"));
            };
            let set: Vec<String> = assignments.iter().map(ToString::to_string).collect();
            format!(
                "UPDATE {table} AS {target} SET {} FROM {found} AS {source} WHERE {met} AND {applies}",
                set.join(", ")
            )
        }
        MergeAction::Insert(insert) => {
            let MergeInsertKind::Values(values) = &insert.kind else {
                return Err(SqlError::unsupported("INSERT ROW or * in MERGE"));
            };
            let [row] = values.rows.as_slice() else {
                return Err(SqlError::new(
                    ErrorCode::SyntaxError,
                    "MERGE inserts one row at a time",
                ));
            };
            let row: &[ast::Expr] = &row.content;
            let given = insert.columns.len();
            if given > 0 && given != row.len() {
                let few = if row.len() > given {
                    "target columns"
                } else {
                    "expressions"
                };
                let more = if row.len() > given {
                    "expressions"
                } else {
                    "target columns"
                };
                return Err(SqlError::new(
                    ErrorCode::SyntaxError,
                    format!("INSERT has more {more} than {few}"),
                ));
            }
            let has_default = row.iter().any(super::is_default);
            if has_default && given == 0 {
                return Err(SqlError::unsupported(
                    "DEFAULT in MERGE … INSERT without a list of columns",
                ));
            }
            let kept: Vec<(String, String)> = row
                .iter()
                .enumerate()
                .filter(|(_, value)| !super::is_default(value))
                .map(|(place, value)| {
                    let column = insert.columns.get(place).map(ToString::to_string);
                    (column.unwrap_or_default(), value.to_string())
                })
                .collect();
            if kept.is_empty() {
                return Err(SqlError::unsupported("MERGE … INSERT of defaults alone"));
            }
            let columns: Vec<&str> = kept.iter().map(|(column, _)| column.as_str()).collect();
            let values: Vec<&str> = kept.iter().map(|(_, value)| value.as_str()).collect();
            let columns = if given == 0 {
                String::new()
            } else {
                format!(" ({})", columns.join(", "))
            };
            format!(
                "INSERT INTO {table}{columns} SELECT {} FROM {found} AS {source} WHERE {applies}",
                values.join(", ")
            )
        }
        MergeAction::DoNothing { .. } => {
            return Err(SqlError::new(ErrorCode::Internal, "nothing is no action"));
        }
    })
}
