//! Names of external mounts that are also mount points of others.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (one, other) = (mounting::folder(cx, "one")?, mounting::folder(cx, "other")?);
    mounting::bind(&cx.path("outside"), &one)?;
    mounting::bind(&cx.path("outside/place"), &other)?;
    fs::write(other.join("in"), "place")?;

    let device = fs::metadata(cx.path("outside/file"))?.dev();
    mounting::barrier(cx)?;
    mounting::ensure_text(&cx.path("outside/file"), "from outside")?;
    ensure_eq!(
        fs::metadata(cx.path("outside/file"))?.dev(),
        device,
        "device of what is mounted from outside"
    );
    mounting::ensure_text(&one.join("place/in"), "place")?;
    mounting::ensure_text(&other.join("in"), "place")
}
