//! Mounts that cover each other, at the same place and at its parent, keep what they show.

use std::fs;

use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let place = mounting::new_tmpfs(cx, "place")?;
    fs::create_dir_all(place.join("in/deep"))?;
    mounting::tmpfs(&place.join("in/deep"), "")?;
    fs::write(place.join("in/deep/file"), "first")?;
    mounting::bind(&place.join("in/deep"), &place.join("in"))?;
    mounting::tmpfs(&place, "mode=711")?;
    fs::create_dir(place.join("new"))?;
    mounting::bind(&cx.path(""), &place.join("new"))?;
    fs::write(cx.path("own"), "own")?;
    mounting::barrier(cx)?;
    mounting::ensure_text(&place.join("new/own"), "own")?;
    mounting::unmount(&place.join("new"))?;
    mounting::unmount(&place)?;
    mounting::ensure_text(&place.join("in/file"), "first")?;
    mounting::unmount(&place.join("in"))?;
    mounting::ensure_text(&place.join("in/deep/file"), "first")
}
