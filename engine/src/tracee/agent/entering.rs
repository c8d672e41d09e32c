//! How threads come to serve us: in a stopped task, in a fork of our own, and in clones of those that serve already.
//!
//! Many do it at the same time: what each has to do takes a few stops, and while one goes to its next, we are at another.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use parasite::abi::Slot;
use zerocopy::IntoBytes as _;

use super::calls::{
    Call, Course, Told, call_result, complete_all, prepare_call, remote_call, syscall_in_code,
    syscall_in_vdso,
};
use super::first::First;
use super::landing::LandingPad;
use super::{ALL_SIGNALS, Agent, AgentError, Layout, Saved, entry};
use crate::error::SysError;
use crate::sys::ptrace::Resume;
use crate::sys::{pidfd, vdso};
use crate::tracee::batch::Batch;
use crate::tracee::freeze::FrozenTask;
use crate::tracee::memory::{Memory, write_scattered};
use crate::tracee::regs;
use crate::tracee::stopped::{Running, Stopped};

/// What the agent calls until it can be talked to; where its memory is writable, it begins with the second.
const CONNECTING: [&str; 2] = ["mprotect (in the target)", "socketpair (in the target)"];
/// The call that makes room for it.
const MAPPING: [&str; 1] = ["mmap (in the target)"];

const MAP_PRIVATE_ANONYMOUS: u64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;

/// How a thread enters.
#[derive(Debug, Clone, Copy)]
pub(super) enum Entry {
    /// In memory that it has to make writable first.
    Serve,
    /// In memory that is writable already.
    Again,
}

/// A stopped task that is to get an agent.
#[derive(Debug)]
pub struct Entrance<'a> {
    /// The task; its first thread will serve.
    pub task: &'a mut FrozenTask,
    /// What its threads were doing, in their order.
    pub saved: Vec<Saved>,
    /// Its memory.
    pub memory: Memory,
    /// Where its vdso is mapped, if it is.
    pub vdso: Option<(u64, u64)>,
    /// Its executable mappings, which are searched for a system call instruction if there is no vdso.
    pub code: Vec<(u64, u64)>,
    /// A descriptor for it.
    pub pidfd: BorrowedFd<'a>,
    /// A signal that does nothing to it, if there is one that its first thread does not block.
    pub signal: Option<i32>,
    /// What it is to be asked on its way in, if that can be.
    pub first: Vec<&'a Batch<'static>>,
}

/// A clone of a task with an agent, stopped at birth.
#[derive(Debug)]
pub struct Clone {
    /// Its pid.
    pub pid: i32,
    /// Its thread.
    pub stopped: Stopped,
    /// Where its agent is.
    pub layout: Layout,
    /// The number that its socket is to have there.
    pub socket: i32,
    /// The socket that it was born with, if it was.
    pub given: Option<GivenSocket>,
}

/// A pair of sockets, of which a clone has one from its maker.
#[derive(Debug)]
pub struct GivenSocket {
    /// Our end.
    pub ours: OwnedFd,
    /// The number of the other end in the clone.
    pub theirs: i32,
}

/// Puts agents into stopped tasks. What became of each, in their order: tasks that have none are as they were.
pub fn inject_all(entrances: Vec<Entrance<'_>>) -> Vec<Result<Agent, AgentError>> {
    let mut mapping: Vec<Result<Mapping<'_>, AgentError>> =
        entrances.into_iter().map(Mapping::begin).collect();
    complete_all(mapping.iter_mut().flatten().map(|mapping| &mut mapping.course));
    let connecting = mapping.into_iter().map(|mapping| mapping?.end()).collect();
    connect_all(connecting)
}

