//! The command line.

use std::path::PathBuf;

use crate::error::{BenchError, Result};

pub const USAGE: &str = "\
usage: bench MEASUREMENT… [options]

measurements (all, or any of them):
  log             the log by itself, inside this process
  commits         durable single-row inserts per second by pgbench, and flushes per commit
  latency         commit to subscriber, at fixed commit rates
  replay          a million changes read back from disk
  idle            memory per idle subscriber
  stalled         a subscriber that does not read, and what it costs the writers
  recovery        time to be ready again after a crash, per GiB of log
  amplification   bytes written to disk per byte of user data
  notify          NOTIFY commits per second, with listeners and without
  sync            devices: pushes, merges, latency from one to another, bytes, first sync, coming back after a
                  million changes, memory of idle ones
                  (BENCH_SYNC=TEXT: only the parts whose names have it: pushes, merges, visible, bytes,
                  initial, resume, idle)
  standby         one streaming standby: commits per second at each synchronous_commit, lag, catch-up,
                  promotion, base backup
  live            live queries: commit to message, changes per second, memory per query
                  (BENCH_LIVE=TEXT: only the scenarios whose names have it)

options:
  --rounds N            turns each system gets (default 3)
  --seconds N           length of one timed turn (default 10)
  --quick               one round, short turns, a tenth of the data: to see that it works
  --clients N,N         clients of `commits` (default 1,8,32,64)
  --subscribers N,N     subscribers of `latency` and `notify` (default 1,100,1000)
  --only postgres|springhead
  --flush-delay-us N    makes every fdatasync of the servers that much slower, with strace: to see
                        what a slower disk would show (default 0: the disk as it is)
  --dir DIR             where the data lies while measuring; must be a disk (default: TMPDIR or /tmp)
  --out DIR             where bench.json, bench.md and bench.svg go (default target/bench)
  --springhead FILE     the server's binary (default: built now, in release)
  --postgres-bin DIR    (default /usr/lib/postgresql/15/bin)";

/// One thing to measure; the order here is that of `all`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measurement {
    Log,
    Commits,
    Latency,
    Replay,
    Idle,
    Stalled,
    Recovery,
    Amplification,
    Notify,
    Standby,
    Sync,
    Live,
}

impl Measurement {
    pub const ALL: [Self; 12] = [
        Self::Log,
        Self::Commits,
        Self::Latency,
        Self::Replay,
        Self::Idle,
        Self::Stalled,
        Self::Recovery,
        Self::Amplification,
        Self::Notify,
        Self::Standby,
        Self::Sync,
        Self::Live,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Commits => "commits",
            Self::Latency => "latency",
            Self::Replay => "replay",
            Self::Idle => "idle",
            Self::Stalled => "stalled",
            Self::Recovery => "recovery",
            Self::Amplification => "amplification",
            Self::Notify => "notify",
            Self::Sync => "sync",
            Self::Standby => "standby",
            Self::Live => "live",
        }
    }
}

/// What to do.
#[derive(Debug, Clone)]
pub struct Options {
    pub measurements: Vec<Measurement>,
    pub rounds: usize,
    pub seconds: u64,
    pub quick: bool,
    pub clients: Vec<usize>,
    pub subscribers: Vec<usize>,
    pub postgres: bool,
    pub springhead: bool,
    /// Added to every flush of either server.
    pub flush_delay_us: u64,
    pub directory: PathBuf,
    pub out: PathBuf,
    pub binary: Option<PathBuf>,
    pub postgres_bin: PathBuf,
}

impl Options {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// [`BenchError::Usage`] for what is not understood.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            measurements: Vec::new(),
            rounds: 3,
            seconds: 10,
            quick: false,
            clients: vec![1, 8, 32, 64],
            subscribers: vec![1, 100, 1000],
            postgres: true,
            springhead: true,
            flush_delay_us: 0,
            directory: std::env::temp_dir(),
            out: PathBuf::from("target/bench"),
            binary: None,
            postgres_bin: PathBuf::from("/usr/lib/postgresql/15/bin"),
        };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .ok_or_else(|| BenchError::Usage(format!("{argument} needs a value")))
            };
            match argument.as_str() {
                "--rounds" => options.rounds = positive(&argument, &value()?)?,
                "--seconds" => options.seconds = positive(&argument, &value()?)?,
                "--quick" => options.quick = true,
                "--clients" => options.clients = list(&argument, &value()?)?,
                "--subscribers" => options.subscribers = list(&argument, &value()?)?,
                "--only" => match value()?.as_str() {
                    "postgres" => options.springhead = false,
                    "springhead" => options.postgres = false,
                    other => {
                        return Err(BenchError::Usage(format!(
                            "--only postgres or springhead, not `{other}`"
                        )));
                    }
                },
                "--flush-delay-us" => options.flush_delay_us = positive(&argument, &value()?)?,
                "--dir" => options.directory = value()?.into(),
                "--out" => options.out = value()?.into(),
                "--springhead" => options.binary = Some(value()?.into()),
                "--postgres-bin" => options.postgres_bin = value()?.into(),
                "all" => options.measurements.extend(Measurement::ALL),
                name => match Measurement::ALL
                    .into_iter()
                    .find(|measurement| measurement.name() == name)
                {
                    Some(measurement) => options.measurements.push(measurement),
                    None => return Err(BenchError::Usage(format!("`{name}` is not understood"))),
                },
            }
        }
        if options.measurements.is_empty() {
            return Err(BenchError::Usage("say what to measure".to_owned()));
        }
        options.measurements.sort_unstable();
        options.measurements.dedup();
        if options.quick {
            options.rounds = 1;
            options.seconds = options.seconds.min(3);
        }
        Ok(options)
    }

    /// How many changes the measurements on data at rest use.
    #[must_use]
    pub fn changes(&self) -> u64 {
        if self.quick { 100_000 } else { 1_000_000 }
    }
}

fn positive<T: std::str::FromStr + PartialEq + Default>(option: &str, text: &str) -> Result<T> {
    match text.parse() {
        Ok(number) if number != T::default() => Ok(number),
        _ => Err(BenchError::Usage(format!(
            "{option} needs a number from 1, not `{text}`"
        ))),
    }
}

fn list(option: &str, text: &str) -> Result<Vec<usize>> {
    text.split(',').map(|part| positive(option, part)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn all_is_everything_once() {
        assert_eq!(parse("commits all").unwrap().measurements, Measurement::ALL);
    }

    #[test]
    fn options_are_read_in_any_order() {
        let options = parse("--rounds 5 replay --clients 2,4 --only postgres latency").unwrap();
        assert_eq!(
            options.measurements,
            [Measurement::Latency, Measurement::Replay]
        );
        assert_eq!((options.rounds, options.clients), (5, vec![2, 4]));
        assert!(options.postgres && !options.springhead);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for line in [
            "",
            "everything",
            "all --rounds",
            "all --rounds 0",
            "all --clients 1,,2",
            "all --only mysql",
        ] {
            assert!(matches!(parse(line), Err(BenchError::Usage(_))), "{line}");
        }
    }
}
