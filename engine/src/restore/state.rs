//! What a stub gets, step by step, when it has its memory: descriptors, threads, settings.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::os::fd::AsFd as _;

use super::finish::{self, Guarded, Registers};
use super::last_pid::LastPid;
use super::memory;
use super::mount_spaces;
use super::pid_spaces::Numbers;
use super::set::{Alive, Task, Thread};
use super::stub::{Stub, Stubs, add_setns};
use super::tree::{add_clone, wait_for_clone};
use super::user_spaces::{self, Users};
use crate::args;
use crate::error::{Context as _, Problem, SysError};
use crate::image::Images;
use crate::kinds::files::{FilesRestore, InTask, mounted};
use crate::kinds::mm::bounds;
use crate::kinds::namespaces::mnt;
use crate::kinds::task::creds::BornBelow;
use crate::kinds::task::{Moment, Scope, ThreadImage, ThreadRestore, UserSpaceEntry, seccomp};
use crate::kinds::{TASK_KINDS, files::FileRefusal};
use crate::made_files::MadeFiles;
use crate::options::RestoreOptions;
use crate::pid_spaces::PidInside;
use crate::sys::socket::Credentials;
use crate::tracee::batch::{Batch, Replies};

/// The step in which a task gets its root and working directory.
const DIRECTORIES: &str = "set its directories";

/// Gives every task its directories and descriptors.
pub(super) fn descriptors(
    stubs: &mut Stubs,
    tasks: &[Task],
    files: &mut FilesRestore<'_>,
) -> Result<(), Problem> {
    let mut sockets: HashMap<usize, BTreeSet<i32>> = HashMap::new();
    for stub in &stubs.0 {
        sockets.entry(stub.table).or_default().extend(stub.agent_fd());
    }
    let are_together = !memory::shares_table(tasks);
    if !are_together {
        stubs.collect()?;
    }
    for (task, stub) in tasks.iter().zip(&mut stubs.0) {
        let Some(alive) = task.alive.as_ref().filter(|alive| alive.shares.fs.is_none()) else { continue };
        for directory in [alive.fs.root_id, alive.fs.cwd_id] {
            files.open(directory).of_task(&stub.name)?;
        }
        if !are_together {
            let mut batch = Batch::new();
            add_directories(alive, files, &mut batch).of_task(&stub.name)?;
            stub.post(DIRECTORIES, batch)?;
        }
    }
    if !are_together {
        // The directories of one arrive in the table of the other, where the lowest free numbers must be known.
        stubs.collect()?;
    }
    for (task, stub) in tasks.iter().zip(&mut stubs.0) {
        let Some(alive) = &task.alive else { continue };
        if alive.shares.files.is_none() {
            for fd in &alive.fds {
                files.open(fd.id).of_task(&stub.name)?;
            }
            let sockets = sockets.remove(&stub.table).unwrap_or_default();
            let directories = Some(alive).filter(|alive| are_together && alive.shares.fs.is_none());
            install(stub, alive, sockets, files, directories)?;
        }
    }
    // Others of the same table count on it.
    if are_together { Ok(()) } else { stubs.collect() }
}

/// Mounts what shows pids of namespaces that are there now.
pub(super) fn mount_later(
    tasks: &[Task],
    images: &Images,
    options: &RestoreOptions,
    files: &mut FilesRestore<'_>,
) -> Result<(), Problem> {
    let roots = mnt::mount_later(options, images, &mount_spaces::ids(tasks, options))?;
    mounted::note_late(files, roots);
    Ok(())
}

/// Has tasks enter the mount namespaces that are not the root's, where they get its root and working directory.
pub(super) fn mount_namespaces(
    stubs: &mut Stubs,
    tasks: &[Task],
    options: &RestoreOptions,
) -> Result<(), Problem> {
    for (stub, task) in stubs.0.iter_mut().zip(tasks) {
        let Some(alive) = &task.alive else { continue };
        let Some(id) = alive.ids.mnt_ns_id else { continue };
        let Some((_, fd)) = options.inside.mounts.iter().find(|(known, _)| *known == id) else { continue };
        let step = "enter its mount namespace";
        let file = File::open(format!("/proc/self/fd/{fd}")).map_err(SysError::io("open"));
        let file = file.of_task(&stub.name).while_trying_to(step)?;
        let mut batch = Batch::new();
        add_setns(&mut batch, file.as_fd(), libc::CLONE_NEWNS);
        stub.run(step, &batch)?;
    }
    Ok(())
}

