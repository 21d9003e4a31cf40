//! ON CONFLICT: which unique constraint or index is meant, and what becomes of the row that is there.

use std::sync::Arc;

use springhead_proto::{ErrorCode, SqlError};
use sqlparser::ast::{ConflictTarget, OnConflict, OnConflictAction};
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::catalog::{Event, Table};
use crate::query::Analyzer;
use crate::query::expression::table_relation;
use crate::query::names;
use crate::query::reference::Tracked;
use crate::query::scope::{Relation, Scope};

use super::insert::quoted;
use super::{target_column, triggers, update};

pub(super) fn on_conflict(
    analyzer: &mut Analyzer<'_>,
    table: &Arc<Table>,
    existing: Relation,
    tracked: &Tracked,
    conflict: &OnConflict,
) -> Result<(String, Vec<u32>), SqlError> {
    let keys = match &conflict.conflict_target {
        None => expression_keys(analyzer, table)?,
        Some(ConflictTarget::Columns(idents)) => {
            let mut places = Vec::with_capacity(idents.len());
            for ident in idents {
                places.push(target_column(analyzer, table, ident)?);
            }
            let partial = partial_keys(analyzer, table, &places)?;
            Some(
                partial
                    .or_else(|| conflict_keys(table, &places))
                    .ok_or_else(no_arbiter)?,
            )
        }
        Some(ConflictTarget::OnConstraint(name)) => {
            let name = names::parts(name)?.pop().unwrap_or_default();
            Some(constraint_keys(table, &name).ok_or_else(|| {
                SqlError::new(
                    ErrorCode::UndefinedObject,
                    format!(
                        "constraint \"{name}\" for table \"{}\" does not exist",
                        table.name.name
                    ),
                )
            })?)
        }
    };
    let target = keys.map_or_else(String::new, |keys| match keys.split_first() {
        // A partial index's condition follows its keys.
        Some((first, [])) if first.starts_with('(') => format!(" {first}"),
        _ => format!(" ({})", keys.join(",")),
    });
    let update = match &conflict.action {
        OnConflictAction::DoNothing => {
            return Ok((format!(" ON CONFLICT{target} DO NOTHING"), Vec::new()));
        }
        OnConflictAction::DoUpdate(update) => update,
    };
    if target.is_empty() {
        return Err(SqlError::new(
            ErrorCode::SyntaxError,
            "ON CONFLICT DO UPDATE requires inference specification or constraint name",
        )
        .with_hint("For example, ON CONFLICT (column_name)."));
    }
    let id = existing.id.clone();
    let mut excluded = table_relation(table, "excluded", Some("excluded"));
    excluded.schema = None;
    let scope = Scope {
        columns: existing.columns.clone(),
        relations: vec![existing, excluded],
        aggregates_refused: Some("UPDATE"),
        windows_refused: Some("UPDATE"),
        ..Scope::default()
    };
    analyzer.in_scope(scope, |analyzer| {
        let set = update::assignments(analyzer, table, &update.assignments)?;
        let condition = match &update.selection {
            Some(condition) => Some(analyzer.condition(condition, "WHERE")?),
            None => None,
        };
        let condition = match (
            condition,
            analyzer.conflict_check(table, &id, tracked.any())?,
        ) {
            (None, None) => String::new(),
            (Some(text), None) | (None, Some(text)) => format!(" WHERE {text}"),
            (Some(condition), Some(check)) => {
                format!(" WHERE CASE WHEN {condition} THEN {check} ELSE 0 END")
            }
        };
        let updated = update::updated(table, &set);
        let set = if triggers::has_before(analyzer, table, Event::Update, &updated) {
            triggers::upsert_set(table, &id, &update::single(set)?)
        } else {
            update::set_text(table, &set)
        };
        let text = format!(" ON CONFLICT{target} DO UPDATE SET {set}{condition}");
        Ok((text, updated))
    })
}

