//! Golden events: every operation and every type, to the byte.

use std::sync::Arc;

use springhead_log::{CommitSlice, SystemClock};
use springhead_proto::{
    ChangeKind, CollectionId, Epoch, Lsn, Row, SchemaVersion, TenantId, TimestampMs, Value,
    encode_change,
};
use springhead_sql::Catalog;
use springhead_sql::catalog::{Column, Definition, QualifiedName, Table};
use springhead_sql::types::{PgType, input};

use super::filter::{FilterLimits, Filters};
use super::plan::{FeedPlan, Tables};
use super::render::{Framer, Framing, Renderer, SlicePosition, Stop};
use super::{Envelope, FeedSpec, Grouping};

/// Tables of the tests, by collection.
pub(super) struct Known(pub Vec<Arc<Table>>);

impl Tables for Known {
    fn table(&self, collection: CollectionId, version: SchemaVersion) -> Option<Arc<Table>> {
        self.0
            .iter()
            .find(|table| table.collection() == collection && table.version() == version)
            .cloned()
    }
}

pub(super) fn table(id: u32, name: &str, columns: &[(&str, PgType)], key: &[usize]) -> Arc<Table> {
    let columns = columns.iter().zip(1..).map(|((name, pg_type), id)| Column {
        id,
        name: (*name).to_owned(),
        pg_type: pg_type.clone(),
        not_null: false,
        default: None,
        sequence: None,
        identity_always: false,
        identity: Default::default(),
        generated: None,
        hidden: false,
        crdt: None,
    });
    let columns: Vec<Column> = columns.collect();
    Arc::new(Table {
        id,
        name: QualifiedName::public(name),
        schema_version: 3,
        next_column_id: 100,
        columns,
        key: key.to_vec(),
        key_name: Some(format!("{name}_pkey")),
        uniques: Vec::new(),
        checks: Vec::new(),
        foreign_keys: Vec::new(),
        indexes: Vec::new(),
        conflict: springhead_sql::catalog::Conflict::default(),
        since_catalog: 0,
        access: springhead_sql::catalog::Access::default(),
    })
}

pub(super) fn catalog(tables: &[Arc<Table>]) -> Catalog {
    Catalog::from_definitions(
        tables
            .iter()
            .map(|table| Definition::Table((**table).clone())),
        2,
        200,
    )
}

pub(super) fn row(values: &[Value]) -> Row {
    Row::from_values(values.iter().map(Value::as_ref))
}

/// A change to be encoded.
pub(super) type Given = (ChangeKind, CollectionId, Option<Row>, Option<Row>);

/// One commit at LSN 41.
pub(super) fn commit(changes: &[Given]) -> CommitSlice {
    let mut bytes = Vec::new();
    for (kind, collection, before, after) in changes {
        let before = before.as_ref().map(|row| &row.bytes()[..]);
        let after = after.as_ref().map(|row| &row.bytes()[..]);
        encode_change(
            &mut bytes,
            *kind,
            *collection,
            SchemaVersion(3),
            before,
            after,
        );
    }
    CommitSlice {
        tenant: TenantId(1),
        epoch: Epoch(0x9c1e_04d7),
        timestamp_ms: TimestampMs(1_718_000_000_000),
        commit_lsn: Lsn(41),
        commit_count: changes.len() as u64,
        index: 0,
        count: changes.len() as u64,
        last: true,
        changes: bytes.into(),
    }
}

pub(super) fn render(
    spec: FeedSpec,
    tables: &Known,
    framing: Framing,
    slice: &CommitSlice,
) -> String {
    let plan = FeedPlan::new(TenantId(1), &catalog(&tables.0), spec, 8 << 10, None).unwrap();
    let filters = Filters::new(Arc::new(SystemClock), FilterLimits::default());
    let renderer = Renderer {
        plan: &plan,
        tables,
        filters: &filters,
        judged: &super::judged::Judged::default(),
    };
    let mut framer = Framer::new(framing, &plan);
    let mut at = SlicePosition::default();
    let mut out = Vec::new();
    let stop = Stop {
        out_bytes: usize::MAX,
        changes: None,
    };
    while !renderer
        .slice(slice, &mut at, Lsn::ZERO, &mut framer, stop, &mut out)
        .unwrap()
    {}
    String::from_utf8(out).unwrap()
}

