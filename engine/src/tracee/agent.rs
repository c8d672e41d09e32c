//! The agent inside a stopped task: putting it in, talking to it, and taking it out.
//!
//! What it leaves to chance, in order, for a task that is dumped:
//! 1. One thread makes one system call with our registers: `mmap`, for the agent's memory. Dying here would leave the
//!    thread with wrong registers. `supervise` covers this moment by being another process than the one a user kills.
//! 2. The agent's code and, for each thread, the registers it was interrupted with are written to that memory.
//! 3. The thread enters the agent. From here on the agent finds its own way back: it makes a pair of sockets, we take
//!    one end, and when all copies of that end are closed, every thread puts its own registers back.
//! 4. To take it out, its thread is stopped again and makes `munmap`; the same as 1.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{self, ControlMessage, MsgFlags, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};
use parasite::abi::{
    MAX_CALLS, MAX_MESSAGE, SLOT_BATCH, SLOT_BATCH_MAX, SLOT_CALLS, SLOT_RESULTS, SLOT_STRIDE, SavedRegs,
    Slot, TRAMPOLINE_CODE, TRAMPOLINE_STRIDE,
};
use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::error::{Class, Explain, SysError};
use crate::sys::ptrace::Resume;
use crate::sys::{pidfd, vdso};
use crate::tracee::batch::{Batch, BatchError, Replies};
use crate::tracee::freeze::FrozenTask;
use crate::tracee::memory::Memory;
use crate::tracee::regs;
use crate::tracee::stopped::{Running, Stop, Stopped, TraceError};

/// The agent's code and constants, made by the build script.
static BLOB: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent.bin"));

/// Offsets of the entry points in [`BLOB`].
mod entry {
    include!(concat!(env!("OUT_DIR"), "/agent_layout.rs"));
}

const PAGE: u64 = 4096;
/// Stack of the thread that serves.
const STACK: u64 = 16 * 1024;
/// How long the agent may take for one step of its own.
const STEP_LIMIT: Duration = Duration::from_secs(10);
/// How often a silent agent is looked after.
const LOOK_AFTER: i64 = 50;
/// Every signal; the kernel leaves out `SIGKILL` and `SIGSTOP`.
pub const ALL_SIGNALS: u64 = u64::MAX;

/// Where the parts of an agent's memory are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// First address.
    pub base: u64,
    /// How many threads it serves.
    pub threads: usize,
}

impl Layout {
    fn trampolines(self) -> u64 {
        self.base + (BLOB.len() as u64).next_multiple_of(TRAMPOLINE_STRIDE as u64)
    }

    fn data(self) -> u64 {
        (self.trampolines() + (self.threads * TRAMPOLINE_STRIDE) as u64).next_multiple_of(PAGE)
    }

    fn results(self) -> u64 {
        self.data() + 64
    }

    fn buffer(self) -> u64 {
        self.data() + PAGE
    }

    fn stack_top(self) -> u64 {
        self.buffer() + MAX_MESSAGE as u64 + STACK
    }

    fn slot(self, index: usize) -> u64 {
        self.stack_top() + (index * SLOT_STRIDE) as u64
    }

    fn end(self) -> u64 {
        self.slot(self.threads)
    }

    /// Bytes of memory that an agent for that many threads needs.
    pub fn size(threads: usize) -> u64 {
        Self { base: 0, threads }.end()
    }
}

const _: () = assert!(64 + MAX_CALLS * 8 <= PAGE as usize);

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

    /// Puts them back.
    pub fn write(&self, thread: &Stopped) -> Result<(), SysError> {
        thread.set_xstate(&self.xstate)?;
        thread.set_regs(&self.regs)?;
        thread.set_sigmask(self.sigmask)
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
    /// Where the task has a `syscall` instruction.
    syscall_at: u64,
    /// What each thread was doing, in the order of the task's threads.
    saved: Vec<Saved>,
    packet: Vec<u8>,
    /// Signals that cannot be blocked and came meanwhile; sent again at the end.
    deferred: Vec<i32>,
}