/// Takes tasks into their network namespaces, before they have threads, which would have to go there by themselves.
pub(super) fn enter_spaces(stubs: &mut Stubs, tasks: &[Task], spaces: &MadeFiles) -> Result<(), Problem> {
    for (task, stub) in tasks.iter().zip(&mut stubs.0) {
        let id = task.alive.as_ref().and_then(|alive| alive.ids.net_ns_id);
        let Some(space) = id.and_then(|id| spaces.get(id)) else { continue };
        let mut batch = Batch::new();
        add_setns(&mut batch, space, libc::CLONE_NEWNET);
        stub.post("go into its network namespace", batch)?;
    }
    Ok(())
}

/// Adds the calls that set a task's root, working directory and umask.
fn add_directories<'fd>(
    alive: &Alive,
    files: &'fd FilesRestore<'_>,
    batch: &mut Batch<'fd>,
) -> Result<(), Problem> {
    let fs = &alive.fs;
    let root_is_ours = files.regular(fs.root_id)?.name == "/";
    let (Some(root), Some(cwd)) = (files.opened(fs.root_id), files.opened(fs.cwd_id)) else {
        return Err(Problem::new(FileRefusal::NoSuchId(fs.cwd_id)));
    };
    if !root_is_ours {
        let fd = batch.fd(root);
        let here = batch.input_str(b".");
        batch.call("fchdir", libc::SYS_fchdir, args![fd]);
        batch.call("chroot", libc::SYS_chroot, args![here]);
        batch.call("close", libc::SYS_close, args![fd]);
    }
    let fd = batch.fd(cwd);
    batch.call("fchdir", libc::SYS_fchdir, args![fd]);
    batch.call("close", libc::SYS_close, args![fd]);
    if let Some(umask) = fs.umask {
        batch.call("umask", libc::SYS_umask, args![umask]);
    }
    Ok(())
}

/// Moves each descriptor to its number.
///
/// The kernel puts descriptors that arrive at the lowest free numbers. Sent in ascending order of where they must go,
/// none arrives above its place, so moving the last first never hits one that is still to be moved.
///
/// `sockets` are the numbers that agents have in the table already. The `directories` that come along arrive above the first
/// descriptors, and are gone before those are moved.
fn install(
    stub: &mut Stub,
    alive: &Alive,
    sockets: BTreeSet<i32>,
    files: &FilesRestore<'_>,
    directories: Option<&Alive>,
) -> Result<(), Problem> {
    /// Descriptors in one message, so that its calls fit too.
    const AT_ONCE: usize = 80;
    let mut used = sockets;
    // What is in its place stays there, so the lowest free number only grows.
    let mut lowest = 0;
    let mut directories = directories;
    let none = alive.fds.is_empty().then_some([].as_slice());
    for fds in alive.fds.chunks(AT_ONCE).chain(none) {
        while used.contains(&lowest) {
            lowest += 1;
        }
        let mut arrivals = (lowest..).filter(|n| !used.contains(n));
        let mut batch = Batch::new();
        let mut moves = Vec::new();
        for fd in fds {
            let file = files.opened(fd.id).ok_or(FileRefusal::NoSuchId(fd.id)).of_task(&stub.name)?;
            moves.push((batch.fd(file), arrivals.next().unwrap_or(-1), fd));
        }
        let mut step = "give it its descriptors";
        if let Some(alive) = directories.take() {
            add_directories(alive, files, &mut batch).of_task(&stub.name)?;
            step = "set its directories and give it its descriptors";
        }
        for (arg, arrives, fd) in moves.into_iter().rev() {
            let cloexec = fd.flags & libc::FD_CLOEXEC as u32 != 0;
            let number = fd.fd as i32;
            if arrives != number {
                let flags = if cloexec { libc::O_CLOEXEC } else { 0 };
                batch.call("dup3", libc::SYS_dup3, args![arg, number, flags]);
                batch.call("close", libc::SYS_close, args![arg]);
            } else if !cloexec {
                batch.call("fcntl(F_SETFD)", libc::SYS_fcntl, args![arg, libc::F_SETFD, 0]);
            }
            used.insert(number);
        }
        stub.post(step, batch)?;
    }
    Ok(())
}

/// Makes all threads but the leaders; they stay stopped.
pub(super) fn create_threads(stubs: &mut Stubs, tasks: &[Task], users: &Users) -> Result<(), Problem> {
    const FLAGS: i32 = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_PTRACE;
    let numbers = Numbers::of(tasks);
    for (task, stub) in tasks.iter().zip(&mut stubs.0) {
        let others: Vec<i32> = task.threads.iter().skip(1).map(|thread| thread.tid).collect();
        let step = "create its threads";
        if !others.is_empty() && users.is_below(task) {
            let last = LastPid::open()?;
            for tid in others {
                let user = users.where_threads_are_made(task);
                let wanted = numbers.wanted(tid, |space| users.pid_owner(space) == user);
                let thread = last.clone_thread(stub, FLAGS, &wanted);
                stub.threads.push(Some(thread.of_task(&stub.name).while_trying_to(step)?));
            }
            continue;
        }
        for tids in others.chunks(128) {
            let mut batch = Batch::new();
            for &tid in tids {
                add_clone(&mut batch, FLAGS as u64, 0, &numbers.to_set(tid));
            }
            stub.run(step, &batch)?;
            for &tid in tids {
                let stopped = wait_for_clone(tid).of_task(&stub.name).while_trying_to(step)?;
                stub.threads.push(Some(stopped));
            }
        }
    }
    Ok(())
}

