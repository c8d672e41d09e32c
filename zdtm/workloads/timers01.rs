//! The time between dump and restore does not count: no timer loses any, and all lose the same.

use std::time::Duration;

use nix::errno::Errno;
use zdtm::ensure;
use zdtm::workload::{Context, Failure, Verdict};

use crate::timer::{Notify, Timer, birth, now};

const FAR: Duration = Duration::from_secs(5000);
/// Two looks of ours at two timers may be that far apart on a busy machine.
const SLOW: Duration = Duration::from_millis(300);

const CLOCKS: [i32; 3] = [libc::CLOCK_REALTIME, libc::CLOCK_MONOTONIC, libc::CLOCK_BOOTTIME];

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut timers = Vec::new();
    for clock in CLOCKS {
        let timer = Timer::create(clock, Notify::Nobody, 0)?;
        timer.set(0, FAR, Duration::ZERO)?;
        timers.push((clock, timer));
    }
    let time = libc::timeval { tv_sec: FAR.as_secs() as i64, tv_usec: 0 };
    let real = libc::itimerval { it_interval: time, it_value: time };
    // SAFETY: the new value lives during the call, the old one is not wanted.
    Errno::result(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const real, std::ptr::null_mut()) })?;
    let born = birth()?;
    let ends = ends(&timers)?;
    cx.barrier()?;
    let later: Vec<Duration> =
        self::ends(&timers)?.iter().zip(&ends).map(|(now, then)| now.saturating_sub(*then)).collect();
    let (least, most) = (later.iter().min().copied(), later.iter().max().copied());
    let (least, most) = (least.unwrap_or_default(), most.unwrap_or_default());
    if birth()? == born {
        // Nobody was killed: all go on as if nothing had been.
        ensure!(most < SLOW, "timers run later than they should: {later:?}");
        return Ok(());
    }
    ensure!(least >= Duration::from_millis(1), "the time between dump and restore counts: {later:?}");
    ensure!(most.saturating_sub(least) < SLOW, "timers lost different times: {later:?}");
    Ok(())
}

/// When the timers will expire, in the order of the clocks, and then the interval timer.
fn ends(timers: &[(i32, Timer)]) -> Result<Vec<Duration>, Failure> {
    let mut ends = Vec::new();
    for (clock, timer) in timers {
        ends.push(now(*clock)? + timer.get()?.0);
    }
    let zero = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let mut real = libc::itimerval { it_interval: zero, it_value: zero };
    // SAFETY: the place is written during the call.
    Errno::result(unsafe { libc::getitimer(libc::ITIMER_REAL, &raw mut real) })?;
    let left = Duration::new(real.it_value.tv_sec as u64, real.it_value.tv_usec as u32 * 1000);
    ends.push(now(libc::CLOCK_MONOTONIC)? + left);
    Ok(ends)
}
