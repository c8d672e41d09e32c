//! A mount namespace in which trees of mounts are built: its root is an empty tmpfs with a folder for each thing.
//!
//! It is a namespace that others are copied from, so each has copies of all things, which can be cloned there
//! (open_tree(2) clones only what the caller's namespace has).

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};
use nix::unistd::{chdir, fchdir, pivot_root};

use super::envoy;
use super::read::Proc;
use crate::error::{Problem, SysError};
use crate::sys::mount as sys;

/// The yard, of which the calling process is in a copy.
#[derive(Debug)]
pub(super) struct Yard {
    proc: Proc,
    namespace: OwnedFd,
}

/// Enters a copy of the namespace that we are in, whose mounts have no peers elsewhere: they are private, or slaves.
pub(super) fn enter_copy(kind: MsFlags) -> Result<(), SysError> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(SysError::of("unshare(CLONE_NEWNS)"))?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | kind, none).map_err(SysError::of("mount(MS_REC)"))
}

/// Enters a mount namespace.
pub(super) fn enter(namespace: &OwnedFd) -> Result<(), SysError> {
    setns(namespace, CloneFlags::CLONE_NEWNS).map_err(SysError::of("setns"))
}

impl Yard {
    /// Gives the namespace that we are in an empty root.
    pub(super) fn make(proc: Proc) -> Result<Self, SysError> {
        let root = sys::private_tmpfs()?;
        let slash = open_path("/")?;
        sys::attach(root.as_fd(), slash.as_fd())?;
        become_root(&root)?;
        let namespace = proc.namespace()?;
        Ok(Self { proc, namespace })
    }

    /// What the namespaces of processes are read with.
    pub(super) fn proc(&self) -> &Proc {
        &self.proc
    }

    /// Puts a mount into it under this name.
    pub(super) fn put(name: &str, mount: &OwnedFd) -> Result<(), SysError> {
        let place = Path::new("/").join(name);
        if is_folder(mount)? {
            match mkdirat(nix::fcntl::AT_FDCWD, &place, Mode::S_IRWXU) {
                // Copies have the mounts for themselves, but not the folders.
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(SysError { call: "mkdir", errno }),
            }
        } else {
            std::fs::File::create(&place).map_err(SysError::io("creat"))?;
        }
        sys::attach(mount.as_fd(), open_path(&place)?.as_fd())
    }

    /// Whether something of this name was put into it.
    pub(super) fn has(name: &str) -> bool {
        Path::new("/").join(name).symlink_metadata().is_ok()
    }

    /// What was put into it under this name.
    pub(super) fn get(name: &str) -> Result<OwnedFd, SysError> {
        open_path(Path::new("/").join(name))
    }

    /// Makes a copy that belongs to a user namespace, and enters it. Its mounts are locked, and slaves of those here, so nothing is
    /// made of them.
    pub(super) fn copy_for(&self, owner: BorrowedFd<'_>) -> Result<OwnedFd, Problem> {
        enter(&self.namespace)?;
        let copied = || {
            setns(owner, CloneFlags::CLONE_NEWUSER).map_err(SysError::of("setns"))?;
            nix::sys::prctl::set_dumpable(true).map_err(SysError::of("prctl(PR_SET_DUMPABLE)"))?;
            unshare(CloneFlags::CLONE_NEWNS).map_err(SysError::of("unshare(CLONE_NEWNS)"))?;
            Ok(self.proc.own_name()?)
        };
        let namespace =
            envoy::hold(copied, |name| Ok(self.proc.namespace_of(&String::from_utf8_lossy(&name))?))?;
        enter(&namespace)?;
        Ok(namespace)
    }

    /// The yard itself, of which there are copies.
    pub(super) fn namespace(&self) -> &OwnedFd {
        &self.namespace
    }

    /// Enters a new copy of it.
    pub(super) fn copy(&self) -> Result<(), SysError> {
        enter(&self.namespace)?;
        unshare(CloneFlags::CLONE_NEWNS).map_err(SysError::of("unshare(CLONE_NEWNS)"))
    }
}

/// Makes a mount the root of the namespace that we are in; everything else is gone from it.
pub(super) fn become_root(root: &OwnedFd) -> Result<(), SysError> {
    fchdir(root).map_err(SysError::of("fchdir"))?;
    // The old root comes to lie on the new one, pivot_root(2), and is taken off.
    pivot_root(".", ".").map_err(SysError::of("pivot_root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(SysError::of("umount2"))?;
    chdir("/").map_err(SysError::of("chdir"))
}

/// Opens what a path leads to, without opening the file itself.
pub(super) fn open_path(path: impl AsRef<Path>) -> Result<OwnedFd, SysError> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    open(path.as_ref(), flags, Mode::empty()).map_err(SysError::of("open"))
}

/// Whether a descriptor leads to a folder.
pub(super) fn is_folder(file: &OwnedFd) -> Result<bool, SysError> {
    let kind = SFlag::from_bits_truncate(fstat(file).map_err(SysError::of("fstat"))?.st_mode);
    Ok(kind & SFlag::S_IFMT == SFlag::S_IFDIR)
}