fn no_arbiter() -> SqlError {
    SqlError::new(
        ErrorCode::InvalidColumnReference,
        "there is no unique or exclusion constraint matching the ON CONFLICT specification",
    )
}

/// The columns that decide what a conflict is, by place; none if every conflict is meant.
pub(super) fn arbiter_columns(
    analyzer: &Analyzer<'_>,
    table: &Table,
    target: Option<&ConflictTarget>,
) -> Result<Vec<usize>, SqlError> {
    match target {
        None => {
            let mut places = Vec::new();
            for key in analyzer.marks.conflict_keys.iter().flatten() {
                let (_, ids) = crate::ddl::conflict_key(analyzer.catalog, table, key)?;
                places.extend(ids.iter().filter_map(|&id| Some(table.column_by_id(id)?.0)));
            }
            Ok(places)
        }
        Some(ConflictTarget::Columns(idents)) => idents
            .iter()
            .map(|ident| target_column(analyzer, table, ident))
            .collect(),
        Some(ConflictTarget::OnConstraint(name)) => {
            let name = names::parts(name)?.pop().unwrap_or_default();
            if table.key_name.as_deref() == Some(&name) {
                return Ok(table.key.clone());
            }
            let unique = table.uniques.iter().find(|unique| unique.name == name);
            Ok(table
                .columns
                .iter()
                .enumerate()
                .filter(|(_, column)| {
                    unique.is_some_and(|unique| unique.columns.contains(&column.id))
                })
                .map(|(place, _)| place)
                .collect())
        }
    }
}

/// The SQLite conflict target of a constraint or unique index over exactly these columns.
fn conflict_keys(table: &Table, places: &[usize]) -> Option<Vec<String>> {
    let mut wanted: Vec<u32> = places
        .iter()
        .map(|&place| table.columns[place].id)
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    let same = |ids: &[u32]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids == wanted
    };
    if table.key_name.is_some() && same(&table.key_ids()) {
        return Some(key_of(table));
    }
    if let Some(unique) = table.uniques.iter().find(|unique| same(&unique.columns)) {
        return Some(unique.storage_keys(table));
    }
    table
        .indexes
        .iter()
        .filter(|index| index.unique && index.predicate.is_none())
        .find_map(|index| plain_columns(table, &index.keys).filter(|ids| same(ids)))
        .map(|ids| columns_of(table, &ids))
}

/// `(keys) WHERE condition` of the partial unique index that ON CONFLICT (…) WHERE … picks.
fn partial_keys(
    analyzer: &Analyzer<'_>,
    table: &Table,
    places: &[usize],
) -> Result<Option<Vec<String>>, SqlError> {
    let Some(condition) = &analyzer.marks.conflict else {
        return Ok(None);
    };
    let wanted = crate::ddl::index_predicate(analyzer.catalog, table, condition)?;
    let mut columns: Vec<u32> = places
        .iter()
        .map(|&place| table.columns[place].id)
        .collect();
    columns.sort_unstable();
    for index in table.indexes.iter().filter(|index| index.unique) {
        let (Some(predicate), Some(ids)) = (&index.predicate, plain_columns(table, &index.keys))
        else {
            continue;
        };
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        let held = crate::ddl::index_predicate(analyzer.catalog, table, predicate)?;
        if sorted == columns && held == wanted {
            let keys = columns_of(table, &ids).join(",");
            return Ok(Some(vec![format!("({keys}) WHERE {held}")]));
        }
    }
    Ok(None)
}

