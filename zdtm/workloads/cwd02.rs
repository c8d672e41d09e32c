//! A working directory that was removed together with the folder that it was in.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use nix::errno::Errno;
use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let gone = mounting::folder(cx, "gone/inner")?;
    nix::unistd::chdir(&gone)?;
    fs::remove_dir_all(cx.path("gone"))?;
    cx.barrier()?;
    ensure_eq!(nix::unistd::getcwd().err(), Some(Errno::ENOENT), "name of the working directory");
    ensure_eq!(fs::metadata(".")?.nlink(), 0, "names of the working directory");
    ensure_eq!(fs::read_dir(".")?.count(), 0, "files in the working directory");
    ensure!(!cx.path("gone").exists(), "the folder that it was in is there");
    Ok(())
}
