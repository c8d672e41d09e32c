//! The three interval timers go on: they are armed, with their intervals, and the real one fires.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use zdtm::ensure;
use zdtm::workload::{Context, Failure, Verdict};

static FIRED: AtomicU32 = AtomicU32::new(0);

extern "C" fn note(_: i32) {
    FIRED.fetch_add(1, Ordering::Relaxed);
}

const TIMERS: [(i32, i64, i64); 3] = [
    (libc::ITIMER_REAL, 0, 20_000),
    (libc::ITIMER_VIRTUAL, 1000, 250_000),
    (libc::ITIMER_PROF, 2000, 500_000),
];

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler only adds to an atomic.
    unsafe { sigaction(Signal::SIGALRM, &action) }?;
    for (which, seconds, micros) in TIMERS {
        let time = libc::timeval { tv_sec: seconds, tv_usec: micros };
        let timer = libc::itimerval { it_interval: time, it_value: time };
        // SAFETY: the new value lives during the call, the old one is not wanted.
        Errno::result(unsafe { libc::setitimer(which, &raw const timer, std::ptr::null_mut()) })?;
    }
    cx.barrier()?;
    for (which, seconds, micros) in TIMERS {
        let timer = get(which)?;
        let (interval, value) = (timer.it_interval, timer.it_value);
        ensure!((interval.tv_sec, interval.tv_usec) == (seconds, micros), "timer {which}: another interval");
        ensure!(value.tv_sec + value.tv_usec > 0, "timer {which}: not armed");
        ensure!(value.tv_sec <= seconds, "timer {which}: {} s left of {seconds}", value.tv_sec);
    }
    let before = FIRED.load(Ordering::Relaxed);
    let end = Instant::now() + Duration::from_secs(5);
    while FIRED.load(Ordering::Relaxed) < before + 3 {
        ensure!(Instant::now() < end, "the real timer does not fire");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn get(which: i32) -> Result<libc::itimerval, Failure> {
    let zero = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let mut timer = libc::itimerval { it_interval: zero, it_value: zero };
    // SAFETY: the place is written during the call.
    Errno::result(unsafe { libc::getitimer(which, &raw mut timer) })?;
    Ok(timer)
}