impl Agent {
    /// Puts an agent into a stopped task; its first thread will serve.
    ///
    /// `saved` is what its threads were doing, in their order; `vdso` is where its vdso is mapped, if it is.
    pub fn inject(task: &mut FrozenTask, saved: Vec<Saved>, vdso: Option<u64>) -> Result<Self, AgentError> {
        let memory = Memory::open(task.pid)?;
        let syscall_at =
            vdso.map_or(Err(AgentError::NoSyscallInstruction), |v| syscall_in_vdso(&memory, v))?;
        let thread = task.threads.first_mut().ok_or(AgentError::Lost(None))?;
        let stopped = thread.stopped.take().ok_or(AgentError::Lost(None))?;
        let first = saved.first().ok_or(AgentError::Lost(None))?;
        let size = Layout::size(saved.len());
        stopped.set_sigmask(ALL_SIGNALS)?;
        let map = [0, size, (libc::PROT_READ | libc::PROT_EXEC) as u64, MAP_PRIVATE_ANONYMOUS, u64::MAX, 0];
        let call = Call { number: libc::SYS_mmap, args: map, name: "mmap (in the target)" };
        let (stopped, result) = remote_call(stopped, &first.regs, syscall_at, call);
        let undo = |thread: &mut crate::tracee::freeze::FrozenThread, stopped: Stopped| {
            let undone = first.write(&stopped);
            thread.stopped = Some(stopped);
            undone
        };
        let Some(stopped) = stopped else { return Err(AgentError::Lost(None)) };
        let base = match result {
            Ok(base) => base as u64,
            Err(e) => {
                undo(thread, stopped)?;
                return Err(e);
            }
        };
        let layout = Layout { base, threads: saved.len() };
        let (running, socket, remote_socket) = start(task.pid, stopped, &memory, layout, &saved)?;
        Ok(Self {
            layout,
            memory,
            socket,
            remote_socket,
            leader: Some(running),
            syscall_at,
            saved,
            packet: vec![0; MAX_MESSAGE + 4096],
            deferred: Vec::new(),
        })
    }

    /// The memory of the task.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// What the task's threads were doing, in their order.
    pub fn saved(&self) -> &[Saved] {
        &self.saved
    }

    /// Whether an address range is the agent's own.
    pub fn is_own(&self, start: u64, end: u64) -> bool {
        start >= self.layout.base && end <= self.layout.end()
    }

    /// The numbers of descriptors that the agent has in the task.
    pub fn own_fd(&self) -> i32 {
        self.remote_socket
    }

    /// Has the agent make the calls of a batch, and waits for the answer.
    pub fn run(&mut self, batch: &Batch<'_>) -> Result<Replies, AgentError> {
        self.send(batch)?;
        let (_, replies) = self.receive(batch)?;
        Ok(replies)
    }

    /// Sends a batch; the agent works while we do something else.
    pub fn send(&mut self, batch: &Batch<'_>) -> Result<(), AgentError> {
        let message = batch.encode(self.layout.buffer())?;
        let iov = [IoSlice::new(&message)];
        let rights = [ControlMessage::ScmRights(batch.fds())];
        let rights: &[_] = if batch.fds().is_empty() { &[] } else { &rights };
        socket::sendmsg::<()>(self.socket.as_raw_fd(), &iov, rights, MsgFlags::MSG_NOSIGNAL, None)
            .map_err(SysError::of("sendmsg (to the agent)"))?;
        Ok(())
    }

