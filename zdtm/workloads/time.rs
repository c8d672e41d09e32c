//! The monotonic and the boot clock go on from where they were: neither back, nor far ahead.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use zdtm::ensure;
use zdtm::workload::{Context, Failure, Verdict};

/// More than any dump and restore of the zoo takes.
const LIMIT: Duration = Duration::from_mins(5);

const CLOCKS: [(&str, ClockId); 4] = [
    ("CLOCK_MONOTONIC", ClockId::CLOCK_MONOTONIC),
    ("CLOCK_MONOTONIC_RAW", ClockId::CLOCK_MONOTONIC_RAW),
    ("CLOCK_MONOTONIC_COARSE", ClockId::CLOCK_MONOTONIC_COARSE),
    ("CLOCK_BOOTTIME", ClockId::CLOCK_BOOTTIME),
];

fn now() -> Result<[Duration; 4], Failure> {
    let mut times = [Duration::ZERO; 4];
    for (time, (_, clock)) in times.iter_mut().zip(CLOCKS) {
        *time = clock_gettime(clock)?.into();
    }
    Ok(times)
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let before = now()?;
    cx.barrier()?;
    for ((was, is), (name, _)) in before.into_iter().zip(now()?).zip(CLOCKS) {
        ensure!(is.checked_sub(was).is_some_and(|by| by < LIMIT), "{name} went from {was:?} to {is:?}");
    }
    Ok(())
}
