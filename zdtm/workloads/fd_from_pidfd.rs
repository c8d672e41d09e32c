//! A descriptor is taken from a child through a descriptor of the child, before and after a restore.

use std::os::fd::AsRawFd as _;

use nix::unistd::{pipe, read, write};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::process_fd as pidfd;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (reader, writer) = pipe()?;
    let number = writer.as_raw_fd();
    let child = cx.child(|cx| {
        let _held = &writer;
        cx.wait_for("end")
    })?;
    drop(writer);
    let fd = pidfd::open(child.pid.as_raw(), 0)?;
    let before = pidfd::take(&fd, number)?;
    cx.barrier()?;
    write(&before, b"before")?;
    write(pidfd::take(&fd, number)?, b" and after")?;
    let mut bytes = [0; 32];
    let length = read(&reader, &mut bytes)?;
    ensure_eq!(String::from_utf8_lossy(&bytes[..length]), "before and after", "what came through");
    cx.post("end")?;
    child.join()
}
