//! One task after the other: looked at from outside, and written down.

use std::collections::BTreeSet;

use proto::catalogue::ImageType;
use proto::messages::{
    CoreEntry, FdinfoEntry, FsEntry, InventoryEntry, MmEntry, PstreeEntry, StasisMmEntry, StasisThreadEntry,
    TaskKobjIdsEntry, core_entry::March,
};

use super::apart::{HomeLinks, refuse_namespaces};
use super::inspect::{TaskFacts, ThreadFacts, read_proc};
use super::namespace_links::NamespaceLinks;
use super::sharing::{Sharing, refuse_unshared_threads};
use super::vm_flags::VmFlagsReader;
use crate::arch;
use crate::cgroups::CgroupsDump;
use crate::error::{Class, Context as _, Explain, Object, Problem};
use crate::image::{ImageWriter, NewImages};
use crate::kinds::files::{FilesDump, Table, Tables};
use crate::kinds::mm::{self, aio, bounds};
use crate::kinds::task::{Scope, ThreadImage};
use crate::kinds::{TASK_KINDS, namespaces, task as task_kinds};
use crate::mount_spaces;
use crate::net_spaces;
use crate::options::DumpOptions;
use crate::pid_spaces::{self, PidSpaces};
use crate::procfs;
use crate::procfs::link::NamespaceType;
use crate::task_spaces::{self, TaskSpaces};
use crate::time_spaces::{self, TimeSpaces};
use crate::tracee::freeze::{FrozenTask, FrozenTree, TaskState};
use crate::user_spaces;

/// `task_core_entry.task_state` of a task that runs, of a zombie, and of a stopped task.
const TASK_ALIVE: u32 = 1;
const TASK_DEAD: u32 = 2;
pub(super) const TASK_STOPPED: u32 = 3;
/// Version of the image format (`inventory_entry.img_version`).
const IMAGE_VERSION: u32 = 2;