/// Lets clones serve us too: their memory has the agent already. What became of each, in their order.
pub fn enter_clones(clones: Vec<Clone>) -> Vec<Result<Agent, AgentError>> {
    let (with_socket, without): (Vec<_>, Vec<_>) =
        clones.into_iter().partition(|clone| clone.given.is_some());
    let mut agents: Vec<_> = with_socket.into_iter().map(Agent::enter_with_socket).collect();
    let begin = |clone: Clone| {
        let Clone { pid, stopped, layout, socket, .. } = clone;
        let (memory, saved) = at_birth(pid, &stopped, layout)?;
        Connecting::begin(pid, stopped, memory, layout, saved, Entry::Again, Some(socket))
    };
    agents.extend(connect_all(without.into_iter().map(begin).collect()));
    agents
}

/// The memory of a clone, and what it is doing: nothing that it would ever go back to.
fn at_birth(pid: i32, stopped: &Stopped, layout: Layout) -> Result<(Memory, Vec<Rc<Saved>>), AgentError> {
    let saved = Saved { regs: stopped.regs()?, xstate: Vec::new(), sigmask: ALL_SIGNALS };
    Ok((Memory::open(pid)?, layout.for_all(saved)))
}

fn connect_all(mut connecting: Vec<Result<Connecting<'_>, AgentError>>) -> Vec<Result<Agent, AgentError>> {
    complete_all(connecting.iter_mut().flatten().map(|connecting| &mut connecting.course));
    connecting.into_iter().map(|connecting| connecting?.end()).collect()
}

impl Agent {
    /// Puts an agent into a stopped fork of our own, at a place of our choice; the fork never goes back to what it did.
    /// `socket` is the number that its socket is to have there.
    pub fn inject_into_fork(
        pid: i32,
        stopped: Stopped,
        layout: Layout,
        socket: i32,
    ) -> Result<Self, AgentError> {
        let memory = Memory::open(pid)?;
        let syscall_at = syscall_in_vdso(&memory, vdso::base()?)?;
        let saved = layout.for_all(Saved::read(&stopped)?);
        let regs = stopped.regs()?;
        let mut deferred = Vec::new();
        let (stopped, mapped) =
            remote_call(stopped, &regs, syscall_at, map_agent(layout, Entry::Serve), &mut deferred);
        let layout = Layout { base: mapped? as u64, ..layout };
        let stopped = stopped.ok_or(AgentError::Lost(None))?;
        let mut agent = Self::start(pid, stopped, memory, layout, saved, Some(socket))?;
        agent.deferred.extend(deferred);
        Ok(agent)
    }

    /// Lets a clone that shares the memory of its maker serve us too, with an agent of its own, for which its maker has
    /// mapped memory ([`Layout::add_map`]).
    pub fn enter_sharing_clone(clone: Clone) -> Result<Self, AgentError> {
        let Clone { pid, stopped, layout, socket, .. } = clone;
        let (memory, saved) = at_birth(pid, &stopped, layout)?;
        Self::start(pid, stopped, memory, layout, saved, Some(socket))
    }

    /// Lets a clone serve us that was born with its socket.
    fn enter_with_socket(clone: Clone) -> Result<Self, AgentError> {
        let Clone { pid, stopped, layout, socket: wanted, given } = clone;
        let GivenSocket { ours, theirs } = given.ok_or(AgentError::Lost(None))?;
        let (memory, saved) = at_birth(pid, &stopped, layout)?;
        let first = saved.first().ok_or(AgentError::Lost(None))?;
        let slot = Slot { socket: theirs, ..layout.fill_serving_slot(first, Some(wanted)) };
        enter(&stopped, &memory, layout, first, &slot, entry::AGAIN)?;
        let leader = stopped.resume(Resume::Cont, 0)?;
        Ok(Self::new(memory, layout, saved, ours, wanted, Some(leader)))
    }

    fn new(
        memory: Memory,
        layout: Layout,
        saved: Vec<Rc<Saved>>,
        socket: OwnedFd,
        remote_socket: i32,
        leader: Option<Running>,
    ) -> Self {
        Self {
            layout,
            memory,
            socket,
            remote_socket,
            leader,
            saved,
            deferred: Vec::new(),
            landing: None,
            is_stopping: false,
            parked: None,
            first: None,
            is_greeted: false,
            has_timeout: false,
        }
    }