    /// Waits for the answer to a batch that was sent; which thread gave it, and the answer.
    pub fn receive(&mut self, batch: &Batch<'_>) -> Result<(u32, Replies), AgentError> {
        loop {
            let mut iov = [IoSliceMut::new(&mut self.packet)];
            let flags = MsgFlags::empty();
            let received =
                socket::recvmsg::<()>(self.socket.as_raw_fd(), &mut iov, None, flags).map(|m| m.bytes);
            match received {
                Ok(0) => return Err(AgentError::Lost(None)),
                Ok(len) => return Ok(batch.decode(self.packet.get(..len).unwrap_or_default())?),
                Err(Errno::EAGAIN | Errno::EINTR) => self.look_after_leader()?,
                Err(errno) => return Err(SysError { call: "recvmsg (from the agent)", errno }.into()),
            }
        }
    }

    /// Lets the serving thread go on if something stopped it that cannot be blocked; an error if it crashed.
    fn look_after_leader(&mut self) -> Result<(), AgentError> {
        let Some(leader) = self.leader.take() else { return Err(AgentError::Lost(None)) };
        let Some((stopped, stop)) = leader.poll()? else {
            self.leader = Some(leader);
            return Ok(());
        };
        match stop {
            Stop::Signal(signal @ libc::SIGSTOP) => self.deferred.push(signal),
            Stop::Group(_) | Stop::Interrupt => {}
            _ => return Err(AgentError::Lost(Some(stop))),
        }
        self.leader = Some(stopped.resume(Resume::Cont, 0)?);
        Ok(())
    }

    /// Has every thread but the first make the calls of a batch; the answers, in the threads' order.
    pub fn run_on_other_threads(
        &mut self,
        task: &mut FrozenTask,
        batch: &Batch<'_>,
    ) -> Result<Vec<Replies>, AgentError> {
        let mut running = Vec::new();
        for (index, thread) in task.threads.iter_mut().enumerate().skip(1) {
            let Some(saved) = self.saved.get(index) else { return Err(AgentError::Lost(None)) };
            let slot_at = self.layout.slot(index);
            let message = self.encode_for_slot(index, batch)?;
            let slot = self.layout.fill_slot(index, saved, self.remote_socket, message.len());
            self.memory.write(slot_at, slot.as_bytes())?;
            self.memory.write(slot_at + SLOT_BATCH as u64, &message)?;
            let stopped = thread.stopped.take().ok_or(AgentError::Lost(None))?;
            stopped.set_sigmask(ALL_SIGNALS)?;
            let stack = slot_at + SLOT_STRIDE as u64 - 8;
            stopped.set_regs(&regs::entering(
                &saved.regs,
                self.layout.base + entry::ONCE,
                stack + 8,
                [slot_at, 0, 0],
            ))?;
            running.push((index, stopped.resume(Resume::Cont, 0)?));
        }
        let mut answers: Vec<Option<Replies>> = Vec::new();
        answers.resize_with(self.saved.len(), || None);
        for _ in 0..running.len() {
            let (slot, replies) = self.receive(batch)?;
            *answers.get_mut(slot as usize).ok_or(AgentError::Lost(None))? = Some(replies);
        }
        for (index, thread) in running {
            thread.interrupt()?;
            let stopped = wait_past_signals(thread, &mut self.deferred)?;
            if let Some(saved) = self.saved.get(index) {
                saved.write(&stopped)?;
            }
            if let Some(frozen) = task.threads.get_mut(index) {
                frozen.stopped = Some(stopped);
            }
        }
        answers.into_iter().skip(1).map(|a| a.ok_or(AgentError::Lost(None))).collect()
    }

    fn encode_for_slot(&self, index: usize, batch: &Batch<'_>) -> Result<Vec<u8>, AgentError> {
        let message = batch.encode(self.layout.slot(index) + SLOT_BATCH as u64)?;
        if message.len() > SLOT_BATCH_MAX {
            return Err(SysError { call: "batch for a thread", errno: Errno::EMSGSIZE }.into());
        }
        Ok(message)
    }

    /// Stops the serving thread wherever it is in the agent.
    fn stop_leader(&mut self) -> Result<Stopped, AgentError> {
        let leader = self.leader.take().ok_or(AgentError::Lost(None))?;
        leader.interrupt()?;
        Ok(wait_past_signals(leader, &mut self.deferred)?)
    }

