//! Descriptors of namespaces: `net:[4026531833]`, as `/proc/PID/ns/net` opens one.
//!
//! In images, one names the namespace by the id that the tasks in it have for it; so it is opened again from the `/proc`
//! of one of them. A namespace without tasks is refused.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use proto::catalogue::{STASIS_USERNS, USERNS};
use proto::messages::{FdTypes, FileEntry, NsFileEntry};

use super::{FdFacts, FileKind, FilesDump, FilesRestore};
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::kinds::namespaces;
use crate::net_spaces;
use crate::pid_spaces;
use crate::procfs::link::{Link, NamespaceType};
use crate::task_spaces;
use crate::user_spaces::{self, MadeUserSpaces};

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

impl FileKind for Namespace {
    const NAME: &'static str = "namespace";
    const TYPE: FdTypes = FdTypes::Ns;
    type Image = NsFileEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        matches!(fd.link(), Link::Namespace { .. })
    }

    fn member(entry: &mut FileEntry) -> &mut Option<Box<NsFileEntry>> {
        &mut entry.nsf
    }

    fn dump(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id_of_file: u32) -> Result<NsFileEntry, Problem> {
        let Link::Namespace { kind, ino } = fd.link() else {
            return Err(Problem::new(super::FileRefusal::NoKind));
        };
        let ns_cflag = kind.clone_flag() as u32;
        if kind == NamespaceType::Net && cx.options.inside.has(kind) {
            let ns_id = net_spaces::id_of_descriptor(cx, fd)?;
            return Ok(NsFileEntry { id: id_of_file, ns_id, ns_cflag, flags: fd.flags() as u32 });
        }
        if kind == NamespaceType::Pid {
            let ns_id = pid_spaces::id_of_link(cx, Path::new(&format!("{}:[{ino}]", kind.name())));
            return Ok(NsFileEntry { id: id_of_file, ns_id, ns_cflag, flags: fd.flags() as u32 });
        }
        if kind == NamespaceType::User {
            let file = File::from(fd.dup()?.try_clone_to_owned().map_err(SysError::io("dup"))?);
            let ns_id = user_spaces::id_of_descriptor(cx, file)?;
            return Ok(NsFileEntry { id: id_of_file, ns_id, ns_cflag, flags: fd.flags() as u32 });
        }
        if task_spaces::TYPES.contains(&kind) {
            let ns_id = task_spaces::id_of_link(cx, kind, Path::new(&format!("{}:[{ino}]", kind.name())));
            return Ok(NsFileEntry { id: id_of_file, ns_id, ns_cflag, flags: fd.flags() as u32 });
        }
        // Of other types, all tasks of a tree are in those of its root; others are refused.
        let roots = nix::sys::stat::stat(format!("/proc/{}/ns/{}", cx.options.tree, kind.name()).as_str());
        let roots = roots.map_err(SysError::of("stat")).while_trying_to("find who is in it")?;
        let empty = || Problem::new(NamespaceRefusal::Empty(kind.name()));
        let ids = namespaces::ids_of_tree(&cx.options.inside.types);
        let ns_id = namespaces::id(&ids, kind).filter(|_| roots.st_ino == ino).ok_or_else(empty)?;
        Ok(NsFileEntry { id: id_of_file, ns_id, ns_cflag, flags: fd.flags() as u32 })
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
    let kind = NamespaceType::ALL.into_iter().find(|kind| kind.clone_flag() as u32 == image.ns_cflag);
    let kind = kind.ok_or_else(none)?;
    if let Some(space) = cx.options.inside.spaces.get(image.ns_id).filter(|_| kind == NamespaceType::Net) {
        return Ok(format!("/proc/self/fd/{}", space.as_raw_fd()));
    }
    if kind == NamespaceType::User
        && cx.images.has(&STASIS_USERNS, 0)
        && cx.images.has(&USERNS, image.ns_id.into())
    {
        let made = cx.peek::<MadeUserSpaces>().and_then(|made| made.0.get(image.ns_id));
        if let Some(space) = made {
            return Ok(format!("/proc/self/fd/{}", space.as_raw_fd()));
        }
    }
    let member = cx.members.of(kind, image.ns_id);
    member.map(|pid| format!("/proc/{pid}/ns/{}", kind.name())).ok_or_else(none)
}
