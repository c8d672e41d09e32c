//! What is mounted outside of the tree, for all that the command sees: where external mounts are found.

use std::path::{Path, PathBuf};

use super::model::device;
use crate::error::Problem;
use crate::procfs::mountinfo;

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
    pub(super) fn has_group(&self, group: u32) -> bool {
        self.mounts.iter().any(|mount| mount.propagation.shared == Some(group as i32))
    }
}
