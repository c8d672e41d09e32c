//! System calls that a stopped thread makes for us, and where there is an instruction for them.

use nix::errno::Errno;

use super::{ALL_SIGNALS, AgentError, BLOB, STEP_LIMIT};
use crate::error::SysError;
use crate::sys::ptrace::Resume;
use crate::sys::vdso;
use crate::tracee::memory::Memory;
use crate::tracee::regs;
use crate::tracee::stopped::{Running, Stop, Stopped, TraceError};

/// A system call to be made by somebody else.
pub(super) struct Call {
    pub number: i64,
    pub args: [u64; 6],
    pub name: &'static str,
}

/// Has a stopped thread make one system call, with all signals blocked from then on. The thread, unless it died, and the
/// call's result. Signals that cannot be blocked are kept for later.
pub(super) fn remote_call(
    stopped: Stopped,
    from: &libc::user_regs_struct,
    syscall_at: u64,
    call: Call,
    deferred: &mut Vec<i32>,
) -> (Option<Stopped>, Result<i64, AgentError>) {
    let name = [call.name];
    let course = match prepare_call(&stopped, from, syscall_at, &call, ALL_SIGNALS) {
        Ok(()) => Course::new(stopped, &name),
        Err(e) => return (Some(stopped), Err(e.into())),
    };
    course.complete(deferred)
}

/// Sets the registers of a stopped thread so that it makes one system call next, and blocks these signals.
pub(super) fn prepare_call(
    stopped: &Stopped,
    from: &libc::user_regs_struct,
    syscall_at: u64,
    call: &Call,
    blocked: u64,
) -> Result<(), SysError> {
    // Signals come second: at the landing pad the thread finds its mask again, but not where it was stopped.
    stopped
        .set_regs(&regs::calling(from, syscall_at, call.number, call.args))
        .and_then(|()| stopped.set_sigmask(blocked))
}

/// Where a thread is when it takes a signal that it sent to itself, and that does nothing to it.
///
/// A tracer is told of every signal that is not blocked, be it ignored or not (`sig_ignored` of kernel/signal.c), so that this is one
/// stop where a system call has two. Should we die, the thread goes on as if there had been no signal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    pub signal: i32,
    /// The address.
    pub at: u64,
    /// The call whose result it has in `rbx` then.
    pub call: Option<&'static str>,
}

/// How a thread is seen to have come to its end.
#[derive(Debug)]
enum Way<'a> {
    /// It has still to make these calls; whether it is inside of the first of them.
    Calls(&'a [&'static str], bool),
    /// It tells.
    Until(Told),
    /// It has come there, or never will.
    Done,
}

/// A stopped thread on its way through some system calls.
///
/// Not by PTRACE_SINGLESTEP: its SIGTRAP is forced, and forcing a signal that is blocked or ignored resets its handler.
#[derive(Debug)]
pub(super) struct Course<'a> {
    /// None once it died.
    stopped: Option<Stopped>,
    way: Way<'a>,
    /// The last call's result, or the first error of any.
    outcome: Result<i64, AgentError>,
    /// Signals that cannot be blocked.
    deferred: Vec<i32>,
}

