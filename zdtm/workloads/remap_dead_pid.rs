//! A file in /proc of a process that has ended stays what it is: nothing more can be read from it.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use zdtm::workload::{Context, Failure, Verdict, exit_now};
use zdtm::{ensure, ensure_eq};

/// The file `status` of it.
pub(crate) fn file(cx: &mut Context) -> Verdict {
    let mut status = of_ended(cx, "/status")?;
    cx.barrier()?;
    let read = status.read(&mut [0; 64]).map_err(|e| e.raw_os_error());
    ensure_eq!(read, Err(Some(Errno::ESRCH as i32)), "what reading it gives");
    Ok(())
}

/// The folder itself, `/proc/PID`.
pub(crate) fn root(cx: &mut Context) -> Verdict {
    let folder = of_ended(cx, "")?;
    let link = format!("/proc/self/fd/{}", folder.as_raw_fd());
    let name = fs::read_link(&link)?;
    cx.barrier()?;
    ensure_eq!(fs::read_link(&link)?, name, "the name of the folder");
    ensure!(folder.metadata()?.is_dir(), "it is no folder any more");
    let below = fs::metadata(format!("{link}/status")).map_err(|e| e.raw_os_error());
    ensure_eq!(below.map(drop), Err(Some(Errno::ESRCH as i32)), "what is in it");
    Ok(())
}

/// Opens what is below `/proc/PID` of a child that ends then.
fn of_ended(cx: &Context, below: &str) -> Result<File, Failure> {
    let child = cx.child(|cx| {
        cx.wait_for("opened")?;
        exit_now(0)
    })?;
    let file = File::open(format!("/proc/{}{below}", child.pid))?;
    cx.post("opened")?;
    ensure_eq!(waitpid(child.pid, None)?, WaitStatus::Exited(child.pid, 0), "the end of the child");
    Ok(file)
}
