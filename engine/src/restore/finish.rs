//! The last steps: tasks stop, zombies end, agents go, registers are set, and every task runs.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::set::Task;
use super::stub::{Stub, Stubs};
use super::tree::add_forget;
use crate::arch;
use crate::args;
use crate::error::{Context as _, Problem, SysError};
use crate::image::Images;
use crate::kinds::task::{signals, sleep as task_sleep};
use crate::last_pids;
use crate::options::{Afterwards, RestoreOptions};
use crate::pid_spaces::{self, PidInside};
use crate::supervise::{Guardian, LastDeeds};
use crate::sys::ptrace::Resume;
use crate::tracee::agent::{Agent, AgentError, Saved};
use crate::tracee::batch::Batch;
use crate::tracee::sleep;
use crate::tracee::stopped::{Stop, Stopped, TraceError};

/// The step in which a guardian is needed.
const GUARD: &str = "guard the release of the tree";
const LIMIT: Duration = Duration::from_secs(10);

/// Stops every task that was stopped, and ends every one that was a zombie, as it was the first time.
pub(super) fn stops_and_ends(stubs: &mut Stubs, tasks: &[Task]) -> Result<(), Problem> {
    for (task, stub) in tasks.iter().zip(&mut stubs.0).filter(|(task, _)| task.alive.is_some()) {
        stop(stub, task).of_task(&task.name()).while_trying_to("stop it")?;
    }
    for (task, stub) in tasks.iter().zip(&mut stubs.0).filter(|(task, _)| task.alive.is_none()) {
        let tc = task.core().tc.clone().unwrap_or_default();
        let step = "let the zombie end";
        end(stub, task.inside(), &tc.comm, tc.exit_code as i32)
            .of_task(&task.name())
            .while_trying_to(step)?;
    }
    // Their parents were told; they were told the first time, too, and have that signal pending still or took it.
    let mut told: BTreeMap<usize, (BTreeSet<i32>, Vec<PidInside>)> = BTreeMap::new();
    for child in tasks {
        let Some(parent) = child.parent else { continue };
        let (signals, seen) = told.entry(parent).or_default();
        if child.alive.is_none() {
            signals.insert(child.exit_signal());
        }
        if child.stopped.is_some() || continued(child) {
            signals.insert(libc::SIGCHLD);
        }
        if child.stopped.is_some() && child.core().own.stop_seen == Some(true) {
            let parents = tasks.get(parent).and_then(Task::space).map(|space| space.ns_id);
            seen.push(pid_spaces::seen_from(parents, &child.core().own));
        }
    }
    for (parent, (signals, seen)) in told {
        let Some(stub) = stubs.0.get_mut(parent).filter(|stub| stub.has_agent()) else { continue };
        let mut batch = Batch::new();
        signals.into_iter().filter(|signal| *signal != 0).for_each(|signal| add_forget(&mut batch, signal));
        for pid in seen {
            if batch.is_nearly_full(1, 0) {
                stub.run("take note of its children", &std::mem::take(&mut batch))?;
            }
            let options = libc::WSTOPPED | libc::WNOHANG | libc::__WALL;
            batch.call("waitid", libc::SYS_waitid, args![libc::P_PID, pid, 0, options, 0]);
        }
        if !batch.is_empty() {
            stub.run("take note of its children", &batch)?;
        }
    }
    Ok(())
}

/// Whether a task was continued, and its parent has still to be told.
fn continued(task: &Task) -> bool {
    task.parent.is_some() && task.core().own.continue_unseen.unwrap_or(false)
}

/// Stops a task, or lets it go through a stop and a continuation. Its parent is told as the first time.
fn stop(stub: &mut Stub, task: &Task) -> Result<(), Problem> {
    let Some(signal) = task.stopped.or_else(|| continued(task).then_some(libc::SIGSTOP)) else {
        return Ok(());
    };
    let mut batch = Batch::new();
    if signal != libc::SIGSTOP {
        let default = batch.input(&[0_u64; 4]);
        batch.call("rt_sigaction", libc::SYS_rt_sigaction, args![signal, default, 0, 8]);
        stub.run("prepare it for its stop", &std::mem::take(&mut batch))?;
    }
    let pid = stub.pid;
    let (agent, threads) = stub.agent_and_threads()?;
    if !agent.stop_process(pid, threads, signal)? {
        // In an orphaned process group only this signal stops anybody.
        log::warn!(
            "{} was stopped by signal {signal}, and is now by SIGSTOP: its group is orphaned",
            stub.name
        );
        let (agent, threads) = stub.agent_and_threads()?;
        agent.stop_process(pid, threads, libc::SIGSTOP)?;
    }
    if task.stopped.is_none() {
        let (agent, threads) = stub.agent_and_threads()?;
        agent.continue_process(pid, threads)?;
        add_forget(&mut batch, libc::SIGCONT);
        stub.run("continue it", &batch)?;
    }
    Ok(())
}

