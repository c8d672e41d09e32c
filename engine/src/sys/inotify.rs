//! `inotify(7)`, with the choice of numbers that nix lacks.

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use crate::error::SysError;

/// A new instance.
pub fn init() -> Result<OwnedFd, SysError> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::inotify_init1(libc::IN_CLOEXEC) };
    if fd < 0 {
        return Err(SysError::last("inotify_init1"));
    }
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Watches a path, and says which number the watch has.
pub fn add_watch(fd: BorrowedFd<'_>, path: &Path, mask: u32) -> Result<u32, SysError> {
    const CALL: &str = "inotify_add_watch";
    use std::os::unix::ffi::OsStrExt as _;
    let path = CString::new(path.as_os_str().as_bytes())
        .map_err(|_zero_inside| SysError { call: CALL, errno: Errno::EINVAL })?;
    // SAFETY: the kernel reads a terminated string, which lives as long as the call.
    let wd = unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), mask) };
    if wd < 0 { Err(SysError::last(CALL)) } else { Ok(wd as u32) }
}

/// Ends a watch.
pub fn rm_watch(fd: BorrowedFd<'_>, wd: u32) -> Result<(), SysError> {
    // SAFETY: takes numbers only.
    let done = unsafe { libc::inotify_rm_watch(fd.as_raw_fd(), wd as i32) };
    Errno::result(done).map(|_| ()).map_err(SysError::of("inotify_rm_watch"))
}

/// Chooses the number that the next watch gets, unless it is taken (Linux 4.17, `CONFIG_CHECKPOINT_RESTORE`).
pub fn set_next_wd(fd: BorrowedFd<'_>, wd: u32) -> Result<(), SysError> {
    /// From `include/uapi/linux/inotify.h`.
    const INOTIFY_IOC_SETNEXTWD: u64 = 0x4004_4900;
    // SAFETY: takes a number only; this request has no pointer.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), INOTIFY_IOC_SETNEXTWD, libc::c_ulong::from(wd)) };
    Errno::result(done).map(|_| ()).map_err(SysError::of("ioctl(INOTIFY_IOC_SETNEXTWD)"))
}
