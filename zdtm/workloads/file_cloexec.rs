//! The close-on-exec flag belongs to the descriptor: of two for one description, one has it.

use std::fs::File;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let closing = File::create(cx.path("file"))?;
    let staying = closing.try_clone()?;
    fcntl(&staying, FcntlArg::F_SETFD(FdFlag::empty()))?;
    cx.barrier()?;
    ensure_eq!(fcntl(&closing, FcntlArg::F_GETFD)?, FdFlag::FD_CLOEXEC.bits(), "flags of the first");
    ensure_eq!(fcntl(&staying, FcntlArg::F_GETFD)?, 0, "flags of the second");
    Ok(())
}
