//! CREATE, ALTER and DROP SEQUENCE.

use springhead_proto::{CollectionId, ErrorCode, SqlError};
use sqlparser::ast::{Expr, SequenceOptions, UnaryOperator};

use super::change::Change;
use super::names::{check_schema, duplicate_relation, own_table};
use crate::catalog::{Access, Definition, QualifiedName, Sequence};
use crate::plan::{PlanKind, display_name};
use crate::types::PgType;

/// What a statement says of a sequence; `None` for what it does not mention.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) pg_type: Option<PgType>,
    pub(super) increment: Option<i64>,
    /// `Some(None)`: NO MINVALUE.
    pub(super) min: Option<Option<i64>>,
    /// `Some(None)`: NO MAXVALUE.
    pub(super) max: Option<Option<i64>>,
    pub(super) start: Option<i64>,
    /// ALTER SEQUENCE … RESTART; `Some(None)`: at its start.
    pub(super) restart: Option<Option<i64>>,
    pub(super) cache: Option<i64>,
    pub(super) cycle: Option<bool>,
    /// `Some(None)`: OWNED BY NONE.
    pub(super) owned_by: Option<Option<(QualifiedName, String)>>,
    /// IDENTITY (SEQUENCE NAME …).
    pub(super) name: Option<QualifiedName>,
}

/// A sequence with the bounds of its type, counting up from 1.
pub(super) fn new(id: u32, name: QualifiedName, pg_type: PgType) -> Sequence {
    let max = upper(&pg_type);
    Sequence {
        id,
        name,
        pg_type,
        start: 1,
        increment: 1,
        min: 1,
        max,
        cycle: false,
        owned_by: None,
        access: Access::default(),
    }
}

fn upper(pg_type: &PgType) -> i64 {
    match pg_type {
        PgType::Int2 => i64::from(i16::MAX),
        PgType::Int4 => i64::from(i32::MAX),
        _ => i64::MAX,
    }
}

fn lower(pg_type: &PgType) -> i64 {
    match pg_type {
        PgType::Int2 => i64::from(i16::MIN),
        PgType::Int4 => i64::from(i32::MIN),
        _ => i64::MIN,
    }
}

/// The options as sqlparser reads them.
pub(super) fn options(written: &[SequenceOptions]) -> Result<Options, SqlError> {
    let mut options = Options::default();
    for option in written {
        match option {
            SequenceOptions::IncrementBy(value, _) => options.increment = Some(number(value)?),
            SequenceOptions::MinValue(value) => {
                options.min = Some(value.as_ref().map(number).transpose()?)
            }
            SequenceOptions::MaxValue(value) => {
                options.max = Some(value.as_ref().map(number).transpose()?)
            }
            SequenceOptions::StartWith(value, _) => options.start = Some(number(value)?),
            SequenceOptions::Cache(value) => options.cache = Some(number(value)?),
            // sqlparser keeps here whether there was a NO.
            SequenceOptions::Cycle(no) => options.cycle = Some(!no),
        }
    }
    Ok(options)
}

fn number(value: &Expr) -> Result<i64, SqlError> {
    let text = match value {
        Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr,
        } => format!("-{expr}"),
        other => other.to_string(),
    };
    text.parse().map_err(|_| {
        SqlError::new(
            ErrorCode::NumericOutOfRange,
            format!("value \"{text}\" is out of range for type bigint"),
        )
    })
}

/// Applies what a statement says, as PostgreSQL's `init_params` does.
///
/// # Errors
/// 22023 for bounds that do not fit together.
pub(super) fn set_options(
    sequence: &mut Sequence,
    options: &Options,
    is_new: bool,
) -> Result<(), SqlError> {
    let bad = |message: String| Err(SqlError::new(ErrorCode::InvalidParameterValue, message));
    let mut reset_max = is_new;
    let mut reset_min = is_new;
    if let Some(pg_type) = &options.pg_type {
        if !matches!(pg_type, PgType::Int2 | PgType::Int4 | PgType::Int8) {
            return bad("sequence type must be smallint, integer, or bigint".to_owned());
        }
        // Bounds that were the old type's own become the new type's.
        reset_max |= sequence.max == upper(&sequence.pg_type);
        reset_min |= sequence.min == lower(&sequence.pg_type);
        sequence.pg_type = pg_type.clone();
    }
    if let Some(increment) = options.increment {
        if increment == 0 {
            return bad("INCREMENT must not be zero".to_owned());
        }
        sequence.increment = increment;
    }
    let (low, high) = (lower(&sequence.pg_type), upper(&sequence.pg_type));
    match options.max {
        Some(Some(max)) => sequence.max = max,
        Some(None) => sequence.max = if sequence.increment > 0 { high } else { -1 },
        None if reset_max => sequence.max = if sequence.increment > 0 { high } else { -1 },
        None => {}
    }
    match options.min {
        Some(Some(min)) => sequence.min = min,
        Some(None) => sequence.min = if sequence.increment > 0 { 1 } else { low },
        None if reset_min => sequence.min = if sequence.increment > 0 { 1 } else { low },
        None => {}
    }
    let type_name = sequence.pg_type.sql_name();
    if sequence.max < low || sequence.max > high {
        return bad(format!(
            "MAXVALUE ({}) is out of range for sequence data type {type_name}",
            sequence.max
        ));
    }
    if sequence.min < low || sequence.min > high {
        return bad(format!(
            "MINVALUE ({}) is out of range for sequence data type {type_name}",
            sequence.min
        ));
    }
    if sequence.min >= sequence.max {
        return bad(format!(
            "MINVALUE ({}) must be less than MAXVALUE ({})",
            sequence.min, sequence.max
        ));
    }
    match options.start {
        Some(start) => sequence.start = start,
        None if is_new => {
            sequence.start = if sequence.increment > 0 {
                sequence.min
            } else {
                sequence.max
            }
        }
        None => {}
    }
    if sequence.start < sequence.min {
        return bad(format!(
            "START value ({}) cannot be less than MINVALUE ({})",
            sequence.start, sequence.min
        ));
    }
    if sequence.start > sequence.max {
        return bad(format!(
            "START value ({}) cannot be greater than MAXVALUE ({})",
            sequence.start, sequence.max
        ));
    }
    if let Some(cache) = options.cache
        && cache <= 0
    {
        return bad(format!("CACHE ({cache}) must be greater than zero"));
    }
    if let Some(cycle) = options.cycle {
        sequence.cycle = cycle;
    }
    Ok(())
}

