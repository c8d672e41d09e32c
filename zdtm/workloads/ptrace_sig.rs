//! A child that was traced, was given another signal than the one it was sent, and has been let go of, keeps that signal
//! pending, and hears nothing of the other.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::getppid;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, status_line};

static TOLD: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: i32) {
    TOLD.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let child = cx.child(traced)?;
    cx.wait_for("child-ready")?;
    ptrace::seize(child.pid, ptrace::Options::empty())?;
    let pid = child.pid.as_raw();
    // SAFETY: tgkill takes numbers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, libc::SIGUSR2) })?;
    ensure_eq!(waitpid(child.pid, None)?, WaitStatus::Stopped(child.pid, Signal::SIGUSR2), "the first stop");
    // Blocked, so that it waits; the other is forgotten.
    ptrace::cont(child.pid, Signal::SIGUSR1)?;
    ptrace::interrupt(child.pid)?;
    let stop = WaitStatus::PtraceEvent(child.pid, Signal::SIGTRAP, libc::PTRACE_EVENT_STOP);
    ensure_eq!(waitpid(child.pid, None)?, stop, "the second stop");
    ptrace::detach(child.pid, None)?;
    let status = format!("/proc/{}/status", child.pid);
    ensure_eq!(status_line(&status, "SigPnd")?, "0000000000000200", "pending signals before");
    cx.barrier()?;
    ensure_eq!(status_line(&status, "TracerPid")?, "0", "the tracer");
    ensure_eq!(status_line(&status, "SigPnd")?, "0000000000000200", "pending signals");
    let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED | WaitPidFlag::WCONTINUED;
    ensure_eq!(waitpid(child.pid, Some(flags))?, WaitStatus::StillAlive, "what the parent is told");
    cx.post("go")?;
    child.join()
}

fn traced(cx: &mut Context) -> Verdict {
    let action = SigAction::new(SigHandler::Handler(count), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2] {
        // SAFETY: the handler only adds to an atomic.
        unsafe { sigaction(signal, &action) }?;
    }
    let blocked = SigSet::from(Signal::SIGUSR1);
    blocked.thread_block()?;
    cx.post("child-ready")?;
    cx.wait_for("go")?;
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: all pointers are valid for the call.
    Errno::result(unsafe { libc::sigtimedwait(blocked.as_ref(), info.as_mut_ptr(), &raw const none) })?;
    // SAFETY: zeroes are a valid siginfo, and the kernel has filled it since.
    let info = unsafe { info.assume_init() };
    // SAFETY: a signal that a tracer gives has the tracer as its sender.
    let sender = unsafe { info.si_pid() };
    ensure_eq!((info.si_code, sender), (libc::SI_USER, getppid().as_raw()), "the pending signal");
    ensure_eq!(TOLD.load(Ordering::Relaxed), 0, "signals that were handled");
    Ok(())
}
