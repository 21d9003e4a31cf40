//! `springhead witness`: settings, diagnostics, runtime, and then [`crate::witness::run`].

use std::path::PathBuf;

use super::settings::SettingFlags;
use super::{CliError, EXIT_CODES, serve, settings};

/// The third voter of a cluster that fails over by itself. It has no data; of the settings it takes
/// `data_dir` (a directory of its own), `http` (where nodes reach it), `standby_token`, `tls_certificate`
/// and `tls_key`, `failover_timeout`, `standby_timeout`, `log_level`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct WitnessArgs {
    /// The configuration file; none is looked for
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingFlags,
}

/// Votes until told to stop.
///
/// # Errors
/// [`CliError`].
pub fn run(args: &WitnessArgs) -> Result<(), CliError> {
    let config = settings::load(&args.settings.given, args.config.as_deref())?;
    let runtime = serve::runtime(&config)?;
    let ended = runtime.block_on(crate::witness::run(config));
    runtime.shutdown_background();
    Ok(ended?)
}