/// Ends a stub with a wait status: an exit code, or the signal that killed it.
pub(super) fn end(stub: &mut Stub, own: PidInside, comm: &str, status: i32) -> Result<(), Problem> {
    let Some(mut agent) = stub.take_agent()? else { return Ok(()) };
    let mut batch = Batch::new();
    let name = batch.input_str(comm.as_bytes());
    batch.call("prctl(PR_SET_NAME)", libc::SYS_prctl, args![libc::PR_SET_NAME, name]);
    let signal = libc::WTERMSIG(status);
    if libc::WIFSIGNALED(status) {
        if signal != libc::SIGKILL {
            let default = batch.input(&[0_u64; 4]);
            batch.call("rt_sigaction", libc::SYS_rt_sigaction, args![signal, default, 0, 8]);
        }
        let unblocked = batch.input(&!(1_u64 << (signal - 1)));
        batch.call("rt_sigprocmask", libc::SYS_rt_sigprocmask, args![libc::SIG_SETMASK, unblocked, 0, 8]);
        // The init of a pid namespace is not killed from inside, nor by other signals than this from outside.
        if own.is_init() {
            let pid = nix::unistd::Pid::from_raw(stub.pid);
            agent.run(&batch)?;
            batch = Batch::new();
            nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).map_err(SysError::of("kill"))?;
        } else {
            batch.call("kill", libc::SYS_kill, args![own, signal]);
        }
    } else {
        batch.call("exit_group", libc::SYS_exit_group, args![libc::WEXITSTATUS(status)]);
    }
    if !batch.is_empty() {
        agent.send(&batch)?;
    }
    let mut running = agent.into_leader().ok_or(AgentError::Lost(None))?;
    loop {
        match running.wait(LIMIT) {
            Err(TraceError::Died { .. }) => return Ok(()),
            Ok((stopped, Stop::Signal(taken))) => running = stopped.resume(Resume::Cont, taken)?,
            Ok((stopped, _)) => running = stopped.resume(Resume::Cont, 0)?,
            Err(e) => return Err(e.into()),
        }
    }
}

/// Tasks as a guardian knows them.
#[derive(Debug)]
pub(super) struct Guarded(Vec<OwnedFd>);

/// Looks for what a guardian will need ([`go`]).
pub(super) fn look_for_guardian(stubs: &Stubs) -> Result<Guarded, Problem> {
    let pids: Vec<i32> = stubs.0.iter().map(|stub| stub.pid).collect();
    Guardian::open(&pids, &LastDeeds::default()).map(Guarded).while_trying_to(GUARD)
}

/// Takes out the agents that are left, and lets all tasks go; the root's pid.
pub(super) fn go(
    mut stubs: Stubs,
    tasks: &[Task],
    guarded: Guarded,
    options: &RestoreOptions,
    images: &Images,
) -> Result<i32, Problem> {
    // Each with a signal that it has to take first, or 0.
    let mut ready: Vec<(Stopped, i32)> = Vec::new();
    let mut registers = Registers::default();
    for (task, stub) in tasks.iter().zip(&mut stubs.0) {
        take_out(stub, task, &mut registers)?;
    }
    for (task, stub) in tasks.iter().zip(&mut stubs.0).filter(|(task, _)| task.alive.is_some()) {
        for (image, thread) in task.threads_left().zip(stub.threads.drain(..)) {
            let stopped = thread.ok_or(AgentError::Lost(None)).of_task(&stub.name)?;
            let step = "have it sleep on";
            ready.push(sleep_on(stopped, image).of_task(&stub.name).while_trying_to(step)?);
        }
    }
    if options.afterwards == Afterwards::LeaveStopped {
        for (task, _) in tasks.iter().zip(&stubs.0).filter(|(t, _)| t.alive.is_some() && t.stopped.is_none())
        {
            let pid = nix::unistd::Pid::from_raw(task.pid);
            nix::sys::signal::kill(pid, nix::sys::signal::SIGSTOP).map_err(SysError::of("kill"))?;
        }
    }
    for stub in &stubs.0 {
        stub.departed.as_ref().map_or(Ok(()), |deferred| deferred.send(stub.pid))?;
    }
    let guardian = Guardian::of_opened(guarded.0, &LastDeeds::default()).while_trying_to(GUARD)?;
    let begins = |space: u32| tasks.iter().find(|task| task.begins(space)).map(|task| task.pid);
    last_pids::restore(options, images, begins)?;
    // The root last: as the init of a pid namespace, which no guardian inside can kill, it takes the others along.
    for (thread, _) in ready.iter().rev() {
        thread.set_options(0)?;
    }
    // From here on the tree is whole, and lives whether we do or not.
    let dismissed = guardian.tell_dismissed().while_trying_to(GUARD)?;
    for (thread, signal) in ready {
        thread.detach(signal)?;
    }
    dismissed.reap().while_trying_to(GUARD)?;
    let root = tasks.first().map_or(0, |task| task.pid);
    stubs.0.clear();
    Ok(root)
}

