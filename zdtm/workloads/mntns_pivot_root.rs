//! A root that took the place of another.

use std::fs;
use std::path::Path;

use zdtm::ensure;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    mounting::pivot_root(cx)?;
    let place = mounting::new_tmpfs(cx, "place")?;
    fs::write(place.join("file"), "text")?;
    mounting::barrier(cx)?;
    mounting::ensure_text(&place.join("file"), "text")?;
    ensure!(Path::new("/proc/self/exe").exists(), "proc is not there");
    Ok(())
}
