//! What the exits show while definitions change, compared: a change feed folded to rows, and what a
//! device holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use springhead_engine::access::{Credential, Principal};
use springhead_engine::cdc::{
    Cdc, CdcError, CdcLimits, Feed, FeedOptions, FeedSpec, PollOptions, Reader, Start,
};
use springhead_log::Log;
use springhead_proto::sync::SyncValue;
use springhead_proto::{Cursor, ErrorCode, Lsn, SqlError};

use crate::definitions_feeds::{Known, assert_same_events, filter, place, spec, ungrouped};
use crate::definitions_world::{Form, NAMES, World};
use crate::feeds::{frames, pages, snapshot_events};
use crate::support::{Client, Node};
use crate::sync::device::{Device, Rig, shape};

pub fn user(name: &str) -> Arc<Principal> {
    Arc::new(Principal::of(name, Credential::Password))
}

/// An error that says that something is wrong here, and not with what was asked for.
pub fn is_ours(error: &SqlError) -> bool {
    matches!(
        error.code,
        ErrorCode::Internal | ErrorCode::Corrupted | ErrorCode::OutcomeUnknown
    )
}

type Rows = BTreeMap<String, Value>;

/// The rows of all tables, as the events of a feed add up to them.
pub struct Folded {
    pub cdc: Arc<Cdc>,
    rows: BTreeMap<String, Rows>,
    pub events: Vec<Value>,
    at: Lsn,
}

/// What outlives an engine.
pub struct Kept(BTreeMap<String, Rows>, Vec<Value>, Lsn);

impl Kept {
    pub fn over(self, node: &Node) -> Folded {
        let Kept(rows, events, at) = self;
        Folded {
            rows,
            events,
            at,
            ..Folded::new(node)
        }
    }
}

/// What is known of a table that has been defined since the last time: a definition may give rows other
/// values without an event for each.
#[derive(Default)]
struct Since {
    emptied: bool,
    rows: BTreeMap<String, Option<Value>>,
}

pub fn lsn(event: &Value) -> Lsn {
    Lsn(event["lsn"].as_u64().unwrap())
}

impl Folded {
    pub fn new(node: &Node) -> Folded {
        Folded {
            cdc: Cdc::new(node.engine.clone(), CdcLimits::default()),
            rows: BTreeMap::new(),
            events: Vec::new(),
            at: Lsn::ZERO,
        }
    }

    /// Without the engine, which is about to end.
    pub fn without(self) -> Kept {
        let Folded {
            rows, events, at, ..
        } = self;
        Kept(rows, events, at)
    }

    /// All that it has been told and that the log of `node` still has.
    pub fn told(&self, node: &Node) -> Vec<Value> {
        let earliest = node.log.earliest();
        let kept = self.events.iter().filter(|event| lsn(event) >= earliest);
        kept.cloned().collect()
    }

    /// All events that there are, from the earliest.
    pub async fn all(&self, node: &Node, why: &str) -> Vec<Value> {
        let before = node.log.earliest().previous();
        let polled = self.poll(node, "boss", FeedSpec::default(), before).await;
        polled.unwrap_or_else(|error| panic!("{why}: {error}"))
    }

    /// Log may be forgotten now: everyone who has to have seen it has.
    pub async fn forget(&self, node: &Node) {
        let engine = node.engine.clone();
        tokio::task::block_in_place(|| engine.maintain().unwrap());
        let expired = node.log.take_expired_pins();
        assert_eq!(self.cdc.expire_consumers(expired).await.unwrap(), [""; 0]);
    }

    /// What has been trimmed is refused, and said where there is more.
    async fn check_edge(&self, node: &Node, world: &mut World, why: &str) {
        let earliest = node.log.earliest();
        if earliest <= Lsn::FIRST {
            return;
        }
        let before = Lsn(world.r.below(earliest.0 - 1));
        for from in [before, Lsn(earliest.0 - 2)] {
            match self.poll(node, "boss", FeedSpec::default(), from).await {
                Err(CdcError::Refused { code, refused }) => {
                    assert_eq!(code, ErrorCode::CursorExpired, "{why}");
                    assert_eq!(refused.earliest_lsn, earliest, "{why}: from {from}");
                }
                Err(error) => panic!("{why}: from {from}: {error:?}"),
                Ok(_) => panic!("{why}: from {from}, which is trimmed"),
            }
        }
    }

    async fn poll(
        &self,
        node: &Node,
        who: &str,
        spec: FeedSpec,
        from: Lsn,
    ) -> Result<Vec<Value>, CdcError> {
        let options = PollOptions {
            reader: Reader::new(&user(who)),
            spec,
            start: Some(Start::After(Cursor {
                lsn: from,
                epoch: None,
            })),
            limit: 1000,
            consumer: None,
        };
        pages(&self.cdc, &node.tenant().await, options).await
    }

