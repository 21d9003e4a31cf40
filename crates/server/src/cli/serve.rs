//! `springhead serve`: settings, diagnostics, runtime, and then [`crate::node::run`].

use std::io::IsTerminal;
use std::path::PathBuf;

use tracing_subscriber::EnvFilter;

use super::settings::SettingFlags;
use super::{CliError, EXIT_CODES, settings};
use crate::config::Config;
use crate::node;
use crate::standby::life::OpenLog;

#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct ServeArgs {
    /// The configuration file [default: springhead.toml, if it is there]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Prints the settings in force as a configuration file, and exits
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

/// Serves until told to stop.
///
/// # Errors
/// [`CliError`].
pub fn run(args: &ServeArgs, open_log: Box<OpenLog>) -> Result<(), CliError> {
    let file = args
        .config
        .clone()
        .or_else(|| std::env::var_os("SPRINGHEAD_CONFIG").map(PathBuf::from));
    let config = settings::load(&args.settings.given, file.as_deref())?;
    if args.print_config {
        print!("{}", config.to_toml());
        return Ok(());
    }
    let runtime = runtime(&config)?;
    let ended = runtime.block_on(node::run(config, open_log.into()));
    // What is still blocked on a disk must not hold up the end.
    runtime.shutdown_background();
    Ok(ended?)
}

/// Diagnostics on standard error, and the threads that serve sockets.
///
/// # Errors
/// For a bad `log_level`, or what the operating system says.
pub(super) fn runtime(config: &Config) -> Result<tokio::runtime::Runtime, CliError> {
    let filter = EnvFilter::try_new(&config.log_level).map_err(|error| {
        CliError::Usage(format!("log_level = \"{}\": {error}", config.log_level))
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if config.network_threads > 0 {
        runtime.worker_threads(config.network_threads);
    }
    runtime
        .enable_all()
        .thread_name("net")
        .build()
        .map_err(|error| CliError::Failed(format!("start the runtime: {error}")))
}
