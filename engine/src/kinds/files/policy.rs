//! What the user decides about descriptors: which live outside of the tree and are handed in (`--external`,
//! `--inherit-fd`), and which may be lost (`--on-unsupported`). Decisions of a dump are kept in the image set, and told again
//! at restore.

use std::collections::BTreeSet;
use std::os::fd::{BorrowedFd, OwnedFd};

use proto::messages::StasisPolicyEntry;

use super::{FdFacts, FilesDump, FilesRestore, claim};
use crate::error::{Class, Explain, Object, Problem, SysError};
use crate::image::{Images, NewImages};
use crate::options::{FileOptions, Unsupported};
use crate::procfs::link::Link;
use crate::sys::fcntl;

/// Why a resource that lives outside cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum PolicyRefusal {
    /// Nobody handed it in.
    #[error("{0} lived outside of the tree, and was not handed in")]
    NotHandedIn(String),
    /// What should stand for it is not open.
    #[error("fd {fd}, which should stand for {resource}, is not open in this command")]
    NotOpen {
        /// Our descriptor.
        fd: i32,
        /// What it stands for.
        resource: String,
    },
}

impl Explain for PolicyRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::NotHandedIn(resource) => Some(format!(
                "open it as descriptor N of this command, and pass --inherit-fd fd[N]:{resource}"
            )),
            Self::NotOpen { .. } => Some("open it in whatever calls this command".into()),
        }
    }
}

/// Decisions that were made during a dump.
#[derive(Debug, Default)]
struct Decided {
    entries: Vec<StasisPolicyEntry>,
    closed: BTreeSet<u32>,
}

/// The key of an external file, as the user gave it, if a descriptor is one: mount id and inode number, in hexadecimal as
/// in keys that other programs make, or in decimal as fdinfo has them; of a terminal, its device and that of its filesystem.
pub(super) fn external_file(options: &FileOptions, fd: &FdFacts<'_>) -> Option<String> {
    if options.external.is_empty() {
        return None;
    }
    let (mount, inode) = (fd.info.mnt_id, fd.stat.st_ino);
    let mut keys = vec![format!("file[{mount:x}:{inode:x}]"), format!("file[{mount}:{inode}]")];
    if fd.file_type() == libc::S_IFCHR {
        keys.push(format!("tty[{:x}:{:x}]", fd.stat.st_rdev, fd.stat.st_dev));
    }
    options.external.iter().find(|key| keys.contains(key)).cloned()
}

/// Whether the user said that the other end of a pipe is outside.
pub(super) fn is_external_pipe(options: &FileOptions, inode: u64) -> bool {
    let keys = [format!("pipe[{inode}]"), format!("pipe:[{inode}]")];
    options.external.iter().any(|key| keys.contains(key))
}

/// Keeps in the image set that a resource must be handed in.
pub(super) fn note_external(cx: &mut FilesDump<'_>, key: String) {
    let entry = StasisPolicyEntry { external: Some(key), ..StasisPolicyEntry::default() };
    let entries = &mut cx.state::<Decided>().entries;
    if !entries.contains(&entry) {
        entries.push(entry);
    }
}

/// What descriptors of this sort are called in `--on-unsupported`: their kind, or what `/proc` calls them.
pub fn name_of(fd: &FdFacts<'_>) -> String {
    if let Ok(kind) = claim(fd) {
        return kind.name().to_owned();
    }
    match (fd.link(), fd.file_type()) {
        (Link::AnonInode(name), _) => String::from_utf8_lossy(name).into_owned(),
        (Link::Socket(_), _) => "socket".into(),
        (Link::Namespace { .. }, _) => "namespace".into(),
        (_, libc::S_IFCHR | libc::S_IFBLK) => "device".into(),
        _ => "other".into(),
    }
}

/// What the user wants for a descriptor that is refused.
pub(super) fn choice(options: &FileOptions, kind: &str) -> Unsupported {
    let of = |name: &str| options.on_unsupported.iter().rev().find(|(kind, _)| kind == name).map(|(_, c)| *c);
    of(kind).or_else(|| of("any")).unwrap_or(Unsupported::Refuse)
}

/// Keeps in the image set, and tells, what becomes of a descriptor.
pub(super) fn note_lost(
    cx: &mut FilesDump<'_>,
    fd: &FdFacts<'_>,
    kind: &str,
    choice: Unsupported,
    why: &Problem,
) {
    let entry = StasisPolicyEntry {
        pid: Some(fd.pid as u32),
        fd: Some(fd.fd as u32),
        link: Some(String::from_utf8_lossy(&fd.link).into_owned()),
        kind: Some(kind.to_owned()),
        reopened: Some(choice == Unsupported::Reopen),
        cause: Some(why.cause.to_string()),
        external: None,
    };
    log::warn!("{}", describe(&entry));
    cx.state::<Decided>().entries.push(entry);
}

