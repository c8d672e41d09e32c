//! The tree of stubs: each task made by its parent, with its pid, in its session and process group.
//!
//! A session is entered at birth and left only by beginning another, so the order matters: a child that belongs to the
//! session its parent was born in must be born before the parent begins its own. A session whose leader has ended is begun
//! again by a helper with the leader's pid, which ends when it has borne the session's members: they are orphans then, and
//! go to their parent, which is made a subreaper for the while. The same goes for process groups.

use nix::errno::Errno;

use super::finish;
use super::plan::{self, PlanRefusal};
use super::set::{TASK_SIZE, Task};
use super::stub::{Stub, Stubs};
use crate::args;
use crate::error::{Context as _, Problem, SysError, TaskName};
use crate::options::{Parent, RestoreOptions};
use crate::sys::process;
use crate::tracee::agent::{Agent, AgentError, Layout};
use crate::tracee::batch::{Batch, Word};
use crate::tracee::stopped::{Running, Stop, TraceError};

/// From `include/uapi/linux/rseq.h`.
const RSEQ_FLAG_UNREGISTER: i32 = 1;

/// When a child is made, with respect to its parent's `setsid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Birth {
    /// Before it.
    Before,
    /// After it, or at any time.
    After,
    /// By the leader of its session, who has ended or will, and not by its parent.
    Orphan,
}

/// The session a task is born in, and when; an error if there is no way to get it into its session.
fn birth(tasks: &[Task], task: &Task, born_in: &[i32]) -> Result<(i32, Birth), PlanRefusal> {
    let Some(parent_at) = task.parent else { return Ok((0, Birth::After)) };
    let no_leader = PlanRefusal::NoLeader { id: task.sid };
    let (Some(parent), Some(&parent_born_in)) = (tasks.get(parent_at), born_in.get(parent_at)) else {
        return Err(no_leader);
    };
    if task.sid == parent.sid || task.sid == task.pid {
        return Ok((parent.sid, Birth::After));
    }
    // 0 stands for the session that the root is born in, whose id is outside of the tree.
    let leader = tasks.iter().find(|t| t.pid == task.sid);
    let outside = tasks.first().is_some_and(|root| root.sid == task.sid) && leader.is_none();
    let inherited = if parent_born_in == 0 { outside } else { parent_born_in == task.sid };
    match leader {
        _ if inherited && parent.sid == parent.pid => Ok((parent_born_in, Birth::Before)),
        None if !outside => Ok((task.sid, Birth::Orphan)),
        Some(leader) if leader.alive.is_none() && leader.parent == task.parent => {
            Ok((task.sid, Birth::Orphan))
        }
        _ => Err(no_leader),
    }
}

/// Births of all tasks, in their order.
fn births(tasks: &[Task]) -> Vec<Result<Birth, PlanRefusal>> {
    let mut born_in = Vec::new();
    let mut births = Vec::new();
    for task in tasks {
        let birth = birth(tasks, task, &born_in);
        born_in.push(birth.as_ref().map_or(task.sid, |(session, _)| *session));
        births.push(birth.map(|(_, birth)| birth));
    }
    births
}

/// Sessions and process groups that cannot be made.
pub(super) fn check(tasks: &[Task]) -> Vec<Problem> {
    let born = tasks.iter().zip(births(tasks));
    let refused = born.filter_map(|(task, birth)| Some(Problem::new(birth.err()?).task(&task.name())));
    refused.collect()
}

/// Pids of sessions and groups whose leaders have ended; helpers will need them.
pub(super) fn ended_leaders(tasks: &[Task]) -> std::collections::BTreeSet<i32> {
    let root = tasks.first();
    let outside = |id: i32| root.is_some_and(|root| root.sid == id || root.pgid == id);
    let ids = tasks.iter().flat_map(|task| [task.sid, task.pgid]);
    ids.filter(|id| !outside(*id) && !tasks.iter().any(|task| task.pid == *id)).collect()
}