/// Lets an agent leave by itself, if the task is one that it may leave so, when it has done all else: nobody can be asked to do
/// anything from then on.
pub(super) fn let_leave(stub: &mut Stub, task: &Task) -> Result<(), Problem> {
    let Some(alive) = &task.alive else { return Ok(()) };
    let may_grow = |base: u64| {
        let above = alive.mm.vmas.iter().find(|vma| vma.start > base);
        above.is_some_and(|vma| vma.flags & libc::MAP_GROWSDOWN as u32 != 0)
    };
    if task.ended_leader().is_some() || !signals::can_be_forced(task.core(), libc::SIGSEGV) {
        return Ok(());
    }
    stub.let_leave(|agent| !may_grow(agent.layout().base))
}

/// Takes the agent out of a task, whose threads are all stopped then, among those of its stub, and have their registers; a leader
/// that had ended before the others does so now.
pub(super) fn take_out(stub: &mut Stub, task: &Task, registers: &mut Registers) -> Result<(), Problem> {
    let step = "take the agent out";
    let Some(mut agent) = stub.take_agent()? else { return Ok(()) };
    if let Some(status) = task.ended_leader() {
        let ended = end_leader(&mut agent, stub, task, status);
        ended.of_task(&stub.name).while_trying_to(step)?;
    } else {
        let leader = agent.leave().of_task(&stub.name).while_trying_to(step)?;
        stub.threads.insert(0, Some(leader));
    }
    stub.departed = Some(agent.into_deferred());
    for (image, thread) in task.threads_left().zip(&stub.threads) {
        let stopped = thread.as_ref().ok_or(AgentError::Lost(None)).of_task(&stub.name)?;
        registers.set(stopped, image).of_task(&stub.name).while_trying_to("set its registers")?;
    }
    Ok(())
}

/// Ends a leader before the other threads of its task, the first of which takes the agent out.
fn end_leader(agent: &mut Agent, stub: &mut Stub, task: &Task, status: i32) -> Result<(), Problem> {
    agent.end_leader(status, task.stopped.is_some())?;
    let first = stub.threads.first_mut().ok_or(AgentError::Lost(None))?;
    let thread = first.take().ok_or(AgentError::Lost(None))?;
    *first = Some(agent.unmap_by(thread)?);
    Ok(())
}

/// Has a thread that slept sleep for what was left. One of a stopped process makes its call when it is continued.
fn sleep_on(stopped: Stopped, image: &super::set::Thread) -> Result<(Stopped, i32), TraceError> {
    match task_sleep::left(&image.core) {
        Some((call, left)) => sleep::begin(stopped, call, left),
        None => Ok((stopped, 0)),
    }
}

/// Sets registers of threads.
#[derive(Debug, Default)]
pub(super) struct Registers {
    /// How extended registers are laid out, which is the same for all threads here; once one was looked at.
    template: Option<Vec<u8>>,
}

impl Registers {
    fn set(&mut self, thread: &Stopped, image: &super::set::Thread) -> Result<(), Problem> {
        let template = match &self.template {
            Some(known) => known,
            None => self.template.insert(thread.xstate()?),
        };
        let core = image.core.thread_core.as_ref();
        let task_mask = image.core.tc.as_ref().map_or(0, |tc| tc.blk_sigset);
        let saved = Saved {
            regs: arch::restore_registers(&image.core)?,
            xstate: arch::restored_xstate(&image.core, template)?,
            sigmask: core.and_then(|c| c.blk_sigset).unwrap_or(task_mask),
        };
        saved.write(thread)?;
        Ok(())
    }
}
