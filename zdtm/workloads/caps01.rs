//! The bounding set, the ambient set and the secure bits are kept.

use nix::errno::Errno;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

use crate::capability::{self, KILL, NET_RAW, SYS_CHROOT, Sets};

/// SECBIT_NOROOT and SECBIT_NO_SETUID_FIXUP_LOCKED with its bit, of linux/securebits.h.
const SECURE_BITS: u64 = 1 | 4 | 8;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    prctl(libc::PR_CAPBSET_DROP, u64::from(NET_RAW), 0)?;
    prctl(libc::PR_CAPBSET_DROP, u64::from(SYS_CHROOT), 0)?;
    let all = capability::get()?;
    capability::set(Sets { inheritable: 1 << KILL, ..all })?;
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, u64::from(KILL))?;
    prctl(libc::PR_SET_SECUREBITS, SECURE_BITS, 0)?;
    let before = capability::shown()?;
    cx.barrier()?;
    ensure_eq!(capability::shown()?, before, "capability sets");
    ensure_eq!(prctl(libc::PR_GET_SECUREBITS, 0, 0)?, SECURE_BITS as i32, "secure bits");
    Ok(())
}

fn prctl(operation: i32, first: u64, second: u64) -> Result<i32, Failure> {
    // SAFETY: none of these operations takes a pointer.
    Ok(Errno::result(unsafe { libc::prctl(operation, first, second, 0_u64, 0_u64) })?)
}
