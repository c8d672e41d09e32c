//! What is mounted outside of the tree, for all that the command sees: where external mounts are found.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use super::home::Covered;
use super::model::{Mount, device};
use super::yard::open_path;
use crate::error::Problem;
use crate::procfs::mountinfo;
use crate::sys::mount as sys;

/// The mounts of the namespace that the command was called in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Surroundings {
    mounts: Vec<mountinfo::Mount>,
    /// Its root, wherever we are now.
    root: PathBuf,
}

impl Surroundings {
    /// Of the namespace that we are in.
    pub fn read() -> Result<Self, Problem> {
        let mounts = crate::dump::inspect::read_proc("/proc/self/mountinfo".into(), mountinfo::parse)?;
        Ok(Self { mounts, root: "/".into() })
    }

    /// The same, for when we are elsewhere; there its root is reached by this path.
    #[must_use]
    pub fn seen_from(self, root: PathBuf) -> Self {
        Self { root, ..self }
    }

    /// A path that leads to a folder of a file system, now.
    pub fn path_of(&self, dev: u32, root: &str) -> Option<String> {
        // The youngest first: older ones may be covered by it.
        self.mounts.iter().rev().filter(|mount| device(mount.dev) == dev).find_map(|mount| {
            let below = Path::new(root).strip_prefix(std::str::from_utf8(&mount.root).ok()?).ok()?;
            let place = Path::new(std::str::from_utf8(&mount.mountpoint).ok()?);
            let path = if below.as_os_str().is_empty() { place.to_owned() } else { place.join(below) };
            let reach = self.root.join(path.strip_prefix("/").ok()?);
            let found = nix::sys::stat::stat(&reach).ok()?;
            let numbers = (libc::major(found.st_dev), libc::minor(found.st_dev));
            (device(numbers) == dev).then(|| path.to_str().map(str::to_owned))?
        })
    }

    /// Whether anything of a file system is mounted there.
    pub(super) fn has_device(&self, dev: u32) -> bool {
        self.mounts.iter().any(|mount| device(mount.dev) == dev)
    }

    /// Whether a mount there is in this peer group.
    pub(super) fn has_group(&self, group: Option<u32>) -> bool {
        let group = group.map(u32::cast_signed);
        group.is_some() && self.mounts.iter().any(|mount| mount.propagation.shared == group)
    }

    /// Whether a mount there is in this peer group, or is told of its events.
    pub(super) fn has_events_of(&self, group: Option<u32>) -> bool {
        let own = group.map(u32::cast_signed);
        self.has_group(group)
            || (own.is_some() && self.mounts.iter().any(|mount| mount.propagation.master == own))
    }

    /// The type of what a mount there has.
    pub(super) fn type_of(&self, id: u64) -> Option<&[u8]> {
        let found = self.mounts.iter().find(|mount| u64::try_from(mount.id) == Ok(id));
        found.map(|mount| mount.fstype.as_slice())
    }

    /// Mounts there that have what a mount of the tree has, the youngest first, and where they have it, from their roots.
    pub(super) fn having(&self, mount: &Mount) -> impl Iterator<Item = (&mountinfo::Mount, PathBuf)> {
        let of_device = self.mounts.iter().rev().filter(|other| device(other.dev) == mount.dev);
        of_device.filter_map(|other| {
            let root = std::str::from_utf8(&other.root).ok()?;
            Some((other, mount.root_below(root)?))
        })
    }

    /// The path of something that a mount there has, if it leads to that.
    pub(super) fn visible(&self, mount: &mountinfo::Mount, below: &Path) -> Option<PathBuf> {
        let place = Path::new(std::str::from_utf8(&mount.mountpoint).ok()?);
        let path = if below.as_os_str().is_empty() { place.to_owned() } else { place.join(below) };
        let found = open_path(self.root.join(path.strip_prefix("/").ok()?)).ok()?;
        (sys::mount_id(found.as_fd()).ok()? == u64::try_from(mount.id).ok()?).then_some(path)
    }

    /// How something is found that a mount there has, which cannot be seen.
    pub(super) fn covered(&self, mount: &mountinfo::Mount, below: &Path) -> Option<Covered> {
        let same = self.mounts.iter().filter(|other| other.mountpoint == mount.mountpoint);
        let younger = same.skip_while(|other| other.id != mount.id).skip(1).count();
        let mountpoint = PathBuf::from(std::str::from_utf8(&mount.mountpoint).ok()?);
        Some(Covered { mountpoint, younger, below: below.to_owned() })
    }
}
