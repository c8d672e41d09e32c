//! Files that are known by their mount, since the name alone leads elsewhere: something is mounted over them, or they are in
//! another mount namespace of the tree.
//!
//! A dump keeps the mount's id beside the name. When the namespaces are built again, such files are opened on their mounts
//! before anything is mounted on those (`mounts/build.rs`), and handed to whoever restores descriptors.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use proto::messages::RegFileEntry;

use super::name::{self, NameRefusal, Seen};
use super::{FilesDump, FilesRestore};
use crate::dump::inspect::read_proc;
use crate::error::{Problem, SysError};
use crate::procfs::link::{self, Link, NamespaceType};
use crate::procfs::mountinfo;
use crate::sys::mount;

/// Ids of the mounts that a process sees, by its name in `/proc`, once they were read.
#[derive(Debug, Default)]
struct Mounts(BTreeMap<String, BTreeSet<i32>>);

/// Us, who are in the namespace of the root.
const OURS: &str = "self";

/// The mount that a file is on, if that is in another namespace of the tree than the root's; and 0 otherwise.
pub(super) fn foreign(cx: &mut FilesDump<'_>, seen: &Seen<'_>) -> Result<i32, Problem> {
    if !cx.options.inside.has(NamespaceType::Mnt) {
        return Ok(0);
    }
    let mount = mount_of(seen)?;
    let pid = seen.reach.split('/').nth(2).unwrap_or(OURS);
    Ok(if !is_seen_by(cx, OURS, mount)? && is_seen_by(cx, pid, mount)? { mount } else { 0 })
}

/// Name and mount of a file whose name does not lead to it.
pub(super) fn find(cx: &mut FilesDump<'_>, seen: &Seen<'_>) -> Result<Option<(String, i32)>, Problem> {
    if !cx.options.inside.has(NamespaceType::Mnt) {
        return Ok(None);
    }
    let mount = foreign(cx, seen)?;
    if mount != 0 {
        let Link::Path(path) = link::parse(seen.link) else {
            return Err(Problem::new(NameRefusal::RemovedElsewhere));
        };
        let name = std::str::from_utf8(path).map_err(|_not_utf8| Problem::new(NameRefusal::NotUtf8))?;
        return Ok(Some((name.to_owned(), mount)));
    }
    let Some(name) = name::under_cover(seen)? else { return Ok(None) };
    let mount = mount_of(seen)?;
    // A mount that is in no namespace any more does not come back.
    Ok(is_seen_by(cx, OURS, mount)?.then_some((name, mount)))
}

/// The mount that the file of a socket of a task is on, if we or the task see it.
pub(super) fn of_socket(
    cx: &mut FilesDump<'_>,
    pid: i32,
    file: BorrowedFd<'_>,
) -> Result<Option<u32>, Problem> {
    if !cx.options.inside.has(NamespaceType::Mnt) {
        return Ok(None);
    }
    let mount = mount::mount_id(file)? as i32;
    let is_seen = is_seen_by(cx, OURS, mount)? || is_seen_by(cx, &pid.to_string(), mount)?;
    Ok(is_seen.then_some(mount as u32))
}

/// Our descriptor of a socket that was bound to its name when its mount was bare.
pub(super) fn bound_socket(cx: &FilesRestore<'_>, id: u32) -> Option<i32> {
    cx.options.inside.covered.iter().find(|(known, _)| *known == id).map(|(_, fd)| *fd)
}

fn mount_of(seen: &Seen<'_>) -> Result<i32, Problem> {
    let file = open(seen.reach.as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    let file = file.map_err(SysError::of("open"))?;
    Ok(mount::mount_id(file.as_fd())? as i32)
}

fn is_seen_by(cx: &mut FilesDump<'_>, pid: &str, mount: i32) -> Result<bool, Problem> {
    let known = &mut cx.state::<Mounts>().0;
    if let Some(ids) = known.get(pid) {
        return Ok(ids.contains(&mount));
    }
    let mounts = read_proc(format!("/proc/{pid}/mountinfo"), mountinfo::parse)?;
    let ids = known.entry(pid.to_owned()).or_default();
    ids.extend(mounts.iter().map(|mount| mount.id));
    Ok(ids.contains(&mount))
}

/// A path that leads to such a file now.
pub(super) fn path(cx: &FilesRestore<'_>, image: &RegFileEntry) -> Option<PathBuf> {
    let (_, fd) = cx.options.inside.covered.iter().find(|(id, _)| *id == image.id)?;
    Some(PathBuf::from(format!("/proc/self/fd/{fd}")))
}

/// Whether an image has a file that must be found by its mount.
pub(super) fn is_wanted(cx: &FilesRestore<'_>, image: &RegFileEntry) -> bool {
    image.mnt_id() > 0 && cx.options.inside.has(NamespaceType::Mnt)
}
