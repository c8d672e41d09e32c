//! Descriptors for timers and signals.

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use crate::error::SysError;

fn owned(call: &'static str, fd: libc::c_long) -> Result<OwnedFd, SysError> {
    if fd < 0 {
        return Err(SysError::last(call));
    }
    // SAFETY: the kernel gave us this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Makes a signal descriptor for the signals in a mask: bit N is signal N + 1.
pub fn signalfd(mask: u64) -> Result<OwnedFd, SysError> {
    let size = size_of::<u64>();
    // SAFETY: the kernel reads the mask, which lives during the call.
    let fd = unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const mask, size, libc::SFD_CLOEXEC) };
    owned("signalfd4", fd)
}

/// Makes a timer descriptor of a clock.
pub fn timerfd_create(clock: i32) -> Result<OwnedFd, SysError> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_timerfd_create, clock, libc::TFD_CLOEXEC) };
    owned("timerfd_create", fd)
}

/// Arms a timer: interval and value, in seconds and nanoseconds.
pub fn timerfd_settime(fd: BorrowedFd<'_>, flags: u32, spec: &[u64; 4]) -> Result<(), SysError> {
    let fd = fd.as_raw_fd();
    // SAFETY: the kernel reads a struct itimerspec, which has this layout, and writes nothing.
    let result = unsafe { libc::syscall(libc::SYS_timerfd_settime, fd, flags, spec.as_ptr(), 0) };
    if result < 0 { Err(SysError::last("timerfd_settime")) } else { Ok(()) }
}

/// What is left of a timer; one with an interval that has expired is armed again.
pub fn timerfd_gettime(fd: BorrowedFd<'_>) -> Result<[u64; 4], SysError> {
    let mut spec = [0_u64; 4];
    // SAFETY: the kernel writes a struct itimerspec, which has this layout.
    let result = unsafe { libc::syscall(libc::SYS_timerfd_gettime, fd.as_raw_fd(), spec.as_mut_ptr()) };
    if result < 0 { Err(SysError::last("timerfd_gettime")) } else { Ok(spec) }
}

/// Says how often a timer has expired unread (Linux 3.17).
pub fn timerfd_set_ticks(fd: BorrowedFd<'_>, ticks: u64) -> Result<(), SysError> {
    /// `TFD_IOC_SET_TICKS` of `include/linux/timerfd.h`: `_IOW('T', 0, __u64)`.
    const TFD_IOC_SET_TICKS: libc::c_ulong = 0x4008_5400;
    // SAFETY: the kernel reads eight bytes, which live during the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), TFD_IOC_SET_TICKS, &raw const ticks) };
    if result < 0 { Err(SysError::last("ioctl(TFD_IOC_SET_TICKS)")) } else { Ok(()) }
}
