//! Unix sockets whose names lead to their files on a mount that others cover, or that is in a mount namespace of its own.
//!
//! A name is what bind(2) was given, and it makes the file that it leads to. So such sockets are bound when their mount is there
//! and nothing is on it: for the while it lies below a root directory in which the name leads there.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::SFlag;
use nix::unistd::{chdir, chroot, fchdir};

use super::yard::open_path;
use crate::error::{Context as _, Object, Problem, SysError};
use crate::sys::{mount as sys, socket};

/// A socket to be bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedSocket {
    /// Its type.
    pub kind: i32,
    /// Its name, as bind(2) takes it.
    pub name: Vec<u8>,
    /// Where absolute names begin, from the root of the namespace.
    pub root: PathBuf,
    /// Where relative names begin.
    pub dir: Option<PathBuf>,
}

/// The root directory for the while.
const ROOT: &str = "/sockets";

/// Puts a mount, on which nothing is mounted yet, below our root directory, until it is put where it belongs.
pub(super) fn place(mount: &OwnedFd, mountpoint: &Path) -> Result<(), SysError> {
    let place = Path::new(ROOT).join(mountpoint.strip_prefix("/").unwrap_or(mountpoint));
    std::fs::create_dir_all(&place).map_err(SysError::io("mkdir"))?;
    sys::attach(mount.as_fd(), open_path(&place)?.as_fd())
}

/// Makes and binds a socket whose file is on the mount that was put there last.
pub(super) fn bind(wanted: &WantedSocket) -> Result<OwnedFd, Problem> {
    let path = wanted.name.split(|byte| *byte == 0).next().unwrap_or_default();
    let path = Path::new(OsStr::from_bytes(path));
    let yard = open_path("/")?;
    let made = chroot(ROOT).map_err(SysError::of("chroot")).map_err(Problem::new).and_then(|()| {
        chroot(&Path::new("/").join(&wanted.root)).map_err(SysError::of("chroot"))?;
        chdir(wanted.dir.as_deref().unwrap_or(Path::new("/"))).map_err(SysError::of("chdir"))?;
        remove_old(path)?;
        let socket = socket::create(libc::AF_UNIX, wanted.kind, 0)?;
        let address = [&(libc::AF_UNIX as u16).to_ne_bytes()[..], &wanted.name].concat();
        socket::bind(socket.as_fd(), &address)?;
        Ok(socket)
    });
    fchdir(&yard).map_err(SysError::of("fchdir"))?;
    chroot(".").map_err(SysError::of("chroot"))?;
    made.about(|| Object::Path(path.into())).while_trying_to("bind a unix socket to its name")
}

/// Removes the file of the socket that was; what is no socket stays, and has the name.
fn remove_old(path: &Path) -> Result<(), SysError> {
    match nix::sys::stat::lstat(path) {
        Ok(stat) if stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFSOCK.bits() => {
            nix::unistd::unlink(path).map_err(SysError::of("unlink"))
        }
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(SysError { call: "lstat", errno }),
    }
}