    /// Lets a copy of a task with an agent, stopped at birth, serve us. Unlike a clone it ends when we do.
    pub fn enter_copy(pid: i32, stopped: Stopped, layout: Layout) -> Result<Self, AgentError> {
        let memory = Memory::open(pid)?;
        stopped.set_sigmask(ALL_SIGNALS)?;
        let mut end = Saved::read(&stopped)?;
        end.regs.rip = layout.base + entry::END;
        end.regs.orig_rax = u64::MAX;
        let saved = layout.for_all(end);
        memory.write(layout.base, &layout.code(&saved))?;
        Self::connect(Connecting::begin(pid, stopped, memory, layout, saved, Entry::Again, None)?)
    }

    /// Writes the agent into memory that was mapped for it, and lets the thread enter.
    fn start(
        pid: i32,
        stopped: Stopped,
        memory: Memory,
        layout: Layout,
        saved: Vec<Rc<Saved>>,
        socket: Option<i32>,
    ) -> Result<Self, AgentError> {
        memory.write(layout.base, &layout.code(&saved))?;
        Self::connect(Connecting::begin(pid, stopped, memory, layout, saved, Entry::Serve, socket)?)
    }

    fn connect(mut connecting: Connecting<'_>) -> Result<Self, AgentError> {
        complete_all([&mut connecting.course]);
        connecting.end()
    }
}

/// The call that maps memory for the agent: at a place that the kernel chooses, or at `place.base` if that is not 0.
pub(super) fn map_agent(place: Layout, entry: Entry) -> Call {
    let writable = match entry {
        Entry::Serve => 0,
        Entry::Again => libc::PROT_WRITE,
    };
    let prot = (libc::PROT_READ | libc::PROT_EXEC | writable) as u64;
    let fixed = if place.base == 0 { 0 } else { libc::MAP_FIXED_NOREPLACE as u64 };
    let size = Layout::size(place.threads);
    let args = [place.base, size, prot, MAP_PRIVATE_ANONYMOUS | fixed, u64::MAX, 0];
    Call { number: libc::SYS_mmap, args, name: MAPPING[0] }
}

/// A task whose first thread is on its way to map memory for an agent.
struct Mapping<'a> {
    task: &'a mut FrozenTask,
    saved: Vec<Saved>,
    memory: Memory,
    landing: Option<LandingPad>,
    syscall_at: u64,
    pidfd: BorrowedFd<'a>,
    /// The signal that it tells by, and what it is asked first.
    tells: Option<(i32, First<'a>)>,
    course: Course<'static>,
}

impl<'a> Mapping<'a> {
    fn begin(entrance: Entrance<'a>) -> Result<Self, AgentError> {
        let Entrance { task, saved, memory, vdso, code, pidfd, signal, first: asked } = entrance;
        let first = saved.first().ok_or(AgentError::Lost(None))?;
        let place = Layout { base: 0, threads: saved.len() };
        let size = Layout::size(saved.len());
        let landing = vdso.and_then(|vdso| LandingPad::put(&memory, vdso, first, size, signal));
        let told = landing.as_ref().zip(signal).map(|(pad, signal)| pad.told(signal, MAPPING[0]));
        let in_vdso = || vdso.and_then(|(start, _)| syscall_in_vdso(&memory, start).ok());
        let syscall_at = landing.as_ref().map(LandingPad::entry).or_else(in_vdso);
        let syscall_at = syscall_at.or_else(|| syscall_in_code(&memory, &code));
        let syscall_at = syscall_at.ok_or(AgentError::NoSyscallInstruction)?;
        let thread = task.threads.first_mut().ok_or(AgentError::Lost(None))?;
        let stopped = thread.stopped.take().ok_or(AgentError::Lost(None))?;
        let map = map_agent(place, Entry::Again);
        let blocked = told.map_or(ALL_SIGNALS, |told| all_but(told.signal));
        if let Err(e) = prepare_call(&stopped, &first.regs, syscall_at, &map, blocked) {
            thread.stopped = Some(stopped);
            return Err(e.into());
        }
        let course = match told {
            Some(told) => Course::until(stopped, told),
            None => Course::new(stopped, &MAPPING),
        };
        let tells = told.and_then(|told| Some((told.signal, First::of(asked)?)));
        Ok(Self { task, saved, memory, landing, syscall_at, pidfd, tells, course })
    }