/// Makes all stubs.
pub(super) fn create(tasks: &[Task], options: &RestoreOptions) -> Result<Stubs, Problem> {
    process::hold_child_signal()?;
    let base = plan::hole(tasks).ok_or_else(|| Problem::new(PlanRefusal::NoHole(0)))?;
    let layout = Layout { base, threads: plan::most_threads(tasks) };
    let births = births(tasks);
    let is = |at: usize, birth| matches!(births.get(at), Some(Ok(b)) if *b == birth);
    let mut stubs = Stubs::default();
    for (at, task) in tasks.iter().enumerate() {
        if task.parent.is_none() {
            stubs.0.push(root(task, layout, options)?);
        }
        let children = || tasks.iter().enumerate().filter(move |(_, child)| child.parent == Some(at));
        for (_, child) in children().filter(|(child, _)| is(*child, Birth::Before)) {
            clone_task(&NewTask::of(child), task.pid, layout, &mut stubs)?;
        }
        if task.sid == task.pid {
            let mut batch = Batch::new();
            batch.call("setsid", libc::SYS_setsid, args![]);
            find(&mut stubs, task.pid)?.run("begin its session", &batch)?;
        }
        for (_, child) in children().filter(|(child, _)| is(*child, Birth::After)) {
            clone_task(&NewTask::of(child), task.pid, layout, &mut stubs)?;
        }
        let orphans: Vec<&Task> =
            children().filter(|(child, _)| is(*child, Birth::Orphan)).map(|(_, child)| child).collect();
        bear_orphans(tasks, task, &orphans, layout, &mut stubs)?;
    }
    // From here on, stubs and tasks have the same places.
    let place = |pid| tasks.iter().position(|task| task.pid == pid);
    stubs.0.sort_by_key(|stub| place(stub.pid));
    join_groups(tasks, layout, &mut stubs)?;
    Ok(stubs)
}

/// Makes the children of a task that belong to sessions whose leaders have ended, or will end as zombies.
fn bear_orphans(
    tasks: &[Task],
    parent: &Task,
    orphans: &[&Task],
    layout: Layout,
    stubs: &mut Stubs,
) -> Result<(), Problem> {
    if orphans.is_empty() {
        return Ok(());
    }
    // What it is in the end, its settings say.
    let mut batch = Batch::new();
    batch.call("prctl(PR_SET_CHILD_SUBREAPER)", libc::SYS_prctl, args![libc::PR_SET_CHILD_SUBREAPER, 1]);
    find(stubs, parent.pid)?.run("prepare it for orphans", &batch)?;
    let sessions: std::collections::BTreeSet<i32> = orphans.iter().map(|orphan| orphan.sid).collect();
    for session in sessions {
        let is_zombie = tasks.iter().any(|task| task.pid == session);
        if !is_zombie {
            clone_task(&NewTask::helper(session), parent.pid, layout, stubs)?;
            let mut batch = Batch::new();
            batch.call("setsid", libc::SYS_setsid, args![]);
            find(stubs, session)?.run("begin its session", &batch)?;
        }
        for orphan in orphans.iter().filter(|orphan| orphan.sid == session) {
            clone_task(&NewTask::of(orphan), session, layout, stubs)?;
        }
        if !is_zombie {
            end_helper(session, parent.pid, stubs)?;
        }
    }
    Ok(())
}

/// Ends a helper, and has its parent forget it.
fn end_helper(pid: i32, parent: i32, stubs: &mut Stubs) -> Result<(), Problem> {
    let helper = stubs.0.iter().position(|stub| stub.pid == pid);
    let lost = || Problem::new(SysError { call: "find its stub", errno: Errno::ESRCH });
    let mut helper = stubs.0.remove(helper.ok_or_else(lost)?);
    finish::end(&mut helper, "helper", 0)?;
    let mut batch = Batch::new();
    batch.call("wait4", libc::SYS_wait4, args![pid, 0, libc::__WALL, 0]);
    add_forget(&mut batch, libc::SIGCHLD);
    find(stubs, parent)?.run("reap a helper", &batch)?;
    Ok(())
}

/// Adds a call that makes a task forget a pending signal: what is ignored is not kept. Handlers are restored later.
pub(super) fn add_forget(batch: &mut Batch<'_>, signal: i32) {
    let ignore = batch.input(&[libc::SIG_IGN as u64, 0, 0, 0]);
    batch.call("rt_sigaction", libc::SYS_rt_sigaction, args![signal, ignore, 0, 8]);
}

/// A task to be cloned.
struct NewTask<'a> {
    pid: i32,
    name: TaskName,
    exit_signal: i32,
    /// None for a helper.
    task: Option<&'a Task>,
}

