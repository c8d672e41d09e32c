//! Stopping a whole process tree, and letting it go again.

use std::fs;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::error::{Class, Explain, Problem, SysError, TaskName};
use crate::supervise::Guardian;
use crate::sys::ptrace::Resume;
use crate::tracee::agent::Agent;
use crate::tracee::stopped::{Running, Stop, Stopped, TraceError};

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
            Self::Outrun => Some("freeze its cgroup first, or try again".into()),
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
    /// Its threads, in the order of `/proc/PID/task`: the leader first. Empty for a zombie.
    pub threads: Vec<FrozenThread>,
    /// The agent, while it is in.
    pub agent: Option<Agent>,
}

/// A stopped process tree. Dropping it lets the tree go on as it was.
#[derive(Debug)]
pub struct FrozenTree {
    /// Its tasks, parents before their children.
    pub tasks: Vec<FrozenTask>,
}

impl FrozenTree {
    /// Stops `root` and everything below it.
    pub fn freeze(root: i32, limit: Duration) -> Result<Self, Problem> {
        crate::sys::process::hold_child_signal()?;
        let mut tree = Self { tasks: Vec::new() };
        tree.tasks
            .push(FrozenTask::seize(root, None, limit)?.ok_or_else(|| Problem::new(FreezeError::Gone))?);
        for _ in 0..MAX_ROUNDS {
            if !tree.seize_new_children(limit)? {
                return Ok(tree);
            }
        }
        Err(Problem::new(FreezeError::Outrun).task(&tree.tasks[0].name))
    }

    /// Stops children that are not yet ours; whether there were any.
    fn seize_new_children(&mut self, limit: Duration) -> Result<bool, Problem> {
        let mut found = false;
        let mut at = 0;
        while let Some(task) = self.tasks.get(at) {
            for child in task.children() {
                if self.tasks.iter().any(|t| t.pid == child) {
                    continue;
                }
                if let Some(task) = FrozenTask::seize(child, Some(at), limit)? {
                    self.tasks.push(task);
                    found = true;
                }
            }
            at += 1;
        }
        Ok(found)
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

    /// Kills all tasks, and waits until we, as their tracer, have reaped what is ours to reap.
    pub fn kill(mut self) -> Result<(), Problem> {
        // Should we die half way, the rest dies with us: by now the images are complete, and half a tree is no tree.
        let pids: Vec<i32> = self.tasks.iter().map(|task| task.pid).collect();
        let guardian = Guardian::of(&pids).map_err(|e| Problem::new(e).step("guard the end of the tree"))?;
        for task in &mut self.tasks {
            if let Some(agent) = task.agent.take() {
                agent.abandon(task).map_err(|e| Problem::new(e).task(&task.name))?;
            }
            for thread in &task.threads {
                thread.stopped().set_options(libc::PTRACE_O_EXITKILL)?;
            }
        }
        let tasks = std::mem::take(&mut self.tasks);
        for task in &tasks {
            let killed =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(task.pid), nix::sys::signal::SIGKILL);
            match killed {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(Problem::new(SysError { call: "kill", errno }).task(&task.name)),
            }
        }
        for task in &tasks {
            // The leader's end is reported last, when all other threads are gone.
            for thread in task.threads.iter().rev() {
                reap(thread.tid);
            }
        }
        wait_until_reaped(&tasks);
        guardian.dismiss().map_err(|e| Problem::new(e).step("guard the end of the tree"))
    }

