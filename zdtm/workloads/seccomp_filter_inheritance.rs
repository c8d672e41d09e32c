//! A child keeps the seccomp filters that it inherited and its own; its parent has fewer, its own child more.

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::filter::{deny, error_of, promise};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    deny(libc::SYS_getppid, libc::EXDEV, 0)?;
    let child = cx.child(|cx| {
        promise()?;
        deny(libc::SYS_getuid, libc::EDOM, 0)?;
        let grandchild = cx.child(|cx| {
            deny(libc::SYS_getgid, libc::ENOTUNIQ, 0)?;
            cx.post("grandchild-ready")?;
            cx.park()?;
            ensure_eq!(error_of(libc::SYS_getgid), Some(libc::ENOTUNIQ), "the grandchild's own filter");
            ensure_eq!(error_of(libc::SYS_getuid), Some(libc::EDOM), "the filter of its parent");
            ensure_eq!(error_of(libc::SYS_getppid), Some(libc::EXDEV), "the filter of its grandparent");
            Ok(())
        })?;
        cx.park()?;
        ensure_eq!(error_of(libc::SYS_getuid), Some(libc::EDOM), "the child's own filter");
        ensure_eq!(error_of(libc::SYS_getppid), Some(libc::EXDEV), "the filter of its parent");
        ensure_eq!(error_of(libc::SYS_getgid), None, "the filter of its child");
        grandchild.join()
    })?;
    cx.wait_for("grandchild-ready")?;
    cx.barrier()?;
    ensure_eq!(error_of(libc::SYS_getppid), Some(libc::EXDEV), "the filter of the root");
    ensure_eq!(error_of(libc::SYS_getuid), None, "the filter of its child");
    child.join()
}
