//! POSIX timers of all clocks keep their ids, also sparse ones, intervals and what they have left; one fires.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::timer::{Notify, Timer, choose_ids};

static VALUE: AtomicUsize = AtomicUsize::new(0);
static FIRED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn note(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo.
    let info = unsafe { &*info };
    // SAFETY: signals of timers have a value.
    let value = unsafe { info.si_value() };
    VALUE.store(value.sival_ptr.addr(), Ordering::Relaxed);
    FIRED.fetch_add(1, Ordering::Relaxed);
}

const CLOCKS: [i32; 6] = [
    libc::CLOCK_REALTIME,
    libc::CLOCK_MONOTONIC,
    libc::CLOCK_PROCESS_CPUTIME_ID,
    libc::CLOCK_THREAD_CPUTIME_ID,
    libc::CLOCK_BOOTTIME,
    libc::CLOCK_TAI,
];
const FAR: Duration = Duration::from_secs(10_000);
const INTERVAL: Duration = Duration::from_micros(7_000_123);
const SHORT: Duration = Duration::from_millis(20);

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let action = SigAction::new(SigHandler::SigAction(note), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler only touches atomics.
    unsafe { sigaction(Signal::SIGUSR1, &action) }?;
    let user = |value| Notify::Process(libc::SIGUSR1, value);
    let mut timers = Vec::new();
    for clock in CLOCKS {
        // A hole in front of each.
        let hole = Timer::create(libc::CLOCK_MONOTONIC, Notify::Nobody, 0)?;
        let timer = Timer::create(clock, user(1), 0)?;
        timer.set(0, FAR, INTERVAL)?;
        hole.delete()?;
        timers.push((timer, Duration::ZERO, INTERVAL));
    }
    let idle = Timer::create(libc::CLOCK_MONOTONIC, user(2), 0)?;
    let silent = Timer::create(libc::CLOCK_BOOTTIME, Notify::Nobody, 0)?;
    silent.set(0, FAR, Duration::ZERO)?;
    timers.push((silent, Duration::ZERO, Duration::ZERO));
    if choose_ids(true) {
        let sparse = Timer::create(libc::CLOCK_MONOTONIC, user(3), 700_000_000)?;
        choose_ids(false);
        sparse.set(0, FAR, INTERVAL)?;
        ensure_eq!(sparse.0, 700_000_000, "id that was asked for");
        timers.push((sparse, Duration::ZERO, INTERVAL));
    }
    let busy = Timer::create(libc::CLOCK_MONOTONIC, user(0xdead_beef_0000), 0)?;
    // Nothing fires while the outside looks; once it does, the interval goes on by itself.
    busy.set(0, FAR, SHORT)?;
    let start = Instant::now();
    for (timer, left, _) in &mut timers {
        *left = timer.get()?.0;
    }
    cx.barrier()?;
    for (timer, left, interval) in timers {
        let (now, is) = timer.get()?;
        ensure_eq!(is, interval, format!("interval of timer {}", timer.0));
        let gone = left.saturating_sub(now);
        ensure!(now <= left && gone <= start.elapsed(), "timer {}: {now:?} of {left:?} left", timer.0);
    }
    ensure_eq!(idle.get()?, (Duration::ZERO, Duration::ZERO), "a timer that was not armed");
    ensure_eq!(busy.get()?.1, SHORT, "a short interval");
    busy.set(0, SHORT, SHORT)?;
    let end = Instant::now() + Duration::from_secs(5);
    while FIRED.load(Ordering::Relaxed) < 3 {
        ensure!(Instant::now() < end, "the timer does not fire");
        std::thread::sleep(Duration::from_millis(5));
    }
    ensure_eq!(VALUE.load(Ordering::Relaxed), 0xdead_beef_0000, "value of the signal");
    ensure!(busy.get()?.0 <= SHORT, "the timer waits longer than its interval");
    Ok(())
}
