//! Random changes, filters, columns and operations, against a model that is too simple to be wrong.

use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};
use springhead_proto::{ChangeKind, CollectionId, Value};
use springhead_sql::types::PgType;

use super::golden::{Known, commit, render, row, table};
use super::render::Framing;
use super::{FeedSpec, Grouping, Operations};

const COLLECTION: CollectionId = CollectionId(104);
const OTHER: CollectionId = CollectionId(105);

/// A row of `(id integer, a integer, b text)`.
type Image = (i64, Option<i64>, Option<String>);

#[derive(Debug, Clone)]
enum Made {
    Insert(Image),
    Update(Image, Image),
    Delete(Image),
    Truncate,
    /// A row of another collection.
    Foreign(Image),
    Sequence,
}

/// A condition in SQL, and what it means, with NULL as `None`.
type Condition = (&'static str, fn(&Image) -> Option<bool>);

const CONDITIONS: &[Condition] = &[
    ("a > 2", |row| row.1.map(|a| a > 2)),
    ("b = 'x'", |row| row.2.as_ref().map(|b| b == "x")),
    ("a IS NULL", |row| Some(row.1.is_none())),
    ("NOT (a > 2)", |row| row.1.map(|a| a <= 2)),
    ("a BETWEEN 1 AND 3 AND id % 2 = 0", |row| {
        match (row.1.map(|a| (1..=3).contains(&a)), row.0 % 2 == 0) {
            (Some(false), _) | (_, false) => Some(false),
            (a, true) => a,
        }
    }),
    ("coalesce(b, 'x') LIKE 'x%'", |row| {
        Some(row.2.as_ref().is_none_or(|b| b.starts_with('x')))
    }),
    ("b IN ('x', 'y') OR a = 0", |row| {
        let named = row.2.as_ref().map(|b| b == "x" || b == "y");
        let zero = row.1.map(|a| a == 0);
        match (named, zero) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            _ => None,
        }
    }),
];

fn image(id: i64) -> impl Strategy<Value = Image> {
    let text =
        prop::option::of(prop::sample::select(vec!["x", "y", "xyz", ""]).prop_map(str::to_owned));
    (Just(id), prop::option::of(0..5i64), text)
}

fn made() -> impl Strategy<Value = Made> {
    (0..6i64).prop_flat_map(|id| {
        prop_oneof![
            3 => image(id).prop_map(Made::Insert),
            5 => (image(id), image(id)).prop_map(|(before, after)| Made::Update(before, after)),
            3 => image(id).prop_map(Made::Delete),
            1 => Just(Made::Truncate),
            1 => image(id).prop_map(Made::Foreign),
            1 => Just(Made::Sequence),
        ]
    })
}

fn to_row(image: &Image) -> springhead_proto::Row {
    row(&[
        Value::Integer(image.0),
        image.1.map_or(Value::Null, Value::Integer),
        image.2.clone().map_or(Value::Null, Value::Text),
    ])
}

fn to_json(image: Option<&Image>, columns: &[&str]) -> Json {
    let Some(image) = image else {
        return Json::Null;
    };
    let whole = [
        ("id", json!(image.0)),
        ("a", json!(image.1)),
        ("b", json!(image.2)),
    ];
    let shown: Map<String, Json> = whole
        .into_iter()
        .filter(|(name, _)| columns.is_empty() || columns.contains(name))
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    Json::Object(shown)
}

/// What the feed should show: operation, before, after and LSN of each change.
fn expected(
    made: &[Made],
    condition: Option<&Condition>,
    columns: &[&str],
    operations: &[&str],
) -> Vec<Json> {
    let passes = |image: &Image| condition.is_none_or(|(_, means)| means(image) == Some(true));
    let mut shown = Vec::new();
    for (change, lsn) in made.iter().zip(41..) {
        let (before, after) = match change {
            Made::Insert(after) => (None, Some(after)),
            Made::Update(before, after) => (Some(before), Some(after)),
            Made::Delete(before) => (Some(before), None),
            Made::Truncate => {
                if operations.contains(&"truncate") {
                    shown.push(json!(["TRUNCATE", null, null, lsn]));
                }
                continue;
            }
            Made::Foreign(_) | Made::Sequence => continue,
        };
        let before = before.filter(|image| passes(image));
        let after = after.filter(|image| passes(image));
        let operation = match (before, after) {
            (None, None) => continue,
            (None, Some(_)) => "INSERT",
            (Some(_), None) => "DELETE",
            (Some(_), Some(_)) => "UPDATE",
        };
        if operations.contains(&operation.to_lowercase().as_str()) {
            shown.push(json!([
                operation,
                to_json(before, columns),
                to_json(after, columns),
                lsn
            ]));
        }
    }
    shown
}

fn tables() -> Known {
    let columns = [
        ("id", PgType::Int8),
        ("a", PgType::Int4),
        ("b", PgType::Text),
    ];
    Known(vec![
        table(104, "t", &columns, &[0]),
        table(105, "other", &columns, &[0]),
    ])
}

proptest! {
    #[test]
    fn g8_a_filtered_feed_shows_what_a_naive_reading_of_each_row_would(
        made in prop::collection::vec(made(), 1..30),
        condition in prop::option::of(prop::sample::select(CONDITIONS)),
        columns in prop::sample::subsequence(vec!["id", "a", "b"], 0..=3),
        operations in prop::sample::subsequence(vec!["insert", "update", "delete", "truncate"], 1..=4),
        grouped in any::<bool>(),
    ) {
        let changes: Vec<_> = made.iter().map(|change| match change {
            Made::Insert(after) => (ChangeKind::Insert, COLLECTION, None, Some(to_row(after))),
            Made::Update(before, after) => (ChangeKind::Update, COLLECTION, Some(to_row(before)), Some(to_row(after))),
            Made::Delete(before) => (ChangeKind::Delete, COLLECTION, Some(to_row(before)), None),
            Made::Truncate => (ChangeKind::Truncate, COLLECTION, None, None),
            Made::Foreign(after) => (ChangeKind::Insert, OTHER, None, Some(to_row(after))),
            Made::Sequence => (ChangeKind::Sequence, CollectionId::NONE, None, Some(row(&[Value::Integer(1)]))),
        }).collect();
        let spec = FeedSpec {
            collection: Some("t".to_owned()),
            filter: condition.map(|(sql, _)| sql.to_owned()),
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            operations: Operations::parse(&operations.join(",")).unwrap(),
            grouping: if grouped { Grouping::Group } else { Grouping::Event },
            ..FeedSpec::default()
        };
        let rendered = render(spec, &tables(), Framing::JsonArray, &commit(&changes));
        let elements: Vec<Json> = serde_json::from_str(&format!("[{rendered}]")).unwrap();
        let events: Vec<Json> = if grouped {
            prop_assert!(elements.len() <= 1);
            elements.into_iter().flat_map(|group| group["changes"].as_array().cloned().unwrap()).collect()
        } else {
            elements
        };
        let shown: Vec<Json> =
            events.iter().map(|e| json!([e["operation"], e["before"], e["after"], e["lsn"]])).collect();
        prop_assert_eq!(shown, expected(&made, condition.as_ref(), &columns, &operations));
        for event in &events {
            prop_assert_eq!(event["tx"]["count"].as_u64(), Some(made.len() as u64));
            prop_assert_eq!(event["lsn"].as_u64().unwrap(), 41 + event["tx"]["index"].as_u64().unwrap());
        }
    }
}
