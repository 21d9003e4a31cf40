//! What could be done about a rejected mutation. A fix is only named if the mutation with it does
//! commit as things stand: the writer has tried ([`Candidates`]), so that a device may apply it
//! without asking anybody. No hint has a value that the author has not sent, but for defaults and
//! bounds, which are definitions.

use springhead_proto::sync::{
    ColumnValues, Fix, Hint, HintKind, Mutation, Operation, SyncValue, Verb, Violation,
};
use springhead_sql::access::{Object, Use, decide};
use springhead_sql::bounds::{Bound, bounds, constant};
use springhead_sql::catalog::{Catalog, Privilege, Table};
use springhead_sql::{PgType, types};

use super::Author;
use super::violation::{Objection, foreign_key, sent_value, unique_columns};

/// What may be tried, best first, and what is said if none of it helps.
pub(crate) struct Candidates {
    pub kind: HintKind,
    pub fixes: Vec<Fix>,
}

/// How many values are tried in place of one that is taken.
const UNIQUE_TRIES: u32 = 8;

/// What the objection suggests.
pub(crate) fn candidates(
    catalog: &Catalog,
    author: &Author,
    mutation: &Mutation,
    objection: &Objection,
    random: u64,
    max_row_bytes: usize,
) -> Candidates {
    let operation = &mutation.operations[objection.operation];
    let table = crate::cdc::find_collection(catalog, &operation.collection)
        .ok()
        .map(AsRef::as_ref);
    let place = u32::try_from(objection.operation).unwrap_or(u32::MAX);
    let none = || Candidates {
        kind: HintKind::None,
        fixes: Vec::new(),
    };
    match &objection.violation {
        Violation::Unique { .. } => {
            unique(table, operation, place, objection, random).unwrap_or_else(none)
        }
        Violation::ForeignKey { .. } => {
            parent(catalog, author, table, operation, objection).unwrap_or_else(none)
        }
        Violation::NotNull { column } => not_null(table, operation, place, column),
        Violation::Check { constraint } => {
            check(table, operation, place, constraint).unwrap_or_else(none)
        }
        Violation::Type { column } => {
            let expected = (table.and_then(|table| table.column_named(column)))
                .map(|(_, column)| column.pg_type.sql_name());
            Candidates {
                kind: expected.map_or(HintKind::None, |expected| HintKind::Type {
                    column: column.clone(),
                    expected: expected.to_string(),
                }),
                fixes: Vec::new(),
            }
        }
        Violation::SchemaStale => Candidates {
            kind: HintKind::SchemaStale {
                catalog_version: catalog.version,
            },
            fixes: vec![Fix::ResyncDefinitions],
        },
        Violation::TooLarge => Candidates {
            kind: HintKind::TooLarge {
                limit_bytes: max_row_bytes as u64,
            },
            fixes: Vec::new(),
        },
        _ => none(),
    }
}

/// Other values for one of the constraint's columns.
fn unique(
    table: Option<&Table>,
    operation: &Operation,
    place: u32,
    objection: &Objection,
    random: u64,
) -> Option<Candidates> {
    let columns = unique_columns(table, &objection.error)?;
    // The last one is what tells rows of one group apart, where there are several.
    let (column, sent, pg_type) = columns.iter().rev().find_map(|column| {
        let sent = sent_value(operation, table, column)?;
        let (_, found) = table?.column_named(column)?;
        Some((column, sent, &found.pg_type))
    })?;
    let values = alternatives(pg_type, sent, random);
    let fixes = (values.into_iter())
        .map(|value| Fix::SetColumn {
            operation: place,
            column: column.clone(),
            value,
        })
        .collect();
    Some(Candidates {
        kind: HintKind::None,
        fixes,
    })
}

/// Values near one that is taken.
fn alternatives(pg_type: &PgType, sent: &SyncValue, random: u64) -> Vec<SyncValue> {
    match sent {
        SyncValue::Text(_) if *pg_type == PgType::Uuid => {
            let high = u128::from(random.rotate_left(17) ^ 0x9e37_79b9_7f4a_7c15);
            let bits = high << 64 | u128::from(random);
            let hex = format!("{bits:032x}");
            let uuid = format!(
                "{}-{}-4{}-8{}-{}",
                &hex[..8],
                &hex[8..12],
                &hex[13..16],
                &hex[17..20],
                &hex[20..]
            );
            vec![SyncValue::Text(uuid)]
        }
        SyncValue::Text(text) => {
            let numbered = (2..2 + UNIQUE_TRIES).map(|n| format!("{text} ({n})"));
            let random = std::iter::once(format!("{text} ({:06x})", random & 0xff_ffff));
            numbered.chain(random).map(SyncValue::Text).collect()
        }
        SyncValue::Integer(value) => {
            let near = (0..UNIQUE_TRIES).filter_map(|n| value.checked_add(1 << n));
            let far = value.checked_add_unsigned(random & 0x3fff_ffff);
            near.chain(far).map(SyncValue::Integer).collect()
        }
        _ => Vec::new(),
    }
}

