//! One run: start the real server, let writers and readers at it, end it in the ways of the plan,
//! start it again each time, and judge the whole.
//!
//! Called by the server's crash tests and by `soak`. A plan is made from a seed alone, so the seed
//! replays it (threads and disks keep their own time; the plan, the writers' choices and the kill
//! points are the same).

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::checker::{self, Violation};
use crate::client::http;
use crate::followers::{self, Exit};
use crate::history::{Attempt, Change, History, Outcome, Reading};
use crate::load::{self, Style};
use crate::process::{Ports, Server, Setup, StartError};
use crate::rng::Rng;
use crate::world::World;

/// How the server's life ends, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// kill -9 by itself, at a pass of a failpoint; by us if it has not come there after so many
    /// more acknowledged commits.
    Failpoint {
        name: String,
        hit: u64,
        give_up_after: u64,
    },
    /// kill -9 by us, after so many more acknowledged commits.
    Kill { after: u64 },
    /// SIGTERM, after so many more acknowledged commits: it must drain and exit 0.
    Stop { after: u64 },
    /// SIGSTOP after so many more acknowledged commits, SIGCONT after a time, then kill -9 after as
    /// many commits again.
    Pause { after: u64, time: Duration },
}

/// What a run does.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub writers: usize,
    pub style: Style,
    pub readers: Vec<Exit>,
    pub ends: Vec<End>,
    /// Whether retention trims the log on the way. The log is then not what the feed holds in the
    /// end but what a reader kept that followed it from the beginning.
    pub trims: bool,
    /// Environment of the server in every life.
    pub env: Vec<(String, String)>,
}

/// What a run was worth.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub acknowledged: u64,
    pub unknown: u64,
    pub refused: u64,
    /// Changes in the log.
    pub changes: u64,
    /// Changes that readers were shown.
    pub shown: u64,
    pub lives: u64,
    /// Failpoints that ended a life.
    pub reached: Vec<String>,
}

/// What is wrong, with what is needed to see it again.
#[derive(Debug)]
pub struct Failure {
    pub plan: Plan,
    pub what: Vec<String>,
    /// Where the data and the server's output were left.
    pub left_in: PathBuf,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {} failed; the directory is {}",
            self.plan.seed,
            self.left_in.display()
        )?;
        writeln!(f, "{:?}", self.plan)?;
        for what in self.what.iter().take(12) {
            writeln!(f, "  {what:.600}")?;
        }
        let more = self.what.len().saturating_sub(12);
        if more > 0 {
            writeln!(f, "  and {more} more")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Does what `plan` says and judges what came of it.
///
/// # Errors
/// [`Failure`] with everything that is wrong.
pub fn run(binary: &Path, plan: &Plan) -> Result<Report, Box<Failure>> {
    let directory = tempfile::Builder::new().prefix("springhead-sim-").tempdir();
    let directory = match directory {
        Ok(directory) => directory,
        Err(error) => return Err(failure(plan, vec![error.to_string()], PathBuf::new())),
    };
    match run_in(binary, plan, directory.path()) {
        Ok((history, report)) => {
            let violations = checker::check(&history);
            if violations.is_empty() {
                return Ok(report);
            }
            let what = violations.iter().map(Violation::to_string).collect();
            Err(failure(plan, what, directory.keep()))
        }
        Err(what) => Err(failure(plan, what, directory.keep())),
    }
}

fn failure(plan: &Plan, what: Vec<String>, left_in: PathBuf) -> Box<Failure> {
    Box::new(Failure {
        plan: plan.clone(),
        what,
        left_in,
    })
}

type Wrong = Vec<String>;

fn run_in(binary: &Path, plan: &Plan, directory: &Path) -> Result<(History, Report), Wrong> {
    let ports = Ports::take().map_err(|error| vec![error.to_string()])?;
    let mut setup = Setup::new(binary, directory, &ports);
    setup.env.extend(plan.env.iter().cloned());
    let world = Arc::new(World::new(setup.pg, setup.http));
    let judged = drive(&world, plan, setup);
    // Whoever still waits for something that will not come.
    world.abandon();
    judged.map_err(|mut wrong| {
        wrong.extend(world.take_surprises());
        wrong
    })
}

fn drive(world: &Arc<World>, plan: &Plan, setup: Setup) -> Result<(History, Report), Wrong> {
    let mut lives = Lives {
        setup,
        world,
        server: None,
        report: Report::default(),
    };
    // The first life takes the schema, so that every pass of a failpoint is one of the load's.
    lives.start(None).map_err(|error| vec![error])?;
    let first = load::set_up(world).map_err(|error| vec![format!("set-up: {error}")])?;
    let after = end_lsn(world).map_err(|error| vec![error])?;
    lives.stop().map_err(|error| vec![error])?;

    let mut rng = Rng::new(plan.seed);
    world.server_is_down();
    let writers: Vec<_> = (1..=plan.writers)
        .map(|client| {
            let (world, style) = (Arc::clone(world), plan.style);
            let rng = rng.fork(client as u64);
            thread::spawn(move || load::write(&world, client, style, rng))
        })
        .collect();
    let readers: Vec<_> = plan
        .readers
        .iter()
        .map(|&exit| {
            let (world, rng) = (Arc::clone(world), rng.fork(1_000_000));
            thread::spawn(move || followers::follow(&world, exit, Some("ledger"), after, rng))
        })
        .collect();
    let archive = plan.trims.then(|| {
        let (world, rng) = (Arc::clone(world), rng.fork(2_000_000));
        thread::spawn(move || followers::follow(&world, Exit::Poll, None, 0, rng))
    });
    let lived = plan.ends.iter().try_for_each(|end| lives.live(end));
    // One more life, in which everybody finishes.
    let finished = lived.and_then(|()| lives.finish());
    finished.map_err(|error| vec![error])?;
    world.stop();
    let mut clients = vec![first];
    clients.extend(
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap_or_default()),
    );
    let end = load::write_end(world).map_err(|error| vec![format!("end row: {error}")])?;
    clients.push(vec![end]);
    let readings = readers
        .into_iter()
        .filter_map(|reader| reader.join().ok())
        .collect();
    let archive = archive.map(|archive| archive.join().map(|reading| reading.changes));
    let archive = archive
        .transpose()
        .map_err(|_| vec!["the archive's reader panicked".to_owned()])?;
    let history = collect(world, clients, readings, archive).map_err(|error| vec![error])?;
    lives.stop().map_err(|error| vec![error])?;
    let surprises = world.take_surprises();
    if !surprises.is_empty() {
        return Err(surprises);
    }
    let report = summarise(&history, lives.report);
    Ok((history, report))
}

