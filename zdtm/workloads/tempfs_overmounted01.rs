//! A tmpfs below a folder that another covers, with a mount of its own, keeps its files.

use std::fs;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let outer = mounting::new_tmpfs(cx, "outer")?;
    fs::create_dir_all(outer.join("a/b"))?;
    mounting::tmpfs(&outer.join("a/b"), "")?;
    fs::create_dir(outer.join("a/b/c"))?;
    mounting::tmpfs(&outer.join("a/b/c"), "")?;
    fs::write(outer.join("a/b/c/file"), "deep")?;
    mounting::tmpfs(&outer.join("a"), "")?;
    fs::write(outer.join("a/file"), "upper")?;
    mounting::tmpfs(&outer, "")?;
    mounting::barrier(cx)?;
    ensure_eq!(fs::read_dir(&outer)?.count(), 0, "files of the uppermost");
    mounting::unmount(&outer)?;
    mounting::ensure_text(&outer.join("a/file"), "upper")?;
    mounting::unmount(&outer.join("a"))?;
    mounting::ensure_text(&outer.join("a/b/c/file"), "deep")
}