    /// Takes the agent out: the task is as it was, and stopped.
    pub fn remove(mut self, task: &mut FrozenTask) -> Result<(), AgentError> {
        let stopped = self.stop_leader()?;
        let first = self.saved.first().ok_or(AgentError::Lost(None))?;
        let close =
            Call { number: libc::SYS_close, args: [self.remote_socket as u64, 0, 0, 0, 0, 0], name: "close" };
        let (stopped, closed) = remote_call(stopped, &first.regs, self.syscall_at, close);
        let stopped = stopped.ok_or(AgentError::Lost(None))?;
        let size = Layout::size(self.layout.threads);
        let unmap =
            Call { number: libc::SYS_munmap, args: [self.layout.base, size, 0, 0, 0, 0], name: "munmap" };
        let (stopped, unmapped) = remote_call(stopped, &first.regs, self.syscall_at, unmap);
        let stopped = stopped.ok_or(AgentError::Lost(None))?;
        first.write(&stopped)?;
        if let Some(thread) = task.threads.first_mut() {
            thread.stopped = Some(stopped);
        }
        for &signal in &self.deferred {
            // Sent by somebody else while we were at it; the task must not lose it.
            let signal = nix::sys::signal::Signal::try_from(signal).ok();
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(task.pid), signal)
                .map_err(SysError::of("kill"))?;
        }
        closed.and(unmapped).map(|_| ())
    }
}

const MAP_PRIVATE_ANONYMOUS: u64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;

impl Layout {
    /// The slot of a thread that serves one batch of `batch_len` bytes.
    fn fill_slot(self, index: usize, saved: &Saved, socket: i32, batch_len: usize) -> Slot {
        let mut slot = Slot::new_zeroed();
        let regs = regs::after_restart(&saved.regs);
        slot.regs = SavedRegs {
            rflags: regs.eflags,
            r15: regs.r15,
            r14: regs.r14,
            r13: regs.r13,
            r12: regs.r12,
            r11: regs.r11,
            r10: regs.r10,
            r9: regs.r9,
            r8: regs.r8,
            rbp: regs.rbp,
            rbx: regs.rbx,
            rsi: regs.rsi,
            rdx: regs.rdx,
            rcx: regs.rcx,
            rax: regs.rax,
        };
        slot.sigmask = saved.sigmask;
        slot.trampoline = self.trampolines() + (index * TRAMPOLINE_STRIDE) as u64;
        slot.index = index as u32;
        slot.gone = self.data();
        slot.socket = socket;
        slot.engine_socket = -1;
        slot.batch = self.slot(index) + SLOT_BATCH as u64;
        slot.batch_len = batch_len as u32;
        slot.results = self.slot(index) + SLOT_RESULTS as u64;
        slot.max_calls = SLOT_CALLS as u64;
        slot
    }

    /// The slot of the thread that serves until the engine is gone.
    fn fill_serving_slot(self, saved: &Saved, socket: i32) -> Slot {
        let mut slot = self.fill_slot(0, saved, socket, 0);
        slot.buffer = self.buffer();
        slot.results = self.results();
        slot.max_calls = MAX_CALLS as u64;
        slot
    }

    /// Code, then the trampolines of all threads.
    fn code(self, saved: &[Saved]) -> Vec<u8> {
        let mut code = BLOB.to_vec();
        code.resize((self.trampolines() - self.base) as usize, 0);
        for saved in saved {
            let regs = regs::after_restart(&saved.regs);
            let start = code.len();
            code.extend_from_slice(&TRAMPOLINE_CODE);
            for register in [regs.rdi, regs.rsp, regs.rip] {
                code.extend_from_slice(&register.to_le_bytes());
            }
            code.resize(start + TRAMPOLINE_STRIDE, 0);
        }
        code
    }
}

