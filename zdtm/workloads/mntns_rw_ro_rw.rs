//! Writable, read-only and writable mounts of one file system on each other keep their flags.

use std::fs;

use nix::mount::MsFlags;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let outer = mounting::new_tmpfs(cx, "outer")?;
    fs::create_dir_all(outer.join("a/b/c"))?;
    let (middle, inner) = (outer.join("a"), outer.join("a/b"));
    mounting::bind(&middle, &middle)?;
    mounting::remount(&middle, MsFlags::MS_RDONLY)?;
    mounting::bind(&outer.join("a/b"), &inner)?;
    mounting::remount(&inner, MsFlags::empty())?;
    mounting::barrier(cx)?;
    fs::write(outer.join("file"), "")?;
    mounting::ensure_read_only(&middle.join("file"), "the mount in the middle")?;
    Ok(fs::write(inner.join("c/file"), "")?)
}
