//! A server, two devices and what has been written on them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use springhead_device::Device;
use springhead_log::segment::{SegmentConfig, SegmentLog};
use springhead_log::{Clock, Log, ManualClock, NoProgress, SystemClock, failpoint};
use springhead_proto::sync::{Operation, SyncValue, Verb};
use springhead_sim::disk::SimDisk;
use springhead_sim::rng::Rng;
use tempfile::TempDir;

use crate::kill::{self, Files, Remains, has_fallen};
use crate::support::{Server, Wire, directory};

/// What is done while somebody dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// A device writes.
    Statement,
    /// A device pushes, and takes what it is told: it dies.
    DeviceTalks,
    /// A device takes definitions: it dies.
    DeviceLearns,
    /// A device pushes: the server dies.
    ServerDecides,
    /// The time of dead letters is over: the server dies.
    Expiry,
    /// A definition changes: the server dies.
    Definition,
}

/// Titles that others have had before any device could: who takes one is rejected.
const TAKEN: i64 = 400;
/// How long a dead letter waits.
const TTL_MS: u64 = 60_000;
const DIR: &str = "/log";

/// A mutation that a device was asked to write: one insert, and one more on the counter.
pub struct Written {
    pub device: usize,
    /// Of the row that it inserts, and no other does.
    pub id: i64,
    /// The device said that it has it; otherwise it died meanwhile.
    pub is_sure: bool,
}

/// See the module's text.
pub struct World {
    server: Option<Server>,
    clock: Arc<ManualClock>,
    /// The server's log, power cuts and all.
    disk: SimDisk,
    state: TempDir,
    /// The server's state when it was last opened: what a power cut may leave of it.
    before: Files,
    pub phones: Vec<Phone>,
    pub written: Vec<Written>,
    rng: Rng,
    next_id: i64,
    next_taken: i64,
    titles_are_free: bool,
    definitions: u64,
}

/// A device and where it lives.
pub struct Phone {
    dir: TempDir,
    device: Option<Device>,
}

impl Phone {
    pub fn device(&self) -> &Device {
        self.device.as_ref().expect("it is open between lives")
    }
}

fn open_server(state: &Path, disk: &SimDisk, clock: &Arc<ManualClock>) -> Server {
    let config = SegmentConfig {
        segment_bytes: 256 << 10,
        reserve_bytes: 0,
        background: false,
        ..SegmentConfig::default()
    };
    let disk = Arc::new(disk.clone());
    let dir = Path::new(DIR);
    let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(clock);
    let log = SegmentLog::open_on(disk, dir, config, Arc::clone(&clock), &NoProgress).unwrap();
    let log: Arc<dyn Log> = Arc::new(log);
    Server::open(state, log, clock)
}

impl World {
    /// Everybody is there and has everything.
    pub async fn start(seed: u64) -> World {
        let clock = Arc::new(ManualClock::at(SystemClock.now_ms()));
        let disk = SimDisk::new(seed);
        let state = directory();
        let server = open_server(state.path(), &disk, &clock);
        let taken: Vec<_> = (1..=TAKEN)
            .map(|k| format!("(-{k}, 'taken {k}', 0)"))
            .collect();
        server
            .sql(&format!(
                "CREATE TABLE items (id int PRIMARY KEY, title text UNIQUE, n int CHECK (n < 50)); \
                 CREATE TABLE counters (id int PRIMARY KEY, n bigint NOT NULL); \
                 INSERT INTO counters VALUES (1, 0); \
                 INSERT INTO items VALUES {}",
                taken.join(", ")
            ))
            .await;
        let mut world = World {
            server: Some(server),
            clock,
            disk,
            before: Files::default(),
            state,
            phones: Vec::new(),
            written: Vec::new(),
            rng: Rng::new(seed),
            next_id: 1,
            next_taken: 1,
            titles_are_free: false,
            definitions: 0,
        };
        for _ in 0..2 {
            let dir = directory();
            let device = Device::open(dir.path()).await.unwrap();
            // Titles that are taken are not seen: otherwise the device itself would refuse them.
            device
                .subscribe(1, "items", Some("id > 0"), &[])
                .await
                .unwrap();
            device.subscribe(2, "counters", None, &[]).await.unwrap();
            let device = Some(device);
            world.phones.push(Phone { dir, device });
            world.exchange(world.phones.len() - 1).await;
        }
        // From here on it is a server that has been killed once: its state is at rest.
        world.begin_again(Files::of(world.state.path()), world.disk.fork());
        world
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("it is open between lives")
    }