    /// Takes the agents out and detaches; goes on after a failure, and returns the first.
    fn release(&mut self) -> Result<(), Problem> {
        let mut first = Ok(());
        for task in &mut self.tasks {
            let name = task.name.clone();
            if let Some(agent) = task.agent.take()
                && let Err(e) = agent.remove(task)
                && first.is_ok()
            {
                first = Err(Problem::new(e).task(&name).step("take the agent out"));
            }
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

/// Waits a moment until the real parents have reaped their children, so that all pids are free.
fn wait_until_reaped(tasks: &[FrozenTask]) {
    const LIMIT: Duration = Duration::from_millis(100);
    let deadline = Instant::now() + LIMIT;
    for task in tasks {
        while process_state(task.pid) == Some('Z') {
            if Instant::now() > deadline {
                log::warn!(
                    "{} is a zombie still: its parent does not reap it, and its pid is not free",
                    task.name
                );
                break;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// Waits for the end of a thread that was killed.
fn reap(tid: i32) {
    loop {
        match crate::sys::process::wait(tid) {
            // A stop that was on its way when the kill came.
            Ok(crate::sys::process::Waited::Stopped(_)) => {}
            Ok(_) | Err(_) => return,
        }
    }
}

impl FrozenTask {
    /// Stops all threads of a process; none if it is gone.
    fn seize(pid: i32, parent: Option<usize>, limit: Duration) -> Result<Option<Self>, Problem> {
        let Some(name) = task_name(pid) else { return Ok(None) };
        let mut task = Self { pid, name, parent, state: TaskState::Alive, threads: Vec::new(), agent: None };
        if process_state(pid) == Some('Z') {
            task.state = TaskState::Zombie;
            return Ok(Some(task));
        }
        let mut seen = std::collections::BTreeSet::new();
        loop {
            let new: Vec<i32> = thread_ids(pid).filter(|tid| seen.insert(*tid)).collect();
            if new.is_empty() {
                break;
            }
            task.seize_threads(&new, limit).map_err(|e| e.task(&task.name))?;
        }
        if task.threads.is_empty() {
            // It ended under our hands: either it waits for its parent now, or it is gone.
            if process_state(pid) != Some('Z') {
                return Ok(None);
            }
            task.state = TaskState::Zombie;
        }
        Ok(Some(task))
    }

    /// Stops some threads: all are asked before any is waited for.
    fn seize_threads(&mut self, tids: &[i32], limit: Duration) -> Result<(), Problem> {
        let mut running = Vec::with_capacity(tids.len());
        for &tid in tids {
            match Running::seize(tid, 0) {
                Ok(thread) => {
                    thread.interrupt().or_else(gone_is_fine)?;
                    running.push(thread);
                }
                Err(SysError { errno: Errno::ESRCH, .. }) => {}
                // What the kernel says of a thread that has ended, and is still there.
                Err(SysError { errno: Errno::EPERM, .. }) if has_ended(self.pid, tid) => {}
                Err(e) => return Err(seize_error(tid, e)),
            }
        }
        for thread in running {
            let tid = thread.tid();
            if let Some((stopped, state)) = wait_for_interrupt(thread, limit)? {
                if let Stop::Group(signal) = state {
                    self.state = TaskState::Stopped(signal);
                }
                self.threads.push(FrozenThread { tid, stopped: Some(stopped) });
            }
        }
        Ok(())
    }

    /// Its children, as all of its threads have them.
    fn children(&self) -> Vec<i32> {
        let mut children = Vec::new();
        for thread in &self.threads {
            let path = format!("/proc/{}/task/{}/children", self.pid, thread.tid);
            let text = fs::read_to_string(path).unwrap_or_default();
            children.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
        children
    }
}

/// Waits for the stop we asked for. A signal that arrives first is let through: the thread takes it, and then stops.
fn wait_for_interrupt(thread: Running, limit: Duration) -> Result<Option<(Stopped, Stop)>, TraceError> {
    let mut thread = thread;
    loop {
        match thread.wait(limit) {
            Ok((stopped, stop @ (Stop::Interrupt | Stop::Group(_)))) => return Ok(Some((stopped, stop))),
            Ok((stopped, Stop::Signal(signal))) => thread = stopped.resume(Resume::Cont, signal)?,
            Ok((stopped, _)) => thread = stopped.resume(Resume::Cont, 0)?,
            Err(TraceError::Died { .. }) => return Ok(None),
            Err(e) => return Err(e),
        }
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
    let comm = fs::read(format!("/proc/{pid}/comm")).ok()?;
    let comm = String::from_utf8_lossy(&comm).trim_end_matches('\n').to_owned();
    Some(TaskName { host_pid: pid, inner_pid: None, comm })
}

/// Whether a thread is a zombie or gone.
fn has_ended(pid: i32, tid: i32) -> bool {
    matches!(state_in(&format!("/proc/{pid}/task/{tid}/stat")), None | Some('Z' | 'X'))
}

/// The state letter of `/proc/PID/stat`.
pub fn process_state(pid: i32) -> Option<char> {
    state_in(&format!("/proc/{pid}/stat"))
}

fn state_in(path: &str) -> Option<char> {
    let stat = fs::read(path).ok()?;
    let after_comm = stat.iter().rposition(|b| *b == b')')? + 2;
    stat.get(after_comm).map(|b| char::from(*b))
}

fn thread_ids(pid: i32) -> impl Iterator<Item = i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}
