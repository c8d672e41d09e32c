//! Timers whose signals are pending: each signal is there once, in its place, and the timers go on in their rhythm.

use std::mem::MaybeUninit;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::timer::{Notify, Timer, now, timespec};

/// Real-time signals that the C library leaves to programs.
const SIGNAL: i32 = 40;
const INTERVAL: Duration = Duration::from_secs(30);

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut set: libc::sigset_t = *SigSet::empty().as_ref();
    // SAFETY: the set is valid, and the signal's number too.
    Errno::result(unsafe { libc::sigaddset(&raw mut set, SIGNAL) })?;
    // SAFETY: both pointers are valid or null; blocking signals breaks nothing.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };

    let mono = libc::CLOCK_MONOTONIC;
    let rhythm = Timer::create(mono, Notify::Process(SIGNAL, 1), 0)?;
    let once = Timer::create(libc::CLOCK_BOOTTIME, Notify::Process(SIGNAL, 2), 0)?;
    let counted = Timer::create(mono, Notify::Process(SIGNAL, 3), 0)?;
    let moment = Duration::from_millis(1);
    // Expired half an interval ago, and three and a half intervals ago.
    counted.set(libc::TIMER_ABSTIME, now(mono)?.saturating_sub(INTERVAL * 7 / 2), INTERVAL)?;
    std::thread::sleep(moment);
    ensure_eq!(take(&set)?, (libc::SI_TIMER, counted.0, 3, 3), "signal with overrun");
    once.set(0, moment, Duration::ZERO)?;
    std::thread::sleep(moment * 3);
    queue(17)?;
    rhythm.set(libc::TIMER_ABSTIME, now(mono)?.saturating_sub(INTERVAL / 2), INTERVAL)?;
    std::thread::sleep(moment * 3);
    queue(18)?;
    let phase = rhythm.get()?.0;
    cx.barrier()?;
    ensure_eq!(counted.overrun()?, 3, "overrun of the signal taken last");
    ensure_eq!(take(&set)?, (libc::SI_TIMER, once.0, 0, 2), "signal of the timer that expired once");
    ensure_eq!(take(&set)?.3, 17, "signal between the timers'");
    ensure_eq!(take(&set)?, (libc::SI_TIMER, rhythm.0, 0, 1), "signal of the timer with an interval");
    ensure_eq!(take(&set)?.3, 18, "signal behind the timers'");
    ensure_eq!(take(&set).is_err(), true, "nothing else is pending");
    let left = rhythm.get()?.0;
    ensure!(
        left <= phase && phase.saturating_sub(left) < INTERVAL / 2,
        "its rhythm changed: {phase:?}, now {left:?}"
    );
    ensure_eq!(once.get()?.0, Duration::ZERO, "what is left of the timer that expired once");
    let left = counted.get()?.0;
    ensure!(left > Duration::ZERO && left < INTERVAL * 3 / 5, "{left:?} left of half an interval");
    Ok(())
}

fn queue(value: usize) -> Verdict {
    let pid = nix::unistd::getpid().as_raw();
    let value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(value) };
    // SAFETY: the signal is sent to this process, which has blocked it.
    Errno::result(unsafe { libc::sigqueue(pid, SIGNAL, value) })?;
    Ok(())
}

/// Takes one pending signal: its code, timer, overrun and value; fails when there is none.
fn take(set: &libc::sigset_t) -> Result<(i32, i32, i32, usize), Failure> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let none = timespec(Duration::ZERO);
    // SAFETY: all pointers are valid for the call.
    Errno::result(unsafe { libc::sigtimedwait(set, info.as_mut_ptr(), &raw const none) })?;
    // SAFETY: zeroes are a valid siginfo, and the kernel has filled it since.
    let info = unsafe { info.assume_init() };
    // SAFETY: the field is there for all signals; for timers it is the id.
    let timer = unsafe { info.si_timerid() };
    // SAFETY: as above.
    let overrun = unsafe { info.si_overrun() };
    // SAFETY: as above.
    let value = unsafe { info.si_value() };
    Ok((info.si_code, timer, overrun, value.sival_ptr.addr()))
}
