//! Descriptors of namespaces: `net:[4026531833]`, as `/proc/PID/ns/net` opens one.
//!
//! In images, one names the namespace by the id that the tasks in it have for it; so it is opened again from the `/proc`
//! of one of them. A namespace without tasks is refused.

use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use proto::catalogue::{IDS, PSTREE};
use proto::messages::{FdTypes, FileEntry, NsFileEntry, PstreeEntry, TaskKobjIdsEntry};

use super::{FdFacts, FileKind, FilesDump, FilesRestore};
use crate::dump::sharing;
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::procfs::link::{Link, NamespaceKind};

/// Descriptors of namespaces.
#[derive(Debug)]
pub struct Namespace;

/// Why one cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceRefusal {
    /// Nobody of the tree is in it.
    #[error("it is a {0} namespace that no task of the tree is in")]
    Empty(&'static str),
    /// The images do not say who is in it.
    #[error("no task of the images is in the namespace that it is of (CLONE flag {0:#x})")]
    NoTask(u32),
}

impl Explain for NamespaceRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Empty(_) => Some("close it first".into()),
            Self::NoTask(_) => None,
        }
    }
}

/// The flag of `clone(2)` that makes such a namespace.
fn clone_flag(kind: NamespaceKind) -> u32 {
    /// From `include/uapi/linux/sched.h`.
    const CLONE_NEWTIME: u32 = 0x80;
    let flag = match kind {
        NamespaceKind::Time => return CLONE_NEWTIME,
        NamespaceKind::Cgroup => libc::CLONE_NEWCGROUP,
        NamespaceKind::Ipc => libc::CLONE_NEWIPC,
        NamespaceKind::Mnt => libc::CLONE_NEWNS,
        NamespaceKind::Net => libc::CLONE_NEWNET,
        NamespaceKind::Pid => libc::CLONE_NEWPID,
        NamespaceKind::User => libc::CLONE_NEWUSER,
        NamespaceKind::Uts => libc::CLONE_NEWUTS,
    };
    flag as u32
}

/// The id that a task has for its namespace of a kind.
fn id(ids: &TaskKobjIdsEntry, kind: NamespaceKind) -> Option<u32> {
    match kind {
        NamespaceKind::Cgroup => ids.cgroup_ns_id,
        NamespaceKind::Ipc => ids.ipc_ns_id,
        NamespaceKind::Mnt => ids.mnt_ns_id,
        NamespaceKind::Net => ids.net_ns_id,
        NamespaceKind::Pid => ids.pid_ns_id,
        NamespaceKind::Time => ids.time_ns_id,
        NamespaceKind::User => ids.user_ns_id,
        NamespaceKind::Uts => ids.uts_ns_id,
    }
}

impl FileKind for Namespace {
    const NAME: &'static str = "namespace";
    const TYPE: FdTypes = FdTypes::Ns;
    type Image = NsFileEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        matches!(fd.link(), Link::Namespace { .. })
    }

    fn member(entry: &mut FileEntry) -> &mut Option<NsFileEntry> {
        &mut entry.nsf
    }

    fn dump(_cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id_of_file: u32) -> Result<NsFileEntry, Problem> {
        let Link::Namespace { kind, ino } = fd.link() else {
            return Err(Problem::new(super::FileRefusal::NoKind));
        };
        // All tasks of a tree are in our own namespaces; others are refused.
        let ours = nix::sys::stat::stat(format!("/proc/self/ns/{}", kind.name()).as_str());
        let ours = ours.map_err(SysError::of("stat")).while_trying_to("find who is in it")?;
        let empty = || Problem::new(NamespaceRefusal::Empty(kind.name()));
        let ns_id = id(&sharing::namespace_ids(), kind).filter(|_| ours.st_ino == ino).ok_or_else(empty)?;
        Ok(NsFileEntry { id: id_of_file, ns_id, ns_cflag: clone_flag(kind), flags: fd.flags() as u32 })
    }

    fn check(cx: &FilesRestore<'_>, image: &NsFileEntry) -> Result<(), Problem> {
        find(cx, image).map(|_| ())
    }

    fn restore(cx: &mut FilesRestore<'_>, image: &NsFileEntry) -> Result<OwnedFd, Problem> {
        let path = find(cx, image)?;
        let flags = OFlag::from_bits_retain(image.flags as i32) | OFlag::O_CLOEXEC;
        nix::fcntl::open(path.as_str(), flags, Mode::empty())
            .map_err(SysError::of("open"))
            .about(|| Object::Path(path.into()))
    }
}

/// The path of a namespace, by a task that is in it.
fn find(cx: &FilesRestore<'_>, image: &NsFileEntry) -> Result<String, Problem> {
    let none = || Problem::new(NamespaceRefusal::NoTask(image.ns_cflag));
    let kind =
        NamespaceKind::ALL.into_iter().find(|kind| clone_flag(*kind) == image.ns_cflag).ok_or_else(none)?;
    let tree: Vec<PstreeEntry> = cx.images.read(&PSTREE, 0)?;
    // Zombies have no ids.
    for task in tree.iter().filter(|task| cx.images.has(&IDS, task.pid.into())) {
        let ids: TaskKobjIdsEntry = cx.images.read_single(&IDS, task.pid.into())?;
        if id(&ids, kind) == Some(image.ns_id) {
            return Ok(format!("/proc/{}/ns/{}", task.pid, kind.name()));
        }
    }
    Err(none())
}
