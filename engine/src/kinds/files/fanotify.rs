//! Fanotify groups: `anon_inode:[fanotify]`, with a line in fdinfo for the group and one for each mark.
//!
//! Marks are made again when everything else is done, since a restore opens files that are watched. A group that decides
//! over accesses of others is refused: they, and we, would wait for an answer while it is stopped.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, FdFlag};
use proto::messages::{
    FanotifyFileEntry, FanotifyInodeMarkEntry, FanotifyMarkEntry, FanotifyMountMarkEntry, FdTypes, FileEntry,
    MarkType,
};

use super::watched::{self, Way};
use super::{FdFacts, FileKind, FilesDump, FilesRestore, set_common};
use crate::dump::inspect::read_proc;
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::procfs::fsnotify::{self, FanotifyLine, FanotifyMark, Marked};
use crate::procfs::link::Link;
use crate::procfs::mountinfo::{self, Mount};
use crate::sys::{fanotify, socket};

/// Fanotify groups.
#[derive(Debug)]
pub struct Fanotify;

/// Why a group cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum FanotifyRefusal {
    /// Others wait for it.
    #[error("it decides over accesses of others (permission events), who would wait while it is stopped")]
    Decides,
    /// A mount cannot be reached.
    #[error("it marks {0}, to which no path is known")]
    NoMount(String),
}

impl Explain for FanotifyRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        let text = match self {
            Self::Decides => "remove its marks with permission events first",
            Self::NoMount(_) => "remove the mark first",
        };
        Some(text.to_owned())
    }
}

/// Groups that were made, and what they are to mark.
#[derive(Debug, Default)]
struct Made(Vec<Group>);

#[derive(Debug)]
struct Group {
    fd: OwnedFd,
    /// In the order in which they were made first.
    marks: Vec<(FanotifyMarkEntry, Way)>,
}

// From include/uapi/linux/fanotify.h.
const FAN_MARK_ADD: u32 = 0x1;
const FAN_MARK_DONT_FOLLOW: u32 = 0x4;
const FAN_MARK_MOUNT: u32 = 0x10;
const FAN_MARK_IGNORED_MASK: u32 = 0x20;
const FAN_MARK_IGNORED_SURV_MODIFY: u32 = 0x40;
/// An image has marks of inodes and mounts only: this flag makes one of a mount one of its filesystem.
const FAN_MARK_FILESYSTEM: u32 = 0x100;
const FAN_MARK_EVICTABLE: u32 = 0x200;
const FAN_MARK_IGNORE: u32 = 0x400;
/// `FAN_OPEN_PERM`, `FAN_ACCESS_PERM`, `FAN_OPEN_EXEC_PERM`, `FAN_PRE_ACCESS`.
const PERMISSION_EVENTS: u32 = 0x1_0000 | 0x2_0000 | 0x4_0000 | 0x10_0000;

impl FileKind for Fanotify {
    const NAME: &'static str = "fanotify";
    const NOT_SAVED: &'static [&'static str] = &["events that nobody has read yet"];
    const TYPE: FdTypes = FdTypes::Fanotify;
    type Image = FanotifyFileEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        fd.link() == Link::AnonInode(b"fanotify")
    }

    fn member(entry: &mut FileEntry) -> &mut Option<Box<FanotifyFileEntry>> {
        &mut entry.ffy
    }

    fn dump(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<FanotifyFileEntry, Problem> {
        let fown = fd.owner().while_trying_to("read the owner of its signals")?;
        let (flags, none) = (fd.flags() as u32, Vec::new());
        let mut group = FanotifyFileEntry { id, flags, fown, faflags: 0, evflags: 0, mark: none };
        if socket::queued(fd.dup()?)? > 0 {
            log::warn!("events of {} that nobody has read are not saved", fd.object());
        }
        for line in fd.info.values("fanotify") {
            match fsnotify::fanotify(line).while_trying_to("read what it watches")? {
                FanotifyLine::Group { flags, event_flags } => {
                    (group.faflags, group.evflags) = (flags, event_flags);
                }
                FanotifyLine::Mark(mark) => group.mark.push(describe(cx, fd.pid, &mark)?),
            }
        }
        Ok(group)
    }

    fn check(_cx: &FilesRestore<'_>, image: &FanotifyFileEntry) -> Result<(), Problem> {
        let check = |mark: &FanotifyMarkEntry| match (&mark.ie, &mark.me) {
            (Some(inode), _) => watched::check(mark.s_dev, inode.i_ino, mark.id, &inode.f_handle),
            (None, _) => mount_path(mark).map(|_| ()),
        };
        image.mark.iter().try_for_each(check).about(object)
    }

    fn restore(cx: &mut FilesRestore<'_>, image: &FanotifyFileEntry) -> Result<OwnedFd, Problem> {
        // The group remembers with which flags it was made, FAN_CLOEXEC too, whatever its descriptors have now.
        let fd = fanotify::init(image.faflags, image.evflags).about(object)?;
        nix::fcntl::fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
            .map_err(SysError::of("fcntl(F_SETFD)"))?;
        set_common(fd.as_fd(), image.flags, Some(&image.fown))?;
        let mut marks = Vec::new();
        // The kernel lists the youngest first.
        for mark in image.mark.iter().rev() {
            let way = match &mark.ie {
                Some(inode) => watched::reach(cx, (mark.s_dev, inode.i_ino), mark.id, &inode.f_handle),
                None => mount_path(mark).map(Way::Path),
            };
            marks.push((mark.clone(), way.about(object)?));
        }
        let ours = fd.try_clone().map_err(SysError::io("fcntl(F_DUPFD_CLOEXEC)"))?;
        cx.state::<Made>().0.push(Group { fd: ours, marks });
        Ok(fd)
    }

    fn settle(cx: &mut FilesRestore<'_>) -> Result<(), Problem> {
        std::mem::take(cx.state::<Made>()).0.iter().try_for_each(Group::settle).about(object)
    }
}