/// How a task relates to others in a way that is not supported.
#[derive(Debug, thiserror::Error)]
pub(super) enum RelationRefusal {
    /// A thread does not share what threads share as a rule.
    #[error("it has its own {0}, apart from its process (unshare), which is not supported yet")]
    UnsharedThread(&'static str),
    /// It is in a namespace of its own.
    #[error("it is in another {0} namespace than stasis, which is not supported yet")]
    Namespace(&'static str),
    /// It is in another namespace than the root of the tree.
    #[error("it is in another {0} namespace than the root of the tree, which is not supported yet")]
    Nested(&'static str),
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
    /// Its pid in our pid namespace, which is that of the root.
    pub pid: u32,
    pstree: PstreeEntry,
    /// One for each thread that lives, the leader's first.
    pub cores: Vec<ThreadImage>,
    /// None for a zombie.
    pub(super) alive: Option<Alive>,
    /// Exit code and name of a leader that has ended before the other threads.
    ended_leader: Option<StasisThreadEntry>,
}

impl TaskImages {
    /// Whether its memory is to be written: not if an earlier task has the same.
    pub(super) fn has_memory(&self) -> bool {
        self.alive.as_ref().is_some_and(|alive| alive.mm.is_some())
    }

    /// Properties of its mappings.
    pub(super) fn extra(&self) -> StasisMmEntry {
        self.alive.as_ref().map(|alive| alive.extra.clone()).unwrap_or_default()
    }

    /// Takes the numbers of descriptors that execve closes, in order.
    pub(super) fn set_closed_by_execve(&mut self, fds: &[i32]) {
        for entry in self.alive.iter_mut().filter_map(|alive| alive.fdinfo.as_mut()).flatten() {
            if fds.binary_search(&(entry.fd as i32)).is_ok() {
                entry.flags |= libc::FD_CLOEXEC as u32;
            }
        }
    }

    /// How many descriptors it has, if it is the first task with its table.
    pub(super) fn descriptors(&self) -> Option<usize> {
        self.alive.as_ref()?.fdinfo.as_ref().map(Vec::len)
    }
}

/// What a task has that lives.
#[derive(Debug)]
pub(super) struct Alive {
    ids: TaskKobjIdsEntry,
    fs: FsEntry,
    /// None if an earlier task has the same address space.
    pub(super) mm: Option<MmEntry>,
    /// Properties of its mappings.
    pub(super) extra: StasisMmEntry,
    /// None if an earlier task has the same table.
    fdinfo: Option<Vec<FdinfoEntry>>,
}

/// Reads what is known about each task from outside; none for zombies and for tasks that go to `problems`.
pub(super) fn inspect(
    tree: &FrozenTree,
    options: &DumpOptions,
    reader: &VmFlagsReader,
    problems: &mut Vec<Problem>,
) -> Vec<Option<TaskFacts>> {
    let lives = |task: &&FrozenTask| task.state != TaskState::Zombie;
    let living: Vec<&FrozenTask> = tree.tasks.iter().filter(lives).collect();
    let mut facts = TaskFacts::read_all(&living, &options.inside.ids, reader).into_iter();
    let take = |task: &FrozenTask| {
        let facts = Some(task).filter(lives).and_then(|_| facts.next())?;
        facts.map_err(|p| problems.push(p)).ok()
    };
    tree.tasks.iter().map(take).collect()
}

/// Describes each task as far as can be seen from outside; everything that cannot be dumped goes to `problems`.
pub(super) fn look(
    tree: &FrozenTree,
    facts: &[Option<TaskFacts>],
    files: &mut FilesDump<'_>,
    problems: &mut Vec<Problem>,
) -> Vec<TaskImages> {
    let ids = namespaces::ids_of_tree(&files.options.inside.types);
    let links = facts.iter().flatten().map(|facts| (facts.pid, &facts.namespaces));
    let mut sharing = Sharing::new(facts, ids, mount_spaces::of_tree(files, links));
    let home = HomeLinks::read(files.options);
    let mut images = Vec::new();
    let mut tables = Tables::of(facts);
    for (task, facts) in tree.tasks.iter().zip(facts) {
        files.add_member(task.pid);
        let mut found = Vec::new();
        let image = match facts {
            Some(facts) => {
                let table = files.next_table(&mut tables);
                look_at_task(facts, task.state, table, &home, &mut sharing, files, &mut found)
            }
            None => look_at_zombie(task.pid, files),
        };
        match image {
            Ok(image) => images.push(image),
            Err(problem) => found.push(problem),
        }
        problems.extend(found.into_iter().map(|p| p.task(&task.name)));
    }
    refuse_outside_leaders(&images, tree, files.options, problems);
    problems.extend(files.state::<PidSpaces>().without_init());
    problems.extend(files.state::<TaskSpaces>().without_members());
    user_spaces::check(files, problems);
    images
}

/// Finds out which control groups threads are in.
pub(super) fn find_cgroups(
    tree: &FrozenTree,
    facts: &[Option<TaskFacts>],
    images: &mut [TaskImages],
    cgroups: &mut CgroupsDump<'_>,
    problems: &mut Vec<Problem>,
) {
    let kind = NamespaceType::Cgroup;
    let roots = facts.first().and_then(|root| root.as_ref()?.namespaces.of(kind));
    let pids: Vec<i32> = facts.iter().flatten().map(|facts| facts.pid).collect();
    let mut memberships = cgroups.memberships(&pids).into_iter();
    // Tasks that are refused have no images, and others are not in their places then; but neither are they written.
    for ((task, facts), image) in tree.tasks.iter().zip(facts).zip(images) {
        let Some(facts) = facts else { continue };
        let tids: Vec<i32> = facts.threads.iter().map(|thread| thread.tid).collect();
        let sets = cgroups.sets_of(facts.pid, memberships.next(), &tids);
        for ((thread, core), set) in facts.threads.iter().zip(&mut image.cores).zip(sets) {
            match set {
                Ok(set) => {
                    let has_own = thread.tid == facts.pid && roots != facts.namespaces.of(kind);
                    if has_own {
                        match cgroups.roots_of(facts.pid) {
                            Ok(roots) => core.own.cgroup_roots = roots,
                            Err(problem) => problems.push(problem.task(&task.name)),
                        }
                    }
                    if thread.tid == facts.pid {
                        task_kinds::task(core).cg_set = set;
                    }
                    task_kinds::thread(core).cg_set = set;
                }
                Err(problem) => problems.push(problem.task(&task.name)),
            }
        }
    }
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

fn look_at_task<'t>(
    facts: &'t TaskFacts,
    state: TaskState,
    table: Option<Table<'t>>,
    home: &HomeLinks,
    sharing: &mut Sharing,
    files: &mut FilesDump<'_>,
    problems: &mut Vec<Problem>,
) -> Result<TaskImages, Problem> {
    let status = &facts.leader().status;
    // In all namespaces from ours on.
    let here = |ids: &[i32]| ids.first().copied().unwrap_or(0) as u32;
    let pid = here(&status.ns_tgid);
    problems.extend(refuse_namespaces(&facts.namespaces, home, files.options));
    let mut shared = sharing.ids(facts)?;
    shared.ids.net_ns_id = Some(net_spaces::id_of_task(files, facts.pid, &facts.namespaces)?);
    let times = time_spaces::of_task(files, facts.pid, &facts.namespaces)?;
    shared.ids.time_ns_id = times.map(|times| times.own).or(shared.ids.time_ns_id);
    let pids = pid_spaces::of_task(files, facts.pid, &facts.namespaces, status)?;
    shared.ids.pid_ns_id = pids.own.or(shared.ids.pid_ns_id);
    task_spaces::of_task(files, facts.pid, &facts.namespaces, &mut shared.ids)?;
    user_spaces::of_task(files, facts.pid, &facts.namespaces, &mut shared.ids, problems)?;
    problems.extend(user_spaces::refuse_threads(facts, files.options, &shared.ids));
    refuse_unshared_threads(facts, problems);
    let mut cores: Vec<ThreadImage> =
        facts.threads.iter().map(|thread| look_at_thread(facts, thread, problems)).collect();
    if let Some(core) = cores.first_mut() {
        let stopped = stop_signal(state, &facts.threads);
        let task = task_kinds::task(core);
        task.task_state = if stopped.is_some() { TASK_STOPPED } else { TASK_ALIVE };
        task.stop_signo = stopped.map(|signal| signal as u32);
        task.flags = facts.leader().stat.flags;
        task.blk_sigset = facts.leader().saved.sigmask;
        core.own.time_ns_for_children = times.and_then(|times| times.children);
        core.own.pid_ns_for_children = pids.children;
    }
    for (thread, core) in facts.threads.iter().zip(&mut cores) {
        pids.number(&thread.status.ns_pid, status, &mut core.own);
    }
    let mm = if shared.first_vm {
        let mut mm = bounds::look(facts, files)?;
        look_at_mappings(facts, files, &mut mm, problems);
        mm.aios = aio::describe(&mm.vmas);
        Some(mm)
    } else {
        None
    };
    let fs = FsEntry {
        cwd_id: bounds::path_id(facts.pid, &facts.paths.cwd, files)?,
        root_id: bounds::path_id(facts.pid, &facts.paths.root, files)?,
        umask: status.umask,
    };
    let fdinfo = table.filter(|_| shared.first_files).map(|table| files.dump_table(facts, table, problems));
    let ended_leader = facts.ended_leader.as_ref().map(|leader| StasisThreadEntry {
        tid: leader.pid as u32,
        exit_signal: u32::try_from(leader.stat.exit_signal).ok(),
        ended_name: Some(String::from_utf8_lossy(&leader.stat.comm).into_owned()),
        ended_status: Some(leader.stat.exit_code as u32),
        ..StasisThreadEntry::default()
    });
    let ended_leader = ended_leader.map(|mut leader| {
        pids.number(&status.ns_tgid, status, &mut leader);
        leader
    });
    let ended = ended_leader.iter().map(|leader| leader.tid);
    let pstree = PstreeEntry {
        pid,
        ppid: facts.leader().stat.ppid as u32,
        pgid: here(&status.ns_pgid),
        sid: here(&status.ns_sid),
        threads: ended.chain(facts.threads.iter().map(|t| t.tid as u32)).collect(),
    };
    let alive = Some(Alive { ids: shared.ids, fs, mm, extra: StasisMmEntry::default(), fdinfo });
    Ok(TaskImages { pid, pstree, cores, alive, ended_leader })
}

fn look_at_thread(facts: &TaskFacts, thread: &ThreadFacts, problems: &mut Vec<Problem>) -> ThreadImage {
    let mut core = ThreadImage::default();
    core.own.tid = thread.tid as u32;
    let about =
        |p: Problem| if thread.tid == facts.pid { p } else { p.object(Object::Thread { tid: thread.tid }) };
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
    core
}

/// The signal that a task is stopped by. One with a `SIGCONT` pending goes on: a stop would have removed that, so it was
/// sent later (`prepare_signal` of kernel/signal.c).
fn stop_signal(state: TaskState, threads: &[ThreadFacts]) -> Option<i32> {
    let continued = |thread: &ThreadFacts| {
        (thread.status.sig_pnd | thread.status.shd_pnd) & 1 << (libc::SIGCONT - 1) != 0
    };
    match state {
        TaskState::Stopped(signal) if !threads.iter().any(continued) => Some(signal),
        _ => None,
    }
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

fn look_at_zombie(pid: i32, files: &mut FilesDump<'_>) -> Result<TaskImages, Problem> {
    let stat = read_proc(format!("/proc/{pid}/stat"), procfs::stat::parse)?;
    let status = read_proc(format!("/proc/{pid}/status"), procfs::status::parse)?;
    let pids = pid_spaces::of_task(files, pid, &NamespaceLinks::read(pid), &status)?;
    let core = CoreEntry { mtype: March::X8664.into(), ..CoreEntry::default() };
    let exit_signal = u32::try_from(stat.exit_signal).ok();
    let mut own = StasisThreadEntry { tid: pid as u32, exit_signal, ..StasisThreadEntry::default() };
    pids.number(&status.ns_pid, &status, &mut own);
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
    Ok(TaskImages { pid, pstree, cores: vec![core], alive: None, ended_leader: None })
}

/// A refusal of a root that follows a session or process group which somebody else leads.
pub(crate) fn outside_leader(root: i32) -> Option<Problem> {
    let stat = read_proc(format!("/proc/{root}/stat"), procfs::stat::parse).ok()?;
    let ids = [("session", stat.session), ("process group", stat.pgrp)];
    let (what, id) = ids.into_iter().find(|(_, id)| *id != root)?;
    Some(Problem::new(RelationRefusal::Outside { what, id }))
}

/// Takes descriptors out of all tables that are to be lost.
pub(super) fn without_closed(images: &mut [TaskImages], files: &mut FilesDump<'_>) {
    let tables = images.iter_mut().filter_map(|image| image.alive.as_mut()?.fdinfo.as_mut());
    tables.for_each(|table| files.without_closed(table));
}

/// The cores of a task as they are written, in the order of its threads. A leader that has ended gets what belongs to
/// the task, and what its first living thread has.
fn written_cores(task: &mut TaskImages) -> Vec<ThreadImage> {
    let mut cores = std::mem::take(&mut task.cores);
    if let (Some(ended), Some(first)) = (&task.ended_leader, cores.first_mut()) {
        let mut leader = first.clone();
        first.tc = None;
        let thread = task_kinds::thread(&mut leader);
        // What ends with the thread, and what only it could take.
        thread.futex_rla = 0;
        thread.futex_rla_len = 0;
        thread.rseq_entry = None;
        thread.sas = None;
        thread.signals_p = None;
        thread.comm.clone_from(&ended.ended_name);
        if let Some(info) = &mut leader.thread_info {
            info.clear_tid_addr = 0;
        }
        leader.own = StasisThreadEntry {
            stop_seen: first.own.stop_seen.take(),
            continue_unseen: first.own.continue_unseen.take(),
            coredump_filter: first.own.coredump_filter,
            time_ns_for_children: first.own.time_ns_for_children.take(),
            pid_ns_for_children: first.own.pid_ns_for_children.take(),
            cgroup_roots: std::mem::take(&mut first.own.cgroup_roots),
            timer_makers: std::mem::take(&mut first.own.timer_makers),
            ..ended.clone()
        };
        if let (Some(tc), Some(name)) = (&mut leader.tc, &ended.ended_name) {
            tc.comm.clone_from(name);
        }
        cores.insert(0, leader);
    }
    cores
}

/// What is in one of a task's images.
enum Small {
    Core(Box<CoreEntry>),
    Ids(TaskKobjIdsEntry),
    Fs(FsEntry),
    Mm(MmEntry),
    Fdinfo(Vec<FdinfoEntry>),
}

impl Small {
    fn image(&self) -> &'static ImageType {
        use proto::catalogue as c;
        match self {
            Self::Core(_) => &c::CORE,
            Self::Ids(_) => &c::IDS,
            Self::Fs(_) => &c::FS,
            Self::Mm(_) => &c::MM,
            Self::Fdinfo(_) => &c::FDINFO,
        }
    }

    fn fill(&self, writer: &mut ImageWriter) -> Result<(), proto::Error> {
        match self {
            Self::Core(core) => writer.entry(&**core),
            Self::Ids(ids) => writer.entry(ids),
            Self::Fs(fs) => writer.entry(fs),
            Self::Mm(mm) => writer.entry(mm),
            Self::Fdinfo(table) => table.iter().try_for_each(|entry| writer.entry(entry)),
        }
    }
}

/// Writes everything but files and pages.
pub(super) fn write(
    tasks: &mut [TaskImages],
    times: &TimeSpaces,
    images: &mut NewImages,
) -> Result<(), Problem> {
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
    let (mut own, mut small) = (Vec::new(), Vec::new());
    for task in tasks {
        let pid = task.pid.into();
        for (core, tid) in written_cores(task).into_iter().zip(&task.pstree.threads) {
            small.push((u64::from(*tid), Small::Core(Box::new(core.core))));
            own.push(core.own);
        }
        let Some(alive) = &mut task.alive else { continue };
        small.push((pid, Small::Ids(alive.ids)));
        small.push((pid, Small::Fs(alive.fs)));
        small.extend(alive.mm.take().map(|mm| (pid, Small::Mm(mm))));
        let table = alive.fdinfo.take();
        small.extend(table.map(|table| (alive.ids.files_id.into(), Small::Fdinfo(table))));
    }
    images.write_each(&small, |(id, file)| (file.image(), *id), |(_, file), writer| file.fill(writer))?;
    images.write(&c::STASIS_THREADS, 0, &own)?;
    images.write(&c::SECCOMP, 0, &[filters])?;
    times.write(images)
}

/// The inventory, which makes a directory of images a set.
pub(super) fn inventory(root_cg_set: Option<u32>) -> InventoryEntry {
    InventoryEntry {
        img_version: IMAGE_VERSION,
        fdinfo_per_id: Some(true),
        root_ids: Some(namespaces::our_ids()),
        ns_per_id: Some(true),
        root_cg_set,
        lsmtype: Some(proto::messages::Lsmtype::NoLsm.into()),
        ..InventoryEntry::default()
    }
}
