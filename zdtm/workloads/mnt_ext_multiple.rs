//! A file system of the host that is mounted several times, also in parts, and below itself.

use std::fs;

use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (whole, part) = (mounting::folder(cx, "whole")?, mounting::folder(cx, "part")?);
    mounting::bind(&cx.path("outside"), &whole)?;
    mounting::bind(&cx.path("outside/place"), &part)?;
    mounting::bind(&cx.path("outside"), &cx.path("outside/place"))?;

    mounting::outside_barrier(cx)?;
    fs::write(part.join("written"), "seen")?;
    mounting::unmount(&cx.path("outside/place"))?;
    mounting::ensure_text(&whole.join("place/written"), "seen")
}