impl<'a> NewTask<'a> {
    fn of(task: &'a Task) -> Self {
        let exit_signal = task.core().own.exit_signal.unwrap_or(libc::SIGCHLD as u32) as i32;
        Self { pid: task.pid, name: task.name(), exit_signal, task: Some(task) }
    }

    fn helper(pid: i32) -> Self {
        let name = TaskName { host_pid: pid, inner_pid: None, comm: "a helper for an ended leader".into() };
        Self { pid, name, exit_signal: libc::SIGCHLD, task: None }
    }
}

/// The stub of a task that was made already.
fn find(stubs: &mut Stubs, pid: i32) -> Result<&mut Stub, Problem> {
    let lost = || Problem::new(SysError { call: "find its stub", errno: Errno::ESRCH });
    stubs.0.iter_mut().find(|stub| stub.pid == pid).ok_or_else(lost)
}

/// A descriptor number for the agent that the task does not use, and neither does the one it is cloned from.
pub(super) fn socket_number(task: Option<&Task>, parents: i32) -> i32 {
    let used =
        task.into_iter().flat_map(|task| &task.alive).flat_map(|alive| &alive.fds).map(|fd| fd.fd as i32);
    let used: std::collections::BTreeSet<i32> = used.collect();
    (3..i32::MAX).find(|n| *n != parents && !used.contains(n) && !used.contains(&(n + 1))).unwrap_or(3)
}

/// Makes the root from ourselves: a fork that is seized, given the agent, and emptied of everything else.
fn root(task: &Task, layout: Layout, options: &RestoreOptions) -> Result<Stub, Problem> {
    let name = task.name();
    let make = || -> Result<Stub, Problem> {
        let (reader, writer) =
            nix::unistd::pipe2(nix::fcntl::OFlag::empty()).map_err(SysError::of("pipe2"))?;
        let forked = process::fork_with_pid(task.pid, options.parent == Parent::Sibling);
        let Some(pid) = forked.map_err(|e| pid_error(e, task.pid)).while_trying_to("create the process")?
        else {
            process::wait_to_be_taken(&reader, &writer);
        };
        let running =
            Running::seize(pid, libc::PTRACE_O_EXITKILL).while_trying_to("seize the new process")?;
        running.interrupt()?;
        let (stopped, _) = running.wait(options_limit())?;
        let rseq = crate::sys::ptrace::rseq_configuration(pid).while_trying_to("look at the new process")?;
        let mut stub = Stub { pid, name: name.clone(), agent: None, threads: Vec::new() };
        let agent = Agent::inject_into_fork(pid, stopped, layout).while_trying_to("put the agent in")?;
        stub.agent = Some(agent);
        let agent_end = layout.base + Layout::size(layout.threads);
        let mut batch = Batch::new();
        if rseq.rseq_abi_pointer != 0 {
            // The kernel writes there whenever the thread is scheduled, and it is about to be unmapped.
            let args = args![rseq.rseq_abi_pointer, rseq.rseq_abi_size, RSEQ_FLAG_UNREGISTER, rseq.signature];
            batch.call("rseq", libc::SYS_rseq, args);
        }
        batch.call("munmap", libc::SYS_munmap, args![0, layout.base]);
        batch.call("munmap", libc::SYS_munmap, args![agent_end, TASK_SIZE - agent_end]);
        // All of our descriptors; the pipe among them has served: since it was seized, the process dies with us.
        let socket = stub.agent.as_ref().map_or(0, Agent::own_fd);
        if socket > 0 {
            batch.call("close_range", libc::SYS_close_range, args![0, socket - 1, 0]);
        }
        batch.call("close_range", libc::SYS_close_range, args![socket + 1, u32::MAX, 0]);
        stub.run("empty the new process", &batch)?;
        move_socket(&mut stub, socket_number(Some(task), -1))?;
        Ok(stub)
    };
    make().of_task(&name)
}

/// Says who took a pid between the check and the fork.
fn pid_error(e: SysError, pid: i32) -> Problem {
    let by = crate::tracee::freeze::task_name(pid).map(|name| name.to_string());
    match (e.errno, by) {
        (Errno::EEXIST, Some(by)) => Problem::new(PlanRefusal::PidTaken { pid, by }),
        _ => Problem::new(e),
    }
}

