//! How far sync-engine is from what the machine allows: real daemons, real files, and an application in a process of its own, each
//! compared with plain SQLite or with the least that could do the same, in one run.
//!
//! `tests/measure` builds the daemon in its release form and runs this; `tests/measure --help` tells what can be chosen.

mod application;
mod catch_up;
mod cost;
mod idle;
mod latency;
mod nodes;
mod relay;
mod report;
mod space;
mod throughput;

use std::process::ExitCode;

use report::{Figure, Table};
use system_tests::{Failure, Result, Scene, scenario};

const HELP: &str = "\
Measures sync-engine against plain SQLite in the same run, and prints a table.

  tests/measure [OPTIONS] [MEASURE ...]

Measures (all, if none is named):
  latency      from a commit to the row in the peer's file, and the same by the least that could do it
  throughput   inserts, updates and deletes end to end
  catch-up     a peer that comes back, and one that comes with nothing
  cost         what the application pays
  space        growth of the file, time of attach, bytes on the wire
  idle         100 databases and 4 peers with nothing to do; after load; stopping

Options:
  --rows N     rows of each load (1000000)
  --runs N     runs, of which the median is told (5)
  --json FILE  writes all values there too
";

/// What is measured, and how often.
pub(crate) struct Options {
    pub(crate) rows: u64,
    pub(crate) runs: usize,
    json: Option<String>,
    measures: Vec<String>,
}

/// A measure: its figures, of one run.
type Measure = fn(&Scene, &Options) -> Result<Vec<Figure>>;

const MEASURES: [(&str, Measure); 6] = [
    ("latency", latency::measure),
    ("throughput", throughput::measure),
    ("catch-up", catch_up::measure),
    ("cost", cost::measure),
    ("space", space::measure),
    ("idle", idle::measure),
];

fn main() -> ExitCode {
    // Cargo adds --bench.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let done = match arguments.first().map(String::as_str) {
        Some("application") => application::serve(&arguments[1..]),
        Some("relay") => relay::serve(&arguments[1..]),
        Some("--help" | "-h") => {
            print!("{HELP}");
            Ok(())
        }
        _ => Options::parse(&arguments).and_then(|options| run(&options)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("measure: {failure}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self { rows: 1_000_000, runs: 5, json: None, measures: Vec::new() };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| Failure::new(format!("{argument} needs a value")));
            match argument.as_str() {
                "--rows" => options.rows = value()?.parse()?,
                "--runs" => options.runs = value()?.parse()?,
                "--json" => options.json = Some(value()?.clone()),
                name if MEASURES.iter().any(|(known, _)| *known == name) => options.measures.push(name.to_owned()),
                other => system_tests::fail!("unknown argument {other:?}; --help tells what there is"),
            }
        }
        if options.rows == 0 || options.runs == 0 {
            system_tests::fail!("--rows and --runs are at least 1");
        }
        if options.measures.is_empty() {
            options.measures = MEASURES.iter().map(|(name, _)| (*name).to_owned()).collect();
        }
        Ok(options)
    }
}

fn run(options: &Options) -> Result {
    let mut table = Table::default();
    for run in 1..=options.runs {
        for (name, measure) in MEASURES.iter().filter(|(name, _)| options.measures.iter().any(|wanted| wanted == name))
        {
            eprintln!("run {run} of {}: {name}", options.runs);
            scenario(|scene| {
                table.add(measure(scene, options)?);
                Ok(())
            });
        }
    }
    println!("{}", report::machine());
    println!("{} rows, medians of {} runs\n", options.rows, options.runs);
    print!("{table}");
    if let Some(path) = &options.json {
        std::fs::write(path, table.json())?;
    }
    Ok(())
}