    /// Lets the thread go on into the agent; if there is no memory for that, it is what it was.
    fn end(self) -> Result<Connecting<'a>, AgentError> {
        let Self { task, saved, memory, landing, syscall_at, pidfd, tells, course } = self;
        let mut deferred = Vec::new();
        let first = saved.first().ok_or(AgentError::Lost(None))?;
        let place = Layout { base: 0, threads: saved.len() };
        let (stopped, mapped) = course.complete(&mut deferred);
        let mut stopped = stopped.ok_or(AgentError::Lost(None))?;
        let mut entry = Entry::Again;
        let mapped = match mapped {
            // Memory that is writable and executable at the same time is not for everybody (PR_SET_MDWE).
            Err(AgentError::Sys(SysError { errno: Errno::EACCES | Errno::EPERM, .. })) => {
                entry = Entry::Serve;
                let call = map_agent(place, entry);
                let (thread, mapped) = remote_call(stopped, &first.regs, syscall_at, call, &mut deferred);
                stopped = thread.ok_or(AgentError::Lost(None))?;
                mapped
            }
            mapped => mapped,
        };
        let base = match mapped {
            Ok(base) => base as u64,
            Err(e) => {
                first.write(&stopped)?;
                if let Some(thread) = task.threads.first_mut() {
                    thread.stopped = Some(stopped);
                }
                landing.map_or(Ok(()), |landing| landing.erase(&memory))?;
                return Err(e);
            }
        };
        if landing.is_none() {
            // Until it enters the agent, it is what it was, should we die.
            first.write(&stopped)?;
        }
        let layout = Layout { base, ..place };
        let saved: Vec<Rc<Saved>> = saved.into_iter().map(Rc::new).collect();
        let connecting = if let (Entry::Again, Some((signal, first))) = (entry, tells) {
            Connecting::begin_with(first, pidfd, stopped, memory, layout, saved, signal)?
        } else {
            memory.write(layout.base, &layout.code(&saved))?;
            Connecting::begin(task.first_tid(), stopped, memory, layout, saved, entry, None)?
        };
        Ok(Connecting { landing, deferred, ..connecting })
    }
}

/// A thread in the agent, on its way to its socket pair.
struct Connecting<'a> {
    whose: Whose<'a>,
    memory: Memory,
    layout: Layout,
    saved: Vec<Rc<Saved>>,
    /// The number that its socket is to have, or else it stays where the kernel puts it.
    wanted: Option<i32>,
    landing: Option<LandingPad>,
    deferred: Vec<i32>,
    course: Course<'static>,
}

/// A process on its way to its socket pair.
enum Whose<'a> {
    /// Its pid.
    Pid(i32),
    /// A descriptor for one that tells when it has it, and what it is asked before.
    Told(BorrowedFd<'a>, First<'a>),
}

impl<'a> Connecting<'a> {
    fn begin(
        pid: i32,
        stopped: Stopped,
        memory: Memory,
        layout: Layout,
        saved: Vec<Rc<Saved>>,
        entry: Entry,
        wanted: Option<i32>,
    ) -> Result<Self, AgentError> {
        let first = saved.first().ok_or(AgentError::Lost(None))?;
        // What it calls up to socketpair.
        let (entry, calls) = match entry {
            Entry::Serve => (entry::SERVE, CONNECTING.as_slice()),
            Entry::Again => (entry::AGAIN, &CONNECTING[1..]),
        };
        enter(&stopped, &memory, layout, first, &layout.fill_serving_slot(first, wanted), entry)?;
        let course = Course::new(stopped, calls);
        let whose = Whose::Pid(pid);
        Ok(Self { whose, memory, layout, saved, wanted, landing: None, deferred: Vec::new(), course })
    }

