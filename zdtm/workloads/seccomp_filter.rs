//! Several seccomp filters stay in force, the youngest first, and more can be added.

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::filter::{LOG, deny, error_of, promise};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    if cx.args().iter().any(|arg| arg == "promise") {
        promise()?;
    }
    deny(libc::SYS_getppid, libc::EXDEV, 0)?;
    deny(libc::SYS_getuid, libc::EDOM, LOG)?;
    // Of two that deny the same call, the youngest with the same action counts.
    deny(libc::SYS_getppid, libc::ENOTUNIQ, 0)?;
    ensure_eq!(error_of(libc::SYS_getppid), Some(libc::ENOTUNIQ), "error before");
    cx.barrier()?;
    ensure_eq!(error_of(libc::SYS_getppid), Some(libc::ENOTUNIQ), "error of the youngest filter");
    ensure_eq!(error_of(libc::SYS_getuid), Some(libc::EDOM), "error of the filter in between");
    ensure_eq!(error_of(libc::SYS_getgid), None, "error of a call that is allowed");
    deny(libc::SYS_getgid, libc::EXDEV, 0)?;
    ensure_eq!(error_of(libc::SYS_getgid), Some(libc::EXDEV), "error of a new filter");
    Ok(())
}
