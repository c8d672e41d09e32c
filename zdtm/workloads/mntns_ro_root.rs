//! A root that became read-only below a writable mount is so again, and a file of the latter is open.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use nix::mount::MsFlags;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    // The test's directory stays writable: it is a mount of its own.
    mounting::remount(Path::new("/"), MsFlags::MS_RDONLY)?;
    let mut file = fs::File::create(cx.path("open"))?;
    mounting::barrier(cx)?;
    file.write_all(b"written")?;
    mounting::ensure_text(&cx.path("open"), "written")?;
    mounting::ensure_read_only(Path::new("/zdtm-read-only"), "the root")?;
    fs::write(cx.path("file"), "text")?;
    mounting::ensure_text(&cx.path("file"), "text")
}
