//! Seeded writers: each tries transactions of every shape over the PostgreSQL protocol or HTTP, and
//! writes down what it tried and what it was told.
//!
//! A writer touches only its own rows and never reuses a key, so that each transaction in the log
//! can be told from all others; counters shared by all make lost updates visible. After an unknown
//! outcome it leaves the rows concerned alone.

use serde_json::{Value, json};

use crate::client::http;
use crate::client::pg::{PgClient, PgError};
use crate::history::{After, Attempt, Effect, Operation, Outcome};
use crate::rng::Rng;
use crate::world::World;

/// The tables that the load writes to.
pub const SCHEMA: &str = "\
CREATE TABLE ledger (id TEXT PRIMARY KEY, client INTEGER NOT NULL, seq INTEGER NOT NULL, note TEXT);
CREATE TABLE counters (id TEXT PRIMARY KEY, n BIGINT NOT NULL)";

/// How many shared counters there are.
pub const COUNTERS: u64 = 4;

/// What a writer's transactions are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Of a hundred rows, how many have a note of over a mebibyte: a commit of several frames.
    pub large_percent: u64,
    /// Of a hundred rows, how many have a note of about 64 KiB.
    pub medium_percent: u64,
    /// End after this many attempts; 0 for when the world stops.
    pub attempts: u64,
}

/// Writes until the world stops. Returns what it tried.
pub fn write(world: &World, client: usize, style: Style, rng: Rng) -> Vec<Attempt> {
    let mut writer = Writer {
        world,
        client,
        style,
        rng,
        alive: Vec::new(),
        attempts: Vec::new(),
    };
    let mut generation = 0;
    while !writer.is_done() {
        generation = world.wait_up(generation);
        let connection = PgClient::connect(world.pg, "postgres");
        let Ok(mut connection) = connection else {
            continue;
        };
        while !writer.is_done() {
            if writer.attempt(&mut connection).is_err() {
                break;
            }
        }
    }
    writer.attempts
}

/// Inserts the rows that all writers share. Returns the attempts, which are all acknowledged.
///
/// # Errors
/// What the server says.
pub fn set_up(world: &World) -> Result<Vec<Attempt>, PgError> {
    let mut connection = PgClient::connect(world.pg, "postgres")?;
    connection.query(SCHEMA)?;
    let mut attempts = Vec::new();
    for counter in 0..COUNTERS {
        let id = format!("counter-{counter}");
        let started = world.tick();
        connection.query(&format!("INSERT INTO counters VALUES ('{id}', 0)"))?;
        attempts.push(Attempt {
            effects: vec![Effect {
                collection: "counters".to_owned(),
                operation: Operation::Insert,
                document_id: id.clone(),
                after: After::Row(json!({"id": id, "n": 0})),
            }],
            outcome: Outcome::Acknowledged { lsn: None },
            started,
            ended: world.tick(),
        });
    }
    Ok(attempts)
}

/// The id of the row that ends every reader.
pub const END: &str = "the-end";

/// Inserts the row that ends every reader.
///
/// # Errors
/// What the server says.
pub fn write_end(world: &World) -> Result<Attempt, PgError> {
    let mut connection = PgClient::connect(world.pg, "postgres")?;
    let row = Row {
        id: END.to_owned(),
        client: 0,
        seq: 0,
        note: None,
    };
    let started = world.tick();
    connection.query(&row.insert())?;
    let outcome = Outcome::Acknowledged { lsn: None };
    Ok(Attempt {
        effects: vec![row.inserted()],
        outcome,
        started,
        ended: world.tick(),
    })
}

/// The connection is of no more use.
struct Broken;

struct Writer<'a> {
    world: &'a World,
    client: usize,
    style: Style,
    rng: Rng,
    /// Keys of its rows that are surely there and may be changed.
    alive: Vec<String>,
    attempts: Vec<Attempt>,
}

#[derive(Debug, Clone)]
struct Row {
    id: String,
    client: usize,
    seq: usize,
    note: Option<String>,
}

impl Row {
    fn json(&self) -> Value {
        json!({"id": self.id, "client": self.client, "seq": self.seq, "note": self.note})
    }

    fn inserted(&self) -> Effect {
        self.effect(Operation::Insert, After::Row(self.json()))
    }

    fn effect(&self, operation: Operation, after: After) -> Effect {
        let (collection, document_id) = ("ledger".to_owned(), self.id.clone());
        Effect {
            collection,
            operation,
            document_id,
            after,
        }
    }

    fn values(&self) -> String {
        let note = self
            .note
            .as_ref()
            .map_or("NULL".to_owned(), |note| format!("'{note}'"));
        format!("('{}', {}, {}, {note})", self.id, self.client, self.seq)
    }

    fn insert(&self) -> String {
        format!("INSERT INTO ledger VALUES {}", self.values())
    }
}

