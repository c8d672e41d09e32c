//! Contents of memory: the last and longest part of a dump.
//!
//! A tree that is to run on need not wait for it: a fork inside each large task gives a copy of its private memory, the
//! tree is let go, and the copies are written. What a fork does not give (`MADV_DONTFORK`, `MADV_WIPEONFORK`, hugetlb
//! pages, which a fork may lose) is written while the tree is stopped; shared memory is, too, by its kinds.
//!
//! Tasks that have little are not worth a copy. Their memory is written while all are asked about themselves: the one thread that
//! ptrace answers to has no time for it, and nothing of the agents is needed.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use proto::messages::StasisMmEntry;

use super::inspect::TaskFacts;
use super::pages_file::{self, ForkedMemory, Source};
use super::task::TaskImages;
use crate::checksum::FileSums;
use crate::error::{Context as _, Problem, SysError, TaskName};
use crate::image::NewImages;
use crate::kinds::mm::{self, Contents, extra, pages, uprobes};
use crate::options::{Afterwards, DumpOptions};
use crate::procfs::smaps::{SmapsVma, VmFlag};
use crate::progress::Progress;
use crate::room;
use crate::side_by_side;
use crate::stats::DumpStats;
use crate::supervise::Lifeline;
use crate::tracee::agent::Agent;
use crate::tracee::freeze::FrozenTree;
use crate::tracee::snapshot::Snapshot;

/// Memory that is written faster than it is copied.
const SMALL: u64 = 4 << 20;

/// Tasks with little memory that are written side by side, each with a file.
const AT_ONCE: usize = 64;

/// What is there for whoever writes memory.
pub(super) struct Writing<'a> {
    /// Where it goes.
    images: &'a mut NewImages,
    /// What it cost.
    stats: &'a mut DumpStats,
    /// Whether to go on.
    lifeline: &'a Lifeline,
    progress: Progress,
}

/// Copies of tasks that are still to be written, when the tree runs again.
#[derive(Debug, Default)]
pub(super) struct Copies(Vec<Copy>);

/// A task's memory, as far as it is known while the task is stopped.
#[derive(Debug)]
struct Memory {
    name: TaskName,
    /// Its pid in images.
    pid: u64,
    /// Where its own pages may be.
    ranges: Vec<pages::Range>,
    /// About how many bytes they have.
    bytes: u64,
    /// Code in which there may be breakpoints of the kernel.
    probed: Vec<SmapsVma>,
    /// Properties that mappings have.
    extra: StasisMmEntry,
    /// Guard regions that were found in it.
    guards: Vec<(u64, u64)>,
}

impl Memory {
    fn of(name: TaskName, pid: u64, facts: &TaskFacts) -> Self {
        Self {
            name,
            pid,
            ranges: ranges(facts, |_| true),
            bytes: estimate(facts),
            probed: uprobes::with_breakpoints(&facts.vmas),
            extra: StasisMmEntry::default(),
            guards: Vec::new(),
        }
    }
}

/// A task's pages, which are still to be written to their file.
struct Prepared<'m> {
    name: TaskName,
    source: ForkedMemory<'m>,
    runs: Vec<pages::Run>,
    file_name: String,
    file: File,
}

/// A task with little memory.
#[derive(Debug)]
pub(super) struct Modest<'a> {
    /// Its place in the tree.
    at: usize,
    name: TaskName,
    /// Its pid in images.
    pid: u64,
    facts: &'a TaskFacts,
}

/// Tasks whose memory is written, by their places in the tree, and the guard regions that were found.
#[derive(Debug, Default)]
pub(super) struct Written(BTreeMap<usize, Vec<(u64, u64)>>);

impl Prepared<'_> {
    /// Writes them; their checksums, if they are wanted.
    fn write(
        &self,
        with_sums: bool,
        told: &mut dyn FnMut(u64) -> Result<(), Problem>,
    ) -> Result<Option<FileSums>, Problem> {
        pages_file::write(&self.source, &self.runs, &self.file, with_sums, told).of_task(&self.name)
    }
}

