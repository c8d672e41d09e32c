//! One task after the other: looked at from outside, asked, and written down.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use proto::messages::{
    CoreEntry, FdinfoEntry, FsEntry, InventoryEntry, MmEntry, PstreeEntry, StasisThreadEntry,
    TaskKobjIdsEntry, core_entry::March,
};

use super::inspect::{TaskFacts, TaskRefusal, read_proc};
use crate::arch;
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::image::NewImages;
use crate::kinds::files::FilesDump;
use crate::kinds::mm::{self, aio, bounds};
use crate::kinds::task::{Questions, Scope, ThreadImage};
use crate::kinds::{TASK_KINDS, task as task_kinds};
use crate::options::DumpOptions;
use crate::procfs;
use crate::procfs::link::NamespaceKind;
use crate::procfs::stat::State;
use crate::procfs::status::Status;
use crate::room;
use crate::supervise::Lifeline;
use crate::sys::process::{Kcmp, kcmp};
use crate::tracee::agent::Agent;
use crate::tracee::freeze::{FrozenTask, FrozenTree, TaskState};

/// `task_core_entry.task_state` of a task that runs, and of a zombie.
const TASK_ALIVE: u32 = 1;
const TASK_DEAD: u32 = 2;
/// Version of the image format (`inventory_entry.img_version`).
const IMAGE_VERSION: u32 = 2;

/// How a task relates to others in a way that is not supported.
#[derive(Debug, thiserror::Error)]
pub(super) enum RelationRefusal {
    /// Two tasks share something.
    #[error("it shares its {what} with process {with}, which is not supported yet")]
    Shares {
        /// What.
        what: &'static str,
        /// With whom.
        with: i32,
    },
    /// It is in a namespace of its own.
    #[error("it is in another {0} namespace than stasis, which is not supported yet")]
    Namespace(&'static str),
    /// The session's or group's leader is outside.
    #[error("its {what} {id} was begun outside of the tree")]
    Outside {
        /// Session or process group.
        what: &'static str,
        /// Its id.
        id: i32,
    },
}

impl Explain for RelationRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Outside { .. } => {
                Some("pass --shell-job if it runs in your own session, or start it with setsid".into())
            }
            _ => None,
        }
    }
}

/// The images of one task, before they are written.
#[derive(Debug)]
pub(super) struct TaskImages {
    /// Its pid in its own pid namespace.
    pub pid: u32,
    pstree: PstreeEntry,
    /// One for each thread, the leader's first.
    pub cores: Vec<ThreadImage>,
    /// None for a zombie.
    pub alive: Option<Alive>,
}

/// What a task has that lives.
#[derive(Debug)]
pub(super) struct Alive {
    ids: TaskKobjIdsEntry,
    fs: FsEntry,
    mm: MmEntry,
    /// Its descriptors.
    pub fdinfo: Vec<FdinfoEntry>,
}

/// Reads what is known about each task from outside; none for zombies and for tasks that go to `problems`.
pub(super) fn inspect(tree: &FrozenTree, problems: &mut Vec<Problem>) -> Vec<Option<TaskFacts>> {
    let read = |task: &FrozenTask| match task.state {
        TaskState::Zombie => None,
        TaskState::Alive => TaskFacts::read(task).map_err(|p| problems.push(p)).ok(),
        TaskState::Stopped(signal) => {
            problems.push(Problem::new(TaskRefusal::GroupStop(signal)).task(&task.name));
            None
        }
    };
    tree.tasks.iter().map(read).collect()
}

/// Describes each task as far as can be seen from outside; everything that cannot be dumped goes to `problems`.
pub(super) fn look(
    tree: &FrozenTree,
    facts: &[Option<TaskFacts>],
    files: &mut FilesDump<'_>,
    problems: &mut Vec<Problem>,
) -> Vec<TaskImages> {
    let mut sharing = Sharing::default();
    let mut images = Vec::new();
    for (task, facts) in tree.tasks.iter().zip(facts) {
        let mut found = Vec::new();
        let image = match facts {
            Some(facts) => look_at_task(facts, &mut sharing, files, &mut found),
            None => look_at_zombie(task.pid),
        };
        match image {
            Ok(image) => images.push(image),
            Err(problem) => found.push(problem),
        }
        problems.extend(found.into_iter().map(|p| p.task(&task.name)));
    }
    refuse_outside_leaders(&images, tree, files.options, problems);
    images
}

