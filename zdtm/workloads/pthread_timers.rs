//! Each thread has a timer that tells itself alone, and one that runs by its own CPU clock.

use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::gettid;
use zdtm::workload::{Context, Thread, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::timer::{Notify, Timer};

const THREADS: usize = 4;
static MADE: AtomicU32 = AtomicU32::new(0);
/// Who was told by each thread's timer.
static TOLD: [AtomicI32; THREADS] = [const { AtomicI32::new(0) }; THREADS];
static GO: AtomicU32 = AtomicU32::new(0);

extern "C" fn note(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo.
    let info = unsafe { &*info };
    // SAFETY: signals of timers have a value.
    let value = unsafe { info.si_value() };
    if let Some(told) = TOLD.get(value.sival_ptr.addr()) {
        told.store(gettid().as_raw(), Ordering::Release);
    }
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let action = SigAction::new(SigHandler::SigAction(note), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler only touches atomics.
    unsafe { sigaction(Signal::SIGUSR2, &action) }?;
    let threads: Vec<Thread> = (0..THREADS).map(|at| cx.thread(move |_| body(at))).collect();
    while MADE.load(Ordering::Acquire) < THREADS as u32 {
        std::thread::sleep(Duration::from_millis(2));
    }
    cx.barrier()?;
    GO.store(1, Ordering::Release);
    threads.into_iter().try_for_each(Thread::join)
}

fn body(at: usize) -> Verdict {
    let tid = gettid().as_raw();
    let own = Timer::create(libc::CLOCK_THREAD_CPUTIME_ID, Notify::Nobody, 0)?;
    own.set(0, Duration::from_secs(1000), Duration::ZERO)?;
    let wall = Timer::create(libc::CLOCK_MONOTONIC, Notify::Thread(libc::SIGUSR2, at, tid), 0)?;
    wall.set(0, Duration::from_secs(5000), Duration::ZERO)?;
    MADE.fetch_add(1, Ordering::AcqRel);
    while GO.load(Ordering::Acquire) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    ensure!(wall.get()?.0 > Duration::from_secs(4000), "the thread's timer lost time");
    // While this thread works, its own clock goes on.
    let before = own.get()?.0;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(5) {
        std::hint::spin_loop();
    }
    let after = own.get()?.0;
    ensure!(after < before, "its timer runs by another thread's clock");
    wall.set(0, Duration::from_millis(1), Duration::ZERO)?;
    let end = Instant::now() + Duration::from_secs(5);
    while TOLD[at].load(Ordering::Acquire) == 0 {
        ensure!(Instant::now() < end, "the thread's timer does not fire");
        std::thread::sleep(Duration::from_millis(1));
    }
    ensure_eq!(TOLD[at].load(Ordering::Acquire), tid, "the thread that was told");
    Ok(())
}