    /// Takes in what has come, and compares with what a snapshot says.
    pub async fn check(&mut self, node: &Node, forms: &[Form], why: &str) -> usize {
        // What has been forgotten since the last time was nothing for it.
        let from = self.at.max(node.log.earliest().previous());
        let polled = self.poll(node, "boss", FeedSpec::default(), from).await;
        let events = polled.unwrap_or_else(|error| panic!("{why}: {error}"));
        let mut since: BTreeMap<String, Since> = BTreeMap::new();
        for event in &events {
            self.fold(event, &mut since, why);
        }
        self.at = events.last().map_or(self.at, lsn);
        self.events.extend(events);
        let options = FeedOptions {
            reader: Reader::new(&user("boss")),
            spec: FeedSpec::default(),
            start: None,
            snapshot: true,
            consumer: None,
        };
        let now = snapshot_events(&self.cdc, &node.tenant().await, options).await;
        let mut rows: BTreeMap<String, Rows> = BTreeMap::new();
        for event in now {
            let name = event["collection"].as_str().unwrap().to_owned();
            let id = event["document_id"].as_str().unwrap().to_owned();
            rows.entry(name)
                .or_default()
                .insert(id, event["after"].clone());
        }
        let none = Rows::new();
        let mut compared = 0;
        for (name, known) in &self.rows {
            let is_there = name == "seen" || forms.iter().any(|form| form.name == name);
            if !is_there {
                // Its definition goes by the name that it has now.
                continue;
            }
            let expected = rows.get(name).unwrap_or(&none);
            match since.get(name) {
                None => assert_eq!(known, expected, "{why}: {name}"),
                Some(since) if rows.contains_key(name) => {
                    for (id, row) in &since.rows {
                        assert_eq!(row.as_ref(), expected.get(id), "{why}: {name} {id}");
                    }
                    assert!(
                        !since.emptied || expected.len() <= since.rows.len(),
                        "{why}: {name}"
                    );
                }
                Some(_) => {}
            }
            compared += 1;
        }
        self.rows = rows;
        compared
    }

    fn fold(&mut self, event: &Value, since: &mut BTreeMap<String, Since>, why: &str) {
        let Some(name) = event["collection"].as_str() else {
            return;
        };
        let operation = event["operation"].as_str().unwrap();
        if operation == "DEFINITION" {
            since.insert(name.to_owned(), Since::default());
            self.rows.entry(name.to_owned()).or_default();
            return;
        }
        let rows = self.rows.entry(name.to_owned()).or_default();
        if operation == "TRUNCATE" {
            rows.clear();
            if let Some(since) = since.get_mut(name) {
                *since = Since {
                    emptied: true,
                    ..Since::default()
                };
            }
            return;
        }
        let id = event["document_id"].as_str().unwrap().to_owned();
        let image = |which: &str| (!event[which].is_null()).then(|| event[which].clone());
        let (before, after) = (image("before"), image("after"));
        match since.get_mut(name) {
            Some(since) => {
                since.rows.insert(id, after);
            }
            None => {
                let known = match after {
                    Some(after) => rows.insert(id, after),
                    None => rows.remove(&id),
                };
                assert_eq!(known, before, "{why}: {event}");
            }
        }
    }

    /// A place that a feed can go on from; often the edge of what is kept.
    pub fn anywhere(&self, node: &Node, world: &mut World) -> Lsn {
        let edge = node.log.earliest().previous();
        // It may all have been trimmed, and more than it was told.
        let end = self.at.max(edge);
        match world.below(4) {
            0 => edge,
            _ => Lsn(edge.0 + world.r.below(end.0 - edge.0 + 1)),
        }
    }

