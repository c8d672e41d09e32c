//! Every refusal of a restore, found before anything is created.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::births::{self, Step};
use super::set::{TASK_SIZE, Task};
use super::state::file_of;
use super::{pid_spaces, task_spaces, time_spaces, tree, user_spaces};
use crate::arch;
use crate::dump::inspect::read_proc;
use crate::error::{Class, Explain, Object, Problem, SysError};
use crate::image::Images;
use crate::kinds::files::FilesRestore;
use crate::kinds::mm::{self, vdso};
use crate::kinds::namespaces;
use crate::options::{Inside, RestoreOptions};
use crate::procfs;
use crate::procfs::link::NamespaceType;
use crate::room;
use crate::sys::namespace;
use crate::task_spaces::TYPES;
use crate::tracee::agent::Layout;
use crate::tracee::freeze::{process_state, task_name};

/// How long a pid may still be held by a zombie that is about to be reaped.
const REAP_LIMIT: Duration = Duration::from_secs(3);

/// Why a tree cannot be restored here and now.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlanRefusal {
    /// Somebody else has the pid.
    #[error("pid {pid} is taken by {by}")]
    PidTaken {
        /// Which.
        pid: i32,
        /// By whom.
        by: String,
    },
    /// No room for the agent.
    #[error("the address spaces of the tasks leave no room of {0} bytes in common")]
    NoHole(u64),
    /// A session that there is no way into.
    #[error("there is no order of births that would bring it into its session, {id}")]
    NoLeader {
        /// The session.
        id: i32,
    },
    /// A namespace that only a part of the tree is in.
    #[error("it is in another {0} namespace than the root of the tree, which is not supported yet")]
    OtherNamespace(&'static str),
    /// Something shared that cannot be shared again.
    #[error("there is no order of births that would let it share its {what} with the same tasks again")]
    LostSharing {
        /// What.
        what: &'static str,
    },
}

impl Explain for PlanRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::PidTaken { .. } => {
                Some("end that process, or restore into a pid namespace of its own with --own-pidns".into())
            }
            _ => None,
        }
    }
}

/// The order of births, or all that stands in the way of a restore.
pub(super) fn check(tasks: &[Task], files: &FilesRestore<'_>) -> Result<Vec<Step>, Vec<Problem>> {
    let mut problems = Vec::new();
    let options = files.options;
    let is_there =
        |tid: i32| !options.inside.types.is_empty() && tasks.first().is_some_and(|root| root.pid == tid);
    for task in tasks {
        let mut found = Vec::new();
        found.extend(other_namespace(task, tasks, &options.inside).map(Problem::new));
        for thread in &task.threads {
            if !is_there(thread.tid) {
                found.extend(pid_taken(thread.tid));
            }
        }
        let name = task.name();
        problems.extend(found.into_iter().map(|p| p.task(&name)));
    }
    problems.extend(tasks.iter().flat_map(of_image));
    problems.extend(time_spaces::check(tasks, files.images));
    problems.extend(pid_spaces::check(tasks));
    problems.extend(task_spaces::check(tasks, files.images));
    problems.extend(user_spaces::check(tasks, files.images));
    problems.extend(room::make_ours(descriptors(tasks, files)).err());
    let births = births::plan(tasks, free_pids(tasks));
    problems.extend(tree::ended_leaders(tasks).into_iter().filter_map(pid_taken));
    if hole(tasks, options).is_none() {
        problems.push(Problem::new(PlanRefusal::NoHole(agent_size(tasks))));
    }
    files.check(&|pid, fd| file_of(tasks, pid, fd), &mut problems);
    match births {
        Ok(steps) if problems.is_empty() => Ok(steps),
        Ok(_) => Err(problems),
        Err(refused) => {
            problems.extend(refused);
            Err(problems)
        }
    }
}

