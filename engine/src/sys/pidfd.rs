//! `pidfd_open(2)` and `pidfd_getfd(2)`.

use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::errno::Errno;

use crate::error::SysError;

/// A descriptor for the process `pid`, or for the thread with that id (Linux 6.9).
pub fn open(pid: i32) -> Result<OwnedFd, SysError> {
    /// From `include/uapi/linux/pidfd.h`.
    const PIDFD_THREAD: i32 = libc::O_EXCL;
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match owned(fd, "pidfd_open") {
        // It is no leader: EINVAL, and ENOENT since Linux 6.15.
        Err(SysError { errno: Errno::EINVAL | Errno::ENOENT, .. }) => {
            // SAFETY: takes numbers only.
            let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, PIDFD_THREAD) };
            owned(fd, "pidfd_open(PIDFD_THREAD)")
        }
        opened => opened,
    }
}

/// A descriptor for a process or thread, with flags of `pidfd_open(2)`.
pub fn open_with(pid: i32, flags: u32) -> Result<OwnedFd, SysError> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) };
    owned(fd, "pidfd_open")
}

/// A duplicate of descriptor `fd` of that process: the same open file description.
pub fn getfd(pidfd: impl AsFd, fd: i32) -> Result<OwnedFd, SysError> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_fd().as_raw_fd(), fd, 0) };
    owned(fd, "pidfd_getfd")
}

/// Sends a signal.
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> Result<(), SysError> {
    let null = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: takes numbers, and no siginfo.
    let sent =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd(), signal, null, 0) };
    if sent < 0 { Err(SysError::last("pidfd_send_signal")) } else { Ok(()) }
}

/// Helps to free the memory of a process that was killed (`process_mrelease(2)`, Linux 5.15), beside the process itself.
pub fn release_memory(pidfd: impl AsFd) -> Result<(), SysError> {
    // SAFETY: takes numbers only.
    let done = unsafe { libc::syscall(libc::SYS_process_mrelease, pidfd.as_fd().as_raw_fd(), 0) };
    if done < 0 { Err(SysError::last("process_mrelease")) } else { Ok(()) }
}

fn owned(fd: i64, call: &'static str) -> Result<OwnedFd, SysError> {
    if fd < 0 {
        return Err(SysError::last(call));
    }
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
