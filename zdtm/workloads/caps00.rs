//! Effective, permitted and inheritable capabilities differ and stay so.

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::capability::{self, CHOWN, KILL, NET_RAW, SYS_CHROOT, Sets};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let all = capability::get()?;
    let wanted = Sets {
        effective: all.effective & !(1 << CHOWN | 1 << NET_RAW),
        permitted: all.permitted & !(1 << NET_RAW),
        inheritable: 1 << KILL | 1 << SYS_CHROOT,
    };
    capability::set(wanted)?;
    cx.barrier()?;
    ensure_eq!(capability::get()?, wanted, "capabilities");
    Ok(())
}
