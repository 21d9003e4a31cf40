//! Measures Springhead beside PostgreSQL on one machine: `cargo run --release -p bench -- all`.
//!
//! Both servers get their turns one after the other, round by round, with the same clients; the
//! medians of the rounds are reported with their ratio. See `docs/bench.md`.

mod error;
mod http;
mod load;
mod measure;
mod options;
mod plot;
mod poller;
mod procfs;
mod report;
mod rig;
mod stats;
mod systems;
mod wire;

use std::process::ExitCode;

use crate::error::Result;
use crate::options::{Measurement, Options};
use crate::report::Report;
use crate::rig::Rig;
use crate::systems::{Kind, Systems};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    rig::raise_open_files(12_000)?;
    let (rig, guard) = Rig::new(&options.directory)?;
    let systems = Systems::find(&rig, &options)?;
    let mut report = Report::default();
    describe(&systems, &options, &mut report)?;
    let mut failure = None;
    for &measurement in &options.measurements {
        eprintln!("{}:", measurement.name());
        // What was measured before a failure is still worth having.
        if let Err(error) = measure_one(measurement, &systems, &options, &mut report) {
            eprintln!("  {} failed: {error}", measurement.name());
            report.note(format!("{} FAILED: {error}", measurement.name()));
            failure = Some(error);
        }
    }
    report.fact(
        "load average at the end",
        format!("{:.2}", procfs::load_average()),
    );
    report.write(&options.out)?;
    println!("{}", report.markdown());
    println!(
        "written to {}/bench.json, bench.md and bench.svg",
        options.out.display()
    );
    drop(guard);
    failure.map_or(Ok(()), Err)
}

fn measure_one(
    measurement: Measurement,
    systems: &Systems,
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    match measurement {
        Measurement::Log => measure::log::measure(systems, options, report),
        Measurement::Commits => measure::commits::measure(systems, options, report),
        Measurement::Latency => measure::latency::measure(systems, options, report),
        Measurement::Replay => measure::replay::measure(systems, options, report),
        Measurement::Idle => measure::idle::measure(systems, options, report),
        Measurement::Stalled => measure::stalled::measure(systems, options, report),
        Measurement::Recovery => measure::recovery::measure(systems, options, report),
        Measurement::Notify => measure::notify::measure(systems, options, report),
        Measurement::Standby => measure::standby::measure(systems, options, report),
        Measurement::Sync => measure::sync::measure(systems, options, report),
        Measurement::Live => measure::live::measure(systems, options, report),
        Measurement::Amplification => measure::amplification::measure(systems, options, report),
    }
}

fn describe(systems: &Systems, options: &Options, report: &mut Report) -> Result<()> {
    report.fact(
        "machine",
        format!(
            "{}; servers and load generators share it",
            procfs::machine()
        ),
    );
    report.fact(
        "rounds",
        format!(
            "{}, {} s per timed turn, {} changes at rest{}",
            options.rounds,
            options.seconds,
            options.changes(),
            if options.quick { " (--quick)" } else { "" }
        ),
    );
    if options.flush_delay_us > 0 {
        report.fact(
            "flushes",
            format!(
                "each fdatasync of both servers made {} µs slower",
                options.flush_delay_us
            ),
        );
    }
    for kind in systems.kinds() {
        let version = match kind {
            Kind::Postgres => systems
                .rig()
                .output(systems.postgres_program("postgres").arg("--version"))?,
            Kind::Springhead => systems.springhead_version()?,
        };
        report.fact(&kind.to_string(), version.trim());
    }
    if systems.kinds().contains(&Kind::Postgres) {
        report.fact(
            "PostgreSQL's settings",
            "initdb defaults, fsync on; what a measurement changes, its note says",
        );
        report.fact(
            "flush of 8 kB, median",
            format!("{:.3} ms", load::flush_ms(systems.rig())?),
        );
    }
    report.fact(
        "load average at the start",
        format!("{:.2}", procfs::load_average()),
    );
    Ok(())
}