fn options_limit() -> std::time::Duration {
    std::time::Duration::from_secs(10)
}

/// Has one stub clone another.
fn clone_task(new: &NewTask<'_>, parent: i32, layout: Layout, stubs: &mut Stubs) -> Result<(), Problem> {
    let parent = find(stubs, parent)?;
    let mut batch = Batch::new();
    add_clone(&mut batch, libc::CLONE_PTRACE as u64, new.exit_signal, new.pid);
    let step = "create the process";
    let agent = parent.agent.as_mut().ok_or(AgentError::Lost(None))?;
    let parents_socket = agent.own_fd();
    agent.run(&batch).of_task(&new.name).while_trying_to(step)?;
    let stopped = wait_for_clone(new.pid).of_task(&new.name).while_trying_to(step)?;
    let agent = Agent::enter_clone(new.pid, stopped, layout);
    let agent = agent.of_task(&new.name).while_trying_to("enter the agent")?;
    let mut stub = Stub { pid: new.pid, name: new.name.clone(), agent: Some(agent), threads: Vec::new() };
    let mut batch = Batch::new();
    batch.call("close", libc::SYS_close, args![parents_socket]);
    stub.run("close its parent's socket", &batch)?;
    move_socket(&mut stub, socket_number(new.task, parents_socket))?;
    stubs.0.push(stub);
    Ok(())
}

/// Adds a `clone3` of a traced task or thread with a certain id.
pub(super) fn add_clone(batch: &mut Batch<'_>, flags: u64, exit_signal: i32, tid: i32) {
    let set_tid = batch.input(&[tid, 0]);
    // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
    // set_tid_size, cgroup.
    let mut words = [Word::Value(0); 11];
    words[0] = Word::Value(flags);
    words[4] = Word::Value(exit_signal as u64);
    words[8] = Word::Pointer(set_tid);
    words[9] = Word::Value(1);
    let clone_args = batch.input_words(&words);
    batch.call("clone3(set_tid)", libc::SYS_clone3, args![clone_args, 88]);
}

/// Waits until a clone, which is traced from birth, is at its first stop.
pub(super) fn wait_for_clone(tid: i32) -> Result<crate::tracee::stopped::Stopped, TraceError> {
    let (stopped, stop) = Running::adopt(tid).wait(options_limit())?;
    match stop {
        Stop::Interrupt => Ok(stopped),
        stop => Err(TraceError::Unexpected { tid, stop }),
    }
}

fn move_socket(stub: &mut Stub, to: i32) -> Result<(), Problem> {
    let Stub { agent, name, .. } = stub;
    let agent = agent.as_mut().ok_or(AgentError::Lost(None))?;
    agent.move_socket(to).of_task(name).while_trying_to("move the agent's socket out of the way")
}

/// Puts every task into its process group: first those that lead one, then those that join.
fn join_groups(tasks: &[Task], layout: Layout, stubs: &mut Stubs) -> Result<(), Problem> {
    let step = "put it into its process group";
    let set_group = |group: i32| {
        let mut batch = Batch::new();
        batch.call("setpgid", libc::SYS_setpgid, args![0, group]);
        batch
    };
    for leader in tasks.iter().filter(|task| task.pgid == task.pid && task.sid != task.pid) {
        find(stubs, leader.pid)?.run(step, &set_group(0))?;
    }
    for task in tasks.iter().filter(|task| task.pgid != task.pid && tasks.iter().any(|t| t.pid == task.pgid))
    {
        find(stubs, task.pid)?.run(step, &set_group(task.pgid))?;
    }
    // Groups whose leaders have ended. Those of a session's leader were joined at birth.
    let ended: Vec<i32> = ended_leaders(tasks).into_iter().collect();
    for group in ended {
        let is_member = |task: &&Task| task.pgid == group && task.sid != group;
        let Some(first) = tasks.iter().find(is_member) else { continue };
        clone_task(&NewTask::helper(group), first.pid, layout, stubs)?;
        find(stubs, group)?.run(step, &set_group(0))?;
        for member in tasks.iter().filter(is_member) {
            find(stubs, member.pid)?.run(step, &set_group(group))?;
        }
        end_helper(group, first.pid, stubs)?;
    }
    Ok(())
}
