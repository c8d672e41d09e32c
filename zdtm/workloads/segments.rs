//! The base of the gs segment, which programs may use as they like, is kept in each thread.

use nix::errno::Errno;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

/// ARCH_SET_GS and ARCH_GET_GS of asm/prctl.h.
const SET_GS: u32 = 0x1001;
const GET_GS: u32 = 0x1004;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    set(0x1234_5000)?;
    let other = cx.thread(|cx| {
        set(0x0dea_d000)?;
        cx.post("thread-ready")?;
        cx.park()?;
        ensure_eq!(get()?, 0x0dea_d000, "gs base of the thread");
        Ok(())
    });
    cx.wait_for("thread-ready")?;
    cx.barrier()?;
    ensure_eq!(get()?, 0x1234_5000, "gs base of the leader");
    other.join()
}

fn set(base: u64) -> Verdict {
    // SAFETY: nothing in this program addresses memory through gs.
    Errno::result(unsafe { libc::syscall(libc::SYS_arch_prctl, SET_GS, base) })?;
    Ok(())
}

fn get() -> Result<u64, Failure> {
    let mut base = 0_u64;
    // SAFETY: the kernel writes one u64 to the given place.
    Errno::result(unsafe { libc::syscall(libc::SYS_arch_prctl, GET_GS, &raw mut base) })?;
    Ok(base)
}
