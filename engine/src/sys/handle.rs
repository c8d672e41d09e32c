//! `open_by_handle_at(2)`: files by what their filesystem calls them.

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::errno::Errno;

use crate::error::SysError;

/// `MAX_HANDLE_SZ` of `include/linux/exportfs.h`.
pub const MAX_HANDLE: usize = 128;

/// `struct file_handle` with the largest handle there is.
#[repr(C)]
struct FileHandle {
    bytes: u32,
    kind: u32,
    handle: [u8; MAX_HANDLE],
}

/// Opens, with `O_PATH`, the file with this handle in the filesystem of `mount`, a file that is open in more than name.
pub fn open(mount: BorrowedFd<'_>, kind: u32, handle: &[u8]) -> Result<OwnedFd, SysError> {
    const CALL: &str = "open_by_handle_at";
    let mut whole = FileHandle { bytes: handle.len() as u32, kind, handle: [0; MAX_HANDLE] };
    let room = whole.handle.get_mut(..handle.len());
    room.ok_or(SysError { call: CALL, errno: Errno::EOVERFLOW })?.copy_from_slice(handle);
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    let call = libc::SYS_open_by_handle_at;
    // SAFETY: the kernel reads the handle, which lives as long as the call, no further than its own size says.
    let fd = unsafe { libc::syscall(call, mount.as_raw_fd(), &raw const whole, flags) };
    if fd < 0 {
        return Err(SysError::last(CALL));
    }
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
