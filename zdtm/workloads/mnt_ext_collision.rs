//! Names of external mounts that are also mount points of others.

use std::fs;

use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (one, other) = (mounting::folder(cx, "one")?, mounting::folder(cx, "other")?);
    mounting::bind(&cx.path("outside"), &one)?;
    mounting::bind(&cx.path("outside/place"), &other)?;
    fs::write(other.join("in"), "place")?;

    mounting::outside_barrier(cx)?;
    mounting::ensure_text(&one.join("place/in"), "place")?;
    mounting::ensure_text(&other.join("in"), "place")
}
