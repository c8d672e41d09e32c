//! A file system of the host that covers the root of a tmpfs.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let place = mounting::new_tmpfs(cx, "covered")?;
    fs::write(place.join("own"), "own")?;
    mounting::bind(&cx.path("outside"), &place)?;

    let device = fs::metadata(cx.path("outside/file"))?.dev();
    mounting::barrier(cx)?;
    mounting::ensure_text(&cx.path("outside/file"), "from outside")?;
    ensure_eq!(
        fs::metadata(cx.path("outside/file"))?.dev(),
        device,
        "device of what is mounted from outside"
    );
    mounting::ensure_text(&place.join("file"), "from outside")?;
    mounting::unmount(&place)?;
    mounting::ensure_text(&place.join("own"), "own")
}
