//! `fanotify(7)`.

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::errno::Errno;

use crate::error::SysError;

/// A new group; needs `CAP_SYS_ADMIN` for most flags.
pub fn init(flags: u32, event_flags: u32) -> Result<OwnedFd, SysError> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::fanotify_init(flags, event_flags) };
    if fd < 0 {
        return Err(SysError::last("fanotify_init"));
    }
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Marks what a path leads to.
pub fn mark(fd: BorrowedFd<'_>, flags: u32, mask: u64, path: &Path) -> Result<(), SysError> {
    const CALL: &str = "fanotify_mark";
    let path = CString::new(path.as_os_str().as_bytes())
        .map_err(|_zero_inside| SysError { call: CALL, errno: Errno::EINVAL })?;
    // SAFETY: the kernel reads a terminated string, which lives as long as the call.
    let done = unsafe { libc::fanotify_mark(fd.as_raw_fd(), flags, mask, libc::AT_FDCWD, path.as_ptr()) };
    Errno::result(done).map(|_| ()).map_err(SysError::of(CALL))
}