#[derive(Debug)]
struct Copy {
    snapshot: Snapshot,
    memory: Memory,
    /// The pages file and all pages, where some are written already; the rest are these.
    begun: Option<(File, Vec<pages::Run>)>,
}

/// The tasks that have little memory.
pub(super) fn modest<'a>(
    tree: &FrozenTree,
    facts: &'a [Option<TaskFacts>],
    tasks: &[TaskImages],
) -> Vec<Modest<'a>> {
    let places = tree.tasks.iter().enumerate().zip(facts.iter().zip(tasks));
    let modest = places.filter_map(|((at, task), (facts, image))| {
        let facts = facts.as_ref().filter(|facts| image.has_memory() && is_modest(facts))?;
        Some(Modest { at, name: task.name.clone(), pid: image.pid.into(), facts })
    });
    modest.collect()
}

/// Writes the memory of tasks that have little.
pub(super) fn write_modest(
    tasks: &[Modest<'_>],
    images: &mut NewImages,
    stats: &mut DumpStats,
    lifeline: &Lifeline,
) -> Result<Written, Problem> {
    let total = tasks.iter().map(|task| estimate(task.facts)).sum();
    let mut writing = Writing::new(images, stats, lifeline, total);
    let mut written = Written::default();
    for tasks in tasks.chunks(AT_ONCE) {
        let mut prepared = Vec::with_capacity(tasks.len());
        let found = side_by_side::map(tasks, |task| {
            let memory = Memory::of(task.name.clone(), task.pid, task.facts);
            let found = find(task.facts.pid, &memory).of_task(&task.name)?;
            Ok::<_, Problem>((memory, found))
        });
        for (Modest { at, facts, .. }, found) in tasks.iter().zip(found) {
            let (mut memory, found) = found?;
            let source = ForkedMemory::of_task(&facts.memory, &facts.vmas);
            let runs = writing.found(&mut memory, found);
            prepared.push(writing.prepare(source, &memory, runs)?);
            written.0.insert(*at, memory.guards);
        }
        writing.together(&prepared)?;
    }
    Ok(written)
}

/// Writes the memory of every task whose memory is not `written` yet, or takes copies of it.
pub(super) fn write(
    tree: &mut FrozenTree,
    facts: &[Option<TaskFacts>],
    tasks: &[TaskImages],
    mut written: Written,
    options: &DumpOptions,
    mut writing: Writing<'_>,
) -> Result<Copies, Problem> {
    let mut copies = Copies::default();
    // Copies would be in the freezer with the tree.
    let copies_wanted = options.afterwards == Afterwards::LeaveRunning && !tree.was_frozen();
    let orphans_come_here = if copies_wanted { orphans_come_here(tree)? } else { Vec::new() };
    for ((at, task), (facts, image)) in tree.tasks.iter_mut().enumerate().zip(facts.iter().zip(tasks)) {
        let Some(facts) = facts.as_ref().filter(|_| image.has_memory()) else { continue };
        writing.lifeline.check()?;
        let name = task.name.clone();
        let agent = task.agent.as_mut();
        let mut extra = extra::with_lock_later(image.extra(), facts, agent.as_deref()).of_task(&name)?;
        if let Some(guards) = written.0.remove(&at) {
            extra::add_guards(&mut extra, &guards);
            extra::write(writing.images, image.pid.into(), &extra)?;
            continue;
        }
        let Some(agent) = agent else { continue };
        let memory = Memory { extra, ..Memory::of(name, image.pid.into(), facts) };
        // A copy has a socket pair of its own.
        let may_copy =
            copies_wanted && room::free_numbers(facts.pid, image.descriptors(), facts.descriptors()) >= 2;
        let copied = may_copy && orphans_come_here.get(at) == Some(&false);
        let copy = if copied { take_copy(facts.pid, agent, &memory.name)? } else { None };
        let agent: &Agent = agent;
        let source = ForkedMemory::of_task(agent.memory(), &facts.vmas);
        match copy {
            Some(snapshot) => copies.0.push(writing.begin(facts, &source, memory, snapshot)?),
            None => writing.whole(facts.pid, source, memory)?,
        }
    }
    Ok(copies)
}

/// Forks a task; none, and the log says why, where that is not possible.
fn take_copy(pid: i32, agent: &mut Agent, name: &TaskName) -> Result<Option<Snapshot>, Problem> {
    use crate::tracee::agent::AgentError;
    use crate::tracee::batch::BatchError;
    match Snapshot::take(pid, agent) {
        Ok(snapshot) => Ok(Some(snapshot)),
        Err(AgentError::Batch(BatchError::Failed { error, .. })) => {
            log::warn!(
                "{name} stays stopped until its memory is written, since it cannot be copied: {error}"
            );
            Ok(None)
        }
        Err(e) => Err(Problem::new(e).task(name).step("copy its memory")),
    }
}

impl Copies {
    /// Writes them.
    pub(super) fn write(
        self,
        images: &mut NewImages,
        stats: &mut DumpStats,
        lifeline: &Lifeline,
    ) -> Result<(), Problem> {
        let bytes = self.0.iter().map(|copy| copy.memory.bytes).sum();
        let mut writing = Writing::new(images, stats, lifeline, bytes);
        for Copy { snapshot, memory, begun } in self.0 {
            lifeline.check()?;
            let pid = snapshot.pid();
            let source = ForkedMemory::of_copy(snapshot.memory());
            match begun {
                None => writing.whole(pid, source, memory)?,
                Some((file, rest)) => {
                    writing.some(&source, &file, &rest).of_task(&memory.name)?;
                }
            }
        }
        Ok(())
    }
}

impl<'a> Writing<'a> {
    /// Nothing is written yet, of about so many bytes.
    pub(super) fn new(
        images: &'a mut NewImages,
        stats: &'a mut DumpStats,
        lifeline: &'a Lifeline,
        bytes: u64,
    ) -> Self {
        Self { images, stats, lifeline, progress: Progress::new("memory written", bytes) }
    }

    /// Writes all of a task's memory. The process is the task, or a copy of it.
    fn whole(&mut self, process: i32, source: ForkedMemory<'_>, mut memory: Memory) -> Result<(), Problem> {
        let runs = self.find(process, &mut memory).of_task(&memory.name)?;
        let prepared = self.prepare(source, &memory, runs)?;
        self.describe(&mut memory)?;
        let start = Instant::now();
        let with_sums = self.images.has_checksums();
        let Self { progress, lifeline, .. } = self;
        let sums = prepared.write(with_sums, &mut |bytes| {
            progress.add(bytes);
            lifeline.check()
        });
        self.written(&prepared, sums?);
        self.stats.pages_written(pages::count(&prepared.runs), start.elapsed());
        Ok(())
    }

    /// Writes the images that say where pages belong that were found.
    fn prepare<'m>(
        &mut self,
        source: ForkedMemory<'m>,
        memory: &Memory,
        runs: Vec<pages::Run>,
    ) -> Result<Prepared<'m>, Problem> {
        let name = memory.name.clone();
        let (file_name, file) = self.map(memory, &runs).of_task(&name)?;
        Ok(Prepared { name, source, runs, file_name, file })
    }

    /// Writes what is said of mappings besides, with the guard regions that were found.
    fn describe(&mut self, memory: &mut Memory) -> Result<(), Problem> {
        extra::add_guards(&mut memory.extra, &std::mem::take(&mut memory.guards));
        extra::write(self.images, memory.pid, &memory.extra)
    }

    /// Writes the memory of several tasks, which have little each, side by side.
    fn together(&mut self, tasks: &[Prepared<'_>]) -> Result<(), Problem> {
        let start = Instant::now();
        let with_sums = self.images.has_checksums();
        let sums = side_by_side::map(tasks, |task| task.write(with_sums, &mut |_| Ok(())));
        for (task, sums) in tasks.iter().zip(sums) {
            self.progress.add(task.runs.iter().map(pages::Run::len).sum());
            self.written(task, sums?);
        }
        let pages = tasks.iter().map(|task| pages::count(&task.runs)).sum();
        self.stats.pages_written(pages, start.elapsed());
        self.lifeline.check()
    }

    fn written(&mut self, task: &Prepared<'_>, sums: Option<FileSums>) {
        if let Some(sums) = sums {
            self.images.set_checksums(&task.file_name, sums);
        }
    }

    /// Writes what is not in a task's copy.
    fn begin(
        &mut self,
        facts: &TaskFacts,
        source: &dyn Source,
        mut memory: Memory,
        snapshot: Snapshot,
    ) -> Result<Copy, Problem> {
        let name = memory.name.clone();
        let left_out = ranges(facts, |vma| !is_in_fork(vma));
        if left_out.is_empty() {
            log::info!("{name}: its memory is copied by a fork, nothing is written while it is stopped");
            return Ok(Copy { snapshot, memory, begun: None });
        }
        let runs = self.find(facts.pid, &mut memory).of_task(&name)?;
        let (_, file) = self.map(&memory, &runs).of_task(&name)?;
        self.describe(&mut memory)?;
        let is_left_out = |run: &pages::Run| {
            let at = left_out.partition_point(|range| range.end <= run.start);
            left_out.get(at).is_some_and(|range| range.start < run.end)
        };
        let (now, later): (Vec<_>, Vec<_>) = runs.iter().copied().partition(is_left_out);
        let start = Instant::now();
        self.some(source, &file, &now).of_task(&name)?;
        self.stats.pages_written(pages::count(&runs), start.elapsed());
        let [now, later_pages] = [pages::count(&now), pages::count(&later)];
        log::info!("{name}: {later_pages} pages are copied by a fork, {now} are written while it is stopped");
        Ok(Copy { snapshot, memory, begun: Some((file, later)) })
    }

    /// Finds a task's pages, and gives them their places.
    fn find(&mut self, process: i32, memory: &mut Memory) -> Result<Vec<pages::Run>, Problem> {
        let found = find(process, memory)?;
        Ok(self.found(memory, found))
    }

    /// Takes what was found of a task.
    fn found(&mut self, memory: &mut Memory, found: Found) -> Vec<pages::Run> {
        memory.guards = found.guards;
        let scanned = memory.ranges.iter().map(|range| (range.end - range.start) / pages::PAGE).sum();
        self.stats.pages_scanned(scanned, found.took);
        found.runs
    }

    /// Writes the images that say where pages belong, and creates the one for the pages.
    fn map(&mut self, memory: &Memory, runs: &[pages::Run]) -> Result<(String, File), Problem> {
        let pages_id = self.images.next_pages_id();
        pages::write_map(self.images, memory.pid, pages_id, runs)?;
        let name = proto::catalogue::PAGES.file_name(pages_id.into());
        let size = runs.last().map_or(0, |run| run.offset + run.len());
        let file = self.images.create_pages_file(&name, size)?;
        Ok((name, file))
    }

    /// Writes some of the pages of a file.
    fn some(&mut self, source: &dyn Source, file: &File, runs: &[pages::Run]) -> Result<(), Problem> {
        let Self { progress, lifeline, .. } = self;
        pages_file::write_some(source, runs, file, &mut |bytes| {
            progress.add(bytes);
            lifeline.check()
        })
    }
}