/// A task whose session or process group was begun outside of the tree must be the caller's job.
fn refuse_outside_leaders(
    images: &[TaskImages],
    tree: &FrozenTree,
    options: &DumpOptions,
    problems: &mut Vec<Problem>,
) {
    let Some(root) = images.first().map(|image| image.pstree.clone()) else { return };
    if options.shell_job {
        return;
    }
    let pids: BTreeSet<u32> = images.iter().map(|image| image.pid).collect();
    // A leader that has ended was one of the tree, unless the root itself follows it, or somebody else bears its number.
    let is_outside = |id: u32, roots: u32| {
        !pids.contains(&id) && (id == roots || std::path::Path::new(&format!("/proc/{id}")).exists())
    };
    for (image, task) in images.iter().zip(&tree.tasks) {
        let tree = &image.pstree;
        let ids = [("session", tree.sid, root.sid), ("process group", tree.pgid, root.pgid)];
        if let Some((what, id, _)) = ids.into_iter().find(|(_, id, roots)| is_outside(*id, *roots)) {
            problems.push(Problem::new(RelationRefusal::Outside { what, id: id as i32 }).task(&task.name));
        }
    }
}

fn look_at_task(
    facts: &TaskFacts,
    sharing: &mut Sharing,
    files: &mut FilesDump<'_>,
    problems: &mut Vec<Problem>,
) -> Result<TaskImages, Problem> {
    let status = &facts.leader().status;
    let inner = |ids: &[i32]| ids.last().copied().unwrap_or(0) as u32;
    let pid = inner(&status.ns_pid);
    problems.extend(refuse_namespaces(facts.pid));
    let ids = sharing.ids(facts.pid, problems)?;
    let mut cores = Vec::new();
    for thread in &facts.threads {
        let mut core = ThreadImage::default();
        core.own.tid = thread.inner_tid as u32;
        let about = |p: Problem| {
            if thread.tid == facts.pid { p } else { p.object(Object::Thread { tid: thread.tid }) }
        };
        if let Err(e) = arch::dump_registers(&thread.saved, 0, &mut core) {
            problems.push(about(Problem::new(e)));
        }
        for kind in TASK_KINDS {
            if (kind.scope() == Scope::Thread || thread.tid == facts.pid)
                && let Err(problem) = kind.look(facts, thread, &mut core)
            {
                problems.push(about(problem));
            }
        }
        task_kinds::thread(&mut core).blk_sigset = Some(thread.saved.sigmask);
        if thread.tid == facts.pid {
            let task = task_kinds::task(&mut core);
            task.task_state = TASK_ALIVE;
            task.flags = thread.stat.flags;
            task.blk_sigset = thread.saved.sigmask;
        }
        cores.push(core);
    }
    let mut mm = bounds::look(facts, files)?;
    look_at_mappings(facts, files, &mut mm, problems);
    mm.aios = aio::describe(&mm.vmas);
    let fs = FsEntry {
        cwd_id: bounds::path_id(facts.pid, "cwd", files)?,
        root_id: bounds::path_id(facts.pid, "root", files)?,
        umask: status.umask,
    };
    let fdinfo = files.dump_table(facts, -1, problems);
    let pstree = PstreeEntry {
        pid,
        ppid: facts.leader().stat.ppid as u32,
        pgid: inner(&status.ns_pgid),
        sid: inner(&status.ns_sid),
        threads: facts.threads.iter().map(|t| t.inner_tid as u32).collect(),
    };
    Ok(TaskImages { pid, pstree, cores, alive: Some(Alive { ids, fs, mm, fdinfo }) })
}

fn look_at_mappings(
    facts: &TaskFacts,
    files: &mut FilesDump<'_>,
    mm: &mut MmEntry,
    problems: &mut Vec<Problem>,
) {
    for vma in &facts.vmas {
        let name = || Object::Vma {
            start: vma.vma.start,
            end: vma.vma.end,
            name: String::from_utf8_lossy(&vma.vma.path).into_owned(),
        };
        let mut entry = mm::describe(vma);
        let described = mm::claim(vma)
            .map_err(Problem::new)
            .and_then(|kind| kind.dump(files, facts.pid, vma, &mut entry));
        match described.about(name) {
            Ok(()) => push_mapping(&mut mm.vmas, entry),
            Err(problem) => problems.push(problem),
        }
    }
}

/// Adds a mapping; the parts of the vdso's data become one.
fn push_mapping(vmas: &mut Vec<proto::messages::VmaEntry>, entry: proto::messages::VmaEntry) {
    match vmas.last_mut() {
        Some(last)
            if entry.status & mm::status::VVAR != 0
                && last.status & mm::status::VVAR != 0
                && last.end == entry.start =>
        {
            last.end = entry.end;
        }
        _ => vmas.push(entry),
    }
}

