//! One change as JSON: Springhead's own event and Debezium's envelope, written straight from row
//! images into a buffer.

use std::sync::Arc;

use springhead_proto::{Epoch, Lsn, RowRef, SchemaVersion, TenantId, TimestampMs, ValueRef};
use springhead_sql::catalog::{QualifiedName, Table};
use springhead_sql::types::PgType;

use super::json;
use super::spec::{Envelope, Operation};

/// How rows of one collection at one version of its columns are printed.
#[derive(Debug)]
pub struct RowForm {
    pub table: Arc<Table>,
    /// The collection's name as events and URLs have it.
    pub name: String,
    fields: Box<[Field]>,
    /// Labels of columns that are wanted and that this version does not have: printed as null.
    absent: Box<[String]>,
    /// The document's id is shown: the reader may read all columns of the key.
    shows_id: bool,
}

#[derive(Debug)]
struct Field {
    /// In a row image.
    place: usize,
    /// The column's name in quotes, with its colon.
    label: String,
    pg_type: PgType,
}

impl RowForm {
    /// All columns of `table` that users see.
    #[must_use]
    pub fn new(table: Arc<Table>) -> RowForm {
        let fields = table
            .visible_columns()
            .map(|(place, column)| Field::new(place, &column.name, &column.pg_type))
            .collect();
        RowForm {
            name: collection_name(&table.name),
            fields,
            absent: Box::default(),
            shows_id: true,
            table,
        }
    }

    /// Only these columns, by the ids and names that they have in the table that was subscribed to.
    pub(crate) fn with_columns(table: Arc<Table>, columns: &[(u32, String)]) -> RowForm {
        let mut fields = Vec::new();
        let mut absent = Vec::new();
        for (id, name) in columns {
            match table.column_by_id(*id) {
                Some((place, column)) => fields.push(Field::new(place, name, &column.pg_type)),
                None => absent.push(label(name)),
            }
        }
        // Rows are walked from their front.
        fields.sort_by_key(|field| field.place);
        RowForm {
            name: collection_name(&table.name),
            fields: fields.into(),
            absent: absent.into(),
            shows_id: true,
            table,
        }
    }

    /// Without the document's id.
    pub(crate) fn without_id(mut self) -> RowForm {
        self.shows_id = false;
        self
    }

    /// Appends a row as a JSON object.
    pub fn write_row(&self, out: &mut Vec<u8>, row: RowRef<'_>) {
        let mut fields = self.fields.iter().peekable();
        out.push(b'{');
        let mut first = true;
        let mut comma = |out: &mut Vec<u8>| {
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
        };
        for (place, value) in row.values().enumerate() {
            let Some(field) = fields.next_if(|field| field.place == place) else {
                continue;
            };
            comma(out);
            out.extend_from_slice(field.label.as_bytes());
            json::value(out, &field.pg_type, value);
        }
        for label in fields.map(|field| &field.label).chain(self.absent.iter()) {
            comma(out);
            out.extend_from_slice(label.as_bytes());
            out.extend_from_slice(b"null");
        }
        out.push(b'}');
    }

    fn write_document_id(&self, out: &mut Vec<u8>, row: RowRef<'_>) {
        if !self.shows_id {
            out.extend_from_slice(b"null");
            return;
        }
        if let &[place] = self.table.key.as_slice()
            && let (PgType::Int2 | PgType::Int4 | PgType::Int8, Some(ValueRef::Integer(key))) =
                (&self.table.columns[place].pg_type, row.get(place))
        {
            // Most keys: no string needs to be made for them.
            out.push(b'"');
            if key < 0 {
                out.push(b'-');
            }
            json::number(out, key.unsigned_abs());
            out.push(b'"');
            return;
        }
        json::string(out, &self.table.document_id(row));
    }
}

impl Field {
    fn new(place: usize, name: &str, pg_type: &PgType) -> Field {
        Field {
            place,
            label: label(name),
            pg_type: pg_type.clone(),
        }
    }
}

fn label(name: &str) -> String {
    let mut label = Vec::with_capacity(name.len() + 3);
    json::string(&mut label, name);
    label.push(b':');
    String::from_utf8(label).expect("an escaped name is text")
}

/// A collection's name in events and URLs: without its schema for `public`, unless it would then be
/// read as something else.
#[must_use]
pub fn collection_name(name: &QualifiedName) -> String {
    if name.schema == QualifiedName::PUBLIC && name.name != "poll" && !name.name.contains('.') {
        name.name.clone()
    } else {
        format!("{}.{}", name.schema, name.name)
    }
}

