//! How far sync-engine is from what the machine allows: real daemons, real files, and an application in a process of its own, each
//! compared with plain SQLite or with the least that could do the same, in one run.
//!
//! `tests/measure` builds the daemon in its release form and runs this; `tests/measure --help` tells what can be chosen.

mod application;
mod catch_up;
mod cost;
mod growth;
mod idle;
mod latency;
mod nodes;
mod plots;
mod relay;
mod report;
mod space;
mod throughput;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use report::{Figure, Table};
use system_tests::{Result, Scene, scenario};

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
  growth       what a changed row costs in tables of a hundredth to ten times the rows, in 1 to 200 databases,
               and with 1 to 32 peers; five minutes a run and as many before the first, 8 GB of the temporary folder

Options:
  --rows N        rows of each load (1000000); growth changes a tenth of them, 100 or more
  --runs N        runs, of which the median is told (5)
  --json FILE     writes all values there too
  --plots FOLDER  draws what growth measures there, as growth-table.svg, growth-table-ratio.svg, growth-databases.svg
                  and growth-peers.svg
";

/// What is measured, and how often.
pub(crate) struct Options {
    pub(crate) rows: u64,
    pub(crate) runs: usize,
    json: Option<PathBuf>,
    plots: Option<PathBuf>,
    measures: Vec<&'static str>,
    /// What growth makes once for all runs.
    pub(crate) kept: growth::Kept,
}

/// A measure: its figures, of one run.
type Measure = fn(&Scene, &Options) -> Result<Vec<Figure>>;

const MEASURES: [(&str, Measure); 7] = [
    ("latency", latency::measure),
    ("throughput", throughput::measure),
    ("catch-up", catch_up::measure),
    ("cost", cost::measure),
    ("space", space::measure),
    ("idle", idle::measure),
    ("growth", growth::measure),
];

fn main() -> ExitCode {
    // Cargo adds --bench.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let done = match arguments.first().map(String::as_str) {
        Some("application") => application::serve(&arguments[1..]),
        Some("load") => growth::serve(&arguments[1..]),
        Some("relay") => relay::serve(&arguments[1..]),
        _ if arguments.iter().any(|argument| argument == "--help" || argument == "-h") => {
            print!("{HELP}");
            Ok(())
        }
        _ => match Options::parse(&arguments) {
            Ok(options) => run(&options),
            Err(complaint) => {
                eprintln!("measure: {complaint}");
                return ExitCode::FAILURE;
            }
        },
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
    /// What was asked for, or a line for who asked that says what is wrong with it.
    fn parse(arguments: &[String]) -> std::result::Result<Self, String> {
        let mut options = Self {
            rows: 1_000_000,
            runs: 5,
            json: None,
            plots: None,
            measures: Vec::new(),
            kept: growth::Kept::default(),
        };
        // Cargo runs this in the package's folder.
        let folder = PathBuf::from(std::env::var_os("MEASURE_CALLED_IN").unwrap_or_default());
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = |what: &str| {
                let value = arguments.next().filter(|value| !value.starts_with("--"));
                value.ok_or_else(|| format!("{argument} stands alone; write {what} after it"))
            };
            match argument.as_str() {
                "--rows" => options.rows = count(argument, value("a number of rows, such as 1000000,")?)?,
                "--runs" => options.runs = count(argument, value("a number of runs, such as 5,")?)?,
                "--json" => options.json = Some(folder.join(value("a file")?)),
                "--plots" => options.plots = Some(folder.join(value("a folder")?)),
                name => match MEASURES.iter().find(|(known, _)| *known == name) {
                    Some((known, _)) => options.measures.push(known),
                    None => return Err(unknown(name)),
                },
            }
        }
        if options.measures.is_empty() {
            options.measures = MEASURES.map(|(name, _)| name).into();
        }
        options.check_outputs()?;
        Ok(options)
    }

    /// Hours of measuring are not to end with a file that cannot be written.
    fn check_outputs(&self) -> std::result::Result<(), String> {
        if let Some(file) = &self.json {
            let opened = std::fs::OpenOptions::new().append(true).create(true).open(file);
            opened
                .map_err(|error| format!("--json: {} cannot be written: {error}; name another file", file.display()))?;
        }
        if let Some(folder) = &self.plots {
            if !self.measures.contains(&"growth") {
                return Err("--plots draws what growth measures, which is not asked for; add growth".to_owned());
            }
            let made = std::fs::create_dir_all(folder).and_then(|()| tempfile::tempfile_in(folder));
            made.map_err(|error| {
                format!("--plots: {} cannot be written to: {error}; name another folder", folder.display())
            })?;
        }
        Ok(())
    }
}

/// A number of something of which there is at least one.
fn count<N: TryFrom<u64>>(option: &str, text: &str) -> std::result::Result<N, String> {
    let number = text.parse().ok().filter(|number: &u64| *number > 0).and_then(|number| number.try_into().ok());
    number
        .ok_or_else(|| format!("{option} is {text:?}, and has to be a whole number of at least 1; write it in digits"))
}

fn unknown(argument: &str) -> String {
    let measures = MEASURES.map(|(name, _)| name).join(", ");
    let what = if argument.starts_with('-') { "an option" } else { "a measure" };
    format!("{argument:?} is not {what} that there is; measures are {measures}, and --help tells the options")
}

fn run(options: &Options) -> Result {
    let mut table = Table::default();
    for run in 1..=options.runs {
        for (name, measure) in MEASURES.iter().filter(|(name, _)| options.measures.contains(name)) {
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
    if let Some(file) = &options.json {
        std::fs::write(file, table.json())?;
    }
    if let Some(folder) = &options.plots {
        draw(folder, options, &table)?;
    }
    Ok(())
}

fn draw(folder: &Path, options: &Options, table: &Table) -> Result {
    for (file, plot) in growth::plots(options, table) {
        plot.draw(&folder.join(file))?;
    }
    Ok(())
}
