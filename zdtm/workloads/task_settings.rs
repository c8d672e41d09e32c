//! Small settings are kept: timer slack, core dump filter, allowed processors, keepcaps.

use std::fs;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    fs::write("/proc/self/timerslack_ns", "123456")?;
    fs::write("/proc/self/coredump_filter", "0x5a")?;
    let own = Pid::from_raw(0);
    let allowed = sched_getaffinity(own)?;
    let mut one = CpuSet::new();
    for cpu in (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).take(1) {
        one.set(cpu)?;
    }
    sched_setaffinity(own, &one)?;
    // SAFETY: the operation takes numbers.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) })?;
    cx.barrier()?;
    ensure_eq!(fs::read_to_string("/proc/self/timerslack_ns")?.trim(), "123456", "timer slack");
    ensure_eq!(fs::read_to_string("/proc/self/coredump_filter")?.trim(), "0000005a", "core dump filter");
    ensure_eq!(sched_getaffinity(own)?, one, "allowed processors");
    // SAFETY: the operation takes numbers.
    ensure_eq!(unsafe { libc::prctl(libc::PR_GET_KEEPCAPS, 0, 0, 0, 0) }, 1, "keepcaps");
    Ok(())
}
