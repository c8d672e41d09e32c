//! The root itself, bound to a folder below it.

use std::fs;
use std::path::Path;

use zdtm::ensure;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let place = mounting::folder(cx, "root")?;
    mounting::bind(Path::new("/"), &place)?;
    fs::write(cx.path("file"), "text")?;
    mounting::barrier(cx)?;
    let below = |path: &Path| place.join(path.strip_prefix("/").unwrap_or(path));
    mounting::ensure_text(&below(&cx.path("file")), "text")?;
    ensure!(!mounting::is_mounted(&below(Path::new("/proc")))?, "more than the root was bound");
    Ok(())
}
