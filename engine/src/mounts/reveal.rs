//! Contents of file systems, read through mounts of a namespace, also those that others cover.
//!
//! A process of ours enters the namespace. What it sees there it reads through a clone of the mount, on which nothing is
//! mounted. For what is covered it makes a copy of the namespace, which nobody else has, and takes one mount after the other
//! off, from above, until the ones it wants are seen.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sched::{CloneFlags, setns};
use nix::unistd::{chroot, fchdir};
use prost::Message;
use proto::messages::BinfmtMiscEntry;

use super::archive::{Archive, Opens};
use super::below;
use super::binfmt;
use super::envoy::{self, Namespaces};
use super::home::Covered;
use super::model::{Mount, Namespace};
use super::read::{self, Proc};
use super::refusal::MountRefusal;
use super::yard::{enter_copy, open_path};
use crate::error::{Context as _, Problem, SysError};
use crate::sys::mount::{self as sys, Depth};

/// The name that the removed root of a mount has in its archive, and nobody else.
pub(super) fn removed_name(mount: &Mount) -> String {
    format!(".stasis-removed-{}", mount.id)
}

/// An archive to be written.
#[derive(Debug)]
pub(super) struct Job<'a> {
    /// Its file.
    pub(super) file: File,
    /// What goes into it.
    pub(super) what: Contents<'a>,
}

