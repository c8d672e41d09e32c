//! A working directory that was removed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use nix::errno::Errno;
use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let gone = mounting::folder(cx, "gone")?;
    nix::unistd::chdir(&gone)?;
    fs::remove_dir(&gone)?;
    cx.barrier()?;
    ensure_eq!(nix::unistd::getcwd().err(), Some(Errno::ENOENT), "name of the working directory");
    ensure!(fs::write("file", "").is_err(), "a file can be made in a removed folder");
    ensure_eq!(fs::metadata(".")?.nlink(), 0, "names of the working directory");
    Ok(())
}