    fn device(&self, place: usize) -> Device {
        self.phones[place].device().clone()
    }

    fn dice(&mut self, sides: u64) -> u64 {
        self.rng.next() % sides
    }

    // ---- one run ----

    /// One kill, at that pass of `point`, and what follows; whether somebody died.
    pub async fn run(
        &mut self,
        (point, moment): (&'static str, Moment),
        passes: u64,
        what: &str,
    ) -> bool {
        self.clock.advance(2_000);
        self.bustle().await;
        let remains = self.fatal(point, passes, moment).await;
        let died = remains.is_some();
        if let Some(remains) = remains {
            if moment.kills_the_server() {
                self.restart_server(remains);
            } else {
                self.restart_device(remains).await;
            }
        }
        self.check_each(what).await;
        died
    }

    /// What goes on before, with everybody alive.
    async fn bustle(&mut self) {
        if std::mem::take(&mut self.titles_are_free) {
            self.take_titles().await;
        }
        for place in 0..self.phones.len() {
            for _ in 0..=self.dice(2) {
                self.write(place).await;
            }
            if self.dice(3) == 0 {
                self.exchange(place).await;
            }
            self.edit(place).await;
        }
        if self.dice(3) == 0 {
            let (id, n) = (self.dice(20) + 1, self.dice(50));
            let sql = format!("UPDATE items SET n = {n} WHERE id = {id}");
            self.server().sql(&sql).await;
        }
    }

    /// Does what is to be interrupted. The device that may die is the first.
    async fn fatal(&mut self, point: &'static str, passes: u64, moment: Moment) -> Option<Remains> {
        match moment {
            Moment::Statement => {
                self.write(0).await;
                self.arm_device(point, passes);
                for _ in 0..3 {
                    self.edit(0).await;
                    self.write(0).await;
                }
            }
            Moment::DeviceTalks => {
                self.write(0).await;
                self.arm_device(point, passes);
                self.exchange(0).await;
            }
            Moment::DeviceLearns => {
                self.define().await;
                self.arm_device(point, 1);
                self.exchange(0).await;
            }
            Moment::ServerDecides => {
                // Something is rejected in each, so that every place is passed.
                self.write_taken(0).await;
                self.arm_server(point, passes);
                self.exchange(0).await;
                self.exchange(1).await;
            }
            Moment::Expiry => self.expire(point, passes).await,
            Moment::Definition => {
                self.arm_server(point, 1);
                self.define().await;
            }
        }
        kill::disarm()
    }

    fn arm_device(&mut self, point: &'static str, passes: u64) {
        kill::arm(point, passes, self.phones[0].dir.path(), None);
    }

    fn arm_server(&mut self, point: &'static str, passes: u64) {
        kill::arm(point, passes, self.state.path(), Some(&self.disk));
    }

    // ---- what devices do ----

    /// A mutation that others may be in the way of.
    pub async fn write(&mut self, place: usize) {
        if self.dice(4) == 0 {
            return self.write_taken(place).await;
        }
        let title = format!("title {}", self.next_id);
        self.insert(place, &title).await;
    }

    async fn write_taken(&mut self, place: usize) {
        let title = format!("taken {}", self.next_taken);
        self.next_taken = self.next_taken % TAKEN + 1;
        self.insert(place, &title).await;
    }

    async fn insert(&mut self, place: usize, title: &str) {
        if has_fallen() {
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        let columns = [("title", SyncValue::from(title)), ("n", 1.into())];
        let operation = |collection: &str, id: i64, verb| Operation {
            collection: collection.to_owned(),
            id: vec![id.into()],
            verb,
        };
        let operations = vec![
            operation("items", id, Verb::Insert(columns.into_iter().collect())),
            operation(
                "counters",
                1,
                Verb::Inc(std::iter::once(("n", 1)).collect()),
            ),
        ];
        let written = self.device(place).write(operations).await;
        let fell = has_fallen();
        // The same title twice on one device, before the first has been rejected: no mutation.
        if written.is_err() && !fell {
            return;
        }
        self.written.push(Written {
            device: place,
            id,
            is_sure: !fell,
        });
    }

    /// A change to what is there, for the image's sake; of rows that nobody will reject.
    async fn edit(&mut self, place: usize) {
        let latest = self.dice(3);
        let sql = format!(
            "UPDATE items SET n = (n + 1) % 49 WHERE id = (SELECT id FROM items \
             WHERE title LIKE 'title %' ORDER BY id DESC LIMIT 1 OFFSET {latest})"
        );
        let edited = self.device(place).sql(&sql, &[]).await;
        assert!(edited.is_ok() || has_fallen(), "{edited:?}");
    }

    /// Connects and talks until there is nothing more to say, or somebody dies.
    pub async fn exchange(&mut self, place: usize) {
        if has_fallen() {
            return;
        }
        let device = self.device(place);
        let mut wire = Wire::connect(&device, self.server()).await;
        while !has_fallen() {
            let Some(pushed) = push(&mut wire).await else {
                return;
            };
            let mut heard = Vec::new();
            while let Some(frame) = wire.hear().await {
                // What it says after its death has never been said.
                if has_fallen() {
                    break;
                }
                heard.push(frame);
            }
            let is_last = !pushed && heard.is_empty();
            if has_fallen() {
                // Some of it has got through.
                let through = usize::try_from(self.dice(heard.len() as u64 + 1)).unwrap();
                heard.truncate(through);
            }
            for frame in heard {
                if wire.take(frame).await.is_err() {
                    assert!(has_fallen(), "a conversation ends where nobody has died");
                    return;
                }
            }
            let settled = wire.conversation.settle().await;
            failpoint::hit("device.before_acknowledge");
            let replies = match settled {
                Ok(replies) => replies,
                Err(end) => {
                    assert!(has_fallen(), "{end:?}");
                    return;
                }
            };
            if is_last && replies.is_empty() {
                return;
            }
            for reply in replies {
                if has_fallen() {
                    return;
                }
                wire.say(reply).await;
            }
        }
    }

    // ---- what the server does ----

    async fn define(&mut self) {
        self.definitions += 1;
        let k = self.definitions;
        let sql = match k % 3 {
            0 => format!("CREATE TABLE other{k} (id int PRIMARY KEY)"),
            1 => format!("ALTER TABLE items ADD COLUMN c{k} int DEFAULT {k}"),
            _ => format!("CREATE INDEX i{k} ON items (n)"),
        };
        self.server().sql(&sql).await;
    }

    async fn expire(&mut self, point: &'static str, passes: u64) {
        self.write_taken(0).await;
        self.write_taken(1).await;
        self.exchange(0).await;
        self.exchange(1).await;
        let actions = ["drop", "escalate", "force_apply_lww"];
        let action = if point == "dead_letters.retry" {
            actions[2]
        } else {
            actions[usize::try_from(self.dice(3)).unwrap()]
        };
        let seconds = TTL_MS / 1000;
        self.server()
            .sql(&format!(
                "CALL springhead.set_dead_letter_policy('items', {seconds}, action => '{action}')"
            ))
            .await;
        // What stood in the way of some of them is gone, and comes back for those who write later.
        self.titles_are_free = true;
        let parity = self.dice(2);
        self.server()
            .sql(&format!(
                "DELETE FROM items WHERE id < 0 AND -id % 2 = {parity}"
            ))
            .await;
        self.clock.advance(TTL_MS + 1_000);
        self.arm_server(point, passes.min(2));
        self.server().engine.sweep_dead_letters().await.unwrap();
    }

    async fn take_titles(&mut self) {
        let sql = format!(
            "INSERT INTO items SELECT -k, 'taken ' || k, 0 FROM generate_series(1, {TAKEN}) AS k \
             ON CONFLICT DO NOTHING"
        );
        self.server().sql(&sql).await;
    }

    // ---- lives ----

    /// A kill leaves all that was written. A power cut loses what the log had not flushed, and may lose
    /// all that the state's file has got since it was opened.
    fn restart_server(&mut self, remains: Remains) {
        let disk = remains.disk.expect("a server has a log");
        let mut files = remains.files;
        if self.dice(2) == 0 {
            disk.power_cycle();
            if self.dice(2) == 0 {
                files = std::mem::take(&mut self.before);
            }
        }
        self.begin_again(files, disk);
    }

    fn begin_again(&mut self, files: Files, disk: SimDisk) {
        drop(self.server.take());
        // A directory of its own: threads of the dead may still have the old one open.
        self.state = directory();
        files.put(self.state.path());
        self.before = files;
        self.disk = disk;
        self.server = Some(open_server(self.state.path(), &self.disk, &self.clock));
    }

    async fn restart_device(&mut self, remains: Remains) {
        let phone = &mut self.phones[0];
        phone.device.take().expect("it was open").close().await;
        remains.files.put(phone.dir.path());
        phone.device = Some(Device::open(phone.dir.path()).await.unwrap());
    }

    /// Everybody talks until nothing is left to say; how many mutations there were.
    pub async fn end(mut self, what: &str) -> usize {
        for _ in 0..2 {
            for place in 0..self.phones.len() {
                self.exchange(place).await;
            }
        }
        self.check_each(what).await;
        self.check_end(what).await;
        self.written.len()
    }

    /// By device: what it still has to say, and what it was told is rejected.
    pub async fn queues(&self) -> Vec<(BTreeMap<i64, usize>, BTreeMap<i64, usize>)> {
        let mut queues = Vec::new();
        for phone in &self.phones {
            let pending = phone.device().pending().await.unwrap();
            let rejected = phone.device().rejections().await.unwrap();
            queues.push((
                counted(
                    pending
                        .iter()
                        .filter_map(|one| inserted(&one.mutation.operations)),
                ),
                counted(
                    rejected
                        .iter()
                        .filter_map(|one| inserted(&one.mutation.operations)),
                ),
            ));
        }
        queues
    }
}

impl Moment {
    fn kills_the_server(self) -> bool {
        matches!(
            self,
            Moment::ServerDecides | Moment::Expiry | Moment::Definition
        )
    }
}

/// Says all that the device has to push; whether it was anything, `None` if somebody has died.
async fn push(wire: &mut Wire) -> Option<bool> {
    let mut pushed = false;
    loop {
        let push = match wire.conversation.push(u64::MAX).await {
            Ok(push) => push,
            Err(end) => {
                assert!(has_fallen(), "{end:?}");
                return None;
            }
        };
        let Some(push) = push else {
            return (!has_fallen()).then_some(pushed);
        };
        failpoint::hit("device.before_push");
        if has_fallen() {
            return None;
        }
        wire.say(push).await;
        failpoint::hit("device.after_push");
        pushed = true;
    }
}

/// The row that a mutation of ours inserts.
fn inserted(operations: &[Operation]) -> Option<i64> {
    match (operations.first()?, operations.first()?.id.first()?) {
        (
            Operation {
                verb: Verb::Insert(_),
                ..
            },
            SyncValue::Integer(id),
        ) => Some(*id),
        _ => None,
    }
}

pub fn counted(ids: impl Iterator<Item = i64>) -> BTreeMap<i64, usize> {
    let mut counts = BTreeMap::new();
    for id in ids {
        *counts.entry(id).or_default() += 1;
    }
    counts
}
