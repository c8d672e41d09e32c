//! The calls that make and place mounts by descriptors, fsopen(2), open_tree(2), move_mount(2), mount_setattr(2).

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::Path;

use nix::NixPath as _;
use nix::errno::Errno;

use crate::error::SysError;

// From `include/uapi/linux/mount.h`.
const OPEN_TREE_CLONE: i32 = 1;
const FSOPEN_CLOEXEC: i32 = 1;
const FSPICK_CLOEXEC: i32 = 1;
const FSPICK_EMPTY_PATH: i32 = 8;
const FSCONFIG_SET_FLAG: i32 = 0;
const FSCONFIG_SET_STRING: i32 = 1;
const FSCONFIG_CMD_CREATE: i32 = 6;
const FSCONFIG_CMD_RECONFIGURE: i32 = 7;
const FSMOUNT_CLOEXEC: i32 = 1;
const MOVE_MOUNT_F_EMPTY_PATH: i32 = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: i32 = 0x40;
const MOVE_MOUNT_SET_GROUP: i32 = 0x100;

/// `MOUNT_ATTR_RDONLY`.
pub const MOUNT_ATTR_RDONLY: u64 = 1;
/// `MOUNT_ATTR__ATIME`, all ways to note access times.
pub const MOUNT_ATTR_ATIME: u64 = 0x70;

/// The root of a new file system: its parameters, then its mount.
#[derive(Debug)]
pub struct NewFileSystem(OwnedFd);

impl NewFileSystem {
    /// Begins with a type.
    pub fn open(fstype: &CStr) -> Result<Self, SysError> {
        // SAFETY: the name ends in a zero byte.
        let context = unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC) };
        owned(context, "fsopen").map(Self)
    }

    /// Takes the file system that is mounted there, to change its parameters.
    pub fn of_mount(mount: BorrowedFd<'_>) -> Result<Self, SysError> {
        let flags = FSPICK_CLOEXEC | FSPICK_EMPTY_PATH;
        // SAFETY: the path is empty.
        let context = unsafe { libc::syscall(libc::SYS_fspick, mount.as_raw_fd(), c"".as_ptr(), flags) };
        owned(context, "fspick").map(Self)
    }

    /// Sets a parameter that has a value.
    pub fn set(&self, key: &CStr, value: &CStr) -> Result<(), SysError> {
        self.config(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr())
    }

    /// Sets a parameter that has none.
    pub fn set_flag(&self, key: &CStr) -> Result<(), SysError> {
        self.config(FSCONFIG_SET_FLAG, key.as_ptr(), std::ptr::null())
    }

    /// Makes the file system.
    pub fn create(&self) -> Result<(), SysError> {
        self.config(FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null())
    }

    /// Has the parameters take effect on a file system that is there.
    pub fn reconfigure(&self) -> Result<(), SysError> {
        self.config(FSCONFIG_CMD_RECONFIGURE, std::ptr::null(), std::ptr::null())
    }

    /// Its root, mounted nowhere.
    pub fn mount(&self) -> Result<OwnedFd, SysError> {
        // SAFETY: takes numbers only.
        let root = unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, 0) };
        owned(root, "fsmount")
    }

    fn config(&self, command: i32, key: *const i8, value: *const i8) -> Result<(), SysError> {
        // SAFETY: key and value are null or end in a zero byte, as the callers above pass them.
        let done = unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key, value, 0) };
        Errno::result(done).map(|_| ()).map_err(SysError::of("fsconfig"))
    }
}

/// The empty root of a tmpfs that is mounted nowhere: it goes with whoever uses it last.
pub fn private_tmpfs() -> Result<OwnedFd, SysError> {
    let tmpfs = NewFileSystem::open(c"tmpfs")?;
    tmpfs.create()?;
    tmpfs.mount()
}

/// How much of a tree of mounts is cloned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The mount without what is mounted below it.
    One,
    /// All that is mounted below it, too.
    Recursive,
}

/// A folder seen through a mount of its own, at which nothing but this descriptor gets.
pub fn clone_tree(folder: &Path) -> Result<OwnedFd, SysError> {
    open_tree(libc::AT_FDCWD, folder, OPEN_TREE_CLONE)
}

/// As [`clone_tree`], of what is at a descriptor (an empty path) or below it.
pub fn clone_at(dir: impl AsFd, path: &Path, depth: Depth) -> Result<OwnedFd, SysError> {
    let recursive = if depth == Depth::Recursive { libc::AT_RECURSIVE } else { 0 };
    open_tree(
        dir.as_fd().as_raw_fd(),
        path,
        OPEN_TREE_CLONE | recursive | libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW,
    )
}

