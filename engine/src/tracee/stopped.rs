//! A thread in a ptrace-stop, and what can be done to it only then.

use std::marker::PhantomData;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};

use crate::error::{Class, Explain, SysError};
use crate::sys::process::{self, Waited};
use crate::sys::ptrace::{self, Resume};

/// Reported as the signal of a syscall-stop (`PTRACE_O_TRACESYSGOOD`).
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;
/// `PTRACE_EVENT_STOP` from `include/uapi/linux/ptrace.h`.
const EVENT_STOP: i32 = 128;

/// What went wrong with a thread in our hands.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A ptrace request or a wait failed.
    #[error(transparent)]
    Sys(#[from] SysError),
    /// The thread ended while we held it; somebody sent it `SIGKILL`.
    #[error("thread {tid} died (wait status {status:#x})")]
    Died {
        /// Which.
        tid: i32,
        /// As `wait(2)` gives it.
        status: i32,
    },
    /// It did not stop in time.
    #[error("thread {tid} did not stop within {limit:?}{}", wchan.as_ref().map(|w| format!("; it waits in the kernel at {w}")).unwrap_or_default())]
    NotStopping {
        /// Which.
        tid: i32,
        /// How long we waited.
        limit: Duration,
        /// Where in the kernel it is (`/proc/PID/wchan`).
        wchan: Option<String>,
    },
    /// It cannot stop before a child of it has executed a program or ended.
    #[error(
        "thread {tid} did not stop within {limit:?}: it waits for its child, {child}, which was made by vfork and has borrowed \
         its memory until it executes a program or ends"
    )]
    WaitsForChild {
        /// Which.
        tid: i32,
        /// How long we waited.
        limit: Duration,
        /// The child.
        child: String,
    },
    /// It stopped for another reason than the one we waited for.
    #[error("thread {tid} stopped at {stop:?}, which was not expected")]
    Unexpected {
        /// Which.
        tid: i32,
        /// Why it stopped.
        stop: Stop,
    },
}

impl Explain for TraceError {
    fn class(&self) -> Class {
        match self {
            Self::Sys(e) => e.class(),
            Self::WaitsForChild { .. } => Class::Refused,
            Self::Died { .. } | Self::NotStopping { .. } => Class::Failed,
            Self::Unexpected { .. } => Class::Bug,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Sys(e) => e.help(),
            Self::NotStopping { .. } => {
                Some("wait until the device or filesystem it waits for answers, or raise --timeout".into())
            }
            Self::WaitsForChild { .. } => {
                Some("dump it when the child has done so, or raise --timeout".into())
            }
            Self::Died { .. } | Self::Unexpected { .. } => None,
        }
    }
}

/// Why a thread stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// We asked it to, or it is a new thread or process.
    Interrupt,
    /// Its process is stopped by this signal (`SIGSTOP`, `SIGTSTP`, …).
    Group(i32),
    /// It is about to take this signal.
    Signal(i32),
    /// It enters or leaves a system call.
    Syscall,
    /// It cloned, forked or did another thing of the `PTRACE_EVENT_*` list.
    Event(i32),
}

impl Stop {
    fn from_status(status: i32) -> Self {
        let signal = (status >> 8) & 0xff;
        match (status >> 16, signal) {
            (EVENT_STOP, libc::SIGTRAP) => Self::Interrupt,
            (EVENT_STOP, signal) => Self::Group(signal),
            (0, SYSCALL_STOP) => Self::Syscall,
            (0, signal) => Self::Signal(signal),
            (event, _) => Self::Event(event),
        }
    }
}

/// A thread that is seized and running.
#[derive(Debug)]
pub struct Running {
    tid: i32,
    _not_send: PhantomData<*const ()>,
}

/// A thread in a ptrace-stop.
///
/// Not `Clone`: letting it go on consumes it, so nothing can be asked of a thread that runs.
#[derive(Debug)]
pub struct Stopped {
    tid: i32,
    _not_send: PhantomData<*const ()>,
}

impl Running {
    /// Takes a thread that is seized already, by us or because its creator is.
    pub fn adopt(tid: i32) -> Self {
        Self { tid, _not_send: PhantomData }
    }

    /// Attaches without stopping it.
    pub fn seize(tid: i32, options: i32) -> Result<Self, SysError> {
        ptrace::seize(tid, options | libc::PTRACE_O_TRACESYSGOOD)?;
        Ok(Self::adopt(tid))
    }

