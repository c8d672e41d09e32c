//! Who gets a file's signals, which signal, and as which user that was set.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Uid, getpid, gettid, setresuid};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;
const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;
const F_GETOWNER_UIDS: i32 = 17;

fn call(fd: &OwnedFd, command: i32, value: *mut i32) -> Result<i32, Failure> {
    // SAFETY: the kernel reads or writes two numbers at most.
    Ok(Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), command, value) })?)
}

/// Has signals sent to a thread, a process or a group (0, 1, 2).
pub(crate) fn set(fd: &OwnedFd, kind: i32, id: i32) -> Verdict {
    call(fd, F_SETOWN_EX, [kind, id].as_mut_ptr()).map(drop)
}

/// Who gets signals, the users that set this, and which signal.
pub(crate) fn look(fd: &OwnedFd) -> Result<([i32; 2], [i32; 2], i32), Failure> {
    let (mut owner, mut uids) = ([0; 2], [0; 2]);
    call(fd, F_GETOWN_EX, owner.as_mut_ptr())?;
    call(fd, F_GETOWNER_UIDS, uids.as_mut_ptr())?;
    // SAFETY: takes numbers only.
    let signal = Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), F_GETSIG) })?;
    Ok((owner, uids, signal))
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    // The barrier is too early for it to end: it is looked at behind.
    let thread = cx.thread(|cx| cx.wait_for("looked"));
    let tids = std::fs::read_dir("/proc/self/task")?.flatten();
    let tids: Vec<i32> = tids.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    let other = tids.into_iter().find(|tid| *tid != gettid().as_raw()).unwrap_or_default();
    let pid = getpid().as_raw();
    let mut pipes = Vec::new();
    // Kinds of owners: a thread, a process, a process group.
    for (kind, id, signal, euid) in
        [(0, other, 40, 0), (1, pid, 41, 1000), (2, nix::unistd::getpgrp().as_raw(), 0, 0)]
    {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_NONBLOCK)?;
        setresuid(Uid::from_raw(0), Uid::from_raw(euid), Uid::from_raw(0))?;
        call(&reader, F_SETOWN_EX, [kind, id].as_mut_ptr())?;
        setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0))?;
        // SAFETY: takes numbers only.
        Errno::result(unsafe { libc::fcntl(reader.as_raw_fd(), F_SETSIG, signal) })?;
        pipes.push((reader, writer));
    }
    let (socket, peer) = nix::sys::socket::socketpair(
        nix::sys::socket::AddressFamily::Unix,
        nix::sys::socket::SockType::Stream,
        None,
        nix::sys::socket::SockFlag::empty(),
    )?;
    call(&socket, F_SETOWN_EX, [0, other].as_mut_ptr())?;
    pipes.push((socket, peer));
    let before = pipes.iter().map(|(reader, _)| look(reader)).collect::<Result<Vec<_>, _>>()?;
    cx.barrier()?;
    let after = pipes.iter().map(|(reader, _)| look(reader)).collect::<Result<Vec<_>, _>>()?;
    cx.post("looked")?;
    ensure_eq!(after, before, "owners, users, signals");
    thread.join()
}