    /// Pages from anywhere, of all and of one table, with and without a filter: what was told before, or
    /// a reason that is none of ours.
    pub async fn check_pages(&self, node: &Node, world: &mut World, why: &str) -> usize {
        self.check_edge(node, world, why).await;
        let from = self.anywhere(node, world);
        let polled = self.poll(node, "boss", FeedSpec::default(), from).await;
        let events = polled.unwrap_or_else(|error| panic!("{why}: from {from}: {error}"));
        let expected: Vec<&Value> = self
            .events
            .iter()
            .filter(|event| lsn(event) > from)
            .collect();
        assert_eq!(
            events.iter().collect::<Vec<_>>(),
            expected,
            "{why}: from {from}"
        );
        let mut compared = events.len();
        let known = Known::of(node).await;
        for collection in NAMES {
            let spec = spec(collection, world);
            let limit = [1, 3, 1000][world.below(3)];
            let what = format!("{why}: {spec:?} from {from}");
            let table = known.table(collection);
            match self.page(node, "boss", spec.clone(), from, limit).await {
                Ok(events) => {
                    let all = self.events.iter().filter(|event| lsn(event) > from);
                    let expected = known.shown(&spec, &table.expect(&what), all);
                    let events = ungrouped(&spec, events, &what);
                    assert_same_events(&spec, &events, &expected, &what);
                    self.stream(node, &spec, from, &expected, &what).await;
                    compared += 1 + events.len();
                }
                Err(CdcError::Sql(error)) if !is_ours(&error) => {
                    let asks = spec.filter.is_some() || !spec.columns.is_empty();
                    assert!(table.is_none() || asks, "{what}: {error:?}");
                }
                Err(error) => panic!("{what}: {error:?}"),
            }
            match self.page(node, "ann", spec.clone(), from, limit).await {
                Ok(events) => compared += events.len(),
                Err(CdcError::Sql(error)) if !is_ours(&error) => {}
                Err(error) => panic!("{what} of ann: {error:?}"),
            }
        }
        match self.poll(node, "ann", FeedSpec::default(), from).await {
            Ok(_) => {}
            Err(CdcError::Sql(error)) if !is_ours(&error) => {}
            Err(error) => panic!("{why}: ann from {from}: {error:?}"),
        }
        compared
    }

    /// The same over a stream, as far as there are events.
    async fn stream(
        &self,
        node: &Node,
        spec: &FeedSpec,
        from: Lsn,
        expected: &[Value],
        what: &str,
    ) {
        let Some(last) = expected.last().map(lsn) else {
            return;
        };
        let options = FeedOptions {
            reader: Reader::new(&user("boss")),
            spec: spec.clone(),
            start: Some(Start::SinceLsn(from.next())),
            snapshot: false,
            consumer: None,
        };
        let mut feed = (Feed::open(&self.cdc, node.tenant().await, options).await)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let events = |told: &[(String, Value)]| -> Vec<Value> {
            (told.iter())
                .filter(|(event, _)| !matches!(event.as_str(), "progress" | "ready"))
                .map(|(_, data)| data.clone())
                .collect()
        };
        let told = frames(&mut feed, |told| {
            let events = ungrouped(spec, events(told), what);
            events
                .last()
                .is_some_and(|event| place(spec, event) >= last)
        })
        .await;
        let events = ungrouped(spec, events(&told), what);
        assert_same_events(spec, &events, expected, what);
    }

    /// What SHOW CHANGES says of a table is what its feed says.
    pub async fn check_show_changes(
        &self,
        node: &Node,
        client: &mut Client,
        world: &mut World,
        why: &str,
    ) -> usize {
        let spec = FeedSpec {
            collection: Some(world.r.pick(&NAMES).to_owned()),
            filter: filter(world),
            ..FeedSpec::default()
        };
        let name = spec.collection.as_deref().unwrap();
        let from = self.anywhere(node, world);
        let mut sql = format!("SHOW CHANGES FOR {name} SINCE LSN {}", from.next());
        if let Some(filter) = &spec.filter {
            sql.push_str(&format!(" WHERE {filter}"));
        }
        let known = Known::of(node).await;
        let rows = match client.run(&sql).await {
            Ok(answer) => answer.rows,
            Err(error) => {
                assert!(!is_ours(&error), "{why}{sql}: {error:?}");
                let asks = spec.filter.is_some();
                assert!(known.table(name).is_none() || asks, "{why}{sql}: {error:?}");
                return 0;
            }
        };
        let found: Vec<Value> = (rows.into_iter())
            .map(|row| {
                let number = |at: usize| json!(row[at].as_ref().map(|n| n.parse::<u64>().unwrap()));
                let image = |at: usize| -> Value {
                    (row[at].as_ref())
                        .map_or(Value::Null, |text| serde_json::from_str(text).unwrap())
                };
                json!({
                    "lsn": number(0), "cursor": row[1], "collection": row[3], "operation": row[4],
                    "document_id": row[5], "before": image(6), "after": image(7),
                    "tx": { "lsn": number(8), "index": number(9), "count": number(10) },
                    "schema_version": number(11),
                })
            })
            .collect();
        let table = known.table(name).unwrap();
        let events = self.events.iter().filter(|event| lsn(event) > from);
        let mut expected = known.shown(&spec, &table, events);
        for event in &mut expected {
            let event = event.as_object_mut().unwrap();
            event.remove("timestamp_ms");
            event.remove("tenant_id");
        }
        assert_eq!(found, expected, "{why}{sql}");
        1
    }

