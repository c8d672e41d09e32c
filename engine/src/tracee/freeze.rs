//! Stopping a whole process tree, and letting it go again.

use std::collections::HashSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::dump::inspect::{read_proc, read_text};
use crate::error::{Class, Context as _, Explain, Problem, SysError, TaskName};
use crate::procfs;
use crate::supervise::{Guardian, LastDeeds};
use crate::sys::namespace::INIT;
use crate::sys::pidfd;
use crate::sys::ptrace::{self, Queue, Resume, SIGINFO_SIZE};
use crate::tracee::agent::Agent;
use crate::tracee::cgroup::{FrozenCgroup, GivenCgroup};
use crate::tracee::reaping::{reap, wait_until_reaped};
use crate::tracee::sleep::Sleep;
use crate::tracee::stopped::{Running, Stop, Stopped, TraceError};
use crate::tracee::vfork;

/// Rounds of looking for new tasks before a tree counts as forking faster than it can be stopped.
const MAX_ROUNDS: usize = 64;

/// Why a tree cannot be frozen.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// New tasks kept appearing.
    #[error("it creates tasks faster than they can be stopped ({MAX_ROUNDS} rounds)")]
    Outrun,
    /// The root ended before it was stopped.
    #[error("it ended while it was being stopped")]
    Gone,
    /// Somebody else traces it.
    #[error("it is traced by {tracer}")]
    Traced {
        /// The tracer, by pid and name.
        tracer: String,
    },
}

impl Explain for FreezeError {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Outrun => {
                Some("run it in a cgroup (v2) of its own, which can be frozen, or try again".into())
            }
            Self::Gone => None,
            Self::Traced { .. } => Some("detach the debugger or strace first".into()),
        }
    }
}

/// What a task was doing when we came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// Running or sleeping.
    Alive,
    /// Stopped by this signal.
    Stopped(i32),
    /// Ended, and not yet waited for by its parent.
    Zombie,
}

/// A thread that we stopped.
#[derive(Debug)]
pub struct FrozenThread {
    /// Its id in our pid namespace.
    pub tid: i32,
    /// The stopped thread; taken out while it runs for us.
    pub stopped: Option<Stopped>,
    /// What it stopped at.
    stop: Stop,
    /// The call that it is to go on with.
    pub sleep: Option<Sleep>,
}

impl FrozenThread {
    /// The stopped thread; it is put back wherever it was taken out.
    pub fn stopped(&self) -> &Stopped {
        self.stopped.as_ref().expect("whoever lets a frozen thread run puts it back")
    }
}

/// A task whose threads are all stopped.
#[derive(Debug)]
pub struct FrozenTask {
    /// Its pid in our pid namespace.
    pub pid: i32,
    /// How messages name it.
    pub name: TaskName,
    /// Its parent's place in [`FrozenTree::tasks`]; none for the root.
    pub parent: Option<usize>,
    /// What it was doing.
    pub state: TaskState,
    /// Its threads that have not ended, in the order of `/proc/PID/task`: the leader first, if it has not ended before the
    /// others. Empty for a zombie.
    pub threads: Vec<FrozenThread>,
    /// The agent, while it is in.
    pub agent: Option<Agent>,
}

/// A stopped process tree. Dropping it lets the tree go on as it was.
#[derive(Debug)]
pub struct FrozenTree {
    /// Its tasks, parents before their children.
    pub tasks: Vec<FrozenTask>,
    /// The cgroup that it was frozen with.
    cgroup: Option<GivenCgroup>,
}

impl FrozenTree {
    /// Stops `root` and everything below it, with the help of a cgroup that it is in, if one is given.
    pub fn freeze(root: i32, cgroup: Option<&Path>, limit: Duration) -> Result<Self, Problem> {
        crate::sys::process::hold_child_signal()?;
        let cgroup = cgroup.map(|dir| GivenCgroup::seize(dir, limit)).transpose()?;
        let mut tree = Self { tasks: Vec::new(), cgroup };
        let root = FrozenTask::seize(root, None, limit)?.ok_or_else(|| Problem::new(FreezeError::Gone))?;
        let mut known = HashSet::from([root.pid]);
        tree.tasks.push(root);
        tree.seize_children_of(0, &mut known, limit)?;
        if tree.catch_up(&mut known, limit)? {
            return Ok(tree);
        }
        let (pid, name) = (tree.tasks[0].pid, tree.tasks[0].name.clone());
        log::info!("{name} makes tasks faster than they can be stopped one by one");
        let frozen = FrozenCgroup::of(pid, limit).of_task(&name).while_trying_to("freeze its cgroup")?;
        if frozen.is_some() && tree.catch_up(&mut known, limit)? {
            return Ok(tree);
        }
        Err(Problem::new(FreezeError::Outrun).task(&name))
    }