/// What goes into an archive.
#[derive(Debug)]
pub(super) enum Contents<'a> {
    /// A file system, or those parts of it that there are mounts of.
    FileSystem(Vec<&'a Mount>),
    /// The folders of an autofs.
    Folders(Vec<&'a Mount>),
    /// The file, or the empty folder, that is the root of a mount and was removed.
    Removed(&'a Mount),
}

/// Writes archives of what is mounted in the namespace of a process.
pub(super) fn write((root, pid): (i32, i32), namespace: &Namespace, jobs: &[Job<'_>]) -> Result<(), Problem> {
    let namespaces = Namespaces::of(root, pid)?;
    envoy::fork(|| {
        let proc = Proc::open()?;
        namespaces.enter()?;
        write_inside(&proc, namespace, jobs).map(|()| Vec::new())
    })
    .map(drop)
    .while_trying_to("keep the contents of its file systems")
}

/// The interpreters of a binfmt_misc in the namespace of a process.
pub(super) fn interpreters((root, pid): (i32, i32), mount: &Mount) -> Result<Vec<BinfmtMiscEntry>, Problem> {
    let namespaces = Namespaces::of(root, pid)?;
    let bytes = envoy::fork(|| {
        namespaces.enter()?;
        let path = Path::new(&mount.mountpoint);
        visible(mount.id, path).ok_or_else(|| covered(mount))?;
        Ok(binfmt::read(path)?.iter().flat_map(Message::encode_length_delimited_to_vec).collect())
    });
    let bytes = bytes.about(|| mount.object()).while_trying_to("read its interpreters")?;
    let (mut rest, mut entries) = (bytes.as_slice(), Vec::new());
    while !rest.is_empty() {
        let entry = BinfmtMiscEntry::decode_length_delimited(&mut rest);
        // Our own process wrote it; without an end it was killed, which is told elsewhere.
        let Ok(entry) = entry else { break };
        entries.push(entry);
    }
    Ok(entries)
}

fn write_inside(proc: &Proc, namespace: &Namespace, jobs: &[Job<'_>]) -> Result<(), Problem> {
    // Removed files have to be in sight: they are read before anything is taken off.
    for job in jobs {
        if let Contents::Removed(mount) = job.what {
            let path = Path::new(&mount.mountpoint);
            visible(mount.id, path).ok_or_else(|| covered(mount))?;
            let mut archive = Archive::new(&job.file);
            archive.add_alone(path, &removed_name(mount)).about(|| mount.object())?;
            archive.finish()?;
        }
    }
    let wanted = jobs.iter().flat_map(|job| match &job.what {
        Contents::FileSystem(mounts) | Contents::Folders(mounts) => mounts.as_slice(),
        Contents::Removed(_) => &[],
    });
    let wanted: Vec<&Mount> = wanted.copied().collect();
    let mut roots = BTreeMap::new();
    for mount in &wanted {
        if let Some(root) = visible(mount.id, Path::new(&mount.mountpoint)) {
            roots.insert(mount.id, uncovered(root)?);
        }
    }
    let hidden: Vec<&Mount> = wanted.into_iter().filter(|mount| !roots.contains_key(&mount.id)).collect();
    if !hidden.is_empty() {
        // Without peers: what is taken off in one would be taken off in the namespace, too.
        enter_copy(MsFlags::MS_PRIVATE)?;
        let copy = Namespace { id: 0, mounts: read::mounts(&proc.mountinfo()?)? };
        let mut originals = originals(namespace, &copy);
        originals.retain(|_, original| hidden.iter().any(|mount| mount.id == *original));
        take_off(&copy, &originals, &mut roots)?;
    }
    for job in jobs {
        let (mounts, opens) = match &job.what {
            Contents::FileSystem(mounts) => (mounts, Opens::All),
            Contents::Folders(mounts) => (mounts, Opens::Inner),
            Contents::Removed(_) => continue,
        };
        let mut archive = Archive::new(&job.file);
        for mount in mounts {
            let root = roots.get(&mount.id).ok_or_else(|| covered(mount))?;
            let name = Path::new(&mount.root).strip_prefix("/").unwrap_or(Path::new(""));
            archive.add(root, name, opens).about(|| mount.object())?;
        }
        archive.finish()?;
    }
    Ok(())
}

fn covered(mount: &Mount) -> Problem {
    Problem::new(MountRefusal::Covered).object(mount.object())
}

/// What a path leads to, if it is the root of this mount.
fn visible(id: u32, path: &Path) -> Option<OwnedFd> {
    let found = open_path(path).ok()?;
    (sys::mount_id(found.as_fd()).ok()? == u64::from(id)).then_some(found)
}

/// The root of a mount without what is mounted below it.
fn uncovered(root: OwnedFd) -> Result<OwnedFd, SysError> {
    match sys::clone_at(&root, Path::new(""), Depth::One) {
        // Unbindable; or something below it may not be taken off, since a more privileged user put it there.
        Err(SysError { errno: Errno::EINVAL, .. }) => Ok(root),
        cloned => cloned,
    }
}

/// Clones of mounts that others cover in the namespace that we are in; none for those that are not there. Whoever receives events
/// from them is a slave of theirs.
pub(super) fn at_home(covered: &[&Covered]) -> Result<Vec<Option<OwnedFd>>, Problem> {
    if covered.is_empty() {
        return Ok(Vec::new());
    }
    let proc = Proc::open()?;
    let (home, dirs) = (proc.namespace()?, [open_path("/")?, open_path(".")?]);
    enter_copy(MsFlags::MS_SLAVE)?;
    let copy = Namespace { id: 0, mounts: read::mounts(&proc.mountinfo()?)? };
    let id = |covered: &Covered| {
        let same =
            copy.mounts.iter().rev().filter(|mount| Path::new(&mount.mountpoint) == covered.mountpoint);
        same.map(|mount| mount.id).nth(covered.younger)
    };
    let ids: Vec<Option<u32>> = covered.iter().map(|covered| id(covered)).collect();
    let hidden = ids.iter().flatten().map(|id| (*id, *id)).collect();
    let mut roots = BTreeMap::new();
    take_off(&copy, &hidden, &mut roots)?;
    setns(&home, CloneFlags::CLONE_NEWNS).map_err(SysError::of("setns"))?;
    let [root, dir] = dirs;
    fchdir(&root).map_err(SysError::of("fchdir"))?;
    chroot(".").map_err(SysError::of("chroot"))?;
    fchdir(&dir).map_err(SysError::of("fchdir"))?;
    let part = |covered: &Covered, root: &OwnedFd| {
        if covered.below.as_os_str().is_empty() {
            return root.try_clone().map_err(SysError::io("dup"));
        }
        let found = below::open(root, &covered.below, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        sys::clone_at(&found, Path::new(""), Depth::One)
    };
    let root = |id: Option<u32>| id.and_then(|id| roots.get(&id));
    let parts =
        covered.iter().zip(ids).map(|(covered, id)| root(id).map(|root| part(covered, root)).transpose());
    Ok(parts.collect::<Result<_, _>>()?)
}

/// Takes mounts off the namespace that we are in, until these can be seen: those with the ids that are keys. They are put
/// under the ids that are values.
fn take_off(
    copy: &Namespace,
    hidden: &BTreeMap<u32, u32>,
    roots: &mut BTreeMap<u32, OwnedFd>,
) -> Result<(), Problem> {
    let mut left: Vec<&Mount> = copy.mounts.iter().collect();
    loop {
        let before = left.len();
        for mount in left.clone().into_iter().rev() {
            let has_children = left.iter().any(|other| other.parent == mount.id && other.id != mount.id);
            let Some(root) = visible(mount.id, Path::new(&mount.mountpoint)).filter(|_| !has_children) else {
                continue;
            };
            if let Some(name) = hidden.get(&mount.id) {
                roots.insert(*name, uncovered(root)?);
            }
            if hidden.values().all(|name| roots.contains_key(name)) {
                return Ok(());
            }
            let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
            if umount2(mount.mountpoint.as_str(), flags).is_ok() {
                left.retain(|other| other.id != mount.id);
            }
        }
        if left.len() == before {
            return Ok(());
        }
    }
}

/// The ids that mounts of a copy have in the original.
fn originals(namespace: &Namespace, copy: &Namespace) -> BTreeMap<u32, u32> {
    let mut found = BTreeMap::new();
    let mut next: Vec<(&Mount, &Mount)> = copy.root().zip(namespace.root()).into_iter().collect();
    while let Some((copied, original)) = next.pop() {
        found.insert(copied.id, original.id);
        for child in copy.children(copied) {
            let is_same = |other: &&Mount| {
                (&other.mountpoint, other.dev, &other.root) == (&child.mountpoint, child.dev, &child.root)
            };
            next.extend(namespace.children(original).find(is_same).map(|other| (child, other)));
        }
    }
    found
}
