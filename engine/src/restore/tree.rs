//! The tree of stubs: each task made by its parent, with its pid, in its session and process group.
//!
//! A session is entered at birth and left only by beginning another, so the order matters: a child that belongs to the
//! session its parent was born in must be born before the parent begins its own.

use nix::errno::Errno;

use super::plan::{self, PlanRefusal};
use super::set::{TASK_SIZE, Task};
use super::stub::{Stub, Stubs};
use crate::args;
use crate::error::{Context as _, Problem, SysError};
use crate::options::{Parent, RestoreOptions};
use crate::sys::process;
use crate::tracee::agent::{Agent, Layout};
use crate::tracee::batch::{Batch, Word};
use crate::tracee::stopped::{Running, Stop, TraceError};

/// From `include/uapi/linux/rseq.h`.
const RSEQ_FLAG_UNREGISTER: i32 = 1;

/// When a child is made, with respect to its parent's `setsid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Birth {
    Before,
    After,
}

/// The session a task is born in, and when; an error if there is no way to get it into its session.
fn birth(tasks: &[Task], task: &Task, born_in: &[i32]) -> Result<(i32, Birth), PlanRefusal> {
    let Some(parent_at) = task.parent else { return Ok((0, Birth::After)) };
    let no_leader = PlanRefusal::NoLeader { what: "session", id: task.sid };
    let (Some(parent), Some(&parent_born_in)) = (tasks.get(parent_at), born_in.get(parent_at)) else {
        return Err(no_leader);
    };
    if task.sid == parent.sid || task.sid == task.pid {
        return Ok((parent.sid, Birth::After));
    }
    // 0 stands for the session that the root is born in, whose id is outside of the tree.
    let inherited = if parent_born_in == 0 {
        !tasks.iter().any(|t| t.pid == task.sid)
    } else {
        parent_born_in == task.sid
    };
    if inherited && parent.sid == parent.pid { Ok((parent_born_in, Birth::Before)) } else { Err(no_leader) }
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
pub(super) fn check(tasks: &[Task], options: &RestoreOptions) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (task, birth) in tasks.iter().zip(births(tasks)) {
        let has_group = tasks.iter().any(|t| t.pid == task.pgid);
        let group = PlanRefusal::NoLeader { what: "process group", id: task.pgid };
        let refusal = birth.err().or((!has_group && !options.shell_job).then_some(group));
        problems.extend(refusal.map(|r| Problem::new(r).task(&task.name())));
    }
    problems
}

/// Makes all stubs.
pub(super) fn create(tasks: &[Task], options: &RestoreOptions) -> Result<Stubs, Problem> {
    process::hold_child_signal()?;
    let base = plan::hole(tasks).ok_or_else(|| Problem::new(PlanRefusal::NoHole(0)))?;
    let layout = Layout { base, threads: plan::most_threads(tasks) };
    let births = births(tasks);
    let is_before = |at: usize| matches!(births.get(at), Some(Ok(Birth::Before)));
    let mut stubs = Stubs::default();
    for (at, task) in tasks.iter().enumerate() {
        if task.parent.is_none() {
            stubs.0.push(root(task, layout, options)?);
        }
        let children = || tasks.iter().enumerate().filter(move |(_, child)| child.parent == Some(at));
        for (_, child) in children().filter(|(child, _)| is_before(*child)) {
            clone_child(child, task, layout, &mut stubs)?;
        }
        if task.sid == task.pid {
            let mut batch = Batch::new();
            batch.call("setsid", libc::SYS_setsid, args![]);
            find(&mut stubs, task.pid)?.run("begin its session", &batch)?;
        }
        for (_, child) in children().filter(|(child, _)| !is_before(*child)) {
            clone_child(child, task, layout, &mut stubs)?;
        }
    }
    // From here on, stubs and tasks have the same places.
    let place = |pid| tasks.iter().position(|task| task.pid == pid);
    stubs.0.sort_by_key(|stub| place(stub.pid));
    join_groups(tasks, &mut stubs)?;
    Ok(stubs)
}

/// The stub of a task that was made already.
fn find(stubs: &mut Stubs, pid: i32) -> Result<&mut Stub, Problem> {
    let lost = || Problem::new(SysError { call: "find its stub", errno: Errno::ESRCH });
    stubs.0.iter_mut().find(|stub| stub.pid == pid).ok_or_else(lost)
}

/// A descriptor number for the agent that the task does not use, and neither does the one it is cloned from.
fn socket_number(task: &Task, parents: i32) -> i32 {
    let used = task.alive.iter().flat_map(|alive| &alive.fds).map(|fd| fd.fd as i32);
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
        move_socket(&mut stub, socket_number(task, -1))?;
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

/// Has a parent's stub clone a child's.
fn clone_child(task: &Task, parent: &Task, layout: Layout, stubs: &mut Stubs) -> Result<(), Problem> {
    let name = task.name();
    let parent = find(stubs, parent.pid)?;
    let mut batch = Batch::new();
    let exit_signal = task.core().own.exit_signal.unwrap_or(libc::SIGCHLD as u32) as i32;
    add_clone(&mut batch, libc::CLONE_PTRACE as u64, exit_signal, task.pid);
    let step = "create the process";
    let agent = parent.agent.as_mut().ok_or(crate::tracee::agent::AgentError::Lost(None))?;
    let parents_socket = agent.own_fd();
    agent.run(&batch).of_task(&name).while_trying_to(step)?;
    let stopped = wait_for_clone(task.pid).of_task(&name).while_trying_to(step)?;
    let agent =
        Agent::enter_clone(task.pid, stopped, layout).of_task(&name).while_trying_to("enter the agent")?;
    let mut stub = Stub { pid: task.pid, name, agent: Some(agent), threads: Vec::new() };
    let mut batch = Batch::new();
    batch.call("close", libc::SYS_close, args![parents_socket]);
    stub.run("close its parent's socket", &batch)?;
    move_socket(&mut stub, socket_number(task, parents_socket))?;
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
    let agent = agent.as_mut().ok_or(crate::tracee::agent::AgentError::Lost(None))?;
    agent.move_socket(to).of_task(name).while_trying_to("move the agent's socket out of the way")
}

/// Puts every task into its process group: first those that lead one, then those that join.
fn join_groups(tasks: &[Task], stubs: &mut Stubs) -> Result<(), Problem> {
    for leaders in [true, false] {
        for (task, stub) in tasks.iter().zip(&mut stubs.0) {
            // A session's leader leads its group from the start, and may not change it.
            let is_leader = task.pgid == task.pid;
            let exists = tasks.iter().any(|t| t.pid == task.pgid);
            if task.sid == task.pid || is_leader != leaders || !exists {
                continue;
            }
            let mut batch = Batch::new();
            batch.call("setpgid", libc::SYS_setpgid, args![0, task.pgid]);
            stub.run("put it into its process group", &batch)?;
        }
    }
    Ok(())
}