/// The keys of the unique index over the expressions that ON CONFLICT names, with its condition if it has
/// one that is named too; `None` if columns or nothing is named.
fn expression_keys(
    analyzer: &Analyzer<'_>,
    table: &Table,
) -> Result<Option<Vec<String>>, SqlError> {
    let (catalog, marks) = (analyzer.catalog, &analyzer.marks);
    let Some(named) = &marks.conflict_keys else {
        return Ok(None);
    };
    let keys_of = |texts: &[String]| {
        let keys = texts.iter().map(|text| {
            let (key, _) = crate::ddl::conflict_key(catalog, table, text)?;
            Ok(key)
        });
        keys.collect::<Result<Vec<String>, SqlError>>()
    };
    let condition_of = |text: &Option<String>| {
        let text = text.as_ref();
        text.map(|text| crate::ddl::index_predicate(catalog, table, text))
            .transpose()
    };
    let (wanted, condition) = (keys_of(named)?, condition_of(&marks.conflict)?);
    let is_same = |keys: &[String]| {
        keys.iter().all(|key| wanted.contains(key)) && wanted.iter().all(|key| keys.contains(key))
    };
    for index in table.indexes.iter().filter(|index| index.unique) {
        let (keys, held) = (keys_of(&index.keys)?, condition_of(&index.predicate)?);
        if !is_same(&keys) || held.is_some() && held != condition {
            continue;
        }
        return Ok(Some(match held {
            None => keys,
            Some(held) => vec![format!("({}) WHERE {held}", keys.join(","))],
        }));
    }
    Err(no_arbiter())
}

/// The columns of a unique index, if it is over columns alone.
fn plain_columns(table: &Table, keys: &[String]) -> Option<Vec<u32>> {
    keys.iter()
        .map(|key| {
            let name = key
                .split_whitespace()
                .next()?
                .trim_matches('"')
                .replace("\"\"", "\"");
            table
                .columns
                .iter()
                .find(|column| column.name == name)
                .map(|column| column.id)
        })
        .collect()
}

fn constraint_keys(table: &Table, name: &str) -> Option<Vec<String>> {
    if table.key_name.as_deref() == Some(name) {
        return Some(key_of(table));
    }
    table
        .uniques
        .iter()
        .find(|unique| unique.name == name)
        .map(|unique| unique.storage_keys(table))
}

fn key_of(table: &Table) -> Vec<String> {
    columns_of(table, &table.key_ids())
}

fn columns_of(table: &Table, ids: &[u32]) -> Vec<String> {
    ids.iter()
        .filter_map(|id| table.columns.iter().find(|column| column.id == *id))
        .map(|column| {
            let name = quoted(column);
            if crate::ddl::storage::needs_key_function(column) {
                crate::query::typed::key_of(&column.pg_type, &name)
            } else {
                name
            }
        })
        .collect()
}

/// Gives `INSERT … SELECT 1, 2 ON CONFLICT …` a WHERE that is true: without one the parser takes ON for
/// the name of the last column.
pub(crate) fn end_select(tokens: &mut Vec<TokenWithSpan>) {
    let mut depth = 0_usize;
    // What is being read of the statement itself, and where an ON is that has just been read.
    let mut clause = Keyword::NoKeyword;
    let mut on: Option<usize> = None;
    let mut end = None;
    for (place, token) in tokens.iter().enumerate() {
        let mut next_on = None;
        match &token.token {
            Token::Whitespace(_) => continue,
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            Token::Word(word) if depth == 0 && word.quote_style.is_none() => match word.keyword {
                Keyword::ON => next_on = Some(place),
                Keyword::CONFLICT if on.is_some() && clause == Keyword::SELECT => {
                    end = on;
                    break;
                }
                Keyword::SELECT
                | Keyword::FROM
                | Keyword::WHERE
                | Keyword::GROUP
                | Keyword::HAVING
                | Keyword::WINDOW
                | Keyword::ORDER
                | Keyword::LIMIT
                | Keyword::OFFSET
                | Keyword::VALUES => clause = word.keyword,
                _ => {}
            },
            _ => {}
        }
        on = next_on;
    }
    if let Some(place) = end {
        let span = tokens[place].span;
        let word = |text| TokenWithSpan::new(Token::make_keyword(text), span);
        tokens.splice(place..place, [word("WHERE"), word("TRUE")]);
    }
}