/// Keeps in the image set, and tells, what becomes of something that is known by a name alone.
pub(super) fn note(cx: &mut FilesDump<'_>, name: String, kind: &str, choice: Unsupported, why: &Problem) {
    let entry = StasisPolicyEntry {
        link: Some(name),
        kind: Some(kind.to_owned()),
        reopened: Some(choice == Unsupported::Reopen),
        cause: Some(why.cause.to_string()),
        ..StasisPolicyEntry::default()
    };
    log::warn!("{}", describe(&entry));
    cx.state::<Decided>().entries.push(entry);
}

/// Takes a file out of all tables that it is in.
pub(super) fn close(cx: &mut FilesDump<'_>, id: u32, kind: &str, why: &Problem) {
    let name = why.object.as_ref().map(ToString::to_string).unwrap_or_default();
    note(cx, name, kind, Unsupported::Close, why);
    cx.state::<Decided>().closed.insert(id);
}

/// Whether a file was taken out.
pub(super) fn is_closed(cx: &mut FilesDump<'_>, id: u32) -> bool {
    cx.state::<Decided>().closed.contains(&id)
}

fn describe(entry: &StasisPolicyEntry) -> String {
    let (what, choice) = if entry.reopened() {
        ("opened again by its name, without its state", "reopen")
    } else {
        ("not saved", "close")
    };
    let place = match (entry.pid, entry.fd) {
        (Some(pid), Some(fd)) => format!("process {pid}, fd {fd}: "),
        _ => String::new(),
    };
    let (link, kind, cause) = (entry.link().escape_debug(), entry.kind(), entry.cause());
    format!("{place}{link} is {what}, as --on-unsupported {kind}={choice} asks: {cause}")
}

/// Writes `stasis-policy.img`, if there is anything to say.
pub(super) fn finish(cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
    let entries = std::mem::take(&mut cx.state::<Decided>().entries);
    if entries.is_empty() { Ok(()) } else { images.write(&proto::catalogue::STASIS_POLICY, 0, &entries) }
}

/// What a dump decided.
#[derive(Debug, Default)]
pub struct Policy {
    external: Vec<String>,
}

impl Policy {
    /// Reads `stasis-policy.img`, if there is one, and tells what was lost.
    pub fn read(images: &Images) -> Result<Self, Problem> {
        let image = &proto::catalogue::STASIS_POLICY;
        let mut policy = Self::default();
        if !images.has(image, 0) {
            return Ok(policy);
        }
        for entry in images.read::<StasisPolicyEntry>(image, 0)? {
            match &entry.external {
                Some(key) => policy.external.push(key.clone()),
                None => log::warn!("{}", describe(&entry)),
            }
        }
        Ok(policy)
    }
}

/// Our descriptor that stands for a resource, which may be known by several keys.
pub(super) fn inherited<'a>(cx: &'a FilesRestore<'_>, keys: &[String]) -> Option<BorrowedFd<'a>> {
    // A path may be written without its first slash.
    let same = |key: &String, resource: &str| key == resource || key.strip_prefix('/') == Some(resource);
    let given = &cx.options.inherit_fds;
    let (fd, _) = given.iter().find(|(_, resource)| keys.iter().any(|key| same(key, resource)))?;
    fcntl::borrow(*fd)
}

/// A duplicate of it.
pub(super) fn handed_in(cx: &FilesRestore<'_>, keys: &[String]) -> Result<Option<OwnedFd>, SysError> {
    inherited(cx, keys).map(|fd| fd.try_clone_to_owned().map_err(SysError::io("dup"))).transpose()
}

/// Whether something was said to stand for a resource.
pub(super) fn is_handed_in(cx: &FilesRestore<'_>, key: &str) -> bool {
    let given = &cx.options.inherit_fds;
    given.iter().any(|(_, resource)| resource == key || key.strip_prefix('/') == Some(resource))
}

/// Finds descriptors of ours that are not open, and resources that must be handed in and were not.
pub(super) fn check(cx: &FilesRestore<'_>, problems: &mut Vec<Problem>) {
    for (fd, resource) in &cx.options.inherit_fds {
        if fcntl::borrow(*fd).is_none() {
            let (fd, resource) = (*fd, resource.clone());
            problems.push(Problem::new(PolicyRefusal::NotOpen { fd, resource }));
        }
    }
    for key in cx.policy.external.iter().filter(|key| !is_handed_in(cx, key)) {
        let object = Object::Named { kind: "resource", name: key.clone() };
        problems.push(Problem::new(PolicyRefusal::NotHandedIn(key.clone())).object(object));
    }
}