fn look_at_zombie(pid: i32) -> Result<TaskImages, Problem> {
    let stat = read_proc(format!("/proc/{pid}/stat"), procfs::stat::parse)?;
    let core = CoreEntry { mtype: March::X8664.into(), ..CoreEntry::default() };
    let exit_signal = u32::try_from(stat.exit_signal).ok();
    let own = StasisThreadEntry { tid: pid as u32, exit_signal, ..StasisThreadEntry::default() };
    let mut core = ThreadImage { core, own, ..ThreadImage::default() };
    let task = task_kinds::task(&mut core);
    task.task_state = TASK_DEAD;
    task.exit_code = stat.exit_code as u32;
    task.comm = String::from_utf8_lossy(&stat.comm).into_owned();
    let pid = pid as u32;
    let pstree = PstreeEntry {
        pid,
        ppid: stat.ppid as u32,
        pgid: stat.pgrp as u32,
        sid: stat.session as u32,
        threads: vec![pid],
    };
    Ok(TaskImages { pid, pstree, cores: vec![core], alive: None })
}

/// Namespaces other than ours.
pub(crate) fn refuse_namespaces(pid: i32) -> Vec<Problem> {
    let link =
        |pid: &str, kind: NamespaceKind| std::fs::read_link(format!("/proc/{pid}/ns/{}", kind.name())).ok();
    let other = |kind: &NamespaceKind| link("self", *kind) != link(&pid.to_string(), *kind);
    NamespaceKind::ALL
        .into_iter()
        .filter(other)
        .map(|kind| Problem::new(RelationRefusal::Namespace(kind.name())))
        .collect()
}

/// State that `/proc/PID/status` tells, and that is refused.
pub(crate) fn refuse_by_status(status: &Status) -> Vec<Problem> {
    let mut problems = Vec::new();
    if status.state == State::Stopped {
        problems.push(Problem::new(TaskRefusal::GroupStop(libc::SIGSTOP)));
    }
    problems
}

/// A refusal of a root that follows a session or process group which somebody else leads.
pub(crate) fn outside_leader(root: i32) -> Option<Problem> {
    let stat = read_proc(format!("/proc/{root}/stat"), procfs::stat::parse).ok()?;
    let ids = [("session", stat.session), ("process group", stat.pgrp)];
    let (what, id) = ids.into_iter().find(|(_, id)| *id != root)?;
    Some(Problem::new(RelationRefusal::Outside { what, id }))
}

/// Which tasks were seen, in the order of each thing that tasks may share.
#[derive(Debug, Default)]
struct Sharing {
    seen: [Vec<i32>; 4],
    tasks: u32,
}

impl Sharing {
    /// Ids of a task's resources; what is shared goes to `problems`, because nothing restores it yet.
    fn ids(&mut self, pid: i32, problems: &mut Vec<Problem>) -> Result<TaskKobjIdsEntry, Problem> {
        let kinds = [
            (Kcmp::Vm, "address space"),
            (Kcmp::Files, "descriptor table"),
            (Kcmp::Fs, "working directory and umask"),
            (Kcmp::Sighand, "signal handlers"),
        ];
        for (seen, (kind, what)) in self.seen.iter_mut().zip(kinds) {
            let mut failed: Option<SysError> = None;
            let place = seen.binary_search_by(|other| {
                kcmp(kind, *other, pid).unwrap_or_else(|e| {
                    failed = Some(e);
                    Ordering::Equal
                })
            });
            if let Some(e) = failed {
                return Err(Problem::new(e).step("find out what it shares with others"));
            }
            match place {
                Ok(at) => {
                    let with = seen.get(at).copied().unwrap_or(0);
                    problems.push(Problem::new(RelationRefusal::Shares { what, with }));
                }
                Err(at) => seen.insert(at, pid),
            }
        }
        self.tasks += 1;
        // The first id of each sort is the dumping program's own, by custom of the format.
        let id = self.tasks + 1;
        Ok(TaskKobjIdsEntry { vm_id: id, files_id: id, fs_id: id, sighand_id: id, ..namespace_ids() })
    }
}

/// Ids of the namespaces, which all tasks have in common.
fn namespace_ids() -> TaskKobjIdsEntry {
    TaskKobjIdsEntry {
        vm_id: 1,
        files_id: 1,
        fs_id: 1,
        sighand_id: 1,
        pid_ns_id: Some(1),
        net_ns_id: Some(2),
        ipc_ns_id: Some(3),
        uts_ns_id: Some(4),
        time_ns_id: Some(5),
        mnt_ns_id: Some(6),
        user_ns_id: Some(7),
        cgroup_ns_id: Some(8),
    }
}

/// Takes descriptors out of all tables that are to be lost.
pub(super) fn without_closed(images: &mut [TaskImages], files: &mut FilesDump<'_>) {
    let tables = images.iter_mut().filter_map(|image| image.alive.as_mut());
    tables.for_each(|alive| files.without_closed(&mut alive.fdinfo));
}

