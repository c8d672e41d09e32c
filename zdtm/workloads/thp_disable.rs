//! A process that gave up huge pages does not get them back.

use nix::errno::Errno;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    // SAFETY: the operation takes numbers.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) })?;
    cx.barrier()?;
    // SAFETY: as above.
    ensure_eq!(unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0) }, 1, "THP_DISABLE");
    Ok(())
}