/// Writes the agent, lets the thread enter it, and takes our end of the socket pair that it makes.
fn start(
    pid: i32,
    stopped: Stopped,
    memory: &Memory,
    layout: Layout,
    saved: &[Saved],
) -> Result<(Running, OwnedFd, i32), AgentError> {
    let first = saved.first().ok_or(AgentError::Lost(None))?;
    memory.write(layout.base, &layout.code(saved))?;
    memory.write(layout.slot(0), layout.fill_serving_slot(first, -1).as_bytes())?;
    let args = [layout.slot(0), layout.data(), layout.end() - layout.data()];
    stopped.set_regs(&regs::entering(&first.regs, layout.base + entry::SERVE, layout.stack_top(), args))?;
    // Two system calls, each with a stop at its entry and one at its exit: mprotect, then socketpair.
    let mut stopped = stopped;
    for _ in 0..4 {
        let (next, stop) = stopped.resume(Resume::Syscall, 0)?.wait(STEP_LIMIT)?;
        if stop != Stop::Syscall {
            return Err(AgentError::Lost(Some(stop)));
        }
        stopped = next;
    }
    let regs = stopped.regs()?;
    if (regs.rax as i64) < 0 {
        let errno = Errno::from_raw(-(regs.rax as i64) as i32);
        return Err(SysError { call: "socketpair (in the target)", errno }.into());
    }
    let [ours, theirs] = memory.read_value::<[i32; 2]>(regs.r10)?;
    let socket = pidfd::getfd(pidfd::open(pid)?, theirs)?;
    set_receive_timeout(&socket)?;
    Ok((stopped.resume(Resume::Cont, 0)?, socket, ours))
}

fn set_receive_timeout(socket: &OwnedFd) -> Result<(), SysError> {
    socket::setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &TimeVal::milliseconds(LOOK_AFTER))
        .map_err(SysError::of("setsockopt(SO_RCVTIMEO)"))
}

/// A system call to be made by somebody else.
struct Call {
    number: i64,
    args: [u64; 6],
    name: &'static str,
}

/// Has a stopped thread make one system call. The thread, unless it died, and the call's result.
fn remote_call(
    stopped: Stopped,
    from: &libc::user_regs_struct,
    syscall_at: u64,
    call: Call,
) -> (Option<Stopped>, Result<i64, AgentError>) {
    if let Err(e) = stopped.set_regs(&regs::calling(from, syscall_at, call.number, call.args)) {
        return (Some(stopped), Err(e.into()));
    }
    let mut stopped = stopped;
    loop {
        let stepped =
            stopped.resume(Resume::Step, 0).map_err(TraceError::from).and_then(|r| r.wait(STEP_LIMIT));
        match stepped {
            Ok((next, Stop::Signal(libc::SIGTRAP))) => {
                let result = next.regs().map_err(AgentError::from).and_then(|regs| match regs.rax as i64 {
                    result @ -4095..0 => {
                        Err(SysError { call: call.name, errno: Errno::from_raw(-result as i32) }.into())
                    }
                    result => Ok(result),
                });
                return (Some(next), result);
            }
            // It was stopped for another reason before the instruction was executed.
            Ok((next, Stop::Interrupt | Stop::Group(_) | Stop::Signal(libc::SIGSTOP))) => stopped = next,
            Ok((next, stop)) => return (Some(next), Err(AgentError::Lost(Some(stop)))),
            Err(e) => return (None, Err(e.into())),
        }
    }
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

/// Where the task's vdso has a `syscall` instruction: where ours has one, after a look whether it is the same.
fn syscall_in_vdso(memory: &Memory, vdso: u64) -> Result<u64, AgentError> {
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    let offset = vdso::syscall_offset().ok_or(AgentError::NoSyscallInstruction)?;
    let found: [u8; 2] = memory.read_value(vdso + offset)?;
    if found == SYSCALL { Ok(vdso + offset) } else { Err(AgentError::NoSyscallInstruction) }
}

#[cfg(test)]
mod tests;
