//! A changed root directory is kept.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use nix::unistd::{chdir, getcwd};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    fs::create_dir(cx.path("folder"))?;
    let inode = fs::metadata(cx.path(""))?.ino();
    nix::unistd::chroot(&cx.path(""))?;
    cx.dir_became_root();
    chdir("/folder")?;
    cx.barrier()?;
    ensure_eq!(fs::metadata("/")?.ino(), inode, "inode of the root directory");
    ensure_eq!(getcwd()?.to_string_lossy(), "/folder", "working directory");
    Ok(())
}