/// The row that has to be there first.
fn parent(
    catalog: &Catalog,
    author: &Author,
    table: Option<&Table>,
    operation: &Operation,
    objection: &Objection,
) -> Option<Candidates> {
    let (_, key) = foreign_key(table?, &objection.error)?;
    let parent = catalog.table(springhead_proto::CollectionId(key.parent))?;
    let used = Use {
        privilege: Privilege::Select,
        columns: &key.parent_columns,
    };
    // Whoever may not read it is told no more than that it is not there.
    decide(&author.plan_context.identity, Object::Table(parent), used).ok()?;
    let own = table?.column_names(&key.columns);
    let names = parent.column_names(&key.parent_columns);
    let mut columns = ColumnValues::default();
    for (column, name) in own.iter().zip(names) {
        columns.put(name, sent_value(operation, table, column)?.clone());
    }
    let collection = crate::cdc::collection_name(&parent.name);
    Some(Candidates {
        fixes: vec![Fix::CreateRow {
            collection: collection.clone(),
            columns: columns.clone(),
        }],
        kind: HintKind::ForeignKey {
            column: own.join(","),
            collection,
            columns,
        },
    })
}

fn not_null(table: Option<&Table>, operation: &Operation, place: u32, column: &str) -> Candidates {
    let found = table.and_then(|table| table.column_named(column));
    let default =
        found.and_then(|(_, column)| read(&column.pg_type, &constant(column.default.as_deref()?)?));
    let mut fixes = Vec::new();
    if let Some(value) = &default {
        fixes.push(Fix::SetColumn {
            operation: place,
            column: column.to_owned(),
            value: value.clone(),
        });
    }
    let names_it = match &operation.verb {
        Verb::Insert(columns) | Verb::Set(columns) => columns.get(column).is_some(),
        _ => false,
    };
    if names_it {
        fixes.push(Fix::DropColumn {
            operation: place,
            column: column.to_owned(),
        });
    }
    Candidates {
        kind: HintKind::NotNull {
            column: column.to_owned(),
            default,
        },
        fixes,
    }
}

/// A literal's text as a value of a type.
fn read(pg_type: &PgType, text: &str) -> Option<SyncValue> {
    let value = types::input(pg_type, text).ok()?;
    Some(super::value::from_storage(pg_type, value.as_ref()))
}

/// The condition's text, and the bounds that it sets to one column.
fn check(
    table: Option<&Table>,
    operation: &Operation,
    place: u32,
    constraint: &str,
) -> Option<Candidates> {
    let check = table?.check_named(constraint)?;
    let bounds = bounds(&check.expression);
    let column = (bounds.as_ref())
        .and_then(|bounds| table?.column_named(&bounds.column))
        .map(|(_, column)| column);
    let within = |bound: Option<&Bound>, inwards: i64| {
        let bound = bound?;
        match (read(&column?.pg_type, &bound.text)?, bound.is_strict) {
            (value, false) => Some(value),
            // Of whole numbers the next one is within.
            (SyncValue::Integer(value), true) => value.checked_add(inwards).map(SyncValue::Integer),
            _ => None,
        }
    };
    let min = within(bounds.as_ref().and_then(|bounds| bounds.min.as_ref()), 1);
    let max = within(bounds.as_ref().and_then(|bounds| bounds.max.as_ref()), -1);
    let column = column.map(|column| column.name.clone());
    let mut fixes = Vec::new();
    if let Some(column) = &column
        && sent_value(operation, table, column).is_some()
    {
        for value in [&min, &max].into_iter().flatten() {
            fixes.push(Fix::SetColumn {
                operation: place,
                column: column.clone(),
                value: value.clone(),
            });
        }
    }
    Some(Candidates {
        kind: HintKind::Check {
            constraint: constraint.to_owned(),
            text: check.expression.clone(),
            column,
            min,
            max,
        },
        fixes,
    })
}

/// The mutation with a fix; `None` where it has no place for it.
pub(crate) fn fixed(mutation: &Mutation, fix: &Fix, catalog: &Catalog) -> Option<Mutation> {
    let mut fixed = mutation.clone();
    match fix {
        Fix::SetColumn {
            operation,
            column,
            value,
        } => {
            let operation = fixed
                .operations
                .get_mut(usize::try_from(*operation).ok()?)?;
            let table = crate::cdc::find_collection(catalog, &operation.collection).ok()?;
            if let Some(place) = table.key_columns().position(|key| key.name == *column) {
                *operation.id.get_mut(place)? = value.clone();
                if let Verb::Insert(columns) = &mut operation.verb
                    && columns.get(column).is_some()
                {
                    columns.put(column, value.clone());
                }
                return Some(fixed);
            }
            match &mut operation.verb {
                Verb::Insert(columns) | Verb::Set(columns) => columns.put(column, value.clone()),
                _ => return None,
            }
        }
        Fix::DropColumn { operation, column } => {
            let operation = fixed
                .operations
                .get_mut(usize::try_from(*operation).ok()?)?;
            match &mut operation.verb {
                Verb::Insert(columns) | Verb::Set(columns) => {
                    columns.0.retain(|(name, _)| name != column);
                }
                _ => return None,
            }
        }
        Fix::CreateRow {
            collection,
            columns,
        } => {
            let table = crate::cdc::find_collection(catalog, collection).ok()?;
            let id = (table.key_columns())
                .map(|key| columns.get(&key.name).cloned())
                .collect::<Option<Vec<_>>>()?;
            fixed.operations.insert(
                0,
                Operation {
                    collection: collection.clone(),
                    id,
                    verb: Verb::Insert(columns.clone()),
                },
            );
        }
        Fix::ResyncDefinitions => return None,
    }
    Some(fixed)
}

/// The hint, given which of the candidates have been seen to help.
pub(crate) fn hint(candidates: Candidates, helped: Vec<Fix>) -> Hint {
    let kind = match (candidates.kind, helped.first()) {
        (HintKind::None, Some(Fix::SetColumn { column, value, .. })) => HintKind::Unique {
            column: column.clone(),
            value: value.clone(),
        },
        (kind, _) => kind,
    };
    Hint {
        kind,
        fixes: helped,
    }
}
