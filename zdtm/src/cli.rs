//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::cell::Cell;
use crate::engine::{self, Choice};
use crate::entry::Flavor;
use crate::outcome::{Record, Totals};
use crate::progress::{Progress, complain, emit};
use crate::report;
use crate::run::{self, Job, Plan};
use crate::trial::{self, Mode, Order};
use crate::zoo::{self, Named};

/// Runs programs through dump and restore, and checks that they do not notice.
#[derive(Debug, Parser)]
#[command(name = "zdtm", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run entries. Exit code 0: all passed or skipped, 1: failures, 2: usage
    Run(Box<Run>),
    /// Name the entries
    List(List),
    /// Run one trial (the runner's own use)
    #[command(hide = true)]
    ExecOne { order: String, outcome: PathBuf },
    /// Start a target in namespaces of its own (the runner's own use)
    #[command(hide = true)]
    ExecInCell { cell: String, pid_file: PathBuf, words: Vec<String> },
}

#[derive(Debug, Args)]
struct Run {
    /// Names (`static/pipe00`), prefixes (`static/`), globs (`*pipe*`), or files of your own (`./mine.yaml`)
    #[arg(required_unless_present = "all")]
    patterns: Vec<String>,
    /// Run the whole zoo
    #[arg(long, conflicts_with = "patterns")]
    all: bool,
    /// Run in these flavors, as far as the entries have them [default: the first that each entry has]
    #[arg(long, value_name = "FLAVOR", value_delimiter = ',')]
    flavor: Vec<Flavor>,
    /// Test this engine instead of the one built with the runner
    #[arg(long, value_name = "PATH")]
    engine: Option<PathBuf>,
    /// Dump and restore each entry N times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    iters: u32,
    /// Dump without killing, and verify the original
    #[arg(long)]
    leave_running: bool,
    /// Dump nothing: shows whether the entries themselves are right
    #[arg(long, conflicts_with_all = ["leave_running", "engine"])]
    no_dump: bool,
    /// Trials at a time [default: number of processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Time limit for each entry, in seconds
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Write a JUnit report
    #[arg(long, value_name = "FILE")]
    report_junit: Option<PathBuf>,
    /// Write a JSON report
    #[arg(long, value_name = "FILE")]
    report_json: Option<PathBuf>,
    /// Keep the directories of entries that passed, too
    #[arg(long)]
    keep: bool,
    /// Use the entries below DIR
    #[arg(long, value_name = "DIR")]
    zoo: Option<PathBuf>,
    #[command(flatten)]
    later: Later,
}

/// Modes that are planned; naming them says so.
#[derive(Debug, Args)]
struct Later {
    #[arg(long, value_name = "N", hide = true)]
    pre: Option<String>,
    #[arg(long, hide = true)]
    lazy_pages: bool,
    #[arg(long, hide = true)]
    page_server: bool,
    #[arg(long, value_name = "NAME", hide = true)]
    fault: Option<String>,
    #[arg(long, value_name = "N", hide = true)]
    kill_sweep: Option<String>,
    #[arg(long, hide = true)]
    sweep: bool,
}

impl Later {
    fn asked_for(&self) -> Option<&'static str> {
        [
            (self.pre.is_some(), "--pre"),
            (self.lazy_pages, "--lazy-pages"),
            (self.page_server, "--page-server"),
            (self.fault.is_some(), "--fault"),
            (self.kill_sweep.is_some(), "--kill-sweep"),
            (self.sweep, "--sweep"),
        ]
        .into_iter()
        .find_map(|(given, name)| given.then_some(name))
    }
}

#[derive(Debug, Args)]
struct List {
    /// Names, prefixes or globs
    patterns: Vec<String>,
    /// Use the entries below DIR
    #[arg(long, value_name = "DIR")]
    zoo: Option<PathBuf>,
}

/// Parses, calls, and turns the result into an exit code.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(options) => run(&options),
        Command::List(options) => list(&options).map(|()| ExitCode::SUCCESS),
        Command::ExecOne { order, outcome } => exec_one(&order, &outcome).map(|()| ExitCode::SUCCESS),
        Command::ExecInCell { cell, pid_file, words } => {
            exec_in_cell(&cell, &words, &pid_file).map(|()| ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        complain(&format!("{error:#}"));
        ExitCode::from(2)
    })
}

fn exec_one(order: &str, outcome: &std::path::Path) -> Result<()> {
    let order: Order = serde_json::from_str(order).context("the order cannot be read")?;
    let result = trial::carry_out(&order);
    std::fs::write(outcome, serde_json::to_string(&result)?)?;
    Ok(())
}