impl<'a> Course<'a> {
    /// Through these calls.
    pub(super) fn new(stopped: Stopped, calls: &'a [&'static str]) -> Self {
        Self::along(stopped, Way::Calls(calls, false))
    }

    /// Until it tells.
    pub(super) fn until(stopped: Stopped, told: Told) -> Self {
        Self::along(stopped, Way::Until(told))
    }

    fn along(stopped: Stopped, way: Way<'a>) -> Self {
        Self { stopped: Some(stopped), way, outcome: Ok(0), deferred: Vec::new() }
    }

    /// Takes it to its end. The thread, unless it died, and the last call's result, or the first error of any. Signals that
    /// cannot be blocked are kept for later.
    pub(super) fn complete(mut self, deferred: &mut Vec<i32>) -> (Option<Stopped>, Result<i64, AgentError>) {
        complete_all([&mut self]);
        deferred.append(&mut self.deferred);
        (self.stopped, self.outcome)
    }

    /// Lets the thread go on to its next stop; none if there is nothing to be waited for.
    fn go_on(&mut self) -> Option<Running> {
        let how = match self.way {
            Way::Calls([_, ..], _) => Resume::Syscall,
            Way::Until(_) => Resume::Cont,
            Way::Calls([], _) | Way::Done => return None,
        };
        match self.stopped.take()?.resume(how, 0) {
            Ok(running) => Some(running),
            Err(e) => {
                self.outcome = Err(TraceError::from(e).into());
                None
            }
        }
    }

    /// Takes the thread at a stop.
    fn take(&mut self, stepped: Result<(Stopped, Stop), TraceError>) {
        let (stopped, stop) = match stepped {
            Ok(stepped) => stepped,
            Err(e) => {
                self.outcome = Err(e.into());
                return;
            }
        };
        match (stop, &mut self.way) {
            (Stop::Syscall, Way::Calls(_, entered @ false)) => *entered = true,
            (Stop::Syscall, Way::Calls(calls, entered)) => {
                *entered = false;
                if let Some((call, rest)) = calls.split_first() {
                    let regs = stopped.regs().map_err(AgentError::from);
                    let result = regs.and_then(|regs| call_result(call, regs.rax));
                    let before = std::mem::replace(&mut self.outcome, Ok(0));
                    self.outcome = before.and(result);
                    *calls = rest;
                }
            }
            (Stop::Signal(signal), Way::Until(told)) if signal == told.signal => match stopped.regs() {
                // Somebody else's, which is ignored.
                Ok(regs) if regs.rip != told.at => {}
                regs => {
                    let result = |regs: libc::user_regs_struct| match told.call {
                        Some(call) => call_result(call, regs.rbx),
                        None => Ok(0),
                    };
                    self.outcome = regs.map_err(AgentError::from).and_then(result);
                    self.way = Way::Done;
                }
            },
            // It was stopped for another reason before the instruction was executed.
            (Stop::Interrupt | Stop::Group(_), _) => {}
            (Stop::Signal(signal @ libc::SIGSTOP), _) => self.deferred.push(signal),
            (stop, _) => {
                self.outcome = Err(AgentError::Lost(Some(stop)));
                self.way = Way::Done;
            }
        }
        self.stopped = Some(stopped);
    }
}

/// Takes threads to the ends of their courses: all go on before any is waited for.
pub(super) fn complete_all<'c, 'a: 'c>(courses: impl IntoIterator<Item = &'c mut Course<'a>>) {
    let mut under_way: Vec<&mut Course<'a>> = courses.into_iter().collect();
    while !under_way.is_empty() {
        let going = under_way.into_iter().filter_map(|course| Some((course.go_on()?, course)));
        let going: Vec<(Running, &mut Course<'a>)> = going.collect();
        under_way = going
            .into_iter()
            .map(|(running, course)| {
                course.take(running.wait(STEP_LIMIT));
                course
            })
            .collect();
    }
}

/// What a call returned.
pub(super) fn call_result(call: &'static str, returned: u64) -> Result<i64, AgentError> {
    match returned as i64 {
        result @ -4095..0 => Err(SysError { call, errno: Errno::from_raw(-result as i32) }.into()),
        result => Ok(result),
    }
}

/// Offset of a `syscall` instruction in the agent's code.
pub(super) fn syscall_in_blob() -> u64 {
    let at = BLOB.windows(2).position(|code| code == [0x0f, 0x05]);
    at.expect("the agent makes system calls") as u64
}

/// Where a task without a vdso has a `syscall` instruction, or at least its two bytes.
pub(super) fn syscall_in_code(memory: &Memory, code: &[(u64, u64)]) -> Option<u64> {
    let mut buffer = vec![0; 1 << 20];
    for &(start, end) in code {
        let len = ((end - start) as usize).min(buffer.len());
        let read = memory.read_fast(start, buffer.get_mut(..len)?).unwrap_or(0);
        let found = buffer.get(..read)?.windows(2).position(|code| code == [0x0f, 0x05]);
        if let Some(at) = found {
            return Some(start + at as u64);
        }
    }
    None
}

/// Where the task's vdso has a `syscall` instruction: where ours has one, after a look whether it is the same.
pub(super) fn syscall_in_vdso(memory: &Memory, vdso: u64) -> Result<u64, AgentError> {
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    let offset = vdso::syscall_offset().ok_or(AgentError::NoSyscallInstruction)?;
    let found: [u8; 2] = memory.read_value(vdso + offset)?;
    if found == SYSCALL { Ok(vdso + offset) } else { Err(AgentError::NoSyscallInstruction) }
}