struct Lives<'a> {
    setup: Setup,
    world: &'a World,
    server: Option<Server>,
    report: Report,
}

/// How long a life may last before a run counts as stuck.
const LIFE_TIMEOUT: Duration = Duration::from_secs(120);

impl Lives<'_> {
    /// Starts the server and says so to all; false if it has come to its failpoint already.
    fn start(&mut self, failpoint: Option<(&str, u64)>) -> Result<bool, String> {
        let setup = match failpoint {
            Some((name, hit)) => self.setup.clone().with_failpoint(name, hit),
            None => self.setup.clone(),
        };
        self.report.lives += 1;
        match (Server::start(&setup), failpoint) {
            (Ok(server), _) => {
                self.server = Some(server);
                self.world.server_is_up();
                Ok(true)
            }
            (Err(StartError::Ended { status, .. }), Some((name, _)))
                if status.signal() == Some(9) =>
            {
                self.report.reached.push(name.to_owned());
                Ok(false)
            }
            (Err(error), _) => Err(format!("start {}: {error}", self.report.lives)),
        }
    }

    /// One life from start to its end.
    fn live(&mut self, end: &End) -> Result<(), String> {
        match end {
            End::Failpoint {
                name,
                hit,
                give_up_after,
            } => {
                if !self.start(Some((name, *hit)))? {
                    return Ok(());
                }
                match self.wait(*give_up_after)? {
                    Some(status) if status.signal() == Some(9) => {
                        self.report.reached.push(name.clone());
                        self.gone();
                        Ok(())
                    }
                    Some(status) => Err(format!("it ended by itself with {status}, not at {name}")),
                    None => self.kill(),
                }
            }
            End::Kill { after } => {
                self.start(None)?;
                match self.wait(*after)? {
                    Some(status) => Err(format!("the server ended by itself with {status}")),
                    None => self.kill(),
                }
            }
            End::Stop { after } => {
                self.start(None)?;
                match self.wait(*after)? {
                    Some(status) => Err(format!("the server ended by itself with {status}")),
                    None => self.stop(),
                }
            }
            End::Pause { after, time } => {
                self.start(None)?;
                for _ in 0..2 {
                    if let Some(status) = self.wait(*after)? {
                        return Err(format!("the server ended by itself with {status}"));
                    }
                    let server = self.server.as_mut().ok_or("no server to pause")?;
                    server.signal(Signal::STOP);
                    server.wait_end(*time);
                    server.signal(Signal::CONT);
                }
                self.kill()
            }
        }
    }

    /// The last life: a few more commits, so that it is seen to work.
    fn finish(&mut self) -> Result<(), String> {
        self.start(None)?;
        match self.wait(20)? {
            Some(status) => Err(format!("the server ended by itself with {status}")),
            None => Ok(()),
        }
    }

    /// Waits until the server has ended (then with what) or `more` commits were acknowledged.
    fn wait(&mut self, more: u64) -> Result<Option<ExitStatus>, String> {
        let target = self.world.acknowledged() + more;
        let started = Instant::now();
        let server = self.server.as_mut().ok_or("no server to wait for")?;
        while self.world.acknowledged() < target {
            if let Some(status) = server.wait_end(Duration::from_millis(2)) {
                return Ok(Some(status));
            }
            if started.elapsed() > LIFE_TIMEOUT {
                let done = self.world.acknowledged() + more - target;
                let surprises = self.world.take_surprises();
                return Err(format!("stuck: {done} of {more} commits; {surprises:?}"));
            }
        }
        Ok(None)
    }

    fn kill(&mut self) -> Result<(), String> {
        let mut server = self.server.take().ok_or("no server to kill")?;
        server.kill();
        self.world.server_is_down();
        Ok(())
    }

    fn gone(&mut self) {
        self.server = None;
        self.world.server_is_down();
    }

    /// SIGTERM: it must drain and exit 0.
    fn stop(&mut self) -> Result<(), String> {
        let mut server = self.server.take().ok_or("no server to stop")?;
        let status = server.stop();
        self.world.server_is_down();
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("SIGTERM ended it with {status}")),
            None => Err("SIGTERM did not end it within 30 s".to_owned()),
        }
    }
}

