//! The agent inside a stopped task: putting it in, talking to it, and taking it out.
//!
//! What happens, in order, to a task that is dumped, and why we may die at any moment of it:
//! 1. One thread makes one system call with our registers: `mmap`, for the agent's memory. It makes it from a landing pad
//!    ([`landing`]), from where it finds back.
//! 2. The agent's code and, for each thread, the registers it was interrupted with are written to that memory.
//! 3. The thread enters the agent, and makes the first calls that we ask for ([`first`]). From here on the agent finds its own way back:
//!    it makes a pair of sockets, we take one end, and when all copies of that end are closed, every thread puts its own
//!    registers back. Until it is needed again, it stays where it was stopped for that.
//! 4. To take it out, its thread is stopped again, and leaves by the landing pad.
//!
//! Where there is no room for a pad, dying in 1 or 4 would leave the thread with wrong registers. `supervise` makes that
//! less likely by being another process than the one a user kills.

use std::cell::RefCell;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{self, ControlMessage, MsgFlags, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};
use parasite::abi::{MAX_MESSAGE, SLOT_BATCH, SLOT_BATCH_MAX, SLOT_STRIDE, Slot};
use zerocopy::IntoBytes as _;

use crate::error::{Class, Explain, SysError};
use crate::sys::ptrace::Resume;
use crate::tracee::batch::{Batch, BatchError, Replies};
use crate::tracee::freeze::FrozenTask;
use crate::tracee::memory::{Memory, write_scattered};
use crate::tracee::regs;
use crate::tracee::stopped::{Running, Stop, Stopped, TraceError};

mod calls;
mod entering;
mod first;
mod landing;
mod layout;
mod leaving;
mod stops;

pub use entering::{Clone, Entrance, ServingClone, enter_clones, inject_all};
use landing::LandingPad;
pub use layout::Layout;

/// The agent's code and constants, made by the build script.
static BLOB: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent.bin"));

/// Offsets of the entry points in [`BLOB`].
mod entry {
    include!(concat!(env!("OUT_DIR"), "/agent_layout.rs"));
}

/// How long the agent may take for one step of its own.
const STEP_LIMIT: Duration = Duration::from_secs(10);
/// How often a silent agent is looked after.
const LOOK_AFTER: i64 = 50;
/// Every signal; the kernel leaves out `SIGKILL` and `SIGSTOP`.
pub const ALL_SIGNALS: u64 = u64::MAX;

/// What can go wrong with an agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A call of ours failed.
    #[error(transparent)]
    Sys(#[from] SysError),
    /// A thread did not do what it should.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// A call that the agent made failed.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The task has no `syscall` instruction that we could use.
    #[error("it has no mapped vdso and no system call instruction that could be used")]
    NoSyscallInstruction,
    /// The agent went away, or crashed.
    #[error("the agent does not answer (its thread {0:?})")]
    Lost(Option<Stop>),
}

impl Explain for AgentError {
    fn class(&self) -> Class {
        match self {
            Self::Sys(e) | Self::Batch(BatchError::Failed { error: e, .. }) => e.class(),
            Self::Trace(e) => e.class(),
            Self::NoSyscallInstruction => Class::Refused,
            Self::Batch(BatchError::Garbled) | Self::Lost(_) => Class::Bug,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Sys(e) | Self::Batch(BatchError::Failed { error: e, .. }) => e.help(),
            Self::Trace(e) => e.help(),
            _ => None,
        }
    }
}

/// What a thread was before it ran the agent, and must be again.
#[derive(Debug, Clone)]
pub struct Saved {
    /// General registers.
    pub regs: libc::user_regs_struct,
    /// Extended registers, as XSAVE lays them out.
    pub xstate: Vec<u8>,
    /// Blocked signals.
    pub sigmask: u64,
}