    /// Its id.
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// Asks it to stop.
    pub fn interrupt(&self) -> Result<(), SysError> {
        ptrace::interrupt(self.tid)
    }

    /// Waits until it stops.
    pub fn wait(self, limit: Duration) -> Result<(Stopped, Stop), TraceError> {
        let deadline = Instant::now() + limit;
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        loop {
            match process::wait_nohang(self.tid)? {
                Waited::Stopped(status) => {
                    let stopped = Stopped { tid: self.tid, _not_send: PhantomData };
                    return Ok((stopped, Stop::from_status(status)));
                }
                Waited::Ended(status) => return Err(TraceError::Died { tid: self.tid, status }),
                Waited::Nothing => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let wchan = std::fs::read_to_string(format!("/proc/{}/wchan", self.tid)).ok();
                let wchan = wchan.filter(|w| !w.is_empty() && w != "0");
                return Err(TraceError::NotStopping { tid: self.tid, limit, wchan });
            }
            // The signal is a hint: another thread of ours may swallow it.
            match process::wait_for_child_signal(left.min(Duration::from_millis(5))) {
                Ok(()) | Err(SysError { errno: Errno::EAGAIN | Errno::EINTR, .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// What it stopped at, if it did; does not wait.
    pub fn poll(&self) -> Result<Option<(Stopped, Stop)>, TraceError> {
        match process::wait_nohang(self.tid)? {
            Waited::Stopped(status) => {
                let stopped = Stopped { tid: self.tid, _not_send: PhantomData };
                Ok(Some((stopped, Stop::from_status(status))))
            }
            Waited::Ended(status) => Err(TraceError::Died { tid: self.tid, status }),
            Waited::Nothing => Ok(None),
        }
    }
}

impl Stopped {
    /// Its id.
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// Its general registers.
    pub fn regs(&self) -> Result<libc::user_regs_struct, SysError> {
        ptrace::get_regs(self.tid)
    }

    /// Sets its general registers.
    pub fn set_regs(&self, regs: &libc::user_regs_struct) -> Result<(), SysError> {
        ptrace::set_regs(self.tid, regs)
    }

    /// Its blocked signals.
    pub fn sigmask(&self) -> Result<u64, SysError> {
        ptrace::get_sigmask(self.tid)
    }

    /// Sets its blocked signals.
    pub fn set_sigmask(&self, mask: u64) -> Result<(), SysError> {
        ptrace::set_sigmask(self.tid, mask)
    }

    /// Its extended registers, in the layout of XSAVE.
    pub fn xstate(&self) -> Result<Vec<u8>, SysError> {
        // Larger than the area of any CPU so far (AMX needs some 11 KiB).
        let mut buffer = [0_u8; 16 * 1024];
        let len = ptrace::get_xstate(self.tid, &mut buffer)?;
        Ok(buffer.get(..len).unwrap_or(&buffer).to_vec())
    }

    /// Sets its extended registers.
    pub fn set_xstate(&self, xstate: &[u8]) -> Result<(), SysError> {
        ptrace::set_xstate(self.tid, xstate)
    }

    /// Replaces the options with which it was seized.
    pub fn set_options(&self, options: i32) -> Result<(), SysError> {
        ptrace::set_options(self.tid, options | libc::PTRACE_O_TRACESYSGOOD)
    }

    /// Lets it go on, with a signal or 0.
    pub fn resume(self, how: Resume, signal: i32) -> Result<Running, SysError> {
        ptrace::resume(self.tid, how, signal)?;
        Ok(Running::adopt(self.tid))
    }

    /// Makes sure that a thread in the stop of its process does not stop once more for an interrupt when it is let go on:
    /// it may have been in that stop before it was interrupted. What it is in then.
    ///
    /// An interrupt of a listening thread is always answered, by one stop (`PTRACE_LISTEN` in `ptrace(2)`).
    pub fn without_pending_stop(self, limit: Duration) -> Result<(Self, Stop), TraceError> {
        let thread = self.resume(Resume::Listen, 0)?;
        thread.interrupt()?;
        thread.wait(limit)
    }

    /// Lets it go for good, with a signal or 0.
    pub fn detach(self, signal: i32) -> Result<(), SysError> {
        ptrace::resume(self.tid, Resume::Detach, signal)
    }
}
