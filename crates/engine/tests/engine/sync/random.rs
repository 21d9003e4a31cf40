//! G9 and G8 for devices, at random: whatever is pushed twice, out of order, or into a session that
//! is gone, each mutation counts once, and every device ends with what the server has.
//!
//! `SYNC_SEEDS` runs more seeds than the suite does; a failure names its seed.

use std::collections::BTreeMap;

use springhead_proto::sync::{Mutation, Operation, ProducerId, Seq, SyncValue, Verb, Verdict};
use springhead_proto::{ChangeKind, CollectionId, Lsn, Value};

use super::device::{Device, Rig, columns, op, shape};
use crate::live::Random;
use crate::support::seen;

/// A row as the model has it: list, name, count, tags.
type Row = (i64, Option<String>, i64, Vec<String>);

/// What the operations should come to.
#[derive(Default, Clone)]
struct Model(BTreeMap<i64, Row>);

impl Model {
    fn apply(&mut self, operation: &Operation) {
        let SyncValue::Integer(id) = operation.id[0] else {
            unreachable!()
        };
        let integer = |value: &SyncValue| match value {
            SyncValue::Integer(value) => *value,
            other => panic!("{other:?}"),
        };
        let text = |value: &SyncValue| match value {
            SyncValue::Text(text) => Some(text.clone()),
            _ => None,
        };
        match &operation.verb {
            Verb::Insert(given) => {
                let list = given.get("list").map_or(0, integer);
                let name = given.get("name").and_then(text);
                let before = self.0.insert(id, (list, name, 0, Vec::new()));
                assert_eq!(before, None, "inserted twice");
            }
            Verb::Set(given) => {
                let row = self.0.get_mut(&id).expect("set what is there");
                for (column, value) in &given.0 {
                    match column.as_str() {
                        "list" => row.0 = integer(value),
                        _ => row.1 = text(value),
                    }
                }
            }
            Verb::Delete => {
                self.0.remove(&id);
            }
            Verb::Inc(given) => {
                let row = self.0.get_mut(&id).expect("counted where it is");
                row.2 += integer(given.get("count").unwrap());
            }
            Verb::SetAdd(given) => {
                let row = self.0.get_mut(&id).expect("added to what is there");
                for tag in given[0].1.iter().filter_map(text) {
                    if !row.3.contains(&tag) {
                        row.3.push(tag);
                    }
                }
            }
            Verb::SetRemove(given) => {
                let row = self.0.get_mut(&id).expect("taken from what is there");
                let gone: Vec<String> = given[0].1.iter().filter_map(text).collect();
                row.3.retain(|tag| !gone.contains(tag));
            }
            other => panic!("{other:?}"),
        }
    }

    fn lines(&self) -> Vec<String> {
        let line = |(id, (list, name, count, tags)): (&i64, &Row)| {
            let name = name.clone().unwrap_or("~".to_owned());
            let tags = if tags.is_empty() {
                "[]".to_owned()
            } else {
                format!("[\"{}\"]", tags.join("\", \""))
            };
            format!("{id}|{list}|{name}|{count}|{tags}")
        };
        self.0.iter().map(line).collect()
    }
}

fn operation(dice: &mut Random) -> Operation {
    let id = i64::try_from(dice.below(12)).unwrap();
    let name = |dice: &mut Random| SyncValue::from(format!("n{}", dice.below(6)).as_str());
    let tags = |dice: &mut Random| {
        let tag = SyncValue::from(format!("t{}", dice.below(4)).as_str());
        vec![("tags".to_owned(), vec![tag])]
    };
    let list = |dice: &mut Random| SyncValue::from(i64::try_from(dice.below(3)).unwrap());
    let verb = match dice.below(10) {
        0..3 => {
            let (list, name) = (list(dice), name(dice));
            Verb::Insert(columns([("list", list), ("name", name)]))
        }
        3 => Verb::Set(columns([("name", name(dice))])),
        4 => Verb::Set(columns([("list", list(dice))])),
        5 => Verb::Delete,
        6 | 7 => {
            let by = i64::try_from(dice.below(5)).unwrap() - 2;
            Verb::Inc(columns([("count", by.into())]))
        }
        8 => Verb::SetAdd(tags(dice)),
        _ => Verb::SetRemove(tags(dice)),
    };
    op("items", id, verb)
}