fn open_tree(dir: i32, path: &Path, flags: i32) -> Result<OwnedFd, SysError> {
    let made = path.with_nix_path(|path| {
        // SAFETY: the path ends in a zero byte.
        unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags | libc::O_CLOEXEC) }
    });
    made.map_err(SysError::of("open_tree")).and_then(|fd| owned(fd, "open_tree"))
}

/// Mounts what is mounted nowhere yet at the file or folder that a descriptor leads to.
pub fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<(), SysError> {
    move_mount(mount, place, 0, "move_mount")
}

/// Makes a private mount a member of the peer group of another mount of the same file system, and a slave of its
/// master (Linux 5.15).
pub fn set_group(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), SysError> {
    move_mount(from, to, MOVE_MOUNT_SET_GROUP, "move_mount(MOVE_MOUNT_SET_GROUP)")
}

fn move_mount(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    flags: i32,
    call: &'static str,
) -> Result<(), SysError> {
    let flags = flags | MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    let (from, to, empty) = (from.as_raw_fd(), to.as_raw_fd(), c"".as_ptr());
    // SAFETY: both paths are empty.
    let done = unsafe { libc::syscall(libc::SYS_move_mount, from, empty, to, empty, flags) };
    Errno::result(done).map(|_| ()).map_err(SysError::of(call))
}

/// Makes such a mount writable.
pub fn allow_writing(tree: &OwnedFd) -> Result<(), SysError> {
    set_attributes(tree.as_fd(), 0, MOUNT_ATTR_RDONLY)
}

/// Sets and clears flags of a mount (`MOUNT_ATTR_*`).
pub fn set_attributes(mount: BorrowedFd<'_>, set: u64, clear: u64) -> Result<(), SysError> {
    setattr(mount, [set, clear, 0, 0])
}

/// Changes how a mount propagates: `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` or `MS_UNBINDABLE`.
pub fn set_propagation(mount: BorrowedFd<'_>, kind: u64) -> Result<(), SysError> {
    setattr(mount, [0, 0, kind, 0])
}

/// The fields of `struct mount_attr`: attr_set, attr_clr, propagation, userns_fd.
fn setattr(mount: BorrowedFd<'_>, attributes: [u64; 4]) -> Result<(), SysError> {
    let size = size_of_val(&attributes);
    let (fd, flags) = (mount.as_raw_fd(), libc::AT_EMPTY_PATH);
    // SAFETY: the path is empty, and the kernel reads the attributes.
    let done =
        unsafe { libc::syscall(libc::SYS_mount_setattr, fd, c"".as_ptr(), flags, attributes.as_ptr(), size) };
    Errno::result(done).map(|_| ()).map_err(SysError::of("mount_setattr"))
}

/// The id that `/proc/PID/mountinfo` shows for the mount which a descriptor is on (`STATX_MNT_ID`, Linux 5.8).
pub fn mount_id(fd: BorrowedFd<'_>) -> Result<u64, SysError> {
    let found = statx(fd)?;
    if found.stx_mask & libc::STATX_MNT_ID == 0 {
        return Err(SysError { call: "statx(STATX_MNT_ID)", errno: Errno::ENOSYS });
    }
    Ok(found.stx_mnt_id)
}

/// Whether a descriptor leads to the root of a mount (`STATX_ATTR_MOUNT_ROOT`, Linux 5.8).
pub fn is_mount_root(fd: BorrowedFd<'_>) -> Result<bool, SysError> {
    Ok(statx(fd)?.stx_attributes & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0)
}

fn statx(fd: BorrowedFd<'_>) -> Result<libc::statx, SysError> {
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let (fd, flags) = (fd.as_raw_fd(), libc::AT_EMPTY_PATH);
    // SAFETY: the path is empty, and the kernel fills in the structure.
    let done = unsafe { libc::statx(fd, c"".as_ptr(), flags, libc::STATX_MNT_ID, found.as_mut_ptr()) };
    Errno::result(done).map_err(SysError::of("statx"))?;
    // SAFETY: plain numbers, zeroed and then filled in by the kernel.
    Ok(unsafe { found.assume_init() })
}

fn owned(fd: i64, call: &'static str) -> Result<OwnedFd, SysError> {
    let fd = Errno::result(fd).map_err(SysError::of(call))?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
