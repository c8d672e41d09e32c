//! Files that are known by their mount, since the name alone leads elsewhere: something is mounted over them, or they are in
//! another mount namespace of the tree.
//!
//! A dump keeps the mount's id beside the name. When the namespaces are built again, such files are opened on their mounts
//! before anything is mounted on those (`mounts/build.rs`), and handed to whoever restores descriptors. Of a removed file it is
//! the folder; of a file of a procfs, the root of that, since tasks are not there yet.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use proto::messages::RegFileEntry;

use super::name::{self, NameRefusal, Seen};
use super::{FilesDump, FilesRestore, remap};
use crate::dump::inspect::read_proc;
use crate::error::{Problem, SysError};
use crate::mount_spaces::MountSpaces;
use crate::mounts::{procfs, read};
use crate::procfs::link::{self, Link, NamespaceType};
use crate::procfs::mountinfo;
use crate::sys::mount;

/// Ids of the mounts of each mount namespace of the tree, by its id in the images, once they were read; and of those that we
/// see, who are in that of the root.
#[derive(Debug, Default)]
struct Mounts {
    ours: Option<BTreeSet<i32>>,
    others: BTreeMap<u32, BTreeSet<i32>>,
}

/// Whether files of the tree can be on mounts that are made again.
fn may_be(cx: &mut FilesDump<'_>) -> bool {
    cx.options.inside.has(NamespaceType::Mnt) || !cx.state::<MountSpaces>().all().is_empty()
}

/// The mount that a file is on, if that is in another namespace of the tree than the root's; and 0 otherwise.
pub(super) fn foreign(cx: &mut FilesDump<'_>, seen: &Seen<'_>) -> Result<i32, Problem> {
    if cx.state::<MountSpaces>().beside_root().next().is_none() {
        return Ok(0);
    }
    let mount = mount_of(seen)?;
    Ok(if !is_ours(cx, mount)? && is_in_others(cx, mount)? { mount } else { 0 })
}

/// Name and mount of file `id`, whose name does not lead to it; that it was removed is noted.
pub(super) fn find(
    cx: &mut FilesDump<'_>,
    id: u32,
    seen: &Seen<'_>,
) -> Result<Option<(String, i32)>, Problem> {
    if !may_be(cx) {
        return Ok(None);
    }
    let mount = foreign(cx, seen)?;
    if mount != 0 {
        let text = |path: &[u8]| {
            let text = std::str::from_utf8(path).map_err(|_not_utf8| Problem::new(NameRefusal::NotUtf8));
            text.map(str::to_owned)
        };
        let name = match link::parse(seen.link) {
            Link::Path(path) => text(path)?,
            Link::Deleted(path) if is_of_procfs(seen) => {
                return Err(Problem::new(NameRefusal::Ended { name: path.to_vec() }));
            }
            Link::Deleted(path) if seen.stat.st_nlink == 0 || seen.file_type() == libc::S_IFDIR => {
                remap::note_removed(cx, id, seen)?;
                text(path)?
            }
            Link::Deleted(path) => {
                let (name, root) = (text(path)?, root_of(seen)?);
                remap::note_linked(cx, id, Path::new(&name), seen, Some(remap::Elsewhere { root, mount }))?;
                name
            }
            _ => return Err(Problem::new(NameRefusal::Unreachable)),
        };
        return Ok(Some((name, mount)));
    }
    if !cx.options.inside.has(NamespaceType::Mnt) {
        // What is at home is there as it was.
        return Ok(None);
    }
    let Some(name) = name::under_cover(seen)? else { return Ok(None) };
    let mount = mount_of(seen)?;
    // A mount that is in no namespace any more does not come back.
    Ok(is_ours(cx, mount)?.then_some((name, mount)))
}

/// The mount that the file of a socket of a task is on, if that is made again.
pub(super) fn of_socket(cx: &mut FilesDump<'_>, file: BorrowedFd<'_>) -> Result<Option<u32>, Problem> {
    if !may_be(cx) {
        return Ok(None);
    }
    let mount = mount::mount_id(file)? as i32;
    let is_made =
        is_in_others(cx, mount)? || (cx.options.inside.has(NamespaceType::Mnt) && is_ours(cx, mount)?);
    Ok(is_made.then_some(mount as u32))
}

/// Our descriptor of a socket that was bound to its name when its mount was bare.
pub(super) fn bound_socket(cx: &FilesRestore<'_>, id: u32) -> Option<i32> {
    covered(cx, id)
}