/// Reads what the server holds in the end.
fn collect(
    world: &World,
    clients: Vec<Vec<Attempt>>,
    readings: Vec<Reading>,
    archive: Option<Vec<Change>>,
) -> Result<History, String> {
    let log = archive.map_or_else(|| read_log(world.http, 1), Ok)?;
    let mut state = BTreeMap::new();
    for table in ["ledger", "counters"] {
        for row in read_table(world.http, table)? {
            let id = row["id"].as_str().unwrap_or_default().to_owned();
            state.insert((table.to_owned(), id), row);
        }
    }
    Ok(History {
        clients,
        log,
        readings,
        state,
        dense: None,
    })
}

/// The whole feed of the default tenant from the LSN `since` on, page by page.
///
/// # Errors
/// Any answer but a page.
pub fn read_log(http: std::net::SocketAddr, since: u64) -> Result<Vec<Change>, String> {
    let mut changes = Vec::new();
    let mut target = format!("/cdc/poll?since_lsn={since}&limit=10000");
    loop {
        let answer = http::get(http, &target).map_err(|error| format!("{target}: {error}"))?;
        let page = answer.json();
        let (Some(events), Some(cursor)) = (
            page["changes"].as_array(),
            page["next_cursor"]["cursor"].as_str(),
        ) else {
            return Err(format!(
                "{target}: {} {:.300}",
                answer.status,
                answer.text()
            ));
        };
        for event in events {
            changes.push(Change::from_event(event).map_err(|error| error.to_string())?);
        }
        if page["has_more"] != json!(true) {
            return Ok(changes);
        }
        target = format!("/cdc/poll?cursor={}&limit=10000", http::encode(cursor));
    }
}

/// All rows of a table of the default tenant, as objects.
///
/// # Errors
/// Any answer but a result.
pub fn read_table(http: std::net::SocketAddr, table: &str) -> Result<Vec<Value>, String> {
    let sql = format!("SELECT * FROM {table}");
    let answer = http::post(http, "/v1/sql", &json!({"sql": sql})).map_err(|e| e.to_string())?;
    let result = answer.json();
    let (Some(columns), Some(rows)) = (result["columns"].as_array(), result["rows"].as_array())
    else {
        return Err(format!("{sql}: {} {:.300}", answer.status, answer.text()));
    };
    let names: Vec<&str> = columns
        .iter()
        .filter_map(|column| column["name"].as_str())
        .collect();
    let object = |row: &Value| {
        let values = row.as_array().cloned().unwrap_or_default();
        names
            .iter()
            .map(|name| (*name).to_owned())
            .zip(values)
            .collect::<serde_json::Map<_, _>>()
    };
    Ok(rows.iter().map(|row| Value::Object(object(row))).collect())
}

/// The last LSN of the feed now.
fn end_lsn(world: &World) -> Result<u64, String> {
    let log = read_log(world.http, 1)?;
    log.last()
        .map(|change| change.lsn)
        .ok_or_else(|| "the set-up left no change".to_owned())
}

fn summarise(history: &History, report: Report) -> Report {
    let count = |is: fn(&Outcome) -> bool| {
        history
            .clients
            .iter()
            .flatten()
            .filter(|attempt| is(&attempt.outcome))
            .count() as u64
    };
    Report {
        acknowledged: checker::acknowledged(history),
        unknown: count(|outcome| *outcome == Outcome::Unknown),
        refused: count(|outcome| *outcome == Outcome::Refused),
        changes: history.log.len() as u64,
        shown: history
            .readings
            .iter()
            .map(|reading| reading.changes.len() as u64)
            .sum(),
        ..report
    }
}

impl Report {
    /// Adds what another run was worth.
    pub fn add(&mut self, other: &Report) {
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.refused += other.refused;
        self.changes += other.changes;
        self.shown += other.shown;
        self.lives += other.lives;
        self.reached.extend(other.reached.iter().cloned());
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report {
            acknowledged,
            unknown,
            refused,
            changes,
            shown,
            lives,
            reached,
        } = self;
        write!(
            f,
            "{lives} lives, {} ended at failpoints; {acknowledged} acknowledged, {unknown} unknown, \
             {refused} refused; {changes} changes in the log, {shown} shown to readers",
            reached.len()
        )
    }
}
