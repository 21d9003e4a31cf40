//! Feeds of every form while definitions change, each against a model that reads the events of a plain
//! feed of everything one by one; and a consumer group.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use springhead_engine::Tenant;
use springhead_engine::cdc::{
    CdcError, Envelope, FeedSpec, Grouping, NewConsumer, Operation, Operations, Poll, PollOptions,
    Reader, Start,
};
use springhead_log::Log;
use springhead_proto::{CollectionId, Cursor, ErrorCode, Lsn, SchemaVersion};
use springhead_sql::catalog::{QualifiedName, Table};

use crate::definitions_seen::{Folded, lsn, user};
use crate::definitions_world::World;
use crate::feeds::elements;
use crate::support::{Node, tail_from};

pub fn filter(world: &mut World) -> Option<String> {
    let filter = world.r.pick(&["", "", "id > 2", "x1 > 1", "x1 IS NULL"]);
    (!filter.is_empty()).then(|| filter.to_owned())
}

/// A feed of one table, of any kind.
pub fn spec(collection: &str, world: &mut World) -> FeedSpec {
    let columns = world.r.pick(&["", "", "id", "x1", "x1,id"]);
    let operations = (world.r).pick(&["", "", "insert,delete", "update,definition,truncate"]);
    FeedSpec {
        collection: Some(collection.to_owned()),
        filter: filter(world),
        columns: (columns.split(','))
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
        operations: match operations {
            "" => Operations::ALL,
            operations => Operations::parse(operations).unwrap(),
        },
        envelope: [Envelope::Plain, Envelope::Plain, Envelope::Debezium][world.below(3)],
        grouping: [Grouping::Event, Grouping::Group][world.below(2)],
    }
}

/// The LSN of an event of either form.
pub fn place(spec: &FeedSpec, event: &Value) -> Lsn {
    match spec.envelope {
        Envelope::Plain => lsn(event),
        Envelope::Debezium => lsn(&event["source"]),
    }
}

/// The events of transactions, each of which comes once and whole.
pub fn ungrouped(spec: &FeedSpec, elements: Vec<Value>, what: &str) -> Vec<Value> {
    if spec.grouping == Grouping::Event {
        return elements;
    }
    let mut events = Vec::new();
    let mut before = None;
    for element in elements {
        let tx = &element["tx"];
        assert_ne!(Some(tx), before.as_ref(), "{what}: in two pieces");
        for change in element["changes"].as_array().unwrap() {
            let (first, count) = match spec.envelope {
                Envelope::Plain => (change["tx"]["lsn"].clone(), &change["tx"]["count"]),
                Envelope::Debezium => {
                    let of = &change["transaction"];
                    let id: u64 = of["id"].as_str().unwrap().parse().unwrap();
                    (json!(id), &of["count"])
                }
            };
            assert_eq!(*tx, json!({ "lsn": first, "count": count }), "{what}");
            events.push(change.clone());
        }
        before = Some(tx.clone());
    }
    events
}

/// What an event of Springhead's own form is in Debezium's.
fn debezium(event: &Value) -> Value {
    let operation = event["operation"].as_str().unwrap();
    let op = match operation {
        "INSERT" => "c",
        "UPDATE" => "u",
        "DELETE" => "d",
        "TRUNCATE" => "t",
        _ => "m",
    };
    let (tx, index) = (&event["tx"], event["tx"]["index"].as_u64().unwrap());
    json!({
        "before": event["before"],
        "after": event["after"],
        "source": {
            "lsn": event["lsn"], "cursor": event["cursor"], "tenant_id": event["tenant_id"],
            "collection": event["collection"], "operation": operation,
            "document_id": event["document_id"], "schema_version": event["schema_version"],
            "ts_ms": event["timestamp_ms"],
        },
        "op": op,
        "ts_ms": event["timestamp_ms"],
        "transaction": {
            "id": tx["lsn"].to_string(), "total_order": index + 1, "index": index,
            "count": tx["count"],
        },
    })
}

pub fn assert_same_events(spec: &FeedSpec, found: &[Value], expected: &[Value], what: &str) {
    if spec.envelope == Envelope::Plain {
        assert_eq!(found, expected, "{what}");
        return;
    }
    let mut found = found.to_vec();
    for event in &mut found {
        // What it has besides.
        let source = event["source"].as_object_mut().unwrap();
        for more in [
            "version",
            "connector",
            "name",
            "snapshot",
            "schema",
            "table",
        ] {
            source.remove(more).unwrap();
        }
    }
    let expected: Vec<Value> = expected.iter().map(debezium).collect();
    assert_eq!(found, expected, "{what}");
}

/// Which table each change was of, and what columns it had then.
pub struct Known {
    tenant: Arc<Tenant>,
    changes: BTreeMap<Lsn, (CollectionId, SchemaVersion)>,
}

impl Known {
    pub async fn of(node: &Node) -> Known {
        let tenant = node.tenant().await;
        let before = node.log.earliest().previous();
        let changes = tail_from(&tenant, before).await.into_iter();
        Known {
            changes: changes
                .map(|change| (change.lsn, (change.collection, change.schema_version)))
                .collect(),
            tenant,
        }
    }

    pub fn table(&self, name: &str) -> Option<Arc<Table>> {
        let catalog = self.tenant.catalog();
        let table = catalog.table_named(&QualifiedName::public(name));
        table.map(Arc::clone)
    }

