//! A read-only root that took the place of another.

use std::fs;
use std::path::Path;

use nix::mount::MsFlags;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    mounting::pivot_root(cx)?;
    mounting::remount(Path::new("/"), MsFlags::MS_RDONLY)?;
    mounting::barrier(cx)?;
    let refused = fs::write("/zdtm-read-only", "").map_err(|e| e.raw_os_error());
    ensure_eq!(refused, Err(Some(libc::EROFS)), "writing to the root");
    Ok(())
}
