//! The two servers under test, started and stopped alike. A server runs only in its own turn, so
//! that the other's background work never falls into it.

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::error::{BenchError, Doing, Result};
use crate::http;
use crate::options::Options;
use crate::procfs;
use crate::rig::{Process, Rig, free_port};
use crate::stats::float;
use crate::wire::Client;

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Postgres,
    Springhead,
}

impl Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Postgres => "PostgreSQL",
            Self::Springhead => "Springhead",
        })
    }
}

/// Where the programs are and who runs them.
#[derive(Debug)]
pub struct Systems {
    rig: Rig,
    postgres_bin: PathBuf,
    springhead: Option<PathBuf>,
    /// The user that PostgreSQL runs as when this process is root, which it refuses to be.
    user: Option<(u32, u32)>,
    kinds: Vec<Kind>,
    flush_delay_us: u64,
}

impl Systems {
    /// Finds the programs; builds Springhead if no binary was given.
    ///
    /// # Errors
    /// When one is missing.
    pub fn find(rig: &Rig, options: &Options) -> Result<Self> {
        let springhead = match (&options.binary, options.springhead) {
            (_, false) => None,
            (Some(binary), true) => Some(binary.clone()),
            (None, true) => Some(build_springhead()?),
        };
        let kinds = [
            (options.postgres, Kind::Postgres),
            (options.springhead, Kind::Springhead),
        ];
        let user = if rustix::process::getuid().is_root() {
            Some(unprivileged_user()?)
        } else {
            None
        };
        Ok(Self {
            rig: rig.clone(),
            postgres_bin: options.postgres_bin.clone(),
            springhead,
            flush_delay_us: options.flush_delay_us,
            user,
            kinds: kinds
                .into_iter()
                .filter_map(|(wanted, kind)| wanted.then_some(kind))
                .collect(),
        })
    }

    /// The servers to measure, in the order of their turns.
    #[must_use]
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    #[must_use]
    pub fn rig(&self) -> &Rig {
        &self.rig
    }

    /// Makes an empty place for a server's data, called `name`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn place(&self, kind: Kind, name: &str) -> Result<Place> {
        let place = self.empty_place(kind, name)?;
        if kind == Kind::Postgres {
            let mut initdb = self.postgres_program("initdb");
            initdb
                .args([
                    "--auth=trust",
                    "--username=postgres",
                    "--encoding=UTF8",
                    "--locale=C.UTF-8",
                    "-D",
                ])
                .arg(place.data());
            self.rig.output(&mut initdb)?;
        }
        Ok(place)
    }

    /// As [`Systems::place`], with nothing in it for PostgreSQL either.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn empty_place(&self, kind: Kind, name: &str) -> Result<Place> {
        let directory = self
            .rig
            .root()
            .join(format!("{kind}-{name}").to_lowercase());
        std::fs::create_dir(&directory).doing(format!("making {}", directory.display()))?;
        if kind == Kind::Postgres
            && let Some((user, group)) = self.user
        {
            std::os::unix::fs::chown(&directory, Some(user), Some(group))
                .doing("giving the directory away")?;
        }
        Ok(Place { kind, directory })
    }

    /// Starts the server of `place` and waits until it takes statements. `settings` are for
    /// PostgreSQL's command line, or Springhead's environment (`SPRINGHEAD_…`).
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(&self, place: &Place, settings: &[(&str, &str)]) -> Result<Server> {
        let log_file = place.directory.join("output.log");
        let sql = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let (mut command, http, abort) = match place.kind {
            Kind::Postgres => {
                let mut command = self.postgres_program("postgres");
                command.arg("-D").arg(place.data());
                command.args([
                    "-p",
                    &sql.port().to_string(),
                    "-c",
                    "listen_addresses=127.0.0.1",
                    "-c",
                    "unix_socket_directories=",
                ]);
                for (key, value) in settings {
                    command.arg("-c").arg(format!("{key}={value}"));
                }
                (command, None, Signal::QUIT)
            }
            Kind::Springhead => {
                let http = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
                let binary = self
                    .springhead
                    .as_ref()
                    .ok_or_else(|| BenchError::Invalid("Springhead was left out".to_owned()))?;
                let mut command = Command::new(binary);
                command.arg("serve").arg("--data-dir").arg(place.data());
                command.args(["--pg", &sql.to_string(), "--http", &http.to_string()]);
                command
                    .env("RUST_LOG", "warn")
                    .envs(settings.iter().copied());
                (command, Some(http), Signal::KILL)
            }
        };
        if self.flush_delay_us > 0 {
            command = slowed(&command, self.flush_delay_us);
            if let (Kind::Postgres, Some((user, group))) = (place.kind, self.user) {
                command.uid(user).gid(group);
            }
        }
        let started = Instant::now();
        let mut process = self.rig.start(&mut command, &log_file, abort)?;
        // Ready means that a statement is answered: the same question for both.
        process.wait_until(&format!("the start of {}", place.kind), 900, || {
            is_ready(sql, http)
        })?;
        Ok(Server {
            kind: place.kind,
            process,
            sql,
            http,
            started_in: started.elapsed(),
            data: place.data(),
        })
    }

    /// What the Springhead binary says of itself.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn springhead_version(&self) -> Result<String> {
        let binary = self
            .springhead
            .as_ref()
            .ok_or_else(|| BenchError::Invalid("Springhead was left out".to_owned()))?;
        self.rig.output(Command::new(binary).arg("--version"))
    }

    /// A command of PostgreSQL's, as the user that may run it.
    #[must_use]
    pub fn postgres_program(&self, name: &str) -> Command {
        let mut command = Command::new(self.postgres_bin.join(name));
        command.current_dir(self.rig.root());
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }
}