    /// Lets a thread enter memory that is writable, where it answers these questions, and tells by a signal.
    fn begin_with(
        first: First<'a>,
        pidfd: BorrowedFd<'a>,
        stopped: Stopped,
        memory: Memory,
        layout: Layout,
        saved: Vec<Rc<Saved>>,
        signal: i32,
    ) -> Result<Self, AgentError> {
        let leader = saved.first().ok_or(AgentError::Lost(None))?;
        let messages = first.encode(layout.buffer())?;
        let slot = Slot {
            batch: layout.buffer(),
            batch_len: messages.len() as u32,
            signal: signal as u32,
            ..layout.fill_serving_slot(leader, None)
        };
        let code = layout.code(&saved);
        let parts: [(u64, &[u8]); 3] =
            [(layout.base, &code), (layout.buffer(), &messages), (layout.slot(0), slot.as_bytes())];
        write_scattered(memory.pid(), &parts)?;
        // All other signals are blocked, since it mapped the memory.
        enter_at(&stopped, layout, leader, entry::AGAIN)?;
        let course = Course::until(stopped, Told { signal, at: layout.base + entry::TOLD, call: None });
        let whose = Whose::Told(pidfd, first);
        Ok(Self { whose, memory, layout, saved, wanted: None, landing: None, deferred: Vec::new(), course })
    }

    /// Takes our end of the pair, and lets the thread serve, or stay where it is until it is needed.
    fn end(self) -> Result<Agent, AgentError> {
        let Self { whose, memory, layout, saved, wanted, landing, mut deferred, course } = self;
        let (stopped, connected) = course.complete(&mut deferred);
        connected?;
        let stopped = stopped.ok_or(AgentError::Lost(None))?;
        let agent = match whose {
            Whose::Pid(pid) => {
                let regs = stopped.regs()?;
                let [remote_socket, ours] = memory.read_value::<[i32; 2]>(regs.r10)?;
                let socket = pidfd::getfd(pidfd::open(pid)?, ours)?;
                let leader = stopped.resume(Resume::Cont, 0)?;
                Agent::new(memory, layout, saved, socket, wanted.unwrap_or(remote_socket), Some(leader))
            }
            Whose::Told(pidfd, first) => {
                let ([remote_socket, ours], answers) = first.answers(&memory, layout)?;
                call_result(CONNECTING[1], i64::from(ours) as u64)?;
                // No other signal of that kind is to stop it from here on.
                stopped.set_sigmask(ALL_SIGNALS)?;
                let socket = pidfd::getfd(pidfd, ours)?;
                let agent = Agent::new(memory, layout, saved, socket, remote_socket, None);
                Agent { parked: Some(stopped), first: Some(answers), ..agent }
            }
        };
        Ok(Agent { deferred, landing, ..agent })
    }
}

/// All signals but one.
fn all_but(signal: i32) -> u64 {
    ALL_SIGNALS & !(1 << (signal - 1))
}

/// Sets a stopped thread so that it serves from an entry on.
fn enter(
    stopped: &Stopped,
    memory: &Memory,
    layout: Layout,
    saved: &Saved,
    slot: &Slot,
    entry: u64,
) -> Result<(), AgentError> {
    memory.write(layout.slot(0), slot.as_bytes())?;
    // Signals come second: in the agent the thread finds its mask again.
    enter_at(stopped, layout, saved, entry)?;
    Ok(stopped.set_sigmask(ALL_SIGNALS)?)
}

/// Sets the registers of a stopped thread so that it goes on in the agent.
fn enter_at(stopped: &Stopped, layout: Layout, saved: &Saved, entry: u64) -> Result<(), SysError> {
    let args = [layout.slot(0), layout.data(), layout.end() - layout.data()];
    stopped.set_regs(&regs::entering(&saved.regs, layout.base + entry, layout.stack_top(), args))
}
