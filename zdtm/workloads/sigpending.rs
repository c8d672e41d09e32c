//! Blocked signals stay pending: for the process and for one thread, in order and with their values.

use std::mem::MaybeUninit;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::unistd::{getpid, gettid};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

/// Sent to the process: the first real-time signal that the C library leaves to programs, which queues.
const QUEUED: i32 = 36;
const VALUES: [usize; 3] = [7, 11, 3];

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut blocked: libc::sigset_t = *SigSet::from(Signal::SIGUSR1).as_ref();
    // SAFETY: the set is valid, and the signal's number too.
    Errno::result(unsafe { libc::sigaddset(&raw mut blocked, QUEUED) })?;
    // SAFETY: both pointers are valid or null; blocking signals breaks nothing.
    let changed = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const blocked, std::ptr::null_mut()) };
    ensure_eq!(changed, 0, "blocking signals");
    for value in VALUES {
        let value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(value) };
        // SAFETY: the signal is sent to this process, which has blocked it.
        Errno::result(unsafe { libc::sigqueue(getpid().as_raw(), QUEUED, value) })?;
    }
    let (pid, tid) = (getpid().as_raw(), gettid().as_raw());
    // SAFETY: tgkill takes numbers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, libc::SIGUSR1) })?;
    cx.barrier()?;
    let mut mask = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, None, Some(&mut mask))?;
    ensure_eq!(mask.contains(Signal::SIGUSR1), true, "SIGUSR1 is blocked");
    // The kernel says SI_TKILL, which sigtimedwait of the C library turns into this.
    let own = take(&blocked)?;
    ensure_eq!(
        (own.0, own.1, own.2),
        (libc::SIGUSR1, libc::SI_USER, pid),
        "signal of the thread and its sender"
    );
    for value in VALUES {
        let (signal, code, sender, found) = take(&blocked)?;
        ensure_eq!(
            (signal, code, sender),
            (QUEUED, libc::SI_QUEUE, pid),
            "signal of the process and its sender"
        );
        ensure_eq!(found, value, "value of a queued signal");
    }
    ensure_eq!(take(&blocked).is_err(), true, "nothing else is pending");
    Ok(())
}

/// Takes one pending signal: its number, code, sender and value; fails when there is none.
fn take(set: &libc::sigset_t) -> Result<(i32, i32, i32, usize), Failure> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: all pointers are valid for the call.
    Errno::result(unsafe { libc::sigtimedwait(set, info.as_mut_ptr(), &raw const none) })?;
    // SAFETY: zeroes are a valid siginfo, and the kernel has filled it since.
    let info = unsafe { info.assume_init() };
    // SAFETY: signals sent by processes have a sender.
    let sender = unsafe { info.si_pid() };
    // SAFETY: the field is there for all; it is zero for signals without a value.
    let value = unsafe { info.si_value() };
    Ok((info.si_signo, info.si_code, sender, value.sival_ptr.addr()))
}
