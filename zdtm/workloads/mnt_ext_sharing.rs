//! A file system of the host whose mount is a peer of the host's.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let device = fs::metadata(cx.path("outside/file"))?.dev();
    mounting::barrier(cx)?;
    mounting::ensure_text(&cx.path("outside/file"), "from outside")?;
    ensure_eq!(
        fs::metadata(cx.path("outside/file"))?.dev(),
        device,
        "device of what is mounted from outside"
    );
    Ok(())
}