/// A data directory of one of the servers.
#[derive(Debug)]
pub struct Place {
    kind: Kind,
    directory: PathBuf,
}

impl Place {
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The data directory itself.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Gives the disk space back.
    ///
    /// # Errors
    /// What the disk says.
    pub fn remove(self) -> Result<()> {
        std::fs::remove_dir_all(&self.directory)
            .doing(format!("removing {}", self.directory.display()))
    }
}

/// A running server; ended when dropped.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    process: Process,
    sql: SocketAddr,
    http: Option<SocketAddr>,
    /// From the start of the process until it answered a statement.
    started_in: Duration,
    data: PathBuf,
}

impl Server {
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    #[must_use]
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Where it takes SQL.
    #[must_use]
    pub fn sql(&self) -> SocketAddr {
        self.sql
    }

    #[must_use]
    pub fn started_in(&self) -> Duration {
        self.started_in
    }

    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Where it serves HTTP.
    ///
    /// # Errors
    /// PostgreSQL does not.
    pub fn http(&self) -> Result<SocketAddr> {
        self.http
            .ok_or_else(|| BenchError::Invalid("PostgreSQL has no HTTP port".to_owned()))
    }

    /// A connection for statements.
    ///
    /// # Errors
    /// When it is refused.
    pub fn client(&self) -> Result<Client> {
        Client::connect(self.sql, "postgres", &[])
    }

    /// How often the log has been flushed to disk since the start.
    ///
    /// # Errors
    /// When the server does not say.
    pub fn flushes(&self) -> Result<f64> {
        match self.kind {
            Kind::Postgres => self.client()?.number("SELECT wal_sync FROM pg_stat_wal"),
            Kind::Springhead => http::metric(self.http()?, "springhead_log_flushes_total"),
        }
    }

    /// CPU seconds of the server's processes.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        procfs::family(self.pid())
            .into_iter()
            .filter_map(procfs::cpu_time)
            .sum::<Duration>()
            .as_secs_f64()
    }

    /// Memory of all of the server's processes, in bytes: what is shared between them is counted
    /// once.
    #[must_use]
    pub fn memory_bytes(&self) -> f64 {
        let family = procfs::family(self.pid());
        let one = |pid: Pid| procfs::memory(pid).unwrap_or_default();
        match self.kind {
            Kind::Postgres => family
                .into_iter()
                .map(|pid| float(one(pid).proportional))
                .sum(),
            Kind::Springhead => float(one(self.pid()).resident),
        }
    }

    /// Memory that no file backs, in bytes.
    #[must_use]
    pub fn anonymous_bytes(&self) -> f64 {
        let family = procfs::family(self.pid());
        family
            .into_iter()
            .map(|pid| float(procfs::memory(pid).unwrap_or_default().anonymous))
            .sum()
    }

    /// Stops it in good order.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn stop(self) -> Result<()> {
        let signal = match self.kind {
            Kind::Postgres => Signal::INT,
            Kind::Springhead => Signal::TERM,
        };
        self.process.stop(signal)
    }

    /// Ends it as a crash would: nothing is written any more, recovery is left to the next start.
    ///
    /// # Errors
    /// When it does not end.
    pub fn crash(self) -> Result<()> {
        let signal = match self.kind {
            // PostgreSQL's "immediate" shutdown: SIGKILL would leave its children running.
            Kind::Postgres => Signal::QUIT,
            Kind::Springhead => Signal::KILL,
        };
        self.process.stop(signal)
    }
}

fn is_ready(sql: SocketAddr, http: Option<SocketAddr>) -> bool {
    if TcpStream::connect(sql).is_err() {
        return false;
    }
    let answers =
        Client::connect(sql, "postgres", &[]).and_then(|mut client| client.run("SELECT 1"));
    answers.is_ok() && http.is_none_or(|http| http::get(http, "/readyz").is_ok())
}

/// The same command with every fdatasync of it and its children taking longer by `delay_us`. With -D
/// the tracer is a process aside, and the server keeps the process id that we started.
fn slowed(command: &Command, delay_us: u64) -> Command {
    let mut traced = Command::new("strace");
    traced.args([
        "-D",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=fdatasync",
        "-e",
    ]);
    traced.arg(format!("inject=fdatasync:delay_exit={delay_us}"));
    traced.arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            traced.env(key, value);
        }
    }
    if let Some(directory) = command.get_current_dir() {
        traced.current_dir(directory);
    }
    traced
}

fn build_springhead() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--package", "springhead-server"])
        .status()
        .doing("building Springhead")?;
    if !status.success() {
        return Err(BenchError::Program {
            program: "cargo build --release".to_owned(),
            status: status.to_string(),
            output: String::new(),
        });
    }
    let own = std::env::current_exe().doing("finding the build directory")?;
    let target = own
        .parent()
        .and_then(Path::parent)
        .map(|target| target.join("release/springhead"));
    target.filter(|binary| binary.is_file()).ok_or_else(|| {
        BenchError::Invalid(
            "the build left no springhead binary; give one with --springhead".to_owned(),
        )
    })
}

fn unprivileged_user() -> Result<(u32, u32)> {
    let text = std::fs::read_to_string("/etc/passwd").doing("reading /etc/passwd")?;
    let ids = |name: &str| {
        let line = text
            .lines()
            .find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    ids("postgres")
        .or_else(|| ids("nobody"))
        .ok_or_else(|| BenchError::Invalid("no unprivileged user to run PostgreSQL as".to_owned()))
}
