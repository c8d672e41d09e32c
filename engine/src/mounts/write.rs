//! The images of mount namespaces: a table for each, and archives of what only they have.

use std::collections::BTreeSet;

use proto::catalogue::{BINFMT_MISC, MNTS, TMPFS_DEV, TMPFS_IMG};
use proto::messages::MntEntry;

use super::autofs;
use super::binfmt;
use super::fs_types;
use super::model::{Mount, Namespace};
use super::reveal::{self, Contents, Job};
use crate::error::Problem;
use crate::image::NewImages;
use crate::options::MountOptions;

/// A namespace, and a process that is in it.
#[derive(Debug)]
pub struct Member<'a> {
    /// Its mounts.
    pub namespace: &'a Namespace,
    /// The process, in our pid namespace.
    pub pid: i32,
    /// The root of the tree.
    pub root: i32,
}

/// Writes all of them.
pub fn write(members: &[Member<'_>], options: &MountOptions, images: &mut NewImages) -> Result<(), Problem> {
    for member in members {
        let mounts = &member.namespace.mounts;
        let entries: Vec<MntEntry> = mounts.iter().map(|mount| entry(members, mount)).collect();
        images.write(&MNTS, member.namespace.id.into(), &entries)?;
    }
    write_interpreters(members, images)?;
    let all = || members.iter().flat_map(|member| &member.namespace.mounts);
    let from_outside: BTreeSet<u32> =
        all().filter(|mount| mount.external.is_some()).map(|mount| mount.dev).collect();
    let is_kept = |mount: &&Mount| {
        fs_types::has_archive(&mount.fstype, &options.enabled) && !from_outside.contains(&mount.dev)
    };
    let mut missing: BTreeSet<u32> = all().filter(is_kept).map(|mount| mount.dev).collect();
    // First those that can be seen as a whole somewhere, then what there is of the others. Parts of a devtmpfs are bound device
    // nodes, as container engines give them to user namespaces: the machine has them.
    for whole in [true, false] {
        missing.retain(|dev| whole || !all().any(|mount| mount.dev == *dev && mount.fstype == "devtmpfs"));
        for member in members {
            let mut jobs = Vec::new();
            for mount in &member.namespace.mounts {
                if (!whole || (mount.root == "/" && !mount.removed)) && missing.remove(&mount.dev) {
                    let file = images.create_file(&TMPFS_DEV.file_name(mount.dev.into()))?;
                    let mounts = widest(member.namespace, mount.dev);
                    let is_waited_for = mount.fstype == autofs::TYPE;
                    let what =
                        if is_waited_for { Contents::Folders(mounts) } else { Contents::FileSystem(mounts) };
                    jobs.push(Job { file, what });
                }
                if whole && mount.removed {
                    let file = images.create_file(&TMPFS_IMG.file_name(mount.id.into()))?;
                    jobs.push(Job { file, what: Contents::Removed(mount) });
                }
            }
            if !jobs.is_empty() {
                reveal::write((member.root, member.pid), member.namespace, &jobs)?;
            }
        }
    }
    Ok(())
}

/// Interpreters of the first binfmt_misc that can be read: there is one for each user namespace.
fn write_interpreters(members: &[Member<'_>], images: &mut NewImages) -> Result<(), Problem> {
    for member in members {
        let is_wanted =
            |mount: &&Mount| mount.fstype == binfmt::TYPE && mount.root == "/" && mount.external.is_none();
        let Some(mount) = member.namespace.mounts.iter().find(is_wanted) else { continue };
        let entries = reveal::interpreters((member.root, member.pid), mount)?;
        return images.write(&BINFMT_MISC, 0, &entries);
    }
    Ok(())
}

/// What images have of a mount, with what only a look at all of them tells.
fn entry(members: &[Member<'_>], mount: &Mount) -> MntEntry {
    let mut all = members.iter().flat_map(|member| &member.namespace.mounts);
    let is_inner = mount.shared.is_some_and(|group| {
        all.any(|other| other.id != mount.id && (other.shared == Some(group) || other.master == Some(group)))
    });
    MntEntry { internal_sharing: is_inner.then_some(true), ..mount.to_entry() }
}

/// Mounts that have all of a file system that the namespace has, none of which has a part of another.
fn widest(namespace: &Namespace, dev: u32) -> Vec<&Mount> {
    let mut found: Vec<&Mount> = Vec::new();
    let mut candidates: Vec<&Mount> =
        namespace.mounts.iter().filter(|mount| mount.dev == dev && !mount.removed).collect();
    candidates.sort_by_key(|mount| mount.root.len());
    for mount in candidates {
        if found.iter().all(|wider| mount.root_below(&wider.root).is_none()) {
            found.push(mount);
        }
    }
    found
}
