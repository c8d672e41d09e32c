//! A process that has asked for AMX tiles may use them.

use nix::errno::Errno;
use zdtm::ensure;
use zdtm::workload::{Context, Failure, Verdict};

/// From `arch/x86/include/uapi/asm/prctl.h`.
const ARCH_GET_XCOMP_PERM: i32 = 0x1022;
const ARCH_REQ_XCOMP_PERM: i32 = 0x1023;
const TILE_DATA: u64 = 18;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    // SAFETY: no pointers.
    Errno::result(unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) })?;
    ensure!(permitted()? & 1 << TILE_DATA != 0, "the request was in vain");
    cx.barrier()?;
    ensure!(permitted()? & 1 << TILE_DATA != 0, "the permission is lost");
    Ok(())
}

fn permitted() -> Result<u64, Failure> {
    let mut components = 0_u64;
    let pointer = &raw mut components;
    // SAFETY: a word is written, which lives during the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_GET_XCOMP_PERM, pointer) })?;
    Ok(components)
}
