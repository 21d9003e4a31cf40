//! The command line. Each command has a file; [`run`] picks one and turns what came of it into an
//! exit code. Output is for people by default and JSON with `--json`; errors go to standard error.

mod backup;
mod device;
mod dlq;
mod http_client;
mod live;
mod live_screen;
mod log;
mod pg_client;
mod progress;
mod serve;
mod settings;
mod sql;
mod standby;
mod status;
mod table;
mod tail;
mod tenant;
mod tls;
mod user;
mod witness;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use springhead_log::LogError;

use crate::config::{Config, ConfigError};
use crate::lock::DataDirError;
use crate::node::NodeError;
use crate::standby::life::OpenLog;

pub use progress::Progress;

const EXIT_CODES: &str = "\
Exit codes:
  0  done (for serve: told to stop, and stopped in order)
  1  failed: a statement was refused, the server answered with an error, an I/O error
  2  wrong usage or configuration
  3  the server cannot be reached, or the connection was lost
  4  the data directory is in use by another process
  5  damage was found in the log or in the state
  6  a write or flush of the log failed; the outcome of the last commits is decided at the next start";

/// The same for the documentation.
pub(crate) const EXIT_CODES_MARKDOWN: &str = "
## Exit codes

| code | meaning |
| --- | --- |
| 0 | done (for `serve`: told to stop, and stopped in order) |
| 1 | failed: a statement was refused, the server answered with an error, an I/O error |
| 2 | wrong usage or configuration |
| 3 | the server cannot be reached, or the connection was lost |
| 4 | the data directory is in use by another process |
| 5 | damage was found in the log or in the state |
| 6 | a write or flush of the log failed; the outcome of the last commits is decided at the next start |
";

/// Springhead: a real-time, local-first database. One durable log is the database; everything else
/// is a tail of it.
#[derive(Debug, Parser)]
#[command(name = "springhead", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts the server
    Serve(serve::ServeArgs),
    /// Starts a witness: the third voter of nodes that fail over by themselves
    Witness(witness::WitnessArgs),
    /// Runs SQL on a running server
    Sql(sql::SqlArgs),
    /// Follows the changes of a collection, or of all
    Tail(tail::TailArgs),
    /// Shows a SELECT's result and keeps it current
    Live(live::LiveArgs),
    /// Looks at the log of a server that is not running
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Lists, creates and drops tenants (databases) of a running server
    #[command(subcommand)]
    Tenant(tenant::TenantCommand),
    /// Lists, creates and drops users of a running server
    #[command(subcommand)]
    User(user::UserCommand),
    /// Lists, creates and revokes API tokens of a running server
    #[command(subcommand)]
    Token(user::TokenCommand),
    /// A device in a directory: works with no server, exchanges its changes with one
    #[command(subcommand)]
    Device(device::DeviceCommand),
    /// Looks after rejected mutations of devices: lists, shows, retries, resolves
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    /// Backs up a running server, or a data directory; verifies backups
    Backup(backup::BackupArgs),
    /// Makes a data directory of a backup, as it was at an LSN or a time
    Restore(backup::RestoreArgs),
    /// Shows what a running server is doing
    Status(status::StatusArgs),
    /// Makes a running standby the primary
    Promote(standby::PromoteArgs),
    /// Lists the standbys of a running primary, shows who leads, hands over to one, forgets one
    #[command(subcommand)]
    Standby(standby::StandbyCommand),
}

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done,
    Failed,
    Usage,
    Unreachable,
    InUse,
    Damaged,
    Poisoned,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0_u8,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Unreachable => 3,
            Exit::InUse => 4,
            Exit::Damaged => 5,
            Exit::Poisoned => 6,
        })
    }
}

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    Unreachable(String),
    #[error("{0}")]
    Damaged(String),
    #[error("standard output: {0}")]
    Output(std::io::Error),
}

impl CliError {
    fn exit(&self) -> Exit {
        match self {
            CliError::Config(_) | CliError::Usage(_) => Exit::Usage,
            CliError::Unreachable(_) => Exit::Unreachable,
            CliError::Damaged(_) => Exit::Damaged,
            // Whoever read our output has closed it: nothing is wrong.
            CliError::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Done,
            CliError::Failed(_) | CliError::Output(_) => Exit::Failed,
            CliError::Node(error) => match error {
                NodeError::DataDir(DataDirError::InUse { .. }) => Exit::InUse,
                NodeError::DataDir(DataDirError::Damaged { .. })
                | NodeError::Log(LogError::Corrupt { .. })
                | NodeError::Engine(springhead_engine::EngineError::Corrupt { .. })
                | NodeError::Engine(springhead_engine::EngineError::Log(LogError::Corrupt {
                    ..
                })) => Exit::Damaged,
                NodeError::Address { .. }
                | NodeError::OpenToTheWorld { .. }
                | NodeError::OpenWitness { .. }
                | NodeError::DataDir(DataDirError::Witness { .. } | DataDirError::Node { .. }) => {
                    Exit::Usage
                }
                NodeError::Poisoned(_) => Exit::Poisoned,
                _ => Exit::Failed,
            },
        }
    }
}

impl From<LogError> for CliError {
    fn from(error: LogError) -> CliError {
        CliError::Node(error.into())
    }
}

impl From<DataDirError> for CliError {
    fn from(error: DataDirError) -> CliError {
        CliError::Node(error.into())
    }
}

/// Runs one command. `open_log` opens the log that `serve` keeps.
#[must_use]
pub fn run(cli: Cli, open_log: Box<OpenLog>) -> Exit {
    let done = match cli.command {
        Command::Serve(args) => serve::run(&args, open_log),
        Command::Witness(args) => witness::run(&args),
        Command::Sql(args) => client(sql::run(args)),
        Command::Tail(args) => client(tail::run(args)),
        Command::Live(args) => client(live::run(args)),
        Command::Log(command) => log::run(&command),
        Command::Tenant(command) => client(tenant::run(command)),
        Command::User(command) => client(user::run_user(command)),
        Command::Token(command) => client(user::run_token(command)),
        Command::Device(command) => on_threads(device::run(command)),
        Command::Dlq(command) => client(dlq::run(command)),
        Command::Backup(args) => backup::run(args),
        Command::Restore(args) => backup::run_restore(args),
        Command::Status(args) => client(status::run(args)),
        Command::Promote(args) => client(standby::promote(args)),
        Command::Standby(command) => client(standby::run(command)),
    };
    match done {
        Ok(()) => Exit::Done,
        Err(error) => {
            let exit = error.exit();
            if exit != Exit::Done {
                eprintln!("springhead: {error}");
            }
            exit
        }
    }
}

/// Runs a command that has an engine in this process.
fn on_threads(command: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("start the runtime: {error}")))?;
    runtime.block_on(command)
}

/// Runs a command that talks to a server.
fn client<T>(command: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("start the runtime: {error}")))?;
    runtime.block_on(command)
}

/// The settings of the environment and the file, for where a local server is.
fn local_config(data_dir: Option<&PathBuf>) -> Result<Config, CliError> {
    let flags: Vec<_> = data_dir
        .map(|dir| ("data_dir".to_owned(), dir.display().to_string()))
        .into_iter()
        .collect();
    Ok(settings::load(&flags, None)?)
}
