//! The clocks of the vdso work, and do not go backwards.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use zdtm::ensure;
use zdtm::workload::{Context, Failure, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let before = all()?;
    cx.barrier()?;
    for _ in 0..1000 {
        let after = all()?;
        ensure!(
            after.iter().zip(&before).all(|(after, before)| after >= before),
            "{before:?}, then {after:?}"
        );
    }
    let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let told = clock_gettime(ClockId::CLOCK_REALTIME)?;
    let difference = elapsed.abs_diff(Duration::new(told.tv_sec() as u64, told.tv_nsec() as u32));
    ensure!(difference < Duration::from_secs(1), "two clocks differ by {difference:?}");
    Ok(())
}

fn all() -> Result<[Duration; 4], Failure> {
    let mut times = [Duration::ZERO; 4];
    let clocks = [
        ClockId::CLOCK_REALTIME,
        ClockId::CLOCK_MONOTONIC,
        ClockId::CLOCK_BOOTTIME,
        ClockId::CLOCK_MONOTONIC_COARSE,
    ];
    for (time, clock) in times.iter_mut().zip(clocks) {
        let told = clock_gettime(clock)?;
        *time = Duration::new(told.tv_sec() as u64, told.tv_nsec() as u32);
    }
    Ok(times)
}