/// Puts an agent into each task and asks what only the task knows.
pub(super) fn ask(
    tree: &mut FrozenTree,
    facts: &[Option<TaskFacts>],
    images: &mut [TaskImages],
    lifeline: &Lifeline,
) -> Result<(), Problem> {
    let mut leaders = Questions::of(&[Scope::Task, Scope::Thread]);
    let mm_questions = bounds::Questions::ask(leaders.batch());
    let others = Questions::of(&[Scope::Thread]);
    for ((task, facts), image) in tree.tasks.iter_mut().zip(facts).zip(images) {
        let (Some(facts), Some(alive)) = (facts, &mut image.alive) else { continue };
        lifeline.check()?;
        let name = task.name.clone();
        let fds = alive.fdinfo.len();
        // The agent's socket is one end of a pair.
        let raised = room::make_in(facts.pid, 2, fds, facts.descriptors()).of_task(&name)?;
        let saved = facts.threads.iter().map(|t| t.saved.clone()).collect();
        let agent = Agent::inject(task, saved, facts.vdso(), &facts.code())
            .of_task(&name)
            .while_trying_to("put the agent in")?;
        drop(raised);
        let agent = task.agent.insert(agent);
        let step = "ask it about itself";
        let replies = agent.run(leaders.batch_ref()).of_task(&name).while_trying_to(step)?;
        let mut cores = image.cores.iter_mut();
        if let Some(core) = cores.next() {
            leaders.answer(&replies, core).of_task(&name).while_trying_to(step)?;
        }
        mm_questions.answer(&replies, &mut alive.mm).of_task(&name).while_trying_to(step)?;
        if facts.threads.len() > 1 {
            let Some(mut agent) = task.agent.take() else { continue };
            let answers = agent.run_on_other_threads(task, others.batch_ref());
            task.agent = Some(agent);
            for (replies, core) in
                answers.of_task(&name).while_trying_to("ask its threads")?.iter().zip(cores)
            {
                others.answer(replies, core).of_task(&name).while_trying_to(step)?;
            }
        }
    }
    Ok(())
}

/// Writes everything but files and pages.
pub(super) fn write(tasks: &mut [TaskImages], images: &mut NewImages) -> Result<(), Problem> {
    use proto::catalogue as c;
    let filters = task_kinds::seccomp::collect(tasks.iter_mut().flat_map(|task| &mut task.cores));
    let known: BTreeSet<u32> = tasks.iter().map(|t| t.pid).collect();
    let pstree: Vec<PstreeEntry> = tasks
        .iter()
        .map(|task| {
            let mut entry = task.pstree.clone();
            if !known.contains(&entry.ppid) {
                entry.ppid = 0;
            }
            entry
        })
        .collect();
    images.write(&c::PSTREE, 0, &pstree)?;
    for task in &*tasks {
        let pid = task.pid.into();
        for (core, tid) in task.cores.iter().zip(&task.pstree.threads) {
            images.write(&c::CORE, (*tid).into(), std::slice::from_ref(&core.core))?;
        }
        let Some(alive) = &task.alive else { continue };
        images.write(&c::IDS, pid, &[alive.ids])?;
        images.write(&c::FS, pid, &[alive.fs])?;
        images.write(&c::MM, pid, std::slice::from_ref(&alive.mm))?;
        images.write(&c::FDINFO, alive.ids.files_id.into(), &alive.fdinfo)?;
    }
    let own: Vec<_> = tasks.iter().flat_map(|task| &task.cores).map(|core| core.own.clone()).collect();
    images.write(&c::STASIS_THREADS, 0, &own)?;
    images.write(&c::SECCOMP, 0, &[filters])?;
    images.write(&c::TIMENS, 0, &[timens()?])
}

/// The clocks that a time namespace shifts, as they are now.
fn timens() -> Result<proto::messages::TimensEntry, Problem> {
    use nix::time::{ClockId, clock_gettime};
    let read = |clock| -> Result<proto::messages::Timespec, Problem> {
        let time = clock_gettime(clock).map_err(SysError::of("clock_gettime"))?;
        Ok(proto::messages::Timespec { tv_sec: time.tv_sec() as u64, tv_nsec: time.tv_nsec() as u64 })
    };
    Ok(proto::messages::TimensEntry {
        monotonic: read(ClockId::CLOCK_MONOTONIC)?,
        boottime: read(ClockId::CLOCK_BOOTTIME)?,
    })
}

/// The inventory, which makes a directory of images a set.
pub(super) fn inventory() -> InventoryEntry {
    InventoryEntry {
        img_version: IMAGE_VERSION,
        fdinfo_per_id: Some(true),
        root_ids: Some(namespace_ids()),
        ns_per_id: Some(true),
        lsmtype: Some(proto::messages::Lsmtype::NoLsm.into()),
        ..InventoryEntry::default()
    }
}