impl Saved {
    /// Reads them from a stopped thread.
    pub fn read(thread: &Stopped) -> Result<Self, SysError> {
        Ok(Self { regs: thread.regs()?, xstate: thread.xstate()?, sigmask: thread.sigmask()? })
    }

    /// Puts them back; the general registers last, because from then on the thread finds its way without us.
    pub fn write(&self, thread: &Stopped) -> Result<(), SysError> {
        thread.set_sigmask(self.sigmask)?;
        thread.set_xstate(&self.xstate)?;
        thread.set_regs(&self.regs)
    }
}

/// An agent that serves one task.
#[derive(Debug)]
pub struct Agent {
    layout: Layout,
    memory: Memory,
    socket: OwnedFd,
    /// The agent's own descriptor for its end.
    remote_socket: i32,
    /// The thread that serves.
    leader: Option<Running>,
    /// What each thread was doing, in the order of the task's threads.
    saved: Vec<Rc<Saved>>,
    /// Signals that cannot be blocked and came meanwhile; sent again at the end.
    deferred: Vec<i32>,
    /// From where the serving thread leaves; none for a stub, which ends with us anyway.
    landing: Option<LandingPad>,
    /// The serving thread has been asked to stop.
    is_stopping: bool,
    /// The serving thread, if it is stopped where it waited for us to take our end of the socket; it goes on when it is needed.
    parked: Option<Stopped>,
    /// What it answered on its way in.
    first: Option<first::Answers>,
    /// It was asked nothing, for it to be behind that place when it answers.
    is_greeted: bool,
    /// Whether we wait for it no longer than until it is to be looked after.
    has_timeout: bool,
    /// It has been asked to unmap the agent.
    is_leaving: bool,
}

impl Agent {
    /// Where the agent is.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The memory of the task.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Whether an address range is the agent's own.
    pub fn is_own(&self, start: u64, end: u64) -> bool {
        start >= self.layout.base && end <= self.layout.end()
    }

    /// The numbers of descriptors that the agent has in the task.
    pub fn own_fd(&self) -> i32 {
        self.remote_socket
    }