/// All that stands in the way wherever the tree is restored: for one in namespaces that are not there yet, in which nothing can be
/// said of files, and of who has which pid.
pub(super) fn check_images(tasks: &[Task], images: &Images) -> Result<(), Vec<Problem>> {
    let mut problems: Vec<Problem> = tasks.iter().flat_map(of_image).collect();
    problems.extend(time_spaces::check(tasks, images));
    problems.extend(user_spaces::check(tasks, images));
    problems.extend(births::plan(tasks, free_pids(tasks)).err().unwrap_or_default());
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// What the image of a task asks of a machine and has not got here: registers, kinds of mappings, the vdso.
fn of_image(task: &Task) -> Vec<Problem> {
    let mut found = Vec::new();
    let threads = task.threads.iter().skip(usize::from(task.ended_leader().is_some()));
    for thread in threads.filter(|_| task.alive.is_some()) {
        let permitted = thread.core.own.xstate_permission.unwrap_or(0);
        if let Err(e) = arch::check_registers(&thread.core, permitted) {
            found.push(Problem::new(e).object(Object::Thread { tid: thread.tid }));
        }
    }
    if let Some(alive) = task.alive.as_ref().filter(|alive| alive.shares.vm.is_none()) {
        found.extend(alive.mm.vmas.iter().filter_map(|vma| mm::kind_of(vma).err()));
        found.extend(vdso::check(&alive.mm.vmas, vdso::here()).err());
    }
    let name = task.name();
    found.into_iter().map(|p| p.task(&name)).collect()
}

/// A type of namespace in which a task is apart from the root, and which was not made for it.
fn other_namespace(task: &Task, tasks: &[Task], inside: &Inside) -> Option<PlanRefusal> {
    let (own, root) = (task.alive.as_ref()?.ids, tasks.first()?.alive.as_ref()?.ids);
    let is_made = |kind: NamespaceType, id: u32| match kind {
        NamespaceType::Mnt => inside.mounts.iter().any(|(known, _)| *known == id),
        NamespaceType::Net => inside.spaces.get(id).is_some(),
        // Modules of their own look at these.
        NamespaceType::Time | NamespaceType::Pid | NamespaceType::User => true,
        kind => TYPES.contains(&kind),
    };
    let apart = |kind: &NamespaceType| {
        let id = namespaces::id(&own, *kind);
        id != namespaces::id(&root, *kind) && !id.is_some_and(|id| is_made(*kind, id))
    };
    NamespaceType::ALL.into_iter().find(apart).map(|kind| PlanRefusal::OtherNamespace(kind.name()))
}

/// Pids that nobody has, neither here nor in the images: for helpers. The highest, which the kernel gives last.
pub(super) fn free_pids(tasks: &[Task]) -> impl Iterator<Item = i32> {
    /// `PID_MAX_DEFAULT` of `include/linux/threads.h`.
    const PID_MAX: i32 = 0x8000;
    let mut taken: HashSet<i32> =
        tasks.iter().flat_map(|task| task.threads.iter().map(|thread| thread.tid)).collect();
    taken.extend(tasks.iter().flat_map(|task| [task.sid, task.pgid]));
    let max = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok();
    let max = max.and_then(|text| text.trim().parse().ok()).unwrap_or(PID_MAX);
    (2..max).rev().filter(move |pid| !taken.contains(pid) && task_name(*pid).is_none())
}

/// How many descriptors we must be allowed: for all files at once, and in each stub for the highest number and those that
/// its agent uses.
fn descriptors(tasks: &[Task], files: &FilesRestore<'_>) -> u64 {
    let numbers = tasks.iter().flat_map(|task| &task.alive).flat_map(|alive| &alive.fds);
    let highest = numbers.map(|entry| u64::from(entry.fd) + 1).max().unwrap_or(0);
    // An agent has a number of its own and uses the next; those of others in the same table are passed over.
    let sharing =
        tasks.iter().flat_map(|task| &task.alive).filter(|alive| alive.shares.files.is_some()).count();
    let own = |task: &Task| {
        let fds = task.alive.iter().flat_map(|alive| &alive.fds);
        tree::socket_number(fds.map(|entry| entry.fd as i32).collect()) as u64
    };
    let agents = tasks.iter().map(own).max().unwrap_or(0) + 4 + 2 * sharing as u64;
    highest.max(agents).max(files.ids().len() as u64 + room::RESERVE)
}

/// A problem if a pid is not free. One that a zombie holds is waited for, for a moment.
pub(super) fn pid_taken(pid: i32) -> Option<Problem> {
    let deadline = Instant::now() + REAP_LIMIT;
    loop {
        let name = task_name(pid)?;
        let is_zombie = process_state(pid) == Some('Z');
        if !is_zombie || Instant::now() > deadline {
            let by = if is_zombie {
                format!("{name}, a zombie that its parent does not reap")
            } else {
                name.to_string()
            };
            return Some(Problem::new(PlanRefusal::PidTaken { pid, by }));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Forks with a pid that nobody seems to have. What is left of a session or a group with that number, a zombie that waits for its
/// parent, holds it still, and a process that was just reaped is gone from /proc a moment before its number is free
/// (`release_task` of `kernel/exit.c`, Linux 6.15): that is waited for, for a moment.
pub(super) fn fork_when_free(pid: i32, flags: i32) -> Result<Option<i32>, SysError> {
    let deadline = Instant::now() + REAP_LIMIT;
    loop {
        match namespace::fork_with_pid(pid, flags) {
            Err(SysError { errno: Errno::EEXIST, .. })
                if task_name(pid).is_none() && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            forked => return forked,
        }
    }
}

/// Bytes that agents need: each as many as for the task with the most threads, and as many as tasks share memory.
fn agent_size(tasks: &[Task]) -> u64 {
    let mut sharing: HashMap<u32, u64> = HashMap::new();
    for alive in tasks.iter().flat_map(|task| &task.alive) {
        *sharing.entry(alive.ids.vm_id).or_default() += 1;
    }
    let most = sharing.into_values().max().unwrap_or(1);
    Layout::size(most_threads(tasks)).saturating_mul(most)
}

/// Threads of the task with the most.
pub(super) fn most_threads(tasks: &[Task]) -> usize {
    tasks.iter().map(|task| task.threads.len()).max().unwrap_or(1)
}

/// Kept free on either side of the agent, so that no stack grows into it.
const GAP: u64 = 1 << 21;

/// An address range for the agent that is free in every task, and in our own process, from which the first is made, or has
/// been made.
pub(super) fn hole(tasks: &[Task], options: &RestoreOptions) -> Option<u64> {
    let size = agent_size(tasks);
    let first = match tasks.first() {
        Some(root) if !options.inside.types.is_empty() => root.pid.to_string(),
        _ => "self".to_owned(),
    };
    let first = read_proc(format!("/proc/{first}/maps"), procfs::maps::parse).ok()?;
    let mut used: Vec<(u64, u64)> = first.iter().map(|vma| (vma.start, vma.end)).collect();
    let spaces = tasks.iter().flat_map(|task| &task.alive).filter(|alive| alive.shares.vm.is_none());
    used.extend(spaces.flat_map(|alive| &alive.mm.vmas).map(|vma| (vma.start, vma.end)));
    used.sort_unstable();
    // Low addresses are left to programs that ask for them.
    let mut at = 1 << 32;
    for (start, end) in used {
        if start > at && start - at >= size.saturating_add(2 * GAP) {
            break;
        }
        at = at.max(end);
    }
    (size.saturating_add(2 * GAP) <= TASK_SIZE.saturating_sub(at)).then_some(at + GAP)
}
