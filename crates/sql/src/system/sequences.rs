//! Sequences: `pg_sequence`, `pg_sequences`.

use springhead_proto::{SqlError, Value};

use super::cell::row;
use super::oids::{self, Part};
use super::relations::sequences;
use super::shape::{Relation, relation};
use super::{Row, View};

pub(super) const RELATIONS: &[Relation] = &[
    relation!("pg_catalog", "pg_sequence", 2224, pg_sequence, {
        "seqrelid": Oid, "seqtypid": Oid, "seqstart": Int8, "seqincrement": Int8, "seqmax": Int8,
        "seqmin": Int8, "seqcache": Int8, "seqcycle": Bool,
    }),
    relation!(live "pg_catalog", "pg_sequences", 0, pg_sequences, {
        "schemaname": Name, "sequencename": Name, "sequenceowner": Name, "data_type": Type,
        "start_value": Int8, "min_value": Int8, "max_value": Int8, "increment_by": Int8,
        "cycle": Bool, "cache_size": Int8, "last_value": Int8,
    }),
];

fn pg_sequence(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for sequence in sequences(view) {
        rows.push(row![
            oids::of(sequence.id, Part::Itself),
            sequence.pg_type.oid(),
            sequence.start,
            sequence.increment,
            sequence.max,
            sequence.min,
            1,
            sequence.cycle,
        ]);
    }
    Ok(())
}

fn pg_sequences(view: &View<'_>, rows: &mut Vec<Row>) -> Result<(), SqlError> {
    for sequence in sequences(view) {
        rows.push(row![
            &sequence.name.schema,
            &sequence.name.name,
            "postgres",
            sequence.pg_type.oid(),
            sequence.start,
            sequence.min,
            sequence.max,
            sequence.increment,
            sequence.cycle,
            1,
            last_value(view, sequence.id),
        ]);
    }
    Ok(())
}

/// The last number that has been handed out, if one has and a writer knows of it.
pub(super) fn last_value(view: &View<'_>, id: u32) -> Value {
    match view.session.sequence(id) {
        Some((last, true)) => Value::Integer(last),
        _ => Value::Null,
    }
}
