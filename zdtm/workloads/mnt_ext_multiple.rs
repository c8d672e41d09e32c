//! A file system of the host that is mounted several times, also in parts, and below itself.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (whole, part) = (mounting::folder(cx, "whole")?, mounting::folder(cx, "part")?);
    mounting::bind(&cx.path("outside"), &whole)?;
    mounting::bind(&cx.path("outside/place"), &part)?;
    mounting::bind(&cx.path("outside"), &cx.path("outside/place"))?;

    let device = fs::metadata(cx.path("outside/file"))?.dev();
    mounting::barrier(cx)?;
    mounting::ensure_text(&cx.path("outside/file"), "from outside")?;
    ensure_eq!(
        fs::metadata(cx.path("outside/file"))?.dev(),
        device,
        "device of what is mounted from outside"
    );
    fs::write(part.join("written"), "seen")?;
    mounting::unmount(&cx.path("outside/place"))?;
    mounting::ensure_text(&whole.join("place/written"), "seen")
}