    /// Looks for new tasks until there are none; false if that does not come to an end.
    fn catch_up(&mut self, known: &mut HashSet<i32>, limit: Duration) -> Result<bool, Problem> {
        for _ in 0..MAX_ROUNDS {
            if !self.seize_adopted(known, limit)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Stops everything below the tasks from place `from` on; they are stopped themselves, so they get no more children
    /// of their own.
    fn seize_children_of(
        &mut self,
        from: usize,
        known: &mut HashSet<i32>,
        limit: Duration,
    ) -> Result<(), Problem> {
        let mut at = from;
        while let Some(task) = self.tasks.get(at) {
            for child in task.children(task.threads.len()) {
                self.seize_child(child, at, known, limit)?;
            }
            at += 1;
        }
        Ok(())
    }

    /// Stops children that tasks were given meanwhile, because the parents of those ended. Whether there were any: then
    /// more may have followed.
    fn seize_adopted(&mut self, known: &mut HashSet<i32>, limit: Duration) -> Result<bool, Problem> {
        let tasks = self.tasks.len();
        let mut found = false;
        for at in 0..tasks {
            // Orphans go to the first living thread (`find_new_reaper` of kernel/exit.c).
            let children = self.tasks.get(at).map(|task| task.children(1)).unwrap_or_default();
            for child in children {
                found |= self.seize_child(child, at, known, limit)?;
            }
        }
        self.seize_children_of(tasks, known, limit)?;
        Ok(found)
    }

    /// Stops one child; whether it was new.
    fn seize_child(
        &mut self,
        child: i32,
        parent: usize,
        known: &mut HashSet<i32>,
        limit: Duration,
    ) -> Result<bool, Problem> {
        if known.contains(&child) {
            return Ok(false);
        }
        if let Some(task) = FrozenTask::seize(child, Some(parent), limit)? {
            known.insert(child);
            self.tasks.push(task);
        }
        Ok(true)
    }

    /// Whether it was in the freezer before we came, and goes back there.
    pub fn was_frozen(&self) -> bool {
        self.cgroup.as_ref().is_some_and(GivenCgroup::was_frozen)
    }

    /// Lets the tree go on as it was.
    pub fn thaw(mut self) -> Result<(), Problem> {
        self.release()
    }

    /// Lets the tree go, stopped as by `SIGSTOP`.
    pub fn leave_stopped(mut self) -> Result<(), Problem> {
        for task in self.tasks.iter().filter(|task| task.state == TaskState::Alive) {
            let pid = nix::unistd::Pid::from_raw(task.pid);
            let sent = nix::sys::signal::kill(pid, nix::sys::signal::SIGSTOP);
            sent.map_err(SysError::of("kill")).map_err(|e| Problem::new(e).task(&task.name))?;
        }
        self.release()
    }

    /// From here on, should we die, the tree dies with us: the images are complete, and half a tree is no tree.
    ///
    /// TCP sockets that are to be silenced (our duplicates) are so then, too; a single task needs a guardian for them only.
    pub fn guard_the_end(&self, deeds: &LastDeeds) -> Result<Guardian, Problem> {
        let pids: Vec<i32> = self.tasks.iter().map(|task| task.pid).collect();
        let agents = self.tasks.iter().filter_map(|task| Some(task.agent.as_ref()?.socket())).collect();
        let deeds = LastDeeds { agents, ..deeds.clone() };
        let guardian = Guardian::of(&pids, &deeds);
        guardian.map_err(|e| Problem::new(e).step("guard the end of the tree"))
    }

    /// Kills all tasks, and waits until we, as their tracer, have reaped what is ours to reap. `large` are those that have
    /// much memory, which we help to free.
    pub fn kill(mut self, guardian: Guardian, large: &[OwnedFd]) -> Result<(), Problem> {
        if self.tasks.first().is_some_and(|root| root.pid == INIT) {
            // Nobody in a pid namespace can kill its init. Our end does, for we trace it, and that of all others comes with it.
            self.end_with_us()?;
            return guardian.dismiss().map_err(|e| Problem::new(e).step("guard the end of the tree"));
        }
        // Agents are in there until all are killed: when one sees our end of its socket closed, its task goes on.
        let tasks = std::mem::take(&mut self.tasks);
        for task in &tasks {
            let killed =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(task.pid), nix::sys::signal::SIGKILL);
            match killed {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(Problem::new(SysError { call: "kill", errno }).task(&task.name)),
            }
        }
        for task in large {
            if let Err(e) = pidfd::release_memory(task) {
                log::debug!("a task frees its memory by itself: {e}");
            }
        }
        // The init of a pid namespace ends when all others there are gone, and they come after it.
        for task in tasks.iter().rev() {
            // The leader's end is reported last, when all other threads are gone.
            for thread in task.threads.iter().rev() {
                reap(thread.tid);
            }
        }
        wait_until_reaped(&tasks);
        guardian.dismiss().map_err(|e| Problem::new(e).step("guard the end of the tree"))
    }

    /// Has the kernel kill all tasks when we end.
    fn end_with_us(&mut self) -> Result<(), Problem> {
        self.stop_agents()?;
        for task in &mut self.tasks {
            if let Some(agent) = task.agent.take() {
                agent.abandon(task).map_err(|e| Problem::new(e).task(&task.name))?;
            }
            for thread in &task.threads {
                thread.stopped().set_options(libc::PTRACE_O_EXITKILL)?;
            }
        }
        self.tasks.clear();
        Ok(())
    }

    /// Asks all agents to stop, so that they do so at the same time.
    fn stop_agents(&mut self) -> Result<(), Problem> {
        for task in &mut self.tasks {
            if let Some(agent) = &mut task.agent {
                agent.begin_to_stop().map_err(|e| Problem::new(e).task(&task.name))?;
            }
        }
        Ok(())
    }

    /// Takes the agents out and detaches; goes on after a failure, and returns the first.
    fn release(&mut self) -> Result<(), Problem> {
        let mut first = self.stop_agents();
        for task in &mut self.tasks {
            let name = task.name.clone();
            if let Some(agent) = task.agent.take()
                && let Err(e) = agent.remove(task)
                && first.is_ok()
            {
                first = Err(Problem::new(e).task(&name).step("take the agent out"));
            }
        }
        // Who was frozen before goes from our hands into the freezer.
        drop(self.cgroup.take());
        for task in &mut self.tasks {
            let name = task.name.clone();
            for thread in task.threads.drain(..) {
                let Some(stopped) = thread.stopped else { continue };
                match stopped.detach(0) {
                    Ok(()) | Err(SysError { errno: Errno::ESRCH, .. }) => {}
                    Err(e) if first.is_ok() => first = Err(Problem::new(e).task(&name).step("let it go")),
                    Err(_) => {}
                }
            }
        }
        self.tasks.clear();
        first
    }
}

impl Drop for FrozenTree {
    fn drop(&mut self) {
        if let Err(problem) = self.release() {
            log::error!("{problem:?}");
        }
    }
}

/// Whether we trace a thread already.
fn is_ours(pid: i32, tid: i32) -> bool {
    let status = read_proc(format!("/proc/{pid}/task/{tid}/status"), procfs::status::parse);
    status.is_ok_and(|status| status.tracer_pid == std::process::id() as i32)
}

impl FrozenTask {
    /// Stops all threads of a process; none if it is gone.
    fn seize(pid: i32, parent: Option<usize>, limit: Duration) -> Result<Option<Self>, Problem> {
        let unknown = TaskName { host_pid: pid, inner_pid: None, comm: String::new() };
        let mut task =
            Self { pid, name: unknown, parent, state: TaskState::Alive, threads: Vec::new(), agent: None };
        let named = |e: Problem| match task_name(pid) {
            Some(name) => e.task(&name),
            None => e,
        };
        task.seize_all(limit).map_err(named)?;
        if task.threads.is_empty() {
            // Either it waits for its parent, or it is gone.
            if process_state(pid) != Some('Z') {
                return Ok(None);
            }
            task.state = TaskState::Zombie;
        }
        // It has executed its last program until further notice.
        task.name = task_name(pid).unwrap_or(task.name);
        Ok(Some(task))
    }

