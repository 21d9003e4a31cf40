//! The `springhead` program. Parses the command line and, alone, chooses the log's backend.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use springhead_log::disk::RealDisk;
use springhead_log::segment::{SegmentConfig, SegmentLog};
use springhead_log::{Log, LogError, SystemClock};
use springhead_proto::Lsn;
use springhead_server::Config;
use springhead_server::cli::{self, Cli, Progress};

fn main() -> ExitCode {
    cli::run(Cli::parse(), Box::new(open_log)).into()
}

fn open_log(
    dir: &Path,
    config: &Config,
    known_durable: Lsn,
    follows: bool,
) -> Result<Arc<dyn Log>, LogError> {
    let progress = Progress::new("recovering the log");
    let log = SegmentLog::open_on(
        Arc::new(RealDisk),
        dir,
        SegmentConfig {
            known_durable,
            follows,
            ..config.segment_log()
        },
        Arc::new(SystemClock),
        &progress,
    )?;
    Ok(Arc::new(log))
}
