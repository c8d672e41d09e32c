//! Descriptors of processes, for workloads that have some.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use zdtm::workload::Failure;

/// `PIDFD_THREAD` of `include/uapi/linux/pidfd.h`.
pub(crate) const THREAD: i32 = libc::O_EXCL;

/// Opens one.
pub(crate) fn open(pid: i32, flags: i32) -> Result<OwnedFd, Failure> {
    // SAFETY: takes numbers only.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) })
}

/// A duplicate of a descriptor of that process.
pub(crate) fn take(pidfd: &OwnedFd, fd: i32) -> Result<OwnedFd, Failure> {
    // SAFETY: takes numbers only.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })
}

fn owned(fd: i64) -> Result<OwnedFd, Failure> {
    let fd = Errno::result(fd)? as i32;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal; `ESRCH` if it is gone.
pub(crate) fn signal(pidfd: &OwnedFd, signal: i32) -> Result<(), Errno> {
    let null = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: takes numbers and no siginfo.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, null, 0) };
    Errno::result(sent).map(|_| ())
}

/// Whether it has ended.
pub(crate) fn has_ended(pidfd: &OwnedFd) -> Result<bool, Failure> {
    let fd: BorrowedFd<'_> = pidfd.as_fd();
    Ok(poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO)? > 0)
}

/// The pid that fdinfo tells.
pub(crate) fn pid(pidfd: &OwnedFd) -> Result<i32, Failure> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    line.and_then(|pid| pid.trim().parse().ok()).ok_or_else(|| Failure::new("fdinfo tells no pid"))
}

/// The inode number, which descriptors of a process have in common.
pub(crate) fn inode(pidfd: &OwnedFd) -> Result<u64, Failure> {
    Ok(nix::sys::stat::fstat(pidfd)?.st_ino)
}