/// What the log says was applied, in its order.
async fn applied(rig: &Rig) -> Vec<(ProducerId, Seq)> {
    let tenant = rig.node.tenant().await;
    // All that anyone was told of, which may be on its way into the state file.
    let end = tenant.acknowledged();
    let mut tail = tenant.tail(Lsn::ZERO, Vec::new());
    let mut changes = Vec::new();
    while tail.position() < end {
        changes.extend(seen(&tail.next().await.unwrap(), Lsn::ZERO));
    }
    let mut applied = Vec::new();
    for commit in changes.chunk_by(|one, other| one.commit_lsn == other.commit_lsn) {
        let rejected = commit.iter().any(|change| {
            change.collection == CollectionId::SYNC_VERDICTS
                && change.kind == ChangeKind::Insert
                && change.after.as_ref().unwrap()[3] != Value::Null
        });
        let producer = commit
            .iter()
            .find(|change| change.collection == CollectionId::SYNC_PRODUCERS);
        if let (Some(change), false) = (producer, rejected) {
            let row = change.after.as_ref().unwrap();
            let (Value::Text(producer), Value::Integer(seq)) = (&row[0], &row[4]) else {
                panic!("{row:?}")
            };
            applied.push((producer.parse().unwrap(), Seq(seq.cast_unsigned())));
        }
    }
    applied
}

/// A device with all that it will ever write.
struct Writer {
    device: Device,
    mutations: Vec<Mutation>,
}

impl Writer {
    /// Pushes some of what it has, from anywhere, perhaps without waiting for the verdicts.
    async fn push(&mut self, rig: &Rig, dice: &mut Random) {
        let decided = self.decided();
        let count = self.mutations.len() as u64;
        let from = match dice.below(4) {
            // What is due; what was decided before; what is not due yet.
            0 | 1 => decided,
            2 => dice.below(decided + 1).max(self.device.settled.0),
            _ => (decided + dice.below(4)).min(count),
        };
        let to = (from + 1 + dice.below(6)).min(count);
        let window = |at: u64| usize::try_from(at).unwrap();
        if from >= to {
            return;
        }
        let push = self.mutations[window(from)..window(to)].to_vec();
        if dice.below(5) == 0 {
            // The connection ends before it has heard.
            let frame =
                springhead_proto::sync::DeviceToServer::Push(springhead_proto::sync::Push {
                    producer: self.device.producer,
                    generation: self.device.generation,
                    mutations: push,
                });
            self.device.say(frame).await.unwrap();
            self.device.connect(rig).await.unwrap();
            return;
        }
        let before = self.device.verdicts.clone();
        self.device.push(push).await;
        for (seq, verdict) in before {
            let now = &self.device.verdicts[&seq];
            // The last word stays what it was.
            match (&verdict, now) {
                (Verdict::Rejected(_), now) => assert_eq!(&verdict, now),
                (Verdict::Applied { .. } | Verdict::Duplicate { .. }, now) => {
                    assert!(
                        matches!(now, Verdict::Applied { .. } | Verdict::Duplicate { .. }),
                        "{now:?}"
                    );
                }
                _ => {}
            }
        }
        if dice.below(4) == 0 {
            let settled = self.decided();
            self.device.settled = Seq(settled);
            let id = self.device.id_of(settled);
            let frame = springhead_proto::sync::Acknowledge {
                cursor: self.device.cursor,
                settled: vec![id],
            };
            self.device
                .say(springhead_proto::sync::DeviceToServer::Acknowledge(frame))
                .await
                .unwrap();
        }
    }

    /// Up to which it knows the last word on everything.
    fn decided(&self) -> u64 {
        (1..)
            .take_while(|seq| {
                self.device
                    .verdicts
                    .get(&Seq(*seq))
                    .is_some_and(Verdict::is_final)
            })
            .last()
            .unwrap_or(0)
    }
}