/// What was found in a task's memory.
#[derive(Debug)]
struct Found {
    /// Its pages, with their places in the file.
    runs: Vec<pages::Run>,
    /// Guard regions.
    guards: Vec<(u64, u64)>,
    took: Duration,
}

/// Finds a task's pages, and gives them their places.
fn find(process: i32, memory: &Memory) -> Result<Found, Problem> {
    let start = Instant::now();
    let path = format!("/proc/{process}/pagemap");
    let pagemap = File::open(path).map_err(SysError::io("open(/proc/PID/pagemap)"))?;
    let found = pages::find(&pagemap, &memory.ranges);
    let mut found = found.while_trying_to("find out which pages it owns")?;
    found.runs = uprobes::leave_breakpoints(found.runs, process, &memory.probed)?;
    pages::lay_out(&mut found.runs);
    Ok(Found { runs: found.runs, guards: found.guards, took: start.elapsed() })
}

/// For each task of the tree, whether its orphans would come to a task of the tree: it is a subreaper, or somebody above
/// it is, or it is the init of its pid namespace.
fn orphans_come_here(tree: &mut FrozenTree) -> Result<Vec<bool>, Problem> {
    let mut known: Vec<bool> = Vec::new();
    for task in &mut tree.tasks {
        let above = task.parent.and_then(|parent| known.get(parent).copied()).unwrap_or(false);
        let own = match &mut task.agent {
            Some(agent) if !above => extra::takes_orphans(agent).of_task(&task.name)?,
            _ => false,
        };
        known.push(above || own);
    }
    Ok(known)
}