/// Restores what kinds of task state say, and starts what runs by itself when all tasks have everything else. That is the last
/// that a task does before it runs: those that need nobody any more have their registers then.
/// What a guardian will know of them was looked for meanwhile.
pub(super) fn settings(stubs: &mut Stubs, tasks: &[Task], users: &Users) -> Result<Guarded, Problem> {
    let mut starting = BTreeSet::new();
    for (task, stub) in living(tasks, stubs) {
        suspend_filters(stub, task).of_task(&stub.name).while_trying_to("suspend its seccomp filters")?;
        let how = (user_spaces::hand_out(stub, task, users)?, users.born_below(task.pid));
        settle(stub, task, Moment::Prepare, how)?;
        settle(stub, task, Moment::Restore, how)?;
        if has_to_start(task) {
            starting.insert(task.pid);
        } else {
            finish::let_leave(stub, task)?;
        }
    }
    let guarded = finish::look_for_guardian(stubs)?;
    let mut registers = Registers::default();
    for (task, stub) in living(tasks, stubs) {
        stub.collect()?;
        if stub.is_leaving() {
            finish::take_out(stub, task, &mut registers)?;
        }
    }
    for (task, stub) in living(tasks, stubs).filter(|(task, _)| starting.contains(&task.pid)) {
        settle(stub, task, Moment::Start, (UserSpaceEntry::Done, None))?;
        finish::let_leave(stub, task)?;
    }
    stubs.collect()?;
    Ok(guarded)
}

/// Tasks that are no zombies, and their stubs.
fn living<'a>(tasks: &'a [Task], stubs: &'a mut Stubs) -> impl Iterator<Item = (&'a Task, &'a mut Stub)> {
    tasks.iter().zip(&mut stubs.0).filter(|(task, _)| task.alive.is_some())
}

/// Whether a task has something that runs by itself.
fn has_to_start(task: &Task) -> bool {
    let all: Vec<_> = task.threads.iter().map(|thread| &thread.core).collect();
    let how = (Moment::Start, (UserSpaceEntry::Done, None));
    let mut batches = task.threads.iter().map(|thread| batch_of(task, &all, thread, how));
    // What is wrong is told when it is to be started.
    batches.any(|batch| batch.map_or(true, |batch| !batch.into_parts().is_empty()))
}

/// Keeps seccomp filters, which are about to be installed, from applying to what is still to be done.
fn suspend_filters(stub: &mut Stub, task: &Task) -> Result<(), Problem> {
    const OPTIONS: i32 = libc::PTRACE_O_EXITKILL | libc::PTRACE_O_SUSPEND_SECCOMP;
    if !task.threads.iter().any(|thread| seccomp::is_filtered(&thread.core)) {
        return Ok(());
    }
    for thread in stub.threads.iter().flatten() {
        thread.set_options(OPTIONS)?;
    }
    stub.agent()?.while_stopped(|leader| leader.set_options(OPTIONS))??;
    Ok(())
}

/// How a task comes into its user namespace, and what it has had since its birth in another one.
type UserSpace<'a> = (UserSpaceEntry, Option<&'a BornBelow>);

/// Has the threads of one task set what kinds say. The leader comes first where it prepares what others need, and else
/// last, since what is set may be a limit for it.
fn settle(stub: &mut Stub, task: &Task, moment: Moment, users: UserSpace<'_>) -> Result<(), Problem> {
    let step = "restore its settings";
    let all: Vec<_> = task.threads.iter().map(|thread| &thread.core).collect();
    let how = (moment, users);
    if moment == Moment::Prepare {
        settle_leader(stub, task, &all, how)?;
    }
    let mut batches = Vec::new();
    for thread in task.threads.iter().skip(1) {
        let batch = batch_of(task, &all, thread, how).of_task(&stub.name).while_trying_to(step)?;
        batches.push(batch.into_parts());
    }
    for round in 0.. {
        let threads = stub.threads.iter_mut().zip(&batches).enumerate();
        let jobs: Vec<_> = threads
            .filter_map(|(at, (thread, parts))| {
                let batch = parts.get(round)?;
                Some((at + 1, thread.take()?, batch))
            })
            .collect();
        if jobs.is_empty() {
            break;
        }
        let name = stub.name.clone();
        let done = stub.agent()?.run_on_threads(jobs).of_task(&name).while_trying_to(step)?;
        for (at, stopped, _) in done {
            if let Some(place) = stub.threads.get_mut(at - 1) {
                *place = Some(stopped);
            }
        }
    }
    if moment == Moment::Prepare { Ok(()) } else { settle_leader(stub, task, &all, how) }
}

