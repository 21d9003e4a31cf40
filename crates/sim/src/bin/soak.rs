//! The crash scenarios, for as long as one likes: `soak [--seed N] [--minutes N] [--scenario NAME]`.
//!
//! Without a seed it takes one after the other from a starting point that it prints; with one it
//! does that one run. `cargo xtask soak` builds the server with its failpoints and calls this.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use springhead_sim::process::default_binary;
use springhead_sim::scenario::{self, Plan, Report};
use springhead_sim::{failpoints, matrix};

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("soak: {error}");
            return ExitCode::FAILURE;
        }
    };
    let binary = default_binary();
    let started = Instant::now();
    let first = options.seed.unwrap_or_else(|| {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::from(now.subsec_nanos()) << 20 | now.as_secs() & 0xf_ffff
    });
    println!("soak: from seed {first} for {:?}", options.time);
    let (mut total, mut runs, mut failures) = (Report::default(), 0_u64, 0_u64);
    for seed in first.. {
        if runs > 0 && (options.seed.is_some() || started.elapsed() > options.time) {
            break;
        }
        runs += 1;
        let (name, plan) = choose(seed, options.scenario.as_deref());
        match scenario::run(&binary, &plan) {
            Ok(report) => {
                println!("soak: seed {seed} {name}: {report}");
                total.add(&report);
            }
            Err(failure) => {
                failures += 1;
                println!("soak: seed {seed} {name}: {failure}");
                println!("soak: again with: cargo xtask soak --seed {seed}");
            }
        }
    }
    println!("soak: {runs} runs, {failures} failed; {total}");
    println!("{} passed, {failures} failed", runs - failures);
    if failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The run of a seed: a third are random kills, the others the failpoints in turn.
fn choose(seed: u64, scenario: Option<&str>) -> (String, Plan) {
    let points = failpoints();
    let turn = usize::try_from(seed % (points.len() as u64 * 3 / 2)).unwrap_or(0);
    let point = match scenario {
        Some("random") => None,
        Some(name) => Some(name),
        None => points.get(turn).map(String::as_str),
    };
    match point {
        Some(point) => {
            let hit = 1 + seed / 97 % if matrix::is_rare(point) { 4 } else { 60 };
            (
                format!("{point} at pass {hit}"),
                matrix::at_failpoint(point, hit, seed),
            )
        }
        None => ("random".to_owned(), matrix::at_random(seed, 12)),
    }
}

struct Options {
    seed: Option<u64>,
    time: Duration,
    scenario: Option<String>,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            seed: None,
            time: Duration::from_secs(600),
            scenario: None,
        };
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number = || {
                value
                    .parse::<u64>()
                    .map_err(|_| format!("{name} needs a number"))
            };
            match name.as_str() {
                "--seed" => options.seed = Some(number()?),
                "--minutes" => options.time = Duration::from_secs(number()? * 60),
                "--scenario" => options.scenario = Some(value),
                _ => return Err(format!("{name} is no option")),
            }
        }
        Ok(options)
    }
}