    async fn page(
        &self,
        node: &Node,
        who: &str,
        spec: FeedSpec,
        from: Lsn,
        limit: u64,
    ) -> Result<Vec<Value>, CdcError> {
        let options = PollOptions {
            reader: Reader::new(&user(who)),
            spec,
            start: Some(Start::SinceLsn(from.next())),
            limit,
            consumer: None,
        };
        pages(&self.cdc, &node.tenant().await, options).await
    }
}

/// A device, and shapes that it asks for again when they have ended.
pub struct Holder {
    pub device: Device,
    who: &'static str,
    next: u32,
}

fn text(value: &SyncValue) -> String {
    match value {
        SyncValue::Null => "~".to_owned(),
        value => plain(&value.to_string()),
    }
}

/// Numbers the same however many zeros they end with.
fn plain(text: &str) -> String {
    text.parse::<f64>()
        .map_or_else(|_| text.to_owned(), |number| number.to_string())
}

const CONDITIONS: [Option<&str>; 3] = [None, Some("id > 2"), Some("x1 > 1")];

impl Holder {
    pub fn new(number: u128, who: &'static str) -> Holder {
        Holder {
            device: Device::new(number, who, &[]),
            who,
            next: 1,
        }
    }

    /// Comes, goes, asks for more; what it holds is then compared.
    pub async fn step(
        &mut self,
        rig: &Rig,
        world: &mut World,
        (client, forms): (&mut Client, &[Form]),
        why: &str,
    ) -> usize {
        if self.device.session.is_none() {
            self.device.connect(rig).await.unwrap();
        }
        self.device.rest().await;
        self.forget_ended(why);
        if self.device.shapes.len() < 4 {
            let condition = CONDITIONS[world.below(CONDITIONS.len())];
            let shape = shape(self.next, world.r.pick(&NAMES), condition);
            self.next += 1;
            self.device.subscribe(shape).await;
            self.device.rest().await;
        }
        let compared = self.compare(client, forms, why).await;
        self.forget_ended(why);
        if world.below(3) == 0 {
            self.device.session = None;
        }
        compared
    }

    fn forget_ended(&mut self, why: &str) {
        let ended = std::mem::take(&mut self.device.ended);
        self.device
            .shapes
            .retain(|shape| !ended.contains_key(&shape.shape.id.0));
        for code in ended.values() {
            let is_ours = *code == springhead_proto::sync::SyncErrorCode::Internal;
            assert!(!is_ours, "{why}: {:?}", self.device.told.last());
        }
    }

    async fn compare(&mut self, client: &mut Client, forms: &[Form], why: &str) -> usize {
        let mut compared = 0;
        for subscription in &self.device.shapes {
            let shape = &subscription.shape;
            if self.device.ended.contains_key(&shape.id.0) {
                continue;
            }
            let what = format!(
                "{why}: {} {} {:?}",
                self.who, shape.collection, shape.condition
            );
            assert!(subscription.complete, "{what}: {:?}", self.device.told);
            let form = forms.iter().find(|form| form.name == shape.collection);
            let form = form.unwrap_or_else(|| panic!("{what}: its table is gone"));
            let condition = shape.condition.as_deref().unwrap_or("true");
            let rows = selected(client, form, condition).await;
            let rows = rows.unwrap_or_else(|error| panic!("{what}: {error}"));
            let mut held: Vec<String> = (self.device.image.get(&shape.id.0).into_iter().flatten())
                .map(|(id, columns)| {
                    let id = plain(id.trim_matches(['[', ']']));
                    let mut cells: Vec<String> = (columns.iter())
                        .map(|(name, value)| format!("{name}={}", text(value)))
                        .collect();
                    cells.push(format!("id={id}"));
                    line(cells)
                })
                .collect();
            held.sort();
            assert_eq!(held, rows, "{what}");
            compared += 1;
        }
        compared
    }
}

fn line(mut cells: Vec<String>) -> String {
    cells.sort();
    cells.join(" ")
}

/// Rows as `name=value` in the order of names, by what was selected.
pub async fn selected(
    client: &mut Client,
    form: &Form,
    condition: &str,
) -> Result<Vec<String>, SqlError> {
    let names: Vec<&str> = form.columns.iter().map(|(name, _)| name.as_str()).collect();
    let sql = format!(
        "SELECT {} FROM {} WHERE {condition}",
        names.join(", "),
        form.name
    );
    let rows = client.run(&sql).await?.rows;
    let mut lines: Vec<String> = (rows.iter())
        .map(|row| {
            let cells = names.iter().zip(row).map(|(name, cell)| {
                let cell = cell.as_deref().map_or("~".to_owned(), plain);
                format!("{name}={cell}")
            });
            line(cells.collect())
        })
        .collect();
    lines.sort();
    Ok(lines)
}
