//! One entry, from start to leftovers, in a process of its own.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::cell::{self, Cell};
use crate::engine::{self, Place};
use crate::entry::{self, Entry, Exclusive, Expect, Moves, Stop};
use crate::need;
use crate::outcome::{Failure, Outcome, Phase};
use crate::probe;
use crate::procfs;
use crate::snapshot::{Scope, Snapshot, differences, pss};
use crate::target::{self, Values};
use crate::watch::{Exit, Watch, kill_all_descendants};

/// How a target is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Dumped, and restored.
    Restore,
    /// Dumped, and left running.
    LeaveRunning,
    /// Not dumped at all: shows whether the entry itself is right.
    NoDump,
}

/// What the runner tells a trial.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// The entry's name.
    pub name: String,
    /// Its file.
    pub file: PathBuf,
    /// A fresh directory.
    pub dir: PathBuf,
    /// Where it runs, if that is not the host.
    pub cell: Option<Cell>,
    /// The engine; none in mode `NoDump`.
    pub engine: Option<PathBuf>,
    /// The workloads' executable.
    pub workloads: PathBuf,
    /// How the target is treated.
    pub mode: Mode,
    /// How many times.
    pub iterations: u32,
    /// Time limit in seconds.
    pub timeout: u64,
}

/// How long killed tasks may take to vanish, and leftovers to end by themselves.
const GRACE: Duration = Duration::from_secs(2);
/// How far apart two looks at a program are that should agree.
const SETTLING: Duration = Duration::from_millis(30);
/// How long a step of a workload or a program may take.
const STEP: Duration = Duration::from_mins(10);

/// Carries out an order; whatever happens, nothing of the tree is left.
pub fn carry_out(order: &Order) -> Outcome {
    let mut phase = Phase::Runner;
    let result = entry::load(&order.file).and_then(|entry| {
        match &order.cell {
            Some(cell) => cell.prepare()?,
            None if entry.own_mounts => cell::prepare_host(&order.dir, entry.outside)?,
            None => {}
        }
        let _alone = wait_until_alone(&entry.exclusive)?;
        let watch = Watch::start(Duration::from_secs(order.timeout))?;
        let port = target::free_port()?;
        let here = order.file.parent().unwrap_or(Path::new("/")).to_owned();
        let values = Values { port, dir: order.dir.clone(), name: order.name.clone(), here };
        let cleanup: Vec<Vec<String>> = entry.cleanup.iter().map(|words| values.expand_all(words)).collect();
        let done =
            Trial { order, entry: &entry, values, watch, phase: &mut phase, root: 0, peer: None }.run();
        kill_all_descendants();
        done.and(clean_up(&cleanup))
    });
    kill_all_descendants();
    match result {
        Ok(()) => Outcome::Passed,
        Err(error) => Outcome::Failed(Failure { phase, message: format!("{error:#}") }),
    }
}

