//! A file system of the host that covers the root of a tmpfs.

use std::fs;

use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let place = mounting::new_tmpfs(cx, "covered")?;
    fs::write(place.join("own"), "own")?;
    mounting::bind(&cx.path("outside"), &place)?;

    mounting::outside_barrier(cx)?;
    mounting::ensure_text(&place.join("file"), "from outside")?;
    mounting::unmount(&place)?;
    mounting::ensure_text(&place.join("own"), "own")
}
