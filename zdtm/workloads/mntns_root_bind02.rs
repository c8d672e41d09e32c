//! A part of the root, bound to a folder of a file system that is mounted in the part.

use std::fs;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let part = mounting::folder(cx, "part")?;
    let inner = mounting::new_tmpfs(cx, "part/inner")?;
    fs::create_dir(inner.join("place"))?;
    mounting::bind(&part, &inner.join("place"))?;
    fs::write(part.join("file"), "text")?;
    mounting::barrier(cx)?;
    mounting::ensure_text(&inner.join("place/file"), "text")?;
    ensure_eq!(fs::read_dir(inner.join("place/inner"))?.count(), 0, "files of the folder that inner covers");
    Ok(())
}
