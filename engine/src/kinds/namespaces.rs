//! Namespaces of a tree: what is in each, and how it is made again.
//!
//! A dump works inside of them (`inside.rs`), so that a kind sees what the tasks see. A restore makes all of them with the
//! root of the tree, which then, while it is a copy of the engine still, has each kind fill its own (`restore/cradle.rs`).

pub mod cgroup;
pub mod erased;
pub mod ipc;
pub mod mnt;
pub mod net;
pub mod pid;
pub mod time;
pub mod user;
pub mod uts;

use std::cell::RefCell;
use std::os::fd::OwnedFd;

use proto::messages::TaskKobjIdsEntry;

use crate::error::Problem;
use crate::image::{Images, NewImages};
use crate::kinds::files::FilesDump;
use crate::made_files::MadeFiles;
use crate::mount_spaces::{MountSpace, MountSpaces};
use crate::net_spaces::{NetSpace, NetSpaces};
use crate::options::{DumpOptions, RestoreOptions};
use crate::procfs::link::NamespaceType;

pub use erased::{Erase, Erased, ErasedNamespaceKind};

/// A namespace that is being dumped; we are in it, if it is none of users.
#[derive(Debug, Clone, Copy)]
pub struct NamespaceDump<'a> {
    /// What the user asked for.
    pub options: &'a DumpOptions,
    /// The root of the tree, by its pid there.
    pub root: i32,
    /// All tasks, by their pids there.
    pub pids: &'a [i32],
    /// The id under which images know the namespace.
    pub id: u32,
    /// All network namespaces of the tree.
    pub spaces: &'a [NetSpace],
    /// All mount namespaces of the tree that are kept.
    pub mounts: &'a [MountSpace],
}

/// A namespace that is being restored.
#[derive(Debug, Clone, Copy)]
pub struct NamespaceRestore<'a> {
    /// What the user asked for.
    pub options: &'a RestoreOptions,
    /// The image set.
    pub images: &'a Images,
    /// All namespaces that the tree has for itself.
    pub types: &'a [NamespaceType],
    /// Network namespaces that the root made beside its own.
    pub spaces: &'a RefCell<Vec<(u32, OwnedFd)>>,
    /// User namespaces below that of the root.
    pub users: &'a RefCell<MadeFiles>,
    /// The id under which images know the namespace.
    pub id: u32,
    /// What `before_birth` opened.
    pub brought: &'a [OwnedFd],
    /// Files that can be opened only while the namespaces are filled, by their ids in the images.
    pub opened: &'a RefCell<Vec<(u32, OwnedFd)>>,
    /// Mount namespaces that other tasks than the root are in, by their ids in the images.
    pub mounts: &'a RefCell<Vec<(u32, OwnedFd)>>,
    /// Masters of pseudo-terminals that something mounted shows, by their numbers.
    pub masters: &'a RefCell<Vec<(u32, OwnedFd)>>,
}

