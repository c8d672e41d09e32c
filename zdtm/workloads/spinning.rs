//! Threads that keep values in registers, in user mode, while the process is dumped.

use std::sync::atomic::{AtomicU32, Ordering};

use zdtm::ensure;
use zdtm::workload::{Context, Thread, Verdict};

static STARTED: AtomicU32 = AtomicU32::new(0);
static GO: AtomicU32 = AtomicU32::new(0);

pub(crate) fn started() -> *mut u32 {
    STARTED.as_ptr()
}

pub(crate) fn go() -> *mut u32 {
    GO.as_ptr()
}

/// Runs `body` in `count` threads. Each loads its registers, adds one to `started`, spins until `go` is not zero, and
/// looks at its registers.
pub(crate) fn hold(cx: &mut Context, count: u32, body: fn(u32) -> Verdict) -> Verdict {
    let threads: Vec<_> = (0..count).map(|number| cx.thread(move |_| body(number))).collect();
    while STARTED.load(Ordering::Relaxed) < count {
        std::thread::yield_now();
    }
    cx.barrier()?;
    GO.store(1, Ordering::Relaxed);
    threads.into_iter().try_for_each(Thread::join)?;
    ensure!(STARTED.load(Ordering::Relaxed) == count, "a thread started twice");
    Ok(())
}
