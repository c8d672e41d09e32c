//! A mount namespace with little more than its root comes back as that.

use std::path::Path;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let before = mounting::tree()?.len();
    mounting::unmount(Path::new("/dev/pts"))?;
    ensure_eq!(mounting::tree()?.len(), before - 1, "mounts");
    mounting::barrier(cx)
}
