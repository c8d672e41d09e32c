//! Running many entries: one process per trial, a few at a time.

use std::collections::VecDeque;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use crate::cell::Cell;
use crate::engine::Programs;
use crate::entry::Flavor;
use crate::need::Need;
use crate::outcome::{Failure, Outcome, Phase, Record, Totals};
use crate::progress::Progress;
use crate::trial::{Mode, Order};
use crate::watch;
use crate::zoo::Named;

/// An entry, and where it is to run.
#[derive(Debug, Clone)]
pub struct Job {
    /// Which.
    pub named: Named,
    /// Where.
    pub flavor: Flavor,
}

/// How a run is done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Engine and workloads.
    pub programs: Programs,
    /// How targets are treated.
    pub mode: Mode,
    /// How many times each is dumped.
    pub iterations: u32,
    /// How many trials at a time.
    pub jobs: usize,
    /// Time limit of a trial in seconds, unless its entry has its own.
    pub timeout: u64,
    /// Keep the directories of trials that passed.
    pub keep: bool,
    /// The command that runs the entry `NAME` again.
    pub rerun: String,
}

/// How much longer than its own limit a trial's process may take before it is killed.
const PATIENCE: Duration = Duration::from_secs(15);

enum Event {
    Started(String),
    Ended(Record),
}

/// Runs the entries and returns a record for each, in their order.
pub fn run(plan: &Plan, entries: &[Job], progress: &mut Progress) -> Result<Vec<Record>> {
    nix::sys::prctl::set_child_subreaper(true)?;
    let scratch = tempfile::Builder::new().prefix("zdtm-").tempdir().context("no temporary directory")?;
    let scratch = scratch.keep();
    open_to_everybody(&scratch)?;
    let mut own = plan.clone();
    let copied = reachable(&mut own.programs.workloads, &scratch)?;
    let plan = &own;
    let queue: Mutex<VecDeque<Job>> = Mutex::new(entries.iter().cloned().collect());
    let (sender, receiver) = mpsc::channel();
    let mut totals = Totals::default();
    let mut records = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.min(entries.len()) {
            let sender = sender.clone();
            scope.spawn(|| work(plan, &scratch, &queue, sender));
        }
        drop(sender);
        for event in receiver {
            match event {
                Event::Started(name) => progress.started(&name, totals.all(), entries.len()),
                Event::Ended(record) => {
                    totals.count(&record.outcome);
                    progress.ended(&record, &plan.rerun, totals, entries.len());
                    records.push(record);
                }
            }
        }
    });
    watch::kill_all_descendants();
    if copied {
        // The folder stays with it, and is no fault of an entry's.
        let _ = std::fs::remove_file(&plan.programs.workloads);
    }
    // It stays if a trial's directory was kept.
    let _ = std::fs::remove_dir(&scratch);
    let is_of = |record: &Record, job: &Job| job.named.name == record.name && job.flavor == record.flavor;
    records.sort_by_key(|record| entries.iter().position(|job| is_of(record, job)));
    Ok(records)
}

/// Copies the workloads to `scratch` if others than us cannot get at them, as in a private folder: whoever is root in a user
/// namespace is somebody else here. Whether it did.
fn reachable(workloads: &mut PathBuf, scratch: &Path) -> Result<bool> {
    let is_private = |path: &Path| path.metadata().is_ok_and(|data| data.permissions().mode() & 0o001 == 0);
    if !workloads.ancestors().any(is_private) {
        return Ok(false);
    }
    let copy = scratch.join("zdtm-workload");
    std::fs::copy(&*workloads, &copy).with_context(|| copy.display().to_string())?;
    *workloads = copy;
    Ok(true)
}

fn work(plan: &Plan, scratch: &Path, queue: &Mutex<VecDeque<Job>>, sender: Sender<Event>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(job) = next else { return };
        // The receiver outlives the workers.
        let _ = sender.send(Event::Started(job.flavor.label(&job.named.name)));
        let start = Instant::now();
        let (outcome, kept) = one(plan, scratch, &job);
        let record = Record {
            about: job.named.entry.about.clone(),
            name: job.named.name,
            flavor: job.flavor,
            seconds: start.elapsed().as_secs_f64(),
            outcome,
            kept,
        };
        let _ = sender.send(Event::Ended(record));
    }
}

fn one(plan: &Plan, scratch: &Path, job: &Job) -> (Outcome, Option<PathBuf>) {
    if let Some(reason) = why_not(job, plan.mode) {
        return (Outcome::Skipped(reason), None);
    }
    let name = job.named.name.replace(|letter: char| !letter.is_alphanumeric() && letter != '-', "_");
    let dir = scratch.join(if job.flavor == Flavor::Host {
        name
    } else {
        format!("{name}-in-{}", job.flavor.as_str())
    });
    let outcome = try_one(plan, &dir, job).unwrap_or_else(|error| runner_failed(format!("{error:#}")));
    let keep = plan.keep || matches!(outcome, Outcome::Failed(_));
    if !keep {
        // A file that cannot be removed is no fault of the entry's.
        let _ = std::fs::remove_dir_all(&dir);
    }
    (outcome, keep.then_some(dir))
}

fn runner_failed(message: String) -> Outcome {
    Outcome::Failed(Failure { phase: Phase::Runner, message })
}

/// Why an entry cannot run here, or in this way.
fn why_not(Job { named, flavor }: &Job, mode: Mode) -> Option<String> {
    if mode != Mode::Restore && named.entry.needs.contains(&Need::Restore) {
        return Some("what it expects, only a restore does".to_owned());
    }
    if *flavor != Flavor::Host && !nix::unistd::geteuid().is_root() {
        return Some(format!("flavor {} needs root", flavor.as_str()));
    }
    let missing: Vec<String> = named.entry.needs.iter().filter_map(Need::missing).collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

fn try_one(plan: &Plan, dir: &Path, Job { named, flavor }: &Job) -> Result<Outcome> {
    std::fs::create_dir(dir).with_context(|| dir.display().to_string())?;
    open_to_everybody(dir)?;
    let order = Order {
        name: named.name.clone(),
        file: named.path.clone(),
        dir: dir.to_owned(),
        cell: Cell::of(*flavor, dir, &named.entry),
        engine: plan.programs.engine.clone(),
        workloads: plan.programs.workloads.clone(),
        mode: plan.mode,
        iterations: plan.iterations,
        timeout: named.entry.timeout.unwrap_or(plan.timeout),
    };
    let outcome_file = dir.with_extension("outcome");
    let errors_file = dir.with_extension("runner");
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("exec-one").arg(serde_json::to_string(&order)?).arg(&outcome_file);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&errors_file)?);
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
    unsafe { command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?)) };
    let mut child = command.spawn()?;
    let ended = wait(&mut child, Duration::from_secs(order.timeout) + PATIENCE)?;
    order.cell.iter().for_each(Cell::remove);
    let outcome = if let Ok(text) = std::fs::read(&outcome_file) {
        serde_json::from_slice(&text)?
    } else {
        let said = std::fs::read_to_string(&errors_file).unwrap_or_default();
        runner_failed(format!("the trial's process {ended} without an outcome\n{}", said.trim()))
    };
    let _ = std::fs::remove_file(outcome_file);
    let _ = std::fs::remove_file(errors_file);
    Ok(outcome)
}

/// Waits for a trial's process, which watches its own time; killing it is the last resort.
fn wait(child: &mut Child, limit: Duration) -> Result<String> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(format!("ended with {status}"));
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            return Ok("did not end and was killed".to_owned());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Workloads that change their user still write into their directory.
fn open_to_everybody(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777))
        .with_context(|| dir.display().to_string())
}
