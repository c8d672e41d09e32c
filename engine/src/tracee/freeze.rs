//! Stopping a whole process tree, and letting it go again.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;

use crate::dump::inspect::read_text;
use crate::error::{Class, Context as _, Explain, Problem, SysError, TaskName};
use crate::supervise::{Guardian, LastDeeds};
use crate::sys::namespace::INIT;
use crate::sys::pidfd;
use crate::tracee::agent::Agent;
use crate::tracee::cgroup::{FrozenCgroup, GivenCgroup};
use crate::tracee::reaping::{reap, wait_until_reaped};
use crate::tracee::sleep::Sleep;
use crate::tracee::stopped::{Running, Stop, Stopped};

/// Rounds of looking for new tasks before a tree counts as forking faster than it can be stopped.
const MAX_ROUNDS: usize = 64;

/// How long who was asked to stop, and is let go, may take to do so.
const LET_GO: Duration = Duration::from_millis(100);

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
    pub(super) stop: Stop,
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
    /// First threads of further tasks, which are on their way to a stop already.
    asked: HashMap<i32, Running>,
    /// The cgroup that it was frozen with.
    cgroup: Option<GivenCgroup>,
}

impl FrozenTree {
    /// Stops `root` and everything below it, with the help of a cgroup that it is in, if one is given.
    pub fn freeze(root: i32, cgroup: Option<&Path>, limit: Duration) -> Result<Self, Problem> {
        crate::sys::process::hold_child_signal()?;
        let cgroup = cgroup.map(|dir| GivenCgroup::seize(dir, limit)).transpose()?;
        let mut tree = Self { tasks: Vec::new(), asked: HashMap::new(), cgroup };
        let root =
            FrozenTask::seize(root, None, None, limit)?.ok_or_else(|| Problem::new(FreezeError::Gone))?;
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
            let children = task.children(task.threads.len());
            self.ask_to_stop(&children, known);
            for child in children {
                self.seize_child(child, at, known, limit)?;
            }
            at += 1;
        }
        Ok(())
    }

    /// Asks children to stop, so that they do so at the same time. Whoever cannot be asked now is told about when it is its turn.
    fn ask_to_stop(&mut self, children: &[i32], known: &HashSet<i32>) {
        for child in children.iter().filter(|child| !known.contains(child)) {
            let Ok(thread) = Running::seize(*child, 0) else { continue };
            // One that has ended meanwhile tells that it did.
            let _ended = thread.interrupt();
            self.asked.insert(*child, thread);
        }
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
        let asked = self.asked.remove(&child);
        if let Some(task) = FrozenTask::seize(child, Some(parent), asked, limit)? {
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
        for (_, thread) in self.asked.drain() {
            let Ok((stopped, stop)) = thread.wait(LET_GO) else { continue };
            let signal = if let Stop::Signal(signal) = stop { signal } else { 0 };
            let _gone = stopped.detach(signal);
        }
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