fn settle_leader(
    stub: &mut Stub,
    task: &Task,
    all: &[&ThreadImage],
    how: (Moment, UserSpace<'_>),
) -> Result<(), Problem> {
    let step = "restore its settings";
    let Some(leader) = task.threads.first() else { return Ok(()) };
    let mut batch = batch_of(task, all, leader, how).of_task(&stub.name).while_trying_to(step)?;
    if let Some(alive) = task.alive.as_ref().filter(|_| how.0 == Moment::Restore) {
        bounds::restore_dumpable(&alive.mm, &mut batch);
    }
    batch.into_parts().into_iter().try_for_each(|part| stub.post(step, part))
}

/// What all kinds have a thread set at a moment; `all` are the images of the task's threads.
fn batch_of(
    task: &Task,
    all: &[&ThreadImage],
    thread: &Thread,
    (moment, (user_space, born_below)): (Moment, UserSpace<'_>),
) -> Result<Batch<'static>, Problem> {
    /// Calls of a kind, at most, that does not make room for more itself.
    const CALLS: usize = 120;
    let (core, leader) = (&thread.core, task.core());
    let cx = ThreadRestore { core, leader, all, tid: thread.tid, pid: task.pid, user_space, born_below };
    let is_leader = thread.tid == task.pid;
    let mut batch = Batch::new();
    for kind in TASK_KINDS.iter().filter(|kind| is_leader || kind.scope() == Scope::Thread) {
        batch.room(CALLS, 0);
        kind.restore(moment, cx, &mut batch)?;
    }
    batch.room(CALLS, 0);
    Ok(batch)
}

/// Lets kinds of files act in stubs.
#[derive(Debug)]
pub(super) struct InStubs<'a> {
    /// The stubs …
    pub stubs: &'a mut Stubs,
    /// … and the tasks that they will be.
    pub tasks: &'a [Task],
}

impl InTask for InStubs<'_> {
    fn run_where<'fd>(
        &mut self,
        id: u32,
        fill: &mut dyn FnMut(i32, &mut Batch<'fd>),
    ) -> Result<Replies, Problem> {
        for (task, stub) in self.tasks.iter().zip(&mut self.stubs.0) {
            let fds = task.alive.iter().flat_map(|alive| &alive.fds);
            if let Some(fd) = fds.into_iter().find(|fd| fd.id == id) {
                let mut batch = Batch::new();
                fill(fd.fd as i32, &mut batch);
                return stub.run("connect its files", &batch);
            }
        }
        Err(Problem::new(FileRefusal::NoSuchId(id)))
    }

    fn run_in<'fd>(
        &mut self,
        pid: i32,
        fill: &mut dyn FnMut(i32, &mut Batch<'fd>),
    ) -> Result<Option<Replies>, Problem> {
        let Some(stub) = self.stubs.0.iter_mut().find(|s| s.pid == pid && s.has_agent()) else {
            return Ok(None);
        };
        let mut batch = Batch::new();
        // Of all numbers, the stub uses that of the agent's socket only.
        fill(stub.agent_fd().unwrap_or(0) + 1, &mut batch);
        stub.run("make its files", &batch).map(Some)
    }

    fn seen_from(&self, pid: i32, other: i32) -> Option<PidInside> {
        Numbers::of(self.tasks).seen_from(pid, other)
    }

    fn holder(&self, id: u32) -> Option<Credentials> {
        let holds = |task: &&Task| task.alive.iter().flat_map(|alive| &alive.fds).any(|fd| fd.id == id);
        let task = self.tasks.iter().find(holds)?;
        let creds = task.core().thread_core.as_ref().and_then(|core| core.creds.as_ref());
        let (uid, gid) = creds.map_or((0, 0), |creds| (creds.euid, creds.egid));
        Some(Credentials { pid: task.pid as u32, uid, gid })
    }

    fn file_of(&self, pid: i32, fd: i32) -> Option<u32> {
        file_of(self.tasks, pid, fd)
    }
}

/// The file that is a certain descriptor of a task.
pub(super) fn file_of(tasks: &[Task], pid: i32, fd: i32) -> Option<u32> {
    let alive = tasks.iter().find(|task| task.pid == pid)?.alive.as_ref()?;
    let at = alive.fds.binary_search_by_key(&(fd as u32), |entry| entry.fd).ok()?;
    alive.fds.get(at).map(|entry| entry.id)
}
