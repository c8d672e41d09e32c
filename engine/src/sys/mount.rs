//! Views of mounts that only we see.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use nix::NixPath as _;
use nix::errno::Errno;

use crate::error::SysError;

/// From `include/uapi/linux/mount.h`.
const OPEN_TREE_CLONE: i32 = 1;
const MOUNT_ATTR_RDONLY: u64 = 1;

const FSOPEN_CLOEXEC: i32 = 1;
const FSCONFIG_CMD_CREATE: i32 = 6;
const FSMOUNT_CLOEXEC: i32 = 1;

/// The empty root of a tmpfs that is mounted nowhere: it goes with whoever uses it last.
pub fn private_tmpfs() -> Result<OwnedFd, SysError> {
    // SAFETY: the name ends in a zero byte.
    let context = unsafe { libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), FSOPEN_CLOEXEC) };
    let context = Errno::result(context).map_err(SysError::of("fsopen"))?;
    // SAFETY: the kernel just made it for us.
    let context = unsafe { OwnedFd::from_raw_fd(context as i32) };
    let none = std::ptr::null::<libc::c_void>();
    let number = context.as_raw_fd();
    // SAFETY: this command takes no key and no value.
    let made = unsafe { libc::syscall(libc::SYS_fsconfig, number, FSCONFIG_CMD_CREATE, none, none, 0) };
    Errno::result(made).map_err(SysError::of("fsconfig"))?;
    // SAFETY: takes numbers only.
    let root = unsafe { libc::syscall(libc::SYS_fsmount, number, FSMOUNT_CLOEXEC, 0) };
    let root = Errno::result(root).map_err(SysError::of("fsmount"))?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(root as i32) })
}

/// A folder seen through a mount of its own, at which nothing but this descriptor gets.
pub fn clone_tree(folder: &Path) -> Result<OwnedFd, SysError> {
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC;
    let made = folder.with_nix_path(|path| {
        // SAFETY: the path ends in a zero byte.
        unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) }
    });
    let fd = made.and_then(Errno::result).map_err(SysError::of("open_tree"))?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Makes such a mount writable.
pub fn allow_writing(tree: &OwnedFd) -> Result<(), SysError> {
    // struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
    let attributes: [u64; 4] = [0, MOUNT_ATTR_RDONLY, 0, 0];
    let size = size_of_val(&attributes);
    // SAFETY: the path is empty, and the kernel reads the attributes.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            attributes.as_ptr(),
            size,
        )
    };
    Errno::result(done).map(|_| ()).map_err(SysError::of("mount_setattr"))
}