/// Runs the last commands of an entry, even where the first fail.
fn clean_up(commands: &[Vec<String>]) -> Result<()> {
    let run = |words: &Vec<String>| {
        let (program, args) = words.split_first().context("an empty command")?;
        let output = std::process::Command::new(program).args(args).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{}` {}: {said}", words.join(" "), output.status);
        Ok(())
    };
    let results: Vec<Result<()>> = commands.iter().map(run).collect();
    results.into_iter().collect()
}

/// Waits until no other trial, of any runner on this machine, has what there is only once; it is ours as long as the files
/// are open.
fn wait_until_alone(things: &[Exclusive]) -> Result<Vec<File>> {
    // In the same order for all, so that nobody waits in a circle.
    let things: BTreeSet<Exclusive> = things.iter().copied().collect();
    let lock = |thing: Exclusive| {
        let path = std::env::temp_dir().join(format!("zdtm-{thing:?}.lock"));
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        file.lock().with_context(|| format!("lock {}", path.display()))?;
        Ok(file)
    };
    things.into_iter().map(lock).collect()
}

struct Trial<'a> {
    order: &'a Order,
    entry: &'a Entry,
    values: Values,
    watch: Watch,
    phase: &'a mut Phase,
    root: i32,
    /// The workload that runs outside of the target.
    peer: Option<i32>,
}

impl Trial<'_> {
    fn run(mut self) -> Result<()> {
        self.start()?;
        for round in 1..=self.order.iterations {
            match (self.order.mode, &self.entry.expect) {
                (Mode::NoDump, _) => self.only_look()?,
                (_, Expect::Refused(part)) => self.refused(round, part)?,
                (Mode::LeaveRunning, Expect::Pass) => self.dump_running(round)?,
                (Mode::Restore, Expect::Pass) => self.dump_and_restore(round)?,
            }
        }
        if self.entry.workload.is_some() {
            self.verify_workload()?;
        } else {
            self.verify_command()?;
        }
        self.leaks()
    }

    fn enter(&mut self, phase: Phase) {
        *self.phase = phase;
    }

    fn start(&mut self) -> Result<()> {
        let entry = self.entry;
        let dir = &self.order.dir;
        if let Some(workload) = &entry.workload {
            *self.phase = Phase::Start;
            self.start_peer()?;
            let mut words = vec![self.order.workloads.display().to_string(), workload.clone()];
            words.extend(self.values.expand_all(&entry.args));
            self.root = match &self.order.cell {
                None => target::start(&words, dir, &entry.env, WORKLOAD_LOG)?,
                Some(cell) => self.start_in(cell, &words)?,
            };
            self.enter(Phase::Ready);
            return self.workload_ready();
        }
        *self.phase = Phase::Setup;
        for (name, contents) in &entry.files {
            let path = dir.join(name);
            std::fs::write(&path, self.values.expand(contents))
                .with_context(|| path.display().to_string())?;
        }
        for words in &entry.setup {
            probe::setup(&mut self.watch, &self.values.expand_all(words), &self.values)?;
        }
        *self.phase = Phase::Start;
        let command = self.values.expand_all(entry.command.as_deref().unwrap_or_default());
        let env = entry.env.iter().map(|(name, text)| (name.clone(), self.values.expand(text))).collect();
        self.root = target::start(&command, dir, &env, OUTPUT_LOG)?;
        if let Some(file) = &entry.init {
            let exit = self.watch.wait_exit(self.root, "the init is started")?;
            ensure!(exit == Exit::Code(0), "the command {exit} (its output is in {OUTPUT_LOG})");
            self.root =
                std::fs::read_to_string(dir.join(file))?.trim().parse().context("no pid of an init")?;
        }
        *self.phase = Phase::Ready;
        probe::wait_ready(&mut self.watch, entry.ready.as_ref(), self.root, &self.values)?;
        *self.phase = Phase::Before;
        for probe in &entry.before {
            probe::check(&mut self.watch, probe, &self.values)?;
        }
        Ok(())
    }

    fn start_peer(&mut self) -> Result<()> {
        let Some(peer) = &self.entry.peer else { return Ok(()) };
        let mut words = vec![self.order.workloads.display().to_string(), "--peer".to_owned()];
        words.extend(self.values.expand_all(peer));
        self.peer = Some(target::start(&words, &self.order.dir, &self.entry.env, PEER_LOG)?);
        Ok(())
    }

    /// Starts the workload below the init of its own pid namespace; the init's pid.
    fn start_in(&mut self, cell: &Cell, words: &[String]) -> Result<i32> {
        let pid_file = self.order.dir.with_extension("init");
        let runner = std::env::current_exe()?.display().to_string();
        let cell = serde_json::to_string(cell)?;
        let mut all =
            vec![runner, "exec-in-cell".to_owned(), cell, pid_file.display().to_string(), "--".to_owned()];
        let (program, args) = words.split_first().context("an empty command")?;
        all.extend([program.clone(), "--init".to_owned()]);
        all.extend_from_slice(args);
        // Root of a user namespace is nobody's root here.
        let log = target::append(&self.order.dir.join(WORKLOAD_LOG))?;
        log.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
        let starter = target::start(&all, &self.order.dir, &self.entry.env, WORKLOAD_LOG)?;
        let exit = self.watch.wait_exit(starter, "the target is started")?;
        ensure!(exit == Exit::Code(0), "the target was not started: {}", self.words_of_workload());
        let init = std::fs::read_to_string(&pid_file)?.trim().parse().context("no pid of an init")?;
        std::fs::remove_file(pid_file)?;
        self.order.cell.iter().try_for_each(|cell| cell.connect(init))?;
        Ok(init)
    }

    /// The root's own look at its tree.
    fn snapshot(&self) -> Result<Snapshot> {
        let scope = Scope::of(self.entry);
        if self.is_inside() {
            Snapshot::take_inside(self.root, scope)
        } else {
            Snapshot::take(self.root, scope)
        }
    }

    /// Whether the root is the init of a pid namespace.
    fn is_inside(&self) -> bool {
        self.order.cell.is_some() || self.entry.init.is_some()
    }

    fn workload_ready(&mut self) -> Result<()> {
        let ready = self.order.dir.join("ready.1");
        let root = self.root;
        let ended = self.watch.until("the workload reaches its barrier", STEP, |watch| {
            Ok(watch.take_exit(root).map(Some).or_else(|| ready.exists().then_some(None)))
        })?;
        match ended {
            None => Ok(()),
            Some(exit) => bail!("the workload {exit} before its barrier: {}", self.words_of_workload()),
        }
    }

    fn look(&mut self) -> Result<Snapshot> {
        self.enter(Phase::Snapshot);
        if let Some(exit) = self.watch.take_exit(self.root) {
            bail!("the target {exit} on its own");
        }
        let first = self.snapshot()?;
        if self.entry.workload.is_some() { Ok(first) } else { self.settled(first) }
    }

    /// A program may still be busy with what a probe asked: looks until two looks agree, or patience ends.
    fn settled(&mut self, mut last: Snapshot) -> Result<Snapshot> {
        let end = Instant::now() + GRACE;
        let (root, scope, is_inside) = (self.root, Scope::of(self.entry), self.is_inside());
        self.watch.until("the program settles", STEP, |_| {
            std::thread::sleep(SETTLING);
            let next =
                if is_inside { Snapshot::take_inside(root, scope)? } else { Snapshot::take(root, scope)? };
            let agree = differences(&last, &next).is_empty();
            last = next;
            Ok((agree || Instant::now() >= end).then(|| last.clone()))
        })
    }

    fn compare(&mut self, before: &Snapshot, after: &Snapshot) -> Result<()> {
        const MOST: usize = 20;
        self.enter(Phase::Compare);
        let lines = differences(before, after);
        if lines.is_empty() {
            return Ok(());
        }
        let shown = lines[..lines.len().min(MOST)].join("\n");
        match lines.len().saturating_sub(MOST) {
            0 => bail!("the outside sees differences\n{shown}"),
            hidden => bail!("the outside sees differences\n{shown}\nand {hidden} more"),
        }
    }

    /// A tree takes up no more memory than it did, where it is known what it does meanwhile.
    fn compare_memory(&mut self, before: u64, after: &Snapshot) -> Result<()> {
        let is_busy =
            self.entry.moves.iter().any(|part| matches!(part, Moves::Maps | Moves::Tasks | Moves::Memory));
        if is_busy || self.entry.workload.is_none() {
            return Ok(());
        }
        let now = pss::of(&after.members);
        let tasks = after.members.len();
        ensure!(
            !pss::is_more(before, now, tasks),
            "the tree of {tasks} tasks takes up {now} kB of memory, and took up {before} kB (Pss)"
        );
        Ok(())
    }

    /// Without a dump nothing may change either: shows that the comparison is steady.
    fn only_look(&mut self) -> Result<()> {
        let before = self.look()?;
        let after = self.look()?;
        self.compare(&before, &after)
    }

    fn engine(&self) -> Result<&Path> {
        self.order.engine.as_deref().context("no engine")
    }

    fn options(&self, only: &[String]) -> Vec<String> {
        self.values.expand_all(&self.entry.options).into_iter().chain(self.values.expand_all(only)).collect()
    }

    fn dump(&mut self, place: &Place, extra: &[String]) -> Result<engine::Call> {
        self.enter(Phase::Dump);
        let engine = self.engine()?.to_owned();
        let mut options = self.options(&self.entry.dump_options);
        options.extend_from_slice(extra);
        engine::dump(&mut self.watch, &engine, self.root, place, &options)
    }

    /// A failed dump must leave the target as it was; where it does not, that is said, too.
    fn dump_succeeded(&mut self, call: &engine::Call, before: &Snapshot) -> Result<()> {
        if call.succeeded() {
            return Ok(());
        }
        let state = match self.look().and_then(|after| self.compare(before, &after)) {
            Ok(()) => "the target runs on, unchanged".to_owned(),
            Err(error) => format!("the failed dump harmed the target: {error:#}"),
        };
        self.enter(Phase::Dump);
        bail!("dump {}\n{}\n{state}", call.exit, call.errors.join("\n"))
    }

    /// A failed restore must leave nothing behind; where it does, that is said, too.
    fn restore_succeeded(&mut self, call: &engine::Call) -> Result<()> {
        if call.succeeded() {
            return Ok(());
        }
        let nothing_left = self.nothing_left();
        let state = match nothing_left {
            Ok(()) => "nothing half-restored is left".to_owned(),
            Err(error) => format!("the failed restore left processes: {error:#}"),
        };
        bail!("restore {}\n{}\n{state}", call.exit, call.errors.join("\n"))
    }

    fn dump_running(&mut self, round: u32) -> Result<()> {
        let place = Place::create(&self.order.dir, round)?;
        let before = self.look()?;
        let memory = pss::of(&before.members);
        let call = self.dump(&place, &["-R".to_owned()])?;
        self.dump_succeeded(&call, &before)?;
        let after = self.look()?;
        self.compare(&before, &after)?;
        self.compare_memory(memory, &after)
    }

    fn refused(&mut self, round: u32, part: &str) -> Result<()> {
        let place = Place::create(&self.order.dir, round)?;
        let before = self.look()?;
        let call = self.dump(&place, &[])?;
        ensure!(!call.succeeded(), "the dump succeeded, but should be refused with {part:?}");
        if !call.text.contains(part) {
            bail!("the dump should be refused with {part:?}\n{}", call.errors.join("\n"));
        }
        ensure!(!place.images.join("inventory.img").exists(), "a refused dump left inventory.img");
        let after = self.look()?;
        self.compare(&before, &after)
    }

    fn dump_and_restore(&mut self, round: u32) -> Result<()> {
        let place = Place::create(&self.order.dir, round)?;
        let before = self.look()?;
        let memory = pss::of(&before.members);
        let call = self.dump(&place, &[])?;
        self.dump_succeeded(&call, &before)?;
        self.enter(Phase::Gone);
        let mut left = Vec::new();
        let gone = self.watch.until("every dumped task is gone", GRACE, |_| {
            left = before.still_there();
            Ok(left.is_empty().then_some(()))
        });
        gone.with_context(|| format!("still there: {left:?}"))?;
        self.watch.forget(self.root);
        for words in &self.entry.between {
            probe::setup(&mut self.watch, &self.values.expand_all(words), &self.values)?;
        }
        self.enter(Phase::Restore);
        let engine = self.engine()?.to_owned();
        let mut options = self.options(&self.entry.restore_options);
        if let Some(cell) = &self.order.cell {
            options.extend(["--root".to_owned(), cell.root.display().to_string()]);
        }
        let (call, pid) = engine::restore(&mut self.watch, &engine, &place, &options)?;
        self.restore_succeeded(&call)?;
        let pid = pid.context("restore wrote no pid file")?;
        if self.is_inside() {
            // Its pid inside is what counts, and that is compared.
            self.root = pid;
        }
        ensure!(pid == self.root, "the root task was {}, the restored one is {pid}", self.root);
        let after = self.look()?;
        let parent = procfs::stat(self.root).map(|stat| stat.ppid());
        ensure!(
            parent == Some(procfs::own_pid()),
            "the restored root is not the runner's child, but that of {parent:?}"
        );
        self.compare(&before, &after)?;
        self.compare_memory(memory, &after)
    }

    fn words_of_workload(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.order.dir.join(name)).unwrap_or_default();
        let words = format!("{} {}", read("result").trim(), read(WORKLOAD_LOG).trim());
        if words.trim().is_empty() { "it said nothing".to_owned() } else { words.trim().to_owned() }
    }

    /// Opens every barrier until the workload ends, then reads what it thinks of itself.
    fn verify_workload(&mut self) -> Result<()> {
        self.enter(Phase::Verify);
        let dir = self.order.dir.clone();
        let root = self.root;
        let mut barrier = 1;
        let exit = self.watch.until("the workload verifies itself", STEP, |watch| {
            while dir.join(format!("ready.{barrier}")).exists() {
                std::fs::write(dir.join(format!("go.{barrier}")), "")?;
                barrier += 1;
            }
            Ok(watch.take_exit(root))
        })?;
        let result = std::fs::read_to_string(dir.join("result")).unwrap_or_default();
        if exit != Exit::Code(0) || result.trim() != "pass" {
            bail!("the workload {exit}: {}", self.words_of_workload());
        }
        let Some(peer) = self.peer else { return Ok(()) };
        let exit = self.watch.wait_exit(peer, "the peer ends")?;
        ensure!(exit == Exit::Code(0), "the peer {exit} (its output is in {PEER_LOG})");
        Ok(())
    }

    fn verify_command(&mut self) -> Result<()> {
        self.enter(Phase::Verify);
        if let Some(exit) = self.watch.take_exit(self.root) {
            bail!("the program {exit} on its own (its output is in {OUTPUT_LOG})");
        }
        for probe in &self.entry.after {
            probe::check(&mut self.watch, probe, &self.values)?;
        }
        self.enter(Phase::Stop);
        let signal = match self.entry.stop.unwrap_or_default() {
            Stop::SigTerm => Signal::SIGTERM,
            Stop::SigInt => Signal::SIGINT,
            Stop::SigQuit => Signal::SIGQUIT,
            Stop::SigKill => Signal::SIGKILL,
        };
        kill(Pid::from_raw(self.root), signal).context("the program is gone")?;
        let root = self.root;
        let what = format!("the program ends after {signal}");
        self.watch.until(&what, Duration::from_secs(10), |watch| Ok(watch.take_exit(root)))?;
        Ok(())
    }

    fn nothing_left(&mut self) -> Result<()> {
        let mut left = Vec::new();
        let peer = self.peer;
        let empty = self.watch.until("no process is left", GRACE, |_| {
            left = procfs::descendants(procfs::own_pid());
            left.retain(|pid| Some(*pid) != peer);
            Ok(left.is_empty().then_some(()))
        });
        empty.with_context(|| {
            let names: Vec<String> = left
                .iter()
                .map(|pid| {
                    format!("{pid} ({})", procfs::stat(*pid).map(|stat| stat.comm).unwrap_or_default())
                })
                .collect();
            format!("left behind: {}", names.join(", "))
        })
    }

    /// Whether the engine left rules of its own in the machine's firewall: their names have the root's pid.
    fn no_lock_left(&mut self) -> Result<()> {
        let name = format!("stasis-{}-", self.root);
        for (program, words) in
            [("nft", &["list", "tables"][..]), ("iptables", &["-S"]), ("ip6tables", &["-S"])]
        {
            let Some(program) = need::find_program(program) else { continue };
            let output = std::process::Command::new(&program).args(words).output();
            let output = output.with_context(|| program.display().to_string())?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if let Some(rule) = text.lines().find(|line| line.contains(&name)) {
                bail!("a firewall rule was left behind: {rule}");
            }
        }
        Ok(())
    }

    fn leaks(&mut self) -> Result<()> {
        self.enter(Phase::Leaks);
        self.nothing_left()?;
        let dir = self.order.dir.display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        // What is outside is ours, and ends with us.
        let outside = format!("{dir}/outside");
        // Another entry's directory may begin like this one's.
        let is_here = |line: &&str| [' ', '/'].iter().any(|end| line.contains(&format!("{dir}{end}")));
        if let Some(mount) = mounts.lines().find(|line| is_here(line) && !line.contains(&outside)) {
            bail!("a mount was left behind: {mount}");
        }
        self.no_lock_left()?;
        for folder in [self.order.dir.join("engine-tmp"), self.order.dir.clone()] {
            for item in folder.read_dir().into_iter().flatten() {
                let name = item?.file_name().to_string_lossy().into_owned();
                let is_ours = folder == self.order.dir && !name.starts_with("link_remap");
                ensure!(is_ours, "a temporary file was left behind: {}", folder.join(name).display());
            }
        }
        Ok(())
    }
}

const WORKLOAD_LOG: &str = "workload.log";
const PEER_LOG: &str = "peer.log";
const OUTPUT_LOG: &str = "output.log";