fn mount_of(seen: &Seen<'_>) -> Result<i32, Problem> {
    let file = open(seen.reach.as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    let file = file.map_err(SysError::of("open"))?;
    Ok(mount::mount_id(file.as_fd())? as i32)
}

/// Whether a mount is in the namespace that we, and the root, are in.
fn is_ours(cx: &mut FilesDump<'_>, mount: i32) -> Result<bool, Problem> {
    let known = &mut cx.state::<Mounts>().ours;
    if known.is_none() {
        let mounts = read_proc("/proc/self/mountinfo".into(), mountinfo::parse)?;
        *known = Some(mounts.iter().map(|mount| mount.id).collect());
    }
    Ok(known.as_ref().is_some_and(|ids| ids.contains(&mount)))
}

/// Whether a mount is in another mount namespace of the tree.
fn is_in_others(cx: &mut FilesDump<'_>, mount: i32) -> Result<bool, Problem> {
    let others: Vec<(u32, i32)> =
        cx.state::<MountSpaces>().beside_root().map(|space| (space.id, space.pid)).collect();
    let root = cx.options.tree;
    let known = &mut cx.state::<Mounts>().others;
    for (id, pid) in others {
        if let btree_map::Entry::Vacant(new) = known.entry(id) {
            // A task with a root of its own sees a part of them only.
            let mounts = read::namespace(root, pid, id)?.mounts;
            new.insert(mounts.iter().map(|mount| mount.id.cast_signed()).collect());
        }
    }
    Ok(known.values().any(|ids| ids.contains(&mount)))
}

/// A path to the root of the mount namespace of a file's user, who must have that for a root directory.
fn root_of(seen: &Seen<'_>) -> Result<PathBuf, Problem> {
    let pid = seen.reach.split('/').nth(2).unwrap_or_default();
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    let link = nix::fcntl::readlink(&root).map_err(SysError::of("readlink"))?;
    if link == "/" { Ok(root) } else { Err(Problem::new(NameRefusal::LinkedElsewhere)) }
}

fn is_of_procfs(seen: &Seen<'_>) -> bool {
    nix::sys::statfs::statfs(seen.reach.as_str())
        .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::PROC_SUPER_MAGIC)
}

/// Roots of procfs that were mounted when the tree had been born, by the ids that their mounts had.
#[derive(Debug, Default)]
struct Late(Vec<(u32, OwnedFd)>);

/// Takes note of procfs that were mounted when the tree had been born.
pub fn note_late(cx: &mut FilesRestore<'_>, roots: Vec<(u32, OwnedFd)>) {
    cx.state::<Late>().0.extend(roots);
}

/// A path that leads to such a file now.
pub(super) fn path(cx: &FilesRestore<'_>, image: &RegFileEntry) -> Option<PathBuf> {
    if let Some(fd) = covered(cx, image.id) {
        return Some(path_of(fd));
    }
    // A file of a process is there when that is.
    let mount = u32::try_from(image.mnt_id?).ok()?;
    let late = cx.peek::<Late>().and_then(|late| late.0.iter().find(|(id, _)| *id == mount));
    let root = late.map(|(_, fd)| fd.as_raw_fd()).or_else(|| covered(cx, mount | procfs::ROOT))?;
    below(root, &image.name)
}

/// The folder in which a removed file gets its name for a moment, if that is on a mount that was made; it may be that parts of
/// its path have to be made first.
pub(super) fn folder(cx: &FilesRestore<'_>, image: &RegFileEntry) -> Option<PathBuf> {
    let folder = Path::new(&image.name).parent()?.to_str()?;
    below(covered(cx, image.id)?, folder)
}

/// A path below a folder that we have open, which begins as the folder's own does where it is mounted.
fn below(folder: i32, path: &str) -> Option<PathBuf> {
    let name = nix::fcntl::readlink(&path_of(folder)).ok()?;
    Some(path_of(folder).join(Path::new(path).strip_prefix(Path::new(&name)).ok()?))
}

fn path_of(fd: i32) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{fd}"))
}

fn covered(cx: &FilesRestore<'_>, id: u32) -> Option<i32> {
    cx.options.inside.covered.iter().find(|(known, _)| *known == id).map(|(_, fd)| *fd)
}

/// Whether a file is one of a procfs, where nothing can be said of it before the tree is born.
pub(super) fn is_of_tasks(cx: &FilesRestore<'_>, image: &RegFileEntry) -> bool {
    let mount = image.mnt_id.and_then(|id| u32::try_from(id).ok()).filter(|id| *id != 0);
    let is_known = |mark: u32| mount.is_some_and(|mount| covered(cx, mount | mark).is_some());
    is_known(procfs::PLACE) || is_known(procfs::ROOT)
}

/// Whether an image has a file that must be found by its mount.
pub(super) fn is_wanted(cx: &FilesRestore<'_>, image: &RegFileEntry) -> bool {
    let inside = &cx.options.inside;
    image.mnt_id() > 0 && (inside.has(NamespaceType::Mnt) || !inside.mounts.is_empty())
}