fn object() -> Object {
    Object::Named { kind: "file", name: "anon_inode:[fanotify]".into() }
}

fn describe(cx: &mut FilesDump<'_>, pid: i32, mark: &FanotifyMark) -> Result<FanotifyMarkEntry, Problem> {
    if (mark.mask | mark.ignored) & PERMISSION_EVENTS != 0 {
        return Err(Problem::new(FanotifyRefusal::Decides));
    }
    let mut entry = FanotifyMarkEntry {
        id: 0,
        r#type: MarkType::Mount.into(),
        mflags: mark.flags,
        mask: mark.mask,
        ignored_mask: mark.ignored,
        ..FanotifyMarkEntry::default()
    };
    match &mark.on {
        Marked::Inode(inode) => {
            let found = watched::describe(cx, pid, inode)?;
            entry.r#type = MarkType::Inode.into();
            (entry.id, entry.s_dev) = (found.file, inode.device);
            entry.ie = Some(FanotifyInodeMarkEntry { i_ino: inode.number, f_handle: found.handle });
        }
        Marked::Mount(id) => {
            let mount = find_mount(pid, |mount| mount.id == *id as i32);
            entry.me = Some(mount.ok_or_else(|| no_mount(format!("mount {id}")))?);
        }
        Marked::Filesystem(device) => {
            let numbers = watched::device_numbers(*device);
            let mount = find_mount(pid, |mount| mount.dev == numbers);
            entry.me =
                Some(mount.ok_or_else(|| no_mount(format!("filesystem {}:{}", numbers.0, numbers.1)))?);
            entry.mflags |= FAN_MARK_FILESYSTEM;
            entry.s_dev = *device;
        }
    }
    Ok(entry)
}

fn no_mount(what: String) -> Problem {
    Problem::new(FanotifyRefusal::NoMount(what))
}

/// A mount of a task's that is of this sort, and reached by its path: the last one of a place hides the others.
fn find_mount(pid: i32, is: impl Fn(&Mount) -> bool) -> Option<FanotifyMountMarkEntry> {
    let mounts = read_proc(format!("/proc/{pid}/mountinfo"), mountinfo::parse).ok()?;
    let hidden =
        |at: usize, mount: &Mount| mounts.iter().skip(at + 1).any(|m| m.mountpoint == mount.mountpoint);
    let (_, mount) = mounts.iter().enumerate().find(|(at, mount)| is(mount) && !hidden(*at, mount))?;
    let path = String::from_utf8(mount.mountpoint.clone()).ok()?;
    Some(FanotifyMountMarkEntry { mnt_id: mount.id as u32, path: Some(path) })
}

/// Where a marked mount is.
fn mount_path(mark: &FanotifyMarkEntry) -> Result<PathBuf, Problem> {
    let mount = mark.me.as_ref().ok_or_else(|| no_mount("a mount".into()))?;
    let path = mount.path.as_ref().ok_or_else(|| no_mount(format!("mount {}", mount.mnt_id)))?;
    let path = Path::new(OsStr::from_bytes(path.as_bytes()));
    if !path.exists() {
        return Err(no_mount(format!("the mount at {}", path.display())));
    }
    Ok(path.to_owned())
}

impl Group {
    fn settle(&self) -> Result<(), Problem> {
        for (mark, way) in &self.marks {
            let (path, follow) = way.path();
            let on = match (mark.r#type(), mark.mflags & FAN_MARK_FILESYSTEM) {
                (MarkType::Inode, _) => 0,
                (MarkType::Mount, 0) => FAN_MARK_MOUNT,
                (MarkType::Mount, _) => FAN_MARK_FILESYSTEM,
            };
            let kept = mark.mflags & FAN_MARK_EVICTABLE;
            let add = FAN_MARK_ADD | on | kept | if follow { 0 } else { FAN_MARK_DONT_FOLLOW };
            let add_mark = |flags: u32, mask: u32| {
                let done = fanotify::mark(self.fd.as_fd(), add | flags, mask.into(), &path);
                done.about(|| Object::Path(path.clone()))
            };
            if mark.mask != 0 {
                add_mark(0, mark.mask)?;
            }
            if mark.ignored_mask != 0 {
                let new_way = mark.mflags & FAN_MARK_IGNORE;
                let how = if new_way == 0 { FAN_MARK_IGNORED_MASK } else { new_way };
                add_mark(how | mark.mflags & FAN_MARK_IGNORED_SURV_MODIFY, mark.ignored_mask)?;
            }
        }
        Ok(())
    }
}
