//! Calls of autofs: `include/uapi/linux/auto_fs.h`, `include/uapi/linux/auto_dev-ioctl.h`,
//! `Documentation/filesystems/autofs-mount-control.rst`.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::errno::Errno;
use zerocopy::{Immutable, IntoBytes};

use crate::error::SysError;

const AUTOFS_IOC_CATATONIC: libc::c_ulong = 0x9362;
const AUTOFS_IOC_SETTIMEOUT: libc::c_ulong = 0xc008_9364;
/// Gives a mount, by a descriptor of its root, a pipe, and the group of the calling process. It must have none.
pub const AUTOFS_DEV_IOCTL_SETPIPEFD: libc::c_ulong = 0xc018_9378;
/// Device number of `/dev/autofs`: `MISC_MAJOR` of `include/uapi/linux/major.h`, `AUTOFS_MINOR` of `include/linux/miscdevice.h`.
pub const DEVICE: (u64, u64) = (10, 235);

/// `struct autofs_dev_ioctl`, without a path.
#[repr(C)]
#[derive(Debug, Clone, Copy, IntoBytes, Immutable)]
pub struct SetPipe {
    ver_major: u32,
    ver_minor: u32,
    size: u32,
    ioctlfd: i32,
    pipefd: i32,
    unused: u32,
}

impl SetPipe {
    /// Of the mount with this descriptor, in the numbers of the process that calls.
    pub fn new(mount: i32, pipe: i32) -> Self {
        let size = size_of::<Self>() as u32;
        Self { ver_major: 1, ver_minor: 1, size, ioctlfd: mount, pipefd: pipe, unused: 0 }
    }
}

/// Takes its pipe from a mount, whose daemon is asked for nothing from now on.
pub fn make_catatonic(root: BorrowedFd<'_>) -> Result<(), SysError> {
    // SAFETY: takes a number only.
    let done = unsafe { libc::ioctl(root.as_raw_fd(), AUTOFS_IOC_CATATONIC, 0) };
    Errno::result(done).map(drop).map_err(SysError::of("ioctl(AUTOFS_IOC_CATATONIC)"))
}

/// Sets after how many seconds what is not used is unmounted.
pub fn set_timeout(root: BorrowedFd<'_>, seconds: u64) -> Result<(), SysError> {
    let mut seconds = seconds;
    // SAFETY: the kernel reads and writes one number.
    let done = unsafe { libc::ioctl(root.as_raw_fd(), AUTOFS_IOC_SETTIMEOUT, &raw mut seconds) };
    Errno::result(done).map(drop).map_err(SysError::of("ioctl(AUTOFS_IOC_SETTIMEOUT)"))
}