/// Where a change stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub epoch: Epoch,
    pub timestamp_ms: TimestampMs,
    pub tenant: TenantId,
    /// The first LSN of its transaction.
    pub tx_lsn: Lsn,
    /// Its place in the transaction, from 0.
    pub tx_index: u64,
    /// How many changes the whole transaction has; 0 for a row of a snapshot, which has none.
    pub tx_count: u64,
}

impl Place {
    pub(crate) fn lsn(&self) -> Lsn {
        self.tx_lsn.plus(self.tx_index)
    }

    pub(crate) fn write_cursor(&self, out: &mut Vec<u8>) {
        write_cursor(out, self.lsn(), self.epoch);
    }
}

/// Appends `<lsn>@<epoch>`.
pub(crate) fn write_cursor(out: &mut Vec<u8>, lsn: Lsn, epoch: Epoch) {
    json::number(out, lsn.0);
    out.push(b'@');
    json::hex8(out, epoch.0);
}

/// What an event shows of a row or of what stands in its place.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Image<'a> {
    None,
    Row(RowRef<'a>),
    /// A row of `springhead.definitions`, cut down to what an event shows of it.
    Definition(RowRef<'a>),
    /// The same without the statement's text, which may hold what the reader may not see.
    DefinitionOutline(RowRef<'a>),
    /// Channel, payload, sender.
    Message(RowRef<'a>),
}

/// An event about to be written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event<'a> {
    pub operation: Operation,
    /// `None` where there is no collection, or only its name is known.
    pub form: Option<&'a RowForm>,
    /// The collection's name.
    pub collection: Option<&'a str>,
    pub before: Image<'a>,
    pub after: Image<'a>,
    pub schema_version: SchemaVersion,
}

impl Event<'_> {
    /// Appends the event in the envelope asked for.
    pub(crate) fn write(&self, out: &mut Vec<u8>, envelope: Envelope, place: &Place) {
        match envelope {
            Envelope::Plain => self.write_plain(out, place),
            Envelope::Debezium => self.write_debezium(out, place),
        }
    }

    fn write_plain(&self, out: &mut Vec<u8>, place: &Place) {
        out.extend_from_slice(b"{\"lsn\":");
        json::number(out, place.lsn().0);
        out.extend_from_slice(b",\"cursor\":\"");
        place.write_cursor(out);
        out.extend_from_slice(b"\",\"timestamp_ms\":");
        json::number(out, place.timestamp_ms.0);
        out.extend_from_slice(b",\"tenant_id\":");
        json::number(out, u64::from(place.tenant.0));
        out.extend_from_slice(b",\"collection\":");
        self.write_collection(out);
        out.extend_from_slice(b",\"operation\":\"");
        out.extend_from_slice(self.operation.word().as_bytes());
        out.extend_from_slice(b"\",\"document_id\":");
        self.write_document_id(out);
        out.extend_from_slice(b",\"before\":");
        self.write_image(out, self.before);
        out.extend_from_slice(b",\"after\":");
        self.write_image(out, self.after);
        out.extend_from_slice(b",\"tx\":");
        if place.tx_count == 0 {
            out.extend_from_slice(b"null");
        } else {
            out.extend_from_slice(b"{\"lsn\":");
            json::number(out, place.tx_lsn.0);
            out.extend_from_slice(b",\"index\":");
            json::number(out, place.tx_index);
            out.extend_from_slice(b",\"count\":");
            json::number(out, place.tx_count);
            out.push(b'}');
        }
        out.extend_from_slice(b",\"schema_version\":");
        json::number(out, u64::from(self.schema_version.0));
        out.push(b'}');
    }

    /// Field names as Debezium's connectors have them, and in `source` what is Springhead's own.
    fn write_debezium(&self, out: &mut Vec<u8>, place: &Place) {
        out.extend_from_slice(b"{\"before\":");
        self.write_image(out, self.before);
        out.extend_from_slice(b",\"after\":");
        self.write_image(out, self.after);
        out.extend_from_slice(
            concat!(
                ",\"source\":{\"version\":\"",
                env!("CARGO_PKG_VERSION"),
                "\",\"connector\":\"springhead\",\"name\":\"springhead\",\"ts_ms\":"
            )
            .as_bytes(),
        );
        json::number(out, place.timestamp_ms.0);
        let snapshot: &[u8] = if self.operation == Operation::Read {
            b"true"
        } else {
            b"false"
        };
        out.extend_from_slice(b",\"snapshot\":\"");
        out.extend_from_slice(snapshot);
        out.extend_from_slice(b"\",\"schema\":");
        match self.form {
            Some(form) => json::string(out, &form.table.name.schema),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"table\":");
        match self.form {
            Some(form) => json::string(out, &form.table.name.name),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"lsn\":");
        json::number(out, place.lsn().0);
        out.extend_from_slice(b",\"cursor\":\"");
        place.write_cursor(out);
        out.extend_from_slice(b"\",\"tenant_id\":");
        json::number(out, u64::from(place.tenant.0));
        out.extend_from_slice(b",\"collection\":");
        self.write_collection(out);
        out.extend_from_slice(b",\"operation\":\"");
        out.extend_from_slice(self.operation.word().as_bytes());
        out.extend_from_slice(b"\",\"document_id\":");
        self.write_document_id(out);
        out.extend_from_slice(b",\"schema_version\":");
        json::number(out, u64::from(self.schema_version.0));
        out.extend_from_slice(b"},\"op\":\"");
        out.push(self.operation.letter());
        out.extend_from_slice(b"\",\"ts_ms\":");
        json::number(out, place.timestamp_ms.0);
        out.extend_from_slice(b",\"transaction\":");
        if place.tx_count == 0 {
            out.extend_from_slice(b"null");
        } else {
            out.extend_from_slice(b"{\"id\":\"");
            json::number(out, place.tx_lsn.0);
            out.extend_from_slice(b"\",\"total_order\":");
            json::number(out, place.tx_index + 1);
            out.extend_from_slice(b",\"index\":");
            json::number(out, place.tx_index);
            out.extend_from_slice(b",\"count\":");
            json::number(out, place.tx_count);
            out.push(b'}');
        }
        out.push(b'}');
    }

    fn write_collection(&self, out: &mut Vec<u8>) {
        match self.collection {
            Some(name) => json::string(out, name),
            None => out.extend_from_slice(b"null"),
        }
    }

    fn write_document_id(&self, out: &mut Vec<u8>) {
        match (self.form, self.after, self.before) {
            (Some(form), Image::Row(row), _) | (Some(form), _, Image::Row(row)) => {
                form.write_document_id(out, row)
            }
            _ => out.extend_from_slice(b"null"),
        }
    }

    fn write_image(&self, out: &mut Vec<u8>, image: Image<'_>) {
        match (image, self.form) {
            (Image::Row(row), Some(form)) => form.write_row(out, row),
            (Image::Definition(row), _) => write_definition(out, row, true),
            (Image::DefinitionOutline(row), _) => write_definition(out, row, false),
            (Image::Message(row), _) => write_message(out, row),
            (Image::None | Image::Row(_), _) => out.extend_from_slice(b"null"),
        }
    }
}

/// Places in a row of `springhead.definitions`.
pub(crate) mod definition {
    pub(crate) const TYPE: usize = 1;
    pub(crate) const NAME: usize = 2;
    pub(crate) const COLLECTION: usize = 3;
    pub(crate) const SQL: usize = 4;
    pub(crate) const ACTION: usize = 6;
    pub(crate) const CATALOG_VERSION: usize = 7;
}

fn write_definition(out: &mut Vec<u8>, row: RowRef<'_>, with_sql: bool) {
    let fields = [
        ("{\"type\":", definition::TYPE),
        (",\"name\":", definition::NAME),
        (",\"action\":", definition::ACTION),
        (
            ",\"sql\":",
            if with_sql {
                definition::SQL
            } else {
                usize::MAX
            },
        ),
        (",\"catalog_version\":", definition::CATALOG_VERSION),
    ];
    write_fields(out, row, &fields);
}

fn write_message(out: &mut Vec<u8>, row: RowRef<'_>) {
    write_fields(
        out,
        row,
        &[("{\"channel\":", 0), (",\"payload\":", 1), (",\"pid\":", 2)],
    );
}

fn write_fields(out: &mut Vec<u8>, row: RowRef<'_>, fields: &[(&str, usize)]) {
    for &(label, place) in fields {
        out.extend_from_slice(label.as_bytes());
        match row.get(place) {
            Some(ValueRef::Text(text)) => json::string(out, text),
            Some(ValueRef::Integer(number)) => {
                json::value(out, &PgType::Int8, ValueRef::Integer(number))
            }
            _ => out.extend_from_slice(b"null"),
        }
    }
    out.push(b'}');
}