/// One kind of namespace.
pub trait NamespaceKind: 'static {
    /// What it is called in logs, errors, the zoo and the documentation.
    const NAME: &'static str;
    /// What of it is not saved, for users to know.
    const NOT_SAVED: &'static [&'static str] = &[];
    /// Its type.
    const TYPE: NamespaceType;

    /// Finds what stands in the way of a dump.
    fn look(_cx: NamespaceDump<'_>, _problems: &mut Vec<Problem>) {}
    /// Writes its images.
    fn dump(cx: NamespaceDump<'_>, images: &mut NewImages) -> Result<(), Problem>;
    /// Finds what would make a restore fail, before anything is created.
    fn check(_cx: NamespaceRestore<'_>, _problems: &mut Vec<Problem>) {}
    /// Prepares us for the birth of a task in it, and opens what can be seen from outside only.
    fn before_birth(_cx: NamespaceRestore<'_>) -> Result<Vec<OwnedFd>, Problem> {
        Ok(Vec::new())
    }
    /// Acts from outside, when it was made with its first task, `root`, by its pid outside.
    fn act_outside(_cx: NamespaceRestore<'_>, _root: i32) -> Result<(), Problem> {
        Ok(())
    }
    /// Begins, in its first task, when all others have acted from outside.
    fn begin(_cx: NamespaceRestore<'_>) -> Result<(), Problem> {
        Ok(())
    }
    /// Connects it with the outside, when its first task, `root`, has begun.
    fn connect_outside(_cx: NamespaceRestore<'_>, _root: i32) -> Result<(), Problem> {
        Ok(())
    }
    /// Fills it, in its first task.
    fn restore(cx: NamespaceRestore<'_>) -> Result<(), Problem>;
}

/// The id that a task has for its namespace of a type.
pub fn id(ids: &TaskKobjIdsEntry, kind: NamespaceType) -> Option<u32> {
    match kind {
        NamespaceType::Cgroup => ids.cgroup_ns_id,
        NamespaceType::Ipc => ids.ipc_ns_id,
        NamespaceType::Mnt => ids.mnt_ns_id,
        NamespaceType::Net => ids.net_ns_id,
        NamespaceType::Pid => ids.pid_ns_id,
        NamespaceType::Time => ids.time_ns_id,
        NamespaceType::User => ids.user_ns_id,
        NamespaceType::Uts => ids.uts_ns_id,
    }
}

/// Where a task's id for its namespace of a type is.
pub fn id_mut(ids: &mut TaskKobjIdsEntry, kind: NamespaceType) -> &mut Option<u32> {
    match kind {
        NamespaceType::Cgroup => &mut ids.cgroup_ns_id,
        NamespaceType::Ipc => &mut ids.ipc_ns_id,
        NamespaceType::Mnt => &mut ids.mnt_ns_id,
        NamespaceType::Net => &mut ids.net_ns_id,
        NamespaceType::Pid => &mut ids.pid_ns_id,
        NamespaceType::Time => &mut ids.time_ns_id,
        NamespaceType::User => &mut ids.user_ns_id,
        NamespaceType::Uts => &mut ids.uts_ns_id,
    }
}

/// Types of namespaces in the order in which images number them.
const NUMBERED: [NamespaceType; 8] = [
    NamespaceType::Pid,
    NamespaceType::Net,
    NamespaceType::Ipc,
    NamespaceType::Uts,
    NamespaceType::Time,
    NamespaceType::Mnt,
    NamespaceType::User,
    NamespaceType::Cgroup,
];

/// Ids of what the command itself has, by custom of the format.
pub fn our_ids() -> TaskKobjIdsEntry {
    let mut ids = TaskKobjIdsEntry { vm_id: 1, files_id: 1, fs_id: 1, sighand_id: 1, ..Default::default() };
    for (kind, number) in NUMBERED.into_iter().zip(1..) {
        *id_mut(&mut ids, kind) = Some(number);
    }
    ids
}

/// The first id that no namespace of the command or of the root of a tree has.
pub const FIRST_FREE_ID: u32 = 2 * NUMBERED.len() as u32 + 1;

/// Ids of the namespaces of a tree that has its own of these types.
pub fn ids_of_tree(types: &[NamespaceType]) -> TaskKobjIdsEntry {
    let mut ids = our_ids();
    let own = NUMBERED.into_iter().filter(|kind| types.contains(kind));
    for (kind, number) in own.zip(NUMBERED.len() as u32 + 1..) {
        *id_mut(&mut ids, kind) = Some(number);
    }
    ids
}

/// Types of the namespaces that a task has for itself, by its ids and those of the command that dumped it.
pub fn own_types(ids: &TaskKobjIdsEntry, ours: &TaskKobjIdsEntry) -> Vec<NamespaceType> {
    // What old images have no number for, nobody had for itself.
    let is_own = |kind: &NamespaceType| id(ids, *kind).is_some_and(|own| Some(own) != id(ours, *kind));
    NUMBERED.into_iter().filter(is_own).collect()
}

/// Finds what stands in the way of a dump of all namespaces that the tree has for itself.
pub fn look(files: &mut FilesDump<'_>, pids: &[i32], problems: &mut Vec<Problem>) {
    let _never = each(files, pids, |kind, cx| {
        kind.look(cx, problems);
        Ok(())
    });
}

/// Writes the images of all namespaces that the tree has for itself.
pub fn dump(files: &mut FilesDump<'_>, pids: &[i32], images: &mut NewImages) -> Result<(), Problem> {
    each(files, pids, |kind, cx| kind.dump(cx, images))
}

/// Calls `act` for the kind of each namespace that the tree has for itself; and for that of mounts, which knows those of a
/// part of the tree, too.
fn each(
    files: &mut FilesDump<'_>,
    pids: &[i32],
    mut act: impl FnMut(&'static dyn ErasedNamespaceKind, NamespaceDump<'_>) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let options = files.options;
    let mounts = files.state::<MountSpaces>().all().to_vec();
    let spaces = &files.state::<NetSpaces>().0;
    let ids = ids_of_tree(&options.inside.types);
    let is_there = |kind: NamespaceType| {
        options.inside.types.contains(&kind) || (kind == NamespaceType::Mnt && !mounts.is_empty())
    };
    for kind in super::NAMESPACE_KINDS.iter().filter(|kind| is_there(kind.namespace_type())) {
        let id = id(&ids, kind.namespace_type()).unwrap_or_default();
        let (root, mounts) = (options.tree, mounts.as_slice());
        act(*kind, NamespaceDump { options, root, pids, id, spaces, mounts })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_numbered_as_the_field_does() {
        use NamespaceType::{Ipc, Mnt, Net, Pid, Uts};
        let ids = ids_of_tree(&[Mnt, Uts, Pid, Ipc, Net]);
        let own = [Pid, Net, Ipc, Uts, Mnt].map(|kind| id(&ids, kind));
        assert_eq!(own, [9, 10, 11, 12, 13].map(Some));
        assert_eq!(ids.user_ns_id, Some(7));
        assert_eq!(own_types(&ids, &our_ids()), [Pid, Net, Ipc, Uts, Mnt]);
    }
}
