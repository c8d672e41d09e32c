//! Autofs: file systems whose folders a daemon mounts when they are used (`Documentation/filesystems/autofs.rst`).
//!
//! The kernel asks the daemon through a pipe, of which it holds the end to write to; `pipe_ino` in the options tells which. The
//! processes of the daemon's group may make folders, and are not kept waiting; everybody else waits for the daemon. So a file system
//! is made by a process of ours with a group of its own, which fills it, and makes it *catatonic*: nobody is asked, and nobody waits.
//! It gets its pipe and its group when the tree has everything else (`restore/autofs.rs`).

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, setpgid};

use super::envoy;
use super::extract::{Place, extract};
use super::model::Namespace;
use super::plan::FileSystem;
use crate::error::{Context as _, Problem, SysError};
use crate::sys::autofs as sys;
use crate::sys::mount::NewFileSystem;

/// The type of these file systems.
pub(super) const TYPE: &str = "autofs";
/// What makes the id of a mount one for a descriptor of its root, by which it is controlled.
pub const CONTROL: u32 = 1 << 29;

/// What the kernel shows of a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Daemon {
    /// A mount of the file system.
    pub mount: u32,
    /// The inode number of its pipe.
    pub pipe: u64,
    /// The number that the pipe's end had in the daemon.
    pub fd: i32,
    /// Its process group, in the numbers of whoever read it.
    pub group: i32,
}

/// The value of an option.
fn value<T: std::str::FromStr>(options: &str, key: &str) -> Option<T> {
    let found = options.split(',').find_map(|option| option.strip_prefix(key)?.strip_prefix('='));
    found?.parse().ok()
}

/// Daemons of the file systems of some namespaces that have one; those that come from outside are somebody else's.
pub fn daemons(namespaces: &[Namespace]) -> Vec<Daemon> {
    let mounts = namespaces.iter().flat_map(|namespace| &namespace.mounts);
    let own = mounts.filter(|mount| mount.fstype == TYPE && mount.external.is_none());
    let daemon = |options: &str, mount| {
        Some(Daemon {
            mount,
            pipe: value(options, "pipe_ino").filter(|pipe| *pipe != 0)?,
            fd: value(options, "fd")?,
            group: value(options, "pgrp")?,
        })
    };
    own.filter_map(|mount| daemon(&mount.options, mount.id)).collect()
}

/// Whether a mount asks its daemon for itself, not for what is in it.
pub(super) fn is_direct(options: &str) -> bool {
    options.split(',').any(|option| ["direct", "offset"].contains(&option))
}

/// Options that are not for those who mount one: what else becomes of them is said above.
const LATER: [&str; 4] = ["fd", "pgrp", "timeout", "pipe_ino"];

/// Makes one, and mounts it nowhere. With it comes the descriptor by which it is controlled.
pub(super) fn make(file_system: &FileSystem, contents: Option<&File>) -> Result<[OwnedFd; 2], Problem> {
    let step = "make a file system of type autofs";
    let made = envoy::fork_for_files(|| {
        setpgid(Pid::from_raw(0), Pid::from_raw(0)).map_err(SysError::of("setpgid"))?;
        let (_reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(SysError::of("pipe2"))?;
        let text = |text: &str| CString::new(text).unwrap_or_default();
        let new = NewFileSystem::open(c"autofs")?;
        new.set(c"source", &text(&file_system.source))?;
        new.set(c"fd", &text(&writer.as_raw_fd().to_string()))?;
        let key = |option: &str| option.split('=').next().unwrap_or_default().to_owned();
        let options = file_system.options.split(',').filter(|option| !option.is_empty());
        for option in options.filter(|option| !LATER.contains(&&*key(option))) {
            match option.split_once('=') {
                Some((key, value)) => new.set(&text(key), &text(value))?,
                None => new.set_flag(&text(option))?,
            }
        }
        new.create()?;
        let mount = new.mount()?;
        if let Some(contents) = contents {
            extract(contents, &mount, Place::Empty)?;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = openat(&mount, ".", flags, Mode::empty()).map_err(SysError::of("open"))?;
        if let Some(seconds) = value(&file_system.options, "timeout") {
            sys::set_timeout(root.as_fd(), seconds)?;
        }
        sys::make_catatonic(root.as_fd())?;
        Ok([vec![(0, mount)], vec![(0, root)]])
    });
    let [mut mount, mut root] = made.while_trying_to(step)?;
    let missing = || Problem::new(SysError { call: "fsmount", errno: nix::errno::Errno::ENOENT });
    match (mount.pop(), root.pop()) {
        (Some((_, mount)), Some((_, root))) => Ok([mount, root]),
        _ => Err(missing()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_tell_of_daemons() {
        let options = "fd=7,pgrp=12,timeout=300,minproto=5,maxproto=5,indirect,pipe_ino=4711";
        assert_eq!((value(options, "fd"), value(options, "pgrp")), (Some(7), Some(12)));
        assert_eq!(value::<u64>(options, "pipe_ino"), Some(4711));
        assert_eq!(value::<u64>("fd=-1,pipe_ino=-1", "pipe_ino"), None);
        assert!(!is_direct(options) && is_direct("minproto=5,offset"));
    }
}