/// Bytes of those tasks' own pages that have more than little.
pub(super) fn estimate_large(facts: &[Option<TaskFacts>]) -> u64 {
    facts.iter().flatten().map(estimate).filter(|bytes| *bytes > SMALL).sum()
}

/// Whether a task has little memory.
pub(super) fn is_modest(facts: &TaskFacts) -> bool {
    estimate(facts) <= SMALL
}

/// Bytes of a task's own pages, as far as `/proc` tells.
fn estimate(facts: &TaskFacts) -> u64 {
    facts.leader().status.anonymous
}

/// Tasks whose memory takes time to be freed, by descriptors. Where it is many mappings that take time, nobody can help with it.
pub(super) fn large(facts: &[Option<TaskFacts>]) -> Vec<OwnedFd> {
    /// Bytes that are freed in the time that a look at a mapping takes.
    const WORTH_A_MAPPING: u64 = 64 << 10;
    let is_large = |facts: &&TaskFacts| {
        estimate(facts) > SMALL.max(WORTH_A_MAPPING.saturating_mul(facts.vmas.len() as u64))
    };
    let tasks = facts.iter().flatten().filter(is_large);
    tasks.filter_map(|facts| facts.pidfd.try_clone().ok()).collect()
}

fn is_in_fork(vma: &SmapsVma) -> bool {
    let left_out = [VmFlag::DontCopy, VmFlag::WipeOnFork, VmFlag::HugeTlb];
    // What is shared with the kernel changes in a copy, too.
    !vma.vma.perms.shared && !left_out.iter().any(|flag| vma.flags.has(*flag))
}

/// Where a task's own pages may be, in those mappings that `wanted` wants.
fn ranges(facts: &TaskFacts, wanted: impl Fn(&SmapsVma) -> bool) -> Vec<pages::Range> {
    /// Bytes of other mappings that are scanned in the time that another call takes.
    const LITTLE: u64 = 64 << 10;
    let mut ranges: Vec<pages::Range> = Vec::new();
    let mut between = u64::MAX;
    for vma in &facts.vmas {
        let contents = mm::claim(vma).map_or(Contents::None, |kind| kind.contents(vma));
        if !wanted(vma) || contents == Contents::None {
            between = between.saturating_add(vma.vma.len());
            continue;
        }
        let (whole, follows) = (contents == Contents::AllPages, between <= LITTLE);
        ranges.push(pages::Range { start: vma.vma.start, end: vma.vma.end, whole, follows });
        between = 0;
    }
    ranges
}