fn exec_in_cell(cell: &str, words: &[String], pid_file: &std::path::Path) -> Result<()> {
    let cell: Cell = serde_json::from_str(cell).context("the cell cannot be read")?;
    cell.start(words, pid_file)
}

/// Which entries run where.
fn jobs(entries: Vec<Named>, flavors: &[Flavor]) -> Result<Vec<Job>> {
    let first = |named: &Named| named.entry.flavors.first().copied().into_iter().collect::<Vec<_>>();
    let of_entry = |named: Named| {
        let wanted = if flavors.is_empty() { first(&named) } else { flavors.to_vec() };
        let has =
            wanted.into_iter().filter(|flavor| named.entry.flavors.contains(flavor)).collect::<Vec<_>>();
        has.into_iter().map(move |flavor| Job { named: named.clone(), flavor })
    };
    let jobs: Vec<Job> = entries.into_iter().flat_map(of_entry).collect();
    ensure!(!jobs.is_empty(), "none of these entries has that flavor (`zdtm list` tells which they have)");
    Ok(jobs)
}

fn run(options: &Run) -> Result<ExitCode> {
    if let Some(name) = options.later.asked_for() {
        let message = format!("{name} is not supported yet");
        Cli::command().error(ErrorKind::InvalidValue, message).exit();
    }
    let entries = zoo::load(&options.zoo.clone().unwrap_or_else(zoo::built_in))?;
    let entries = if options.all { entries } else { zoo::select(&entries, &options.patterns)? };
    let choice = match &options.engine {
        _ if options.no_dump => Choice::None,
        Some(path) => Choice::Other(path.clone()),
        None => Choice::Own,
    };
    let mode = match (options.no_dump, options.leave_running) {
        (true, _) => Mode::NoDump,
        (_, true) => Mode::LeaveRunning,
        _ => Mode::Restore,
    };
    let entries = jobs(entries, &options.flavor)?;
    let jobs = options.jobs.map_or_else(
        || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
        usize::from,
    );
    let plan = Plan {
        programs: engine::find_programs(&choice)?,
        mode,
        iterations: options.iters,
        jobs,
        timeout: options.timeout,
        keep: options.keep,
        rerun: rerun(options),
    };
    let mut progress = Progress::new();
    let records = run::run(&plan, &entries, &mut progress)?;
    finish(options, &records, &progress)
}

fn finish(options: &Run, records: &[Record], progress: &Progress) -> Result<ExitCode> {
    let totals = Totals::of(records);
    for (path, text) in [
        (&options.report_junit, report::junit as fn(&[Record], Totals) -> String),
        (&options.report_json, report::json),
    ] {
        if let Some(path) = path {
            std::fs::write(path, text(records, totals)).with_context(|| path.display().to_string())?;
        }
    }
    progress.finish(totals);
    Ok(if totals.failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The command that does the same with the entry `NAME`.
fn rerun(options: &Run) -> String {
    let under_cargo = std::env::var_os("CARGO").is_some();
    let own = if under_cargo { "cargo run --bin zdtm -- run NAME" } else { "zdtm run NAME" };
    let mut words = vec![own.to_owned()];
    if let Some(engine) = &options.engine {
        words.push(format!("--engine {}", engine.display()));
    }
    if let Some(zoo) = &options.zoo {
        words.push(format!("--zoo {}", zoo.display()));
    }
    if options.iters != 1 {
        words.push(format!("--iters {}", options.iters));
    }
    if options.leave_running {
        words.push("--leave-running".to_owned());
    }
    if options.no_dump {
        words.push("--no-dump".to_owned());
    }
    words.join(" ")
}

fn list(options: &List) -> Result<()> {
    let entries = zoo::load(&options.zoo.clone().unwrap_or_else(zoo::built_in))?;
    let entries =
        if options.patterns.is_empty() { entries } else { zoo::select(&entries, &options.patterns)? };
    let width = entries.iter().map(|named| named.name.len()).max().unwrap_or(0);
    for named in &entries {
        let flavors: Vec<&str> = named.entry.flavors.iter().map(|flavor| flavor.as_str()).collect();
        let needs: Vec<String> = named.entry.needs.iter().map(ToString::to_string).collect();
        let needs = if needs.is_empty() { String::new() } else { format!(" (needs {})", needs.join(", ")) };
        emit(&format!(
            "{:width$}  {:14}  {:16}  {}{needs}\n",
            named.name,
            zoo::area(&named.name).unwrap_or("-"),
            flavors.join(","),
            named.entry.about.trim(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