const ORDERS: CollectionId = CollectionId(104);

fn orders() -> Known {
    Known(vec![table(
        104,
        "orders",
        &[("id", PgType::Text), ("status", PgType::Text)],
        &[0],
    )])
}

fn order(status: &str) -> Row {
    row(&[Value::Text("o1".to_owned()), Value::Text(status.to_owned())])
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn every_kind() -> CommitSlice {
    let definition = row(&[
        Value::Integer(104),
        text("table"),
        text("orders"),
        text("orders"),
        text("CREATE TABLE orders\n(…)"),
        text("{}"),
        text("put"),
        Value::Integer(2),
        text("hash"),
    ]);
    commit(&[
        (ChangeKind::Definition, ORDERS, None, Some(definition)),
        (ChangeKind::Insert, ORDERS, None, Some(order("pending"))),
        (
            ChangeKind::Sequence,
            CollectionId::NONE,
            None,
            Some(row(&[Value::Integer(1), Value::Integer(32)])),
        ),
        (
            ChangeKind::Update,
            ORDERS,
            Some(order("pending")),
            Some(order("paid")),
        ),
        (ChangeKind::Delete, ORDERS, Some(order("paid")), None),
        (ChangeKind::Truncate, ORDERS, None, None),
        (
            ChangeKind::Message,
            CollectionId::NONE,
            None,
            Some(row(&[text("c"), text("p\"q"), Value::Integer(7)])),
        ),
    ])
}

#[test]
fn each_operation_as_an_event_of_a_stream() {
    let rendered = render(
        FeedSpec::default(),
        &orders(),
        Framing::EventStream,
        &every_kind(),
    );
    let head = |lsn: u64, event: &str| format!("id: {lsn}@9c1e04d7\nevent: {event}\ndata: ");
    let begin = |lsn: u64| {
        format!(
            "{{\"lsn\":{lsn},\"cursor\":\"{lsn}@9c1e04d7\",\"timestamp_ms\":1718000000000,\"tenant_id\":1,"
        )
    };
    let end = |index: u64| {
        format!("\"tx\":{{\"lsn\":41,\"index\":{index},\"count\":7}},\"schema_version\":3}}\n\n")
    };
    let row = |status: &str| format!("{{\"id\":\"o1\",\"status\":\"{status}\"}}");
    let expected = [
        head(41, "definition"),
        begin(41),
        "\"collection\":\"orders\",\"operation\":\"DEFINITION\",\"document_id\":null,\"before\":null,\"after\":{\"type\":\"table\",\"name\":\"orders\",\"action\":\"put\",\"sql\":\"CREATE TABLE orders\\n(…)\",\"catalog_version\":2},".to_owned(),
        end(0),
        head(42, "insert"),
        begin(42),
        format!("\"collection\":\"orders\",\"operation\":\"INSERT\",\"document_id\":\"o1\",\"before\":null,\"after\":{},", row("pending")),
        end(1),
        head(44, "update"),
        begin(44),
        format!("\"collection\":\"orders\",\"operation\":\"UPDATE\",\"document_id\":\"o1\",\"before\":{},\"after\":{},", row("pending"), row("paid")),
        end(3),
        head(45, "delete"),
        begin(45),
        format!("\"collection\":\"orders\",\"operation\":\"DELETE\",\"document_id\":\"o1\",\"before\":{},\"after\":null,", row("paid")),
        end(4),
        head(46, "truncate"),
        begin(46),
        "\"collection\":\"orders\",\"operation\":\"TRUNCATE\",\"document_id\":null,\"before\":null,\"after\":null,".to_owned(),
        end(5),
        head(47, "message"),
        begin(47),
        "\"collection\":null,\"operation\":\"MESSAGE\",\"document_id\":null,\"before\":null,\"after\":{\"channel\":\"c\",\"payload\":\"p\\\"q\",\"pid\":7},".to_owned(),
        end(6),
    ];
    assert_eq!(rendered, expected.concat());
}

#[test]
fn the_same_in_debeziums_envelope() {
    let spec = FeedSpec {
        envelope: Envelope::Debezium,
        collection: Some("orders".to_owned()),
        ..FeedSpec::default()
    };
    let rendered = render(spec, &orders(), Framing::JsonArray, &every_kind());
    let events: Vec<serde_json::Value> = serde_json::from_str(&format!("[{rendered}]")).unwrap();
    let letters: Vec<&str> = events
        .iter()
        .map(|event| event["op"].as_str().unwrap())
        .collect();
    assert_eq!(letters, ["m", "c", "u", "d", "t"]);
    let update = serde_json::to_string(&events[2]).unwrap();
    let expected = concat!(
        "{\"before\":{\"id\":\"o1\",\"status\":\"pending\"},\"after\":{\"id\":\"o1\",\"status\":\"paid\"},",
        "\"source\":{\"version\":\"",
        env!("CARGO_PKG_VERSION"),
        "\",\"connector\":\"springhead\",\"name\":\"springhead\",",
        "\"ts_ms\":1718000000000,\"snapshot\":\"false\",\"schema\":\"public\",\"table\":\"orders\",\"lsn\":44,",
        "\"cursor\":\"44@9c1e04d7\",\"tenant_id\":1,\"collection\":\"orders\",\"operation\":\"UPDATE\",",
        "\"document_id\":\"o1\",\"schema_version\":3},\"op\":\"u\",\"ts_ms\":1718000000000,",
        "\"transaction\":{\"id\":\"41\",\"total_order\":4,\"index\":3,\"count\":7}}"
    );
    assert_eq!(update, expected);
}

#[test]
fn g3_a_group_is_one_frame_with_the_id_of_its_last_change() {
    let spec = FeedSpec {
        grouping: Grouping::Group,
        ..FeedSpec::default()
    };
    let rendered = render(spec, &orders(), Framing::EventStream, &every_kind());
    let data = rendered
        .strip_prefix("id: 47@9c1e04d7\nevent: transaction\ndata: ")
        .unwrap()
        .strip_suffix("\n\n")
        .unwrap();
    assert!(!data.contains('\n'));
    let group: serde_json::Value = serde_json::from_str(data).unwrap();
    assert_eq!(group["tx"], serde_json::json!({ "lsn": 41, "count": 7 }));
    let plain = render(
        FeedSpec::default(),
        &orders(),
        Framing::JsonArray,
        &every_kind(),
    );
    let plain: serde_json::Value = serde_json::from_str(&format!("[{plain}]")).unwrap();
    assert_eq!(group["changes"], plain);
}

#[test]
fn each_type_is_printed_as_row_to_json_prints_it() {
    // What PostgreSQL 15 prints for the same values, with the time zone set to UTC.
    let cases: &[(PgType, &str, &str)] = &[
        (PgType::Bool, "t", "true"),
        (PgType::Int2, "-3", "-3"),
        (PgType::Int4, "7", "7"),
        (PgType::Int8, "9007199254740993", "9007199254740993"),
        (PgType::Float8, "1.5", "1.5"),
        (PgType::Float8, "Infinity", "\"Infinity\""),
        (PgType::Numeric(Some((10, 2))), "12.5", "12.50"),
        (
            PgType::Numeric(None),
            "0.10000000000000000000000001",
            "0.10000000000000000000000001",
        ),
        (
            PgType::Text,
            "a\"b\\c\nd\u{1}é",
            "\"a\\\"b\\\\c\\nd\\u0001é\"",
        ),
        (PgType::Varchar(Some(5)), "ab", "\"ab\""),
        (PgType::Char(4), "ab", "\"ab  \""),
        (PgType::Bytea, "\\x00ff", "\"\\\\x00ff\""),
        (PgType::Date, "2024-06-10", "\"2024-06-10\""),
        (PgType::Time, "06:13:20.5", "\"06:13:20.5\""),
        (
            PgType::Timestamp,
            "2024-06-10 06:13:20.25",
            "\"2024-06-10T06:13:20.25\"",
        ),
        (
            PgType::Timestamptz,
            "2024-06-10 08:13:20+02",
            "\"2024-06-10T06:13:20+00:00\"",
        ),
        (PgType::Interval, "1 day 02:00", "\"1 day 02:00:00\""),
        (
            PgType::Uuid,
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\"",
        ),
        (
            PgType::Json,
            "{\"b\":1,\n\"a\":  2}",
            "{\"b\":1, \"a\":  2}",
        ),
        (PgType::Jsonb, "{\"b\":1,\"a\":2}", "{\"a\": 2, \"b\": 1}"),
        (PgType::Int4.array(), "{1,NULL,3}", "[1,null,3]"),
    ];
    let mut columns = vec![("id", PgType::Int4)];
    columns.extend(cases.iter().map(|(pg_type, _, _)| ("v", pg_type.clone())));
    let known = Known(vec![table(104, "all", &columns, &[0])]);
    let mut values = vec![Value::Integer(1)];
    values.extend(
        cases
            .iter()
            .map(|(pg_type, text, _)| input(pg_type, text).unwrap()),
    );
    let slice = commit(&[(ChangeKind::Insert, ORDERS, None, Some(row(&values)))]);
    let rendered = render(FeedSpec::default(), &known, Framing::JsonArray, &slice);
    let after = rendered.split("\"after\":").nth(1).unwrap();
    let expected: String = cases
        .iter()
        .map(|(_, _, json)| format!(",\"v\":{json}"))
        .collect();
    assert_eq!(
        after.split(",\"tx\"").next().unwrap(),
        format!("{{\"id\":1{expected}}}")
    );
    let nulls: Vec<Value> = std::iter::once(Value::Integer(1))
        .chain(cases.iter().map(|_| Value::Null))
        .collect();
    let slice = commit(&[(ChangeKind::Insert, ORDERS, None, Some(row(&nulls)))]);
    let rendered = render(FeedSpec::default(), &known, Framing::JsonArray, &slice);
    assert_eq!(rendered.matches("\"v\":null").count(), cases.len());
}

#[test]
fn document_ids_are_text_whatever_the_key() {
    let id = |columns: &[(&str, PgType)], key: &[usize], values: &[Value]| {
        let known = Known(vec![table(104, "t", columns, key)]);
        let slice = commit(&[(ChangeKind::Insert, ORDERS, None, Some(row(values)))]);
        let rendered = render(FeedSpec::default(), &known, Framing::JsonArray, &slice);
        let event: serde_json::Value = serde_json::from_str(&rendered).unwrap();
        event["document_id"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        id(&[("a", PgType::Int8)], &[0], &[Value::Integer(i64::MIN)]),
        "-9223372036854775808"
    );
    assert_eq!(id(&[("a", PgType::Text)], &[0], &[text("o\"1")]), "o\"1");
    assert_eq!(
        id(
            &[("a", PgType::Date)],
            &[0],
            &[input(&PgType::Date, "2024-06-10").unwrap()]
        ),
        "2024-06-10"
    );
    let composite = [("a", PgType::Text), ("b", PgType::Int4)];
    assert_eq!(
        id(&composite, &[1, 0], &[text("eu"), Value::Integer(17)]),
        "[17,\"eu\"]"
    );
}
