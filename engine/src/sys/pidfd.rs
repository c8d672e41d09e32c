//! `pidfd_open(2)` and `pidfd_getfd(2)`.

use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

use crate::error::SysError;

/// A descriptor for the process `pid`.
pub fn open(pid: i32) -> Result<OwnedFd, SysError> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    owned(fd, "pidfd_open")
}

/// A duplicate of descriptor `fd` of that process: the same open file description.
pub fn getfd(pidfd: impl AsFd, fd: i32) -> Result<OwnedFd, SysError> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_fd().as_raw_fd(), fd, 0) };
    owned(fd, "pidfd_getfd")
}

fn owned(fd: i64, call: &'static str) -> Result<OwnedFd, SysError> {
    if fd < 0 {
        return Err(SysError::last(call));
    }
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
