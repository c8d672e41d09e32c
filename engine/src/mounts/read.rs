//! What a mount namespace is made of, as one sees it who has its root as root.
//!
//! A process that was moved into a smaller root (chroot(2)) sees a part of it only, so no member is asked: a process of ours
//! enters the namespace, and with that its root, and reads its own mountinfo through a `/proc` that it brought along.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sys::stat::Mode;

use super::envoy::{self, Namespaces};
use super::model::{Mount, Namespace};
use super::refusal::MountRefusal;
use crate::error::{Context as _, Object, Problem, SysError};
use crate::procfs::mountinfo;

/// Reads the mount namespace of a process of the tree with this root; it gets this number in images.
pub fn namespace(root: i32, pid: i32, id: u32) -> Result<Namespace, Problem> {
    let step = "read the mounts of its namespace";
    let namespaces = Namespaces::of(root, pid)?;
    let text = envoy::fork(|| mountinfo_inside(&namespaces)).while_trying_to(step)?;
    let mounts = mounts(&text).while_trying_to(step)?;
    Ok(Namespace { id, mounts })
}

/// Reads mountinfo.
pub(super) fn mounts(text: &[u8]) -> Result<Vec<Mount>, Problem> {
    let lines = mountinfo::parse(text)?;
    let mounts = lines.iter().map(|line| {
        let object =
            || Object::Named { kind: "mount", name: String::from_utf8_lossy(&line.mountpoint).into_owned() };
        Mount::from_line(line).map_err(|_not_utf8| Problem::new(MountRefusal::NotUtf8)).about(object)
    });
    mounts.collect()
}

/// `/proc`, brought along into namespaces that may have none, or one that does not know us.
#[derive(Debug)]
pub(super) struct Proc(OwnedFd);

impl Proc {
    /// Ours.
    pub(super) fn open() -> Result<Self, SysError> {
        let proc = open("/proc", OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
        proc.map(Self).map_err(SysError::of("open(/proc)"))
    }

    /// The mounts that we see now.
    pub(super) fn mountinfo(&self) -> Result<Vec<u8>, SysError> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let file = openat(&self.0, "self/mountinfo", flags, Mode::empty());
        let mut text = Vec::new();
        let mut file = File::from(file.map_err(SysError::of("open(mountinfo)"))?);
        file.read_to_end(&mut text).map_err(SysError::io("read(mountinfo)"))?;
        Ok(text)
    }

    /// The mount namespace that we are in now.
    pub(super) fn namespace(&self) -> Result<OwnedFd, SysError> {
        self.namespace_of("self")
    }

    /// The mount namespace that somebody is in, by the name there.
    pub(super) fn namespace_of(&self, name: &str) -> Result<OwnedFd, SysError> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let path = format!("{name}/ns/mnt");
        openat(&self.0, path.as_str(), flags, Mode::empty()).map_err(SysError::of("open(ns/mnt)"))
    }

    /// Our name there.
    pub(super) fn own_name(&self) -> Result<Vec<u8>, SysError> {
        let name = readlinkat(&self.0, "self").map_err(SysError::of("readlink(/proc/self)"))?;
        Ok(name.into_encoded_bytes())
    }
}

fn mountinfo_inside(namespaces: &Namespaces) -> Result<Vec<u8>, Problem> {
    let proc = Proc::open()?;
    namespaces.enter()?;
    Ok(proc.mountinfo()?)
}
