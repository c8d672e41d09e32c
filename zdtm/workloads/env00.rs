//! A variable that the program set itself is still there.

use nix::errno::Errno;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    // SAFETY: no other thread exists, and both strings are terminated.
    Errno::result(unsafe { libc::setenv(c"ZDTM_ANSWER".as_ptr(), c"forty two".as_ptr(), 1) })?;
    cx.barrier()?;
    ensure_eq!(std::env::var("ZDTM_ANSWER")?, "forty two", "ZDTM_ANSWER");
    Ok(())
}
