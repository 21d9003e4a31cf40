//! Random devices, edits, offline periods, lost connections, repeated and reordered pushes, with the
//! real code on both sides: in the end every device shows what the server has, and counters are exact.
//!
//! `DEVICE_SEEDS=1000 cargo nextest run -p springhead-device converge` runs more of them;
//! `DEVICE_FIRST=17 DEVICE_SEEDS=1` repeats one.

use springhead_device::Device;
use springhead_proto::sync::{Operation, SyncValue, Verb};
use tempfile::TempDir;

use crate::support::{Dice, Server, Wire, directory, exchange, lines, number};

const SCHEMA: &str = "CREATE TABLE items (id int PRIMARY KEY, title text UNIQUE, n int CHECK (n < 50), low int); \
     CREATE TABLE counters (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0); \
     INSERT INTO counters (id) VALUES (1), (2); \
     INSERT INTO items VALUES (1, 'a', 1, 9), (2, 'b', 2, 9), (3, 'c', 3, 9)";

struct World {
    server: Server,
    devices: Vec<(TempDir, Device)>,
    /// What has been added to each counter, by mutations that no rule stands against.
    added: [i64; 2],
    dice: Dice,
}

fn operation(collection: &str, id: i64, verb: Verb) -> Operation {
    Operation {
        collection: collection.to_owned(),
        id: vec![SyncValue::from(id)],
        verb,
    }
}

impl World {
    async fn start(seed: u64) -> World {
        let server = Server::start(SCHEMA).await;
        let mut devices = Vec::new();
        for _ in 0..3 {
            let dir = directory();
            let device = Device::open(dir.path()).await.unwrap();
            // The second one holds a part.
            let part = (devices.len() == 1).then_some("n < 20");
            device.subscribe(1, "items", part, &[]).await.unwrap();
            device.subscribe(2, "counters", None, &[]).await.unwrap();
            devices.push((dir, device));
        }
        World {
            server,
            devices,
            added: [0; 2],
            dice: Dice::new(seed),
        }
    }

    async fn edit(&mut self, place: usize) {
        let device = self.devices[place].1.clone();
        let dice = &mut self.dice;
        let (id, title) = (
            dice.small(8) + 1,
            char::from(b'a' + u8::try_from(dice.of(12)).unwrap()),
        );
        let one = |verb| vec![operation("items", id, verb)];
        // A local constraint may refuse it at once: then there is no mutation.
        let _ = match dice.of(9) {
            0 | 1 => {
                let counter = dice.of(2);
                let by = dice.small(9) - 3;
                self.added[usize::try_from(counter).unwrap()] += by;
                let counter = i64::try_from(counter).unwrap() + 1;
                let written = device.inc("counters", counter.into(), "n", by).await;
                // Before the first exchange there is no such collection here.
                if written.is_err() {
                    self.added[usize::try_from(counter - 1).unwrap()] -= by;
                }
                written
            }
            2 => {
                device
                    .write(one(Verb::Min(
                        std::iter::once(("low", dice.small(9))).collect(),
                    )))
                    .await
            }
            3 => {
                device
                    .write(one(Verb::Inc(
                        std::iter::once(("n", dice.small(20))).collect(),
                    )))
                    .await
            }
            4 => {
                let sql = format!(
                    "INSERT INTO items VALUES ({id}, '{title}', {}, 9)",
                    dice.of(30)
                );
                device.sql(&sql, &[]).await.map(|_| ())
            }
            5 => device
                .sql(&format!("DELETE FROM items WHERE id = {id}"), &[])
                .await
                .map(|_| ()),
            6 => {
                let sql = format!("UPDATE items SET title = '{title}' WHERE id = {id}");
                device.sql(&sql, &[]).await.map(|_| ())
            }
            _ => {
                let sql = format!("UPDATE items SET n = {} WHERE id = {id}", dice.of(49));
                device.sql(&sql, &[]).await.map(|_| ())
            }
        };
    }

    /// A connection that may be lost anywhere, over which pushes may come twice or in another order.
    async fn connect(&mut self, place: usize) {
        let device = self.devices[place].1.clone();
        let wire = Wire::connect(&device, &self.server).await;
        wire.stumble(&mut self.dice).await;
    }

    async fn reopen(&mut self, place: usize) {
        let (dir, device) = self.devices.remove(place);
        drop(device);
        let device = Device::open(dir.path()).await.unwrap();
        self.devices.insert(place, (dir, device));
    }

    async fn run(&mut self) {
        for _ in 0..40 {
            let place = usize::try_from(self.dice.of(3)).unwrap();
            match self.dice.of(20) {
                0..=11 => self.edit(place).await,
                12..=16 => self.connect(place).await,
                17 => self.reopen(place).await,
                18 => {
                    let sql = format!(
                        "UPDATE items SET n = {} WHERE id = {}",
                        self.dice.of(49),
                        self.dice.of(8) + 1
                    );
                    self.server.sql(&sql).await;
                }
                _ => {
                    let sql = format!("DELETE FROM items WHERE id = {}", self.dice.of(8) + 1);
                    self.server.sql(&sql).await;
                }
            }
        }
    }

    async fn check(&mut self, seed: u64) {
        for _ in 0..2 {
            for (_, device) in &self.devices {
                exchange(device, &self.server).await;
            }
        }
        let counters = self.server.sql("SELECT n FROM counters ORDER BY id").await;
        let added = self.added.map(|n| n.to_string());
        assert_eq!(counters, added, "seed {seed}: the server's counters");
        for (place, (_, device)) in self.devices.iter().enumerate() {
            let pending = device.pending().await.unwrap();
            assert!(
                pending.is_empty(),
                "seed {seed}: device {place}: {pending:?}"
            );
            let part = if place == 1 { "WHERE n < 20" } else { "" };
            let items = format!("SELECT id, title, n, low FROM items {part} ORDER BY id");
            // All that is there, not all that the condition picks: nothing else is on the device.
            let held = "SELECT id, title, n, low FROM items ORDER BY id";
            assert_eq!(
                lines(device, held).await,
                self.server.sql(&items).await,
                "seed {seed}: items of device {place}"
            );
            let query = "SELECT n FROM counters ORDER BY id";
            assert_eq!(
                lines(device, query).await,
                counters,
                "seed {seed}: device {place}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_random_devices_converge_and_counters_are_exact() {
    let first = number("DEVICE_FIRST", 1);
    for seed in first..first + number("DEVICE_SEEDS", 12) {
        let mut world = World::start(seed).await;
        world.run().await;
        world.check(seed).await;
    }
}
