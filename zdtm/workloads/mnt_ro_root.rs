//! A root that is mounted read-only is so again.

use std::fs;
use std::path::Path;

use nix::mount::MsFlags;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    // The test's directory stays writable: it is a mount of its own.
    mounting::remount(Path::new("/"), MsFlags::MS_RDONLY)?;
    mounting::barrier(cx)?;
    mounting::ensure_read_only(Path::new("/zdtm-read-only"), "the root")?;
    fs::write(cx.path("file"), "text")?;
    mounting::ensure_text(&cx.path("file"), "text")
}
