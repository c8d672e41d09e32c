//! System calls that a stopped thread makes for us, and where there is an instruction for them.

use nix::errno::Errno;

use super::{ALL_SIGNALS, AgentError, BLOB, STEP_LIMIT};
use crate::error::SysError;
use crate::sys::ptrace::Resume;
use crate::sys::vdso;
use crate::tracee::memory::Memory;
use crate::tracee::regs;
use crate::tracee::stopped::{Stop, Stopped, TraceError};

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
    // Signals come second: at the landing pad the thread finds its mask again, but not where it was stopped.
    let set = stopped
        .set_regs(&regs::calling(from, syscall_at, call.number, call.args))
        .and_then(|()| stopped.set_sigmask(ALL_SIGNALS));
    if let Err(e) = set {
        return (Some(stopped), Err(e.into()));
    }
    complete_calls(stopped, &[call.name], deferred)
}

/// Lets a stopped thread go on until it has made these system calls. The thread, unless it died, and the last call's
/// result, or the first error of any.
///
/// Not by PTRACE_SINGLESTEP: its SIGTRAP is forced, and forcing a signal that is blocked or ignored resets its handler.
pub(super) fn complete_calls(
    stopped: Stopped,
    names: &[&'static str],
    deferred: &mut Vec<i32>,
) -> (Option<Stopped>, Result<i64, AgentError>) {
    let mut stopped = stopped;
    let mut outcome = Ok(0);
    for call in names {
        let mut entered = false;
        loop {
            let stepped =
                stopped.resume(Resume::Syscall, 0).map_err(TraceError::from).and_then(|r| r.wait(STEP_LIMIT));
            match stepped {
                Ok((next, Stop::Syscall)) if !entered => {
                    entered = true;
                    stopped = next;
                }
                Ok((next, Stop::Syscall)) => {
                    let result =
                        next.regs().map_err(AgentError::from).and_then(|regs| call_result(call, &regs));
                    outcome = outcome.and(result);
                    stopped = next;
                    break;
                }
                // It was stopped for another reason before the instruction was executed.
                Ok((next, Stop::Interrupt | Stop::Group(_))) => stopped = next,
                Ok((next, Stop::Signal(signal @ libc::SIGSTOP))) => {
                    deferred.push(signal);
                    stopped = next;
                }
                Ok((next, stop)) => return (Some(next), Err(AgentError::Lost(Some(stop)))),
                Err(e) => return (None, Err(e.into())),
            }
        }
    }
    (Some(stopped), outcome)
}

/// What a call returned, at its syscall-exit-stop.
fn call_result(call: &'static str, regs: &libc::user_regs_struct) -> Result<i64, AgentError> {
    match regs.rax as i64 {
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