    /// What a feed as `spec` has it makes of all events, read one by one. `now` is its table.
    pub fn shown<'e>(
        &self,
        spec: &FeedSpec,
        now: &Table,
        events: impl Iterator<Item = &'e Value>,
    ) -> Vec<Value> {
        let mut shown = Vec::new();
        for event in events {
            let (collection, version) = self.changes[&lsn(event)];
            if collection != now.collection() {
                continue;
            }
            let mut event = event.clone();
            let operation = event["operation"].as_str().unwrap();
            if !matches!(operation, "DEFINITION" | "TRUNCATE") {
                let then = self.tenant.schema(collection, version).unwrap();
                let value = |image: &Value, name: &str| -> Value {
                    let id = now.column_named(name).unwrap().1.id;
                    (then.column_by_id(id))
                        .map_or(Value::Null, |(_, column)| image[&column.name].clone())
                };
                let image = |which: &str| -> Value {
                    let image = &event[which];
                    if image.is_null() || !passes(spec, |name| value(image, name)) {
                        return Value::Null;
                    }
                    if spec.columns.is_empty() {
                        return image.clone();
                    }
                    let cut = spec.columns.iter();
                    cut.map(|name| (name.clone(), value(image, name)))
                        .collect::<serde_json::Map<_, _>>()
                        .into()
                };
                let (before, after) = (image("before"), image("after"));
                let operation = match (before.is_null(), after.is_null()) {
                    (true, true) => continue,
                    (true, false) => "INSERT",
                    (false, true) => "DELETE",
                    (false, false) => "UPDATE",
                };
                event["operation"] = operation.into();
                event["before"] = before;
                event["after"] = after;
            }
            let operation = event["operation"].as_str().unwrap();
            let kind = Operation::CHANGES.into_iter();
            let mut kind = kind.filter(|kind| kind.word() == operation);
            if spec.operations.contains(kind.next().unwrap()) {
                shown.push(event);
            }
        }
        shown
    }
}

fn passes(spec: &FeedSpec, value: impl Fn(&str) -> Value) -> bool {
    let above = |name, least| value(name).as_f64().is_some_and(|number| number > least);
    match spec.filter.as_deref() {
        None => true,
        Some("id > 2") => above("id", 2.0),
        Some("x1 > 1") => above("x1", 1.0),
        Some(_) => value("x1").is_null(),
    }
}

/// A consumer group: what was read and not committed comes again, and nothing else does.
#[derive(Default)]
pub struct Consumer {
    made: bool,
    committed: Lsn,
}

impl Consumer {
    const NAME: &str = "mailer";

    /// Reads a page, and commits it mostly.
    pub async fn step(
        &mut self,
        folded: &Folded,
        node: &Node,
        world: &mut World,
        why: &str,
    ) -> usize {
        let (cdc, tenant) = (&folded.cdc, node.tenant().await);
        if !std::mem::replace(&mut self.made, true) {
            let new = NewConsumer {
                name: Consumer::NAME.to_owned(),
                start: Some(Start::Earliest),
                pin_bytes: [None, Some(500), Some(4000)][world.below(3)],
                ..NewConsumer::default()
            };
            let (made, _) = cdc.create_consumer(&tenant, new).await.unwrap();
            self.committed = made.cursor.lsn;
        }
        let options = PollOptions {
            reader: Reader::new(&user("boss")),
            spec: FeedSpec {
                grouping: [Grouping::Event, Grouping::Group][world.below(2)],
                ..FeedSpec::default()
            },
            start: None,
            limit: 1 + world.r.below(20),
            consumer: Some(Consumer::NAME.to_owned()),
        };
        let (spec, limit) = (options.spec.clone(), options.limit);
        let mut page = match Poll::open(cdc, Arc::clone(&tenant), options).await {
            Ok(page) => page,
            Err(CdcError::Refused {
                code: ErrorCode::ConsumerExpired,
                ..
            }) => {
                let earliest = node.log.earliest();
                assert!(self.committed.next() < earliest, "{why}: {earliest}");
                cdc.delete_consumer(&tenant, Consumer::NAME).await.unwrap();
                self.made = false;
                return 1;
            }
            Err(error) => panic!("{why}: {error:?}"),
        };
        let events = ungrouped(&spec, elements(&mut page).await.unwrap(), why);
        let cursor = page.cursor();
        drop(page);
        let expected: Vec<&Value> = (folded.events.iter())
            .filter(|event| lsn(event) > self.committed && lsn(event) <= cursor.lsn)
            .collect();
        assert_eq!(events.iter().collect::<Vec<_>>(), expected, "{why}");
        let all = folded.events.iter();
        let left = all.filter(|event| lsn(event) > cursor.lsn).count();
        assert!(
            left == 0 || events.len() as u64 >= limit,
            "{why}: {left} are left"
        );
        let (to, rewind) = match world.below(8) {
            0 => (folded.anywhere(node, world).min(cursor.lsn), true),
            1..=2 => return events.len(),
            _ => (cursor.lsn, false),
        };
        let cursor = Cursor {
            lsn: to,
            epoch: cursor.epoch,
        };
        let committed = cdc.commit_consumer(&tenant, Consumer::NAME, cursor, rewind);
        let (consumer, _) = committed
            .await
            .unwrap_or_else(|error| panic!("{why}: {error}"));
        assert_eq!(consumer.cursor.lsn, to, "{why}");
        self.committed = to;
        events.len()
    }
}
