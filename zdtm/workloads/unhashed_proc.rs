//! Descriptors of files in /proc of a process that has ended tell that it has.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let child = cx.child(|cx| cx.wait_for("end"))?;
    let mut status = File::open(format!("/proc/{}/status", child.pid))?;
    let folder = File::open(format!("/proc/{}", child.pid))?;
    cx.post("end")?;
    child.join()?;
    let link = |file: &File| std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let names = (link(&status)?, link(&folder)?);
    cx.barrier()?;
    ensure_eq!((link(&status)?, link(&folder)?), names, "what the descriptors are called");
    let read = status.read(&mut [0; 16]).map_err(|e| e.raw_os_error());
    ensure_eq!(read, Err(Some(Errno::ESRCH as i32)), "reading of an ended process");
    Ok(())
}