/// CREATE SEQUENCE.
pub(super) fn create(
    mut change: Change<'_>,
    name: QualifiedName,
    if_not_exists: bool,
    options: &Options,
) -> Result<PlanKind, SqlError> {
    check_schema(&name)?;
    if change.catalog.relation(&name).is_some() {
        if if_not_exists {
            change.notices.push(format!(
                "relation \"{}\" already exists, skipping",
                name.name
            ));
            return Ok(change.finish());
        }
        return Err(duplicate_relation(&name));
    }
    let mut sequence = new(change.next_id()?, name, PgType::Int8);
    if let Some(pg_type) = &options.pg_type {
        sequence.pg_type = pg_type.clone();
    }
    set_options(&mut sequence, options, true)?;
    set_owner(&change, &mut sequence, options)?;
    change.put_sequence(sequence);
    Ok(change.finish())
}

/// ALTER SEQUENCE.
pub(super) fn alter(
    mut change: Change<'_>,
    name: &QualifiedName,
    if_exists: bool,
    options: &Options,
) -> Result<PlanKind, SqlError> {
    let Some(sequence) = change.catalog.sequence_named(name) else {
        return missing(change, name, if_exists);
    };
    let mut sequence = Sequence::clone(sequence);
    set_options(&mut sequence, options, false)?;
    set_owner(&change, &mut sequence, options)?;
    if let Some(at) = options.restart {
        let at = at.unwrap_or(sequence.start);
        if at < sequence.min || at > sequence.max {
            let (word, bound) = if at < sequence.min {
                ("less than MINVALUE", sequence.min)
            } else {
                ("greater than MAXVALUE", sequence.max)
            };
            return Err(SqlError::new(
                ErrorCode::InvalidParameterValue,
                format!("RESTART value ({at}) cannot be {word} ({bound})"),
            ));
        }
        change.sequence_restarts.push((sequence.id, at));
    }
    change.put_sequence(sequence);
    Ok(change.finish())
}

/// ALTER SEQUENCE … RENAME TO.
pub(super) fn rename(
    mut change: Change<'_>,
    name: &QualifiedName,
    if_exists: bool,
    to: String,
) -> Result<PlanKind, SqlError> {
    let Some(sequence) = change.catalog.sequence_named(name) else {
        return missing(change, name, if_exists);
    };
    let mut sequence = Sequence::clone(sequence);
    let to = QualifiedName::new(name.schema.clone(), to);
    if change.catalog.relation(&to).is_some() {
        return Err(duplicate_relation(&to));
    }
    sequence.name = to;
    change.put_sequence(sequence);
    Ok(change.finish())
}

fn missing(
    mut change: Change<'_>,
    name: &QualifiedName,
    if_exists: bool,
) -> Result<PlanKind, SqlError> {
    if change.catalog.relation(name).is_some() {
        return Err(SqlError::new(
            ErrorCode::WrongObjectType,
            format!("\"{}\" is not a sequence", name.name),
        ));
    }
    if if_exists {
        change.notices.push(format!(
            "relation \"{}\" does not exist, skipping",
            name.name
        ));
        return Ok(change.finish());
    }
    Err(SqlError::new(
        ErrorCode::UndefinedTable,
        format!("relation \"{}\" does not exist", display_name(name)),
    ))
}

fn set_owner(
    change: &Change<'_>,
    sequence: &mut Sequence,
    options: &Options,
) -> Result<(), SqlError> {
    match &options.owned_by {
        None => {}
        Some(None) => sequence.owned_by = None,
        Some(Some((table, column))) => {
            let table = own_table(&change.catalog, table)?;
            let (_, column) = table.expect_column(column)?;
            sequence.owned_by = Some((table.id, column.id));
        }
    }
    Ok(())
}

/// The columns whose defaults take numbers from a sequence.
pub(super) fn users(change: &Change<'_>, sequence: u32) -> Vec<(CollectionId, u32)> {
    let mut users: Vec<(CollectionId, u32)> = change
        .catalog
        .tables
        .values()
        .flat_map(|table| {
            table
                .columns
                .iter()
                .filter(|column| column.sequence == Some(sequence))
                .map(|column| (table.collection(), column.id))
        })
        .collect();
    users.sort_unstable();
    users
}

/// Drops a sequence that nothing takes numbers from any more.
pub(super) fn remove(change: &mut Change<'_>, id: u32) {
    if let Some(sequence) = change.catalog.sequence(id) {
        let sequence = Sequence::clone(sequence);
        change.drop(Definition::Sequence(sequence));
    }
}
