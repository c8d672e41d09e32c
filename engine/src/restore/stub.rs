//! A task that is being restored: empty at first but for the agent, and driven from here.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

use crate::args;
use crate::error::{Context as _, Problem, SysError, TaskName};
use crate::sys::namespace::INIT;
use crate::sys::process;
use crate::tracee::agent::{Agent, AgentError, Deferred};
use crate::tracee::batch::{Batch, BatchError, Replies};
use crate::tracee::stopped::Stopped;

/// Bytes of batches, and of what is answered to them, that may be on their way at once: less than what a socket has room for,
/// or two would wait for each other.
const ON_THEIR_WAY: usize = 64 << 10;
/// What the kernel adds to a message, about.
const PER_MESSAGE: usize = 1 << 10;

/// Adds the calls with which a stub goes into a namespace; its future children do so with `CLONE_NEWPID`.
pub(super) fn add_setns<'fd>(batch: &mut Batch<'fd>, space: BorrowedFd<'fd>, flag: i32) {
    let fd = batch.fd(space);
    batch.call("setns", libc::SYS_setns, args![fd, flag]);
    batch.call("close", libc::SYS_close, args![fd]);
}

/// What the calls of a batch are made for: steps, and the numbers of their first calls.
type Steps = Vec<(usize, &'static str)>;

/// A message that has not been answered.
#[derive(Debug)]
struct Posted {
    steps: Steps,
    /// What it, and its answer, may take of the socket.
    bytes: usize,
    batch: Batch<'static>,
}

/// One task on its way.
#[derive(Debug)]
pub(super) struct Stub {
    /// Its pid.
    pub pid: i32,
    /// How messages name it.
    pub name: TaskName,
    /// The agent; its leader's thread serves. None once the task is as it should be, and for a zombie.
    agent: Option<Agent>,
    /// Whether its memory has been mapped.
    pub is_mapped: bool,
    /// What is left of the agent when it has been taken out.
    pub departed: Option<Deferred>,
    /// What is to be done sometime.
    posted: VecDeque<Posted>,
    /// What is posted with the next.
    later: Option<(Steps, Batch<'static>)>,
    /// Bytes of those.
    on_their_way: usize,
    /// Its other threads, stopped, in the order of the images.
    pub threads: Vec<Option<Stopped>>,
    /// Number of its address space; equal numbers mean shared.
    pub space: usize,
    /// Number of its descriptor table; equal numbers mean shared.
    pub table: usize,
    /// Which of the places for agents in its address space its agent has.
    pub agent_place: usize,
}

impl Stub {
    /// A stub that an agent has entered.
    pub(super) fn new(pid: i32, name: TaskName, agent: Agent) -> Self {
        Self {
            pid,
            name,
            agent: Some(agent),
            is_mapped: false,
            departed: None,
            posted: VecDeque::new(),
            later: None,
            on_their_way: 0,
            threads: Vec::new(),
            space: 0,
            table: 0,
            agent_place: 0,
        }
    }

    /// Whether there is an agent still.
    pub(super) fn has_agent(&self) -> bool {
        self.agent.is_some()
    }

    /// The number of the agent's descriptor; none if there is no agent.
    pub(super) fn agent_fd(&self) -> Option<i32> {
        self.agent.as_ref().map(Agent::own_fd)
    }

    /// The agent, when everything that was posted is done.
    pub(super) fn agent(&mut self) -> Result<&mut Agent, Problem> {
        self.collect()?;
        self.agent.as_mut().ok_or(AgentError::Lost(None)).of_task(&self.name)
    }

    /// The agent, which may be at something still.
    pub(super) fn agent_without_waiting(&self) -> Result<&Agent, Problem> {
        self.agent.as_ref().ok_or(AgentError::Lost(None)).of_task(&self.name)
    }

    /// The agent, likewise, and the other threads, which it may do something with.
    pub(super) fn agent_and_threads(&mut self) -> Result<(&mut Agent, &mut [Option<Stopped>]), Problem> {
        self.collect()?;
        let agent = self.agent.as_mut().ok_or(AgentError::Lost(None)).of_task(&self.name)?;
        Ok((agent, &mut self.threads))
    }

    /// Takes the agent, when everything that was posted is done; none if there is none.
    pub(super) fn take_agent(&mut self) -> Result<Option<Agent>, Problem> {
        self.collect()?;
        Ok(self.agent.take())
    }

    /// Has the task make calls sometime, in the order in which they are posted, and before all others that follow: what fails
    /// is said then. So many tasks work at the same time.
    pub(super) fn post<'fd>(&mut self, step: &'static str, batch: Batch<'fd>) -> Result<(), Problem> {
        // Descriptors may arrive where they belong: then there is nothing to call.
        if batch.is_empty() && batch.fds().is_empty() {
            return Ok(());
        }
        let (mut steps, mut all): (Steps, Batch<'fd>) = self.later.take().unwrap_or_default();
        if !all.has_room_for(&batch) {
            self.send(std::mem::take(&mut steps), std::mem::take(&mut all))?;
        }
        steps.push((all.calls(), step));
        all.append(batch);
        self.send(steps, all)
    }

    /// Posts calls together with the next: one message wakes the task once.
    pub(super) fn post_later(&mut self, step: &'static str, batch: Batch<'static>) -> Result<(), Problem> {
        if self.later.as_ref().is_some_and(|(_, all)| !all.has_room_for(&batch)) {
            self.send_later()?;
        }
        let (steps, all) = self.later.get_or_insert_default();
        steps.push((all.calls(), step));
        all.append(batch);
        Ok(())
    }

    /// Posts what waits for the next.
    fn send_later(&mut self) -> Result<(), Problem> {
        self.later.take().map_or(Ok(()), |(steps, batch)| self.send(steps, batch))
    }

    fn send(&mut self, steps: Steps, batch: Batch<'_>) -> Result<(), Problem> {
        let bytes = 2 * (batch.len() + PER_MESSAGE);
        if self.on_their_way + bytes > ON_THEIR_WAY {
            self.receive_posted()?;
        }
        let step = steps.last().map_or("", |(_, step)| step);
        let agent = self.agent.as_mut().ok_or(AgentError::Lost(None)).of_task(&self.name)?;
        agent.send(&batch).of_task(&self.name).while_trying_to(step)?;
        self.on_their_way += bytes;
        self.posted.push_back(Posted { steps, bytes, batch: batch.without_descriptors() });
        Ok(())
    }

    /// Has the agent leave behind everything that was posted, if it `may`.
    pub(super) fn let_leave(&mut self, may: impl FnOnce(&Agent) -> bool) -> Result<(), Problem> {
        self.send_later()?;
        let Some(agent) = self.agent.as_mut().filter(|agent| may(agent)) else { return Ok(()) };
        agent.begin_to_leave().of_task(&self.name).while_trying_to("take the agent out")
    }

    /// Whether the agent has been asked to leave.
    pub(super) fn is_leaving(&self) -> bool {
        self.agent.as_ref().is_some_and(Agent::is_leaving)
    }

    /// Waits until everything is done that was posted.
    pub(super) fn collect(&mut self) -> Result<(), Problem> {
        self.send_later()?;
        self.receive_posted()
    }

    /// Waits until the first is done of what was posted and not waited for.
    pub(super) fn collect_first(&mut self) -> Result<(), Problem> {
        self.receive_first().map(drop)
    }

    fn receive_posted(&mut self) -> Result<(), Problem> {
        while self.receive_first()? {}
        Ok(())
    }

    /// Whether there was one.
    fn receive_first(&mut self) -> Result<bool, Problem> {
        if let Some(Posted { steps, bytes, batch }) = self.posted.pop_front() {
            let agent = self.agent.as_mut().ok_or(AgentError::Lost(None)).of_task(&self.name)?;
            if let Err(e) = agent.receive(&batch) {
                let failed = match &e {
                    AgentError::Batch(BatchError::Failed { index, .. }) => *index,
                    _ => usize::MAX,
                };
                let step = steps.iter().rfind(|(first, _)| *first <= failed).map_or("", |(_, step)| step);
                return Err(Problem::from(e).task(&self.name).step(step));
            }
            self.on_their_way -= bytes;
            return Ok(true);
        }
        Ok(false)
    }

    /// Has the task make calls; `step` says what for.
    pub(super) fn run(&mut self, step: &'static str, batch: &Batch<'_>) -> Result<Replies, Problem> {
        self.agent()?.run(batch).of_task(&self.name).while_trying_to(step)
    }
}

/// All tasks on their way, in the order of the image set. Dropping them kills every one.
#[derive(Debug, Default)]
pub(super) struct Stubs(pub Vec<Stub>);

impl Stubs {
    /// Waits until everything is done that was posted to any.
    pub(super) fn collect(&mut self) -> Result<(), Problem> {
        self.0.iter_mut().try_for_each(Stub::collect)
    }
}

impl Drop for Stubs {
    fn drop(&mut self) {
        for stub in &self.0 {
            let killed =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(stub.pid), nix::sys::signal::SIGKILL);
            if let Err(errno) = killed
                && errno != nix::errno::Errno::ESRCH
            {
                log::error!("cannot kill {}: {}", stub.name, SysError { call: "kill", errno });
            }
        }
        // The init of our pid namespace is not killed by us, but by our end, since we trace it.
        // That of another ends when all others there are gone, and they come after it.
        for stub in self.0.iter().rev().filter(|stub| stub.pid != INIT) {
            for thread in stub.threads.iter().flatten() {
                reap(thread.tid());
            }
            reap(stub.pid);
        }
    }
}

fn reap(tid: i32) {
    while let Ok(process::Waited::Stopped(_)) = process::wait(tid) {}
}
