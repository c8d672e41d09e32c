//! Descriptors of processes that are gone stay descriptors of processes that are gone: those of one process of one, those
//! of two of two.

use std::os::fd::AsFd as _;

use nix::errno::Errno;
use nix::sys::wait::waitpid;
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::process_fd::{self as pidfd, THREAD};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let gone = |count: u32| -> Result<_, Failure> {
        let child = cx.child(|_| Ok(()))?;
        let flags = [0, 0, libc::O_NONBLOCK, THREAD];
        let fds = flags.iter().take(count as usize).map(|flags| pidfd::open(child.pid.as_raw(), *flags));
        let fds: Vec<_> = fds.collect::<Result<_, _>>()?;
        waitpid(child.pid, None)?;
        Ok(fds)
    };
    let first = gone(4)?;
    let second = if cx.args().is_empty() { Vec::new() } else { gone(2)? };
    let shared = first[0].as_fd().try_clone_to_owned()?;
    cx.barrier()?;
    for fd in first.iter().chain(&second).chain([&shared]) {
        ensure_eq!(pidfd::pid(fd)?, -1, "whom it leads to");
        ensure_eq!(pidfd::signal(fd, 0), Err(Errno::ESRCH), "a signal to it");
        ensure!(pidfd::has_ended(fd)?, "it tells no end");
    }
    for fd in &first {
        ensure_eq!(pidfd::inode(fd)?, pidfd::inode(&first[0])?, "inode numbers of the same process");
    }
    for fd in &second {
        ensure_eq!(pidfd::inode(fd)?, pidfd::inode(&second[0])?, "inode numbers of the other");
        ensure!(pidfd::inode(fd)? != pidfd::inode(&first[0])?, "two processes have become one");
    }
    Ok(())
}