async fn run(seed: u64) {
    let mut dice = Random(seed);
    let rig = Rig::start(
        "CREATE TABLE items (id integer PRIMARY KEY, list integer NOT NULL, name text UNIQUE, \
         count integer NOT NULL DEFAULT 0 CHECK (count > -20), tags jsonb NOT NULL DEFAULT '[]')",
    )
    .await;
    let mut writers = Vec::new();
    for number in 1..=3_u128 {
        let list = format!("list = {}", number - 1);
        let shapes = [shape(1, "items", None), shape(2, "items", Some(&list))];
        let mut device = rig.device(number, &shapes).await;
        let mutations = (0..30)
            .map(|_| {
                let count = 1 + dice.below(2);
                let operations = (0..count).map(|_| operation(&mut dice)).collect();
                device.mutation(operations)
            })
            .collect();
        writers.push(Writer { device, mutations });
    }
    while writers.iter().any(|writer| writer.decided() < 30) {
        let at = usize::try_from(dice.below(3)).unwrap();
        match dice.below(12) {
            0 => {
                let writer = &mut writers[at];
                writer.device.settle(&rig).await;
                writer.device.connect(&rig).await.unwrap();
            }
            _ => writers[at].push(&rig, &mut dice).await,
        }
    }
    check(&rig, &mut writers).await;
}

async fn check(rig: &Rig, writers: &mut [Writer]) {
    let applied = applied(rig).await;
    let mut once = applied.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), applied.len(), "applied twice");
    let mut model = Model::default();
    for (producer, seq) in &applied {
        let writer = writers
            .iter()
            .find(|writer| writer.device.producer == *producer)
            .unwrap();
        let mutation = &writer.mutations[usize::try_from(seq.0).unwrap() - 1];
        mutation
            .operations
            .iter()
            .for_each(|operation| model.apply(operation));
    }
    let all = "SELECT id, list, name, count, tags FROM items ORDER BY id";
    let rows = rig.sql(all).await;
    assert_eq!(rows, model.lines());
    let mut rejected = 0;
    for writer in writers.iter() {
        for (seq, verdict) in &writer.device.verdicts {
            let is_applied = once.contains(&(writer.device.producer, *seq));
            let is_rejected = matches!(verdict, Verdict::Rejected(_));
            assert_ne!(is_applied, is_rejected, "{seq}: {verdict:?}");
            rejected += usize::from(is_rejected);
        }
    }
    let letters = rig
        .sql("SELECT count(*) FROM springhead.dead_letters")
        .await;
    assert_eq!(letters, [rejected.to_string()]);
    for (place, writer) in writers.iter_mut().enumerate() {
        writer.device.settle(rig).await;
        let lines = writer.device.image[&1].iter();
        let mut held: Vec<(i64, String)> = lines
            .map(|(id, row)| {
                let id: i64 = id.trim_matches(['[', ']']).parse().unwrap();
                let name = match &row["name"] {
                    SyncValue::Null => "~".to_owned(),
                    name => name.to_string(),
                };
                (
                    id,
                    format!(
                        "{id}|{}|{name}|{}|{}",
                        row["list"], row["count"], row["tags"]
                    ),
                )
            })
            .collect();
        held.sort_unstable();
        let held: Vec<String> = held.into_iter().map(|(_, line)| line).collect();
        assert_eq!(held, rows, "device {}", writer.device.producer);
        let own = model
            .0
            .values()
            .filter(|row| row.0 == i64::try_from(place).unwrap())
            .count();
        assert_eq!(writer.device.image[&2].len(), own);
    }
    // What the log adds up to is the same.
    let elsewhere = rig.node.replayed_elsewhere();
    assert_eq!(elsewhere.client().await.lines(all).await, rows);
    let producers =
        "SELECT producer_id, seq, acknowledged FROM springhead.sync_producers ORDER BY 1";
    assert_eq!(
        elsewhere.client().await.lines(producers).await,
        rig.sql(producers).await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_g8_random_devices_converge_and_nothing_counts_twice() {
    let seeds = std::env::var("SYNC_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(12);
    for seed in 1..=seeds {
        println!("seed {seed}");
        run(seed).await;
    }
}