/// One transaction to try: its statements and what they do.
struct Transaction {
    statements: Vec<String>,
    effects: Vec<Effect>,
    ending: Ending,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// A single statement, which commits by itself.
    Autocommit,
    /// The same through `POST /v1/sql`, whose answer says the LSN.
    Http,
    Commit,
    Rollback,
}

impl Writer<'_> {
    fn is_done(&self) -> bool {
        let enough = self.style.attempts > 0 && self.attempts.len() as u64 >= self.style.attempts;
        enough || self.world.is_stopped()
    }

    fn attempt(&mut self, connection: &mut PgClient) -> Result<(), Broken> {
        let transaction = self.choose();
        let started = self.world.tick();
        let (outcome, broken) = match transaction.ending {
            Ending::Http => (self.send_http(&transaction.statements[0]), false),
            Ending::Autocommit => self.send_one(connection, &transaction.statements[0]),
            Ending::Commit | Ending::Rollback => self.send_many(connection, &transaction),
        };
        let ended = self.world.tick();
        self.remember(&transaction.effects, outcome);
        self.attempts.push(Attempt {
            effects: transaction.effects,
            outcome,
            started,
            ended,
        });
        if broken {
            return Err(Broken);
        }
        if matches!(outcome, Outcome::Acknowledged { .. }) {
            self.world.acknowledge();
            if self.rng.chance(5) {
                self.read_own_write(connection)?;
            }
        }
        Ok(())
    }

    fn choose(&mut self) -> Transaction {
        let one = |statement, effects, ending| Transaction {
            statements: vec![statement],
            effects,
            ending,
        };
        let row = self.row(0);
        match self.rng.below(100) {
            0..40 => one(row.insert(), vec![row.inserted()], Ending::Autocommit),
            40..50 => one(row.insert(), vec![row.inserted()], Ending::Http),
            50..65 => {
                let rows: Vec<Row> = (0..2 + self.rng.below(4)).map(|n| self.row(n)).collect();
                let values: Vec<String> = rows.iter().map(Row::values).collect();
                let statement = format!("INSERT INTO ledger VALUES {}", values.join(", "));
                one(
                    statement,
                    rows.iter().map(Row::inserted).collect(),
                    Ending::Autocommit,
                )
            }
            65..80 => self.several(row),
            80..90 => {
                let counter = format!("counter-{}", self.rng.below(COUNTERS));
                let bump = format!("UPDATE counters SET n = n + 1 WHERE id = '{counter}'");
                let bumped = Effect {
                    collection: "counters".to_owned(),
                    operation: Operation::Update,
                    document_id: counter,
                    after: After::Incremented("n"),
                };
                let effects = vec![row.inserted(), bumped];
                Transaction {
                    statements: vec![row.insert(), bump],
                    effects,
                    ending: Ending::Commit,
                }
            }
            90..95 => {
                let effects = vec![row.inserted()];
                Transaction {
                    statements: vec![row.insert()],
                    effects,
                    ending: Ending::Rollback,
                }
            }
            _ => {
                // The last row's key is taken: the statement fails, and its first row with it.
                let Some(taken) = self.alive.last().cloned() else {
                    return one(row.insert(), vec![row.inserted()], Ending::Autocommit);
                };
                let again = Row {
                    id: taken,
                    ..row.clone()
                };
                let statement = format!(
                    "INSERT INTO ledger VALUES {}, {}",
                    row.values(),
                    again.values()
                );
                one(
                    statement,
                    vec![row.inserted(), again.inserted()],
                    Ending::Autocommit,
                )
            }
        }
    }

    /// An insert, an update of one row and a delete of another, as one transaction.
    fn several(&mut self, row: Row) -> Transaction {
        let mut statements = vec![row.insert()];
        let mut effects = vec![row.inserted()];
        let mut candidates = self.alive.clone();
        if let Some(id) = self.take_one(&mut candidates) {
            let new = Row {
                id,
                note: Some("changed".to_owned()),
                ..row.clone()
            };
            let (seq, id) = (new.seq, &new.id);
            statements.push(format!(
                "UPDATE ledger SET seq = {seq}, client = {}, note = 'changed' WHERE id = '{id}'",
                self.client
            ));
            effects.push(new.effect(Operation::Update, After::Row(new.json())));
        }
        if let Some(id) = self.take_one(&mut candidates) {
            statements.push(format!("DELETE FROM ledger WHERE id = '{id}'"));
            effects.push(Row { id, ..row }.effect(Operation::Delete, After::Nothing));
        }
        Transaction {
            statements,
            effects,
            ending: Ending::Commit,
        }
    }

    fn take_one(&mut self, from: &mut Vec<String>) -> Option<String> {
        let count = from.len() as u64;
        let index = (count > 0).then(|| self.rng.below(count))?;
        Some(from.swap_remove(usize::try_from(index).ok()?))
    }

    fn row(&mut self, part: u64) -> Row {
        let (client, seq) = (self.client, self.attempts.len());
        let length = match self.rng.below(100) {
            n if n < self.style.large_percent => 1_200_000 + self.rng.below(1_500_000),
            n if n < self.style.large_percent + self.style.medium_percent => 65_536,
            _ => self.rng.below(120),
        };
        let note = "n".repeat(usize::try_from(length).unwrap_or(0));
        let note = self.rng.chance(90).then_some(note);
        Row {
            id: format!("{client}-{seq}-{part}"),
            client,
            seq,
            note,
        }
    }

    /// The outcome, and whether the connection is broken.
    fn send_one(&self, connection: &mut PgClient, statement: &str) -> (Outcome, bool) {
        match connection.query(statement) {
            Ok(_) => (Outcome::Acknowledged { lsn: None }, false),
            Err(PgError::Io(_)) => (Outcome::Unknown, true),
            Err(PgError::Sql { code, message }) => (self.refused(&code, &message), false),
        }
    }

    fn send_many(&self, connection: &mut PgClient, transaction: &Transaction) -> (Outcome, bool) {
        let begin = ["BEGIN".to_owned()];
        for statement in begin.iter().chain(&transaction.statements) {
            match connection.query(statement) {
                Ok(_) => {}
                // COMMIT was never sent: it is surely not there.
                Err(PgError::Io(_)) => return (Outcome::Refused, true),
                Err(PgError::Sql { code, message }) => {
                    self.refused(&code, &message);
                    return (Outcome::Refused, connection.query("ROLLBACK").is_err());
                }
            }
        }
        if transaction.ending == Ending::Rollback {
            return (Outcome::Refused, connection.query("ROLLBACK").is_err());
        }
        match connection.query("COMMIT") {
            Ok(result) if result.tags == ["COMMIT"] => (Outcome::Acknowledged { lsn: None }, false),
            Ok(result) => {
                self.world
                    .surprise(format!("COMMIT was answered {:?}", result.tags));
                (Outcome::Refused, false)
            }
            Err(PgError::Io(_)) => (Outcome::Unknown, true),
            Err(PgError::Sql { code, message }) => (self.refused(&code, &message), false),
        }
    }

    fn send_http(&self, statement: &str) -> Outcome {
        let Ok(answer) = http::post(self.world.http, "/v1/sql", &json!({"sql": statement})) else {
            return Outcome::Unknown;
        };
        if answer.status == 200 {
            let lsn = answer.json()["lsn"].as_u64();
            if lsn.is_none() {
                self.world
                    .surprise(format!("an answer without an LSN: {}", answer.text()));
            }
            return Outcome::Acknowledged { lsn };
        }
        match answer.error_code().as_str() {
            "outcome_unknown" | "shutting_down" => Outcome::Unknown,
            "unique_violation" | "disk_full" | "not_ready" => Outcome::Refused,
            _ => {
                self.world
                    .surprise(format!("{statement:.80}: {}", answer.text()));
                Outcome::Refused
            }
        }
    }

    /// What an error of the server says about the commit. Codes that nothing here should cause are
    /// surprises.
    fn refused(&self, code: &str, message: &str) -> Outcome {
        match code {
            "08007" | "57P01" => Outcome::Unknown,
            "23505" | "53100" | "57P03" => Outcome::Refused,
            _ => {
                self.world
                    .surprise(format!("writer {}: {code} {message}", self.client));
                Outcome::Refused
            }
        }
    }

    fn remember(&mut self, effects: &[Effect], outcome: Outcome) {
        if outcome == Outcome::Refused {
            return;
        }
        for effect in effects
            .iter()
            .filter(|effect| effect.collection == "ledger")
        {
            self.alive.retain(|id| *id != effect.document_id);
            let is_there = effect.operation != Operation::Delete;
            if is_there && matches!(outcome, Outcome::Acknowledged { .. }) {
                self.alive.push(effect.document_id.clone());
            }
        }
        // Bounded, and the recent ones are the interesting ones.
        if self.alive.len() > 64 {
            self.alive.remove(0);
        }
    }

    /// Whoever was told "committed" sees it, on this connection and on HTTP.
    fn read_own_write(&mut self, connection: &mut PgClient) -> Result<(), Broken> {
        let Some(id) = self.alive.last() else {
            return Ok(());
        };
        let select = format!("SELECT id FROM ledger WHERE id = '{id}'");
        match connection.query(&select) {
            Ok(result) if result.rows.len() == 1 => {}
            Ok(_) => self
                .world
                .surprise(format!("{id} was acknowledged and is not seen")),
            Err(_) => return Err(Broken),
        }
        if let Ok(answer) = http::post(self.world.http, "/v1/sql", &json!({"sql": select}))
            && answer.status == 200
            && answer.json()["rows"]
                .as_array()
                .is_none_or(|rows| rows.len() != 1)
        {
            self.world
                .surprise(format!("{id} was acknowledged and HTTP does not see it"));
        }
        Ok(())
    }
}