    /// Our end of its socket: when all copies of it are closed, the agent goes.
    pub fn socket(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Has the agent make the calls of a batch, and waits for the answer.
    pub fn run(&mut self, batch: &Batch<'_>) -> Result<Replies, AgentError> {
        self.send(batch)?;
        self.receive(batch)
    }

    /// Whether its serving thread has been stopped ever since it answered what it was asked first.
    pub fn is_parked(&self) -> bool {
        self.parked.is_some()
    }

    /// Sends a batch; the agent works while we do something else.
    pub fn send(&mut self, batch: &Batch<'_>) -> Result<(), AgentError> {
        if let Some(stopped) = self.parked.take() {
            self.leader = Some(stopped.resume(Resume::Cont, 0)?);
        }
        let message = batch.encode(self.layout.buffer())?;
        let iov = [IoSlice::new(&message)];
        let rights = [ControlMessage::ScmRights(batch.fds())];
        let rights: &[_] = if batch.fds().is_empty() { &[] } else { &rights };
        socket::sendmsg::<()>(self.socket.as_raw_fd(), &iov, rights, MsgFlags::MSG_NOSIGNAL, None)
            .map_err(SysError::of("sendmsg (to the agent)"))?;
        Ok(())
    }

    /// Waits for the answer to a batch that was sent.
    pub fn receive(&mut self, batch: &Batch<'_>) -> Result<Replies, AgentError> {
        let packet = self.receive_packet(&mut [])?;
        Ok(batch.decode(&packet)?)
    }

    /// Whether an answer is there to be received; if not, what stopped the serving thread is seen to.
    pub fn has_answered(&mut self) -> Result<bool, AgentError> {
        let mut byte = [0];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let answered = socket::recv(self.socket.as_raw_fd(), &mut byte, flags).is_ok();
        if !answered {
            look_after(&mut self.leader, &mut self.deferred)?;
        }
        Ok(answered)
    }

    /// Waits for a packet from the serving thread or from one of `others`.
    fn receive_packet(
        &mut self,
        others: &mut [(usize, &Batch<'_>, Option<Running>)],
    ) -> Result<Vec<u8>, AgentError> {
        thread_local! {
            /// Room for the largest, for all agents.
            static PACKET: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_MESSAGE + 4096]);
        }
        PACKET.with_borrow_mut(|packet| self.receive_into(packet, others))
    }

    fn receive_into(
        &mut self,
        packet: &mut [u8],
        others: &mut [(usize, &Batch<'_>, Option<Running>)],
    ) -> Result<Vec<u8>, AgentError> {
        if !std::mem::replace(&mut self.has_timeout, true) {
            setsockopt(&self.socket.as_fd(), sockopt::ReceiveTimeout, &TimeVal::milliseconds(LOOK_AFTER))
                .map_err(SysError::of("setsockopt(SO_RCVTIMEO)"))?;
        }
        loop {
            let mut iov = [IoSliceMut::new(packet)];
            let flags = MsgFlags::empty();
            let received =
                socket::recvmsg::<()>(self.socket.as_raw_fd(), &mut iov, None, flags).map(|m| m.bytes);
            match received {
                Ok(0) => return Err(AgentError::Lost(None)),
                Ok(len) => return Ok(packet.get(..len).unwrap_or_default().to_vec()),
                Err(Errno::EAGAIN | Errno::EINTR) => {
                    if !self.is_parked() {
                        look_after(&mut self.leader, &mut self.deferred)?;
                    }
                    for (_, _, thread) in &mut *others {
                        look_after(thread, &mut self.deferred)?;
                    }
                }
                Err(errno) => return Err(SysError { call: "recvmsg (from the agent)", errno }.into()),
            }
        }
    }

    /// Has other threads than the serving one make the calls of a batch each; what they answered, in that order.
    ///
    /// A job is the thread's place in the task, the stopped thread, and its batch. The threads come back stopped, in the
    /// agent: their registers are still to be set.
    pub fn run_on_threads(
        &mut self,
        jobs: Vec<(usize, Stopped, &Batch<'_>)>,
    ) -> Result<Vec<(usize, Stopped, Replies)>, AgentError> {
        // A batch that is too large for a slot goes to the serving thread's buffer, which it does not use meanwhile.
        let (large, small): (Vec<_>, Vec<_>) =
            jobs.into_iter().partition(|(_, _, batch)| batch.len() + 8 > SLOT_BATCH_MAX);
        let mut done = self.run_together(small, |layout, index| layout.slot(index) + SLOT_BATCH as u64)?;
        for job in large {
            done.extend(self.run_together(vec![job], |layout, _| layout.buffer())?);
        }
        Ok(done)
    }

    fn run_together(
        &mut self,
        jobs: Vec<(usize, Stopped, &Batch<'_>)>,
        place: impl Fn(Layout, usize) -> u64,
    ) -> Result<Vec<(usize, Stopped, Replies)>, AgentError> {
        let mut written = vec![(self.layout.done(), vec![0; 4])];
        let mut answers_at = Vec::new();
        for (index, _, batch) in &jobs {
            let saved = self.saved.get(*index).ok_or(AgentError::Lost(None))?;
            let batch_at = place(self.layout, *index);
            let message = batch.encode(batch_at)?;
            let mut slot = self.layout.fill_slot(*index, saved, self.remote_socket, message.len());
            slot.batch = batch_at;
            slot.together = jobs.len() as u32;
            let slot_at = self.layout.slot(*index);
            let made_at = slot_at + std::mem::offset_of!(Slot, made) as u64;
            answers_at.extend(batch.answer_at(made_at, slot.results, batch_at + message.len() as u64));
            written.push((slot_at, slot.as_bytes().to_vec()));
            written.push((batch_at, message));
        }
        let parts: Vec<(u64, &[u8])> = written.iter().map(|(at, bytes)| (*at, bytes.as_slice())).collect();
        write_scattered(self.memory.pid(), &parts)?;
        let mut running = Vec::new();
        for (index, stopped, batch) in jobs {
            let saved = self.saved.get(index).ok_or(AgentError::Lost(None))?;
            let slot_at = self.layout.slot(index);
            let stack = slot_at + SLOT_STRIDE as u64;
            let entry = self.layout.base + entry::ONCE;
            stopped.set_regs(&regs::entering(&saved.regs, entry, stack, [slot_at, 0, 0]))?;
            stopped.set_sigmask(ALL_SIGNALS)?;
            running.push((index, batch, Some(stopped.resume(Resume::Cont, 0)?)));
        }
        if !running.is_empty() {
            // From the last that is done.
            self.receive_packet(&mut running)?;
        }
        // All are asked before any is waited for.
        for (_, _, thread) in &running {
            thread.as_ref().ok_or(AgentError::Lost(None))?.interrupt()?;
        }
        let mut answers = vec![0; answers_at.iter().map(|(_, len)| len).sum()];
        self.memory.read_ranges(&answers_at, &mut answers)?;
        let mut answers = answers.as_slice();
        let mut done = Vec::new();
        for (index, batch, thread) in running {
            let thread = thread.ok_or(AgentError::Lost(None))?;
            let stopped = wait_past_signals(thread, &mut self.deferred)?;
            let (answer, rest) = batch.take_answer(answers)?;
            answers = rest;
            done.push((index, stopped, answer));
        }
        Ok(done)
    }

    /// Has threads of a frozen task, not the first, make the calls of a batch; the answers, in their order.
    pub fn run_on_other_threads(
        &mut self,
        task: &mut FrozenTask,
        is_asked: impl Fn(usize) -> bool,
        batch: &Batch<'_>,
    ) -> Result<Vec<Replies>, AgentError> {
        let jobs = task.threads.iter_mut().enumerate().skip(1).filter(|(at, _)| is_asked(*at));
        let jobs = jobs.filter_map(|(index, thread)| Some((index, thread.stopped.take()?, batch))).collect();
        self.run_and_return(task, jobs)
    }

    /// Has one thread of a frozen task, not the first, make the calls of a batch.
    pub fn run_on_thread(
        &mut self,
        task: &mut FrozenTask,
        index: usize,
        batch: &Batch<'_>,
    ) -> Result<Replies, AgentError> {
        let stopped = task.threads.get_mut(index).and_then(|thread| thread.stopped.take());
        let jobs = vec![(index, stopped.ok_or(AgentError::Lost(None))?, batch)];
        self.run_and_return(task, jobs)?.pop().ok_or(AgentError::Lost(None))
    }

    /// Has threads make calls, and puts them back to where they were.
    fn run_and_return(
        &mut self,
        task: &mut FrozenTask,
        jobs: Vec<(usize, Stopped, &Batch<'_>)>,
    ) -> Result<Vec<Replies>, AgentError> {
        let mut answers = Vec::new();
        for (index, stopped, replies) in self.run_on_threads(jobs)? {
            if let (Some(saved), Some(thread)) = (self.saved.get(index), task.threads.get_mut(index)) {
                saved.write(&stopped)?;
                thread.stopped = Some(stopped);
            }
            answers.push(replies);
        }
        Ok(answers)
    }

    /// Runs something while the serving thread is stopped, which then serves on.
    pub fn while_stopped<T>(&mut self, act: impl FnOnce(&Stopped) -> T) -> Result<T, AgentError> {
        if let Some(parked) = &self.parked {
            return Ok(act(parked));
        }
        let stopped = self.stop_leader()?;
        let result = act(&stopped);
        self.leader = Some(stopped.resume(Resume::Cont, 0)?);
        Ok(result)
    }

    /// Asks the serving thread to stop, without waiting for it: so that many stop at once.
    pub fn begin_to_stop(&mut self) -> Result<(), AgentError> {
        if self.is_parked() {
            // It has our end of the socket, too, and is to close that first.
            self.is_greeted = true;
            return self.send(&Batch::new());
        }
        let leader = self.leader.as_ref().ok_or(AgentError::Lost(None))?;
        leader.interrupt()?;
        self.is_stopping = true;
        Ok(())
    }

    /// Stops the serving thread wherever it is in the agent.
    fn stop_leader(&mut self) -> Result<Stopped, AgentError> {
        if self.is_parked() {
            self.begin_to_stop()?;
        }
        if std::mem::take(&mut self.is_greeted) {
            self.receive(&Batch::new())?;
        }
        let leader = self.leader.take().ok_or(AgentError::Lost(None))?;
        if !std::mem::take(&mut self.is_stopping) {
            leader.interrupt()?;
        }
        Ok(wait_past_signals(leader, &mut self.deferred)?)
    }

    /// The serving thread, when the agent's work is over with the last batch that was sent.
    pub fn into_leader(self) -> Option<Running> {
        self.leader
    }

    /// Stops the serving thread, in the agent, for good: the task is about to be killed.
    pub fn abandon(mut self, task: &mut FrozenTask) -> Result<(), AgentError> {
        let stopped = self.stop_leader()?;
        if let Some(thread) = task.threads.first_mut() {
            thread.stopped = Some(stopped);
        }
        Ok(())
    }

    /// Sends the signals that somebody else sent while we were at it; the task must not lose them.
    pub fn send_deferred(&self, pid: i32) -> Result<(), SysError> {
        send_all(&self.deferred, pid)
    }

    /// What there is to do for an agent that has been taken out.
    pub fn into_deferred(self) -> Deferred {
        Deferred(self.deferred)
    }
}

/// Signals that somebody else sent while an agent was there; the task must not lose them.
#[derive(Debug)]
pub struct Deferred(Vec<i32>);

impl Deferred {
    /// Sends them.
    pub fn send(&self, pid: i32) -> Result<(), SysError> {
        send_all(&self.0, pid)
    }
}

fn send_all(signals: &[i32], pid: i32) -> Result<(), SysError> {
    for &signal in signals {
        let signal = nix::sys::signal::Signal::try_from(signal).ok();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).map_err(SysError::of("kill"))?;
    }
    Ok(())
}

/// Lets a thread that works for us go on if something stopped it that cannot be blocked; an error if it crashed.
fn look_after(thread: &mut Option<Running>, deferred: &mut Vec<i32>) -> Result<(), AgentError> {
    let running = thread.take().ok_or(AgentError::Lost(None))?;
    let Some((stopped, stop)) = running.poll()? else {
        *thread = Some(running);
        return Ok(());
    };
    match stop {
        Stop::Signal(signal @ libc::SIGSTOP) => deferred.push(signal),
        Stop::Group(_) | Stop::Interrupt => {}
        _ => return Err(AgentError::Lost(Some(stop))),
    }
    *thread = Some(stopped.resume(Resume::Cont, 0)?);
    Ok(())
}

/// Waits for the stop that was asked for; signals that cannot be blocked are kept for later.
fn wait_past_signals(thread: Running, deferred: &mut Vec<i32>) -> Result<Stopped, TraceError> {
    let mut thread = thread;
    loop {
        let (stopped, stop) = thread.wait(STEP_LIMIT)?;
        match stop {
            Stop::Interrupt | Stop::Group(_) => return Ok(stopped),
            Stop::Signal(signal @ libc::SIGSTOP) => {
                deferred.push(signal);
                thread = stopped.resume(Resume::Cont, 0)?;
            }
            stop => return Err(TraceError::Unexpected { tid: stopped.tid(), stop }),
        }
    }
}

#[cfg(test)]
mod tests;
