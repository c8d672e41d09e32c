//! A timer of the C library that calls a function (`SIGEV_THREAD`), by way of a helper thread of the library.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::timer::timespec;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static VALUE: AtomicUsize = AtomicUsize::new(0);

extern "C" fn called(value: libc::sigval) {
    VALUE.store(value.sival_ptr.addr(), Ordering::Relaxed);
    CALLS.fetch_add(1, Ordering::Relaxed);
}

/// The beginning of glibc's struct sigevent for `SIGEV_THREAD`; the whole has 64 bytes.
#[repr(C)]
struct Event {
    value: usize,
    signal: i32,
    notify: i32,
    function: extern "C" fn(libc::sigval),
    attributes: usize,
    padding: [u64; 4],
}

const SHORT: Duration = Duration::from_millis(15);
const FAR: Duration = Duration::from_mins(50);

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut event = Event {
        value: 77,
        signal: 0,
        notify: libc::SIGEV_THREAD,
        function: called,
        attributes: 0,
        padding: [0; 4],
    };
    let mut timer = MaybeUninit::<libc::timer_t>::zeroed();
    let at = (&raw mut event).cast();
    // SAFETY: the event has the library's layout; both places live during the call.
    Errno::result(unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, at, timer.as_mut_ptr()) })?;
    // SAFETY: the library filled it.
    let timer = unsafe { timer.assume_init() };
    let set = |value| {
        let spec = libc::itimerspec { it_interval: timespec(SHORT), it_value: timespec(value) };
        // SAFETY: the timer is valid, the new value lives during the call, the old one is not wanted.
        Errno::result(unsafe { libc::timer_settime(timer, 0, &raw const spec, std::ptr::null_mut()) })
    };
    // Nothing fires while the outside looks.
    set(FAR)?;
    cx.barrier()?;
    let mut left = libc::itimerspec { it_interval: timespec(FAR), it_value: timespec(FAR) };
    // SAFETY: the timer is valid, the place is written during the call.
    Errno::result(unsafe { libc::timer_gettime(timer, &raw mut left) })?;
    ensure!(left.it_value.tv_sec > 2900 && left.it_interval.tv_nsec == 15_000_000, "the timer has changed");
    set(SHORT)?;
    let end = Instant::now() + Duration::from_secs(5);
    while CALLS.load(Ordering::Relaxed) < 3 {
        ensure!(Instant::now() < end, "the function is not called");
        std::thread::sleep(Duration::from_millis(5));
    }
    ensure_eq!(VALUE.load(Ordering::Relaxed), 77, "value that the function gets");
    Ok(())
}