    /// Stops threads until a look at all of them finds none that is not stopped.
    fn seize_all(&mut self, limit: Duration) -> Result<(), Problem> {
        let deadline = Instant::now() + limit;
        let mut ended = HashSet::new();
        loop {
            let held: HashSet<i32> = self.threads.iter().map(|thread| thread.tid).collect();
            let new = |tid: &i32| !held.contains(tid) && !ended.contains(tid);
            // Those that have ended may be gone, and others have come; but who is held stays, or loses its place to another.
            let all_known = ended.is_empty() && thread_count(self.pid) == Some(held.len());
            let new: Vec<i32> =
                if all_known { Vec::new() } else { thread_ids(self.pid).filter(new).collect() };
            let changed = if new.is_empty() {
                self.take_note_of_losses(limit)? || self.settle_stop(limit)?
            } else {
                self.seize_threads(&new, &mut ended, limit)?;
                true
            };
            if !changed {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Problem::new(FreezeError::Outrun));
            }
        }
    }

    /// Stops some threads: all are asked before any is waited for. Those that have ended and are not gone go to `ended`.
    fn seize_threads(
        &mut self,
        tids: &[i32],
        ended: &mut HashSet<i32>,
        limit: Duration,
    ) -> Result<(), Problem> {
        let mut running = Vec::with_capacity(tids.len());
        for &tid in tids {
            let mut seized = Running::seize(tid, 0);
            // It may have ended, and another thread have executed a program and taken its id, before we looked.
            for _ in 0..3 {
                if !matches!(seized, Err(SysError { errno: Errno::EPERM, .. })) || has_ended(self.pid, tid) {
                    break;
                }
                seized = Running::seize(tid, 0);
            }
            match seized {
                Ok(thread) => {
                    thread.interrupt().or_else(gone_is_fine)?;
                    running.push(thread);
                }
                Err(SysError { errno: Errno::ESRCH, .. }) => {}
                // What the kernel says of a thread that has ended, and is still there.
                Err(SysError { errno: Errno::EPERM, .. }) if has_ended(self.pid, tid) => {
                    ended.insert(tid);
                }
                // With its cgroup, and asked to stop, too.
                Err(SysError { errno: Errno::EPERM, .. }) if is_ours(self.pid, tid) => {
                    running.push(Running::adopt(tid));
                }
                Err(e) => return Err(seize_error(tid, e)),
            }
        }
        for thread in running {
            let tid = thread.tid();
            match wait_for_interrupt(self.pid, thread, limit)? {
                Some((stopped, stop)) => {
                    self.threads.push(FrozenThread { tid, stopped: Some(stopped), stop, sleep: None });
                }
                // A leader that has ended stays as long as the other threads do, and cannot be let go.
                None if has_ended(self.pid, tid) => {
                    ended.insert(tid);
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Forgets threads that we held, and that are gone: killed from outside, or by another thread's `execve`, which then
    /// goes on under the leader's id. Whether there were any.
    fn take_note_of_losses(&mut self, limit: Duration) -> Result<bool, Problem> {
        let mut lost = false;
        for mut thread in std::mem::take(&mut self.threads) {
            if thread.stopped().sigmask().is_err() {
                lost = true;
                let successor = wait_for_interrupt(self.pid, Running::adopt(thread.tid), limit)?;
                let Some((stopped, stop)) = successor else { continue };
                thread = FrozenThread { tid: thread.tid, stopped: Some(stopped), stop, sleep: None };
            }
            self.threads.push(thread);
        }
        Ok(lost)
    }

    /// Completes a stop of the whole process that was under way when we came. Whether anything had to be done.
    ///
    /// A pending `SIGSTOP` is taken now, since it cannot be blocked and would stop the agent. From the moment a stop
    /// begins, every thread must be in it: one that is not has the stop before it, and takes it when it goes on, before
    /// its first instruction (`do_jobctl_trap` of kernel/signal.c).
    fn settle_stop(&mut self, limit: Duration) -> Result<bool, Problem> {
        let mut changed = false;
        if let Some(at) = self.pending_stop()? {
            self.resume_into_stop(at, limit)?;
            changed = true;
        }
        let group = |thread: &FrozenThread| matches!(thread.stop, Stop::Group(_));
        if self.threads.iter().any(group) && !self.threads.iter().all(group) {
            for at in 0..self.threads.len() {
                if self.threads.get(at).is_some_and(|thread| !group(thread)) {
                    self.resume_into_stop(at, limit)?;
                }
            }
            // Those that are in no stop even now were let go on by a SIGCONT.
            let all = self.threads.iter().all(group);
            if !all {
                self.threads.iter_mut().for_each(|thread| thread.stop = Stop::Interrupt);
            }
            changed = true;
        }
        self.state = match self.threads.first().map(|thread| thread.stop) {
            Some(Stop::Group(signal)) => TaskState::Stopped(signal),
            _ => TaskState::Alive,
        };
        Ok(changed)
    }

    /// The place of a thread that has a `SIGSTOP` to take.
    fn pending_stop(&self) -> Result<Option<usize>, SysError> {
        for (at, thread) in self.threads.iter().enumerate() {
            let own = queue_has(thread.tid, Queue::Thread, libc::SIGSTOP)?;
            if own || at == 0 && queue_has(thread.tid, Queue::Shared, libc::SIGSTOP)? {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// Lets a thread with a stop before it go on into that, past all signals that it takes first. It has none if a `SIGCONT` came
    /// before we interrupted it, and after others were seen in the stop: then it runs, and is interrupted once more.
    fn resume_into_stop(&mut self, at: usize, limit: Duration) -> Result<(), Problem> {
        let Some(thread) = self.threads.get_mut(at) else { return Ok(()) };
        let Some(mut stopped) = thread.stopped.take() else { return Ok(()) };
        let mut signal = 0;
        let (stopped, stop) = loop {
            let tid = stopped.tid();
            let waited = match stopped.resume(Resume::Cont, signal)?.wait(limit.min(LOOK)) {
                Err(TraceError::NotStopping { .. }) => {
                    let running = Running::adopt(tid);
                    running.interrupt().or_else(gone_is_fine)?;
                    running.wait(limit)
                }
                waited => waited,
            };
            match waited {
                Ok((next, Stop::Signal(taken))) => (stopped, signal) = (next, taken),
                Ok((next, stop @ (Stop::Group(_) | Stop::Interrupt))) => break (next, stop),
                Ok((next, _)) => (stopped, signal) = (next, 0),
                Err(TraceError::Died { .. }) => {
                    self.threads.remove(at);
                    return Ok(());
                }
                Err(e) => return Err(e.into()),
            }
        };
        *thread = FrozenThread { tid: thread.tid, stopped: Some(stopped), stop, sleep: None };
        Ok(())
    }

    /// The thread that stands for the task: its leader, or the first that lives if that has ended.
    pub fn first_tid(&self) -> i32 {
        self.threads.first().map_or(self.pid, |thread| thread.tid)
    }

    /// Children of its first `threads` threads.
    fn children(&self, threads: usize) -> Vec<i32> {
        let mut children = Vec::new();
        for thread in self.threads.iter().take(threads) {
            let path = format!("/proc/{}/task/{}/children", self.pid, thread.tid);
            let text = read_text(&path).unwrap_or_default();
            children.extend(procfs::children::parse(&text).unwrap_or_default());
        }
        children
    }
}

/// How often a silent thread is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Waits for the stop we asked for; none if the thread ended instead. A signal that arrives first is let through: the
/// thread takes it, and then stops.
fn wait_for_interrupt(
    pid: i32,
    thread: Running,
    limit: Duration,
) -> Result<Option<(Stopped, Stop)>, TraceError> {
    let deadline = Instant::now() + limit;
    let tid = thread.tid();
    let mut thread = thread;
    loop {
        match thread.wait(limit.min(LOOK)) {
            Ok((stopped, Stop::Interrupt)) => return Ok(Some((stopped, Stop::Interrupt))),
            Ok((stopped, Stop::Group(_))) => return stopped.without_pending_stop(limit).map(Some),
            Ok((stopped, Stop::Signal(signal))) => thread = stopped.resume(Resume::Cont, signal)?,
            Ok((stopped, _)) => thread = stopped.resume(Resume::Cont, 0)?,
            Err(TraceError::Died { .. } | TraceError::Sys(SysError { errno: Errno::ECHILD, .. })) => {
                return Ok(None);
            }
            // The end of a leader is not reported as long as other threads live.
            Err(TraceError::NotStopping { .. }) if has_ended(pid, tid) => return Ok(None),
            Err(TraceError::NotStopping { .. }) if Instant::now() < deadline => thread = Running::adopt(tid),
            Err(TraceError::NotStopping { wchan, .. }) => {
                return Err(match vfork::borrower(pid, tid) {
                    Some(child) => TraceError::WaitsForChild { tid, limit, child: child.to_string() },
                    None => TraceError::NotStopping { tid, limit, wchan },
                });
            }
            Err(e) => return Err(e),
        }
    }
}

/// Whether a signal waits in a queue.
fn queue_has(tid: i32, queue: Queue, signal: i32) -> Result<bool, SysError> {
    let mut from = 0;
    let mut buffer = [[0; SIGINFO_SIZE]; 4];
    loop {
        let count = ptrace::peek_siginfo(tid, queue, from, &mut buffer)?;
        let found = buffer.iter().take(count).any(|info| info.starts_with(&signal.to_le_bytes()));
        if found || count < buffer.len() {
            return Ok(found);
        }
        from += count as u64;
    }
}

fn gone_is_fine(e: SysError) -> Result<(), SysError> {
    if e.errno == Errno::ESRCH { Ok(()) } else { Err(e) }
}

/// Says more about a refused attach than `EPERM`.
fn seize_error(tid: i32, e: SysError) -> Problem {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let tracer =
        status.lines().find_map(|l| l.strip_prefix("TracerPid:")).and_then(|p| p.trim().parse::<i32>().ok());
    match tracer {
        Some(pid) if pid != 0 => {
            let tracer = task_name(pid).map_or_else(|| format!("process {pid}"), |name| name.to_string());
            Problem::new(FreezeError::Traced { tracer })
        }
        _ => Problem::new(e),
    }
}

/// A task's name for messages; none if there is no such task.
pub fn task_name(pid: i32) -> Option<TaskName> {
    let comm = read_text(&format!("/proc/{pid}/comm")).ok()?;
    let comm = String::from_utf8_lossy(&comm).trim_end_matches('\n').to_owned();
    Some(TaskName { host_pid: pid, inner_pid: None, comm })
}

/// Whether a thread is a zombie or gone.
pub(super) fn has_ended(pid: i32, tid: i32) -> bool {
    matches!(state_in(&format!("/proc/{pid}/task/{tid}/stat")), None | Some('Z' | 'X'))
}

/// The state letter of `/proc/PID/stat`.
pub fn process_state(pid: i32) -> Option<char> {
    state_in(&format!("/proc/{pid}/stat"))
}

fn state_in(path: &str) -> Option<char> {
    let stat = read_text(path).ok()?;
    let after_comm = stat.iter().rposition(|b| *b == b')')? + 2;
    stat.get(after_comm).map(|b| char::from(*b))
}

/// How many threads a process has that are not gone: each is a link of the directory, which has two of its own
/// (`proc_task_getattr` of fs/proc/base.c).
fn thread_count(pid: i32) -> Option<usize> {
    let links = nix::sys::stat::stat(format!("/proc/{pid}/task").as_str()).ok()?.st_nlink;
    usize::try_from(links).ok()?.checked_sub(2)
}

fn thread_ids(pid: i32) -> impl Iterator<Item = i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}
