//! A read-only root that took the place of another.

use std::path::Path;

use nix::mount::MsFlags;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    mounting::pivot_root(cx)?;
    mounting::remount(Path::new("/"), MsFlags::MS_RDONLY)?;
    mounting::barrier(cx)?;
    mounting::ensure_read_only(Path::new("/zdtm-read-only"), "the root")
}
