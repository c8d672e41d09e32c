//! A tmpfs that another covers keeps its files.

use std::fs;

use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let place = mounting::new_tmpfs(cx, "place")?;
    fs::write(place.join("file"), "lower")?;
    mounting::tmpfs(&place, "")?;
    fs::write(place.join("file"), "upper")?;
    mounting::barrier(cx)?;
    mounting::ensure_text(&place.join("file"), "upper")?;
    mounting::unmount(&place)?;
    mounting::ensure_text(&place.join("file"), "lower")
}
