//! Timer descriptors of all clocks keep what they have left, their interval and what they count unread.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::time::Duration;

use nix::errno::Errno;
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::timer::{now, timespec};

const CLOCKS: [i32; 3] = [libc::CLOCK_REALTIME, libc::CLOCK_MONOTONIC, libc::CLOCK_BOOTTIME];
const FAR: Duration = Duration::from_secs(4000);
const INTERVAL: Duration = Duration::from_mins(1);

fn create(clock: i32, flags: i32) -> Result<File, Failure> {
    // SAFETY: takes numbers only.
    let fd = Errno::result(unsafe { libc::timerfd_create(clock, flags) })?;
    // SAFETY: the descriptor is new and ours.
    Ok(unsafe { File::from_raw_fd(fd) })
}

fn set(timer: &File, flags: i32, value: Duration, interval: Duration) -> Verdict {
    let spec = libc::itimerspec { it_value: timespec(value), it_interval: timespec(interval) };
    let fd = timer.as_raw_fd();
    // SAFETY: the new value lives during the call, the old one is not wanted.
    Errno::result(unsafe { libc::timerfd_settime(fd, flags, &raw const spec, std::ptr::null_mut()) })?;
    Ok(())
}

/// What is left, and the interval.
fn get(timer: &File) -> Result<(Duration, Duration), Failure> {
    let zero = timespec(Duration::ZERO);
    let mut spec = libc::itimerspec { it_value: zero, it_interval: zero };
    // SAFETY: the place is written during the call.
    Errno::result(unsafe { libc::timerfd_gettime(timer.as_raw_fd(), &raw mut spec) })?;
    let time = |time: libc::timespec| Duration::new(time.tv_sec as u64, time.tv_nsec as u32);
    Ok((time(spec.it_value), time(spec.it_interval)))
}

fn count(timer: &mut File) -> Result<u64, Failure> {
    let mut count = [0; 8];
    timer.read_exact(&mut count)?;
    Ok(u64::from_le_bytes(count))
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mono = libc::CLOCK_MONOTONIC;
    let mut timers = Vec::new();
    for clock in CLOCKS {
        let timer = create(clock, libc::TFD_NONBLOCK)?;
        set(&timer, 0, FAR, INTERVAL)?;
        timers.push(timer);
        let absolute = create(clock, libc::TFD_CLOEXEC)?;
        let cancel = if clock == libc::CLOCK_REALTIME { libc::TFD_TIMER_CANCEL_ON_SET } else { 0 };
        set(&absolute, libc::TFD_TIMER_ABSTIME | cancel, now(clock)? + FAR, INTERVAL)?;
        timers.push(absolute);
    }
    // Has expired three times, half an interval ago for the last time, and nobody has read it.
    let mut unread = create(mono, libc::TFD_NONBLOCK)?;
    set(&unread, libc::TFD_TIMER_ABSTIME, now(mono)?.saturating_sub(INTERVAL * 5 / 2), INTERVAL)?;
    let mut once = create(mono, libc::TFD_NONBLOCK)?;
    set(&once, 0, Duration::from_millis(1), Duration::ZERO)?;
    std::thread::sleep(Duration::from_millis(5));
    let idle = create(mono, 0)?;
    let left: Vec<_> = timers.iter().map(get).collect::<Result<_, _>>()?;
    cx.barrier()?;
    for (timer, (before, _)) in timers.iter().zip(left) {
        let (after, interval) = get(timer)?;
        ensure_eq!(interval, INTERVAL, "interval");
        ensure!(after <= before && before.saturating_sub(after) < INTERVAL, "{after:?} left of {before:?}");
    }
    ensure_eq!(count(&mut unread)?, 3, "expirations nobody has read");
    let left = get(&unread)?.0;
    ensure!(left <= INTERVAL / 2 && left > Duration::ZERO, "{left:?} left of half an interval");
    ensure_eq!(count(&mut once)?, 1, "expirations of the timer that expires once");
    ensure_eq!(get(&idle)?, (Duration::ZERO, Duration::ZERO), "a timer that was not armed");
    set(&once, 0, Duration::from_millis(1), Duration::ZERO)?;
    std::thread::sleep(Duration::from_millis(5));
    ensure_eq!(count(&mut once)?, 1, "expirations after it was armed again");
    Ok(())
}
